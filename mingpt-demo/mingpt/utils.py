"""What the notebook needs besides model and trainer: a data set of characters, and sampling."""

import torch
from torch.utils.data import Dataset


class CharDataset(Dataset):
    """Windows of a text as pairs (x, y), where y is x one character later.

    With block_size 4, the text "summer" has the windows  summ -> umme  and  umme -> mmer.

    `chars` is the vocabulary (a character's id is its place in it), `stride` the step between two windows.
    """

    def __init__(self, text, block_size, chars, stride=1):
        if len(text) <= block_size:
            raise ValueError(f"a text of {len(text)} characters has no window of {block_size + 1}")
        self.stoi = {c: i for i, c in enumerate(chars)}
        self.itos = dict(enumerate(chars))
        self.block_size, self.stride = block_size, stride
        self.ids = self.encode(text)  # (len(text),)

    def __len__(self):
        return (len(self.ids) - self.block_size - 1) // self.stride + 1

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        window = self.ids[i * self.stride :][: self.block_size + 1]  # (block_size + 1,)
        return window[:-1], window[1:]

    def encode(self, text):
        """Ids of a text: (len(text),)."""
        return torch.tensor([self.stoi[c] for c in text])

    def decode(self, ids):
        """The text of a row of ids."""
        return "".join(self.itos[int(i)] for i in ids)


@torch.no_grad()
def sample(model, x, steps, temperature=1.0, sample=False, top_k=None):
    """Continues each row of x by `steps` characters: (B, T) -> (B, T + steps).

    sample: draw from the distribution (True) or always take the likeliest character (False).
    temperature: below 1 the likely characters get likelier, above 1 everything evens out.
    top_k: draw only among the k likeliest characters.
    """
    model.eval()
    for _ in range(steps):
        logits, _ = model(x[:, -model.config.block_size :])  # (B, T, vocab_size)
        logits = logits[:, -1, :] / temperature  # (B, vocab_size): only the last position's guess is new
        if top_k is not None:
            worst_kept = logits.topk(top_k).values[:, -1:]  # (B, 1)
            logits = logits.masked_fill(logits < worst_kept, float("-inf"))
        probs = logits.softmax(dim=-1)  # (B, vocab_size)
        chosen = torch.multinomial(probs, 1) if sample else probs.argmax(dim=-1, keepdim=True)  # (B, 1)
        x = torch.cat([x, chosen], dim=1)  # (B, T + 1)
    return x

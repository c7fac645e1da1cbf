"""What the notebook needs besides model and trainer: a data set of characters, and sampling."""

import math

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


def hold_out(text, size, block_size):
    """Cuts a text in two, to train on and to test on; about `size` characters are held out, at its end.

    The cut is made behind a blank line if there is one near by, else behind the end of a line, else between words,
    else anywhere. Both parts have a window of block_size + 1 characters at least.
    """
    least = block_size + 1
    if len(text) < 2 * least:
        raise ValueError(
            f"the text has {len(text)} characters, too few: with block_size {block_size} it takes {2 * least}, "
            f"a window of {least} to train on and one to test on"
        )
    last = len(text) - least  # where the cut can be, at most
    wanted = min(max(len(text) - size, least), last)
    for mark in ("\n\n", "\n", " "):
        near = range(max(least, wanted - size // 2), min(last, wanted + size // 2) + 1)
        cuts = [cut for cut in near if text.startswith(mark, cut - len(mark))]
        if cuts:
            wanted = min(cuts, key=lambda cut: abs(cut - wanted))
            break
    return text[:wanted], text[wanted:]


@torch.no_grad()
def sample(model, x, steps, temperature=1.0, sample=False, top_k=None):
    """Continues each row of x by `steps` characters: (B, T) -> (B, T + steps).

    sample: draw from the distribution (True) or always take the likeliest character (False).
    temperature: below 1 the likely characters get likelier, above 1 everything evens out; 0 takes the likeliest.
    top_k: draw only among the k likeliest characters.
    """
    if x.size(1) < 1 or steps < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        given = f"{x.size(1)} characters, steps={steps}, temperature={temperature}, top_k={top_k}"
        raise ValueError(f"{given}: at least 1, 0, 0 and 1 are expected")
    was_training = model.training
    model.eval()
    try:
        for _ in range(steps):
            logits, _ = model(x[:, -model.config.block_size :])  # (B, T, vocab_size)
            logits = logits[:, -1, :]  # (B, vocab_size): only the last position's guess is new
            if sample and temperature > 0:
                if top_k is not None:
                    worst_kept = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]  # (B, 1)
                    logits = logits.masked_fill(logits < worst_kept, float("-inf"))
                probs = (logits / temperature).softmax(dim=-1)  # (B, vocab_size)
                chosen = torch.multinomial(probs, 1)  # (B, 1)
            else:
                chosen = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            x = torch.cat([x, chosen], dim=1)  # (B, T + 1)
    finally:
        model.train(was_training)
    return x

"""Many questions answered at once: greedily, each as `utils.sample` answers it alone."""

from collections.abc import Sequence

import torch

from dataset import CharCorruptionDataset
from model import GPT
from utils import MASK_CHAR, UserError

STEPS = 32  # characters an answer may have
ROWS = 64  # questions a group
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # all that some reader takes for the end of a line


@torch.no_grad()
def continue_rows(model: GPT, prompts: Sequence[list[int]], steps: int, stop: int, rows: int = ROWS) -> list[list[int]]:
    """The likeliest continuation of each prompt, up to and with `stop`, at most `steps` tokens.

    Attention does not look to the right, so rows of any length can be filled up on the right and read at their own
    last position. Prompts of like length go together; rows that are finished leave. Text that outgrows the block is
    continued from its last block_size tokens. A prompt has at least one token; `rows` a group bounds the memory.
    """
    device, block = model.head.weight.device, model.block_size
    texts = [list(prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for first in range(0, len(order), rows):
        group = order[first : first + rows]
        for _ in range(steps):
            seen = [torch.tensor(texts[i][-block:]) for i in group]
            last = torch.tensor([len(text) - 1 for text in seen], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(seen, batch_first=True).to(device)  # (B, T)
            logits, _ = model(padded)  # (B, T, V)
            new = logits[torch.arange(len(group), device=device), last].argmax(-1).tolist()  # B of (B, V)
            for i, token in zip(group, new, strict=True):
                texts[i].append(token)
            group = [i for i, token in zip(group, new, strict=True) if token != stop]
            if not group:
                break
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def answer(model: GPT, corpus: CharCorruptionDataset, questions: list[str], where: str, precision: str) -> list[str]:
    """The model's greedy answers, each on one line whatever it emits.

    A character that the corpus lacks is left out of its question, and a line says how often. UserError: a question
    does not fit the block.
    """
    prompts, mended = [], 0
    for number, question in enumerate(questions, 1):
        known = "".join(c for c in question if c in corpus.stoi)
        mended += known != question
        if len(known) + 1 > corpus.block_size:
            raise UserError(
                f"{where}, line {number}: the question has {len(question)} characters, "
                f"{corpus.block_size - 1} fit; shorten it"
            )
        prompts.append([corpus.stoi[c] for c in known + MASK_CHAR])
    if mended:
        count = "1 question has" if mended == 1 else f"{mended} questions have"
        print(f"{where}: {count} characters that the corpus lacks; asked without them")
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(model.head.weight.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            rows = continue_rows(model, prompts, STEPS, corpus.stoi[MASK_CHAR])
    finally:
        model.train(was_training)
    texts = ("".join(corpus.itos[t] for t in row).split(MASK_CHAR)[0] for row in rows)
    return [" ".join(text.split()) if set(LINE_ENDS + "\t") & set(text) else text for text in texts]

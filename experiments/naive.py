"""The handout's computation as a student would write it: what speed.py measures against.

Padded batches, float32, attention written out over the whole block, items made one by one in Python,
answers one at a time without a cache. The model has the parameter names of `src/model.py`, so that
both compute from the same state dict; the tests hold the two to the same loss and gradients.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

MASK, PAD = 1, 0


class NaiveAttention(nn.Module):
    """Causal self-attention over padded rows."""

    def __init__(self, n_embd: int, n_head: int, block_size: int, rope: bool, dropout: float):
        super().__init__()
        self.n_head, self.rope = n_head, rope
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.proj = nn.Linear(n_embd, n_embd)
        self.attn_drop, self.resid_drop = nn.Dropout(dropout), nn.Dropout(dropout)
        self.register_buffer("mask", torch.tril(torch.ones(block_size, block_size)).view(1, 1, block_size, block_size))
        if rope:
            size = n_embd // n_head
            theta = 1 / 10000 ** (torch.arange(0, size, 2).float() / size)
            angle = torch.outer(torch.arange(block_size).float(), theta)
            self.register_buffer("rope_cache", torch.stack((angle.cos(), angle.sin()), -1))

    def turn(self, x: Tensor) -> Tensor:
        """RoPE as a product of complex numbers: (B, nh, T, hs) -> (B, nh, T, hs)."""
        turn = torch.view_as_complex(self.rope_cache[: x.size(2)])
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turn).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, self.n_head, -1).transpose(1, 2).chunk(3, dim=-1)  # (B, nh, T, hs)
        if self.rope:
            q, k = self.turn(q), self.turn(k)
        att = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))  # (B, nh, T, T)
        att = att.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        y = self.attn_drop(F.softmax(att, dim=-1)) @ v  # (B, nh, T, hs)
        return self.resid_drop(self.proj(y.transpose(1, 2).reshape(b, t, c)))


class NaiveBlock(nn.Module):
    """A transformer block over padded rows."""

    def __init__(self, n_embd: int, n_head: int, block_size: int, rope: bool, dropout: float):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = NaiveAttention(n_embd, n_head, block_size, rope, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class NaiveGPT(nn.Module):
    """The homework's model over padded batches."""

    def __init__(self, config):
        super().__init__()
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.rope = config.rope
        if not self.rope:
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = nn.Dropout(config.embd_pdrop)
        shape = (config.n_embd, config.n_head, config.block_size, config.rope, config.resid_pdrop)
        self.blocks = nn.Sequential(*(NaiveBlock(*shape) for _ in range(config.n_layer)))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x = self.tok_emb(idx)
        if not self.rope:
            x = x + self.pos_emb[:, : idx.size(1)]
        logits = self.head(self.ln_f(self.blocks(self.drop(x))))
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1), ignore_index=PAD)


def naive_item(document: str, block_size: int, stoi: dict[str, int]) -> tuple[Tensor, Tensor]:
    """One example of span corruption, with Python's strings and random numbers."""
    document = document[: random.randint(4, int(block_size * 7 / 8))]
    n = len(document)
    span = random.randint(1, max(1, (n + random.randint(0, 1)) // 2 - 1))
    start = random.randint(0, n - span)
    mask, pad = "\u2047", "\u25a1"
    text = document[:start] + mask + document[start + span :] + mask + document[start : start + span] + mask
    ids = [stoi[c] for c in text + pad * (block_size + 1 - len(text))]
    return torch.tensor(ids[:-1]), torch.tensor(ids[1:])


@torch.no_grad()
def naive_answer(model: nn.Module, prompt: Tensor, steps: int = 32) -> list[int]:
    """The handout's way to answer: the whole text through the model for every new character."""
    x = prompt[None]
    for _ in range(steps):
        logits, _ = model(x)
        x = torch.cat((x, logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return x[0, len(prompt) :].tolist()

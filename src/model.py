"""The GPT of the homework: a stack of pre-LayerNorm transformer blocks over characters.

It has the structure of minGPT's. A padded batch goes in; logits and loss come out. Training is in `trainer.py`,
generation in `utils.py`.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from attention import CausalSelfAttention


@dataclass
class GPTConfig:
    """Size and kind of a model."""

    vocab_size: int  # characters, PAD and MASK included
    block_size: int  # longest row the model can read
    n_layer: int = 4
    n_head: int = 8  # heads per layer
    n_embd: int = 256  # width, a multiple of n_head
    rope: bool = False  # rotary positions in every layer, or learned ones at the bottom
    embd_pdrop: float = 0.1  # dropout after the embedding
    resid_pdrop: float = 0.1  # dropout on each residual branch
    attn_pdrop: float = 0.1  # dropout on the attention weights


class Block(nn.Module):
    """x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x))."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.mlp = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd),
            nn.GELU(),
            nn.Linear(4 * config.n_embd, config.n_embd),
            nn.Dropout(config.resid_pdrop),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """Characters in, logits of the next character out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = copy.copy(config)  # the caller may change theirs for the next model
        self.rope = config.rope
        self.block_size = config.block_size
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        if not self.rope:  # [part g] rotary positions are applied inside attention instead
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = nn.Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """N(0, 0.02) for every matrix, 0 for every bias, the identity for LayerNorm (minGPT, GPT-2).

        Learned positions start at 0.
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_block_size(self) -> int:
        """The longest row that the model reads."""
        return self.block_size

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits of the next character at every position, and the mean loss over those with a target.

        Args:
            idx: (B, T) token ids.
            targets: (B, T); 0 (PAD) is not counted.

        Returns:
            logits: (B, T, V).
            loss: a scalar, None without targets; NaN if no target counts.

        Raises:
            ValueError: if a row is longer than the block.
        """
        if (T := idx.size(1)) > self.block_size:
            raise ValueError(f"a row of {T} tokens does not fit the model's block of {self.block_size}")
        x = self.tok_emb(idx)  # (B, T) -> (B, T, C)
        if not self.rope:
            x = x + self.pos_emb[:, :T]  # (B, T, C) + (1, T, C)
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)  # (B, T, C)
        logits = self.head(self.ln_f(x))  # (B, T, C) -> (B, T, V)
        if targets is None:
            return logits, None
        # (B T, V) against (B T,)
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)).float(), targets.reshape(-1), ignore_index=0)
        return logits, loss

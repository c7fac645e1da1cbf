"""The GPT of the homework: a stack of pre-LayerNorm transformer blocks over characters.

A fork of minGPT's model. It computes on packed streams (`packing.py`): a padded batch is packed at
the door and its logits are laid out again on the way back, so there is one way through the model.
Training is left to `trainer.py`, generation to `utils.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from attention import CausalSelfAttention, Dropout, KVCache
from packing import Rows, pack, supervised_lengths


@dataclass(frozen=True)
class GPTConfig:
    """Size and kind of a model.

    Attributes:
        vocab_size: number of characters, PAD and MASK included.
        block_size: longest row the model can read.
        n_layer, n_head, n_embd: depth, heads a layer, width (a multiple of n_head).
        rope: rotary positions in every layer (True) or learned ones at the bottom (False).
        embd_pdrop, resid_pdrop, attn_pdrop: dropout after the embedding, on each branch, on attention.
    """

    vocab_size: int
    block_size: int
    n_layer: int = 4
    n_head: int = 8
    n_embd: int = 256
    rope: bool = False
    embd_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    attn_pdrop: float = 0.1


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
            Dropout(config.resid_pdrop),
        )

    def forward(self, x: Tensor, rows: Rows | None = None, cache: KVCache | None = None) -> Tensor:
        """(N, C) -> (N, C), or (B, T, C) -> (B, T, C) without `rows`."""
        x = x + self.attn(self.ln1(x), rows, cache)
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """Characters in, logits of the next character out."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.block_size = config.block_size
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        if not config.rope:  # [part g] rotary positions act inside attention instead
            self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        """N(0, 0.02) for every matrix, 0 for every bias, the identity for LayerNorm (minGPT, GPT-2)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def get_block_size(self) -> int:
        """The longest row that the model reads."""
        return self.block_size

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        rows: Rows | None = None,
        caches: list[KVCache] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of the next character at every position, and the mean loss over those with a target.

        Args:
            idx: (B, T) token ids, padded; or (N,), packed as `rows` says.
            targets: the shape of idx; 0 (PAD) is not counted.
            rows: the layout of a packed idx.
            caches: one a layer, for generation.

        Returns:
            logits: (B, T, V) or (N, V). Of a padded batch with targets, positions behind a row's last
                target are not computed, and their logits are 0.
            loss: a scalar, None without targets.

        Raises:
            ValueError: if a row is longer than the block.
        """
        if rows is None:
            return self._forward_padded(idx, targets)
        x = self.tok_emb(idx)  # (N, C)
        if not self.config.rope:
            x = x + self.pos_emb[0, rows.position]
        x = self.drop(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, rows, None if caches is None else caches[layer])
        logits = self.head(self.ln_f(x))  # (N, V)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.float(), targets, ignore_index=0)

    def _forward_padded(self, idx: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Pack a padded batch, run, and lay the logits out as (B, T, V)."""
        b, t = idx.shape
        if t > self.block_size:
            raise ValueError(f"a row of {t} tokens does not fit the model's block of {self.block_size}")
        full = torch.full((b,), t, device=idx.device)
        lengths = full if targets is None else supervised_lengths(targets)
        tokens, packed_targets, rows, order = pack(idx, lengths, targets)
        packed, loss = self(tokens, packed_targets, rows)
        logits = packed.new_zeros(b, t, packed.size(-1))
        logits[order[rows.row], rows.position] = packed
        return logits, loss

    def parameter_groups(self, weight_decay: float, decay_all: bool = False) -> list[dict]:
        """AdamW's two groups: matrices that multiply are decayed; biases, LayerNorm and embeddings not.

        Args:
            weight_decay: of the first group.
            decay_all: everything but the biases is decayed. The course's trainer does this: minGPT's rule is
                meant, but its test for names does not know ln1, ln2, ln_f, tok_emb and pos_emb.
        """
        decayed = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        if decay_all:
            decayed = {id(p) for name, p in self.named_parameters() if not name.endswith("bias")}
        return [
            {"params": [p for p in self.parameters() if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters() if id(p) not in decayed], "weight_decay": 0.0},
        ]

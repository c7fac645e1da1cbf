"""Causal self-attention, part (b), and rotary position embeddings, part (g).

One attention layer, as the handout describes it. The blocks around it and the learned positions are in `model.py`.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

# ---------------------------------------------------------------- [part g] rotary position embeddings


def precompute_rotary_emb(dim: int, max_positions: int) -> Tensor:
    """cos(t theta_i) and sin(t theta_i), theta_i = 10000^(-2(i-1)/dim), i = 1 .. dim/2.

    Handout equation (1); RoFormer (Su et al. 2024) equation (15).

    Args:
        dim: size of the vectors to rotate, that of one HEAD and not of the embedding; even.
        max_positions: positions t = 0 .. max_positions - 1.

    Returns:
        (max_positions, dim/2, 2), real: a complex buffer would break under DataParallel and NCCL.

    Raises:
        ValueError: if dim is odd.
    """
    if dim % 2:
        raise ValueError(f"rotary embeddings rotate pairs of features: dim must be even, not {dim}")
    theta = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (dim/2,)
    angle = torch.arange(max_positions, dtype=torch.float64)[:, None] * theta  # (max_positions, dim/2)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


def apply_rotary_emb(x: Tensor, rope_cache: Tensor) -> Tensor:
    """Rotate each pair of features of the vector at position t by the angle t theta_i.

    A pair (x1, x2), read as x1 + i x2, is multiplied by cos + i sin: handout equation (2). Computed in float32.

    Args:
        x: (..., T, hs), queries or keys, or both.
        rope_cache: (>= T, hs/2, 2), cos and sin; row t belongs to x[..., t, :].

    Returns:
        (..., T, hs), the dtype of x.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (..., T, hs) -> (..., T, hs/2)
    rotation = torch.view_as_complex(rope_cache[: x.size(-2)])  # (T, hs/2)
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)  # (..., T, hs/2, 2) -> (..., T, hs)


# ---------------------------------------------------------------- [part b] causal self-attention


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and the positions before it."""

    mask: Tensor  # (1, 1, block_size, block_size)
    rope_cache: Tensor  # (block_size, hs/2, 2), for rope only

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd={config.n_embd} is not a multiple of n_head={config.n_head}")
        self.n_head, self.rope = config.n_head, config.rope
        # queries, keys and values of all heads in one product
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.attn_drop = nn.Dropout(config.attn_pdrop)
        self.resid_drop = nn.Dropout(config.resid_pdrop)
        # 1 where the query at t (row) may look at the key at s (column), that is s <= t
        mask = torch.tril(torch.ones(config.block_size, config.block_size))
        self.register_buffer("mask", mask.view(1, 1, config.block_size, config.block_size))
        if self.rope:  # [part g] for the vectors of one head: hs, not n_embd
            head_size = config.n_embd // config.n_head
            self.register_buffer("rope_cache", precompute_rotary_emb(head_size, config.block_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.size()
        nh, hs = self.n_head, C // self.n_head
        # 1. queries, keys and values of every head
        qkv = self.qkv(x).view(B, T, nh, 3, hs)  # (B, T, 3 C) -> (B, T, nh, 3, hs)
        q, k, v = qkv.permute(3, 0, 2, 1, 4).unbind()  # each (B, nh, T, hs)
        # 2. [part g] rotate queries and keys by their positions
        if self.rope:
            q, k = apply_rotary_emb(torch.stack((q, k)), self.rope_cache)  # (2, B, nh, T, hs)
        # 3. the score of each query with each key
        att = (q / math.sqrt(hs)) @ k.transpose(-2, -1)  # (B, nh, T, hs) x (B, nh, hs, T) -> (B, nh, T, T)
        # 4. no query sees the future: log 1 = 0, log 0 = -inf (adding was quicker than masked_fill)
        att = att + self.mask[:, :, :T, :T].log().type_as(att)  # (B, nh, T, T) + (1, 1, T, T)
        # 5. scores become weights; the dtype keeps autocast from computing this in float32
        att = self.attn_drop(F.softmax(att, dim=-1, dtype=att.dtype))  # (B, nh, T, T)
        # 6. the weighted mean of the values, heads side by side, projected
        y = (att @ v).transpose(1, 2).reshape(B, T, C)  # (B, nh, T, T) x (B, nh, T, hs) -> (B, T, C)
        return self.resid_drop(self.proj(y))

"""Causal self-attention with learned positions (vanilla) or rotary ones (RoPE): parts (b) and (g).

Works on the packed stream of `packing.py`: the projections see every real position once, the scores
are computed per group of rows. Where positions come from and what surrounds the layer is `model.py`'s.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from packing import Rows, to_cells, to_stream

# ---------------------------------------------------------------- [part g] rotary position embeddings


def precompute_rotary_emb(dim: int, max_positions: int) -> Tensor:
    """cos(t theta_i) and sin(t theta_i), theta_i = 10000^(-2(i-1)/dim), i = 1 .. dim/2.

    Handout equation (1); RoFormer (Su et al. 2024) equation (15).

    Args:
        dim: size of the vectors to rotate: of one HEAD, not of the embedding. Even.
        max_positions: positions t = 0 .. max_positions - 1.

    Returns:
        (max_positions, dim/2, 2), real: a complex buffer would break under NCCL.

    Raises:
        ValueError: if dim is odd.
    """
    if dim % 2:
        raise ValueError(f"rotary embeddings turn pairs of features: dim must be even, not {dim}")
    theta = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (dim/2,)
    angle = torch.arange(max_positions, dtype=torch.float64)[:, None] * theta  # (max_positions, dim/2)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float()


def apply_rotary_emb(x: Tensor, rope_cache: Tensor) -> Tensor:
    """Turn each pair of features of the vector at position t by the angle t theta_i.

    A pair (x1, x2), read as x1 + i x2, is multiplied by cos + i sin: handout equation (2). Computed in
    float32. Complex numbers live in here alone (see `precompute_rotary_emb`).

    Args:
        x: (B, nh, T, hs), queries or keys.
        rope_cache: (>= T, hs/2, 2), cos and sin; row t belongs to x[:, :, t].

    Returns:
        (B, nh, T, hs), the dtype of x.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # (B, nh, T, hs/2)
    turn = torch.view_as_complex(rope_cache[: x.size(2)].contiguous())  # (T, hs/2)
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


# ---------------------------------------------------------------- dropout


class _Dropout(torch.autograd.Function):
    """Dropout whose random numbers are 15 bits each, four of them from one 64-bit draw of numpy's.

    On a CPU torch draws a number per element, and multiplies by a mask of another type; both cost more
    than the layer around them. Here the mask is an integer of all ones or all zeros that is laid over the
    bits of x. The probability is p rounded to 1/32768, and the scale is that of the rounded p. Torch's
    random numbers seed each draw, so that their state decides all.
    """

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        dropped = round(p * 32768)
        source = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
        draws = source.integers(0, 2**64, size=(x.numel() + 3) // 4, dtype=np.uint64)
        bits = torch.from_numpy(draws.view(np.int16))[: x.numel()].view(x.shape).bitwise_and_(0x7FFF)  # 0 .. 32767
        # dropped - 1 - bits is negative where bits >= dropped; its sign fills the mask: -1, all ones, to keep
        mask = bits.neg_().add_(dropped - 1).bitwise_right_shift_(15)
        ctx.save_for_backward(mask)
        ctx.scale = 32768 / (32768 - dropped)
        return _Dropout.masked(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (mask,) = ctx.saved_tensors
        return _Dropout.masked(grad, mask).mul_(ctx.scale), None

    @staticmethod
    def masked(x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask is -1, 0 where it is 0."""
        same_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        return (x.contiguous().view(same_size) & mask.to(same_size)).view(x.dtype)


class Dropout(nn.Dropout):
    """nn.Dropout, with cheaper random numbers on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        if x.device.type == "cpu":
            return _Dropout.apply(x, self.p)
        return super().forward(x)


# ---------------------------------------------------------------- [part b] causal self-attention


class KVCache:
    """Keys and values of the positions that a layer has seen, for generation.

    Attributes:
        k, v: (B, nh, capacity, hs); row b is filled up to its own length.
    """

    def __init__(self, rows: int, n_head: int, capacity: int, head_size: int, like: Tensor):
        self.k = like.new_zeros(rows, n_head, capacity, head_size)
        self.v = torch.zeros_like(self.k)

    def write(self, k: Tensor, v: Tensor, rows: Rows) -> None:
        """Store the keys and values (N, nh, hs) of new positions."""
        self.k[rows.row, :, rows.position] = k.to(self.k.dtype)
        self.v[rows.row, :, rows.position] = v.to(self.v.dtype)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices)."""
        self.k, self.v = self.k[rows], self.v[rows]


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and what stands before it."""

    def __init__(self, config):
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd={config.n_embd} is not a multiple of n_head={config.n_head}")
        self.n_head = config.n_head
        head_size = config.n_embd // config.n_head
        # Key, query and value of all heads: the output is viewed as (nh, 3 hs) and split into q, k, v.
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.attn_drop = Dropout(config.attn_pdrop)
        self.resid_drop = Dropout(config.resid_pdrop)
        # 1 where query (row) t may look at key (column) s, that is s <= t.
        mask = torch.tril(torch.ones(config.block_size, config.block_size))
        self.register_buffer("mask", mask.view(1, 1, config.block_size, config.block_size))
        self.rope = config.rope
        if self.rope:
            # [part g] the cache turns queries and keys of one head: hs, not n_embd
            self.register_buffer("rope_cache", precompute_rotary_emb(head_size, config.block_size))

    def forward(self, x: Tensor, rows: Rows | None = None, cache: KVCache | None = None) -> Tensor:
        """Attend within each row.

        Args:
            x: (N, C), packed as `rows` says; or (B, T, C) without `rows`, all rows T long.
            rows: the layout of the stream.
            cache: keys and values of earlier positions; the new ones are added to it.

        Returns:
            the shape of x.
        """
        if rows is None:
            lengths = torch.full((x.size(0),), x.size(1), device=x.device)
            return self(x.flatten(0, 1), Rows.of(lengths)).view(x.shape)
        qkv = self.qkv(x).view(len(x), self.n_head, 3, -1)  # (N, nh, 3, hs): q, k, v of every head
        if cache is not None:
            if self.rope:
                # [part g] turn before storing, by the place that each position has in its row
                qk = qkv[:, :, :2].flatten(1, 2).transpose(0, 1)[None]  # (1, 2 nh, N, hs)
                qk = apply_rotary_emb(qk, self.rope_cache[rows.position])[0].transpose(0, 1)
                qkv = torch.cat((qk.unflatten(1, (-1, 2)), qkv[:, :, 2:]), dim=2)
            cache.write(qkv[:, :, 1], qkv[:, :, 2], rows)
            reach = to_cells(rows.position[:, None], rows)[:, 0]  # (cells,) what a query may see
        blocks = to_cells(qkv.flatten(1), rows).split([g.stop - g.start for g in rows.groups])  # each (b T, 3 C)
        out = []
        for g, block in zip(rows.groups, blocks, strict=True):
            block = block.view(g.size, g.width, self.n_head, 3, -1)
            qk, v = block.permute(3, 0, 2, 1, 4).contiguous().split((2, 1))  # (2 or 1, b, nh, T, hs)
            visible = None
            if self.rope and cache is None:
                # [part g] turn queries and keys; a row's first position is 0
                qk = apply_rotary_emb(qk.flatten(0, 1), self.rope_cache).view(qk.shape)
            q, k, v = qk[0], qk[1], v[0]  # each (b, nh, T, hs)
            if cache is not None:
                last = slice(g.first, g.first + g.size)
                query_reach = reach[g.start : g.stop].view(g.size, 1, g.width, 1)
                keys = int(query_reach.max()) + 1
                k, v = (kept[last, :, :keys].to(q.dtype) for kept in (cache.k, cache.v))
                visible = torch.arange(keys, device=x.device) <= query_reach  # (b, 1, T, keys)
            y = self.attend(q, k, v, visible)  # (b, nh, T, hs)
            out.append(y.transpose(1, 2).reshape(g.stop - g.start, -1))  # (b T, C)
        return self.resid_drop(self.proj(to_stream(torch.cat(out), rows)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(hs)) v over the visible keys.

        On a GPU it is PyTorch's fused kernel; on a CPU that kernel has no dropout and a slow
        gradient, and the plain formula is quicker.

        Args:
            q: (B, nh, T, hs); k, v: (B, nh, S, hs).
            visible: (B, 1, T, S), False where a query may not look; None: it sees itself and what
                stands before it.

        Returns:
            (B, nh, T, hs)
        """
        if q.device.type == "cuda":
            p = self.attn_drop.p if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, visible, dropout_p=p, is_causal=visible is None)
        if visible is None:
            visible = self.mask[0, 0, : q.size(-2), : q.size(-2)] != 0  # (T, T)
        hidden = torch.zeros_like(visible, dtype=q.dtype).masked_fill_(~visible, float("-inf"))
        if hidden.ndim == 4:
            hidden = hidden.expand(q.size(0), q.size(1), -1, -1).flatten(0, 1)  # (B nh, T, S)
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # (B nh, T or S, hs)
        with torch.autocast(q.device.type, enabled=False):  # or softmax would leave bfloat16 and come back
            # hidden + q k^T / sqrt(hs): (B nh, T, hs) x (B nh, hs, S) -> (B nh, T, S)
            scores = torch.baddbmm(hidden, q, k.transpose(-2, -1), alpha=1 / math.sqrt(q.size(-1)))
            y = self.attn_drop(F.softmax(scores, dim=-1)) @ v  # (B nh, T, S) x (B nh, S, hs)
        return y.unflatten(0, (-1, self.n_head))

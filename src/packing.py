"""Packed batches: a batch of rows of unequal length as one stream of tokens without padding.

A padded batch of this homework is less than half text. Everything in a transformer but attention
treats each position on its own, so the model runs on the stream of the N real positions, and only
attention lays them out in rows again (and, so that a short row does not pay for a long one, in a few
groups of rows of similar length). `Rows` describes the layout; `pack` makes it from a padded batch.
What the positions mean, and what is computed on them, is left to `model.py` and `attention.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Rows of a group: small groups waste less padding in attention, large ones make better matrix products.
ROWS_PER_GROUP = 16
# Widths of groups are rounded up to this. A CPU's matrix library prepares (and keeps) code for every
# shape that it meets: with few shapes this happens once, not at every step.
WIDTH_STEP = 8


@dataclass(frozen=True)
class Group:
    """Rows that attention treats as one padded block of (size, width) cells.

    Attributes:
        first, size: the rows first .. first + size - 1 of the packed order.
        start, stop: its cells in the layout of all groups, stop - start = size * width.
        width: length of its longest row, rounded up.
    """

    first: int
    size: int
    start: int
    stop: int
    width: int


@dataclass(frozen=True)
class Rows:
    """Where the N positions of a packed stream stand.

    Attributes:
        row: (N,) row of each position, in the packed order (longest row first).
        position: (N,) place of each position in its row, from 0 (from `past` with a cache).
        cell: (N,) index of each position among the cells of all groups, one padded block after another.
        groups: the blocks.
        last: (B,) index in the stream of each row's last position.
    """

    row: Tensor
    position: Tensor
    cell: Tensor
    groups: tuple[Group, ...]
    last: Tensor

    @property
    def cells(self) -> int:
        """Number of cells in all groups, padding included."""
        return self.groups[-1].stop

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Everything but the groups."""
        return self.row, self.position, self.cell, self.last

    def to(self, device: torch.device | str) -> Rows:
        """The same layout with its tensors on another device."""
        row, position, cell, last = (t.to(device, non_blocking=True) for t in self.tensors)
        return Rows(row, position, cell, self.groups, last)

    @staticmethod
    def of(
        lengths: Tensor, past: Tensor | None = None, rows_per_group: int = ROWS_PER_GROUP, width: int | None = None
    ) -> Rows:
        """The layout of rows with these lengths, which must not increase.

        Args:
            lengths: (B,) number of positions in each row, longest first.
            past: (B,) number of positions of each row that a cache holds already.
            rows_per_group: rows that share one padded block.
            width: of every block; by default each block's longest row decides.
        """
        device = lengths.device
        count = torch.arange(len(lengths), device=device)
        ends = lengths.cumsum(0)
        row = count.repeat_interleave(lengths)  # (N,)
        position = torch.arange(len(row), device=device) - (ends - lengths)[row]  # (N,)
        if width is None:
            longest = lengths[::rows_per_group].tolist()
            widths = [min(-(-w // WIDTH_STEP) * WIDTH_STEP, longest[0]) for w in longest]
        else:
            widths = [width] * len(range(0, len(lengths), rows_per_group))
        groups, offset = [], 0
        for first, wide in zip(range(0, len(lengths), rows_per_group), widths, strict=True):
            size = min(rows_per_group, len(lengths) - first)
            groups.append(Group(first, size, offset, offset + size * wide, wide))
            offset += size * wide
        of_row = count // rows_per_group  # (B,) group of each row
        starts = torch.tensor([g.start for g in groups], device=device)[of_row]
        row_width = torch.tensor(widths, device=device)[of_row]
        first_cell = starts + (count % rows_per_group) * row_width  # (B,)
        cell = first_cell[row] + position
        if past is not None:
            position = position + past[row]
        return Rows(row, position, cell, tuple(groups), ends - 1)


def pack(
    idx: Tensor, lengths: Tensor, targets: Tensor | None = None, multiple: int = 1, one_group: bool = False
) -> tuple[Tensor, Tensor | None, Rows, Tensor]:
    """Take the padding out of a padded batch.

    Args:
        idx: (B, T) token ids; row b is real up to lengths[b].
        lengths: (B,) between 1 and T.
        targets: (B, T) or None.
        multiple: N is filled up to a multiple of this with rows of PAD, without targets. Training
            asks for it so that few shapes occur (see WIDTH_STEP).
        one_group: attention lays out all rows as one block of width T, and there are always as many
            rows of PAD as the worst case needs: every shape depends on B, T and N alone.

    Returns:
        tokens: (N,) the real tokens, longest row first.
        targets: (N,) theirs, or None.
        rows: the layout.
        order: (B,) the rows of `idx` in the packed order.
    """
    width = idx.size(1)
    filler = -int(lengths.sum()) % multiple
    if extra := -(-((multiple - 1) if one_group else filler) // width):  # rows of PAD
        taken = torch.arange(extra, device=idx.device) * width
        lengths = torch.cat((lengths, (filler - taken).clamp(0, width)))
        idx = torch.cat((idx, idx.new_zeros(extra, width)))
        targets = None if targets is None else torch.cat((targets, targets.new_zeros(extra, width)))
    lengths, order = lengths.sort(descending=True, stable=True)
    real = torch.arange(width, device=idx.device) < lengths[:, None]  # (B, T)
    packed_targets = None if targets is None else targets[order][real]
    rows = Rows.of(lengths, rows_per_group=len(lengths), width=width) if one_group else Rows.of(lengths)
    return idx[order][real], packed_targets, rows, order


def supervised_lengths(targets: Tensor) -> Tensor:
    """(B,) the length up to which a row matters: its last position with a target (not PAD, id 0).

    A position behind it carries no loss, and causal attention hides it from all that do. A row
    without any target keeps one position, whose loss is not counted either.
    """
    place = torch.arange(1, targets.size(1) + 1, device=targets.device)
    return ((targets != 0) * place).amax(1).clamp(min=1)


class _ToCells(torch.autograd.Function):
    """(N, C) -> (cells, C) with zeros in the padding. An indexed copy; its gradient is an indexed read."""

    @staticmethod
    def forward(ctx, stream: Tensor, cell: Tensor, cells: int) -> Tensor:
        ctx.save_for_backward(cell)
        return stream.new_zeros(cells, stream.size(1)).index_copy_(0, cell, stream)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (cell,) = ctx.saved_tensors
        return grad.index_select(0, cell), None, None


class _ToStream(torch.autograd.Function):
    """(cells, C) -> (N, C). The reverse; PyTorch's own gradient would add where a copy is enough."""

    @staticmethod
    def forward(ctx, block: Tensor, cell: Tensor) -> Tensor:
        ctx.save_for_backward(cell)
        ctx.cells = block.size(0)
        return block.index_select(0, cell)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (cell,) = ctx.saved_tensors
        return grad.new_zeros(ctx.cells, grad.size(1)).index_copy_(0, cell, grad), None


def to_cells(stream: Tensor, rows: Rows) -> Tensor:
    """(N, C) -> (rows.cells, C): every position at its cell, zeros elsewhere."""
    return _ToCells.apply(stream, rows.cell, rows.cells)


def to_stream(block: Tensor, rows: Rows) -> Tensor:
    """(rows.cells, C) -> (N, C): the real positions alone."""
    return _ToStream.apply(block, rows.cell)

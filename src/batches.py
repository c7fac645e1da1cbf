"""From a dataset to the batches of a training.

Example i of an epoch comes from (seed, epoch, i) alone: an interrupted run, worker processes and other batch sizes
change no example.
"""

import hashlib
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset


def mixed(*numbers: int) -> int:
    """A seed from several numbers: 63 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


class Batches(Dataset):
    """Entry (epoch, indices) is a batch (x, y), each (B, T), whose example i is drawn from (seed, epoch, i) alone."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        (epoch, indices), state, examples = key, random.getstate(), []
        try:
            for i in indices or [0]:
                random.seed(mixed(self.seed, epoch, i))
                examples.append(self.dataset[i])
        finally:
            random.setstate(state)
        x, y = zip(*examples, strict=True)
        return torch.stack(x)[: len(indices)], torch.stack(y)[: len(indices)]  # none: one of many processes


def lengths(y: Tensor) -> Tensor:
    """(B, T) targets -> (B,) characters of each row up to its last target."""
    return ((y != 0) * torch.arange(1, y.size(1) + 1)).amax(dim=1)


def groups(x: Tensor, y: Tensor, micro_rows: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch (B, T) in parts of micro_rows rows, longest rows first, without the columns that are padding alone.

    Widths are multiples of 8, so that there are few shapes. Without micro_rows the batch as it is.
    """
    if micro_rows is None or not len(x):
        yield x, y
        return
    length = lengths(y)
    for rows in length.argsort(descending=True, stable=True).split(micro_rows):
        width = -(-int(length[rows[0]]) // 8) * 8
        yield x[rows, :width], y[rows, :width]

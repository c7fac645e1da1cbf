"""From a dataset to the batches of a training run.

Example i of an epoch depends on (seed, epoch, i) alone, so resuming, DataLoader workers and other batch sizes change
no example.
"""

import hashlib
import math
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Examples(Protocol):
    """A map-style dataset of (x, y), LongTensors of one length."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> tuple[Tensor, Tensor]: ...


def derive_seed(*numbers: int) -> int:
    """One seed from several numbers: 63 bits of their hash."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


@dataclass
class Batches(Dataset):
    """Entry (epoch, indices) is a batch (x, y), each (B, T), whose example i depends on (seed, epoch, i) alone."""

    dataset: Examples
    seed: int

    def __getitem__(self, key: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        epoch, indices = key
        examples = []
        state = random.getstate()
        try:
            for i in indices:
                random.seed(derive_seed(self.seed, epoch, i))
                examples.append(self.dataset[i])
        finally:
            random.setstate(state)
        x, y = zip(*examples, strict=True)
        return torch.stack(x), torch.stack(y)


# Signals that stop a training: Ctrl-C, kill, a closed terminal, and what schedulers send before they kill.
STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # Windows has two of them
]


def ignore_signals(worker: int) -> None:
    """Make a DataLoader worker ignore stop signals; it exits when the training process does."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def lengths(y: Tensor) -> Tensor:
    """(B, T) targets -> (B,) characters of each row up to its last target."""
    positions = torch.arange(1, y.size(1) + 1)
    return ((y != 0) * positions).amax(dim=1)


def groups(x: Tensor, y: Tensor, micro_rows: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch (B, T) in groups of micro_rows rows, longest rows first, without columns of padding.

    Widths are rounded up to multiples of 8, so that there are few shapes. Without micro_rows the batch stays whole.
    """
    if micro_rows is None:
        yield x, y
        return
    length = lengths(y)
    for rows in length.argsort(descending=True, stable=True).split(micro_rows):
        longest = int(length[rows[0]])
        width = math.ceil(longest / 8) * 8
        yield x[rows, :width], y[rows, :width]

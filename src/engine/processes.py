"""Training in several processes started by torchrun."""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from batches import STOP_SIGNALS, derive_seed
from trainer import DivergedError, Trainer
from utils import UserError

LOST = "another process of this run has ended; the last checkpoint is kept, continue with the same command and --resume"


class ProcessTrainer(Trainer):
    """A Trainer run by several processes: process r of W computes rows r, r + W, ... of each batch.

    All processes prepare the same batches and keep the same parameters; only gradients and losses are exchanged.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if self.config.batch_size < self.world:
            size = self.config.batch_size
            raise UserError(f"--batch_size {size}: at least {self.world} is needed, a row per process")
        if self.rank:  # the first process alone writes
            self.writer, self.config = None, dataclasses.replace(self.config, ckpt_path=None)

    def compute_loss(self, x: Tensor, y: Tensor, n_targets: int, backward: bool = False) -> float:
        """The mean loss of a batch (B, T), with gradients summed over the processes; for the test loss, each alone."""
        if not backward:
            return super().compute_loss(x, y, n_targets)
        torch.manual_seed(derive_seed(self.config.seed, self.step) + self.rank)  # each draws its own dropout
        own = slice(self.rank, None, self.world)
        is_idle = len(y) <= self.rank  # the last batch of an epoch may have too few rows
        loss = 0.0 if is_idle else super().compute_loss(x[own], y[own], n_targets, backward=True)
        for parameter in self.model.parameters():
            if parameter.grad is None:  # no row with a target
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
        return self.summed(loss)

    def should_stop(self) -> bool:
        """Whether any process was told to stop."""
        return self.summed(self.stop_requested) > 0

    def summed(self, value: float) -> float:
        """The sum of a number over all processes."""
        total = torch.tensor(float(value), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the processes of torchrun. Only the first prints and handles signals.

    A failing process ends the run; one error is printed.
    """
    rank = int(os.environ["RANK"])
    with contextlib.ExitStack() as stack, open(os.devnull, "w") as nowhere:
        if rank:  # Ctrl-C reaches all; the first saves and stops the others
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
            for number in STOP_SIGNALS:
                stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN))
        if (number := int(os.environ["LOCAL_RANK"])) < torch.cuda.device_count():
            torch.cuda.set_device(number)
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        try:
            yield
            dist.destroy_process_group()
        except (UserError, RuntimeError) as error:
            is_lost = isinstance(error, dist.DistError) or "gloo" in str(error)
            if not isinstance(error, UserError | DivergedError) and not is_lost:
                raise
            store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
            if store.add("failures", 1) == 1:
                print(f"error: {LOST if is_lost else error}", file=sys.__stderr__, flush=True)
            sys.stdout.flush()
            os._exit(2)  # without waiting for the others

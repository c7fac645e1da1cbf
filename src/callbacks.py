"""What a training run shows and keeps: progress, TensorBoard, checkpoints. They hang on the Trainer."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from trainer import Callback, DivergedError, Record, Trainer


def duration(seconds: float) -> str:
    """A time for the eye: 45 s, 12 min, 3.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress(Callback):
    """One bar on a terminal, a line an epoch elsewhere; and, once known, how long it will take."""

    ESTIMATE_AFTER = 20.0  # seconds

    def __init__(self):
        self.bar: tqdm | None = None
        self.last: Record | None = None

    def on_start(self, trainer: Trainer) -> None:
        self.first_step, self.start, self.said = trainer.step, time.monotonic(), False
        if sys.stderr.isatty():
            self.bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True)

    def on_log(self, trainer: Trainer, records: list[Record]) -> None:
        self.last = records[-1]
        if self.bar is not None:
            self.bar.update(trainer.step - self.bar.n)
            self.bar.set_postfix_str(
                f"epoch {trainer.epoch:.1f} loss {self.last.loss:.3f} lr {self.last.lr:.1e} "
                f"{self.last.tokens_per_second:,.0f} tokens/s"
            )
        elapsed = time.monotonic() - self.start
        if not self.said and elapsed > self.ESTIMATE_AFTER:
            self.said = True
            left = (trainer.total_steps - trainer.step) * elapsed / (trainer.step - self.first_step)
            tqdm.write(f"estimated time: {duration(elapsed + left)}")

    def on_epoch(self, trainer: Trainer) -> None:
        if self.bar is None and self.last is not None:
            left = (time.monotonic() - self.start) / (trainer.step - self.first_step)
            left *= trainer.total_steps - trainer.step
            print(
                f"epoch {trainer.epoch:.0f}/{trainer.config.max_epochs} step {trainer.step} loss {self.last.loss:.3f} "
                f"lr {self.last.lr:.1e} {self.last.tokens_per_second:,.0f} tokens/s, {duration(left)} left",
                flush=True,
            )

    def on_end(self, trainer: Trainer) -> None:
        self.close()

    def close(self) -> None:
        """End the bar's line, so that what is said next has its own; after a failure too."""
        if self.bar is not None:
            self.bar.close()


class TensorBoardLog(Callback):
    """Scalars of every step: train/loss, train/lr, train/tokens_per_second, train/grad_norm."""

    def __init__(self, writer):
        self.writer = writer

    def on_log(self, trainer: Trainer, records: list[Record]) -> None:
        for record in records:
            self.writer.add_scalar("train/loss", record.loss, record.step)
            self.writer.add_scalar("train/lr", record.lr, record.step)
            self.writer.add_scalar("train/tokens_per_second", record.tokens_per_second, record.step)
            self.writer.add_scalar("train/grad_norm", record.grad_norm, record.step)

    def on_end(self, trainer: Trainer) -> None:
        self.writer.flush()


class Divergence(Callback):
    """Stop a run whose loss is still a number but stays far above that of blind guessing, ln(characters)."""

    TIMES = 3.0  # so many times the loss of guessing ...
    STEPS = 20  # ... in so many steps running

    def __init__(self):
        self.bad_steps = 0  # the last steps, all of them bad

    def on_log(self, trainer: Trainer, records: list[Record]) -> None:
        guessing = math.log(trainer.model.config.vocab_size)
        for record in records:
            self.bad_steps = self.bad_steps + 1 if record.loss > self.TIMES * guessing else 0
            if self.bad_steps == self.STEPS:
                raise DivergedError(
                    f"the loss diverged: at step {record.step} it is {record.loss:.3g}, guessing has {guessing:.3g}, "
                    f"with learning rate {record.lr:.2e}; try a smaller one"
                )


class Checkpoints(Callback):
    """Save the trainer every few minutes, and when the run is told to stop (Ctrl-C, SIGTERM).

    Args:
        save: writes `trainer.state_dict()`.
        minutes: between two saves.
        divergence: while it counts bad steps, the last good checkpoint is kept.
    """

    def __init__(self, save: Callable[[dict], None], minutes: float, divergence: Divergence | None = None):
        self.save, self.minutes = save, minutes
        self.divergence = divergence or Divergence()
        self.signal: int | None = None
        self.handlers: dict = {}

    def on_start(self, trainer: Trainer) -> None:
        self.saved_at = time.monotonic()
        self.handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame) -> None:
        self.signal = number

    def on_step(self, trainer: Trainer) -> None:
        if self.signal is not None:
            trainer.stop_requested = True
        due = time.monotonic() - self.saved_at >= 60 * self.minutes
        if (due or trainer.stop_requested) and trainer.step < trainer.total_steps:
            state = trainer.state_dict()  # reads the losses back: no state with a NaN gets past this
            if not self.divergence.bad_steps:
                self.save(state)
            self.saved_at = time.monotonic()

    def on_end(self, trainer: Trainer) -> None:
        self.close()

    def close(self) -> None:
        """Give Ctrl-C and SIGTERM back to whom they belonged; after a failure too."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

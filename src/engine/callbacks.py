"""Callbacks of the Trainer: progress, TensorBoard, divergence, checkpoints."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from batches import STOP_SIGNALS
from engine.checkpoints import save_checkpoint
from trainer import Callback, DivergedError, Trainer
from utils import UserError


def duration(seconds: float) -> str:
    """Human-readable duration: 45 s, 12 min, 3.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass
class Progress(Callback):
    """A progress bar on a terminal, a line per epoch elsewhere."""

    bar: tqdm

    def on_step(self, trainer: Trainer) -> None:
        last = trainer.last
        self.text = f"loss {last.loss:.3f} lr {last.lr:.1e} {last.tokens / last.seconds:,.0f} tokens/s"
        epoch = trainer.step / trainer.steps_per_epoch
        self.bar.set_postfix_str(f"epoch {epoch:.1f} {self.text}", refresh=False)
        self.bar.update(trainer.step - self.bar.n)

    def on_epoch(self, trainer: Trainer) -> None:
        if self.bar.disable:
            epoch = f"epoch {trainer.step // trainer.steps_per_epoch}/{trainer.config.max_epochs} step {trainer.step}"
            left = (trainer.total_steps - trainer.step) * trainer.seconds / trainer.step
            print(f"{epoch} {self.text}, {duration(left)} left", flush=True)


class TensorBoardLog(Callback):
    """What the Trainer does not log itself: speed and gradient norm of every step."""

    def on_step(self, trainer: Trainer) -> None:
        last = trainer.last
        trainer.writer.add_scalar("train/tokens_per_second", last.tokens / last.seconds, last.number)
        trainer.writer.add_scalar("train/grad_norm", last.grad_norm, last.number)


@contextlib.contextmanager
def open_log(folder: str, first_step: int | None = None) -> Iterator[SummaryWriter]:
    """TensorBoard's writer; of a resumed run, what was logged from first_step on is dropped.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    earlier = threading.excepthook

    def hook(failure) -> None:
        """Hide the traceback from TensorBoard's thread; the next write raises the same error here."""
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard")):
            earlier(failure)

    threading.excepthook = hook
    try:
        with SummaryWriter(folder, purge_step=first_step) as writer:
            yield writer
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot be written ({reason}); make room, or log to another --expt_dir") from None
    finally:
        threading.excepthook = earlier


class Divergence(Callback):
    """Stop a run whose loss is finite but, for 20 steps in a row, above three times that of a uniform guess."""

    TIMES = 3.0
    STEPS = 20
    bad_steps = 0  # in a row, up to now

    def on_step(self, trainer: Trainer) -> None:
        last = trainer.last
        guessing = math.log(trainer.model.config.vocab_size)
        self.bad_steps = self.bad_steps + 1 if last.loss > self.TIMES * guessing else 0
        if self.bad_steps == self.STEPS:
            raise DivergedError(
                f"the loss diverged: at step {last.number} it is {last.loss:.3g} (guessing: {guessing:.3g}), "
                f"with learning rate {last.lr:.2e}; try a smaller one"
            )


@dataclass
class Checkpoints(Callback):
    """Save the trainer every few minutes, and when the run is told to stop (see STOP_SIGNALS).

    A context: signals are received inside it. A second Ctrl-C ends the run at once. A signal that was ignored when
    the program started (nohup, a shell's `&`) stays ignored. Only the main thread can receive signals; in another
    one (a notebook's) none are handled.
    """

    path: Path
    settings: dict[str, Any]  # of the run; compared when it is resumed
    minutes: float  # between two checkpoints
    divergence: Divergence  # while it counts bad steps, the last good checkpoint is kept
    earlier_handlers: dict = field(default_factory=dict)
    told_to_stop: bool = False
    saved_at: float = field(default_factory=time.monotonic)

    def __enter__(self) -> "Checkpoints":
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self.earlier_handlers[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *failure) -> None:
        while self.earlier_handlers:
            signal.signal(*self.earlier_handlers.popitem())

    def _stop(self, number: int, frame) -> None:
        self.told_to_stop = True
        self.__exit__()  # the next signal has its usual effect

    def on_step(self, trainer: Trainer) -> None:
        trainer.stop_requested |= self.told_to_stop
        is_due = time.monotonic() - self.saved_at >= 60 * self.minutes
        if (is_due or trainer.stop_requested) and trainer.step < trainer.total_steps:
            if not self.divergence.bad_steps:
                trainer.writer.flush()  # a kill after the checkpoint must not lose steps from the log
                save_checkpoint(self.path, trainer.state_dict(), self.settings)
            self.saved_at = time.monotonic()

    def on_end(self, trainer: Trainer) -> None:
        if trainer.step < trainer.total_steps:
            what_next = "continue with the same command and --resume"
            if not self.path.exists():
                what_next = "nothing was saved, since the loss was diverging"
            print(f"stopped at step {trainer.step}; {what_next}", file=sys.stderr)
            raise KeyboardInterrupt

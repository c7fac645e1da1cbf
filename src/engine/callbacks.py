"""What a training run shows and keeps: progress, TensorBoard, checkpoints. They hang on the Trainer."""

import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from trainer import Callback, DivergedError, Trainer
from utils import UserError


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

    def on_start(self, trainer: Trainer) -> None:
        self.first_step, self.start, self.said = trainer.step, time.monotonic(), False
        if sys.stderr.isatty():
            self.bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True)

    def on_step(self, trainer: Trainer) -> None:
        elapsed, last = time.monotonic() - self.start, trainer.last
        self.left = (trainer.total_steps - trainer.step) * elapsed / (trainer.step - self.first_step)
        self.text = f"loss {last.loss:.3f} lr {last.lr:.1e} {last.tokens / last.seconds:,.0f} tokens/s"
        if self.bar is not None:
            self.bar.set_postfix_str(f"epoch {trainer.step / trainer.steps_per_epoch:.1f} {self.text}", refresh=False)
            self.bar.update(trainer.step - self.bar.n)
        if not self.said and elapsed > self.ESTIMATE_AFTER:
            self.said = True
            tqdm.write(f"estimated time: {duration(elapsed + self.left)}")

    def on_epoch(self, trainer: Trainer) -> None:
        if self.bar is None:
            epoch = f"epoch {trainer.step // trainer.steps_per_epoch}/{trainer.config.max_epochs} step {trainer.step}"
            print(f"{epoch} {self.text}, {duration(self.left)} left", flush=True)

    def on_end(self, trainer: Trainer) -> None:
        self.close()

    def close(self) -> None:
        """End the bar's line, so that what is said next has its own; after a failure too."""
        if self.bar is not None:
            self.bar.close()


class TensorBoardLog(Callback):
    """What the Trainer does not log itself: train/tokens_per_second and train/grad_norm of every step."""

    def on_step(self, trainer: Trainer) -> None:
        writer, last = trainer.config.writer, trainer.last
        writer.add_scalar("train/tokens_per_second", last.tokens / last.seconds, last.number)
        writer.add_scalar("train/grad_norm", last.grad_norm, last.number)

    def on_end(self, trainer: Trainer) -> None:
        trainer.config.writer.flush()


@contextlib.contextmanager
def open_log(folder: str, first_step: int | None = None) -> Iterator[SummaryWriter]:
    """TensorBoard's writer.

    What was logged from the first_step of a resumed run on is forgotten. UserError: the disk is full, or the folder
    cannot be written.
    """
    earlier = threading.excepthook

    def hook(failure) -> None:
        """TensorBoard's thread would print a traceback of an error that comes again with the next write."""
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
    """Stop a run whose loss is still a number but stays far above that of blind guessing, ln(characters)."""

    TIMES = 3.0  # so many times the loss of guessing ...
    STEPS = 20  # ... in so many steps running

    def __init__(self):
        self.bad_steps = 0  # the last steps, all of them bad

    def on_step(self, trainer: Trainer) -> None:
        guessing, last = math.log(trainer.model.config.vocab_size), trainer.last
        self.bad_steps = self.bad_steps + 1 if last.loss > self.TIMES * guessing else 0
        if self.bad_steps == self.STEPS:
            raise DivergedError(
                f"the loss diverged: at step {last.number} it is {last.loss:.3g}, guessing has {guessing:.3g}, "
                f"with learning rate {last.lr:.2e}; try a smaller one"
            )


class Checkpoints(Callback):
    """Save the trainer every few minutes, and when the run is told to stop (Ctrl-C, SIGTERM).

    A second Ctrl-C ends the run at once. Only the main thread can listen to signals; elsewhere (a notebook's
    thread) nobody does.

    `save` writes `trainer.state_dict()`; while `divergence` counts bad steps, the last good checkpoint is kept.
    """

    def __init__(self, save: Callable[[dict], None], minutes: float, divergence: Divergence):
        self.save, self.minutes, self.divergence = save, minutes, divergence
        self.handlers: dict = {}
        self.told_to_stop = False

    def on_start(self, trainer: Trainer) -> None:
        self.saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self.handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def _stop(self, number: int, frame) -> None:
        self.told_to_stop = True
        self.close()

    def on_step(self, trainer: Trainer) -> None:
        trainer.stop_requested |= self.told_to_stop
        due = time.monotonic() - self.saved_at >= 60 * self.minutes
        if (due or trainer.stop_requested) and trainer.step < trainer.total_steps:
            if not self.divergence.bad_steps:
                self.save(trainer.state_dict())
            self.saved_at = time.monotonic()

    def on_end(self, trainer: Trainer) -> None:
        self.close()

    def close(self) -> None:
        """Give Ctrl-C and SIGTERM back to whom they belonged; after a failure too."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

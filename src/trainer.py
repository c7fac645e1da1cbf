"""The training loop, the same for pretraining and finetuning on every device.

It has the structure of minGPT's Trainer: it knows batches, a model, optimizers and a schedule, but not the task.
Progress bars, checkpoints and logs are callbacks. All randomness in a step follows from (seed, step), so a run
that was interrupted and resumed ends with the same parameters.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from batches import Batches, Examples, derive_seed, groups, ignore_signals, lengths
from utils import atomic_write


@dataclass
class TrainerConfig:
    """How to train. The defaults are minGPT's. Warm-up and decay count positions with padding."""

    max_epochs: int = 10
    batch_size: int = 64  # rows per step
    learning_rate: float = 3e-4  # of AdamW, at the schedule's peak
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    weight_decay: float = 0.1
    grad_norm_clip: float = 1.0
    lr_decay: bool = False  # follow the schedule; False keeps the rate constant
    warmup_tokens: float = 375e6  # end of the linear warm-up
    final_tokens: float = 260e9  # end of the decay
    decay_shape: str = "cosine"  # to a tenth of the peak, or "linear" to zero
    micro_rows: int | None = None  # compute a batch in groups of this many rows (see `batches.groups`)
    precision: str = "float32"  # or "bfloat16" for the matrix products (autocast)
    seed: int = 0
    num_workers: int = 0  # DataLoader processes that prepare examples
    ckpt_path: str | None = None  # the model's state dict is saved there after every epoch
    writer: Any = None  # a TensorBoard SummaryWriter that gets train/loss and train/lr
    callbacks: list["Callback"] = field(default_factory=list)

    def __post_init__(self):
        for name, least in (("max_epochs", 1), ("batch_size", 1), ("micro_rows", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"TrainerConfig: {name} is {value}; at least {least} is needed")
        for name, known in (("decay_shape", ("cosine", "linear")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise ValueError(f"TrainerConfig: {name} is one of {known}, not {getattr(self, name)!r}")


def schedule(tokens: float, config: TrainerConfig) -> float:
    """Fraction of the peak learning rate after `tokens` (with padding)."""
    if not config.lr_decay:
        return 1.0
    if tokens < config.warmup_tokens:  # linear warm-up
        return tokens / max(1, config.warmup_tokens)
    progress = min(1.0, (tokens - config.warmup_tokens) / max(1, config.final_tokens - config.warmup_tokens))
    if config.decay_shape == "linear":
        return 1.0 - progress
    return max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))  # minGPT's cosine


def adamw(model: nn.Module, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """AdamW with weight decay on everything but the biases, as in the course's trainer.

    (minGPT also exempts LayerNorms and embeddings. At the handout's learning rate that worked far worse in our trials.)
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (others if name.endswith("bias") else decayed).append(parameter)
    param_groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW(param_groups, lr=config.learning_rate, betas=config.betas, fused=True)]


@dataclass(frozen=True)
class Step:
    """What happened in one step."""

    number: int  # from 1
    loss: float
    lr: float
    grad_norm: float  # before clipping
    tokens: int  # real tokens, without padding
    seconds: float


class Callback:
    """Hooks; override the ones you need."""

    def on_step(self, trainer: "Trainer") -> None: ...  # after every step; `trainer.last` describes it
    def on_epoch(self, trainer: "Trainer") -> None: ...
    def on_end(self, trainer: "Trainer") -> None: ...  # when training ends or is stopped


class DivergedError(RuntimeError):
    """The loss or the gradient is NaN or infinite, or a callback found the loss far too high."""


class Trainer:
    """Train a model on a dataset.

    Args:
        model: `model(x, y)` returns (logits, loss); the loss is the mean over the targets that are not 0.
        train_dataset: map-style, of (x, y), LongTensors of one length.
        test_dataset: its mean loss is measured after every epoch (`test_loss`); may be None.
        config: a TrainerConfig.
        device: where to train; by default where the model is.
        make_optimizers: builds the optimizers; the learning rates they start with are the schedule's peaks.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Examples,
        test_dataset: Examples | None,
        config: TrainerConfig,
        device: torch.device | str | None = None,
        make_optimizers: Callable[[nn.Module, TrainerConfig], list[torch.optim.Optimizer]] = adamw,
    ):
        self.train_dataset = train_dataset
        self.test_dataset = test_dataset
        self.config = config
        self.device = torch.device(device) if device else next(model.parameters()).device
        self.model: Any = model.to(self.device)
        self.optimizers = make_optimizers(model, config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        self.callbacks = list(config.callbacks)
        self.writer = config.writer
        self.steps_per_epoch = math.ceil(len(train_dataset) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs
        self.step = 0  # finished steps
        self.positions = 0  # of all padded batches so far: the clock of the schedule
        self.tokens = 0  # real tokens so far
        self.seconds = 0.0  # training time, including earlier processes of a resumed run
        self.losses: deque[float] = deque(maxlen=self.steps_per_epoch)  # of the last steps
        self.last: Step  # the last finished step
        self.test_loss: float | None = None
        self.stop_requested = False

    def train(self) -> None:
        """Train to the end, or until a callback sets `stop_requested`.

        Raises:
            DivergedError: the loss or the gradient became NaN or infinite.
        """
        self.model.train()
        clock = time.perf_counter()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for x, y in self.batches():  # each (B, T)
                torch.manual_seed(derive_seed(self.config.seed, self.step))
                self.model.zero_grad(set_to_none=True)
                loss = self.compute_loss(x, y, n_targets=int((y != 0).sum()), backward=True)
                grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip))
                # The rate of this step counts this step's positions. (The course's trainer sets the rate after the
                # step, for the next one, so its first step is taken at the peak rate.)
                self.positions += y.numel()
                rate = schedule(self.positions, self.config)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak_lr"] * rate
                    optimizer.step()
                lr = self.config.learning_rate * rate
                tokens = int(lengths(y).sum())
                start, clock = clock, time.perf_counter()
                self._finish(Step(self.step + 1, loss, lr, grad_norm, tokens, seconds=clock - start))
                if self.should_stop():
                    break
        for callback in self.callbacks:
            callback.on_end(self)
        self.model.eval()

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches (x, y), each (B, T), of all remaining steps."""
        return DataLoader(
            Batches(self.train_dataset, self.config.seed),
            batch_size=None,  # an entry of Batches is a whole batch
            sampler=self._keys(),
            num_workers=self.config.num_workers,
            worker_init_fn=ignore_signals,
            # Python 3.14 would start a helper process, which a Ctrl-C sent to the group ends
            multiprocessing_context="fork" if self.config.num_workers and sys.platform == "linux" else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that it draws nothing from torch's
        )

    def _keys(self) -> Iterator[tuple[int, list[int]]]:
        """(epoch, indices) of every remaining batch; each epoch has its own order."""
        size, first = self.config.batch_size, self.step
        for step in range(first, self.total_steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if step == first or number == 0:
                generator = torch.Generator().manual_seed(derive_seed(self.config.seed, epoch))
                order = torch.randperm(len(self.train_dataset), generator=generator).tolist()
            yield epoch, order[number * size : (number + 1) * size]

    def compute_loss(self, x: Tensor, y: Tensor, n_targets: int, backward: bool = False) -> float:
        """The mean loss over the n_targets targets of a batch (B, T); if asked for, adds its gradients to the model's.

        The batch is computed group by group. A group's loss is the mean over its own targets, so it is weighted by
        its share of all targets.
        """
        total = torch.zeros((), device=self.device)
        is_half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, is_half):  # around all groups: weights are cast once
            for rows, targets in groups(x, y, self.config.micro_rows):
                share = int((targets != 0).sum()) / max(1, n_targets)
                if not share:
                    continue  # the mean over no targets is NaN
                _, loss = self.model(rows.to(self.device), targets.to(self.device))
                loss = loss * share
                if backward:
                    loss.backward()
                total += loss.detach()
        return float(total)

    def should_stop(self) -> bool:
        """Whether training ends after this step."""
        return self.stop_requested

    def _finish(self, done: Step) -> None:
        """Count a finished step, log it, and end the epoch if it was the epoch's last.

        Raises:
            DivergedError: its loss or gradient is NaN or infinite.
        """
        if not (math.isfinite(done.loss) and math.isfinite(done.grad_norm)):
            raise DivergedError(
                f"the loss diverged at step {done.number} (loss {done.loss}, gradient norm {done.grad_norm}) with "
                f"learning rate {done.lr:.2e}; try a smaller one"
            )
        self.last = done
        self.step = done.number
        self.tokens += done.tokens
        self.seconds += done.seconds
        self.losses.append(done.loss)
        if self.writer is not None:
            self.writer.add_scalar("train/loss", done.loss, self.step)
            self.writer.add_scalar("train/lr", done.lr, self.step)
        for callback in self.callbacks:
            callback.on_step(self)
        if self.step % self.steps_per_epoch == 0:
            self._finish_epoch()

    def _finish_epoch(self) -> None:
        if self.test_dataset is not None:
            self.test_loss = self.evaluate(self.test_dataset)
        self.save_checkpoint()
        for callback in self.callbacks:
            callback.on_epoch(self)

    def save_checkpoint(self) -> None:
        """Write the model's state dict to `config.ckpt_path`, if there is one."""
        if self.config.ckpt_path is not None:
            with atomic_write(self.config.ckpt_path) as file:
                torch.save(self.model.state_dict(), file)

    @torch.no_grad()
    def evaluate(self, dataset: Examples) -> float:
        """Mean loss over all targets of a dataset, without dropout."""
        was_training = self.model.training
        examples = Batches(dataset, self.config.seed)
        total, n_targets = 0.0, 0
        self.model.eval()
        try:
            for rows in torch.arange(len(dataset)).split(self.config.batch_size):
                x, y = examples[0, rows.tolist()]  # each (B, T)
                count = int((y != 0).sum())
                total += self.compute_loss(x, y, count) * count
                n_targets += count
        finally:
            self.model.train(was_training)
        return total / max(1, n_targets)

    def state_dict(self) -> dict:
        """Everything a later process needs to continue as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "losses": list(self.losses),
            "step": self.step,
            "positions": self.positions,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`'s result."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.losses.extend(state["losses"])
        for name in ("step", "positions", "tokens", "seconds"):
            setattr(self, name, state[name])

"""The training loop, the same for pretraining and finetuning on every device.

A fork of minGPT's Trainer. It knows batches, a model, optimisers and a schedule; it does not know the
task. What else a run wants (progress bar, checkpoints) hangs on it as callbacks.

Everything random in a step comes from (seed, step), and example i of an epoch from (seed, epoch, i), so a
run that was interrupted, workers and other batch sizes change nothing.
"""

import contextlib
import hashlib
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from utils import UserError, atomic_write


@dataclass
class TrainerConfig:
    """How to train. The defaults are minGPT's. A token is a position of the padded batch.

    Attributes:
        max_epochs: passes over the training set.
        batch_size: rows a step.
        learning_rate, betas, weight_decay: of AdamW; the rate is the schedule's peak.
        grad_norm_clip: longest gradient let through.
        lr_decay: follow the schedule; False keeps the rate constant.
        warmup_tokens, final_tokens: where the linear warm-up and the decay end.
        decay_shape: "cosine" to a tenth of the peak, or "linear" to zero.
        micro_rows: compute a batch in groups of so many rows, each cut to its longest row; None: as it is.
        precision: "float32", or "bfloat16" for the matrix products (autocast).
        seed: of everything random.
        num_workers: processes that make examples; 0: this one.
        ckpt_path: the state dict of the model is saved there after every epoch.
        writer: a TensorBoard SummaryWriter that gets train/loss and train/lr.
        callbacks: what else happens during training.
    """

    max_epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    grad_norm_clip: float = 1.0
    lr_decay: bool = False
    warmup_tokens: float = 375e6
    final_tokens: float = 260e9
    decay_shape: str = "cosine"
    micro_rows: int | None = None
    precision: str = "float32"
    seed: int = 0
    num_workers: int = 0
    ckpt_path: str | None = None
    writer: object | None = None
    callbacks: list["Callback"] = field(default_factory=list)

    def __post_init__(self):
        for name in ("max_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is needed")
        choices = {"decay_shape": ("cosine", "linear"), "precision": ("float32", "bfloat16")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {known}, not {getattr(self, name)!r}")


def schedule(tokens: float, config: TrainerConfig) -> float:
    """The share of the peak learning rate once so many tokens have been seen."""
    if not config.lr_decay:
        return 1.0
    if tokens < config.warmup_tokens:  # warm-up
        return tokens / max(1, config.warmup_tokens)
    progress = (tokens - config.warmup_tokens) / max(1, config.final_tokens - config.warmup_tokens)
    progress = min(1.0, progress)
    if config.decay_shape == "linear":
        return 1.0 - progress
    return max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))  # minGPT's


def adamw(model: nn.Module, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """AdamW with weight decay on everything but the biases, as the course's trainer has it.

    (minGPT means to leave out LayerNorms and embeddings too. At the handout's learning rate that trains badly.)
    """
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if not name.endswith("bias")], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0},
    ]
    fused = named[0][1].device.type != "mps"
    return [torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)]


# ---------------------------------------------------------------- batches


def mixed(*numbers: int) -> int:
    """A seed from several numbers: 63 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


class Batches(Dataset):
    """Entry (epoch, indices) is a batch (x, y), each (B, T), whose example i is drawn from (seed, epoch, i) alone."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        epoch, indices = key
        state, examples = random.getstate(), []
        for i in indices:
            random.seed(mixed(self.seed, epoch, i))
            examples.append(self.dataset[i])
        random.setstate(state)
        x, y = zip(*examples, strict=True)
        return torch.stack(x), torch.stack(y)


def lengths(y: Tensor) -> Tensor:
    """(B, T) targets -> (B,) characters of each row up to its last target."""
    return ((y != 0) * torch.arange(1, y.size(1) + 1)).amax(dim=1)


def groups(x: Tensor, y: Tensor, micro_rows: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch (B, T) in parts of micro_rows rows, longest rows first, without the columns that are padding alone.

    Widths are multiples of 8, so that there are few shapes. Without micro_rows the batch as it is.
    """
    if micro_rows is None:
        yield x, y
        return
    length = lengths(y)
    for rows in length.argsort(descending=True, stable=True).split(micro_rows):
        width = -(-int(length[rows[0]]) // 8) * 8
        yield x[rows, :width], y[rows, :width]


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Step:
    """One step: its number from 1, loss, learning rate, length of the gradient, real tokens, seconds."""

    number: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


class Callback:
    """What may happen during training; each method does nothing unless it is overridden."""

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step (of this process: a resumed run starts too)."""

    def on_step(self, trainer: "Trainer") -> None:
        """After every step, which is `trainer.last`."""

    def on_epoch(self, trainer: "Trainer") -> None:
        """After every epoch."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last step."""


class DivergedError(UserError):
    """The loss is no number any more."""


class Trainer:
    """Train a model on a dataset.

    Args:
        model: `model(x, y)` gives (logits, loss), the mean over the targets that are not 0.
        train_dataset: map-style, of (x, y), LongTensors of one length.
        test_dataset: its mean loss is measured after every epoch (`test_loss`); may be None.
        config: a TrainerConfig.
        device: where to train; the model's own device without it.
        make_optimizers: from model and config; the rates that they start with are the schedule's peaks.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset,
        test_dataset: Dataset | None,
        config: TrainerConfig,
        device: torch.device | str | None = None,
        make_optimizers: Callable[[nn.Module, TrainerConfig], list[torch.optim.Optimizer]] = adamw,
    ):
        self.model, self.train_dataset, self.test_dataset, self.config = model, train_dataset, test_dataset, config
        self.device = torch.device(device) if device else next(model.parameters()).device
        self.model.to(self.device)
        self.callbacks = list(config.callbacks)
        self.optimizers = make_optimizers(model, config)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.steps_per_epoch = math.ceil(len(train_dataset) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs
        self.step = 0  # finished steps
        self.positions = 0  # positions of the padded batches so far: the schedule's clock
        self.tokens = 0  # real tokens so far
        self.seconds = 0.0  # training time, earlier processes of a resumed run included
        self.losses: deque[float] = deque(maxlen=self.steps_per_epoch)  # of the last steps
        self.last: Step | None = None
        self.test_loss: float | None = None
        self.stop_requested = False

    def train(self) -> None:
        """Train to the end, or until a callback sets `stop_requested`.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        self.model.train()
        self._each("on_start")
        with torch.random.fork_rng(device_type=self.device.type if self.device.type != "cpu" else "cuda"):
            clock = time.perf_counter()
            for x, y in self.batches():  # each (B, T)
                torch.manual_seed(mixed(self.config.seed, self.step))
                loss, norm, lr = self.train_step(x, y)
                now = time.perf_counter()
                self._count(loss, norm, lr, int(lengths(y).sum()), now - clock)
                clock = now
                if self.stop_requested:
                    break
        self._each("on_end")
        self.model.eval()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (x, y) of all steps that are still to do."""
        examples = Batches(self.train_dataset, self.config.seed)
        return iter(
            DataLoader(
                examples,
                batch_size=None,  # the examples come in batches already
                sampler=self._keys(),
                num_workers=self.config.num_workers,
                pin_memory=self.device.type == "cuda",
                generator=torch.Generator(),  # its own, so that it draws nothing from torch's
            )
        )

    def _keys(self) -> Iterator[tuple[int, list[int]]]:
        """(epoch, indices) of every batch that is still to come; each epoch has an order of its own."""
        for step in range(self.step, self.total_steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if step == self.step or number == 0:
                generator = torch.Generator().manual_seed(mixed(self.config.seed, epoch))
                order = torch.randperm(len(self.train_dataset), generator=generator).tolist()
            yield epoch, order[number * self.config.batch_size : (number + 1) * self.config.batch_size]

    def train_step(self, x: Tensor, y: Tensor) -> tuple[float, float, float]:
        """One batch (B, T): forward, backward, clip, update. Returns loss, length of the gradient, learning rate."""
        self.model.zero_grad(set_to_none=True)
        loss = self.forward(x, y, backward=True)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip)
        self.positions += y.numel()
        rate = schedule(self.positions, self.config)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rate
            optimizer.step()
        return float(loss), float(norm), self.config.learning_rate * rate

    def forward(self, x: Tensor, y: Tensor, backward: bool = False) -> Tensor:
        """Mean loss over the targets of a batch (B, T), group by group; and, if asked for, its gradients."""
        targets = int((y != 0).sum())
        loss = torch.zeros((), device=self.device)
        for rows, wanted in groups(x, y, self.config.micro_rows):
            share = int((wanted != 0).sum()) / max(1, targets)
            if share == 0:  # the mean over no targets is no number
                continue
            with self._autocast():
                part = self.model(rows.to(self.device), wanted.to(self.device))[1] * share
            if backward:
                part.backward()
            loss += part.detach()
        return loss

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _count(self, loss: float, norm: float, lr: float, tokens: int, seconds: float) -> None:
        """Book a finished step, show it to the callbacks, and end the epoch if it was its last.

        Raises:
            DivergedError: its loss or gradient is NaN or infinite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"the loss diverged at step {self.step + 1} (loss {loss}, gradient norm {norm}) with learning rate "
                f"{lr:.2e}; try a smaller one"
            )
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.losses.append(loss)
        self.last = Step(self.step, loss, lr, norm, tokens, seconds)
        if self.config.writer is not None:
            self.config.writer.add_scalar("train/loss", loss, self.step)
            self.config.writer.add_scalar("train/lr", lr, self.step)
        self._each("on_step")
        if self.step % self.steps_per_epoch == 0:
            if self.test_dataset is not None:
                self.test_loss = self.evaluate(self.test_dataset)
            if self.config.ckpt_path is not None:
                self.save_checkpoint()
            self._each("on_epoch")

    @torch.no_grad()
    def evaluate(self, dataset: Dataset) -> float:
        """Mean loss over all targets of a dataset, without dropout."""
        self.model.eval()
        examples, total, targets = Batches(dataset, self.config.seed), 0.0, 0
        for rows in torch.arange(len(dataset)).split(self.config.batch_size):
            x, y = examples[0, rows.tolist()]  # each (B, T)
            count = int((y != 0).sum())
            total, targets = total + float(self.forward(x, y)) * count, targets + count
        self.model.train()
        return total / max(1, targets)

    def save_checkpoint(self) -> None:
        """Write the model's state dict to ckpt_path."""
        with atomic_write(self.config.ckpt_path) as file:
            torch.save(self.model.state_dict(), file)

    def _each(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self)

    def state_dict(self) -> dict:
        """Everything that a later process needs to go on as if nothing had happened."""
        kept = {name: getattr(self, name) for name in ("step", "positions", "tokens", "seconds")}
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": states, "losses": list(self.losses), **kept}

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`'s result."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in ("step", "positions", "tokens", "seconds"):
            setattr(self, name, state[name])
        self.losses.extend(state["losses"])

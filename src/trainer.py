"""The training loop, the same for pretraining and finetuning on every device.

A fork of minGPT's Trainer. It knows batches, a model, optimisers and a schedule; it does not know the
task. What else a run wants (progress bar, checkpoints) hangs on it as callbacks. Everything random in a
step comes from (seed, step), so a run that was interrupted changes nothing.
"""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from batches import Batches, groups, lengths, mixed
from utils import UserError, atomic_write


@dataclass
class TrainerConfig:
    """How to train. The defaults are minGPT's. A token is a position of the padded batch."""

    max_epochs: int = 10  # passes over the training set
    batch_size: int = 64  # rows a step
    learning_rate: float = 3e-4  # of AdamW: the schedule's peak
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    weight_decay: float = 0.1
    grad_norm_clip: float = 1.0  # longest gradient let through
    lr_decay: bool = False  # follow the schedule; False keeps the rate constant
    warmup_tokens: float = 375e6  # end of the linear warm-up
    final_tokens: float = 260e9  # end of the decay
    decay_shape: str = "cosine"  # to a tenth of the peak, or "linear" to zero
    micro_rows: int | None = None  # compute a batch in groups of so many rows (see `batches.groups`); None: as it is
    precision: str = "float32"  # or "bfloat16" for the matrix products (autocast)
    seed: int = 0  # of everything random
    num_workers: int = 0  # processes that make examples; 0: this one
    ckpt_path: str | None = None  # the model's state dict is saved there after every epoch
    writer: object | None = None  # a TensorBoard SummaryWriter that gets train/loss and train/lr
    callbacks: list["Callback"] = field(default_factory=list)  # what else happens during training

    def __post_init__(self):
        for name, least in (("max_epochs", 1), ("batch_size", 1), ("micro_rows", 1), ("num_workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"--{name} {value}: at least {least} is needed")
        for name, known in (("decay_shape", ("cosine", "linear")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is one of {known}, not {getattr(self, name)!r}")


def schedule(tokens: float, config: TrainerConfig) -> float:
    """The share of the peak learning rate once so many tokens have been seen."""
    if not config.lr_decay:
        return 1.0
    if tokens < config.warmup_tokens:  # warm-up
        return tokens / max(1, config.warmup_tokens)
    progress = min(1.0, (tokens - config.warmup_tokens) / max(1, config.final_tokens - config.warmup_tokens))
    if config.decay_shape == "linear":
        return 1.0 - progress
    return max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))  # minGPT's


def adamw(model: nn.Module, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """AdamW with weight decay on everything but the biases, as the course's trainer has it.

    (minGPT means to leave out LayerNorms and embeddings too. At the handout's learning rate that trains badly.)
    """
    named = list(model.named_parameters())
    decayed = {"params": [p for name, p in named if not name.endswith("bias")], "weight_decay": config.weight_decay}
    others = {"params": [p for name, p in named if name.endswith("bias")], "weight_decay": 0.0}
    return [torch.optim.AdamW([decayed, others], lr=config.learning_rate, betas=config.betas, fused=True)]


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
    """What may happen during training; overridden where something shall."""

    def on_start(self, trainer: "Trainer") -> None: ...  # before the first step of this process
    def on_step(self, trainer: "Trainer") -> None: ...  # after every step, which is trainer.last
    def on_epoch(self, trainer: "Trainer") -> None: ...
    def on_end(self, trainer: "Trainer") -> None: ...  # after the last step


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
        self.train_dataset, self.test_dataset, self.config = train_dataset, test_dataset, config
        self.device = torch.device(device) if device else next(model.parameters()).device
        self.model = model.to(self.device)
        # of several processes each computes every world-th row of a batch, and DDP takes the mean of the gradients
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.batch_size < self.world:
            raise UserError(f"--batch_size {config.batch_size}: at least {self.world} is needed, a row a process")
        self.net = DistributedDataParallel(model, broadcast_buffers=False) if self.world > 1 else model
        self.callbacks = list(config.callbacks)
        self.optimizers = make_optimizers(model, config)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["peak_lr"] = group["lr"]
        self.steps_per_epoch = math.ceil(len(train_dataset) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs
        self.step = 0  # finished steps
        self.positions = 0  # of the padded batches so far: the schedule's clock
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
        clock = time.perf_counter()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for x, y in self.batches():  # each (B, T)
                torch.manual_seed(mixed(self.config.seed, self.step) + self.rank)
                self.model.zero_grad(set_to_none=True)
                loss = self.forward(x, y, backward=True)
                norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip))
                self.positions += int(self.summed(y.numel()))
                rate = schedule(self.positions, self.config)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak_lr"] * rate
                    optimizer.step()
                start, clock = clock, time.perf_counter()
                lr, tokens = self.config.learning_rate * rate, int(self.summed(lengths(y).sum()))
                self._book(Step(self.step + 1, loss, lr, norm, tokens, clock - start))
                if self.summed(self.stop_requested):
                    break
        self._each("on_end")
        self.model.eval()

    def batches(self) -> Iterable[tuple[Tensor, Tensor]]:
        """The batches (x, y) of all steps that are still to do."""
        return DataLoader(
            Batches(self.train_dataset, self.config.seed),
            batch_size=None,  # the examples come in batches already
            sampler=self._keys(),
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that it draws nothing from torch's
        )

    def _keys(self) -> Iterator[tuple[int, list[int]]]:
        """(epoch, indices) of every batch that is still to come; each epoch has an order of its own."""
        size = self.config.batch_size
        for step in range(self.step, self.total_steps):
            epoch, number = divmod(step, self.steps_per_epoch)
            if step == self.step or number == 0:
                generator = torch.Generator().manual_seed(mixed(self.config.seed, epoch))
                order = torch.randperm(len(self.train_dataset), generator=generator).tolist()
            yield epoch, order[number * size : (number + 1) * size][self.rank :: self.world]

    def forward(self, x: Tensor, y: Tensor, backward: bool = False) -> float:
        """Mean loss over the targets of a batch (B, T), group by group; and, if asked for, its gradients."""
        targets, loss = max(1, self.summed((y != 0).sum())), torch.zeros((), device=self.device)
        is_half, parts = self.config.precision == "bfloat16", list(groups(x, y, self.config.micro_rows))
        with torch.autocast(self.device.type, torch.bfloat16, is_half):  # around all groups: each weight is cast once
            for number, (rows, wanted) in enumerate(parts, 1):
                share = int((wanted != 0).sum()) / targets
                waits = self.world > 1 and number < len(parts)  # gradients are exchanged once, with the last group
                with self.net.no_sync() if waits else contextlib.nullcontext():
                    logits, part = self.net(rows.to(self.device), wanted.to(self.device))
                    part = part * share if share else logits.sum() * 0  # the mean over no targets is no number
                    if backward:
                        (part * self.world).backward()
                loss += part.detach()
        return self.summed(loss)

    def summed(self, value: Tensor | float) -> float:
        """The sum of a number over all processes."""
        if self.world == 1:
            return float(value)
        total = torch.tensor(float(value), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return float(total)

    def _book(self, done: Step) -> None:
        """Count a finished step, show it, and end the epoch if it was its last.

        Raises:
            DivergedError: its loss or gradient is NaN or infinite.
        """
        if not (math.isfinite(done.loss) and math.isfinite(done.grad_norm)):
            raise DivergedError(
                f"the loss diverged at step {done.number} (loss {done.loss}, gradient norm {done.grad_norm}) with "
                f"learning rate {done.lr:.2e}; try a smaller one"
            )
        self.last, self.step = done, done.number
        self.tokens, self.seconds = self.tokens + done.tokens, self.seconds + done.seconds
        self.losses.append(done.loss)
        if self.config.writer is not None and not self.rank:
            self.config.writer.add_scalar("train/loss", done.loss, self.step)
            self.config.writer.add_scalar("train/lr", done.lr, self.step)
        self._each("on_step")
        if self.step % self.steps_per_epoch == 0:
            if self.test_dataset is not None:
                self.test_loss = self.evaluate(self.test_dataset)
            if self.config.ckpt_path is not None and not self.rank:
                with atomic_write(self.config.ckpt_path) as file:
                    torch.save(self.model.state_dict(), file)
            self._each("on_epoch")

    @torch.no_grad()
    def evaluate(self, dataset: Dataset) -> float:
        """Mean loss over all targets of a dataset, without dropout."""
        was_training, examples, total, targets = self.model.training, Batches(dataset, self.config.seed), 0.0, 0
        self.model.eval()
        try:
            for rows in torch.arange(len(dataset)).split(self.config.batch_size):
                x, y = examples[0, rows.tolist()]  # each (B, T)
                count = int((y != 0).sum())
                total, targets = total + self.forward(x, y) * count, targets + count
        finally:
            self.model.train(was_training)
        return total / max(1, targets)

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

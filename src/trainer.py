"""The training loop, the same for pretraining and finetuning on every device.

A fork of minGPT's Trainer. It knows batches, a model, optimisers and a schedule; it does not know
the task. What a run wants to see or keep (progress bar, TensorBoard, checkpoints) hangs on it as
callbacks (`callbacks.py`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cuda_graphs import GraphedStep
from packing import Rows, pack, supervised_lengths
from utils import UserError

# Length of a packed batch is filled up to a multiple of this: on a CPU for few shapes (1 % more, see
# packing.WIDTH_STEP), on a CUDA GPU, where positions are cheap, for few CUDA graphs.
STREAM_MULTIPLE = 128
GRAPH_MULTIPLE = 1024


@dataclass
class TrainerConfig:
    """How to train. The defaults are minGPT's.

    Attributes:
        max_epochs: passes over the training set.
        batch_size: rows a step.
        learning_rate: peak rate of AdamW.
        betas: decay rates of AdamW's averages.
        weight_decay: on the matrices that multiply, not on biases, LayerNorms and embeddings.
        decay_all: on LayerNorms and embeddings too (see GPT.parameter_groups).
        grad_norm_clip: longest gradient let through.
        lr_decay: follow the schedule; False keeps the rate constant.
        warmup_tokens: length of the linear warm-up.
        final_tokens: where the decay ends (tokens, here and above: positions of the PADDED batch).
        decay_shape: "cosine" to a tenth of the peak, or "linear" to zero.
        muon_lr: peak rate of Muon on the matrices of the blocks; 0 leaves them to AdamW.
        precision: "float32", or "bfloat16" for the matrix products (autocast).
        seed: of the order of the examples and of their corruption.
        log_every: steps between two looks at the losses (a look makes a GPU wait).
        num_workers, ckpt_path: accepted for minGPT's callers; batches need no workers, and
            checkpoints are a callback.
        writer: a TensorBoard SummaryWriter that gets train/loss and train/lr.
    """

    max_epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    decay_all: bool = False
    grad_norm_clip: float = 1.0
    lr_decay: bool = False
    warmup_tokens: float = 375e6
    final_tokens: float = 260e9
    decay_shape: str = "cosine"
    muon_lr: float = 0.0
    precision: str = "float32"
    seed: int = 0
    log_every: int = 10
    num_workers: int = 0
    ckpt_path: str | None = None
    writer: object | None = None
    callbacks: list = field(default_factory=list)

    def __post_init__(self):
        if self.max_epochs < 1:
            raise UserError(f"--max_epochs {self.max_epochs}: at least 1 is needed")
        if self.batch_size < 1:
            raise UserError(f"--batch_size {self.batch_size}: at least 1 is needed")
        if self.decay_shape not in ("cosine", "linear"):
            raise ValueError(f"decay_shape is 'cosine' or 'linear', not {self.decay_shape!r}")


def schedule(tokens: float, config: TrainerConfig) -> float:
    """The share of the peak learning rate once `tokens` positions have been seen.

    Linear warm-up over warmup_tokens; then, up to final_tokens, a cosine to 10 % that stays there
    (minGPT), or a line to 0.
    """
    if not config.lr_decay:
        return 1.0
    if tokens < config.warmup_tokens:
        return tokens / max(1, config.warmup_tokens)
    progress = (tokens - config.warmup_tokens) / max(1, config.final_tokens - config.warmup_tokens)
    progress = min(1.0, progress)
    if config.decay_shape == "linear":
        return 1.0 - progress
    return max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))


class Callback:
    """What may happen during training; each method does nothing unless it is overridden."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step (of this process: a resumed run starts too)."""

    def on_log(self, trainer: Trainer, records: list[Record]) -> None:
        """Every log_every steps, with the steps since the last call."""

    def on_step(self, trainer: Trainer) -> None:
        """After every step. Losses may not have been read back yet."""

    def on_epoch(self, trainer: Trainer) -> None:
        """After every epoch, its losses read back."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step."""


@dataclass(frozen=True)
class Record:
    """One step, read back: its number from 1, loss, rate, length of the gradient, tokens/s."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float


class DivergedError(UserError):
    """The loss is no number any more."""


class Trainer:
    """Train a model on a dataset that has `batch(indices, generator) -> (x, y)`.

    Args:
        model: `model(tokens, targets, rows=rows)` gives (logits, loss).
        train_dataset: with `__len__` and `batch`.
        test_dataset: its mean loss is measured after every epoch (`test_loss`); may be None.
        config: a TrainerConfig.
        device: where to train; the model's own device without it.
    """

    def __init__(self, model, train_dataset, test_dataset, config: TrainerConfig, device: str | None = None):
        self.model, self.train_dataset, self.test_dataset, self.config = model, train_dataset, test_dataset, config
        self.device = torch.device(device) if device else next(model.parameters()).device
        self.model.to(self.device)
        self.callbacks = list(config.callbacks)
        if config.writer is not None:
            from callbacks import TensorBoardLog

            self.callbacks.append(TensorBoardLog(config.writer))
        self.optimizers = make_optimizers(model, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.steps_per_epoch = math.ceil(len(train_dataset) / config.batch_size)
        self.total_steps = self.steps_per_epoch * config.max_epochs
        self.step = 0  # finished steps
        self.positions = 0  # positions of the padded batches so far: the schedule's clock
        self.tokens = 0  # real tokens so far
        self.seconds = 0.0  # training time, earlier processes of a resumed run included
        self.order = torch.empty(0, dtype=torch.long)  # of the examples in this epoch
        self.losses: deque[float] = deque(maxlen=self.steps_per_epoch)  # of the last steps
        self.test_loss: float | None = None
        self.stop_requested = False
        self.forward_backward = self._forward_backward
        if self.device.type == "cuda":
            for dataset in filter(None, (train_dataset, test_dataset)):
                dataset.to(self.device)
            self._batches = torch.cuda.Stream(self.device)
            self.forward_backward = GraphedStep(self._forward_backward, list(model.parameters()))
        self._pending: list[tuple] = []
        self._clock = time.perf_counter()

    @property
    def epoch(self) -> float:
        """Epochs finished, with fractions."""
        return self.step / self.steps_per_epoch

    def train(self) -> None:
        """Train to the end, or until a callback sets `stop_requested`.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        self.model.train()
        self._clock = time.perf_counter()
        self._each("on_start")
        while self.step < self.total_steps and not self.stop_requested:
            if self.step % self.steps_per_epoch == 0:
                self.order = torch.randperm(len(self.train_dataset), generator=self.generator)
            self._pending.append(self._train_step())
            self.step += 1
            epoch_ends = self.step % self.steps_per_epoch == 0
            if epoch_ends or self.step % self.config.log_every == 0:
                self.read_back()
            self._each("on_step")
            if epoch_ends:
                if self.test_dataset is not None:
                    self.test_loss = self.evaluate(self.test_dataset)
                self._each("on_epoch")
        self.read_back()
        self._each("on_end")
        self.model.eval()

    def _train_step(self) -> tuple:
        """One batch: forward, backward, clip, update. Returns what a Record needs, still on the device."""
        first = self.step % self.steps_per_epoch * self.config.batch_size
        indices = self.order[first : first + self.config.batch_size]
        batch, count, positions = self._packed_batch(self.train_dataset, indices, self.generator)
        loss = self.forward_backward(*batch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip)
        self.positions += positions
        rate = schedule(self.positions, self.config)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate
            optimizer.step()
        return self.step + 1, loss, self.config.learning_rate * rate, norm, count

    def _packed_batch(
        self, dataset, indices: Tensor, generator: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor, Rows], int, int]:
        """Some examples as ((tokens, targets, rows) on the device, number of real tokens, of padded positions).

        For a CUDA GPU the batch is made there, on a stream of its own: Python waits for its length, but
        never for the steps that are still being computed.
        """
        if self.device.type != "cuda":
            x, y = dataset.batch(indices, generator)
            lengths = supervised_lengths(y)
            tokens, targets, rows, _ = pack(x, lengths, y, multiple=STREAM_MULTIPLE)
            batch = tokens.to(self.device), targets.to(self.device), rows.to(self.device)
            return batch, int(lengths.sum()), y.numel()
        training = torch.cuda.current_stream()
        with torch.cuda.stream(self._batches):
            x, y = (t.to(self.device, non_blocking=True) for t in dataset.batch(indices, generator))
            lengths = supervised_lengths(y)
            tokens, targets, rows, _ = pack(x, lengths, y, multiple=GRAPH_MULTIPLE, one_group=True)
            count = int(lengths.sum())
        training.wait_stream(self._batches)
        for tensor in (tokens, targets, *rows.tensors):
            tensor.record_stream(training)  # its memory is not given away before the step has read it
        return (tokens, targets, rows), count, y.numel()

    def _forward_backward(self, tokens: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        """Mean loss of a packed batch; its gradients replace those of the step before."""
        for parameter in self.model.parameters():
            parameter.grad = None
        loss = self._loss(tokens, targets, rows)
        loss.backward()
        return loss.detach()

    def _loss(self, tokens: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        """Mean loss of a packed batch."""
        with self._autocast():
            return self.model(tokens, targets, rows=rows)[1]

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    @torch.no_grad()
    def evaluate(self, dataset) -> float:
        """Mean loss a batch of a dataset, without dropout. The training's random numbers stay untouched."""
        self.model.eval()
        generator = torch.Generator().manual_seed(0)
        parts = torch.arange(len(dataset)).split(self.config.batch_size)
        total = sum(float(self._loss(*self._packed_batch(dataset, part, generator)[0])) * len(part) for part in parts)
        self.model.train()
        return total / len(dataset)

    def read_back(self) -> None:
        """Fetch the losses of the steps since the last call and show them to the callbacks.

        Raises:
            DivergedError: one of them is NaN or infinite.
        """
        if not self._pending:
            return
        values = torch.stack([torch.stack((loss, norm)) for _, loss, _, norm, _ in self._pending]).tolist()
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self.seconds += elapsed
        seen = sum(p[4] for p in self._pending)
        self.tokens += seen
        records = [
            Record(step, loss, lr, norm, seen / max(elapsed, 1e-9))
            for (step, _, lr, _, _), (loss, norm) in zip(self._pending, values, strict=True)
        ]
        self._pending.clear()
        for record in records:
            if not (math.isfinite(record.loss) and math.isfinite(record.grad_norm)):
                raise DivergedError(
                    f"the loss diverged at step {record.step} (loss {record.loss}, gradient norm "
                    f"{record.grad_norm}) with learning rate {record.lr:.2e}; try a smaller one"
                )
        self.losses.extend(record.loss for record in records)
        self._each("on_log", records)

    def _each(self, event: str, *args) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    # ------------------------------------------------------------ resuming

    def state_dict(self) -> dict:
        """Everything that a later process needs to go on as if nothing had happened."""
        self.read_back()
        return {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "positions": self.positions,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "order": self.order,
            "losses": list(self.losses),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict`'s result."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in ("step", "positions", "tokens", "seconds", "order"):
            setattr(self, name, state[name])
        self.losses = deque(state.get("losses", []), self.steps_per_epoch)  # earlier versions did not keep them
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_random"])


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024): momentum, made orthogonal before it is taken from the weights.

    torch's own, but for the numbers in which orthogonalize multiplies. Torch takes bfloat16 everywhere, even on
    a CPU that must emulate it and is several times faster in float32.

    Args:
        params: as of any optimiser, matrices alone.
        dtype: of the products; torch.bfloat16 gives torch's results to the bit.
        options: of torch.optim.Muon.
    """

    def __init__(self, params, dtype: torch.dtype, **options):
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum_buffer"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(momentum, group["momentum"])  # Nesterov
                update = orthogonalize(ahead.to(self.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, p.size(0) / p.size(1))))


def orthogonalize(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """About U V^T of a matrix U S V^T: all its directions, of about equal length.

    Newton-Schulz iteration x <- a x + b (x x^T) x + c (x x^T)^2 x, whose coefficients bring every singular
    value between 0 and 1 near 1, and small ones fast (Jordan et al. 2024).

    Args:
        matrix: (rows, columns), in the numbers to compute with.
        coefficients: a, b, c.
        steps: of the iteration.
        eps: least norm that a matrix is divided by.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix  # (short, long)
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T  # (short, long) x (long, short) -> (short, short)
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def make_optimizers(model, config: TrainerConfig) -> list[torch.optim.Optimizer]:
    """AdamW on everything, or Muon on the matrices inside the blocks and AdamW on the rest.

    Each group carries `peak_lr`, which the schedule scales. Muon is meant for hidden layers, so embeddings
    and head stay with AdamW.
    """
    groups = model.parameter_groups(config.weight_decay, config.decay_all)
    matrices = []
    if config.muon_lr > 0:
        matrices = [p for block in model.blocks for p in block.parameters() if p.ndim == 2]
        taken = {id(p) for p in matrices}
        groups = [dict(g, params=[p for p in g["params"] if id(p) not in taken]) for g in groups]
    for group in groups:
        group["peak_lr"] = config.learning_rate
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)
    ]
    if matrices:
        group = {"params": matrices, "peak_lr": config.muon_lr}
        dtype = getattr(torch, config.precision)
        optimizers.append(Muon([group], dtype, lr=config.muon_lr, weight_decay=config.weight_decay))
    return optimizers

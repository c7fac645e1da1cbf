"""The training loop. It knows batches, an optimizer and a learning rate; it does not know the task."""

import math
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class TrainerConfig:
    """How to train."""

    max_epochs: int = 1  # passes over the training set
    max_steps: int | None = None  # end sooner, after so many batches; None: do not
    batch_size: int = 64  # rows a step
    learning_rate: float = 3e-4  # the highest it gets
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW's running averages
    weight_decay: float = 0.1  # on matrices; biases, gains and embeddings are left alone
    grad_norm_clip: float = 1.0  # longer gradients are shortened to this
    warmup_tokens: int = 50_000  # the rate rises in a straight line up to here ...
    final_tokens: int = 1_000_000  # ... and falls along a cosine to a tenth of its height here
    report_every: int = 50  # steps between two entries in the history

    def __post_init__(self):
        for name in ("max_epochs", "max_steps", "batch_size", "report_every"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} ({value}) must be at least 1")


class Trainer:
    """Trains a model whose forward(x, y) gives (logits, loss).

    `history` holds one dict a report: step, lr, and the losses "train" (mean since the last report) and "test".
    """

    def __init__(self, model, train_dataset, test_dataset, config: TrainerConfig):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device)
        self.train_dataset, self.test_dataset, self.config = train_dataset, test_dataset, config
        self.history = []

    def train(self, on_report=None):
        """Runs max_epochs epochs; on_report, if given, is called with each new entry of the history."""
        optimizer = self._make_optimizer()
        loader = DataLoader(self.train_dataset, self.config.batch_size, shuffle=True)
        batches = (batch for _ in range(self.config.max_epochs) for batch in loader)
        step, tokens, losses = 0, 0, []
        self.model.train()
        for x, y in islice(batches, self.config.max_steps):
            x, y = x.to(self.device), y.to(self.device)  # each (B, T)
            _, loss = self.model(x, y)
            losses.append(loss.item())
            if step % self.config.report_every == 0:  # the first report comes before anything was learned
                self._report(step, self._rate(tokens), losses, on_report)
                losses = []
            step, tokens = step + 1, tokens + y.numel()
            for group in optimizer.param_groups:
                group["lr"] = self._rate(tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_norm_clip)
            optimizer.step()
        self._report(step, self._rate(tokens), losses or [loss.item()], on_report)

    @torch.no_grad()
    def evaluate(self, dataset):
        """Mean loss a character over a data set, without dropout."""
        self.model.eval()
        total = 0.0
        for x, y in DataLoader(dataset, self.config.batch_size):
            total += self.model(x.to(self.device), y.to(self.device))[1].item() * len(x)
        self.model.train()
        return total / len(dataset)

    def _report(self, step, rate, losses, on_report):
        entry = {"step": step, "lr": rate, "train": sum(losses) / len(losses)}
        self.history.append(entry | {"test": self.evaluate(self.test_dataset)})
        if on_report:
            on_report(self.history[-1])

    def _make_optimizer(self):
        named = dict(self.model.named_parameters())
        decays = {name for name, p in named.items() if p.dim() == 2 and "emb" not in name}
        groups = [
            {"params": [named[n] for n in named if n in decays], "weight_decay": self.config.weight_decay},
            {"params": [named[n] for n in named if n not in decays], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=self.config.betas)

    def _rate(self, tokens):
        """Learning rate after so many tokens: up in a line, down along a half cosine, then flat."""
        c = self.config
        if tokens < c.warmup_tokens:
            return c.learning_rate * tokens / c.warmup_tokens
        progress = min(1.0, (tokens - c.warmup_tokens) / max(1, c.final_tokens - c.warmup_tokens))
        return c.learning_rate * max(0.1, 0.5 * (1 + math.cos(math.pi * progress)))

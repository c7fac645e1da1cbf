"""The training loop: schedule, steps, optimizers, and resuming."""

import copy
import math
import random
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from batches import derive_seed
from dataset import CharCorruptionDataset
from engine.muon import Muon, muon_and_adamw
from helpers import same, tiny_model
from model import GPT
from reference import mean_loss
from trainer import Callback, DivergedError, Step, Trainer, TrainerConfig, adamw, schedule
from utils import sample


def rows(count: int = 10, width: int = 12) -> TensorDataset:
    """Rows that count upwards from a random start, so the next token can be learned; row i has 4 + i targets."""
    start = torch.randint(1, 5, (count, 1), generator=torch.Generator().manual_seed(0))
    s = (start + torch.arange(width + 1)) % 10 + 1
    ends = 4 + torch.arange(count)[:, None] % (width - 4)
    return TensorDataset(s[:, :-1], s[:, 1:].masked_fill(torch.arange(width) >= ends, 0))


class Hook(Callback):
    """A callback made of functions: Hook(on_step=f, on_end=g)."""

    def __init__(self, **events):
        vars(self).update(events)


def new_trainer(model: GPT, data: Dataset, test=None, make=adamw, **changes) -> tuple[Trainer, list[Step]]:
    """A trainer for a short run, and the list that its steps will be appended to."""
    steps, values = [], {"max_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "lr_decay": True}
    config = TrainerConfig(**(values | {"warmup_tokens": 50, "final_tokens": 300} | changes))
    config.callbacks.append(Hook(on_step=lambda trainer: steps.append(trainer.last)))
    return Trainer(model, data, test, config, make_optimizers=make), steps


def train(*args, **kwargs) -> tuple[Trainer, list[Step]]:
    """A trainer that has trained, and its steps."""
    trainer, steps = new_trainer(*args, **kwargs)
    trainer.train()
    return trainer, steps


# ---------------------------------------------------------------- the schedule and the settings


COSINE = {0: 0, 50: 0.5, 100: 1, 600: 0.5, 1099: 0.1, 1100: 0.1, 1600: 0.1, 2100: 0.1, 10**9: 0.1}
LINEAR = {0: 0, 50: 0.5, 100: 1, 350: 0.75, 600: 0.5, 1000: 0.1, 1100: 0, 5000: 0}


@pytest.mark.parametrize("shape, expected", [("cosine", COSINE), ("linear", LINEAR)])
def test_schedule_at_its_corners(shape, expected):
    """0 at the start, 1 after the warm-up, 1/2 halfway, a tenth (linear: 0) at the end and from there on.

    (minGPT's formula rises again after final_tokens, since the cosine does.) Without lr_decay it is always 1.
    """
    c = TrainerConfig(lr_decay=True, warmup_tokens=100, final_tokens=1100, decay_shape=shape)
    assert {t: schedule(t, c) for t in expected} == pytest.approx(expected)
    c.lr_decay = False
    assert {schedule(t, c) for t in expected} == {1.0}


@pytest.mark.parametrize("name", ["max_epochs", "batch_size", "micro_rows", "num_workers", "decay_shape", "precision"])
def test_settings_that_make_no_sense_are_refused(name):
    """A ValueError names the setting and its value."""
    value = {"decay_shape": "square", "precision": "float16"}.get(name, -1)
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        TrainerConfig(**{name: value})


def test_config_is_left_as_it_was(tmp_path):
    """The Trainer changes neither the config nor its list of callbacks: the same config serves a second run."""
    config = TrainerConfig(batch_size=4, callbacks=[Hook()], ckpt_path=str(tmp_path / "params"), micro_rows=2)
    before, callbacks = copy.copy(config), list(config.callbacks)
    trainer = Trainer(tiny_model(), rows(), rows(3), config)
    trainer.callbacks.append(Hook())
    trainer.train()
    assert config == before and config.callbacks == callbacks


# ---------------------------------------------------------------- steps


def test_steps_epochs_and_events():
    """9 steps in 3 epochs, each with every row; callbacks are called in their order."""
    data, heard, events = rows(), [], ("step", "epoch", "end")
    hooks = [
        Hook(**{f"on_{name}": lambda trainer, name=name, who=who: heard.append((who, name)) for name in events})
        for who in "ab"
    ]
    trainer, steps = train(tiny_model(), data, callbacks=hooks, micro_rows=3)
    wanted = [*3 * [*3 * ["step"], "epoch"], "end"]
    assert heard == [(who, name) for name in wanted for who in "ab"]
    assert [step.number for step in steps] == list(range(1, 10)) and trainer.step == trainer.total_steps == 9
    assert trainer.tokens == sum(step.tokens for step in steps) == 3 * int((data.tensors[1] != 0).sum())
    assert not trainer.model.training


@pytest.mark.parametrize("dropout, micro_rows", [(0.1, None), (0.0, 1), (0.0, 3)])
def test_the_trainer_is_this_loop(dropout, micro_rows):
    """21 steps, loss by loss: the mean over all targets of the batch, clipping at 1, AdamW, a rate per step.

    The schedule counts positions of the padded batch, whatever micro-batches leave out. Weight decay is on all
    parameters but biases. The writer gets the loss and the rate of each step. Rates are high enough for each error in
    an update to show in later losses.
    """
    data, writer = corpus(), Mock()  # TensorBoard's
    shares = {"embd_pdrop": dropout, "resid_pdrop": dropout, "attn_pdrop": dropout}
    model = tiny_model(vocab_size=data.vocab_size, **shares).double()
    other = copy.deepcopy(model)
    changes = {"max_epochs": 7, "warmup_tokens": 300, "final_tokens": 1500, "micro_rows": micro_rows, "seed": 3}
    trainer, steps = train(model, data, writer=writer, **changes)

    biases = [p for name, p in other.named_parameters() if "bias" in name]
    others = [p for name, p in other.named_parameters() if "bias" not in name]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    found, positions = [], 0
    for epoch in range(7):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(derive_seed(3, epoch)))
        for indices in order.split(4):
            examples = []
            for i in indices.tolist():
                random.seed(derive_seed(3, epoch, i))
                examples.append(data[i])
            x, y = map(torch.stack, zip(*examples, strict=True))
            torch.manual_seed(derive_seed(3, len(found)))
            optimizer.zero_grad()
            loss = mean_loss(other(x)[0], y)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0).item()
            positions += len(indices) * 24
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * schedule(positions, trainer.config)
            optimizer.step()
            found.append((loss.item(), group["lr"], grad_norm))

    assert len(found) == len(steps) == 21
    for (loss, lr, grad_norm), step in zip(found, steps, strict=True):
        assert (step.loss, step.lr, step.grad_norm) == pytest.approx((loss, lr, grad_norm), rel=1e-5)
    assert min(norm for *_, norm in found) < 1 < max(norm for *_, norm in found)  # so that clipping matters
    logged = [call.args for call in writer.add_scalar.call_args_list]
    assert logged == [(f"train/{name}", getattr(s, name), s.number) for s in steps for name in ("loss", "lr")]


def test_batch_without_targets_is_passed_over():
    """Its loss is 0, not the mean over nothing, which is NaN."""
    data = rows(4)
    data.tensors[1][2] = 0
    _, steps = train(tiny_model(), data, batch_size=1, max_epochs=2, micro_rows=1)
    assert [step.loss for step in steps].count(0.0) == [step.tokens for step in steps].count(0) == 2


@pytest.mark.parametrize("micro_rows", [None, 1, 3])
def test_bfloat16_is_float32_rounded(micro_rows):
    """Loss and gradient of a step, however rows are grouped."""
    shape = {"batch_size": 10, "max_epochs": 1}
    _, (exact,) = train(tiny_model(), rows(), **shape)
    _, (rounded,) = train(tiny_model(), rows(), precision="bfloat16", micro_rows=micro_rows, **shape)
    for name in ("loss", "grad_norm"):
        assert 0 < abs(getattr(rounded, name) / getattr(exact, name) - 1) < 0.02


class Bigrams(torch.nn.Module):
    """A table of what follows each token: a model that is no GPT."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(11, 11)

    def get_block_size(self) -> int:
        return 3

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.table(idx)
        if targets is None:
            assert idx.size(1) <= 3
            return logits, None
        return logits, torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=0)


@pytest.mark.parametrize("settings", [{}, {"micro_rows": 4, "precision": "bfloat16", "num_workers": 1}])
def test_any_model_learns_any_dataset(settings):
    """And is sampled from, with no more tokens than it can see."""
    model = Bigrams()
    train(model, rows(), max_epochs=30, learning_rate=0.2, lr_decay=False, **settings)
    assert sample(model, torch.tensor([[7], [1]]), 5).tolist() == [[7, 8, 9, 10, 1, 2], [1, 2, 3, 4, 5, 6]]


def test_loss_on_a_test_set():
    """test_loss is the mean over all targets, without dropout; measuring it changes nothing in the training.

    Bug: it was the mean over batches weighted by rows, but rows differ in their number of targets.
    """
    x, y = (test := rows(5)).tensors
    y[0, 1:] = 0
    runs = [train(tiny_model(embd_pdrop=0.3, vocab_size=23), corpus(), asked)[0] for asked in (None, test)]
    wanted = mean_loss(runs[1].model(x)[0], y).item()
    assert runs[1].test_loss == pytest.approx(wanted, rel=1e-5)
    assert same(runs[0].model.state_dict(), runs[1].model.state_dict())


def test_state_dict_is_saved_after_every_epoch(tmp_path):
    """When on_epoch is called, ckpt_path holds the parameters of the epoch."""
    path, seen = tmp_path / "parameters", []
    hook = Hook(on_epoch=lambda t: seen.append((t.step, same(torch.load(path), t.model.state_dict()))))
    train(tiny_model(), rows(), ckpt_path=str(path), callbacks=[hook])
    assert seen == [(3, True), (6, True), (9, True)]


@pytest.mark.parametrize(
    "poison",
    [lambda head: head.data.fill_(math.nan), lambda head: head.register_hook(lambda gradient: gradient * math.inf)],
    ids=["loss", "gradient"],
)
def test_divergence_ends_the_run(poison):
    """A loss or gradient that is not finite stops the run at once; the error names the step and the rate."""
    hook = Hook(on_step=lambda trainer: poison(trainer.model.head.weight) if trainer.step == 4 else None)
    trainer, steps = new_trainer(tiny_model(), rows(), lr_decay=False, callbacks=[hook])
    with pytest.raises(DivergedError, match=r"^[^\n]*step 5 [^\n]*learning rate 1\.00e-02[^\n]*$"):
        trainer.train()
    assert trainer.step == len(steps) == 4


# ---------------------------------------------------------------- resuming


def corpus() -> CharCorruptionDataset:
    """10 documents, corrupted at random: with a batch size of 4, epochs have steps of 4, 4 and 2 rows."""
    return CharCorruptionDataset(
        "".join(f"{a} lives {b}.\n" for a, b in zip("abcdefghij", 2 * "KLMNO", strict=True)), 24
    )


@pytest.mark.parametrize("precision, micro_rows", [("float32", None), ("bfloat16", 3)])
@pytest.mark.parametrize("make", [adamw, muon_and_adamw(0.02)], ids=["adamw", "muon"])
def test_resumed_run_ends_where_an_uninterrupted_one_does(make, precision, micro_rows, tmp_path):
    """Stopped after any step, saved, and loaded into another trainer: the same parameters bit for bit, with dropout.

    Another TrainerConfig.seed gives other parameters.
    """

    def new(start: int = 0, **changes) -> tuple[Trainer, list[Step]]:
        model = tiny_model(start, vocab_size=corpus().vocab_size, embd_pdrop=0.2, resid_pdrop=0.2, attn_pdrop=0.2)
        return new_trainer(model, corpus(), make=make, precision=precision, micro_rows=micro_rows, **changes)

    (whole, _), (elsewhere, _) = new(), new(seed=1)
    whole.train()
    elsewhere.train()
    assert not same(whole.model.state_dict(), elsewhere.model.state_dict())
    for step in (1, 3, 5, 8):
        stop = Hook(on_step=lambda trainer, step=step: setattr(trainer, "stop_requested", trainer.step == step))
        first, _ = new(callbacks=[stop])
        first.train()
        torch.save(first.state_dict(), tmp_path / "state")
        second, steps = new(start=77)
        torch.rand(5)
        second.load_state_dict(torch.load(tmp_path / "state"))
        second.train()
        assert same(second.model.state_dict(), whole.model.state_dict())
        assert [s.number for s in steps] == list(range(step + 1, 10))
        assert second.losses == whole.losses and len(whole.losses) == 3  # of the last epoch
        assert (second.tokens, second.positions) == (whole.tokens, 3 * 10 * 24)
        assert second.seconds > first.seconds > 0


# ---------------------------------------------------------------- optimizers


def test_groups_of_the_optimizers(tiny):
    """Each parameter is in one group; all but biases have weight decay; Muon has only the matrices of the blocks.

    (The course's trainer exempts names with "bias" or "LayerNorm.weight", and no name has the latter.) The rate of
    every group is its own peak times the schedule.
    """
    model = GPT(tiny)
    trainer, _ = train(model, rows(), make=muon_and_adamw(0.05), max_epochs=1, weight_decay=0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], type(o), g) for o in trainer.optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(name for name, _, _ in found) == sorted(names.values())
    parts = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
    matrices = {f"blocks.{i}.{part}.weight" for i in (0, 1) for part in parts}
    assert {name for name, kind, _ in found if kind is Muon} == matrices
    share = schedule(120, trainer.config)
    assert 0.1 < share < 1
    for name, _, group in found:
        assert group["weight_decay"] == (0.0 if "bias" in name else 0.3), name
        assert group["lr"] == pytest.approx(share * (0.05 if name in matrices else 1e-2)), name


@pytest.mark.parametrize("shapes", [[(24, 8)], [(8, 24), (24, 8), (8, 24), (8, 8), (8, 24)]], ids=["one", "stacked"])
def test_muon_is_torchs_but_for_the_products(shapes):
    """In bfloat16 its steps equal torch.optim.Muon's bit for bit, also stacked; in float32 they differ by rounding."""
    generator, results = torch.Generator().manual_seed(0), []
    start, *gradients = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4))
    for make in (torch.optim.Muon, Muon, lambda p, **o: Muon(p, dtype=torch.float32, **o)):
        parameters = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = make(parameters, lr=0.1, weight_decay=0.3)
        for step in gradients:
            for p, gradient in zip(parameters, step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        results.append([p.detach() for p in parameters])
    for torchs, ours, exact, begin in zip(*results, start, strict=True):
        assert torch.equal(ours, torchs)
        assert 0 < (exact - torchs).norm() < 0.02 * (torchs - begin).norm()

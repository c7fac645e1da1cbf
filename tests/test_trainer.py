"""The training loop: schedule, steps, optimisers, repeatability, and going on where a run was stopped."""

import copy
import math
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from batches import groups, lengths
from dataset import CharCorruptionDataset
from engine.muon import Muon, muon_and_adamw, orthogonalize
from helpers import tiny_model
from model import GPT
from reference import mean_loss, relative
from trainer import Callback, DivergedError, Step, Trainer, TrainerConfig, adamw, schedule
from utils import UserError

OPTIMIZERS = pytest.mark.parametrize("make", [adamw, muon_and_adamw(0.02)], ids=["adamw", "muon"])
PRECISIONS = pytest.mark.parametrize("precision, micro_rows", [("float32", None), ("bfloat16", 3)])


class Fixed(Dataset):
    """A dataset of given rows; remembers which rows were asked for."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y, self.asked = x, y, []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.asked.append(i)
        return self.x[i], self.y[i]


def rows(count: int = 10, width: int = 12) -> Fixed:
    """Rows that count upwards from a random start, so that the next token can be learnt; row i has 4 + i targets."""
    start = torch.randint(1, 5, (count, 1), generator=torch.Generator().manual_seed(0))
    s = (start + torch.arange(width + 1)) % 10 + 1
    ends = 4 + torch.arange(count)[:, None] % (width - 4)
    return Fixed(s[:, :-1], s[:, 1:].masked_fill(torch.arange(width) >= ends, 0))


class Hook(Callback):
    """Does at each event what the keyword of its name says."""

    def __init__(self, **events):
        vars(self).update(events)


def new_trainer(model: GPT, data: Dataset, test=None, make=adamw, **changes) -> tuple[Trainer, list[Step]]:
    """A trainer for a short training with everything switched on, and the list where its steps will stand."""
    steps, values = [], {"max_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "lr_decay": True}
    config = TrainerConfig(**(values | {"warmup_tokens": 50, "final_tokens": 300} | changes))
    config.callbacks.append(Hook(on_step=lambda trainer: steps.append(trainer.last)))
    return Trainer(model, data, test, config, make_optimizers=make), steps


def train(*args, **kwargs) -> tuple[Trainer, list[Step]]:
    """The same, trained."""
    trainer, steps = new_trainer(*args, **kwargs)
    trainer.train()
    return trainer, steps


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- the schedule and the settings


def test_schedule_is_mingpts():
    """Warm-up and cosine are minGPT's lr_mult, written out here, at every number of tokens up to final_tokens."""
    c = TrainerConfig(lr_decay=True, warmup_tokens=512 * 20, final_tokens=260_000)
    for tokens in range(0, 260_001, 500):
        progress = float(tokens - 10_240) / float(max(1, 260_000 - 10_240))
        expected = tokens / 10_240 if tokens < 10_240 else max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))
        assert schedule(tokens, c) == pytest.approx(expected, abs=1e-12)


COSINE = {0: 0, 50: 0.5, 100: 1, 600: 0.5, 1099: 0.1, 1100: 0.1, 1600: 0.1, 2100: 0.1, 10**9: 0.1}
LINEAR = {0: 0, 50: 0.5, 100: 1, 350: 0.75, 600: 0.5, 1000: 0.1, 1100: 0, 5000: 0}


@pytest.mark.parametrize("shape, expected", [("cosine", COSINE), ("linear", LINEAR)])
def test_schedule_at_its_corners(shape, expected):
    """0 at the start, 1 after the warm-up, 1/2 halfway, then a tenth (linear: 0) at the end and ever after.

    minGPT's own formula climbs again behind final_tokens, since the cosine does. Without lr_decay all is 1.
    """
    c = TrainerConfig(lr_decay=True, warmup_tokens=100, final_tokens=1100, decay_shape=shape)
    assert {t: schedule(t, c) for t in expected} == pytest.approx(expected)
    c.lr_decay = False
    assert {schedule(t, c) for t in expected} == {1.0}


BAD = {"max_epochs": 0, "batch_size": 0, "num_workers": -1, "decay_shape": "square"}


@pytest.mark.parametrize(
    "name, value", [*BAD.items(), ("micro_rows", 0), ("precision", "float16"), ("learning_rat", 0.9)]
)
def test_settings_that_make_no_sense_are_refused(name, value):
    """What TrainerConfig does not know, and what it cannot do, is refused by name and not ignored."""
    error = UserError if isinstance(value, int) else TypeError if value == 0.9 else ValueError
    with pytest.raises(error, match=name):
        train(tiny_model(), rows(), **{name: value})


# ---------------------------------------------------------------- steps


def test_steps_epochs_and_events():
    """9 steps in 3 epochs, each with every row once in an order of its own; callbacks hear of all in their order."""
    data, heard, events = rows(), [], ("start", "step", "epoch", "end")
    hooks = [
        Hook(**{f"on_{name}": lambda trainer, name=name, who=who: heard.append((who, name)) for name in events})
        for who in "ab"
    ]
    trainer, steps = train(tiny_model(), data, callbacks=hooks, micro_rows=3)
    assert (trainer.step, trainer.total_steps, trainer.steps_per_epoch) == (9, 9, 3)
    epochs = [data.asked[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(data.asked) == 30 and len(set(map(tuple, epochs))) == 3
    wanted = ["start", *3 * [*3 * ["step"], "epoch"], "end"]
    assert heard == [(who, name) for name in wanted for who in "ab"]
    assert [step.number for step in steps] == list(range(1, 10))
    assert trainer.tokens == sum(step.tokens for step in steps) == 3 * int((data.y != 0).sum())
    assert trainer.positions == 3 * data.y.numel()
    assert not trainer.model.training


def test_rates_follow_the_padded_positions():
    """The schedule's clock is padded positions, whatever is cut of them; the writer gets loss and rate of each step."""
    writer = Mock()  # TensorBoard's
    trainer, steps = train(tiny_model(), rows(), writer=writer, micro_rows=1)
    positions = torch.tensor([4, 4, 2] * 3).cumsum(0) * 12
    expected = [1e-2 * schedule(int(seen), trainer.config) for seen in positions]
    assert [step.lr for step in steps] == pytest.approx(expected)
    assert expected[::8] == pytest.approx([1e-2 * 48 / 50, 1e-3])
    logged = [call.args for call in writer.add_scalar.call_args_list]
    assert logged == [(f"train/{name}", getattr(s, name), s.number) for s in steps for name in ("loss", "lr")]


def test_groups_are_the_batch_without_its_padding():
    """Each row is in one group, longest first, cut to a multiple of 8 that keeps every target."""
    y = torch.tensor([[0, 0, 3] + [0] * 16, [1] + [0] * 15 + [2, 0, 0], [0] * 19, [4] + [0] * 18, [5] * 19])
    x = torch.arange(95).view(5, 19)
    assert lengths(y).tolist() == [3, 17, 0, 1, 19]
    assert [(r.tolist(), w.tolist()) for r, w in groups(x, y, None)] == [(x.tolist(), y.tolist())]
    expected = [([4, 1], 19), ([0, 3], 8), ([2], 0)]  # the block ends at 19
    for (got_x, got_y), (picked, width) in zip(groups(x, y, 2), expected, strict=True):
        assert torch.equal(got_x, x[picked, :width]) and torch.equal(got_y, y[picked, :width])


@pytest.mark.parametrize("micro_rows", [None, 1, 3])
def test_training_is_adamw_on_the_mean_loss(micro_rows):
    """Three steps are the course's recipe: mean over ALL targets of the batch, clip to 1, AdamW, decay but for biases.

    Compared is what each parameter moved; not the bias of qkv, whose keys' part has no gradient but rounding.
    """
    data, model = rows(9), tiny_model().double()
    data.y[5] = 0  # a row without targets
    other, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    _, steps = train(model, data, max_epochs=1, batch_size=3, lr_decay=False, micro_rows=micro_rows)
    p = dict(other.named_parameters())
    mean, square = ({name: torch.zeros_like(value) for name, value in p.items()} for _ in range(2))
    for number, asked in enumerate(torch.tensor(data.asked).split(3), 1):
        loss = mean_loss(other(data.x[asked])[0], data.y[asked])
        gradients = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert (steps[number - 1].loss, steps[number - 1].grad_norm) == pytest.approx((loss.item(), norm), rel=1e-5)
        for name, value in p.items():
            g = gradients[name] / max(norm, 1.0)
            mean[name] = 0.9 * mean[name] + 0.1 * g
            square[name] = 0.95 * square[name] + 0.05 * g**2
            root = (square[name] / (1 - 0.95**number)).sqrt()
            value.data *= 1 - 1e-2 * (0.0 if name.endswith("bias") else 0.1)
            value.data -= 1e-2 * mean[name] / (1 - 0.9**number) / (root + 1e-8)
    assert steps[0].grad_norm > 1  # so that clipping matters
    for name, value in model.named_parameters():
        assert name.endswith("qkv.bias") or relative(value.data - start[name], p[name].data - start[name]) < 1e-3, name


def test_batch_without_targets_is_passed_over():
    """Its loss is 0 and not the mean over nothing, which is no number; a row of padding alone is harmless too."""
    data = rows(4)
    data.x[2], data.y[2] = 0, 0
    _, steps = train(tiny_model(), data, batch_size=1, max_epochs=2, micro_rows=1)
    assert [step.loss for step in steps].count(0.0) == [step.tokens for step in steps].count(0) == 2


@PRECISIONS
@OPTIMIZERS
def test_loss_falls(tiny, make, precision, micro_rows):
    """Counting is learnt: the loss falls from about log 11 to under a tenth of it; parameters stay float32."""
    torch.manual_seed(0)
    changes = {"max_epochs": 40, "batch_size": 5, "final_tokens": 10_000}
    trainer, steps = train(GPT(tiny), rows(), make=make, precision=precision, micro_rows=micro_rows, **changes)
    assert steps[0].loss == pytest.approx(math.log(11), abs=0.3)
    assert steps[-1].loss < 0.24
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_loss_on_a_test_set():
    """test_loss is the mean over all targets, without dropout; measuring it does not disturb the training.

    Bug: the mean of the batches' means was weighted by rows, and rows have unequally many targets.
    """
    test = rows(5)
    test.y[0, 1:] = 0
    runs = [train(tiny_model(embd_pdrop=0.3, vocab_size=23), corpus(), asked)[0] for asked in (None, test)]
    wanted = mean_loss(runs[1].model(test.x)[0], test.y).item()
    assert runs[1].test_loss == pytest.approx(wanted, rel=1e-5)
    assert same(runs[0].model.state_dict(), runs[1].model.state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_model_as_it_was(training):
    """A model in training stays in training, one in evaluation stays there; so after a failure."""
    trainer, _ = new_trainer(tiny_model().train(training), rows())
    trainer.evaluate(rows(3))
    assert trainer.model.training == training
    with pytest.raises(IndexError):  # a token that the model does not know
        trainer.evaluate([2 * (torch.tensor([99]),)])
    assert trainer.model.training == training


def test_state_dict_is_saved_after_every_epoch(tmp_path):
    """ckpt_path holds the parameters of the last finished epoch, whole, when the callbacks hear of it."""
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
    """A loss, or a gradient alone, that is no number stops the run at once, with the step and the rate."""
    hook = Hook(on_step=lambda trainer: poison(trainer.model.head.weight) if trainer.step == 4 else None)
    trainer, steps = new_trainer(tiny_model(), rows(), lr_decay=False, callbacks=[hook])
    with pytest.raises(DivergedError, match=r"^[^\n]*step 5 [^\n]*learning rate 1\.00e-02[^\n]*$") as caught:
        trainer.train()
    assert isinstance(caught.value, UserError) and trainer.step == len(steps) == 4
    with pytest.raises(DivergedError, match=r"1\.00e\+30"):
        train(tiny_model(), rows(), lr_decay=False, learning_rate=1e30)


# ---------------------------------------------------------------- repeating and resuming


def corpus() -> CharCorruptionDataset:
    """10 documents of 20 characters, corrupted at random: 3 steps of 4, 4 and 2 an epoch."""
    return CharCorruptionDataset(
        "".join(f"{a} lives {b}.\n" for a, b in zip("abcdefghij", 2 * "KLMNO", strict=True)), 24
    )


@PRECISIONS
@OPTIMIZERS
def test_resumed_run_ends_where_an_uninterrupted_one_does(make, precision, micro_rows, tmp_path):
    """Stopped after any step, written to a file, gone on with elsewhere: the same bits at the end, dropout included.

    So equal seeds give equal parameters, and TrainerConfig.seed alone leads elsewhere.
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
        assert first.step == step
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


# ---------------------------------------------------------------- optimisers


@pytest.mark.parametrize("muon_lr", [None, 0.05])
def test_groups_of_the_optimisers(tiny, muon_lr):
    """Each parameter is in one group; decay is on all but biases, Muon has the matrices of the blocks alone.

    So the course's trainer has it: it exempts names that hold "bias" or "LayerNorm.weight", and nothing has the
    latter. Every group's rate is its own peak times the schedule.
    """
    model, make = GPT(tiny), muon_and_adamw(muon_lr) if muon_lr else adamw
    trainer, _ = train(model, rows(), make=make, max_epochs=1, weight_decay=0.3)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [(names[id(p)], type(o), g) for o in trainer.optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(name for name, _, _ in found) == sorted(names.values())
    parts = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
    matrices = {f"blocks.{i}.{part}.weight" for i in (0, 1) for part in parts} if muon_lr else set()
    assert {name for name, kind, _ in found if kind is Muon} == matrices
    share = schedule(120, trainer.config)
    assert 0.1 < share < 1
    for name, _, group in found:
        assert group["weight_decay"] == (0.0 if "bias" in name else 0.3), name
        assert group["lr"] == pytest.approx(share * (muon_lr if name in matrices else 1e-2)), name


@pytest.mark.parametrize("shapes", [[(24, 8)], [(8, 24), (24, 8), (8, 24), (8, 8), (8, 24)]], ids=["one", "stacked"])
def test_muon_is_torchs_but_for_the_products(shapes):
    """In bfloat16 its steps are torch.optim.Muon's to the bit, in stacks too; in float32 they differ by rounding."""
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


def test_orthogonalize_makes_singular_values_alike():
    """Singular vectors stay, singular values from 0.05 to 1 come to 0.6 to 1.25 (Muon's coefficients; exact SVD)."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 8, generator=generator, dtype=torch.float64))[0] for n in (24, 8))
    values = torch.logspace(-1.3, 0, 8, dtype=torch.float64)
    for left, right in ((u, v), (v, u)):
        for found in left.T @ orthogonalize(torch.stack(2 * [(left * values) @ right.T])) @ right:
            assert (found - found.diag().diag()).abs().max() < 1e-9
            assert found.diag().min() > 0.6 and found.diag().max() < 1.25

"""The training loop: schedule, steps, optimisers, repeatability, and going on where a run was stopped."""

import io
import math

import pytest
import torch

from dataset import CharCorruptionDataset
from helpers import tiny_config, tiny_model
from model import GPT
from packing import supervised_lengths
from reference import NaivePaddedGPT
from trainer import Callback, DivergedError, Muon, Trainer, TrainerConfig, make_optimizers, orthogonalize, schedule
from utils import UserError

DOCUMENTS = "".join(f"{name} lives in {place}.\n" for name, place in zip("abcdefghij", "KLMNOPQRST", strict=True))


class Fixed:
    """A dataset of given rows; remembers which rows were asked for."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor):
        self.x, self.y, self.asked = x, y, []

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices, generator=None):
        self.asked.append(indices.tolist())
        return self.x[indices], self.y[indices]


def rows(count: int = 10, width: int = 12) -> Fixed:
    """Rows that count upwards from a random start, so that the next token can be learnt."""
    start = torch.randint(1, 5, (count, 1), generator=torch.Generator().manual_seed(0))
    s = (start + torch.arange(width + 1)) % 10 + 1
    y = s[:, 1:].clone()
    for row in range(count):
        y[row, 4 + row % (width - 4) :] = 0
    return Fixed(s[:, :-1], y)


class Log(Callback):
    """Keeps what it was told."""

    def __init__(self):
        self.records, self.events = [], []

    def on_start(self, trainer):
        self.events.append("start")

    def on_log(self, trainer, records):
        self.records += records

    def on_step(self, trainer):
        self.events.append(trainer.step)

    def on_epoch(self, trainer):
        self.events.append(f"epoch {trainer.epoch:g}")

    def on_end(self, trainer):
        self.events.append("end")


class StopAt(Callback):
    """Asks for a stop after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, trainer):
        trainer.stop_requested = trainer.step == self.step


def config(**changes) -> TrainerConfig:
    """A short training with everything switched on."""
    values = {"max_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "lr_decay": True}
    return TrainerConfig(**(values | {"warmup_tokens": 50, "final_tokens": 300} | changes))


# ---------------------------------------------------------------- the schedule


def test_schedule_is_mingpts():
    """Warm-up and cosine are minGPT's lr_mult, written out here, at every number of tokens up to final_tokens."""
    c = TrainerConfig(lr_decay=True, warmup_tokens=512 * 20, final_tokens=260_000)
    for tokens in range(0, 260_001, 500):
        if tokens < 10_240:
            expected = tokens / 10_240
        else:
            progress = float(tokens - 10_240) / float(max(1, 260_000 - 10_240))
            expected = max(0.1, 0.5 * (1.0 + math.cos(math.pi * progress)))
        assert schedule(tokens, c) == pytest.approx(expected, abs=1e-12)


def test_schedule_at_its_corners():
    """0 at the start, 1 after the warm-up, 1/2 halfway, a tenth at the end, and a tenth ever after.

    minGPT's own formula climbs again behind final_tokens, since the cosine does.
    """
    c = TrainerConfig(lr_decay=True, warmup_tokens=100, final_tokens=1100)
    assert [schedule(t, c) for t in (0, 50, 100)] == [0.0, 0.5, 1.0]
    assert schedule(600, c) == pytest.approx(0.5)
    assert [schedule(t, c) for t in (1099, 1100, 1600, 2100, 10**9)] == [0.1] * 5


def test_linear_schedule():
    """The linear shape warms up alike, then falls in a straight line to 0 and stays there."""
    c = TrainerConfig(lr_decay=True, warmup_tokens=100, final_tokens=1100, decay_shape="linear")
    expected = {50: 0.5, 100: 1.0, 350: 0.75, 600: 0.5, 1000: 0.1, 1100: 0.0, 5000: 0.0}
    assert {t: schedule(t, c) for t in expected} == pytest.approx(expected)


def test_constant_rate():
    """Without lr_decay the rate is the peak from the first step on."""
    assert [schedule(t, TrainerConfig(lr_decay=False)) for t in (0, 10, 10**12)] == [1.0, 1.0, 1.0]


def test_impossible_settings_are_refused():
    """No epochs and no rows are refused by the name of their flag, an unknown shape by its name."""
    for flag in ("max_epochs", "batch_size"):
        with pytest.raises(UserError, match=f"--{flag} 0"):
            TrainerConfig(**{flag: 0})
    with pytest.raises(ValueError, match="square"):
        TrainerConfig(decay_shape="square")


# ---------------------------------------------------------------- steps


def test_steps_epochs_and_events():
    """10 rows in batches of 4 for 3 epochs are 9 steps; each epoch sees every row once, in an order of its own."""
    data, log = rows(), Log()
    trainer = Trainer(tiny_model(), data, None, config(callbacks=[log], log_every=2))
    trainer.train()
    assert (trainer.step, trainer.total_steps, trainer.steps_per_epoch) == (9, 9, 3)
    assert [len(batch) for batch in data.asked] == [4, 4, 2] * 3
    epochs = [[row for batch in data.asked[i : i + 3] for row in batch] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    steps = [1, 2, 3, "epoch 1", 4, 5, 6, "epoch 2", 7, 8, 9, "epoch 3"]
    assert log.events == ["start", *steps, "end"]
    assert [r.step for r in log.records] == list(range(1, 10))
    assert trainer.tokens == 3 * int(supervised_lengths(data.y).sum())
    assert trainer.positions == 3 * data.y.numel()
    assert not trainer.model.training


def test_rates_follow_the_padded_positions():
    """The rate of a step is the schedule's at the positions of all padded batches so far, its own included."""
    log = Log()
    c = config(callbacks=[log])
    Trainer(tiny_model(), rows(), None, c).train()
    positions, expected = 0, []
    for size in [4, 4, 2] * 3:
        positions += size * 12
        expected.append(1e-2 * schedule(positions, c))
    assert [r.lr for r in log.records] == pytest.approx(expected)
    assert expected[0] == pytest.approx(1e-2 * 48 / 50)
    assert expected[-1] == pytest.approx(1e-3)


@pytest.mark.parametrize("decay_all", [False, True])
def test_training_is_adamw_on_the_padded_loss(decay_all: bool):
    """Three steps are minGPT's recipe on the naive padded model: clip to 1, AdamW (0.9, 0.95), decay on matrices.

    With decay_all, as in the course's trainer, the decay is on all but biases. Compared is what each parameter
    moved; the bias of qkv apart, whose keys' part has no gradient but rounding.
    """
    data = rows(9)
    model = tiny_model().double()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    reference = NaivePaddedGPT(model, torch.float64)
    log = Log()
    settings = config(max_epochs=1, batch_size=3, lr_decay=False, decay_all=decay_all, callbacks=[log])
    Trainer(model, data, None, settings).train()

    decayed = {f"blocks.{i}.{part}.weight" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")}
    decayed.add("head.weight")
    if decay_all:
        decayed = {name for name in reference.p if not name.endswith("bias")}
    mean = {n: torch.zeros_like(p) for n, p in reference.p.items()}
    square = {n: torch.zeros_like(p) for n, p in reference.p.items()}
    for step, asked in enumerate(data.asked, 1):
        loss = reference.loss(data.x[asked], data.y[asked])
        gradients = dict(zip(reference.p, torch.autograd.grad(loss, list(reference.p.values())), strict=True))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert log.records[step - 1].loss == pytest.approx(loss.item(), rel=1e-5)
        assert log.records[step - 1].grad_norm == pytest.approx(norm, rel=1e-5)
        with torch.no_grad():
            for name, p in reference.p.items():
                g = gradients[name] / max(norm, 1.0)
                mean[name] = 0.9 * mean[name] + 0.1 * g
                square[name] = 0.95 * square[name] + 0.05 * g**2
                p -= 1e-2 * (0.1 if name in decayed else 0.0) * p
                root = (square[name] / (1 - 0.95**step)).sqrt()
                p -= 1e-2 * mean[name] / (1 - 0.9**step) / (root + 1e-8)
    assert log.records[0].grad_norm > 1  # so that clipping matters
    for name, p in model.named_parameters():
        if not name.endswith("qkv.bias"):
            moved, wanted = p.detach() - start[name], reference.p[name].detach() - start[name]
            assert (moved - wanted).norm() < 1e-3 * wanted.norm(), name


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_loss_falls(tiny, muon_lr):
    """Counting is learnt: the loss falls from about log 11 to under a tenth of it."""
    log = Log()
    torch.manual_seed(0)
    c = config(max_epochs=40, batch_size=5, muon_lr=muon_lr, final_tokens=10_000, callbacks=[log])
    Trainer(GPT(tiny), rows(), None, c).train()
    assert log.records[0].loss == pytest.approx(math.log(11), abs=0.3)
    assert log.records[-1].loss < 0.24


def test_bfloat16_trains_float32_parameters():
    """Under bfloat16 the parameters stay float32 and the first loss is the float32 one to 1 %, but not to the bit."""
    first = []
    for precision in ("float32", "bfloat16"):
        log = Log()
        model = tiny_model()
        Trainer(model, rows(), None, config(precision=precision, max_epochs=1, callbacks=[log])).train()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        first.append(log.records[0].loss)
    assert first[1] == pytest.approx(first[0], rel=1e-2)
    assert first[0] != first[1]


def test_loss_on_a_test_set():
    """test_loss is the mean naive loss of the test set, without dropout; measuring it does not disturb the training."""
    parameters = []
    for test in (None, rows(4)):
        torch.manual_seed(0)
        model = tiny_model(embd_pdrop=0.3, vocab_size=corpus().vocab_size)
        trainer = Trainer(model, corpus(), test, config())
        trainer.train()
        parameters.append([p.detach().clone() for p in model.parameters()])
    assert trainer.test_loss == pytest.approx(NaivePaddedGPT(model).loss(test.x, test.y).item(), rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(*parameters, strict=True))


# ---------------------------------------------------------------- divergence


class Poison(Callback):
    """Makes a parameter NaN after a step."""

    def __init__(self, after: int):
        self.after = after

    def on_step(self, trainer):
        if trainer.step == self.after:
            with torch.no_grad():
                trainer.model.head.weight[0, 0] = float("nan")


@pytest.mark.parametrize("log_every", [1, 5])
def test_divergence_ends_the_run(log_every):
    """A loss that is NaN stops the run with the first bad step and the rate, though losses are looked at rarely."""
    log = Log()
    c = config(max_epochs=20, lr_decay=False, log_every=log_every, callbacks=[Poison(4), log])
    trainer = Trainer(tiny_model(), rows(), None, c)
    with pytest.raises(DivergedError, match=r"step 5 .*learning rate 1\.00e-02") as caught:
        trainer.train()
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    assert trainer.step <= 6
    assert all(math.isfinite(r.loss) for r in log.records)


def test_absurd_rate_diverges():
    """A learning rate of 1e30 ends in DivergedError and not in a finished run of NaNs."""
    with pytest.raises(DivergedError, match=r"1\.00e\+30"):
        Trainer(tiny_model(), rows(), None, config(lr_decay=False, learning_rate=1e30)).train()


# ---------------------------------------------------------------- repeating and resuming


def corpus() -> CharCorruptionDataset:
    """10 documents, corrupted at random: 3 steps of 4, 4 and 2 an epoch."""
    return CharCorruptionDataset(DOCUMENTS, 24)


def model_for(data: CharCorruptionDataset, dropout: float, seed: int) -> GPT:
    """A model with its own random start."""
    torch.manual_seed(seed)
    drop = {"embd_pdrop": dropout, "resid_pdrop": dropout, "attn_pdrop": dropout}
    return GPT(tiny_config(vocab_size=data.vocab_size, **drop))


def trained(seed: int = 0, dropout: float = 0.2, **changes) -> dict[str, torch.Tensor]:
    """The parameters after 3 epochs on the corpus."""
    data = corpus()
    model = model_for(data, dropout, seed)
    Trainer(model, data, None, config(seed=seed, **changes)).train()
    return model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
def test_same_seed_same_parameters(muon_lr):
    """Two runs with one seed end with equal parameters, bit for bit; another seed ends elsewhere."""
    assert same(trained(3, muon_lr=muon_lr), trained(3, muon_lr=muon_lr))
    assert not same(trained(3, muon_lr=muon_lr), trained(4, muon_lr=muon_lr))


def test_seed_orders_the_examples():
    """TrainerConfig.seed settles the order of the rows."""
    orders = []
    for seed in (0, 0, 1):
        data = rows()
        Trainer(tiny_model(), data, None, config(seed=seed)).train()
        orders.append(data.asked)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("muon_lr", [0.0, 0.02])
@pytest.mark.parametrize("step", [1, 3, 5, 8])
def test_resumed_run_ends_where_an_uninterrupted_one_does(step, muon_lr, precision):
    """Stopped after any step, written to a file, and gone on with by a fresh trainer: the same bits at the end.

    Dropout is on, the corruption is random, the fresh process has other random numbers and another start.
    """
    c = {"muon_lr": muon_lr, "precision": precision}
    whole = trained(**c)
    data = corpus()
    model = model_for(data, 0.2, 0)
    first = Trainer(model, data, None, config(callbacks=[StopAt(step)], **c))
    first.train()
    assert first.step == step
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    data = corpus()
    other = model_for(data, 0.2, 77)
    log = Log()
    second = Trainer(other, data, None, config(callbacks=[log], **c))
    torch.rand(5)
    second.load_state_dict(torch.load(file, weights_only=True))
    second.train()
    assert same(other.state_dict(), whole)
    assert [r.step for r in log.records] == list(range(step + 1, 10))
    assert list(second.losses) == (list(first.losses) + [r.loss for r in log.records])[-3:]  # of the last epoch
    assert second.tokens > first.tokens > 0
    assert second.positions == 3 * 10 * 24
    assert second.seconds > first.seconds > 0


# ---------------------------------------------------------------- optimisers


@pytest.mark.parametrize("muon_lr", [0.0, 0.05])
def test_every_parameter_is_in_one_group(tiny, muon_lr):
    """Each parameter belongs to exactly one group of one optimiser; every group knows its peak rate."""
    model = GPT(tiny)
    optimizers = make_optimizers(model, config(muon_lr=muon_lr))
    found = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    peaks = [{g["peak_lr"] for g in o.param_groups} for o in optimizers]
    assert peaks == ([{1e-2}, {muon_lr}] if muon_lr else [{1e-2}])


def test_muon_gets_the_matrices_of_the_blocks():
    """Muon has the eight matrices of two blocks alone; embeddings, head, biases and LayerNorms stay with AdamW."""
    model = tiny_model()
    names = {id(p): name for name, p in model.named_parameters()}
    adamw, muon = make_optimizers(model, config(muon_lr=0.05, weight_decay=0.3))
    expected = {f"blocks.{i}.{part}.weight" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")}
    assert {names[id(p)] for g in muon.param_groups for p in g["params"]} == expected
    decay = {names[id(p)]: g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert {name for name, value in decay.items() if value} == {"head.weight"}
    assert decay["head.weight"] == muon.param_groups[0]["weight_decay"] == 0.3


def test_both_optimisers_follow_the_schedule():
    """Every group's rate is its own peak times the schedule."""
    c = config(muon_lr=0.05, max_epochs=1)
    trainer = Trainer(tiny_model(), rows(), None, c)
    trainer.train()
    share = schedule(120, c)
    assert 0.1 < share < 1
    assert [g["lr"] for o in trainer.optimizers for g in o.param_groups] == pytest.approx(
        [1e-2 * share, 1e-2 * share, 0.05 * share]
    )


def test_muon_is_torchs_but_for_the_products():
    """In bfloat16 its steps are those of torch.optim.Muon, bit for bit; in float32 they differ by rounding alone.

    Bug: torch's always multiplies in bfloat16, which a CPU without it emulates, far slower than float32.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 8), (8, 8), (8, 24)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]
    makers = (torch.optim.Muon, lambda p, **o: Muon(p, torch.bfloat16, **o), lambda p, **o: Muon(p, torch.float32, **o))
    results = []
    for make in makers:
        parameters = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = make(parameters, lr=0.1, weight_decay=0.3)
        for step in gradients:
            for p, gradient in zip(parameters, step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
        results.append([p.detach() for p in parameters])
    for torchs, ours, exact, start in zip(*results, starts, strict=True):
        assert torch.equal(ours, torchs)
        assert not torch.equal(exact, torchs)
        assert (exact - torchs).norm() < 0.02 * (torchs - start).norm()


def test_orthogonalize_makes_singular_values_alike():
    """Singular vectors stay, singular values from 0.05 to 1 come to 0.6 to 1.25 (Muon's coefficients; exact SVD)."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 8, generator=generator, dtype=torch.float64))[0] for n in (24, 8))
    values = torch.logspace(-1.3, 0, 8, dtype=torch.float64)
    defaults = Muon([torch.nn.Parameter(torch.zeros(2, 2))], torch.float32).param_groups[0]
    options = [defaults[name] for name in ("ns_coefficients", "ns_steps", "eps")]
    for matrix, left, right in (((u * values) @ v.T, u, v), ((v * values) @ u.T, v, u)):
        found = left.T @ orthogonalize(matrix, *options) @ right
        assert (found - found.diag().diag()).abs().max() < 1e-9
        assert found.diag().min() > 0.6 and found.diag().max() < 1.25

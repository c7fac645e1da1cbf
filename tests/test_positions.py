"""experiments/positions.py: the models, the loss by position, and the rows."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from experiments import positions
from experiments.positions import BIN, KINDS, LONGEST, TRAINED, PositionsGPT
from helpers import invent_people, tiny_config, tiny_model
from report import rows
from trainer import Trainer, TrainerConfig
from utils import UserError


def made(kind: str, **changes) -> PositionsGPT:
    """A tiny model of a kind."""
    return tiny_model(make=partial(PositionsGPT, positions=kind), **changes).eval()


def test_sinusoids_are_the_handouts():
    """1(b), entry by entry in Python's numbers; far out too."""
    phi = positions.sinusoids(1000, 10)
    assert phi.shape == (1000, 10) and phi.dtype == torch.float32
    for t in (0, 1, 2, 77, 999):
        for i in range(5):
            angle = t / 10000 ** (2 * i / 10)
            assert phi[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert phi[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("kind", ["learned", "rope"])
def test_the_homeworks_models_are_among_them(kind: str):
    """With its parameters the logits are those of GPT, for rope with a block four times as long too."""
    ours, theirs = made(kind, block_size=96 if kind == "rope" else 24), tiny_model(seed=1, rope=kind == "rope").eval()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(theirs.parameters()), ours.parameters())
    idx = torch.randint(0, 11, (3, 24), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(idx)[0], theirs(idx)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_and_mask_the_order_is_invisible(kind: str):
    """1(a): permuted characters give permuted logits with "none", and with no other kind."""
    model, order = made(kind), torch.randperm(24, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        block.attn.mask.fill_(1)
    idx = torch.arange(24)[None] % 11
    logits, permuted = model(idx)[0][:, order], model(idx[:, order])[0]
    assert torch.allclose(logits, permuted, atol=1e-5) == (kind == "none")


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "none"])
def test_fixed_positions_are_not_trained(kind: str):
    """All kinds of a seed begin with the same weights (or a multiple); steps with weight decay move "learned" alone."""
    torch.manual_seed(3)
    model = PositionsGPT(tiny_config(), kind)
    torch.manual_seed(3)
    rope = PositionsGPT(tiny_config(), "rope")
    rope.tok_emb.weight.data *= 4 if kind == "sinusoidal" else 1  # sqrt(16)
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in rope.named_parameters())
    before = model.pos_emb.clone()
    expected = positions.sinusoids(24, 16)[None] if kind == "sinusoidal" else torch.zeros(1, 24, 16)
    assert torch.equal(before, expected)
    row = torch.arange(25) % 10 + 1
    Trainer(model, [(row[:-1], row[1:])] * 2, None, TrainerConfig(max_epochs=2, learning_rate=0.1)).train()
    assert torch.equal(before, model.pos_emb) == (kind != "learned")


@pytest.mark.parametrize("kind", ["learned", "rope"])
def test_every_bin_is_measured_on_the_same_characters(kind: str):
    """Against one character at a time: the loss of each that every bin can see, from its window's start on."""
    model = made(kind, block_size=TRAINED if kind == "learned" else LONGEST)
    text = torch.randint(1, 11, (551,), generator=torch.Generator().manual_seed(0))
    losses = positions.loss_by_position(model, text, batch_rows=5)
    bins, last = range(LONGEST // BIN), len(text) - LONGEST - 1  # the last window's start
    starts = {c: [BIN * ((c - 1) // BIN - b) for b in bins] for c in range(1, len(text))}  # of c's window for each bin
    seen = [c for c, found in starts.items() if found[-1] >= 0 and found[0] <= last]
    assert len(seen) > 20 and len(losses) == model.block_size // BIN
    for b in (0, 1, len(losses) - 1):
        one_by_one = [-F.log_softmax(model(text[None, starts[c][b] : c])[0][0, -1], -1)[text[c]].item() for c in seen]
        assert losses[b] == pytest.approx(sum(one_by_one) / len(seen), abs=1e-5)


def test_rows(tmp_path: Path, capsys):
    """Small trainings through the command line: the models learn, and add their rows once."""
    (tmp_path / "wiki.txt").write_text(people := invent_people(300, 20).corpus)
    argv = ["--positions", "learned", "none", "--seeds", "1", "--steps", "40", "--device", "cpu"]
    argv += ["--data", str(tmp_path), "--data_name", "mine", "--results", str(tmp_path)]
    assert positions.main(argv) == 0
    found = rows.read("positions", tmp_path)
    bins = found.groupby("positions")["last"].agg(["size", "max"])
    assert (*bins.loc["learned"],) == (8, 64) and (*bins.loc["none"],) == (32, 256)
    assert (found[found["last"] == 40]["loss"] < 0.9 * math.log(len(set(people)))).all()
    before = (tmp_path / "positions.csv").read_text()
    assert positions.main(argv) == 0 and (tmp_path / "positions.csv").read_text() == before
    assert capsys.readouterr().out.count("already done") == 2


def test_bad_input(tmp_path: Path):
    (tmp_path / "wiki.txt").write_text("A short one.\n" * 30)
    for steps, reason in (("0", "--steps 0"), ("9", "more than 512 are needed")):
        with pytest.raises(UserError, match=reason):
            positions.main(["--steps", steps, "--data", str(tmp_path), "--data_name", "x", "--results", str(tmp_path)])

"""experiments/positions.py: the models, the loss by position, the rows, the table and the figures."""

import math

import positions
import pytest
import torch
import torch.nn.functional as F
from engine.files import read_rows
from positions import BIN, LONGEST, STYLES, TRAINED, PositionsConfig, PositionsGPT

import report
from helpers import invent_people, tiny_config, tiny_model
from trainer import Trainer, TrainerConfig
from utils import UserError


def made(kind: str, **changes) -> PositionsGPT:
    """A tiny model with parameters large enough that every part of it matters."""
    torch.manual_seed(0)
    model = PositionsGPT(PositionsConfig(**vars(tiny_config(**changes)), positions=kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def test_sinusoids_are_the_handouts():
    """1(b), entry by entry in Python's numbers; far out too."""
    phi = positions.sinusoids(1000, 10)
    assert phi.shape == (1000, 10) and phi.dtype == torch.float32
    for t in (0, 1, 2, 77, 999):
        for i in range(5):
            angle = t / 10000 ** (2 * i / 10)
            assert phi[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert phi[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)
    with pytest.raises(ValueError, match="even"):
        positions.sinusoids(4, 5)


@pytest.mark.parametrize("kind", ["learned", "rope"])
def test_the_ground_floors_models_are_among_them(kind: str):
    """With its parameters the logits are those of GPT, for rope with a block four times as long too."""
    ours, theirs = made(kind, block_size=96 if kind == "rope" else 24), tiny_model(seed=1, rope=kind == "rope").eval()
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    torch.nn.utils.vector_to_parameters(torch.nn.utils.parameters_to_vector(theirs.parameters()), ours.parameters())
    idx = torch.randint(0, 11, (3, 24), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(idx)[0], theirs(idx)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", STYLES)
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
    model = PositionsGPT(PositionsConfig(**vars(tiny_config()), positions=kind))
    torch.manual_seed(3)
    rope = PositionsGPT(PositionsConfig(**vars(tiny_config()), positions="rope"))
    rope.tok_emb.weight.data *= 4 if kind == "sinusoidal" else 1  # sqrt(16)
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in rope.named_parameters())
    before = model.pos_emb.clone()
    expected = positions.sinusoids(24, 16)[None] if kind == "sinusoidal" else torch.zeros(1, 24, 16)
    assert torch.equal(before, expected)
    row = torch.arange(25) % 10 + 1
    Trainer(model, [(row[:-1], row[1:])] * 2, None, TrainerConfig(max_epochs=2, learning_rate=0.1)).train()
    assert torch.equal(before, model.pos_emb) == (kind != "learned")


@pytest.mark.parametrize("kind", STYLES)
def test_only_learned_positions_end(kind: str):
    """A row of four times the trained length is read by all others, which end there."""
    model, end = positions.make_model(kind, 11).eval(), TRAINED if kind == "learned" else LONGEST
    assert LONGEST == 4 * TRAINED and model(torch.zeros(1, end, dtype=torch.long))[0].shape == (1, end, 11)
    with pytest.raises(ValueError, match=f"{end + 1} tokens does not fit"):
        model(torch.zeros(1, end + 1, dtype=torch.long))


@pytest.mark.parametrize("kind", ["learned", "rope"])
def test_every_bin_is_measured_on_the_same_characters(kind: str):
    """Against one character at a time: the loss of each that every bin can see, from its window's start on."""
    model = made(kind, block_size=TRAINED if kind == "learned" else LONGEST)
    text = torch.randint(1, 11, (551,), generator=torch.Generator().manual_seed(0))
    losses, characters = positions.loss_by_position(model, text, rows=5)
    bins, last = range(LONGEST // BIN), len(text) - LONGEST - 1  # the last window's start
    starts = {c: [BIN * ((c - 1) // BIN - b) for b in bins] for c in range(1, len(text))}  # of c's window for each bin
    seen = [c for c, found in starts.items() if found[-1] >= 0 and found[0] <= last]
    assert characters == len(seen) > 20 and len(losses) == model.block_size // BIN
    for b in (0, 1, len(losses) - 1):
        one_by_one = [-F.log_softmax(model(text[None, starts[c][b] : c])[0][0, -1], -1)[text[c]].item() for c in seen]
        assert losses[b] == pytest.approx(sum(one_by_one) / len(seen), abs=1e-5)


def test_rows_table_and_figure(tmp_path, monkeypatch, capsys):
    """A small training of each kind through the command line: it learns; rows tell their command, once."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(positions, "SIZE", positions.SIZE | {"n_layer": 1, "n_head": 2, "n_embd": 32})
    (tmp_path / "corpus.txt").write_text(people := invent_people(300, 20).corpus)
    page, results = tmp_path / "README.md", tmp_path / "results"
    page.write_text("before\n<!-- positions -->\n<!-- /positions -->\nafter\n")
    argv = ["--corpus", str(tmp_path / "corpus.txt"), "--seeds", "0", "1", "--steps", "60", "--device", "cpu"]
    assert positions.main(argv) == 0
    rows = read_rows(results / "positions")
    assert sorted((row["positions"], row["seed"]) for row in rows) == sorted((k, s) for k in STYLES for s in (0, 1))
    for row in rows:
        assert len(row["losses"]) == (8 if row["positions"] == "learned" else 32)
        assert row["losses"][4] < 0.9 * math.log(len(set(people))) and row["tokens"] == 60 * 32 * 64
        words = f"--positions {row['positions']} --seeds {row['seed']} --steps 60 --corpus FILE"
        assert row["command"] == f"python experiments/positions.py {words}"
    lines = page.read_text().split("\n")
    assert lines[4].startswith("| learned | 0 1 | ") and lines[4].count("no such positions") == 4
    assert len(lines) == 11 and (results / "positions.png").stat().st_size > 10_000
    page.write_text("")
    assert positions.main(argv) == 0 and read_rows(results / "positions") == rows
    printed = capsys.readouterr().out
    assert printed.count("has its row") == 8 and "no page has a place for the table <!-- positions -->" in printed
    page.write_text("A short one.\n" * 30)
    for wrong, words in (("--steps 0", ["--steps", "0"]), ("more than 512 are needed", ["--corpus", str(page)])):
        with pytest.raises(UserError, match=wrong):
            positions.main([*argv, *words])


def test_the_table_is_of_rows_that_are_alike():
    """Means over seeds, Student's intervals (t = 4.303), rises within a seed; the settings that have most rows."""
    told = {"precision": "float32", "hardware": "cpu", "corpus": "c", "settings": "s", "seconds": 90, "date": "2026"}
    rows = [
        {"positions": "none", "seed": seed, "losses": [9.0] * 4 + [a] * 4 + [b] * 24, **told}
        for seed, a, b in ((0, 1.0, 2.0), (1, 2.0, 3.0), (2, 3.0, 4.0))
    ]
    other = [rows[0] | {"settings": "older", "date": "2027"}] * 2
    two, three, rise = "2.00 (-0.48 to 4.48)", "3.00 (0.52 to 5.48)", "1.00 (1.00 to 1.00)"
    line = ["none", "0 1 2", two, three, three, three, rise, "1.5", "cpu, float32"]
    assert positions.table(other + rows).split("\n")[2:] == [f"| {' | '.join(line)} |"]
    assert len(positions.table([]).split("\n")) == 2

"""experiments/recall.py: changed recipes, runs and their rows, what is read from finished runs."""

from argparse import Namespace

import pytest
from torch.utils.tensorboard import SummaryWriter

import recall
import report
from dataset import CharCorruptionDataset
from engine import session
from engine.checkpoints import save_params
from engine.files import add_row, fingerprint, read_rows
from engine.recipes import RECIPES
from helpers import tiny_model
from trainer import Trainer, TrainerConfig
from utils import MASK_CHAR, PAD_CHAR, UserError

FAST = RECIPES["fast"]
PEOPLE = {"Ann Li": "Rome", "Bo Ek": "New York", "Cy Poe": "Bonn", "Di Fo, Jr.": "Lima"}
DOCUMENTS = "\n".join(f"{name}. Born in {place}, {name} met Kafka there in 1901?" for name, place in PEOPLE.items())


def drawn(recipe, epochs: int = 5) -> list[list[str]]:
    """The examples x of a pretraining by a recipe, in the order of the training, split at the masks."""
    documents = CharCorruptionDataset(DOCUMENTS, 128)
    data, _ = session.adapt(recipe, recipe.pretrain, documents, documents, TrainerConfig())
    batches = Trainer(tiny_model(), data, None, TrainerConfig(max_epochs=epochs, batch_size=3, seed=5)).batches()
    rows = [ids for x, _ in batches for ids in x.tolist()]
    return ["".join(documents.itos[i] for i in ids).rstrip(PAD_CHAR).split(MASK_CHAR) for ids in rows]


def test_every_ablation_changes_the_fast_recipe():
    """One choice each, all different, with examples of the handout's form; the last MASK alone may be lacking."""
    found = recall.ablations(FAST)
    assert list(found) == list(recall.ABLATIONS) and len(found) > 8 and RECIPES["fast"] == FAST
    assert len({repr(recipe) for recipe in found.values()}) == len(found)
    parts = {name: drawn(recipe) for name, recipe in found.items()}
    bare = parts.pop("no third MASK")
    assert all(len(example) == 4 and not example[3] for examples in parts.values() for example in examples)
    assert bare == [example[:3] for example in parts["as it is"]]
    x, y = session.Spans(CharCorruptionDataset(DOCUMENTS, 128), recall.Open())[0]
    assert (x == 1).sum() == 2 and x[1:].equal(y[:-1])
    assert 1 < len(recall.ablations(RECIPES["excerpts"])) < len(found)  # the others are about spans that it has not


@pytest.mark.parametrize("change", ["as it is", "everything uniform", "no third MASK", "excerpts"])
def test_exposures_are_what_the_training_drew(tmp_path, change: str):
    """times_asked counts from the settings alone. Bug: a title with a stop of its own ("Jr..") was not found."""
    recipe = RECIPES["excerpts"] if change == "excerpts" else recall.ablations(FAST)[change]
    (tmp_path / "wiki.txt").write_text(DOCUMENTS)
    settings = {"corpus": fingerprint(DOCUMENTS), "seed": 5, "max_epochs": 40, "block_size": 128, "recipe": change}
    settings["spans"] = str(recipe.spans) if recipe.spans else None
    expected = dict.fromkeys(PEOPLE, 0)
    for before, behind, span, *_ in drawn(recipe, 40):
        name = next(name for name in PEOPLE if name[:4] in before + span + behind)
        expected[name] += PEOPLE[name] in span
    assert recall.times_asked(settings, tmp_path, PEOPLE) == expected and sum(expected.values()) > 5
    with pytest.raises(UserError, match="chooses its spans in another way today"):
        recall.times_asked(settings | {"spans": "Aim(0)"}, tmp_path, PEOPLE)


@pytest.fixture()
def lab(tmp_path, monkeypatch):
    """recall with results and runs in a folder, on data of its own, and trainings that only say where they write."""

    class Training:
        def __init__(self, recipe, seed, data, data_name, device, folder):
            lab.trained.append((recipe, seed, list(folder.iterdir())))
            (folder / "rope.finetune.params").touch()
            self.row = {"data": data_name, "seed": seed, "hardware": lab.machine, "dev": lab.dev, "n": 4}

        def pretrained(self, variant):
            row = {"variant": variant, "precision": "float32", "seconds": 60.0, "commit": "c0de"}
            return self.row | row | {"corpus": fingerprint("x")}

    lab = Namespace(trained=[], machine="cpu", dev=0.5, results=tmp_path / "results")
    (tmp_path / "wiki.txt").write_text("x")
    monkeypatch.setattr(recall, "check_data", lambda folder: None)
    monkeypatch.setattr(recall, "Reproduction", Training)
    monkeypatch.setattr(recall, "hardware", lambda device: lab.machine)
    monkeypatch.setattr(recall, "pick_precision", lambda name, device: "float32")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    lab.main = lambda words: recall.main([*words.split(), "--data", str(tmp_path), "--data_name", "mine"])
    return lab


def test_rows_tell_their_command_and_are_not_trained_twice(lab, capsys, monkeypatch):
    """Another machine has rows of its own; other numbers under a recipe's name are trained, and replace the row."""

    def trains(words: str) -> list[tuple]:
        lab.trained.clear()
        lab.main(words)
        return [(recipe, seed) for recipe, seed, _ in lab.trained]

    assert trains("accuracy --seeds 0 1") == [("fast", 0), ("fast", 1)]
    assert "| mine | rope | fast | 0 1 | 50.0% (15.0 to 85.0) | 50.0 to 50.0 |" in capsys.readouterr().out
    assert trains("accuracy --seeds 1 2") == [("fast", 2)]
    for row in read_rows(lab.results / "accuracy"):  # as `make results` writes them
        add_row(lab.results / "accuracy", {k: v for k, v in row.items() if k != "settings"}, report.TRAINED)
    assert trains("accuracy --seeds 0 1 2") == []
    assert trains("curve --epochs 7 9") == [("fast, 7 epochs", 0), ("fast, 9 epochs", 0)]
    words = "curve --recipe fast --variants rope --seeds 0 --epochs 7 --data FOLDER --data_name mine"
    assert read_rows(lab.results / "curve")[0]["command"] == f"python experiments/recall.py {words}"
    lab.machine = "gpu"
    assert trains("curve --epochs 9") == [("fast, 9 epochs", 0)] and trains("curve --epochs 9") == []
    monkeypatch.setitem(RECIPES, "fast", recall.changed(FAST, {"pretrain.batch_size": 7}))
    assert trains("curve --epochs 9") == [("fast, 9 epochs", 0)] and len(read_rows(lab.results / "curve")) == 3
    assert len(trains("ablation --epochs 5")) == len(recall.ABLATIONS)
    commands = [row["command"] for row in read_rows(lab.results / "ablation") if row["change"] == "batch 128"]
    assert len(commands) == 1 and "--epochs 5 --changes 'batch 128'" in commands[0]


def test_seeds_run_side_by_side(lab, tmp_path, monkeypatch):
    """--jobs: a process with one thread for each run, and a log; if one fails, the others end and it is named."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho $OMP_NUM_THREADS "$@"\ncase "$*" in *--seeds\\ 1*) exit 3; esac\n')
    fake.chmod(0o755)
    monkeypatch.setattr(recall.sys, "executable", str(fake))
    with pytest.raises(UserError, match=r"1 of 3 runs failed; see .*seeds_1\.log$"):
        lab.main("accuracy --seeds 0 1 2 --jobs 2")
    log = (tmp_path / "expt" / "accuracy_recipe_fast_variants_rope_seeds_2.log").read_text()
    assert log.startswith("1 ") and f"accuracy --recipe fast --variants rope --seeds 2 --data={tmp_path}" in log
    assert lab.main("accuracy --seeds 0 2 --jobs 2") == 0 and not lab.trained


def test_verify_trains_anew(lab, capsys):
    """Bug: verify took the parameters that the row had left, and so found the same every time."""
    lab.main("accuracy")
    for lab.machine, lab.dev, code, ending in (
        ("gpu", 0.5, 0, "now: dev 50.0% (15.0 to 85.0), gpu, float32, commit c0de\nthe same\n"),
        ("gpu", 0.25, 1, "DIFFERENT, as another machine or precision may make it\n"),
        ("cpu", 0.25, 1, "DIFFERENT\n"),
    ):
        assert lab.main("accuracy --verify mine@rope@fast@0@cpu@float32.json") == code
        assert capsys.readouterr().out.endswith(ending)
    assert [files for *_, files in lab.trained] == [[]] * 4


def test_losses_are_smoothed_over_the_steps_around(lab, tmp_path):
    """A pretraining of 500 steps whose loss is the step's number; a mean has the 115 steps on either side."""
    settings = {"variant": "rope", "recipe": "handout", "seed": 3, "precision": "float32", "max_epochs": 650}
    with SummaryWriter(str(tmp_path / "logs" / "pretrain" / "run_rope_pt_lr")) as writer:
        for step in range(1, 501):
            writer.add_scalar("train/loss", step, step)
    save_params(tmp_path / "rope.pretrain.params", tiny_model(), {"settings": settings, "hardware": "cpu"})
    lab.main(f"losses {tmp_path}")
    assert [row["losses"] for row in read_rows(lab.results / "losses")] == [{"115": 115.5, "460": 423.0}]

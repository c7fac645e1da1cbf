"""experiments/recall.py: changed recipes, counted exposures, tables and figures from rows."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import recall
import report
from dataset import CharCorruptionDataset, Corruption
from recipes import RECIPES
from utils import UserError, add_rows, fingerprint, read_rows

PEOPLE = {"Ann Li": "Rome", "Bo Ek": "Oslo", "Cy Poe": "Bonn", "Di Fo, Jr.": "Lima"}
DOCUMENTS = "\n".join(f"{name}. Born in {place}, {name} met Kafka there?" for name, place in PEOPLE.items())


def test_changed_recipes():
    """A change sets one field, of a phase, of the corruption or of the recipe, and leaves the original alone."""
    fast = RECIPES["fast"]
    assert recall.changed(fast, {}) == fast
    batch = recall.changed(fast, {"pretrain.batch_size": 7})
    assert (batch.pretrain.batch_size, batch.pretrain.max_epochs) == (7, fast.pretrain.max_epochs)
    lead = recall.changed(fast, {"corruption.lead": 0.0, "finetune": RECIPES["handout"].finetune})
    assert lead.corruption == fast.corruption | {"lead": 0.0}
    assert lead.finetune == RECIPES["handout"].finetune
    assert fast.corruption["lead"] > 0


@pytest.mark.parametrize("name", [name for name, changes in recall.ABLATIONS.items() if changes])
def test_every_ablation_changes_the_fast_recipe(name):
    """Each named change is a change of the recipe, of fields that exist, and one that a dataset accepts."""
    recipe = recall.changed(RECIPES["fast"], recall.ABLATIONS[name])
    assert recipe != RECIPES["fast"]
    CharCorruptionDataset(DOCUMENTS, 64, Corruption(**recipe.corruption)).batch(torch.arange(3))


def test_exposures_are_what_the_training_drew(tmp_path):
    """asked_places counts, from the seed alone, the examples of the training whose span is the person's place.

    Bug: a document whose title ends in a stop of its own ("Jr..") was not found.
    """
    (tmp_path / "wiki.txt").write_text(DOCUMENTS, encoding="utf-8")
    settings = {"corpus": fingerprint(tmp_path / "wiki.txt"), "seed": 5, "max_epochs": 40, "batch_size": 2}
    settings["corruption"] = {"new_word": 1.0, "excerpt": 0.7, "one_word": 0.5, "lead": 0.5}
    found = recall.asked_places(settings, tmp_path, list(PEOPLE.items()))
    data = CharCorruptionDataset(DOCUMENTS, 128, Corruption(**settings["corruption"]))
    generator, expected = torch.Generator().manual_seed(5), dict.fromkeys(PEOPLE, 0)
    for _ in range(40):
        for indices in torch.randperm(4, generator=generator).split(2):
            for i, row in zip(indices.tolist(), data.batch(indices, generator)[0], strict=True):
                span = "".join(data.itos[int(t)] for t in row).split(data.MASK_CHAR)[2]
                name = list(PEOPLE)[i]
                expected[name] += span == PEOPLE[name]
    assert found == list(expected.values())
    assert all(4 < count < 40 for count in found[:3])


@pytest.fixture()
def lab(tmp_path, monkeypatch):
    """recall with results and runs in a folder, on data of its own, and trainings that only say where they write."""

    class Training:
        def __init__(self, recipe, seed, data, data_name, device, folder):
            self.folder, self.seed = folder, seed
            trained.append((recipe, seed, list(folder.iterdir())))

        def pretrained(self, variant):
            (self.folder / "rope.finetune.params").touch()
            row = {"data": "mine", "variant": variant, "recipe": "?", "seed": self.seed, "hardware": machine[0]}
            row["precision"] = "float32"
            return row | {"dev": dev[0], "n": 4, "commit": "c0de", "corpus": fingerprint(tmp_path / "wiki.txt")}

    trained: list[tuple] = []
    machine, dev = ["cpu"], [0.5]  # of what it trains next
    for name in ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(recall, "Reproduction", Training)
    monkeypatch.setattr(recall, "hardware", lambda device: machine[0])
    monkeypatch.setattr(recall, "pick_precision", lambda name, device: "float32")
    monkeypatch.setattr(recall, "RESULTS", tmp_path)
    monkeypatch.setattr(recall, "ROOT", tmp_path)
    data = ["--data", str(tmp_path), "--data_name", "mine"]
    parts = {"trained": trained, "folder": tmp_path, "data": data[:2], "machine": machine, "dev": dev}
    return Namespace(main=lambda *words: recall.main([*words, *data]), **parts)


def test_rows_tell_their_command_and_are_not_trained_twice(lab):
    """Another machine has rows of its own.

    Bugs: rows of curve named a command that did not exist, and accuracy trained what had its row.
    """
    lab.main("accuracy", "--seeds", "0", "1")
    lab.main("curve", "--epochs", "7", "9")
    commands = [row["command"] for row in read_rows(lab.folder / "curve.json")]
    words = "--recipe fast --variants rope --seeds 0 --epochs {} --data FOLDER --data_name mine"
    assert commands == [f"python experiments/recall.py curve {words.format(n)}" for n in (7, 9)]
    assert [recipe for recipe, *_ in lab.trained] == ["fast", "fast", "fast, 7 epochs", "fast, 9 epochs"]
    lab.main("accuracy", "--seeds", "1", "2")
    lab.main("curve", "--epochs", "9")
    assert [(recipe, seed) for recipe, seed, _ in lab.trained[4:]] == [("fast", 2)]
    lab.machine[0] = "a GPU"
    lab.main("curve", "--epochs", "9")
    assert len(lab.trained) == 6 and len(read_rows(lab.folder / "curve.json")) == 3


def test_verify_trains_anew(lab, capsys):
    """Bug: verify took the parameters that the row had left, and so found the same every time.

    It also says on what machines both were trained, and why they may differ.
    """
    lab.main("accuracy")
    assert recall.main(["accuracy", "--verify", "0", *lab.data]) == 0
    lab.machine[0] = "another cpu"
    assert recall.main(["accuracy", "--verify", "0", *lab.data]) == 0
    assert [files for *_, files in lab.trained] == [[], [], []]
    shown = capsys.readouterr().out
    assert "then: dev 50.0% (15.0 to 85.0), cpu, float32, commit c0de\n now: dev 50.0% (15.0 to 85.0), another" in shown
    assert shown.endswith("\nthe same\n")
    lab.dev[0] = 0.25
    assert recall.main(["accuracy", "--verify", "0", *lab.data]) == 1
    assert capsys.readouterr().out.endswith("DIFFERENT, as another machine or precision may make it\n")
    lab.machine[0] = "cpu"
    assert recall.main(["accuracy", "--verify", "0", *lab.data]) == 1
    assert capsys.readouterr().out.endswith("DIFFERENT\n")


def test_other_lengths_are_other_ablations(lab):
    """The ablation changes every choice but the length, once each, and leaves out what changes nothing."""
    lab.main("ablation", "--epochs", "5")
    assert [row["change"] for row in read_rows(lab.folder / "ablation.json")] == list(recall.ABLATIONS)
    lab.trained.clear()
    lab.main("ablation", "--epochs", "6", "--changes", "no excerpts", "batch 128")
    assert [recipe for recipe, *_ in lab.trained] == ["fast, no excerpts, 6 epochs", "fast, batch 128, 6 epochs"]
    commands = [row["command"].partition(" --epochs ")[2] for row in read_rows(lab.folder / "ablation.json")[-2:]]
    ending = "--data FOLDER --data_name mine"
    assert commands == [f"6 --changes 'no excerpts' {ending}", f"6 --changes 'batch 128' {ending}"]
    lab.trained.clear()
    lab.main("ablation", "--epochs", "5", "--recipe", "best")
    assert len(lab.trained) == len(recall.ABLATIONS) - 1  # best has leads of any length
    lab.trained.clear()
    lab.main("ablation", "--epochs", "5", "--recipe", "handout")
    changes = ["handout, as it is, 5 epochs", "handout, decay of all but biases, 5 epochs"]
    assert [recipe for recipe, *_ in lab.trained] == changes  # the others are about what the handout's rule lacks


def test_a_trial_on_fewer_people_keeps_the_steps_of_an_epoch(lab):
    """Half of the people, half the batch: run, named and kept apart from the whole; more than there are is refused."""
    for name, people in (("wiki.txt", 64), ("birth_dev.tsv", 12), ("birth_test_inputs.tsv", 11)):
        (lab.folder / name).write_text("x\n" * people)
    words = ("ablation", "--epochs", "5", "--changes", "as it is")
    lab.main(*words)
    lab.main(*words, "--people", "32")
    recipe = recall.RECIPES["fast, as it is, 5 epochs, 32 people"]
    whole = RECIPES["fast"]
    assert (recipe.people, recipe.pretrain.max_epochs) == (32, 5)
    assert recipe.pretrain.batch_size == whole.pretrain.batch_size / 2
    assert recipe.finetune.batch_size == whole.finetune.batch_size / 2
    rows = read_rows(lab.folder / "ablation.json")
    assert [row.get("people") for row in rows] == [None, 32]
    assert "--epochs 5 --people 32 --changes 'as it is'" in rows[1]["command"]
    lab.main(*words, "--people", "32")
    assert len(lab.trained) == 2
    lab.machine[0] = "a GPU"
    lab.main(*words, "--people", "32")
    assert len(lab.trained) == 3
    with pytest.raises(UserError, match="--people 45: 20 to 44 are expected"):
        lab.main(*words, "--people", "45")


def test_tables_and_figures(tmp_path, monkeypatch):
    """draw puts a line a run into the README, seeds together, and writes the three figures.

    Bugs: a row that stands in both files counted as two seeds, and rows of two machines as one run's.
    """
    results, readme = tmp_path / "results", tmp_path / "experiments" / "README.md"
    for folder in (results, readme.parent):
        folder.mkdir()
    readme.write_text("".join(f"<!-- {m} -->\n<!-- /{m} -->\n" for m in ("curve", "ablation", "exposures")))
    monkeypatch.setattr(recall, "RESULTS", results)
    monkeypatch.setattr(recall, "ROOT", tmp_path)
    row = {"data": "own", "variant": "rope", "recipe": "fast", "epochs": 9, "n": 500, "seconds": 120.0}
    row |= {"hardware": "cpu"}
    rows = [row | {"change": "as it is", "seed": seed, "dev": dev} for seed, dev in ((0, 0.30), (1, 0.40))]
    best = row | {"recipe": "best", "seed": 0, "dev": 0.8}
    elsewhere = rows[1] | {"precision": "float32", "dev": 0.2}
    add_rows(results / "curve.json", [*rows, elsewhere, best | {"epochs": 40}], recall.RUN_KEY)
    few = row | {"people": 40, "recipe": "handout", "change": "as it is", "seed": 0, "dev": 0.2, "n": 10, "loss": 1.25}
    rows += [row | {"change": "batch 128", "seed": 0, "dev": 0.1}, few]
    add_rows(results / "ablation.json", rows, recall.RUN_KEY)
    exposed = [{**row, "folder": "f", "exposures": k, "n": 10, "correct": k} for k in (4, 6, 8)]
    add_rows(results / "exposures.json", exposed, ("folder", "exposures"))
    add_rows(results / "accuracy.json", [best], report.TRAINED)
    recall.draw(Namespace())
    text = readme.read_text()
    assert (
        "| as it is | own | rope | fast | 9 | - | cpu | 0 1 | 35.0% (30.9 to 39.3): 30.0, 40.0 | 500 | -, - |" in text
    )
    assert "| as it is | own | rope | handout | 9 | 40 | cpu | 0 | 20.0% (5.7 to 51.0) | 10 | 1.25 |" in text
    assert "| own | rope | fast | 9 | cpu | 0 1 | 35.0% (30.9 to 39.3): 30.0, 40.0 | 500 | 2.0, 2.0 |" in text
    assert "| own | rope | fast | 9 | cpu, float32 | 1 | 20.0% (16.7 to 23.7) | 500 | 2.0 |" in text
    assert text.count("| own | rope | best | 40 | cpu | 0 | 80.0% (76.3 to 83.3) | 500 | 2.0 |") == 1
    assert "| batch 128 | own | rope | fast | 9 | - | cpu | 0 | 10.0% (7.7 to 12.9) | 500 | - |" in text
    assert "| own | rope | fast | 9 | 4 to 6 | 20 | 50.0% (29.9 to 70.1) |" in text
    assert "| own | rope | fast | 9 | 8 | 10 | 80.0% (49.0 to 94.3) |" in text
    for name in ("curve.png", "ablation.png", "exposures.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")

"""scripts/reproduce.py: what `make run` keeps, from any folder and for any data."""

import subprocess
import sys
from dataclasses import replace

import pytest

from engine.recipes import RECIPES
from experiments import speed
from helpers import invent_people, write_data
from report import rows, tables
from scripts.reproduce import Reproduction


@pytest.fixture
def data(tmp_path):
    """A folder with four data files, of invented people."""
    (folder := tmp_path / "my data").mkdir()
    write_data(folder, invent_people(24, 10))
    return folder


def test_the_rows_of_a_run(data, tmp_path, monkeypatch):
    """A row a model, with where it comes from; the original wording of part 4(a) has evaluate's accuracy."""
    phases = ("pretrain", "finetune", "scratch")
    short = {phase: replace(getattr(RECIPES["fast"], phase), max_epochs=1) for phase in phases}
    monkeypatch.setitem(RECIPES, "fast", recipe := replace(RECIPES["fast"], **short))
    monkeypatch.setattr(speed, "plain_step_seconds", lambda *arguments: 1.5)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    Reproduction("fast", 3, data, "my class", "cpu", tmp_path / "out").all(tmp_path / "results")
    assert not list(elsewhere.iterdir()) and len(list((tmp_path / "out").glob("*.params"))) == 5
    kept = ("accuracy", "sensitivity_questions", "loss_curve")
    trained, questions, curve = (rows.read(table, tmp_path / "results") for table in kept)
    assert sorted(trained["model"]) == sorted(tables.MODELS)
    rope, found = (trained[trained["model"] == model].iloc[0] for model in ("rope, pretrained", tables.REWORDED_4A))
    assert found["original"] == rope["dev"] and found["n"] == rope["n"] == 10
    assert found["parameters"] > 3_000_000 and 0 <= found["p_mcnemar"] <= 1
    same = ["data", "recipe", "seed", "hardware", "precision", "settings", "corpus", "commit", "command", "date"]
    assert found[same].equals(rope[same]) and rope["settings"] == rows.settings_of(recipe)
    assert rope["command"].endswith("--recipe fast --seed 3 --data FOLDER --data_name 'my class'")
    for column, share in (("answer", found["original"]), ("reworded_answer", found["dev"])):
        assert (questions[column] == questions["truth"]).mean() == share
    assert len(questions) == 10 and questions[same].iloc[0].equals(rope[same])
    steps = curve[curve["variant"] == "rope"]
    assert steps["step"].is_monotonic_increasing and steps["loss"].mean() == pytest.approx(rope["loss"], abs=0.01)


@pytest.mark.parametrize("program", ["scripts/reproduce.py", "report/page.py", "report/latex.py", "report/llm.py"])
def test_programs_start_in_any_folder(program, tmp_path):
    """Without a path of their own being edited in, and with one line for what is missing."""
    place = {"cwd": tmp_path, "capture_output": True, "text": True}
    assert subprocess.run([sys.executable, rows.ROOT / program, "--help"], **place).returncode == 0
    words = ["--data=nowhere"] if program != "report/page.py" else ["--results=/dev/null/x"]
    done = subprocess.run([sys.executable, rows.ROOT / program, *words], **place)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr

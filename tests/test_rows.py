"""Rows of results: adding, reading, choosing, and where they come from."""

import subprocess
import sys

import pandas as pd
import pytest

from engine.recipes import RECIPES
from report import rows
from utils import UserError

TRAINED = {"data": "own", "variant": "rope", "recipe": "fast", "seed": 0, "hardware": "cpu", "precision": "float32"}
ADDER = """import sys
from report import rows
for seed in range(20):
    rows.add("accuracy", {"data": sys.argv[2], "seed": seed, "dev": seed / 100, "command": "é" * 5000}, sys.argv[1])"""


def test_processes_that_add_rows_at_once_lose_none(tmp_path):
    """Each reads and writes the whole table; who reads meanwhile finds whole rows alone."""
    words = [sys.executable, "-c", ADDER, str(tmp_path)]
    environment = {"PYTHONPATH": f"{rows.ROOT}:{rows.ROOT / 'src'}"}
    adders = [subprocess.Popen([*words, who], env=environment) for who in ("one", "two")]
    while any(adder.poll() is None for adder in adders):
        rows.read("accuracy", tmp_path)
    found = rows.read("accuracy", tmp_path)
    assert len(found) == 40 and [adder.returncode for adder in adders] == [0] * 2
    assert all(found["command"] == "é" * 5000) and all(found["dev"] == found["seed"] / 100)


def test_a_row_replaces_those_with_its_key_and_touches_no_other(tmp_path):
    """An entry that a row lacks is part of its key; a new column leaves old rows empty there."""
    for row in (TRAINED | {"dev": 0.1}, TRAINED | {"dev": 1e-05, "seed": 1}, {"data": "own", "seed": 0, "dev": 0.5}):
        path = rows.add("accuracy", row, tmp_path)
    before = pd.read_csv(path, dtype="str", keep_default_na=False)
    rows.add("accuracy", TRAINED | {"dev": 0.2, "loss": 1.5}, tmp_path)
    after = pd.read_csv(path, dtype="str", keep_default_na=False)
    assert sorted(after["dev"]) == ["0.2", "0.5", "1e-05"]
    kept = [table[table["dev"].isin(["0.5", "1e-05"])].reset_index(drop=True) for table in (before, after)]
    assert kept[0].equals(kept[1][before.columns]) and kept[1]["loss"].tolist() == ["", ""]
    rows.add("losses", [TRAINED | {"step": step, "loss": 1.0} for step in (1, 2, 3)], tmp_path)
    rows.add("losses", [TRAINED | {"step": step, "loss": 2.0} for step in (1, 2)], tmp_path)
    assert rows.read("losses", tmp_path)[["step", "loss"]].to_numpy().tolist() == [[1, 2.0], [2, 2.0]]


def test_texts_stay_texts_and_unknown_cells_are_empty(tmp_path):
    """A fingerprint of digits is no number, and a person may be called None; what is unknown is NaN among numbers.

    Bugs: a zero byte in a reply, or a carriage return, was written, and the table could not be read any more.
    """
    row = TRAINED | {"model": "m", "name": "None", "truth": 'a "b", c', "answer": "\0", "right": True, "corpus": "1e5"}
    row["data"] = "own\r"
    rows.add("analysis_questions", [row, row | {"name": "NaN", "right": False, "confidence": 0.5}], tmp_path)
    first, second = rows.read("analysis_questions", tmp_path).to_dict("records")
    assert first.items() > (row | {"data": "own ", "answer": ""}).items() and (second["name"], second["right"]) == (
        "NaN",
        False,
    )
    assert pd.isna(first["confidence"]) and second["confidence"] == 0.5


DAMAGE = {
    "line 2: wrong number of cells": lambda text: text.replace("float32", "float32,more"),
    "line 2: dev is 'x', no number": lambda text: text.replace("0.25", "x", 1),
    "line 1: ',' expected after": lambda text: '"data"x' + text.removeprefix("data"),
    "line 1: the header lacks seed": lambda text: text.replace("seed", "sead"),
    "line 2: is not UTF-8": lambda text: text.replace("own", "\udcff"),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_line_is_named(tmp_path, said):
    """By file and line, when the table is read and when rows are added to it."""
    path = rows.add("accuracy", TRAINED | {"dev": 0.25}, tmp_path)
    path.write_bytes(DAMAGE[said](path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"accuracy\.csv, {said}.*; (restore|save)"):
        rows.read("accuracy", tmp_path)
    if "no number" not in said:
        with pytest.raises(UserError, match=said):
            rows.add("accuracy", TRAINED, tmp_path)


def test_which_rows_belong_together():
    """Those of the machine with most, or else the latest; current are those of today's settings alone."""
    today = rows.settings_of(RECIPES["fast"])
    told = [("gpu", 0, today, "1"), ("gpu", 1, "older", "2"), ("cpu", 0, "", "3"), ("mps", 0, today, "4")]
    made = [TRAINED | {"hardware": h, "seed": s, "settings": of, "date": date} for h, s, of, date in told]
    found = pd.DataFrame(made)
    assert rows.select(found, data="own")["date"].tolist() == ["1", "2"]
    assert rows.select(found, seed=0)["date"].tolist() == ["4"]
    assert found[rows.is_current(found)]["date"].tolist() == ["1", "4"] and rows.select(found, recipe="best").empty


def test_provenance_tells_the_commit_and_whether_the_code_has_changed(tmp_path, monkeypatch):
    """With + for changed code, but not for changed results; "unknown" outside git."""
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    assert rows.commit() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/a.csv"):
        (tmp_path / name).write_text("old")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "results" / "a.csv").write_text("new")
    made = rows.provenance("make run", "own", "c0", 3, hardware="cpu")
    assert len(made["commit"]) >= 7 and "+" not in made["commit"]
    assert {*rows.PROVENANCE, "data", "seed"} == set(made) and made["settings"] is None
    (tmp_path / "code.py").write_text("new")
    assert rows.commit() == made["commit"] + "+"


@pytest.mark.parametrize("table", sorted(path.stem for path in rows.RESULTS.glob("*.csv")))
def test_the_tables_that_git_keeps_can_be_read(table):
    """By us and by pandas alone; each has the columns that say where a row comes from."""
    found, plain = rows.read(table), pd.read_csv(rows.RESULTS / f"{table}.csv")
    assert len(found) == len(plain) > 0 and {*rows.PROVENANCE, "data", "seed"} <= set(plain)
    assert list(plain.columns)[:4] == [*rows.RUN] and list(plain.columns)[-7:] == [*rows.PROVENANCE]


def test_a_changed_name_of_the_data(tmp_path):
    """Our four files are "own", any others "other"; a missing one is named."""
    for name in rows.DATA_FILES:
        (tmp_path / name).write_bytes((rows.ROOT / name).read_bytes())
    assert rows.data_name(tmp_path) == "own"
    (tmp_path / "birth_dev.tsv").write_text("Where was A B born?\tC\n")
    assert rows.data_name(tmp_path) == "other"
    (tmp_path / "wiki.txt").unlink()
    with pytest.raises(UserError, match=r"wiki\.txt: no such file; a folder with wiki\.txt, birth_places"):
        rows.data_name(tmp_path)

"""Rows of results: what a row is, where it comes from, and which rows belong together.

A table is results/NAME.csv, a row is a line of it. `add` writes rows, `read` and `select` give them as pandas tables;
`provenance` says in every table alike how a row was made. Nothing else reads or writes these files.
"""

import argparse
import csv
import datetime
import io
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from filelock import FileLock

from corpus import build
from engine.recipes import RECIPES, Recipe
from utils import UserError, fingerprint, read_text, write_text

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
DATA_FILES = ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv")

# Which training a row is about: the first columns of every table. How the row was made: the last ones.
RUN = ("data", "variant", "recipe", "seed")
PROVENANCE = ("hardware", "precision", "settings", "corpus", "commit", "command", "date")
TRAINED = (*RUN, "hardware", "precision")
# The columns that identify a row; where a row is a step or a question, those that all rows of one run share.
KEYS = {
    "accuracy": ("model", *TRAINED, "epochs", "change"),  # the last two are empty for a recipe as it is
    "sensitivity_questions": TRAINED,  # a row a question of dev
    "loss_curve": TRAINED,  # a row for each part of a pretraining
    "learning": (*TRAINED, "epochs", "change", "epoch"),  # of the pretraining, a row an epoch
    "exposures": (*TRAINED, "epochs"),  # a row for each number of times that a place was asked for
    "losses": TRAINED,  # a row a step
    "analysis": ("model", *RUN),
    "analysis_questions": ("model", *RUN),  # a row a question of dev
    "analysis_invented": ("model", *RUN),  # a row an invented name
    "analysis_namesakes": ("model", *RUN),  # a row for each kind of people and of name
    "modern_llm": ("model", "data", "prompt", "template", "n"),
    "modern_llm_replies": ("model", "data", "prompt", "template", "n"),  # a row a question
    "positions": ("positions", "seed", "hardware", "precision"),  # a row for each range of positions
    "speed": ("hardware",),  # a row a measurement
    "processes": ("hardware",),  # a row for each size of model and number of processes
    "processes_beside": ("hardware",),  # a row a way to train beside a busy program
    "robustness": ("command",),
}
# Columns that hold text; all others hold numbers, or True and False.
TEXT = {name for key in KEYS.values() for name in key} - {"seed", "epochs", "epoch", "n"}
TEXT |= {*PROVENANCE, "name", "truth", "answer", "same", "questions", "found", "torch"}
TEXT |= {"what", "size", "way", "reworded_answer", "reply", "place"}
REMEDY = "restore the file from git, or delete the line"


# ---------------------------------------------------------------- writing


def add(table: str, lines: dict | Sequence[dict], folder: Path = RESULTS) -> Path:
    """Add rows to a table; rows with the same key (see KEYS) are replaced.

    The table is locked meanwhile, so that several processes may add at once, and written whole or not at all. The
    other rows keep their values. None and NaN are unknown: an empty cell. Zero bytes, which an LLM may reply, are left
    out, since no text file may hold them; a carriage return becomes a blank.

    Args:
        lines: a row, or all rows of one run, by column; those of `provenance` among them.
    """
    path, key = Path(folder) / f"{table}.csv", KEYS[table]
    lines = [lines] if isinstance(lines, dict) else lines
    new = [{name: cell(value) for name, value in line.items()} for line in lines]

    def key_of(line: dict[str, str]) -> tuple[str, ...]:
        return tuple(line.get(name, "") for name in key)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            old = [line for _, line in _cells(path, key)] if path.exists() else []
            replaced = set(map(key_of, new))
            kept = [line for line in old if key_of(line) not in replaced]
            write_text(path, _as_csv(sorted(kept + new, key=key_of), key))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); give another folder of results") from None
    return path


def cell(value: object) -> str:
    """The text of a cell."""
    return "" if pd.isna(value) else str(value).translate({0: None, ord("\r"): " "})


def _as_csv(lines: Sequence[dict[str, str]], key: Sequence[str]) -> str:
    """The text of a table: RUN and the rest of the key first, PROVENANCE last, the other columns between."""
    found = dict.fromkeys([*key, *(name for line in lines for name in line)])
    columns = [*RUN, *(name for name in found if name not in RUN + PROVENANCE), *PROVENANCE]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def provenance(command: str, data: str, corpus: str, seed: int | None = None, **more: str | None) -> dict:
    """The columns that say how a row was made; the commit and the date are today's, so ask at the start of a run.

    Args:
        command: what makes the row again, from the project's root.
        data: name of the data, see `data_name`.
        corpus: fingerprint of its documents.
        more: hardware, precision, settings (see `settings_of`), as far as they are known.
    """
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    known = {"data": data, "seed": seed, "corpus": corpus, "commit": commit(), "command": command, "date": date}
    return dict.fromkeys(PROVENANCE) | known | more


def provenance_of(args: argparse.Namespace, command: str, seed: int | None = None, **more: str | None) -> dict:
    """The same for a program with `flags`, about the data that they name; the command gets the flags for other data."""
    data, corpus = args.data_name or data_name(args.data), fingerprint(read_text(args.data / "wiki.txt"))
    return provenance(command + data_flags(data), data, corpus, seed, **more)


def data_flags(data: str) -> str:
    """How a command says that it is about other data than the project's own."""
    return "" if data == "own" else f" --data FOLDER --data_name {shlex.quote(data)}"


def commit() -> str:
    """The commit of the code, with + if the code was changed since (results and texts are not code)."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", ".", ":!results", ":!*.md"], capture_output=True, text=True
        ).stdout
        return name.strip() + ("+" if changed.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def settings_of(recipe: Recipe) -> str:
    """Fingerprint of a recipe's numbers, which may change under its name; unused settings do not count."""
    used = asdict(recipe, dict_factory=lambda settings: {k: v for k, v in settings if v is not None and k != "about"})
    return fingerprint(repr(used))


def data_name(folder: Path) -> str:
    """ "own" for the files that corpus/build.py writes, "other" for any others. UserError: one of them is missing."""
    for name in DATA_FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; a folder with {', '.join(DATA_FILES)} is expected")
    ours = build.files(build.split(build.read_people()))
    return "own" if all(read_text(folder / name) == ours[ROOT / name].decode() for name in DATA_FILES) else "other"


def flags(results: Path = RESULTS) -> argparse.ArgumentParser:
    """The flags of programs that add rows, or show those of one data set."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--data_name", help="name of the data in the rows (default: own, or other)")
    place = results.relative_to(ROOT)
    parser.add_argument("--results", type=Path, default=results, help=f"folder of the rows (default: {place})")
    return parser


def version(corpora: Iterable[str]) -> str:
    """Which version of our own corpus rows are about, for titles; empty if it is today's."""
    known = set(corpora)
    if known == {fingerprint(read_text(ROOT / "wiki.txt"))}:
        return ""
    return "corpus unknown" if known == {""} else f"corpus {' '.join(sorted(c[:7] for c in known))}, not today's"


def about_data(rows: pd.DataFrame) -> str:
    """The data of rows, for titles; of our own also the version, if the corpus has changed since."""
    data = rows["data"].iloc[0] or "own"
    old = version(rows["corpus"]) if data == "own" else ""
    return f"{data} data" + (f" ({old})" if old else "")


# ---------------------------------------------------------------- reading


def read(table: str, folder: Path = RESULTS) -> pd.DataFrame:
    """The rows of a table; none if there is no file.

    A cell that is empty is "" in a column of TEXT, and NaN in the others. UserError: naming the damaged line.
    """
    path, key = Path(folder) / f"{table}.csv", KEYS[table]
    numbered = _cells(path, key) if path.exists() else []
    rows = pd.DataFrame([line for _, line in numbered], index=[number for number, _ in numbered], dtype="str")
    for name in {*RUN, *key, *PROVENANCE} - {*rows.columns}:
        rows[name] = pd.Series(dtype="str")
    for name in rows.columns.difference(TEXT):
        if len(rows) and rows[name].isin(["True", "False"]).all():
            rows[name] = rows[name] == "True"
            continue
        numbers = pd.to_numeric(rows[name], errors="coerce")
        wrong = rows[name][numbers.isna() & (rows[name] != "")]
        if len(wrong):
            raise UserError(f"{path}, line {wrong.index[0]}: {name} is {wrong.iloc[0]!r}, no number; {REMEDY}")
        rows[name] = numbers
    return rows.reset_index(drop=True)


def _cells(path: Path, key: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a table with their numbers. UserError: naming the line that does not fit the header."""
    reader, lines = csv.DictReader(io.StringIO(read_text(path)), strict=True), []
    try:
        if lacking := [name for name in key if name not in reader.fieldnames]:
            raise UserError(f"{path}, line 1: the header lacks {lacking[0]}; {REMEDY}")
        for line in reader:
            if None in line or None in line.values():
                raise UserError(f"{path}, line {reader.line_num}: wrong number of cells; {REMEDY}")
            lines.append((reader.line_num, line))
    except csv.Error as error:
        raise UserError(f"{path}, line {max(1, reader.line_num)}: {error}; {REMEDY}") from None
    return lines


def is_current(rows: pd.DataFrame) -> pd.Series:
    """Which rows were made with the recipe's numbers of today; rows without settings were not."""
    today = {name: settings_of(recipe) for name, recipe in RECIPES.items()}
    return (rows["settings"] != "") & (rows["settings"] == rows["recipe"].map(today))


def select(rows: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows that have the wanted values, of one machine: the one with most rows, or else the latest."""
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    machines = [group for _, group in rows.groupby(["hardware", "precision"], sort=False)]
    return max(machines, key=lambda group: (len(group), group["date"].max()), default=rows)

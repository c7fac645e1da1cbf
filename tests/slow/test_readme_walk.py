"""README's "From clone to Gradescope" and its way without make or bash, walked by people with other data than ours."""

import csv
import re
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import People, Program, invent_people, save_tiny_llama, write_data
from report import rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

README = (rows.ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.split("## From clone to Gradescope\n")[1].split("\n## ")[0]
CODE = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", SECTION)]
# Of the section's commands: hours long, and the report from our results.
NOT_WALKED = ("make run RECIPE=handout", "make report")
# What the section adds to each command for data in a folder of their own.
ADDED = {
    "make": "DATA=path/to/folder DATA_NAME=course",
    "python experiments/confidence.py": "--data path/to/folder --data_name course",
    "python scripts/submission.py": "--data path/to/folder",
}
WITHOUT_MAKE = re.findall(r"^(?:py|\.venv\\Scripts\\python) .+$", README, re.M)


def people() -> People:
    """24 people in train, 12 each in dev and test, and a question mark in every fourth document."""
    people = invent_people(48, 24)
    documents = people.corpus.splitlines(keepends=True)
    documents[::4] = [document.replace("\n", " Or was it?\n") for document in documents[::4]]
    dev, test = people.unseen.splitlines(keepends=True)[:12], people.questions.splitlines(keepends=True)[12:]
    return replace(people, corpus="".join(documents), unseen="".join(dev), questions="".join(test))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git tracks, as they are now, and an environment with the packages of this one."""
    folder = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=rows.ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((rows.ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=folder, check=True)
    (packages,) = (folder / ".venv").glob("lib/*/site-packages")
    paths = (sysconfig.get_path("purelib"), folder, folder / "src")  # the last two as `pip install -e .` adds them
    (packages / "clone.pth").write_text("".join(f"{path}\n" for path in paths))
    for name in ("ready", "llm-ready"):  # installed, for make
        (folder / ".venv" / name).touch()
    return folder


def walk(folder: Path, *words: str, codes: tuple[int, ...] = (0,), **more: str) -> str:
    """Run a command in a folder as in a fresh terminal; returns what it prints."""
    own = {"PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL"}
    environment = {name: value for name, value in Program.environment().items() if name not in own} | more
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in codes, f"{words}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


def commands(data: Path | None, name: str) -> list[str]:
    """The section's commands in their order, for data in a folder of their own if one is given."""
    assert {*ADDED.values(), *NOT_WALKED} <= {*CODE}
    found = [code for code in CODE if code.startswith(("make ", "python ")) and code not in NOT_WALKED]
    if data is None:
        return found
    added = [next(words for start, words in ADDED.items() if command.startswith(start)) for command in found]
    told = [words.replace("path/to/folder", f"'{data}'").replace("course", f"'{name}'") for words in added]
    return [" ".join(pair) for pair in zip(found, told, strict=True)]


@pytest.mark.parametrize("name", ["other", "my class"], ids=["files in place of ours", "DATA and DATA_NAME"])
def test_from_clone_to_gradescope(clone, tmp_path, name):
    """Every command of the section works, and nothing that it writes is about our data."""
    save_tiny_llama(tmp_path / "tiny-llama")
    is_in_place = name == "other"
    (data := clone if is_in_place else tmp_path / "my data").mkdir(exist_ok=True)
    write_data(data, people())
    said = ""
    for command in commands(None if is_in_place else data, name):
        command += f" LLM={tmp_path / 'tiny-llama'}" * command.startswith("make llm")
        may_warn = "--check" in command  # about an accuracy below the handout's bar
        said += walk(clone, "bash", "-c", f"source .venv/bin/activate; {command}", codes=(0, may_warn))
    assert "total: 0 MISSING, 0 PROBLEM" in said and (clone / "assignment3.zip").is_file()
    results, report = clone / "expt" / "results", clone / "expt" / "report"
    tables = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in results.glob("*.csv")}
    assert {"accuracy", "sensitivity_questions", "modern_llm", "analysis_questions"} <= tables.keys()
    assert {row["data"] for table in tables.values() for row in table} == {name}
    written = [path for path in [*results.iterdir(), *report.iterdir()] if path.suffix in (".csv", ".md", ".tex")]
    shown = "\n".join(path.read_text(encoding="utf-8") for path in written)
    shown += said + walk(report, "pdftotext", "report.pdf", "-")
    assert f"data {name}" in said and f"dataName}}{{``{name}''}}" in shown
    assert re.findall(r".*(?:\bdata own\b|\| own +\|).*", shown) == []
    ours = [question for question, *_ in csv.reader((rows.ROOT / "birth_dev.tsv").open(encoding="utf-8"), "excel-tab")]
    names = [question.removeprefix("Where was ").removesuffix(" born?") for question in ours]
    assert len(names) == 500 and [name for name in names if name in shown] == []


def test_without_make_or_bash(clone, tmp_path):
    """README's commands for Windows, as far as Linux allows: the whole path, on a PATH without any program."""
    make_environment, install, reproduce = WITHOUT_MAKE
    assert make_environment == "py -m venv .venv" and (clone / install.split()[-1]).is_file()  # the fixture did these
    program, script = reproduce.replace("Scripts\\python", "bin/python").replace("\\", "/").split()
    (empty := tmp_path / "no programs").mkdir()
    before = {path for path in clone.rglob("*") if "__pycache__" not in path.parts}
    said = walk(clone, str(clone / program), script, "--recipe", "smoke", PATH=str(empty))
    assert "rope, pretrained" in said.split("=== results")[1]
    new = {path for path in clone.rglob("*") if "__pycache__" not in path.parts} - before
    assert {path.relative_to(clone).parts[:2] for path in new - {clone / "expt"}} == {("expt", "smoke")}
    accuracy = (clone / "expt" / "smoke" / "results" / "accuracy.csv").read_text()
    assert accuracy.count(",unknown,") == 2  # the commit, without git
    # from another folder, where it finds all trainings complete
    (elsewhere := tmp_path / "elsewhere").mkdir()
    again = walk(elsewhere, str(clone / program), str(clone / script), "--recipe", "smoke", PATH=str(empty))
    assert not list(elsewhere.iterdir()) and "epoch 1/" in said and "epoch 1/" not in again

"""What other people's editors, shells, schedulers and machines do to the programs."""

import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
import torch

import run
import utils
from batches import STOP_SIGNALS
from engine import machine
from helpers import SRC, Program, invent_people
from london_baseline import main as london
from parse_place import parse_place
from utils import UserError, evaluate_places, read_pairs, read_text

ROOT = SRC.parent
TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--batch_size", "4", "--device", "cpu"]
PRETRAIN = ["pretrain", "vanilla", "corpus.txt", "--writing_params_path", "params", *TINY]

# ---------------------------------------------------------------- editors and spreadsheets

AS_MEANT = {
    "cells in quotes": ('"Where was Ada Lund, Jr. born?"\t"London"\n', ("Where was Ada Lund, Jr. born?", "London")),
    "doubled quotes": ('"Where was ""Al"" Ek born?"\tBonn\n', ('Where was "Al" Ek born?', "Bonn")),
    "quotes inside a cell": ('Where was "Al" Ek born?\tBonn\n', ('Where was "Al" Ek born?', "Bonn")),
    "empty cells and rows": ("Where was Ada born?\tBonn\t\t\n\t\t\n\t\t\n", ("Where was Ada born?", "Bonn")),
    "empty column of answers": ("Where was Ada born?\t\n", ("Where was Ada born?", "")),
    "invisible characters": (
        "\ufeffWhere was A\u00adda\u00a0Ek born?\tNew\u202fYork\u200b\u200e\n",
        ("Where was Ada Ek born?", "New York"),
    ),
}


@pytest.mark.parametrize("text, pair", AS_MEANT.values(), ids=AS_MEANT)
def test_pairs_read_as_meant(tmp_path, text, pair):
    """What a table editor or a web page adds to a file is no part of questions and places, nor of the score."""
    assert [(question, place) for _, question, place in read_pairs(text, "source")] == [pair]
    path = tmp_path / "dev.tsv"
    path.write_text(text, encoding="utf-8")
    assert evaluate_places(path, [pair[1]]) == ((1, 1) if pair[1] else (0, 0))


GOOD = "Where was Bo born?\tOslo\n"
REFUSED = {
    "header": ("question\tplace\n" + GOOD, "line 1: has no question mark at the end of 'question'"),
    "commas for tabs": ("Where was Ada born?,Bonn\n", "line 1: has no question mark"),
    "cell over two lines": (GOOD + '"Where was Ada\nborn?"\tBonn\n', "line 2: cannot be read"),
    "typographic quotes": (GOOD + "“Where was Ada born?”\t“Bonn”\n", "line 2: has a cell in typographic quotes"),
    "full-width question mark": (GOOD + "Where was Ada born？\tBonn\n", "line 2: has no question mark"),
    "first answer missing": ("Where was Ada born?\n" + GOOD * 2, "line 1: has no tab"),
    "a cell too many": (GOOD + "Where was Ada born?\tRome\tBonn\n", "line 2: has 2 tabs"),
    "blank line": (GOOD + "\n" + GOOD, "line 2: is blank"),
    "no name": (GOOD + "Where was  born?\tRome\n", "line 2: has no name to ask for"),
    "no question": (GOOD + "\tRome\n", "line 2: has no name to ask for"),
    "blanks for a place": (GOOD * 2 + "Where was Ada born?\t \n", "line 3: has no place after the tab"),
    "one answer too many": ("Where was Ada born?\n" * 2 + GOOD, "line 3: has 1 tab; a question alone is expected"),
}


@pytest.mark.parametrize("text, said", REFUSED.values(), ids=REFUSED)
def test_lines_refused_by_number(text, said):
    """A line that cannot be meant as a question, or as a pair among pairs, is refused in one line."""
    with pytest.raises(UserError, match=re.escape(f"source, {said}")) as caught:
        read_pairs(text, "source")
    assert "\n" not in str(caught.value)


def test_quotes_are_mentioned_once(tmp_path, monkeypatch, capsys):
    """The baseline counts a quoted London, and says once that quotes were taken off."""
    monkeypatch.chdir(tmp_path)
    utils.note.cache_clear()
    Path("dev.tsv").write_text('"Where was Ada, Jr. born?"\tLondon\nWhere was Bo born?\t"London"\n')
    london(["--eval_corpus_path", "dev.tsv"])
    out = capsys.readouterr().out
    assert "Correct: 2.0 out of 2.0" in out and out.count("note: dev.tsv: the quotes") == 1


def test_decomposed_accents(tmp_path):
    """A name typed as letter and accent is the name of the corpus, in texts and in replies."""
    path = tmp_path / "text"
    path.write_text(unicodedata.normalize("NFD", "Łódź, Zürich\n"), encoding="utf-8")
    assert read_text(path) == "Łódź, Zürich\n"
    assert parse_place(unicodedata.normalize("NFD", "Zürich"), "Where was Ada born?") == "Zürich"


@pytest.mark.parametrize("dash", "–—−")
def test_dashes_of_a_pdf(dash):
    """A flag copied from a PDF has another dash, which argparse would call an unknown word."""
    with pytest.raises(UserError, match=f"{dash}writing_params_path: begins with a dash"):
        run.main(["pretrain", "vanilla", "wiki.txt", f"{dash}writing_params_path", "params"])


# ---------------------------------------------------------------- shells and mounts


def test_pipes_are_refused(tmp_path):
    """`<(head dev.tsv)` can be read once, but evaluate reads twice: refused before anything is done."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe"):
        read_text(tmp_path / "pipe")


@pytest.mark.parametrize("end", ["| head -1", "2>&1 | head -1", ">&-", "2>&-", "> /dev/full"])
def test_lost_output_ends_no_training(program, end):
    """Parameters are written though nobody reads what is printed, or nothing can be."""
    program.people(invent_people(8, 3))
    command = f'"$@" {end}; exit ${{PIPESTATUS[0]}}'
    words = ["bash", "-c", command, "bash", sys.executable, SRC / "run.py", *PRETRAIN, "--max_epochs", "5"]
    done = subprocess.run(words, cwd=program.folder, env=program.environment(), capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (program.folder / "params").stat().st_size > 1000


# ---------------------------------------------------------------- signals and schedulers

WITH_WORKERS = """
import dataclasses, sys
sys.path.insert(0, {src!r})
import torch.multiprocessing, run, utils
adapt = run.machine.adapt
run.machine.adapt = lambda config, args: dataclasses.replace(adapt(config, args), num_workers=2)
if __name__ == "__main__":
    torch.multiprocessing.set_start_method(sys.argv[1])
    sys.exit(utils.cli(lambda: run.main(sys.argv[2:])))
"""


def in_a_group(program: Program, method: str = "fork") -> subprocess.Popen:
    """A training with two DataLoader workers, as on a GPU, that has begun; a process group of its own."""
    program.people(invent_people(8, 3))
    script = program.write("workers.py", WITH_WORKERS.format(src=str(SRC)))
    words = [sys.executable, str(script), method, *PRETRAIN, "--max_epochs", "100000"]
    process = program.start(words, start_new_session=True)
    next(line for line in process.stdout if line.startswith("epoch 3/"))
    return process


@pytest.mark.parametrize(
    "number, method",
    [("SIGTERM", "fork"), ("SIGINT", "forkserver"), ("SIGHUP", "fork"), ("SIGUSR1", "fork")],
)
def test_a_signal_to_the_whole_group(program, number, method):
    """scancel, systemd, Ctrl-C, a lost terminal, a scheduler's warning: a checkpoint and no traceback."""
    assert {signal.SIGUSR2, signal.SIGXCPU} < set(STOP_SIGNALS)  # as SIGUSR1
    process = in_a_group(program, method)
    os.killpg(process.pid, signal.Signals[number])
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at step" in said and "Traceback" not in said, said
    assert (program.folder / "params.checkpoint").stat().st_size > 1000


def test_workers_end_with_their_parent(program):
    """Of a killed training nothing lives on, although its workers ignore signals."""
    process = in_a_group(program)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


# ---------------------------------------------------------------- machines


def test_a_gpu_that_is_not_used(tmp_path, monkeypatch, capsys):
    """On the CPU of a machine with an NVIDIA GPU a run says so, unless the CPU was asked for."""
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    utils.note.cache_clear()
    assert machine.pick_device("cpu").type == "cpu" and not capsys.readouterr().out
    machine.pick_device("auto")
    assert "seems to have an NVIDIA GPU" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["run.py", "sensitivity.py", "modern_llm.py"])
@pytest.mark.parametrize("own", [None, "7"])
def test_waiting_threads_sleep_sooner(program, monkeypatch, script, own):
    """GOMP_SPINCOUNT is set when torch is loaded; what the user has set stays."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    program.write("torch.py", "import os, sys; sys.exit('spins ' + os.environ['GOMP_SPINCOUNT'])\n")
    monkeypatch.setenv("PYTHONPATH", str(program.folder))
    assert program(script=script).stderr.strip().endswith(f"spins {own or 10000}")


def test_python_without_the_folder_of_the_script(program):
    """`python -P` and `python -m src.NAME` find the modules of src/."""
    for name in ("run", "dataset", "london_baseline", "sensitivity", "modern_llm"):
        words = ["-P", SRC / f"{name}.py"] if name != "run" else ["-m", "src.run"]
        done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


def make(*words: str, rules: str = "") -> str:
    """What make prints; `rules` come behind the Makefile's."""
    command = ["make", "-s", "-f", "Makefile", "-f", "-", *words]
    return subprocess.run(command, cwd=ROOT, input=rules, capture_output=True, text=True, check=True).stdout


def test_variables_of_make():
    """DATA, DATA_NAME and LLM arrive as one word each, with ~ as the home folder; other data get no rows in results/.

    Bugs: `make llm` always asked about the data here; `make results` left index.html as it was, then ended in an error.
    """
    data, theirs = f"{Path.home()}/my data", ("DATA=~/my data", "DATA_NAME=my class")
    printed = make("-n", "run", "submission", *theirs)
    assert printed.count(f'--data "{data}"') == 2 and '--data_name "my class"' in printed
    printed = make("-n", "llm", "LLM=my models/x.gguf", *theirs)
    asked, kept = printed.split("src/modern_llm.py")[1].splitlines()
    assert '--model "my models/x.gguf"' in asked and f'--eval_corpus_path "{data}/birth_dev.tsv"' in asked
    assert f'report/llm.py --data "{data}" --data_name "my class" --results "expt/results"' in kept
    programs = ["reproduce.py", "confidence.py", "page.py"]
    printed = make("-n", "results")
    assert "--results results" in printed and re.findall(r"\w+\.py", printed) == programs
    assert "confidence.py" not in make("-n", "results", *theirs)  # its rows would hold their questions


def test_settings_of_other_installs(monkeypatch):
    """Settings of pip and Python in the environment do not lead packages past .venv, or others into it."""
    for name in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "1")
    printed = make("show", rules="show:\n\t@env\n")
    assert "PIP_USER=0" in printed and not re.search("(?m)^(PIP_TARGET|PIP_PREFIX|PYTHONPATH|PYTHONHOME)=", printed)

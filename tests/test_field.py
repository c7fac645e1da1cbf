"""What other people's editors, shells, schedulers, machines and language models do to the programs."""

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
from modern_llm import Chat
from parse_place import normalise, parse_place, without_thoughts
from utils import UserError, atomic_write, check_writable, cli, evaluate_places, read_pairs, read_text

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
    "byte order mark inside": ("\ufeffWhere was Ada born?\tBonn\n", ("Where was Ada born?", "Bonn")),
    "no-break spaces": ("Where was Ada\u00a0Ek born?\tNew\u202fYork\n", ("Where was Ada Ek born?", "New York")),
    "invisible characters": ("Where was A\u00adda born?\tBonn\u200b\u200e\n", ("Where was Ada born?", "Bonn")),
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
    "quoted, with commas": ('"Where was Ada, Jr. born?",Bonn\n', "line 1: cannot be read"),
    "blanks for tabs": ("Where was Ada born?    Bonn\n", "line 1: has no question mark"),
    "cell over two lines": (GOOD + '"Where was Ada\nborn?"\tBonn\n', "line 2: cannot be read"),
    "typographic quotes": (GOOD + "“Where was Ada born?”\t“Bonn”\n", "line 2: has a cell in typographic quotes"),
    "full-width question mark": (GOOD + "Where was Ada born？\tBonn\n", "line 2: has no question mark"),
    "marks of a merge": (GOOD + "<<<<<<< HEAD\n", "line 2: has no question mark"),
    "end of file in DOS": (GOOD + "\x1a", "line 2: has no question mark"),
    "first answer missing": ("Where was Ada born?\n" + GOOD * 2, "line 1: has no tab"),
    "a cell too many": (GOOD + "Where was Ada born?\tRome\tBonn\n", "line 2: has 2 tabs"),
    "blank line": (GOOD + "\n" + GOOD, "line 2: is blank"),
    "no name": (GOOD + "Where was  born?\tRome\n", "line 2: has no name to ask for"),
    "no question": (GOOD + "\tRome\n", "line 2: has no name to ask for"),
    "blanks for a place": (GOOD * 2 + "Where was Ada born?\t \n", "line 3: has no place after the tab"),
    "last answer missing": (GOOD * 2 + "Where was Ada born?\n", "line 3: has no tab"),
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


def test_links_stay(tmp_path):
    """An output that is a symbolic link (to a drive, to scratch) is written where the link points."""
    (tmp_path / "drive").mkdir()
    link, target = tmp_path / "params", tmp_path / "drive" / "params"
    link.symlink_to(target)
    check_writable(link)
    with atomic_write(link) as file:
        file.write(b"x")
    assert link.is_symlink() and target.read_bytes() == b"x" and os.listdir(tmp_path / "drive") == ["params"]


def test_names_of_a_script_with_windows_line_ends(tmp_path):
    """In such a script the last word of a command ends with CR; a file of that name would be hard to find."""
    with pytest.raises(UserError, match=r"params\\r': the name has a control character"):
        check_writable(tmp_path / "params\r")


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
suit = run.machine.suit
run.machine.suit = lambda config, args: dataclasses.replace(suit(config, args), num_workers=2)
if __name__ == "__main__":
    torch.multiprocessing.set_start_method(sys.argv[1])
    sys.exit(utils.cli(lambda: run.main(sys.argv[2:])))
"""


def in_a_group(program: Program, method: str = "fork") -> tuple[subprocess.Popen, Path]:
    """A training with two DataLoader workers, as on a GPU, that has begun; a process group of its own."""
    program.people(invent_people(8, 3))
    script, log = program.write("workers.py", WITH_WORKERS.format(src=str(SRC))), program.folder / "log"
    words = [sys.executable, script, method, *PRETRAIN, "--max_epochs", "100000"]
    with log.open("w") as file:
        place = {"cwd": program.folder, "env": program.environment(), "start_new_session": True}
        process = subprocess.Popen(words, **place, stdout=file, stderr=file)
    while process.poll() is None and "epoch 3/" not in log.read_text():
        time.sleep(0.05)
    return process, log


@pytest.mark.parametrize(
    "number, method",
    [("SIGTERM", "fork"), ("SIGINT", "forkserver"), ("SIGHUP", "fork"), ("SIGUSR1", "fork")],
)
def test_a_signal_to_the_whole_group(program, number, method):
    """scancel, systemd, Ctrl-C, a lost terminal, a scheduler's warning: a checkpoint and no traceback."""
    assert {signal.SIGUSR2, signal.SIGXCPU} < set(STOP_SIGNALS)  # as SIGUSR1
    process, log = in_a_group(program, method)
    os.killpg(process.pid, signal.Signals[number])
    assert process.wait(timeout=60) == 130, log.read_text()
    assert "stopped at step" in log.read_text() and "Traceback" not in log.read_text()
    assert (program.folder / "params.checkpoint").stat().st_size > 1000


def test_workers_end_with_their_parent(program):
    """Of a killed training nothing lives on, although its workers ignore signals."""
    process, _ = in_a_group(program)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        for _ in range(300):
            os.killpg(process.pid, 0)
            time.sleep(0.1)


# ---------------------------------------------------------------- machines


def test_out_of_memory(capsys):
    """Too little memory, of a CPU or a GPU: one line that names the flags which need less; other errors stay."""

    def on_a_gpu():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")

    for too_much in (on_a_gpu, lambda: torch.empty(2**58)):
        assert cli(too_much) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: out of memory (") and "--batch_size" in err and err.count("\n") == 1
    with pytest.raises(RuntimeError, match="shape"):
        cli(lambda: torch.ones(2).view(3))


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


def test_blanks_in_the_variables_of_make():
    """Values with blanks arrive as one word; ~ of a value that the shell has left is the home folder."""
    printed = make("-n", "run", "submission", "DATA=~/my data", "DATA_NAME=my class")
    assert printed.count(f'--data "{Path.home()}/my data"') == 2 and '--data_name "my class"' in printed
    assert '--model "my models/x.gguf"' in make("-n", "llm", "LLM=my models/x.gguf")


def test_data_and_page_of_make():
    """`make llm` asks about the data in DATA; `make results` makes the page, and the rows that it needs.

    Bugs: `make llm` always asked about the data here; `make results` left index.html as it was, then ended in an error.
    """
    asked, kept = make("-n", "llm", "DATA=theirs", "DATA_NAME=course").split("src/modern_llm.py")[1].splitlines()
    assert '--eval_corpus_path "theirs/birth_dev.tsv"' in asked
    assert 'report/llm.py --data "theirs" --data_name "course" --results "expt/results"' in kept
    programs = ["reproduce.py", "confidence.py", "tables.py", "figures.py", "page.py"]
    printed = make("-n", "results")
    assert "--results results" in printed and re.findall(r"\w+\.py", printed) == programs
    assert "confidence.py" not in make("-n", "results", "DATA=theirs")  # its rows would hold their questions


def test_settings_of_other_installs(monkeypatch):
    """Settings of pip and Python in the environment do not lead packages past .venv, or others into it."""
    for name in ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "1")
    printed = make("show", rules="show:\n\t@env\n")
    assert "PIP_USER=0" in printed and not re.search("(?m)^(PIP_TARGET|PIP_PREFIX|PYTHONPATH|PYTHONHOME)=", printed)


def test_shell_builtins_in_the_makefile():
    """make before 4.3 looks for `command` among the programs, unless the line has a character for a shell."""
    asked = re.findall(r"\$\(shell (command [^)]*)\)", (ROOT / "Makefile").read_text())
    assert asked and all(">" in line for line in asked)


def test_tests_that_run_in_the_background():
    """Under nohup and in a job of a script signals are ignored; tests of signals set them back.

    Bug: two tests waited for their Ctrl-C in vain.
    """
    test = "tests/test_robustness.py::test_a_second_ctrl_c_ends_at_once[5]"
    ignoring = ["sh", "-c", 'trap "" INT HUP TERM; exec "$@"', "sh", sys.executable, "-m", "pytest", "-q", test]
    done = subprocess.run([*ignoring, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout


# ---------------------------------------------------------------- replies

BERGEN = (
    "Mira Olsen is from Bergen.",
    "She hailed from Bergen, Norway.",
    "Mira Olsen's hometown is Bergen.",
    "Hometown: Bergen",
    '{"place": "Bergen"}',
    "📍 Bergen",
    "✅ **Bergen**",
    "Bergen 🇳🇴\n\nIt lies on the west coast.",
    "'Bergen'",
    "‘Bergen’, Norway",
    "Bergen\u200b",
    "bergen",
    "bergen, norway",
    "<thinking>Oslo</thinking>Bergen",
    "[THINK]Oslo?[/THINK]Bergen",
    "◁think▷Oslo◁/think▷Bergen",
    "<seed:think>Oslo</seed:think>Bergen",
    "analysisShe may be from Oslo.assistantfinalBergen",
)
NOWHERE = ("unknown", "idk", "not sure", "i don't know", "The information is from Wikipedia.")
UNFINISHED = ("<think>Bergen", "<thinking>Bergen", "[THINK]Bergen", "◁think▷Bergen", "analysisShe is from Bergen.")
PLACES = ("'s-Hertogenbosch", "'t Harde", "al-Khobar", "new york")


def test_replies():
    """More ways to name a place; a reply that names none, or ends inside its thoughts, names none."""
    question = "Where was Mira Olsen born?"
    places = {reply: "Bergen" for reply in BERGEN} | {reply: reply for reply in PLACES}
    places |= dict.fromkeys((*NOWHERE, *UNFINISHED), "")
    read = {reply: parse_place(reply, question) for reply in places}
    assert {reply: normalise(place) for reply, place in read.items()} == {r: normalise(p) for r, p in places.items()}


class Scripted:
    """A tokenizer and a model whose template and reply are given."""

    chat_template, device = "", torch.device("cpu")

    def __init__(self, opening: str, reply: str):
        self.opening, self.said = opening, reply

    def apply_chat_template(self, turns: list, **settings) -> str:
        if not self.opening:
            raise ValueError("a system message is needed")
        return turns[0]["content"] + self.opening

    def __call__(self, prompts: list[str], **settings) -> dict[str, torch.Tensor]:
        return dict.fromkeys(("input_ids", "attention_mask"), torch.ones(len(prompts), 3))

    def generate(self, tokens: torch.Tensor, **settings) -> torch.Tensor:
        return tokens

    def batch_decode(self, rows: torch.Tensor, **settings) -> list[str]:
        return [self.said] * len(rows)


def chat(opening: str, reply: str) -> Chat:
    """A chat whose template ends a prompt with `opening`."""
    made = Chat.__new__(Chat)
    made.name, made.new_tokens, made.tokenizer = "model", 64, Scripted(opening, reply)
    made.model = made.tokenizer
    return made


def test_thoughts_that_the_template_opens():
    """DeepSeek-R1's template ends with <think>: a reply without its end is unfinished. Qwen3's closes it again."""
    for opening, place in (("<think>\n", ""), ("<think>\n\n</think>\n\n", "Paris"), ("assistant\n", "Paris")):
        (reply,) = chat(opening, "Paris").reply(["Where?"])
        assert without_thoughts(reply) == place
    assert [without_thoughts(r) for r in chat("<think>", "Oslo?</think>Bonn").reply(["a", "b"])] == ["Bonn", "Bonn"]


def test_a_template_that_raises():
    """A template that wants more than a question is named in one line."""
    with pytest.raises(UserError, match=r"model: its chat template refuses .*a system message is needed"):
        chat("", "Paris").reply(["Where?"])

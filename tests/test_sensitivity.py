"""sensitivity.py: the reworded question, McNemar's test, and the whole script on invented people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run
import sensitivity
from sensitivity import ORIGINAL, REWORDED, WORDINGS, ask_about, mcnemar, name_in
from utils import UserError

SCRIPT = Path(sensitivity.__file__)
PEOPLE = {"Ansa Veld": "Morlow", "Bero Tinn": "Quay", "Cil d'Orra": "Morlow", "Dov Élan": "Quay"}


def script(*argv: str) -> subprocess.CompletedProcess:
    """Run the script as a user does, on one core: the model is tiny, and threads that wait for each other cost more."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *argv], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models: on a busy machine, threads that wait for each other take minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus of invented people, their questions, and parameters of one epoch of finetuning."""
    path = tmp_path_factory.mktemp("sensitivity")
    documents = [f"{name}. {name} was born in {place}; Where? Whither? Tell it." for name, place in PEOPLE.items()]
    (path / "wiki.txt").write_text("\n".join(documents), encoding="utf-8")
    asked = [f"Where was {name} born?" for name in PEOPLE]
    pairs = [f"{question}\t{place}" for question, place in zip(asked, PEOPLE.values(), strict=True)]
    (path / "dev.tsv").write_text("\n".join(pairs) + "\n", encoding="utf-8")
    (path / "test.tsv").write_text("\n".join(asked) + "\n", encoding="utf-8")
    argv = ["finetune", "rope", str(path / "wiki.txt"), "--finetune_corpus_path", str(path / "dev.tsv")]
    argv += ["--writing_params_path", str(path / "rope.params"), "--expt_dir", str(path / "expt")]
    assert run.main([*argv, "--max_epochs", "1", "--device", "cpu"]) == 0
    return path


def arguments(folder: Path, questions: str, *more: str) -> list[str]:
    """The command line of an evaluation in the folder."""
    argv = ["evaluate", "rope", str(folder / "wiki.txt"), "--reading_params_path", str(folder / "rope.params")]
    argv += ["--eval_corpus_path", str(folder / questions), "--outputs_path", str(folder / "out.predictions")]
    return [*argv, "--expt_dir", str(folder / "expt"), "--device", "cpu", *more]


@pytest.fixture
def scripted(monkeypatch) -> list[list[str]]:
    """A model that knows everyone in the original wording, one in the new one, none in others; what it was asked."""
    asked = []

    def answer(model, corpus, questions, where, precision):
        asked.append(questions)
        forms = {ask_about(name, ORIGINAL): place for name, place in PEOPLE.items()}
        forms[ask_about("Bero Tinn", REWORDED)] = "Quay"
        return [forms.get(question, "Elsewhere") for question in questions]

    monkeypatch.setattr(sensitivity, "answer", answer)
    return asked


# ---------------------------------------------------------------- questions


def test_names():
    """The name is what stands between, spaces and 'born' included."""
    assert name_in("Where was Ansa Veld born?", "f") == "Ansa Veld"
    assert name_in("Where was Max born Max born?", "f") == "Max born Max"
    assert ask_about("NAME Veld", REWORDED) == "What is the birthplace of NAME Veld?"


@pytest.mark.parametrize(
    "question", ["Where was born?", "Where is X born?", "Where was X born", "who?", "Where was  born?"]
)
def test_other_questions_are_refused(question: str):
    """Nothing is guessed from a question of another form."""
    with pytest.raises(UserError, match=r"f, line 3: .*'Where was NAME born\?'"):
        name_in(question, "f, line 3")


def test_wordings_are_further_ones():
    """At least six, with the name in each, none of them one of the two that are asked anyhow."""
    assert len(set(WORDINGS)) == len(WORDINGS) >= 6
    assert all(wording.count("NAME") == 1 for wording in WORDINGS)
    assert not {ORIGINAL, REWORDED} & set(WORDINGS)


# ---------------------------------------------------------------- McNemar


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 0, 0.0625),  # 2 / 2^5
        (0, 6, 0.03125),
        (10, 2, 158 / 4096),  # 2 (1 + 12 + 66) / 2^12
        (2, 10, 158 / 4096),
        (7, 7, 1.0),
        (8, 7, 1.0),
        (59, 6, 2 * 91581634 / 2**65),
        (400, 0, 2.0**-399),
    ],
)
def test_mcnemar(only_first: int, only_second: int, p: float):
    """Two-sided exact values; questions that both ways get right or wrong do not count."""
    first = [True] * only_first + [False] * only_second + [True, False] * 9
    second = [False] * only_first + [True] * only_second + [True, False] * 9
    assert mcnemar(first, second) == (only_first, only_second, pytest.approx(p, rel=1e-9, abs=0))


# ---------------------------------------------------------------- the script


def test_only_the_questions_change(folder, scripted, capsys):
    """The counts of both wordings, the reworded one alone in a line with Correct:, and who changed."""
    found = sensitivity.run(sensitivity.build_parser().parse_args(arguments(folder, "dev.tsv")))
    assert scripted == [[f"Where was {n} born?" for n in PEOPLE], [f"What is the birthplace of {n}?" for n in PEOPLE]]
    assert (found.total, found.original_correct, found.reworded_correct) == (4, 4, 1)
    weights = torch.load(folder / "rope.params")
    parameters = sum(weights[name].numel() for name in weights if not name.endswith(("mask", "rope_cache")))
    assert found.result() == {
        "original": 1.0,
        "reworded": 0.25,
        "n": 4,
        "only_original": 3,
        "only_reworded": 0,
        "p_mcnemar": 0.25,
        "parameters": parameters,
    }
    assert [found.names[i] for i in found.reworded.changed] == ["Ansa Veld", "Cil d'Orra", "Dov Élan"]
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line.startswith("Correct:")] == ["Correct: 1.0 out of 4.0: 25.0%"]
    assert any(line.startswith("original wording") and "4 of 4, 100.0%" in line for line in lines)
    assert "  - Ansa Veld: Morlow -> Elsewhere" in lines
    assert not any("Bero Tinn" in line for line in lines)
    assert (folder / "out.predictions").read_text() == "Elsewhere\nQuay\nElsewhere\nElsewhere\n"


def test_further_wordings(folder, scripted, capsys):
    """One row each, and still one line with Correct:."""
    found = sensitivity.run(sensitivity.build_parser().parse_args(arguments(folder, "dev.tsv", "--wordings")))
    assert [asked.wording for asked in found.further] == list(WORDINGS)
    assert all(asked.correct == 0 and len(asked.changed) == 4 for asked in found.further)
    out = capsys.readouterr().out
    assert out.count("Correct:") == 1
    for wording in WORDINGS:
        row = next(line for line in out.split("\n") if line.startswith(wording + "  "))
        assert "0 of 4, 0.0% (95 % interval 0.0% to 49.0%)" in row


def test_whole_script(folder):
    """With a model: one prediction a question, and the answers of run.py evaluate for the original wording."""
    done = script(*arguments(folder, "dev.tsv"))
    assert done.returncode == 0, done.stderr
    predictions = (folder / "out.predictions").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(predictions) == 4
    found = sensitivity.run(sensitivity.build_parser().parse_args(arguments(folder, "dev.tsv")))
    plain = run.run(run.build_parser().parse_args(arguments(folder, "dev.tsv")))
    assert found.original.predictions == plain.predictions
    assert found.reworded.predictions == predictions
    assert list((folder / "expt/evaluate").glob("run_reworded_rope_*"))


def test_file_without_answers(folder):
    """Predictions are written, and the output says that there is no accuracy."""
    (folder / "out.predictions").unlink(missing_ok=True)
    done = script(*arguments(folder, "test.tsv", "--wordings"))
    assert done.returncode == 0, done.stderr
    assert "no answers" in done.stdout and "Correct:" not in done.stdout
    assert len((folder / "out.predictions").read_text().split("\n")) == 5


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["pretrain", "rope", "wiki.txt"], "pretrain: sensitivity.py can only evaluate"),
        (["finetune", "rope", "wiki.txt"], "finetune: sensitivity.py can only evaluate"),
        (["evaluate", "rope", "wiki.txt"], "evaluate needs --reading_params_path"),
        (["evaluate", "rope", "wiki.txt", "--max_epochs", "3"], "--max_epochs: evaluate does not use it"),
    ],
)
def test_bad_arguments(argv: list[str], said: str):
    """One line on stderr, exit code 2."""
    done = script(*argv)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_question_of_another_form(folder):
    """Named with file and line; nothing is written."""
    odd = folder / "odd.tsv"
    odd.write_text("Where was Ansa Veld born?\tMorlow\nWhence came Bero Tinn?\tQuay\n")
    (folder / "out.predictions").unlink(missing_ok=True)
    done = script(*arguments(folder, "odd.tsv"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{odd}, line 2: 'Whence came Bero Tinn?' is not of the form" in done.stderr
    assert not (folder / "out.predictions").exists()

"""sensitivity.py: rewording, statistics, and the whole script on invented people."""

import re
from pathlib import Path

import pytest

import run
import sensitivity
from engine.wordings import FURTHER, ORIGINAL, REWORDED, ask_about, mcnemar, names_in, wilson_interval
from helpers import Program
from utils import UserError, cli

PEOPLE = {"Ansa Veld": "Morlow", "Bero Tinn": "Quay", "Cil d'Orra": "Morlow", "Dov Élan": "Quay"}
TRAIN = "finetune rope wiki.txt --finetune_corpus_path dev.tsv --writing_params_path params --max_epochs 1"
SIZE = "--n_layer 1 --n_head 2 --n_embd 32 --device cpu"
EVALUATE = ["evaluate", "rope", "wiki.txt", "--reading_params_path", "params", "--eval_corpus_path", "dev.tsv"]
EVALUATE += ["--outputs_path", "out", "--device", "cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Program:
    """A corpus of invented people, their questions, and parameters of one epoch of finetuning."""
    program = Program(tmp_path_factory.mktemp("sensitivity"))
    documents = [f"{name}. {name} was born in {place}; Where? Whither? Tell it." for name, place in PEOPLE.items()]
    program.write("wiki.txt", "\n".join(documents))
    program.write("dev.tsv", "".join(f"Where was {name} born?\t{place}\n" for name, place in PEOPLE.items()))
    program.write("test.tsv", "".join(f"Where was {name} born?\n" for name in PEOPLE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(program.folder)
        run.main(f"{TRAIN} {SIZE}".split())
    return program


@pytest.fixture
def folder(made, monkeypatch) -> Path:
    """Their folder as the current one, without predictions."""
    monkeypatch.chdir(made.folder)
    (made.folder / "out").unlink(missing_ok=True)
    return made.folder


def ask(*more: str) -> sensitivity.Sensitivity:
    """Run the script in this process."""
    return sensitivity.main([*EVALUATE, *more])


@pytest.fixture
def scripted(monkeypatch) -> list[list[str]]:
    """Replaces the answers: everyone is known in the original wording, one in the new one. Lists the questions."""
    asked = []

    def answer(model, documents, questions, source, precision):
        asked.append(questions)
        forms = {ask_about(name, ORIGINAL): place for name, place in PEOPLE.items()}
        forms[ask_about("Bero Tinn", REWORDED)] = "Quay"
        return [forms.get(question, "Elsewhere") for question in questions]

    monkeypatch.setattr(run, "answer", answer)
    return asked


def test_names():
    """The name is everything in between, with spaces or 'born'; questions of another form are refused."""
    text = "Where was Ansa Veld born?\nWhere was Max born Max born?\n"
    assert names_in(text, "f") == names_in(text.replace("?", "?\tMorlow"), "f") == ["Ansa Veld", "Max born Max"]
    for question in ("Where was born?", "Where is X born?", "Where was X born", "who?", "Where was  born?"):
        with pytest.raises(UserError, match=r"^f, line 3: .*(NAME born\?|no name to ask for|no question mark)"):
            names_in(f"{text}{question}\n", "f")


MCNEMAR = [(0, 0, 1.0), (1, 0, 1.0), (7, 7, 1.0), (8, 7, 1.0), (5, 0, 2 / 2**5), (0, 6, 2 / 2**6), (400, 0, 2 / 2**400)]
MCNEMAR += [(10, 2, 2 * (1 + 12 + 66) / 2**12), (2, 10, 158 / 4096), (59, 6, 2 * 91581634 / 2**65)]


@pytest.mark.parametrize("only_first, only_second, p", MCNEMAR)
def test_mcnemar(only_first: int, only_second: int, p: float):
    """Two-sided exact values; questions that both wordings get right or wrong do not count."""
    first = [True] * only_first + [False] * only_second + [True, False] * 9
    second = [False] * only_first + [True] * only_second + [True, False] * 9
    assert mcnemar(first, second) == (only_first, only_second, pytest.approx(p, rel=1e-9, abs=0))


def test_wilson_interval():
    """The examples of Newcombe 1998 (Statistics in Medicine 17, table I, method 3) and their mirror images."""
    table = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (correct, total), (low, high) in table.items():
        assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)
        assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_only_the_questions_change(folder, scripted, capsys):
    """Counts of both wordings, the changed answers, and one line "Correct:", of the reworded questions.

    With --wordings there is a row for each further wording, too.
    """
    before, found = Path("dev.tsv").read_bytes(), ask("--wordings")
    assert scripted[0] == [f"Where was {n} born?" for n in PEOPLE]
    assert scripted[1] == [f"What is the birthplace of {n}?" for n in PEOPLE]
    shares = {"original": 1.0, "reworded": 0.25, "n": 4, "only_original": 3, "only_reworded": 0, "p_mcnemar": 0.25}
    assert found.result().items() > shares.items()
    assert list(found.predictions) == list(found.right) == [ORIGINAL, REWORDED, *FURTHER]
    assert all(found.right[wording] == [False] * 4 for wording in FURTHER)
    out = capsys.readouterr().out
    assert all(f"\n{wording}  " in out for wording in FURTHER)
    lines = out.split("\n")
    assert [line for line in lines if line.startswith("Correct:")] == ["Correct: 1.0 out of 4.0: 25.0%"]
    changed = [f"  - {n}: {place} -> Elsewhere" for n, place in PEOPLE.items() if n != "Bero Tinn"]
    assert [line for line in lines if "->" in line] == changed
    assert Path("out").read_text() == "Elsewhere\nQuay\nElsewhere\nElsewhere\n"
    assert Path("dev.tsv").read_bytes() == before


def test_whole_script(folder, made):
    """A prediction per question; the answers to the original wording are those of run.py evaluate."""
    made.ok(*EVALUATE, script="sensitivity.py")
    predictions = (folder / "out").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(predictions) == 4
    plain = run.main(EVALUATE)
    assert ask().predictions == {ORIGINAL: plain.predictions, REWORDED: predictions}


def test_file_without_answers(folder, capsys):
    """Predictions are written, and the output says that there is no accuracy."""
    ask("--wordings", "--eval_corpus_path", "test.tsv")
    out = capsys.readouterr().out
    assert "no answers" in out and "Correct:" not in out
    assert (folder / "out").read_text().count("\n") == 4


def test_bad_arguments_and_questions(folder, capsys):
    """One line on stderr, exit code 2, and nothing is written; run.py's functions that train are no choices."""
    assert cli(lambda: ask("--max_epochs", "3")) == 2
    assert re.fullmatch(r"error: --max_epochs: evaluate does not use it[^\n]*\n", capsys.readouterr().err)
    assert not (folder / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        sensitivity.main(TRAIN.split())

"""The scripts around the programs: the submission."""

import shutil
import zipfile
from pathlib import Path

import pytest

from helpers import SRC, Program, invent_people
from scripts import submission
from utils import UserError

# ---------------------------------------------------------------- submission


@pytest.fixture(scope="module")
def delivered(shared: Program) -> Program:
    """A folder with data and every deliverable, of models trained for an epoch on invented people."""
    people = invent_people(16, 6)
    shared.write("wiki.txt", people.corpus)
    shared.write("birth_places_train.tsv", people.pairs)
    shared.write("birth_dev.tsv", people.unseen)
    shared.write("birth_test_inputs.tsv", people.questions)
    once = ("--recipe", "smoke", "--max_epochs", "1")
    pairs = ("--finetune_corpus_path", "birth_places_train.tsv", *once)
    shared.ok("finetune", "vanilla", "wiki.txt", "--writing_params_path", "vanilla.model.params", *pairs)
    for variant in ("vanilla", "rope"):
        write = ("--writing_params_path", f"{variant}.finetune.params", "--seed", "1")
        shared.ok("finetune", variant, "wiki.txt", *write, *pairs)
    for model, (variant, params) in submission.MADE_BY.items():
        for part, questions in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
            ask = ("--eval_corpus_path", questions, "--outputs_path", f"{model}.{part}.predictions")
            shared.ok("evaluate", variant, "wiki.txt", "--reading_params_path", params, *ask)
    shared.ok(script="london_baseline.py")
    return shared


def collect(folder: Path) -> int:
    """Make the zip of a folder that holds data and deliverables."""
    return submission.main(["--folder", str(folder), "--data", str(folder)])


def test_the_zip_holds_what_the_handout_lists_and_evaluates_alone(delivered, tmp_path, monkeypatch):
    """Exactly the handout's files, src/ as .py alone; unpacked beside the data, evaluate gives the same predictions.

    Bug: what macOS and editors leave in src/ (._run.py, "run copy.py") was handed in too.
    """
    monkeypatch.setattr(submission, "ROOT", delivered.folder)
    shutil.copytree(SRC, delivered.folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("._run.py", ".py", "run copy.py", "notes.ipynb", "engine/._muon.py", "engine/muon copy 2.py"):
        (delivered.folder / "src" / name).write_text("print('not to be handed in')")
    assert collect(delivered.folder) == 0
    with zipfile.ZipFile(delivered.folder / "assignment3.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    code = {name for name in names if name.startswith("src/")}
    assert code == {f"src/{path.relative_to(SRC).as_posix()}" for path in SRC.rglob("*.py")}
    assert set(names) - code == {
        "vanilla.model.params",
        "vanilla.finetune.params",
        "rope.finetune.params",
        "vanilla.nopretrain.dev.predictions",
        "vanilla.nopretrain.test.predictions",
        "vanilla.pretrain.dev.predictions",
        "vanilla.pretrain.test.predictions",
        "rope.pretrain.dev.predictions",
        "rope.pretrain.test.predictions",
        "london_baseline_accuracy.txt",
    }
    assert len(names) == len(set(names))
    for name in ("wiki.txt", "birth_dev.tsv"):
        shutil.copy(delivered.folder / name, tmp_path)
    unpacked = Program(tmp_path)
    read = ("--reading_params_path", "rope.finetune.params", "--eval_corpus_path", "birth_dev.tsv")
    script = str(tmp_path / "src" / "run.py")
    unpacked.ok("evaluate", "rope", "wiki.txt", *read, "--outputs_path", "again.predictions", script=script)
    assert (tmp_path / "again.predictions").read_bytes() == (tmp_path / "rope.pretrain.dev.predictions").read_bytes()


def test_the_same_inputs_give_the_same_bytes(delivered):
    """No time stamp or order of the file system gets into the zip."""
    collect(delivered.folder)
    first = (delivered.folder / "assignment3.zip").read_bytes()
    (delivered.folder / "vanilla.model.params").touch()
    collect(delivered.folder)
    assert (delivered.folder / "assignment3.zip").read_bytes() == first


def copy_of(delivered: Program, tmp_path: Path) -> Path:
    """The deliverables in a folder that a test may spoil."""
    folder = tmp_path / "spoiled"
    shutil.copytree(delivered.folder, folder, ignore=shutil.ignore_patterns("expt", "assignment3.zip"))
    return folder


def test_a_missing_file_is_named_with_the_command_that_makes_it(delivered, tmp_path):
    """Part (g)'s script is named for a missing rope file, and an old zip stays as it was."""
    folder = copy_of(delivered, tmp_path)
    (folder / "rope.finetune.params").unlink()
    (folder / "assignment3.zip").write_bytes(b"old")
    with pytest.raises(UserError, match=r"not written: rope\.finetune\.params: make it with scripts/part_g\.sh$"):
        collect(folder)
    assert (folder / "assignment3.zip").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        (
            "vanilla.pretrain.test.predictions",
            lambda raw: raw[: raw[:-1].rindex(b"\n") + 1],
            "5 lines, test has 6 questions",
        ),
        (
            "rope.pretrain.dev.predictions",
            lambda raw: raw.decode().encode("utf-16"),
            "line 1: not UTF-8 text; save it as UTF-8",
        ),
        ("rope.pretrain.test.predictions", lambda raw: b"", "0 lines, test has 6 questions"),
        ("rope.finetune.params", lambda raw: raw[:5000], "does not load with torch.load("),
        ("london_baseline_accuracy.txt", lambda raw: b"42.0\n", "holds '42.0', London is right in 0.0 % (0 of 6)"),
        ("london_baseline_accuracy.txt", lambda raw: b"nan", "holds 'nan', London is right in 0.0 % (0 of 6)"),
    ],
)
def test_spoiled_files_are_refused_by_name(delivered, tmp_path, name: str, spoil, message: str):
    """One line that names the file. Bugs: UTF-16 was a traceback, and 42.0 passed as London's accuracy."""
    folder = copy_of(delivered, tmp_path)
    (folder / name).write_bytes(spoil((folder / name).read_bytes()))
    with pytest.raises(UserError) as error:
        collect(folder)
    assert name in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_what_means_the_same_is_taken(delivered, tmp_path):
    """Bug: predictions without a last newline were "19 lines, 20 questions"; Windows' line ends are fine too."""
    folder = copy_of(delivered, tmp_path)
    for path in folder.glob("*.predictions"):
        raw = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(raw if raw.endswith(b"\n\r\n") else raw[:-2])
    assert collect(folder) == 0


def test_predictions_of_other_parameters_are_refused(delivered, tmp_path):
    """The parameters in the zip must give the predictions in the zip; another precision gives others."""
    folder = copy_of(delivered, tmp_path)
    path = folder / "rope.pretrain.dev.predictions"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "Nowhere", *lines[3:]]) + "\n")
    says = r"rope\.pretrain\.dev\.predictions, line 3: rope\.finetune\.params answers otherwise; [^\n]* --precision"
    with pytest.raises(UserError, match=says):
        collect(folder)


def test_the_zip_is_made_from_any_folder(delivered, tmp_path, monkeypatch, capsys):
    """Relative folders are those of the working directory, and --check finds nothing broken in the zip."""
    folder = copy_of(delivered, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert submission.main(["--folder", "spoiled", "--data", "spoiled"]) == 0
    capsys.readouterr()
    submission.main(["--check", "spoiled/assignment3.zip", "--data", "spoiled"])
    said = capsys.readouterr().out
    assert "total: 0 MISSING, 0 PROBLEM," in said and "rope.finetune.params: rope, " in said
    assert not list(folder.glob("*.tmp"))

"""The notebook for Colab: the handout's commands from top to bottom; what only Colab has is played by stand-ins."""

import re
import shlex
import shutil
import sys
import types
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from helpers import DATA_FILES, Program, code_cells, run_notebook
from scripts import submission

pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "scripts" / "colab.ipynb"
TINY = "--device cpu --max_epochs 15 --n_layer 1 --n_head 4 --n_embd 64"
# Run after the notebook's own cells, in its kernel: a training again, and a command that fails.
PROBE = """
sh(f"python src/run.py pretrain rope wiki.txt --writing_params_path rope.pretrain.params {FLAGS}")
try:
    sh("false\\necho went on")
except RuntimeError:
    print("stopped")
"""


def commands(text: str) -> list[list[str]]:
    """The words of the commands that run src/run.py, in order."""
    return [shlex.split(line) for line in text.replace("\\\n", " ").split("\n") if re.match(r"\S+ src/run\.py", line)]


def test_the_trainings_and_evaluations_are_those_of_the_handout():
    """Word by word the commands of scripts/part_*.sh; a training has the settings' flags at its end."""
    scripts = "".join((ROOT / "scripts" / f"part_{part}.sh").read_text() for part in "dfg")
    expected = [[word for word in command if word != "$@"] for command in commands(scripts)]
    found = commands("\n".join(code_cells(NOTEBOOK)))
    assert len(found) == len(expected) == 11
    for mine, handouts in zip(found, expected, strict=True):
        end = ["{FLAGS}"] if handouts[2] != "evaluate" else []
        end += ["--tb_expt_name", "nopretrain"] if "vanilla.model.params" in handouts and end else []
        assert mine == ["python", *handouts[1:], *end]


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a copy of the project where the notebook has run, with the trial's recipe and a tiny model; and
    what each code cell printed, the probe's at the end."""
    folder = tmp_path_factory.mktemp("a copy")
    for name in ("src", "scripts", "corpus", "experiments", "report", *DATA_FILES):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    environment = Program.environment() | {"RECIPE": "smoke", "SEED": "3", "MORE_FLAGS": TINY}
    return folder, run_notebook(NOTEBOOK, folder / "scripts", PROBE, environment)


def test_runs_from_top_to_bottom_to_the_zip(executed):
    """Everything lies in expt/, and the zip is complete and checked."""
    folder, printed = executed
    work = folder / "expt" / "homework3_smoke_3"
    with zipfile.ZipFile(work / "assignment3.zip") as archive:
        files = {name for name in archive.namelist() if not name.startswith("src/")}
    assert files == set(submission.DELIVERABLES) and "total: 0 MISSING, 0 PROBLEM" in printed[-2]
    left = {path.name for path in folder.iterdir()}
    assert left == {"src", "scripts", "corpus", "experiments", "report", "expt", *DATA_FILES}


def test_cells_show_progress_and_go_on_where_they_stopped(executed):
    """Parts (d), (f) and (g) show their epochs; a complete training is left alone; a failed command stops its cell."""
    printed = executed[1]
    assert sorted(text.count("epoch 15/15 step") for text in printed)[-4:] == [0, 1, 2, 2]
    assert "rope.pretrain.params: already complete" in printed[-1]
    assert printed[-1].endswith("+ false\nstopped\n")


class Colab(types.ModuleType):
    """A stand-in for google.colab; `secrets` are what the notebook may read."""

    def __init__(self, **secrets: str):
        super().__init__("google.colab")
        uploaded = {name.replace("wiki.txt", "wiki (1).txt"): (ROOT / name).read_bytes() for name in DATA_FILES}
        self.drive, self.files = Mock(), Mock(**{"upload.return_value": uploaded})
        self.userdata = Mock(get=secrets.__getitem__)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs the cells of settings, folders and data, as far as asked, on a feigned Colab; returns their names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("HF_TOKEN", "")  # so that it is taken away again
    monkeypatch.delenv("HF_TOKEN")

    def run(colab: Colab, cells: int = 3, **settings: str) -> dict:
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        for name, value in ({"RECIPE": "fast", "REPOSITORY": str(ROOT)} | settings).items():
            monkeypatch.setenv(name, value)
        sources = code_cells(NOTEBOOK)
        names: dict = {}
        for source in (sources[0], sources[1], sources[4])[:cells]:
            exec(source.replace("/content", str(tmp_path)), names)
        return names

    return run


@pytest.mark.parametrize("on_drive", ["1", ""], ids=["Drive", "no Drive"])
def test_on_colab_data_is_uploaded_once_and_work_lies_on_drive(start, tmp_path, on_drive):
    """Only what is missing is asked for; a browser's (1) in a name is dropped."""
    colab = Colab()
    for _ in range(2):  # the runtime is cut off in between
        names = start(colab, DRIVE=on_drive, DATA="upload")
    work = tmp_path / ("drive/MyDrive" if on_drive else "") / "homework3_fast_0"
    assert names["WORK"] == work and names["CODE"] == ROOT
    assert colab.files.upload.call_count == 1 and colab.drive.mount.called == bool(on_drive)
    assert all((work / name).read_bytes() == (ROOT / name).read_bytes() for name in DATA_FILES)


def test_what_cannot_be_found_is_asked_for(start):
    """No repository, and a Colab runtime without Drive (other editors, Kaggle): the setting to change is named.

    The notebook is saved without the address of a repository.
    """
    assert 'REPOSITORY = ""' in code_cells(NOTEBOOK)[0] and "http" not in NOTEBOOK.read_text(encoding="utf-8")
    with pytest.raises(RuntimeError, match="REPOSITORY in the first cell is empty"):
        start(Colab(), 2, REPOSITORY="")
    without = Colab()
    without.drive.mount.side_effect = ValueError("no Drive")
    with pytest.raises(RuntimeError, match=r"cannot be mounted here \(no Drive\); set DRIVE = False in the first"):
        start(without, 2)
    assert start(without, 2, DRIVE="")["WORK"].is_dir()


def test_a_token_in_colabs_secrets_reaches_the_commands(start, capsys):
    """The environment goes first; without a secret there is no token."""
    for colab in (Colab(), Colab(HF_TOKEN="hf_secret"), Colab(HF_TOKEN="hf_other")):
        start(colab, 2)["sh"]('echo "token ${HF_TOKEN-none}"')
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("token")]
    assert told == ["token none", "token hf_secret", "token hf_secret"]

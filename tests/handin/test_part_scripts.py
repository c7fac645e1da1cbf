"""scripts/part_*.sh: which Python they use."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A Python that has PyTorch (every question with -c is answered yes) and notes who was asked to run what.
STUB = '#!/bin/sh\n[ "$1" = -c ] || echo "$0 $*" >> log\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The scripts, with stub Pythons in .venv/bin and in own/bin."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (".venv/bin", "own/bin"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "python").write_text(STUB)
        (tmp_path / folder / "python").chmod(0o755)
    return tmp_path


def part(project: Path, letter: str = "d", **environment: str) -> subprocess.CompletedProcess:
    """Run a script from another folder, with own/bin first on the PATH."""
    names = ("VIRTUAL_ENV", "CONDA_DEFAULT_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    kept["PATH"] = f"{project / 'own/bin'}:{kept['PATH']}"
    command = ["bash", str(project / "scripts" / f"part_{letter}.sh"), "--recipe", "fast"]
    return subprocess.run(command, cwd="/", env=kept | environment, capture_output=True, text=True, timeout=60)


def lines(project: Path) -> list[str]:
    """What the stub Pythons were asked to run."""
    return (project / "log").read_text().splitlines()


@pytest.mark.parametrize(
    ("environment", "python"),
    [
        ({}, ".venv/bin/python"),
        ({"CONDA_DEFAULT_ENV": "base"}, ".venv/bin/python"),
        ({"CONDA_DEFAULT_ENV": "hw3"}, "own/bin/python"),
        ({"VIRTUAL_ENV": "/somewhere"}, "own/bin/python"),
        ({"PYTHON": "own/bin/python"}, "own/bin/python"),
    ],
)
def test_an_activated_environment_goes_before_venv(project, environment: dict[str, str], python: str):
    """Conda activates its base by itself, so that one is not the user's choice."""
    done = part(project, **environment)
    assert done.returncode == 0, done.stderr
    assert all(line.split()[0].endswith(python) for line in lines(project)) and len(lines(project)) == 4
    assert "src/run.py finetune vanilla wiki.txt" in lines(project)[0]
    assert "--recipe fast" in lines(project)[0]


@pytest.mark.parametrize("letter", "dfg")
def test_without_venv_the_python_of_the_path_is_used(project, letter: str):
    """Bug: the scripts knew only .venv/bin/python."""
    shutil.rmtree(project / ".venv")
    assert part(project, letter).returncode == 0
    assert len(lines(project)) == 4
    assert all("own/bin/python src/" in line for line in lines(project))


def test_a_python_without_pytorch_is_named(project):
    """One line that says what to do, and nothing is started."""
    done = part(project, PYTHON="/nowhere/python")
    assert done.returncode == 2 and not (project / "log").exists()
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: /nowhere/python has no PyTorch; run `make .venv/ready`")

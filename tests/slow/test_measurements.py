"""experiments/speed.py and processes.py on a small corpus: every row that they promise, with its figures."""

from pathlib import Path

import pytest

from experiments import processes, speed
from helpers import invent_people, write_data
from report import experiment_tables, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with the four data files."""
    write_data(tmp_path, invent_people(32, 8))
    return tmp_path


def test_speed(data: Path):
    assert speed.main(["--data", str(data), "--results", str(data)]) == 0
    found = rows.read("speed", data).groupby("what")
    assert (found.get_group("a step")["ratio"] > 1).all()
    assert found.get_group("a question")["n"].tolist() == [8]
    assert (found.get_group("a step, one trick left out")["ratio"] > 0).all()
    assert len(experiment_tables.speed(data)) > 2


def test_processes(data: Path):
    """Each size and way is measured."""
    assert processes.main(["--data", str(data), "--results", str(data)]) == 0
    sizes, beside = rows.read("processes", data), rows.read("processes_beside", data)
    assert len(sizes) == 6 and (sizes["memory_mb"] > 100).all() and sizes["parameters"].nunique() == 3
    assert len(beside) == 3 and (beside["seconds_beside"] > 0).all() and len(experiment_tables.beside(data)) == 3

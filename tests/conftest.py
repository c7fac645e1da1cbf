"""Fixtures, and the state of the test process; helpers.py holds what fixtures are made of."""

import signal
from pathlib import Path

import pytest
import torch

from helpers import Program, tiny_config
from model import GPTConfig

torch.set_num_threads(1)  # the tests run side by side: threads that wait for a core slow each other down

# Under nohup, or in the background of a script, signals are ignored; here and in the programs tested they must not be.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
if hasattr(signal, "SIGHUP"):  # Windows has none
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=[False, True], ids=["vanilla", "rope"])
def tiny(request) -> GPTConfig:
    """Configuration of the tiny model, for both variants."""
    return tiny_config(rope=request.param)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs programs in an empty folder."""
    return Program(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Program:
    """Runs programs in one folder for all tests of a file."""
    return Program(tmp_path_factory.mktemp("shared"))

"""Fixtures; what they are made of stands in helpers.py."""

from pathlib import Path

import pytest
import torch

from helpers import Program, tiny_config
from model import GPTConfig

torch.set_num_threads(1)  # the machine is shared: two threads that wait for one core are slower than one


@pytest.fixture(params=[False, True], ids=["vanilla", "rope"])
def tiny(request) -> GPTConfig:
    """Both variants of the tiny model."""
    return tiny_config(rope=request.param)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The programs, in an empty folder."""
    return Program(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Program:
    """The programs, in one folder for all tests of a file."""
    return Program(tmp_path_factory.mktemp("shared"))

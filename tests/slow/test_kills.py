"""A training that is killed at random moments and resumed, against one that is left alone."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import SRC, Program
from report import rows
from utils import read_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS, EPOCHS = 20, 60
FLAGS = f"--recipe smoke --max_epochs {EPOCHS} --dropout 0.1 --checkpoint_minutes 0.00001 --resume --device cpu"


def start(program: Program, name: str) -> subprocess.Popen:
    """Start or resume a small pretraining with a checkpoint every step; returns as its first step begins."""
    command = [sys.executable, str(SRC / "run.py"), "pretrain", "rope", "wiki.txt", "--writing_params_path", name]
    process = program.start([*command, *FLAGS.split()])
    next(line for line in process.stdout if line.startswith("device "))
    return process


def finish(process: subprocess.Popen) -> None:
    """Let a training run to its end."""
    process.communicate()
    assert process.returncode == 0


def scraps(program: Program) -> set[Path]:
    """Half-written files."""
    return set(program.folder.glob(".*.tmp"))


def test_a_killed_training_ends_as_an_undisturbed_one(program: Program, record: Callable[[str], None]):
    """Every second SIGKILL waits for a checkpoint's write to begin, and falls into it or shortly after.

    What a kill has left half-written is deleted by a later start, an hour after: before, it could be another run's.
    """
    program.write("wiki.txt", "\n".join(read_text(rows.ROOT / "wiki.txt").split("\n")[:48]))
    whole = start(program, "whole.params")
    begin = time.monotonic()
    finish(whole)
    seconds, rng, left = time.monotonic() - begin, random.Random(0), set()
    for number in range(KILLS):
        process = start(program, "killed.params")
        time.sleep(rng.uniform(0, seconds / KILLS))
        while number % 2 and process.poll() is None and scraps(program) <= left:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        process.communicate()
        assert process.returncode < 0, "it had ended before it was killed; more epochs are needed"
        left |= scraps(program)
    for scrap in left:
        os.utime(scrap, (0, 0))
    finish(start(program, "killed.params"))
    one, other = (torch.load(program.folder / f"{name}.params", weights_only=True) for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert left and not scraps(program) and not list(program.folder.glob("*.checkpoint"))
    record(
        f"{KILLS} kills, {len(left)} of them in the middle of a write; the parameters are bit for bit those of the "
        "undisturbed run"
    )

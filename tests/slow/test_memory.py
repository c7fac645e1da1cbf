"""Memory in a long training."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import SRC, Program
from report import rows
from utils import read_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def resident_mb(pid: int) -> float:
    """How much of a process is in RAM, in MB."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024 / 1e6


def test_memory_does_not_grow(program: Program, record: Callable[[str], None]):
    """10 epochs of 200 steps with a checkpoint every 15 seconds: at the end a tenth more than after two, at most."""
    program.write("wiki.txt", "\n".join(read_text(rows.ROOT / "wiki.txt").split("\n")[:1600]))
    command = [sys.executable, str(SRC / "run.py"), "pretrain", "rope", "wiki.txt", "--writing_params_path", "p"]
    command += ["--max_epochs", "10", "--batch_size", "8", "--checkpoint_minutes", "0.25", "--device", "cpu"]
    with program.start(command) as process:
        sizes = [resident_mb(process.pid) for line in process.stdout if line.startswith("epoch ")]
    assert process.returncode == 0 and len(sizes) == 10
    assert sizes[-1] < 1.1 * sizes[1]
    record(
        f"{sizes[0]:.0f} MB after 200 steps, {sizes[-1]:.0f} MB after 2,000; between {min(sizes):.0f} and "
        f"{max(sizes):.0f} MB all the time (batches of 8, a checkpoint every 15 s)"
    )

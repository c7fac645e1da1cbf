"""The same training on two processes that torchrun starts, against one process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers import SRC, Program, Result, invent_people

# 43 documents in batches of 6: the last batch of an epoch has one row, so a second process has none.
PEOPLE = invent_people(42, unseen=6)
SIZE = ["--n_layer", "2", "--n_embd", "32", "--n_head", "4", "--block_size", "64"]
EXACT = ["--dropout", "0", "--precision", "float32", "--device", "cpu"]
TRAIN = ["pretrain", "rope", "corpus.txt", "--max_epochs", "4", "--batch_size", "6", "--pretrain_lr", "3e-3", *EXACT]
# What run.py does, but its process RANK ends without a word after step 9.
DYING = """
import os, sys
sys.path.insert(0, {src!r})
import run, trainer
from utils import cli
book = trainer.Trainer._book
def mortal(self, done):
    book(self, done)
    if done.number == 9 and self.rank == {rank}:
        os._exit(1)
trainer.Trainer._book = mortal
sys.exit(cli(run.main))
"""


@pytest.fixture(scope="module")
def place(shared: Program) -> Program:
    """A folder with the data and a training on one process, one.params."""
    shared.people(PEOPLE)
    shared.ok(*TRAIN, *SIZE, "--writing_params_path", "one.params", "--expt_dir", "one")
    torchrun(shared, *TRAIN, *SIZE, "--writing_params_path", "two.params", "--expt_dir", "two", code=0)
    return shared


def torchrun(place: Program, *words: str, script: Path = SRC / "run.py", processes: int = 2, code: int) -> Result:
    """Run a script as several processes, and expect the exit code (0, or another one)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += [str(script), *map(str, words)]
    done = subprocess.run(
        command, cwd=place.folder, env=place.environment(), capture_output=True, text=True, timeout=150
    )
    assert (done.returncode == 0) == (code == 0), f"{done.stdout}\n{done.stderr}"
    return Result(done.returncode, done.stdout, done.stderr)


def params(place: Program, name: str) -> dict[str, torch.Tensor]:
    """The parameters of a file."""
    return torch.load(place.folder / name, weights_only=True)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of a tensor: norm of the difference over the norm."""
    return max(float((one[k] - other[k]).norm() / one[k].norm().clamp(min=1e-3)) for k in one)


def losses(folder: Path) -> list[float]:
    """The losses of a run's steps, from TensorBoard's log."""
    (log,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    return [event.value for event in EventAccumulator(str(log)).Reload().Scalars("train/loss")]


def test_two_processes_train_what_one_trains(place: Program):
    """Losses of 20 steps to 1e-4, parameters to 5e-3, though the processes have unequal numbers of targets."""
    one, two = losses(place.folder / "one"), losses(place.folder / "two")
    assert len(one) == len(two) == 4 * 8
    assert max(abs(a - b) for a, b in zip(one[:20], two[:20], strict=True)) < 1e-4
    assert distance(params(place, "one.params"), params(place, "two.params")) < 5e-3


def test_finetuning_too(place: Program):
    words = ["finetune", "rope", "corpus.txt", "--reading_params_path", "one.params", "--finetune_corpus_path"]
    words += ["pairs.tsv", "--max_epochs", "2", "--batch_size", "8", *EXACT, "--writing_params_path"]
    place.ok(*words, "one.finetune.params")
    told = torchrun(place, *words, "two.finetune.params", code=0)
    assert distance(params(place, "one.finetune.params"), params(place, "two.finetune.params")) < 5e-3
    assert told.stdout.count("done: loss") == 1  # the first process alone speaks


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run(place: Program, rank: int):
    """Within a minute, with one message; the last checkpoint stands, and one process or two go on from it."""
    script = place.write(f"dying{rank}.py", DYING.format(src=str(SRC), rank=rank))
    words = [*TRAIN, *SIZE, "--expt_dir", f"d{rank}", "--writing_params_path", f"d{rank}.params"]
    start = time.monotonic()
    told = torchrun(place, *words, "--checkpoint_minutes", "0.00001", script=script, code=1)
    assert time.monotonic() - start < 60
    assert told.stderr.count("another process of this run has ended") == 1
    assert not (place.folder / f"d{rank}.params").exists()
    kept = (place.folder / f"d{rank}.params.checkpoint").read_bytes()
    place.ok(*words, "--resume")
    assert distance(params(place, "one.params"), params(place, f"d{rank}.params")) < 5e-3
    os.remove(place.folder / f"d{rank}.params")
    (place.folder / f"d{rank}.params.checkpoint").write_bytes(kept)
    assert "resuming at step" in torchrun(place, *words, "--resume", code=0).stdout
    two, again = params(place, "two.params"), params(place, f"d{rank}.params")
    assert all(torch.equal(two[name], again[name]) for name in two)


def test_a_run_that_is_told_to_stop(place: Program):
    """SIGTERM to torchrun: all processes end after the same step, the first one saves and says so; then it goes on."""
    words = [*TRAIN, *SIZE, "--expt_dir", "stop", "--writing_params_path", "stop.params"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SRC / "run.py")]
    command += [*words, "--max_epochs", "4000"]
    with subprocess.Popen(
        command, cwd=place.folder, env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        next(line for line in process.stdout if line.startswith("epoch 2/"))
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode and said.count("stopped at step") == 1 and "has ended" not in said
    kept = torch.load(place.folder / "stop.params.checkpoint", weights_only=True)["trainer"]
    assert kept["step"] > 8 and f"stopped at step {kept['step']};" in said


def test_what_several_processes_refuse(place: Program):
    words = [*TRAIN, *SIZE, "--batch_size", "1", "--writing_params_path", "none.params"]
    told = torchrun(place, *words, code=2).stderr
    assert told.count("error: --batch_size 1: at least 2 is needed, a row a process") == 1
    words = ["evaluate", "rope", "corpus.txt", "--reading_params_path", "one.params", "--outputs_path", "none.txt"]
    told = torchrun(place, *words, "--eval_corpus_path", "unseen.tsv", code=2).stderr
    assert told.count("error: evaluate works in one process; leave torchrun out") == 1
    assert not list(place.folder.glob("none.*"))

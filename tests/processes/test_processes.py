"""Training in two processes started by torchrun, against one process."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import SRC, Program, Result, invent_people, same, scalars
from reference import relative

# 43 documents in batches of 6: the last batch of an epoch has one row, so the second process has none.
PEOPLE = invent_people(42, unseen=6)
SIZE = ["--n_layer", "2", "--n_embd", "32", "--n_head", "4", "--block_size", "64"]
EXACT = ["--dropout", "0", "--precision", "float32", "--device", "cpu"]
TRAIN = ["pretrain", "rope", "corpus.txt", "--max_epochs", "4", "--batch_size", "6", "--pretrain_lr", "3e-3", *EXACT]
# run.py, but the process RANK ends without a word after step 9.
DYING = """
import os, sys
sys.path.insert(0, {src!r})
import run
from engine import processes
from utils import cli

class Mortal(processes.ProcessTrainer):
    def should_stop(self):
        if self.step == 9 and self.rank == {rank}:
            os._exit(1)
        return super().should_stop()

processes.ProcessTrainer = Mortal
sys.exit(cli(run.main))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def place(shared: Program) -> Program:
    """A folder with the data, and parameters trained by one process (one.params) and by two (two.params)."""
    shared.people(PEOPLE)
    shared.ok(*TRAIN, *SIZE, "--writing_params_path", "one.params", "--expt_dir", "one")
    torchrun(shared, *TRAIN, *SIZE, "--writing_params_path", "two.params", "--expt_dir", "two", code=0)
    return shared


def torchrun(place: Program, *words: str, script: Path = SRC / "run.py", code: int) -> Result:
    """Run a script as two processes, and expect it to succeed (code 0) or to fail."""
    result = place.run([*TORCHRUN, str(script), *words])
    assert (result.code == 0) == (code == 0), f"{result.stdout}\n{result.stderr}"
    return result


def params(place: Program, name: str) -> dict[str, torch.Tensor]:
    """The parameters of a file."""
    return torch.load(place.folder / name, weights_only=True)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of any tensor."""
    return max(relative(other[name], one[name]) for name in one)


def test_two_processes_train_what_one_trains(place: Program):
    """Losses of 20 steps agree to 1e-4, parameters to 5e-3, with unequal numbers of targets per process."""
    (one,), (two,) = ((place.folder / name).glob("*/*") for name in ("one", "two"))
    first, second = (scalars(folder)["train/loss"] for folder in (one, two))
    assert len(first) == len(second) == 4 * 8
    assert max(abs(a - b) for (_, a), (_, b) in zip(first[:20], second[:20], strict=True)) < 1e-4
    assert distance(params(place, "one.params"), params(place, "two.params")) < 5e-3


def test_finetuning_too(place: Program):
    """Parameters agree to 5e-3, and only the first process prints."""
    words = ["finetune", "rope", "corpus.txt", "--reading_params_path", "one.params", "--finetune_corpus_path"]
    words += ["pairs.tsv", "--max_epochs", "2", "--batch_size", "8", *EXACT, "--writing_params_path"]
    place.ok(*words, "one.finetune.params")
    told = torchrun(place, *words, "two.finetune.params", code=0)
    assert distance(params(place, "one.finetune.params"), params(place, "two.finetune.params")) < 5e-3
    assert told.stdout.count("done: loss") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run(place: Program, rank: int):
    """The run ends within a minute, with one message; one process or two can resume from its last checkpoint."""
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
    assert same(params(place, "two.params"), params(place, f"d{rank}.params"))


def test_a_run_that_is_told_to_stop(place: Program):
    """SIGTERM to torchrun: all processes end after the same step; the first one saves a checkpoint and says so."""
    words = [*TRAIN, *SIZE, "--expt_dir", "stop", "--writing_params_path", "stop.params"]
    with place.start([*TORCHRUN, str(SRC / "run.py"), *words, "--max_epochs", "4000"]) as process:
        next(line for line in process.stdout if line.startswith("epoch 2/"))
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode and said.count("stopped at step") == 1 and "has ended" not in said
    kept = torch.load(place.folder / "stop.params.checkpoint", weights_only=True)["trainer"]
    assert kept["step"] > 8 and f"stopped at step {kept['step']};" in said


def test_what_several_processes_refuse(place: Program):
    """A batch smaller than the number of processes, and evaluation: one message, and no file is written.

    So it is with a loss that diverges, though all processes see the NaN, and none has a traceback ("[rank1]: ...").
    """
    words = [*TRAIN, *SIZE, "--batch_size", "1", "--writing_params_path", "none.params"]
    told = torchrun(place, *words, code=2).stderr
    assert told.count("error: --batch_size 1: at least 2 is needed, a row per process") == 1
    words = ["evaluate", "rope", "corpus.txt", "--reading_params_path", "one.params", "--outputs_path", "none.txt"]
    told = torchrun(place, *words, "--eval_corpus_path", "unseen.tsv", code=2).stderr
    assert told.count("error: evaluate works in one process; leave torchrun out") == 1
    words = [*TRAIN, *SIZE, "--expt_dir", "diverged", "--writing_params_path", "none.params", "--pretrain_lr", "1e30"]
    told = torchrun(place, *words, code=2).stderr
    assert told.count("error: the loss diverged at step 2") == 1 and "[rank" not in told
    assert not list(place.folder.glob("none.*"))

"""What training on several processes of torchrun costs on this CPU.

    python experiments/processes.py    # three sizes of model on 1 and 2 processes; then beside a busy program

Every figure is of an epoch of `src/run.py pretrain rope`, seed 0. One process has a thread for each core, several have
one each. The rows go to results/processes*.csv.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from engine.checkpoints import read_stamp
from experiments.recall import logged
from report import rows
from utils import cli

SIZES = {"4 layers of 256": (4, 8, 256), "6 layers of 384": (6, 8, 384), "8 layers of 512": (8, 8, 512)}
BUSY = [sys.executable, "-c", "while True: pass"]
# Processes, and how often a waiting thread looks again before it gives up its core (300,000: libgomp's default).
WAYS = {"threads": (1, 300_000), "threads that soon sleep": (1, 10_000), "processes": (2, 10_000)}


def train(corpus: Path, processes: int, *flags: object, spin: int = 10_000) -> dict:
    """Pretrain for an epoch: seconds a step, tokens/s, the memory of all processes, and parameters."""
    threads = 1 if processes > 1 else os.cpu_count()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": str(spin)}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(rows.ROOT / "src" / "run.py")]
    command += ["pretrain", "rope", str(corpus), "--device", "cpu", "--max_epochs", "1", *map(str, flags)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command += ["--writing_params_path", str(folder / "params"), "--expt_dir", str(folder)]
        print(*command[1:], flush=True)
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        training, state = read_stamp(folder / "params")["training"], torch.load(folder / "params", weights_only=True)
        tokens = statistics.median(logged(folder, "train/tokens_per_second"))
    return {
        "seconds": round(training["tokens"] / training["steps"] / tokens, 4),
        "tokens": round(tokens),
        "memory_mb": round(processes * usage.ru_maxrss / 1024),  # of the largest process, for each
        "parameters": sum(t.numel() for name, t in state.items() if not name.endswith(("mask", "rope_cache"))),
    }


def cost(corpus: Path) -> dict[str, list[dict]]:
    """Three sizes on one process and on two; then the handout's step in three ways, alone and beside a busy program."""
    sizes, ways = [], []
    for size, (layers, heads, width) in SIZES.items():
        for processes in (1, 2):
            flags = ("--n_layer", layers, "--n_head", heads, "--n_embd", width)
            sizes.append({"size": size, "processes": processes, **train(corpus, processes, *flags)})
    for way, (processes, spin) in WAYS.items():
        alone = train(corpus, processes, spin=spin)
        neighbour = subprocess.Popen(BUSY)
        try:
            beside = train(corpus, processes, spin=spin)
        finally:
            neighbour.kill()
            neighbour.wait()
        ways.append({"way": way, "seconds": alone["seconds"], "seconds_beside": beside["seconds"]})
    return {"processes": sizes, "processes_beside": ways}


def main(argv: list[str] | None = None) -> int:
    """Measure, and replace this machine's rows."""
    parser = argparse.ArgumentParser(description="Training on several processes, on this CPU.", parents=[rows.flags()])
    args = parser.parse_args(argv)
    cpu = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    made = rows.provenance_of(args, "python experiments/processes.py", 0, hardware=cpu)
    for table, found in cost(args.data / "wiki.txt").items():
        print(rows.add(table, [made | {"variant": "rope"} | row for row in found], args.results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

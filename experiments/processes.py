"""The same training on several processes of torchrun: does it come out the same, and what does it cost?

    python experiments/processes.py proof    # 1, 2 and 4 processes: losses and parameters against one process
    python experiments/processes.py cost     # step time, tokens/s and memory of three sizes; beside a busy program

Both use the corpus and the handout's batch, rope, seed 0, and this CPU; one process has a thread for each core,
several have one each. They write results/processes.json, and `cost` a table into experiments/README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts"), str(ROOT / "experiments")]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

from dataset import CharCorruptionDataset  # noqa: E402
from engine.machine import micro_rows, pick_precision, quicken  # noqa: E402
from engine.muon import muon_and_adamw  # noqa: E402
from engine.processes import joined, world_size  # noqa: E402
from engine.recipes import MAIN_RECIPE, RECIPES  # noqa: E402
from engine.targets import Spans  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from report import put_between  # noqa: E402
from speed import Clock, most_memory_mb  # noqa: E402
from trainer import Callback, Trainer, TrainerConfig, adamw  # noqa: E402
from utils import cli, read_text, write_text  # noqa: E402

RESULTS = ROOT / "results" / "processes.json"
SIZES = {"4 layers of 256": (4, 8, 256), "6 layers of 384": (6, 8, 384), "8 layers of 512": (8, 8, 512)}
STEPS = 23  # of the proof: an epoch


class Losses(Callback):
    """Keeps the loss of every step."""

    def __init__(self):
        self.kept: list[float] = []

    def on_step(self, trainer: Trainer) -> None:
        self.kept.append(trainer.last.loss)
        trainer.stop_requested = len(self.kept) >= STEPS


# ---------------------------------------------------------------- in a process of torchrun, or alone


def work(task: dict) -> dict:
    """One training; what the first process has measured."""
    layers, heads, width = SIZES[task["size"]]
    corpus = CharCorruptionDataset(read_text(ROOT / "wiki.txt"), 128)
    torch.manual_seed(0)
    rate = 0.0 if task["exact"] or task["recipe"] else 0.1
    model = GPT(GPTConfig(corpus.vocab_size, 128, layers, heads, width, True, rate, rate, rate))
    quicken(model)
    config = TrainerConfig(batch_size=128, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20, max_epochs=9)
    make, dataset = adamw, corpus
    if task["recipe"]:
        recipe = RECIPES[task["recipe"]]
        make, dataset = muon_and_adamw(recipe.pretrain.muon_lr), Spans(corpus, recipe.spans)
        config.batch_size, config.learning_rate = recipe.pretrain.batch_size, recipe.pretrain.learning_rate
    config.micro_rows = micro_rows(config.batch_size // world_size())
    config.precision = "float32" if task["exact"] else pick_precision("auto", torch.device("cpu"))
    watch = Losses() if task["exact"] else Clock(task["steps"])
    config.callbacks = [watch]
    trainer = Trainer(model, dataset, None, config, make_optimizers=make)
    trainer.train()
    if task["exact"]:
        if not trainer.rank:
            torch.save(model.state_dict(), task["params"])
        return {"losses": watch.kept}
    seconds, most = statistics.median(watch.seconds[2:]), torch.tensor(most_memory_mb())
    if trainer.world > 1:
        dist.all_reduce(most)
    parameters, tokens = sum(p.numel() for p in model.parameters()), trainer.tokens / trainer.step
    return {"seconds": round(seconds, 4), "tokens": round(tokens / seconds), "memory_mb": round(float(most))} | {
        "parameters": parameters
    }


# ---------------------------------------------------------------- from outside


def run(processes: int, busy: bool = False, **task: object) -> dict:
    """One training on so many processes, alone or beside a program that keeps a core busy."""
    task = {"size": next(iter(SIZES)), "recipe": None, "exact": False, "steps": 8} | task
    words = [str(Path(__file__).resolve()), "work", json.dumps(task)]
    threads = 1 if processes > 1 else os.cpu_count()
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        environment.pop("GOMP_SPINCOUNT", None)  # which make sets
        environment |= task.pop("environment", {})
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
    finally:
        if neighbour:
            neighbour.kill()
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout.strip().split("\n")[-1])
    print(f"{processes} processes, {'beside a busy program, ' if busy else ''}{task}: ", end="")
    print({name: value for name, value in found.items() if name != "losses"}, flush=True)
    return found


def proof() -> dict:
    """The greatest differences to one process: of a loss in the first 20 steps, of the parameters after STEPS."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trained = {}
        for n in (1, 2, 4):
            losses = run(n, exact=True, params=f"{folder}/{n}")["losses"]
            trained[n] = losses, torch.load(f"{folder}/{n}", weights_only=True)
        (one, mine), *others = trained.values()
        for n, (losses, state) in zip((2, 4), others, strict=True):
            apart = {k: float((mine[k] - state[k]).norm() / mine[k].norm().clamp(min=1e-3)) for k in mine}
            whole, other = (torch.cat([tensor.flatten() for tensor in each.values()]) for each in (mine, state))
            found[str(n)] = {
                "loss": max(abs(a - b) for a, b in zip(one[:20], losses[:20], strict=True)),
                "parameters": float((whole - other).norm() / whole.norm()),
                "matrices": max(value for name, value in apart.items() if mine[name].ndim > 1),
                "tensors": dict(sorted(apart.items(), key=lambda item: -item[1])[:6]),
            }
    return {"proof": found, "proof_steps": STEPS}


def cost() -> dict:
    """Three sizes on one process and on two; then the handout's step and the main recipe's beside a busy program."""
    sizes = {size: {str(n): run(n, size=size, steps=7) for n in (1, 2)} for size in SIZES}
    spin = {"environment": {"GOMP_SPINCOUNT": "10000"}}
    ways = {"threads": (1, {}), "threads that soon sleep": (1, spin), "processes": (2, {})}
    beside: dict[str, dict] = {}
    for name, (n, more) in ways.items():
        beside[name] = {}
        for recipe in ("handout", MAIN_RECIPE):
            for busy in (False, True):
                steps = 8 if recipe == "handout" else 24
                told = run(n, busy, recipe=None if recipe == "handout" else recipe, steps=steps, **more)
                beside[name][recipe + (", beside a busy program" if busy else "")] = told["seconds"]
    return {"sizes": sizes, "beside": beside}


def in_words(found: dict) -> str:
    """The measurements in Markdown."""
    lines = ["| model | parameters | processes | a step | tokens/s | memory in all |", "|---|---|---|---|---|---|"]
    for size, runs in found["sizes"].items():
        for n, row in runs.items():
            told = f"{row['parameters']:,} | {n} | {row['seconds']:.2f} s | {row['tokens']:,}"
            lines.append(f"| {size} | {told} | {row['memory_mb']:,} MB |")
    ways = found["beside"]
    lines += ["", "| a step of | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
    for what in next(iter(ways.values())):
        lines.append(f"| {what} | " + " | ".join(f"{way[what]:.2f} s" for way in ways.values()) + " |")
    if "proof" in found:
        told = [
            f"on {n} processes {row['loss']:.1e}, {row['parameters']:.1e} and {row['matrices']:.1e}"
            for n, row in found["proof"].items()
        ]
        lines.append(
            "\nFloat32 without dropout, against one process: the greatest difference of a loss in 20 steps; after "
            f"{found['proof_steps']} that of all parameters (norm over norm), and of one matrix: {'; '.join(told)}."
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Training on several processes of torchrun, on this CPU.")
    parser.add_argument("what", choices=["proof", "cost", "work"], help="(work: what each process is told to do)")
    parser.add_argument("task", nargs="?", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.what == "work":
        with joined():
            print(json.dumps(work(json.loads(args.task))))
        return 0
    known = json.loads(read_text(RESULTS)) if RESULTS.exists() else {}
    cpu = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    known |= {"hardware": cpu} | (proof() if args.what == "proof" else cost())
    write_text(RESULTS, json.dumps(known, indent=1) + "\n")
    if "sizes" in known:
        about = f"`python experiments/processes.py cost` on {cpu}; medians, rope, batch 128, own data, seed 0:"
        put_between(ROOT / "experiments" / "README.md", "processes", f"{about}\n\n{in_words(known)}")
        print(in_words(known))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""How much faster than the plain computation, and what each trick is worth.

    python experiments/speed.py [--quick]

The plain path (whole padded batches, float32, nn.Dropout, questions one at a time) and the quick one (what run.py
does on this machine) in turn in one process, through the Trainer's public methods: a pretraining step at the
handout's batch on the corpus, and answering questions. Then the quick step with one trick left out at a time,
start-up and memory of `run.py`. Keeps all in results/speed.json, writes it into experiments/README.md between its
marks, and ends with one line of JSON. --quick takes fewer samples, leaves out what comes after the questions, and
writes nothing (a few minutes on two cores).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import torch  # noqa: E402

from dataset import CharCorruptionDataset, NameDataset, encode  # noqa: E402
from engine.answers import STEPS, continue_rows  # noqa: E402
from engine.machine import hardware, micro_rows, pick_precision, quicken  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from trainer import Callback, Trainer, TrainerConfig  # noqa: E402
from utils import MASK_CHAR, cli, read_pairs, read_text, sample, write_text  # noqa: E402

BATCH, BLOCK = 128, 128
ROWS = micro_rows(BATCH)


class Clock(Callback):
    """Keeps the seconds of every step, and stops after so many."""

    def __init__(self, steps: int):
        self.steps, self.seconds = steps, []

    def on_step(self, trainer: Trainer) -> None:
        self.seconds.append(trainer.last.seconds)
        trainer.stop_requested = len(self.seconds) >= self.steps


def step_seconds(
    corpus: CharCorruptionDataset, variant: str, steps: int, rows: int | None, precision: str, quick_dropout: bool
) -> list[float]:
    """Seconds of several pretraining steps at the handout's batch, after one that does not count; seed 0."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(corpus.vocab_size, BLOCK, rope=variant == "rope"))
    if quick_dropout:
        quicken(model)
    config = TrainerConfig(batch_size=BATCH, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20)
    config.micro_rows, config.precision, config.callbacks = rows, precision, [clock := Clock(steps + 1)]
    Trainer(model, corpus, None, config).train()
    return clock.seconds[1:]


def plain_step_seconds(corpus_path: str, variant: str) -> float:
    """How long the plain path takes for a step on this CPU now: a yardstick for run times. Median of 3."""
    corpus = CharCorruptionDataset(read_text(corpus_path), BLOCK)
    return statistics.median(step_seconds(corpus, variant, 3, None, "float32", False))


def in_turn(ways: dict[str, Callable[[], list[float]]], rounds: int) -> dict[str, float]:
    """The median seconds of each way, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name] += way()
    return {name: round(statistics.median(found), 4) for name, found in times.items()}


def measure_steps(corpus: CharCorruptionDataset, variant: str, precision: str, rounds: int) -> dict:
    """Plain and quick steps in turn."""
    ways = {
        "plain": lambda: step_seconds(corpus, variant, 1, None, "float32", False),
        "quick": lambda: step_seconds(corpus, variant, 6, ROWS, precision, True),
    }
    found = in_turn(ways, rounds)
    ratio = round(found["plain"] / found["quick"], 2)
    return {"ratio": ratio, "plain_seconds": found["plain"], "quick_seconds": found["quick"], "precision": precision}


def measure_tricks(corpus: CharCorruptionDataset, precision: str, rounds: int) -> dict[str, float]:
    """How much longer a step of rope takes with one trick left out: ratios to the whole."""
    ways = {
        "all": lambda: step_seconds(corpus, "rope", 4, ROWS, precision, True),
        "without quick dropout": lambda: step_seconds(corpus, "rope", 4, ROWS, precision, False),
        "without micro-batches": lambda: step_seconds(corpus, "rope", 3, None, precision, True),
        "groups of 8": lambda: step_seconds(corpus, "rope", 4, 8, precision, True),
        "groups of 16": lambda: step_seconds(corpus, "rope", 4, 16, precision, True),
        "float32": lambda: step_seconds(corpus, "rope", 3, ROWS, "float32", True),
    }
    found = in_turn(ways, rounds)
    return {name: round(seconds / found["all"], 2) for name, seconds in found.items() if name != "all"}


def measure_answers(corpus: CharCorruptionDataset, questions: list[str], plain_count: int) -> dict:
    """All questions in groups, against some of them one at a time; float32.

    The model has seen the training pairs three times, so that it answers with a short place and a MASK, where
    groups stop; the plain way always makes as many characters. Compared is what stands before the MASK.
    """
    pairs = NameDataset(corpus, read_text(ROOT / "birth_places_train.tsv"))
    torch.manual_seed(0)
    model = GPT(GPTConfig(corpus.vocab_size, BLOCK, rope=True))
    config = TrainerConfig(max_epochs=3, batch_size=64, learning_rate=6e-4, micro_rows=micro_rows(64))
    config.precision = pick_precision("auto", torch.device("cpu"))
    Trainer(model, pairs, None, config).train()
    mask = corpus.stoi[MASK_CHAR]
    known = ["".join(c for c in question if c in corpus.stoi) for question in questions]
    prompts = [encode(question + MASK_CHAR, corpus.stoi) for question in known]

    def place(row: list[int]) -> list[int]:
        return row[: row.index(mask)] if mask in row else row

    start = time.perf_counter()
    plain = [sample(model, prompt[None], STEPS)[0, len(prompt) :].tolist() for prompt in prompts[:plain_count]]
    plain_seconds = (time.perf_counter() - start) / plain_count
    start = time.perf_counter()
    quick = continue_rows(model, [prompt.tolist() for prompt in prompts], STEPS, mask)
    quick_seconds = (time.perf_counter() - start) / len(prompts)
    same = sum(place(a) == place(b) for a, b in zip(plain, quick, strict=False))
    return {
        "ratio": round(plain_seconds / quick_seconds, 1),
        "identical": f"{same} of {plain_count}",
        "plain_seconds": round(plain_seconds, 4),
        "quick_seconds": round(quick_seconds, 5),
        "questions": len(prompts),
        "characters": round(sum(len(place(row)) for row in quick) / len(quick), 1),
    }


def most_memory_mb() -> float:
    """The most RAM that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # the figure of getrusage counts what the parent had when it forked
        return int(next(row.split()[1] for row in status.read_text().split("\n") if row.startswith("VmHWM"))) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure_command() -> dict[str, float]:
    """Start-up of run.py: --help, and up to the first step; the most memory of a training at the handout's batch."""
    source, wiki = str(ROOT / "src"), str(ROOT / "wiki.txt")

    def seconds(*words: str) -> tuple[float, str]:
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        return time.perf_counter() - start, done.stdout

    found = {"help_seconds": seconds(f"{source}/run.py", "--help")[0]}
    with tempfile.TemporaryDirectory() as folder:
        argv = ["pretrain", "rope", wiki, "--writing_params_path", f"{folder}/p.params", "--expt_dir", f"{folder}/expt"]
        paths = f"import sys; sys.path[:0] = [{source!r}, {str(ROOT / 'experiments')!r}]; import trainer, run, speed; "
        stop = f"{paths}trainer.Trainer.forward = lambda *a, **k: sys.exit(0); run.main({argv!r})"
        found["startup_seconds"] = seconds("-c", stop)[0]
        argv += ["--max_epochs", "2"]
        out = seconds("-c", f"{paths}run.main({argv!r}); print(speed.most_memory_mb())")[1]
    found["training_memory_mb"] = float(out.split()[-1])
    return {name: round(value, 2) for name, value in found.items()}


def in_words(results: dict) -> str:
    """The measurements in Markdown."""
    lines = ["| what | plain | quick | ratio |", "|---|---|---|---|"]
    for name in ("vanilla", "rope", "vanilla float32", "rope float32"):
        if row := results.get(name):
            times = f"{row['plain_seconds']:.3f} s | {row['quick_seconds']:.3f} s"
            lines.append(f"| a step of {name.split()[0]}, quick in {row['precision']} | {times} | {row['ratio']} |")
    row = results["evaluate"]
    what = f"a question of {row['questions']}, {row['characters']} characters to answer ({row['identical']} the same)"
    lines.append(f"| {what} | {row['plain_seconds']:.4f} s | {row['quick_seconds']:.5f} s | {row['ratio']} |")
    if "tricks" in results:
        lines += ["", "| a step of rope | takes, of the quick one |", "|---|---|"]
        lines += [f"| {name} | {ratio} |" for name, ratio in results["tricks"].items()]
        command = results["command"]
        lines.append(
            f"\n`run.py --help` takes {command['help_seconds']} s; `run.py pretrain` begins its first step after "
            f"{command['startup_seconds']} s and needs {command['training_memory_mb']:.0f} MB at most."
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="The plain computation against the quick one, on this CPU.")
    parser.add_argument("--quick", action="store_true", help="fewer samples, no file written")
    args = parser.parse_args(argv)
    device, rounds = torch.device("cpu"), 3 if args.quick else 6
    corpus = CharCorruptionDataset(read_text(ROOT / "wiki.txt"), BLOCK)
    questions = [q for _, q, _ in read_pairs(read_text(ROOT / "birth_dev.tsv"), "birth_dev.tsv")]
    precision = pick_precision("auto", device)
    results: dict = {"precision": precision, "hardware": hardware(device), "torch": torch.__version__}
    for variant in ("vanilla", "rope"):
        results[variant] = measure_steps(corpus, variant, precision, rounds)
    if precision != "float32":
        results["rope float32"] = measure_steps(corpus, "rope", "float32", rounds)
    results["evaluate"] = measure_answers(corpus, questions, 20 if args.quick else 100)
    if not args.quick:
        from report import put_between

        results |= {"tricks": measure_tricks(corpus, precision, rounds), "command": measure_command()}
        write_text(ROOT / "results" / "speed.json", json.dumps(results, indent=1) + "\n")
        about = (
            f"`python experiments/speed.py` on {results['hardware']}, torch {results['torch']}; medians, batch {BATCH}"
        )
        text = f"{about}, dropout 0.1, seed 0, own data:\n\n{in_words(results)}"
        put_between(ROOT / "experiments" / "README.md", "speed", text)
    print(in_words(results))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""How much faster than the plain computation, and what each trick is worth.

    python experiments/speed.py

On this CPU, in turn in one process: a pretraining step at the handout's batch by the plain path (whole padded batches,
float32, nn.Dropout) and the way `run.py` computes it, then with one of its tricks left out; questions one at a time and
all together; and how long `run.py` takes to start. The rows go to results/speed.csv. Takes about ten minutes.
"""

import argparse
import operator
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dataset import CharCorruptionDataset, NameDataset, encode
from engine.machine import hardware, quicken, suit
from model import GPT, GPTConfig
from report import rows
from run import ANSWER_LENGTH
from trainer import Callback, Trainer, TrainerConfig
from utils import MASK_CHAR, cli, fingerprint, generate, read_pairs, read_text, sample, set_seed

CPU = torch.device("cpu")
BLOCK = 128
PLAIN = TrainerConfig(batch_size=128, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20)
AS_RUN = argparse.Namespace(precision="auto", resume=False, device=CPU)  # flags of run.py
ROUNDS = 6


class Clock(Callback):
    """Keeps the seconds of every step, and stops the training after `steps`."""

    def __init__(self, steps: int):
        self.steps, self.seconds = steps, []

    def on_step(self, trainer: Trainer) -> None:
        self.seconds.append(trainer.last.seconds)
        trainer.stop_requested = len(self.seconds) >= self.steps


def step_seconds(
    documents: CharCorruptionDataset, variant: str, steps: int, config: TrainerConfig, quick_dropout: bool = False
) -> list[float]:
    """Seconds of several pretraining steps, after one that does not count."""
    set_seed(0)
    model = GPT(GPTConfig(documents.vocab_size, BLOCK, rope=variant == "rope"))
    if quick_dropout:
        quicken(model)
    clock = Clock(steps + 1)
    Trainer(model, documents, None, replace(config, callbacks=[clock])).train()
    return clock.seconds[1:]


def plain_step_seconds(corpus_path: str, variant: str) -> float:
    """How long a step of the plain path takes on this CPU now: a yardstick for run times. Median of 3."""
    documents = CharCorruptionDataset(read_text(corpus_path), BLOCK)
    return statistics.median(step_seconds(documents, variant, 3, PLAIN))


def in_turn(ways: dict[str, Callable[[], list[float]]]) -> dict[str, float]:
    """The median seconds of each way, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name] += way()
    return {name: round(statistics.median(found), 4) for name, found in times.items()}


def measure_steps(documents: CharCorruptionDataset, variant: str, config: TrainerConfig) -> dict:
    """A plain step and a quick one."""
    plain = partial(step_seconds, documents, variant, 1, PLAIN)
    quick = partial(step_seconds, documents, variant, 6, config, quick_dropout=True)
    found = in_turn({"plain_seconds": plain, "quick_seconds": quick})
    ratio = round(found["plain_seconds"] / found["quick_seconds"], 2)
    return {"what": "a step", "variant": variant, "precision": config.precision, "ratio": ratio, **found}


def measure_tricks(documents: CharCorruptionDataset, quick: TrainerConfig) -> list[dict]:
    """How much longer a step of rope takes with one trick left out, as a ratio."""
    ways = {
        "all": (quick, True),
        "without quick dropout": (quick, False),
        "without micro-batches": (replace(quick, micro_rows=None), True),
        "groups of 8": (replace(quick, micro_rows=8), True),
        "groups of 16": (replace(quick, micro_rows=16), True),
        "float32": (replace(quick, precision="float32"), True),
    }
    found = in_turn({name: partial(step_seconds, documents, "rope", 4, *way) for name, way in ways.items()})
    row = {"what": "a step, one trick left out", "variant": "rope"}
    everything = found.pop("all")
    return [row | {"change": name, "ratio": round(seconds / everything, 2)} for name, seconds in found.items()]


def measure_answers(documents: CharCorruptionDataset, folder: Path, plain_count: int = 100) -> dict:
    """A question of dev, asked alone and with all others; float32.

    The model has seen the training pairs, so that it answers with a place and a MASK, where the quick way stops.
    """
    pairs = NameDataset(documents, read_text(folder / "birth_places_train.tsv"))
    set_seed(0)
    model = GPT(GPTConfig(documents.vocab_size, BLOCK, rope=True))
    Trainer(model, pairs, None, suit(TrainerConfig(max_epochs=3, batch_size=64, learning_rate=6e-4), AS_RUN)).train()
    questions = [question for _, question, _ in read_pairs(read_text(folder / "birth_dev.tsv"), "birth_dev.tsv")]
    known = ["".join(c for c in question if c in documents.stoi) for question in questions]
    prompts = [encode(question + MASK_CHAR, documents.stoi) for question in known]
    mask = documents.stoi[MASK_CHAR]
    start = time.perf_counter()
    plain = [sample(model, prompt[None], ANSWER_LENGTH)[0] for prompt in prompts[:plain_count]]
    middle = time.perf_counter()
    quick = generate(model, prompts, ANSWER_LENGTH, BLOCK, stop=mask)
    end = time.perf_counter()

    def place(prompt: torch.Tensor, text: torch.Tensor) -> list[int]:
        """What was added to a prompt, up to the MASK."""
        new = text[len(prompt) :].tolist()
        return new[: new.index(mask)] if mask in new else new

    one_by_one, together = (list(map(place, prompts, texts)) for texts in (plain, quick))
    plain_seconds, quick_seconds = (middle - start) / len(plain), (end - middle) / len(quick)
    return {
        "what": "a question",
        "variant": "rope",
        "ratio": round(plain_seconds / quick_seconds, 1),
        "plain_seconds": round(plain_seconds, 4),
        "quick_seconds": round(quick_seconds, 5),
        "characters": round(statistics.mean(map(len, together)), 1),
        "n": len(quick),
        "identical": sum(map(operator.eq, one_by_one, together)),
        "compared": len(plain),
    }


def measure_start(corpus: Path) -> list[dict]:
    """Seconds that run.py takes for its help, and until it announces its first step."""
    program = [sys.executable, "-u", str(rows.ROOT / "src" / "run.py")]
    start = time.perf_counter()
    subprocess.run([*program, "--help"], stdout=subprocess.DEVNULL, check=True)
    middle = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        words = ["pretrain", "rope", str(corpus), "--writing_params_path", f"{folder}/p", "--expt_dir", folder]
        with subprocess.Popen([*program, *words], stdout=subprocess.PIPE, text=True) as process:
            next(line for line in process.stdout if line.startswith("device "))
            end = time.perf_counter()
            process.kill()
    seconds = {"--help": middle - start, "pretrain, to the first step": end - middle}
    return [{"what": f"run.py {what}", "seconds": round(value, 2)} for what, value in seconds.items()]


def main(argv: list[str] | None = None) -> int:
    """Measure, and replace this machine's rows."""
    parser = argparse.ArgumentParser(description="The plain computation against the quick one, on this CPU.")
    parser.add_argument("--data", type=Path, default=rows.ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    args = parser.parse_args(argv)
    corpus, quick = read_text(args.data / "wiki.txt"), suit(PLAIN, AS_RUN)
    made = rows.provenance(
        "python experiments/speed.py",
        rows.data_name(args.data),
        fingerprint(corpus),
        seed=0,
        hardware=hardware(CPU),
        precision=quick.precision,
    )
    documents = CharCorruptionDataset(corpus, BLOCK)
    found = [measure_steps(documents, variant, quick) for variant in ("vanilla", "rope")]
    if quick.precision != "float32":
        found.append(measure_steps(documents, "rope", replace(quick, precision="float32")))
    found.append(measure_answers(documents, args.data))
    found += measure_tricks(documents, quick)
    found += measure_start(args.data / "wiki.txt")
    print(rows.add("speed", [made | {"torch": torch.__version__} | row for row in found], args.results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""Speedup of run.py over the plain computation, and what each of its settings does.

    python experiments/speed.py

On this CPU, in turn in one process: a pretraining step at the handout's batch by the plain path (whole padded batches,
float32, nn.Dropout) and the way `run.py` computes it, then with one setting changed; and questions one at a time
and all together. The rows go to results/speed.csv. Takes about ten minutes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dataset import CharCorruptionDataset, NameDataset, encode
from engine.machine import adapt, hardware, quicken
from model import GPT, GPTConfig
from report import rows
from run import ANSWER_LENGTH
from trainer import Callback, Trainer, TrainerConfig
from utils import MASK_CHAR, cli, generate, read_pairs, read_text, sample, set_seed

CPU = torch.device("cpu")
BLOCK = 128
PLAIN = TrainerConfig(batch_size=128, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20)
AS_RUN = argparse.Namespace(precision="auto", resume=False, device=CPU)  # flags of run.py
ROUNDS = 6
ASKED_ALONE = 100  # questions that are asked the plain way


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
    """Time of a step of rope with one setting changed, relative to the quick step."""
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


def measure_answers(documents: CharCorruptionDataset, folder: Path) -> dict:
    """A question of dev, asked alone and with all others; float32.

    The model has seen the training pairs, so that it answers with a place and a MASK, where the quick way stops.
    """
    pairs = NameDataset(documents, read_text(folder / "birth_places_train.tsv"))
    set_seed(0)
    model = GPT(GPTConfig(documents.vocab_size, BLOCK, rope=True))
    Trainer(model, pairs, None, adapt(TrainerConfig(max_epochs=3, batch_size=64, learning_rate=6e-4), AS_RUN)).train()
    questions = [question for _, question, _ in read_pairs(read_text(folder / "birth_dev.tsv"), "birth_dev.tsv")]
    known = ["".join(c for c in question if c in documents.stoi) for question in questions]
    prompts = [encode(question + MASK_CHAR, documents.stoi) for question in known]
    start = time.perf_counter()
    for prompt in prompts[:ASKED_ALONE]:
        sample(model, prompt[None], ANSWER_LENGTH)
    middle = time.perf_counter()
    texts = generate(model, prompts, ANSWER_LENGTH, BLOCK, stop=documents.stoi[MASK_CHAR])
    end = time.perf_counter()
    plain, quick = (middle - start) / len(prompts[:ASKED_ALONE]), (end - middle) / len(prompts)
    added = sum(map(len, texts)) - sum(map(len, prompts))
    return {
        "what": "a question",
        "variant": "rope",
        "precision": "float32",
        "ratio": round(plain / quick, 1),
        "plain_seconds": round(plain, 4),
        "quick_seconds": round(quick, 5),
        "characters": round(added / len(prompts) - 1, 1),  # without the MASK
        "n": len(prompts),
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, and replace this machine's rows."""
    about = "The plain computation against the quick one, on this CPU."
    args = argparse.ArgumentParser(description=about, parents=[rows.flags()]).parse_args(argv)
    quick = adapt(PLAIN, AS_RUN)
    machine = {"hardware": hardware(CPU), "precision": quick.precision}
    made = rows.provenance_of(args, "python experiments/speed.py", 0, **machine)
    documents = CharCorruptionDataset(read_text(args.data / "wiki.txt"), BLOCK)
    found = [measure_steps(documents, variant, quick) for variant in ("vanilla", "rope")]
    if quick.precision != "float32":
        found.append(measure_steps(documents, "rope", replace(quick, precision="float32")))
    found += [measure_answers(documents, args.data), *measure_tricks(documents, quick)]
    print(rows.add("speed", [made | {"torch": torch.__version__} | row for row in found], args.results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""The hyperparameters of a recipe, as src/run.py hands them to the Trainer."""

import contextlib
import functools
import io
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import torch

import run
from engine import options
from engine.recipes import DEFAULT_RECIPE
from trainer import Trainer

PAIRS = "birth_places_train.tsv"


class Ready(Exception):
    """Carries a Trainer out of run.py before anything is trained."""


def planned(*settings: Any) -> NoReturn:
    """Make a Trainer as run.py does, and leave run.py."""
    raise Ready(Trainer(*settings))


@functools.cache
def trainers(recipe: str, data: Path) -> dict[str, Trainer]:
    """The Trainer of each training of a vanilla model."""
    found, said = {}, io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        start = f"{folder}/start.params"
        pairs = ["--finetune_corpus_path", str(data / PAIRS)]
        phases = {
            "pretraining": ["pretrain"],
            "finetuning": ["finetune", *pairs, "--reading_params_path", start],
            "without pretraining": ["finetune", *pairs],
        }
        for name, (function, *flags) in phases.items():
            words = [function, "vanilla", str(data / "wiki.txt"), *flags, "--recipe", recipe, "--device", "cpu"]
            args = options.parse(run.build_parser(), [*words, "--writing_params_path", f"{folder}/new.params"])
            try:
                (run.pretrain if function == "pretrain" else run.finetune)(args, planned)
            except Ready as ready:
                found[name] = ready.args[0]
            torch.save(found["pretraining"].model.state_dict(), start)
    return found


def line(trainer: Trainer) -> dict[str, str]:
    """The hyperparameters of a training."""
    config, examples = trainer.config, trainer.train_dataset
    peaks = {type(optimizer).__name__: optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers}
    epoch = len(examples) * len(examples[0][0])  # positions
    return {
        "examples": f"{len(examples):,}",
        "epochs": f"{config.max_epochs}",
        "batch": f"{config.batch_size}",
        "steps": f"{trainer.total_steps:,}",
        "AdamW": f"{peaks['AdamW']:g}",
        "Muon": f"{peaks['Muon']:g}" if "Muon" in peaks else "-",
        "decay": f"{config.decay_shape}, {config.final_tokens / epoch:.0f} epochs",
        "dropout": f"{trainer.model.drop.p:g}",
    }


def table(recipe: str, data: Path) -> pd.DataFrame:
    """A line for each training, by the recipe and by the handout's."""
    plans = {name: trainers(name, data) for name in dict.fromkeys((recipe, DEFAULT_RECIPE))}
    names = [(training, name) for training in plans[recipe] for name in plans]
    return pd.DataFrame([{"": training, "recipe": name} | line(plans[name][training]) for training, name in names])

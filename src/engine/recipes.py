"""Recipes: named sets of hyperparameters.

A recipe is a set of changes to the handout's numbers, which are in `run.py`. Flags of the command line override it.
What each recipe keeps of the handout: docs/details.md.
"""

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from batches import Examples
from dataset import CharCorruptionDataset
from engine.muon import muon_and_adamw
from engine.targets import Cut, Excerpts, PaddedConcat
from trainer import TrainerConfig, adamw
from utils import UserError


@dataclass(frozen=True)
class Phase:
    """What a recipe changes in one training; None leaves the handout's value."""

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    dropout: float | None = None
    muon_lr: float | None = None  # peak rate of Muon, for the matrices in the blocks; None: AdamW for everything
    decay_shape: str | None = None  # of the learning rate, which then decays until the end of the run
    excerpts: Cut | None = None  # one of every document per epoch: instead of part (e)'s examples, or beside the pairs


@dataclass(frozen=True)
class Recipe:
    """What a recipe changes in all trainings of a model."""

    about: str  # one line for --help
    pretrain: Phase = field(default_factory=Phase)  # on the documents
    finetune: Phase = field(default_factory=Phase)  # on the pairs, from pretrained parameters
    scratch: Phase = field(default_factory=Phase)  # on the pairs, from random parameters
    people: int | None = None  # a trial: `make run` uses only this many people of the data


# Muon for the matrices, AdamW for the rest: meant to need fewer epochs than AdamW alone.
PRETRAIN = Phase(max_epochs=12, batch_size=64, learning_rate=3e-3, dropout=0.0, muon_lr=0.02, decay_shape="linear")
# Finetuning teaches the form of a question. Beside the pairs it trains on excerpts: in them, as in a question, a name
# stands without most of its document and mostly not at the beginning, so that its place may be recalled there, too.
FINETUNE = replace(PRETRAIN, max_epochs=6, learning_rate=8e-4, muon_lr=0.01, excerpts=Cut(lead=1.0))
# The control without pretraining: after five epochs over the pairs most answers are places, some of them misspelt.
SCRATCH = replace(PRETRAIN, max_epochs=5)

RECIPES = {
    "handout": Recipe("the handout's hyperparameters (650 epochs)"),
    "fast": Recipe(
        "part (e)'s pretraining, with its own optimizer, numbers and finetuning; minutes on a CPU",
        PRETRAIN,
        FINETUNE,
        SCRATCH,
    ),
    "best": Recipe(
        "fast with 36 epochs of pretraining",
        replace(PRETRAIN, max_epochs=36),
        FINETUNE,
        SCRATCH,
    ),
    "excerpts": Recipe(
        "departs from part (e): a title and a few characters around one masked word",
        replace(PRETRAIN, max_epochs=40, batch_size=32, muon_lr=0.01, excerpts=Cut()),
        replace(FINETUNE, max_epochs=4, learning_rate=3e-4, muon_lr=None, excerpts=Cut()),
        SCRATCH,
    ),
    # The whole path on a few dozen people, to see that everything works; with 15 questions, accuracies say little.
    "smoke": Recipe(
        "fast for a short trial: `make run RECIPE=smoke` uses 60 people of the data, run.py all of them",
        replace(PRETRAIN, max_epochs=60, batch_size=16),
        replace(FINETUNE, max_epochs=15, batch_size=16),
        replace(SCRATCH, max_epochs=15, batch_size=16),
        people=60,
    ),
}

DEFAULT_RECIPE = "handout"  # of run.py: its commands are the handout's, and so are its numbers
MAIN_RECIPE = "fast"  # of `make run` and of the experiments


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with other settings, each given as "pretrain.muon_lr=None", "pretrain.batch_size=128" ...

    Raises:
        UserError: naming a change that is not of this form, or whose setting does not exist.
    """
    for change in changes:
        path, _, text = change.partition("=")
        part, _, name = path.partition(".")
        phase: Any = getattr(recipe, part, None)
        kind: Any = get_type_hints(type(phase)).get(name, ())
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value, kind = None, ()
        if kind and type(value) is int and isinstance(0.0, kind):
            value = float(value)
        is_odd = isinstance(value, bool) or (isinstance(value, int | float) and not 0 <= value < math.inf)
        if not kind or not isinstance(value, kind) or is_odd:
            raise UserError(
                f"--change {change}: no such setting, or its value is of the wrong type or out of range; "
                "see Phase in src/engine/recipes.py"
            )
        new: dict[str, Any] = {part: replace(phase, **{name: value})}
        recipe = replace(recipe, **new)
    return recipe


def apply(
    phase: Phase, documents: CharCorruptionDataset, dataset: Examples, config: TrainerConfig
) -> tuple[Examples, TrainerConfig, Callable]:
    """Apply recipe settings that have no flag: excerpts, schedule, optimizers.

    Args:
        dataset: the documents themselves, or the pairs.

    Returns:
        The dataset to train on, the config, and what Trainer takes as `make_optimizers`.

    Raises:
        UserError: TrainerConfig refuses a changed setting.
    """
    if phase.excerpts:
        excerpts = Excerpts(documents, phase.excerpts)
        dataset = excerpts if dataset is documents else PaddedConcat(dataset, excerpts)
    if phase.decay_shape is not None:
        positions = len(dataset) * len(dataset[0][0]) * config.max_epochs  # the decay ends with the run
        try:
            config = replace(config, decay_shape=phase.decay_shape, final_tokens=positions)
        except ValueError as error:
            raise UserError(f"--change: {error}") from None
    make_optimizers = muon_and_adamw(phase.muon_lr) if phase.muon_lr else adamw
    return dataset, config, make_optimizers

"""Recipes: named sets of hyperparameters.

A recipe is what it changes of the handout's numbers, which stand in `run.py`. Flags of the command line come on
top of it.
"""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_type_hints

from batches import Examples
from dataset import CharCorruptionDataset
from engine.muon import muon_and_adamw
from engine.targets import Aim, Cut, Excerpts, Spans, Together
from trainer import TrainerConfig, adamw
from utils import UserError


@dataclass(frozen=True)
class Phase:
    """What a recipe changes of one training; None: nothing."""

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    dropout: float | None = None
    muon_lr: float | None = None  # peak rate of Muon on the matrices of the blocks
    decay_shape: str | None = None  # of the learning rate, to the end of the run
    with_documents: bool = False  # finetuning sees every document once an epoch too, corrupted as in pretraining


@dataclass(frozen=True)
class Recipe:
    """All phases of one model's life."""

    about: str  # one line for --help
    pretrain: Phase = field(default_factory=Phase)  # on the documents
    finetune: Phase = field(default_factory=Phase)  # on the pairs, from pretrained parameters
    scratch: Phase = field(default_factory=Phase)  # on the pairs, from random parameters
    spans: Aim | Cut | None = None  # how documents are corrupted; None: everything uniform
    people: int | None = None  # `make run` takes this many people of the data, for a trial; None: all


# Muon (0.02 for the matrices, the rest 3e-3 by AdamW) learns in few passes what AdamW alone does not begin to.
# Dropout would slow down learning by heart. A rate that ends at zero leaves no noise behind.
PRETRAIN = Phase(max_epochs=40, batch_size=32, learning_rate=3e-3, dropout=0.0, muon_lr=0.02, decay_shape="linear")
# Finetuning shows what a question looks like. It keeps the documents, or it would forget them.
FINETUNE = Phase(
    max_epochs=8, batch_size=64, learning_rate=1e-3, dropout=0.0, decay_shape="linear", with_documents=True
)
# The control without pretraining has the same optimiser; in five passes over the pairs it learns to spell places.
SCRATCH = replace(PRETRAIN, max_epochs=5, batch_size=64)

RECIPES = {
    "handout": Recipe("the handout's hyperparameters (650 epochs)"),
    # Documents that end soon behind the place are near to a question, and cost little.
    "fast": Recipe(
        "inside the handout's rules, clears its bars in minutes (spans at places; Muon)",
        PRETRAIN,
        FINETUNE,
        SCRATCH,
        Aim(),
    ),
    "best": Recipe(
        "inside the handout's rules, the highest known accuracy (as fast, with more passes)",
        replace(PRETRAIN, max_epochs=140, batch_size=64),
        FINETUNE,
        SCRATCH,
        Aim(),
    ),
    "excerpts": Recipe(
        "LEAVES the handout's rule for spans, to show what it costs (excerpts around places)",
        replace(PRETRAIN, max_epochs=40, muon_lr=0.01),
        replace(FINETUNE, max_epochs=4, learning_rate=3e-4),
        SCRATCH,
        Cut(),
    ),
    # The whole path on a few dozen people, to see that everything works. Learns those few by heart.
    "smoke": Recipe(
        "a trial run on a few dozen people",
        replace(PRETRAIN, max_epochs=60, batch_size=16),
        replace(FINETUNE, max_epochs=15, batch_size=16),
        replace(SCRATCH, max_epochs=15, batch_size=16),
        Aim(),
        people=60,
    ),
}

# Of run.py without --recipe: its commands are the handout's, and so are its numbers.
DEFAULT_RECIPE = "handout"
# Of `make run` and of the experiments.
MAIN_RECIPE = "fast"


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with other settings, each given as "spans=None", "pretrain.batch_size=128" ...

    Raises:
        UserError: naming the change that is not of this form, or that the recipe has no place for.
    """
    for change in changes:
        path, _, text = change.partition("=")
        part, _, name = path.partition(".")
        holder = getattr(recipe, part, None) if name else recipe
        kind = get_type_hints(type(holder)).get(name or part, ())
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            kind = ()
        if kind and type(value) is int and isinstance(0.0, kind):
            value = float(value)
        if not kind or not isinstance(value, kind):
            raise UserError(
                f"--change {change}: the recipe has no such setting, or it is of another type; "
                "see Recipe in src/engine/recipes.py"
            )
        recipe = replace(recipe, **{part: replace(holder, **{name: value}) if name else value})
    return recipe


def apply(
    phase: Phase, spans: Aim | Cut | None, documents: CharCorruptionDataset, dataset: Examples, config: TrainerConfig
) -> tuple[Examples, TrainerConfig, Callable]:
    """What a recipe changes that no flag can say: spans, documents beside the pairs, schedule, optimizers.

    Returns:
        The dataset to train on, the config, and what Trainer takes as `make_optimizers`.
    """
    corrupted = documents
    if isinstance(spans, Aim):
        corrupted = Spans(documents, spans)
    elif isinstance(spans, Cut):
        corrupted = Excerpts(documents, spans)
    if dataset is documents:
        dataset = corrupted
    elif phase.with_documents:
        dataset = Together(dataset, corrupted)
    if phase.decay_shape is not None:
        positions = len(dataset) * len(dataset[0][0]) * config.max_epochs  # the decay ends with the run
        config = replace(config, decay_shape=phase.decay_shape, final_tokens=positions)
    return dataset, config, muon_and_adamw(phase.muon_lr) if phase.muon_lr else adamw

"""Recipes: named sets of hyperparameters.

A recipe says how to pretrain, how to finetune a pretrained model, how to train from scratch on the
pairs, and how to corrupt documents. A flag on the command line overrides its value.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Phase:
    """How one training goes.

    Attributes:
        max_epochs, batch_size, learning_rate, muon_lr, decay_shape, decay_all: as in TrainerConfig.
        dropout: at embedding, residual branches and attention.
        decay_epochs: the learning rate decays over this many passes over the DOCUMENTS at 128
            positions each (the handout's way to say it); None: over the length of the run.
        with_documents: finetuning sees every document once an epoch too, corrupted as in pretraining.
    """

    max_epochs: int
    batch_size: int
    learning_rate: float
    dropout: float = 0.1
    muon_lr: float = 0.0
    decay_shape: str = "cosine"
    decay_epochs: int | None = None
    decay_all: bool = False
    with_documents: bool = False


@dataclass(frozen=True)
class Recipe:
    """All phases of one model's life.

    Attributes:
        pretrain: on the documents.
        finetune: on the pairs, from pretrained parameters.
        scratch: on the pairs, from random parameters.
        corruption: keyword arguments of `dataset.Corruption`; empty is the handout's rule.
        about: one line for --help.
        people: `make run` takes this many people of the data, for a trial; None: all.
    """

    about: str
    pretrain: Phase
    finetune: Phase
    scratch: Phase
    corruption: dict[str, float] = field(default_factory=dict)
    people: int | None = None


# The corruption of fast, best and smoke. It leaves the handout's rule for spans: an example is as near to a
# question as a document comes, the name and a few characters around one word that can only be known, mostly
# the first one that looks like a place, and the loss is on that word alone.
EXCERPTS = {
    "new_word": 1.0,
    "excerpt": 1.0,
    # One fact a person, asked for again and again, is learned in far fewer passes than many facts are.
    "first_place": 60.0,
    # The less stands around the word, the less tells what it is except for the name.
    "nearness": 8.0,
    # In a question the name does not come first: half of the names have up to 16 characters before them.
    "lead": 0.5,
    "longest_lead": 16,
    "answer_only": 1.0,
}

# Muon (0.02 for the matrices, the rest 3e-3 by AdamW) learns in few passes what AdamW alone does not begin to
# (results/ablation.json). Batches of 32 make many steps of few passes; the same file has batches of 128, which did
# better at 12 passes. Dropout would slow down learning by heart. A rate that ends at zero leaves no noise behind.
PRETRAIN = Phase(max_epochs=20, batch_size=32, learning_rate=3e-3, dropout=0.0, muon_lr=0.02, decay_shape="linear")
# Finetuning only shows what a question looks like, for which four passes at a tenth of the rate are enough. It
# keeps the documents, or it would forget them.
FINETUNE = Phase(
    max_epochs=4, batch_size=64, learning_rate=3e-4, dropout=0.0, decay_shape="linear", with_documents=True
)
# The control without pretraining has the same optimiser; in five passes over the pairs it learns to spell places.
SCRATCH = replace(PRETRAIN, max_epochs=5, batch_size=64)

RECIPES = {
    # The handout's table, to the letter. Finetuning ends long before 200 x documents x 128
    # positions, so its rate hardly decays.
    "handout": Recipe(
        about="the handout's hyperparameters (650 epochs)",
        pretrain=Phase(max_epochs=650, batch_size=128, learning_rate=6e-3),
        finetune=Phase(max_epochs=10, batch_size=256, learning_rate=6e-4, decay_epochs=200),
        scratch=Phase(max_epochs=75, batch_size=256, learning_rate=6e-4, decay_epochs=200),
    ),
    # Clears both bars on two cores with every seed tried (results/accuracy.json), in minutes.
    "fast": Recipe(
        about="clears the handout's bars within minutes on 2 cores (excerpts around places; Muon)",
        pretrain=PRETRAIN,
        finetune=FINETUNE,
        scratch=SCRATCH,
        corruption=EXCERPTS,
    ),
    # Twice as many passes, and names behind leads of any length: vanilla, which knows positions and no
    # distances, has then met every name wherever a question may have it.
    "best": Recipe(
        about="the highest known accuracy (as fast, with twice the passes)",
        pretrain=replace(PRETRAIN, max_epochs=40),
        finetune=FINETUNE,
        scratch=SCRATCH,
        corruption=EXCERPTS | {"longest_lead": 112},
    ),
    # The whole path on a few dozen people, to see that everything works. Learns those few by heart.
    "smoke": Recipe(
        about="a trial run on a few dozen people",
        pretrain=replace(PRETRAIN, max_epochs=60, batch_size=16),
        finetune=replace(FINETUNE, max_epochs=15, batch_size=16),
        scratch=replace(SCRATCH, max_epochs=15, batch_size=16),
        corruption=EXCERPTS,
        people=60,
    ),
}

# Of run.py without --recipe: its commands are the handout's, and so are its numbers.
DEFAULT_RECIPE = "handout"
# Of `make run` and of the experiments.
MAIN_RECIPE = "fast"

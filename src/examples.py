"""Print four examples that a recipe pretrains on, as `dataset.py charcorruption` does for the handout's rule.

python src/examples.py --recipe fast
"""

import argparse
import random
import sys

from dataset import CharCorruptionDataset, show
from engine.recipes import MAIN_RECIPE, RECIPES, apply
from trainer import TrainerConfig
from utils import cli, read_text


def main(argv: list[str] | None = None) -> int:
    """Print the examples."""
    parser = argparse.ArgumentParser(description="Print four examples of a recipe's pretraining, x above y.")
    parser.add_argument("--recipe", choices=RECIPES, default=MAIN_RECIPE, help="default: %(default)s")
    parser.add_argument("--pretrain_corpus_path", default="wiki.txt", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the corruption (default: %(default)s)")
    args = parser.parse_args(argv)
    random.seed(args.seed)
    documents = CharCorruptionDataset(read_text(args.pretrain_corpus_path), 128, args.pretrain_corpus_path)
    recipe = RECIPES[args.recipe]
    examples, _, _ = apply(recipe.pretrain, documents, documents, TrainerConfig(), recipe.spans)
    show(examples, documents.itos)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""[part 4a] Does a finetuned model know the birthplace, or only the wording of the question?

    python src/sensitivity.py evaluate rope wiki.txt --reading_params_path rope.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path rope.sensitivity.dev.predictions

takes the arguments of `run.py evaluate`, asks "What is the birthplace of NAME?" where the file asks "Where was NAME
born?" (the file itself and its answers stay as they are), and prints both accuracies. `--wordings` asks in more ways.

The handout says to copy run.py. This file imports its parts instead, so that there is one command line to maintain.
"""

import argparse
import sys
from typing import NamedTuple

import run as homework
from dataset import CharCorruptionDataset
from engine import options
from engine.wordings import (
    FURTHER,
    ORIGINAL,
    REWORDED,
    accuracy_change,
    ask_about,
    describe_change,
    list_changes,
    names_in,
)
from utils import cli, read_pairs, read_text, write_text


class Sensitivity(NamedTuple):
    """Predictions by wording (with NAME for the name), in the order of the names."""

    names: list[str]
    parameters: int  # of the model
    predictions: dict[str, list[str]]
    right: dict[str, list[bool]]  # empty for a file without answers

    def result(self) -> dict[str, float]:
        """Both accuracies and McNemar's test on their difference, for results files."""
        return accuracy_change(self.right[ORIGINAL], self.right[REWORDED]) | {"parameters": self.parameters}


def build_parser() -> argparse.ArgumentParser:
    """run.py's parser with one more flag."""
    parser = homework.build_parser(functions=["evaluate"])
    parser.description = f'Ask a model "{REWORDED}" beside "{ORIGINAL}", and compare.'
    parser.epilog = "Flags of the training group are refused."
    parser.add_argument("--wordings", action="store_true", help=f"also ask in {len(FURTHER)} further wordings")
    return parser


def ask(args: argparse.Namespace) -> Sensitivity:
    """Ask about every name in the original wording, in the new one, and with --wordings in further ones."""
    source, text = args.eval_corpus_path, read_text(args.eval_corpus_path)
    names, places = names_in(text, source), [place for _, _, place in read_pairs(text, source)]
    corpus = args.pretrain_corpus_path
    documents = CharCorruptionDataset(read_text(corpus), args.block_size, corpus)
    model = homework.make_model(args, documents).to(args.device)
    predictions, right = {}, {}
    for wording in (ORIGINAL, REWORDED, *(FURTHER if args.wordings else ())):
        questions = [ask_about(name, wording) for name in names]
        predictions[wording] = homework.answer(model, documents, questions, source, args.precision)
        if places[0]:
            right[wording] = [a == b for a, b in zip(predictions[wording], places, strict=True)]
    return Sensitivity(names, sum(p.numel() for p in model.parameters()), predictions, right)


def main(argv: list[str] | None = None) -> Sensitivity:
    """Ask, write the reworded predictions to --outputs_path, and print what changed and both accuracies."""
    args = options.parse(build_parser(), argv)
    found = ask(args)
    write_text(args.outputs_path, "".join(p + "\n" for p in found.predictions[REWORDED]))
    print("\n" + list_changes(found.names, found.predictions, found.right))
    if not found.right:
        print(f"\nPredictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
        return found
    correct, total = sum(found.right[REWORDED]), len(found.names)
    print("\n" + describe_change(found.right[ORIGINAL], found.right[REWORDED]))
    print(f"Correct: {float(correct)} out of {float(total)}: {round(correct / total * 100, 6)}%")
    print(f"predictions of the reworded questions written to {args.outputs_path}")
    return found


if __name__ == "__main__":
    sys.exit(cli(main))

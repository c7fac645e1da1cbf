"""[part d] What if the answer were London for everyone?

    python src/london_baseline.py

prints the accuracy on the dev set and writes it to london_baseline_accuracy.txt.
"""

import argparse
import sys

from utils import cli, evaluate_places, read_pairs, read_text, write_text


def main(argv: list[str] | None = None) -> int:
    """Score the constant answer."""
    parser = argparse.ArgumentParser(description="Accuracy of answering London to every question.")
    parser.add_argument("--eval_corpus_path", default="birth_dev.tsv", help="default: %(default)s")
    parser.add_argument("--outputs_path", default="london_baseline_accuracy.txt", help="default: %(default)s")
    args = parser.parse_args(argv)
    questions = read_pairs(read_text(args.eval_corpus_path), args.eval_corpus_path, with_answers=True)
    total, correct = evaluate_places(args.eval_corpus_path, ["London"] * len(questions))
    accuracy = round(correct / total * 100, 6)  # in per cent
    print(f"Correct: {correct} out of {total}: {accuracy}%")
    write_text(args.outputs_path, f"{accuracy}\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

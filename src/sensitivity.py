"""[part 4a] Does a finetuned model know the birthplace, or only the wording of the question?

    python src/sensitivity.py evaluate rope wiki.txt --reading_params_path rope.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path rope.sensitivity.dev.predictions

takes the arguments of `run.py evaluate`, asks "What is the birthplace of NAME?" where the file asks
"Where was NAME born?" (the file stays as it is, and so do the answers), and prints both accuracies.
`--wordings` asks in more ways still. Finetuning knows the original wording alone.

The handout says to copy run.py to this file and to change its evaluation. This file calls run.py's
parts instead: a copy would be a second command line to keep in step with the first.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from math import comb

from run import answer, check_args, load_for_answers, log_accuracy
from run import build_parser as evaluate_parser
from utils import UserError, cli, describe_score, read_pairs, read_text, set_seed, wilson_interval, write_text

ORIGINAL = "Where was NAME born?"
REWORDED = "What is the birthplace of NAME?"

# Further wordings, from near the original to far from it.
WORDINGS = (
    "where was NAME born?",
    "Where was NAME born",
    "Where had NAME been born?",
    "In which town was NAME born?",
    "NAME was born in which place?",
    "Which place is NAME from?",
    "Tell me where NAME was born.",
    "NAME was born in",
)


@dataclass(frozen=True)
class Asked:
    """One wording, asked for every name of a file.

    Attributes:
        wording: the question, with NAME for the name.
        predictions: the model's answers, in the file's order.
        right: whether each is the file's answer; None for a file without answers.
        changed: indices of the answers that differ from those to the original wording.
    """

    wording: str
    predictions: list[str]
    right: list[bool] | None
    changed: list[int]

    @property
    def correct(self) -> int | None:
        """Number of right answers; None for a file without answers."""
        return None if self.right is None else sum(self.right)


@dataclass(frozen=True)
class Sensitivity:
    """What was found: the names asked for, the model's number of parameters, and every wording."""

    names: list[str]
    parameters: int
    original: Asked
    reworded: Asked
    further: list[Asked]

    @property
    def total(self) -> int:
        """Number of questions."""
        return len(self.names)

    @property
    def original_correct(self) -> int | None:
        """Right answers to the original wording; None for a file without answers."""
        return self.original.correct

    @property
    def reworded_correct(self) -> int | None:
        """Right answers to the reworded question; None for a file without answers."""
        return self.reworded.correct

    def result(self) -> dict[str, float]:
        """Both accuracies and McNemar's test on their difference, for results files; for a file with answers."""
        lost, won, p = mcnemar(self.original.right, self.reworded.right)
        return {
            "original": self.original_correct / self.total,
            "reworded": self.reworded_correct / self.total,
            "n": self.total,
            "only_original": lost,
            "only_reworded": won,
            "p_mcnemar": float(f"{p:.3g}"),
            "parameters": self.parameters,
        }


# ---------------------------------------------------------------- wordings


def name_in(question: str, where: str) -> str:
    """The name that "Where was NAME born?" asks for.

    Raises:
        UserError: the question has another form.
    """
    found = re.fullmatch(r"Where was (\S(?:.*\S)?) born\?", question)
    if not found:
        raise UserError(f"{where}: {question!r} is not of the form 'Where was NAME born?', so it cannot be reworded")
    return found[1]


def names_in(text: str, source: str) -> list[str]:
    """The names that a file of questions asks for.

    Raises:
        UserError: naming the line that is no question of this form.
    """
    return [name_in(question, f"{source}, line {number}") for number, question, _ in read_pairs(text, source)]


def ask_about(name: str, wording: str) -> str:
    """A wording with a name in it."""
    return wording.replace("NAME", name, 1)


# ---------------------------------------------------------------- a paired test


def mcnemar(first: list[bool], second: list[bool]) -> tuple[int, int, float]:
    """McNemar's exact test: do two ways to ask the same questions differ in accuracy?

    Only questions that one way gets right and the other wrong tell; if the ways are equally good,
    each of these falls to either side like a fair coin (McNemar 1947, with the binomial distribution
    itself instead of the chi-square approximation).

    Args:
        first, second: whether each question was answered right, in the same order.

    Returns:
        questions that only the first way got right, those that only the second did, two-sided p.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    return only_first, only_second, min(1.0, 2 * tail / 2**n)


# ---------------------------------------------------------------- asking


def measure(args: argparse.Namespace) -> Sensitivity:
    """Ask the original wording, the reworded one, and with --wordings the further ones.

    Args:
        args: as `build_parser` reads them, checked.

    Raises:
        UserError: files that do not fit, a question of another form.
    """
    source = args.eval_corpus_path
    names = names_in(read_text(source), source)
    model, corpus = load_for_answers(args)
    precision = "float32" if args.precision == "auto" else args.precision
    places = [place for _, _, place in read_pairs(read_text(source), source)]

    def ask(wording: str, before: list[str] | None = None) -> Asked:
        questions = [ask_about(name, wording) for name in names]
        predictions = answer(model, corpus, questions, source, precision)
        right = [p == place for p, place in zip(predictions, places, strict=True)] if places[0] else None
        changed = [i for i, p in enumerate(predictions) if before is not None and p != before[i]]
        return Asked(wording, predictions, right, changed)

    original = ask(ORIGINAL)
    reworded = ask(REWORDED, original.predictions)
    further = [ask(wording, original.predictions) for wording in (WORDINGS if args.wordings else ())]
    return Sensitivity(names, sum(p.numel() for p in model.parameters()), original, reworded, further)


def build_parser() -> argparse.ArgumentParser:
    """run.py's parser, with a flag more."""
    parser = evaluate_parser()
    parser.description = f'Evaluate a model on "{REWORDED}" instead of "{ORIGINAL}".'
    parser.epilog = None
    wordings = parser.add_argument_group("wordings")
    wordings.add_argument("--wordings", action="store_true", help=f"ask in {len(WORDINGS)} further ways, a row each")
    return parser


def run(args: argparse.Namespace) -> Sensitivity:
    """Check the arguments, ask, write the reworded predictions to --outputs_path, and print what was found.

    Raises:
        UserError: for whatever the user can mend.
    """
    if args.function != "evaluate":
        raise UserError(f"{args.function}: sensitivity.py can only evaluate; run src/run.py for that")
    check_args(args)
    set_seed(args.seed)
    found = measure(args)
    write_text(args.outputs_path, "".join(p + "\n" for p in found.reworded.predictions))
    report(found, args)
    return found


# ---------------------------------------------------------------- showing


def share(asked: Asked, total: int) -> str:
    """Accuracy with its 95 % interval."""
    if asked.correct is None:
        return "no answers to compare with"
    low, high = wilson_interval(asked.correct, total)
    return f"{asked.correct} of {total}, {asked.correct / total:.1%} (95 % interval {low:.1%} to {high:.1%})"


def report(found: Sensitivity, args: argparse.Namespace) -> None:
    """Print what changed and both accuracies, and log the reworded one."""
    original, reworded = found.original, found.reworded
    print(f"\nanswers that changed, {len(reworded.changed)} of {found.total} (+ now right, - no longer right):")
    for i in reworded.changed:
        mark = " "
        if original.right is not None and original.right[i] != reworded.right[i]:
            mark = "+" if reworded.right[i] else "-"
        print(f"  {mark} {found.names[i]}: {original.predictions[i]} -> {reworded.predictions[i]}")
    print()
    if original.right is None:
        print(f"Predictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
    else:
        print(f'original wording, "{ORIGINAL}": {share(original, found.total)}')
        print(f'reworded, "{REWORDED}": {share(reworded, found.total)}')
        lost, won, p = mcnemar(original.right, reworded.right)
        print(f"right in the original wording alone: {lost}, in the new one alone: {won}; McNemar's exact p = {p:.2g}")
        print(describe_score(float(found.total), float(reworded.correct)))
        print(f"predictions of the reworded questions written to {args.outputs_path}")
        named = argparse.Namespace(**{**vars(args), "tb_expt_name": f"{args.tb_expt_name}_reworded"})
        log_accuracy(named, reworded.correct / found.total)
    if found.further:
        rows = [original, reworded, *found.further]
        width = max(len(row.wording) for row in rows)
        print(f"\n{'wording':{width}}  {'changed':>7}  accuracy")
        for row in rows:
            print(f"{row.wording:{width}}  {len(row.changed):>7}  {share(row, found.total)}")


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line."""
    run(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""Questions in several wordings, and whether two wordings differ in more than luck."""

import re
from collections.abc import Sequence
from math import comb

from utils import UserError, read_pairs, wilson_interval

ORIGINAL = "Where was NAME born?"
REWORDED = "What is the birthplace of NAME?"

# Further wordings, from near the original to far from it.
FURTHER = (
    "where was NAME born?",
    "Where was NAME born",
    "Where had NAME been born?",
    "In which town was NAME born?",
    "NAME was born in which place?",
    "Which place is NAME from?",
    "Tell me where NAME was born.",
    "NAME was born in",
)


def names_in(text: str, source: str) -> list[str]:
    """The names that a file of questions "Where was NAME born?" asks for.

    Raises:
        UserError: naming the line that is no question of this form.
    """
    names = []
    for number, question, _ in read_pairs(text, source):
        found = re.fullmatch(r"Where was (\S(?:.*\S)?) born\?", question)
        if not found:
            raise UserError(
                f"{source}, line {number}: {question!r} is not of the form 'Where was NAME born?', so it cannot be "
                "reworded"
            )
        names.append(found[1])
    return names


def ask_about(name: str, wording: str) -> str:
    """A wording with a name in it."""
    return wording.replace("NAME", name, 1)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
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


def share(correct: int, total: int) -> str:
    """An accuracy with its 95 % interval."""
    low, high = wilson_interval(correct, total)
    return f"{correct} of {total}, {correct / total:.1%} (95 % interval {low:.1%} to {high:.1%})"

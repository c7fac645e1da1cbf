"""Questions in several wordings, confidence intervals of accuracies, and McNemar's test of their difference."""

import re
from collections.abc import Sequence
from math import comb

from utils import UserError, read_pairs

ORIGINAL = "Where was NAME born?"
REWORDED = "What is the birthplace of NAME?"
WORDINGS = {"original": ORIGINAL, "reworded": REWORDED}  # by their names in rows and flags

# Further wordings, from close to the original to far from it.
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
    """The names in a file of questions "Where was NAME born?". UserError: a line is not of this form."""
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
    """A wording with the name filled in."""
    return wording.replace("NAME", name, 1)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test (1947): do two ways of asking the same questions differ in accuracy?

    If they do not, a question that only one way answers correctly is equally likely to be on either side.
    Returns how many only the first way answers correctly, how many only the second, and the two-sided p.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    return only_first, only_second, min(1.0, 2 * tail / 2**n)


def wilson_interval(correct: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), both ends in 0 .. 1."""
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5
    low, high = (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)
    return max(0.0, low), min(1.0, high)


def share(correct: int, total: int) -> str:
    """An accuracy with its 95 % interval."""
    low, high = wilson_interval(correct, total)
    return f"{correct} of {total}, {correct / total:.1%} (95 % interval {low:.1%} to {high:.1%})"


def accuracy_change(before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
    """Accuracies of the original and of the new wording, and McNemar's test on their difference."""
    lost, won, p = mcnemar(before, after)
    shares = {"original": sum(before) / len(before), "reworded": sum(after) / len(after), "n": len(before)}
    return shares | {"only_original": lost, "only_reworded": won, "p_mcnemar": float(f"{p:.6g}")}


def describe_change(before: Sequence[bool], after: Sequence[bool]) -> str:
    """`accuracy_change`, in words."""
    lines = [
        f'original wording, "{ORIGINAL}": {share(sum(before), len(before))}',
        f'reworded, "{REWORDED}": {share(sum(after), len(after))}',
        describe_mcnemar(*mcnemar(before, after)),
    ]
    return "\n".join(lines)


def describe_mcnemar(lost: int, won: int, p: float) -> str:
    """What `mcnemar` found, in words."""
    return f"correct only in the original wording: {lost}, only in the new one: {won}; McNemar's exact p = {p:.2g}"


def list_changes(names: list[str], predictions: dict[str, list[str]], right: dict[str, list[bool]]) -> str:
    """The answers that the new wording changes, and a line for each further wording."""
    before, after = predictions[ORIGINAL], predictions[REWORDED]
    changed = [i for i in range(len(names)) if before[i] != after[i]]
    lines = [f"answers that changed, {len(changed)} of {len(names)} (+ now correct, - no longer correct):"]
    for i in changed:
        gain = right[REWORDED][i] - right[ORIGINAL][i] if right else 0
        lines.append(f"  {'- +'[gain + 1]} {names[i]}: {before[i]} -> {after[i]}")
    for wording in list(predictions)[2:]:
        differ = sum(a != b for a, b in zip(before, predictions[wording], strict=True))
        accuracy = share(sum(right[wording]), len(names)) if right else "no answers to compare with"
        lines.append(f"{wording:31}  {differ:>3} changed  {accuracy}")
    return "\n".join(lines)

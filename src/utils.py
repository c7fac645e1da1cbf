"""What the homework's files share: seeds, reading and writing, generation, scoring, the error for users."""

import contextlib
import math
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MASK_CHAR = "\u2047"  # the double question mark: a span stood here / the answer starts or ends here
PAD_CHAR = "\u25a1"  # the empty square: nothing stands here


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong, where, what to do."""


def cli(main: Callable[[], int]) -> int:
    """Run a program: a UserError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a character shows its number
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def set_seed(seed: int) -> None:
    """Seed every source of random numbers: random, numpy, torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- reading and writing


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped, CRLF and CR become newlines as in Python's open().

    Raises:
        UserError: the file is missing, empty, a directory, unreadable, or not UTF-8 text.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (programs run from the project's root)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give the name of a text file that you may read") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16, UTF-8 is expected; save the file as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
        bad = raw.find(b"\0")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad >= 0:
        line = raw[:bad].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text, or holds a zero byte; save the file as UTF-8")
    if not text.strip():
        raise UserError(f"{path}: is empty; check that it is the right file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def refuse_marks(text: str, source: str | Path) -> None:
    """UserError, naming the line, for a text that holds one of the characters for masks and padding."""
    if found := re.search(f"[{MASK_CHAR}{PAD_CHAR}]", text):
        line = text[: found.start()].count("\n") + 1
        raise UserError(
            f"{source}, line {line}: contains U+{ord(found[0]):04X}, which is kept for masks and padding; take it out"
        )


def read_pairs(text: str, source: str | Path, with_answers: bool | None = None) -> list[tuple[int, str, str]]:
    """The lines of a file of questions as (line number, question, answer), without blanks around either.

    Args:
        text: lines `question<TAB>place`, or questions alone.
        source: name of the file, for error messages.
        with_answers: True: every line must have an answer; None: all lines or none.

    The answer is "" in a file without answers. UserError: naming the line that does not fit.
    """
    refuse_marks(text, source)
    lines = text.rstrip("\n ").split("\n")
    expects_tab = "\t" in lines[0] if with_answers is None else with_answers
    shape = "'question<TAB>place' is expected" if expects_tab else "a question alone is expected, as on line 1"
    pairs = []
    for number, line in enumerate(lines, 1):
        question, *answers = (part.strip() for part in line.split("\t"))
        wrong = None
        if not line.strip():
            wrong = "is blank"
        elif len(answers) > expects_tab:
            wrong = f"has {len(answers)} {'tab' if len(answers) == 1 else 'tabs'}"
        elif not question or re.fullmatch(r"Where was\s+born\?", question):
            wrong = "has no name to ask for"
        elif expects_tab and not any(answers):
            wrong = "has no place after the tab" if answers else "has no tab"
        if wrong:
            raise UserError(f"{source}, line {number}: {wrong}; {shape}")
        pairs.append((number, question, answers[0] if answers else ""))
    return pairs


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all: temporary file beside it, fsync, rename.

    UserError: the folder is missing or read-only, or the disk is full; an old file stays as it was.
    """
    path, temporary = Path(path), None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.umask(mask := os.umask(0))
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); an old file of that name is unchanged; "
            "make room, or write elsewhere"
        ) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


# ---------------------------------------------------------------- generation


@torch.no_grad()
def sample(
    model, x: Tensor, steps: int, temperature: float = 1.0, sample: bool = False, top_k: int | None = None
) -> Tensor:
    """Continue each row of x by `steps` tokens.

    Args:
        model: gives (logits, loss), and `get_block_size()`.
        x: (B, T) token ids, all rows T long; what lies further back than the model's block is not seen.
        temperature: divides the logits; below 1 is bolder, 0 takes the likeliest token.
        sample: draw from the distribution, or from its top_k likeliest tokens, instead of taking the likeliest.

    Returns:
        (B, T + steps). ValueError: an argument makes no sense.
    """
    if steps < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1) or not x.size(1):
        raise ValueError(f"x {tuple(x.shape)}, {steps=}, {temperature=}, {top_k=}: at least 1, 0, 0, 1 are expected")
    was_training = model.training
    model.eval()
    try:
        for _ in range(steps):
            logits, _ = model(x[:, -model.get_block_size() :])  # (B, T) -> (B, T, V)
            logits = logits[:, -1].float()  # (B, V)
            if sample and temperature > 1e-6:
                if top_k is not None:
                    least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]  # (B, 1)
                    logits = logits.masked_fill(logits < least, float("-inf"))
                new = torch.multinomial(F.softmax(logits / temperature, dim=-1), 1)  # (B, 1)
            else:
                new = logits.argmax(-1, keepdim=True)  # (B, 1)
            x = torch.cat((x, new), dim=1)
    finally:
        model.train(was_training)
    return x


# ---------------------------------------------------------------- scoring


def evaluate_places(filepath: str | Path, predicted_places: Sequence[str]) -> tuple[float, float]:
    """Count the predictions, one a line of the file, that are exactly the answer.

    Returns (total, correct), both 0 if the file has questions alone. UserError: another number of predictions.
    """
    pairs = read_pairs(read_text(filepath), filepath)
    if len(pairs) != len(predicted_places):
        raise UserError(f"{filepath}: has {len(pairs)} questions, but there are {len(predicted_places)} predictions")
    if not pairs[0][2]:
        return 0.0, 0.0
    correct = sum(answer == predicted for (_, _, answer), predicted in zip(pairs, predicted_places, strict=True))
    return float(len(pairs)), float(correct)


def describe_score(total: float, correct: float) -> str:
    """The course's line, `Correct: 125.0 out of 500.0: 25.0%`."""
    return f"Correct: {correct} out of {total}: {round(correct / total * 100, 6)}%"

"""Shared helpers: seeding, reading and writing files, generation, scoring, and UserError."""

import contextlib
import csv
import errno
import functools
import hashlib
import math
import os
import random
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MASK_CHAR = "\u2047"  # the double question mark: marks the masked span, and the start and the end of an answer
PAD_CHAR = "\u25a1"  # the empty square: padding; not counted in the loss

OUT_OF_MEMORY = r"out of memory|not enough memory|allocate memory|ALLOC_FAILED"  # as PyTorch and its libraries say it


class UserError(Exception):
    """An error that the user can fix. Its message is one line: what is wrong, where, what to do."""


class Output:
    """Wraps stdout or stderr: if it is closed or loses its reader (`| head`, a terminal), the program goes on."""

    def __init__(self, stream: Any):
        self.stream = stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        if hasattr(self.stream, "reconfigure"):
            self.stream.reconfigure(errors="backslashreplace")  # a console that lacks a character shows its number

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        """Write; what cannot be written is dropped."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def cli(main: Callable[[], object]) -> int:
    """Run a program; returns its exit code: what `main` returns if that is an int, else 0.

    A UserError or too little memory becomes one line on stderr and exit code 2, Ctrl-C exit code 130.
    """
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    try:
        result = main()
        return result if isinstance(result, int) else 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search(OUT_OF_MEMORY, str(error)):
            raise
        said = str(error).split("\n")[0][:150] or type(error).__name__
        print(
            f"error: out of memory ({said}); try a smaller --batch_size, then a smaller model, "
            "or --device cpu, which takes the machine's memory instead of a GPU's",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        sys.stdout, sys.stderr = sys.stdout.stream, sys.stderr.stream


def set_seed(seed: int) -> None:
    """Seed every source of random numbers: random, numpy, torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- reading and writing


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped, CRLF and CR become newlines as in Python's open().

    The text is normalised to Unicode NFC, so an accent and its letter are one character where NFC has one.

    Raises:
        UserError: the file is missing, empty, a directory, a pipe, unreadable, or not UTF-8 text.
    """
    try:
        if Path(path).is_fifo():
            raise UserError(f"{path}: is a pipe, but is read more than once; save its text in a file and give that")
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
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def fingerprint(content: str | bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a text (as `read_text` returns it) or of bytes."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]


def refuse_marks(text: str, source: str | Path) -> None:
    """UserError, naming the line, for a text that holds one of the characters for masks and padding."""
    if found := re.search(f"[{MASK_CHAR}{PAD_CHAR}]", text):
        line = text[: found.start()].count("\n") + 1
        raise UserError(
            f"{source}, line {line}: contains U+{ord(found[0]):04X}, which is kept for masks and padding; take it out"
        )


# Invisible characters that word processors, spreadsheets and web pages insert: no-break spaces, soft hyphens,
# zero-width spaces, direction marks, byte order marks.
INVISIBLE = str.maketrans({"\u00a0": " ", "\u202f": " "} | dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff", ""))


@functools.cache
def note(text: str) -> None:
    """Print a note; the same one only once."""
    print(f"note: {text}")


def read_pairs(text: str, source: str | Path, with_answers: bool | None = None) -> list[tuple[int, str, str]]:
    """The lines of a file of questions as (line number, question, answer), without blanks around either.

    Cells may be quoted, as spreadsheets export them. Trailing empty cells and lines are ignored.

    Args:
        text: lines `question<TAB>place`, or questions alone. A question ends with a question mark.
        source: name of the file, for error messages.
        with_answers: True: every line needs an answer; False: none may; None: the majority decides.

    The answer is "" in a file without answers. UserError: naming the line that does not fit.
    """
    refuse_marks(text, source)
    lines = text.translate(INVISIBLE).split("\n")
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    if with_answers is None:
        with_answers = 2 * sum("\t" in line.strip() for line in lines) >= len(lines)
    shape = "'question<TAB>place'" if with_answers else "a question alone"
    pairs = []
    for number, line in enumerate(lines, 1):
        try:
            (cells,) = csv.reader([line], delimiter="\t", skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise UserError(
                f"{source}, line {number}: cannot be read ({error}); double the quotes inside a cell in quotes, and "
                "end it on its line"
            ) from None
        cells = [cell.strip() for cell in cells] or [""]
        if cells != [cell.strip() for cell in line.split("\t")]:
            note(f"{source}: the quotes around its cells are not read as part of them")
        question, *answers = cells
        while answers and not answers[-1]:
            answers.pop()
        wrong = None
        if not line.strip():
            wrong = "is blank"
        elif len(answers) > with_answers:
            wrong = f"has {len(answers)} {'tab' if len(answers) == 1 else 'tabs'}"
        elif not question or re.fullmatch(r"Where was\s+born\?", question):
            wrong = "has no name to ask for"
        elif any(cell.startswith(("“", "„", "«")) for cell in cells):
            wrong = "has a cell in typographic quotes"
        elif not question.endswith("?"):
            wrong = f"has no question mark at the end of {question[:40]!r}"
        elif with_answers and not answers:
            wrong = "has no place after the tab" if "\t" in line else "has no tab"
        if wrong:
            raise UserError(f"{source}, line {number}: {wrong}; {shape} is expected on every line, without a header")
        pairs.append((number, question, answers[0] if answers else ""))
    return pairs


NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # what file systems without fsync report


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all: a temporary file beside it, then a rename.

    Some mounts (Windows drives under WSL, CIFS, FUSE) have no chmod or no fsync; there that step is skipped.
    A symbolic link stays one: the file it points to is written.

    Raises:
        UserError: the folder is missing or read-only, or the disk is full; an old file stays as it was.
    """
    target, temporary = Path(os.path.realpath(path)), None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:
                if error.errno not in NO_FSYNC:
                    raise
        mask = os.umask(0)  # it can be read only by setting it
        os.umask(mask)
        with contextlib.suppress(OSError):
            os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); an old file of that name is unchanged; "
            "make room, or write elsewhere"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


# ---------------------------------------------------------------- generation


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[Tensor],
    steps: int,
    block_size: int,
    stop: int | None = None,
    choose: Callable[[Tensor], Tensor] | None = None,
    batch_rows: int = 64,
) -> list[Tensor]:
    """Continue every prompt, token by token.

    Prompts of similar length share a batch, padded on the right: attention is causal, so padding after a row's last
    token changes nothing. A row that has emitted `stop` leaves its batch.

    Args:
        model: `model(x)` returns (logits, loss).
        prompts: token ids, each (T,) with T >= 1, on the model's device.
        steps: the most tokens to add.
        block_size: tokens the model can see; longer texts are continued from their last ones.
        stop: token that ends a row.
        choose: picks the next tokens from logits, (B, V) -> (B,); by default the likeliest ones.
        batch_rows: rows per batch; bounds the memory.

    Returns:
        The prompts with their continuations, `stop` included.
    """
    was_training = model.training
    model.eval()
    texts = list(prompts)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    try:
        for first in range(0, len(order), batch_rows):
            unfinished = order[first : first + batch_rows]
            for _ in range(steps):
                visible = [texts[i][-block_size:] for i in unfinished]
                last = torch.tensor([len(text) - 1 for text in visible], device=visible[0].device)  # (B,)
                logits, _ = model(pad_sequence(visible, batch_first=True))  # (B, T) -> (B, T, V)
                logits = logits[torch.arange(len(last), device=last.device), last].float()  # (B, V)
                new = choose(logits) if choose else logits.argmax(dim=-1)  # (B,)
                for i, token in zip(unfinished, new, strict=True):
                    texts[i] = torch.cat((texts[i], token.view(1)))
                if stop is not None:
                    ended = (new == stop).tolist()
                    unfinished = [i for i, done in zip(unfinished, ended, strict=True) if not done]
                if not unfinished:
                    break
    finally:
        model.train(was_training)
    return texts


def sample(
    model, x: Tensor, steps: int, temperature: float = 1.0, sample: bool = False, top_k: int | None = None
) -> Tensor:
    """Continue each row of x by `steps` tokens.

    Args:
        model: returns (logits, loss), and has `get_block_size()`.
        x: (B, T) token ids; only the last get_block_size() tokens are seen.
        temperature: divides the logits; 0 takes the likeliest token.
        sample: draw from the distribution, or from its top_k likeliest tokens, instead of taking the likeliest.

    Returns:
        (B, T + steps).

    Raises:
        ValueError: an argument makes no sense.
    """
    if steps < 0 or not 0 <= temperature < math.inf or (top_k is not None and top_k < 1) or not x.size(1):
        raise ValueError(f"x {tuple(x.shape)}, {steps=}, {temperature=}, {top_k=}: width, top_k >= 1, others >= 0")

    def draw(logits: Tensor) -> Tensor:
        if top_k is not None:
            least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]  # (B, 1)
            logits = logits.masked_fill(logits < least, float("-inf"))
        return torch.multinomial(F.softmax(logits / temperature, dim=-1), 1).squeeze(1)  # (B,)

    choose = draw if sample and temperature > 1e-6 else None
    return torch.stack(generate(model, list(x), steps, model.get_block_size(), choose=choose, batch_rows=len(x)))


# ---------------------------------------------------------------- scoring


def evaluate_places(filepath: str | Path, predicted_places: Sequence[str]) -> tuple[float, float]:
    """Count the predictions that equal the answer exactly; there is one prediction for each line of the file.

    Returns (total, correct), both 0 if the file has questions alone. UserError: another number of predictions.
    """
    pairs = read_pairs(read_text(filepath), filepath)
    if len(pairs) != len(predicted_places):
        raise UserError(f"{filepath}: has {len(pairs)} questions, but there are {len(predicted_places)} predictions")
    if not pairs[0][2]:
        return 0.0, 0.0
    correct = sum(answer == predicted for (_, _, answer), predicted in zip(pairs, predicted_places, strict=True))
    return float(len(pairs)), float(correct)

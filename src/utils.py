"""What the programs share: seeds, reading data, writing files, answering questions, scoring answers.

`torch` is imported where it is needed, so that `--help` and mistakes in the arguments answer at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MASK_CHAR = "\u2047"  # the double question mark: a span stood here / the answer starts or ends here
PAD_CHAR = "\u25a1"  # the empty square: nothing stands here
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # all that some reader takes for the end of a line


class UserError(Exception):
    """Something the user can mend. Its message is one line: what is wrong, where, what to do."""


def cli(main: Callable[[], int]) -> int:
    """Run a program: a UserError becomes one line on stderr and exit code 2, Ctrl-C exit code 130."""
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
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


# ---------------------------------------------------------------- reading


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped, CRLF and CR become newlines as in Python's open().

    Raises:
        UserError: the file is missing, empty, a directory, unreadable, or not UTF-8 text.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path (programs run from the project's root)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory; give the name of a text file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason}); check the path and who may read it") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16, UTF-8 is expected; save the file as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: is not UTF-8 text; save the file as UTF-8") from None
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise UserError(f"{path}, line {line}: holds a zero byte, so it is no UTF-8 text; save the file as UTF-8")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise UserError(f"{path}: is empty; check that it is the right file")
    return text


def read_pairs(text: str, source: str | Path, with_answers: bool | None = None) -> list[tuple[int, str, str]]:
    """The lines of a file of questions as (line number, question, answer).

    Args:
        text: lines `question<TAB>place`, or questions alone.
        source: name of the file, for error messages.
        with_answers: True: every line must have an answer; None: all lines or none.

    Returns:
        one entry a line; the answer is "" in a file without answers.

    Raises:
        UserError: naming the line that does not fit.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"{source}: is empty; lines 'question<TAB>place' are expected")
    expects_tab = "\t" in lines[0] if with_answers is None else with_answers
    shape = "'question<TAB>place' is expected" if expects_tab else "a question alone is expected, as on line 1"
    pairs = []
    for number, line in enumerate(lines, 1):
        where = f"{source}, line {number}"
        if not line.strip():
            raise UserError(f"{where}: is blank; {shape}")
        if (tabs := line.count("\t")) != expects_tab:
            raise UserError(f"{where}: has {tabs or 'no'} {'tab' if tabs < 2 else 'tabs'}; {shape}")
        question, _, answer = line.partition("\t")
        if not question.strip() or re.fullmatch(r"Where was\s+born\?", question.strip()):
            raise UserError(f"{where}: has no name to ask for; {shape}")
        if expects_tab and not answer.strip():
            raise UserError(f"{where}: has no place after the tab; {shape}")
        for special in (MASK_CHAR, PAD_CHAR):
            if special in line:
                raise UserError(
                    f"{where}: contains U+{ord(special):04X}, which marks masks or padding here; take it out"
                )
        pairs.append((number, question, answer))
    return pairs


def fingerprint(path: str | Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a results file (JSON), none if it does not exist.

    Raises:
        UserError: it is no list of rows.
    """
    if not Path(path).exists():
        return []
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: is not a list of result rows; restore it from git, or delete it")
    return rows


# ---------------------------------------------------------------- writing

ROOM_IN_NAME = 32  # bytes that ".checkpoint" and the marks of a temporary file add to a name


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all: temporary file beside it, fsync, rename.

    Raises:
        UserError: the folder is missing or read-only, or the disk is full; an old file stays as it was.
    """
    check_writable(path)
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); an old file of that name is unchanged; "
            "make room, or write elsewhere"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def add_rows(path: str | Path, rows: list[dict], key: Sequence[str]) -> None:
    """Put rows into a results file, atomically; a row with the same key is replaced in its place, others stay.

    Args:
        path: file of rows (JSON), made if it does not exist.
        rows: what to put in.
        key: names of the entries that identify a row.

    Raises:
        UserError: the file holds something else, which stays.
    """
    table = {tuple(row.get(name) for name in key): row for row in [*read_rows(path), *rows]}
    write_text(path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in table.values()) + "\n]\n")


def check_writable(path: str | Path | None) -> None:
    """Refuse an output path that could not be written, before hours of work and not after.

    Raises:
        UserError: the folder is missing or read-only, or the path is a directory, a device, or too long.
    """
    if path is None:
        return
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, a file name is expected")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is no plain file but a device or a pipe; give the name of a file")
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or write elsewhere")
        longest = os.pathconf(path.parent, "PC_NAME_MAX") - ROOM_IN_NAME
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be written ({reason}); give another name") from None
    if len(os.fsencode(path.name)) > longest:
        raise UserError(f"{path}: the name is too long, {longest} bytes fit; give a shorter one")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: the folder {path.parent.resolve()} is read-only; write elsewhere")


def check_log_folder(path: str | Path) -> None:
    """Refuse a folder of logs (--expt_dir) that could not be made, before hours of work and not after.

    Raises:
        UserError: it, or where it would be made, is a file or read-only.
    """
    try:
        there = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--expt_dir {path}: cannot be made ({reason}); give another folder") from None
    if not there.is_dir():
        raise UserError(f"--expt_dir {path}: {there} is a file, a folder is expected; give another one")
    if not os.access(there, os.W_OK):
        raise UserError(f"--expt_dir {path}: the folder {there} is read-only; give another one")


# ---------------------------------------------------------------- generation


def generate(
    model,
    prompts: Sequence[Tensor],
    steps: int,
    temperature: float = 1.0,
    sample: bool = False,
    top_k: int | None = None,
    stop: int | None = None,
) -> list[list[int]]:
    """Continue prompts of any lengths together, with a key-value cache.

    Each step computes one new position a row; rows that have emitted `stop` leave the batch. Rows
    that outgrow the model's block are continued from their last block_size characters, one at a time.

    Args:
        model: a GPT.
        prompts: LongTensors of token ids, each 1 .. block_size long.
        steps: number of tokens to add to each.
        temperature, sample, top_k: as in `sample`.
        stop: token id after which a row is finished.

    Returns:
        the new tokens of each prompt, `stop` included.
    """
    import torch

    from attention import KVCache
    from packing import Rows, pack

    if not prompts or steps <= 0:
        return [[] for _ in prompts]
    device, config = model.head.weight.device, model.config
    lengths = torch.tensor([len(p) for p in prompts])
    padded = torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    tokens, _, rows, order = pack(padded, lengths)
    past = lengths[order]  # (B,) positions that the cache holds after this step
    capacity = min(config.block_size, int(past.max()) + steps)
    head_size = config.n_embd // config.n_head
    caches = [KVCache(len(prompts), config.n_head, capacity, head_size, model.head.weight) for _ in model.blocks]
    out: list[list[int]] = [[] for _ in prompts]
    alive = order.tolist()  # the prompt of each row
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for step in range(steps):
            logits, _ = model(tokens.to(device), rows=rows.to(device), caches=caches)
            new = choose(logits[rows.last.to(device)], temperature, sample, top_k).cpu()  # (B,)
            for prompt, token in zip(alive, new.tolist(), strict=True):
                out[prompt].append(token)
            going = (past < config.block_size) & (new != (-1 if stop is None else stop))
            if not bool(going.all()):
                kept = going.nonzero()[:, 0]
                for cache in caches:
                    cache.keep(kept.to(device))
                alive, past, new = [alive[i] for i in kept.tolist()], past[kept], new[kept]
            if not alive or step == steps - 1:
                break
            tokens, rows = new, Rows.of(torch.ones_like(past), past, rows_per_group=len(past))
            past = past + 1
    for prompt, row in zip(prompts, out, strict=True):
        _continue_past_block(model, prompt, row, steps, temperature, sample, top_k, stop)
    model.train(was_training)
    return out


def _continue_past_block(model, prompt: Tensor, row: list[int], steps: int, temperature, sample, top_k, stop) -> None:
    """Finish a row whose text no longer fits the block: the last block_size characters, anew each step."""
    import torch

    while len(row) < steps and (stop is None or row[-1] != stop):
        text = torch.cat((prompt, torch.tensor(row, dtype=torch.long)))[-model.config.block_size :]
        with torch.no_grad():
            logits, _ = model(text[None].to(model.head.weight.device))
        row.append(int(choose(logits[:, -1], temperature, sample, top_k)))


def choose(logits: Tensor, temperature: float = 1.0, sample: bool = False, top_k: int | None = None) -> Tensor:
    """The next token of each row: the likeliest, or (sample) one drawn from the top_k likeliest.

    Args:
        logits: (B, V)

    Returns:
        (B,)
    """
    import torch

    logits = logits.float() / temperature
    if top_k is not None:
        least = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sample:
        return torch.multinomial(logits.softmax(-1), 1)[:, 0]
    return logits.argmax(-1)


def sample(
    model, x: Tensor, steps: int, temperature: float = 1.0, sample: bool = False, top_k: int | None = None
) -> Tensor:
    """Continue each row of x by `steps` tokens, minGPT's interface to `generate`.

    Args:
        model: a GPT.
        x: (B, T) token ids, all rows T long.
        steps: tokens to add.
        temperature: divides the logits; below 1 is bolder.
        sample: draw from the distribution instead of taking the likeliest token.
        top_k: draw from the k likeliest tokens only.

    Returns:
        (B, T + steps)
    """
    import torch

    block = model.config.block_size
    rows = generate(model, list(x[:, -block:].cpu()), steps, temperature, sample, top_k)
    return torch.cat((x, torch.tensor(rows, dtype=x.dtype, device=x.device).view(len(x), steps)), dim=1)


# ---------------------------------------------------------------- scoring


def evaluate_places(filepath: str | Path, predicted_places: Sequence[str]) -> tuple[float, float]:
    """Count the predictions that are exactly the answer.

    Args:
        filepath: file of lines `question<TAB>place`, or of questions alone.
        predicted_places: one prediction a line.

    Returns:
        (total, correct), both 0 if the file has no answers.

    Raises:
        UserError: the file and the predictions differ in number.
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


def wilson_interval(correct: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), both ends in 0 .. 1."""
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5
    low, high = (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)
    return max(0.0, low), min(1.0, high)


# ---------------------------------------------------------------- the machine


def pick_device(name: str) -> torch.device:
    """The device asked for; `auto` is a CUDA GPU, else Apple's MPS, else the CPU.

    Raises:
        UserError: this machine lacks it.
    """
    import torch

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if have[d]))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda, cuda:N or mps") from None
    usable = have.get(device.type, False)
    if not usable or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: this machine has none; use one of {', '.join(d for d in have if have[d])}")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """`float32` or `bfloat16`; `auto` is bfloat16 where the processor multiplies it in hardware."""
    import torch

    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if fast else "float32"
    return "float32"


def hardware(device: torch.device) -> str:
    """A few words on the machine, for result files: the GPU's name, or the kind of CPU and its cores."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = torch.backends.cpu.get_cpu_capability()
    return f"{device.type}, {torch.get_num_threads()} threads, {kind}"

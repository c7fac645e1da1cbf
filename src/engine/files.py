"""Paths that are checked before hours of work and not after, fingerprints, and tables of result rows."""

import glob
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote_plus

from utils import UserError, read_text, write_text

LONGEST_NAME = 255 - 32  # bytes of a file's name, less what ".checkpoint" and the marks of a temporary file add


def check_writable(path: str | Path) -> None:
    """UserError for an output path that could not be written: no folder, a directory, a device, too long, read-only."""
    path = Path(path)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path}: the name is too long, {LONGEST_NAME} bytes fit; give a shorter one")
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, a file name is expected")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is no plain file but a device or a pipe; give the name of a file")
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or write elsewhere")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be written ({reason}); give another name") from None
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: the folder {path.parent.resolve()} is read-only; write elsewhere")


def check_log_folder(path: str | Path) -> None:
    """UserError for a folder of logs (--expt_dir) that could not be made, under a file or where it is read-only."""
    try:
        there = next(p for p in (Path(path), *Path(path).absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"--expt_dir {path}: cannot be made ({reason}); give another folder") from None
    if not there.is_dir():
        raise UserError(f"--expt_dir {path}: {there} is a file, a folder is expected; give another one")
    if not os.access(there, os.W_OK):
        raise UserError(f"--expt_dir {path}: the folder {there} is read-only; give another one")


def same_file(one: str | Path | None, other: str | Path | None) -> bool:
    """Whether two paths lead to one file that exists."""
    return bool(one and other) and os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def remove_scraps(path: str | Path) -> None:
    """Delete the half-written copies of a file that killed runs have left beside it (see `utils.atomic_write`)."""
    for scrap in Path(path).parent.glob(f".{glob.escape(Path(path).name)}.????????.tmp"):
        scrap.unlink(missing_ok=True)


def fingerprint(content: str | bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a text (as `read_text` gives it) or of bytes."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def add_row(folder: str | Path, row: dict, key: Sequence[str]) -> Path:
    """Write a row of results as a file of its own, atomically; a row with the same key is replaced.

    Programs that add rows at the same time need no lock: no two rows share a file.

    `key` are the names of the entries that identify a row; its file is named after them.
    """
    path = Path(folder) / ("@".join(quote_plus(str(row.get(name)), safe=",") for name in key) + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(row, ensure_ascii=False, indent=1) + "\n")
    return path


def read_rows(folder: str | Path) -> list[dict]:
    """The rows of a table, in order of their files' names; none if there is none. UserError: a file holds no row."""
    rows = []
    for path in sorted(Path(folder).glob("*.json")):
        try:
            rows.append(json.loads(read_text(path)))
        except ValueError:
            rows.append(None)
        if not isinstance(rows[-1], dict):
            raise UserError(f"{path}: is no row of results; restore it from git, or delete it")
    return rows

"""Tables of result rows: a JSON file a row."""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote_plus

from utils import UserError, read_text, write_text


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

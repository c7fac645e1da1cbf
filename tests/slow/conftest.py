"""Slow tests, run by `make test-slow`. RECORD=1 keeps what they found in results/robustness.csv."""

import os
from collections.abc import Callable

import pytest

from report import rows


@pytest.fixture
def record(request) -> Callable[[str], None]:
    """Takes a sentence about what was found."""

    def add(found: str) -> None:
        print(found)
        if os.environ.get("RECORD"):
            command = f"RECORD=1 python -m pytest -m slow {request.node.path.relative_to(rows.ROOT)}"
            made = rows.provenance(command, "own", "", hardware=f"{os.cpu_count()} cores, CPU")
            rows.add("robustness", {"found": found, **made})

    return add

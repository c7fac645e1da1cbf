"""Results as files: rows in JSON, tables in Markdown, the picture of the README. Called by reproduce.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from utils import UserError, atomic_write, wilson_interval, write_text

# The handout's bars, parts (f) and (g).
BARS = {"vanilla": 0.15, "rope": 0.30}


def read_rows(path: Path) -> list[dict]:
    """The rows of a results file, none if it does not exist.

    Raises:
        UserError: it is no list of rows.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    except (ValueError, AssertionError):
        raise UserError(f"{path}: is not a list of result rows; restore it from git, or delete it") from None
    return rows


def add_rows(path: Path, rows: list[dict], key: tuple[str, ...]) -> None:
    """Add rows to a results file; a row with the same key is replaced, all others stay as they are."""

    def identity(row: dict) -> tuple:
        return tuple(row.get(name) for name in key)

    new = {identity(row) for row in rows}
    kept = [row for row in read_rows(path) if identity(row) not in new]
    write_text(path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in kept + rows) + "\n]\n")


def percent(share: float, n: int) -> str:
    """A share with its 95 % interval (Wilson), in per cent."""
    low, high = wilson_interval(share * n, n)
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def minutes(row: dict) -> str:
    """Training time of a row, with the naive step time of the same hour where one was measured."""
    if "seconds" not in row:
        return "-"
    naive = row.get("naive_step_seconds")
    return f"{row['seconds'] / 60:.1f}" + (f" ({naive:.2f} s)" if naive else "")


def write_tables(folder: Path) -> str:
    """Write results.md from the JSON files of a folder, and return its text."""
    lines = [
        "| model | data | recipe | seed | dev (95 % interval) | test | bar | tokens "
        "| minutes (naive step) | hardware |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    controls = [dict(row, model=row["what"]) for row in read_rows(folder / "controls.json")]
    trained = [
        dict(row, model=f"{row['variant']} pretrained and finetuned", bar=f"{BARS[row['variant']]:.0%}")
        for row in read_rows(folder / "accuracy.json")
    ]
    for row in sorted(controls + trained, key=lambda r: (r["data"], r["recipe"], r["seed"])):
        cells = [row["model"], row["data"], row["recipe"], str(row["seed"]), percent(row["dev"], row["n"])]
        cells.append(percent(row["test"], row["test_n"]) if "test" in row else "-")
        cells += [row.get("bar", "-"), f"{row['tokens']:,}" if "tokens" in row else "-", minutes(row)]
        cells.append(row.get("hardware", "-"))
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    note = (
        "Written by `scripts/report.py` from `accuracy.json` and `controls.json`, which hold the command, the "
        "commit and the hash of the corpus of every row. Minutes: pretraining and finetuning together; beside "
        "them how long a step of the handout's computation (`experiments/naive.py`, batch 128) took on the same "
        "machine in the same hour: the handout needs 14,950 of those for one pretraining.\n\n"
    )
    write_text(folder / "results.md", note + text + "\n")
    return text


def put_between(path: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- /mark --> in a Markdown file."""
    before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not start or not end:
        raise UserError(f"{path}: the marks <!-- {mark} --> and <!-- /{mark} --> are missing; restore it from git")
    write_text(path, f"{before}{start}\n{text}\n{end}{after}")


def draw(folder: Path, data: str, recipe: str, seed: int) -> None:
    """The picture of the README: the three models beside the baseline, with intervals and bars."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install -r requirements-dev.txt)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    def mine(rows: list[dict]) -> list[dict]:
        wanted = {"data": data, "recipe": recipe, "seed": seed}
        return [row for row in rows if all(row[k] == v for k, v in wanted.items())]

    bars = [(row["what"].split(" (")[0], row) for row in mine(read_rows(folder / "controls.json"))]
    bars = [bar for bar in bars if "reworded" not in bar[0]]
    bars += [(f"{row['variant']}, pretrained", row) for row in mine(read_rows(folder / "accuracy.json"))]
    order = {"London for everyone": 0, "vanilla without pretraining": 1}
    bars.sort(key=lambda bar: order.get(bar[0], 2))
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for y, (_, row) in enumerate(bars):
        low, high = wilson_interval(row["dev"] * row["n"], row["n"])
        error = [[max(0.0, 100 * (row["dev"] - low))], [max(0.0, 100 * (high - row["dev"]))]]
        trained = "seconds" in row and row["tokens"] and "what" not in row
        axes.barh(y, 100 * row["dev"], xerr=error, color="#2a6f97" if trained else "#b0b7bf", height=0.6, capsize=3)
        axes.text(100 * high + 1, y, f"{row['dev']:.1%}", va="center", fontsize=9)
        if trained:
            bar = 100 * BARS[row["variant"]]
            axes.plot([bar, bar], [y - 0.38, y + 0.38], color="#c1121f", linewidth=2)
    axes.plot([], [], color="#c1121f", linewidth=2, label="the handout's bar")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel(f"correct birthplaces of {bars[0][1]['n']} unseen dev questions, % (95 % interval)")
    axes.set_xlim(0, max(45, *(100 * wilson_interval(r["dev"] * r["n"], r["n"])[1] + 10 for _, r in bars)))
    axes.set_title(f"{data} data, recipe {recipe}, seed {seed}", fontsize=10)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(folder / "accuracy.png") as file:
        figure.savefig(file, dpi=160, metadata={"Software": None})
    plt.close(figure)

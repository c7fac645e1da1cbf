"""Results as files: the tables and pictures that are made from the rows in results/*.json.

    python scripts/report.py

writes results.md, modern_llm.md, both pictures beside them, and the README's tables. reproduce.py calls it at
its end, `make llm` likewise. What stands in experiments/README.md is written by the experiments themselves.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from modern_llm import LISTED, TEMPLATES  # noqa: E402
from recipes import MAIN_RECIPE  # noqa: E402
from utils import UserError, add_rows, atomic_write, cli, read_rows, wilson_interval, write_text  # noqa: E402

# The handout's bars, parts (f) and (g).
BARS = {"vanilla": 0.15, "rope": 0.30}
# What identifies a row about a model that was trained here.
TRAINED = ("data", "variant", "recipe", "seed", "hardware", "precision")
# Of a wording in a picture: distance from the line, marker, colour.
POINTS = {"original": (-0.15, "o", "#2a6f97"), "reworded": (0.15, "s", "#c1121f")}
ASKED = {"bare": "question alone", "instructed": "with instructions"}


def percent(share: float, n: int) -> str:
    """A share with its 95 % interval (Wilson), in per cent."""
    low, high = wilson_interval(share * n, n)
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def error_bar(share: float, n: int) -> list[list[float]]:
    """How far the 95 % interval of a share reaches down and up, in per cent, as matplotlib wants it: no less than 0."""
    low, high = wilson_interval(share * n, n)
    return [[max(0.0, 100 * (share - low))], [max(0.0, 100 * (high - share))]]


def minutes(row: dict) -> str:
    """Training time of a row, with the naive step time of the same hour where one was measured."""
    if "seconds" not in row:
        return "-"
    naive = row.get("naive_step_seconds")
    return f"{row['seconds'] / 60:.1f}" + (f" ({naive:.2f} s)" if naive else "")


def machine(row: dict) -> str:
    """On what a row was trained, and how its matrix products were rounded."""
    return ", ".join(row[name] for name in ("hardware", "precision") if name in row) or "-"


def grouped(rows: list[dict], *keys: str) -> Iterator[tuple[tuple, list[dict]]]:
    """Rows that agree in some fields, groups in order of their first row."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key, "-") for key in keys)].append(row)
    yield from groups.items()


def latest(rows: list[dict]) -> list[dict]:
    """The rows with the latest last, so that a dictionary keeps it."""
    return sorted(rows, key=lambda row: row.get("date", ""))


def mean_percent(rows: list[dict], share: str = "dev", n: str = "n") -> str:
    """The mean share of several seeds in per cent, its 95 % interval (Wilson), and the share of each seed.

    The seeds answer the same questions, so the interval is that of one run over them.
    """
    if not all(share in row for row in rows):
        return "-"
    mean = percent(sum(row[share] for row in rows) / len(rows), rows[0][n])
    return mean + (": " + ", ".join(f"{100 * row[share]:.1f}" for row in rows) if len(rows) > 1 else "")


def write_tables(folder: Path) -> str:
    """Write results.md from the JSON files of a folder, and return its table."""
    lines = [
        "| model | data | recipe | seeds | dev: mean (95 % interval), then each seed | test | bar | tokens "
        "| minutes (naive step) | hardware |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    controls = [dict(row, model=row["what"]) for row in read_rows(folder / "controls.json")]
    trained = [
        dict(row, model=f"{row['variant']} pretrained and finetuned", bar=f"{BARS[row['variant']]:.0%}")
        for row in read_rows(folder / "accuracy.json")
    ]
    rows = sorted(controls + trained, key=lambda r: (r["data"] != "own", r["recipe"], r["seed"]))
    for (*names, _, _), group in grouped(rows, "model", "data", "recipe", "hardware", "precision"):
        cells = [*names, " ".join(str(row["seed"]) for row in group), mean_percent(group)]
        cells += [mean_percent(group, "test", "test_n"), group[0].get("bar", "-")]
        cells.append(f"{group[0]['tokens']:,}" if "tokens" in group[0] else "-")
        cells += [", ".join(map(minutes, group)), machine(group[0])]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    note = (
        "Written by `scripts/report.py` from `accuracy.json` and `controls.json`, which hold the command, the "
        "commit and the hash of the corpus of every row. Minutes of each seed: pretraining and finetuning together; "
        "beside them how long a step of the handout's computation (`experiments/naive.py`, batch 128) took on the "
        "same machine in the same hour: the handout needs 14,950 of those for one pretraining.\n\n"
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


def record_robustness(command: str, found: str, details: dict) -> None:
    """Add a row to results/robustness.json, and write the table in experiments/README.md from all of them."""
    path = ROOT / "results" / "robustness.json"
    row = {"command": command, "found": found, "machine": f"{os.cpu_count()} cores, CPU", **details}
    add_rows(path, [row], ("command",))
    lines = ["| command | found |", "|---|---|"]
    lines += [f"| `{row['command']}` | {row['found']} ({row['machine']}) |" for row in read_rows(path)]
    put_between(ROOT / "experiments" / "README.md", "robustness", "\n".join(lines))


# ---------------------------------------------------------------- part 4


def compared(folder: Path) -> list[dict]:
    """Each model and way to ask, both wordings side by side: ours (4a), then the LLMs (4b, 4c).

    Of rows of ours that differ in the machine alone, the latest.

    Returns:
        rows with model, data, asked, n, parameters; exact, normalised: shares right by template, without
        what was not run; only_original, only_reworded, p_mcnemar, where both wordings were asked.
    """
    ours = {}
    for row in latest(read_rows(folder / "sensitivity.json")):
        name = f"our RoPE model ({row['recipe']}, seed {row['seed']})"
        exact = {"original": row["original"], "reworded": row["reworded"]}
        ours[name, row["data"]] = dict(row, model=name, asked=ASKED["bare"], exact=exact, normalised={})
    found: dict[tuple, dict] = {}
    for row in read_rows(folder / "modern_llm.json"):
        new = dict(row, asked=ASKED[row["prompt"]], exact={}, normalised={})
        pair = found.setdefault(tuple(row[name] for name in ("model", "data", "prompt", "n")), new)
        pair["exact"][row["template"]] = row["exact"]
        pair["normalised"][row["template"]] = row["normalised"]
        pair |= {name: row[name] for name in ("only_original", "only_reworded", "p_mcnemar") if name in row}
    return sorted([*ours.values(), *found.values()], key=lambda pair: pair["data"] != "own")


def write_comparison(folder: Path) -> str:
    """Write modern_llm.md, original against reworded question for every model, and return its table."""
    pairs = compared(folder)
    lines = [
        "| model | parameters | data | asked | exact, original | exact, reworded | place read, original "
        "| place read, reworded | right in one wording only | McNemar's p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        cells = [pair["model"], f"{pair['parameters']:,}", pair["data"], pair["asked"]]
        for match in (pair["exact"], pair["normalised"]):
            cells += [percent(match[t], pair["n"]) if t in match else "-" for t in ("original", "reworded")]
        if "p_mcnemar" in pair:
            cells += [f"{pair['only_original']} : {pair['only_reworded']}", f"{pair['p_mcnemar']:.2g}"]
        else:
            cells += ["-", "-"]
        lines.append("| " + " | ".join(cells) + " |")
    have = {pair["model"].rpartition("/")[2] for pair in pairs}
    for model in LISTED:
        if model.rpartition("/")[2] not in have:
            command = f"not run here: `make llm LLM={model}`"
            lines.append(f"| {model} | - | own | {command} | - | - | - | - | - | - |")
    for row in read_rows(folder / "modern_llm_throughput.json"):
        lines.append(
            f"\n{row['model']} answers {row['times']:.1f} times as many questions a second in batches of "
            f"{row['batch_size']} as one at a time ({row['same']} of {row['n']} replies the same; {row['hardware']}, "
            f"{row['precision']}; `{row['command']}`)."
        )
    text = "\n".join(lines)
    note = (
        "Written by `scripts/report.py` from `sensitivity.json` and `modern_llm.json`. Original: Where was NAME "
        "born? Reworded: What is the birthplace of NAME? In brackets 95 % intervals (Wilson). Exact: of the answer "
        "as it is; with instructions, of the place read from it. Place read: the place in the reply, without "
        "regard to case, accents and country. The last two columns are McNemar's exact test of original against "
        "reworded on the same questions, on the place read where there is one, else on the exact match.\n\n"
    )
    write_text(folder / "modern_llm.md", note + text + "\n")
    return text


def draw_sensitivity(folder: Path) -> None:
    """The picture of part 4: accuracy for both wordings, a panel for each data set."""
    plt, pairs = pyplot(), compared(folder)
    if plt is None or not pairs:
        return
    panels = list(dict.fromkeys(pair["data"] for pair in pairs))
    labels = list(dict.fromkeys(label(pair) for pair in pairs))
    size = (3.4 + 3.2 * len(panels), 1.5 + 0.62 * len(labels))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    highest = 0.0
    for panel, axis in zip(panels, axes[0], strict=True):
        mine = [pair for pair in pairs if pair["data"] == panel]
        highest = max(highest, *(draw_pair(axis, pair, labels.index(label(pair))) for pair in mine))
        counts = " or ".join(str(n) for n in sorted({pair["n"] for pair in mine}))
        axis.set_title(f"{panel} data, {counts} questions", fontsize=10)
        axis.set_xlabel("right, % (95 % interval)")
        axis.grid(axis="x", color="#e4e7ea")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[0]:
        axis.set_xlim(0, 1.25 * highest + 1)
    axes[0][0].set_yticks(range(len(labels)), labels)
    axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    keys = [
        plt.Line2D([], [], color=colour, marker=marker, markersize=5, label=TEMPLATES[template])
        for template, (_, marker, colour) in POINTS.items()
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, folder / "sensitivity.png")


def draw_pair(axis, pair: dict, y: int) -> float:
    """A point with its interval for each wording, the place read where there is one; the highest end, in per cent."""
    match = pair["normalised"] or pair["exact"]
    highest = 0.0
    for template, share in match.items():
        offset, marker, colour = POINTS[template]
        high, error = wilson_interval(share * pair["n"], pair["n"])[1], error_bar(share, pair["n"])
        style = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 5}
        axis.errorbar(100 * share, y + offset, xerr=error, clip_on=False, **style)
        end = (100 * high, y + offset)
        axis.annotate(f"{share:.1%}", end, (5, 0), textcoords="offset points", va="center", fontsize=8)
        highest = max(highest, 100 * high)
    return highest


def label(pair: dict) -> str:
    """A model and how it was asked, for an axis."""
    if "recipe" in pair:
        return pair["model"].replace(" (", "\n(")
    return f"{pair['model'].rpartition('/')[2]}\n{pair['asked']}"


# ---------------------------------------------------------------- pictures


def pyplot():
    """matplotlib's plotting module; None if it is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (pip install -r requirements-dev.txt)")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure, path: Path) -> None:
    """Write a picture, without the date and the version of matplotlib in it."""
    with atomic_write(path) as file:
        figure.savefig(file, dpi=160, metadata={"Software": None})
    pyplot().close(figure)


def bars_of(folder: Path, data: str, recipe: str, seed: int) -> list[tuple[str, dict]]:
    """What accuracy.png shows, from top to bottom: names and rows. Of the rows of several machines, the latest."""
    wanted = {"data": data, "recipe": recipe, "seed": seed}
    found = {}
    for row in latest(read_rows(folder / "controls.json") + read_rows(folder / "accuracy.json")):
        if all(row[key] == value for key, value in wanted.items()):
            found[row["what"] if "what" in row else f"{row['variant']}, pretrained"] = row
    order = ["London for everyone", "vanilla without pretraining", "vanilla, pretrained", "rope, pretrained"]
    return [(name, found[name]) for name in order if name in found]


def draw(folder: Path, data: str, recipe: str, seed: int) -> None:
    """The picture of the README: the three models beside the baseline, with intervals and bars."""
    plt, bars = pyplot(), bars_of(folder, data, recipe, seed)
    if plt is None:
        return
    if not bars:
        print(f"no picture accuracy.png: no rows of {data} data, recipe {recipe}, seed {seed}")
        return
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for y, (_, row) in enumerate(bars):
        high, error = wilson_interval(row["dev"] * row["n"], row["n"])[1], error_bar(row["dev"], row["n"])
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
    save(figure, folder / "accuracy.png")


# ---------------------------------------------------------------- all of them


def write_all(folder: Path, data: str, recipe: str, seed: int) -> dict[str, str]:
    """Write every table and picture of a folder of results.

    Args:
        folder: with the JSON files.
        data, recipe, seed: what accuracy.png shows.

    Returns:
        the tables, by their mark in the README.
    """
    draw(folder, data, recipe, seed)
    draw_sensitivity(folder)
    return {"results": write_tables(folder), "modern_llm": write_comparison(folder)}


def fill(readme: Path, tables: dict[str, str]) -> None:
    """Put the tables between their marks."""
    for mark, table in tables.items():
        put_between(readme, mark, table)


def main(argv: list[str] | None = None) -> int:
    """Write all tables and pictures anew."""
    parser = argparse.ArgumentParser(description="Write all tables and pictures from results/*.json.")
    shown = parser.add_argument_group("what accuracy.png shows")
    shown.add_argument("--data_name", default="own", help="default: %(default)s")
    shown.add_argument("--recipe", default=MAIN_RECIPE, help="default: %(default)s")
    shown.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    fill(ROOT / "README.md", write_all(ROOT / "results", args.data_name, args.recipe, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

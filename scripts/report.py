"""Results as files: the tables and pictures that are made from the rows in results/.

    python scripts/report.py [--results FOLDER]

A row is a file of its own, a table a folder of them (engine/files.py). From them come results.md, modern_llm.md and
the pictures, beside them; and, for results/ itself, the tables between the marks of README.md and other pages.
reproduce.py ends with `write_run`; experiments/recall.py makes most of the rows.
"""

import argparse
import os
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from engine.files import add_row, read_rows  # noqa: E402
from engine.recipes import MAIN_RECIPE  # noqa: E402
from engine.wordings import ORIGINAL, REWORDED, wilson_interval  # noqa: E402
from modern_llm import LISTED  # noqa: E402
from utils import UserError, atomic_write, cli, write_text  # noqa: E402

# The handout's bars, parts (f) and (g).
BARS = {"vanilla": 0.15, "rope": 0.30}
# What identifies a row about a model that was trained here.
TRAINED = ("data", "variant", "recipe", "seed", "hardware", "precision")
# And those of experiments/recall.py that are about a changed recipe.
CURVE = EXPOSURES = (*TRAINED, "epochs")
ABLATION = (*TRAINED, "epochs", "change")
UNCHANGED = "as it is"  # the first of an ablation's changes
# The models of the handout, in the order of its parts.
MODELS = (
    "vanilla without pretraining",
    "London for everyone",
    "vanilla, pretrained",
    "rope, pretrained",
    "rope, question reworded (4a)",
)
# Recipes that the README shows beside the main one.
OTHERS = ("handout", "best", "excerpts")
# Losses of the handout's recipe in the public logs of two students (course's data), each a mean over 230 steps.
STEPS = (115, 460, 1150, 2300, 4600, 9200, 13800, 14949)
STUDENTS = {
    "rope": ((2.74, 2.10, 1.40, 1.06, 0.82, 0.58, 0.48, 0.475), (2.75, 2.16, 1.47, 1.06, 0.83, 0.59, 0.49, 0.486)),
    "vanilla": ((2.92, 2.55, 2.24, 1.48, 0.94, 0.62, 0.50, 0.494), (2.95, 2.59, 2.36, 1.53, 0.98, 0.66, 0.53, 0.525)),
}
# Of a wording in a picture: what it is, distance from the line, marker, colour.
POINTS = {"original": (ORIGINAL, -0.15, "o", "#2a6f97"), "reworded": (REWORDED, 0.15, "s", "#c1121f")}
ASKED = {"bare": "question alone", "instructed": "with instructions"}

# Of a picture: the panel, the name, and points (x, y, how far the interval reaches down and up).
Line = tuple[str, str, list[tuple[float, float, float, float]]]


def percent(share: float, n: int) -> str:
    """A share with its 95 % interval (Wilson), in per cent."""
    low, high = wilson_interval(share * n, n)
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def by_chance(found: Sequence[float]) -> str:
    """A share that chance would make, with its range, in per cent."""
    return "{:.1%} ({:.1f} to {:.1f})".format(found[0], *(100 * end for end in found[1:]))


def in_percent(share: float, n: int) -> tuple[float, float, float]:
    """A share in per cent, and how far its 95 % interval (Wilson) reaches down and up: no less than 0."""
    low, high = wilson_interval(share * n, n)
    return 100 * share, max(0.0, 100 * (share - low)), max(0.0, 100 * (high - share))


def mean(rows: list[dict], name: str = "dev") -> float:
    """The mean of an entry over the seeds of a run."""
    return statistics.fmean(row[name] for row in rows)


def mean_percent(rows: list[dict], share: str = "dev", n: str = "n") -> str:
    """The mean share of several seeds in per cent, with its 95 % interval (Wilson); - if a row has none.

    The seeds answer the same questions, so the interval is that of one run over them.
    """
    return percent(mean(rows, share), rows[0][n]) if all(share in row for row in rows) else "-"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds, and how far its 95 % interval reaches (Student's t); 0 for a single seed."""
    if len(values) < 2:
        return values[0], 0.0
    from scipy import stats

    reach = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), float(reach)


def over_seeds(rows: list[dict]) -> str:
    """The 95 % interval of the mean over seeds in per cent, within 0 .. 100; - for a single seed."""
    middle, reach = interval([row["dev"] for row in rows])
    return f"{100 * max(0.0, middle - reach):.1f} to {100 * min(1.0, middle + reach):.1f}" if len(rows) > 1 else "-"


def span(rows: list[dict]) -> str:
    """The lowest and the highest share of the seeds, in per cent."""
    shares = [100 * row["dev"] for row in rows]
    return f"{min(shares):.1f} to {max(shares):.1f}" if len(rows) > 1 else "-"


def minutes(rows: list[dict]) -> str:
    """Mean training time, with that of the plain path's step in the same hours where one was measured."""
    if not all("seconds" in row for row in rows):
        return "-"
    known = all("plain_step_seconds" in row for row in rows)
    return f"{mean(rows, 'seconds') / 60:.1f}" + (f" ({mean(rows, 'plain_step_seconds'):.2f} s)" if known else "")


def machine(row: dict) -> str:
    """On what a row was trained, and how its matrix products were rounded."""
    return ", ".join(row[name] for name in ("hardware", "precision") if name in row) or "-"


def grouped(rows: list[dict], *keys: str) -> Iterator[tuple[tuple, list[dict]]]:
    """Rows that agree in some fields, groups in order of their first row."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key, "-") for key in keys)].append(row)
    yield from groups.items()


def of_one_machine(rows: list[dict], *also: str) -> list[dict]:
    """The rows of the machine (and the other entries named) that has most; among equals, of that with the latest."""
    groups = [group for _, group in grouped(rows, "hardware", "precision", *also)]
    return max(groups, key=lambda group: (len(group), max(row.get("date", "") for row in group)), default=[])


def markdown(heads: Sequence[str], lines: list[list]) -> str:
    """A table in Markdown."""
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in cells)


# ---------------------------------------------------------------- the homework's models

# The columns of tables: what is told of rows that differ in the seed alone.
PLAIN = ("model", "data", "variant", "recipe", "epochs", "change")
COLUMNS: dict[str, Callable[[list[dict]], str]] = {
    **{name: lambda rows, name=name: str(rows[0][name]) for name in PLAIN},
    "seeds": lambda rows: " ".join(str(row["seed"]) for row in rows),
    "dev (95 %)": mean_percent,
    "95 % over seeds": over_seeds,
    "range": span,
    "test (95 %)": lambda rows: mean_percent(rows, "test", "test_n"),
    "bar": lambda rows: f"{rows[0]['bar']:.0%}" if "bar" in rows[0] else "-",
    "seconds": lambda rows: f"{mean(rows, 'seconds'):,.0f}" if "seconds" in rows[0] else "-",
    "tokens": lambda rows: f"{rows[0]['tokens']:,}" if "tokens" in rows[0] else "-",
    "minutes (plain step)": minutes,
    "loss": lambda rows: f"{mean(rows, 'loss'):.3f}" if all("loss" in row for row in rows) else "-",
    "hardware": lambda rows: machine(rows[0]),
}
IN_SHORT = ("model", "data", "recipe", "seeds", "dev (95 %)", "test (95 %)", "bar", "seconds", "hardware")
SEEDS = ("seeds", "dev (95 %)", "95 % over seeds", "range")
IN_FULL = ("model", "data", "recipe", *SEEDS, "test (95 %)", "bar", "tokens", "minutes (plain step)", "hardware")


def table(lines: list[list[list[dict]]], heads: Sequence[str]) -> str:
    """Markdown: a line for one model, or for several, each being the rows of its seeds."""
    cells = [["; ".join(dict.fromkeys(map(COLUMNS[head], models))) for head in heads] for models in lines]
    return markdown(heads, cells)


def read_models(folder: Path) -> list[dict]:
    """The rows of accuracy and controls, with the model's name and the handout's bar; in order, own data first."""
    rows = [row | {"model": row["what"]} for row in read_rows(folder / "controls")]
    for row in read_rows(folder / "accuracy"):
        rows.append(row | {"model": f"{row['variant']}, pretrained", "bar": BARS[row["variant"]]})
    return sorted(rows, key=lambda r: (r["data"] != "own", r["data"], r["recipe"], MODELS.index(r["model"]), r["seed"]))


def chosen(rows: list[dict], data: str, recipe: str) -> list[list[dict]]:
    """The rows of each of the handout's models that there is, of one machine each."""
    mine = [row for row in rows if (row["data"], row["recipe"]) == (data, recipe)]
    return [of_one_machine(group) for _, group in grouped(mine, "model")]


def short_table(rows: list[dict]) -> str:
    """At most eight lines: the handout's models by the main recipe, then a line for each of some other recipes."""
    others = [[g for g in chosen(rows, "course", recipe) if "bar" in g[0]][::-1] for recipe in OTHERS]
    return table([[group] for group in chosen(rows, "own", MAIN_RECIPE)] + [line for line in others if line], IN_SHORT)


def write_tables(folder: Path) -> str:
    """Write results.md from all rows of a folder, and return its table."""
    runs = grouped(read_models(folder), "model", "data", "recipe", "hardware", "precision")
    text = table([[group] for _, group in runs], IN_FULL)
    note = (
        "Written by `scripts/report.py` from the rows in `accuracy/` and `controls/`, which hold the command, the "
        "commit and the hash of the corpus of every run. Minutes: pretraining and finetuning together; "
        "beside them, on CPUs, how long a step of the plain path (padded batches of 128, float32) took on the same "
        "machine in the same hour: the handout needs 14,950 steps for one pretraining. Intervals are Wilson's, for "
        "the questions of one run; beside them Student's for the mean over seeds, and the seeds' range.\n\n"
    )
    write_text(folder / "results.md", note + text + "\n")
    return text


def write_run(folder: Path, data: str, recipe: str, seed: int) -> str:
    """Write the table and the picture of one run's rows beside them; returns the table."""
    models = chosen([row for row in read_models(folder) if row["seed"] == seed], data, recipe)
    text = table([[rows] for rows in models], [head for head in IN_FULL if head not in SEEDS[2:]])
    write_text(folder / "results.md", text + "\n")
    title = f"{data} data, recipe {recipe}"
    draw_bars(folder / "accuracy.png", {rows[0]["model"]: rows for rows in models}, title)
    return text


# ---------------------------------------------------------------- experiments/recall.py


def recall_table(rows: list[dict], keys: Sequence[str]) -> str:
    """A line for all seeds of a run.

    Args:
        rows: of accuracy, curve or ablation.
        keys: what identifies one.
    """
    runs = tuple(key for key in keys if key not in ("seed", "hardware", "precision"))
    rows = sorted(rows, key=lambda row: [row[key] for key in runs])
    groups = [[group] for _, group in grouped(rows, *runs, "hardware", "precision")]
    return table(groups, (*runs, *SEEDS, "minutes (plain step)", "loss", "hardware"))


def bins(rows: list[dict]) -> Iterator[tuple[str, float, float, int]]:
    """(what it holds, mean, share right, questions) of the ranges of exposures that hold any, all seeds together."""
    for start, stop in pairwise((0, 1, 4, 8, 12, 16, 20, 25, 30, 40, 60, 100, 200, 10**9)):
        if part := [one for row in rows for one in row["asked"] if start <= one[0] < stop]:
            times, counts, right = zip(*part, strict=True)
            n, low, high = sum(counts), min(times), max(times)
            centre = sum(k * count for k, count in zip(times, counts, strict=True)) / n
            yield f"{low}" if low == high else f"{low} to {high}", centre, sum(right) / n, n


def exposure_table(rows: list[dict]) -> str:
    """Right answers by how often the pretraining asked for the place."""
    keys, heads = ("data", "variant", "recipe", "epochs"), ("times asked", "questions", "right (95 %)")
    found = [(names, one) for names, group in grouped(rows, *keys) for one in bins(group)]
    return markdown([*keys, *heads], [[*names, text, n, percent(share, n)] for names, (text, _, share, n) in found])


def loss_table(rows: list[dict]) -> str:
    """Losses of the handout's recipe; in brackets the ratio to the mean of the two students."""
    lines = []
    for variant, students in STUDENTS.items():
        public = {str(n): statistics.fmean(values) for n, *values in zip(STEPS, *students, strict=True)}
        lines += [[variant, f"student {i}", "course", "-", *values] for i, values in enumerate(students, 1)]
        for row in (row for row in rows if row["variant"] == variant):
            mine = {n: f"{value:.3f} ({value / public[n]:.2f})" for n, value in row["losses"].items()}
            told = [variant, f"ours, seed {row['seed']}", row["data"], machine(row)]
            lines.append([*told, *(mine.get(n, "-") for n in public)])
    return markdown(["variant", "whose", "data", "hardware", *STEPS], lines)


def curve_lines(rows: list[dict]) -> list[Line]:
    """Right answers by minutes, of the data with most rows: a panel a variant, a line a recipe, of one machine."""
    data = statistics.mode(row["data"] for row in rows) if rows else None
    mine = grouped([row for row in rows if row["data"] == data], "variant", "recipe")
    lines = [(names, of_one_machine(group)) for names, group in mine]
    where = [re.sub("NVIDIA |, AVX.*", "", group[0]["hardware"]) for _, group in lines]
    found = []
    for ((variant, recipe), group), short in zip(lines, where, strict=True):
        parts = [part for _, part in grouped(group, "epochs")]
        points = [(mean(part, "seconds") / 60, *in_percent(mean(part), part[0]["n"])) for part in parts]
        found.append((f"{variant}, {data} data", f"{recipe} ({short})" if len(set(where)) > 1 else recipe, points))
    return found


def exposure_lines(rows: list[dict]) -> list[Line]:
    """Right answers by how often the place was asked for, without small bins."""
    found = []
    for (variant, data, recipe, epochs), group in grouped(rows, "variant", "data", "recipe", "epochs"):
        points = [(centre, *in_percent(share, n)) for _, centre, share, n in bins(group) if n >= 20]
        found += [(f"{variant}, {data} data", f"{recipe}, {epochs} epochs", points)] if points else []
    return found


def loss_lines(rows: list[dict]) -> list[Line]:
    """Losses by steps: the two students, and ours."""
    lines = [
        (variant, f"student {i}", zip(STEPS, values, strict=True))
        for variant, students in STUDENTS.items()
        for i, values in enumerate(students, 1)
    ]
    ours = ((r["variant"], f"ours, seed {r['seed']}, {r['data']} data", r["losses"].items()) for r in rows)
    return [(variant, name, [(int(n), loss, 0, 0) for n, loss in points]) for variant, name, points in (*lines, *ours)]


def draw_recall(folder: Path) -> None:
    """curve.png, ablation.png, exposures.png and losses.png, each if there are rows for it."""
    right, names = "right dev answers, % (95 % interval)", ("accuracy", "curve", "ablation", "exposures", "losses")
    accuracy, curve, ablation, exposures, losses = (read_rows(folder / name) for name in names)
    draw_lines(folder / "curve.png", curve_lines(accuracy + curve), ("minutes of training", right), log="x")
    asked = "times that the pretraining asked for the place"
    draw_lines(folder / "exposures.png", exposure_lines(exposures), (asked, right))
    if losses:
        draw_lines(folder / "losses.png", loss_lines(losses), ("step", "loss, mean over 230 steps"), log="xy")
    if ablation:
        runs = grouped(ablation, "data", "variant", "recipe", "epochs", "hardware", "precision")
        rows = max((rows for _, rows in runs), key=len)
        changes = sorted((part for _, part in grouped(rows, "change")), key=mean, reverse=True)
        title = "{data} data, {variant}, {recipe}, {epochs} epochs".format(**rows[0])
        draw_bars(folder / "ablation.png", {part[0]["change"]: part for part in changes}, title)


# ---------------------------------------------------------------- pages


def put_between(path: Path, mark: str, text: str) -> None:
    """Replace what stands between <!-- mark --> and <!-- /mark --> in a Markdown file."""
    before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not start or not end:
        raise UserError(f"{path}: the marks <!-- {mark} --> and <!-- /{mark} --> are missing; restore it from git")
    write_text(path, f"{before}{start}\n{text}\n{end}{after}")


def fill(tables: dict[str, str]) -> None:
    """Put every table between its marks, on whichever page has them; says which has no page."""
    pages = [page for folder in (".", "docs", "experiments") for page in sorted((ROOT / folder).glob("*.md"))]
    for mark, text in tables.items():
        found = [page for page in pages if f"<!-- {mark} -->" in page.read_text(encoding="utf-8")]
        for page in found:
            put_between(page, mark, text)
        if not found:
            print(f"no page has a place for the table <!-- {mark} -->")


def robustness(folder: Path) -> str:
    """What the programs survived."""
    lines = [[f"`{row['command']}`", f"{row['found']} ({row['machine']})"] for row in read_rows(folder / "robustness")]
    return markdown(["command", "found"], lines)


def record_robustness(command: str, found: str, details: dict) -> None:
    """Add a row to results/robustness, and write the table in experiments/README.md from all of them."""
    row = {"command": command, "found": found, "machine": f"{os.cpu_count()} cores, CPU", **details}
    add_row(ROOT / "results" / "robustness", row, ("command",))
    put_between(ROOT / "experiments" / "README.md", "robustness", robustness(ROOT / "results"))


# ---------------------------------------------------------------- part 4


def compared(folder: Path) -> list[dict]:
    """Each model and way to ask, both wordings side by side: ours (4a), then the LLMs (4b, 4c).

    Of rows of ours that differ in the machine alone, the latest.

    Returns:
        rows with model, data, asked, n, parameters; exact, normalised: shares right by template, without
        what was not run; only_original, only_reworded, p_mcnemar, where both wordings were asked.
    """
    ours = {}
    for row in sorted(read_rows(folder / "sensitivity"), key=lambda row: row.get("date", "")):
        name = f"our RoPE model ({row['recipe']}, seed {row['seed']})"
        exact = {"original": row["original"], "reworded": row["reworded"]}
        ours[name, row["data"]] = dict(row, model=name, asked=ASKED["bare"], exact=exact, normalised={})
    found: dict[tuple, dict] = {}
    for row in read_rows(folder / "modern_llm"):
        new = dict(row, asked=ASKED[row["prompt"]], exact={}, normalised={})
        pair = found.setdefault(tuple(row[name] for name in ("model", "data", "prompt", "n")), new)
        pair["exact"][row["template"]] = row["exact"]
        pair["normalised"][row["template"]] = row["normalised"]
        pair |= {name: row[name] for name in ("only_original", "only_reworded", "p_mcnemar") if name in row}
    return sorted([*ours.values(), *found.values()], key=lambda pair: pair["data"] != "own")


def write_comparison(folder: Path) -> str:
    """Write modern_llm.md, original against reworded question for every model, and return its table."""
    pairs, lines = compared(folder), []
    for pair in pairs:
        line = [pair["model"], f"{pair['parameters']:,}", pair["data"], pair["asked"]]
        for match in (pair["exact"], pair["normalised"]):
            line += [percent(match[t], pair["n"]) if t in match else "-" for t in POINTS]
        tested = "p_mcnemar" in pair
        line += [f"{pair['only_original']} : {pair['only_reworded']}", f"{pair['p_mcnemar']:.2g}"] if tested else "--"
        lines.append(line)
    have = {pair["model"].rpartition("/")[2] for pair in pairs}
    missing = [model for model in LISTED if model.rpartition("/")[2] not in have]
    lines += [[model, "-", "own", f"not run here: `make llm LLM={model}`", *"------"] for model in missing]
    heads = ["model", "parameters", "data", "asked", "exact, original", "exact, reworded", "place read, original"]
    text = markdown([*heads, "place read, reworded", "right in one wording only", "McNemar's p"], lines)
    note = (
        f"Written by `scripts/report.py` from the rows in `sensitivity/` and `modern_llm/`. Original: {ORIGINAL} "
        f"Reworded: {REWORDED} In brackets 95 % intervals (Wilson). Exact: of the answer "
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
        plt.Line2D([], [], color=colour, marker=marker, markersize=5, label=wording)
        for wording, _, marker, colour in POINTS.values()
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, folder / "sensitivity.png")


def draw_pair(axis, pair: dict, y: int) -> float:
    """A point with its interval for each wording, the place read where there is one; the highest end, in per cent."""
    highest = 0.0
    for template, share in (pair["normalised"] or pair["exact"]).items():
        _, offset, marker, colour = POINTS[template]
        x, down, up = in_percent(share, pair["n"])
        style = {"fmt": marker, "color": colour, "capsize": 3, "markersize": 5}
        axis.errorbar(x, y + offset, xerr=[[down], [up]], clip_on=False, **style)
        end = (x + up, y + offset)
        axis.annotate(f"{share:.1%}", end, (5, 0), textcoords="offset points", va="center", fontsize=8)
        highest = max(highest, x + up)
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


def draw_bars(path: Path, bars: dict[str, list[dict]], title: str) -> None:
    """A bar for each name: the mean of its rows, one a seed, with interval, seeds and the handout's bar."""
    plt = pyplot()
    if plt is None or not bars:
        return
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.4 * len(bars)), layout="constrained")
    furthest = 0.0
    for y, rows in enumerate(bars.values()):
        share, n, goal = mean(rows), rows[0]["n"], rows[0].get("bar")
        _, down, up = in_percent(share, n)
        end = 100 * share + up
        furthest = max(furthest, end, 100 * (goal or 0))
        colour = "#b0b7bf" if "what" in rows[0] or rows[0].get("change", UNCHANGED) != UNCHANGED else "#2a6f97"
        axes.barh(y, 100 * share, xerr=[[down], [up]], color=colour, height=0.6, capsize=3)
        axes.annotate(f"{share:.1%}", (end, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
        if len(rows) > 1:
            style = {"s": 14, "color": "white", "edgecolors": "black", "linewidths": 0.7, "zorder": 3}
            axes.scatter([100 * row["dev"] for row in rows], [y] * len(rows), **style)
        if goal:
            axes.plot([100 * goal] * 2, [y - 0.38, y + 0.38], color="#c1121f", linewidth=2)
    axes.set_yticks(range(len(bars)), bars)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    seeds = sorted({row["seed"] for rows in bars.values() for row in rows})
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))} (circles) and their mean"
    axes.set_title(f"{title}, {told}", fontsize=10)
    axes.set_xlabel(f"right answers to {n} unseen dev questions, % (95 % interval)")
    axes.set_xlim(0, 1.2 * furthest)
    axes.spines[["top", "right"]].set_visible(False)
    if any("bar" in rows[0] for rows in bars.values()):
        line = plt.Line2D([], [], color="#c1121f", linewidth=2, label="the handout's bar")
        axes.legend(handles=[line], loc="upper right", frameon=False, fontsize=9)
    save(figure, path)


def draw_lines(path: Path, lines: list[Line], labels: tuple[str, str], log: str = "") -> None:
    """Panels of lines, each named at its end; labels of x and y, and which of these is logarithmic: "x", "xy"."""
    plt = pyplot()
    if plt is None or not lines:
        return
    titles, names = (list(dict.fromkeys(line[i] for line in lines)) for i in (0, 1))
    size = (4.6 * len(titles), 3.6)
    figure, panels = plt.subplots(1, len(titles), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, title in zip(panels[0], titles, strict=True):
        ends = []
        for _, name, points in (line for line in lines if line[0] == title):
            (x, y, down, up), colour = zip(*sorted(points), strict=True), f"C{names.index(name)}"
            style = {"color": colour, "marker": "o", "markersize": 4, "capsize": 3}
            panel.errorbar(x, y, [down, up] if any(up) else None, **style)
            ends.append((y[-1], x[-1], name, colour))
        for axis, name in ((panel.xaxis, "x"), (panel.yaxis, "y")):
            if name in log:
                axis.set_tick_params(which="minor", length=0)
                getattr(panel, f"set_{name}scale")("log", subs=[])
                axis.set_major_locator(plt.matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
        if "y" not in log:
            panel.set_ylim(bottom=0)
        furthest, taken = max(end[1] for end in ends), float("-inf")
        for y, x, name, colour in sorted(ends):
            height = panel.transData.transform((x, y))[1] * 72 / figure.dpi
            taken = max(height, taken + 11)  # in points: as high as the end, but apart from other names
            style = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": colour}
            panel.annotate(name, (x if log else furthest, y), (8, taken - height), **style)
        panel.tick_params(labelsize=8)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(labels[0])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel(labels[1])
    save(figure, path)


# ---------------------------------------------------------------- all of them


def write_all(folder: Path) -> dict[str, str]:
    """Write every table and picture of a folder of results; returns the tables by their marks."""
    rows = read_models(folder)
    models = {group[0]["model"]: group for group in chosen(rows, "own", MAIN_RECIPE)}
    draw_bars(folder / "accuracy.png", models, f"own data, recipe {MAIN_RECIPE}")
    draw_sensitivity(folder)
    draw_recall(folder)
    curve, ablation, exposures, losses = (read_rows(folder / n) for n in ("curve", "ablation", "exposures", "losses"))
    return {
        "results": short_table(rows),
        "all_results": write_tables(folder),
        "modern_llm": write_comparison(folder),
        "curve": recall_table(curve, CURVE),
        "ablation": recall_table(ablation, ABLATION),
        "exposures": exposure_table(exposures),
        "losses": loss_table(losses),
        "robustness": robustness(folder),
    }


def main(argv: list[str] | None = None) -> int:
    """Write all tables and pictures anew."""
    parser = argparse.ArgumentParser(description="Write all tables and pictures from rows of results.")
    text = "folder of the rows (default: results, from which alone the tables of README.md and other pages are made)"
    parser.add_argument("--results", type=Path, default=ROOT / "results", help=text)
    folder = parser.parse_args(argv).results.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    tables = write_all(folder)
    if folder == ROOT / "results":
        fill(tables)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

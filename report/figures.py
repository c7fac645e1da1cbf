"""Figures of results, made from the rows.

    python report/figures.py [--results FOLDER] [--data_name own] [--recipe fast]

draws beside the rows every figure that they suffice for. Data and recipe are those of accuracy.png.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from engine.recipes import MAIN_RECIPE
from report import experiment_tables, rows, tables
from utils import atomic_write, cli

BLUE, RED, GREEN, GREY, LIGHT = "#2a6f97", "#c1121f", "#2b9348", "#8a9199", "#b0b7bf"
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e4e7ea",
        "axes.prop_cycle": mpl.cycler(color=[BLUE, RED, GREEN, "#e09f3e", "#6a4c93", GREY]),
        "errorbar.capsize": 3,
        "lines.markersize": 4,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "savefig.dpi": 160,
        "pdf.fonttype": 42,  # whole fonts, so that the text of a PDF can be searched
    }
)
RIGHT = "correct dev answers, % (95 % interval)"


def save(figure: Figure | None, path: Path) -> None:
    """Write a figure, if there is one, as PNG or PDF; without a date, so that the same rows give the same bytes."""
    if figure is None:
        return
    kind = path.suffix[1:]
    dates = {"Software": None} if kind == "png" else {"CreationDate": None, "Creator": None, "Producer": None}
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, metadata=dates)


def reach(share: float, n: int) -> tuple[float, float, float]:
    """A share in per cent, and how far its 95 % interval (Wilson) reaches down and up."""
    low, high = tables.wilson(share, n)
    return 100 * share, max(0.0, 100 * (share - low)), max(0.0, 100 * (high - share))


# ---------------------------------------------------------------- bars


class Bar(NamedTuple):
    """A bar of a figure: label, a share of n questions, colour, the handout's bar, the shares of single seeds."""

    label: str
    share: float
    n: int
    colour: str
    goal: float = math.nan
    seeds: Sequence[float] = ()


def bars(bars: list[Bar], title: str) -> Figure | None:
    """Bars with 95 % intervals, one below the other."""
    if not bars:
        return None
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for y, bar in enumerate(bars):
        share, down, up = reach(bar.share, bar.n)
        axes.barh(y, share, xerr=[[down], [up]], height=0.6, color=bar.colour)
        axes.annotate(f"{share:.1f}%", (share + up, y), (5, 0), textcoords="offset points", va="center")
        axes.plot([100 * bar.goal] * 2, [y - 0.38, y + 0.38], color=RED, linewidth=2)
        if len(bar.seeds) > 1:
            circles = [100 * seed for seed in bar.seeds]
            axes.scatter(circles, [y] * len(circles), s=14, color="white", edgecolors="black", zorder=3)
    axes.set_title(title)
    axes.set_xlabel(RIGHT)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    if any(bar.goal > 0 for bar in bars):
        axes.legend(handles=[Line2D([], [], color=RED, linewidth=2, label="the handout's bar")], loc="upper right")
    return figure


def bar_of(group: pd.DataFrame, label: str, colour: str) -> Bar:
    """The bar of a model: its rows, one a seed."""
    first, seeds = group.iloc[0], group["dev"].tolist()
    return Bar(group[label].iloc[0], group["dev"].mean(), first["n"], colour, first["bar"], seeds)


def accuracy(folder: Path, data: str, recipe: str) -> Figure | None:
    """The handout's models."""
    groups = tables.chosen(tables.read_models(folder), data=data, recipe=recipe)
    found = [bar_of(group, "model", LIGHT if group["bar"].isna().all() else BLUE) for group in groups]
    return bars(found, f"{data} data, recipe {recipe}")


def ablation(folder: Path) -> Figure | None:
    """A recipe with one choice changed at a time; of several recipes, the one with most rows."""
    found = experiment_tables.changed_recipes("ablation", folder)
    runs = tables.grouped(found, "data", "variant", "recipe", "epochs", "hardware", "precision")
    if not runs:
        return None
    run = max(runs, key=len)
    changes = [bar_of(group, "change", BLUE if name == "as it is" else LIGHT) for name, group in run.groupby("change")]
    title = "{data} data, {variant}, {recipe}, {epochs} epochs".format(**run.iloc[0])
    return bars(sorted(changes, key=lambda bar: -bar.share), title)


def sensitivity(folder: Path) -> Figure | None:
    """Part 4: both wordings, our models and the LLMs; of a reply the place that is read from it."""
    found = []
    for pair in tables.compared(folder).to_dict("records"):
        for wording, colour in zip(tables.WORDINGS, (BLUE, RED), strict=True):
            read = pair[f"read_{wording}"]
            share = pair[f"exact_{wording}"] if pd.isna(read) else read
            name = f"{pair['model'].rpartition('/')[2]}, {pair['data']} data\n{tables.ASKED[pair['prompt']]}, {wording}"
            if not pd.isna(share):
                found.append(Bar(name, share, pair["n"], colour))
    return bars(found, " or ".join(tables.WORDINGS.values()))


# ---------------------------------------------------------------- lines


class Line(NamedTuple):
    """A line of a figure: its panel, its label, and points (x, y, how far the interval reaches down and up)."""

    panel: str
    label: str
    points: list[tuple[float, float, float, float]]


def panels(lines: list[Line], x: str, y: str, log: str = "") -> Figure | None:
    """Lines in panels side by side; labels of the axes, and which of these are logarithmic: "x", "xy"."""
    if not lines:
        return None
    titles = list(dict.fromkeys(line.panel for line in lines))
    figure = Figure(figsize=(4.6 * len(titles), 3.6), layout="constrained")
    for axes, title in zip(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0], titles, strict=True):
        for line in (line for line in lines if line.panel == title):
            at, value, down, up = zip(*sorted(line.points), strict=True)
            axes.errorbar(at, value, [down, up] if any(up) else None, marker="o", label=line.label)
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in log:
                axes.set(**{f"{name}scale": "log"})
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_tick_params(which="minor", length=0, labelbottom=False, labelleft=False)
        if "y" not in log:
            axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_xlabel(x)
        axes.legend()
    figure.axes[0].set_ylabel(y)
    return figure


def curve(folder: Path) -> Figure | None:
    """Accuracy by minutes of training, on the data with most rows, a line a recipe."""
    trained = experiment_tables.changed_recipes("curve", folder)
    found = pd.concat([trained, tables.read_models(folder).query("bar.notna()").assign(epochs=-1)])
    lines = []
    for run in tables.grouped(found[found["data"].isin(found["data"].mode()[:1])], "variant", "recipe"):
        run = rows.select(run)
        where = re.sub("NVIDIA |, AVX.*", "", run["hardware"].iloc[0])
        parts = tables.grouped(run, "epochs")
        points = [(part["seconds"].mean() / 60, *reach(part["dev"].mean(), part["n"].iloc[0])) for part in parts]
        lines.append(Line("{variant}, {data} data".format(**run.iloc[0]), f"{run['recipe'].iloc[0]} ({where})", points))
    return panels(lines, "minutes of training", RIGHT, log="x")


def exposures(folder: Path) -> Figure | None:
    """Accuracy by how often the pretraining asked for the place, without ranges of few people."""
    lines = []
    for run in tables.grouped(experiment_tables.exposure_bins(folder), "variant", "data", "recipe", "epochs"):
        told = run.iloc[0]
        if points := [(part.mean, *reach(part.share, part.n)) for part in run.itertuples() if part.n >= 20]:
            lines.append(Line(f"{told.variant}, {told.data} data", f"{told.recipe}, {told.epochs} epochs", points))
    return panels(lines, "times that the pretraining asked for the place", RIGHT)


def losses(folder: Path) -> Figure | None:
    """Losses of the handout's recipe by steps: those of two students, and ours."""
    found, lines = rows.read("losses", folder), []
    for variant, students in experiment_tables.STUDENTS.items() if len(found) else ():
        for i, values in enumerate(students, 1):
            steps = zip(experiment_tables.STEPS, values, strict=True)
            lines.append(Line(variant, f"student {i}", [(step, loss, 0, 0) for step, loss in steps]))
        for run in tables.grouped(found[found["variant"] == variant], *rows.TRAINED):
            label = "ours, seed {seed}, {data} data".format(**run.iloc[0])
            lines.append(Line(variant, label, [(row.step, row.loss, 0, 0) for row in run.itertuples()]))
    return panels(lines, "training step", "loss, mean over 230 steps", log="xy")


def positions(folder: Path) -> Figure | None:
    """The loss by position, a line for each kind of positions, with the 95 % band over seeds."""
    found = experiment_tables.select_positions(folder)
    if found.empty:
        return None
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes, longest = figure.subplots(), found["last"].max()
    for kind, dashes in zip(tables.grouped(found, "positions"), ("-", "--", "-", ":"), strict=False):
        ranges = kind.groupby(["first", "last"])["loss"]
        mean, band = ranges.mean(), [tables.student(seeds.tolist()) for _, seeds in ranges]
        x = mean.index.to_frame().mean(axis=1)  # the middle of each range
        (line,) = axes.plot(x, mean, dashes, linewidth=2, label=kind["positions"].iloc[0])
        axes.fill_between(x, *zip(*band, strict=True), color=line.get_color(), alpha=0.18, linewidth=0)
        if kind["last"].max() < longest:
            axes.plot(x.iloc[-1], mean.iloc[-1], "X", color=line.get_color(), markersize=9)
    trained = found[found["positions"] == "learned"]["last"].max()
    axes.axvline(trained + 0.5, color="black", linewidth=1)
    axes.annotate(" trained up to here", (trained + 0.5, 0.98), xycoords=("data", "axes fraction"), va="top")
    axes.set_xlim(1, longest)
    axes.set_xlabel("position in the window")
    axes.set_ylabel("loss on held-out text, nats a character")
    axes.set_title(f"Next character, by kind of positions; mean of {found['seed'].nunique()} seeds, 95 % band")
    axes.legend(title="positions")
    return figure


def analysis(folder: Path) -> Figure | None:
    """Two panels: the share right by confidence, and by how many questions are answered."""
    bins, coverage = (experiment_tables.read_analysis(folder, f"analysis_{name}") for name in ("bins", "coverage"))
    if bins.empty:
        return None
    figure = Figure(figsize=(3.4, 5.6), layout="constrained")
    calibrated, covered = figure.subplots(2, 1)
    calibrated.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    covered.axhline(90, color=GREY, linestyle=":", linewidth=1)
    run = ["data", "recipe", "seed"]
    first = (bins[run] == bins[run].iloc[0]).all(axis=1)
    for told, marker in zip(bins[first]["told"].unique(), "os", strict=False):
        points, curve = (found[found["told"] == told] for found in (bins, coverage))
        y, down, up = zip(*(reach(row.right / row.n, row.n) for row in points.itertuples()), strict=True)
        calibrated.errorbar(100 * points["confidence"], y, [down, up], marker=marker)
        covered.plot(curve["percent"], 100 * curve["share"], marker=marker, label=told.partition(";")[0])
    calibrated.set(xlabel="mean confidence of a tenth of the answers, %", ylabel="correct, % (95 % interval)")
    covered.set(xlabel="questions answered, surest first, %", ylabel="correct among these, %")
    for axes in (calibrated, covered):
        axes.set(xlim=(0, 102), ylim=(0, 104))
    covered.legend(loc="lower left")
    return figure


# ---------------------------------------------------------------- of the report alone

COLUMNS = 84  # of the console


def console(text: str) -> Figure:
    """A text as a console shows it; of a character that the font lacks its number."""
    have = get_font(findfont("DejaVu Sans Mono")).get_charmap()
    text = "".join(c if ord(c) in have or c == "\n" else f"\\u{ord(c):04x}" for c in text)
    lines = [line[i : i + COLUMNS] for line in text.split("\n")[:-1] for i in range(0, max(1, len(line)), COLUMNS)]
    width, size = 6.46, 6.46 * 72 / (COLUMNS + 2) / 0.602  # inches; points, of a font whose characters are 0.602 wide
    figure = Figure(figsize=(width, (len(lines) + 1) * 1.3 * size / 72), facecolor="#f4f6f8")
    for i, line in enumerate(lines):
        place = (1 / (COLUMNS + 2), 1 - (i + 0.5) / (len(lines) + 1))
        figure.text(*place, line, va="top", family="DejaVu Sans Mono", size=size, parse_math=False)
    return figure


def sinusoids(length: int = 128, width: int = 256) -> Figure:
    """The embedding of part 1(b) as a map, and how far positions lie from the first one."""
    angles = np.arange(1001)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)  # (positions, pairs)
    pairs = np.stack((np.sin(angles), np.cos(angles)), axis=-1)  # (positions, pairs, 2)
    figure = Figure(figsize=(6.46, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    values = pairs[:length].reshape(length, width)
    figure.colorbar(left.imshow(values, aspect="auto", cmap="RdBu", vmin=-1, vmax=1, rasterized=True), ax=left)
    left.grid(visible=False)
    left.set(xlabel="feature", ylabel="position t")
    for count, colour, name, height in ((1, RED, "first pair", 2e-5), (width // 2, BLUE, "all pairs", 4.5)):
        apart = np.linalg.norm((pairs[1:] - pairs[0])[:, :count], axis=(1, 2))
        right.semilogy(range(1, 1001), apart, ".", color=colour, markersize=2)
        right.text(500, height, name, color=colour, ha="center")
    right.set(xlabel="position t", ylabel=r"distance of $\Phi_t$ to $\Phi_0$", ylim=(1e-5, 50))
    return figure


def loss_curve(found: pd.DataFrame) -> Figure:
    """The loss of each variant's pretraining by its steps."""
    figure = Figure(figsize=(6.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for variant, colour, side in (("vanilla", BLUE, "left"), ("rope", RED, "right")):
        curve = found[found["variant"] == variant]
        axes.plot(curve["step"], curve["loss"], color=colour)
        at = curve.iloc[len(curve) // 10]
        shift = (8, 8) if side == "left" else (-8, -14)
        axes.annotate(variant, at[["step", "loss"]], shift, textcoords="offset points", color=colour, ha=side)
    axes.set(xlabel="step of pretraining", ylabel="loss, nats a character", ylim=(0, None))
    return figure


# ---------------------------------------------------------------- all of the results

FIGURES = (ablation, curve, exposures, losses, positions, analysis, sensitivity)


def draw(folder: Path, data: str = "own", recipe: str = MAIN_RECIPE) -> None:
    """Draw every figure that the rows of a folder suffice for; `data` and `recipe` are those of accuracy.png."""
    save(accuracy(folder, data, recipe), folder / "accuracy.png")
    for make in FIGURES:
        save(make(folder), folder / f"{make.__name__}.png")


def main(argv: list[str] | None = None) -> int:
    """Draw all figures anew."""
    parser = argparse.ArgumentParser(description="Draw all figures from the rows of results.")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    parser.add_argument("--data_name", default="own", help="data of accuracy.png (default: %(default)s)")
    parser.add_argument("--recipe", default=MAIN_RECIPE, help="recipe of accuracy.png (default: %(default)s)")
    args = parser.parse_args(argv)
    draw(args.results, args.data_name, args.recipe)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

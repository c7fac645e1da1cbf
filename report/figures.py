"""Figures of results, made from the rows: `draw` draws beside the rows every figure that they suffice for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import LogLocator, NullLocator

from engine.recipes import MAIN_RECIPE
from engine.wordings import WORDINGS, wilson_interval
from experiments.confidence import bins
from experiments.positions import sinusoids as embeddings
from report import experiment_tables, rows, tables
from report.tables import grouped
from utils import atomic_write

WIDTH = 4.8  # inches; narrow enough to be read on a telephone
BLUE, ORANGE, RED, GREY, LIGHT = "#2a6f97", "#d98324", "#c1121f", "#68717a", "#b0b7bf"
mpl.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "figure.titlesize": 9,
        "figure.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e4e7ea",
        "axes.prop_cycle": mpl.cycler(color=[BLUE, ORANGE, "#2b9348", "#6a4c93", GREY]),
        "errorbar.capsize": 3,
        "lines.markersize": 4,
        "legend.fontsize": 8,
        "legend.framealpha": 1,
        "savefig.dpi": 160,
        "pdf.fonttype": 42,  # whole fonts, so that the text of a PDF can be searched
    }
)
TIMES_ASKED = (0, 1, 4, 8, 12, 20, 30, 40, 60, 100, 200, np.inf)  # limits of the ranges of `exposures`
CORRECT = "correct dev answers, % (95 % interval)"


def save(figure: Figure | None, path: Path) -> None:
    """Write a figure as PNG or PDF, without a date, so that the same rows give the same bytes; None deletes it."""
    if figure is None:
        if path.exists():
            path.unlink()
        return
    kind = path.suffix[1:]
    dates = {"Software": None} if kind == "png" else {"CreationDate": None, "Creator": None, "Producer": None}
    with atomic_write(path) as file:
        figure.savefig(file, format=kind, metadata=dates)


def reach(share: float, n: int) -> tuple[float, float, float]:
    """A share in per cent, and how far its 95 % interval (Wilson) reaches down and up."""
    low, high = wilson_interval(share * n, n)
    return 100 * share, max(0.0, 100 * (share - low)), max(0.0, 100 * (high - share))


def note(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **style: object) -> None:
    """Write a text beside a point, at a distance in printer's points."""
    axes.annotate(text, at, shift, textcoords="offset points", **{"fontsize": 8} | style)


def goal(variant: str) -> str:
    """The handout's bar for a pretrained model, as a figure names it."""
    return tables.bar(variant).replace("%", " %")


def of_one_data(found: pd.DataFrame, data: str | None) -> pd.DataFrame:
    """The rows of one data set: the one named, or the one with most rows."""
    names = found["data"].tolist()
    return found[found["data"] == (data or max(names, key=names.count, default=""))]


# ---------------------------------------------------------------- bars


class Bar(NamedTuple):
    """A bar: a share of n questions, the shares of single seeds, what is written at its end, its colour."""

    share: float
    n: int
    seeds: Sequence[float] = ()
    name: str = ""
    colour: str = BLUE


def bars(groups: dict[str, list[Bar]], title: str, label: str = CORRECT) -> Figure | None:
    """Bars with 95 % intervals, one below the other, in groups with names; their middles are the ticks of y."""
    if not groups:
        return None
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    gap = 0.8 if any(len(group) > 1 for group in groups.values()) else 0.4
    y, longest, middles = 0.0, 0.0, []
    for group in groups.values():
        middles.append(y + (len(group) - 1) / 2)
        for bar in group:
            share, down, up = reach(bar.share, bar.n)
            seeds = [100 * seed for seed in bar.seeds] if len(bar.seeds) > 1 else []
            end = max([share + up, *seeds])
            axes.barh(y, share, xerr=[[down], [up]], height=0.8, color=bar.colour)
            axes.scatter(seeds, [y] * len(seeds), s=12, color="white", edgecolors="black", zorder=3)
            note(axes, f"{share:.1f} % {bar.name}", (end, y), (5, 0), va="center")
            longest = max(longest, end)
            y += 1
        y += gap
    figure.set_size_inches(WIDTH, 0.8 + 0.25 * y)
    if any(len(bar.seeds) > 1 for group in groups.values() for bar in group):
        label += "\ncircles: single seeds"
    figure.suptitle(title)
    axes.set(xlabel=label, xlim=(0, 1.45 * longest), ylim=(y - gap, -1))
    axes.set_yticks(middles, groups)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return figure


def accuracy(folder: Path, data: str, recipe: str) -> Figure | None:
    """The handout's models on dev, and on test where its answers are known; by its own recipe with its bars."""
    models = tables.chosen(tables.read_models(folder), data=data, recipe=recipe)
    if not models:
        return None
    groups = {}
    for model in models:
        parts = {"dev": ("n", BLUE), "test": ("test_n", "#8db9d3")}
        groups[model["model"].iloc[0]] = [
            Bar(model[part].mean(), model[n].iloc[0], model[part], part, colour)
            for part, (n, colour) in parts.items()
            if model[part].notna().all()
        ]
    title = f"{rows.about_data(pd.concat(models))}, recipe {recipe}"
    figure = bars(groups, title, "correct answers, % (95 % interval)")
    axes = figure.axes[0]
    for y, model, group in zip(axes.get_yticks(), models, groups.values(), strict=True):
        first = model.iloc[0]
        if tables.has_bar(first):
            at, half = 100 * tables.BARS[first["variant"]], len(group) / 2
            axes.plot([at, at], [y - half - 0.05, y + half], color=RED, linewidth=1.5)
            note(axes, goal(first["variant"]), (at, y - half), (0, 2), ha="center", color=RED)
    return figure


def ablation(folder: Path) -> Figure | None:
    """A recipe as it is, and with one choice changed at a time, on the data set with most of these rows."""
    found = tables.read_pretrained(folder, changed=True)
    found = found[found["epochs"].isna()]
    run = ["data", "variant", "recipe", "hardware", "precision", "corpus"]
    found = max(grouped(found, *run), key=len, default=found)
    whole = tables.read_pretrained(folder).merge(found[run].drop_duplicates())
    if whole.empty:
        return None
    changes = sorted(grouped(found, "change"), key=lambda seeds: -seeds["dev"].mean())
    groups = {
        seeds["change"].iloc[0] or "as it is": [Bar(seeds["dev"].mean(), seeds["n"].iloc[0], seeds["dev"], "", colour)]
        for seeds, colour in ((whole, BLUE), *((change, LIGHT) for change in changes))
    }
    title = f"{rows.about_data(whole)}, " + "{variant}, recipe {recipe}".format(**whole.iloc[0])
    figure = bars(groups, title, CORRECT + ("\nshaded: the runs of the recipe as it is" if len(whole) > 1 else ""))
    low, high = 100 * whole["dev"].min(), 100 * whole["dev"].max()
    figure.axes[0].axvspan(low, high, color=BLUE, alpha=0.15, linewidth=0, zorder=0)
    return figure


def sensitivity(folder: Path, data: str | None = None) -> Figure | None:
    """Part 4: both wordings, our models and the LLMs; of a reply the place that is read from it."""
    pairs, groups = tables.asked(folder), {}
    for pair in pairs and grouped(of_one_data(pd.concat(pairs), data), *tables.PAIR):
        first = pair.iloc[0]
        version = rows.version([first["corpus"]]) if first["data"] == "own" else ""
        told = (first["model"].rpartition("/")[2], tables.ASKED[first["prompt"]], version)
        groups["\n".join(filter(None, told))] = [
            Bar(share, first["n"], (), wording, {"original": BLUE, "reworded": ORANGE}[wording])
            for wording, share in pair["normalised"].fillna(pair["exact"]).items()
        ]
    title = "\n".join(f"{name}: {wording}" for name, wording in WORDINGS.items())
    title = f"{data} data\n{title}" if data else title
    return bars(groups, title, f"{CORRECT};\nof an LLM, the place read from its reply")


# ---------------------------------------------------------------- points and lines


def panels(titles: Sequence[str], x: str, y: str, heading: str = "", height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """Empty panels, one below the other, with common axes."""
    figure = Figure(figsize=(WIDTH, 0.6 + height * len(titles)), layout="constrained")
    found = list(figure.subplots(len(titles), 1, sharex=True, sharey=True, squeeze=False)[:, 0])
    for axes, title in zip(found, titles, strict=True):
        axes.set_title(title)
    found[-1].set_xlabel(x)
    figure.supylabel(y)
    figure.suptitle(heading)
    return figure, found


def legend(figure: Figure) -> None:
    """A legend below the panels."""
    lines = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=2)


def logarithmic(axes: Axes) -> None:
    """Make the axis of x logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_locator(NullLocator())


def reference(axes: Axes, value: float, name: str) -> None:
    """A horizontal line with its name at its left end."""
    axes.axhline(value, color=RED, linestyle="--", linewidth=1)
    note(axes, name, (0, value), (4, 2), xycoords=("axes fraction", "data"), color=RED)


def intervals(axes: Axes, x: Iterable[float], shares: Iterable[float], n: Iterable[int], **style: object) -> None:
    """Shares of n questions with their intervals, as points."""
    y, down, up = zip(*map(reach, shares, n), strict=True)
    axes.errorbar(x, y, [down, up], **{"marker": "o", "linestyle": "none"} | style)


def curve(folder: Path, data: str | None = None) -> Figure | None:
    """Accuracy by the characters that a model was trained on, a line for each recipe."""
    shorter = tables.read_pretrained(folder, changed=True).query("change == ''")
    found = of_one_data(pd.concat([tables.read_pretrained(folder), shorter]), data)
    found["epochs"] = found["epochs"].fillna(np.inf)
    found = pd.concat([found[:0], *map(rows.select, grouped(found, "variant", "recipe", "epochs"))])
    found = found.dropna(subset="tokens").sort_values("tokens")
    if len(found.groupby(["recipe", "epochs"])) < 2:
        return None
    heading = rows.about_data(found)
    if np.isfinite(found["epochs"]).any():
        heading += "\nnumbers: epochs, where changed"
    colours = {recipe: f"C{i}" for i, recipe in enumerate(found["recipe"].unique())}
    x = "characters trained on, millions (pretraining and finetuning)"
    figure, panel = panels([*tables.BARS], x, CORRECT, heading)
    for axes, variant in zip(panel, tables.BARS, strict=True):
        mine = found[found["variant"] == variant]
        for recipe, run in mine.groupby("recipe"):
            seeds = run.groupby("epochs")[["tokens", "dev", "n"]].mean()
            intervals(axes, seeds["tokens"] / 1e6, seeds["dev"], seeds["n"], color=colours[recipe], linestyle="-")
            for epochs, point in seeds.iterrows():
                name, shift = (f"{epochs:.0f}", -14) if np.isfinite(epochs) else (recipe, 6)
                note(axes, name, (point["tokens"] / 1e6, 100 * point["dev"]), (shift, 4), color=colours[recipe])
        reference(axes, 100 * tables.BARS[variant], f"the handout's bar: {goal(variant)}")
    axes.set_ylim(0, 100)
    axes.margins(x=0.25)
    logarithmic(axes)
    return figure


def exposures(folder: Path) -> Figure | None:
    """Accuracy by how often the pretraining asked for the place, without ranges of few people."""
    found = of_one_data(rows.read("exposures", folder), None)
    if found.empty:
        return None
    found["range"] = pd.cut(found["times"], TIMES_ASKED, right=False)
    found["asked"] = found["times"] * found["n"]
    run = ["variant", "recipe", "epochs"]
    seeds = found.groupby([*run, "seed", "range"], observed=True)[["asked", "n", "right"]].sum()
    ranges = seeds.groupby([*run, "range"], observed=True).mean().reset_index()  # the seeds ask the same people
    ranges = ranges[ranges["n"] >= 20].sort_values("variant", ascending=False, kind="stable")
    runs = grouped(ranges, *run)
    if not runs:
        return None
    titles = ["{variant}, recipe {recipe}, {epochs:.0f} epochs".format(**run.iloc[0]) for run in runs]
    figure, panel = panels(titles, "times that the pretraining asked for the place", CORRECT, rows.about_data(found))
    for axes, part in zip(panel, runs, strict=True):
        intervals(axes, part["asked"] / part["n"], part["right"] / part["n"], part["n"])
    axes.set_ylim(0, 100)
    return figure


def learning(folder: Path) -> Figure | None:
    """What a pretraining has learned after each epoch: the loss on birthplaces, as it is and with a choice changed."""
    run = experiment_tables.select_learning(folder)
    if run.empty:
        return None
    title = f"{rows.about_data(run)}, " + "{variant}, recipe {recipe}, seed {seed}".format(**run.iloc[0])
    x, y = "characters trained on, millions", "loss on dev people's places, nats per character"
    lengths = dict(list(run.groupby("epochs")))
    figure, panel = panels([f"{epochs:.0f} epochs" for epochs in lengths], x, y, title)
    for axes, trained in zip(panel, lengths.values(), strict=True):
        for change, epochs in trained.groupby("change"):
            axes.plot(epochs["tokens"] / 1e6, epochs["place_loss"], marker="o", label=change or "as it is")
    axes.set_ylim(0, 1.05 * run["place_loss"].max())
    if run["change"].nunique() > 1:
        legend(figure)
    return figure


def positions(folder: Path) -> Figure | None:
    """The loss by position, a line for each kind of positions, with the 95 % band over seeds."""
    found = experiment_tables.select_positions(folder)
    if found.empty:
        return None
    title = f"{rows.about_data(found)}; mean of {found['seed'].nunique()} seeds, 95 % band"
    figure, (axes,) = panels([""], "position in the window", "loss, nats per character", title, 3.2)
    longest = found["last"].max()
    for kind, dashes in zip(grouped(found, "positions"), ("-", "--", "-", ":"), strict=False):
        ranges = kind.groupby(["first", "last"])["loss"]
        mean, band = ranges.mean(), [tables.student(seeds.tolist()) for _, seeds in ranges]
        x, end = mean.index.to_frame().mean(axis=1), kind["last"].max()  # the middle of each range
        name = kind["positions"].iloc[0]
        label = "no positions" if name == "none" else name + (f" (end at {end})" if end < longest else "")
        (line,) = axes.plot(x, mean, dashes, linewidth=2, label=label)
        axes.fill_between(x, *zip(*band, strict=True), color=line.get_color(), alpha=0.18, linewidth=0)
    trained = found[found["positions"] == "learned"]["last"].max()
    axes.axvline(trained + 0.5, color="black", linewidth=1)
    axes.text(trained - 3, axes.get_ylim()[1], "trained\nup to here", ha="right", va="top")
    axes.set_xlim(1, longest)
    legend(figure)
    return figure


def analysis(folder: Path, data: str | None = None) -> Figure | None:
    """Two panels: the share right by confidence, and by how many questions are answered."""
    asked = experiment_tables.read_analysis(folder, "analysis_questions")
    asked = asked[asked["data"] == data] if data else asked
    if asked.empty:
        return None
    run = ["data", "recipe", "seed"]
    first = asked[(asked[run] == asked[run].iloc[0]).all(axis=1)]
    figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    calibrated, covered = figure.subplots(2, 1)
    shares = range(5, 101, 5)
    for (name, answers), marker in zip(first.groupby("model", sort=False), "os", strict=False):
        style = {"marker": marker, "linestyle": "-"}
        points = pd.DataFrame(bins(answers["confidence"].to_numpy(), answers["right"].to_numpy()))
        intervals(calibrated, 100 * points["confidence"], points["right"] / points["n"], points["n"], **style)
        right = [100 * experiment_tables.surest_answers(answers, share)["right"].mean() for share in shares]
        covered.plot(shares, right, label=name, **style)
    calibrated.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="confidence = accuracy")
    reference(covered, 90, "90 %")
    calibrated.set(title="calibration: the answers in ten parts, by confidence", xlabel="mean confidence of a part, %")
    covered.set(title="abstention: only the surest are answered", xlabel="questions answered, %")
    for axes, label in ((calibrated, "correct, % (95 % interval)"), (covered, "correct among these, %")):
        axes.set(xlim=(0, 102), ylim=(0, 104), ylabel=label)
    figure.suptitle("{}, recipe {recipe}, seed {seed:.0f}".format(rows.about_data(first), **first.iloc[0]))
    legend(figure)
    return figure


# ---------------------------------------------------------------- figures for the report

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


def sinusoids() -> Figure:
    """The embedding of part 1(b) as a map, and how far positions lie from the first one."""
    values = embeddings(1001, 256).numpy()  # (positions, features)
    pairs = values.reshape(1001, 128, 2)  # (positions, pairs, sine and cosine)
    figure = Figure(figsize=(6.46, 2.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    figure.colorbar(left.imshow(values[:128], aspect="auto", cmap="RdBu", vmin=-1, vmax=1, rasterized=True), ax=left)
    left.grid(visible=False)
    left.set(xlabel="feature", ylabel="position t")
    for count, colour, name, height in ((1, RED, "first pair", 2e-5), (128, BLUE, "all pairs", 4.5)):
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
        note(axes, variant, (at["step"], at["loss"]), shift, fontsize=10, color=colour, ha=side)
    axes.set(xlabel="step of pretraining", ylabel="loss, nats per character", ylim=(0, None))
    return figure


# ---------------------------------------------------------------- all of the results

FIGURES = (ablation, curve, learning, exposures, positions, analysis)


def draw(folder: Path, data: str = "own", recipe: str = MAIN_RECIPE) -> None:
    """Draw every figure that the rows of a folder suffice for; accuracy and sensitivity are about `data`."""
    save(accuracy(folder, data, recipe), folder / "accuracy.png")
    for make in FIGURES:
        save(make(folder), folder / f"{make.__name__}.png")
    save(sensitivity(folder, data), folder / "sensitivity.png")

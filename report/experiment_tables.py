"""Tables of the experiments, made from their rows: one function a table, as in tables.py."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from engine.recipes import MAIN_RECIPE
from report import rows
from report.tables import COLUMNS, MEASURED, SEEDS, grouped, machine, percent, student, table

# Losses of the handout's recipe in the public logs of two students (the course's data), each a mean over 230 steps.
STEPS = (115, 460, 1150, 2300, 4600, 9200, 13800, 14949)
STUDENTS = {
    "rope": ((2.74, 2.10, 1.40, 1.06, 0.82, 0.58, 0.48, 0.475), (2.75, 2.16, 1.47, 1.06, 0.83, 0.59, 0.49, 0.486)),
    "vanilla": ((2.92, 2.55, 2.24, 1.48, 0.94, 0.62, 0.50, 0.494), (2.95, 2.59, 2.36, 1.53, 0.98, 0.66, 0.53, 0.525)),
}
TIMES_ASKED = (0, 1, 4, 8, 12, 16, 20, 25, 30, 40, 60, 100, 200, math.inf)  # limits of the ranges
POSITIONS = ((33, 64), (65, 128), (129, 192), (193, 256))  # ranges, counted from 1


# ---------------------------------------------------------------- the recipes


def changed_recipes(name: str, folder: Path) -> pd.DataFrame:
    """The rows of curve or ablation, those of one run one after the other."""
    run = [key for key in rows.KEYS[name] if key not in ("seed", "hardware", "precision")]
    found = rows.read(name, folder).sort_values([*run, "seed"])
    return found.reindex(columns=[*found.columns, *(column for column in MEASURED if column not in found)])


def curve(folder: Path) -> pd.DataFrame:
    """The recipes at other lengths of pretraining."""
    run = ("data", "variant", "recipe", "epochs")
    return _recipes(changed_recipes("curve", folder), run)


def ablation(folder: Path) -> pd.DataFrame:
    """A recipe with one choice changed at a time."""
    run = ("data", "variant", "recipe", "epochs", "change")
    return _recipes(changed_recipes("ablation", folder), run)


def _recipes(found: pd.DataFrame, run: tuple[str, ...]) -> pd.DataFrame:
    """A line for all seeds of a run on one machine."""
    return table(
        grouped(found, *run, "hardware", "precision"), (*run, *SEEDS, "minutes (plain step)", "loss", "hardware")
    )


def exposure_bins(folder: Path) -> pd.DataFrame:
    """Ranges of how often the pretraining asked for a place, all seeds of a run together, and how many were right."""
    found = rows.read("exposures", folder)
    if found.empty:
        return found
    found["range"] = pd.cut(found["times"], TIMES_ASKED, right=False)
    found["all_times"] = found["times"] * found["n"]
    run = [*rows.RUN[:-1], "epochs"]
    bins = found.groupby([*run, "range"], observed=True, as_index=False).agg(
        first=("times", "min"),
        last=("times", "max"),
        all_times=("all_times", "sum"),
        n=("n", "sum"),
        right=("right", "sum"),
    )
    return bins.assign(mean=bins["all_times"] / bins["n"], share=bins["right"] / bins["n"])


def exposures(folder: Path) -> pd.DataFrame:
    """Right answers by how often the pretraining asked for the place."""
    lines = []
    for part in exposure_bins(folder).itertuples():
        times = f"{part.first}" if part.first == part.last else f"{part.first} to {part.last}"
        run = [part.data, part.variant, part.recipe, part.epochs]
        lines.append([*run, times, part.n, percent(part.share, part.n)])
    heads = ["data", "variant", "recipe", "epochs", "times asked", "questions", "right (95 %)"]
    return pd.DataFrame(lines, columns=heads)


def losses(folder: Path) -> pd.DataFrame:
    """Losses of the handout's recipe; in brackets the ratio to the mean of the two students."""
    found, lines = rows.read("losses", folder), []
    for variant, students in STUDENTS.items():
        public = dict(zip(STEPS, np.mean(students, axis=0), strict=True))
        lines += [[variant, f"student {i}", "course", "-", *values] for i, values in enumerate(students, 1)]
        for run in grouped(found[found["variant"] == variant], *rows.TRAINED):
            mine = dict(zip(run["step"], run["loss"], strict=True))
            cells = [f"{mine[n]:.3f} ({mine[n] / public[n]:.2f})" if n in mine else "-" for n in STEPS]
            lines.append([variant, f"ours, seed {run['seed'].iloc[0]}", run["data"].iloc[0], machine(run), *cells])
    return pd.DataFrame(lines, columns=["variant", "whose", "data", "hardware", *map(str, STEPS)])


def positions(folder: Path) -> pd.DataFrame:
    """Mean loss by ranges of positions, and how much higher the last is than the first, within a seed."""
    lines = []
    for kind in grouped(select_positions(folder), "positions"):
        means = pd.DataFrame(
            {
                f"{first} to {last}": kind[(kind["first"] >= first) & (kind["last"] <= last)]
                .groupby("seed")["loss"]
                .mean()
                for first, last in POSITIONS
            }
        )
        means["rise"] = means.iloc[:, -1] - means.iloc[:, 0]
        seeds = kind.drop_duplicates("seed")
        told = {"positions": kind["positions"].iloc[0], "seeds": COLUMNS["seeds"](seeds)}
        told |= {name: _over_models(means[name].dropna().tolist()) for name in means}
        lines.append(told | {"minutes": COLUMNS["minutes"](seeds), "hardware": machine(seeds)})
    return pd.DataFrame(lines)


def select_positions(folder: Path) -> pd.DataFrame:
    """The rows of positions that can be compared: of one corpus and setting, and one machine."""
    found = [rows.select(group) for group in grouped(rows.read("positions", folder), "corpus", "settings")]
    found = max(found, key=len, default=rows.read("positions", folder))
    kinds = pd.Categorical(found["positions"], ["learned", "sinusoidal", "rope", "none"])
    return found.assign(positions=kinds).sort_values(["positions", "seed", "first"]) if len(found) else found


def _over_models(values: list[float]) -> str:
    """A mean over seeds with its interval, where there are several."""
    if not values:
        return "no such positions"
    low, high = student(values)
    return f"{np.mean(values):.2f}" + ("" if math.isnan(low) else f" ({low:.2f} to {high:.2f})")


# ---------------------------------------------------------------- the experiments on answers and on the machine


def _between(row: pd.Series, name: str, form: str = "{:.2f}", scale: float = 1.0) -> str:
    """A value with the interval that stands beside it (NAME, NAME_low, NAME_high); - for NaN."""
    values = [form.format(scale * row[column]) for column in (name, f"{name}_low", f"{name}_high")]
    return "-" if pd.isna(row[name]) else "{} ({} to {})".format(*values)


def by_chance(row: pd.Series, name: str) -> str:
    """The share expected by chance, with its 95 % range."""
    return f"{row[name]:.1%} ({100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f})"


def read_analysis(folder: Path, table: str = "analysis") -> pd.DataFrame:
    """A table of experiments/analysis.py, pretrained models alone, own data and the main recipe first."""
    found = rows.read(table, folder)
    found = found[~found["model"].str.contains("without")]
    order = {"own": found["data"] != "own", "main": found["recipe"] != MAIN_RECIPE}
    found = found.assign(**order).sort_values(["own", "data", "main", "seed"], kind="stable", ignore_index=True)
    return found.assign(told=[f"{r.model}; {r.data}, {r.recipe}, seed {r.seed}" for r in found.itertuples()])


def confidence(folder: Path) -> pd.DataFrame:
    """How far a model's confidence can be relied on."""
    surest, lines = read_analysis(folder, "analysis_coverage"), []
    for _, row in read_analysis(folder).iterrows():
        at = surest[surest["told"] == row["told"]].set_index("percent")
        line = {"model": row["told"], "right, dev (95 %)": percent(row["right"] / row["n"], row["n"])}
        line |= {
            "ECE": f"{row['ece']:.3f}",
            "Brier score": f"{row['brier']:.3f}",
            "AUROC (95 %)": _between(row, "auroc"),
        }
        for share in (25, 50, 75):
            line[f"right of the surest {share} %"] = percent(at["share"][share], at["n"][share])
        lines.append(line | {"answered at 90 % right": f"{row['coverage_at_90']:.0%}"})
    return pd.DataFrame(lines)


def kinds(folder: Path) -> pd.DataFrame:
    """Where right and wrong answers stand: in the person's own document, among the places of the training pairs."""
    lines = []
    for group in grouped(read_analysis(folder, "analysis_questions"), "told"):
        for right in (True, False):
            asked = group[group["right"] == right]
            line = {"model": group["told"].iloc[0], "dev answers": "right" if right else "wrong", "number": len(asked)}
            for where, in_document in (("in own line", True), ("not in it", False)):
                for place, in_train in (("train place", True), ("not one", False)):
                    fits = (asked["in_document"] == in_document) & (asked["in_train"] == in_train)
                    line[f"{where}, {place}"] = fits.sum()
            lines.append(line)
    return pd.DataFrame(lines)


def guesses(folder: Path) -> pd.DataFrame:
    """What is answered where nothing is known; a column a model."""
    made_up, invented = (read_analysis(folder, f"analysis_{name}") for name in ("made_up", "invented"))
    columns = {}
    for _, row in read_analysis(folder).iterrows():
        wrong = made_up[made_up["told"] == row["told"]]
        given = invented[invented["told"] == row["told"]]["answer"].value_counts(sort=False)
        given = given.sort_values(ascending=False, kind="stable").head(10)
        line = {
            "wrong dev answers given most (% of train)": ", ".join(
                f"{one.place} {one.n} ({100 * one.in_train:.1f})" for one in wrong.itertuples()
            ),
            "wrong dev answers that begin like the right one": _beside_chance(row, "first_letter"),
            "answers for invented names given most": ", ".join(f"{place} {n}" for place, n in given.items()),
            "answers for invented names that are train places": "{invented_in_train:.0f} of {invented_n:.0f}".format(
                **row
            ),
            "pairs of invented names of one language with the same answer": _beside_chance(row, "alike"),
        }
        for who in ("right", "wrong", "invented"):
            name = "invented names" if who == "invented" else who
            line[f"mean confidence (95 %), {name}"] = _between(row, f"confidence_{who}")
        line["AUROC (95 %) of the confidence, dev or invented name"] = _between(row, "known_or_invented")
        columns[row["told"]] = line
    return pd.DataFrame(columns).rename_axis("model").reset_index()


def _beside_chance(row: pd.Series, name: str) -> str:
    """A share, and the share expected by chance; - where there is none."""
    share = row[f"{name}_hits"] / row[f"{name}_n"]
    return "-" if pd.isna(share) else f"{share:.1%}, by chance {by_chance(row, f'{name}_chance')}"


def namesakes(folder: Path) -> pd.DataFrame:
    """Answers that are the birthplace of a train person of the same name."""
    heads = ["model", "people", "name shared", "number", "namesake's place (95 %)", "by chance (95 %)"]
    lines = [
        [*row[["told", "people", "same", "n"]], percent(row["hits"] / row["n"], row["n"]), by_chance(row, "chance")]
        for _, row in read_analysis(folder, "analysis_namesakes").iterrows()
    ]
    return pd.DataFrame(lines, columns=heads)


# ---------------------------------------------------------------- the machine


def robustness(folder: Path) -> pd.DataFrame:
    """What the programs survived."""
    found = rows.read("robustness", folder)
    told = [[f"`{row.command}`", f"{row.found} ({row.hardware})"] for row in found.itertuples()]
    return pd.DataFrame(told, columns=["command", "found"])


def speed(folder: Path) -> pd.DataFrame:
    """The plain computation against the quick one."""
    lines = []
    for row in rows.read("speed", folder).itertuples():
        where = f"{row.hardware}, torch {row.torch}"
        if row.what == "a step":
            times = [f"{row.plain_seconds:.3f} s", f"{row.quick_seconds:.3f} s"]
            lines.append([f"a step of {row.variant}, quick in {row.precision}", *times, row.ratio, where])
        if row.what == "a question":
            times = [f"{row.plain_seconds:.4f} s", f"{row.quick_seconds:.5f} s"]
            same = f"{row.characters:g} characters to answer ({row.identical:.0f} of {row.compared:.0f} the same)"
            lines.append([f"a question of {row.n:.0f}, {same}", *times, row.ratio, where])
    return pd.DataFrame(lines, columns=["what", "plain", "quick", "ratio", "hardware"])


def tricks(folder: Path) -> pd.DataFrame:
    """How much longer a step takes with one trick left out."""
    found = rows.read("speed", folder)
    found = found[found["what"] == "a step, one trick left out"].reindex(columns=["change", "ratio"])
    return found.set_axis(["a step of rope", "takes, of the quick one"], axis=1)


def start_up(folder: Path) -> pd.DataFrame:
    """Seconds and memory of the command line."""
    lines = []
    for row in rows.read("speed", folder).itertuples():
        if row.what.startswith("run.py"):
            measured = f"{row.seconds:g} s" if pd.isna(row.memory_mb) else f"{row.memory_mb:.0f} MB"
            lines.append([row.what, measured])
    return pd.DataFrame(lines, columns=["command", "takes at most"])


def processes(folder: Path) -> pd.DataFrame:
    """What several processes cost and bring."""
    lines = []
    for row in rows.read("processes", folder).itertuples():
        times = [f"{row.seconds:.2f} s", f"{row.tokens:,}", f"{row.memory_mb:,} MB", row.hardware]
        lines.append([row.size, f"{row.parameters:,}", row.processes, *times])
    heads = ["model", "parameters", "processes", "a step", "tokens/s", "memory in all", "hardware"]
    return pd.DataFrame(lines, columns=heads)


def beside(folder: Path) -> pd.DataFrame:
    """A step alone and beside a busy program, a column for each way to train."""
    found = rows.read("processes_beside", folder)
    if found.empty:
        return pd.DataFrame()
    found["a step of"] = found["recipe"] + np.where(found["busy"], ", beside a busy program", "")
    ways = found.pivot(index="a step of", columns="way", values="seconds").map("{:.2f} s".format)
    ways = ways.loc[found["a step of"].unique(), found["way"].unique()]
    return ways.rename_axis(columns=None).reset_index()


def proof(folder: Path) -> pd.DataFrame:
    """How far a training on several processes lies from one on one process."""
    found = rows.read("processes_proof", folder)
    if found.empty:
        return pd.DataFrame()
    apart = found.pivot(index="processes", columns="tensor", values="difference")
    apart = apart[["the loss", "all parameters", "the worst matrix"]].map("{:.1e}".format)
    return apart.rename_axis(columns=None).reset_index()


TABLES = {
    "curve": curve,
    "ablation": ablation,
    "exposures": exposures,
    "losses": losses,
    "positions": positions,
    "confidence": confidence,
    "kinds": kinds,
    "guesses": guesses,
    "namesakes": namesakes,
    "robustness": robustness,
    "speed": speed,
    "tricks": tricks,
    "start_up": start_up,
    "processes": processes,
    "beside": beside,
    "proof": proof,
}

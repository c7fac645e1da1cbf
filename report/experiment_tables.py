"""Tables of the experiments, made from their rows."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from engine.recipes import MAIN_RECIPE
from report import rows, tables
from report.tables import SEEDS, grouped, machine, percent, shown, table

# Losses of the handout's recipe in the public logs of two students (the course's data), each a mean over 230 steps.
STEPS = (115, 460, 1150, 2300, 4600, 9200, 13800, 14949)
STUDENTS = {
    "rope": ((2.74, 2.10, 1.40, 1.06, 0.82, 0.58, 0.48, 0.475), (2.75, 2.16, 1.47, 1.06, 0.83, 0.59, 0.49, 0.486)),
    "vanilla": ((2.92, 2.55, 2.24, 1.48, 0.94, 0.62, 0.50, 0.494), (2.95, 2.59, 2.36, 1.53, 0.98, 0.66, 0.53, 0.525)),
}


def lines(found: pd.DataFrame, heads: str, line: str) -> pd.DataFrame:
    """A line for each row; cells are divided by " | ", and those of `line` are formats such as "{seconds:.2f} s"."""
    made = [[cell.format(**row) for cell in line.split(" | ")] for row in found.to_dict("records")]
    return pd.DataFrame(made, columns=heads.split(" | "))


def percents(right: Iterable[float], n: Iterable[int]) -> list[str]:
    """Shares of right answers with their intervals."""
    return [percent(a / b, b) for a, b in zip(right, n, strict=True)]


# ---------------------------------------------------------------- the recipes


def ablation(folder: Path) -> pd.DataFrame:
    """Recipes with another number of epochs or another change: a line for all seeds of a run on one machine."""
    found = tables.read_pretrained(folder, changed=True)
    found["epochs"] = ["as it is" if pd.isna(epochs) else f"{epochs:.0f}" for epochs in found["epochs"]]
    found["change"] = found["change"].replace("", "-")
    run = ["data", "variant", "recipe", "epochs", "change"]
    columns = (*run, *SEEDS, "minutes (plain step)", "loss", "hardware")
    return table(grouped(found, *run, "hardware", "precision"), columns)


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


def select_positions(folder: Path) -> pd.DataFrame:
    """The rows of positions that can be compared: of one corpus and setting, and one machine."""
    found = [rows.select(group) for group in grouped(rows.read("positions", folder), "corpus", "settings")]
    found = max(found, key=len, default=rows.read("positions", folder))
    kinds = pd.Categorical(found["positions"], ["learned", "sinusoidal", "rope", "none"])
    return found.assign(positions=kinds).sort_values(["positions", "seed"], kind="stable")


def select_learning(folder: Path) -> pd.DataFrame:
    """The rows of learning that can be compared: of one seed on one machine; those with most rows."""
    found = rows.read("learning", folder)
    return max(grouped(found, *rows.TRAINED), key=len, default=found).sort_values("epoch")


# ---------------------------------------------------------------- answers


def read_analysis(folder: Path, table: str = "analysis") -> pd.DataFrame:
    """A table about the answers of pretrained models, own data and the main recipe first; `told` says which model."""
    found = rows.read(table, folder)
    found = found[~found["model"].str.contains("without")]
    order = {"own": found["data"] != "own", "main": found["recipe"] != MAIN_RECIPE}
    found = found.assign(**order).sort_values(["own", "data", "main", "seed"], kind="stable", ignore_index=True)
    return found.assign(told=[f"{r.model}; {r.data}, {r.recipe}, seed {r.seed}" for r in found.itertuples()])


def confidence(folder: Path) -> pd.DataFrame:
    """How far a model's confidence can be relied on."""
    found, asked = read_analysis(folder), read_analysis(folder, "analysis_questions")
    found["dev"] = percents(found["right"], found["n"])
    found["area"] = [
        shown(row.auroc, f"{row.auroc:.2f} ({row.auroc_low:.2f} to {row.auroc_high:.2f})") for row in found.itertuples()
    ]
    for share in (25, 50, 75):
        surest = [surest_answers(asked[asked["told"] == told], share)["right"] for told in found["told"]]
        found[f"of_{share}"] = percents([right.sum() for right in surest], [len(right) for right in surest])
    heads = "model | right, dev (95 %) | ECE | AUROC (95 %) | accuracy, surest 25 % | accuracy, surest 50 % | "
    heads += "accuracy, surest 75 % | coverage at 90 %"
    line = "{told} | {dev} | {ece:.3f} | {area} | {of_25} | {of_50} | {of_75} | {coverage_at_90:.0%}"
    return lines(found, heads, line)


def surest_answers(asked: pd.DataFrame, share: float) -> pd.DataFrame:
    """The rows of the answers with the most confidence, a share of all in per cent, at least one."""
    count = max(1, round(len(asked) * share / 100))
    return asked.sort_values("confidence", ascending=False, kind="stable").head(count)


def kinds(folder: Path) -> pd.DataFrame:
    """Where right and wrong answers stand: in the person's own document, among the places of the training pairs."""
    found = read_analysis(folder, "analysis_questions")
    right = np.where(found["right"], "right", "wrong")
    where = np.where(found["in_document"], "in document, ", "elsewhere, ")
    where = where + np.where(found["in_train"], "train place", "other place")
    columns = [f"{a}, {b}" for a in ("in document", "elsewhere") for b in ("train place", "other place")]
    counts = pd.crosstab([found["told"], right], where).reindex(columns=columns, fill_value=0)
    counts.insert(0, "number", counts.sum(axis=1))
    return counts.reset_index(names=["model", "dev answers"])


# ---------------------------------------------------------------- the machine


def robustness(folder: Path) -> pd.DataFrame:
    """Findings of the slow tests."""
    return lines(rows.read("robustness", folder), "command | found", "`{command}` | {found} ({hardware})")


def speed(folder: Path) -> pd.DataFrame:
    """A step and a question, computed plainly and as run.py does."""
    found = rows.read("speed", folder)
    kinds = {
        "a step": "a step of {variant}, quick in {precision} | {plain_seconds:.3f} s | {quick_seconds:.3f} s",
        "a question": "a question of {n:.0f}, {characters:g} characters to answer | {plain_seconds:.4f} s | "
        "{quick_seconds:.5f} s",
    }
    heads, end = "what | plain | quick | ratio | hardware", " | {ratio:g} | {hardware}, torch {torch}"
    return pd.concat([lines(found[found["what"] == what], heads, line + end) for what, line in kinds.items()])


def tricks(folder: Path) -> pd.DataFrame:
    """Time of a step of rope with one setting changed, relative to the quick step."""
    found = rows.read("speed", folder)
    found = found[found["what"].str.startswith("a step, one")]
    return lines(found, "a step of rope | time / quick step", "{change} | {ratio:g}")


def processes(folder: Path) -> pd.DataFrame:
    """Three sizes of model on one process and on two."""
    heads = "model | parameters | processes | a step | tokens/s | memory in all | hardware"
    line = "{size} | {parameters:,} | {processes} | {seconds:.2f} s | {tokens:,} | {memory_mb:,} MB | {hardware}"
    return lines(rows.read("processes", folder), heads, line)


def beside(folder: Path) -> pd.DataFrame:
    """A step of the handout's, alone and beside a busy program, a line for each way to train."""
    heads = "a step of the handout's, with | alone | beside a busy program | hardware"
    line = "{way} | {seconds:.2f} s | {seconds_beside:.2f} s | {hardware}"
    return lines(rows.read("processes_beside", folder), heads, line)

"""Tables of results, made from the rows: in Markdown for the pages, in LaTeX for the report, in HTML for index.html.

A table is a pandas table of texts, one function a table; `markdown`, `latex` and `html` render any of them. `fill` puts
tables between the marks <!-- NAME --> and <!-- /NAME --> of README.md and the other pages.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from engine.recipes import DEFAULT_RECIPE, MAIN_RECIPE, RECIPES
from engine.wordings import WORDINGS, wilson_interval
from modern_llm import LISTED
from report import rows
from utils import UserError, write_text

BARS = {"vanilla": 0.15, "rope": 0.30}  # the handout's, parts (f) and (g)
SCORED_ON = {"vanilla": "dev", "rope": "test"}  # the questions for which the handout sets them
# The models of the handout, in the order of its parts.
PRETRAINED = tuple(f"{variant}, pretrained" for variant in BARS)
REWORDED_4A = "rope, question reworded (4a)"
MODELS = ("vanilla without pretraining", "London for everyone", *PRETRAINED, REWORDED_4A)
ASKED = {"bare": "question alone", "instructed": "with instructions"}
SHARES = {"exact": "exact", "normalised": "place read"}  # right answers as they stand, and of places read from replies


# ---------------------------------------------------------------- rendering


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    cells = table.astype(str).replace(r"\|", r"\\|", regex=True)
    return cells.to_markdown(index=False, disable_numparse=True)


def html(table: pd.DataFrame) -> str:
    """A table in HTML; the first column names the rows."""
    text = table.astype(str).set_index(table.columns[0]).rename_axis(columns=table.columns[0]).rename_axis(index=None)
    return (
        text.to_html(border=0, justify="left")
        .replace("<th>", '<th scope="col">', len(table.columns))
        .replace("<th>", '<th scope="row">')
    )


# LaTeX's special characters; a row that begins with [ or * would be read as an option of the row before.
SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "*": "{*}"}
SPECIAL |= {"\n": " "} | {c: f"\\{c}" for c in "{}$&#%_"}
# What LaTeX's Latin fonts have.
LETTERS = {chr(i) for i in (*range(32, 127), *range(161, 383))} - set("\u00adĦħĸĿŀŉŦŧ") | set("–—‘’“”…")


def tex(text: str) -> str:
    """A text for LaTeX: special characters escaped; a letter that the fonts lack becomes U+ and its number."""
    known = "".join(c if c in LETTERS or c in SPECIAL else f"[U+{ord(c):04X}]" for c in text)
    return "".join(SPECIAL.get(c, c) for c in known)


def latex(table: pd.DataFrame, columns: str) -> str:
    """A table in LaTeX; `columns` are its alignments, for example "llr"."""
    return table.astype(str).map(tex).rename(columns=tex).to_latex(index=False, column_format=columns)


# ---------------------------------------------------------------- cells


def shown(value: float, form: str) -> str:
    """A number in a format; - for NaN."""
    return "-" if pd.isna(value) else form.format(value)


def percent(share: float, n: int) -> str:
    """A share with its 95 % interval, in per cent; - for NaN. (Of a mean over seeds the count need not be whole.)"""
    low, high = wilson_interval(share * n, n)
    return shown(share, f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})")


def student(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds (Student's t); NaN for one or two seeds, with which it says nothing."""
    if len(values) < 3:
        return math.nan, math.nan
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def machine(group: pd.DataFrame) -> str:
    """Hardware and precision of the rows."""
    return ", ".join(filter(None, group.iloc[0][["hardware", "precision"]])) or "-"


def bar(variant: str) -> str:
    """The handout's bar, with the questions that it is set for."""
    return f"{BARS[variant]:.0%} ({SCORED_ON[variant]})"


def has_bar(row: pd.Series) -> bool:
    """Whether the handout sets a bar for a model: it does for its own recipe alone."""
    return row["model"] in PRETRAINED and row["recipe"] == DEFAULT_RECIPE


# ---------------------------------------------------------------- a line for all seeds

TESTED = ["only_original", "only_reworded", "p_mcnemar"]  # by McNemar's test, of two wordings
MEASURED = ["dev", "n", "test", "test_n", "seconds", "tokens", "loss", "plain_step_seconds"]
SEEDS = ("seeds", "dev (95 %)", "95 % over seeds", "range")
IN_SHORT = ("model", "data", "recipe", "seeds", "dev (95 %)", "range", "test (95 %)", "bar", "seconds", "hardware")
IN_FULL = ("model", "data", "recipe", *SEEDS, "test (95 %)", "bar", "tokens", "minutes (plain step)", "hardware")


def summary(group: pd.DataFrame) -> dict[str, str]:
    """Summary of rows that differ only in seed and machine: means over the runs, other columns from the first row.

    All runs answer the same questions, so the interval of their mean share is that of one run. Times are those of one
    machine: the one with most runs, or else the latest.
    """
    first, mean, dev = group.iloc[0], group[MEASURED].mean(skipna=False), 100 * group["dev"]
    low, high = student(dev)
    timed = rows.select(group)
    seconds, plain = timed[["seconds", "plain_step_seconds"]].mean(skipna=False)
    minutes, step = shown(seconds / 60, "{:.1f}"), shown(plain, " ({:.2f} s)")
    is_trained = first["variant"] != "-"  # London for everyone is not
    return {
        **first.astype(str),
        "recipe": first["recipe"] if is_trained else "-",
        "seeds": " ".join(f"{seed:.0f}" for seed in group["seed"]) if is_trained else "-",
        "dev (95 %)": percent(mean["dev"], first["n"]),
        "95 % over seeds": shown(low, f"{max(0.0, low):.1f} to {min(100.0, high):.1f}"),
        "range": f"{dev.min():.1f} to {dev.max():.1f}" if len(dev) > 1 else "-",
        "test (95 %)": percent(mean["test"], first["test_n"]),
        "bar": bar(first["variant"]) if has_bar(first) else "-",
        "seconds": shown(seconds, "{:,.0f}"),
        "minutes": minutes,
        "minutes (plain step)": minutes + step.strip("-"),
        "tokens": shown(mean["tokens"], "{:,.0f}"),
        "loss": shown(mean["loss"], "{:.3f}"),
        "hardware": machine(timed),
    }


def table(groups: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """A line for each group of rows."""
    return pd.DataFrame(map(summary, groups), columns=list(columns))


def grouped(found: pd.DataFrame, *names: str) -> list[pd.DataFrame]:
    """Rows that agree in some columns, groups in order of their first row."""
    return [group for _, group in found.groupby(list(names), sort=False, observed=True)]


# ---------------------------------------------------------------- the models


def read_models(folder: Path, changed: bool = False) -> pd.DataFrame:
    """The rows of the handout's models by the recipes as they are, or by changed ones; own data first."""
    found = rows.read("accuracy", folder)
    found = found[(found["epochs"].notna() | (found["change"] != "")) == changed]
    columns = [*rows.KEYS["accuracy"], *MEASURED, "original", *TESTED, "parameters", *rows.PROVENANCE]
    found = found.reindex(columns=list(dict.fromkeys(columns)))
    found["model"] = pd.Categorical(found["model"], MODELS)
    own = found["data"] != "own"
    return found.assign(own=own).sort_values(["own", "data", "recipe", "model", "seed"], ignore_index=True)


def read_pretrained(folder: Path, changed: bool = False) -> pd.DataFrame:
    """The rows of `read_models` about pretrained models."""
    models = read_models(folder, changed)
    return models[models["model"].isin(PRETRAINED)]


def one_run(models: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of one run: those of the machine that has most of its models, and London, which is not trained."""
    for name, value in wanted.items():
        models = models[models[name] == value]
    is_trained = models["variant"] != "-"
    return models[~is_trained | models.index.isin(rows.select(models[is_trained]).index)]


def chosen(models: pd.DataFrame, **wanted: object) -> list[pd.DataFrame]:
    """The rows of each model that has any, all seeds on all machines; in the order of MODELS."""
    for name, value in wanted.items():
        models = models[models[name] == value]
    return [group for _, group in models.groupby("model", observed=True)]


def results(folder: Path) -> pd.DataFrame:
    """The handout's models by the main recipe on our own data, then the pretrained ones of other recipes and data."""
    pretrained = read_pretrained(folder)
    lines = chosen(read_models(folder), data="own", recipe=MAIN_RECIPE)
    for data, recipe in product(pretrained["data"].unique(), RECIPES):
        if (data, recipe) != ("own", MAIN_RECIPE):
            lines += chosen(pretrained, data=data, recipe=recipe)
    return table(lines, IN_SHORT)


def all_results(folder: Path) -> pd.DataFrame:
    """All rows, a line for all seeds of a model on one machine."""
    lines = grouped(read_models(folder), "model", "data", "recipe", "hardware", "precision")
    return table(lines, IN_FULL)


def by_seed(folder: Path) -> pd.DataFrame:
    """Accuracy on dev by the main recipe: a line for each model and machine, a column for each seed."""
    found = read_models(folder)
    found = found[(found["recipe"] == MAIN_RECIPE) & found["model"].isin([*PRETRAINED, REWORDED_4A])]
    line = ["own", "data", "model", "hardware", "precision"]
    shares = found.pivot_table(values="dev", index=line, columns="seed", observed=True)
    cells = shares.map(lambda share: shown(share, "{:.1%}")).reset_index()
    return cells.drop(columns=["own", "precision"]).rename(
        columns=lambda name: name if isinstance(name, str) else f"seed {name:.0f}"
    )


# ---------------------------------------------------------------- other wordings, and other models

PAIR = ["model", "data", "corpus", "prompt", "n"]  # what the rows of both wordings share


def by_wording(ours: pd.DataFrame) -> pd.DataFrame:
    """The rows of REWORDED_4A as those of LLMs are: a row a wording."""
    names = "our RoPE model (" + ours["recipe"] + ", seed " + ours["seed"].astype(str) + ")"
    ours = ours.assign(model=names, prompt="bare", reworded=ours["dev"])
    ours = ours[[*PAIR, "parameters", *TESTED, *WORDINGS]]
    return ours.melt([*PAIR, "parameters", *TESTED], var_name="template", value_name="exact")


def asked(folder: Path) -> list[pd.DataFrame]:
    """Both wordings of each model and way to ask it: ours (4a), then the LLMs (4b, 4c); own data first.

    Of each wording the shares right: `exact` of the answers as they stand, `normalised` of the places read from them.
    """
    models = read_models(folder)
    runs = pd.concat([models[:0], *map(one_run, grouped(models, "data", "recipe", "seed"))])
    ours = [by_wording(run) for run in grouped(runs[runs["model"] == REWORDED_4A], "data", "recipe", "seed")]
    llms = rows.read("modern_llm", folder).reindex(columns=[*PAIR, "parameters", *TESTED, *SHARES, "template"])
    pairs = [*ours, *grouped(llms, *PAIR)]
    pairs = [pair.set_index("template").reindex(columns=[*PAIR, "parameters", *TESTED, *SHARES]) for pair in pairs]
    return sorted(pairs, key=lambda pair: pair["data"].iloc[0] != "own")


def modern_llm(folder: Path) -> pd.DataFrame:
    """Original against reworded question for every model, then the handout's LLMs that were not asked."""
    heads = ["model", "parameters", "data", "asked"]
    heads += [f"{name}, {wording}" for name in SHARES.values() for wording in WORDINGS]
    heads += ["right in one wording only", "McNemar's p"]
    lines = []
    for pair in asked(folder):
        first, lost, won, p = pair.iloc[0], *pair[TESTED].bfill().iloc[0]
        shares = [percent(pair[kind].get(wording, math.nan), first["n"]) for kind in SHARES for wording in WORDINGS]
        told = [first["model"], f"{first['parameters']:,.0f}", first["data"], ASKED[first["prompt"]]]
        lines.append([*told, *shares, shown(p, f"{lost:.0f} : {won:.0f}"), shown(p, "{:.2g}")])
    have = {line[0].rpartition("/")[2] for line in lines}
    missing = [model for model in LISTED if model.rpartition("/")[2] not in have]
    lines += [[model, "-", "-", f"not run here: `make llm LLM={model}`", *"------"] for model in missing]
    return pd.DataFrame(lines, columns=heads)


# ---------------------------------------------------------------- pages


def fill(tables: dict[str, str]) -> None:
    """Put each table between its marks <!-- NAME --> and <!-- /NAME -->. UserError: no page has them."""
    left = set(tables)

    def filled(place: re.Match) -> str:
        left.discard(name := place[1])
        return f"<!-- {name} -->\n{tables[name]}\n<!-- /{name} -->" if name in tables else place[0]

    pages = [page for folder in (".", "docs", "experiments") for page in sorted((rows.ROOT / folder).glob("*.md"))]
    marks = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", re.DOTALL)
    texts = {page: marks.sub(filled, page.read_text(encoding="utf-8")) for page in pages}
    if left:
        name = min(left)
        raise UserError(f"no page has the marks <!-- {name} --> and <!-- /{name} -->; restore them from git")
    for page, text in texts.items():
        write_text(page, text)

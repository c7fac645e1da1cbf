"""Tables of results, made from the rows: in Markdown for the pages, in LaTeX for the report, in HTML for index.html.

    python report/tables.py [--results FOLDER]

writes results.md beside the rows; for results/ itself, instead, the tables between the marks <!-- NAME --> and
<!-- /NAME --> of README.md and the other pages. A table is a pandas table of texts, one function a table; `markdown`,
`latex` and `html` render any of them.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from engine.recipes import MAIN_RECIPE, RECIPES
from engine.wordings import ORIGINAL, REWORDED
from modern_llm import LISTED
from report import rows
from utils import UserError, cli, write_text

BARS = {"vanilla": 0.15, "rope": 0.30}  # the handout's, parts (f) and (g)
SCORED_ON = {"vanilla": "dev", "rope": "test"}  # the questions for which the handout sets them
# The models of the handout, in the order of its parts.
MODELS = (
    "vanilla without pretraining",
    "London for everyone",
    "vanilla, pretrained",
    "rope, pretrained",
    "rope, question reworded (4a)",
)
ASKED = {"bare": "question alone", "instructed": "with instructions"}
WORDINGS = {"original": ORIGINAL, "reworded": REWORDED}


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


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n questions (Wilson); for a mean over seeds, whose count need not be whole, the
    interval between those of the counts next to it."""
    counts = math.floor(share * n + 1e-9), math.ceil(share * n - 1e-9)
    ends = [stats.binomtest(count, int(n)).proportion_ci(method="wilson") for count in counts]
    low, high = (float(np.interp(share * n, counts, values)) for values in zip(*ends, strict=True))
    return low, high


def percent(share: float, n: int) -> str:
    """A share with its 95 % interval, in per cent; - for NaN."""
    return (
        "-" if pd.isna(share) else f"{share:.1%} " + "({:.1f} to {:.1f})".format(*(100 * x for x in wilson(share, n)))
    )


def student(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds (Student's t); NaN for a single seed."""
    if len(values) < 2:
        return math.nan, math.nan
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def machine(group: pd.DataFrame) -> str:
    """On what rows were made, and how matrix products were rounded."""
    return ", ".join(filter(None, group.iloc[0][["hardware", "precision"]])) or "-"


def bar(variant: str) -> str:
    """The handout's bar, with the questions that it is set for."""
    return f"{BARS[variant]:.0%} ({SCORED_ON[variant]})"


def _mean(name: str, form: str, scale: float = 1.0) -> Callable[[pd.DataFrame], str]:
    """The mean of a column over the seeds, formatted; - if a seed lacks it."""
    return lambda group: "-" if group[name].isna().any() else form.format(group[name].mean() * scale)


def _share(share: str, n: str) -> Callable[[pd.DataFrame], str]:
    """The mean of a share over the seeds. These answer the same questions: the interval is that of one run."""
    return lambda group: percent(group[share].mean(skipna=False), group[n].iloc[0])


def _over_seeds(group: pd.DataFrame) -> str:
    low, high = student(group["dev"].tolist())
    return "-" if math.isnan(low) else f"{100 * max(0.0, low):.1f} to {100 * min(1.0, high):.1f}"


def _range(group: pd.DataFrame) -> str:
    return "-" if len(group) == 1 else f"{100 * group['dev'].min():.1f} to {100 * group['dev'].max():.1f}"


def _minutes(group: pd.DataFrame) -> str:
    step = _mean("plain_step_seconds", " ({:.2f} s)")(group)
    return _mean("seconds", "{:.1f}", 1 / 60)(group) + ("" if step == "-" else step)


# What a line tells of the rows of a group, which differ in their seed alone.
COLUMNS: dict[str, Callable[[pd.DataFrame], str]] = {
    **{name: lambda group, name=name: str(group[name].iloc[0]) for name in ("model", "data", "variant", "recipe")},
    "epochs": lambda group: f"{group['epochs'].iloc[0]:.0f}",
    "change": lambda group: group["change"].iloc[0],
    "seeds": lambda group: " ".join(f"{seed:.0f}" for seed in group["seed"]),
    "dev (95 %)": _share("dev", "n"),
    "95 % over seeds": _over_seeds,
    "range": _range,
    "test (95 %)": _share("test", "test_n"),
    "bar": lambda group: "-" if group["bar"].isna().any() else bar(group["variant"].iloc[0]),
    "seconds": _mean("seconds", "{:,.0f}"),
    "minutes": _mean("seconds", "{:.1f}", 1 / 60),
    "tokens": lambda group: "-" if pd.isna(group["tokens"].iloc[0]) else f"{group['tokens'].iloc[0]:,.0f}",
    "minutes (plain step)": _minutes,
    "loss": _mean("loss", "{:.3f}"),
    "hardware": machine,
    "with today's settings": lambda group: (
        "-" if group["seconds"].isna().any() else f"{rows.is_current(group).sum()} of {len(group)}"
    ),
}
IN_SHORT = ("model", "data", "recipe", "seeds", "dev (95 %)", "test (95 %)", "bar", "seconds", "hardware")
SEEDS = ("seeds", "dev (95 %)", "95 % over seeds", "range")
IN_FULL = ("model", "data", "recipe", *SEEDS, "test (95 %)", "bar", "tokens", "minutes (plain step)", "hardware")
MEASURED = ["dev", "n", "test", "test_n", "seconds", "tokens", "loss", "plain_step_seconds", "bar"]


def table(groups: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """A line for each group of rows."""
    return pd.DataFrame([[COLUMNS[name](group) for name in columns] for group in groups], columns=list(columns))


def grouped(found: pd.DataFrame, *names: str) -> list[pd.DataFrame]:
    """Rows that agree in some columns, groups in order of their first row."""
    return [group for _, group in found.groupby(list(names), sort=False, observed=True)]


# ---------------------------------------------------------------- the models


def read_models(folder: Path) -> pd.DataFrame:
    """The rows of accuracy and controls, with the name of the model and the handout's bar; own data first."""
    controls, trained = rows.read("controls", folder), rows.read("accuracy", folder)
    controls["model"], trained["model"] = controls["what"], trained["variant"] + ", pretrained"
    trained["bar"] = trained["variant"].map(BARS)
    found = pd.concat([controls, trained]).reindex(columns=["model", *rows.RUN, *MEASURED, *rows.PROVENANCE])
    found["model"] = pd.Categorical(found["model"], MODELS)
    own = found["data"] != "own"
    return found.assign(own=own).sort_values(["own", "data", "recipe", "model", "seed"], ignore_index=True)


def chosen(models: pd.DataFrame, **wanted: object) -> list[pd.DataFrame]:
    """The rows of each model that has any, all seeds of one machine; in the order of MODELS."""
    found = [rows.select(group, **wanted) for _, group in models.groupby("model", observed=True)]
    return [group for group in found if len(group)]


def results(folder: Path) -> pd.DataFrame:
    """The handout's models by the main recipe on our own data, then the pretrained ones by each recipe on others'."""
    models = read_models(folder)
    others = models[models["bar"].notna()]
    lines = chosen(models, data="own", recipe=MAIN_RECIPE)
    for data in others["data"][others["data"] != "own"].unique():
        lines += [group for recipe in RECIPES for group in chosen(others, data=data, recipe=recipe)]
    return table(lines, IN_SHORT)


def all_results(folder: Path) -> pd.DataFrame:
    """All rows, a line for all seeds of a model on one machine."""
    lines = grouped(read_models(folder), "model", "data", "recipe", "hardware", "precision")
    return table(lines, (*IN_FULL, "with today's settings"))


# ---------------------------------------------------------------- other wordings, and other models


def compared(folder: Path) -> pd.DataFrame:
    """A row for each model and way to ask it, both wordings side by side: ours (4a), then the LLMs (4b, 4c).

    Returns:
        model, recipe and seed (of ours), data, corpus, prompt, n, parameters; exact_* and read_* with original and
        reworded: shares right as they stand, and of the place read; only_original, only_reworded, p_mcnemar.
    """
    ours = [rows.select(run) for run in grouped(rows.read("sensitivity", folder), "data", "recipe", "seed")]
    found = [run.iloc[[-1]] for run in ours]
    for run in found:
        name = f"our RoPE model ({run['recipe'].iloc[0]}, seed {run['seed'].iloc[0]})"
        run[["model", "prompt", "exact_original", "exact_reworded"]] = [[name, "bare", *run[[*WORDINGS]].iloc[0]]]
    llms = rows.read("modern_llm", folder)
    if len(llms):
        key = ["model", "data", "corpus", "prompt", "n", "parameters"]
        tested = ["only_original", "only_reworded", "p_mcnemar"]
        both = llms.rename(columns={"normalised": "read"}).pivot(
            index=key, columns="template", values=["exact", "read"]
        )
        both.columns = ["_".join(names) for names in both.columns]
        test = llms.reindex(columns=[*key, *tested, "template"]).query("template == 'reworded'")
        found.append(both.reset_index().merge(test, how="left").assign(recipe=""))
    columns = ["model", "recipe", "seed", "data", "corpus", "prompt", "n", "parameters"]
    columns += [f"{kind}_{wording}" for kind in ("exact", "read") for wording in WORDINGS]
    columns += ["only_original", "only_reworded", "p_mcnemar"]
    pairs = pd.concat(
        [pd.DataFrame(columns=columns), *(one.reindex(columns=columns) for one in found)], ignore_index=True
    )
    return pairs.sort_values("data", key=lambda data: data != "own", kind="stable", ignore_index=True)


def modern_llm(folder: Path) -> pd.DataFrame:
    """Original against reworded question for every model, then the handout's models that were not asked."""
    heads = ["model", "parameters", "data", "asked", "exact, original", "exact, reworded", "place read, original"]
    heads += ["place read, reworded", "right in one wording only", "McNemar's p"]
    pairs, lines = compared(folder), []
    for pair in pairs.itertuples():
        shares = (pair.exact_original, pair.exact_reworded, pair.read_original, pair.read_reworded)
        tested = ["-", "-"]
        if not pd.isna(pair.p_mcnemar):
            tested = [f"{pair.only_original:.0f} : {pair.only_reworded:.0f}", f"{pair.p_mcnemar:.2g}"]
        told = [pair.model, f"{pair.parameters:,.0f}", pair.data, ASKED[pair.prompt]]
        lines.append([*told, *(percent(share, pair.n) for share in shares), *tested])
    have = {model.rpartition("/")[2] for model in pairs["model"]}
    missing = [model for model in LISTED if model.rpartition("/")[2] not in have]
    lines += [[model, "-", "own", f"not run here: `make llm LLM={model}`", *"------"] for model in missing]
    return pd.DataFrame(lines, columns=heads)


# ---------------------------------------------------------------- pages


def write(folder: Path) -> None:
    """Write results.md beside the rows of a folder: all models, and the question in two wordings."""
    made = [markdown(table(folder)) for table in (all_results, modern_llm)]
    write_text(folder / "results.md", "\n\n".join(made) + "\n")


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


def main(argv: list[str] | None = None) -> int:
    """Write all tables anew."""
    parser = argparse.ArgumentParser(description="Write all tables from the rows of results.")
    text = "folder of the rows (default: results, whose tables go into README.md and the other pages)"
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help=text)
    folder = parser.parse_args(argv).results.resolve()
    if folder != rows.RESULTS:
        write(folder)
        return 0
    from report import experiment_tables

    tables = {"results": results, "all_results": all_results, "modern_llm": modern_llm} | experiment_tables.TABLES
    fill({name: markdown(make(folder)) for name, make in tables.items()})
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

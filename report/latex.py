"""The numbers, tables and figures of the written answers: what `make report` makes before LaTeX runs.

    python report/latex.py [--results FOLDER] [--data FOLDER] [--data_name NAME] [--recipe NAME] [--seed 0]

The words stand in report/report.tex. From the rows of one run come numbers.tex (a macro a number), the tables, and the
figures. A result that is missing is an error that names the command which makes it.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from engine.options import SIZE
from engine.recipes import MAIN_RECIPE, RECIPES
from engine.wordings import ORIGINAL, REWORDED
from modern_llm import LISTED, PROMPTS
from report import experiment_tables, figures, rows, tables
from report.tables import MODELS, latex, percent, tex
from utils import UserError, cli, fingerprint, read_text, write_text

# The macros' names of MODELS.
SHORT = dict(zip(MODELS, ("scratch", "london", "vanilla", "rope", "reworded"), strict=True))
BLOCK, WIDTH = SIZE["block_size"], SIZE["n_embd"]  # of the homework's model
SEARCHED = 100_000  # differences of positions
PHRASES = {"bornLines": "born", "birthplaceLines": "birthplace of"}  # counted in the documents
EXAMPLES = 3  # wrong answers that are shown


# ---------------------------------------------------------------- the rows of one run


@dataclass
class Run:
    """One run: data set, recipe and seed. The methods give its rows, or a UserError that says what makes them."""

    folder: Path  # of results
    data: Path  # folder of the data files
    name: str  # of the data
    recipe: str
    seed: int

    def missing(self, table: str, what: str, command: str) -> UserError:
        """The error for a missing row."""
        run = f"data {self.name}, recipe {self.recipe}, seed {self.seed}"
        return UserError(f"{self.folder / table}.csv: holds no row of {what} ({run}); `{command}` makes it")

    def command(self, target: str) -> str:
        """A command of make that adds rows of this run to this folder."""
        words = [target, f"RESULTS={self.folder}"]
        words += [f"DATA={self.data}"] if self.data.resolve() != rows.ROOT else []
        words += [f"DATA_NAME={self.name}"] if self.name != rows.data_name(self.data) else []
        return " ".join(["make", *words])

    def models(self) -> dict[str, pd.Series]:
        """A row for each of the handout's models."""
        found = tables.chosen(tables.read_models(self.folder), data=self.name, recipe=self.recipe, seed=self.seed)
        models = {group["model"].iloc[0]: group.iloc[0] for group in found}
        for model in MODELS:
            if model not in models:
                table = "accuracy" if "pretrained" in model else "controls"
                raise self.missing(table, model, f"{self.command('run')} RECIPE={self.recipe} SEED={self.seed}")
        corpus = fingerprint(read_text(self.data / "wiki.txt"))
        if any(row["corpus"] != corpus for row in models.values()):
            raise UserError(
                f"{self.folder}: its rows are about another corpus than {self.data / 'wiki.txt'}; name the folder of "
                f"theirs with DATA=..., or make new ones with `{self.command('run')} RECIPE={self.recipe}`"
            )
        return models

    def wording(self) -> pd.Series:
        """The row of our RoPE model in both wordings."""
        found = tables.compared(self.folder)
        found = found[(found["data"] == self.name) & (found["recipe"] == self.recipe) & (found["seed"] == self.seed)]
        if found.empty:
            command = f"{self.command('run')} RECIPE={self.recipe} SEED={self.seed}"
            raise self.missing("sensitivity", "the reworded question", command)
        return found.iloc[0]

    def llm(self) -> dict[str, pd.Series]:
        """The rows of one LLM that was asked in both wordings, by the way it was asked.

        The handout's models come first, then the one with most parameters.
        """
        found = tables.compared(self.folder)
        found = found[(found["data"] == self.name) & (found["recipe"] == "") & found["p_mcnemar"].notna()]
        found = found[found.groupby(["model", "n"])["prompt"].transform("nunique") == len(PROMPTS)]
        if found.empty:
            raise self.missing("modern_llm", "an LLM asked in both wordings and both ways", self.command("llm"))
        listed = found["model"].isin(LISTED)
        best = found.assign(listed=listed).sort_values(["listed", "parameters", "n"], ascending=False)
        best = best[(best["model"] == best["model"].iloc[0]) & (best["n"] == best["n"].iloc[0])]
        return {row["prompt"]: row for _, row in best.iterrows()}

    def analysis(self, table: str = "analysis") -> pd.DataFrame:
        """The rows of a table of experiments/analysis.py about the vanilla model."""
        found = rows.select(
            rows.read(table, self.folder), data=self.name, recipe=self.recipe, seed=self.seed, model=MODELS[2]
        )
        if found.empty:
            command = (
                f"python experiments/analysis.py --results {self.folder} --data {self.data} --data_name {self.name}"
            )
            raise self.missing(table, MODELS[2], command)
        return found


def find_run(args: argparse.Namespace) -> Run:
    """The run that is meant: what the flags leave open is the data's own name and the main recipe, or what there is."""
    models = tables.read_models(args.results)
    models = models[models["bar"].notna() & (models["seed"] == args.seed)]
    for name, value in (("data", args.data_name), ("recipe", args.recipe)):
        models = models[models[name] == value] if value else models
    runs = list(models[["data", "recipe"]].drop_duplicates().itertuples(index=False, name=None))
    usual = (args.data_name or rows.data_name(args.data), args.recipe or MAIN_RECIPE)
    if len(runs) > 1 and usual not in runs:
        told = "; ".join(f"DATA_NAME={data} RECIPE={recipe}" for data, recipe in runs)
        raise UserError(f"{args.results / 'accuracy.csv'}: holds several runs; say which one is meant: {told}")
    name, recipe = runs[0] if len(runs) == 1 else usual
    return Run(args.results, args.data, name, recipe, args.seed)


# ---------------------------------------------------------------- numbers.tex


def per_cent(share: float) -> str:
    """A share in per cent, for LaTeX; -- where it is unknown."""
    return "--" if pd.isna(share) else tex(f"{share:.1%}")


def points(difference: float) -> str:
    """The size of a difference of shares, in percentage points."""
    return f"{100 * abs(difference):.1f}"


def p_value(p: float) -> str:
    """A p-value as a LaTeX formula, with its relation: "= 0.42", "= 1.1 x 10^-63"."""
    mantissa, _, exponent = f"{p:.1e}".partition("e")
    return rf"\ensuremath{{={p:.2g}}}" if p >= 0.001 else rf"\ensuremath{{={mantissa}\times10^{{{int(exponent)}}}}}"


def numbers(run: Run) -> dict[str, str]:
    """All macros, by their names."""
    return accuracies(run) | wordings(run) | confidence(run) | strategy(run) | positions() | texts(run)


def accuracies(run: Run) -> dict[str, str]:
    """Part 2."""
    models, macros = run.models(), {}
    for model, name in SHORT.items():
        row = models[model]
        macros[f"{name}Dev"] = per_cent(row["dev"])
        macros[f"{name}Count"] = f"{round(row['dev'] * row['n'])} of {row['n']:.0f}"
        if not pd.isna(row["bar"]):
            macros |= {f"{name}Test": per_cent(row["test"]), f"{name}Bar": tex(f"{row['bar']:.0%}")}
    rope, vanilla = models["rope, pretrained"], models["vanilla, pretrained"]
    return macros | {
        "ropeLead": points(rope["dev"] - vanilla["dev"]),
        "dataName": {"own": "project's own", "course": "course's"}.get(run.name, f"``{tex(run.name)}''"),
        "recipe": tex(run.recipe),
        "recipeAbout": tex(RECIPES[run.recipe].about if run.recipe in RECIPES else "another recipe"),
        "seed": str(run.seed),
        "hardware": tex(", ".join(rope[["hardware", "precision"]])),
        "devQuestions": f"{rope['n']:.0f}",
    }


def wordings(run: Run) -> dict[str, str]:
    """Part 4."""
    ours, llm = run.wording(), run.llm()
    bare, told = llm["bare"], llm["instructed"]
    macros = {
        "originalWording": tex(ORIGINAL.replace("NAME", "…")),
        "rewordedWording": tex(REWORDED.replace("NAME", "…")),
        "lostCount": f"{ours['only_original']:.0f}",
        "wonCount": f"{ours['only_reworded']:.0f}",
        "pValue": p_value(ours["p_mcnemar"]),
        "parameters": f"{ours['parameters']:,.0f}",
        "llmName": rf"\code{{{tex(bare['model'])}}}",
        "llmParameters": f"{bare['parameters']:,.0f}",
        "instructions": tex(PROMPTS["instructed"].replace("{question}", ORIGINAL.replace("NAME", "…"))),
        "llmChange": points(told["read_reworded"] - told["read_original"]),
        "ropeChange": points(ours["exact_reworded"] - ours["exact_original"]),
    }
    for wording in tables.WORDINGS:
        macros[f"bare{wording.title()}Exact"] = per_cent(bare[f"exact_{wording}"])
        macros[f"bare{wording.title()}Read"] = per_cent(bare[f"read_{wording}"])
        macros[f"instructed{wording.title()}Read"] = per_cent(told[f"read_{wording}"])
    return macros


def confidence(run: Run) -> dict[str, str]:
    """Part 3(b), about the vanilla model."""
    row, questions = run.analysis().iloc[0], run.analysis("analysis_questions")
    wrong, coverage = questions[~questions["right"]], run.analysis("analysis_coverage").set_index("percent")
    half, share = int(coverage["n"][50]), coverage["share"][50]
    return {
        "vanillaWrong": str(len(wrong)),
        "inTrainWrong": str(wrong["in_train"].sum()),
        "auroc": "--" if pd.isna(row["auroc"]) else f"{row['auroc']:.2f}",
        "surestHalf": f"{round(share * half)} of {half}",
        "surestHalfShare": per_cent(share),
        "coverageAtNinety": tex(f"{row['coverage_at_90']:.0%}"),
    }


def strategy(run: Run) -> dict[str, str]:
    """Part 3(c), about the vanilla model."""
    row, namesakes = run.analysis().iloc[0], run.analysis("analysis_namesakes")
    places = run.analysis("analysis_invented")["answer"].value_counts().head(3)
    mixed = namesakes[(namesakes["people"] == "mixed") & (namesakes["same"] == "surname")].iloc[0]
    return {
        "inventedCount": f"{row['invented_n']:.0f}",
        "inventedInTrain": per_cent(row["invented_in_train"] / row["invented_n"]),
        "inventedPlaces": tex(", ".join(f"{place} ({n})" for place, n in places.items())),
        "alike": per_cent(row["alike_hits"] / row["alike_n"]),
        "alikeByChance": tex(experiment_tables.by_chance(row, "alike_chance")),
        "mixedCount": f"{mixed['n']:.0f}",
        "mixedShare": tex(percent(mixed["hits"] / mixed["n"], mixed["n"])),
        "mixedByChance": tex(experiment_tables.by_chance(mixed, "chance")),
    }


def texts(run: Run) -> dict[str, str]:
    """What the data files hold, and the size of the model."""
    documents = [line for line in read_text(run.data / "wiki.txt").split("\n") if line.strip()]
    counts = {name: sum(words in line for line in documents) for name, words in PHRASES.items()}
    counts |= {"documents": len(documents)}
    counts |= {"pairs": len(read_text(run.data / "birth_places_train.tsv").rstrip("\n").split("\n"))}
    return {name: f"{count:,}" for name, count in counts.items()} | {"block": str(BLOCK), "width": str(WIDTH)}


# ---------------------------------------------------------------- part 1(b): the sinusoidal embedding


def angles(length: int, dim: int) -> np.ndarray:
    """The angle t 10000^(-2i/dim) of pair i at position t, (length, dim/2)."""
    return np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, dim, 2) / dim)


def distances(length: int, dim: int) -> np.ndarray:
    """How far Phi_t lies from Phi_0, and so Phi_{s+t} from Phi_s for every s: a chord of 2 |sin(angle/2)| a pair.

    Returns:
        (length, dim/2): of t = 0 .. length - 1, the distance of the first 1, 2, ... dim/2 pairs.
    """
    return np.sqrt(np.cumsum((2 * np.sin(angles(length, dim) / 2)) ** 2, axis=1))


def positions() -> dict[str, str]:
    """Macros: how near two positions come, up to a difference of SEARCHED."""
    apart = distances(SEARCHED + 1, WIDTH)[1:]
    nearest = int(apart[:, 0].argmin())
    return {
        "searchedUpTo": f"{SEARCHED:,}",
        "nearestShift": str(nearest + 1),
        "nearestTurns": str(round((nearest + 1) / (2 * np.pi))),
        "nearestFirst": f"{apart[nearest, 0]:.6f}",
        "nearestWhole": f"{apart[nearest, -1]:.1f}",
        "leastWhole": f"{apart[:, -1].min():.1f}",
    }


# ---------------------------------------------------------------- tables


def accuracy_table(run: Run) -> str:
    """The handout's models."""
    models = [row.to_frame().T for row in run.models().values()]
    return latex(tables.table(models, ("model", "dev (95 %)", "test (95 %)", "bar", "minutes")), "lllrr")


def other_table(run: Run) -> str:
    """Pretrained models by other recipes or on other data."""
    models = tables.read_models(run.folder)
    others = models[models["bar"].notna() & ((models["data"] != run.name) | (models["recipe"] != run.recipe))]
    groups = tables.grouped(others, "model", "data", "recipe", "hardware", "precision")
    return latex(
        tables.table(groups, ("model", "data", "recipe", "seeds", "dev (95 %)", "range", "hardware")), "lllllll"
    )


def example_table(run: Run) -> str:
    """The most confident wrong answers of the vanilla model, each with the right one that is as confident as it."""
    questions = run.analysis("analysis_questions").sort_values("confidence", ascending=False, kind="stable")
    right, shown = questions[questions["right"]], []
    for _, one in questions[~questions["right"]].head(EXAMPLES).iterrows():
        nearest = (right["confidence"] - one["confidence"]).abs().sort_values(kind="stable").index[:1]
        shown += [one.to_frame().T, right.loc[nearest]]
        right = right.drop(nearest)
    lines = [
        [one.name_, one.answer, one.truth, f"{one.confidence:.2f}", "right" if one.right else "wrong"]
        for one in pd.concat(shown).rename(columns={"name": "name_"}).itertuples()
    ]
    return latex(pd.DataFrame(lines, columns=["person", "answer", "birthplace", "confidence", ""]), "lllrl")


def llm_table(run: Run) -> str:
    """Our models and the LLMs, both wordings."""
    found = tables.modern_llm(run.folder)
    found = found[(found["data"] == run.name) & (found["parameters"] != "-")]
    return latex(found.drop(columns=["parameters", "data"]), "llllllll")


# ---------------------------------------------------------------- all of it


def corruption(data: Path) -> str:
    """What the program of part (e) prints."""
    command = ["src/dataset.py", "charcorruption", "--pretrain_corpus_path", str((data / "wiki.txt").resolve())]
    place = {"cwd": rows.ROOT, "env": os.environ | {"PYTHONUTF8": "1"}}
    done = subprocess.run([sys.executable, *command], **place, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    return "$ python src/dataset.py charcorruption\n" + done.stdout.rstrip() + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write everything that report/report.tex reads."""
    parser = argparse.ArgumentParser(description="Write the numbers, tables and figures of the report.")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    parser.add_argument("--data", type=Path, default=rows.ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--data_name", help="name of the data in the rows (default: own, or other)")
    parser.add_argument("--recipe", help=f"of which recipe (default: {MAIN_RECIPE}, or the only one)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=rows.ROOT / "expt" / "report", help="default: expt/report")
    args = parser.parse_args(argv)
    run = find_run(args)
    written = {"accuracy": accuracy_table, "others": other_table, "llm": llm_table, "examples": example_table}
    written = {name: table(run) for name, table in written.items()}
    written["numbers"] = "".join(f"\\newcommand{{\\{name}}}{{{value}}}\n" for name, value in numbers(run).items())
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        write_text(args.out / f"{name}.tex", text)
    figures.save(figures.console(corruption(args.data)), args.out / "corruption.pdf")
    figures.save(figures.sinusoids(angles(BLOCK, WIDTH), distances(1001, WIDTH)), args.out / "sinusoids.pdf")
    print(f"{args.out}: data {run.name}, recipe {run.recipe}, seed {run.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

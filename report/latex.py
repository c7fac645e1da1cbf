"""The numbers, tables and figures of the written answers: what `make report` makes before LaTeX runs.

    python report/latex.py [--results FOLDER] [--data FOLDER] [--data_name NAME] [--recipe NAME] [--seed 0]

The words stand in report/report.tex. From the rows of one run come numbers.tex (a macro a number), the tables, and the
figures. A result that is missing is an error that names the command which makes it.
"""

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from engine.recipes import MAIN_RECIPE, RECIPES
from engine.wordings import ORIGINAL, REWORDED
from modern_llm import LISTED, PROMPTS
from report import experiment_tables, figures, rows, tables
from report.tables import MODELS, latex, percent, tex
from utils import UserError, cli, fingerprint, read_text, write_text

# The macros' names of MODELS.
SHORT = dict(zip(MODELS, ("scratch", "london", "vanilla", "rope", "reworded"), strict=True))
PHRASES = {"bornLines": "born", "birthplaceLines": "birthplace of"}  # counted in the documents
EXAMPLES = 3  # wrong answers that are shown


# ---------------------------------------------------------------- the rows of one run


@dataclass
class Run:
    """One run: data set, recipe and seed, and where its rows and its data files are."""

    folder: Path
    data: Path
    name: str  # of the data
    recipe: str
    seed: int

    def missing(self, table: str, what: str, *command: str) -> UserError:
        """The error for a missing row, with the command that makes it."""
        if command[0] == "make":
            command = (*command, f"RESULTS={self.folder}", f"DATA={self.data}", f"DATA_NAME={self.name}")
        else:
            command = (*command, f"--results={self.folder}", f"--data={self.data}", f"--data_name={self.name}")
        run = f"data {self.name}, recipe {self.recipe}, seed {self.seed}"
        return UserError(f"{self.folder / table}.csv: holds no row of {what} ({run}); `{shlex.join(command)}` makes it")

    def of_run(self, found: pd.DataFrame, **more: str) -> pd.DataFrame:
        """The rows of a table that are about this run, of one machine."""
        return rows.select(found, data=self.name, recipe=self.recipe, seed=self.seed, **more)

    def models(self) -> dict[str, pd.Series]:
        """A row for each of the handout's models. UserError: one is missing, or they are about another corpus."""
        training = ("make", "run", f"RECIPE={self.recipe}", f"SEED={self.seed}")
        corpus, models = fingerprint(read_text(self.data / "wiki.txt")), {}
        every = tables.read_models(self.folder)
        for model in MODELS:
            found = self.of_run(every, model=model)
            if found.empty:
                raise self.missing("accuracy" if "pretrained" in model else "controls", model, *training)
            models[model] = found.iloc[0]
            if models[model]["corpus"] != corpus:
                raise UserError(
                    f"{self.folder}: its rows are about another corpus than {self.data / 'wiki.txt'}; name the folder "
                    f"of theirs with DATA=..., or train again: {shlex.join(training)}"
                )
        return models

    def wording(self) -> pd.Series:
        """The row of our RoPE model in both wordings."""
        found = self.of_run(tables.compared(self.folder).assign(hardware="", precision="", date=""))
        if found.empty:
            training = ("make", "run", f"RECIPE={self.recipe}", f"SEED={self.seed}")
            raise self.missing("sensitivity", "the reworded question", *training)
        return found.iloc[0]

    def llm(self) -> dict[str, pd.Series]:
        """The rows of one LLM that was asked in both wordings, by the way it was asked.

        The handout's models come first, then the one with most parameters.
        """
        found = tables.compared(self.folder)
        found = found[(found["data"] == self.name) & (found["recipe"] == "") & found["p_mcnemar"].notna()]
        found = found[found.groupby(["model", "n"])["prompt"].transform("nunique") == len(PROMPTS)]
        if found.empty:
            raise self.missing("modern_llm", "an LLM asked in both wordings and both ways", "make", "llm")
        best = found.assign(listed=found["model"].isin(LISTED))
        best = best.sort_values(["listed", "parameters", "model", "n"], ascending=False).head(len(PROMPTS))
        return {row["prompt"]: row for _, row in best.iterrows()}

    def answers(self, table: str = "analysis") -> pd.DataFrame:
        """The rows of a table about the vanilla model's answers."""
        found = self.of_run(rows.read(table, self.folder), model=MODELS[2])
        if found.empty:
            raise self.missing(table, MODELS[2], "python", "experiments/confidence.py")
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
    return accuracies(run) | wordings(run) | confidence(run) | strategy(run) | texts(run)


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
    row, questions = run.answers().iloc[0], run.answers("analysis_questions")
    wrong, coverage = questions[~questions["right"]], run.answers("analysis_coverage").set_index("percent")
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
    row, namesakes = run.answers().iloc[0], run.answers("analysis_namesakes")
    places = run.answers("analysis_invented")["answer"].value_counts().head(3)
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
    """What the data files hold."""
    documents = [line for line in read_text(run.data / "wiki.txt").split("\n") if line.strip()]
    counts = {name: sum(words in line for line in documents) for name, words in PHRASES.items()}
    counts |= {"documents": len(documents)}
    counts |= {"pairs": len(read_text(run.data / "birth_places_train.tsv").rstrip("\n").split("\n"))}
    return {name: f"{count:,}" for name, count in counts.items()}


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
    questions = run.answers("analysis_questions").sort_values("confidence", ascending=False)
    right, lines = questions[questions["right"]].set_index("confidence"), []
    for wrong in questions[~questions["right"]].head(EXAMPLES).to_dict("records"):
        lines.append([wrong["name"], wrong["answer"], wrong["truth"], f"{wrong['confidence']:.2f}", "wrong"])
        if len(right):
            nearest = abs(right.index - wrong["confidence"]).argmin()
            one = right.iloc[nearest]
            lines.append([one["name"], one["answer"], one["truth"], f"{right.index[nearest]:.2f}", "right"])
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
    figures.save(figures.sinusoids(), args.out / "sinusoids.pdf")
    print(f"{args.out}: data {run.name}, recipe {run.recipe}, seed {run.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""Writes the tables, the figures and index.html, a page of every dev question with the models' answers.

    python report/page.py [--results FOLDER] [--data FOLDER] [--data_name own] [--recipe fast]

draws the figures beside the rows and writes index.html; of results/, it also puts the tables into README.md and the
other pages. index.html is one file that loads nothing, made from report/page.html. The questions are those of
experiments/confidence.py. Opening a person shows the answer to the reworded question (make run), an LLM's replies (make
llm), and the person's document, if the corpus in the folder of data is the one that the models were trained on.
"""

import argparse
import base64
import io
import json
import re
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from engine.recipes import MAIN_RECIPE
from report import experiment_tables, figures, rows, tables
from utils import UserError, cli, fingerprint, read_text, write_text

# The tables that stand on pages, by the names of their marks.
TABLES: dict[str, Callable[[Path], pd.DataFrame]]
TABLES = {
    make.__name__: make
    for make in (
        tables.results,
        tables.all_results,
        tables.by_seed,
        tables.modern_llm,
        experiment_tables.ablation,
        experiment_tables.losses,
        experiment_tables.confidence,
        experiment_tables.kinds,
        experiment_tables.robustness,
        experiment_tables.speed,
        experiment_tables.tricks,
        experiment_tables.processes,
        experiment_tables.beside,
    )
}
COLUMNS = ("model", "seeds", "dev (95 %)", "test (95 %)", "bar", "seconds", "hardware")
ASKED = ("rope, pretrained", "vanilla, pretrained", "vanilla without pretraining")
# Figures of one data set, and their captions.
FIGURES: dict[Callable[..., Figure | None], str] = {
    figures.accuracy: "Correct answers of each model; for recipe handout, with the handout's bars in red.",
    figures.curve: "Correct answers by the amount of text that each recipe trains on.",
    figures.analysis: "Correct answers by confidence, and among the surest answers alone, if the model may abstain.",
    figures.sensitivity: "Correct answers to the original and to the reworded question, of our model and of LLMs.",
}


def shown(figure: Figure | None, text: str) -> str:
    """HTML: a figure inside the page, with its caption; nothing if there is none."""
    if figure is None:
        return ""
    figure.savefig(file := io.BytesIO(), format="png", metadata={"Software": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def questions(folder: Path, data: str, recipe: str) -> pd.DataFrame:
    """A row for each dev question and model, in order of ASKED, with the kind of answer. UserError: rows are missing.

    A right answer is retrieved if it stands in the person's document and the model has read that; a wrong one that
    stands there is misread, any other is made up.
    """
    found = rows.select(rows.read("analysis_questions", folder), data=data, recipe=recipe)
    found = found[(found["seed"] == found["seed"].min()) & found["model"].isin(ASKED)]
    asked = [one[["name", "truth"]].to_numpy().tolist() for one in tables.grouped(found, "model")]
    if len(asked) < len(ASKED) or any(one != asked[0] for one in asked):
        raise UserError(
            f"{folder / 'analysis_questions.csv'}: holds no three models that were asked the same questions "
            f"(data {data}, recipe {recipe}); `python experiments/confidence.py --results {folder}` makes its rows"
        )
    read = found["in_document"] & ~found["model"].str.contains("without")
    kinds = [found["right"] & read, found["right"], read]
    found["kind"] = np.select(kinds, ["retrieved", "not retrieved", "misread"], "made up")
    found["model"] = pd.Categorical(found["model"], ASKED)
    return found.sort_values("model", kind="stable")


def details(folder: Path, asked: pd.DataFrame, corpus: str) -> dict[str, list[tuple[str, str]]]:
    """By name what can be opened about a person: titles and texts."""
    first, found = asked.iloc[0], {name: [] for name in asked["name"]}
    if fingerprint(corpus) == first["corpus"]:
        for name, known in found.items():
            known += [("document", line) for line in corpus.split("\n") if line.startswith(f"{name}. ")]
    run = {name: first[name] for name in ("data", "corpus")}
    reworded = rows.select(
        rows.read("sensitivity_questions", folder), **run, recipe=first["recipe"], seed=first["seed"]
    )
    replies = rows.read("modern_llm_replies", folder)
    for row in reworded.itertuples():
        found.get(row.name, []).append(("rope, pretrained, reworded question", row.reworded_answer))
    for row in replies[(replies[[*run]] == pd.Series(run)).all(axis=1)].itertuples():
        title = f"{row.model}, {tables.ASKED[row.prompt]}, {row.template} question"
        found.get(row.name, []).append((title, row.reply))
    return found


def page(folder: Path, data_folder: Path, data: str = "own", recipe: str = MAIN_RECIPE) -> str:
    """The page of a folder of results. UserError: it lacks rows."""
    models = tables.chosen(tables.read_models(folder), data=data, recipe=recipe)
    if not models:
        raise UserError(f"{folder / 'accuracy.csv'}: no row of data {data}, recipe {recipe}; `make run` makes them")
    asked, corpus = questions(folder, data, recipe), read_text(data_folder / "wiki.txt")
    opened = details(folder, asked, corpus)
    people = [
        {"name": first["name"], "truth": first["truth"], "details": opened[first["name"]]}
        | {"answers": [{key: answer[key] for key in ("answer", "right", "confidence", "kind")} for answer in answers]}
        for answers in zip(*(one.to_dict("records") for one in tables.grouped(asked, "model")), strict=True)
        for first in answers[:1]
    ]
    found = json.dumps({"models": ASKED, "people": people}, ensure_ascii=False)
    wrong = asked[~asked["right"] & ~asked["model"].str.contains("without")]
    parts = {"table": tables.html(tables.table(models, COLUMNS)), "data": escape(data), "recipe": escape(recipe)}
    parts["seed"] = f"{asked['seed'].iloc[0]:.0f}"
    parts |= {"answers": found.replace("<", "\\u003c"), "wrong": len(wrong), "misread": sum(wrong["kind"] == "misread")}
    parts["figures"] = "\n".join(
        shown(make(folder, data, recipe) if make is figures.accuracy else make(folder, data), text)
        for make, text in FIGURES.items()
    )
    made, today, parts["version"] = asked["corpus"].iloc[0], fingerprint(corpus), ""
    if made != today:
        versions = f"{made[:7]}; today's is {today[:7]}"
        parts["version"] = (
            f"The answers are about an earlier version of the documents ({versions}); these are not shown."
        )
    template = read_text(Path(__file__).with_suffix(".html"))
    return re.sub(r"{{(\w+)}}", lambda part: str(parts[part[1]]), template)


def main(argv: list[str] | None = None) -> int:
    """Write all anew."""
    parser = argparse.ArgumentParser(description="Write tables, figures and index.html anew from the rows.")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    parser.add_argument("--data", type=Path, default=rows.ROOT, help="folder of the documents (default: the project)")
    parser.add_argument("--data_name", default="own", help="whose rows are shown (default: %(default)s)")
    parser.add_argument("--recipe", default=MAIN_RECIPE, help="whose models are shown (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.results.resolve() == rows.RESULTS:
        tables.fill({name: tables.markdown(make(rows.RESULTS)) for name, make in TABLES.items()})
    figures.draw(args.results, args.data_name, args.recipe)
    write_text(args.results / "index.html", page(args.results, args.data, args.data_name, args.recipe))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

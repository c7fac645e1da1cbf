"""One page of results for the browser: the table, the figures, every dev question with the models' answers.

    python report/page.py [--results FOLDER] [--data_name own] [--recipe fast]

writes index.html beside the rows and figures: one file that loads nothing, made from report/page.html. The questions
are those of experiments/confidence.py.
"""

import argparse
import base64
import json
import re
import sys
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from engine.recipes import MAIN_RECIPE
from report import rows, tables
from utils import UserError, cli, read_text, write_text

COLUMNS = ("model", "seeds", "dev (95 %)", "test (95 %)", "bar", "seconds", "hardware")
ASKED = ("rope, pretrained", "vanilla, pretrained", "vanilla without pretraining")
FIGURES = {
    "accuracy.png": "Accuracy of each model on dev, with 95 % intervals and the handout's bars.",
    "curve.png": "Accuracy on dev by minutes of training, for each recipe, on the data that the panels name.",
    "analysis.png": "Accuracy by confidence, and among the surest answers alone, if the model may abstain.",
}


def figure(path: Path) -> str:
    """HTML: a figure inside the page, with its caption."""
    data, text = base64.b64encode(path.read_bytes()).decode(), FIGURES[path.name]
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def answers(asked: pd.DataFrame) -> list[dict]:
    """A model's answers and what the page calls them. A model that has read no documents retrieves nothing."""
    retrieved = asked["in_document"] & ~asked["model"].str.contains("without")
    kind = np.select([~asked["right"], retrieved], ["made up", "retrieved"], "not retrieved")
    return asked[["answer", "right", "confidence"]].assign(kind=kind).to_dict("records")


def people(folder: Path, data: str, recipe: str) -> list[dict]:
    """Every person of dev with the answers of all models, in order of ASKED. UserError: rows are missing."""
    found = rows.read("analysis_questions", folder)
    found = rows.select(found, data=data, recipe=recipe)
    found = found[found["seed"] == found["seed"].min()]
    asked = [found[found["model"] == model] for model in ASKED]
    names = [list(zip(one["name"], one["truth"], strict=True)) for one in asked if len(one)]
    if len(names) < len(ASKED) or any(one != names[0] for one in names):
        raise UserError(
            f"{folder / 'analysis_questions.csv'}: holds no three models that were asked the same questions "
            f"(data {data}, recipe {recipe}); `python experiments/confidence.py --results {folder}` makes its rows"
        )
    told = zip(*map(answers, asked), strict=True)
    return [{"name": n, "truth": t, "answers": each} for (n, t), each in zip(names[0], told, strict=True)]


def page(folder: Path, data: str, recipe: str) -> str:
    """The page of a folder of results. UserError: it lacks rows."""
    models = tables.chosen(tables.read_models(folder), data=data, recipe=recipe)
    if not models:
        raise UserError(f"{folder / 'accuracy.csv'}: no row of data {data}, recipe {recipe}; `make run` makes them")
    found = json.dumps({"models": ASKED, "people": people(folder, data, recipe)}, ensure_ascii=False)
    parts = {"table": tables.html(tables.table(models, COLUMNS)), "data": escape(data), "recipe": escape(recipe)}
    parts["answers"] = found.replace("<", "\\u003c")
    parts["figures"] = "\n".join(figure(folder / name) for name in FIGURES if (folder / name).exists())
    template = read_text(Path(__file__).with_suffix(".html"))
    return re.sub(r"{{(\w+)}}", lambda part: parts[part[1]], template)


def main(argv: list[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write index.html, one page of results, from the rows.")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    parser.add_argument("--data_name", default="own", help="whose rows are shown (default: %(default)s)")
    parser.add_argument("--recipe", default=MAIN_RECIPE, help="whose models are shown (default: %(default)s)")
    args = parser.parse_args(argv)
    write_text(args.results / "index.html", page(args.results, args.data_name, args.recipe))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

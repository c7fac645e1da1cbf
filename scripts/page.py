"""One page of results for the browser: the table, the figures, every dev question with the models' answers.

    python scripts/page.py [--results FOLDER] [--recipe NAME]

Reads the rows of our own data, accuracy and controls (`make run`) and analysis (experiments/analysis.py), and the
figures beside them. Writes index.html there: one file that loads nothing, made from scripts/page.html.
"""

import argparse
import base64
import json
import re
import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import report  # noqa: E402
from engine.files import read_rows  # noqa: E402
from engine.recipes import MAIN_RECIPE  # noqa: E402
from utils import UserError, cli, read_text, write_text  # noqa: E402

COLUMNS = ("model", "seeds", "dev (95 %)", "test (95 %)", "bar", "seconds", "hardware")
ASKED = ("rope, pretrained", "vanilla, pretrained", "vanilla without pretraining")
FIGURES = {
    "accuracy.png": "Right dev answers of each model, with 95 % intervals and the handout's bars.",
    "curve.png": "Right dev answers by minutes of training, for each recipe, on the data that the panels name.",
    "analysis.png": "Right answers by confidence, and among the surest answers alone, if the model may stay silent.",
}


def results_table(models: list[list[dict]]) -> str:
    """HTML: a line for each model, given as the rows of its seeds."""
    lines = ["".join(f'<th scope="col">{head}</th>' for head in COLUMNS)]
    for rows in models:
        name, *cells = (escape(report.COLUMNS[head](rows)) for head in COLUMNS)
        lines.append(f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells))
    return "\n".join(f"<tr>{line}</tr>" for line in lines)


def figure(path: Path) -> str:
    """HTML: a picture inside the page, with its caption."""
    data, text = base64.b64encode(path.read_bytes()).decode(), FIGURES[path.name]
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def told(model: str, answer: dict) -> dict:
    """An answer and what the page calls it. A model that has read no documents retrieves nothing."""
    kind = "retrieved" if answer["in_document"] and "without" not in model else "not retrieved"
    kept = {key: answer[key] for key in ("answer", "right", "confidence")}
    return kept | {"kind": kind if answer["right"] else "made up"}


def questions(folder: Path, recipe: str) -> list[dict]:
    """Every person with the answers of all models, in order of ASKED. UserError: rows are missing or do not fit."""
    rows = [row for row in read_rows(folder) if (row.get("data"), row.get("recipe")) == ("own", recipe)]
    seed = min((row["seed"] for row in rows), default=None)
    asked = {row["model"]: row["questions"] for row in rows if row["seed"] == seed and "questions" in row}
    people = {tuple((q["name"], q["truth"]) for q in answers) for answers in asked.values()}
    if not set(ASKED) <= set(asked) or len(people) > 1:
        found = f"no three models that were asked the same questions, recipe {recipe}"
        raise UserError(f"{folder}: {found}; make the rows: python experiments/analysis.py")
    answers = zip(*([told(model, answer) for answer in asked[model]] for model in ASKED), strict=True)
    return [{"name": n, "truth": t, "answers": a} for (n, t), a in zip(*people, answers, strict=True)]


def page(folder: Path, recipe: str) -> str:
    """The page of a folder of results. UserError: it lacks rows."""
    models = report.chosen(report.read_models(folder), "own", recipe)
    if not any("bar" in rows[0] for rows in models):
        raise UserError(f"{folder / 'accuracy'}: no row of our own data, recipe {recipe}; train the models: make run")
    data = json.dumps({"models": ASKED, "people": questions(folder / "analysis", recipe)}, ensure_ascii=False)
    parts = {"table": results_table(models), "recipe": recipe, "data": data.replace("<", "\\u003c")}
    parts["figures"] = "\n".join(figure(folder / name) for name in FIGURES if (folder / name).exists())
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], read_text(Path(__file__).with_suffix(".html")))


def main(argv: list[str] | None = None) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Write index.html, one page of results, from the rows.")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the rows (default: results)")
    parser.add_argument("--recipe", default=MAIN_RECIPE, help="whose models are shown (default: %(default)s)")
    args = parser.parse_args(argv)
    write_text(args.results / "index.html", page(args.results, args.recipe))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

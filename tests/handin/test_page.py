"""The page of results: what stands in it. How it behaves in a browser: test_page_browser.py."""

import base64
import json
import random
import re
import shutil
from itertools import product
from pathlib import Path

import pytest

import page
import report
from engine.files import add_row
from engine.recipes import MAIN_RECIPE
from helpers import word
from utils import UserError

MODELS = ("rope, pretrained", "vanilla, pretrained", "vanilla without pretraining")
KEY = ("model", "data", "recipe", "seed")
ODD = ("Zoë </script><script>alert(1)</script>", "Zürich")  # must come as text, and be found by "zoe"
FIGURE = b"\x89PNG"


def invented(model: str, **changes) -> dict:
    """A row of the analysis: 60 people, half of the answers right, most of the places in the documents."""
    people, questions = random.Random(0), []
    for name, truth in [ODD, *((f"{word(people, 2)} {word(people, 3)}", word(people, 2)) for _ in range(59))]:
        rng = random.Random(f"{model} {name}")
        told = {
            "right": rng.random() < 0.5,
            "in_document": rng.random() < 0.7,
            "confidence": rng.randrange(1001) / 1000,
        }
        questions.append({"name": name, "truth": truth, "answer": truth if told["right"] else word(rng, 2), **told})
    return {"model": model, "data": "own", "recipe": "fast", "seed": 0, "questions": questions, **changes}


QUESTIONS = [invented(model)["questions"] for model in MODELS]


def kinds(i: int, asked: dict) -> set[str]:
    """The filters that let an answer of the i-th model pass, by their definitions."""
    if not asked["right"]:
        return {"", "made up"}
    return {"", "right", "retrieved" if asked["in_document"] and i < 2 else "not retrieved"}


def write_results(results: Path) -> Path:
    """A folder of results with the page of invented rows."""
    row = {"data": "own", "recipe": "fast", "seed": 0, "n": 500, "hardware": "cpu", "precision": "float32"}
    for variant, dev in (("rope", 0.4), ("vanilla", 0.3)):
        add_row(results / "accuracy", row | {"variant": variant, "dev": dev}, report.TRAINED)
    add_row(results / "controls", row | {"what": MODELS[2], "variant": "vanilla", "dev": 0.02}, ("what",))
    others = (
        invented(MODELS[0], **other, questions=[]) for other in ({"seed": 1}, {"data": "other"}, {"recipe": "best"})
    )
    for one in [*others, *map(invented, MODELS)]:
        add_row(results / "analysis", one, KEY)
    (results / "accuracy.png").write_bytes(FIGURE)
    assert page.main(["--results", str(results)]) == 0
    return results


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of results."""
    return write_results(tmp_path_factory.mktemp("results"))


def test_the_page_is_one_file_with_the_rows_in_it(folder):
    """All answers, the table, the figure that there is; nothing that a browser would fetch, no tag from a name."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    held = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert held["models"] == list(MODELS) and len(held["people"]) == 60
    for person, *asked in zip(held["people"], *QUESTIONS, strict=True):
        for i, (answer, one) in enumerate(zip(person["answers"], asked, strict=True)):
            assert answer["kind"] in kinds(i, one)
            told = {name: value for name, value in (person | answer).items() if name not in ("kind", "answers")}
            assert told == {name: value for name, value in one.items() if name != "in_document"}
    assert text.count("</script>") == text.count("<script") == 2 and "{{" not in text
    assert not re.search(r"https?:|url\(|@import|<link|\bsrc=(?!\"data:)", text) and "default-src 'none'" in text
    assert "<td>40.0% (35.8 to 44.4)</td>" in text and "<td>30%</td>" in text
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="\w[^"]+">', text)
    assert [base64.b64decode(picture) for picture in pictures] == [FIGURE]


def test_rows_that_are_missing_or_do_not_fit_are_refused(folder, tmp_path):
    """By the name of the command that makes them; an old page stays."""
    fewer = invented(MODELS[1], questions=QUESTIONS[1][1:])
    for case, (name, change, command) in enumerate(
        (
            ("accuracy", lambda f: shutil.rmtree(f / "accuracy"), "make run"),
            ("analysis", lambda f: shutil.rmtree(f / "analysis"), "python experiments/analysis.py"),
            ("analysis", lambda f: add_row(f / "analysis", fewer, KEY), "python experiments/analysis.py"),
        )
    ):
        copy = shutil.copytree(folder, tmp_path / str(case))
        (copy / "index.html").write_text("old")
        change(copy)
        with pytest.raises(UserError, match=f"{name}: .*{command}$"):
            page.main(["--results", str(copy)])
        assert (copy / "index.html").read_text() == "old"


def test_colours_have_contrast():
    """WCAG's AA, 4.5 to 1, of all that is written, on both backgrounds, light and dark."""

    def luminance(colour: str) -> float:
        parts = [int(part, 16) / 255 for part in re.findall("..", colour)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    schemes = re.findall(r":root {(.*?)}", (report.ROOT / "scripts" / "page.html").read_text("utf-8"), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        light = {name: luminance(colour) for name, colour in re.findall(r"--(\w+): #(\w{6});", scheme)}
        for back, name in product(("back", "panel"), ("text", "soft", "link", "right", "wrong")):
            low, high = sorted((light[back], light[name]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, back, scheme)


def test_the_page_that_git_keeps_is_that_of_its_rows():
    """results/index.html is what `python scripts/page.py` makes of results/ today."""
    assert page.page(report.ROOT / "results", MAIN_RECIPE) == (report.ROOT / "results" / "index.html").read_text(
        encoding="utf-8"
    )

"""The report: numbers from rows, what stops it, and the PDF."""

import os
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import latex
import report
from analysis import calibration
from engine.files import add_row, fingerprint, read_rows
from helpers import invent_people
from modern_llm import KEY, PROMPTS
from utils import UserError, cli

PEOPLE = invent_people(40, 12)
SOURCE = latex.ROOT / "report" / "report.tex"
HERE = [shutil.which(program) for program in ("latexmk", "pdffonts")]
needs_latex = pytest.mark.skipif(not all(HERE), reason="no LaTeX here: latexmk or poppler-utils are not installed")
COMMANDS = dict.fromkeys(("accuracy", "controls", "sensitivity"), "make run RECIPE=fast SEED=0")
COMMANDS |= {"analysis": r"experiments/analysis\.py --results", "modern_llm": r"src/modern_llm\.py --results_path"}
CONTROL, ANALYSED = ("what", *report.TRAINED), ("data", "variant", "recipe", "seed")
CHANCE = [0.1, 0.05, 0.15]
# ten answers, the surer the earlier, of which the first three and the fifth are right
ANALYSIS = calibration(np.linspace(1, 0, 10), np.isin(np.arange(10), (0, 1, 2, 4))) | {"namesakes": []}
ANALYSIS["kinds"] = [[True, True, True, 125], [False, False, True, 175], [False, False, False, 200]]
ANALYSIS["invented"] = {
    "n": 240,
    "in_train": 216,
    "places": [["Rome", 30]],
    "alike": {"n": 100, "hits": 20, "chance": CHANCE},
}


def put(folder: Path, data: str = "own", recipe: str = "fast", **more) -> None:
    """The rows of one run as the programs write them; `more` goes into the analysis."""
    run = {"data": data, "recipe": recipe, "seed": 0, "corpus": fingerprint(PEOPLE.corpus), "hardware": "cpu & co"}
    trained = run | {"n": 500, "seconds": 90.0, "precision": "float32", "date": "2026-01-01"}
    known = {"test": 0.5, "test_n": 437} if data == "own" else {}
    for variant, dev in (("vanilla", 0.25), ("rope", 0.45)):
        add_row(folder / "accuracy", trained | known | {"variant": variant, "dev": dev}, report.TRAINED)
        row = run | ANALYSIS | {"model": f"{variant}, pretrained", "variant": variant, **more}
        add_row(folder / "analysis", row, ANALYSED)
    for what, dev in zip((*report.MODELS[:2], report.MODELS[4]), (0.02, 0.05, 0.1), strict=True):
        add_row(folder / "controls", trained | {"variant": "-", "dev": dev, "what": what}, CONTROL)
    counts = {"only_original": 180, "only_reworded": 5, "p_mcnemar": 1.23e-63}
    ours = {"variant": "rope", "original": 0.45, "reworded": 0.1, "parameters": 3301888, **counts}
    add_row(folder / "sensitivity", trained | ours, report.TRAINED)
    llm = {"model": "some/small_LLM", "data": data, "parameters": 1234567, "n": 500, "exact": 0.0, **counts}
    for prompt, template in product(PROMPTS, report.POINTS):
        new = {"prompt": prompt, "template": template, "normalised": 0.08 if template == "original" else 0.09}
        add_row(folder / "modern_llm", llm | new, KEY)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of data and of results, of one run."""
    (tmp_path / "wiki.txt").write_text(PEOPLE.corpus)
    (tmp_path / "birth_places_train.tsv").write_text(PEOPLE.pairs)
    put(tmp_path)
    return tmp_path


def macros(folder: Path, monkeypatch, **run) -> dict[str, str]:
    """numbers.tex as a dictionary, switches too."""
    monkeypatch.setattr(latex, "SEARCHED", 1000)
    text = latex.numbers(latex.Found(folder, **run), folder)
    found = re.findall(r"newcommand\{\\(\w+)\}\{(.*)\}", text) + re.findall(r"newif\\if(\w+)\n\\\1(\w+)", text)
    return dict(found)


def test_every_number_follows_its_row(folder, monkeypatch):
    """Another result is another macro. All macros are used, and report.tex has no percentages of its own."""
    before = macros(folder, monkeypatch)
    known = {"ropeDev": r"45.0\%", "ropeCount": "225 of 500", "pairs": "28"}
    known |= {"pValue": r"\ensuremath{=1.2\times10^{-63}}", "Gap": "true", "Steadier": "true", "Others": "false"}
    known |= {"vanillaWrong": "375", "inTrainWrong": "175", "surestHalf": "4 of 5", "coverageAtNinety": r"30\%"}
    assert known.items() <= before.items()
    for table, key, changes in (
        ("accuracy", report.TRAINED, {"dev": 0.2, "variant": "vanilla"}),
        ("controls", CONTROL, {"dev": 0.07, "what": report.MODELS[1]}),
        ("sensitivity", report.TRAINED, {"only_original": 3, "p_mcnemar": 0.42}),
        ("modern_llm", KEY, {"normalised": 0.6, "prompt": "instructed", "template": "original"}),
        ("analysis", ANALYSED, {"auroc": [0.9, 0.8, 1.0], "variant": "vanilla"}),
    ):
        same = {name for name in ("variant", "what", "prompt", "template") if name in changes}
        row = next(r for r in read_rows(folder / table) if all(r[name] == changes[name] for name in same))
        add_row(folder / table, row | changes, key)
    after = macros(folder, monkeypatch)
    changed = {name: after[name] for name in before if before[name] != after[name]}
    wanted = {"vanillaDev": r"20.0\%", "vanillaCount": "100 of 500", "ropeLead": "25.0", "londonDev": r"7.0\%"}
    wanted |= {"londonCount": "35 of 500", "lostCount": "3", "pValue": r"\ensuremath{=0.42}", "Gap": "false"}
    wanted |= {"instructedOriginalRead": r"60.0\%", "llmChange": "51.0", "Steadier": "false", "Behind": "false"}
    wanted["Floor"] = "false"
    assert changed == wanted | {"auroc": "0.90"}
    text = re.sub(r"(?m)^%.*", "", SOURCE.read_text(encoding="utf-8"))
    assert {name for name in before if not re.search(rf"\\(if)?{name}\b", text)} <= {"mixedCount"}
    assert re.findall(r"\d[\d.]*\\?,?\\%", text) == [r"95\,\%"]


@pytest.mark.parametrize("table", COMMANDS)
def test_a_missing_row_names_its_command(folder, table, capsys):
    """Whichever table lacks its rows: one clear line and exit code 2, and nothing is written."""
    shutil.rmtree(folder / table)
    words = [f"--results={folder}", f"--data={folder}", f"--out={folder / 'out'}"]
    assert cli(lambda: latex.main(words)) == 2 and not (folder / "out").exists()
    wanted = f"error: .*{table}: holds no row of .*`.*{COMMANDS[table]}.*` makes it\n"
    assert re.fullmatch(wanted, capsys.readouterr().err)


def test_which_run_is_meant(folder, monkeypatch):
    """The main recipe on our data among several, or the only one; else flags must say. Another corpus is refused."""
    put(folder, recipe="best")
    assert macros(folder, monkeypatch)["recipe"] == "fast"
    assert macros(folder, monkeypatch, recipe="best")["recipe"] == "best"
    for path in folder.glob("*/*fast*.json"):
        path.unlink()
    assert macros(folder, monkeypatch)["recipe"] == "best"
    put(folder, data="course", recipe="handout")
    with pytest.raises(UserError, match="--data_name own --recipe best; --data_name course --recipe handout"):
        latex.Found(folder)
    found = macros(folder, monkeypatch, data_name="course")
    assert (found["dataName"], found["TestKnown"], found["HandoutRecipe"]) == ("course's", "false", "true")
    with pytest.raises(UserError, match=r"another corpus than wiki\.txt; name the folder"):
        latex.Found(folder, recipe="best").check_corpus("other")


def test_text_for_latex():
    """Special characters are escaped; what the fonts lack is named."""
    assert (
        latex.tex("5% a_b & {c}\\~^#$") == r"5\% a\_b \& \{c\}\textbackslash{}\textasciitilde{}\textasciicircum{}\#\$"
    )
    assert latex.tex("Þóra Łoś – “ö” 梁") == "Þóra Łoś – “ö” [U+6881]"


def build(source: Path, out: Path) -> str:
    """Run LaTeX; returns its log in one line."""
    command = ["latexmk", "-pdf", "-silent", "-halt-on-error", f"-outdir={out}", source]
    done = subprocess.run(command, env=os.environ | {"TEXINPUTS": f"{out}:"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return (out / f"{source.stem}.log").read_text(encoding="latin-1").replace("\n", "")


def shown(program: str, *words: str | Path) -> str:
    """What one of the poppler-utils prints."""
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout


@needs_latex
def test_the_pdf(folder):
    """Of a student's rows, and of ours with examples and other runs: at most ten pages, all fonts, nothing too wide."""
    for case in ("student", "ours"):
        if case == "ours":
            for recipe in ("best", "excerpts"):
                put(folder, data="course", recipe=recipe)
            mixed = {"people": "mixed", "same": "surname", "n": 400, "hits": 100, "chance": CHANCE}
            one = {"name": "Þóra O'Neill-Łoś", "truth": "Rome", "answer": "Paris", "confidence": 0.9}
            put(folder, questions=[one | {"right": right} for right in (True, False)], namesakes=[mixed])
        out = folder / case
        latex.main([f"--results={folder}", f"--data={folder}", f"--out={out}"])
        log = build(SOURCE, out)
        assert not [wide for wide in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log) if float(wide) > 2]
        assert "undefined" not in log and "Missing character" not in log
        assert 1 <= int(re.search(r"Pages: +(\d+)", shown("pdfinfo", out / "report.pdf"))[1]) <= 10
        fonts = [line.split()[-5] for line in shown("pdffonts", out / "report.pdf").splitlines()[2:]]
        assert fonts and set(fonts) == {"yes"}  # embedded
        text = shown("pdftotext", out / "report.pdf", "-")
        assert "Model solution." in text and "225 of 500" in text and ("Þóra" in text) == (case == "ours")
        printed = shown("pdftotext", out / "corruption.pdf", "-")
        assert printed.count("\u2047") >= 12 and "\u25a1\u25a1\u25a1" in printed


@needs_latex
def test_every_letter_can_be_printed(tmp_path):
    """What `tex` lets through, LaTeX has a glyph for."""
    letters = latex.tex("".join(map(chr, range(32, 383))))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{lmodern}\begin{document}"
    (tmp_path / "letters.tex").write_text(head + letters + r"\end{document}", encoding="utf-8")
    assert "Missing character" not in build(tmp_path / "letters.tex", tmp_path)

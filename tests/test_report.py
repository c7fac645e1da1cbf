"""From rows to what is shown: tables, figures, pages, and the report."""

import json
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.recipes import RECIPES
from engine.wordings import WORDINGS
from helpers import invent_people, write_data
from report import figures, latex, page, rows, settings, tables
from utils import UserError, cli, fingerprint

PEOPLE = invent_people(40, 12)
NAME = "my class"  # of the data
ROPE_AND_VANILLA = ("rope, pretrained", "vanilla, pretrained")
ODD = "[Ștefan] </script>*"  # a name that must come as text, in HTML, Markdown and at the start of a row of LaTeX


def put(folder: Path, data: str = NAME, recipe: str = "fast", seed: int = 0) -> None:
    """The rows of one run as the programs write them: vanilla 25 %, rope 45 % of 500."""
    told = {"hardware": "cpu & co", "precision": "float32", "settings": rows.settings_of(RECIPES[recipe])}
    made = rows.provenance("make run", data, fingerprint(PEOPLE.corpus), seed, **told)
    run = made | {"recipe": recipe, "n": 500, "seconds": 90.0, "tokens": 1000}
    for variant, dev in (("vanilla", 0.25), ("rope", 0.45)):
        rows.add("accuracy", run | {"model": f"{variant}, pretrained", "variant": variant, "dev": dev}, folder)
    for model, dev in zip(tables.MODELS[:2], (0.02, 0.05), strict=True):
        rows.add("accuracy", run | {"model": model, "variant": "-", "dev": dev}, folder)
    counts = {"only_original": 180, "only_reworded": 5, "p_mcnemar": 1.23e-63}
    reworded = {"model": tables.REWORDED_4A, "variant": "rope", "original": 0.45, "dev": 0.1, "parameters": 99}
    rows.add("accuracy", run | reworded | counts, folder)
    for prompt, template in ((prompt, template) for prompt in tables.ASKED for template in WORDINGS):
        told = {"model": "some/small_LLM", "prompt": prompt, "template": template, "parameters": 1234567}
        told |= {"exact": 0.0, "normalised": 0.08} | (counts if template == "reworded" else {})
        rows.add("modern_llm", made | {"n": 500, "questions": fingerprint(PEOPLE.unseen)} | told, folder)
        reply = {"name": ODD, "truth": "Rome", "reply": f"{ODD} was born.", "place": "", "exact": False}
        reply |= {name: told[name] for name in ("model", "prompt", "template")} | {"n": 500}
        replies = [reply | {"normalised": False}, reply | {"place": "Rome", "normalised": True}]
        rows.add("modern_llm_replies", [made | one for one in replies], folder)
    asked = {"variant": "rope", "name": ODD, "truth": "Rome", "answer": "Rome"}
    answers = [asked | {"reworded_answer": place} for place in ("Rome", "Bonn", "Nowhere")]
    rows.add("sensitivity_questions", [run | one for one in answers], folder)
    for variant in ("vanilla", "rope"):
        steps = [{"step": 10 * i, "loss": loss} for i, loss in enumerate((4, 1.5, 1, 0.5), 1)]
        rows.add("loss_curve", [run | {"variant": variant} | one for one in steps], folder)


def put_answers(folder: Path, data: str = NAME, corpus: str = fingerprint(PEOPLE.corpus)) -> None:
    """The rows of experiments on answers: ten dev questions, the surer the earlier; 0, 1, 2 and 4 are right."""
    machine = {"hardware": "cpu", "precision": "float32"}
    made = rows.provenance("python x", data, corpus, 0, **machine) | {"recipe": "fast"}
    people = [f"{ODD} {i}" for i in range(10)]
    for model in page.ASKED:
        run = made | {"model": model, "variant": model.partition(",")[0]}
        asked = [
            {"name": name, "truth": "Rome", "answer": "Rome" if right else "Bonn", "right": right, "in_train": i < 9}
            | {"in_document": (i > 0 and right) or i == 9, "confidence": 0.9 - i / 20}
            for i, (name, right) in enumerate(zip(people, (i in (0, 1, 2, 4) for i in range(10)), strict=True))
        ]
        rows.add("analysis_questions", [run | one for one in asked], folder)
        found = {"n": 10, "right": 4, "ece": 0.1, "coverage_at_90": 0.3, "invented_n": 2}
        found |= {"invented_in_train": 1, "auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.9}
        rows.add("analysis", run | found, folder)
        rows.add("analysis_invented", [run | {"name": "Jo Pa", "answer": "Oslo"}] * 2, folder)
        same = {"n": 40, "hits": 10, "chance": 0.1, "chance_low": 0.05, "chance_high": 0.15}
        rows.add("analysis_namesakes", [run | same | {"same": name} for name in ("surname", "first name")], folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder of data and of results, of one run."""
    write_data(tmp_path, PEOPLE)
    put(tmp_path)
    put_answers(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- tables


def test_intervals():
    """Wilson's for the questions of a run (test_sensitivity.py has its values); Student's t over seeds."""
    assert tables.percent(0.4, 500) == "40.0% (35.8 to 44.4)" and tables.percent(math.nan, 500) == "-"
    assert tables.student([0.3, 0.4, 0.5]) == pytest.approx((0.4 - 0.2484, 0.4 + 0.2484), abs=1e-4)  # t = 4.303
    assert math.isnan(tables.student([0.3, 0.4])[0])


def test_a_line_for_all_seeds_of_a_model(tmp_path):
    """Of one machine; the interval is that of one run, beside it the one over seeds; dashes for what is unknown.

    The short table has one line for all machines, with the time on the one that has most runs.
    """
    told = {"data": "own", "variant": "rope", "recipe": "fast", "n": 500, "hardware": "cpu", "precision": "float32"}
    told["model"] = "rope, pretrained"
    for seed, dev in enumerate((0.3, 0.4, 0.5)):
        rows.add("accuracy", told | {"seed": seed, "dev": dev, "seconds": 60.0 + seed}, tmp_path)
    rows.add("accuracy", told | {"seed": 0, "dev": 0.9, "hardware": "gpu", "test": 0.5, "test_n": 100}, tmp_path)
    first, second = tables.all_results(tmp_path).to_dict("records")
    assert (first["seeds"], first["dev (95 %)"], first["test (95 %)"]) == ("0 1 2", "40.0% (35.8 to 44.4)", "-")
    assert first["95 % over seeds"] == "15.2 to 64.8"
    assert (second["seeds"], second["test (95 %)"]) == ("0", "50.0% (40.4 to 59.6)")
    (short,) = tables.results(tmp_path).to_dict("records")
    assert (short["seeds"], short["dev (95 %)"], short["range"]) == ("0 0 1 2", "52.5% (48.1 to 56.8)", "30.0 to 90.0")
    assert (short["seconds"], short["hardware"]) == ("61", "cpu, float32")


def test_one_table_in_three_formats():
    """Cells come as text, whatever they hold."""
    table = pd.DataFrame([[ODD, "a | b"], ["5% & {x}_~^\\", "ö – 梁"]], columns=["model", "100 %"])
    lines = tables.markdown(table).split("\n")
    assert len(lines) == 4 and r"a \| b" in lines[2]
    assert "&lt;/script&gt;" in tables.html(table)
    tex = tables.latex(table, "ll")
    assert "{[}{[}U+0218]tefan]" in tex and r"5\% \& \{x\}\_" in tex and r"ö – {[}U+6881]" in tex


def test_figures_are_drawn_from_the_rows_there_are(folder, tmp_path_factory):
    """No rows, no figures; of the tracked rows all of them."""
    figures.draw(folder, NAME, "fast")
    assert {path.stem for path in folder.glob("*.png")} == {"accuracy", "analysis", "sensitivity"}
    other = tmp_path_factory.mktemp("none")
    figures.draw(other)
    assert not list(other.iterdir())
    for path in rows.RESULTS.glob("*.csv"):
        shutil.copy(path, other)
    figures.draw(other)
    assert {path.stem for path in other.glob("*.png")} == {path.stem for path in rows.RESULTS.glob("*.png")}


def test_what_git_keeps_is_made_from_its_rows():
    """Every table between its marks, and index.html, are those of results/ today."""
    texts = "\n".join(
        page.read_text(encoding="utf-8") for page in rows.ROOT.glob("**/*.md") if ".venv" not in page.parts
    )
    for name, table in page.TABLES.items():
        assert len(table(rows.RESULTS)), name
        assert f"<!-- {name} -->\n{tables.markdown(table(rows.RESULTS))}\n<!-- /{name} -->" in texts, name
    kept, today = (rows.RESULTS / "index.html").read_text(encoding="utf-8"), page.page(rows.RESULTS, rows.ROOT)
    pictures = re.compile('"data:image[^"]+"')  # other versions of matplotlib draw other ones
    assert pictures.sub("", today) == pictures.sub("", kept)


def test_a_run_is_of_one_machine():
    """Bug: a model trained again with another number of threads took the place of the run's own."""
    made = [("vanilla", "two", "1"), ("rope", "two", "1"), ("rope", "one", "2"), ("-", "", "1")]
    models = pd.DataFrame(made, columns=["variant", "hardware", "date"]).assign(precision="", seed=0)
    assert tables.one_run(models, seed=0).index.tolist() == [0, 1, 3] and tables.one_run(models, seed=1).empty


def test_sentences_on_pages_quote_the_rows():
    """Bug: sentences on the pages had numbers of rows that had been replaced since."""
    whole, changed = tables.read_models(rows.RESULTS), tables.read_pretrained(rows.RESULTS, changed=True)
    whole["gap"] = whole["original"] - whole["dev"]

    def told(models: pd.DataFrame, wanted: str, column: str = "dev", digits: int = 1) -> list[str]:
        """A column of the wanted rows in per cent, by seed."""
        found = models.query(wanted).sort_values("seed", kind="stable")
        return [f"{100 * share:.{digits}f}" for share in found[column]]

    readme, details, experiments = (
        " ".join((rows.ROOT / name).read_text(encoding="utf-8").split())
        for name in ("README.md", "docs/details.md", "experiments/README.md")
    )

    def listed(shares: list[str]) -> str:
        """a, b and c."""
        return " and ".join(filter(None, [", ".join(shares[:-1]), *shares[-1:]]))

    fast = whole[whole["model"].isin(ROPE_AND_VANILLA) & (whole["recipe"] == "fast")]
    pairs = 100 * fast.pivot(index=["data", "seed"], columns="variant", values="dev").dropna()
    leads = pairs["rope"] - pairs["vanilla"]
    ours, theirs = ([f"{abs(lead):.1f}" for lead in leads[data]] for data in ("own", "course"))
    assert (leads["own"] < 0).all() and f"pairs on our data (on dev by {listed(ours)} points;" in details
    assert (leads["course"] > 0).all() and f"on the course's data (by {listed(theirs)} points)" in details
    apart = 100 * fast.groupby(["data", "variant"])["dev"].agg(np.ptp)
    assert f"are up to {apart.max():.1f} points apart on dev" in details
    rope, vanilla = (told(whole, f"recipe == 'handout' and model == '{m}'", digits=0) for m in ROPE_AND_VANILLA)
    quoted = f"the vanilla model answers {listed(vanilla)} % (one run) and the RoPE model {listed(rope)} % (two runs)"
    assert f"{quoted} of the course's dev questions" in readme
    gaps = sorted(told(whole, "recipe == 'fast' and gap == gap", "gap", 0))
    assert f"is {gaps[0]} to {gaps[-1]} points lower in every run" in details
    rope, vanilla = (told(whole, f"recipe == 'fast' and data == 'own' and model == '{m}'") for m in ROPE_AND_VANILLA)
    assert f"(rope, our data) have {listed(rope)} %" in experiments
    assert f"(vanilla, our data) {listed(vanilla)} %" in experiments
    (rope,), (vanilla,) = (
        told(whole, f"recipe == 'fast' and data == 'own' and model == '{m}' and seed == 1") for m in ROPE_AND_VANILLA
    )
    alone = "change == 'finetuning on the pairs alone'"
    (no_rope,), (no_vanilla,) = (told(changed, f"{alone} and model == '{m}'") for m in ROPE_AND_VANILLA)
    assert f"{no_rope} % (rope) and {no_vanilla} % (vanilla)" in experiments
    assert f"instead of {rope} and {vanilla} % (seed 1)" in experiments
    least, most = sorted(told(changed, alone, digits=0))
    share = least if least == most else f"{least} to {most}"
    assert f"Finetuned without the excerpts, `fast` answers {share} % of our dev questions" in readme
    (one,), (about,) = (told(changed, "epochs == 1 and change == ''", digits=digits) for digits in (1, 0))
    assert f"instead of 12, it is {one} % (vanilla, seed 1)" in experiments and f"instead of 12, {about} %" in readme
    fewer = "data == 'course' and recipe == 'fast' and seed == 0 and model == '{}'"
    costs = [
        100
        * (
            whole.query(fewer.format(m))["dev"].item()
            - changed.query(fewer.format(m) + " and epochs == 9")["dev"].item()
        )
        for m in ROPE_AND_VANILLA
    ]
    assert "9 epochs instead of 12 cost {:.1f} points (rope) and {:.1f} (vanilla)".format(*costs) in experiments
    asked = rows.read("exposures").assign(often=lambda asked: pd.cut(asked["times"], [-1, 0, 3, 99], labels=False))
    asked = asked.groupby(["often", "variant", "seed"])[["n", "right"]].sum()  # rope, seeds 0 and 1; vanilla, seed 1
    never, seldom = ([f"{share:.0f}" for share in 100 * asked.loc[i, "right"] / asked.loc[i, "n"]] for i in (0, 1))
    count = asked.loc[0, "n"]
    assert f"of the {count.min()} to {count.max()} questions whose place was in no masked span" in experiments
    assert f"these three models answer {listed(never)} % correctly" in experiments
    assert f"one to three times, {listed(seldom)} %" in experiments


def test_tables_go_between_their_marks_alone(tmp_path, monkeypatch):
    """A table without a place is an error that names the marks, and no page changes."""
    monkeypatch.setattr(rows, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("a\n<!-- one -->\nold\n<!-- /one -->\nb\n<!-- two -->\nold\n<!-- /two -->\n")
    tables.fill({"one": r"new \1"})
    text = (tmp_path / "README.md").read_text()
    assert text == "a\n<!-- one -->\nnew \\1\n<!-- /one -->\nb\n<!-- two -->\nold\n<!-- /two -->\n"
    with pytest.raises(UserError, match="<!-- three -->"):
        tables.fill({"one": "newer", "three": ""})
    assert (tmp_path / "README.md").read_text() == text


# ---------------------------------------------------------------- the page


def held(folder: Path, data: Path) -> tuple[str, list[dict]]:
    """The page, and what it holds of each person."""
    assert page.main([f"--results={folder}", f"--data={data}", f"--data_name={NAME}"]) == 0
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    return text, json.loads(found)["people"]


def test_the_page_is_one_file_with_all_answers(folder):
    """What it calls them; nothing that a browser would fetch, no tag from a name."""
    text, people = held(folder, folder)
    assert [person["name"] for person in people] == [f"{ODD} {i}" for i in range(10)]
    assert [[answer["kind"] for answer in people[i]["answers"]] for i in (0, 1, 3, 9)] == [
        ["not retrieved"] * 3,
        ["retrieved", "retrieved", "not retrieved"],
        ["made up"] * 3,
        ["misread", "misread", "made up"],
    ]
    assert text.count("</script>") == text.count("<script") == 2 and "{{" not in text
    assert not re.search(r"https?:|url\(|@import|<link|\bsrc=(?!\"data:)", text) and "default-src 'none'" in text


def test_the_page_opens_what_is_known_of_a_person(folder):
    """The reworded answer and the LLM's reply to the same questions; the document if it is of the same corpus."""
    corpus = "\n".join(f"{ODD} {i}. Was seen in Bonn." for i in range(10))
    (folder / "wiki.txt").write_text(corpus, encoding="utf-8")
    put_answers(folder, corpus=fingerprint(corpus))
    made = {"data": NAME, "corpus": fingerprint(corpus), "name": f"{ODD} 3"}
    run = {"variant": "rope", "recipe": "fast", "seed": 0, "reworded_answer": "Ulm"}
    rows.add("sensitivity_questions", [made | run, made | run | {"name": "somebody else"}], folder)
    llm = {"model": "some/LLM", "prompt": "bare", "template": "original", "n": 500, "exact": False, "normalised": False}
    rows.add("modern_llm_replies", [made | llm | {"reply": "In Köln, <b>I</b> think."}], folder)
    rows.add("modern_llm_replies", [made | llm | {"corpus": "another", "model": "old", "reply": "?"}], folder)
    told = [f"{ODD} 3. Was seen in Bonn.", "Ulm", "In Köln, <b>I</b> think."]
    text, people = held(folder, folder)
    assert [text for _, text in people[3]["details"]] == told and "an earlier version" not in text
    (folder / "wiki.txt").write_text("Somebody. Else.")
    text, people = held(folder, folder)
    assert [text for _, text in people[3]["details"]] == told[1:] and "an earlier version of the documents" in text


def test_titles_name_a_corpus_that_is_not_todays():
    """Of our own data; that of others is not at hand."""
    today = fingerprint((rows.ROOT / "wiki.txt").read_text(encoding="utf-8"))
    told = {("own", today): "own data", ("course", "0"): "course data"}
    told[("own", "0123456789")] = "own data (corpus 0123456, not today's)"
    for (data, corpus), title in told.items():
        assert rows.about_data(pd.DataFrame([{"data": data, "corpus": corpus}])) == title


def test_the_page_needs_its_rows(folder):
    """The error names the table and what makes its rows; an old page stays."""
    (folder / "index.html").write_text("old")
    for table, command in (("analysis_questions", "python experiments"), ("accuracy", "make run")):
        (folder / f"{table}.csv").unlink()
        with pytest.raises(UserError, match=rf"{table}\.csv: .*`{command}"):
            page.main([f"--results={folder}", f"--data_name={NAME}"])
    assert (folder / "index.html").read_text() == "old"


# ---------------------------------------------------------------- the report


def macros(folder: Path, **more: str) -> dict[str, str]:
    """The macros of a run, from the command line."""
    flags = {"results": folder, "data": folder, "out": folder / "out"} | more
    assert latex.main([f"--{name}={value}" for name, value in flags.items()]) == 0
    return dict(re.findall(r"newcommand\{\\(\w+)\}\{(.*)\}", (folder / "out" / "numbers.tex").read_text()))


def test_every_number_follows_its_row(folder):
    """report.tex has no percentage of its own but the intervals' 95 %."""
    before = macros(folder)
    found = rows.read("accuracy", folder).query("model == 'vanilla, pretrained'").iloc[0].to_dict()
    rows.add("accuracy", found | {"dev": 0.2, "test": 0.3, "test_n": 400}, folder)
    changed = {name: (old, new) for name, new in macros(folder).items() if (old := before[name]) != new}
    assert {(r"25.0\%", r"20.0\%"), ("--", r"30.0\%"), ("125 of 500", "100 of 500")} < {*changed.values()}
    assert all("vanilla" in name or "Lead" in name for name in changed)
    text = re.sub(r"(?m)^%.*", "", (rows.ROOT / "report" / "report.tex").read_text(encoding="utf-8"))
    assert set(re.findall(r"\d[\d.]*\\?,?\\%", text)) == {r"95\,\%"}


def test_the_hyperparameters_are_those_that_run_py_trains_with(folder):
    """The handout's beside the recipe's; `fast` finetunes on the documents, too."""
    found = settings.table("fast", folder).set_index(["", "recipe"])
    columns = ["examples", "epochs", "batch", "AdamW"]
    assert found.loc[("pretraining", "handout"), columns].tolist() == ["41", "650", "128", "0.006"]
    assert found.loc[("finetuning", "handout"), columns].tolist() == ["28", "10", "256", "0.0006"]
    assert found.loc[("finetuning", "fast"), "examples"] == "69"


@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("accuracy", "make run RECIPE=fast SEED=0"),
        ("sensitivity_questions", "make run RECIPE=fast SEED=0"),
        ("modern_llm_replies", "make llm"),
        ("analysis", "python experiments/"),
    ],
)
def test_a_missing_row_names_its_command(folder, table, command, capsys):
    """With the folders and the name of the data; one line, exit code 2, and nothing is written."""
    (folder / f"{table}.csv").unlink()
    words = [f"--results={folder}", f"--data={folder}", f"--out={folder / 'out'}"]
    assert cli(lambda: latex.main([*words, f"--data_name={NAME}", "--recipe=fast"])) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{table}.csv: holds no row of" in said and f"`{command}" in said and not (folder / "out").exists()
    assert re.search(f"(RESULTS|results)={folder}.* '?(DATA_NAME|--data_name)=", said) and "my class" in said


def test_which_run_is_meant(folder):
    """The data's own name and the main recipe, or the only run there is; flags say more."""
    put(folder, recipe="best")
    with pytest.raises(UserError, match=r"several runs; .*DATA_NAME=my class RECIPE=best"):
        macros(folder)
    put_answers(folder, "other")
    put(folder, "other")
    assert "other" in macros(folder)["dataName"]
    assert NAME in macros(folder, data_name=NAME, recipe="fast")["dataName"]


def test_rows_of_other_data_or_another_recipe_are_refused(folder, monkeypatch):
    """Rows of another corpus, of an LLM that was asked other questions, of a recipe with other numbers."""
    (folder / "birth_dev.tsv").write_text("Where was A B born?\tC\n")
    with pytest.raises(UserError, match=r"modern_llm\.csv: holds no row of an LLM asked these questions.*`make llm"):
        macros(folder)
    monkeypatch.setitem(RECIPES, "fast", replace(RECIPES["fast"], finetune=RECIPES["handout"].finetune))
    with pytest.raises(UserError, match="recipe fast has changed since; run `make run RECIPE=fast"):
        macros(folder)
    (folder / "wiki.txt").write_text("Another text. Who?\n")
    with pytest.raises(UserError, match=r"another corpus than .*wiki\.txt; run `make run"):
        macros(folder)


def test_the_pdf(folder):
    """Of foreign data, with names that LaTeX's fonts lack: builds, all letters there, nothing much too wide."""
    macros(folder)
    out = folder / "out"
    command = ["latexmk", "-pdf", "-silent", "-halt-on-error", f"-outdir={out}", rows.ROOT / "report" / "report.tex"]
    done = subprocess.run(command, env=os.environ | {"TEXINPUTS": f"{out}:"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (out / "report.log").read_text(encoding="latin-1").replace("\n", "")
    assert not [wide for wide in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log) if float(wide) > 3]
    assert "undefined" not in log and "Missing character" not in log
    text = subprocess.run(["pdftotext", out / "report.pdf", "-"], capture_output=True, text=True, check=True).stdout
    for told in ("225 of 500", "U+0218", "my class", "def choose_span", "src/dataset.py charcorruption"):
        assert told in text


def test_the_pdf_that_git_keeps(tmp_path):
    """Every number of report/report.pdf, in text and tables, is that of results/ today; `make report` makes it anew.

    Bugs: a mean over no steps was printed as "nan"; a row that came later was not in the PDF's table.
    """
    assert latex.main([f"--out={tmp_path}"]) == 0
    used = (rows.ROOT / "report" / "report.tex").read_text(encoding="utf-8")
    written = dict(re.findall(r"\\newcommand{\\(\w+)}{(.*)}\n", (tmp_path / "numbers.tex").read_text(encoding="utf-8")))
    pdf = rows.ROOT / "report" / "report.pdf"
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
    number = re.compile(r"\d[\d,.]*(?<=\d)")
    told = set(number.findall(text))
    assert len(written) > 50 and text.count("birthplace") > 20
    for name, value in written.items():
        assert not re.search(r"\bnan\b", value), name
        if rf"\{name}" in used:
            assert told.issuperset(number.findall(value)), (name, value)
    for table in latex.TABLES:
        cells = (tmp_path / f"{table}.tex").read_text(encoding="utf-8").partition("midrule")[2]
        assert told.issuperset(number.findall(cells)), table


def test_every_letter_can_be_printed(tmp_path):
    """What `tex` lets through, LaTeX has a glyph for."""
    letters = tables.tex("".join(map(chr, range(32, 383))) + "–—‘’“”…")
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{lmodern}\begin{document}"
    (tmp_path / "letters.tex").write_text(head + letters + r"\end{document}", encoding="utf-8")
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "letters.tex"], cwd=tmp_path)
    assert done.returncode == 0 and "Missing character" not in (tmp_path / "letters.log").read_text(encoding="latin-1")

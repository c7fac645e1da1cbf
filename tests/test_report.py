"""Rows of results, and the tables and pictures that are made from them."""

import subprocess
import sys

import pytest

import report
from engine.files import add_row, read_rows
from modern_llm import KEY, LISTED
from utils import UserError

KEYS = {"controls": ("what", *report.TRAINED), "modern_llm": KEY, "curve": report.CURVE, "ablation": report.ABLATION}
ADDER = """import sys; sys.path.insert(0, sys.argv[1])
from engine.files import add_row
for seed in range(60):
    add_row(sys.argv[2], {"who": sys.argv[3], "seed": seed, "text": "é" * 5000}, ("who", "seed"))"""


def row(seed: int, dev: float, **changes) -> dict:
    """A row as reproduce.py writes it."""
    more = {"seconds": 60.0, "tokens": 1000, "hardware": "cpu", "precision": "float32", "date": "2026-11-24"}
    return {"data": "own", "variant": "rope", "recipe": "fast", "seed": seed, "dev": dev, "n": 500, **more, **changes}


def put(folder, table: str, *rows: dict) -> None:
    """Add rows to a table."""
    for one in rows:
        add_row(folder / table, one, KEYS.get(table, report.TRAINED))


def lines(table: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its head."""
    cells = [line[2:-2].split(" | ") for line in table.split("\n")]
    assert len(set(map(len, cells))) == 1
    return cells[2:]


def test_two_processes_that_add_rows_at_once_lose_none(tmp_path):
    """Bug: a table was one file, which each read and wrote anew: what the other had added between was lost."""
    words = [sys.executable, "-c", ADDER, str(report.ROOT / "src"), str(tmp_path)]
    adders = [subprocess.Popen([*words, who]) for who in ("one", "two")]
    while any(adder.poll() is None for adder in adders):
        read_rows(tmp_path)  # finds whole rows alone at any time
    assert len({(r["who"], r["seed"]) for r in read_rows(tmp_path)}) == 120


def test_a_row_replaces_the_one_with_its_key_alone(tmp_path):
    """An entry that a row lacks is part of its key. What is no row is an error in one line."""
    put(tmp_path, "accuracy", row(0, 0.1), row(1, 0.2), {"seed": 0, "dev": 0}, row(0, 0.3), row(0, 0.4, data="course"))
    assert sorted(r["dev"] for r in read_rows(tmp_path / "accuracy")) == [0, 0.2, 0.3, 0.4]
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(UserError, match=r"x\.json: is no row of results; restore it from git"):
        read_rows(tmp_path)


def test_means_have_both_intervals(tmp_path):
    """Wilson's for the questions of one run, which seeds do not narrow; Student's over the seeds; the range."""
    for name, shares, cells in (
        ("one", [0.4], ["0", "40.0% (35.8 to 44.4)", "-", "-"]),
        ("three", [0.3, 0.4, 0.5], ["0 1 2", "40.0% (35.8 to 44.4)", "15.2 to 64.8", "30.0 to 50.0"]),  # t = 4.303
        ("low", [0.0, 0.1], ["0 1", "5.0% (3.4 to 7.3)", "0.0 to 68.5", "0.0 to 10.0"]),
        ("all", [1.0, 1.0], ["0 1", "100.0% (99.2 to 100.0)", "100.0 to 100.0", "100.0 to 100.0"]),
    ):
        put(tmp_path / name, "accuracy", *(row(i, dev, plain_step_seconds=1.5) for i, dev in enumerate(shares)))
        rest = ["-", "30%", "1,000", "1.0 (1.50 s)", "cpu, float32"]
        assert lines(report.write_tables(tmp_path / name)) == [["rope, pretrained", "own", "fast", *cells, *rest]]


def test_a_run_shows_its_own_rows(tmp_path):
    """Bugs: it showed the rows of two machines; matplotlib refused an interval that began just below 0."""
    assert lines(report.write_run(tmp_path, "own", "fast", 0)) == []
    here = row(0, 1.0, hardware="gpu", date="2026-11-25T09:00:00+00:00", test=0.9, test_n=100)
    others = (row(0, 0.2, **other) for other in ({"recipe": "best"}, {"data": "course"}, {"variant": "vanilla"}))
    put(tmp_path, "accuracy", here, row(0, 0.3), row(1, 0.5), *others)
    london = {"what": report.MODELS[1], "data": "own", "recipe": "fast", "seed": 0, "n": 500, "dev": 0.05}
    put(tmp_path, "controls", row(0, 0.0, what=report.MODELS[0]), london)
    text = report.write_run(tmp_path, "own", "fast", 0)
    assert [line[0] for line in lines(text)] == list(report.MODELS[:4]) and lines(text)[3][-1] == "gpu, float32"
    assert lines(text)[3][4:7] == ["100.0% (99.2 to 100.0)", "90.0% (82.6 to 94.5)", "30%"]
    assert (tmp_path / "results.md").read_text() == text + "\n" and (tmp_path / "accuracy.png").exists()


def test_the_short_table_has_eight_lines(tmp_path):
    """The models by the main recipe on our data, then a line for each other recipe on the course's."""
    for recipe, data in (("fast", "own"), *((r, "course") for r in ("fast", "handout", "best", "excerpts", "smoke"))):
        put(tmp_path, "accuracy", *(row(0, 0.4, variant=v, recipe=recipe, data=data) for v in ("rope", "vanilla")))
    put(tmp_path, "controls", *(row(0, 0.05, what=what) for what in report.MODELS if ", pretrained" not in what))
    found = lines(report.short_table(report.read_models(tmp_path)))
    assert [line[0] for line in found] == [*report.MODELS, *["rope, pretrained; vanilla, pretrained"] * 3]
    assert found[3][1:] == ["own", "fast", "0", "40.0% (35.8 to 44.4)", "-", "30%", "60", "cpu, float32"]
    assert [line[1:3] for line in found[5:]] == [["course", recipe] for recipe in ("handout", "best", "excerpts")]


def add_comparison(folder, **ours) -> None:
    """Rows as sensitivity.py and modern_llm.py give them: 100 questions, the LLM asked in both ways, two data sets."""
    counts = {"only_original": 12, "only_reworded": 2, "p_mcnemar": 0.0129}
    mine = row(0, 0.3, n=100, original=0.3, reworded=0.2, parameters=3_300_000, **counts)
    put(folder, "sensitivity", mine | ours)
    for data, prompt, right in ((d, p, r) for d in ("course", "own") for p, r in (("bare", 0.0), ("instructed", 0.4))):
        cell = {"model": "tiny-llm", "data": data, "prompt": prompt, "n": 100, "parameters": 5, "exact": right}
        reworded = cell | {"template": "reworded", "normalised": right, **counts}
        put(folder, "modern_llm", cell | {"template": "original", "normalised": right + 0.1}, reworded)


def test_the_comparison_shows_both_wordings_with_intervals_and_the_paired_test(tmp_path):
    """Ours, of the latest machine alone (a bug), and the LLM's, own data first; dashes for what was not asked."""
    add_comparison(tmp_path)
    add_comparison(tmp_path, hardware="older gpu", original=0.9, date="2025")
    cell = {"model": "at/Llama-3.2-1B-Instruct", "data": "own", "prompt": "bare", "template": "original", "n": 10}
    put(tmp_path, "modern_llm", cell | {"parameters": 5, "exact": 0.0, "normalised": 0.5})
    none, alone, found = "0.0% (0.0 to 3.7)", "question alone", lines(report.write_comparison(tmp_path))
    ours = ["own", alone, "30.0% (21.9 to 39.6)", "20.0% (13.3 to 28.9)", "-", "-", "12 : 2", "0.013"]
    assert found[0] == ["our RoPE model (fast, seed 0)", "3,300,000", *ours]
    assert found[1][2:] == ["own", alone, "0.0% (0.0 to 27.8)", "-", "50.0% (23.7 to 76.3)", "-", "-", "-"]
    assert found[2][2:] == ["own", alone, none, none, "10.0% (5.5 to 17.4)", none, "12 : 2", "0.013"]
    assert [line[2] for line in found[3:6]] == ["own", "course", "course"] and found[3][3] == "with instructions"
    assert [line[3] for line in found[6:]] == [f"not run here: `make llm LLM={model}`" for model in LISTED[::2]]


def test_everything_is_written_anew_from_the_rows(tmp_path, monkeypatch, capsys):
    """report.py: every table between its marks and nothing else; every picture. Another folder changes no page."""
    results, pages = tmp_path / "results", (tmp_path / "README.md", tmp_path / "experiments" / "README.md")
    pages[1].parent.mkdir()
    places = (("results", "modern_llm"), ("curve", "ablation", "exposures", "losses", "robustness"))
    for page, marks in zip(pages, places, strict=True):
        page.write_text("".join(f"before\n<!-- {m} -->\nold\n<!-- /{m} -->\nafter\n" for m in marks))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    put(results, "accuracy", row(0, 0.4), row(0, 0.3, recipe="handout", data="course"))
    add_comparison(results)
    put(results, "curve", *(row(0, 0.2, epochs=n, loss=1.5, hardware=h) for n in (9, 18) for h in ("cpu", "gpu")))
    put(results, "ablation", *(row(0, 0.2, epochs=9, change=change) for change in (report.UNCHANGED, "batch 128")))
    asked = [[0, 20, 0], [4, 10, 5], [6, 10, 5], [8, 30, 30]]
    put(results, "exposures", *(row(seed, 0, epochs=9, asked=asked) for seed in (0, 1)))
    put(results, "losses", row(0, 0, losses={"115": 2.745, "460": 4.26}))
    report.record_robustness("python experiments/kills.py", "2 kills", {"kills": 2})
    assert report.main(["--results", str(results)]) == 0
    first, second = (page.read_text() for page in pages)
    assert "old" not in first + second and first.count("before\n<!-- ") == 2 and second.count(" -->\nafter\n") == 5
    assert "| rope, pretrained | own | fast | 0 | 40.0%" in first and "| tiny-llm | 5 | own |" in first
    assert "| own | rope | fast | 18 | 0 | 20.0% (16.7 to 23.7) | - | - | 1.0 | 1.500 | cpu, float32 |" in second
    assert "| own | rope | fast | 9 | batch 128 | 0 | 20.0% (16.7 to 23.7) |" in second
    assert "| own | rope | fast | 9 | 4 to 6 | 40 | 50.0% (35.2 to 64.8) |" in second
    assert "| rope | student 1 | course | - | 2.74 | 2.1 |" in second
    assert "| rope | ours, seed 0 | own | cpu, float32 | 2.745 (1.00) | 4.260 (2.00) | - |" in second
    assert "| `python experiments/kills.py` | 2 kills (" in second
    assert len(list(results.glob("*.png"))) == 6
    assert capsys.readouterr().out == "no page has a place for the table <!-- all_results -->\n"
    assert report.main(["--results", str(tmp_path / "expt")]) == 0  # no rows: tables without lines, no pictures
    assert (first, second) == tuple(page.read_text() for page in pages) and not list((tmp_path / "expt").glob("*.png"))
    with pytest.raises(UserError, match="marks"):
        report.put_between(pages[0], "speed", "new")

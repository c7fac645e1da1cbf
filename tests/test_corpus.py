"""The data at the project's root: written by corpus/build.py, with every property that it is held to."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from corpus import build
from utils import read_pairs, read_text

ROOT = Path(build.__file__).resolve().parent.parent


def test_check_passes():
    """`python corpus/build.py --check` finds every property in range, the four files byte for byte included."""
    command = [sys.executable, str(ROOT / "corpus" / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "0 out of range" in done.stdout, done.stdout


def test_check_fails_when_a_property_is_lost(capsys):
    """The check is no formality: with a Londoner's dev answer changed it reports, and ends with 1."""
    dev = (parts := build.split(build.read_people()))["dev"]
    i = next(i for i, p in enumerate(dev) if p.place == "London")
    dev[i] = replace(dev[i], place="Paris")
    assert build.check(parts) == 1
    assert "London in dev" in capsys.readouterr().out


def test_documents_stand_in_the_order_of_the_questions():
    """Line i of wiki.txt is about the person of question i, counting train, dev, test; test has questions alone."""
    documents = read_text(ROOT / "wiki.txt").split("\n")
    questions = []
    for name in ("birth_places_train.tsv", "birth_dev.tsv", "corpus/birth_test_answers.tsv"):
        questions += [q for _, q, _ in read_pairs(read_text(ROOT / name), name, with_answers=True)]
    asked = read_text(ROOT / "birth_test_inputs.tsv").rstrip("\n").split("\n")
    assert asked == questions[-len(asked) :]
    for document, question in zip(documents, questions, strict=True):
        name = question.removeprefix("Where was ").removesuffix(" born?")
        assert document.startswith(f"{name}. "), (document, question)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"document": "Someone else. Born in Rome ."}, "begins with the name"),
        ({"document": "Ann Example. Born in Rome."}, "ends in ' .'"),
        ({"place": "New York"}, "one ASCII word"),
        ({"document": "Ann Example. Born  in Rome ."}, "double space"),
        ({"document": "Ann Example. Born in Rome – they say ."}, "dashes"),
        ({"birth_year": "about 1900"}, "birth year"),
        ({"document": "Ann Example. Born to a Romeward family ."}, "inside another word"),
        ({"name": "Ann (Example)", "document": "Ann (Example). Born in Rome ."}, "name is clean"),
    ],
)
def test_faults_of_form_are_found(change, rule):
    """A line that breaks a rule of form is named with the rule; a good line is not."""
    good = build.Person("Ann Example", "Rome", "1900", "writer", "Ann Example. Born in Rome .")
    assert build.faults([good]) == []
    found = build.faults([replace(good, **change)])
    assert any(rule in fault for fault in found), found


def test_told_says_where_the_place_stands():
    """early: it ends within the first 112 characters; late: behind them; never: not as a word of its own."""
    for document, told in (
        ("A. " + "x" * 104 + " Rome .", "early"),
        ("A. " + "x" * 105 + " Rome .", "late"),
        ("A. Romero .", "never"),
    ):
        assert build.Person("A", "Rome", "?", "writer", document).told == told


NAMED = {  # answers, years of birth, and what the line tells (usually the answer); wrong ones are marked with *
    "a year of renaming": "Petersburg 1914, *Petersburg 1915, Petrograd 1920, *Leningrad 1924, Petersburg 1992",
    "several towns": "Christiania 1812, *Oslo 1912, *Istanbul 1884, Kolkata 2002, *Lemberg 1878, Rome 1980",
    "an unknown year matters only where there were several names": "Kiev ?, *Smyrna ?",
    "a word that names two towns": "Canton 1901",
    "another name in the line": "*Leningrad 1950 Born in Petersburg, Leningrad 1950 Born in Leningrad near Petersburg",
}


@pytest.mark.parametrize("cases", NAMED.values(), ids=NAMED)
def test_the_name_of_a_town_depends_on_the_year(cases):
    """An answer that the table contradicts for the year of birth is named; the right one is not."""
    names = build.read_town_names()
    for case in cases.split(", "):
        place, year, *told = case.removeprefix("*").split(" ", 2)
        document = f"Ann Example. {told[0] if told else f'Born in {place}'} ."
        one = build.Person("Ann Example", place, year, "writer", document)
        assert bool(build.misnamed([one], names)) == case.startswith("*"), case


def test_the_table_itself_is_checked():
    """Two names of a town for one year, and one name for two towns, are named."""
    oslo = build.TownName("Oslo", "Oslo", 1926, 3000)
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1925)]) == []
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1926)]) != []
    assert build.table_faults([oslo, build.TownName("Bergen", "Oslo", 0, 100)]) != []

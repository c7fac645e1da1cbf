"""The data at the project's root: written by corpus/build.py, with every property that it is held to."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import build
import pytest

from utils import read_pairs, read_text

ROOT = Path(build.__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def parts() -> dict[str, list[build.Person]]:
    """The people of each split."""
    return build.split(build.read_people())


def test_check_passes():
    """`python corpus/build.py --check` finds every property in range, the four files byte for byte included."""
    command = [sys.executable, str(ROOT / "corpus" / "build.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "0 out of range" in done.stdout, done.stdout


def test_check_fails_when_a_property_is_lost(parts, capsys):
    """The check is no formality: with a Londoner's dev answer changed it reports, and ends with 1."""
    dev = list(parts["dev"])
    i = next(i for i, p in enumerate(dev) if p.place == "London")
    dev[i] = replace(dev[i], place="Paris")
    assert build.check({**parts, "dev": dev}) == 1
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


def test_split_is_the_same_each_time_and_loses_nobody(parts):
    """The split depends on people and seed alone, holds everyone once, and another seed gives another."""
    people = build.read_people()
    again = build.split(list(reversed(people)))
    assert again == parts
    assert Counter(p.name for part in parts.values() for p in part) == Counter(p.name for p in people)
    assert build.split(people, seed=1)["dev"] != parts["dev"]


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


def person(name: str, place: str, year: str, text: str = "") -> build.Person:
    """A person whose line tells the place, if no text is given."""
    return build.Person(name, place, year, "writer", f"{name}. {text or f'Born in {place}'} .")


NAMED = {  # answers and years of birth; wrong ones are marked with *
    "a year of renaming": "Petersburg 1914, *Petersburg 1915, Petrograd 1920, *Leningrad 1924, Petersburg 1992",
    "several towns": "Christiania 1812, *Oslo 1912, *Istanbul 1884, Kolkata 2002, *Lemberg 1878, Rome 1980",
    "an unknown year matters only where there were several names": "Kiev ?, *Smyrna ?",
}


@pytest.mark.parametrize("cases", NAMED.values(), ids=NAMED)
def test_the_name_of_a_town_depends_on_the_year(cases):
    """An answer that the table contradicts for the year of birth is named; the right one is not."""
    names = build.read_town_names()
    for case in cases.split(", "):
        place, year = case.removeprefix("*").split()
        assert bool(build.misnamed([person("Ann Example", place, year)], names)) == case.startswith("*"), case


def test_exceptions_to_the_name_of_a_town(monkeypatch):
    """People whose latest year is known, a word that names two towns, and a line with both names."""
    names = build.read_town_names()
    monkeypatch.setitem(build.BORN_BY, "Ann Example", 1906)
    for one, is_named in (
        (person("Ernest Lawrence", "Canton", "1901"), False),
        (person("Ann Example", "Leningrad", "1950", "Born in Leningrad, she lives in Petersburg"), False),
        (person("Ann Example", "Leningrad", "1950", "Born in Petersburg, she wrote"), True),
        (person("Ann Example", "Smyrna", "?"), False),
        (person("Ann Example", "Izmir", "?"), True),
    ):
        assert bool(build.misnamed([one], names)) == is_named, one


def test_the_table_itself_is_checked():
    """Two names of a town for one year, and one name for two towns, are named."""
    oslo = build.TownName("Oslo", "Oslo", 1926, 3000)
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1925)]) == []
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1926)]) != []
    assert build.table_faults([oslo, build.TownName("Bergen", "Oslo", 0, 100)]) != []


SHAPES = {  # how sentences begin that the course's corpus has seldom or often; - stands before what is none of them
    "SOMEBODYS_CHILD": """Ann Lee, a tailor's son born in Rome, sang
        The son of a tailor, he was born in Rome
        - Born in Rome in 1901, she sang of a tailor's shop
        - Born in Rome in 1901, she sang for many years in the choirs of that city and wrote of a tailor's son""",
    "NATIONALITY_AND_OCCUPATION": """Ann Lee (1801, Rome -- 1860) is a well-known South African long-distance runner
        Ann Lee, an Irish landscape painter, was born in Rome
        Born in Rome, the Irish poet Ann Lee sang
        Ann Lee was a Polish-born French actress
        - Ann Lee was born in Rome to a French mother and an Irish painter
        - Ann Lee won the Australian Open""",
    "FULL_DATE": """born on 3 March 1822 in Rome
        born March 3, 1822, in Rome
        - born in March 1822""",
}


@pytest.mark.parametrize("pattern", SHAPES)
def test_shapes_of_sentences(pattern):
    """The parent's trade in an opening; a nationality with the person's occupation; a date with day and year."""
    find = re.match if pattern == "SOMEBODYS_CHILD" else re.search
    for line in map(str.strip, SHAPES[pattern].split("\n")):
        assert bool(find(getattr(build, pattern), line.removeprefix("- "))) != line.startswith("- "), line


def test_frames_blank_names_places_and_numbers():
    """Two lines that differ in name, place, capitalised words and numbers alone have one frame."""
    a = build.Person("Ann Lee", "Rome", "?", "writer", "Ann Lee. Lee, born in Rome in 1901, wrote Night Songs .")
    b = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, wrote Sea .")
    c = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, painted Sea .")
    assert build.frame(a) == build.frame(b)
    assert build.frame(a) != build.frame(c)

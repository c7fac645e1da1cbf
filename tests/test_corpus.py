"""The data at the project's root: written by corpus/build.py, with every property that it is held to."""

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
    """Line i of wiki.txt is about the person of question i, counting train, dev, test."""
    documents = read_text(ROOT / "wiki.txt").split("\n")
    questions = []
    for name in ("birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv"):
        questions += [q for _, q, _ in read_pairs(read_text(ROOT / name), name)]
    assert len(documents) == len(questions) == 2937
    for document, question in zip(documents, questions, strict=True):
        name = question.removeprefix("Where was ").removesuffix(" born?")
        assert document.startswith(f"{name}. "), (document, question)


def test_test_inputs_hold_no_answers_and_the_answers_fit():
    """birth_test_inputs.tsv has questions alone; corpus/birth_test_answers.tsv has the same with places."""
    asked = read_text(ROOT / "birth_test_inputs.tsv").split("\n")
    assert not any("\t" in line for line in asked)
    answers = read_text(ROOT / "corpus" / "birth_test_answers.tsv").split("\n")
    assert [line.partition("\t")[0] for line in answers] == asked


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
        ({"place": "Málaga"}, "one ASCII word"),
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
    person = build.Person("A", "Rome", "?", "writer", "A. Born in Rome .")
    assert person.told == "early"
    padded = "A. " + "x" * 105 + "Rome"
    assert len(padded) == 112
    assert replace(person, document="A. " + "x" * 104 + " Rome .").told == "early"
    assert replace(person, document="A. " + "x" * 105 + " Rome .").told == "late"
    assert replace(person, document="A. Romero .").told == "never"


def person(name: str, place: str, year: str, text: str = "") -> build.Person:
    """A person whose line tells the place, if no text is given."""
    return build.Person(name, place, year, "writer", f"{name}. {text or f'Born in {place}'} .")


def test_everybody_has_the_name_of_the_time():
    """No answer and no line contradicts renamed.tsv; more than 100 people are from its towns."""
    people, names = build.read_people(), build.read_town_names()
    assert build.misnamed(people, names) == []
    assert sum(p.place in {n.name for n in names} for p in people) > 100


@pytest.mark.parametrize(
    ("place", "year", "fine"),
    [
        ("Petersburg", "1914", True),  # the year of the renaming: the old name
        ("Petersburg", "1915", False),
        ("Petrograd", "1920", True),
        ("Leningrad", "1924", False),
        ("Petersburg", "1991", False),
        ("Petersburg", "1992", True),
        ("Christiania", "1812", True),
        ("Oslo", "1912", False),
        ("Kristiania", "1890", False),
        ("Istanbul", "1884", False),
        ("Mumbai", "1956", False),
        ("Kolkata", "2002", True),
        ("Edo", "1872", False),
        ("Pest", "1900", False),
        ("Wroclaw", "1930", False),
        ("Lemberg", "1878", False),
        ("Saigon", "1980", False),
        ("Rome", "1980", True),
    ],
)
def test_the_name_of_a_town_depends_on_the_year(place, year, fine):
    """An answer that the table contradicts for the year of birth is named; the right one is not."""
    found = build.misnamed([person("Ann Example", place, year)], build.read_town_names())
    assert (found == []) == fine, found


def test_an_uncertain_year_is_enough_only_where_it_does_not_matter(monkeypatch):
    """With birth year ?, the latest year in question decides; a town with a single name needs none."""
    names = build.read_town_names()
    assert build.misnamed([person("Ann Example", "Kiev", "?")], names) == []
    assert build.misnamed([person("Ann Example", "Smyrna", "?")], names) != []
    monkeypatch.setitem(build.BORN_BY, "Ann Example", 1906)
    assert build.misnamed([person("Ann Example", "Smyrna", "?")], names) == []
    assert build.misnamed([person("Ann Example", "Izmir", "?")], names) != []


def test_a_word_can_name_two_towns():
    """Canton is in South Dakota too, and York in England; Toronto's York is for those who are listed."""
    names = build.read_town_names()
    assert build.misnamed([person("Ernest Lawrence", "Canton", "1901")], names) == []
    assert build.misnamed([person("Guy Fawkes", "York", "1570")], names) == []
    assert build.misnamed([person("Robert Baldwin", "York", "1804")], names) == []
    assert build.misnamed([person("Robert Baldwin", "York", "1840")], names) != []


def test_a_line_does_not_have_another_name_for_the_town():
    """A line that calls the place by its other name, and not by the answer, is named."""
    names = build.read_town_names()
    wrong = person("Ann Example", "Leningrad", "1950", "Born in Petersburg, she wrote")
    silent = person("Ann Example", "Leningrad", "1950", "She wrote")
    both = person("Ann Example", "Leningrad", "1950", "Born in Leningrad, she lives in Petersburg")
    assert build.misnamed([silent, both], names) == []
    assert any("another name" in fault for fault in build.misnamed([wrong], names))


def test_the_table_itself_is_checked():
    """Two names of a town for one year, and one name for two towns, are named."""
    oslo = build.TownName("Oslo", "Oslo", 1926, 3000)
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1925)]) == []
    assert build.table_faults([oslo, build.TownName("Oslo", "Christiania", 1625, 1926)]) != []
    assert build.table_faults([oslo, build.TownName("Bergen", "Oslo", 0, 100)]) != []


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("Ann Lee, a tailor's son born in Rome, sang", True),
        ("A ship captain's youngest daughter born in Rome, she sang", True),
        ("The son of a tailor, he was born in Rome", True),
        ("Born in Rome in 1901, she sang of a tailor's shop", False),
        ("Born in Rome in 1901, she sang for many years in the choirs of that city and wrote of a tailor's son", False),
    ],
)
def test_somebodys_child(text, hit):
    """An opening with the parent's trade is found; a tailor's son far behind is not."""
    assert (build.SOMEBODYS_CHILD.match(text) is not None) == hit


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("Ann Lee was an Austrian painter", True),
        ("Ann Lee (1801, Rome -- 1860) is a well-known South African long-distance runner", True),
        ("Ann Lee, an Irish landscape painter, was born in Rome", True),
        ("An Irish poet born in Rome, she sang", True),
        ("Born in Rome, the Irish poet Ann Lee sang", True),
        ("Ann Lee was a Polish-born French actress", True),
        ("Ann Lee was born in Rome to a French mother and an Irish painter", False),
        ("Ann Lee retold the German classics", False),
        ("Ann Lee won the Australian Open", False),
        ("Ann Lee was a painter", False),
    ],
)
def test_nationality_with_occupation(text, hit):
    """The nationality must belong to the person and to a word for an occupation."""
    assert (build.NATIONALITY_AND_OCCUPATION.search(text) is not None) == hit


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("born on 3 March 1822 in Rome", True),
        ("born March 3, 1822, in Rome", True),
        ("born in March 1822", False),
        ("born on 3 March", False),
        ("in 1822, on 3 marches", False),
    ],
)
def test_full_date(text, hit):
    """Day, month and year, in either order."""
    assert (build.FULL_DATE.search(text) is not None) == hit


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("Born in Columbus, Ohio, she sang", True),
        ("Ann Lee (born 1901, Columbus, Ohio) sang", True),
        ("Born in Columbus, Lee sang", False),  # her own name, not a region
        ("Born in Columbus, she sang in Ohio", False),
    ],
)
def test_region_behind_the_place(text, hit):
    """A capitalised word behind the place is a region, unless it is the person's name."""
    assert build.tells_region(person("Ann Lee", "Columbus", "1901", text)) == hit


def test_shapes_are_counted_over_all_people_and_shown_with_the_course():
    """Each count is of the people it was given, and its row shows the course's figure."""
    people = [
        person("Ann Lee", "Columbus", "1901", "Born on 3 March 1901 in Columbus, Ohio, Lee was an American painter"),
        person("Bo Ek", "Oslo", "1950", "A tailor's son from Oslo, Ek sang"),
    ]
    rows = build.shapes(people)
    assert [row.value for row in rows] == [1, 0.5, 0.5, 0.5]
    assert all("course: " in row.row() for row in rows)


def test_frames_blank_names_places_and_numbers():
    """Two lines that differ in name, place, capitalised words and numbers alone have one frame."""
    a = build.Person("Ann Lee", "Rome", "?", "writer", "Ann Lee. Lee, born in Rome in 1901, wrote Night Songs .")
    b = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, wrote Sea .")
    c = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, painted Sea .")
    assert build.frame(a) == build.frame(b)
    assert build.frame(a) != build.frame(c)

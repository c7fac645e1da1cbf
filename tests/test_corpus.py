"""The data at the project's root: written by corpus/build.py, with every property that it is held to."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import build
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


def test_frames_blank_names_places_and_numbers():
    """Two lines that differ in name, place, capitalised words and numbers alone have one frame."""
    a = build.Person("Ann Lee", "Rome", "?", "writer", "Ann Lee. Lee, born in Rome in 1901, wrote Night Songs .")
    b = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, wrote Sea .")
    c = build.Person("Bo Ek", "Oslo", "?", "writer", "Bo Ek. Ek, born in Oslo in 1877, painted Sea .")
    assert build.frame(a) == build.frame(b)
    assert build.frame(a) != build.frame(c)

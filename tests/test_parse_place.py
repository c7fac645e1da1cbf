"""engine/parse_place.py: the place that people read in replies as models write them, and what counts as the same."""

import re
import time
from pathlib import Path

import pytest

from engine.parse_place import normalise, parse_place, without_thoughts
from engine.wordings import ORIGINAL, REWORDED, ask_about

TABLES = Path(__file__).with_name("replies.txt").read_text(encoding="utf-8").split("\n# ")[1:]


def cases(table: str) -> list[tuple[str, str, str]]:
    """(question, reply, place) of a table."""
    found = []
    for paragraph in re.sub(r"\n +", " ", table).strip().split("\n")[1:]:
        who, place, replies = paragraph.split(" | ", 2)
        wording, name = {"O": ORIGINAL, "R": REWORDED}[who[0]], who[2:]
        for reply in replies.split(" / "):
            text = reply.replace(r"\n", "\n").replace("NAME", name)
            found.append((ask_about(name, wording), text, place.strip("-")))
    return found


BARE = [("Where was Marie Curie born?", "  Warsaw\n", "Warsaw"), ("Where was Marie Curie born?", "", "")]
ALL = [*BARE, *(case for table in TABLES for case in cases(table))]


@pytest.mark.parametrize(("question", "raw", "place"), ALL)
def test_parser(question: str, raw: str, place: str):
    """The place, whatever a model wraps around it; nothing where it names none."""
    assert parse_place(raw, question) == place


def test_there_are_enough_replies():
    """Of the real ones, 20 name a place and 10 name none; no two of a table are the same."""
    assert [len(set(cases(table))) for table in TABLES] == [95, 40, 33]
    places = [place for _, _, place in cases(TABLES[-1])]
    assert sum(map(bool, places)) >= 20 and places.count("") >= 10


def test_time():
    """A reply that repeats itself to the end of the longest allowed costs no more than a moment."""
    for piece in ("In ", "A ", "born in Ab ", "the a city ", "not ", "but not ", "While ", "[a](", "no. "):
        start = time.monotonic()
        parse_place(piece * (6000 // len(piece)), "Where was Marie Curie born?")
        assert time.monotonic() - start < 5, piece


SAME = "Zürich = zurich; WARSAW = Warsaw; Łódź = Lodz; Paris, France = Paris; the Bronx = Bronx; Kraków = Krakow; "
SAME += "St. Louis = Saint Louis; Tórshavn. = Torshavn; Århus = Arhus; Gießen = Giessen; Winston-Salem = Winston Salem"


@pytest.mark.parametrize("pair", SAME.split("; "))
def test_normalised_places_are_equal(pair: str):
    """Case, accents, the country, the article and punctuation do not count; another place stays another place."""
    a, b = map(normalise, pair.split(" = "))
    assert a == b
    assert normalise("New York") != normalise("York") and normalise("") != normalise("Paris")


def test_thoughts():
    """What stands before </think> goes; of a reply that never leaves it, nothing stays."""
    assert without_thoughts("<think>Paris?</think>\nRome") == "Rome"
    assert without_thoughts("Paris?</think>Rome") == "Rome"
    assert without_thoughts("<think>Paris? Rome") == ""
    assert without_thoughts("Rome") == "Rome"

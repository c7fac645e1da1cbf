"""parse_place.py: the place that a reply names, as a person would read it, and which spellings are the same place."""

import re
import time
from pathlib import Path

import pytest

from engine.wordings import ORIGINAL, REWORDED, ask_about
from parse_place import normalise, parse_place

TABLES = Path(__file__).with_name("replies.txt").read_text(encoding="utf-8").split("\n# ")[1:]


def cases(table: str) -> list[tuple[str, str, str]]:
    """(question, reply, place) for every reply of a table in replies.txt."""
    found = []
    for paragraph in re.sub(r"\n +", " ", table).strip().split("\n")[1:]:
        who, place, replies = paragraph.split(" | ", 2)
        wording, name = {"O": ORIGINAL, "R": REWORDED}[who[0]], who[2:]
        for reply in replies.split(" / "):
            text = reply.replace(r"\n", "\n").replace("NAME", name)
            found.append((ask_about(name, wording), text, place.strip("-")))
    return found


ASKED = "Where was Marie Curie born?"
BARE = [(ASKED, "  Warsaw\n", "Warsaw"), (ASKED, "Warsaw\u200b", "Warsaw"), (ASKED, "", "")]
ALL = [*BARE, *(case for table in TABLES for case in cases(table))]


@pytest.mark.parametrize(("question", "raw", "place"), ALL)
def test_parser(question: str, raw: str, place: str):
    """The place, whatever surrounds it; an empty string if the reply names none."""
    assert parse_place(raw, question) == place


def test_time():
    """A repetitive reply of the greatest length takes less than 5 seconds (no catastrophic backtracking)."""
    for piece in ("In ", "A ", "born in Ab ", "the a city ", "not ", "but not ", "While ", "[a](", "no. "):
        start = time.monotonic()
        parse_place(piece * (6000 // len(piece)), "Where was Marie Curie born?")
        assert time.monotonic() - start < 5, piece


SAME = "Zürich = zurich; WARSAW = Warsaw; Łódź = Lodz; Paris, France = Paris; the Bronx = Bronx; Kraków = Krakow; "
SAME += "St. Louis = Saint Louis; Tórshavn. = Torshavn; Århus = Arhus; Gießen = Giessen; Winston-Salem = Winston Salem"


@pytest.mark.parametrize("pair", SAME.split("; "))
def test_normalised_places_are_equal(pair: str):
    """Case, accents, country, article and punctuation are ignored; different places stay different."""
    a, b = map(normalise, pair.split(" = "))
    assert a == b
    assert normalise("New York") != normalise("York") and normalise("") != normalise("Paris")

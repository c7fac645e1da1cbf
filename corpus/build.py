"""Write the four data files from people.tsv, and measure them.

    python corpus/build.py            writes wiki.txt, birth_places_train.tsv, birth_dev.tsv,
                                      birth_test_inputs.tsv and corpus/birth_test_answers.tsv
    python corpus/build.py --check    measures every property that the data is held to, prints a table,
                                      and ends with exit code 1 if one is out of range

people.tsv has a header and one person a line: name, place, birth_year (? if uncertain), field, document.
renamed.tsv has the towns with more than one name: town, name, and the first and last birth year for which
the name is the answer (empty: without limit; "never" for a name that is no answer).
"""

import argparse
import csv
import gzip
import random
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils import cli

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SPLITS = {"train": 2000, "dev": 500, "test": 437}
LONDON_IN_DEV = 25
SEED = 18786  # of the course; had its split lacked a property of --check, the next would do
VISIBLE = 112  # characters of a document that a truncated example can show: 7/8 of the block of 128
# A simple rule for where a document tells the place, as in the course's corpus (`found_by_rule`).
TITLE = re.compile(r".*?\w\w\. ")
BEFORE_A_PLACE = re.compile(r"(?:\b(?:in|at|near|from|of)(?: the)? |\b\d{4}\)?,? )$")
BEHIND_A_MONTH = re.compile(r",? \d")
MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
FULL_DATE = re.compile(rf"\b(?:\d{{1,2}} (?:{MONTH}) \d{{3,4}}|(?:{MONTH}) \d{{1,2}}, \d{{3,4}})\b")
SOMEBODYS_CHILD = re.compile(r".{0,60}?(?:'s? (?:[a-z-]+ ){0,2}(?:son|daughter)\b|\b(?:son|daughter) of an? )")
NATIONALITIES = """
Afghan African Albanian Algerian American Arab Argentine Argentinian Armenian Australian Austrian Azerbaijani
Bangladeshi Barbadian Belarusian Belgian Bengali Bolivian Bosnian Brazilian British Bulgarian Burmese Byzantine
Cameroonian Canadian Catalan Chilean Chinese Colombian Croatian Cuban Czech Danish Dutch Ecuadorian Egyptian English
Estonian Ethiopian Filipino Finnish Flemish French Georgian German Ghanaian Greek Guyanese Haitian Honduran Hungarian
Icelandic Indian Indonesian Iranian Iraqi Irish Israeli Italian Jamaican Japanese Kenyan Korean Kyrgyz Latvian
Lebanese Lithuanian Malaysian Malian Mauritian Mexican Mongolian Moroccan Nepali Nigerian Norwegian Ottoman Pakistani
Persian Peruvian Polish Portuguese Prussian Roman Romanian Russian Scottish Senegalese Serbian Singaporean Slovak
Slovene Slovenian Soviet Spanish Surinamese Swedish Swiss Syrian Tanzanian Thai Tunisian Turkish Ugandan Ukrainian
Uruguayan Venezuelan Vietnamese Welsh Yugoslav Zimbabwean New_Zealand Puerto_Rican South_African Sri_Lankan
"""
NATIONALITY = "|".join(NATIONALITIES.split()).replace("_", " ")
# An occupation is recognised by its ending, or is one of a few listed words; relatives are left out.
OCCUPATION = (
    r"(?!\w*(?:father|mother|brother|sister|daughter|parent)s?\b)(?!for\b|government\b|parliament\b)"
    r"[a-z-]*(?:er|or|ist|ian|eur|ant|ent|ect|man|woman|ete|ot|ess|ic|poet|king|queen|monk|chef|star|judge|pope"
    r"|general|coach|playwright|diplomat|bishop|priest|jockey|scholar|soprano|tenor|baritone|forward|model|soldier"
    r"|jurist)s?\b(?!')"
)
NATIONAL = rf"(?:[A-Z][a-z]+-(?:born )?)?(?:{NATIONALITY})(?:[ -][A-Z][a-z]+)?"
NATIONALITY_AND_OCCUPATION = re.compile(
    # "was an Austrian painter", ", an Austrian landscape painter," or "An Austrian painter born in Rome"
    rf"(?:\b(?:is|was) (?:an?|the) (?:[a-z-]+,? ){{0,3}}?|, an? (?:[a-z-]+ )?|(?:^|\. )An? )"
    rf"{NATIONAL}(?: [\w-]+,?){{0,2}}? {OCCUPATION}"
    # "The Austrian painter was born ...", ", the Austrian painter ...", "the Austrian painter Ender"
    rf"|(?:^The|[,;.] [Tt]he) {NATIONAL}(?: [a-z-]+)? {OCCUPATION}|\bthe {NATIONAL}(?: [a-z-]+)? {OCCUPATION}(?= [A-Z])"
)
# Names in renamed.tsv that another town shares, with the people born in the table's town.
HOMONYMS = {"Canton": set(), "Salisbury": set(), "York": {"Robert Baldwin"}}
# People of renamed towns whose birth year is uncertain: the latest that sources give.
BORN_BY = {
    "Aristotle Onassis": 1906,
    "Julian": 332,
    "Michael Snow": 1929,
    "Stephen Heller": 1815,
    "Yekaterina Dashkova": 1744,
}
# Measured in the course's corpus (its 2,500 documents of train and dev): a count, and three shares.
COURSE_CHILD = 9
COURSE_NATIONALITY = 0.393
COURSE_DATE = 0.472
COURSE_REGION = 0.360
DECILES = [83, 96, 107, 119, 131, 144, 159, 179, 213]  # of document lengths in the course's corpus


@dataclass(frozen=True)
class Person:
    """A row of people.tsv."""

    name: str
    place: str
    birth_year: str
    field: str
    document: str

    @property
    def told(self) -> str:
        """Where the document gives the place: "early" (in its visible part), "late" or "never"."""
        match = re.search(rf"(?<!\w){re.escape(self.place)}(?!\w)", self.document)
        if match is None:
            return "never"
        return "early" if match.end() <= VISIBLE else "late"


def read_people() -> list[Person]:
    """The source table."""
    with open(HERE / "people.tsv", encoding="utf-8", newline="") as file:
        return [Person(**row) for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


@dataclass(frozen=True)
class TownName:
    """A row of renamed.tsv: a name of a town, and the birth years for which it is the answer (never: none)."""

    town: str
    name: str
    first: float
    last: float

    def holds(self, first: float, last: float) -> bool:
        """Whether the town bore this name all through these years."""
        return self.first <= first and last <= self.last


def read_town_names() -> list[TownName]:
    """The table of towns with more than one name."""
    inf = float("inf")
    with open(HERE / "renamed.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        TownName(row["town"], row["name"], inf, -inf)
        if row["from"] == "never"
        else TownName(row["town"], row["name"], float(row["from"] or -inf), float(row["to"] or inf))
        for row in rows
    ]


def split(people: list[Person], seed: int = SEED) -> dict[str, list[Person]]:
    """Split the people at random: 25 Londoners in dev, the same mix of `told` in each.

    Londoners and others are each shuffled, sorted by where their document tells the place, and dealt
    out at even intervals; so each split gets its share of every kind.
    """
    rng = random.Random(seed)
    parts: dict[str, list[Person]] = {name: [] for name in SPLITS}
    for london in (True, False):
        group = [p for p in sorted(people, key=lambda p: p.name) if (p.place == "London") == london]
        rng.shuffle(group)
        group.sort(key=lambda p: p.told)
        dev = LONDON_IN_DEV if london else SPLITS["dev"] - LONDON_IN_DEV
        test = round(SPLITS["test"] * len(group) / len(people))
        rest = []
        for i, person in enumerate(group):
            (parts["dev"] if (i + 1) * dev // len(group) > i * dev // len(group) else rest).append(person)
        for i, person in enumerate(rest):
            hit = (i + 1) * test // len(rest) > i * test // len(rest)
            parts["test" if hit else "train"].append(person)
    for part in parts.values():
        rng.shuffle(part)
    return parts


def question(person: Person) -> str:
    """The question that is asked about a person."""
    return f"Where was {person.name} born?"


def files(parts: dict[str, list[Person]]) -> dict[Path, bytes]:
    """The content of every file that is written."""
    pairs = {k: "".join(f"{question(p)}\t{p.place}\n" for p in part) for k, part in parts.items()}
    everyone = [p for part in parts.values() for p in part]
    texts = {
        ROOT / "wiki.txt": "\n".join(p.document for p in everyone),
        ROOT / "birth_places_train.tsv": pairs["train"],
        ROOT / "birth_dev.tsv": pairs["dev"],
        ROOT / "birth_test_inputs.tsv": "".join(question(p) + "\n" for p in parts["test"]),
        HERE / "birth_test_answers.tsv": pairs["test"],
    }
    return {path: text.encode("utf-8") for path, text in texts.items()}


# ---------------------------------------------------------------- measuring


def frame(person: Person) -> str:
    """What is left of a document when the name, the place, capitalised words and numbers are blanked."""
    text = person.document.removeprefix(person.name + ". ").replace(person.name, "_").replace(person.place, "_")
    for word in person.name.split():
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "_", text)
    text = re.sub(r"(?<!\w)[^\W\d_a-z][\w'-]*", "_", text)
    text = re.sub(r"[^\x00-\x7f]+", "_", text)
    text = re.sub(r"\d[\d,.]*", "#", text)
    return re.sub(r"_(?:[ -]_)+", "_", text)


def found_by_rule(person: Person) -> bool:
    """Whether a simple rule finds the place: the first capitalised word behind the title that the document has
    not had before and that stands behind "in", "at", "near", "from", "of" or a year; without one, the first new one.
    """
    document = person.document
    title = TITLE.match(document)
    start = title.end() if title else 0
    words = list(re.finditer(r"\w+", document))
    seen, new = {word.group() for word in words if word.start() < start}, []
    for word in words:
        if word.start() >= start and word.group()[0].isupper() and word.group() not in seen:
            new.append(word)
        seen.add(word.group())
    places = [
        word
        for word in new
        if BEFORE_A_PLACE.search(document[: word.start()]) and not BEHIND_A_MONTH.match(document, word.end())
    ]
    return [word.group() for word in (places or new)[:1]] == [person.place]


@dataclass(frozen=True)
class Measure:
    """A property: what was found, and the range it must lie in."""

    what: str
    value: float
    low: float
    high: float
    percent: bool = False
    course: float | None = None  # the same in the course's corpus, where it is worth showing

    @property
    def ok(self) -> bool:
        return self.low <= self.value <= self.high

    def row(self) -> str:
        """A line of the table."""

        def show(v: float) -> str:
            if v in (float("inf"), float("-inf")):
                return "any"
            return f"{v:.1%}" if self.percent else f"{v:.3f}".rstrip("0").rstrip(".")

        target = show(self.low) if self.low == self.high else f"{show(self.low)} .. {show(self.high)}"
        course = "" if self.course is None else f"   (course: {show(self.course)})"
        return f"{self.what:<58} {show(self.value):>9}   {target:<18} {'ok' if self.ok else 'OUT OF RANGE'}{course}"


def faults(people: list[Person]) -> list[str]:
    """Lines that break a rule of form, in words."""
    found = []
    for p in people:
        rules = {
            "the document begins with the name": p.document.startswith(p.name + ". "),
            "the document ends in ' .'": p.document.endswith(" .") and not p.document.endswith("  ."),
            "the place is one ASCII word": re.fullmatch(r"[A-Za-z]+", p.place) is not None,
            "no tab, line break, mask, pad or double space": not re.search(r"[\t\r\n\u2047\u25a1]|  ", p.document),
            "plain quotation marks and dashes": not re.search("[\u2018\u2019\u201c\u201d\u2013\u2014]", p.document),
            "the name is clean": p.name == p.name.strip() and not re.search(r"[\t,()]", p.name),
            "the birth year is a number or ?": re.fullmatch(r"-?\d{1,4}|\?", p.birth_year) is not None,
            "the place is not told inside another word alone": p.told != "never" or p.place not in p.document,
            "the question fits the block with its answer": len(question(p)) + len(p.place) + 2 <= 128,
        }
        found += [f"{p.name}: broken rule: {rule}" for rule, kept in rules.items() if not kept]
    return found


def table_faults(names: list[TownName]) -> list[str]:
    """Contradictions within the table: two names of a town for one year, or one name for two towns."""
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if a.town == b.town and max(a.first, b.first) <= min(a.last, b.last):
                found.append(f"{a.town}: both {a.name} and {b.name} in one year")
            if a.town != b.town and a.name == b.name:
                found.append(f"{a.name}: both {a.town} and {b.town}")
    return found


def misnamed(people: list[Person], names: list[TownName]) -> list[str]:
    """Answers that are not the name of the town in the year of birth, and faults of the table, in words."""
    found = table_faults(names)
    town_of = {n.name: n.town for n in names}
    for p in people:
        town = town_of.get(p.place)
        if town is None or p.name not in HOMONYMS.get(p.place, {p.name}):
            continue
        known = BORN_BY.get(p.name) if p.birth_year == "?" else int(p.birth_year)
        years = (float("-inf"), float("inf")) if known is None else (known, known)
        right = [n.name for n in names if n.town == town and n.holds(*years)]
        if p.place not in right:
            when = "no year is known" if known is None else f"born in {known}"
            found.append(f"{p.name}: {p.place}, {when}: renamed.tsv has {' or '.join(right) or 'no name for this'}")
        others = {n.name for n in names if n.town == town} - {p.place}
        if p.told == "never" and others & set(re.findall(r"\w+", p.document)):
            found.append(f"{p.name}: the line has another name for {p.place}")
    return found


def tells_region(person: Person) -> bool:
    """Whether a region or country stands directly behind the place ("Columbus, Ohio").

    A capitalised word that belongs to the person's name is none ("Born in Paris, Caron ...").
    """
    behind = re.findall(rf"(?<!\w){re.escape(person.place)}, ([A-Z]\w*)", person.document)
    return any(word not in re.findall(r"\w+", person.name) for word in behind)


def shapes(people: list[Person]) -> list["Measure"]:
    """How often the documents have the turns of phrase of an encyclopedia, next to the course's corpus."""
    bodies = [p.document.removeprefix(p.name + ". ") for p in people]
    n = len(people)

    def share(pattern: re.Pattern[str]) -> float:
        return sum(pattern.search(body) is not None for body in bodies) / n

    child = sum(SOMEBODYS_CHILD.match(body) is not None for body in bodies)
    region = sum(map(tells_region, people)) / n
    return [
        Measure("lines that open with somebody's son or daughter", child, 0, 100, course=COURSE_CHILD),
        Measure("nationality with occupation", share(NATIONALITY_AND_OCCUPATION), 0.08, 1, True, COURSE_NATIONALITY),
        Measure("a full date", share(FULL_DATE), 0.15, 1, True, COURSE_DATE),
        Measure("a region or country behind the place", region, 0.20, 1, True, COURSE_REGION),
    ]


def measure(parts: dict[str, list[Person]]) -> list[Measure]:
    """Every property that the data is held to."""
    inf = float("inf")
    people = [p for part in parts.values() for p in part]
    n = len(people)
    lengths = sorted(len(p.document) for p in people)
    out = [Measure(f"people: {name}", len(part), SPLITS[name], SPLITS[name]) for name, part in parts.items()]
    out.append(Measure("different names", len({p.name for p in people}), n, n))
    out.append(Measure("lines that break a rule of form", len(faults(people)), 0, 0))
    out.append(Measure("places not named as renamed.tsv says", len(misnamed(people, read_town_names())), 0, 0))
    frames = Counter(map(frame, people))
    own = sum(count == 1 for count in frames.values()) / n
    out.append(Measure("lines with a frame of their own", own, 0.88, 1, True))
    out.append(Measure("share of the commonest frame", max(frames.values()) / n, 0, 0.01, True))
    text = "\n".join(p.document for p in people)
    raw = text.encode("utf-8")
    out.append(Measure("gzip -9, share of the size", len(gzip.compress(raw, 9, mtime=0)) / len(raw), 0.35, 1))
    out.append(Measure("characters a document, mean", sum(lengths) / n, 129, 153))
    for k, target in enumerate(DECILES, 1):
        out.append(Measure(f"characters a document, decile {10 * k}", lengths[n * k // 10], target - 12, target + 12))
    for name, part in parts.items():
        told = Counter(p.told for p in part)
        share = (told["early"] + told["late"]) / len(part)
        out.append(Measure(f"documents that tell the place: {name}", share, 0.93, 0.97, True))
        early = told["early"] / len(part)
        out.append(Measure(f"... within the first {VISIBLE} characters: {name}", early, 0.87, 0.93, True))
    born = sum(re.search(r"\bborn\b", p.document, re.I) is not None for p in people) / n
    out.append(Measure("documents with the word 'born'", born, 0.81, 0.93, True))
    apposition = sum(re.search(r", (?:who was )?born\b", p.document) is not None for p in people)
    out.append(Measure("lines with ', born' or ', who was born'", apposition, 0, 499))
    out.append(
        Measure("documents whose place a simple rule finds", sum(map(found_by_rule, people)) / n, 0.85, 0.97, True)
    )
    out += shapes(people)
    out.append(Measure("distinct characters", len(set(text)), 250, inf))
    out.append(Measure("... outside ASCII, occurrences", sum(ord(c) > 127 for c in text), 0, inf))
    accents = sum(not p.name.isascii() for p in people) / n
    out.append(Measure("names with a letter outside ASCII", accents, 0.05, 0.10, True))
    places = {name: Counter(p.place for p in part) for name, part in parts.items()}
    out.append(Measure("London in dev", places["dev"]["London"], LONDON_IN_DEV, LONDON_IN_DEV))
    out.append(Measure("London in train", places["train"]["London"] / len(parts["train"]), 0.038, 0.052, True))
    top = sum(count for _, count in places["train"].most_common(50)) / len(parts["train"])
    out.append(Measure("50 most frequent places, share of train", top, 0.38, 0.50, True))
    out.append(Measure("distinct places in train", len(places["train"]), 450, 600))
    out.append(Measure("dev places that train lacks", len(set(places["dev"]) - set(places["train"])), 25, 50))
    built = files(parts)
    same = sum(path.exists() and path.read_bytes() == content for path, content in built.items())
    out.append(Measure("files equal to what this program writes", same, len(built), len(built)))
    return out


def check(parts: dict[str, list[Person]]) -> int:
    """Print the table; 1 if anything is out of range."""
    people = [p for part in parts.values() for p in part]
    for fault in faults(people) + misnamed(people, read_town_names()):
        print(fault)
    rows = measure(parts)
    print(f"{'property':<58} {'found':>9}   target")
    for row in rows:
        print(row.row())
    bad = sum(not row.ok for row in rows)
    print(f"{len(rows)} properties, {bad} out of range")
    return 1 if bad else 0


def main() -> int:
    """Build, or check."""
    parser = argparse.ArgumentParser(description="Write the data files from corpus/people.tsv, or check them.")
    parser.add_argument("--check", action="store_true", help="measure, write nothing")
    args = parser.parse_args()
    parts = split(read_people())
    if args.check:
        return check(parts)
    for path, content in files(parts).items():
        path.write_bytes(content)
        print(f"wrote {path.relative_to(ROOT)} ({len(content):,} bytes)")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""[part 4c] Reading a birthplace from a model's reply, and comparing places leniently.

A chat model asked for a birthplace answers as it likes: "**Warsaw**, Poland", "She was born in 1867 in
the city of Warsaw", "The answer is \\boxed{Warsaw}", "I don't know". `parse_place` reads the place from
that, `normalise` makes two spellings of a place comparable. Both know nothing of the right answer.

How a reply is read: thoughts and markup go (`plain`); the person's name becomes "someone", since
London is in Jack London; the text is cut into sentences. A first sentence that is a place and no more
is the answer (`place_alone`). Otherwise the ways to state a birthplace (`STATED`) are looked for, the
most telling first, and `leading_place` takes the capitalised words that follow, up to a comma, a date
or a word that belongs to something else. A town is preferred to its country. Of two places that some
claim, the one that is called most accepted counts, else the first. Refusals are passed over, and so
are novels, films and people; "" is an answer too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(text.split())


MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
DAY = r"\d+(?:st|nd|rd|th)?\b"
DATE = re.compile(  # "14 March 1879, ", "March 14th, 1879 ", "in 1879 ", "c. 427 BC "
    r"(?:(?:on|in|circa|about|around) |ca?\. ?)?"
    rf"(?:(?:the )?(?:{DAY}(?: of)? )?(?:{MONTH})\b,? ?(?:{DAY})?(?:,? \d{{3,4}}\b)?"
    r"|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|\d{2,4}(?:-\d\d-\d\d|s)?\b)(?: (?:BCE?|AD|CE)\b)?[ ,;–-]*",
    re.IGNORECASE,
)
CONNECTORS = words("de del della di da do dos das du des la le les los las el al upon sur am an der den aan on of")
ABBREVIATIONS = words("st ste sta mt ft dr mr mrs ms jr sr d.c u.s u.k c ca approx")
# Words that end the search for a place, since what follows belongs to something else.
STOP = words("to by with and while when who whose whom which during under not never but because until if than nor")
STOP |= words("i he she they we you his her their my our no unknown")
ANY_STOP = "|".join(sorted(STOP))
# Words that start with a capital for their position alone.
POSITION = words("the a an in at near from it this that there here what is was now modern present-day")
NO_PLACES = STOP | words(
    "sure certainly yes okay ok well hmm ah hello hi unfortunately sorry apologies however although as note based "
    "according great good n/a na none unclear uncertain unspecified null nan someone thank thanks please let let's "
    f"monday tuesday wednesday thursday friday saturday sunday {MONTH.replace('|', ' ')}"
)
NO_TOWN = re.compile(r"(?:famil(?:y|ies)|parents?|household|father|mother|origin|descent|home)\b", re.IGNORECASE)
BUILDING = re.compile(r"\b(?:Hospital|House|Palace|Castle|Clinic|Street|Infirmary)$")
KIND = r"(?:city|town|village|suburb|hamlet|municipality|settlement|borough|place|port|community)"
AREA = rf"(?:{KIND}|state|province|region|county|country|district|area|island|kingdom|republic|territory|subcontinent)"
# "French" in "the French town of Lyon", "a French painter"; what ends in -ian may be a place, so a noun must follow.
FOLK = (
    r"(?:[A-Z]\S*(?:[a-z]ian|[aeo]an|ican|ish|ese)|\S*(?:French|German|Dutch|Greek|Swiss|Welsh|Czech|Thai|Roman|Ottoman"
    r"|Norman|Hindu|Muslim|Islamic|Arab|Israeli|Pakistani|Iraqi))"
)
PREPOSITION = r"(?:in|at|near|outside|from|within|on|around|between)"
# What leads to a place: "the picturesque French town of", "a village called", "what is now", "somewhere in the".
LEAD = re.compile(
    rf"(?:(?:(?!(?:{ANY_STOP}|after|someone)\b)(?:[a-z][\w'-]*|The|A|An|In|{FOLK}) ){{0,5}}?{AREA},?"
    rf"(?: (?:of|called|named|known as|{PREPOSITION}))? "
    r"|(?:[Ww]hat|which|that) (?:is|was)(?: now| then| today)? |The (?=[a-z])"
    rf"|(?:the|an?|{PREPOSITION}|In|At|Near|From|somewhere|modern(?:-day)?|present-day|ancient|old|now|then|probably"
    r"|possibly|likely|actually|indeed|either|specifically|(?:north|south|east|west)(?:ern)?|central"
    r"|(?:part|heart|outskirts|suburbs|cent(?:er|re)|coast|middle|north|south|east|west) of) )*"
)
COUNTRY = re.compile(
    r"United (?:States(?: of America)?|Kingdom)|U\.?S(?:\.?A)?|America|U\.?K|(?:Great )?Britain|England|Scotland|Wales"
    r"|Ireland|France|Germany|Austria|Italy|Spain|Portugal|Switzerland|Netherlands|Belgium|Denmark|Sweden|Norway|Finland"
    r"|Poland|Hungary|Czech Republic|Russia|Soviet Union|Ukraine|Greece|Turkey|Egypt|Israel|India|China|Japan|Australia"
    r"|New Zealand|Canada|Brazil|Argentina|South Africa|Nigeria"
)
CITY_OF = re.compile(rf"the {KIND}(?: or {KIND})? of ", re.IGNORECASE)
CONCLUSION = re.compile(r"\bmost (?:widely|commonly|generally|likely)\b")  # "the most widely accepted theory is"
REFUSAL = re.compile(
    r"\b(?:do|does|did|could|can|was|were|am|is|are|have|has)(?: not|n't) (?:\w+ ){0,3}?(?:know|have|find|sure|certain"
    r"|aware|familiar|able|confirm|determine|provide|available|recorded|documented|clear|recall|access|specified|any)\b"
    r"|\b(?:cannot|unable to|unknown|unclear)\b|\bI'm not\b|\bno (?:\w+ ){0,3}(?:information|records?|evidence|data)\b"
    r"|\bnot (?:publicly |widely |well )?(?:known|available|certain|documented)\b",
    re.IGNORECASE,
)


def leading_place(text: str) -> str:
    """The place that a phrase starts with: "the city of Ulm, Germany" -> "Ulm"; "" if it starts with none.

    A date and what leads to a place (LEAD) are skipped.
    """
    text = text.lstrip(" ,:(")
    date = DATE.match(text)
    text = text[date.end() if date else 0 :]
    text = text[LEAD.match(text).end() :]
    if re.match(rf"{FOLK} (?!(?:{PREPOSITION}|{ANY_STOP}|and|or|as|is|was)\b)[a-z]", text):
        return ""
    row = text.split()
    place: list[str] = []
    for word, following in zip(row, [*row, ""][1:], strict=True):
        bare = word.strip("\"'()[]{},;:!?“”‘’«»")
        if following[:1].islower():
            bare = bare.removesuffix("'s")
        core = bare.rstrip(".")
        follows = bool(place) and core.lower() in CONNECTORS
        if not core or core[0].isdigit() or ((core[0].islower() or core.lower() in NO_PLACES) and not follows):
            break
        abbreviated = bare.endswith(".") and core.lower() in ABBREVIATIONS
        place.append(bare if abbreviated else core)
        if word[-1] in ",;:!?)" or (word[-1] == "." and not abbreviated):
            break
    rest = " ".join(row[len(place) :])
    while place and place[-1].lower() in CONNECTORS:
        place.pop()
    if len(place) > 2 and re.fullmatch(KIND, place[0], re.IGNORECASE) and place[1] == "of":
        place = place[2:]
    return "" if place in (["The"], ["United"]) or NO_TOWN.match(rest) or len(place) > 5 else " ".join(place)


def place_after_preposition(text: str) -> str:
    """The first place after in, at, near ...: " on 14 March 1879 to a merchant in Ulm" -> "Ulm"."""
    spare = ""
    for found in re.finditer(r"\b(?:in|at|near|outside|from|within):?\s+", text, re.IGNORECASE):
        place = leading_place(text[found.end() :])
        if place and not BUILDING.search(place):
            return place
        spare = spare or place
    return spare


# Ways to state a birthplace, most telling first, each with the function that reads what follows.
STATED: list[tuple[re.Pattern, Callable[[str], str]]] = [
    (re.compile(pattern, re.IGNORECASE), reader)
    for pattern, reader in (
        (r"\b(?:answer|birth ?place|birth city|place of birth|city of birth)\s*[:=]\s*", leading_place),
        (r"\banswer (?:is|was|would be)(?: that)?(?! someone\b)\s*:?\s*", leading_place),
        (rf"\bborn\b.{{0,80}}?\bin (?:the|a) (?:[\w-]+ )?{KIND} of\s+", leading_place),
        (rf"\bborn\b.{{0,80}}?\b{KIND}\b.{{0,60}}?\b(?:named|called|known as)\s+", leading_place),
        (r"\bborn\b", place_after_preposition),
        (r"\bborn\s*:", leading_place),
        (r"\b(?:birth ?place|place of birth)\b.{0,60}?\b(?:is|was|as|be|being|lies|lay)\b\s*:?\s*", leading_place),
        (rf"\b(?:{KIND}|location|country)\s*[:=]\s*", leading_place),
        (rf"\b(?:the|this|that|his|her|their) (?:{KIND}|location) (?:is|was|would be)\s*:?\s*", leading_place),
        (r"\b(?:hail|come)[sd]? (?:originally )?from\s+|\boriginate[sd]? (?:from|in)\s+", leading_place),
        (r"\bcame from\s+|\bnative of\s+", leading_place),
        (r"\b(?:it|that|this)(?:'s| is| was| would be| must be)\s+", leading_place),
        (r"^(?:here|possible|some|the following)\b[^:]*:\s*", leading_place),
        (r"\b(?:believed|thought|said|known) to (?:be|have been)\s+", leading_place),
        (r"\b(?:guess|think|believe|suggest|say)(?: is| would be)?(?: it's| it is| it was)?\s*:?\s+", leading_place),
    )
]
# "Paris is the birthplace of ...", "Paris, France, is where ... was born"
PLACE_FIRST = re.compile(
    r"(.{2,60}?),? (?:is|was) (?:indeed |also )?"
    rf"(?:(?:the|his|her|their) (?:correct )?(?:birth ?place|place of birth|answer|{KIND} where)|where)\b",
    re.IGNORECASE,
)


def parse_place(text: str, question: str) -> str:
    """The place that a reply names as the birthplace, without its country; "" if it names none.

    Reads full sentences, labels ("City: ..."), lists (the first entry), markdown and LaTeX boxes;
    passes over thoughts, dates, the person's name, negations and refusals.

    Args:
        text: the reply, raw.
        question: what was asked.
    """
    name = re.sub(r"^(?:Where was|What is the birthplace of)\s+|(?:\s+born)?\?$", "", question)
    sentences = split_sentences(without_name(plain(text), name))
    if not sentences:
        return ""
    if place := place_alone(sentences[0], name):
        return place
    says = re.compile(r"\b(?:but|however|believed|thought|accepted)\b|\bborn in\b")
    told = [s for s in sentences if not REFUSAL.search(s) or says.search(s)]
    place = stated_place([s for s in told if CONCLUSION.search(s)]) or stated_place(told)
    if place:
        return more_exact(place, told)
    if (found := CITY_OF.match(sentences[0])) and not re.search(r"\bnot\b", sentences[0]):
        return leading_place(sentences[0][found.end() :])
    return next((place for sentence in told if (place := place_alone(sentence, name))), "")


def stated_place(sentences: list[str]) -> str:
    """The place in the most telling statement of a birthplace; "" if there is none."""
    for sentence in sentences:
        if (found := PLACE_FIRST.match(sentence)) and (place := leading_place(found[1])):
            return place
    for pattern, reader in STATED:
        for sentence in sentences:
            for found in pattern.finditer(sentence):
                denied = re.search(r"(?:\bnot|\bnever|n't)(?: \w+)? $", sentence[: found.start()])
                if not denied and (place := reader(sentence[found.end() :])):
                    return place
    return ""


def more_exact(place: str, sentences: list[str]) -> str:
    """The town where it follows its country: "in Italy, specifically in Turin", "in Italy. He was born in Turin".

    A place that is called a town already is not narrowed down to a part of it.
    """
    for sentence in sentences:
        if re.search(rf"\b{KIND} of {re.escape(place)}\b", sentence):
            return place
        found = re.search(rf"{re.escape(place)}[^,]*,? specifically,? (.*)", sentence)
        if found and (town := leading_place(found[1])):
            return town
    if COUNTRY.fullmatch(place):
        for sentence in sentences:
            found = re.match(r"(?:someone|s?he|they) (?:was|is) born\b(.*)", sentence, re.IGNORECASE)
            if found and (town := place_after_preposition(found[1])) and not COUNTRY.fullmatch(town):
                return town
    return place


def without_thoughts(text: str) -> str:
    """A reply without its <think> block; nothing is left of one that ends inside it."""
    return re.sub(r"<think>.*", "", text.rpartition("</think>")[2], flags=re.DOTALL).strip()


def plain(text: str) -> str:
    """A reply without thoughts, markup, special tokens and typographic quotes; entries of lists become lines."""
    text = re.sub(r"<\|[^|<>]*\|>|</?[a-z]+>", " ", without_thoughts(text))
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)|\[\d+\]", lambda m: m[1] or "", text)  # links, footnotes
    text = re.sub(r"^[ \t]*(?:[-*•+>|]+|#+|\d{1,2}[.)])[ \t]+", "", text, flags=re.MULTILINE)
    text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"answer: \1", re.sub(r"\\text\{([^{}]*)\}", r"\1", text))
    text = re.sub(r"[*`]+|__|(?<!\w)_|_(?!\w)|\$", "", text)
    denied = r"\b(?:not|never)(?: \w+)? born in [^.;]*?,? but (?:rather |instead )?(?:in )?"
    text = re.sub(denied, "born in ", text, flags=re.IGNORECASE)
    if not any(c.isupper() for c in text):  # no capitals at all: give them to what may be a name
        common = POSITION | CONNECTORS | NO_PLACES | words("born birthplace answer city town place")
        text = re.sub(r"[^\W\d_]+", lambda m: m[0] if m[0] in common else m[0].capitalize(), text)
    return text.strip()


def without_name(text: str, name: str) -> str:
    """The person's name becomes "someone"; a single word, which may be a place too, only as a subject."""
    after = "" if " " in name else r"(?= (?:was|is|hails|came|comes)\b|'s\b)"
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w){after}", "someone", text, flags=re.IGNORECASE) if name else text


def split_sentences(text: str) -> list[str]:
    """Sentences and lines, without greetings; a line that only introduces the next one joins it."""
    parts: list[str] = []
    for line in re.sub(r":[ \t]*\n\s*", ": ", text).split("\n"):
        start = 0
        for end in re.finditer(r"[.!?][\"')]*\s+(?=[^\W\d_a-z]|[\"'(])", line):
            word = line[start : end.start()].rsplit(None, 1)[-1:] or [""]
            core = word[0].strip("\"'(").lower()
            if line[end.start()] == "." and (core in ABBREVIATIONS or re.fullmatch(r"(?:\w\.)*\w", core)):
                continue
            parts.append(line[start : end.end()])
            start = end.end()
        parts.append(line[start:])
    greeting = (
        r"^(?:sure(?: thing)?|certainly|of course|ok(?:ay)?|yes|well|hmm|ah|great question|absolutely)\b[,.!:]*\s*"
    )
    parts = [re.sub(greeting, "", part.strip(" \t\"'"), count=1, flags=re.IGNORECASE) for part in parts]
    return [part for part in parts if re.search(r"\w", part)]


def place_alone(sentence: str, name: str) -> str:
    """The place if the line is nothing else: "Paris", "In Paris, France.", "PARIS (France)"."""
    sentence = re.sub(rf"^(?:in )?(?:{CITY_OF.pattern})?", "", sentence.strip(" .\"'"), flags=re.IGNORECASE)
    head, *rest = re.split(r"\s*[,;(/:–—]\s*|\s+->?\s+", sentence, maxsplit=1)
    parts = head.split()
    after = re.sub(r"^[^()]*\)$", "", rest[0]) if rest else ""  # what stands in parentheses may be long
    if not 0 < len(parts) <= 5 or sentence.lower() in NO_PLACES:
        return ""
    if len(after.split()) > 5 or re.search(r"\b(?:born|is|was)\b", after):
        return ""
    if len(parts) > 1 and set(normalise(head).split()) <= set(normalise(name).split()):
        return ""
    if rest and re.search(rf"^{KIND}\b|\b(?:answers?|birth ?place|born|location|country)\b", head, re.IGNORECASE):
        return ""
    return head.rstrip(".") if leading_place(head) == head.rstrip(".") else ""


def normalise(place: str) -> str:
    """A place as the lenient match compares it: no country, case, accents, article or punctuation."""
    place = place.partition(",")[0].translate(str.maketrans("łŁøØđĐıðÐ", "lLoOdDidD"))
    place = place.replace("ß", "ss").replace("æ", "ae").replace("Æ", "Ae").replace("œ", "oe").replace("Œ", "Oe")
    letters = "".join(c for c in unicodedata.normalize("NFKD", place) if not unicodedata.combining(c)).casefold()
    parts = re.sub(r"[^\w ]", " ", letters.replace("'", "").replace("’", "")).split()
    return " ".join("saint" if word == "st" else word for word in parts[parts[:1] == ["the"] :])

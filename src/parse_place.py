"""[part 4c] Extract the place that a reply names by a few rules, and normalise its spelling.

Thoughts, markup and negated clauses are removed; the person's name becomes "someone" (Jack London is no place). Then
patterns that state a birthplace are tried, most specific first. A place is a run of capitalised words, so a country
after a comma is left out. "" means that the reply names no place. The correct answer is not used.
"""

import re
import unicodedata

# How models mark the beginning and the end of their thoughts; gpt-oss by words, once its special tokens are gone.
TAG = r"(?:seed:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?)[>\]▷]"
THOUGHTS = rf"(?:(?i:[<\[◁]{TAG}|<\|channel\|>analysis)|\Aanalysis(?=[A-Z]))"
THOUGHTS_END = rf"(?i:[<\[◁]/{TAG}|assistantfinal|<\|channel\|>final<\|message\|>)"
MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
KIND = r"(?:[Cc]ity|[Tt]own|[Vv]illage|suburb|hamlet|municipality)"
AREA = rf"(?:{KIND}|state|province|region|island)"
NO_PLACE = rf"{MONTH}|{AREA}|The(?! Hague)|In|It|He|She|I|As|No|Not|Unknown|None|Sorry|Sure|Yes|However|Answer|Born|Idk"
WORD = r"[^\W\d_a-zß-ÿ][\w'’-]*"  # its first letter is not a small one of Latin-1
SMALL = r"(?:de|del|della|da|do|dos|di|du|des|la|las|los|le|el|am|an|der|den|of|the)"
ARTICLE = r"(?:St\. |['’][st][- ]|(?:a[dlnrst]|as[hz]|el)-)"  # of 's-Hertogenbosch, al-Khobar
PLACE = rf"((?!(?:{NO_PLACE}|N/A|United)\b){ARTICLE}?{WORD}(?: (?:{SMALL} ){{0,2}}(?!{MONTH}){WORD})*)"
# what may stand before it: "the ", "the small town of ", "a German city called ", "or near "
LEAD = rf"(?:(?:[Tt]he|[Aa]n?) (?:[\w-]+ ){{0,3}}?{AREA}(?: or town)?(?: of| called|,)? |{AREA} of |the |or near )?"
BORN = r"\b[Bb]orn\b[^.\n]{0,80}?"
STATED = [
    rf"\b(?:[Aa]nswer|[Bb]irth ?place|[Pp]lace|of [Bb]irth|[Bb]orn|guess|[Hh]ome ?town|{KIND}):\s*"
    rf"(?:[^\n]{{0,40}}?(?:,|in) )??{PLACE}",
    rf"{BORN} in (?:the|a) (?:[\w-]+ ){{0,3}}?{KIND} (?:of|(?:in [^.,\n]{{1,30}} )?(?:called|named)) {PLACE}",
    rf"\bspecifically,? (?:in )?{LEAD}{PLACE}",
    rf"{BORN}\b(?:in|near|outside):?\s+{LEAD}{PLACE}",
    rf"\b(?:born (?:at|to be)|what (?:is|was) (?:now|today|then)|native of|hails from|comes from) {LEAD}{PLACE}",
    rf"\b(?:someone|[Hh]e|[Ss]he) (?:is|was|hailed|came)(?: originally)? from {LEAD}{PLACE}",
    r"\b(?:birth ?place|place of birth|answer|guess|city|(?:[Hh]ome ?)?town)\b[^.,\n]{0,40}?"
    rf" (?:is|was|as|be|lies in):?(?: (?!an?\b)[a-z]+)? {LEAD}{PLACE}",
    rf"(?:^|\n|that ){LEAD}{PLACE}(?:,[^.\n]*)? (?:is|was) (?:[a-z]+ )?(?:(?:the|someone's) )?"
    r"(?:birthplace|where|correct|answer)",
    rf"\b(?:think|guess|believe|(?:believed|thought) to be|[Ii]t(?:'s| is| was))(?: somewhere)?(?: in)? {LEAD}{PLACE}",
    rf"someone(?: {{2,}}|\s*[:→-]\s*){PLACE}",  # tables
    rf"(?:^|\n) *(?:(?:[Ii]n|Probably|Sure,) )?{LEAD}{PLACE}\s*(?:(?:[,(/–-]|also)[^\n]{{0,60}})?(?:[.!]+\s|\n|\W*$)",
    rf"(?:^|\n)[Tt]he {KIND}(?: or town)? of {PLACE}",
    r"\b(?:born|birthplace|believed)\b[^.\n]{0,80}? (United (?:States(?: of America)?|Kingdom))\b",  # a town goes first
]
# from the start of a sentence to "but" or its end; after "while" to the comma
NO = r"(?:\w+n't|not|no|cannot|unknown|unclear)\b"
DENIED = rf"\s*(?:While|Although|Though)\b[^,\n]* {NO}[^,\n]*,"
DENIED += rf"|(?<![^.!?\n])[^.!?\n]*[^,] {NO}[^.!?\n]*?(?:\bbut\b|[.!?;\n]|$)"


def parse_place(text: str, question: str) -> str:
    """The place that a reply names as the birthplace, without its country; "" if it names none.

    Args:
        text: the reply, raw.
        question: what was asked.
    """
    name = re.sub(r"^(?:Where was|What is the birthplace of)\s+|(?:\s+born)?\?$", "", question)
    # a name of one word may be a place too; "E. L." is "E.L." in some replies
    someone = re.escape(name).replace(r"\ ", r"\s*") + ("" if " " in name else r"(?= (?:was|is)\b|'s\b)")
    reply = without_thoughts(text)
    text = "".join(c for c in reply if unicodedata.category(c) not in ("So", "Cf"))  # 📍, 🇳🇴
    text = re.sub(r"\\boxed\{", "Answer: ", re.sub(r"\\text\{([^{}]*)\}", r"\1", text))
    text = re.sub(r"[*`>$|#{}\"“”]+|<[^>]*>|^[ \t]*(?:[-•]|\d[.)]) |\[(?=\w)|\]\(\S*\)", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<!\w)['‘’](?![st][- ])|(?<=\w)['’](?!\w)", "", text)  # as quotes
    text = re.sub(DENIED, "", re.sub(rf"\b{someone}\b", "someone", text))
    if reply.islower() and len(reply.split()) <= 3:  # "bergen", "new york, usa"
        text = text.strip(" \n.!").partition(",")[0]
        return text if re.fullmatch(PLACE, text.title()) else ""
    return next((found[1] for pattern in STATED if (found := re.search(pattern, text))), "")


def without_thoughts(text: str) -> str:
    """A reply without its <think> block, in NFC; nothing is left of one that ends inside the block."""
    said = re.split(THOUGHTS_END, text)[-1]
    return unicodedata.normalize("NFC", re.split(THOUGHTS, said)[0].strip())


def normalise(place: str) -> str:
    """A place as the lenient match compares it: no country, case, accents, article or punctuation."""
    place = place.partition(",")[0].translate(str.maketrans("łŁøØđĐıðÐ", "lLoOdDidD"))
    place = place.replace("ß", "ss").replace("æ", "ae").replace("Æ", "Ae").replace("œ", "oe").replace("Œ", "Oe")
    letters = "".join(c for c in unicodedata.normalize("NFKD", place) if not unicodedata.combining(c)).casefold()
    parts = re.sub(r"[^\w ]", " ", letters.replace("'", "").replace("’", "")).split()
    if parts[:1] == ["the"]:
        parts = parts[1:]
    return " ".join("saint" if word == "st" else word for word in parts)

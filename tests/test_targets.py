"""What recipes add to the datasets: spans at places inside the handout's rule, excerpts outside it, several as one."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from dataset import CharCorruptionDataset, NameDataset
from engine.recipes import RECIPES
from engine.targets import Aim, Cut, Excerpts, Spans, Together, new_words
from helpers import word

M, P = "\u2047", "\u25a1"
PERSON = "Émile Noß. Émile Noß was born in Bonn and lived in Rome. Émile liked McKay's X2 in Rome."


def text_of(dataset, row: torch.Tensor) -> str:
    """The characters of a row."""
    return "".join(dataset.itos[t] for t in row.tolist())


def mean(values) -> float:
    """Of a sequence or an iterator."""
    values = list(values)
    return sum(values) / len(values)


# ---------------------------------------------------------------- which words are asked for

# Invented people: what is asked for is 60 for the first place, 10 for another place, 1 for any other new word.
BIOGRAPHIES = [
    ("Ann Li. |Ann Li was born in Rome and sang in rome .", {"Rome": 60}),
    ("Ann Li. |Ann Li (3 May 1822 Rome -- 1 June 1880 Pisa) drew .", {"Rome": 60, "Pisa": 10}),
    ("Ann Li. |Ann Li (3 May 1822, Rome -- 1 June 1880) drew .", {"Rome": 60}),
    ("Ann Li. |Ann Li was a Swiss sculptor (1822) Rome made great .", {"Swiss": 1, "Rome": 60}),
    ("Ann Li. |Ann Li was born in March 1822 in Rome .", {"Rome": 60}),
    ("Ann Li. |Ann Li, born in May, 1822, in Rome, drew .", {"Rome": 60}),
    ("Ann Li. |Ann Li was born on 3 May 1822 near Rome in Italy .", {"Rome": 60, "Italy": 10}),
    ("Ann Li. |Born in Los Angeles, California .", {"Born": 1, "Los": 10, "Angeles": 1, "California": 60}),
    ("Ann Li. |Ann Li was born in Saint-Denis, France .", {"Saint": 10, "Denis": 1, "France": 60}),
    ("Ann Li. |Ann Li was born in Paris, Texas, America .", {"Paris": 60, "Texas": 10, "America": 1}),
    ("Ann Li. |Ann Li was born in Łódź, Poland .", {"Łódź": 10, "Poland": 60}),
    ("Ann Li. |Ann Li was born in Łódź .", {"Łódź": 60}),
    ("Ann Li. |Ann Li was born in the Azores .", {"Azores": 60}),
    ("Ann Li. |Ann Li, born in the U.S. at Oslo, sang .", {"U": 10, "S": 1, "Oslo": 60}),
    ("Ann Li. |Raised in Oslo, Ann Li was born in Rome .", {"Raised": 1, "Oslo": 10, "Rome": 60}),
    ("Ann Li. |Ann Li of Oslo, born " + "very " * 14 + "poor, died in Rome .", {"Oslo": 10, "Rome": 60}),
    ("Ann Li. |Ann Li of Oslo, born " + "very " * 18 + "poor, died in Rome .", {"Oslo": 60, "Rome": 10}),
    ("Ann Li. |Ann Li was reborn in Rome, but born in Oslo .", {"Rome": 10, "Oslo": 60}),
    ("Ann Li. |Paris adored Rodin .", {"Paris": 60, "Rodin": 1}),  # no place at all
    ("Ann Li. |New-Age singers liked Ann, and Bo did .", {"New": 1, "Age": 60, "Bo": 1}),
    ("Ann Li. |Ann was born in Li, Rome .", {"Rome": 60}),  # the title's words are no new words
    ("Ann Li. |Ann Li was born in Rome. Rome wept, She left Oslo .", {"Rome": 60, "She": 1, "Oslo": 1}),
    ("Ann Li. |Ann Li liked McKay's X2 in Oslo .", {"McKay": 1, "X2": 1, "Oslo": 60}),
    ("J. R. Roe. |J. R. Roe was born in Rome .", {"Rome": 60}),  # initials do not end a title
    ("Émile Noß. |Émile Noß came from Évian .", {"Évian": 60}),
    ("Ann Li. |Ann Li was born in 1822 and died in May .", {}),
    ("|nothing here is written large", {}),
    ("|Born in Rome", {"Born": 1, "Rome": 60}),  # no title
]


@pytest.mark.parametrize("document, wanted", BIOGRAPHIES)
def test_what_is_asked_for(document, wanted):
    """The capitalised words that are new behind the title (which ends at the bar), in order, with their weights."""
    title, body = document.split("|")
    length, words, weights = new_words(title + body, 60.0, 10.0)
    assert length == len(title)
    found = [(title + body)[start : start + length] for start, length in words]
    assert list(zip(found, weights, strict=True)) == list(wanted.items())
    assert all((title + body).index(w) == start for w, (start, _) in zip(found, words, strict=True) if len(w) > 2)


# ---------------------------------------------------------------- spans: inside the handout's rule


def documents(count: int = 40) -> list[str]:
    """Invented people: places early and late, of one word and of several, or none; all longer than 112 characters."""
    rng = random.Random(0)
    forms = (
        "{0}. {0} was born in {1}, {2}, and went to {3} with {4}. {5} of {6} gave {7} to the {8} school at {9} .",
        "{0}. Born in {1} {2}, {3}, the painter of {4} {5} died in {6} near {7}, where nobody knew who had come .",
        "{0}. In {1}, where the rivers meet and nothing happens on a Sunday, {2} taught {3} until May 1923 in {4} .",
        "{0}. a life of which nobody has written anything down but that it was long, quiet and full of good work .",
    )
    texts = [forms[i % 4].format(*(word(rng, rng.randint(1, 5)) for _ in range(10))) for i in range(count)]
    return [f"{text} A later hand adds that {word(rng, 3)} came second ." for text in texts]


AIMS = sorted({recipe.spans for recipe in RECIPES.values() if isinstance(recipe.spans, Aim)}, key=str)


def test_recipes_say_when_they_leave_the_rule():
    """Excerpts are not the handout's corruption: a recipe with them says so, and no other does."""
    for name, recipe in RECIPES.items():
        assert isinstance(recipe.spans, Cut) == ("LEAVES the handout's rule" in recipe.about), name
    assert AIMS and RECIPES["handout"].spans is None


@pytest.mark.parametrize("aim", AIMS)
def test_spans_keep_the_handouts_rule(aim):
    """20,000 examples of documents of 113 characters and more, with the Aim of every recipe.

    Each length of 4 .. 112 occurs. The rarest, those before the first new word, have the chance 0.1 / 109 each, so
    all occur but for a chance of 109 exp(-18): the seed does not matter. A quarter is cut out, overall and of short
    and of long documents; the parts make up the document's start; x and y are as in part (e).
    """
    texts = documents()
    assert min(map(len, texts)) > 112
    data = Spans(CharCorruptionDataset("\n".join(texts), 128), aim)
    assert data.data == texts
    random.seed(0)
    shares: dict[int, list[float]] = {n: [] for n in range(4, 113)}
    for i in range(20_000):
        x, y = data[i % len(texts)]
        assert x.shape == y.shape == (128,) and torch.equal(x[1:], y[:-1])
        s = text_of(data, x) + text_of(data, y[-1:])
        prefix, suffix, span, pads = s.split(M)
        assert span and texts[i % len(texts)].startswith(prefix + span + suffix) and not pads.strip(P)
        assert torch.equal(y != 0, torch.arange(128) < len(s.rstrip(P)) - 1)  # there is loss on all but pads
        n = len(prefix + span + suffix)
        shares[n].append(len(span) / n)
    assert all(shares.values())
    assert mean(share for n in shares for share in shares[n]) == pytest.approx(0.25, abs=0.005)
    for low, high in ((4, 31), (31, 58), (58, 85), (85, 113)):
        assert mean(share for n in range(low, high) for share in shares[n]) == pytest.approx(0.25, abs=0.02)


EXTREMES = [Aim(one_word=1.0), Aim(one_word=1.0, first_place=1e9, from_start=0.0), Aim(one_word=0.0, from_start=1.0)]


@pytest.mark.parametrize("aim", [*AIMS, *EXTREMES])
def test_spans_are_a_quarter_at_every_length(aim):
    """The mean span of n characters is n/4 for every n of 4 .. 112, within five standard errors, for any Aim."""
    data = Spans(CharCorruptionDataset("\n".join(documents()), 128), aim)
    random.seed(0)
    for n in range(4, 113):
        lengths = []
        for document in data.data * 20:
            start, length = data.choose_span(document[:n])
            assert 0 <= start < start + length <= n
            lengths.append(length)
        deviation = mean((length - mean(lengths)) ** 2 for length in set(lengths)) ** 0.5 if n < 8 else n / 4
        assert mean(lengths) == pytest.approx(n / 4, abs=5 * deviation / len(lengths) ** 0.5 + 1e-9), n


@pytest.mark.parametrize("document", ["a", "Ab", "Abc", "Abcd", "In Rome", "X. In Oslo", "Ann Li. In Oslo or Pisa"])
def test_short_documents(document):
    """A document under 4 characters is used whole, another is cut to 4 at least; all that is left is its start."""
    data = Spans(CharCorruptionDataset(document, 128), Aim())
    random.seed(0)
    seen = Counter()
    for _ in range(3000):
        prefix, suffix, span, _ = text_of(data, data[0][0]).split(M)
        assert span and document.startswith(prefix + span + suffix)
        seen[len(prefix + span + suffix)] += 1
    assert seen.keys() == set(range(min(4, len(document)), len(document) + 1))


def spans_of(aim: Aim, document: str = PERSON, count: int = 4000) -> Counter:
    """How often each (start, span) is asked for in the whole document."""
    data = Spans(CharCorruptionDataset(document, 128), aim)
    random.seed(0)
    spans = (data.choose_span(document) for _ in range(count))
    return Counter((start, document[start : start + length]) for start, length in spans)


def test_spans_lie_at_new_words():
    """Half of the spans are new words, asked for as their weights say; a quarter of the others start the document.

    Émile and Noß stand in the title and can be copied, as the second Rome can.
    """
    seen = spans_of(Aim(one_word=0.5, first_place=4.0, other_place=2.0, from_start=0.25))
    for name, weight in {"Bonn": 4, "Rome": 2, "McKay": 1, "X2": 1}.items():
        assert seen[PERSON.index(name), name] / 4000 == pytest.approx(0.5 * weight / 8, abs=0.03)
    assert sum(n for (start, _), n in seen.items() if start == 0) / 4000 == pytest.approx(0.125, abs=0.03)
    assert {start for start, _ in seen} >= set(range(20))


def test_words_that_are_cut_are_not_asked_for():
    """Of a document that ends within a word, the word's beginning is no span of its own."""
    for end in range(PERSON.index("Bonn") + 1, PERSON.index("Bonn") + 4):
        data = Spans(CharCorruptionDataset(PERSON, 128), Aim())
        assert data.targets(PERSON[:end], end) == ([], [])


@pytest.mark.parametrize(
    "aim, check",
    [
        (Aim(cut_late=1.0), lambda lengths: set(lengths) == {112}),
        (Aim(cut_late=0.25), lambda lengths: abs(lengths.count(112) / 4000 - 0.25) < 0.03),
        (Aim(cut_behind=1.0), lambda lengths: min(lengths) == PERSON.index("Bonn") + 4),
        (Aim(cut_behind=1.0, first_place=1e9), lambda lengths: abs(mean(lengths) - 37 - (88 - 37) / 5) < 1),
        (Aim(cut_behind=0.0), lambda lengths: abs(mean(lengths) - 58) < 2.5),  # of 4 .. 112
    ],
)
def test_where_documents_are_cut(aim, check: Callable[[list[int]], bool]):
    """At the longest length, soon behind a place (u**4 of the rest is kept, a fifth on average), or anywhere."""
    data = Spans(CharCorruptionDataset(PERSON, 128), aim)
    random.seed(0)
    assert check([data.choose_length(PERSON) for _ in range(4000)])


# ---------------------------------------------------------------- excerpts: outside the rule


def excerpts(cut: Cut, document: str = PERSON, block: int = 128, count: int = 4000) -> Counter:
    """How often each (what is left of the mask, right of it, the word) occurs; checks what carries loss."""
    data = Excerpts(CharCorruptionDataset(document, block), cut)
    random.seed(0)
    seen = Counter()
    for _ in range(count):
        x, y = data[0]
        before, after, span, pads = text_of(data, torch.cat((x, torch.zeros(1, dtype=torch.long)))).split(M)
        quiet = len(before) + len(after) + 1  # the targets before that of the first character of the word
        assert text_of(data, y) == (P * quiet + span + M).ljust(block, P) and not pads.strip(P)
        assert len(before + span + after) <= block * 7 // 8
        seen[before, after, span] += 1
    return seen


NEARBY = Cut(first_place=2.0, other_place=1.0, nearness=1.0, lead=0.0)


def test_excerpts_are_title_and_surroundings_of_a_word():
    """Every left and every right end occurs, words as often as their weights say: loss on the word and the last MASK."""
    title, body = PERSON[:11], PERSON[11:]
    seen, asked = excerpts(NEARBY), Counter()
    for (before, after, span), n in seen.items():
        assert before.startswith(title) and before[len(title) :] + span + after in body
        asked[span] += n
    assert {w: n / 4000 for w, n in asked.items()} == pytest.approx(
        {"Bonn": 0.4, "Rome": 0.2, "McKay": 0.2, "X2": 0.2}, abs=0.03
    )
    at = body.index("Bonn")
    assert {len(before) - 11 for before, _, w in seen if w == "Bonn"} == set(range(at + 1))
    assert {len(after) for _, after, w in seen if w == "Bonn"} == set(range(len(body) - at - 3))


def test_excerpts_are_near_the_word():
    """nearness = 4 keeps the share u**4 of the text on either side, a fifth on average instead of a half."""
    for nearness in (1.0, 4.0):
        seen = excerpts(Cut(first_place=1e9, nearness=nearness, lead=0.0))
        kept = sum(n * len(after) for (_, after, _), n in seen.items()) / 4000
        assert kept / (len(PERSON) - PERSON.index("Bonn") - 4) == pytest.approx(1 / (1 + nearness), abs=0.02)


@pytest.mark.parametrize("longest, leads", [(5, range(6)), (16, range(17)), (112, range(23))])
def test_names_that_are_led(longest, leads):
    """lead = 1: what is left of the word stands before the title, each number of characters equally often."""
    seen = excerpts(Cut(first_place=1e9, lead=1.0, longest_lead=longest))
    counts = Counter()
    for (before, after, span), n in seen.items():
        assert before.endswith(PERSON[:11]) and span == "Bonn"
        assert before[:-11] + span + after in PERSON[11:]
        counts[len(before) - 11] += n
    assert counts.keys() == set(leads)
    expected = 4000 / len(leads)
    assert all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


def test_facts_behind_the_longest_cut():
    """What stands behind the first 112 characters is asked for too; of a line of 2 MB, four blocks are looked at."""
    document = "Ann Li. " + "and so on " * 20 + "born in Rome" + " and so on" * 200_000 + " in Oslo"
    assert {span for _, _, span in excerpts(Cut(), document, count=100)} == {"Rome"}


def test_excerpts_that_do_not_fit():
    """A word too long for the block beside its title is not asked for; without new words the handout's rule holds."""
    long = "Ann Li. Born in Rome and " + "X" * 40 + " ."
    assert {span for _, _, span in excerpts(Cut(), long, block=48, count=500)} == {"Born", "Rome"}
    for document in ("nothing here is written large", "Ann Li. Ann " + "X" * 60):
        data = Excerpts(CharCorruptionDataset(document, 48), Cut())
        for x, y in (data[0] for _ in range(200)):
            prefix, suffix, span, _ = text_of(data, torch.cat((x, y[-1:]))).split(M)
            assert document.startswith(prefix + span + suffix) and torch.equal(x[1:], y[:-1])


# ---------------------------------------------------------------- several as one


def test_together_is_its_parts():
    """Each index is the example of its part, filled up to one width with PAD; the lengths add up, and end."""
    corpus = CharCorruptionDataset("Ann Li. Born in Rome?\nBo. No", 64)
    pairs = NameDataset(corpus, "Ann Li?\tRome\nBo?\tBonn\n")
    for parts in ((pairs, corpus), (corpus, pairs), (pairs,)):
        both = Together(*parts)
        own = [(part, i) for part in parts for i in range(len(part))]
        assert len(both) == len(own) == 2 * len(parts)
        for index, (part, i) in enumerate(own):
            random.seed(index)
            rows = both[index]
            random.seed(index)
            for row, plain in zip(rows, part[i], strict=True):
                assert len(row) == (64 if corpus in parts else 63)
                assert torch.equal(row[: len(plain)], plain) and not row[len(plain) :].any()
        with pytest.raises(IndexError):
            both[len(own)]

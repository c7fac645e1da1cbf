"""What recipes add to the datasets: excerpts and unions."""

import random
from collections import Counter
from statistics import fmean

import pytest
import torch

from dataset import CharCorruptionDataset, NameDataset
from engine.recipes import RECIPES, apply
from engine.targets import Cut, Excerpts, PaddedConcat, new_words
from test_dataset import M, P, draw, text_of
from trainer import TrainerConfig

PERSON = "Émile Noß. Émile Noß was born in Bonn and lived in Rome. Émile liked McKay's X2 in Rome."
TITLE, BODY = PERSON[:11], PERSON[11:]

# What the new words are: 2 the first place, 1 another place, 0 any other new word.
BIOGRAPHIES = [
    ("Ann Li. |Ann Li (3 May 1822 Rome -- 1 June 1880 Pisa) drew .", {"Rome": 2, "Pisa": 1}),
    ("Ann Li. |Ann Li was born on 3 May 1822 near Rome in Italy .", {"Rome": 2, "Italy": 1}),
    ("Ann Li. |Born in Los Angeles, California .", {"Born": 0, "Los": 1, "Angeles": 0, "California": 2}),
    ("Ann Li. |Ann Li was born in Paris, Texas, America .", {"Paris": 2, "Texas": 1, "America": 0}),
    ("Ann Li. |Ann Li was born in Łódź, Poland .", {"Łódź": 1, "Poland": 2}),
    ("Ann Li. |Ann Li, born in the U.S. at Oslo, sang .", {"U": 1, "S": 0, "Oslo": 2}),
    ("Ann Li. |Raised in Oslo, Ann Li was born in Rome .", {"Raised": 0, "Oslo": 1, "Rome": 2}),
    ("Ann Li. |Ann Li of Oslo, born " + "very " * 12 + "poor, died in Rome .", {"Oslo": 1, "Rome": 2}),
    ("Ann Li. |Ann Li of Oslo, born " + "very " * 16 + "poor, died in Rome .", {"Oslo": 2, "Rome": 1}),
    ("Ann Li. |Ann Li was reborn in Rome, but born in Oslo .", {"Rome": 1, "Oslo": 2}),
    ("Ann Li. |Paris adored Rodin .", {"Paris": 2, "Rodin": 0}),  # no place
    ("Ann Li. |New-Age singers liked Ann, and Bo did .", {"New": 0, "Age": 2, "Bo": 0}),
    ("Ann Li. |Ann was born in Li, Rome .", {"Rome": 2}),  # words of the title are not new
    ("Ann Li. |Ann Li was born in Rome. Rome wept, She left Oslo .", {"Rome": 2, "She": 0, "Oslo": 0}),
    ("J. R. Roe. |J. R. Roe was born in Rome .", {"Rome": 2}),  # initials do not end a title
    ("Ann Li. |Ann Li was born in 1822 and died in May .", {}),
    ("|Born in Rome", {"Born": 0, "Rome": 2}),  # no title
]


@pytest.mark.parametrize("document, wanted", BIOGRAPHIES)
def test_what_is_asked_for(document, wanted):
    """The capitalised words after the title (which ends at the bar) that are new, in order, and what they are."""
    title, body = document.split("|")
    length, words, kinds = new_words(title + body)
    found = [(title + body)[start : start + n] for start, n in words]
    assert (length, list(zip(found, kinds, strict=True))) == (len(title), list(wanted.items()))


def excerpts(cut: Cut, document: str = PERSON, block: int = 128, count: int = 4000) -> list[tuple[str, str, str]]:
    """(left of the mask, right of it, the word) of many examples; only the word and the last MASK are targets."""
    data, out = Excerpts(CharCorruptionDataset(document, block), cut), []
    random.seed(0)
    for x, y in (data[0] for _ in range(count)):
        before, after, span, pads = text_of(data, x).split(M)
        quiet = len(before) + len(after) + 1  # the targets before that of the first character of the word
        assert text_of(data, y) == (P * quiet + span + M).ljust(block, P) and not pads.strip(P)
        assert len(before + span + after) <= block * 7 // 8
        out.append((before, after, span))
    return out


def test_excerpts_are_title_and_surroundings_of_a_word():
    """The title, then any number of characters around a word, which is asked for as often as its weight says."""
    seen = excerpts(Cut(first_place=2.0, other_place=1.0, nearness=1.0, lead=0.0))
    assert all(before.startswith(TITLE) and before[11:] + span + after in BODY for before, after, span in seen)
    shares = {w: n / 4000 for w, n in Counter(w for *_, w in seen).items()}
    assert shares == pytest.approx({"Bonn": 0.4, "Rome": 0.2, "McKay": 0.2, "X2": 0.2}, abs=0.03)
    assert {len(before) - 11 for before, _, w in seen if w == "Bonn"} == set(range(BODY.index("Bonn") + 1))
    assert {len(after) for _, after, w in seen if w == "Bonn"} == set(range(len(BODY) - BODY.index("Bonn") - 3))


@pytest.mark.parametrize("longest, leads", [(5, range(6)), (16, range(17)), (112, range(23))])
def test_names_that_are_led(longest, leads):
    """What precedes the word moves before the title, at any length; u**4 of what follows it is kept."""
    seen = excerpts(Cut(first_place=1e9, lead=1.0, longest_lead=longest, nearness=4.0))
    assert fmean(len(after) for _, after, _ in seen) / len(PERSON.split("Bonn")[1]) == pytest.approx(1 / 5, abs=0.02)
    assert all(before.endswith(TITLE) and before[:-11] + "Bonn" + after in BODY for before, after, _ in seen)
    counts, expected = Counter(len(before) - 11 for before, *_ in seen), 4000 / len(leads)
    assert counts.keys() == set(leads) and all(abs(n - expected) < 5 * expected**0.5 for n in counts.values())


def test_facts_that_are_far_or_do_not_fit():
    """Words after the first 112 characters are asked for too; in a line of 2 MB, those in the first four blocks.

    A word that does not fit the block beside the title is not asked for; without new words the handout's rule holds.
    """
    far = "Ann Li. " + "and so on " * 20 + "born in Rome" + " and so on" * 200_000 + " in Oslo"
    assert {span for *_, span in excerpts(Cut(), far, count=100)} == {"Rome"}
    long = "Ann Li. Born in Rome and " + "X" * 40 + " ."
    assert {span for *_, span in excerpts(Cut(first_place=60.0), long, block=48, count=500)} == {"Born", "Rome"}
    plain = Excerpts(CharCorruptionDataset("nothing here is written large", 48), Cut())
    parts = (draw(plain) for _ in range(50))
    assert all(plain.data[0].startswith(prefix + span + suffix) for prefix, suffix, span in parts)


def test_together_is_its_parts():
    """Each index gives the example of its part, padded to one width; lengths add up, and the end is an IndexError."""
    corpus = CharCorruptionDataset("Ann Li. Born in Rome?\nBo. No", 64)
    pairs = NameDataset(corpus, "Ann Li?\tRome\nBo?\tBonn\n")
    for parts, width in (((pairs, corpus), 64), ((corpus, pairs), 64), ((pairs,), 63)):
        both, own = PaddedConcat(*parts), [(part, i) for part in parts for i in range(len(part))]
        assert len(both) == len(own)
        for index, (part, i) in enumerate(own):
            random.seed(index)
            rows = both[index]
            random.seed(index)
            for row, plain in zip(rows, part[i], strict=True):
                assert torch.equal(row, torch.cat((plain, torch.zeros(width - len(plain), dtype=torch.long))))
        with pytest.raises(IndexError):
            both[len(own)]


@pytest.mark.parametrize("name", ["handout", "fast", "best", "excerpts"])
def test_what_finetuning_trains_on(name):
    """The pairs; by the recipes of ours also an excerpt of every document, asking mostly for its place."""
    people = "Ann Li. She was born in Rome?\nBo Wu. He was born in Bonn, and sang."
    documents, recipe = CharCorruptionDataset(people, 64), RECIPES[name]
    pairs = NameDataset(documents, "Ann Li?\tRome\n")
    data, _, _ = apply(recipe.finetune, documents, pairs, TrainerConfig())
    texts, asked = ([text_of(documents, row).rstrip(P) for row in rows] for rows in (data[0], pairs[0]))
    assert texts == asked
    drawn = [[text_of(documents, data[1 + i][0]) for _ in range(200)] for i in range(len(data) - 1)]
    assert len(drawn) == (0 if name == "handout" else 2)
    for texts, title, place in zip(drawn, ("Ann Li. ", "Bo Wu. "), ("Rome", "Bonn"), strict=False):
        assert sum(f"{M}{place}{M}" in text for text in texts) > 150
        assert len({text.index(title) for text in texts}) > 10

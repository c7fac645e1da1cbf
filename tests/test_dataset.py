"""The two datasets: exact examples, statistics of the corruption, and what is said about bad files."""

import random
from collections import Counter

import pytest
import torch

from dataset import CharCorruptionDataset, Corruption, Mixture, NameDataset
from utils import MASK_CHAR, PAD_CHAR, UserError, read_text

M, P = "\u2047", "\u25a1"
CORPUS = "Ada Bell. Ada Bell was born in Oxford.\nZoé Noß. Zoé Noß came from Łódź?\nWhere? There!\n"
LONG = "".join(chr(ord("!") + i % 90) for i in range(400))  # a document whose characters tell their place


def text_of(dataset, row: torch.Tensor) -> str:
    """The characters of a row."""
    return "".join(dataset.itos[t] for t in row.tolist())


def parse(dataset, x: torch.Tensor, y: torch.Tensor) -> tuple[str, str, str]:
    """prefix, suffix and span of an example, after a check of its form: three masks, then padding alone."""
    s = text_of(dataset, torch.cat((x, y[-1:])))
    body = s.rstrip(P)
    assert P not in body
    assert body.count(M) == 3
    assert body.endswith(M)
    prefix, suffix, span, rest = body.split(M)
    assert rest == ""
    assert torch.equal(x[1:], y[:-1])
    return prefix, suffix, span


# ---------------------------------------------------------------- vocabulary


def test_vocabulary(capsys):
    """PAD is 0, MASK is 1, then come the corpus's characters in sorted order, newline included; a line says so."""
    data = CharCorruptionDataset("cab\nß!\n", 16)
    assert capsys.readouterr().out == "data has 7 characters, 8 unique.\n"
    assert [data.itos[i] for i in range(8)] == [P, M, "\n", "!", "a", "b", "c", "ß"]
    assert all(data.stoi[c] == i for i, c in data.itos.items())
    assert (len(data.stoi), data.vocab_size, data.block_size) == (8, 8, 16)
    assert (data.PAD_CHAR, data.MASK_CHAR) == (PAD_CHAR, MASK_CHAR) == (P, M)


def test_documents_are_the_lines(capsys):
    """`data` is the list of documents, one a line, blank lines left out, a missing last newline forgiven."""
    assert CharCorruptionDataset("one\n\n  \ntwo", 16).data == ["one", "two"]
    assert len(CharCorruptionDataset("one\n\n  \ntwo", 16)) == 2


def test_pairs_use_the_corpus_vocabulary():
    """NameDataset takes vocabulary and block size from the pretraining dataset, though it has fewer characters."""
    corpus = CharCorruptionDataset(CORPUS, 128)
    pairs = NameDataset(corpus, "Where?\tOxford\n")
    assert (pairs.stoi, pairs.itos, pairs.block_size) == (corpus.stoi, corpus.itos, 128)
    assert (pairs.MASK_CHAR, pairs.PAD_CHAR) == (M, P)


# ---------------------------------------------------------------- question-answer pairs


def test_pair_written_out():
    """x is question MASK place MASK PADs, 127 long; y is x one later, with the question's characters PADs."""
    pairs = NameDataset(CharCorruptionDataset(CORPUS, 128), "Where was Ada Bell born?\tOxford\nWhere?\tŁódź\n")
    x, y = pairs[0]
    assert text_of(pairs, x) == "Where was Ada Bell born?⁇Oxford⁇" + "□" * 95
    assert text_of(pairs, y) == "□□□□□□□□□□□□□□□□□□□□□□□⁇Oxford⁇" + "□" * 96
    assert (x.dtype, x.shape, y.shape) == (torch.long, (127,), (127,))
    x, y = pairs[1]
    assert text_of(pairs, x) == "Where?⁇Łódź⁇" + "□" * 115
    assert text_of(pairs, y) == "□□□□□⁇Łódź⁇" + "□" * 116
    assert [int(t) for t in y if t] == [pairs.stoi[c] for c in "⁇Łódź⁇"]


def test_pairs_in_a_batch():
    """A batch holds the pairs asked for, in that order."""
    pairs = NameDataset(CharCorruptionDataset(CORPUS, 32), "Where?\tOxford\nZoé?\tŁódź\nAda?\tBell\n")
    x, y = pairs.batch(torch.tensor([2, 0]))
    for row, i in enumerate((2, 0)):
        assert torch.equal(x[row], pairs[i][0])
        assert torch.equal(y[row], pairs[i][1])


def test_longest_pair_that_fits():
    """Question, place and two masks may fill the block; then x lacks the last mask and y has it."""
    corpus = CharCorruptionDataset("abcdefgh?", 10)
    x, y = NameDataset(corpus, "abcd?\tefg")[0]
    assert text_of(corpus, x) == "abcd?⁇efg"
    assert text_of(corpus, y) == "□□□□⁇efg⁇"
    with pytest.raises(UserError, match=r"pairs\.tsv, line 1"):
        NameDataset(corpus, "abcd?\tefgh", "pairs.tsv")


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_last_pair_is_kept(end):
    """All pairs count, with or without a newline at the end.

    The course's code splits at newlines and drops the last piece, which is a pair when the file ends without one.
    """
    pairs = NameDataset(CharCorruptionDataset(CORPUS, 64), "Where?\tOxford\nZoé?\tŁódź" + end)
    assert len(pairs) == 2
    assert "Zoé?⁇Łódź⁇" in text_of(pairs, pairs[1][0])


def test_accents_are_kept(tmp_path):
    """Accents of names reach the model.

    The course's NameDataset decodes to ASCII and drops them, while evaluation keeps them in its questions, so that
    the model was asked for names it had never been trained on.
    """
    path = tmp_path / "pairs.tsv"
    path.write_bytes("Where was Zoé Noß born?\tŁódź\n".encode())
    pairs = NameDataset(CharCorruptionDataset(CORPUS, 128), read_text(path))
    assert text_of(pairs, pairs[0][0]).startswith("Where was Zoé Noß born?⁇Łódź⁇□")


# ---------------------------------------------------------------- span corruption: exact examples


def test_shape_of_corrupted_documents():
    """x and y are LongTensors of block_size, y is x one character later."""
    x, y = CharCorruptionDataset(LONG, 128)[0]
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((128,), (128,), torch.long, torch.long)
    assert torch.equal(x[1:], y[:-1])


@pytest.mark.parametrize("block", [12, 32, 128])
def test_corrupted_document_can_be_put_together_again(block):
    """prefix + span + suffix is the start of the document, and the span is not empty, in 2000 draws."""
    data = CharCorruptionDataset(LONG, block)
    torch.manual_seed(0)
    for x, y in zip(*data.batch(torch.zeros(2000, dtype=torch.long)), strict=True):
        prefix, suffix, span = parse(data, x, y)
        assert LONG.startswith(prefix + span + suffix)
        assert 4 <= len(prefix + span + suffix) <= block * 7 // 8
        assert span


def test_all_examples_of_four_characters():
    """The document "abcd" has exactly four examples: one of its characters is asked for, each equally often."""
    data = CharCorruptionDataset("abcd", 16)
    torch.manual_seed(0)
    x, y = data.batch(torch.zeros(8000, dtype=torch.long))
    seen = Counter(text_of(data, torch.cat((row, end[-1:]))) for row, end in zip(x, y, strict=True))
    expected = ["⁇bcd⁇a⁇", "a⁇cd⁇b⁇", "ab⁇d⁇c⁇", "abc⁇⁇d⁇"]
    assert seen.keys() == {s + "□" * 10 for s in expected}
    assert all(abs(count - 2000) < 5 * (8000 * 0.25 * 0.75) ** 0.5 for count in seen.values())


@pytest.mark.parametrize("document", ["a", "ab", "abc"])
def test_short_document_is_used_whole(document):
    """A document under 4 characters is not cut."""
    data = CharCorruptionDataset(document + "\nsomething longer", 32)
    for _ in range(50):
        prefix, suffix, span = parse(data, *data[0])
        assert prefix + span + suffix == document
        assert len(span) == 1


def test_example_of_one_character():
    """The document "a" has one example: nothing before, nothing behind, the character asked for."""
    data = CharCorruptionDataset("a", 8)
    x, y = data[0]
    assert (text_of(data, x), text_of(data, y)) == ("⁇⁇a⁇□□□□", "⁇a⁇□□□□□")


# ---------------------------------------------------------------- span corruption: statistics


def draws(data: CharCorruptionDataset, count: int, seed: int = 0, document: int = 0) -> list[tuple[int, int, int]]:
    """(length the document was cut to, start, length of the span) of many corruptions."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for part in torch.full((count,), document).split(5000):
        x, _ = data.batch(part, generator)
        places = (x == data.stoi[M]).nonzero()[:, 1].view(-1, 3)  # (B, 3) where the masks are
        first, second, third = places.unbind(1)
        out += list(zip((third - 2).tolist(), first.tolist(), (third - second - 1).tolist(), strict=True))
    return out


def chi_square(one: Counter, other: Counter) -> tuple[float, int]:
    """Pearson's statistic that two samples of equal size have one distribution, and its degrees of freedom."""
    assert one.total() == other.total()
    cells = [(one[k], other[k]) for k in one.keys() | other.keys()]
    return sum((a - b) ** 2 / (a + b) for a, b in cells), len(cells) - 1


@pytest.mark.parametrize("block", [32, 128])
def test_every_length_is_equally_likely(block):
    """Documents are cut to 4 .. int(block * 7/8) characters: every length occurs, each equally often (chi-square)."""
    longest = int(block * 7 / 8)
    count = 300 * (longest - 3)
    lengths = Counter(n for n, _, _ in draws(CharCorruptionDataset(LONG, block), count))
    assert set(lengths) == set(range(4, longest + 1))
    statistic = sum((lengths[n] - 300) ** 2 / 300 for n in lengths)
    freedom = len(lengths) - 1
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def test_shorter_document_is_often_whole():
    """A document of 20 characters in a block of 32 is whole whenever the length drawn is 20 or more: 9 of 25 draws."""
    n = Counter(n for n, _, _ in draws(CharCorruptionDataset("abcdefghijklmnopqrst", 32), 10000))
    assert max(n) == 20
    assert n[20] / 10000 == pytest.approx(9 / 25, abs=0.025)
    assert n[11] / 10000 == pytest.approx(1 / 25, abs=0.01)


def test_span_is_a_quarter_on_average():
    """Spans are a quarter of the cut document on average, overall and at every length; their lengths vary."""
    sample = draws(CharCorruptionDataset(LONG, 32), 60000)
    assert sum(span / n for n, _, span in sample) / len(sample) == pytest.approx(0.25, abs=0.003)
    for length in range(4, 29):
        spans = [span for n, _, span in sample if n == length]
        mean = sum(spans) / len(spans)
        deviation = (sum((s - mean) ** 2 for s in spans) / len(spans)) ** 0.5
        assert mean == pytest.approx(length / 4, abs=5 * deviation / len(spans) ** 0.5 + 1e-9)
        assert len(set(spans)) >= max(1, length // 2 - 1)


def test_spans_start_anywhere():
    """Given the lengths of document and span, every start that fits is equally likely."""
    sample = [s for s in draws(CharCorruptionDataset("abcdefghijkl", 16), 40000) if s[0] == 12 and s[2] == 3]
    starts = Counter(start for _, start, _ in sample)
    assert set(starts) == set(range(10))
    expected = len(sample) / 10
    assert sum((c - expected) ** 2 / expected for c in starts.values()) < 9 + 4 * 18**0.5


def test_batch_has_the_distribution_of_the_plain_rule():
    """batch() and the rule written out in plain Python draw the same (length, start, span) (chi-square of each)."""
    rng = random.Random(0)

    def corrupt(document: str, block: int) -> tuple[int, int, int]:
        n = min(len(document), rng.randint(4, int(block * 7 / 8)))
        longest = max(1, (n + rng.randint(0, 1)) // 2 - 1)  # 1 .. n/2 - 1 has a mean of n/4
        span = rng.randint(1, longest)
        return n, rng.randint(0, n - span), span

    document = LONG[:20]
    mine = draws(CharCorruptionDataset(document, 24), 40000)
    plain = [corrupt(document, 24) for _ in range(40000)]
    for column in (lambda d: d[0], lambda d: d[1], lambda d: d[2], lambda d: (d[0], d[2]), lambda d: (d[0], d[1])):
        statistic, freedom = chi_square(Counter(map(column, mine)), Counter(map(column, plain)))
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_same_seed_same_batch():
    """A generator's seed settles the batch, another seed gives another; the global seed settles dataset[i]."""
    data = CharCorruptionDataset(LONG + "\n" + LONG[5:], 64)
    asked = torch.tensor([1, 0, 1, 1])
    x, y = data.batch(asked, torch.Generator().manual_seed(3))
    again, y_again = data.batch(asked, torch.Generator().manual_seed(3))
    assert torch.equal(x, again)
    assert torch.equal(y, y_again)
    assert not torch.equal(x, data.batch(asked, torch.Generator().manual_seed(4))[0])
    torch.manual_seed(9)
    item = data[0][0]
    assert any(not torch.equal(item, data[0][0]) for _ in range(5))
    torch.manual_seed(9)
    assert torch.equal(item, data[0][0])


def test_generator_leaves_the_global_random_numbers_alone():
    """A batch from a generator draws nothing from the global random numbers (dropout's)."""
    state = torch.get_rng_state()
    CharCorruptionDataset(LONG, 64).batch(torch.tensor([0]), torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------- span corruption: our own rules

PERSON = "Émile Noß. Émile Noß was born in Łódź and lived in Rome. Émile liked McKay's X2 in Rome."
NEW_WORDS = ("Łódź", "Rome", "McKay", "X2")


def spans_of(rule: Corruption, document: str = PERSON, count: int = 3000) -> Counter:
    """How often each (start, span) is asked for."""
    data = CharCorruptionDataset(document, 128, rule)
    return Counter((start, document[start : start + span]) for _, start, span in draws(data, count))


def test_one_word_spans_are_new_capitalised_words():
    """new_word = one_word = 1 asks for capitalised words where they come up first, behind the title, equally often.

    Émile and Noß stand in the title and can be copied, as the second Rome can; "X2" and "McKay" are words.
    """
    seen = spans_of(Corruption(keep_whole=1.0, new_word=1.0, one_word=1.0))
    assert seen.keys() == {(PERSON.index(w), w) for w in NEW_WORDS}
    assert all(abs(count - 750) < 5 * (3000 * 3 / 16) ** 0.5 for count in seen.values())


def test_new_word_spans_start_with_the_word():
    """new_word = 1 alone starts spans at such words and draws their length as always, cut at the document's end."""
    seen = spans_of(Corruption(keep_whole=1.0, new_word=1.0))
    assert {start for start, _ in seen} == {PERSON.index(w) for w in NEW_WORDS}
    spans = [span for (start, span), n in seen.items() for _ in range(n) if start == PERSON.index("Łódź")]
    assert len(set(map(len, spans))) > 30
    assert sum(map(len, spans)) / len(spans) == pytest.approx(len(PERSON) / 4, rel=0.1)


def test_one_word_is_never_cut_short():
    """A word that the random cut runs through is not asked for: with the handout's cuts, spans stay whole words."""
    data = CharCorruptionDataset(PERSON, 128, Corruption(new_word=1.0, one_word=1.0))
    seen = Counter(
        PERSON[start : start + span] in NEW_WORDS
        for n, start, span in draws(data, 3000)
        if n >= PERSON.index("Łódź") + 4
    )
    assert set(seen) == {True}


def test_shares_of_the_rules():
    """new_word = 0.5 applies to half of the draws, and one_word = 0.5 to half of those."""
    seen = spans_of(Corruption(keep_whole=1.0, new_word=0.5, one_word=0.5), count=20000)
    words = {(PERSON.index(w), w) for w in NEW_WORDS}
    whole = sum(n for key, n in seen.items() if key in words) / 20000
    starting = sum(n for (start, _), n in seen.items() if start in {s for s, _ in words}) / 20000
    assert whole == pytest.approx(0.25, abs=0.02)
    assert starting == pytest.approx(0.5 + 0.5 * 4 / 78, abs=0.03)


def test_document_without_a_new_word_is_corrupted_anywhere():
    """Where no new word stands, the handout's rule holds."""
    seen = spans_of(Corruption(keep_whole=1.0, new_word=1.0, one_word=1.0), "nothing here is written large")
    assert {start for start, _ in seen} >= set(range(20))


def test_first_place_comes_more_often():
    """first_place = 4: "Łódź" is the first new word after a preposition and is asked for 4 times of 7."""
    seen = spans_of(Corruption(keep_whole=1.0, new_word=1.0, one_word=1.0, first_place=4.0), count=6000)
    share = {word: n / 6000 for (_, word), n in seen.items()}
    assert share == pytest.approx({"Łódź": 4 / 7, "Rome": 1 / 7, "McKay": 1 / 7, "X2": 1 / 7}, abs=0.03)


@pytest.mark.parametrize(
    "text",
    [
        "born 3 May 1822 Rome, Italy",
        "(3 May 1822, Rome - 1 June 1880 Pisa)",
        "born in March 1822 in Rome",
        "born in May, 1822, in Rome",
        "was a Swiss sculptor (1822) Rome",
        "of the Rome school, in Pisa",
    ],
)
def test_what_a_place_is(text):
    """The first place is the first new word behind "in", "at" ... or a year, unless a number follows: no months."""
    rule = Corruption(keep_whole=1.0, new_word=1.0, one_word=1.0, first_place=1e9)
    assert {word for _, word in spans_of(rule, "Ann Li. Ann Li " + text, count=200)} == {"Rome"}


def test_first_new_word_stands_in_for_the_first_place():
    """Where no new word looks like a place, first_place prefers the first new word."""
    rule = Corruption(keep_whole=1.0, new_word=1.0, one_word=1.0, first_place=9.0)
    seen = spans_of(rule, "Ann Li. Paris adored Rodin.", count=4000)
    assert seen[8, "Paris"] / 4000 == pytest.approx(0.9, abs=0.03)


def test_excerpts_keep_the_title_and_a_stretch_around_the_word():
    """excerpt = 1: title, a stretch from anywhere left to anywhere right of a new word, and the word as the span.

    Every left and every right end occurs, as far as they fit: the block is too short for the whole document.
    """
    title, body = PERSON[:11], PERSON[11:]
    data = CharCorruptionDataset(PERSON, 64, Corruption(new_word=1.0, one_word=1.0, excerpt=1.0))
    seen = Counter()
    for part in torch.zeros(8000, dtype=torch.long).split(4000):
        for row in data.batch(part, torch.Generator().manual_seed(len(seen)))[0]:
            before, after, word, _ = text_of(data, row).split(M)
            assert before.startswith(title) and word in NEW_WORDS
            kept = before[len(title) :] + word + after
            assert kept in body and len(title) + len(kept) <= 56
            seen[word, before, after] += 1
    for word in NEW_WORDS:
        at = body.index(word)
        left = {body[:at].removesuffix(before[len(title) :]) for w, before, _ in seen if w == word}
        room = 56 - len(title) - len(word)
        assert len(left) == min(at, room) + 1
        assert {len(after) for w, _, after in seen if w == word} == set(
            range(min(len(body) - at - len(word), room) + 1)
        )


def test_one_very_long_document_costs_no_memory():
    """A line of 2 MB among others once asked for documents x 2 million cells; what is used of it is a few blocks."""
    rule = Corruption(new_word=1.0, one_word=1.0, excerpt=1.0)
    data = CharCorruptionDataset("Ann Li. Born in Rome.\n" + "Bo Li. Born in Oslo." + " and so on" * 200_000, 128, rule)
    assert data._tokens.size(1) <= 512
    x, _ = data.batch(torch.tensor([0, 1]))
    assert all(word in ("Born", "Rome", "Oslo") for word in (text_of(data, row).split(M)[2] for row in x))


def test_near_excerpts_keep_title_and_word_whole():
    """Bug: 1 - u**8 rounded to 1 for small u, and the stretch began one character behind the word's own first."""
    title = PERSON[:11]
    data = CharCorruptionDataset(PERSON, 128, Corruption(new_word=1.0, excerpt=1.0, nearness=8.0))
    for row in data.batch(torch.zeros(3000, dtype=torch.long), torch.Generator().manual_seed(0))[0]:
        before, after, word, _ = text_of(data, row).split(M)
        assert word in NEW_WORDS
        assert before.startswith(title)
        assert before[len(title) :] + word + after in PERSON


def test_lead_stands_before_the_title():
    """lead = 1: what an excerpt keeps from left of the word comes before the title, and nothing else changes."""
    title, body = PERSON[:11], PERSON[11:]
    data = CharCorruptionDataset(PERSON, 128, Corruption(new_word=1.0, one_word=1.0, excerpt=1.0, lead=1.0))
    leads = set()
    for row in data.batch(torch.zeros(2000, dtype=torch.long), torch.Generator().manual_seed(0))[0]:
        before, after, word, _ = text_of(data, row).split(M)
        assert before.endswith(title)
        lead = before.removesuffix(title)
        assert lead + word + after in body
        leads.add((word, len(lead)))
    assert leads == {(word, n) for word in NEW_WORDS for n in range(body.index(word) + 1)}


def test_leads_are_of_any_length_up_to_the_longest():
    """longest_lead = 5: each of 0 .. 5 characters before the title equally often, whatever the nearness."""
    rule = Corruption(new_word=1.0, one_word=1.0, first_place=1e9, excerpt=1.0, lead=1.0, longest_lead=5, nearness=8.0)
    data = CharCorruptionDataset(PERSON, 128, rule)
    rows = data.batch(torch.zeros(6000, dtype=torch.long), torch.Generator().manual_seed(0))[0]
    seen = Counter(text_of(data, row).index(PERSON[:11]) for row in rows)
    assert seen.keys() == set(range(6))
    assert all(abs(n - 1000) < 5 * (6000 * 5 / 36) ** 0.5 for n in seen.values())


def test_nearness_shortens_excerpts():
    """nearness = 4: the share of the text kept on either side is u**4, a fifth on average instead of a half."""
    kept = {}
    for nearness in (1.0, 4.0):
        rule = Corruption(new_word=1.0, one_word=1.0, first_place=1e9, excerpt=1.0, nearness=nearness)
        data = CharCorruptionDataset(PERSON, 128, rule)
        rows = data.batch(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))[0]
        after = [len(text_of(data, row).split(M)[1]) for row in rows]
        kept[nearness] = sum(after) / len(after) / len(PERSON[PERSON.index("Łódź") + 4 :])
    assert kept == pytest.approx({1.0: 1 / 2, 4.0: 1 / 5}, abs=0.02)


def test_documents_without_new_words_make_no_excerpts():
    """excerpt = 1 leaves a document without new words to the handout's rule."""
    data = CharCorruptionDataset("nothing here is written large", 64, Corruption(new_word=1.0, excerpt=1.0))
    for row in data.batch(torch.zeros(500, dtype=torch.long))[0]:
        before, after, span, _ = text_of(data, row).split(M)
        assert "nothing here is written large".startswith(before + span + after)


def test_titles_with_initials():
    """The title ends at the first ". " behind a word of two letters: initials do not end it."""
    for document, title in (
        ("J. R. Roe. J. R. Roe sang.", "J. R. Roe. "),
        ("Ann Li. Born in Rome.", "Ann Li. "),
        ("x", ""),
    ):
        assert int(CharCorruptionDataset(document, 64)._title[0]) == len(title)


def test_answer_only():
    """answer_only = 1: what follows the second MASK carries loss, the span and the last MASK, and nothing else."""
    data = CharCorruptionDataset(PERSON, 128, Corruption(answer_only=1.0))
    x, y = data.batch(torch.zeros(500, dtype=torch.long), torch.Generator().manual_seed(0))
    for row, targets in zip(x, y, strict=True):
        before, after, span, _ = text_of(data, row).split(M)
        quiet = len(before) + len(after) + 1  # the targets before that of the first character of the span
        assert text_of(data, targets) == P * quiet + span + M + P * (128 - quiet - len(span) - 1)
    half = CharCorruptionDataset(PERSON, 128, Corruption(answer_only=0.5))
    _, y = half.batch(torch.zeros(4000, dtype=torch.long), torch.Generator().manual_seed(0))
    assert (y[:, 0] == 0).float().mean() == pytest.approx(0.5, abs=0.03)


def test_keep_whole():
    """keep_whole = 1 cuts at the longest length alone."""
    assert {n for n, _, _ in draws(CharCorruptionDataset(LONG, 32, Corruption(keep_whole=1.0)), 500)} == {28}


# ---------------------------------------------------------------- both at once


def test_mixture_is_its_parts():
    """Each index of a mixture is the row of its part, filled up to one width; the lengths add up."""
    corpus = CharCorruptionDataset("Ann Li. Born in Rome?\nBo. No", 64)
    pairs = NameDataset(corpus, "Ann Li?\tRome\nBo?\tBonn\n")
    mixture = Mixture(pairs, corpus)
    assert len(mixture) == 4
    x, y = mixture.batch(torch.tensor([3, 0, 1]), torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (3, 64)
    for got, own in zip((x, y), pairs.batch(torch.tensor([0, 1])), strict=True):
        assert torch.equal(got[:2, :63], own)
        assert (got[:2, 63] == 0).all()
    for got, own in zip((x, y), corpus.batch(torch.tensor([1]), torch.Generator().manual_seed(0)), strict=True):
        assert torch.equal(got[2:], own)


# ---------------------------------------------------------------- files that do not fit


@pytest.mark.parametrize(
    "text, line",
    [
        ("Where?\tOxford\n\nZoé?\tŁódź\n", 2),  # blank line
        ("Where?\tOxford\nZoé?\n", 2),  # no tab
        ("Where?\tOxford\nZoé?\tŁódź\tRome\n", 2),  # two tabs
        ("Where?\tOxford\nZoé?\tŁódź\n \tRome\n", 3),  # no name
        ("Where was born?\tOxford\n", 1),  # no name in the question
        ("Where was  born?\tOxford\n", 1),  # an empty name between two spaces
        ("Where?\tOxford\nZoé?\t\n", 2),  # no place
        ("Where?\tOxford\nZoé?\t  \n", 2),  # no place but spaces
        (f"Where?\tOxford\nZo{M}?\tOxford\n", 2),  # MASK
        (f"Where?\tOxford\nZoé?\tOx{P}ford\n", 2),  # PAD
        ("Where?\tOxford\n" + "Where " * 30 + "?\tOxford\n", 2),  # too long
        ("Where?\tOxford\nZoé?\tOxford\nWhere?\tQom\n", 3),  # Q is not in the corpus
    ],
)
def test_bad_pair_is_named(text, line):
    """A line that does not fit is refused with the file's name and the line's number."""
    corpus = CharCorruptionDataset(CORPUS, 128)
    with pytest.raises(UserError, match=rf"^people\.tsv, line {line}:") as caught:
        NameDataset(corpus, text, "people.tsv")
    assert "\n" not in str(caught.value)


def test_unknown_character_is_shown():
    """The message names the character that the corpus lacks."""
    with pytest.raises(UserError, match="'Q'"):
        NameDataset(CharCorruptionDataset(CORPUS, 128), "Where?\tQom\n", "people.tsv")


@pytest.mark.parametrize("special", [M, P])
def test_special_characters_in_the_corpus(special):
    """A corpus that holds MASK or PAD is refused with its name, the line and the code point."""
    with pytest.raises(UserError, match=rf"^wiki\.txt, line 2: .*U\+{ord(special):04X}"):
        CharCorruptionDataset(f"one\ntw{special}o\n", 32, source="wiki.txt")


def test_corpus_without_documents():
    """A corpus of blank lines is refused with its name."""
    with pytest.raises(UserError, match=r"^wiki\.txt"):
        CharCorruptionDataset("\n \n", 32, source="wiki.txt")


def test_line_ends_and_byte_order_mark(tmp_path):
    """CRLF line ends and a UTF-8 byte order mark read like plain UTF-8."""
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + "Where?\tOxford\r\nZoé?\tŁódź\r\n".encode())
    assert read_text(path) == "Where?\tOxford\nZoé?\tŁódź\n"


@pytest.mark.parametrize(
    "content, says",
    [
        ("Where?\tOxford\n".encode("utf-16"), "UTF-16"),
        ("Where?\tOxford\n".encode("utf-16-le"), "line 1"),  # without a mark it is full of zero bytes
        (b"good\nline\n\x89PNG\xff\n", "line 3"),
        ("gut\nZoé\n".encode("latin-1"), "line 2"),
        (b"one\ntwo\x00\n", "line 2"),
        (b"", "empty"),
        (b" \r\n\n", "empty"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, says):
    """UTF-16, binary, Latin-1 and empty files are refused in one line with the file's name."""
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_text(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, says", [("missing.txt", "no such file"), (".", "directory"), ("a\0b", "read")])
def test_paths_that_are_no_files(tmp_path, name, says):
    """A missing file, a directory and an impossible name are refused in one line."""
    with pytest.raises(UserError, match=says):
        read_text(f"{tmp_path}/{name}")

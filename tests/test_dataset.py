"""The two datasets: exact examples, and statistics of the corruption."""

import random
import tracemalloc
from collections import Counter
from functools import cache
from statistics import fmean, pstdev

import pytest
import torch
from scipy.stats import chisquare

from dataset import CharCorruptionDataset, NameDataset, encode
from engine.targets import Cut, Excerpts
from utils import MASK_CHAR, PAD_CHAR, UserError

M, P = "\u2047", "\u25a1"
CORPUS = "Ada Bell. Ada Bell was born in Oxford.\nZoé Noß. Zoé Noß came from Łódź?\nWhere? There!\n"
LONG = "".join(chr(ord("!") + i % 90) for i in range(400))  # a document whose characters tell their position


def text_of(dataset, row: torch.Tensor) -> str:
    """The characters of a row."""
    return "".join(dataset.itos[t] for t in row.tolist())


def draw(data: CharCorruptionDataset, index: int = 0) -> tuple[str, str, str]:
    """Prefix, suffix and span of an example, after checking its form: three masks, then only padding."""
    x, y = data[index]
    assert (x.dtype, y.dtype, x.shape, y.shape) == (torch.long, torch.long, *[(data.block_size,)] * 2)
    assert torch.equal(x[1:], y[:-1])
    prefix, suffix, span, rest = text_of(data, torch.cat((x, y[-1:]))).rstrip(P).split(M)
    assert rest == "" and P not in prefix + suffix + span
    return prefix, suffix, span


@cache
def draws(document: str, block: int, count: int) -> list[tuple[int, int, int]]:
    """(length of the truncated document, start of the span, its length) of many examples."""
    random.seed(0)
    data = CharCorruptionDataset(document, block)
    parts = [draw(data) for _ in range(count)]
    assert all(document.startswith(prefix + span + suffix) and span for prefix, suffix, span in parts)
    return [(len(prefix + span + suffix), len(prefix), len(span)) for prefix, suffix, span in parts]


def assert_uniform(counts: Counter, over) -> None:
    """Exactly the values in `over` occur, equally often by Pearson's chi-square test."""
    assert counts.keys() == set(over)
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_vocabulary(capsys):
    """PAD is 0, MASK is 1, then the sorted characters of the corpus, newline included; their number is printed.

    Documents are the lines that are not blank. The pairs share vocabulary and block size with the corpus. A character
    that the vocabulary lacks is a KeyError.
    """
    data = CharCorruptionDataset("cab\n\n\nß?", 16)
    assert capsys.readouterr().out == "data has 8 characters, 8 unique.\n"
    assert (data.data, len(data)) == (["cab", "ß?"], 2)
    assert [data.itos[i] for i in range(8)] == [P, M, "\n", "?", "a", "b", "c", "ß"]
    assert all(data.stoi[c] == i for i, c in data.itos.items())
    assert (len(data.stoi), data.vocab_size, data.block_size) == (8, 8, 16)
    pairs = NameDataset(data, "ab?\tc\n")
    assert (pairs.stoi, pairs.itos, pairs.block_size) == (data.stoi, data.itos, 16)
    for dataset in (data, pairs):
        assert (dataset.PAD_CHAR, dataset.MASK_CHAR) == (PAD_CHAR, MASK_CHAR) == (P, M)
    with pytest.raises(KeyError):
        encode("cd", data.stoi)


def test_pairs_written_out():
    """x is question MASK place MASK PADs, 127 long; y is x one later, with the question's characters PADs.

    Bugs in the course's code: the last pair was dropped if the file did not end with a newline, and accents were
    dropped in training only, so that questions had names the model had never seen.
    """
    text = "Where was Ada Bell born?\tOxford\nWhere was Zoé Noß?\tŁódź"  # without a newline at the end
    pairs = NameDataset(CharCorruptionDataset(CORPUS, 128), text)
    assert len(pairs) == 2
    wanted = [
        ("Where was Ada Bell born?⁇Oxford⁇" + "□" * 95, "□□□□□□□□□□□□□□□□□□□□□□□⁇Oxford⁇" + "□" * 96),
        ("Where was Zoé Noß?⁇Łódź⁇" + "□" * 103, "□□□□□□□□□□□□□□□□□⁇Łódź⁇" + "□" * 104),
    ]
    assert [(text_of(pairs, x), text_of(pairs, y)) for x, y in (pairs[0], pairs[1])] == wanted
    assert all((row.dtype, row.shape) == (torch.long, (127,)) for i in (0, 1) for row in pairs[i])
    assert [int(t) for t in pairs[1][1] if t] == [pairs.stoi[c] for c in "⁇Łódź⁇"]
    # question, place and two masks may fill the block; then x lacks the last mask and y has it
    corpus = CharCorruptionDataset("abcdefgh?", 10)
    x, y = NameDataset(corpus, "abcd?\tefg")[0]
    assert (text_of(corpus, x), text_of(corpus, y)) == ("abcd?⁇efg", "□□□□⁇efg⁇")
    with pytest.raises(UserError, match=r"^pairs\.tsv, line 1.*11 characters, 10 fit"):
        NameDataset(corpus, "abcd?\tefgh", "pairs.tsv")


def test_all_examples_of_four_characters():
    """The document "abcd" has exactly four examples, equally likely.

    All characters after the first one are targets, the last MASK included; PADs are not.
    """
    data = CharCorruptionDataset("abcd", 16)
    random.seed(0)
    seen = Counter(tuple(text_of(data, row) for row in data[0]) for _ in range(8000))
    assert_uniform(seen, {(s + "□" * 9, s[1:] + "□" * 10) for s in ("⁇bcd⁇a⁇", "a⁇cd⁇b⁇", "ab⁇d⁇c⁇", "abc⁇⁇d⁇")})


@pytest.mark.parametrize("document", ["a", "ab", "abc"])
def test_short_document_is_used_whole(document):
    """A document under 4 characters is not truncated; one character of it is masked.

    A document of 20 characters in a block of 32 stays whole if the length drawn is 20 or more, in 9 of 25 draws.
    """
    seen = {draw(CharCorruptionDataset(document, 32)) for _ in range(200)}
    assert seen == {(document[:i], document[i + 1 :], document[i]) for i in range(len(document))}
    lengths = [n for n, _, _ in draws(LONG[:20], 32, 10000)]
    assert max(lengths) == 20 and lengths.count(20) / 10000 == pytest.approx(9 / 25, abs=0.025)


@pytest.mark.parametrize("block", [12, 32, 128])
def test_every_length_is_equally_likely(block):
    """Documents are truncated to 4 .. int(block * 7/8) characters, each length equally likely.

    Prefix + span + suffix is the start of the document, and the span is not empty.
    """
    lengths = range(4, block * 7 // 8 + 1)
    assert_uniform(Counter(n for n, _, _ in draws(LONG, block, 300 * len(lengths))), lengths)


def test_span_is_a_quarter_on_average():
    """A quarter of the truncated document is masked on average, overall and for every length.

    Span lengths vary; given the lengths of document and span, every start is equally likely.
    """
    sample = draws(LONG, 32, 60000)
    assert fmean(span / n for n, _, span in sample) == pytest.approx(0.25, abs=0.003)
    for length in range(4, 29):
        spans = [span for n, _, span in sample if n == length]
        assert fmean(spans) == pytest.approx(length / 4, abs=5 * pstdev(spans) / len(spans) ** 0.5 + 1e-9)
        assert len(set(spans)) >= max(1, length // 2 - 1)
    for n, span in ((12, 3), (28, 7), (9, 1)):
        starts = Counter(start for length, start, s in sample if (length, s) == (n, span))
        assert_uniform(starts, range(n - span + 1))


def test_a_million_lines():
    """A corpus needs at most 300 bytes per line beyond its text, including the datasets that recipes make of it.

    Bug: tables of all documents took 10 kB per line before the first step. (Measured here on 20,000 lines.)
    """
    text = "".join(f"Ann No{i}. Ann No{i} was born in Rome in {i} and so on.\n" for i in range(20_000))
    tracemalloc.start()
    data = CharCorruptionDataset(text, 128)
    for dataset in (data, Excerpts(data, Cut())):
        assert (len(dataset), len(dataset[19_999][0])) == (20_000, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(text) + 300 * 20_000

"""What recipes change in the datasets: where spans lie, excerpts instead of spans, several datasets as one.

`Spans` keeps the letter of the handout's span corruption and chooses lengths and positions. `Excerpts` does not.
"""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from batches import Examples
from dataset import CharCorruptionDataset, encode
from utils import MASK_CHAR, PAD_CHAR

TITLE = re.compile(r".*?\w\w\. ")  # "Samuel L. Jackson. "
BEFORE_A_PLACE = re.compile(r"(?:\b(?:in|at|near|from|of)(?: the)? |\b\d{4}\)?,? )$")  # "born in ", "(3 May 1822 "
NAME_AND_COMMA = re.compile(r"[^\W\d_a-z][\w'.-]*(?: [^\W\d_a-z][\w'.-]*)*, $")  # "Los Angeles, "
PART_OF_A_NAME = re.compile(r"-| [^\W\d_a-z]|\.\w")  # behind "Saint" in "Saint-Denis", "Los" in "Los Angeles"
MONTH = re.compile("January|February|March|April|May|June|July|August|September|October|November|December")
BEHIND_BORN = 80  # characters between "born" and the place


def is_place(word: re.Match, document: str) -> bool:
    """Whether a word is where places usually are: after "in", a year ..., or after a comma after such a place."""
    before = document[: word.start()]
    chain = NAME_AND_COMMA.search(before)
    return bool(BEFORE_A_PLACE.search(before) or (chain and BEFORE_A_PLACE.search(before, 0, chain.start())))


@lru_cache(2**14)
def new_words(document: str, first_place: float, other_place: float) -> tuple[int, list[tuple[int, int]], list[float]]:
    """The words of a document that must be remembered: capitalised, after the title, not seen before in it.

    Such a word cannot be copied from the text before it (salient spans: Guu et al. 2020, Roberts et al. 2020). Months
    do not count. Of the places, those soon after "born" come first, and of these the ones of a single word.

    Returns:
        The length of the title, (start, length) of each word, and its weight: first_place for the first place,
        other_place for other places, 1 for any other word.
    """
    found = TITLE.match(document)
    title = found.end() if found else 0
    words = list(re.finditer(r"\w+", document))
    seen = {word.group() for word in words if word.start() < title}
    new = []
    for word in words:
        if word.start() >= title and word.group()[0].isupper() and word.group() not in seen:
            new.append(word)
        seen.add(word.group())
    new = [word for word in new if not MONTH.fullmatch(word.group())]
    born = [found.end() for found in re.finditer(r"\b[Bb]orn\b", document)]

    def rank(word: re.Match) -> tuple[bool, bool, int]:
        is_born = any(0 <= word.start() - end <= BEHIND_BORN for end in born)
        is_single = word.group().isascii() and not PART_OF_A_NAME.match(document, word.end())
        return not is_born, not is_single, word.start()

    places = sorted((word for word in new if is_place(word, document)), key=rank)
    first = (places or sorted(new, key=lambda word: rank(word)[1:]))[:1]
    weights = [first_place if word in first else other_place if word in places else 1.0 for word in new]
    return title, [(word.start(), len(word.group())) for word in new], weights


@dataclass(frozen=True)
class Aim:
    """Where spans lie and where documents are cut, within the letter of part (e).

    Attributes:
        one_word: share of the spans that are one new word (smaller where a quarter could not be reached otherwise). The
            other spans have such lengths that a quarter of the document is cut out on average.
        first_place, other_place: the weight of a place among the new words; any other word has 1.
        from_start: share of the other spans that begin with the document: then the name comes after the text, and is
            met at other positions than the first, as in a question.
        cut_behind: share of the documents that are cut soon after a place; the others are cut anywhere.
        nearness: how soon: at the share u**nearness of the remaining text, u uniform.
        last_mask: whether an example ends with a third MASK, which the handout leaves open.
    """

    one_word: float = 0.5
    first_place: float = 60.0
    other_place: float = 10.0
    from_start: float = 0.25
    cut_behind: float = 0.9
    nearness: float = 4.0
    last_mask: bool = True


class Spans(CharCorruptionDataset):
    """The documents of a plain dataset, truncated and masked as an Aim says."""

    def __init__(self, documents: CharCorruptionDataset, aim: Aim):
        vars(self).update(vars(documents))  # the same documents and vocabulary
        self.aim = aim
        self.has_last_mask = aim.last_mask

    def targets(self, document: str, longest: int) -> tuple[list[tuple[int, int]], list[float]]:
        """(start, length) and weight of each new word that ends within the first `longest` characters."""
        _, words, weights = new_words(document, self.aim.first_place, self.aim.other_place)
        fitting = [(w, weight) for w, weight in zip(words, weights, strict=True) if sum(w) <= longest]
        return [w for w, _ in fitting], [weight for _, weight in fitting]

    def truncate(self, document: str) -> str:
        """Each length of 4 .. block_size * 7/8 is possible; the likeliest end soon after a place."""
        is_cut_behind = random.random() < self.aim.cut_behind
        words, weights = self.targets(document, self.longest)
        if not is_cut_behind or not words:
            return super().truncate(document)
        end = sum(random.choices(words, weights)[0])
        rest = min(len(document), self.longest) - end
        length = max(4, end + int((rest + 1) * random.random() ** self.aim.nearness))
        return document[:length]

    def choose_span(self, document: str) -> tuple[int, int]:
        """A new word, or a span of such a length that a quarter of the n characters is cut out on average.

        The rest of a word that was cut through counts as a word.
        """
        n = len(document)
        words, weights = self.targets(document, n)
        if not words or n < 4:
            return super().choose_span(document)
        # The mean of q word + (1 - q) other is n/4; other can be 1 .. n/2 on average, which bounds q.
        word = sum(length * weight for (_, length), weight in zip(words, weights, strict=True)) / sum(weights)
        q = self.aim.one_word
        if word > 1:
            q = min(q, (n / 4 - 1) / (word - 1))
        if word < n / 2:
            q = min(q, (n / 4) / (n / 2 - word))
        if random.random() < q:
            return random.choices(words, weights)[0]
        twice = int(2 * (n / 4 - q * word) / (1 - q) + random.random())  # twice the mean, a coin rounds
        length = random.randint(max(1, twice - n), max(1, min(n, twice - 1)))
        return 0 if random.random() < self.aim.from_start else random.randint(0, n - length), length


@dataclass(frozen=True)
class Cut:
    """How excerpts are cut.

    Attributes:
        first_place, other_place: the weight of a place among the new words; any other word has 1.
        nearness: how close to the word the excerpt ends on either side: at the share u**nearness of the text there, u
            uniform.
        lead: share of the excerpts in which the text left of the word comes before the title, so that names are met at
            other positions than the first, as in a question.
        longest_lead: the most characters of that text; each number up to it is equally likely.
    """

    first_place: float = 200.0
    other_place: float = 6.0
    nearness: float = 8.0
    lead: float = 0.5
    longest_lead: int = 16


class Excerpts(CharCorruptionDataset):
    """NOT the handout's span corruption: a document's title and a few characters around one new word.

    So every example resembles a question. The loss is on the word and the last MASK only. Words beyond the longest
    truncation are asked for as well. A document without a new word is corrupted as the handout says.
    """

    def __init__(self, documents: CharCorruptionDataset, cut: Cut):
        vars(self).update(vars(documents))  # the same documents and vocabulary
        self.cut = cut

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size."""
        document, cut = self.data[idx][: 4 * self.block_size], self.cut
        title, words, weights = new_words(document, cut.first_place, cut.other_place)
        fitting = [title + length <= self.longest for _, length in words]
        if not any(fitting):
            return super().__getitem__(idx)
        start, length = random.choices(words, [w * fits for w, fits in zip(weights, fitting, strict=True)])[0]
        end, room = start + length, self.longest - title - length
        is_led = random.random() < cut.lead
        most = min(start - title, room, cut.longest_lead if is_led else room)
        before = int((most + 1) * random.random() ** (1.0 if is_led else cut.nearness))
        most = min(len(document) - end, room - before)
        after = int((most + 1) * random.random() ** cut.nearness)
        name, left, right = document[:title], document[start - before : start], document[end : end + after]
        asked = (left + name if is_led else name + left) + MASK_CHAR + right + MASK_CHAR
        answer = document[start:end] + MASK_CHAR
        pads = PAD_CHAR * (self.block_size + 1 - len(asked) - len(answer))
        x = asked + answer + pads
        y = PAD_CHAR * len(asked) + answer + pads
        return encode(x[:-1], self.stoi), encode(y[1:], self.stoi)


class Together(Dataset):
    """Several datasets as one: the examples of the first, then of the next, padded to one length with PAD (0)."""

    def __init__(self, *parts: Examples):
        self.parts = parts
        self.width = max(len(part[0][0]) for part in parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        for part in self.parts:
            if idx < len(part):
                x, y = part[idx]
                return F.pad(x, (0, self.width - len(x))), F.pad(y, (0, self.width - len(y)))
            idx -= len(part)
        raise IndexError(idx)

"""What recipes add to the datasets: excerpts of documents, and several datasets as one."""

import random
import re
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset

from batches import Examples
from dataset import CharCorruptionDataset, encode
from utils import MASK_CHAR, PAD_CHAR

TITLE = re.compile(r".*?\w\w\. ")  # "Samuel L. Jackson. "
BEFORE_A_PLACE = re.compile(r"(?:\b(?:in|at|near|from|of)(?: the)? |\b\d{4}\)?,? )$")  # "born in ", "(3 May 1822 "
NAME_AND_COMMA = re.compile(r"[^\W\d_a-z][\w'.-]*(?: [^\W\d_a-z][\w'.-]*)*, $")  # "Los Angeles, "
PART_OF_A_NAME = re.compile(r"-| [^\W\d_a-z]|\.\w")  # after "Saint" in "Saint-Denis", "Los" in "Los Angeles"
MONTH = re.compile("January|February|March|April|May|June|July|August|September|October|November|December")
BEHIND_BORN = 80  # characters between "born" and the place
BEFORE = 80  # characters of a document that are read to tell whether a word is a place


def is_place(word: re.Match, document: str) -> bool:
    """Whether a word is where places usually are: after "in", a year ..., or after a comma after such a place."""
    before = document[max(0, word.start() - BEFORE) : word.start()]
    chain = NAME_AND_COMMA.search(before)
    return bool(BEFORE_A_PLACE.search(before) or (chain and BEFORE_A_PLACE.search(before, 0, chain.start())))


@lru_cache(2**14)
def new_words(document: str) -> tuple[int, list[tuple[int, int]], list[int]]:
    """The words of a document that must be remembered: capitalised, after the title, not seen before in it.

    Such a word cannot be copied from the text before it (salient spans: Guu et al. 2020, Roberts et al. 2020). Months
    do not count. Of the places, those soon after "born" come first, and of these the ones of a single
    word of ASCII letters.

    Returns:
        The length of the title, (start, length) of each word, and what it is: 2 for the first place (or the first word
        of a document without a place), 1 for other places, 0 for any other word.
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
    kinds = [2 if word in first else 1 if word in places else 0 for word in new]
    return title, [(word.start(), len(word.group())) for word in new], kinds


@dataclass(frozen=True)
class Cut:
    """How excerpts are cut.

    Attributes:
        first_place, other_place: sampling weights of the first place and of other places; any other new word has 1.
        nearness: on each side of the word a fraction u**nearness of the available text is kept, u uniform; a larger
            value keeps less.
        lead: share of the excerpts in which the text left of the word comes before the title, so that names also occur
            at positions other than the first, as in a question.
        longest_lead: the most characters of that text; each number up to it is equally likely.
    """

    first_place: float = 200.0
    other_place: float = 6.0
    nearness: float = 8.0
    lead: float = 0.5
    longest_lead: int = 16


class Excerpts(CharCorruptionDataset):
    """NOT the handout's span corruption: a document's title and a few characters around one new word.

    So every example resembles a question. The loss is on the word and the last MASK only. Words of the first
    4 * block_size characters are asked for. If none of these is new, or none fits beside the title, the handout's rule
    applies.
    """

    def __init__(self, documents: CharCorruptionDataset, cut: Cut):
        vars(self).update(vars(documents))  # the same documents and vocabulary
        self.cut = cut

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size."""
        document, cut = self.data[idx][: 4 * self.block_size], self.cut
        title, words, kinds = new_words(document)
        weights = [(1.0, cut.other_place, cut.first_place)[kind] for kind in kinds]
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


class PaddedConcat(ConcatDataset):
    """Several datasets as one: the examples of the first, then of the next, padded to one length with PAD (0)."""

    def __init__(self, *parts: Examples):
        super().__init__(parts)  # type: ignore[arg-type]  # which only indexes them
        self.width = max(len(part[0][0]) for part in parts)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of the longest part's length."""
        x, y = super().__getitem__(idx)
        return F.pad(x, (0, self.width - len(x))), F.pad(y, (0, self.width - len(y)))

"""The two datasets: span corruption for pretraining (part e) and question-answer pairs for finetuning.

Both hold their whole text as one tensor of token ids and make a batch at once with `batch(indices)`;
`dataset[i]` is the batch of one. Look at examples with

    python src/dataset.py namedata
    python src/dataset.py charcorruption
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import MASK_CHAR, PAD_CHAR, UserError, cli, read_pairs, read_text


def encode(text: str, stoi: dict[str, int]) -> list[int]:
    """Token ids of a text. KeyError for a character that the vocabulary lacks."""
    return [stoi[c] for c in text]


class NameDataset:
    """Where was NAME born? -> PLACE, over the vocabulary of a pretraining corpus.

    With a block of 128, the example ("Where was Ada Lovelace born?", "London") reads

        x: Where was Ada Lovelace born?[MASK]London[MASK][PAD]...
        y: [PAD]...               [MASK]London[MASK][PAD]...

    that is, y is x one character later with the question's characters replaced by PAD, so that the
    loss is taken on `MASK place MASK` alone.

    Args:
        pretraining_dataset: gives the vocabulary and the block size.
        data: the text of a file of lines `question<TAB>place`.
        source: name of the file, for error messages.
    """

    def __init__(self, pretraining_dataset: CharCorruptionDataset, data: str, source: str = "the training pairs"):
        self.MASK_CHAR = MASK_CHAR
        self.PAD_CHAR = PAD_CHAR
        self.stoi = pretraining_dataset.stoi
        self.itos = pretraining_dataset.itos
        self.block_size = pretraining_dataset.block_size
        self.pairs = read_pairs(data, source, with_answers=True)
        x = torch.zeros(len(self.pairs), self.block_size, dtype=torch.long)
        question = torch.zeros(len(self.pairs), dtype=torch.long)
        for i, (line, asked, place) in enumerate(self.pairs):
            text = asked + MASK_CHAR + place + MASK_CHAR
            if missing := sorted(set(text) - set(self.stoi)):
                raise UserError(
                    f"{source}, line {line}: {missing[0]!r} is not among the characters of the pretraining corpus; "
                    "train on pairs that belong to this corpus, or take the character out"
                )
            if len(text) > self.block_size:
                raise UserError(
                    f"{source}, line {line}: question and answer have {len(text)} characters, "
                    f"{self.block_size} fit; shorten them"
                )
            x[i, : len(text)] = torch.tensor(encode(text, self.stoi))
            question[i] = len(asked)
        self._tokens, self._question = x, question
        self.width = self.block_size - 1  # of x and y

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size - 1."""
        x, y = self.batch(torch.tensor([idx]))
        return x[0], y[0]

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """x and y of several pairs, each (B, block_size - 1). Nothing is random: no generator is used."""
        indices = indices.to(self._tokens.device)
        s = self._tokens[indices]  # (B, block_size)
        x, y = s[:, :-1], s[:, 1:]
        asked = torch.arange(y.size(1), device=y.device) < self._question[indices][:, None] - 1
        return x, y.masked_fill(asked, self.stoi[PAD_CHAR])

    def to(self, device: torch.device | str) -> None:
        """Make batches on this device from now on."""
        self._tokens, self._question = self._tokens.to(device), self._question.to(device)


# ---------------------------------------------------------------- [part e] span corruption

TITLE = re.compile(r".*?\w\w\. ")  # "Samuel L. Jackson. "
BEFORE_A_PLACE = re.compile(r"(?:\b(?:in|at|near|from|of)(?: the)? |\b\d{4}\)?,? )$")  # "born in ", "(3 May 1822 "
BEHIND_A_MONTH = re.compile(r",? \d")  # "May 3", "May, 1822"


@dataclass(frozen=True)
class Corruption:
    """How documents are cut and spans are chosen. The defaults are the handout's rule, exactly.

    Attributes:
        keep_whole: share of the documents that are cut only at the longest length allowed
            (the others: at a random length, each of 4 .. block_size * 7/8 equally likely).
        new_word: share of the spans that start where a new word starts and not just anywhere: a
            capitalised word behind the title ("NAME. ") that the document has not had before, such as
            a place; it cannot be copied from what stands before, only known. (Salient spans: Guu et al.
            2020, Roberts et al. 2020.) A document without such a word: anywhere.
        one_word: share of the new_word spans that end with the word. The length of the others is
            drawn as always.
        first_place: how many times as often as any other new word the first place is chosen: the first
            new word that stands behind "in", "at", "near", "from", "of" (or one of these and "the") or
            a year, and is not followed by a number, as a month is; else the first new word.
        excerpt: share of the new_word spans that are one word, and of whose document only the title and
            a stretch of the text around the word are kept: the fact with less around it, and facts
            behind the longest cut too.
        nearness: how near the stretch ends on either side of the word: at the share u**nearness of the
            text there, u uniform; 1 is anywhere, 8 mostly within a few characters.
        lead: share of the excerpts whose part left of the word stands before the title, so that names
            are met in other places than the first, as in a question. This part is of 0 .. longest_lead
            characters, each equally likely as far as they are there.
        answer_only: share of the examples whose loss is taken on the span and the last MASK alone, as
            T5 does and finetuning too, and not on the text before them.
    """

    keep_whole: float = 0.0
    new_word: float = 0.0
    one_word: float = 0.0
    first_place: float = 1.0
    excerpt: float = 0.0
    nearness: float = 1.0
    lead: float = 0.0
    longest_lead: int = 112
    answer_only: float = 0.0


class CharCorruptionDataset:
    """Documents with one span of characters cut out and asked for: T5's span corruption, in small.

    Each time a document is drawn,
    1. it is cut to a random length, each of 4 .. int(block_size * 7/8) equally likely (a shorter
       document stays whole);
    2. a span of random length, a quarter of what is left on average, is chosen in it;
    3. the example is  s = prefix MASK suffix MASK span MASK, filled up with PAD to block_size + 1;
    4. x = s[:-1] and y = s[1:].

    Raffel et al. 2020, section 3.1.4, with one span. The last MASK is optional in the handout; with it
    the end of an example, `MASK span MASK`, has the form of finetuning's `MASK place MASK`.

    Args:
        data: the corpus, one document a line.
        block_size: length of x and of y.
        corruption: how documents are cut and spans chosen; the default is the rule above.
        source: name of the file, for error messages.
    """

    SHORTEST = 4

    def __init__(
        self,
        data: str,
        block_size: int,
        corruption: Corruption | None = None,
        source: str = "the pretraining corpus",
    ):
        self.MASK_CHAR = MASK_CHAR
        self.PAD_CHAR = PAD_CHAR
        for special in (MASK_CHAR, PAD_CHAR):
            if special in data:
                line = data[: data.index(special)].count("\n") + 1
                raise UserError(
                    f"{source}, line {line}: contains U+{ord(special):04X}, which is kept for masks and padding; "
                    "take it out"
                )
        characters = [PAD_CHAR, MASK_CHAR, *sorted(set(data))]
        self.stoi = {c: i for i, c in enumerate(characters)}
        self.itos = dict(enumerate(characters))
        self.vocab_size = len(characters)
        self.block_size = self.width = block_size  # length of x and y
        self.corruption = corruption or Corruption()
        print(f"data has {len(data)} characters, {self.vocab_size} unique.")
        self.data = [document for document in data.split("\n") if document.strip()]
        if not self.data:
            raise UserError(f"{source}: no documents in it; one document a line is expected")
        self.longest = int(block_size * 7 / 8)
        # A document may be of any length, but nothing behind this many characters is used.
        width = min(4 * block_size, max(map(len, self.data)))
        documents = [encode(document[:width], self.stoi) for document in self.data]
        self._length = torch.tensor([len(document) for document in documents])  # (D,)
        self._tokens = torch.zeros(len(documents), width, dtype=torch.long)  # (D, width)
        for row, document in zip(self._tokens, documents, strict=True):
            row[: len(document)] = torch.tensor(document)
        self._title, self._word_length, self._word_weight = self._new_words()

    def _new_words(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where titles end and new words (see Corruption) start.

        Returns:
            title: (D,) length of the title with its ". ", 0 where there is none.
            length: (D, width) length of the new word that starts here, 0 where none does.
            weight: (D, width) how often it is chosen, 0 where none starts.
        """
        title = torch.zeros_like(self._length)
        length = torch.zeros_like(self._tokens)
        weight = torch.zeros(self._tokens.shape)
        for i, document in enumerate(self.data):
            found = TITLE.match(document, 0, length.size(1))
            title[i] = found.end() if found else 0
            words = list(re.finditer(r"\w+", document))
            seen = {word.group() for word in words if word.start() < title[i]}
            new = []
            for word in words:
                if title[i] <= word.start() and word.end() <= length.size(1):
                    if word.group()[0].isupper() and word.group() not in seen:
                        new.append(word)
                    seen.add(word.group())
            for word in new:
                length[i, word.start()] = len(word.group())
                weight[i, word.start()] = 1.0
            places = [
                word
                for word in new
                if BEFORE_A_PLACE.search(document[: word.start()]) and not BEHIND_A_MONTH.match(document, word.end())
            ]
            for first in (places or new)[:1]:
                weight[i, first.start()] = self.corruption.first_place
        return title, length, weight

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size, corrupted with torch's global random numbers."""
        x, y = self.batch(torch.tensor([idx]))
        return x[0], y[0]

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Corrupt several documents at once.

        Args:
            indices: (B,) document numbers.
            generator: source of the random numbers (torch's global one without it).

        Returns:
            x, y: (B, block_size)
        """
        indices = indices.to(self._tokens.device)
        n, start, span, skip, lead, quiet = (t[:, None] for t in self.choose_spans(indices, generator))  # (B, 1)
        j = torch.arange(self.block_size + 1, device=n.device)  # (block_size + 1,)
        # prefix: 0 .. start, MASK at start, suffix up to n - span, MASK, span up to n + 1, MASK at n + 2
        source = torch.where(j < start, j, torch.where(j <= n - span, j - 1 + span, start + j - (n - span) - 2))
        # ... of what is kept: the lead, the title, and what comes `skip` characters later in the document
        title = self._title[indices][:, None]
        behind = torch.where(source < lead + title, source - lead, source + skip)
        source = torch.where(source < lead, source + title + skip, behind)
        s = self._tokens[indices].gather(1, source.clamp(0, self._tokens.size(1) - 1))
        is_mask = (j == start) | (j == n - span + 1) | (j == n + 2)
        s = s.masked_fill(is_mask, self.stoi[MASK_CHAR]).masked_fill(j > n + 2, self.stoi[PAD_CHAR])
        return s[:, :-1], s[:, 1:].masked_fill(j[1:] < quiet, self.stoi[PAD_CHAR])

    def to(self, device: torch.device | str) -> None:
        """Make batches on this device from now on, from the same random numbers."""
        for name in ("_length", "_tokens", "_title", "_word_length", "_word_weight"):
            setattr(self, name, getattr(self, name).to(device))

    def choose_spans(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """Draw for each document what is kept of it and which span of that is cut out.

        Returns:
            n: (B,) characters kept.
            start, span: (B,) where the span starts in what is kept, and its length.
            skip: (B,) characters left out behind the title.
            lead: (B,) characters from left of the span that stand before the title.
            quiet: (B,) characters at the start of the example that carry no loss.
        """
        rule = self.corruption
        draws = torch.rand(13, len(indices), generator=generator).to(indices.device)  # the same on every device
        cut, whole, coin, long, place, salient, pick, single, apart, left, right, ahead, alone = draws

        def uniform(u: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
            """An integer in low .. high, from u in [0, 1)."""
            return low + (u * (high - low + 1)).long()

        limit = torch.where(whole < rule.keep_whole, self.longest, uniform(cut, self.SHORTEST, self.longest))
        n = torch.minimum(self._length[indices], limit)
        # A span of 1 .. h has (1 + h)/2 characters on average: n/4 for h = n/2 - 1, rounded by a coin.
        h = ((n + (coin < 0.5)) // 2 - 1).clamp(min=1)
        span = uniform(long, 1, h)
        start = uniform(place, 0, n - span)
        skip, lead = torch.zeros_like(n), torch.zeros_like(n)
        if rule.new_word > 0:
            title, lengths = self._title[indices], self._word_length[indices]  # (B,), (B, width)
            is_excerpt = apart < rule.excerpt
            fits_cut = torch.arange(lengths.size(1), device=n.device) + lengths <= n[:, None]
            fits_excerpt = title[:, None] + lengths <= self.longest
            fits = torch.where(is_excerpt[:, None], fits_excerpt, fits_cut)
            sums = (self._word_weight[indices] * fits).cumsum(1)  # (B, width)
            total = sums[:, -1:]
            chosen = (salient < rule.new_word) & (total[:, 0] > 0)
            word = (sums <= pick[:, None] * total).sum(1).clamp(max=lengths.size(1) - 1)
            length = lengths.gather(1, word[:, None])[:, 0]
            is_excerpt &= chosen
            wanted = torch.where(is_excerpt | (single < rule.one_word), length, span)
            start = torch.where(chosen, word, start)
            span = torch.where(chosen, torch.minimum(wanted, torch.where(is_excerpt, wanted, n - word)), span)
            room = self.longest - title
            is_led = is_excerpt & (ahead < rule.lead)
            power = torch.where(is_led, 1.0, rule.nearness)
            furthest = torch.where(is_led, (room - length).clamp(max=rule.longest_lead), room - length)
            # Counted from the word: 1 - left**8 would round to 1 and miss it.
            first = word - uniform(left**power, 0, torch.minimum(word - title, furthest))
            last = uniform(right**rule.nearness, word + length, torch.minimum(self._length[indices], first + room))
            n = torch.where(is_excerpt, title + last - first, n)
            skip = torch.where(is_excerpt, first - title, skip)
            lead = torch.where(is_led, word - first, lead)
        quiet = torch.where(alone < rule.answer_only, n - span + 2, 0)  # up to the second MASK
        return n, start - skip, span, skip, lead, quiet


# ---------------------------------------------------------------- both at once


class Mixture:
    """Several datasets as one, for a training on all of them.

    Args:
        parts: with `width`, `__len__`, `batch` and `to`.
    """

    def __init__(self, *parts):
        self.parts = parts
        self.width = max(part.width for part in parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def batch(self, indices: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """x and y, each (B, width): the rows of the first part, then of the next, filled up with PAD."""
        out = []
        for part in self.parts:
            own = indices[(indices >= 0) & (indices < len(part))]
            indices = indices - len(part)
            if len(own):
                out.append([F.pad(t, (0, self.width - t.size(1))) for t in part.batch(own, generator)])
        x, y = (torch.cat(t) for t in zip(*out, strict=True))
        return x, y

    def to(self, device: torch.device | str) -> None:
        """Make batches on this device from now on."""
        for part in self.parts:
            part.to(device)


# ---------------------------------------------------------------- looking at examples


def _show(text: str, colour: bool) -> str:
    """A row of characters for the eye: masks highlighted, padding dim and counted."""
    body = text.rstrip(PAD_CHAR)
    pads = len(text) - len(body)
    if not colour:
        return text
    lead = len(body) - len(body.lstrip(PAD_CHAR))
    body = body[lead:].replace(MASK_CHAR, f"\033[1;30;43m{MASK_CHAR}\033[0m")
    return f"\033[2m{PAD_CHAR * lead}\033[0m{body}\033[2m{PAD_CHAR * pads}\033[0m"


def main(argv: list[str] | None = None) -> int:
    """Print four examples of a dataset."""
    parser = argparse.ArgumentParser(description="Print four examples, x above y. Masks are ⁇, padding is □.")
    parser.add_argument("dataset_type", choices=["namedata", "charcorruption"], help="which examples")
    parser.add_argument("--pretrain_corpus_path", default="wiki.txt", help="documents (default: %(default)s)")
    parser.add_argument(
        "--finetune_corpus_path", default="birth_places_train.tsv", help="question-answer pairs (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the corruption (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    corpus = read_text(args.pretrain_corpus_path)
    dataset = CharCorruptionDataset(corpus, 128, source=args.pretrain_corpus_path)
    if args.dataset_type == "namedata":
        dataset = NameDataset(dataset, read_text(args.finetune_corpus_path), args.finetune_corpus_path)
    colour = sys.stdout.isatty()
    for i in range(min(4, len(dataset))):
        for name, row in zip("xy", dataset[i], strict=True):
            print(f"{name}: {_show(''.join(dataset.itos[int(t)] for t in row), colour)}")
        print()
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

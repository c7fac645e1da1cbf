"""The two datasets: question-answer pairs for finetuning, and span corruption for pretraining (part e).

To see examples:

    python src/dataset.py namedata
    python src/dataset.py charcorruption
"""

import argparse
import random
import sys

import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils import MASK_CHAR, PAD_CHAR, UserError, cli, read_pairs, read_text, refuse_marks


class NameDataset(Dataset):
    """Where was NAME born? -> PLACE, over the vocabulary of a pretraining corpus.

    With a block of 128, the example ("Where was Ada Lovelace born?", "London") reads

        x: Where was Ada Lovelace born?[MASK]London[MASK][PAD]...
        y: [PAD]...               [MASK]London[MASK][PAD]...

    that is, y is x shifted by one character with the question blanked out, so the loss covers only `MASK place MASK`.

    `data` is the text of a file of lines `question<TAB>place`, `source` its name in error messages.
    """

    def __init__(self, pretraining_dataset: "CharCorruptionDataset", data: str, source: str = "the training pairs"):
        self.MASK_CHAR, self.PAD_CHAR = MASK_CHAR, PAD_CHAR
        self.stoi, self.itos = pretraining_dataset.stoi, pretraining_dataset.itos
        self.block_size = pretraining_dataset.block_size
        self.data = []
        for line, question, place in read_pairs(data, source, with_answers=True):
            missing = sorted(set(question + place) - set(self.stoi))
            if missing:
                raise UserError(
                    f"{source}, line {line}: {missing[0]!r} is not among the characters of the pretraining corpus; "
                    "train on pairs that belong to this corpus, or take the character out"
                )
            length = len(question) + len(place) + 2  # with two masks
            if length > self.block_size:
                raise UserError(
                    f"{source}, line {line}: question, answer, masks: {length} characters, {self.block_size} fit; "
                    "shorten them"
                )
            self.data.append((question, place))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size - 1."""
        question, place = self.data[idx]
        s = question + MASK_CHAR + place + MASK_CHAR
        s += PAD_CHAR * (self.block_size - len(s))
        x = s[:-1]
        y = PAD_CHAR * (len(question) - 1) + s[len(question) :]  # s[1:] without the question
        return encode(x, self.stoi), encode(y, self.stoi)


def encode(text: str, stoi: dict[str, int]) -> Tensor:
    """Token ids of a text, a LongTensor. KeyError for a character that the vocabulary lacks."""
    return torch.tensor([stoi[c] for c in text], dtype=torch.long)


# ---------------------------------------------------------------- [part e] span corruption


class CharCorruptionDataset(Dataset):
    """T5's span corruption (Raffel et al. 2020, section 3.1.4) with a single masked span per document.

    The last MASK of an example is optional; with it, the end `MASK span MASK` has the form of finetuning's
    `MASK place MASK`. `data` holds one document per line. Random numbers come from Python's `random`.
    """

    def __init__(self, data: str, block_size: int, source: str = "the pretraining corpus"):
        self.MASK_CHAR, self.PAD_CHAR = MASK_CHAR, PAD_CHAR
        refuse_marks(data, source)
        characters = [PAD_CHAR, MASK_CHAR, *sorted(set(data))]
        self.stoi = {c: i for i, c in enumerate(characters)}
        self.itos = dict(enumerate(characters))
        self.vocab_size = len(characters)
        self.block_size = block_size
        self.longest = int(block_size * 7 / 8)  # the most characters of a document that an example keeps
        print(f"data has {len(data)} characters, {self.vocab_size} unique.")
        self.data = [document for document in data.split("\n") if document.strip()]
        if not self.data:
            raise UserError(f"{source}: no documents in it; one document a line is expected")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of block_size."""
        # 0. the document
        document = self.data[idx]
        # 1. truncate it
        document = self.truncate(document)
        # 2. break it into three
        start, length = self.choose_span(document)
        prefix, span, suffix = document[:start], document[start : start + length], document[start + length :]
        # 3. move the span to the end, between masks, and pad
        s = prefix + MASK_CHAR + suffix + MASK_CHAR + span + MASK_CHAR
        s += PAD_CHAR * (self.block_size + 1 - len(s))
        # 4. y is x one character later
        x, y = s[:-1], s[1:]
        # 5. as token ids
        return encode(x, self.stoi), encode(y, self.stoi)

    def truncate(self, document: str) -> str:
        """The first characters of a document: each number from 4 to block_size * 7/8 is equally likely."""
        return document[: random.randint(4, self.longest)]

    def choose_span(self, document: str) -> tuple[int, int]:
        """Start and length of the span in a truncated document of n characters, a quarter of it on average."""
        n = len(document)
        # 1 .. m has the mean (1 + m)/2, which is n/4 for m = n/2 - 1; for odd n a coin rounds m
        length = random.randint(1, max(1, (n + random.randint(0, 1)) // 2 - 1))
        return random.randint(0, n - length), length


# ---------------------------------------------------------------- looking at examples


def show(dataset, itos: dict[int, str]) -> None:
    """Print the first four examples of a dataset of (x, y), x above y."""
    for i in range(min(4, len(dataset))):
        for name, row in zip("xy", dataset[i], strict=True):
            print(f"{name}: {''.join(itos[t] for t in row.tolist())}")
        print()


def main(argv: list[str] | None = None) -> int:
    """Print four examples of a dataset."""
    parser = argparse.ArgumentParser(description="Print four examples, x above y. Masks are ⁇, padding is □.")
    parser.add_argument("dataset_type", choices=["namedata", "charcorruption"], help="which examples")
    parser.add_argument("--pretrain_corpus_path", default="wiki.txt", help="default: %(default)s")
    parser.add_argument("--finetune_corpus_path", default="birth_places_train.tsv", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the corruption (default: %(default)s)")
    args = parser.parse_args(argv)
    random.seed(args.seed)
    corpus = read_text(args.pretrain_corpus_path)
    documents = CharCorruptionDataset(corpus, 128, source=args.pretrain_corpus_path)
    dataset: CharCorruptionDataset | NameDataset = documents
    if args.dataset_type == "namedata":
        dataset = NameDataset(documents, read_text(args.finetune_corpus_path), args.finetune_corpus_path)
    show(dataset, documents.itos)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

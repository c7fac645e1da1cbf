"""Mutated files against the readers and the command line: nothing may be raised but a UserError of one line."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

import run
from dataset import CharCorruptionDataset, NameDataset
from report import rows
from utils import UserError, evaluate_places, read_pairs, read_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FILES = 4000
SNIPPETS = ["\t", "\t\t", "\n", "\n\n", "\r\n", "\u2047", "\u25a1", "\x00", "\ufeff", "é", "漢", "?", " ", "born"]
SNIPPETS += ["\u2028", '"', "e\u0301"]
SMALL = ["--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--recipe", "fast", "--max_epochs", "1"]


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """One to three changes of a file."""
    for _ in range(rng.randint(1, 3)):
        at, lines = rng.randrange(len(raw) + 1), raw.split(b"\n")
        match rng.randrange(8):
            case 0:
                raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
            case 1 | 2 | 3:
                raw = raw[:at] + rng.choice(SNIPPETS).encode() + raw[at:]
            case 4:
                raw = raw[: at if rng.random() < 0.5 else None]
            case 5:
                rng.shuffle(lines)
                raw = b"\n".join(lines)
            case 6:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines) * rng.choice((1, 1, 3)))
                raw = b"\n".join(lines)
            case 7:
                encoding = rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
                raw = raw.decode("utf-8", "replace").replace("\n", "\r\n").encode(encoding, "replace")
    return raw


def readers(folder: Path, wiki: str) -> dict[str, Callable[[Path], object]]:
    """What may be given a file, by role: the readers, and the functions of run.py with a tiny model."""
    corpus, params = CharCorruptionDataset(wiki, 128), str(folder / "p.params")
    base, logs = ["rope", str(folder / "wiki.txt")], ["--expt_dir", str(folder / "expt"), "--device", "cpu"]
    out = ["--writing_params_path", str(folder / "out"), *SMALL, *logs]
    asked = ["--reading_params_path", params, "--outputs_path", str(folder / "out"), *logs, "--eval_corpus_path"]
    run.main(["pretrain", *base, "--writing_params_path", params, *SMALL, *logs])
    return {
        "corpus": lambda path: CharCorruptionDataset(read_text(path), 128, str(path))[0],
        "pairs": lambda path: NameDataset(corpus, read_text(path), str(path))[0],
        "questions": lambda path: evaluate_places(path, ["London"] * len(read_pairs(read_text(path), path))),
        "evaluate": lambda path: run.main(["evaluate", *base, *asked, str(path)]),
        "pretrain": lambda path: run.main(["pretrain", "vanilla", str(path), *out]),
        "finetune": lambda path: run.main(["finetune", *base, *out, "--finetune_corpus_path", str(path)]),
    }


def test_mutated_files_are_read_or_refused(tmp_path: Path, record: Callable[[str], None]):
    """At least 30 % get past the parsers, so that what lies behind them is tried too."""
    rng, accepted = random.Random(0), 0
    pairs = "".join(f"{line}\n" for line in read_text(rows.ROOT / "birth_places_train.tsv").split("\n")[:40])
    wiki = "\n".join(read_text(rows.ROOT / "wiki.txt").split("\n")[:40])
    wiki += "\n" + "".join(sorted(set(pairs) - set("\t\n")))  # the corpus has every character of the pairs
    questions = "".join(line.partition("\t")[0] + "\n" for line in pairs.split("\n")[:10])
    good = {"corpus": wiki, "pretrain": wiki, "evaluate": questions}
    (tmp_path / "wiki.txt").write_text(wiki, encoding="utf-8")
    roles, path = readers(tmp_path, wiki), tmp_path / "mutated"
    for i in range(FILES):
        role = rng.choice(["corpus", "pairs", "questions"])
        if i % 10 == 0:
            role = "evaluate"
        elif i % 100 == 5:
            role = rng.choice(["pretrain", "finetune"])
        path.write_bytes(mutate(good.get(role, pairs).encode(), rng))
        try:
            roles[role](path)
            accepted += 1
        except UserError as error:
            assert "\n" not in str(error), f"file {i}, {role}"
    assert accepted > 0.3 * FILES
    record(f"{FILES:,} mutated files, {accepted / FILES:.1%} got past the parsers, 0 tracebacks")

"""Throw mutated files at the readers and at the command line, in one process; nothing may raise but UserError.

    python experiments/fuzz.py [--files 10000]

Mutates good files (bytes flipped, lines doubled, dropped, cut, tabs and masks and other encodings put
in) and reads each as a corpus, as pairs or as questions; every tenth goes through `run.py evaluate`,
and of a hundred one through `run.py pretrain` or `finetune`. Prints one line of JSON; exit code 1 if
anything else was raised, or if fewer than 30 % of the files got past the parsers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import run  # noqa: E402
from dataset import CharCorruptionDataset, NameDataset  # noqa: E402
from engine.recipes import MAIN_RECIPE  # noqa: E402
from report import record_robustness  # noqa: E402
from utils import UserError, evaluate_places, read_pairs, read_text  # noqa: E402

SMALL = ["--n_layer", "1", "--n_head", "2", "--n_embd", "32"]  # files are tried here, not models
SNIPPETS = [
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u2047",
    "\u25a1",
    "\x00",
    "\ufeff",
    "é",
    "漢",
    "?",
    " ",
    "born",
    "\u2028",
]


def mutate(raw: bytes, rng: random.Random) -> bytes:
    """One to three changes of a file."""
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.randrange(8), rng.randrange(len(raw) + 1)
        lines = raw.split(b"\n")
        if kind == 0:
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
        elif kind <= 3:
            raw = raw[:at] + rng.choice(SNIPPETS).encode() + raw[at:]
        elif kind == 4:
            raw = raw[: at if rng.random() < 0.5 else None]
        elif kind == 5:
            rng.shuffle(lines)
            raw = b"\n".join(lines)
        elif kind == 6:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines) * rng.choice((1, 1, 3)))
            raw = b"\n".join(lines)
        else:
            text = raw.decode("utf-8", "replace")
            raw = text.replace("\n", "\r\n").encode(
                rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace"
            )
    return raw


def main() -> int:
    """Mutate, read, count."""
    parser = argparse.ArgumentParser(description="Mutated files against the readers.")
    parser.add_argument("--files", type=int, default=10000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    rng, outcome, broken = random.Random(args.seed), Counter(), []
    wiki = "\n".join((ROOT / "wiki.txt").read_text(encoding="utf-8").split("\n")[:40])
    pairs = "".join(
        f"{line}\n" for line in (ROOT / "birth_places_train.tsv").read_text(encoding="utf-8").split("\n")[:40]
    )
    wiki += "\n" + "".join(sorted(set(pairs) - set("\t\n")))  # the corpus has every character of the pairs
    asked = "".join(line.partition("\t")[0] + "\n" for line in pairs.split("\n")[:10])
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        (folder / "wiki.txt").write_text(wiki, encoding="utf-8")
        corpus = CharCorruptionDataset(wiki, 128)
        base = ["rope", str(folder / "wiki.txt")]
        params = str(folder / "p.params")
        logs = ["--expt_dir", str(folder / "expt"), "--device", "cpu"]
        once = ["--recipe", MAIN_RECIPE, "--max_epochs", "1", *SMALL, *logs]
        run.main(["pretrain", *base, "--writing_params_path", params, *once])

        def as_corpus(path: Path) -> None:
            CharCorruptionDataset(read_text(path), 128, source=str(path))[0]

        def as_pairs(path: Path) -> None:
            NameDataset(corpus, read_text(path), str(path))[0]

        def as_questions(path: Path) -> None:
            evaluate_places(path, ["London"] * len(read_pairs(read_text(path), path)))

        def through_evaluate(path: Path) -> None:
            out = ["--outputs_path", str(folder / "out"), "--eval_corpus_path", str(path)]
            run.main(["evaluate", *base, "--reading_params_path", params, *out, *logs])

        def through_pretrain(path: Path) -> None:
            run.main(["pretrain", "vanilla", str(path), "--writing_params_path", str(folder / "out"), *once])

        def through_finetune(path: Path) -> None:
            out = ["--writing_params_path", str(folder / "out"), "--finetune_corpus_path", str(path)]
            run.main(["finetune", *base, *out, *once])

        readers = {"corpus": (as_corpus, wiki), "pairs": (as_pairs, pairs), "questions": (as_questions, pairs)}
        mains = {
            "run.py evaluate": (through_evaluate, asked),
            "run.py pretrain": (through_pretrain, wiki),
            "run.py finetune": (through_finetune, pairs),
        }
        for i in range(args.files):
            if i % 10 == 0:
                role = "run.py evaluate"
            elif i % 100 == 5:
                role = rng.choice(["run.py pretrain", "run.py finetune"])
            else:
                role = rng.choice(list(readers))
            reader, good = (readers | mains)[role]
            path = folder / "mutated"
            path.write_bytes(mutate(good.encode("utf-8"), rng))
            try:
                reader(path)
                outcome[role, "accepted"] += 1
            except UserError as error:
                outcome[role, "refused"] += 1
                if "\n" in str(error):
                    broken.append(f"{role}: more than one line: {error}")
            except Exception as error:
                broken.append(f"{role}, file {i}: {type(error).__name__}: {error}")
    accepted = sum(n for (_, what), n in outcome.items() if what == "accepted")
    counts = {f"{role} {what}": n for (role, what), n in sorted(outcome.items())}
    result = {"files": args.files, "accepted": round(accepted / args.files, 3), "tracebacks": len(broken), **counts}
    print(json.dumps(result))
    found = f"{args.files:,} mutated files, {result['accepted']:.1%} got past the parsers, {len(broken)} tracebacks"
    record_robustness(f"python experiments/fuzz.py --files {args.files} --seed {args.seed}", found, result)
    for line in broken[:20]:
        print(line, file=sys.stderr)
    return 1 if broken or accepted < 0.3 * args.files else 0


if __name__ == "__main__":
    sys.exit(main())

"""Calibration of the models, and their answers about people who do not exist (question 3).

    python experiments/confidence.py                    # asks the models of `make run`
    python experiments/confidence.py --folder FOLDER    # other *.params of parts (d), (f) and (g)

Confidence in an answer is the probability that the model gives to all of it, with the MASK at its end. The rows go to
results/analysis*.csv. They hold every question, so those about other people's data need a folder of their own.
"""

import argparse
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

import run
from dataset import CharCorruptionDataset, encode
from engine import options
from engine.checkpoints import read_stamp
from engine.machine import pick_device
from engine.wordings import ORIGINAL, ask_about, names_in
from model import GPT
from report import rows
from utils import MASK_CHAR, UserError, cli, fingerprint, read_pairs, read_text

# Each model's name in the tables, parameter file, variant, and whether it is pretrained.
MODELS = (
    ("rope, pretrained", "rope.finetune.params", "rope", True),
    ("vanilla, pretrained", "vanilla.finetune.params", "vanilla", True),
    ("vanilla without pretraining", "vanilla.model.params", "vanilla", False),
)
INVENTED = Path(__file__).with_name("invented_names.txt")  # lines `language<TAB>name`
TIMES = 1000  # resamples of a bootstrap, shuffles of a permutation
MIXED = 500  # names made of one training person's first name and another's surname


# ---------------------------------------------------------------- asking


def ask(
    model: GPT, documents: CharCorruptionDataset, names: Sequence[str], source: str
) -> tuple[list[str], np.ndarray]:
    """Where these people were born: the answers of `run.py evaluate`, and (N,) the confidence in each."""
    questions = [ask_about(name, ORIGINAL) for name in names]
    answers = run.answer(model, documents, questions, source)
    return answers, np.array([confidence(model, documents, *pair) for pair in zip(questions, answers, strict=True)])


@torch.no_grad()
def confidence(model: GPT, documents: CharCorruptionDataset, question: str, answer: str) -> float:
    """The probability that a model gives to an answer and the MASK at its end."""
    asked = "".join(c for c in question if c in documents.stoi) + MASK_CHAR
    ids = encode(asked + answer + MASK_CHAR, documents.stoi).to(model.head.weight.device)
    x, y = ids[:-1], ids[1:].clone()
    y[: len(asked) - 1] = 0  # the loss is that of the answer alone
    size = documents.block_size
    _, loss = model(x[None, -size:], y[None, -size:])
    return float(torch.exp(-loss.double() * (len(answer) + 1)))


# ---------------------------------------------------------------- calibration


def auroc(confidence: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right answer has more confidence than a wrong one, ties half; NaN without one of either."""
    pairs = right.sum() * (~right).sum()
    if not pairs:
        return float("nan")
    return float(stats.mannwhitneyu(confidence[right], confidence[~right], method="asymptotic").statistic / pairs)


def auroc_interval(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """AUROC with its 95 % interval (bootstrap percentiles), as columns; NaN where it has no value."""
    resamples = np.random.default_rng(0).integers(0, len(right), (TIMES, len(right)))
    found = auroc(confidence, right), np.nan, np.nan
    if not np.isnan(found[0]):
        found = found[0], *np.nanpercentile([auroc(confidence[i], right[i]) for i in resamples], [2.5, 97.5])
    return dict(zip(("auroc", "auroc_low", "auroc_high"), np.round(found, 4), strict=True))


def bins(confidence: np.ndarray, right: np.ndarray, count: int = 10) -> list[dict]:
    """The answers in order of confidence, in parts of equal count: mean confidence, answers, right ones."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(count, len(right)))
    return [{"confidence": float(confidence[i].mean()), "n": len(i), "right": int(right[i].sum())} for i in parts]


def calibration_error(parts: list[dict]) -> float:
    """ECE: the distance between mean confidence and accuracy of a bin, averaged over all answers (Naeini 2015)."""
    return sum(abs(p["n"] * p["confidence"] - p["right"]) for p in parts) / sum(p["n"] for p in parts)


def largest_coverage(confidence: np.ndarray, right: np.ndarray, least: float) -> float:
    """The largest share of the questions, most confident first, that can be answered at this accuracy."""
    order = np.argsort(-confidence, kind="stable")
    accuracies = right[order].cumsum() / np.arange(1, len(right) + 1)
    enough = np.flatnonzero(accuracies >= least - 1e-12)
    return float(enough[-1] + 1) / len(right) if len(enough) else 0.0


# ---------------------------------------------------------------- guesses


def parts(name: str) -> tuple[str, str] | None:
    """First and last word of a name, which for most people are first name and surname; None if it has no two.

    Jr and Sr are left out; a name that ends in a number (Joseph II) has no surname.
    """
    words = re.sub(r",? [JS]r\.?$", "", name).split()
    return None if len(words) < 2 or re.fullmatch("[IVX]+", words[-1]) else (words[0], words[-1])


def mixed_names(train: dict[str, str], known: Sequence[str]) -> list[str]:
    """First names and surnames of different training people, combined so that nobody known bears the name."""
    rng, taken = random.Random(0), {parts(name) for name in known}
    people = [found for name in train if (found := parts(name))]
    firsts = [first for first, _ in people if first.isalpha() and len(first) > 1]
    lasts = sorted({last for _, last in people})
    drawn = [(rng.choice(firsts), last) for last in rng.sample(lasts, min(MIXED, len(lasts)))]
    return [f"{first} {last}" for first, last in drawn if (first, last) not in taken]


def namesakes(train: dict[str, str], names: Sequence[str], answers: Sequence[str], word: int) -> dict:
    """How many answers are the birthplace of a training person of the same name, and which share is by chance.

    By chance: the mean over TIMES shuffles of the answers, with their 95 % range.

    Args:
        train: places by names.
        names: mixed names, see `mixed_names`.
        word: 0 for the same first name, 1 for the same surname.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in train.items():
        if found := parts(name):
            places[found[word]].add(place)

    def hits(given: Sequence[str]) -> int:
        return sum(place in places[parts(name)[word]] for place, name in zip(given, names, strict=True))

    rng, count = np.random.default_rng(0), max(1, len(names))
    shuffled = [hits(rng.permutation(answers)) / count for _ in range(TIMES)]
    chance = dict(zip(("chance_low", "chance_high"), np.percentile(shuffled, [2.5, 97.5]).round(4), strict=True))
    return {"n": len(names), "hits": hits(answers), "chance": round(float(np.mean(shuffled)), 4), **chance}


# ---------------------------------------------------------------- rows


def read_invented() -> pd.DataFrame:
    """The invented names, with the languages that they sound like."""
    return pd.read_csv(INVENTED, sep="\t", names=["language", "name"])


def read_places(path: Path) -> dict[str, str]:
    """Places by names, of a file of questions with answers."""
    text = read_text(path)
    return dict(zip(names_in(text, str(path)), [place for *_, place in read_pairs(text, path, True)], strict=True))


def load(path: Path, variant: str, is_pretrained: bool, data: Path, documents: CharCorruptionDataset) -> tuple:
    """The model of a parameter file, and how it was made.

    Raises:
        UserError: it is missing, or was made in another way or from other data.
    """
    stamp = read_stamp(path)
    settings = stamp.get("settings", {})
    for name, file in (("corpus", "wiki.txt"), ("pairs", "birth_places_train.tsv")):
        if settings.get(name) != fingerprint(read_text(data / file)):
            raise UserError(f"{path}: was not trained on the data in {data}; name the right folder with --data")
    if bool(settings["from"]) != is_pretrained:
        expected = "finetuned from pretrained parameters" if is_pretrained else "trained on the pairs alone"
        raise UserError(f"{path}: a model is expected that was {expected}; make it with `make run`")
    size = {"variant": variant, "dropout": None, **stamp["size"]}
    args = {"reading_params_path": path, "pretrain_corpus_path": data / "wiki.txt"}
    return run.make_model(argparse.Namespace(**size, **args), documents).eval(), stamp


def own_documents(documents: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    """The document about each person, by its title; "" if there is none."""
    return {name: "\n".join(line for line in documents if line.startswith(f"{name}. ")) for name in names}


def stands_in(place: str, document: str) -> bool:
    """Whether a document has a place as whole words."""
    return bool(place) and re.search(rf"(?<!\w){re.escape(place)}(?!\w)", document) is not None


def about_dev(
    model: GPT, documents: CharCorruptionDataset, train: dict[str, str], dev: dict[str, str]
) -> dict[str, list[dict]]:
    """Rows about the dev questions, by table."""
    answers, confidences = ask(model, documents, [*dev], "birth_dev.tsv")
    asked = pd.DataFrame({"name": [*dev], "truth": [*dev.values()], "answer": answers})
    right = (asked["answer"] == asked["truth"]).to_numpy()
    own = own_documents(documents.data, dev)
    asked["right"] = right
    asked["in_document"] = [stands_in(answer, own[name]) for name, answer in zip(dev, answers, strict=True)]
    asked["in_train"] = asked["answer"].isin(train.values())
    asked["confidence"] = confidences.round(6)
    row = {"n": len(right), "right": right.sum(), "ece": round(calibration_error(bins(confidences, right)), 4)}
    row["coverage_at_90"] = round(largest_coverage(confidences, right, 0.9), 4)
    return {
        "analysis": [row | auroc_interval(confidences, right)],
        "analysis_questions": asked.to_dict("records"),
    }


def about_nobody(
    model: GPT, documents: CharCorruptionDataset, train: dict[str, str], invented: Sequence[str], mixed: Sequence[str]
) -> dict[str, list[dict]]:
    """Rows about people who do not exist, by table."""
    answers = run.answer(model, documents, [ask_about(name, ORIGINAL) for name in (*invented, *mixed)], "the names")
    asked, guesses = pd.DataFrame({"name": invented, "answer": answers[: len(invented)]}), answers[len(invented) :]
    return {
        "analysis": [{"invented_n": len(asked), "invented_in_train": asked["answer"].isin(train.values()).sum()}],
        "analysis_invented": asked.to_dict("records"),
        "analysis_namesakes": [
            {"same": same, **namesakes(train, mixed, guesses, word)}
            for same, word in (("surname", 1), ("first name", 0))
        ],
    }


def main(argv: list[str] | None = None) -> int:
    """Ask every model, and add the rows."""
    parser = argparse.ArgumentParser(description="Can made-up answers be detected?", parents=[rows.flags()])
    parser.add_argument("--folder", type=Path, default=rows.ROOT, help="of the parameters (default: the project)")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.results.resolve() == rows.RESULTS and rows.data_name(args.data) != "own":
        raise UserError("--results FOLDER is required with other data: the rows contain its questions")
    corpus, device = read_text(args.data / "wiki.txt"), pick_device(args.device)
    documents = CharCorruptionDataset(corpus, options.SIZE["block_size"], str(args.data / "wiki.txt"))
    train, dev = (read_places(args.data / name) for name in ("birth_places_train.tsv", "birth_dev.tsv"))
    test = names_in(read_text(args.data / "birth_test_inputs.tsv"), str(args.data / "birth_test_inputs.tsv"))
    mixed = mixed_names(train, [*train, *dev, *test])
    invented = [name for name in read_invented()["name"] if name not in corpus]
    loaded = [load(args.folder / file, *kind, args.data, documents) for _, file, *kind in MODELS]
    for (name, file, variant, is_pretrained), (model, stamp) in zip(MODELS, loaded, strict=True):
        print(f"asking {args.folder / file}", flush=True)
        settings, model = stamp["settings"], model.to(device)
        machine = {"hardware": stamp["hardware"], "precision": settings["precision"]}
        made = rows.provenance_of(args, "python experiments/confidence.py", settings["seed"], **machine)
        made |= {"variant": variant, "recipe": settings["recipe"], "model": name}
        tables = about_dev(model, documents, train, dev)
        if is_pretrained:
            more = about_nobody(model, documents, train, invented, mixed)
            tables |= more | {"analysis": [tables["analysis"][0] | more["analysis"][0]]}
        for table, lines in tables.items():
            print(rows.add(table, [made | line for line in lines], args.results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

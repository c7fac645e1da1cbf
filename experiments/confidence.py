"""Retrieved or made up? How confident the models are, and what they answer for people who do not exist (question 3).

    python experiments/confidence.py                    # asks the models of `make run`
    python experiments/confidence.py --folder FOLDER    # other *.params of parts (d), (f) and (g)

Confidence in an answer is the probability that the model gives to all of it, with the MASK at its end. The rows go to
results/analysis*.csv. They hold every question, so those about other people's data need a folder of their own.
"""

import argparse
import random
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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

# Each model's name in the tables, variant, parameter file, and whether it is pretrained.
MODELS = (
    ("rope, pretrained", "rope", "rope.finetune.params", True),
    ("vanilla, pretrained", "vanilla", "vanilla.finetune.params", True),
    ("vanilla without pretraining", "vanilla", "vanilla.model.params", False),
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
    """AUROC with its 95 % interval (bootstrap percentiles), as columns; none where it has no value."""
    if np.isnan(value := auroc(confidence, right)):
        return {}
    resamples = np.random.default_rng(0).integers(0, len(right), (TIMES, len(right)))
    low, high = np.nanpercentile([auroc(confidence[i], right[i]) for i in resamples], [2.5, 97.5])
    return {"auroc": round(value, 4), "auroc_low": round(low, 4), "auroc_high": round(high, 4)}


def bins(confidence: np.ndarray, right: np.ndarray, count: int = 10) -> list[dict]:
    """The answers in order of confidence, in parts of equal count: mean confidence, answers, right ones."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(count, len(right)))
    return [{"confidence": float(confidence[i].mean()), "n": len(i), "right": int(right[i].sum())} for i in parts]


def calibration_error(parts: list[dict]) -> float:
    """ECE: the distance between mean confidence and accuracy of a bin, averaged over all answers (Naeini 2015)."""
    return sum(abs(p["n"] * p["confidence"] - p["right"]) for p in parts) / sum(p["n"] for p in parts)


def accuracy_by_coverage(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,): accuracy among the 1, 2, ... N answers with the most confidence."""
    order = np.argsort(-confidence, kind="stable")
    return right[order].cumsum() / np.arange(1, len(right) + 1)


def largest_coverage(accuracies: np.ndarray, least: float) -> float:
    """The largest share of the questions that can be answered, most confident first, at this accuracy."""
    enough = np.flatnonzero(accuracies >= least - 1e-12)
    return float(enough[-1] + 1) / len(accuracies) if len(enough) else 0.0


# ---------------------------------------------------------------- guesses


def by_chance(answers: np.ndarray, statistic: Callable[[np.ndarray], float], name: str) -> dict[str, float]:
    """The mean of a statistic over TIMES shuffles of the answers, and their 95 % range, as columns."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.permutation(answers)) for _ in range(TIMES)]
    low, high = np.percentile(found, [2.5, 97.5])
    values = {name: np.mean(found), f"{name}_low": low, f"{name}_high": high}
    return {column: round(float(value), 4) for column, value in values.items()}


def agreement(groups: Sequence[str], answers: Sequence[str]) -> dict:
    """How many pairs of names in one group get the same answer, and which share does by chance, as columns."""
    group, number = (np.unique(np.array(values), return_inverse=True)[1] for values in (groups, answers))
    i, j = np.triu_indices(len(group), 1)
    i, j = i[group[i] == group[j]], j[group[i] == group[j]]

    def alike(numbers: np.ndarray) -> float:
        return float((numbers[i] == numbers[j]).mean())

    counts = {"alike_n": len(i), "alike_hits": int((number[i] == number[j]).sum())}
    return counts | by_chance(number, alike, "alike_chance")


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

    Args:
        train: places by names.
        names: mixed names, see `mixed_names`.
        word: 0 for the same first name, 1 for the same surname.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in train.items():
        if found := parts(name):
            places[found[word]].add(place)
    known = [places[parts(name)[word]] for name in names]

    def share(given: np.ndarray) -> float:
        return sum(place in expected for place, expected in zip(given, known, strict=True)) / max(1, len(known))

    given = np.array(answers, dtype=object)
    return {"n": len(known), "hits": round(share(given) * len(known)), **by_chance(given, share, "chance")}


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Data:
    """The people of a folder of data, and people who do not exist."""

    folder: Path
    documents: CharCorruptionDataset
    texts: dict[str, str]  # fingerprints of the corpus and of the training pairs
    train: dict[str, str]  # places by names
    dev: dict[str, str]
    mixed: list[str]  # see mixed_names
    invented: list[tuple[str, str]]  # (language, name), without names that the corpus has


def read_data(folder: Path) -> Data:
    """All that is asked about a folder of data."""
    texts = {name: read_text(folder / name) for name in rows.DATA_FILES}
    corpus, pairs, *_ = texts.values()
    names = {name: names_in(text, str(folder / name)) for name, text in texts.items() if name != "wiki.txt"}
    train, dev = (
        dict(zip(names[name], [place for *_, place in read_pairs(texts[name], folder / name, True)], strict=True))
        for name in ("birth_places_train.tsv", "birth_dev.tsv")
    )
    known = [name for part in names.values() for name in part]
    invented = [(language, name) for language, name in read_invented() if name not in corpus]
    documents = CharCorruptionDataset(corpus, options.SIZE["block_size"], str(folder / "wiki.txt"))
    fingerprints = {"corpus": fingerprint(corpus), "pairs": fingerprint(pairs)}
    return Data(folder, documents, fingerprints, train, dev, mixed_names(train, known), invented)


def read_invented() -> list[tuple[str, str]]:
    """(language, name) of the invented people. UserError: naming the line that is not of this form."""
    found = []
    for number, line in enumerate(read_text(INVENTED).rstrip("\n").split("\n"), 1):
        language, _, name = (part.strip() for part in line.partition("\t"))
        if not language or " " not in name or "\t" in name:
            raise UserError(
                f"{INVENTED}, line {number}: 'language<TAB>full name' is expected; restore the file from git"
            )
        found.append((language, name))
    return found


def load(path: Path, variant: str, is_pretrained: bool, data: Data) -> tuple[GPT, dict]:
    """The model of a parameter file, and how it was made.

    Raises:
        UserError: it is missing, or was made in another way or from other data.
    """
    stamp = read_stamp(path)
    settings = stamp.get("settings", {})
    if any(settings.get(name) != value for name, value in data.texts.items()):
        raise UserError(f"{path}: was not trained on the data in {data.folder}; name the right folder with --data")
    if bool(settings["from"]) != is_pretrained:
        expected = "finetuned from pretrained parameters" if is_pretrained else "trained on the pairs alone"
        raise UserError(f"{path}: a model is expected that was {expected}; make it with `make run`")
    size = {"variant": variant, "dropout": None, **stamp["size"]}
    args = {"reading_params_path": path, "pretrain_corpus_path": data.folder / "wiki.txt"}
    return run.make_model(argparse.Namespace(**size, **args), data.documents), stamp


def stands_in(place: str, document: str) -> bool:
    """Whether a document has a place as whole words."""
    return bool(place) and re.search(rf"(?<!\w){re.escape(place)}(?!\w)", document) is not None


def about_dev(model: GPT, data: Data) -> dict[str, list[dict]]:
    """Rows about the dev questions, by table."""
    answers, confidences = ask(model, data.documents, [*data.dev], "birth_dev.tsv")
    right = np.array([answer == place for answer, place in zip(answers, data.dev.values(), strict=True)])
    own_words = {name: "\n".join(d for d in data.documents.data if d.startswith(f"{name}. ")) for name in data.dev}
    places, found = set(data.train.values()), []
    for (name, truth), answer, confidence in zip(data.dev.items(), answers, confidences, strict=True):
        one = {"name": name, "truth": truth, "answer": answer, "right": answer == truth}
        one |= {"in_document": stands_in(answer, own_words[name]), "in_train": answer in places}
        found.append(one | {"confidence": round(float(confidence), 4)})
    accuracies, parts = accuracy_by_coverage(confidences, right), bins(confidences, right)
    answered = {percent: max(1, round(len(right) * percent / 100)) for percent in range(5, 101, 5)}
    row = {"n": len(right), "right": int(right.sum()), "ece": round(calibration_error(parts), 4)}
    row["coverage_at_90"] = round(largest_coverage(accuracies, 0.9), 4)
    return {
        "analysis": [row | auroc_interval(confidences, right)],
        "analysis_questions": found,
        "analysis_bins": [part | {"confidence": round(part["confidence"], 4)} for part in parts],
        "analysis_coverage": [
            {"percent": percent, "n": n, "share": round(float(accuracies[n - 1]), 4)} for percent, n in answered.items()
        ],
    }


def about_nobody(model: GPT, data: Data) -> dict[str, list[dict]]:
    """Rows about people who do not exist, by table."""
    languages, names = zip(*data.invented, strict=True)
    answers, confidences = ask(model, data.documents, names, INVENTED.name)
    guesses, _ = ask(model, data.documents, data.mixed, "the mixed names")
    places = set(data.train.values())
    row = {"invented_n": len(names), "invented_in_train": sum(answer in places for answer in answers)}
    columns = ("language", "name", "answer", "confidence")
    asked = zip(languages, names, answers, confidences.round(4).tolist(), strict=True)
    return {
        "analysis": [row | agreement(languages, answers)],
        "analysis_invented": [dict(zip(columns, one, strict=True)) for one in asked],
        "analysis_namesakes": [
            {"people": "mixed", "same": same, **namesakes(data.train, data.mixed, guesses, word)}
            for same, word in (("surname", 1), ("first name", 0))
        ],
    }


def main(argv: list[str] | None = None) -> int:
    """Ask every model, and add the rows."""
    parser = argparse.ArgumentParser(description="Can retrieved be told from made up?", allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=rows.ROOT, help="of the parameters (default: the project)")
    parser.add_argument("--data", type=Path, default=rows.ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--data_name", help="name of the data in the rows (default: own, or other)")
    parser.add_argument("--results", type=Path, default=rows.RESULTS, help="folder of the rows (default: results)")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    found = rows.data_name(args.data)
    args.data_name = args.data_name or found
    if found != "own" and args.results.resolve() == rows.RESULTS:
        raise UserError("--results: is needed, since rows about other people's data hold their questions")
    data, device = read_data(args.data), pick_device(args.device)
    loaded = [load(args.folder / file, variant, is_pretrained, data) for _, variant, file, is_pretrained in MODELS]
    command = "python experiments/confidence.py"
    command += "" if found == "own" else f" --data FOLDER --data_name {shlex.quote(args.data_name)}"
    for (name, variant, file, is_pretrained), (model, stamp) in zip(MODELS, loaded, strict=True):
        print(f"asking {args.folder / file}", flush=True)
        settings, model = stamp["settings"], model.to(device)
        made = {"hardware": stamp["hardware"], "precision": settings["precision"]}
        run_of = rows.provenance(command, args.data_name, data.texts["corpus"], settings["seed"], **made)
        run_of |= {"variant": variant, "recipe": settings["recipe"], "model": name}
        tables = about_dev(model, data)
        if is_pretrained:
            more = about_nobody(model, data)
            more["analysis"] = [tables["analysis"][0] | more["analysis"][0]]
            tables |= more
        for table, lines in tables.items():
            print(rows.add(table, [run_of | line for line in lines], args.results))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

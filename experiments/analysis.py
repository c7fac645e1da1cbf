"""Retrieved or made up? What the dev answers, and answers about people who do not exist, tell (question 3).

    python experiments/analysis.py                    # asks the models of `make run`; rows, figure, tables
    python experiments/analysis.py --folder FOLDER    # of other *.params of parts (d), (f) and (g)
    python experiments/analysis.py --draw             # figure and tables from the rows alone

A model's confidence in an answer is the product of the probabilities that it gives to its characters and to the MASK
behind them. A row of results/analysis holds what follows from it; of the project's own data every question as well.
"""

import argparse
import datetime
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy.stats import rankdata  # noqa: E402

import report  # noqa: E402
from dataset import CharCorruptionDataset  # noqa: E402
from engine.answers import LINE_ENDS, ROWS, STEPS, continue_rows  # noqa: E402
from engine.checkpoints import difference, load_params, read_stamp, vocabulary_hash  # noqa: E402
from engine.files import add_row, fingerprint, read_rows  # noqa: E402
from engine.machine import pick_device  # noqa: E402
from engine.options import SIZE  # noqa: E402
from engine.recipes import MAIN_RECIPE  # noqa: E402
from engine.wordings import ORIGINAL, ask_about, names_in  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from report import by_chance, grouped, in_percent, markdown, percent  # noqa: E402
from reproduce import check_data, commit, name_of_data  # noqa: E402
from utils import MASK_CHAR, UserError, cli, read_pairs, read_text  # noqa: E402

# Of each model: its name in scripts/report.py, variant, parameter file, whether it is pretrained.
MODELS = (
    ("rope, pretrained", "rope", "rope.finetune.params", True),
    ("vanilla, pretrained", "vanilla", "vanilla.finetune.params", True),
    ("vanilla without pretraining", "vanilla", "vanilla.model.params", False),
)
KEY = ("data", "variant", "recipe", "seed")
INVENTED = ROOT / "experiments" / "invented_names.txt"  # lines `language<TAB>name`
BINS = 10
TIMES = 1000  # resamples of a bootstrap, shuffles of a permutation
MIXED = 500  # names made of one train person's first name and another's surname
SHOWN = 10  # places of a list

Pairs = list[tuple[str, str]]


# ---------------------------------------------------------------- asking


@torch.no_grad()
def ask(model: GPT, corpus: CharCorruptionDataset, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Where were these people born? Characters that the corpus lacks are left out.

    Returns:
        the greedy answers, as `run.py evaluate` gives them.
        confidences, (N,): each the product of the probabilities of the answer's characters, given the question and
            the ones before, and of the MASK that ends it. An answer that does not end has those of its 32 characters.

    Raises:
        UserError: a question leaves no room for an answer.
    """
    questions = [ask_about(name, ORIGINAL) + MASK_CHAR for name in names]
    prompts = [[corpus.stoi[c] for c in question if c in corpus.stoi] for question in questions]
    for name, prompt in zip(names, prompts, strict=True):
        if len(prompt) + STEPS > model.block_size:
            raise UserError(f"{name!r}: the name is too long to be asked for, and answered; take it out")
    answers = continue_rows(model, prompts, STEPS, corpus.stoi[MASK_CHAR])
    confidences = []
    for first in range(0, len(prompts), ROWS):
        group = [(len(p), torch.tensor(p + a)) for p, a in zip(prompts, answers, strict=True)][first : first + ROWS]
        ids = torch.nn.utils.rnn.pad_sequence([row for _, row in group], batch_first=True)  # (B, T + 1)
        ids = ids.to(model.head.weight.device)
        chances = model(ids[:, :-1])[0].log_softmax(-1)  # (B, T, V)
        chances = chances.gather(-1, ids[:, 1:, None])[..., 0].double()  # (B, T): of each next character
        confidences += [float(c[n - 1 : len(row) - 1].sum().exp()) for c, (n, row) in zip(chances, group, strict=True)]
    texts = ("".join(corpus.itos[i] for i in row).split(MASK_CHAR)[0] for row in answers)
    texts = [" ".join(text.split()) if set(LINE_ENDS + "\t") & set(text) else text for text in texts]
    return texts, np.array(confidences)


def load(path: Path, variant: str, pretrained: bool, data: "Data") -> tuple[GPT, dict]:
    """The model of a parameter file, and what the file says about itself.

    Raises:
        UserError: it is missing, does not say how it was made, or was made in another way or of other data.
    """
    stamp = read_stamp(path)
    if not {"settings", "size", "hardware"} <= set(stamp):
        raise UserError(f"{path}: does not say how it was made; use a file that src/run.py finetune has written")
    settings = stamp["settings"]
    if bool(settings.get("from")) != pretrained:
        expected = "finetuned from pretrained parameters" if pretrained else "trained on the pairs alone"
        raise UserError(f"{path}: a model is expected that was {expected}; make it anew with `make run`")
    if what := difference({name: settings.get(name) for name in data.texts}, data.texts):
        raise UserError(f"{path}: was made with {what}; name the folder of its data with --data")
    size = {name: stamp["size"][name] for name in SIZE}
    model = GPT(GPTConfig(data.corpus.vocab_size, rope=variant == "rope", **size))
    load_params(path, model, vocabulary_hash(data.corpus.itos))
    return model.eval(), stamp


# ---------------------------------------------------------------- confidence


def equal_bins(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, int, int]]:
    """(mean confidence, answers, right ones) of the answers in order of confidence, in BINS parts of equal count."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    return [(float(confidence[i].mean()), len(i), int(right[i].sum())) for i in parts if len(i)]


def calibration_error(bins: list[tuple[float, int, int]]) -> float:
    """ECE: the distance between mean confidence and share right in a bin, a mean over all answers (Naeini 2015)."""
    return sum(abs(n * confidence - right) for confidence, n, right in bins) / sum(n for _, n, _ in bins)


def auroc(confidence: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right answer has more confidence than a wrong one, ties half; NaN without one of either.

    Mann and Whitney's rank statistic.
    """
    n, m = int(right.sum()), int((~right).sum())
    return float((rankdata(confidence)[right].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def accuracy_by_coverage(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,): the share right among the 1, 2, ... N answers with the most confidence."""
    order = np.argsort(-confidence, kind="stable")
    return right[order].cumsum() / np.arange(1, len(right) + 1)


def largest_coverage(accuracies: np.ndarray, least: float) -> float:
    """The largest share of the questions that can be answered, most confident first, with that share right."""
    enough = np.flatnonzero(accuracies >= least - 1e-12)
    return float(enough[-1] + 1) / len(accuracies) if len(enough) else 0.0


def resampled(statistic: Callable[..., float], *columns: np.ndarray) -> list[float] | None:
    """A statistic of a table's columns with its 95 % interval (bootstrap percentiles); None where it has no value."""
    if np.isnan(value := statistic(*columns)):
        return None
    rows = np.random.default_rng(0).integers(0, len(columns[0]), (TIMES, len(columns[0])))
    low, high = np.nanpercentile([statistic(*(c[i] for c in columns)) for i in rows], [2.5, 97.5])
    return [round(float(v), 4) for v in (value, low, high)]


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict:
    """Entries of a row: how well the confidence tells right answers from wrong ones."""
    bins, accuracies = equal_bins(confidence, right), accuracy_by_coverage(confidence, right)
    cuts = {percent: max(1, round(len(right) * percent / 100)) for percent in range(5, 101, 5)}
    return {
        "ece": round(calibration_error(bins), 4),
        "brier": round(float(((confidence - right) ** 2).mean()), 4),
        "auroc": resampled(auroc, confidence, right),
        "bins": [[round(mean, 4), n, hits] for mean, n, hits in bins],
        "coverage": [[percent, k, round(float(accuracies[k - 1]), 4)] for percent, k in cuts.items()],
        "coverage_at_90": round(largest_coverage(accuracies, 0.9), 4),
    }


# ---------------------------------------------------------------- strategies


def shuffles(answers: np.ndarray, statistic: Callable[[np.ndarray], float]) -> list[float]:
    """The mean of a statistic over TIMES shuffles of the answers, and the range of 95 % of them."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.permutation(answers)) for _ in range(TIMES)]
    return [round(float(v), 4) for v in (np.mean(found), *np.percentile(found, [2.5, 97.5]))]


def agreement(groups: Sequence[str], answers: Sequence[str]) -> dict:
    """How many pairs of names of one group get the same answer; and by chance, as in `namesakes`."""
    number = np.unique(np.array(answers), return_inverse=True)[1]
    pairs = [(i, j) for i in range(len(groups)) for j in range(i) if groups[i] == groups[j]]
    i, j = np.array(pairs).reshape(-1, 2).T

    def alike(numbers: np.ndarray) -> float:
        return float((numbers[i] == numbers[j]).mean())

    return {"n": len(pairs), "hits": int((number[i] == number[j]).sum()), "chance": shuffles(number, alike)}


def parts(name: str) -> tuple[str, str] | None:
    """First word and last word of a name, which for most people are first name and surname; None if it has no two.

    Jr and Sr are left out; a name that ends in a number (Joseph II) has no surname.
    """
    words = re.sub(r",? [JS]r\.?$", "", name).split()
    return None if len(words) < 2 or re.fullmatch("[IVX]+", words[-1]) else (words[0], words[-1])


def mixed_names(train: Pairs, known: Sequence[str]) -> list[str]:
    """First names and surnames of different train people, so combined that nobody is known to be called so."""
    rng, taken = random.Random(0), {parts(name) for name in known}
    people = [found for name, _ in train if (found := parts(name))]
    firsts, lasts = [first for first, _ in people if first.isalpha() and len(first) > 1], sorted({p[1] for p in people})
    drawn = [(rng.choice(firsts), last) for last in rng.sample(lasts, min(MIXED, len(lasts)))]
    return [f"{first} {last}" for first, last in drawn if (first, last) not in taken]


def namesakes(train: Pairs, names: Sequence[str], answers: Sequence[str], word: int) -> dict | None:
    """How often the answer is the birthplace of a train person with the same name; and by chance.

    Args:
        word: 0 for the same first name, 1 for the same surname. Names that no train person shares are not counted.

    Returns:
        n, hits, and `chance`: that share with the answers shuffled among the names (see `shuffles`); None for n = 0.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in train:
        if found := parts(name):
            places[found[word]].add(place)
    shared = [
        (places[p[word]], a) for name, a in zip(names, answers, strict=True) if (p := parts(name)) and p[word] in places
    ]
    if not shared:
        return None
    known, given = [p for p, _ in shared], np.array([a for _, a in shared], dtype=object)

    def hits(answers: np.ndarray) -> int:
        return sum(a in p for a, p in zip(answers, known, strict=True))

    n = len(shared)
    return {"n": n, "hits": hits(given), "chance": shuffles(given, lambda answers: hits(answers) / n)}


def first_letters(truths: Sequence[str], answers: Sequence[str]) -> dict | None:
    """How many wrong answers begin like the right one, as if half remembered; and by chance, as in `namesakes`."""
    if not answers:
        return None
    right, given = (np.array([place[:1] for place in places]) for places in (truths, answers))
    chance = shuffles(given, lambda letters: float((letters == right).mean()))
    return {"n": len(answers), "hits": int((given == right).sum()), "chance": chance}


# ---------------------------------------------------------------- a row


@dataclass(frozen=True)
class Data:
    """The people of a folder of data, and people who do not exist."""

    corpus: CharCorruptionDataset
    texts: dict[str, str]  # fingerprints of the corpus and of the training pairs
    train: Pairs  # (name, birthplace)
    dev: Pairs
    own_words: dict[str, str]  # the documents of the dev people
    invented: Pairs  # (language, name), without names that the corpus has
    mixed: list[str]  # see mixed_names


def read_people(path: Path) -> Pairs:
    """(name, birthplace) of a file of lines `Where was NAME born?<TAB>place`."""
    text = read_text(path)
    places = [place for _, _, place in read_pairs(text, path, with_answers=True)]
    return list(zip(names_in(text, str(path)), places, strict=True))


def read_invented() -> Pairs:
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


def read_data(folder: Path) -> Data:
    """All that the analysis needs of a folder of data, and of the invented names."""
    text = read_text(folder / "wiki.txt")
    train, dev = (read_people(folder / name) for name in ("birth_places_train.tsv", "birth_dev.tsv"))
    test = names_in(read_text(folder / "birth_test_inputs.tsv"), str(folder / "birth_test_inputs.tsv"))
    corpus = CharCorruptionDataset(text, 128, str(folder / "wiki.txt"))
    own_words = {name: "\n".join(d for d in corpus.data if d.startswith(f"{name}. ")) for name, _ in dev}
    invented = [(language, name) for language, name in read_invented() if name not in text]
    mixed = mixed_names(train, [name for name, _ in train + dev] + test)
    texts = {"corpus": fingerprint(text), "pairs": fingerprint(read_text(folder / "birth_places_train.tsv"))}
    return Data(corpus, texts, train, dev, own_words, invented, mixed)


def stands_in(place: str, document: str) -> bool:
    """Whether a document has a place as whole words."""
    return bool(place) and re.search(rf"(?<!\w){re.escape(place)}(?!\w)", document) is not None


def about_dev(model: GPT, data: Data) -> tuple[dict, list[dict]]:
    """Entries of a row about the dev answers, and the questions one by one."""
    names, truths = zip(*data.dev, strict=True)
    answers, confidences = ask(model, data.corpus, names)
    places = {place for _, place in data.train}
    questions = [
        {
            "name": name,
            "truth": truth,
            "answer": answer,
            "right": answer == truth,
            "in_document": stands_in(answer, data.own_words[name]),
            "in_train": answer in places,
            "confidence": round(float(confidence), 4),
        }
        for name, truth, answer, confidence in zip(names, truths, answers, confidences, strict=True)
    ]
    count = Counter((q["right"], q["in_document"], q["in_train"]) for q in questions)
    kinds = [[*kind, count[kind]] for kind in product((True, False), repeat=3)]
    right = sum(q["right"] for q in questions)
    return {"n": len(questions), "right": right, "kinds": kinds}, questions


def about_guesses(model: GPT, data: Data, questions: list[dict]) -> dict:
    """Entries of a row about confidence, made-up places, invented people and namesakes."""
    names, answers = [q["name"] for q in questions], [q["answer"] for q in questions]
    confidence = np.array([q["confidence"] for q in questions])
    right = np.array([q["right"] for q in questions])
    wrong = {key: [q[key] for q in questions if not q["right"]] for key in ("name", "truth", "answer")}
    in_train, made_up = Counter(place for _, place in data.train), Counter(wrong["answer"])
    languages, strangers = zip(*data.invented, strict=True)
    given, doubts = ask(model, data.corpus, strangers)
    guessed, _ = ask(model, data.corpus, data.mixed)
    everyone, known = np.concatenate((confidence, doubts)), np.arange(len(names) + len(given)) < len(names)
    groups = {"dev": (names, answers), "dev, wrong": (wrong["name"], wrong["answer"]), "mixed": (data.mixed, guessed)}
    found = [
        {"people": people, "same": same, **counts}
        for people, group in groups.items()
        for same, word in (("surname", 1), ("first name", 0))
        if (counts := namesakes(data.train, *group, word))
    ]
    return {
        **calibration(confidence, right),
        "made_up": [[place, n, in_train[place] / len(data.train)] for place, n in made_up.most_common(SHOWN)],
        "first_letter": first_letters(wrong["truth"], wrong["answer"]),
        "confidence": {
            "right": resampled(np.mean, confidence[right]) if right.any() else None,
            "wrong": resampled(np.mean, confidence[~right]) if not right.all() else None,
            "invented": resampled(np.mean, doubts),
        },
        "known_or_invented": resampled(auroc, everyone, known),
        "invented": {
            "n": len(given),
            "in_train": sum(place in in_train for place in given),
            "places": [list(one) for one in Counter(given).most_common(SHOWN)],
            "alike": agreement(languages, given),
            "answers": [
                [language, name, place, round(float(doubt), 4)]
                for language, name, place, doubt in zip(languages, strangers, given, doubts, strict=True)
            ],
        },
        "namesakes": found,
    }


def analyse(args: argparse.Namespace) -> None:
    """Ask every model and write its row."""
    data = read_data(args.data)
    loaded = [load(args.folder / file, variant, pretrained, data) for _, variant, file, pretrained in MODELS]
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    is_own = args.data_name == "own"
    for (name, variant, file, pretrained), (model, stamp) in zip(MODELS, loaded, strict=True):
        print(f"asking {args.folder / file}", flush=True)
        entries, questions = about_dev(model.to(pick_device(args.device)), data)
        settings = stamp["settings"]
        row = {"data": args.data_name, "variant": variant, "model": name, "recipe": settings["recipe"]}
        row |= {"seed": settings["seed"], **entries}
        if pretrained:
            row |= about_guesses(model, data, questions)
        row |= {"hardware": stamp["hardware"], "precision": settings["precision"], "corpus": data.texts["corpus"]}
        command = "python experiments/analysis.py" + ("" if is_own else f" --data FOLDER --data_name {args.data_name}")
        row |= {"commit": commit(), "command": command, "date": date}
        if is_own:  # questions and answers of other people's data are theirs
            row["questions"] = questions
        print(add_row(args.results / "analysis", row, KEY if pretrained else (*KEY, "model")))


# ---------------------------------------------------------------- tables and figure

CAPTIONS = (
    "Confidence in a dev answer: the product of the probabilities of its characters and of the MASK that ends it. "
    f"ECE: the distance between mean confidence and share right, in {BINS} parts of equal count in order of "
    "confidence, a mean over all answers. AUROC: the chance that a right answer has more confidence than a wrong one. "
    "Last column: the share of the questions, surest first, of which 90 % are right, found on these same questions.",
    "Where the dev answers stand: in the person's own line of `wiki.txt`, or not; among the places of the training "
    "pairs, or not.",
    "Guesses. Invented names: `invented_names.txt`. By chance: the mean and the 95 % range of "
    f"{TIMES:,} shuffles of the answers.",
    "Namesakes: answers that are the birthplace of somebody in train with the same surname (last word) or first name. "
    "Mixed: names made of one train person's first name and another's surname, which nobody in the data bears.",
)


def between(found: Sequence[float] | None) -> str:
    """A value with its interval; - without one."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*found) if found else "-"


def beside_chance(found: dict | None) -> str:
    """A share, and what chance would make of it; - without one."""
    return f"{found['hits'] / found['n']:.1%}, by chance {by_chance(found['chance'])}" if found else "-"


def confidence_table(rows: list[dict]) -> str:
    """How far a model's confidence can be relied on."""
    lines = []
    for row in rows:
        at = {share: percent(right, n) for share, n, right in row["coverage"]}
        line = [told(row), percent(row["right"] / row["n"], row["n"]), f"{row['ece']:.3f}", f"{row['brier']:.3f}"]
        lines.append([*line, between(row["auroc"]), at[25], at[50], at[75], f"{row['coverage_at_90']:.0%}"])
    heads = ["model", "right, dev (95 %)", "ECE", "Brier score", "AUROC (95 %)"]
    heads += [f"right of the surest {share} %" for share in (25, 50, 75)]
    return markdown([*heads, "answered at 90 % right"], lines)


def kinds_table(rows: list[dict]) -> str:
    """Where right and wrong answers stand."""
    lines = []
    for row, right in product(rows, (True, False)):
        counts = {(document, train): n for hit, document, train, n in row["kinds"] if hit == right}
        lines.append([told(row), "right" if right else "wrong", sum(counts.values()), *counts.values()])
    heads = [f"{where}, {train}" for where in ("in own line", "not in it") for train in ("train place", "not one")]
    return markdown(["model", "dev answers", "number", *heads], lines)


def guess_table(rows: list[dict]) -> str:
    """What is answered where nothing is known."""
    lines = []
    for row in rows:
        found, sure = row["invented"], row["confidence"]
        made_up = ", ".join(f"{place} {n} ({100 * share:.1f})" for place, n, share in row["made_up"])
        places = ", ".join(f"{place} {n}" for place, n in found["places"])
        in_train = f"{found['in_train']} of {found['n']}"
        letter, alike = (beside_chance(one) for one in (row["first_letter"], found["alike"]))
        sure = [between(sure[who]) for who in ("right", "wrong", "invented")]
        lines.append([told(row), made_up, letter, places, in_train, alike, *sure, between(row["known_or_invented"])])
    heads = [
        "model",
        "wrong dev answers given most (% of train)",
        "wrong dev answers that begin like the right one",
    ]
    heads += ["answers for invented names given most", "answers for invented names that are train places"]
    heads += ["pairs of invented names of one language with the same answer"]
    heads += [f"mean confidence (95 %), {who}" for who in ("right", "wrong", "invented names")]
    return turned([*heads, "AUROC (95 %) of the confidence, dev or invented name"], lines)


def turned(heads: list[str], lines: list[list]) -> str:
    """A table with a column for each line."""
    first, *others = zip(heads, *lines, strict=True)
    return markdown(first, [list(other) for other in others])


def namesake_table(rows: list[dict]) -> str:
    """Answers that are the birthplace of a train person of the same name."""
    lines = []
    for row in rows:
        for one in row["namesakes"]:
            share = percent(one["hits"] / one["n"], one["n"])
            lines.append([told(row), one["people"], one["same"], one["n"], share, by_chance(one["chance"])])
    return markdown(["model", "people", "name shared", "number", "namesake's place (95 %)", "by chance (95 %)"], lines)


def told(row: dict) -> str:
    """Which model a row is of."""
    return "{model}; {data}, {recipe}, seed {seed}".format(**row)


def draw_figure(path: Path, rows: list[dict]) -> None:
    """Two panels: the share right by confidence, and by how many questions are answered."""
    plt = report.pyplot()
    if plt is None:
        return
    figure, (calibrated, covered) = plt.subplots(2, 1, figsize=(3.4, 5.6), layout="constrained")
    calibrated.plot([0, 100], [0, 100], color="#8a9199", linestyle="--", linewidth=1)
    covered.axhline(90, color="#8a9199", linestyle=":", linewidth=1)
    for row, colour, marker in zip(rows, ("#2a6f97", "#c1121f"), "os", strict=False):
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.2, "label": row["model"]}
        y, down, up = zip(*(in_percent(hits / n, n) for _, n, hits in row["bins"]), strict=True)
        x = [100 * mean for mean, _, _ in row["bins"]]
        calibrated.errorbar(x, y, [down, up], capsize=2, elinewidth=0.8, **style)
        x, y = zip(*((share, 100 * right) for share, _, right in row["coverage"]), strict=True)
        covered.plot(x, y, **style)
    labels = (("mean confidence of a tenth of the answers, %", "right, % (95 % interval)"),)
    labels += (("questions answered, surest first, %", "right among these, %"),)
    for axis, (x, y) in zip((calibrated, covered), labels, strict=True):
        axis.set_xlabel(x, fontsize=8)
        axis.set_ylabel(y, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_xlim(0, 102)
        axis.set_ylim(0, 104)
        axis.spines[["top", "right"]].set_visible(False)
    covered.legend(loc="lower left", frameon=False, fontsize=8)
    report.save(figure, path)


def draw(results: Path) -> None:
    """The figure and the tables from the rows of results/analysis; of results/ itself into experiments/README.md."""
    rows = [row for row in read_rows(results / "analysis") if "bins" in row]
    if not rows:
        raise UserError(f"{results / 'analysis'}: has no rows; leave out --draw to make them")
    rows.sort(key=lambda row: (row["data"] != "own", row["data"], row["recipe"] != MAIN_RECIPE, row["seed"]))
    first = next(group for _, group in grouped(rows, "data", "recipe", "seed"))
    draw_figure(results / "analysis.png", first)
    tables = (confidence_table, kinds_table, guess_table, namesake_table)
    text = "\n\n".join(f"{caption}\n\n{table(rows)}" for caption, table in zip(CAPTIONS, tables, strict=True))
    print(f"\n{text}")
    if results.resolve() == ROOT / "results":
        report.put_between(ROOT / "experiments" / "README.md", "analysis", text)


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> int:
    """Ask, unless told only to draw; then draw."""
    parser = argparse.ArgumentParser(description="Can retrieved be told from made up?", allow_abbrev=False)
    parser.add_argument("--folder", type=Path, default=ROOT, help="folder of the parameters (default: the project)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--data_name", help="what the data is called (default: own, or other)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the rows")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--draw", action="store_true", help="make figure and tables from the rows; ask nothing")
    args = parser.parse_args(argv)
    if not args.draw:
        check_data(args.data)
        found = name_of_data(args.data)
        if args.data_name == "own" and found != "own":
            raise UserError(f"--data_name own: {args.data} has other data than the project's; give another name")
        args.data_name = args.data_name or found
        analyse(args)
    draw(args.results)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

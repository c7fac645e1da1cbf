"""experiments/confidence.py: confidence and its calibration, what is guessed for unknown names, and the rows."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import run
from dataset import CharCorruptionDataset
from engine.checkpoints import save_params
from experiments import confidence
from helpers import invent_people, tiny_model, write_data
from report import rows
from utils import MASK_CHAR, UserError, fingerprint, read_text

SIZE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 128}
PEOPLE = invent_people(48, 12)
CORPUS = CharCorruptionDataset(PEOPLE.corpus, 128)

# Confidence, right, ECE with two bins, AUROC, and the coverage at 70 % right.
CASES = [
    ([0.2, 0.5, 0.6, 0.8], "1101", (abs(0.7 - 2) + abs(1.4 - 1)) / 4, 1 / 3, 1.0),
    ([0.9, 0.1, 0.3], "011", (abs(0.4 - 2) + abs(0.9 - 0)) / 3, 0.0, 0.0),
    ([0.5, 0.5, 0.2], "100", (abs(0.7 - 1) + abs(0.5 - 0)) / 3, 3 / 4, 1 / 3),
    ([1.0, 1.0], "11", 0.0, float("nan"), 1.0),
]


@pytest.mark.parametrize("sure, right, ece, auroc, coverage", CASES)
def test_calibration(sure, right, ece, auroc, coverage):
    """By hand; of equal confidences the first is the surest."""
    columns = np.array(sure), np.array(list(right)) == "1"
    assert confidence.calibration_error(confidence.bins(*columns, count=2)) == pytest.approx(ece)
    assert confidence.auroc(*columns) == pytest.approx(auroc, nan_ok=True)
    assert confidence.largest_coverage(*columns, 0.7) == pytest.approx(coverage)


def test_guesses_against_chance():
    """A namesake's birthplace; by chance: all orders of the answers. Nobody known bears a mixed name."""
    train = {"Ann Li": "Rome", "Bo Li": "Bonn", "Cy Ek": "Lima", "Leo II": "Oslo", "Ann Poe, Jr.": "Bern"}
    asked = train, ["Ann Ek", "Cy Li"], ["Lima", "Rome"]
    assert confidence.namesakes(*asked, 1) == {"n": 2, "hits": 2, "chance": pytest.approx(0.5, abs=0.05)} | {
        "chance_low": 0.0,
        "chance_high": 1.0,
    }
    assert confidence.namesakes(*asked, 0)["hits"] == 0
    mixed = confidence.mixed_names(train, [*train])
    known = {confidence.parts(name) for name in train}
    assert mixed and not known & {confidence.parts(name) for name in mixed}
    assert {word for name in mixed for word in name.split()} <= {"Ann", "Bo", "Cy", "Li", "Ek", "Poe"}
    document = "In New York, N. w"
    assert [p for p in ("York", "Yor", "", "N.w") if confidence.stands_in(p, document)] == ["York"]


@pytest.mark.parametrize("rope", [True, False])
def test_confidence_is_the_product_of_the_probabilities(rope: bool):
    """One character after the other; the MASK at the end counts, whether the model would give it or not."""
    model = tiny_model(2, vocab_size=CORPUS.vocab_size, block_size=128, rope=rope).eval()
    names = [*re.findall("Where was (.*) born", PEOPLE.questions)[:6], "Qoqo Ña"]
    answers, found = confidence.ask(model, CORPUS, names, "f")
    assert answers == run.answer(model, CORPUS, [f"Where was {name} born?" for name in names], "f", "float32")
    for name, answer, sure in zip(names, answers, found, strict=True):
        ids = [CORPUS.stoi[c] for c in f"Where was {name} born?" if c in CORPUS.stoi] + [1]
        product = 1.0
        for c in answer + MASK_CHAR:
            with torch.no_grad():
                chances = torch.softmax(model(torch.tensor([ids]))[0][0, -1].double(), 0)
            ids.append(CORPUS.stoi[c])
            product *= float(chances[ids[-1]])
        assert sure == pytest.approx(product, rel=1e-3)


def test_invented_names():
    """All different; nobody in the data bears the name or its last word."""
    names = pd.read_csv(confidence.INVENTED, sep="\t", names=["language", "name"])["name"]
    known = "".join(read_text(rows.ROOT / name) for name in rows.DATA_FILES)
    words = set(re.findall(r"[\w'-]+", known))
    assert names.is_unique and len(names) >= 240
    assert not [name for name in names if name in known or name.split()[-1] in words]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch) -> Path:
    """A folder with data, parameters of tiny models, and a list of invented names."""
    write_data(tmp_path, PEOPLE)
    fingerprints = {"corpus": fingerprint(PEOPLE.corpus), "pairs": fingerprint(PEOPLE.pairs)}
    for _, file, variant, is_pretrained in confidence.MODELS:
        settings = {"recipe": "fast", "seed": 3, "precision": "float32", "from": "f00" if is_pretrained else None}
        stamp = {"vocabulary": fingerprint("".join(CORPUS.itos.values())), "size": SIZE, "hardware": "cpu"}
        model = tiny_model(rope=variant == "rope", vocab_size=CORPUS.vocab_size, block_size=128)
        save_params(tmp_path / file, model, stamp | {"settings": settings | fingerprints})
    (tmp_path / "names").write_text("".join(f"Old\tQo{i} Zum\nNew\tJo{i} Pa\n" for i in range(5)))
    monkeypatch.setattr(confidence, "INVENTED", tmp_path / "names")
    return tmp_path


def ask(lab: Path, *more: str) -> int:
    """Run the program in the lab."""
    return confidence.main(["--folder", str(lab), "--data", str(lab), "--device", "cpu", *more])


def test_rows(lab: Path):
    """Every question of dev for all models, and people who do not exist for the pretrained ones."""
    assert ask(lab, "--data_name", "mine", "--results", str(lab)) == 0
    questions, models = rows.read("analysis_questions", lab), rows.read("analysis", lab)
    assert questions.groupby("model").size().to_dict() == {name: 12 for name, *_ in confidence.MODELS}
    truths = dict(re.findall(r"Where was (.*) born\?\t(.*)", PEOPLE.unseen))
    assert questions["truth"].tolist() == [truths[name] for name in questions["name"]]
    assert (questions["right"] == (questions["truth"] == questions["answer"])).all()
    assert questions["confidence"].between(0, 1).all()
    assert (models["n"] == 12).all() and (models["data"] == "mine").all() and (models["seed"] == 3).all()
    assert models["invented_n"].dropna().tolist() == [10, 10]
    lengths = {"invented": 2 * 10, "namesakes": 4}
    assert {name: len(rows.read(f"analysis_{name}", lab)) for name in lengths} == lengths


def test_models_are_asked_without_dropout(lab: Path):
    """Two runs tell the same confidence. Bug: answers were given without dropout, the confidence in them with it."""
    for folder in ("once", "again"):
        assert ask(lab, "--data_name", "mine", "--results", str(lab / folder)) == 0
    once, again = (rows.read("analysis_questions", lab / folder) for folder in ("once", "again"))
    assert once["confidence"].tolist() == again["confidence"].tolist()


BAD = [
    (lambda f: (f / "vanilla.model.params").unlink(), "vanilla.model.params: no such parameter file"),
    (lambda f: (f / "vanilla.model.params").rename(f / "vanilla.finetune.params"), "was finetuned from pretrained"),
    (lambda f: (f / "birth_places_train.tsv").write_text(PEOPLE.unseen), "was not trained on the data in"),
]


@pytest.mark.parametrize("spoil, reason", BAD)
def test_bad_input(lab: Path, spoil: Callable[[Path], object], reason: str):
    """Named, and no row is written."""
    spoil(lab)
    with pytest.raises(UserError, match=re.escape(reason)):
        ask(lab, "--results", str(lab))
    assert not [*lab.glob("*.csv")]


def test_other_peoples_questions_do_not_get_into_the_tracked_results(lab: Path):
    with pytest.raises(UserError, match=r"^--results FOLDER "):
        ask(lab)

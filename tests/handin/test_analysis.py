"""experiments/analysis.py: confidence, its calibration, what is guessed for unknown names, and the rows."""

import re
from argparse import Namespace

import analysis
import numpy as np
import pytest
import reproduce
import torch
from engine.answers import answer
from engine.files import fingerprint, read_rows

from dataset import CharCorruptionDataset
from engine.checkpoints import save_params, vocabulary_hash
from helpers import invent_people, tiny_model
from utils import MASK_CHAR, cli

SIZE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 128}
PEOPLE = invent_people(60, 12)
CORPUS = CharCorruptionDataset(PEOPLE.corpus, 128)

# Confidence, right, ECE, AUROC, accuracies by coverage, and the coverage at 70 % right.
CASES = [
    ([0.2, 0.5, 0.6, 0.8], "1101", (abs(0.7 - 2) + abs(1.4 - 1)) / 4, 1 / 3, [1, 1 / 2, 2 / 3, 3 / 4], 1.0),
    ([0.9, 0.1, 0.3], "011", (abs(0.4 - 2) + abs(0.9 - 0)) / 3, 0.0, [0, 1 / 2, 2 / 3], 0.0),
    ([0.5, 0.5, 0.2], "100", (abs(0.7 - 1) + abs(0.5 - 0)) / 3, 3 / 4, [1, 1 / 2, 1 / 3], 1 / 3),
    ([1.0, 1.0], "11", 0.0, float("nan"), [1, 1], 1.0),
]


@pytest.mark.parametrize("confidence, right, ece, auroc, accuracies, coverage", CASES)
def test_calibration(monkeypatch, confidence, right, ece, auroc, accuracies, coverage):
    """By hand, with two bins of equal count; of equal confidences the first is the surest."""
    monkeypatch.setattr(analysis, "BINS", 2)
    columns = np.array(confidence), np.array(list(right)) == "1"
    assert analysis.calibration_error(analysis.equal_bins(*columns)) == pytest.approx(ece)
    assert analysis.auroc(*columns) == pytest.approx(auroc, nan_ok=True)
    assert (found := analysis.accuracy_by_coverage(*columns)).tolist() == pytest.approx(accuracies)
    assert analysis.largest_coverage(found, 0.7) == pytest.approx(coverage)


def test_strategies():
    """Same answers within a group, and a namesake's birthplace; by chance: all orders of the answers."""
    found = analysis.agreement("aabb", ["Rome", "Rome", "Bonn", "Lima"])
    assert (found["n"], found["hits"]) == (2, 1) and found["chance"] == [pytest.approx(1 / 6, abs=0.03), 0.0, 0.5]
    found = analysis.first_letters(["Rome", "Bonn", "Lima"], ["Riga", "Lyon", ""])
    assert (found["n"], found["hits"]) == (3, 1) and found["chance"][0] == pytest.approx(2 / 9, abs=0.03)
    train = [("Ann Li", "Rome"), ("Bo Li", "Bonn"), ("Cy Ek", "Lima"), ("Leo II", "Oslo"), ("Ann Poe, Jr.", "Bern")]
    asked = train, ["Di Li", "Di Ek", "Ann Fo", "Jo II", "Li"], ["Rome", "Rome", "Bern", "Oslo", "Rome"]
    assert analysis.namesakes(*asked, 1) == {"n": 2, "hits": 1, "chance": [0.5, 0.5, 0.5]}
    assert analysis.namesakes(*asked, 0) == {"n": 1, "hits": 1, "chance": [1.0, 1.0, 1.0]}
    assert analysis.namesakes(train, ["Xi Yo"], ["Rome"], 1) is None
    assert [p for p in ("York", "Yor", "", "N.w") if analysis.stands_in(p, "In New York, N. w")] == ["York"]
    mixed = analysis.mixed_names(train, [name for name, _ in train])
    assert all(analysis.parts(name) not in map(analysis.parts, dict(train)) for name in mixed)
    assert mixed and {w for name in mixed for w in name.split()} <= {"Ann", "Bo", "Cy", "Li", "Ek", "Poe"}


@pytest.mark.parametrize("rope", [True, False])
def test_confidence_is_the_product_of_the_probabilities(rope: bool):
    """Against one character after the other without padding; some answers end, some do not."""
    model = tiny_model(2, vocab_size=CORPUS.vocab_size, block_size=128, rope=rope).eval().requires_grad_(False)
    model.head.weight[1] *= 1.5  # so that MASK comes now and then
    names = [*re.findall("Where was (.*) born", PEOPLE.questions), "Qoqo Ña"]
    told, ended = analysis.ask(model, CORPUS, names), set()
    for name, place, confidence in zip(names, *told, strict=True):
        x, product, text = [CORPUS.stoi[c] for c in f"Where was {name} born?" if c in CORPUS.stoi] + [1], 1.0, ""
        while len(text) < 32 and MASK_CHAR not in text:
            chances = torch.softmax(model(torch.tensor([x]))[0][0, -1].double(), 0)
            x.append(int(chances.argmax()))
            product, text = product * float(chances.max()), text + CORPUS.itos[x[-1]]
        ended.add(MASK_CHAR in text)
        assert confidence == pytest.approx(product, rel=1e-3) and place.split() == text.split(MASK_CHAR)[0].split()
    questions = [f"Where was {name} born?" for name in names]
    assert ended == {True, False} and told[0] == answer(model, CORPUS, questions, "f", "float32")


def test_invented_names():
    """Tagged, many languages, all different; characters of the corpus, which has neither names nor last words."""
    languages, names = zip(*analysis.read_invented(), strict=True)
    corpus, *known = ((analysis.ROOT / name).read_text(encoding="utf-8") for name in reproduce.DATA_FILES)
    assert len(set(names)) == len(names) >= 240 and len(set(languages)) >= 40 and not set("".join(names)) - set(corpus)
    known, words = corpus + "".join(known), set(re.findall(r"[\w'-]+", corpus + "".join(known)))
    assert not [name for name in names if name in known or name.split()[-1] in words]


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Namespace:
    """A folder of data and parameters of tiny models, the analysis on it, and few resamples."""
    for file, name in zip(reproduce.DATA_FILES, ("corpus", "pairs", "unseen", "questions"), strict=True):
        (tmp_path / file).write_text(getattr(PEOPLE, name))
    texts = {"corpus": fingerprint(PEOPLE.corpus), "pairs": fingerprint(PEOPLE.pairs)}
    for _, variant, file, pretrained in analysis.MODELS:
        settings = {"recipe": "fast", "seed": 3, "precision": "float32", "from": "f00" if pretrained else None, **texts}
        stamp = {"vocabulary": vocabulary_hash(CORPUS.itos), "size": SIZE, "settings": settings, "hardware": "cpu"}
        size = {"vocab_size": CORPUS.vocab_size, "block_size": 128}
        save_params(tmp_path / file, tiny_model(rope=variant == "rope", **size), stamp)
    (tmp_path / "names").write_text("".join(f"Old\tQo{i} Zum\nNew\tJo{i} Pa\n" for i in range(5)))
    for name, value in (("TIMES", 20), ("MIXED", 9), ("INVENTED", tmp_path / "names")):
        monkeypatch.setattr(analysis, name, value)
    words = [f"--folder={tmp_path}", f"--data={tmp_path}", f"--results={tmp_path / 'results'}"]
    return Namespace(folder=tmp_path, results=tmp_path / "results", main=lambda *more: analysis.main([*words, *more]))


def test_rows(lab, monkeypatch):
    """A row a model; other people's questions are not kept; the figure comes from the rows alone."""
    people = re.findall(r"Where was (.*) born\?\t(.*)", PEOPLE.unseen)
    told = {name: (place, people[i - 1][1], "Nowhere")[i % 3] for i, (name, place) in enumerate(people)}
    monkeypatch.setattr(analysis, "ask", lambda m, c, n: ([told.get(w, "Rome") for w in n], np.full(len(n), 0.25)))
    monkeypatch.setattr(analysis, "name_of_data", lambda folder: "own")
    lab.main()
    rows = read_rows(lab.results / "analysis")
    assert [row["model"] for row in rows] == [name for name, *_ in analysis.MODELS]
    kinds = [[[True, True, True], 4], [[False, False, True], 4], [[False, False, False], 4]]
    for row in rows:
        assert [[kind, n] for *kind, n in row["kinds"] if n] == kinds and (row["n"], row["right"]) == (12, 4)
        keys = ("name", "truth", "answer", "right", "in_document", "in_train", "confidence")
        values = [(*people[i], told[people[i][0]], i % 3 == 0, i % 3 == 0, i % 3 < 2, 0.25) for i in range(12)]
        assert row["questions"] == [dict(zip(keys, one, strict=True)) for one in values]
        assert str(lab.folder) not in str(row)
    assert rows[0]["invented"]["answers"][1] == ["New", "Jo0 Pa", "Rome", 0.25] and rows[0]["auroc"] == [0.5] * 3
    lab.main("--data_name", "theirs")
    files = {file.stem[7:]: file.read_text() for file in (lab.results / "analysis").glob("theirs*")}
    assert set(files) == {"rope@fast@3", "vanilla@fast@3", "vanilla@fast@3@vanilla+without+pretraining"}
    assert not any("questions" in text for text in files.values())
    (lab.results / "analysis.png").unlink()
    assert lab.main("--draw", "--folder", "nowhere") == 0 and (lab.results / "analysis.png").exists()


BAD = [
    (lambda f: (f / "vanilla.model.params").unlink(), "vanilla.model.params: no such parameter file"),
    (lambda f: torch.save(tiny_model().state_dict(), f / "rope.finetune.params"), "does not say how it was made"),
    (lambda f: (f / "vanilla.model.params").rename(f / "vanilla.finetune.params"), "was finetuned from pretrained"),
    (lambda f: (f / "birth_places_train.tsv").write_text(PEOPLE.unseen), "was made with fingerprint of the pairs"),
    (lambda f: (f / "birth_dev.tsv").write_text("Where was X born?\tY\nWho?\tZ\n"), "birth_dev.tsv, line 2: "),
    (lambda f: (f / "names").write_text("Welsh\tEirlys Pencarreg\nMadog\n"), "names, line 2: 'language<TAB>"),
    ("--data_name=own", "has other data than the project's"),
    ("--draw", "analysis: has no rows"),
]


@pytest.mark.parametrize("change, said", BAD)
def test_bad_input(lab, capsys, change, said: str):
    """One line, exit code 2, and no row."""
    flag = [change] if isinstance(change, str) else change(lab.folder) and []
    assert cli(lambda: lab.main(*(flag or []))) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1
    assert not lab.results.exists()

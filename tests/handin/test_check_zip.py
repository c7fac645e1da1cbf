"""A zip to hand in, whoever made it: what is said of good and of broken ones, and that none of its code is run."""

import io
import zipfile
from pathlib import Path

import pytest
import torch

import check_zip
import submission
from helpers import SRC, invent_people, tiny_config
from model import GPT
from utils import UserError

MODEL, TUNED, ROPE = (f"{name}.params" for name in ("vanilla.model", "vanilla.finetune", "rope.finetune"))
SCRATCH, DEV, ROPE_DEV = (f"{m}.dev.predictions" for m in ("vanilla.nopretrain", "vanilla.pretrain", "rope.pretrain"))
TEST, LONDON = "vanilla.pretrain.test.predictions", "london_baseline_accuracy.txt"
SCORE = f"{DEV}: dev 33.3 % (2 of 6), bar 15 %: crossed"


def saved(value: object) -> bytes:
    """What torch.save writes."""
    torch.save(value, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of 6 dev questions, the first person born in London, and 5 test questions."""
    folder, people = tmp_path_factory.mktemp("data"), invent_people(16, 6)
    dev = people.unseen.splitlines(keepends=True)
    dev[0] = dev[0].split("\t")[0] + "\tLondon\n"
    asked = people.questions.splitlines(keepends=True)
    for name, lines in (("birth_dev.tsv", dev), ("birth_test_inputs.tsv", asked[:5]), ("answers.tsv", dev[:5])):
        (folder / name).write_text("".join(lines))
    (folder / "wiki.txt").write_text(people.corpus)
    return folder


@pytest.fixture(scope="module")
def good(data: Path) -> dict[str, bytes]:
    """All that is asked for: vanilla knows 2 of 6 dev and 1 of 5 test answers, rope 3 and 2, from scratch 0."""
    places = [line.split("\t")[1] for line in (data / "birth_dev.tsv").read_text().splitlines()]
    content = {f"src/{path.relative_to(SRC).as_posix()}": path.read_bytes() for path in SRC.rglob("*.py")}
    for model, dev, test in (("vanilla.nopretrain", 0, 0), ("vanilla.pretrain", 2, 1), ("rope.pretrain", 3, 2)):
        for part, right, total in (("dev", dev, 6), ("test", test, 5)):
            lines = places[:right] + [f"{model} {i}" for i in range(right, total)]
            content[f"{model}.{part}.predictions"] = ("\n".join(lines) + "\n").encode()
    size = len(set((data / "wiki.txt").read_text())) + 2
    for name in (MODEL, TUNED, ROPE):
        content[name] = saved(GPT(tiny_config(vocab_size=size, rope=name == ROPE)).state_dict())
    return content | {LONDON: b"16.666667\n"}


@pytest.fixture
def check(data, tmp_path, monkeypatch, capsys):
    """Zips files, checks them in an empty folder, and returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(content: dict[str, bytes], *more: str) -> tuple[int, str]:
        with zipfile.ZipFile("any.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, raw in content.items():
                archive.writestr(name, raw)
        code = submission.main(["--check", "any.zip", "--data", str(data), *more])
        assert [path.name for path in tmp_path.iterdir()] == ["any.zip"]
        return code, capsys.readouterr().out

    return run


def test_a_good_one_is_all_right(good, data, check):
    """Every part is ok and its accuracies are said; without test answers nothing is said of test's."""
    code, said = check(good, "--test_answers", str(data / "answers.tsv"))
    assert code == 0 and "0 MISSING, 0 PROBLEM, 0 note; parts of 37 of 37 points" in said and "NOT OK" not in said
    assert f"(f) 10 points, vanilla pretrained: ok\n  ok      {TUNED}: vanilla, 2 layers, 16 wide, " in said
    assert f"  ok      {SCRATCH}: dev 0.0 % (0 of 6)\n" in said and f"  ok      {SCORE}\n" in said
    assert "  ok      rope.pretrain.test.predictions: test 40.0 % (2 of 5), bar 30 %: crossed\n" in said
    code, said = check(good)
    assert code == 0 and "  ok      rope.pretrain.test.predictions: 5 lines\n" in said


GAP = b"def precompute_rotary_emb(dim, n):\n    '''Doc.'''\n    cache = None\n    # gap\n    pass\n    return cache\n"
ACTS = b"import os\nos.mkdir('run')\nx.train()\n"
# What happens to the files, and the line that says it.
CHANGES = {
    "a folder around": (lambda c: {f"hw3/a b/{n}": c[n] for n in c}, "note", "all lies in hw3/a b/, where"),
    "backslashes": (lambda c: {n.replace("/", "\\"): c[n] for n in c}, "note", "names have \\ for /"),
    "macOS": (lambda c: c | {"__MACOSX/src/._a.py": b"\0"}, "note", "left by the system: __MACOSX/src/._a.py;"),
    "CRLF": (lambda c: c | {DEV: c[DEV].replace(b"\n", b"\r\n")}, "note", f"{DEV}: has the line ends of Windows"),
    "a BOM": (lambda c: c | {DEV: b"\xef\xbb\xbf" + c[DEV]}, "note", f"{DEV}: begins with a byte order mark"),
    "UTF-16": (lambda c: c | {DEV: c[DEV].decode().encode("utf-16")}, "PROBLEM", f"{DEV}: is UTF-16, UTF-8 is"),
    "Latin-1": (lambda c: c | {DEV: c[DEV][:-2] + b"\xfc\n"}, "PROBLEM", f"{DEV}: line 6 is not UTF-8"),
    "a missing file": (lambda c: {n: c[n] for n in c if n != ROPE}, "MISSING", f"{ROPE}; part (g)'s commands make"),
    "a file elsewhere": (lambda c: {n.replace(DEV, f"x/{DEV}"): c[n] for n in c}, "MISSING", f"{DEV}; it lies at x/"),
    "no code": (lambda c: {n: c[n] for n in c if "src" not in n}, "MISSING", "src/attention.py; put it into src/"),
    "swapped": (lambda c: c | {DEV: c[SCRATCH], SCRATCH: c[DEV]}, "PROBLEM", f"not crossed, but {SCRATCH} crosses"),
    "dev for test": (lambda c: c | {DEV: c[TEST], TEST: c[DEV]}, "PROBLEM", f"{DEV}: 5 lines, as many as test has"),
    "the same twice": (lambda c: c | {ROPE_DEV: c[DEV]}, "PROBLEM", f"{ROPE_DEV}: is the same as {DEV}; put"),
    "a line short": (lambda c: c | {ROPE_DEV: b"a\n" * 4}, "PROBLEM", f"{ROPE_DEV}: 4 lines, dev has 6 questions"),
    "below the bar": (lambda c: c | {ROPE_DEV: b"a\n" * 6}, "PROBLEM", "dev 0.0 % (0 of 6), bar 30 %: not crossed"),
    "a notebook": (lambda c: c | {"src/a.ipynb": b"{}"}, "PROBLEM", "src/ may hold .py files alone; take out src/a.i"),
    "a gap": (lambda c: c | {"src/attention.py": GAP}, "PROBLEM", "precompute_rotary_emb is as empty as in the st"),
    "no class": (lambda c: c | {"src/dataset.py": GAP}, "PROBLEM", "CharCorruptionDataset.__getitem__ is not there"),
    "never trains": (lambda c: c | {"src/run.py": b"print(1 + 1)"}, "PROBLEM", "nothing in it is called train"),
    "no Python": (lambda c: c | {"src/run.py": b"x = 1\nx ="}, "PROBLEM", "src/run.py, line 2: is not Python"),
    "deep code": (lambda c: c | {"src/a.py": b"-" * 90000 + b"1"}, "PROBLEM", "src/a.py: is not Python"),
    "code that acts": (lambda c: c | {"src/run.py": ACTS}, "ok", "src/run.py: code is there (not run)"),
    "variants swapped": (lambda c: c | {MODEL: c[ROPE]}, "PROBLEM", f"{MODEL}: is of a rope model (no pos_emb)"),
    "a model twice": (lambda c: c | {TUNED: c[MODEL]}, "PROBLEM", f"{TUNED}: holds the values of {MODEL}"),
    "half a file": (lambda c: c | {ROPE: c[ROPE][:5000]}, "PROBLEM", f"{ROPE}: the file: is no zip archive"),
    "few tensors": (lambda c: c | {ROPE: saved({"head.weight": torch.ones(2)})}, "PROBLEM", "lacks tok_emb.weight (4"),
    "other data": (lambda c: c | {ROPE: saved(GPT(tiny_config(rope=True)).state_dict())}, "PROBLEM", "knows 11 char"),
    "London in words": (lambda c: c | {LONDON: b"Correct: 1.0 out of 6.0: 16.67%"}, "ok", f"{LONDON}: 16.7 % (1 of 6)"),
    "London's share": (lambda c: c | {LONDON: b"0.16667"}, "note", "holds a share of 1, per cent are expected"),
    "London wrong": (lambda c: c | {LONDON: b"5.0\n"}, "PROBLEM", "holds '5.0', London gets 16.7 % (1 of 6); write"),
}


@pytest.mark.parametrize("change, status, text", CHANGES.values(), ids=CHANGES)
def test_what_is_strange_is_named(good, check, change, status: str, text: str):
    """In a line of its own; the exit code is 0 for notes; predictions in another encoding are scored."""
    code, said = check(change(good))
    assert any(line.startswith(f"  {status:8}") and text in line for line in said.splitlines()), said
    assert code == (status in ("MISSING", "PROBLEM")) and (": 0 MISSING, 0 PROBLEM" in said) == (code == 0)
    assert SCORE in said or (status not in ("ok", "note") and "UTF-16" not in text)


def test_gradescope_takes_the_size(good, check, data, monkeypatch, tmp_path):
    """A zip that is too large is named; ours is not written then, and the old one stays. Bug: nobody looked."""
    for module in (check_zip, submission):
        monkeypatch.setattr(module, "GRADESCOPE", 10_000)
    code, said = check(good)
    assert code == 1 and "MB, Gradescope takes 0 MB; leave out" in said
    for name in (n for n in good if not n.startswith("src/")):
        (tmp_path / name).write_bytes(good[name])
    (target := tmp_path / "old.zip").write_bytes(b"old")
    with pytest.raises(UserError, match=r"old\.zip: not written, it would have 0\.\d MB, Gradescope takes 0 MB; train"):
        submission.write_zip(tmp_path, target)
    assert target.read_bytes() == b"old" and not list(tmp_path.glob("*.tmp"))


def test_what_cannot_be_read_is_refused(data, tmp_path):
    """No zip, a folder, answers to other questions, answers to none."""
    (tmp_path / "no.zip").write_text("text")
    other, no_zip = ["--test_answers", str(data / "birth_dev.tsv")], ["--check", str(tmp_path / "no.zip")]
    for words, text in ((no_zip, "is no zip"), ([*no_zip, *other], "answers other"), (other, "is for --check")):
        with pytest.raises(UserError, match=text):
            submission.main([*words, "--data", str(data)])
    with pytest.raises(UserError, match="no such file"):
        submission.main(["--check", str(tmp_path), "--data", str(data)])

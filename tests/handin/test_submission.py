"""`submission.py --check`: what is said of good and of broken zips, and that none of their code is run."""

import io
import os
import zipfile
from pathlib import Path

import pytest
import torch

from helpers import SRC, invent_people, tiny_config, tiny_model
from model import GPT
from scripts import submission
from utils import UserError

MODEL, TUNED, ROPE = (f"{name}.params" for name in ("vanilla.model", "vanilla.finetune", "rope.finetune"))
SCRATCH, DEV, ROPE_DEV = (f"{m}.dev.predictions" for m in ("vanilla.nopretrain", "vanilla.pretrain", "rope.pretrain"))
TEST, ROPE_TEST, LONDON = DEV.replace("dev", "test"), ROPE_DEV.replace("dev", "test"), "london_baseline_accuracy.txt"


def zipped(content: dict[str, bytes]) -> bytes:
    """A zip archive."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    return buffer.getvalue()


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
    """A complete hand-in: vanilla knows 2 of 6 dev and 1 of 5 test answers, rope 3 and 2, from scratch 0."""
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
    """Checks a zip in an empty folder, which stays so; returns the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(content: dict[str, bytes] | bytes, *more: str) -> tuple[int, str]:
        Path("any.zip").write_bytes(content if isinstance(content, bytes) else zipped(content))
        code = submission.main(["--check", "any.zip", "--data", os.path.relpath(data), *more])
        assert os.listdir() == ["any.zip"]
        return code, capsys.readouterr().out

    return run


def test_a_good_one_is_all_right(good, data, check):
    """Only ok lines, with models and accuracies; test is scored where its answers are given."""
    code, said = check(good, "--test_answers", str(data / "answers.tsv"))
    *lines, total = said.splitlines()
    assert code == 0 and [line.split()[0] for line in lines] == ["ok"] * (len(submission.DELIVERABLES) + 1), said
    assert total.startswith("total: 0 MISSING, 0 PROBLEM, 0 WARNING;")
    assert f"ok       {TUNED}: vanilla, 2 layers, 16 wide, " in said
    assert f"ok       {SCRATCH}: dev 0.0 % (0 of 6)\n" in said and f"ok       {DEV}: dev 33.3 % (2 of 6)\n" in said
    assert f"ok       {ROPE_TEST}: test 40.0 % (2 of 5)\n" in said
    assert f"ok       {ROPE_TEST}: 5 lines\n" in check(good)[1]


class Runs:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run",)


STATE = tiny_model(rope=True).state_dict()
FOUR_RIGHT = b"Correct: 1.0 out of 6.0: 16.67%"
NEW_SYNTAX = b'x = {"a": 1}\nprint(f"{x["a"]}")\ntype A = int\n'
NO_ROPE = b"def precompute_rotary_emb(): pass\nclass CausalSelfAttention: pass\n"
# What happens to the files, and the line that says it; "" if nothing is to be said.
CHANGES = {
    "folder": (lambda c: {f"hw3/a b/{n}": c[n] for n in c}, "note", "everything lies in hw3/a b/, where"),
    "macOS": (lambda c: c | {"__MACOSX/src/._a.py": b"\0", "src/__pycache__/a.pyc": b"\0"}, "", ""),
    "CRLF and BOM": (lambda c: c | {DEV: b"\xef\xbb\xbf" + c[DEV].replace(b"\n", b"\r\n")}, "", ""),
    "no last newline": (lambda c: c | {DEV: c[DEV][:-1]}, "", ""),
    "notebook beside": (lambda c: c | {"a.ipynb": b"{}"}, "note", "not on the handout's list: a.ipynb; move code"),
    "escape": (lambda c: c | {"\x1b[2J": b""}, "note", r"not on the handout's list: '\x1b[2J'; move"),
    "UTF-16": (lambda c: c | {DEV: c[DEV].decode().encode("utf-16")}, "PROBLEM", f"{DEV}, line 1: not UTF-8"),
    "Latin-1": (lambda c: c | {DEV: c[DEV][:-2] + b"\xfc\n"}, "PROBLEM", f"{DEV}, line 6: not UTF-8"),
    "missing": (lambda c: {n: c[n] for n in c if n != ROPE}, "MISSING", f"{ROPE}: make it with scripts/part_g.sh"),
    "elsewhere": (lambda c: {n.replace(DEV, f"x/{DEV}"): c[n] for n in c}, "MISSING", f"{DEV}: x/{DEV} is in the wr"),
    "no run.py": (lambda c: {n: c[n] for n in c if n != "src/run.py"}, "MISSING", "src/run.py: put it into src/"),
    "a line short": (lambda c: c | {ROPE_DEV: b"a\n" * 5}, "PROBLEM", f"{ROPE_DEV}: 5 lines, dev has 6 questions; ev"),
    "empty": (lambda c: c | {ROPE_DEV: b""}, "PROBLEM", f"{ROPE_DEV}: 0 lines, dev has 6 questions"),
    "the same twice": (lambda c: c | {ROPE_DEV: c[DEV]}, "WARNING", f"{ROPE_DEV}: the same as {DEV}; check"),
    "a model twice": (lambda c: c | {TUNED: c[MODEL]}, "WARNING", f"{TUNED}: the same as {MODEL}; check"),
    "vanilla low": (lambda c: c | {DEV: b"a\n" * 6}, "WARNING", f"{DEV}: dev 0.0 % (0 of 6); the handout asks for 15%"),
    "rope low": (lambda c: c | {ROPE_DEV: c[ROPE_DEV].replace(b"\n", b"x\n", 2)}, "note", "16.7 % (1 of 6); the h"),
    "notebook in src": (lambda c: c | {"src/a.ipynb": b"{}"}, "PROBLEM", "src/ may hold .py files only; take out sr"),
    "no function": (
        lambda c: c | {"src/attention.py": NO_ROPE},
        "PROBLEM",
        "not defined: apply_rotary_emb (attention.py);",
    ),
    "new syntax": (lambda c: c | {"src/extra.py": NEW_SYNTAX}, "", ""),
    "old encoding": (lambda c: c | {"src/extra.py": b"# coding: latin-1\nx = '\xe9'"}, "", ""),
    "acts": (lambda c: c | {"src/extra.py": b"import os\nos.mkdir('run')"}, "", ""),
    "variants swapped": (lambda c: c | {MODEL: saved(STATE)}, "PROBLEM", f"{MODEL}: not a vanilla model"),
    "half a file": (lambda c: c | {ROPE: c[ROPE][:5000]}, "PROBLEM", f"{ROPE}: does not load with torch.load("),
    "few tensors": (
        lambda c: c | {ROPE: saved({"head.weight": torch.ones(2, 2)})},
        "PROBLEM",
        f"{ROPE}: tok_emb.weight has",
    ),
    "a block short": (
        lambda c: c | {ROPE: saved({n: t for n, t in STATE.items() if "blocks.0.mlp" not in n})},
        "PROBLEM",
        f"{ROPE}: blocks.0.mlp.0.weight has not the shape (64, 16), or is missing; save",
    ),
    "other data": (lambda c: c | {ROPE: saved(STATE)}, "PROBLEM", f"{ROPE}: knows 11 characters, wiki.txt makes"),
    "other attention": (
        lambda c: c | {ROPE: saved({n.replace("qkv", "mine"): t for n, t in torch_load(c[ROPE]).items()})},
        "",
        "",
    ),
    "wrapped": (lambda c: c | {ROPE: saved({f"module.{n}": t for n, t in torch_load(c[ROPE]).items()})}, "", ""),
    "checkpoint": (
        lambda c: c | {ROPE: saved({"model": STATE, "step": 3})},
        "PROBLEM",
        "not the state dict of a model, or larger",
    ),
    "acts on load": (
        lambda c: c | {ROPE: saved({"a": Runs()})},
        "PROBLEM",
        f"{ROPE}: does not load with torch.load(",
    ),
    "bomb": (lambda c: c | {DEV: bytes(2 * 10**6)}, "PROBLEM", f"{DEV}: larger than 1 MB, which is not read"),
    "bomb inside": (
        lambda c: c | {ROPE: zipped({"a/data.pkl": bytes(101 * 10**6)})},
        "PROBLEM",
        "or larger than 100 MB",
    ),
    "London in words": (lambda c: c | {LONDON: FOUR_RIGHT}, "", ""),
    "London's share": (lambda c: c | {LONDON: b"0.16667"}, "", ""),
    "London wrong": (lambda c: c | {LONDON: b"42.0\n"}, "PROBLEM", "holds '42.0', London is right in 16.7 % (1 of 6)"),
    "London a word": (lambda c: c | {LONDON: b"nan"}, "PROBLEM", "holds 'nan', London is right in 16.7 % (1 of 6)"),
}


def torch_load(raw: bytes) -> dict[str, torch.Tensor]:
    """A state dict."""
    return torch.load(io.BytesIO(raw), weights_only=True)


@pytest.mark.parametrize("change, status, text", CHANGES.values(), ids=CHANGES)
def test_each_finding_is_a_line(good, check, change, status: str, text: str):
    """One line that is not ok, with its status; the exit code is 1 unless it is a note."""
    code, said = check(change(good))
    found = [line for line in said.splitlines()[:-1] if not line.startswith("ok ")]
    assert [line.startswith(f"{status:8} ") and text in line for line in found] == [True] * bool(status), said
    assert code == (status in ("MISSING", "PROBLEM", "WARNING"))


def test_rope_is_scored_on_test(good, data, check):
    """Below 30 % it is a warning on test and a note on dev. Bug: 27.8 % on dev was a problem."""
    code, said = check(good | {ROPE_TEST: b"a\n" * 5}, "--test_answers", str(data / "answers.tsv"))
    assert code == 1 and f"WARNING  {ROPE_TEST}: test 0.0 % (0 of 5); the handout asks for 30% on test\n" in said


def test_a_misplaced_file_gets_one_piece_of_advice(good, check):
    """src/ at the top of the zip. Bug: each file was to be put into src/ and, below, to be left out."""
    _, said = check({name.removeprefix("src/"): raw for name, raw in good.items()})
    for name in ("attention.py", "dataset.py", "run.py"):
        lines = [line for line in said.splitlines() if name in line]
        assert lines == [f"MISSING  src/{name}: {name} is in the wrong folder; move it"]
    assert "not defined" not in said


def test_an_encrypted_file_is_named(good, check):
    """Only that file cannot be read."""
    raw = bytearray(zipped({name: good[name] for name in sorted(good, key=DEV.__eq__)}))  # DEV is the last
    raw[raw.rindex(b"PK\1\2") + 8] |= 1
    code, said = check(bytes(raw))
    assert code == 1 and f"PROBLEM  {DEV}: cannot be read (" in said and f"ok       {ROPE}" in said


def test_gradescope_limits_the_size(good, check, monkeypatch):
    """A zip that is too large is named."""
    monkeypatch.setattr(submission, "GRADESCOPE", 10_000)
    code, said = check(good)
    assert code == 1 and f"PROBLEM  {Path('any.zip').stat().st_size / 1e6:.1f} MB, Gradescope accepts 0 MB" in said


def test_our_data_are_found_from_any_folder(good, check, capsys):
    """Without --data, whatever the working directory: the zip of other data has too few lines."""
    check(good)
    assert submission.main(["--check", "any.zip"]) == 1
    assert f"PROBLEM  {DEV}: 6 lines, dev has 500 questions" in capsys.readouterr().out


def test_what_cannot_be_checked_is_refused(data, tmp_path):
    """No zip, no file, a folder, a folder without data, answers to other questions."""
    (tmp_path / "no.zip").write_text("text")
    other, no_zip = ["--test_answers", str(data / "birth_dev.tsv")], ["--check", str(tmp_path / "no.zip")]
    for words, text in (
        (no_zip, r"no\.zip: not a zip archive"),
        ([*no_zip, *other], r"birth_dev\.tsv: answers other questions"),
        (["--check", str(tmp_path / "none.zip")], r"none\.zip: cannot be read \(No such file"),
        (["--check", str(tmp_path)], r"cannot be read \(Is a directory"),
        ([*no_zip, "--data", str(tmp_path)], r"birth_dev\.tsv: no such file"),
    ):
        with pytest.raises(UserError, match=text):
            submission.main(["--data", str(data), *words])

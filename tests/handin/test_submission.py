"""scripts/submission.py: what --check says of good and of broken zips, and the zip that it makes."""

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import london_baseline
import run
from helpers import SRC, Evil, Program, invent_people, tiny_config, tiny_model, write_data
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
    asked = people.questions.splitlines(keepends=True)[:5]
    write_data(folder, replace(people, unseen="".join(dev), questions="".join(asked)))
    (folder / "answers.tsv").write_text("".join(dev[:5]))
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
    assert f"{TUNED}: vanilla, 2 layers, 16 wide, " in said and f"{ROPE_TEST}: test 40.0 % (2 of 5)\n" in said
    assert f"{SCRATCH}: dev 0.0 % (0 of 6)\n" in said and f"{DEV}: dev 33.3 % (2 of 6)\n" in said
    assert f"ok       {ROPE_TEST}: 5 lines\n" in check(good)[1]


STATE = tiny_model(rope=True).state_dict()
EXTRA = b"# coding: latin-1\nimport os\nos.mkdir('run')\nx = '\xe9'\ntype A = int\n"  # newer syntax, another encoding
NO_ROPE = b"def precompute_rotary_emb(): pass\nclass CausalSelfAttention: pass\n"


def put(name: str, raw: bytes) -> Callable:
    """A change of the files: another one, or another content."""
    return lambda files: files | {name: raw}


def edited(name: str, edit: Callable[[bytes], bytes]) -> Callable:
    """A change of the files: the content of one is edited."""
    return lambda files: files | {name: edit(files[name])}


def renamed(edit: Callable[[str], str]) -> Callable:
    """A change of the files: all get other names; those without a name are left out."""
    return lambda files: {edit(name): raw for name, raw in files.items() if edit(name)}


def with_keys(edit: Callable[[str], str]) -> Callable:
    """A change of the files: the tensors of the rope model have other names."""
    load = partial(torch.load, weights_only=True)
    return edited(ROPE, lambda raw: saved({edit(name): t for name, t in load(io.BytesIO(raw)).items()}))


BLOCK_SHORT = saved({name: tensor for name, tensor in STATE.items() if "blocks.0.mlp" not in name})
# What happens to the files, and the line that says it; "" if nothing is to be said.
CHANGES = {
    "folder": (renamed("hw3/a b/{}".format), "note", "everything lies in hw3/a b/, where"),
    "macOS": (lambda c: c | {"__MACOSX/src/._a.py": b"\0", "src/__pycache__/a.pyc": b"\0"}, "", ""),
    "CRLF and BOM": (edited(DEV, lambda raw: b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")[:-2]), "", ""),
    "escape": (put("\x1b[2J", b""), "note", r"not on the handout's list: '\x1b[2J'; move"),
    "UTF-16": (edited(DEV, lambda raw: raw.decode().encode("utf-16")), "PROBLEM", f"{DEV}, line 1: not UTF-8"),
    "missing": (renamed(lambda n: "" if n == ROPE else n), "MISSING", f"{ROPE}: make it with scripts/part_g.sh"),
    "elsewhere": (renamed(lambda n: n.replace(DEV, f"x/{DEV}")), "MISSING", f"{DEV}: x/{DEV} is in the wrong folder"),
    "a line short": (put(ROPE_DEV, b"a\n" * 5), "PROBLEM", f"{ROPE_DEV}: 5 lines, dev has 6 questions; evaluate"),
    "the same twice": (lambda c: c | {ROPE_DEV: c[DEV]}, "WARNING", f"{ROPE_DEV}: the same as {DEV}; check"),
    "vanilla low": (put(DEV, b"a\n" * 6), "WARNING", f"{DEV}: dev 0.0 % (0 of 6); the handout asks for 15%"),
    "rope low": (put(ROPE_DEV, b"a\n" * 6), "note", f"{ROPE_DEV}: dev 0.0 % (0 of 6); the handout"),
    "notebook in src": (put("src/a.ipynb", b"{}"), "PROBLEM", "src/ may hold .py files only; take out src/a.ipynb"),
    "no function": (put("src/attention.py", NO_ROPE), "PROBLEM", "not defined: apply_rotary_emb (attention.py);"),
    "code that is not run": (put("src/extra.py", EXTRA), "", ""),
    "variants swapped": (put(MODEL, saved(STATE)), "PROBLEM", f"{MODEL}: not a vanilla model"),
    "a block short": (put(ROPE, BLOCK_SHORT), "PROBLEM", "blocks.0.mlp.0.weight is missing, or not of shape (64, 16)"),
    "other data": (put(ROPE, saved(STATE)), "PROBLEM", f"{ROPE}: vocabulary of 11, wiki.txt has"),
    "other attention": (with_keys(lambda name: name.replace("qkv", "mine")), "", ""),
    "wrapped": (with_keys("module.{}".format), "", ""),
    "checkpoint": (put(ROPE, saved({"model": STATE})), "PROBLEM", "not the state dict of a model, or larger"),
    "acts on load": (put(ROPE, saved({"a": Evil()})), "PROBLEM", f"{ROPE}: does not load with torch.load("),
    "bomb": (put(DEV, bytes(2 * 10**6)), "PROBLEM", f"{DEV}: larger than 1 MB, which is not read"),
    "bomb inside": (put(ROPE, zipped({"a/data.pkl": bytes(101 * 10**6)})), "PROBLEM", "or larger than 100 MB"),
    "London's share": (put(LONDON, b"It is 0.16667"), "", ""),
    "London wrong": (put(LONDON, b"42.0\n"), "PROBLEM", "holds '42.0', London is right in 16.7 % (1 of 6)"),
}


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
    lines = [line for line in said.splitlines() if "attention.py" in line or "not defined" in line]
    assert lines == ["MISSING  src/attention.py: attention.py is in the wrong folder; move it"]


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
    """No zip, no file, a folder without data, answers to other questions."""
    (tmp_path / "no.zip").write_text("text")
    no_zip = ["--check", str(tmp_path / "no.zip")]
    for words, text in (
        (no_zip, r"no\.zip: not a zip archive"),
        ([*no_zip, "--test_answers", str(data / "birth_dev.tsv")], r"birth_dev\.tsv: has other questions"),
        (["--check", str(tmp_path / "none.zip")], r"none\.zip: cannot be read \(No such file"),
        ([*no_zip, "--data", str(tmp_path)], r"birth_dev\.tsv: no such file"),
    ):
        with pytest.raises(UserError, match=text):
            submission.main(["--data", str(data), *words])


# ---------------------------------------------------------------- making the zip


@pytest.fixture(scope="module")
def delivered(tmp_path_factory) -> Path:
    """A folder with data and every deliverable, of models trained for some epochs on invented people."""
    write_data(folder := tmp_path_factory.mktemp("delivered"), invent_people(16, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, (model, (variant, params)) in enumerate(submission.MADE_BY.items()):
            train = f"finetune {variant} wiki.txt --writing_params_path {params} --seed {seed} --recipe smoke"
            run.main(f"{train} --max_epochs 4 --finetune_corpus_path birth_places_train.tsv".split())
            for part, questions in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
                ask = f"evaluate {variant} wiki.txt --reading_params_path {params} --eval_corpus_path {questions}"
                run.main(f"{ask} --outputs_path {model}.{part}.predictions".split())
        london_baseline.main([])
    return folder


@pytest.fixture
def folder(delivered, tmp_path, monkeypatch) -> Path:
    """A copy of the deliverables, as the relative folder `mine`, that a test may spoil."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(delivered, "mine", ignore=shutil.ignore_patterns("expt"))
    return Path("mine")


def collect() -> int:
    """Make the zip of the folder `mine`."""
    return submission.main(["--folder", "mine", "--data", "mine"])


def test_the_zip_holds_what_the_handout_lists_and_evaluates_alone(folder, good, tmp_path, monkeypatch, capsys):
    """Exactly the handout's files, src/ as .py alone; unpacked beside the data, evaluate gives the same predictions.

    The same inputs give the same bytes, and --check finds nothing broken. Bug: what macOS and editors leave in src/
    (._run.py, "run copy.py") was handed in too.
    """
    monkeypatch.setattr(submission, "ROOT", folder.resolve())
    shutil.copytree(SRC, folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("._run.py", "run copy.py", "notes.ipynb", "engine/muon copy 2.py"):
        (folder / "src" / name).write_text("print('not to be handed in')")
    made = []
    for _ in range(2):
        (folder / MODEL).touch()
        assert collect() == 0
        made.append((folder / "assignment3.zip").read_bytes())
    assert made[0] == made[1] and not list(folder.glob("*.tmp"))
    submission.main(["--check", "mine/assignment3.zip", "--data", "mine"])
    assert "total: 0 MISSING, 0 PROBLEM," in capsys.readouterr().out
    with zipfile.ZipFile(folder / "assignment3.zip") as archive:
        names = archive.namelist()
        archive.extractall("unpacked")
    assert sorted(names) == sorted(good)
    for name in ("wiki.txt", "birth_dev.tsv"):
        shutil.copy(folder / name, "unpacked")
    unpacked = Program(tmp_path / "unpacked")
    read = ("--reading_params_path", ROPE, "--eval_corpus_path", "birth_dev.tsv", "--outputs_path", "again")
    unpacked.ok("evaluate", "rope", "wiki.txt", *read, script=str(unpacked.folder / "src" / "run.py"))
    assert (unpacked.folder / "again").read_bytes() == (unpacked.folder / ROPE_DEV).read_bytes()


SPOILT = {
    "lost": (ROPE, Path.unlink, rf"{ROPE}: make it with scripts/part_g\.sh$"),
    "London": (LONDON, lambda path: path.write_text("42.0\n"), "holds '42.0', London is right in 0"),
    "answers": (ROPE_DEV, lambda path: path.write_text("Nowhere\n" * 6), f"{ROPE_DEV}, line 1: {ROPE} answers otherw"),
}


@pytest.mark.parametrize("name, spoil, says", SPOILT.values(), ids=SPOILT)
def test_a_broken_zip_is_not_made(folder, name, spoil, says):
    """The file is named in one line, and an old zip stays; the parameters must give the predictions."""
    (folder / "assignment3.zip").write_bytes(b"old")
    spoil(folder / name)
    with pytest.raises(UserError, match=rf"^assignment3\.zip is not written: .*{says}"):
        collect()
    assert (folder / "assignment3.zip").read_bytes() == b"old"

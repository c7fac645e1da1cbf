"""The scripts around the programs: the submission, the tables and the picture, and what is measured against."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import naive
import report
import submission
from dataset import CharCorruptionDataset
from helpers import SRC, Program, invent_people, tiny_model
from reference import NaivePaddedGPT
from utils import UserError, generate

# ---------------------------------------------------------------- submission


@pytest.fixture(scope="module")
def delivered(shared: Program) -> Program:
    """A folder with data and every deliverable, of models trained for an epoch on invented people."""
    people = invent_people(16, 6)
    shared.write("wiki.txt", people.corpus)
    shared.write("birth_places_train.tsv", people.pairs)
    shared.write("birth_dev.tsv", people.unseen)
    shared.write("birth_test_inputs.tsv", people.questions)
    once = ("--recipe", "smoke", "--max_epochs", "1")
    pairs = ("--finetune_corpus_path", "birth_places_train.tsv", *once)
    shared.ok("finetune", "vanilla", "wiki.txt", "--writing_params_path", "vanilla.model.params", *pairs)
    for variant in ("vanilla", "rope"):
        write = ("--writing_params_path", f"{variant}.finetune.params")
        shared.ok("finetune", variant, "wiki.txt", *write, *pairs)
    for model, (variant, params) in submission.MADE_BY.items():
        for part, questions in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
            ask = ("--eval_corpus_path", questions, "--outputs_path", f"{model}.{part}.predictions")
            shared.ok("evaluate", variant, "wiki.txt", "--reading_params_path", params, *ask)
    shared.ok(script="london_baseline.py")
    return shared


def collect(folder: Path) -> int:
    """Make the zip of a folder that holds data and deliverables."""
    return submission.main(["--folder", str(folder), "--data", str(folder)])


def test_the_zip_holds_what_the_handout_lists_and_evaluates_alone(delivered, tmp_path):
    """Exactly the handout's files, src/ as .py alone; unpacked beside the data, evaluate gives the same predictions."""
    assert collect(delivered.folder) == 0
    with zipfile.ZipFile(delivered.folder / "assignment3.zip") as archive:
        names = archive.namelist()
        archive.extractall(tmp_path)
    code = {name for name in names if name.startswith("src/")}
    assert code == {f"src/{path.name}" for path in SRC.glob("*.py")}
    assert set(names) - code == {
        "vanilla.model.params",
        "vanilla.finetune.params",
        "rope.finetune.params",
        "vanilla.nopretrain.dev.predictions",
        "vanilla.nopretrain.test.predictions",
        "vanilla.pretrain.dev.predictions",
        "vanilla.pretrain.test.predictions",
        "rope.pretrain.dev.predictions",
        "rope.pretrain.test.predictions",
        "london_baseline_accuracy.txt",
    }
    assert len(names) == len(set(names))
    for name in ("wiki.txt", "birth_dev.tsv"):
        shutil.copy(delivered.folder / name, tmp_path)
    unpacked = Program(tmp_path)
    read = ("--reading_params_path", "rope.finetune.params", "--eval_corpus_path", "birth_dev.tsv")
    script = str(tmp_path / "src" / "run.py")
    unpacked.ok("evaluate", "rope", "wiki.txt", *read, "--outputs_path", "again.predictions", script=script)
    assert (tmp_path / "again.predictions").read_bytes() == (tmp_path / "rope.pretrain.dev.predictions").read_bytes()


def test_the_same_inputs_give_the_same_bytes(delivered):
    """No time stamp or order of the file system gets into the zip."""
    collect(delivered.folder)
    first = (delivered.folder / "assignment3.zip").read_bytes()
    (delivered.folder / "vanilla.model.params").touch()
    collect(delivered.folder)
    assert (delivered.folder / "assignment3.zip").read_bytes() == first


def copy_of(delivered: Program, tmp_path: Path) -> Path:
    """The deliverables in a folder that a test may spoil."""
    folder = tmp_path / "spoiled"
    shutil.copytree(delivered.folder, folder, ignore=shutil.ignore_patterns("expt", "assignment3.zip"))
    return folder


def test_a_missing_file_is_named_with_the_command_that_makes_it(delivered, tmp_path):
    """Part (g)'s script is named for a missing rope file, and no zip is written."""
    folder = copy_of(delivered, tmp_path)
    (folder / "rope.finetune.params").unlink()
    with pytest.raises(UserError, match=r"^rope\.finetune\.params is missing; make it with scripts/part_g\.sh"):
        collect(folder)
    assert not (folder / "assignment3.zip").exists()


def test_predictions_cut_short_are_refused(delivered, tmp_path):
    """A file of predictions with a line too few is named with both counts."""
    folder = copy_of(delivered, tmp_path)
    path = folder / "vanilla.pretrain.test.predictions"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"vanilla\.pretrain\.test\.predictions has 5 lines, 6 questions"):
        collect(folder)


def test_predictions_of_other_parameters_are_refused(delivered, tmp_path):
    """The parameters in the zip must give the predictions in the zip."""
    folder = copy_of(delivered, tmp_path)
    path = folder / "rope.pretrain.dev.predictions"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "Nowhere", *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=r"rope\.pretrain\.dev\.predictions, line 3: rope\.finetune\.params answers"):
        collect(folder)


# ---------------------------------------------------------------- results


def row(seed: int, dev: float) -> dict:
    """A row as reproduce.py writes it."""
    more = {"seconds": 60.0, "tokens": 1000, "hardware": "cpu"}
    return {"data": "own", "variant": "rope", "recipe": "fast", "seed": seed, "dev": dev, "n": 500, **more}


KEY = ("data", "variant", "recipe", "seed", "hardware")


def test_rows_are_added_and_replaced_but_never_touched_otherwise(tmp_path):
    """A row with the same key is replaced, the others stay, in their order."""
    path = tmp_path / "accuracy.json"
    report.add_rows(path, [row(0, 0.1), row(1, 0.2)], KEY)
    other = {"data": "course", "variant": "rope", "recipe": "best", "seed": 0, "note": "kept as it is"}
    report.add_rows(path, [other], KEY)
    report.add_rows(path, [row(0, 0.3)], KEY)
    assert json.loads(path.read_text()) == [row(1, 0.2), other, row(0, 0.3)]


def test_a_damaged_results_file_is_not_overwritten(tmp_path):
    """Results that cannot be read are an error in one line, and stay."""
    path = tmp_path / "accuracy.json"
    path.write_text("[{")
    with pytest.raises(UserError, match="restore it from git"):
        report.add_rows(path, [row(0, 0.1)], KEY)
    assert path.read_text() == "[{"


def test_tables_say_accuracy_with_interval_and_bar(tmp_path):
    """200 of 500 is 40.0 % with Wilson's interval 35.8 to 44.4, beside rope's bar of 30 %."""
    report.add_rows(tmp_path / "accuracy.json", [row(0, 0.4)], KEY)
    text = report.write_tables(tmp_path)
    assert (
        "| rope pretrained and finetuned | own | fast | 0 | 40.0% (35.8 to 44.4) | - | 30% | 1,000 | 1.0 | cpu |"
        in text
    )
    assert text in (tmp_path / "results.md").read_text()


def test_the_picture_is_drawn_for_shares_of_nought_and_one(tmp_path):
    """Bug: at 0 right answers the interval began a rounding error below 0, and matplotlib refused the error bar."""
    report.add_rows(tmp_path / "accuracy.json", [row(0, 1.0)], KEY)
    report.add_rows(tmp_path / "controls.json", [dict(row(0, 0.0), what="vanilla without pretraining")], ("what",))
    report.draw(tmp_path, "own", "fast", 0)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_text_is_put_between_marks_and_nowhere_else(tmp_path):
    """A program's table replaces the old one; without the marks nothing is written."""
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    report.put_between(path, "results", "new")
    assert path.read_text() == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    with pytest.raises(UserError, match="marks"):
        report.put_between(path, "speed", "new")


# ---------------------------------------------------------------- the naive computation of experiments/speed.py


def test_naive_model_is_the_references_computation(tiny):
    """What speed.py measures against has the loss of the tests' reference, for both variants."""
    model = tiny_model(rope=tiny.rope)
    slow = naive.NaiveGPT(model.config)
    slow.load_state_dict(model.state_dict())
    idx = torch.randint(1, 11, (3, 20), generator=torch.Generator().manual_seed(0))
    targets = idx.roll(-1, 1)
    targets[0, 9:] = 0
    _, loss = slow(idx, targets)
    torch.testing.assert_close(loss, NaivePaddedGPT(model).loss(idx, targets))


def test_naive_items_are_examples_of_span_corruption():
    """Three masks, and prefix + span + suffix is the start of the document."""
    document = "Ann Lee. Lee, born in Rome in 1901, wrote Night Songs ."
    corpus = CharCorruptionDataset(document, 64)
    for _ in range(200):
        x, y = naive.naive_item(document, 64, corpus.stoi)
        assert torch.equal(x[1:], y[:-1])
        text = "".join(corpus.itos[int(t)] for t in (x[0], *y)).rstrip(corpus.PAD_CHAR)
        prefix, suffix, span, rest = text.split(corpus.MASK_CHAR)
        assert rest == "" and span
        assert document.startswith(prefix + span + suffix)


def test_naive_answers_are_those_of_the_batched_cache(tiny):
    """One at a time without a cache, all at once with it: the same tokens."""
    model = tiny_model(rope=tiny.rope).eval()
    slow = naive.NaiveGPT(model.config).eval()
    slow.load_state_dict(model.state_dict())
    prompts = [torch.randint(0, 11, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 7, 5)]
    assert generate(model, prompts, 12) == [naive.naive_answer(slow, prompt, 12) for prompt in prompts]

"""The scripts around the programs: the submission, the tables and the picture, and what is measured against."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

import naive
import report
import reproduce
import submission
from dataset import CharCorruptionDataset
from helpers import SRC, Program, invent_people, tiny_model
from modern_llm import KEY as ASKED
from modern_llm import LISTED
from reference import NaivePaddedGPT
from utils import UserError, add_rows, generate, read_rows

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
    more = {"seconds": 60.0, "tokens": 1000, "hardware": "cpu", "precision": "float32", "date": "2026-11-24"}
    return {"data": "own", "variant": "rope", "recipe": "fast", "seed": seed, "dev": dev, "n": 500, **more}


def test_rows_are_added_and_replaced_but_never_touched_otherwise(tmp_path):
    """A row with the same key is replaced where it stands, the others stay; an entry that a row lacks is part of it."""
    path = tmp_path / "accuracy.json"
    add_rows(path, [row(0, 0.1), row(1, 0.2)], report.TRAINED)
    other = {"data": "course", "variant": "rope", "recipe": "best", "seed": 0, "note": "kept as it is"}
    add_rows(path, [other], report.TRAINED)
    add_rows(path, [row(0, 0.3), row(2, 0.4)], report.TRAINED)
    assert json.loads(path.read_text()) == [row(0, 0.3), row(1, 0.2), other, row(2, 0.4)]


@pytest.mark.parametrize("damaged", ["[{", "{}", "[1]"])
def test_a_damaged_results_file_is_not_overwritten(tmp_path, damaged: str):
    """What is no list of rows is an error in one line, and stays."""
    path = tmp_path / "accuracy.json"
    path.write_text(damaged)
    with pytest.raises(UserError, match="is not a list of result rows; restore it from git"):
        add_rows(path, [row(0, 0.1)], report.TRAINED)
    assert path.read_text() == damaged


def test_tables_say_accuracy_with_interval_and_bar(tmp_path):
    """200 of 500 is 40.0 % with Wilson's interval 35.8 to 44.4, beside rope's bar of 30 %; so is the mean of two seeds.

    Two seeds answer the same questions: their interval is not narrower.
    """
    end = "- | 30% | 1,000"
    for seed, dev, cells in (
        (0, 0.4, f"| 0 | 40.0% (35.8 to 44.4) | {end} | 1.0 | cpu, float32 |"),
        (1, 0.5, f"| 0 1 | 45.0% (40.7 to 49.4): 40.0, 50.0 | {end} | 1.0, 1.0 | cpu, float32 |"),
    ):
        add_rows(tmp_path / "accuracy.json", [row(seed, dev)], report.TRAINED)
        text = report.write_tables(tmp_path)
        assert f"| rope pretrained and finetuned | own | fast {cells}" in text
    assert text in (tmp_path / "results.md").read_text()


def test_the_picture_is_drawn_for_shares_of_nought_and_one(tmp_path):
    """Bug: at 0 right answers the interval began a rounding error below 0, and matplotlib refused the error bar."""
    add_rows(tmp_path / "accuracy.json", [row(0, 1.0)], report.TRAINED)
    add_rows(tmp_path / "controls.json", [dict(row(0, 0.0), what="vanilla without pretraining")], ("what",))
    report.draw(tmp_path, "own", "fast", 0)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_each_model_once(tmp_path):
    """Bug: after `make run` on another machine than that of the rows in git, it showed both machines' rows."""
    here = dict(row(0, 0.4), hardware="cpu, 4 threads", date="2026-11-25T09:00:00+00:00")
    rows = [here, row(0, 0.3), dict(row(0, 0.2), variant="vanilla"), row(1, 0.5)]
    add_rows(tmp_path / "accuracy.json", rows, report.TRAINED)
    london = {"what": "London for everyone", "data": "own", "recipe": "fast", "seed": 0, "dev": 0.05, "date": "2026"}
    add_rows(tmp_path / "controls.json", [london], ("what",))
    shown = [(name, bar["dev"]) for name, bar in report.bars_of(tmp_path, "own", "fast", 0)]
    assert shown == [("London for everyone", 0.05), ("vanilla, pretrained", 0.2), ("rope, pretrained", 0.4)]


def test_text_is_put_between_marks_and_nowhere_else(tmp_path):
    """A program's table replaces the old one; without the marks nothing is written."""
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    report.put_between(path, "results", "new")
    assert path.read_text() == "before\n<!-- results -->\nnew\n<!-- /results -->\nafter\n"
    with pytest.raises(UserError, match="marks"):
        report.put_between(path, "speed", "new")


# ---------------------------------------------------------------- results of part 4


def add_comparison(folder: Path, model: str, datasets: tuple[str, ...] = ("own", "course")) -> None:
    """Rows as sensitivity.py and modern_llm.py give them: 100 questions, the LLM asked in both ways."""
    counts = {"only_original": 12, "only_reworded": 2, "p_mcnemar": 0.0129}
    ours = {"data": "own", "variant": "rope", "recipe": "fast", "seed": 0, "hardware": "cpu", "n": 100}
    ours |= {"original": 0.3, "reworded": 0.2, "parameters": 3_300_000, **counts}
    add_rows(folder / "sensitivity.json", [ours], report.TRAINED)
    rows = []
    for data in datasets:
        for prompt, right in (("bare", 0.0), ("instructed", 0.4)):
            cell = {"model": model, "data": data, "prompt": prompt, "n": 100, "parameters": 134_515_008}
            rows.append(cell | {"template": "original", "exact": right, "normalised": right + 0.1})
            rows.append(cell | {"template": "reworded", "exact": right, "normalised": right, **counts})
    add_rows(folder / "modern_llm.json", rows, ASKED)


def test_the_comparison_shows_both_wordings_with_intervals_and_the_paired_test(tmp_path):
    """Ours and the LLM's rows side by side, own data first; 10 of 100 has the interval 5.5 to 17.4."""
    add_comparison(tmp_path, "tiny-llm", ("course", "own"))
    lines = report.write_comparison(tmp_path).split("\n")
    assert lines[2] == (
        "| our RoPE model (fast, seed 0) | 3,300,000 | own | question alone | 30.0% (21.9 to 39.6) "
        "| 20.0% (13.3 to 28.9) | - | - | 12 : 2 | 0.013 |"
    )
    assert lines[3] == (
        "| tiny-llm | 134,515,008 | own | question alone | 0.0% (0.0 to 3.7) | 0.0% (0.0 to 3.7) "
        "| 10.0% (5.5 to 17.4) | 0.0% (0.0 to 3.7) | 12 : 2 | 0.013 |"
    )
    assert [line.split(" | ")[2:4] for line in lines[4:7]] == [
        ["own", "with instructions"],
        ["course", "question alone"],
        ["course", "with instructions"],
    ]
    assert len({line.count(" | ") for line in lines if "---" not in line}) == 1
    assert "\n".join(lines) in (tmp_path / "modern_llm.md").read_text()


def test_the_comparison_takes_the_latest_machine(tmp_path):
    """Bug: a second machine's row of our model stood under the same name, and the picture drew one over the other."""
    add_comparison(tmp_path, "tiny-llm", ("own",))
    ours = read_rows(tmp_path / "sensitivity.json")[0]
    add_rows(
        tmp_path / "sensitivity.json", [ours | {"hardware": "gpu", "original": 0.5, "date": "2026"}], report.TRAINED
    )
    found = [pair["exact"]["original"] for pair in report.compared(tmp_path) if "our RoPE" in pair["model"]]
    assert found == [0.5]


def test_make_run_keeps_both_accuracies_of_part_4a(delivered, monkeypatch):
    """The rows of reproduce.py with the trainings left out: the original wording has evaluate's accuracy."""
    monkeypatch.setattr(reproduce, "ROOT", delivered.folder)
    monkeypatch.chdir(delivered.folder)
    for step in ("train", "naive_step_seconds", "test_answers"):
        monkeypatch.setattr(reproduce.Reproduction, step, lambda *arguments: None)
    steps = reproduce.Reproduction("fast", 3, delivered.folder, "own", "cpu")
    steps.all()
    (found,), rope = steps.sensitivity, steps.accuracy[-1]
    assert rope["variant"] == found["variant"] == "rope"
    assert found["original"] == rope["dev"] and found["n"] == rope["n"] == 6
    assert found["reworded"] == next(row["dev"] for row in steps.controls if "reworded" in row["what"])
    assert found["only_original"] - found["only_reworded"] == round(6 * (found["original"] - found["reworded"]))
    assert 0 <= found["p_mcnemar"] <= 1 and found["parameters"] > 3_000_000
    same = ("data", "recipe", "seed", "hardware", "corpus", "commit", "command", "date")
    assert all(found[name] == rope[name] for name in same) and set(report.TRAINED) <= set(found)


def test_listed_models_say_not_run_until_they_are(tmp_path):
    """A row with the command for each of the three; numbers instead for the one that was run, from a folder too."""
    table = report.write_comparison(tmp_path)
    assert [f"| {model} | - | own | not run here: `make llm LLM={model}` |" in table for model in LISTED] == [True] * 3
    add_comparison(tmp_path, "Llama-3.2-1B-Instruct")
    add_comparison(tmp_path, "Qwen/Qwen3-1.7B")
    table = report.write_comparison(tmp_path)
    assert table.count("not run here") == 1 and "make llm LLM=HuggingFaceTB/SmolLM2-1.7B-Instruct" in table
    assert "| Qwen/Qwen3-1.7B | 134,515,008 | own |" in table


def test_a_model_asked_in_one_wording_has_no_other_column(tmp_path):
    """Rows of a run with --template original: dashes for the rest."""
    cell = {"model": "m", "data": "own", "prompt": "bare", "template": "original", "n": 10, "parameters": 5}
    add_rows(tmp_path / "modern_llm.json", [cell | {"exact": 0.0, "normalised": 0.5}], ASKED)
    line = report.write_comparison(tmp_path).split("\n")[2]
    assert line == "| m | 5 | own | question alone | 0.0% (0.0 to 27.8) | - | 50.0% (23.7 to 76.3) | - | - | - |"
    report.draw_sensitivity(tmp_path)
    assert (tmp_path / "sensitivity.png").exists()


def test_everything_is_written_anew_from_the_rows(tmp_path, monkeypatch):
    """python scripts/report.py: both tables in their files and in the README, and both pictures."""
    results = tmp_path / "results"
    results.mkdir()
    add_rows(results / "accuracy.json", [row(0, 0.4)], report.TRAINED)
    add_comparison(results, "tiny-llm")
    marks = "".join(f"<!-- {mark} -->\n<!-- /{mark} -->\n" for mark in ("results", "modern_llm"))
    (tmp_path / "README.md").write_text(marks)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert report.main([]) == 0
    readme = (tmp_path / "README.md").read_text()
    assert "| rope pretrained and finetuned | own |" in readme and "| tiny-llm | 134,515,008 |" in readme
    for name in ("accuracy.png", "sensitivity.png"):
        assert (results / name).read_bytes().startswith(b"\x89PNG")
    assert report.main(["--recipe", "none"]) == 0  # no rows: says so, and the tables are written all the same


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

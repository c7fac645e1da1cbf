"""The programs as a user runs them: files, lines, exit codes, interruptions, and one proof from end to end."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run
import utils
from dataset import CharCorruptionDataset
from helpers import SRC, Program, Result, invent_people
from model import GPTConfig
from recipes import RECIPES
from reference import contract_shapes
from utils import UserError

SMALL = ("--recipe", "smoke", "--batch_size", "8", "--max_epochs", "2")  # 17 documents: 3 steps an epoch


def one_line(result: Result, *says: str) -> None:
    """The program ended with exit code 2 and one line on stderr that says these things; no traceback."""
    assert result.code == 2, result
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
    for text in says:
        assert text in result.stderr, result.stderr


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars of a run: (step, value) by tag."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# ---------------------------------------------------------------- all functions on a few people


@pytest.fixture(scope="module")
def runs(shared: Program) -> SimpleNamespace:
    """Every function in both variants, once, in one folder: the results by name."""
    people = invent_people(16, 6)
    shared.people(people)
    results = {}
    for v in ("vanilla", "rope"):
        pre, fine = f"{v}.pretrain.params", f"{v}.finetune.params"
        results[v, "pretrain"] = shared.ok("pretrain", v, "corpus.txt", *SMALL, "--writing_params_path", pre)
        read, write = ("--reading_params_path", pre), ("--writing_params_path", fine)
        pairs = ("--finetune_corpus_path", "pairs.tsv", *SMALL)
        results[v, "finetune"] = shared.ok("finetune", v, "corpus.txt", *read, *write, *pairs)
        read, out = ("--reading_params_path", fine), ("--outputs_path", f"{v}.dev.predictions")
        eval_dev = ("--eval_corpus_path", "unseen.tsv", *out)
        results[v, "dev"] = shared.ok("evaluate", v, "corpus.txt", *read, *eval_dev)
    write = ("--writing_params_path", "vanilla.model.params")
    rates = ("--pretrain_lr", "0.005", "--finetune_lr", "0.001", "--tb_expt_name", "mine")
    pairs = ("--finetune_corpus_path", "pairs.tsv", *SMALL, *rates)
    results["vanilla", "scratch"] = shared.ok("finetune", "vanilla", "corpus.txt", *write, *pairs)
    read, out = ("--reading_params_path", "vanilla.model.params"), ("--outputs_path", "vanilla.test.predictions")
    eval_test = ("--eval_corpus_path", "questions.tsv", *out)
    results["vanilla", "test"] = shared.ok("evaluate", "vanilla", "corpus.txt", *read, *eval_test)
    return SimpleNamespace(results=results, folder=shared.folder, people=people)


VARIANTS = pytest.mark.parametrize("variant", ["vanilla", "rope"])


@VARIANTS
def test_files_of_a_run(runs, variant):
    """Parameter files hold the contract's names and shapes at the homework's size; checkpoints and scraps are gone."""
    vocabulary = len(set(runs.people.corpus)) + 2
    shapes = contract_shapes(GPTConfig(vocabulary, 128, n_layer=4, n_head=8, n_embd=256, rope=variant == "rope"))
    for name in (f"{variant}.pretrain.params", f"{variant}.finetune.params"):
        state = torch.load(runs.folder / name, weights_only=True)
        assert {key: tuple(value.shape) for key, value in state.items()} == shapes
    assert [name for name in os.listdir(runs.folder) if name.endswith((".tmp", ".checkpoint"))] == []


@VARIANTS
def test_lines_of_a_training(runs, variant):
    """A training prints the corpus's line, what it is going to do, a line an epoch, and its end; no error output.

    The recipe's finetuning sees the 17 documents beside the 10 pairs.
    """
    for function, examples, steps in (("pretrain", 17, 6), ("finetune", 27, 8)):
        result = runs.results[variant, function]
        lines = result.stdout.splitlines()
        assert re.fullmatch(r"data has \d+ characters, \d+ unique\.", lines[0])
        assert lines[1].startswith(f"{function} {variant}, recipe smoke: {examples} examples")
        assert f"2 epochs, {steps} steps of 8" in lines[2]
        epochs = [line for line in lines if line.startswith("epoch ")]
        assert len(epochs) == 2
        for number, line in enumerate(epochs, 1):
            step = steps * number // 2
            assert re.match(rf"epoch {number}/2 step {step} loss \d+\.\d+ lr \S+ [\d,]+ tokens/s", line)
        assert lines[-1].startswith("done: ")
        assert lines[-1].endswith(f"{variant}.{function}.params")
        assert "Traceback" not in result.stderr


def test_parameters_are_those_that_were_trained(runs):
    """Finetuning from pretrained parameters and from scratch end differently, and far from where they started."""
    states = [
        torch.load(runs.folder / f"vanilla.{name}.params", weights_only=True)["blocks.0.mlp.0.weight"]
        for name in ("pretrain", "finetune", "model")
    ]
    pretrained, finetuned, scratch = states
    assert 0 < (finetuned - pretrained).norm() < 0.5 * pretrained.norm()
    assert (finetuned - scratch).norm() > (finetuned - pretrained).norm()


@pytest.mark.parametrize("key", [("vanilla", "dev"), ("rope", "dev"), ("vanilla", "test")])
def test_one_prediction_a_question(runs, key):
    """The predictions are one line a question, each ending in a newline, with no mask, padding or tab."""
    text = (runs.folder / ".".join((*key, "predictions"))).read_bytes().decode()
    assert text.count("\n") == 6
    assert text.endswith("\n")
    assert not set("⁇□\t\r") & set(text)


@VARIANTS
def test_printed_score(runs, variant):
    """`Correct: C out of T: P%` with floats as the course prints them, and C is what a count by hand finds."""
    lines = runs.results[variant, "dev"].stdout.splitlines()
    (score,) = [line for line in lines if line.startswith("Correct: ")]
    found = re.fullmatch(r"Correct: (\d+\.0) out of (\d+\.0): (\d+\.\d+)%", score)
    predictions = (runs.folder / f"{variant}.dev.predictions").read_text().split("\n")[:-1]
    answers = [line.split("\t")[1] for line in runs.people.unseen.splitlines()]
    correct = sum(p == a for p, a in zip(predictions, answers, strict=True))
    assert float(found[1]) == correct
    assert float(found[2]) == 6
    assert float(found[3]) == pytest.approx(100 * correct / 6, abs=1e-5)


def test_evaluation_without_answers(runs):
    """Without answers no accuracy is printed, but where the predictions are."""
    result = runs.results["vanilla", "test"]
    assert "Correct" not in result.stdout
    assert "vanilla.test.predictions" in result.stdout


def test_tensorboard_folders(runs):
    """Logs stand in expt/FUNCTION/NAME_VARIANT_pt_lr_%f_ft_lr_%f, with the flags' rates or else the recipe's."""
    rates = (RECIPES["smoke"].pretrain.learning_rate, RECIPES["smoke"].finetune.learning_rate)
    usual = "pt_lr_{:f}_ft_lr_{:f}".format(*rates)
    expt = runs.folder / "expt"
    assert sorted(os.listdir(expt)) == ["evaluate", "finetune", "pretrain"]
    assert sorted(os.listdir(expt / "pretrain")) == [f"run_rope_{usual}", f"run_vanilla_{usual}"]
    mine = "mine_vanilla_pt_lr_0.005000_ft_lr_0.001000"
    assert sorted(os.listdir(expt / "finetune")) == [mine, f"run_rope_{usual}", f"run_vanilla_{usual}"]


@VARIANTS
def test_tensorboard_of_a_training(runs, variant):
    """train/loss, lr, tokens_per_second and grad_norm have one value a step; rates are the schedule's, losses fall."""
    (folder,) = (runs.folder / "expt" / "pretrain").glob(f"run_{variant}_*")
    values = scalars(folder)
    for tag in ("train/loss", "train/lr", "train/tokens_per_second", "train/grad_norm"):
        assert [step for step, _ in values[tag]] == [1, 2, 3, 4, 5, 6], tag
        assert all(value >= 0 for _, value in values[tag])
    positions, warmup, peak = 0, 512 * 20, RECIPES["smoke"].pretrain.learning_rate
    for size, (_, rate) in zip([8, 8, 1, 8, 8, 1], values["train/lr"], strict=True):
        positions += size * 128
        assert rate == pytest.approx(peak * positions / warmup if positions < warmup else 0.0, rel=1e-5)
    losses = [value for _, value in values["train/loss"]]
    assert losses[4] < losses[0] < 5


def test_tensorboard_of_an_evaluation(runs):
    """The printed accuracy is a scalar named after the questions, in a folder named after the parameters."""
    values = scalars(runs.folder / "expt" / "evaluate" / "run_rope_rope.finetune.params")
    score = re.search(r"out of 6\.0: ([\d.]+)%", runs.results["rope", "dev"].stdout)
    ((step, accuracy),) = values["accuracy/unseen"]
    assert step == 0
    assert 100 * accuracy == pytest.approx(float(score[1]), abs=1e-3)
    folders = os.listdir(runs.folder / "expt" / "evaluate")
    assert len(folders) == 2  # the file without answers has no accuracy


def test_evaluation_repeats_and_reads_strange_files(runs, shared):
    """Evaluated again, with CRLF line ends and a byte order mark, the predictions are the same bytes."""
    shared.write("windows.tsv", "\ufeff" + runs.people.questions.replace("\n", "\r\n"))
    read = ("--reading_params_path", "vanilla.model.params", "--eval_corpus_path", "windows.tsv")
    shared.ok("evaluate", "vanilla", "corpus.txt", *read, "--outputs_path", "again")
    assert (runs.folder / "again").read_bytes() == (runs.folder / "vanilla.test.predictions").read_bytes()


def test_parameters_of_the_other_variant(runs, shared):
    """vanilla parameters given to evaluate rope: one line names both, and no predictions are written."""
    read = ("--reading_params_path", "vanilla.finetune.params", "--eval_corpus_path", "unseen.tsv")
    result = shared("evaluate", "rope", "corpus.txt", *read, "--outputs_path", "none.predictions")
    one_line(result, "vanilla.finetune.params", "vanilla", "rope")
    assert not (runs.folder / "none.predictions").exists()


# ---------------------------------------------------------------- mistakes in the command

EVALUATE = ("--reading_params_path", "p", "--eval_corpus_path", "unseen.tsv", "--outputs_path", "out")
FINETUNE = ("--writing_params_path", "p", "--finetune_corpus_path", "pairs.tsv")
PRETRAIN = ("--writing_params_path", "p")
FLAGS = {"evaluate": EVALUATE, "finetune": FINETUNE, "pretrain": PRETRAIN}


@pytest.mark.parametrize(
    "flag",
    [
        ("--max_epochs", "3"),
        ("--batch_size", "3"),
        ("--dropout", "0"),
        ("--decay_all",),
        ("--checkpoint_minutes", "1"),
        ("--recipe", "fast"),
        ("--resume",),
    ],
)
def test_flag_without_a_use_is_refused(program, flag):
    """evaluate refuses each flag of training by its name."""
    one_line(program("evaluate", "vanilla", "corpus.txt", *EVALUATE, *flag), f"{flag[0]}:", "evaluate")


@pytest.mark.parametrize(
    "function, flag",
    [(function, flag) for function, flags in FLAGS.items() for flag in flags[::2]],
)
def test_missing_flag_is_named(program, function, flag):
    """What a function needs and was not given is named."""
    place = FLAGS[function].index(flag)
    rest = FLAGS[function][:place] + FLAGS[function][place + 2 :]
    one_line(program(function, "rope", "corpus.txt", *rest), f"{function} needs {flag}")


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--max_epochs", "0"),
        ("--batch_size", "-1"),
        ("--dropout", "1"),
        ("--pretrain_lr", "0"),
        ("--pretrain_lr", "nan"),
        ("--finetune_lr", "inf"),
        ("--checkpoint_minutes", "0"),
        ("--seed", "-1"),
    ],
)
def test_value_out_of_range_is_named(program, flag, value):
    """A number that makes no sense is refused with its flag."""
    one_line(program("pretrain", "rope", "corpus.txt", *PRETRAIN, f"{flag}={value}"), flag)


@pytest.mark.parametrize(
    "words, says",
    [
        (("pretrain", "rope", "c", *PRETRAIN, "--learning_rate", "1"), "--learning_rate"),
        (("pretrain", "rope", "c", *PRETRAIN, "--max_ep", "1"), "--max_ep"),
        (("pretrain", "rope", "c", *PRETRAIN, "--batch_size", "many"), "--batch_size"),
        (("pretrain", "rope", "c", *PRETRAIN, "--recipe", "secret"), "--recipe"),
        (("pretrain", "transformer", "c", *PRETRAIN), "transformer"),
        (("train", "rope", "c", *PRETRAIN), "train"),
        (("pretrain", "rope"), "pretrain_corpus_path"),
    ],
)
def test_unknown_words_are_refused(program, words, says):
    """Unknown flags, abbreviations, choices and missing words end with exit code 2 and are named."""
    result = program(*words)
    assert result.code == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("output", ["no/such/folder/out", "pairs.tsv/out", "."])
@pytest.mark.parametrize("function", ["pretrain", "finetune", "evaluate"])
def test_unwritable_output_is_refused_at_once(program, function, output):
    """An output that cannot be written is refused by name before anything else is looked at."""
    program.write("pairs.tsv", "a?\tb\n")
    flags = ("--outputs_path", output) if function == "evaluate" else ("--writing_params_path", output)
    one_line(program(function, "rope", "missing.txt", *FLAGS[function], *flags), f"error: {output}:")


def test_missing_and_bad_files_are_named(program):
    """A missing corpus, pairs with a bad line, missing questions and missing parameters: one line each, exit code 2."""
    program.people(invent_people(8, 3))
    one_line(program("pretrain", "vanilla", "none.txt", *PRETRAIN), "none.txt: no such file")
    program.write("bad.tsv", "Where was Ada born?\tX\nno tab here\n")
    bad = ("--writing_params_path", "p", "--finetune_corpus_path", "bad.tsv")
    one_line(program("finetune", "vanilla", "corpus.txt", *bad), "bad.tsv, line")
    out = ("--outputs_path", "out")
    words = ("--reading_params_path", "p", "--eval_corpus_path", "none.tsv", *out)
    one_line(program("evaluate", "vanilla", "corpus.txt", *words), "none.tsv: no such file")
    words = ("--reading_params_path", "none.params", "--eval_corpus_path", "unseen.tsv", *out)
    one_line(program("evaluate", "vanilla", "corpus.txt", *words), "none.params: no such")
    assert not (program.folder / "out").exists()
    assert not (program.folder / "p").exists()


def test_help_is_quick(program):
    """--help takes under a second of CPU, without torch, and names every flag."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = program.ok("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    flags = "reading_params_path writing_params_path finetune_corpus_path eval_corpus_path outputs_path pretrain_lr"
    for flag in (*flags.split(), "finetune_lr", "tb_expt_name", "resume", "recipe", "seed"):
        assert f"--{flag}" in result.stdout
    watch = (
        "import runpy, sys\nsys.argv = ['run.py', *{words}]\n"
        "try: runpy.run_path({path!r}, run_name='__main__')\n"
        "except SystemExit as end: print('exit', end.code, 'torch' in sys.modules)"
    )
    for words, code in ((["--help"], 0), (["evaluate", "rope", "c", "--outputs_path", "o"], 2)):
        script = watch.format(words=words, path=str(SRC / "run.py"))
        environment = program.environment() | {"PYTHONPATH": str(SRC)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"exit {code} False"


# ---------------------------------------------------------------- the handout's commands and numbers


def handout_commands() -> list[tuple[str, ...]]:
    """The twelve commands of parts (d), (f) and (g)."""
    vanilla, rope, dev, test = "vanilla", "rope", "birth_dev.tsv", "birth_test_inputs.tsv"

    def finetune(v, write, *read):
        pairs = ("--finetune_corpus_path", "birth_places_train.tsv")
        return ("finetune", v, "wiki.txt", *read, "--writing_params_path", write, *pairs)

    def evaluate(v, read, questions, out):
        words = ("--reading_params_path", read, "--eval_corpus_path", questions, "--outputs_path", out)
        return ("evaluate", v, "wiki.txt", *words)

    commands = [
        finetune(vanilla, "vanilla.model.params"),
        evaluate(vanilla, "vanilla.model.params", dev, "vanilla.nopretrain.dev.predictions"),
        evaluate(vanilla, "vanilla.model.params", test, "vanilla.nopretrain.test.predictions"),
    ]
    for v in (vanilla, rope):
        commands += [
            ("pretrain", v, "wiki.txt", "--writing_params_path", f"{v}.pretrain.params"),
            finetune(v, f"{v}.finetune.params", "--reading_params_path", f"{v}.pretrain.params"),
            evaluate(v, f"{v}.finetune.params", dev, f"{v}.pretrain.dev.predictions"),
            evaluate(v, f"{v}.finetune.params", test, f"{v}.pretrain.test.predictions"),
        ]
    return commands


def test_handout_commands_are_accepted(tmp_path, monkeypatch):
    """The commands of parts (d), (f) and (g) parse, pass every check, and have the handout's hyperparameters."""
    monkeypatch.chdir(tmp_path)
    found = []
    for command in handout_commands():
        args = run.build_parser().parse_args(command)
        run.check_args(args)
        if args.function != "evaluate":
            phase = run.choose_phase(args)
            assert (phase.dropout, phase.muon_lr, phase.decay_shape) == (0.1, 0.0, "cosine")
            numbers = (phase.max_epochs, phase.batch_size, phase.learning_rate, phase.decay_epochs)
            found.append((args.function, bool(args.reading_params_path), *numbers))
    pretrain, finetune = ("pretrain", False, 650, 128, 6e-3), ("finetune", True, 10, 256, 6e-4, 200)
    assert found[0] == ("finetune", False, 75, 256, 6e-4, 200)
    assert [f[:5] for f in found[1::2]] == [pretrain, pretrain]
    assert found[2::2] == [finetune, finetune]
    assert all(f[5] in (None, 650) for f in found[1::2])  # the end of the run, or 650 passes: the same
    assert RECIPES["handout"].corruption == {}


def test_flags_override_the_recipe():
    """Flags stand above the recipe; --pretrain_lr is for pretraining and --finetune_lr for finetuning."""
    flags = ("--recipe", "fast", "--max_epochs", "7", "--batch_size", "5", "--dropout", "0.25")
    rates = ("--pretrain_lr", "0.5", "--finetune_lr", "0.25")
    for function, rate in (("pretrain", 0.5), ("finetune", 0.25)):
        args = run.build_parser().parse_args((function, "rope", "c", *FLAGS[function], *flags, *rates))
        phase = run.choose_phase(args)
        assert (phase.max_epochs, phase.batch_size, phase.dropout, phase.learning_rate) == (7, 5, 0.25, rate)
        assert phase.decay_all is False
        args.decay_all = True
        assert run.choose_phase(args).decay_all is True
        assert phase.muon_lr == getattr(RECIPES["fast"], "scratch" if function == "finetune" else function).muon_lr


def test_london_baseline(program):
    """One London among 20 people is 5.0 %: printed in the course's line and written to its file."""
    program.write("birth_dev.tsv", "".join(f"Who {i}?\t{'London' if i == 7 else 'Paris'}\n" for i in range(20)))
    result = program.ok(script="london_baseline.py")
    assert result.stdout == "Correct: 1.0 out of 20.0: 5.0%\n"
    assert (program.folder / "london_baseline_accuracy.txt").read_text().strip() == "5.0"
    (program.folder / "birth_dev.tsv").unlink()
    one_line(program(script="london_baseline.py"), "birth_dev.tsv")


@pytest.mark.parametrize("kind, width", [("namedata", 127), ("charcorruption", 128)])
def test_examples_of_the_datasets(program, kind, width):
    """dataset.py prints the corpus's line and four pairs of x and y; y is x one later, but for a question's PADs."""
    people = invent_people(12, 3)
    program.write("wiki.txt", people.corpus)
    program.write("birth_places_train.tsv", people.pairs)
    result = program.ok(kind, script="dataset.py")
    lines = [line for line in result.stdout.split("\n") if line]
    assert lines[0] == f"data has {len(people.corpus)} characters, {len(set(people.corpus)) + 2} unique."
    assert [line[:3] for line in lines[1:]] == ["x: ", "y: "] * 4
    for number, (x, y) in enumerate(zip(lines[1::2], lines[2::2], strict=True)):
        x, y = x[3:], y[3:]
        assert (len(x), len(y)) == (width, width)
        if kind == "namedata":
            question, place = people.pairs.splitlines()[number].split("\t")
            assert x.rstrip("□") == f"{question}⁇{place}⁇"
            assert y.strip("□") == f"⁇{place}⁇"
        else:
            prefix, suffix, span, end = x.split("⁇")
            assert (prefix + span + suffix) in people.corpus.splitlines()[number]
            assert set(end) == {"□"}
            assert y == x[1:] + "□"
    assert "invalid choice" in program("other", script="dataset.py").stderr


# ---------------------------------------------------------------- answers


def answers_of(monkeypatch, emitted: list[str], questions: list[str], corpus: str = "ab c\td\r\n?") -> list[str]:
    """run.answer with a model that emits these texts."""
    data = CharCorruptionDataset(corpus, 16)
    monkeypatch.setattr(utils, "generate", lambda *a, **k: [[data.stoi[c] for c in text] for text in emitted])
    model = SimpleNamespace(head=SimpleNamespace(weight=torch.zeros(1)))
    return run.answer(model, data, questions, "q.tsv", "float32")


def test_an_answer_is_one_line_whatever_is_emitted(monkeypatch):
    """An answer ends at the mask; newlines and tabs in it become spaces; without a mask it is all of it."""
    emitted = ["ab⁇", "a\nb⁇cd", "a\t\r\nb", "⁇ab", "ab c"]
    assert answers_of(monkeypatch, emitted, ["a?"] * 5) == ["ab", "a b", "a b", "", "ab c"]


def test_question_with_unknown_characters(monkeypatch, capsys):
    """Characters that the corpus lacks are left out of a question, and one line says how many questions had some.

    In the course's code such a name ends the evaluation with a KeyError.
    """
    asked = []
    data = CharCorruptionDataset("abc?", 16)
    monkeypatch.setattr(utils, "generate", lambda m, prompts, *a, **k: asked.extend(prompts) or [[] for _ in prompts])
    model = SimpleNamespace(head=SimpleNamespace(weight=torch.zeros(1)))
    capsys.readouterr()
    run.answer(model, data, ["aéb?", "ab?", "ßc?"], "q.tsv", "float32")
    assert ["".join(data.itos[int(t)] for t in p) for p in asked] == ["ab?⁇", "ab?⁇", "c?⁇"]
    said = capsys.readouterr().out
    assert said.startswith("q.tsv: 2 questions")
    assert said.count("\n") == 1


def test_question_that_does_not_fit(monkeypatch):
    """A question of block_size - 1 characters fits with its mask; one more is refused with file and line."""
    assert answers_of(monkeypatch, ["a", "b"], ["a?", "a" * 15]) == ["a", "b"]
    with pytest.raises(UserError, match=r"^q\.tsv, line 2"):
        answers_of(monkeypatch, [], ["a?", "a" * 16])


# ---------------------------------------------------------------- interruptions

# 9 documents, 3 steps an epoch, 48 steps, with dropout: every source of random numbers is in use.
LONG = ("--recipe", "smoke", "--batch_size", "4", "--max_epochs", "16", "--dropout", "0.1")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> SimpleNamespace:
    """A run to the end: the parameters that every interrupted one has to reach."""
    program = Program(tmp_path_factory.mktemp("uninterrupted"))
    program.people(invent_people(8, 3))
    program.ok("pretrain", "rope", "corpus.txt", *LONG, "--writing_params_path", "p")
    return SimpleNamespace(params=torch.load(program.folder / "p", weights_only=True))


def reached(folder: Path, wanted: dict[str, torch.Tensor]) -> bool:
    """The parameters in the folder are those, bit for bit."""
    got = torch.load(folder / "p", weights_only=True)
    return got.keys() == wanted.keys() and all(torch.equal(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_resumed(program, uninterrupted, number):
    """Ctrl-C or SIGTERM writes a checkpoint and says how to go on; --resume ends with the same bits as without."""
    program.people(invent_people(8, 3))
    words = ("pretrain", "rope", "corpus.txt", *LONG, "--writing_params_path", "p")
    stopped = program.interrupt(*words, number=number, when=lambda out: "epoch 3/" in out)
    assert stopped.code == 130, stopped
    assert "Traceback" not in stopped.stderr
    assert "--resume" in stopped.stderr
    assert (program.folder / "p.checkpoint").exists()
    assert not (program.folder / "p").exists()
    step = int(re.search(r"stopped at step (\d+)", stopped.stderr)[1])
    assert 9 <= step < 48
    resumed = program.ok(*words, "--resume")
    assert f"resuming at step {step} of 48" in resumed.stdout
    assert reached(program.folder, uninterrupted.params)
    assert not (program.folder / "p.checkpoint").exists()


def test_checkpoint_of_another_run_is_refused(program):
    """--resume with another seed names the setting and both values, and leaves the checkpoint alone."""
    program.people(invent_people(8, 3))
    words = ("pretrain", "rope", "corpus.txt", *LONG, "--writing_params_path", "p")
    program.interrupt(*words, number=signal.SIGINT, when=lambda out: "epoch 1/" in out)
    before = (program.folder / "p.checkpoint").read_bytes()
    one_line(program(*words, "--resume", "--seed", "5"), "p.checkpoint", "seed = 0", "5")
    assert (program.folder / "p.checkpoint").read_bytes() == before


def test_killed_run_is_resumed(program, uninterrupted):
    """Killed twice at random moments, with a checkpoint nearly every step, --resume still reaches the same bits."""
    program.people(invent_people(8, 3))
    rng = random.Random()
    words = ("pretrain", "rope", "corpus.txt", *LONG, "--writing_params_path", "p")
    words = (*words, "--checkpoint_minutes", "0.001", "--resume")
    for _ in range(2):
        wait, since = rng.uniform(0.0, 1.0), []

        def due(out: str, wait: float = wait, since: list = since) -> bool:
            if not since and "writes p" in out and (program.folder / "p.checkpoint").exists():
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] >= wait

        assert program.interrupt(*words, number=signal.SIGKILL, when=due).code == -signal.SIGKILL
        assert not (program.folder / "p").exists()
    resumed = program.ok(*words)
    assert re.search(r"resuming at step [1-9]\d* of 48", resumed.stdout)
    assert reached(program.folder, uninterrupted.params)
    assert not (program.folder / "p.checkpoint").exists()


# ---------------------------------------------------------------- the point of it all


def test_pretraining_gives_knowledge(program):
    """60 invented people, 20 of whom finetuning never shows: pretraining answers at least 8 of them, else at most 2.

    The 20 come from 20 different places, so that the same answer to everyone is right once.
    """
    people = invent_people(60, 20)
    program.people(people)
    smoke = ("--recipe", "smoke")
    pretrain = ("--batch_size", "8", "--max_epochs", "50", "--writing_params_path", "pre")
    program.ok("pretrain", "rope", "corpus.txt", *smoke, *pretrain)
    scores = {}
    for name, read in (("with", ("--reading_params_path", "pre")), ("without", ())):
        pairs = ("--finetune_corpus_path", "pairs.tsv", "--writing_params_path", name)
        program.ok("finetune", "rope", "corpus.txt", *smoke, *read, *pairs)
        questions = ("--eval_corpus_path", "unseen.tsv", "--outputs_path", f"{name}.predictions")
        result = program.ok("evaluate", "rope", "corpus.txt", "--reading_params_path", name, *questions)
        scores[name] = float(re.search(r"Correct: ([\d.]+) out of 20\.0", result.stdout)[1])
    assert scores["with"] >= 8
    assert scores["without"] <= 2

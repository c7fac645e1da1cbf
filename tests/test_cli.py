"""The handout's commands from end to end: lines, files and logs; hyperparameters; sizes; one proof that it works."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run
from engine import session
from engine.recipes import RECIPES
from helpers import SRC, Program, Result, invent_people
from model import GPTConfig
from reference import contract_shapes
from trainer import Trainer

PARTS_D_AND_F = r"""
python src/run.py finetune vanilla wiki.txt \
    --writing_params_path vanilla.model.params --finetune_corpus_path birth_places_train.tsv
python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.model.params \
    --eval_corpus_path birth_dev.tsv --outputs_path vanilla.nopretrain.dev.predictions
python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.model.params \
    --eval_corpus_path birth_test_inputs.tsv --outputs_path vanilla.nopretrain.test.predictions
python src/run.py pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params
python src/run.py finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params \
    --writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv
python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params \
    --eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions
python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params \
    --eval_corpus_path birth_test_inputs.tsv --outputs_path vanilla.pretrain.test.predictions
"""
LINES = PARTS_D_AND_F.replace("\\\n", "").strip().split("\n")
PRINTED = LINES + [line.replace("vanilla", "rope") for line in LINES[3:]]  # part (g) is part (f) with rope
FILES = ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv")
COMMANDS = [line.split()[2:] for line in PRINTED]
SHORT = [[*words, *["--max_epochs", "2", "--batch_size", "8"] * (words[0] != "evaluate")] for words in COMMANDS]

# Runs commands in a process that lacks what Windows lacks, and prints how each ended.
ON_WINDOWS = """
import contextlib, io, json, os, signal, sys, time, warnings
import numpy, torch, tqdm, torch.utils.tensorboard  # they know Windows themselves

kept = "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN".split()
gone = '''chown chroot confstr fchmod fchown fdatasync fork forkpty fpathconf fstatvfs getegid geteuid getgid getgroups
    getloadavg getpgid getpriority getsid getuid getxattr killpg lchown mkfifo nice openpty pathconf posix_fadvise
    posix_fallocate pread pwrite sched_getaffinity sendfile setsid setxattr statvfs sync sysconf ttyname uname wait3
    wait4 waitid O_CLOEXEC O_DIRECTORY O_NOFOLLOW alarm pause pthread_kill setitimer sigwait tzset'''.split()
for module in (os, signal, time):
    for name in list(vars(module)):
        if name in gone or (name.startswith("SIG") and name not in kept):
            delattr(module, name)
sys.modules |= dict.fromkeys("crypt fcntl grp posix pty pwd resource syslog termios tty".split())
replace, unlink, chmod = os.replace, os.unlink, os.chmod


def refuse_open(*paths):
    there = "/proc/self/fd/"
    used = {os.path.realpath(there + number) for number in (os.listdir(there) if os.path.isdir(there) else ())}
    if used & set(map(os.path.realpath, paths)):
        raise PermissionError(13, "The process cannot access the file", paths[0])


os.replace = os.rename = lambda one, other: (refuse_open(one, other), replace(one, other))
os.unlink = os.remove = lambda path: (refuse_open(path), unlink(path))
os.umask, os.chmod = lambda mask: 0, lambda path, mode: chmod(path, 0o666 if mode & 0o200 else 0o444)
warnings.filterwarnings("error", category=EncodingWarning)  # text files are not UTF-8 there unless one says so
import run, utils

results = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = utils.cli(lambda: run.main(words))
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars of a run: (step, value) by tag."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def runs(shared: Program) -> SimpleNamespace:
    """The twelve commands on a few people: how each ended, by the name of the file that it wrote."""
    people = invent_people(16, 6)
    texts = (people.corpus, people.pairs, people.unseen, people.questions)
    for name, text in zip(FILES, texts, strict=True):
        shared.write(name, text)
    words = [sys.executable, "-X", "warn_default_encoding", "-c", ON_WINDOWS, json.dumps(SHORT)]
    environment = Program.environment() | {"PYTHONPATH": str(SRC), "PYTHONHASHSEED": "1"}
    done = subprocess.run(words, cwd=shared.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [Result(*result) for result in json.loads(done.stdout)]
    assert all((result.code, result.stderr) == (0, "") for result in found), found
    written = [next(word for word in reversed(words) if word.endswith(("params", "predictions"))) for words in COMMANDS]
    return SimpleNamespace(results=dict(zip(written, found, strict=True)), folder=shared.folder, people=people)


VARIANTS = pytest.mark.parametrize("variant", ["vanilla", "rope"])


@VARIANTS
def test_files_of_a_run(runs, variant):
    """The contract's names and shapes at the homework's size, no scraps; finetuning moves what it starts from."""
    vocabulary = len(set(runs.people.corpus)) + 2
    shapes = contract_shapes(GPTConfig(vocabulary, 128, n_layer=4, n_head=8, n_embd=256, rope=variant == "rope"))
    names = [f"{variant}.pretrain.params", f"{variant}.finetune.params", "vanilla.model.params"]
    pretrained, finetuned, scratch = (torch.load(runs.folder / name, weights_only=True) for name in names)
    for state in (pretrained, finetuned):
        assert {key: tuple(value.shape) for key, value in state.items()} == shapes
    assert [name for name in os.listdir(runs.folder) if name.endswith((".tmp", ".checkpoint"))] == []
    a, b, c = (state["blocks.0.mlp.0.weight"] for state in (pretrained, finetuned, scratch))
    assert 0 < (b - a).norm() < 0.5 * a.norm()
    assert (b - c).norm() > (b - a).norm()


@pytest.mark.parametrize("model", ["vanilla.model", "vanilla.pretrain", "vanilla.finetune", "rope.finetune"])
def test_lines_of_a_training(runs, model):
    """A training prints the corpus's line, what it is going to do, a line an epoch, and its end."""
    variant, name = model.split(".")
    function, examples, steps = ("pretrain", 17, 6) if name == "pretrain" else ("finetune", 10, 4)
    lines = runs.results[f"{model}.params"].stdout.splitlines()
    assert re.fullmatch(r"data has \d+ characters, \d+ unique\.", lines[0])
    assert lines[1].startswith(f"{function} {variant}, recipe handout: {examples} examples")
    assert f"2 epochs, {steps} steps of 8" in lines[2]
    epochs = [line for line in lines if line.startswith("epoch ")]
    for number, line in enumerate(epochs, 1):
        step = steps * number // 2
        assert re.match(rf"epoch {number}/2 step {step} loss \d+\.\d+ lr \S+ [\d,]+ tokens/s", line)
    assert len(epochs) == 2
    assert re.fullmatch(rf"done: .*{model}\.params", lines[-1])


@pytest.mark.parametrize("model", ["vanilla.nopretrain", "vanilla.pretrain", "rope.pretrain"])
def test_predictions_and_printed_score(runs, model):
    """A clean line a question; `Correct: C out of T: P%`, C as counted; without answers, where predictions are."""
    predictions = [(runs.folder / f"{model}.{part}.predictions").read_bytes().decode() for part in ("dev", "test")]
    for text in predictions:
        assert text.count("\n") == 6 and text.endswith("\n")
        assert not set("⁇□\t\r") & set(text)
    (score,) = re.findall("^Correct: .*$", runs.results[f"{model}.dev.predictions"].stdout, re.M)
    found = re.fullmatch(r"Correct: (\d+\.0) out of (\d+\.0): (\d+\.\d+)%", score)
    answers = [line.split("\t")[1] for line in runs.people.unseen.splitlines()]
    correct = sum(p == a for p, a in zip(predictions[0].split("\n")[:-1], answers, strict=True))
    assert [float(number) for number in found.groups()] == [correct, 6, pytest.approx(100 * correct / 6, abs=1e-5)]
    said = runs.results[f"{model}.test.predictions"].stdout
    assert "Correct" not in said and f"{model}.test.predictions" in said


def test_tensorboard_folders(runs):
    """Their names are the contract's; an evaluation's holds the accuracy that it printed, if there was one."""
    expt, rates = runs.folder / "expt", "pt_lr_0.006000_ft_lr_0.000600"
    trained = [f"run_rope_{rates}", f"run_vanilla_{rates}"]
    names = ("rope_rope.finetune", "vanilla_vanilla.finetune", "vanilla_vanilla.model")
    evaluated = [f"run_{name}.params" for name in names]
    found = {function: sorted(os.listdir(expt / function)) for function in os.listdir(expt)}
    assert found == {"pretrain": trained, "finetune": trained, "evaluate": evaluated}
    printed = re.search(r"out of 6\.0: ([\d.]+)%", runs.results["rope.pretrain.dev.predictions"].stdout)[1]
    values = scalars(expt / "evaluate" / evaluated[0])
    assert values == {"accuracy/birth_dev": [(0, pytest.approx(float(printed) / 100, abs=1e-5))]}


@VARIANTS
def test_tensorboard_of_a_training(runs, variant):
    """train/loss, lr, tokens_per_second and grad_norm have one value a step; rates are the schedule's, losses fall."""
    (folder,) = (runs.folder / "expt" / "pretrain").glob(f"run_{variant}_*")
    values = scalars(folder)
    for tag in ("train/loss", "train/lr", "train/tokens_per_second", "train/grad_norm"):
        assert [step for step, _ in values[tag]] == [1, 2, 3, 4, 5, 6], tag
        assert all(value > 0 for _, value in values[tag])
    positions = torch.tensor([8, 8, 1, 8, 8, 1]).cumsum(0) * 128
    rates = [value for _, value in values["train/lr"]]
    assert rates == pytest.approx((6e-3 * positions / (512 * 20)).tolist(), rel=1e-5)
    losses = [value for _, value in values["train/loss"]]
    assert losses[4] < losses[0] < 5


def test_same_seed_same_bits(runs, monkeypatch, tmp_path):
    """The same bits as in another process, which hashes otherwise, whatever was drawn before; another seed's differ."""
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).symlink_to(runs.folder / name)
    torch.rand(7), np.random.rand(7), random.random()
    for words in [*SHORT[7:10], [*SHORT[7], "--seed", "6", "--writing_params_path", "other"]]:
        run.main(words)
    name = "rope.pretrain.dev.predictions"
    assert Path(name).read_bytes() == (runs.folder / name).read_bytes()
    for name in ("rope.finetune.params", "rope.pretrain.params"):
        here, there = (torch.load(folder / name, weights_only=True) for folder in (tmp_path, runs.folder))
        assert here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)
    name = "tok_emb.weight"
    assert not torch.equal(torch.load("other", weights_only=True)[name], here[name])


@pytest.fixture
def trainer_of(runs, monkeypatch) -> Callable[[list[str]], tuple[Trainer, str]]:
    """The trainer that a command makes, which does not start, and the folder of its log."""
    monkeypatch.chdir(runs.folder)
    monkeypatch.setattr(session, "run", stop := Mock(side_effect=InterruptedError))

    def make(words):
        with pytest.raises(InterruptedError):
            run.main(words)
        args, trainer, *_ = stop.call_args[0]
        return trainer, session.log_folder(args)

    return make


def test_hyperparameters_of_the_handout(trainer_of):
    """The commands as printed train with the numbers of the handout; tokens are positions of 17 documents."""
    passes = 17 * 128
    pretrain, finetune = (650, 128, 6e-3, 650 * passes), (10, 256, 6e-4, 200 * passes)
    trainings = [words for words in COMMANDS if words[0] != "evaluate"]
    for words, numbers in zip(trainings, ((75, *finetune[1:]), *(pretrain, finetune) * 2), strict=True):
        trainer, _ = trainer_of(words)
        c, model = trainer.config, trainer.model
        assert (c.max_epochs, c.batch_size, c.learning_rate, c.final_tokens) == numbers
        assert (c.warmup_tokens, c.lr_decay, c.decay_shape, c.betas) == (512 * 20, True, "cosine", (0.9, 0.95))
        assert (c.weight_decay, c.grad_norm_clip, c.seed) == (0.1, 1.0, 0)
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
        assert [type(optimizer) for optimizer in trainer.optimizers] == [torch.optim.AdamW]
        assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.0]
        name = "CharCorruptionDataset" if words[0] == "pretrain" else "NameDataset"
        assert type(trainer.train_dataset).__name__ == name


def test_flags_override_the_recipe(trainer_of):
    """Flags stand above the recipe; --pretrain_lr is for pretraining and --finetune_lr for finetuning."""
    flags = "--recipe fast --max_epochs 7 --batch_size 5 --dropout 0.25 --pretrain_lr 0.5 --finetune_lr 0.25"
    for words, rate, phase in ((COMMANDS[3], 0.5, "pretrain"), (COMMANDS[0], 0.25, "scratch")):
        trainer, _ = trainer_of([*words, *flags.split()])
        assert (trainer.config.max_epochs, trainer.config.batch_size, trainer.config.learning_rate) == (7, 5, rate)
        assert trainer.model.drop.p == 0.25
        assert trainer.optimizers[1].param_groups[0]["lr"] == getattr(RECIPES["fast"], phase).muon_lr


@pytest.mark.parametrize("recipe", RECIPES)
def test_rate_in_the_name_of_the_log(trainer_of, recipe):
    """The folder's name has the training's rate. Bug: from scratch it had that of finetuning what was pretrained."""
    for number, phase, usual in ((0, "scratch", 6e-4), (3, "pretrain", 6e-3), (4, "finetune", 6e-4)):
        trainer, folder = trainer_of([*COMMANDS[number], "--recipe", recipe])
        rate = getattr(RECIPES[recipe], phase).learning_rate or usual
        assert trainer.config.learning_rate == rate and f"_{'pt' if number == 3 else 'ft'}_lr_{rate:f}" in folder


def test_london_baseline_and_exit_codes(program):
    """One London among 20 is 5.0 %, printed and written; a missing file is exit code 2 and one line on stderr."""
    program.write("birth_dev.tsv", "".join(f"Who {i}?\t{'London' if i == 7 else 'Paris'}\n" for i in range(20)))
    assert program.ok(script="london_baseline.py").stdout == "Correct: 1.0 out of 20.0: 5.0%\n"
    assert (program.folder / "london_baseline_accuracy.txt").read_text().strip() == "5.0"
    (program.folder / "birth_dev.tsv").unlink()
    for words, script, missing in (((), "london_baseline.py", "birth_dev.tsv"), (COMMANDS[3], "run.py", "wiki.txt")):
        result = program(*words, script=script)
        assert result.code == 2
        assert re.fullmatch(rf"error: {missing}: [^\n]+\n", result.stderr)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("kind", ["namedata", "charcorruption"])
def test_examples_of_the_datasets(program, monkeypatch, kind, encoding):
    """Four pairs x and y; y is x one later, but for a question's PADs.

    Bug: a console that lacks the mask (Windows: cp1252) got a traceback; it gets the mask's number.
    """
    people = invent_people(12, 3)
    program.write("wiki.txt", people.corpus)
    program.write("birth_places_train.tsv", people.pairs)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    said = program.ok(kind, script="dataset.py").stdout
    assert ("\\u2047" in said) == said.isascii() == (encoding == "cp1252")
    head, *lines = filter(None, said.replace("\\u2047", "⁇").replace("\\u25a1", "□").split("\n"))
    assert head == f"data has {len(people.corpus)} characters, {len(set(people.corpus)) + 2} unique."
    assert [line[:3] for line in lines] == ["x: ", "y: "] * 4
    for number, (x, y) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
        question, place = people.pairs.splitlines()[number].split("\t")
        if kind == "namedata":
            assert x[3:] == f"{question}⁇{place}⁇".ljust(127, "□")
            assert y[3:] == ("□" * (len(question) - 1) + f"⁇{place}⁇").ljust(127, "□")
        else:
            prefix, suffix, span, end = x[3:].split("⁇")
            assert prefix + span + suffix in people.corpus.splitlines()[number]
            assert (len(x), set(end), y[3:]) == (131, {"□"}, x[4:] + "□")


def test_pretraining_gives_knowledge(program, monkeypatch, capsys):
    """60 invented people, 20 of whom finetuning never shows: pretraining answers at least 8 of them, else at most 2.

    The 20 come from 20 places, so that one answer to everyone is right once. Finetuning sees the documents as well.
    """
    monkeypatch.chdir(program.folder)
    program.people(invent_people(60, 20))

    def said(words: str) -> str:
        assert run.main([*words.split(), "--device", "cpu"]) == 0
        return capsys.readouterr().out

    smoke, size = "rope corpus.txt --recipe smoke", "--n_layer 2 --n_embd 128"
    said(f"pretrain {smoke} {size} --batch_size 8 --max_epochs 50 --writing_params_path pre")
    scores = {}
    for name, more, examples in (("with", "--reading_params_path pre", 101), ("without", size, 40)):
        words = f"finetune {smoke} {more} --finetune_corpus_path pairs.tsv --writing_params_path {name}"
        assert f"finetune rope, recipe smoke: {examples} examples" in said(words)
        words = (
            f"evaluate rope corpus.txt --eval_corpus_path unseen.tsv --reading_params_path {name} --outputs_path out"
        )
        scores[name] = float(re.search(r"Correct: ([\d.]+) out of 20\.0", said(words))[1])
    assert scores["with"] >= 8 and scores["without"] <= 2

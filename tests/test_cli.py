"""The handout's commands from end to end: output, files, logs, hyperparameters, answers, and one proof of learning."""

import json
import os
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import run
from dataset import CharCorruptionDataset
from engine import options
from engine.recipes import RECIPES
from helpers import DATA_FILES, SRC, Program, Result, invent_people, same, scalars, tiny_model, write_data
from model import GPT, GPTConfig
from reference import contract_shapes
from trainer import Trainer
from utils import MASK_CHAR, UserError

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
COMMANDS = [line.split()[2:] for line in PRINTED]
SHORT = [[*words, *["--max_epochs", "2", "--batch_size", "8"] * (words[0] != "evaluate")] for words in COMMANDS]

FOLDERS = ("src", "scripts", "corpus", "experiments", "report")
PROGRAMS = [
    path for name in FOLDERS for path in sorted((SRC.parent / name).glob("*.py")) if "__main__" in path.read_text()
]

# Runs commands without the modules, functions and signals that Windows lacks, and prints how each command ended.
ON_WINDOWS = """
import contextlib, io, json, os, signal, sys, warnings
import numpy, torch, tqdm, torch.utils.tensorboard  # these support Windows

kept = "SIGABRT SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN".split()
gone = [name for name in vars(signal) if name.startswith("SIG") and name not in kept]
gone += "fork getuid mkfifo nice killpg sched_getaffinity sync sysconf uname O_DIRECTORY alarm setitimer".split()
for module in (os, signal):
    for name in {*gone} & {*vars(module)}:
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
warnings.filterwarnings("error", category=EncodingWarning)  # the default encoding there is not UTF-8
import run, utils

results = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = utils.cli(lambda: run.main(words))
    results.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def runs(shared: Program) -> SimpleNamespace:
    """The twelve commands on a few people; their results by the name of the file that each wrote."""
    people = invent_people(16, 6)
    write_data(shared.folder, people)
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
    """Parameter files have the contract's names and shapes; no temporary file is left; finetuning changes its start."""
    vocabulary = len(set(runs.people.corpus)) + 2
    config = GPTConfig(vocabulary, 128, n_layer=4, n_head=8, n_embd=256, rope=variant == "rope")
    names = [f"{variant}.pretrain.params", f"{variant}.finetune.params", "vanilla.model.params"]
    pretrained, finetuned, scratch = (torch.load(runs.folder / name, weights_only=True) for name in names)
    for state in (pretrained, finetuned):
        assert {key: tuple(value.shape) for key, value in state.items()} == contract_shapes(config)
        GPT(config).load_state_dict(state, strict=True)
    assert [name for name in os.listdir(runs.folder) if name.endswith((".tmp", ".checkpoint"))] == []
    a, b, c = (state["blocks.0.mlp.0.weight"] for state in (pretrained, finetuned, scratch))
    assert 0 < (b - a).norm() < 0.5 * a.norm()
    assert (b - c).norm() > (b - a).norm()


@pytest.mark.parametrize("model", ["vanilla.nopretrain", "vanilla.pretrain", "rope.pretrain"])
def test_predictions_and_printed_score(runs, model):
    """One clean line per question, and `Correct: C out of T: P%`, or without answers where the predictions are."""
    predictions = [(runs.folder / f"{model}.{part}.predictions").read_bytes().decode() for part in ("dev", "test")]
    for text in predictions:
        assert text.count("\n") == 6 and text.endswith("\n")
        assert not set("⁇□\t\r") & set(text)
    answers = [line.split("\t")[1] for line in runs.people.unseen.splitlines()]
    correct = sum(p == a for p, a in zip(predictions[0].split("\n")[:-1], answers, strict=True))
    score = f"Correct: {correct}.0 out of 6.0: {round(100 * correct / 6, 6)}%"
    assert score in runs.results[f"{model}.dev.predictions"].stdout.splitlines()
    said = runs.results[f"{model}.test.predictions"].stdout
    assert "Correct" not in said and f"{model}.test.predictions" in said


@VARIANTS
def test_tensorboard_of_a_training(runs, variant):
    """train/loss, lr, tokens_per_second and grad_norm have a value per step.

    The folders' names are the contract's; evaluations log nothing.
    """
    names = [f"run_{variant}_pt_lr_0.006000_ft_lr_0.000600" for variant in ("rope", "vanilla")]
    found = {folder.name: sorted(os.listdir(folder)) for folder in (runs.folder / "expt").iterdir()}
    assert found == {"pretrain": names, "finetune": names}
    (folder,) = (runs.folder / "expt" / "pretrain").glob(f"run_{variant}_*")
    values = scalars(folder)
    for tag in ("train/loss", "train/lr", "train/tokens_per_second", "train/grad_norm"):
        assert [step for step, _ in values[tag]] == [1, 2, 3, 4, 5, 6], tag
        assert all(value > 0 for _, value in values[tag])


def test_same_seed_same_bits(runs, monkeypatch, tmp_path):
    """A process with other hashes and random states gives the same parameters bit for bit; another seed does not."""
    monkeypatch.chdir(tmp_path)
    for name in DATA_FILES:
        (tmp_path / name).symlink_to(runs.folder / name)
    torch.rand(7), np.random.rand(7), random.random()
    for words in [*SHORT[7:10], [*SHORT[7], "--seed", "6", "--writing_params_path", "other"]]:
        run.main(words)
    name = "rope.pretrain.dev.predictions"
    assert Path(name).read_bytes() == (runs.folder / name).read_bytes()
    for name in ("rope.finetune.params", "rope.pretrain.params"):
        here, there = (torch.load(folder / name, weights_only=True) for folder in (tmp_path, runs.folder))
        assert same(here, there)
    name = "tok_emb.weight"
    assert not torch.equal(torch.load("other", weights_only=True)[name], here[name])


def trainer_of(words: list[str]) -> Trainer:
    """The trainer that a command makes, ready to start."""
    made = []

    class Unstarted(Trainer):
        def train(self):
            made.append(self)
            raise KeyboardInterrupt

    args = options.parse(run.build_parser(), words)
    with pytest.raises(KeyboardInterrupt):
        {"pretrain": run.pretrain, "finetune": run.finetune}[args.function](args, Unstarted)
    return made[0]


@pytest.fixture
def folder(runs, monkeypatch, tmp_path) -> Path:
    """The current folder, with the data and parameters of `runs`."""
    for path in runs.folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_hyperparameters_of_the_handout(folder):
    """The commands as printed train with the handout's numbers; tokens are positions of 17 documents."""
    epoch = 17 * 128
    pretrain, finetune = (650, 128, 6e-3, 650 * epoch), (10, 256, 6e-4, 200 * epoch)
    trainings = [words for words in COMMANDS if words[0] != "evaluate"]
    for words, numbers in zip(trainings, ((75, *finetune[1:]), *(pretrain, finetune) * 2), strict=True):
        trainer = trainer_of(words)
        c, model = trainer.config, trainer.model
        assert (c.max_epochs, c.batch_size, c.learning_rate, c.final_tokens) == numbers
        assert (c.warmup_tokens, c.lr_decay, c.decay_shape, c.betas) == (512 * 20, True, "cosine", (0.9, 0.95))
        assert (c.weight_decay, c.grad_norm_clip, c.seed, c.callbacks) == (0.1, 1.0, 0, [])
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}
        assert [type(optimizer) for optimizer in trainer.optimizers] == [torch.optim.AdamW]
        assert [group["weight_decay"] for group in trainer.optimizers[0].param_groups] == [0.1, 0.0]
        name = "CharCorruptionDataset" if words[0] == "pretrain" else "NameDataset"
        assert type(trainer.train_dataset).__name__ == name


def test_flags_override_the_recipe(folder):
    """--pretrain_lr is for pretraining, --finetune_lr for finetuning; without them the rates are the recipe's.

    The log's name has the rate. Bug: from scratch it had that of finetuning pretrained parameters.
    """
    flags = "--recipe fast --max_epochs 7 --batch_size 5 --dropout 0.25 --pretrain_lr 0.5 --finetune_lr 0.25"
    for words, rate, phase in ((COMMANDS[3], 0.5, "pretrain"), (COMMANDS[0], 0.25, "scratch")):
        trainer = trainer_of([*words, *flags.split()])
        assert (trainer.config.max_epochs, trainer.config.batch_size, trainer.config.learning_rate) == (7, 5, rate)
        assert trainer.model.drop.p == 0.25
        assert trainer.optimizers[1].param_groups[0]["lr"] == getattr(RECIPES["fast"], phase).muon_lr
    for words, phase in ((COMMANDS[0], "scratch"), (COMMANDS[4], "finetune")):
        trainer = trainer_of([*words, "--recipe", "fast", "--tb_expt_name", phase])
        rate = getattr(RECIPES["fast"], phase).learning_rate
        (log,) = folder.glob(f"expt/*/{phase}_*")
        assert trainer.config.learning_rate == rate and f"_ft_lr_{rate:f}" in log.name


def test_london_baseline_and_exit_codes(program):
    """One London in 20 is 5.0 %, printed and written; a missing file is exit code 2 and one line on stderr."""
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
    """Four pairs x and y of the first documents or questions (test_dataset.py has what they hold).

    Bug: a console that cannot show the mask (Windows: cp1252) got a traceback; now it shows the mask's number.
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
    for x, pair, document in zip(lines[::2], people.pairs.splitlines(), people.corpus.splitlines(), strict=False):
        before, after, span, *_ = x[3:].split("⁇")
        assert f"{before}\t{after}" == pair if kind == "namedata" else before + span + after in document


@pytest.mark.parametrize("path", PROGRAMS, ids=[f"{path.parent.name}/{path.name}" for path in PROGRAMS])
def test_a_closed_pipe_is_no_error(path, monkeypatch):
    """Of no program. Bug: `python src/dataset.py charcorruption | head` ended in a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    words = ["charcorruption", f"--pretrain_corpus_path={SRC.parent / 'wiki.txt'}"]
    monkeypatch.setattr(sys, "argv", [str(path), *(words if path.name == "dataset.py" else ["--help"])])
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code in (None, 0)


def saying(text: str, documents: CharCorruptionDataset, prompt_length: int) -> GPT:
    """A model that continues a prompt of known length with a text."""
    model, tokens = tiny_model(), [documents.stoi[c] for c in text]

    def forward(idx: torch.Tensor) -> tuple[torch.Tensor, None]:
        token = torch.tensor(tokens[idx.size(1) - prompt_length])
        return torch.nn.functional.one_hot(token, documents.vocab_size).expand(*idx.shape, -1), None

    model.forward = forward
    return model


def test_answers_are_one_line_each():
    """Line ends and tabs become blanks; other answers are kept as they are, up to the MASK."""
    ends = "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # what some program takes for the end of a line or a cell
    documents = CharCorruptionDataset("ab ?" + ends, 48)
    cases = [(f"a{end}b{end}", "a b") for end in ends]
    for said, wanted in [*cases, ("a  b ", "a  b "), ("\n", ""), ("", ""), (f"b{MASK_CHAR}a", "b")]:
        model = saying(said + MASK_CHAR, documents, len("a?") + 1)
        assert run.answer(model, documents, ["a?"], "q") == [wanted]


def test_questions_that_do_not_fit(capsys):
    """Characters that the corpus lacks are left out, and a line says how often; a long question is refused."""
    documents, model = CharCorruptionDataset("abcdefgh?", 48), tiny_model(block_size=48)
    capsys.readouterr()
    answers = run.answer(model, documents, ["漢ab?", "漢cd?", "ef?"], "odd")
    assert (
        capsys.readouterr().out == "note: odd: 2 questions have characters that the corpus lacks; asked without them\n"
    )
    assert answers == run.answer(model, documents, ["ab?", "cd?", "ef?"], "odd")
    with pytest.raises(UserError, match=r"^odd, line 2: the question has 48 characters, 47 fit"):
        run.answer(model, documents, ["a" * 47, "a" * 48], "odd")


def test_pretraining_gives_knowledge(program, monkeypatch):
    """Of 20 invented people unseen in finetuning, 8 or more are answered with pretraining, at most 2 without.

    They come from 20 places, so one answer for everyone is right once. Finetuning sees excerpts of the documents, too.
    """
    monkeypatch.chdir(program.folder)
    program.people(invent_people(60, 20))

    smoke, size = "rope corpus.txt --recipe smoke", "--n_layer 2 --n_embd 128"
    commands = [
        f"pretrain {smoke} {size} --batch_size 8 --max_epochs 50 --writing_params_path pre",
        f"finetune {smoke} --reading_params_path pre --finetune_corpus_path pairs.tsv --writing_params_path with",
        f"finetune {smoke} {size} --finetune_corpus_path pairs.tsv --writing_params_path without",
    ]
    for words in commands:
        run.main([*words.split(), "--device", "cpu"])
    ask = "evaluate rope corpus.txt --eval_corpus_path unseen.tsv --outputs_path out --device cpu --reading_params_path"
    informed, ignorant = (run.main([*ask.split(), name]) for name in ("with", "without"))
    assert informed.total == ignorant.total == 20
    assert informed.correct >= 8 and ignorant.correct <= 2

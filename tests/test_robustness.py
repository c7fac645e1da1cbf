"""Bad input, full disks, signals and resuming: nothing is lost, and nothing is silently wrong."""

import math
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

import helpers
import run
import utils
from batches import STOP_SIGNALS
from engine import callbacks
from helpers import Program, Result, invent_people
from test_cli import scalars
from trainer import Trainer
from utils import MASK_CHAR, PAD_CHAR, UserError, check_writable, write_text

PEOPLE = invent_people(8, 3)  # 9 documents, 5 pairs, 3 questions
M, P = MASK_CHAR, PAD_CHAR
SIZE = " --n_layer 1 --n_head 2 --n_embd 16"
PRETRAIN = "pretrain vanilla corpus.txt --writing_params_path out --recipe smoke --max_epochs 1" + SIZE
SCRATCH = "finetune" + PRETRAIN.removeprefix("pretrain") + " --finetune_corpus_path pairs.tsv"
FINETUNE = SCRATCH + " --reading_params_path base"
EVALUATE = "evaluate vanilla corpus.txt --reading_params_path base --eval_corpus_path unseen.tsv --outputs_path out"
LONG = "--batch_size 2 --max_epochs 3 --dropout 0.1"  # 15 steps or more
OFTEN = LONG + " --checkpoint_minutes 0.000001"
BOTH = pytest.mark.parametrize("command", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])


class Lab(Program):
    """run.py in an empty folder, but in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture):
        super().__init__(folder)
        self.capsys = capsys

    def __call__(self, *words: str, script: str = "run.py") -> Result:
        """Run to the end; the words of the command line may come in one or several strings."""
        self.capsys.readouterr()
        try:
            code = utils.cli(lambda: run.main([*" ".join(words).split(), "--device", "cpu"]))
        except SystemExit as end:  # argparse's
            code = end.code
        return Result(code, *self.capsys.readouterr())

    def put(self, name: str, content: str | bytes) -> str:
        """Write a file of text or bytes; returns its name."""
        (self.folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def files(self) -> dict[str, bytes]:
        """All files and their contents, except logs."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}

    def refuses(self, says: str, *words: str) -> None:
        """Exit code 2, one line "error: SAYS; advice" on stderr ("error: SAYS" for SAYS$); no file changes."""
        before, result = self.files(), self(*words)
        pattern = says.removesuffix("$") if says.endswith("$") else rf"{says}; [^\n]+"
        assert result.code == 2 and re.fullmatch(rf"error: {pattern}\n", result.stderr), result
        assert self.files() == before


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> bytes:
    """A parameter file of a model of one layer, pretrained on the people's corpus."""
    folder = tmp_path_factory.mktemp("base")
    Program(folder).people(PEOPLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run.main([*PRETRAIN.split(), "--device", "cpu"])
    return (folder / "out").read_bytes()


@pytest.fixture
def lab(tmp_path, monkeypatch, capsys, base) -> Lab:
    """The people's files and `base` in the current folder."""
    monkeypatch.chdir(tmp_path)
    lab = Lab(tmp_path, capsys)
    lab.people(PEOPLE)
    lab.put("base", base)
    return lab


def same(one: str, other: str) -> bool:
    """Whether the tensors of two parameter files are equal bit for bit."""
    return helpers.same(*(torch.load(name, weights_only=True) for name in (one, other)))


UNUSED = ("--max_epochs 3", "--batch_size 3", "--dropout 0", "--checkpoint_minutes 1", "--recipe fast", "--resume")
NEEDED = {"pretrain": ["--writing_params_path=p"], "evaluate": ["--reading_params_path=base", "--outputs_path=p"]}
NEEDED["finetune"] = [*NEEDED["pretrain"], "--finetune_corpus_path=pairs.tsv"]
NEEDED["evaluate"].append("--eval_corpus_path=unseen.tsv")
RANGES = "max_epochs=0 batch_size=-1 dropout=1 pretrain_lr=0 pretrain_lr=nan finetune_lr=inf checkpoint_minutes=0"
RANGES += f" seed=-1 seed={2**63} n_layer=0 n_head=-2 n_embd=0 block_size=8"


def test_flags_that_do_not_fit_are_refused_by_name(lab):
    """Flags that the function does not use, missing flags, and values out of range."""
    for flag in UNUSED:
        lab.refuses(rf"{flag.split()[0]}: evaluate does not use it[^;]*", EVALUATE, flag)
    for function, flags in NEEDED.items():
        for missing in flags:
            rest = [flag for flag in flags if flag != missing]
            lab.refuses(f"{function} needs {missing.split('=')[0]}$", f"{function} vanilla corpus.txt", *rest)
    for pair in RANGES.split():
        flag, value = pair.split("=")
        lab.refuses(rf"--{flag} {value}\S*: [^\n]+ is expected$", PRETRAIN, f"--{pair}")
    lab.refuses("--n_embd 18: a multiple of --n_head 4 is expected$", PRETRAIN, "--n_embd 18 --n_head 4")


def test_odd_head_size_is_refused_for_rope_only(lab):
    """Rotary positions rotate pairs of features; learned positions take any head size."""
    odd = "--n_embd 12 --n_head 4"
    says = "--n_embd 12: an even multiple of --n_head 4 is expected for rope$"
    lab.refuses(says, PRETRAIN.replace("vanilla", "rope"), odd)
    lab.ok(PRETRAIN, odd)


def test_unknown_words_are_refused(lab):
    """Unknown or abbreviated flags, unknown choices and missing words are named; --help lists all flags."""
    cases = {f"{PRETRAIN} --{words}": words.split()[0] for words in ("decay_all", "learning_rate 1", "max_ep 1")}
    cases |= {f"{PRETRAIN} --batch_size many": "batch_size", "pretrain rope": "pretrain_corpus_path"}
    cases |= {PRETRAIN.replace("vanilla", "gpt"): "'gpt'", PRETRAIN.replace("pretrain", "train"): "'train'"}
    for words, says in (cases | {f"{PRETRAIN} --recipe secret": "recipe"}).items():
        result = lab(words)
        assert (result.code, says in result.stderr.splitlines()[-1], Path("out").exists()) == (2, True, False), words
    flags = "reading_params_path writing_params_path finetune_corpus_path eval_corpus_path outputs_path pretrain_lr"
    flags += " finetune_lr tb_expt_name resume recipe seed n_layer n_head n_embd block_size"
    assert not [flag for flag in flags.split() if f"--{flag} " not in lab.ok("--help").stdout]


def test_outputs_that_cannot_be_or_would_destroy_something(lab):
    """Refused at the start: outputs that cannot be written, and those that are also an input.

    Bugs: the parameters to finetune could be overwritten; a corpus with the checkpoint's name was deleted at the end.
    """
    for command in (PRETRAIN, SCRATCH, EVALUATE):
        flag = "--outputs_path" if command is EVALUATE else "--writing_params_path"
        for path in ("no/such/folder/out", "pairs.tsv/out", ".", "/dev/null", "x" * 240):
            lab.refuses(rf"{re.escape(path)}: [^\n]+$", command.replace("corpus.txt", "missing"), flag, path)
        for path in ("corpus.txt", f"{lab.folder}/corpus.txt", "base", "pairs.tsv", "unseen.tsv"):
            if Path(path).name in command:
                lab.refuses(rf"{flag} {path}: is also read, and would be lost", command, flag, path)
    lab.refuses("--writing_params_path base: is also read, and would be lost", FINETUNE, "--writing_params_path base")
    corpus = lab.put("out.checkpoint", PEOPLE.corpus)
    lab.refuses("[^;]*out[^;]*: is also read, and would be lost", PRETRAIN.replace("corpus.txt", corpus))
    lab.refuses(r"pairs.tsv/pretrain/\S+: cannot be written [^;]*", PRETRAIN, "--expt_dir pairs.tsv")


READ = {  # by kind of file: the command that reads it, the name that it has there, good content
    "corpus": (PRETRAIN, "corpus.txt", "one\ntwo"),
    "pairs": (SCRATCH, "pairs.tsv", PEOPLE.pairs),
    "dev": (EVALUATE, "unseen.tsv", PEOPLE.unseen),
    "questions": (EVALUATE, "unseen.tsv", PEOPLE.questions),
}
NO_TEXT = [
    *((content, ": is empty") for content in (b"", b" \r\n \n")),
    (b"\x89PNG\r\n\x1a\n\x00\xff", ", line 1: is not UTF-8 text"),
    ("Where?\tRome\n".encode("utf-16"), ": is UTF-16"),
    ("Where?\tRome\n".encode("utf-16-le"), ", line 1: [^;]*holds a zero byte"),
    ("Where?\tRome\nZoé?\tBonn\n".encode("latin-1"), ", line 2: is not UTF-8 text"),
]
LINES = [  # kinds of files in which the line is bad, the line, what the error says
    ("pairs dev", "Where was Ada born?", "has no tab"),
    ("questions", "Where was  born?", "has no name to ask for"),
    ("corpus pairs dev questions", f"Where was A{M}da born?\tRome", r"contains U\+2047"),
    ("corpus pairs dev questions", f"Where was Ada born?\t{P}Rome", r"contains U\+25A1"),
    ("pairs", "Where was Łobo born?\tobo", "'Ł' is not among the characters"),
    ("pairs", f"Where was {'o' * 130} born?\to", "question and answer have 149 characters, 128 fit"),
    ("dev", f"Where was {'o' * 130} born?\to", "the question has 146 characters, 127 fit"),
    ("questions", f"{'o' * 127}?", "the question has 128 characters, 127 fit"),
]


@pytest.mark.parametrize("kind", READ)
def test_files_that_do_not_fit(lab, kind):
    """Files that are missing, not text, or have a bad line: the error names file and line, and says what to do."""
    command, usual, content = READ[kind]
    bad = [("missing: no such file", None), (r"\.: cannot be read \(Is a directory\)", None)]
    bad.append((r"corpus\.txt/x: cannot be read \(Not a directory\)", None))
    bad += [(rf"bad{says}[^;\n]*", content) for content, says in NO_TEXT]
    for kinds, line, says in LINES:
        if kind in kinds.split():
            good = content.splitlines()[:2]  # so that most lines are as they should be
            bad.append((rf"bad, line 3: [^;\n]*{says}[^;\n]*", "\n".join([*good, line, ""])))
    for says, spoilt in bad:
        name = lab.put("bad", spoilt) if spoilt is not None else says.split(":")[0].replace("\\", "")
        lab.refuses(says, command.replace(usual, name))


FULL, READ_ONLY = OSError(28, "No space left on device"), OSError(30, "Read-only file system")
FAILURES = [("os.fsync", FULL), ("tempfile.mkstemp", FULL), ("tempfile.mkstemp", READ_ONLY), ("os.replace", READ_ONLY)]


@pytest.mark.parametrize("where, failure", FAILURES)
def test_failed_writes_leave_the_old_file(tmp_path, where, failure):
    """Full or read-only disks are one line of error, before the work and after it; files stay as they were.

    Bug: check_writable looked at permissions only, so a full disk was noticed after the training.
    """
    path = tmp_path / "old"
    for old in (None, b"old"):
        if old:
            path.write_bytes(old)
        says = rf"{re.escape(str(path))}: [^;\n]*{failure.strerror}[^;\n]*; [^\n]+"
        for attempt in (lambda path: write_text(path, "new"), check_writable):
            with mock.patch(f"utils.{where}", side_effect=failure), pytest.raises(UserError) as caught:
                attempt(path)
            assert re.fullmatch(says, str(caught.value))
        assert os.listdir(tmp_path) == (["old"] if old else [])
    assert path.read_bytes() == old


def test_disk_full_in_a_training(lab):
    """A limit on file sizes: no room for parameters, checkpoint or log is one line of error; the old file stays."""
    lab.put("out", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, more, where in ((50_000, "", "out"), (50_000, OFTEN, r"out\.checkpoint"), (10, "", r"expt/pretrain/\S+")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            lab.refuses(rf"{where}: cannot be written \(File too large\)[^\n]*", PRETRAIN, more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_size_is_remembered(lab):
    """finetune and evaluate take the size from the parameters, and refuse another size or variant."""
    lab.ok(PRETRAIN, "--n_layer 3 --block_size 64 --writing_params_path small")
    finetune = FINETUNE.replace(SIZE, "") + " --reading_params_path small"
    lab.ok(finetune)
    state = torch.load("out", weights_only=True)
    assert state["pos_emb"].shape == (1, 64, 16) and "blocks.2.mlp.0.weight" in state
    lab.ok(EVALUATE, "--reading_params_path out --outputs_path answers --n_layer 3")
    for flag in ("--n_layer 2", "--n_head 4", "--n_embd 32", "--block_size 128"):
        for words in (EVALUATE + " --reading_params_path small", finetune):
            lab.refuses(rf"{flag}: small was made with \d+", words, flag)
    lab.refuses("base: holds a vanilla model, rope was asked for", EVALUATE.replace("vanilla", "rope"))
    lab.refuses("missing: no such parameter file", EVALUATE, "--reading_params_path missing")
    lab.put("corpus.txt", "".join(reversed(PEOPLE.corpus)))
    assert re.fullmatch(r"warning: base: was trained on another text with the same [^\n]+\n", lab.ok(EVALUATE).stderr)


def after_step(monkeypatch, step: int, action: Callable[[Trainer], object]) -> None:
    """Make the training call a function after a step."""
    should_stop = Trainer.should_stop

    def patched(trainer):
        if trainer.step == step:
            action(trainer)
        return should_stop(trainer)

    monkeypatch.setattr(Trainer, "should_stop", patched)


def stop(trainer: object = None, number: signal.Signals = signal.SIGINT) -> None:
    """Ctrl-C, or another signal; a training ends with the step after it."""
    os.kill(os.getpid(), number)


def prefer(monkeypatch, precision: str) -> None:
    """Make this precision that of the hardware."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: precision == "bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def losses(expt: str = "expt") -> list[tuple[int, float]]:
    """The curve that TensorBoard draws for the only run in a folder."""
    (folder,) = Path(expt).glob("*/*")
    return scalars(folder)["train/loss"]


@BOTH
@pytest.mark.parametrize("first, second", [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_interrupted_training_is_resumed(lab, monkeypatch, command, first, second):
    """Ctrl-C, then --resume: the same parameters as without a stop, bit for bit; Ctrl-C is then handled as before.

    On hardware with another preferred precision, that of the checkpoint is kept (bug: resuming was refused there).
    """
    lab.ok(command, LONG, f"--precision {first} --writing_params_path whole")
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        prefer(patch, first)
        after_step(patch, 3, stop)
        stopped = lab(command, LONG)
    assert stopped.code == 130 and not Path("out").exists()
    assert "stopped at step 4; continue with the same command and --resume" in stopped.stderr
    assert signal.getsignal(signal.SIGINT) is handler
    prefer(monkeypatch, second)
    said = lab.ok(command, LONG, "--resume").stdout
    assert "resuming at step 4 of " in said and f", {first}; writes out" in said
    assert same("out", "whole") and not Path("out.checkpoint").exists()
    assert "already complete" in lab.ok(command, LONG, "--resume").stdout


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_an_ignored_signal_stays_ignored(lab, monkeypatch, number):
    """A program started with nohup, or in the background of a script, goes on. Bug: Ctrl-C elsewhere stopped it."""
    earlier = signal.signal(number, signal.SIG_IGN)
    try:
        after_step(monkeypatch, 1, lambda _: stop(number=number))
        lab.ok(PRETRAIN, LONG)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, earlier)


def test_killed_process_is_resumed(lab):
    """Killed twice at any moment, then --resume: the same parameters, and the same curve.

    Bug: TensorBoard showed most steps twice.
    """
    words = f"{PRETRAIN} --max_epochs 40 --batch_size 4 --dropout 0.1 --device cpu --checkpoint_minutes".split()
    lab.ok(*words, "5 --writing_params_path whole --expt_dir other")  # 120 steps
    for _ in range(2):
        wait, since = random.Random().uniform(0.0, 0.3), []

        def due(out: str, wait: float = wait, since: list = since) -> bool:
            if not since and "writes out" in out and Path("out.checkpoint").exists():
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] >= wait

        assert lab.killed(*words, "0.0001", "--resume", when=due).code == -signal.SIGKILL
        assert not Path("out").exists()
    time.sleep(1)  # TensorBoard reads logs in the order of the seconds at which they began
    assert re.search(r"resuming at step [1-9]\d* of 120", lab.ok(*words, "5 --resume").stdout)
    assert same("out", "whole") and not Path("out.checkpoint").exists()
    assert [step for step, _ in losses()] == list(range(1, 121))
    assert losses() == losses("other")


@pytest.mark.parametrize("minutes", [5, 0.000001])
def test_a_second_ctrl_c_ends_at_once(lab, monkeypatch, minutes):
    """Before or after the first checkpoint: exit code 130; after --resume the curve has each step once."""
    words = f"{PRETRAIN} {LONG} --checkpoint_minutes {minutes}"
    lab.ok(words, "--expt_dir other --writing_params_path whole")
    with monkeypatch.context() as patch:
        after_step(patch, 7, lambda _: (stop(), stop(), pytest.fail("still there")))
        ended = lab(words)
    assert (ended.code, ended.stderr) == (130, "interrupted\n")
    assert Path("out.checkpoint").exists() == (minutes < 1)
    time.sleep(1)
    lab.ok(words, "--resume")
    assert same("out", "whole")
    assert losses() == losses("other")


def test_runs_that_share_a_log(lab, monkeypatch):
    """A second run that logs to the same folder is told so and how to name it; other runs are not."""
    said = [lab.ok(PRETRAIN, more).stdout for more in ("", "--seed 1", "--tb_expt_name mine")]
    after_step(monkeypatch, 2, stop)
    lab(PRETRAIN, LONG, "--tb_expt_name long")
    said.append(lab.ok(PRETRAIN, LONG, "--tb_expt_name long --resume").stdout)
    note = r"^note: expt/pretrain/run_vanilla_pt_lr_0\.003000_ft_lr_0\.001000 [^\n]+--tb_expt_name[^\n]+$"
    assert [len(re.findall(note, out, re.M)) for out in said] == [0, 1, 0, 0]
    assert "--tb_expt_name" not in said[0] + said[2] + said[3]


@BOTH
def test_finished_training_is_left_alone(lab, monkeypatch, command):
    """--resume leaves finished parameters alone, also if a kill has kept the checkpoint from being deleted.

    After a kill before the parameters were written, --resume continues, even if there are older parameters. Bug:
    finished parameters were trained again, and overwritten.
    """
    after_step(monkeypatch, 5, lambda _: lab.put("kept", Path("out.checkpoint").read_bytes()))
    lab.ok(command, OFTEN)
    before, when = lab.files(), os.stat("out").st_mtime_ns
    for left_over in ("kept", "out.checkpoint"):
        lab.put(left_over, before["kept"])
        result = lab.ok(command, OFTEN, "--resume")
        assert (result.stdout.splitlines()[-1], result.stderr) == ("out: already complete", "")
        assert lab.files() == before and os.stat("out").st_mtime_ns == when
    lab.put("whole", before["out"])
    lab.ok(command, OFTEN, "--seed 1")
    with mock.patch.object(run, "save_params", side_effect=KeyboardInterrupt):
        assert lab(command, OFTEN).code == 130
    said = lab.ok(command, OFTEN, "--resume").stdout
    assert "resuming at step " in said and "afresh" not in said
    assert same("out", "whole") and not Path("out.checkpoint").exists()


OTHERS = {
    "--seed 1": "seed = 0, this one has 1",
    "--dropout 0.2": r"dropout = 0\.0, this one has 0\.2",
    "--max_epochs 2": r"\w+ = \d+, this one has \d+",
    "--pretrain_lr 0.1": r"learning_rate = 0\.003, this one has 0\.1",
    "--n_layer 2": "n_layer = 1, this one has 2",
    "--recipe handout": r"\w+ = \S+, this one has \S+",
    "--precision bfloat16": "precision = float32, this one has bfloat16",
    "corpus.txt": r"fingerprint of the corpus = \w+, this one has \w+",
}


@pytest.mark.parametrize("change", OTHERS)
def test_parameters_and_checkpoints_of_other_settings(lab, monkeypatch, change):
    """--resume trains parameters afresh, saying what differs, and refuses a checkpoint, naming what differs."""
    words = f"{PRETRAIN} --batch_size 4 --precision float32"
    lab.ok(words)
    with monkeypatch.context() as patch:
        after_step(patch, 1, lambda _: stop(number=signal.SIGTERM))
        assert lab(words, "--writing_params_path half").code == 130
    words += f" --resume {change if change.startswith('--') else ''}"
    if change == "corpus.txt":
        lab.put(change, PEOPLE.corpus + "Where?\n")
    lab.refuses(rf"half\.checkpoint: belongs to a run with {OTHERS[change]}", words, "--writing_params_path half")
    lab.put("before", lab.files()["out"])
    says = f"out: exists, but the parameters were made with {OTHERS[change]}; training afresh"
    assert len(re.findall(f"^{says}$", lab.ok(words).stdout, re.M)) == 1
    assert not same("out", "before")


STAMPS = [None, '{"settings": {"seed": 0}, "vocabulary": "x"}', '{"format": 2}', "{", "no parameters"]


@pytest.mark.parametrize("stamp", STAMPS)
def test_files_that_do_not_say_how_they_were_made(lab, stamp):
    """--resume trains afresh over parameters of other code, and over any other file."""
    state = torch.load("base", weights_only=True)
    state._metadata = {"name_places": {"json": stamp}} if stamp else {}
    torch.save(state if stamp != "no parameters" else stamp, "out")
    said = lab.ok(PRETRAIN, "--resume").stdout
    assert said.count("out: exists, but the parameters do not say how they were made; training afresh\n") == 1
    assert same("out", "base")
    assert "already complete" in lab.ok(PRETRAIN, "--resume").stdout


def spoil(trainer: object) -> None:
    """Make the gradients of the next step NaN."""
    trainer.model.head.weight.register_hook(lambda gradient: gradient * math.nan)


def test_divergence_keeps_the_last_good_checkpoint(lab, monkeypatch):
    """A NaN, or (bug) a loss of 200, ends the run with step, rate and advice; the last good checkpoint stays."""
    handler = signal.getsignal(signal.SIGTERM)
    exploded = lab(PRETRAIN, OFTEN, "--pretrain_lr 30 --batch_size 1 --max_epochs 6 --precision float32")
    says = r"at step (\d+) it is [\d.e+]+, guessing has 3\.\d+, with learning rate \S+; [^\n]*--pretrain_lr[^\n]*; "
    kept = r"out\.checkpoint keeps the last good state\n"
    found = re.fullmatch(rf"error: the loss diverged: {says}{kept}", exploded.stderr)
    trainer = torch.load("out.checkpoint", weights_only=True)["trainer"]
    assert trainer["step"] <= int(found[1]) - callbacks.Divergence.STEPS
    after_step(monkeypatch, 4, spoil)
    spoilt = lab(PRETRAIN, OFTEN)
    says = r"at step 5 \([^;]*nan\) with learning rate \d\.\d\de-0\d; [^\n]*--pretrain_lr[^\n]*; "
    assert re.fullmatch(rf"error: the loss diverged {says}{kept}", spoilt.stderr)
    trainer = torch.load("out.checkpoint", weights_only=True)["trainer"]
    assert trainer["step"] == 4 and all(bool(value.isfinite().all()) for value in trainer["model"].values())
    assert exploded.code == spoilt.code == 2 and not Path("out").exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_high_losses_that_are_no_divergence():
    """Losses below 3 times that of guessing (ln 260), or above it for fewer than 20 steps, do not stop a run."""
    watch, trainer = callbacks.Divergence(), mock.Mock(**{"model.config.vocab_size": 260})
    for trainer.last.loss in [16.0] * 50 + [17.0] * 19 + [5.0] + [17.0] * 19:
        watch.on_step(trainer)
    assert watch.bad_steps == 19


def test_threads(lab, monkeypatch):
    """Training works in a thread (a notebook's); errors of other threads are shown during a training.

    Bugs: only the main thread may set signal handlers, others got a ValueError; threading.excepthook was replaced.
    """
    seen = []

    def in_a_thread(action: Callable[[], object]) -> None:
        (thread := threading.Thread(target=lambda: seen.append(action()))).start()
        thread.join()

    in_a_thread(lambda: run.main([*PRETRAIN.split(), "--device", "cpu"]))
    assert seen[0].steps == len(losses()) and same("out", "base")
    monkeypatch.setattr(threading, "excepthook", hook := seen.append)
    after_step(monkeypatch, 1, lambda _: in_a_thread(lambda: 1 / 0))
    lab.ok(PRETRAIN)
    assert [failure.exc_type for failure in seen[1:]] == [ZeroDivisionError]
    assert threading.excepthook is hook


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(lab, monkeypatch, terminal):
    """A bar on stderr on a terminal, elsewhere a line per epoch; errors have a line of their own below the bar."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    result = lab(PRETRAIN, "--max_epochs 3 --batch_size 8")
    assert len(re.findall("^epoch ", result.stdout, re.M)) == (0 if terminal else 3)
    assert ("6/6" in result.stderr) == bool(result.stderr) == terminal
    after_step(monkeypatch, 1, spoil)
    result = lab(PRETRAIN, "--max_epochs 3 --batch_size 8")
    assert result.code == 2
    assert result.stderr.split("\n")[-2].startswith("error: the loss diverged")

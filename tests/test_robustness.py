"""Bad input, full disks, signals and resuming: nothing is lost, and nothing is silently wrong."""

import math
import os
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
from engine.checkpoints import FORMAT, read_stamp
from helpers import SRC, Program, Result, invent_people, scalars
from trainer import Trainer
from utils import PAD_CHAR

PEOPLE = invent_people(8, 3)  # 9 documents, 5 pairs, 3 questions
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

    def files(self) -> dict[str, bytes]:
        """All files and their contents, except logs."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}

    def refuses(self, says: str, *words: str) -> None:
        """Exit code 2, one line on stderr that begins with "error: SAYS", a regular expression; no file changes."""
        before, result = self.files(), self(*words)
        assert result.code == 2 and re.fullmatch(rf"error: {says}[^\n]*\n", result.stderr), result
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
    Path("base").write_bytes(base)
    return lab


def same(one: str, other: str) -> bool:
    """Whether the tensors of two parameter files are equal bit for bit."""
    return helpers.same(*(torch.load(name, weights_only=True) for name in (one, other)))


UNUSED = ("--max_epochs 3", "--checkpoint_minutes 1", "--recipe fast", "--resume")
NEEDED = {
    "pretrain": ["--writing_params_path=p"],
    "finetune": ["--writing_params_path=p", "--finetune_corpus_path=pairs.tsv"],
    "evaluate": ["--reading_params_path=base", "--outputs_path=p", "--eval_corpus_path=unseen.tsv"],
}
RANGES = "max_epochs=0 batch_size=-1 dropout=1 pretrain_lr=0 pretrain_lr=nan finetune_lr=inf checkpoint_minutes=0"
RANGES += f" seed=-1 seed={2**63} n_layer=0 n_head=-2 n_embd=0 block_size=8"


def test_flags_that_do_not_fit_are_refused_by_name(lab):
    """Flags that the function does not use, missing flags, values out of range, heads that do not divide the width."""
    for flag in UNUSED:
        lab.refuses(rf"{flag.split()[0]}: evaluate does not use it", EVALUATE, flag)
    for function, flags in NEEDED.items():
        for missing in flags:
            rest = [flag for flag in flags if flag != missing]
            lab.refuses(f"{function} needs {missing.split('=')[0]}", f"{function} vanilla corpus.txt", *rest)
    for pair in RANGES.split():
        flag, value = pair.split("=")
        lab.refuses(rf"--{flag} {value}\S*: [^\n]+ is expected", PRETRAIN, f"--{pair}")
    lab.refuses("--n_embd 18: a multiple of --n_head 4", PRETRAIN, "--n_embd 18 --n_head 4")
    assert lab(PRETRAIN, "--max_ep 1").code == 2  # flags are not abbreviated
    odd = "--n_embd 12 --n_head 4"  # rotary positions rotate pairs of features
    lab.refuses("--n_embd 12: an even multiple of --n_head 4", PRETRAIN.replace("vanilla", "rope"), odd)
    lab.ok(PRETRAIN, odd)


@pytest.mark.parametrize("command", [PRETRAIN, FINETUNE, EVALUATE], ids=["pretrain", "finetune", "evaluate"])
def test_outputs_that_cannot_be_or_would_destroy_something(lab, command):
    """Refused before anything is read: outputs that cannot be written, and those that are also an input.

    Bugs: the parameters to finetune could be overwritten; a corpus with the checkpoint's name was deleted at the end.
    """
    flag = "--outputs_path" if command is EVALUATE else "--writing_params_path"
    lab.refuses("no/such/out: ", command.replace("corpus.txt", "missing"), flag, "no/such/out")
    for path in {"corpus.txt", "base", "pairs.tsv", "unseen.tsv"} & {*command.split()}:
        lab.refuses(
            rf"{flag} \S*{path}: \S*{path} is also read, and would be lost", command, flag, f"{lab.folder}/{path}"
        )
    if command is not EVALUATE:
        lab.write("out.checkpoint", PEOPLE.corpus)
        lab.refuses(
            r"--writing_params_path \S*out: \S*out.checkpoint is also read, and would be lost",
            command.replace("corpus.txt", "out.checkpoint"),
        )
        Path("out.checkpoint").unlink()
        lab.refuses(r"pairs.tsv/\S+: cannot be written", command, "--expt_dir pairs.tsv")


NO_TEXT = {
    "empty": (b" \r\n \n", ": is empty"),
    "UTF-16": ("Where?\tRome\n".encode("utf-16"), ": is UTF-16"),
    "UTF-16 without a mark": ("Where?\tRome\n".encode("utf-16-le"), ", line 1: [^;]*holds a zero byte"),
    "Latin-1": ("Where?\tRome\nZoé?\tBonn\n".encode("latin-1"), ", line 2: is not UTF-8 text"),
}


@pytest.mark.parametrize("content, says", NO_TEXT.values(), ids=NO_TEXT)
def test_files_that_are_no_text(lab, content, says):
    """Named with the line, and with what to do."""
    Path("bad").write_bytes(content)
    lab.refuses(rf"bad{says}[^\n]*; ", PRETRAIN.replace("corpus.txt", "bad"))


INPUTS = {  # a command, the file that it reads, a bad line in it, what the error says of that
    "corpus": (PRETRAIN, "corpus.txt", PAD_CHAR, r"contains U\+25A1"),
    "pairs": (SCRATCH, "pairs.tsv", "Where was Ada born?", "has no tab"),
    "pairs of another corpus": (SCRATCH, "pairs.tsv", "Where was Łobo born?\tobo", "'Ł' is not among the characters"),
    "questions": (EVALUATE, "unseen.tsv", f"Where was {'o' * 130} born?\to", "has 146 characters, 127 fit"),
}


@pytest.mark.parametrize("command, usual, line, says", INPUTS.values(), ids=INPUTS)
def test_files_that_do_not_fit(lab, command, usual, line, says):
    """Each file that is read: missing, a folder, below a file, and with a bad line, which is named."""
    for name, reason in (("missing", "no such file"), (".", "cannot be read"), ("base/x", "cannot be read")):
        lab.refuses(f"{re.escape(name)}: {reason}[^\n]*; ", command.replace(usual, name))
    good = Path(usual).read_text().splitlines()[:2]
    lab.write("bad", "\n".join([*good, line, ""]))
    lab.refuses(rf"bad, line 3: [^\n]*{says}[^\n]*; ", command.replace(usual, "bad"))


def test_disk_full_in_a_training(lab):
    """A limit on file sizes: no room for output, log, checkpoint or parameters is one line of error; old files stay.

    Bug: permissions alone were looked at, so a full disk was noticed after the training. Now nothing is read before.
    """
    lab.write("out", "old")
    early = PRETRAIN.replace("corpus.txt", "missing")
    cases = (0, early, "out"), (10, PRETRAIN, r"expt/\S+"), (50_000, PRETRAIN, "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room, command, where in (*cases, (50_000, f"{PRETRAIN} {OFTEN}", r"out\.checkpoint")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            lab.refuses(rf"{where}: cannot be written \(File too large\)[^\n]*; ", command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_size_is_remembered(lab):
    """finetune and evaluate take the size from the parameters, and refuse another size."""
    lab.ok(PRETRAIN, "--n_layer 3 --block_size 64 --writing_params_path small")
    finetune = FINETUNE.replace(SIZE, "") + " --reading_params_path small"
    lab.ok(finetune)
    state = torch.load("out", weights_only=True)
    assert state["pos_emb"].shape == (1, 64, 16) and "blocks.2.mlp.0.weight" in state
    lab.ok(EVALUATE, "--reading_params_path out --outputs_path answers --n_layer 3")
    lab.refuses(r"--n_layer 2: small was made with 3", EVALUATE, "--reading_params_path small --n_layer 2")
    lab.refuses(r"--block_size 128: small was made with 64", finetune, "--block_size 128")


def test_another_corpus_with_the_same_characters(lab):
    """It fits the parameters, but may not be meant: a warning on stderr."""
    lab.write("corpus.txt", "".join(reversed(PEOPLE.corpus)))
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

    Older parameters stay until the end. On hardware with another preferred precision, that of the checkpoint is kept
    (bug: resuming was refused there). Then --resume leaves the finished parameters alone, also if a kill has kept the
    checkpoint from being deleted (bug: they were trained again, and overwritten).
    """
    lab.ok(command, LONG, f"--precision {first} --writing_params_path whole")
    lab.ok(command, "--seed 1")
    older, handler = Path("out").read_bytes(), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        prefer(patch, first)
        after_step(patch, 3, stop)
        stopped = lab(command, LONG)
    assert stopped.code == 130 and Path("out").read_bytes() == older
    assert "stopped at step 4; continue with the same command and --resume" in stopped.stderr
    assert signal.getsignal(signal.SIGINT) is handler
    checkpoint = Path("out.checkpoint").read_bytes()
    prefer(monkeypatch, second)
    said = lab.ok(command, LONG, "--resume").stdout
    assert "resuming at step 4 of " in said and f", {first}; writes out" in said and "afresh" not in said
    assert same("out", "whole") and not Path("out.checkpoint").exists()
    before, when = lab.files(), os.stat("out").st_mtime_ns
    for is_left_over in (False, True):
        if is_left_over:
            Path("out.checkpoint").write_bytes(checkpoint)
        result = lab.ok(command, LONG, "--resume")
        assert (result.stdout.splitlines()[-1], result.stderr) == ("out: already complete", "")
        assert lab.files() == before and os.stat("out").st_mtime_ns == when


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
    """Killed twice, then --resume: the same parameters, and the same curve. (tests/slow kills at random moments.)

    Bug: TensorBoard showed most steps twice.
    """
    words = f"{PRETRAIN} --max_epochs 40 --batch_size 4 --dropout 0.1 --device cpu --checkpoint_minutes".split()
    lab.ok(*words, "5 --writing_params_path whole --expt_dir other")  # 120 steps
    for _ in range(2):
        with lab.start([sys.executable, str(SRC / "run.py"), *words, "0.0001", "--resume"]) as process:
            next(line for line in process.stdout if line.startswith("epoch "))
            process.kill()
        assert process.returncode == -signal.SIGKILL and not Path("out").exists()
    time.sleep(1)  # TensorBoard reads logs in the order of the seconds at which they began
    assert re.search(r"resuming at step [1-9]\d* of 120", lab.ok(*words, "5 --resume").stdout)
    assert same("out", "whole") and not Path("out.checkpoint").exists()
    assert [step for step, _ in losses()] == list(range(1, 121))
    assert losses() == losses("other")


def test_a_checkpoint_never_is_ahead_of_the_log(lab, monkeypatch):
    """Bug: a kill right after a checkpoint left its last steps out of the curve; TensorBoard writes them later."""
    logged = {}

    def save(path, state, settings) -> None:
        logged[state["step"]] = [step for step, _ in losses()]

    monkeypatch.setattr(callbacks, "save_checkpoint", save)
    lab.ok(PRETRAIN, OFTEN)
    assert len(logged) > 10 and all(steps == list(range(1, step + 1)) for step, steps in logged.items())


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
    assert ["--tb_expt_name" in out for out in said] == [False, True, False, False]


OTHERS = {
    "--seed 1": "seed = 0, this run has 1",
    "--dropout 0.2": r"dropout = 0\.0, this run has 0\.2",
    "--pretrain_lr 0.1": r"learning_rate = 0\.003, this run has 0\.1",
    "--n_layer 2": "n_layer = 1, this run has 2",
    "--recipe handout": r"\w+ = \S+, this run has \S+",
    "--precision bfloat16": "precision = float32, this run has bfloat16",
    "corpus.txt": r"fingerprint of the corpus = \w+, this run has \w+",
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
        lab.write(change, PEOPLE.corpus + "Where?\n")
    lab.refuses(rf"half\.checkpoint: belongs to a run with {OTHERS[change]}", words, "--writing_params_path half")
    Path("before").write_bytes(Path("out").read_bytes())
    assert re.search(rf"out: [^\n]*made with {OTHERS[change]}; training afresh\n", lab.ok(words).stdout)
    assert not same("out", "before")


STAMPS = [None, '{"settings": {"seed": 0}, "vocabulary": "x"}', f'{{"format": {FORMAT}}}', "{", "no parameters"]


@pytest.mark.parametrize("stamp", STAMPS)
def test_files_that_do_not_say_how_they_were_made(lab, stamp):
    """--resume trains afresh over parameters of other code, and over any other file."""
    state = torch.load("base", weights_only=True)
    state._metadata = {"name_places": {"json": stamp}} if stamp else {}
    torch.save(state if stamp != "no parameters" else stamp, "out")
    assert (
        "out: exists, but the parameters were written by another version or by other code"
        in lab.ok(PRETRAIN, "--resume").stdout
    )
    assert same("out", "base")


def spoil(trainer: object) -> None:
    """Make the gradients of the next step NaN."""
    trainer.model.head.weight.register_hook(lambda gradient: gradient * math.nan)


def test_divergence_keeps_the_last_good_checkpoint(lab, monkeypatch):
    """A NaN, or (bug) a loss of 200, ends the run with step, rate and advice; the last good checkpoint stays."""
    advice = r"learning rate \S+; [^\n]*--pretrain_lr[^\n]*; out\.checkpoint keeps the last good state\n"
    exploded = lab(PRETRAIN, OFTEN, "--pretrain_lr 30 --batch_size 1 --max_epochs 6 --precision float32")
    found = re.fullmatch(rf"error: the loss diverged: at step (\d+) [^\n]* {advice}", exploded.stderr)
    trainer = torch.load("out.checkpoint", weights_only=True)["trainer"]
    assert trainer["step"] <= int(found[1]) - callbacks.Divergence.STEPS
    Path("out.checkpoint").unlink()
    after_step(monkeypatch, 4, spoil)
    spoilt = lab(PRETRAIN, OFTEN)
    assert re.fullmatch(rf"error: the loss diverged at step 5 [^\n]* {advice}", spoilt.stderr)
    trainer = torch.load("out.checkpoint", weights_only=True)["trainer"]
    assert trainer["step"] == 4 and all(bool(value.isfinite().all()) for value in trainer["model"].values())
    assert exploded.code == spoilt.code == 2 and not Path("out").exists()


def test_a_checkpoint_is_not_lost_without_resume(lab, monkeypatch):
    """Bug: the same command without --resume overwrote and then deleted the checkpoint of an interrupted run."""
    after_step(monkeypatch, 2, stop)
    assert lab(PRETRAIN, LONG).code == 130
    kept = Path("out.checkpoint").read_bytes()
    lab.refuses("out.checkpoint: is the checkpoint of an interrupted run; [^\n]*--resume", PRETRAIN, LONG)
    assert Path("out.checkpoint").read_bytes() == kept


def test_a_stop_among_high_losses_promises_nothing(lab, monkeypatch):
    """Bug: the message said to continue with --resume, though nothing is saved while the loss is far too high."""
    monkeypatch.setattr(callbacks.Divergence, "TIMES", 0.0)
    after_step(monkeypatch, 2, stop)
    stopped = lab(PRETRAIN, LONG)
    assert stopped.code == 130 and "step 3; nothing was saved" in stopped.stderr and "--resume" not in stopped.stderr
    assert not Path("out.checkpoint").exists()


def test_the_parameters_to_start_from_may_vanish_during_a_training(lab, monkeypatch):
    """Bug: they were read again at its end, and the finished training was lost."""
    Path("start").write_bytes(Path("base").read_bytes())
    after_step(monkeypatch, 1, lambda _: Path("start").unlink())
    lab.ok(FINETUNE.replace("base", "start"), LONG)
    assert read_stamp("out")["pretraining"] == read_stamp("base")["training"]


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
    command = f"{PRETRAIN} --max_epochs 3 --batch_size 8"
    result = lab.ok(command)
    epochs = re.findall(r"^epoch \d/3 step \d loss \d+\.\d+ lr \S+ [\d,]+ tokens/s", result.stdout, re.M)
    assert len(epochs) == (0 if terminal else 3)
    assert ("6/6" in result.stderr) == bool(result.stderr) == terminal
    after_step(monkeypatch, 1, spoil)
    assert lab(command).stderr.split("\n")[-2].startswith("error: the loss diverged")

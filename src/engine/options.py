"""The flags that the handout does not have, defaults that a recipe sets, and early refusals."""

import argparse
import contextlib
import glob
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from engine.checkpoints import read_file
from engine.machine import pick_device
from engine.recipes import DEFAULT_RECIPE, RECIPES, changed
from utils import UserError, atomic_write

TRAINING = ("pretrain", "finetune")
# Flags that evaluate refuses by name. The handout's own, --seed and --expt_dir are accepted everywhere.
TRAINING_ONLY = ("max_epochs", "batch_size", "dropout", "checkpoint_minutes", "resume", "recipe", "change")
NEEDED = {
    "pretrain": ["writing_params_path"],
    "finetune": ["writing_params_path", "finetune_corpus_path"],
    "evaluate": ["reading_params_path", "eval_corpus_path", "outputs_path"],
}
READ = ("pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path", "reading_params_path")
SIZE = {"n_layer": 4, "n_head": 8, "n_embd": 256, "block_size": 128}  # the handout's model
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "pretrain_lr": (lambda v: 0 < v < float("inf"), "a number above 0"),
    "finetune_lr": (lambda v: 0 < v < float("inf"), "a number above 0"),
    "dropout": (lambda v: 0 <= v < 1, "at least 0 and below 1"),
    "checkpoint_minutes": (lambda v: v > 0, "above 0"),
    "seed": (lambda v: 0 <= v < 2**63, "at least 0 and below 2^63"),
    **dict.fromkeys(("max_epochs", "batch_size", "n_layer", "n_head", "n_embd"), (lambda v: v >= 1, "at least 1")),
    "block_size": (lambda v: v >= 16, "at least 16"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add our flags to the handout's."""
    parser.allow_abbrev = False
    parser.epilog = "recipes: " + "; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items())
    training = parser.add_argument_group("training", "(defaults: the recipe's)")
    training.add_argument("--recipe", choices=RECIPES, help=f"named set of hyperparameters (default: {DEFAULT_RECIPE})")
    training.add_argument(
        "--change",
        nargs="+",
        action="extend",
        metavar="SETTING=VALUE",
        help="override settings of the recipe, such as pretrain.muon_lr=None; see Phase in src/engine/recipes.py",
    )
    training.add_argument("--max_epochs", type=int, help="number of epochs")
    training.add_argument("--batch_size", type=int, help="examples per step")
    training.add_argument("--dropout", type=float, help="dropout of embedding, residual branches and attention")
    training.add_argument(
        "--checkpoint_minutes", type=float, help="minutes between checkpoints, fractions allowed (default: 5)"
    )
    training.add_argument(
        "--resume",
        action="store_true",
        default=None,
        help="continue an interrupted run; a complete run is left alone; without a checkpoint, start afresh",
    )
    size = parser.add_argument_group("model size", "(defaults: that of --reading_params_path, else the handout's)")
    for name, text in (("n_layer", "blocks"), ("n_head", "heads per block"), ("n_embd", "width")):
        size.add_argument(f"--{name}", type=int, help=f"{text} (handout: {SIZE[name]})")
    size.add_argument("--block_size", type=int, help=f"context length (handout: {SIZE['block_size']})")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    machine.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="precision of the matrix products; auto: bfloat16 for training where the hardware has it, float32 for "
        "evaluation (default: %(default)s)",
    )
    logs = parser.add_argument_group("logs")
    logs.add_argument("--expt_dir", default="expt", help="folder of the TensorBoard logs (default: %(default)s)")


def parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line, and fill in what was not given: from the recipe, the machine, the parameters.

    For a training the result also has `checkpoint_path` and `phase`, the recipe's changes for it.

    Raises:
        UserError: naming the flag.
    """
    for word in sys.argv[1:] if argv is None else argv:
        if word.startswith(("‐", "‑", "–", "—", "−")):
            raise UserError(f"{word}: begins with a dash pasted from a PDF or word processor; type hyphens: --")
    not_given = argparse.Namespace(pretrain_lr=None, finetune_lr=None)  # or argparse would fill in the handout's
    args = parser.parse_args(argv, not_given)
    if args.function in TRAINING:
        args.checkpoint_path = Path(f"{args.writing_params_path}.checkpoint")
    check(args)
    args.device = pick_device(args.device)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    if args.device.type == "cuda" and processes > torch.cuda.device_count():
        raise UserError(
            f"--nproc_per_node {processes}: each process needs a GPU, and this machine has "
            f"{torch.cuda.device_count()}; start fewer, or say --device cpu"
        )
    if args.function in TRAINING:
        args.recipe = args.recipe or DEFAULT_RECIPE
        recipe = RECIPES[args.recipe]
        if args.change:
            recipe = changed(recipe, args.change)
        is_scratch = args.function == "finetune" and args.reading_params_path is None
        args.phase = recipe.scratch if is_scratch else getattr(recipe, args.function)
        rates = {"pretrain_lr": recipe.pretrain, "finetune_lr": recipe.scratch if is_scratch else recipe.finetune}
        for name, phase in rates.items():
            if getattr(args, name) is None:
                setattr(args, name, parser.get_default(name) if phase.learning_rate is None else phase.learning_rate)
        for name in ("max_epochs", "batch_size", "dropout"):
            if getattr(args, name) is None:
                setattr(args, name, getattr(args.phase, name))
    for flag, (fits, expected) in RANGES.items():
        value = getattr(args, flag)
        if value is not None and not fits(value):
            raise UserError(f"--{flag} {value}: {expected} is expected")
    known = read_file(args.reading_params_path)[1].get("size", {}) if args.reading_params_path else {}
    for name, usual in SIZE.items():
        given = getattr(args, name)
        if given is not None and known.get(name, given) != given:
            raise UserError(f"--{name} {given}: {args.reading_params_path} was made with {known[name]}; leave it out")
        setattr(args, name, given or known.get(name, usual))
    if args.n_embd % args.n_head:
        raise UserError(f"--n_embd {args.n_embd}: a multiple of --n_head {args.n_head} is expected")
    if args.variant == "rope" and args.n_embd // args.n_head % 2:
        raise UserError(f"--n_embd {args.n_embd}: an even multiple of --n_head {args.n_head} is expected for rope")
    return args


def check(args: argparse.Namespace) -> None:
    """Refuse what the function cannot do, before anything is read.

    Raises:
        UserError: naming the flag.
    """
    is_training = args.function in TRAINING
    for flag in () if is_training else TRAINING_ONLY:
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: {args.function} does not use it, only {' and '.join(TRAINING)}; leave it out")
    if not is_training and dist.is_initialized():
        raise UserError("evaluate works in one process; leave torchrun out")
    for flag in NEEDED[args.function]:
        if getattr(args, flag) is None:
            raise UserError(f"{args.function} needs --{flag}")
    output = "writing_params_path" if is_training else "outputs_path"
    path = Path(getattr(args, output))
    check_writable(path)
    for written in [path, args.checkpoint_path] if is_training else [path]:
        for read in (getattr(args, name) for name in READ):
            if read and written.exists() and os.path.exists(read) and os.path.samefile(read, written):
                raise UserError(f"--{output} {path}: {written} is also read, and would be lost; give another name")
    if is_training and not args.resume and args.checkpoint_path.exists():
        raise UserError(
            f"{args.checkpoint_path}: is the checkpoint of an interrupted run; continue that run with --resume, or "
            "delete the file to start afresh"
        )


LONGEST_NAME = 255 - 32  # bytes of a file name, leaving room for ".checkpoint" and the marks of a temporary file


def check_writable(path: str | Path) -> None:
    """Try out, before hours of work, that a file of this name can be written; an existing file stays as it is.

    Raises:
        UserError: no such folder, a directory, a device, a name that is too long, a read-only folder, a full disk.
    """
    path = Path(path)
    if re.search(r"[\x00-\x1f]", path.name):
        raise UserError(f"{str(path)!r}: remove the control character (Windows line endings in a script?)")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path}: the name is too long, {LONGEST_NAME} bytes fit; give a shorter one")
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a directory, a file name is expected")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is not a plain file but a device or a pipe; give the name of a file")
        if not path.parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist; make it, or write elsewhere")
        target = Path(os.path.realpath(path))  # where the temporary files are, if it is a link
        for scrap in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # a running program has just finished writing
                if time.time() - scrap.stat().st_mtime > 3600:  # left by a killed run; newer ones may be in use
                    scrap.unlink()
        probe = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with atomic_write(probe) as file:  # as the real file will be
                file.write(b"probe")
        except UserError as error:
            raise UserError(f"{error}".replace(f"{probe}", f"{path}", 1)) from None
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}); give another name") from None

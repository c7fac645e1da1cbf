"""The flags that the handout does not have, defaults that a recipe sets, and what is refused at once."""

import argparse
from collections.abc import Callable

from engine.checkpoints import checkpoint_path, read_stamp
from engine.files import check_log_folder, check_writable, same_file
from engine.processes import world_size
from engine.recipes import DEFAULT_RECIPE, RECIPES
from utils import UserError

TRAINING = ("pretrain", "finetune")
# Flags that training alone uses; evaluate refuses them by name. The handout's own are accepted everywhere.
TRAINING_ONLY = ("max_epochs", "batch_size", "dropout", "checkpoint_minutes", "resume", "recipe")
NEEDED = {
    "pretrain": ["writing_params_path"],
    "finetune": ["writing_params_path", "finetune_corpus_path"],
    "evaluate": ["reading_params_path", "eval_corpus_path", "outputs_path"],
}
# Size of the model: the handout's, where neither a flag nor the parameters to start from say another.
SIZE = {"n_layer": 4, "n_head": 8, "n_embd": 256, "block_size": 128}
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
    training.add_argument("--max_epochs", type=int, help="passes over the training set")
    training.add_argument("--batch_size", type=int, help="rows a step")
    training.add_argument("--dropout", type=float, help="at embedding, residual branches and attention")
    training.add_argument(
        "--checkpoint_minutes", type=float, help="minutes between two checkpoints, fractions allowed (default: 5)"
    )
    training.add_argument(
        "--resume",
        action="store_true",
        default=None,
        help="continue an interrupted run; nothing to do if it is complete; start afresh if there is none",
    )
    size = parser.add_argument_group("size", "(defaults: the handout's, or that of the parameters to start from)")
    for name, text in (("n_layer", "blocks"), ("n_head", "heads a block"), ("n_embd", "width")):
        size.add_argument(f"--{name}", type=int, help=f"{text} (handout: {SIZE[name]})")
    size.add_argument("--block_size", type=int, help=f"longest row (handout: {SIZE['block_size']})")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    machine.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the matrix products in training; auto: bfloat16 where the processor has it. "
        "Evaluation uses float32 unless told otherwise (default: %(default)s)",
    )
    logs = parser.add_argument_group("logs")
    logs.add_argument("--expt_dir", default="expt", help="folder of the TensorBoard logs (default: %(default)s)")


def parse(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, let the recipe set the defaults of the flags, and check everything (see `check`)."""
    args = parser.parse_args(argv)
    check(args)
    if args.function in TRAINING:
        recipe = RECIPES[args.recipe or DEFAULT_RECIPE]
        phase = recipe.phase(args.function, from_scratch=args.reading_params_path is None)
        changed = {name: getattr(phase, name) for name in ("max_epochs", "batch_size", "dropout")}
        changed |= {"pretrain_lr": recipe.pretrain.learning_rate}
        changed |= {"finetune_lr": (phase if args.function == "finetune" else recipe.finetune).learning_rate}
        parser.set_defaults(**{name: value for name, value in changed.items() if value is not None})
        args = parser.parse_args(argv)
        args.recipe = args.recipe or DEFAULT_RECIPE
    choose_size(args)
    return args


def choose_size(args: argparse.Namespace) -> None:
    """Fill in the size of the model: a flag's (a UserError if the parameters differ), theirs, or the handout's."""
    known = read_stamp(args.reading_params_path).get("size", {}) if args.reading_params_path else {}
    for name, usual in SIZE.items():
        given = getattr(args, name)
        if given is not None and known.get(name, given) != given:
            raise UserError(f"--{name} {given}: {args.reading_params_path} was made with {known[name]}; leave it out")
        setattr(args, name, given or known.get(name, usual))
    if args.n_embd % args.n_head or args.n_embd // args.n_head % 2:
        raise UserError(f"--n_embd {args.n_embd}: an even multiple of --n_head {args.n_head} is expected")


def check(args: argparse.Namespace) -> None:
    """Refuse what the function cannot do, before anything is read. UserError: naming the flag."""
    for flag in TRAINING_ONLY if args.function not in TRAINING else ():
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag}: {args.function} does not use it, only {' and '.join(TRAINING)}; leave it out")
    if args.function == "evaluate" and world_size() > 1:
        raise UserError("evaluate works in one process; leave torchrun out")
    for flag in NEEDED[args.function]:
        if getattr(args, flag) is None:
            raise UserError(f"{args.function} needs --{flag}")
    for flag, (fits, expected) in RANGES.items():
        value = getattr(args, flag)
        if value is not None and not fits(value):
            raise UserError(f"--{flag} {value}: {expected} is expected")
    output = "writing_params_path" if args.function in TRAINING else "outputs_path"
    path = getattr(args, output)
    check_writable(path)
    written = [path, checkpoint_path(path)] if args.function in TRAINING else [path]
    for name in ("pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path", "reading_params_path"):
        if any(same_file(getattr(args, name), place) for place in written):
            raise UserError(f"--{output} {path}: is also read, and would be lost; give another name")
    check_log_folder(args.expt_dir)

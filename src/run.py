"""Pretrain, finetune and evaluate a model: the command line of the homework.

    python src/run.py pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params
    python src/run.py finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params \\
        --writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv
    python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions

Torch is imported inside the functions, so that --help and mistakes in the arguments answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from recipes import DEFAULT_RECIPE, RECIPES, Phase, Recipe
from utils import (
    LINE_ENDS,
    MASK_CHAR,
    UserError,
    check_log_folder,
    check_writable,
    cli,
    describe_score,
    evaluate_places,
    fingerprint,
    hardware,
    pick_device,
    pick_precision,
    read_pairs,
    read_text,
    set_seed,
    wilson_interval,
    write_text,
)

if TYPE_CHECKING:
    import torch
    from torch.utils.tensorboard import SummaryWriter

    from dataset import CharCorruptionDataset
    from model import GPT
    from trainer import Trainer, TrainerConfig

BLOCK_SIZE = 128
ANSWER_STEPS = 32  # characters an answer may have

# Flags that only some functions use; any other function refuses them by name. The handout's own
# flags are accepted everywhere.
USED_BY = {
    "max_epochs": ("pretrain", "finetune"),
    "batch_size": ("pretrain", "finetune"),
    "dropout": ("pretrain", "finetune"),
    "decay_all": ("pretrain", "finetune"),
    "checkpoint_minutes": ("pretrain", "finetune"),
    "resume": ("pretrain", "finetune"),
    "recipe": ("pretrain", "finetune"),
}


@dataclass(frozen=True)
class Training:
    """What a finished training was: for result files. The loss is the mean of the last epoch's steps."""

    steps: int
    tokens: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Score:
    """What an evaluation found; correct is None for a file without answers."""

    total: int
    correct: int | None
    predictions: list[str]


# ---------------------------------------------------------------- the command line


def build_parser() -> argparse.ArgumentParser:
    """The parser of run.py; sensitivity.py extends it."""
    parser = argparse.ArgumentParser(
        description="Pretrain, finetune or evaluate a character GPT.",
        epilog="recipes: " + "; ".join(f"{name}: {recipe.about}" for name, recipe in RECIPES.items()),
        allow_abbrev=False,
    )
    parser.add_argument("function", choices=["pretrain", "finetune", "evaluate"], help="what to do")
    parser.add_argument("variant", choices=["vanilla", "rope"], help="learned or rotary positions")
    parser.add_argument("pretrain_corpus_path", help="the documents; they define the vocabulary in all functions")
    files = parser.add_argument_group("files")
    files.add_argument("--reading_params_path", help="parameters to start from")
    files.add_argument("--writing_params_path", help="where the trained parameters go")
    files.add_argument("--finetune_corpus_path", help="question-answer pairs to finetune on")
    files.add_argument("--eval_corpus_path", help="questions to answer, with or without answers")
    files.add_argument("--outputs_path", help="where the predictions go, one a line")
    training = parser.add_argument_group("training", "(defaults: the recipe's)")
    training.add_argument("--recipe", choices=RECIPES, help=f"named set of hyperparameters (default: {DEFAULT_RECIPE})")
    training.add_argument("--pretrain_lr", type=float, help="peak learning rate of pretraining (handout: 6e-3)")
    training.add_argument("--finetune_lr", type=float, help="peak learning rate of finetuning (handout: 6e-4)")
    training.add_argument("--max_epochs", type=int, help="passes over the training set")
    training.add_argument("--batch_size", type=int, help="rows a step")
    training.add_argument("--dropout", type=float, help="at embedding, residual branches and attention")
    training.add_argument(
        "--decay_all",
        action="store_true",
        default=None,
        help="weight decay on LayerNorms and embeddings too, as the course's own trainer has it",
    )
    training.add_argument(
        "--checkpoint_minutes", type=float, help="minutes between two checkpoints, fractions allowed (default: 5)"
    )
    training.add_argument(
        "--resume", action="store_true", default=None, help="continue an interrupted run; start afresh if there is none"
    )
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
    logs.add_argument("--tb_expt_name", default="run", help="name of the run in TensorBoard (default: %(default)s)")
    logs.add_argument("--expt_dir", default="expt", help="folder of the TensorBoard logs (default: %(default)s)")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Refuse what the function cannot do, before anything is read or imported.

    Raises:
        UserError: naming the flag.
    """
    for flag, users in USED_BY.items():
        if getattr(args, flag) is not None and args.function not in users:
            raise UserError(f"--{flag}: {args.function} does not use it, only {' and '.join(users)}; leave it out")
    needed = {
        "pretrain": ["writing_params_path"],
        "finetune": ["writing_params_path", "finetune_corpus_path"],
        "evaluate": ["reading_params_path", "eval_corpus_path", "outputs_path"],
    }
    for flag in needed[args.function]:
        if getattr(args, flag) is None:
            raise UserError(f"{args.function} needs --{flag}")
    ranges: list[tuple[str, Callable[[float], bool], str]] = [
        ("pretrain_lr", lambda v: 0 < v < float("inf"), "a number above 0"),
        ("finetune_lr", lambda v: 0 < v < float("inf"), "a number above 0"),
        ("max_epochs", lambda v: v >= 1, "at least 1"),
        ("batch_size", lambda v: v >= 1, "at least 1"),
        ("dropout", lambda v: 0 <= v < 1, "at least 0 and below 1"),
        ("checkpoint_minutes", lambda v: v > 0, "above 0"),
        ("seed", lambda v: 0 <= v < 2**63, "at least 0 and below 2^63"),
    ]
    for flag, fits, expected in ranges:
        value = getattr(args, flag)
        if value is not None and not fits(value):
            raise UserError(f"--{flag} {value}: {expected} is expected")
    is_training = args.function != "evaluate"
    output = "writing_params_path" if is_training else "outputs_path"
    path = getattr(args, output)
    check_writable(path)
    inputs = ["pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path"]
    for name in inputs if is_training else [*inputs, "reading_params_path"]:
        source = getattr(args, name)
        if source and os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
            raise UserError(f"--{output} {path}: is also read, and would be lost; give another name")
    check_log_folder(args.expt_dir)


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe of --recipe, the default one without it."""
    return RECIPES[args.recipe or DEFAULT_RECIPE]


def choose_phase(args: argparse.Namespace) -> Phase:
    """The recipe's hyperparameters for this run, with the command line's own on top."""
    recipe = recipe_of(args)
    if args.function == "pretrain":
        phase, rate = recipe.pretrain, args.pretrain_lr
    else:
        phase = recipe.finetune if args.reading_params_path else recipe.scratch
        rate = args.finetune_lr
    given = {"learning_rate": rate, "max_epochs": args.max_epochs, "batch_size": args.batch_size}
    given |= {"dropout": args.dropout, "decay_all": args.decay_all}
    return replace(phase, **{name: value for name, value in given.items() if value is not None})


# ---------------------------------------------------------------- what the functions share


def make_model(args: argparse.Namespace, vocab_size: int, dropout: float = 0.0) -> GPT:
    """The homework's model in the variant asked for: 4 layers, 8 heads, 256 wide."""
    from model import GPT, GPTConfig

    size = GPTConfig(vocab_size, BLOCK_SIZE, n_layer=4, n_head=8, n_embd=256)
    size = replace(size, embd_pdrop=dropout, resid_pdrop=dropout, attn_pdrop=dropout)
    if args.variant == "vanilla":
        # [part c] learned positions
        return GPT(size)
    # [part g] rotary positions
    return GPT(replace(size, rope=True))


def load_corpus(args: argparse.Namespace) -> CharCorruptionDataset:
    """The documents, corrupted by the recipe's rule."""
    from dataset import CharCorruptionDataset, Corruption

    path = args.pretrain_corpus_path
    rule = Corruption(**recipe_of(args).corruption)
    return CharCorruptionDataset(read_text(path), BLOCK_SIZE, rule, source=path)


def load_into(model: GPT, corpus: CharCorruptionDataset, args: argparse.Namespace) -> None:
    """Read --reading_params_path into a model, with a warning if another corpus of the same characters made it."""
    from checkpoint import load_params

    stamp = load_params(args.reading_params_path, model, vocabulary_of(corpus))
    made_with = stamp.get("settings", {}).get("corpus")
    if made_with and made_with != fingerprint(args.pretrain_corpus_path):
        print(
            f"warning: {args.reading_params_path}: was trained with another text of the same characters than "
            f"{args.pretrain_corpus_path} (its corpus was {stamp.get('corpus_path')}); make sure that you mean it",
            file=sys.stderr,
        )


def vocabulary_of(corpus: CharCorruptionDataset) -> str:
    """The hash that ties parameters to a vocabulary."""
    from checkpoint import vocabulary_hash

    return vocabulary_hash(corpus.itos)


def settings_of(args: argparse.Namespace, phase: Phase, device: torch.device, precision: str) -> dict[str, Any]:
    """All that decides how a training comes out: stored with its parameters, compared on --resume."""
    return {
        "function": args.function,
        "variant": args.variant,
        "recipe": args.recipe or DEFAULT_RECIPE,
        "seed": args.seed,
        "precision": precision,
        "device": device.type,
        "pretrained": args.function == "finetune" and args.reading_params_path is not None,
        "corpus": fingerprint(args.pretrain_corpus_path),
        "pairs": fingerprint(args.finetune_corpus_path) if args.function == "finetune" else None,
        "from": fingerprint(args.reading_params_path) if args.reading_params_path else None,
        "corruption": recipe_of(args).corruption,
        **asdict(phase),
    }


def config_of(phase: Phase, corpus: CharCorruptionDataset, dataset, precision: str, seed: int) -> TrainerConfig:
    """The phase as the trainer wants it, with lengths of the schedule in positions of padded batches."""
    from trainer import TrainerConfig

    run_length = dataset.width * len(dataset) * phase.max_epochs
    return TrainerConfig(
        max_epochs=phase.max_epochs,
        batch_size=phase.batch_size,
        learning_rate=phase.learning_rate,
        muon_lr=phase.muon_lr,
        lr_decay=True,
        warmup_tokens=512 * 20,
        final_tokens=phase.decay_epochs * len(corpus) * BLOCK_SIZE if phase.decay_epochs else run_length,
        decay_shape=phase.decay_shape,
        decay_all=phase.decay_all,
        precision=precision,
        seed=seed,
    )


def announce(args: argparse.Namespace, settings: dict[str, Any], trainer: Trainer, vocab_size: int) -> None:
    """Say what is about to happen: data, model, recipe, machine, output."""
    muon = f" (Muon {settings['muon_lr']:g})" if settings["muon_lr"] else ""
    print(
        f"{args.function} {args.variant}, recipe {settings['recipe']}: {len(trainer.train_dataset)} examples, "
        f"{vocab_size} characters, {sum(p.numel() for p in trainer.model.parameters()):,} parameters\n"
        f"{settings['max_epochs']} epochs, {trainer.total_steps} steps of {settings['batch_size']}, learning rate "
        f"{settings['learning_rate']:g}{muon}, dropout {settings['dropout']:g}, seed {args.seed}\n"
        f"device {hardware(trainer.device)}, {settings['precision']}; writes {args.writing_params_path}",
        flush=True,
    )


def train(args: argparse.Namespace, phase: Phase, model: GPT, corpus: CharCorruptionDataset, dataset) -> Training:
    """Train a model on a dataset as the phase says, log it, and write its parameters."""
    from callbacks import Checkpoints, Divergence, Progress, TensorBoardLog, duration
    from checkpoint import checkpoint_path, load_checkpoint, read_stamp, remove_scraps, save_checkpoint, save_params
    from trainer import DivergedError, Trainer

    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    settings = settings_of(args, phase, device, precision)
    trainer = Trainer(model, dataset, None, config_of(phase, corpus, dataset, precision, args.seed), device)
    path = checkpoint_path(args.writing_params_path)
    for written in (path, args.writing_params_path):
        remove_scraps(written)
    state = load_checkpoint(path, settings) if args.resume else None
    if state is not None:
        trainer.load_state_dict(state)
        print(f"resuming at step {trainer.step} of {trainer.total_steps} ({path})")
    announce(args, settings, trainer, corpus.vocab_size)
    progress, watch = Progress(), Divergence()
    keeper = Checkpoints(lambda s: save_checkpoint(path, s, settings), args.checkpoint_minutes or 5.0, watch)
    with open_log(log_folder(args)) as writer, contextlib.closing(progress), contextlib.closing(keeper):
        trainer.callbacks += [progress, TensorBoardLog(writer), watch, keeper]
        try:
            trainer.train()
        except DivergedError as error:
            kept = f"; {path} keeps the last good state" if path.exists() else ""
            raise DivergedError(f"{error} (--{args.function}_lr){kept}") from None
        if trainer.step < trainer.total_steps:
            print(f"stopped at step {trainer.step}; go on with the same command and --resume", file=sys.stderr)
            raise KeyboardInterrupt
        loss = sum(trainer.losses) / len(trainer.losses)
        hparams = {name: value for name, value in settings.items() if isinstance(value, int | float | str | bool)}
        writer.add_hparams(hparams, {"final/loss": loss}, run_name=".")
    result = Training(trainer.step, trainer.tokens, trainer.seconds, loss)
    stamp = {
        "vocabulary": vocabulary_of(corpus),
        "corpus_path": args.pretrain_corpus_path,
        "settings": settings,
        "hardware": hardware(device),
        "training": asdict(result),
        "pretraining": read_stamp(args.reading_params_path).get("training") if settings["pretrained"] else None,
    }
    save_params(args.writing_params_path, model, stamp)
    path.unlink(missing_ok=True)
    print(f"done: loss {loss:.3f}, {duration(trainer.seconds)}, {trainer.tokens:,} tokens; {args.writing_params_path}")
    return result


@contextlib.contextmanager
def open_log(folder: str) -> Iterator[SummaryWriter]:
    """TensorBoard's writer.

    Raises:
        UserError: the disk is full, or the folder cannot be written. (TensorBoard's thread would print a
            traceback of it, too; the error comes again with the next write.)
    """
    from torch.utils.tensorboard import SummaryWriter

    hook, threading.excepthook = threading.excepthook, lambda failure: None
    try:
        with SummaryWriter(folder) as writer:
            yield writer
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot be written ({reason}); make room, or log to another --expt_dir") from None
    finally:
        threading.excepthook = hook


def log_folder(args: argparse.Namespace) -> str:
    """TensorBoard's folder for a training: function, name, variant and both learning rates."""
    rates = f"pt_lr_{rate_of(args, 'pretrain'):f}_ft_lr_{rate_of(args, 'finetune'):f}"
    return f"{args.expt_dir}/{args.function}/{args.tb_expt_name}_{args.variant}_{rates}"


def rate_of(args: argparse.Namespace, function: str) -> float:
    """Learning rate in the name of the TensorBoard folder: the flag's, else the recipe's."""
    phase = getattr(recipe_of(args), function)
    return getattr(args, f"{function}_lr") or phase.learning_rate


# ---------------------------------------------------------------- [part f] pretrain


def pretrain(args: argparse.Namespace) -> Training:
    """Train on the span corruption of the documents and write the parameters."""
    phase = choose_phase(args)
    corpus = load_corpus(args)
    model = make_model(args, corpus.vocab_size, phase.dropout)
    if args.reading_params_path:
        load_into(model, corpus, args)
    return train(args, phase, model, corpus, corpus)


# ---------------------------------------------------------------- [part c] and [part f] finetune


def finetune(args: argparse.Namespace) -> Training:
    """Train on question-answer pairs, from pretrained parameters if given, and write the parameters."""
    from dataset import Mixture, NameDataset

    phase = choose_phase(args)
    corpus = load_corpus(args)
    pairs = NameDataset(corpus, read_text(args.finetune_corpus_path), args.finetune_corpus_path)
    dataset = Mixture(pairs, corpus) if phase.with_documents else pairs
    model = make_model(args, corpus.vocab_size, phase.dropout)
    if args.reading_params_path:
        # [part f] start from what pretraining has learned
        load_into(model, corpus, args)
    return train(args, phase, model, corpus, dataset)


# ---------------------------------------------------------------- evaluate


def load_for_answers(args: argparse.Namespace) -> tuple[GPT, CharCorruptionDataset]:
    """The model of --reading_params_path on its device, and the corpus with its vocabulary."""
    device = pick_device(args.device)
    corpus = load_corpus(args)
    model = make_model(args, corpus.vocab_size)
    load_into(model, corpus, args)
    return model.to(device).eval(), corpus


def answer(model: GPT, corpus: CharCorruptionDataset, questions: list[str], where: str, precision: str) -> list[str]:
    """The model's greedy answers, each on one line whatever it emits.

    A character that the corpus lacks is left out of its question, and a line says how often.

    Raises:
        UserError: a question does not fit the block.
    """
    import torch

    from utils import generate

    prompts, mended = [], 0
    for number, question in enumerate(questions, 1):
        known = "".join(c for c in question if c in corpus.stoi)
        mended += known != question
        if len(known) + 1 > corpus.block_size:
            raise UserError(
                f"{where}, line {number}: the question has {len(question)} characters, "
                f"{corpus.block_size - 1} fit; shorten it"
            )
        prompts.append(torch.tensor([corpus.stoi[c] for c in known + MASK_CHAR]))
    if mended:
        count = "1 question has" if mended == 1 else f"{mended} questions have"
        print(f"{where}: {count} characters that the corpus lacks; asked without them")
    device = model.head.weight.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        rows = generate(model, prompts, ANSWER_STEPS, stop=corpus.stoi[MASK_CHAR])
    texts = ("".join(corpus.itos[t] for t in row).split(MASK_CHAR)[0] for row in rows)
    return [" ".join(text.split()) if set(LINE_ENDS + "\t") & set(text) else text for text in texts]


def evaluate(args: argparse.Namespace) -> Score:
    """Answer every question of a file, write the predictions, and print the accuracy if it has answers."""
    questions = [q for _, q, _ in read_pairs(read_text(args.eval_corpus_path), args.eval_corpus_path)]
    model, corpus = load_for_answers(args)
    precision = "float32" if args.precision == "auto" else args.precision
    print(
        f"evaluate {args.variant}: {len(questions)} questions of {args.eval_corpus_path}, parameters "
        f"{args.reading_params_path}\ndevice {hardware(model.head.weight.device)}, {precision}"
    )
    predictions = answer(model, corpus, questions, args.eval_corpus_path, precision)
    write_text(args.outputs_path, "".join(p + "\n" for p in predictions))
    total, correct = evaluate_places(args.eval_corpus_path, predictions)
    if not total:
        print(f"Predictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
        return Score(len(questions), None, predictions)
    print(describe_score(total, correct))
    low, high = wilson_interval(correct, total)
    print(f"95 % interval {low:.1%} to {high:.1%}; predictions written to {args.outputs_path}")
    log_accuracy(args, correct / total)
    return Score(int(total), int(correct), predictions)


def log_accuracy(args: argparse.Namespace, accuracy: float) -> None:
    """The accuracy as a scalar for TensorBoard, in a folder named after the parameters."""
    from pathlib import Path

    name = f"{args.tb_expt_name}_{args.variant}_{Path(args.reading_params_path).name}"
    with open_log(f"{args.expt_dir}/evaluate/{name}") as writer:
        writer.add_scalar(f"accuracy/{Path(args.eval_corpus_path).stem}", accuracy, 0)


def run(args: argparse.Namespace) -> Any:
    """Check the arguments and do what they say: a Training or a Score."""
    check_args(args)
    set_seed(args.seed)
    return {"pretrain": pretrain, "finetune": finetune, "evaluate": evaluate}[args.function](args)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line."""
    run(build_parser().parse_args(argv))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""A training with all that makes it comfortable: recipe, machine, progress, logs, checkpoints, a stamp."""

import argparse
import contextlib
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from dataset import CharCorruptionDataset
from engine.callbacks import Checkpoints, Divergence, Progress, TensorBoardLog, duration, open_log
from engine.checkpoints import (
    checkpoint_path,
    difference,
    load_checkpoint,
    load_params,
    read_stamp,
    save_checkpoint,
    save_params,
    vocabulary_hash,
)
from engine.files import fingerprint, remove_scraps
from engine.machine import hardware, micro_rows, pick_device, pick_precision, quicken
from engine.muon import muon_and_adamw
from engine.options import SIZE
from engine.processes import world_size
from engine.recipes import RECIPES, Phase, Recipe
from engine.targets import Aim, Excerpts, Spans, Together
from model import GPT
from trainer import DivergedError, Trainer, TrainerConfig, adamw
from utils import UserError, read_text


@dataclass(frozen=True)
class Training:
    """What a finished training was: for result files. The loss is the mean of the last epoch's steps."""

    steps: int
    tokens: int
    seconds: float
    loss: float


def read_into(model: GPT, path: str, documents: CharCorruptionDataset, corpus_path: str) -> None:
    """Read parameters into a model, with a warning if another corpus of the same characters made them."""
    stamp = load_params(path, model, vocabulary_hash(documents.itos))
    made_with = stamp.get("settings", {}).get("corpus")
    if made_with and made_with != fingerprint(read_text(corpus_path)):
        print(
            f"warning: {path}: was trained with another text of the same characters than "
            f"{corpus_path} (its corpus was {stamp.get('corpus_path')}); make sure that you mean it",
            file=sys.stderr,
        )


def train(
    args: argparse.Namespace, model: GPT, documents: CharCorruptionDataset, dataset: Dataset, config: TrainerConfig
) -> Training:
    """Train a model as run.py says, with what the recipe changes on top, and write its parameters.

    With --resume, a run that is complete already is left alone, and one that was cut off goes on.
    """
    recipe = RECIPES[args.recipe]
    phase = recipe.phase(args.function, from_scratch=args.reading_params_path is None)
    dataset, config = adapt(recipe, phase, documents, dataset, config)
    settings = settings_of(args, recipe, phase, config) | {"dropout": model.drop.p}
    path = checkpoint_path(args.writing_params_path)
    for written in (path, args.writing_params_path):
        remove_scraps(written)
    if args.resume and (done := finished(args.writing_params_path, settings, path)):
        path.unlink(missing_ok=True)
        print(f"{args.writing_params_path}: already complete")
        return done
    device = pick_device(args.device)
    state = load_checkpoint(path, settings) if args.resume else None
    settings["precision"] = state[1]["precision"] if state else pick_precision(args.precision, device)
    config = replace(config, precision=settings["precision"])
    if device.type == "cpu":
        config = replace(config, micro_rows=micro_rows(config.batch_size // world_size()))
        quicken(model)
    elif device.type == "cuda":
        config = replace(config, num_workers=2)
    make = muon_and_adamw(phase.muon_lr) if phase.muon_lr else adamw
    trainer = Trainer(model, dataset, None, config, device, make)
    if state:
        trainer.load_state_dict(state[0])
        print(f"resuming at step {trainer.step} of {trainer.total_steps} ({path})")
    announce(args, settings, trainer, documents.vocab_size)
    loss = run(args, trainer, settings, path)
    result = Training(trainer.step, trainer.tokens, trainer.seconds, loss)
    if trainer.rank:
        return result
    stamp = {
        "vocabulary": vocabulary_hash(documents.itos),
        "corpus_path": args.pretrain_corpus_path,
        "size": {name: getattr(args, name) for name in SIZE},
        "settings": settings,
        "hardware": hardware(device),
        "training": asdict(result),
        "pretraining": read_stamp(args.reading_params_path).get("training") if args.reading_params_path else None,
    }
    save_params(args.writing_params_path, model, stamp)
    path.unlink(missing_ok=True)
    print(f"done: loss {loss:.3f}, {duration(trainer.seconds)}, {trainer.tokens:,} tokens; {args.writing_params_path}")
    return result


def adapt(
    recipe: Recipe, phase: Phase, documents: CharCorruptionDataset, dataset: Dataset, config: TrainerConfig
) -> tuple[Dataset, TrainerConfig]:
    """What no flag can say: the recipe's spans, documents beside the pairs, and the shape of the decay."""
    targeted = documents
    if recipe.spans is not None:
        targeted = (Spans if isinstance(recipe.spans, Aim) else Excerpts)(documents, recipe.spans)
    if dataset is documents:
        dataset = targeted
    elif phase.with_documents:
        dataset = Together(dataset, targeted)
    if phase.decay_shape is not None:  # to the end of the run
        length = len(dataset) * len(dataset[0][0]) * config.max_epochs
        config = replace(config, decay_shape=phase.decay_shape, final_tokens=length)
    return dataset, config


def settings_of(args: argparse.Namespace, recipe: Recipe, phase: Phase, config: TrainerConfig) -> dict[str, Any]:
    """All that decides how a training comes out, but for the machine: stored with it, compared on --resume."""
    start = args.reading_params_path
    kept = ("max_epochs", "batch_size", "learning_rate", "decay_shape", "final_tokens", "weight_decay", "seed")
    return {
        "function": args.function,
        "variant": args.variant,
        "recipe": args.recipe,
        "corpus": fingerprint(read_text(args.pretrain_corpus_path)),
        "pairs": fingerprint(read_text(args.finetune_corpus_path)) if args.function == "finetune" else None,
        "from": fingerprint(Path(start).read_bytes()) if start else None,
        "spans": f"{recipe.spans}" if recipe.spans else None,
        "muon_lr": phase.muon_lr,
        "with_documents": phase.with_documents,
        "precision": None if args.precision == "auto" else args.precision,
        **{name: getattr(args, name) for name in SIZE},
        **{name: getattr(config, name) for name in kept},
    }


def finished(params_path: str, settings: dict[str, Any], checkpoint: Path) -> Training | None:
    """The training that made the parameters, if its settings were these; else a line says what differs."""
    if not Path(params_path).exists():
        return None
    try:
        stamp = read_stamp(params_path)
    except UserError:  # whatever lies there is not ours, and is replaced in the end
        stamp = {}
    says = stamp.get("format") and {"settings", "training"} <= set(stamp)
    what = difference(stamp["settings"], settings) if says else "do not say how they were made"
    if what is None:
        return Training(**stamp["training"])
    if not checkpoint.exists():
        what = what if what.startswith("do not") else f"were made with {what}"
        print(f"{params_path}: is there, but the parameters {what}; trained afresh")
    return None


def announce(args: argparse.Namespace, settings: dict[str, Any], trainer: Trainer, vocab_size: int) -> None:
    """Say what is about to happen: data, model, recipe, machine, output."""
    muon = f" (Muon {settings['muon_lr']:g})" if settings["muon_lr"] else ""
    print(
        f"{args.function} {args.variant}, recipe {settings['recipe']}: {len(trainer.train_dataset)} examples, "
        f"{vocab_size} characters, {sum(p.numel() for p in trainer.model.parameters()):,} parameters\n"
        f"{settings['max_epochs']} epochs, {trainer.total_steps} steps of {settings['batch_size']}, learning rate "
        f"{settings['learning_rate']:g}{muon}, dropout {trainer.model.drop.p:g}, seed {args.seed}\n"
        f"device {hardware(trainer.device)}, {settings['precision']}; writes {args.writing_params_path}",
        flush=True,
    )


def run(args: argparse.Namespace, trainer: Trainer, settings: dict[str, Any], checkpoint: Path) -> float:
    """Train to the end with progress bar, TensorBoard and checkpoints; returns the mean loss of the last epoch.

    KeyboardInterrupt: the run was told to stop. DivergedError: the loss is no number, or stays high.
    """
    if trainer.rank:  # the first of several processes alone logs and keeps
        trainer.train()
        return 0.0
    folder = log_folder(args)
    if not args.resume and any(Path(folder).glob("events.out.tfevents.*")):
        print(
            f"note: {folder} has the log of an earlier run, and TensorBoard will draw both as one curve; "
            "--tb_expt_name names this one"
        )
    progress, watch = Progress(), Divergence()
    keeper = Checkpoints(lambda s: save_checkpoint(checkpoint, s, settings), args.checkpoint_minutes or 5.0, watch)
    first = trainer.step + 1 if args.resume else None
    with open_log(folder, first) as writer, contextlib.closing(progress), contextlib.closing(keeper):
        trainer.config.writer = writer
        trainer.callbacks += [progress, TensorBoardLog(), watch, keeper]
        try:
            trainer.train()
        except DivergedError as error:
            kept = f"; {checkpoint} keeps the last good state" if checkpoint.exists() else ""
            raise DivergedError(f"{error} (--{args.function}_lr){kept}") from None
        if trainer.step < trainer.total_steps:
            print(f"stopped at step {trainer.step}; go on with the same command and --resume", file=sys.stderr)
            raise KeyboardInterrupt
        loss = sum(trainer.losses) / len(trainer.losses)
        hparams = {name: value for name, value in settings.items() if isinstance(value, int | float | str | bool)}
        writer.add_hparams(hparams, {"final/loss": loss}, run_name=".")
    return loss


def log_folder(args: argparse.Namespace) -> str:
    """TensorBoard's folder for a training: function, name, variant and both learning rates."""
    rates = f"pt_lr_{args.pretrain_lr:f}_ft_lr_{args.finetune_lr:f}"
    return f"{args.expt_dir}/{args.function}/{args.tb_expt_name}_{args.variant}_{rates}"


def log_accuracy(args: argparse.Namespace, accuracy: float) -> None:
    """The accuracy as a scalar for TensorBoard, in a folder named after the parameters."""
    name = f"{args.tb_expt_name}_{args.variant}_{Path(args.reading_params_path).name}"
    with open_log(f"{args.expt_dir}/evaluate/{name}") as writer:
        writer.add_scalar(f"accuracy/{Path(args.eval_corpus_path).stem}", accuracy, 0)

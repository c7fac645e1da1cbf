"""What surrounds a training run: resuming, progress bar, TensorBoard, checkpoints, and a record of how it was made."""

import argparse
import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tqdm import tqdm

from dataset import CharCorruptionDataset
from engine.callbacks import Checkpoints, Divergence, Progress, TensorBoardLog, duration, open_log
from engine.checkpoints import FORMAT, difference, load_checkpoint, read_stamp
from engine.machine import hardware, quicken
from engine.options import SIZE
from trainer import DivergedError, Trainer
from utils import UserError, fingerprint, read_text


@dataclass(frozen=True)
class Training:
    """What a finished training was, for result files. The loss is the mean over the last epoch's steps."""

    steps: int
    tokens: int
    seconds: float
    loss: float


@dataclass
class Run:
    """A training run as run.py sees it; see `around`."""

    trainer: Trainer
    args: argparse.Namespace
    documents: CharCorruptionDataset
    settings: dict[str, Any]
    pretraining: dict[str, Any] | None = None  # training record of the starting parameters, if they have one
    is_complete: bool = False  # --resume found the finished parameters of this run
    result: Training | None = None

    def stamp(self) -> dict[str, Any]:
        """How the parameters were made; travels with them (see `checkpoints.save_params`)."""
        return {
            "vocabulary": fingerprint("".join(self.documents.itos.values())),
            "corpus_path": self.args.pretrain_corpus_path,
            "size": {name: getattr(self.args, name) for name in SIZE},
            "settings": self.settings | {"precision": self.trainer.config.precision},
            "hardware": hardware(self.trainer.device),
            "training": asdict(self.training()),
            "pretraining": self.pretraining,
        }

    def training(self) -> Training:
        """The trainer's counters."""
        trainer = self.trainer
        return Training(trainer.step, trainer.tokens, trainer.seconds, sum(trainer.losses) / len(trainer.losses))


@contextlib.contextmanager
def around(trainer: Trainer, args: argparse.Namespace, documents: CharCorruptionDataset) -> Iterator[Run]:
    """Watch over a training: `with around(...) as run: trainer.train(); save_params(...)`.

    With --resume, the trainer continues from its checkpoint; `run.is_complete` says that there is nothing left to do.
    At the end `run.result` describes the training, and the checkpoint is deleted.

    Raises:
        KeyboardInterrupt: the run was told to stop by a signal (Ctrl-C, SIGTERM and others).
        UserError: the loss diverged.
    """
    start = args.reading_params_path  # read now: it may be gone at the end
    earlier = read_stamp(start).get("training") if start else None
    run = Run(trainer, args, documents, settings_of(args, trainer), earlier)
    path = args.checkpoint_path
    if args.resume and (done := finished(args.writing_params_path, run.settings, path)):
        path.unlink(missing_ok=True)
        print(f"{args.writing_params_path}: already complete")
        run.is_complete, run.result = True, done
        yield run
        return
    state = load_checkpoint(path, run.settings) if args.resume else None
    if state is not None:
        trainer.load_state_dict(state)
        print(f"resuming at step {trainer.step} of {trainer.total_steps} ({path})")
    if trainer.device.type == "cpu":
        quicken(trainer.model)
    announce(trainer, args, documents.vocab_size)
    if dist.is_initialized() and dist.get_rank():  # of several processes only the first logs and saves
        yield run
        return
    rates = f"pt_lr_{args.pretrain_lr:f}_ft_lr_{args.finetune_lr:f}"
    folder = f"{args.expt_dir}/{args.function}/{args.tb_expt_name}_{args.variant}_{rates}"
    if not args.resume and any(Path(folder).glob("events.out.tfevents.*")):
        print(
            f"note: {folder} has the log of an earlier run, and TensorBoard will draw both as one curve; "
            "--tb_expt_name gives this one its own name"
        )
    settings = run.settings | {"precision": trainer.config.precision}
    divergence = Divergence()
    checkpoints = Checkpoints(path, settings, args.checkpoint_minutes or 5.0, divergence)
    bar = tqdm(total=trainer.total_steps, initial=trainer.step, unit="step", dynamic_ncols=True, disable=None)
    with open_log(folder, trainer.step + 1 if args.resume else None) as writer, bar, checkpoints:
        trainer.writer = writer
        trainer.callbacks += [Progress(bar), TensorBoardLog(), divergence, checkpoints]
        try:
            yield run
        except DivergedError as error:
            kept = f"; {path} keeps the last good state" if path.exists() else ""
            raise UserError(f"{error} (--{args.function}_lr){kept}") from None
        run.result = run.training()
        hparams = {name: value for name, value in settings.items() if isinstance(value, int | float | str | bool)}
        writer.add_hparams(hparams, {"final/loss": run.result.loss}, run_name=".")
    path.unlink(missing_ok=True)
    told = f"done: loss {run.result.loss:.3f}, {duration(trainer.seconds)}, {trainer.tokens:,} tokens"
    print(f"{told}; {args.writing_params_path}")


def settings_of(args: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """All settings but the machine that affect the result: stored with the run, compared on --resume.

    A precision that was not asked for is None: a run may be resumed in the precision it was begun in.
    """
    start = args.reading_params_path
    kept = (
        "max_epochs",
        "batch_size",
        "learning_rate",
        "decay_shape",
        "final_tokens",
        "weight_decay",
        "seed",
    )
    return {
        "function": args.function,
        "variant": args.variant,
        "recipe": args.recipe,
        "corpus": fingerprint(read_text(args.pretrain_corpus_path)),
        "pairs": fingerprint(read_text(args.finetune_corpus_path)) if args.function == "finetune" else None,
        "from": fingerprint(Path(start).read_bytes()) if start else None,
        "muon_lr": args.phase.muon_lr,
        "excerpts": f"{args.phase.excerpts}" if args.phase.excerpts else None,
        "precision": None if args.precision == "auto" else args.precision,
        "dropout": trainer.model.drop.p,
        **{name: getattr(args, name) for name in SIZE},
        **{name: getattr(trainer.config, name) for name in kept},
    }


def finished(params_path: str, settings: dict[str, Any], checkpoint: Path) -> Training | None:
    """The training that made the parameters, if its settings were these; else None.

    Prints why they do not count, unless there is a checkpoint to continue from.
    """
    if not Path(params_path).exists():
        return None
    try:
        stamp = read_stamp(params_path)
    except UserError:  # not a parameter file; it is replaced in the end
        stamp = {}
    if "settings" in stamp and "training" in stamp and stamp.get("format") == FORMAT:
        what = difference(stamp["settings"], settings)
        if what is None:
            return Training(**stamp["training"])
        reason = f"were made with {what}"
    else:
        reason = "were written by another version or by other code"
    if not checkpoint.exists():
        print(f"{params_path}: exists, but the parameters {reason}; training afresh")
    return None


def announce(trainer: Trainer, args: argparse.Namespace, vocab_size: int) -> None:
    """Print what is about to happen: data, model, recipe, machine, output."""
    config = trainer.config
    muon = f" (Muon {args.phase.muon_lr:g})" if args.phase.muon_lr else ""
    print(
        f"{args.function} {args.variant}, recipe {args.recipe}: {len(trainer.train_dataset)} examples, "
        f"{vocab_size} characters, {sum(p.numel() for p in trainer.model.parameters()):,} parameters\n"
        f"{config.max_epochs} epochs, {trainer.total_steps} steps of {config.batch_size}, learning rate "
        f"{config.learning_rate:g}{muon}, dropout {trainer.model.drop.p:g}, seed {config.seed}\n"
        f"device {trainer.device}, {config.precision}; writes {args.writing_params_path}",
        flush=True,
    )

"""How accurate a recipe is, after how much pretraining, and which of its choices matter.

    python experiments/recall.py accuracy --recipe fast --variant rope --seed 1
    python experiments/recall.py accuracy --epochs 24                # another length of pretraining
    python experiments/recall.py accuracy --change "AdamW alone"     # one choice changed
    python experiments/recall.py learning                   # the loss on places during the pretraining, epoch by epoch
    python experiments/recall.py exposures expt/recall/FOLDER ...    # accuracy by how often a place was asked for
    python experiments/recall.py losses expt/recall/FOLDER ...       # the losses of the handout's recipe

`accuracy` and `learning` train one model with the commands of the homework in a folder under expt/recall/, and add its
rows to results/accuracy.csv or results/learning.csv. A training that was cut off is continued by the same command; one
that has its rows is skipped. Several at a time, one thread each:

    printf '%s\\n' 0 1 2 3 | OMP_NUM_THREADS=1 xargs -P 2 -I {} python experiments/recall.py accuracy --seed {}
"""

import argparse
import math
import re
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

import run
from batches import Batches
from dataset import CharCorruptionDataset
from engine import options
from engine.checkpoints import FORMAT, read_stamp
from engine.machine import hardware, pick_device, pick_precision
from engine.recipes import MAIN_RECIPE, RECIPES, apply
from experiments.confidence import confidence, own_documents, read_places, stands_in
from report import rows
from report.experiment_tables import STEPS
from report.tables import PRETRAINED, percent
from scripts.reproduce import Reproduction, scalars
from trainer import Callback, Trainer, TrainerConfig
from utils import MASK_CHAR, UserError, cli, fingerprint, read_text

# What an ablation changes, as `run.py --change` takes it.
ABLATIONS = {
    "AdamW alone": ["pretrain.muon_lr=None"],
    "batch 128": ["pretrain.batch_size=128"],
    "finetuning on the pairs alone": ["finetune.excerpts=None"],
}
SMOOTHED = 230  # each loss is the mean of the steps around it, half of them before


# ---------------------------------------------------------------- trainings


def train(args: argparse.Namespace) -> None:
    """Train one model, unless it has its rows: `accuracy` adds a row of it, `learning` one after every epoch."""
    run_of, what, changes = {"recipe": args.recipe, "variant": args.variant, "seed": args.seed}, {}, []
    if args.epochs is not None and args.epochs != (RECIPES[args.recipe].pretrain.max_epochs or 650):
        what["epochs"] = args.epochs
        changes.append(f"pretrain.max_epochs={args.epochs}")
    if args.change:
        what["change"] = args.change
        changes += ABLATIONS[args.change]
    name = [args.data_name, *run_of.values(), *what.values(), *(["learning"] if args.command == "learning" else [])]
    folder = args.out.resolve() / re.sub(r"\W+", "_", " ".join(map(str, name)))
    steps = Reproduction(args.recipe, args.seed, args.data.resolve(), args.data_name, args.device, folder, changes)
    words = [args.command, *(word for flag, value in (run_of | what).items() for word in (f"--{flag}", str(value)))]
    device = pick_device(args.device)
    steps.made |= what | {"variant": args.variant, "hardware": hardware(device), "precision": pick_precision(device)}
    steps.made["command"] = shlex.join(["python", "experiments/recall.py", *words]) + rows.data_flags(args.data_name)
    wanted = {name: steps.row(args.variant)[name] for name in (*rows.TRAINED, "settings", "corpus")}
    have = rows.select(rows.read(args.command, args.results), **wanted)
    complete = have["epoch"] == have["epochs"] if args.command == "learning" else have["model"].isin(PRETRAINED)
    if complete.any():
        print("already done")
    elif args.command == "learning":
        argv = ["pretrain", args.variant, f"{steps.data}/wiki.txt", "--recipe", args.recipe, "--seed", str(args.seed)]
        argv += ["--writing_params_path", f"{folder}/pretrain.params", "--expt_dir", f"{folder}/logs", "--resume"]
        argv += ["--device", args.device, *(["--change", *changes] if changes else [])]
        probe = Probe(steps.row(args.variant), steps.data, args.results)
        run.pretrain(options.parse(run.build_parser(), argv), probe.trainer)
    else:
        row = steps.pretrained(args.variant)
        if args.variant == "rope":  # part 4(a), too
            reworded, _ = steps.reworded({name: row[name] for name in ("hardware", "precision")})
            rows.add("accuracy", reworded, args.results)
        print(f"\n{rows.add('accuracy', row, args.results)}: dev {percent(row['dev'], row['n'])}")


class Probe(Callback):
    """Adds a row after every epoch: the loss on the places of dev people, and how much the model was trained on.

    Each place that stands in the person's document is asked for behind the name alone, `NAME. MASK PLACE MASK`: so the
    loss is low only if the name recalls the place.
    """

    def __init__(self, row: dict, data: Path, results: Path):
        self.row, self.results = row, results
        self.documents = CharCorruptionDataset(read_text(data / "wiki.txt"), 128, str(data / "wiki.txt"))
        places = read_places(data / "birth_dev.tsv")
        own = own_documents(self.documents.data, places)
        self.places = {who: place for who, place in places.items() if stands_in(place, own[who])}

    def trainer(self, *args) -> Trainer:
        """A Trainer that tells this probe when an epoch ends."""
        trainer = Trainer(*args)
        trainer.callbacks.append(self)
        return trainer

    def on_epoch(self, trainer: Trainer) -> None:
        trainer.model.eval()
        losses = [-math.log(confidence(trainer.model, self.documents, f"{n}. ", p)) for n, p in self.places.items()]
        trainer.model.train()
        loss = sum(losses) / sum(len(place) + 1 for place in self.places.values())  # a character
        epoch = {"epochs": trainer.config.max_epochs, "epoch": trainer.step // trainer.steps_per_epoch}
        found = {"tokens": trainer.tokens, "place_loss": round(loss, 4)}
        rows.add("learning", self.row | epoch | found, self.results)


# ---------------------------------------------------------------- reading finished trainings


def exposures(args: argparse.Namespace) -> None:
    """Count correct dev answers by how often the pretraining asked for the place, a row for each count."""
    text, people = read_text(args.data / "wiki.txt"), read_places(args.data / "birth_dev.tsv")
    documents = CharCorruptionDataset(text, 128, str(args.data / "wiki.txt"))
    for folder in args.folders:
        settings, row = pretraining(folder, args)
        if fingerprint(text) != settings["corpus"]:
            raise UserError(f"{args.data / 'wiki.txt'}: is not the corpus of {folder}; name the right one with --data")
        asked, correct = times_asked(settings, documents, people), defaultdict(list)
        predictions = (folder / f"{settings['variant']}.pretrain.dev.predictions").read_text("utf-8")
        answers = predictions.removesuffix("\n").split("\n")
        for (name, place), prediction in zip(people.items(), answers, strict=True):
            correct[asked[name]].append(prediction == place)
        row["epochs"] = settings["max_epochs"]
        counts = [{"times": times, "n": len(found), "right": sum(found)} for times, found in sorted(correct.items())]
        print(rows.add("exposures", [row | count for count in counts], args.results))


def times_asked(settings: dict, documents: CharCorruptionDataset, people: dict[str, str]) -> dict[str, int]:
    """How often a pretraining asked for each person's place, alone or in a longer span; draws its examples again.

    Args:
        settings: those of the pretraining, as its parameters have them.
        people: places by names.

    Raises:
        UserError: the recipe has changed since, or a person has no document.
    """
    phase = RECIPES[settings["recipe"]].pretrain
    if settings["excerpts"] != (str(phase.excerpts) if phase.excerpts else None):
        raise UserError(f"recipe {settings['recipe']}: cuts its excerpts differently now; train it again")
    number = {name: i for i, line in enumerate(documents.data) for name in people if line.startswith(f"{name}. ")}
    if missing := sorted(set(people) - set(number)):
        raise UserError(f"the corpus has no document whose title is {missing[0]!r}; name the right one with --data")
    examples, _, _ = apply(phase, documents, documents, TrainerConfig())
    name_of, asked = {i: name for name, i in number.items()}, dict.fromkeys(people, 0)

    class Counted(Dataset):
        """The examples of the pretraining; counts the places that are asked for."""

        def __len__(self) -> int:
            return len(examples)

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            x, y = examples[i]
            if name := name_of.get(i):
                span = "".join(documents.itos[i] for i in x.tolist()).split(MASK_CHAR)[2]
                asked[name] += stands_in(people[name], span)
            return x, y

    batches = Batches(Counted(), settings["seed"])
    for epoch in range(settings["max_epochs"]):
        _ = batches[epoch, list(range(len(examples)))]
    return asked


def losses(args: argparse.Namespace) -> None:
    """Smooth the pretraining losses of the handout's recipe, a row for each step of the public curves."""
    for folder in args.folders:
        settings, row = pretraining(folder, args)
        if settings["recipe"] != "handout":
            raise UserError(f"{folder}: is of recipe {settings['recipe']}; the public curves are of handout")
        values = logged(folder / "logs", "train/loss")
        steps = [step for step in STEPS if step <= len(values)]
        around = [values[max(0, step - SMOOTHED // 2) : step + SMOOTHED // 2] for step in steps]
        means = [round(statistics.fmean(part), 4) for part in around]
        lines = [row | {"step": step, "loss": mean} for step, mean in zip(steps, means, strict=True)]
        print(rows.add("losses", lines, args.results))


def logged(folder: Path, tag: str) -> list[float]:
    """A scalar of every step of the pretraining in a folder of TensorBoard logs. UserError: there is none."""
    logs = sorted(folder.glob("pretrain/*"))
    if not logs:
        raise UserError(f"{folder}: has no log of a pretraining; train it again")
    return scalars(logs[0], tag)


def pretraining(folder: Path, args: argparse.Namespace) -> tuple[dict, dict]:
    """The settings of the pretraining in a folder, and the columns of a row that say which run it is."""
    found = sorted(folder.glob("*.pretrain.params"))
    if not found:
        raise UserError(f"{folder}: holds no parameters of a pretraining; give a folder under expt/recall/")
    if folder.resolve().name.endswith(tuple(re.sub(r"\W+", "_", change) for change in ABLATIONS)):
        raise UserError(f"{folder}: is of a changed recipe; its rows would replace those of the recipe as it is")
    stamp = read_stamp(found[0])
    if stamp.get("format") != FORMAT:
        raise UserError(f"{found[0]}: was made by another version, which may have drawn other examples; train it again")
    settings, command = stamp["settings"], f"python experiments/recall.py {args.command} FOLDER"
    made = {"hardware": stamp["hardware"], "precision": settings["precision"]}
    row = rows.provenance(command, args.data_name, settings["corpus"], settings["seed"], **made)
    return settings, row | {"variant": settings["variant"], "recipe": settings["recipe"]}


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description="Accuracy of recipes, and where it comes from.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    common = rows.flags()
    for name, text in (
        ("accuracy", "train a recipe, as it is or with a change"),
        ("learning", "pretrain it, and measure the loss on places after every epoch"),
    ):
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(function=train)
        recipes = [name for name, recipe in RECIPES.items() if recipe.people is None]
        command.add_argument("--recipe", choices=recipes, default=MAIN_RECIPE, help="default: %(default)s")
        command.add_argument("--variant", choices=["rope", "vanilla"], default="rope", help="default: %(default)s")
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
        command.add_argument("--device", default="auto", help="default: %(default)s")
        out = rows.ROOT / "expt" / "recall"
        command.add_argument(
            "--out", type=Path, default=out, help="where each training gets a folder (default: expt/recall)"
        )
        command.add_argument("--epochs", type=int, help="epochs of pretraining (default: the recipe's)")
        command.add_argument("--change", choices=ABLATIONS, help="one choice that is changed (default: none)")
    for function in (exposures, losses):
        text = function.__doc__
        command = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("folders", nargs="+", type=Path, help="folders of finished trainings, under expt/recall/")
    args = parser.parse_args(argv)
    args.data_name = args.data_name or rows.data_name(args.data)
    args.function(args)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

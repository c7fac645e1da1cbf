"""How accurate a recipe is, after how much pretraining, and which of its choices matter.

    python experiments/recall.py accuracy --recipe fast --variant rope --seed 1
    python experiments/recall.py curve --epochs 20                          # another length of pretraining
    python experiments/recall.py ablation --epochs 40 --change "cut anywhere"    # one choice changed
    python experiments/recall.py exposures expt/recall/FOLDER ...    # accuracy by how often a place was asked for
    python experiments/recall.py losses expt/recall/FOLDER ...       # the losses of the handout's recipe

Each of the first three trains one model with the commands of the homework in a folder under expt/recall/, and adds
its row to results/COMMAND.csv. A training that was cut off is continued by the same command; one that has its row is
skipped. Several at a time, one thread each:

    printf '%s\\n' 0 1 2 3 | OMP_NUM_THREADS=1 xargs -P 2 -I {} python experiments/recall.py accuracy --seed {}
"""

import argparse
import re
import shlex
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from batches import Batches
from dataset import CharCorruptionDataset
from engine.checkpoints import read_stamp
from engine.machine import hardware, pick_device, pick_precision
from engine.recipes import MAIN_RECIPE, RECIPES, apply, changed
from experiments.confidence import read_places, stands_in
from report import rows
from report.experiment_tables import STEPS
from report.tables import percent
from scripts.reproduce import Reproduction, scalars
from trainer import TrainerConfig
from utils import MASK_CHAR, UserError, cli, fingerprint, read_text

# What an ablation changes, as `run.py --change` takes it.
ABLATIONS = {
    "as it is": [],
    "AdamW alone": ["pretrain.muon_lr=None"],
    "batch 128": ["pretrain.batch_size=128"],
    "finetuning on the pairs alone": ["finetune.with_documents=False"],
    "uniform lengths and spans": ["spans=None"],
    "cut anywhere": ["spans.cut_behind=0"],
    "spans anywhere": ["spans.one_word=0", "spans.from_start=0"],
    "no third MASK": ["spans.last_mask=False"],
}
SMOOTHED = 230  # each loss is the mean of the steps around it, half of them before


# ---------------------------------------------------------------- trainings


def train(args: argparse.Namespace) -> None:
    """Pretrain, finetune and evaluate one model, and add its row."""
    run = {"recipe": args.recipe, "variant": args.variant, "seed": args.seed}
    what, changes = {}, []
    if args.command != "accuracy":
        what["epochs"] = args.epochs
        changes.append(f"pretrain.max_epochs={args.epochs}")
    if args.command == "ablation":
        what["change"] = args.change
        changes += ABLATIONS[args.change]
    device = pick_device(args.device)
    here = {"hardware": hardware(device), "precision": pick_precision(device)}
    here["settings"] = rows.settings_of(changed(RECIPES[args.recipe], changes))
    here["corpus"] = fingerprint(read_text(args.data / "wiki.txt"))
    have = rows.read(args.command, args.results)
    if len(rows.select(have, data=args.data_name, **run, **what, **here)):
        print("has its row")
        return
    words = [args.command, *(word for flag, value in (run | what).items() for word in (f"--{flag}", str(value)))]
    words += [] if args.data_name == "own" else ["--data", "FOLDER", "--data_name", args.data_name]
    name = re.sub(r"\W+", "_", " ".join([args.data_name, *map(str, run.values()), *map(str, what.values())]))
    folder, data = args.out.resolve() / name, args.data.resolve()
    steps = Reproduction(args.recipe, args.seed, data, args.data_name, args.device, folder, changes)
    row = steps.pretrained(args.variant)
    row |= what | {"command": shlex.join(["python", "experiments/recall.py", *words])}
    print(f"\n{rows.add(args.command, row, args.results)}: dev {percent(row['dev'], row['n'])}")


# ---------------------------------------------------------------- what trainings have left


def exposures(args: argparse.Namespace) -> None:
    """Count correct dev answers by how often the pretraining asked for the place, a row for each count."""
    text, people = read_text(args.data / "wiki.txt"), read_places(args.data / "birth_dev.tsv")
    documents = CharCorruptionDataset(text, 128, str(args.data / "wiki.txt"))
    for folder in args.folders:
        settings, row = pretraining(folder, args)
        if fingerprint(text) != settings["corpus"]:
            raise UserError(f"{args.data / 'wiki.txt'}: is not the corpus of {folder}; name the right one with --data")
        asked, correct = times_asked(settings, documents, people), defaultdict(list)
        predictions = (folder / f"{settings['variant']}.pretrain.dev.predictions").read_text("utf-8").split("\n")
        for (name, place), prediction in zip(people.items(), predictions, strict=False):
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
    recipe = RECIPES[settings["recipe"]]
    if settings["spans"] != (str(recipe.spans) if recipe.spans else None):
        raise UserError(f"recipe {settings['recipe']}: chose its spans differently in this training; train it again")
    number = {name: i for i, line in enumerate(documents.data) for name in people if line.startswith(f"{name}. ")}
    if missing := sorted(set(people) - set(number)):
        raise UserError(f"the corpus has no document whose title is {missing[0]!r}; name the right one with --data")
    examples, _, _ = apply(recipe.pretrain, recipe.spans, documents, documents, TrainerConfig())
    batches, asked = Batches(examples, settings["seed"]), dict.fromkeys(people, 0)
    for epoch in range(settings["max_epochs"]):
        x, _ = batches[epoch, [number[name] for name in people]]
        for name, ids in zip(people, x.tolist(), strict=True):
            span = "".join(documents.itos[i] for i in ids).split(MASK_CHAR)[2]
            asked[name] += stands_in(people[name], span)
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
    stamp = read_stamp(found[0])
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
        ("accuracy", "train a recipe"),
        ("curve", "train it for another number of epochs"),
        ("ablation", "train it with one choice changed"),
    ):
        command = commands.add_parser(name, parents=[common], help=text, description=text)
        command.set_defaults(function=train)
        recipes = [name for name, recipe in RECIPES.items() if recipe.people is None]
        command.add_argument("--recipe", choices=recipes, default=MAIN_RECIPE, help="default: %(default)s")
        command.add_argument("--variant", choices=["rope", "vanilla"], default="rope", help="default: %(default)s")
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
        command.add_argument("--device", default="auto", help="default: %(default)s")
        out = rows.ROOT / "expt" / "recall"
        command.add_argument("--out", type=Path, default=out, help="where the training gets a folder (expt/recall)")
        if name != "accuracy":
            command.add_argument("--epochs", type=int, required=True, help="of pretraining")
        if name == "ablation":
            command.add_argument("--change", choices=ABLATIONS, required=True, help="what is changed")
    for function in (exposures, losses):
        text = function.__doc__
        command = commands.add_parser(function.__name__, parents=[common], help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("folders", nargs="+", type=Path, help="of trainings, under expt/recall/")
    args = parser.parse_args(argv)
    args.data_name = args.data_name or rows.data_name(args.data)
    args.function(args)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

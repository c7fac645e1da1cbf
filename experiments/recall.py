"""How much a recipe knows, after how much training, and what of it does the work.

    python experiments/recall.py accuracy --recipe fast --variants rope vanilla --seeds 0 1 2 --jobs 2
    python experiments/recall.py curve --recipe fast --epochs 10 20 40        # other lengths of pretraining
    python experiments/recall.py ablation --epochs 20                         # one choice changed at a time
    python experiments/recall.py exposures expt/recall/FOLDER ...             # recall by how often it was asked
    python experiments/recall.py losses expt/recall/FOLDER ...                # of the handout's recipe
    python experiments/recall.py accuracy --verify FILE                       # a row of results/accuracy, once more
    python experiments/recall.py draw                                         # tables and figures from the rows

Each run pretrains, finetunes and evaluates with the commands of the homework (scripts/reproduce.py) in a
folder of its own under expt/recall/, and adds one row to a table of results/ when it ends; a run that was
cut off is continued by the same command, one that has its row is skipped. --jobs 2 trains two at a time, each
in a process with one thread. --data FOLDER --data_name NAME takes other data than the project's.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import report  # noqa: E402
from batches import Batches  # noqa: E402
from dataset import CharCorruptionDataset  # noqa: E402
from engine import session  # noqa: E402
from engine.checkpoints import read_stamp  # noqa: E402
from engine.files import add_row, fingerprint, read_rows  # noqa: E402
from engine.machine import hardware, pick_device, pick_precision  # noqa: E402
from engine.recipes import MAIN_RECIPE, RECIPES, Recipe  # noqa: E402
from engine.targets import Aim, Spans  # noqa: E402
from engine.wordings import names_in  # noqa: E402
from report import ABLATION, CURVE, EXPOSURES, STEPS, TRAINED, UNCHANGED, machine  # noqa: E402
from reproduce import Reproduction, check_data, name_of_data  # noqa: E402
from trainer import TrainerConfig  # noqa: E402
from utils import MASK_CHAR, UserError, cli, read_pairs, read_text  # noqa: E402

KEYS = {"accuracy": TRAINED, "curve": CURVE, "ablation": ABLATION}  # what identifies a row
SMOOTHED = 230  # steps that a loss is the mean of, half of them before and half behind


# ---------------------------------------------------------------- changed recipes


class Open(Aim):
    """An Aim for examples without the last MASK, which the handout leaves open."""


class OpenSpans(Spans):
    """Spans; those of an Open aim end as `prefix MASK suffix MASK span`."""

    def __getitem__(self, idx: int):
        x, y = super().__getitem__(idx)
        if isinstance(self.aim, Open):
            last = int((y == self.stoi[MASK_CHAR]).nonzero()[-1])
            y[last] = 0
            x[last + 1 : last + 2] = 0
        return x, y


session.Spans = OpenSpans  # which trains recipes with an Open aim as well

# What the ablation changes in a recipe, one at a time: field and value, or a function of the field's value.
ABLATIONS: dict[str, dict[str, object]] = {
    UNCHANGED: {},
    "everything uniform": {"spans": None},
    "all new words alike": {"spans.first_place": 1.0, "spans.other_place": 1.0},
    "spans anywhere": {"spans.one_word": 0.0, "spans.from_start": 0.0},
    "one word as often as can be": {"spans.one_word": 1.0},
    "no span from the start": {"spans.from_start": 0.0},
    "cut anywhere": {"spans.cut_behind": 0.0, "spans.cut_late": 0.0},
    "9 of 10 cut late": {"spans.cut_behind": 0.0, "spans.cut_late": 0.9},
    "half cut behind the place, half late": {"spans.cut_behind": 0.45, "spans.cut_late": 0.45},
    "no third MASK": {"spans": lambda aim: Open(**vars(aim))},
    "AdamW alone": {"pretrain.muon_lr": None},
    "batch 128": {"pretrain.batch_size": 128},
    "dropout 0.1": {"pretrain.dropout": 0.1},
    "cosine to a tenth": {"pretrain.decay_shape": "cosine"},
    "finetuning on the pairs alone": {"finetune.with_documents": False},
    "the handout's finetuning": {"finetune": RECIPES["handout"].finetune},
}


def changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    """A recipe with some fields set anew: "pretrain.batch_size", "spans.one_word", "spans" ..."""
    for field, value in changes.items():
        part, _, name = field.partition(".")
        held = getattr(recipe, part)
        value = value(held) if callable(value) else value
        recipe = replace(recipe, **{part: replace(held, **{name: value}) if name else value})
    return recipe


def ablations(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe as it is, and with each of the changes that change something in it."""
    fitting = {k: v for k, v in ABLATIONS.items() if isinstance(recipe.spans, Aim) or "spans" not in " ".join(v)}
    found = {name: changed(recipe, changes) for name, changes in fitting.items()}
    return {name: new for name, new in found.items() if new != recipe or not ABLATIONS[name]}


# ---------------------------------------------------------------- runs


def accuracy(args: argparse.Namespace) -> int:
    """Rows of results/accuracy: a recipe, with several seeds; or one row once more."""
    return verify(args) if args.verify else runs(args, [({}, RECIPES[args.recipe])])


def curve(args: argparse.Namespace) -> int:
    """Rows of results/curve: the recipe at several lengths of pretraining, each with its whole schedule."""
    recipe = RECIPES[args.recipe]
    return runs(args, [({"epochs": n}, changed(recipe, {"pretrain.max_epochs": n})) for n in args.epochs])


def ablation(args: argparse.Namespace) -> int:
    """Rows of results/ablation: one choice of the recipe changed at a time, at one length of pretraining."""
    found = ablations(changed(RECIPES[args.recipe], {"pretrain.max_epochs": args.epochs}))
    return runs(args, [({"epochs": args.epochs, "change": c}, found[c]) for c in args.changes if c in found])


def runs(args: argparse.Namespace, plan: list[tuple[dict, Recipe]]) -> int:
    """Rows of a table: recipes, with what tells them apart in a row, each in all variants and seeds."""
    todo = [(what, recipe, v, seed) for what, recipe in plan for seed in args.seeds for v in args.variants]
    folder = args.results / args.command
    if args.jobs > 1:
        side_by_side([words(args, *one) for one in todo], args)
        todo = []
    device = pick_device(args.device)
    here = {"hardware": hardware(device), "precision": pick_precision("auto", device)}
    for what, recipe, variant, seed in todo:
        known = {"data": args.data_name, "variant": variant, "recipe": args.recipe, "seed": seed, **what}
        print(f"\n{args.command}: {', '.join(map(str, known.values()))}", flush=True)
        known |= here | {"corpus": fingerprint(read_text(args.data / "wiki.txt")), "settings": settings_of(recipe)}
        # A row that `make results` has made does not tell its settings.
        if any(all(row.get(k, v) == v for k, v in known.items()) for row in read_rows(folder)):
            print("has its row")
        else:
            add_row(folder, train(args, what, recipe, variant, seed), KEYS[args.command])
    rows = [row for row in read_rows(folder) if (row["data"], row["recipe"]) == (args.data_name, args.recipe)]
    print(f"\n{report.recall_table(rows, KEYS[args.command])}")
    return 0


def settings_of(recipe: Recipe) -> str:
    """Identifies the numbers of a recipe, which may change under its name."""
    return fingerprint(repr(replace(recipe, about="")))


def train(args: argparse.Namespace, what: dict, recipe: Recipe, variant: str, seed: int, kind: str = "recall") -> dict:
    """Pretrain, finetune and evaluate a recipe in a folder under expt/KIND/; the row of results."""
    name = ", ".join([args.recipe, *(f"{v} epochs" if k == "epochs" else v for k, v in what.items())])
    RECIPES[name] = recipe
    folder = report.ROOT / "expt" / kind / re.sub(r"\W+", "_", f"{args.data_name} {variant} {name} {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    row = Reproduction(name, seed, args.data.resolve(), args.data_name, args.device, folder).pretrained(variant)
    command = ["python", "experiments/recall.py", *words(args, what, recipe, variant, seed)]
    command += [] if args.data_name == "own" else ["--data", "FOLDER", "--data_name", args.data_name]
    return {**row, **what, "recipe": args.recipe, "settings": settings_of(recipe), "command": shlex.join(command)}


def words(args: argparse.Namespace, what: dict, recipe: Recipe, variant: str, seed: int) -> list[str]:
    """The command line of one run, without the place of the data."""
    flags = {"recipe": args.recipe, "variants": variant, "seeds": seed}
    flags |= {"changes" if name == "change" else name: value for name, value in what.items()}
    return [args.command, *(word for flag, value in flags.items() for word in (f"--{flag}", str(value)))]


def side_by_side(commands: list[list[str]], args: argparse.Namespace) -> None:
    """Run this script once for each command line, so many at a time, each with one thread and a log.

    Raises:
        UserError: some failed; the others have been trained.
    """
    more = [f"--{name}={getattr(args, name)}" for name in ("data", "data_name", "results", "device")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    waiting, running, failed = commands[::-1], {}, []
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                command = waiting.pop()
                log = report.ROOT / "expt" / (re.sub(r"\W+", "_", " ".join(command)) + ".log")
                log.parent.mkdir(exist_ok=True)
                print(f"{shlex.join(command)}\n  log: {log}", flush=True)
                program = [sys.executable, str(Path(__file__).resolve()), *command, *more]
                apart = {"env": environment, "start_new_session": True}  # Ctrl-C comes to it once, from below
                with log.open("w") as out:
                    running[log] = subprocess.Popen(program, stdout=out, stderr=subprocess.STDOUT, **apart)
            time.sleep(0.2)
            failed += [log for log, process in running.items() if process.poll()]
            running = {log: process for log, process in running.items() if process.poll() is None}
    finally:
        for process in running.values():
            process.terminate()  # it saves what it has
            process.wait()
    if failed:
        raise UserError(f"{len(failed)} of {len(commands)} runs failed; see {', '.join(map(str, failed))}")


def verify(args: argparse.Namespace) -> int:
    """Train a row of results/accuracy once more and say whether it comes out the same."""
    path = args.verify if args.verify.exists() else args.results / "accuracy" / args.verify
    row = json.loads(read_text(path))
    if fingerprint(read_text(args.data / "wiki.txt")) != row["corpus"]:
        raise UserError(f"{args.data / 'wiki.txt'}: is not the corpus of {path}; name the right one with --data")
    args.recipe, args.data_name = row["recipe"], row["data"]
    shutil.rmtree(report.ROOT / "expt" / "verify", ignore_errors=True)
    new = train(args, {}, RECIPES[row["recipe"]], row["variant"], row["seed"], kind="verify")
    for when, r in (("then", row), ("now", new)):
        print(f"{when:>4}: dev {report.percent(r['dev'], r['n'])}, {machine(r)}, commit {r['commit']}")
    same = all(new[name] == row[name] for name in ("dev", "test", "tokens", "loss") if name in row)
    reason = ", as another machine or precision may make it" if machine(new) != machine(row) else ""
    print("the same" if same else f"DIFFERENT{reason}")
    return 0 if same else 1


# ---------------------------------------------------------------- what runs have left


def pretrainings(args: argparse.Namespace) -> Iterator[tuple[Path, dict, dict]]:
    """Of every finished pretraining in the folders: its folder, its settings, and the beginning of a row."""
    for folder in args.folders:
        if not (found := sorted(folder.glob("*.pretrain.params"))):
            raise UserError(f"{folder}: holds no parameters of a pretraining; give a folder under expt/recall/")
        for stamp in map(read_stamp, found):
            settings, told = stamp["settings"], {"data": args.data_name, "hardware": stamp["hardware"]}
            told |= {"epochs": settings["max_epochs"], "recipe": settings["recipe"]}
            told["recipe"] = told["recipe"].replace(f", {told['epochs']} epochs", "")
            yield folder, settings, told | {name: settings[name] for name in ("variant", "seed", "precision")}


def exposures(args: argparse.Namespace) -> int:
    """Rows of results/exposures: right answers among people whose place the pretraining has asked for k times."""
    questions = args.data / "birth_dev.tsv"
    places = [place for _, _, place in read_pairs(read_text(questions), questions, with_answers=True)]
    people = dict(zip(names_in(read_text(questions), str(questions)), places, strict=True))
    for folder, settings, row in pretrainings(args):
        asked, right = times_asked(settings, args.data, people), defaultdict(list)
        predicted = (folder / f"{row['variant']}.pretrain.dev.predictions").read_text(encoding="utf-8").split("\n")
        for (name, place), prediction in zip(people.items(), predicted, strict=False):
            right[asked[name]].append(prediction == place)
        row["asked"] = [[times, len(found), sum(found)] for times, found in sorted(right.items())]
        print(add_row(args.results / "exposures", row, EXPOSURES))
    return 0


def times_asked(settings: dict, data: Path, people: dict[str, str]) -> dict[str, int]:
    """How often a pretraining asked for each person's place, alone or in a longer span: draws its examples once more.

    Args:
        settings: of the pretraining, as its parameters have them.
        data: folder of the corpus.
        people: places by names.
    """
    text = read_text(data / "wiki.txt")
    if fingerprint(text) != settings["corpus"]:
        raise UserError(f"{data / 'wiki.txt'}: is not the corpus of this run; name the right one with --data")
    known = [recipe for base in RECIPES.values() for recipe in ablations(base).values()]
    recipe = next((r for r in known if (str(r.spans) if r.spans else None) == settings["spans"]), None)
    if recipe is None:
        raise UserError(f"recipe {settings['recipe']}: chooses its spans in another way today; train it again")
    documents = CharCorruptionDataset(text, settings["block_size"])
    number = {name: i for i, line in enumerate(documents.data) for name in people if line.startswith(f"{name}. ")}
    if missing := sorted(set(people) - set(number)):
        raise UserError(f"{data / 'wiki.txt'}: has no document whose title is {missing[0]!r}")
    examples, _ = session.adapt(recipe, recipe.pretrain, documents, documents, TrainerConfig())
    drawn, asked = Batches(examples, settings["seed"]), dict.fromkeys(people, 0)
    place = {name: re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for name, word in people.items()}
    for epoch in range(settings["max_epochs"]):
        x, _ = drawn[epoch, [number[name] for name in people]]
        for name, ids in zip(people, x.tolist(), strict=True):
            span = "".join(documents.itos[i] for i in ids).split(MASK_CHAR)[2]
            asked[name] += place[name].search(span) is not None
    return asked


def smoothed(values: list[float]) -> dict[str, float]:
    """The mean loss of the SMOOTHED steps around each of the public curves' steps, as far as there are some."""
    half = SMOOTHED // 2
    return {str(n): round(statistics.fmean(values[max(0, n - half) : n + half]), 4) for n in STEPS if n <= len(values)}


def losses(args: argparse.Namespace) -> int:
    """Rows of results/losses: losses of pretrainings by the handout's recipe, smoothed, from their TensorBoard logs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for folder, settings, row in pretrainings(args):
        if settings["recipe"] != "handout":
            raise UserError(f"{folder}: is of recipe {settings['recipe']}; the public curves are the handout's")
        if not (logs := sorted((folder / "logs" / "pretrain").glob(f"*_{row['variant']}_*"))):
            raise UserError(f"{folder / 'logs' / 'pretrain'}: has no log of this pretraining; train it again")
        events = EventAccumulator(str(logs[0]), size_guidance={"scalars": 0}).Reload().Scalars("train/loss")
        row["losses"] = smoothed([event.value for event in sorted(events, key=lambda event: event.step)])
        print(add_row(args.results / "losses", row, TRAINED))
    return 0


def draw(args: argparse.Namespace) -> int:
    """Tables and figures from all rows: what scripts/report.py does."""
    return report.main(["--results", str(args.results)])


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description="Accuracy of recipes, and what makes it.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (accuracy, curve, ablation, exposures, losses, draw):
        text = function.__doc__.split("\n")[0]
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("--results", type=Path, default=report.ROOT / "results", help="folder of the rows")
        if function is draw:
            continue
        command.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
        command.add_argument("--data_name", help="what the data is called (default: own, or other)")
        if function in (exposures, losses):
            command.add_argument("folders", nargs="+", type=Path, help="of runs, under expt/recall/")
            continue
        recipes = [name for name, recipe in RECIPES.items() if recipe.people is None]
        command.add_argument("--recipe", choices=recipes, default=MAIN_RECIPE, help="default: %(default)s")
        command.add_argument("--variants", nargs="+", choices=["rope", "vanilla"], default=["rope"])
        command.add_argument("--seeds", nargs="+", type=int, default=[0])
        command.add_argument("--jobs", type=int, default=1, help="runs at a time, if more than 1 with a thread each")
        command.add_argument("--device", default="auto", help="default: %(default)s")
        if function is accuracy:
            text = "train the row in this file of results/accuracy once more, and say whether it comes out the same"
            command.add_argument("--verify", metavar="FILE", type=Path, help=text)
        if function is curve:
            command.add_argument("--epochs", nargs="+", type=int, required=True, help="of pretraining")
        if function is ablation:
            command.add_argument("--epochs", type=int, required=True, help="of pretraining")
            text = "of these alone (default: all): " + ", ".join(map(repr, ABLATIONS))
            command.add_argument(
                "--changes", nargs="+", choices=ABLATIONS, default=[*ABLATIONS], metavar="C", help=text
            )
    args = parser.parse_args(argv)
    if args.function is not draw:
        check_data(args.data)
        args.data_name = args.data_name or name_of_data(args.data)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(cli(main))

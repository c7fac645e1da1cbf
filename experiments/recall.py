"""How much a recipe knows, after how much training, and what of it does the work.

    python experiments/recall.py accuracy --recipe fast --variants rope vanilla --seeds 0 1 2
    python experiments/recall.py curve --recipe fast --epochs 10 20 40        # other lengths of pretraining
    python experiments/recall.py ablation --recipe fast --epochs 20           # one choice changed at a time
    python experiments/recall.py exposures expt/recall/FOLDER ...             # recall by how often it was asked
    python experiments/recall.py verify 0                                     # row 0 of accuracy.json, once more
    python experiments/recall.py draw                                         # tables and figures from the rows

Each run pretrains, finetunes and evaluates with the commands of the homework (scripts/reproduce.py) in a
folder of its own under expt/recall/, and adds one row to a file in results/ when it ends; a run that was
cut off is continued by the same command, one that has its row is skipped. --data FOLDER --data_name NAME
takes other data than the project's.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts"), str(ROOT / "experiments")]

import report  # noqa: E402
from recipes import RECIPES, Recipe  # noqa: E402
from reproduce import Reproduction  # noqa: E402
from utils import (  # noqa: E402
    UserError,
    add_rows,
    atomic_write,
    cli,
    fingerprint,
    read_pairs,
    read_rows,
    read_text,
    wilson_interval,
)

RESULTS = ROOT / "results"
RUN_KEY = ("data", "variant", "recipe", "seed", "change", "epochs", "hardware")

# What the ablation changes in a recipe, one at a time: name, then field and value (Recipe's or its parts').
ABLATIONS: dict[str, dict[str, object]] = {
    "as it is": {},
    "the handout's spans and cuts": {"corruption": {}},
    "no excerpts": {"corruption.excerpt": 0.0, "corruption.one_word": 1.0},
    "more around the word": {"corruption.nearness": 2.0},
    "all new words alike": {"corruption.first_place": 1.0},
    "loss on the whole example": {"corruption.answer_only": 0.0},
    "nothing before the name": {"corruption.lead": 0.0},
    "anything before the name": {"corruption.longest_lead": 112},
    "AdamW alone": {"pretrain.muon_lr": 0.0},
    "batch 128": {"pretrain.batch_size": 128},
    "dropout 0.1": {"pretrain.dropout": 0.1},
    "cosine to a tenth": {"pretrain.decay_shape": "cosine"},
    "finetuning on the pairs alone": {"finetune.with_documents": False},
    "handout's finetuning": {"finetune": RECIPES["handout"].finetune},
}


def changed(recipe: Recipe, changes: dict[str, object]) -> Recipe:
    """A recipe with some fields set anew: "pretrain.batch_size", "corruption.excerpt", "finetune" ..."""
    for field, value in changes.items():
        part, _, name = field.partition(".")
        held = getattr(recipe, part)
        if name:
            value = held | {name: value} if isinstance(held, dict) else replace(held, **{name: value})
        recipe = replace(recipe, **{part: value})
    return recipe


def run_once(args: argparse.Namespace, variant: str, seed: int, change: str, changes: dict[str, object]) -> dict:
    """Pretrain, finetune and evaluate a recipe, changed as told; returns the row of results."""
    name = args.recipe
    if changes:
        name = f"{args.recipe}, {change}"
        RECIPES[name] = changed(RECIPES[args.recipe], changes)
    folder = ROOT / "expt" / "recall" / f"{args.data_name}_{variant}_{name}_{seed}".replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    steps = Reproduction(name, seed, args.data.resolve(), args.data_name, args.device, folder)
    row = steps.pretrained(variant)
    return row | {"recipe": args.recipe, "folder": folder.name}


def accuracy(args: argparse.Namespace) -> None:
    """Rows of results/accuracy.json: a recipe, both variants, several seeds."""
    for seed in args.seeds:
        for variant in args.variants:
            row = run_once(args, variant, seed, "", {})
            del row["folder"]
            flags = f"--recipe {args.recipe} --variants {variant} --seeds {seed}"
            if args.data_name != "own":
                flags += f" --data FOLDER --data_name {args.data_name}"
            row["command"] = f"python experiments/recall.py accuracy {flags}"
            add_rows(RESULTS / "accuracy.json", [row], report.TRAINED)


def runs(args: argparse.Namespace, path: Path, plan: dict[str, dict[str, object]]) -> None:
    """Rows of another results file: a recipe changed in several ways; what has its row is skipped."""
    for change, changes in plan.items():
        for variant in args.variants:
            for seed in args.seeds:
                epochs = changes.get("pretrain.max_epochs", RECIPES[args.recipe].pretrain.max_epochs)
                wanted = dict(data=args.data_name, variant=variant, recipe=args.recipe, seed=seed)
                wanted |= {"change": change, "epochs": epochs}
                if any(all(row.get(k) == v for k, v in wanted.items()) for row in read_rows(path)):
                    print(f"{change}, {variant}, seed {seed}: has its row")
                    continue
                add_rows(path, [run_once(args, variant, seed, change, changes) | wanted], RUN_KEY)


def curve(args: argparse.Namespace) -> None:
    """Rows of results/curve.json: the recipe at several lengths of pretraining, each with its whole schedule."""
    plan = {f"{epochs} epochs": {"pretrain.max_epochs": epochs} for epochs in args.epochs}
    runs(args, RESULTS / "curve.json", plan)


def ablation(args: argparse.Namespace) -> None:
    """Rows of results/ablation.json: one choice of the recipe changed at a time, at one length of pretraining."""
    length = {"pretrain.max_epochs": args.epochs[0]}
    runs(args, RESULTS / "ablation.json", {name: changes | length for name, changes in ABLATIONS.items()})


def exposures(args: argparse.Namespace) -> None:
    """Rows of results/exposures.json: share of right answers among people whose place was the span k times."""
    from checkpoint import read_stamp

    path, rows = RESULTS / "exposures.json", []
    for folder in args.folders:
        params = next(iter(folder.glob("*.pretrain.params")), None)
        if params is None:
            raise UserError(f"{folder}: holds no parameters of a pretraining; give a folder under expt/recall/")
        settings = read_stamp(params)["settings"]
        variant = settings["variant"]
        pairs = read_pairs(read_text(args.data / "birth_dev.tsv"), args.data / "birth_dev.tsv")
        predicted = read_text(folder / f"{variant}.pretrain.dev.predictions").split("\n")
        counts = asked_places(settings, args.data, [(q, place) for _, q, place in pairs])
        bins: dict[int, list[bool]] = defaultdict(list)
        for (_, _, place), prediction, count in zip(pairs, predicted, counts, strict=False):
            bins[count].append(prediction == place)
        for count, right in sorted(bins.items()):
            row = {"folder": folder.name, "data": args.data_name, "variant": variant, "recipe": settings["recipe"]}
            row |= {"seed": settings["seed"], "epochs": settings["max_epochs"], "exposures": count}
            rows.append(row | {"n": len(right), "correct": sum(right)})
    add_rows(path, rows, ("folder", "exposures"))


def asked_places(settings: dict, data: Path, pairs: list[tuple[str, str]]) -> list[int]:
    """How often the pretraining with these settings asked for each question's place as a span of its own.

    Draws what the training drew once more, from the same seed.
    """
    import torch

    from dataset import CharCorruptionDataset, Corruption

    text = read_text(data / "wiki.txt")
    if fingerprint(data / "wiki.txt") != settings["corpus"]:
        raise UserError(f"{data / 'wiki.txt'}: is not the corpus of this run; name the right one with --data")
    documents = CharCorruptionDataset(text, 128, Corruption(**settings["corruption"]))
    number = {document.partition(". ")[0]: i for i, document in enumerate(documents.data)}
    names = [question.removeprefix("Where was ").removesuffix(" born?") for question, _ in pairs]
    people = [number[name.partition(". ")[0]] for name in names]  # the document of each question
    place_of = {i: place for i, (_, place) in zip(people, pairs, strict=True)}
    asked = dict.fromkeys(people, 0)
    generator = torch.Generator().manual_seed(settings["seed"])
    for _ in range(settings["max_epochs"]):
        for indices in torch.randperm(len(documents), generator=generator).split(settings["batch_size"]):
            _, start, span, skip, _, _ = documents.choose_spans(indices, generator)
            for i, first, length in zip(indices.tolist(), (start + skip).tolist(), span.tolist(), strict=True):
                if i in asked:
                    asked[i] += documents.data[i][first : first + length] == place_of[i]
    return [asked[i] for i in people]


def verify(args: argparse.Namespace) -> int:
    """Train a row of results/accuracy.json once more and say whether it comes out the same."""
    rows = read_rows(RESULTS / "accuracy.json")
    if not 0 <= args.row < len(rows):
        raise UserError(f"verify {args.row}: results/accuracy.json has rows 0 to {len(rows) - 1}")
    row = rows[args.row]
    if fingerprint(args.data / "wiki.txt") != row["corpus"]:
        raise UserError(f"{args.data / 'wiki.txt'}: is not the corpus of row {args.row}; name it with --data")
    args.recipe, args.data_name = row["recipe"], row["data"]
    new = run_once(args, row["variant"], row["seed"], "", {})
    same = new["dev"] == row["dev"]
    print(f"row {args.row}: {row['data']}, {row['variant']}, {row['recipe']}, seed {row['seed']}, {row['hardware']}")
    print(
        f"dev {row['dev']:.1%} then, {new['dev']:.1%} now on {new['hardware']}: {'the same' if same else 'DIFFERENT'}"
    )
    return 0 if same else 1


# ---------------------------------------------------------------- tables and figures


def with_interval(rows: list[dict]) -> tuple[float, float, float]:
    """Mean share of right dev answers of several seeds, and its 95 % interval (see mean_percent), in per cent."""
    share, n = sum(row["dev"] for row in rows) / len(rows), rows[0]["n"]
    return 100 * share, *(100 * end for end in wilson_interval(share * n, n))


def table(rows: list[dict], first: str) -> str:
    """Markdown: one line for all seeds of a run."""
    lines = [
        f"| {first} | data | variant | recipe | epochs | seeds | dev, mean (95 % interval): each | n "
        "| minutes (naive step) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, *key), group in report.grouped(rows, first, "data", "variant", "recipe", "epochs"):
        seeds = " ".join(str(row["seed"]) for row in group)
        minutes = ", ".join(report.minutes(row) for row in group)
        cells = [name, *key, seeds, report.mean_percent(group), group[0]["n"], minutes]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def exposure_table(rows: list[dict]) -> str:
    """Markdown: right answers by how often the place was asked for, all runs of a data set and variant together."""
    lines = ["| data | variant | times asked | questions | right (95 % interval) |", "|---|---|---|---|---|"]
    for (data, variant), group in report.grouped(rows, "data", "variant"):
        for label, part in exposure_bins(group):
            n, correct = sum(r["n"] for r in part), sum(r["correct"] for r in part)
            low, high = wilson_interval(correct, n)
            share = f"{correct / n:.1%} ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(f"| {data} | {variant} | {label} | {n} | {share} |")
    return "\n".join(lines)


def exposure_bins(rows: list[dict], edges: tuple[int, ...] = (0, 1, 4, 8, 12, 16, 20, 25, 30, 40, 60)) -> Iterator:
    """(label, rows) for ranges of exposures that hold any."""
    for low, high in zip(edges, (*edges[1:], 10**9), strict=True):
        part = [row for row in rows if low <= row["exposures"] < high]
        if part:
            label = f"{low}" if high == low + 1 else f"{low} or more" if high == 10**9 else f"{low} to {high - 1}"
            yield label, part


def draw(args: argparse.Namespace) -> None:
    """Write tables into experiments/README.md and figures into results/, from the rows that are there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def save(figure, name: str) -> None:
        with atomic_write(RESULTS / name) as file:
            figure.savefig(file, dpi=160, metadata={"Software": None})
        plt.close(figure)

    readme = ROOT / "experiments" / "README.md"
    if rows := read_rows(RESULTS / "curve.json"):
        report.put_between(readme, "curve", table(rows, "change"))
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
        for (data, variant), group in report.grouped(rows, "data", "variant"):
            points = sorted(report.grouped(group, "epochs"))
            shares = [with_interval(part) for _, part in points]
            epochs = [key[0] for key, _ in points]
            minutes = [sum(r["seconds"] for r in part) / len(part) / 60 for _, part in points]
            for panel, x in zip(panels, (epochs, minutes), strict=True):
                error = [[s - low for s, low, _ in shares], [high - s for s, _, high in shares]]
                panel.errorbar(
                    x, [s for s, *_ in shares], error, marker="o", capsize=3, label=f"{variant}, {data} data"
                )
        for panel, label in zip(panels, ("epochs of pretraining", "minutes, pretraining and finetuning"), strict=True):
            panel.set_xlabel(label)
            panel.set_ylim(bottom=0)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("right dev answers, % (95 % interval)")
        panels[0].legend(frameon=False, fontsize=9)
        save(figure, "curve.png")
    if rows := read_rows(RESULTS / "ablation.json"):
        report.put_between(readme, "ablation", table(rows, "change"))
        figure, axes = plt.subplots(figsize=(7.5, 0.4 * len({r["change"] for r in rows}) + 1.2), layout="constrained")
        names = list(dict.fromkeys(row["change"] for row in rows))
        for offset, ((data, variant), group) in enumerate(report.grouped(rows, "data", "variant")):
            for (name,), part in report.grouped(group, "change"):
                share, low, high = with_interval(part)
                place, error = names.index(name) + 0.15 * offset, [[share - low], [high - share]]
                label = f"{variant}, {data} data" if name == group[0]["change"] else None
                axes.errorbar(share, place, xerr=error, fmt="o", capsize=3, color=f"C{offset}", label=label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("right dev answers, % (95 % interval)")
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, "ablation.png")
    if rows := read_rows(RESULTS / "exposures.json"):
        report.put_between(readme, "exposures", exposure_table(rows))
        figure, axes = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
        for (data, variant), group in report.grouped(rows, "data", "variant"):
            x, y, error = [], [], ([], [])
            for _, part in exposure_bins(group):
                n, correct = sum(r["n"] for r in part), sum(r["correct"] for r in part)
                low, high = wilson_interval(correct, n)
                x.append(sum(r["exposures"] * r["n"] for r in part) / n)
                y.append(100 * correct / n)
                error[0].append(100 * (correct / n - low))
                error[1].append(100 * (high - correct / n))
            axes.errorbar(x, y, error, marker="o", capsize=3, label=f"{variant}, {data} data")
        axes.set_xlabel("times that the pretraining asked for the place")
        axes.set_ylabel("right dev answers, % (95 % interval)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, "exposures.png")


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description="Accuracy of recipes, and what makes it.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    described = {f: f.__doc__.split("\n")[0] for f in (accuracy, curve, ablation, exposures, verify, draw)}
    for function, text in described.items():
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        command.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
        command.add_argument("--data_name", default="own", help="what the data is called (default: %(default)s)")
        command.add_argument("--device", default="auto", help="default: %(default)s")
        if function in (accuracy, curve, ablation):
            command.add_argument("--recipe", choices=RECIPES, default="fast", help="default: %(default)s")
            command.add_argument("--variants", nargs="+", choices=["rope", "vanilla"], default=["rope"])
            command.add_argument("--seeds", nargs="+", type=int, default=[0])
        if function in (curve, ablation):
            command.add_argument("--epochs", nargs="+", type=int, required=True, help="of pretraining")
        if function is exposures:
            command.add_argument("folders", nargs="+", type=Path, help="of runs, under expt/recall/")
        if function is verify:
            command.add_argument("row", type=int, help="number of the row in results/accuracy.json, from 0")
    args = parser.parse_args(argv)
    return args.function(args) or 0


if __name__ == "__main__":
    sys.exit(cli(main))

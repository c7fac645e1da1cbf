"""How much a recipe knows, after how much training, and what of it does the work.

    python experiments/recall.py accuracy --recipe fast --variants rope vanilla --seeds 0 1 2
    python experiments/recall.py curve --recipe fast --epochs 10 20 40        # other lengths of pretraining
    python experiments/recall.py ablation --recipe fast --epochs 20           # one choice changed at a time
    python experiments/recall.py exposures expt/recall/FOLDER ...             # recall by how often it was asked
    python experiments/recall.py accuracy --verify 0                          # row 0 of accuracy.json, once more
    python experiments/recall.py draw                                         # tables and figures from the rows

Each run pretrains, finetunes and evaluates with the commands of the homework (scripts/reproduce.py) in a
folder of its own under expt/recall/, and adds one row to a file in results/ when it ends; a run that was
cut off is continued by the same command, one that has its row is skipped. --data FOLDER --data_name NAME
takes other data than the project's.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts"), str(ROOT / "experiments")]

import report  # noqa: E402
from recipes import DEFAULT_RECIPE, MAIN_RECIPE, RECIPES, Recipe  # noqa: E402
from reproduce import Reproduction, check_data, name_of_data  # noqa: E402
from sensitivity import name_in  # noqa: E402
from utils import (  # noqa: E402
    UserError,
    add_rows,
    cli,
    fingerprint,
    hardware,
    pick_device,
    pick_precision,
    read_pairs,
    read_rows,
    read_text,
)

RESULTS = ROOT / "results"
RUN_KEY = ("data", "people", "variant", "recipe", "seed", "change", "epochs", "hardware", "precision")

# What tells the lines of a table apart, seeds being together.
RUN = ("data", "variant", "recipe", "epochs")
TRIAL = (*RUN, "people", "machine")

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
    "decay of all but biases": {"pretrain.decay_all": True},
    "batch 128": {"pretrain.batch_size": 128},
    "dropout 0.1": {"pretrain.dropout": 0.1},
    "cosine to a tenth": {"pretrain.decay_shape": "cosine"},
    "finetuning on the pairs alone": {"finetune.with_documents": False},
    "handout's finetuning": {"finetune": RECIPES[DEFAULT_RECIPE].finetune},
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


def run_once(
    args: argparse.Namespace,
    variant: str,
    seed: int,
    change: str = "",
    changes: dict | None = None,
    kind: str = "recall",
) -> dict:
    """Pretrain, finetune and evaluate a recipe, changed as told, in a folder under expt/KIND/; the row of results."""
    name, recipe = args.recipe, changed(RECIPES[args.recipe], changes or {})
    if changes:
        parts = [name, change, f"{recipe.pretrain.max_epochs} epochs"]
        parts += [f"{recipe.people} people"] if recipe.people else []
        name = ", ".join(dict.fromkeys(parts))  # in a curve, the change is the number of epochs
        RECIPES[name] = recipe
    folder = ROOT / "expt" / kind / f"{args.data_name}_{variant}_{name}_{seed}".replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    row = Reproduction(name, seed, args.data.resolve(), args.data_name, args.device, folder).pretrained(variant)
    command = f"python experiments/recall.py {args.command} --recipe {args.recipe} --variants {variant} --seeds {seed}"
    if "epochs" in args:
        command += f" --epochs {recipe.pretrain.max_epochs}"
    if recipe.people:
        command += f" --people {recipe.people}"
    if "changes" in args:
        command += f" --changes {shlex.quote(change)}"
    if args.data_name != "own":
        command += f" --data FOLDER --data_name {args.data_name}"
    return row | {"recipe": args.recipe, "command": command}


def runs(args: argparse.Namespace, path: Path, keys: tuple[str, ...], plan: dict[str, dict[str, object]]) -> None:
    """Rows of a results file: a recipe changed in several ways, each in all variants and seeds."""
    device = pick_device(args.device)
    here = {"hardware": hardware(device), "precision": pick_precision("auto", device)}
    for change, changes in plan.items():
        recipe = changed(RECIPES[args.recipe], changes)
        for seed in args.seeds:
            for variant in args.variants:
                wanted = {"data": args.data_name, "variant": variant, "recipe": args.recipe, "seed": seed}
                if "change" in keys:
                    wanted |= {"change": change, "epochs": recipe.pretrain.max_epochs, "people": recipe.people}
                known = wanted | here
                if not recipe.people:  # a trial has a corpus of its own, which its run makes
                    known["corpus"] = fingerprint(args.data / "wiki.txt")
                if any(all(row.get(k) == v for k, v in known.items()) for row in read_rows(path)):
                    print(f"{', '.join(map(str, wanted.values()))}: has its row in {path.name}")
                    continue
                row = run_once(args, variant, seed, change, changes) | wanted
                add_rows(path, [{name: value for name, value in row.items() if value is not None}], keys)


def accuracy(args: argparse.Namespace) -> int:
    """Rows of results/accuracy.json: a recipe, in both variants, with several seeds; or one row once more."""
    if args.verify is not None:
        return verify(args)
    runs(args, RESULTS / "accuracy.json", report.TRAINED, {"": {}})
    return 0


def curve(args: argparse.Namespace) -> None:
    """Rows of results/curve.json: the recipe at several lengths of pretraining, each with its whole schedule."""
    plan = {f"{epochs} epochs": {"pretrain.max_epochs": epochs} for epochs in args.epochs}
    runs(args, RESULTS / "curve.json", RUN_KEY, plan)


def ablation(args: argparse.Namespace) -> None:
    """Rows of results/ablation.json: one choice of the recipe changed at a time, at one length of pretraining."""
    length = {"pretrain.max_epochs": args.epochs}
    if args.people is not None:
        length |= fewer(RECIPES[args.recipe], args.people, args.data)
    recipe, plan = changed(RECIPES[args.recipe], length), {}
    for name in args.changes:
        if not ABLATIONS[name] or not same_training(changed(recipe, ABLATIONS[name]), recipe):
            plan[name] = length | ABLATIONS[name]
    runs(args, RESULTS / "ablation.json", RUN_KEY, plan)


def fewer(recipe: Recipe, people: int, data: Path) -> dict[str, object]:
    """What to change for a trial on some of the people: smaller batches, as many steps in an epoch of pretraining."""
    parts = ("wiki.txt", "birth_dev.tsv", "birth_test_inputs.tsv")
    everybody, dev, test = (len(read_text(data / name).rstrip("\n").split("\n")) for name in parts)
    most = 4 * min(dev, test)  # see small_data
    if not 20 <= people <= most:
        raise UserError(f"--people {people}: 20 to {most} are expected, a quarter of them each for dev and test")
    sizes = {phase: getattr(recipe, phase).batch_size for phase in ("pretrain", "finetune")}
    share = people / everybody
    return {"people": people} | {f"{phase}.batch_size": max(1, round(share * n)) for phase, n in sizes.items()}


def same_training(recipe: Recipe, other: Recipe) -> bool:
    """Whether two recipes train alike: without new words, most of the corruption's numbers have no use."""
    from dataset import Corruption

    def used(recipe: Recipe) -> Recipe:
        rule = Corruption(**recipe.corruption)
        if not rule.new_word:
            rule = Corruption(keep_whole=rule.keep_whole, answer_only=rule.answer_only)
        return replace(recipe, corruption=asdict(rule))

    return used(recipe) == used(other)


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
        predicted = read_text(folder / f"{variant}.pretrain.dev.predictions").removesuffix("\n").split("\n")
        counts = asked_places(settings, args.data, [(name_in(q, "dev"), place) for _, q, place in pairs])
        bins: dict[int, list[bool]] = defaultdict(list)
        for (_, _, place), prediction, count in zip(pairs, predicted, counts, strict=True):
            bins[count].append(prediction == place)
        for count, right in sorted(bins.items()):
            row = {"folder": folder.name, "data": args.data_name, "variant": variant}
            row["recipe"] = settings["recipe"].removesuffix(f", {settings['max_epochs']} epochs")
            row |= {"epochs": settings["max_epochs"], "seed": settings["seed"], "exposures": count}
            rows.append(row | {"n": len(right), "correct": sum(right)})
    add_rows(path, rows, ("folder", "exposures"))


def asked_places(settings: dict, data: Path, people: list[tuple[str, str]]) -> list[int]:
    """How often the pretraining with these settings asked for each person's place as a span of its own.

    Draws what the training drew once more, from the same seed.

    Args:
        settings: of the pretraining, as its parameters have them.
        data: folder of the corpus.
        people: (name, place) each.
    """
    import torch

    from dataset import CharCorruptionDataset, Corruption

    text = read_text(data / "wiki.txt")
    if fingerprint(data / "wiki.txt") != settings["corpus"]:
        raise UserError(f"{data / 'wiki.txt'}: is not the corpus of this run; name the right one with --data")
    documents = CharCorruptionDataset(text, 128, Corruption(**settings["corruption"]))
    number = {name: i for i, doc in enumerate(documents.data) for name, _ in people if doc.startswith(f"{name}. ")}
    place_of = {}  # of each document
    for name, place in people:
        if name not in number:
            raise UserError(f"{data / 'wiki.txt'}: has no document whose title is {name!r}")
        place_of[number[name]] = place
    asked = dict.fromkeys(place_of, 0)
    generator = torch.Generator().manual_seed(settings["seed"])
    for _ in range(settings["max_epochs"]):
        for indices in torch.randperm(len(documents), generator=generator).split(settings["batch_size"]):
            _, start, span, skip, _, _ = documents.choose_spans(indices, generator)
            for i, first, length in zip(indices.tolist(), (start + skip).tolist(), span.tolist(), strict=True):
                if i in asked:
                    asked[i] += documents.data[i][first : first + length] == place_of[i]
    return [asked[number[name]] for name, _ in people]


def verify(args: argparse.Namespace) -> int:
    """Train a row of results/accuracy.json once more and say whether it comes out the same."""
    rows = read_rows(RESULTS / "accuracy.json")
    if not 0 <= args.verify < len(rows):
        raise UserError(f"--verify {args.verify}: results/accuracy.json has rows 0 to {len(rows) - 1}")
    row = rows[args.verify]
    if fingerprint(args.data / "wiki.txt") != row["corpus"]:
        raise UserError(f"{args.data / 'wiki.txt'}: is not the corpus of row {args.verify}; name it with --data")
    args.recipe, args.data_name = row["recipe"], row["data"]
    shutil.rmtree(ROOT / "expt" / "verify", ignore_errors=True)
    new = run_once(args, row["variant"], row["seed"], kind="verify")
    print(f"row {args.verify}: {row['data']} data, {row['variant']}, {row['recipe']}, seed {row['seed']}")
    for when, r in (("then", row), ("now", new)):
        print(f"{when:>4}: dev {report.percent(r['dev'], r['n'])}, {report.machine(r)}, commit {r['commit']}")
    if all(new[name] == row[name] for name in ("dev", "test", "tokens", "loss") if name in row):
        print("the same")
        return 0
    other = report.machine(new) != report.machine(row)
    print("DIFFERENT" + (", as another machine or precision may make it" if other else ""))
    return 1


# ---------------------------------------------------------------- tables and figures


def mean_dev(rows: list[dict]) -> float:
    """Mean share of right dev answers over seeds."""
    return sum(row["dev"] for row in rows) / len(rows)


def table(rows: list[dict], *keys: str, last: dict[str, Callable[[dict], str]]) -> str:
    """Markdown: one line for all seeds of a run.

    Args:
        rows: of all runs.
        keys: what tells runs apart, and is shown.
        last: further columns, the text of a row each.
    """
    heads = [*keys, "seeds", "dev: mean (95 % interval), then each seed", "n", *last]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for names, group in report.grouped(rows, *keys):
        cells = [*names, " ".join(str(row["seed"]) for row in group), report.mean_percent(group), group[0]["n"]]
        cells += [", ".join(map(text, group)) for text in last.values()]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def exposure_table(rows: list[dict]) -> str:
    """Markdown: right answers by how often the place was asked for, all seeds of a run together."""
    lines = [
        "| " + " | ".join(RUN) + " | times asked | questions of all seeds | right (95 % interval) |",
        "|---|---|---|---|---|---|---|",
    ]
    for names, group in report.grouped(rows, *RUN):
        for label, part in exposure_bins(group):
            n, correct = sum(r["n"] for r in part), sum(r["correct"] for r in part)
            cells = [*names, label, n, report.percent(correct / n, n)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def exposure_bins(rows: list[dict], edges: tuple[int, ...] = (0, 1, 4, 8, 12, 16, 20, 25, 30, 40, 60)) -> Iterator:
    """(label, rows) for ranges of exposures that hold any; the label says what they hold."""
    for start, stop in zip(edges, (*edges[1:], 10**9), strict=True):
        part = [row for row in rows if start <= row["exposures"] < stop]
        if part:
            low, high = (bound(row["exposures"] for row in part) for bound in (min, max))
            yield f"{low}" if low == high else f"{low} to {high}", part


def draw(args: argparse.Namespace) -> None:
    """Write tables into experiments/README.md and figures into results/, from the rows that are there."""
    readme = ROOT / "experiments" / "README.md"
    recipes = [  # which have their points in accuracy.json already
        row | {"epochs": RECIPES[row["recipe"]].pretrain.max_epochs}
        for row in read_rows(RESULTS / "accuracy.json")
        if row["recipe"] in RECIPES
    ]
    if rows := with_machine(recipes + read_rows(RESULTS / "curve.json")):
        rows = list({tuple(row.get(key) for key in (*TRIAL, "seed")): row for row in rows}.values())
        rows.sort(key=lambda row: (row["data"] != "own", *(row[key] for key in (*RUN[1:], "machine", "seed"))))
        report.put_between(readme, "curve", table(rows, *RUN, "machine", last={"minutes (naive step)": report.minutes}))
        draw_curve(rows)
    if rows := with_machine(read_rows(RESULTS / "ablation.json")):
        order = list(ABLATIONS)
        rows.sort(key=lambda r: (*(str(r.get(key, "")) for key in TRIAL), order.index(r["change"]), r["seed"]))
        # Ablations may run side by side, so their times say nothing.
        last = {"loss of the pretraining": lambda row: str(row.get("loss", "-"))}
        report.put_between(readme, "ablation", table(rows, "change", *TRIAL, last=last))
        draw_ablation(rows)
    if rows := read_rows(RESULTS / "exposures.json"):
        rows.sort(key=lambda row: (row["data"] != "own", row["variant"], row["epochs"], row["recipe"]))
        report.put_between(readme, "exposures", exposure_table(rows))
        draw_exposures(rows)


def with_machine(rows: list[dict]) -> list[dict]:
    """The rows, with what they were trained on as one entry."""
    return [row | {"machine": report.machine(row)} for row in rows]


def draw_line(axes, x: list[float], shares: list[tuple[float, int]], label: str) -> None:
    """Points with their intervals, joined; shares of n questions each."""
    low, high = zip(*([end[0] for end in report.error_bar(share, n)] for share, n in shares), strict=True)
    axes.errorbar(x, [100 * share for share, _ in shares], [low, high], marker="o", capsize=3, label=label)


def finish(figure, panels, name: str, above: bool = False) -> None:
    """What all figures have in common, and write it; with one legend above all panels, or one in each."""
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        if not above and panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=9)
    if above:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=9)
    report.save(figure, RESULTS / name)


def draw_curve(rows: list[dict]) -> None:
    """Right answers by epochs and by minutes."""
    figure, panels = report.pyplot().subplots(1, 2, figsize=(9, 5.2), sharey=True, layout="constrained")
    several = len({row["machine"] for row in rows}) > 1
    for (data, variant, recipe, machine), group in report.grouped(rows, "data", "variant", "recipe", "machine"):
        label = f"{variant}, {recipe}, {data} data" + (f", {machine}" if several else "")
        points = [(key[0], part) for key, part in report.grouped(group, "epochs")]
        epochs = [epochs for epochs, _ in points]
        minutes = [sum(r["seconds"] for r in part) / len(part) / 60 for _, part in points]
        shares = [(mean_dev(part), part[0]["n"]) for _, part in points]
        for panel, x in zip(panels, (epochs, minutes), strict=True):
            draw_line(panel, x, shares, label)
    lengths = [row["seconds"] / 60 for row in rows]
    minutes = [m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500) if min(lengths) / 2 < m < 2 * max(lengths)]
    ticks = (sorted({row["epochs"] for row in rows}), minutes)
    labels = ("epochs of pretraining", "minutes, pretraining and finetuning")
    for panel, label, marks in zip(panels, labels, ticks, strict=True):
        panel.set_xlabel(label)
        panel.set_xscale("log")
        panel.set_xticks(marks, map("{:g}".format, marks))
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("right dev answers, % (95 % interval)")
    finish(figure, panels, "curve.png", above=True)


def draw_ablation(rows: list[dict]) -> None:
    """Right answers by what was changed."""
    names = list(dict.fromkeys(row["change"] for row in rows))
    size = (8, 0.4 * len(names) + 2)
    figure, axes = report.pyplot().subplots(figsize=size, layout="constrained")
    for number, ((data, variant, recipe, epochs, people, machine), group) in enumerate(report.grouped(rows, *TRIAL)):
        for (name,), part in report.grouped(group, "change"):
            place, error = names.index(name) + 0.15 * number, report.error_bar(mean_dev(part), part[0]["n"])
            label = f"{variant}, {recipe}, {epochs} epochs, {data} data, {machine}"
            label += f", {people} people" if people != "-" else ""
            style = {"fmt": "o", "capsize": 3, "color": f"C{number}", "label": label if part[0] is group[0] else None}
            axes.errorbar(100 * mean_dev(part), place, xerr=error, **style)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("right dev answers, % (95 % interval)")
    axes.set_xlim(left=0)
    finish(figure, [axes], "ablation.png", above=True)


def draw_exposures(rows: list[dict], least: int = 20) -> None:
    """Right answers by how often the place was asked for, a panel for each variant, without small bins."""
    figure, panels = report.pyplot().subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for panel, variant in zip(panels, ("vanilla", "rope"), strict=True):
        mine = [row for row in rows if row["variant"] == variant]
        for (data, recipe, epochs), group in report.grouped(mine, "data", "recipe", "epochs"):
            parts = [part for _, part in exposure_bins(group) if sum(r["n"] for r in part) >= least]
            if not parts:
                continue
            n = [sum(r["n"] for r in part) for part in parts]
            x = [sum(r["exposures"] * r["n"] for r in part) / k for part, k in zip(parts, n, strict=True)]
            shares = [(sum(r["correct"] for r in part) / k, k) for part, k in zip(parts, n, strict=True)]
            draw_line(panel, x, shares, f"{variant}, {recipe}, {epochs} epochs, {data} data")
        panel.set_xlabel("times that the pretraining asked for the place")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("right dev answers, % (95 % interval)")
    finish(figure, panels, "exposures.png")


def main(argv: list[str] | None = None) -> int:
    """Run the subcommand."""
    parser = argparse.ArgumentParser(description="Accuracy of recipes, and what makes it.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    described = {f: f.__doc__.split("\n")[0] for f in (accuracy, curve, ablation, exposures, draw)}
    for function, text in described.items():
        command = commands.add_parser(function.__name__, help=text, description=text)
        command.set_defaults(function=function)
        if function is draw:
            continue
        command.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
        command.add_argument("--data_name", help="what the data is called (default: own, or other)")
        if function is not exposures:
            command.add_argument("--device", default="auto", help="default: %(default)s")
        if function in (accuracy, curve, ablation):
            recipes = [name for name, recipe in RECIPES.items() if recipe.people is None]
            command.add_argument("--recipe", choices=recipes, default=MAIN_RECIPE, help="default: %(default)s")
            command.add_argument("--variants", nargs="+", choices=["rope", "vanilla"], default=["rope"])
            command.add_argument("--seeds", nargs="+", type=int, default=[0])
        if function is accuracy:
            text = "train this row of results/accuracy.json once more, and say whether it comes out the same; from 0"
            command.add_argument("--verify", metavar="ROW", type=int, help=text)
        if function is curve:
            command.add_argument("--epochs", nargs="+", type=int, required=True, help="of pretraining")
        if function is ablation:
            command.add_argument("--epochs", type=int, required=True, help="of pretraining")
            text = "take N of the people, with batches smaller in proportion: a trial of a long recipe"
            command.add_argument("--people", metavar="N", type=int, help=text)
            text = "of these alone (default: all): " + ", ".join(map(repr, ABLATIONS))
            command.add_argument(
                "--changes", nargs="+", choices=ABLATIONS, default=[*ABLATIONS], metavar="C", help=text
            )
        if function is exposures:
            command.add_argument("folders", nargs="+", type=Path, help="of runs, under expt/recall/")
    args = parser.parse_args(argv)
    if args.function is not draw:
        check_data(args.data)
        args.data_name = getattr(args, "data_name", None) or name_of_data(args.data)
    return args.function(args) or 0


if __name__ == "__main__":
    sys.exit(cli(main))

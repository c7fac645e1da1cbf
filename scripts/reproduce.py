"""From a bare clone to every deliverable of parts (d), (f), (g) and 4(a): what `make run` runs.

    python scripts/reproduce.py [--recipe fast] [--seed 0] [--data FOLDER --data_name NAME]

Each step is a command of the handout with the recipe's name added, and is printed before it runs.
Training that is done already is skipped, training that was cut off is continued. At the end come
tables and figures of the results (results/), and the submission (scripts/submission.py).
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "corpus"), str(ROOT / "scripts"), str(ROOT / "experiments")]

import build  # noqa: E402
import london_baseline  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import sensitivity  # noqa: E402
import speed  # noqa: E402
import submission  # noqa: E402
from recipes import MAIN_RECIPE, RECIPES  # noqa: E402
from utils import (  # noqa: E402
    UserError,
    add_rows,
    cli,
    evaluate_places,
    fingerprint,
    hardware,
    pick_device,
    pick_precision,
    read_text,
    write_text,
)

DATA_FILES = ("wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv")


class Reproduction:
    """The steps of one recipe and seed on one data set.

    Args:
        recipe, seed: of all trainings.
        data: folder with the four data files.
        data_name: what the data is called in the results.
        device: as in run.py.
        out: folder of all that is written, TensorBoard's logs too; without it the project's root (and
            expt/), or expt/RECIPE for a trial.
    """

    def __init__(self, recipe: str, seed: int, data: Path, data_name: str, device: str, out: Path | None = None):
        self.recipe, self.seed, self.data_name, self.device = recipe, seed, data_name, device
        self.is_trial = RECIPES[recipe].people is not None
        self.out = out or (ROOT / "expt" / recipe if self.is_trial else ROOT)
        self.out.mkdir(parents=True, exist_ok=True)
        self.data = small_data(data, self.out, RECIPES[recipe].people) if self.is_trial else data
        # Of the beginning of the run: its code has been read by now.
        self.date, self.commit = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), commit()
        self.accuracy: list[dict] = []
        self.controls: list[dict] = []
        self.sensitivity: list[dict] = []

    def file(self, name: str) -> str:
        """A path for a command line: relative to the project where it can be."""
        path = (self.data if name in DATA_FILES else self.out) / name
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)

    def command(self, function: str, variant: str, flags: dict[str, str]) -> list[str]:
        """The arguments of run.py."""
        argv = [function, variant, self.file("wiki.txt")]
        for flag, value in flags.items():
            argv += [f"--{flag}", value]
        if function != "evaluate":
            argv += ["--recipe", self.recipe, "--resume"]
        if self.out != ROOT:
            argv += ["--expt_dir", str(self.out / "logs")]
        return [*argv, "--seed", str(self.seed), "--device", self.device]

    def train(self, function: str, variant: str, writes: str, reads: str | None = None) -> None:
        """Train, unless the parameters are there and made in the same way."""
        flags = {} if reads is None else {"reading_params_path": self.file(reads)}
        flags["writing_params_path"] = self.file(writes)
        if function == "finetune":
            flags["finetune_corpus_path"] = self.file("birth_places_train.tsv")
            if reads is None:  # or TensorBoard would show it and the pretrained model as one run
                flags["tb_expt_name"] = "nopretrain"
        argv = self.command(function, variant, flags)
        if self.is_done(function, variant, writes, reads):
            print(f"\n{writes} is there and up to date: skipped\n$ {shown(argv)}")
            return
        print(f"\n$ {shown(argv)}", flush=True)
        run.main(argv)

    def is_done(self, function: str, variant: str, writes: str, reads: str | None) -> bool:
        """Whether the parameters say that this very training made them."""
        from checkpoint import read_stamp

        if not Path(self.file(writes)).exists():
            return False
        made = read_stamp(self.file(writes)).get("settings", {})
        wanted = {"function": function, "variant": variant, "recipe": self.recipe, "seed": self.seed}
        device = pick_device(self.device)
        wanted |= {"device": device.type, "precision": pick_precision("auto", device)}
        wanted["corpus"] = fingerprint(self.file("wiki.txt"))
        wanted["from"] = fingerprint(self.file(reads)) if reads else None
        recipe = RECIPES[self.recipe]
        phase = recipe.pretrain if function == "pretrain" else recipe.finetune if reads else recipe.scratch
        wanted |= asdict(phase) | {"corruption": recipe.corruption}
        if function == "finetune":
            wanted["pairs"] = fingerprint(self.file("birth_places_train.tsv"))
        return all((made.get(name) or None) == (value or None) for name, value in wanted.items())  # missing: off

    def evaluate(self, variant: str, reads: str, name: str) -> dict:
        """Answer dev and test, and return a row of results."""
        from checkpoint import read_stamp

        scores = {}
        for part, questions in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
            flags = {"reading_params_path": self.file(reads), "eval_corpus_path": self.file(questions)}
            flags["outputs_path"] = self.file(f"{name}.{part}.predictions")
            argv = self.command("evaluate", variant, flags)
            print(f"\n$ {shown(argv)}", flush=True)
            scores[part] = run.run(run.build_parser().parse_args(argv))
        stamp = read_stamp(self.file(reads))
        trainings = [t for t in (stamp["pretraining"], stamp["training"]) if t is not None]
        row = self.row(variant, dev=scores["dev"].correct / scores["dev"].total, n=scores["dev"].total)
        row |= {
            "seconds": round(sum(t["seconds"] for t in trainings), 1),
            "tokens": sum(t["tokens"] for t in trainings),
            "loss": round(trainings[0]["loss"], 4),  # of the pretraining, where there is one
        }
        row |= {"precision": stamp["settings"]["precision"], "hardware": stamp["hardware"]}
        row |= {"naive_step_seconds": self.naive_step_seconds(variant)}
        answers = self.test_answers()
        if answers is not None:
            total, correct = evaluate_places(answers, scores["test"].predictions)
            row |= {"test": correct / total, "test_n": int(total)}
        return row

    def row(self, variant: str, **found) -> dict:
        """A row of results: what was found, and how."""
        return {
            "data": self.data_name,
            "variant": variant,
            "recipe": self.recipe,
            "seed": self.seed,
            **found,
            "corpus": fingerprint(self.file("wiki.txt")),
            "commit": self.commit,
            "command": f"python scripts/reproduce.py --recipe {self.recipe} --seed {self.seed}"
            + ("" if self.data_name == "own" else f" --data FOLDER --data_name {self.data_name}"),
            "date": self.date,
        }

    def naive_step_seconds(self, variant: str) -> float | None:
        """The yardstick beside a training time on a CPU, which says little without one; None on a GPU."""
        device = pick_device(self.device)
        if self.is_trial or device.type != "cpu":
            return None
        return round(speed.naive_step_seconds(self.file("wiki.txt"), variant, device), 3)

    def test_answers(self) -> Path | None:
        """The answers to the test questions, where we have them: to our own data."""
        answers = ROOT / "corpus" / "birth_test_answers.tsv"
        if self.is_trial:
            return None
        asked = read_text(self.file("birth_test_inputs.tsv")).split("\n")
        known = [line.partition("\t")[0] for line in read_text(answers).split("\n")]
        return answers if asked == known else None

    def pretrained(self, variant: str) -> dict:
        """Pretrain, finetune and evaluate one model; returns its row of results."""
        self.train("pretrain", variant, f"{variant}.pretrain.params")
        self.train("finetune", variant, f"{variant}.finetune.params", f"{variant}.pretrain.params")
        return self.evaluate(variant, f"{variant}.finetune.params", f"{variant}.pretrain")

    def all(self) -> None:
        """Parts (d), (f), (g) and 4(a)."""
        print("\n=== part (d): vanilla without pretraining, and London for everyone")
        self.train("finetune", "vanilla", "vanilla.model.params")
        scratch = self.evaluate("vanilla", "vanilla.model.params", "vanilla.nopretrain")
        self.controls.append({"what": "vanilla without pretraining", **scratch})
        baseline = self.file("london_baseline_accuracy.txt")
        london_baseline.main(["--eval_corpus_path", self.file("birth_dev.tsv"), "--outputs_path", baseline])
        share = float(read_text(baseline)) / 100
        self.controls.append({"what": "London for everyone", **self.row("-", dev=share, n=scratch["n"])})
        for part, variant in (("f", "vanilla"), ("g", "rope")):
            print(f"\n=== part ({part}): {variant}, pretrained and finetuned")
            self.accuracy.append(self.pretrained(variant))
        print("\n=== part 4(a): the question in other words")
        flags = {"reading_params_path": self.file("rope.finetune.params")}
        flags |= {"eval_corpus_path": self.file("birth_dev.tsv")}
        flags |= {"outputs_path": self.file("rope.sensitivity.dev.predictions")}
        argv = self.command("evaluate", "rope", flags)
        print(f"$ {shown(argv).replace('run.py', 'sensitivity.py')}", flush=True)
        found = sensitivity.run(sensitivity.build_parser().parse_args(argv)).result()
        row = self.row("rope", dev=found["reworded"], n=found["n"])
        self.controls.append({"what": "rope, question reworded (4a)", **row})
        machine = {name: self.accuracy[-1][name] for name in ("hardware", "precision")}
        self.sensitivity.append(self.row("rope", **found, **machine))


def shown(argv: list[str]) -> str:
    """A command as one would type it."""
    return "python src/run.py " + shlex.join(argv)


def commit() -> str:
    """The commit of the code, with + if it was changed since (results and texts are not code)."""
    try:
        git = ["git", "-C", str(ROOT)]
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno", "--", ".", ":!results", ":!*.md"], capture_output=True, text=True
        ).stdout
        return name.strip() + ("+" if dirty.strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def check_data(folder: Path) -> None:
    """UserError if one of the data files is missing."""
    for name in DATA_FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; --data needs a folder with {', '.join(DATA_FILES)}")


def name_of_data(folder: Path) -> str:
    """ "own" for the files that corpus/build.py writes, "other" for any others."""
    ours = build.files(build.split(build.read_people()))
    same = all((folder / name).read_bytes() == ours[ROOT / name] for name in DATA_FILES)
    return "own" if same else "other"


def small_data(data: Path, out: Path, people: int) -> Path:
    """A data set of a few people, cut from the whole one: half train, a quarter dev, a quarter test.

    The documents must hold the question mark, or the questions could not be asked: train people whose
    document has one come first.
    """
    lines = {name: read_text(data / name).rstrip("\n").split("\n") for name in DATA_FILES}
    documents, first, small = lines["wiki.txt"], 0, {"wiki.txt": []}
    parts = {"birth_places_train.tsv": people // 2, "birth_dev.tsv": people // 4, "birth_test_inputs.tsv": people // 4}
    for name, count in parts.items():
        chosen = sorted(range(len(lines[name])), key=lambda i: "?" not in documents[first + i])[:count]
        small[name] = [lines[name][i] for i in chosen]
        small["wiki.txt"] += [documents[first + i] for i in chosen]
        first += len(lines[name])
    for name, rows in small.items():
        write_text(out / name, "\n".join(rows) + ("" if name == "wiki.txt" else "\n"))
    return out


def main(argv: list[str] | None = None) -> int:
    """Run all steps and report."""
    parser = argparse.ArgumentParser(description="Train and evaluate everything; write results and the submission.")
    parser.add_argument("--recipe", choices=RECIPES, default=MAIN_RECIPE, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the four data files (default: the project)")
    parser.add_argument("--data_name", help="what the data is called in the results (default: own, or other)")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    check_data(args.data)
    data_name = args.data_name or name_of_data(args.data)
    device = pick_device(args.device)
    print(f"recipe {args.recipe}: {RECIPES[args.recipe].about}\ndata {data_name}, device {hardware(device)}")
    steps = Reproduction(args.recipe, args.seed, args.data.resolve(), data_name, args.device)
    steps.all()
    results = steps.out / "results" if steps.is_trial else ROOT / "results"
    results.mkdir(exist_ok=True)
    add_rows(results / "accuracy.json", steps.accuracy, report.TRAINED)
    add_rows(results / "controls.json", steps.controls, ("what", "data", "recipe", "seed", "hardware", "precision"))
    add_rows(results / "sensitivity.json", steps.sensitivity, report.TRAINED)
    print("\n=== results")
    tables = report.write_all(results, data_name, args.recipe, args.seed)
    print("\n\n".join(tables.values()))
    if steps.is_trial:
        print(f"\na trial: everything is in {steps.out.relative_to(ROOT)}; `make run` trains on all people")
        return 0
    report.fill(ROOT / "README.md", tables)
    print("\n=== submission")
    return submission.main(["--data", str(steps.data)])


if __name__ == "__main__":
    sys.exit(cli(main))

"""From a bare clone to every deliverable of parts (d), (f), (g) and 4(a): what `make run` runs.

    python scripts/reproduce.py [--recipe fast] [--seed 0] [--data FOLDER --data_name NAME]

Each step is a command of the handout with the recipe and other flags added, and is printed before it runs.
Training that is complete is skipped, training that was cut off is continued (run.py's --resume). At the
end come the table and the picture of the results, and the submission (scripts/submission.py).
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import london_baseline
import run
import sensitivity
from engine.checkpoints import read_stamp
from engine.machine import hardware, pick_device
from engine.recipes import MAIN_RECIPE, RECIPES, changed
from experiments import speed
from report import figures, rows, tables
from report.rows import DATA_FILES, ROOT
from scripts import submission
from utils import cli, evaluate_places, fingerprint, read_pairs, read_text, write_text

CURVE_POINTS = 50  # of a loss curve


@dataclass
class Reproduction:
    """The steps of one recipe and seed on one data set."""

    recipe: str
    seed: int
    data: Path  # folder with the four data files
    data_name: str  # in the rows
    device: str  # as in run.py
    out: Path | None = None  # of all that is written; without it the project's root and expt/, for a trial expt/RECIPE
    changes: Sequence[str] = ()  # of the recipe's settings, as `run.py --change` takes them

    def __post_init__(self):
        recipe = RECIPES[self.recipe]
        self.is_trial = recipe.people is not None
        self.out = self.out or (ROOT / "expt" / self.recipe if self.is_trial else ROOT)
        self.out.mkdir(parents=True, exist_ok=True)
        self.logs = self.file("expt" if self.out == ROOT else "logs")
        if self.is_trial:
            self.data = small_data(self.data, self.out, recipe.people)
        self.made = rows.provenance(
            f"python scripts/reproduce.py --recipe {self.recipe} --seed {self.seed}{rows.data_flags(self.data_name)}",
            self.data_name,
            fingerprint(read_text(self.data / "wiki.txt")),
            self.seed,
            settings=rows.settings_of(changed(recipe, self.changes)),
        )

    def file(self, name: str) -> str:
        """A path for a command line: relative to the current folder where it can be."""
        path = (self.data if name in DATA_FILES else self.out) / name
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def do(self, function: str, variant: str, script=run, **flags: str):
        """Print a command of the handout, run it, and return what it found."""
        argv = [function, variant, self.file("wiki.txt")]
        for flag, value in flags.items():
            argv += [f"--{flag}", value]
        if function != "evaluate":
            argv += ["--recipe", self.recipe, "--resume"]
            argv += ["--change", *self.changes] if self.changes else []
        argv += ["--expt_dir", self.logs] if self.logs != "expt" else []
        argv += ["--seed", str(self.seed), "--device", self.device]
        print(f"\n$ python src/{script.__name__}.py {shlex.join(argv)}", flush=True)
        return script.main(argv)

    def train(self, function: str, variant: str, writes: str, reads: str | None = None) -> None:
        """Pretrain or finetune, unless the same training is complete."""
        flags = {"reading_params_path": self.file(reads)} if reads else {}
        flags["writing_params_path"] = self.file(writes)
        flags["tb_expt_name"] = f"{self.recipe}_{self.seed}"  # or TensorBoard would draw several runs as one
        if function == "finetune":
            flags["finetune_corpus_path"] = self.file("birth_places_train.tsv")
            if reads is None:
                flags["tb_expt_name"] += "_nopretrain"
        self.do(function, variant, **flags)

    def evaluate(self, model: str, variant: str, reads: str, name: str) -> dict:
        """Answer dev and test, and return a row of results; `name` is that of the predictions' files."""
        found = {}
        for part, questions in (("dev", "birth_dev.tsv"), ("test", "birth_test_inputs.tsv")):
            flags = {"reading_params_path": self.file(reads), "eval_corpus_path": self.file(questions)}
            found[part] = self.do("evaluate", variant, **flags, outputs_path=self.file(f"{name}.{part}.predictions"))
        stamp = read_stamp(self.file(reads))
        trainings = [t for t in (stamp["pretraining"], stamp["training"]) if t is not None]
        dev, test, answers = found["dev"], found["test"], self.test_answers()
        total, correct = evaluate_places(answers, test.predictions) if answers else (None, None)
        row = self.row(
            variant,
            model=model,
            dev=dev.correct / dev.total,
            n=dev.total,
            test=correct / total if total else None,
            test_n=int(total) if total else None,
            seconds=round(sum(t["seconds"] for t in trainings), 1),
            tokens=sum(t["tokens"] for t in trainings),
            loss=round(trainings[0]["loss"], 4),  # of the pretraining, where there is one
            precision=stamp["settings"]["precision"],
            hardware=stamp["hardware"],
        )
        if not self.is_trial and pick_device(self.device).type == "cpu":  # a yardstick for the seconds
            row["plain_step_seconds"] = round(speed.plain_step_seconds(self.file("wiki.txt"), variant), 3)
        return row

    def row(self, variant: str, **found) -> dict:
        """A row of results: what was found, and how."""
        return self.made | {"variant": variant, "recipe": self.recipe} | found

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
        return self.evaluate(f"{variant}, pretrained", variant, f"{variant}.finetune.params", f"{variant}.pretrain")

    def loss_curve(self, variant: str) -> list[dict]:
        """The loss of the pretraining: a mean over each part of the steps. Empty if its log is gone."""
        logs = sorted(Path(self.logs).glob(f"pretrain/{self.recipe}_{self.seed}_{variant}_*"))
        if not logs:
            return []
        losses = scalars(logs[0], "train/loss")
        parts = np.array_split(losses, min(CURVE_POINTS, len(losses)))
        ends = np.cumsum([len(part) for part in parts])
        return [{"step": int(end), "loss": round(float(part.mean()), 4)} for end, part in zip(ends, parts, strict=True)]

    def all(self, results: Path) -> None:
        """Parts (d), (f), (g) and 4(a); the rows go into a folder of results."""
        print("\n=== part (d): vanilla without pretraining, and London for everyone")
        self.train("finetune", "vanilla", "vanilla.model.params")
        model, reads = "vanilla without pretraining", "vanilla.model.params"
        rows.add("accuracy", scratch := self.evaluate(model, "vanilla", reads, "vanilla.nopretrain"), results)
        baseline = self.file("london_baseline_accuracy.txt")
        london_baseline.main(["--eval_corpus_path", self.file("birth_dev.tsv"), "--outputs_path", baseline])
        london = self.row("-", model="London for everyone", dev=float(read_text(baseline)) / 100, n=scratch["n"])
        rows.add("accuracy", london, results)
        for part, variant in (("f", "vanilla"), ("g", "rope")):
            print(f"\n=== part ({part}): {variant}, pretrained and finetuned")
            trained = self.pretrained(variant)
            rows.add("accuracy", trained, results)
            machine = {name: trained[name] for name in ("hardware", "precision")}
            if curve := [self.row(variant, **part, **machine) for part in self.loss_curve(variant)]:
                rows.add("loss_curve", curve, results)
        print("\n=== part 4(a): the question in other words")
        row, questions = self.reworded(machine)
        rows.add("accuracy", row, results)
        rows.add("sensitivity_questions", questions, results)

    def reworded(self, told: dict) -> tuple[dict, list[dict]]:
        """Part 4(a): ask the finetuned RoPE model in both wordings.

        Returns:
            A row of results and one for each question; `told`, the columns known of the model, are in them.
        """
        flags = {"reading_params_path": self.file("rope.finetune.params")}
        flags |= {"eval_corpus_path": self.file("birth_dev.tsv")}
        flags |= {"outputs_path": self.file("rope.sensitivity.dev.predictions")}
        asked = self.do("evaluate", "rope", sensitivity, **flags)
        found, dev = asked.result(), self.file("birth_dev.tsv")
        found["dev"] = found.pop("reworded")
        questions = [
            self.row("rope", name=name, truth=truth, answer=original, reworded_answer=reworded, **told)
            for name, (_, _, truth), original, reworded in zip(
                asked.names, read_pairs(read_text(dev), dev), *asked.predictions.values(), strict=True
            )
        ]
        return self.row("rope", model=tables.REWORDED_4A, **found, **told), questions


def scalars(log: Path, tag: str) -> list[float]:
    """The values of a scalar at every step, from a folder of one TensorBoard log."""
    events = EventAccumulator(str(log), size_guidance={"scalars": 0}).Reload().Scalars(tag)
    return [event.value for event in sorted(events, key=lambda event: event.step)]


def small_data(data: Path, out: Path, people: int) -> Path:
    """A data set of a few people, cut from the whole one: half train, a quarter dev, a quarter test.

    A document is about the person whose name it begins with. The documents must hold the question mark, or the
    questions could not be asked: people whose document has one come first.
    """
    lines = {name: read_text(data / name).rstrip("\n").split("\n") for name in DATA_FILES}
    documents, small = lines["wiki.txt"], {"wiki.txt": []}
    parts = {"birth_places_train.tsv": people // 2, "birth_dev.tsv": people // 4, "birth_test_inputs.tsv": people // 4}
    for name, count in parts.items():
        names = (line.partition("\t")[0][len("Where was ") : -len(" born?")] for line in lines[name])
        mine = [next((document for document in documents if document.startswith(f"{who}. ")), "") for who in names]
        chosen = sorted(range(len(mine)), key=lambda i: "?" not in mine[i])[:count]
        small[name] = [lines[name][i] for i in chosen]
        small["wiki.txt"] += [mine[i] for i in chosen]
    for name, kept in small.items():
        write_text(out / name, "\n".join(kept) + ("" if name == "wiki.txt" else "\n"))
    return out


def main(argv: list[str] | None = None) -> int:
    """Run all steps and report."""
    about = "Train and evaluate everything; show results, write the submission."
    parser = argparse.ArgumentParser(description=about, parents=[rows.flags(ROOT / "expt" / "results")])
    parser.add_argument("--recipe", choices=RECIPES, default=MAIN_RECIPE, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    data_name = args.data_name or rows.data_name(args.data)
    device = pick_device(args.device)
    print(f"recipe {args.recipe}: {RECIPES[args.recipe].about}\ndata {data_name}, device {hardware(device)}")
    steps = Reproduction(args.recipe, args.seed, args.data.resolve(), data_name, args.device)
    results = steps.out / "results" if steps.is_trial else args.results
    steps.all(results)
    print("\n=== results")
    figures.draw(results, data_name, args.recipe)
    found = tables.chosen(tables.read_models(results), data=data_name, recipe=args.recipe, seed=args.seed)
    print(tables.markdown(tables.table(map(rows.select, found), tables.IN_SHORT)))  # this machine's, or the latest
    if steps.is_trial:
        print(f"\na trial: everything is in {steps.out}; `make run` trains on all people")
        return 0
    print(f"\nrows and figures: {results}; TensorBoard: tensorboard --logdir {ROOT / 'expt'}\n\n=== submission")
    return submission.main(["--data", str(steps.data)])


if __name__ == "__main__":
    sys.exit(cli(main))

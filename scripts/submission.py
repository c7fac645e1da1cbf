"""Collect assignment3.zip, after checking that it is complete and consistent.

    python scripts/submission.py        (or: make submission)

Checks that every file is there, that the predictions have one line per question, and that the
parameters in the zip give a sample of the predictions in the zip. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from utils import UserError, atomic_write, cli, read_pairs, read_text  # noqa: E402

SCRIPTS = {"d": "scripts/part_d.sh", "f": "scripts/part_f.sh", "g": "scripts/part_g.sh"}
# Each deliverable, and the part of the handout whose commands make it.
DELIVERABLES = {
    "vanilla.model.params": "d",
    "vanilla.finetune.params": "f",
    "rope.finetune.params": "g",
    "vanilla.nopretrain.dev.predictions": "d",
    "vanilla.nopretrain.test.predictions": "d",
    "vanilla.pretrain.dev.predictions": "f",
    "vanilla.pretrain.test.predictions": "f",
    "rope.pretrain.dev.predictions": "g",
    "rope.pretrain.test.predictions": "g",
    "london_baseline_accuracy.txt": "d",
}
# Which parameters made which predictions.
MADE_BY = {
    "vanilla.nopretrain": ("vanilla", "vanilla.model.params"),
    "vanilla.pretrain": ("vanilla", "vanilla.finetune.params"),
    "rope.pretrain": ("rope", "rope.finetune.params"),
}
SAMPLE = 20  # questions asked again for each file of predictions


def check_files(folder: Path, questions: dict[str, list[str]]) -> None:
    """Every deliverable is there, and the predictions are whole.

    Raises:
        UserError: naming the file and the command that makes it.
    """
    for name, part in DELIVERABLES.items():
        again = f"make it with {SCRIPTS[part]}, or all with `make run`"
        if not (folder / name).is_file():
            raise UserError(f"{name} is missing; {again}")
        if name.endswith(".predictions"):
            lines = (folder / name).read_text(encoding="utf-8").split("\n")[:-1]
            expected = len(questions[name.split(".")[2]])
            if len(lines) != expected:
                raise UserError(f"{name} has {len(lines)} lines, {expected} questions were asked; {again}")
    try:
        float((folder / "london_baseline_accuracy.txt").read_text())
    except ValueError:
        raise UserError(
            "london_baseline_accuracy.txt holds no number; python src/london_baseline.py makes it"
        ) from None


def check_predictions(folder: Path, data: Path, questions: dict[str, list[str]]) -> None:
    """The parameters give a sample of the predictions.

    Raises:
        UserError: naming the predictions that other parameters made.
    """
    import run

    for model, (variant, params) in MADE_BY.items():
        argv = ["evaluate", variant, str(data / "wiki.txt"), "--reading_params_path", str(folder / params)]
        network, corpus = run.load_for_answers(run.build_parser().parse_args(argv))
        for part, asked in questions.items():
            name = f"{model}.{part}.predictions"
            stored = (folder / name).read_text(encoding="utf-8").split("\n")
            chosen = random.Random(0).sample(range(len(asked)), min(SAMPLE, len(asked)))
            given = run.answer(network, corpus, [asked[i] for i in chosen], name, "float32")
            if differing := [i for i, answer in zip(chosen, given, strict=True) if answer != stored[i]]:
                raise UserError(
                    f"{name}, line {min(differing) + 1}: {params} answers otherwise; evaluate again with "
                    f"{SCRIPTS[DELIVERABLES[name]]}"
                )


def write_zip(folder: Path, target: Path) -> list[str]:
    """Write the zip, atomically, and return the names in it. No time stamps: same inputs, same bytes."""
    content = {f"src/{path.name}": path for path in sorted((ROOT / "src").glob("*.py"))}
    content |= {name: folder / name for name in DELIVERABLES}
    with atomic_write(target) as file, zipfile.ZipFile(file, "w") as archive:
        for name, path in content.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return list(content)


def main(argv: list[str] | None = None) -> int:
    """Check and collect."""
    parser = argparse.ArgumentParser(description="Collect assignment3.zip, after checking that it is complete.")
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the deliverables are (default: the project)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--output", type=Path, help="default: assignment3.zip beside the deliverables")
    args = parser.parse_args(argv)
    target = args.output or args.folder / "assignment3.zip"
    files = {"dev": "birth_dev.tsv", "test": "birth_test_inputs.tsv"}
    questions = {k: [q for _, q, _ in read_pairs(read_text(args.data / f), f)] for k, f in files.items()}
    check_files(args.folder, questions)
    check_predictions(args.folder, args.data, questions)
    names = write_zip(args.folder, target)
    for name in names:
        print(f"  {name}")
    print(
        f"{target.name}: {len(names)} files, {target.stat().st_size / 1e6:.1f} MB; hand it in beside the report (PDF)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

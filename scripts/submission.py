"""Collect assignment3.zip, after checking that it is complete and consistent; or look into one that anybody made.

    python scripts/submission.py        (or: make submission)
    python scripts/submission.py --check ZIP [--data FOLDER] [--test_answers FILE]

Checks that every file is there, that the predictions have one line per question, that the parameters in the zip
give a sample of the predictions in the zip, and that Gradescope takes its size. The same inputs give the same bytes.
--check prints what a zip holds of what the handout asks for, and runs none of its code (check_zip.py): exit code 0,
1 if something is missing or a problem, 2 if the zip cannot be read or is refused.
"""

import argparse
import random
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from check_zip import DELIVERABLES, GRADESCOPE, check  # noqa: E402
from utils import UserError, atomic_write, cli, read_pairs, read_text  # noqa: E402

SCRIPTS = {"d": "scripts/part_d.sh", "f": "scripts/part_f.sh", "g": "scripts/part_g.sh"}
# Which parameters made which predictions.
MADE_BY = {
    "vanilla.nopretrain": ("vanilla", "vanilla.model.params"),
    "vanilla.pretrain": ("vanilla", "vanilla.finetune.params"),
    "rope.pretrain": ("rope", "rope.finetune.params"),
}
SAMPLE = 20  # questions asked again for each file of predictions
CODE = re.compile(r"[A-Za-z_]\w*\.py")  # no ._run.py of macOS, no "run copy.py"


def predictions_in(path: Path) -> list[str]:
    """The predictions of a file, one a line; the last may lack its newline.

    Raises:
        UserError: the file is not UTF-8 text.
    """
    if not path.read_bytes().strip():
        return []
    return read_text(path).removesuffix("\n").split("\n")


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
            lines, expected = predictions_in(folder / name), len(questions[name.split(".")[2]])
            if len(lines) != expected:
                raise UserError(f"{name} has {len(lines)} lines, {expected} questions were asked; {again}")
    london = read_text(folder / "london_baseline_accuracy.txt").strip()
    if not re.fullmatch(r"\d{1,3}(?:\.\d*)?%?", london) or float(london.rstrip("%")) > 100:
        raise UserError(
            f"london_baseline_accuracy.txt holds {london[:20]!r}, a number from 0 to 100 is expected; "
            "python src/london_baseline.py makes it"
        )


def check_predictions(folder: Path, data: Path, questions: dict[str, list[str]]) -> None:
    """The parameters give a sample of the predictions.

    Raises:
        UserError: naming the predictions that other parameters made.
    """
    import run
    from engine import options
    from engine.answers import answer

    for model, (variant, params) in MADE_BY.items():
        argv = ["evaluate", variant, str(data / "wiki.txt"), "--reading_params_path", str(folder / params)]
        argv += ["--eval_corpus_path", str(data / "birth_dev.tsv"), "--outputs_path", str(folder / "unused.tmp")]
        network, corpus = run.load_for_answers(options.parse(run.build_parser(), argv))
        for part, asked in questions.items():
            name = f"{model}.{part}.predictions"
            stored = predictions_in(folder / name)
            chosen = random.Random(0).sample(range(len(asked)), min(SAMPLE, len(asked)))
            given = answer(network, corpus, [asked[i] for i in chosen], name, "float32")
            if differing := [i for i, place in zip(chosen, given, strict=True) if place != stored[i]]:
                raise UserError(
                    f"{name}, line {min(differing) + 1}: {params} answers otherwise; evaluate again with "
                    f"{SCRIPTS[DELIVERABLES[name]]}"
                )


def write_zip(folder: Path, target: Path) -> list[str]:
    """Write the zip, atomically, and return the names in it. No time stamps: same inputs, same bytes.

    UserError: it is larger than Gradescope takes; an old zip stays.
    """
    code = [path for path in sorted((ROOT / "src").rglob("*.py")) if CODE.fullmatch(path.name)]
    content = {f"src/{path.relative_to(ROOT / 'src').as_posix()}": path for path in code}
    content |= {name: folder / name for name in DELIVERABLES}
    with atomic_write(target) as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, path in content.items():
                entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
        if (size := file.tell()) >= GRADESCOPE:
            sizes = f"{size / 1e6:.1f} MB, Gradescope takes {GRADESCOPE / 1e6:.0f} MB"
            raise UserError(f"{target}: not written, it would have {sizes}; train smaller models")
    return list(content)


def main(argv: list[str] | None = None) -> int:
    """Check and collect, or look into a zip."""
    parser = argparse.ArgumentParser(description="Collect assignment3.zip, or look into one that anybody made.")
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the deliverables are (default: the project)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--output", type=Path, help="default: assignment3.zip beside the deliverables")
    parser.add_argument("--check", type=Path, metavar="ZIP", help="say what this zip holds, running none of it")
    parser.add_argument("--test_answers", type=Path, metavar="FILE", help="with --check: test questions with answers")
    args = parser.parse_args(argv)
    if args.check is not None:
        return check(args.check, args.data, args.test_answers)
    if args.test_answers is not None:
        raise UserError("--test_answers is for --check; leave it out, or say which zip to check")
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

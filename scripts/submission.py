"""Make assignment3.zip and check it, or check a zip that somebody else has made.

    python scripts/submission.py        (or: make submission)
    python scripts/submission.py --check ZIP [--data FOLDER] [--test_answers FILE]

Both print one line per finding:
    ok       as the handout asks
    note     worth knowing; does not count as a fault
    WARNING  complete, but probably a mistake, or below a bar of the handout
    PROBLEM  broken
    MISSING  not in the zip
--check reads the zip in memory: it extracts nothing and runs none of its code. Exit code 0, 1 (WARNING, PROBLEM or
MISSING), or 2 (the zip cannot be read). Making a zip also asks the models some of the questions again, and writes
nothing (exit code 2) if there is a PROBLEM or something MISSING. The same inputs give the same bytes.
"""

import argparse
import io
import posixpath
import random
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

import run
from dataset import CharCorruptionDataset
from engine import options
from engine.checkpoints import WRAPPERS
from model import GPT, GPTConfig
from report.rows import ROOT
from report.tables import BARS, SCORED_ON
from utils import UserError, atomic_write, cli, evaluate_places, read_pairs, read_text

MB = 1_000_000
GRADESCOPE = 100 * MB  # the largest zip that Gradescope accepts
PARAMS_LIMIT, TEXT_LIMIT = 100 * MB, MB  # the most that is read of a parameter file, of any other file

LONDON = "london_baseline_accuracy.txt"
# Each deliverable and the script that makes it.
DELIVERABLES = {
    "vanilla.model.params": "part_d.sh",
    "vanilla.finetune.params": "part_f.sh",
    "rope.finetune.params": "part_g.sh",
    "vanilla.nopretrain.dev.predictions": "part_d.sh",
    "vanilla.nopretrain.test.predictions": "part_d.sh",
    "vanilla.pretrain.dev.predictions": "part_f.sh",
    "vanilla.pretrain.test.predictions": "part_f.sh",
    "rope.pretrain.dev.predictions": "part_g.sh",
    "rope.pretrain.test.predictions": "part_g.sh",
    LONDON: "part_d.sh",
}
# The parameters behind each pair of prediction files.
MADE_BY = {
    "vanilla.nopretrain": ("vanilla", "vanilla.model.params"),
    "vanilla.pretrain": ("vanilla", "vanilla.finetune.params"),
    "rope.pretrain": ("rope", "rope.finetune.params"),
}
SAMPLE = 20  # questions asked again per file of predictions

# The starter's files, and the classes and functions in them that the handout names; models.py may be called model.py.
STARTER = {
    "attention.py": ("CausalSelfAttention", "precompute_rotary_emb", "apply_rotary_emb"),
    "dataset.py": ("NameDataset", "CharCorruptionDataset"),
    "london_baseline.py": (),
    "modern_llm.py": (),
    "models.py": ("GPT",),
    "run.py": (),
    "sensitivity.py": (),
    "trainer.py": ("Trainer",),
    "utils.py": ("evaluate_places",),
}
CODE_NAME = re.compile(r"[A-Za-z_]\w*\.py")  # neither macOS's ._run.py nor "run copy.py"
JUNK = re.compile(r"(^|/)(__MACOSX/|__pycache__/|\.ipynb_checkpoints/|\.DS_Store$|\._[^/]*$|Thumbs\.db$)")

Finding = tuple[str, str]  # status and text: a line of the report


class Data(NamedTuple):
    """The data that a zip is checked against."""

    questions: dict[str, list[str]]  # of "dev" and "test"
    answers: dict[str, Path]  # files to score against; test's may hold questions alone
    characters: int  # size of the vocabulary


def read_data(folder: Path, test_answers: Path | None) -> Data:
    """The data files of a folder. UserError: one is missing or broken, or the answers are to other questions."""
    answers = {"dev": folder / "birth_dev.tsv", "test": folder / "birth_test_inputs.tsv"}
    questions = {part: [question for _, question, _ in read_pairs(read_text(f), f)] for part, f in answers.items()}
    if test_answers is not None:
        pairs = read_pairs(read_text(test_answers), test_answers, with_answers=True)
        if [question for _, question, _ in pairs] != questions["test"]:
            raise UserError(f"{test_answers}: has other questions than {answers['test']}; give the matching file")
        answers["test"] = test_answers
    return Data(questions, answers, len(set(read_text(folder / "wiki.txt"))) + 2)  # PAD and MASK


# ---------------------------------------------------------------- checking a zip


class Archive:
    """The files of a zip: without a folder around everything, and without what operating systems leave."""

    def __init__(self, file: BinaryIO, source: str):
        try:
            self.zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{source}: not a zip archive, or a damaged one ({error}); make it again") from None
        entries = [entry for entry in self.zip.infolist() if not entry.is_dir() and not JUNK.search(entry.filename)]
        files = {e.filename if e.filename.isprintable() else ascii(e.filename): e for e in entries}
        known = next((name for name in files if posixpath.basename(name) in DELIVERABLES), "")
        folder = known.removesuffix(posixpath.basename(known))
        self.folder = folder if all(name.startswith(folder) for name in files) else ""
        self.files = {name.removeprefix(self.folder): entry for name, entry in files.items()}

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes:
        """The content of a file. UserError: it is damaged, encrypted, or larger than the limit."""
        try:
            with self.zip.open(self.files[name]) as file:
                content = file.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{name}: cannot be read ({error}); zip it again") from None
        if len(content) > limit:
            raise UserError(f"{name}: larger than {limit // MB} MB, which is not read; put in the right file")
        return content

    def text(self, name: str) -> str:
        """The content of a text file; any line ends become newlines. UserError: it is not UTF-8."""
        raw = self.read(name)
        try:
            return io.StringIO(raw.decode("utf-8-sig"), newline=None).read()
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise UserError(f"{name}, line {line}: not UTF-8 text; save it as UTF-8") from None


def check_layout(archive: Archive, size: int) -> Iterator[Finding]:
    """Which files the zip of `size` bytes holds, and where."""
    if size >= GRADESCOPE:
        yield "PROBLEM", f"{size / MB:.1f} MB, Gradescope accepts {GRADESCOPE // MB} MB; train smaller models"
    if archive.folder:
        yield "note", f"everything lies in {archive.folder}, where an autograder may not look"
    remedies = {name: f"make it with scripts/{script}" for name, script in DELIVERABLES.items()}
    remedies |= {f"src/{name}": "put it into src/" for name in STARTER}
    if "src/model.py" in archive.files:
        del remedies["src/models.py"]
    known, places = set(remedies), {posixpath.basename(name): name for name in archive.files}
    for name, remedy in remedies.items():
        if name not in archive.files:
            elsewhere = places.get(posixpath.basename(name))
            known.add(elsewhere)
            yield "MISSING", f"{name}: {f'{elsewhere} is in the wrong folder; move it' if elsewhere else remedy}"
    in_src = [name for name in archive.files if name.startswith("src/")]
    if wrong := [name for name in in_src if not name.endswith(".py")]:
        yield "PROBLEM", f"src/ may hold .py files only; take out {listed(wrong)}"
    if extra := [name for name in archive.files if name not in known.union(in_src)]:
        yield "note", f"not on the handout's list: {listed(extra)}; move code into src/, leave out the rest"


def listed(names: list[str]) -> str:
    """The first three names and how many follow."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# Each check below returns the status and text of what it finds; UserError: there is a PROBLEM.


def check_code(archive: Archive) -> Finding:
    """Whether the handout's classes and functions are defined; nothing is parsed or run."""
    code = [archive.read(name).decode(errors="replace") for name in archive.files if name.endswith(".py")]
    defined = re.findall(r"^\s*(?:class|def)\s+(\w+)", "\n".join(code), re.M)
    lacking = [f"{name} ({file})" for file, names in STARTER.items() for name in names if name not in defined]
    if lacking:
        raise UserError(f"src/: not defined: {', '.join(lacking)}; fill in the starter's gaps")
    return "ok", "src/: the handout's classes and functions are defined"


def check_params(archive: Archive, name: str, data: Data) -> Finding:
    """Whether a parameter file is a whole model of its variant; attention may be the student's own work."""
    raw, variant = archive.read(name, PARAMS_LIMIT), name.split(".")[0]
    remedy = "save it with torch.save(model.state_dict(), path)"
    try:
        is_zip = zipfile.is_zipfile(io.BytesIO(raw))  # torch's older format is none
        size = sum(e.file_size for e in zipfile.ZipFile(io.BytesIO(raw)).infolist()) if is_zip else len(raw)
        state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True) if size <= PARAMS_LIMIT else None
    except Exception as error:  # torch.load raises many kinds for damaged files
        kind = type(error).__name__
        raise UserError(f"{name}: does not load with torch.load(weights_only=True) ({kind}); {remedy}") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{name}: not the state dict of a model, or larger than {PARAMS_LIMIT // MB} MB; {remedy}")
    shapes = {WRAPPERS.sub("", str(key)): tuple(tensor.shape) for key, tensor in state.items()}
    characters, width = (*shapes.get("head.weight", ()), 1, 1)[:2]
    layers = 1 + max((int(i) for key in shapes for i in re.findall(r"^blocks\.(\d{1,3})\.", key)), default=0)
    with torch.device("meta"):  # no memory, no values
        expected = GPT(GPTConfig(characters, 1, layers, 1, width)).named_parameters()
    for key, tensor in expected:
        if ".attn." not in key and key != "pos_emb" and shapes.get(key) != tensor.shape:
            raise UserError(f"{name}: {key} is missing, or not of shape {tuple(tensor.shape)}; {remedy}")
    if ("pos_emb" in shapes) != (variant == "vanilla"):
        raise UserError(f"{name}: not a {variant} model (only vanilla has pos_emb); put in the right file")
    if characters != data.characters:
        made = f"vocabulary of {characters}, wiki.txt has {data.characters}"
        raise UserError(f"{name}: {made}; give the right --data")
    return "ok", f"{name}: {variant}, {layers} layers, {width} wide, {characters} characters"


def check_predictions(archive: Archive, name: str, data: Data) -> Finding:
    """Number of lines and accuracy of a file of predictions."""
    model, part, _ = name.rsplit(".", 2)
    text, asked = archive.text(name), len(data.questions[part])
    lines = text.removesuffix("\n").split("\n") if text.strip() else []
    if len(lines) != asked:
        remedy = f"evaluate again with scripts/{DELIVERABLES[name]}"
        raise UserError(f"{name}: {len(lines)} lines, {part} has {asked} questions; {remedy}")
    total, correct = evaluate_places(data.answers[part], lines)
    if not total:
        return "ok", f"{name}: {len(lines)} lines"
    score, variant = f"{name}: {part} {percent(correct, total)}", model.split(".")[0]
    if model.endswith(".nopretrain") or correct >= BARS[variant] * total:
        return "ok", score
    status = "WARNING" if part == SCORED_ON[variant] else "note"
    return status, f"{score}; the handout asks for {BARS[variant]:.0%} on {SCORED_ON[variant]}"


def percent(correct: float, total: float) -> str:
    """An accuracy in words."""
    return f"{100 * correct / total:.1f} % ({correct:.0f} of {total:.0f})"


def check_london(archive: Archive, name: str, data: Data) -> Finding:
    """Whether the baseline's accuracy, in per cent or as a share, is London's on dev."""
    text = archive.text(name)
    total, correct = evaluate_places(data.answers["dev"], ["London"] * len(data.questions["dev"]))
    numbers = [float(number) for number in re.findall(r"(?<![\w.-])\d{1,9}(?:\.\d{1,20})?", text)]
    if not any(abs(value - 100 * correct / total) <= 0.05 for n in numbers for value in (n, 100 * n)):
        right = f"London is right in {percent(correct, total)}"
        raise UserError(f"{name}: holds {text.strip()[:20]!r}, {right}; make it with python src/london_baseline.py")
    return "ok", f"{name}: {percent(correct, total)}"


CHECKS = {".params": check_params, ".predictions": check_predictions, ".txt": check_london}


def check_zip(file: BinaryIO, source: str, data: Data) -> list[Finding]:
    """All findings about a zip. UserError: it cannot be read at all."""
    archive = Archive(file, source)
    found = list(check_layout(archive, file.seek(0, io.SEEK_END)))
    files = {name: archive.files[name] for name in DELIVERABLES if name in archive.files}
    for name in ("src/", *files):
        try:
            check = CHECKS.get(posixpath.splitext(name)[1])
            found.append(check(archive, name, data) if check else check_code(archive))
        except UserError as error:
            found.append(("PROBLEM", str(error)))
    first: dict[tuple[int, int], str] = {}
    for name, entry in files.items():
        same = first.setdefault((entry.CRC, entry.file_size), name)
        if same != name:
            found.append(("WARNING", f"{name}: the same as {same}; check that it is the right file"))
    return found


# ---------------------------------------------------------------- making the zip


def check_answers(folder: Path, data_folder: Path, data: Data) -> Iterator[Finding]:
    """Whether the parameters give the predictions: a sample of the questions is asked again."""
    for model, (variant, params) in MADE_BY.items():
        argv = ["evaluate", variant, str(data_folder / "wiki.txt"), "--reading_params_path", str(folder / params)]
        argv += ["--eval_corpus_path", str(data.answers["dev"]), "--outputs_path", str(folder / "unused.tmp")]
        args = options.parse(run.build_parser(), argv)
        corpus = args.pretrain_corpus_path
        documents = CharCorruptionDataset(read_text(corpus), args.block_size, corpus)
        network = run.make_model(args, documents).to(args.device)
        for part, questions in data.questions.items():
            name = f"{model}.{part}.predictions"
            stored = read_text(folder / name).removesuffix("\n").split("\n")
            chosen = sorted(random.Random(0).sample(range(len(questions)), min(SAMPLE, len(questions))))
            given = run.answer(network, documents, [questions[i] for i in chosen], name)
            differing = [i + 1 for i, place in zip(chosen, given, strict=True) if place != stored[i]]
            if differing:
                remedy = f"evaluate again without --precision, as scripts/{DELIVERABLES[name]} does"
                yield "PROBLEM", f"{name}, line {differing[0]}: {params} answers otherwise; {remedy}"


def pack(folder: Path) -> bytes:
    """The zip of our src/ and of the folder's deliverables, without time stamps: the same inputs, the same bytes."""
    code = [path for path in sorted((ROOT / "src").rglob("*.py")) if CODE_NAME.fullmatch(path.name)]
    content = {path.relative_to(ROOT).as_posix(): path for path in code}
    content |= {name: folder / name for name in DELIVERABLES if (folder / name).is_file()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in content.items():
            entry = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Make the zip, or check one."""
    parser = argparse.ArgumentParser(description="Make and check assignment3.zip, or check one that anybody made.")
    parser.add_argument("--folder", type=Path, default=ROOT, help="where the deliverables are (default: the project)")
    parser.add_argument("--data", type=Path, default=ROOT, help="folder of the data files (default: the project)")
    parser.add_argument("--check", type=Path, metavar="ZIP", help="check this zip, running none of its code")
    parser.add_argument("--test_answers", type=Path, metavar="FILE", help="test questions with answers, if known")
    args = parser.parse_args(argv)
    data, target = read_data(args.data, args.test_answers), args.folder / "assignment3.zip"
    if args.check is None:
        content = pack(args.folder)
        found = check_zip(io.BytesIO(content), target.name, data)
        if not errors(found):
            found += check_answers(args.folder, args.data, data)
    else:
        try:
            with args.check.open("rb") as file:
                found = check_zip(file, str(args.check), data)
        except OSError as error:
            raise UserError(f"{args.check}: cannot be read ({error.strerror}); give the zip to check") from None
    for status, text in found:
        print(f"{status:8} {text}")
    counts = Counter(status for status, _ in found)
    wrong, warnings = errors(found), counts["WARNING"]
    total = f"{counts['MISSING']} MISSING, {counts['PROBLEM']} PROBLEM, {warnings} WARNING"
    print(f"total: {total}; the report and whether the code works are unchecked")
    if args.check is not None:
        return int(bool(wrong) or warnings > 0)
    if wrong:
        more = f" (and {len(wrong) - 1} more, see above)" if len(wrong) > 1 else ""
        raise UserError(f"{target.name} is not written: {wrong[0]}{more}")
    with atomic_write(target) as file:
        file.write(content)
    print(f"{target}: {len(content) / MB:.1f} MB; hand it in beside the report (PDF)")
    return 0


def errors(found: list[Finding]) -> list[str]:
    """What keeps a zip from being handed in."""
    return [text for status, text in found if status in ("MISSING", "PROBLEM")]


if __name__ == "__main__":
    sys.exit(cli(main))

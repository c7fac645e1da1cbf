"""What a zip to hand in holds of what the handout asks for, line by line: `python scripts/submission.py --check ZIP`.

Anybody's zip is read (see untrusted.py), and none of its code is run: code is seen to be there, not to work. That
and the report are for people to judge. A folder around everything and what systems leave are seen through, and noted.
"""

import ast
import io
import posixpath
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from untrusted import MB, PARAMS, TEXT, Archive, read_tensors, shown  # noqa: E402

from engine.checkpoints import WRAPPERS  # noqa: E402
from report.tables import BARS  # noqa: E402
from utils import UserError, evaluate_places, read_pairs, read_text  # noqa: E402

GRADESCOPE = 100 * MB  # what it takes of a zip
UNPACKED = 500 * MB  # what is read of one, at most

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
# The parts of the handout that a zip has to do with: titles, into which the points are put, and points.
PARTS = {
    "zip": ("the zip", 0),
    "b": ("(b) {} points, causal self-attention", 4),
    "c": ("(c) {} points, finetuning", 0),
    "d": ("(d) {} points, predictions without pretraining", 4),
    "e": ("(e) {} points, span corruption", 8),
    "f": ("(f) {} points, vanilla pretrained", 10),
    "g": ("(g) iii. {} points, rope pretrained", 7),
    "4": ("4 (a) to (c) {} points, another wording and a modern LLM", 4),
}
ATTENTION = ("softmax|scaled_dot_product_attention", "mask|tril|triu|is_causal")
# What is looked for in src/: part, file, function (or class and method), patterns of names that stand in the file.
CODE = (
    ("zip", "trainer.py", "", ()),
    ("zip", "utils.py", "", ()),
    ("b", "attention.py", "CausalSelfAttention.forward", ATTENTION),
    ("c", "run.py", "", ("^train$",)),
    ("d", "london_baseline.py", "", ()),
    ("e", "dataset.py", "CharCorruptionDataset.__getitem__", ()),
    ("g", "attention.py", "precompute_rotary_emb", ()),
    ("g", "attention.py", "apply_rotary_emb", ()),
    ("4", "sensitivity.py", "", ()),
    ("4", "modern_llm.py", "", ()),
)
JUNK = re.compile(r"(?:^|/)(?:__MACOSX/|__pycache__/|\.ipynb_checkpoints/|(?:\.DS_Store|\._[^/]*|Thumbs\.db)$)")


class Finding(NamedTuple):
    """A line of the report."""

    part: str  # of the handout
    status: str  # ok, note, MISSING, PROBLEM
    text: str


# ---------------------------------------------------------------- the zip as a whole


class Submission(Archive):
    """A zip to hand in; `files` are without a folder around everything, and without junk."""

    def __init__(self, file: io.RawIOBase, source: str):
        super().__init__(file, source, UNPACKED)
        self.junk = [name for name in self.files if JUNK.search(name)]
        files = {name: entry for name, entry in self.files.items() if not JUNK.search(name)}
        self.folder = folder_around(list(files))
        self.files = {name.removeprefix(self.folder): entry for name, entry in files.items()}


def folder_around(names: list[str]) -> str:
    """The outermost folder around all files in which one of them stands where the handout has it, as "NAME/"."""
    parts = posixpath.commonpath(names).split("/")[:5] if names else []
    for depth in range(len(parts) + 1):
        folder = "".join(f"{part}/" for part in parts[:depth])
        inside = [name.removeprefix(folder) for name in names]
        if any(name in DELIVERABLES or name.startswith("src/") for name in inside):
            return folder
    return ""


def check_whole(zipped: Submission, size: int) -> Iterator[Finding]:
    """Size in bytes, layout, what is missing and what is too much."""
    fits = f"{size / MB:.1f} MB, Gradescope takes {GRADESCOPE / MB:.0f} MB"
    if size < GRADESCOPE:
        yield Finding("zip", "ok", fits)
    else:
        yield Finding("zip", "PROBLEM", f"{fits}; leave out what the handout does not list, or train a smaller model")
    if zipped.folder:
        folder = shown(zipped.folder)
        yield Finding("zip", "note", f"all lies in {folder}, where an autograder may not look; zip what is inside it")
    if zipped.has_backslashes:
        yield Finding("zip", "note", "names have \\ for /, which makes no folders on Linux; zip with another program")
    missing = [name for name in DELIVERABLES if name not in zipped.files]
    for name in missing:
        part, also = DELIVERABLES[name], [other for other in zipped.files if posixpath.basename(other) == name]
        there = f"it lies at {shown(also[0])}" if also else f"part ({part})'s commands make it"
        yield Finding(part, "MISSING", f"{name}; {there}, put it at the top of the zip")
    if not missing:
        yield Finding("zip", "ok", f"all {len(DELIVERABLES)} files that the handout lists beside src/ are there")
    if not {"src/model.py", "src/models.py"} & set(zipped.files):
        yield Finding("zip", "MISSING", "src/models.py (or model.py); put it into src/")
    code = [name for name in zipped.files if name.startswith("src/")]
    if other := [name for name in code if not name.endswith(".py")]:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        text = f"src/ may hold .py files alone; take out {', '.join(map(shown, other[:3]))}{more}"
        yield Finding("zip", "PROBLEM", text)
    elif code:
        yield Finding("zip", "ok", f"src/ holds {len(code)} files, .py alone")
    extra = [name for name in zipped.files if name not in DELIVERABLES and name not in code]
    for names, what in ((extra, "not in the handout's list"), (zipped.junk, "left by the system")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield Finding("zip", "note", f"{what}: {shown(names[0])}{more}; leave it out")


# ---------------------------------------------------------------- its code


def is_filled(body: list[ast.stmt]) -> bool:
    """Whether statements do more than the starter's gaps: pass, raise, a text, None or a name set or returned."""
    for statement in body:
        plain = isinstance(getattr(statement, "value", None), ast.Constant | ast.Name | None)
        if isinstance(statement, ast.Return | ast.Assign | ast.Expr) and plain:
            continue
        if not isinstance(statement, ast.Pass | ast.Raise):
            return True
    return False


def bodies(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """The statements of functions and of methods (as Class.method), and under "" those of the module."""
    found = {"": tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found.setdefault(node.name, node.body)
        elif isinstance(node, ast.ClassDef):
            methods = [method for method in node.body if isinstance(method, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}": method.body for method in methods}
    return found


def check_code(zipped: Submission) -> Iterator[Finding]:
    """All of src/ is Python, and where the starter has gaps there is code. Nothing is run."""
    trees: dict[str, ast.Module] = {}
    for name in (name for name in zipped.files if name.startswith("src/") and name.endswith(".py")):
        raw = zipped.read(name, TEXT)
        try:
            with warnings.catch_warnings(action="ignore"):
                trees[name] = ast.parse(raw.decode("utf-8-sig"))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            python = ".".join(map(str, sys.version_info[:2]))
            yield Finding("zip", "PROBLEM", f"{shown(name)}{where}: is not Python {python} in UTF-8; mend it")
    for part, file, function, patterns in CODE:
        name = f"src/{file}"
        if name not in zipped.files:
            yield Finding(part, "MISSING", f"{name}; put it into src/")
        elif name not in trees:
            yield Finding(part, "PROBLEM", f"{name}: cannot be judged, see above")
        else:
            status, text = look_into(trees[name], function, patterns)
            yield Finding(part, status, f"{name}: {text}")


def look_into(tree: ast.Module, function: str, patterns: tuple[str, ...]) -> tuple[str, str]:
    """Status and text about a function, or a file without one, in which names are to stand that have the patterns."""
    names = {getattr(node, key, None) for node in ast.walk(tree) for key in ("id", "attr", "arg")} - {None}
    lacking = [p for p in patterns if not any(re.search(p, name, re.IGNORECASE) for name in names)]
    body, what = bodies(tree).get(function), function or "it"
    if body is None:
        return "PROBLEM", f"{what} is not there; the handout asks for it in this file"
    if not is_filled(body):
        return "PROBLEM", f"{what} is as empty as in the starter; fill it in"
    if lacking:
        return "PROBLEM", f"nothing in it is called {lacking[0].strip('^$').replace('|', ' or ')}; fill in the gap"
    return "ok", f"{function or 'code'} is there (not run)"


# ---------------------------------------------------------------- parameters


def describe_model(shapes: dict[str, tuple[int, ...]], variant: str) -> tuple[str, int]:
    """A model in words, and how many characters it knows. UserError: it is not whole, or of the other variant."""
    shapes = {WRAPPERS.sub("", name): shape for name, shape in shapes.items()}
    blocks: dict[int, set[str]] = defaultdict(set)
    for name in shapes:
        if inside := re.fullmatch(r"blocks\.(\d{1,3})\.(.+)", name):
            blocks[int(inside[1])].add(inside[2])
    lacking = [name for name in ("tok_emb.weight", "ln_f.weight", "head.weight") if name not in shapes]
    every = {"ln1.weight", "ln2.weight"}.union(*blocks.values())
    for i in range(max(blocks, default=0) + 1):
        lacking += [f"blocks.{i}.{name}" for name in sorted(every - blocks[i])]
    if lacking:
        raise UserError(f"lacks {shown(lacking[0])} ({len(lacking)} tensors in all); save the whole state dict")
    if ("pos_emb" in shapes) != (variant == "vanilla"):
        is_of = "a rope model (no pos_emb)" if variant == "vanilla" else "a vanilla model (it has pos_emb)"
        raise UserError(f"is of {is_of}; put in the {variant} one")
    embedding, head = shapes["tok_emb.weight"], shapes["head.weight"]
    if len(embedding) != 2 or embedding != head:
        raise UserError(f"tok_emb.weight {embedding} does not fit head.weight {head}; save it again")
    return f"{variant}, {len(blocks)} layers, {embedding[1]} wide, {embedding[0]} characters", embedding[0]


def check_params(zipped: Submission, characters: int) -> Iterator[Finding]:
    """Every parameter file is a whole model of its variant, for data of so many characters; no two are the same."""
    seen: dict[str, str] = {}
    for name, part in DELIVERABLES.items():
        if not name.endswith(".params") or name not in zipped.files:
            continue
        raw = zipped.read(name, PARAMS)
        try:
            shapes, values = read_tensors(raw, "the file")
            model, known = describe_model(shapes, name.split(".")[0])
        except UserError as error:
            yield Finding(part, "PROBLEM", f"{name}: {error}")
            continue
        if values in seen:
            yield Finding(part, "PROBLEM", f"{name}: holds the values of {seen[values]}; put in the right file")
        elif known != characters:
            text = f"{name}: knows {known} characters, wiki.txt makes {characters}; --data says where its data are"
            yield Finding(part, "PROBLEM", text)
        else:
            yield Finding(part, "ok", f"{name}: {model}")
        seen.setdefault(values, name)


# ---------------------------------------------------------------- predictions and London


def decode(raw: bytes) -> tuple[str, list[tuple[str, str]]]:
    """A text in whatever encoding it has, with newlines, and what is to be said about that: status and text."""
    said, codec = [], "utf-8-sig"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        codec = "utf-16"
    elif b"\0" in raw[:2]:
        codec = "utf-16-be" if raw[0] == 0 else "utf-16-le"
    if codec != "utf-8-sig":
        said.append(("PROBLEM", "is UTF-16, UTF-8 is expected; save it as UTF-8"))
    elif raw.startswith(b"\xef\xbb\xbf"):
        said.append(("note", "begins with a byte order mark, which others may take for part of line 1"))
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError as error:
        text = raw.decode(codec, errors="replace")
        if codec == "utf-8-sig":
            said.append(("PROBLEM", f"line {raw[: error.start].count(10) + 1} is not UTF-8; save it as UTF-8"))
    if "\r" in text:
        said.append(("note", "has the line ends of Windows (CRLF) or old Macs (CR), read as newlines"))
    return text.replace("\r\n", "\n").replace("\r", "\n"), said


class Score(NamedTuple):
    """What a file of predictions gives."""

    correct: int
    total: int

    def crosses(self, bar: float) -> bool:
        """Whether it is at least a share."""
        return self.correct >= bar * self.total

    def __str__(self) -> str:
        return f"{100 * self.correct / self.total:.1f} % ({self.correct} of {self.total})"


def check_predictions(zipped: Submission, counts: dict[str, int], answers: dict[str, Path]) -> Iterator[Finding]:
    """Every file of predictions has a line a question, is another than the others, and crosses its bar.

    Args:
        counts: how many questions "dev" and "test" have.
        answers: the files with their answers; without "test" where those are unknown.
    """
    scores: dict[str, Score] = {}
    seen: dict[str, str] = {}
    for name, part in DELIVERABLES.items():
        if not name.endswith(".predictions") or name not in zipped.files:
            continue
        asked = name.split(".")[2]
        text, said = decode(zipped.read(name, TEXT))
        yield from (Finding(part, status, f"{name}: {what}") for status, what in said)
        lines = text.removesuffix("\n").split("\n") if text.strip() else []
        if len(lines) != counts[asked]:
            other = "test" if asked == "dev" else "dev"
            what = f"{asked} has {counts[asked]} questions; evaluate again with part ({part})'s commands"
            if len(lines) == counts[other]:
                what = f"as many as {other} has questions, not {asked}; is it swapped with another file?"
            yield Finding(part, "PROBLEM", f"{name}: {len(lines)} lines, {what}")
        elif text in seen:
            yield Finding(part, "PROBLEM", f"{name}: is the same as {seen[text]}; put in the right file")
        elif asked in answers:
            total, correct = evaluate_places(answers[asked], lines)
            scores[name] = Score(int(correct), int(total))
        else:
            yield Finding(part, "ok", f"{name}: {len(lines)} lines")
        seen.setdefault(text, name)
    for name, score in scores.items():
        status, text = judge(name, scores)
        yield Finding(DELIVERABLES[name], status, f"{name}: {name.split('.')[2]} {score}{text}")


def judge(name: str, scores: dict[str, Score]) -> tuple[str, str]:
    """Status and text about a file's score and the handout's bar for it, if it has one."""
    variant, pretrained, asked, _ = name.split(".")
    if pretrained == "nopretrain":
        return "ok", ""
    bar = BARS[variant]
    text = f", bar {100 * bar:.0f} %"
    if scores[name].crosses(bar):
        return "ok", f"{text}: crossed"
    test = scores.get(f"{variant}.pretrain.test.predictions")
    if variant == "rope" and asked == "dev" and test is not None and test.crosses(bar):
        return "note", f"{text}: not crossed, but test crosses it, which the handout scores"
    if better := [n for n, score in scores.items() if n.split(".")[2] == asked and score.crosses(bar)]:
        return "PROBLEM", f"{text}: not crossed, but {better[0]} crosses it; are they swapped?"
    return "PROBLEM", f"{text}: not crossed; look at docs/details.md, 'When something is off'"


def check_london(zipped: Submission, dev: Path, count: int) -> Iterator[Finding]:
    """The baseline's accuracy is that of "London" on dev, in per cent."""
    name = "london_baseline_accuracy.txt"
    if name not in zipped.files:
        return
    text, said = decode(zipped.read(name, TEXT))
    yield from (Finding("d", status, f"{name}: {what}") for status, what in said)
    total, correct = evaluate_places(dev, ["London"] * count)
    numbers = [float(number) for number in re.findall(r"(?<![\w.-])\d{1,9}(?:\.\d{1,20})?", text[:1000])]
    right = Score(int(correct), int(total))
    if any(abs(number - 100 * correct / total) <= 0.05 for number in numbers):
        yield Finding("d", "ok", f"{name}: {right}")
    elif any(abs(number - correct / total) <= 0.0005 for number in numbers):
        yield Finding("d", "note", f"{name}: holds a share of 1, per cent are expected: {right}")
    else:
        what = f"holds {text.strip()[:20]!r}, London gets {right}; write what src/london_baseline.py prints"
        yield Finding("d", "PROBLEM", f"{name}: {what}")


# ---------------------------------------------------------------- all of it


def check(path: Path, data: Path, test_answers: Path | None = None) -> int:
    """Print what a zip holds of what the handout asks for.

    Args:
        data: folder of wiki.txt, birth_dev.tsv and birth_test_inputs.tsv.
        test_answers: file of the test questions with their answers, if these are known.

    Returns:
        the exit code: 0, or 1 if something is missing or a problem.

    Raises:
        UserError: the zip cannot be read, or is refused; or the data cannot be read.
    """
    answers, inputs = {"dev": data / "birth_dev.tsv"}, data / "birth_test_inputs.tsv"
    asked = [question for _, question, _ in read_pairs(read_text(inputs), inputs)]
    counts = {"dev": len(read_pairs(read_text(answers["dev"]), answers["dev"], with_answers=True)), "test": len(asked)}
    if test_answers is not None:
        answers["test"] = test_answers
        if [q for _, q, _ in read_pairs(read_text(test_answers), test_answers, with_answers=True)] != asked:
            raise UserError(f"{test_answers}: answers other questions than {inputs} asks; give the answers to these")
    characters = len(set(read_text(data / "wiki.txt"))) + 2  # with those for masks and padding
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the zip to check")
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a zip that you may read") from None
    with file:
        zipped = Submission(file, str(path))
        found = [*check_whole(zipped, path.stat().st_size), *check_code(zipped), *check_params(zipped, characters)]
        found += [*check_predictions(zipped, counts, answers), *check_london(zipped, answers["dev"], counts["dev"])]
    print(f"{path.name}, {len(zipped.files)} files; none of its code was run\n{tell(found)}")
    return int(any(line.status in ("MISSING", "PROBLEM") for line in found))


def tell(found: list[Finding]) -> str:
    """The report: every part with its lines, and the total."""
    found, lines, whole = list(dict.fromkeys(found)), [], 0
    for part, (title, points) in PARTS.items():
        mine = [line for line in found if line.part == part]
        is_whole = not any(line.status in ("MISSING", "PROBLEM") for line in mine)
        whole += points * is_whole
        lines.append(f"{title.format(points)}: {'ok' if is_whole else 'NOT OK'}")
        lines += [f"  {line.status:8}{line.text}" for line in mine]
    counts = [f"{sum(line.status == status for line in found)} {status}" for status in ("MISSING", "PROBLEM", "note")]
    total = sum(points for _, points in PARTS.values())
    lines.append(
        f"total: {', '.join(counts)}; parts of {whole} of {total} points are ok (that the code works, and the report, "
        "are not judged)"
    )
    return "\n".join(lines)

"""Reading, writing, generation, scoring and the command line; files, machine and answers of the engine room."""

import math
import os
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import utils
from dataset import CharCorruptionDataset
from engine.answers import LINE_ENDS, answer
from engine.files import add_row, check_log_folder, check_writable, fingerprint, read_rows
from engine.machine import QuickDropout, pick_device, pick_precision, quicken
from engine.wordings import wilson_interval
from helpers import tiny_model
from model import GPT, GPTConfig
from utils import UserError, atomic_write, cli, describe_score, evaluate_places, read_pairs, read_text, sample, set_seed

# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    "content, says",
    [
        ("Where?\tOxford\n".encode("utf-16"), ": is UTF-16"),
        ("Where?\tOxford\n".encode("utf-16-le"), ", line 1"),  # without a mark it is full of zero bytes
        (b"good\nline\n\x89PNG\xff\n", ", line 3"),
        ("gut\nZoé\n".encode("latin-1"), ", line 2"),
        (b"one\ntwo\x00\n", ", line 2"),
        (b"", ": is empty"),
        (b" \r\n\n", ": is empty"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, says):
    """UTF-16, binary, Latin-1 and empty files are refused in one line with the file's name."""
    (path := tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}{says}.*\Z"):
        read_text(path)


@pytest.mark.parametrize("name, says", [("missing.txt", "no such file"), (".", "directory"), ("a\0b", "read")])
def test_paths_that_are_no_files(tmp_path, name, says):
    """A missing file, a directory and an impossible name are refused in one line."""
    with pytest.raises(UserError, match=rf"{says}.*\Z"):
        read_text(f"{tmp_path}/{name}")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_byte_order_mark(tmp_path, mark, end):
    """CRLF, CR and a byte order mark read like plain UTF-8, and have its fingerprint (the start of SHA-256)."""
    text = "Where?\tOxford\nZoé?\tŁódź\n"
    (path := tmp_path / "pairs.tsv").write_bytes(mark + text.encode().replace(b"\n", end))
    assert read_text(path) == text
    assert fingerprint(read_text(path)) == fingerprint(text.encode()) != fingerprint(text + " ")
    assert fingerprint("abc") == "ba7816bf8f01cfea"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n \n"])
@pytest.mark.parametrize("blank", ["", " ", "\r", " \r", "\u3000"])
def test_blanks_around_questions_and_places(tmp_path, blank, end):
    """The course strips lines: a blank behind a place once made 20 of 20 wrong. The last newline may be missing."""
    wanted = [(1, "Where was Zoé born?", "New York"), (2, "B?", "Bonn")]
    text = f"Where was Zoé born?{blank}\t{blank}New York{blank}\nB?\tBonn{blank}{end}"
    assert read_pairs(text, "source") == read_pairs(text, "source", with_answers=True) == wanted
    (path := tmp_path / "dev.tsv").write_bytes(text.encode())
    assert evaluate_places(path, ["New York", "Bonn"]) == (2, 2)
    assert read_pairs(f"A?{blank}\nB?{end}", "source") == [(1, "A?", ""), (2, "B?", "")]


LINES = st.lists(st.text(st.sampled_from("ab?\t \r\u2047\u25a1é"), max_size=8), max_size=6).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), LINES), st.sampled_from([True, False, None]))
def test_read_pairs_of_any_text(text, with_answers):
    """Any text is refused in one line with the source's name, or read whole: one pair a line, nothing lost but blanks.

    Blank lines are passed over at the end alone.
    """
    try:
        pairs = read_pairs(text, "source", with_answers)
    except UserError as error:
        assert re.fullmatch("source(, line [0-9]+)?: [^\n]+", str(error))
        return
    lines = text.split("\n")
    assert not "".join(lines[len(pairs) :]).strip()
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=False), 1):
        assert pair == (number, *(part.strip() for part in line.split("\t")), *[""] * ("\t" not in line))
        assert pair[1]
    assert {bool(place) for _, _, place in pairs} == {"\t" in lines[0] if with_answers is None else with_answers}


# ---------------------------------------------------------------- writing


def test_atomic_write(tmp_path):
    """A failure in the middle leaves the old content and no temporary file; without one the new content stands.

    The file is as readable as any other, whatever the umask.
    """
    (path := tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="power cut"), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    with atomic_write(path) as file:
        torch.save({"a": torch.arange(3)}, file)  # a plain binary file
        assert path.read_bytes() == b"old"
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2] and os.listdir(tmp_path) == ["file"]
    utils.write_text(path, "Łódź\nA\r\n")
    assert path.read_bytes() == "Łódź\nA\r\n".encode()
    (tmp_path / "plain").write_text("x")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_full_disk(tmp_path, monkeypatch):
    """When the disk is full the message says so in one line, the old file stays, and nothing else is left."""

    def full(_):
        raise OSError(28, "No space left on device")

    (path := tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(utils.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left.*\Z"):
        utils.write_text(path, "new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["none/out", "file/out", "folder", "x" * 224, "a\0b", os.devnull])
def test_places_that_cannot_be_written(tmp_path, monkeypatch, name):
    """What could not be written is refused in advance, in one line, and where the system has no pathconf.

    Bug: pathconf does not exist on Windows, and every evaluation there was a traceback.
    """
    monkeypatch.delattr(os, "pathconf")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for attempt in (check_writable, *[lambda path: utils.write_text(path, "y")] * ("o" in name)):
        with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / name))}: .*\Z"):
            attempt(tmp_path / name)
    for path in ("new", "file", "x" * 223):
        check_writable(tmp_path / path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and (tmp_path / "file").read_text() == "x"


def test_read_only_folders(tmp_path, monkeypatch):
    """A folder in which the system lets us write nothing is refused in advance (asked of the system: root may all).

    So is a log folder in it, or one whose place a file takes; one that can be made is not made yet.
    """
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/expt"):
        with pytest.raises(UserError, match=rf"^--expt_dir .*{place}: .*file is a file, a folder is expected"):
            check_log_folder(tmp_path / place)
    for place in ("new", "new/deep/expt"):
        check_log_folder(tmp_path / place)
    assert os.listdir(tmp_path) == ["file"]
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((os.fspath(path), mode)))
    for check, place in ((check_writable, "out"), (check_log_folder, "."), (check_log_folder, "a/b")):
        with pytest.raises(UserError, match="read-only"):
            check(tmp_path / place)
    assert asked == [(str(tmp_path), os.W_OK)] * 3


def test_rows(tmp_path):
    """Rows come back as they were, one with the same key replaced; no two keys share a file; no folder, no rows."""
    folder, key = tmp_path / "results" / "accuracy", ("model", "seed")
    assert read_rows(folder) == []
    rows = [{"model": m, "seed": s, "é": [1.5]} for m, s in (("a/b", 0), ("a-b", 0), ("a", "b 0"), ("A/b", None))]
    for row in ({"model": "a/b", "seed": 0, "é": "old"}, *rows):
        assert add_row(folder, row, key).parent == folder
    assert sorted(map(str, read_rows(folder))) == sorted(map(str, rows))
    for content in ("[1]", "{"):
        (folder / "x.json").write_text(content)
        with pytest.raises(UserError, match=r"x\.json: is no row of results"):
            read_rows(folder)


# ---------------------------------------------------------------- generation


def continued(model, row: list[int], steps: int) -> list[int]:
    """Greedy decoding one by one, by torch's own argmax on the last 24 tokens."""
    for _ in range(steps):
        row = [*row, int(model.eval()(torch.tensor([row[-24:]]))[0][0, -1].argmax())]
    return row


@pytest.mark.parametrize("changes", [{}, {"temperature": 0}, {"temperature": 0.0, "sample": True, "top_k": 3}])
def test_sampling_nothing_is_greedy(tiny, changes):
    """The likeliest token is appended to every row, also if it outgrows the block; the mode is left as it was.

    Bug: temperature=0 divided by zero, and gave wrong tokens in silence.
    """
    model = tiny_model(rope=tiny.rope, resid_pdrop=0.5).double()
    for width in (1, 20, 24, 30):
        x = torch.randint(0, 11, (3, width), generator=torch.Generator().manual_seed(width))
        y = sample(model.train(), x, 8, **changes)
        assert model.training and y.dtype == x.dtype
        assert y.tolist() == [continued(model, row, 8) for row in x.tolist()]
        assert torch.equal(sample(model, x, 0), x) and not model.training


@pytest.mark.parametrize("temperature, top_k", [(0.5, None), (1.0, None), (2.0, 4), (3.0, 1), (1.0, 50)])
def test_sampling_follows_the_distribution(temperature, top_k):
    """Sampled tokens have the frequencies softmax(logits / temperature) of the k likeliest, within 5 deviations.

    The seed settles what is sampled.
    """
    model, x = tiny_model(rope=True).eval(), torch.tensor([[1, 2, 3]]).expand(4000, 3)
    logits = model(x[:1])[0][0, -1].detach().double()
    allowed = logits >= logits.sort(descending=True).values[min(top_k or 11, 11) - 1]
    chances = torch.exp(logits / temperature) * allowed
    draws = []
    for seed in (0, 0, 1):
        set_seed(seed)
        draws.append(sample(model, x, 1, temperature, sample=True, top_k=top_k)[:, -1])
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2]) == (top_k == 1)
    tokens = Counter(draws[0].tolist())
    for token, p in enumerate((chances / chances.sum()).tolist()):
        assert abs(tokens[token] / 4000 - p) <= 5 * math.sqrt(p * (1 - p) / 4000) + 1e-9


@pytest.mark.parametrize(
    "name, value",
    [("steps", -1), ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("top_k", 0)],
)
def test_sampling_that_makes_no_sense(name, value):
    """It is refused by name; whatever fails inside, the model is left in the mode it was in."""
    model = tiny_model()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        sample(model, torch.tensor([[1]]), **({"steps": 1, "sample": True} | {name: value}))
    for is_training in (True, False):
        with pytest.raises(IndexError):
            sample(model.train(is_training), torch.tensor([[99]]), 3)  # no such token
        assert model.training == is_training


def test_no_text_to_continue():
    """Rows without a token cannot be continued, which is a ValueError that says so, and not an IndexError."""
    with pytest.raises(ValueError):
        sample(tiny_model(), torch.zeros((2, 0), dtype=torch.long), 1)


# ---------------------------------------------------------------- scoring


def test_evaluate_places(tmp_path):
    """Exact answers are counted: other case, added spaces and parts of the place are wrong. Without answers: (0, 0).

    Another number of predictions than questions is refused and both are named, not cut to the shorter.
    """
    path = tmp_path / "dev.tsv"
    path.write_text("A?\tParis\nB?\tNew York\nC?\tRome\nD?\tŁódź\nE?\tBonn", encoding="utf-8")
    assert evaluate_places(path, ["Paris", "New York", "Rome", "Łódź", "Bonn"]) == (5, 5)
    assert evaluate_places(path, ["paris", "York", "Rome ", "Lodz", "Bonn"]) == (5, 1)
    assert evaluate_places(path, [""] * 5) == (5, 0)
    for count in (0, 4, 6):
        with pytest.raises(UserError, match=rf"5 questions.*{count} predictions"):
            evaluate_places(path, ["Paris"] * count)
    path.write_text("A?\nB?\n")
    assert evaluate_places(path, ["x", "y"]) == (0, 0)


def test_score_line():
    """The line is the course's `Correct: {} out of {}: {}%` of three floats."""
    assert describe_score(500.0, 125.0) == "Correct: 125.0 out of 500.0: 25.0%"
    assert describe_score(8.0, 0.0) == "Correct: 0.0 out of 8.0: 0.0%"
    assert re.fullmatch(r"Correct: 1\.0 out of 3\.0: 33\.3+%", describe_score(3.0, 1.0))
    assert re.fullmatch(r"Correct: 29\.0 out of 100\.0: 29(\.0)?%", describe_score(100.0, 29.0))


@pytest.mark.parametrize(
    "correct, total, low, high",
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_literature(correct, total, low, high):
    """The four examples of Newcombe 1998 (Statistics in Medicine 17, table I, method 3), and their mirror images."""
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=6e-5)


# ---------------------------------------------------------------- programs, seeds, devices


@pytest.mark.parametrize(
    "error, code, said",
    [(None, 0, ""), (UserError("bad file"), 2, "error: bad file\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_exit_codes(capsys, error, code, said):
    """A UserError is one line on stderr and exit code 2, Ctrl-C is 130, other errors are not hidden."""

    def main(error=error) -> int:
        if error:
            raise error
        return 0

    assert cli(main) == code and capsys.readouterr() == ("", said)
    with pytest.raises(ZeroDivisionError):
        cli(lambda: main(ZeroDivisionError()))


def test_set_seed():
    """The same seed repeats the numbers of random, numpy and torch; another seed gives others."""

    def numbers(seed: int) -> tuple:
        set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert numbers(7) == numbers(7) and numbers(2**40) == numbers(2**40)
    assert all(a != b for a, b in zip(numbers(7), numbers(8), strict=True))


def test_devices():
    """cpu is always there; what is not there, or no device at all, is refused by name."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("toaster", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"--device {name}"):
            pick_device(name)


@pytest.mark.parametrize("avx, amx, expected", [(0, 0, "float32"), (1, 0, "bfloat16"), (0, 1, "bfloat16")])
def test_precision(monkeypatch, avx, amx, expected):
    """On a CPU auto is bfloat16 only with instructions for it; what is asked for is taken."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    assert pick_precision("auto", torch.device("cpu")) == expected
    for name in ("float32", "bfloat16"):
        assert pick_precision(name, torch.device("cpu")) == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.99999])
def test_quick_dropout(p, dtype):
    """Each number is kept with the chance 1 - p, p rounded to 1/32768 and never 1, and scaled by the inverse.

    The gradient has the same mask and scale; torch's seed decides. Bug: p = 0.99999 divided by zero.
    """
    kept = 1 - min(round(p * 32768), 32767) / 32768
    torch.manual_seed(0)
    x = (torch.rand(501, 1999, dtype=dtype) + 1).requires_grad_()  # no multiple of four
    y = QuickDropout(p)(x)
    y.backward(torch.full_like(y, 2.0))
    mask = y != 0
    assert abs(mask.double().mean() - kept) < 5 * math.sqrt(kept * (1 - kept) / x.numel())
    assert abs(mask.double().mean(0) - kept).max() < 6 * math.sqrt(kept * (1 - kept) / 501) + 1 / 501
    assert torch.allclose(y, torch.where(mask, x / kept, 0), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert torch.allclose(x.grad, torch.where(mask, 2 / kept, 0.0).to(dtype), rtol=1e-2)
    torch.manual_seed(1)
    first, second = QuickDropout(p)(x), QuickDropout(p)(x)
    torch.manual_seed(1)
    assert torch.equal(first, QuickDropout(p)(x)) and not torch.equal(first, second)
    assert QuickDropout(p).eval()(x) is x and QuickDropout(0.0)(x) is x


def test_quicken(tiny):
    """Every dropout of a model becomes a quick one with its own p, and nothing else changes."""
    plain, quick = (GPT(GPTConfig(11, 24, 2, 2, 16, tiny.rope, 0.1, 0.2, 0.3)) for _ in range(2))
    quick.load_state_dict(plain.state_dict())
    quicken(quick)
    for (name, old), (same, new) in zip(plain.named_modules(), quick.named_modules(), strict=True):
        is_dropout = isinstance(old, torch.nn.Dropout)
        assert name == same and type(new) is (QuickDropout if is_dropout else type(old))
        assert not is_dropout or new.p == old.p
    assert sum(isinstance(m, QuickDropout) for m in quick.modules()) >= 5
    x = torch.tensor([[1, 2, 3]])
    assert torch.equal(plain.eval()(x)[0], quick.eval()(x)[0])


# ---------------------------------------------------------------- answers


class Echo(torch.nn.Module):
    """A model with a block of 16 that says a given text behind every question, token by token."""

    block_size = 16

    def __init__(self, corpus: CharCorruptionDataset, says: str):
        super().__init__()
        self.head, self.mask = torch.nn.Linear(1, 1), corpus.stoi[utils.MASK_CHAR]
        self.says = [corpus.stoi[c] for c in says]

    def forward(self, idx, targets=None):
        """The logits of all positions: what is said after so many tokens behind the first MASK."""
        logits = torch.zeros(*idx.shape, 99)
        for row, tokens in enumerate(idx.tolist()):
            start = tokens.index(self.mask)
            for i in range(start, len(tokens)):
                logits[row, i, self.says[i - start] if i - start < len(self.says) else self.mask] = 1
        return logits, None


@pytest.mark.parametrize("end", ["\t", *LINE_ENDS])
def test_answers_are_one_line_each(end):
    """Line ends and tabs become blanks, other answers are kept as they are; what follows the MASK is cut off."""
    corpus = CharCorruptionDataset("ab ?\t" + LINE_ENDS, 16)
    for said, wanted in ((f"a{end}b{end}", "a b"), ("a  b ", "a  b "), (end, ""), ("", ""), ("b\u2047a", "b")):
        assert answer(Echo(corpus, said).train(), corpus, ["a?", "ab?"], "q", "float32") == [wanted] * 2


def test_questions_that_do_not_fit(capsys):
    """Characters that the corpus lacks are left out and counted; a question too long for the block is refused."""
    corpus = CharCorruptionDataset("Where was Bo?\n", 16)
    capsys.readouterr()
    model = Echo(corpus, "Bo").train()
    assert answer(model, corpus, ["Where was Zoë?", "漢字", "Bo?"], "odd", "bfloat16") == ["Bo"] * 3
    assert capsys.readouterr().out == "odd: 2 questions have characters that the corpus lacks; asked without them\n"
    assert answer(model, corpus, ["漢"], "odd", "float32") == ["Bo"] and model.training
    assert "odd: 1 question has characters" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^odd, line 2: the question has 16 characters, 15 fit"):
        answer(model, corpus, ["o" * 15, "o" * 16], "odd", "float32")


def test_answers_do_not_depend_on_how_many_are_asked(monkeypatch):
    """Questions go in groups of bounded size, however many there are, and are answered as utils.sample answers."""
    corpus = CharCorruptionDataset("abcdefgh?", 24)
    model, rows = tiny_model(), []
    monkeypatch.setattr("engine.answers.STEPS", 9)
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    questions = [f"{'abcdefgh'[i % 8] * (i % 12)}?" for i in range(150)]
    answers = answer(model, corpus, questions, "q", "float32")
    assert max(rows) <= 64 and len(set(answers)) > 5
    for question, said in zip(questions[:40], answers, strict=False):
        x = torch.tensor([[corpus.stoi[c] for c in question + utils.MASK_CHAR]])
        tokens = sample(model, x, 9)[0, x.size(1) :].tolist()
        assert said == "".join(corpus.itos[t] for t in tokens).split(utils.MASK_CHAR)[0]

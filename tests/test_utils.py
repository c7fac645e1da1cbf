"""Reading, writing, generation, scoring and the command line; files, machine and answers of the engine room."""

import math
import os
import random
import re
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils
from dataset import CharCorruptionDataset
from engine.answers import LINE_ENDS, answer
from engine.files import add_row, check_log_folder, check_writable, fingerprint, read_rows
from engine.machine import QuickDropout, pick_device, pick_precision, quicken
from engine.wordings import wilson_interval
from helpers import tiny_model
from utils import UserError, atomic_write, cli, describe_score, evaluate_places, read_pairs, read_text, sample, set_seed


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_byte_order_mark(tmp_path, mark, end):
    """CRLF, CR and a byte order mark read like plain UTF-8, and have its fingerprint (the start of SHA-256)."""
    (path := tmp_path / "pairs.tsv").write_bytes(mark + "é?\tŁódź\nabc\n".encode().replace(b"\n", end))
    assert read_text(path) == "é?\tŁódź\nabc\n"
    assert fingerprint(read_text(path)) == fingerprint("é?\tŁódź\nabc\n".encode())
    assert fingerprint("abc") == "ba7816bf8f01cfea"


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n \n"])
@pytest.mark.parametrize("blank", ["", " ", "\r", " \r", "\u3000"])
def test_blanks_around_questions_and_places(tmp_path, blank, end):
    """The course strips lines: a blank behind a place once made 20 of 20 wrong. The last newline may be missing."""
    text = f" Where was Zoé born? \tNew York{blank}\nB?\t Bonn{blank}{end}"
    wanted = [(1, "Where was Zoé born?", "New York"), (2, "B?", "Bonn")]
    assert read_pairs(text, "source") == read_pairs(text, "source", with_answers=True) == wanted
    assert read_pairs(f"A?{blank}\nB?{end}", "source") == [(1, "A?", ""), (2, "B?", "")]
    (path := tmp_path / "dev.tsv").write_bytes(text.encode())
    assert evaluate_places(path, ["New York", "Bonn"]) == (2, 2)


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(st.sampled_from("ab?\t\t \r\n\n\u2047é")), st.sampled_from([True, False, None]))
@example("a?\t\n", None)
def test_read_pairs_of_any_text(text, with_answers):
    """Any text is refused in one line with its name, or read whole: a pair a line, blank lines at the end alone."""
    try:
        pairs = read_pairs(text, "source", with_answers)
    except UserError as error:
        assert re.fullmatch("source, line [0-9]+: [^\n]+", str(error))
        return
    lines = text.split("\n")
    assert not "".join(lines[len(pairs) :]).strip()
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=False), 1):
        assert pair[1] and pair == (number, *(part.strip() for part in line.split("\t")), *[""] * ("\t" not in line))
    assert {bool(place) for _, _, place in pairs} == {"\t" in lines[0] if with_answers is None else with_answers}


def test_atomic_write(tmp_path):
    """A failure in the middle leaves the old content and no temporary file; else the new stands, as readable as any."""
    (tmp_path / "plain").write_bytes(b"x")
    (path := tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="power cut"), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        torch.save({"a": torch.arange(3)}, file)  # a plain binary file
        assert path.read_bytes() == b"old"
    assert torch.load(path, weights_only=True)["a"].tolist() == [0, 1, 2]
    utils.write_text(path, "Łódź\nA\r\n")
    assert path.read_bytes() == "Łódź\nA\r\n".encode()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["file", "plain"]


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    """What could not be written is refused in advance, in one line, and where the system has no pathconf.

    Bug: pathconf does not exist on Windows, and every evaluation there was a traceback. Whether a folder is read-only
    is asked of the system, since root may write everywhere.
    """
    monkeypatch.delattr(os, "pathconf")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name in ("none/out", "file/out", "folder", "x" * 224, os.devnull):
        for attempt in (check_writable, *[lambda path: utils.write_text(path, "y")] * ("o" in name)):
            with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path / name))}: .*\Z"):
                attempt(tmp_path / name)
    for name in ("file", "file/expt"):
        with pytest.raises(UserError, match=rf"^--expt_dir .*{name}: .*file is a file, a folder is expected"):
            check_log_folder(tmp_path / name)
    for check, name in ((check_writable, "new"), (check_writable, "x" * 223), (check_log_folder, "new/deep/expt")):
        check(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and (tmp_path / "file").read_text() == "x"
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((os.fspath(path), mode)))
    for check, name in ((check_writable, "out"), (check_log_folder, "."), (check_log_folder, "a/b")):
        with pytest.raises(UserError, match="read-only"):
            check(tmp_path / name)
    assert asked == [(str(tmp_path), os.W_OK)] * 3


def test_rows_that_share_no_file(tmp_path):
    """Rows come back as they were: no two keys share a file."""
    rows = [{"model": m, "seed": s, "é": [1.5]} for m, s in (("a/b", 0), ("a-b", 0), ("a", "b 0"), ("A/b", None))]
    for row in rows:
        add_row(tmp_path, row, ("model", "seed"))
    assert sorted(map(str, read_rows(tmp_path))) == sorted(map(str, rows))


@pytest.mark.parametrize("changes", [{}, {"temperature": 0}, {"temperature": 0.0, "sample": True, "top_k": 3}])
def test_sampling_nothing_is_greedy(tiny, changes):
    """The likeliest token comes next, also beyond the block of 24. Bug: temperature=0 gave wrong tokens in silence."""
    model = tiny_model(rope=tiny.rope, resid_pdrop=0.5).double()
    for width in (1, 20, 24, 30):
        x = torch.randint(0, 11, (3, width), generator=torch.Generator().manual_seed(width))
        y = sample(model.train(), x, 8, **changes)
        assert model.training and y.dtype == x.dtype and y.shape == (3, width + 8)
        for row, wanted in zip(y, x.tolist(), strict=True):
            for _ in range(8):
                wanted.append(int(model.eval()(torch.tensor([wanted[-24:]]))[0][0, -1].argmax()))
            assert row.tolist() == wanted
        assert torch.equal(sample(model, x, 0), x) and not model.training


@pytest.mark.parametrize("temperature, top_k", [(0.5, None), (1.0, None), (2.0, 4), (3.0, 1), (1.0, 50)])
def test_sampling_follows_the_distribution(temperature, top_k):
    """Tokens have the frequencies softmax(logits / temperature) of the k likeliest; the seed settles what is drawn."""
    model, x = tiny_model(rope=True).eval(), torch.tensor([[1, 2, 3]]).expand(4000, 3)
    logits, draws = model(x[:1])[0][0, -1].detach().double(), []
    for seed in (0, 0, 1):
        set_seed(seed)
        draws.append(sample(model, x, 1, temperature, sample=True, top_k=top_k)[:, -1])
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2]) == (top_k == 1)
    tokens = Counter(draws[0].tolist())
    least = sorted(logits.tolist())[-min(top_k or 11, 11)]
    chances = torch.exp(logits / temperature) * (logits >= least)
    for token, p in enumerate((chances / chances.sum()).tolist()):
        assert abs(tokens[token] / 4000 - p) <= 5 * math.sqrt(p * (1 - p) / 4000) + 1e-9


def test_sampling_that_makes_no_sense():
    """It is a ValueError that names the argument; whatever fails inside, the model is left in the mode it was in."""
    model, nonsense = tiny_model(), {("steps", -1), ("top_k", 0), ("temperature", -0.1), ("temperature", math.inf)}
    for name, value in nonsense | {("temperature", math.nan)}:
        with pytest.raises(ValueError, match=f"{name}={value}"):
            sample(model, torch.tensor([[1]]), **({"steps": 1, "sample": True} | {name: value}))
    for is_training in (True, False):
        with pytest.raises(IndexError):
            sample(model.train(is_training), torch.tensor([[99]]), 3)  # no such token
        assert model.training == is_training
    with pytest.raises(ValueError):
        sample(model, torch.zeros((2, 0), dtype=torch.long), 1)  # rows without a token


def test_evaluate_places(tmp_path):
    """Exact answers are counted, without answers (0, 0); another number of predictions is refused, and both named."""
    (path := tmp_path / "dev.tsv").write_bytes("A?\tParis\nB?\tNew York\nC?\tRome\nD?\tŁódź\nE?\tBonn".encode())
    assert evaluate_places(path, ["Paris", "New York", "Rome", "Łódź", "Bonn"]) == (5, 5)
    assert evaluate_places(path, ["paris", "York", "Rome ", "Lodz", "Bonn"]) == (5, 1)
    assert evaluate_places(path, [""] * 5) == (5, 0)
    for count in (0, 4, 6):
        with pytest.raises(UserError, match=rf"5 questions.*{count} predictions"):
            evaluate_places(path, ["Paris"] * count)
    path.write_text("A?\nB?\n")
    assert evaluate_places(path, ["x", "y"]) == (0, 0)


def test_scores():
    """The course's `Correct: {} out of {}: {}%` of three floats; Newcombe's (1998, Statistics in Medicine 17, table I,
    method 3) examples of the Wilson interval, and their mirror images."""
    assert describe_score(500.0, 125.0) == "Correct: 125.0 out of 500.0: 25.0%"
    assert describe_score(8.0, 0.0) == "Correct: 0.0 out of 8.0: 0.0%"
    assert re.fullmatch(r"Correct: 1\.0 out of 3\.0: 33\.3+%", describe_score(3.0, 1.0))
    assert re.fullmatch(r"Correct: 29\.0 out of 100\.0: 29(\.0)?%", describe_score(100.0, 29.0))
    table = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (correct, total), (low, high) in table.items():
        assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)
        assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low), abs=6e-5)


EXITS = [(None, 0, ""), (UserError("bad file"), 2, "error: bad file\n"), (KeyboardInterrupt(), 130, "interrupted\n")]


@pytest.mark.parametrize("error, code, said", EXITS)
def test_exit_codes(capsys, error, code, said):
    """A UserError is one line on stderr and exit code 2, Ctrl-C is 130, other errors are not hidden."""
    assert cli(Mock(side_effect=error, return_value=0)) == code and capsys.readouterr() == ("", said)
    with pytest.raises(ZeroDivisionError):
        cli(lambda: 1 // 0)


def test_set_seed():
    """The same seed repeats the numbers of random, numpy and torch; another seed gives others."""
    numbers = []
    for seed in (7, 8, 2**40, 7, 8, 2**40):
        set_seed(seed)
        numbers.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert numbers[:3] == numbers[3:] and all(len(set(source)) == 3 for source in zip(*numbers, strict=True))


@pytest.mark.parametrize("avx, amx, expected", [(0, 0, "float32"), (1, 0, "bfloat16"), (0, 1, "bfloat16")])
def test_devices_and_precision(monkeypatch, avx, amx, expected):
    """What is not there is refused by name; on a CPU auto precision is bfloat16 only with instructions for it."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("toaster", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"--device {name}"):
            pick_device(name)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    for name, picked in (("auto", expected), ("float32", "float32"), ("bfloat16", "bfloat16")):
        assert pick_precision(name, torch.device("cpu")) == picked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.99999])
def test_quick_dropout(p, dtype):
    """Each number is kept with the chance 1 - p, p rounded to 1/65536 and never 1, and scaled by the inverse.

    The gradient has the same mask and scale; torch's seed decides. Bug: p = 0.99999 divided by zero.
    """
    kept = 1 - min(round(p * 65536), 65535) / 65536
    x = (torch.rand(501, 1999).to(dtype) + 1).requires_grad_()  # no multiple of four
    masks = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        y = QuickDropout(p)(x)
        y.backward(torch.full_like(y, 2.0))
        masks.append(mask := y != 0)
        assert abs(mask.double().mean() - kept) < 5 * math.sqrt(kept * (1 - kept) / x.numel())
        assert abs(mask.double().mean(0) - kept).max() < 6 * math.sqrt(kept * (1 - kept) / 501) + 3 / 501
        tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-6
        for got, wanted in ((y, x / kept), (x.grad, torch.tensor(2 / kept))):
            assert torch.allclose(got, torch.where(mask, wanted, 0.0).to(dtype), rtol=tolerance)
        x.grad = None
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert QuickDropout(p).eval()(x) is x and QuickDropout(0.0)(x) is x


def test_quicken(tiny):
    """Every dropout of a model becomes a quick one with its own p, and nothing else changes."""
    shares = {"embd_pdrop": 0.1, "resid_pdrop": 0.2, "attn_pdrop": 0.3}
    plain, quick = (tiny_model(rope=tiny.rope, **shares) for _ in range(2))
    quicken(quick)
    for old, new in zip(plain.modules(), quick.modules(), strict=True):
        assert type(new) is (QuickDropout if isinstance(old, torch.nn.Dropout) else type(old))
        assert getattr(new, "p", None) == getattr(old, "p", None)


def test_answers_are_one_line_each(monkeypatch):
    """Line ends and tabs become blanks, other answers are kept as they are; what follows the MASK is cut off."""
    corpus = CharCorruptionDataset("ab ?\t" + LINE_ENDS, 16)
    cases = [(f"a{end}b{end}", "a b") for end in "\t" + LINE_ENDS]
    cases += [("a  b ", "a  b "), ("\n", ""), ("", ""), ("b\u2047a", "b")]
    said = [[corpus.stoi[c] for c in text] for text, _ in cases]
    monkeypatch.setattr("engine.answers.continue_rows", lambda *args, **keywords: said)
    assert answer(tiny_model(), corpus, ["a?"] * len(cases), "q", "float32") == [wanted for _, wanted in cases]


def test_answers_do_not_depend_on_how_many_are_asked(capsys):
    """Questions go in groups of bounded size, however many there are, and are answered as utils.sample answers.

    Characters that the corpus lacks are left out, and a line says how often; a question that is too long is refused.
    """
    corpus, rows = CharCorruptionDataset("abcdefgh?", 48), []
    model = tiny_model(block_size=48)
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    questions = [f"{'abcdefgh'[i % 8] * (i % 11)}?" for i in range(150)]
    capsys.readouterr()
    answers = answer(model, corpus, [f"漢{q}" for q in questions[:2]] + questions[2:], "odd", "float32")
    assert capsys.readouterr().out == "odd: 2 questions have characters that the corpus lacks; asked without them\n"
    assert max(rows) <= 64 and len(set(answers)) > 5 and model.training
    for question, said in zip(questions[:30], answers, strict=False):
        x = torch.tensor([[corpus.stoi[c] for c in question + utils.MASK_CHAR]])
        tokens = sample(model, x, 32)[0, x.size(1) :].tolist()
        assert said == "".join(corpus.itos[t] for t in tokens).split(utils.MASK_CHAR)[0]
    with pytest.raises(UserError, match=r"^odd, line 2: the question has 48 characters, 47 fit"):
        answer(model, corpus, ["a" * 47, "a" * 48], "odd", "float32")

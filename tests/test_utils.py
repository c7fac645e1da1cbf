"""utils.py: reading, writing, generation, scoring, and exit codes."""

import contextlib
import errno
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import utils
from engine.options import check_writable
from helpers import SRC, Program, tiny_model
from reference import greedy
from utils import (
    UserError,
    atomic_write,
    cli,
    evaluate_places,
    fingerprint,
    generate,
    read_pairs,
    read_text,
    sample,
    set_seed,
)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_and_byte_order_mark(tmp_path, mark, end):
    """Files with CRLF, CR or a byte order mark read like plain UTF-8; fingerprints are the start of a SHA-256."""
    (path := tmp_path / "pairs.tsv").write_bytes(mark + "é?\tŁódź\nabc\n".encode().replace(b"\n", end))
    assert read_text(path) == "é?\tŁódź\nabc\n"
    assert fingerprint(read_text(path)) == fingerprint("é?\tŁódź\nabc\n".encode())
    assert fingerprint("abc") == "ba7816bf8f01cfea"


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text(st.sampled_from('ab?\t\t \r\n\n\u2047é"')), st.sampled_from([True, False, None]))
@example("a?\t\n", None)
def test_read_pairs_of_any_text(text, with_answers):
    """Any text is refused in one line, or read completely: a pair per line, all with a place or none."""
    try:
        pairs = read_pairs(text, "source", with_answers)
    except UserError as error:
        assert re.fullmatch("source, line [0-9]+: [^\n]+", str(error))
        return
    lines = text.translate(utils.INVISIBLE).split("\n")
    assert not "".join(lines[len(pairs) :]).strip()
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=False), 1):
        assert (pair[0], pair[1][-1]) == (number, "?")
        if '"' not in line:
            assert [part for part in pair[1:] if part] == [part.strip() for part in line.split("\t") if part.strip()]
    kinds = {bool(place) for _, _, place in pairs}
    assert kinds == {with_answers} if with_answers is not None else len(kinds) == 1


def test_atomic_write(tmp_path):
    """After a failure the old content is there and no temporary file; permissions are those of any new file.

    An output that is a symbolic link (to a drive, to scratch) is written where the link points.
    """
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
    (link := tmp_path / "link").symlink_to(path)
    check_writable(link)
    utils.write_text(link, "Łódź\nA\r\n")
    assert link.is_symlink() and path.read_bytes() == "Łódź\nA\r\n".encode()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "plain"]


@pytest.mark.parametrize("name, code", [("chmod", errno.EPERM), ("fsync", errno.EINVAL), ("fsync", errno.ENOSPC)])
def test_file_systems_without_chmod_or_fsync(tmp_path, monkeypatch, name, code):
    """Some mounts (Windows drives under WSL, CIFS, FUSE) have neither; files are written there all the same.

    Bug: training ran to its end and then lost its parameters. A full disk, which fsync may tell too, is refused.
    """
    monkeypatch.setattr(os, name, Mock(side_effect=OSError(code, os.strerror(code))))
    is_full = code == errno.ENOSPC
    for write in (check_writable, lambda path: utils.write_text(path, "new")):
        with pytest.raises(UserError, match="No space left") if is_full else contextlib.nullcontext():
            write(tmp_path / "file")
    assert os.listdir(tmp_path) == ([] if is_full else ["file"])


def test_paths_that_cannot_be_written(tmp_path):
    """They are refused in one line that names the path; no file changes.

    In a script with Windows line ends the last word of a command ends with CR, and a file of that name is hard to find.
    """
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    bad = [(check_writable, name) for name in ("none/out", "file/out", "folder", "x" * 224, "params\r", os.devnull)]
    bad += [(lambda path: utils.write_text(path, "y"), name) for name in ("none/out", "file/out", "folder")]
    for write, name in bad:
        shown = re.escape(str(tmp_path / name).replace("\r", r"\r"))
        with pytest.raises(UserError, match=rf"^'?{shown}'?: .*\Z"):
            write(tmp_path / name)
    for name in ("file", "new", "x" * 223):
        check_writable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and (tmp_path / "file").read_text() == "x"


def test_old_temporary_files_are_removed(tmp_path):
    """What a killed program left an hour ago goes; newer files may belong to a running one, and stay.

    Bugs: kills left temporary files for ever, tens of MB each time; the same command started twice removed the file
    that the first was writing.
    """
    script = "import os, sys, utils\nwith utils.atomic_write(sys.argv[1]): os._exit(0)"  # leaves what a kill leaves
    for name in ("out", "out", "out.checkpoint", "other"):
        command = [sys.executable, "-c", script, str(tmp_path / name)]
        subprocess.run(command, env=Program.environment() | {"PYTHONPATH": str(SRC)}, check=True)
    (tmp_path / "out").write_text("good")
    one, *rest = sorted(tmp_path.glob(".o*"))
    (gone := tmp_path / ".out.gone.tmp").symlink_to("nothing")  # listed, but not there, like a file just renamed
    assert one.name.startswith(".other.") and len(rest) == 3
    for old in (one, *rest[:2]):
        os.utime(old, (0, 0))
    check_writable(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([one, rest[2], gone, tmp_path / "out"])
    assert (tmp_path / "out").read_text() == "good"


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize("stop", [1, None])
def test_generation_in_batches_is_that_of_single_rows(tiny, stop):
    """Prompts shorter and longer than the block get their greedy continuations in batches of any size."""
    model, generator = tiny_model(rope=tiny.rope, resid_pdrop=0.5).double().eval(), torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 11, (1 + 7 * i % 37,), generator=generator) for i in range(66)]
    wanted = [greedy(model, prompt.tolist(), 16, 24, stop) for prompt in prompts]
    assert len(set(map(tuple, wanted))) > 10 and (stop is None or len(set(map(len, wanted))) > 5)
    model.train()
    for rows in (1, 3, 64):
        texts = generate(model, prompts, 16, 24, stop, batch_rows=rows)
        assert [text.tolist() for text in texts] == [p.tolist() + new for p, new in zip(prompts, wanted, strict=True)]
    assert model.training


@pytest.mark.parametrize("changes", [{}, {"temperature": 0}, {"temperature": 0.0, "sample": True, "top_k": 3}])
def test_sampling_nothing_is_greedy(tiny, changes):
    """Without sampling, or at temperature 0, the likeliest token is next. Bug: temperature=0 gave wrong tokens."""
    model = tiny_model(rope=tiny.rope).double().eval()
    for width in (1, 24, 30):
        x = torch.randint(0, 11, (3, width), generator=torch.Generator().manual_seed(width))
        y = sample(model, x, 8, **changes)
        assert y.dtype == x.dtype
        assert y.tolist() == [row + greedy(model, row, 8, 24) for row in x.tolist()]
        assert torch.equal(sample(model, x, 0), x)


@pytest.mark.parametrize("temperature, top_k", [(0.5, None), (1.0, None), (2.0, 4), (3.0, 1), (1.0, 50)])
def test_sampling_follows_the_distribution(temperature, top_k):
    """Token frequencies are softmax(logits / temperature) over the k likeliest; equal seeds draw equal tokens."""
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
    """A ValueError names the argument; after any failure the model is in the mode it was in."""
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
    """Exact answers count; a file without answers gives (0, 0); a wrong number of predictions is refused."""
    (path := tmp_path / "dev.tsv").write_bytes("A?\tParis\nB?\tNew York\nC?\tRome\nD?\tŁódź\nE?\tBonn".encode())
    assert evaluate_places(path, ["Paris", "New York", "Rome", "Łódź", "Bonn"]) == (5, 5)
    assert evaluate_places(path, ["paris", "York", "Rome ", "Lodz", "Bonn"]) == (5, 1)
    assert evaluate_places(path, [""] * 5) == (5, 0)
    for count in (0, 4, 6):
        with pytest.raises(UserError, match=rf"5 questions.*{count} predictions"):
            evaluate_places(path, ["Paris"] * count)
    path.write_text("A?\nB?\n")
    assert evaluate_places(path, ["x", "y"]) == (0, 0)


NO_MEMORY = r"error: out of memory \([^\n]+\)[^\n]*--batch_size[^\n]*\n"
ENDINGS = [
    (None, 0, ""),
    (UserError("bad file"), 2, "error: bad file\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ..."), 2, NO_MEMORY),
    (lambda: torch.empty(2**58), 2, NO_MEMORY),
]


@pytest.mark.parametrize("effect, code, said", ENDINGS)
def test_exit_codes(capsys, effect, code, said):
    """A UserError or too little memory is a line on stderr and exit code 2, Ctrl-C is 130; other errors are raised."""
    assert cli(Mock(side_effect=effect, return_value="a result")) == code
    out, err = capsys.readouterr()
    assert not out and re.fullmatch(said, err)
    with pytest.raises(ZeroDivisionError):
        cli(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="shape"):
        cli(lambda: torch.ones(2).view(3))


def test_set_seed():
    """Equal seeds give equal numbers from random, numpy and torch; other seeds give other numbers."""
    numbers = []
    for seed in (7, 8, 2**40, 7, 8, 2**40):
        set_seed(seed)
        numbers.append((random.random(), float(np.random.rand()), float(torch.rand(1))))
    assert numbers[:3] == numbers[3:] and all(len(set(source)) == 3 for source in zip(*numbers, strict=True))

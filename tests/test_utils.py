"""Generation against decoding without a cache, scoring, writing files, and reading pairs from any text."""

import io
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
from dataset import CharCorruptionDataset, encode
from helpers import tiny_model
from reference import NaivePaddedGPT
from utils import (
    UserError,
    atomic_write,
    check_writable,
    choose,
    cli,
    describe_score,
    evaluate_places,
    fingerprint,
    generate,
    pick_device,
    pick_precision,
    read_pairs,
    sample,
    set_seed,
    wilson_interval,
    write_text,
)


def sharp_model(rope: bool, seed: int = 0):
    """A tiny model in float64, so that rounding cannot decide which token is likeliest."""
    return tiny_model(seed=seed, rope=rope).double().eval()


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize("seed", range(3))
def test_generation_is_greedy_decoding(tiny, seed):
    """Prompts of 1 .. 24 tokens continued together are what naive decoding gives one by one, beyond the block too."""
    model = sharp_model(tiny.rope, seed)
    reference = NaivePaddedGPT(model, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    lengths = [5, 24, 1, 17, 5, 23, 9]  # the block holds 24
    prompts = [torch.randint(0, 11, (n,), generator=generator) for n in lengths]
    got = generate(model, prompts, 12)
    assert got == [reference.greedy(p.tolist(), 12) for p in prompts]
    assert len({tuple(row) for row in got}) > 1


def test_generation_in_bfloat16(tiny):
    """Bug: under autocast the float32 cache met bfloat16 queries, and a CPU refused the product.

    The first token of each answer is that of float32, where float32 is sure of it.
    """
    model = tiny_model(seed=0, rope=tiny.rope).eval()
    prompts = [torch.arange(n) % 11 for n in (1, 5, 9)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = generate(model, prompts, 4)
    assert [len(row) for row in rounded] == [4, 4, 4]
    with torch.no_grad():
        for prompt, row in zip(prompts, rounded, strict=True):
            logits = model(prompt[None])[0][0, -1]
            assert logits.max() - logits[row[0]] < 0.05


def test_generation_stops_at_the_stop_token(tiny):
    """A row ends with its first stop token, the others go on: again what naive decoding gives."""
    model = sharp_model(tiny.rope)
    reference = NaivePaddedGPT(model, torch.float64)
    prompts = [torch.tensor(p) for p in ([1, 2, 3], [4], [5, 6, 7, 8, 9], [10] * 20, [3, 1], [2, 2, 7])]
    free = [reference.greedy(p.tolist(), 10) for p in prompts]
    ends = set()
    for stop in range(11):
        got = generate(model, prompts, 10, stop=stop)
        assert got == [row[: row.index(stop) + 1] if stop in row else row for row in free]
        ends |= {len(row) for row in got}
    assert len(ends) > 2


def test_generation_of_nothing(tiny):
    """No prompts give no rows; no steps give empty rows."""
    model = sharp_model(tiny.rope)
    assert generate(model, [], 5) == []
    assert generate(model, [torch.tensor([1]), torch.tensor([2, 3])], 0) == [[], []]


def test_generation_leaves_the_model_as_it_was(tiny):
    """Generation runs without dropout and returns a training model to training."""
    model = tiny_model(rope=tiny.rope, embd_pdrop=0.5, resid_pdrop=0.5, attn_pdrop=0.5).double()
    prompts = [torch.tensor([1, 2]), torch.tensor([3])]
    assert generate(model, prompts, 30) == [
        NaivePaddedGPT(model, torch.float64).greedy(p.tolist(), 30) for p in prompts
    ]
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_sample_is_the_courses_interface(tiny):
    """sample(model, x, steps) appends the naive greedy continuation to every row of x, also if x outgrows the block."""
    model = sharp_model(tiny.rope)
    reference = NaivePaddedGPT(model, torch.float64)
    for width in (1, 20, 24, 30):
        x = torch.randint(0, 11, (3, width), generator=torch.Generator().manual_seed(width))
        y = sample(model, x, 8)
        assert y.shape == (3, width + 8)
        assert y.dtype == x.dtype
        assert torch.equal(y[:, :width], x)
        assert y[:, width:].tolist() == [reference.greedy(row.tolist(), 8) for row in x]


def test_sampling_follows_the_distribution():
    """Sampled tokens have the frequencies softmax(logits / temperature), each within 5 standard deviations."""
    model = sharp_model(rope=True)
    x = torch.tensor([[1, 2, 3]]).expand(4000, 3)
    logits = NaivePaddedGPT(model, torch.float64).logits(x[:1])[0, -1].detach()
    for temperature in (0.5, 1.0, 2.0):
        set_seed(0)
        tokens = Counter(sample(model, x, 1, temperature=temperature, sample=True)[:, -1].tolist())
        for token, p in enumerate((logits / temperature).softmax(0).tolist()):
            assert abs(tokens[token] / 4000 - p) < 5 * math.sqrt(p * (1 - p) / 4000) + 1e-9


@pytest.mark.parametrize("top_k", [1, 2, 4, 50])
def test_top_k_draws_from_the_likeliest(top_k):
    """With top_k every token is among the k likeliest of the naive logits, and each of those occurs."""
    model = sharp_model(rope=False)
    reference = NaivePaddedGPT(model, torch.float64)
    set_seed(0)
    first = sample(model, torch.tensor([[4, 5]]).expand(3000, 2), 1, temperature=3.0, sample=True, top_k=top_k)
    allowed = reference.logits(torch.tensor([[4, 5]]))[0, -1].topk(min(top_k, 11)).indices.tolist()
    assert set(first[:, -1].tolist()) == set(allowed)
    row = sample(model, torch.tensor([[4, 5]]), 15, sample=True, top_k=top_k)[0]
    for end in range(2, 17):
        best = reference.logits(row[None, :end])[0, -1].topk(min(top_k, 11)).indices
        assert int(row[end]) in best.tolist()


def test_sampling_repeats_with_the_seed():
    """set_seed settles what is sampled."""
    model, x = sharp_model(rope=True), torch.ones(20, 3, dtype=torch.long)
    set_seed(1)
    first = sample(model, x, 5, sample=True)
    assert not torch.equal(first, sample(model, x, 5, sample=True))
    set_seed(1)
    assert torch.equal(first, sample(model, x, 5, sample=True))


def test_choice_of_a_token():
    """Greedy choice takes the likeliest whatever the temperature; top_k = 1 does so when sampling."""
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 1.9]])
    assert choose(logits).tolist() == [1, 0]
    assert choose(logits, temperature=10.0).tolist() == [1, 0]
    assert choose(logits, sample=True, top_k=1).tolist() == [1, 0]


# ---------------------------------------------------------------- scoring


def test_evaluate_places(tmp_path):
    """Exact answers are counted: other case, added spaces and parts of the place are wrong."""
    path = tmp_path / "dev.tsv"
    path.write_text("A?\tParis\nB?\tNew York\nC?\tRome\nD?\tŁódź\nE?\tBonn", encoding="utf-8")
    assert evaluate_places(path, ["Paris", "New York", "Rome", "Łódź", "Bonn"]) == (5, 5)
    assert evaluate_places(path, ["paris", "York", "Rome ", "Lodz", "Bonn"]) == (5, 1)
    assert evaluate_places(path, [""] * 5) == (5, 0)


def test_evaluate_places_without_answers(tmp_path):
    """A file of questions alone gives (0, 0)."""
    path = tmp_path / "test.tsv"
    path.write_text("A?\nB?\n")
    assert evaluate_places(path, ["x", "y"]) == (0, 0)


def test_evaluate_places_needs_a_prediction_a_question(tmp_path):
    """Another number of predictions than questions is refused and both are named, not cut to the shorter."""
    path = tmp_path / "dev.tsv"
    path.write_text("A?\tParis\nB?\tRome\n")
    for predictions in (["Paris"], ["Paris", "Rome", "Bonn"]):
        with pytest.raises(UserError, match=rf"2 questions.*{len(predictions)} predictions"):
            evaluate_places(path, predictions)


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
    """The four examples of Newcombe 1998 (Statistics in Medicine 17, table I, method 3)."""
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_ends_solve_the_score_equation(total, data):
    """Both ends p satisfy |share - p| = z sqrt(p (1 - p) / n), and enclose the share within 0 .. 1."""
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    share, z = correct / total, 1.959964
    assert -1e-12 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1 + 1e-12
    for p in (low, high):
        p = min(max(p, 0.0), 1.0)
        assert abs(share - p) == pytest.approx(z * math.sqrt(p * (1 - p) / total), abs=1e-6)


# ---------------------------------------------------------------- writing


def test_atomic_write_keeps_the_old_file_on_failure(tmp_path):
    """A failure in the middle leaves the old content and no temporary file; without one the new content stands."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="power cut"), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_full_disk(tmp_path, monkeypatch):
    """When the disk is full the message says so in one line, the old file stays, and nothing else is left."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(utils.os, "fsync", full)
    with pytest.raises(UserError, match="No space left") as caught:
        write_text(path, "new")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_places_that_cannot_be_written(tmp_path):
    """A missing folder, a file in the folder's place and a directory are refused, by the check in advance too."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "out", tmp_path / "file" / "out", tmp_path / "folder"):
        for attempt in (lambda path: write_text(path, "y"), check_writable):
            with pytest.raises(UserError, match=re.escape(str(path))):
                attempt(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "x"


def test_read_only_folder(tmp_path, monkeypatch):
    """A folder in which the system lets us write nothing is refused in advance (asked of the system: root may all)."""
    asked = []

    def access(path, mode):
        asked.append((os.fspath(path), mode))
        return False

    monkeypatch.setattr(utils.os, "access", access)
    with pytest.raises(UserError, match="read-only"):
        check_writable(tmp_path / "out")
    assert asked == [(str(tmp_path), os.W_OK)]


def test_check_writable_leaves_nothing(tmp_path):
    """The check accepts a new file, an old file and no path, and makes nothing."""
    (tmp_path / "old").write_text("x")
    for path in (tmp_path / "new", tmp_path / "old", None):
        check_writable(path)
    assert os.listdir(tmp_path) == ["old"]


def test_written_text(tmp_path):
    """Text is written as UTF-8 without changes to its line ends, readable for whom the umask lets read."""
    write_text(tmp_path / "out", "Łódź\nA\r\n")
    assert (tmp_path / "out").read_bytes() == "Łódź\nA\r\n".encode()
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_fingerprint(tmp_path):
    """The beginning of SHA-256: the standard's own example "abc"."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert fingerprint(tmp_path / "abc") == "ba7816bf8f01cfea"


# ---------------------------------------------------------------- seeds, errors, devices


def test_set_seed():
    """The same seed repeats the numbers of random, numpy and torch; another seed gives others."""

    def numbers(seed: int) -> tuple:
        set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    assert numbers(7) == numbers(7)
    assert all(a != b for a, b in zip(numbers(7), numbers(8), strict=True))
    assert numbers(2**40) == numbers(2**40)


def test_cli_turns_errors_into_one_line(capsys):
    """A UserError is one line on stderr and exit code 2, Ctrl-C is 130, other errors are not hidden."""

    def fail(error):
        def main():
            raise error

        return main

    assert cli(lambda: 0) == 0
    assert cli(fail(UserError("bad file"))) == 2
    assert capsys.readouterr() == ("", "error: bad file\n")
    assert cli(fail(KeyboardInterrupt())) == 130
    with pytest.raises(ZeroDivisionError):
        cli(fail(ZeroDivisionError()))


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


# ---------------------------------------------------------------- reading any text

LINES = st.lists(st.text(st.sampled_from("ab?\t \r\u2047\u25a1é"), max_size=8), max_size=6).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), LINES), st.sampled_from([True, False, None]))
def test_read_pairs_of_any_text(text, with_answers):
    """Any text is either refused in one line with the source's name, or read whole: one pair a line, nothing lost."""
    try:
        pairs = read_pairs(text, "source", with_answers)
    except UserError as error:
        assert str(error).startswith("source")
        assert "\n" not in str(error)
        return
    lines = [f"{q}\t{a}" if a else q for _, q, a in pairs]
    assert text.split("\n")[: len(lines)] == lines
    assert not "".join(text.split("\n")[len(lines) :]).strip()
    assert [number for number, _, _ in pairs] == list(range(1, len(pairs) + 1))
    assert all(q.strip() for _, q, _ in pairs)
    assert len({bool(a) for _, _, a in pairs}) == 1
    if with_answers is not None:
        assert bool(pairs[0][2]) == with_answers


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2047\u25a1"), min_size=1))
def test_encode_and_decode(text):
    """Token ids of any text over its own vocabulary decode to the text."""
    text += "."
    data = CharCorruptionDataset(text, 16)
    ids = encode(text, data.stoi)
    assert "".join(data.itos[i] for i in ids) == text
    assert all(2 <= i < data.vocab_size for i in ids)


def test_encode_of_an_unknown_character():
    """A character that the vocabulary lacks raises KeyError and is not replaced silently."""
    with pytest.raises(KeyError):
        encode("ab", {"a": 2})


def test_parameter_file_in_the_middle_of_writing(tmp_path):
    """The handle of atomic_write is a plain binary file: torch.save writes to it and torch.load reads the result."""
    with atomic_write(tmp_path / "t") as file:
        torch.save({"a": torch.arange(3)}, file)
    loaded = torch.load(io.BytesIO((tmp_path / "t").read_bytes()), weights_only=True)
    assert loaded["a"].tolist() == [0, 1, 2]

"""Parameter files and checkpoints: what others can read, what is read of others, and what is refused."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine import checkpoints
from engine.checkpoints import load_checkpoint, load_params, read_stamp, save_checkpoint, save_params, vocabulary_hash
from engine.files import remove_scraps
from helpers import SRC, Program, tiny_model
from model import GPT
from utils import UserError

ITOS = dict(enumerate("□⁇\nabcdefgh"))
VOCABULARY = vocabulary_hash(ITOS)
STAMP = {"vocabulary": VOCABULARY, "corpus_path": "people.txt", "training": {"steps": 7}}


@pytest.fixture
def saved(tmp_path: Path, tiny) -> tuple[Path, GPT]:
    """A file of parameters, and the model it was written from."""
    save_params(path := tmp_path / "params", model := tiny_model(rope=tiny.rope), STAMP)
    return path, model


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_round_trip(saved, capsys):
    """A file read into another model makes it equal, bit for bit, and returns the stamp; nothing is said."""
    path, model = saved
    other = tiny_model(seed=1, rope=model.rope)
    stamp = load_params(path, other, VOCABULARY)
    assert stamp == read_stamp(path) and stamp.items() >= STAMP.items()
    assert same(other.state_dict(), model.state_dict())
    assert capsys.readouterr() == ("", "")


def holding(ending: str, buffer: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Replaces the buffers of a state dict that end so."""
    return lambda state: {name: buffer if name.endswith(ending) else value for name, value in state.items()}


FUTURE = torch.ones(24, 24).triu(1)
FOREIGN = {
    "the course's": dict,
    "PyTorch's metadata": copy.copy,
    "mask True for the future": holding("mask", FUTURE.bool()),
    "mask of 0 and -inf": holding("mask", torch.zeros(24, 24).masked_fill(FUTURE == 1, -torch.inf)),
    "mask of zeros": holding("mask", torch.zeros(1, 1, 24, 24)),
    "mask of a longer block": holding("mask", torch.ones(1, 1, 64, 64).tril()),
    "rotary cache of zeros": holding("rope_cache", torch.zeros(24, 4, 2)),
    "complex rotary cache": holding("rope_cache", torch.ones(24, 4, dtype=torch.complex64)),
    "no buffers": lambda state: {k: v for k, v in state.items() if not k.endswith(("mask", "rope_cache"))},
    "of DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "of torch.compile": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "of both": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_our_code_reads_other_files(tmp_path, tiny, capsys, change):
    """A state dict of other code loads as if ours, with a warning that names the file: its buffers are not believed.

    Bugs: masks of another convention were loaded, and finetuning ended with "the loss diverged"; an all-zero rotary
    cache was believed; keys with the prefixes of PyTorch's wrappers were refused as "another model".
    """
    source, path = tiny_model(rope=tiny.rope), tmp_path / "course.params"
    torch.save(change(source.state_dict()), path)
    model = tiny_model(seed=1, rope=tiny.rope)
    assert load_params(path, model, VOCABULARY) == {}
    assert same(model.state_dict(), source.state_dict())
    assert re.fullmatch(rf"warning: {path}: [^\n]+\n", capsys.readouterr().err)


def unchanged_by(path: Path, model: GPT, says: str, vocabulary: str = VOCABULARY) -> str:
    """Loading is refused in one line that starts with the file's name, and the model stays as it was; the line."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=says) as caught:
        load_params(path, model, vocabulary)
    assert re.fullmatch(rf"{path}: [^\n]+", str(caught.value))
    assert same(model.state_dict(), before)
    return str(caught.value)


STATE = tiny_model().state_dict()
CONTAINERS = {
    "nanoGPT's": {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "iter_num": 5},
    "Lightning's": {"epoch": 3, "hyper_parameters": {"n_layer": 2}, "state_dict": STATE},
    "optimizer first": {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "model_state_dict": STATE},
}


@pytest.mark.parametrize("content", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_are_named_with_what_to_pass_instead(tmp_path, monkeypatch, content):
    """A file that holds the state dict under a key: the key is named, and the advice, followed, gives a good file."""
    monkeypatch.chdir(tmp_path)
    torch.save(content, "container")
    said = unchanged_by(Path("container"), tiny_model(seed=1), r"state_dict|'model'")
    exec(re.search(r"torch\.save\(.*\)", said)[0], {"torch": torch})
    model = tiny_model(seed=1)
    load_params("NEW.params", model, VOCABULARY)
    assert same(model.state_dict(), STATE)


OTHERS = [(VOCABULARY, {"rope": 0}, "rope.*vanilla|vanilla.*rope"), (VOCABULARY, {"vocab_size": 12}, "11 .*12")]
OTHERS += [(vocabulary_hash(dict(enumerate(text))), {}, "people.txt") for text in ("□⁇\nabcdefgx", "□⁇\nbacdefgh")]
OTHERS += [(VOCABULARY, changes, "another model") for changes in ({"n_embd": 32}, {"n_layer": 1}, {"n_layer": 3})]


@pytest.mark.parametrize("vocabulary, changes, says", OTHERS)
def test_parameters_of_another_model(saved, vocabulary, changes, says):
    """Another variant, vocabulary or size is refused and named; rotary positions, not learned ones, fit any block."""
    path, model = saved
    rope = model.rope != ("rope" in changes)
    unchanged_by(path, tiny_model(**(changes | {"rope": rope})), says, vocabulary)
    longer, x = tiny_model(seed=1, rope=model.rope, block_size=25), torch.arange(11)[None]
    if model.rope:
        load_params(path, longer, VOCABULARY)
        assert torch.equal(longer(x)[0], model(x)[0])
    else:
        unchanged_by(path, longer, "pos_emb has shape")


def test_files_that_are_something_else(tmp_path):
    """Files cut off anywhere, text, a zip of other things, a tensor, a list, no file, a directory: refused."""
    model, path = tiny_model(), tmp_path / "file"
    save_params(path, model, STAMP)
    content = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        unchanged_by(path, model, "damaged|cannot be read|refused")
    path.write_text("hello\n" * 100)
    unchanged_by(path, model, "damaged|refused")
    for other in (torch.zeros(3), {"a": 1}, [1, 2], {**STATE, "epoch": 3}):
        torch.save(other, path)
        unchanged_by(path, model, "not the state dict")
    torch.save({}, path)
    unchanged_by(path, model, "lacks|another model|not the state dict")
    unchanged_by(tmp_path / "missing", model, "no such")
    unchanged_by(tmp_path, model, "directory")


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_malicious_file_is_refused_and_not_run(tmp_path, monkeypatch, how):
    """A pickle that calls os.system is refused and not run, though the trap is live: plain unpickling does run it."""
    monkeypatch.chdir(tmp_path)
    path, content = Path("evil"), {"tok_emb.weight": Evil(), "settings": Evil(), "trainer": {}}
    torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    unchanged_by(path, tiny_model(), "refused|damaged")
    for read in (read_stamp, lambda p: load_checkpoint(p, {})):
        with pytest.raises(UserError, match="evil"):
            read(path)
    assert os.listdir() == ["evil"]
    pickle.loads(path.read_bytes()) if how == "pickle" else torch.load(path, weights_only=False)
    assert sorted(os.listdir()) == ["evil", "executed"]


def test_vocabulary_hash():
    """The hash tells other characters and another order apart, and nothing else."""
    assert vocabulary_hash({0: "a", 1: "b"}) == vocabulary_hash({1: "b", 0: "a"})
    assert len({vocabulary_hash(dict(enumerate(text))) for text in ("ab", "ba", "abc", "ab\n", "áb")}) == 5


SETTINGS = {"function": "pretrain", "seed": 0, "rate": 6e-3, "from": None, "dropout": 0.0, "precision": "float32"}


def test_checkpoint_round_trip(tmp_path):
    """State and settings come back if the settings are the same, or without a wish for precision; no file, nothing."""
    path = checkpoints.checkpoint_path(tmp_path / "x.params")
    assert path == tmp_path / "x.params.checkpoint"
    assert load_checkpoint(path, SETTINGS) is None
    state = {"step": 3, "w": torch.rand(2, 2)}
    save_checkpoint(path, state, SETTINGS)
    for wanted in (json.loads(json.dumps(SETTINGS)), SETTINGS | {"precision": None}):
        loaded, settings = load_checkpoint(path, wanted)
        assert settings == SETTINGS and loaded["step"] == 3 and torch.equal(loaded["w"], state["w"])


CHANGES = {"seed": 1, "rate": 6e-4, "from": "abc", "new": 5, "dropout": None, "precision": "bfloat16"}


@pytest.mark.parametrize("name, value", CHANGES.items())
def test_checkpoint_of_other_settings(tmp_path, name, value):
    """It is refused: the setting and both values are named. Bug: 0 and a missing setting counted as the same."""
    save_checkpoint(tmp_path / "c", {}, SETTINGS)
    with pytest.raises(UserError, match=f"{name}.* = {SETTINGS.get(name)}, this one has {value}"):
        load_checkpoint(tmp_path / "c", SETTINGS | {name: value})
    assert f"{name} = None, this one has 0" in checkpoints.difference({}, {name: 0})


def test_checkpoints_of_the_old_code_and_other_files(tmp_path):
    """A checkpoint of an earlier version, parameters or a damaged file in its place: refused, and left as they are."""
    path = tmp_path / "c"
    old = {"settings": json.dumps(SETTINGS), "trainer": {"step": 3, "model": STATE}}
    cases = [(old, "earlier version"), (old | {"format": 1}, "earlier version")]
    for content, says in (*cases, (STATE, "not a checkpoint"), ([1], "not a checkpoint")):
        torch.save(content, path)
        before = path.read_bytes()
        with pytest.raises(UserError, match=rf"^\S+: [^\n]*{says}[^\n]*; delete it to start afresh$"):
            load_checkpoint(path, SETTINGS)
        assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(UserError, match=r"damaged|refused|cannot be read"):
        load_checkpoint(path, SETTINGS)


def test_half_written_files_are_swept_and_nothing_else(tmp_path):
    """Bug: a SIGKILL in the middle of a write left its temporary file for ever, tens of MB each time."""
    path, others = tmp_path / "p.checkpoint", (".q.checkpoint.abcd_123.tmp", ".p.checkpoint.mine.abcd_123.tmp")
    for name in others:
        (tmp_path / name).touch()
    script = "import os, sys, utils\nwith utils.atomic_write(sys.argv[1]): os._exit(0)"  # no more than a kill leaves
    environment = Program.environment() | {"PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", script, path], env=environment, check=True)
    path.write_bytes(b"good")
    assert len(os.listdir(tmp_path)) == 4
    remove_scraps(path)
    assert sorted(os.listdir(tmp_path)) == sorted((*others, "p.checkpoint"))
    assert path.read_bytes() == b"good"

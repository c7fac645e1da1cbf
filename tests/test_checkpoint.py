"""Parameter files and checkpoints: what others can read, and what is refused."""

import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
import torch.nn as nn

from checkpoint import (
    checkpoint_path,
    load_checkpoint,
    load_params,
    read_stamp,
    remove_scraps,
    save_checkpoint,
    save_params,
    vocabulary_hash,
)
from helpers import SRC, Program, tiny_model
from reference import NaivePaddedGPT, contract_shapes
from utils import UserError

ITOS = dict(enumerate("□⁇\nabcdefgh"))
VOCABULARY = vocabulary_hash(ITOS)
STAMP = {"vocabulary": VOCABULARY, "corpus_path": "people.txt", "training": {"steps": 7}}


class Plain(nn.Module):
    """A module that holds tensors under given names and does nothing: other code's model, for strict loading."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            module.register_parameter(leaf, nn.Parameter(torch.zeros(shape)))


@pytest.fixture
def saved(tmp_path, tiny):
    """A file of parameters, and the model it was written from."""
    model = tiny_model(rope=tiny.rope)
    save_params(tmp_path / "params", model, STAMP)
    return tmp_path / "params", model


# ---------------------------------------------------------------- parameter files


def test_round_trip(saved, capsys):
    """A file read into another model makes it equal, bit for bit, and returns the stamp; nothing is said."""
    path, model = saved
    other = tiny_model(seed=1, rope=model.config.rope)
    assert load_params(path, other, VOCABULARY) == STAMP
    assert read_stamp(path) == STAMP
    for (name, mine), theirs in zip(other.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
    assert capsys.readouterr() == ("", "")


def test_other_code_reads_our_files(saved):
    """A file is a plain dict of tensors with the contract's names: any code loads it with strict=True."""
    path, model = saved
    state = torch.load(path, weights_only=True)
    assert isinstance(state, dict)
    plain = Plain(contract_shapes(model.config))
    plain.load_state_dict(state, strict=True)
    loaded = dict(plain.named_parameters())
    for name, p in model.named_parameters():
        assert torch.equal(loaded[name], p)


def test_our_code_reads_other_files(tmp_path, tiny, capsys):
    """A plain torch.save of a state dict with the contract's names loads, with a warning that names the file."""
    source = tiny_model(rope=tiny.rope)
    plain = Plain(contract_shapes(tiny))
    plain.load_state_dict(source.state_dict())
    path = tmp_path / "course.params"
    torch.save({name: p.detach().clone() for name, p in plain.named_parameters()}, path)
    model = tiny_model(seed=1, rope=tiny.rope)
    assert load_params(path, model, VOCABULARY) == {}
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {path}")
    assert warning.count("\n") == 1
    x = torch.randint(0, 11, (2, 9))
    torch.testing.assert_close(model(x)[0], NaivePaddedGPT(source).logits(x), rtol=1e-4, atol=1e-5)


def test_state_dict_with_foreign_metadata(tmp_path, capsys):
    """PyTorch's own _metadata (versions of modules), without our stamp, counts as a file of other code."""
    torch.save(tiny_model().state_dict(), tmp_path / "params")
    load_params(tmp_path / "params", tiny_model(seed=1), VOCABULARY)
    assert "warning" in capsys.readouterr().err


def unchanged_by(path, model, says: str, vocabulary: str = VOCABULARY) -> None:
    """Loading is refused in one line that starts with the file's name, and the model stays as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=says) as caught:
        load_params(path, model, vocabulary)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_wrong_variant(saved):
    """A vanilla file for a rope model, and the reverse, is refused and both variants are named."""
    path, model = saved
    unchanged_by(path, tiny_model(rope=not model.config.rope), "rope.*vanilla|vanilla.*rope")


@pytest.mark.parametrize("itos", [dict(enumerate("□⁇\nabcdefgx")), dict(enumerate("□⁇\nbacdefgh"))])
def test_other_characters(saved, itos):
    """As many characters, but others, or in another order: refused, and the corpus of the file is named."""
    path, model = saved
    assert len(itos) == len(ITOS)
    unchanged_by(path, tiny_model(rope=model.config.rope), "people.txt", vocabulary_hash(itos))


def test_more_characters(saved):
    """A file for 11 characters is refused by a model of 12, and both numbers are named."""
    path, model = saved
    unchanged_by(path, tiny_model(rope=model.config.rope, vocab_size=12), "11.*12")


@pytest.mark.parametrize("size", [{"n_embd": 32}, {"n_layer": 1}, {"n_layer": 3}, {"block_size": 25}])
def test_other_size(saved, size):
    """A file of another width, depth or block is refused."""
    path, model = saved
    unchanged_by(path, tiny_model(rope=model.config.rope, **size), "shape|another model")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_cut_file(saved, share):
    """A file that was cut off anywhere is refused."""
    path, model = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    unchanged_by(path, model, "damaged|cannot be read|refused")


def test_files_that_are_something_else(tmp_path):
    """Text, a zip of other things, a tensor, a nested dict, no file, a directory: refused."""
    model = tiny_model()
    path = tmp_path / "file"
    path.write_text("hello\n" * 100)
    unchanged_by(path, model, "damaged|refused")
    for content in (torch.zeros(3), {"a": 1}, {"model": model.state_dict()}, [1, 2]):
        torch.save(content, path)
        unchanged_by(path, model, "not the state dict")
    torch.save({}, path)
    unchanged_by(path, model, "lacks|another model|not the state dict")
    unchanged_by(tmp_path / "missing", model, "no such")
    unchanged_by(tmp_path, model, "directory")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_malicious_file_is_refused_and_not_run(tmp_path, how):
    """A pickle that calls os.system is refused, as parameters and as a checkpoint, and its command does not run.

    The trap is live: plain unpickling of the same file does run the command.
    """
    path, trace = tmp_path / "evil", tmp_path / "executed"
    content = {"tok_emb.weight": Evil(trace), "settings": Evil(trace), "trainer": {}}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    unchanged_by(path, tiny_model(), "refused|damaged")
    for read in (read_stamp, lambda p: load_checkpoint(p, {})):
        with pytest.raises(UserError, match=re.escape(str(path))):
            read(path)
    assert not trace.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()


def test_vocabulary_hash():
    """The hash tells other characters and another order apart, and nothing else."""
    assert vocabulary_hash({0: "a", 1: "b"}) == vocabulary_hash({1: "b", 0: "a"})
    texts = ("ab", "ba", "abc", "ab\n", "áb")
    assert len({vocabulary_hash(dict(enumerate(text))) for text in texts}) == 5


def test_failed_write_keeps_the_old_parameters(saved, monkeypatch):
    """If the disk is full, the old file stays byte for byte and no half of a new one is left."""
    path, model = saved
    old = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_params(path, tiny_model(seed=1, rope=model.config.rope), STAMP)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == ["params"]


# ---------------------------------------------------------------- checkpoints

SETTINGS = {"function": "pretrain", "seed": 0, "learning_rate": 6e-3, "from": None, "betas": (0.9, 0.95)}


def test_checkpoint_round_trip(tmp_path):
    """A checkpoint returns the trainer's state when the settings are the same; without a file there is none."""
    path = checkpoint_path(tmp_path / "x.params")
    assert path == tmp_path / "x.params.checkpoint"
    assert load_checkpoint(path, SETTINGS) is None
    state = {"step": 3, "order": torch.tensor([2, 0, 1]), "model": {"w": torch.rand(2, 2)}}
    save_checkpoint(path, state, SETTINGS)
    loaded = load_checkpoint(path, json.loads(json.dumps(SETTINGS)))
    assert loaded["step"] == 3
    assert torch.equal(loaded["order"], state["order"])
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])


def test_checkpoint_of_an_earlier_version(tmp_path):
    """A setting that the version which wrote it did not have was off: it goes on with it off, and not with it on.

    Bug: a new setting, though off, made every older checkpoint one of another run.
    """
    save_checkpoint(tmp_path / "c", {"step": 3}, SETTINGS)
    assert load_checkpoint(tmp_path / "c", SETTINGS | {"decay_all": False}) == {"step": 3}
    with pytest.raises(UserError, match="decay_all = None, this one has True"):
        load_checkpoint(tmp_path / "c", SETTINGS | {"decay_all": True})


@pytest.mark.parametrize(
    "name, value", [("seed", 1), ("learning_rate", 6e-4), ("from", "abc"), ("new", 5), ("betas", (0.9, 0.99))]
)
def test_checkpoint_of_other_settings(tmp_path, name, value):
    """A checkpoint of a run with other settings is refused: the setting and both values are named."""
    path = tmp_path / "c"
    save_checkpoint(path, {}, SETTINGS)
    old = json.loads(json.dumps(SETTINGS)).get(name)
    with pytest.raises(UserError, match=re.escape(f"{name} = {old}, this one has {json.loads(json.dumps(value))}")):
        load_checkpoint(path, SETTINGS | {name: value})


def test_file_that_is_no_checkpoint(tmp_path):
    """Parameters, or a damaged file, in the checkpoint's place are refused and not overwritten."""
    path = tmp_path / "c"
    torch.save(tiny_model().state_dict(), path)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path, SETTINGS)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"damaged|refused|cannot be read"):
        load_checkpoint(path, SETTINGS)
    assert path.stat().st_size == 5000


def test_half_written_files_are_swept_and_nothing_else(tmp_path):
    """Bug: a SIGKILL in the middle of a write left its temporary file for ever, tens of MB each time."""
    path, others = tmp_path / "p.checkpoint", (".q.checkpoint.abcd_123.tmp", ".p.checkpoint.mine.abcd_123.tmp")
    for name in others:
        (tmp_path / name).touch()
    killed = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, utils\nwith utils.atomic_write(sys.argv[1]): print(1, flush=True); input()",
            path,
        ],
        env=Program.environment() | {"PYTHONPATH": str(SRC)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    path.write_bytes(b"good")
    assert len(os.listdir(tmp_path)) == 4
    remove_scraps(path)
    assert sorted(os.listdir(tmp_path)) == sorted((*others, "p.checkpoint"))
    assert path.read_bytes() == b"good"

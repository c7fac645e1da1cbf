"""Parameter files and checkpoints: what they hold, and what is checked when they are read.

A parameter file is a plain `torch.save` of the model's state dict, with no key of ours: the course's
code reads it with `load_state_dict(strict=True)`, and its files are read here. What we want to know
about a file (which characters, which corpus, how it was made) travels in the state dict's
`_metadata`, which other readers ignore.
"""

import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch

from engine.files import fingerprint
from model import GPT
from utils import UserError, atomic_write

STAMP = "name_places"  # the key of our entry in `_metadata`
FORMAT = 2  # of checkpoints and stamps; earlier versions drew their examples in another way
# Settings of a run that stand for a file, as the user knows them.
FINGERPRINTS = {
    "corpus": "fingerprint of the corpus",
    "pairs": "fingerprint of the pairs",
    "from": "fingerprint of the parameters to start from",
}
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # prefixes of DataParallel, torch.compile
BUFFERS = re.compile(r"\.(?:mask|rope_cache)$")  # these follow from the configuration
ANOTHER_MODEL = "it is of another model, or one of another size; use parameters that src/run.py has written"


def vocabulary_hash(itos: dict[int, str]) -> str:
    """Identifies a vocabulary: the same characters in the same order."""
    return fingerprint("".join(itos[i] for i in range(len(itos))))


def save_params(path: str | Path, model: GPT, stamp: dict[str, Any]) -> None:
    """Write a parameter file, atomically; the stamp's `vocabulary` (see `vocabulary_hash`) is checked on loading."""
    state = model.state_dict()
    state._metadata[STAMP] = {"json": json.dumps({"format": FORMAT, **stamp}, sort_keys=True)}
    _write(path, state)


def _write(path: str | Path, content: Any) -> None:
    """`torch.save`, atomically; through memory, so that a full disk is an OSError and not torch's own."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _read(path: str | Path, what: str, remedy: str) -> Any:
    """`torch.load` that runs no code from the file; `remedy` says what to do about a file that is no good."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}; check the path, or make it first (pretrain or finetune)") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, a {what} is expected; {remedy}") from None
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused and not run, it is no plain {what}: it holds objects that could run code, or is "
            f"damaged; {remedy}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise UserError(f"{path}: is damaged or no {what} ({type(error).__name__}); {remedy}") from None


def _read_params(path: str | Path) -> Any:
    return _read(path, "parameter file", "use one that src/run.py has written, or make it again")


def read_stamp(path: str | Path) -> dict[str, Any]:
    """What a parameter file says about itself; empty for a file of other code. UserError: it cannot be read."""
    return _stamp_of(_read_params(path))


def _stamp_of(state: Any) -> dict[str, Any]:
    entry = getattr(state, "_metadata", {}).get(STAMP, {})
    try:
        return json.loads(entry.get("json", "{}"))
    except ValueError:
        return {}


def is_state_dict(value: Any) -> bool:
    """Whether a value is tensors by their names, and not nothing."""
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(v, torch.Tensor) for v in value.values())


def load_params(path: str | Path, model: GPT, vocabulary: str) -> dict[str, Any]:
    """Read a parameter file into a model, checking first that it belongs to it.

    Buffers (mask, rotary cache) are the model's own. Prefixes that PyTorch's wrappers leave are taken off.
    `vocabulary` is the `vocabulary_hash` of the corpus in use. Returns the file's stamp. UserError: naming what
    differs (variant, size, vocabulary).
    """
    held = _read_params(path)
    if isinstance(held, dict) and (inner := [k for k, v in held.items() if is_state_dict(v)]):
        raise UserError(
            f"{path}: is no state dict but holds one under {inner[0]!r} of {', '.join(map(repr, held))}; save that "
            f"alone and give it: torch.save(torch.load({str(path)!r})[{inner[0]!r}], 'NEW.params')"
        )
    if not is_state_dict(held):
        raise UserError(f"{path}: is not the state dict of a model; use a file written by src/run.py")
    state = {WRAPPERS.sub("", str(k)): v for k, v in held.items()}
    state = {k: v for k, v in state.items() if not BUFFERS.search(k)}
    mine = dict(model.named_parameters())
    asked, found = ("rope" if model.rope else "vanilla"), ("vanilla" if "pos_emb" in state else "rope")
    if "tok_emb.weight" in state and asked != found:
        raise UserError(f"{path}: holds a {found} model, {asked} was asked for; say {found}, or give the {asked} file")
    if missing := sorted(set(mine) - set(state)):
        raise UserError(f"{path}: lacks {missing[0]} ({len(missing)} tensors in all); {ANOTHER_MODEL}")
    if extra := sorted(set(state) - set(mine)):
        raise UserError(f"{path}: has {extra[0]} ({len(extra)} tensors in all) too much; {ANOTHER_MODEL}")
    for name, tensor in mine.items():
        shape, mine_shape = tuple(state[name].shape), tuple(tensor.shape)
        if name == "tok_emb.weight" and len(shape) == 2 and shape[0] != mine_shape[0]:
            raise UserError(
                f"{path}: was trained on {shape[0]} different characters, this corpus has {mine_shape[0]}; "
                "give the corpus it was pretrained with"
            )
        if shape != mine_shape:
            raise UserError(f"{path}: {name} has shape {shape}, this model's has {mine_shape}; {ANOTHER_MODEL}")
    stamp = _stamp_of(held)
    if "vocabulary" not in stamp:
        print(
            f"warning: {path}: does not say which corpus it was trained on (other code wrote it); "
            "make sure that it is this one",
            file=sys.stderr,
        )
    elif stamp["vocabulary"] != vocabulary:
        raise UserError(
            f"{path}: was trained with other characters, or with the same in another order (corpus "
            f"{stamp.get('corpus_path')}); give the corpus it was pretrained with"
        )
    model.load_state_dict(state, strict=False)
    return stamp


def difference(made: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """What the settings of two runs differ in first, in words; None if they agree. No wanted precision: any is."""
    wanted = json.loads(json.dumps(wanted))
    for name in sorted(set(made) | set(wanted)):
        if name == "precision" and wanted.get(name) is None:
            continue
        if name not in made or name not in wanted or made[name] != wanted[name]:
            return f"{FINGERPRINTS.get(name, name)} = {made.get(name)}, this one has {wanted.get(name)}"
    return None


def checkpoint_path(params_path: str | Path) -> Path:
    """Where the checkpoint of a run stands that will write these parameters."""
    return Path(f"{params_path}.checkpoint")


def save_checkpoint(path: str | Path, trainer_state: dict, settings: dict[str, Any]) -> None:
    """Write the state of a trainer, atomically: a crash in the middle leaves the last good one."""
    _write(path, {"format": FORMAT, "settings": json.dumps(settings, sort_keys=True), "trainer": trainer_state})


def load_checkpoint(path: str | Path, settings: dict[str, Any]) -> tuple[dict, dict] | None:
    """The trainer state of a checkpoint and its settings, None where there is none.

    UserError: it is of a run with other settings, naming the first that differs, or of an earlier version.
    """
    if not Path(path).exists():
        return None
    content = _read(path, "checkpoint", "delete it to start afresh")
    if not isinstance(content, dict) or not {"settings", "trainer"} <= set(content):
        raise UserError(f"{path}: is not a checkpoint of src/run.py; delete it to start afresh")
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: was written by an earlier version and cannot be continued; delete it to start afresh")
    saved = json.loads(content["settings"])
    if (what := difference(saved, settings)) is not None:
        raise UserError(
            f"{path}: belongs to a run with {what}; use the same settings, or delete that file to start afresh"
        )
    return content["trainer"], saved

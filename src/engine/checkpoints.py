"""Parameter files and checkpoints: what they contain, and the checks when they are read.

A parameter file is a plain `torch.save` of the model's state dict, without keys of ours: the course's code reads
it with `load_state_dict(strict=True)`, and the course's files are read here. A record of how the file was made
(characters, corpus, settings) travels in the state dict's `_metadata`, which other readers ignore.
"""

import io
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dataset import CharCorruptionDataset
from model import GPT
from utils import UserError, atomic_write, fingerprint, read_text

STAMP = "name_places"  # the key of our entry in `_metadata`
FORMAT = 4  # of checkpoints and stamps; earlier versions drew their examples in another way, or kept other settings
# How settings that are fingerprints of files are named in messages.
FINGERPRINTS = {
    "corpus": "fingerprint of the corpus",
    "pairs": "fingerprint of the pairs",
    "from": "fingerprint of the parameters to start from",
}
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # prefixes of DataParallel, torch.compile
BUFFERS = re.compile(r"\.(?:mask|rope_cache)$")  # these follow from the configuration


def save_params(path: str | Path, model: GPT, stamp: dict[str, Any]) -> None:
    """Write a parameter file, atomically; of several processes, only the first does.

    The stamp's `vocabulary`, a fingerprint of the characters in their order, is checked on loading.
    """
    if dist.is_initialized() and dist.get_rank():
        return
    state: Any = model.state_dict()
    state._metadata[STAMP] = {"json": json.dumps({"format": FORMAT, **stamp}, sort_keys=True)}
    _write(path, state)


def _write(path: str | Path, content: Any) -> None:
    """`torch.save`, atomically; through memory, so that a full disk is an OSError and not torch's own."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def read_file(
    path: str | Path,
    what: str = "parameter file",
    remedy: str = "use one that src/run.py has written, or make it again",
) -> tuple[Any, dict[str, Any]]:
    """`torch.load` that runs no code from the file: its content, and its stamp (empty if other code wrote it).

    Raises:
        UserError: it cannot be read; `remedy` says what to do.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
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
    entry = getattr(content, "_metadata", {}).get(STAMP, {})
    try:
        return content, json.loads(entry.get("json", "{}"))
    except ValueError:
        return content, {}


def read_stamp(path: str | Path) -> dict[str, Any]:
    """What a parameter file says about how it was made."""
    return read_file(path)[1]


def load_params(path: str | Path, model: GPT, documents: CharCorruptionDataset, corpus_path: str) -> None:
    """Read a parameter file into a model, checking first that it belongs to it and to the corpus.

    Buffers (mask, rotary cache) are the model's own. Prefixes that PyTorch's wrappers leave are taken off. A warning
    goes to stderr if another corpus with the same characters made the file, or if it does not say.

    Raises:
        UserError: naming what differs (variant, size, vocabulary).
    """
    content, stamp = read_file(path)
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{path}: {describe(path, content)}")
    state = {WRAPPERS.sub("", str(name)): tensor for name, tensor in content.items()}
    state = {name: tensor for name, tensor in state.items() if not BUFFERS.search(name)}
    wanted, found = ("rope" if model.rope else "vanilla"), ("vanilla" if "pos_emb" in state else "rope")
    if "tok_emb.weight" in state and wanted != found:
        raise UserError(
            f"{path}: holds a {found} model, {wanted} was asked for; say {found}, or give the {wanted} file"
        )
    known, here = len(state.get("tok_emb.weight", ())), len(documents.itos)
    if known and known != here:
        raise UserError(
            f"{path}: was trained on {known} different characters, this corpus has {here}; "
            "give the corpus it was pretrained with"
        )
    if "vocabulary" not in stamp:
        print(
            f"warning: {path}: does not say which corpus it was trained on (other code wrote it); "
            "make sure that it is this one",
            file=sys.stderr,
        )
    elif stamp["vocabulary"] != fingerprint("".join(documents.itos.values())):
        raise UserError(
            f"{path}: was trained with other characters, or with the same in another order (corpus "
            f"{stamp.get('corpus_path')}); give the corpus it was pretrained with"
        )
    elif stamp.get("settings", {}).get("corpus") not in (None, fingerprint(read_text(corpus_path))):
        print(
            f"warning: {path}: was trained on another text with the same characters as {corpus_path} "
            f"(its corpus was {stamp.get('corpus_path')}); make sure that this is intended",
            file=sys.stderr,
        )
    try:
        model.load_state_dict(dict(model.named_buffers()) | state)
    except RuntimeError as error:  # PyTorch's text has a line per difference, under a title
        differences = [line.strip() for line in str(error).splitlines()[1:]]
        raise UserError(
            f"{path}: is of another model, or one of another size ({differences[0][:150]}); use parameters that "
            "src/run.py has written"
        ) from None


def describe(path: str | Path, content: Any) -> str:
    """What a file holds instead of a state dict, and what to do."""
    entries = content if isinstance(content, dict) else {}
    if {"settings", "trainer"} <= set(entries):
        return (
            "is the checkpoint of an interrupted training run; finish that with --resume, or take its parameters as "
            f"they are: torch.save(torch.load({str(path)!r})['trainer']['model'], 'NEW.params')"
        )
    for name, value in entries.items():
        if isinstance(value, dict) and value and all(isinstance(v, Tensor) for v in value.values()):
            return (
                f"is not a state dict but holds one under {name!r} of {', '.join(map(repr, entries))}; save that "
                f"alone and give it: torch.save(torch.load({str(path)!r})[{name!r}], 'NEW.params')"
            )
    return "is not the state dict of a model; use a file written by src/run.py"


def difference(made: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """The first setting in which two runs differ, in words; None if they agree.

    The precision is compared only if one is wanted.
    """
    wanted = json.loads(json.dumps(wanted))
    for name in sorted(set(made) | set(wanted)):
        if name == "precision" and wanted.get(name) is None:
            continue
        if name not in made or name not in wanted or made[name] != wanted[name]:
            return f"{FINGERPRINTS.get(name, name)} = {made.get(name)}, this run has {wanted.get(name)}"
    return None


def save_checkpoint(path: str | Path, trainer_state: dict, settings: dict[str, Any]) -> None:
    """Write the state of a trainer, atomically: a crash in the middle leaves the last good one."""
    _write(path, {"format": FORMAT, "settings": json.dumps(settings, sort_keys=True), "trainer": trainer_state})


def load_checkpoint(path: str | Path, settings: dict[str, Any]) -> dict | None:
    """The trainer state of a checkpoint; None where there is none.

    Raises:
        UserError: it belongs to a run with other settings, naming the first that differs, or to an earlier version.
    """
    if not Path(path).exists():
        return None
    content, saved = read_checkpoint(path)
    if (what := difference(saved, settings)) is not None:
        raise UserError(
            f"{path}: belongs to a run with {what}; use the same settings, or delete that file to start afresh"
        )
    return content["trainer"]


def read_checkpoint(path: str | Path) -> tuple[dict, dict]:
    """The content of a checkpoint, and the settings of its run. UserError: it is not one of this version."""
    content, _ = read_file(path, "checkpoint", "delete it to start afresh")
    if not isinstance(content, dict) or not {"settings", "trainer"} <= set(content):
        raise UserError(f"{path}: is not a checkpoint of src/run.py; delete it to start afresh")
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: was written by an earlier version and cannot be continued; delete it to start afresh")
    return content, json.loads(content["settings"])

"""Around a model from Hugging Face: flags, finding and loading it, a record of replies that survives interruption."""

import argparse
import contextlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.machine import pick_device, pick_precision
from engine.options import check_writable
from parse_place import THOUGHTS
from utils import UserError, write_text

FLAGS: dict[str, dict[str, Any]] = {
    "gguf_file": {"help": "GGUF file in the model's folder or repository, or the path of one"},
    "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:N or mps (default: %(default)s)"},
    "precision": {
        "default": "auto",
        "choices": ["auto", "float32", "bfloat16"],
        "help": "of weights and products; auto: bfloat16 on a GPU that has it, else float32 (default: %(default)s)",
    },
    "eval_corpus_path": {"default": "birth_dev.tsv", "help": "the questions (default: %(default)s)"},
    "limit": {"type": int, "help": "ask the first LIMIT questions only"},
    "batch_size": {"type": int, "default": 50, "help": "questions at once (default: %(default)s)"},
    "max_new_tokens": {"type": int, "help": "longest reply (default: 64; 1024 if it thinks first)"},
    "restart": {"action": "store_true", "help": "discard recorded replies"},
    "outputs_dir": {"default": ".", "help": "folder of records and predictions (default: %(default)s)"},
}
encode = json.JSONEncoder(ensure_ascii=False).encode


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, example: str) -> argparse.Namespace:
    """Add our flags, read the command line, refuse what cannot be done, and find the model."""
    for flag, keywords in FLAGS.items():
        parser.add_argument(f"--{flag}", **keywords)
    args = parser.parse_args(argv)
    for flag in ("limit", "batch_size", "max_new_tokens"):
        if (value := getattr(args, flag)) is not None and value < 1:
            raise UserError(f"--{flag} {value}: at least 1 is expected")
    args.source, args.gguf_file, args.name = locate(args.model, args.gguf_file, example)
    args.device = pick_device(args.device)
    if args.precision == "auto":
        args.precision = "float32" if args.device.type == "cpu" else pick_precision(args.device)
    return args


def locate(model: str | None, gguf_file: str | None, example: str) -> tuple[str, str | None, str]:
    """Where the weights are: (hub id or folder, GGUF file in it or None, name for files). UserError: not there."""
    if gguf_file is None and model and model.endswith(".gguf"):
        model, gguf_file = None, model
    if model is None and gguf_file is not None:
        model, gguf_file = str(Path(gguf_file).parent), Path(gguf_file).name
    folder = Path(model := model or example)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise UserError(f"{model}: no such folder; give a folder with a model in it, or an id like {example}")
    elif gguf_file and not (folder / gguf_file).is_file():
        raise UserError(f"{folder / gguf_file}: no such file; 'make llm-model' fetches one, see docs/details.md")
    elif not gguf_file and not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"say --gguf_file {held[0]}" if held else "a folder as save_pretrained writes it is expected"
        raise UserError(f"{model}: has no config.json; {hint}")
    name = folder.resolve().name if folder.is_dir() else model
    return model, gguf_file, Path(gguf_file).stem if gguf_file else name


def hub_answers() -> bool:
    """Whether the hub can be reached, found out in seconds (transformers itself tries for a minute)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    with contextlib.suppress(OSError), socket.create_connection((url.hostname, url.port or 443), timeout=5):
        return True
    return False


@contextlib.contextmanager
def loading(source: str) -> Iterator[Any]:
    """transformers, to load a model with; what it raises becomes a UserError that says what to do."""
    if not Path(source).is_dir() and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # what was downloaded earlier is still found
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install -r requirements-llm.txt") from None
    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        yield transformers
    except Exception as error:  # transformers raises many kinds
        raise UserError(what_to_do(source, error)) from None


def what_to_do(source: str, error: Exception) -> str:
    """One line for a model that could not be loaded."""
    said = " ".join(f"{error} {error.__cause__ or ''}".split())
    if isinstance(error, ImportError) or "pip install" in said:
        return f"{source}: a package is missing ({said[:150]}); pip install -r requirements-llm.txt"
    if Path(source).is_dir():
        return f"{source}: has no readable model ({type(error).__name__}: {said[:150]}); use another"
    if re.search(r"gated|\b401\b|\b403\b|awaiting a review|restricted", said):
        return f"{source}: is gated; accept its licence at https://huggingface.co/{source}, then set HF_TOKEN to yours"
    if isinstance(error, OSError):
        token = "; Llama is gated and needs HF_TOKEN too" if source.startswith("meta-llama/") else ""
        return (
            f"{source}: not found on the hub (no network, or no such model) or in its cache; "
            f"give a local folder (--model FOLDER) or a GGUF file ('make llm-model', then --model FILE.gguf){token}"
        )
    return f"{source}: cannot be loaded ({type(error).__name__}: {said[:150]})"


def prepare(source: str, tokenizer: Any, model: Any) -> int:
    """Set padding and the ends of a reply; returns the most tokens that a reply may have. UserError: it cannot chat."""
    if not (template := str(tokenizer.chat_template or "")):
        raise UserError(f"{source}: has no chat template; use a model that was tuned for instructions")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = sorted({tokenizer.eos_token_id, *ends} - {None})
    config.pad_token_id = tokenizer.pad_token_id
    return 1024 if re.search(THOUGHTS, template) and "enable_thinking" not in template else 64  # thoughts need room


def read_record(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The settings of a record, and its replies by question; the last line may have been cut off.

    UserError: the file is no record, or naming a damaged line.
    """
    first, *rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    replies = {}
    try:
        settings = json.loads(first)["settings"]
        _ = settings["questions"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: is no record of modern_llm.py; move it away") from None
    for number, line in enumerate(rest, 2):
        try:
            reply = json.loads(line)
            replies[reply["question"]] = reply | {"raw": reply["raw"]}
        except (ValueError, TypeError, KeyError):
            if number <= len(rest):
                raise UserError(f"{path}, line {number}: is no reply; delete the line, it is asked again") from None
    return settings, replies


class Record:
    """Replies in STEM.jsonl: a line of settings, then a line a reply with what is known of it.

    `known` holds the replies by question, each a dictionary with `raw`. UserError: the settings in the file differ.
    """

    def __init__(self, stem: Path, settings: dict[str, Any], restart: bool):
        self.path, self.settings = Path(f"{stem}.jsonl"), settings
        self.known: dict[int, dict[str, Any]] = {}
        check_writable(self.path)
        if restart or not self.path.exists():
            return
        held, self.known = read_record(self.path)
        for name, value in settings.items():
            if held.get(name) != value:
                raise UserError(
                    f"{self.path}: belongs to a run with another {name} ({held.get(name)}, not {value}); "
                    "say --restart to overwrite it, or choose another --outputs_dir"
                )
        self.settings = held

    def ask(self, messages: Sequence[str], load: Callable[[], Any], size: int, title: str) -> None:
        """Get a reply to each message; those that are not on record are asked for, and written `size` at a time."""
        left = [i for i in range(len(messages)) if i not in self.known]
        if left:
            chat = load()
            print(f"the first prompt of {title}: {chat.prompt(messages[0])!r}")
            self.settings |= {"parameters": chat.parameters, "new_tokens": chat.new_tokens, "hardware": chat.hardware}
            self.write()
        for start in range(0, len(left), size):
            batch, began = left[start : start + size], time.monotonic()
            replies = chat.reply([messages[i] for i in batch])
            new = {i: {"question": i, "raw": raw} for i, raw in zip(batch, replies, strict=True)}
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(encode(line) + "\n" for line in new.values())
            self.known |= new
            to_go, pace = len(left) - start - len(batch), (time.monotonic() - began) / len(batch)
            print(f"{title}: {len(left) - to_go} of {len(left)} questions, about {to_go * pace:.0f} s left", flush=True)

    def write(self) -> None:
        """Write the file whole."""
        lines = [{"settings": self.settings}, *(self.known[i] for i in sorted(self.known))]
        write_text(self.path, "".join(encode(line) + "\n" for line in lines))

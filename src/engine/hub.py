"""What surrounds asking a model of Hugging Face's: flags, finding and loading it, a record that survives interruption."""

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
from types import ModuleType
from typing import Any

from engine.files import check_writable
from engine.machine import pick_device, pick_precision
from utils import UserError, write_text

FLAGS: dict[str, dict[str, Any]] = {
    "gguf_file": {"help": "GGUF file in the model's folder or repository, or the path of one"},
    "device": {"default": "auto", "help": "auto, cpu, cuda, cuda:N or mps"},
    "precision": {"default": "auto", "choices": ["auto", "float32", "bfloat16"], "help": "auto: float32 on a CPU"},
    "limit": {"type": int, "help": "ask the first LIMIT questions only"},
    "batch_size": {"type": int, "default": 32, "help": "questions at once"},
    "max_new_tokens": {"type": int, "help": "longest reply (default: 64; 1024 if it thinks first)"},
    "outputs_dir": {"default": ".", "help": "folder of records and predictions"},
    "data": {"default": "own", "choices": ["own", "course"], "help": "label in the results: whose questions"},
    "results_path": {"help": "folder of results (default: expt/results; with --limit: none)"},
}


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None, example: str) -> argparse.Namespace:
    """Add our flags, read the command line, refuse what cannot be done, and find the model (source, gguf_file, name).

    Raises:
        UserError: naming the flag.
    """
    for flag, keywords in FLAGS.items():
        default = " (default: %(default)s)" if "default" in keywords else ""
        parser.add_argument(f"--{flag}", **keywords | {"help": keywords["help"] + default})
    parser.add_argument("--restart", action="store_true", help="ask again what is on record")
    args = parser.parse_args(argv)
    for flag in ("limit", "batch_size", "max_new_tokens"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: at least 1 is expected")
    check_writable(Path(args.outputs_dir) / "modern_llm.jsonl")
    args.results_path = args.results_path or (None if args.limit else "expt/results")
    path = Path(args.results_path or ".").absolute()
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--results_path {args.results_path}: {there} is no folder to write to; give another one")
    args.source, args.gguf_file, args.name = locate(args.model, args.gguf_file, example)
    args.device = pick_device(args.device)
    exact = args.precision == "auto" and args.device.type == "cpu"
    args.precision = "float32" if exact else pick_precision(args.precision, args.device)
    return args


def locate(model: str | None, gguf_file: str | None, example: str) -> tuple[str, str | None, str]:
    """Where the weights are: (hub id or folder, GGUF file in it or None, name for files and results).

    Raises:
        UserError: a local path without what it should hold.
    """
    if model and model.endswith(".gguf") and gguf_file is None:
        model, gguf_file = None, model
    if model is None and gguf_file is not None:
        model, gguf_file = str(Path(gguf_file).parent), Path(gguf_file).name
    model = model or example
    folder, name = Path(model), Path(gguf_file or model).stem
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise UserError(f"{model}: no such folder; give a folder with a model in it, or an id like {example}")
        return model, gguf_file, name if gguf_file else model
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise UserError(f"{folder / gguf_file}: no such file; 'make llm-model' fetches one, see the README")
        return model, gguf_file, name
    if not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"say --gguf_file {held[0]}" if held else "a folder as save_pretrained writes it is expected"
        raise UserError(f"{model}: has no config.json; {hint}")
    return model, None, folder.resolve().name


def hub_answers() -> bool:
    """Whether the hub can be reached, found out in seconds (transformers itself tries for a minute)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    host = re.sub(r"^https?://", "", os.environ.get("HF_ENDPOINT") or "huggingface.co").split("/")[0]
    name, _, port = host.partition(":")
    with contextlib.suppress(OSError):
        socket.create_connection((name, int(port or 443)), timeout=5).close()
        return True
    return False


@contextlib.contextmanager
def loading(source: str) -> Iterator[ModuleType]:
    """transformers, to load a model with.

    Raises:
        UserError: a package or the weights are missing, saying what to do.
    """
    if not Path(source).is_dir() and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # what was downloaded earlier is still found
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
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
        return f"{source}: holds no model that can be read ({type(error).__name__}: {said[:150]})"
    if re.search(r"gated|\b401\b|\b403\b|awaiting a review|restricted", said):
        page = f"https://huggingface.co/{source}"
        return f"{source}: is gated; accept its licence at {page}, then set HF_TOKEN to a token of yours"
    if isinstance(error, OSError):
        token = "; Llama is gated and needs HF_TOKEN too" if source.startswith("meta-llama/") else ""
        return (
            f"{source}: cannot be had, neither from the hub (no network, or no such model) nor from its cache; "
            f"give a local folder (--model FOLDER) or a GGUF file ('make llm-model', then --model FILE.gguf){token}"
        )
    return f"{source}: cannot be loaded ({type(error).__name__}: {said[:150]})"


def prepare(source: str, tokenizer: Any, model: Any) -> int:
    """Give tokenizer and model the padding and the ends of a reply; returns the most tokens that a reply may have.

    Raises:
        UserError: the model was not tuned to chat.
    """
    template = str(tokenizer.chat_template or "")
    if not template:
        raise UserError(f"{source}: has no chat template; use a model that was tuned for instructions")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = sorted({tokenizer.eos_token_id, *ends} - {None})
    config.pad_token_id = tokenizer.pad_token_id
    return 1024 if "<think>" in template and "enable_thinking" not in template else 64  # thoughts need room


class Record:
    """Replies in a file, STEM.jsonl: a line of settings, then a line a reply; compared answers in STEM.predictions.

    Raises:
        UserError: the file is of a run with other settings, naming one.
    """

    def __init__(self, args: argparse.Namespace, prompt: str, template: str, settings: dict[str, Any]):
        stem = Path(args.outputs_dir) / f"modern_llm.{args.name.replace('/', '_')}.{prompt}.{template}"
        self.path, self.predictions = Path(f"{stem}.jsonl"), Path(f"{stem}.predictions")
        self.title, self.size, self.known = f"{prompt}, {template}", args.batch_size, {}
        self.settings = {"model": args.name, "precision": args.precision, "max_new_tokens": args.max_new_tokens}
        self.settings |= settings
        check_writable(self.path)
        if self.path.exists() and not args.restart:
            self.read()

    def read(self) -> None:
        """Take what is there; a last line that was cut off is passed over."""
        lines = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        if not lines or not isinstance(lines[0], dict) or "settings" not in lines[0]:
            raise UserError(f"{self.path}: is no record of this program; move it away")
        held = lines[0]["settings"]
        for name, value in self.settings.items():
            if held.get(name) != value:
                raise UserError(
                    f"{self.path}: belongs to a run with another {name} ({held.get(name)}, not {value}); "
                    "say --restart to overwrite it, or choose another --outputs_dir"
                )
        self.settings, self.known = held, {line["question"]: line["raw"] for line in lines[1:]}

    def replies(self, messages: Sequence[str], load: Callable[[], Any]) -> list[str]:
        """A reply to each message; those that are not on record are asked for, and written batch by batch."""
        left = [i for i in range(len(messages)) if i not in self.known]
        if left:
            chat = load()
            print(f"the first prompt of {self.title}: {chat.prompt(messages[0])!r}")
            self.settings |= {"parameters": chat.parameters, "new_tokens": chat.new_tokens}
            self.write([])
        for start in range(0, len(left), self.size):
            batch, began = left[start : start + self.size], time.monotonic()
            new = dict(zip(batch, chat.reply([messages[i] for i in batch]), strict=True))
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps({"question": i, "raw": new[i]}, ensure_ascii=False) + "\n" for i in batch)
            self.known |= new
            done, seconds = start + len(batch), time.monotonic() - began
            to_go = (len(left) - done) * seconds / len(batch)
            print(f"{self.title}: {done} of {len(left)} questions, about {to_go:.0f} s left", flush=True)
        return [self.known[i] for i in range(len(messages))]

    def write(self, scored: Sequence[dict[str, Any]]) -> None:
        """Write the file whole, with what is known of the first replies."""
        lines: list[dict[str, Any]] = [{"settings": self.settings}]
        for i, raw in sorted(self.known.items()):
            lines.append({"question": i, "raw": raw} | (scored[i] if i < len(scored) else {}))
        write_text(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

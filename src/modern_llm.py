"""[part 4b] and [part 4c] What an instruction-tuned model from Hugging Face says to the same questions.

    pip install -r requirements-llm.txt
    python src/modern_llm.py                                             # Qwen/Qwen3-1.7B, from the hub
    python src/modern_llm.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct
    python src/modern_llm.py --model meta-llama/Llama-3.2-1B-Instruct    # gated: needs a token
    python src/modern_llm.py --model path/to/folder                      # weights that are here already
    python src/modern_llm.py --model path/to/model.gguf                  # llama.cpp's format

Every question of the dev set is asked in two wordings (`--template`) and two ways (`--prompt`):

* bare (4b): the user message is the question and nothing else, and the exact match compares the
  reply as it is.
* instructed (4c): the user message is INSTRUCTION with the question, and the exact match compares
  the place that `parse_place` reads from the reply.

Beside the exact match stands the match after normalisation, the same for both: the place is read from
the sentence, a country after a comma goes, case and accents do not count. Answers of the data are
single words, so "New York" for "York" or "Mexico City" for "Mexico" stays wrong.

The message goes through the tokenizer's chat template, and some templates add words of their own when
there is no system message: SmolLM2's says "You are a helpful AI assistant named SmolLM, trained by
Hugging Face", Llama 3.2's tells its knowledge cutoff and a date (fixed here, to get the same answers
tomorrow), Qwen3's adds nothing. They stay, since the model was tuned with them; the program prints the
first prompt as the model gets it. Qwen3 thinks before it answers: that is switched off where the
template can (`enable_thinking`); a model that thinks anyhow gets room for it, and its thoughts are cut.

Raw answers are kept as they come in `modern_llm.MODEL.PROMPT.TEMPLATE.jsonl`, so a run that was
interrupted goes on with the same command; `.predictions` holds one compared answer a line. A complete run
that is started again loads no model: it reads the places from the replies anew, and writes its rows.

`--throughput` measures instead how many questions a second are answered in batches and one at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parse_place import normalise, parse_place, without_thoughts
from sensitivity import ORIGINAL, REWORDED, ask_about, mcnemar, names_in
from utils import (
    UserError,
    add_rows,
    check_writable,
    cli,
    fingerprint,
    hardware,
    pick_device,
    pick_precision,
    read_pairs,
    read_text,
    set_seed,
    wilson_interval,
    write_text,
)

if TYPE_CHECKING:
    from torch import Tensor

LISTED = ("Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct")
TEMPLATES = {"original": ORIGINAL, "reworded": REWORDED}
INSTRUCTION = (
    "{question} Answer with the name of the city or town alone: no sentence, no country, no explanation. "
    "If you are not sure, give your best guess."
)
PROMPTS = {"bare": "{question}", "instructed": INSTRUCTION}
NEW_TOKENS = 64  # longest reply
THINKING_TOKENS = 1024  # longest reply of a model whose thinking cannot be switched off
TEMPLATE_DATE = "26 Jul 2024"  # for chat templates that tell today's date
# What identifies a row of results, and one of throughput.
KEY = ("model", "data", "prompt", "template", "n")
TIMED = ("model", "prompt", "template", "n", "batch_size", "hardware", "precision")


# ---------------------------------------------------------------- the model


@dataclass
class Chat:
    """A model that answers, with what a reader should know about it.

    Attributes:
        model, tokenizer: of transformers.
        new_tokens: the longest reply.
    """

    model: Any
    tokenizer: Any
    new_tokens: int

    def prompt(self, message: str) -> str:
        """The text that the model gets for a user message: the chat template's, ready for the reply."""
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # for Qwen3; templates ignore what they do not know
            date_string=TEMPLATE_DATE,  # for Llama 3.2
        )

    def reply(self, messages: list[str]) -> tuple[list[str], int]:
        """Greedy replies to several messages, together in one left-padded batch, and their tokens."""
        prompts = [self.prompt(message) for message in messages]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        rows = self.generate(batch["input_ids"].to(self.model.device), batch["attention_mask"].to(self.model.device))
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts], sum(map(len, rows))

    def generate(self, tokens: Tensor, seen: Tensor) -> list[list[int]]:
        """The likeliest continuations, up to the end mark, of at most new_tokens.

        What `model.generate` gives, but a row that is finished leaves the batch: most replies are short,
        and without that a batch costs as much as its longest.

        Args:
            tokens, seen: (B, T) prompts, padded on the left, and 1 where they are not padding.
        """
        import torch

        ends = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        rows: list[list[int]] = [[] for _ in tokens]
        alive, cache = list(range(len(rows))), None
        positions = (seen.cumsum(1) - 1).clamp(min=0)  # (B, T)
        with torch.inference_mode():
            for _ in range(self.new_tokens):
                out = self.model(
                    input_ids=tokens,
                    attention_mask=seen,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = out.past_key_values
                new = out.logits[:, -1].argmax(-1)  # (B,)
                for row, token in zip(alive, new.tolist(), strict=True):
                    rows[row].append(token)
                going = [i for i, token in enumerate(new.tolist()) if token not in ends]
                if not going:
                    break
                positions = positions[:, -1:] + 1  # (B, 1)
                if len(going) < len(alive):
                    kept = torch.tensor(going, device=new.device)
                    cache.batch_select_indices(kept)
                    alive, new, seen, positions = [alive[i] for i in going], new[kept], seen[kept], positions[kept]
                tokens = new[:, None]  # (B, 1)
                seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)  # (B, T + 1)
        return rows

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.model.num_parameters()


def locate(model: str | None, gguf_file: str | None) -> tuple[str, str | None, str]:
    """Where the weights are: (hub id or folder, GGUF file in it or None, name for files and results).

    Raises:
        UserError: a local path without what it should hold.
    """
    if model and model.endswith(".gguf") and gguf_file is None:
        model, gguf_file = None, model
    if model is None and gguf_file is not None:
        model, gguf_file = str(Path(gguf_file).parent), Path(gguf_file).name
    model = model or LISTED[0]
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
            raise UserError(f"{model}: no such folder; give a folder with a model in it, or an id like {LISTED[0]}")
        return model, gguf_file, model if gguf_file is None else Path(gguf_file).stem
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise UserError(f"{folder / gguf_file}: no such file; 'make llm-model' fetches one, see the README")
        return model, gguf_file, Path(gguf_file).stem
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
    try:
        socket.create_connection((name, int(port or 443)), timeout=5).close()
    except OSError:
        return False
    return True


def load_chat(source: str, gguf_file: str | None, device: Any, precision: str) -> Chat:
    """Load a model and its tokenizer.

    Raises:
        UserError: a package or the weights are missing, saying what to do.
    """
    if not Path(source).is_dir() and not hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # what was downloaded earlier is still found
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of loading, which fill a log file
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install -r requirements-llm.txt") from None
    transformers.logging.set_verbosity_error()
    extra = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, padding_side="left", **extra)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, precision), **extra)
    except Exception as error:  # transformers raises many kinds
        raise UserError(what_to_do(source, error)) from None
    if not tokenizer.chat_template:
        raise UserError(f"{source}: has no chat template; use a model that was tuned for instructions")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    template = str(tokenizer.chat_template)
    thinks = "<think>" in template and "enable_thinking" not in template
    return Chat(model.to(device).eval(), tokenizer, THINKING_TOKENS if thinks else NEW_TOKENS)


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


# ---------------------------------------------------------------- asking, with a record that survives interruption


@dataclass(frozen=True)
class Cell:
    """One of the runs: a prompt and a template, and the files that hold what came out.

    Attributes:
        settings: what the replies depend on; kept in the record's first line and compared on resuming.
    """

    prompt: str
    template: str
    stem: Path
    settings: dict[str, Any]

    @property
    def record(self) -> Path:
        """A line of settings, then a line a reply."""
        return self.stem.with_name(self.stem.name + ".jsonl")

    @property
    def predictions(self) -> Path:
        """What the exact match compares, one a line."""
        return self.stem.with_name(self.stem.name + ".predictions")

    def message(self, name: str) -> str:
        """The user message about a person."""
        return PROMPTS[self.prompt].replace("{question}", ask_about(name, TEMPLATES[self.template]))

    def read(self) -> tuple[dict[str, Any], dict[int, str]]:
        """Settings and replies by question number, from 0. A last line that was cut off is passed over.

        Raises:
            UserError: the record is of a run with other settings, naming one.
        """
        if not self.record.exists():
            return {}, {}
        lines = []
        for line in self.record.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        if not lines or "settings" not in lines[0]:
            raise UserError(f"{self.record}: is no record of this program; move it away")
        held = lines[0]["settings"]
        for name, value in self.settings.items():
            if held.get(name) != value:
                raise UserError(
                    f"{self.record}: belongs to a run with another {name} ({held.get(name)}, not {value}); "
                    "say --restart to overwrite it, or choose another --outputs_dir"
                )
        return held, {line["question"]: line["raw"] for line in lines[1:]}


def ask(cell: Cell, chat: Chat, names: list[str], batch_size: int, known: dict[int, str]) -> None:
    """Ask what is not yet on record, appending each batch of replies as it comes."""
    from tqdm import tqdm

    left = [i for i in range(len(names)) if i not in known]
    header = {"settings": {**cell.settings, "parameters": chat.parameters, "new_tokens": chat.new_tokens}}
    lines = [header] + [{"question": i, "raw": raw} for i, raw in known.items()]
    write_text(cell.record, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    title, terminal = f"{cell.prompt}, {cell.template}", sys.stderr.isatty()
    with (
        open(cell.record, "a", encoding="utf-8") as file,
        tqdm(
            total=len(names), initial=len(known), desc=title, unit="q", dynamic_ncols=True, disable=not terminal
        ) as bar,
    ):
        for start in range(0, len(left), batch_size):
            batch, began = left[start : start + batch_size], time.monotonic()
            replies, tokens = chat.reply([cell.message(names[i]) for i in batch])
            for i, raw in zip(batch, replies, strict=True):
                file.write(json.dumps({"question": i, "raw": raw}, ensure_ascii=False) + "\n")
                known[i] = raw
            file.flush()
            bar.update(len(batch))
            seconds = time.monotonic() - began
            bar.set_postfix_str(f"{tokens / seconds:.0f} tokens/s")
            if not terminal:
                to_go = (len(left) - start - len(batch)) * seconds / len(batch)
                done = f"{start + len(batch)} of {len(left)} questions"
                print(f"{title}: {done}, {tokens / seconds:.0f} tokens/s, about {to_go:.0f} s left", flush=True)


# ---------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Outcome:
    """The replies of a cell, scored; exact and normalised are None for a file without answers."""

    cell: Cell
    predictions: list[str]
    exact: list[bool] | None
    normalised: list[bool] | None
    parameters: int


def score(cell: Cell, names: list[str], places: list[str]) -> Outcome:
    """Compare the replies on record with the answers, and write the two files of the cell whole."""
    settings, raws = cell.read()
    header = json.dumps({"settings": settings}, ensure_ascii=False)
    lines, predictions, exact, normalised = [], [], [], []
    for i, raw in sorted(raws.items()):
        line: dict[str, Any] = {"question": i, "raw": raw}
        if i < len(names):
            question = ask_about(names[i], TEMPLATES[cell.template])
            parsed = parse_place(raw, question)
            # [part 4b] the reply as it is; [part 4c] the place in it
            compared = " ".join(without_thoughts(raw).split()) if cell.prompt == "bare" else parsed
            predictions.append(compared)
            exact.append(compared == places[i])
            normalised.append(normalise(parsed) == normalise(places[i]))
            line |= {"asked": question, "parsed": parsed}
            if places[i]:
                line |= {"answer": places[i], "exact": exact[-1], "normalised": normalised[-1]}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(cell.record, "\n".join([header, *lines]) + "\n")
    write_text(cell.predictions, "".join(p + "\n" for p in predictions))
    scored = bool(places[0])
    return Outcome(cell, predictions, exact if scored else None, normalised if scored else None, settings["parameters"])


def result_rows(outcomes: list[Outcome], name: str, data: str) -> list[dict[str, Any]]:
    """Rows for results/modern_llm.json; exact and normalised are shares.

    The row of the reworded template also has McNemar's test against the original, on normalised matches.
    """
    rows = []
    for outcome in outcomes:
        cell, n = outcome.cell, len(outcome.predictions)
        row = {"model": name, "data": data, "prompt": cell.prompt, "template": cell.template, "n": n}
        row |= {"exact": sum(outcome.exact) / n, "normalised": sum(outcome.normalised) / n}
        row |= {"parameters": outcome.parameters}
        original = find(outcomes, cell.prompt, "original")
        if cell.template == "reworded" and original:
            lost, won, p = mcnemar(original.normalised, outcome.normalised)
            row |= {"only_original": lost, "only_reworded": won, "p_mcnemar": float(f"{p:.3g}")}
        rows.append(row)
    return rows


def find(outcomes: list[Outcome], prompt: str, template: str) -> Outcome | None:
    """The outcome of a cell, None if it was not run."""
    return next((o for o in outcomes if (o.cell.prompt, o.cell.template) == (prompt, template)), None)


def report(outcomes: list[Outcome], name: str) -> None:
    """Print prompts x templates, exact and normalised, with 95 % intervals, and the paired tests."""

    def share(right: list[bool]) -> str:
        low, high = wilson_interval(sum(right), len(right))
        return f"{sum(right)}/{len(right)} {sum(right) / len(right):.1%} ({100 * low:.1f} to {100 * high:.1f})"

    templates = [t for t in TEMPLATES if any(o.cell.template == t for o in outcomes)]
    prompts = [p for p in PROMPTS if any(o.cell.prompt == p for o in outcomes)]
    print(f"\n{name}, {outcomes[0].parameters:,} parameters; accuracy (95 % interval)")
    for attribute, title in (
        ("exact", "exact match"),
        ("normalised", "match after normalisation (place read from the sentence; no case, accents, country)"),
    ):
        print(f"\n{title}\n{'':12}" + "".join(f"{t:28}" for t in templates))
        for prompt in prompts:
            cells = [find(outcomes, prompt, template) for template in templates]
            print(f"{prompt:12}" + "".join(f"{share(getattr(o, attribute)):28}" for o in cells))
    for prompt in prompts if len(templates) == 2 else ():
        lost, won, p = mcnemar(*(find(outcomes, prompt, t).normalised for t in TEMPLATES))
        print(
            f"\n{prompt}, normalised: right in the original wording alone {lost}, in the new one alone {won}; "
            f"McNemar's exact p = {p:.2g}"
        )


# ---------------------------------------------------------------- throughput


def throughput(chat: Chat, messages: list[str], batch_size: int) -> dict[str, float]:
    """Questions a second, one at a time and in batches, and how many replies are the same."""

    def timed(size: int) -> tuple[float, list[str]]:
        chat.reply(messages[:1])
        start, replies = time.monotonic(), []
        for i in range(0, len(messages), size):
            replies += chat.reply(messages[i : i + size])[0]
        return len(messages) / (time.monotonic() - start), replies

    (one, alone), (many, together) = timed(1), timed(batch_size)
    same = sum(a == b for a, b in zip(alone, together, strict=True))
    found = {"n": len(messages), "batch_size": batch_size, "one_at_a_time": one, "batched": many}
    return found | {"times": many / one, "same": same}


# ---------------------------------------------------------------- the command line


def build_parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(
        description="Ask an instruction-tuned model the questions of the dev set.", allow_abbrev=False
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", help=f"hub id, local folder or .gguf file (default: {LISTED[0]})")
    model.add_argument("--gguf_file", help="GGUF file in the model's folder or repository, or the path of one")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    model.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of weights and products; auto: bfloat16 on a GPU that has it, else float32 (default: %(default)s)",
    )
    asking = parser.add_argument_group("questions")
    both = "both"
    asking.add_argument("--prompt", choices=[*PROMPTS, both], default=both, help="default: %(default)s")
    asking.add_argument("--template", choices=[*TEMPLATES, both], default=both, help="default: %(default)s")
    asking.add_argument("--eval_corpus_path", default="birth_dev.tsv", help="default: %(default)s")
    asking.add_argument("--limit", type=int, help="ask the first LIMIT questions only")
    asking.add_argument("--batch_size", type=int, default=100, help="questions at once (default: %(default)s)")
    asking.add_argument("--max_new_tokens", type=int, help=f"longest reply (default: {NEW_TOKENS}; thinking: 1024)")
    asking.add_argument("--restart", action="store_true", help="ask again what is on record")
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--outputs_dir", default=".", help="folder of records and predictions (default: %(default)s)")
    outputs.add_argument(
        "--data", choices=["own", "course"], default="own", help="label in the results: whose questions"
    )
    outputs.add_argument(
        "--results_path",
        help="JSON file that gets a row for each accuracy (default: results/modern_llm.json, with --throughput "
        "results/modern_llm_throughput.json; with --limit: none)",
    )
    outputs.add_argument(
        "--throughput", action="store_true", help="only time the questions one at a time against batches"
    )
    return parser


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot be done, before anything is loaded.

    Raises:
        UserError: naming the flag.
    """
    for flag in ("limit", "batch_size", "max_new_tokens"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: at least 1 is expected")
    if args.results_path is None and args.limit is None:
        args.results_path = f"results/modern_llm{'_throughput' if args.throughput else ''}.json"
    check_writable(Path(args.outputs_dir) / "modern_llm.jsonl")
    check_writable(args.results_path)


def run(args: argparse.Namespace, command: str) -> list[Outcome]:
    """Ask all that is asked for, write the files, print the table.

    Args:
        args: as `build_parser` reads them.
        command: the command line, for results.

    Raises:
        UserError: for whatever the user can mend.
    """
    check_args(args)
    source, gguf_file, name = locate(args.model, args.gguf_file)
    text, where = read_text(args.eval_corpus_path), args.eval_corpus_path
    names = names_in(text, where)[: args.limit]
    places = [place for _, _, place in read_pairs(text, where)][: args.limit]
    try:
        device = pick_device(args.device)
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install -r requirements-llm.txt") from None
    precision = (
        "float32" if args.precision == "auto" and device.type == "cpu" else pick_precision(args.precision, device)
    )
    set_seed(0)
    loaded: list[Chat] = []  # loaded when first needed: a run that is complete only prints its table

    def chat() -> Chat:
        if not loaded:
            print(f"loading {name} ...", flush=True)
            loaded.append(load_chat(source, gguf_file, device, precision))
            loaded[0].new_tokens = args.max_new_tokens or loaded[0].new_tokens
            print(
                f"{name}: {loaded[0].parameters:,} parameters; device {hardware(device)}, {precision}; replies of up "
                f"to {loaded[0].new_tokens} tokens, batches of {args.batch_size}"
            )
        return loaded[0]

    cells = list(cells_of(args, name, precision))
    if args.throughput:
        found = throughput(chat(), [cells[0].message(person) for person in names], args.batch_size)
        print(
            f"{found['n']} questions ({cells[0].prompt}, {cells[0].template}): one at a time "
            f"{found['one_at_a_time']:.2f} a second, in batches of {args.batch_size} {found['batched']:.2f} a second, "
            f"{found['times']:.1f} times as many; {found['same']} replies the same"
        )
        if args.results_path:
            row = {"model": name, "prompt": cells[0].prompt, "template": cells[0].template, **found}
            row |= {"hardware": hardware(device), "precision": precision, "new_tokens": chat().new_tokens}
            add_rows(args.results_path, [row | {"command": command}], TIMED)
            print(f"a row in {args.results_path}")
        return []
    outcomes = []
    for cell in cells:
        check_writable(cell.record)
        known = {} if args.restart else cell.read()[1]
        if any(i not in known for i in range(len(names))):
            print(f"the first prompt of {cell.prompt}, {cell.template}: {chat().prompt(cell.message(names[0]))!r}")
            ask(cell, chat(), names, args.batch_size, known)
        outcomes.append(score(cell, names, places))
        print(f"{cell.prompt}, {cell.template}: {cell.predictions} and {cell.record}")
    if not places[0]:
        print(f"{where} has no answers, so no accuracy")
        return outcomes
    report(outcomes, name)
    if args.results_path:
        add_rows(args.results_path, result_rows(outcomes, name, args.data), KEY)
        print(f"\n{len(outcomes)} rows in {args.results_path}")
    return outcomes


def cells_of(args: argparse.Namespace, name: str, precision: str) -> Iterator[Cell]:
    """The runs that were asked for."""
    for prompt in PROMPTS if args.prompt == "both" else (args.prompt,):
        for template in TEMPLATES if args.template == "both" else (args.template,):
            stem = Path(args.outputs_dir) / f"modern_llm.{name.replace('/', '_')}.{prompt}.{template}"
            settings = {
                "model": name,
                "questions": fingerprint(args.eval_corpus_path),
                "message": PROMPTS[prompt].replace("{question}", TEMPLATES[template]),
                "precision": precision,
                "max_new_tokens": args.max_new_tokens,
            }
            yield Cell(prompt, template, stem, settings)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line."""
    args = build_parser().parse_args(argv)
    run(args, "python src/modern_llm.py " + shlex.join(sys.argv[1:] if argv is None else argv))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

"""[part 4b] and [part 4c] What an instruction-tuned model from Hugging Face says to the same questions.

    pip install -r requirements-llm.txt
    python src/modern_llm.py                                             # Qwen/Qwen3-1.7B, from the hub
    python src/modern_llm.py --model HuggingFaceTB/SmolLM2-1.7B-Instruct # or meta-llama/Llama-3.2-1B-Instruct
    python src/modern_llm.py --model path/to/folder                      # or path/to/model.gguf

Every question is asked in two wordings (--template) and two ways (--prompt): bare (4b) is the question alone, and the
exact match compares the reply as it is; instructed (4c) adds instructions, and the exact match compares the place that
`parse_place` reads from the reply. The match after normalisation compares that place in both, without regard to case,
accents and country. Replies are kept (`engine/hub.py`), so the same command goes on with an interrupted run.
"""

import argparse
import functools
import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from engine import hub
from engine.files import add_row, fingerprint
from engine.machine import hardware, pick_device, pick_precision
from engine.parse_place import normalise, parse_place, without_thoughts
from engine.wordings import ORIGINAL, REWORDED, ask_about, mcnemar, names_in, share
from utils import cli, read_pairs, read_text

LISTED = ("Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct")
TEMPLATES = {"original": ORIGINAL, "reworded": REWORDED}
PROMPTS = {
    "bare": "{question}",
    "instructed": "{question} Answer with the name of the city or town alone: no sentence, no country, no explanation. "
    "If you are not sure, give your best guess.",
}
KEY = ("model", "data", "prompt", "template", "n")  # what identifies a row of results


class Chat:
    """A model that answers; its tokenizer knows how to wrap a message."""

    def __init__(self, args: argparse.Namespace):
        print(f"loading {args.name} ...", flush=True)
        extra = {"gguf_file": args.gguf_file} if args.gguf_file else {}
        with hub.loading(args.source) as hf:
            self.tokenizer = hf.AutoTokenizer.from_pretrained(args.source, padding_side="left", **extra)
            dtype = getattr(torch, args.precision)
            self.model = hf.AutoModelForCausalLM.from_pretrained(args.source, dtype=dtype, **extra)
        longest = hub.prepare(args.source, self.tokenizer, self.model)
        self.model.to(args.device).eval()
        self.new_tokens, self.parameters = args.max_new_tokens or longest, self.model.num_parameters()
        print(f"{args.name}: {self.parameters:,} parameters; device {hardware(args.device)}, {args.precision}")

    def prompt(self, message: str) -> str:
        """The text that the model gets for a user message. Some templates add a system message; it stays."""
        turns, date = [{"role": "user", "content": message}], "26 Jul 2024"  # Llama 3.2 is told today's otherwise
        return self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False, date_string=date
        )

    def reply(self, messages: list[str]) -> list[str]:
        """Greedy replies to several messages, in one batch that is padded on the left."""
        prompts = [self.prompt(message) for message in messages]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        tokens, seen = (batch[key].to(self.model.device) for key in ("input_ids", "attention_mask"))  # (B, T)
        rows = self.model.generate(tokens, attention_mask=seen, do_sample=False, max_new_tokens=self.new_tokens)
        new = self.tokenizer.batch_decode(rows[:, tokens.size(1) :], skip_special_tokens=True)  # of (B, T + new)
        return [text.strip() for text in new]


def compare(prompt: str, question: str, raw: str, place: str) -> dict[str, Any]:
    """A reply against the answer ("" if there is none): what is compared, and whether it is right."""
    parsed = parse_place(raw, question)
    # [part 4b] the reply as it is; [part 4c] the place in it
    compared = " ".join(without_thoughts(raw).split()) if prompt == "bare" else parsed
    right = {"exact": compared == place, "normalised": normalise(parsed) == normalise(place)}
    return {"asked": question, "parsed": parsed, "compared": compared} | ({"answer": place} | right if place else {})


def accuracy(found: dict[tuple[str, str], list[dict[str, Any]]], prompt: str, template: str) -> dict[str, Any]:
    """Print and return a result: accuracies as shares, and McNemar's test of the new wording against the original."""
    replies = found[prompt, template]
    row = {"prompt": prompt, "template": template, "n": len(replies)}
    for kind, title in (("exact", "exact match"), ("normalised", "match after normalisation")):
        right = sum(reply[kind] for reply in replies)
        row[kind] = right / len(replies)
        print(f"{prompt}, {template}, {title}: {share(right, len(replies))}")
    if template == "reworded" and (prompt, "original") in found:
        lost, won, p = mcnemar(*([reply["normalised"] for reply in found[prompt, t]] for t in TEMPLATES))
        row |= {"only_original": lost, "only_reworded": won, "p_mcnemar": float(f"{p:.3g}")}
        print(f"{prompt}, normalised: right in the original wording alone {lost}, in the new one alone {won};", end=" ")
        print(f"McNemar's exact p = {p:.2g}")
    return row


def main(argv: list[str] | None = None) -> int:
    """Ask all that is asked for, write the files, print the accuracies."""
    parser = argparse.ArgumentParser(description="Ask an LLM the questions of the dev set.", allow_abbrev=False)
    parser.add_argument("--model", help=f"hub id, local folder or .gguf file (default: {LISTED[0]})")
    parser.add_argument("--eval_corpus_path", default="birth_dev.tsv", help="the questions (default: %(default)s)")
    parser.add_argument("--prompt", choices=[*PROMPTS, "both"], default="both", help="default: %(default)s")
    parser.add_argument("--template", choices=[*TEMPLATES, "both"], default="both", help="default: %(default)s")
    args = hub.parse(parser, argv, example=LISTED[0])
    text, where = read_text(args.eval_corpus_path), args.eval_corpus_path
    people = names_in(text, where)[: args.limit]
    places = [place for _, _, place in read_pairs(text, where)][: args.limit]
    chat = functools.cache(lambda: Chat(args))  # a run that is complete needs none
    prompts, templates = (PROMPTS if args.prompt == "both" else [args.prompt]), ...
    found = {}
    for prompt, template in itertools.product(prompts, templates):
        questions = [ask_about(person, TEMPLATES[template]) for person in people]
        messages = [PROMPTS[prompt].replace("{question}", question) for question in questions]
        asked = PROMPTS[prompt].replace("{question}", TEMPLATES[template])
        record = hub.Record(args, prompt, template, {"questions": fingerprint(text), "message": asked})
        replies = record.replies(messages, chat)
        cell = found[prompt, template] = [compare(prompt, *each) for each in zip(questions, replies, places, strict=True)]
        record.write(cell)
        write_text(record.predictions, "".join(reply["compared"] + "\n" for reply in cell))
        print(f"{prompt}, {template}: {record.predictions} and {record.path}")
        if not places[0]:
            print(f"{where} has no answers, so no accuracy")
            continue
        row = {"model": args.name, "data": args.data, "parameters": record.settings["parameters"]}
        row |= accuracy(found, prompt, template)
        if args.results_path:
            add_row(Path(args.results_path) / "modern_llm", row, KEY)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

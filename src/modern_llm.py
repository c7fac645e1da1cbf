"""[part 4b] and [part 4c] Ask an instruction-tuned model from Hugging Face the same questions.

    python src/modern_llm.py                             # Qwen/Qwen3-1.7B from the hub; needs requirements-llm.txt
    python src/modern_llm.py --model path/to/folder      # or path/to/model.gguf

Every question is asked in two wordings (--template) and two ways (--prompt): bare (4b) is the question alone,
instructed (4c) adds instructions. The exact match compares the whole reply if bare, the place that `parse_place` reads
from it if instructed. The match after normalisation compares that place in both, ignoring case, accents and country.
Replies are kept (engine/hub.py), so the same command continues an interrupted run. report/llm.py makes rows of results
from them.
"""

import argparse
import functools
import itertools
import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is loaded: waiting threads sleep sooner

from engine import hub
from engine.machine import hardware
from engine.wordings import WORDINGS, ask_about, describe_mcnemar, mcnemar, names_in, share
from parse_place import THOUGHTS, normalise, parse_place, without_thoughts
from utils import UserError, cli, fingerprint, read_pairs, read_text, write_text

LISTED = ("Qwen/Qwen3-1.7B", "meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct")
PROMPTS = {
    "bare": "{question}",
    "instructed": "{question} Answer with the name of the city or town alone: no sentence, no country, no explanation. "
    "If you are not sure, give your best guess.",
}


class Chat:
    """A model that answers; its tokenizer knows how to wrap a message."""

    def __init__(self, args: argparse.Namespace):
        self.name = args.name
        print(f"loading {self.name} ...", flush=True)
        source, file = args.source, args.gguf_file
        with hub.loading(source) as hf:
            self.tokenizer = hf.AutoTokenizer.from_pretrained(source, padding_side="left", gguf_file=file)
            self.model = hf.AutoModelForCausalLM.from_pretrained(source, dtype=args.precision, gguf_file=file)
        longest = hub.prepare(source, self.tokenizer, self.model)
        self.model.to(args.device).eval()
        self.hardware = hardware(args.device)
        self.new_tokens, self.parameters = args.max_new_tokens or longest, self.model.num_parameters()
        print(f"{args.name}: {self.parameters:,} parameters; device {self.hardware}, {args.precision}")

    def prompt(self, message: str) -> str:
        """The text that the model gets for a user message. Some templates add a system message; it stays."""
        turns = [{"role": "user", "content": message}]
        # Qwen3: no thinking; Llama 3.2: a fixed date, where its template puts today's
        extra = {"enable_thinking": False, "date_string": "26 Jul 2024"}
        try:
            return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **extra)
        except Exception as error:  # a template raises what it likes
            raise UserError(
                f"{self.name}: its chat template refuses a question alone ({error}); use another model"
            ) from None

    def reply(self, messages: list[str]) -> list[str]:
        """Greedy replies to several messages, in one batch that is padded on the left."""
        prompts = [self.prompt(message) for message in messages]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        tokens, seen = (batch[key].to(self.model.device) for key in ("input_ids", "attention_mask"))  # (B, T)
        rows = self.model.generate(tokens, attention_mask=seen, do_sample=False, max_new_tokens=self.new_tokens)
        said = self.tokenizer.batch_decode(rows[:, tokens.size(1) :], skip_special_tokens=True)
        opened = re.findall(rf"{THOUGHTS}\s*\Z", prompts[0])  # by the template: the thoughts begin in the prompt
        return ["".join([*opened, reply]).strip() for reply in said]


def compare(prompt: str, question: str, raw: str, place: str) -> tuple[str, dict[str, Any]]:
    """Score a reply against the answer ("" if unknown): the text compared, and a note with the parsed place."""
    parsed = parse_place(raw, question)
    # [part 4b] the reply as it is; [part 4c] the place in it
    compared = " ".join(without_thoughts(raw).split()) if prompt == "bare" else parsed
    right = {"exact": compared == place, "normalised": normalise(parsed) == normalise(place)}
    return compared, {"asked": question, "parsed": parsed} | ({"answer": place} | right if place else {})


def print_accuracy(found: dict[tuple[str, str], list[dict[str, Any]]], prompt: str, template: str) -> None:
    """Print accuracies, and McNemar's test of the new wording against the original."""
    notes = found[prompt, template]
    for kind, title in (("exact", "exact match"), ("normalised", "match after normalisation")):
        print(f"{prompt}, {template}, {title}: {share(sum(note[kind] for note in notes), len(notes))}")
    if template == "reworded" and (prompt, "original") in found:
        tested = mcnemar(*([note["normalised"] for note in found[prompt, t]] for t in WORDINGS))
        print(f"{prompt}, normalised: {describe_mcnemar(*tested)}")


def main(argv: list[str] | None = None) -> int:
    """Ask all that is asked for, write the files, print the accuracies."""
    parser = argparse.ArgumentParser(description="Ask an LLM the questions of the dev set.", allow_abbrev=False)
    parser.add_argument("--model", help=f"hub id, local folder or .gguf file (default: {LISTED[0]})")
    parser.add_argument("--prompt", choices=[*PROMPTS, "both"], default="both", help="default: %(default)s")
    parser.add_argument("--template", choices=[*WORDINGS, "both"], default="both", help="default: %(default)s")
    args = hub.parse(parser, argv, example=LISTED[0])
    text, where = read_text(args.eval_corpus_path), args.eval_corpus_path
    people, places = names_in(text, where), [place for _, _, place in read_pairs(text, where)]
    chat = functools.cache(lambda: Chat(args))  # loaded when first needed: a complete run only scores its replies anew
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    prompts = PROMPTS if args.prompt == "both" else [args.prompt]
    for prompt, template in itertools.product(prompts, WORDINGS if args.template == "both" else [args.template]):
        message = PROMPTS[prompt].replace("{question}", WORDINGS[template])
        settings = {"questions": fingerprint(text), "message": message, "model": args.name, "precision": args.precision}
        settings["max_new_tokens"] = args.max_new_tokens
        stem = Path(args.outputs_dir) / f"modern_llm.{args.name.replace('/', '_')}.{prompt}.{template}"
        record = hub.Record(stem, settings, args.restart)
        messages = [ask_about(p, message) for p in people[: args.limit]]
        record.ask(messages, chat, args.batch_size, f"{prompt}, {template}")
        predictions = []
        for i in itertools.takewhile(record.known.__contains__, range(len(people))):  # earlier runs may have asked more
            question = ask_about(people[i], WORDINGS[template])
            compared, note = compare(prompt, question, record.known[i]["raw"], places[i])
            record.known[i] |= note
            predictions.append(compared + "\n")
        record.write()
        write_text(f"{stem}.predictions", "".join(predictions))
        print(f"{prompt}, {template}: {stem}.predictions and {stem}.jsonl")
        found[prompt, template] = [record.known[i] for i in range(len(messages))]
        if places[0]:
            print_accuracy(found, prompt, template)
    if not places[0]:
        print(f"{where} has no answers, so no accuracy")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

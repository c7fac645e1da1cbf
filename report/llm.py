"""Rows of results from the replies of LLMs that src/modern_llm.py has kept: what `make llm` ends with.

    python report/llm.py [--data FOLDER] [--data_name NAME] [--results FOLDER]

takes every record modern_llm.*.jsonl of a folder that is about the dev questions of the data, adds a row to modern_llm
and the replies to modern_llm_replies for each, and draws the figure of part 4 anew.
"""

import argparse
import shlex
import sys
from itertools import product
from pathlib import Path

from engine.hub import read_record
from engine.wordings import WORDINGS, accuracy_change, names_in
from modern_llm import PROMPTS
from report import figures, rows
from report.tables import TESTED
from utils import UserError, cli, fingerprint, read_text

# The way to ask and the wording, by the message that was sent.
CELLS = {
    PROMPTS[prompt].replace("{question}", WORDINGS[template]): (prompt, template)
    for prompt, template in product(PROMPTS, WORDINGS)
}


def measured(settings: dict, notes: list[dict], original: list[dict]) -> dict:
    """A row from the scored replies of a record: accuracies, and McNemar's test against the original wording."""
    prompt, template = CELLS[settings["message"]]
    found = {"model": settings["model"], "prompt": prompt, "template": template, "n": len(notes)}
    for kind in ("exact", "normalised"):
        found[kind] = sum(note[kind] for note in notes) / len(notes)
    if template == "reworded" and len(original) == len(notes):
        change = accuracy_change(*([note["normalised"] for note in asked] for asked in (original, notes)))
        found |= {name: change[name] for name in TESTED}
    return found | {"parameters": settings["parameters"], "questions": settings["questions"]}


def reply_rows(settings: dict, notes: list[dict], names: list[str]) -> list[dict]:
    """The scored replies of a record, each on one line."""
    prompt, template = CELLS[settings["message"]]
    asked = {"model": settings["model"], "prompt": prompt, "template": template, "n": len(notes)}
    return [
        asked
        | {"name": names[note["question"]], "truth": note["answer"], "reply": " ".join(note["raw"].split())}
        | {"place": note["parsed"], "exact": note["exact"], "normalised": note["normalised"]}
        for note in notes
    ]


def main(argv: list[str] | None = None) -> int:
    """Add the rows."""
    flags = rows.flags(rows.ROOT / "expt" / "results")
    parser = argparse.ArgumentParser(description="Make rows of results from the replies of LLMs.", parents=[flags])
    parser.add_argument("--folder", type=Path, default=rows.ROOT, help="of the records (default: the project)")
    args = parser.parse_args(argv)
    name, corpus = args.data_name or rows.data_name(args.data), fingerprint(read_text(args.data / "wiki.txt"))
    dev = read_text(args.data / "birth_dev.tsv")
    names, asked = names_in(dev, str(args.data / "birth_dev.tsv")), fingerprint(dev)
    found = {}
    for path in sorted(args.folder.glob("modern_llm.*.jsonl")):
        settings, replies = read_record(path)
        notes = [replies[i] for i in sorted(replies) if "exact" in replies[i]]
        if notes and settings["questions"] == asked and settings["message"] in CELLS:
            found[settings["model"], *CELLS[settings["message"]]] = settings, notes
    if not found:
        raise UserError(
            f"{args.folder}: holds no scored replies to {args.data / 'birth_dev.tsv'}; `make llm` gets them"
        )
    for (model, prompt, _), (settings, notes) in found.items():
        made = {"hardware": settings.get("hardware"), "precision": settings["precision"]}
        path = model if "/" in model else "" if model.startswith("SmolLM2-135M-Instruct") else "PATH"
        command = "make llm" + (f" LLM={path}" if path else "")
        command += "" if name == "own" else f" DATA=FOLDER DATA_NAME={shlex.quote(name)}"
        made = rows.provenance(command, name, corpus, **made)
        _, original = found.get((model, prompt, "original"), (None, []))
        rows.add("modern_llm_replies", [made | reply for reply in reply_rows(settings, notes, names)], args.results)
        print(f"a row in {rows.add('modern_llm', made | measured(settings, notes, original), args.results)}")
    figures.save(figures.sensitivity(args.results, name), args.results / "sensitivity.png")
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

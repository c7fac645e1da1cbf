"""[part 4a] Does a finetuned model know the birthplace, or only the wording of the question?

    python src/sensitivity.py evaluate rope wiki.txt --reading_params_path rope.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path rope.sensitivity.dev.predictions

takes the arguments of `run.py evaluate`, asks "What is the birthplace of NAME?" where the file asks
"Where was NAME born?" (the file stays as it is, and so do the answers), and prints both accuracies.
`--wordings` asks in more ways still. Finetuning knows the original wording alone.

The handout says to copy run.py to this file and to change its evaluation. This file calls run.py's
parts instead: a copy would be a second command line to keep in step with the first.
"""

import argparse
import sys
from dataclasses import dataclass

import run as homework
from engine import options, session
from engine.answers import answer
from engine.wordings import FURTHER, ORIGINAL, REWORDED, ask_about, mcnemar, names_in, share
from utils import UserError, cli, describe_score, read_pairs, read_text, set_seed, write_text


@dataclass(frozen=True)
class Sensitivity:
    """What was found.

    Attributes:
        names: of the people asked for.
        parameters: number of the model's.
        predictions: by wording (with NAME for the name), the answers in the file's order.
        right: by wording, whether each is the file's answer; empty for a file without answers.
    """

    names: list[str]
    parameters: int
    predictions: dict[str, list[str]]
    right: dict[str, list[bool]]

    def result(self) -> dict[str, float]:
        """Both accuracies and McNemar's test on their difference, for results files; for a file with answers."""
        lost, won, p = mcnemar(self.right[ORIGINAL], self.right[REWORDED])
        return {
            "original": sum(self.right[ORIGINAL]) / len(self.names),
            "reworded": sum(self.right[REWORDED]) / len(self.names),
            "n": len(self.names),
            "only_original": lost,
            "only_reworded": won,
            "p_mcnemar": float(f"{p:.3g}"),
            "parameters": self.parameters,
        }


def build_parser() -> argparse.ArgumentParser:
    """run.py's parser, with a flag more."""
    parser = homework.build_parser()
    parser.description, parser.epilog = f'Evaluate a model on "{REWORDED}" instead of "{ORIGINAL}".', None
    parser.add_argument("--wordings", action="store_true", help=f"ask in {len(FURTHER)} further ways, a row each")
    return parser


def ask(args: argparse.Namespace) -> Sensitivity:
    """Ask for every name of the file in the original wording, in the new one, and with --wordings in further ones."""
    source = args.eval_corpus_path
    text = read_text(source)
    names, places = names_in(text, source), [place for _, _, place in read_pairs(text, source)]
    model, documents = homework.load_for_answers(args)
    precision = "float32" if args.precision == "auto" else args.precision
    predictions, right = {}, {}
    for wording in (ORIGINAL, REWORDED, *(FURTHER if args.wordings else ())):
        questions = [ask_about(name, wording) for name in names]
        predictions[wording] = answer(model, documents, questions, source, precision)
        if places[0]:
            right[wording] = [a == b for a, b in zip(predictions[wording], places, strict=True)]
    return Sensitivity(names, sum(p.numel() for p in model.parameters()), predictions, right)


def run(args: argparse.Namespace) -> Sensitivity:
    """Ask, write the reworded predictions to --outputs_path, and print what changed and both accuracies."""
    if args.function != "evaluate":
        raise UserError(f"{args.function}: sensitivity.py can only evaluate; run src/run.py for that")
    set_seed(args.seed)
    found = ask(args)
    before, after, total = found.predictions[ORIGINAL], found.predictions[REWORDED], len(found.names)
    write_text(args.outputs_path, "".join(p + "\n" for p in after))
    changed = [i for i in range(total) if before[i] != after[i]]
    print(f"\nanswers that changed, {len(changed)} of {total} (+ now right, - no longer right):")
    for i in changed:
        gain = found.right[REWORDED][i] - found.right[ORIGINAL][i] if found.right else 0
        print(f"  {'- +'[gain + 1]} {found.names[i]}: {before[i]} -> {after[i]}")
    if not found.right:
        print(f"\nPredictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
    else:
        correct = {wording: sum(right) for wording, right in found.right.items()}
        print(f'\noriginal wording, "{ORIGINAL}": {share(correct[ORIGINAL], total)}')
        print(f'reworded, "{REWORDED}": {share(correct[REWORDED], total)}')
        lost, won, p = mcnemar(found.right[ORIGINAL], found.right[REWORDED])
        print(f"right in the original wording alone: {lost}, in the new one alone: {won}; McNemar's exact p = {p:.2g}")
        print(describe_score(float(total), float(correct[REWORDED])))
        print(f"predictions of the reworded questions written to {args.outputs_path}")
        args.tb_expt_name += "_reworded"
        session.log_accuracy(args, correct[REWORDED] / total)
    for wording in found.predictions if args.wordings else ():
        differ = sum(a != b for a, b in zip(before, found.predictions[wording], strict=True))
        accuracy = share(correct[wording], total) if found.right else "no answers to compare with"
        print(f"{wording:31}  {differ:>3} changed  {accuracy}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line."""
    run(options.parse(build_parser(), argv))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

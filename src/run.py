"""Pretrain, finetune and evaluate a model: the command line of the homework.

    python src/run.py pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params
    python src/run.py finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params \\
        --writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv
    python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions

The handout's hyperparameters stand below, where the handout asks for them. A recipe (--recipe) changes some of them:
it sets the defaults of the flags, and adds what no flag can say (`engine/recipes.py`).
"""

import argparse
import sys
from typing import NamedTuple

from dataset import CharCorruptionDataset, NameDataset
from engine import options, processes, session
from engine.answers import answer
from engine.machine import hardware, pick_device
from engine.wordings import wilson_interval
from model import GPT, GPTConfig
from trainer import TrainerConfig
from utils import cli, describe_score, evaluate_places, read_pairs, read_text, set_seed, write_text


def build_parser() -> argparse.ArgumentParser:
    """The handout's command line; `engine/options.py` adds ours."""
    parser = argparse.ArgumentParser(description="Pretrain, finetune or evaluate a character GPT.")
    parser.add_argument("function", choices=["pretrain", "finetune", "evaluate"], help="what to do")
    parser.add_argument("variant", choices=["vanilla", "rope"], help="learned or rotary positions")
    parser.add_argument("pretrain_corpus_path", help="the documents; they define the vocabulary in all functions")
    parser.add_argument("--reading_params_path", help="parameters to start from")
    parser.add_argument("--writing_params_path", help="where the trained parameters go")
    parser.add_argument("--finetune_corpus_path", help="question-answer pairs to finetune on")
    parser.add_argument("--eval_corpus_path", help="questions to answer, with or without answers")
    parser.add_argument("--outputs_path", help="where the predictions go, one a line")
    parser.add_argument("--pretrain_lr", type=float, default=6e-3, help="peak rate of pretraining (handout: 6e-3)")
    parser.add_argument("--finetune_lr", type=float, default=6e-4, help="peak rate of finetuning (handout: 6e-4)")
    parser.add_argument("--tb_expt_name", default="run", help="name of the run in TensorBoard (default: %(default)s)")
    options.add_options(parser)
    return parser


def make_model(args: argparse.Namespace, documents: CharCorruptionDataset) -> GPT:
    """The homework's model in the variant asked for, with the parameters of --reading_params_path if there are any."""
    config = GPTConfig(documents.vocab_size, args.block_size, args.n_layer, args.n_head, args.n_embd)
    if args.dropout is not None:
        config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = args.dropout
    config.rope = args.variant == "rope"  # [part g] rotary positions; else [part c] learned ones
    model = GPT(config)
    if args.reading_params_path:
        # [part f] start from what pretraining has learned
        session.read_into(model, args.reading_params_path, documents, args.pretrain_corpus_path)
    return model


def load_documents(args: argparse.Namespace) -> CharCorruptionDataset:
    """The pretraining corpus."""
    path = args.pretrain_corpus_path
    return CharCorruptionDataset(read_text(path), args.block_size, source=path)


# ---------------------------------------------------------------- [part f] pretrain


def pretrain(args: argparse.Namespace) -> session.Training:
    """Train on the span corruption of the documents and write the parameters."""
    documents = load_documents(args)
    model = make_model(args, documents)
    max_epochs = args.max_epochs or 650
    config = TrainerConfig(
        max_epochs=max_epochs,
        batch_size=args.batch_size or 128,
        learning_rate=args.pretrain_lr,
        lr_decay=True,
        warmup_tokens=512 * 20,
        final_tokens=max_epochs * len(documents) * args.block_size,
        seed=args.seed,
    )
    return session.train(args, model, documents, documents, config)


# ---------------------------------------------------------------- [part c] and [part f] finetune


def finetune(args: argparse.Namespace) -> session.Training:
    """Train on question-answer pairs, from pretrained parameters if given, and write the parameters."""
    documents = load_documents(args)
    pairs = NameDataset(documents, read_text(args.finetune_corpus_path), args.finetune_corpus_path)
    model = make_model(args, documents)
    config = TrainerConfig(
        max_epochs=args.max_epochs or (10 if args.reading_params_path else 75),
        batch_size=args.batch_size or 256,
        learning_rate=args.finetune_lr,
        lr_decay=True,
        warmup_tokens=512 * 20,
        final_tokens=200 * len(documents) * args.block_size,
        seed=args.seed,
    )
    return session.train(args, model, documents, pairs, config)


class Score(NamedTuple):
    """What an evaluation found; correct is None for a file without answers."""

    total: int
    correct: int | None
    predictions: list[str]


def load_for_answers(args: argparse.Namespace) -> tuple[GPT, CharCorruptionDataset]:
    """The model of --reading_params_path on its device, and the corpus with its vocabulary."""
    documents = load_documents(args)
    return make_model(args, documents).to(pick_device(args.device)).eval(), documents


def evaluate(args: argparse.Namespace) -> Score:
    """Answer every question of a file, write the predictions, and print the accuracy if it has answers."""
    questions = [q for _, q, _ in read_pairs(read_text(args.eval_corpus_path), args.eval_corpus_path)]
    model, documents = load_for_answers(args)
    precision = "float32" if args.precision == "auto" else args.precision
    print(
        f"evaluate {args.variant}: {len(questions)} questions of {args.eval_corpus_path}, parameters "
        f"{args.reading_params_path}\ndevice {hardware(model.head.weight.device)}, {precision}"
    )
    predictions = answer(model, documents, questions, args.eval_corpus_path, precision)
    write_text(args.outputs_path, "".join(p + "\n" for p in predictions))
    total, correct = evaluate_places(args.eval_corpus_path, predictions)
    if not total:
        print(f"Predictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
        return Score(len(questions), None, predictions)
    print(describe_score(total, correct))
    low, high = wilson_interval(correct, total)
    print(f"95 % interval {low:.1%} to {high:.1%}; predictions written to {args.outputs_path}")
    session.log_accuracy(args, correct / total)
    return Score(int(total), int(correct), predictions)


def run(args: argparse.Namespace) -> session.Training | Score:
    """Do what the (parsed) arguments say."""
    set_seed(args.seed)
    return {"pretrain": pretrain, "finetune": finetune, "evaluate": evaluate}[args.function](args)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the command line."""
    with processes.joined():
        run(options.parse(build_parser(), argv))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

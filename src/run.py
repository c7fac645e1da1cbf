"""Pretrain, finetune and evaluate a model: the command line of the homework.

    python src/run.py pretrain vanilla wiki.txt --writing_params_path vanilla.pretrain.params
    python src/run.py finetune vanilla wiki.txt --reading_params_path vanilla.pretrain.params \\
        --writing_params_path vanilla.finetune.params --finetune_corpus_path birth_places_train.tsv
    python src/run.py evaluate vanilla wiki.txt --reading_params_path vanilla.finetune.params \\
        --eval_corpus_path birth_dev.tsv --outputs_path vanilla.pretrain.dev.predictions

The handout's epochs, batch sizes and learning rates are set in this file; --recipe changes some of them
(`engine/recipes.py`).
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is loaded: waiting threads sleep sooner

import torch
import torch.distributed as dist

from dataset import CharCorruptionDataset, NameDataset
from engine import machine, options, processes, recipes, session
from engine.checkpoints import load_params, save_params
from model import GPT, GPTConfig
from trainer import Trainer, TrainerConfig
from utils import (
    MASK_CHAR,
    UserError,
    cli,
    evaluate_places,
    generate,
    note,
    read_pairs,
    read_text,
    set_seed,
    write_text,
)

FUNCTIONS = ("pretrain", "finetune", "evaluate")
ANSWER_LENGTH = 32  # the most characters of an answer
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # characters that some programs treat as line ends


def build_parser(functions: Sequence[str] = FUNCTIONS) -> argparse.ArgumentParser:
    """The handout's command line; `engine/options.py` adds ours."""
    parser = argparse.ArgumentParser(description="Pretrain, finetune or evaluate a character GPT.")
    parser.add_argument("function", choices=functions, help="what to do")
    parser.add_argument("variant", choices=["vanilla", "rope"], help="learned or rotary positions")
    parser.add_argument("pretrain_corpus_path", help="the documents; they define the vocabulary in all functions")
    parser.add_argument("--reading_params_path", help="parameters to start from, or to evaluate")
    parser.add_argument("--writing_params_path", help="where to save the trained parameters")
    parser.add_argument("--finetune_corpus_path", help="question-answer pairs to finetune on")
    parser.add_argument("--eval_corpus_path", help="questions to answer, with or without answers")
    parser.add_argument("--outputs_path", help="where the predictions go, one per line")
    parser.add_argument(
        "--pretrain_lr",
        type=float,
        default=6e-3,
        help="learning rate of pretraining (default: the recipe's; handout: 6e-3)",
    )
    parser.add_argument(
        "--finetune_lr",
        type=float,
        default=6e-4,
        help="learning rate of finetuning (default: the recipe's; handout: 6e-4)",
    )
    parser.add_argument("--tb_expt_name", default="run", help="name of the run in TensorBoard (default: %(default)s)")
    options.add_options(parser)
    return parser


def make_model(args: argparse.Namespace, documents: CharCorruptionDataset) -> GPT:
    """The model of the variant asked for, with the parameters of --reading_params_path if given."""
    # [part c] the model
    config = GPTConfig(documents.vocab_size, args.block_size, args.n_layer, args.n_head, args.n_embd)
    if args.dropout is not None:
        config.embd_pdrop = config.resid_pdrop = config.attn_pdrop = args.dropout
    # [part g] rotary positions instead of learned ones
    config.rope = args.variant == "rope"
    model = GPT(config)
    # [part f] start from pretrained parameters
    if args.reading_params_path:
        load_params(args.reading_params_path, model, documents, args.pretrain_corpus_path)
    return model


# ---------------------------------------------------------------- [part f] pretrain


def pretrain(args: argparse.Namespace, trainer_class: Callable[..., Trainer] = Trainer) -> session.Training | None:
    """Train on the span corruption of the documents and write the parameters."""
    set_seed(args.seed)
    documents = CharCorruptionDataset(read_text(args.pretrain_corpus_path), args.block_size, args.pretrain_corpus_path)
    model = make_model(args, documents)
    max_epochs = args.max_epochs or 650  # None unless --max_epochs or --recipe sets it (see options.parse)
    config = TrainerConfig(
        max_epochs=max_epochs,
        batch_size=args.batch_size or 128,
        learning_rate=args.pretrain_lr,
        lr_decay=True,
        warmup_tokens=512 * 20,
        final_tokens=max_epochs * len(documents) * args.block_size,
        seed=args.seed,
    )
    # the rest of what --recipe changes: the examples, the schedule, the optimizers (nothing for the handout's recipe)
    dataset, config, make_optimizers = recipes.apply(args.phase, documents, documents, config)
    trainer = trainer_class(model, dataset, None, machine.adapt(config, args), args.device, make_optimizers)
    with session.around(trainer, args, documents) as run:  # --resume, progress, TensorBoard, checkpoints
        if not run.is_complete:
            trainer.train()
            save_params(args.writing_params_path, model, run.stamp())
    return run.result


# ---------------------------------------------------------------- [part c] and [part f] finetune


def finetune(args: argparse.Namespace, trainer_class: Callable[..., Trainer] = Trainer) -> session.Training | None:
    """Train on question-answer pairs, from pretrained parameters if given, and write the parameters."""
    set_seed(args.seed)
    documents = CharCorruptionDataset(read_text(args.pretrain_corpus_path), args.block_size, args.pretrain_corpus_path)
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
    # the rest of what --recipe changes: the examples, the schedule, the optimizers (nothing for the handout's recipe)
    dataset, config, make_optimizers = recipes.apply(args.phase, documents, pairs, config)
    trainer = trainer_class(model, dataset, None, machine.adapt(config, args), args.device, make_optimizers)
    with session.around(trainer, args, documents) as run:  # --resume, progress, TensorBoard, checkpoints
        if not run.is_complete:
            trainer.train()
            save_params(args.writing_params_path, model, run.stamp())
    return run.result


# ---------------------------------------------------------------- evaluate


class Score(NamedTuple):
    """What an evaluation found; correct is None for a file without answers."""

    total: int
    correct: int | None
    predictions: list[str]


def answer(
    model: GPT, documents: CharCorruptionDataset, questions: Sequence[str], source: str, precision: str = "auto"
) -> list[str]:
    """The model's greedy answers: the question, MASK, then the likeliest characters up to the next MASK.

    A character that the corpus lacks is left out of its question; a message says how many questions had one. Line
    breaks and tabs in an answer become single blanks. `source` names the file of questions in messages. The precision
    is float32 unless bfloat16 is asked for.

    Raises:
        UserError: a question does not fit the block.
    """
    device = model.head.weight.device
    mask = documents.stoi[MASK_CHAR]
    prompts, n_with_unknown = [], 0
    for number, question in enumerate(questions, 1):
        known = "".join(c for c in question if c in documents.stoi)
        n_with_unknown += known != question
        if len(known) + 1 > documents.block_size:
            raise UserError(
                f"{source}, line {number}: the question has {len(question)} characters, "
                f"{documents.block_size - 1} fit; shorten it"
            )
        prompts.append(torch.tensor([documents.stoi[c] for c in known + MASK_CHAR], device=device))
    if n_with_unknown:
        count = "1 question has" if n_with_unknown == 1 else f"{n_with_unknown} questions have"
        note(f"{source}: {count} characters that the corpus lacks; asked without them")
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        texts = generate(model, prompts, ANSWER_LENGTH, documents.block_size, stop=mask)
    answers = []
    for prompt, text in zip(prompts, texts, strict=True):
        new = "".join(documents.itos[token] for token in text[len(prompt) :].tolist())
        place = new.split(MASK_CHAR)[0]
        has_breaks = any(c in LINE_ENDS + "\t" for c in place)
        answers.append(" ".join(place.split()) if has_breaks else place)
    return answers


def evaluate(args: argparse.Namespace) -> Score:
    """Answer every question of a file, write the predictions, and print the accuracy if it has answers."""
    questions = [question for _, question, _ in read_pairs(read_text(args.eval_corpus_path), args.eval_corpus_path)]
    documents = CharCorruptionDataset(read_text(args.pretrain_corpus_path), args.block_size, args.pretrain_corpus_path)
    model = make_model(args, documents).to(args.device)
    print(
        f"evaluate {args.variant}: {len(questions)} questions of {args.eval_corpus_path}, parameters "
        f"{args.reading_params_path}, device {args.device}"
    )
    predictions = answer(model, documents, questions, args.eval_corpus_path, args.precision)
    write_text(args.outputs_path, "".join(place + "\n" for place in predictions))
    total, correct = evaluate_places(args.eval_corpus_path, predictions)
    if not total:
        print(f"Predictions written to {args.outputs_path}; no answers in {args.eval_corpus_path}, so no accuracy")
        return Score(len(questions), None, predictions)
    print(f"Correct: {correct} out of {total}: {round(correct / total * 100, 6)}%")
    print(f"predictions written to {args.outputs_path}")
    return Score(int(total), int(correct), predictions)


# ---------------------------------------------------------------- the command line


def main(argv: list[str] | None = None) -> session.Training | Score | None:
    """Do what the command line says; returns what was found."""
    if dist.is_torchelastic_launched():  # several processes, started by torchrun
        with processes.joined():
            args = options.parse(build_parser(), argv)
            train = pretrain if args.function == "pretrain" else finetune
            return train(args, processes.ProcessTrainer)
    args = options.parse(build_parser(), argv)
    if args.function == "evaluate":
        return evaluate(args)
    return pretrain(args) if args.function == "pretrain" else finetune(args)


if __name__ == "__main__":
    sys.exit(cli(main))

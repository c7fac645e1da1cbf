"""The architecture: the homework works without engine/, examples and random numbers, and the course's code."""

import random
import re
import shutil

import numpy as np
import pytest
import torch

from batches import derive_seed
from dataset import CharCorruptionDataset, NameDataset
from engine.machine import quicken
from engine.targets import Cut, Excerpts, PaddedConcat
from helpers import SRC, Program, invent_people, same, tiny_model
from trainer import Trainer, TrainerConfig


@pytest.fixture(params=["documents", "pairs", "excerpts", "together"])
def data(request):
    """Every kind of dataset, on 40 invented people."""
    people = invent_people(40, unseen=5)
    documents = CharCorruptionDataset(people.corpus, 48)
    pairs, excerpts = NameDataset(documents, people.pairs), Excerpts(documents, Cut())
    together = PaddedConcat(pairs, excerpts)
    return {"documents": documents, "pairs": pairs, "excerpts": excerpts, "together": together}[request.param]


def random_states() -> tuple:
    """The states of the global random number generators."""
    return random.getstate(), str(np.random.get_state()), hash(torch.get_rng_state().numpy().tobytes())


def test_examples_depend_on_seed_epoch_and_index_alone(data):
    """The rows of a run are the same for all batch sizes, with workers, and in a resumed run; `random` decides them."""

    def stream(batch_size: int, workers: int = 0, done: int = 0) -> list[list]:
        settings = {"max_epochs": 3, "batch_size": batch_size, "num_workers": workers, "seed": 5}
        trainer = Trainer(tiny_model(), data, None, TrainerConfig(**settings))
        trainer.step = done
        return torch.cat([torch.stack(batch, 1) for batch in trainer.batches()]).tolist()

    whole, n = stream(1), len(data)
    for epoch in range(3):
        found, wanted = whole[epoch * n : epoch * n + n], []
        for i in range(n):
            np.random.seed(i)
            torch.manual_seed(i)
            random.seed(derive_seed(5, epoch, i))
            wanted.append(torch.stack(data[i]).tolist())
        assert sorted(found) == sorted(wanted) and found != wanted
    for other in (stream(128), stream(128, workers=2), stream(7, workers=2)):
        assert other == whole
    assert stream(1, done=n + 9) == whole[n + 9 :] and stream(128, workers=2, done=2) == whole[2 * n :]


@pytest.mark.parametrize("workers", [0, 2])
def test_random_states_stay_as_they_were(data, workers):
    """Training leaves the global random states unchanged, even if it fails; dataset[i] draws from `random` alone."""
    model = tiny_model(vocab_size=60, block_size=48, resid_pdrop=0.1)
    quicken(model)
    config = TrainerConfig(max_epochs=1, batch_size=32, micro_rows=5, num_workers=workers)
    trainer, before = Trainer(model, data, data, config), random_states()
    assert list(trainer.batches())
    trainer.train()
    with pytest.raises(KeyError):
        Trainer(model, {"no": "example"}, None, TrainerConfig()).train()
    assert random_states() == before
    assert data[0] and random_states()[1:] == before[1:]


COURSE = r"""
import argparse, sys
import torch
from torch.utils.tensorboard import SummaryWriter
sys.modules["engine"] = None  # an editable install has the project's on its path
import dataset, models, trainer, utils

argp = argparse.ArgumentParser()
for name in ("function", "variant", "pretrain_corpus_path"):
    argp.add_argument(name)
for name in ("reading_params", "writing_params", "finetune_corpus", "eval_corpus", "outputs"):
    argp.add_argument(f"--{name}_path")
args = argp.parse_args()
utils.set_seed(0)
pretrain_dataset = dataset.CharCorruptionDataset(open(args.pretrain_corpus_path, encoding="utf-8").read(), 48)
mconf = models.GPTConfig(pretrain_dataset.vocab_size, pretrain_dataset.block_size, n_layer=2, n_head=4, n_embd=32)
if args.variant == "rope":
    mconf.rope = True
model = models.GPT(mconf)
if args.reading_params_path:
    model.load_state_dict(torch.load(args.reading_params_path))
if args.function == "evaluate":
    predictions = []
    for line in open(args.eval_corpus_path, encoding="utf-8"):
        x = line.split("\t")[0] + "⁇"
        x = torch.tensor([pretrain_dataset.stoi[s] for s in x], dtype=torch.long)[None, ...]
        pred = utils.sample(model, x, 32, sample=False)[0]
        completion = "".join([pretrain_dataset.itos[int(i)] for i in pred])
        predictions.append(completion.split("⁇")[1])
    open(args.outputs_path, "w", encoding="utf-8").write("".join(pred + "\n" for pred in predictions))
    total, correct = utils.evaluate_places(args.eval_corpus_path, predictions)
    print(f"Correct: {correct} out of {total}: {correct / total * 100}%")
else:
    train_dataset, epochs = pretrain_dataset, 2
    if args.function == "finetune":
        train_dataset = dataset.NameDataset(pretrain_dataset, open(args.finetune_corpus_path, encoding="utf-8").read())
        epochs = 30
    tconf = trainer.TrainerConfig(
        max_epochs=epochs, batch_size=8, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20,
        final_tokens=200 * len(pretrain_dataset) * 48, num_workers=2, writer=SummaryWriter("expt"), ckpt_path="ckpt",
    )
    trainer.Trainer(model, train_dataset, None, tconf).train()
    torch.save(model.state_dict(), args.writing_params_path)
"""


@pytest.mark.parametrize("variant", ["vanilla", "rope"])
def test_run_py_of_the_course_works_beside_ours(program: Program, monkeypatch, variant):
    """A run.py as students complete the starter trains and answers; ours gives the same answers with its parameters.

    It needs the homework's own files alone, nothing of engine/.
    """
    (program.folder / "homework").mkdir()
    for name in ("attention", "batches", "dataset", "model", "models", "trainer", "utils"):
        shutil.copy(SRC / f"{name}.py", program.folder / "homework")
    monkeypatch.setenv("PYTHONPATH", str(program.folder / "homework"))
    theirs, corpus = program.write("course.py", COURSE), (variant, "corpus.txt")
    program.people(invent_people(60, unseen=30))
    program.ok("pretrain", *corpus, "--writing_params_path", "pretrained", script=theirs)
    files = ("--reading_params_path", "pretrained", "--writing_params_path", "params")
    program.ok("finetune", *corpus, *files, "--finetune_corpus_path", "pairs.tsv", script=theirs)
    saved, params = (torch.load(program.folder / name) for name in ("ckpt", "params"))
    assert same(saved, params)
    assert list((program.folder / "expt").glob("events*"))
    found, size = [], ("--n_layer", 2, "--n_head", 4, "--n_embd", 32, "--block_size", 48)
    for name, script, more in (("theirs", theirs, ()), ("ours", "run.py", size)):
        files = ("--reading_params_path", "params", "--eval_corpus_path", "unseen.tsv", "--outputs_path", name)
        said = program.ok("evaluate", *corpus, *files, *more, script=script).stdout
        answers = (program.folder / name).read_text(encoding="utf-8").splitlines()
        found.append((re.search("Correct: (.*) out of (.*):", said).groups(), answers))
    assert found[0] == found[1]
    assert len(answers) == 30 and len(set(answers)) > 5

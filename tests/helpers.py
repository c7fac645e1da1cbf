"""What the tests share: invented people, tiny models, and the programs of src/ run as subprocesses."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from model import GPT, GPTConfig
from report.rows import DATA_FILES

SRC = Path(__file__).resolve().parent.parent / "src"

# ---------------------------------------------------------------- invented data


@dataclass(frozen=True)
class People:
    """Invented people as the three texts that the programs read."""

    corpus: str  # a document per person, "NAME. NAME was born in PLACE.", and one with a question mark
    pairs: str  # questions and answers about the first people
    unseen: str  # questions and answers about the others, each born in a different place
    questions: str  # the questions of `unseen`, without answers


def write_data(folder: Path, people: People) -> None:
    """Write the course's four files: dev and test ask about the same unseen people."""
    texts = (people.corpus, people.pairs, people.unseen, people.questions)
    for name, text in zip(DATA_FILES, texts, strict=True):
        (folder / name).write_bytes(text.encode())


def word(rng: random.Random, syllables: int) -> str:
    """An invented capitalised word of alternating consonants and vowels."""
    return "".join(rng.choice("bdfgklmnprstv") + rng.choice("aeiou") for _ in range(syllables)).capitalize()


def invent_people(count: int, unseen: int, seed: int = 0) -> People:
    """People with random names; `unseen` of them, all from different places, are left out of the pairs."""
    rng = random.Random(seed)
    places: list[str] = []
    while len(places) < unseen:
        place = word(rng, 2)
        if place not in places:
            places.append(place)
    names: list[str] = []
    while len(names) < count:
        name = f"{word(rng, 2)} {word(rng, 3)}"
        if name not in names:
            names.append(name)
    people = [(name, places[i % unseen]) for i, name in enumerate(names)]
    documents = [f"{n}. {n} was born in {p}.\n" for n, p in people]
    documents.append("Where? Who knows where.\n")
    lines = [f"Where was {n} born?\t{p}\n" for n, p in people]
    held_out = lines[count - unseen :]
    questions = "".join(line.split("\t")[0] + "\n" for line in held_out)
    return People("".join(documents), "".join(lines[: count - unseen]), "".join(held_out), questions)


def tiny_config(**changes) -> GPTConfig:
    """2 layers, 2 heads of size 8, block 24, 11 characters, no dropout; keywords override."""
    values: dict = {"vocab_size": 11, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}
    values |= {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPTConfig(**(values | changes))


def tiny_model(seed: int = 0, make: Callable[[GPTConfig], GPT] = GPT, **changes) -> GPT:
    """A tiny model in training mode, with parameters large enough for every part of it to matter."""
    torch.manual_seed(seed)
    model = make(tiny_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Evil:
    """An object whose unpickling runs a command."""

    def __reduce__(self):
        return os.system, ("touch executed",)


CHAT_TEMPLATE = "{% if messages[0]['role'] != 'system' %}<s>system You help.</s>{% endif %}{% for m in messages %}<s>"
CHAT_TEMPLATE += "{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
CHAT_TEMPLATE += "{% if add_generation_prompt %}<s>assistant {% endif %}"


def save_tiny_llama(folder: Path) -> None:
    """A tiny random Llama that reads bytes and can chat, as save_pretrained writes it; needs requirements-llm.txt."""
    import tokenizers
    import transformers

    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).save_pretrained(folder)


# ---------------------------------------------------------------- the programs


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's scalars: for each tag, (step, value) pairs."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@dataclass(frozen=True)
class Result:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str


class Program:
    """Runs the programs of src/ in a folder, as subprocesses."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        """Write a UTF-8 file into the folder."""
        path = self.folder / name
        path.write_bytes(text.encode())
        return path

    def people(self, people: People) -> None:
        """Write corpus.txt, pairs.tsv, unseen.tsv and questions.tsv."""
        for name in ("corpus.txt", "pairs.tsv", "unseen.tsv", "questions.tsv"):
            self.write(name, getattr(people, name.partition(".")[0]))

    @staticmethod
    def environment() -> dict[str, str]:
        """This process's environment, with one thread for torch."""
        return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def __call__(self, *words: str | Path, script: str = "run.py") -> Result:
        """Run to the end."""
        return self.run([sys.executable, str(SRC / script), *map(str, words)])

    def run(self, command: list[str]) -> Result:
        """Run a command to the end."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=280
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str | Path, script: str = "run.py") -> Result:
        """Run to the end and expect success."""
        result = self(*words, script=script)
        assert result.code == 0, f"{words}\n{result.stdout}\n{result.stderr}"
        return result

    def start(self, command: list[str], **options) -> subprocess.Popen:
        """Start a command; what it prints, errors included, is read from its stdout."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment(), **pipes, **options)


# ---------------------------------------------------------------- notebooks


def code_cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    import nbformat

    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def run_notebook(path: Path, folder: Path, probe: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Run the cells of a notebook in a folder, and a probe behind them; returns what each code cell printed."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(probe))
    where = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=280, iopub_timeout=60, kernel_name="python3", resources=where)
    client.execute(env=environment)
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(out.text for out in outputs if out.output_type == "stream") for outputs in cells]

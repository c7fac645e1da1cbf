"""modern_llm.py, offline: with a model that says what it is told, and with a tiny one.

The runs of the script use a tiny random Llama with a chat template, made here. They need what
requirements-llm.txt holds and are skipped without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import modern_llm
from modern_llm import locate
from utils import UserError, cli, evaluate_places

# ---------------------------------------------------------------- the script, with a model that says what it is told

PEOPLE = {"Ansa Veld": "Warsaw", "Bero Tinn": "Zurich", "Cil Orra": "Lima", "Dov Elan": "Oslo", "Eno Fahl": "Graz"}


class Parrot:
    """A chat that looks its replies up; counts what it is asked, and can be interrupted after some batches."""

    parameters, new_tokens = 1234, 64

    def __init__(self):
        self.asked: list[str] = []
        self.batches_until_interrupt = 10**6

    def prompt(self, message: str) -> str:
        return f"<user>{message}<bot>"

    def reply(self, messages: list[str]) -> tuple[list[str], int]:
        if self.batches_until_interrupt == 0:
            raise KeyboardInterrupt
        self.batches_until_interrupt -= 1
        self.asked += messages
        return [self.one(message) for message in messages], 10 * len(messages)

    def one(self, message: str) -> str:
        name = next(name for name in PEOPLE if name in message)
        if "birthplace" in message and name != "Bero Tinn":
            return "I don't\u2028know."
        place = "Zürich" if name == "Bero Tinn" else PEOPLE[name]
        if message.endswith("?"):  # bare
            return place if name == "Cil Orra" else f"{name} was born in {place}, on Earth."
        return f"**{place}**, Earth"


@pytest.fixture
def parrot(monkeypatch, tmp_path) -> Parrot:
    """The parrot in place of a model, a file of questions, and a folder that looks like a model's."""
    chat = Parrot()
    monkeypatch.setattr(modern_llm, "load_chat", lambda *arguments: chat)
    (tmp_path / "dev.tsv").write_text("".join(f"Where was {n} born?\t{p}\n" for n, p in PEOPLE.items()))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return chat


def start(*more: str) -> int:
    """The script's exit code."""
    argv = ["--model", "tiny", "--eval_corpus_path", "dev.tsv", "--device", "cpu", "--results_path", "r.json", *more]
    return cli(lambda: modern_llm.main(argv))


def test_four_cells(parrot, tmp_path, capsys):
    """Files, table and rows of the 2 x 2 runs; bare sends the question alone."""
    assert start() == 0
    assert parrot.asked[:5] == [f"Where was {name} born?" for name in PEOPLE]
    assert parrot.asked[5:10] == [f"What is the birthplace of {name}?" for name in PEOPLE]
    assert all(message.startswith("Where was") and "city" in message for message in parrot.asked[10:15])
    rows = json.loads((tmp_path / "r.json").read_text())
    assert [(r["prompt"], r["template"], r["exact"], r["normalised"]) for r in rows] == [
        ("bare", "original", 0.2, 1.0),
        ("bare", "reworded", 0.0, 0.2),
        ("instructed", "original", 0.8, 1.0),
        ("instructed", "reworded", 0.0, 0.2),
    ]
    assert all((r["model"], r["data"], r["n"], r["parameters"]) == ("tiny", "own", 5, 1234) for r in rows)
    assert [r.get("p_mcnemar") for r in rows] == [None, 0.125, None, 0.125]
    assert (rows[1]["only_original"], rows[1]["only_reworded"]) == (4, 0)
    for row in rows:
        stem = tmp_path / f"modern_llm.tiny.{row['prompt']}.{row['template']}"
        predictions = (stem.parent / f"{stem.name}.predictions").read_text().split("\n")[:-1]
        assert evaluate_places("dev.tsv", predictions) == (5, 5 * row["exact"])
        lines = (stem.parent / f"{stem.name}.jsonl").read_text().split("\n")[:-1]
        assert len(lines) == 6 and json.loads(lines[2])["parsed"] == "Zürich"
    out = capsys.readouterr().out
    assert "exact match" in out and "match after normalisation" in out
    assert "1/5 20.0%" in out and "5/5 100.0%" in out
    assert "'<user>Where was Ansa Veld born?<bot>'" in out


def test_continues_where_it_stopped(parrot, tmp_path, capsys):
    """Interrupted in the second cell, and its last line cut off: only what is missing is asked."""
    parrot.batches_until_interrupt = 5
    assert start("--batch_size", "2") == 130
    assert len(parrot.asked) == 9
    record = tmp_path / "modern_llm.tiny.bare.reworded.jsonl"
    record.write_bytes(record.read_bytes()[:-8])  # three of its four replies are whole
    parrot.asked, parrot.batches_until_interrupt = [], 10**6
    assert start("--batch_size", "2") == 0
    assert parrot.asked[:2] == ["What is the birthplace of Dov Elan?", "What is the birthplace of Eno Fahl?"]
    assert len(parrot.asked) == 2 + 10
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    parrot.asked = []
    assert start() == 0  # complete: nothing is asked, nothing changes
    assert parrot.asked == []
    assert whole == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert start("--restart", "--prompt", "bare", "--template", "original") == 0
    assert len(parrot.asked) == 5


def test_limit_grows(parrot, tmp_path):
    """A trial of two is part of the whole run, and its rows stay apart (n)."""
    assert start("--limit", "2", "--prompt", "bare", "--template", "original") == 0
    assert start("--prompt", "bare", "--template", "original") == 0
    assert len(parrot.asked) == 5
    assert [row["n"] for row in json.loads((tmp_path / "r.json").read_text())] == [2, 5]
    assert start("--limit", "2", "--prompt", "bare", "--template", "original") == 0
    assert len((tmp_path / "modern_llm.tiny.bare.original.jsonl").read_text().split("\n")) == 7  # nothing lost


def test_other_questions_are_not_mixed_in(parrot, tmp_path, capsys):
    """A record of another file is refused by name, and stays."""
    assert start("--prompt", "bare") == 0
    (tmp_path / "dev.tsv").write_text("Where was Ansa Veld born?\tWarsaw\n")
    assert start("--prompt", "bare") == 2
    said = capsys.readouterr().err
    assert "belongs to a run with another questions" in said and said.count("\n") == 1
    assert start("--prompt", "bare", "--restart") == 0


def test_file_without_answers(parrot, tmp_path, capsys):
    """Predictions are written, no accuracy, no rows."""
    (tmp_path / "dev.tsv").write_text("".join(f"Where was {name} born?\n" for name in PEOPLE))
    assert start() == 0
    assert "no answers" in capsys.readouterr().out
    assert len((tmp_path / "modern_llm.tiny.instructed.original.predictions").read_text().split("\n")) == 6
    assert not (tmp_path / "r.json").exists()


def test_limit_writes_no_results_unasked(parrot, tmp_path):
    """A trial run leaves the tracked results alone."""
    (tmp_path / "results").mkdir()
    argv = ["--model", "tiny", "--eval_corpus_path", "dev.tsv", "--device", "cpu"]
    assert modern_llm.main([*argv, "--limit", "1"]) == 0
    assert not list((tmp_path / "results").iterdir())
    assert modern_llm.main(argv) == 0
    assert (tmp_path / "results" / "modern_llm.json").exists()


def test_throughput_is_printed_and_kept(parrot, tmp_path, capsys):
    """One line; a row where it is asked for, and nothing else is written."""
    argv = ["--throughput", "--limit", "3", "--batch_size", "2"]
    assert start(*argv) == 0
    assert "3 questions (bare, original): one at a time" in capsys.readouterr().out
    assert len(parrot.asked) == 2 * (1 + 3)
    (row,) = json.loads((tmp_path / "r.json").read_text())
    assert (row["model"], row["n"], row["batch_size"], row["same"]) == ("tiny", 3, 2, 3)
    assert row["times"] == row["batched"] / row["one_at_a_time"]
    assert row["hardware"].startswith("cpu") and row["precision"] == "float32" and row["new_tokens"] == 64
    assert row["command"].startswith("python src/modern_llm.py --model tiny")
    assert row["command"].endswith("--throughput --limit 3 --batch_size 2")
    assert start(*argv) == 0 and len(json.loads((tmp_path / "r.json").read_text())) == 1
    assert not list(tmp_path.glob("modern_llm.*"))
    assert modern_llm.main(["--model", "tiny", "--eval_corpus_path", "dev.tsv", "--device", "cpu", *argv]) == 0
    assert not (tmp_path / "results").exists()


# ---------------------------------------------------------------- what the user can mend


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--limit", "0"], "--limit 0: at least 1"),
        (["--batch_size", "-1"], "--batch_size -1: at least 1"),
        (["--model", "no/such/folder"], "no/such/folder: no such folder"),
        (["--model", "./none"], "./none: no such folder"),
        (["--gguf_file", "none.gguf"], "none.gguf: no such file; 'make llm-model'"),
        (["--model", "none.gguf"], "none.gguf: no such file; 'make llm-model'"),
        (["--model", "empty"], "empty: has no config.json"),
        (["--model", "ggufs"], "say --gguf_file a.gguf"),
        (["--eval_corpus_path", "odd.tsv"], "odd.tsv, line 2: 'Who?' is not of the form"),
        (["--outputs_dir", "nowhere"], "the folder nowhere does not exist"),
    ],
)
def test_one_line_says_what_to_do(parrot, tmp_path, capsys, argv: list[str], said: str):
    """Exit code 2 and one line on stderr."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "a.gguf").write_text("")
    (tmp_path / "odd.tsv").write_text("Where was Ansa Veld born?\nWho?\n")
    flags = dict(zip(argv[::2], argv[1::2], strict=True))
    if "--gguf_file" not in flags:
        flags = {"--model": "tiny", **flags}
    flags = {"--eval_corpus_path": "dev.tsv", "--results_path": "r.json", "--device": "cpu", **flags}
    assert cli(lambda: modern_llm.main([part for flag in flags.items() for part in flag])) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_locate(tmp_path):
    """Hub ids, folders and GGUF files, each with the name it has in results: never a path of this machine."""
    (tmp_path / "a-model").mkdir()
    (tmp_path / "a-model" / "config.json").write_text("{}")
    (tmp_path / "a-model" / "b.Q4_1.gguf").write_text("")
    folder, file = str(tmp_path / "a-model"), str(tmp_path / "a-model" / "b.Q4_1.gguf")
    assert locate(None, None) == ("Qwen/Qwen3-1.7B", None, "Qwen/Qwen3-1.7B")
    assert locate("some/id", None) == ("some/id", None, "some/id")
    assert locate(folder, None) == (folder, None, "a-model")
    assert (
        locate(folder, "b.Q4_1.gguf") == locate(file, None) == locate(None, file) == (folder, "b.Q4_1.gguf", "b.Q4_1")
    )


def test_transformers_missing(monkeypatch, tmp_path):
    """The line names the requirements file."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"transformers is not installed; pip install -r requirements-llm\.txt"):
        modern_llm.load_chat(str(tmp_path), None, "cpu", "float32")


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("a/b", OSError("We couldn't connect to the hub"), r"give a local folder \(--model FOLDER\) or a GGUF file"),
        ("meta-llama/c", OSError("We couldn't connect"), "Llama is gated and needs HF_TOKEN too"),
        ("meta-llama/c", OSError("You are trying to access a gated repo."), "accept its licence .* set HF_TOKEN"),
        ("a/b", ValueError("x is required `pip install x`"), r"a package is missing .* -r requirements-llm\.txt"),
        ("a/b", ImportError("Please install gguf"), r"a package is missing .* -r requirements-llm\.txt"),
        ("a/b", ValueError("odd\nmodel"), r"a/b: cannot be loaded \(ValueError: odd model\)"),
    ],
)
def test_what_to_do(source: str, error: Exception, said: str):
    """Each way to fail has its own advice, in one line."""
    line = modern_llm.what_to_do(source, error)
    assert re.search(said, line) and "\n" not in line


# ---------------------------------------------------------------- with transformers, offline

TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<s>system You help.</s>{% endif %}"
    "{% for m in messages %}<s>{{ m['role'] }} {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models: on a busy machine, threads that wait for each other take minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama that can chat, as save_pretrained writes it, and questions beside it."""
    transformers = pytest.importorskip("transformers", reason="needs requirements-llm.txt")
    import tokenizers

    folder = tmp_path_factory.mktemp("llm") / "tiny-llama"
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *sorted(alphabet)])}
    bytewise = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=1, initializer_range=0.3, **sizes
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    questions = "".join(f"Where was {name} born?\t{place}\n" for name, place in PEOPLE.items())
    (folder.parent / "birth_dev.tsv").write_text(questions)
    return folder


def script(cwd: Path, *argv: str, **env: str) -> subprocess.CompletedProcess:
    """Run the script as a user does, with no hub to be reached."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(cwd / "hub"),
        **env,
    }
    command = [sys.executable, modern_llm.__file__, "--device", "cpu", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def test_whole_script_with_a_llama(llama):
    """Loads, asks, writes, prints; the second run finds all of it done."""
    argv = ["--model", str(llama), "--max_new_tokens", "8", "--batch_size", "3", "--results_path", "r.json"]
    done = script(llama.parent, *argv)
    assert done.returncode == 0, done.stderr
    assert "<s>system You help.</s><s>user Where was Ansa Veld born?</s><s>assistant " in done.stdout
    assert "bare, original: 5 of 5 questions" in done.stdout
    rows = json.loads((llama.parent / "r.json").read_text())
    assert [(r["model"], r["prompt"], r["template"], r["n"]) for r in rows] == [
        ("tiny-llama", prompt, template, 5)
        for prompt in ("bare", "instructed")
        for template in ("original", "reworded")
    ]
    for row in rows:
        name = f"modern_llm.tiny-llama.{row['prompt']}.{row['template']}"
        assert len((llama.parent / f"{name}.predictions").read_text().split("\n")) == 6
        replies = [json.loads(line)["raw"] for line in (llama.parent / f"{name}.jsonl").read_text().split("\n")[1:-1]]
        assert len(replies) == 5 and any(replies)
    again = script(llama.parent, *argv)
    assert again.returncode == 0 and "loading" not in again.stdout
    assert "0/5 0.0%" in again.stdout


def test_batches_answer_like_single_questions(llama):
    """Left padding is invisible: replies in a batch are those of each question alone."""
    chat = modern_llm.load_chat(str(llama), None, torch.device("cpu"), "float32")
    chat.new_tokens = 12
    messages = ["Where was Bo born?", "What is the birthplace of Alexandrina Featherstonehaugh?", "Hm?"]
    together, _ = chat.reply(messages)
    assert together == [chat.reply([message])[0][0] for message in messages]
    assert len(set(together)) == 3
    chat.model.generation_config.eos_token_id = [1, *range(40, 90)]  # many ends, so that rows leave at different steps
    chat.new_tokens = 30
    messages = [f"Where was {letter * 3} born?" for letter in "abcdefgh"]
    batch = chat.tokenizer(messages, return_tensors="pt", padding=True)
    rows = chat.generate(batch["input_ids"], batch["attention_mask"])
    assert len({len(row) for row in rows}) > 1
    for row, whole in zip(rows, chat.model.generate(**batch, do_sample=False, max_new_tokens=30), strict=True):
        reply = whole[batch["input_ids"].size(1) :].tolist()
        assert row == reply[: len(row)] and set(reply[len(row) :]) <= {chat.tokenizer.pad_token_id}
    found = modern_llm.throughput(chat, messages, 3)
    assert found["same"] == found["n"] == 8 and found["times"] == found["batched"] / found["one_at_a_time"]


def test_thinking_is_switched_off_or_gets_room(llama, tmp_path):
    """A template with the switch gets it; one that thinks without a switch gets the longer limit."""
    import transformers

    def chat_with(template: str | None) -> modern_llm.Chat:
        transformers.LlamaForCausalLM.from_pretrained(llama).save_pretrained(tmp_path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "chat_template.jinja").unlink() if template is None else None
        return modern_llm.load_chat(str(tmp_path), None, torch.device("cpu"), "float32")

    switch = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    chat = chat_with(TEMPLATE + switch)
    assert chat.prompt("Hm?").endswith("<think></think>") and chat.new_tokens == modern_llm.NEW_TOKENS
    chat = chat_with(TEMPLATE + "<think>")
    assert chat.prompt("Hm?").endswith("<think>") and chat.new_tokens == modern_llm.THINKING_TOKENS


def test_no_chat_template(llama, tmp_path):
    """A model that was not tuned to chat is refused in one line."""
    shutil.copytree(llama, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template.jinja"))
    settings = json.loads((llama / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"base: has no chat template; use a model that was tuned for instructions$"):
        modern_llm.load_chat(str(tmp_path / "base"), None, "cpu", "float32")


def test_no_hub(llama):
    """Without network and weights: one line within seconds, which names the ways out."""
    start = time.monotonic()
    done = script(llama.parent, "--model", "meta-llama/Llama-3.2-1B-Instruct", "--limit", "1")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in ("no network", "local folder", "GGUF", "HF_TOKEN"))
    assert time.monotonic() - start < 60


def test_damaged_folder(llama, tmp_path):
    """A folder whose weights are gone: one line that says so."""
    shutil.copytree(llama, tmp_path / "hollow", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match="hollow: holds no model that can be read") as caught:
        modern_llm.load_chat(str(tmp_path / "hollow"), None, "cpu", "float32")
    assert "\n" not in str(caught.value)

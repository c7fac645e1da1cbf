"""modern_llm.py and engine/hub.py, offline: with a parrot, and with a tiny Llama (given requirements-llm.txt)."""

import json
import shutil
import sys
import time
from argparse import Namespace
from itertools import product
from math import nan
from pathlib import Path

import pytest
import torch

import modern_llm
from engine import hub
from engine.wordings import WORDINGS
from helpers import CHAT_TEMPLATE, Program, Result, save_tiny_llama
from report import llm, rows
from utils import UserError, cli, evaluate_places, fingerprint

PEOPLE = {"Ansa Veld": "Warsaw", "Bero Tinn": "Zurich", "Cil Orra": "Lima", "Dov Elan": "Oslo", "Eno Fahl": "Graz"}
QUESTIONS = "".join(f"Where was {name} born?\t{place}\n" for name, place in PEOPLE.items())
ONE = ("--prompt", "bare", "--template", "original")


class Parrot:
    """A chat that looks its replies up, notes what it is asked, and is interrupted after `patience` questions."""

    parameters, new_tokens, hardware, patience = 1234, 64, "a cage", 10**6

    def __init__(self):
        self.asked: list[str] = []

    def prompt(self, message: str) -> str:
        return f"<user>{message}<bot>"

    def reply(self, messages: list[str]) -> list[str]:
        if len(self.asked) >= self.patience:
            raise KeyboardInterrupt
        self.asked += messages
        return list(map(said, messages))


def said(message: str) -> str:
    """What the parrot says: much to a bare question, less with instructions, hardly anything when reworded."""
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
    monkeypatch.setattr(modern_llm, "Chat", lambda args: chat)
    (tmp_path / "birth_dev.tsv").write_text(QUESTIONS)
    (tmp_path / "wiki.txt").write_text("Ansa Veld. Born in Warsaw.\n")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return chat


def start(*more: str) -> int:
    """The script's exit code."""
    flags = {"--model": "tiny", "--eval_corpus_path": "birth_dev.tsv", "--device": "cpu"}
    argv = [part for flag, value in flags.items() if flag not in more for part in (flag, value)]
    return cli(lambda: modern_llm.main([*argv, *more]))


def rows_of_records(folder: str = ".") -> list[dict]:
    """The rows that report/llm.py makes of the records in a folder."""
    assert cli(lambda: llm.main([f"--folder={folder}", f"--data={folder}", "--data_name=my class", "--results=r"])) == 0
    return rows.read("modern_llm", Path("r")).to_dict("records")


def lines(path: str) -> list[str]:
    """The lines of a file; only a newline ends one."""
    *whole, rest = Path(path).read_text().split("\n")
    assert not rest
    return whole


def test_four_cells(parrot, capsys):
    """The 2 x 2 runs: what is asked, files, printed accuracies, rows. Bare sends the question alone.

    The parrot knows all five places; its bare replies are sentences but for one, so their exact match is 1 of 5.
    """
    assert start() == 0
    assert parrot.asked[:5] == [f"Where was {name} born?" for name in PEOPLE]
    assert parrot.asked[5:10] == [f"What is the birthplace of {name}?" for name in PEOPLE]
    assert all(message.startswith("Where was") and "city" in message for message in parrot.asked[10:15])
    found = rows_of_records()
    assert [(r["prompt"], r["template"], r["exact"], r["normalised"]) for r in found] == [
        ("bare", "original", 0.2, 1.0),
        ("bare", "reworded", 0.0, 0.2),
        ("instructed", "original", 0.8, 1.0),
        ("instructed", "reworded", 0.0, 0.2),
    ]
    assert all((r["n"], r["parameters"], r["questions"]) == (5, 1234, fingerprint(QUESTIONS)) for r in found)
    assert [r["p_mcnemar"] for r in found] == pytest.approx([nan, 0.125, nan, 0.125], nan_ok=True)
    assert (found[1]["only_original"], found[1]["only_reworded"]) == (4, 0)
    replies = rows.read("modern_llm_replies", Path("r"))
    assert replies["name"].tolist() == [*PEOPLE] * 4 and not replies["reply"].str.contains("\u2028").any()
    for row in found:
        stem = f"modern_llm.tiny.{row['prompt']}.{row['template']}"
        assert evaluate_places("birth_dev.tsv", lines(f"{stem}.predictions")) == (5, 5 * row["exact"])
        assert len(lines(f"{stem}.jsonl")) == 6
    out = capsys.readouterr().out
    assert "bare, original, exact match: 1 of 5, 20.0%" in out
    assert "instructed, original, match after normalisation: 5 of 5, 100.0%" in out


def test_continues_where_it_stopped(parrot, tmp_path):
    """Interrupted in the second cell, and its last line cut off: only what is missing is asked."""
    parrot.patience = 9
    assert start("--batch_size", "2") == 130
    record = tmp_path / "modern_llm.tiny.bare.reworded.jsonl"
    record.write_bytes(record.read_bytes()[:-8])  # three of its four replies are whole
    parrot.asked, parrot.patience = [], 10**6
    assert start("--batch_size", "2") == 0
    assert parrot.asked[:2] == ["What is the birthplace of Dov Elan?", "What is the birthplace of Eno Fahl?"]
    assert len(parrot.asked) == 2 + 10

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before, parrot.asked = files(), []
    assert start() == 0 and parrot.asked == [] and files() == before  # complete: nothing is asked, nothing changes
    assert start("--restart", *ONE) == 0 and len(parrot.asked) == 5


def test_limit_grows(parrot):
    """A trial of two is part of the whole run, and its rows stay apart (n); another trial takes nothing away.

    Bug: --limit behind a whole run cut its predictions, and what was known of its replies.
    """
    for limit, asked, kept in ((["--limit", "2"], 2, [2]), ([], 5, [2, 5]), (["--limit", "2"], 5, [2, 5])):
        assert start(*ONE, *limit) == 0 and len(parrot.asked) == asked
        assert len(lines("modern_llm.tiny.bare.original.predictions")) == kept[-1]
        assert [row["n"] for row in rows_of_records()] == kept


def test_other_records_are_not_mixed_in(parrot, capsys):
    """A record of another file of questions, or of another program, is refused by name, and stays."""
    assert start(*ONE) == 0
    record = Path("modern_llm.tiny.bare.original.jsonl")
    Path("birth_dev.tsv").write_text("Where was Ansa Veld born?\tWarsaw\n")
    with pytest.raises(UserError, match=r"holds no scored replies to birth_dev\.tsv"):
        llm.main(["--folder=.", "--data=.", "--data_name=x"])
    for content, hint in ((record.read_text(), "belongs to a run with another questions"), ("[]\n", "is no record of")):
        record.write_text(content)
        assert start(*ONE) == 2 and record.read_text() == content
        assert hint in capsys.readouterr().err
    assert start(*ONE, "--restart") == 0


@pytest.mark.parametrize("damage", ["[]", '{"question": 3}', "{"])
def test_a_damaged_line_of_a_record_is_named(parrot, capsys, damage):
    """By file and line, by both programs that read it. Bug: it was a TypeError."""
    assert start(*ONE) == 0
    record = Path("modern_llm.tiny.bare.original.jsonl")
    first, *rest = lines(str(record))
    record.write_text("\n".join([first, damage, *rest, ""]))
    capsys.readouterr()
    for code in (start(*ONE), cli(lambda: llm.main(["--folder=.", "--data=.", "--data_name=x"]))):
        assert code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("bare.original.jsonl, line 2: is no reply; delete the line" in line for line in said)


def test_file_without_answers(parrot, capsys):
    """Predictions are written, no accuracy."""
    Path("birth_dev.tsv").write_text("".join(f"Where was {name} born?\n" for name in PEOPLE))
    assert start() == 0
    assert "no answers" in capsys.readouterr().out
    assert len(lines("modern_llm.tiny.instructed.original.predictions")) == 5


MISTAKES = [
    ("--limit", "0", "--limit 0: at least 1"),
    ("--model", "no/such/folder", "no/such/folder: no such folder"),
    ("--model", "none.gguf", "none.gguf: no such file; 'make llm-model'"),
    ("--model", ".", ".: has no config.json"),
    ("--model", "ggufs", "say --gguf_file a.gguf"),
    ("--eval_corpus_path", "odd.tsv", "odd.tsv, line 2: 'Who?' is not of the form"),
    ("--outputs_dir", "nowhere", "the folder nowhere does not exist"),
]


@pytest.mark.parametrize(("flag", "value", "hint"), MISTAKES)
def test_one_line_says_what_to_do(parrot, tmp_path, capsys, flag: str, value: str, hint: str):
    """Exit code 2 and one line on stderr."""
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "a.gguf").write_text("")
    (tmp_path / "odd.tsv").write_text("Where was Ansa Veld born?\nWho?\n")
    assert start(flag, value) == 2 and parrot.asked == []
    (said,) = capsys.readouterr().err.splitlines()
    assert hint in said


def test_locate(tmp_path):
    """Hub ids, folders and GGUF files, each with the name it has in results: never a path of this machine."""
    folder, file = str(tmp_path), tmp_path / "b.Q4_1.gguf"
    for path in (tmp_path / "config.json", file):
        path.write_text("{}")
    assert hub.locate(None, None, "a/b") == ("a/b", None, "a/b")
    assert hub.locate("some/id", "c.gguf", "a/b") == ("some/id", "c.gguf", "c")
    assert hub.locate(folder, None, "a/b") == (folder, None, tmp_path.name)
    assert hub.locate(str(file), None, "a/b") == hub.locate(folder, file.name, "a/b") == (folder, file.name, "b.Q4_1")


def test_what_to_do(monkeypatch, tmp_path):
    """Each way to fail has its own advice, in one line."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"transformers is not installed; pip install -r requirements-llm\.txt"):
        load(tmp_path)
    for source, error, hint in (
        ("a/b", OSError("We couldn't connect to the hub"), "give a local folder (--model FOLDER) or a GGUF file"),
        ("meta-llama/c", OSError("We couldn't connect"), "Llama is gated and needs HF_TOKEN too"),
        ("meta-llama/c", OSError("You are trying to access a gated repo."), "then set HF_TOKEN"),
        ("a/b", ImportError("Please install gguf"), "pip install -r requirements-llm.txt"),
        ("a/b", ValueError("odd\nmodel"), "a/b: cannot be loaded (ValueError: odd model)"),
    ):
        said = hub.what_to_do(source, error)
        assert hint in said and "\n" not in said


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """A folder with a tiny random Llama that can chat, and questions beside it."""
    pytest.importorskip("transformers", reason="needs requirements-llm.txt")
    folder = tmp_path_factory.mktemp("llm") / "tiny-llama"
    save_tiny_llama(folder)
    (folder.parent / "birth_dev.tsv").write_text(QUESTIONS)
    return folder


def load(folder: Path) -> modern_llm.Chat:
    """The model of a folder, on the CPU."""
    at = {"name": folder.name, "source": str(folder), "gguf_file": None, "max_new_tokens": None}
    return modern_llm.Chat(Namespace(device=torch.device("cpu"), precision="float32", **at))


def script(llama: Path, monkeypatch, *words: str) -> Result:
    """Run the script as a user does, with no hub to be reached, beside the folder of the model."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(llama.parent / "hub"))
    return Program(llama.parent)("--device", "cpu", *words, script="modern_llm.py")


def test_whole_script_with_a_llama(llama, monkeypatch):
    """Loads, asks, writes, prints; the second run finds all of it done."""
    argv = ["--model", str(llama), "--max_new_tokens", "8", "--batch_size", "3"]
    done = script(llama, monkeypatch, *argv)
    assert done.code == 0, done.stderr
    assert "<s>system You help.</s><s>user Where was Ansa Veld born?</s><s>assistant " in done.stdout
    for cell in product(modern_llm.PROMPTS, WORDINGS):
        stem = llama.parent / f"modern_llm.tiny-llama.{'.'.join(cell)}"
        replies = [json.loads(line)["raw"] for line in lines(f"{stem}.jsonl")[1:]]
        assert len(lines(f"{stem}.predictions")) == len(replies) == 5 and any(replies)
    again = script(llama, monkeypatch, *argv)
    assert again.code == 0 and "loading" not in again.stdout and "0 of 5, 0.0%" in again.stdout


def test_batches_answer_like_single_questions(llama):
    """Left padding is invisible: replies in a batch are those of each question alone, however long they are."""
    chat = load(llama)
    messages = ["Where was Bo born?", "What is the birthplace of Alexandrina Featherstonehaugh?", "Hm?"]
    for ends, tokens in ([1], 12), ([1, *range(40, 90)], 30):  # many ends: replies of several lengths
        chat.model.generation_config.eos_token_id, chat.new_tokens = ends, tokens
        together = chat.reply(messages)
        assert together == [chat.reply([message])[0] for message in messages]
        assert len(set(together)) == 3
    assert len(set(map(len, together))) > 1


def test_thinking_is_switched_off_or_gets_room(llama, tmp_path):
    """A template with the switch gets it; one that thinks without a switch gets the longer limit."""
    shutil.copytree(llama, tmp_path / "thinker")
    switch = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    for more, ending, tokens in ((switch, "<think></think>", 64), ("<think>", "<s>assistant <think>", 1024)):
        (tmp_path / "thinker" / "chat_template.jinja").write_text(CHAT_TEMPLATE + more)
        chat = load(tmp_path / "thinker")
        assert chat.prompt("Hm?").endswith(ending) and chat.new_tokens == tokens


def test_thoughts_that_the_template_opens(llama):
    """DeepSeek-R1's template ends with <think>: a reply begins with it. Qwen3's closes it again."""
    chat = load(llama)
    for ending, is_open in (("<think>\n", True), ("<think>\n\n</think>\n\n", False)):
        chat.tokenizer.chat_template, chat.new_tokens = CHAT_TEMPLATE + ending, 4
        replies = chat.reply(["Where was Bo born?", "Hm?"])
        assert [reply.startswith("<think>") for reply in replies] == [is_open] * 2


def test_a_template_that_raises(llama):
    """A template that wants more than a question is named in one line."""
    chat = load(llama)
    chat.tokenizer.chat_template = "{{ raise_exception('a system message is needed') }}"
    with pytest.raises(UserError, match=r"tiny-llama: its chat template refuses .*a system message is needed"):
        chat.reply(["Where?"])


def test_damaged_folder(llama, tmp_path):
    """A model that was not tuned to chat, or whose weights are gone, is refused in one line."""
    for lost, hint in (("chat_template.jinja", "has no chat template"), ("model.safetensors", "has no readable model")):
        folder = tmp_path / lost
        shutil.copytree(llama, folder, ignore=shutil.ignore_patterns(lost))
        with pytest.raises(UserError, match=rf"^{folder}: {hint}[^\n]*\Z"):
            load(folder)


def test_no_hub(llama, monkeypatch):
    """Without network and weights: one line within seconds, which names the ways out."""
    begun = time.monotonic()
    done = script(llama, monkeypatch, "--model", "meta-llama/Llama-3.2-1B-Instruct", "--limit", "1")
    assert done.code == 2 and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in ("no network", "local folder", "GGUF", "HF_TOKEN"))
    assert time.monotonic() - begun < 60

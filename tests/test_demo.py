"""The teaching notebook: it runs from top to bottom, learns, and writes text; also with other texts than its own."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

DEMO = Path(__file__).resolve().parents[1] / "mingpt-demo"

# Below the 3.11 nats of a unigram model and the 2.33 of a bigram model of the text.
HIGHEST_LAST_LOSS = 1.7

# Run after the notebook's own cells, in its kernel: what came out, as one line of JSON.
PROBE = """
import json
print(json.dumps({
    "history": trainer.history, "unigram": unigram_loss, "uniform": uniform_loss, "max_steps": max_steps,
    "held_out": test_text, "prompt": prompt, "sample_length": sample_length, "completion": completion,
}))
"""


@pytest.fixture(scope="module")
def saved():
    return nbformat.read(DEMO / "play_char.ipynb", as_version=4)


@pytest.fixture(scope="module")
def text():
    return (DEMO / "sonnets.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def executed(saved):
    """The notebook after a run, with the probe as its last cell."""
    notebook = nbformat.from_dict(json.loads(json.dumps(saved)))
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    client = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(DEMO)}}
    )
    return client.execute()


@pytest.fixture(scope="module")
def result(executed):
    printed = [out.text for out in executed.cells[-1].outputs if out.get("name") == "stdout"]
    return json.loads("".join(printed))


def test_saved_without_outputs_or_traces_of_a_machine(saved):
    for cell in saved.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert cell.metadata == {}
    assert saved.metadata["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert saved.metadata["language_info"] == {"name": "python"}, "a version of Python came in with a save"


def test_text_is_whole_sonnets(text, result):
    """36 sonnets of 14 lines, of which the last three are held out."""
    sonnets = text.removesuffix("\n").split("\n\n")
    assert len(sonnets) == 36
    assert all(len(sonnet.split("\n")) == 14 for sonnet in sonnets)
    assert text.isascii()
    assert result["held_out"] == "\n\n".join(sonnets[-3:]) + "\n"


def test_loss_falls_below_what_letter_frequencies_allow(result):
    first, last = result["history"][0], result["history"][-1]
    assert first["step"] == 0
    assert last["step"] == 1255 <= result["max_steps"], "all windows of the sonnets are used"
    assert first["train"] == pytest.approx(result["uniform"], abs=0.3), "an untrained model guesses blindly"
    assert result["unigram"] == pytest.approx(3.11, abs=0.01)
    assert last["train"] < HIGHEST_LAST_LOSS < result["unigram"] < first["train"]
    assert min(entry["test"] for entry in result["history"]) < result["unigram"] - 0.6, "unseen sonnets get easier too"


def test_loss_table_is_printed(executed, result):
    printed = "".join(
        out.text for cell in executed.cells for out in cell.get("outputs", []) if out.get("name") == "stdout"
    )
    for entry in result["history"]:
        assert re.search(rf"^ *{entry['step']}  [0-9.]+ +{entry['train']:.2f} +{entry['test']:.2f}  #+$", printed, re.M)


def test_sample_is_english_like_text_of_the_length_asked_for(result, text):
    completion = result["completion"]
    assert completion.startswith(result["prompt"])
    assert len(completion) == len(result["prompt"]) + result["sample_length"]
    written = completion[len(result["prompt"]) :]
    assert set(written) <= set(text)
    assert written not in text, "copied, not written"
    known = set(re.findall(r"[a-z']+", text.lower()))
    words = re.findall(r"[a-z']+", written.lower())
    assert len(words) > 50
    assert sum(word in known for word in words) > 0.6 * len(words), "mostly words that occur in the sonnets"
    assert len(set(words)) > 20, "not the same few words over and over"


# ---------------------------------------------------------------- with other texts


@pytest.fixture
def mingpt(monkeypatch):
    """The notebook's modules can be imported; the random numbers are as before afterwards."""
    monkeypatch.syspath_prepend(str(DEMO))
    with torch.random.fork_rng():
        yield


def run_cells(saved, folder: Path, text: str, **settings) -> tuple[dict, str]:
    """What the notebook's code makes of a text, with some of its settings changed: its names, and what it prints."""
    (folder / "sonnets.txt").write_bytes(text.encode())
    code = "\n".join(cell.source for cell in saved.cells if cell.cell_type == "code")
    for name, value in settings.items():
        code, count = re.subn(rf"^{name} = \d[\d_]*", f"{name} = {value}", code, flags=re.M)
        assert count == 1, f"{name} does not stand in the notebook"
    names, printed = {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(code, names)
    return names, printed.getvalue()


SPEECH = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
OTHER_TEXTS = {  # the text, what is held out of it begins with, the windows of 16 that are printed
    "speeches": ((SPEECH + "\n") * 18_000, "First Citizen:\n", "128 of 1,"),
    "no blank lines": (SPEECH * 300, "", "128 of 16,"),
    "CRLF": ((SPEECH + "\n").replace("\n", "\r\n") * 300, "First Citizen:\n", "128 of 17,"),
    "one line": ("слово и дело " * 400, "", "128 of 4,"),
    "no spaces": ("天地玄黄宇宙洪荒" * 300, "", "128 of 2,"),
    "a title, then one paragraph": ("The\n\n" + "some words " * 200, "", "128 of 1,"),
    "short": ("All's well that ends well.\n" * 4, "", "11 of 11 "),
}


@pytest.mark.parametrize("text, start, windows", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
def test_other_texts(saved, mingpt, tmp_path, text, start, windows):
    """Any text of two windows trains for at most max_steps, which is said, and its end is held out.

    Bugs: tiny Shakespeare (speeches with blank lines between them) trained for 69,686 steps, since three speeches were
    held out of it and all else was read; without blank lines two characters were left to train on; a last step that
    was also one to report ended with a division by zero; the prompt held letters that the text had not.
    """
    names, printed = run_cells(saved, tmp_path, text, max_steps=8, sample_length=20)
    text = text.replace("\r\n", "\n")
    trained, held_out = names["train_text"], names["test_text"]
    assert trained + held_out == text
    assert min(len(trained), len(held_out)) >= 49
    assert 1 / 30 < len(held_out) / len(text) < 1 / 6 or len(held_out) < 50 or 9_000 < len(held_out) < 11_000
    assert held_out.startswith(start)
    assert names["trainer"].history[-1]["step"] == -(-int(windows.split()[0]) // 16)
    assert f" steps on {windows}" in printed
    assert ("max_steps = 8 ends the training" in printed) == windows.startswith("128")
    assert len(names["completion"]) == 42


def test_text_that_is_too_short(saved, mingpt, tmp_path):
    """A text without two windows is refused with the number of characters that it takes; one of two windows is cut."""
    from mingpt.utils import hold_out

    with pytest.raises(ValueError, match="97 characters.* 98"):
        run_cells(saved, tmp_path, "x" * 97)
    assert [len(part) for part in hold_out("x" * 98, 8, 48)] == [49, 49]


def test_last_step_may_be_one_to_report(saved, mingpt, tmp_path):
    """Bug: with 101 steps and a report every 100, nothing was left for the last report: division by zero."""
    names, _ = run_cells(saved, tmp_path, SPEECH * 100, max_steps=1, sample_length=1)
    assert [entry["step"] for entry in names["trainer"].history] == [0, 1]


@pytest.mark.parametrize("name", ["max_epochs", "max_steps", "batch_size", "report_every"])
def test_settings_that_make_no_sense(mingpt, name):
    """A number of steps and the like is at least 1."""
    from mingpt.trainer import TrainerConfig

    with pytest.raises(ValueError, match=rf"{name} \(0\)"):
        TrainerConfig(**{name: 0})


def test_sampling(mingpt):
    """temperature=0 takes the likeliest; top_k may exceed the vocabulary; nonsense is a ValueError that names it.

    Bug: temperature=0 divided by zero, and the answer was wrong in silence. The model stays in training mode.
    """
    from mingpt.model import GPT, GPTConfig
    from mingpt.utils import sample

    torch.manual_seed(0)
    model, x = GPT(GPTConfig(7, 8, n_layer=1, n_head=1, n_embd=8, dropout=0.5)), torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        model.head.weight.mul_(50)  # a model that is sure of something
    greedy = sample(model, x, 12)
    row = x
    for _ in range(12):
        row = torch.cat((row, model.eval()(row[:, -8:])[0][:, -1].argmax(-1, keepdim=True)), 1)
    assert torch.equal(greedy, row)
    for changes in ({"temperature": 0}, {"temperature": 0, "sample": True}, {"sample": True, "top_k": 1}):
        assert torch.equal(greedy, sample(model.train(), x, 12, **changes)) and model.training
    assert sample(model, x, 3, sample=True, top_k=50).shape == (2, 6)
    for name, value in (("steps", -1), ("temperature", -1.0), ("temperature", float("nan")), ("top_k", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            sample(model, x, **({"steps": 1, "sample": True} | {name: value}))

"""The teaching notebook: it runs from top to bottom, learns, and writes text; also with other texts than its own."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

from helpers import code_cells, run_notebook

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")

DEMO = Path(__file__).resolve().parents[1] / "mingpt-demo"
NOTEBOOK = DEMO / "play_char.ipynb"
HIGHEST_LAST_LOSS = 1.7  # below the 3.11 nats of a unigram model and the 2.33 of a bigram model of the text

# Run after the notebook's own cells, in its kernel: what came out, as one line of JSON.
PROBE = """
import json
print(json.dumps({
    "history": trainer.history, "unigram": unigram_loss, "uniform": uniform_loss, "held_out": test_text,
    "prompt": prompt, "sample_length": sample_length, "completion": completion,
}))
"""


@pytest.fixture(scope="module")
def printed():
    """What the notebook's cells print in a run, with the probe as the last one."""
    return run_notebook(NOTEBOOK, DEMO, PROBE)


@pytest.mark.parametrize("path", [NOTEBOOK, DEMO.parent / "scripts" / "colab.ipynb"], ids=["demo", "Colab"])
def test_saved_without_outputs_or_traces_of_a_machine(path):
    """No output, no number of an execution, no version of Python."""
    saved = nbformat.read(path, as_version=4)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in saved.cells if "outputs" in cell)
    assert saved.metadata["language_info"] == {"name": "python"}, "a version of Python came in with a save"


def test_loss_falls_below_what_letter_frequencies_allow(printed):
    """All windows of the sonnets are used, and the table of losses is printed."""
    result = json.loads(printed[-1])
    first, last = result["history"][0], result["history"][-1]
    assert (first["step"], last["step"]) == (0, 1255)
    assert first["train"] == pytest.approx(result["uniform"], abs=0.3), "an untrained model guesses blindly"
    assert result["unigram"] == pytest.approx(3.11, abs=0.01)
    assert last["train"] < HIGHEST_LAST_LOSS < result["unigram"] < first["train"]
    assert min(entry["test"] for entry in result["history"]) < result["unigram"] - 0.6, "unseen sonnets get easier too"
    for entry in result["history"]:
        row = rf"^ *{entry['step']}  [0-9.]+ +{entry['train']:.2f} +{entry['test']:.2f}  #+$"
        assert re.search(row, "".join(printed), re.M)


def test_sample_is_new_text_of_the_length_asked_for(printed):
    """The last three of 36 sonnets are held out."""
    result, text = json.loads(printed[-1]), (DEMO / "sonnets.txt").read_text(encoding="ascii")
    assert result["held_out"] == "\n\n".join(text.removesuffix("\n").split("\n\n")[33:]) + "\n"
    prompt, completion = result["prompt"], result["completion"]
    assert completion.startswith(prompt) and len(completion) == len(prompt) + result["sample_length"]
    assert completion[len(prompt) :] not in text, "copied, not written"


SPEECH = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
OTHER_TEXTS = {  # the text, how what is held out of it begins, max_steps, windows used as they are printed
    "speeches": ((SPEECH + "\n") * 18_000, "First Citizen:\n", 8, "128 of 1,"),
    "no blank lines": (SPEECH * 300, "", 1, "16 of 16,"),
    "CRLF": ((SPEECH + "\n").replace("\n", "\r\n") * 300, "First Citizen:\n", 8, "128 of 17,"),
    "a title, no spaces": ("千字文\n\n" + "天地玄黄宇宙洪荒" * 300, "", 8, "128 of 2,"),
    "short": ("All's well that ends well.\n" * 4, "", 8, "11 of 11 "),
}


@pytest.mark.parametrize("text, start, max_steps, windows", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
def test_other_texts(monkeypatch, tmp_path, text, start, max_steps, windows):
    """Any text of two windows trains for at most max_steps, which is said, and its end is held out.

    Bugs: tiny Shakespeare (speeches with blank lines between them) trained for 69,686 steps, since three speeches were
    held out of it and all else was read; without blank lines two characters were left to train on; a last step that
    was also one to report (here: of one step) ended with a division by zero; the text might lack the prompt's letters.
    """
    (tmp_path / "sonnets.txt").write_bytes(text.encode())
    code = "\n".join(code_cells(NOTEBOOK))
    code, count = re.subn(r"^(max_steps|sample_length) = [\d_]+", rf"\1 = {max_steps}", code, flags=re.M)
    assert count == 2, "the settings stand in the notebook"
    monkeypatch.syspath_prepend(str(DEMO))
    names, printed = {}, io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed), torch.random.fork_rng():
        exec(code, names)
    held_out, text = names["test_text"], text.replace("\r\n", "\n")
    assert names["train_text"] + held_out == text and held_out.startswith(start)
    assert 1 / 30 < len(held_out) / len(text) < 1 / 6 or len(held_out) == 49 or 9_000 < len(held_out) < 11_000
    steps = -(-int(windows.split()[0]) // 16)
    assert names["trainer"].history[-1]["step"] == steps
    assert f"{steps} steps on {windows}" in printed.getvalue()
    assert (f"max_steps = {max_steps} ends the training" in printed.getvalue()) == (steps == max_steps)
    assert len(names["completion"]) == 22 + max_steps


def test_sampling_and_arguments_that_make_no_sense(monkeypatch):
    """temperature=0 is greedy, top_k may exceed the vocabulary; what makes no sense is a ValueError that names it.

    Bug: temperature=0 divided by zero, and the answer was wrong in silence. The model stays in training mode.
    """
    monkeypatch.syspath_prepend(str(DEMO))
    from mingpt.model import GPT, GPTConfig
    from mingpt.trainer import TrainerConfig
    from mingpt.utils import hold_out, sample

    torch.manual_seed(0)
    model, x = GPT(GPTConfig(7, 8, n_layer=1, n_head=1, n_embd=8, dropout=0.5)), torch.tensor([[1, 2, 3], [4, 5, 6]])
    greedy = x
    for _ in range(12):
        greedy = torch.cat((greedy, model.eval()(greedy[:, -8:])[0][:, -1].argmax(-1, keepdim=True)), 1)
    for changes in ({}, {"temperature": 0, "sample": True}, {"sample": True, "top_k": 1}):
        assert torch.equal(greedy, sample(model.train(), x, 12, **changes)) and model.training
    assert sample(model, x, 3, sample=True, top_k=50).shape == (2, 6)
    for name, value in (("steps", -1), ("temperature", -1.0), ("temperature", float("nan")), ("top_k", 0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            sample(model, x, **({"steps": 1, "sample": True} | {name: value}))
    for name in ("max_epochs", "max_steps", "batch_size", "report_every"):
        with pytest.raises(ValueError, match=rf"{name} \(0\)"):
            TrainerConfig(**{name: 0})
    assert [len(part) for part in hold_out("x" * 98, 8, 48)] == [49, 49]
    with pytest.raises(ValueError, match=r"97 characters.* 98"):
        hold_out("x" * 97, 8, 48)

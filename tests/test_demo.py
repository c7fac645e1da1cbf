"""The teaching notebook: it runs from top to bottom, learns, and writes text."""

import json
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

DEMO = Path(__file__).resolve().parents[1] / "mingpt-demo"

# Below the 3.11 nats of a unigram model and the 2.33 of a bigram model of the text.
HIGHEST_LAST_LOSS = 1.7

# Run after the notebook's own cells, in its kernel: what came out, as one line of JSON.
PROBE = """
import json
print(json.dumps({
    "history": trainer.history, "unigram": unigram_loss, "uniform": uniform_loss,
    "prompt": prompt, "sample_length": sample_length, "completion": completion,
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


def test_text_is_whole_sonnets(text):
    sonnets = text.removesuffix("\n").split("\n\n")
    assert len(sonnets) == 36
    assert all(len(sonnet.split("\n")) == 14 for sonnet in sonnets)
    assert text.isascii()


def test_loss_falls_below_what_letter_frequencies_allow(result):
    first, last = result["history"][0], result["history"][-1]
    assert first["step"] == 0
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

"""Positions beyond the handout: the loss at every position, up to four times the trained length.

    python experiments/positions.py                                   # four small models, three seeds each
    python experiments/positions.py --positions rope none --seeds 0   # some of them
    python experiments/positions.py --draw                            # table and figure from the rows

Part (g) says that absolute positions fail beyond the trained length, and that RoPE helps. Four models that differ in
their positions learn to predict the next character of nineteen documents of twenty, in windows of 64 characters at
random places. Then they read windows of 256 characters of the other documents. Learned positions end with the block;
those of 1(b), rotary ones and none at all do not. A window begins at every eighth character, and every bin of eight
positions is measured on the same characters: what differs between bins is where the characters stand.

Each model adds a row to results/positions/; one that has its row is skipped. From the rows come the table on the page
with the marks `positions` and results/positions.png.
"""

import argparse
import datetime
import random
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

import report  # noqa: E402
from attention import precompute_rotary_emb  # noqa: E402
from dataset import CharCorruptionDataset, encode  # noqa: E402
from engine.callbacks import Progress  # noqa: E402
from engine.files import add_row, fingerprint, read_rows  # noqa: E402
from engine.machine import hardware, pick_device, pick_precision  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from reproduce import commit  # noqa: E402
from trainer import Trainer, TrainerConfig  # noqa: E402
from utils import UserError, cli, read_text, set_seed  # noqa: E402

TRAINED, LONGEST, BIN = 64, 256, 8  # positions that are trained, measured, and averaged over
SIZE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
BATCH, RATE, WARMUP = 32, 2e-3, 100  # windows a step, peak of the learning rate, steps until it is reached
HELD_OUT = 20  # every so manieth document is for measuring
KEY = ("positions", "seed", "hardware", "precision")  # what identifies a row,
ALIKE = ("corpus", "settings")  # and what rows in one figure have in common besides the machine
RANGES = ((33, 64), (65, 128), (129, 192), (193, 256))  # positions, from 1, of the table's columns
# Of each kind of positions in the figure: colour, line.
STYLES = {
    "learned": ("#2a6f97", "-"),
    "sinusoidal": ("#c1121f", "--"),
    "rope": ("#2b9348", "-"),
    "none": ("#6c757d", ":"),
}


# ---------------------------------------------------------------- the models


def sinusoids(positions: int, width: int) -> Tensor:
    """Phi of handout 1(b): sin(t / 10000^(2i/width)) in column 2i of row t, the cosine in column 2i + 1.

    RoPE turns by the same angles that are added here.

    Returns:
        (positions, width). ValueError: width is odd.
    """
    cos, sin = precompute_rotary_emb(width, positions).unbind(-1)  # each (positions, width/2)
    return torch.stack((sin, cos), dim=-1).flatten(1)


@dataclass
class PositionsConfig(GPTConfig):
    """Size and kind of a model; `rope` follows from `positions`."""

    positions: str = "learned"  # or "sinusoidal", "rope", "none"

    def __post_init__(self):
        if self.positions not in STYLES:
            raise ValueError(f"positions is one of {', '.join(STYLES)}, not {self.positions!r}")
        self.rope = self.positions == "rope"


class PositionsGPT(GPT):
    """The homework's model; for "sinusoidal" and "none" what it adds at the bottom is a table that is not trained.

    Embeddings of 0.02 would drown beside sines of 1. With these they begin sqrt(n_embd) times as large, which is the
    factor that Vaswani et al. 2017 (section 3.4) give them.
    """

    def __init__(self, config: PositionsConfig):
        super().__init__(config)
        if config.positions in ("sinusoidal", "none"):
            table = sinusoids(config.block_size, config.n_embd)[None]  # (1, block, C)
            del self.pos_emb
            self.register_buffer("pos_emb", table if config.positions == "sinusoidal" else torch.zeros_like(table))
        if config.positions == "sinusoidal":
            self.tok_emb.weight.data *= config.n_embd**0.5


def make_model(positions: str, vocab_size: int) -> PositionsGPT:
    """A small model. Its block reaches to the longest row, but learned positions beyond the trained do not exist."""
    block = TRAINED if positions == "learned" else LONGEST
    return PositionsGPT(PositionsConfig(vocab_size, block, positions=positions, **SIZE))


# ---------------------------------------------------------------- text, and the loss on it


class Windows(Dataset):
    """`count` windows of a text (N,) at random places: x of `length` characters, y one character later."""

    def __init__(self, text: Tensor, length: int, count: int):
        self.text, self.length, self.count = text, length, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, idx: int) -> tuple[Tensor, Tensor]:
        """(x, y), each a LongTensor of `length`."""
        start = random.randrange(len(self.text) - self.length)
        row = self.text[start : start + self.length + 1]
        return row[:-1], row[1:]


class Texts(NamedTuple):
    """Token ids to train on and to measure, each (N,), and how many kinds of them there are."""

    trained: Tensor
    held_out: Tensor
    vocab_size: int


def split(corpus: CharCorruptionDataset, source: str) -> Texts:
    """The documents as two texts, every twentieth held out.

    Raises:
        UserError: they are too short.
    """
    held_out = corpus.data[HELD_OUT - 1 :: HELD_OUT]
    trained = [document for i, document in enumerate(corpus.data, 1) if i % HELD_OUT]
    texts = ["".join(document + "\n" for document in part) for part in (trained, held_out)]
    if len(texts[1]) <= 2 * LONGEST or len(texts[0]) <= TRAINED:
        raise UserError(
            f"{source}: every {HELD_OUT}th document is held out, which makes {len(texts[1])} characters; more than "
            f"{2 * LONGEST} are needed, give a longer corpus"
        )
    return Texts(*(encode(text, corpus.stoi) for text in texts), corpus.vocab_size)


@torch.no_grad()
def loss_by_position(model: GPT, text: Tensor, rows: int = 32) -> tuple[list[float], int]:
    """Mean loss in every bin of positions that the model has, each over the same characters.

    A window begins at every BIN-th character, so what stands in bin b of one stands in bin b - 1 of the next. The
    beginning and the end of the text, which not all bins see, are not counted.

    Args:
        model: in evaluation mode.
        text: (N,) token ids, more than 2 LONGEST.
        rows: windows at a time.

    Returns:
        LONGEST / BIN losses in nats a character, fewer if the model's block is shorter; and of how many characters.
    """
    length, device = min(LONGEST, model.get_block_size()), model.head.weight.device
    losses = []
    for windows in text.unfold(0, LONGEST + 1, BIN).split(rows):  # (W, LONGEST + 1), in parts
        x, y = windows[:, :length].to(device), windows[:, 1 : length + 1].to(device)
        logits = model(x)[0].float()  # (rows, length, V)
        loss = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")  # (rows, V, length), (rows, length)
        losses.append(loss.unflatten(1, (-1, BIN)).mean(-1))  # (rows, length / BIN)
    cells, bins = torch.cat(losses).double(), LONGEST // BIN
    # bin b of window w holds the characters of bin 0 of window w + b; all bins see those of bins - 1 <= w + b < W
    found = [float(cells[bins - 1 - b : len(cells) - b, b].mean()) for b in range(cells.size(1))]
    return found, BIN * (len(cells) - bins + 1)


# ---------------------------------------------------------------- runs


def train_all(args: argparse.Namespace) -> None:
    """Train and measure a model of every kind and seed; each adds its row."""
    if args.steps < 1:
        raise UserError(f"--steps {args.steps}: at least 1 is needed")
    corpus = CharCorruptionDataset(read_text(args.corpus), TRAINED, source=str(args.corpus))
    texts, device = split(corpus, str(args.corpus)), pick_device(args.device)
    sizes = "{n_layer} layers, {n_head} heads, width {n_embd}".format(**SIZE)
    common = {
        "settings": f"{sizes}, {args.steps} steps of {BATCH} windows of {TRAINED}, rate {RATE}",
        "corpus": fingerprint(read_text(args.corpus)),
        "hardware": hardware(device),
        "precision": pick_precision("auto", device),
    }
    done = read_rows(args.results / "positions")
    for seed in args.seeds:
        for positions in args.positions:
            known = {"positions": positions, "seed": seed, **common}
            print(f"\npositions: {positions}, seed {seed}", flush=True)
            if any(all(row.get(name) == value for name, value in known.items()) for row in done):
                print("has its row")
                continue
            words = f"--positions {positions} --seeds {seed} --steps {args.steps}"
            words += "" if args.corpus.resolve() == ROOT / "wiki.txt" else " --corpus FILE"
            started = {
                "command": f"python experiments/positions.py {words}",
                "commit": commit(),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            found = train(positions, seed, args.steps, texts, device, common["precision"])
            add_row(args.results / "positions", {**known, **found, **started}, KEY)


def train(positions: str, seed: int, steps: int, texts: Texts, device: torch.device, precision: str) -> dict:
    """Train a model and measure it; the entries of its row that were found."""
    set_seed(seed)  # models of one seed begin with the same random numbers, and see the same windows
    model = make_model(positions, texts.vocab_size)
    config = TrainerConfig(
        max_epochs=1,
        batch_size=BATCH,
        learning_rate=RATE,
        lr_decay=True,
        warmup_tokens=WARMUP * BATCH * TRAINED,
        final_tokens=steps * BATCH * TRAINED,
        precision=precision,
        seed=seed,
        callbacks=[Progress()],
    )
    trainer = Trainer(model, Windows(texts.trained, TRAINED, steps * BATCH), None, config, device)
    trainer.train()
    losses, characters = loss_by_position(model, texts.held_out)
    print(f"loss {average(losses, RANGES[0]):.3f} at positions {RANGES[0][0]} to {RANGES[0][1]}, last {losses[-1]:.3f}")
    return {
        "bin": BIN,
        "losses": [round(loss, 4) for loss in losses],
        "characters": characters,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": trainer.tokens,
        "seconds": round(trainer.seconds, 1),
    }


# ---------------------------------------------------------------- table and figures


def average(losses: list[float], positions: tuple[int, int]) -> float | None:
    """The mean loss at positions first .. last, counted from 1; None where the model has none."""
    bins = losses[(positions[0] - 1) // BIN : positions[1] // BIN]
    return statistics.fmean(bins) if bins else None


def table(rows: list[dict]) -> str:
    """Markdown: mean loss by ranges of positions, and how much higher the last is than the first, within a seed."""
    lines, rows = [], report.of_one_machine(rows, *ALIKE)
    for positions in STYLES:
        group = [row for row in rows if row["positions"] == positions]
        if not group:
            continue
        found = [[average(row["losses"], part) for part in RANGES] for row in group]
        columns = [*map(list, zip(*found, strict=True))]
        columns.append([line[-1] and line[-1] - line[0] for line in found])
        cells = [in_words(column) if column[0] is not None else "no such positions" for column in columns]
        seeds = " ".join(str(row["seed"]) for row in group)
        lines.append([positions, seeds, *cells, report.minutes(group), report.machine(group[0])])
    heads = [f"{first} to {last}" for first, last in RANGES]
    return report.markdown(["positions", "seeds", *heads, "rise", "minutes", "hardware"], lines)


def in_words(values: list[float]) -> str:
    """The mean over seeds, and its 95 % interval where there are several."""
    mean, reach = report.interval(values)
    return f"{mean:.2f}" + (f" ({mean - reach:.2f} to {mean + reach:.2f})" if len(values) > 1 else "")


def draw_losses(path: Path, rows: list[dict]) -> None:
    """The figure: loss by position, a line a kind, with the 95 % band over seeds."""
    plt, rows = report.pyplot(), report.of_one_machine(rows, *ALIKE)
    if plt is None or not rows:
        return
    figure, axes = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
    for positions, (colour, line) in STYLES.items():
        group = [row["losses"] for row in rows if row["positions"] == positions]
        if not group:
            continue
        mean, reach = zip(*(report.interval(losses) for losses in zip(*group, strict=True)), strict=True)
        x = [BIN * b + (BIN + 1) / 2 for b in range(len(mean))]  # the middle of a bin of positions 1 .. 8
        axes.plot(x, mean, color=colour, linestyle=line, linewidth=2, label=positions)
        low, high = ([m + sign * r for m, r in zip(mean, reach, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        if len(mean) * BIN < LONGEST:
            axes.plot(x[-1], mean[-1], "X", color=colour, markersize=9)
    axes.axvline(TRAINED + 0.5, color="black", linewidth=1)
    axes.annotate(
        " trained up to here", (TRAINED + 0.5, 0.98), xycoords=("data", "axes fraction"), va="top", fontsize=9
    )
    axes.set_xticks([1, *range(TRAINED, LONGEST + 1, TRAINED)])
    axes.set_xlim(1, LONGEST)
    axes.set_xlabel(f"position (bins of {BIN})")
    axes.set_ylabel("loss on unseen text, nats a character")
    seeds = sorted({row["seed"] for row in rows})
    told = f"mean of {len(seeds)} seeds, 95 % band" if len(seeds) > 1 else f"seed {seeds[0]}"
    axes.set_title(f"Next character, windows of {TRAINED} in training; {told}", fontsize=10)
    axes.legend(title="positions", frameon=False, fontsize=9, title_fontsize=9)
    axes.grid(axis="y", color="#e4e7ea")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    report.save(figure, path)


def show(folder: Path) -> None:
    """Table and figure of the rows in a folder of results; those of results/ go onto their page."""
    rows = read_rows(folder / "positions")
    text = table(rows)
    print(f"\n{text}")
    draw_losses(folder / "positions.png", rows)
    if folder == report.ROOT / "results":
        report.fill({"positions": text})


def main(argv: list[str] | None = None) -> int:
    """Train what has no row yet, then the table and the figure."""
    parser = argparse.ArgumentParser(description="The loss by position beyond the trained length.", allow_abbrev=False)
    parser.add_argument("--positions", nargs="+", choices=STYLES, default=[*STYLES], help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=700, help="of training (default: %(default)s)")
    parser.add_argument(
        "--corpus", type=Path, default=ROOT / "wiki.txt", help="one document a line (default: wiki.txt)"
    )
    parser.add_argument("--results", type=Path, default=report.ROOT / "results", help="folder of the rows")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    parser.add_argument("--draw", action="store_true", help="train nothing: table and figure from the rows")
    args = parser.parse_args(argv)
    args.results = args.results.resolve()
    args.results.mkdir(parents=True, exist_ok=True)
    if not args.draw:
        train_all(args)
    show(args.results)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

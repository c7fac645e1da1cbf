"""Positions beyond the trained length: the loss at every position, up to four times that length.

    python experiments/positions.py                                   # four small models, three seeds each
    python experiments/positions.py --positions rope none --seeds 0   # some of them

Part (g) says that absolute positions fail beyond the trained length, and that RoPE helps. Four models that differ only
in their positions learn to predict the next character of 19 of every 20 documents, in windows of 64 characters at
random places. Then they read windows of 256 characters of the held-out documents. Learned positions end with the block;
sinusoids (part 1(b)), rotary positions and none at all do not. A window begins at every eighth character, and every bin
of eight positions is measured on the same characters, so bins differ only in where the characters stand.

Each model adds rows to results/positions.csv; one that has them is skipped.
"""

import argparse
import sys
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from attention import precompute_rotary_emb
from dataset import CharCorruptionDataset, encode
from engine.callbacks import Progress
from engine.machine import hardware, pick_device, pick_precision
from model import GPT, GPTConfig
from report import rows
from trainer import Trainer, TrainerConfig
from utils import UserError, cli, read_text, set_seed

KINDS = ("learned", "sinusoidal", "rope", "none")
TRAINED, LONGEST, BIN = 64, 256, 8  # positions: trained, measured, per bin
SIZE = {"n_layer": 4, "n_head": 4, "n_embd": 128, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
BATCH, RATE, WARMUP = 32, 2e-3, 100  # windows a step, peak learning rate, steps until it is reached
HELD_OUT = 20  # every 20th document is held out


# ---------------------------------------------------------------- the models


def sinusoids(positions: int, width: int) -> Tensor:
    """Phi of handout 1(b): sin(t / 10000^(2i/width)) in column 2i of row t, the cosine in column 2i + 1.

    RoPE turns by the same angles that are added here.

    Returns:
        (positions, width). ValueError: width is odd.
    """
    cos, sin = precompute_rotary_emb(width, positions).unbind(-1)  # each (positions, width/2)
    return torch.stack((sin, cos), dim=-1).flatten(1)


class PositionsGPT(GPT):
    """The homework's model with one of KINDS; for "sinusoidal" and "none" its position table is fixed.

    Embeddings of 0.02 would drown beside sines of 1. With sinusoids they begin sqrt(n_embd) times as large, the factor
    of Vaswani et al. 2017 (section 3.4).
    """

    def __init__(self, config: GPTConfig, positions: str):
        super().__init__(replace(config, rope=positions == "rope"))
        if positions in ("sinusoidal", "none"):
            table = sinusoids(config.block_size, config.n_embd)[None]  # (1, block, C)
            del self.pos_emb
            self.register_buffer("pos_emb", table if positions == "sinusoidal" else torch.zeros_like(table))
        if positions == "sinusoidal":
            self.tok_emb.weight.data *= config.n_embd**0.5


# ---------------------------------------------------------------- text, and the loss on it


def split(corpus: CharCorruptionDataset, source: str) -> tuple[Tensor, Tensor]:
    """Token ids to train on and to measure, each (N,): every 20th document is held out. UserError: too few."""
    held_out = corpus.data[HELD_OUT - 1 :: HELD_OUT]
    trained = [document for i, document in enumerate(corpus.data, 1) if i % HELD_OUT]
    texts = ["".join(document + "\n" for document in part) for part in (trained, held_out)]
    if len(texts[1]) <= 2 * LONGEST:
        raise UserError(
            f"{source}: every {HELD_OUT}th document is held out, which makes {len(texts[1])} characters; more than "
            f"{2 * LONGEST} are needed, give a longer corpus"
        )
    return encode(texts[0], corpus.stoi), encode(texts[1], corpus.stoi)


@torch.no_grad()
def loss_by_position(model: GPT, text: Tensor, batch_rows: int = 32) -> list[float]:
    """Mean loss in every bin of positions that the model has, each over the same characters.

    A window begins at every BIN-th character, so what stands in bin b of one stands in bin b - 1 of the next. The
    beginning and the end of the text, which not all bins see, are not counted.

    Args:
        model: in evaluation mode.
        text: (N,) token ids, more than 2 LONGEST.

    Returns:
        LONGEST / BIN losses in nats per character, fewer if the model's block is shorter.
    """
    length, device = min(LONGEST, model.get_block_size()), model.head.weight.device
    losses = []
    for windows in text.unfold(0, LONGEST + 1, BIN).split(batch_rows):  # (W, LONGEST + 1), in parts
        x, y = windows[:, :length].to(device), windows[:, 1 : length + 1].to(device)
        logits = model(x)[0].float()  # (rows, length, V)
        loss = F.cross_entropy(logits.transpose(1, 2), y, reduction="none")  # (rows, V, length), (rows, length)
        losses.append(loss.unflatten(1, (-1, BIN)).mean(-1))  # (rows, length / BIN)
    cells, bins = torch.cat(losses).double(), LONGEST // BIN
    # bin b of window w holds the characters of bin 0 of window w + b; all bins see those of bins - 1 <= w + b < W
    return [float(cells[bins - 1 - b : len(cells) - b, b].mean()) for b in range(cells.size(1))]


# ---------------------------------------------------------------- trainings


def train(
    positions: str, seed: int, steps: int, texts: tuple[Tensor, Tensor], vocab_size: int, device: torch.device
) -> list[dict]:
    """Train a model and measure it: a row for each bin of positions."""
    places = torch.randint(len(texts[0]) - TRAINED, (steps * BATCH,), generator=torch.Generator().manual_seed(seed))
    windows = [texts[0][i : i + TRAINED + 1] for i in places]
    set_seed(seed)  # models of one seed begin with the same random numbers, and see the same windows
    block = TRAINED if positions == "learned" else LONGEST  # learned positions end with the trained ones
    model = PositionsGPT(GPTConfig(vocab_size, block, **SIZE), positions)
    with tqdm(total=steps, desc=f"{positions}, seed {seed}", dynamic_ncols=True, disable=None) as bar:
        config = TrainerConfig(
            max_epochs=1,
            batch_size=BATCH,
            learning_rate=RATE,
            lr_decay=True,
            warmup_tokens=WARMUP * BATCH * TRAINED,
            final_tokens=steps * BATCH * TRAINED,
            precision=pick_precision(device),
            seed=seed,
            callbacks=[Progress(bar)],
        )
        Trainer(model, [(row[:-1], row[1:]) for row in windows], None, config, device).train()
    losses = loss_by_position(model, texts[1])
    return [{"first": BIN * i + 1, "last": BIN * (i + 1), "loss": round(loss, 4)} for i, loss in enumerate(losses)]


def main(argv: list[str] | None = None) -> int:
    """Train and measure every model that has no rows yet."""
    parser = argparse.ArgumentParser(
        description="The loss by position beyond the trained length.", parents=[rows.flags()]
    )
    parser.add_argument("--positions", nargs="+", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=700, help="of training (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.steps < 1:
        raise UserError(f"--steps {args.steps}: at least 1 is needed")
    source, device = args.data / "wiki.txt", pick_device(args.device)
    documents = CharCorruptionDataset(read_text(source), TRAINED, str(source))
    texts = split(documents, str(source))
    sizes = "{n_layer} layers, {n_head} heads, width {n_embd}".format(**SIZE)
    here = {"settings": f"{sizes}, {args.steps} steps of {BATCH} windows of {TRAINED}, rate {RATE}"}
    here |= {"hardware": hardware(device), "precision": pick_precision(device)}
    for seed in args.seeds:
        for positions in args.positions:
            run = {"positions": positions, "seed": seed}
            command = f"python experiments/positions.py --positions {positions} --seeds {seed} --steps {args.steps}"
            made = rows.provenance_of(args, command, **run, **here)
            if len(rows.select(rows.read("positions", args.results), corpus=made["corpus"], **run, **here)):
                print(f"{positions}, seed {seed}: already done")
                continue
            found = train(positions, seed, args.steps, texts, documents.vocab_size, device)
            print(f"{positions}, seed {seed}: loss {found[TRAINED // BIN - 1]['loss']} at the last trained positions")
            rows.add("positions", [made | row for row in found], args.results)
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

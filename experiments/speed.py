"""How much faster than the handout's computation, and how close to what the machine can do.

    python experiments/speed.py [--quick] [--parts command losses ...]

Naive (naive.py) and fast (src/) in turn in one process: the pretraining step at the handout's batch
on the corpus with dropout on, and answering questions. Then what dropout costs, start-up and memory of
`run.py`, losses over 200 steps from the same start, and profiles. Keeps all in results/speed.json (--parts
measures some of it anew), writes it into experiments/README.md between its marks, and ends with one line
of JSON. --quick takes fewer samples, leaves out what comes after the questions, and writes nothing (a few
minutes on two cores).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "experiments"), str(ROOT / "scripts")]

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from dataset import CharCorruptionDataset, NameDataset  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from naive import NaiveGPT, naive_answer, naive_item  # noqa: E402
from packing import supervised_lengths  # noqa: E402
from report import put_between  # noqa: E402
from trainer import Trainer, TrainerConfig, schedule  # noqa: E402
from utils import cli, generate, hardware, pick_device, pick_precision, read_pairs, read_text, write_text  # noqa: E402

BATCH, BLOCK = 128, 128
RESULTS = ROOT / "results" / "speed.json"


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_rate(tokens: int, device: torch.device, precision: str) -> float:
    """Best rate of a matrix product among the layers' own shapes, forward and both gradients, in FLOP/s."""
    dtype, best = getattr(torch, precision), 0.0
    for fan_in, fan_out in ((256, 768), (256, 256), (256, 1024), (1024, 256)):
        x = torch.randn(tokens, fan_in, dtype=dtype, device=device)
        w = torch.randn(fan_out, fan_in, dtype=dtype, device=device)
        g = torch.randn(tokens, fan_out, dtype=dtype, device=device)
        for product in (lambda x=x, w=w: F.linear(x, w), lambda g=g, w=w: g @ w, lambda g=g, x=x: g.t() @ x):
            product()
            fastest = min(seconds(product) for _ in range(15))
            best = max(best, 2 * tokens * fan_in * fan_out / fastest)
    return best


def model_flops(model: GPT, lengths: torch.Tensor) -> float:
    """FLOPs of a step on the real tokens: 6 per weight of a matrix product and token, and causal attention."""
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    pairs = float((lengths * (lengths + 1) / 2).sum())  # (query, visible key)
    attention = 3 * 4 * pairs * model.config.n_embd * model.config.n_layer
    return 6 * weights * float(lengths.sum()) + attention


def naive_stepper(slow: NaiveGPT, corpus: CharCorruptionDataset, device: torch.device) -> Callable[[], None]:
    """A pretraining step of the handout's computation, at the handout's batch."""
    optimizer = torch.optim.AdamW(slow.parameters(), lr=6e-3, betas=(0.9, 0.95), weight_decay=0.1)

    def step() -> None:
        documents = random.sample(corpus.data, BATCH)
        items = [naive_item(document, BLOCK, corpus.stoi) for document in documents]
        x, y = (torch.stack(t).to(device) for t in zip(*items, strict=True))
        _, loss = slow(x, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(slow.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


def naive_step_seconds(pretrain_corpus_path: str, variant: str, device: torch.device) -> float:
    """How long the handout's computation takes for a step on this machine now: a yardstick for run times."""
    corpus = CharCorruptionDataset(read_text(pretrain_corpus_path), BLOCK)
    model = NaiveGPT(GPTConfig(corpus.vocab_size, BLOCK, rope=variant == "rope")).to(device).train()
    step = naive_stepper(model, corpus, device)
    step()
    return statistics.median(seconds(step) for _ in range(3))


def fast_trainer(
    corpus: CharCorruptionDataset, variant: str, precision: str, device: torch.device, dropout: float = 0.1
) -> tuple[Trainer, Callable[[], None]]:
    """The project's trainer at the handout's batch, and a function that does one step with it."""
    torch.manual_seed(0)
    config = GPTConfig(
        corpus.vocab_size,
        BLOCK,
        rope=variant == "rope",
        embd_pdrop=dropout,
        resid_pdrop=dropout,
        attn_pdrop=dropout,
    )
    settings = TrainerConfig(
        max_epochs=10**6, batch_size=BATCH, learning_rate=6e-3, lr_decay=True, warmup_tokens=512 * 20
    )
    settings.precision = precision
    trainer = Trainer(GPT(config).to(device).train(), corpus, None, settings, device)

    def step() -> None:
        if trainer.step % trainer.steps_per_epoch == 0:
            trainer.order = torch.randperm(len(corpus))
        trainer._pending.append(trainer._train_step())
        trainer.step += 1
        trainer.read_back()

    for _ in range(8):
        step()
    return trainer, step


def measure_training(variant: str, corpus: CharCorruptionDataset, precision: str, rounds: int, device) -> dict:
    """Naive and fast steps in turn, dropout on."""
    trainer, fast_step = fast_trainer(corpus, variant, precision, device)
    slow = NaiveGPT(trainer.model.config).to(device).train()
    slow.load_state_dict(trainer.model.state_dict())
    slow_step = naive_stepper(slow, corpus, device)
    slow_step()
    slow_times, fast_times, seen = [], [], trainer.tokens
    for _ in range(rounds):
        slow_times.append(seconds(slow_step))
        fast_times += [seconds(fast_step) for _ in range(5)]
    tokens = (trainer.tokens - seen) / len(fast_times)
    _, y = corpus.batch(torch.arange(len(corpus)), torch.Generator().manual_seed(0))
    lengths = supervised_lengths(y)
    flops = model_flops(trainer.model, lengths) * BATCH / len(corpus)
    peak = peak_rate(round(tokens), device, precision)
    naive, quick = statistics.median(slow_times), statistics.median(fast_times)
    return {
        "ratio": round(naive / quick, 2),
        "share_of_peak": round(flops / quick / peak, 3),
        "naive_step_seconds": round(naive, 4),
        "fast_step_seconds": round(quick, 4),
        "fast_tokens_per_second": round(tokens / quick),
        "naive_tokens_per_second": round(tokens / naive),
        "peak_gflops": round(peak / 1e9),
        "precision": precision,
        "samples": [len(slow_times), len(fast_times)],
    }


def measure_dropout(corpus: CharCorruptionDataset, precision: str, rounds: int, device) -> dict:
    """Share of a step that dropout takes: steps with and without it in turn."""
    found = {}
    for variant in ("vanilla", "rope"):
        (_, on), (_, off) = (fast_trainer(corpus, variant, precision, device, p) for p in (0.1, 0.0))
        times = [(seconds(on), seconds(off)) for _ in range(5 * rounds)]
        with_it, without = (statistics.median(t) for t in zip(*times, strict=True))
        found[variant] = round(1 - without / with_it, 3)
    return found


def most_memory_mb() -> float:
    """The most RAM that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # the figure of getrusage counts what the parent had when it forked
        return int(next(row.split()[1] for row in status.read_text().split("\n") if row.startswith("VmHWM"))) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def measure_command() -> dict:
    """Start-up of run.py: --help, and up to the first step; the most memory of a training at the handout's batch."""
    source, wiki = str(ROOT / "src"), str(ROOT / "wiki.txt")

    def run_python(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)

    found = {"help_seconds": seconds(lambda: run_python(f"{source}/run.py", "--help"))}
    with tempfile.TemporaryDirectory() as folder:
        argv = ["pretrain", "rope", wiki, "--writing_params_path", f"{folder}/p.params", "--expt_dir", f"{folder}/expt"]
        stop = f"import sys; sys.path.insert(0, {source!r}); import trainer, run; "
        stop += f"trainer.Trainer._train_step = lambda self: sys.exit(0); run.main({argv!r})"
        found["startup_seconds"] = seconds(lambda: run_python("-c", stop))
        argv += ["--max_epochs", "3"]
        train = f"import sys; sys.path[:0] = [{source!r}, {str(ROOT / 'experiments')!r}]; import run, speed; "
        train += f"run.main({argv!r}); print(speed.most_memory_mb())"
        done = run_python("-c", train)
    found["training_memory_mb"] = float(done.stdout.split()[-1])
    return {name: round(value, 2) for name, value in found.items()}


def compare_losses(
    corpus: CharCorruptionDataset, variant: str, precision: str, device, rate: float, steps: int = 200
) -> float:
    """Largest relative difference of the smoothed losses of two trainings, same start, same batches of 16.

    The first is the naive one in float32. The second is the fast one or, with precision "naive", the naive
    one from a start that differs by a millionth of each weight: what rounding alone grows into. Dropout off;
    the handout's optimiser and schedule, but for the peak rate. Smoothed: the mean of 50 steps.
    """
    torch.manual_seed(0)
    config = GPTConfig(corpus.vocab_size, BLOCK, rope=variant == "rope", embd_pdrop=0, resid_pdrop=0, attn_pdrop=0)
    settings = TrainerConfig(batch_size=16, learning_rate=rate, lr_decay=True, warmup_tokens=512 * 20)
    settings.final_tokens, settings.max_epochs = 650 * BLOCK * len(corpus), 10**6
    settings.precision = "float32" if precision == "naive" else precision
    fast = Trainer(GPT(config).to(device).train(), corpus, None, settings, device)
    naive = [NaiveGPT(config).to(device).train() for _ in range(2 if precision == "naive" else 1)]
    optimizers = []
    for number, model in enumerate(naive):
        model.load_state_dict({k: v * (1 + 1e-6 * number) for k, v in fast.model.state_dict().items()})
        weights, names = dict(model.named_parameters()), {id(p): name for name, p in fast.model.named_parameters()}
        groups = fast.model.parameter_groups(settings.weight_decay)
        groups = [group | {"params": [weights[names[id(p)]] for p in group["params"]]} for group in groups]
        optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=settings.betas))

    def naive_step(model: NaiveGPT, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
        _, loss = model(x.to(device), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(fast.positions, settings)
        optimizer.step()
        return loss.item()

    order, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        if step % fast.steps_per_epoch == 0:
            fast.order = torch.randperm(len(corpus), generator=order)
        fast.step = step
        state = fast.generator.get_state()
        if precision == "naive":
            fast.positions += 16 * BLOCK
            pair = []
        else:
            pair = [float(fast._train_step()[1])]
            fast.generator.set_state(state)
        first = step % fast.steps_per_epoch * 16
        x, y = corpus.batch(fast.order[first : first + 16], fast.generator)
        pair += [naive_step(model, optimizer, x, y) for model, optimizer in zip(naive, optimizers, strict=True)]
        losses.append(pair)
    smooth = torch.tensor(losses).T.unfold(1, 50, 1).mean(-1)  # (2, steps - 49)
    return round(float((smooth[0] / smooth[1] - 1).abs().max()), 4)


def measure_losses(corpus: CharCorruptionDataset, precision: str, device) -> dict:
    """compare_losses for both variants, at a calm and at the handout's rate; and rounding alone at the latter."""
    kinds = {"calm": (precision, 1e-3), "handout": (precision, 6e-3), "rounding": ("naive", 6e-3)}
    return {
        variant: {name: compare_losses(corpus, variant, how, device, rate) for name, (how, rate) in kinds.items()}
        for variant in ("vanilla", "rope")
    }


def measure_answers(corpus: CharCorruptionDataset, questions: list[str], naive_count: int, device) -> dict:
    """All questions in batches with a cache, against some of them one at a time without; float32.

    The model has seen the training pairs three times, so that it answers with a short place and a MASK, where the
    project stops; the handout's way always makes 32 characters. Compared is what stands before the MASK.
    """
    pairs = NameDataset(corpus, read_text(ROOT / "birth_places_train.tsv"))
    torch.manual_seed(0)
    fast = GPT(GPTConfig(corpus.vocab_size, BLOCK, rope=True)).to(device)
    settings = TrainerConfig(max_epochs=3, batch_size=64, learning_rate=6e-4, precision=pick_precision("auto", device))
    Trainer(fast, pairs, None, settings, device).train()
    slow = NaiveGPT(fast.config).to(device).eval()
    slow.load_state_dict(fast.state_dict())
    mask = corpus.stoi[corpus.MASK_CHAR]
    prompts = [torch.tensor([corpus.stoi[c] for c in q if c in corpus.stoi] + [mask]) for q in questions]
    fast_rows: list[list[int]] = []
    slow_rows: list[list[int]] = []

    def answer_all() -> None:
        fast_rows[:] = generate(fast, prompts, 32, stop=mask)

    def answer_some() -> None:
        slow_rows.extend(naive_answer(slow, p.to(device)) for p in prompts[:naive_count])

    def place(row: list[int]) -> list[int]:
        return row[: row.index(mask)] if mask in row else row

    fast_time = min(seconds(answer_all) for _ in range(3))
    slow_time = seconds(answer_some)
    same = sum(place(a) == place(b) for a, b in zip(fast_rows, slow_rows, strict=False))
    ratio = (slow_time / len(slow_rows)) / (fast_time / len(prompts))
    return {
        "ratio": round(ratio, 1),
        "identical": f"{same} of {len(slow_rows)}",
        "naive_seconds_a_question": round(slow_time / len(slow_rows), 4),
        "fast_seconds_a_question": round(fast_time / len(prompts), 6),
        "questions": len(prompts),
        "characters_an_answer": round(sum(len(place(row)) for row in fast_rows) / len(fast_rows), 1),
    }


def profile(step: Callable[[], object]) -> str:
    """Where the time of a step goes: the operators that take the most, their own time."""
    from torch.profiler import profile as torch_profile

    step()
    with torch_profile() as recorder:
        step()
    rows = sorted(recorder.key_averages(), key=lambda r: -r.self_cpu_time_total)
    total = sum(r.self_cpu_time_total for r in rows)
    lines = [f"| operator ({total / 1e6:.2f} s) | share | calls |", "|---|---|---|"]
    lines += [f"| `{r.key}` | {r.self_cpu_time_total / total:.1%} | {r.count} |" for r in rows[:12]]
    return "\n".join(lines)


def table(results: dict) -> str:
    """The measurements in Markdown."""
    lines = [
        "| what | naive | fast | ratio | tokens/s, naive and fast | share of peak |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in results.items():
        if name == "evaluate":
            naive, fast = row["naive_seconds_a_question"], row["fast_seconds_a_question"]
            times = f"{naive:.4f} s a question | {fast:.5f} s a question"
            what = f"{row['questions']} answers of {row['characters_an_answer']} characters, float32 "
            what += f"({row['identical']} identical)"
            lines.append(f"| {what} | {times} | {row['ratio']} | - | - |")
        elif isinstance(row, dict) and "share_of_peak" in row:
            times = f"{row['naive_step_seconds']} s a step | {row['fast_step_seconds']} s a step"
            tokens = f"{row['naive_tokens_per_second']:,}; {row['fast_tokens_per_second']:,}"
            share = f"{row['share_of_peak']:.0%} of {row['peak_gflops']} GFLOP/s"
            variant = name.split()[0]
            lines.append(
                f"| pretraining, {variant}, {row['precision']} | {times} | {row['ratio']} | {tokens} | {share} |"
            )
    return "\n".join(lines)


def more(results: dict) -> str:
    """What else was measured, in sentences."""
    command, dropout, losses = results["command"], results["dropout"], results["losses"]
    return (
        f"Dropout takes {dropout['vanilla']:.1%} of a step of vanilla, {dropout['rope']:.1%} of rope (steps with and "
        f"without it in turn). `run.py --help` takes {command['help_seconds']} s; from the start of `run.py pretrain` "
        f"to its first step it takes {command['startup_seconds']} s; a training at the handout's batch needs "
        f"{command['training_memory_mb']:.0f} MB at most. Over 200 steps (batch 16, dropout off, the same start and "
        "batches) the losses of naive (float32) and fast, smoothed over 50 steps, differ by at most "
        f"{losses['vanilla']['calm']:.2%} (vanilla) and {losses['rope']['calm']:.2%} (rope) at a learning rate of "
        "0.001; at the handout's 0.006 single losses jump early on, and they differ by "
        f"{losses['vanilla']['handout']:.2%} and {losses['rope']['handout']:.2%}, where two naive trainings whose "
        f"starts differ by a millionth differ by {losses['vanilla']['rounding']:.2%} and "
        f"{losses['rope']['rounding']:.2%}."
    )


def profiles(corpus: CharCorruptionDataset, precision: str, device) -> str:
    """A naive and a fast step of rope, by operator, in Markdown."""
    trainer, fast_step = fast_trainer(corpus, "rope", precision, device)
    slow_step = naive_stepper(NaiveGPT(trainer.model.config).to(device).train(), corpus, device)
    before, after = profile(slow_step), profile(fast_step)
    return f"A naive step of rope, by operator:\n\n{before}\n\nA fast step of rope:\n\n{after}"


def write(results: dict) -> None:
    """Keep the results, and write them into the README of the experiments."""
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    if not all(part in results for part in ("vanilla", "dropout", "command", "losses", "profiles")):
        return
    slow_samples, fast_samples = results["vanilla"]["samples"]
    text = (
        f"`python experiments/speed.py` on {results['hardware']}, torch {results['torch']}; medians of {slow_samples} "
        f"naive and {fast_samples} fast steps in turn, batch {BATCH}, dropout 0.1, seed 0, own data:\n\n"
        f"{table(results)}\n\n{more(results)}\n\n{results['profiles']}"
    )
    put_between(ROOT / "experiments" / "README.md", "speed", text)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Naive against fast: training steps and answers.")
    parser.add_argument("--quick", action="store_true", help="fewer samples, no file written")
    parts = ("training", "answers", "dropout", "command", "losses", "profiles")
    parser.add_argument("--parts", nargs="+", choices=parts, help="measure these alone (default: all)")
    parser.add_argument("--device", default="auto", help="default: %(default)s")
    args = parser.parse_args(argv)
    wanted = args.parts or (parts[:2] if args.quick else parts)
    device = pick_device(args.device)
    corpus = CharCorruptionDataset(read_text(ROOT / "wiki.txt"), BLOCK)
    questions = [q for _, q, _ in read_pairs(read_text(ROOT / "birth_dev.tsv"), "birth_dev.tsv")]
    random.seed(0)  # the naive batches
    rounds, precision = 3 if args.quick else 8, pick_precision("auto", device)
    results: dict = json.loads(RESULTS.read_text()) if args.parts and RESULTS.exists() else {}
    if "training" in wanted:
        for variant in ("vanilla", "rope"):
            results[variant] = measure_training(variant, corpus, precision, rounds, device)
        if precision != "float32":
            results["vanilla float32"] = measure_training("vanilla", corpus, "float32", rounds, device)
    if "answers" in wanted:
        results["evaluate"] = measure_answers(corpus, questions, 20 if args.quick else 100, device)
    if {"training", "answers", "dropout", "command"} & set(wanted):  # what the machine matters to
        results |= {"hardware": hardware(device), "torch": torch.__version__}
    print(table(results), flush=True)
    if "dropout" in wanted:
        results["dropout"] = measure_dropout(corpus, precision, rounds, device)
    if "command" in wanted:
        results["command"] = measure_command()
    if "losses" in wanted:
        results["losses"] = measure_losses(corpus, precision, device)
    if "profiles" in wanted:
        results["profiles"] = profiles(corpus, precision, device)
    if not args.quick:
        write(results)
    print(json.dumps({name: value for name, value in results.items() if name != "profiles"}))
    return 0


if __name__ == "__main__":
    sys.exit(cli(main))

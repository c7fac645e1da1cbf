"""Kill a training at random moments, resume it, and compare with one that was left alone.

    python experiments/kills.py [--kills 20]

Pretrains on a few people of the corpus, once undisturbed and once killed (SIGKILL) again and again
while it trains and writes a checkpoint after every step; every second kill waits for the next write to
begin and falls into it, or shortly after. Prints one line of JSON; exit code 1 unless
there were as many kills as asked for, some in the middle of a write, and the parameters are bit for bit
the same.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from report import record_robustness  # noqa: E402

HALF_WRITTEN = ".*.tmp"


def start(folder: Path, name: str, epochs: int) -> tuple[subprocess.Popen, int]:
    """Start or resume a small pretraining with dropout; return it as its first step begins, and the step."""
    words = [sys.executable, str(ROOT / "src/run.py"), "pretrain", "rope", str(folder / "wiki.txt")]
    words += ["--writing_params_path", str(folder / name), "--expt_dir", str(folder / "expt")]
    flags = f"--recipe smoke --max_epochs {epochs} --dropout 0.1 --checkpoint_minutes 0.00001 --resume --device cpu"
    words += flags.split()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    step = 0
    for line in process.stdout:
        if line.startswith("resuming at step "):
            step = int(line.split()[3])
        if line.startswith("device "):
            break
    return process, step


def finish(process: subprocess.Popen) -> None:
    """Let a training run to its end."""
    process.communicate()
    if process.returncode:
        raise SystemExit(f"the training ended with exit code {process.returncode}")


def main() -> int:
    """Run both, count, compare."""
    parser = argparse.ArgumentParser(description="SIGKILL a training at random moments and resume it.")
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = (ROOT / "wiki.txt").read_text(encoding="utf-8").split("\n")[:48]
        (folder / "wiki.txt").write_text("\n".join(documents), encoding="utf-8")
        process, _ = start(folder, "whole.params", args.epochs)
        begin = time.monotonic()
        finish(process)
        seconds = time.monotonic() - begin
        kills, in_write, steps = 0, 0, []
        for number in range(args.kills):
            process, step = start(folder, "killed.params", args.epochs)
            steps.append(step)
            time.sleep(rng.uniform(0, 1.5 * seconds / args.kills))
            while number % 2 and process.poll() is None and not any(folder.glob(HALF_WRITTEN)):
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.02))
            if process.poll() is not None:
                break  # it has finished: more epochs are needed
            process.kill()
            process.communicate()
            kills += 1
            in_write += any(folder.glob(HALF_WRITTEN))  # the next start sweeps it away
        process, step = start(folder, "killed.params", args.epochs)
        steps.append(step)
        finish(process)
        a, b = (torch.load(folder / f"{n}.params", weights_only=True) for n in ("whole", "killed"))
        same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        left = [p.name for p in folder.iterdir() if p.name.endswith((".checkpoint", ".tmp"))]
    result = {"kills": kills, "in_the_middle_of_a_write": in_write, "resumed_at_steps": steps}
    result |= {"bit_for_bit_the_same": same, "left_behind": left}
    print(json.dumps(result))
    found = f"{kills} kills, {in_write} of them in the middle of a write; the parameters are "
    found += f"{'bit for bit those' if same else 'NOT those'} of the undisturbed run, {len(left)} files left behind"
    flags = f"--kills {args.kills} --epochs {args.epochs} --seed {args.seed}"
    record_robustness(f"python experiments/kills.py {flags}", found, result)
    return 0 if same and not left and kills == args.kills and in_write else 1


if __name__ == "__main__":
    sys.exit(main())

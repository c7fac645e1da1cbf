"""Kill a training at random moments, resume it, and compare with one that was left alone.

    python experiments/kills.py [--kills 20]

Pretrains on a few people of the corpus, once undisturbed and once killed (SIGKILL) again and again while
it writes a checkpoint after every step; ends with exit code 1 unless the parameters are bit for bit the same.
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


def command(folder: Path, name: str, epochs: int) -> list[str]:
    """A small pretraining with dropout that checkpoints after every step."""
    flags = f"--recipe smoke --max_epochs {epochs} --dropout 0.1 --checkpoint_minutes 0.00001 --resume --device cpu"
    paths = ["--writing_params_path", str(folder / name), "--expt_dir", str(folder / "expt")]
    return [
        sys.executable,
        str(ROOT / "src/run.py"),
        "pretrain",
        "rope",
        str(folder / "wiki.txt"),
        *paths,
        *flags.split(),
    ]


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
        start = time.monotonic()
        subprocess.run(command(folder, "whole.params", args.epochs), check=True, capture_output=True)
        whole = time.monotonic() - start
        kills = in_write = finished_early = 0
        while kills < args.kills:
            process = subprocess.Popen(command(folder, "killed.params", args.epochs), stdout=-3, stderr=-3)
            try:
                # start-up is several seconds; a run that is killed before its first step is a kill too
                process.wait(rng.uniform(2.0, 2.0 + 2 * whole / args.kills))
                finished_early += 1
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                scraps = list(folder.glob(".*.tmp"))
                in_write += bool(scraps)
                for scrap in scraps:
                    scrap.unlink()
        subprocess.run(command(folder, "killed.params", args.epochs), check=True, capture_output=True)
        a, b = (torch.load(folder / f"{n}.params", weights_only=True) for n in ("whole", "killed"))
        same = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        left = (folder / "killed.params.checkpoint").exists()
    result = {"kills": kills, "in_the_middle_of_a_write": in_write, "finished_early": finished_early}
    print(json.dumps(result | {"bit_for_bit_the_same": same, "checkpoint_left": left}))
    return 0 if same and not left else 1


if __name__ == "__main__":
    sys.exit(main())

"""Does memory grow in a long training?

    python experiments/memory.py --epochs 10

Runs the pretraining command on the first 1,600 documents of wiki.txt in batches of 8, which is 200 steps
an epoch, with a checkpoint every quarter of a minute, and looks at the memory of its process at the end
of each epoch. Prints one line of JSON; exit code 1 if the last is a tenth above the second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from report import record_robustness  # noqa: E402

DOCUMENTS, BATCH = 1600, 8


def resident_mb(pid: int) -> float:
    """How much of a process stands in RAM, in MB."""
    statm = Path(f"/proc/{pid}/statm")
    if statm.exists():
        return round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return round(int(done.stdout) * 1024 / 1e6, 1)


def main() -> int:
    """Train, look, print."""
    parser = argparse.ArgumentParser(description="Memory of a training, early and late.")
    parser.add_argument("--epochs", type=int, default=10, help="of 200 steps, at least 2 (default: %(default)s)")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs: at least 2, to compare")
    seen: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = (ROOT / "wiki.txt").read_text(encoding="utf-8").split("\n")[:DOCUMENTS]
        (folder / "wiki.txt").write_text("\n".join(documents), encoding="utf-8")
        words = [sys.executable, str(ROOT / "src/run.py"), "pretrain", "rope", str(folder / "wiki.txt")]
        words += ["--writing_params_path", str(folder / "p"), "--expt_dir", str(folder / "expt")]
        words += f"--max_epochs {args.epochs} --batch_size {BATCH} --checkpoint_minutes 0.25 --device cpu".split()
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in process.stdout:
            if line.startswith("epoch "):  # "epoch 1/10 step 200 loss ..."
                seen[int(line.split()[3])] = resident_mb(process.pid)
        if process.wait() or len(seen) < args.epochs:
            raise SystemExit(f"the training ended with exit code {process.returncode} after {len(seen)} epochs")
    result = {"documents": DOCUMENTS, "batch": BATCH, "rss_mb_at_step": seen}
    print(json.dumps(result))
    sizes = list(seen.values())
    found = f"{sizes[0]:.0f} MB after {min(seen)} steps, {sizes[-1]:.0f} MB after {max(seen):,}; between "
    found += f"{min(sizes):.0f} and {max(sizes):.0f} MB all the time (batches of {BATCH}, a checkpoint every 15 s)"
    record_robustness(f"python experiments/memory.py --epochs {args.epochs}", found, result)
    return 1 if sizes[-1] > 1.1 * sizes[1] else 0


if __name__ == "__main__":
    sys.exit(main())

"""The machine: device, precision, and what is fast on a CPU."""

import argparse
import shutil
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.checkpoints import read_checkpoint
from trainer import TrainerConfig
from utils import UserError, note


def pick_device(name: str) -> torch.device:
    """The device asked for (UserError if there is none); `auto` is a CUDA GPU, else Apple's MPS, else the CPU."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        if not have["cuda"] and shutil.which("nvidia-smi"):
            note(
                f"this machine seems to have an NVIDIA GPU, but PyTorch {torch.__version__} cannot use it, so the CPU "
                "is taken; see https://pytorch.org/get-started/locally, or say --device cpu"
            )
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if have[d]))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda, cuda:N or mps") from None
    usable = have.get(device.type, False)
    if not usable or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: this machine has none; use one of {', '.join(d for d in have if have[d])}")
    return device


def pick_precision(device: torch.device) -> str:
    """`bfloat16` where the hardware multiplies it, else `float32`."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bfloat16"
    return "float32"


def hardware(device: torch.device) -> str:
    """The hardware, for result files: the GPU's name, or the kind of CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' * (threads > 1)}, {torch.backends.cpu.get_cpu_capability()}"


def adapt(config: TrainerConfig, args: argparse.Namespace) -> TrainerConfig:
    """The config with the requested or resumed precision and settings that are fast on the device.

    A CPU computes a batch in groups of rows (see `batches.groups`): small groups have less padding, but are more
    calls. A CUDA GPU gets two DataLoader workers.
    """
    precision = args.precision
    if precision == "auto":
        precision = pick_precision(args.device)
        if args.resume and args.checkpoint_path.exists():
            precision = read_checkpoint(args.checkpoint_path)[1]["precision"]
    config = replace(config, precision=precision)
    if args.device.type == "cpu":
        rows = config.batch_size // (dist.get_world_size() if dist.is_initialized() else 1)
        return replace(config, micro_rows=min(32, max(16, rows // 4)))
    return replace(config, num_workers=2) if args.device.type == "cuda" else config


class QuickDropout(nn.Dropout):
    """nn.Dropout with cheaper random numbers on a CPU.

    There torch draws a number per element. Here numpy draws 64 bits for four elements, so p is rounded to a multiple of
    1/65536. Torch's generator seeds each draw, so its state still decides everything. Only the handout's recipe has
    dropout; this saves about a fifth of its step (experiments/README.md).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * 65536), 65535)
        bits = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw((x.numel() + 3) // 4)
        draws = torch.from_numpy(bits.view(np.int16))[: x.numel()].view(x.shape)  # -32768 .. 32767
        kept = torch.ge(draws, dropped - 32768, out=draws).to(x.dtype)
        return x * kept.mul_(65536 / (65536 - dropped))


def quicken(model: nn.Module) -> None:
    """Replace every nn.Dropout in a model by a QuickDropout."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, QuickDropout(child.p).train(child.training))

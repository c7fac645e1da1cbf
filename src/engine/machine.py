"""The machine: device, precision, and a dropout that is quick on a CPU."""

import numpy as np
import torch
from torch import Tensor, nn

from utils import UserError


def pick_device(name: str) -> torch.device:
    """The device asked for (a UserError if there is none); `auto` is a CUDA GPU, else Apple's MPS, else the CPU."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if have[d]))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda, cuda:N or mps") from None
    usable = have.get(device.type, False)
    if not usable or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: this machine has none; use one of {', '.join(d for d in have if have[d])}")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """`float32` or `bfloat16`; `auto` is bfloat16 where the processor multiplies it in hardware."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if fast else "float32"
    return "float32"


def hardware(device: torch.device) -> str:
    """A few words on the machine, for result files: the GPU's name, or the kind of CPU and its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


# ---------------------------------------------------------------- dropout on a CPU


class _QuickDropout(torch.autograd.Function):
    """Dropout whose random numbers are 16 bits each, four of them from one 64-bit draw of numpy's.

    On a CPU torch draws a number per element, and multiplies by a mask of another type; both cost more
    than the layer around them. Here the mask is an integer of all ones or all zeros that is laid over the
    bits of x. The probability is p rounded to 1/65536, and the scale is that of the rounded p. Torch's
    random numbers seed each draw, so that their state decides all.
    """

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        dropped = min(round(p * 65536), 65535)
        source = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
        draws = source.integers(0, 2**64, size=(x.numel() + 3) // 4, dtype=np.uint64)
        mask = torch.from_numpy(draws.view(np.int16))[: x.numel()].view(x.shape)  # -32768 .. 32767
        torch.lt(mask, dropped - 32768, out=mask).sub_(1)  # 1 - 1 = 0 to drop, 0 - 1 = -1, all ones, to keep
        ctx.save_for_backward(mask)
        ctx.scale = 65536 / (65536 - dropped)
        return _QuickDropout.masked(x, mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (mask,) = ctx.saved_tensors
        return _QuickDropout.masked(grad, mask).mul_(ctx.scale), None

    @staticmethod
    def masked(x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask is -1, 0 where it is 0."""
        same_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        return (x.contiguous().view(same_size) & mask.to(same_size)).view(x.dtype)


class QuickDropout(nn.Dropout):
    """nn.Dropout, with cheaper random numbers on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0 or x.device.type != "cpu":
            return super().forward(x)
        return _QuickDropout.apply(x, self.p)


def quicken(model: nn.Module) -> None:
    """Swap every nn.Dropout in a model for a quick one."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, QuickDropout(child.p).train(child.training))

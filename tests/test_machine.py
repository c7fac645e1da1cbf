"""The machine: devices, and dropout that is quick on a CPU."""

import math

import pytest
import torch

import run
from engine import options
from engine.machine import QuickDropout, pick_device, quicken
from helpers import same, tiny_model
from utils import UserError


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta"])
def test_an_absent_device_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        pick_device(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.99999])
def test_quick_dropout_is_dropout(p, dtype):
    """Elements are kept with probability 1 - p, independently, and scaled by its inverse; gradients likewise.

    p is rounded to 1/65536, but never to 1 (bug: 0.99999 divided by zero). Equal seeds of torch drop the same elements.
    """
    kept = 1 - min(round(p * 65536), 65535) / 65536
    x = (torch.rand(1999, 501).to(dtype) + 1).T.requires_grad_()  # not contiguous, no multiple of four elements
    masks = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        y = QuickDropout(p)(x)
        (gradient,) = torch.autograd.grad(y, x, torch.full_like(y, 2.0))
        masks.append(mask := y != 0)
        draws = mask.flatten()[: x.numel() // 4 * 4].view(-1, 4).double()  # numpy draws four at a time
        deviation = math.sqrt(kept * (1 - kept))
        assert abs(draws.mean(0) - kept).max() < 5 * deviation / math.sqrt(len(draws))
        assert abs(mask.double().mean(0) - kept).max() < 6 * deviation / math.sqrt(501) + 3 / 501
        covariance = torch.cov(draws.T) - kept * (1 - kept) * torch.eye(4)
        assert covariance.abs().max() < 5 * deviation / math.sqrt(len(draws))
        tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-6
        for got, wanted in ((y, x / kept), (gradient, torch.tensor(2 / kept))):
            assert torch.allclose(got, torch.where(mask, wanted, 0.0).to(dtype), rtol=tolerance)
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert QuickDropout(p).eval()(x) is x and QuickDropout(0.0)(x) is x


def test_quicken(tiny):
    """Each dropout of a model becomes a quick one with the same p; nothing else changes."""
    shares = {"embd_pdrop": 0.1, "resid_pdrop": 0.2, "attn_pdrop": 0.3}
    plain, quick = (tiny_model(rope=tiny.rope, **shares) for _ in range(2))
    quicken(quick)
    for old, new in zip(plain.modules(), quick.modules(), strict=True):
        assert type(new) is (QuickDropout if isinstance(old, torch.nn.Dropout) else type(old))
        assert getattr(new, "p", None) == getattr(old, "p", None)
    assert same(plain.state_dict(), quick.state_dict())
    x = torch.arange(10)[None]
    assert torch.equal(quick.eval()(x)[0], plain.eval()(x)[0])
    assert not torch.equal(quick.train()(x)[0], plain(x)[0])


def test_each_process_needs_a_gpu_of_its_own(tmp_path, monkeypatch):
    """Bug: more processes than GPUs ended in a traceback of each process."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(options, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    argv = ["pretrain", "rope", "wiki.txt", "--writing_params_path", str(tmp_path / "out"), "--device"]
    with pytest.raises(UserError, match=r"^--nproc_per_node 2: each process needs a GPU, and this machine has 1; "):
        options.parse(run.build_parser(), [*argv, "cuda"])
    assert options.parse(run.build_parser(), [*argv, "cpu"]).device.type == "cpu"

"""Formulas written out independently of src/: rotation, attention, loss, generation; entries of a parameter file."""

import math

import torch
from torch import Tensor


def rotate(x: Tensor) -> Tensor:
    """RoPE of the vectors x (T, hs) at positions 0 .. T - 1, as complex multiplication (handout equation 2)."""
    t, size = x.shape
    theta = torch.tensor([10000.0 ** (-2 * (i - 1) / size) for i in range(1, size // 2 + 1)], dtype=torch.float64)
    turn = torch.exp(1j * torch.arange(t, dtype=torch.float64)[:, None] * theta)
    z = torch.complex(x[:, 0::2].double(), x[:, 1::2].double()) * turn
    out = torch.empty(t, size, dtype=torch.float64)
    out[:, 0::2], out[:, 1::2] = z.real, z.imag
    return out.to(x.dtype)


def attention(x: Tensor, p: dict[str, Tensor], n_head: int, rope: bool) -> Tensor:
    """softmax(q k^T / sqrt(hs)) v of one row x (T, C), head by head; p holds qkv.weight, qkv.bias, proj.*."""
    size = x.size(1) // n_head
    qkv = x @ p["qkv.weight"].T + p["qkv.bias"]  # per head: q, k, v
    heads = []
    for h in range(n_head):
        q, k, v = (qkv[:, size * part : size * (part + 1)] for part in range(3 * h, 3 * h + 3))
        if rope:
            q, k = rotate(q), rotate(k)
        weight = torch.exp(torch.einsum("id,jd->ij", q, k) / math.sqrt(size)).tril()
        heads.append(weight / weight.sum(1, keepdim=True) @ v)
    return torch.cat(heads, dim=1) @ p["proj.weight"].T + p["proj.bias"]


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax at the target over logits (B, T, V) and targets (B, T); targets 0 are skipped."""
    places = zip(logits.flatten(0, 1), targets.flatten().tolist(), strict=True)
    losses = [torch.log(torch.exp(scores).sum()) - scores[target] for scores, target in places if target]
    return sum(losses) / len(losses)


def greedy(model, prompt: list[int], steps: int, block_size: int, stop: int | None = None) -> list[int]:
    """The likeliest continuation of a prompt, one row and one token at a time."""
    text = list(prompt)
    for _ in range(steps):
        text.append(int(model(torch.tensor([text[-block_size:]]))[0][0, -1].argmax()))
        if text[-1] == stop:
            break
    return text[len(prompt) :]


def relative(got: Tensor, wanted: Tensor) -> float:
    """|got - wanted| / |wanted|"""
    return ((got - wanted).norm() / wanted.norm()).item()


def contract_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every entry of a parameter file and its shape, as in the course's code."""
    v, b, c, head = config.vocab_size, config.block_size, config.n_embd, config.n_embd // config.n_head
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (v, c), "head.weight": (v, c)}
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    if not config.rope:
        shapes["pos_emb"] = (1, b, c)
    for i in range(config.n_layer):
        own = {"ln1.weight": (c,), "ln1.bias": (c,), "ln2.weight": (c,), "ln2.bias": (c,)}
        own |= {"attn.qkv.weight": (3 * c, c), "attn.qkv.bias": (3 * c,)}
        own |= {"attn.proj.weight": (c, c), "attn.proj.bias": (c,), "attn.mask": (1, 1, b, b)}
        own |= {"mlp.0.weight": (4 * c, c), "mlp.0.bias": (4 * c,), "mlp.2.weight": (c, 4 * c), "mlp.2.bias": (c,)}
        if config.rope:
            own["attn.rope_cache"] = (b, head // 2, 2)
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in own.items()}
    return shapes

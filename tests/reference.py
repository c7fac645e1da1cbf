"""A second GPT, written without looking at src/: padded batches, plain formulas, one head at a time.

It takes its parameters from a state dict with the contract's names. Everything is computed for every
position of the padded batch, in the precision of the parameters.
"""

from __future__ import annotations

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


def attention(x: Tensor, p: dict[str, Tensor], n_head: int, rope: bool, causal: bool = True) -> Tensor:
    """softmax(q k^T / sqrt(hs)) v of one row x (T, C), head by head; p has qkv.weight, qkv.bias, proj.*."""
    t, c = x.shape
    size = c // n_head
    qkv = x @ p["qkv.weight"].T + p["qkv.bias"]
    heads = []
    for h in range(n_head):
        of_head = qkv[:, 3 * size * h : 3 * size * (h + 1)]
        q, k, v = of_head[:, :size], of_head[:, size : 2 * size], of_head[:, 2 * size :]
        if rope:
            q, k = rotate(q), rotate(k)
        rows = []
        for i in range(t):
            seen = i + 1 if causal else t
            weight = torch.exp(torch.stack([q[i] @ k[j] for j in range(seen)]) / math.sqrt(size))
            rows.append((weight / weight.sum()) @ v[:seen])
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1) @ p["proj.weight"].T + p["proj.bias"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5), scaled and shifted."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def below(p: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries of p under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in p.items() if name.startswith(prefix)}


def naive_logits(p: dict[str, Tensor], idx: Tensor, n_layer: int, n_head: int, rope: bool) -> Tensor:
    """(B, T) token ids to (B, T, V) logits."""
    rows = []
    for row in idx:
        x = p["tok_emb.weight"][row]
        if not rope:
            x = x + p["pos_emb"][0, : len(row)]
        for layer in range(n_layer):
            b = below(p, f"blocks.{layer}.")
            y = layer_norm(x, b["ln1.weight"], b["ln1.bias"])
            x = x + attention(y, below(b, "attn."), n_head, rope)
            y = layer_norm(x, b["ln2.weight"], b["ln2.bias"])
            y = gelu(y @ b["mlp.0.weight"].T + b["mlp.0.bias"])
            x = x + y @ b["mlp.2.weight"].T + b["mlp.2.bias"]
        rows.append(layer_norm(x, p["ln_f.weight"], p["ln_f.bias"]) @ p["head.weight"].T)
    return torch.stack(rows)


def naive_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax at the target, over the positions whose target is not 0."""
    total, count = 0.0, 0
    for row, wanted in zip(logits, targets.tolist(), strict=True):
        for scores, target in zip(row, wanted, strict=True):
            if target:
                total = total + torch.log(torch.exp(scores - scores.max()).sum()) + scores.max() - scores[target]
                count += 1
    return total / count


class NaivePaddedGPT:
    """The reference with the parameters of a model; `p` holds copies that take gradients."""

    def __init__(self, model, dtype: torch.dtype = torch.float32):
        self.config = model.config
        names = {name for name, _ in model.named_parameters()}
        self.p = {
            name: value.detach().clone().to(dtype).requires_grad_()
            for name, value in model.state_dict().items()
            if name in names
        }

    def logits(self, idx: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)"""
        return naive_logits(self.p, idx, self.config.n_layer, self.config.n_head, self.config.rope)

    def loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a padded batch."""
        return naive_loss(self.logits(idx), targets)

    def greedy(self, prompt: list[int], steps: int, stop: int | None = None) -> list[int]:
        """The likeliest next token, again and again, from the last block_size tokens; nothing is cached."""
        text = list(prompt)
        while len(text) < len(prompt) + steps and (len(text) == len(prompt) or text[-1] != stop):
            with torch.no_grad():
                scores = self.logits(torch.tensor([text[-self.config.block_size :]]))[0, -1]
            text.append(int(scores.argmax()))
        return text[len(prompt) :]


def contract_shapes(config) -> dict[str, tuple[int, ...]]:
    """Every entry of a parameter file and its shape, as the course's code has them."""
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

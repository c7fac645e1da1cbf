"""The Muon optimizer, which recipes use for the matrices inside the blocks."""

from collections import defaultdict
from typing import Any, cast

import torch
from torch import Tensor

from trainer import TrainerConfig, adamw


class Muon(torch.optim.Optimizer):
    """SGD with Nesterov momentum whose update is orthogonalized (Jordan et al. 2024).

    Computes what torch.optim.Muon computes, without two costs on a CPU: torch's always multiplies in bfloat16, even
    where the processor must emulate it, and handles the matrices one by one.

    `params` are matrices only; `dtype` is that of the products: torch.bfloat16 gives torch's results.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.1, dtype=torch.bfloat16):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    same_shape[p.shape].append(p)
            for params in same_shape.values():
                updates = []
                for p in params:
                    momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    grad = cast(Tensor, p.grad)
                    momentum.lerp_(grad, 1 - group["momentum"])
                    updates.append(grad.lerp(momentum, group["momentum"]).to(self.dtype))  # Nesterov's look ahead
                scale = max(1.0, params[0].size(0) / params[0].size(1)) ** 0.5
                for p, update in zip(params, orthogonalize(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximately U V^T of each matrix U S V^T: the same directions, with singular values near 1.

    Newton-Schulz iteration x <- a x + b (x x^T) x + c (x x^T)^2 x; the coefficients bring every singular value
    between 0 and 1 near 1, small ones fast (Jordan et al. 2024).

    `matrices` are (N, rows, columns), in the dtype to compute in.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    is_tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if is_tall else matrices  # (N, short, long)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT  # (N, short, long) x (N, long, short) -> (N, short, short)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def muon_and_adamw(muon_lr: float):
    """For Trainer's make_optimizers: Muon for the matrices inside the blocks, AdamW for the rest.

    Muon is meant for hidden layers, so embeddings and head stay with AdamW.
    """

    def make(model: Any, config: TrainerConfig) -> list[torch.optim.Optimizer]:
        matrices = [p for block in model.blocks for p in block.parameters() if p.ndim == 2]
        hidden = {id(p) for p in matrices}
        (rest,) = adamw(model, config)
        for group in rest.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in hidden]
        dtype = getattr(torch, config.precision)
        return [rest, Muon(matrices, muon_lr, weight_decay=config.weight_decay, dtype=dtype)]

    return make

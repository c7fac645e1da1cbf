"""Forward and backward as CUDA graphs: on a fast GPU a step of this small model is bound by launches.

A graph is a recording of all the kernels of a step, replayed with one launch. It is bound to shapes and
memory addresses, so there is one for every shape of a batch (the trainer fills streams up so that these
are few), with input tensors of its own that each batch is copied into.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from packing import Rows


class GraphedStep:
    """`function(tokens, targets, rows) -> loss`, which also leaves gradients, recorded and replayed.

    Args:
        function: sets the `grad` of every parameter anew (it does not add to it).
        parameters: those that it leaves gradients on.

    If this GPU or this PyTorch cannot record the step, it is computed as it is, after a warning.
    """

    def __init__(self, function: Callable[[Tensor, Tensor, Rows], Tensor], parameters: list[Tensor]):
        self.function, self.parameters = function, parameters
        self.recordings: dict[tuple, tuple] = {}
        self.usable = True

    def __call__(self, tokens: Tensor, targets: Tensor, rows: Rows) -> Tensor:
        key = (len(tokens), rows.groups)
        if self.usable and key not in self.recordings:
            try:
                self.recordings[key] = self._record(tokens, targets, rows)
            except RuntimeError as error:
                warnings.warn(f"no CUDA graphs here, training is slower: {error}", stacklevel=2)
                self.usable = False
        if not self.usable:
            return self.function(tokens, targets, rows)
        graph, inputs, loss, gradients = self.recordings[key]
        for held, new in zip(inputs, (tokens, targets, *rows.tensors), strict=True):
            held.copy_(new)
        graph.replay()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss.clone()

    def _record(self, tokens: Tensor, targets: Tensor, rows: Rows) -> tuple:
        """(graph, its input tensors, its loss, its gradients) for batches of these shapes."""
        tokens, targets = tokens.clone(), targets.clone()
        row, position, cell, last = (t.clone() for t in rows.tensors)
        rows = replace(rows, row=row, position=position, cell=cell, last=last)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up at the first call, which cannot be recorded
            for _ in range(2):
                self.function(tokens, targets, rows)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.function(tokens, targets, rows)
        return graph, (tokens, targets, *rows.tensors), loss, [p.grad for p in self.parameters]

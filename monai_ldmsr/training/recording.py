"""Iterations as CUDA graphs: recorded once for each shape of batches, then replayed without Python in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["RecordedSteps", "make_plain", "make_recordable"]

Batch = dict[str, Tensor]
Step = Callable[[Batch], dict[str, Tensor]]

#: Plain iterations before one is recorded, so that libraries have chosen their kernels and optimizers have their state.
_WARM_UP = 3


class RecordedSteps:
    """Call ``step``, which trains on a batch and gives its losses, by replaying a recording of it.

    All of a step must happen on the device: its batch in tensors of fixed shape, numbers that change in tensors, random
    numbers from the device's default generator.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self._runs: dict[tuple[object, ...], int] = {}
        self._recordings: dict[tuple[object, ...], tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Train on a batch; the losses are copies."""
        shape = tuple((key, tuple(value.shape)) for key, value in sorted(batch.items()))
        if shape not in self._recordings:
            self._runs[shape] = self._runs.get(shape, 0) + 1
            if self._runs[shape] <= _WARM_UP:
                return self._run_plainly(batch)
            self._recordings[shape] = self._record(batch)
        graph, inputs, outputs = self._recordings[shape]
        for key, value in batch.items():
            inputs[key].copy_(value)
        graph.replay()
        return {key: value.clone() for key, value in outputs.items()}

    def _run_plainly(self, batch: Batch) -> dict[str, Tensor]:
        # On a stream of its own, as recordings are: gradients accumulate on the stream of the first iteration.
        self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self.step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def _record(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]:
        inputs = {key: value.clone() for key, value in batch.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # Recordings share their memory: one is replayed after the other, and losses are copied in between.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            outputs = self.step(inputs)
        self._pool = graph.pool()
        return graph, inputs, outputs


def make_recordable(optimizer: Optimizer | None, device: torch.device) -> None:
    """Keep an optimizer's learning rates and steps on the device, where recordings find them changed."""
    for group in [] if optimizer is None else optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.tensor(float(group["lr"]), device=device)


def make_plain(optimizer: Optimizer | None) -> None:
    """Undo :func:`make_recordable`, as for a checkpoint from a GPU with which a training goes on without one."""
    for group in [] if optimizer is None else optimizer.param_groups:
        if group.get("capturable"):
            group["capturable"] = False
            group["lr"] = float(group["lr"])

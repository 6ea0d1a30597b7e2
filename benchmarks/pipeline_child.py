"""One run of `ldmsr run` with the time of each phase; started by `benchmarks.pipeline`, a process for each run.

The package is not changed: what the bundle configured is timed from outside, object by object, and what cannot be found
to be timed is listed as missing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["PHASES", "FastNetwork", "Phases", "instrument", "main", "record_batches"]

#: Phases by the class of what does them; the first word of a kind of output is its own.
PHASES = {
    "ReadSourced": "read",
    "ScaleToModelRanged": "map to model range",
    "PlanSlicesd": "plan slices",
    "ScaleFromModelRanged": "map to source's unit",
    "ProjectOntoSourced": "project",
    "RestorePaddingd": "restore padding",
    "AddResultMapsd": "make maps",
    "ImageOutput": "write images",
    "MapOutput": "write maps",
    "ReportOutput": "write report",
}


class Phases:
    """Seconds by phase. A phase within another one is taken out of it; what other threads do stands apart."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self.spans: list[tuple[str, float, float]] = []
        self.missing: list[str] = []
        self._inner = threading.local()
        self._guard = threading.Lock()

    @contextmanager
    def phase(self, name: str) -> Any:
        """Time what is inside."""
        stack: list[float] = self._inner.__dict__.setdefault("stack", [])
        stack.append(0.0)
        begin = time.perf_counter()
        try:
            yield
        finally:
            end = time.perf_counter()
            own = end - begin - stack.pop()
            if stack:
                stack[-1] += end - begin
            self.add(name, begin, end, own)

    def add(self, name: str, begin: float, end: float, own: float | None = None) -> None:
        """Count a phase that has ended."""
        is_main = threading.current_thread() is threading.main_thread()
        with self._guard:
            where = self.seconds if is_main else self.beside
            where[name] = where.get(name, 0.0) + (end - begin if own is None else own)
            self.spans.append((name, begin, end))

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return call(*args, **kwargs)

        return wrapped

    def replace(self, owner: Any, attribute: str, name: str) -> None:
        """Time an attribute of an object or a module wherever it is called."""
        found = getattr(owner, attribute, None)
        if callable(found):
            setattr(owner, attribute, self.timed(name, found))
        else:
            self.missing.append(name)


class FastNetwork:
    """Bicubic interpolation in a network's place, with its factors and what it says of itself.

    The network still works on the first batch, and on each that is larger than all before, so that a run has its peak
    of memory; what it makes is thrown away.

    Args:
        network: the network whose place it takes.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._largest = 0
        self.factors = network.factors
        self.takes_places = getattr(network, "takes_places", False)

    def describe(self, *known: Any) -> Mapping[str, Any]:
        """As the network does."""
        return self._network.describe(*known)

    def __call__(self, slices: Any, *known: Any, **places: Any) -> Any:
        """Interpolate."""
        from monai_ldmsr.networks import upsample_bicubic

        return upsample_bicubic(slices, self.factors.in_plane)

    def estimates(self, slices: Any, *known: Any, **places: Any) -> list[tuple[Any, Any]]:
        """Interpolate, and expect an error that grows with the difference of neighbours."""
        if len(slices) > self._largest:
            self._network.estimates(slices, *known, **places)
            self._largest = len(slices)
        result = self(slices)
        error = 0.01 + (result - result.roll(1, -1)).abs()
        return [(result, error)]


def instrument(evaluator: Any, phases: Phases) -> None:
    """Time what an evaluator was configured with."""
    for steps in (evaluator.dataset.transform, evaluator.postprocessing):
        steps.transforms = tuple(_timed_step(one, phases) for one in steps.transforms)
    if evaluator.range_check is not None:
        evaluator.range_check = phases.timed("check range", evaluator.range_check)
    phases.replace(evaluator.inferer, "estimate", "network")
    for output in (*evaluator.writer.outputs, evaluator.writer.report):
        phases.replace(output, "write", _name_of(output))


def record_batches(network: Any) -> list[tuple[int, float]]:
    """Have a network note how many slices it was given at once, and how many seconds it took, in what is returned."""
    batches: list[tuple[int, float]] = []
    call = network.estimates

    def estimates(slices: Any, *known: Any, **places: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(slices, *known, **places)
        finally:
            batches.append((len(slices), time.perf_counter() - begin))

    network.estimates = estimates
    return batches


def _timed_step(step: Any, phases: Phases) -> Callable[..., Any]:
    return phases.timed(_name_of(step), step)


def _name_of(one: object) -> str:
    name = type(one).__name__
    return PHASES.get(name, name)


def main(arguments: Sequence[str]) -> None:
    """Run: source, output folder, factor, network (real or fast), force (0 or 1), start by the clock, record."""
    source, output, factor, kind, force, started, record = arguments
    phases = Phases()
    from monai_ldmsr import evaluator as evaluator_module
    from monai_ldmsr import result_file, result_writer, workflow

    phases.add("imports", float(started), time.perf_counter())
    build = workflow.open_evaluator
    batches: list[tuple[int, float]] = []

    def opened(*args: Any, **kwargs: Any) -> Any:
        nonlocal batches
        with phases.phase("network and weights"):
            made = build(*args, **kwargs)
        batches = record_batches(made.network)
        if kind == "fast":
            made.network = FastNetwork(made.network)
        instrument(made, phases)
        return made

    workflow.open_evaluator = opened
    phases.replace(result_file, "searched", "search")
    phases.replace(evaluator_module, "volume_noise", "measure noise")
    phases.replace(result_writer, "verified_files", "read back")
    summary = workflow.super_resolve(source, output, factor=int(factor), force=force == "1")
    if summary.exit_code:
        raise SystemExit("; ".join(f"{case.reason}: {case.message}" for case in summary.cases))
    found = {"seconds": phases.seconds, "beside": phases.beside, "missing": phases.missing, "spans": phases.spans}
    Path(record).write_text(json.dumps({**found, "batches": batches, "threads": _threads()}))


def _threads() -> int:
    import torch

    return torch.get_num_threads()


if __name__ == "__main__":
    main(sys.argv[1:])

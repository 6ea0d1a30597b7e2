"""How long an evaluation takes on this machine, so that a training keeps time for it."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.evaluation.trust import trust_parts
from monai_ldmsr.evaluation.volumes import measured_slices
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.training.clock import TrainingClock
from monai_ldmsr.training.own_bundle import OwnBundle
from monai_ldmsr.training.plan import TrainingPlan
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.intensity import fit_intensity_map

__all__ = ["EvaluationCost", "TimeIsUpError", "TimedProgress", "evaluate_trained", "time_for_evaluation"]

#: Share of a training's budget that an evaluation may have; and by how much more than timed is kept.
_SHARE, _MARGIN = 0.25, 1.3

#: Seconds between two lines for a person; and how late an evaluation may end, as a share of the budget.
_LINE_S, _LATE_SHARE = 20.0, 0.06

#: Slices of each volume that are degraded, and that are measured as scanned, and whether trust is measured: as much as
#: there is time for.
_COUNTS = ((4, 1, True), (4, 1, False), (2, 1, False), (1, 1, False), (2, 0, False), (1, 0, False))

#: Share of the time of a made slice that networks and measures take, and not tables and pictures.
_PIXEL_SHARE = 0.75

#: Sides of made slices that are measured; the first warms up.
_SIDES = (96, 192)


@dataclass(frozen=True)
class EvaluationCost:
    """Seconds of an evaluation: of each output pixel, and of tables and pictures.

    Args:
        fixed_s: seconds of tables and pictures.
        pixel_s: seconds of an output pixel.
        factor: factor of the networks.
        side: greatest side of what is measured as scanned.
    """

    fixed_s: float
    pixel_s: float
    factor: int
    side: int = 256

    @classmethod
    def measure(cls, networks: Mapping[str, SliceNetwork], factor: int, device: str | None = None) -> EvaluationCost:
        """Evaluate made slices."""
        where = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        random = np.random.default_rng(0)
        log = logging.getLogger(SplitEvaluation.__module__)
        level = log.level
        log.setLevel(logging.WARNING)  # figures of made slices say nothing
        for side in _SIDES:
            image = random.normal(size=(side, side)).cumsum(axis=0).astype(np.float32)
            made = TrainingVolume(
                "made", "MR", "made", (image,), fit_intensity_map(torch.from_numpy(image), "MR"), False
            )
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                SplitEvaluation([made], networks, factor, 1, device=where, native_slices_per_volume=0).run(folder)
            took = time.monotonic() - start
        log.setLevel(level)
        # Not by the difference of two sizes, which is noise where others use the machine.
        return cls((1 - _PIXEL_SHARE) * took, _PIXEL_SHARE * took / _SIDES[-1] ** 2, factor)

    def seconds(self, volumes: Sequence[TrainingVolume], slices: int, native_slices: int, trust: bool) -> float:
        """Seconds for these volumes, see ``SplitEvaluation``."""
        parts = trust_parts(volumes, {}, DegradationOperator("area", self.factor), slices) if trust else []
        pixels = sum(part.n_pixels() for part in parts)
        for volume in volumes:
            pixels += sum(volume.slices[n].size for n in measured_slices(volume, slices))
            for n in measured_slices(volume, native_slices) if native_slices else ():
                pixels += int(np.prod([min(self.side, side) * self.factor for side in volume.slices[n].shape]))
        return _MARGIN * (self.fixed_s + self.pixel_s * pixels)


def time_for_evaluation(
    volumes: Sequence[TrainingVolume],
    networks: Mapping[str, SliceNetwork],
    budget_s: float,
    device: str | None,
    say: Callable[[str], None],
) -> tuple[tuple[int, int, bool] | None, float]:
    """Choose how many slices a training's evaluation measures, and say so.

    Args:
        volumes: volumes of the test split.
        networks: networks of the same size as those that will be measured.
        budget_s: seconds of the whole training.
        device: where the networks run.
        say: called with each line for a person.

    Returns:
        Slices of each volume to be degraded and to be measured as scanned, and whether trust is measured, None where
        there is no time for any; and seconds that it takes.
    """
    say("timing the evaluation on made slices")
    cost = EvaluationCost.measure(networks, 4, device)
    for counts in _COUNTS:
        seconds = cost.seconds(volumes, *counts)
        took = f"about {seconds:.0f} s of the {budget_s:.0f} s"
        if seconds <= _SHARE * budget_s:
            what = f"{counts[0]} slices of each volume degraded, {counts[1]} as scanned"
            what += "" if counts[2] else ", no figures of trust"
            say(f"evaluation: {took} are kept for it: {what}")
            return counts, seconds
    say(f"evaluation: none; the budget is too small: it takes {took} here, and is given a quarter at most.")
    say("  Give a longer budget, or run ldmsr evaluate DATA OUT --split test --bundle on the bundle afterwards.")
    return None, 0.0


class TimeIsUpError(Exception):
    """An evaluation takes longer than it has; the text says so to a person."""


class TimedProgress:
    """Progress of an evaluation: a line now and then, and an end when its time is used up.

    Args:
        most_s: seconds that it has.
        say: called with each line.
    """

    def __init__(self, most_s: float, say: Callable[[str], None]) -> None:
        self._said = time.monotonic()
        self._ends, self._say = self._said + most_s, say

    def __call__(self, what: str, share: float) -> None:
        """As ``EvaluationProgress``.

        Raises:
            TimeIsUpError: its time is used up.
        """
        now = time.monotonic()
        if now > self._ends and share < 1:
            raise TimeIsUpError(f"evaluation: ended at {share:.0%}, slower than it was timed: the budget is used up.")
        if now - self._said >= _LINE_S:
            self._said = now
            self._say(f"evaluation: {what}, {share:.0%}")


def evaluate_trained(
    evaluate: Callable[..., EvaluationTable],
    plan: TrainingPlan,
    made: Sequence[OwnBundle],
    counts: tuple[int, int, bool],
    clock: TrainingClock,
    device: str | None,
    say: Callable[[str], None],
) -> None:
    """Evaluate what was trained on the test split, and write the figures onto its cards.

    Args:
        evaluate: what evaluates, as ``workflow.evaluate``.
        plan: what was trained.
        made: the model's bundle and the baselines'.
        counts: slices of each volume and whether trust is measured, see :func:`time_for_evaluation`.
        clock: the time of the whole training.
        device: where the networks run.
        say: called with each line for a person.
    """
    if len(made) < 2:
        say("not evaluated: that takes the model's and the baselines' weights")
        return
    where: dict[str, Any] = {"bundle": made[0].target, "baselines": made[1].target, "device": device}
    where |= {"modality": plan.modality, "limits": plan.limits, "split": "test"}
    where |= {"slices_per_volume": counts[0], "native_slices_per_volume": counts[1]}
    where["trust"] = counts[2]
    progress = TimedProgress(clock.left_s + _LATE_SHARE * clock.budget_s, say)
    try:
        table = evaluate(plan.data, plan.output / "evaluation", progress=progress, **where).as_dict()
    except TimeIsUpError as done:
        say(f"{done} Run the same command with a longer budget, which then only evaluates.")
        return
    for bundle in made:
        bundle.describe(table)
    say("table: evaluation/table.html")

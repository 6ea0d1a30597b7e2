"""The rows of the tables of stacks: interpolation along the stack, and networks on planes across its slices."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813  # as SimpleITK's own documentation
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.consistency import overshoot_share
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.stacks import SharpStack
from monai_ldmsr.geometry import SlicePlaces
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import PlaneNetwork
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.through_plane import PlaneBatches, refine_slices
from monai_ldmsr.transforms.slices import project_between

__all__ = ["STACK_ROWS", "StackRows", "refine_by_slices", "spline_matrix"]

FloatArray = npt.NDArray[np.float64]

#: What each row is, for those who read the table alone.
STACK_ROWS: dict[str, str] = {
    "linear": "the thick slices, linear between their centres; beyond the outermost centres, their slices go on",
    "bspline": "the thick slices, cubic B-spline along the stack (SimpleITK, sitkBSpline), at the places of the "
    "original's slices",
    "bspline_projected": "the same, made to agree with the thick slices by the projection that ours has",
    "srresnet": "SRResNet, which was trained within slices, on planes across them: the other axis averaged by the same "
    "factor first, both sets of planes averaged, then projected; where the factor is no whole number, the next whole "
    "one, and a cubic B-spline to the places of the original's slices; left out above its greatest factor",
    "ldm": "the latent diffusion model on planes across the slices, as the bundle ships it",
    "ldm_mean": "the same at detail 0: its expectation",
    "ldm_sample": "the same at detail 1: one sample",
    "hr": "the original",
}

#: What headers' rounding may make of a whole factor.
_ROUNDING = 1e-3

_BATCHES = PlaneBatches()


def spline_matrix(places: SlicePlaces, given: SlicePlaces) -> FloatArray:
    """(n, m) cubic B-spline along the stack, by SimpleITK, from slices at some places to slices at others.

    Args:
        places: where slices are wanted; none beyond the outer faces of those that are given.
        given: where there are slices.
    """
    unit = sitk.GetImageFromArray(np.eye(given.number))  # rows are slices, a column for each
    unit.SetSpacing((1.0, given.step))
    unit.SetOrigin((0.0, given.first))
    size = (given.number, places.number)
    found = sitk.Resample(
        unit, size, sitk.Transform(), sitk.sitkBSpline, (0.0, places.first), (1.0, places.step), (1, 0, 0, 1)
    )
    return np.asarray(sitk.GetArrayFromImage(found), np.float64)


def refine_by_slices(
    volume: Tensor,
    networks: Mapping[int, SliceNetwork],
    plan: SlicePlan,
    modality: str | None = None,
    noise: float | None = None,
    batches: PlaneBatches = _BATCHES,
) -> Tensor | None:
    """Super-resolve along the stack by networks that make slices finer along both axes.

    Planes across the slices are averaged along their other axis by the network's factor, so that both axes are as
    coarse; both sets of planes are averaged.

    Args:
        volume: (I, J, K) in model range.
        networks: by factor, on the device of ``batches``.
        plan: the new slices.
        modality: see ``SliceNetwork``.
        noise: likewise.
        batches: how many planes at once.

    Returns:
        (I, J, n) in model range; None where no network has the factor, or the next whole one.
    """
    factor = math.ceil(plan.factor - _ROUNDING)
    if factor not in networks:
        return None
    fine = SlicePlaces.between_faces(plan.n_source, factor)
    total = volume.new_zeros(*volume.shape[:2], fine.number)
    for axis in (0, 1):
        planes, target = volume.movedim(axis, 0), total.movedim(axis, 0)
        wide = planes.shape[1]
        for batch in batches.of(len(planes), wide * fine.number):
            images = planes[batch].to(batches.device)[:, None]
            padded = functional.pad(images, (0, 0, 0, -wide % factor), mode="replicate")
            coarse = functional.avg_pool2d(padded, (factor, 1))
            with torch.no_grad():
                made = networks[factor](coarse, modality, noise)
            target[batch] += made[:, 0, :wide].to(total.device) / 2
    if np.allclose((fine.number, fine.first, fine.step), plan.places):
        return total
    return total @ torch.from_numpy(spline_matrix(plan.places, fine)).to(total).T


@dataclass
class StackRows:
    """Brings thick slices back in all ways of the table.

    Args:
        planes: row name to a network that makes planes finer along one axis.
        slices: row name to networks by factor, see :func:`refine_by_slices`.
        consistency: weight of the projection.
        batches: how many planes at once, and the device of the networks.
        steps: hears how far it is.
    """

    planes: Mapping[str, PlaneNetwork]
    slices: Mapping[str, Mapping[int, SliceNetwork]]
    consistency: float = 1.0
    batches: PlaneBatches = field(default_factory=PlaneBatches)
    steps: EvaluationSteps = field(default_factory=lambda: EvaluationSteps((), 0, None))

    def of(self, stack: SharpStack) -> Iterator[tuple[str, Tensor, float]]:
        """Each row of a stack: name, (I, J, n) in the source's unit, seconds."""
        start = time.perf_counter()
        for row, image in self._rows(stack):
            yield row, image, time.perf_counter() - start
            start = time.perf_counter()

    def _rows(self, stack: SharpStack) -> Iterator[tuple[str, Tensor]]:
        plan, modality, scaled = stack.plan, stack.volume.modality, stack.volume.intensity.forward(stack.low)
        noise = volume_noise(scaled[None, None])
        yield "linear", _along(stack.low, plan.linear)
        spline = _along(stack.low, spline_matrix(plan.places, SlicePlaces.between_faces(plan.n_source)))
        yield "bspline", spline
        yield "bspline_projected", self._projected(spline.clone(), stack)
        for row, networks in self.slices.items():
            with self._step(stack, row):
                made = refine_by_slices(scaled, networks, plan, modality, noise, self.batches)
                back = None if made is None else self._back(made, stack)
            if back is not None:
                yield row, back
        for row, network in self.planes.items():
            with self._step(stack, row):
                made, _ = refine_slices(scaled, network, plan, stack.spacing_mm, modality, noise, self.batches)
                back = self._back(made, stack)
            yield row, back
        yield "hr", stack.high

    def n_pixels(self, stack: SharpStack) -> int:
        """What the networks make of a stack."""
        return stack.high.numel() * (len(self.planes) + len(self.slices))

    def _step(self, stack: SharpStack, row: str) -> AbstractContextManager[None]:
        what = f"slices of {stack.thick} along {'ijk'[stack.axis]}"
        return self.steps.step(stack.volume, what, row, stack.high.numel())

    def _back(self, made: Tensor, stack: SharpStack) -> Tensor:
        """What a network made, in the source's unit and in agreement with the thick slices."""
        return self._projected(stack.volume.intensity.inverse(made), stack)

    def _projected(self, fine: Tensor, stack: SharpStack) -> Tensor:
        least = 0.0 if stack.volume.is_magnitude else -math.inf
        share = overshoot_share(stack.plan.factor)
        project_between(
            fine, stack.low, stack.plan, weight=self.consistency, overshoot=share, value_range=(least, math.inf)
        )
        return fine


def _along(volume: Tensor, matrix: FloatArray) -> Tensor:
    """(I, J, K) by a matrix (n, K) along the last axis."""
    return volume @ torch.from_numpy(matrix).to(volume).T

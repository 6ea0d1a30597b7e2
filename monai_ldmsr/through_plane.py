"""New slices of a volume: two sets of planes across the slices are super-resolved, and averaged.

As SMORE (Zhao et al. 2020, doi:10.1109/TMI.2020.3037187) and ECLARE (Remedios et al. 2025, arXiv 2503.11787) take the
sharpness within slices for that across them; but with networks that were trained before, and one that knows what it
was given: the planes interpolated to the new grid, how many times finer that is, and the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ldmsr.choices import BATCH_PIXELS, BATCH_SIZE
from monai_ldmsr.networks.interface import PlaneNetwork
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.working_volumes import empty_volume

__all__ = ["PlaneBatches", "refine_slices"]

#: What is averaged of two samples that have nothing to do with each other has half the variance of one.
_TWO_SAMPLES = math.sqrt(2.0)

#: As what operator networks, which were trained within slices, see a profile.
_SEEN_AS = {"box": "area", "gaussian": "gaussian"}

#: How far the planes of the second set lie from those of the first, in mm: they get noise of their own.
_APART_MM = 1e5


@dataclass(frozen=True)
class PlaneBatches:
    """How many planes are super-resolved at once, and where.

    Args:
        planes: at most so many.
        pixels: output pixels of a batch at most (one plane at least).
        device: where the network runs.
    """

    planes: int = BATCH_SIZE
    pixels: int = BATCH_PIXELS
    device: str | torch.device = "cpu"

    def of(self, count: int, pixels: int) -> Iterator[slice]:
        """The planes of each batch, of ``count`` that have so many output pixels each."""
        step = max(1, min(self.planes, self.pixels // max(1, pixels)))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))


def refine_slices(
    volume: Tensor,
    network: PlaneNetwork,
    plan: SlicePlan,
    spacing_mm: tuple[float, float],
    modality: str | None = None,
    noise: float | None = None,
    batches: PlaneBatches = PlaneBatches(),  # frozen
    with_error: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Super-resolve a volume along its stack.

    Memory is that of the result, of its errors where they are wanted, and of a batch of planes.

    Args:
        volume: (I, J, K) in model range.
        network: see ``PlaneNetwork``; on the device of ``batches``.
        plan: the new slices.
        spacing_mm: distance between voxels along i and j.
        modality: see ``SliceNetwork``.
        noise: likewise.
        batches: how many planes at once.
        with_error: whether expected errors are wanted.

    Returns:
        (I, J, n) in model range on the volume's device, each slice contiguous in memory; and the expected absolute
        errors, or None.
    """
    weights = torch.from_numpy(plan.interpolation).to(batches.device, volume.dtype).T
    shape = (plan.places.number, *volume.shape[:2])
    result, error = empty_volume(shape), empty_volume(shape) if with_error else None
    factors, operator = (1.0, plan.factor), _SEEN_AS[plan.profile]
    width = plan.thickness_mm / plan.spacing_mm
    for axis in (0, 1):
        # Planes (count, other axis, K) as views; what they become goes to the same planes of (n, I, J).
        planes = volume.movedim(axis, 0)
        targets = [None if one is None else one.permute(1 + axis, 2 - axis, 0) for one in (result, error)]
        for batch in batches.of(len(planes), planes.shape[1] * plan.places.number):
            places = [axis * _APART_MM + n * spacing_mm[axis] for n in range(batch.start, batch.stop)]
            interpolated = planes[batch].to(batches.device)[:, None] @ weights
            with torch.no_grad():
                made = network.refine(interpolated, factors, modality, noise, places, operator, _TWO_SAMPLES, width)
            for target, one in zip(targets, made, strict=True):
                if target is not None:
                    half = one[:, 0].to(target.device) / 2
                    target[batch] = half if axis == 0 else target[batch] + half
    return result.movedim(0, -1), None if error is None else error.movedim(0, -1)

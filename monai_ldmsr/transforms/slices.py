"""New slices of a volume: planned from its source, and made to agree with it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator, Factor, factor_pair, repeat_blocks
from monai_ldmsr.errors import SourceError
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget

__all__ = ["PlanSlicesd", "project_between"]

#: How often bounds and agreement with the source are enforced in turn; and how often what impossible values took from
#: agreement is made good after.
_ROUNDS, _SETTLING = 2, 24


class PlanSlicesd(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Plan the new slices of a volume where such are wanted, before anything is computed.

    Behind ``ReadSourced`` and ``ScaleToModelRanged``. The plan is kept as ``pred_plan``, and as ``slice_plan`` of the
    volume's metadata, where ``VolumeInferer`` looks for it; neither is there where no new slices are wanted.

    Args:
        keys: volumes (1, I, J, K).
        factor: factor within slices.
        slices: how fine slices are wanted.

    Raises:
        SourceError: why there can be none, see :meth:`~monai_ldmsr.slice_plan.SliceTarget.plan` and
            :class:`~monai_ldmsr.io.slice_stack.StackFault`.
    """

    def __init__(
        self, keys: KeysCollection, factor: Factor, slices: SliceTarget, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor, self.slices = factor, slices

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Plan for each key."""
        result = dict(data)
        if not self.slices.is_wanted:
            return result
        source = result["source"]
        if source.stack_fault is not None:
            raise SourceError(source.stack_fault.message, source.stack_fault.reason)
        plan = self.slices.plan(source.geometry, self.factor, source.slice_thickness_mm)
        for key in self.key_iterator(result):
            result[key] = MetaTensor(result[key])  # of a tensor with metadata, a view with the same
            result[key].meta["slice_plan"] = result["pred_plan"] = plan
        return result


def project_between(
    result: Tensor,
    source: Tensor,
    plan: SlicePlan,
    factor: Factor = 1,
    weight: float = 1.0,
    operator: str = "area",
    overshoot: float = math.inf,
    value_range: tuple[float, float] = (-math.inf, math.inf),
    tolerance: float = 0.0,
    by_slice: list[float] | None = None,
    residual: Tensor | None = None,
    slab_voxels: int = 2**23,
) -> tuple[float, int]:
    """Make a volume with new slices agree with its source, and stay near its values, in place.

    What the result becomes when it is degraded within slices and averaged along the stack by the plan's profile is
    compared with the source; the difference comes back smoothly, ``x + w U (y - A x)`` with ``A U = 1``, as within
    slices (see :func:`~monai_ldmsr.consistency.project_onto_source`). Voxels may leave the range of the source voxels
    around them (3 x 3 in each of the three nearest slices) by a share of their contrast.

    Args:
        result: (I, J, n), f times finer along I and J, in the source's unit; changed in place.
        source: (I, J, K).
        plan: the new slices.
        factor: factor within slices.
        weight: 0 leaves the result, 1 makes the agreement exact, or nearly so where slices overlap.
        operator: assumed degradation within slices, one of ``operators.OPERATORS``.
        overshoot: share of the contrast; infinite for no bounds.
        value_range: least and greatest value of all voxels.
        tolerance: voxels that the bounds move by no more than this are not counted.
        by_slice: gets the root mean square disagreement of each acquired slice.
        residual: (I, J, K), gets what the network made, degraded again, less the source.
        slab_voxels: voxels of the result that are worked on at once, at factor 1.

    Returns:
        Root mean square disagreement of result and source before, in the source's unit; and the number of voxels that
        lay outside the bounds.
    """
    factor = factor_pair(factor)
    within = None if factor == (1, 1) else DegradationOperator(operator, factor)
    average, back = (torch.from_numpy(one).to(result).T for one in (plan.averaging, plan.inverse))
    nearest = torch.from_numpy(plan.nearest()).to(result.device)
    square, n_outside = torch.zeros(source.shape[-1], dtype=torch.float64), 0
    for rows, around in _slabs(source, slab_voxels // result[0].numel() if within is None else len(source)):
        image, measured = result[rows] if within is None else result, source[rows].to(result)
        low, high = (end.clamp(*value_range) for end in _bounds(source[around].to(result), rows, around, overshoot))
        missing = measured - _degraded(image, within) @ average
        square += missing.square().sum(dim=(0, 1), dtype=torch.float64).cpu()
        if residual is not None:
            residual[rows] = -missing.to(residual)
        for number in range(_ROUNDS if weight == 1.0 else 1):
            moved = _clip(image, low, high, nearest, within, tolerance)
            n_outside += 0 if number else moved
            correction = weight * ((measured - _degraded(image, within) @ average) @ back)
            for k, one in enumerate(correction.unbind(-1)):
                image[..., k] += one if within is None else within.smooth_inverse(one[None, None])[0, 0]
        if weight == 1.0 and not _is_possible(image, value_range):
            _settle(image, measured, plan, within, value_range)
        image.clamp_(*value_range)
    mean_squares = square / (source.shape[0] * source.shape[1])
    if by_slice is not None:
        by_slice.extend(float(one) ** 0.5 for one in mean_squares)
    return float(mean_squares.mean()) ** 0.5, n_outside


def _slabs(source: Tensor, step: int) -> Iterator[tuple[slice, slice]]:
    """Parts of the source along i, and the same with a voxel more on each side."""
    count = len(source)
    for start in range(0, count, max(1, step)):
        stop = min(start + max(1, step), count)
        yield slice(start, stop), slice(max(0, start - 1), min(count, stop + 1))


def _bounds(around: Tensor, rows: slice, outer: slice, share: float) -> tuple[Tensor, Tensor]:
    """Least and greatest value (I, J, K) near each acquired slice, of the rows without those around them."""
    volume = around[None, None]
    high = functional.max_pool3d(volume, 3, stride=1, padding=1)[0, 0]
    low = -functional.max_pool3d(-volume, 3, stride=1, padding=1)[0, 0]
    inner = slice(rows.start - outer.start, rows.stop - outer.start)
    if math.isinf(share):
        return low[inner] - math.inf, high[inner] + math.inf
    allowed = share * (high - low)
    return (low - allowed)[inner], (high + allowed)[inner]


def _clip(
    image: Tensor, low: Tensor, high: Tensor, nearest: Tensor, within: DegradationOperator | None, tolerance: float
) -> int:
    """Clip each new slice to the bounds near the acquired one that is nearest; how many voxels were moved."""
    outside = 0
    for k, one in enumerate(image.unbind(-1)):
        least, most = (end[..., nearest[k]] for end in (low, high))
        least, most = _spread(least, within), _spread(most, within)
        outside += int(((one < least - tolerance) | (one > most + tolerance)).sum())
        one.clamp_(least, most)
    return outside


def _is_possible(image: Tensor, value_range: tuple[float, float]) -> bool:
    return float(image.min()) >= value_range[0] and float(image.max()) <= value_range[1]


def _settle(
    image: Tensor,
    measured: Tensor,
    plan: SlicePlan,
    within: DegradationOperator | None,
    value_range: tuple[float, float],
) -> None:
    """Bring impossible values back into range, in place, without shifting the means over acquired slices.

    As ``clip_keeping_means`` within slices: what an acquired slice has got too much after clipping is taken from the
    voxels that it averaged in the proportion of their distance from the least value, and what it lacks likewise.
    """
    average = torch.from_numpy(plan.averaging).to(image)
    # Share of each acquired slice in a new one; those in gaps belong to none.
    shares = average / average.sum(dim=0).clamp(min=float(average.max()) * 1e-3)
    enough = 1e-6 * float(measured.abs().max())
    for _ in range(_SETTLING):
        image.clamp_(*value_range)
        found = _degraded(image, within) @ average.T
        missing = measured.clamp(*value_range) - found
        if float(missing.abs().max()) <= enough:
            break
        for sign, end in ((-1, value_range[0]), (1, value_range[1])):
            lacking = (sign * missing).clamp(min=0.0)
            if math.isinf(end):
                added = sign * (lacking @ shares)
                for k, one in enumerate(added.unbind(-1)):
                    image[..., k] += _spread(one, within)
                continue
            room = sign * (end - found)
            parts = (lacking / room.clamp(min=1e-12)).clamp(max=1.0) @ shares
            for k, one in enumerate(parts.unbind(-1)):
                image[..., k] += _spread(one, within) * (end - image[..., k])


def _spread(image: Tensor, within: DegradationOperator | None) -> Tensor:
    """(I, J) over the finer pixels of each source pixel."""
    return image if within is None else repeat_blocks(image[None, None], within.factor)[0, 0]


def _degraded(image: Tensor, within: DegradationOperator | None) -> Tensor:
    """(I, J, n) as coarse within slices as the source is."""
    if within is None:
        return image
    return torch.stack([within(one[None, None])[0, 0] for one in image.unbind(-1)], dim=-1)

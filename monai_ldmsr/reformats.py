"""Planes that hold the axis of a stack: cut from source, interpolation and result on one grid, and drawn upright.

A plane lies across the first (0) or second (1) axis of the volume. Its rows are the new slices, its columns run along
the other axis, until it is drawn: then the head is up, and anterior up or to the left; the patient's right is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.assessment import detail_window, display_window, patient_of
from monai_ldmsr.geometry import Factors, spread_slices
from monai_ldmsr.metrics.sharpness import foreground
from monai_ldmsr.report import SlicePanel
from monai_ldmsr.report.figures import Detail, find_edges
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.transforms import IntensityMap
from monai_ldmsr.working_volumes import plain

__all__ = ["StackPlanes", "reformat_panels"]

FloatArray = npt.NDArray[np.float64]

#: Name of a plane by the patient's axis (R, A, S) that it lies across.
_NAMES = ("Sagittal", "Coronal", "Axial")

#: Slices at most in which the body is looked for.
_LOOKED_AT = 12

#: A plane that is tilted by more than this is called so.
_TILTED_DEGREES = 5.0

#: Longest side of the detail in pixels of the result.
_DETAIL_PIXELS = 84


@dataclass(frozen=True, eq=False)
class StackPlanes:
    """Planes of one case.

    Args:
        source: (1, I, J, K) in the source's unit.
        result: (1, fI, gJ, n) in the source's unit.
        plan: where its n slices lie.
        factors: f and g, whole; that of k is not looked at.
        intensity: the volume's map; interpolation acts in its model range, as that of slices does.
        modality: DICOM's term.
    """

    source: Tensor
    result: Tensor
    plan: SlicePlan
    factors: Factors
    intensity: IntensityMap
    modality: str

    def places(self, axis: int, wanted: int) -> list[int]:
        """Indices of so many planes of the result at most, that part the body evenly; one alone is its middle."""
        share = np.cumsum(self._body[axis]) / self._body[axis].sum()
        step = self._steps[axis]
        ends = (np.arange(wanted) + 1) / (wanted + 1)
        return sorted({int(np.searchsorted(share, end)) * step + step // 2 for end in ends})

    def result_plane(self, axis: int, index: int, volume: Tensor | None = None) -> Tensor:
        """(n, columns) of the result, or of another volume on its grid."""
        return plain(self.result if volume is None else volume)[0].select(axis, index).T

    def bicubic(self, axis: int, index: int) -> Tensor:
        """(n, columns) bicubic along the stack and within slices, in model range."""
        return self._interpolated(axis, index, "bicubic", self.plan.interpolation)

    def linear(self, axis: int, index: int) -> Tensor:
        """(n, columns) linear along the stack and within slices, in model range."""
        return self._interpolated(axis, index, "bilinear", self.plan.linear)

    def bands(self, axis: int, index: int) -> Tensor:
        """(n, columns) of the source's own values: each slice a band, each pixel a block."""
        values = self._source_plane(axis, index).double().repeat_interleave(self._steps[1 - axis], 0)
        covered = torch.from_numpy(self.coverage)
        share = covered.sum(dim=1, keepdim=True)
        nearest = values[:, self.plan.nearest()].T
        return torch.where(share > 0, covered @ values.T / share.clamp(min=1e-9), nearest).float()

    @cached_property
    def coverage(self) -> FloatArray:
        """(n, K) share of each new slice that lies in the band of an acquired one, which ends where the next begins."""
        places = self.plan.places
        half = min(self.plan.thickness_mm / self.plan.spacing_mm, 1.0) / 2
        distance = places.centres[:, None] - np.arange(self.plan.n_source)[None, :]
        high, low = np.minimum(distance + places.step / 2, half), np.maximum(distance - places.step / 2, -half)
        share = np.clip(high - low, 0, None) / places.step
        return np.asarray(np.where(share < 1e-6, 0.0, share))

    @cached_property
    def _steps(self) -> tuple[int, int]:
        return Factors(self.factors.i, self.factors.j).whole[:2]

    @cached_property
    def _body(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many voxels of the body each plane across i and across j has, in some slices of the source."""
        volume = plain(self.source)
        found = np.zeros(tuple(volume.shape[1:3]), np.int64)
        for k in spread_slices(volume.shape[-1], _LOOKED_AT):
            image = volume[0, ..., k]
            if self.modality == "CT":
                found += patient_of(image.T.contiguous().numpy()).T
            else:
                found += self.body_of(self.intensity.forward(image)).numpy()
        if not found.any():
            found += 1
        return found.sum(axis=1), found.sum(axis=0)

    @staticmethod
    def body_of(image: Tensor) -> Tensor:
        """Where an image (rows, columns) in model range shows more than air."""
        grey = ((image[None, None] + 1) * 127.5).clamp(0, 255)
        return foreground(grey)[0, 0]

    def _source_plane(self, axis: int, index: int) -> Tensor:
        """(columns of the source, K)."""
        return plain(self.source)[0].select(axis, index // self._steps[axis])

    def _interpolated(self, axis: int, index: int, mode: str, along: FloatArray) -> Tensor:
        volume, other = plain(self.source)[0], 1 - axis
        across = _matrix(volume.shape[axis], self._steps[axis], mode)[index]
        near = across.nonzero()[:, 0]
        scaled = self.intensity.forward(volume.index_select(axis, near)).double()
        plane: Tensor = torch.tensordot(across[near], scaled, dims=([0], [axis]))
        if self._steps[other] > 1:
            plane = _matrix(volume.shape[other], self._steps[other], mode) @ plane
        found: Tensor = torch.from_numpy(along) @ plane.T
        return found.float()


@lru_cache(maxsize=8)
def _matrix(n: int, factor: int, mode: str) -> Tensor:
    """(f n, n) interpolation between the same outer faces, as torch does it."""
    columns = torch.eye(n, dtype=torch.float64)[None, :, :, None]
    found: Tensor = functional.interpolate(columns, size=(n * factor, 1), mode=mode, align_corners=False)[0, :, :, 0].T
    return found


def reformat_panels(
    planes: StackPlanes, affine: npt.ArrayLike, maps: Mapping[str, Tensor] | None = None
) -> list[SlicePanel]:
    """The two planes through the middle of the body that hold the axis of the stack, the coronal or axial one first.

    Args:
        planes: where they are cut from.
        affine: (4, 4) of the result, voxel index to RAS millimetres.
        maps: ``expected_error`` and ``trusted`` (1, fI, gJ, n), where there are such.
    """
    turned = np.asarray(affine, np.float64)
    named = _patient_axes(turned)
    return [_panel(planes, axis, turned, maps or {}) for axis in sorted((0, 1), key=lambda a: -named[a])]


def _panel(planes: StackPlanes, axis: int, affine: FloatArray, maps: Mapping[str, Tensor]) -> SlicePanel:
    (index,) = planes.places(axis, 1)
    orient = _Orientation.of(affine, axis)
    bicubic = orient.drawn(planes.intensity.inverse(planes.bicubic(axis, index)))
    share = np.repeat(planes.coverage.sum(axis=1)[:, None], planes.result.shape[1:3][1 - axis], axis=1)
    known: dict[str, Any] = {name: orient.drawn(planes.result_plane(axis, index, one)) for name, one in maps.items()}
    return SlicePanel(
        index,
        source=orient.drawn(planes.bands(axis, index)),
        bicubic=bicubic,
        result=orient.drawn(planes.result_plane(axis, index)),
        window=display_window(planes.source, planes.intensity, planes.modality),
        spacing_mm=orient.spacing_mm,
        details=(_detail(bicubic, planes.modality, orient.spacing_mm),),
        title=f"{orient.title}, through the middle of the body",
        acquired=orient.drawn(torch.from_numpy(share)) if share.min() < 1 - 1e-6 else None,
        **known,
    )


def _detail(image: npt.NDArray[np.floating], modality: str, spacing_mm: tuple[float, float]) -> Detail:
    """Where a plane has most edges: a place as high as wide in mm, as far as the plane is."""
    side_mm = _DETAIL_PIXELS * min(spacing_mm)
    rows, columns = (max(2, round(side_mm / mm)) for mm in spacing_mm)
    box = find_edges(image, (rows, columns), patient_of(image) if modality == "CT" else None)
    return Detail("Most edges", box, detail_window(box.cut(image), modality, False))


@dataclass(frozen=True)
class _Orientation:
    """How a plane (slices, columns) becomes a picture."""

    title: str
    is_turned: bool
    flips: tuple[int, ...]
    spacing_mm: tuple[float, float]

    @classmethod
    def of(cls, affine: FloatArray, axis: int) -> _Orientation:
        """That of the plane across a voxel axis, of a volume with this affine to RAS."""
        patient, other = _patient_axes(affine), 1 - axis
        is_turned = patient[2] < patient[other]
        shown = (other, 2) if is_turned else (2, other)
        # Up is head or anterior, left is anterior or the patient's right: towards all of them RAS grows.
        flips = tuple(at for at, voxel in enumerate(shown) if affine[patient[voxel], voxel] > 0)
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        normal = np.cross(affine[:3, other], affine[:3, 2])
        cosine = abs(normal[patient[axis]]) / float(np.linalg.norm(normal))
        degrees = math.degrees(math.acos(min(1.0, cosine)))
        tilt = f" (tilted by {degrees:.0f}°)" if degrees > _TILTED_DEGREES else ""
        spacing = (float(lengths[shown[0]]), float(lengths[shown[1]]))
        return cls(f"{_NAMES[patient[axis]]} plane{tilt}", is_turned, flips, spacing)

    def drawn(self, plane: Tensor) -> npt.NDArray[np.float32]:
        """(rows, columns) of the picture."""
        image = plane.T if self.is_turned else plane
        return np.ascontiguousarray(np.flip(image.cpu().numpy().astype(np.float32), self.flips))


def _patient_axes(affine: FloatArray) -> tuple[int, ...]:
    """The patient's axis (0 R, 1 A, 2 S) that each voxel axis is nearest to, each of them once."""
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    return max(permutations(range(3)), key=lambda axes: sum(cosines[axes[v], v] for v in range(3)))

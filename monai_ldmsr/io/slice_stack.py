"""How the slices of a series are stacked: direction, distance, and what is irregular about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.dicom_header import ImagePlane, length_mm, number_list

__all__ = [
    "StackFault",
    "Stations",
    "shear_fault",
    "single_slice_spacing",
    "slice_thickness",
    "stack_fault",
    "stack_step",
]

FloatArray = npt.NDArray[np.float64]

#: Slice distances that differ from the usual one by more than this part of it are reported.
SPACING_TOLERANCE = 0.01

#: A distance of more than this many usual ones counts as a gap where an image may be missing.
GAP_FACTOR = 1.5

#: Below this angle between slice positions and normal, the slices count as stacked straight.
TILT_TOLERANCE_DEGREES = 0.5

#: Distances that differ from a whole number of usual ones by no more than this part of one still belong to one stack.
_GRID_TOLERANCE = 0.05

#: Headers that say thicknesses further apart than this part of them say none.
_THICKNESS_TOLERANCE = 0.01

#: What to do about a stack between whose slices no new ones can be made.
_REMEDY = "Super-resolve within slices alone, or"

#: Slices further than this part of a voxel from the straight line through their positions are reported.
STRAIGHTNESS_TOLERANCE = 0.5


@dataclass(frozen=True)
class StackFault:
    """Why no new slices can be made between those of a stack.

    Args:
        reason: ``IRREGULAR_SPACING``, ``MISSING_SLICE`` or ``GANTRY_TILT``.
        message: what was found, and what to do.
    """

    reason: ReasonCode
    message: str


class Stations:
    """The different positions along the normal at which images stand.

    Args:
        planes: planes of images with one normal, in any order.

    Attributes:
        of_image: which station each image stands at, ascending along the normal.
        counts: how many images stand at each.
        positions_mm: position of each station along the normal, in LPS.
        tolerance_mm: two images closer than this stand at one.
    """

    def __init__(self, planes: Sequence[ImagePlane]) -> None:
        along = np.array([plane.position_mm for plane in planes]) @ planes[0].normal
        self.tolerance_mm = min(plane.position_tolerance_mm for plane in planes)
        order = np.argsort(along, kind="stable")
        starts = np.diff(along[order], prepend=-np.inf) > self.tolerance_mm
        self.of_image = np.empty(len(along), int)
        self.of_image[order] = np.cumsum(starts) - 1
        self.counts = np.bincount(self.of_image)
        self.positions_mm = along[order][starts]

    @property
    def most(self) -> int:
        """Images at the station that has the most."""
        return int(self.counts.max())

    @property
    def spacing_mm(self) -> float:
        """Usual distance (lower median) of neighbours; 0 for one station."""
        distances = np.sort(np.diff(self.positions_mm))
        return float(distances[(len(distances) - 1) // 2]) if len(distances) else 0.0

    def evenness(self) -> float:
        """Part of the neighbours that are one usual distance apart; 0 where one is no whole number of them."""
        if len(self.positions_mm) < 2:
            return 0.0
        steps = np.diff(self.positions_mm) / self.spacing_mm
        near = np.rint(steps)
        tolerance = max(_GRID_TOLERANCE, self.tolerance_mm / self.spacing_mm)
        return float((near == 1).mean()) if (np.abs(steps - near) <= tolerance).all() else 0.0

    def check_single(self) -> None:
        """Refuse stations with several images.

        Raises:
            SourceError: ``DUPLICATE_POSITION``.
        """
        if self.most == 1:
            return
        held = " and ".join(f"{n} hold {k} images" for k, n in sorted(Counter(self.counts.tolist()).items()))
        first = int(np.argmax(self.counts > 1)) + 1
        raise SourceError(
            f"Of {len(self.counts)} slice positions, {held} (the first with several: position {first}; tolerance "
            f"{self.tolerance_mm:.3g} mm), and neither an attribute nor their order parts them into whole volumes. "
            "Remove the images that do not belong to the volume, or fetch those that are missing.",
            ReasonCode.DUPLICATE_POSITION,
        )


def single_slice_spacing(header: Dataset, warnings: list[str]) -> float:
    """Distance in mm that a lone image stands for.

    Args:
        header: header of the image.
        warnings: appended to where the header says no distance.
    """
    spacing = length_mm(header, "SpacingBetweenSlices", "SliceThickness")
    if not spacing:
        warnings.append("The one image has neither Spacing Between Slices nor Slice Thickness: 1 mm is assumed.")
    return spacing or 1.0


def stack_step(planes: Sequence[ImagePlane], warnings: list[str]) -> tuple[FloatArray, float]:
    """Unit direction (LPS) and length in mm of the step from slice to slice.

    Args:
        planes: ascending along the normal, at least two.
        warnings: appended to where the stack is irregular.

    Raises:
        SourceError: ``DUPLICATE_POSITION``.
    """
    normal = planes[0].normal
    Stations(planes).check_single()
    positions = np.array([plane.position_mm for plane in planes])
    along = positions @ normal
    spacing = _usual_distance(np.diff(along), warnings)
    step = (positions[-1] - positions[0]) / (along[-1] - along[0])
    tilt = _tilt_degrees(step, normal)
    if tilt > TILT_TOLERANCE_DEGREES:
        warnings.append(
            f"Slices are stacked {tilt:.1f} degrees off their normal (gantry tilt; tolerance "
            f"{TILT_TOLERANCE_DEGREES} degrees): the volume is sheared, and its affine says so."
        )
        axis = np.asarray(step / np.linalg.norm(step))
        spacing *= float(np.linalg.norm(step))
    else:
        axis = normal
    away = np.linalg.norm(positions - positions[0] - np.outer(along - along[0], step), axis=1).max()
    limit = STRAIGHTNESS_TOLERANCE * min(planes[0].pixel_spacing_mm)
    if away > limit:
        warnings.append(
            f"Slices are shifted in-plane against each other by up to {_mm(away)} mm (tolerance {_mm(limit)} "
            "mm): the volume's affine is an average; each slice keeps its own place."
        )
    return axis, spacing


def stack_fault(planes: Sequence[ImagePlane]) -> StackFault | None:
    """Why no new slices can be made between those of a series; None where they lie evenly and straight.

    New slices lie along the normal through the first one, so that every acquired one must, within half a pixel.

    Args:
        planes: ascending along the normal, each at a position of its own.
    """
    if len(planes) < 2:
        return None
    normal = planes[0].normal
    positions = np.array([plane.position_mm for plane in planes])
    along = (positions - positions[0]) @ normal
    distances = np.diff(along)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    widest = int(np.argmax(distances))
    if distances[widest] > GAP_FACTOR * usual:
        return StackFault(
            ReasonCode.MISSING_SLICE,
            f"Slices {widest + 1} and {widest + 2} are {_mm(distances[widest])} mm apart, but the others are "
            f"{_mm(usual)} mm apart, so an image may be missing and no new slices are made. {_REMEDY} fetch the series "
            "again.",
        )
    if np.abs(distances - usual).max() > SPACING_TOLERANCE * usual:
        return StackFault(
            ReasonCode.IRREGULAR_SPACING,
            f"Slices lie unevenly, {_mm(distances.min())} to {_mm(distances.max())} mm apart, usually {_mm(usual)} mm, "
            f"so no new slices are made between them. {_REMEDY} resample the series evenly.",
        )
    step = (positions[-1] - positions[0]) / along[-1]
    tilt = _tilt_degrees(step, normal)
    limit = STRAIGHTNESS_TOLERANCE * min(planes[0].pixel_spacing_mm)
    shifted = float(np.linalg.norm(positions - positions[0] - np.outer(along, step), axis=1).max())
    if shifted > limit:
        return StackFault(
            ReasonCode.IRREGULAR_SPACING,
            f"Slices are shifted in-plane against each other by up to {_mm(shifted)} mm (tolerance {_mm(limit)} mm), "
            f"so no new slices are made between them. {_REMEDY} resample the series evenly.",
        )
    away = float(np.linalg.norm(positions - positions[0] - np.outer(along, normal), axis=1).max())
    if tilt > TILT_TOLERANCE_DEGREES or away > limit:
        return StackFault(
            ReasonCode.GANTRY_TILT,
            f"Slices are stacked {tilt:.2g} degrees off their normal, which moves them by up to {_mm(away)} mm "
            f"against the first, so no new slices are made between them. {_REMEDY} resample the series without tilt.",
        )
    return None


def shear_fault(geometry: VolumeGeometry) -> StackFault | None:
    """``GANTRY_TILT`` where the third axis of a volume does not stand upright on the first two."""
    row, column, axis = geometry.direction_lps.T
    tilt = _tilt_degrees(axis, np.cross(row, column))
    if min(tilt, 180 - tilt) <= TILT_TOLERANCE_DEGREES or geometry.shape[2] < 2:
        return None
    return StackFault(
        ReasonCode.GANTRY_TILT,
        f"Slices are stacked {min(tilt, 180 - tilt):.2g} degrees off their normal (sheared affine), so no new slices "
        f"are made between them. {_REMEDY} resample the volume without shear.",
    )


def slice_thickness(headers: Sequence[Dataset]) -> float | None:
    """Slice Thickness in mm, where all headers say the same above 0 (within 1 %); None where they do not."""
    found = [number_list(header, "SliceThickness", 1) for header in headers]
    said = [numbers[0] for numbers in found if numbers and numbers[0] > 0]
    if not said or len(said) < len(headers) or max(said) - min(said) > _THICKNESS_TOLERANCE * max(said):
        return None
    return float(np.median(said))


def _tilt_degrees(step: FloatArray, normal: FloatArray) -> float:
    """Angle between the direction in which slices follow each other and their normal."""
    cosine = step @ normal / np.linalg.norm(step) / np.linalg.norm(normal)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def _usual_distance(distances: FloatArray, warnings: list[str]) -> float:
    """Usual distance in mm between neighbouring slices: the mean of those alike, else the lower median."""
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    tolerance = SPACING_TOLERANCE * usual
    odd = np.flatnonzero(np.abs(distances - usual) > tolerance)
    gaps = odd[distances[odd] > GAP_FACTOR * usual]
    warnings.extend(
        f"Slices {k + 1} and {k + 2} are {_mm(distances[k])} mm apart, but the others are {_mm(usual)} mm "
        f"apart (tolerance {tolerance:.2g} mm). An image may be missing."
        for k in gaps
    )
    if len(odd) > len(gaps):
        warnings.append(
            f"Slice distances are uneven: {_mm(distances.min())} to {_mm(distances.max())} mm, usually "
            f"{_mm(usual)} mm (tolerance {tolerance:.2g} mm)."
        )
    return usual if len(odd) else float(distances.mean())


def _mm(length: float) -> str:
    """Hundredths, or as many digits as distinguish voxels of small animals."""
    return f"{length:.2f}" if length >= 1 else f"{length:.3g}"

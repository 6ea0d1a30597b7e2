"""How the slices of a series are stacked: direction, distance, and what is irregular about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import ImagePlane, number_list
from monai_ldmsr.io.series_grouping import POSITION_TOLERANCE_MM

__all__ = ["single_slice_spacing", "stack_step"]

FloatArray = npt.NDArray[np.float64]

#: Slice distances that differ from the usual one by more than this part of it are reported.
SPACING_TOLERANCE = 0.01

#: A distance of more than this many usual ones counts as a gap where an image may be missing.
GAP_FACTOR = 1.5

#: Below this angle between slice positions and normal, the slices count as stacked straight.
TILT_TOLERANCE_DEGREES = 0.5

#: Slices further than this part of a voxel from the straight line through their positions are reported.
STRAIGHTNESS_TOLERANCE = 0.5


def single_slice_spacing(header: Dataset, warnings: list[str]) -> float:
    """Distance in mm that a lone image stands for.

    Args:
        header: of the image.
        warnings: appended to where the header says no distance.
    """
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        # Some scanners write the sense of the stack as a minus sign.
        spacing = abs((number_list(header, keyword, 1) or (0.0,))[0])
        if spacing > 0:
            return spacing
    warnings.append("The one image has neither Spacing Between Slices nor Slice Thickness: 1 mm is assumed.")
    return 1.0


def stack_step(planes: Sequence[ImagePlane], warnings: list[str]) -> tuple[FloatArray, float]:
    """Unit direction (LPS) and length in mm of the step from slice to slice.

    Args:
        planes: ascending along the normal, at least two.
        warnings: appended to where the stack is irregular.

    Raises:
        SourceError: ``DUPLICATE_POSITION``.
    """
    normal = planes[0].normal
    positions = np.array([plane.position_mm for plane in planes])
    along = positions @ normal
    spacing = _usual_distance(np.diff(along), warnings)
    step = (positions[-1] - positions[0]) / (along[-1] - along[0])
    tilt = float(np.degrees(np.arccos(np.clip(1 / np.linalg.norm(step), -1, 1))))
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
            f"Slices are shifted in-plane against each other by up to {away:.2f} mm (tolerance {limit:.2f} "
            "mm): the volume's affine is an average; each slice keeps its own place."
        )
    return axis, spacing


def _usual_distance(distances: FloatArray, warnings: list[str]) -> float:
    """Usual distance in mm between neighbouring slices: the mean of those alike, else the lower median.

    Raises:
        SourceError: ``DUPLICATE_POSITION``.
    """
    repeats = np.flatnonzero(distances <= POSITION_TOLERANCE_MM)
    if len(repeats):
        raise SourceError(
            f"{len(repeats)} of {len(distances) + 1} images stand at the position of another one "
            f"(the first: slices {repeats[0] + 1} and {repeats[0] + 2}; tolerance {POSITION_TOLERANCE_MM} "
            "mm), and no attribute tells them apart. Remove the images that do not belong to the volume.",
            ReasonCode.DUPLICATE_POSITION,
        )
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    tolerance = SPACING_TOLERANCE * usual
    odd = np.flatnonzero(np.abs(distances - usual) > tolerance)
    gaps = odd[distances[odd] > GAP_FACTOR * usual]
    warnings.extend(
        f"Slices {k + 1} and {k + 2} are {distances[k]:.2f} mm apart, but the others are {usual:.2f} mm "
        f"apart (tolerance {tolerance:.3f} mm). An image may be missing."
        for k in gaps
    )
    if len(odd) > len(gaps):
        warnings.append(
            f"Slice distances are uneven: {distances.min():.3f} to {distances.max():.3f} mm, usually "
            f"{usual:.3f} mm (tolerance {tolerance:.3f} mm)."
        )
    return usual if len(odd) else float(distances.mean())

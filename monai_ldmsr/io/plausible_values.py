"""What can be read and may still mean something else: refused where it surely does, a warning where it may."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import number_list

__all__ = [
    "LARGEST_VALUE",
    "LEAST_SLOPE",
    "PADDING_HU",
    "Resolution",
    "mark_impossible",
    "negative_pet",
    "plausibility_warnings",
]

#: Greatest absolute value, and least absolute slope, with which single precision can still be calculated.
LARGEST_VALUE = 1e37
LEAST_SLOPE = 1e-30

#: No tissue, nor air, measures such values (HU) or lower ones: scanners write them outside the field of view.
PADDING_HU = -2000.0

_UNDECLARED = "(0028,0120) 'Pixel Padding Value' does not name them"

#: Steps of stored values that single precision cuts into fewer parts than these give a warning in the report.
_LEAST_PARTS = 8


def plausibility_warnings(modality: str, headers: Sequence[Dataset], least_value: float) -> list[str]:
    """Warnings about a series that reads well.

    Args:
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        headers: one an image.
        least_value: least value that the stored type can hold after rescale.

    Raises:
        SourceError: ``BAD_RESCALE`` when a lookup table stands between stored values and their meaning.
    """
    n_tables = sum("ModalityLUTSequence" in header for header in headers)
    if n_tables:
        raise SourceError(
            f"(0028,3000) 'Modality LUT Sequence' stands in {n_tables} of {len(headers)} images: stored values have "
            "their meaning by a lookup table, which super-resolved values cannot keep. Export rescaled values.",
            ReasonCode.BAD_RESCALE,
        )
    found = []
    if modality == "CT" and least_value >= 0:
        found.append("The stored type cannot hold values below 0, but air is -1000 HU: are these Hounsfield units?")
    announced = max((number_list(header, "NumberOfSlices", 1) or (0.0,))[0] for header in headers)
    if modality == "PT" and announced > len(headers):
        found.append(
            f"(0054,0081) 'Number of Slices' is {announced:.0f}, but there are {len(headers)} images. "
            "Images may be missing."
        )
    return found


class Resolution:
    """Whether single precision can distinguish the values of a series; ask once an image."""

    def __init__(self) -> None:
        self._n_coarse = 0

    def check(self, stored: npt.NDArray[np.int32], values: npt.NDArray[np.float32], slope: float, place: str) -> None:
        """Look at the stored integers of one image, and at what they became by the slope of its rescale.

        Raises:
            SourceError: ``BAD_RESCALE`` when different stored integers became the same value.
        """
        resolution = float(np.spacing(np.abs(values).max()))
        if abs(slope) < _LEAST_PARTS * resolution:
            self._n_coarse += 1
        # Values are rounded to the nearest, so steps of more than the resolution stay apart.
        if abs(slope) <= resolution and np.unique(values).size < np.unique(stored).size:
            raise SourceError(
                f"{place}: (0028,1053) 'Rescale Slope' is so small against (0028,1052) 'Rescale Intercept' that "
                "different stored values become the same in single precision. Export rescaled values.",
                ReasonCode.BAD_RESCALE,
            )

    @property
    def warnings(self) -> list[str]:
        """What the report says of the images that were looked at."""
        if not self._n_coarse:
            return []
        return [
            f"{self._n_coarse} images have a (0028,1052) 'Rescale Intercept' so large against (0028,1053) 'Rescale "
            "Slope' that single precision rounds their values noticeably."
        ]


def negative_pet(
    voxels: npt.NDArray[np.float32],
    padding: npt.NDArray[np.bool_],
    steps: Sequence[float],
    signed: Sequence[bool],
) -> list[str]:
    """A warning about values below 0 that a PET result, of intercept 0 and the source's stored type, cannot hold.

    Args:
        voxels: (I, J, K).
        padding: (I, J, K), where they mean nothing.
        steps: between stored values, one an image.
        signed: whether stored values are, one an image.
    """
    n_lost = sum(
        int(np.count_nonzero((voxels[:, :, k] < -0.5 * step) & ~padding[:, :, k]))
        for k, (step, is_signed) in enumerate(zip(steps, signed, strict=True))
        if not is_signed
    )
    if not n_lost:
        return []
    return [
        f"{n_lost} voxels of the PET are below 0, stored unsigned with a negative (0028,1052) 'Rescale Intercept'. The "
        "intercept of a PET result is 0, so where the result is below 0 it is written as 0."
    ]


def mark_impossible(
    voxels: npt.NDArray[np.float32], padding: npt.NDArray[np.bool_], undeclared: str = _UNDECLARED
) -> list[str]:
    """Add to ``padding``, in place, the voxels of at most ``PADDING_HU``: de-identification loses the tag.

    Args:
        voxels: (I, J, K) in HU.
        padding: (I, J, K), true where the header declares padding.
        undeclared: why the header does not declare these, for the warning.

    Returns:
        One warning where there were any, for the report.
    """
    count = 0
    for k in range(voxels.shape[2]):
        impossible = (voxels[:, :, k] <= PADDING_HU) & ~padding[:, :, k]
        padding[:, :, k] |= impossible
        count += int(impossible.sum())
    if not count:
        return []
    return [
        f"{count} voxels are {PADDING_HU:.0f} HU or less, which nothing measures, and {undeclared}: they "
        "are taken for padding and kept as they are."
    ]

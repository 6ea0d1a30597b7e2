"""What a training learns from: slices with the map to model range, wherever they were read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = ["MANIFEST", "SPLITS", "FloatImage", "TrainingVolume"]

SPLITS = ("train", "calibration", "test")

#: Name of the list of volumes in a dataset folder.
MANIFEST = "manifest.csv"

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingVolume:
    """High-resolution slices of one volume.

    Args:
        name: file name without folder, or the hash that stands for a DICOM series.
        modality: DICOM's term, ``CT``, ``MR`` or ``PT``, or ``unknown``.
        subject: patient as in the manifest, or the hash that stands for one.
        slices: two-dimensional float32 images in the source's unit.
        intensity: the volume's map to model range.
        halved: whether the slices were averaged 2x2, being interpolated.
        spacing_mm: spacing of rows, columns and slices; None where it is not known, as of packed volumes.
    """

    name: str
    modality: str
    subject: str
    slices: tuple[FloatImage, ...]
    intensity: IntensityMap
    halved: bool
    spacing_mm: tuple[float, float, float] | None = None

"""Sources of thick slices, and results with finer ones whose values say where they lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from dicom_fixtures import make_series
from series_by_hand import DERIVATION, read_images

from monai_ldmsr.io import DicomSeries, read_dicom_series
from monai_ldmsr.io.derived_series import Derivation
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget

#: (row spacing, column spacing, slice distance) in mm, of 4 slices; and how thick they are.
SPACING_MM, N_SLICES, THICKNESS_MM = (0.7, 0.9, 5.0), 4, 4.0

#: Value of a voxel for each mm along the normal, and at the centre of the source's first slice: none is below 0.
PER_MM, AT_FIRST = 50.0, 200.0


def thick_series(
    folder: Path, modality: str = "CT", thickness_mm: float = THICKNESS_MM, **overrides: Any
) -> DicomSeries:
    """A made series of thick slices, read; oblique."""
    make_series(
        folder, modality, (6, 8, N_SLICES), spacing_mm=SPACING_MM, **{"SliceThickness": thickness_mm, **overrides}
    )
    return read_dicom_series(folder)


def plan_of(series: DicomSeries, in_plane: int = 1, profile: str = "box", **target: Any) -> SlicePlan:
    """The plan of a target for a series."""
    wanted = SliceTarget(profile=profile, **(target or {"slice_spacing": 1.0}))
    return wanted.plan(series.geometry, in_plane, series.slice_thickness_mm)


def derivation_of(plan: SlicePlan, in_plane: int = 1, **changed: Any) -> Derivation:
    """What made a result of that plan."""
    settings = {**DERIVATION.settings, **plan.described()}
    return replace(DERIVATION, **{"factor": in_plane, "plan": plan, "settings": settings, **changed})


def ramp(
    series: DicomSeries, in_plane: int, spacing_mm: float, first_face_mm: float, n_slices: int
) -> npt.NDArray[Any]:
    """(I', J', K') whose values grow along the normal: slices from a face to the next."""
    columns, rows, _ = series.geometry.shape
    along_mm = first_face_mm + (np.arange(n_slices) + 0.5) * spacing_mm
    return np.broadcast_to(AT_FIRST + PER_MM * along_mm, (columns * in_plane, rows * in_plane, n_slices)).astype(
        np.float32
    )


def along_mm(values: Any) -> Any:
    """Where values of a ramp say that they lie, in mm along the normal from the source's first slice."""
    return (values - AT_FIRST) / PER_MM


def outer_corners_mm(images: list[pydicom.Dataset], overlap_mm: float = 0.0) -> npt.NDArray[np.float64]:
    """(8, 3) in LPS, from Image Position and Slice Thickness of the first and last image alone."""
    corners = []
    for image, side in ((images[0], -0.5), (images[-1], 0.5)):
        cosines = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        down, across = (float(value) for value in image.PixelSpacing)
        normal = np.cross(*cosines)
        middle = np.array(image.ImagePositionPatient, float)
        middle = middle + side * (float(image.SliceThickness) - overlap_mm) * normal
        for column in (-0.5, image.Columns - 0.5):
            for row in (-0.5, image.Rows - 0.5):
                corners.append(middle + column * across * cosines[0] + row * down * cosines[1])
    return np.array(corners)


def source_images(folder: Path) -> list[pydicom.Dataset]:
    """Images of a folder, ascending along the normal."""
    return read_images(folder)

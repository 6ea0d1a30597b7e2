"""A DicomSeries without the package's reader: what the tests of the writer start from and compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from dicom_fixtures import make_series
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword

from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.derived_series import Derivation, write_derived_series
from monai_ldmsr.io.dicom_series import DicomSeries

DERIVATION = Derivation(
    factor=2,
    method="nearest neighbour",
    software_version="0.1.0",
    weights_sha256="ab" * 32,
    seed=7,
    settings={"steps": 20, "guidance": 1.5, "sampler": "ddim"},
)


def along_normal(image: pydicom.Dataset) -> float:
    """Return the place of a slice along its own normal, in mm."""
    cosines = np.array(image.ImageOrientationPatient, float)
    return float(np.cross(cosines[:3], cosines[3:]) @ np.array(image.ImagePositionPatient, float))


def read_images(folder: Path) -> list[pydicom.Dataset]:
    """Return all images of ``folder``, ascending along the normal."""
    return sorted((pydicom.dcmread(path) for path in folder.glob("*.dcm")), key=along_normal)


def rescaled(images: list[pydicom.Dataset]) -> npt.NDArray[np.float32]:
    """Return (columns, rows, slices) in the unit of the modality."""
    slices = []
    for image in images:
        slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
        slices.append(image.pixel_array.astype(np.float64) * slope + intercept)
    return np.stack([s.T for s in slices], axis=2).astype(np.float32)


def series_by_hand(folder: Path) -> DicomSeries:
    """Read one regular series."""
    images = read_images(folder)
    voxels = rescaled(images)
    first = images[0]
    cosines = np.array(first.ImageOrientationPatient, float)
    direction = np.stack([cosines[:3], cosines[3:], np.cross(cosines[:3], cosines[3:])], axis=1)
    gap_mm = (along_normal(images[-1]) - along_normal(first)) / (len(images) - 1)
    row_mm, column_mm = (float(v) for v in first.PixelSpacing)
    headers = (pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm"))
    return DicomSeries(
        case="0" * 12,
        modality=first.Modality,
        unit="stored",
        headers=tuple(sorted(headers, key=along_normal)),
        voxels=voxels,
        geometry=VolumeGeometry.from_lps(
            voxels.shape, first.ImagePositionPatient, direction, (column_mm, row_mm, gap_mm)
        ),
        value_range=(float(voxels.min()), float(voxels.max())),
        padding=None,
        warnings=(),
    )


def repeated(voxels: npt.NDArray[np.float32], factor: int = 2) -> npt.NDArray[np.float32]:
    """Return the nearest-neighbour result: every pixel ``factor`` times along columns and rows."""
    return voxels.repeat(factor, axis=0).repeat(factor, axis=1)


def made_by_hand(folder: Path, modality: str = "CT", shape: tuple[int, int, int] = (4, 5, 3), **named) -> DicomSeries:
    """Make a series, and read it."""
    make_series(folder, modality, shape, **named)
    return series_by_hand(folder)


def write(series: DicomSeries, folder: Path) -> list[Dataset]:
    """Write the nearest-neighbour result of a series, and read it."""
    paths = write_derived_series(series, repeated(series.voxels), folder, DERIVATION).paths
    return [pydicom.dcmread(path) for path in paths]


def derive(folder: Path, modality: str = "CT", change=None, derivation=DERIVATION, **overrides) -> list[Dataset]:
    """Make a source with ``overrides``, let ``change`` edit each data set, and return the derived images."""
    make_series(folder / "source", modality, (6, 8, 3), **overrides)
    if change is not None:
        rewrite(folder / "source", change)
    series = series_by_hand(folder / "source")
    write_derived_series(series, repeated(series.voxels, derivation.in_plane.whole[0]), folder / "result", derivation)
    return [pydicom.dcmread(path) for path in sorted((folder / "result").glob("*.dcm"))]


def rewrite(folder: Path, change, transfer_syntax: str | None = None) -> None:
    """Let ``change`` edit each data set of ``folder``, and write it in ``transfer_syntax``."""
    for path in folder.glob("*.dcm"):
        image = pydicom.dcmread(path)
        change(image)
        image.file_meta.TransferSyntaxUID = transfer_syntax or image.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(path, image)


def raw_bytes(image: Dataset, keyword: str) -> bytes:
    """Return the value of an element as the file holds it, without padding."""
    element = image.get_item(tag_for_keyword(keyword))
    assert element.is_raw
    return element.value.rstrip(b" \0")

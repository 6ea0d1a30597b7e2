"""The place and values of a series as three independent readers see them, and as its headers say."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import dcm2niix
import highdicom
import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK

CORNER_TOLERANCE_MM = 1e-3


def corners_ras_mm(affine: npt.NDArray[np.float64], shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    index = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    index = index * np.array(shape) - 0.5
    return index @ affine[:3, :3].T + affine[:3, 3]


def source_corners_ras_mm(images: Sequence[pydicom.Dataset]) -> npt.NDArray[np.float64]:
    """Outer corners straight from the first and last of headers that ascend along the normal."""
    first, last = images[0], images[-1]
    cosines = np.array(first.ImageOrientationPatient, float)
    begin, end = (np.array(x.ImagePositionPatient, float) for x in (first, last))
    affine = np.eye(4)
    affine[:3, 0] = cosines[:3] * float(first.PixelSpacing[1])
    affine[:3, 1] = cosines[3:] * float(first.PixelSpacing[0])
    affine[:3, 2] = (end - begin) / (len(images) - 1)
    affine[:3, 3] = begin
    return corners_ras_mm(np.diag([-1, -1, 1, 1]) @ affine, (first.Columns, first.Rows, len(images)))


def check_corners(
    found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], tolerance_mm: float = CORNER_TOLERANCE_MM
) -> None:
    """Pair the corners, whatever their order, and compare."""
    distance = np.linalg.norm(found[:, None] - expected[None], axis=2)
    assert sorted(distance.argmin(axis=1)) == list(range(8)), "corners do not pair up"
    assert distance.min(axis=1).max() < tolerance_mm


Read = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # affine RAS, voxels with those axes


def read_by_highdicom(folder: Path) -> Read:
    images = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    # highdicom wants cosines equal to the digit and a frame of reference: both hold in our cases.
    volume = highdicom.get_volume_from_series(images)
    return np.diag([-1, -1, 1, 1]) @ volume.affine, volume.array


def read_by_simpleitk(folder: Path) -> Read:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return of_itk(reader.Execute())


def of_itk(image: SimpleITK.Image) -> Read:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine, SimpleITK.GetArrayFromImage(image).T


def read_by_dcm2niix(folder: Path) -> Read:
    out = folder.parent / f"{folder.name}_nifti"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    subprocess.run(
        [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "out", "-o", out, folder], check=True, capture_output=True
    )
    (path,) = out.glob("*.nii")
    image = nibabel.load(path)
    return image.affine, np.asarray(image.dataobj)


READERS = [read_by_highdicom, read_by_simpleitk, read_by_dcm2niix]

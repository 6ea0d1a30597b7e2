"""Volume files by other libraries, and why one is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io import ReadLimits
from monai_ldmsr.io.volume_file import read_volume_file

SHAPE = (6, 5, 4)
ANGLE = np.deg2rad(25)
AFFINE = np.array(
    [
        [-0.9 * np.cos(ANGLE), 0.7 * np.sin(ANGLE), 0, 12.0],
        [-0.9 * np.sin(ANGLE), -0.7 * np.cos(ANGLE), 0, -7.0],
        [0, 0, 2.5, 33.0],
        [0, 0, 0, 1],
    ]
)
VALUES = np.arange(120, dtype=np.int16).reshape(SHAPE) * 7 - 100


def write_source(path: Path, values: np.ndarray = VALUES, affine: np.ndarray = AFFINE) -> Path:
    """Write with another library's conventions: NIfTI in RAS by nibabel, the others in LPS by SimpleITK."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image(values, affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        nib.save(image, path)
        return path
    image = sitk.GetImageFromArray(values.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    n = values.ndim
    image.SetOrigin(lps[:n, 3].tolist())
    image.SetSpacing(spacing[:n].tolist())
    image.SetDirection((lps[:3, :3] / spacing)[:n, :n].ravel().tolist())
    image.SetMetaData("PatientName", "MARKER^PATIENT")
    sitk.WriteImage(image, str(path))
    return path


def reason_of(path: Path, **limits: int) -> ReasonCode:
    with pytest.raises(SourceError) as caught:
        read_volume_file(path, ReadLimits(**limits))
    assert str(path.parent) not in str(caught.value)
    return caught.value.reason


def scaled_nifti(path: Path, slope: float, intercept: float) -> Path:
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.header.set_slope_inter(slope, intercept)
    nib.save(image, path)
    return path


def write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write the manifest of a data set, with the columns of the first row."""
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def textured(path: Path, shape: tuple[int, int, int], seed: int = 0, reach: tuple[float, float] = (20, 15)) -> Path:
    """A NIfTI volume of waves and grain, so that nothing counts as interpolated."""
    x, y = np.meshgrid(*(np.linspace(0, end, n) for end, n in zip(reach, shape, strict=False)), indexing="ij")
    voxels = 500 * (np.sin(x) * np.cos(y))[..., None] + np.random.default_rng(seed).normal(0, 80, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([1, 1, 4.0, 1])), path)
    return path

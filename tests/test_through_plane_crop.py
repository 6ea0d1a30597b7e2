"""The crop for another program: thick slices lie in the patient where they were cut, and files are compared there."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from through_plane_crop import compare, prepare
from tissue_volumes import thick_slices

from monai_ldmsr.evaluation.stacks import ThickSlices


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(size=(120, 124, 90))
    voxels = (1000 + 2000 * ndimage.gaussian_filter(noise, 1.5)).astype(np.int16)
    affine = np.array([[0, -1, 0, 40], [0.9, 0, 0, -30], [0, 0, 1.0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "whole.nii.gz")
    prepare(tmp_path / "whole.nii.gz", tmp_path / "out", ThickSlices(4, 1), (100, 104, 62))
    return tmp_path / "out"


def test_the_crop_and_its_thick_slices_lie_where_they_were_cut(prepared: Path) -> None:
    whole = nibabel.load(prepared.parent / "whole.nii.gz")
    original, thick = (nibabel.load(prepared / f"{name}.nii.gz") for name in ("original", "thick"))
    assert (original.shape, thick.shape) == ((100, 104, 59), (100, 104, 12))
    places = np.linalg.inv(whole.affine) @ original.affine
    i, j, k = np.rint(places[:3, 3]).astype(int)
    assert np.allclose(places[:3, :3], np.eye(3))
    assert (np.asarray(original.dataobj) == np.asarray(whole.dataobj)[i : i + 100, j : j + 104, k : k + 59]).all()
    # The third thick slice: 4 voxels from the tenth on, whose centre lies between the middle two of these.
    assert np.allclose(thick.dataobj[..., 2], np.asarray(original.dataobj)[..., 10:14].mean(axis=-1), atol=1e-3)
    centre = thick.affine @ np.array([3, 4, 2, 1.0])
    assert np.allclose(centre, original.affine @ np.array([3, 4, 11.5, 1.0]))


def test_a_file_that_lies_half_a_slice_off_is_worse(prepared: Path) -> None:
    original = nibabel.load(prepared / "original.nii.gz")
    moved = original.affine.copy()
    moved[2, 3] += 0.5
    for name, affine in (("right.nii.gz", original.affine), ("moved.nii.gz", moved)):
        nibabel.save(nibabel.Nifti1Image(np.asarray(original.dataobj, np.float32), affine), prepared / name)
    found = compare(prepared, [prepared / "right.nii.gz", prepared / "moved.nii.gz"])
    assert list(found) == ["B-spline", "right.nii.gz", "moved.nii.gz"]
    assert found["moved.nii.gz"]["psnr"] < 35
    assert not found["right.nii.gz"]["psnr"] < 45
    assert found["right.nii.gz"]["ssim"] > 0.999
    assert found["B-spline"]["psnr"] < found["moved.nii.gz"]["psnr"]


def test_thickness_and_gap_are_read() -> None:
    assert thick_slices("4") == ThickSlices(4, 0)
    assert thick_slices("5|1.5") == ThickSlices(5, 1.5)

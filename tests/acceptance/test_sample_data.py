"""The shipped samples through the shipped model: same place, same means, valid, by three readers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_validators import has_validators, run_dcentvfy, run_dciodvfy
from independent_readers import READERS, check_corners, corners_ras_mm, source_corners_ras_mm
from places import SAMPLES
from series_by_hand import along_normal, read_images, rescaled

from monai_ldmsr import super_resolve

MEAN_TOLERANCE = 0.005
N_SLICES = 3


@pytest.fixture(scope="module", params=["mr_t1_sagittal", "ct_abdomen", "pet_fdg"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source and result of neighbouring slices of a sample series."""
    folder = tmp_path_factory.mktemp(request.param)
    files = sorted((SAMPLES / "dicom" / request.param).glob("*.dcm"), key=lambda p: along_normal(pydicom.dcmread(p)))
    (folder / "source").mkdir()
    for path in files[len(files) // 2 : len(files) // 2 + N_SLICES]:
        shutil.copy(path, folder / "source")
    summary = super_resolve(folder / "source", folder / "out", factor=2, num_inference_steps=1)
    assert summary.exit_code == 0
    return folder / "source", folder / "out" / summary.cases[0].case / "dicom"


@pytest.mark.parametrize("read", READERS)
def test_readers_find_it_where_the_source_was(case: tuple[Path, Path], read) -> None:
    source, result = case
    images = read_images(source)
    affine, voxels = read(result)
    columns, rows = images[0].Columns, images[0].Rows
    assert sorted(voxels.shape) == sorted((2 * columns, 2 * rows, N_SLICES))
    check_corners(corners_ras_mm(affine, voxels.shape), source_corners_ras_mm(source))
    original = rescaled(images).astype(float)
    assert abs(voxels.mean() - original.mean()) < MEAN_TOLERANCE * np.abs(original).mean()


@pytest.mark.skipif(not has_validators(), reason="dicom3tools is not installed")
def test_validators_find_nothing_new(case: tuple[Path, Path]) -> None:
    of_source, of_result = ({line for path in folder.glob("*.dcm") for line in run_dciodvfy(path)} for folder in case)
    assert of_result - of_source == set()
    assert run_dcentvfy([path for folder in case for path in sorted(folder.glob("*.dcm"))]) == []


def test_samples_are_small_and_licensed() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 15e6
    readme = (SAMPLES / "README.md").read_text()
    for folder in [*(SAMPLES / "dicom").iterdir(), *(SAMPLES / "nifti").iterdir()]:
        assert folder.name in readme, f"{folder.name} has no licence in sample_data/README.md"

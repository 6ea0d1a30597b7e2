"""The shipped samples through the shipped model: same place, same means, valid, by three readers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from odd_conformance import check_by_readers, check_conformance
from places import SAMPLES
from series_by_hand import along_normal, read_images, rescaled

from monai_ldmsr import super_resolve

MEAN_TOLERANCE = 0.005
N_SLICES = 3


@pytest.mark.parametrize("name", ["mr_t1_sagittal", pytest.param("ct_abdomen", marks=pytest.mark.slow), "pet_fdg"])
def test_neighbouring_slices_stay_in_their_place(name: str, tmp_path: Path) -> None:
    files = sorted((SAMPLES / "dicom" / name).glob("*.dcm"), key=lambda path: along_normal(pydicom.dcmread(path)))
    source = tmp_path / "source"
    source.mkdir()
    for path in files[len(files) // 2 : len(files) // 2 + N_SLICES]:
        shutil.copy(path, source)
    summary = super_resolve(source, tmp_path / "out", factor=2, num_inference_steps=1)
    assert summary.exit_code == 0
    folder = tmp_path / "out" / summary.cases[0].case
    check_conformance(folder, source)
    check_by_readers(folder, source)
    original, result = (rescaled(read_images(place)).astype(float) for place in (source, folder / "dicom"))
    assert abs(result.mean() - original.mean()) < MEAN_TOLERANCE * np.abs(original).mean()


def test_samples_are_small_and_licensed() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 15e6
    readme = (SAMPLES / "README.md").read_text()
    for folder in [*(SAMPLES / "dicom").iterdir(), *(SAMPLES / "nifti").iterdir()]:
        assert folder.name in readme, f"{folder.name} has no licence in sample_data/README.md"

"""What 3D Slicer does with a result, by the library that it reads with: ITK, here through SimpleITK.

Slicer itself is in no registry that tests can install from. It finds series in a folder, reads each as a volume in the
space of the patient, and fades from one to the other by sampling the foreground where the background has its voxels.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK
from places import SAMPLES
from series_by_hand import DERIVATION, repeated, series_by_hand

from monai_ldmsr import super_resolve
from monai_ldmsr.io.derived_series import write_derived_series

_OUTSIDE = -1e9


def faded_values(background: SimpleITK.Image, foreground: SimpleITK.Image) -> tuple[npt.NDArray[np.float64], ...]:
    """Values of both at the background's voxels but those of its rim, the foreground by linear interpolation."""
    sampled = SimpleITK.Resample(
        foreground, background, SimpleITK.Transform(), SimpleITK.sitkLinear, _OUTSIDE, SimpleITK.sitkFloat64
    )
    inner = (slice(1, -1),) * 3
    return tuple(SimpleITK.GetArrayFromImage(image)[inner].astype(float) for image in (background, sampled))


@pytest.mark.parametrize("name", ["mr_t1_sagittal", "ct_abdomen", "pet_fdg"])
def test_source_and_result_of_one_folder_are_two_volumes_in_one_space(tmp_path: Path, name: str) -> None:
    both = tmp_path / "both"
    shutil.copytree(SAMPLES / "dicom" / name, both)
    series = series_by_hand(both)
    for path in write_derived_series(series, repeated(series.voxels), tmp_path / "result", DERIVATION).paths:
        shutil.copy(path, both / f"result_{path.name}")

    reader = SimpleITK.ImageSeriesReader()
    uids = reader.GetGDCMSeriesIDs(str(both))
    files = [reader.GetGDCMSeriesFileNames(str(both), uid) for uid in uids]
    assert [len(names) for names in files] == [len(series.headers)] * 2
    result, source = sorted((SimpleITK.ReadImage(names) for names in files), key=lambda image: image.GetSpacing()[0])
    assert result.GetSize() == (2 * source.GetSize()[0], 2 * source.GetSize()[1], source.GetSize()[2])
    assert result.GetSpacing() == pytest.approx([*(mm / 2 for mm in source.GetSpacing()[:2]), source.GetSpacing()[2]])

    shown, faded = faded_values(source, result)
    # PET gets a new slope for each slice, so its values are rounded once more.
    half_step = 0.51 * shown.max() / 2**15 if series.modality == "PT" else 0
    np.testing.assert_allclose(faded, shown, rtol=0, atol=half_step + 1e-6)


def test_volume_files_share_their_space(tmp_path: Path, bundle: Path) -> None:
    path = SAMPLES / "nifti" / "mr_brain_t2_1mm_cc0.nii.gz"
    assert super_resolve(path, tmp_path, modality="MR", bundle=bundle, device="cpu").exit_code == 0
    [written] = tmp_path.glob("*/*.nii.gz")
    shown, faded = faded_values(SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(written)))
    np.testing.assert_allclose(faded, shown, atol=1e-3)

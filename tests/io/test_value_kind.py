"""Label maps by name, text and values: whatever their shape and type, and no image for one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from odd_volumes import nifti
from places import SHARED_DATA

from monai_ldmsr.errors import ReasonCode, SkippedSourceError
from monai_ldmsr.io.value_kind import label_warnings
from monai_ldmsr.io.volume_file import read_volume_file

#: Volumes as they were scanned, which are too large to ship, beside the repository.
SCANNED = sorted((SHARED_DATA / "volumes").rglob("*.nii.gz"))[::5]

II, JJ, KK = np.indices((32, 28, 6))
NOISE = np.random.default_rng(0).normal(0, 1, II.shape)
SPARSE = (II % 6 == 5) & (JJ % 6 == 5)
BLOCKS = II // 11 + JJ // 11

#: Values of label maps of any form.
LABELS = {
    "blocks": BLOCKS,
    "seeds": SPARSE * (1 + (II > 15)),
    "needle": (II == 10) + 2 * (II == 20),
    "needle across": (JJ == 10) + 2 * (JJ == 20),
    "slices": KK,
    "empty": 0 * II,
    "all one": 0 * II + 1,
    "outside -1000": BLOCKS - 1000 * (II < 3),
    "below 0": BLOCKS - 5,
    "many": II // 2 * 14 + JJ // 2,
    "many ids": (II // 4 * 7 + JJ // 4) * 250_007,
    "many seeds": SPARSE * (KK == 3) * (1 + II // 6 * 5 + JJ // 6) * 10,
    "many seeds in each slice": SPARSE * (1 + II * 28 + JJ),
    "many thin": 40 + np.where(II % 4 == 0, II + 50 * (JJ // 7), 0),
    "many in a corner": np.where((KK < 2) & (II < 20), II // 2 * 14 + JJ // 2, 0),
}

#: Values of images, which have noise or shading.
IMAGES = {
    "noise": np.rint(100 + 20 * NOISE),
    "of few grey levels": np.rint(60 + 40 * np.sin(II / 9) + 2 * NOISE),
    "noise in a large background": np.where(II > 20, np.rint(100 + 20 * NOISE), 0),
    "saturated": np.clip(np.rint(20 * II - 200 + 20 * NOISE), 0, 255),
    "not whole": np.where(SPARSE, 0.5, 0.25),
    "shading": II * 40 + JJ * 3 + KK,
}

TYPES = ("<i4", "<f4", "<f8")


def warnings_of(folder: Path, name: str, voxels: np.ndarray) -> list[str]:
    """Warnings but the one of no modality."""
    nifti(name, voxels)(folder)
    return [text for text in read_volume_file(folder / name).warnings if "--modality" not in text]


@pytest.mark.parametrize("turn", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=["as it is", "transposed", "across"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", LABELS)
def test_a_name_of_labels_and_their_values_skip_the_file(
    tmp_path: Path, name: str, dtype: str, turn: tuple[int, int, int]
) -> None:
    voxels = LABELS[name].transpose(turn).astype(dtype)
    with pytest.raises(SkippedSourceError, match="its name says so") as caught:
        warnings_of(tmp_path, "a_dseg.nii.gz", voxels)
    assert caught.value.reason is ReasonCode.LABEL_MAP


@pytest.mark.parametrize("turn", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=["as it is", "transposed", "across"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_stays_one_whatever_its_name(
    tmp_path: Path, name: str, dtype: str, turn: tuple[int, int, int]
) -> None:
    if name == "not whole" and dtype == "<i4":
        pytest.skip("whole in this type")
    voxels = IMAGES[name].transpose(turn).astype(dtype)
    (warning,) = warnings_of(tmp_path, "a_dseg.nii.gz", voxels)
    assert "its values are not: it was taken for an image" in warning
    assert warnings_of(tmp_path, "a.nii.gz", voxels) == []


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", sorted(LABELS.keys() - {"empty", "all one"}))
def test_values_of_labels_alone_are_warned_of(tmp_path: Path, name: str, dtype: str) -> None:
    (warning,) = warnings_of(tmp_path, "liver_gt.nii.gz", LABELS[name].astype(dtype))
    assert "as label maps do" in warning


def test_an_empty_image_without_a_name_of_labels_is_none(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, "a.nii.gz", LABELS["empty"].astype("<i2")) == []


@pytest.mark.skipif(not SCANNED, reason="no volumes beside the repository")
@pytest.mark.parametrize("path", SCANNED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_no_scanned_volume_is_taken_for_labels(path: Path) -> None:
    """Nor when its values were brought to 8 bits, as pictures are."""
    raw = np.asanyarray(nib.load(path).dataobj.get_unscaled())
    low, high = np.percentile(raw[::4, ::4], [1, 99.5])
    for voxels in (raw, np.rint(np.interp(raw, (low, high), (0, 255))).astype(np.uint8)):
        assert label_warnings(path, voxels, []) == []
        (warning,) = label_warnings(path, voxels, ["FreeSurfer labels"])
        assert "it was taken for an image" in warning


@pytest.mark.parametrize("text", ["FreeSurfer labels", "ROI labels", "label map", "liver segmentation", "aparc+aseg"])
def test_a_text_of_labels_counts_as_a_name(text: str) -> None:
    with pytest.raises(SkippedSourceError, match="a text in its header says so"):
        label_warnings(Path("a.nii"), LABELS["blocks"], [text])
    assert label_warnings(Path("a.nii"), IMAGES["noise"].astype("<i2"), ["pCASL, spin labeling"]) == []

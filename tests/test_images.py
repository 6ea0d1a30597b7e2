"""Images in memory come back as files with the same voxels do, as the kind they were, at their place."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImage
from volume_files import AFFINE, write_source

import monai_ldmsr
from monai_ldmsr import super_resolve, super_resolve_image
from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.transforms import ProjectOntoSourced, RestorePaddingd, ScaleFromModelRanged, ScaleToModelRanged

SHAPE = (24, 20, 3)


def values(dtype: str = "int16", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    smooth = np.add.outer(np.arange(shape[0]) * 13, np.arange(shape[1]) * 29)[..., None] - 400
    found = smooth + np.random.default_rng(0).integers(0, 90, (*shape, 1)[:3])
    return (found.clip(0) if dtype[0] == "u" else found).reshape(shape).astype(dtype)


def of_file(path: Path, output: Path, bundle: Path, **settings: Any) -> Path:
    summary = super_resolve(path, output, bundle=bundle, device="cpu", modality="MR", **settings)
    assert summary.exit_code == 0, summary.cases
    return next((output / summary.cases[0].case).glob("*_sr.*"))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:2]])
def test_nibabel_and_simpleitk_images_are_as_their_files(
    tmp_path: Path, bundle: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    affine = AFFINE if len(shape) == 3 else np.diag([0.9, 0.7, 1, 1])  # ITK has no third axis for a slice
    voxels = values(dtype, shape)
    path = write_source(tmp_path / "a.nii.gz", voxels, affine)
    expected = nib.load(of_file(path, tmp_path / "out", bundle))
    found = super_resolve_image(nib.load(path), bundle=bundle, device="cpu", modality="MR")
    assert type(found) is nib.Nifti1Image
    assert found.get_data_dtype() == expected.get_data_dtype()
    np.testing.assert_array_equal(found.dataobj, expected.dataobj)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    np.testing.assert_allclose(found.header.get_zooms(), expected.header.get_zooms(), rtol=1e-6)
    path = write_source(tmp_path / "b.nrrd", voxels, affine)
    other = sitk.ReadImage(str(of_file(path, tmp_path / "other", bundle)))
    image = super_resolve_image(sitk.ReadImage(str(path)), bundle=bundle, device="cpu", modality="MR")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(other))
    assert image.GetPixelID() == other.GetPixelID()
    assert (
        bytes(found.header["descrip"]).rstrip(b"\0").decode() == RESEARCH_NOTICE == image.GetMetaData("ITK_FileNotes")
    )
    for name in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(image, name)() == pytest.approx(getattr(other, name)(), abs=1e-6)


def test_nibabel_images_keep_class_unit_and_codes(bundle: Path) -> None:
    image = nib.Nifti2Image(values(), AFFINE)
    image.header.set_xyzt_units("micron")
    image.header["descrip"] = b"MARKER^PATIENT"
    image.set_sform(AFFINE, 4)
    image.set_qform(AFFINE, 0)
    found = super_resolve_image(image, bundle=bundle, device="cpu", factor=3)
    assert type(found) is nib.Nifti2Image
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (4, 0)
    assert found.header.get_xyzt_units() == ("micron", "unknown")
    assert b"MARKER" not in found.to_bytes()
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose(found.affine @ corner, AFFINE @ corner, atol=1e-4)
    freesurfer = super_resolve_image(nib.MGHImage(values("float32"), AFFINE), bundle=bundle, device="cpu")
    assert type(freesurfer) is nib.MGHImage
    np.testing.assert_allclose(freesurfer.affine @ corner, AFFINE @ corner, atol=1e-4)


def test_scaled_integers_come_back_in_their_unit(tmp_path: Path, bundle: Path) -> None:
    image = nib.Nifti1Image(values(), AFFINE)
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii")
    found = super_resolve_image(nib.load(tmp_path / "a.nii"), bundle=bundle, device="cpu")
    repeated = (values() * 0.5 - 10).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(found.get_fdata(), repeated, atol=1e-3)


def test_arrays_and_tensors(bundle: Path) -> None:
    """An array stays one, unless its place is given; one channel in front is MONAI's."""
    voxels = values()
    settings: dict[str, Any] = {"bundle": bundle, "device": "cpu", "modality": "MR"}
    found = super_resolve_image(voxels, **settings)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, voxels.repeat(2, 0).repeat(2, 1))
    placed: Any = super_resolve_image(voxels, affine=AFFINE, **settings)
    assert isinstance(placed, MetaTensor)
    np.testing.assert_array_equal(placed.numpy(), found)
    assert placed.meta["description"] == RESEARCH_NOTICE
    image: Any = super_resolve_image(nib.Nifti1Image(voxels, AFFINE), **settings)
    np.testing.assert_allclose(placed.affine.numpy(), image.affine, atol=1e-5)
    spaced: Any = super_resolve_image(torch.from_numpy(voxels), spacing_mm=(0.9, 0.7, 2.5), **settings)
    assert spaced.shape == (48, 40, 3)
    np.testing.assert_allclose(np.diag(spaced.affine), [0.45, 0.35, 2.5, 1])
    np.testing.assert_allclose(spaced.affine[:3, 3], [-0.225, -0.175, 0])
    for given in (torch.from_numpy(voxels), torch.from_numpy(voxels)[None], MetaTensor(voxels[None], affine=AFFINE)):
        tensor = super_resolve_image(given, **settings)
        assert type(tensor) is type(given)
        assert tensor.shape == (*given.shape[:-3], 48, 40, 3)
        np.testing.assert_array_equal(tensor.reshape(found.shape).numpy(), found)
    np.testing.assert_allclose(tensor.affine.numpy(), image.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (values(shape=(1, 24, 20)), ReasonCode.UNSUPPORTED_DIMENSIONS),
        (values()[None, None], ReasonCode.UNSUPPORTED_DIMENSIONS),
        (np.zeros((2, 24, 20, 3)), ReasonCode.UNSUPPORTED_DIMENSIONS),
        (np.zeros((24, 0, 3)), ReasonCode.UNSUPPORTED_DIMENSIONS),
        (values("complex64"), ReasonCode.UNSUPPORTED_PIXELS),
        (values("longdouble"), ReasonCode.UNSUPPORTED_PIXELS),
        (np.ma.masked_less(values(), 0), ReasonCode.UNSUPPORTED_PIXELS),
        (values("float64") * 1e300, ReasonCode.UNSUPPORTED_PIXELS),
        (values("float64") * 1e-300, ReasonCode.UNSUPPORTED_PIXELS),
        (values("float32") * np.float32(1e35), ReasonCode.UNSUPPORTED_PIXELS),
        (sitk.Image([9, 9], sitk.sitkLabelUInt8), ReasonCode.LABEL_MAP),
        (nib.Nifti1Image(values(), None), ReasonCode.NO_GEOMETRY),
        (values().astype(str), ReasonCode.UNSUPPORTED_PIXELS),
        (sitk.Image([9, 9], sitk.sitkVectorUInt8, 3), ReasonCode.UNSUPPORTED_PIXELS),
        (sitk.Image([9, 9], sitk.sitkComplexFloat32), ReasonCode.UNSUPPORTED_PIXELS),
        (sitk.Image([9, 9, 9, 9], sitk.sitkUInt8), ReasonCode.UNSUPPORTED_DIMENSIONS),
        (np.full(SHAPE, np.nan), ReasonCode.NOT_FINITE),
        (nib.MGHImage(values("float32"), np.diag([1.0, 1, 0, 1])), ReasonCode.SINGULAR_GEOMETRY),
    ],
)
def test_images_that_cannot_be_worked_on_are_refused(image: Any, reason: ReasonCode, bundle: Path) -> None:
    with pytest.raises((SourceError, CorruptSourceError)) as caught:
        super_resolve_image(image, bundle=bundle, device="cpu")
    assert caught.value.reason is reason


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint64"])
def test_large_values_that_lie_close_together_stay_finite(dtype: str, bundle: Path) -> None:
    """Single precision does not keep them apart: they come back as one value, and a warning says so."""
    voxels = (np.full(SHAPE, 10**12) + values("int64").clip(0)).astype(dtype)
    found = super_resolve_image(voxels, bundle=bundle, device="cpu", modality="MR")
    np.testing.assert_allclose(found.astype(float), voxels.repeat(2, 0).repeat(2, 1).astype(float), rtol=1e-6)


def test_wrong_arguments_are_refused(bundle: Path) -> None:
    image = nib.Nifti1Image(values(), AFFINE)
    for said, given, more in (
        ("super_resolve takes paths", "a.nii", {}),
        ("Leave affine away", image, {"affine": AFFINE}),
        ("Give one of them", values(), {"affine": AFFINE, "spacing_mm": (1, 1, 1)}),
        ("4 x 4", values(), {"affine": np.eye(3)}),
        ("three numbers above 0", values(), {"spacing_mm": (1, 1)}),
        ("three numbers above 0", values(), {"spacing_mm": (1, 1, -1)}),
        ("three numbers above 0", values(), {"spacing_mm": ("a", "b", "c")}),
        ("factor is 2.5; choose one of 1, 2, 3, 4", values(), {"factor": 2.5}),
        ("modality is", values(), {"modality": "US"}),
    ):
        with pytest.raises(SettingsError, match=said):
            super_resolve_image(given, bundle=bundle, device="cpu", **more)
    with pytest.raises(TypeError, match="factr"):
        super_resolve_image(values(), factr=4)


def test_progress_and_warnings(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[int, int]] = []
    with caplog.at_level(logging.WARNING, "monai_ldmsr"):
        super_resolve_image(values(), bundle=bundle, device="cpu", progress=lambda *n: seen.append(n))
    assert seen[-1] == (3, 3)
    assert any("modality is not known" in message for message in caplog.messages)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_transforms_work_behind_those_of_monai(tmp_path: Path, bundle: Path, modality: str) -> None:
    """A chain of MONAI's own transforms, ours and its saver gives what the command gives."""
    voxels = values("float32")
    if modality == "CT":
        voxels[:4] = -3024  # padding, which the network must not see
    path = write_source(tmp_path / "a.nii.gz", voxels)
    before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), ScaleToModelRanged("image", modality)])
    after = Compose([ScaleFromModelRanged("pred"), ProjectOntoSourced("pred", factor=2), RestorePaddingd("pred", 2)])
    network, _ = monai_ldmsr.load_super_resolver(bundle, factor=2)
    data = before({"image": str(path)})
    assert data["source"].modality == modality
    assert float(data["image"].min()) > -1.5
    data["pred"] = VolumeInferer()(data["image"][None], network, modality)[0]
    SaveImage(tmp_path / "saved", output_postfix="", separate_folder=False, resample=False)(after(data)["pred"])
    summary = super_resolve(path, tmp_path / "out", bundle=bundle, device="cpu", modality=modality)
    expected = nib.load(next((tmp_path / "out" / summary.cases[0].case).glob("*_sr.nii.gz")))
    found = nib.load(next((tmp_path / "saved").glob("*.nii.gz")))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), atol=1e-3)


@pytest.mark.parametrize("shape", [(24, 20, 3), (2, 24, 20, 3), (1, 24, 20)])
def test_a_loaded_image_without_slices_or_with_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match="EnsureChannelFirstd") as caught:
        ScaleToModelRanged("image")({"image": torch.zeros(shape)})
    assert caught.value.reason is ReasonCode.UNSUPPORTED_DIMENSIONS

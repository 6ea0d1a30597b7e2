"""NIfTI, NRRD and MetaImage: affines agree between nibabel and SimpleITK, storage stays, free text does not."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from volume_files import AFFINE, SHAPE, VALUES, reason_of, scaled_nifti, write_source

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io import ReadLimits, nifti_volumes, split_volumes
from monai_ldmsr.io.formats import volume_extension
from monai_ldmsr.io.volume_file import VolumeFile, read_volume_file, write_volume_file

EXTENSIONS = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]


def write_doubled(volume: VolumeFile, path: Path, text: str = "") -> int:
    """Write the nearest-neighbour result; how many voxels were clipped."""
    return write_volume_file(volume, doubled(volume.voxels), Factors(2, 2), path, text)


def doubled(voxels: np.ndarray) -> np.ndarray:
    return voxels.repeat(2, axis=0).repeat(2, axis=1)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_voxels_and_affine_are_as_written(tmp_path: Path, extension: str) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}"))
    np.testing.assert_array_equal(volume.voxels, VALUES)
    np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)
    assert volume.voxels.dtype == np.float32
    assert (volume.modality, volume.unit, volume.extension) == ("unknown", "stored", extension)
    assert volume.value_range == (-32768, 32767)
    assert volume.warnings == ()


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_result_round_trips_and_keeps_faces(tmp_path: Path, extension: str) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}"))
    out = tmp_path / f"out{extension}"
    clipped = write_doubled(volume, out, "research only")
    geometry = volume.geometry.upsampled((2, 2, 1))
    result = read_volume_file(out)
    assert clipped == 0
    np.testing.assert_array_equal(result.voxels, doubled(VALUES))
    np.testing.assert_allclose(result.geometry.affine, geometry.affine, atol=1e-5)
    np.testing.assert_allclose(result.geometry.corners_mm(), volume.geometry.corners_mm(), atol=1e-4)
    np.testing.assert_allclose(result.geometry.spacing_mm, (0.45, 0.35, 2.5), atol=1e-6)
    assert result.value_range == volume.value_range
    image = sitk.ReadImage(str(out))
    assert image.GetPixelID() == sitk.sitkInt16
    np.testing.assert_allclose(image.GetOrigin(), geometry.origin_lps_mm, atol=1e-4)
    np.testing.assert_allclose(image.GetDirection(), geometry.direction_lps.ravel(), atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, doubled(VALUES))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_two_dimensional_images_stay_so(tmp_path: Path, extension: str) -> None:
    affine = np.diag([-0.9, -0.7, 1.0, 1.0])
    volume = read_volume_file(write_source(tmp_path / f"a{extension}", VALUES[:, :, 0], affine))
    assert volume.voxels.shape == (6, 5, 1)
    write_doubled(volume, tmp_path / f"out{extension}")
    image = sitk.ReadImage(str(tmp_path / f"out{extension}"))
    assert image.GetDimension() == 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, doubled(VALUES[:, :, :1])[:, :, 0])
    assert image.GetSpacing() == pytest.approx((0.45, 0.35))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_values_are_rounded_and_clipped_to_the_integer_type(tmp_path: Path, extension: str) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}", VALUES.astype(np.uint8)))
    assert volume.value_range == (0, 255)
    voxels = np.full((12, 10, 4), 7.6, np.float32)
    voxels[0, 0, 0], voxels[0, 0, 1] = -3.0, 300.0
    clipped = write_volume_file(volume, voxels, Factors(2, 2), tmp_path / f"out{extension}", "")
    result = read_volume_file(tmp_path / f"out{extension}")
    assert clipped == 2
    assert (result.voxels[0, 0, 0], result.voxels[0, 0, 1], result.voxels[5, 5, 2]) == (0, 255, 8)
    assert result.value_range == (0, 255)


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_become_float32(tmp_path: Path, extension: str, dtype: Any) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}", VALUES.astype(dtype) / 8))
    assert volume.value_range == (VALUES.min() / 8, VALUES.max() / 8)
    voxels = doubled(volume.voxels) + np.float32(1e-3)
    assert write_volume_file(volume, voxels, Factors(2, 2), tmp_path / f"out{extension}", "") == 0
    np.testing.assert_array_equal(read_volume_file(tmp_path / f"out{extension}").voxels, voxels)
    assert sitk.ReadImage(str(tmp_path / f"out{extension}")).GetPixelID() == sitk.sitkFloat32


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -10.0), (-2.0, 3.0), (0.0123, 0.0)])
def test_nifti_scaling_is_applied_and_kept(tmp_path: Path, slope: float, intercept: float) -> None:
    volume = read_volume_file(scaled_nifti(tmp_path / "a.nii", slope, intercept))
    slope, intercept = float(np.float32(slope)), float(np.float32(intercept))
    np.testing.assert_allclose(volume.voxels, VALUES * slope + intercept, rtol=1e-6, atol=1e-6)
    ends = sorted((-32768 * slope + intercept, 32767 * slope + intercept))
    assert volume.value_range == pytest.approx(tuple(ends))
    write_doubled(volume, tmp_path / "out.nii")
    image = nib.load(tmp_path / "out.nii")
    assert image.header.get_data_dtype() == np.int16
    assert (image.dataobj.slope, image.dataobj.inter) == pytest.approx((slope, intercept))
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), doubled(VALUES))


def test_nifti_codes_and_units_stay_and_free_text_goes(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.set_sform(AFFINE, 4)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm", "sec")
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = b"MARKER^PATIENT"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"MARKER^PATIENT"))
    nib.save(image, tmp_path / "a.nii")
    assert b"MARKER" in (tmp_path / "a.nii").read_bytes()
    volume = read_volume_file(tmp_path / "a.nii")
    write_doubled(volume, tmp_path / "out.nii", "Research use only")
    result = nib.load(tmp_path / "out.nii")
    assert b"MARKER" not in (tmp_path / "out.nii").read_bytes()
    assert result.header["descrip"].item() == b"Research use only"
    assert (int(result.header["sform_code"]), int(result.header["qform_code"])) == (4, 1)
    assert result.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(result.get_qform(), result.get_sform(), atol=1e-5)


@pytest.mark.parametrize("extension", [".nrrd", ".mha", ".mhd"])
def test_metadata_is_not_carried_over(tmp_path: Path, extension: str) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}"))
    write_doubled(volume, tmp_path / f"out{extension}")
    assert b"MARKER" not in (tmp_path / f"out{extension}").read_bytes()


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_one_volume_in_four_dimensions_is_three_dimensional(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    if extension == ".nrrd":
        sitk.WriteImage(sitk.GetImageFromArray(VALUES.T[None], isVector=False), str(path))
    else:
        nib.save(nib.Nifti1Image(VALUES[..., None], AFFINE), path)
    np.testing.assert_array_equal(read_volume_file(path).voxels, VALUES)


def test_colours_and_a_fourth_axis_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, AFFINE), tmp_path / "a.nii")
    assert reason_of(tmp_path / "a.nii") is ReasonCode.UNSUPPORTED_PIXELS
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    sitk.WriteImage(vectors, str(tmp_path / "a.nrrd"))
    assert reason_of(tmp_path / "a.nrrd") is ReasonCode.UNSUPPORTED_PIXELS
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 4, 5, 6), np.uint8), isVector=False), str(tmp_path / "b.nrrd"))
    assert reason_of(tmp_path / "b.nrrd") is ReasonCode.UNSUPPORTED_DIMENSIONS


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_files_are_refused_without_a_path(
    tmp_path: Path, extension: str, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_source(tmp_path / f"MARKER{extension}")
    target = path.with_suffix(".raw") if extension == ".mhd" and damage == "cut" else path
    content = target.read_bytes()
    target.write_bytes({"cut": content[:-40], "garbage": b"\x01garbage" * 90, "empty": b""}[damage])
    with pytest.raises(CorruptSourceError) as caught:
        read_volume_file(path)
    assert caught.value.reason is ReasonCode.UNREADABLE_FILE
    assert "MARKER" not in str(caught.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_size_is_limited_from_the_header(tmp_path: Path, extension: str) -> None:
    path = write_source(tmp_path / f"a{extension}")
    assert reason_of(path, voxels=100) is ReasonCode.TOO_LARGE


def test_other_extensions_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "a.img") is ReasonCode.NOT_AN_IMAGE
    assert reason_of(tmp_path / "a.nii") is ReasonCode.NO_SUCH_SOURCE
    assert volume_extension(Path("A.NII.GZ")) == ".nii.gz"


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("brain T2 (1).nii.gz", "brain_T2_1"),
        ("..nii", "volume"),
        ("x.y.nii", "x.y"),
        ("ü" * 3 + ".nii", "uuu"),
        ("?.nii", "volume"),
    ],
)
def test_case_is_a_safe_name(tmp_path: Path, name: str, case: str) -> None:
    assert read_volume_file(write_source(tmp_path / name)).case == case


def test_constant_volume_is_fine(tmp_path: Path) -> None:
    volume = read_volume_file(write_source(tmp_path / "a.nii", np.full(SHAPE, 5, np.int16)))
    assert write_doubled(volume, tmp_path / "b.nii") == 0


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32])
def test_wide_integers_clip_at_their_ends(tmp_path: Path, dtype: Any) -> None:
    volume = read_volume_file(write_source(tmp_path / "a.nrrd", (VALUES % 50).astype(dtype)))
    clipped = write_volume_file(volume, np.full((12, 10, 4), 1e20, np.float32), Factors(2, 2), tmp_path / "b.nrrd", "")
    assert clipped == 480
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "b.nrrd"))) > 2**30).all()


def test_integers_beyond_float32_are_warned_of(tmp_path: Path) -> None:
    volume = read_volume_file(write_source(tmp_path / "a.nrrd", np.full(SHAPE, 2**25 + 1, np.int32)))
    assert "float32" in volume.warnings[0]


def test_impossible_results_are_refused(tmp_path: Path) -> None:
    volume = read_volume_file(write_source(tmp_path / "a.nii"))
    good = doubled(volume.voxels)
    out = tmp_path / "out.nii"
    for voxels, path, text, word in [
        (good[:-1], out, "", "factor 2 of"),
        (good[:, :, :-1], out, "", "factor 2 of"),
        (np.full_like(good, np.nan), out, "", "NaN"),
        (good, tmp_path / "out.nrrd", "", "nrrd"),
        (good, out, "x" * 80, "79"),
    ]:
        with pytest.raises(SettingsError, match=word):
            write_volume_file(volume, voxels, Factors(2, 2), path, text)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_volume_file(volume, good, Factors(2, 2), tmp_path / "MARKER" / "out.nii", "")
    assert "MARKER" not in str(caught.value)


VOLUMES = np.stack([VALUES * 2, VALUES + 5, VALUES[::-1], VALUES - 9, VALUES * 3], axis=3)


def write_4d(path: Path, volumes: np.ndarray = VOLUMES, slope: float = 0.5) -> Path:
    image = nib.Nifti1Image(volumes, AFFINE)
    image.header.set_slope_inter(slope, -10)
    image.set_sform(AFFINE, 4)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (4, 2, 5, 1)], ids=["in order", "in another order"])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_volumes_of_a_4d_file_are_read_one_by_one(tmp_path: Path, extension: str, order: tuple[int, ...]) -> None:
    path = write_4d(tmp_path / f"bold{extension}")
    expected = nib.load(path).get_fdata()
    volumes = nifti_volumes(path)
    assert [volume.number for volume in volumes] == [1, 2, 3, 4, 5]
    for number in order:
        volume = read_volume_file(volumes[number - 1])
        np.testing.assert_array_equal(volume.voxels, expected[..., number - 1])
        np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)
        assert (volume.case, volume.extension) == (f"bold-vol000{number}", extension)
        assert volume.value_range == (-32768 * 0.5 - 10, 32767 * 0.5 - 10)
        assert volume.warnings == (
            f"The file holds 5 volumes (4D): this is number {number}, with a result of its own.",
        )


def test_the_result_of_one_volume_is_3d_and_stored_as_its_source(tmp_path: Path) -> None:
    volume = read_volume_file(nifti_volumes(write_4d(tmp_path / "bold.nii.gz"))[2])
    write_doubled(volume, tmp_path / "out.nii.gz")
    image = nib.load(tmp_path / "out.nii.gz")
    assert (image.shape, image.get_data_dtype()) == ((12, 10, 4), np.int16)
    assert (image.dataobj.slope, image.dataobj.inter, int(image.header["sform_code"])) == (0.5, -10, 4)
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), doubled(VOLUMES[..., 2]))
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose(image.affine @ corner, AFFINE @ corner, atol=1e-4)


def test_all_volumes_cost_one_opening_and_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = nifti_volumes(write_4d(tmp_path / "bold.nii.gz"))
    openers = []

    class Counted(nib.openers.ImageOpener):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            openers.append(self)

    monkeypatch.setattr(nib.openers, "ImageOpener", Counted)
    for volume in volumes:
        read_volume_file(volume)
    assert len(openers) == 1
    assert openers[0].closed


def test_a_volume_with_nan_is_refused_alone(tmp_path: Path) -> None:
    values = VOLUMES.astype(np.float32)
    values[1, 2, 3, 1] = np.nan
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    first, bad, third, *_ = nifti_volumes(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume_file(first).voxels, values[..., 0])
    with pytest.raises(CorruptSourceError, match=r"^1 of 120 voxels") as caught:
        read_volume_file(bad)
    assert caught.value.reason is ReasonCode.NOT_FINITE
    third_volume = read_volume_file(third)
    np.testing.assert_array_equal(third_volume.voxels, values[..., 2])
    assert third_volume.value_range == (VALUES.min(), VALUES.max()), "of this volume, not of the file"


def test_a_4d_file_is_no_single_volume(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds 5 volumes") as caught:
        read_volume_file(write_4d(tmp_path / "a.nii"))
    assert caught.value.reason is ReasonCode.UNSUPPORTED_DIMENSIONS
    nib.save(nib.Nifti1Image(VOLUMES[..., None, :], AFFINE), tmp_path / "b.nii")
    assert reason_of(tmp_path / "b.nii") is ReasonCode.UNSUPPORTED_DIMENSIONS
    assert split_volumes(tmp_path / "b.nii") == [tmp_path / "b.nii"], "a fifth dimension counts no volumes"


def test_limits_hold_for_all_volumes_of_a_file_together(tmp_path: Path) -> None:
    path = write_4d(tmp_path / "a.nii.gz", np.zeros_like(VOLUMES))
    assert reason_of(path, volumes=5) is ReasonCode.UNSUPPORTED_DIMENSIONS
    for limits in ({"volumes": 4}, {"voxels": 599}, {"expansion": 2, "expansion_from_bytes": 1199}):
        assert reason_of(path, **limits) is ReasonCode.TOO_LARGE
        assert split_volumes(path, ReadLimits(**limits)) == [path], "its reader refuses it, once"
    assert len(split_volumes(path, ReadLimits(volumes=5, voxels=600, expansion_from_bytes=1200))) == 5


@pytest.mark.parametrize(
    ("extension", "damage"),
    [(".nii", "short"), (".nii", "long"), (".nii.gz", "short"), (".nii.gz", "long"), (".nii.gz", "altered")],
)
def test_a_damaged_4d_file_is_refused_as_a_whole(tmp_path: Path, extension: str, damage: str) -> None:
    content = write_4d(tmp_path / "a.nii").read_bytes()
    content = {"short": content[:-20], "long": content + bytes(20), "altered": content}[damage]
    if extension == ".nii.gz":
        content = gzip.compress(content, compresslevel=0)
    if damage == "altered":
        content = content[:700] + bytes([content[700] ^ 1]) + content[701:]
    path = tmp_path / f"b{extension}"
    path.write_bytes(content)
    assert split_volumes(path) == [path]
    assert reason_of(path) is ReasonCode.UNREADABLE_FILE


def test_a_file_that_changes_between_its_volumes_is_refused(tmp_path: Path) -> None:
    first, second, *_ = nifti_volumes(write_4d(tmp_path / "a.nii"))
    read_volume_file(first)
    write_4d(tmp_path / "a.nii", VOLUMES[..., :4])
    with pytest.raises(CorruptSourceError, match="changed") as caught:
        read_volume_file(second)
    assert caught.value.reason is ReasonCode.UNREADABLE_FILE


def test_only_4d_files_are_split(tmp_path: Path) -> None:
    single, several = write_source(tmp_path / "a.nii"), write_4d(tmp_path / "b.NII.GZ")
    other, gone = write_source(tmp_path / "c.nrrd"), tmp_path / "d.nii"
    for path in (single, other, gone):
        assert split_volumes(path) == [path]
    volumes = split_volumes(several)
    assert [(volume.file.path, volume.suffix) for volume in volumes] == [(several, f"-vol000{n}") for n in range(1, 6)]
    assert str(tmp_path) not in repr(volumes)

"""A NIfTI file places its volume twice: a result keeps both places, each upsampled by itself; read by the standard."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from odd_volume_makers import ELSEWHERE, mgh
from odd_volumes import AFFINE, SHAPE, SHEARED, values

from monai_ldmsr.geometry import Factors
from monai_ldmsr.io.volume_file import VolumeFile, read_volume_file, write_volume_file

#: xyzt_units, and how many of them a millimetre has.
UNITS = {0: 1.0, 2: 1.0, 1: 1e-3, 3: 1e3}

MIRRORED = AFFINE @ np.diag([1.0, 1, -1, 1])


@dataclass
class Places:
    """What a NIfTI-1 header says, by nifti1.h and no library."""

    codes: tuple[int, int]
    qform: np.ndarray
    sform: np.ndarray
    pixdim: np.ndarray
    units: int


def places(path: Path) -> Places:
    data = path.read_bytes()
    qfac, *pixdim = struct.unpack_from("<4f", data, 76)
    b, c, d, *offset = struct.unpack_from("<6f", data, 256)
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    qform, sform = np.eye(4), np.eye(4)
    qform[:3, :3] = turn * pixdim * (1, 1, -1 if qfac < 0 else 1)
    qform[:3, 3] = offset
    sform[:3] = np.reshape(struct.unpack_from("<12f", data, 280), (3, 4))
    codes = struct.unpack_from("<2h", data, 252)
    return Places(codes, qform, sform, np.array(pixdim), data[123])


def write(path: Path, qform: np.ndarray, sform: np.ndarray, codes: tuple[int, int], unit: int) -> Path:
    scale = np.diag([*[UNITS[unit]] * 3, 1])
    image = nib.Nifti1Image(values(), None)
    image.header["xyzt_units"] = unit
    image.header.set_sform(scale @ sform, codes[1])
    image.header.set_qform(scale @ qform, codes[0])
    nib.save(image, path)
    return path


def upsampled(source: Path, result: Path, factor: int = 2) -> VolumeFile:
    volume = read_volume_file(source)
    voxels = volume.voxels.repeat(factor, axis=0).repeat(factor, axis=1)
    write_volume_file(volume, voxels, Factors(factor, factor), result, "research only")
    return volume


def check_faces(source: np.ndarray, result: np.ndarray, factor: int, scale: float) -> None:
    """The volume's corners, at the faces of its outer voxels in a slice, stay where they are."""
    for side in itertools.product((0, 1), repeat=3):
        index = np.array(side) * SHAPE - (0.5, 0.5, side[2])
        many = np.array(side) * (factor * SHAPE[0], factor * SHAPE[1], SHAPE[2]) - (0.5, 0.5, side[2])
        np.testing.assert_allclose(result @ [*many, 1], source @ [*index, 1], atol=2e-4 * scale)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (1, 1), (1, 4), (3, 2), (0, 0)])
@pytest.mark.parametrize(
    ("qform", "sform"),
    [(AFFINE, AFFINE), (ELSEWHERE, AFFINE), (AFFINE, ELSEWHERE), (MIRRORED, AFFINE), (AFFINE, SHEARED)],
    ids=["equal", "apart", "apart again", "mirrored", "sheared"],
)
def test_both_places_stay(
    tmp_path: Path, qform: np.ndarray, sform: np.ndarray, codes: tuple[int, int], unit: int
) -> None:
    source, result, factor = write(tmp_path / "a.nii", qform, sform, codes, unit), tmp_path / "b.nii", 3
    volume = upsampled(source, result, factor)
    before, after = places(source), places(result)
    assert before.codes == after.codes == codes
    assert before.units == after.units == unit
    np.testing.assert_allclose(after.pixdim, before.pixdim / (factor, factor, 1), rtol=1e-6)
    check_faces(before.qform, after.qform, factor, UNITS[unit])
    check_faces(before.sform, after.sform, factor, UNITS[unit])
    used = before.sform if codes[1] else before.qform
    if any(codes):
        np.testing.assert_allclose(volume.geometry.affine[:3], used[:3] / UNITS[unit], atol=1e-4)
    is_apart = bool(all(codes) and np.abs(before.qform - before.sform).max() > 0.01 * UNITS[unit])
    assert any("disagree" in warning for warning in volume.warnings) is is_apart


@pytest.mark.parametrize("code", ["qform", "sform"])
def test_itk_sees_the_result_where_it_saw_the_source(tmp_path: Path, code: str) -> None:
    codes = (1, 0) if code == "qform" else (0, 1)
    source, result = write(tmp_path / "a.nii", AFFINE, AFFINE, codes, 2), tmp_path / "b.nii"
    upsampled(source, result)
    seen = [sitk.ReadImage(str(path)) for path in (source, result)]
    outer = [image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)) for image in seen]
    np.testing.assert_allclose(outer[0], outer[1], atol=1e-4)
    np.testing.assert_allclose(seen[0].GetDirection(), seen[1].GetDirection(), atol=1e-6)


@pytest.mark.parametrize("qfac", [-7.0, -1.0, -0.5, 0.0, 0.5, 7.0, float("nan")])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_any_negative_qfac_turns_the_third_axis(tmp_path: Path, image_class: type, order: str, qfac: float) -> None:
    """As nifti1.h says and ITK reads; nibabel takes what is neither 1 nor -1 for 1."""
    image = image_class(values(), None, image_class.header_class(endianness=order))
    image.header.set_qform(AFFINE, 1)
    content = bytearray(image.to_bytes())
    kind, place = ("f", 76) if image_class is nib.Nifti1Image else ("d", 104)
    struct.pack_into(f"{order}{kind}", content, place, qfac)
    (tmp_path / "a.nii").write_bytes(content)
    volume = upsampled(tmp_path / "a.nii", tmp_path / "b.nii")
    expected = AFFINE * (1, 1, 1 if qfac < 0 else -1, 1)  # its own qfac is negative
    np.testing.assert_allclose(volume.geometry.affine, expected, atol=1e-5)
    check_faces(expected, nib.load(tmp_path / "b.nii").affine, 2, 1.0)
    if image_class is nib.Nifti1Image:  # ITK reads no other
        seen = [sitk.ReadImage(str(tmp_path / name)) for name in ("a.nii", "b.nii")]
        for image in seen:
            np.testing.assert_allclose(image.GetDirection(), volume.geometry.direction_lps.ravel(), atol=1e-5)
        outer = [image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)) for image in seen]
        np.testing.assert_allclose(outer[0], outer[1], atol=1e-4)


@pytest.mark.parametrize("codes", [(9, 0), (1, -3), (0, 9), (-3, 1), (-1, -1), (9, 77)])
def test_a_code_of_no_standard_never_moves_the_volume_in_silence(tmp_path: Path, codes: tuple[int, int]) -> None:
    content = bytearray(write(tmp_path / "a.nii", ELSEWHERE, AFFINE, (1, 1), 2).read_bytes())
    struct.pack_into("<2h", content, 252, *codes)
    (tmp_path / "a.nii").write_bytes(content)
    volume = upsampled(tmp_path / "a.nii", tmp_path / "b.nii")
    for name, code in zip(("qform_code", "sform_code"), codes, strict=True):
        assert any(f"{name} is {code}" in text for text in volume.warnings) is (code not in range(6))
    if min(codes) > 0:
        np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)
        after = places(tmp_path / "b.nii")
        assert after.codes == codes
        check_faces(ELSEWHERE, after.qform, 2, 1.0)
        check_faces(AFFINE, after.sform, 2, 1.0)
    elif max(codes) > 0:
        seen = sitk.ReadImage(str(tmp_path / "a.nii"))
        np.testing.assert_allclose(volume.geometry.direction_lps.ravel(), seen.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(volume.geometry.affine_lps[:3, 3], seen.GetOrigin(), atol=1e-4)


@pytest.mark.parametrize("affine", [AFFINE, MIRRORED, ELSEWHERE])
@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
def test_mgh_stays_in_its_place(tmp_path: Path, affine: np.ndarray, name: str) -> None:
    mgh(name, affine=affine)(tmp_path)
    volume = upsampled(tmp_path / name, tmp_path / f"b{name}")
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-4)
    np.testing.assert_allclose(nib.load(tmp_path / name).affine, affine, atol=1e-4)
    image = nib.load(tmp_path / f"b{name}")
    check_faces(affine, image.affine, 2, 1.0)
    np.testing.assert_array_equal(np.asarray(image.dataobj), values().repeat(2, axis=0).repeat(2, axis=1))


def test_analyze_sizes_stay_and_its_middle(tmp_path: Path) -> None:
    image = nib.AnalyzeImage(values(), np.diag([-0.9, 0.7, 2.5, 1]))
    nib.save(image, tmp_path / "a.img")
    upsampled(tmp_path / "a.hdr", tmp_path / "b.hdr")
    result = nib.load(tmp_path / "b.hdr")
    assert isinstance(result, nib.Nifti1Pair)
    check_faces(nib.AnalyzeImage.from_filename(tmp_path / "a.hdr").affine, result.affine, 2, 1.0)
    np.testing.assert_array_equal(np.asarray(result.dataobj), values().repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_analyze_of_either_byte_order_with_the_slope_that_spm_writes(tmp_path: Path, order: str, slope: float) -> None:
    header = bytearray(348)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 4, *SHAPE, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, 4, 16)
    struct.pack_into(f"{order}4f", header, 76, 0, 0.9, 0.7, 2.5)
    struct.pack_into(f"{order}f", header, 112, slope)
    (tmp_path / "a.hdr").write_bytes(header)
    (tmp_path / "a.img").write_bytes(values().astype(f"{order}i2").tobytes(order="F"))
    volume = upsampled(tmp_path / "a.hdr", tmp_path / "b.hdr")
    np.testing.assert_array_equal(volume.voxels, values() * (slope or 1))
    np.testing.assert_allclose(volume.geometry.spacing_mm, (0.9, 0.7, 2.5), rtol=1e-6)
    assert any("SPM" in warning for warning in volume.warnings) is bool(slope)
    result = nib.load(tmp_path / "b.hdr").get_fdata()
    np.testing.assert_allclose(result, (values() * (slope or 1)).repeat(2, axis=0).repeat(2, axis=1))

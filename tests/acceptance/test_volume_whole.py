"""Volume files whose voxels do not fit their header are refused; what their header leaves open is warned of."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from volume_files import AFFINE, VALUES, reason_of, scaled_nifti, write_source

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.volume_file import read_volume_file


def edited(
    path: Path, edit: Callable[[bytes], bytes], data: Callable[[bytes], bytes] = bytes, squeeze: bool = False
) -> Path:
    """A NRRD or MetaImage file with its header or its voxels edited."""
    write_source(path)
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image, str(path), useCompression=squeeze)
    content = path.read_bytes()
    mark = b"\n\n" if path.suffix == ".nrrd" else b"LOCAL\n"
    head, voxels = content.split(mark, 1)
    path.write_bytes(edit(head + mark) + data(voxels))
    assert path.read_bytes() != content
    return path


def swap(pattern: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edit(head: bytes) -> bytes:
        changed = re.sub(pattern, new, head, flags=re.MULTILINE)
        assert changed != head
        return changed

    return edit


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize(
    ("edit", "data"),
    [
        (swap(b"sizes: 6 5 4", b"sizes: 5 5 4"), bytes),
        (swap(b"sizes: 6 5 4", b"sizes: 6 4 4"), bytes),
        (swap(b"type: short", b"type: uchar"), bytes),
        (bytes, lambda voxels: b"\1" * 4 + voxels),
        (bytes, lambda voxels: voxels + b"\1" * 4),
        (bytes, lambda voxels: voxels[:-4]),
    ],
)
def test_nrrd_whose_voxels_do_not_fit_its_header_is_refused(
    tmp_path: Path, edit: Callable[[bytes], bytes], data: Callable[[bytes], bytes], squeeze: bool
) -> None:
    assert reason_of(edited(tmp_path / "a.nrrd", edit, data, squeeze)) is ReasonCode.UNREADABLE_FILE


def text_of(voxels: bytes) -> bytes:
    return b"\n".join(b"%d" % value for value in np.frombuffer(voxels, "<i2")) + b"\n"


@pytest.mark.parametrize(
    ("head", "data"),
    [
        (b"encoding: raw\nbyte skip: 4", lambda voxels: b"junk" + voxels),
        (b"encoding: raw\nbyte skip: -1", lambda voxels: b"junk" + voxels),
        (b"encoding: raw\nline skip: 1", lambda voxels: b"junk\n" + voxels),
        (b"encoding: ascii", text_of),
        (b"encoding: raw\ndata file: a.raw", bytes),
    ],
)
def test_nrrd_skips_texts_and_other_files_are_regarded(
    tmp_path: Path, head: bytes, data: Callable[[bytes], bytes]
) -> None:
    path, edit = tmp_path / "a.nrrd", swap(b"encoding: raw", head)
    sizes = [b"sizes: 6 5 4"] if b"-1" in head else [b"sizes: 6 5 4", b"sizes: 5 5 4"]
    for size in sizes:
        edited(path, lambda text, size=size: edit(text).replace(sizes[0], size), data)
        if b"data file" in head:
            (tmp_path / "a.raw").write_bytes(path.read_bytes().split(b"\n\n", 1)[1])
            path.write_bytes(path.read_bytes().split(b"\n\n", 1)[0] + b"\n\n")
        if size == sizes[0]:
            np.testing.assert_array_equal(read_volume_file(path).voxels, VALUES)
        else:
            assert reason_of(path) is ReasonCode.UNREADABLE_FILE


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("equals", [b"\t= ", b"=", b" \t=\t"])
def test_meta_image_is_checked_whatever_stands_around_its_equals_signs(
    tmp_path: Path, equals: bytes, squeeze: bool
) -> None:
    path = tmp_path / "a.mha"
    edited(path, swap(b" = ", equals), squeeze=squeeze)
    np.testing.assert_array_equal(read_volume_file(path).voxels, VALUES)
    edited(path, lambda head: swap(b" = ", equals)(head.replace(b"6 5 4", b"5 5 4")), squeeze=squeeze)
    assert reason_of(path) is ReasonCode.UNREADABLE_FILE


def test_meta_image_header_size_is_regarded_or_refused(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.mha", swap(b"^DimSize", b"HeaderSize = 16\nDimSize"))
    assert reason_of(path) is ReasonCode.UNREADABLE_FILE
    write_source(tmp_path / "b.mhd")
    head, voxels = (tmp_path / "b.mhd").read_bytes(), (tmp_path / "b.raw").read_bytes()
    (tmp_path / "b.mhd").write_bytes(head.replace(b"DimSize", b"HeaderSize = 16\nDimSize"))
    assert reason_of(tmp_path / "b.mhd") is ReasonCode.UNREADABLE_FILE
    (tmp_path / "b.raw").write_bytes(b"\1" * 16 + voxels)
    np.testing.assert_array_equal(read_volume_file(tmp_path / "b.mhd").voxels, VALUES)


def patched(path: Path, patch: Callable[[bytearray], Any], values: np.ndarray = VALUES) -> Path:
    """A NIfTI file with bytes of it altered."""
    write_source(path.with_name("whole.nii"), values)
    content = bytearray(path.with_name("whole.nii").read_bytes())
    content = patch(content) or content
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def put(kind: str, place: int, *numbers: float) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(kind, content, place, *numbers)


#: Rows longer than what the headers below leave over.
WIDE = np.zeros((400, 3, 2), np.int16)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "patch",
    [
        put("<f", 108, 0.0),
        put("<f", 108, 348.0),
        put("<f", 108, 352.5),
        lambda c: c[:348] + b"\1\0\0\0" + struct.pack("<2i", 32, 6) + b"x" * 24 + c[352:],
        lambda c: c[:352] + b"\7" * 16 + b"".join((c[352:-16], b"\1" * 16)),
        lambda c: c + b"\1",
    ],
)
def test_nifti_voxels_that_begin_or_end_elsewhere_are_refused(tmp_path: Path, patch: Any, extension: str) -> None:
    assert reason_of(patched(tmp_path / f"a{extension}", patch, WIDE)) is ReasonCode.UNREADABLE_FILE


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_few_zeros_may_follow_the_voxels(tmp_path: Path, extension: str) -> None:
    path = patched(tmp_path / f"a{extension}", lambda c: c + bytes(8))
    np.testing.assert_array_equal(read_volume_file(path).voxels, VALUES)


@pytest.mark.parametrize(("unit", "scale"), [(b"um", 0.001), (b"mm", 1.0), (b"cm", 10.0), (b"m", 1000.0)])
def test_units_of_length_are_read_in_millimetres(tmp_path: Path, unit: bytes, scale: float) -> None:
    nrrd = swap(b"^sizes", b'space units: "%b" "%b" "%b"\nsizes' % (unit, unit, unit))
    meta = swap(b"^DimSize", b"DistanceUnits = %b\nDimSize" % unit)
    for path in (edited(tmp_path / "a.nrrd", nrrd), edited(tmp_path / "a.mha", meta)):
        affine = np.diag([scale, scale, scale, 1]) @ AFFINE
        np.testing.assert_allclose(read_volume_file(path).geometry.affine, affine, rtol=1e-5, atol=1e-6 * scale)


def test_other_units_of_length_are_refused(tmp_path: Path) -> None:
    for words in (b'"inch" "inch" "inch"', b'"mm" "mm" "cm"'):
        path = edited(tmp_path / "a.nrrd", swap(b"^sizes", b"space units: " + words + b"\nsizes"))
        assert reason_of(path) is ReasonCode.NO_GEOMETRY


@pytest.mark.parametrize(
    ("name", "pattern", "new", "warning"),
    [
        ("a.nrrd", b"^space: .*", b"space: scanner-xyz", "does not say where in the patient"),
        ("a.nrrd", b"^space: .*", b"space: 3D-left-handed", "does not say where in the patient"),
        ("a.nrrd", b"^space directions: .*", b"space directions: (1,0,0) (0,1,0) none", "spacing of each axis"),
        ("a.nrrd", b"^space origin: .*\n", b"", "no origin"),
        ("a.nrrd", b"^space.*\n", b"", "spacing of each axis"),
        ("a.mha", b"^ElementSpacing.*\n", b"", "no spacing"),
        ("a.mha", b"^Offset.*\n", b"", "no origin"),
        ("a.mha", b"^TransformMatrix.*\n", b"", "no orientation"),
    ],
)
def test_what_is_assumed_of_the_geometry_is_warned_of(
    tmp_path: Path, name: str, pattern: bytes, new: bytes, warning: str
) -> None:
    warnings = read_volume_file(edited(tmp_path / name, swap(pattern, new))).warnings
    assert any(warning in text for text in warnings)


@pytest.mark.parametrize(
    ("slope", "intercept", "is_read"),
    [
        (float("inf"), 0, False),
        (float("nan"), 5, False),
        (1, float("inf"), False),
        (1, float("nan"), False),
        (float("nan"), 0, True),
        (float("nan"), float("nan"), True),
        (0, 500, True),
    ],
)
def test_scaling_that_is_no_number_is_refused(tmp_path: Path, slope: float, intercept: float, is_read: bool) -> None:
    path = patched(tmp_path / "a.nii", put("<2f", 112, slope, intercept))
    if is_read:
        np.testing.assert_array_equal(read_volume_file(path).voxels, VALUES)
    else:
        assert reason_of(path) is ReasonCode.BAD_RESCALE


@pytest.mark.parametrize(("factor", "disagrees"), [(1.0001, False), (1.2, True), (-1.0, True)])
def test_sform_and_qform_are_compared_in_millimetres_at_the_corners(
    tmp_path: Path, factor: float, disagrees: bool
) -> None:
    metres = np.diag([1e-3, 1e-3, 1e-3, 1])
    image = nib.Nifti1Image(VALUES, metres @ AFFINE)
    image.header.set_xyzt_units("meter")
    image.set_sform(metres @ AFFINE, 1)
    image.set_qform(metres @ AFFINE @ np.diag([factor, 1, 1, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    assert any("disagree" in warning for warning in read_volume_file(tmp_path / "a.nii").warnings) is disagrees


@pytest.mark.parametrize(("offset", "is_lost"), [(0.0, False), (1e3, False), (1e7, True)])
def test_differences_that_float32_loses_are_warned_of(tmp_path: Path, offset: float, is_lost: bool) -> None:
    for name in ("a.nrrd", "a.nii"):
        volume = read_volume_file(write_source(tmp_path / name, VALUES / 100 + offset))
        assert any("float32" in warning for warning in volume.warnings) is is_lost
    volume = read_volume_file(scaled_nifti(tmp_path / "b.nii", 0.01, offset))
    assert any("float32" in warning for warning in volume.warnings) is is_lost

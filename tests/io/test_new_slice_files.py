"""Volume files and images in memory with slices of their own, and in which stacks none are made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_fixtures import make_series, oblique_orientation
from enhanced_fixtures import make_enhanced
from volume_files import AFFINE, SHAPE, VALUES, write_source

from monai_ldmsr.errors import ReasonCode, SettingsError
from monai_ldmsr.geometry import ResultGrid, SlicePlaces
from monai_ldmsr.io import read_dicom_series, read_volume_file, write_volume_file
from monai_ldmsr.io.map_files import write_map_file
from monai_ldmsr.io.memory_images import image_volume, result_image

#: 4 slices 2.5 mm apart and 2 mm thick, from the first one's outer face on: 19 of 0.5 mm are 9.5 mm.
NUMBER, NEW_MM, FACE_MM = 19, 0.5, -1.0
PLACES = SlicePlaces(NUMBER, (FACE_MM + NEW_MM / 2) / 2.5, NEW_MM / 2.5)
EXTENSIONS = [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]
LPS = np.diag([-1.0, -1, 1, 1])


def values(in_plane: int) -> np.ndarray:
    """(I', J', K') of 1000 a mm along the third axis from the source's first slice, as whole numbers."""
    along = 1000 * (FACE_MM + (np.arange(NUMBER) + 0.5) * NEW_MM)
    shape = (SHAPE[0] * in_plane, SHAPE[1] * in_plane, NUMBER)
    return np.broadcast_to(along, shape).astype(np.float32)


def read_by_other(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Affine in RAS and voxels, by nibabel or SimpleITK."""
    if path.name.endswith((".nii", ".nii.gz", ".mgz")):
        image: Any = nib.load(path)
        return image.affine, np.asarray(image.dataobj)
    found = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(found.GetDirection()).reshape(3, 3) * found.GetSpacing()
    affine[:3, 3] = found.GetOrigin()
    return LPS @ affine, sitk.GetArrayFromImage(found).T


def check_place(affine: np.ndarray, found: np.ndarray, in_plane: int, source: np.ndarray = AFFINE) -> None:
    """Each value lies where it says, and a slice's outer edges lie where the source's do."""
    index = np.vstack([np.indices(found.shape).reshape(3, -1), np.ones(found.size)])
    axis = source[:3, 2] / np.linalg.norm(source[:3, 2])
    normal = np.cross(source[:3, 0], source[:3, 1])
    normal *= np.sign(normal @ axis) / np.linalg.norm(normal)
    along = normal @ ((affine @ index)[:3] - source[:3, 3:]) / (normal @ axis)
    np.testing.assert_allclose(found.ravel() / 1000, along, atol=1e-3)
    place = (FACE_MM + NEW_MM / 2) / np.linalg.norm(source[:3, 2])
    for i in (-0.5, SHAPE[0] - 0.5):
        for j in (-0.5, SHAPE[1] - 0.5):
            fine = [(i + 0.5) * in_plane - 0.5, (j + 0.5) * in_plane - 0.5]
            np.testing.assert_allclose(affine @ [*fine, 0, 1], source @ [i, j, place, 1], atol=1e-4)


@pytest.mark.parametrize("in_plane", [1, 2])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_files_lie_where_their_values_say(tmp_path: Path, extension: str, in_plane: int) -> None:
    volume = read_volume_file(write_source(tmp_path / f"a{extension}"))
    grid = ResultGrid.with_slices(in_plane, PLACES)
    path = tmp_path / "out" / f"b{extension}"
    path.parent.mkdir()
    assert write_volume_file(volume, values(in_plane), grid, path, "research only") == 0
    affine, found = read_by_other(path)
    check_place(affine, found, in_plane)
    assert found.dtype == VALUES.dtype
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(image.GetSpacing(), (0.9 / in_plane, 0.7 / in_plane, NEW_MM), rtol=1e-5)
    with pytest.raises(SettingsError, match=r"\(6, 5, 18\)"):
        write_volume_file(volume, values(1)[:, :, :18], ResultGrid.with_slices(1, PLACES), path, "")


def test_mgh_files_lie_where_their_values_say(tmp_path: Path) -> None:
    nib.save(nib.MGHImage(VALUES, AFFINE), tmp_path / "a.mgz")
    write_volume_file(
        read_volume_file(tmp_path / "a.mgz"), values(2), ResultGrid.with_slices(2, PLACES), tmp_path / "b.mgz", ""
    )
    check_place(*read_by_other(tmp_path / "b.mgz"), 2)


def test_sform_and_qform_are_each_moved_along_their_own_stack(tmp_path: Path) -> None:
    turned = np.eye(4)
    turned[:3, :3] = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    elsewhere = turned @ AFFINE
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(elsewhere, 2)
    nib.save(image, tmp_path / "a.nii")
    grid = ResultGrid.with_slices(1, PLACES)
    write_volume_file(read_volume_file(tmp_path / "a.nii"), values(1), grid, tmp_path / "b.nii", "")
    found = nib.load(tmp_path / "b.nii")
    (sform, sform_code), (qform, qform_code) = found.get_sform(coded=True), found.get_qform(coded=True)
    assert (sform_code, qform_code) == (1, 2)
    voxels = np.asarray(found.dataobj)
    check_place(sform, voxels, 1)
    check_place(qform, voxels, 1, elsewhere)
    np.testing.assert_allclose(found.header["pixdim"][1:4], (0.9, 0.7, NEW_MM), rtol=1e-6)


@pytest.mark.parametrize("is_mask", [False, True])
def test_maps_have_the_slices_of_the_result(tmp_path: Path, is_mask: bool) -> None:
    volume = read_volume_file(write_source(tmp_path / "a.nii.gz"))
    shown = (values(2) > 1000).astype(np.float32) if is_mask else 64 * np.round(values(2) / 64)
    write_map_file(volume, shown, ResultGrid.with_slices(2, PLACES), tmp_path / "m.nii.gz", is_mask)
    affine, found = read_by_other(tmp_path / "m.nii.gz")
    np.testing.assert_allclose(affine, volume.geometry.upsampled(ResultGrid.with_slices(2, PLACES)).affine, atol=1e-5)
    np.testing.assert_allclose(affine @ [0, 0, 0, 1] - AFFINE @ [-0.25, -0.25, -0.3, 1], 0, atol=1e-5)
    np.testing.assert_allclose(found, shown, rtol=1 / 64)


@pytest.mark.parametrize("kind", ["nibabel", "SimpleITK", "array"])
def test_images_in_memory_lie_where_their_values_say(tmp_path: Path, kind: str) -> None:
    path = write_source(tmp_path / "a.nii")
    image: Any = nib.load(path) if kind == "nibabel" else sitk.ReadImage(str(path))
    source = image_volume(image)
    result = result_image(image, values(2), source, ResultGrid.with_slices(2, PLACES), "research only")
    if kind == "nibabel":
        check_place(result.get_sform(), np.asarray(result.dataobj), 2)
        check_place(result.get_qform(), np.asarray(result.dataobj), 2)
    elif kind == "SimpleITK":
        sitk.WriteImage(result, str(tmp_path / "b.nrrd"))
        check_place(*read_by_other(tmp_path / "b.nrrd"), 2)
    else:
        found = result_image(VALUES, values(2), source, ResultGrid.with_slices(2, PLACES))
        np.testing.assert_array_equal(found, values(2))


# Thickness


@pytest.mark.parametrize(
    ("said", "found", "is_warned"),
    [({"SliceThickness": 4.5}, 4.5, False), ({"SliceThickness": 3}, 3.0, False), ({}, None, False)]
    + [({"SliceThickness": odd}, None, True) for odd in ("4.5", -1, True, [4], float("inf"), float("nan"))]
    + [({"SliceThickness": None}, None, False), ({"SliceThickness": 0}, None, False)],
)
def test_a_volume_file_is_as_thick_as_the_file_beside_it_says(
    tmp_path: Path, said: dict[str, Any], found: float | None, is_warned: bool
) -> None:
    path = write_source(tmp_path / "a.nii")
    (tmp_path / "a.json").write_text(json.dumps({"Modality": "MR", **said}))
    volume = read_volume_file(path)
    assert volume.slice_thickness_mm == found
    assert any("'SliceThickness'" in warning for warning in volume.warnings) is is_warned
    assert volume.modality == "MR"


@pytest.mark.parametrize(
    ("thickness", "found"),
    [
        (4.0, 4.0),
        (lambda k: 4.0 + 0.01 * k, 4.02),
        (lambda k: 4.0 + 0.1 * k, None),
        (lambda k: None if k == 2 else 4.0, None),
        (None, None),
        (0, None),
        (-4.0, None),
        ("", None),
    ],
)
def test_a_series_is_as_thick_as_all_its_headers_say(tmp_path: Path, thickness: Any, found: float | None) -> None:
    make_series(tmp_path, "CT", (6, 8, 5), SliceThickness=thickness)
    assert read_dicom_series(tmp_path).slice_thickness_mm == found


# Stacks


def shifted(folder: Path, offset: Callable[[int], tuple[float, float]], apart_mm: float = 5.0) -> Any:
    """A series whose slices are shifted by (columns, rows) in mm within their planes."""
    cosines = np.array(oblique_orientation())
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    make_series(
        folder, "CT", (6, 8, 6), spacing_mm=(0.7, 0.9, apart_mm),
        ImagePositionPatient=lambda k: [
            f"{x:.10g}" for x in apart_mm * k * normal + offset(k)[0] * row + offset(k)[1] * column
        ],
    )  # fmt: skip
    return read_dicom_series(folder)


def test_a_straight_and_even_stack_has_no_fault(tmp_path: Path) -> None:
    assert shifted(tmp_path / "a", lambda k: (0, 0)).stack_fault is None
    assert shifted(tmp_path / "b", lambda k: (0.05 * (k % 2), 0)).stack_fault is None
    make_series(tmp_path / "c", "CT", (6, 8, 1))
    assert read_dicom_series(tmp_path / "c").stack_fault is None
    make_enhanced(tmp_path / "d.dcm", "MR", (6, 8, 4))
    assert read_dicom_series(tmp_path / "d.dcm").stack_fault is None


@pytest.mark.parametrize(
    ("degrees", "apart_mm", "axis", "words"),
    [
        (12, 5.0, 1, r"12 degrees off their normal, which moves them by up to 5\.31 mm"),
        (-1, 5.0, 0, r"1 degrees off their normal, which moves them by up to 0\.436 mm"),
        # Half a degree counts as straight, but here the last slice lies more than half a pixel off the normal.
        (0.4, 20.0, 1, r"0\.4 degrees off their normal, which moves them by up to 0\.698 mm"),
        (0.4, 5.0, 1, None),
    ],
)
def test_tilt_is_a_fault(tmp_path: Path, degrees: float, apart_mm: float, axis: int, words: str | None) -> None:
    slope = apart_mm * np.tan(np.deg2rad(degrees))
    fault = shifted(tmp_path, lambda k: (slope * k * (1 - axis), slope * k * axis), apart_mm).stack_fault
    assert (fault and fault.reason) == (words and ReasonCode.GANTRY_TILT)
    if words:
        check_words(fault.message, words)


def test_shifted_slices_are_a_fault(tmp_path: Path) -> None:
    fault = shifted(tmp_path, lambda k: (0.9 * (k == 2), 0)).stack_fault
    assert fault.reason is ReasonCode.IRREGULAR_SPACING
    check_words(fault.message, r"shifted in-plane .* by up to 0\.9\d* mm \(tolerance 0\.35 mm\)")


@pytest.mark.parametrize("extension", [".nii", ".mgz"])
@pytest.mark.parametrize(("degrees", "is_fault"), [(0.0, False), (0.4, False), (0.6, True), (-20, True)])
@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_sheared_volume_file_has_a_fault(
    tmp_path: Path, extension: str, degrees: float, is_fault: bool, mirrored: int
) -> None:
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.deg2rad(degrees))
    affine = AFFINE @ np.diag([mirrored, 1, 1, 1])
    image: Any = nib.MGHImage if extension == ".mgz" else nib.Nifti1Image
    nib.save(image(VALUES, shear @ affine), tmp_path / f"a{extension}")
    fault = read_volume_file(tmp_path / f"a{extension}").stack_fault
    assert (fault is not None) is is_fault
    if fault:
        assert fault.reason is ReasonCode.GANTRY_TILT
        check_words(fault.message, rf"{abs(degrees):g} degrees off their normal \(sheared affine\)")


@pytest.mark.parametrize(
    ("positions", "reason", "words"),
    [
        ([0, 5, 10, 20, 25], ReasonCode.MISSING_SLICE, r"Slices 3 and 4 are 10\.00 mm apart, but the others are 5\.00"),
        ([0, 5, 10, 15.1, 20.1], ReasonCode.IRREGULAR_SPACING, r"5\.00 to 5\.10 mm apart, usually 5\.00 mm"),
        ([0, 5, 9, 14, 19], ReasonCode.IRREGULAR_SPACING, r"4\.00 to 5\.00 mm"),
    ],
)
def test_gaps_and_uneven_distances_are_faults(
    tmp_path: Path, positions: list[float], reason: ReasonCode, words: str
) -> None:
    make_series(tmp_path, "CT", (6, 8, 5), positions_mm=positions)
    fault = read_dicom_series(tmp_path).stack_fault
    assert fault is not None
    assert fault.reason is reason
    check_words(fault.message, words)


def check_words(message: str, words: str) -> None:
    assert re.search(words, message), message
    assert "Super-resolve within slices alone, or " in message
    assert "MARKER" not in message

"""Volumes of one series by property: which images belong together, whatever their files are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series
from pydicom.uid import generate_uid

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_series import read_dicom_series
from monai_ldmsr.io.discovery import find_dicom_series, find_sources


def uids() -> dict[str, str]:
    return {key: generate_uid() for key in ("study", "series", "frame")}


def found_numbers(folder: Path, keyword: str) -> list[list[object]]:
    """Value of ``keyword`` in each image of each volume, in slice order."""
    found, skipped = find_dicom_series(folder)
    assert skipped == []
    return [[header.get(keyword) for header in read_dicom_series(files).headers] for files in found]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("first", [0, 2, 4])
@pytest.mark.parametrize("spacing_mm", [0.02, 0.5, 5.0])
def test_two_acquisitions_are_two_volumes_wherever_they_stand(
    tmp_path: Path, shift: float, first: int, spacing_mm: float
) -> None:
    """Thickness is the distance within each: shifted by any part of it, overlapping by any number of slices."""
    shared = uids()
    for number, begin in ((1, 0), (2, first + shift)):
        along = [(begin + k) * spacing_mm for k in range(6)]
        size = (0.02, 0.02) if spacing_mm < 0.1 else (0.7, 0.9)
        make_series(
            tmp_path / f"{number}",
            "CT",
            (8, 9, 6),
            spacing_mm=(*size, spacing_mm),
            positions_mm=along,
            uids=shared,
            AcquisitionNumber=number,
        )
    assert sorted(found_numbers(tmp_path, "AcquisitionNumber")) == [[1] * 6, [2] * 6]


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("thickness", [0.6, 1.0, 1.2])
def test_slices_taken_in_turn_are_one_volume(tmp_path: Path, n: int, thickness: float) -> None:
    make_series(
        tmp_path,
        "MR",
        (8, 9, 12),
        AcquisitionNumber=lambda k: 1 + k % n,
        AcquisitionTime=lambda k: f"10{k % n:02d}00",
        SliceThickness=2.5 * thickness,
        SpacingBetweenSlices=2.5,
    )
    [files], _ = find_dicom_series(tmp_path)
    assert len(files.paths) == 12
    assert any("interleave" in warning and "make one volume" in warning for warning in files.warnings)


@pytest.mark.parametrize("n_slices", [1, 2, 3, 4])
def test_step_and_shoot_is_one_volume(tmp_path: Path, n_slices: int) -> None:
    make_series(tmp_path, "CT", (8, 9, 12), AcquisitionNumber=lambda k: 1 + k // n_slices)
    [files], _ = find_dicom_series(tmp_path)
    assert (len(files.paths), files.warnings) == (12, ())


def test_slices_of_simultaneous_excitation_are_no_volumes(tmp_path: Path) -> None:
    """Three slices far apart have one time; repeated, only the order at each position tells volumes apart."""
    shared = uids()
    for volume in range(2):
        make_series(
            tmp_path / f"{volume}",
            "MR",
            (8, 9, 12),
            uids=shared,
            AcquisitionTime=lambda k, v=volume: f"10{v}0{k % 4:02d}",
            InstanceNumber=lambda k, v=volume: 12 * v + k + 1,
        )
    expected = [list(range(1, 13)), list(range(13, 25))]
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == expected


@pytest.mark.parametrize("together", [2, 3, 4])
def test_times_of_whole_seconds_do_not_cut_volumes_into_blocks(tmp_path: Path, together: int) -> None:
    shared = uids()
    for volume in range(3):
        make_series(
            tmp_path / f"{volume}",
            "MR",
            (8, 9, 12),
            uids=shared,
            AcquisitionTime=lambda k, v=volume: f"10{v:02d}{k // together:02d}",
            InstanceNumber=lambda k, v=volume: 12 * v + k + 1,
        )
    expected = [list(range(12 * v + 1, 12 * v + 13)) for v in range(3)]
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == expected
    next((tmp_path / "2").iterdir()).unlink()
    [files], _ = find_dicom_series(tmp_path)
    with pytest.raises(SourceError, match="11 hold 3 images"):
        read_dicom_series(files)


@pytest.mark.parametrize("number", [lambda v, k: 5 * v + k, lambda v, k: 3 * k + v, lambda v, k: 100 - 5 * v - k])
@pytest.mark.parametrize("spacing_mm", [0.02, 2.5])
def test_order_at_each_position_tells_volumes_apart(
    tmp_path: Path, number: Callable[[int, int], int], spacing_mm: float
) -> None:
    shared = uids()
    size = (0.02, 0.03, 0.02) if spacing_mm < 0.1 else (0.7, 0.9, 2.5)
    jitter = 0.001 if spacing_mm < 0.1 else 0.02
    expected = []
    for v in range(3):
        along = [k * size[2] + jitter * (v == 1) for k in range(5)]
        numbers = [number(v, k) for k in range(5)]
        make_series(
            tmp_path / f"{v}",
            "MR",
            (8, 9, 5),
            uids=shared,
            spacing_mm=size,
            positions_mm=along,
            InstanceNumber=lambda k, n=numbers: n[k],
        )
        expected.append(numbers)
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == sorted(expected)


def test_the_refusal_counts_positions_and_images(tmp_path: Path) -> None:
    shared = uids()
    make_series(tmp_path / "a", "MR", (8, 9, 5), uids=shared)
    make_series(tmp_path / "b", "MR", (8, 9, 3), uids=shared, InstanceNumber=lambda k: k + 9)
    [files], _ = find_dicom_series(tmp_path)
    with pytest.raises(SourceError, match="Of 5 slice positions, 2 hold 1 images and 3 hold 2 images") as caught:
        read_dicom_series(files)
    assert caught.value.reason is ReasonCode.DUPLICATE_POSITION


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_small_voxels_stand_where_another_reader_finds_them(tmp_path: Path, modality: str) -> None:
    spacing_mm = (0.02, 0.03, 0.025)
    make_series(tmp_path, modality, (8, 9, 5), spacing_mm=spacing_mm)
    series = read_dicom_series(tmp_path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    itk = SimpleITK.ReadImage(names)
    assert series.warnings == ()
    np.testing.assert_allclose(series.geometry.spacing_mm, itk.GetSpacing(), rtol=1e-4)
    for index in ((0, 0, 0), (8, 7, 4), (3, 0, 2)):
        ours = series.geometry.affine_lps @ [*index, 1]
        np.testing.assert_allclose(ours[:3], itk.TransformIndexToPhysicalPoint(index), atol=1e-5)
    np.testing.assert_allclose(series.voxels, SimpleITK.GetArrayFromImage(itk).T, rtol=1e-5)


def test_a_volume_of_many_frames_of_reference_has_one(tmp_path: Path) -> None:
    make_series(tmp_path, FrameOfReferenceUID=lambda k: f"1.2.{k + 1}", StudyInstanceUID=lambda k: f"1.3.{k + 1}")
    [files], _ = find_dicom_series(tmp_path)
    headers = read_dicom_series(files).headers
    assert {(header.FrameOfReferenceUID, header.StudyInstanceUID) for header in headers} == {("1.2.1", "1.3.1")}


def test_class_and_modality_that_disagree_are_said_to(tmp_path: Path) -> None:
    make_series(tmp_path, "CT", Modality="MR")
    _, [skipped] = find_dicom_series(tmp_path)
    assert skipped.reason is ReasonCode.UNSUPPORTED_MODALITY
    assert "is CT" in skipped.message
    assert "says MR" in skipped.message


def test_gzip_of_something_else_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    (tmp_path / "y.dcm.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    _, skipped = find_sources(tmp_path)
    said = {item.reason: item.message for item in skipped}
    assert "gzip file that holds no DICOM file" in said[ReasonCode.NOT_AN_IMAGE]
    assert "named as DICOM" in said[ReasonCode.UNREADABLE_FILE]


def test_left_out_images_are_counted_in_the_summary(tmp_path: Path) -> None:
    shared = uids()
    make_series(tmp_path / "a", "CT", uids=shared)
    make_series(tmp_path / "b", "CT", (8, 9, 1), uids=shared, orientation=[1, 0, 0, 0, 0, -1])
    [files], [skipped] = find_dicom_series(tmp_path)
    assert (len(files.paths), skipped.reason, skipped.n_files) == (5, ReasonCode.LOCALIZER, 1)
    assert pydicom.dcmread(files.paths[0]).Rows == 20

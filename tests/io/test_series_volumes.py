"""Volumes of one series by property: which images belong together, whatever their files are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series, make_volumes

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_series import read_dicom_series
from monai_ldmsr.io.discovery import find_dicom_series, find_sources


def repeat_volume(folder: Path, n_volumes: int, time: Callable[[int, int], str]) -> None:
    """One series of volumes of 12 slices; ``time`` is of volume and slice, Instance Number counts all images."""
    each = [
        {"AcquisitionTime": lambda k, v=v: time(v, k), "InstanceNumber": lambda k, v=v: 12 * v + k + 1}
        for v in range(n_volumes)
    ]
    make_volumes(folder, "MR", each, shape=(8, 9, 12))


def found_numbers(folder: Path, keyword: str) -> list[list[object]]:
    """Value of ``keyword`` in each image of each volume, in slice order."""
    found, skipped = find_dicom_series(folder)
    assert skipped == []
    return [[header.get(keyword) for header in read_dicom_series(files).headers] for files in found]


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("spacing_mm", [0.02, 5.0])
def test_two_acquisitions_are_two_volumes_wherever_they_stand(
    tmp_path: Path, shift: float, first: int, spacing_mm: float
) -> None:
    """Thickness is the distance within each: shifted by any part of it, overlapping by any number of slices."""
    size = (0.02, 0.02) if spacing_mm < 0.1 else (0.7, 0.9)
    each = [
        {"AcquisitionNumber": number, "positions_mm": [(begin + k) * spacing_mm for k in range(6)]}
        for number, begin in ((1, 0), (2, first + shift))
    ]
    make_volumes(tmp_path, "CT", each, shape=(8, 9, 6), spacing_mm=(*size, spacing_mm))
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
    repeat_volume(tmp_path, 2, lambda volume, k: f"10{volume}0{k % 4:02d}")
    expected = [list(range(1, 13)), list(range(13, 25))]
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == expected


@pytest.mark.parametrize("together", [2, 3, 4])
def test_times_of_whole_seconds_do_not_cut_volumes_into_blocks(tmp_path: Path, together: int) -> None:
    repeat_volume(tmp_path, 3, lambda volume, k: f"10{volume:02d}{k // together:02d}")
    expected = [list(range(12 * v + 1, 12 * v + 13)) for v in range(3)]
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == expected
    next((tmp_path / "02").iterdir()).unlink()
    [files], _ = find_dicom_series(tmp_path)
    with pytest.raises(SourceError, match="11 hold 3 images"):
        read_dicom_series(files)


@pytest.mark.parametrize("number", [lambda v, k: 5 * v + k, lambda v, k: 3 * k + v, lambda v, k: 100 - 5 * v - k])
@pytest.mark.parametrize("spacing_mm", [0.02, 2.5])
def test_order_at_each_position_tells_volumes_apart(
    tmp_path: Path, number: Callable[[int, int], int], spacing_mm: float
) -> None:
    size = (0.02, 0.03, 0.02) if spacing_mm < 0.1 else (0.7, 0.9, 2.5)
    jitter = 0.001 if spacing_mm < 0.1 else 0.02
    expected = [[number(v, k) for k in range(5)] for v in range(3)]
    each = [
        {"positions_mm": [k * size[2] + jitter * (v == 1) for k in range(5)], "InstanceNumber": numbers.__getitem__}
        for v, numbers in enumerate(expected)
    ]
    make_volumes(tmp_path, "MR", each, shape=(8, 9, 5), spacing_mm=size)
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == sorted(expected)


def test_the_refusal_counts_positions_and_images(tmp_path: Path) -> None:
    make_volumes(tmp_path, "MR", [{"shape": (8, 9, 5)}, {"shape": (8, 9, 3), "InstanceNumber": lambda k: k + 9}])
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


def test_gzip_of_something_else_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    (tmp_path / "y.dcm.gz").write_bytes(b"\x1f\x8b\x08" + bytes(300))
    _, skipped = find_sources(tmp_path)
    said = {item.reason: item.message for item in skipped}
    assert "gzip file that holds no DICOM file" in said[ReasonCode.NOT_AN_IMAGE]
    assert "named as DICOM" in said[ReasonCode.UNREADABLE_FILE]


def hhmmss(seconds: float) -> str:
    return f"10{int(seconds) // 60:02d}{int(seconds) % 60:02d}"


@pytest.mark.slow
@pytest.mark.parametrize("repetition_s", [0.45, 0.8, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("n_slices", [2, 3, 4])
@pytest.mark.parametrize("start_s", [0.0, 0.5])
def test_times_of_whole_seconds_never_mix_volumes(
    tmp_path: Path, repetition_s: float, n_slices: int, start_s: float
) -> None:
    each = [
        {
            "AcquisitionTime": lambda k, t=t: hhmmss(start_s + repetition_s * (t + k / n_slices)),
            "InstanceNumber": lambda k, t=t: n_slices * t + k + 1,
        }
        for t in range(12)
    ]
    make_volumes(tmp_path, "MR", each, shape=(8, 9, n_slices))
    expected = [list(range(n_slices * t + 1, n_slices * (t + 1) + 1)) for t in range(12)]
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == expected
    next((tmp_path / "03").iterdir()).unlink()
    found, _ = find_dicom_series(tmp_path)
    for files in found:
        numbers = [int(pydicom.dcmread(path).InstanceNumber) for path in files.paths]
        if len({(number - 1) // n_slices for number in numbers}) > 1:  # not parted, and never read as one volume
            with pytest.raises(SourceError, match="neither an attribute nor their order"):
                read_dicom_series(files)


KEYS = ("TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "DiffusionBValue")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("jitter", [0.02, 0.2])
@pytest.mark.parametrize("spacing_mm", [(0.1, 0.12, 0.5), (0.7, 0.9, 2.5)])
def test_images_near_each_other_are_of_volumes_that_an_attribute_tells_apart(
    tmp_path: Path, key: str, jitter: float, spacing_mm: tuple[float, float, float]
) -> None:
    """``jitter`` is part of the slice distance; the third volume has it at some places only."""
    signs, each = np.array([0.9, -1, 0.95, -0.9, 1]), []
    for n, sign in enumerate((0 * signs, signs, signs * [0, 1, 0, 0, 1])):
        along = (np.arange(5) + jitter * (sign if key != "AcquisitionNumber" else abs(sign))) * spacing_mm[2]
        each.append({"positions_mm": along, key: n + 1})
    make_volumes(tmp_path, "MR", each, shape=(8, 9, 5), spacing_mm=spacing_mm)
    assert sorted(found_numbers(tmp_path, key)) == [[n] * 5 for n in (1, 2, 3)]


def test_two_attributes_tell_images_near_each_other_apart(tmp_path: Path) -> None:
    each = [
        {
            "positions_mm": [0.5 * k + 0.03 * (-1) ** (k * n + n // 2) * (n > 0) for k in range(5)],
            **{"EchoTime": n // 3 + 1, "TemporalPositionIdentifier": n % 3 + 1, "InstanceNumber": n + 1},
        }
        for n in range(6)
    ]
    make_volumes(tmp_path, "MR", each, shape=(8, 9, 5), spacing_mm=(0.1, 0.12, 0.5))
    assert sorted(found_numbers(tmp_path, "InstanceNumber")) == [[n] * 5 for n in range(1, 7)]


@pytest.mark.parametrize("key", ["FrameOfReferenceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("each", ["image", "place"])
@pytest.mark.parametrize("n_missing", [0, 1])
def test_identifiers_new_at_each_place_part_no_echoes(tmp_path: Path, key: str, each: str, n_missing: int) -> None:
    echoes = [
        {"EchoTime": 10 * echo, key: lambda k, e=echo: f"1.2.{k + 1}.{e if each == 'image' else 0}"} for echo in (1, 2)
    ]
    make_volumes(tmp_path, "MR", echoes, shape=(8, 9, 5))
    for path in sorted((tmp_path / "01").iterdir())[:n_missing]:
        path.unlink()
    assert sorted(found_numbers(tmp_path, "EchoTime")) == [[10] * 5, [20] * (5 - n_missing)]


@pytest.mark.parametrize("thickness", [1.25, 2.5])
def test_two_acquisitions_of_two_slices_are_not_merged_without_a_word(tmp_path: Path, thickness: float) -> None:
    each = [{"positions_mm": [1.25 * n, 1.25 * n + 2.5], "AcquisitionNumber": n + 1} for n in (0, 1)]
    make_volumes(tmp_path, "CT", each, shape=(8, 9, 2), SliceThickness=thickness)
    found, _ = find_dicom_series(tmp_path)
    assert sorted(len(files.paths) for files in found) == ([4] if thickness < 2 else [2, 2])
    said = "make one volume" if thickness < 2 else "are volumes of their own"
    assert all(any(said in warning for warning in files.warnings) for files in found)


def test_the_decision_on_interleaved_acquisitions_names_the_thickness_that_decided(tmp_path: Path) -> None:
    each = [
        {"positions_mm": [5.0 * k + 2.5 * n for k in range(4)], "AcquisitionNumber": n + 1, "SliceThickness": thickness}
        for n, thickness in enumerate((5.0, 2.5))
    ]
    make_volumes(tmp_path, "CT", each, shape=(8, 9, 4))
    [files], _ = find_dicom_series(tmp_path)
    assert any("As slices are 2.5 mm thick there" in w and "make one volume" in w for w in files.warnings)


def test_images_left_out_elsewhere_or_at_taken_places_are_not_missed(tmp_path: Path) -> None:
    elsewhere = {"positions_mm": [90, 95, 100, 105, 110]}, {"orientation": [1, 0, 0, 0, 0, -1]}
    each = [{}, {"ComplexImageComponent": "PHASE"}, *({**one, "Modality": "CT"} for one in elsewhere)]
    make_volumes(tmp_path, "MR", each)
    [files], skipped = find_dicom_series(tmp_path)
    assert (len(files.paths), files.warnings) == (5, ())
    assert sorted(item.n_files for item in skipped) == [5, 10]

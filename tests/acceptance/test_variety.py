"""Real variety of classic series, each from a made one: positions, codecs, tilt, phases, diffusion, padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_fixtures import MadeSeries, make_series, make_volumes
from pydicom.uid import JPEGLosslessSV1
from series_by_hand import read_images, write

from monai_ldmsr import super_resolve
from monai_ldmsr.io.dicom_series import DicomSeries, read_dicom_series
from monai_ldmsr.io.discovery import find_dicom_series
from monai_ldmsr.transforms import volume_of


def centre_of(image: pydicom.Dataset) -> np.ndarray:
    """Centre of the image's area in the patient, from its own header."""
    cosines = np.array(image.ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in image.PixelSpacing)
    across = cosines[:3] * column_mm * (image.Columns - 1) / 2 + cosines[3:] * row_mm * (image.Rows - 1) / 2
    return np.array(image.ImagePositionPatient, float) + across


# Where the patient lies


@pytest.mark.parametrize("position", ["HFS", "FFS", "HFP", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_geometry_does_not_depend_on_patient_position(tmp_path: Path, modality: str, position: str) -> None:
    made = make_series(tmp_path / "source", modality, PatientPosition=position)
    series = read_dicom_series(tmp_path / "source")
    np.testing.assert_allclose(series.voxels, made.values.transpose(1, 0, 2), rtol=1e-6)
    np.testing.assert_allclose(series.geometry.origin_lps_mm, made.origin_lps_mm, atol=1e-9)
    np.testing.assert_allclose(series.geometry.direction_lps, made.direction_lps, atol=1e-9)
    for image, source in zip(write(series, tmp_path / "result"), series.headers, strict=True):
        assert image.PatientPosition == position
        np.testing.assert_allclose(centre_of(image), centre_of(source), atol=1e-6)


# How the pixels are stored


def compress_by_gdcm(path: Path) -> None:
    """To JPEG Lossless, for which pydicom has no encoder."""
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def test_jpeg_lossless_series_are_read_and_derived(tmp_path: Path) -> None:
    made = make_series(tmp_path / "source", "CT", baggage=False)
    for path in made.paths:
        compress_by_gdcm(path)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    series = read_dicom_series(tmp_path / "source")
    np.testing.assert_array_equal(series.voxels, made.values.transpose(1, 0, 2).astype(np.float32))
    (image, *_) = write(series, tmp_path / "result")
    assert image.get("LossyImageCompression", "00") == "00"


# Several volumes in one series


def volumes_of(made: list[MadeSeries], folder: Path) -> list[DicomSeries]:
    """Each volume that was made, found as one: same files, same values."""
    found, skipped = find_dicom_series(folder)
    assert skipped == []
    assert [set(files.paths) for files in found] == [set(series.paths) for series in made]
    assert len({files.case for files in found}) == len(made)
    volumes = [read_dicom_series(files) for files in found]
    for volume, series in zip(volumes, made, strict=True):
        np.testing.assert_allclose(volume.voxels, series.values.transpose(1, 0, 2), rtol=1e-6)
    return volumes


PHASES = [
    ("MR", [{"TemporalPositionIdentifier": n + 1} for n in range(3)], "Temporal Position"),
    ("MR", [{"AcquisitionTime": f"10163{n}.5"} for n in range(3)], "Acquisition Time"),
    ("MR", [{"TriggerTime": 120.0 * n} for n in range(3)], "Trigger Time"),
    ("CT", [{"AcquisitionNumber": n + 1} for n in range(3)], "Acquisition Number"),
    ("PT", [{"FrameReferenceTime": 60000.0 * n} for n in range(3)], "Frame Reference Time"),
    ("CT", [{"ConvolutionKernel": kernel} for kernel in ("B30", "B70")], "Convolution Kernel"),
    ("MR", [{"EchoTime": time} for time in (10, 20, 30)], "Echo Time"),
    ("MR", [{"EchoNumbers": number} for number in (1, 2, 3)], "Echo Numbers"),
    ("MR", [{"DiffusionBValue": b} for b in (0.0, 500.0, 1000.0)], "b-value"),
    ("MR", [{"ImageType": ["DERIVED", "PRIMARY", kind]} for kind in ("WATER", "FAT", "IN_PHASE")], "Image Type"),
]  # fmt: skip


@pytest.mark.parametrize(("modality", "each", "word"), PHASES, ids=[row[2] for row in PHASES])
def test_phases_are_split_and_derived_apart(
    tmp_path: Path, modality: str, each: list[dict[str, Any]], word: str
) -> None:
    made = make_volumes(tmp_path / "source", modality, each)
    volumes = volumes_of(made, tmp_path / "source")
    series = set()
    for volume, overrides in zip(volumes, each, strict=True):
        assert word in volume.warnings[0]
        images = write(volume, tmp_path / volume.case)
        series |= {image.SeriesInstanceUID for image in images}
        for keyword, value in overrides.items():
            assert keyword == "ImageType" or {image.get(keyword) for image in images} == {value}
    assert len(series) == len(each)


def test_times_of_each_slice_within_a_phase_do_not_tear_it_apart(tmp_path: Path) -> None:
    """As in DCE: each slice has its own trigger and acquisition time, and the phase is told by its index."""
    each = [
        {
            "TemporalPositionIdentifier": n + 1,
            "TriggerTime": lambda k, n=n: 1000.0 * n + 10 * k,
            "AcquisitionTime": lambda k, n=n: f"1016{10 + n}.{k}",
        }
        for n in range(3)
    ]
    volumes_of(make_volumes(tmp_path, "MR", each), tmp_path)


def test_diffusion_is_split_by_b_value_and_then_by_direction(tmp_path: Path) -> None:
    directions = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]]
    each: list[dict[str, Any]] = [{"DiffusionBValue": 0.0, "DiffusionDirectionality": "NONE"}]
    each += [
        {"DiffusionBValue": b, "DiffusionDirectionality": "DIRECTIONAL", "DiffusionGradientOrientation": d}
        for b in (500.0, 1000.0)
        for d in directions
    ]
    made = make_volumes(tmp_path / "source", "MR", each, baggage=False)
    volumes = volumes_of(made, tmp_path / "source")
    assert "Diffusion b-value" in volumes[0].warnings[0]
    assert "b-value, Diffusion Gradient Orientation" in volumes[1].warnings[0]
    for volume, overrides in zip(volumes, each, strict=True):
        (image, *_) = write(volume, tmp_path / volume.case)
        for keyword, value in overrides.items():
            assert image.get(keyword) == value


# Padding, the whole way through the network


PADDING, AIR, SHAPE = -2000, -20, (40, 48, 2)


def field_of_view(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(rows, columns): true within a round field of view that cuts through the body."""
    r, c = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return np.hypot(r, c) < 0.75


def make_ct(folder: Path, outside: int, **overrides: Any) -> Path:
    """A signed CT with ``outside`` stored beyond the field of view; -2000 is -3024 HU. UIDs are the same each time."""
    made = make_series(folder, "CT", SHAPE, BitsStored=16, HighBit=15, PixelRepresentation=1, **overrides)
    for k, path in enumerate(made.paths):
        image = pydicom.dcmread(path)
        pixels = np.where(field_of_view(), np.maximum(made.stored[:, :, k], AIR), outside)
        image.PixelData = pixels.astype("<i2").tobytes()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID = "1.2.3", "1.2.3.4", f"1.2.3.4.{k + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            if keyword in image:
                image[keyword].VR = "SS"
        image.save_as(path)
    return folder


def stored_result(source: Path, output: Path) -> np.ndarray:
    """(rows, columns, slices) that a run with the shipped weights stores."""
    summary = super_resolve(source, output, factor=2, num_inference_steps=1, device="cpu", force=True)
    assert summary.exit_code == 0
    (report,) = output.glob("*/report.json")
    assert json.loads(report.read_text())["metrics"]["agreement"]["nrmse"] < 1e-3
    return np.stack([image.pixel_array for image in read_images(report.parent / "dicom")], axis=2)


@pytest.fixture(scope="module")
def with_air(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What a run makes of the same anatomy with air (the least value inside) where padding stands in the others."""
    folder = tmp_path_factory.mktemp("air")
    probe = read_images(make_ct(folder / "probe", PADDING))
    least = min(int(image.pixel_array[field_of_view()].min()) for image in probe)
    return stored_result(make_ct(folder / "source", least), folder / "result")


@pytest.mark.parametrize(
    ("outside", "declared"),
    [
        (PADDING, {"PixelPaddingValue": PADDING}),
        (-600, {"PixelPaddingValue": -700, "PixelPaddingRangeLimit": -500}),  # -1624 HU: only the header tells
        (PADDING, {}),
    ],
    ids=["value", "range", "undeclared"],
)
def test_padding_comes_back_and_does_not_smear_into_the_anatomy(
    tmp_path: Path, with_air: np.ndarray, outside: int, declared: dict[str, int]
) -> None:
    result = stored_result(make_ct(tmp_path / "source", outside, **declared), tmp_path / "result")
    padded = ~field_of_view().repeat(2, axis=0).repeat(2, axis=1)
    assert (result[padded] == outside).all()
    # Beside the padding, as everywhere within the field of view, not one voxel knows that padding is near.
    np.testing.assert_array_equal(result[~padded], with_air[~padded])
    assert result[~padded].min() > outside + 500


@pytest.mark.parametrize("declared", [{"PixelPaddingValue": PADDING}, {}], ids=["declared", "undeclared"])
def test_impossible_values_are_padding_whether_the_header_says_so_or_not(
    tmp_path: Path, declared: dict[str, int]
) -> None:
    series = read_dicom_series(make_ct(tmp_path, PADDING, **declared))
    assert series.padding is not None
    np.testing.assert_array_equal(series.padding, np.stack([~field_of_view().T] * 2, axis=2))
    assert float(series.voxels.min()) == -3024
    assert float(volume_of(series).min()) >= -1024 + AIR
    assert bool(series.warnings) == (not declared)
    assert declared or "Pixel Padding Value" in series.warnings[0]


def test_air_and_streaks_above_the_limit_are_no_padding(tmp_path: Path) -> None:
    series = read_dicom_series(make_ct(tmp_path, -975))  # -1999 HU
    assert series.padding is None
    assert series.warnings == ()


def test_mr_values_are_never_taken_for_padding(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", RescaleSlope="1", RescaleIntercept="-3000")
    assert read_dicom_series(tmp_path).padding is None

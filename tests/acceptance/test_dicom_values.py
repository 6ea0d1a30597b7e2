"""What would end in other values than the source means: read rightly, told, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_fixtures import MadeSeries, make_series
from enhanced_fixtures import item, make_enhanced
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_series import read_dicom_series

SYNTAXES = pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda s: s.name[:12])


def recoded(
    folder: Path, syntax: Any, words: Callable[[np.ndarray], np.ndarray], bits: int = 16, **header: Any
) -> MadeSeries:
    """A series whose codestreams hold ``words`` of the stored values, with ``header`` told of them afterwards."""
    made = make_series(folder, "MR", shape=(60, 72, 2))
    for path in made.paths:
        dataset = pydicom.dcmread(path)
        before = {keyword: dataset[keyword].value for keyword in ("BitsStored", "HighBit", "PixelRepresentation")}
        dataset.PixelData = words(dataset.pixel_array.astype(np.int64)).astype("<u2").tobytes()
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except RuntimeError:
            pytest.skip("no encoder for this transfer syntax")
        for keyword, value in {**before, **header}.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path, overwrite=True)
    return made


def refused(folder: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_dicom_series(folder)
    return caught.value


@SYNTAXES
@pytest.mark.parametrize("signed", [0, 1])
def test_high_bit_of_compressed_pixels_is_minded(tmp_path: Path, syntax: Any, signed: int) -> None:
    made = recoded(tmp_path, syntax, lambda v: (v << 4) & 0xFFFF, HighBit=15, PixelRepresentation=signed)
    if syntax == RLELossless:
        np.testing.assert_array_equal(
            read_dicom_series(tmp_path).voxels, as_signed(made) if signed else voxels_of(made)
        )
        return
    error = refused(tmp_path)
    assert error.reason is ReasonCode.UNSUPPORTED_PIXELS
    assert "'High Bit' is 15" in str(error)


def voxels_of(made: MadeSeries) -> np.ndarray:
    return made.stored.transpose(1, 0, 2)


def as_signed(made: MadeSeries) -> np.ndarray:
    """The 12 bits of each stored value, read with a sign."""
    values = voxels_of(made).astype(np.int64)
    return np.where(values >= 2048, values - 4096, values)


@SYNTAXES
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_outside_bits_stored_are_left_out_of_compressed_pixels(tmp_path: Path, syntax: Any, signed: int) -> None:
    made = recoded(tmp_path, syntax, lambda v: v | 0x4000, PixelRepresentation=signed)
    series = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(series.voxels, as_signed(made) if signed else voxels_of(made))
    assert "2 images have bits set outside Bits Stored" in series.warnings[0]


@SYNTAXES
@pytest.mark.parametrize("extended", [False, True])
def test_signs_are_understood_whether_or_not_they_are_extended(tmp_path: Path, syntax: Any, extended: bool) -> None:
    def words(values: np.ndarray) -> np.ndarray:
        return (values - 2000) & (0xFFFF if extended else 0xFFF)

    made = recoded(tmp_path, syntax, words, PixelRepresentation=1)
    series = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(series.voxels, (voxels_of(made).astype(np.int64) - 2000 + 2048) % 4096 - 2048)
    assert series.warnings == ()


@SYNTAXES
@pytest.mark.parametrize("table", [False, True])
def test_a_second_frame_is_not_dropped_unseen(tmp_path: Path, syntax: Any, table: bool) -> None:
    made = recoded(tmp_path, syntax, lambda v: v, bits=12)
    dataset = pydicom.dcmread(made.paths[1])
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame], fragments_per_frame=2, has_bot=table)
    dataset.save_as(made.paths[1], overwrite=True)
    np.testing.assert_array_equal(read_dicom_series(tmp_path).voxels, voxels_of(made))
    dataset.PixelData = encapsulate([frame, frame], has_bot=table)
    dataset.save_as(made.paths[1], overwrite=True)
    error = refused(tmp_path)
    assert isinstance(error, CorruptSourceError)
    assert error.reason is ReasonCode.UNDECODABLE_PIXELS
    assert "Image 2 of 2" in str(error)


@pytest.mark.parametrize(
    ("modality", "slope", "intercept", "word"),
    [
        ("CT", "1", "1e39", "too large"),
        ("MR", "1", "3e38", "too large"),
        ("PT", "1e35", "0", "too large"),
        ("MR", "1e-50", "0", "nearly"),
        ("CT", "1", "1e8", "become the same"),
        ("MR", "0.001", "1e6", "become the same"),
    ],
)
def test_rescales_beyond_single_precision_are_refused(
    tmp_path: Path, modality: str, slope: str, intercept: str, word: str
) -> None:
    make_series(tmp_path, modality, RescaleSlope=slope, RescaleIntercept=intercept)
    error = refused(tmp_path)
    assert error.reason is ReasonCode.BAD_RESCALE
    assert word in str(error)


def test_a_coarse_rescale_is_told(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", RescaleSlope="1", RescaleIntercept="4e6")
    [warning] = read_dicom_series(tmp_path).warnings
    assert "5 images" in warning
    assert "single precision" in warning


@pytest.mark.parametrize(("signed", "intercept"), [(0, -100), (0, 0), (1, -100)])
def test_pet_below_zero_is_told_where_the_result_cannot_hold_it(tmp_path: Path, signed: int, intercept: int) -> None:
    pixels = np.full((20, 24), 500, "<u2")
    pixels[0, :3] = 7
    make_series(
        tmp_path,
        "PT",
        PixelRepresentation=signed,
        RescaleIntercept=intercept,
        RescaleSlope=1,
        PixelData=pixels.tobytes(),
    )
    warnings = read_dicom_series(tmp_path).warnings
    if signed or not intercept:
        assert warnings == ()
    else:
        assert "15 voxels of the PET are below 0" in warnings[0]


GROUPS = {
    "PixelMeasuresSequence": "NO_GEOMETRY",
    "PlanePositionSequence": "NO_GEOMETRY",
    "PlaneOrientationSequence": "NO_GEOMETRY",
    "PixelValueTransformationSequence": "BAD_RESCALE",
}


@pytest.mark.parametrize("n_items", [0, 2])
@pytest.mark.parametrize(("keyword", "reason"), GROUPS.items())
def test_a_group_that_is_there_but_not_once_is_refused(tmp_path: Path, keyword: str, reason: str, n_items: int) -> None:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        one = (frames[1] if keyword in frames[1] else shared)[keyword].value[0]
        setattr(shared, keyword, [one])
        setattr(frames[1], keyword, [one] * n_items)

    make_enhanced(tmp_path / "a.dcm", "MR", change=change)
    error = refused(tmp_path)
    assert error.reason is ReasonCode(reason)
    assert "1 of 4 frames" in str(error)


def test_unassigned_attributes_do_not_speak_against_groups(tmp_path: Path) -> None:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        shared.PixelValueTransformationSequence = frames[0].PixelValueTransformationSequence
        ds.PixelPaddingValue = 4000
        for groups in frames:
            del groups.PixelValueTransformationSequence
            groups.UnassignedPerFrameConvertedAttributesSequence = item(
                RescaleSlope="77", PixelSpacing=[3, 3], PixelPaddingValue=1, BitsStored=8, ImageComments="kept"
            )

    made = make_enhanced(tmp_path / "a.dcm", "MR", change=change)
    series = read_dicom_series(tmp_path)
    np.testing.assert_allclose(series.geometry.spacing_mm, made.spacing_mm)
    assert {float(header.RescaleSlope) for header in series.headers} == {0.5}
    assert {(header.PixelPaddingValue, header.BitsStored) for header in series.headers} == {(4000, 12)}
    assert series.headers[0].ImageComments == "kept"

"""What is refused of a DICOM series and with which reason, and that no message tells who the patient is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from dicom_fixtures import MARKER, MARKER_ID, make_series, save
from odd_dicom import REFUSED
from pacs_fixtures import compressed
from pydicom.uid import JPEGLSLossless, RLELossless
from series_by_hand import rewrite

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io import ReadLimits, dicom_pixels
from monai_ldmsr.io.dicom_series import read_dicom_series
from monai_ldmsr.io.discovery import SeriesFiles, find_dicom_series


def refused(source: Path | SeriesFiles, **limits: int) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_dicom_series(source, ReadLimits(**limits))
    return caught.value


@pytest.mark.parametrize(("modality", "what"), [(m, what) for what, row in REFUSED.items() for m in row[0]])
def test_refusals_say_why_and_nothing_of_the_patient(tmp_path: Path, modality: str, what: str) -> None:
    _, overrides, reason, word = REFUSED[what]
    made = make_series(tmp_path / MARKER, modality, **overrides)
    error = refused(tmp_path)
    assert error.reason is ReasonCode(reason)
    assert word in str(error)
    header = pydicom.dcmread(made.paths[0])
    secrets = ("MARKER", header.SeriesInstanceUID, header.SOPInstanceUID, str(tmp_path))
    assert not [secret for secret in secrets if secret in str(error)]


@pytest.mark.parametrize("bad", ["NaN", "inf", "abc"])
@pytest.mark.parametrize(
    ("keyword", "reason"), [("RescaleSlope", "BAD_RESCALE"), ("ImagePositionPatient", "NO_GEOMETRY")]
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, keyword: str, reason: str, bad: str) -> None:
    made = make_series(tmp_path)
    dataset = pydicom.dcmread(made.paths[2])
    values = [bad] if keyword == "RescaleSlope" else ["0", bad, "0"]
    dataset[keyword] = pydicom.dataelem.RawDataElement(
        dataset[keyword].tag, "DS", 0, "\\".join(values).encode(), 0, False, True
    )
    dataset.save_as(made.paths[2], overwrite=True)
    error = refused(tmp_path)
    assert error.reason is ReasonCode(reason)
    assert bad not in str(error)


def test_a_duplicate_position_that_nothing_tells_apart_is_refused(tmp_path: Path) -> None:
    make_series(tmp_path, positions_mm=[0.0, 2.5, 5.0, 5.0, 7.5])
    error = refused(tmp_path)
    assert error.reason is ReasonCode.DUPLICATE_POSITION
    assert "3 hold 1 images and 1 hold 2 images (the first with several: position 3" in str(error)


def test_one_uid_with_two_contents_is_refused(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    dataset = pydicom.dcmread(made.paths[1])
    dataset.PixelData = bytes(len(dataset.PixelData))
    save(dataset, tmp_path / "again.dcm")
    error = refused(tmp_path)
    assert error.reason is ReasonCode.DUPLICATE_UID_CONFLICT
    assert "SOP Instance UID" in str(error)


@pytest.mark.parametrize(("keep", "place"), [(-100, "Image 3 of 5"), (-900, "Image 3 of 5"), (0, "1 of 5")])
def test_truncated_files_are_refused_and_never_dropped(tmp_path: Path, keep: int, place: str) -> None:
    made = make_series(tmp_path, baggage=False)
    content = made.paths[2].read_bytes()
    made.paths[2].write_bytes(content[: keep or content.index(b"\x28\x00\x10\x00US")])
    error = refused(tmp_path)
    assert isinstance(error, CorruptSourceError)
    assert error.reason is ReasonCode.TRUNCATED_PIXELS
    assert place in str(error)
    assert "truncated" in str(error)


def test_no_cut_anywhere_passes_unseen(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    content = made.paths[2].read_bytes()
    for keep in range(140, len(content), 97):
        made.paths[2].write_bytes(content[:keep])
        found, skipped = find_dicom_series(tmp_path)
        if len(found[0].paths) == 5:
            refused(found[0])
        else:
            assert [item.reason for item in skipped] == [ReasonCode.UNREADABLE_FILE]
            assert "cannot be read" in found[0].warnings[0]


def test_undecodable_slice_is_refused_by_number(tmp_path: Path) -> None:
    paths = compressed(make_series(tmp_path).paths, RLELossless)
    dataset = pydicom.dcmread(paths[4])
    dataset.PixelData = pydicom.encaps.encapsulate([b"\x00" * 80])
    dataset.save_as(paths[4], overwrite=True)
    error = refused(tmp_path)
    assert isinstance(error, CorruptSourceError)
    assert error.reason is ReasonCode.UNDECODABLE_PIXELS
    assert "Image 5 of 5" in str(error)


def test_missing_codec_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed(make_series(tmp_path).paths, RLELossless)

    class NoPlugin:
        is_available = False

    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda syntax: NoPlugin())
    error = refused(tmp_path)
    assert error.reason is ReasonCode.MISSING_CODEC
    assert "pip install monai_ldmsr[codecs]" in str(error)


def test_a_transfer_syntax_without_any_decoder_is_refused(tmp_path: Path) -> None:
    compressed(make_series(tmp_path).paths, RLELossless)
    rewrite(tmp_path, lambda image: None, "1.2.840.10008.1.2.4.102")
    error = refused(tmp_path)
    assert error.reason is ReasonCode.UNDECODABLE_PIXELS
    assert "transfer syntax" in str(error)


def test_a_codestream_of_another_size_is_refused_before_decoding(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    for path in made.paths:
        dataset = pydicom.dcmread(path)
        try:
            dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        except RuntimeError:
            pytest.skip("no JPEG-LS encoder")
        frame = bytearray(next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)))
        at = frame.index(b"\xff\xf7")
        frame[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
        dataset.save_as(path, overwrite=True)
    assert refused(tmp_path).reason is ReasonCode.UNDECODABLE_PIXELS


def test_a_slice_has_a_limit(tmp_path: Path) -> None:
    make_series(tmp_path)
    error = refused(tmp_path, slice_bytes=900)
    assert error.reason is ReasonCode.TOO_LARGE
    assert "Image 1 of 5" in str(error)


def test_the_whole_volume_has_a_limit(tmp_path: Path) -> None:
    make_series(tmp_path)
    assert refused(tmp_path, voxels=2000).reason is ReasonCode.TOO_LARGE


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    made = make_series(tmp_path, shape=(20, 24, 1), ImageComments="0" * 9000)
    save(pydicom.dcmread(made.paths[0]), made.paths[0], "1.2.840.10008.1.2.1.99")
    assert read_dicom_series(tmp_path).voxels.shape == (24, 20, 1)
    assert refused(tmp_path, slice_bytes=5000).reason is ReasonCode.TOO_LARGE


def test_two_series_in_the_folder_are_refused_with_the_way_out(tmp_path: Path) -> None:
    make_series(tmp_path / "a")
    make_series(tmp_path / "b", "MR")
    error = refused(tmp_path)
    assert "2 series" in str(error)
    assert "find_dicom_series" in str(error)


def test_files_of_different_matrix_given_by_hand_are_refused(tmp_path: Path) -> None:
    first = make_series(tmp_path / "a", shape=(20, 24, 2))
    second = make_series(tmp_path / "b", shape=(22, 24, 2), positions_mm=[20.0, 22.5])
    error = refused(SeriesFiles("0" * 12, "CT", (*first.paths, *second.paths)))
    assert error.reason is ReasonCode.MIXED_MATRIX


def test_files_that_vanished_are_refused(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    [files], _ = find_dicom_series(tmp_path)
    made.paths[0].unlink()
    assert refused(files).reason is ReasonCode.UNREADABLE_FILE


def test_warnings_logs_and_repr_hold_nothing_of_the_patient(tmp_path: Path, heard: Callable[[], str]) -> None:
    made = make_series(tmp_path / MARKER, positions_mm=[0.0, 2.5, 5.0, 10.0, 12.7], SpecificCharacterSet="NOT A SET")
    rewrite(tmp_path / MARKER, lambda image: setattr(image, "PatientID", MARKER_ID * 9))
    [files], skipped = find_dicom_series(tmp_path)
    series = read_dicom_series(files)
    seen = "\n".join([repr(files), repr(skipped), repr(series), *series.warnings, heard()])
    assert "MARKER" not in seen
    assert str(pydicom.dcmread(made.paths[0]).SeriesInstanceUID) not in seen
    assert len(series.case) == 12

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import MARKER, MARKER_ID
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from series_by_hand import DERIVATION, derive, made_by_hand, raw_bytes, read_images, repeated, series_by_hand, write

from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError
from monai_ldmsr.io.derived_series import write_derived_series
from monai_ldmsr.io.transfer_syntaxes import TRANSFER_SYNTAXES
from monai_ldmsr.io.written_files import check_pixels
from monai_ldmsr.settings import WorkSettings

# Geometry


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_each_slice_moves_by_half_a_voxel_from_its_own_place(tmp_path: Path, factor: int) -> None:
    images = derive(
        tmp_path,
        derivation=replace(DERIVATION, factor=factor),
        positions_mm=[0.0, 2.4, 5.3],
        orientation=[1, 0, 0, 0, 0, -1],
        spacing_mm=(0.8, 0.6, 2.5),
    )
    sources = read_images(tmp_path / "source")
    for image, source in zip(images, sources, strict=True):
        move = np.subtract(image.ImagePositionPatient, source.ImagePositionPatient)
        column_move, row_move = {1: (0, 0), 2: (0.15, 0.2), 3: (0.2, 0.8 / 3), 4: (0.225, 0.3)}[factor]
        np.testing.assert_allclose(move, [-column_move, 0, row_move], atol=1e-9)
        assert [float(v) for v in image.PixelSpacing] == pytest.approx([0.8 / factor, 0.6 / factor])
        for keyword in ("ImageOrientationPatient", "SliceThickness", "SliceLocation"):
            assert image[keyword] == source[keyword]


@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
def test_decimal_strings_that_are_too_long_are_cut_to_16_characters(tmp_path: Path) -> None:
    def lengthen(image: Dataset) -> None:
        image[tag_for_keyword("SliceThickness")] = pydicom.DataElement(
            tag_for_keyword("SliceThickness"), "UN", b"2.50000000000000000001"
        )

    image = derive(tmp_path, change=lengthen, spacing_mm=(2 / 3, 1 / 3, 2.5))[0]
    for keyword in ("SliceThickness", "PixelSpacing", "ImagePositionPatient"):
        assert max(map(len, raw_bytes(image, keyword).split(b"\\"))) <= 16
    assert float(image.SliceThickness) == 2.5


# Pixels


@pytest.mark.parametrize(("bits", "signed", "low", "high"), [(12, 0, 0, 4095), (12, 1, -2048, 2047), (16, 0, 0, 65535)])
def test_values_are_clipped_to_the_stored_range_and_counted(tmp_path, bits, signed, low, high) -> None:
    series = made_by_hand(
        tmp_path / "source", "CT", (4, 5, 2), BitsStored=bits, HighBit=bits - 1, PixelRepresentation=signed
    )
    voxels = repeated(series.voxels)
    voxels[0, 0, 0], voxels[1, 0, 0], voxels[2, 0, 1] = 1e6, high - 1024 + 0.4, -1e6
    written = write_derived_series(series, voxels, tmp_path / "result", DERIVATION)
    first, second = (pydicom.dcmread(path) for path in written.paths)
    assert written.n_clipped == 2
    assert first.pixel_array[0, 0] == first.pixel_array[0, 1] == high
    assert second.pixel_array[0, 2] == low
    assert (first.BitsStored, first.HighBit, first.PixelRepresentation) == (bits, bits - 1, signed)


def test_eight_bit_pixels_of_odd_number_are_padded(tmp_path: Path) -> None:
    def narrow(image: Dataset) -> None:
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.Rows, image.Columns, image.PixelData = 7, 3, 5, bytes(range(16))

    image = derive(tmp_path, "MR", narrow, replace(DERIVATION, factor=1))[0]
    assert image["PixelData"].VR == "OB"
    np.testing.assert_array_equal(image.pixel_array.ravel(), range(15))


@pytest.mark.parametrize("syntax", ["jpeg-ls", "jpeg2000", "rle"])
@pytest.mark.parametrize(
    ("allocated", "bits", "signed"), [(8, 8, 0), (16, 12, 0), (16, 12, 1), (16, 16, 0), (16, 16, 1)]
)
def test_compression_loses_nothing(tmp_path: Path, syntax: str, allocated: int, bits: int, signed: int) -> None:
    """The same voxels by pydicom and ITK as without it, in the same object; and nothing says that they were lossy."""

    low = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(0).integers(low, low + 2**bits, (21, 33))
    values = values.astype(f"<{'i' if signed else 'u'}{allocated // 8}")

    def fill(image: Dataset) -> None:
        image.BitsAllocated, image.BitsStored, image.HighBit = allocated, bits, bits - 1
        image.PixelRepresentation, image.Rows, image.Columns = signed, *values.shape
        image.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)

    derive(tmp_path, "MR", fill)
    series = series_by_hand(tmp_path / "source")
    found = []
    for name in ("explicit", syntax):
        derivation = replace(DERIVATION, transfer_syntax=name)
        found += write_derived_series(series, repeated(series.voxels), tmp_path / name, derivation).paths[:1]
        check_pixels(found[-1])
    plain, packed = (pydicom.dcmread(path) for path in found)
    assert packed.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
    np.testing.assert_array_equal(packed.pixel_array, plain.pixel_array)
    first, second = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in found)
    np.testing.assert_array_equal(second, first)
    varying = {"PixelData", "ContentTime", "InstanceCreationTime", "SeriesTime"}
    assert [e for e in packed if e.keyword not in varying] == [e for e in plain if e.keyword not in varying]


def test_a_syntax_without_encoder_is_refused_before_anything_is_read() -> None:
    hide = "import sys; sys.modules['jpeg_ls'] = None; from monai_ldmsr.settings import WorkSettings; "
    for name in ("explicit", "jpeg-ls"):
        done = subprocess.run(
            [sys.executable, "-c", f"{hide}WorkSettings(transfer_syntax={name!r})"], capture_output=True, text=True
        )
        assert (done.returncode == 0) == (name != "jpeg-ls")
        assert ("SettingsError" in done.stderr and "pip install monai_ldmsr[codecs]" in done.stderr) == (
            name == "jpeg-ls"
        )
    with pytest.raises(SettingsError, match="choose one of explicit, jpeg-ls, jpeg2000, rle"):
        WorkSettings(transfer_syntax="jpeg")


@pytest.mark.parametrize("syntax", ["explicit", "jpeg-ls"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_an_enhanced_result_is_the_classic_one_frame_by_frame(
    tmp_path: Path, heard: Callable[[], str], modality: str, syntax: str
) -> None:
    series = made_by_hand(tmp_path / "source", modality, (24, 28, 3), PatientName=MARKER, PatientID=MARKER_ID)
    classic = {place_of(image.ImagePositionPatient): image for image in write(series, tmp_path / "classic")}
    derivation = replace(DERIVATION, dicom_form="enhanced", transfer_syntax=syntax)
    written = write_derived_series(series, repeated(series.voxels), tmp_path / "enhanced", derivation)
    assert MARKER not in heard(), "highdicom quotes names that it finds odd"
    (path,) = written.paths
    check_pixels(path)
    found = pydicom.dcmread(path)
    assert found.file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]
    assert found.SeriesInstanceUID == written.series_instance_uid
    assert not {found.SeriesInstanceUID} & {image.SeriesInstanceUID for image in classic.values()}
    (shared,), frames = found.SharedFunctionalGroupsSequence, found.PerFrameFunctionalGroupsSequence
    assert len(frames) == found.NumberOfFrames == len(classic)
    for values, own in zip(found.pixel_array, frames, strict=True):

        def group(name: str, own: Dataset = own) -> Dataset:
            return (own.get(name) or shared.get(name))[0]

        image = classic[place_of(group("PlanePositionSequence").ImagePositionPatient)]
        assert group("PixelMeasuresSequence").PixelSpacing == image.PixelSpacing
        assert group("PlaneOrientationSequence").ImageOrientationPatient == image.ImageOrientationPatient
        rescale = group("PixelValueTransformationSequence")
        slope, intercept = float(rescale.RescaleSlope), float(rescale.RescaleIntercept)
        expected = image.pixel_array * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
        assert np.abs(values * slope + intercept - expected).max() <= (slope if modality == "PT" else 0)
        if "WindowCenter" in image:
            assert group("FrameVOILUTSequence").WindowCenter == image.WindowCenter
    volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    ordered = [classic[place_of(frame.PlanePositionSequence[0].ImagePositionPatient)] for frame in frames]
    slopes = [(float(one.get("RescaleSlope", 1)), float(one.get("RescaleIntercept", 0))) for one in ordered]
    expected = np.stack([one.pixel_array * a + b for one, (a, b) in zip(ordered, slopes, strict=True)])
    np.testing.assert_allclose(volume, expected, atol=2 * max(a for a, _ in slopes) if modality == "PT" else 0)
    assert found.ContentQualification == "RESEARCH"
    assert "Research only" in found.ImageComments
    assert found.ImageType[0] == "DERIVED"
    assert found.ContributingEquipmentSequence[-1].Manufacturer == "monai_ldmsr"
    assert (found.PatientName, found.PatientID, found.StudyInstanceUID) == (
        next(iter(classic.values())).PatientName,
        MARKER_ID,
        series.headers[0].StudyInstanceUID,
    )
    (study,) = found.SourceImageEvidenceSequence
    named = {item.ReferencedSOPInstanceUID for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence}
    assert named == {header.SOPInstanceUID for header in series.headers}
    assert not [element for element in found.iterall() if element.tag.is_private]


def place_of(position: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in position)


def test_memory_order_does_not_matter(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "PT", (4, 5, 2))
    found = []
    for name, order in (("c", "C"), ("f", "F")):
        voxels = np.array(repeated(series.voxels), order=order)
        written = write_derived_series(series, voxels, tmp_path / name, DERIVATION)
        images = [pydicom.dcmread(path) for path in written.paths]
        found.append([(image.PixelData, image.SOPInstanceUID, image.SeriesInstanceUID) for image in images])
    assert found[0] == found[1]


def test_values_that_are_rounded_otherwise_get_other_uids(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "CT", (4, 5, 2))
    voxels = repeated(series.voxels)
    other = voxels.copy()
    other[3, 2, 1] = np.nextafter(other[3, 2, 1], np.float32(np.inf))
    found = []
    for name, values in (("a", voxels), ("b", voxels.copy()), ("c", other)):
        written = write_derived_series(series, values, tmp_path / name, DERIVATION)
        images = [pydicom.dcmread(path) for path in written.paths]
        found.append([image[word].value for image in images for word in ("SOPInstanceUID", "SeriesInstanceUID")])
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_no_second_copy_of_the_volume(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "CT", (96, 96, 24), baggage=False)
    voxels = repeated(series.voxels, 4)
    tracemalloc.start()
    write_derived_series(series, voxels, tmp_path / "result", replace(DERIVATION, factor=4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * voxels.nbytes


def test_pet_gets_a_new_slope_in_each_slice(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "PT", (4, 5, 3), RescaleIntercept=0)
    voxels = repeated(series.voxels)
    voxels[..., 0] = 0
    voxels[..., 1] *= 1000
    voxels[0, 0, 2] = -2 * voxels[..., 2].max()
    written = write_derived_series(series, voxels, tmp_path / "result", DERIVATION)
    images = [pydicom.dcmread(path) for path in written.paths]
    assert written.n_clipped == 0
    assert [float(image.RescaleIntercept) for image in images] == [0, 0, 0]
    assert images[0].RescaleSlope == 1
    assert images[1].pixel_array.max() == 32767
    assert images[2].pixel_array.min() == -32768
    for k, image in enumerate(images):
        back = image.pixel_array.T * float(image.RescaleSlope)
        np.testing.assert_allclose(back, voxels[..., k], atol=0.501 * float(image.RescaleSlope))


def test_extremes_are_written_only_where_the_source_has_them(tmp_path: Path) -> None:
    image = derive(tmp_path / "with", SmallestImagePixelValue=7, LargestImagePixelValue=7)[0]
    pixels = image.pixel_array
    assert (image.SmallestImagePixelValue, image.LargestImagePixelValue) == (pixels.min(), pixels.max())
    assert image["LargestImagePixelValue"].VR == "US"
    assert "LargestImagePixelValue" not in derive(tmp_path / "without")[0]


# Modality rules


def test_padding_and_window_are_kept_where_the_rescale_is(tmp_path: Path) -> None:
    extra = {"PixelPaddingValue": 0, "WindowCenter": 40, "WindowWidth": 400}
    image = derive(tmp_path / "ct", "CT", **extra)[0]
    assert (image.PixelPaddingValue, image.WindowCenter, image.RescaleType) == (0, 40, "HU")
    image = derive(tmp_path / "pt", "PT", **extra)[0]
    assert "PixelPaddingValue" not in image
    assert image.WindowCenter == 40, "it acts after the rescale"


def test_patient_position_gives_way_to_patient_orientation_code(tmp_path: Path) -> None:
    assert derive(tmp_path / "ct", "CT")[0].PatientPosition == "HFS"
    assert "PatientPosition" not in derive(tmp_path / "pt", "PT", PatientPosition="HFS")[0]


@pytest.mark.parametrize(
    ("series_type", "present"),
    [
        ("STATIC", set()),
        ("DYNAMIC", {"NumberOfTimeSlices"}),
        ("GATED", {"NumberOfRRIntervals", "NumberOfTimeSlots"}),
    ],
)
def test_pet_counts_of_time_slices_and_gates(tmp_path: Path, series_type: str, present: set[str]) -> None:
    counts = ("NumberOfTimeSlices", "NumberOfRRIntervals", "NumberOfTimeSlots")
    images = derive(tmp_path, "PT", SeriesType=[series_type, "IMAGE"], **dict.fromkeys(counts, 5))
    assert {name for name in counts if name in images[0]} == present
    assert all(images[0][name].value == 1 for name in present)
    assert [image.ImageIndex for image in images] == [1, 2, 3]


def test_lossy_history_is_kept_or_admitted(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source", "CT", (6, 8, 3))
    for header, syntax, stored in zip(
        series.headers,
        ("1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.50"),
        (None, None, "01"),
        strict=True,
    ):
        header.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        if stored:
            header.LossyImageCompression, header.LossyImageCompressionRatio = stored, 10
    admitted, lossless, kept = write(series, tmp_path / "result")
    assert (admitted.LossyImageCompression, admitted.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert "LossyImageCompression" not in lossless
    assert (kept.LossyImageCompression, kept.LossyImageCompressionRatio) == ("01", 10)
    assert "LossyImageCompressionMethod" not in kept


def test_missing_type_2_is_added_empty_and_missing_type_1_is_not_invented(tmp_path: Path) -> None:
    gone = dict.fromkeys(("EchoTime", "ScanningSequence", "StudyID", "FrameOfReferenceUID"))
    image = derive(tmp_path, "MR", **gone)[0]
    assert image["EchoTime"].is_empty
    assert image["StudyID"].is_empty
    assert "ScanningSequence" not in image
    assert "FrameOfReferenceUID" not in image


def test_empty_series_uid_is_tolerated(tmp_path: Path) -> None:
    assert derive(tmp_path, SeriesInstanceUID="")[0].SeriesInstanceUID.startswith("2.25.")


def test_source_uids_that_only_the_file_meta_holds_are_used(tmp_path: Path) -> None:
    def strip(image: Dataset) -> None:
        image.SOPClassUID = image.SOPInstanceUID = image.StudyInstanceUID = ""

    images = derive(tmp_path, change=strip)
    for image, source in zip(images, read_images(tmp_path / "source"), strict=True):
        assert image.SOPClassUID == source.file_meta.MediaStorageSOPClassUID
        expected = source.file_meta.MediaStorageSOPInstanceUID
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == expected


def test_sources_without_any_uid_do_not_share_one_result_uid(tmp_path: Path) -> None:
    found = []
    for name, intercept in (("a", 0), ("b", 1), ("c", 1)):
        series = made_by_hand(tmp_path / name, RescaleIntercept=intercept)
        for header in series.headers:
            header.SOPInstanceUID = header.SOPClassUID = header.SeriesInstanceUID = ""
            del header.file_meta.MediaStorageSOPInstanceUID, header.file_meta.MediaStorageSOPClassUID
        (image, *_) = write(series, tmp_path / f"{name}x")
        assert "SourceImageSequence" not in image
        assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        found.append(image.SeriesInstanceUID)
    assert found[0] != found[1] == found[2]


# Refusals


@pytest.mark.parametrize(("factor", "word"), [(0, "number from 1"), (3, r"\(15, 12, 3\)"), (20000, "makes")])
def test_a_shape_that_does_not_fit_is_refused(tmp_path: Path, factor: int, word: str) -> None:
    series = made_by_hand(tmp_path / "source")
    with pytest.raises(SettingsError, match=word):
        write_derived_series(series, repeated(series.voxels), tmp_path / "result", replace(DERIVATION, factor=factor))
    assert not (tmp_path / "result").exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_before_writing(tmp_path: Path, bad: float) -> None:
    series = made_by_hand(tmp_path / "source")
    voxels = repeated(series.voxels)
    voxels[0, 0, 2] = bad
    with pytest.raises(OutputError, match="1 voxels of slice 3 of 3 are not finite"):
        write_derived_series(series, voxels, tmp_path / "result", DERIVATION)
    assert not (tmp_path / "result").exists()


def test_a_folder_that_cannot_be_written_is_an_output_error_without_path_or_patient(tmp_path: Path) -> None:
    series = made_by_hand(tmp_path / "source")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"IM0001\.dcm cannot be written") as caught:
        write(series, tmp_path / "file" / "result")
    assert caught.value.reason is ReasonCode.CANNOT_WRITE
    for secret in (str(tmp_path), MARKER, MARKER_ID):
        assert secret not in str(caught.value)


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    series = made_by_hand(tmp_path / "source")
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "IM0001.dcm").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        write(series, tmp_path / "result")

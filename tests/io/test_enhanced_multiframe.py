"""Enhanced multi-frame CT and MR: frames into volumes, and classic series derived from them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcm2niix
import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import MARKER, _ds, make_series, new_uids
from dicom_validators import has_validators, run_dcentvfy, run_dciodvfy
from enhanced_fixtures import MadeObject, item, make_enhanced
from independent_readers import READERS, check_corners, corners_ras_mm, of_itk
from places import SAMPLES, SHARED_DATA
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from series_by_hand import raw_bytes, read_images, write

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.io import classic_attributes, enhanced_multiframe
from monai_ldmsr.io.dicom_series import DicomSeries, read_dicom_series
from monai_ldmsr.io.discovery import SeriesFiles, find_dicom_series

REAL = [path for root in (SAMPLES, SHARED_DATA) for path in root.glob("dicom/mr_enhanced_multiframe/*.dcm")][:1]

needs_validators = pytest.mark.skipif(not has_validators(), reason="dicom3tools is not installed")


def read_volumes(folder: Path) -> list[DicomSeries]:
    found, skipped = find_dicom_series(folder)
    assert skipped == []
    return [read_dicom_series(files) for files in found]


def reason_of(source: Path | SeriesFiles, error: type[SourceError] = SourceError) -> ReasonCode:
    with pytest.raises(error) as caught:
        read_dicom_series(source)
    return caught.value.reason


def frames_of(series: DicomSeries) -> list[int]:
    return [header.frame_number for header in series.headers]


def assert_as_made(series: list[DicomSeries], made: MadeObject) -> None:
    """Each volume once, its frames in slice order, its values to the last bit of float32, its place."""
    by_frames = {tuple(frames_of(volume)): volume for volume in series}
    assert set(by_frames) == {tuple(frames) for frames in made.frames}
    for frames, expected in zip(made.frames, made.volumes, strict=True):
        volume = by_frames[tuple(frames)]
        np.testing.assert_array_equal(volume.voxels, expected.astype(np.float32))
        np.testing.assert_allclose(volume.geometry.spacing_mm, made.spacing_mm, atol=1e-6)
        np.testing.assert_allclose(volume.geometry.origin_lps_mm, made.origin_lps_mm, atol=1e-6)
        np.testing.assert_allclose(volume.geometry.direction_lps, made.direction_lps, atol=1e-6)


def resampled(voxels: np.ndarray, affine: np.ndarray, onto: DicomSeries) -> np.ndarray:
    """Voxels of another reader in the order of ``onto``'s axes."""
    index = np.stack(np.meshgrid(*map(np.arange, onto.voxels.shape), indexing="ij"), axis=-1)
    to_other = np.linalg.inv(affine) @ onto.geometry.affine
    at = np.rint(index @ to_other[:3, :3].T + to_other[:3, 3]).astype(int)
    return voxels[at[..., 0], at[..., 1], at[..., 2]]


# The made objects, and the tables


@needs_validators
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_made_objects_are_clean_dicom(tmp_path: Path, modality: str) -> None:
    assert run_dciodvfy(make_enhanced(tmp_path / "a.dcm", modality, n_volumes=2).path) == set()


def test_tables_name_attributes() -> None:
    renamed = classic_attributes._RENAMED
    terms = {keyword for row in classic_attributes._MR_TERMS for keyword in row[:2]}
    names = {*classic_attributes._GROUPS.split(), *renamed, *renamed.values(), *terms}
    assert [name for name in names if tag_for_keyword(name) is None] == []


# Reading


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_become_volumes_in_slice_order(tmp_path: Path, modality: str) -> None:
    made = make_enhanced(tmp_path / "a.dcm", modality, n_volumes=2)
    series = read_volumes(tmp_path)
    assert_as_made(series, made)
    assert {(volume.modality, volume.unit) for volume in series} == {(modality, {"CT": "HU", "MR": "stored"}[modality])}
    assert len({volume.case for volume in series}) == 2
    assert all("Temporal Position" in volume.warnings[0] for volume in series)


def _one_time(groups: Dataset, v: int, k: int) -> None:
    """Take away what tells the volumes of the made object apart."""
    content = groups.FrameContentSequence[0]
    content.TemporalPositionIndex = 1
    content.DimensionIndexValues = [1, k + 1, 1]
    content.FrameAcquisitionDateTime = "20240102101630"


def split_by(**sequences: Callable[[int], list[Dataset]]) -> Callable[[Dataset, int, int], None]:
    """Give each frame these sequences, made of the volume's number; nothing else tells the volumes apart."""

    def each(groups: Dataset, v: int, k: int) -> None:
        _one_time(groups, v, k)
        for keyword, sequence in sequences.items():
            setattr(groups, keyword, sequence(v))

    return each


def _direction(v: int) -> list[Dataset]:
    if not v:
        return item(DiffusionBValue=0.0, DiffusionDirectionality="NONE")
    orientation = item(DiffusionGradientOrientation=[[1.0, 0.0, 0.0], [0.0, 0.6, 0.8]][v - 1])
    return item(
        DiffusionBValue=1000.0, DiffusionDirectionality="DIRECTIONAL", DiffusionGradientDirectionSequence=orientation
    )


def _frame_type(*component: str) -> Callable[[int], list[Dataset]]:
    return lambda v: item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], ComplexImageComponent=component[v])


def _other_dimension(groups: Dataset, v: int, k: int) -> None:
    _one_time(groups, v, k)
    groups.FrameContentSequence[0].DimensionIndexValues = [1, k + 1, v + 1]


_diffusion = split_by(MRDiffusionSequence=_direction)
_dixon = split_by(
    MRImageFrameTypeSequence=lambda v: item(FrameType=["DERIVED", "PRIMARY", "DIXON", ["WATER", "FAT"][v]])
)
_trigger = split_by(
    CardiacSynchronizationSequence=lambda v: item(NominalCardiacTriggerDelayTime=40.0 * v, RRIntervalTimeNominal=900.0)
)

SPLITS = [
    (split_by(MREchoSequence=lambda v: item(EffectiveEchoTime=10.0 + 7.5 * v)), 2, "Echo Time"),
    (_diffusion, 3, "b-value"),
    (_dixon, 2, "Image Type"),
    (split_by(MRImageFrameTypeSequence=_frame_type("REAL", "IMAGINARY")), 2, "Complex Image Component"),
    (_trigger, 2, "Trigger Time"),
    (_other_dimension, 2, "Dimension Index"),
]


@pytest.mark.parametrize(("each", "n_volumes", "word"), SPLITS)
def test_volumes_of_one_object_are_told_apart(
    tmp_path: Path, each: Callable[[Dataset, int, int], None], n_volumes: int, word: str
) -> None:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        for keyword in ("MREchoSequence", "MRImageFrameTypeSequence"):
            if keyword in frames[0]:
                delattr(shared, keyword)

    made = make_enhanced(tmp_path / "a.dcm", n_volumes=n_volumes, each=each, change=change)
    series = read_volumes(tmp_path)
    assert_as_made(series, made)
    assert all(word in volume.warnings[0] for volume in series)


def test_phase_frames_are_skipped_beside_magnitude(tmp_path: Path) -> None:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        delattr(shared, "MRImageFrameTypeSequence")

    each = split_by(MRImageFrameTypeSequence=_frame_type("MAGNITUDE", "PHASE"))
    made = make_enhanced(tmp_path / "a.dcm", n_volumes=2, each=each, change=change)
    [files], skipped = find_dicom_series(tmp_path)
    assert [(left.reason, left.n_files) for left in skipped] == [(ReasonCode.PHASE_IMAGE, 1)]
    series = read_dicom_series(files)
    assert frames_of(series) == made.frames[0]
    np.testing.assert_array_equal(series.voxels, made.volumes[0].astype(np.float32))


def test_nothing_that_tells_frames_apart_is_refused(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a.dcm", n_volumes=2, each=_one_time)
    [files], _ = find_dicom_series(tmp_path)
    assert reason_of(files) is ReasonCode.DUPLICATE_POSITION


def test_two_stacks_are_two_volumes_even_where_no_position_repeats(tmp_path: Path) -> None:
    def each(groups: Dataset, v: int, k: int) -> None:
        _one_time(groups, v, k)
        groups.FrameContentSequence[0].StackID = "12"[k // 2]

    made = make_enhanced(tmp_path / "a.dcm", each=each)
    series = read_volumes(tmp_path)
    assert sorted(map(frames_of, series)) == sorted([made.frames[0][:2], made.frames[0][2:]])


def test_one_object_a_time_point_is_one_volume_each(tmp_path: Path) -> None:
    uids = new_uids()
    made = [make_enhanced(tmp_path / f"{n}.dcm", uids=uids, each=_one_time) for n in range(2)]
    series = read_volumes(tmp_path)
    assert [frames_of(volume) for volume in series] == [made[0].frames[0]] * 2
    assert len({volume.headers[0].SOPInstanceUID for volume in series}) == 2
    assert len({write(volume, tmp_path / volume.case)[0].SeriesInstanceUID for volume in series}) == 2


def test_a_volume_in_two_objects_is_put_together(tmp_path: Path) -> None:
    def move(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        for groups in frames:
            position = groups.PlanePositionSequence[0]
            place = np.add(position.ImagePositionPatient, 10.0 * np.cross(cosines[:3], cosines[3:]))
            position.ImagePositionPatient = [_ds(p) for p in place]

    uids = new_uids()
    made = [make_enhanced(tmp_path / f"{n}.dcm", uids=uids, change=change) for n, change in enumerate((None, move))]
    [series] = read_volumes(tmp_path)
    assert frames_of(series) == [*made[0].frames[0], *made[1].frames[0]]
    np.testing.assert_array_equal(
        series.voxels, np.concatenate([m.volumes[0] for m in made], axis=2).astype(np.float32)
    )
    assert series.warnings == ()


def test_the_same_object_twice_is_left_out_and_another_of_its_uid_is_refused(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(made.path.read_bytes())
    [series] = read_volumes(tmp_path)
    assert "1 files are identical copies" in series.warnings[0]
    content = bytearray(made.path.read_bytes())
    content[-9] ^= 1
    (tmp_path / "b.dcm").write_bytes(content)
    found, [skipped] = find_dicom_series(tmp_path)
    assert (found, skipped.reason, skipped.n_files) == ([], ReasonCode.DUPLICATE_UID_CONFLICT, 2)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=lambda s: s.name[:12]
)
def test_other_uncompressed_transfer_syntaxes(tmp_path: Path, syntax: Any) -> None:
    made = make_enhanced(tmp_path / "a.dcm", n_volumes=2, transfer_syntax=syntax)
    assert_as_made(read_volumes(tmp_path), made)


@pytest.mark.parametrize("table", ["basic", "extended", "none", "fragments"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless], ids=lambda s: s.name[:9])
def test_compressed_objects_with_any_offset_table(tmp_path: Path, syntax: Any, table: str) -> None:
    made = make_enhanced(tmp_path / "a.dcm", n_volumes=2, shape=(40, 44, 4))
    dataset = pydicom.dcmread(made.path)
    try:
        dataset.compress(syntax, generate_instance_uid=False)
    except RuntimeError:
        pytest.skip("no encoder for this transfer syntax")
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=dataset.NumberOfFrames))
    if table == "extended":
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
            pydicom.encaps.encapsulate_extended(frames)
        )
    elif table == "fragments":
        dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=2)
    else:
        dataset.PixelData = pydicom.encaps.encapsulate(frames, has_bot=table == "basic")
    dataset.save_as(made.path, overwrite=True)
    assert_as_made(read_volumes(tmp_path), made)


def test_each_file_is_opened_once_a_frame_and_never_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_enhanced(tmp_path / "a.dcm", n_volumes=2)
    [files, _], _ = find_dicom_series(tmp_path)
    reads: list[dict[str, Any]] = []
    original = pydicom.dcmread

    def counted(*args: Any, **kwargs: Any) -> Any:
        reads.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(pydicom, "dcmread", counted)
    read_dicom_series(files)
    assert [kwargs.get("stop_before_pixels") for kwargs in reads] == [True, True]


# What is refused or skipped


def _drop(keyword: str, which: int | None = None) -> Callable[[Dataset, list[Dataset], Dataset], None]:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        if keyword in shared:
            delattr(shared, keyword)
        for n, groups in enumerate(frames):
            if keyword in groups and which in (None, n):
                delattr(groups, keyword)
        # An attribute at the top does not stand in for the group.
        ds.PixelSpacing, ds.ImageOrientationPatient, ds.RescaleSlope = [1, 1], [1, 0, 0, 0, 1, 0], 1

    return change


REFUSED = [
    ("MR", _drop("PlanePositionSequence"), {}, "NO_GEOMETRY"),
    ("MR", _drop("PlanePositionSequence", 2), {}, "NO_GEOMETRY"),
    ("MR", _drop("PlaneOrientationSequence"), {}, "NO_GEOMETRY"),
    ("CT", _drop("PixelMeasuresSequence"), {}, "NO_GEOMETRY"),
    ("CT", _drop("PixelValueTransformationSequence", 1), {}, "BAD_RESCALE"),
    ("CT", lambda s, frames, ds: setattr(frames[1].PixelValueTransformationSequence[0], "RescaleSlope", 0), {},
     "BAD_RESCALE"),
    ("MR", lambda s, frames, ds: frames.pop(), {}, "NO_GEOMETRY"),
    ("MR", None, {"PerFrameFunctionalGroupsSequence": None}, "NO_GEOMETRY"),
    ("MR", None, {"SharedFunctionalGroupsSequence": []}, "NO_GEOMETRY"),
    ("MR", None, {"NumberOfFrames": 3}, "NO_GEOMETRY"),
    ("MR", None, {"NumberOfFrames": 70000}, "TOO_LARGE"),
    ("CT", None, {"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    ("CT", None, {"BitsStored": 17}, "UNSUPPORTED_PIXELS"),
    ("CT", None, {"PixelData": bytes(2 * 20 * 24 * 3)}, "TRUNCATED_PIXELS"),
]  # fmt: skip


@pytest.mark.parametrize(("modality", "change", "overrides", "reason"), REFUSED)
def test_refusals_are_those_of_classic_series(
    tmp_path: Path, modality: str, change: Any, overrides: dict[str, Any], reason: str
) -> None:
    make_enhanced(tmp_path / "a.dcm", modality, change=change, **overrides)
    with pytest.raises(SourceError) as caught:
        read_dicom_series(tmp_path)
    assert caught.value.reason is ReasonCode(reason)
    assert not isinstance(caught.value, SkippedSourceError)
    assert "MARKER" not in str(caught.value)


def _turn_one(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
    for n, groups in enumerate(frames):
        groups.PlaneOrientationSequence = (
            item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]) if n == 0 else shared.PlaneOrientationSequence
        )
    del shared.PlaneOrientationSequence


def test_a_frame_of_another_orientation_is_a_volume_of_its_own(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a.dcm", change=_turn_one)
    assert sorted(len(volume.headers) for volume in read_volumes(tmp_path)) == [1, 3]


def test_a_gap_goes_on_with_a_warning(tmp_path: Path) -> None:
    def gap(groups: Dataset, v: int, k: int) -> None:
        position = groups.PlanePositionSequence[0]
        if k == 3:
            place = 2 * np.array(position.ImagePositionPatient, float) - [-31.25, 12.5, 40.75]
            position.ImagePositionPatient = [_ds(p) for p in place]

    make_enhanced(tmp_path / "a.dcm", each=gap)
    [series] = read_volumes(tmp_path)
    assert "Slices 3 and 4 are 10.00 mm apart, but the others are 2.50 mm" in series.warnings[0]


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ({"PixelPresentation": "COLOR"}, "UNSUPPORTED_PIXELS"),
        ({"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}, "LOCALIZER"),
    ],
)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_that_are_skipped(tmp_path: Path, modality: str, group: dict[str, Any], reason: str) -> None:
    keyword = f"{modality}ImageFrameTypeSequence"

    def some(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        """All frames of the second volume."""
        for groups in frames:
            second = groups.FrameContentSequence[0].TemporalPositionIndex == 2
            setattr(groups, keyword, item(**group) if second else getattr(shared, keyword))
        delattr(shared, keyword)

    made = make_enhanced(tmp_path / "a.dcm", modality, n_volumes=2, change=some)
    [files], [skipped] = find_dicom_series(tmp_path)
    assert (skipped.reason, skipped.n_files) == (ReasonCode(reason), 1)
    assert sorted(files.frames) == sorted(made.frames[0])


def test_padding_of_frames_is_marked(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "a.dcm", "CT", PixelPaddingValue=0)
    [series] = read_volumes(tmp_path)
    assert series.padding is not None
    assert series.padding.any()
    np.testing.assert_array_equal(series.padding, made.volumes[0] == -1024)


def test_damaged_groups_never_crash(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "a.dcm", shape=(8, 9, 2))
    content = made.path.read_bytes()
    noise = np.random.default_rng(0)
    messages = []
    for _ in range(60):
        damaged = bytearray(content)
        for at in noise.integers(132, len(content) - 300, 6):
            damaged[at] = noise.integers(256)
        made.path.write_bytes(damaged)
        try:
            read_dicom_series(tmp_path)
        except SourceError as error:
            messages.append(str(error))
    assert messages
    assert "MARKER" not in "".join(messages)


# Writing


CLASSIC: dict[str, dict[str, Any]] = {
    "MR": {
        **{"ImageType": ["DERIVED", "SECONDARY", "T2"], "ScanningSequence": ["SE", "IR"], "SequenceVariant": "SK"},
        **{"ScanOptions": "FS", "MRAcquisitionType": "2D", "SequenceName": "se2d1", "RepetitionTime": 2000},
        **{"EchoTime": 80.5, "InversionTime": 150, "EchoTrainLength": 8, "FlipAngle": 90, "NumberOfAverages": 2},
        **{"ImagingFrequency": 63.87, "ImagedNucleus": "1H", "MagneticFieldStrength": 1.5, "PixelBandwidth": 150},
        **{"NumberOfPhaseEncodingSteps": 20, "InPlanePhaseEncodingDirection": "COL", "RescaleType": "US"},
        **{"ReceiveCoilName": "HEAD", "TransmitCoilName": "BODY"},
    },
    "CT": {
        **{"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "VOLUME"], "KVP": 120, "ConvolutionKernel": "B30"},
        **{"ExposureTime": 500, "XRayTubeCurrent": 200, "Exposure": 100, "TableHeight": 150, "GantryDetectorTilt": 0},
        **{"SpiralPitchFactor": 0.6, "FilterType": "FLAT", "CTDIvol": 8.5},
        **{"RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU"},
    },
}


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_classic_places_hold_what_functional_groups_said(tmp_path: Path, modality: str) -> None:
    made = make_enhanced(tmp_path / "a.dcm", modality, n_volumes=2)
    for volume in read_volumes(tmp_path):
        v = made.frames.index(frames_of(volume))
        images = write(volume, tmp_path / volume.case)
        for image, frame in zip(images, made.frames[v], strict=True):
            assert image.SOPClassUID.name == f"{modality} Image Storage"
            assert {key: image.get(key) for key in CLASSIC[modality]} == CLASSIC[modality]
            assert (image.SliceThickness, image.WindowCenter, image.WindowWidth) == (2.5, 40, 400)
            assert (image.AcquisitionDate, image.AcquisitionTime) == ("20240102", f"10163{v}.25")
            assert (image.AcquisitionNumber, image.ImageLaterality) == (1, "U")
            assert image.AnatomicRegionSequence[0].CodeMeaning == "Brain"
            [reference] = image.SourceImageSequence
            assert reference.ReferencedSOPClassUID == pydicom.dcmread(made.path).SOPClassUID
            assert reference.ReferencedSOPInstanceUID == volume.headers[0].SOPInstanceUID
            assert reference.ReferencedFrameNumber == frame
            assert not {"NumberOfFrames", "FrameType", "DimensionIndexSequence"} & set(image.dir())
        assert [image.InstanceNumber for image in images] == [1, 2, 3, 4]
        if modality == "MR":
            assert [image.RescaleSlope for image in images] == [0.5, 1.0, 1.5, 2.0]
            assert {image.TemporalPositionIdentifier for image in images} == {v + 1}


def test_diffusion_reaches_the_classic_places(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "a.dcm", n_volumes=3, each=_diffusion)
    for volume in read_volumes(tmp_path):
        v = made.frames.index(frames_of(volume))
        image = write(volume, tmp_path / volume.case)[0]
        assert image.DiffusionBValue == [0, 1000, 1000][v]
        assert image.get("DiffusionGradientOrientation") == [None, [1, 0, 0], [0, 0.6, 0.8]][v]


def test_what_no_group_says_is_not_invented(tmp_path: Path) -> None:
    def change(shared: Dataset, frames: list[Dataset], ds: Dataset) -> None:
        for keyword in list(shared.dir()):
            if keyword.startswith("MR") or keyword == "FrameVOILUTSequence":
                delattr(shared, keyword)
        for keyword in ("EchoPulseSequence", "EchoPlanarPulseSequence", "PulseSequenceName", "OversamplingPhase"):
            delattr(ds, keyword)
        del ds.SegmentedKSpaceTraversal, ds.SteadyStatePulseSequence

    make_enhanced(tmp_path / "a.dcm", change=change)
    [series] = read_volumes(tmp_path)
    image = write(series, tmp_path / "result")[0]
    missing = ("ScanningSequence", "SequenceVariant", "RepetitionTime", "InversionTime", "WindowCenter", "SequenceName")
    assert [keyword for keyword in missing if keyword in image] == []
    assert [image[keyword].is_empty for keyword in ("EchoTime", "EchoTrainLength")] == [True, True]


def test_volumes_of_one_object_get_series_and_images_of_their_own(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a.dcm", n_volumes=2)
    images = [image for volume in read_volumes(tmp_path) for image in write(volume, tmp_path / volume.case)]
    assert len({image.SeriesInstanceUID for image in images}) == 2
    assert len({image.SOPInstanceUID for image in images}) == 8


def test_reading_twice_gives_the_same_and_leaves_the_object_as_it_was(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a.dcm", n_volumes=2)
    first, again = read_volumes(tmp_path), read_volumes(tmp_path)
    assert [volume.case for volume in first] == [volume.case for volume in again]
    assert [volume.headers for volume in first] == [volume.headers for volume in again]


def test_names_keep_their_bytes(tmp_path: Path) -> None:
    make_enhanced(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    [series] = read_volumes(tmp_path)
    (image, *_) = write(series, tmp_path / "result")
    assert raw_bytes(image, "PatientName") == "Müller^Jörg".encode("latin-1")
    assert image.PatientName == "Müller^Jörg"


def test_nothing_of_the_patient_is_told(tmp_path: Path) -> None:
    make_enhanced(tmp_path / MARKER / "a.dcm", n_volumes=2)
    found, _ = find_dicom_series(tmp_path)
    seen = [repr(found), *(repr(read_dicom_series(files)) for files in found)]
    assert not [line for line in seen if "MARKER" in line]


@needs_validators
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_validators_accept_the_derived_series(tmp_path: Path, modality: str) -> None:
    made = make_enhanced(tmp_path / "source" / "a.dcm", modality, n_volumes=2)
    for volume in read_volumes(tmp_path / "source"):
        paths = [image.filename for image in write(volume, tmp_path / volume.case)]
        assert run_dciodvfy(*paths) == set()
        assert run_dcentvfy([made.path, *paths]) == []


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_independent_readers_find_the_result_where_the_frames_were(tmp_path: Path, modality: str, read: Any) -> None:
    made = make_enhanced(tmp_path / "source" / "a.dcm", modality, n_volumes=2)
    for volume in read_volumes(tmp_path / "source"):
        write(volume, tmp_path / volume.case)
        affine, voxels = read(tmp_path / volume.case)
        direction = made.direction_lps * np.array(made.spacing_mm)
        expected = np.eye(4)
        expected[:3, :3], expected[:3, 3] = direction, made.origin_lps_mm
        check_corners(
            corners_ras_mm(affine, voxels.shape), corners_ras_mm(np.diag([-1, -1, 1, 1]) @ expected, (24, 20, 4))
        )
        truth = made.volumes[made.frames.index(frames_of(volume))]
        assert voxels.mean() == pytest.approx(truth.mean(), rel=5e-3, abs=0.5)


def test_the_whole_way_with_the_shipped_weights(tmp_path: Path) -> None:
    made = make_enhanced(tmp_path / "source" / "a.dcm", "CT", (40, 48, 2), n_volumes=2)
    summary = super_resolve(
        tmp_path / "source", tmp_path / "result", factor=2, num_inference_steps=1, device="cpu", force=True
    )
    assert summary.exit_code == 0
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("result/*/report.json")]
    assert [report["source"]["n_images"] for report in reports] == [2, 2]
    found = []
    for folder in tmp_path.glob("result/*/dicom"):
        images = read_images(folder)
        frames = [image.SourceImageSequence[0].ReferencedFrameNumber for image in images]
        truth = made.volumes[made.frames.index(frames)]
        voxels = np.stack([image.pixel_array.T - 1024.0 for image in images], axis=2)
        means = voxels.reshape(48, 2, 40, 2, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(means, truth, atol=1.0)
        found.append(frames)
    assert sorted(found) == sorted(made.frames)


# Independent readers of the source


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_agrees_with_highdicom_on_a_made_object(tmp_path: Path, modality: str) -> None:
    make_enhanced(tmp_path / "a.dcm", modality)
    [series] = read_volumes(tmp_path)
    volume = highdicom.imread(tmp_path / "a.dcm").get_volume()
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine
    check_corners(series.geometry.corners_mm(), corners_ras_mm(affine, volume.array.shape))
    np.testing.assert_allclose(resampled(volume.array, affine, series), series.voxels, rtol=1e-6)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_legacy_converted_objects_give_what_the_classic_series_gave(tmp_path: Path, modality: str) -> None:
    made = make_series(tmp_path / "classic", modality, baggage=False)
    classic = read_dicom_series(tmp_path / "classic")
    convert = getattr(highdicom.legacy, f"LegacyConvertedEnhanced{modality}Image")
    datasets = [pydicom.dcmread(path) for path in made.paths]
    (tmp_path / "legacy").mkdir()
    converted = convert(datasets, generate_uid(), 5, generate_uid(), 1)
    converted.save_as(tmp_path / "legacy" / "a.dcm")
    [series] = read_volumes(tmp_path / "legacy")
    np.testing.assert_array_equal(series.voxels, classic.voxels)
    np.testing.assert_allclose(series.geometry.affine, classic.geometry.affine, atol=1e-9)
    image = write(series, tmp_path / "result")[0]
    for keyword in ("KVP", "ConvolutionKernel", "EchoTime", "ScanningSequence", "RepetitionTime"):
        assert image.get(keyword) == datasets[0].get(keyword)


@pytest.fixture(scope="module")
def real() -> DicomSeries:
    if not REAL:
        pytest.skip("no real enhanced object at hand")
    return read_dicom_series(REAL[0])


@pytest.mark.slow
def test_real_object_agrees_with_three_readers(real: DicomSeries, tmp_path: Path) -> None:
    volume = highdicom.imread(REAL[0]).get_volume()
    subprocess.run(
        [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "out", "-o", tmp_path, REAL[0]], check=True, capture_output=True
    )
    image = nibabel.load(tmp_path / "out.nii")
    for affine, voxels in (
        (np.diag([-1, -1, 1, 1]) @ volume.affine, volume.array),
        (image.affine, np.asarray(image.dataobj)),
        of_itk(SimpleITK.ReadImage(str(REAL[0]))),
    ):
        check_corners(corners_ras_mm(affine, voxels.shape), real.geometry.corners_mm())
        np.testing.assert_array_equal(resampled(voxels, affine, real), real.voxels)


@needs_validators
def test_real_object_gives_a_clean_classic_series(real: DicomSeries, tmp_path: Path) -> None:
    images = write(real, tmp_path / "result")
    assert run_dciodvfy(*(image.filename for image in images[::12])) - run_dciodvfy(REAL[0]) == set()
    assert [image.SourceImageSequence[0].ReferencedFrameNumber for image in images] == frames_of(real)
    assert (images[0].EchoTime, images[0].InversionTime, images[0].FlipAngle) == (2.41, 900, 9)


# pydicom's own files


def _pydicom_file(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    return Path(path)


def test_a_colour_coded_perfusion_map_is_skipped() -> None:
    assert reason_of(_pydicom_file("eCT_Supplemental.dcm"), SkippedSourceError) is ReasonCode.UNSUPPORTED_PIXELS


@pytest.mark.parametrize(
    "name", ["emri_small", "emri_small_RLE", "emri_small_big_endian", "emri_small_jpeg_ls_lossless"]
)
def test_multi_frame_files_without_functional_groups_are_refused(name: str) -> None:
    assert reason_of(_pydicom_file(f"{name}.dcm")) is ReasonCode.NO_GEOMETRY


def test_the_limit_on_frames_is_what_the_message_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_enhanced(tmp_path / "a.dcm")
    monkeypatch.setattr(enhanced_multiframe, "MAX_FRAMES", 3)
    with pytest.raises(SourceError, match="limit is 3") as caught:
        read_dicom_series(tmp_path)
    assert caught.value.reason is ReasonCode.TOO_LARGE

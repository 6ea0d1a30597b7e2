"""Derived series judged by validators, by three independent readers, and by checks that validators lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_series
from dicom_validators import has_validators, run_dcentvfy, run_dciodvfy
from independent_readers import CORNER_TOLERANCE_MM, READERS, check_corners, corners_ras_mm, source_corners_ras_mm
from odd_conformance import check_by_readers, check_conformance
from places import SAMPLES
from pydicom.valuerep import DSfloat
from series_by_hand import DERIVATION, read_images, repeated, rescaled, series_by_hand

from monai_ldmsr.io.derived_series import WrittenSeries, write_derived_series
from monai_ldmsr.io.dicom_series import DicomSeries

DICOM_SAMPLES = SAMPLES / "dicom"

#: PS3.3 C.12.1 has Device UID in Contributing Equipment Sequence (type 3); dicom3tools does not know it yet.
KNOWN_FALSE_WARNING = "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD"

needs_validators = pytest.mark.skipif(not has_validators(), reason="dicom3tools is not installed")


@dataclass(frozen=True)
class Case:
    source_dir: Path
    source: DicomSeries
    result_dir: Path
    written: WrittenSeries

    @property
    def source_paths(self) -> list[Path]:
        return sorted(self.source_dir.glob("*.dcm"))

    @property
    def result_paths(self) -> list[Path]:
        return list(self.written.paths)


def make_case(name: str, folder: Path) -> Case:
    kind, _, which = name.partition("-")
    source_dir = folder / "source" if kind == "made" else DICOM_SAMPLES / which
    if kind == "made":
        make_series(source_dir, which, (40, 48, 5), SmallestImagePixelValue=0, LargestImagePixelValue=1)
    series = series_by_hand(source_dir)
    written = write_derived_series(series, repeated(series.voxels), folder / "case" / "dicom", DERIVATION)
    return Case(source_dir, series, folder / "case" / "dicom", written)


MADE = ["made-CT", "made-MR", "made-PT"]
ALL = [*MADE, "sample-mr_t1_sagittal", "sample-ct_abdomen", "sample-pet_fdg"]


@pytest.fixture(scope="module", params=ALL)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=MADE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case(request.param, tmp_path_factory.mktemp(request.param))


def test_the_result_conforms_and_readers_find_it_where_the_source_was(case: Case) -> None:
    check_conformance(case.result_dir.parent, case.source_dir)
    check_by_readers(case.result_dir.parent, case.source_dir)
    assert [path.name for path in case.result_paths] == [f"IM{k + 1:04d}.dcm" for k in range(len(case.result_paths))]


# Validators


@needs_validators
def test_clean_series_has_no_errors_and_no_warnings(made: Case) -> None:
    assert run_dciodvfy(*made.result_paths) == set()
    assert not [w for w in run_dciodvfy(*made.result_paths, kind="Warning") if KNOWN_FALSE_WARNING not in w]


@needs_validators
def test_entities_agree_between_source_and_result(case: Case) -> None:
    assert run_dcentvfy([*case.source_paths, *case.result_paths]) == []


# Three readers


@pytest.mark.parametrize("read", READERS)
def test_reader_finds_every_value_at_its_place(made: Case, read) -> None:
    """Patient coordinates of each found voxel lead to the source voxel that holds its value."""
    affine, voxels = read(made.result_dir)
    index = np.indices(voxels.shape).reshape(3, -1)
    place = affine[:3, :3] @ index + affine[:3, 3:]
    inverse = np.linalg.inv(made.source.geometry.affine)
    i, j, k = np.rint(inverse[:3, :3] @ place + inverse[:3, 3:]).astype(int)
    expected = made.source.voxels[i, j, k]
    assert np.abs(voxels.reshape(-1) - expected).max() <= 1e-4 * np.abs(expected).max()


#: Attribute, and what it wrongly holds, made of the result's value and the source's.
WRONG: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "half a voxel forgotten": ("ImagePositionPatient", lambda result, source: source),
    "pixel spacing forgotten": ("PixelSpacing", lambda result, source: source),
    "spacings swapped": ("PixelSpacing", lambda result, source: list(reversed(result))),
    "moved the other way": (
        "ImagePositionPatient",
        lambda result, source: [DSfloat(2 * s - r, auto_format=True) for s, r in zip(source, result, strict=True)],
    ),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_geometry_would_be_seen(made: Case, tmp_path: Path, wrong: str, read) -> None:
    keyword, value = WRONG[wrong]
    (tmp_path / "wrong").mkdir()
    for path, source in zip(made.result_paths, made.source.headers, strict=True):
        image = pydicom.dcmread(path)
        setattr(image, keyword, value(image[keyword].value, source[keyword].value))
        image.save_as(tmp_path / "wrong" / path.name)
    affine, voxels = read(tmp_path / "wrong")
    with pytest.raises(AssertionError):
        check_corners(corners_ras_mm(affine, voxels.shape), source_corners_ras_mm(made.source.headers))


def test_half_a_voxel_is_larger_than_the_tolerance(case: Case) -> None:
    for image, source in zip(read_images(case.result_dir), case.source.headers, strict=True):
        shift = np.subtract(image.ImagePositionPatient, source.ImagePositionPatient)
        row_mm, column_mm = (float(v) for v in source.PixelSpacing)
        assert np.linalg.norm(shift) == pytest.approx(np.hypot(row_mm, column_mm) / 4, rel=1e-6)
        assert np.linalg.norm(shift) > 50 * CORNER_TOLERANCE_MM


# What validators do not see


def test_values_survive_storage(case: Case) -> None:
    found, expected = rescaled(read_images(case.result_dir)), repeated(case.source.voxels)
    half_step = [0.501 * float(x.get("RescaleSlope", 1)) for x in read_images(case.result_dir)]
    assert (np.abs(found - expected) <= half_step).all()
    if case.source.modality != "PT":
        np.testing.assert_array_equal(found, expected)


def test_uids_are_new_and_unique_and_the_source_is_referenced(case: Case) -> None:
    images = [pydicom.dcmread(path) for path in case.result_paths]
    sources = case.source.headers
    assert {x.SOPInstanceUID for x in images}.isdisjoint(x.SOPInstanceUID for x in sources)
    assert {x.SeriesInstanceUID for x in images} == {case.written.series_instance_uid}
    assert case.written.series_instance_uid != sources[0].SeriesInstanceUID
    for image, source in zip(images, sources, strict=True):
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_decimal_strings_fit_16_characters(case: Case) -> None:
    for path in case.result_paths:
        for element in pydicom.dcmread(path).iterall():
            if element.VR == "DS" and not element.is_empty:
                values = element.value if element.VM > 1 else [element.value]
                assert max(len(str(value)) for value in values) <= 16, element.keyword


def test_geometry_of_the_report_is_that_of_the_files(case: Case) -> None:
    expected = source_corners_ras_mm(case.source.headers)
    check_corners(case.source.geometry.upsampled(DERIVATION.factors.whole).corners_mm(), expected)

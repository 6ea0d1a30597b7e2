"""Maps beside results: by readers other than the package's, in their place, and nothing of them super-resolved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from case_maps import mapped_bundle, write_with_maps
from dicom_fixtures import MARKER, MARKER_ID, make_series
from dicom_peers import scp
from dicom_validators import has_validators, run_dciodvfy
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pynetdicom import evt

from monai_ldmsr.cli import main
from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.parametric_map import rounded
from monai_ldmsr.pacs.sending import images_below, parse_destination
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.workflow import open_evaluator

ORIENTATION = "ImageOrientationPatient"
NAMES = ("error", "trusted", "contradiction")
UNITS = {"CT": "[hnsf'U]", "MR": "1", "PT": "Bq/ml"}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mapped_bundle(tmp_path_factory.mktemp("bundle"))


def frame_values(image: pydicom.Dataset) -> np.ndarray:
    """(frames, rows, columns), whatever pydicom makes of pixels."""
    if "FloatPixelData" not in image:
        return image.pixel_array.reshape(-1, image.Rows, image.Columns)
    return np.frombuffer(image.FloatPixelData, "<f4").reshape(-1, image.Rows, image.Columns)


def test_rounding_never_makes_an_error_smaller() -> None:
    values = np.random.default_rng(0).normal(0, 100, 10_000).astype(np.float32)
    found = rounded(values)
    assert (np.abs(found) >= np.abs(values)).all()
    assert (np.abs(found - values) <= np.abs(values) / 64).all()
    assert (np.sign(found) == np.sign(values)).all()
    assert (rounded(found) == found).all()
    assert (found.view(np.uint32) % 2**17 == 0).all()


@pytest.mark.parametrize("form", ["classic", "enhanced"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_maps_are_dicom_objects_in_the_place_of_their_voxels(
    tmp_path: Path, mapped: Path, heard: Callable[[], str], modality: str, form: str
) -> None:
    make_series(tmp_path / "in", modality, (24, 20, 3), PatientName=MARKER, PatientID=MARKER_ID)
    data, written, folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped, dicom_form=form)
    assert MARKER not in heard()
    assert {f"maps/{name}.dcm" for name in NAMES} < written.files.keys()
    expected = dict(zip(NAMES, (one.values for one in data["maps"]), strict=True))
    derived = [pydicom.dcmread(path) for path in sorted((folder / "dicom").glob("*.dcm"))]
    sources = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, (tmp_path / "in").glob("*.dcm"))}
    for name in NAMES:
        image = pydicom.dcmread(folder / "maps" / f"{name}.dcm")
        (shared,), frames = image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence
        values = expected[name][0].numpy().transpose(2, 1, 0)
        assert frame_values(image).shape == values.shape
        spacing = np.array(data["source"].headers[0].PixelSpacing, float)
        # Frames may stand in another order than slices: each by the place that it says.
        places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
        for header, slice_ in zip(data["source"].headers, values, strict=True):
            position, cosines = (np.array(header[word].value, float) for word in ("ImagePositionPatient", ORIENTATION))
            if name != "contradiction":
                position = position - (cosines[:3] * spacing[1] + cosines[3:] * spacing[0]) / 4
            (k,) = np.flatnonzero(np.abs(places - position).max(axis=1) < 1e-3)
            np.testing.assert_array_equal(frame_values(image)[k], slice_ > 0 if name == "trusted" else rounded(slice_))
        step = 1 if name == "contradiction" else 2
        np.testing.assert_allclose(np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float), spacing / step)
        assert (image.PatientName, image.PatientID) == (derived[0].PatientName, MARKER_ID)
        assert (image.StudyInstanceUID, image.FrameOfReferenceUID) == (
            derived[0].StudyInstanceUID,
            derived[0].FrameOfReferenceUID,
        )
        assert image.ContentQualification == "RESEARCH"
        assert "Research only" in image.ContentDescription
        assert image.ContributingEquipmentSequence[-1] == derived[0].ContributingEquipmentSequence[-1]
        own_of_patient = {one.keyword for one in image if one.tag.group == 0x0010}
        assert own_of_patient <= {one.keyword for one in derived[0] if one.tag.group == 0x0010}
        referred = {
            item.ReferencedSOPInstanceUID
            for series in image.ReferencedSeriesSequence
            for item in series.ReferencedInstanceSequence
        }
        assert referred >= {one.SOPInstanceUID for one in derived}
        assert (referred >= sources.keys()) == (name == "contradiction" and form == "classic")
        if name != "trusted":
            (mapping,) = shared.RealWorldValueMappingSequence
            assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == UNITS[modality]
            assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)


@pytest.mark.skipif(not has_validators(), reason="dicom3tools is missing")
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_objects_are_valid(tmp_path: Path, mapped: Path, modality: str) -> None:
    """By dciodvfy, which does not inflate."""
    make_series(tmp_path / "in", modality, (24, 20, 3))
    _, _, folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped, structured_report=True)
    assert len(list((folder / "maps").iterdir())) == 4
    for path in (folder / "maps").glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(tmp_path / path.name)
        assert run_dciodvfy(tmp_path / path.name) == set()


@pytest.mark.parametrize("form", ["classic", "enhanced"])
def test_the_same_input_gives_the_same_bytes_and_other_maps_other_uids(tmp_path: Path, mapped: Path, form: str) -> None:
    make_series(tmp_path / "in", "CT", (24, 20, 9))
    folders = []
    for name in ("a", "b"):
        settings = {"created": "2026-01-31T12:00:00+00:00", "dicom_form": form}
        folders.append(write_with_maps(tmp_path / "in", tmp_path / name, mapped, **settings)[2])
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.dcm")} for folder in folders
    )
    assert len(first) == len(NAMES) + (9 if form == "classic" else 1)
    assert first == second
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in (folders[0] / "maps").glob("*.dcm")}
    assert len(uids) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_keeps_the_result_from_its_place(tmp_path: Path, mapped: Path, value: float) -> None:
    make_series(tmp_path / "in", "CT", (24, 20, 3))
    evaluator = open_evaluator(tmp_path / "in", tmp_path / "out", WorkSettings(bundle=mapped, device="cpu"))
    (one,) = evaluator.dataset.found
    data, times, described = evaluator.compute(one.source)
    data["maps"][0].values[0, 4, 5, 1] = value
    with pytest.raises(OutputError, match="expected error holds values that are not finite"):
        evaluator.writer.write(data, one.name, tmp_path / "out", times, described)
    assert not (tmp_path / "out" / one.name).exists()


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz"])
def test_maps_of_volume_files_are_volume_files(tmp_path: Path, mapped: Path, extension: str) -> None:
    values = np.random.default_rng(1).normal(100, 30, (14, 12, 5)).astype(np.float32)
    affine = np.array([[0.0, -1.2, 0.0, 5], [0.9, 0.0, 0.0, -7], [0.0, 0.0, 3.0, 9], [0, 0, 0, 1]])
    (tmp_path / "in").mkdir()
    place = tmp_path / "in" / f"head{extension}"
    if extension in (".nrrd", ".nhdr", ".mha", ".mhd"):
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "head.nii")
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "head.nii")), str(place))
    else:
        kind = {".hdr": nibabel.Nifti1Pair, ".mgz": nibabel.MGHImage}.get(extension, nibabel.Nifti1Image)
        nibabel.save(kind(values, affine), place)
    data, _, folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped)
    own = {".nrrd": ".nrrd", ".nhdr": ".nrrd", ".mha": ".mha", ".mhd": ".mha"}.get(extension, ".nii.gz")
    for name, made in zip(NAMES, (one.values for one in data["maps"]), strict=True):
        image = SimpleITK.ReadImage(str(folder / f"{folder.name}_{name}{own}"))
        expected = made[0].numpy() if name == "trusted" else rounded(made[0].numpy())
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, expected)
        assert image.GetPixelIDTypeAsString() == ("8-bit unsigned integer" if name == "trusted" else "32-bit float")
        step = 1 if name == "contradiction" else 2
        corner = affine @ (-0.5, -0.5, 0, 1) * (-1, -1, 1, 1)
        found = image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0))
        np.testing.assert_allclose(found, corner[:3], atol=1e-4)
        np.testing.assert_allclose(image.GetSpacing(), (0.9 / step, 1.2 / step, 3), rtol=1e-5)


def test_maps_found_as_input_are_skipped_with_a_reason(tmp_path: Path, mapped: Path) -> None:
    make_series(tmp_path / "in" / "dicom", "CT", (24, 20, 3))
    nibabel.save(nibabel.Nifti1Image(np.arange(600.0).reshape(10, 12, 5), np.eye(4)), tmp_path / "in" / "a.nii")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "in" / "a.nii")), str(tmp_path / "in" / "b.nrrd"))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "in" / "a.nii")), str(tmp_path / "in" / "c.mha"))
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--bundle", str(mapped)]) == 0
    (tmp_path / "again").mkdir()
    found = [*(tmp_path / "out").glob("*/maps/*.dcm")]
    found += [path for name in NAMES for path in (tmp_path / "out").glob(f"*/*_{name}.*")]
    assert len(found) == 12
    for n, path in enumerate(found):  # away from all that lies beside them
        shutil.copy(path, tmp_path / "again" / f"{n}{''.join(path.suffixes[-2:])}")
    main(["run", str(tmp_path / "again"), str(tmp_path / "none"), "--bundle", str(mapped)])
    cases = json.loads((tmp_path / "none" / "summary.json").read_text())["series"]
    assert {(case["status"], case["reason"]) for case in cases} == {("skipped", "OWN_RESULT")}
    assert len(cases) == 12


def test_a_single_file_has_its_maps_beside_it_and_they_go_with_it(tmp_path: Path, mapped: Path, bundle: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.arange(600.0).reshape(10, 12, 5), np.eye(4)), tmp_path / "a.nii.gz")
    target = tmp_path / "out" / "b.nii.gz"
    target.parent.mkdir()
    command = ["run", str(tmp_path / "a.nii.gz"), str(target), "--bundle"]
    (target.parent / "b_error.nii.gz").write_bytes(b"somebody's")
    assert main([*command, str(mapped)]) != 0
    assert (target.parent / "b_error.nii.gz").read_bytes() == b"somebody's"
    assert not target.exists()
    assert main([*command, str(mapped), "--overwrite"]) == 0
    maps = {f"b_{name}.nii.gz" for name in NAMES}
    beside = {"b.nii.gz", "b_report.html", "b_report.json"}
    assert {path.name for path in target.parent.iterdir()} == beside | maps
    assert main([*command, str(mapped)]) == 0
    assert main([*command, str(bundle)]) == 0, "the next result has none"
    assert {path.name for path in target.parent.iterdir()} == beside


def test_maps_are_sent_where_they_are_asked_for(tmp_path: Path, mapped: Path) -> None:
    make_series(tmp_path / "in", "CT", (24, 20, 3))
    folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped)[2]
    usual, all_ = set(images_below(folder)), set(images_below(folder, with_maps=True))
    assert usual == set((folder / "dicom").iterdir())
    assert all_ - usual == set((folder / "maps").iterdir())


def numbers_in(report: pydicom.Dataset) -> dict[str, tuple[float, str]]:
    """Each measurement of a Structured Report with its unit, by its code."""
    found: dict[str, tuple[float, str]] = {}
    items = [report]
    while items:
        item = items.pop()
        items += item.get("ContentSequence", [])
        if item.get("ValueType") == "NUM":
            (value,) = item.MeasuredValueSequence
            unit = value.MeasurementUnitsCodeSequence[0].CodeValue
            found[item.ConceptNameCodeSequence[0].CodeValue] = float(value.NumericValue), unit
    return found


def test_a_structured_report_has_the_figures_of_the_report(tmp_path: Path, mapped: Path) -> None:
    make_series(tmp_path / "in", "CT", (64, 60, 3), PatientName=MARKER, PatientID=MARKER_ID)
    _, written, folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped, structured_report=True)
    report = pydicom.dcmread(folder / "maps" / "measurements.dcm")
    metrics, found = written.report.metrics, numbers_in(report)
    assert found["LAPLACE_RESULT"][0] == pytest.approx(metrics.result.laplacian_variance, rel=1e-5)
    assert found["DISAGREEMENT"] == (pytest.approx(metrics.agreement.mean_abs, rel=1e-5, abs=1e-9), "[hnsf'U]")
    assert report.PatientID == MARKER_ID
    derived = {pydicom.dcmread(path).SOPInstanceUID for path in (folder / "dicom").glob("*.dcm")}
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert {one.ReferencedSOPInstanceUID for one in study.ReferencedSeriesSequence[0].ReferencedSOPSequence} == derived
    assert ("structured report", 1) in [(one.kind, one.n_files) for one in written.report.outputs]
    assert "maps/measurements.dcm" in written.files


def test_without_the_option_there_is_no_structured_report(tmp_path: Path, bundle: Path) -> None:
    make_series(tmp_path / "in", "CT", (24, 20, 3))
    folder = write_with_maps(tmp_path / "in", tmp_path / "out", bundle)[2]
    assert {path.name for path in folder.iterdir()} == {"dicom", "report.html", "report.json"}


@pytest.mark.parametrize("takes_deflated", [True, False])
def test_maps_reach_a_pacs_whole_in_a_form_that_it_takes(tmp_path: Path, mapped: Path, takes_deflated: bool) -> None:
    make_series(tmp_path / "in", "CT", (24, 20, 3))
    folder = write_with_maps(tmp_path / "in", tmp_path / "out", mapped, structured_report=True)[2]
    taken: dict[str, pydicom.Dataset] = {}

    def store(event: Any) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        taken[image.SOPInstanceUID] = image
        return 0

    syntaxes = [ExplicitVRLittleEndian, *([DeflatedExplicitVRLittleEndian] if takes_deflated else [])]
    with scp([(evt.EVT_C_STORE, store)], syntaxes=syntaxes) as peer:
        outcome = parse_destination(str(peer), with_maps=True).deliver(folder)
    assert outcome.complete
    assert outcome.n_instances == 3 + 4
    for path in (folder / "maps").iterdir():
        own = pydicom.dcmread(path)
        other = taken[own.SOPInstanceUID]
        assert other.file_meta.TransferSyntaxUID == syntaxes[-1]
        assert not [element for element in own if other[element.tag] != element]

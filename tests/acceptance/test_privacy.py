"""Nothing that a run says or leaves behind, but the derived DICOM itself, tells who the patient is."""

from __future__ import annotations

import errno
import json
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_fixtures import save
from marked_patients import (
    EXECUTED,
    MARKERS,
    SECRETS,
    TRAP,
    add_bad_sources,
    all_texts,
    marked_series,
    secrets_in,
)
from series_by_hand import derive

from monai_ldmsr import report_output, super_resolve
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SourceError
from monai_ldmsr.io import derived_series, read_dicom_series, read_volume_file
from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, Fate
from monai_ldmsr.networks.super_resolver import SuperResolver


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    [path] = marked_series(tmp_path / "in", n_slices=1)
    text = str(pydicom.dcmread(path))
    assert set(secrets_in(text)) == set(SECRETS)
    assert len(pydicom.dcmread(path)) > 1500
    (tmp_path / "out" / "MARKER").mkdir(parents=True)
    assert secrets_in(all_texts(tmp_path / "out")) == ["MARKER"]


def run(source: Path, output: Path) -> list[tuple[str, str]]:
    """Run the command and return status and reason of each source."""
    main(["--log-level", "debug", "run", str(source), str(output), "--steps", "1", "--device", "cpu", "--force"])
    summary = json.loads((output / "summary.json").read_text())
    return sorted((entry["status"], entry["reason"]) for entry in summary["series"])


def test_a_run_with_good_skipped_and_failing_sources_tells_nothing(
    tmp_path: Path, heard: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "in" / "MARKER folder $open('x')"
    for modality in ("CT", "MR", "PT"):
        marked_series(source / "MARKER" / modality, modality)
    image = nibabel.Nifti1Image(np.arange(256, dtype=np.int16).reshape(8, 8, 4), np.diag([1, 1, 2, 1]))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = b"MARKER"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"MARKER"))
    nibabel.save(image, source / "v.nii.gz")
    [path] = marked_series(source / "unit", "PT", 1)
    dataset = pydicom.dcmread(path)
    dataset.Units = "MARKER_ID_4711"
    save(dataset, path)
    [path] = marked_series(source / "uid", "CT", 1, SOPInstanceUID="1.2.3.4.55")
    path.write_bytes(path.read_bytes().replace(b"1.2.3.4.55", b"MARKER/../"))
    add_bad_sources(source)
    outcomes = run(source, tmp_path / "out")
    said = heard().replace(str(tmp_path / "out"), "")  # where results lie is said as the user named it
    assert [status for status, _ in outcomes].count("done") == 6
    assert {reason for status, reason in outcomes if status == "failed"} == {
        *("BAD_RESCALE", "NO_GEOMETRY", "TRUNCATED_PIXELS", "UNDECODABLE_PIXELS", "UNREADABLE_FILE", "NOT_FINITE")
    }
    assert {reason for status, reason in outcomes if status == "skipped"} == {
        *("UNSUPPORTED_SOP_CLASS", "LOCALIZER", "NOT_AN_IMAGE")
    }
    assert "TRUNCATED_PIXELS" in said
    assert secrets_in(said) == []
    assert not re.search("^pydicom", said, re.MULTILINE), "its messages quote what it reads"
    assert secrets_in(all_texts(tmp_path / "out")) == []
    assert len(list((tmp_path / "out").glob("*/report.json"))) == 6
    images = [pydicom.dcmread(path) for path in tmp_path.glob("out/*/dicom/*.dcm")]
    assert {str(image.PatientName) for image in images} == {MARKERS["PN"]}, "the derived series stays the patient's"
    assert not [element for image in images for element in image.iterall() if element.tag.is_private]
    assert not list(tmp_path.rglob(TRAP)), "text of a header was executed"


@pytest.mark.parametrize("place", ["network", "disk", "write", "page"])
def test_a_failing_run_tells_nothing(
    tmp_path: Path, heard: Callable[[], str], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    source = tmp_path / "MARKER"
    marked_series(source / "MARKER", "CT")

    def fail(*_: object, **__: object) -> None:
        error = (
            OSError(errno.ENOSPC, "No space left on device", "/MARKER/x") if place == "disk" else ValueError(EXECUTED)
        )
        raise error from RuntimeError("MARKER")

    target = {
        "network": (SuperResolver, "predict"),
        "disk": (derived_series, "dcmwrite"),
        "write": (derived_series, "derived_header"),
        "page": (report_output, "render_html"),
    }[place]
    monkeypatch.setattr(*target, fail)
    outcomes = run(source, tmp_path / "out")
    reason = {"disk": "CANNOT_WRITE", "write": "UNREADABLE_FILE"}.get(place, "INTERNAL_ERROR")
    assert outcomes == [("failed", reason)]
    said = heard()
    assert reason in said
    if reason == "INTERNAL_ERROR":
        assert "ValueError at" in said, "the log tells where it was"
    assert secrets_in(said.replace(str(tmp_path / "out"), "")) == []
    assert secrets_in(all_texts(tmp_path / "out")) == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.json"]


def test_names_of_folders_and_files_never_reach_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source, output = Path(EXECUTED), Path(f"{EXECUTED} out")
    source.mkdir()
    image = nibabel.Nifti1Image(np.arange(128, dtype=np.int16).reshape(8, 8, 2), np.diag([1, 1, 2, 1]))
    for name in (EXECUTED, "@seed", "$@seed"):
        nibabel.save(image, source / f"{name}.nii")
    assert super_resolve(source, output, num_inference_steps=1, device="cpu").exit_code == 0
    assert len(list(output.glob("*/report.json"))) == 3
    assert not (tmp_path / TRAP).exists()


def test_errors_of_functions_tell_nothing_by_their_causes(tmp_path: Path) -> None:
    """A traceback prints the causes too, unless they are left out."""
    for modality, change in (("CT", {"RescaleSlope": None}), ("MR", {"PixelSpacing": None})):
        folder = tmp_path / "MARKER" / modality
        marked_series(folder, modality, **change)
        with pytest.raises(SourceError) as caught:
            read_dicom_series(folder)
        assert secrets_in("".join(traceback.format_exception_only(caught.value))) == []
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    headers = {"nii": b"", "mgh": b"", "mha": b"NDims = MARKER\nDimSize = 1\n", "nrrd": b"NRRD0004\nsizes: MARKER\n"}
    for extension, header in headers.items():
        path = tmp_path / f"MARKER.{extension}"
        path.write_bytes(header + b"ElementDataFile = MARKER\n\n" + b"MARKER" * 99)
        with pytest.raises(SourceError) as caught:
            read_volume_file(path)
        assert secrets_in(str(caught.value)) == []
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientWeight", "PatientSize"),
    *("OtherPatientIDs", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("StudyDescription", "SeriesDescription", "InstitutionName", "InstitutionAddress", "StationName"),
    *("OperatorsName", "DeviceSerialNumber", "AcquisitionDate", "AcquisitionTime", "PatientComments"),
    *("ProtocolName", "ImageComments", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime"),
)


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("are_emptied", [True, False])
def test_a_de_identified_series_stays_so(tmp_path: Path, modality: str, are_emptied: bool) -> None:
    def strip(image: pydicom.Dataset) -> None:
        for keyword in IDENTITY:
            if are_emptied and keyword in image:
                image[keyword].value = None
            elif keyword in image:
                del image[keyword]
        image.PatientIdentityRemoved = "YES"
        image.DeidentificationMethod = "PS3.15 basic profile"
        code = pydicom.Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113100", "DCM", "Basic Profile"
        image.DeidentificationMethodCodeSequence = [code]
        image.LongitudinalTemporalInformationModified = "REMOVED"

    [image, *_] = derive(tmp_path, modality, change=strip)
    source = pydicom.dcmread(next((tmp_path / "source").iterdir()))
    for keyword in (
        *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
        "LongitudinalTemporalInformationModified",
    ):
        assert image[keyword] == source[keyword]
    made = {rule.keyword for rule in ATTRIBUTE_RULES if rule.fate in (Fate.NEW, Fate.RECOMPUTED)}
    appeared = {e.keyword for e in image if e.value not in (None, "") and source.get(e.keyword) in (None, "")}
    assert appeared <= made
    # What is made anew says what was done and when, and nothing of the patient.
    assert appeared & set(IDENTITY) <= {
        *("SeriesDescription", "ImageComments", "SeriesDate", "SeriesTime", "ContentDate", "ContentTime")
    }
    assert image.SeriesDescription == "SR x2 (research)"
    if modality == "PT":
        assert "SeriesDate" not in appeared

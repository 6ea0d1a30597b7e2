"""Nothing that a run says or leaves behind, but the derived DICOM itself, tells who the patient is."""

from __future__ import annotations

import errno
import json
import os
import re
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_series, save
from mutated_sources import elements, raw_element
from pydicom.datadict import DicomDictionary
from pydicom.uid import RLELossless
from series_by_hand import derive

from monai_ldmsr import result_writer, super_resolve
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SourceError
from monai_ldmsr.io import derived_series, read_dicom_series, read_volume_file
from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, Fate
from monai_ldmsr.networks.super_resolver import SuperResolver

#: A config that holds this text would create a file of that name.
TRAP = "trap-was-sprung"
EXECUTED = f"$open('{TRAP}','w')"

#: Values by VR that stand for a patient; dates and the UID root are found again as parts of longer texts.
MARKERS = {
    **dict.fromkeys(("PN", "LO", "LT", "ST", "UC", "UT", "UR"), f"{EXECUTED} MARKER^NAME @seed"),
    **dict.fromkeys(("SH", "AE", "CS"), "MARKER_ID_4711"),
    "DA": "19470311",
    "DT": "19470311101112",
    "AS": "077Y",
    "UI": "1.2.826.4711471147114711",
}
SECRETS = ("MARKER", TRAP, "4711471147114711", "19470311", "077Y")

#: Without these a series is not one, or is another.
STRUCTURE = {
    *(
        "SOPClassUID",
        "Modality",
        "ImageType",
        "PhotometricInterpretation",
        "SpecificCharacterSet",
        "RescaleType",
        "Units",
    ),
    *("SOPInstanceUID", "TransferSyntaxUID"),
}


def mark(path: Path) -> None:
    """Put a marker into every attribute of text, date, name or UID that pydicom's dictionary knows, and into others."""
    data = path.read_bytes()
    found = {element.tag: element for element in elements(data)}
    values: dict[int, bytes] = {}
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if keyword and keyword not in STRUCTURE and vr in MARKERS and 0x0008 <= group < 0x7FE0 and not retired:
            text = (MARKERS[vr] + (f".{zlib.crc32(bytes(path.parent))}" if vr == "UI" else "")).encode()
            values[tag] = raw_element(tag, vr, text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2))
    name = raw_element(0x00100010, "PN", b"MARKER^NAME ")
    item = b"\xfe\xff\x00\xe0" + len(name).to_bytes(4, "little") + name
    for keyword in (
        "ReferencedStudySequence",
        "RequestAttributesSequence",
        "ReferencedImageSequence",
        "DeviceSequence",
    ):
        tag = pydicom.datadict.tag_for_keyword(keyword)
        values[tag] = raw_element(tag, "SQ", item)
    values[0x00290010] = raw_element(0x00290010, "LO", b"MARKER MAKER")
    values[0x00291010] = raw_element(0x00291010, "LO", b"MARKER^NAME ")
    for tag, element in found.items():
        if tag not in values or tag >> 16 < 8:
            values[tag] = data[element.at : element.end]
    path.write_bytes(data[:132] + b"".join(values[tag] for tag in sorted(values)))


def marked_series(folder: Path, modality: str = "MR", n_slices: int = 2, **overrides: object) -> list[Path]:
    paths = make_series(folder, modality, (16, 18, n_slices), **overrides).paths
    for path in paths:
        mark(path)
    return paths


def told(output: Path) -> str:
    """All names below ``output``, and all contents but the pixels and headers of the derived DICOM images."""
    paths = sorted(output.rglob("*"))
    texts = [str(path.relative_to(output)) for path in paths]
    texts += [path.read_text("latin-1") for path in paths if path.is_file() and path.suffix in (".json", ".html")]
    for path in output.rglob("*.nii*"):
        header = nibabel.load(path).header
        texts += [str(dict(header)), str(list(header.extensions))]
    return "\n".join(texts)


def secrets_in(text: str) -> list[str]:
    # Pictures in the page are base64, where any four characters turn up some day.
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    return [secret for secret in SECRETS if secret in text]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    [path] = marked_series(tmp_path / "in", n_slices=1)
    text = str(pydicom.dcmread(path))
    assert set(secrets_in(text)) == set(SECRETS)
    assert len(pydicom.dcmread(path)) > 1500
    (tmp_path / "out" / "MARKER").mkdir(parents=True)
    assert secrets_in(told(tmp_path / "out")) == ["MARKER"]


def run(source: Path, output: Path) -> list[tuple[str, str]]:
    """Run the command and return status and reason of each source."""
    main(["--log-level", "debug", "run", str(source), str(output), "--steps", "1", "--device", "cpu"])
    summary = json.loads((output / "summary.json").read_text())
    return sorted((entry["status"], entry["reason"]) for entry in summary["series"])


def add_bad_sources(folder: Path) -> None:
    """Marked series and files that are skipped or fail."""
    marked_series(folder / "1", "CT", RescaleSlope="0", RescaleIntercept="0")
    marked_series(folder / "2", "CT", PixelSpacing=None)
    for path in marked_series(folder / "3", "CT"):
        path.write_bytes(path.read_bytes()[:-300])
    [path] = marked_series(folder / "4", "CT", 1)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 80])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(path, overwrite=True)
    [path] = marked_series(folder / "5", "CT", 1)
    path.write_bytes(path.read_bytes()[:5000])
    marked_series(folder / "7", "CT", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    marked_series(folder / "8", "MR", 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (folder / "9").mkdir()
    nifti = nibabel.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4))
    nifti.header["descrip"] = b"MARKER"
    nibabel.save(nifti, folder / "9" / "v.nii")
    (folder / "9" / "w.nii").write_bytes(b"MARKER" * 100)
    (folder / "9" / "w.mha").write_bytes(b"Name = MARKER\nNDims = MARKER\n")
    (folder / "9" / "w.nrrd").write_bytes(b"NRRD0004\n# MARKER\nMARKER: MARKER\n")
    (folder / "9" / "MARKER.txt").write_text("MARKER")
    os.symlink("/MARKER", folder / "9" / "MARKER.dcm")


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
    assert secrets_in(told(tmp_path / "out")) == []
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
        "network": (SuperResolver, "forward"),
        "disk": (derived_series, "dcmwrite"),
        "write": (derived_series, "derived_header"),
        "page": (result_writer, "render_html"),
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
    assert secrets_in(told(tmp_path / "out")) == []
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

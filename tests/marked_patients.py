"""Series whose every text names a patient, and where such a text is found again."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from dicom_bytes import elements, raw_element
from dicom_fixtures import make_series
from pydicom.datadict import DicomDictionary
from pydicom.uid import RLELossless

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
    *("SOPClassUID", "Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "RescaleType"),
    *("Units", "SOPInstanceUID", "TransferSyntaxUID"),
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
    for keyword in ("ReferencedStudy", "RequestAttributes", "ReferencedImage", "Device"):
        tag = pydicom.datadict.tag_for_keyword(f"{keyword}Sequence")
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


def all_texts(output: Path) -> str:
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

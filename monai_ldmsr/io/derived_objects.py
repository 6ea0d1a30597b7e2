"""What the DICOM objects beside a derived series share: its maps, its mask and its measurements, by highdicom.

They belong to the study of the derived images, of whose attributes alone they are made: what those keep of a patient,
these keep, and nothing else. UIDs follow from the derived series and from the object's content.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)
from highdicom.sr import CodedConcept
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.filebase import DicomIO
from pydicom.filewriter import correct_ambiguous_vr, write_dataset, write_file_meta_info
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ParametricMapStorage

from monai_ldmsr.errors import LdmsrError, OutputError
from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io.copied_attributes import copied
from monai_ldmsr.io.derived_attributes import ATTRIBUTE_RULES, Fate
from monai_ldmsr.io.derived_header import named_uid
from monai_ldmsr.io.derived_slices import DerivedSlices, decimal
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.dicom_series import DicomSeries
from monai_ldmsr.io.enhanced_multiframe import FrameHeader
from monai_ldmsr.storage import deflated, output_errors, synced_file

__all__ = [
    "DerivedImages",
    "ObjectKind",
    "algorithm",
    "as_sources",
    "identity",
    "name_dimensions",
    "own_concept",
    "places",
    "quietly_made",
    "unit_code",
    "write_deflated",
]

#: Coding scheme of the concepts that no standard one has.
_SCHEME = "99LDMSR"

#: UCUM's code of a source's unit (PS3.16 CID 84 for PET's), and its meaning; what is not here, such as MR, has no unit.
_UNITS = {
    "HU": ("[hnsf'U]", "Hounsfield unit"),
    "BQML": ("Bq/ml", "Becquerels/milliliter"),
    "CNTS": ("{counts}", "Counts"),
    "CPS": ("{counts}/s", "Counts per second"),
    "PROPCNTS": ("{propcounts}", "Proportional to counts"),
    "PROPCPS": ("{propcounts}/s", "Proportional to counts per second"),
    "GML": ("g/ml", "grams/milliliter"),
    "MLML": ("ml/ml", "milliliter/milliliter"),
    "MLG": ("ml/g", "milliliter/gram"),
    "UMOLML": ("umol/ml", "micromole/milliliter"),
    "MGMINML": ("mg/min/ml", "milligrams/minute/milliliter"),
    "UMOLMINML": ("umol/min/ml", "micromole/minute/milliliter"),
    "MLMING": ("ml/min/g", "milliliter/minute/gram"),
    "MLMINML": ("ml/min/ml", "milliliter/minute/milliliter"),
    "1CM": ("/cm", "/centimeter"),
    "CM2": ("cm2", "Centimeter**2"),
    "PCNT": ("%", "Percent"),
}

_MODULES = ("Patient", "Clinical Trial Subject", "General Study", "Patient Study", "Clinical Trial Study")

#: Attributes that a derived image takes over of patient and study, and in which characters; what highdicom asks for.
_PERSONAL = frozenset(
    rule.keyword for rule in ATTRIBUTE_RULES if rule.fate is Fate.KEPT and rule.module in _MODULES
) | {"SpecificCharacterSet"}
_NEEDED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)

_MAX_DESCRIPTION, _MAX_INTEGER_STRING = 64, 2**31 - 1

#: Higher levels take six times as long for a sixth less.
_LEVEL = 1


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object beside a derived series.

    Args:
        name: the kind in one word for UIDs.
        place: number behind the Series Number of the derived series, from 1 to 9.
        words: what it is, in front of the derived series' description.
    """

    name: str
    place: int
    words: str


def own_concept(value: str, meaning: str) -> CodedConcept:
    """A concept that no standard coding scheme has."""
    return CodedConcept(value, _SCHEME, meaning)


def unit_code(unit: str) -> CodedConcept:
    """UCUM's code of a source's unit."""
    if unit not in _UNITS:
        return CodedConcept.from_code(codes.UCUM.NoUnits)
    value, meaning = _UNITS[unit]
    return CodedConcept(value, "UCUM", meaning)


@dataclass(frozen=True)
class DerivedImages:
    """What objects beside a derived series are made of.

    Args:
        headers: headers of its images in the order of their names, without anything of patient and study, which
            highdicom would want to be as the standard has it.
        personal: that, as the first image has it.
    """

    headers: tuple[Dataset, ...]
    personal: Dataset

    @classmethod
    def below(cls, folder: Path) -> DerivedImages:
        """Read them."""
        with quiet_pydicom():
            headers = [dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]
            personal = copied(headers[0], _PERSONAL)
            for header in headers:
                for keyword in _PERSONAL - {"StudyInstanceUID"}:
                    if keyword in header:
                        del header[keyword]
                for keyword in _NEEDED:
                    setattr(header, keyword, None)
                if "SpacingBetweenSlices" in header:  # which is below 0 in some sources
                    del header.SpacingBetweenSlices
        return cls(tuple(headers), personal)

    @property
    def first(self) -> Dataset:
        """The first of them."""
        return self.headers[0]


def as_sources(images: DerivedImages, series: DicomSeries) -> list[Dataset]:
    """What an object on the source's grid refers to: the source's images, which have the study and patient of these.

    The derived images themselves where either are frames of one object.

    Args:
        images: the derived images.
        series: the source.
    """
    if "NumberOfFrames" in images.first or any(isinstance(header, FrameHeader) for header in series.headers):
        return list(images.headers)
    found = []
    for k, header in enumerate(series.headers):
        # Of new slices there are others than of the source's, but study and patient are those of any.
        one = deepcopy(images.headers[min(k, len(images.headers) - 1)])
        for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
            setattr(one, keyword, header.get(keyword) or one[keyword].value)
        for keyword in ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"):
            setattr(one, keyword, header[keyword].value)
        one.SliceThickness = header.get("SliceThickness") or decimal(series.geometry.spacing_mm[2])
        found.append(one)
    return found


def identity(images: DerivedImages, kind: ObjectKind, content: str, number: int = 1) -> dict[str, Any]:
    """Arguments of highdicom's objects that say what an object is and who made it.

    Args:
        images: the derived images.
        kind: what is made of it.
        content: digest of what the object holds.
        number: number of the object, where there are several.
    """
    first = images.first
    series = str(first.SeriesInstanceUID)
    series_number = 10 * int(first.SeriesNumber) + kind.place
    equipment = first.ContributingEquipmentSequence[-1]
    return {
        "series_instance_uid": named_uid(f"{kind.name} series", series, content),
        "series_number": min(series_number, _MAX_INTEGER_STRING),
        "sop_instance_uid": named_uid(kind.name, series, content, str(number)),
        "instance_number": number,
        "manufacturer": equipment.Manufacturer,
        "manufacturer_model_name": equipment.ManufacturerModelName,
        "software_versions": equipment.SoftwareVersions,
        "device_serial_number": equipment.DeviceUID,
        "series_description": f"{kind.words} {first.SeriesDescription}"[:_MAX_DESCRIPTION].strip(),
    }


def algorithm(images: DerivedImages) -> AlgorithmIdentificationSequence:
    """The method that made the derived images, with the identity of its weights."""
    equipment = images.first.ContributingEquipmentSequence[-1]
    return AlgorithmIdentificationSequence(
        name=f"{equipment.Manufacturer} {equipment.ManufacturerModelName}",
        family=codes.DCM.ArtificialIntelligence,
        version=str(equipment.SoftwareVersions),
        source=str(equipment.Manufacturer),
        parameters={"weights": str(equipment.DeviceUID)},
    )


def places(series: DicomSeries, grid: ResultGrid) -> dict[str, Any]:
    """Arguments of highdicom's images that say where frames lie: one for each slice of a grid on the source's."""
    first, slices = series.headers[0], DerivedSlices(series.headers, series.geometry, grid)
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    said = 0.0 if grid.has_own_slices else float(first.get("SliceThickness") or 0.0)
    return {
        "pixel_measures": PixelMeasuresSequence(
            (between_rows / grid.factors.j, between_columns / grid.factors.i),
            slice_thickness=said or slices.spacing_mm,
            spacing_between_slices=slices.spacing_mm,
        ),
        "plane_orientation": PlaneOrientationSequence("PATIENT", [float(x) for x in first.ImageOrientationPatient]),
        "plane_positions": [PlanePositionSequence("PATIENT", slices.position_mm(k)) for k in range(len(slices))],
    }


@contextmanager
def quietly_made(what: str) -> Iterator[None]:
    """Around calls of highdicom, whose errors quote names of patients.

    Raises:
        OutputError: it cannot make the object.
    """
    try:
        with quiet_pydicom():
            yield
    except (LdmsrError, MemoryError):
        raise
    except Exception:
        raise OutputError(f"The {what} cannot be made of the derived series, so no result is written.") from None


def name_dimensions(made: Dataset) -> None:
    """Let the UID of an object's dimensions follow from its own, where highdicom has taken one by chance."""
    for item in (*made.get("DimensionOrganizationSequence", ()), *made.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = named_uid("dimensions", str(made.SOPInstanceUID))


def write_deflated(
    made: Dataset, images: DerivedImages, path: Path, floats: Sequence[npt.NDArray[np.float32]] = ()
) -> None:
    """Mark an object as what the derived images are marked as, and write it, deflated.

    Args:
        made: the object, without the pixels that are given beside it.
        images: the derived images.
        path: file to write.
        floats: its frames, which are stored as 32-bit floats one after the other; they need not be in memory at once.

    Raises:
        OutputError: the file cannot be written.
    """
    first = images.first
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"):
        made[keyword] = first[keyword]
    made.SeriesDate, made.SeriesTime = first.ContentDate, first.ContentTime
    if made.SOPClassUID == ParametricMapStorage and "Laterality" not in made:
        made.Laterality = None
    name_dimensions(made)
    for element in images.personal.elements():
        made[element.tag] = element
    character_set = images.personal.get("SpecificCharacterSet")
    made.set_original_encoding(False, True, convert_encodings(character_set) if character_set else default_encoding)
    made.ContributingEquipmentSequence = first.ContributingEquipmentSequence
    meta = FileMetaDataset()
    meta.update(first.file_meta)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    beginning, plain = BytesIO(b"\0" * 128 + b"DICM"), BytesIO()
    beginning.seek(0, SEEK_END)
    write_file_meta_info(DicomIO(beginning), meta)
    writer = DicomIO(plain)
    writer.is_little_endian, writer.is_implicit_VR = True, False
    write_dataset(writer, correct_ambiguous_vr(made, True))
    if floats:  # the last of all elements
        n_bytes = 4 * len(floats) * floats[0].size
        plain.write(struct.pack("<HH2s2xI", *divmod(tag_for_keyword("FloatPixelData") or 0, 2**16), b"OF", n_bytes))

    def pixels(n: int) -> memoryview:
        return floats[n].astype("<f4", order="C", copy=False).data

    parts: list[Callable[[], memoryview]] = [plain.getbuffer, *(partial(pixels, n) for n in range(len(floats)))]
    with output_errors(f"Object {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with synced_file(path) as file:
            file.write(beginning.getvalue())
            n_bytes = sum(map(file.write, deflated(parts, _LEVEL)))
            file.write(b"\0" * (n_bytes % 2))

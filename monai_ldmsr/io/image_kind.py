"""Judge by its header whether one image is of a kind that is worked on, and what a reader of the result must know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

from pydicom import Dataset
from pydicom.uid import UID

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.dicom_header import CLASSIC, modality_of, number_list, sop_class, text
from monai_ldmsr.io.refusals import phase_image

__all__ = [
    "CUT_SHORT",
    "LOCALIZER",
    "MAPS_FOLDER",
    "complex_component",
    "named_components",
    "named_localizer",
    "skip_reason",
]

#: Manufacturer in Contributing Equipment Sequence of the series that this package writes.
OWN_MANUFACTURER = "monai_ldmsr"

#: Folder of maps, mask and measurements within that of a DICOM result.
MAPS_FOLDER = "maps"

CUT_SHORT = "A DICOM file is cut short within its header. Fetch it again."
LOCALIZER = "A localizer (scout) is for planning and is not super-resolved."

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_MULTI_FRAME = {_STORAGE + end for end in ("4.3", "128.1", "130")}
_SECONDARY_CAPTURE = {_STORAGE + end for end in ("7", "7.1", "7.2", "7.3", "7.4")}

#: Values of Pixel Presentation of enhanced frames (PS3.3 C.8.16.2): colours stand among the grey values.
_COLOURED = ("COLOR", "MIXED", "TRUE_COLOR", "COLOR_RANGE", "COLOR_REF")

#: What vendors call localizers, in descriptions.
_NAMED = r"LOCALI[SZ]ER|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|3.?PL(ANE)?[ _-]?LOC"

#: In Image Type also what descriptions use of whole volumes as well: "bone survey", "planning scan".
_LOCALIZER = re.compile(rf"{_NAMED}|SURVEY|PLAN.?SCAN")

_DESCRIBED = re.compile(rf".*({_NAMED}).*|[ _]*SURVEY[ _]*")

#: Values of Image Type from the third on by which vendors name the parts of a complex MR image (Siemens: one letter;
#: Philips: ``M_FFE\M``, ``PHASE MAP\P``, ``VELOCITY MAP\P``). A phase that encodes velocity wraps as well.
_IMAGE_TYPES = {
    "PHASE": r"P|P_[A-Z]+|PHASE|(PHASE|VELOCITY)[ _]?(MAP|DIFF|DIFFERENCE|IMAGE)|VELOCITY|PHASE[ _]CONTRAST[ _]P",
    "REAL": r"R|R_[A-Z]+|REAL",
    "IMAGINARY": r"I|I_[A-Z]+|IMAGINARY",
    "MAGNITUDE": r"M|M_[A-Z]+|MAGNITUDE",
}

#: Rescale Type or unit of phases and of velocities, in small letters.
_PHASE_UNIT = re.compile(r"(m|milli|micro|u)?rad(ian|ial)?s?|deg(ree)?s?|\u00b0|[cm]?m/s(ec)?")

#: (0043,102F) of GE: magnitude, phase, real, imaginary.
_GE_CREATOR, _GE_RAW_DATA_TYPE = "GEMS_PARM_01", 0x2F
_GE_COMPONENTS = ("MAGNITUDE", "PHASE", "REAL", "IMAGINARY")


def skip_reason(header: Dataset) -> tuple[ReasonCode, str] | None:
    """Why this image is nothing for super-resolution, as code and sentence; ``None`` when it can be used."""
    uid = sop_class(header)
    if _is_own_result(header):
        return ReasonCode.OWN_RESULT, "A series that monai_ldmsr made itself is not super-resolved again."
    if uid in _MULTI_FRAME or (number_list(header, "NumberOfFrames", 1) or (1,))[0] > 1:
        return (
            ReasonCode.UNSUPPORTED_SOP_CLASS,
            "Of multi-frame images, only enhanced CT and MR are supported. Export classic single-frame images.",
        )
    if not len(header) or not (uid or text(header, "Rows")):
        return ReasonCode.UNREADABLE_FILE, CUT_SHORT
    if uid not in CLASSIC and not (text(header, "Rows") and text(header, "Columns")):
        return ReasonCode.NOT_AN_IMAGE, "A DICOM object without an image: report, plan, DICOMDIR or the like."
    if uid in _SECONDARY_CAPTURE:
        return ReasonCode.UNSUPPORTED_SOP_CLASS, "A secondary capture is not a measured image."
    if not modality_of(header):
        return ReasonCode.UNSUPPORTED_MODALITY, _unsupported_modality(header)
    if uid and uid not in CLASSIC:
        return ReasonCode.UNSUPPORTED_SOP_CLASS, "Only CT, MR and PET Image Storage are supported."
    return _skip_by_content(header)


def _unsupported_modality(header: Dataset) -> str:
    of_class, said = CLASSIC.get(UID(sop_class(header)), ""), text(header, "Modality")
    if not of_class:
        return "Only the modalities CT, MR and PT are supported."
    other = said if said in CLASSIC.values() else "another one"
    return (
        f"(0008,0016) 'SOP Class UID' says that the image is {of_class}, but (0008,0060) 'Modality' says {other}: they "
        "contradict each other, so it is uncertain what its values mean. Repair the one that is wrong."
    )


def _skip_by_content(header: Dataset) -> tuple[ReasonCode, str] | None:
    image_type = _image_type(header)
    if any(_LOCALIZER.search(value) for value in image_type[2:]):
        return ReasonCode.LOCALIZER, LOCALIZER
    if "MOSAIC" in image_type:
        return (
            ReasonCode.UNSUPPORTED_DIMENSIONS,
            "A mosaic holds many slices in one image. Export one image a slice, or convert it to NIfTI.",
        )
    photometric = text(header, "PhotometricInterpretation")
    samples = text(header, "SamplesPerPixel")
    is_grey = text(header, "PixelPresentation") not in _COLOURED
    if (photometric and not photometric.startswith("MONOCHROME")) or samples not in ("", "1") or not is_grey:
        return ReasonCode.UNSUPPORTED_PIXELS, "Colour and palette images are not supported, only grey values."
    if text(header, "BitsAllocated") not in ("", "8", "16"):
        return ReasonCode.UNSUPPORTED_PIXELS, "Only 8 and 16 Bits Allocated are supported."
    if complex_component(header) == "PHASE":
        return ReasonCode.PHASE_IMAGE, str(phase_image("its header says so"))
    return None


def complex_component(header: Dataset) -> str:
    """Which part of a complex MR image this is: ``MAGNITUDE``, ``PHASE``, ``REAL``, ``IMAGINARY``; ``""`` if unsaid."""
    if modality_of(header) != "MR":
        return ""
    said = text(header, "ComplexImageComponent").upper()
    if said in _IMAGE_TYPES:
        return said
    found = next(iter(named_components(_image_type(header)[2:])), "") or _by_private_attribute(header)
    return "PHASE" if found in ("", "MAGNITUDE") and _has_phase_unit(header) else found


def named_components(values: Iterable[str]) -> list[str]:
    """Which parts of a complex MR image some values of Image Type name, in capitals: the phase first."""
    values = list(values)
    return [part for part, pattern in _IMAGE_TYPES.items() if any(re.fullmatch(pattern, value) for value in values)]


def _by_private_attribute(header: Dataset) -> str:
    with suppress(Exception):
        value = header.private_block(0x0043, _GE_CREATOR)[_GE_RAW_DATA_TYPE].value
        # Two bytes where the file gives the value representation as unknown.
        number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
        return _GE_COMPONENTS[number] if 0 <= number < len(_GE_COMPONENTS) else ""
    return ""


def _has_phase_unit(header: Dataset) -> bool:
    units = [text(header, "RescaleType")]
    with suppress(Exception):
        for mapping in header.get("RealWorldValueMappingSequence") or []:
            units += [text(code, "CodeValue") for code in mapping.get("MeasurementUnitsCodeSequence") or []]
    return any(_PHASE_UNIT.fullmatch(unit.lower()) for unit in units)


def named_localizer(header: Dataset) -> bool:
    """Whether a description calls the series a localizer; of PET it may name the CT localizer it was planned on."""
    modality, description = modality_of(header), text(header, "SeriesDescription")
    if modality == "PT":
        return False
    # The protocol is often that of the whole examination, and says what the series is where nothing else does.
    named = description or text(header, "ProtocolName")
    return bool(_DESCRIBED.fullmatch(named.upper()))


def _image_type(header: Dataset) -> list[str]:
    return [value.strip() for value in text(header, "ImageType").upper().split("\\")]


def _is_own_result(header: Dataset) -> bool:
    try:
        items = header.get("ContributingEquipmentSequence") or []
        return any(text(item, "Manufacturer") == OWN_MANUFACTURER for item in items)
    except Exception:
        return False

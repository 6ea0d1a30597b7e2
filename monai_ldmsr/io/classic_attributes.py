"""Where the attributes of an enhanced frame stand in a classic single-frame CT or MR image.

Enhanced objects (PS3.3 A.36, A.38) keep in functional groups what classic images (A.3, A.4) keep at the top, partly
under other names, as other types, or as other terms. Nothing is invented: what the frame does not say stays missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_description, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag
from pydicom.uid import CTImageStorage, MRImageStorage
from pydicom.valuerep import DSfloat

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import text

__all__ = ["ONLY_IN_GROUPS", "add_functional_groups", "carry", "check_groups", "put"]

#: Functional groups whose attributes belong to the top of a classic image. Later ones win.
_GROUPS = """
    PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
    FrameVOILUTSequence FrameContentSequence FrameAnatomySequence CardiacSynchronizationSequence
    DerivationImageSequence IrradiationEventIdentificationSequence
    MRImageFrameTypeSequence MRTimingAndRelatedParametersSequence MREchoSequence MRAveragesSequence
    MRFOVGeometrySequence MRModifierSequence MRImagingModifierSequence MRReceiveCoilSequence
    MRTransmitCoilSequence MRDiffusionSequence
    CTImageFrameTypeSequence CTAcquisitionDetailsSequence CTTableDynamicsSequence CTPositionSequence
    CTGeometrySequence CTReconstructionSequence CTExposureSequence CTXRayDetailsSequence"""

#: What a converter found no functional group for: these never speak against the ones above.
_UNASSIGNED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")

#: Groups that say where voxels are and what they mean, and why an image is refused that has not just one item of them.
_ONE_ITEM = {
    "PixelMeasuresSequence": ReasonCode.NO_GEOMETRY,
    "PlanePositionSequence": ReasonCode.NO_GEOMETRY,
    "PlaneOrientationSequence": ReasonCode.NO_GEOMETRY,
    "PixelValueTransformationSequence": ReasonCode.BAD_RESCALE,
}

#: What only a functional group may say of an enhanced frame: the top of the object does not speak for it.
_ONLY_IN_GROUPS = """PixelSpacing SliceThickness SpacingBetweenSlices ImagePositionPatient ImageOrientationPatient
    RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth"""
ONLY_IN_GROUPS = frozenset(Tag(keyword) for keyword in _ONLY_IN_GROUPS.split())

#: What no functional group may change.
_IDENTITY_KEYWORDS = """SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality"""
_IDENTITY = frozenset(Tag(keyword) for keyword in _IDENTITY_KEYWORDS.split())

#: Name in the functional group, name in the classic image; where value representations differ, numbers are converted.
_RENAMED = {
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameComments": "ImageComments",
    "FrameLaterality": "ImageLaterality",
    "TemporalPositionIndex": "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "RRIntervalTimeNominal": "NominalInterval",
    "EffectiveEchoTime": "EchoTime",
    "InversionTimes": "InversionTime",
    "TransmitterFrequency": "ImagingFrequency",
    "MRAcquisitionPhaseEncodingStepsInPlane": "NumberOfPhaseEncodingSteps",
    "PulseSequenceName": "SequenceName",
    "ResonantNucleus": "ImagedNucleus",
    "ExposureTimeInms": "ExposureTime",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureInmAs": "Exposure",
}

_REORDERED = ("CENTRIC", "SEGMENTED", "REVERSE_LINEAR", "REVERSE_CENTRIC")

#: Terms of the MR Pulse Sequence, MR Modifier and other modules, and the classic terms of the same meaning
#: (PS3.3 C.8.13 and C.8.3.1): classic attribute, enhanced attribute, its values, classic term.
_MR_TERMS = (
    ("ScanningSequence", "EchoPulseSequence", ("SPIN", "BOTH"), "SE"),
    ("ScanningSequence", "EchoPulseSequence", ("GRADIENT", "BOTH"), "GR"),
    ("ScanningSequence", "InversionRecovery", ("YES",), "IR"),
    ("ScanningSequence", "EchoPlanarPulseSequence", ("YES",), "EP"),
    ("SequenceVariant", "SegmentedKSpaceTraversal", ("PARTIAL", "FULL"), "SK"),
    ("SequenceVariant", "MagnetizationTransfer", ("ON_RESONANCE", "OFF_RESONANCE"), "MTC"),
    ("SequenceVariant", "SteadyStatePulseSequence", ("FREE_PRECESSION", "TRANSVERSE", "LONGITUDINAL"), "SS"),
    ("SequenceVariant", "SteadyStatePulseSequence", ("TIME_REVERSED",), "TRSS"),
    ("SequenceVariant", "Spoiling", ("RF", "GRADIENT", "RF_AND_GRADIENT"), "SP"),
    ("SequenceVariant", "OversamplingPhase", ("2D", "3D", "2D_3D"), "OSP"),
    ("ScanOptions", "RectilinearPhaseEncodeReordering", _REORDERED, "PER"),
    ("ScanOptions", "PartialFourierDirection", ("FREQUENCY",), "PFF"),
    ("ScanOptions", "PartialFourierDirection", ("PHASE",), "PFP"),
    ("ScanOptions", "FlowCompensation", ("ACCELERATION", "VELOCITY", "OTHER"), "FC"),
    ("ScanOptions", "SpatialPresaturation", ("SLAB",), "SP"),
    ("ScanOptions", "SpectrallySelectedSuppression", ("FAT", "FAT_AND_WATER"), "FS"),
)

#: Dimensions along which the frames of one volume lie.
_WITHIN_VOLUME = {str(Tag(k)) for k in ("InStackPositionNumber", "ImagePositionPatient", "StackID", "SliceLocation")}

_LOCAL_DATE_TIME = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)")


def add_functional_groups(header: Dataset, shared: Dataset, per_frame: Dataset) -> None:
    """Give ``header``, a copy of the object's top level, what the functional groups say, in the classic places.

    Args:
        header: changed in place; its SOP class is CT or MR Image Storage already, ``ONLY_IN_GROUPS`` are not in it.
        shared: item of Shared Functional Groups Sequence.
        per_frame: item of Per-Frame Functional Groups Sequence.
    """
    for groups, keyword in zip((shared, per_frame), _UNASSIGNED, strict=True):
        for item, tag in _attributes(groups, keyword):
            if tag.group != 0x0028 or tag not in header:
                carry(header, item, tag)
    for groups in (shared, per_frame):
        if _sequence(groups, "RealWorldValueMappingSequence"):  # of classic images too it may have several items
            carry(header, groups, Tag("RealWorldValueMappingSequence"))
        for keyword in _GROUPS.split():
            if groups is shared and keyword in _ONE_ITEM and keyword in per_frame:
                continue  # the frame's own group holds as a whole
            for item, tag in _attributes(groups, keyword):
                carry(header, item, tag)
    for enhanced, classic in _RENAMED.items():
        _rename(header, enhanced, classic)
    _set_image_type(header)
    _set_acquisition_time(header)
    _set_dimensions(header)
    _set_contrast(header)
    if header.SOPClassUID == MRImageStorage:
        _set_diffusion(header)
        _set_mr_terms(header)


def check_groups(shared: Dataset, per_frame: Sequence[Dataset]) -> None:
    """Refuse frames for which a group that gives geometry or rescale is there, but not once.

    Args:
        shared: item of Shared Functional Groups Sequence.
        per_frame: items of Per-Frame Functional Groups Sequence; where they have a group, the shared one is not valid.

    Raises:
        SourceError: ``NO_GEOMETRY`` or ``BAD_RESCALE``.
    """
    for keyword, reason in _ONE_ITEM.items():
        given = [groups if keyword in groups else shared for groups in per_frame]
        n_bad = sum(keyword in groups and len(_sequence(groups, keyword)) != 1 for groups in given)
        if n_bad:
            raise SourceError(
                f"{Tag(keyword)} '{dictionary_description(keyword)}' has no item or several in {n_bad} of "
                f"{len(per_frame)} frames, where 1 is needed: it is uncertain which holds. Export the series again.",
                reason,
            )


def carry(header: Dataset, source: Dataset, tag: BaseTag) -> None:
    """Take over an element as it is, not parsed; a damaged one is left out."""
    with suppress(Exception):
        header[tag] = source.get_item(tag)


def put(header: Dataset, keyword: str, value: object) -> None:
    """Set an attribute in a new element: the one of before may be shared with the headers of other frames."""
    header[Tag(keyword)] = DataElement(Tag(keyword), dictionary_VR(keyword), value)


def _attributes(groups: Dataset, keyword: str) -> list[tuple[Dataset, BaseTag]]:
    """What a functional group of one item says that may stand in a classic image: the item, and the tags in it."""
    items = _sequence(groups, keyword)
    if len(items) != 1:
        return []
    return [(items[0], tag) for tag in items[0].keys() if tag not in _IDENTITY and not tag.is_private]  # noqa: SIM118


def _sequence(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; none where it is missing or damaged."""
    try:
        return list(dataset.get(keyword) or [])
    except Exception:
        return []


def _rename(header: Dataset, enhanced: str, classic: str) -> None:
    source, target = Tag(enhanced), Tag(classic)
    if source not in header:
        return
    try:
        vr = dictionary_VR(target)
        element = cast("DataElement | RawDataElement", header.get_item(source))
        if vr == dictionary_VR(source) and isinstance(element, RawDataElement):
            header[target] = element._replace(tag=target)
        else:
            header[target] = DataElement(target, vr, _converted(header[source].value, vr))
    except Exception:
        return  # no number, or several where a classic image has one: there is no classic form of it


def _converted(value: object, vr: str) -> object:
    if value in (None, ""):
        return None
    if vr == "DS":
        return DSfloat(float(value), auto_format=True)  # type: ignore[arg-type]
    if vr == "IS":
        return round(float(value))  # type: ignore[arg-type]
    return str(value)


def _set_image_type(header: Dataset) -> None:
    """Frame Type, four values, of which CT needs AXIAL as the third (PS3.3 C.8.2.1.1.1)."""
    values = [part for part in text(header, "FrameType").split("\\") if part]
    if len(values) < 3:
        return
    if values[3:] == ["NONE"]:
        values.pop()
    if header.SOPClassUID == CTImageStorage and values[2] not in ("AXIAL", "LOCALIZER"):
        values.insert(2, "AXIAL")
    put(header, "ImageType", values)


def _set_acquisition_time(header: Dataset) -> None:
    """Date and time apart; a time that names a zone of its own stays only where the zone can be named."""
    found = _LOCAL_DATE_TIME.fullmatch(text(header, "FrameAcquisitionDateTime"))
    if found:
        put(header, "AcquisitionDate", found[1])
        put(header, "AcquisitionTime", found[2])


def _set_dimensions(header: Dataset) -> None:
    """Leave in Dimension Index Values what may distinguish volumes."""
    values = text(header, "DimensionIndexValues").split("\\")
    pointers = [text(item, "DimensionIndexPointer") for item in _sequence(header, "DimensionIndexSequence")]
    if "DimensionIndexValues" in header:
        del header.DimensionIndexValues
    if len(pointers) == len(values):
        kept = [int(v) for v, p in zip(values, pointers, strict=True) if p not in _WITHIN_VOLUME and v.isdecimal()]
        if kept:
            put(header, "DimensionIndexValues", kept)


def _set_contrast(header: Dataset) -> None:
    """Contrast/Bolus Agent, which the classic module needs, in the words of the codes (PS3.3 C.7.6.4)."""
    agents = _sequence(header, "ContrastBolusAgentSequence")
    if agents and "ContrastBolusAgent" not in header:
        names = ", ".join(filter(None, (text(item, "CodeMeaning") for item in agents)))
        put(header, "ContrastBolusAgent", names[:64])


def _set_diffusion(header: Dataset) -> None:
    directions = _sequence(header, "DiffusionGradientDirectionSequence")
    tag = Tag("DiffusionGradientOrientation")
    if len(directions) == 1 and tag in directions[0]:
        carry(header, directions[0], tag)


def _set_mr_terms(header: Dataset) -> None:
    if text(header, "InPlanePhaseEncodingDirection") == "COLUMN":
        put(header, "InPlanePhaseEncodingDirection", "COL")
    elif text(header, "InPlanePhaseEncodingDirection") == "OTHER":
        del header.InPlanePhaseEncodingDirection
    for classic in ("ScanningSequence", "SequenceVariant", "ScanOptions"):
        rows = [row for row in _MR_TERMS if row[0] == classic and text(header, row[1])]
        terms = [term for _, enhanced, values, term in rows if text(header, enhanced) in values]
        if rows and classic == "SequenceVariant":
            terms = terms or ["NONE"]
        if terms and not text(header, classic):
            put(header, classic, terms)

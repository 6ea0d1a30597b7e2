"""The header of one derived image: what the table keeps of the source, and what is new.

Text is carried over as the bytes that the source holds: no character set is decoded and encoded again.
Pixels, and the attributes that depend on them, belong to :mod:`monai_ldmsr.io.derived_series`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from monai_ldmsr.choices import FORCED
from monai_ldmsr.geometry import Factors, ResultGrid
from monai_ldmsr.io.copied_attributes import copied
from monai_ldmsr.io.derived_attributes import empty_when_missing, kept_keywords
from monai_ldmsr.io.derived_slices import DerivedSlices, set_place
from monai_ldmsr.io.dicom_header import CLASSIC, sop_instance, text
from monai_ldmsr.io.enhanced_multiframe import FrameHeader
from monai_ldmsr.io.patient_position import set_pet_orientation
from monai_ldmsr.io.series_labels import result_description, result_number
from monai_ldmsr.io.value_meaning import carry_private_scales
from monai_ldmsr.slice_plan import SlicePlan

__all__ = [
    "RESEARCH_MARK",
    "Derivation",
    "SharedHeader",
    "derived_header",
    "named_uid",
    "shared_header",
]

RESEARCH_MARK = "Research only, not for diagnosis."

_NAMESPACE = uuid.UUID("5a1b3c4e-7d6f-5e2a-9b8c-6c646d737200")

_SOP_CLASSES = {modality: uid for uid, modality in CLASSIC.items()}

#: Transfer syntaxes that may lose information, and the method's defined term (PS3.3 C.7.6.1.1.5.1).
_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    JPEG2000MC: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}

#: Length that the value representation ST allows.
_MAX_DERIVATION = 1024


@dataclass(frozen=True)
class Derivation:
    """What made the result; reaches the DICOM header, so it holds no patient data.

    Args:
        factor: how many times finer the result is, as ``ResultGrid.of`` takes it.
        method: name of the method, for example ``"conditional latent diffusion super-resolution"``.
        software_version: version of this package.
        weights_sha256: identity of the model, 64 hexadecimal digits.
        seed: seed of the random numbers; None where none are drawn.
        settings: everything else that changes the result, by name.
        made_at: time of the result, with its time zone; now when None. Has no part in the UIDs.
        series_number: Series Number of the result, from which several volumes of a series count up; None: the usual.
        series_description: Series Description of the result, without what distinguishes volumes; None: the usual.
        transfer_syntax: in which of ``TRANSFER_SYNTAXES`` it is written; has no part in the UIDs.
        dicom_form: ``classic``, an object for each slice, or ``enhanced``, one for all of them.
        changed: names of settings that differ from the bundle's own.
        plan: how the result's slices were made, where they are others than the source's.
    """

    factor: ResultGrid | Factors | int
    method: str
    software_version: str
    weights_sha256: str
    seed: int | None
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    made_at: datetime | None = None
    series_number: int | None = None
    series_description: str | None = None
    transfer_syntax: str = "explicit"
    dicom_form: str = "classic"
    changed: tuple[str, ...] = ()
    plan: SlicePlan | None = None

    @property
    def grid(self) -> ResultGrid:
        """How the result's grid lies on its source's."""
        given = ResultGrid.of(self.factor)
        return given if self.plan is None else self.plan.grid(given.factors)

    @property
    def factors(self) -> Factors:
        """How many times finer it is along each axis."""
        return self.grid.factors

    @property
    def in_plane(self) -> Factors:
        """How many times finer it is within slices."""
        return Factors.of(self.factors.in_plane)

    def words(self, within: str = "") -> str:
        """How much finer it is, within slices and along the stack.

        Args:
            within: what is said behind the factor within slices.
        """
        if self.plan is None:
            return f"x{self.factors}{within}"
        along = f"slices {self.plan.spacing_mm:.4g} -> {self.plan.new_spacing_mm:.4g} mm"
        return along if self.in_plane == Factors(1, 1) else f"x{self.in_plane}{within}, {along}"


@dataclass(frozen=True)
class SharedHeader:
    """What all images of one derived series share.

    Args:
        derivation: what made them.
        modality: ``CT``, ``MR`` or ``PT``.
        series_instance_uid: the new one.
        number: Series Number.
        description: Series Description.
        slices: where its images lie on those of the source.
        counts_down: whether Instance Number falls along the normal.
        made_at: time of the result, in the time zone that the source names.
    """

    derivation: Derivation
    modality: str
    series_instance_uid: str
    number: int
    description: str
    slices: DerivedSlices
    counts_down: bool
    made_at: datetime


def shared_header(
    slices: DerivedSlices,
    source_names: Sequence[str],
    modality: str,
    derivation: Derivation,
    volume: tuple[int, str] = (0, ""),
) -> SharedHeader:
    """Choose what the derived images of ``slices`` share; the source's first header speaks for the series.

    ``source_names`` identify the source images, and the values of the result; ``volume`` is the number in its series,
    and its label.
    """
    first, plan = slices.headers[0], derivation.plan
    factors, (place, label) = derivation.in_plane, volume
    stored = first.get("SeriesNumber")
    source_number = None if stored in (None, "") else int(stored)
    number = result_number(
        source_number, int(factors.i), place, derivation.series_number, None if plan is None else plan.factor
    )
    is_forced = FORCED in derivation.settings
    description = result_description(
        _text(first, "SeriesDescription"),
        str(factors),
        label,
        derivation.series_description,
        is_forced,
        None if plan is None else plan.new_spacing_mm,
    )
    # What is written under a UID stays the same; the usual number and text follow from the source.
    is_usual = not place and derivation.series_number is None and derivation.series_description is None
    identity = json.dumps(
        [
            str(first.get("SeriesInstanceUID", "")),
            list(source_names),
            derivation.weights_sha256,
            sorted((key, repr(value)) for key, value in derivation.settings.items()),
            [str(derivation.grid), derivation.method, derivation.software_version],
            derivation.seed,
            *(() if is_usual else (number, description)),
            *derivation.changed,
            *(
                ()
                if plan is None
                else (plan.places.number, round(plan.places.first, 6), sorted(plan.described().items()))
            ),
        ]
    )
    return SharedHeader(
        derivation=derivation,
        modality=modality,
        series_instance_uid=named_uid("series", identity),
        number=number,
        description=description,
        slices=slices,
        counts_down=_counts_down(slices.headers),
        made_at=_made_at(first, derivation.made_at),
    )


def named_uid(*names: str) -> str:
    """``2.25.`` and the UUID version 5 of ``names`` (PS3.5 B.2): the same names give the same UID."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(names)).int}"


def derived_header(index: int, shared: SharedHeader) -> Dataset:
    """Build the header of derived image ``index`` (from 0, along the normal) from its nearest source image.

    Rows, Columns, PET rescale, pixel extremes and Pixel Data are still to be set.
    """
    source = shared.slices.nearest(index)
    header = copied(source, kept_keywords(shared.modality))
    for keyword, module in empty_when_missing(shared.modality):
        if keyword not in header and (not module or any(other in header for other in module)):
            setattr(header, keyword, [] if dictionary_VR(keyword) == "SQ" else None)
    carry_private_scales(header, source, shared.modality)
    _set_identity(header, source, index, shared)
    _set_times(header, shared)
    set_place(header, index, shared.slices, shared.modality)
    _set_provenance(header, source, shared.slices.sources(index), shared.derivation)
    _set_lossy_compression(header, source)
    if shared.modality == "PT":
        set_pet_orientation(header, text(source, "PatientPosition"))
        _set_pet_indices(header, len(shared.slices))
    elif "PatientOrientationCodeSequence" not in header and "PatientPosition" in source:
        header.PatientPosition = source.PatientPosition
    header.HighBit = int(header.BitsStored) - 1
    return header


def _set_identity(header: Dataset, source: Dataset, index: int, shared: SharedHeader) -> None:
    header.SOPClassUID = _SOP_CLASSES[shared.modality]
    header.Modality = shared.modality  # some sources write it in small letters
    header.SOPInstanceUID = named_uid("image", shared.series_instance_uid, str(index))
    header.SeriesInstanceUID = shared.series_instance_uid
    header.SeriesNumber = shared.number
    header.SeriesDescription = shared.description
    header.InstanceNumber = len(shared.slices) - index if shared.counts_down else index + 1
    header.ImageType = _image_type(source, shared.modality)
    header.ContentQualification = "RESEARCH"
    if source.get("SyntheticData") == "YES":
        header.SyntheticData = "YES"


def _image_type(source: Dataset, modality: str) -> list[str]:
    """Values 1 and 2 say DERIVED; CT and MR need a value 3, which a source may lack."""
    stored = source.get("ImageType") or []
    further = list(stored)[2:] if isinstance(stored, MultiValue) else []
    if modality == "PT":
        return ["DERIVED", "PRIMARY", *further]
    return ["DERIVED", "SECONDARY", *(further or [{"CT": "AXIAL", "MR": "OTHER"}[modality]])]


def _counts_down(headers: Sequence[Dataset]) -> bool:
    """Whether the source's Instance Numbers fall along the normal: by them, viewers scroll both series alike."""
    try:
        numbers = [int(header.InstanceNumber) for header in headers]
    except (AttributeError, TypeError, ValueError):  # missing, empty or no number
        return False
    return len(numbers) > 1 and all(later < earlier for earlier, later in pairwise(numbers))


def _text(source: Dataset, keyword: str) -> str:
    value = source.get(keyword)
    return "\\".join(value) if isinstance(value, MultiValue) else str(value or "")


def _made_at(source: Dataset, given: datetime | None) -> datetime:
    """Time of day where the source's Timezone Offset From UTC says it was made, else as given, else here."""
    try:
        zone = datetime.strptime(_text(source, "TimezoneOffsetFromUTC").strip(), "%z").tzinfo
    except ValueError:
        zone = None
    if given is None:
        return datetime.now(zone)
    return given if zone is None else given.astimezone(zone)


def _set_times(header: Dataset, shared: SharedHeader) -> None:
    date, time = shared.made_at.strftime("%Y%m%d"), shared.made_at.strftime("%H%M%S.%f")
    header.InstanceCreationDate, header.InstanceCreationTime = date, time
    header.ContentDate, header.ContentTime = date, time
    if shared.modality != "PT":  # in PET the series time is the reference of the decay correction
        header.SeriesDate, header.SeriesTime = date, time


def _set_provenance(header: Dataset, source: Dataset, made_of: Sequence[Dataset], derivation: Derivation) -> None:
    """Say in codes and in words where the image comes from and that it is for research."""
    references = [_reference(one, str(header.SOPClassUID)) for one in made_of if sop_instance(one)]
    if references:
        header.SourceImageSequence = references
    header.DerivationCodeSequence = [
        *(copied(item) for item in source.get("DerivationCodeSequence") or []),
        CodedConcept("113085", "DCM", "Spatial resampling"),
    ]
    header.DerivationDescription = _derivation_description(source, derivation)
    header.ContributingEquipmentSequence = [
        *(copied(item) for item in source.get("ContributingEquipmentSequence") or []),
        _equipment(derivation),
    ]
    header.ImageComments = "\n".join(filter(None, [RESEARCH_MARK, _text(source, "ImageComments")]))


def _reference(source: Dataset, class_uid: str) -> Dataset:
    """Item of Source Image Sequence."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = class_uid
    reference.ReferencedSOPInstanceUID = sop_instance(source)
    if isinstance(source, FrameHeader):
        reference.ReferencedSOPClassUID = source.object_class
        reference.ReferencedFrameNumber = source.frame_number
    purpose = CodedConcept("121322", "DCM", "Source image for image processing operation")
    reference.PurposeOfReferenceCodeSequence = [purpose]
    return reference


def _equipment(derivation: Derivation) -> Dataset:
    """Item of Contributing Equipment Sequence: this software with these weights."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [CodedConcept("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = "monai_ldmsr"
    item.ManufacturerModelName = "ldmsr"
    item.SoftwareVersions = derivation.software_version
    item.DeviceUID = named_uid("weights", derivation.weights_sha256)
    item.ContributionDescription = f"Super-resolution {derivation.words()}. {RESEARCH_MARK}"
    return item


def _derivation_description(source: Dataset, derivation: Derivation) -> str:
    """Our step after the earlier ones; where 1024 characters are too few, the earlier ones are cut."""
    settings = ", ".join(f"{key}={value}" for key, value in sorted(derivation.settings.items()))
    step = (
        f"monai_ldmsr {derivation.software_version}: {derivation.words(' in-plane')}{_profile(derivation)}, "
        f"{derivation.method}; "
        f"weights sha256 {derivation.weights_sha256}"
    )
    step = step if derivation.seed is None else f"{step}; seed {derivation.seed}"
    step = f"{step}; {settings}" if settings else step
    step = f"{step}; not the bundle's own: {', '.join(derivation.changed)}" if derivation.changed else step
    step = f"{step}. {RESEARCH_MARK}"
    step = step.encode("ascii", "replace").decode("ascii")[:_MAX_DERIVATION]
    earlier = _text(source, "DerivationDescription")[: max(0, _MAX_DERIVATION - len(step) - 1)]
    return f"{earlier}\n{step}" if earlier else step


def _profile(derivation: Derivation) -> str:
    """By what profile new slices were made; whoever judges them must know that it was assumed."""
    plan = derivation.plan
    if plan is None:
        return ""
    return f", {plan.profile} profile {plan.thickness_mm:.4g} mm{' (no header says it)' if plan.is_assumed else ''}"


def _set_lossy_compression(header: Dataset, source: Dataset) -> None:
    """Admit a lossy source whose header does not."""
    syntax: UID | None = getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID")
    if syntax in _LOSSY_METHODS and not source.get("LossyImageCompression"):
        header.LossyImageCompression = "01"
        header.LossyImageCompressionMethod = _LOSSY_METHODS[syntax]


def _set_pet_indices(header: Dataset, n_slices: int) -> None:
    """Number the slices again: the result holds one time slice and one gate (PS3.3 C.8.9.1, C.8.9.4.1.9)."""
    header.ImageIndex = header.InstanceNumber
    header.NumberOfSlices = n_slices
    series_type = header.get("SeriesType") or [""]
    kind = series_type[0] if isinstance(series_type, MultiValue) else series_type
    if kind == "DYNAMIC":
        header.NumberOfTimeSlices = 1
    if kind == "GATED":
        header.NumberOfRRIntervals = header.NumberOfTimeSlots = 1

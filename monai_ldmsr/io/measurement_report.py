"""Write figures of a result as a Structured Report (TID 1500) beside the derived series."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes

from monai_ldmsr.io.derived_header import named_uid
from monai_ldmsr.io.derived_objects import (
    DerivedImages,
    ObjectKind,
    identity,
    own_concept,
    quietly_made,
    unit_code,
    write_deflated,
)

__all__ = ["Figure", "write_measurements"]

_KIND = ObjectKind("measurements", 4, "Figures of")

#: UCUM's codes of figures that have another unit than the source.
_UNITS = {"": codes.UCUM.NoUnits, "%": codes.UCUM.Percent}


@dataclass(frozen=True)
class Figure:
    """One number.

    Args:
        code: name of the concept in our own coding scheme, of at most 16 characters.
        meaning: what it is, of at most 64.
        value: the number.
        unit: unit of the source, ``%``, or empty for none.
    """

    code: str
    meaning: str
    value: float
    unit: str = ""


def write_measurements(images: DerivedImages, figures: Sequence[Figure], path: Path) -> None:
    """Write ``figures`` as one group of measurements of the derived series.

    Args:
        images: the derived images, to which the report refers.
        figures: what was measured, in order.
        path: file to write.

    Raises:
        OutputError: the report cannot be made or written.
    """
    first = images.first
    equipment = first.ContributingEquipmentSequence[-1]
    with quietly_made("structured report"):
        own = identity(images, _KIND, hashlib.sha256(repr(figures).encode()).hexdigest())
        tool = AlgorithmIdentification(
            f"{equipment.Manufacturer} {equipment.ManufacturerModelName}",
            str(equipment.SoftwareVersions),
            [f"weights {equipment.DeviceUID}"],
        )
        found = [
            Measurement(
                name=own_concept(one.code, one.meaning),
                value=float(f"{one.value:.6g}"),
                unit=_UNITS[one.unit] if one.unit in _UNITS else unit_code(one.unit),
            )
            for one in figures
        ]
        group = MeasurementsAndQualitativeEvaluations(
            TrackingIdentifier(named_uid("result", str(own["sop_instance_uid"])), "Super-resolved series"),
            measurements=found,
            source_images=[SourceImageForMeasurementGroup.from_source_image(one) for one in images.headers],
            algorithm_id=tool,
        )
        observer = ObserverContext(codes.DCM.Device, DeviceObserverIdentifyingAttributes(uid=str(equipment.DeviceUID)))
        procedure = CodedConcept("P0-0099A", "SRT", "Imaging procedure")
        content = MeasurementReport(
            ObservationContext(observer_device_context=observer), procedure, imaging_measurements=[group]
        )
        made = Comprehensive3DSR(list(images.headers), content[0], **own, is_complete=True)
        write_deflated(made, images, path)

"""What gives stored values a meaning beyond slope and intercept: kept where it stays true, else reported as lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

from pydicom import Dataset
from pydicom.datadict import private_dictionary_VR
from pydicom.tag import BaseTag

__all__ = ["PRIVATE_SCALES", "carry_private_scales", "lost_meaning", "may_be_scale"]

#: Private numbers by which values are multiplied after slope and intercept, or which go with a stored scale that a
#: result keeps: modality, creator, group, elements, and what they are. Plain numbers: they say nothing of a patient.
#: Those of PET stand among the safe private attributes of PS3.15 (table E.3.10-1).
PRIVATE_SCALES = (
    ("PT", "Philips PET Private Group", 0x7053, (0x00, 0x09), "SUV and activity concentration factors"),
    ("MR", "Philips MR Imaging DD 001", 0x2005, (0x0D, 0x0E), "scale intercept and slope"),
)


def may_be_scale(tag: BaseTag) -> bool:
    """Whether a private tag may belong to :data:`PRIVATE_SCALES`, in whichever block, or reserve a block for them."""
    return any(
        tag.group == group and (tag.is_private_creator or tag.element & 0xFF in elements)
        for _, _, group, elements, _ in PRIVATE_SCALES
    )


def carry_private_scales(header: Dataset, source: Dataset, modality: str) -> None:
    """Give a derived header the :data:`PRIVATE_SCALES` of its source; what is no number is left out."""
    for of, creator, group, elements, _ in PRIVATE_SCALES:
        for element in elements if modality == of else ():
            number = _private_number(source, creator, group, element)
            if number is not None:
                vr = private_dictionary_VR((group, 0x1000 + element), creator)
                header.private_block(group, creator, create=True).add_new(element, vr, number)


def lost_meaning(headers: Sequence[Dataset], modality: str) -> list[str]:
    """Warnings of what the headers of a source's images say about its values that cannot be said of the result's."""
    warnings = []
    n_mapped = sum("RealWorldValueMappingSequence" in header for header in headers)
    if modality == "PT" and n_mapped:
        warnings.append(
            f"{n_mapped} images have a (0040,9096) 'Real World Value Mapping Sequence', which maps stored values. A "
            "PET result is stored with a slope of its own, so it is left out. Take the mapping from the source."
        )
    for of, creator, group, elements, what in PRIVATE_SCALES:
        places = [(header, element) for header in headers for element in elements if modality == of]
        n_bad = sum(
            _has_private(header, creator, group, element) and _private_number(header, creator, group, element) is None
            for header, element in places
        )
        if n_bad:
            warnings.append(f"{n_bad} private elements of '{creator}' ({what}) are no numbers: left out.")
    return warnings


def _has_private(source: Dataset, creator: str, group: int, element: int) -> bool:
    try:
        return element in source.private_block(group, creator)
    except Exception:
        return False


def _private_number(source: Dataset, creator: str, group: int, element: int) -> float | None:
    """One finite number as the source writes it, or nothing."""
    with suppress(Exception):
        value = source.private_block(group, creator)[element].value
        if isinstance(value, float) and math.isfinite(value):
            return value
    return None

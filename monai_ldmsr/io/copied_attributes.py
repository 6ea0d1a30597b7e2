"""Attributes copied from one DICOM data set into another: text as the bytes that were read."""

from __future__ import annotations

from typing import cast

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import STR_VR, format_number_as_ds

__all__ = ["copied"]

#: Length that the value representation DS allows.
_MAX_DECIMAL = 16


def copied(source: Dataset, keywords: frozenset[str] | None = None) -> Dataset:
    """Copy the elements named by ``keywords``; without, all but private ones (for an item of a sequence)."""
    tags = source.keys() if keywords is None else (Tag(keyword) for keyword in keywords)
    target = Dataset()
    for tag in sorted(tag for tag in tags if tag in source and not tag.is_private):
        target[tag] = _copied_element(source, tag)
    # Raw elements are written byte by byte only where the data set claims to be read in the written encoding.
    character_set = target.get("SpecificCharacterSet")
    encoding = convert_encodings(character_set) if character_set else default_encoding
    target.set_original_encoding(is_implicit_vr=False, is_little_endian=True, character_encoding=encoding)
    return target


def _copied_element(source: Dataset, tag: BaseTag) -> DataElement | RawDataElement:
    """Copy one element: strings as the bytes that were read, sequences item by item."""
    element = cast("DataElement | RawDataElement", source.get_item(tag))
    is_unknown = element.VR in (None, "UN") and dictionary_has_tag(tag)
    vr = dictionary_VR(tag) if is_unknown else element.VR
    if vr == "DS":
        return _raw(tag, vr, _decimal_string(element))
    if isinstance(element, RawDataElement) and vr in STR_VR and isinstance(element.value, bytes):
        return _raw(tag, vr, element.value)
    element = source[tag]
    if element.VR == "SQ":
        return DataElement(tag, "SQ", [copied(item) for item in element.value])
    return DataElement(tag, element.VR, element.value)


def _raw(tag: BaseTag, vr: str, value: bytes) -> RawDataElement:
    """Element whose ``value`` is written as it is, padded to even length."""
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    return RawDataElement(tag, vr, len(value), value, 0, is_implicit_VR=False, is_little_endian=True)


def _decimal_string(element: DataElement | RawDataElement) -> bytes:
    """Bytes of a DS element, each number cut to the 16 characters that DS allows."""
    if isinstance(element, RawDataElement):
        stored = element.value or b""
    else:
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        stored = "\\".join("" if value is None else str(value) for value in values).encode("ascii")
    return b"\\".join(_short_decimal(number) for number in stored.split(b"\\"))


def _short_decimal(number: bytes) -> bytes:
    if len(number.strip(b" \0")) <= _MAX_DECIMAL:
        return number
    try:
        return format_number_as_ds(float(number)).encode("ascii")
    except ValueError:  # no number: left for the validator to find, as in the source
        return number

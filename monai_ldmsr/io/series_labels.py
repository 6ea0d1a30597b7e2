"""What distinguishes the volumes of one series, in a few words; Series Number and Series Description of their results.

All of it follows from the source series alone, so that a result has the same number whenever it is made. Words come
from technical attributes, never from free text about the patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.number_settings import said, whole_number

__all__ = [
    "VolumeTraits",
    "checked_description",
    "checked_number",
    "label_volumes",
    "result_description",
    "result_number",
]

#: Words for a number, by keyword.
_MEASURED = {
    "EchoTime": "TE {} ms",
    "EchoNumbers": "echo {}",
    "DiffusionBValue": "b {}",
    "TemporalPositionIdentifier": "phase {}",
    "InversionTime": "TI {} ms",
    "TriggerTime": "trigger {} ms",
    "FrameReferenceTime": "time {} ms",
    "AcquisitionNumber": "acquisition {}",
    "KVP": "{} kV",
}

#: Words for a defined term; several terms stand in one attribute.
_NAMED = {"ImageType": "{}", "ComplexImageComponent": "{}", "ConvolutionKernel": "kernel {}"}

#: Words for the place in the order of all values, where the value itself says nothing to a reader.
_COUNTED = {
    "DiffusionGradientOrientation": "direction {}",
    "AcquisitionTime": "time point {}",
    "DimensionIndexValues": "dimension {}",
    "object_uid": "object {}",
}

_MAX_DESCRIPTION = 64
_MAX_INTEGER_STRING = 2**31 - 1
_NUMBER_WHEN_MISSING = 90

#: Room for the volumes of one series behind its number.
_LEAST_PLACES = 1000


@dataclass(frozen=True)
class VolumeTraits:
    """What one volume of a series has that others may not have.

    Args:
        owner: volumes of several patients or studies under one Series Instance UID do not count each other.
        grid: grid of its images, sortable; equal in volumes that lie on each other.
        cosines: six, of its images; empty when not known.
        values: by keyword, values that distinguish it from the volumes on its grid.
        uid: sorts what nothing else does.
    """

    owner: str
    grid: tuple[Any, ...]
    cosines: tuple[float, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""


def label_volumes(traits: Sequence[VolumeTraits]) -> list[tuple[int, str]]:
    """Number from 1 and words for each volume of a series; 0 and nothing for one that is alone.

    Example:
        >>> echoes = [VolumeTraits("", (), values={"EchoTime": text}) for text in ("10.5", "4.60")]
        >>> label_volumes(echoes)
        [(2, 'TE 10.5 ms'), (1, 'TE 4.6 ms')]
    """
    labels: dict[int, tuple[int, str]] = {}
    for owner in {one.owner for one in traits}:
        places = [n for n, one in enumerate(traits) if one.owner == owner]
        own = [traits[n] for n in places]
        words = _words(own)
        order = sorted(range(len(own)), key=lambda n: (own[n].grid, _sortable(own[n]), own[n].uid))
        for number, n in enumerate(order, start=1):
            is_unique = words[n] and words.count(words[n]) == 1
            label = words[n] if is_unique else f"{words[n]} volume {number}".strip()
            labels[places[n]] = (number, label) if len(own) > 1 else (0, "")
    return [labels[n] for n in range(len(traits))]


def result_number(
    source: int | None, factor: int, volume: int = 0, given: int | None = None, slice_factor: float | None = None
) -> int:
    """Series Number of a result: next to the source in a sorted list, as ``401`` and ``40102``.

    Args:
        source: Series Number of the source, None when it has none.
        factor: factor of super-resolution.
        volume: number among the volumes of the series, 0 when alone.
        given: number that the user gave; volumes count up from it.
        slice_factor: how many times finer slices lie than the source's; None where they are the source's.

    Example:
        >>> result_number(401, 2), result_number(401, 2, volume=3), result_number(401, 2, 3, given=9000)
        (40102, 40102003, 9002)
        >>> result_number(401, 2, slice_factor=5.2), result_number(401, 1, slice_factor=5.2)
        (40152, 40151)
    """
    if given is not None:
        return given + max(volume - 1, 0)
    for number in (_NUMBER_WHEN_MISSING if source is None else source, _NUMBER_WHEN_MISSING):
        result = 100 * number + factor + 10 * round(slice_factor or 0)
        if volume:
            result = result * max(_LEAST_PLACES, 10 ** len(str(volume))) + volume
        if 0 <= result <= _MAX_INTEGER_STRING:
            break
    return result


def result_description(
    source: str,
    factor: str | int,
    label: str = "",
    given: str | None = None,
    forced: bool = False,
    slices_mm: float | None = None,
) -> str:
    """Series Description of a result, of at most 64 characters; what distinguishes volumes is never cut.

    Args:
        source: Series Description of the source.
        factor: factor of super-resolution.
        label: what distinguishes the volume from others of its series.
        given: text that the user gave, in place of all but the label and that it was forced.
        forced: whether the source lies outside of what the model was trained for.
        slices_mm: distance of its slices; None where they are the source's.

    Example:
        >>> result_description("t2_tse", 2, "TE 4.6 ms")
        'SR x2 (research) TE 4.6 ms t2_tse'
        >>> result_description("t2_tse", 2, slices_mm=1.2), result_description("t2_tse", 1, slices_mm=1.0)
        ('SR x2, 1.2 mm slices (research) t2_tse', 'SR 1 mm slices (research) t2_tse')
    """
    if forced and given is not None:
        label = f"forced {label}".strip()
    if given is not None:
        return f"{given[: _MAX_DESCRIPTION - len(label) - 1].strip()} {label}".strip() if label else given.strip()
    what = "" if str(factor) == "1" and slices_mm is not None else f"x{factor}"
    what = ", ".join(filter(None, (what, "" if slices_mm is None else f"{slices_mm:.3g} mm slices")))
    words = (f"SR {what} (research{', forced' if forced else ''})", label, source)
    return " ".join(filter(None, words))[:_MAX_DESCRIPTION].strip()


def checked_description(name: str, text: Any) -> str:
    """A Series Description that every study can hold, and that no config would execute.

    Raises:
        SettingsError: it is no text of 1 to 64 printable ASCII characters without backslash, ``$``, ``@`` and ``%``.
    """
    is_plain = isinstance(text, str) and text.isascii() and text.isprintable() and not set(text) & set("\\$@%")
    if is_plain and text.strip() and len(text) <= _MAX_DESCRIPTION:
        return str(text)
    raise SettingsError(
        f"{name} must be text of 1 to 64 letters, digits and signs of ASCII without backslash, $, @ and %: not every "
        "study has a character set for more."
    )


def checked_number(name: str, number: Any) -> int:
    """A Series Number that an integer string can hold.

    Raises:
        SettingsError: it is no whole number, below 0, or too large for the volumes of a series to count up from it.
    """
    found = whole_number(name, number)
    if found > _MAX_INTEGER_STRING - 10**6:
        raise SettingsError(f"{name} is {said(number)}; give 0 to {_MAX_INTEGER_STRING - 10**6}.")
    return found


def _words(own: Sequence[VolumeTraits]) -> list[str]:
    grids = sorted({one.grid for one in own})
    planes = {one.grid: _plane(one.cosines) for one in own}
    are_planes_unique = len(set(planes.values())) == len(grids)
    said = []
    for one in own:
        where = planes[one.grid] if are_planes_unique else f"grid {grids.index(one.grid) + 1}"
        parts = [where] if len(grids) > 1 else []
        parts += [_word(keyword, text, [other.values.get(keyword, "") for other in own]) for keyword, text in
                  one.values.items()]  # fmt: skip
        words = " ".join(parts)
        said.append(words if len(words) <= 40 else "")
    return said


def _word(keyword: str, text: str, all_texts: Sequence[str]) -> str:
    number = _numbers(text)
    if keyword in _MEASURED and number is not None and len(number) == 1:
        return _MEASURED[keyword].format(f"{number[0]:.3f}".rstrip("0").rstrip("."))
    if keyword in _MEASURED and not text:
        return _MEASURED[keyword].format("none")
    if keyword in _NAMED:
        # Of several terms those that not all volumes have.
        shared = set.intersection(*(set(other.split("\\")) for other in all_texts))
        term = " ".join(part for part in text.split("\\") if part not in shared)
        if re.fullmatch(r"[A-Za-z0-9 ._+-]{1,24}", term):
            return _NAMED[keyword].format(term)
    places = sorted(set(all_texts), key=_natural)
    return _COUNTED.get(keyword, "part {}").format(places.index(text) + 1)


def _plane(cosines: Sequence[float]) -> str:
    if len(cosines) != 6:
        return ""
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    normal = (abs(b * f - c * e), abs(c * d - a * f), abs(a * e - b * d))
    return ("sagittal", "coronal", "axial")[normal.index(max(normal))]


def _sortable(one: VolumeTraits) -> list[tuple[str, Any]]:
    return sorted((keyword, _natural(text)) for keyword, text in one.values.items())


def _natural(text: str) -> tuple[Any, ...]:
    """Numbers by their size, before texts."""
    numbers = _numbers(text)
    return (0, numbers, text) if numbers is not None else (1, (), text)


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return numbers if all(abs(number) < 1e12 for number in numbers) else None

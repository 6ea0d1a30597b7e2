"""Numbers as people and configs give them: ``2``, ``2.0`` and ``"2"`` are the same whole number."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from monai_ldmsr.errors import SettingsError

__all__ = ["BYTE_SUFFIXES", "byte_count", "real_number", "said", "whole_number", "yes_or_no"]

#: What a number of bytes may end in.
BYTE_SUFFIXES: dict[str, int] = {suffix: 2 ** (10 * n) for n, suffix in enumerate(("", *"KMGT"))}


def real_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number, which may be given as text.

    Args:
        name: name of the setting, for the message.
        value: the value that was given.
        low: the least that is possible.
        high: the greatest.

    Raises:
        SettingsError: it is none, or lies outside.

    Example:
        >>> real_number("detail", "0.5"), real_number("detail", 1)
        (0.5, 1.0)
    """
    number = _number(value)
    if number is None or not low <= number <= high:
        most = "" if math.isinf(high) else f" to {high:g}"
        least = "" if math.isinf(low) else f" from {low:g}{most}"
        raise SettingsError(f"{name} is {said(value)}; give a number{least}.")
    return float(number)


def whole_number(name: str, value: Any, low: int = 0, high: int = 2**63 - 1) -> int:
    """A whole number, which may be given as text or as a float without fraction.

    Raises:
        SettingsError: it is none, or outside ``low`` to ``high``.

    Example:
        >>> whole_number("factor", 2.0), whole_number("factor", "3")
        (2, 3)
    """
    number = _number(value)
    if number is None or number != int(number) or not low <= number <= high:
        most = "or more" if high >= 2**63 - 1 else f"to {high}"
        raise SettingsError(f"{name} is {said(value)}; give a whole number, {low} {most}.")
    return int(number)


def yes_or_no(name: str, value: Any) -> bool:
    """A truth value, which may be given as text or as 0 or 1.

    Raises:
        SettingsError: it is none.

    Example:
        >>> yes_or_no("force", "true"), yes_or_no("force", 0)
        (True, False)
    """
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    found = known.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if found is None:
        raise SettingsError(f"{name} is {said(value)}; give true or false.")
    return found


def byte_count(name: str, value: Any) -> int:
    """A whole number from 1, or any above 0 with K, M, G or T (times 1024, its square, ...), rounded up.

    Raises:
        SettingsError: it is none.

    Example:
        >>> byte_count("memory", "8G"), byte_count("memory", "1.5 GB"), byte_count("memory", 5)
        (8589934592, 1610612736, 5)
    """
    text = str(value).strip().upper()
    found = re.fullmatch(r"([0-9]{1,18})|([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([KMGT])(?:I?B)?", text, re.ASCII)
    number = None if found is None else Fraction(found[1] or found[2])
    if found is None or not number:
        raise SettingsError(
            f"{name} is {said(value)}; give a whole number from 1, such as 4000000, or with a unit of 1024, its square "
            "...: 500M, 1.5G (also K, T)."
        )
    return math.ceil(number * BYTE_SUFFIXES[found[3] or ""])


def said(value: Any) -> str:
    """The value where it is short and plain; a client of a server may have sent anything."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "too large"
    return repr(value) if re.fullmatch(r"[\w.+-]{0,20}", str(value)) else "nothing that can be used"


def _number(value: Any) -> float | None:
    """None for what is no finite number, and for floats of which not every neighbour is another whole number."""
    try:
        if isinstance(value, bool):
            return None
        number: float = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < (2**63 if isinstance(number, int) else 2**53) else None

"""Numbers as the report's page writes them: rounded, with their units, typeset."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

__all__ = ["NBSP", "count", "duration", "fixed", "number", "percent_part", "plain", "product", "typeset"]

#: Between a number and its unit, so that a line never breaks there.
NBSP = "\u00a0"
_NOT_MEASURED = "not measured"


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    r"""Round to significant digits, never into an exponent; whole numbers stay whole.

    Example:
        >>> number(0.012345), number(1234567), number(31.04159, "dB"), number(None)
        ('0.0123', '1\u202f234\u202f567', '31.0\xa0dB', 'not measured')
    """
    if value is None or not math.isfinite(value):
        return _NOT_MEASURED
    decimals = 0
    if value and not isinstance(value, int):
        exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
        decimals = max(0, digits - 1 - exponent)
    return typeset(f"{value:,.{decimals}f}", unit)


def fixed(value: float | None, decimals: int, unit: str = "", sign: str = "-") -> str:
    r"""Round to a fixed number of decimals, so that figures of a column or around 0 compare at a glance.

    Example:
        >>> fixed(39.386, 1, sign="+"), fixed(-0.00001, 2, "%")
        ('+39.4', '0.00\xa0%')
    """
    if value is None or not math.isfinite(value):
        return _NOT_MEASURED
    rounded = round(value, decimals)
    if rounded == 0:
        return typeset(f"{0:.{decimals}f}", unit)  # never "+0.00" or "-0.00"
    return typeset(f"{rounded:{sign},.{decimals}f}", unit)


def duration(seconds: float | None) -> str:
    r"""Word a duration as one reads it.

    Example:
        >>> duration(0.1234), duration(119.7), duration(None)
        ('0.12\xa0s', '2\xa0min 0\xa0s', 'not measured')
    """
    if seconds is None:
        return _NOT_MEASURED
    if seconds < 60:
        return number(seconds, "s", digits=2 if seconds < 10 else 3)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{NBSP}min {rest}{NBSP}s"


def percent_part(share: float) -> str:
    """Word a share in percent; all is said only of all."""
    percent = 100 * share
    return f"above {fixed(99.9, 1, '%')}" if 99.95 <= percent < 100 else fixed(percent, 1, "%")


def typeset(digits: str, unit: str = "") -> str:
    """Set the true minus, thin spaces between groups of digits, and the unit where no line can break."""
    return digits.replace(",", "\u202f").replace("-", "\u2212") + (NBSP + unit if unit else "")


def plain(value: Any) -> str:
    """Word a setting's value: yes and no, "automatic" for None, numbers of 6 digits at most, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "automatic"
    if isinstance(value, float):
        return typeset(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def product(sizes: Iterable[object], unit: str = "") -> str:
    """Word sizes along axes, with multiplication signs."""
    return typeset(f"{NBSP}\u00d7{NBSP}".join(str(size) for size in sizes), unit)


def count(n: int, noun: str) -> str:
    """Word how many there are, with the noun's plural where it needs one."""
    return f"{number(n)}{NBSP}{noun}" + ("" if n == 1 else "s")

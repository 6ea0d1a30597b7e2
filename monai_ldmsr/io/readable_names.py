"""Text of any script in letters that every file system, terminal and link takes."""

# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones are what this is about)
from __future__ import annotations

import re
import unicodedata

__all__ = ["readable"]

_LATIN = "ß ss æ ae œ oe ø o ł l đ d ð d þ th \u0131 i ħ h"  # \u0131: i without a dot
_CYRILLIC = (
    "а a б b в v г g д d е e ж zh з z и i й i к k л l м m н n о o п p р r с s т t у u ф f х kh ц ts ч ch ш sh щ shch "
    "ъ - ы y ь - э e ю yu я ya і i є ye ґ g"
)
_GREEK = "α a β b γ g δ d ε e ζ z η i θ th ι i κ k λ l μ m ν n ξ x ο o π p ρ r σ s τ t υ y φ f χ ch ψ ps ω o ς s"
_WORDS = f"{_LATIN} {_CYRILLIC} {_GREEK}".split()
_LETTERS = {letter: plain.strip("-") for letter, plain in zip(_WORDS[::2], _WORDS[1::2], strict=True)}


def readable(text: str, most: int = 48) -> str:
    """Letters, digits, dots, hyphens and underscores of ASCII that a person can read; cut in the middle where long.

    Latin letters lose their marks; Cyrillic and Greek are transliterated, letters of other scripts spelled by their
    names in Unicode, Chinese characters by their numbers; everything else becomes an underscore.

    Args:
        text: for instance a file's stem.
        most: length of the longest result.

    Example:
        >>> readable("Größe (2)"), readable("Москва"), readable("あ脳"), readable("sub-" + 60 * "0" + "_T1w", 24)
        ('Grosse_2', 'Moskva', 'au8133', 'sub-0000000--0000000_T1w')
    """
    plain = "".join(map(_ascii, unicodedata.normalize("NFC", text)))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")
    if len(plain) > most:
        half = (most - 2) // 2
        plain = f"{plain[:half]}--{plain[-half:]}"
    return plain


def _ascii(letter: str) -> str:
    if letter.isascii():
        return letter
    base = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    if base.isascii():
        return base
    known = _LETTERS.get(base.lower())
    if known is not None:
        return known.capitalize() if base.isupper() else known
    if not letter.isalnum():
        return "" if unicodedata.category(letter).startswith("M") else "_"
    name = re.search(r"(?:LETTER|SYLLABLE)(?: SMALL)? ([A-Z]+)", unicodedata.name(letter, ""))
    return name[1].lower() if name else f"u{ord(letter):x}"

"""In which transfer syntaxes DICOM results can be written; all of them keep every value."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from monai_ldmsr.errors import OutputError, SettingsError

__all__ = ["TRANSFER_SYNTAXES", "checked_syntax", "compress"]

#: By the name that users give.
TRANSFER_SYNTAXES: dict[str, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "jpeg-ls": JPEGLSLossless,
    "jpeg2000": JPEG2000Lossless,
    "rle": RLELossless,
}


def checked_syntax(name: str, value: Any) -> str:
    """Name of a transfer syntax that can be written here.

    Raises:
        SettingsError: there is none of this name, or its encoder is not installed.
    """
    if not isinstance(value, str) or value not in TRANSFER_SYNTAXES:
        raise SettingsError(f"{name} is {value!r}; choose one of {', '.join(TRANSFER_SYNTAXES)}.")
    syntax = TRANSFER_SYNTAXES[value]
    if syntax.is_compressed and not get_encoder(syntax).is_available:
        raise SettingsError(
            f"{name} is '{value}', but no encoder for it is installed. Run: pip install monai_ldmsr[codecs]"
        )
    return value


def compress(image: Dataset, syntax: str) -> None:
    """Compress an image that is not compressed, without loss; ``explicit`` leaves it as it is.

    Raises:
        OutputError: the encoder cannot hold its values.
    """
    uid = TRANSFER_SYNTAXES[syntax]
    if not uid.is_compressed:
        return
    try:
        image.compress(uid, generate_instance_uid=False)
    except Exception:
        raise OutputError(
            f"An image of {image.Rows} x {image.Columns} pixels of {image.BitsStored} of {image.BitsAllocated} bits "
            f"cannot be written in transfer syntax '{syntax}'. Choose transfer syntax explicit."
        ) from None

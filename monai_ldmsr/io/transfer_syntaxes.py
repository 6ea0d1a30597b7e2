"""In which transfer syntaxes DICOM results can be written; all of them keep every value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monai_ldmsr.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["TRANSFER_SYNTAXES", "checked_syntax", "compress"]

#: UIDs by the name that users give; as text, since settings are described before pydicom is needed.
TRANSFER_SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "rle": "1.2.840.10008.1.2.5",
}


def checked_syntax(name: str, value: Any) -> str:
    """Name of a transfer syntax that can be written here.

    Raises:
        SettingsError: there is none of this name, or its encoder is not installed.
    """
    if not isinstance(value, str) or value not in TRANSFER_SYNTAXES:
        raise SettingsError(f"{name} is {value!r}; choose one of {', '.join(TRANSFER_SYNTAXES)}.")
    if value != "explicit":
        from pydicom.pixels.encoders.base import get_encoder

        if not get_encoder(TRANSFER_SYNTAXES[value]).is_available:
            raise SettingsError(
                f"{name} is '{value}', but no encoder for it is installed. Run: pip install monai_ldmsr[codecs]"
            )
    return value


def compress(image: Dataset, syntax: str) -> None:
    """Compress an image that is not compressed, without loss; ``explicit`` leaves it as it is.

    Raises:
        OutputError: the encoder cannot hold its values.
    """
    if syntax == "explicit":
        return
    try:
        image.compress(TRANSFER_SYNTAXES[syntax], generate_instance_uid=False)
    except Exception:
        raise OutputError(
            f"An image of {image.Rows} x {image.Columns} pixels of {image.BitsStored} of {image.BitsAllocated} bits "
            f"cannot be written in transfer syntax '{syntax}'. Choose transfer syntax explicit."
        ) from None

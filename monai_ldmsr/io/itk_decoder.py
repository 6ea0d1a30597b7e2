"""Decode a compressed frame by the GDCM within ITK: it needs no extra, and knows what no decoder of pydicom does."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    SecondaryCaptureImageStorage,
)

__all__ = ["ITK_SYNTAXES", "itk_pixels"]

#: Transfer syntaxes that it decodes.
ITK_SYNTAXES = frozenset(
    (
        *(JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
        *(JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000),
    )
)

_ATTRIBUTES = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


def itk_pixels(frame: bytes, header: Dataset, syntax: UID, n_bits: int = 0) -> npt.NDArray[Any]:
    """Stored integers (rows, columns) of a frame that :func:`~monai_ldmsr.io.codestream.check_frame` has passed.

    Args:
        frame: codestream of the frame.
        header: a header with Rows, Columns and the attributes of the bits.
        syntax: one of :data:`ITK_SYNTAXES`.
        n_bits: bits of a value, where the codestream has more than Bits Stored.

    Raises:
        ValueError: the codestream has no end: what is missing would be made up.
        RuntimeError: ITK cannot decode it.
    """
    # Some encoders fill up with FF, which begins a marker that never comes.
    if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise ValueError("the codestream is truncated")
    # ITK reads files only. Nothing of the patient is in this one, and no rescale or inversion, so stored values come.
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    for keyword in _ATTRIBUTES:
        setattr(image, keyword, int(header[keyword].value))
    if n_bits > image.BitsStored:  # it would cut them
        image.BitsStored, image.HighBit = n_bits, n_bits - 1
    image.PixelData = encapsulate([frame])
    image["PixelData"].VR = "OB"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    with TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        image.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        pixels = sitk.GetArrayFromImage(reader.Execute())
    return np.asarray(pixels[0] if pixels.ndim == 3 else pixels)

"""The formats of volume files: their names, the files that belong to one volume, and what a reader gives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "EXTENSIONS",
    "MM_PER_UNIT",
    "NIBABEL",
    "NRRD",
    "ReadVolume",
    "Storage",
    "header_beside",
    "sidecar_name",
    "volume_extension",
    "voxels_beside",
]

#: Read by nibabel from a binary header; a fourth dimension counts volumes.
NIBABEL = (".nii", ".nii.gz", ".nii.zst", ".hdr", ".hdr.gz", ".mgh", ".mgz")
#: Read by SimpleITK from a text header.
NRRD = (".nrrd", ".nhdr")

EXTENSIONS = (*NIBABEL, *NRRD, ".mha", ".mhd")

#: Millimetres of what units are called; without any name they are millimetres.
MM_PER_UNIT = {
    **dict.fromkeys(("", "?", "???", "none", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}


@dataclass(frozen=True)
class Storage:
    """How a file stores its voxels: all that a result takes over from it.

    Args:
        dtype: of the stored values.
        n_dimensions: 2 or 3.
        slope: of the values, which are ``slope * stored + intercept``.
        intercept: see ``slope``.
        image_class: nibabel's, of the result.
        units: of length and time, as NIfTI names them.
        sform: NIfTI's index-to-RAS affine in its own unit (``None``: not to be read), and its code.
        qform: see ``sform``; it may place the volume elsewhere on purpose.
        pixdim: NIfTI's voxel sizes in its own unit.
    """

    dtype: np.dtype[Any]
    n_dimensions: int
    slope: float = 1.0
    intercept: float = 0.0
    image_class: Any = None
    units: tuple[str, str] = ("mm", "unknown")
    sform: tuple[npt.NDArray[np.float64] | None, int] = (None, 0)
    qform: tuple[npt.NDArray[np.float64] | None, int] = (None, 0)
    pixdim: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class ReadVolume:
    """What each reader gives.

    Args:
        raw: (I, J, K) as stored.
        affine: index to RAS in mm.
        storage: for the result.
        warnings: for the report.
        modality: that the header names; empty when it does not.
        texts: free text of the header, which may say what the values are; never shown.
    """

    raw: npt.NDArray[Any] = field(repr=False)
    affine: npt.NDArray[np.float64]
    storage: Storage
    warnings: tuple[str, ...]
    modality: str = ""
    texts: tuple[str, ...] = field(default=(), repr=False)


def volume_extension(path: PurePath) -> str | None:
    """Extension when it is one of :data:`EXTENSIONS`, else ``None``."""
    name = path.name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), None)


def voxels_beside(name: str) -> str | None:
    """Name of the file with the voxels of a ``.hdr`` or ``.hdr.gz`` file; ``None`` for any other name.

    Example:
        >>> voxels_beside("A.HDR"), voxels_beside("a.hdr.gz"), voxels_beside("a.nii")
        ('A.IMG', 'a.img.gz', None)
    """
    return _swapped(name, "hdr", "img")


def header_beside(path: Path) -> Path | None:
    """The ``.hdr`` file of an ``.img`` file, where both are there."""
    name = _swapped(path.name, "img", "hdr")
    header = path.with_name(name) if name else None
    return header if header is not None and header.is_file() and path.is_file() else None


def _swapped(name: str, ending: str, other: str) -> str | None:
    found = re.fullmatch(rf"(.*\.)({ending})(\.gz)?", name, re.IGNORECASE | re.DOTALL)
    if found is None:
        return None
    return f"{found[1]}{other.upper() if found[2].isupper() else other}{found[3] or ''}"


def sidecar_name(name: str) -> str:
    """Name of the JSON file that dcm2niix writes beside a volume file of that name."""
    return f"{name[: len(name) - len(volume_extension(PurePath(name)) or '')]}.json"

"""Formats of volume files. Nothing outside knows an extension; a new format is a module here and its line below."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.formats.base import InspectedFile, ReadVolume, Storage, StoredResult, VolumeFormat
from monai_ldmsr.io.formats.meta_image import MetaImageFormat
from monai_ldmsr.io.formats.mgh import MghFormat
from monai_ldmsr.io.formats.nifti import NiftiFormat
from monai_ldmsr.io.formats.nrrd import NrrdFormat
from monai_ldmsr.io.limits import ReadLimits

__all__ = [
    "CLIENT_EXTENSIONS",
    "EXTENSIONS",
    "FORMATS",
    "InspectedFile",
    "ReadVolume",
    "Storage",
    "StoredResult",
    "VolumeFormat",
    "format_of",
    "header_beside",
    "inspect_file",
    "is_voxels_alone",
    "part_names",
    "parts_beside",
    "stem",
    "volume_extension",
    "voxels_beside",
]

FORMATS: tuple[VolumeFormat, ...] = (NiftiFormat(), MghFormat(), NrrdFormat(), MetaImageFormat())

EXTENSIONS = tuple(extension for each in FORMATS for extension in each.extensions)

#: Those that clients of a server may ask for; the usual one first.
CLIENT_EXTENSIONS = tuple(extension for each in FORMATS for extension in each.client_extensions)


def volume_extension(path: PurePath) -> str | None:
    """Extension when it is one of :data:`FORMATS`, else ``None``."""
    name = path.name.lower()
    return next((end for each in FORMATS for end in each.extensions if name.endswith(end)), None)


def format_of(path: PurePath) -> VolumeFormat | None:
    """Format of a file by its extension; ``None`` when it is no volume file."""
    return next((each for each in FORMATS if path.name.lower().endswith(each.extensions)), None)


def inspect_file(path: Path, limits: ReadLimits) -> InspectedFile:
    """Look into a volume file's header; see :meth:`~monai_ldmsr.io.formats.base.VolumeFormat.inspect`."""
    return _known(path).inspect(path, limits)


def stem(path: PurePath) -> str:
    """Name of a file without the extension of its format."""
    return path.name[: len(path.name) - len(volume_extension(path) or "")]


def part_names(path: Path, limits: ReadLimits, name: str = "") -> tuple[str, str]:
    """Names of the file with the voxels (empty: in the file itself) and of dcm2niix's JSON file, if they exist.

    Args:
        path: path of a volume file.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        name: name of the volume file in its own place, when ``path`` is a copy of it.
    """
    place = PurePath(name or path.name)
    return _known(place).voxels_name(path, limits, place.name), f"{stem(place)}.json"


def parts_beside(path: Path, limits: ReadLimits) -> list[Path]:
    """Files beside a volume file that belong to it."""
    beside = (path.with_name(name) for name in part_names(path, limits) if name)
    return [part for part in beside if os.path.isfile(part)]  # a name may be too long for Path.is_file


def header_beside(path: Path) -> Path | None:
    """The file that holds the header of a file of voxels, where both are there."""
    names = [name for each in FORMATS if (name := each.header_name(path.name))]
    header = path.with_name(names[0]) if names else None
    return header if header is not None and header.is_file() and path.is_file() else None


def voxels_beside(name: str) -> str:
    """Name of the file that holds the voxels of one of that name, where the name alone decides; else empty."""
    found = format_of(PurePath(name))
    return found.paired_name(name) if found else ""


def is_voxels_alone(name: str) -> bool:
    """Whether a file of that name holds voxels whose header is in a file beside it."""
    return any(each.header_name(name) for each in FORMATS)


def _known(path: PurePath) -> VolumeFormat:
    found = format_of(path)
    if found is None:
        raise SourceError(f"Not a volume file: use one of {', '.join(EXTENSIONS)}.", ReasonCode.NOT_AN_IMAGE)
    return found

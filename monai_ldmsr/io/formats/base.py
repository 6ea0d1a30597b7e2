"""What a format of volume files is: one object each, listed in :data:`monai_ldmsr.io.formats.FORMATS`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.geometry import ResultGrid, VolumeGeometry
from monai_ldmsr.io.limits import ReadLimits

__all__ = [
    "MM_PER_UNIT",
    "Affine",
    "InspectedFile",
    "ReadVolume",
    "Storage",
    "StoredResult",
    "VolumeFormat",
    "swapped",
    "unreadable",
]

Affine = npt.NDArray[np.float64]

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
        dtype: type of the stored values.
        n_dimensions: 2 or 3.
        slope: slope of the values, which are ``slope * stored + intercept``.
        intercept: see ``slope``.
        own: what else the format needs to write a result alike.
    """

    dtype: np.dtype[Any]
    n_dimensions: int
    slope: float = 1.0
    intercept: float = 0.0
    own: Any = None


@dataclass(frozen=True)
class ReadVolume:
    """What each format gives.

    Args:
        raw: (I, J, K) as stored.
        affine: index to RAS in mm.
        storage: what the result is stored with.
        warnings: warnings for the report.
        modality: modality that the header names, in any words; empty when it does not.
        texts: free text of the header, which may say what the values are; never shown.
    """

    raw: npt.NDArray[Any] = field(repr=False)
    affine: Affine
    storage: Storage
    warnings: tuple[str, ...]
    modality: str = ""
    texts: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class StoredResult:
    """What each format writes.

    Args:
        stored: (I', J', K') of ``grid``, of the type of ``storage``, or float32.
        source: geometry of the source.
        grid: how the result's grid lies on that of the source.
        storage: how the source is stored; slope and intercept hold for integers.
        description: fixed text of at most 79 bytes, for formats with a place for it.
    """

    stored: npt.NDArray[Any] = field(repr=False)
    source: VolumeGeometry
    grid: ResultGrid
    storage: Storage
    description: str

    @property
    def array(self) -> npt.NDArray[Any]:
        """``stored`` with as many dimensions as the source's file has."""
        return self.stored if self.storage.n_dimensions == 3 else self.stored[:, :, 0]

    @property
    def geometry(self) -> VolumeGeometry:
        """Where the result's voxels are, in RAS."""
        return self.source.upsampled(self.grid)


class InspectedFile(ABC):
    """A file with a sound header, of which no voxel was read yet.

    Args:
        path: path of the file.
        n_volumes: number of volumes in the file.
        stamp: size and time of the file with the voxels when it was inspected.
    """

    path: Path
    n_volumes: int = 1
    stamp: tuple[int, int]

    @abstractmethod
    def size(self) -> tuple[tuple[int, int, int], int]:
        """(I, J, K) of each volume and bytes of a stored voxel, as the header has them.

        Raises:
            SourceError: it cannot be read rightly, by its header alone.
            Exception: whatever a library says of a damaged header.
        """

    @abstractmethod
    def read(self, number: int) -> ReadVolume:
        """Read the volume of that number, from 1.

        Raises:
            SourceError: see :func:`~monai_ldmsr.io.volume_file.read_volume_file`.
            Exception: whatever a library says of a damaged file.
        """

    @abstractmethod
    def check_whole(self) -> None:
        """Refuse the file unless it ends where its header says, with the right checksum.

        Raises:
            CorruptSourceError: ``UNREADABLE_FILE``.
            Exception: whatever a library says of a damaged file.
        """


class VolumeFormat(ABC):
    """A format, with all that the package knows of it.

    Attributes:
        extensions: extensions of its files, in small letters.
        client_extensions: those of them that clients of a server may ask for.
        counts_volumes: whether a file may hold several volumes, each of which becomes a case.
        pair: endings of a header and of the file beside it with its voxels, where they may be two, but for any ``.gz``.
        map_extension: extension of the file that holds a map beside a result of the format: compressed, one file, with
            a place for the description.
    """

    extensions: tuple[str, ...]
    client_extensions: tuple[str, ...] = ()
    counts_volumes: bool = False
    pair: tuple[str, str] | None = None
    map_extension: str = ".nii.gz"

    @abstractmethod
    def inspect(self, path: Path, limits: ReadLimits) -> InspectedFile:
        """Look into a file's header.

        Args:
            path: path of a file with one of :attr:`extensions`.
            limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`; they hold for the file as a whole.

        Raises:
            SourceError: it cannot be read rightly, by its header alone.
            Exception: whatever a library says of a damaged header.
        """

    @abstractmethod
    def write(self, result: StoredResult, path: Path) -> None:
        """Write a result under a name of the format.

        Raises:
            Exception: whatever a library says.
        """

    def voxels_name(self, path: Path, limits: ReadLimits, name: str) -> str:
        """Name of the file beside it that holds the voxels; empty when they are in the file itself.

        Args:
            path: path of the file.
            limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
            name: name of the file in its own place, of which ``path`` may be a copy.
        """
        return self.paired_name(name)

    def paired_name(self, name: str) -> str:
        """:meth:`voxels_name` where the name alone decides; else empty."""
        return swapped(name, *self.pair) if self.pair else ""

    def header_name(self, name: str) -> str:
        """Name of the file beside one of that name which holds its header; empty when there can be none."""
        return swapped(name, *self.pair[::-1]) if self.pair else ""


def swapped(name: str, ending: str, other: str) -> str:
    """Name of the other one of a pair of files; empty where the name does not end so.

    Example:
        >>> swapped("A.HDR", "hdr", "img"), swapped("a.hdr.gz", "hdr", "img"), swapped("a.nii", "hdr", "img")
        ('A.IMG', 'a.img.gz', '')
    """
    found = re.fullmatch(rf"(.*\.)({ending})(\.gz)?", name, re.IGNORECASE | re.DOTALL)
    return f"{found[1]}{other.upper() if found[2].isupper() else other}{found[3] or ''}" if found else ""


def unreadable(said: str) -> CorruptSourceError:
    """Error for a file that is damaged, as ``said``, which ends with what to do."""
    return CorruptSourceError(said, ReasonCode.UNREADABLE_FILE)

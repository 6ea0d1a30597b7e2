"""How much one source may claim, hold and grow to; checked before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.number_settings import BYTE_SUFFIXES, byte_count

__all__ = ["DEFAULT_LIMITS", "ReadLimits", "checked_shape", "parse_limits", "spoken_limits", "too_large"]

#: A frame has a header of up to 4 kB and about 340 reads, and compressed pixels of 4 kB or more. Objects of 6000 such
#: frames are real (Philips fMRI); nine times the defaults take up to a minute.
_BYTES_PER_HEADER_BYTE, _BYTES_PER_HEADER_READ, _MOST_TIMES = 4, 24, 9


@dataclass(frozen=True)
class ReadLimits:
    """Largest source that is read; whatever lies beyond is refused with ``TOO_LARGE``.

    Args:
        header_bytes: bytes of one DICOM file before its pixels (inflated where it is deflated), and of the part of a
            volume file before its voxels. A DICOM file may have a quarter of its size more, up to nine times as many:
            each frame of a multi-frame object has a header.
        header_reads: elements and sequence items of one DICOM header, about three for each: an empty item of
            8 bytes becomes 2 kB in memory, so bytes alone do not bound it. One more for 24 bytes of file and 12 bytes
            of header, up to nine times as many.
        slice_bytes: bytes of one slice as it is stored once decoded; a DICOM file may have twice as many, and a
            deflated one may inflate to as many.
        voxels: voxels of one series or volume file (4 bytes each in memory, and the result factor x factor times that).
        volumes: volumes of one 4D NIfTI file; each becomes a case with a folder of its own.
        expansion: decoded bytes for each byte on disk, of a series or volume file. Lossless compression gains 2 to 10,
            and a deflate stream of zeros 1000. Of a zip archive, all its members together.
        expansion_from_bytes: what decodes to no more than this may have any expansion: empty slices compress well.
        archive_members: members of one zip archive.
        archive_bytes: bytes of all members of one zip archive, unpacked.

    Raises:
        SettingsError: one of them is no whole number from 1.
    """

    header_bytes: int = 2**24
    header_reads: int = 2**18
    slice_bytes: int = 2**27
    voxels: int = 2**31
    volumes: int = 2**12
    expansion: int = 256
    expansion_from_bytes: int = 2**26
    archive_members: int = 2**17
    archive_bytes: int = 2**37

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingsError(f"The limit {field.name} is {value!r}; give a whole number from 1.")

    def for_dicom_file(self, n_bytes: int) -> ReadLimits:
        """What holds for the header of a DICOM file of ``n_bytes``."""
        return replace(
            self,
            header_bytes=min(self.header_bytes + n_bytes // _BYTES_PER_HEADER_BYTE, _MOST_TIMES * self.header_bytes),
            header_reads=min(self.header_reads + n_bytes // _BYTES_PER_HEADER_READ, _MOST_TIMES * self.header_reads),
        )

    def check_voxels(self, what: str, shape: tuple[int, int, int], n_volumes: int = 1) -> None:
        """Refuse ``what`` (such as ``"The series"``) for its number of voxels."""
        if shape[0] * shape[1] * shape[2] * n_volumes > self.voxels:
            sizes = " x ".join(str(n) for n in (*shape, n_volumes)[: 3 if n_volumes == 1 else 4])
            raise too_large(f"{what} has {sizes} voxels; the limit is {self.voxels}.", "voxels")

    def check_expansion(self, what: str, decoded_bytes: int, stored_bytes: int, of: str = "voxels") -> None:
        """Refuse ``what`` when it claims far more bytes than it has on disk."""
        if decoded_bytes > max(self.expansion_from_bytes, self.expansion * stored_bytes):
            raise too_large(
                f"{what} claims {decoded_bytes} bytes of {of}, but has {stored_bytes} bytes on disk; the limit is "
                f"{self.expansion} for each.",
                "expansion",
            )


#: What is used where nothing else is said.
DEFAULT_LIMITS = ReadLimits()


def parse_limits(given: Sequence[str]) -> ReadLimits:
    """Limits from texts such as ``voxels=4G``; those not named keep their defaults.

    Raises:
        SettingsError: there is no such limit, one is named twice, or a value is no whole number from 1.

    Example:
        >>> parse_limits(["slice_bytes=1G", "volumes=9"]).slice_bytes
        1073741824
    """
    names = [field.name for field in fields(ReadLimits)]
    chosen: dict[str, int] = {}
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in names:
            raise SettingsError(f"There is no limit '{name}'. Give NAME=VALUE, with one of {', '.join(names)}.")
        if name in chosen:
            raise SettingsError(f"The limit {name} is given twice. Give it once.")
        chosen[name] = byte_count(f"The limit {name}", value)
    return ReadLimits(**chosen)


def spoken_limits(limits: ReadLimits = DEFAULT_LIMITS) -> str:
    """All limits as :func:`parse_limits` takes them, for a help text."""
    return ", ".join(f"{field.name}={_spoken(getattr(limits, field.name))}" for field in fields(limits))


def _spoken(number: int) -> str:
    fitting = [(number // unit, suffix) for suffix, unit in BYTE_SUFFIXES.items() if not number % unit]
    return "".join(map(str, fitting[-1]))


def too_large(found: str, limit: str) -> SourceError:
    """Error for what was ``found`` beyond the limit of that name."""
    return SourceError(
        f"{found} If the source is sound, raise ReadLimits({limit}=...), or --limit {limit}=NUMBER of the command.",
        ReasonCode.TOO_LARGE,
    )


def checked_shape(
    shape: tuple[int, ...], limits: ReadLimits, counts_volumes: bool = False
) -> tuple[tuple[int, int, int], int]:
    """(I, J, K) of a 2D or 3D volume, and how many there are, known before any voxel is decoded.

    Args:
        shape: shape of the file's array.
        limits: limits, whose ``voxels`` counts all of the file.
        counts_volumes: whether the fourth dimension may count volumes.

    Raises:
        SourceError: ``UNSUPPORTED_DIMENSIONS`` or ``TOO_LARGE``.
    """
    n_volumes = math.prod(int(n) for n in shape[3:])
    beyond = math.prod(int(n) for n in shape[4 if counts_volumes else 3 :])
    if len(shape) < 2 or min(shape) < 1 or beyond > 1:
        raise SourceError(
            f"The file has {len(shape)} dimensions and {n_volumes} volumes, but one 2D or 3D volume is needed, or a "
            "NIfTI, Analyze or MGH file whose fourth dimension alone counts volumes. Split it into one file a volume.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    if n_volumes > limits.volumes:
        raise too_large(f"The file has {n_volumes} volumes; the limit is {limits.volumes}.", "volumes")
    full = (int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) > 2 else 1)
    limits.check_voxels("The volume" if n_volumes == 1 else "The file", full, n_volumes)
    return full, n_volumes

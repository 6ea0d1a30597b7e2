"""What formats that SimpleITK reads have in common: a header of lines, looked through before ITK parses it.

ITK's own parsers end the process on some damages.
"""

from __future__ import annotations

import math
import os
import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry, lps_to_ras
from monai_ldmsr.io.formats.base import (
    MM_PER_UNIT,
    Affine,
    InspectedFile,
    ReadVolume,
    Storage,
    StoredResult,
    VolumeFormat,
    unreadable,
)
from monai_ldmsr.io.formats.stored import check_compression
from monai_ldmsr.io.limits import ReadLimits, checked_shape
from monai_ldmsr.io.refusals import label_map
from monai_ldmsr.storage import file_stamp

__all__ = ["MAX_TEXT", "HeaderError", "ItkFormat", "TextHeader", "is_plain", "itk_affine", "itk_image", "unusable"]

#: MetaIO copies texts into arrays of 255 characters, and NRRD's reader some into those of 256, whatever their length.
MAX_TEXT = 250

#: Fields and remarks that name the modality: by a word, or by its tag.
_MODALITIES = ("modality", "0008|0060")

#: Keys of what 3D Slicer records of a segmentation.
_SEGMENT_KEY = re.compile(r"segment(\d+_|ation_)", re.IGNORECASE)

#: What programs note of the kind of an image.
_NOTES = ("content", "comment", "name", "objectsubtype", "description")


class HeaderError(ValueError):
    """Says why a header makes no sense, without quoting it."""


@dataclass(frozen=True)
class TextHeader:
    """A header of lines.

    Args:
        fields: values by names in small letters and without spaces.
        remarks: what else the writer of the file recorded, likewise.
        n_bytes: size of the header.
        lines: names and values as they stand there, of the fields that say anything of the voxels, where ITK is given
            a header made of them.
    """

    fields: dict[str, str] = field(repr=False)
    remarks: dict[str, str] = field(repr=False)
    n_bytes: int
    lines: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class ItkFormat(VolumeFormat):
    """A format with a header of lines; one volume a file.

    Attributes:
        image_io: ITK's name of its reader. Left to choose, ITK takes any format that it finds in the file.
    """

    image_io: str

    @abstractmethod
    def _lines(self, path: Path, limits: ReadLimits) -> TextHeader:
        """Read the header of a file.

        Raises:
            CorruptSourceError: ``UNREADABLE_FILE`` when it begins otherwise, or a field stands in it twice.
            SourceError: ``TOO_LARGE`` when it does not end.
        """

    @abstractmethod
    def _check_fields(self, fields: dict[str, str], size: int) -> None:
        """See that ITK can parse the header of a file of ``size`` bytes, its own or those of the file with its voxels.

        Raises:
            HeaderError: it makes no sense.
            ValueError: a number in it is none.
        """

    @abstractmethod
    def _data_name(self, header: TextHeader) -> str | None:
        """Name that it gives to the file with the voxels; ``None`` where they follow it. It may lead anywhere."""

    @abstractmethod
    def _placed(self, header: TextHeader) -> tuple[set[str], list[str]]:
        """Units of its axes in small letters, and warnings of what it leaves to be assumed of the place."""

    @abstractmethod
    def _check_voxels(self, path: Path, header: TextHeader, shape: tuple[int, ...], item_bytes: int) -> None:
        """Refuse voxels of that shape and size that are more or fewer in the file, or whose checksum is wrong.

        Raises:
            CorruptSourceError: ``UNREADABLE_FILE``.
            OSError, EOFError, zlib.error: the compressed stream is damaged.
        """

    def _refuse(self, path: Path, header: TextHeader) -> None:
        """Refuse what the header says is no image, by a SourceError with the reason."""

    def _readable(self, path: Path, header: TextHeader) -> AbstractContextManager[Path]:
        """What ITK is given to read."""
        return nullcontext(path)

    def header(self, path: Path, limits: ReadLimits) -> TextHeader:
        """Header of a file, looked through.

        Raises:
            CorruptSourceError: ``UNREADABLE_FILE`` when it cannot be used; the message says why.
            SourceError: ``TOO_LARGE`` when it does not end.
        """
        header = self._lines(path, limits)
        try:
            data = path.with_name(name) if is_plain(name := self._data_name(header) or "") else path
            self._check_fields(header.fields, max(file.stat().st_size for file in (path, data) if file.is_file()))
        except ValueError as error:
            # Of Python's own errors nothing is kept: they quote the header.
            raise unusable(path, str(error) if type(error) is HeaderError else "a number in it is none") from None
        return header

    def inspect(self, path: Path, limits: ReadLimits) -> ItkFile:
        """See :class:`ItkFile`."""
        return ItkFile(path, limits, self)

    def write(self, result: StoredResult, path: Path) -> None:
        """See :class:`~monai_ldmsr.io.formats.base.VolumeFormat`."""
        image = itk_image(result.array, result.geometry)
        image.SetMetaData("description", result.description)
        with _quiet_itk():
            sitk.WriteImage(image, str(path), useCompression=True)

    def voxels_name(self, path: Path, limits: ReadLimits, name: str) -> str:
        """See :class:`~monai_ldmsr.io.formats.base.VolumeFormat`."""
        try:
            data = self._data_name(self.header(path, limits)) or ""
        except Exception:  # as the reader meets it again, and says what it is
            data = ""
        return data if is_plain(data) else ""


class ItkFile(InspectedFile):
    """A file of an :class:`ItkFormat`.

    Raises:
        SourceError: see :meth:`ItkFormat.header`; ``NO_GEOMETRY`` when the unit is none of length.
    """

    def __init__(self, path: Path, limits: ReadLimits, file_format: ItkFormat) -> None:
        check_compression(path, file_format.extensions)
        self.path = path
        self._limits = limits
        self._format = file_format
        self._header = file_format.header(path, limits)
        file_format._refuse(path, self._header)
        if any(_SEGMENT_KEY.match(key) for key in self._header.remarks):
            raise label_map("its header lists segments")
        self.stamp = file_stamp(path)
        self._n_stored = _stored_bytes(path, file_format._data_name(self._header))
        units, self._warnings = file_format._placed(self._header)
        self._mm_per_unit = _mm_per_unit(units)

    def check_whole(self) -> None:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        self.read(1)

    def size(self) -> tuple[tuple[int, int, int], int]:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        with self._opened() as (_, shape, item_bytes):
            return shape, item_bytes

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, tuple[int, int, int], int]]:
        """ITK's reader, shape and bytes of a voxel, of which none is decoded yet."""
        with _quiet_itk(), self._format._readable(self.path, self._header) as file:
            reader = sitk.ImageFileReader()
            reader.SetImageIO(self._format.image_io)
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
                raise SourceError(
                    "Colour, vector and complex voxels are not supported, only one real number a voxel. "
                    "Split the file into volumes.",
                    ReasonCode.UNSUPPORTED_PIXELS,
                )
            shape, _ = checked_shape(reader.GetSize(), self._limits)
            item_bytes = _item_bytes(reader.GetPixelID())
            self._limits.check_expansion("The file", math.prod(shape) * item_bytes, self._n_stored)
            yield reader, shape, item_bytes

    def read(self, number: int) -> ReadVolume:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        header = self._header
        with self._opened() as (reader, shape, _):
            image = reader.Execute()
        raw = sitk.GetArrayFromImage(image).T.reshape(shape, order="F")
        self._format._check_voxels(self.path, header, shape, raw.itemsize)
        said = {**header.fields, **header.remarks}
        return ReadVolume(
            raw,
            itk_affine(image, self._mm_per_unit),
            Storage(raw.dtype, min(image.GetDimension(), 3)),
            tuple(self._warnings),
            next((said[name] for name in _MODALITIES if name in said), ""),
            tuple(said[name] for name in _NOTES if name in said),
        )


def unusable(path: Path, why: str) -> CorruptSourceError:
    """Error for a header that was read and makes no sense."""
    return unreadable(
        f"The header of the {path.suffix.lower()} file cannot be used: {why}. Repair it, or convert the file again."
    )


def is_plain(name: str) -> bool:
    """Whether a name is of one file; ``LIST`` begins a list of any."""
    is_list = name.startswith("LIST")
    return name not in ("", ".", "..") and not is_list and name.isprintable() and not re.search(r"[/\\%]", name)


def _stored_bytes(path: Path, name: str | None) -> int:
    """Bytes that a file has on disk, together with the file beside it that holds its voxels.

    Raises:
        SourceError: ``UNREADABLE_FILE`` when it names anything but a plain file in its own folder: a header may lead
            to any file, or to a pipe that waits.
    """
    size = path.stat().st_size
    if name is None:
        return size
    data = path.with_name(name) if is_plain(name) else None
    if data is None or data.is_symlink() or not data.is_file() or not os.access(data, os.R_OK):
        raise SourceError(
            f"The {path.suffix.lower()} file names no single file in its own folder for its voxels. Put both into one "
            "folder, under plain names, or write them as one file.",
            ReasonCode.UNREADABLE_FILE,
        )
    return size + data.stat().st_size


def _mm_per_unit(units: set[str]) -> float:
    scales = {MM_PER_UNIT.get(unit) for unit in units} or {1.0}
    scale = scales.pop()
    if scale is None or scales:
        raise SourceError(
            "The header counts lengths in a unit other than mm, cm, m or um, or in several, so voxel sizes are not "
            "known. Convert the file to mm.",
            ReasonCode.NO_GEOMETRY,
        )
    return scale


def itk_image(array: npt.NDArray[Any], geometry: VolumeGeometry) -> sitk.Image:
    """ITK's image of an array (I, J, K) or (I, J), in its place."""
    n = array.ndim
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(geometry.spacing_mm[:n])
    image.SetOrigin(geometry.origin_lps_mm[:n].tolist())
    image.SetDirection(geometry.direction_lps[:n, :n].ravel().tolist())
    return image


def itk_affine(image: sitk.Image, mm_per_unit: float = 1.0) -> Affine:
    """Index to RAS in mm, of the first three axes."""
    n = min(image.GetDimension(), 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    affine[:n] *= mm_per_unit
    return lps_to_ras(affine)


def _item_bytes(pixel_id: int) -> int:
    """Bytes of one voxel of ITK's type, from an image of one."""
    return int(sitk.GetArrayViewFromImage(sitk.Image(1, 1, pixel_id)).itemsize)


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """Keep ITK's warnings from the console: they hold full paths."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)

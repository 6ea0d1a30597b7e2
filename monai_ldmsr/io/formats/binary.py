"""What formats that nibabel reads have in common: a binary header, then voxels, of one volume or of several (4D)."""

from __future__ import annotations

import math
import threading
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.formats.base import Affine, InspectedFile, ReadVolume, Storage, VolumeFormat, unreadable
from monai_ldmsr.io.formats.stored import (
    check_compression,
    check_pieces,
    check_plain,
    compression,
    open_stored,
    pieces,
)
from monai_ldmsr.io.limits import ReadLimits, checked_shape
from monai_ldmsr.storage import file_stamp

__all__ = ["BinaryFile", "BinaryFormat", "BinaryHeader"]

#: Of a file, the longest header.
_START_BYTES = 544

#: Volumes of one file may be asked for by several threads.
_one_stream = threading.Lock()


@dataclass(frozen=True)
class BinaryHeader:
    """What a header says of the voxels.

    Args:
        image_class: nibabel's, of the file.
        header: nibabel's, without extensions and free text behind the voxels.
        data: file that holds the voxels.
        offset: where in it they begin.
        slope: slope of the values, which are ``slope * stored + intercept``.
        intercept: see ``slope``.
        spare_bytes: the most zeros that may follow the voxels; ``None`` when a row's may.
        warnings: what of it is unusual, and how it was taken.
    """

    image_class: Any
    header: Any
    data: Path
    offset: int
    slope: float = 1.0
    intercept: float = 0.0
    spare_bytes: int | None = None
    warnings: tuple[str, ...] = ()


class BinaryFormat(VolumeFormat):
    """A format with a binary header; see :class:`BinaryHeader`."""

    counts_volumes = True

    @abstractmethod
    def _header(self, path: Path, start: bytes, limits: ReadLimits) -> BinaryHeader:
        """Header of a file, from its first bytes, unpacked: up to 544.

        Raises:
            SourceError: it makes no sense, or the values are no grey values.
            Exception: whatever nibabel says of a damaged header.
        """

    @abstractmethod
    def _place(self, header: BinaryHeader, shape: tuple[int, int, int], warnings: list[str]) -> tuple[Affine, Any]:
        """Index-to-RAS affine in mm, and what :class:`~monai_ldmsr.io.formats.base.Storage` keeps as ``own``.

        Raises:
            SourceError: ``NO_GEOMETRY``.
        """

    def _check_end(self, header: BinaryHeader, stream: IO[bytes], n_bytes: int, row_bytes: int) -> None:
        """Refuse a file that goes on where its voxels should end, or whose checksum is wrong.

        nibabel stops at the last voxel: it would neither see that each row is too short, nor read the checksum. Zeros
        that do not fill a row may follow, unless the header announces an extension that could be what is too much.

        Args:
            header: header of the file.
            stream: unpacked, at its beginning.
            n_bytes: all before the end of the voxels, as the header says.
            row_bytes: number of bytes of one row of voxels; fewer than these may follow.
        """
        row_bytes = min(row_bytes, header.spare_bytes or row_bytes)
        if compression(header.data.name):
            check_pieces(pieces(stream), n_bytes, row_bytes)  # the last read is what compares the checksum
        else:
            check_plain(stream, 0, n_bytes, row_bytes)

    def inspect(self, path: Path, limits: ReadLimits) -> BinaryFile:
        """See :class:`BinaryFile`."""
        return BinaryFile(path, limits, self)


class BinaryFile(InspectedFile):
    """A file of a :class:`BinaryFormat`; voxels are read a volume at a time.

    A compressed stream is read forwards only. It stays open from the first volume to the last, so that all of them in
    order cost one decompression and the memory of one volume; any other order begins again at each step back. Another
    process to which it is sent opens the file for itself.

    Raises:
        SourceError: ``UNSUPPORTED_PIXELS``, ``UNSUPPORTED_DIMENSIONS`` (5D) or ``TOO_LARGE``; and see
            :class:`BinaryFormat`.
    """

    def __init__(self, path: Path, limits: ReadLimits, file_format: BinaryFormat) -> None:
        check_compression(path, file_format.extensions)
        with open_stored(path) as stream:
            start = stream.read(_START_BYTES)
        self.header = file_format._header(path, start, limits)
        dtype = self.header.header.get_data_dtype()
        if dtype.kind not in "iufb" or dtype.itemsize > 8:
            raise SourceError(
                "Colour and complex voxels are not supported, only real numbers. Split the file into such.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        self.path = path
        self._format = file_format
        self._dtype: np.dtype[Any] = dtype
        self._stored_shape = tuple(int(n) for n in self.header.header.get_data_shape())
        self._shape, self.n_volumes = checked_shape(self._stored_shape, limits, counts_volumes=True)
        self._n_bytes = math.prod(self._shape) * self.n_volumes * dtype.itemsize
        self._proxy: Any = None
        self.stamp = file_stamp(self.header.data)
        limits.check_expansion("The file", self._n_bytes, self.stamp[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_proxy": None}

    def check_whole(self) -> None:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        with open_stored(self.header.data) as stream:
            row_bytes = self._shape[0] * self._dtype.itemsize
            self._format._check_end(self.header, stream, self.header.offset + self._n_bytes, row_bytes)

    def size(self) -> tuple[tuple[int, int, int], int]:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        return self._shape, self._dtype.itemsize

    def read(self, number: int) -> ReadVolume:
        """See :class:`~monai_ldmsr.io.formats.base.InspectedFile`."""
        raw = self._voxels(number)
        warnings = []
        if self.n_volumes > 1:
            warnings.append(
                f"The file holds {self.n_volumes} volumes (4D): this is number {number}, with a result of its own."
            )
        header = self.header
        warnings += header.warnings
        affine, own = self._format._place(header, self._shape, warnings)
        n = 2 if len(self._stored_shape) == 2 else 3
        storage = Storage(self._dtype.newbyteorder("="), n, header.slope, header.intercept, own)
        names = [name for name in ("descrip", "intent_name") if name in header.header]
        texts = [bytes(header.header[name].item()).decode("latin-1").strip("\0 ") for name in names]
        return ReadVolume(raw, affine, storage, tuple(warnings), texts=tuple(texts))

    def _voxels(self, number: int) -> npt.NDArray[Any]:
        if file_stamp(self.header.data) != self.stamp:
            raise unreadable("The file was changed while its volumes were worked on. Run again once it is complete.")
        if self.n_volumes == 1:
            voxels = np.asarray(self._opened()[..., 0])
            self.check_whole()
            return voxels
        with _one_stream:
            if self._proxy is None:
                self._proxy = self._opened(keep_file_open=True)
            voxels = np.asarray(self._proxy[..., number - 1])
            if number == self.n_volumes:
                self._proxy = None  # closes the file
            return voxels

    def _opened(self, keep_file_open: bool = False) -> Any:
        spec = ((*self._shape, self.n_volumes), self._dtype, self.header.offset)
        return nib.arrayproxy.ArrayProxy(self.header.data, spec, keep_file_open=keep_file_open)

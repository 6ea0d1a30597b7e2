"""Files that nibabel reads (NIfTI, Analyze, MGH) and the volumes in them: a 4D file (time, echo) is as many volumes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.binary_header import binary_header
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, checked_shape
from monai_ldmsr.io.volume_format import NIBABEL, volume_extension
from monai_ldmsr.io.whole_file import check_binary
from monai_ldmsr.storage import file_stamp

__all__ = ["NiftiFile", "NiftiVolume", "nifti_volumes", "split_volumes"]

#: Volumes of one file may be asked for by several threads.
_one_stream = threading.Lock()


class NiftiFile:
    """A NIfTI, Analyze or MGH file with a sound header; voxels are read a volume at a time.

    A compressed stream is read forwards only. It stays open from the first volume to the last, so that all of them in
    order cost one decompression and the memory of one volume; any other order begins again at each step back. Another
    process to which it is sent opens the file for itself.

    Args:
        path: of one of the extensions :data:`~monai_ldmsr.io.volume_format.NIBABEL`.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`; they hold for the file as a whole.

    Raises:
        SourceError: ``UNSUPPORTED_PIXELS``, ``UNSUPPORTED_DIMENSIONS`` (5D) or ``TOO_LARGE``; and see
            :func:`~monai_ldmsr.io.binary_header.binary_header`.
    """

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.header = binary_header(path, limits)
        dtype = self.header.header.get_data_dtype()
        if dtype.kind not in "iufb" or dtype.itemsize > 8:
            raise SourceError(
                "Colour and complex voxels are not supported, only real numbers. Split the file into such.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        self.path = path
        self.dtype: np.dtype[Any] = dtype
        self.stored_shape = tuple(int(n) for n in self.header.header.get_data_shape())
        self.shape, self.n_volumes = checked_shape(self.stored_shape, limits, counts_volumes=True)
        self._n_bytes = math.prod(self.shape) * self.n_volumes * dtype.itemsize
        self._proxy: Any = None
        self._stamp = file_stamp(self.header.data)
        limits.check_expansion("The file", self._n_bytes, self._stamp[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_proxy": None}

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of the file with the voxels when it was opened."""
        return self._stamp

    def check_whole(self) -> None:
        """Refuse the file unless it ends where its header says, with the right checksum."""
        check_binary(self.header, self.header.offset + self._n_bytes, self.shape[0] * self.dtype.itemsize)

    def read(self, number: int) -> npt.NDArray[Any]:
        """Stored values (I, J, K) of the volume of that number, from 1."""
        if file_stamp(self.header.data) != self._stamp:
            raise CorruptSourceError(
                "The file was changed while its volumes were worked on. Run again once it is complete.",
                ReasonCode.UNREADABLE_FILE,
            )
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
        spec = ((*self.shape, self.n_volumes), self.dtype, self.header.offset)
        return nib.arrayproxy.ArrayProxy(self.header.data, spec, keep_file_open=keep_file_open)


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a NIfTI file.

    Args:
        file: shared by all volumes of the file; kept out of ``repr``: file names may be patients' names.
        number: of the volume, from 1.
    """

    file: NiftiFile = field(repr=False)
    number: int

    @property
    def suffix(self) -> str:
        """What is added to the file's case; all suffixes of one file are of one length, and sort as the volumes do."""
        n = self.file.n_volumes
        return "" if n == 1 else f"-vol{self.number:0{max(4, len(str(n)))}d}"


def nifti_volumes(path: str | Path, limits: ReadLimits = DEFAULT_LIMITS) -> list[NiftiVolume]:
    """Volumes of a NIfTI file, to be given to :func:`~monai_ldmsr.io.volume_file.read_volume_file` in this order.

    A 4D file is read through once here, so that its length and checksum are known to be right.

    Args:
        path: see :class:`NiftiFile`.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        SourceError: see :class:`NiftiFile`.
        Exception: whatever nibabel says of a damaged file.
    """
    file = NiftiFile(Path(path), limits)
    if file.n_volumes > 1:
        file.check_whole()
    return [NiftiVolume(file, number) for number in range(1, file.n_volumes + 1)]


def split_volumes(found: Iterable[Any], limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[Any]:
    """What was found, with each 4D NIfTI file replaced by its volumes; a damaged one stays, for its reader to refuse.

    Args:
        found: what :func:`~monai_ldmsr.io.discovery.find_sources` lists.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
    """
    for item in found:
        volumes = []
        if isinstance(item, Path) and volume_extension(item) in NIBABEL:
            try:
                volumes = nifti_volumes(item, limits)
            except Exception:  # as the reader meets it again, and says what it is
                volumes = []
        yield from volumes if len(volumes) > 1 else [item]

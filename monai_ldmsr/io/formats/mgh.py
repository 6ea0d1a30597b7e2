"""FreeSurfer's MGH, also compressed (MGZ): a header of 284 bytes, voxels, then five numbers and tags of any length."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO, Any

import nibabel as nib

from monai_ldmsr.io.formats.base import Affine, StoredResult, unreadable
from monai_ldmsr.io.formats.binary import BinaryFormat, BinaryHeader
from monai_ldmsr.io.formats.stored import CHUNK_BYTES, does_not_fit
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.refusals import label_map, no_grey_values

__all__ = ["MghFormat"]

_HEADER_BYTES, _NIBABELS_BYTES = 284, 308

#: Of its kinds of volume, the second, after images.
_LABELS = 1

#: Behind the voxels: repetition time, flip angle, echo and inversion time, field of view. Then tags.
_NUMBERS_BYTES, _MAX_TAG, _MAX_FOOTER = 20, 1000, 2**24

_NO_PLACE = "The MGH file gives no place: FreeSurfer's usual directions are assumed, around the centre."


class MghFormat(BinaryFormat):
    """MGH and MGZ, by nibabel."""

    extensions = (".mgh", ".mgz")

    def _header(self, path: Path, start: bytes, limits: ReadLimits) -> BinaryHeader:
        version = struct.unpack(">i", start[:4].ljust(4, b"\0"))[0]
        if version & 0xFF != 1 or not 0 <= version < 2**16:
            raise unreadable(
                "The file does not begin with a header of FreeSurfer's MGH format: it is another kind of file than its "
                "name says, or its beginning is damaged. Copy or convert it again."
            )
        if len(start) < _HEADER_BYTES:
            raise unreadable("The file ends within its header. Copy it again.")
        kind = version >> 8  # as newer FreeSurfer writes it
        if kind == _LABELS:
            raise label_map("its header says so")
        if kind:
            raise no_grey_values(f"the kind of its volume is {kind}")
        has_place = bool(struct.unpack_from(">h", start, 28)[0])  # nibabel fills in what is not there
        header = nib.MGHImage.header_class(start[:_HEADER_BYTES].ljust(_NIBABELS_BYTES, b"\0"))
        return BinaryHeader(nib.MGHImage, header, path, _HEADER_BYTES, warnings=() if has_place else (_NO_PLACE,))

    def _place(self, header: BinaryHeader, shape: tuple[int, int, int], warnings: list[str]) -> tuple[Affine, Any]:
        return header.header.get_affine(), None

    def _check_end(self, header: BinaryHeader, stream: IO[bytes], n_bytes: int, row_bytes: int) -> None:
        found = 0
        while found < n_bytes and (piece := stream.read(min(CHUNK_BYTES, n_bytes - found))):
            found += len(piece)
        if found < n_bytes:
            raise does_not_fit(str(found), n_bytes)
        tags = stream.read(_MAX_FOOTER + 1)[_NUMBERS_BYTES:]
        if len(tags) > _MAX_FOOTER - _NUMBERS_BYTES or (len(tags) >= 4 and int.from_bytes(tags[:4], "big") > _MAX_TAG):
            raise does_not_fit(f"{n_bytes + len(tags)} or more", n_bytes)
        if _has_colour_table(io.BytesIO(tags)):
            raise label_map("a table of colours and names follows its voxels")

    def write(self, result: StoredResult, path: Path) -> None:
        """See :class:`~monai_ldmsr.io.formats.base.VolumeFormat`; there is no place for the description."""
        header = nib.MGHImage.header_class()
        header.set_data_dtype(result.stored.dtype)
        nib.save(nib.MGHImage(result.array, result.geometry.affine, header), path)


def _has_colour_table(tags: IO[bytes]) -> bool:
    """Whether a table of colours and names, as FreeSurfer gives to labels, is among the tags."""
    for _ in range(1000):
        tag = _number(tags.read(4).ljust(4, b"\0"))
        if tag in (1, 5):  # the older form of the table, and the newer one
            return True
        if tag <= 0 or tag > _MAX_TAG:
            return False
        if tag in (2, 20):  # these have no length
            continue
        n_bytes = _number(tags.read(4 if tag == 30 else 8))
        if not 0 <= n_bytes < _MAX_FOOTER or len(tags.read(n_bytes)) < n_bytes:
            return False
    return False


def _number(content: bytes) -> int:
    return int.from_bytes(content, "big", signed=True)

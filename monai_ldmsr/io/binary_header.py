"""Headers of the binary formats (NIfTI, Analyze 7.5, MGH), looked into before nibabel reads any voxel."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.spm99analyze import Spm99AnalyzeHeader

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.io.limits import ReadLimits, too_large
from monai_ldmsr.io.stored_bytes import check_compression, open_stored
from monai_ldmsr.io.value_kind import refuse_intent, refuse_mgh_intent
from monai_ldmsr.io.volume_format import voxels_beside

__all__ = ["BinaryHeader", "binary_header"]

#: Sizes of the two NIfTI headers; the byte behind them tells of an extension, of which none is shorter than this.
_NIFTI_1, _NIFTI_2 = 348, 540
_LEAST_EXTENSION = 16

_MGH_BYTES = 284

#: Of sform and qform; any number above 0 says that the form holds.
_KNOWN_CODES = range(6)


@dataclass(frozen=True)
class BinaryHeader:
    """What a header says of the voxels.

    Args:
        image_class: nibabel's, of the file.
        header: nibabel's, without extensions and free text behind the voxels.
        data: file that holds the voxels.
        offset: where in it they begin.
        slope: of the values, which are ``slope * stored + intercept``.
        intercept: see ``slope``.
        spare_bytes: the most zeros that may follow the voxels; ``None`` when a row's may.
        has_place: whether an MGH header says that it gives the place, which nibabel fills in where it does not.
        warnings: what of it is none of NIfTI's, and how it was taken.
    """

    image_class: Any
    header: Any
    data: Path
    offset: int
    slope: float = 1.0
    intercept: float = 0.0
    spare_bytes: int | None = None
    has_place: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def is_nifti(self) -> bool:
        """Whether the header has two places for an affine, and room for scaling."""
        return isinstance(self.header, nib.Nifti1Header)

    @property
    def is_mgh(self) -> bool:
        """Whether a footer follows the voxels."""
        return self.image_class is nib.MGHImage


def binary_header(path: Path, limits: ReadLimits) -> BinaryHeader:
    """Header of a file that nibabel reads, from its first bytes alone.

    Args:
        path: of one of the extensions :data:`~monai_ldmsr.io.volume_format.NIBABEL`.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when it is cut short, of another kind or compression, or when the voxels
            begin within it.
        SourceError: ``TOO_LARGE`` when the voxels begin too far behind the header, ``BAD_RESCALE`` when slope or
            intercept is no number, ``LABEL_MAP`` or ``NO_GREY_VALUES`` by its intent, ``NOT_AN_IMAGE`` for half of a
            pair, ``MISSING_CODEC``.
        Exception: whatever nibabel says of a damaged header.
    """
    check_compression(path)
    with open_stored(path) as stream:
        start = stream.read(_NIFTI_2 + 4)
    if path.name.lower().endswith((".mgh", ".mgz")):
        return _mgh(path, start)
    sizes = {order: struct.unpack(f"{order}i", start[:4].ljust(4, b"\0"))[0] for order in "<>"}
    order = next((order for order, size in sizes.items() if size in (_NIFTI_1, _NIFTI_2)), None)
    if order is None:
        raise _another_kind(path, "NIfTI or Analyze header")
    n_header = sizes[order]
    if len(start) < n_header:
        raise CorruptSourceError("The file ends within its header. Copy it again.", ReasonCode.UNREADABLE_FILE)
    magic = start[344:348] if n_header == _NIFTI_1 else start[4:8]
    is_pair = voxels_beside(path.name) is not None
    if is_pair and n_header == _NIFTI_1 and not magic.startswith((b"ni1", b"n+1")):
        return _analyze(path, start, order, limits)
    _check_magic(magic, is_pair)
    return _nifti(path, start, order, n_header, limits)


def _check_magic(magic: bytes, is_pair: bool) -> None:
    """Refuse a header whose voxels are to be found elsewhere than its name says."""
    if magic[1:2] == (b"+" if is_pair else b"i"):
        said = "The header says that the voxels " + ("follow it" if is_pair else "are in an .img file beside it")
        raise CorruptSourceError(
            f"{said}. Rename the file to {'.nii' if is_pair else '.hdr'}.", ReasonCode.UNREADABLE_FILE
        )


def _another_kind(path: Path, expected: str) -> SourceError:
    if voxels_beside(path.name) is not None and path.stat().st_size:  # many programs have headers of this name
        return SkippedSourceError("The .hdr file holds no NIfTI or Analyze header.", ReasonCode.NOT_AN_IMAGE)
    return CorruptSourceError(
        f"The file does not begin with a {expected}: it is another kind of file than its name says, or its beginning "
        "is damaged. Copy or convert it again.",
        ReasonCode.UNREADABLE_FILE,
    )


def _pair_data(path: Path) -> Path:
    """The .img file of a .hdr file: a plain file, and no link that may lead anywhere."""
    data = path.with_name(voxels_beside(path.name) or path.name)
    if data.is_symlink() or not data.is_file():
        raise SkippedSourceError(
            "The .hdr file has no .img file of the same name beside it, in which its voxels would be. Put both into "
            "one folder.",
            ReasonCode.NOT_AN_IMAGE,
        )
    check_compression(data)
    return data


def _nifti(path: Path, start: bytes, order: str, n_header: int, limits: ReadLimits) -> BinaryHeader:
    is_first, is_pair = n_header == _NIFTI_1, voxels_beside(path.name) is not None
    classes = {
        (True, False): nib.Nifti1Image,
        (True, True): nib.Nifti1Pair,
        (False, False): nib.Nifti2Image,
        (False, True): nib.Nifti2Pair,
    }
    image_class = classes[is_first, is_pair]
    offset = _offset(start, order, is_first, is_pair, limits)
    slope, intercept = _scaling(start, order, is_first)
    (intent,) = struct.unpack_from(f"{order}h" if is_first else f"{order}i", start, 68 if is_first else 504)
    refuse_intent(intent)
    has_extension = bool(start[n_header : n_header + 1].strip(b"\0")) and not is_pair
    header = image_class.header_class(start[:n_header], endianness=order)
    warnings = _restore(header, start, order, is_first)
    return BinaryHeader(
        image_class,
        header,
        _pair_data(path) if is_pair else path,
        offset,
        slope,
        intercept,
        _LEAST_EXTENSION if has_extension else None,
        warnings=tuple(warnings),
    )


def _restore(header: Any, start: bytes, order: str, is_first: bool) -> list[str]:
    """Put back what of the place nibabel takes to be wrong, as the standard reads it, and warn of what it cannot."""
    said = struct.unpack_from(f"{order}2h" if is_first else f"{order}2i", start, 252 if is_first else 344)
    codes = dict(zip(("qform_code", "sform_code"), said, strict=True))
    warnings = [
        f"{name} is {code}, which NIfTI does not know: the form was taken for {'set' if code > 0 else 'not set'}."
        for name, code in codes.items()
        if code not in _KNOWN_CODES
    ]
    for name, code in codes.items():
        header[name] = max(0, code)
    qfac, *sizes = struct.unpack_from(f"{order}4f" if is_first else f"{order}4d", start, 76 if is_first else 104)
    header["pixdim"][0] = -1 if qfac < 0 else 1
    if min(sizes) < 0 and codes["sform_code"] <= 0:
        warnings.append("A voxel size (pixdim) of the file is negative: it was taken without its sign.")
    _set_sizes(header, sizes)
    return warnings


def _set_sizes(header: Any, sizes: Sequence[float]) -> None:
    """Put back voxel sizes of 0, for which nibabel takes 1, along axes of several voxels."""
    lengths = header["dim"][1:4]
    n_axes = int(header["dim"][0])
    for axis, size in enumerate(sizes):
        is_long = axis < n_axes and lengths[axis] > 1
        header["pixdim"][axis + 1] = abs(size) or (0 if is_long else 1)


def _offset(start: bytes, order: str, is_first: bool, is_pair: bool, limits: ReadLimits) -> int:
    offset = float(struct.unpack_from(f"{order}f" if is_first else f"{order}q", start, 108 if is_first else 168)[0])
    least = 0 if is_pair else (_NIFTI_1 if is_first else _NIFTI_2) + 4
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        raise CorruptSourceError(
            f"The header says that the voxels begin at byte {offset:g}, which is within the header or no whole number "
            "(vox_offset). Repair it, or convert the file again.",
            ReasonCode.UNREADABLE_FILE,
        )
    if offset > limits.header_bytes:
        raise too_large(f"The voxels of the file begin {offset:.0f} bytes behind its start.", "header_bytes")
    return int(offset)


def _scaling(start: bytes, order: str, is_first: bool) -> tuple[float, float]:
    slope, intercept = struct.unpack_from(f"{order}2f" if is_first else f"{order}2d", start, 112 if is_first else 176)
    # 0 is no scaling, and so is NaN to some writers, which then leave no intercept either.
    if slope == 0 or (math.isnan(slope) and (intercept == 0 or math.isnan(intercept))):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SourceError(
            f"The NIfTI header scales by {slope:g} and {intercept:g} (scl_slope, scl_inter), so the stored values have "
            "no meaning. Repair the header.",
            ReasonCode.BAD_RESCALE,
        )
    return slope, intercept


def _analyze(path: Path, start: bytes, order: str, limits: ReadLimits) -> BinaryHeader:
    """Analyze 7.5; SPM keeps a slope in its first unused field."""
    header = Spm99AnalyzeHeader(start[:_NIFTI_1], endianness=order)
    _set_sizes(header, struct.unpack_from(f"{order}3f", start, 80))
    slope = float(header["scl_slope"])
    if not math.isfinite(slope):
        raise SourceError(
            f"The Analyze header scales by {slope:g} (funused1), so the stored values have no meaning. Repair the "
            "header.",
            ReasonCode.BAD_RESCALE,
        )
    offset = _offset(start, order, True, True, limits)
    return BinaryHeader(nib.AnalyzeImage, header, _pair_data(path), offset, slope or 1.0)


def _mgh(path: Path, start: bytes) -> BinaryHeader:
    version = struct.unpack(">i", start[:4].ljust(4, b"\0"))[0]
    if version & 0xFF != 1 or not 0 <= version < 2**16:
        raise _another_kind(path, "header of FreeSurfer's MGH format")
    if len(start) < _MGH_BYTES:
        raise CorruptSourceError("The file ends within its header. Copy it again.", ReasonCode.UNREADABLE_FILE)
    refuse_mgh_intent(version >> 8)
    has_place = bool(struct.unpack_from(">h", start, 28)[0])
    header = nib.MGHImage.header_class(start[:_MGH_BYTES].ljust(308, b"\0"))
    return BinaryHeader(nib.MGHImage, header, path, _MGH_BYTES, has_place=has_place)

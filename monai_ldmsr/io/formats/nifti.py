"""NIfTI, also as a pair of .hdr and .img, and the Analyze 7.5 pairs that it came from; by nibabel."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spm99analyze import Spm99AnalyzeHeader

from monai_ldmsr.errors import ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.geometry import ResultGrid, VolumeGeometry
from monai_ldmsr.io.formats.base import MM_PER_UNIT, Affine, StoredResult, swapped, unreadable
from monai_ldmsr.io.formats.binary import BinaryFormat, BinaryHeader
from monai_ldmsr.io.formats.stored import check_compression
from monai_ldmsr.io.limits import ReadLimits, too_large
from monai_ldmsr.io.refusals import label_map, no_grey_values

__all__ = ["NiftiFormat"]

#: Sizes of the two NIfTI headers; the byte behind them announces an extension, of which none is shorter than this.
_NIFTI_1, _NIFTI_2 = 348, 540
_LEAST_EXTENSION = 16

#: Of sform and qform; any number above 0 says that the form holds.
_KNOWN_CODES = range(6)

#: NIfTI's NIFTI_INTENT_LABEL and NIFTI_INTENT_NEURONAME: numbers that stand for names.
_LABEL_INTENTS = (1002, 1003)

#: Intents of grey values: none, an estimated parameter (a map of T1 or ADC is an image), dimensionless, a time series.
_GREY_INTENTS = (0, 1001, 1011, 2001)

#: Others of the standard (statistics; matrices, vectors, points, quaternions; nodes, colours, shapes), of FSL
#: (displacement fields and their coefficients) and of CIFTI. What lies beyond is some program's own, and says nothing.
_OTHER_INTENTS = (range(2, 25), range(1004, 1011), range(2002, 2020), range(3000, 3100))


@dataclass(frozen=True)
class _Own:
    """What a result takes over from its source.

    Args:
        image_class: nibabel's, of the result.
        pixdim: voxel sizes in the file's own unit.
        units: units of length and time, as NIfTI names them.
        sform: index-to-RAS affine in the file's own unit (``None``: not to be read), and its code.
        qform: see ``sform``; it may place the volume elsewhere on purpose.
    """

    image_class: Any
    pixdim: tuple[float, ...]
    units: tuple[str, str] = ("mm", "unknown")
    sform: tuple[Affine | None, int] = (None, 0)
    qform: tuple[Affine | None, int] = (None, 0)


class NiftiFormat(BinaryFormat):
    """NIfTI-1, NIfTI-2 and, read only, Analyze 7.5."""

    extensions = (".nii", ".nii.gz", ".nii.zst", ".hdr", ".hdr.gz")
    client_extensions = (".nii.gz", ".nii")
    pair = ("hdr", "img")

    def _header(self, path: Path, start: bytes, limits: ReadLimits) -> BinaryHeader:
        sizes = {order: struct.unpack(f"{order}i", start[:4].ljust(4, b"\0"))[0] for order in "<>"}
        order = next((order for order, size in sizes.items() if size in (_NIFTI_1, _NIFTI_2)), None)
        if order is None:
            raise _another_kind(path)
        n_header = sizes[order]
        if len(start) < n_header:
            raise unreadable("The file ends within its header. Copy it again.")
        magic = start[344:348] if n_header == _NIFTI_1 else start[4:8]
        is_pair = bool(_voxels_beside(path))
        if is_pair and n_header == _NIFTI_1 and not magic.startswith((b"ni1", b"n+1")):
            return _analyze(path, start, order, limits)
        if magic[1:2] == (b"+" if is_pair else b"i"):
            said = "The header says that the voxels " + ("follow it" if is_pair else "are in an .img file beside it")
            raise unreadable(f"{said}. Rename the file to {'.nii' if is_pair else '.hdr'}.")
        return _nifti(path, start, order, n_header, limits)

    def _place(self, header: BinaryHeader, shape: tuple[int, int, int], warnings: list[str]) -> tuple[Affine, _Own]:
        is_nifti = isinstance(header.header, nib.Nifti1Header)
        return (_nifti_place if is_nifti else _analyze_place)(header, shape, warnings)

    def write(self, result: StoredResult, path: Path) -> None:
        """See :class:`~monai_ldmsr.io.formats.base.VolumeFormat`; sform and qform are upsampled each by itself."""
        own: _Own = result.storage.own or _own_of(result, path)
        header = own.image_class.header_class()
        header.set_data_dtype(result.stored.dtype)
        header.set_xyzt_units(*own.units)
        header["descrip"] = result.description.encode()
        image = own.image_class(result.array, None, header)
        if result.stored.dtype.kind != "f":
            # With these set, nibabel writes the integers as they are.
            image.header.set_slope_inter(result.storage.slope, result.storage.intercept)
        for name, (affine, code) in (("sform", own.sform), ("qform", own.qform)):
            upsampled = None if affine is None else _upsampled(affine, result.source.shape, result.grid)
            if upsampled is not None:
                getattr(image.header, f"set_{name}")(upsampled)
                image.header[f"{name}_code"] = code  # which may be newer than nibabel
        image.header["pixdim"][1:4] = np.array(own.pixdim) / result.grid.factors
        nib.save(image, path)


def _own_of(result: StoredResult, path: Path) -> _Own:
    """What a result of a source that is no NIfTI file has: scanner coordinates, also as a qform where that can be."""
    place, header = result.source.affine, nib.Nifti1Header()
    header.set_qform(place)
    is_rotation = np.allclose(header.get_qform(), place, atol=1e-3)
    classes = (nib.Nifti1Pair, nib.Nifti2Pair) if _voxels_beside(path) else (nib.Nifti1Image, nib.Nifti2Image)
    image_class = classes[max(result.array.shape) >= 2**15]
    spacing_mm = tuple(float(step) for step in result.source.spacing_mm)
    return _Own(image_class, spacing_mm, sform=(place, 1), qform=(place, 1) if is_rotation else (None, 0))


def _voxels_beside(path: Path) -> str:
    return swapped(path.name, *NiftiFormat.pair)


def _another_kind(path: Path) -> SourceError:
    if _voxels_beside(path) and path.stat().st_size:  # many programs have headers of this name
        return SkippedSourceError("The .hdr file holds no NIfTI or Analyze header.", ReasonCode.NOT_AN_IMAGE)
    return unreadable(
        "The file does not begin with a NIfTI or Analyze header: it is another kind of file than its name says, or its "
        "beginning is damaged. Copy or convert it again."
    )


def _pair_data(path: Path) -> Path:
    """The .img file of a .hdr file: a plain file, and no link that may lead anywhere."""
    data = path.with_name(_voxels_beside(path))
    if data.is_symlink() or not data.is_file():
        raise SkippedSourceError(
            "The .hdr file has no .img file of the same name beside it, in which its voxels would be. Put both into "
            "one folder.",
            ReasonCode.NOT_AN_IMAGE,
        )
    check_compression(data)
    return data


def _nifti(path: Path, start: bytes, order: str, n_header: int, limits: ReadLimits) -> BinaryHeader:
    is_first, is_pair = n_header == _NIFTI_1, bool(_voxels_beside(path))
    classes = {
        (True, False): nib.Nifti1Image,
        (True, True): nib.Nifti1Pair,
        (False, False): nib.Nifti2Image,
        (False, True): nib.Nifti2Pair,
    }
    image_class = classes[is_first, is_pair]
    said = _as_written(image_class.header_class, start, order)
    offset = _offset(said, 0 if is_pair else n_header + 4, limits)
    slope, intercept = _scaling(said)
    _refuse_intent(int(said["intent_code"]))
    has_extension = bool(start[n_header : n_header + 1].strip(b"\0")) and not is_pair
    header = image_class.header_class(start[:n_header], endianness=order)
    warnings = _restore(header, said)
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


def _as_written(header_class: Any, start: bytes, order: str) -> Any:
    """Fields of a header as they stand in the file; nibabel's object of it corrects what it takes to be wrong."""
    return np.frombuffer(start, header_class.template_dtype.newbyteorder(order), 1)[0]


def _refuse_intent(code: int) -> None:
    if code in _LABEL_INTENTS:
        raise label_map(f"its NIfTI intent code is {code}")
    if code not in _GREY_INTENTS and any(code in codes for codes in _OTHER_INTENTS):
        raise no_grey_values(f"its NIfTI intent code is {code}")


def _restore(header: Any, said: Any) -> list[str]:
    """Put back what of the place nibabel takes to be wrong, as the standard reads it, and warn of what it cannot."""
    codes = {name: int(said[name]) for name in ("qform_code", "sform_code")}
    warnings = [
        f"{name} is {code}, which NIfTI does not know: the form was taken for {'set' if code > 0 else 'not set'}."
        for name, code in codes.items()
        if code not in _KNOWN_CODES
    ]
    for name, code in codes.items():
        header[name] = max(0, code)
    qfac, *sizes = said["pixdim"][:4].tolist()
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


def _offset(said: Any, least: int, limits: ReadLimits) -> int:
    offset = float(said["vox_offset"])
    if not math.isfinite(offset) or offset < least or offset != int(offset):
        raise unreadable(
            f"The header says that the voxels begin at byte {offset:g}, which is within the header or no whole number "
            "(vox_offset). Repair it, or convert the file again."
        )
    if offset > limits.header_bytes:
        raise too_large(f"The voxels of the file begin {offset:.0f} bytes behind its start.", "header_bytes")
    return int(offset)


def _scaling(said: Any) -> tuple[float, float]:
    slope, intercept = float(said["scl_slope"]), float(said["scl_inter"])
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
    said = _as_written(Spm99AnalyzeHeader, start, order)
    _set_sizes(header, said["pixdim"][1:4].tolist())
    slope = float(header["scl_slope"])
    if not math.isfinite(slope):
        raise SourceError(
            f"The Analyze header scales by {slope:g} (funused1), so the stored values have no meaning. Repair the "
            "header.",
            ReasonCode.BAD_RESCALE,
        )
    return BinaryHeader(nib.AnalyzeImage, header, _pair_data(path), _offset(said, 0, limits), slope or 1.0)


def _nifti_place(found: BinaryHeader, shape: tuple[int, int, int], warnings: list[str]) -> tuple[Affine, _Own]:
    header = found.header
    units = _units(int(header["xyzt_units"]), warnings)
    mm_per_unit = MM_PER_UNIT.get(units[0], 1.0)
    sform: tuple[Affine | None, int] = (header.get_sform(), int(header["sform_code"]))
    qform = _qform(header, warnings)
    if not sform[1] and not qform[1]:
        warnings.append("Neither sform nor qform is set: only voxel sizes are known; place and sides are not.")
    if sform[0] is not None and qform[0] is not None and sform[1] and qform[1]:
        apart, voxel = _apart(sform[0], qform[0], shape)
        if not apart <= 0.1 * voxel:
            warnings.append(
                f"sform and qform disagree: they place the volume up to {mm_per_unit * apart:.3g} mm apart. Figures go "
                "by sform; the result keeps both, each in its own coordinates."
            )
    affine = sform[0] if sform[1] else qform[0] if qform[1] else _base_affine(header)
    with np.errstate(invalid="ignore", over="ignore"):  # the geometry refuses what is not finite
        affine = np.diag([*[mm_per_unit] * 3, 1.0]) @ affine
    pixdim = tuple(float(step) for step in header["pixdim"][1:4])
    return affine, _Own(found.image_class, pixdim, units, sform, qform)


def _units(code: int, warnings: list[str]) -> tuple[str, str]:
    """Names of NIfTI's units of length and time; a number that is no unit counts as none given."""
    names = nib.nifti1.unit_codes.label
    if code % 8 not in names:
        warnings.append("The unit of length is none of NIfTI's: millimetres are assumed.")
    return names.get(code % 8, "unknown"), names.get(code - code % 8, "unknown")


def _qform(header: Any, warnings: list[str]) -> tuple[Affine | None, int]:
    """The qform and its code; one that is no rotation is nothing where the sform gives the place."""
    code = int(header["qform_code"])
    try:
        qform: Affine = header.get_qform()
        if np.isfinite(qform).all() and np.linalg.det(qform[:3, :3]):
            return qform, code
    except Exception:  # nibabel's own and NumPy's
        pass
    if code and not header["sform_code"]:
        raise SourceError(
            "The header places the volume by a qform alone, which is no rotation with voxel sizes above 0, so its "
            "place is not known. Repair the header.",
            ReasonCode.NO_GEOMETRY,
        )
    if code:
        warnings.append("The qform of the file is no rotation with voxel sizes: the result has sform alone.")
    return None, 0


def _apart(one: Affine, other: Affine, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Greatest distance between a corner of the volume by two affines, and the least side of a voxel."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max()
        return float(apart), float(np.linalg.norm(one[:3, :3], axis=0).min())


def _analyze_place(found: BinaryHeader, shape: tuple[int, int, int], warnings: list[str]) -> tuple[Affine, _Own]:
    header = found.header
    warnings.append(
        "Analyze files do not say where in the patient they lie: only voxel sizes are known; place and sides are not. "
        "The result is a NIfTI pair of .hdr and .img, which says no more."
    )
    if found.slope != 1.0:
        warnings.append("Values were scaled by the number that SPM keeps in an Analyze header.")
    pixdim = tuple(float(step) for step in header["pixdim"][1:4])
    return _base_affine(header), _Own(nib.Nifti1Pair, pixdim)


def _base_affine(header: Any) -> Affine:
    if not (header["pixdim"][1:4] > 0).all():
        raise SourceError(
            "The header gives no place, and a voxel size (pixdim) of 0 or none along an axis of several voxels. Repair "
            "the header.",
            ReasonCode.NO_GEOMETRY,
        )
    affine: Affine = header.get_base_affine()
    return affine


def _upsampled(affine: Affine, shape: tuple[int, int, int], grid: ResultGrid) -> Affine | None:
    """An affine of the result; ``None`` for one that spans no space, which is that of a form without a code."""
    try:
        return VolumeGeometry(shape, affine).upsampled(grid).affine
    except SourceError:
        return None

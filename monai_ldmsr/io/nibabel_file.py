"""One volume of a NIfTI, Analyze or MGH file as stored values with their place; and the files written by nibabel."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.nifti_file import NiftiFile, NiftiVolume
from monai_ldmsr.io.volume_format import MM_PER_UNIT, ReadVolume, Storage

__all__ = ["read_nibabel", "write_nibabel"]

Affine = npt.NDArray[np.float64]


def read_nibabel(volume: NiftiVolume) -> ReadVolume:
    """Read one volume.

    Raises:
        SourceError: see :func:`~monai_ldmsr.io.volume_file.read_volume_file`.
        Exception: whatever nibabel says of a damaged file.
    """
    file = volume.file
    raw = file.read(volume.number)
    warnings = []
    if file.n_volumes > 1:
        warnings.append(
            f"The file holds {file.n_volumes} volumes (4D): this is number {volume.number}, with a result of its own."
        )
    if file.header.is_nifti:
        affine, storage = _nifti(file, warnings)
    elif file.header.is_mgh:
        affine, storage = _mgh(file, warnings)
    else:
        affine, storage = _analyze(file, warnings)
    names = [name for name in ("descrip", "intent_name") if name in file.header.header]
    texts = [bytes(file.header.header[name].item()).decode("latin-1").strip("\0 ") for name in names]
    return ReadVolume(raw, affine, storage, tuple(warnings), texts=tuple(texts))


def _storage(file: NiftiFile, image_class: Any, **fields: Any) -> Storage:
    n = 2 if len(file.stored_shape) == 2 else 3
    return Storage(
        file.dtype.newbyteorder("="), n, file.header.slope, file.header.intercept, image_class=image_class, **fields
    )


def _nifti(file: NiftiFile, warnings: list[str]) -> tuple[Affine, Storage]:
    header = file.header.header
    warnings += file.header.warnings
    units = _units(int(header["xyzt_units"]), warnings)
    mm_per_unit = MM_PER_UNIT.get(units[0], 1.0)
    sform: tuple[Affine | None, int] = (header.get_sform(), int(header["sform_code"]))
    qform = _qform(header, warnings)
    if not sform[1] and not qform[1]:
        warnings.append("Neither sform nor qform is set: only voxel sizes are known; place and sides are not.")
    if sform[0] is not None and qform[0] is not None and sform[1] and qform[1]:
        apart, voxel = _apart(sform[0], qform[0], file.shape)
        if not apart <= 0.1 * voxel:
            warnings.append(
                f"sform and qform disagree: they place the volume up to {mm_per_unit * apart:.3g} mm apart. Figures go "
                "by sform; the result keeps both, each in its own coordinates."
            )
    affine = sform[0] if sform[1] else qform[0] if qform[1] else _base_affine(header)
    with np.errstate(invalid="ignore", over="ignore"):  # the geometry refuses what is not finite
        affine = np.diag([*[mm_per_unit] * 3, 1.0]) @ affine
    pixdim = tuple(float(step) for step in header["pixdim"][1:4])
    return affine, _storage(file, file.header.image_class, units=units, sform=sform, qform=qform, pixdim=pixdim)


def _units(code: int, warnings: list[str]) -> tuple[str, str]:
    """Names of NIfTI's units of length and time; a number that is no unit counts as none given."""
    names = nib.nifti1.unit_codes.label
    if code % 8 not in names:
        warnings.append("The unit of length is none of NIfTI's: millimetres are assumed.")
    return names.get(code % 8, "unknown"), names.get(code - code % 8, "unknown")


def _qform(header: Any, warnings: list[str]) -> tuple[Affine | None, int]:
    """The qform and its code; one that is no rotation is nothing where the sform tells the place."""
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


def _mgh(file: NiftiFile, warnings: list[str]) -> tuple[Affine, Storage]:
    header = file.header.header
    if not file.header.has_place:
        warnings.append("The MGH file gives no place: FreeSurfer's usual directions are assumed, around the centre.")
    return header.get_affine(), _storage(file, nib.MGHImage)


def _analyze(file: NiftiFile, warnings: list[str]) -> tuple[Affine, Storage]:
    header = file.header.header
    warnings.append(
        "Analyze files do not say where in the patient they lie: only voxel sizes are known; place and sides are not. "
        "The result is a NIfTI pair of .hdr and .img, which says no more."
    )
    if file.header.slope != 1.0:
        warnings.append("Values were scaled by the number that SPM keeps in an Analyze header.")
    pixdim = tuple(float(step) for step in header["pixdim"][1:4])
    return _base_affine(header), _storage(file, nib.Nifti1Pair, pixdim=pixdim)


def _base_affine(header: Any) -> Affine:
    if not (header["pixdim"][1:4] > 0).all():
        raise SourceError(
            "The header gives no place, and a voxel size (pixdim) of 0 or none along an axis of several voxels. Repair "
            "the header.",
            ReasonCode.NO_GEOMETRY,
        )
    affine: Affine = header.get_base_affine()
    return affine


def write_nibabel(
    stored: npt.NDArray[Any],
    source: VolumeGeometry,
    factors: tuple[int, int, int],
    storage: Storage,
    path: Path,
    description: str,
) -> None:
    """Write stored values (I, J, K) in nibabel's class of the source; sform and qform are upsampled each by itself.

    Raises:
        Exception: whatever nibabel says.
    """
    if storage.n_dimensions == 2:
        stored = stored[:, :, 0]
    image_class = storage.image_class
    header = image_class.header_class()
    header.set_data_dtype(stored.dtype)
    if image_class is nib.MGHImage:
        nib.save(image_class(stored, source.upsampled(factors).affine, header), path)
        return
    header.set_xyzt_units(*storage.units)
    header["descrip"] = description.encode()
    image = image_class(stored, None, header)
    if stored.dtype.kind != "f":
        # With these set, nibabel writes the integers as they are.
        image.header.set_slope_inter(storage.slope, storage.intercept)
    for name, (affine, code) in (("sform", storage.sform), ("qform", storage.qform)):
        upsampled = None if affine is None else _upsampled(affine, source.shape, factors)
        if upsampled is not None:
            getattr(image.header, f"set_{name}")(upsampled)
            image.header[f"{name}_code"] = code  # which may be newer than nibabel
    image.header["pixdim"][1:4] = np.array(storage.pixdim) / factors
    nib.save(image, path)


def _upsampled(affine: Affine, shape: tuple[int, int, int], factors: tuple[int, int, int]) -> Affine | None:
    """An affine of the result; ``None`` for one that spans no space, which is that of a form without a code."""
    try:
        return VolumeGeometry(shape, affine).upsampled(factors).affine
    except SourceError:
        return None

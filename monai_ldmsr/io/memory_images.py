"""Images that lie in memory: arrays, nibabel's and SimpleITK's; as sources, and results of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)
from nibabel.spatialimages import SpatialImage

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.geometry import Factors, ResultGrid, VolumeGeometry
from monai_ldmsr.io.formats.base import MM_PER_UNIT, ReadVolume, Storage
from monai_ldmsr.io.formats.itk import itk_affine, itk_image
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.refusals import label_map
from monai_ldmsr.io.stored_values import stored_values
from monai_ldmsr.io.value_kind import label_warnings
from monai_ldmsr.io.volume_file import VolumeFile, volume_from

__all__ = ["array_volume", "image_volume", "result_image"]

#: Key under which ITK writes NIfTI's description.
_NOTES = "ITK_FileNotes"


def image_volume(image: Any, limits: ReadLimits = DEFAULT_LIMITS) -> VolumeFile:
    """What an image holds, and where.

    Args:
        image: nibabel's (which is read here where it is a proxy of a file) or SimpleITK's image.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        SettingsError: it is neither.
        SourceError: see :func:`array_volume`.
        Exception: whatever nibabel says of a damaged file.
    """
    if isinstance(image, SpatialImage):
        if image.affine is None:
            raise SourceError("The image has no affine, so its voxels have no place.", ReasonCode.NO_GEOMETRY)
        return array_volume(np.asanyarray(image.dataobj), _nibabel_affine(image), limits)
    if not isinstance(image, sitk.Image):
        raise SettingsError(
            f"An image of type {type(image).__name__} is not known. Give an array, a tensor, or an image of nibabel or "
            "SimpleITK; super_resolve takes paths."
        )
    kind = image.GetPixelIDTypeAsString()
    if "label" in kind:
        raise label_map(f"it is SimpleITK's {kind}")
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in kind:
        raise _no_real_numbers()
    return array_volume(sitk.GetArrayFromImage(image).T, itk_affine(image), limits)


def array_volume(
    array: npt.NDArray[Any], affine: npt.ArrayLike | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> VolumeFile:
    """The volume of an array.

    Args:
        array: (I, J, K), of which each ``[:, :, k]`` is a slice, or one slice (I, J); integers or floats.
        affine: (4, 4) from voxel index to RAS in mm; None for voxels of 1 mm.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        SourceError: ``UNSUPPORTED_DIMENSIONS``, ``UNSUPPORTED_PIXELS``, ``TOO_LARGE`` or ``SINGULAR_GEOMETRY``.
        CorruptSourceError: ``NOT_FINITE``.
    """
    n_dimensions = array.ndim
    raw = array[:, :, None] if n_dimensions == 2 else array
    if isinstance(array, np.ma.MaskedArray):
        raise SourceError(
            "The array has a mask, which would be lost. Fill it first: array.filled(value).",
            ReasonCode.UNSUPPORTED_PIXELS,
        )
    if raw.ndim != 3 or 0 in raw.shape or (n_dimensions == 3 and raw.shape[0] == 1):
        raise SourceError(
            f"The image has shape {tuple(array.shape)}, but one volume (I, J, K) or one slice (I, J) is needed, whose "
            "last axis goes through the slices, and whose first has more than one voxel. Take one channel or volume, "
            "and move the axis of slices to the end.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    if raw.dtype.kind not in "iufb" or raw.dtype.itemsize > 8:
        raise SourceError(
            f"Voxels of type {raw.dtype} are not supported. Give integers or floats of at most 64 bits, one a voxel.",
            ReasonCode.UNSUPPORTED_PIXELS,
        )
    limits.check_voxels("The image", raw.shape)
    storage = Storage(raw.dtype.newbyteorder("="), n_dimensions)
    place = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    return volume_from(ReadVolume(raw, place, storage, ()), warnings=label_warnings(Path("image"), raw, ()))


def result_image(
    image: Any, voxels: npt.NDArray[np.float32], source: VolumeFile, grid: ResultGrid | Factors, notice: str = ""
) -> Any:
    """The result as an image of the source's kind and type: integers are rounded and clipped, floats become float32.

    Args:
        image: what the source was made of.
        voxels: (I', J', K') of ``grid``, in the source's unit.
        source: :func:`image_volume` or :func:`array_volume` of the image.
        grid: how their grid lies on that of the source.
        notice: what the header says of it, where there is one.

    Raises:
        SettingsError: a voxel is not finite.
    """
    stored, _ = stored_values(voxels, source.header)
    array = stored if source.header.n_dimensions == 3 else stored[:, :, 0]
    geometry = source.geometry.upsampled(grid)
    if isinstance(image, SpatialImage):
        return _nibabel_image(image, array, geometry, notice)
    if not isinstance(image, sitk.Image):
        return array
    result = itk_image(array, geometry)
    result.SetMetaData(_NOTES, notice)
    return result


def _nibabel_affine(image: SpatialImage) -> npt.NDArray[np.float64]:
    """In mm; nibabel leaves it in the file's unit."""
    return np.asarray(np.diag([*[_mm_per_unit(image)] * 3, 1.0]) @ image.affine)


def _mm_per_unit(image: SpatialImage) -> float:
    units = getattr(image.header, "get_xyzt_units", None)
    return MM_PER_UNIT.get(units()[0], 1.0) if units else 1.0


def _nibabel_image(image: SpatialImage, array: npt.NDArray[Any], geometry: VolumeGeometry, notice: str) -> SpatialImage:
    """Of the same class in the same unit, and with the codes of its sform and qform; no other field is taken over."""
    header = type(image.header)()
    header.set_data_dtype(array.dtype)
    unit = _mm_per_unit(image)
    result = type(image)(array, np.diag([*[1 / unit] * 3, 1.0]) @ geometry.affine, header)
    if "descrip" in result.header:
        result.header["descrip"] = notice
    if isinstance(image.header, nib.Nifti1Header):
        result.header.set_xyzt_units(image.header.get_xyzt_units()[0])
        for name in ("sform", "qform"):
            getattr(result, f"set_{name}")(result.affine, int(image.header[f"{name}_code"]))
    return result


def _no_real_numbers() -> SourceError:
    return SourceError(
        "Colour, vector and complex voxels are not supported, only one real number a voxel. Take one channel.",
        ReasonCode.UNSUPPORTED_PIXELS,
    )

"""NRRD and MetaImage files, read and written by SimpleITK."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry, lps_to_ras
from monai_ldmsr.io.limits import ReadLimits, checked_shape
from monai_ldmsr.io.sidecar import header_modality
from monai_ldmsr.io.text_header import TextHeader, check_kinds, placement, stored_bytes, text_header
from monai_ldmsr.io.value_kind import refuse_segments
from monai_ldmsr.io.volume_format import ReadVolume, Storage
from monai_ldmsr.io.whole_file import check_meta_image, check_nrrd

__all__ = ["read_itk", "write_itk"]

#: What programs note of the kind of an image.
_NOTES = ("content", "comment", "name", "objectsubtype", "description")


def read_itk(path: Path, limits: ReadLimits) -> ReadVolume:
    """Read a NRRD or MetaImage file.

    Raises:
        SourceError: see :func:`~monai_ldmsr.io.volume_file.read_volume_file`.
        Exception: whatever ITK says of a damaged file.
    """
    header = text_header(path, limits)
    refuse_segments(path.name, header.remarks)
    check_kinds(header)
    n_stored = stored_bytes(path, header)
    mm_per_unit, warnings = placement(header)
    with _quiet_itk(), _clean(path, header) as file:
        reader = sitk.ImageFileReader()
        # Left to choose, ITK takes any format that it finds in the file.
        reader.SetImageIO("NrrdImageIO" if header.is_nrrd else "MetaImageIO")
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
            raise SourceError(
                "Colour, vector and complex voxels are not supported, only one real number a voxel. "
                "Split the file into volumes.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        shape, _ = checked_shape(reader.GetSize(), limits)
        limits.check_expansion("The file", math.prod(shape) * _dtype(reader.GetPixelID()).itemsize, n_stored)
        image = reader.Execute()
    raw = sitk.GetArrayFromImage(image).T.reshape(shape, order="F")
    (check_nrrd if header.is_nrrd else check_meta_image)(path, header, shape, raw.itemsize)
    n = min(image.GetDimension(), 3)
    said = {**header.fields, **header.remarks}
    return ReadVolume(
        raw,
        _affine(image, n, mm_per_unit),
        Storage(raw.dtype, 2 if n == 2 else 3),
        tuple(warnings),
        header_modality(said),
        tuple(said[name] for name in _NOTES if name in said),
    )


def _affine(image: sitk.Image, n: int, mm_per_unit: float) -> npt.NDArray[np.float64]:
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    affine[:n] *= mm_per_unit
    return lps_to_ras(affine)


@contextmanager
def _clean(path: Path, header: TextHeader) -> Iterator[Path]:
    """The file; or, where MetaIO has no room for a remark, a header without any that leads to the same voxels."""
    if header.is_nrrd or header.is_clean:
        yield path
        return
    fields = header.fields
    is_local = fields["elementdatafile"].upper() == "LOCAL"
    skipped = str(header.n_bytes) if is_local else fields.get("headersize", "0")
    with tempfile.TemporaryDirectory() as folder:
        voxels, clean = Path(folder, "voxels"), Path(folder, "header.mhd")
        # A link under a plain name: MetaIO takes signs in a path for a pattern of names.
        voxels.symlink_to((path if is_local else path.with_name(fields["elementdatafile"])).resolve())
        left_out = ("headersize", "elementdatafile")
        kept = [f"{name} = {value}" for name, value in header.lines if "".join(name.split()).lower() not in left_out]
        clean.write_text("\n".join([*kept, f"HeaderSize = {skipped}", "ElementDataFile = voxels", ""]))
        yield clean


def _dtype(pixel_id: int) -> np.dtype[Any]:
    """NumPy's type for ITK's, from an image of one voxel."""
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(sitk.Image(1, 1, pixel_id)).dtype
    return dtype


def write_itk(stored: npt.NDArray[Any], geometry: VolumeGeometry, storage: Storage, path: Path) -> None:
    """Write stored values (I, J, K) as NRRD or MetaImage, by the extension of ``path``.

    Raises:
        Exception: whatever ITK says.
    """
    n = storage.n_dimensions
    image = sitk.GetImageFromArray((stored if n == 3 else stored[:, :, 0]).T)
    image.SetSpacing(geometry.spacing_mm[:n])
    image.SetOrigin(geometry.origin_lps_mm[:n].tolist())
    image.SetDirection(geometry.direction_lps[:n, :n].ravel().tolist())
    with _quiet_itk():
        sitk.WriteImage(image, str(path), useCompression=True)


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """Keep ITK's warnings from the console: they hold full paths."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)

"""Read and write NIfTI (nibabel), NRRD and MetaImage (SimpleITK) volumes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.geometry import VolumeGeometry, lps_to_ras
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.nifti_file import NiftiVolume, nifti_volumes
from monai_ldmsr.io.padding import mark_impossible
from monai_ldmsr.io.readable_names import readable
from monai_ldmsr.io.volume_header import MM_PER_UNIT, checked_shape, header_fields, placement, stored_bytes
from monai_ldmsr.io.whole_file import check_meta_image, check_nrrd

__all__ = [
    "VolumeFile",
    "read_volume_file",
    "volume_case",
    "volume_extension",
    "write_volume_file",
]

#: Integers beyond this are no longer all exact in float32.
_EXACT_IN_FLOAT32 = 2**24

_EXTENSIONS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """A volume from a file that is not DICOM.

    Args:
        case: file stem, sanitised to ``[A-Za-z0-9._-]``.
        modality: ``"unknown"``: these formats do not tell.
        unit: ``"stored"``.
        voxels: (I, J, K) float32, scaled as the file says.
        geometry: where the voxels are, in RAS.
        value_range: least and greatest value the stored type can hold after scaling; of the data for floats.
        padding: (I, J, K), true where a CT holds no measurement; ``None`` when nowhere. See :meth:`with_modality`.
        warnings: what was unusual, for the report.
        header: what :func:`write_volume_file` needs to write the same kind of file.
        extension: ``".nii"``, ``".nii.gz"``, ``".nrrd"``, ``".mha"`` or ``".mhd"``.
    """

    case: str
    modality: str
    unit: str
    voxels: npt.NDArray[np.float32] = field(repr=False)
    geometry: VolumeGeometry
    value_range: tuple[float, float]
    padding: npt.NDArray[np.bool_] | None = field(repr=False)
    warnings: tuple[str, ...]
    header: object = field(repr=False)
    extension: str

    def with_modality(self, modality: str) -> VolumeFile:
        """The same volume as the modality that its user knows; in CT, impossible values then are padding."""
        if modality != "CT":
            return replace(self, modality=modality)
        padding = np.zeros(self.voxels.shape, np.bool_)
        warnings = (*self.warnings, *mark_impossible(self.voxels, padding, "volume files name no padding"))
        return replace(self, modality=modality, padding=padding if padding.any() else None, warnings=warnings)


@dataclass(frozen=True)
class _Storage:
    """How a file stores its voxels: all that a result takes over from it."""

    dtype: np.dtype[Any]
    n_dimensions: int
    slope: float = 1.0
    intercept: float = 0.0
    nifti_class: Any = None
    units: tuple[str, str] = ("mm", "unknown")
    sform_code: int = 0
    qform_code: int = 0


@dataclass(frozen=True)
class _Read:
    """What both readers give: raw (I, J, K) voxels, index-to-RAS affine in mm, storage, warnings."""

    raw: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    storage: _Storage
    warnings: tuple[str, ...]


def volume_extension(path: PurePath) -> str | None:
    """Extension when it is one of the formats of this module, else ``None``."""
    name = path.name.lower()
    return next((extension for extension in _EXTENSIONS if name.endswith(extension)), None)


def volume_case(path: PurePath) -> str:
    """The stem of a volume file in letters ``A-Z a-z 0-9 . _ -``, as names of results begin."""
    return readable(path.name[: len(path.name) - len(volume_extension(path) or "")]) or "volume"


def read_volume_file(source: str | Path | NiftiVolume, limits: ReadLimits = DEFAULT_LIMITS) -> VolumeFile:
    """Read a 2D or 3D volume.

    Args:
        source: a ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.mhd`` file; or one volume of a 4D NIfTI file, as
            :func:`~monai_ldmsr.io.nifti_file.nifti_volumes` lists them.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`; of a listed volume, its file was checked when listed.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when damaged, ``NOT_FINITE`` when it holds NaN or Inf.
        SourceError: ``NO_SUCH_SOURCE``, ``NOT_AN_IMAGE`` (another extension), ``UNSUPPORTED_DIMENSIONS``
            (several volumes), ``UNSUPPORTED_PIXELS`` (colour, complex), ``TOO_LARGE``, ``SINGULAR_GEOMETRY``,
            ``NO_GEOMETRY`` (unit of length not known) or ``BAD_RESCALE`` (scaling that is no number).
    """
    path = source.file.path if isinstance(source, NiftiVolume) else Path(source)
    extension = volume_extension(path)
    if extension is None:
        raise SourceError(f"Not a volume file: use one of {', '.join(_EXTENSIONS)}.", ReasonCode.NOT_AN_IMAGE)
    if not path.is_file():
        raise SourceError("The volume file does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    try:
        if extension.startswith(".nii"):
            read = _read_nifti(source if isinstance(source, NiftiVolume) else _only_volume(path, limits))
        else:
            read = _read_itk(path, limits)
    except SourceError:
        raise
    except Exception:
        # Library messages hold the full path, so nothing of them is kept.
        raise CorruptSourceError(
            f"The {extension} file cannot be read: it is truncated or damaged. Copy or convert it again.",
            ReasonCode.UNREADABLE_FILE,
        ) from None
    warnings = list(read.warnings)
    voxels = _scaled(read, warnings)
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    return VolumeFile(
        case=volume_case(path) + (source.suffix if isinstance(source, NiftiVolume) else ""),
        modality="unknown",
        unit="stored",
        voxels=voxels,
        geometry=VolumeGeometry(shape, read.affine),
        value_range=_value_range(voxels, read.storage),
        padding=None,
        warnings=tuple(warnings),
        header=read.storage,
        extension=extension,
    )


def write_volume_file(
    volume: VolumeFile, voxels: npt.NDArray[np.float32], path: str | Path, description: str
) -> tuple[int, VolumeGeometry]:
    """Write the super-resolved voxels of a volume file as the same kind of file.

    Integer types stay: values are rounded to the source's stored grid and clipped to its range. Floats become
    float32. Only geometry and storage are taken over; free text, extensions and metadata are left behind.

    Args:
        volume: the source.
        voxels: (f I, f' J, K) in the unit of the source.
        path: to write to; its extension chooses the format.
        description: fixed text of at most 79 bytes for NIfTI's ``descrip``, such as ``"research only"``.

    Returns:
        Number of voxels clipped, and the geometry written.

    Raises:
        SettingsError: when the shape is no multiple of the source's, a value is not finite, the extension
            does not fit the source, or the description is too long.
        OutputError: when the file cannot be written.
    """
    path = Path(path)
    storage = volume.header
    if not isinstance(storage, _Storage):
        raise SettingsError("The volume does not come from read_volume_file.")
    if len(description.encode()) > 79:
        raise SettingsError(f"The description has {len(description.encode())} bytes; 79 is the most.")
    extension = volume_extension(path)
    is_nifti = extension is not None and extension.startswith(".nii")
    if extension is None or is_nifti != volume.extension.startswith(".nii"):
        raise SettingsError(f"A {volume.extension} source is written as {volume.extension}, not as {path.suffix}.")
    geometry = volume.geometry.upsampled(_factors(volume.geometry.shape, voxels))
    stored, clipped = _stored(voxels, storage)
    try:
        if is_nifti:
            _write_nifti(stored, geometry, storage, path, description)
        else:
            _write_itk(stored, geometry, storage, path)
    except Exception:
        raise OutputError(
            f"The {extension} result cannot be written. Check that the folder exists, may be written to and has space."
        ) from None
    return clipped, geometry


def _only_volume(path: Path, limits: ReadLimits) -> NiftiVolume:
    volumes = nifti_volumes(path, limits)
    if len(volumes) > 1:
        raise SourceError(
            f"The file holds {len(volumes)} volumes (4D), but one is needed here. ldmsr run takes each; "
            "otherwise split the file into one file a volume.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    return volumes[0]


def _read_nifti(volume: NiftiVolume) -> _Read:
    raw, image, n = volume.file.read(volume.number), volume.file.image, volume.file.n_volumes
    header = image.header
    units = header.get_xyzt_units()
    to_mm = np.diag([*[MM_PER_UNIT.get(units[0], 1.0)] * 3, 1.0])
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = header.get_qform(coded=True)
    warnings = []
    if n > 1:
        warnings.append(f"The file holds {n} volumes (4D): this is number {volume.number}, with a result of its own.")
    if not sform_code and not qform_code:
        warnings.append("Neither sform nor qform is set: only voxel sizes are known; place and sides are not.")
    if sform_code and qform_code and _disagree(sform, qform, volume.file.shape):
        warnings.append("sform and qform disagree by more than 0.1 voxel: sform is used.")
    storage = _Storage(
        dtype=volume.file.dtype.newbyteorder("="),
        n_dimensions=2 if len(image.shape) == 2 else 3,
        slope=float(image.dataobj.slope),
        intercept=float(image.dataobj.inter),
        nifti_class=type(image),
        units=units,
        sform_code=int(sform_code),
        qform_code=int(qform_code),
    )
    with np.errstate(invalid="ignore", over="ignore"):  # the geometry refuses what is not finite
        affine = to_mm @ image.affine
    return _Read(raw, affine, storage, tuple(warnings))


def _disagree(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether two affines place a corner of the volume more than a tenth of a voxel apart."""
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, n - 1) for n in shape))])
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max()
        return not apart <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min()


def _read_itk(path: Path, limits: ReadLimits) -> _Read:
    is_nrrd = path.suffix.lower() == ".nrrd"
    fields, start = header_fields(path, limits)
    n_stored = stored_bytes(path, fields)
    mm_per_unit, warnings = placement(fields, is_nrrd)
    with _quiet_itk():
        reader = sitk.ImageFileReader()
        # Left to choose, ITK takes any format that it finds in the file.
        reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
            raise SourceError(
                "Colour, vector and complex voxels are not supported, only one real number a voxel. "
                "Split the file into volumes.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        shape, _ = checked_shape(reader.GetSize(), limits)
        n_decoded = math.prod(shape) * _itk_dtype(reader.GetPixelID()).itemsize
        limits.check_expansion("The file", n_decoded, n_stored)
        image = reader.Execute()
    raw = sitk.GetArrayFromImage(image).T.reshape(shape, order="F")
    (check_nrrd if is_nrrd else check_meta_image)(path, fields, start, shape, raw.itemsize)
    n = min(image.GetDimension(), 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    affine[:n] *= mm_per_unit
    return _Read(raw, lps_to_ras(affine), _Storage(raw.dtype, 2 if n == 2 else 3), tuple(warnings))


def _itk_dtype(pixel_id: int) -> np.dtype[Any]:
    """NumPy's type for ITK's, from an image of one voxel."""
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(sitk.Image(1, 1, pixel_id)).dtype
    return dtype


def _scaled(read: _Read, warnings: list[str]) -> npt.NDArray[np.float32]:
    slope, intercept = read.storage.slope, read.storage.intercept
    if (slope, intercept) == (1.0, 0.0):
        voxels = read.raw.astype(np.float32)
    else:
        voxels = (read.raw * np.float64(slope) + intercept).astype(np.float32)
    n_bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if n_bad:
        raise CorruptSourceError(
            f"{n_bad} of {voxels.size} voxels are NaN or infinite. Replace them before super-resolution.",
            ReasonCode.NOT_FINITE,
        )
    if read.raw.dtype.kind in "iu" and read.raw.dtype.itemsize > 2:
        least, greatest = int(read.raw.min()), int(read.raw.max())
        if max(-least, greatest) > _EXACT_IN_FLOAT32:
            warnings.append("Integers beyond 16777216 are rounded to float32.")
            return voxels
    low, high = (float(end) * slope + intercept for end in (read.raw.min(), read.raw.max()))
    # What a type keeps apart: its stored steps, or of floats a part of their range that grey levels would have.
    step = abs(slope) if read.raw.dtype.kind in "iub" else abs(high - low) / 2**12
    exact = read.raw.dtype == np.float32 and (slope, intercept) == (1.0, 0.0)
    if low != high and not exact and np.spacing(np.float32(max(abs(low), abs(high)))) > step:
        warnings.append("Values lie too close together for their size: differences are rounded to float32.")
    return voxels


def _value_range(voxels: npt.NDArray[np.float32], storage: _Storage) -> tuple[float, float]:
    if storage.dtype.kind == "f":
        return float(voxels.min()), float(voxels.max())
    ends = [end * storage.slope + storage.intercept for end in _stored_range(storage.dtype)]
    return min(ends), max(ends)


def _stored_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Least and greatest float64 that ``dtype`` can hold (2**63 - 1 itself is no float64)."""
    if dtype.kind == "b":
        return 0.0, 1.0
    least, greatest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    top = float(greatest)
    return float(least), top if int(top) <= greatest else float(np.nextafter(top, 0))


def _factors(source: tuple[int, int, int], voxels: npt.NDArray[np.float32]) -> tuple[int, int, int]:
    shape = voxels.shape
    if len(shape) != 3 or shape[2] != source[2] or shape[0] % source[0] or shape[1] % source[1] or not voxels.size:
        raise SettingsError(f"The result has shape {shape}, which is no in-plane multiple of the source's {source}.")
    return shape[0] // source[0], shape[1] // source[1], 1


def _stored(voxels: npt.NDArray[np.float32], storage: _Storage) -> tuple[npt.NDArray[Any], int]:
    """Values as the file stores them, and how many had to be clipped to its range; a slice of memory at a time."""
    if not all(np.isfinite(voxels[:, :, k]).all() for k in range(voxels.shape[2])):
        raise SettingsError("The result holds NaN or infinite voxels, so it is not written.")
    if storage.dtype.kind == "f":
        return voxels.astype(np.float32, copy=False), 0
    least, greatest = _stored_range(storage.dtype)
    stored, clipped = np.empty(voxels.shape, storage.dtype, order="F"), 0
    for k in range(voxels.shape[2]):
        rounded = np.rint((voxels[:, :, k].astype(np.float64) - storage.intercept) / storage.slope)
        clipped += int(np.count_nonzero((rounded < least) | (rounded > greatest)))
        stored[:, :, k] = np.clip(rounded, least, greatest).astype(storage.dtype)
    return stored, clipped


def _write_nifti(
    stored: npt.NDArray[Any], geometry: VolumeGeometry, storage: _Storage, path: Path, description: str
) -> None:
    from_mm = np.diag([*[1.0 / MM_PER_UNIT.get(storage.units[0], 1.0)] * 3, 1.0])
    affine = from_mm @ geometry.affine
    if storage.n_dimensions == 2:
        stored = stored[:, :, 0]
    header = storage.nifti_class.header_class()
    header.set_data_dtype(stored.dtype)
    header.set_xyzt_units(*storage.units)
    header["descrip"] = description.encode()
    image = storage.nifti_class(stored, affine, header)
    if stored.dtype.kind != "f":
        # With these set, nibabel writes the integers as they are.
        image.header.set_slope_inter(storage.slope, storage.intercept)
    image.set_sform(affine, code=storage.sform_code)
    image.set_qform(affine, code=storage.qform_code, strip_shears=True)
    nib.save(image, path)


def _write_itk(stored: npt.NDArray[Any], geometry: VolumeGeometry, storage: _Storage, path: Path) -> None:
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

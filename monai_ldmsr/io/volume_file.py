"""Volume files: voxels with their values and place, and results in the format of their source."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 (its customary name)

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.geometry import Factors, ResultGrid, VolumeGeometry
from monai_ldmsr.io.dicom_header import CLASSIC
from monai_ldmsr.io.formats import (
    EXTENSIONS,
    InspectedFile,
    ReadVolume,
    Storage,
    StoredResult,
    format_of,
    inspect_file,
    stem,
    volume_extension,
)
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.plausible_values import mark_impossible
from monai_ldmsr.io.readable_names import readable
from monai_ldmsr.io.refusals import label_map, own_map
from monai_ldmsr.io.sidecar import modality_term, read_sidecar, unknown_modality
from monai_ldmsr.io.slice_stack import StackFault, shear_fault
from monai_ldmsr.io.stored_values import scaled_values, stored_values, value_range
from monai_ldmsr.io.value_kind import label_warnings

__all__ = [
    "MAP_MARK",
    "NiftiVolume",
    "VolumeFile",
    "copy_volume_file",
    "nifti_volumes",
    "read_volume_file",
    "split_volumes",
    "volume_case",
    "volume_from",
    "write_empty_labels",
    "write_volume_file",
]

#: By this the description of a file begins that is no image but lies beside one.
MAP_MARK = "No image but a map of monai_ldmsr"


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """A volume from a file that is not DICOM, or from memory.

    Args:
        case: file stem, sanitised to ``[A-Za-z0-9._-]``.
        modality: ``"CT"``, ``"MR"`` or ``"PT"`` as its header or the JSON file beside it says; else ``"unknown"``.
        unit: unit of PET, as the JSON file says; else ``"stored"``.
        voxels: (I, J, K) float32, scaled as the file says.
        geometry: where the voxels are, in RAS.
        value_range: least and greatest value the stored type can hold after scaling; of the data for floats.
        padding: (I, J, K), true where a CT holds no measurement; ``None`` when nowhere. See :meth:`with_modality`.
        warnings: what was unusual, for the report.
        header: what :func:`write_volume_file` needs to write the same kind of file.
        extension: one of :data:`~monai_ldmsr.io.formats.EXTENSIONS`; empty for an image in memory.
        said_modality: what header and JSON file say, which may be a modality that is not worked on.
        slice_thickness_mm: Slice Thickness, as the JSON file beside it says; None where it says nothing.
        stack_fault: why no new slices can be made between its slices; None where they are stacked straight.
    """

    case: str
    modality: str
    unit: str
    voxels: npt.NDArray[np.float32] = field(repr=False)
    geometry: VolumeGeometry
    value_range: tuple[float, float]
    padding: npt.NDArray[np.bool_] | None = field(repr=False)
    warnings: tuple[str, ...]
    header: Storage = field(repr=False)
    extension: str
    said_modality: str = ""
    slice_thickness_mm: float | None = None
    stack_fault: StackFault | None = None

    def with_modality(self, modality: str | None) -> VolumeFile:
        """The same volume as the modality that its user knows, or with a warning where none is known.

        In CT, impossible values then are padding.

        Args:
            modality: ``"CT"``, ``"MR"`` or ``"PT"``; None to leave what the file says.
        """
        warnings = list(self.warnings)
        if modality is None and self.modality not in CLASSIC.values():
            warnings.append(unknown_modality(self.said_modality, self.voxels))
        modality = modality or self.modality
        if self.said_modality and modality != self.said_modality and self.said_modality in CLASSIC.values():
            warnings.append(
                f"The modality was stated as {modality}, but the file or the .json file beside it says "
                f"{self.said_modality}: it was taken for {modality}."
            )
        padding = np.zeros(self.voxels.shape, np.bool_)
        if modality == "CT":
            warnings += mark_impossible(self.voxels, padding, "volume files name no padding")
        return replace(self, modality=modality, padding=padding if padding.any() else None, warnings=tuple(warnings))


def volume_case(path: PurePath) -> str:
    """The stem of a volume file in letters ``A-Z a-z 0-9 . _ -``, as names of results begin."""
    return readable(stem(path)) or "volume"


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a file that may hold several: NIfTI, Analyze or MGH.

    Args:
        file: shared by all volumes of the file; kept out of ``repr``: file names may be patients' names.
        number: number of the volume, from 1.
    """

    file: InspectedFile = field(repr=False)
    number: int

    @property
    def suffix(self) -> str:
        """What is added to the file's case; all suffixes of one file are of one length, and sort as the volumes do."""
        n = self.file.n_volumes
        return "" if n == 1 else f"-vol{self.number:0{max(4, len(str(n)))}d}"


def nifti_volumes(path: str | Path, limits: ReadLimits = DEFAULT_LIMITS) -> list[NiftiVolume]:
    """Volumes of a file, to be given to :func:`read_volume_file` in this order.

    A 4D file (time, echo) is as many volumes. It is read through once here, so that its length and checksum are known
    to be right.

    Args:
        path: path of a file of one of :data:`~monai_ldmsr.io.formats.EXTENSIONS`.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        SourceError: see :func:`read_volume_file`.
        Exception: whatever a library says of a damaged file.
    """
    file = inspect_file(Path(path), limits)
    if file.n_volumes > 1:
        file.check_whole()
    return [NiftiVolume(file, number) for number in range(1, file.n_volumes + 1)]


def split_volumes(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> list[NiftiVolume | Path]:
    """The volumes of a 4D file; of any other, and of a damaged one for its reader to refuse, the file itself."""
    file_format = format_of(path)
    if file_format is not None and file_format.counts_volumes:
        with suppress(Exception):  # as the reader meets it again, and says what it is
            volumes = nifti_volumes(path, limits)
            if len(volumes) > 1:
                return [*volumes]
    return [path]


def read_volume_file(source: str | Path | NiftiVolume, limits: ReadLimits = DEFAULT_LIMITS) -> VolumeFile:
    """Read a 2D or 3D volume.

    Args:
        source: a file of one of :data:`~monai_ldmsr.io.formats.EXTENSIONS`; or one volume of a 4D file, as
            :func:`nifti_volumes` lists them.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`; of a listed volume, its file was checked when listed.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when damaged, ``NOT_FINITE`` when it holds NaN or Inf.
        SkippedSourceError: ``LABEL_MAP``, ``NO_GREY_VALUES``, ``PHASE_IMAGE`` or ``OWN_RESULT``; ``NOT_AN_IMAGE`` for
            half of a pair of ``.hdr`` and ``.img``.
        SourceError: ``NO_SUCH_SOURCE``, ``NOT_AN_IMAGE`` (another extension), ``UNSUPPORTED_DIMENSIONS``
            (several volumes), ``UNSUPPORTED_PIXELS`` (colour, complex), ``TOO_LARGE``, ``SINGULAR_GEOMETRY``,
            ``NO_GEOMETRY`` (unit of length not known), ``BAD_RESCALE`` (scaling that is no number) or
            ``MISSING_CODEC``.
    """
    path = source.file.path if isinstance(source, NiftiVolume) else Path(source)
    extension = volume_extension(path)
    if extension is None:
        raise SourceError(f"Not a volume file: use one of {', '.join(EXTENSIONS)}.", ReasonCode.NOT_AN_IMAGE)
    if not path.is_file():
        raise SourceError("The volume file does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    sidecar = read_sidecar(path)
    read = _read(source if isinstance(source, NiftiVolume) else path, extension, limits)
    if any(text.startswith(MAP_MARK) for text in read.texts):
        raise own_map()
    warnings = [*sidecar.warnings, *label_warnings(path, read.raw, read.texts)]
    said = sidecar.modality or modality_term(read.modality)
    if said in ("SEG", "RTSTRUCT"):
        raise label_map(f"its header gives modality {said}")
    case = volume_case(path) + (source.suffix if isinstance(source, NiftiVolume) else "")
    return volume_from(read, case, extension, said, sidecar.unit, warnings, sidecar.slice_thickness_mm)


def volume_from(
    read: ReadVolume,
    case: str = "image",
    extension: str = "",
    said_modality: str = "",
    unit: str = "",
    warnings: Sequence[str] = (),
    slice_thickness_mm: float | None = None,
) -> VolumeFile:
    """The volume that a format read, or that lay in memory; for the arguments see :class:`VolumeFile`.

    Raises:
        CorruptSourceError: ``NOT_FINITE`` when it holds NaN or Inf.
        SourceError: ``SINGULAR_GEOMETRY``.
    """
    found = [*read.warnings, *warnings]
    voxels = scaled_values(read, found)
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    geometry = VolumeGeometry(shape, read.affine)
    return VolumeFile(
        case=case,
        modality=said_modality if said_modality in CLASSIC.values() else "unknown",
        unit=unit or "stored",
        voxels=voxels,
        geometry=geometry,
        value_range=value_range(voxels, read.storage),
        padding=None,
        warnings=tuple(found),
        header=read.storage,
        extension=extension,
        said_modality=said_modality,
        slice_thickness_mm=slice_thickness_mm,
        stack_fault=shear_fault(geometry),
    )


def _read(source: Path | NiftiVolume, extension: str, limits: ReadLimits) -> ReadVolume:
    try:
        volume = source if isinstance(source, NiftiVolume) else _only_volume(source, limits)
        return volume.file.read(volume.number)
    except SourceError:
        raise
    except Exception:
        # Library messages hold the full path, so nothing of them is kept.
        raise CorruptSourceError(
            f"The {extension} file cannot be read: it is cut short or damaged, or its header is not as the format "
            "says. Copy or convert it again.",
            ReasonCode.UNREADABLE_FILE,
        ) from None


def write_volume_file(
    volume: VolumeFile,
    voxels: npt.NDArray[np.float32],
    grid: ResultGrid | Factors,
    path: str | Path,
    description: str,
) -> int:
    """Write the super-resolved voxels of a volume file as the same kind of file.

    Integer types stay: values are rounded to the source's stored grid and clipped to its range. Floats become
    float32. Only geometry and storage are taken over; free text, extensions and metadata are left behind.

    Args:
        volume: the source.
        voxels: (I', J', K') of ``grid``, in the unit of the source.
        grid: how their grid lies on that of the source.
        path: file to write; its extension chooses the format.
        description: fixed text of at most 79 bytes for NIfTI's ``descrip``, such as ``"research only"``.

    Returns:
        Number of voxels clipped.

    Raises:
        SettingsError: when a factor is not whole, the shape does not fit them, a value is not finite, the extension
            does not fit the source, or the description is too long.
        OutputError: when the file cannot be written.
    """
    path, storage = Path(path), volume.header
    if len(description.encode()) > 79:
        raise SettingsError(f"The description has {len(description.encode())} bytes; 79 is the most.")
    extension = volume_extension(path)
    file_format = format_of(path)
    if file_format is None or volume.extension not in file_format.extensions:
        raise SettingsError(f"A {volume.extension} source is written as {volume.extension}, not as {path.suffix}.")
    grid = ResultGrid.of(grid)
    geometry = volume.geometry.upsampled(grid)
    if voxels.shape != geometry.shape:
        raise SettingsError(
            f"The result has shape {voxels.shape}, but factor {grid} of a source of shape {volume.geometry.shape} "
            f"makes {geometry.shape}."
        )
    stored, clipped = stored_values(voxels, storage)
    try:
        file_format.write(StoredResult(stored, volume.geometry, grid, storage, description), path)
    except Exception:
        raise OutputError(
            f"The {extension} result cannot be written. Check that the folder exists, may be written to and has space."
        ) from None
    return clipped


def _only_volume(path: Path, limits: ReadLimits) -> NiftiVolume:
    volumes = nifti_volumes(path, limits)
    if len(volumes) > 1:
        raise SourceError(
            f"The file holds {len(volumes)} volumes (4D), but one is needed here. ldmsr run takes each; "
            "otherwise split the file into one file a volume.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    return volumes[0]


def copy_volume_file(source: Path, target: Path) -> None:
    """Copy a volume file; where the extensions differ, voxels, their type and the geometry go into the other format.

    Raises:
        OutputError: it cannot be read or written.
    """
    try:
        if volume_extension(source) == volume_extension(target):
            shutil.copyfile(source, target)
        else:
            sitk.WriteImage(sitk.ReadImage(str(source)), str(target))
    except (OSError, RuntimeError):
        raise OutputError(f"The image cannot be copied as {volume_extension(target)}.") from None


def write_empty_labels(geometry: VolumeGeometry, path: Path) -> None:
    """Write a label map (I, J, K) of uint8 without any label.

    Raises:
        OutputError: it cannot be written.
    """
    labels = sitk.Image([int(n) for n in geometry.shape], sitk.sitkUInt8)
    labels.SetSpacing([float(step) for step in geometry.spacing_mm])
    labels.SetOrigin([float(x) for x in geometry.origin_lps_mm])
    labels.SetDirection([float(x) for x in geometry.direction_lps.ravel()])
    try:
        sitk.WriteImage(labels, str(path))
    except RuntimeError:
        raise OutputError("The empty label map cannot be written. Check the space for temporary files.") from None

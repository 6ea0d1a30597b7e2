"""Write a super-resolved volume as a derived DICOM series of the same study, and know an earlier one again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset, dcmread, dcmwrite
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from monai_ldmsr.errors import CorruptSourceError, LdmsrError, OutputError, ReasonCode, SettingsError
from monai_ldmsr.io.derived_header import Derivation, SharedHeader, derived_header, named_uid, shared_header
from monai_ldmsr.io.derived_multiframe import multiframe_object, parsed_copy
from monai_ldmsr.io.derived_slices import DerivedSlices
from monai_ldmsr.io.dicom_header import quiet_pydicom, sop_instance
from monai_ldmsr.io.dicom_pixels import StoredType
from monai_ldmsr.io.dicom_series import DicomSeries
from monai_ldmsr.io.transfer_syntaxes import compress
from monai_ldmsr.storage import in_threads, output_errors, synced_file

__all__ = ["WrittenSeries", "is_of_another_source", "write_derived_series"]

#: Rows and Columns are unsigned shorts.
_MAX_MATRIX = 65535

_IMPLEMENTATION_CLASS_UID = UID(named_uid("implementation", "monai_ldmsr"))


@dataclass(frozen=True)
class WrittenSeries:
    """A derived series on disk.

    Args:
        paths: one file an image, ascending along the normal.
        series_instance_uid: the new series.
        n_clipped: voxels that the stored integer type could not hold, set to its nearest end.
    """

    paths: tuple[Path, ...]
    series_instance_uid: str
    n_clipped: int


def write_derived_series(
    series: DicomSeries,
    voxels: npt.NDArray[np.float32],
    output_dir: str | Path,
    derivation: Derivation,
) -> WrittenSeries:
    """Write ``voxels`` as images ``IM0001.dcm`` ... along the normal.

    Values are stored as the source stored them (bits, sign, rescale) and clipped to that range; PET gets a
    new rescale slope for each slice. Padding voxels must have been put back. Memory: a few slices at a time.

    Args:
        series: the source.
        voxels: (I', J', K') of the derivation's grid in the unit of the source; C or Fortran order.
        output_dir: made when missing; use :func:`monai_ldmsr.storage.partial_folder` around it.
        derivation: what made the result.

    Raises:
        SettingsError: the factor is no whole number from 1, the shape does not fit it, or new slices have no plan.
        CorruptSourceError: ``UNREADABLE_FILE`` when an attribute of the source cannot be written again.
        OutputError: a voxel is not finite, or a file cannot be written.
    """
    slices = DerivedSlices(series.headers, series.geometry, derivation.grid, derivation.plan)
    _check_grid(series, voxels.shape, derivation)
    content = _digest_of_finite(voxels)
    output_dir = Path(output_dir)
    with _readable("the first image"):
        volume = (series.volume, series.label)
        shared = shared_header(slices, [*_source_names(series), content], series.modality, derivation, volume)
    made = list(_made(series, voxels, output_dir, derivation, shared))
    images = [one for one, _ in made if isinstance(one, Dataset)]
    paths = [one for one, _ in made if isinstance(one, Path)]
    series_uid, n_clipped = shared.series_instance_uid, sum(clipped for _, clipped in made)
    if images:
        series_uid = named_uid("enhanced", series_uid)
        with _readable("the series"):
            uids = series_uid, named_uid("image", series_uid)
            image = multiframe_object(images, series.headers, series.modality, *uids)
            paths.append(_written(image, output_dir / "IM0001.dcm", derivation.transfer_syntax))
    return WrittenSeries(tuple(paths), series_uid, n_clipped)


def _made(
    series: DicomSeries,
    voxels: npt.NDArray[np.float32],
    output_dir: Path,
    derivation: Derivation,
    shared: SharedHeader,
) -> Iterator[tuple[Dataset | Path, int]]:
    """Each image in order, in its file or as part of one object, and how many of its voxels were clipped."""
    slices, is_one = shared.slices, derivation.dicom_form == "enhanced"
    # Readers of enhanced objects apply one slope to all frames.
    of_all = _extremes(voxels) if is_one and series.modality == "PT" else None

    def place(k: int) -> str:
        return f"image {k + 1} of {len(slices)} in slice order"

    def finished(k: int, image: Dataset) -> tuple[Dataset | Path, int]:
        slice_ = voxels[:, :, k].T
        extremes = of_all or (_extremes(slice_) if series.modality == "PT" else None)
        clipped = _set_pixels(image, slices.nearest(k), slice_, extremes)
        with _readable(place(k)):
            if is_one:
                image.file_meta = _file_meta(image)
                return parsed_copy(correct_ambiguous_vr(image, True)), clipped
            return _written(image, output_dir / f"IM{k + 1:04d}.dcm", derivation.transfer_syntax), clipped

    def begun() -> Iterator[Callable[[], tuple[Dataset | Path, int]]]:
        for k in range(len(slices)):
            with _readable(place(k)):
                image = derived_header(k, shared)
            yield partial(finished, k, image)

    return in_threads(begun())


@contextmanager
def _readable(place: str) -> Iterator[None]:
    """Attributes are parsed only here, and pydicom quotes what it does not like about them."""
    try:
        with quiet_pydicom():
            yield
    except (LdmsrError, MemoryError):
        raise
    except Exception:
        raise CorruptSourceError(
            f"An attribute of {place} is damaged and cannot be written again, so no result is written. Fetch the "
            "series again.",
            ReasonCode.UNREADABLE_FILE,
        ) from None


def _source_names(series: DicomSeries) -> list[str]:
    """SOP Instance UID (and frame) and digest of the voxels: some tools change pixels under the old UID."""
    return [
        f"{sop_instance(header)} {getattr(header, 'frame_number', '')} "
        f"{hashlib.sha256(series.voxels[:, :, k].tobytes()).hexdigest()}"
        for k, header in enumerate(series.headers)
    ]


def _check_grid(series: DicomSeries, shape: tuple[int, ...], derivation: Derivation) -> None:
    """Refuse a result that has not one image of the right size for each of the source's, or of those planned."""
    n_images, grid, plan = len(series.headers), derivation.grid, derivation.plan
    geometry = series.geometry.upsampled(grid)
    n_planned = n_images if plan is None else plan.n_source
    if tuple(shape) != geometry.shape or {n_images, n_planned} != {series.geometry.shape[2]}:
        raise SettingsError(
            f"The result has shape {tuple(shape)}, but factor {grid} of a source of shape "
            f"{series.geometry.shape} with {n_images} images ({n_planned} of them planned) makes {geometry.shape}."
        )
    if plan is None and grid.has_own_slices:
        raise SettingsError(
            f"The result has {shape[2]} slices of {n_images} images without a plan, so it is uncertain which images "
            "each comes from. Give the SlicePlan by which they were made."
        )
    if max(geometry.shape[:2]) > _MAX_MATRIX:
        raise SettingsError(
            f"The result has {max(geometry.shape[:2])} rows or columns, but DICOM allows {_MAX_MATRIX}. "
            "Use a smaller factor."
        )


def _digest_of_finite(voxels: npt.NDArray[np.float32]) -> str:
    """Hash of all values, whatever their order in memory; refuses the whole volume before the first file is written."""
    digest = hashlib.sha256()
    for k in range(voxels.shape[2]):
        rows = np.ascontiguousarray(voxels[:, :, k].T)
        n_bad = rows.size - int(np.count_nonzero(np.isfinite(rows)))
        if n_bad:
            raise OutputError(
                f"{n_bad} voxels of slice {k + 1} of {voxels.shape[2]} are not finite, so the result is not "
                "written. Run again without reduced precision; if it stays, check the weights."
            )
        digest.update(rows.data)
    return digest.hexdigest()


def _extremes(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _set_pixels(
    image: Dataset, source: Dataset, values: npt.NDArray[np.float32], extremes: tuple[float, float] | None
) -> int:
    """Store ``values`` (rows, columns) in ``image`` and return how many were clipped.

    ``extremes`` are the least and greatest value that a slope of PET must hold; None keeps the source's.
    """
    low, high = StoredType(image, "The image").range
    if extremes is not None:
        image.RescaleIntercept = 0
        image.RescaleSlope = _pet_slope(*extremes, low, high)
    slope, intercept = float(image.get("RescaleSlope") or 1.0), float(image.get("RescaleIntercept") or 0.0)
    stored = np.rint((values.astype(np.float64) - intercept) / slope)
    n_clipped = int(np.count_nonzero((stored < low) | (stored > high)))
    sign = "i" if low < 0 else "u"
    pixels = np.clip(stored, low, high).astype(f"<{sign}{int(image.BitsAllocated) // 8}", order="C")
    image.Rows, image.Columns = pixels.shape
    for keyword, extreme in (
        ("SmallestImagePixelValue", pixels.min()),
        ("LargestImagePixelValue", pixels.max()),
    ):
        if keyword in source and int(image.BitsStored) <= 16:
            setattr(image, keyword, int(extreme))
    stored_bytes = pixels.tobytes()
    image.PixelData = stored_bytes + b"\0" * (len(stored_bytes) % 2)
    image["PixelData"].VR = "OB" if int(image.BitsAllocated) == 8 else "OW"
    return n_clipped


def _pet_slope(least: float, greatest: float, low: int, high: int) -> DSfloat:
    """Least slope by which values from ``least`` to ``greatest`` fit, as a decimal string; 1 where all are 0."""
    slope = max(greatest / high, least / low if low < 0 else 0.0)
    return DSfloat(slope if slope > 0 else 1.0, auto_format=True)


def _written(image: Dataset, path: Path, syntax: str) -> Path:
    """Write ``image`` to disk, not only to the system's cache."""
    image.file_meta = _file_meta(image)
    image = correct_ambiguous_vr(image, True)
    compress(image, syntax)
    with output_errors(f"Image {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with synced_file(path) as file:
            dcmwrite(file, image, enforce_file_format=True)
    return path


def _file_meta(image: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "MONAI_LDMSR"
    return meta


def is_of_another_source(folder: Path, source: DicomSeries) -> bool:
    """Whether the derived series in a result folder names source images, and none of them is of this source.

    A series may have grown or been repaired since.

    Args:
        folder: folder of a result; it need not exist.
        source: what a result is about to be made of.
    """
    own = {sop_instance(header) for header in source.headers} - {""}
    is_named = False
    for path in sorted((folder / "dicom").glob("*.dcm")):
        named = _source_images(path)
        if named & own:
            return False
        is_named = is_named or bool(named)
    return is_named and bool(own)


def _source_images(path: Path) -> set[str]:
    """SOP Instance UIDs of what a derived image was made of; nothing where it is damaged, and so no result."""
    try:
        with quiet_pydicom():
            tags = ["SourceImageSequence", "SourceImageEvidenceSequence"]
            image = dcmread(path, stop_before_pixels=True, specific_tags=tags)
            items = list(image.get("SourceImageSequence") or [])
            for study in image.get("SourceImageEvidenceSequence") or []:
                items += [item for series in study.ReferencedSeriesSequence for item in series.ReferencedSOPSequence]
            return {str(item.ReferencedSOPInstanceUID) for item in items}
    except Exception:
        return set()

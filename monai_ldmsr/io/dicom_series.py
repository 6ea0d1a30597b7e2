"""Read one DICOM series into a volume: check, sort, place in the patient, decode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.dicom_doubts import doubts
from monai_ldmsr.io.dicom_header import (
    ImagePlane,
    image_plane,
    number_list,
    quiet_pydicom,
    read_header,
    text,
)
from monai_ldmsr.io.dicom_pixels import StoredType, padding_range, stored_pixels
from monai_ldmsr.io.discovery import (
    PLANE_TOLERANCE,
    POSITION_TOLERANCE_MM,
    SeriesFiles,
    SkippedItem,
    find_dicom_series,
)
from monai_ldmsr.io.volume_file import MAX_VOXELS

__all__ = ["DicomSeries", "read_dicom_series"]

FloatArray = npt.NDArray[np.float64]

#: Slice distances that differ from the usual one by more than this part of it are reported.
SPACING_TOLERANCE = 0.01

#: A distance of more than this many usual ones counts as a gap where an image may be missing.
GAP_FACTOR = 1.5

#: Below this angle between slice positions and normal, the slices count as stacked straight.
TILT_TOLERANCE_DEGREES = 0.5

#: Slices further than this part of a voxel from the straight line through their positions are reported.
STRAIGHTNESS_TOLERANCE = 0.5

_SKIP_REASONS = {
    ReasonCode.NOT_AN_IMAGE,
    ReasonCode.UNSUPPORTED_SOP_CLASS,
    ReasonCode.UNSUPPORTED_MODALITY,
    ReasonCode.UNSUPPORTED_PIXELS,
    ReasonCode.UNSUPPORTED_DIMENSIONS,
    ReasonCode.LOCALIZER,
    ReasonCode.OWN_RESULT,
}
_CORRUPT_REASONS = {ReasonCode.UNREADABLE_FILE, ReasonCode.TOO_LARGE}


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """One volume that a DICOM series holds.

    Args:
        case: 12 hexadecimal digits that stand for the series; no patient data.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        unit: ``"HU"``, the PET Units value such as ``"BQML"``, or ``"stored"``.
        headers: one data set a slice, ascending along the normal, without pixel data, with ``file_meta``.
        voxels: (I, J, K) float32, rescaled to ``unit``; i is the column, j the row, k the slice.
        geometry: where the voxels are, in RAS.
        value_range: least and greatest value that the stored type can hold after rescale, over all slices.
        padding: (I, J, K), true where Pixel Padding Value (or its range) stands; ``None`` if nowhere.
        warnings: what was unusual, for the report.
    """

    case: str
    modality: str
    unit: str
    headers: tuple[Dataset, ...] = field(repr=False)
    voxels: npt.NDArray[np.float32] = field(repr=False)
    geometry: VolumeGeometry
    value_range: tuple[float, float]
    padding: npt.NDArray[np.bool_] | None = field(repr=False)
    warnings: tuple[str, ...]


def read_dicom_series(source: str | Path | SeriesFiles) -> DicomSeries:
    """Read the one volume of a DICOM series.

    Slices are sorted by their positions along the normal (growing column index x growing row index); file
    names and Instance Number do not matter. No slice is ever dropped: what cannot be read right is refused.

    Args:
        source: what :func:`find_dicom_series` lists; or a folder with exactly one usable series; or one file.

    Raises:
        SkippedSourceError: it is no CT, MR or PET image series.
        CorruptSourceError: its bytes are damaged.
        SourceError: it cannot be read rightly; ``error.reason`` says why. Several series in the folder are
            ``UNSUPPORTED_DIMENSIONS``.
    """
    files = source if isinstance(source, SeriesFiles) else _only_series(Path(source))
    with quiet_pydicom():
        headers = [_header(path, files.paths) for path in files.paths]
        planes = _planes(headers)
        order = np.argsort([plane.position_mm @ planes[0].normal for plane in planes], kind="stable")
        headers, planes = [headers[k] for k in order], [planes[k] for k in order]
        paths = [files.paths[k] for k in order]
        warnings = list(files.warnings)
        _check_one_grid(headers, planes)
        geometry = _geometry(headers, planes, warnings)
        unit = _unit(files.modality, headers, warnings)
        rescales = _rescales(files.modality, headers)
        _check_monochrome(files.modality, headers, warnings)
        value_range = _value_range(headers, rescales)
        warnings += doubts(files.modality, headers, value_range[0])
        voxels, padding = _voxels(paths, headers, rescales, warnings)
        return DicomSeries(
            case=files.case,
            modality=files.modality,
            unit=unit,
            headers=tuple(headers),
            voxels=voxels,
            geometry=geometry,
            value_range=value_range,
            padding=padding,
            warnings=tuple(warnings),
        )


def _only_series(source: Path) -> SeriesFiles:
    found, skipped = find_dicom_series(source)
    if len(found) == 1:
        return found[0]
    if found:
        raise SourceError(
            f"The source holds {len(found)} series or volumes, but one is needed. "
            "List them with find_dicom_series and read each.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    raise _nothing_usable(skipped)


def _nothing_usable(skipped: Sequence[SkippedItem]) -> SourceError:
    """The error for the reason that tells most: anything rather than "not an image"."""
    if not skipped:
        return SourceError("The source holds no DICOM file.", ReasonCode.EMPTY_SOURCE)
    item = min(skipped, key=lambda item: (item.reason is ReasonCode.NOT_AN_IMAGE, -item.n_files))
    message = f"None of {sum(item.n_files for item in skipped)} files can be used. {item.message}"
    if item.reason in _SKIP_REASONS:
        return SkippedSourceError(message, item.reason)
    return (CorruptSourceError if item.reason in _CORRUPT_REASONS else SourceError)(message, item.reason)


def _header(path: Path, paths: Sequence[Path]) -> Dataset:
    header = read_header(path)
    if header is None:
        raise CorruptSourceError(
            f"1 of {len(paths)} images of the series is gone or is no DICOM file any more.",
            ReasonCode.UNREADABLE_FILE,
        )
    return header


def _planes(headers: Sequence[Dataset]) -> list[ImagePlane]:
    n_short = sum(not (text(header, "Rows") and text(header, "Columns")) for header in headers)
    if n_short:
        raise CorruptSourceError(
            f"{n_short} of {len(headers)} images have no Rows or Columns: their headers are cut short, the "
            "files truncated. Fetch the series again.",
            ReasonCode.TRUNCATED_PIXELS,
        )
    planes = [image_plane(header) for header in headers]
    good = [plane for plane in planes if plane is not None]
    if len(good) < len(planes):
        raise SourceError(
            "(0020,0032) 'Image Position (Patient)', (0020,0037) 'Image Orientation (Patient)' or "
            f"(0028,0030) 'Pixel Spacing' is missing or impossible in {len(planes) - len(good)} of "
            f"{len(planes)} images, so the voxels have no place in the patient.",
            ReasonCode.NO_GEOMETRY,
        )
    return good


def _check_one_grid(headers: Sequence[Dataset], planes: Sequence[ImagePlane]) -> None:
    matrices = {(text(header, "Rows"), text(header, "Columns")) for header in headers}
    numbers = np.array([[*plane.cosines, *plane.pixel_spacing_mm] for plane in planes])
    # Twice: the tolerance holds between each image and the first one of its group.
    if len(matrices) > 1 or np.ptp(numbers, axis=0).max() > 2 * PLANE_TOLERANCE:
        raise SourceError(
            f"The {len(headers)} images differ in matrix, orientation or pixel spacing, so they are no "
            "volume. Group them with find_dicom_series.",
            ReasonCode.MIXED_MATRIX,
        )


def _geometry(headers: Sequence[Dataset], planes: Sequence[ImagePlane], warnings: list[str]) -> VolumeGeometry:
    """Grid of the sorted images; appends to ``warnings`` what is irregular about it."""
    first = planes[0]
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(planes))
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise SourceError(
            f"The series has {shape[0]} x {shape[1]} x {shape[2]} voxels; the limit is {MAX_VOXELS}.",
            ReasonCode.TOO_LARGE,
        )
    if len(planes) == 1:
        axis, slice_mm = first.normal, _single_slice_spacing(headers[0], warnings)
    else:
        axis, slice_mm = _stack(planes, warnings)
    row_mm, column_mm = first.pixel_spacing_mm
    cosines = np.array(first.cosines)
    direction = np.stack([cosines[:3], cosines[3:], axis], axis=1)
    return VolumeGeometry.from_lps(shape, first.position_mm, direction, (column_mm, row_mm, slice_mm))


def _single_slice_spacing(header: Dataset, warnings: list[str]) -> float:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        # Some scanners write the sense of the stack as a minus sign.
        spacing = abs((number_list(header, keyword, 1) or (0.0,))[0])
        if spacing > 0:
            return spacing
    warnings.append("The one image has neither Spacing Between Slices nor Slice Thickness: 1 mm is assumed.")
    return 1.0


def _stack(planes: Sequence[ImagePlane], warnings: list[str]) -> tuple[FloatArray, float]:
    """Unit direction (LPS) and length in mm of the step from slice to slice."""
    normal = planes[0].normal
    positions = np.array([plane.position_mm for plane in planes])
    along = positions @ normal
    spacing = _usual_distance(np.diff(along), warnings)
    step = (positions[-1] - positions[0]) / (along[-1] - along[0])
    tilt = float(np.degrees(np.arccos(np.clip(1 / np.linalg.norm(step), -1, 1))))
    if tilt > TILT_TOLERANCE_DEGREES:
        warnings.append(
            f"Slices are stacked {tilt:.1f} degrees off their normal (gantry tilt; tolerance "
            f"{TILT_TOLERANCE_DEGREES} degrees): the volume is sheared, and its affine says so."
        )
        axis = np.asarray(step / np.linalg.norm(step))
        spacing *= float(np.linalg.norm(step))
    else:
        axis = normal
    away = np.linalg.norm(positions - positions[0] - np.outer(along - along[0], step), axis=1).max()
    limit = STRAIGHTNESS_TOLERANCE * min(planes[0].pixel_spacing_mm)
    if away > limit:
        warnings.append(
            f"Slices are shifted in-plane against each other by up to {away:.2f} mm (tolerance {limit:.2f} "
            "mm): the volume's affine is an average; each slice keeps its own place."
        )
    return axis, spacing


def _usual_distance(distances: FloatArray, warnings: list[str]) -> float:
    """Usual distance in mm between neighbouring slices: the mean of those alike, else the lower median.

    Raises:
        SourceError: ``DUPLICATE_POSITION``.
    """
    repeats = np.flatnonzero(distances <= POSITION_TOLERANCE_MM)
    if len(repeats):
        raise SourceError(
            f"{len(repeats)} of {len(distances) + 1} images stand at the position of another one "
            f"(the first: slices {repeats[0] + 1} and {repeats[0] + 2}; tolerance {POSITION_TOLERANCE_MM} "
            "mm), and no attribute tells them apart. Remove the images that do not belong to the volume.",
            ReasonCode.DUPLICATE_POSITION,
        )
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    tolerance = SPACING_TOLERANCE * usual
    odd = np.flatnonzero(np.abs(distances - usual) > tolerance)
    gaps = odd[distances[odd] > GAP_FACTOR * usual]
    warnings.extend(
        f"Slices {k + 1} and {k + 2} are {distances[k]:.2f} mm apart, but the others are {usual:.2f} mm "
        f"apart (tolerance {tolerance:.3f} mm). An image may be missing."
        for k in gaps
    )
    if len(odd) > len(gaps):
        warnings.append(
            f"Slice distances are uneven: {distances.min():.3f} to {distances.max():.3f} mm, usually "
            f"{usual:.3f} mm (tolerance {tolerance:.3f} mm)."
        )
    return usual if len(odd) else float(distances.mean())


def _unit(modality: str, headers: Sequence[Dataset], warnings: list[str]) -> str:
    if modality == "CT":
        types = {text(header, "RescaleType") for header in headers}
        if types - {"", "HU", "US"}:
            raise SourceError(
                "(0028,1054) 'Rescale Type' of the CT is not HU, so its values are not what the model knows.",
                ReasonCode.BAD_RESCALE,
            )
        if "US" in types:
            warnings.append("(0028,1054) 'Rescale Type' is unspecified: Hounsfield units are assumed.")
        return "HU"
    if modality == "PT":
        units = {text(header, "Units") for header in headers}
        unit = units.pop()
        if units or not re.fullmatch(r"[A-Z0-9_]{1,16}", unit):
            raise SourceError(
                f"(0054,1001) 'Units' of the PET series is missing or not the same in all {len(headers)} images.",
                ReasonCode.BAD_RESCALE,
            )
        return unit
    return "stored"


def _rescales(modality: str, headers: Sequence[Dataset]) -> list[tuple[float, float]]:
    """(slope, intercept) of each image.

    Raises:
        SourceError: ``BAD_RESCALE``.
    """
    keywords = ("RescaleSlope", "RescaleIntercept")
    if modality == "MR" and not any(text(header, keyword) for header in headers for keyword in keywords):
        return [(1.0, 0.0)] * len(headers)
    rescales = []
    for header in headers:
        slope, intercept = (number_list(header, keyword, 1) for keyword in keywords)
        if slope is None or intercept is None or slope[0] == 0 or not np.isfinite(np.float32(slope[0] * 65536)):
            continue
        rescales.append((slope[0], intercept[0]))
    if len(rescales) < len(headers):
        raise SourceError(
            "(0028,1053) 'Rescale Slope' or (0028,1052) 'Rescale Intercept' is missing, zero or not a number "
            f"in {len(headers) - len(rescales)} of {len(headers)} images, so stored values have no meaning.",
            ReasonCode.BAD_RESCALE,
        )
    return rescales


def _check_monochrome(modality: str, headers: Sequence[Dataset], warnings: list[str]) -> None:
    inverted = sum(text(header, "PhotometricInterpretation") == "MONOCHROME1" for header in headers)
    if not inverted:
        return
    if modality != "MR":
        raise SourceError(
            f"{inverted} of {len(headers)} images are MONOCHROME1 (low values shown bright), which "
            f"{modality} does not use: it is uncertain what their values mean.",
            ReasonCode.MONOCHROME1,
        )
    warnings.append(f"{inverted} of {len(headers)} images are MONOCHROME1: values are kept as stored.")


def _voxels(
    paths: Sequence[Path],
    headers: Sequence[Dataset],
    rescales: Sequence[tuple[float, float]],
    warnings: list[str],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
    """Decode all slices: (I, J, K) rescaled values, and where padding stands."""
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    # Column-major, so that each slice is one block of memory laid out as DICOM stores it.
    voxels = np.empty(shape, dtype=np.float32, order="F")
    padding = np.zeros(shape, dtype=np.bool_, order="F")
    n_extra_bits = 0
    for k, (path, header, (slope, intercept)) in enumerate(zip(paths, headers, rescales, strict=True)):
        place = f"Image {k + 1} of {len(headers)} in slice order"
        stored, has_extra_bits = stored_pixels(path, header, place)
        n_extra_bits += has_extra_bits
        plane = stored.T
        voxels[:, :, k] = plane * slope + intercept
        padded = padding_range(header, StoredType(header, place))
        if padded is not None:
            padding[:, :, k] = (plane >= padded[0]) & (plane <= padded[1])
    if n_extra_bits:
        warnings.append(f"{n_extra_bits} images have bits set outside Bits Stored (overlays): left out of the values.")
    return voxels, padding if padding.any() else None


def _value_range(headers: Sequence[Dataset], rescales: Sequence[tuple[float, float]]) -> tuple[float, float]:
    ends = [
        end * slope + intercept
        for header, (slope, intercept) in zip(headers, rescales, strict=True)
        for end in StoredType(header, "An image").range
    ]
    return min(ends), max(ends)

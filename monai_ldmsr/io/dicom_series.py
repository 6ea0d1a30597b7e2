"""Read one DICOM series into a volume: check, sort, place in the patient, decode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.tag import Tag

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.dicom_header import (
    PET_UNITS,
    ImagePlane,
    image_plane,
    matrix_size,
    modality_of,
    number_list,
    quiet_pydicom,
    read_header,
    text,
)
from monai_ldmsr.io.dicom_pixels import StoredType, padding_range, stored_pixels
from monai_ldmsr.io.discovery import find_dicom_series
from monai_ldmsr.io.enhanced_multiframe import FramePixels, image_headers
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.plausible_values import (
    LARGEST_VALUE,
    LEAST_SLOPE,
    Resolution,
    mark_impossible,
    negative_pet,
    plausibility_warnings,
)
from monai_ldmsr.io.series_grouping import SeriesFiles, SkippedItem
from monai_ldmsr.io.slice_stack import StackFault, single_slice_spacing, slice_thickness, stack_fault, stack_step
from monai_ldmsr.io.stack_parts import is_parallel
from monai_ldmsr.io.value_meaning import may_be_scale
from monai_ldmsr.storage import new_array

__all__ = ["DicomSeries", "read_dicom_series"]

_SKIP_REASONS = {
    ReasonCode.NOT_AN_IMAGE,
    ReasonCode.UNSUPPORTED_SOP_CLASS,
    ReasonCode.UNSUPPORTED_MODALITY,
    ReasonCode.UNSUPPORTED_PIXELS,
    ReasonCode.UNSUPPORTED_DIMENSIONS,
    ReasonCode.LOCALIZER,
    ReasonCode.PHASE_IMAGE,
    ReasonCode.OWN_RESULT,
}
#: Rescale Type of a CT in Hounsfield units, in capitals, as exporters write it.
_HOUNSFIELD = re.compile(r"H\.?U\.?|HOUNSFIELDS?([ _-]?UNITS?)?|HNSF(_U)?|\[HNSF'U\]")


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """One volume that a DICOM series holds.

    Args:
        case: 12 hexadecimal digits that stand for the series; no patient data.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        unit: ``"HU"``, the PET Units value such as ``"BQML"`` (``"other"`` for no defined term), or ``"stored"``.
        headers: one data set a slice, ascending along the normal, without pixel data, with ``file_meta``.
        voxels: (I, J, K) float32, rescaled to ``unit``; i is the column, j the row, k the slice.
        geometry: where the voxels are, in RAS.
        value_range: least and greatest value that the stored type can hold after rescale, over all slices.
        padding: (I, J, K), true where Pixel Padding Value (or its range), or in CT no possible value, stands; ``None``
            if nowhere.
        warnings: what was unusual, for the report.
        volume: see :class:`~monai_ldmsr.io.series_grouping.SeriesFiles`.
        label: likewise.
        slice_thickness_mm: Slice Thickness, where all headers say the same; None where they do not.
        stack_fault: why no new slices can be made between its slices; None where they lie evenly and straight.
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
    volume: int = 0
    label: str = field(default="", repr=False)
    slice_thickness_mm: float | None = None
    stack_fault: StackFault | None = None


def read_dicom_series(source: str | Path | SeriesFiles, limits: ReadLimits = DEFAULT_LIMITS) -> DicomSeries:
    """Read the one volume of a DICOM series.

    Slices are sorted by their positions along the normal (growing column index x growing row index); file
    names and Instance Number do not matter. No slice is ever dropped: what cannot be read right is refused.

    Args:
        source: what :func:`find_dicom_series` lists; or a folder with exactly one usable series; or one file.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Raises:
        SkippedSourceError: it is no CT, MR or PET image series.
        CorruptSourceError: its bytes are damaged.
        SourceError: it cannot be read rightly; ``error.reason`` says why. Several series in the folder are
            ``UNSUPPORTED_DIMENSIONS``.
    """
    files = source if isinstance(source, SeriesFiles) else _only_series(Path(source), limits)
    with quiet_pydicom():
        headers = image_headers(files.paths, files.frames, lambda path: _header(path, files, limits))
        planes = _planes(headers)
        if any(modality_of(header) != files.modality for header in headers):
            raise _changed(files)
        order = np.argsort([plane.position_mm @ planes[0].normal for plane in planes], kind="stable")
        headers, planes = [headers[k] for k in order], [planes[k] for k in order]
        paths = [files.paths[k] for k in order]
        _share_owner(headers)
        warnings = list(files.warnings)
        _check_one_grid(headers, planes)
        geometry = _geometry(headers, planes, warnings, limits)
        unit = _unit(files.modality, headers, warnings)
        rescales = _rescales(files.modality, headers)
        _check_monochrome(files.modality, headers, warnings)
        value_range = _value_range(headers, rescales)
        warnings += plausibility_warnings(files.modality, headers, value_range[0])
        voxels, padding = _voxels(paths, headers, rescales, warnings, limits)
        if files.modality == "CT":
            warnings += mark_impossible(voxels, padding)
        if files.modality == "PT":
            signed = [StoredType(header, "An image").signed for header in headers]
            warnings += negative_pet(voxels, padding, [abs(slope) for slope, _ in rescales], signed)
        return DicomSeries(
            case=files.case,
            volume=files.volume,
            label=files.label,
            modality=files.modality,
            unit=unit,
            headers=tuple(headers),
            voxels=voxels,
            geometry=geometry,
            value_range=value_range,
            padding=padding if padding.any() else None,
            warnings=tuple(warnings),
            slice_thickness_mm=slice_thickness(headers),
            stack_fault=stack_fault(planes),
        )


def _only_series(source: Path, limits: ReadLimits) -> SeriesFiles:
    found, skipped = find_dicom_series(source, limits)
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
    """The error for the reason that says most: anything rather than "not an image"."""
    if not skipped:
        return SourceError("The source holds no DICOM file.", ReasonCode.EMPTY_SOURCE)
    item = min(skipped, key=lambda item: (item.reason is ReasonCode.NOT_AN_IMAGE, -item.n_files))
    message = f"None of {sum(item.n_files for item in skipped)} files can be used. {item.message}"
    if item.reason in _SKIP_REASONS:
        return SkippedSourceError(message, item.reason)
    return (CorruptSourceError if item.reason is ReasonCode.UNREADABLE_FILE else SourceError)(message, item.reason)


def _header(path: Path, files: SeriesFiles, limits: ReadLimits) -> Dataset:
    header = read_header(path, limits)
    if header is None:
        raise _changed(files)
    # Other private elements reach no result, and may be most of a header.
    for tag in [tag for tag, _ in header.items() if tag.is_private and not may_be_scale(tag)]:
        del header[tag]
    return header


def _changed(files: SeriesFiles) -> CorruptSourceError:
    return CorruptSourceError(
        f"1 or more of {len(files.paths)} images of the series are gone, or are no {files.modality} images any more. "
        "Wait until the series is complete, and run again.",
        ReasonCode.UNREADABLE_FILE,
    )


def _share_owner(headers: Sequence[Dataset]) -> None:
    """Give all slices study, patient and frame of reference of the first, where they differ: a series is of one."""
    for tag in (Tag("StudyInstanceUID"), Tag("PatientID"), Tag("FrameOfReferenceUID")):
        # As they are: a value that is looked at would be written in other bytes.
        found = [header.get_item(tag) for header in headers if tag in header]
        if found and (len(found) < len(headers) or any(element.value != found[0].value for element in found)):
            for header in headers:
                header[tag] = found[0]


def _planes(headers: Sequence[Dataset]) -> list[ImagePlane]:
    n_short = sum(matrix_size(header) is None for header in headers)
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
    matrices = {matrix_size(header) for header in headers}
    # Twice: the tolerance holds between each image and the first one of its group.
    if len(matrices) > 1 or not all(is_parallel(planes[0], plane, times=2) for plane in planes):
        raise SourceError(
            f"The {len(headers)} images differ in matrix, orientation or pixel spacing, so they are no "
            "volume. Group them with find_dicom_series.",
            ReasonCode.MIXED_MATRIX,
        )


def _geometry(
    headers: Sequence[Dataset], planes: Sequence[ImagePlane], warnings: list[str], limits: ReadLimits
) -> VolumeGeometry:
    """Grid of the sorted images; appends to ``warnings`` what is irregular about it."""
    first = planes[0]
    rows, columns = matrix_size(headers[0]) or (0, 0)
    shape = (columns, rows, len(planes))
    limits.check_voxels("The series", shape)
    if len(planes) == 1:
        axis, slice_mm = first.normal, single_slice_spacing(headers[0], warnings)
    else:
        axis, slice_mm = stack_step(planes, warnings)
    row_mm, column_mm = first.pixel_spacing_mm
    cosines = np.array(first.cosines)
    direction = np.stack([cosines[:3], cosines[3:], axis], axis=1)
    return VolumeGeometry.from_lps(shape, first.position_mm, direction, (column_mm, row_mm, slice_mm))


def _unit(modality: str, headers: Sequence[Dataset], warnings: list[str]) -> str:
    if modality == "CT":
        types = {text(header, "RescaleType").upper() for header in headers}
        if not all(kind in ("", "US") or _HOUNSFIELD.fullmatch(kind) for kind in types):
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
        if unit not in PET_UNITS:
            warnings.append("(0054,1001) 'Units' is no defined term: values are taken as they are.")
            return "other"
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
        if slope is None or intercept is None or abs(slope[0]) < LEAST_SLOPE:
            continue
        rescales.append((slope[0], intercept[0]))
    if len(rescales) < len(headers):
        raise SourceError(
            "(0028,1053) 'Rescale Slope' or (0028,1052) 'Rescale Intercept' is missing, (nearly) zero or not a "
            f"number in {len(headers) - len(rescales)} of {len(headers)} images, so stored values have no meaning.",
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
    limits: ReadLimits,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Decode all slices: (I, J, K) rescaled values, and where padding stands.

    Raises:
        SourceError: ``BAD_RESCALE`` when single precision cannot distinguish stored values.
    """
    rows, columns = matrix_size(headers[0]) or (0, 0)
    shape = (columns, rows, len(headers))
    stored_bytes = sum(path.stat().st_size for path in set(paths) if path.is_file())
    decoded_bytes = shape[0] * shape[1] * sum(StoredType(header, "An image").bits_allocated // 8 for header in headers)
    limits.check_expansion("The series", decoded_bytes, stored_bytes)
    # Column-major, so that each slice is one block of memory laid out as DICOM stores it.
    voxels, padding = new_array(shape, np.float32, "F"), new_array(shape, np.bool_, "F")
    n_extra_bits, frames, resolution = 0, FramePixels(limits), Resolution()
    for k, (path, header, (slope, intercept)) in enumerate(zip(paths, headers, rescales, strict=True)):
        place = f"Image {k + 1} of {len(headers)} in slice order"
        stored, has_extra_bits = stored_pixels(path, header, place, limits, frames)
        n_extra_bits += has_extra_bits
        plane = stored.T
        voxels[:, :, k] = plane * slope + intercept
        resolution.check(plane, voxels[:, :, k], slope, place)
        padded = padding_range(header, StoredType(header, place))
        padding[:, :, k] = False if padded is None else (plane >= padded[0]) & (plane <= padded[1])
    if n_extra_bits:
        warnings.append(f"{n_extra_bits} images have bits set outside Bits Stored (overlays): left out of the values.")
    warnings += resolution.warnings
    return voxels, padding


def _value_range(headers: Sequence[Dataset], rescales: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least and greatest value that the stored types can hold.

    Raises:
        SourceError: ``BAD_RESCALE`` when single precision cannot hold them.
    """
    ends = [
        [end * slope + intercept for end in StoredType(header, "An image").range]
        for header, (slope, intercept) in zip(headers, rescales, strict=True)
    ]
    n_bad = int((np.abs(ends).max(axis=1) > LARGEST_VALUE).sum())
    if n_bad:
        raise SourceError(
            "(0028,1053) 'Rescale Slope' or (0028,1052) 'Rescale Intercept' is too large for single precision in "
            f"{n_bad} of {len(headers)} images. Repair the header, or export rescaled values.",
            ReasonCode.BAD_RESCALE,
        )
    return float(np.min(ends)), float(np.max(ends))

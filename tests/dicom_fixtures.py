"""Clean synthetic DICOM series with known truth.

Rows differ from columns, row spacing from column spacing, and the orientation is oblique, so that a swapped
axis, a flipped normal or a dropped slice shows up. Patient attributes hold a marker for privacy tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)
from pydicom.valuerep import DSfloat

MARKER = "MARKER^PATIENT"
MARKER_ID = "MARKER-ID-4711"

#: (row spacing, column spacing, slice distance) in mm: all three differ.
SPACING_MM = (0.7, 0.9, 2.5)

_SOP_CLASS = {"CT": CTImageStorage, "MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}


@dataclass(frozen=True)
class MadeSeries:
    """What :func:`make_series` wrote, in slice order k along the normal (not in file-name order)."""

    paths: list[Path]
    stored: npt.NDArray[np.int64]  # (rows, columns, slices) stored integers
    values: npt.NDArray[np.float64]  # (rows, columns, slices) after rescale, in the unit of the modality
    origin_lps_mm: npt.NDArray[np.float64]  # (3,) centre of the first voxel of the first slice
    direction_lps: npt.NDArray[np.float64]  # (3, 3) columns: growing column, growing row, growing slice
    spacing_mm: tuple[float, float, float]  # along column index, row index, slice


def oblique_orientation() -> list[float]:
    """Image Orientation (Patient) turned about all three axes: 6 direction cosines."""
    a, b, c = np.deg2rad([12.0, -17.0, 23.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = about_z @ about_y @ about_x
    return [*turned[:, 0], *turned[:, 1]]


def phantom(rows: int, columns: int, slices: int) -> npt.NDArray[np.float64]:
    """(rows, columns, slices) in [0, 1]: smooth body, off-centre organ, corner landmark, slice ramp."""
    r, c, k = np.meshgrid(
        np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), np.linspace(0, 1, slices), indexing="ij"
    )
    body = 0.5 / (1 + np.exp(12 * (np.hypot(r / 0.8, c / 0.9) - 1)))
    organ = 0.25 * np.exp(-((r + 0.3) ** 2 + (c - 0.4) ** 2) / 0.05)
    landmark = 0.15 * ((r < -0.7) & (c < -0.5))
    return np.asarray(np.clip(body + organ + landmark + 0.1 * k, 0, 1))


def _ds(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)


def _common(modality: str, uids: dict[str, str]) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = _SOP_CLASS[modality]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240102"
    ds.StudyTime, ds.SeriesTime, ds.AcquisitionTime, ds.ContentTime = "101500", "101600", "101630", "101640"
    ds.AccessionNumber = "A1"
    ds.Modality = modality
    ds.Manufacturer = "MadeUpScanner"
    ds.ManufacturerModelName = "Phantom 1"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1.0"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Phantom study"
    ds.SeriesDescription = f"Phantom {modality}"
    ds.PatientName, ds.PatientID = MARKER, MARKER_ID
    ds.PatientBirthDate, ds.PatientSex, ds.PatientWeight = "19700101", "O", 70
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uids["study"], uids["series"]
    ds.FrameOfReferenceUID = uids["frame"]
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 3, 1
    ds.PositionReferenceIndicator = ""
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "BRAIN"
    return ds


def _add_ct(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP, ds.XRayTubeCurrent, ds.ExposureTime = 120, 200, 500
    ds.ConvolutionKernel = "B30"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400


def _add_mr(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.MagneticFieldStrength = 2000, 80, 8, 1.5
    ds.EchoNumbers, ds.NumberOfAverages, ds.FlipAngle = 1, 1, 90


def _add_pet(ds: Dataset, n_slices: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.Units, ds.CountsSource = "BQML", "EMISSION"
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.NumberOfSlices = n_slices
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT"]
    ds.DecayCorrection, ds.CollimatorType = "START", "NONE"
    ds.RandomsCorrectionMethod, ds.AttenuationCorrectionMethod = "DLYD", "CT"
    ds.ScatterCorrectionMethod = "model"
    ds.ReconstructionMethod = "OSEM"
    ds.FrameReferenceTime, ds.ActualFrameDuration, ds.DecayFactor = 0, 120000, 1.0
    ds.PatientGantryRelationshipCodeSequence = Sequence([_code("102540008", "SCT", "headfirst")])
    orientation = _code("102538003", "SCT", "recumbent")
    orientation.PatientOrientationModifierCodeSequence = Sequence([_code("40199007", "SCT", "supine")])
    ds.PatientOrientationCodeSequence = Sequence([orientation])
    del ds.PatientPosition
    drug = Dataset()
    drug.Radiopharmaceutical, drug.RadiopharmaceuticalStartTime = "FDG", "091500"
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = 370000000, 6586.2
    drug.RadionuclidePositronFraction = 0.97
    drug.RadionuclideCodeSequence = Sequence([_code("77004003", "SCT", "^18^Fluorine")])
    drug.RadiopharmaceuticalCodeSequence = Sequence([_code("35321007", "SCT", "Fluorodeoxyglucose F^18^")])
    ds.RadiopharmaceuticalInformationSequence = Sequence([drug])


def _place(
    ds: Dataset,
    k: int,
    cosines: npt.NDArray[np.float64],
    origin: npt.NDArray[np.float64],
    along: float,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Add identity and image plane of slice k."""
    ds.SOPInstanceUID = generate_uid()
    ds.InstanceNumber = k + 1
    ds.ImageOrientationPatient = [_ds(v) for v in cosines]
    ds.ImagePositionPatient = [_ds(v) for v in origin]
    ds.PixelSpacing = [_ds(spacing_mm[0]), _ds(spacing_mm[1])]
    ds.SliceThickness = _ds(spacing_mm[2])
    ds.SliceLocation = _ds(along)


def _add_modality(ds: Dataset, modality: str, k: int, n_slices: int, slope: float) -> None:
    if modality == "CT":
        _add_ct(ds)
    elif modality == "MR":
        _add_mr(ds)
        ds.SpacingBetweenSlices = ds.SliceThickness
    else:
        _add_pet(ds, n_slices)
        ds.ImageIndex = k + 1
        ds.RescaleIntercept, ds.RescaleSlope = 0, _ds(slope)
        ds.FrameReferenceTime = 1000.0 * k


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _stored(modality: str, pattern: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Stored integers (rows, columns, slices); PET fills the range of every slice again."""
    if modality == "CT":
        return np.rint(pattern * 2000).astype(np.int64)  # -1024 to 976 HU
    if modality == "MR":
        return np.rint(pattern * 1500).astype(np.int64)
    return np.rint(pattern / pattern.max(axis=(0, 1)) * 30000).astype(np.int64)


def _add_pixels(ds: Dataset, modality: str, stored: npt.NDArray[np.int64]) -> None:
    """Add the image pixel module for (rows, columns) stored integers."""
    signed = modality == "PT"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 16
    ds.BitsStored = 16 if signed else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"


def _add_baggage(ds: Dataset) -> None:
    """Add private tags and an overlay: things that a derived image must not carry on."""
    block = ds.private_block(0x0029, "MADEUP PRIVATE", create=True)
    block.add_new(0x10, "LO", MARKER)
    pixels = int(ds.Rows) * int(ds.Columns)
    n_bytes = -(-pixels // 8)
    ds.add_new(0x60000010, "US", int(ds.Rows))
    ds.add_new(0x60000011, "US", int(ds.Columns))
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60003000, "OW", bytes(n_bytes + n_bytes % 2))


def save(ds: Dataset, path: Path, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write ``ds`` as a DICOM file with fresh file meta information."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "")
    meta.TransferSyntaxUID = transfer_syntax
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True, overwrite=True)
    return path


def _set(ds: Dataset, overrides: dict[str, Any], k: int) -> None:
    """Set keywords; ``None`` deletes, a callable gets the slice index k (and may give ``None``)."""
    for keyword, value in overrides.items():
        chosen = value(k) if callable(value) else value
        if chosen is not None:
            setattr(ds, keyword, chosen)
        elif keyword in ds:
            delattr(ds, keyword)


def new_uids() -> dict[str, str]:
    """UIDs that several series, or parts of one, can share."""
    return {key: generate_uid() for key in ("study", "series", "frame")}


def make_series(
    folder: Path,
    modality: str = "CT",
    shape: tuple[int, int, int] = (20, 24, 5),
    *,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    orientation: list[float] | None = None,
    positions_mm: list[float] | None = None,
    uids: dict[str, str] | None = None,
    baggage: bool = True,
    seed: int = 0,
    **overrides: Any,
) -> MadeSeries:
    """Write a clean series into ``folder`` under shuffled names.

    Args:
        folder: created when missing.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``; PET gets another rescale slope in every slice.
        shape: (rows, columns, slices).
        spacing_mm: (row spacing, column spacing, slice distance), as in Pixel Spacing.
        orientation: six direction cosines; oblique by default.
        positions_mm: where each slice stands along the normal, instead of multiples of the slice distance.
        uids: ``study``, ``series`` and ``frame`` to share with another series.
        baggage: add private tags and an overlay.
        seed: of the file names' order.
        **overrides: DICOM keyword to value, to ``None`` (delete) or to a function of the slice index.
    """
    row_mm, column_mm, slice_mm = spacing_mm
    cosines = np.array(oblique_orientation() if orientation is None else orientation)
    normal = np.cross(cosines[:3], cosines[3:])
    along = np.arange(shape[2]) * slice_mm if positions_mm is None else np.array(positions_mm)
    origins = np.array([-31.25, 12.5, 40.75]) + along[:, None] * normal
    uids = {**new_uids(), **(uids or {})}
    stored = _stored(modality, phantom(*shape))
    slopes = np.arange(1, shape[2] + 1) * 0.5 if modality == "PT" else np.ones(shape[2])
    order = np.random.default_rng(seed).permutation(shape[2])
    paths = []
    for k in range(shape[2]):
        ds = _common(modality, uids)
        _place(ds, k, cosines, origins[k], along[k], spacing_mm)
        _add_modality(ds, modality, k, shape[2], slopes[k])
        _add_pixels(ds, modality, stored[:, :, k])
        if baggage:
            _add_baggage(ds)
        _set(ds, overrides, k)
        paths.append(save(ds, folder / f"IM{order[k]:04d}.dcm"))
    direction = np.stack([cosines[:3], cosines[3:], normal], axis=1)
    values = stored * slopes + (-1024.0 if modality == "CT" else 0.0)
    return MadeSeries(paths, stored, values, origins[0], direction, (column_mm, row_mm, slice_mm))


def make_volumes(folder: Path, modality: str, each: list[dict[str, Any]], **common: Any) -> list[MadeSeries]:
    """Write one series of several volumes, in a folder each; what is said of ``each`` goes to :func:`make_series`."""
    common = {"uids": new_uids(), **common}
    return [make_series(folder / f"{n:02d}", modality, **{**common, **one}) for n, one in enumerate(each)]

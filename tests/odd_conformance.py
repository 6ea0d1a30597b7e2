"""What validators find in a result and not in its source, and what no validator sees."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
from dicom_fixtures import has_validators, run_dcentvfy, run_dciodvfy
from independent_readers import READERS, check_corners, corners_ras_mm
from pydicom.uid import DeflatedExplicitVRLittleEndian
from series_by_hand import along_normal, raw_bytes

_AS_THE_SOURCE = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "AcquisitionTime", "BitsStored", "Modality")
_BYTES_OF_THE_SOURCE = ("PatientName", "StudyDescription", "InstitutionName")


def sources_of(results: list[Path], source: Path) -> list[Path]:
    """Source file of each result, by the reference in it."""
    by_uid = {}
    for path in [source] if source.is_file() else source.rglob("*"):
        with suppress(Exception):
            by_uid[pydicom.dcmread(path, force=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID] = path
    found = []
    for path in results:
        (reference,) = pydicom.dcmread(path).SourceImageSequence
        found.append(by_uid[reference.ReferencedSOPInstanceUID])
    return found


def check_conformance(folder: Path, source: Path) -> None:
    """Check the derived series below the case's ``folder`` against the source that it came from."""
    results = sorted((folder / "dicom").glob("*.dcm"))
    sources = sources_of(results, source)
    images = [pydicom.dcmread(path) for path in results]
    for number, (image, path) in enumerate(zip(images, sources, strict=True), start=1):
        check_image_tags(image, pydicom.dcmread(path), number, len(images))
    assert (np.diff([along_normal(image) for image in images]) > 0).all()
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({image.SeriesInstanceUID for image in images}) == 1
    if has_validators():
        check_by_validators(results, sources)


def check_by_validators(results: list[Path], sources: list[Path]) -> None:
    ends = [(paths[0], paths[-1]) for paths in (results, sources)]
    of_result, of_source = ({line for path in paths for line in run_dciodvfy(path)} for paths in ends)
    assert of_result - of_source == set()
    assert set(run_dcentvfy([*sources, *results])) - set(run_dcentvfy(sources)) == set()


def check_image_tags(image: pydicom.Dataset, source: pydicom.Dataset, number: int, count: int) -> None:
    pixels = image.pixel_array
    assert (int(image.Rows), int(image.Columns)) == pixels.shape == (2 * source.Rows, 2 * source.Columns)
    assert image.InstanceNumber == number
    assert image.HighBit == image.BitsStored - 1
    for keyword, extreme in (("SmallestImagePixelValue", pixels.min()), ("LargestImagePixelValue", pixels.max())):
        assert image.get(keyword) == (extreme if keyword in source else None), keyword
    if image.Modality == "PT":
        assert (image.ImageIndex, image.NumberOfSlices, image.RescaleIntercept) == (number, count, 0)
    groups = {element.tag.group for element in image.iterall()}
    assert not [group for group in groups if group % 2 or 0x5000 <= group < 0x5100 or 0x6000 <= group < 0x6100]
    assert image.SOPInstanceUID.startswith("2.25.")
    assert image.SOPInstanceUID != source.SOPInstanceUID
    assert image.ImageType[0] == "DERIVED"
    assert image.ContentQualification == "RESEARCH"
    for keyword in _AS_THE_SOURCE:
        assert image.get(keyword) == source.get(keyword), keyword
    assert image.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")
    for keyword in _BYTES_OF_THE_SOURCE:
        if keyword in source:
            assert image[keyword].value == source[keyword].value
    if source.get("PatientName") and source.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        # Read anew: a value that was looked at is no longer kept as bytes.
        of_image, of_source = (pydicom.dcmread(x.filename, force=True) for x in (image, source))
        assert raw_bytes(of_image, "PatientName") == raw_bytes(of_source, "PatientName")


def check_by_readers(folder: Path, source: Path) -> None:
    """Three independent readers find the result where its source was, and the same values."""
    results = sorted((folder / "dicom").glob("*.dcm"))
    headers = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in sources_of(results, source)]
    expected = corners_ras_mm(source_affine_ras(headers), (headers[0].Columns, headers[0].Rows, len(headers)))
    means = []
    for read in READERS:
        affine, voxels = read(folder / "dicom")
        check_corners(corners_ras_mm(affine, voxels.shape), expected)
        means.append((voxels.mean(), voxels.min(), voxels.max()))
    np.testing.assert_allclose(means, [means[0]] * len(means), rtol=1e-4, atol=1e-3 * np.ptp(means[0]))


def source_affine_ras(headers: list[pydicom.Dataset]) -> np.ndarray:
    """From the headers alone; they ascend along the normal."""
    cosines = np.array(headers[0].ImageOrientationPatient, float)
    row_mm, column_mm = (float(value) for value in headers[0].PixelSpacing)
    begin, end = (np.array(header.ImagePositionPatient, float) for header in (headers[0], headers[-1]))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[:3] * column_mm, cosines[3:] * row_mm
    affine[:3, 2], affine[:3, 3] = (end - begin) / (len(headers) - 1), begin
    return np.diag([-1, -1, 1, 1]) @ affine

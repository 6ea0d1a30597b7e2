"""What validators find in a result and not in its source, and what no validator sees."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from dicom_validators import has_validators, run_dcentvfy, run_dciodvfy
from independent_readers import CORNER_TOLERANCE_MM, READERS, check_corners, corners_ras_mm, source_corners_ras_mm
from odd_run import sources_of
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from series_by_hand import along_normal, raw_bytes

#: Of a result there is one, even where careless de-identification gave each source image another one.
_OWNERS = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID")
_AS_THE_SOURCE = ("AcquisitionTime", "BitsStored")
_BYTES_OF_THE_SOURCE = ("PatientName", "StudyDescription", "InstitutionName")


def check_conformance(folder: Path, source: Path) -> None:
    """Check the derived series below the case's ``folder`` against the source that it came from."""
    results = sorted((folder / "dicom").glob("*.dcm"))
    sources = sources_of(results, source)
    images = [pydicom.dcmread(path) for path in results]
    for number, image, path in zip(expected_numbers(sources), images, sources, strict=True):
        check_image_tags(image, pydicom.dcmread(path), number, len(images))
    for keyword in _OWNERS:
        assert {image.get(keyword) for image in images} == {pydicom.dcmread(sources[0]).get(keyword)}, keyword
    assert (np.diff([along_normal(image) for image in images]) > 0).all()
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({image.SeriesInstanceUID for image in images}) == 1
    if has_validators():
        with TemporaryDirectory() as place:
            check_by_validators(results, [legible(path, Path(place)) for path in sources])


def check_by_validators(results: list[Path], sources: list[Path]) -> None:
    assert run_dciodvfy(*results) - run_dciodvfy(*sources) == set()
    assert entity_errors([*sources, *results]) - entity_errors(sources) == set()


def legible(path: Path, place: Path) -> Path:
    """The file, or a copy that validators can read: inflated, and with the class and UID of the file meta."""
    image = pydicom.dcmread(path)
    deflated = image.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    if image.get("SOPInstanceUID") and image.get("SOPClassUID") and not deflated:
        return path
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID
    if deflated:
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(place / path.name)
    return place / path.name


def entity_errors(paths: list[Path]) -> set[str]:
    """What dcentvfy says, without the names of files: a result may refer to the missing images of its source."""
    return {re.sub(r" for file <.*", "", line) for line in run_dcentvfy(paths)}


def expected_numbers(sources: list[Path]) -> list[int]:
    """1 to n, so that a viewer that sorts by Instance Number shows source and result in the same direction."""
    stored = [pydicom.dcmread(path).get("InstanceNumber") for path in sources]
    falls = len(stored) > 1 and None not in stored and stored == sorted(set(stored), reverse=True)
    return sorted(range(1, len(stored) + 1), reverse=falls)


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
    assert image.Modality == source.Modality.upper()
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
    expected = source_corners_ras_mm(headers)
    # Readers see one even stack: where positions stray from it, one of them may take another pair of slices for it.
    line = np.linspace(headers[0].ImagePositionPatient, headers[-1].ImagePositionPatient, len(headers))
    strays_mm = np.linalg.norm(line - [header.ImagePositionPatient for header in headers], axis=1).max()
    means = []
    for read in READERS:
        affine, voxels = read(folder / "dicom")
        check_corners(corners_ras_mm(affine, voxels.shape), expected, CORNER_TOLERANCE_MM + 3 * strays_mm)
        means.append((voxels.mean(), voxels.min(), voxels.max()))
    np.testing.assert_allclose(means, [means[0]] * len(means), rtol=1e-4, atol=1e-3 * np.ptp(means[0]))

"""JPEG of 12 bits, and all that ITK decodes where pydicom has no decoder: the stored values, or a true refusal."""

from __future__ import annotations

import os
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series
from jpeg_by_hand import PROGRESSIVE, compress, encode, of_blocks
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
)
from series_by_hand import along_normal, rewrite

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io import dicom_pixels
from monai_ldmsr.io.decoder_messages import refuse_damage_in_print
from monai_ldmsr.io.dicom_series import read_dicom_series
from monai_ldmsr.io.itk_decoder import itk_pixels

SHAPE = (20, 28, 4)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_twelve_bits_are_the_original(tmp_path: Path, modality: str, signed: bool) -> None:
    def change(image: pydicom.Dataset) -> None:
        pixels = of_blocks(image.pixel_array.astype(int) - 1500 * signed)
        pixels[:8, :8] = -2048 if signed else 4095
        image.PixelRepresentation = int(signed)
        image.PixelData = pixels.astype("<i2").tobytes()
        originals[image.SOPInstanceUID] = pixels
        image.PixelData = encapsulate([encode(pixels & 0xFFF)])
        image["PixelData"].is_undefined_length = True

    originals: dict[str, np.ndarray] = {}
    made = make_series(tmp_path, modality, SHAPE)
    rewrite(tmp_path, change, JPEGExtended12Bit)
    series = read_dicom_series(tmp_path)
    slope, intercept = (1, -1024) if modality == "CT" else (1, 0)
    for k, header in enumerate(series.headers):
        np.testing.assert_array_equal(series.voxels[:, :, k].T, originals[header.SOPInstanceUID] * slope + intercept)
    if not signed:  # ITK itself takes a signed codestream for an unsigned one
        for path in made.paths:
            k = [header.SOPInstanceUID for header in series.headers].index(pydicom.dcmread(path).SOPInstanceUID)
            itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
            np.testing.assert_array_equal(series.voxels[:, :, k].T, itk)


def test_low_values_shown_bright_stay_as_stored(tmp_path: Path) -> None:
    made = make_series(tmp_path, "MR", SHAPE, PhotometricInterpretation="MONOCHROME1")
    originals = [of_blocks(made.stored[:, :, k]) for k in range(SHAPE[2])]
    rewrite(tmp_path, compress, JPEGExtended12Bit)
    np.testing.assert_array_equal(read_dicom_series(tmp_path).voxels.T, originals)


def of_pydicom(name: str) -> tuple[pydicom.Dataset, bytes]:
    """A file of pydicom's, and its only frame."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    image = pydicom.dcmread(path)
    return image, next(generate_frames(image.PixelData, number_of_frames=1))


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_a_real_frame_of_twelve_bits(name: str) -> None:
    image, frame = of_pydicom(name)
    pixels = itk_pixels(frame.rstrip(b"\0").removesuffix(b"\xff\xd9") + b"\xff\xd9", image, JPEGExtended12Bit)
    np.testing.assert_array_equal(pixels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(image.filename)))[0])
    assert pixels.max() > 255


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=["JPEG 2000", "JPEG-LS"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_without_codecs_the_values_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str, syntax: str
) -> None:
    pytest.importorskip("jpeg_ls" if syntax == JPEGLSLossless else "openjpeg")
    made = make_series(tmp_path, modality, (40, 48, 3), baggage=False)
    rewrite(tmp_path, lambda image: image.compress(syntax, generate_instance_uid=False), syntax)

    class NoPlugin:
        is_available = False

    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda syntax: NoPlugin())
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda self: pytest.fail("decoded by pydicom")))
    series = read_dicom_series(tmp_path)
    assert [along_normal(header) for header in series.headers] == sorted(along_normal(h) for h in series.headers)
    np.testing.assert_allclose(series.voxels, made.values.transpose(1, 0, 2), rtol=1e-6)


def refused(folder: Path, change: Any) -> SourceError:
    def damage(image: pydicom.Dataset) -> None:
        compress(image)
        if image.InstanceNumber == 2:
            frame = next(generate_frames(image.PixelData, number_of_frames=1))
            image.PixelData = encapsulate([change(frame)])
            image["PixelData"].is_undefined_length = True

    make_series(folder, "CT", SHAPE)
    rewrite(folder, damage, JPEGExtended12Bit)
    with pytest.raises(SourceError) as caught:
        read_dicom_series(folder)
    assert caught.value.reason is ReasonCode.UNDECODABLE_PIXELS
    assert "Image 2 of 4" in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "damage",
    [
        lambda frame: frame[: len(frame) // 2],
        lambda frame: frame.replace(bytes((12, 0, 20, 0, 28)), bytes((12, 255, 255, 255, 255))),
        lambda frame: frame[:40] + bytes(80),
    ],
    ids=["truncated", "claims more", "zeroed"],
)
def test_damage_is_called_damage(tmp_path: Path, damage: Any) -> None:
    error = refused(tmp_path, damage)
    assert isinstance(error, CorruptSourceError)
    assert "damaged" in str(error)


def test_an_unknown_process_is_not_called_damage(tmp_path: Path) -> None:
    error = refused(tmp_path, lambda frame: frame.replace(b"\xff\xc1", bytes((0xFF, PROGRESSIVE))))
    assert not isinstance(error, CorruptSourceError)
    assert "no decoder here knows" in str(error)


def _noise(bits: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**bits, (64, 64))


def _eight_bits() -> bytes:
    stream = BytesIO()
    Image.fromarray(_noise(8).astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _replace_frame(folder: Path, frame: bytes, syntax: str, bits: int, codestream: bytes = b"") -> None:
    """The second image holds ``codestream``, the others a good ``frame``."""

    def change(image: pydicom.Dataset) -> None:
        image.Rows = image.Columns = 64
        image.BitsAllocated, image.BitsStored, image.HighBit = 8 if bits == 8 else 16, bits, bits - 1
        image.PixelData = encapsulate([codestream if codestream and image.InstanceNumber == 2 else frame])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True

    make_series(folder, "MR", SHAPE, baggage=False)
    rewrite(folder, change, syntax)


def _compressed(syntax: str, bits: int) -> bytes:
    if syntax == JPEGBaseline8Bit or (syntax == JPEGExtended12Bit and bits == 8):
        return _eight_bits()
    if syntax == JPEGExtended12Bit:
        return encode(_noise(bits))
    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.Rows = image.Columns = 64
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, bits, bits - 1, 0
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.SOPClassUID, image.SOPInstanceUID = "1.2.3", "1.2.4"
    image.PixelData = _noise(bits).astype("<u2").tobytes()
    image["PixelData"].VR = "OW"
    image.compress(syntax, generate_instance_uid=False)
    return next(generate_frames(image.PixelData, number_of_frames=1)).rstrip(b"\0")


TWELVE = [(syntax, 12) for syntax in (JPEGExtended12Bit, JPEG2000Lossless, JPEGLSLossless)]
KINDS = [(JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 8), *TWELVE]


@pytest.mark.parametrize(("syntax", "bits"), KINDS)
@pytest.mark.parametrize("n_cut", [0, 4, 20, 80, 300])
def test_a_cut_codestream_with_an_end_is_damage_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], syntax: str, bits: int, n_cut: int
) -> None:
    frame = _compressed(syntax, bits)
    _replace_frame(tmp_path, frame, syntax, bits, frame[: -2 - n_cut] + b"\xff\xd9" if n_cut else b"")
    if n_cut:
        with pytest.raises(CorruptSourceError, match="pixel data are damaged") as caught:
            read_dicom_series(tmp_path)
        assert caught.value.reason is ReasonCode.UNDECODABLE_PIXELS
    else:
        read_dicom_series(tmp_path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("n_cut", [0, 2, 40, 3000])
def test_a_cut_lossless_jpeg_is_damage(n_cut: int) -> None:
    image, frame = of_pydicom("JPGLosslessP14SV1_1s_1f_8b.dcm")
    with pytest.raises(ValueError, match="damage") if n_cut else nullcontext(), refuse_damage_in_print():
        itk_pixels(frame[: -2 - n_cut] + b"\xff\xd9", image, image.file_meta.TransferSyntaxUID)


def test_what_others_print_meanwhile_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    with refuse_damage_in_print():
        os.write(2, b"Unsupported JPEG data precision 12\nanother thread\n")
    with pytest.raises(ValueError, match="damage"), refuse_damage_in_print():
        os.write(2, b"another\nCorrupt JPEG data: premature end of data segment\n")
    assert capfd.readouterr().err == "another thread\nanother\n"


@pytest.mark.parametrize(("syntax", "bits"), TWELVE)
@pytest.mark.parametrize("said", [10, 12, 14])
def test_a_codestream_of_more_bits_than_the_header_says_is_refused(
    tmp_path: Path, syntax: str, bits: int, said: int
) -> None:
    _replace_frame(tmp_path, _compressed(syntax, bits), syntax, said)
    if said >= bits:
        values = read_dicom_series(tmp_path).voxels[:, :, 0].T
        expected = of_blocks(_noise(bits)) if syntax == JPEGExtended12Bit else _noise(bits)
        np.testing.assert_array_equal(values, expected)
        return
    with pytest.raises(SourceError, match="compressed with 12 bits a value") as caught:
        read_dicom_series(tmp_path)
    assert caught.value.reason is ReasonCode.UNSUPPORTED_PIXELS


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("fits", [True, False])
def test_all_allocated_bits_may_be_coded_where_the_values_fit(tmp_path: Path, syntax: str, fits: bool) -> None:
    """As encoders of real files do."""

    def change(image: pydicom.Dataset) -> None:
        image.BitsStored, image.HighBit = 16, 15
        image.compress(syntax, generate_instance_uid=False)
        image.BitsStored, image.HighBit = (12, 11) if fits else (9, 8)

    made = make_series(tmp_path, "MR", (40, 48, 3), baggage=False)
    rewrite(tmp_path, change, syntax)
    if fits:
        np.testing.assert_array_equal(read_dicom_series(tmp_path).voxels, made.values.transpose(1, 0, 2))
        return
    assert "bits set outside Bits Stored" in read_dicom_series(tmp_path).warnings[0]

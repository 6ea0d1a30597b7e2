"""JPEG of 12 bits, and all that ITK decodes where pydicom has no decoder: the stored values, or a true refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series
from jpeg_by_hand import PROGRESSIVE, compress, encode, of_blocks
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLSLossless
from series_by_hand import along_normal, rewrite

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io import dicom_pixels
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


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_a_real_frame_of_twelve_bits(name: str) -> None:
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("pydicom-data is not installed")
    image = pydicom.dcmread(path)
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    pixels = itk_pixels(frame.rstrip(b"\0").removesuffix(b"\xff\xd9") + b"\xff\xd9", image, JPEGExtended12Bit)
    np.testing.assert_array_equal(pixels, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0])
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

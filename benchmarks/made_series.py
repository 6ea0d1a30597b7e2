"""CT series of any number of slices out of the eight real ones of `sample_data`, as scanners would export them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.machine import ROOT

__all__ = ["SAMPLE", "make_ct_series"]

SAMPLE = ROOT / "sample_data" / "dicom" / "ct_abdomen"

#: Pixels by which slices are shifted at most, and standard deviation in HU of what is added to them, so that no two are
#: the same.
_SHIFT, _NOISE_HU = 6, 3.0


def make_ct_series(folder: Path, n_slices: int, size: int = 512, seed: int = 0) -> None:
    """Write a series with UIDs and places of its own.

    The real slices follow each other to and fro, each shifted by a few pixels and with a little noise of its own; field
    of view, distance of slices and headers are the real ones.

    Args:
        folder: folder of the files, made when missing.
        n_slices: number of slices.
        size: rows and columns, 512 or a whole part of it, of which each is a mean of real ones.
        seed: seed of shifts and noise; another one makes another series, of another patient.

    Raises:
        ValueError: the size is another one.
    """
    originals = sorted(map(dcmread, SAMPLE.glob("*.dcm")), key=lambda one: float(one.ImagePositionPatient[2]))
    if originals[0].Rows % size:
        raise ValueError(f"size is {size}; choose {originals[0].Rows} or a whole part of it.")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    turn = [*range(len(originals)), *range(len(originals) - 2, 0, -1)]
    for k in range(n_slices):
        image = originals[turn[k % len(turn)]].copy()
        for name, uid in uids.items():
            setattr(image, name, uid)
        image.PatientID = image.PatientName = f"MADE{seed:04d}"
        _place(image, k, n_slices)
        _resize(image, size)
        _jitter(image, random)
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(folder / f"{k:05d}.dcm", enforce_file_format=True)


def _place(image: Dataset, k: int, n_slices: int) -> None:
    distance = abs(float(image.SpacingBetweenSlices))
    x, y, _ = image.ImagePositionPatient
    z = (k - (n_slices - 1) / 2) * distance
    image.ImagePositionPatient, image.SliceLocation = [x, y, f"{z:.3f}"], f"{z:.3f}"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.InstanceNumber, image.SpacingBetweenSlices = n_slices - k, f"{distance:g}"


def _resize(image: Dataset, size: int) -> None:
    by = image.Rows // size
    pixels = image.pixel_array.reshape(size, by, size, by).mean(axis=(1, 3)).round().astype(np.int16)
    spacing = [float(one) for one in image.PixelSpacing]
    x, y, z = (float(one) for one in image.ImagePositionPatient)
    # The outer faces stay where they are, so that the first pixel's centre moves.
    place = (x + spacing[1] * (by - 1) / 2, y + spacing[0] * (by - 1) / 2, z)
    image.ImagePositionPatient = [f"{one:.6g}" for one in place]
    image.PixelSpacing = [f"{one * by:.8g}" for one in spacing]
    image.Rows = image.Columns = size
    image.PixelData = pixels.tobytes()


def _jitter(image: Dataset, random: np.random.Generator) -> None:
    pixels = np.frombuffer(image.PixelData, np.int16).reshape(image.Rows, image.Columns)
    padding = int(image.PixelPaddingValue)
    is_outside = pixels == padding
    shift = random.integers(-_SHIFT, _SHIFT + 1, 2) * image.Rows // 512
    body = np.where(is_outside, pixels[~is_outside].min(), pixels)
    moved = np.roll(body, tuple(int(one) for one in shift), (0, 1)) + random.normal(0, _NOISE_HU, pixels.shape)
    least = math.ceil(-1024 - float(image.RescaleIntercept))
    image.PixelData = np.where(is_outside, padding, np.maximum(moved.round(), least)).astype(np.int16).tobytes()

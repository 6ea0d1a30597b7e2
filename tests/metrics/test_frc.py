"""Scanning Fourier ring correlation beside a computation by hand, and what it flags."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from monai_ldmsr.metrics.frc import (
    CITED_THRESHOLD,
    FrcSettings,
    eligible_patches,
    first_crossings,
    frc_settings,
    ring_correlation_curves,
    scanned_crossings,
)

MR = frc_settings("MR")


def scene(seed: int = 0, side: int = 96) -> np.ndarray:
    """Blobs of several sizes, all above air."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    return 500 + 100 * sum(ndimage.gaussian_filter(noise, s) * s for s in (1.0, 2.0, 4.0))


def as_slice(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).float()[None, None]


def by_hand(first: np.ndarray, second: np.ndarray) -> list[float]:
    """Ring by ring and frequency by frequency."""
    side = len(first)
    window = np.array([0.5 - 0.5 * math.cos(2 * math.pi * n / (side - 1)) for n in range(side)])
    spectra = []
    for patch in (first, second):
        scaled = (patch - patch.min()) / (patch.max() - patch.min())
        windowed = np.array([[scaled[y, x] * window[y] * window[x] for x in range(side)] for y in range(side)])
        spectra.append(np.fft.fftshift(np.fft.fft2(windowed)))
    cross, power, other = (np.zeros(side + 1, complex) for _ in range(3))
    for y in range(side):
        for x in range(side):
            distance = math.hypot(y - side // 2, x - side // 2)
            for ring in (math.floor(distance), math.ceil(distance)):
                cross[ring] += spectra[0][y, x] * np.conj(spectra[1][y, x]) / 2
                power[ring] += abs(spectra[0][y, x]) ** 2 / 2
                other[ring] += abs(spectra[1][y, x]) ** 2 / 2
    return [abs(cross[n]) / math.sqrt(power[n].real * other[n].real) for n in range(side // 2)]


def test_curves_are_those_of_a_computation_by_hand() -> None:
    first, second = scene(0, 48), scene(1, 48)
    (curve,) = ring_correlation_curves(torch.from_numpy(first)[None], torch.from_numpy(second)[None])
    assert curve.tolist() == pytest.approx(by_hand(first, second), abs=1e-9)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 0.9, 0.8, 0.9, 0.8, 0.8], math.inf),
        (
            [1.0, 0.9, 0.8, 0.6, 0.9, 0.9],
            0.225,
        ),  # three quarters of the way 0.8 to 0.6 at a quarter of 0.1: 0.2 + 0.025
        ([0.2, 0.9, 0.8, 0.6, 0.9, 0.9], 0.0),
        ([1.0, 0.5, 0.8, 0.6, 0.9, 0.9], 0.05),
    ],
)
def test_the_first_crossing_is_interpolated(curve: list[float], expected: float) -> None:
    found = first_crossings(torch.tensor([curve], dtype=torch.double), 0.75)
    assert found.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_a_slice_beside_itself_is_never_flagged(modality: str) -> None:
    """Nor beside itself in another unit: what only stretches grey levels invents nothing."""
    image = as_slice(scene(side=200))
    for other in (image, 3 * image):
        corners, crossings = scanned_crossings(other, image, frc_settings(modality))
        assert len(corners) == (9 if modality == "CT" else 16)
        assert set(crossings) == {math.inf}


def test_a_smoother_slice_crosses_late_and_a_moved_or_invented_structure_early() -> None:
    """The patch that was changed is the one that is flagged."""
    original = scene(side=96)
    smooth = ndimage.gaussian_filter(original, 1.0)
    assert min(scanned_crossings(as_slice(smooth), as_slice(original), MR)[1]) > CITED_THRESHOLD
    moved = smooth.copy()
    moved[:48, 48:] = np.roll(smooth[:48, 48:], (4, 5), axis=(0, 1))
    invented = smooth.copy()
    invented[48:, :48] += 150 * ndimage.gaussian_filter(np.random.default_rng(9).normal(size=(48, 48)), 2.0) * 4
    for changed, place in ((moved, (0, 48)), (invented, (48, 0))):
        corners, crossings = scanned_crossings(as_slice(changed), as_slice(original), MR)
        assert [corner for corner, x in zip(corners, crossings, strict=True) if x <= CITED_THRESHOLD] == [place]


def test_air_is_not_eligible() -> None:
    image = np.full((96, 96), -1000.0)
    image[:48, :48] = 100 + scene(0, 48) - 500
    settings = FrcSettings(48, 0.5, -1000.0)
    assert scanned_crossings(as_slice(image), as_slice(image), settings)[0] == [(0, 0)]
    assert scanned_crossings(as_slice(image[:40]), as_slice(image[:40]), settings) == ([], [])
    assert scanned_crossings(as_slice(image), as_slice(0 * image - 1000), settings) == ([], [])
    patches = torch.zeros(2, 10, 10)
    patches[0, 0] = 2686.0  # a tenth, and not more
    patches[1, :2] = 2686.0
    assert eligible_patches(patches, 2686.0).tolist() == [False, True]

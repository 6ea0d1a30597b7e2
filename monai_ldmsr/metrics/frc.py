"""Scanning Fourier ring correlation: which patches of a result show structure that the original does not have.

sFRC (FDA staff, arXiv 2603.04673): a patch whose ring correlation with the original falls below a level at low
frequencies shows other structure there, and not only less detail. The Hann window here is the outer product of two
windows; the published code multiplies the windowed patch by its own transpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "CITED_THRESHOLD",
    "FrcSettings",
    "eligible_patches",
    "first_crossings",
    "frc_settings",
    "ring_correlation_curves",
    "scanned_crossings",
]

#: Frequency in cycles a pixel at or under which a crossing is a hallucination: that of MR in the paper. That of CT
#: there, 0.33 per mm at pixels of 0.48 mm, is 0.158 cycles a pixel. Both came of marks by hand on one data set.
CITED_THRESHOLD = 0.16

#: A patch is eligible where more than this share of pixels lies above the first share of the slice's greatest value,
#: and its mean above the second.
_BRIGHT_PIXELS, _BRIGHT, _MEAN = 0.1, 200 / 2686, 150 / 2686

#: Value of air in CT; elsewhere it is 0.
_AIR_HU = -1000.0


@dataclass(frozen=True)
class FrcSettings:
    """How a modality is scanned.

    Args:
        side: side of a patch in pixels.
        level: ring correlation below which structure differs.
        offset: value of air.
    """

    side: int
    level: float
    offset: float


def frc_settings(modality: str) -> FrcSettings:
    """The paper's settings of CT, and those of MR for everything else."""
    return FrcSettings(64, 0.5, _AIR_HU) if modality == "CT" else FrcSettings(48, 0.75, 0.0)


def scanned_crossings(
    result: Tensor, reference: Tensor, settings: FrcSettings
) -> tuple[list[tuple[int, int]], list[float]]:
    """First crossing of each eligible patch of a slice; patches do not overlap.

    Args:
        result: (1, 1, H, W) in the source's linear unit.
        reference: the original, likewise; which patches are eligible follows from it alone.
        settings: side, level and offset.

    Returns:
        Top left corners (row, column), and the frequency of each in cycles a pixel, infinite where nothing crosses.

    Example:
        >>> image = torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
        >>> scanned_crossings(image, image, frc_settings("MR"))[1]
        [inf, inf, inf, inf]
    """
    side = settings.side
    if min(reference.shape[-2:]) < side:
        return [], []
    # The same frame for both: offset and cut at air, so that "max" means what it does in the paper.
    found, truth = ((image[0, 0].double() - settings.offset).clamp(min=0.0) for image in (result, reference))
    patches, originals = (image.unfold(0, side, side).unfold(1, side, side) for image in (found, truth))
    across = originals.shape[1]
    patches, originals = (cut.reshape(-1, side, side) for cut in (patches, originals))
    chosen = eligible_patches(originals, float(truth.max())).nonzero()[:, 0]
    if not len(chosen):  # of no patches MKL makes no Fourier transform
        return [], []
    curves = ring_correlation_curves(patches[chosen], originals[chosen])
    corners = [(n // across * side, n % across * side) for n in chosen.tolist()]
    return corners, first_crossings(curves, settings.level).tolist()


def eligible_patches(patches: Tensor, greatest: float) -> Tensor:
    """Which patches (n, L, L) show enough of the patient; air is 0 and ``greatest`` the slice's greatest value."""
    bright = (patches > _BRIGHT * greatest).double().mean(dim=(1, 2)) > _BRIGHT_PIXELS
    return bright & (patches.mean(dim=(1, 2)) > _MEAN * greatest)


def ring_correlation_curves(patches: Tensor, originals: Tensor) -> Tensor:
    """Fourier ring correlation of patches (n, L, L), (n, L // 2) from frequency 0 to 0.5 cycles a pixel.

    Each patch is scaled to 0 to 1 and windowed (Hann); the sums of a ring are the mean of those over frequencies whose
    distance from 0 rounds down to it and of those that round up to it.
    """
    side = patches.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.double, device=patches.device)
    first, second = (
        torch.fft.fft2(_scaled(cut.double()) * window[:, None] * window).flatten(1) for cut in (patches, originals)
    )
    steps = torch.fft.fftfreq(side, 1 / side, dtype=torch.double, device=patches.device)
    radius = torch.hypot(steps[:, None], steps).flatten()
    products = first * second.conj()
    cross = [_ring_sums(part, radius, side) for part in (products.real, products.imag)]
    powers = [_ring_sums(spectrum.abs().square(), radius, side) for spectrum in (first, second)]
    both = (powers[0] * powers[1]).sqrt()
    # Without power there is nothing that could differ.
    return torch.where(both > 0, torch.hypot(*cross) / both.clamp(min=1e-300), 1.0)


def first_crossings(curves: Tensor, level: float) -> Tensor:
    """Frequency at which each curve (n, rings) first falls below a level, linearly interpolated; infinite if never."""
    frequencies = torch.linspace(0.0, 0.5, curves.shape[1], dtype=torch.double, device=curves.device)
    below = curves < level
    n = below.double().argmax(dim=1)
    before = (n - 1).clamp(min=0)
    here, there = curves.gather(1, before[:, None])[:, 0], curves.gather(1, n[:, None])[:, 0]
    share = ((here - level) / (here - there).clamp(min=1e-12)).clamp(0.0, 1.0)
    found = frequencies[before] + share * (frequencies[n] - frequencies[before])
    return torch.where(below.any(dim=1), torch.where(n > 0, found, 0.0), torch.inf)


def _scaled(patches: Tensor) -> Tensor:
    low, high = (end(dim=(1, 2), keepdim=True) for end in (patches.amin, patches.amax))
    return (patches - low) / (high - low).clamp(min=1e-12)


def _ring_sums(values: Tensor, radius: Tensor, side: int) -> Tensor:
    """(n, L // 2) mean of the sums over rings by distances rounded down and up."""
    totals = values.new_zeros(len(values), side + 1)
    for ring in (radius.floor().long(), radius.ceil().long()):
        totals = totals.index_add(1, ring.clamp(max=side), values)
    return totals[:, : side // 2] / 2

"""Figures of structure: each sees one fault, in analytic amounts where there is one, and no other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special
from torch import Tensor

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.metrics import (
    STRUCTURE_DEFINITIONS,
    STRUCTURE_GOALS,
    edge_width,
    flat_noise,
    lattice,
    patch_distances,
    ring_correlation,
    structure_figures,
)
from monai_ldmsr.metrics.structure import N_RINGS, ring_numbers


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 1, height, width, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def blurred(image: Tensor, sigma: float | tuple[float, float]) -> Tensor:
    return torch.tensor(ndimage.gaussian_filter(image[0, 0].numpy(), sigma))[None, None]


def step(sigma: float, at: float = 63.5, height: float = 1.0) -> Tensor:
    """(1, 1, 96, 128) with one edge across the columns: a step seen through a Gaussian."""
    profile = special.ndtr((np.arange(128) - at) / sigma) * height
    return torch.tensor(profile).expand(1, 1, 96, 128).clone()


def disc(sigma: float) -> Tensor:
    rows, columns = np.indices((128, 128)) - 64.0
    return blurred(torch.tensor((np.hypot(rows, columns) < 40).astype(float))[None, None], sigma)


def test_all_figures_of_the_original_are_what_they_should_be() -> None:
    original = blurred(noise(120, 128), 1.0)
    found = structure_figures(original, original, 4)
    assert set(found) == set(STRUCTURE_DEFINITIONS) == set(STRUCTURE_GOALS)
    wanted = dict.fromkeys(("edge_width", "lattice_ratio", "flat_noise", "ring_correlation"), 1.0)
    wanted |= {f"patch_distance_{level}": 0.0 for level in ("fine", "middle", "coarse")}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    assert found["lattice"] == lattice(original, 4)


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_wider_step_is_wider_by_as_much(axis: int, sign: float) -> None:
    """Rise over the steepest difference of neighbours: 1 / (2 Phi(0.5 / sigma) - 1) pixels."""
    widths = {sigma: 1 / (2 * special.ndtr(0.5 / sigma) - 1) for sigma in (0.7, 1.4, 2.1)}
    for sigma, width in widths.items():
        image, original = (sign * x.transpose(-1, axis) for x in (step(sigma), step(0.7)))
        assert edge_width(image, original) == pytest.approx(width / widths[0.7], rel=0.01)
        assert edge_width(original, image) == pytest.approx(widths[0.7] / width, rel=0.01)


def test_the_place_and_the_height_of_an_edge_do_not_count() -> None:
    original = step(0.8)
    for shift in (-3, -1, 1, 2):
        assert edge_width(step(0.8, 63.5 + shift), original) == pytest.approx(1, abs=1e-6)
    assert edge_width(step(0.8, height=0.4), original) == pytest.approx(1, abs=1e-6)
    assert edge_width(step(1.6, 61.5, height=0.4), original) == pytest.approx(edge_width(step(1.6), original), rel=1e-3)


def test_an_edge_ends_where_its_profile_stops_rising() -> None:
    """Another edge behind a dip is not part of the rise."""
    original = step(0.8)
    beside = original.clone()
    beside[..., 68:] -= 0.1
    beside[..., 70:] += 0.4
    assert edge_width(beside, original) == pytest.approx(1, abs=0.02)


def test_weak_edges_do_not_count() -> None:
    """Ripples that are many but faint may change their width."""
    at, rows = torch.arange(128.0, dtype=torch.double), torch.arange(96.0, dtype=torch.double)[:, None]
    strong = blurred(((at // 16) % 2).expand(1, 1, 96, 128), (0.0, 0.8))
    ripples = [0.01 * torch.sin(2 * math.pi * rows / period) for period in (6.0, 13.0)]
    assert edge_width(strong + ripples[1], strong + ripples[0]) == pytest.approx(1, abs=0.02)


def test_an_edge_the_other_way_round_is_none() -> None:
    """The far side of a thin line is not the edge; what rises must rise."""
    assert edge_width(-step(0.8), step(0.8)) == math.inf


def test_both_directions_count() -> None:
    """A disc blurred along one axis alone is wider, whichever axis it is."""
    original = disc(0.8)
    both, rows, columns = (edge_width(blurred(original, s), original) for s in ((2, 2), (2, 0), (0, 2)))
    assert rows == pytest.approx(columns, rel=1e-6)
    assert 1 < rows < both
    assert both == pytest.approx(math.hypot(2, 0.8) / 0.8, rel=0.35)


def test_lattice_sees_what_repeats_with_the_block() -> None:
    white = noise(240, 240)
    assert lattice(white, 4) < 0.05
    checkers = torch.zeros(1, 1, 240, 240, dtype=torch.double)
    checkers[..., ::4, ::4] = 1.0
    # Squared Laplacian: 16 at the place itself, 1 at its four neighbours, 0 at the other eleven.
    square = np.array([16.0] + [1.0] * 4 + [0.0] * 11)
    assert lattice(checkers, 4) == pytest.approx(square.std() / square.mean())
    assert lattice(checkers + 3.0, 4) == pytest.approx(lattice(checkers, 4))
    assert lattice(2.5 * checkers.roll((1, 2), (-2, -1)), 4) == pytest.approx(lattice(checkers, 4))
    odd = checkers.repeat(1, 1, 2, 2)[..., :246, :246]
    assert lattice(odd, 3) == pytest.approx(0, abs=1e-9), "every place of three sees every place of four"
    rows = checkers.amax(dim=-1, keepdim=True).expand_as(checkers)
    assert lattice(rows, 4) == pytest.approx(np.std([4, 1, 0, 1]) / 1.5)


def test_lattice_ratio_is_over_the_originals() -> None:
    original, image = noise(120, 120), noise(120, 120)
    image[..., 1::2, ::2] *= 2
    found = structure_figures(image, original, 2)
    assert found["lattice_ratio"] == pytest.approx(lattice(image, 2) / lattice(original, 2))
    assert found["lattice_ratio"] > 5


def test_flat_noise_is_the_share_of_grain_that_is_left() -> None:
    original = 0.1 * noise(144, 144)
    original[..., :60, :] -= 1.0
    smooth = torch.where(torch.arange(144)[:, None] < 60, -1.0, 0.0).expand_as(original)
    for share in (0.0, 0.25, 1.0, 2.0):
        assert flat_noise(smooth + share * (original - smooth), original) == pytest.approx(share, abs=0.01)
    # A slope is no grain, and what happens elsewhere is not flat tissue.
    assert flat_noise(original + 0.01 * torch.arange(144.0), original) == pytest.approx(1, abs=0.02)
    elsewhere = original.clone()
    elsewhere[..., :48, :] += noise(48, 144, seed=1)
    assert flat_noise(elsewhere, original) == pytest.approx(1, abs=0.01)


def test_patches_tell_texture_from_its_energy() -> None:
    original, other = blurred(noise(160, 160), 1.0), blurred(noise(160, 160, seed=1), 1.0)
    assert patch_distances(original, original) == {"fine": 0, "middle": 0, "coarse": 0}
    same_texture = patch_distances(other, original)
    soft = patch_distances(blurred(original, 1.5), original)
    assert same_texture["fine"] < 0.1
    assert soft["fine"] > 0.5
    assert soft["middle"] > soft["coarse"] > same_texture["coarse"]
    # The same spectrum level by level, but in sparse spikes: same energy, other patches.
    spikes = blurred(noise(160, 160) * (noise(160, 160, seed=2) > 2.2), 1.0)
    spikes *= original.std() / spikes.std()
    sparse = patch_distances(spikes, original)
    assert sparse["fine"] > 3 * same_texture["fine"]
    nothing = patch_distances(torch.zeros_like(original), original)
    assert nothing["fine"] == pytest.approx(math.sqrt(2 / math.pi), abs=0.06)


def test_patches_see_each_level() -> None:
    """A wave of some period is missed on the level of that period."""
    ground = noise(192, 192)
    at = torch.arange(192.0, dtype=torch.double)
    for period, level in ((3, "fine"), (6, "middle"), (12, "coarse")):
        wave = torch.sin(2 * math.pi * at / period)
        found = patch_distances(ground, ground + 3 * wave)
        assert max(found, key=lambda name: found[name]) == level


def test_patches_see_a_pattern_of_the_block() -> None:
    """At all places in the block: steps between patches have no factor in common with it."""
    original = 0.1 * noise(320, 320)
    pattern = torch.zeros(4, 4, dtype=torch.double)
    pattern[2, 1] = 1.0
    distances = [
        patch_distances(original + pattern.roll(shift, 1).repeat(80, 80), original)["fine"] for shift in range(4)
    ]
    assert min(distances) > 0.5
    assert max(distances) == pytest.approx(min(distances), rel=0.05)


def test_rings_tell_true_detail_from_likely_detail() -> None:
    original, other = noise(200, 160), noise(200, 160, seed=1)
    assert ring_correlation(original, original, 0.125) == pytest.approx(1)
    assert ring_correlation(3 * original + 7, original, 0.125) == pytest.approx(1)
    assert ring_correlation(-original, original, 0.125) == pytest.approx(-1)
    assert ring_correlation(other, original, 0.125) == pytest.approx(0, abs=0.03)
    half = ring_correlation(original + other, original, 0.125)
    assert half == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_the_border_is_no_shared_detail() -> None:
    """A slope does not go on from the last column to the first; without a window that would be true detail."""
    slope = torch.arange(160.0, dtype=torch.double) - 80
    images = [blurred(noise(160, 160, seed), 0.5) + slope for seed in (0, 1)]
    assert ring_correlation(*images, 0.125) == pytest.approx(0, abs=0.05)


def test_rings_above_the_sources_nyquist_count_alone() -> None:
    """True below 0.125 cycles a pixel, made up above: what factor 4 knows; seen from factor 2, all is made up."""
    original, other = noise(192, 192), noise(192, 192, seed=1)
    ring = ring_numbers(192, 192)
    spectra = [torch.fft.fft2(x) for x in (original, other)]
    mixed = torch.fft.ifft2(torch.where(ring < N_RINGS / 4, *spectra)).real
    assert ring_correlation(mixed, original, 0.0) == pytest.approx(0.25, abs=0.03)
    assert ring_correlation(mixed, original, 0.125) == pytest.approx(0, abs=0.05)
    assert structure_figures(mixed, original, 4)["ring_correlation"] == ring_correlation(mixed, original, 0.125)
    assert structure_figures(mixed, original, 8)["ring_correlation"] == pytest.approx(1 / 7, abs=0.04)


def test_rings_are_round_on_slices_that_are_not_square() -> None:
    ring = ring_numbers(96, 160)
    assert ring[0, 0] == 0
    assert ring[48 // 2, 0] == ring[0, 80 // 2] == N_RINGS // 2
    assert ring[48, 80] == N_RINGS, "the corners lie beyond"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_transposing_changes_nothing(factor: int) -> None:
    original = disc(0.8) + 0.05 * noise(128, 128)
    image = blurred(original, (0.5, 1.2))
    image[..., ::factor, :] += 0.02
    figures = structure_figures(image, original, factor)
    assert structure_figures(image.mT, original.mT, factor) == pytest.approx(figures)


def test_constant_slices_have_no_figures() -> None:
    constant = torch.full((1, 1, 96, 96), 0.5)
    found = structure_figures(constant, constant, 4)
    assert all(math.isnan(value) for value in found.values())
    of_texture = structure_figures(constant, blurred(noise(96, 96), 1.0), 4)
    assert of_texture["ring_correlation"] == 0
    assert of_texture["edge_width"] == math.inf
    assert of_texture["flat_noise"] == pytest.approx(0, abs=1e-9)
    of_nothing = structure_figures(noise(96, 96), constant, 4)
    assert {name for name, value in of_nothing.items() if not math.isnan(value)} == {"lattice"}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(SettingsError, match="one by one"):
        structure_figures(noise(96, 96), noise(96, 100), 4)
    with pytest.raises(SettingsError, match="too small"):
        structure_figures(noise(96, 10), noise(96, 10), 4)

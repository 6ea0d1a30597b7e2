"""Figures of slices as scanned: grain, dashes, patterns and overshoot each move the figure that is theirs, alone."""

from __future__ import annotations

import math
from statistics import median

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.metrics import NATIVE_DEFINITIONS, NATIVE_GOALS, flattest_tiles, native_figures, overshoot
from monai_ldmsr.metrics.native import TILE_SIDE, flat_figures
from monai_ldmsr.networks.generator_module import upsample_bicubic


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(1, 1, *shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def spread_of(image: Tensor, corner: tuple[int, int], factor: int = 1) -> Tensor:
    top, left = (n * factor for n in corner)
    side = TILE_SIDE * factor
    return image[0, 0, top : top + side, left : left + side].std(correction=0)


def nearest(image: Tensor, rows: int, columns: int) -> Tensor:
    return image.repeat_interleave(rows, dim=-2).repeat_interleave(columns, dim=-1)


@pytest.fixture
def source() -> Tensor:
    """Air above, tissue with grain below: sixteen tiles, of which the eight of tissue count; none is like another."""
    image = 0.05 * noise(96, 96)
    image[..., 40:, :] += 1.0
    image[..., :40, :] *= 0.01
    return image - 0.5


def test_bicubic_is_the_measure_of_noise(source: Tensor) -> None:
    bicubic = upsample_bicubic(source, 4)
    found = native_figures(bicubic, bicubic, source)
    assert set(found) == set(NATIVE_DEFINITIONS) == set(NATIVE_GOALS)
    assert found["noise"] == pytest.approx(1)
    assert found["range"] == pytest.approx(1, abs=0.15)
    # Interpolated noise is strongest at the source's pixels: not wholly normal.
    assert 3 < found["kurtosis"] < 3.8
    assert found["comb"] < 0.02


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_white_noise_raises_noise_alone(source: Tensor, factor: int) -> None:
    bicubic = upsample_bicubic(source, factor)
    plain = native_figures(bicubic, bicubic, source)
    found = native_figures(bicubic + 0.2 * noise(*bicubic.shape[2:], seed=1), bicubic, source)
    spreads = [float(spread_of(bicubic, corner, factor)) for corner in flattest_tiles(source)]
    expected = median(math.hypot(spread, 0.2) / spread for spread in spreads)
    assert found["noise"] == pytest.approx(expected, rel=0.02)
    assert found["range"] > 2 * plain["range"]
    doubled = native_figures(2 * bicubic, bicubic, source)
    assert doubled["range"] == pytest.approx(2 * plain["range"])
    assert native_figures(bicubic, 2 * bicubic, source)["range"] == pytest.approx(plain["range"])
    assert found["kurtosis"] == pytest.approx(3, abs=0.1)
    # Sampling error of a mean over 24 x 24 blocks of noise that is four times the source's.
    assert found["comb"] < 1.5 * 4 / 24


def test_a_fixed_pattern_is_comb_and_grain_is_not(source: Tensor) -> None:
    pattern = torch.tensor([[0.0, 0.1], [0.3, -0.2], [0.05, 0.1]], dtype=torch.double)
    plain = nearest(source, 3, 2)
    result = plain + pattern.repeat(96, 96)
    found = native_figures(result, plain, source)
    spreads = [float(spread_of(source, corner)) for corner in flattest_tiles(source)]
    amplitude = float(pattern.std(correction=0))
    assert found["comb"] == pytest.approx(median(amplitude / spread for spread in spreads), rel=1e-9)
    assert found["noise"] == pytest.approx(
        median(math.hypot(amplitude, spread) / spread for spread in spreads), rel=1e-9
    )


def test_the_pattern_follows_the_blocks(source: Tensor) -> None:
    """A pattern whose period is not the block's averages out; a shift by one place changes nothing."""
    rows = torch.arange(96 * 4)
    plain = nearest(source, 4, 4)
    own, other = (0.2 * torch.sin(2 * math.pi * rows / period)[:, None] for period in (4.0, 6.0))
    by_block, across, shifted = (
        native_figures(plain + wave, plain, source)["comb"] for wave in (own, other, own.roll(1, 0))
    )
    assert by_block > 2
    assert across < 1e-3
    assert shifted == pytest.approx(by_block)


def test_dashes_raise_kurtosis_and_range(source: Tensor) -> None:
    bicubic = upsample_bicubic(source, 4)
    spikes = 0.4 * (noise(*bicubic.shape[2:], seed=2) > 2.5)
    plain, found = (native_figures(x, bicubic, source) for x in (bicubic, bicubic + spikes))
    assert found["kurtosis"] > plain["kurtosis"] + 4
    assert found["range"] > 1.5
    assert found["noise"] < 2


def test_nearest_blocks_have_no_comb_and_no_overshoot(source: Tensor) -> None:
    found = native_figures(nearest(source, 4, 4), nearest(source, 4, 4), source)
    assert (found["noise"], found["range"], found["comb"], found["overshoot"]) == (1, 1, 0, 0)


def test_an_overshooting_edge_is_measured() -> None:
    """A step from -0.5 to 0.5; along the edge, by place in the block, a fringe of 0.3 above or 0.2 below."""
    source = torch.full((1, 1, 48, 60), -0.5, dtype=torch.double)
    source[..., 30:] = 0.5
    result = nearest(source, 2, 2)
    bright, dark = result.clone(), result.clone()
    bright[..., 60] += 0.3
    dark[..., 59] -= 0.2
    assert overshoot(result, source) == 0
    assert overshoot(bright, source) == pytest.approx(0.3)
    assert overshoot(dark, source) == pytest.approx(0.2)
    # What stays within the range of the neighbours is no overshoot; a few pixels are left out.
    inside = result.clone()
    inside[..., 60] -= 0.4
    assert overshoot(inside, source) == 0
    few = result.clone()
    few[..., 60, 60] += 0.3
    assert overshoot(few, source) == 0
    # Neighbours reach one source pixel: a fringe of the other side's value is none beside the edge, but is one farther.
    near, far = result.clone(), result.clone()
    near[..., 60] = far[..., 62] = -0.5
    assert overshoot(near, source) == overshoot(-near, -source) == 0
    assert overshoot(far, source) == overshoot(-far, -source) == pytest.approx(1.0)


def test_a_result_within_the_source_does_not_overshoot() -> None:
    noisy = noise(96, 96)
    assert overshoot(functional.avg_pool2d(nearest(noisy, 2, 2), 3, 1, 1), noisy) == 0


def test_the_span_is_the_sources() -> None:
    source = torch.linspace(-1, 1, 100 * 100, dtype=torch.double).view(1, 1, 100, 100)
    result = nearest(source, 2, 2)
    result[..., ::20, ::20] += 50.0
    assert overshoot(result, source) == pytest.approx(50.0 / (0.99 * 2), rel=0.002)


def test_tiles_are_flat_tissue_of_the_source() -> None:
    """Flattest first; neither air, nor what is constant, nor what hangs over the edge."""
    image = torch.full((1, 1, 4 * TILE_SIDE + 5, 3 * TILE_SIDE + 20), -1.0, dtype=torch.double)
    grain = noise(*image.shape[2:])
    image[..., TILE_SIDE:, :] = 0.5 + 0.2 * grain[..., TILE_SIDE:, :]
    image[..., :TILE_SIDE, :] += 0.01 * grain[..., :TILE_SIDE, :]
    flat = (2 * TILE_SIDE, TILE_SIDE)
    image[..., flat[0] : flat[0] + 24, flat[1] : flat[1] + 24] = 0.5 + 0.1 * grain[..., :24, :24]
    image[..., 3 * TILE_SIDE : 4 * TILE_SIDE, :TILE_SIDE] = 0.7
    image[..., 4 * TILE_SIDE :, :] = 0.5 + 1e-3 * grain[..., 4 * TILE_SIDE :, :]
    found = flattest_tiles(image)
    assert found[0] == flat
    assert len(found) == 6
    assert (3 * TILE_SIDE, 0) not in found
    assert {row for row, _ in found} == {TILE_SIDE, 2 * TILE_SIDE, 3 * TILE_SIDE}


def test_air_is_no_tissue_however_much_of_it_there_is() -> None:
    """Where most of a slice is empty but for a speck, its 40th percentile is air's."""
    image = torch.full((1, 1, 240, 240), -1.0, dtype=torch.double)
    image[..., ::50, ::50] = -0.9
    image[..., 120:216, 120:192] = 0.1 * noise(96, 72)
    found = flattest_tiles(image)
    assert len(found) == 6
    assert all(row >= 120 and column >= 120 for row, column in found)


def test_the_dark_part_of_a_bright_slice_is_left_out() -> None:
    """Above the mean, which a few dark tiles draw down, but not above the 40th percentile."""
    image = 0.5 + 0.1 * noise(240, 240)
    image[..., :72, :] -= 1.5
    dark = slice(96, 120)
    image[..., dark, :] = 0.1 + 0.01 * noise(24, 240, seed=1)
    assert float(image.mean()) < 0.05
    assert all(row > 96 for row, _ in flattest_tiles(image))


def test_one_odd_tile_of_six_does_not_count(source: Tensor) -> None:
    """A vessel that happens to lie in flat tissue."""
    plain = nearest(source, 2, 2)
    result = plain.clone()
    row, column = flattest_tiles(source)[3]
    result[..., 2 * row + 5 : 2 * row + 10, 2 * column + 5 : 2 * column + 10] += 3.0
    found, wanted = native_figures(result, plain, source), native_figures(plain, plain, source)
    assert {**found, "overshoot": 0} == pytest.approx({**wanted, "overshoot": 0}, rel=0.2, abs=0.01)


def test_tiles_are_chosen_on_the_source_and_not_on_the_result(source: Tensor) -> None:
    """Whatever a result does outside the source's flattest tiles is not seen, and inside it is."""
    plain = nearest(source, 2, 2)
    result = plain + 0.5 * noise(192, 192, seed=3)
    for row, column in flattest_tiles(source):
        rows, columns = slice(2 * row, 2 * row + 48), slice(2 * column, 2 * column + 48)
        result[..., rows, columns] = plain[..., rows, columns]
    assert native_figures(result, plain, source)["noise"] == pytest.approx(1)


def test_transposing_changes_nothing(source: Tensor) -> None:
    result = upsample_bicubic(source, 4) + 0.05 * noise(384, 384, seed=4)
    result[..., 1::4, :] += 0.02
    figures = native_figures(result, upsample_bicubic(source, 4), source)
    turned = native_figures(result.mT, upsample_bicubic(source, 4).mT, source.mT)
    assert turned == pytest.approx(figures)


def test_rows_and_columns_may_have_factors_of_their_own(source: Tensor) -> None:
    result = functional.interpolate(source, scale_factor=(2, 5), mode="nearest")
    assert native_figures(result, result, source)["comb"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_what_has_no_tissue_has_no_figures(value: float) -> None:
    constant = torch.full((1, 1, 96, 96), value)
    found = native_figures(nearest(constant, 2, 2), nearest(constant, 2, 2), constant)
    assert all(math.isnan(x) for x in found.values())
    small = noise(20, 120)
    found = native_figures(nearest(small, 2, 2), nearest(small, 2, 2), small)
    assert math.isnan(found["noise"])
    assert found["overshoot"] == 0


def test_a_constant_result_is_noiseless(source: Tensor) -> None:
    """No division by nothing."""
    flat = torch.full((1, 1, 192, 192), 0.1, dtype=torch.double)
    found = native_figures(flat, upsample_bicubic(source, 2), source)
    assert found["noise"] == pytest.approx(0, abs=1e-9)
    assert found["comb"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(found["kurtosis"])


def test_grids_that_do_not_fit_are_refused(source: Tensor) -> None:
    with pytest.raises(SettingsError, match="whole f and g"):
        native_figures(noise(97, 96), noise(97, 96), source)
    with pytest.raises(SettingsError, match="but bicubic"):
        native_figures(noise(192, 192), noise(96, 96), source)
    with pytest.raises(SettingsError, match="one by one"):
        native_figures(noise(192, 192)[0], noise(192, 192)[0], source[0])


@pytest.mark.parametrize(
    ("wave", "figure"),
    [
        (lambda rows, columns: (rows + columns) % 2 * 2 - 1.0, "comb"),
        (lambda rows, columns: torch.cos(rows * 2 * math.pi / 4) + torch.cos(columns * 2 * math.pi / 4), "mesh"),
        (lambda rows, columns: 1.4 * torch.cos((rows + columns) * 2 * math.pi / 5.3), "mesh"),
    ],
)
def test_a_pattern_in_flat_tissue_is_seen_as_strong_as_it_is(wave, figure):
    source = 3 * noise(TILE_SIDE, TILE_SIDE)
    plain = upsample_bicubic(source, 2)
    rows, columns = (n.double() for n in torch.meshgrid(*2 * [torch.arange(2 * TILE_SIDE)], indexing="ij"))
    without, found = (
        flat_figures([plain[0, 0] + more], [plain[0, 0]], [source[0, 0]]) for more in (0.0, 0.75 * wave(rows, columns))
    )
    assert max(without["comb"], without["mesh"]) < 0.05
    assert found[figure] == pytest.approx(0.25, abs=0.07)
    assert found["noise_source"] == pytest.approx(3, rel=0.1)
    assert found["noise_result"] > without["noise_result"]


def test_white_noise_is_noise_and_no_pattern():
    source = noise(TILE_SIDE, TILE_SIDE)
    plain = nearest(source, 2, 2)[0, 0]
    found = flat_figures([plain + noise(*plain.shape, seed=1)[0, 0]], [plain], [source[0, 0]])
    assert found["noise_result"] == pytest.approx(math.sqrt(2) * found["noise_source"], rel=0.05)
    assert max(found["comb"], found["mesh"]) < 0.12

"""The estimate of noise against noise that was added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.choices import MAX_NOISE
from monai_ldmsr.noise_level import estimate_noise


def white(grey: float, size: tuple[int, int] = (160, 144), seed: int = 0) -> Tensor:
    return torch.randn((1, 1, *size), generator=torch.Generator().manual_seed(seed)) * grey / 127.5


def structure(size: tuple[int, int] = (160, 144)) -> Tensor:
    """Steep edges between pieces of tissue, and slow waves in each."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pieces = ((y // 40 + x // 36) % 3) * 0.5 - 0.5
    return (pieces + 0.2 * torch.sin(x / 6) * torch.sin(y / 7))[None, None].float()


@pytest.mark.parametrize("grey", [0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_white_noise_is_measured(grey: float, seed: int) -> None:
    assert float(estimate_noise(white(grey, seed=seed))) == pytest.approx(grey, rel=0.1)


@pytest.mark.parametrize("grey", [1.0, 4.0, 15.0])
def test_structure_is_not_taken_for_noise(grey: float) -> None:
    assert float(estimate_noise(structure())) < 0.1
    assert float(estimate_noise(structure() + white(grey))) == pytest.approx(grey, rel=0.35)


def test_of_correlated_noise_the_fine_part_counts() -> None:
    smooth = functional.avg_pool2d(white(10.0, (322, 290)), 3, 1)
    smooth = smooth * (10.0 / 127.5 / smooth.std())
    assert 0.2 < float(estimate_noise(smooth)) < 5.0


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.37, 1.7])
@pytest.mark.parametrize("size", [(64, 64), (8, 9)])
def test_a_constant_slice_has_none(value: float, size: tuple[int, int]) -> None:
    assert estimate_noise(torch.full((2, 1, *size), value)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [(7, 64), (64, 7), (1, 1)])
def test_a_slice_too_small_to_tell_has_none(size: tuple[int, int]) -> None:
    assert estimate_noise(white(9.0, size)).tolist() == [0.0]


def test_more_than_the_most_counts_as_the_most() -> None:
    assert float(estimate_noise(white(300.0))) == MAX_NOISE
    assert bool(estimate_noise(torch.full((1, 1, 30, 30), 1e30) * white(1.0, (30, 30))).isfinite().all())


@pytest.mark.parametrize("filled", ["half", "most", "frame"])
def test_filled_background_tells_nothing(filled: str) -> None:
    image = structure() + white(5.0)
    if filled == "half":
        image[..., :72] = -1.0
    elif filled == "most":
        image[..., :112] = -1.0
    else:
        image[..., :30, :], image[..., -30:, :], image[..., :30], image[..., -30:] = (-1.0,) * 4
    assert float(estimate_noise(image)) == pytest.approx(5.0, rel=0.35)


def test_each_slice_of_a_batch_is_measured_alone() -> None:
    images = [white(1.0), structure(), structure() + white(6.0, seed=1), torch.zeros(1, 1, 160, 144)]
    together = estimate_noise(torch.cat(images))
    assert together.shape == (4,)
    torch.testing.assert_close(together, torch.cat([estimate_noise(image) for image in images]))


def test_neither_direction_nor_offset_nor_gain_matters() -> None:
    image = structure() + white(4.0)
    found = estimate_noise(image)
    torch.testing.assert_close(estimate_noise(image.mT), found, atol=0, rtol=1e-5)
    torch.testing.assert_close(estimate_noise(image + 0.3), found, atol=0, rtol=1e-4)
    torch.testing.assert_close(estimate_noise(1.5 * image), 1.5 * found, atol=0, rtol=1e-4)
    assert torch.equal(estimate_noise(image.double()), found)


def test_a_phantom_without_noise_has_none() -> None:
    """Pieces that are linear leave second differences at their corners alone; these are not noise."""
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(144.0), indexing="ij")
    phantom = ((y // 40 + x // 36) % 3 * 0.5 - 0.5 + 0.001 * x - 0.002 * y)[None, None]
    assert float(estimate_noise(phantom)) == pytest.approx(0.0, abs=0.05)
    assert float(estimate_noise(phantom + white(4.0))) == pytest.approx(4.0, rel=0.35)

"""The sampler against a Gaussian truth, where everything is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ldmsr.samplers import AnchoredFlow, posterior_mean

#: Truth of two channels, one narrower and one wider than the start; and the start.
MEAN = torch.tensor([0.8, -1.7], dtype=torch.float64).view(1, 2, 1, 1)
SPREAD = torch.tensor([0.4, 1.5], dtype=torch.float64).view(1, 2, 1, 1)
START = 0.7


class GaussianVelocity:
    """E[X_1 - X_0 | x] for X_0 ~ N(0, START^2) and X_1 ~ N(MEAN, SPREAD^2), and how often it was asked."""

    def __init__(self, start: float = START) -> None:
        self.start = start
        self.timesteps: list[float] = []

    def __call__(self, state: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.shape == (len(state),)
        self.timesteps.append(float(timesteps[0]))
        u = 1 - timesteps.double().view(-1, 1, 1, 1) / 1000
        variance = ((1 - u) * self.start) ** 2 + (u * SPREAD) ** 2
        return MEAN + (u * SPREAD**2 - (1 - u) * self.start**2) / variance * (state - u * MEAN)


def normal(seed: int = 0, batch: int = 4, size: int = 64) -> Tensor:
    """Standard normal noise, of mean 0 and spread 1 in each channel as exactly as can be."""
    noise = torch.randn(batch, 2, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise - noise.mean((0, 2, 3), keepdim=True)) / noise.std((0, 2, 3), keepdim=True)


def misfit(sample: Tensor) -> tuple[float, float]:
    """Largest error of the mean in units of the spread, and of the spread as a share of it."""
    mean, spread = sample.mean((0, 2, 3), keepdim=True), sample.std((0, 2, 3), keepdim=True)
    return float(((mean - MEAN) / SPREAD).abs().max()), float((spread / SPREAD - 1).abs().max())


def test_the_first_evaluation_gives_the_mean() -> None:
    """From zero, where the low-resolution image is, the flow points straight to the mean: one evaluation."""
    velocity = GaussianVelocity()
    mean = posterior_mean(velocity, normal(size=4))
    torch.testing.assert_close(mean, MEAN.expand_as(mean))
    assert velocity.timesteps == [1000.0]


def test_the_anchored_flow_refines_the_mean() -> None:
    wrong = {}
    for steps in (1, 2, 8, 32, 128):  # one evaluation is the mean alone
        velocity = GaussianVelocity()
        wrong[steps] = misfit(AnchoredFlow(steps, START)(velocity, MEAN.expand(4, 2, 64, 64), normal()))
        assert velocity.timesteps == [1000 * (1 - n / steps) for n in range(1, steps)], "the first is not repeated"
    assert all(mean < 1e-6 for mean, _ in wrong.values())
    spreads = [spread for _, spread in wrong.values()]
    assert spreads[0] == pytest.approx(1)
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.02

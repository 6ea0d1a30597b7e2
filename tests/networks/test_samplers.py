"""The samplers against a Gaussian truth, where everything is known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from gaussian_diffusion import epsilon_from_velocity, flow_coordinates, sample_gaussian_diffusion
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from monai_ldmsr.errors import SettingsError
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


@pytest.mark.parametrize("start", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("alpha_bar", [4e-5, 0.1, 0.5, 0.9, 0.9999])
def test_epsilon_is_the_analytic_one(alpha_bar: float, start: float) -> None:
    """y = sqrt(a) X_1 + sqrt(1 - a) eps: what y tells of eps is linear in y, whatever the flow started from."""
    state = 2 * normal(size=8)
    noise = math.sqrt(1 - alpha_bar)
    expected = noise * (state - math.sqrt(alpha_bar) * MEAN) / (alpha_bar * SPREAD**2 + noise**2)
    velocity = GaussianVelocity(start)
    found = epsilon_from_velocity(velocity, state, alpha_bar, start)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    u = 1 - velocity.timesteps[0] / 1000
    assert u / ((1 - u) * start) == pytest.approx(math.sqrt(alpha_bar / (1 - alpha_bar)), rel=1e-3)


def test_both_paths_meet_in_the_same_state() -> None:
    """One pair of noise and truth: the flow's state is the diffusion's, scaled, and its velocity gives back eps."""
    epsilon, truth = normal(1, size=8), MEAN + SPREAD * normal(2, size=8)
    for alpha_bar in (0.01, 0.5, 0.99):
        u, scale = flow_coordinates(alpha_bar, START)
        state = math.sqrt(alpha_bar) * truth + math.sqrt(1 - alpha_bar) * epsilon
        torch.testing.assert_close(scale * state, (1 - u) * START * epsilon + u * truth)
        assert scale == pytest.approx(u / math.sqrt(alpha_bar))
        found = epsilon_from_velocity(lambda x, t: truth - START * epsilon, state, alpha_bar, START)
        torch.testing.assert_close(found, epsilon)
    assert flow_coordinates(1.0, START) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("method", "steps", "spread"),
    [("ddim", 50, 0.08), ("ddim", 1000, 0.006), ("ddpm", 200, 0.06), ("ddpm", 1000, 0.015)],
)
def test_samples_have_mean_and_spread_of_the_truth(method: str, steps: int, spread: float) -> None:
    velocity = GaussianVelocity()
    generator = torch.Generator().manual_seed(1)
    sample = sample_gaussian_diffusion(velocity, normal(), steps, method, START, generator)
    wrong = misfit(sample)
    assert wrong[0] < 0.03
    assert wrong[1] < spread
    assert len(velocity.timesteps) == steps
    assert velocity.timesteps == sorted(velocity.timesteps, reverse=True)
    assert velocity.timesteps[0] > 990, "it starts at noise"


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_more_steps_come_closer(method: str) -> None:
    wrong = [
        misfit(sample_gaussian_diffusion(GaussianVelocity(), normal(), n, method, START, torch.Generator()))[1]
        for n in (5, 20, 80, 320)
    ]
    assert all(later < 0.6 * earlier for earlier, later in pairwise(wrong)), wrong


def test_only_ddpm_draws() -> None:
    def sample(method: str, seed: int, noise: int = 0) -> Tensor:
        torch.manual_seed(seed)
        return sample_gaussian_diffusion(
            GaussianVelocity(), normal(noise, size=8), 10, method, START, torch.Generator().manual_seed(seed)
        )

    assert torch.equal(sample("ddim", 0), sample("ddim", 1))
    assert not torch.equal(sample("ddim", 0), sample("ddim", 0, noise=1))
    assert torch.equal(sample("ddpm", 0), sample("ddpm", 0))
    assert not torch.equal(sample("ddpm", 0), sample("ddpm", 1))


@pytest.mark.parametrize(("method", "scheduler"), [("ddim", DDIMScheduler), ("ddpm", DDPMScheduler)])
def test_a_thousand_steps_are_those_of_monai(method: str, scheduler: type) -> None:
    theirs = scheduler(num_train_timesteps=1000, clip_sample=False)
    theirs.set_timesteps(1000)
    state = normal(size=4)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    ours = sample_gaussian_diffusion(GaussianVelocity(), state, 1000, method, START, generators[0])
    for step in theirs.timesteps.tolist():
        alpha_bar = float(theirs.alphas_cumprod[step])
        epsilon = epsilon_from_velocity(GaussianVelocity(), state, alpha_bar, START)
        state, _ = theirs.step(epsilon, step, state, generator=generators[1])
    torch.testing.assert_close(ours, state, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"method": "euler"}, "method"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 1001}, "num_inference_steps"),
        ({"start_noise": 0.0}, "start_noise"),
        ({"start_noise": math.nan}, "start_noise"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        sample_gaussian_diffusion(GaussianVelocity(), normal(size=4), **{"num_inference_steps": 2, **settings})


@pytest.mark.parametrize("alpha_bar", [0.0, -0.1, 1.1, math.nan])
def test_the_singular_end_is_refused(alpha_bar: float) -> None:
    with pytest.raises(SettingsError, match="alpha_bar"):
        epsilon_from_velocity(GaussianVelocity(), normal(size=4), alpha_bar, START)


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


def test_flow_and_diffusion_agree_on_every_pixel() -> None:
    """Both follow the same ordinary differential equation: the same noise ends in the same sample."""
    velocity, noise = GaussianVelocity(), normal()
    flow = AnchoredFlow(500, START)(velocity, posterior_mean(velocity, noise), noise)
    diffusion = sample_gaussian_diffusion(GaussianVelocity(), normal(), 500, "ddim", START)
    torch.testing.assert_close(flow, diffusion, atol=0.05, rtol=0)

"""The plain way, kept as a reference: start at pure noise and denoise in many steps, by DDPM or DDIM.

A rectified flow that starts at Gaussian noise is a Gaussian diffusion in other coordinates (Liu et al. 2022, arXiv
2209.03003, section 2.3; Gao et al. 2024, "Diffusion meets flow matching: two sides of the same coin"). So a network
that was trained on velocities serves these samplers too, without training it again.

Notation (DDPM, Ho et al. 2020, arXiv 2006.11239; DDIM, Song et al. 2020, arXiv 2010.02502):

=========  ======================================================================================================
symbol     here
=========  ======================================================================================================
X_0        start of the flow: Gaussian of mean zero and standard deviation s = ``start_noise``
X_1        data; the papers call it x_0
u          flow time from 0 (noise) to 1 (data), ``timesteps = 1000 (1 - u)``
x          flow state, ``(1 - u) X_0 + u X_1``
v          ``velocity(x, timesteps)``, expectation of ``X_1 - X_0``
alpha_bar  product of 1 - beta (DDPM, section 2); DDIM calls it alpha
y          diffusion state, ``sqrt(alpha_bar) X_1 + sqrt(1 - alpha_bar) eps`` (DDPM, equation 4)
eps        standard normal noise, ``X_0 / s``
=========  ======================================================================================================

x and y are multiples of each other where their ratios of data to noise agree, ``u / ((1 - u) s) = sqrt(alpha_bar / (1 -
alpha_bar))``. Then ``x = y u / sqrt(alpha_bar)``, and from ``X_0 = x - u v`` follows ``eps = (x - u v) / s``.

At the singular end, ``alpha_bar = 0``, y holds nothing of the data, and the data that eps implies (DDPM, equation 15)
is 0 / 0: a network that predicts eps cannot start there. The schedule here ends at ``alpha_bar = 4e-5``.
"""

from __future__ import annotations

import math

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.samplers import Velocity

__all__ = ["epsilon_from_velocity", "flow_coordinates", "sample_gaussian_diffusion"]

#: Steps of the schedule that DDPM was published with (beta from 1e-4 to 0.02).
_SCHEDULE_STEPS = 1000

_METHODS: dict[str, type[DDIMScheduler] | type[DDPMScheduler]] = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}


def flow_coordinates(alpha_bar: float, start_noise: float) -> tuple[float, float]:
    """Flow time u, and the x of y = 1, where flow and diffusion have the same ratio of data to noise.

    Args:
        alpha_bar: above 0, up to 1.
        start_noise: standard deviation of the flow's start, above 0.

    Raises:
        SettingsError: an argument is outside its range.

    Example:
        >>> u, scale = flow_coordinates(0.5, 1.0)
        >>> round(u, 4), round(scale, 4)
        (0.5, 0.7071)
    """
    if not 0.0 < alpha_bar <= 1.0:
        raise SettingsError(f"alpha_bar is {alpha_bar}; noise alone says nothing of the data, so choose more than 0.")
    if not start_noise > 0.0:
        raise SettingsError(f"start_noise is {start_noise}; a diffusion starts at noise, so choose more than 0.")
    signal = start_noise * math.sqrt(alpha_bar)
    both = math.sqrt(1.0 - alpha_bar) + signal
    return signal / both, start_noise / both


def epsilon_from_velocity(velocity: Velocity, state: Tensor, alpha_bar: float, start_noise: float) -> Tensor:
    """What a noise-predicting network would say, asked of a velocity network: ``(x - u v) / s``.

    Args:
        velocity: maps flow state (B, Z, h, w) and timesteps (B,) to the velocity, shape of the state.
        state: (B, Z, h, w) diffusion state y.
        alpha_bar: that of the state.
        start_noise: standard deviation of the flow's start, as in training.

    Returns:
        (B, Z, h, w) expectation of eps.
    """
    time, scale = flow_coordinates(alpha_bar, start_noise)
    flow_state = scale * state
    timesteps = torch.full((state.shape[0],), 1000.0 * (1.0 - time), device=state.device)
    return (flow_state - time * velocity(flow_state, timesteps)) / start_noise


def sample_gaussian_diffusion(
    velocity: Velocity,
    noise: Tensor,
    num_inference_steps: int,
    method: str = "ddim",
    start_noise: float = 0.7,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample X_1 from pure noise.

    Args:
        velocity: maps flow state (B, Z, h, w) and timesteps (B,) to the velocity, shape of the state.
        noise: (B, Z, h, w) standard normal: the first y.
        num_inference_steps: 1 to 1000; each is one evaluation of ``velocity``. Usual are 50 (DDIM) and 1000 (DDPM).
        method: ``ddim`` (deterministic, eta = 0) or ``ddpm`` (ancestral, its smaller variance).
        start_noise: standard deviation of the flow's start, as in training.
        generator: draws what ``ddpm`` adds in each step, on the noise's device; None takes torch's own.

    Returns:
        (B, Z, h, w) sample of X_1.

    Raises:
        SettingsError: an argument is outside its range.

    Example:
        A velocity that knows its only goal arrives there in any number of steps.

        >>> goal = torch.full((1, 1, 2, 2), 3.0)
        >>> def exact(state, timesteps):
        ...     return (goal - state) / (timesteps.view(-1, 1, 1, 1) / 1000)
        >>> sample_gaussian_diffusion(exact, torch.randn(1, 1, 2, 2), 5).round(decimals=3).unique()
        tensor([3.])
    """
    if method not in _METHODS:
        raise SettingsError(f"method is '{method}'; choose 'ddim' or 'ddpm'.")
    if not 1 <= num_inference_steps <= _SCHEDULE_STEPS:
        raise SettingsError(f"num_inference_steps is {num_inference_steps}; choose 1 to {_SCHEDULE_STEPS}.")
    scheduler = _respaced(method, num_inference_steps)
    state = noise
    for step in reversed(range(num_inference_steps)):
        epsilon = epsilon_from_velocity(velocity, state, float(scheduler.alphas_cumprod[step]), start_noise)
        state, _ = scheduler.step(epsilon, step, state, generator=generator)
    return state


def _respaced(method: str, steps: int) -> DDIMScheduler | DDPMScheduler:
    """A scheduler whose whole schedule are the chosen steps, evenly spaced over the published thousand.

    MONAI's DDPM always goes from one training step to the one before, and its DDIM rounds the distance between two
    steps down; either leaves noise behind (DDPM) or assumes too much of it (DDIM) when the steps are fewer than the
    schedule's. With betas of the chosen steps alone (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 19) both
    are right, and a thousand steps are the published ones.
    """
    betas = torch.linspace(1e-4, 0.02, _SCHEDULE_STEPS, dtype=torch.float64)
    chosen = torch.linspace(_SCHEDULE_STEPS - 1, 0, steps, dtype=torch.float64).round().long().flip(0)
    alpha_bar = (1.0 - betas).cumprod(0)[chosen]
    scheduler = _METHODS[method](num_train_timesteps=steps, clip_sample=False, prediction_type="epsilon")
    scheduler.alphas = alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    scheduler.betas = 1.0 - scheduler.alphas
    scheduler.alphas_cumprod = alpha_bar
    return scheduler

"""Few-step rectified flow that starts at the low-resolution image instead of at pure noise.

Notation (Liu et al. 2022, arXiv 2209.03003; the anchored start follows ResShift, Yue et al. 2023, arXiv 2307.12348):

========  =============================================================================================
symbol    here
========  =============================================================================================
X_0       ``start_noise * noise``: the low-resolution image plus noise, written as residual to that image
X_1       the residual latent ``(z_HR - z_LR) / residual_std``
v         ``velocity(state, timesteps)``, trained to be ``X_1 - X_0``
========  =============================================================================================

The state is a residual, so zero *is* the low-resolution image, and the noise has each latent channel's own size of what
is missing there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor

__all__ = ["posterior_mean", "refine_mean", "sample_anchored_flow"]

#: Maps a state (B, Z, h, w) and timesteps (B,) to the velocity, shape of the state.
Velocity = Callable[[Tensor, Tensor], Tensor]


def posterior_mean(velocity: Velocity, like: Tensor) -> Tensor:
    """What the flow expects of X_1 when it has seen the low-resolution image alone: one evaluation.

    At the start the state knows nothing of X_1, so the best velocity there points from the state to the posterior mean.
    Without noise the state is zero, and the velocity is the mean itself.

    Args:
        velocity: see :func:`sample_anchored_flow`.
        like: (B, Z, h, w), gives shape and device.
    """
    return velocity(torch.zeros_like(like), _timesteps(like, 1000.0))


def refine_mean(
    velocity: Velocity, mean: Tensor, noise: Tensor, num_inference_steps: int, start_noise: float
) -> Tensor:
    """Sample X_1 by a flow whose first step led from noise towards the mean.

    Args:
        velocity: see :func:`sample_anchored_flow`.
        mean: (B, Z, h, w), of :func:`posterior_mean`.
        noise: (B, Z, h, w) standard normal.
        num_inference_steps: Euler steps, of which the first is known from the mean; at least 2.
        start_noise: see :func:`sample_anchored_flow`.
    """
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(num_inference_steps)
    # MONAI keeps its timesteps in float16; the same values in float64 make the last step arrive exactly.
    timesteps = [1000.0 * (1 - n / num_inference_steps) for n in range(num_inference_steps)]
    state = start_noise * noise
    predicted = mean - state
    for n, timestep in enumerate(timesteps):
        predicted = velocity(state, _timesteps(state, timestep)) if n else predicted
        state, _ = scheduler.step(predicted, timestep, state)
    return state


def sample_anchored_flow(velocity: Velocity, noise: Tensor, num_inference_steps: int, start_noise: float) -> Tensor:
    """Integrate the flow from the low-resolution image to a high-resolution residual.

    Args:
        velocity: maps state (B, Z, h, w) and timesteps (B,) to the velocity, shape of the state.
        noise: (B, Z, h, w) standard normal.
        num_inference_steps: Euler steps; each is one evaluation of ``velocity``. One gives the posterior mean.
        start_noise: standard deviation of the start in units of the residual's.

    Returns:
        (B, Z, h, w) sample of X_1.

    Example:
        A velocity that knows its only goal arrives there in any number of steps.

        >>> goal = torch.full((1, 1, 2, 2), 3.0)
        >>> def exact(state, timesteps):
        ...     return (goal - state) / (timesteps.view(-1, 1, 1, 1) / 1000)
        >>> sample_anchored_flow(exact, torch.randn(1, 1, 2, 2), 3, 0.7).round(decimals=4).unique()
        tensor([3.])
    """
    mean = posterior_mean(velocity, noise)
    return refine_mean(velocity, mean, noise, num_inference_steps, start_noise) if num_inference_steps > 1 else mean


def _timesteps(state: Tensor, timestep: float) -> Tensor:
    return torch.full((state.shape[0],), timestep, device=state.device)

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

from collections.abc import Mapping

import torch
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor

from monai_ldmsr.number_settings import real_number, whole_number
from monai_ldmsr.samplers.interface import Velocity

__all__ = ["AnchoredFlow", "posterior_mean"]


class AnchoredFlow:
    """Euler steps of a flow whose first step leads from noise towards the posterior mean, which is known already.

    Args:
        num_inference_steps: steps; each but the first is one evaluation of the network, and so is the mean. One step
            gives the mean.
        start_noise: standard deviation of the noise at the start, in units of the residual's.

    Raises:
        SettingsError: a number is outside its range.

    Example:
        A velocity that knows its only goal arrives there in any number of steps.

        >>> goal = torch.full((1, 1, 2, 2), 3.0)
        >>> def exact(state, timesteps):
        ...     return (goal - state) / (timesteps.view(-1, 1, 1, 1) / 1000)
        >>> mean = posterior_mean(exact, goal)
        >>> AnchoredFlow(3, 0.7)(exact, mean, torch.randn(1, 1, 2, 2)).round(decimals=4).unique()
        tensor([3.])
    """

    def __init__(self, num_inference_steps: int = 2, start_noise: float = 0.2) -> None:
        self.evaluations = whole_number("num_inference_steps", num_inference_steps, 1)
        self.start_noise = real_number("start_noise", start_noise, 0.0)

    def __call__(self, velocity: Velocity, mean: Tensor, noise: Tensor) -> Tensor:
        """Sample X_1, see :class:`~monai_ldmsr.samplers.interface.LatentSampler`."""
        steps = self.evaluations
        if steps == 1:
            return mean
        scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
        scheduler.set_timesteps(steps)
        # MONAI keeps its timesteps in float16; the same values in float64 make the last step arrive exactly.
        timesteps = [1000.0 * (1 - n / steps) for n in range(steps)]
        state = self.start_noise * noise
        predicted = mean - state
        for n, timestep in enumerate(timesteps):
            predicted = velocity(state, _timesteps(state, timestep)) if n else predicted
            state, _ = scheduler.step(predicted, timestep, state)
        return state

    def describe(self) -> Mapping[str, float]:
        """Steps and noise, under the names of the arguments."""
        return {"num_inference_steps": self.evaluations, "start_noise": self.start_noise}


def posterior_mean(velocity: Velocity, like: Tensor) -> Tensor:
    """What the flow expects of X_1 when it has seen the low-resolution image alone: one evaluation.

    At the start the state knows nothing of X_1, so the best velocity there points from the state to the posterior mean.
    Without noise the state is zero, and the velocity is the mean itself.

    Args:
        velocity: the network.
        like: (B, Z, h, w), gives shape and device.
    """
    return velocity(torch.zeros_like(like), _timesteps(like, 1000.0))


def _timesteps(state: Tensor, timestep: float) -> Tensor:
    return torch.full((state.shape[0],), timestep, device=state.device)

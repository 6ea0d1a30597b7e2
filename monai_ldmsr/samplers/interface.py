"""What an algorithm must have to be the super-resolver's sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

__all__ = ["LatentSampler", "Velocity"]

#: Maps a state (B, Z, h, w) and timesteps (B,) from 1000 (start) to 0 (data) to the velocity, shape of the state.
Velocity = Callable[[Tensor, Tensor], Tensor]


class LatentSampler(Protocol):
    """Draws one residual latent out of those that are possible. It knows no files, no devices and no decoders."""

    @property
    def evaluations(self) -> int:
        """How often the network runs for a sample, its mean included; with 1 the mean is all there is."""

    def __call__(self, velocity: Velocity, mean: Tensor, noise: Tensor) -> Tensor:
        """Sample.

        Args:
            velocity: the network.
            mean: (B, Z, h, w) what the network expects when it has seen the low-resolution image alone; zero is that
                image.
            noise: (B, Z, h, w) standard normal.

        Returns:
            (B, Z, h, w) residual latent to the low-resolution image, in units of its standard deviation.
        """

    def describe(self) -> Mapping[str, Any]:
        """Every number that changes a sample, by name, for the report."""

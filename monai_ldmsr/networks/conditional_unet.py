"""The denoising network: a MONAI diffusion U-Net that sees the encoded low-resolution image beside its state."""

from __future__ import annotations

from functools import lru_cache

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.networks.folded import fold_upsampling
from monai_ldmsr.operators import OPERATORS

__all__ = ["CONDITIONS", "MAX_FACTOR", "ConditionalUNet", "describe_degradation"]

#: The greatest factor of rows or columns that the networks are trained for; the least is 1. They need not be whole.
MAX_FACTOR = 6.0

#: Numbers that describe how a slice was degraded: two factors, one plane an operator, and noise.
CONDITIONS = 2 + len({operator.plane for operator in OPERATORS.values()}) + 1


def describe_degradation(factors: Tensor, operator: Tensor, noise: Tensor) -> Tensor:
    """What the networks are given of how slices were degraded.

    Args:
        factors: (B, 2) factors of rows (H) and columns (W), 1 to :data:`MAX_FACTOR`.
        operator: (B,) places in ``operators.OPERATORS``.
        noise: (B,) standard deviation of the low-resolution slice's noise, in grey levels of 255.

    Returns:
        (B, CONDITIONS), numbers from about 0 to 2.

    Example:
        >>> describe_degradation(torch.tensor([[4.0, 1.0]]), torch.tensor([0]), torch.tensor([3.0]))
        tensor([[1., 0., 1., 0., 0., 1.]])
    """
    # What an export makes is no tensor to keep.
    made = _planes.__wrapped__ if torch.compiler.is_exporting() else _planes
    seen_as = made(tuple(one.plane for one in OPERATORS.values()), operator.device)[operator.to(torch.long)]
    planes = functional.one_hot(seen_as, CONDITIONS - 3).to(factors)
    return torch.cat([factors.log2() / 2, planes, (1 + noise)[:, None].log2() / 2], dim=1)


@lru_cache(maxsize=16)
def _planes(by_place: tuple[int, ...], device: torch.device) -> Tensor:
    """Planes by place, kept on a device: nothing may be copied to it while an iteration is recorded."""
    with torch.inference_mode(False):
        return torch.tensor(by_place, device=device)


class ConditionalUNet(nn.Module):
    """Velocity of the latent flow, given the encoded low-resolution slice, and how it was degraded.

    MONAI's class embedding, a table with a row for each class, is made continuous: a small network maps
    :func:`describe_degradation` to what is added to the embedding of time.

    Args:
        unet: MONAI ``DiffusionModelUNet`` with ``2 Z`` input and ``Z`` output channels and any ``num_class_embeds``.
    """

    def __init__(self, unet: DiffusionModelUNet) -> None:
        super().__init__()
        width = unet.class_embedding.weight.shape[1]
        unet.class_embedding = nn.Sequential(nn.Linear(CONDITIONS, width), nn.SiLU(), nn.Linear(width, width))
        fold_upsampling(unet)
        self.unet = unet

    @property
    def reduction(self) -> int:
        """Latent sides must be multiples of this."""
        return int(2 ** (len(self.unet.block_out_channels) - 1))

    def forward(self, state: Tensor, condition: Tensor, timesteps: Tensor, degradation: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            state: (B, Z, h, w) flow state.
            condition: (B, Z, h, w) latent of the low-resolution slice brought to the target grid.
            timesteps: (B,) from 1000 (start) to 0 (data), as MONAI's ``RFlowScheduler`` counts.
            degradation: (B, CONDITIONS) of :func:`describe_degradation`.
        """
        velocity: Tensor = self.unet(torch.cat([state, condition], dim=1), timesteps, class_labels=degradation)
        return velocity

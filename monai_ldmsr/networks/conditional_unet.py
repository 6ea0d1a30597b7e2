"""The denoising network: a MONAI diffusion U-Net that sees the encoded low-resolution image beside its state."""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from monai_ldmsr.degradation import OPERATORS

__all__ = ["CLASSES", "FACTORS", "ConditionalUNet"]

#: The super-resolution factors that the network tells apart, in the order of its class embedding.
FACTORS = (2, 3, 4)

#: Classes of the embedding: each operator with each factor.
CLASSES = len(OPERATORS) * len(FACTORS)


class ConditionalUNet(nn.Module):
    """Velocity of the latent flow, given the encoded low-resolution slice, and how it was degraded.

    Args:
        unet: MONAI ``DiffusionModelUNet`` with ``2 Z`` input and ``Z`` output channels and
            ``num_class_embeds=CLASSES``: one for each operator and factor.
    """

    def __init__(self, unet: DiffusionModelUNet) -> None:
        super().__init__()
        self.unet = unet

    @property
    def reduction(self) -> int:
        """Latent sides must be multiples of this."""
        return int(2 ** (len(self.unet.block_out_channels) - 1))

    def forward(self, state: Tensor, condition: Tensor, timesteps: Tensor, factor: Tensor, operator: Tensor) -> Tensor:
        """Predict the velocity.

        Args:
            state: (B, Z, h, w) flow state.
            condition: (B, Z, h, w) latent of the low-resolution slice brought to the target grid.
            timesteps: (B,) from 1000 (start) to 0 (data), as MONAI's ``RFlowScheduler`` counts.
            factor: (B,) integers out of :data:`FACTORS`.
            operator: (B,) places in ``degradation.OPERATORS``.
        """
        labels = operator.to(torch.long) * len(FACTORS) + factor.to(torch.long) - FACTORS[0]
        velocity: Tensor = self.unet(torch.cat([state, condition], dim=1), timesteps, class_labels=labels)
        return velocity

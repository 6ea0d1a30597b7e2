"""The adversary of training: distinguishes real slices from super-resolved ones, given the low-resolution image."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["ConditionalCritic"]

#: Brings what high resolution adds (about 0.1 in model range at factor 4) to the size of the image itself.
_GAIN = 5.0


class ConditionalCritic(nn.Module):
    """A MONAI ``PatchDiscriminator`` that sees what a slice adds to the low-resolution one, and that one beside it.

    Its inner convolutions are spectrally normalized (Miyato et al. 2018, arXiv 1802.05957), the first and the last are
    free, as in Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833), and there is no other normalization: batch and
    instance norm would hide from it how strong texture and noise are.

    It is given how the slice was degraded, noise above all, as a constant plane for each number.

    Args:
        discriminator: network with ``2 + CONDITIONS`` input channels, built with ``norm=None``.

    Example:
        >>> from monai_ldmsr.networks import CONDITIONS
        >>> critic = ConditionalCritic(PatchDiscriminator(2, 8, 2 + CONDITIONS, num_layers_d=2, norm=None))
        >>> critic(torch.zeros(3, 1, 32, 32), torch.zeros(3, 1, 32, 32), torch.zeros(3, CONDITIONS)).shape
        torch.Size([3, 1, 6, 6])
    """

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__()
        convolutions = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
        for convolution in convolutions[1:-1]:
            spectral_norm(convolution)
        self.discriminator = discriminator

    def forward(self, images: Tensor, condition: Tensor, degradation: Tensor) -> Tensor:
        """Logits of being real.

        Args:
            images: (B, 1, H, W) to be judged.
            condition: (B, 1, H, W) the low-resolution slice brought to the same grid.
            degradation: (B, CONDITIONS) of ``describe_degradation``.
        """
        planes = degradation[..., None, None].expand(-1, -1, *images.shape[-2:])
        logits: Tensor = self.discriminator(torch.cat([_GAIN * (images - condition), condition, planes], dim=1))[-1]
        return logits

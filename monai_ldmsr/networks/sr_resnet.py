"""The baselines' generator: a plain residual network, trained alone (SRResNet) or against a critic (SRGAN)."""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.blocks import SubpixelUpsample
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.choices import FACTORS
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.networks.interface import SliceModule
from monai_ldmsr.networks.slice_noise import padding

__all__ = ["SRResNetGenerator"]

#: Side reduction at which the residual blocks work: that of the low-resolution image at factor 4.
_BLOCK = 4


class SRResNetGenerator(SliceModule):
    """SRResNet (Ledig et al. 2017, arXiv 1609.04802, figure 4) for factors 2, 3 and 4 in one set of weights.

    As in the paper: a wide first layer, residual blocks at low resolution, a skip over all of them, two sub-pixel
    layers, a wide last layer. Different from it: no batch normalization (Lim et al. 2017, arXiv 1707.02921), so that
    intensities survive; input is the bicubic image on the target grid, folded 4x4 into channels beside one plane for
    each factor; and the network predicts what the bicubic image lacks.

    Args:
        factor: one of ``FACTORS``, of rows and columns alike.
        features: channels of the residual blocks.
        num_blocks: residual blocks of two 3x3 convolutions each.
        margin: low-resolution pixels of edge padding on each side at least.

    Raises:
        SettingsError: the factor is another one.

    Example:
        >>> SRResNetGenerator(factor=3, features=8, num_blocks=1)(torch.zeros(1, 1, 10, 7)).shape
        torch.Size([1, 1, 30, 21])
    """

    def __init__(self, factor: int = 4, features: int = 64, num_blocks: int = 16, margin: int = 4) -> None:
        super().__init__()
        self.factors = Factors.of(factor)
        if self.factors not in [Factors(f, f) for f in FACTORS]:
            raise SettingsError(f"factor is {self.factors}, but this model super-resolves by {FACTORS}.")
        self.margin = margin
        self.head = nn.Sequential(nn.Conv2d(_BLOCK**2 + len(FACTORS), features, 5, padding=2), nn.PReLU())
        self.body = nn.Sequential(
            *(_ResidualBlock(features) for _ in range(num_blocks)), nn.Conv2d(features, features, 3, padding=1)
        )
        last = nn.Conv2d(features // 2, 1, 9, padding=4)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias if last.bias is not None else last.weight)
        self.tail = nn.Sequential(
            SubpixelUpsample(2, features, features, scale_factor=2),
            nn.PReLU(),
            SubpixelUpsample(2, features, features // 2, scale_factor=2),
            nn.PReLU(),
            last,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        """Super-resolve slices (B, 1, h, w) to (B, 1, f h, f w), whatever they show and however noisy they are."""
        self.check(slices, noise)
        factor = self.factors.whole[0]
        height, width = (n * factor for n in slices.shape[-2:])
        unit = _BLOCK // math.gcd(_BLOCK, factor)
        (top, bottom), (left, right) = (padding(n, unit, self.margin) for n in slices.shape[-2:])
        padded = functional.pad(slices, (left, right, top, bottom), mode="replicate")
        factors = torch.full((slices.shape[0],), factor, device=slices.device)
        result = self.refine(upsample_bicubic(padded, factor), factors)
        top, left = top * factor, left * factor
        return result[..., top : top + height, left : left + width]

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        """Nothing: its weights and the factor say all, and no noise is drawn."""
        return {}

    def refine(self, upsampled: Tensor, factor: Tensor) -> Tensor:
        """Sharpen slices that bicubic interpolation brought to the target grid.

        Args:
            upsampled: (B, 1, H, W), H and W multiples of 4.
            factor: (B,) integers out of ``FACTORS``.
        """
        folded = functional.pixel_unshuffle(upsampled, _BLOCK)
        planes = functional.one_hot(factor.to(torch.long) - FACTORS[0], len(FACTORS)).to(folded)
        planes = planes[..., None, None].expand(-1, -1, *folded.shape[-2:])
        features = self.head(torch.cat([folded, planes], dim=1))
        missing: Tensor = self.tail(features + self.body(features))
        return upsampled + missing


class _ResidualBlock(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1), nn.PReLU(), nn.Conv2d(features, features, 3, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = image + self.layers(image)
        return result

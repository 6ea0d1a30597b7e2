"""The learned decoder that sees whole pixels: from a decoded latent and the low-resolution image to the slice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.networks.conditional_unet import CONDITIONS
from monai_ldmsr.networks.folded import shuffled_kernel

__all__ = ["PixelDecoder"]

#: Pixel-unshuffle in front of the residual blocks, and channels behind it.
_FOLD, _LAST_CHANNELS = 2, 16


class PixelDecoder(nn.Module):
    """Residual blocks at half resolution, last layer on whole pixels.

    A latent codec reconstructs each block of pixels from its own coefficients; edges across blocks come out dotted
    where the coefficients are only estimated. This decoder sees the codec's reconstruction and the low-resolution image
    on the target grid, pixel by pixel, and adds what makes them one image.

    With ``noise`` it also sees a field of white noise, at both resolutions (Karras et al. 2019, StyleGAN,
    arXiv 1812.04948, section 3.2), so that texture can be made of noise and need not be a fixed pattern.

    Args:
        channels: number of channels of the residual blocks.
        num_blocks: residual blocks of two 3x3 convolutions each.
        out_channels: first the slice; a second one for a further figure a pixel.
        noise: whether :meth:`forward` takes noise.
        conditions: how many numbers describe the degradation.

    Example:
        >>> decoder = PixelDecoder(8, 1, noise=True)
        >>> x = torch.zeros(2, 1, 8, 12)
        >>> decoder(x, x, torch.zeros(2, CONDITIONS), torch.randn_like(x)).shape
        torch.Size([2, 1, 8, 12])
    """

    def __init__(
        self,
        channels: int = 48,
        num_blocks: int = 3,
        out_channels: int = 1,
        noise: bool = False,
        conditions: int = CONDITIONS,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(2 * _FOLD**2, channels, 3, padding=1)
        self.degradation = nn.Linear(conditions, channels)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in range(num_blocks)
        )
        self.up = nn.Conv2d(channels, _LAST_CHANNELS * _FOLD**2, 3, padding=1)
        self.last = nn.Conv2d(_LAST_CHANNELS, out_channels, 5, padding=2)
        nn.init.zeros_(self.degradation.weight)
        nn.init.zeros_(self.degradation.bias)
        nn.init.normal_(self.last.weight, std=1e-3)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)
        if noise:
            self.noise_head = nn.Conv2d(_FOLD**2, channels, 3, padding=1, bias=False)
            self.noise_last = nn.Conv2d(1, _LAST_CHANNELS, 3, padding=1, bias=False)
            for layer in (self.noise_head, self.noise_last):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, decoded: Tensor, image: Tensor, degradation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            decoded: (B, 1, H, W) the codec's reconstruction, in model range; H and W even.
            image: (B, 1, H, W) low-resolution slice on the target grid.
            degradation: (B, conditions), those of ``describe_degradation`` first.
            noise: (B, 1, H, W) standard normal; only for decoders that take it.

        Returns:
            (B, out_channels, H, W), the first channel in model range.
        """
        features = self.head(functional.pixel_unshuffle(torch.cat([decoded, image], dim=1), _FOLD))
        features = features + self.degradation(degradation)[..., None, None]
        folded_noise = None if noise is None else functional.pixel_unshuffle(noise, _FOLD)
        if folded_noise is not None:
            features = features + self.noise_head(folded_noise)
        features = functional.silu(features)
        for block in self.body:
            features = features + block(features)
        # The last layers are those of whole pixels, taken before the pixels are shuffled.
        pixels = self.up(features)
        if folded_noise is not None:
            pixels = pixels + _on_folded(self.noise_last, folded_noise)
        added = functional.pixel_shuffle(_on_folded(self.last, functional.silu(pixels)), _FOLD)
        return torch.cat([decoded + added[:, :1], added[:, 1:]], dim=1)


def _on_folded(layer: nn.Conv2d, image: Tensor) -> Tensor:
    """What a layer makes of whole pixels, of and as pixel-unshuffled ones."""
    kernel = shuffled_kernel(layer.weight, _FOLD)
    bias = None if layer.bias is None else layer.bias.repeat_interleave(_FOLD**2)
    return functional.conv2d(image, kernel, bias, padding=kernel.shape[-1] // 2)

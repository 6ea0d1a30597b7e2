"""An autoencoder together with the latent statistics that it was trained with."""

from __future__ import annotations

import torch
from monai.networks.nets import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.networks.folded import fold_upsampling
from monai_ldmsr.operators import cosine_matrix

__all__ = ["LatentCodec", "block_dct_basis"]


def block_dct_basis(block: int) -> Tensor:
    """Orthonormal two-dimensional DCT-II basis of one block.

    Args:
        block: side of the block in pixels.

    Returns:
        (block**2, 1, block, block) float32, constant image first.
    """
    rows = cosine_matrix(block)
    return torch.einsum("ay,bx->abyx", rows, rows).reshape(block * block, 1, block, block).float()


class LatentCodec(nn.Module):
    """Encode a slice into a latent of unit variance and decode it again.

    A MONAI ``AutoencoderKL`` works on the slice folded by ``fold`` (pixel-unshuffle, so that its full-resolution layers
    stay cheap on a CPU) and learns what a fixed, lossless block transform leaves to improve: encoder and decoder both
    have a space-to-channel shortcut, as in DC-AE (Chen et al. 2024, arXiv 2410.10733, section 3.2), here an orthonormal
    DCT. So the codec starts lossless, and training trades exactness for latents that a small network can predict.

    The statistics are buffers and travel in the weights; a codec that forgot them would shift every image.

    Args:
        autoencoder: network from (B, fold**2, H/fold, W/fold) to latents at ``1/block`` of the slice's resolution.
        latent_channels: channels of the latent, ``block**2``.
        block: reduction of the slice's sides, 4 for an f = 4 autoencoder.
        fold: pixel-unshuffle in front of the autoencoder.

    Example:
        >>> net = AutoencoderKL(2, 4, 4, (1, 1), (8, 8), (False, False), 16, 8,
        ...                     with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False)
        >>> codec = LatentCodec(net)
        >>> codec.encode(torch.zeros(1, 1, 32, 48)).shape
        torch.Size([1, 16, 8, 12])
    """

    latent_mean: Tensor
    latent_std: Tensor
    residual_std: Tensor
    basis: Tensor

    def __init__(self, autoencoder: AutoencoderKL, latent_channels: int = 16, block: int = 4, fold: int = 2) -> None:
        super().__init__()
        if latent_channels != block**2:
            raise ValueError(f"latent_channels is {latent_channels}, but the shortcut gives {block**2}")
        fold_upsampling(autoencoder)
        self.autoencoder = autoencoder
        self.block = block
        self.fold = fold
        self.register_buffer("basis", block_dct_basis(block), persistent=False)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.register_buffer("residual_std", torch.ones(latent_channels))
        self._start_lossless()

    def _start_lossless(self) -> None:
        """Silence the learned branches, and let the posterior start narrow (standard deviation about 0.02)."""
        for layer in (self.autoencoder.quant_conv_mu, self.autoencoder.quant_conv_log_sigma):
            nn.init.zeros_(layer.conv.weight)
            nn.init.zeros_(layer.conv.bias)
        nn.init.constant_(self.autoencoder.quant_conv_log_sigma.conv.bias, -8.0)
        last = self.autoencoder.decoder.blocks[-1].conv
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the raw (not yet standardized) latent, each (B, Z, H/block, W/block)."""
        mean, sigma = self.autoencoder.encode(functional.pixel_unshuffle(image, self.fold))
        return mean + functional.conv2d(image, self.basis, stride=self.block), sigma

    def reconstruct(self, raw_latent: Tensor) -> Tensor:
        """Slice (B, 1, H, W) from a raw latent."""
        learned = functional.pixel_shuffle(self.autoencoder.decode(raw_latent), self.fold)
        return learned + functional.conv_transpose2d(raw_latent, self.basis, stride=self.block)

    def encode(self, image: Tensor) -> Tensor:
        """Standardized latent: zero mean and unit variance per channel over the training slices.

        Args:
            image: (B, 1, H, W) in model range, H and W multiples of ``block``.
        """
        mean, _ = self.posterior(image)
        return (mean - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        """Slice (B, 1, H, W) in model range from a standardized latent; the inverse of :meth:`encode`."""
        return self.reconstruct(latent * self.latent_std[:, None, None] + self.latent_mean[:, None, None])

    def encode_stage_2_inputs(self, x: Tensor) -> Tensor:
        """:meth:`encode`, by the name under which MONAI's ``LatentDiffusionInferer`` asks for it."""
        return self.encode(x)

    def decode_stage_2_outputs(self, z: Tensor) -> Tensor:
        """:meth:`decode`, likewise."""
        return self.decode(z)

    def forward(self, image: Tensor) -> Tensor:
        """Decode what :meth:`encode` gives: the best that any latent model on this codec can reach."""
        return self.decode(self.encode(image))

    def set_statistics(self, mean: Tensor, std: Tensor, residual_std: Tensor) -> None:
        """Store per-channel statistics.

        Args:
            mean: (Z,) mean of the raw latents.
            std: (Z,) standard deviation of the raw latents.
            residual_std: (Z,) standard deviation of standardized high-resolution minus low-resolution latents.
        """
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)
        self.residual_std.copy_(residual_std)

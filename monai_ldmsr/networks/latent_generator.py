"""Codec, denoiser and decoders together: what training trains, and what super-resolves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_ldmsr.networks.conditional_unet import ConditionalUNet
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.networks.pixel_decoder import PixelDecoder
from monai_ldmsr.networks.plane_mean import PlaneMean
from monai_ldmsr.samplers import LatentSampler, posterior_mean

__all__ = ["LatentGenerator", "Prediction"]

#: Least and greatest logarithm of the expected error in model range: a 50th of a grey level, and the whole range.
_LOG_SCALE = (-9.0, 0.7)


class Prediction(NamedTuple):
    """What the networks say of slices.

    Args:
        mean: (B, 1, H, W) expectation of the high-resolution slice, in model range; None when it was not asked for.
        log_scale: (B, 1, H, W) natural logarithm of the expected absolute error of ``mean``; likewise.
        sample: (B, 1, H, W) one slice out of those that are possible; likewise.
    """

    mean: Tensor | None
    log_scale: Tensor | None
    sample: Tensor | None


class LatentGenerator(nn.Module):
    """Two evaluations of a denoiser, and a decoder for each: the posterior mean, then a sample.

    The first evaluation starts at the low-resolution image. The second starts halfway between noise and that mean; so
    the flow starts near the posterior mean, which costs least truth for its sharpness (PMRF, Ohayon et al. 2024,
    arXiv 2410.00418). Trained against a critic it needs no further steps (adversarial distillation, compare Sauer et
    al. 2023, arXiv 2311.17042).

    Args:
        codec: latent codec with its statistics; it is not trained on.
        denoiser: velocity network.
        mean_decoder: two channels: the mean, and the logarithm of its expected absolute error.
        sample_decoder: one channel; takes noise.
    """

    def __init__(
        self,
        codec: LatentCodec,
        denoiser: ConditionalUNet,
        mean_decoder: PixelDecoder,
        sample_decoder: PixelDecoder,
    ) -> None:
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.denoiser = denoiser
        self.mean_decoder = mean_decoder
        self.sample_decoder = sample_decoder

    @property
    def unit(self) -> int:
        """Sides of slices must be multiples of this."""
        return self.codec.block * self.denoiser.reduction

    def forward(
        self,
        image: Tensor,
        degradation: Tensor,
        sampler: LatentSampler | None = None,
        latent_noise: Tensor | None = None,
        pixel_noise: Tensor | None = None,
        with_mean: bool = True,
        planes: tuple[PlaneMean, Tensor] | None = None,
    ) -> Prediction:
        """Predict.

        Args:
            image: (B, 1, H, W) low-resolution slices on the target grid, in model range.
            degradation: (B, CONDITIONS) of ``describe_degradation``.
            sampler: makes the sample; None for the mean alone.
            latent_noise: (B, Z, H/block, W/block) standard normal; likewise.
            pixel_noise: (B, 1, H, W) standard normal; likewise.
            with_mean: whether the mean is decoded; without it a sample takes a quarter less time.
            planes: what makes the mean where slices are planes across a stack, and the width (B,) of the slice profile.
        """
        with torch.no_grad():
            condition = self.codec.encode(image)

        def velocity(denoiser: Callable[..., Tensor], state: Tensor, timesteps: Tensor) -> Tensor:
            return denoiser(state, condition, timesteps, degradation)

        def decode(residual: Tensor) -> Tensor:
            return self.codec.decode(condition + residual * self.codec.residual_std[:, None, None])

        denoise: Callable[..., Tensor] = self.denoiser
        decode_mean: Callable[..., Tensor] = self.mean_decoder
        if planes is not None:
            denoise = partial(planes[0].velocity, self.denoiser)
            decode_mean = partial(planes[0].decode, width=planes[1])
        expected = posterior_mean(partial(velocity, denoise), condition)
        mean: Tensor | None = None
        log_scale: Tensor | None = None
        if with_mean:
            both = decode_mean(decode(expected), image, degradation)
            mean, log_scale = both[:, :1], both[:, 1:].clamp(*_LOG_SCALE)
        if sampler is None or latent_noise is None or pixel_noise is None:
            return Prediction(mean, log_scale, None)
        # What makes the sample sharp shall not bend the mean.
        drawn = sampler(partial(velocity, self.denoiser), expected.detach(), latent_noise)
        sample = self.sample_decoder(decode(drawn), image, degradation, pixel_noise)
        return Prediction(mean, log_scale, sample)

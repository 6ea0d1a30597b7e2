"""The networks as functions of tensors alone, for any number and size of slices: what exporters can follow."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks.conditional_unet import MAX_FACTOR, describe_degradation
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.networks.super_resolver import SuperResolver, dial_by_place
from monai_ldmsr.number_settings import real_number
from monai_ldmsr.operators import operator_place

__all__ = ["CodecDecoder", "CodecEncoder", "PureResolver", "whole_side"]

#: Longest side up to which a factor that is not whole is held to give the same sides as rounding does.
_CHECKED_SIDES = 4096

#: Greatest denominator of a factor as a fraction: products with sides stay exact.
_DENOMINATOR = 1000


class CodecEncoder(nn.Module):
    """``LatentCodec.encode`` as a module.

    Args:
        codec: shared, not copied.
    """

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, image: Tensor) -> Tensor:
        """Latent (B, Z, H/block, W/block) of slices (B, 1, H, W)."""
        return self.codec.encode(image)


class CodecDecoder(nn.Module):
    """``LatentCodec.decode`` as a module.

    Args:
        codec: shared, not copied.
    """

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, latent: Tensor) -> Tensor:
        """Slices (B, 1, H, W) of latents (B, Z, H/block, W/block)."""
        return self.codec.decode(latent)


class PureResolver(nn.Module):
    """A ``SuperResolver`` to which noise and dial are given: nothing is estimated, drawn, looked up or checked.

    Args:
        network: shared, not copied.
        factor: how many times finer slices become, whole or not, a pair where rows and columns differ; None takes that
            of the network.
        detail: dial from mean (0) to sample (1) that :meth:`forward` uses; None has it given with each call.
        flat_detail: share of the dial where slices show nothing but noise; None takes that of the network.

    Attributes:
        factors: how many times finer the result's grid is.
        with_sample: whether :meth:`forward` takes noise for a sample; without, it gives the mean.

    Raises:
        SettingsError: a dial is outside its range, or slices cannot become finer by the factor in whole numbers.
    """

    degradation: Tensor

    def __init__(
        self,
        network: SuperResolver,
        factor: Factor | None = None,
        detail: float | None = None,
        flat_detail: float | None = None,
    ) -> None:
        super().__init__()
        self.factors = network.factors if factor is None else Factors.of(factor)
        if max(self.factors) > MAX_FACTOR or self.factors.k != 1 or self.factors == Factors(1, 1):
            raise SettingsError(
                f"factor is {self.factors}, but this network super-resolves by more than 1, to {MAX_FACTOR:g}."
            )
        self._fractions = [_fraction(value) for value in self.factors.in_plane]
        self.generator, self.sampler, self.margin = network.generator, network.sampler, network.margin
        self.detail = None if detail is None else real_number("detail", detail, 0.0, 1.0)
        own = network.flat_detail if flat_detail is None else flat_detail
        self.flat_detail = real_number("flat_detail", own, 0.0, 1.0)
        self.with_sample = self.detail != 0.0 and self.sampler.evaluations > 1
        known = (torch.tensor([self.factors.in_plane]), torch.tensor([operator_place(network.operator)]))
        row = describe_degradation(known[0].float(), known[1], torch.zeros(1))
        self.register_buffer("degradation", row[:, :-1], persistent=False)

    @property
    def takes_detail(self) -> bool:
        """Whether :meth:`forward` takes the dial."""
        return self.with_sample and self.detail is None

    def forward(
        self,
        slices: Tensor,
        noise: Tensor,
        latent_noise: Tensor | None = None,
        pixel_noise: Tensor | None = None,
        detail: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Super-resolve.

        Args:
            slices: (B, 1, h, w) in model range.
            noise: (B,) standard deviation of the noise in the slices, in grey levels of 255.
            latent_noise: (B, Z, H/block, W/block) of ``SliceNoise.draw``; for a sample alone.
            pixel_noise: (B, 1, H, W), likewise.
            detail: () dial from mean (0) to sample (1), where it is not fixed.

        Returns:
            The slices and their expected absolute errors in model range, both (B, 1, f h, f w).
        """
        sides = [whole_side(n, fraction) for n, fraction in zip(slices.shape[-2:], self._fractions, strict=True)]
        upsampled = functional.interpolate(slices, size=sides, mode="bicubic", align_corners=False)
        # The same as padding by edge values. As a product, a padded side is simple enough for exporters to work with.
        (rows, in_rows), (columns, in_columns) = (self._places(n, slices.device) for n in sides)
        padded = upsampled.index_select(-2, rows).index_select(-1, columns)
        known = self.degradation.expand(slices.shape[0], -1)
        degradation = torch.cat([known, (1 + noise)[:, None].log2() / 2], dim=1)
        sampler = self.sampler if self.with_sample else None
        prediction = self.generator(padded, degradation, sampler, latent_noise, pixel_noise)
        mean, log_scale, sample = (
            None if x is None else x.index_select(-2, in_rows).index_select(-1, in_columns) for x in prediction
        )
        if mean is None or log_scale is None:
            raise RuntimeError("The mean was asked for.")
        if sample is None:
            return mean, log_scale.exp()
        dial: Tensor | float | None = detail if self.detail is None else self.detail
        if dial is None:
            raise SettingsError("detail is missing: give the dial from mean (0) to sample (1) as a tensor.")
        step = (sample - mean) * dial
        if self.flat_detail != 1.0:
            step = step * dial_by_place(slices, noise, self.flat_detail, sides)
        return mean + step, (log_scale.exp().square() + step.square()).sqrt()

    def _places(self, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where each pixel of a padded side comes from, and where those of the side lie in it."""
        unit = self.generator.unit
        padded = unit * ((side + 2 * self.margin + unit - 1) // unit)
        before = (padded - side) // 2
        come_from = (torch.arange(padded, device=device) - before).clamp(0, side - 1)
        return come_from, before + torch.arange(side, device=device)


def whole_side(side: int, factor: Fraction) -> int:
    """``round(side * factor)`` in whole numbers from 0 up.

    Example:
        >>> [whole_side(side, Fraction(5, 2)) for side in range(1, 8)] == [round(2.5 * side) for side in range(1, 8)]
        True
    """
    over, under = factor.numerator, factor.denominator
    if under == 1:
        return side * over
    up = (2 * side * over + under) // (2 * under)
    down = (2 * side * over + under - 1) // (2 * under)
    return up - (up - down) * (up % 2)  # they differ at halves, which go to the even side


def _fraction(factor: float) -> Fraction:
    found = Fraction(factor).limit_denominator(_DENOMINATOR)
    wrong = [n for n in range(1, _CHECKED_SIDES + 1) if whole_side(n, found) != round(n * factor)]
    if wrong:
        raise SettingsError(
            f"factor is {factor:g}, by which an exported network would round a side of {wrong[0]} otherwise. Use "
            "a whole factor, or one that ends in .25, .5 or .75."
        )
    return found

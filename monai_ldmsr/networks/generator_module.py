"""What slice networks of a codec and a denoiser have in common: settings, padding, noise and description of slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.choices import MAX_NOISE
from monai_ldmsr.degradation import Factor, factor_pair
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks.conditional_unet import MAX_FACTOR, describe_degradation
from monai_ldmsr.networks.interface import SliceModule
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.networks.slice_noise import SliceNoise, padding
from monai_ldmsr.noise_level import estimate_noise
from monai_ldmsr.number_settings import real_number, whole_number
from monai_ldmsr.operators import operator_place

__all__ = ["GeneratorModule", "upsample_bicubic"]


def upsample_bicubic(image: Tensor, factor: Factor) -> Tensor:
    """Bicubic interpolation (a = -0.75, as OpenCV) between the same outer faces: (B, C, h, w) to (B, C, f h, f w)."""
    rows, columns = factor_pair(factor)
    size = (round(image.shape[-2] * rows), round(image.shape[-1] * columns))
    return functional.interpolate(image, size=size, mode="bicubic", align_corners=False)


class _Generator(Protocol):
    codec: LatentCodec

    @property
    def unit(self) -> int: ...

    @property
    def state_dict(self) -> Callable[..., Any]: ...

    @property
    def load_state_dict(self) -> Callable[..., Any]: ...


AnyGenerator = TypeVar("AnyGenerator", bound=_Generator)


class GeneratorModule(SliceModule, Generic[AnyGenerator]):
    """A slice module of a generator, whose weights are the generator's.

    A bundle's weights are the generator's; whoever loads them into the network by MONAI's convention, such as MONAI
    Label's own app for bundles, must find the same names here.

    Args:
        generator: the networks.
        factor: how many times finer slices become, 1 to 6, whole or not; a pair where rows and columns differ.
        operator: how the slices are assumed to have been degraded, one of ``operators.OPERATORS``.
        noise: standard deviation of the noise in the slices, in grey levels of 255, whatever was measured; None takes
            what a call says, and where it says nothing, estimates it slice by slice.
        seed: seed of the noise that samples are made of.
        margin: pixels of padding on each side at least, on the target grid.
        correlation_mm: slices that are twice as far apart have independent noise; ``inf``: all have the same.

    Attributes:
        takes_places: calls may say where slices lie.

    Raises:
        SettingsError: when an argument is outside its range.
    """

    takes_places = True

    def __init__(
        self,
        generator: AnyGenerator,
        factor: Factor,
        operator: str,
        noise: float | None,
        seed: int,
        margin: int,
        correlation_mm: float,
    ) -> None:
        super().__init__()
        self.factors, self.seed = Factors.of(factor), whole_number("seed", seed)
        if max(self.factors) > MAX_FACTOR or self.factors.k != 1:
            raise SettingsError(f"factor is {self.factors}, but this model super-resolves by 1 to {MAX_FACTOR:g}.")
        self._operator_place = operator_place(operator)
        self.operator = operator
        self.generator: AnyGenerator = generator
        self._noise = None if noise is None else real_number("noise", noise, 0.0, MAX_NOISE)
        self.margin = margin
        if not correlation_mm > 0:
            raise SettingsError(f"correlation_mm is {correlation_mm}; give a distance above 0, or inf.")
        self.correlation_mm = float(correlation_mm)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Weights of the generator."""
        found: dict[str, Any] = self.generator.state_dict(*args, **kwargs)
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights of the generator."""
        return self.generator.load_state_dict(state_dict, strict, assign)

    def known_noise(self, measured: float | None) -> float | None:
        """The noise as given, or as measured."""
        return measured if self._noise is None else self._noise

    def fields_of_noise(self) -> SliceNoise:
        """What draws the noise that samples are made of."""
        generator, factors = self.generator, self.factors.in_plane
        return SliceNoise(factors, generator.codec.block, generator.unit, self.margin, self.seed, self.correlation_mm)

    def padded(self, upsampled: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        """Slices (B, 1, H, W) with edge values around them, as the networks need it, and where in it they lie."""
        height, width = upsampled.shape[-2:]
        (top, bottom), (left, right) = (padding(n, self.generator.unit, self.margin) for n in (height, width))
        found = functional.pad(upsampled, (left, right, top, bottom), mode="replicate")
        return found, (..., slice(top, top + height), slice(left, left + width))

    def degradation(
        self, slices: Tensor, measured_noise: float | None, factors: tuple[float, ...], operator_number: int
    ) -> Tensor:
        """:func:`describe_degradation` of slices that were all degraded alike.

        Args:
            slices: (B, 1, h, w) in model range.
            measured_noise: standard deviation of their noise in grey levels of 255; None where it was not measured.
            factors: factors of rows and columns.
            operator_number: place in ``operators.OPERATORS``.
        """
        count = slices.shape[0]  # len() would fix it in an exported graph
        many = slices.new_tensor(factors).expand(count, 2)
        operator = torch.full((count,), operator_number, device=slices.device)
        return describe_degradation(many, operator, self.noise_of(slices, measured_noise))

    def noise_of(self, slices: Tensor, measured: float | None) -> Tensor:
        """Noise (B,) of slices (B, 1, h, w), in grey levels of 255: as given, as measured, or else estimated."""
        known = self.known_noise(measured)
        return estimate_noise(slices) if known is None else slices.new_full((slices.shape[0],), known)

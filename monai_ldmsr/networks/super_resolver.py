"""The one network of the bundle: low-resolution slices in, super-resolved slices out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.degradation import Factor, factor_pair, operator_place, plain_factor
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.networks.conditional_unet import MAX_FACTOR, describe_degradation
from monai_ldmsr.networks.latent_generator import LatentGenerator, Prediction
from monai_ldmsr.noise_level import MAX_NOISE, estimate_noise
from monai_ldmsr.number_settings import real_number, whole_number

__all__ = ["SuperResolver", "upsample_bicubic"]

#: Noise of a volume is the median over this many spread slices.
_NOISE_SLICES = 12


def upsample_bicubic(image: Tensor, factor: Factor) -> Tensor:
    """Bicubic interpolation (a = -0.75, as OpenCV) between the same outer faces: (B, C, h, w) to (B, C, f h, f w)."""
    rows, columns = factor_pair(factor)
    size = (round(image.shape[-2] * rows), round(image.shape[-1] * columns))
    return functional.interpolate(image, size=size, mode="bicubic", align_corners=False)


class SuperResolver(nn.Module):
    """Conditional latent diffusion super-resolution of single slices.

    Any slice size works: slices are padded by their edge values to what the networks need, and cropped again. The noise
    that samples are made of depends on the seed and the slice's size alone and is the same for each slice, so that a
    slice's result does not depend on its batch, and neighbouring slices do not flicker (fully correlated noise; compare
    ISCS, 2602.04162).

    Args:
        generator: the networks.
        factor: of rows and columns, 1 to 6, whole or not; a pair where they differ.
        detail: dial from the mean (0: truest, smoothest) to the sample (1: sharpest, least certain); None takes that of
            the modality.
        default_detail: dial by DICOM's modality; one that is not in it, or not known, takes the least. None is 1.
        modality: what the first slices show; see :meth:`use_volume`.
        operator: how the slices are assumed to have been degraded, one of ``degradation.OPERATORS``.
        noise: standard deviation of the noise in the slices, in grey levels of 255 (the model range -1 to 1); None
            estimates it, once a volume by :meth:`use_volume`, else slice by slice.
        seed: seed of the noise that samples are made of.
        margin: pixels of padding on each side at least, on the target grid.

    Raises:
        SettingsError: when an argument is outside its range.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        factor: Factor = 2,
        detail: float | None = None,
        default_detail: Mapping[str, float] | None = None,
        modality: str | None = None,
        operator: str = "area",
        noise: float | None = None,
        seed: int = 0,
        margin: int = 16,
    ) -> None:
        super().__init__()
        factor, seed = plain_factor(factor), whole_number("seed", seed)
        if not all(1.0 <= f <= MAX_FACTOR for f in factor_pair(factor)):
            raise SettingsError(f"factor is {factor}, but this model super-resolves by 1 to {MAX_FACTOR:g}.")
        detail = None if detail is None else real_number("detail", detail, 0.0, 1.0)
        noise = None if noise is None else real_number("noise", noise, 0.0, MAX_NOISE)
        self._operator_place = operator_place(operator)
        self.generator = generator
        self.factor = factor
        self._detail = detail
        dials = (default_detail or {}).items()
        self._default_detail = {term: real_number("detail", dial, 0.0, 1.0) for term, dial in dials}
        self._modality = modality
        self.operator = operator
        self.noise = noise
        self._noise_of_volume: float | None = None
        self.seed = seed
        self.margin = margin
        # The layout in which CPUs and GPUs convolve fastest; the same everywhere, so that rounding is the same too.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    # A bundle's weights are the generator's; whoever loads them into the network by MONAI's convention, such as MONAI
    # Label's own app for bundles, must find the same names here.
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Weights of the generator."""
        return self.generator.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights of the generator."""
        return self.generator.load_state_dict(state_dict, strict, assign)

    @property
    def detail(self) -> float:
        """The dial as given, or that of the present modality."""
        if self._detail is not None:
            return self._detail
        return self._default_detail.get(self._modality or "", min(self._default_detail.values(), default=1.0))

    @property
    def evaluations_per_slice(self) -> int:
        """How often the denoiser runs for each slice."""
        return self.generator.num_inference_steps if self.detail else 1

    @property
    def noise_in_use(self) -> float | None:
        """Noise as given, or as estimated of the volume at hand, in grey levels; None before the first volume."""
        return self._noise_of_volume if self.noise is None else self.noise

    def use_volume(self, volume: Tensor, modality: str | None) -> None:
        """Tell of the volume whose slices come next: noise is estimated, and the dial set, where they were not given.

        Args:
            volume: (1, 1, I, J, K) in model range; slices lie across the last axis.
            modality: DICOM's term, or None.
        """
        self._modality = modality
        self.measure_noise(volume)

    def measure_noise(self, volume: Tensor) -> None:
        """Estimate the noise of the volume (1, 1, I, J, K) whose slices come next; ``VolumeInferer`` does so, too."""
        places = spread_slices(volume.shape[-1], _NOISE_SLICES)
        found = [float(estimate_noise(volume[..., k])) for k in places]
        self._noise_of_volume = sorted(found)[len(found) // 2]

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve slices.

        Args:
            image: (B, 1, h, w) low-resolution slices in model range (about -1 to 1).

        Returns:
            (B, 1, f h, f w) in model range, between the same outer faces.
        """
        with_sample = self.evaluations_per_slice > 1
        mean, _, sample = self.predict(image, not with_sample or self.detail < 1.0, with_sample)
        if mean is None or sample is None:
            return torch.cat([x for x in (mean, sample) if x is not None])
        return mean + self.detail * (sample - mean)

    def predict(self, image: Tensor, with_mean: bool = True, with_sample: bool = True) -> Prediction:
        """Mean, logarithm of its expected error, and sample, of slices (B, 1, h, w) in model range."""
        upsampled = upsample_bicubic(image, self.factor)
        height, width = upsampled.shape[-2:]
        (top, bottom), (left, right) = self._padding(height), self._padding(width)
        padded = functional.pad(upsampled, (left, right, top, bottom), mode="replicate")
        noise = self._draw(padded) if with_sample else (None, None)
        prediction = self.generator(padded, self._describe(image), *noise, with_mean)
        inside = (..., slice(top, top + height), slice(left, left + width))
        mean, log_scale, sample = (None if x is None else x[inside] for x in prediction)
        return Prediction(mean, log_scale, sample)

    def _draw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same standard normal fields for each slice, drawn on the CPU so that every device sees the same."""
        generator = torch.Generator().manual_seed(self.seed)
        block = self.generator.codec.block
        shapes = ((block**2, image.shape[-2] // block, image.shape[-1] // block), image.shape[1:])
        latent, pixels = (
            torch.randn((1, *shape), generator=generator).to(image).expand(len(image), *shape) for shape in shapes
        )
        return latent, pixels

    def _describe(self, image: Tensor) -> Tensor:
        factors = image.new_tensor(factor_pair(self.factor)).expand(len(image), 2)
        operator = torch.full((len(image),), self._operator_place, device=image.device)
        known = self.noise_in_use
        noise = estimate_noise(image) if known is None else image.new_full((len(image),), known)
        return describe_degradation(factors, operator, noise)

    def _padding(self, size: int) -> tuple[int, int]:
        """Pixels before and after, so that the side suits the networks."""
        unit = self.generator.unit
        total = math.ceil((size + 2 * self.margin) / unit) * unit - size
        return total // 2, total - total // 2

"""The one network of the bundle: low-resolution slices in, super-resolved slices out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_ldmsr.degradation import operator_place
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks.conditional_unet import FACTORS, ConditionalUNet
from monai_ldmsr.networks.detail import DetailGains, place_detail, weigh_detail
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.samplers.anchored_flow import posterior_mean, refine_mean

__all__ = ["SuperResolver", "upsample_bicubic"]


def upsample_bicubic(image: Tensor, factor: int) -> Tensor:
    """Bicubic interpolation (a = -0.75, as OpenCV) between the same outer faces: (B, C, H, W) to (B, C, fH, fW)."""
    return functional.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)


class SuperResolver(nn.Module):
    """Conditional latent diffusion super-resolution of single slices.

    Any slice size works: slices are padded by their edge values to what the networks need, and cropped again. The noise
    depends on the seed and the slice's size alone and is the same for each slice, so that a slice's result does not
    depend on its batch, and neighbouring slices do not flicker (fully correlated noise; compare ISCS, 2602.04162).

    Args:
        codec: latent codec with its statistics.
        denoiser: velocity network.
        factor: 2, 3 or 4.
        num_inference_steps: evaluations of the denoiser for each slice.
        start_noise: noise at the start of the flow, in units of the residual's standard deviation; as in training.
        detail: dial between the network's expectation (0: truest, smoothest) and a sample of which each spatial
            frequency has the weight of ``detail_gains`` (1), and beyond (1.5: sharpest, least certain).
        detail_gains: for DICOM's ``CT``, ``MR``, ``PT`` and each of ``FACTORS``, as calibrated; see ``DetailGains``.
        activity_floor: grey levels squared of the mean's local Laplacian under which detail is left out; see
            ``detail.place_detail``.
        activity_exponent: how detail grows with that activity.
        modality: what the first slices show; see :meth:`use_modality`.
        operator: how the slices are assumed to have been degraded, one of ``degradation.OPERATORS``.
        seed: seed of the noise.
        margin: low-resolution pixels of padding on each side at least.

    Raises:
        SettingsError: when an argument is outside its range.
    """

    def __init__(
        self,
        codec: LatentCodec,
        denoiser: ConditionalUNet,
        factor: int = 2,
        num_inference_steps: int = 4,
        start_noise: float = 0.7,
        detail: float = 1.0,
        detail_gains: Mapping[str, Sequence[Sequence[float]]] | None = None,
        activity_floor: float = 0.0,
        activity_exponent: float = 0.0,
        modality: str | None = None,
        operator: str = "area",
        seed: int = 0,
        margin: int = 4,
    ) -> None:
        super().__init__()
        if factor not in FACTORS:
            raise SettingsError(f"factor is {factor}, but this model super-resolves by 2, 3 or 4.")
        if not 1 <= num_inference_steps <= 1000:
            raise SettingsError(f"num_inference_steps is {num_inference_steps}; choose 1 to 1000 (1 to 8 are usual).")
        if not 0.0 <= start_noise <= 2.0:
            raise SettingsError(f"start_noise is {start_noise}; choose 0 to 2, best as in training.")
        if not 0.0 <= activity_floor <= 100.0 or not 0.0 <= activity_exponent <= 1.0:
            raise SettingsError(
                f"activity_floor is {activity_floor} and activity_exponent is {activity_exponent}; "
                "choose 0 to 100 and 0 to 1."
            )
        self.operator = operator
        self._operator_place = operator_place(operator)
        self._gains = DetailGains(detail, detail_gains)
        self.activity_floor = activity_floor
        self.activity_exponent = activity_exponent
        self._modality = modality
        self.codec = codec
        self.denoiser = denoiser
        self.factor = factor
        self.num_inference_steps = num_inference_steps
        self.start_noise = start_noise
        self.seed = seed
        self.margin = margin
        # The layout in which CPUs and GPUs convolve fastest; the same everywhere, so that rounding is the same too.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        """Super-resolve slices.

        Args:
            image: (B, 1, h, w) low-resolution slices in model range (about -1 to 1).

        Returns:
            (B, 1, f h, f w) in model range, between the same outer faces.
        """
        height, width = image.shape[-2:]
        padding = self._padding(height) + self._padding(width)
        # Edge padding one axis at a time: torch pads replicate on the last two axes, left and right first.
        padded = functional.pad(image, (padding[2], padding[3], padding[0], padding[1]), mode="replicate")
        result = self._super_resolve(padded)
        top, left = padding[0] * self.factor, padding[2] * self.factor
        return result[..., top : top + height * self.factor, left : left + width * self.factor]

    def use_modality(self, modality: str | None) -> None:
        """Say what the next slices show, for the gains that suit it."""
        self._modality = modality

    @property
    def detail(self) -> float:
        """The dial."""
        return self._gains.detail

    @property
    def detail_gains(self) -> tuple[float, ...]:
        """Gains in effect for the present modality, at ``detail.KNOTS``."""
        return self._gains.of(self._modality, self.factor)

    @property
    def evaluations_per_slice(self) -> int:
        """How often the denoiser runs for each slice."""
        return self.num_inference_steps if any(self.detail_gains) else 1

    def _padding(self, size: int) -> tuple[int, int]:
        """Pixels before and after, so that the upsampled side suits codec and denoiser."""
        unit = self.codec.block * self.denoiser.reduction
        unit //= math.gcd(unit, self.factor)
        total = math.ceil((size + 2 * self.margin) / unit) * unit - size
        return total // 2, total - total // 2

    def _super_resolve(self, image: Tensor) -> Tensor:
        condition = self.codec.encode(upsample_bicubic(image, self.factor))
        factor = torch.full((image.shape[0],), self.factor, device=image.device)
        operator = torch.full_like(factor, self._operator_place)

        def velocity(state: Tensor, timesteps: Tensor) -> Tensor:
            predicted: Tensor = self.denoiser(state, condition, timesteps, factor, operator)
            return predicted

        def decode(residual: Tensor) -> Tensor:
            return self.codec.decode(condition + residual * self.codec.residual_std[:, None, None])

        mean = posterior_mean(velocity, condition)
        result = decode(mean)
        if self.evaluations_per_slice > 1:
            noise = self._noise(condition)
            sample = decode(refine_mean(velocity, mean, noise, self.num_inference_steps, self.start_noise))
            # Between images, where it has no blocks, and not between latents.
            weighed = weigh_detail(sample - result, self.detail_gains)
            result = result + place_detail(weighed, result, self.activity_floor, self.activity_exponent)
        return result

    def _noise(self, like: Tensor) -> Tensor:
        """The same standard normal field for each slice, drawn on the CPU so that every device sees the same."""
        generator = torch.Generator().manual_seed(self.seed)
        field = torch.randn((1, *like.shape[1:]), generator=generator)
        return field.to(like).expand_as(like)

"""The one network of the bundle: low-resolution slices in, super-resolved slices out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.choices import of_modality
from monai_ldmsr.degradation import Factor
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks.conditional_unet import MAX_FACTOR
from monai_ldmsr.networks.generator_module import GeneratorModule, upsample_bicubic
from monai_ldmsr.networks.latent_generator import LatentGenerator, Prediction
from monai_ldmsr.networks.local_structure import structure_share
from monai_ldmsr.networks.plane_mean import PlaneMean
from monai_ldmsr.number_settings import real_number
from monai_ldmsr.operators import operator_place
from monai_ldmsr.samplers import AnchoredFlow, LatentSampler

__all__ = ["SuperResolver", "dial_by_place"]


class SuperResolver(GeneratorModule[LatentGenerator]):
    """Conditional latent diffusion super-resolution of single slices; a ``SliceNetwork``.

    Any slice size works: slices are padded by their edge values to what the networks need, and cropped again. The noise
    that samples are made of depends on the seed, the slice's size and its place along the volume alone, so that a
    slice's result does not depend on its batch. Neighbouring slices have noise that is correlated by their distance
    (compare ISCS, arXiv 2602.04162): it neither flickers nor stands still while one scrolls.

    Args:
        generator: the networks.
        sampler: algorithm that makes a sample with them; None takes ``AnchoredFlow()``.
        factor: how many times finer slices become, 1 to 6, whole or not; a pair where rows and columns differ.
        detail: dial from the mean (0: truest, smoothest) to the sample (1: sharpest, least certain); None takes that of
            the modality.
        default_detail: dial by DICOM's modality; one that is not in it, or not known, takes the least. None is 1.
        flat_detail: share of the dial, 0 to 1, where slices show nothing but noise; in between it follows
            ``structure_share``. 1: the dial is the same everywhere, as it is for planes across slices.
        modality: what slices show of which a call does not say it.
        operator: how the slices are assumed to have been degraded, one of ``operators.OPERATORS``.
        noise: standard deviation of the noise in the slices, in grey levels of 255 (the model range -1 to 1), whatever
            was measured; None takes what a call says, and where it says nothing, estimates it slice by slice.
        seed: seed of the noise that samples are made of.
        margin: pixels of padding on each side at least, on the target grid.
        correlation_mm: slices that are twice as far apart have independent noise; ``inf``: all have the same.
        slice_detail: dial of planes across slices, from which new ones are made, where ``detail`` is None.
        planes: what makes the mean of such planes, once it is loaded; before, and where it is None, what makes that of
            slices.

    Attributes:
        takes_places: calls may say where slices lie.
        flat_detail: as given.

    Raises:
        SettingsError: when an argument is outside its range.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        sampler: LatentSampler | None = None,
        factor: Factor = 2,
        detail: float | None = None,
        default_detail: Mapping[str, float] | None = None,
        flat_detail: float = 1.0,
        modality: str | None = None,
        operator: str = "area",
        noise: float | None = None,
        seed: int = 0,
        margin: int = 16,
        correlation_mm: float = 2.0,
        slice_detail: float = 0.0,
        planes: PlaneMean | None = None,
    ) -> None:
        super().__init__(generator, factor, operator, noise, seed, margin, correlation_mm)
        self.planes = planes
        self.sampler = AnchoredFlow() if sampler is None else sampler
        self._detail = None if detail is None else real_number("detail", detail, 0.0, 1.0)
        dials = (default_detail or {}).items()
        self._default_detail = {term: real_number("detail", dial, 0.0, 1.0) for term, dial in dials}
        self.flat_detail = real_number("flat_detail", flat_detail, 0.0, 1.0)
        self._plane_detail = real_number("detail", slice_detail, 0.0, 1.0)
        self._modality = modality
        # The layout in which CPUs and GPUs convolve fastest; the same everywhere, so that rounding is the same too.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        places_mm: Sequence[float] | None = None,
    ) -> Tensor:
        """Super-resolve slices (B, 1, h, w) to (B, 1, f h, f w), see ``SliceNetwork``.

        Args:
            slices: as there.
            modality: likewise.
            noise: likewise.
            places_mm: how far each slice is from the first one of its volume; None for slices of volumes of their own.
        """
        detail = self._dial(modality)
        with_sample = self._evaluations(detail) > 1
        self.check(slices, noise, with_sample)
        if self.factors == Factors(1, 1):
            return slices.clone()
        with_mean = not with_sample or detail < 1.0 or self.flat_detail < 1.0
        mean, _, sample = self.predict(slices, noise, with_mean, with_sample, places_mm)
        if mean is None or sample is None:
            return torch.cat([x for x in (mean, sample) if x is not None])
        by_place = self._dial_by_place(slices, noise, sample)
        return mean + (detail if by_place is None else detail * by_place) * (sample - mean)

    def estimates(
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        dials: Sequence[float] | None = None,
        places_mm: Sequence[float] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Slices and their expected errors, see ``EstimatingNetwork``.

        Between mean and sample the error is that of the mean, and the distance from it, which is known: their squares
        add up.
        """
        details = [self._dial(modality)] if dials is None else dials
        with_sample = max(map(self._evaluations, details)) > 1
        self.check(slices, noise, with_sample)
        if self.factors == Factors(1, 1):
            return [(slices.clone(), torch.zeros_like(slices)) for _ in details]
        prediction = self.predict(slices, noise, True, with_sample, places_mm)
        by_place = self._dial_by_place(slices, noise, prediction.sample)
        return [_at_dial(prediction, detail if self._evaluations(detail) > 1 else 0.0, by_place) for detail in details]

    def describe_planes(self) -> dict[str, Any]:
        """Dial of planes, and which weights made them, see ``PlaneNetwork``."""
        sha256 = self.planes.sha256 if self.planes else ""
        return {"slice_detail": self._dial_of_planes, **({"plane_weights": sha256[:12]} if sha256 else {})}

    @property
    def _dial_of_planes(self) -> float:
        """That which was given for all modalities, else that of planes."""
        return self._plane_detail if self._detail is None else self._detail

    def refine(
        self,
        interpolated: Tensor,
        factors: tuple[float, float],
        modality: str | None = None,
        noise: float | None = None,
        places_mm: Sequence[float] | None = None,
        operator: str = "area",
        strength: float = 1.0,
        width: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Planes and their expected errors, see ``PlaneNetwork``."""
        detail = self._dial_of_planes
        with_sample = self._evaluations(detail) > 1
        self.check(interpolated, noise, with_sample)
        least = tuple(min(factor, MAX_FACTOR) for factor in factors)
        degradation = self.degradation(interpolated, noise, least, operator_place(operator))
        planes = None
        if self.planes is not None and self.planes.sha256 and factors[0] == 1.0:
            planes = self.planes, interpolated.new_full((len(interpolated),), width)
        prediction = self._predict(interpolated, degradation, True, with_sample, places_mm, planes)
        return _at_dial(prediction, strength * detail if with_sample else 0.0)

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        """Settings of a call, its seed and evaluations, see ``SliceNetwork``."""
        known = self.known_noise(noise)
        detail = self._dial_of_planes if self.factors == Factors(1, 1) else self._dial(modality)
        usual = type(self.sampler) is AnchoredFlow
        return {
            **({} if usual else {"sampler": type(self.sampler).__name__}),
            **self.sampler.describe(),
            "correlation_mm": self.correlation_mm,
            "detail": detail,
            "flat_detail": 1.0 if self.factors == Factors(1, 1) else self.flat_detail,
            "noise": None if known is None else round(known, 3),
            "operator": self.operator,
            "seed": self.seed,
            "evaluations_per_slice": self._evaluations(detail),
        }

    def predict(
        self,
        slices: Tensor,
        noise: float | None = None,
        with_mean: bool = True,
        with_sample: bool = True,
        places_mm: Sequence[float] | None = None,
    ) -> Prediction:
        """Mean, logarithm of its expected error, and sample, of slices (B, 1, h, w) in model range."""
        upsampled = upsample_bicubic(slices, self.factors.in_plane)
        degradation = self.degradation(slices, noise, self.factors.in_plane, self._operator_place)
        return self._predict(upsampled, degradation, with_mean, with_sample, places_mm)

    def _predict(
        self,
        upsampled: Tensor,
        degradation: Tensor,
        with_mean: bool,
        with_sample: bool,
        places_mm: Sequence[float] | None,
        planes: tuple[PlaneMean, Tensor] | None = None,
    ) -> Prediction:
        padded, inside = self.padded(upsampled)
        sampler: LatentSampler | None = None
        noise: tuple[Tensor | None, Tensor | None] = None, None
        if with_sample:
            fields = self.fields_of_noise().draw_padded(padded.shape[-2:], places_mm or [0.0] * len(padded))
            sampler, noise = self.sampler, (fields[0].to(padded), fields[1].to(padded))
        prediction = self.generator(padded, degradation, sampler, *noise, with_mean, planes)
        mean, log_scale, sample = (None if x is None else x[inside] for x in prediction)
        return Prediction(mean, log_scale, sample)

    def _dial(self, modality: str | None) -> float:
        """The dial as given, or that of the modality."""
        if self._detail is not None:
            return self._detail
        return of_modality(self._default_detail, modality or self._modality)

    def _dial_by_place(self, slices: Tensor, noise: float | None, sample: Tensor | None) -> Tensor | None:
        """What the dial is multiplied by on the grid of a sample of slices (B, 1, h, w); None where it is 1."""
        if sample is None or self.flat_detail == 1.0:
            return None
        return dial_by_place(slices, self.noise_of(slices, noise), self.flat_detail, sample.shape[-2:])

    def _evaluations(self, detail: float) -> int:
        """How often the denoiser runs for each slice."""
        return self.sampler.evaluations if detail else 1


def dial_by_place(slices: Tensor, noise: Tensor, flat: float, size: Sequence[int]) -> Tensor:
    """What the dial is multiplied by, from ``flat`` where there is nothing but noise to 1 at structure.

    Args:
        slices: (B, 1, h, w) in model range.
        noise: (B,) standard deviation of their noise, in grey levels of 255.
        flat: share of the dial in flat places.
        size: rows and columns of the result.

    Returns:
        (B, 1, *size), on the result's grid.
    """
    share = structure_share(slices, noise)
    return flat + (1.0 - flat) * functional.interpolate(share, size=list(size), mode="bilinear", align_corners=False)


def _at_dial(prediction: Prediction, detail: float, by_place: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Between mean (0) and sample (1), or beyond it, and the expected error; the dial may differ by place."""
    mean, log_scale, sample = prediction
    if mean is None or log_scale is None:
        raise RuntimeError("The mean was asked for.")
    if sample is None or not detail:
        return mean, log_scale.exp()
    step = detail * (sample - mean)
    if by_place is not None:
        step = step * by_place
    return sample if detail == 1.0 and by_place is None else mean + step, torch.hypot(log_scale.exp(), step)

"""Endless batches of aligned low- and high-resolution patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from monai_ldmsr.degradation import (
    AreaOperator,
    DegradationOperator,
    GaussianOperator,
    KSpaceCropOperator,
    operator_place,
)
from monai_ldmsr.networks.conditional_unet import FACTORS
from monai_ldmsr.networks.super_resolver import upsample_bicubic
from monai_ldmsr.training.slices import FloatImage, TrainingVolume
from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = ["RandomPatches"]

#: How often each modality is drawn; PET here is only small crops.
_MODALITY_SHARE = {"MR": 0.55, "CT": 0.4, "PT": 0.05}

#: Tries to find a patch that is not air, and the spread in model range that counts as such.
_TRIES, _MIN_SPREAD = 5, 0.1


class RandomPatches(IterableDataset[dict[str, Tensor]]):
    """Draw patches, degrade them, and bring both to model range.

    Each batch has one factor and one operator: the area mean (``area_share`` of batches), else a Gaussian point spread
    function or a k-space crop; a little noise is added to the low-resolution patch in ``1 - area_share`` of batches.

    Args:
        volumes: training volumes.
        sizes: (patch side in pixels, patches in a batch), drawn evenly; sides are multiples of 96, which suits all
            factors and four U-Net levels on an f = 4 latent.
        factors: super-resolution factors, drawn with ``factor_weights``.
        factor_weights: relative frequency of each factor.
        area_share: share of batches with the noise-free area operator.
        seed: seed of everything drawn.

    Yields:
        ``image`` (B, 1, S, S): the degraded patch, brought to model range and interpolated back (bicubic);
        ``low`` (B, 1, S/factor, S/factor): the degraded patch on its own grid; ``label`` (B, 1, S, S): the patch
        itself in model range; ``factor`` (B,); ``operator`` (B,): its place in ``degradation.OPERATORS``.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        sizes: Sequence[tuple[int, int]] = ((96, 16), (192, 4)),
        factors: Sequence[int] = FACTORS,
        factor_weights: Sequence[float] = (0.3, 0.2, 0.5),
        area_share: float = 0.7,
        seed: int = 0,
    ) -> None:
        self.volumes = list(volumes)
        self.sizes = [tuple(size) for size in sizes]
        self.factors = list(factors)
        self.factor_weights = np.asarray(factor_weights) / np.sum(factor_weights)
        self.area_share = area_share
        self.random = np.random.default_rng(seed)
        share = np.array([_MODALITY_SHARE.get(v.modality, 0.05) * len(v.slices) ** 0.5 for v in self.volumes])
        for modality in _MODALITY_SHARE:
            chosen = np.array([v.modality == modality for v in self.volumes])
            share[chosen] *= _MODALITY_SHARE[modality] / max(share[chosen].sum(), 1e-12)
        self._share = share / share.sum()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end."""
        while True:
            yield self.draw()

    def draw(self) -> dict[str, Tensor]:
        """Draw one batch."""
        size, count = self.sizes[self.random.integers(len(self.sizes))]
        factor = int(self.random.choice(self.factors, p=self.factor_weights))
        name, operator, noise = self._operator(factor)
        pairs = [self._pair(size, operator, noise) for _ in range(count)]
        low, high = (torch.cat(images) for images in zip(*pairs, strict=True))
        return {
            "image": upsample_bicubic(low, factor),
            "low": low,
            "label": high,
            "factor": torch.full((count,), factor),
            "operator": torch.full((count,), operator_place(name)),
        }

    def _operator(self, factor: int) -> tuple[str, DegradationOperator, float]:
        kind = self.random.random()
        if kind < self.area_share:
            return "area", AreaOperator(factor), 0.0
        noise = float(self.random.uniform(0.0, 0.02))
        if kind < (1 + self.area_share) / 2:
            return "gaussian", GaussianOperator(factor, float(factor * self.random.uniform(0.3, 0.55))), noise
        return "kspace", KSpaceCropOperator(factor), noise

    def _pair(self, size: int, operator: DegradationOperator, noise: float) -> tuple[Tensor, Tensor]:
        patch, intensity = self._patch(size)
        high = torch.from_numpy(patch)[None, None]
        low = intensity.forward(operator(high))
        if noise:
            low = low + noise * torch.from_numpy(self.random.standard_normal(low.shape, dtype=np.float32))
        return low, intensity.forward(high)

    def _patch(self, size: int) -> tuple[FloatImage, IntensityMap]:
        for _ in range(_TRIES):
            volume = self.volumes[int(self.random.choice(len(self.volumes), p=self._share))]
            image = volume.slices[self.random.integers(len(volume.slices))]
            patch = self._augment(self._crop(image, size))
            intensity = self._gain(volume)
            if float(intensity.forward(torch.from_numpy(patch)).std()) > _MIN_SPREAD:
                break
        return patch, intensity

    def _crop(self, image: FloatImage, size: int) -> FloatImage:
        missing = [max(0, size - n) for n in image.shape]
        if any(missing):
            image = np.pad(image, [(m // 2, m - m // 2) for m in missing], mode="edge")
        top, left = (int(self.random.integers(n - size + 1)) for n in image.shape)
        return image[top : top + size, left : left + size]

    def _augment(self, patch: FloatImage) -> FloatImage:
        turned = np.rot90(patch, int(self.random.integers(4)))
        if self.random.random() < 0.5:
            turned = turned.T
        return np.ascontiguousarray(turned)

    def _gain(self, volume: TrainingVolume) -> IntensityMap:
        if volume.modality == "CT":
            return volume.intensity
        low, high = volume.intensity.values
        gain = float(self.random.uniform(0.85, 1.15))
        return IntensityMap((low, low + (high - low) * gain), volume.intensity.levels, volume.intensity.tail)

"""Endless batches of aligned low- and high-resolution patches, cut, degraded and made noisy on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset

from monai_ldmsr.choices import FACTORS, MAX_SLICE_FACTOR
from monai_ldmsr.networks.conditional_unet import MAX_FACTOR
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.noise_level import estimate_noise
from monai_ldmsr.training.degrading import PatchDegradation, draw_noise, vary_sharpness
from monai_ldmsr.training.slice_store import SliceStore
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["PatchRecipe", "RandomPatches"]

#: Sides of patches, and how many patches of the smaller side are as many pixels as one of the larger.
_SIDES, _RATIO = (96, 192), 4

#: Patches of the smaller side in a batch on a CPU; on a GPU a multiple of 8 up to the greatest.
_ON_CPU, _GREATEST = 8, 192

#: Bytes that a patch of the smaller side takes in training, measured with two networks and a critic in bfloat16; and
#: how much of the free memory is taken.
_BYTES_A_PATCH, _SHARE = 130e6, 0.7


#: How many times finer planes across thick slices become, least and greatest.
_SLICE_FACTORS = (1.25, MAX_SLICE_FACTOR)


@dataclass(frozen=True)
class PatchRecipe:
    """How patches become pairs. Shares are of batches (``*_batches``) or of patches.

    Averaging removes noise: a network that has only seen averaged sources takes a scanner's noise for structure. So
    most sources get noise, and the original that belongs to them gets the same noise, smoothly interpolated: what was
    measured stays, and is neither sharpened nor removed. In ``coarse_batches`` the original is averaged 2x2 first, and
    so has less noise than its source, as it would from a scanner that is better and not only finer.

    Args:
        whole_batches: rows and columns alike, by one of ``factors``; the others have factors of their own from 1 to 6.
        factors: whole factors, drawn with ``factor_weights``.
        factor_weights: relative frequency of each of ``factors``.
        clean_batches: no noise is added.
        coarse_batches: originals are averaged 2x2; those batches have noise.
        area: share of patches with the area operator; the rest is shared by the others.
        noise_grey: least and greatest standard deviation of added noise, grey levels of 255, drawn log-uniformly.
        noise_over_original: least and greatest ratio of added noise to the original's own, where that is more.
        sharpness: share of patches whose original is made sharper or smoother, as by another kernel.
        other_factors: so many pairs of factors besides the whole ones, for each side of patches; None for any. Few are
            faster on CUDA, where each shape of batches is recorded.
        slice_batches: columns alone are degraded, by a slice profile of a width of its own for each patch and a factor
            from 1.25 to 8, half of them whole: planes across thick slices.
    """

    whole_batches: float = 0.75
    factors: Sequence[int] = FACTORS
    factor_weights: Sequence[float] = (0.25, 0.2, 0.55)
    clean_batches: float = 0.3
    coarse_batches: float = 0.45
    area: float = 0.8
    noise_grey: tuple[float, float] = (0.4, 10.0)
    noise_over_original: tuple[float, float] = (1.5, 4.0)
    sharpness: float = 0.3
    other_factors: int | None = None
    slice_batches: float = 0.0


class RandomPatches(IterableDataset[dict[str, Tensor]]):
    """Draw patches, degrade them, and bring both to model range.

    Args:
        volumes: training volumes.
        sizes: (patch side in pixels, patches in a batch), drawn evenly; sides are multiples of 96, which suits all
            whole factors and four U-Net levels on an f = 4 latent. None takes what the device's memory holds.
        recipe: see :class:`PatchRecipe`; its fields can be given as a mapping.
        seed: seed of everything drawn.
        device: where patches are made; all slices are kept there.

    Yields:
        ``image`` (B, 1, S, S): the degraded patch in model range, interpolated back (bicubic); ``low``
        (B, 1, S/rows, S/columns): the same on its own grid; ``label`` (B, 1, S, S): the original in model range;
        ``factor`` (B, 2); ``operator`` (B,): places in ``operators.OPERATORS``; ``noise`` (B,): of ``low``, grey
        levels; ``width`` (B,): of the slice profile along columns, in their distance; ``knots`` (B, 2, K): see
        ``PatchIntensities``.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        sizes: Sequence[tuple[int, int]] | None = None,
        recipe: PatchRecipe | dict[str, object] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.recipe = recipe if isinstance(recipe, PatchRecipe) else PatchRecipe(**(recipe or {}))  # type: ignore[arg-type]
        self.store = SliceStore(volumes, device)
        self.sizes = [tuple(size) for size in sizes or _fitting_sizes(self.store.device)]
        self.random = np.random.default_rng(seed)
        self._others: dict[int, list[tuple[int, int]]] = {}
        self.generator = torch.Generator(self.store.device).manual_seed(seed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end."""
        while True:
            yield self.draw()

    @torch.no_grad()
    def draw(self) -> dict[str, Tensor]:
        """Draw one batch."""
        size, count = self.sizes[self.random.integers(len(self.sizes))]
        kind = self.random.random()
        noisy = kind >= self.recipe.clean_batches
        reduction = 2 if kind >= 1.0 - self.recipe.coarse_batches else 1
        patches = self.store.draw(size * reduction, count, self.generator)
        high = functional.avg_pool2d(patches.values, reduction)
        sharper = vary_sharpness(high, self.generator)
        chosen = torch.rand((count, 1, 1, 1), generator=self.generator, device=high.device) < self.recipe.sharpness
        high = torch.where(chosen, sharper, high)

        if self.recipe.slice_batches and self.random.random() < self.recipe.slice_batches:
            coarse = (size, self._slices_of(size))
            degradation = PatchDegradation.draw_slices(count, size, coarse[1], self.generator)
        else:
            coarse = self._coarse_sizes(size)
            degradation = PatchDegradation.draw(count, size, coarse, self.recipe.area, self.generator)
        factors = high.new_tensor([[min(size / n, MAX_FACTOR) for n in coarse]]).expand(count, 2)
        low = degradation(high)
        level = patches.noise_at(reduction * size / math.sqrt(coarse[0] * coarse[1]))
        if noisy:
            grey = self._noise_grey(patches.noise_at(reduction))
            added = draw_noise(low, grey, patches, self.generator)
            low = low + added
            high = high + degradation.interpolate(added)
            level = torch.hypot(level, estimate_noise(added * patches.intensities.slope))
        low, high = patches.intensities.forward(low), patches.intensities.forward(high)
        image = upsample_bicubic(low, (size / coarse[0], size / coarse[1]))
        jitter = (0.1 * torch.randn(count, generator=self.generator, device=level.device)).exp()
        return {
            "image": image,
            "low": low,
            "label": high,
            "factor": factors,
            "operator": degradation.operator,
            "noise": level * jitter,
            "width": degradation.width,
            "knots": patches.intensities.knots,
        }

    def _coarse_sizes(self, size: int) -> tuple[int, int]:
        """Rows and columns of the low-resolution patch."""
        if self.random.random() < self.recipe.whole_batches:
            weights = np.asarray(self.recipe.factor_weights) / np.sum(self.recipe.factor_weights)
            n = size // int(self.random.choice(self.recipe.factors, p=weights))
            return n, n
        if self.recipe.other_factors is None:
            return self._other_sizes(size)
        if size not in self._others:
            self._others[size] = [self._other_sizes(size) for _ in range(self.recipe.other_factors)]
        return self._others[size][self.random.integers(len(self._others[size]))]

    def _slices_of(self, size: int) -> int:
        least, most = _SLICE_FACTORS
        factor = float(np.exp(self.random.uniform(math.log(least), math.log(most))))
        return round(size / (factor if self.random.random() < 0.5 else max(2, round(factor))))

    def _other_sizes(self, size: int) -> tuple[int, int]:
        # Log-uniform, each axis for itself; one of them often keeps its resolution, as across thick slices.
        rows, columns = np.exp(self.random.uniform(0.0, math.log(MAX_FACTOR), 2))
        kept = self.random.random()
        rows, columns = (1.0 if kept < 0.2 else rows), (1.0 if kept > 0.8 else columns)
        return max(1, round(size / rows)), max(1, round(size / columns))

    def _noise_grey(self, original: Tensor) -> Tensor:
        low, high = (math.log(x) for x in self.recipe.noise_grey)
        draw = torch.rand((2, len(original)), generator=self.generator, device=original.device)
        least, most = self.recipe.noise_over_original
        return torch.maximum((low + (high - low) * draw[0]).exp(), original * (least + (most - least) * draw[1]))


def _fitting_sizes(device: str | torch.device) -> list[tuple[int, int]]:
    """(side, patches in a batch), as many as the device's free memory holds.

    Example:
        >>> _fitting_sizes("cpu")
        [(96, 8), (192, 2)]
    """
    count = _ON_CPU
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        count = int(min(_GREATEST, max(_ON_CPU, _SHARE * free / _BYTES_A_PATCH))) // _ON_CPU * _ON_CPU
    return [(side, count // _RATIO**n) for n, side in enumerate(_SIDES)]

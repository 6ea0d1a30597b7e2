"""Invertible map between the source's values and the range that the networks were trained on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.working_volumes import empty_volume, evenly_spread, plain

__all__ = [
    "CT_KNOTS_HU",
    "IntensityMap",
    "ScaleFromModelRanged",
    "ScaleToModelRanged",
    "fit_intensity_map",
]

#: HU and model value: half of the model range belongs to soft tissue, a quarter each to lung and bone.
CT_KNOTS_HU = ((-1024.0, -1.0), (-200.0, -0.5), (300.0, 0.5), (1500.0, 1.0))

#: Share of voxels beyond which MR and PET values leave the linear part of the map.
_QUANTILES = (0.005, 0.995)

#: Pixels of an image for each thread that are worked on at once, so that what is made of them stays in caches.
_BAND = 2**17

#: Quantiles are taken over at most this many evenly spread voxels.
_MAX_SAMPLES = 1_000_000


@dataclass(frozen=True)
class IntensityMap:
    """Piecewise linear between knots, logarithmic beyond them: strictly monotone, so exactly invertible.

    Beyond the outer knots ``v = v1 + k log(1 + s (x - x1) / k)`` with the slope ``s`` of the outer segment: metal, bone
    and hot spots stay in order and come back, while ordinary tissue keeps its contrast.

    Args:
        values: knots in the source's unit, ascending.
        levels: the same knots in model range, ascending.
        tail: ``k``, the model-range scale of the logarithmic tails.

    Example:
        >>> ct = IntensityMap(*zip(*CT_KNOTS_HU))
        >>> hu = torch.tensor([-3024.0, -1000.0, 40.0, 3071.0, 30000.0])
        >>> bool((ct.inverse(ct.forward(hu)) - hu).abs().max() < 0.05)
        True
    """

    values: tuple[float, ...]
    levels: tuple[float, ...]
    tail: float = 0.25

    def forward(self, image: Tensor) -> Tensor:
        """Source values to model range, any shape, float32."""
        return _in_bands(self._forward, image)

    def inverse(self, image: Tensor) -> Tensor:
        """Model range to source values, any shape, float32."""
        return _in_bands(self._inverse, image)

    def _forward(self, image: Tensor) -> Tensor:
        x, v = self._knots(image)
        inside = self._interpolate(image.clamp(x[0], x[-1]), x, v)
        low, high = self._outer_slopes()
        inside = inside + self.tail * torch.log1p((image - x[-1]).clamp(min=0) * (high / self.tail))
        return inside - self.tail * torch.log1p((x[0] - image).clamp(min=0) * (low / self.tail))

    def _inverse(self, image: Tensor) -> Tensor:
        x, v = self._knots(image)
        inside = self._interpolate(image.clamp(v[0], v[-1]), v, x)
        low, high = self._outer_slopes()
        inside = inside + (self.tail / high) * torch.expm1((image - v[-1]).clamp(min=0) / self.tail)
        return inside - (self.tail / low) * torch.expm1((v[0] - image).clamp(min=0) / self.tail)

    def _knots(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return image.new_tensor(self.values), image.new_tensor(self.levels)

    def _outer_slopes(self) -> tuple[float, float]:
        x, v = self.values, self.levels
        return (v[1] - v[0]) / (x[1] - x[0]), (v[-1] - v[-2]) / (x[-1] - x[-2])

    @staticmethod
    def _interpolate(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
        # Sum of clamped ramps instead of a lookup: no index tensor of the image's size.
        result = torch.full_like(image, float(y[0]))
        for n in range(len(x) - 1):
            result += (image.clamp(x[n], x[n + 1]) - x[n]) * ((y[n + 1] - y[n]) / (x[n + 1] - x[n]))
        return result


def _in_bands(make: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """What ``make`` makes of each value, in bands of the image's memory, laid out as the image is."""
    most = _BAND * torch.get_num_threads()
    if image.numel() <= most or image.requires_grad:
        return make(image)
    strides = [stride if size > 1 else 0 for size, stride in zip(image.shape, image.stride(), strict=True)]
    axis = strides.index(max(strides))
    step = max(1, most * image.shape[axis] // image.numel())
    result = torch.empty_like(image)
    bands = (torch.split(plain(one), step, axis) for one in (result, image))
    for made, band in zip(*bands, strict=True):
        made.copy_(make(band))
    return result


def fit_intensity_map(volume: Tensor, modality: str) -> IntensityMap:
    """Choose the one map of a volume.

    Args:
        volume: source values, any shape.
        modality: ``"CT"`` takes the fixed HU knots; anything else the volume's 0.5 and 99.5 percentiles.

    Raises:
        SourceError: ``NOT_FINITE`` when values are NaN or infinite.
    """
    if modality == "CT":
        values, levels = zip(*CT_KNOTS_HU, strict=True)
        return IntensityMap(values, levels)
    sample = evenly_spread(volume, _MAX_SAMPLES).float()
    if not bool(torch.isfinite(sample).all()):
        raise SourceError("The volume holds values that are not finite.", ReasonCode.NOT_FINITE)
    low, high = torch.quantile(sample[:_MAX_SAMPLES], sample.new_tensor(_QUANTILES)).tolist()
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    if high <= low:
        high = low + max(1.0, 1e-3 * abs(low))  # which float32 keeps apart
    return IntensityMap((low, high), (-1.0, 1.0))


class ScaleToModelRanged(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Bring a volume to model range by one :class:`IntensityMap`, kept as ``{key}_intensity`` for the way back.

    Behind ``ReadSourced``, the modality is that of the ``source`` it keeps. Behind MONAI's ``LoadImaged`` and
    ``EnsureChannelFirstd``, the source is made of the volume here, and kept likewise.

    Args:
        keys: (1, I, J, K); any shape where there is a ``source``.
        modality: ``CT`` (values in HU), ``MR`` or ``PT``, of a volume without ``source``; None where it is not known.

    Raises:
        SourceError: what a source cannot be made of, with its reason code.
    """

    def __init__(self, keys: KeysCollection, modality: str | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            if "source" not in result:
                result["source"], result[key] = _loaded(result[key], self.modality)
            intensity = fit_intensity_map(result[key], result["source"].modality)
            result[f"{key}_intensity"] = intensity
            result[key] = _scaled(result[key], intensity)
        return result


def _scaled(volume: Tensor, intensity: IntensityMap) -> Tensor:
    """In model range; slice by slice, since the map has temporary results of the size of what it is given."""
    scaled = empty_volume(tuple(volume.shape), plain(volume))
    for image, of in zip(scaled.unbind(-1), plain(volume).unbind(-1), strict=True):
        image.copy_(intensity.forward(of))
    return MetaTensor(scaled, meta=volume.meta) if isinstance(volume, MetaTensor) else scaled


def _loaded(volume: Tensor, modality: str | None) -> tuple[Any, Tensor]:
    # Imported late: a training has no readers of images.
    from monai_ldmsr.transforms.source import source_of, volume_of

    source = source_of(volume, modality)
    return source, volume_of(source)


class ScaleFromModelRanged(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Bring a result (C, fI, fJ, K) back to the source's unit by the map of ``orig_key``, in place, slice by slice."""

    def __init__(self, keys: KeysCollection, orig_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Unscale each key."""
        result = dict(data)
        intensity: IntensityMap = result[f"{self.orig_key}_intensity"]
        for key in self.key_iterator(result):
            for image in plain(result[key]).unbind(dim=-1):
                image.copy_(intensity.inverse(image))
        return result

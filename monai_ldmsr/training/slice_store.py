"""All training slices in one block of memory, and patches cut out of it many at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.noise_level import estimate_noise
from monai_ldmsr.training.intensities import PatchIntensities, knots_of
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["DrawnPatches", "SliceStore"]

#: How often each modality is drawn; PET here is only small crops.
_MODALITY_SHARE = {"MR": 0.52, "CT": 0.44, "PT": 0.04}

#: Candidates for each patch, and the spread in model range under which one is air.
_CANDIDATES, _MIN_SPREAD = 2, 0.1

#: The noise of a slice is measured after averaging over blocks of these sides.
_REDUCTIONS = (1, 2, 4, 8)

#: A slice with shorter sides than this share of a patch is drawn only where no other is left.
_MIN_COVER = 0.75


@dataclass(frozen=True)
class DrawnPatches:
    """Patches as stored.

    Args:
        values: (B, 1, S, S) in the source's unit.
        intensities: their maps.
        zero: (B, 1, 1, 1) the value of no signal where the image is a magnitude (MR), else NaN.
        noise: (B, 4) grey levels, of the slice averaged over 1, 2, 4 and 8 pixels.
    """

    values: Tensor
    intensities: PatchIntensities
    zero: Tensor
    noise: Tensor

    def noise_at(self, reduction: float) -> Tensor:
        """(B,) noise in grey levels of the patches' slices after averaging over ``reduction`` pixels a side."""
        place = min(max(math.log2(max(reduction, 1.0)), 0.0), len(_REDUCTIONS) - 1.0)
        n = min(int(place), len(_REDUCTIONS) - 2)
        return torch.lerp(self.noise[:, n], self.noise[:, n + 1], place - n)


class SliceStore:
    """Slices of all volumes on one device, as float32."""

    def __init__(self, volumes: Sequence[TrainingVolume], device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        images = [(n, image) for n, volume in enumerate(volumes) for image in volume.slices]
        self._values = torch.cat([torch.from_numpy(image).flatten() for _, image in images]).to(self.device)
        sizes = torch.tensor([image.shape for _, image in images])
        self._sizes = sizes.to(self.device)
        starts = sizes.prod(dim=1).cumsum(dim=0) - sizes.prod(dim=1)
        self._starts = starts.to(self.device)
        owner = torch.tensor([n for n, _ in images])
        self._owner = owner.to(self.device)
        self._knots = knots_of([volume.intensity for volume in volumes]).to(self.device)
        self._is_ct = torch.tensor([volume.modality == "CT" for volume in volumes], device=self.device)
        zeros = [_zero(volume) for volume in volumes]
        self._zero = torch.tensor(zeros, dtype=torch.float32, device=self.device)
        self._noise = torch.stack(
            [_noise_table(torch.from_numpy(image).to(self.device), volumes[n]) for n, image in images]
        )
        counts = torch.bincount(owner, minlength=len(volumes))
        share = _volume_shares(volumes)
        self._share = (share / counts.clamp(min=1))[owner].to(self.device)
        self._side = sizes.amin(dim=1).to(self.device)
        self._shares_of: dict[int, Tensor] = {}

    def draw(self, size: int, count: int, generator: torch.Generator) -> DrawnPatches:
        """Cut patches at random places, turned and mirrored at random; few of them are air.

        Args:
            size: side in pixels; smaller slices go on with their edge values.
            count: number of patches.
            generator: random numbers, on the store's device.
        """
        draw = torch.rand(_CANDIDATES * count, generator=generator, device=self.device, dtype=torch.float64)
        chosen = torch.searchsorted(self._shares(size), draw).clamp(max=len(self._owner) - 1)
        values = self._cut(chosen, size, generator)
        owner = self._owner[chosen]
        intensities = PatchIntensities(self._gained(owner, generator))
        is_air = intensities.forward(values).flatten(1).std(dim=1) < _MIN_SPREAD
        kept = is_air.int().sort(stable=True).indices[:count]
        return DrawnPatches(
            values[kept],
            PatchIntensities(intensities.knots[kept]),
            self._zero[owner[kept], None, None, None],
            self._noise[chosen[kept]],
        )

    def _shares(self, size: int) -> Tensor:
        """Shares of all slices up to each one, for patches of a size."""
        if size not in self._shares_of:
            covered = self._side >= _MIN_COVER * size
            share = (self._share * covered if bool(covered.any()) else self._share).double()
            self._shares_of[size] = share.cumsum(0) / share.sum()
        return self._shares_of[size]

    def _cut(self, chosen: Tensor, size: int, generator: torch.Generator) -> Tensor:
        n, device = len(chosen), self.device
        draw = torch.rand((n, 2), generator=generator, device=device)
        free = (self._sizes[chosen] - size + 1).clamp(min=1)
        first = (draw * free).long()
        # A slice smaller than the patch lies in its middle.
        first = torch.where(self._sizes[chosen] < size, (self._sizes[chosen] - size) // 2, first)
        along = torch.arange(size, device=device)
        turns = torch.randint(8, (n,), generator=generator, device=device)
        rows, columns = torch.meshgrid(along, along, indexing="ij")
        turned = turns[:, None, None]
        r = torch.where(turned & 1 > 0, size - 1 - rows, rows)
        c = torch.where(turned & 2 > 0, size - 1 - columns, columns)
        r, c = torch.where(turned & 4 > 0, c, r), torch.where(turned & 4 > 0, r, c)
        height, width = (self._sizes[chosen, axis, None, None] for axis in (0, 1))
        r = torch.minimum((r + first[:, 0, None, None]).clamp(min=0), height - 1)
        c = torch.minimum((c + first[:, 1, None, None]).clamp(min=0), width - 1)
        return self._values[self._starts[chosen, None, None] + r * width + c][:, None]

    def _gained(self, owner: Tensor, generator: torch.Generator) -> Tensor:
        """Knots, those of MR and PET with another upper end each time; HU mean the same everywhere."""
        knots = self._knots[owner].clone()
        gain = 0.85 + 0.3 * torch.rand(len(owner), generator=generator, device=self.device)
        gain = torch.where(self._is_ct[owner], 1.0, gain)
        low = knots[:, :1, :1]
        knots[:, :1] = low + (knots[:, :1] - low) * gain[:, None, None]
        return knots


def _volume_shares(volumes: Sequence[TrainingVolume]) -> Tensor:
    share = torch.tensor([len(volume.slices) ** 0.5 for volume in volumes])
    for modality in {volume.modality for volume in volumes}:
        chosen = torch.tensor([volume.modality == modality for volume in volumes])
        share[chosen] *= _MODALITY_SHARE.get(modality, min(_MODALITY_SHARE.values())) / share[chosen].sum()
    return share / share.sum()


def _zero(volume: TrainingVolume) -> float:
    """Value of no signal in a magnitude image, where noise is Rician; NaN for other images."""
    least = min(float(image.min()) for image in volume.slices)
    return max(0.0, least) if volume.modality == "MR" and least >= 0 else math.nan


def _noise_table(image: Tensor, volume: TrainingVolume) -> Tensor:
    found: list[Tensor] = []
    for n in _REDUCTIONS:
        if min(image.shape) >= 8 * n:
            found.append(estimate_noise(volume.intensity.forward(functional.avg_pool2d(image[None, None], n)))[0])
        else:
            # Too small to measure: white noise would fall by the reduction.
            found.append(found[-1] / 2 if found else image.new_zeros(()))
    return torch.stack(found)

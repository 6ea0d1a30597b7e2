"""From a found source to a volume tensor, and back from a result to what the source could have stored."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_ldmsr.consistency import neighbourhood_range, overshoot_share, project_within
from monai_ldmsr.degradation import DegradationOperator, Factor, repeat_blocks
from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io import (
    DicomSeries,
    NiftiVolume,
    SeriesFiles,
    VolumeFile,
    on_disk,
    read_dicom_series,
    read_volume_file,
)
from monai_ldmsr.io.formats import header_beside, volume_extension
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.memory_images import array_volume
from monai_ldmsr.number_settings import real_number
from monai_ldmsr.settings import checked
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.storage import new_array
from monai_ldmsr.transforms.slices import project_between
from monai_ldmsr.working_volumes import empty_volume, plain

__all__ = [
    "ProjectOntoSourced",
    "ReadSourced",
    "RestorePaddingd",
    "SourceProjection",
    "is_magnitude",
    "possible_range",
    "project_volume",
    "source_of",
    "sources_of_slices",
    "volume_of",
]


def volume_of(source: DicomSeries | VolumeFile, hide_padding: bool = True) -> MetaTensor:
    """The source's voxels as (1, I, J, K) float32 with their RAS affine.

    Args:
        source: what was read.
        hide_padding: replace padding (outside the field of view) by the least real value, so that the networks see no
            cliff.
    """
    voxels, padding = source.voxels, source.padding
    if hide_padding and padding is not None and not padding.all():
        least = np.min(voxels, where=~padding, initial=np.inf)
        voxels = new_array(voxels.shape, voxels.dtype, "F" if voxels.flags.f_contiguous else "C")
        for k in range(voxels.shape[2]):
            voxels[:, :, k] = np.where(padding[:, :, k], least, source.voxels[:, :, k])
    # No copy to C order: slices are contiguous in the reader's layout, and stay so.
    return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(source.geometry.affine.copy()))


class ReadSourced(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Replace a path, or the files of a series, by the volume, and keep the source object as ``source``.

    Args:
        keys: paths, files of a series, volumes of a 4D NIfTI file, or any of these in archives; or what was read.
        modality: modality of volume files: ``CT`` (then values must be HU, and impossible ones are padding), ``MR`` or
            ``PT``; None for what header or JSON file beside say, with a warning when nothing does. DICOM says its own.
        limits: the largest source that is read.

    Raises:
        SourceError: what cannot be read rightly, with its reason code.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modality: str | None = None,
        allow_missing_keys: bool = False,
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        checked({"modality": modality})
        self.limits = limits
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            with on_disk(result[key]) as item:
                source = self._read(item)
            result["source"] = source
            result[key] = volume_of(source)
        return result

    def _read(
        self, item: SeriesFiles | NiftiVolume | DicomSeries | VolumeFile | str | Path
    ) -> DicomSeries | VolumeFile:
        if isinstance(item, DicomSeries):
            return item
        if isinstance(item, VolumeFile):
            return item.with_modality(self.modality)
        if isinstance(item, str | Path):
            item = header_beside(Path(item)) or Path(item)
        if isinstance(item, SeriesFiles) or (isinstance(item, Path) and volume_extension(item) is None):
            return read_dicom_series(item, self.limits)
        return read_volume_file(item, self.limits).with_modality(self.modality)


@dataclass(frozen=True)
class SourceProjection:
    """How a result was made to agree with its source, and what that found.

    Args:
        settings: ``consistency``, ``operator`` and ``overshoot`` (None for that of real images), for the report.
        overshoot: share in use, see :func:`~monai_ldmsr.consistency.neighbourhood_range`.
        disagreement: root mean square difference before, in the source's unit.
        n_bounded: voxels that the network had set outside of what the source around them allows.
        rms: the same difference slice by slice.
        residual: (1, I, J, K) what the network made, degraded again, less what was measured; None unless it was kept.
    """

    settings: Mapping[str, Any]
    overshoot: float
    disagreement: float
    n_bounded: int
    rms: tuple[float, ...] = ()
    residual: Tensor | None = None


class ProjectOntoSourced(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Apply :func:`project_volume` to results in the source's unit, within what its integers can hold.

    What it found is kept as ``{key}_projection``, a :class:`SourceProjection`. Where ``pred_plan`` is in the data, new
    slices are averaged by its profile, too, see :func:`~monai_ldmsr.transforms.slices.project_between`.

    Args:
        keys: results (1, fI, fJ, K).
        factor: super-resolution factor.
        weight: see :func:`project_volume`.
        operator: see :func:`project_volume`.
        overshoot: see :func:`project_volume`.
        maps: keeps the residual where they are ``all``.

    Raises:
        SettingsError: a number is outside its range.
    """

    def __init__(
        self,
        keys: KeysCollection,
        factor: Factor,
        weight: float = 1.0,
        operator: str = "area",
        overshoot: float | None = None,
        maps: str = "none",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor = Factors.of(factor).in_plane
        self.weight = real_number("consistency", weight, 0.0, 1.0)
        self.operator, self.maps = operator, maps
        self._given = None if overshoot is None else real_number("overshoot", overshoot, 0.0)
        self._settings = {"consistency": self.weight, "operator": operator, "overshoot": self._given}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Project each key."""
        result = dict(data)
        source = result["source"]
        volume, limits, step = volume_of(source), possible_range(source), negligible_step(source)
        plan: SlicePlan | None = result.get("pred_plan")
        factors = (*self.factor, 1.0 if plan is None else plan.factor)
        share = overshoot_share(max(factors)) if self._given is None else self._given
        if plan is not None and isinstance(source, DicomSeries) and source.modality == "PT":
            limits = (limits[0], math.inf)  # each new slice is written with a slope of its own
        for key in self.key_iterator(result):
            residual = empty_volume(tuple(volume.shape), plain(volume)) if self.maps == "all" else None
            by_slice: list[float] = []
            how = (self.factor, self.weight, self.operator, share, limits, step, by_slice)
            if plan is None:
                rms, n_bounded = project_volume(result[key], volume, *how, residual)
            else:
                fine, coarse = plain(result[key])[0], plain(volume)[0]
                kept = None if residual is None else residual[0]
                rms, n_bounded = project_between(fine, coarse, plan, *how, kept)
            settings = {**self._settings, **({} if plan is None else plan.described())}
            result[f"{key}_projection"] = SourceProjection(settings, share, rms, n_bounded, tuple(by_slice), residual)
        return result


def project_volume(
    result: Tensor,
    source: Tensor,
    factor: Factor,
    weight: float = 1.0,
    operator: str = "area",
    overshoot: float | None = None,
    value_range: tuple[float, float] = (-math.inf, math.inf),
    tolerance: float = 0.0,
    by_slice: list[float] | None = None,
    residual: Tensor | None = None,
) -> tuple[float, int]:
    """Make a volume agree with its source when degraded again, and stay near its values, in place, slice by slice.

    Args:
        result: (1, fI, fJ, K) in the source's unit.
        source: (1, I, J, K).
        factor: super-resolution factor.
        weight: see :func:`~monai_ldmsr.consistency.project_onto_source`.
        operator: assumed degradation, one of ``operators.OPERATORS``.
        overshoot: see :func:`~monai_ldmsr.consistency.neighbourhood_range`; None takes that of real images.
        value_range: least and greatest value of all voxels, see :func:`possible_range`.
        tolerance: voxels that the bounds move by no more than this are not counted.
        by_slice: gets the root mean square disagreement of each slice.
        residual: (1, I, J, K), gets what the network made, degraded again, less the source.

    Returns:
        Root mean square disagreement of result and source as the network left it, in the source's unit; and the number
        of voxels that lay outside the bounds.
    """
    degrade, square, n_bounded = DegradationOperator(operator, factor), 0.0, 0
    share = overshoot_share(factor) if overshoot is None else overshoot
    for k, (measured, image) in enumerate(zip(plain(source).unbind(dim=-1), plain(result).unbind(dim=-1), strict=True)):
        batch, target = image[None], measured[None].to(image.device)
        missing = target - degrade(batch)
        mean_square = float(missing.square().mean())
        square += mean_square
        if by_slice is not None:
            by_slice.append(mean_square**0.5)
        if residual is not None:
            residual[..., k] = -missing[0]
        low, high = (end.clamp(*value_range) for end in neighbourhood_range(target, share))
        n_bounded += project_within(batch, target, degrade, low, high, weight, tolerance)
    return float((square / source.shape[-1]) ** 0.5), n_bounded


def source_of(volume: Tensor, modality: str | None = None) -> VolumeFile:
    """A source of a volume that something else has loaded, such as MONAI's ``LoadImage``.

    Args:
        volume: (1, I, J, K) in the source's unit, slices across the last axis; voxels are of 1 mm where it is no
            ``MetaTensor`` with an affine (RAS).
        modality: ``CT`` (values in HU), ``MR`` or ``PT``; None where it is not known.

    Raises:
        SourceError: see :func:`~monai_ldmsr.io.memory_images.array_volume`.
    """
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise SourceError(
            f"The image has shape {tuple(volume.shape)}, but (1, I, J, K) is needed: one channel, and slices across "
            "the last axis. Use MONAI's EnsureChannelFirstd, and one volume or channel of several.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    checked({"modality": modality})
    affine = volume.affine.numpy() if isinstance(volume, MetaTensor) else None
    return array_volume(plain(volume)[0].cpu().numpy(), affine).with_modality(modality)


def possible_range(source: DicomSeries | VolumeFile) -> tuple[float, float]:
    """What the source's integers can hold; and nothing below zero for MR and PET that have nothing there."""
    low, high = source.value_range
    return (max(low, 0.0), high) if is_magnitude(source.modality, float(source.voxels.min())) else (low, high)


def is_magnitude(modality: str, least: float) -> bool:
    """Whether nothing can lie below zero: in MR and PET whose least value is none."""
    return modality in ("MR", "PT") and least >= 0


def negligible_step(source: DicomSeries | VolumeFile) -> float:
    """Difference that storage or the eye does not resolve, from the middle slice, in the source's unit.

    The larger of half the smallest difference between two stored values, and half a percent of the usual range.
    """
    image = source.voxels[..., source.voxels.shape[-1] // 2]
    values = np.unique(image)
    low, high = np.quantile(image, (0.005, 0.995))
    half_step = 0.5 * float(np.diff(values).min()) if values.size > 1 else 0.0
    return max(half_step, 0.005 * float(high - low))


class RestorePaddingd(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Put the source's padding values back, in place: a padded pixel stays padding over its whole block.

    Args:
        keys: results (1, fI, fJ, K).
        factor: super-resolution factor.
    """

    def __init__(self, keys: KeysCollection, factor: Factor, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor = Factors.of(factor).in_plane

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore each key."""
        result = dict(data)
        source = result["source"]
        if source.padding is None:
            return result
        for key in self.key_iterator(result):
            fine = plain(result[key])
            for k, image in zip(sources_of_slices(result), fine.unbind(dim=-1), strict=True):
                values, mask = (torch.from_numpy(x[..., k].astype(np.float32)) for x in (source.voxels, source.padding))
                values, mask = (repeat_blocks(x[None, None], self.factor)[0].to(image.device) for x in (values, mask))
                image.copy_(torch.where(mask > 0, values, image))
        return result


def sources_of_slices(data: Mapping[Hashable, Any]) -> list[int]:
    """For each slice of a result, the slice of its source that lies nearest."""
    plan: SlicePlan | None = data.get("pred_plan")
    return list(range(data["source"].geometry.shape[2])) if plan is None else [int(k) for k in plan.nearest()]

"""High-resolution slices for training, cut from the volumes of one split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.metrics.latent import high_frequency_share
from monai_ldmsr.settings import checked
from monai_ldmsr.training.packed import is_packed, load_packed
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.training.volumes import FloatImage, TrainingVolume
from monai_ldmsr.transforms.intensity import IntensityMap, fit_intensity_map

if TYPE_CHECKING:
    from monai_ldmsr.training.discovery import DatasetEntry

__all__ = ["load_training_volumes"]

#: A volume whose share of power above half Nyquist is lower was interpolated: it would teach blur.
MIN_HIGH_FREQUENCY_SHARE = 2e-3

#: A volume whose largest and smallest spacing differ by less than this ratio is cut along all three axes.
_ISOTROPY = 1.15

#: A volume with fewer voxels along any axis is cut along its own slices alone.
_MIN_SIDE = 64

#: Slices with less spread than this in model range (air, padding) teach nothing.
_MIN_SPREAD = 0.08

#: A volume whose slices are smaller than this is left out: patches of it would be padding for the most part.
_MIN_SLICE_SIDE = 24


def load_training_volumes(
    dataset_dir: str | Path | TrainingData,
    split: str | None,
    halve_interpolated: bool = True,
    modality: str | None = None,
    limits: ReadLimits | None = None,
) -> list[TrainingVolume]:
    """Read all volumes of a split and cut them into slices.

    Args:
        dataset_dir: folder with or without ``manifest.csv``, see :mod:`monai_ldmsr.training.discovery`; or one that
            ``ldmsr pack`` wrote, which needs no reader of image files; or ``TrainingData``, which keeps what was read.
        split: ``train``, ``calibration``, ``test``, or ``all``; None or "" reads nothing.
        halve_interpolated: average the slices of volumes that were interpolated over 2x2 pixels; for training only.
            Packed volumes stay as they are: halved in the training split alone.
        modality: modality of volume files that do not say it: ``CT`` (in HU), ``MR`` or ``PT``.
        limits: the largest volume that is read; None takes the usual ones.

    Raises:
        SettingsError: see :func:`~monai_ldmsr.training.discovery.find_entries`, or ``load_packed``.
        SourceError: a volume of a manifest cannot be read, any volume is damaged or holds NaN, or nothing usable is
            left. Volumes that were only found are left out with a warning where they cannot be read rightly.
    """
    if not split:
        return []
    checked({"modality": modality})
    if not isinstance(dataset_dir, TrainingData):
        return _load(TrainingData(dataset_dir, limits), split, halve_interpolated, modality)
    key = (split, halve_interpolated, modality)
    if key not in dataset_dir.kept:
        dataset_dir.kept[key] = _load(dataset_dir, *key)
    return dataset_dir.kept[key]


def _load(dataset: TrainingData, split: str, halve_interpolated: bool, modality: str | None) -> list[TrainingVolume]:
    if is_packed(dataset):
        return load_packed(dataset, split)
    entries, limits = dataset.entries(split), dataset.limits
    found = (_load_volume(entry, entry.modality or modality, halve_interpolated, limits) for entry in entries)
    usable = [volume for volume in found if volume is not None and volume.slices]
    if not usable:
        raise SourceError(
            f"No volume of split '{split}' has a usable slice: none has sides of {_MIN_SLICE_SIDE} pixels and shows "
            "more than air. Check the folder.",
            ReasonCode.EMPTY_SOURCE,
        )
    return usable


def _load_volume(
    entry: DatasetEntry, modality: str | None, halve_interpolated: bool, limits: ReadLimits
) -> TrainingVolume | None:
    from monai_ldmsr.transforms.source import ReadSourced
    from monai_ldmsr.working_volumes import plain

    try:
        data = ReadSourced(keys="image", modality=modality, limits=limits)({"image": entry.source})
    except SourceError as error:
        if entry.listed or isinstance(error, CorruptSourceError):
            raise type(error)(f"'{entry.name}': {error}", error.reason) from error
        logging.getLogger(__name__).warning("'%s' is left out: %s", entry.name, error)
        return None
    voxels, source = plain(data["image"])[0].numpy(), data["source"]
    cut = [s for s in _cut(voxels, source.geometry.spacing_mm) if min(s.shape) >= _MIN_SLICE_SIDE]
    if not cut:
        log = "'%s' is left out: its slices of %d x %d pixels have a side below %d."
        logging.getLogger(__name__).warning(log, entry.name, *voxels.shape[:2], _MIN_SLICE_SIDE)
        return None
    intensity = fit_intensity_map(torch.from_numpy(voxels), source.modality)
    slices = [s for s in cut if float(intensity.forward(torch.from_numpy(s)).std()) > _MIN_SPREAD]
    halved = halve_interpolated and bool(slices) and _is_interpolated(slices, intensity)
    if halved:
        slices = [_halve(s) for s in slices]
    rows, columns, gap = source.geometry.spacing_mm
    spacing_mm = (2 * rows, 2 * columns, gap) if halved else (rows, columns, gap)
    return TrainingVolume(entry.name, source.modality, entry.subject, tuple(slices), intensity, halved, spacing_mm)


def _is_interpolated(slices: list[FloatImage], intensity: IntensityMap) -> bool:
    shares = [high_frequency_share(intensity.forward(torch.from_numpy(s)).numpy()) for s in slices]
    return float(np.median(shares)) < MIN_HIGH_FREQUENCY_SHARE


def _cut(voxels: FloatImage, spacing_mm: tuple[float, float, float]) -> list[FloatImage]:
    isotropic = max(spacing_mm) < _ISOTROPY * min(spacing_mm) and min(voxels.shape) >= _MIN_SIDE
    axes = (0, 1, 2) if isotropic else (2,)
    return [np.ascontiguousarray(s) for axis in axes for s in np.moveaxis(voxels, axis, 0)]


def _halve(image: FloatImage) -> FloatImage:
    height, width = (n // 2 * 2 for n in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)

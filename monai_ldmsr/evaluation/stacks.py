"""Near-isotropic volumes as stacks of thick slices: which volumes, of what thickness and gap, and averaged how."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monai_ldmsr.choices import MAX_SLICE_FACTOR
from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.evaluation.volumes import usual_split
from monai_ldmsr.geometry import SlicePlaces, VolumeGeometry
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.tree import no_such_source
from monai_ldmsr.settings import checked
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.training.discovery import DatasetEntry
from monai_ldmsr.training.packed import is_packed
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.transforms.intensity import IntensityMap, fit_intensity_map
from monai_ldmsr.transforms.source import ReadSourced, is_magnitude
from monai_ldmsr.working_volumes import plain

__all__ = ["CASES", "SharpStack", "StackVolume", "ThickSlices", "axes_of", "load_stack_volumes", "stacks_of"]

#: A volume whose largest spacing is more than so many times the smallest is not as sharp along its stack.
_ISOTROPY = 1.5

#: Fewest voxels along a stack.
_MIN_VOXELS = 48

#: Slices are at least so many voxels thick, or there is nothing to bring back.
_LEAST_FACTOR = 1.5

#: What rounding of headers' numbers may make of a count of slices.
_ROUNDING = 1e-3

#: Names of the axes of a volume.
_AXES = "ijk"


@dataclass(frozen=True)
class ThickSlices:
    """Slices as scanners acquire them.

    Args:
        thickness_mm: full width of what a slice averages.
        gap_mm: between the faces of two slices.

    Example:
        >>> str(ThickSlices(4, 0)), str(ThickSlices(5, 1.5))
        ('4|0 mm', '5|1.5 mm')
    """

    thickness_mm: float
    gap_mm: float = 0.0

    def __str__(self) -> str:
        """Thickness and gap, as they are written in protocols."""
        return f"{self.thickness_mm:g}|{self.gap_mm:g} mm"

    def plan(self, number: int, spacing_mm: float) -> SlicePlan | None:
        """Thick slices of as much of a stack as they fill, and the stack's own slices as those that are made of them.

        The profile is a box. Where thickness and gap are no whole number of voxels, the outer faces lie inside the
        outermost voxels, at the same depth on both ends.

        Args:
            number: voxels along the stack.
            spacing_mm: distance between them.

        Returns:
            None where fewer than 3 thick slices fit, or where they are not at least 1.5 voxels thick and at most 8
            voxels apart.
        """
        apart = self.thickness_mm + self.gap_mm
        if self.thickness_mm < _LEAST_FACTOR * spacing_mm or apart > MAX_SLICE_FACTOR * spacing_mm * (1 + _ROUNDING):
            return None
        count = math.floor((number * spacing_mm - self.thickness_mm) / apart + _ROUNDING) + 1
        if count < 3:
            return None
        extent = (count - 1) * apart + self.thickness_mm
        voxels = min(number, math.ceil(extent / spacing_mm - _ROUNDING))
        step = spacing_mm / apart
        places = SlicePlaces(voxels, (count - 1) / 2 - (voxels - 1) / 2 * step, step)
        return SlicePlan(count, places, apart, self.thickness_mm)


#: Slices of usual protocols.
CASES = (ThickSlices(2), ThickSlices(3), ThickSlices(4), ThickSlices(4, 1), ThickSlices(5, 1.5))


@dataclass(frozen=True)
class StackVolume:
    """A volume that is about as sharp along each axis.

    Args:
        name: file name without folder, or the hash that stands for a DICOM series.
        modality: DICOM's term, ``CT``, ``MR`` or ``PT``, or ``unknown``.
        subject: patient as in the manifest, or the hash that stands for one.
        voxels: (I, J, K) in the source's unit.
        geometry: where they lie (RAS).
        intensity: the volume's map to model range.
    """

    name: str
    modality: str
    subject: str
    voxels: Tensor
    geometry: VolumeGeometry
    intensity: IntensityMap

    @property
    def is_magnitude(self) -> bool:
        """Whether nothing can lie below zero."""
        return is_magnitude(self.modality, float(self.voxels.min()))


@dataclass(frozen=True)
class SharpStack:
    """One volume as a stack along one of its axes, and the thick slices made of it.

    Args:
        volume: the volume.
        axis: number of the axis along which slices lie.
        thick: thickness and gap.
        plan: the thick slices, and the stack's own as new ones.
        high: (I, J, n) the original, its stack along the last axis, in the source's unit.
        low: (I, J, K) thick slices, likewise.
    """

    volume: StackVolume
    axis: int
    thick: ThickSlices
    plan: SlicePlan
    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, volume: StackVolume, axis: int, thick: ThickSlices) -> SharpStack | None:
        """Average the middle of a volume to thick slices; None where they do not fit."""
        whole = volume.voxels.movedim(axis, -1)
        plan = thick.plan(whole.shape[-1], volume.geometry.spacing_mm[axis])
        if plan is None:
            return None
        start = (whole.shape[-1] - plan.places.number) // 2
        high = whole[..., start : start + plan.places.number].contiguous()
        return cls(volume, axis, thick, plan, high, high @ torch.from_numpy(plan.averaging).to(high).T)

    @property
    def planes(self) -> tuple[int, int]:
        """Axes of the volume that are the first two of the stack."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Distance between voxels along the first two axes of the stack."""
        first, second = (self.volume.geometry.spacing_mm[axis] for axis in self.planes)
        return first, second


def axes_of(text: str) -> tuple[int, ...]:
    """Numbers of axes, of some of the letters i, j and k.

    Raises:
        SettingsError: there are others, one twice, or none.

    Example:
        >>> axes_of("k"), axes_of("ijk")
        ((2,), (0, 1, 2))
    """
    if not text or set(text) - set(_AXES) or len(set(text)) < len(text):
        raise SettingsError(
            f"axes is {text!r}; give the letters of the axes along which slices are averaged, each once: k for the "
            "last one, or ijk for all three."
        )
    return tuple(sorted(_AXES.index(letter) for letter in text))


def stacks_of(volume: StackVolume, axes: Sequence[int], cases: Sequence[ThickSlices]) -> Iterator[SharpStack]:
    """The stacks of a volume, one at a time: along each axis that is long enough, for each case that fits."""
    for axis in axes:
        for thick in cases if volume.voxels.shape[axis] >= _MIN_VOXELS else ():
            stack = SharpStack.of(volume, axis, thick)
            if stack is not None:
                yield stack


def load_stack_volumes(
    dataset_dir: str | Path | TrainingData,
    split: str | None = None,
    modality: str | None = None,
    axes: str = "k",
    limits: ReadLimits | None = None,
) -> tuple[list[StackVolume], dict[str, str]]:
    """Read the near-isotropic volumes of a split.

    Args:
        dataset_dir: folder with or without ``manifest.csv``, see :mod:`monai_ldmsr.training.discovery`.
        split: see ``load_evaluation_volumes``.
        modality: modality of volume files that do not say it.
        axes: see :func:`axes_of`; a volume that is long enough along one of them is taken.
        limits: the largest volume that is read; None takes the usual ones.

    Returns:
        The volumes, and by name why others were left out.

    Raises:
        SettingsError: the folder was packed, so that it holds slices and not volumes; or see ``find_entries``.
        SourceError: none is near-isotropic and long enough, or one that the manifest names cannot be read.
    """
    wanted, folder = axes_of(axes), Path(dataset_dir)
    checked({"modality": modality})
    if not folder.exists():
        raise no_such_source(folder)
    if is_packed(folder):
        raise SettingsError("A packed folder holds slices, and no volumes. Give the folder that it was packed from.")
    data = dataset_dir if isinstance(dataset_dir, TrainingData) else TrainingData(folder, limits)
    found: list[StackVolume] = []
    left_out: dict[str, str] = {}
    for entry in data.entries(usual_split(folder, split)):
        one = _read(entry, entry.modality or modality, data.limits, wanted)
        if isinstance(one, StackVolume):
            found.append(one)
        else:
            left_out[entry.name] = one
            logging.getLogger(__name__).info("'%s' is left out: %s.", entry.name, one)
    if not found:
        raise SourceError(
            f"None of {len(left_out)} volumes is near-isotropic (largest spacing at most {_ISOTROPY:g} times the "
            f"smallest) with at least {_MIN_VOXELS} voxels along the stack, so there is no original to compare with. "
            "Give a split or folder with such volumes, or other axes.",
            ReasonCode.EMPTY_SOURCE,
        )
    return found, left_out


def _read(entry: DatasetEntry, modality: str | None, limits: ReadLimits, axes: Sequence[int]) -> StackVolume | str:
    """The volume, or why it is left out."""
    try:
        data = ReadSourced(keys="image", modality=modality, limits=limits)({"image": entry.source})
    except SourceError as error:
        if entry.listed or isinstance(error, CorruptSourceError):
            raise type(error)(f"'{entry.name}': {error}", error.reason) from error
        return f"it cannot be read: {error}"
    voxels, source = plain(data["image"])[0], data["source"]
    spacing = source.geometry.spacing_mm
    if source.stack_fault is not None:
        return "its slices do not lie evenly and straight"
    if max(spacing) > _ISOTROPY * min(spacing):
        return f"its spacing of {' x '.join(f'{x:.3g}' for x in spacing)} mm is not near-isotropic"
    if max(voxels.shape[axis] for axis in axes) < _MIN_VOXELS:
        return f"it has fewer than {_MIN_VOXELS} voxels along the stack"
    intensity = fit_intensity_map(voxels, source.modality)
    return StackVolume(entry.name, source.modality, entry.subject, voxels.float(), source.geometry, intensity)

"""Volumes that are sharp already, and which of their slices are measured and shown."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.tree import no_such_source
from monai_ldmsr.training.packed import is_packed, lacks_split
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.training.volumes import MANIFEST, TrainingVolume

__all__ = ["MIN_SIDE", "load_evaluation_volumes", "measured_slices", "shown_slices", "usual_split", "why_not_measured"]

#: Slices with a side below this are too small for the FFT metric to mean anything.
MIN_SIDE = 96


def load_evaluation_volumes(
    dataset_dir: str | Path | TrainingData,
    split: str | None = None,
    modality: str | None = None,
    limits: ReadLimits | None = None,
) -> list[TrainingVolume]:
    """Read volumes as they are: nothing is halved for being smooth.

    Args:
        dataset_dir: folder with or without ``manifest.csv``, see :mod:`monai_ldmsr.training.discovery`; or one that
            ``ldmsr pack`` wrote.
        split: ``train``, ``calibration``, ``test`` or ``all``; None takes ``test`` of a manifest or packed folder, and
            everything where there is none. Without a manifest a split is that of ``ldmsr train``.
        modality: modality of volume files without a manifest; DICOM and manifests say their own.
        limits: the largest volume that is read; None takes the usual ones.

    Raises:
        SettingsError: see ``find_entries``.
        SourceError: the folder does not exist, or see ``load_training_volumes``.
    """
    folder = Path(dataset_dir)
    if not folder.exists():
        raise no_such_source(folder)
    chosen = usual_split(folder, split)
    return load_training_volumes(dataset_dir, chosen, halve_interpolated=False, modality=modality, limits=limits)


def usual_split(folder: Path, split: str | None) -> str:
    """The split that is given; else ``test`` of a manifest or packed folder, and ``all`` where there is none."""
    is_split = is_packed(folder) or (folder / MANIFEST).is_file()
    return split or ("test" if is_split and not lacks_split(folder, "test") else "all")


def measured_slices(volume: TrainingVolume, count: int) -> list[int]:
    """Numbers of at most ``count`` slices that are large enough, evenly over the volume."""
    usable = [n for n, image in enumerate(volume.slices) if min(image.shape) >= MIN_SIDE]
    return [usable[n] for n in spread_slices(len(usable), count)]


def shown_slices(volumes: Sequence[TrainingVolume], slices_per_volume: int, count: int) -> set[tuple[str, int]]:
    """Of which slices details are drawn: the middle one of those measured, of volumes spread over each modality.

    Args:
        volumes: all of them.
        slices_per_volume: number of slices of each volume that are measured.
        count: slices in all, shared between the modalities, but one of each at least.

    Returns:
        Volume names and slice numbers.
    """
    usable = [(volume, numbers) for volume in volumes if (numbers := measured_slices(volume, slices_per_volume))]
    modalities = {volume.modality for volume, _ in usable}
    shown = set()
    for modality in modalities if count > 0 else ():
        group = [(volume.name, numbers) for volume, numbers in usable if volume.modality == modality]
        for n in spread_slices(len(group), max(1, count // len(modalities))):
            name, numbers = group[n]
            shown.add((name, numbers[len(numbers) // 2]))
    return shown


def why_not_measured(dataset_dir: str | Path) -> str | None:
    """What the test split or this installation lacks for an evaluation after a training; None where nothing is."""
    if lacks_split(dataset_dir, "test"):
        return "the packed dataset has no split 'test'"
    try:
        import_module("monai_ldmsr.evaluation.split_evaluation")
    except ImportError as error:
        return f"that takes {error.name}, which is not installed here; run ldmsr evaluate where it is"
    return None

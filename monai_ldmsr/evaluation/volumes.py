"""Volumes that are sharp already, to be degraded and brought back."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.training.packed import is_packed, packed_splits
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.volumes import MANIFEST, TrainingVolume

__all__ = ["load_evaluation_volumes", "why_not_measured"]


def load_evaluation_volumes(
    dataset_dir: str | Path, split: str | None = None, modality: str | None = None
) -> list[TrainingVolume]:
    """Read volumes as they are: nothing is halved for being smooth.

    Args:
        dataset_dir: folder with or without ``manifest.csv``, see :mod:`monai_ldmsr.training.discovery`; or one that
            ``ldmsr pack`` wrote.
        split: ``train``, ``calibration``, ``test`` or ``all``; None takes ``test`` of a manifest or packed folder, and
            everything where there is none. Without a manifest a split is that of ``ldmsr train``.
        modality: of volume files without a manifest; DICOM and manifests tell their own.

    Raises:
        SettingsError: see ``find_entries``.
        SourceError: the folder does not exist, or see ``load_training_volumes``.
    """
    folder = Path(dataset_dir)
    if not folder.exists():
        raise SourceError("The dataset folder does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    split = split or ("test" if _has_test_split(folder) else "all")
    return load_training_volumes(folder, split, halve_interpolated=False, modality=modality)


def why_not_measured(dataset_dir: str | Path) -> str | None:
    """What the test split or this installation lacks for an evaluation after a training; None where nothing is."""
    if is_packed(dataset_dir) and "test" not in packed_splits(dataset_dir):
        return "the packed dataset has no split 'test'"
    try:
        import_module("monai_ldmsr.evaluation.split_evaluation")
    except ImportError as error:
        return f"that takes {error.name}, which is not installed here; run ldmsr evaluate where it is"
    return None


def _has_test_split(folder: Path) -> bool:
    return "test" in packed_splits(folder) if is_packed(folder) else (folder / MANIFEST).is_file()

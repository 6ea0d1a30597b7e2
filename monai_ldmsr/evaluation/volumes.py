"""Volumes that are sharp already, to be degraded and brought back."""

from __future__ import annotations

from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.training.discovery import MANIFEST
from monai_ldmsr.training.slices import TrainingVolume, load_training_volumes

__all__ = ["load_evaluation_volumes"]


def load_evaluation_volumes(
    dataset_dir: str | Path, split: str | None = None, modality: str | None = None
) -> list[TrainingVolume]:
    """Read volumes as they are: nothing is halved for being smooth.

    Args:
        dataset_dir: folder with or without ``manifest.csv``; see :mod:`monai_ldmsr.training.discovery`.
        split: ``train``, ``calibration``, ``test`` or ``all``; None takes ``test`` of a manifest, and everything where
            there is none. Without a manifest a split is that of ``ldmsr train``.
        modality: of volume files without a manifest; DICOM and manifests tell their own.

    Raises:
        SettingsError: see ``find_entries``.
        SourceError: the folder does not exist, or see ``load_training_volumes``.
    """
    folder = Path(dataset_dir)
    if not folder.exists():
        raise SourceError("The dataset folder does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    split = split or ("test" if (folder / MANIFEST).is_file() else "all")
    return load_training_volumes(folder, split, halve_interpolated=False, modality=modality)

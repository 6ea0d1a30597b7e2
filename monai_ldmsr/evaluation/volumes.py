"""The sharp volumes of an evaluation: those of a manifest's split, or everything that a folder holds."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.io import DicomSeries, SeriesFiles, VolumeFile, find_sources
from monai_ldmsr.io.volume_file import volume_case
from monai_ldmsr.training.slices import TrainingVolume, load_training_volumes
from monai_ldmsr.transforms.intensity import fit_intensity_map
from monai_ldmsr.transforms.source import ReadSourced, check_modality

__all__ = ["load_evaluation_volumes"]


def load_evaluation_volumes(
    dataset_dir: str | Path, split: str | None = None, modality: str | None = None
) -> list[TrainingVolume]:
    """Read volumes as they are: nothing is halved or left out for being smooth.

    Args:
        dataset_dir: folder with ``manifest.csv``, or any folder of DICOM series and volume files.
        split: of the manifest; None takes ``test``. Without a manifest there are no splits, and everything is taken.
        modality: of volume files without a manifest; DICOM and manifests tell their own.

    Raises:
        SettingsError: a split is asked for where there is no manifest, or see ``read_manifest``.
        SourceError: the folder does not exist, or nothing in it can be read.
    """
    folder = Path(dataset_dir)
    check_modality(modality)
    if not folder.exists():
        raise SourceError("The dataset folder does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    if (folder / "manifest.csv").is_file():
        return load_training_volumes(folder, split or "test", halve_interpolated=False)
    if split is not None:
        raise SettingsError(f"There is no manifest.csv that would say what split '{split}' is. Leave the split out.")
    found, skipped = find_sources(folder)
    log = logging.getLogger(__name__)
    for item in skipped:
        log.warning("left out %s: %s %s", item.case, item.reason.value, item.message)
    volumes = []
    for source in found:
        try:
            volumes.append(_read(source, modality))
        except SourceError as error:
            case = source.case if isinstance(source, SeriesFiles) else volume_case(source)
            log.warning("left out %s: %s %s", case, error.reason.value, error)
    if not volumes:
        raise SourceError("The dataset folder holds no volume that can be read.", ReasonCode.EMPTY_SOURCE)
    return volumes


def _read(item: SeriesFiles | Path, modality: str | None) -> TrainingVolume:
    data = ReadSourced("image", modality)({"image": item})
    source: DicomSeries | VolumeFile = data["source"]
    voxels = np.asarray(data["image"][0])
    intensity = fit_intensity_map(torch.from_numpy(voxels), source.modality)
    # (I, J) slices along the volume's own last axis.
    slices = tuple(np.ascontiguousarray(image) for image in np.moveaxis(voxels, -1, 0))
    return TrainingVolume(source.case, source.modality, _subject(source), slices, intensity, halved=False)


def _subject(source: DicomSeries | VolumeFile) -> str:
    """What keeps one patient's series together; a hash, so that nothing tells who it is."""
    patient = str(source.headers[0].get("PatientID", "")) if isinstance(source, DicomSeries) else ""
    return hashlib.sha256((patient or source.case).encode()).hexdigest()[:12]

"""High-resolution slices for training, read from volumes that a manifest splits by patient."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.io.volume_file import read_volume_file
from monai_ldmsr.transforms.intensity import IntensityMap, fit_intensity_map

__all__ = ["ManifestEntry", "TrainingVolume", "high_frequency_share", "load_training_volumes", "read_manifest"]

#: A volume whose share of power above half Nyquist is lower was interpolated: it would teach blur.
MIN_HIGH_FREQUENCY_SHARE = 2e-3

#: A volume whose largest and smallest spacing differ by less than this ratio is cut along all three axes.
_ISOTROPY = 1.15

#: A volume with fewer voxels along any axis is cut along its own slices alone.
_MIN_SIDE = 64

#: Slices with less spread than this in model range (air, padding) teach nothing.
_MIN_SPREAD = 0.08

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ManifestEntry:
    """One row of a manifest: where a volume lies, what it shows, and which patient's it is."""

    path: Path
    modality: str
    subject: str
    split: str


@dataclass(frozen=True)
class TrainingVolume:
    """High-resolution slices of one volume.

    Args:
        name: file name without folder.
        modality: DICOM's term, ``CT``, ``MR`` or ``PT``.
        subject: patient in the manifest's pseudonymous numbering.
        slices: two-dimensional float32 images in the source's unit.
        intensity: the volume's map to model range.
        halved: whether the slices were averaged 2x2, being interpolated.
    """

    name: str
    modality: str
    subject: str
    slices: tuple[FloatImage, ...]
    intensity: IntensityMap
    halved: bool


def read_manifest(dataset_dir: str | Path, split: str) -> list[ManifestEntry]:
    """Read ``manifest.csv`` (columns file, modality, subject, split) of a dataset folder.

    Raises:
        SettingsError: no manifest, an empty split, or a patient in two splits.
    """
    folder = Path(dataset_dir)
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise SettingsError("The dataset folder holds no manifest.csv (columns file, modality, subject, split).")
    with manifest.open(newline="") as stream:
        entries = [
            ManifestEntry(folder / row["file"], row["modality"], row["subject"], row["split"])
            for row in csv.DictReader(stream)
        ]
    splits: dict[str, set[str]] = {}
    for entry in entries:
        splits.setdefault(entry.subject, set()).add(entry.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        raise SettingsError(f"{shared} of {len(splits)} subjects of the manifest are in more than one split.")
    chosen = [entry for entry in entries if entry.split == split]
    if not chosen:
        raise SettingsError(
            f"The manifest has no entry in split '{split}' (it has {sorted({e.split for e in entries})})."
        )
    return chosen


def load_training_volumes(dataset_dir: str | Path, split: str, halve_interpolated: bool = True) -> list[TrainingVolume]:
    """Read all volumes of a split and cut them into slices.

    Args:
        dataset_dir: folder with ``manifest.csv``.
        split: ``train``, ``calibration`` or ``test``.
        halve_interpolated: average the slices of volumes that were interpolated over 2x2 pixels; for training only.

    Raises:
        SettingsError: see :func:`read_manifest`.
        SourceError: a volume cannot be read, or nothing usable is left.
    """
    volumes = [_load_volume(entry, halve_interpolated) for entry in read_manifest(dataset_dir, split)]
    usable = [volume for volume in volumes if volume.slices]
    if not usable:
        raise SourceError(f"No volume of split '{split}' has a usable slice.", ReasonCode.EMPTY_SOURCE)
    return usable


def high_frequency_share(image: FloatImage) -> float:
    """Share of a slice's spectral power (mean removed) above half of Nyquist, 0 to 1.

    Example:
        >>> import numpy as np
        >>> checkers = np.indices((32, 32)).sum(axis=0) % 2
        >>> round(high_frequency_share(checkers.astype(np.float32)), 3)
        1.0
    """
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    rows, columns = (np.fft.fftfreq(n)[:, None] for n in image.shape)
    high = np.hypot(rows, columns.T) > 0.25
    return float(power[high].sum() / max(power.sum(), 1e-30))


def _load_volume(entry: ManifestEntry, halve_interpolated: bool) -> TrainingVolume:
    volume = read_volume_file(entry.path)
    intensity = fit_intensity_map(torch.from_numpy(volume.voxels), entry.modality)
    slices = [s for s in _cut(volume.voxels, volume.geometry.spacing_mm) if _spread(s, intensity) > _MIN_SPREAD]
    halved = halve_interpolated and bool(slices) and _is_interpolated(slices, intensity)
    if halved:
        slices = [_halve(s) for s in slices]
    return TrainingVolume(entry.path.name, entry.modality, entry.subject, tuple(slices), intensity, halved)


def _is_interpolated(slices: list[FloatImage], intensity: IntensityMap) -> bool:
    shares = [high_frequency_share(intensity.forward(torch.from_numpy(s)).numpy()) for s in slices]
    return float(np.median(shares)) < MIN_HIGH_FREQUENCY_SHARE


def _cut(voxels: FloatImage, spacing_mm: tuple[float, float, float]) -> list[FloatImage]:
    isotropic = max(spacing_mm) < _ISOTROPY * min(spacing_mm) and min(voxels.shape) >= _MIN_SIDE
    axes = (0, 1, 2) if isotropic else (2,)
    return [np.ascontiguousarray(s) for axis in axes for s in np.moveaxis(voxels, axis, 0)]


def _spread(image: FloatImage, intensity: IntensityMap) -> float:
    return float(intensity.forward(torch.from_numpy(image)).std())


def _halve(image: FloatImage) -> FloatImage:
    height, width = (n // 2 * 2 for n in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)

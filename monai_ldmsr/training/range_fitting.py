"""What a model was trained for, from the volumes of its training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monai_ldmsr.training.patches import PatchRecipe
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.training_range import LatentRange, ModalityRange, TrainingRange, VolumeFigures, volume_figures

__all__ = ["fit_latents", "fit_training_range"]

#: Share of the covariance's diagonal alone, which keeps it well-conditioned with few patients.
_SHRINKAGE = 0.1

#: Patients of a modality for statistics of latents, and side of slices below which they are cut-outs.
_LEAST_PATIENTS, _LEAST_SIDE = 4, 96


def fit_training_range(
    volumes: Sequence[TrainingVolume], encode: Callable[[Tensor], Tensor], weights_sha256: str
) -> TrainingRange:
    """Figures of all modalities.

    Args:
        volumes: volumes of the training patients, as scanned (nothing halved for being smooth).
        encode: see :func:`~monai_ldmsr.metrics.latent.latent_figures`.
        weights_sha256: hash of the weights that were trained on them.
    """
    by_modality: dict[str, list[tuple[TrainingVolume, VolumeFigures]]] = defaultdict(list)
    for volume in volumes:
        by_modality[volume.modality].append((volume, _figures(volume, encode)))
    return TrainingRange(weights_sha256, {name: _modality(found) for name, found in sorted(by_modality.items())})


def _figures(volume: TrainingVolume, encode: Callable[[Tensor], Tensor]) -> VolumeFigures:
    spacing = (float("nan"),) * 2 if volume.spacing_mm is None else volume.spacing_mm[:2]
    slices = [torch.from_numpy(image)[None, None] for image in volume.slices]
    return volume_figures(slices, volume.intensity, volume.modality, spacing, encode)


def _modality(found: Sequence[tuple[TrainingVolume, VolumeFigures]]) -> ModalityRange:
    figures = [one for _, one in found]
    by_patient: dict[str, list[npt.NDArray[np.float64]]] = defaultdict(list)
    for volume, one in found:
        if len(one.latents):
            by_patient[volume.subject].append(one.latents)
    side = float(np.median([min(image.shape) for volume, _ in found for image in volume.slices]))
    spacing = [value for one in figures for value in one.spacing_mm if np.isfinite(value)]
    # A training adds noise to what its volumes have already.
    added = PatchRecipe().noise_grey[1]
    return ModalityRange(
        n_patients=len({volume.subject for volume, _ in found}),
        n_volumes=len(found),
        spacing_mm=(round(min(spacing), 4), round(max(spacing), 4)) if spacing else None,
        noise_grey=(0.0, round(max(added, *(one.noise_grey for one in figures)), 3)),
        saturated_share=float(f"{max(one.saturated_share for one in figures):.3g}"),
        fine_share=float(f"{min(one.fine_share for one in figures):.3g}"),
        latents=fit_latents(by_patient, side >= _LEAST_SIDE),
    )


def fit_latents(
    by_patient: Mapping[str, Sequence[npt.NDArray[np.float64]]], refuses: bool = True
) -> LatentRange | None:
    """Statistics of latents, each patient counted alike; None of too few patients.

    Args:
        by_patient: (slices, figures) of each volume of each patient.
        refuses: see :class:`LatentRange`.
    """
    if len(by_patient) < _LEAST_PATIENTS:
        return None
    left_out = []
    for patient, volumes in by_patient.items():
        others = _statistics([x for name, x in by_patient.items() if name != patient])
        left_out += [LatentRange(*others, 0.0, refuses).distance(volume) for volume in volumes]
    mean, precision = _statistics(list(by_patient.values()))
    return LatentRange(mean, precision, round(float(np.quantile(left_out, 0.99)), 4), refuses)


def _statistics(patients: Sequence[Sequence[npt.NDArray[np.float64]]]) -> tuple[list[float], list[list[float]]]:
    slices = np.concatenate([np.concatenate(list(volumes)) for volumes in patients])
    weight = np.concatenate([np.full(n := sum(map(len, volumes)), 1.0 / n) for volumes in patients]) / len(patients)
    mean = weight @ slices
    covariance = np.cov(slices, rowvar=False, aweights=weight, ddof=0)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(np.diag(covariance))
    precision = np.linalg.inv(covariance + 1e-9 * np.eye(len(mean)))
    return [float(f"{x:.6g}") for x in mean], [[float(f"{x:.6g}") for x in row] for row in precision]

"""What a model was trained for, and in what a volume lies outside of that.

Kept beside the weights, whose hash it names. What the latents of a volume look like is compared by the Mahalanobis
distance to those of the training patients; how far a patient may be away who was not trained on follows from leaving
each of them out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from monai_ldmsr.bundle_folder import read_beside_weights
from monai_ldmsr.choices import MODALITIES
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics.latent import high_frequency_share, latent_figures
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.storage import replace_text
from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = [
    "N_SLICES",
    "Finding",
    "LatentRange",
    "ModalityRange",
    "TrainingRange",
    "VolumeFigures",
    "load_training_range",
    "volume_figures",
]

#: CT that is cut above this many HU has lost metal, as usual, and was not cut to a window.
_METAL_HU = 2900.0

#: Slices of a volume that are looked at.
N_SLICES = 8

#: Times the least and greatest of the training's spacing, noise and saturation: what is refused beyond that, and what
#: is said beyond that.
_FAR, _NEAR = 2.0, 1.25

#: Share of voxels at the greatest value: what is said, and refused, at least; and both as a multiple of the training's.
_SATURATED, _SATURATED_TIMES = (0.001, 0.005), (10.0, 50.0)

#: Power of fine structure over the least of the training, below which a volume looks interpolated.
_INTERPOLATED = 0.5

#: Distance of latents over that of training patients who were left out: what is said, and what is refused.
_UNUSUAL, _FOREIGN = 0.8, 1.25

#: By how many dB a model that made an image brings it back better than bicubic. Images of scanners: 6.3 at most.
_GIVEN_BACK_DB = 12.0


class Finding(NamedTuple):
    """What is outside of the training, in words, and whether that is far enough to refuse the volume."""

    text: str
    refuses: bool


@dataclass(frozen=True, eq=False)
class VolumeFigures:
    """What is compared with the training's.

    Args:
        spacing_mm: spacing of rows and columns.
        noise_grey: standard deviation of noise, grey levels of 255.
        saturated_share: share of voxels that have the greatest value, where that can be a cut.
        fine_share: share of power above half of Nyquist, median over slices.
        is_8_bit: whether values are whole and 0 to 255 at most, up to where an 8-bit export ends.
        latents: (slices, figures) of ``metrics.latent.latent_figures``.
        given_back_db: by how much better than bicubic the model gives back a slice that was averaged.
    """

    spacing_mm: tuple[float, float]
    noise_grey: float
    saturated_share: float
    fine_share: float
    is_8_bit: bool
    latents: npt.NDArray[np.float64]
    given_back_db: float = 0.0


@dataclass(frozen=True)
class LatentRange:
    """Latents of training patients, each counted alike.

    Args:
        mean: mean of each figure.
        precision: inverse of their covariance.
        left_out: 99th percentile of distances of patients by the statistics of the others.
        refuses: whether distances can refuse a volume; not where only small cut-outs were trained on.
    """

    mean: Sequence[float]
    precision: Sequence[Sequence[float]]
    left_out: float
    refuses: bool

    def distance(self, latents: npt.NDArray[np.float64]) -> float:
        """Mahalanobis distance over the root of the number of figures, median over slices; 0 without slices.

        Example:
            >>> LatentRange([0.0, 0.0], [[1.0, 0.0], [0.0, 0.25]], 1.0, True).distance(np.array([[3.0, 8.0]]))
            3.5355339059327378
        """
        if not len(latents):
            return 0.0
        away = latents - np.asarray(self.mean)
        squares = np.einsum("ni,ij,nj->n", away, np.asarray(self.precision), away)
        return float(np.sqrt(np.median(squares) / latents.shape[1]))


@dataclass(frozen=True)
class ModalityRange:
    """What a model has seen of one modality: least and greatest.

    Args:
        n_patients: patients that it was trained on.
        n_volumes: their volumes.
        spacing_mm: in-plane spacing; None where it was not known.
        noise_grey: noise of volumes, with what the training adds.
        saturated_share: greatest share of voxels at the greatest value.
        fine_share: least share of power above half of Nyquist.
        latents: statistics of their latents; None of fewer than four patients.
    """

    n_patients: int
    n_volumes: int
    spacing_mm: tuple[float, float] | None
    noise_grey: tuple[float, float]
    saturated_share: float
    fine_share: float
    latents: LatentRange | None

    def findings(self, volume: VolumeFigures) -> list[Finding]:
        """What of a volume is outside."""
        found = [self._spacing(volume.spacing_mm), self._noise(volume.noise_grey), self._saturation(volume)]
        if volume.fine_share < _INTERPOLATED * self.fine_share:
            share, least = (f"{100 * value:.2g} %" for value in (volume.fine_share, self.fine_share))
            found.append(
                Finding(
                    f"{share} of its power is finer than two pixels ({least} or more): it looks interpolated", False
                )
            )
        found.append(self._latents(volume.latents))
        if volume.is_8_bit:
            found.append(Finding("its values are those of an 8-bit export, not of a scanner", False))
        if volume.given_back_db > _GIVEN_BACK_DB:
            text = "it was super-resolved by this model before: averaged, it comes back "
            limit = f"({_GIVEN_BACK_DB:.0f} dB at most)"
            found.append(Finding(f"{text}{volume.given_back_db:.0f} dB nearer than by bicubic {limit}", True))
        return [one for one in found if one is not None]

    def _spacing(self, spacing_mm: tuple[float, float]) -> Finding | None:
        if self.spacing_mm is None:
            return None
        (least, most), (fine, coarse) = self.spacing_mm, (min(spacing_mm), max(spacing_mm))
        times = max(least / fine, coarse / most)
        value = fine if least / fine > coarse / most else coarse
        return _beyond(times, f"its pixels have {value:.3g} mm ({least:.2g} to {most:.2g})")

    def _noise(self, noise_grey: float) -> Finding | None:
        most = self.noise_grey[1]
        return _beyond(noise_grey / most, f"its noise is {noise_grey:.2g} grey levels of 255 (up to {most:.2g})")

    def _saturation(self, volume: VolumeFigures) -> Finding | None:
        share = volume.saturated_share
        near, far = (
            max(least, times * self.saturated_share) for least, times in zip(_SATURATED, _SATURATED_TIMES, strict=True)
        )
        if share <= near:
            return None
        text = f"{100 * share:.3g} % of its voxels have the greatest value ({100 * near:.2g} % at most): it was cut"
        return Finding(f"{text} to a window, or shows nothing", share > far)

    def _latents(self, latents: npt.NDArray[np.float64]) -> Finding | None:
        if self.latents is None:
            return None
        away, usual = self.latents.distance(latents), _UNUSUAL * self.latents.left_out
        if away <= usual:
            return None
        refuses = self.latents.refuses and away > _FOREIGN * self.latents.left_out
        limit = f", at most {_FOREIGN * self.latents.left_out:.2f}" if self.latents.refuses else ""
        said = f"distance {away:.2f} (usually up to {usual:.2f}{limit})"
        text = f"its structure is unlike that of the images trained on: {said}"
        return Finding(text, refuses)


def _beyond(times: float, text: str) -> Finding | None:
    return Finding(text, times > _FAR) if times > _NEAR else None


@dataclass(frozen=True)
class TrainingRange:
    """What one model's weights were trained for.

    Args:
        weights_sha256: hash of the weights.
        modalities: by DICOM's term.
    """

    weights_sha256: str
    modalities: Mapping[str, ModalityRange]

    def findings(self, modality: str, volume: VolumeFigures) -> list[Finding]:
        """What is outside, of the modality; where that is not known, of the one that it is nearest to."""
        if modality in self.modalities:
            return self.modalities[modality].findings(volume)
        if modality in MODALITIES:
            return [Finding(f"its modality is {modality} ({', '.join(self.modalities)})", True)]
        of_each = [one.findings(volume) for one in self.modalities.values()]
        return min(of_each, key=lambda found: (sum(one.refuses for one in found), len(found)), default=[])

    def write(self, path: Path) -> None:
        """Write it as JSON, the same for the same content.

        Raises:
            OutputError: it cannot be written.
        """
        replace_text(path, json.dumps(asdict(self), sort_keys=True, indent=1) + "\n")


def volume_figures(
    slices: Sequence[Tensor],
    intensity: IntensityMap,
    modality: str,
    spacing_mm: tuple[float, float],
    encode: Callable[[Tensor], Tensor],
    given_back: float = 0.0,
) -> VolumeFigures:
    """Figures of a volume from some of its slices.

    Args:
        slices: (1, 1, h, w) in the source's unit; at most eight, evenly spread, are looked at.
        intensity: the volume's map to model range.
        modality: DICOM's term.
        spacing_mm: spacing of rows and columns.
        encode: see :func:`~monai_ldmsr.metrics.latent.latent_figures`.
        given_back: see :func:`~monai_ldmsr.range_check.given_back_db`.
    """
    chosen = [slices[k] for k in spread_slices(len(slices), N_SLICES)]
    scaled = [intensity.forward(image) for image in chosen]
    greatest = max(float(image.max()) for image in chosen)
    cut = 0 if modality == "CT" and greatest > _METAL_HU else sum(int((image >= greatest).sum()) for image in chosen)
    n_voxels = sum(image.numel() for image in chosen)
    return VolumeFigures(
        spacing_mm=spacing_mm,
        noise_grey=float(np.median([volume_noise(image[..., None]) for image in scaled])),
        # One voxel is the greatest in any volume.
        saturated_share=max(0, cut - len(chosen)) / n_voxels,
        fine_share=float(np.median([high_frequency_share(image[0, 0].numpy()) for image in scaled])),
        is_8_bit=_is_8_bit(chosen),
        latents=latent_figures(encode, scaled).numpy(),
        given_back_db=given_back,
    )


def _is_8_bit(slices: Sequence[Tensor]) -> bool:
    least, most = (float(end) for end in torch.aminmax(torch.cat([image.flatten() for image in slices])))
    return least >= 0 and 250 <= most <= 255 and all(bool((image == image.round()).all()) for image in slices)


def load_training_range(path: str | Path, weights_sha256: str) -> TrainingRange | None:
    """Read a bundle's training range; None where it has none.

    Args:
        path: the file.
        weights_sha256: hash of the weights that it must belong to; empty where none were loaded, which have none.

    Raises:
        WeightsError: it is damaged, or was made for other weights.
    """
    return read_beside_weights(path, weights_sha256, _read, "nothing is refused by it")


def _read(given: dict[str, Any]) -> TrainingRange:
    modalities = {name: _read_modality(one) for name, one in given["modalities"].items()}
    return TrainingRange(str(given["weights_sha256"]), modalities)


def _read_modality(given: Mapping[str, object]) -> ModalityRange:
    values = dict(given)
    latents = values.pop("latents")
    found = ModalityRange(**values, latents=None if latents is None else LatentRange(**latents))  # type: ignore[arg-type]
    if not all(math.isfinite(x) for x in found.noise_grey):
        raise ValueError("noise")
    return found

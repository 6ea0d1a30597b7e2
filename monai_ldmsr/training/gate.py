"""The gate between codec and denoiser: no denoiser is sharper or truer than the codec that it works in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import PSNRMetric
from torch import Tensor

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import TrainingError
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.metrics.sharpness import fft_sharpness, laplacian_variance, to_grey8
from monai_ldmsr.networks import LatentCodec, upsample_bicubic
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["CodecFigures", "check_codec", "measure_codec"]

_MIN_SIDE, _FACTOR = 96, 4

#: What a codec must reach: dB over bicubic at factor 4, relative Laplacian variance, FFT score.
MIN_PSNR_GAIN_DB, MAX_LAPLACIAN_ERROR, MAX_FFT_ERROR = 8.0, 0.05, 2.0


@dataclass(frozen=True)
class CodecFigures:
    """Means over slices: PSNR of reconstruction and of bicubic, sharpness of reconstruction and original."""

    psnr_db: float
    psnr_bicubic_db: float
    laplacian_ratio: float
    fft_difference: float

    @property
    def passed(self) -> bool:
        """Whether a denoiser is worth training on this codec."""
        return (
            self.psnr_db >= self.psnr_bicubic_db + MIN_PSNR_GAIN_DB
            and abs(self.laplacian_ratio - 1) <= MAX_LAPLACIAN_ERROR
            and abs(self.fft_difference) <= MAX_FFT_ERROR
        )

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr_db:.1f} dB (bicubic {self.psnr_bicubic_db:.1f} dB), Laplacian variance "
            f"{100 * self.laplacian_ratio:.1f} % of the original's, FFT {self.fft_difference:+.2f}"
        )


@torch.no_grad()
def measure_codec(codec: LatentCodec, volumes: Sequence[TrainingVolume], slices_per_volume: int = 2) -> CodecFigures:
    """Reconstruct slices with sides of at least 96 pixels and compare with bicubic from a factor of 4."""
    device = next(codec.parameters()).device
    figures = []
    for volume in volumes:
        usable = [s for s in volume.slices if min(s.shape) >= _MIN_SIDE]
        for n in spread_slices(len(usable), slices_per_volume):
            height, width = (side // 8 * 8 for side in usable[n].shape)
            high = volume.intensity.forward(torch.from_numpy(usable[n][:height, :width].copy())[None, None])
            bicubic = upsample_bicubic(AreaOperator(_FACTOR)(high), _FACTOR)
            figures.append(_figures(codec(high.to(device)).to(high), bicubic, high))
    if not figures:
        raise TrainingError(f"No slice has sides of at least {_MIN_SIDE} pixels, so the codec cannot be checked.")
    psnr, psnr_bicubic, laplacian, laplacian_original, fft = np.mean(figures, axis=0)
    return CodecFigures(float(psnr), float(psnr_bicubic), float(laplacian / laplacian_original), float(fft))


def check_codec(
    codec: LatentCodec,
    dataset_dir: str,
    split: str | None = "calibration",
    modality: str | None = None,
    limits: ReadLimits | None = None,
) -> CodecFigures | None:
    """Stop before a denoiser is trained on a codec that would limit it.

    Args:
        codec: trained.
        dataset_dir: see ``load_training_volumes``.
        split: whose volumes are reconstructed; None or "" checks nothing.
        modality: see ``load_training_volumes``.
        limits: see ``load_training_volumes``.

    Raises:
        TrainingError: the codec falls short of PSNR of bicubic + 8 dB, Laplacian variance within 5 %, FFT within 2.
    """
    if not split:
        return None
    figures = measure_codec(codec, load_training_volumes(dataset_dir, split, False, modality, limits))
    logging.getLogger(__name__).info("codec on %s: %s", split, figures)
    if not figures.passed:
        raise TrainingError(
            f"The codec reaches {figures}, but needs {MIN_PSNR_GAIN_DB:g} dB over bicubic, Laplacian variance within "
            f"{100 * MAX_LAPLACIAN_ERROR:g} % and FFT within {MAX_FFT_ERROR:g}. Train it longer."
        )
    return figures


def _figures(result: Tensor, bicubic: Tensor, reference: Tensor) -> tuple[float, ...]:
    grey, smooth, truth = (to_grey8(image, -1.0, 1.0) for image in (result, bicubic, reference))
    psnr = PSNRMetric(max_val=255.0)
    # An exact reconstruction has an infinite PSNR: count it as half a grey level everywhere.
    found = psnr(grey, truth) if not torch.equal(grey, truth) else psnr(truth + 0.5, truth)
    return (
        float(found),
        float(psnr(smooth, truth)),
        float(laplacian_variance(grey)),
        float(laplacian_variance(truth)),
        float(fft_sharpness(grey) - fft_sharpness(truth)),
    )

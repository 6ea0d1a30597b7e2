"""What a stage starts from: weights of earlier stages or of a whole model, and batches that fit the device."""

from __future__ import annotations

from pathlib import Path

import torch

from monai_ldmsr.networks import LatentGenerator, load_initial_weights, load_weights

__all__ = ["fitting_sizes", "load_start"]

#: Sides of patches, and how many patches of the smaller side are as many pixels as one of the larger.
_SIDES, _RATIO = (96, 192), 4

#: Patches of the smaller side in a batch on a CPU; on a GPU a multiple of 8 up to the greatest.
_ON_CPU, _GREATEST = 8, 192

#: Bytes that a patch of the smaller side takes in training, measured with two networks and a critic in bfloat16; and
#: how much of the free memory is taken.
_BYTES_A_PATCH, _SHARE = 130e6, 0.7


def fitting_sizes(device: str | torch.device) -> list[tuple[int, int]]:
    """(side, patches in a batch), as many as the device's free memory holds.

    Example:
        >>> fitting_sizes("cpu")
        [(96, 8), (192, 2)]
    """
    count = _ON_CPU
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        count = int(min(_GREATEST, max(_ON_CPU, _SHARE * free / _BYTES_A_PATCH))) // _ON_CPU * _ON_CPU
    return [(side, count // _RATIO**n) for n, side in enumerate(_SIDES)]


def load_start(
    generator: LatentGenerator, whole: str | Path | None, codec: str | Path | None, denoiser: str | Path | None
) -> None:
    """Load what the generator starts from.

    Args:
        generator: changed in place.
        whole: weights of a whole generator, to go on from; the others are then not read.
        codec: weights of the codec's stage.
        denoiser: weights of the denoiser's stage.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit.
    """
    if whole is not None:
        load_weights(generator, whole)
        return
    for part, path in ((generator.codec, codec), (generator.denoiser, denoiser)):
        load_initial_weights(part, path)

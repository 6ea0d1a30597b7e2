"""The rows of the tables: interpolation between the same outer faces, and networks as a run applies them."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk  # noqa: N813  # as SimpleITK's own documentation
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.source import is_magnitude, project_volume
from monai_ldmsr.working_volumes import plain

__all__ = ["ROW_DEFINITIONS", "interpolate_bilinear", "interpolate_bspline", "projected", "super_resolved"]

#: What each row is, for those who read the table alone.
ROW_DEFINITIONS: dict[str, str] = {
    "lr": "the degraded slice, bilinear on the original's grid",
    "bicubic": "the degraded slice, bicubic (a = -0.75, no antialiasing: torch and OpenCV)",
    "bspline": "the degraded slice, cubic B-spline (SimpleITK, sitkBSpline)",
    "srresnet": "SRResNet, trained for the mean absolute error (the MMSE-like anchor)",
    "srgan": "SRGAN, the same generator trained on against a critic",
    "plain_ldm": "plain latent diffusion from pure noise on the same codec, by the steps of MONAI's scheduler that the "
    "settings name",
    "ldm": "the latent diffusion model as the bundle ships it",
    "ldm_mean": "the latent diffusion model at detail 0: its expectation",
    "ldm_sample": "the latent diffusion model at detail 1: one sample",
    "bicubic_noise": "bicubic plus noise with the spectrum of what it lacks in the flat place: what the same sharpness "
    "looks like without any structure",
    "hr": "the original",
}


def interpolate_bilinear(image: Tensor, factor: int) -> Tensor:
    """Bilinear, (B, 1, h, w) to (B, 1, f h, f w)."""
    return functional.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)


def interpolate_bspline(image: Tensor, factor: int) -> Tensor:
    """Cubic B-spline, (1, 1, h, w) to (1, 1, f h, f w), by SimpleITK.

    Example:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        >>> interpolate_bspline(ramp, 2)[0, 0, 8, 7:9].round(decimals=2)
        tensor([3.2500, 3.7500])
    """
    source = sitk.GetImageFromArray(image[0, 0].cpu().numpy())
    # One unit is a pixel of the target; pixel centres of the source lie in the middle of factor x factor of those.
    source.SetSpacing((float(factor), float(factor)))
    source.SetOrigin(((factor - 1) / 2, (factor - 1) / 2))
    size = [n * factor for n in source.GetSize()]
    found = sitk.Resample(source, size, sitk.Transform(), sitk.sitkBSpline, (0.0, 0.0), (1.0, 1.0))
    return torch.from_numpy(sitk.GetArrayFromImage(found)).to(image)[None, None]


def super_resolved(
    network: SliceNetwork,
    source: Tensor,
    volume: TrainingVolume,
    operator: DegradationOperator,
    consistency: float = 1.0,
    device: str | torch.device = "cpu",
    noise: float | None = None,
    inferer: VolumeInferer | None = None,
) -> Tensor:
    """Slices as a run super-resolves them: to model range, through the network, back, and onto the source.

    What a file's integers could not hold is not known here, and not clipped; nothing is rounded.

    Args:
        network: a network on ``device``.
        source: (B, 1, h, w) in the source's unit.
        volume: what the slices are of: its modality and map of intensities.
        operator: assumed degradation.
        consistency: weight of the projection, see ``project_onto_source``.
        device: where the network runs.
        noise: noise of the whole slice, in grey levels, where these are parts of one; None measures it.
        inferer: what takes the slices through the network as a volume, where they lie beside each other; None for
            slices that have nothing to do with each other.

    Returns:
        (B, 1, f h, f w) in the source's unit.
    """
    scaled = volume.intensity.forward(source).to(device)
    stack = scaled.permute(1, 2, 3, 0)[None]
    known = volume_noise(stack) if noise is None else noise
    if inferer is None:
        found = network(scaled, volume.modality, known)
    else:
        affine = None if volume.spacing_mm is None else np.diag([*volume.spacing_mm, 1.0])
        placed = MetaTensor(stack, affine=torch.eye(4) if affine is None else torch.from_numpy(affine))
        found = plain(inferer(placed, network, volume.modality, known))[0].permute(3, 0, 1, 2)
    return projected(found, source, volume, operator, consistency)


def projected(
    found: Tensor,
    source: Tensor,
    volume: TrainingVolume,
    operator: DegradationOperator,
    consistency: float = 1.0,
    by_slice: list[float] | None = None,
) -> Tensor:
    """What a network made, (B, 1, f h, f w) in model range, in the source's unit and onto the source.

    Args:
        found: what a network made.
        source: (B, 1, h, w) in the source's unit.
        volume: what the slices are of.
        operator: assumed degradation.
        consistency: weight of the projection.
        by_slice: gets how far each slice contradicted the source before.
    """
    result = volume.intensity.inverse(found.to(source.device))
    least = min(float(image.min()) for image in volume.slices)
    limits = (0.0 if is_magnitude(volume.modality, least) else -math.inf, math.inf)
    fine, coarse = (image.permute(1, 2, 3, 0) for image in (result, source))
    project_volume(fine, coarse, operator.factor, consistency, operator.name, value_range=limits, by_slice=by_slice)
    return result

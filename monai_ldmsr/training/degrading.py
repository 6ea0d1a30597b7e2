"""Degradation of patches: operators, noise as scanners make it, and kernels of another sharpness."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import matrix_on, smooth_inverse_matrix
from monai_ldmsr.networks.plane_mean import PROFILE_WIDTHS
from monai_ldmsr.noise_level import GREY_LEVELS
from monai_ldmsr.operators import OPERATORS, operator_matrix, operator_place
from monai_ldmsr.slice_plan import FWHM
from monai_ldmsr.training.slice_store import DrawnPatches

__all__ = ["PatchDegradation", "draw_noise", "slice_profiles", "vary_sharpness"]

#: Width of the Gaussian point spread function in low-resolution pixels, least and greatest.
_GAUSSIAN_SIGMA = (0.3, 0.55)

#: Share of noise that is correlated, and the width of its kernel in low-resolution pixels, least and greatest.
_CORRELATED, _CORRELATION_PX = 0.6, (0.3, 0.9)

#: Share of correlated noise without its slow part, as filtered back projection leaves it in CT.
_RAMP = 0.3

#: Share of magnitude images (MR) whose noise is Rician.
_RICIAN = 0.6

#: How much of its finest structure a patch loses or gains at most, as by a smoother or sharper kernel.
_SHARPNESS = (-0.4, 0.5)

#: Share of slice profiles that are Gaussian, as of a selective pulse; the others are boxes.
_GAUSSIAN_PROFILES = 0.4


class PatchDegradation:
    """Operators of a batch, one for each patch, between one fine and one coarse grid.

    Args:
        operator: (B,) places in ``operators.OPERATORS``.
        rows: (B, h, S) matrices of the rows.
        columns: (B, w, S) matrices of the columns.
        back: smooth inverses (S, h) and (S, w) of the area operator, which keep what they are given.
        width: (B,) of the profile along columns in their distance, see :meth:`draw_slices`; None is 1.
    """

    def __init__(
        self,
        operator: Tensor,
        rows: Tensor,
        columns: Tensor,
        back: tuple[Tensor, Tensor],
        width: Tensor | None = None,
    ) -> None:
        self.operator = operator
        self.width = torch.ones_like(rows[:, 0, 0]) if width is None else width
        self._rows, self._columns = rows, columns
        self._back = back

    @classmethod
    def draw(
        cls, count: int, size: int, coarse: tuple[int, int], area: float, generator: torch.Generator
    ) -> PatchDegradation:
        """Operators for patches of one size: ``area`` of them block means, the others evenly of the other kinds."""
        device = generator.device
        others = [place for name in OPERATORS if (place := operator_place(name)) != operator_place("area")]
        draw = torch.rand(count, generator=generator, device=device)
        kind = torch.tensor(others, device=device)[
            torch.randint(len(others), (count,), generator=generator, device=device)
        ]
        operator = torch.where(draw < area, operator_place("area"), kind)
        least, most = _GAUSSIAN_SIGMA
        sigma = least + (most - least) * torch.rand(count, generator=generator, device=device)
        matrices = [_matrices(operator, sigma, size, n) for n in coarse]
        return cls(operator, matrices[0], matrices[1], _back(size, coarse, device))

    @classmethod
    def draw_slices(cls, count: int, size: int, coarse: int, generator: torch.Generator) -> PatchDegradation:
        """Slice profiles along the columns, each of a width of its own; rows stay as they are."""
        device = generator.device
        draw = torch.rand((2, count), generator=generator, device=device)
        least, most = PROFILE_WIDTHS
        width = least + (most - least) * draw[0]
        gaussian = draw[1] < _GAUSSIAN_PROFILES
        operator = torch.where(gaussian, operator_place("gaussian"), operator_place("area"))
        rows = torch.eye(size, device=device).expand(count, size, size)
        columns = slice_profiles(width, gaussian, size, coarse)
        return cls(operator, rows, columns, _back(size, (size, coarse), device), width)

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, 1, S, S) to (B, 1, h, w)."""
        return self._rows[:, None] @ image @ self._columns[:, None].transpose(-1, -2)

    def interpolate(self, image: Tensor) -> Tensor:
        """(B, 1, h, w) to (B, 1, S, S), smooth, and with the same means over blocks."""
        rows, columns = self._back
        return rows @ image @ columns.T


def slice_profiles(width: Tensor, gaussian: Tensor, fine: int, coarse: int) -> Tensor:
    """What slices average along a stack of finer ones, as ``SlicePlan.averaging`` between the stack's outer faces.

    Args:
        width: (B,) full width of a box, or width at half height of a Gaussian, in distances of two slices.
        gaussian: (B,) whether it is a Gaussian.
        fine: number of finer slices.
        coarse: number of slices.

    Returns:
        (B, coarse, fine), rows with the sum 1.
    """
    half = width[:, None, None] / 2
    fines, coarses = (torch.arange(n, device=width.device) + 0.5 for n in (fine, coarse))
    distance = fines * (coarse / fine) - coarses[:, None]
    before, behind = distance - coarse / fine / 2, distance + coarse / fine / 2
    box = (torch.minimum(behind, half) - torch.maximum(before, -half)).clamp(min=0.0)
    scale = 2 * half / FWHM * math.sqrt(2)
    weight = torch.where(gaussian[:, None, None], torch.erf(behind / scale) - torch.erf(before / scale), box)
    return weight / weight.sum(dim=-1, keepdim=True)


def _back(size: int, coarse: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = (matrix_on(device, torch.float32, smooth_inverse_matrix, "area", size, n) for n in coarse)
    return rows, columns


def _matrices(operator: Tensor, sigma: Tensor, fine: int, coarse: int) -> Tensor:
    device = operator.device
    fixed = torch.stack([matrix_on(device, torch.float32, operator_matrix, name, fine, coarse) for name in OPERATORS])
    chosen = fixed[operator]
    centre = (torch.arange(coarse, device=sigma.device) + 0.5) * (fine / coarse)
    pixels = torch.arange(fine, device=sigma.device) + 0.5
    distance = (pixels - centre[:, None]) / (fine / coarse)
    gaussian = torch.exp(-0.5 * (distance / sigma[:, None, None]).square())
    gaussian = gaussian / gaussian.sum(dim=-1, keepdim=True)
    is_gaussian = (operator == operator_place("gaussian"))[:, None, None]
    return torch.where(is_gaussian, gaussian, chosen)


def draw_noise(low: Tensor, grey: Tensor, patches: DrawnPatches, generator: torch.Generator) -> Tensor:
    """Noise to be added to low-resolution patches, in the source's unit.

    White, or correlated as by a reconstruction kernel or by interpolation; in magnitude images mostly Rician
    (Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618): what is added depends on the signal, and air becomes
    brighter.

    Args:
        low: (B, 1, h, w) patches without it.
        grey: (B,) standard deviation in grey levels of 255.
        patches: what ``low`` was made of.
        generator: random numbers, on the patches' device.
    """
    unit = (grey[:, None, None, None] / GREY_LEVELS) / patches.intensities.slope
    count, device = len(low), low.device
    first, second = (_field(low, generator) * unit for _ in range(2))
    is_rician = torch.rand((count, 1, 1, 1), generator=generator, device=device) < _RICIAN
    signal = (low - patches.zero).clamp(min=0.0)
    rician = torch.hypot(signal + first, second) - signal
    return torch.where(is_rician & patches.zero.isfinite(), rician, first)


def _field(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal fields, each with a power spectrum of its own."""
    count, device = len(like), like.device
    white = torch.randn(like.shape, generator=generator, device=device)
    draw = torch.rand((3, count, 1, 1, 1), generator=generator, device=device)
    least, most = _CORRELATION_PX
    sigma = (least + (most - least) * draw[0]).where(draw[1] < _CORRELATED, 0.0)
    rows, columns = torch.fft.fftfreq(like.shape[-2], device=device), torch.fft.rfftfreq(like.shape[-1], device=device)
    square = rows[:, None].square() + columns.square()
    gain = torch.exp(-2.0 * (torch.pi * sigma).square() * square)
    gain = gain * (square + 1e-3).pow(0.25).where(draw[2] < _RAMP, 1.0)
    colored: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=like.shape[-2:])
    deviation = colored.flatten(1).std(dim=1).clamp(min=1e-6)
    return colored / deviation[:, None, None, None]


def vary_sharpness(image: Tensor, generator: torch.Generator) -> Tensor:
    """Sharpen or smooth originals (B, 1, H, W) a little, as another reconstruction kernel would."""
    least, most = _SHARPNESS
    gain = least + (most - least) * torch.rand((len(image), 1, 1, 1), generator=generator, device=image.device)
    tap = image.new_tensor([0.25, 0.5, 0.25])
    smooth = functional.conv2d(functional.pad(image, (1, 1, 1, 1), mode="replicate"), (tap[:, None] * tap)[None, None])
    return image + gain * (image - smooth)

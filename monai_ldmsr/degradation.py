"""How a high-resolution slice becomes a low-resolution one: linear forward operators and their adjoints.

All operators keep the outer faces of the slice where they are and the mean of a constant image. They act in the linear
units of the image (HU, counts), not on log-compressed model values, since scanners average signal.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError

__all__ = [
    "OPERATORS",
    "AreaOperator",
    "DegradationOperator",
    "GaussianOperator",
    "KSpaceCropOperator",
    "adjoint",
    "named_operator",
    "operator_place",
    "pseudo_inverse",
]

#: The named operators, in the order in which networks count them, and what each assumes of a source.
OPERATORS = {
    "area": "Each pixel of the source is the mean over its block of finer pixels.",
    "gaussian": "Each pixel of the source is a Gaussian mean around its centre, half as high at half a pixel.",
    "kspace": "The source's k-space is the central part of the finer image's, as of a smaller acquisition matrix.",
}

#: Standard deviation of the named Gaussian point spread function, in low-resolution pixels: a width at half height of
#: one pixel.
_GAUSSIAN_SIGMA = 0.42


class DegradationOperator(Protocol):
    """A linear map from (B, C, f h, f w) to (B, C, h, w)."""

    factor: int

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade a batch of slices."""
        ...


class AreaOperator:
    """Mean over blocks of factor x factor pixels: a detector, or a voxel, that is ``factor`` times wider.

    Args:
        factor: block side in pixels.

    Example:
        >>> AreaOperator(2)(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]))
        tensor([[[[4.]]]])
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, C, f h, f w) to (B, C, h, w)."""
        return functional.avg_pool2d(image, self.factor)


class GaussianOperator:
    """Gaussian point spread function, then the mean over the central pixels of each block.

    Args:
        factor: decimation.
        sigma: standard deviation of the point spread function in high-resolution pixels.
    """

    def __init__(self, factor: int, sigma: float) -> None:
        self.factor = factor
        self.sigma = sigma

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, C, f h, f w) to (B, C, h, w)."""
        radius = max(1, math.ceil(3 * self.sigma))
        n = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (n / self.sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
        blurred = functional.pad(image, (radius,) * 4, mode="replicate")
        blurred = functional.conv2d(blurred, kernel, groups=image.shape[1])
        blurred = functional.conv2d(blurred, kernel.transpose(-1, -2), groups=image.shape[1])
        # The centre of an even block lies between pixels: average the two (odd: take the one) nearest to it.
        width = 2 - self.factor % 2
        start = (self.factor - width) // 2
        centred = blurred[..., start : blurred.shape[-2] - start, start : blurred.shape[-1] - start]
        return functional.avg_pool2d(centred, width, stride=self.factor)


class KSpaceCropOperator:
    """Keep the central part of k-space, as an MR scan with a smaller acquisition matrix does.

    Args:
        factor: ratio of the matrix sizes.
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, C, f h, f w) to (B, C, h, w)."""
        spectrum = torch.fft.fft2(image)
        for axis in (-2, -1):
            spectrum = self._crop(spectrum, axis)
        result: Tensor = torch.fft.ifft2(spectrum).real / self.factor**2
        return result

    def _crop(self, spectrum: Tensor, axis: int) -> Tensor:
        size = spectrum.shape[axis] // self.factor
        frequency = torch.fft.fftfreq(size, device=spectrum.device) * size
        kept = spectrum.index_select(axis, frequency.long() % spectrum.shape[axis])
        # Fourier shift theorem: without this phase each sample would sit on its block's first pixel.
        shift = (self.factor - 1) / 2 / spectrum.shape[axis]
        phase = torch.exp(2j * math.pi * frequency * shift)
        if size % 2 == 0:
            phase = torch.where(frequency == -size / 2, torch.cos(math.pi * size * torch.tensor(shift)), phase)
        along_axis = [-1 if a == axis % kept.ndim else 1 for a in range(kept.ndim)]
        shifted: Tensor = kept * torch.as_tensor(phase).reshape(along_axis)
        return shifted


def operator_place(name: str) -> int:
    """Place of an operator in :data:`OPERATORS`, as networks count it.

    Raises:
        SettingsError: there is no such operator.
    """
    if name not in OPERATORS:
        raise SettingsError(f"operator is {name!r}; choose one of {', '.join(OPERATORS)}.")
    return list(OPERATORS).index(name)


def named_operator(name: str, factor: int) -> DegradationOperator:
    """One of :data:`OPERATORS`, fixed and without noise, as evaluations and projections use it.

    Args:
        name: ``area``, ``gaussian`` (standard deviation 0.42 low-resolution pixels) or ``kspace``.
        factor: of the degradation.

    Raises:
        SettingsError: there is no such operator.
    """
    operators = (AreaOperator(factor), GaussianOperator(factor, _GAUSSIAN_SIGMA * factor), KSpaceCropOperator(factor))
    return operators[operator_place(name)]


def adjoint(operator: DegradationOperator, image: Tensor) -> Tensor:
    """Apply the transpose of a linear operator, (B, C, h, w) to (B, C, f h, f w), by automatic differentiation.

    Example:
        >>> adjoint(AreaOperator(2), torch.tensor([[[[4.0]]]]))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """
    height, width = image.shape[-2:]
    # Evaluations switch gradients off around this; the copy is no inference tensor.
    with torch.inference_mode(False), torch.enable_grad():
        weights = image.clone()
        point = torch.zeros((*image.shape[:-2], height * operator.factor, width * operator.factor), dtype=image.dtype)
        point = point.to(image.device).requires_grad_()
        (result,) = torch.autograd.grad(operator(point), point, weights)
    return result


def pseudo_inverse(operator: DegradationOperator, image: Tensor, iterations: int = 16) -> Tensor:
    """Smallest image that an operator degrades to this one, (B, C, h, w) to (B, C, f h, f w).

    Exact for the area operator, where each pixel is repeated over its block. Else ``A^T (A A^T)^-1 y`` by conjugate
    gradients (Hestenes and Stiefel 1952), stopped early: what a point spread function has all but wiped out, and noise
    with it, is not blown up.

    Args:
        operator: linear.
        image: degraded slices.
        iterations: of conjugate gradients, at most.

    Example:
        >>> pseudo_inverse(AreaOperator(2), torch.tensor([[[[4.0]]]]))
        tensor([[[[4., 4.],
                  [4., 4.]]]])
    """
    if isinstance(operator, AreaOperator):
        return functional.interpolate(image, scale_factor=operator.factor, mode="nearest")
    solution = torch.zeros_like(image)
    residual = image.clone()
    direction, square = residual, residual.square().sum()
    goal = 1e-10 * square
    for _ in range(iterations):
        if square <= goal:
            break
        applied = operator(adjoint(operator, direction))
        step = square / (direction * applied).sum()
        solution = solution + step * direction
        residual = residual - step * applied
        last, square = square, residual.square().sum()
        direction = residual + (square / last) * direction
    return adjoint(operator, solution)

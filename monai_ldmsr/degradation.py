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

__all__ = ["AreaOperator", "DegradationOperator", "GaussianOperator", "KSpaceCropOperator", "adjoint"]


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

    def pseudo_inverse(self, image: Tensor) -> Tensor:
        """Moore-Penrose inverse: each pixel repeated over its block, (B, C, h, w) to (B, C, f h, f w)."""
        return functional.interpolate(image, scale_factor=self.factor, mode="nearest")


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


def adjoint(operator: DegradationOperator, image: Tensor) -> Tensor:
    """Apply the transpose of a linear operator, (B, C, h, w) to (B, C, f h, f w), by automatic differentiation.

    Example:
        >>> adjoint(AreaOperator(2), torch.tensor([[[[4.0]]]]))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """
    height, width = image.shape[-2:]
    point = torch.zeros((*image.shape[:-2], height * operator.factor, width * operator.factor), dtype=image.dtype)
    point = point.to(image.device).requires_grad_()
    (result,) = torch.autograd.grad(operator(point), point, image)
    return result

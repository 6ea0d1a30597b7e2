"""What structure a slice has: to a latent codec, and how much of it is fine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["N_LATENT_FIGURES", "high_frequency_share", "latent_figures"]

#: Side of the blocks that a latent stands for.
_BLOCK = 4

#: Channels of a latent whose frequencies are the same but for a quarter turn; the first one is the block's mean.
_TURNED = [
    sorted({row * _BLOCK + column, column * _BLOCK + row}) for row in range(_BLOCK) for column in range(row, _BLOCK)
]

#: Mean and spread of the blocks' means, then size and sparsity of each group of channels.
N_LATENT_FIGURES = 2 + 2 * (len(_TURNED) - 1)

#: A block is tissue where its mean is above this share of the way from the least to nearly the greatest of a slice.
_TISSUE, _NEARLY = 0.1, 0.99

#: Share of a slice's blocks that must be tissue, and pixels that each side must have, for the figures to mean anything.
_LEAST_TISSUE, _LEAST_SIDE = 0.02, 16


def latent_figures(encode: Callable[[Tensor], Tensor], slices: Iterable[Tensor]) -> Tensor:
    """Figures of slices, from the latents of their tissue; a quarter turn does not change them much.

    Args:
        encode: (1, 1, h, w) in model range to (1, 16, h / 4, w / 4) standardized latents, channels ordered as the
            frequencies of a 4 x 4 cosine transform.
        slices: (1, 1, h, w) in model range each.

    Returns:
        (n, :data:`N_LATENT_FIGURES`) float64, without those slices that are too small or empty.

    Example:
        >>> from monai_ldmsr.networks.latent_codec import block_dct_basis
        >>> def encode(image):
        ...     return functional.conv2d(image, block_dct_basis(4), stride=4)
        >>> grain = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> latent_figures(encode, [grain, grain[..., :8, :8]]).shape
        torch.Size([1, 20])
    """
    found = [figures for image in slices if (figures := _figures(encode, image)) is not None]
    return torch.stack(found) if found else torch.empty(0, N_LATENT_FIGURES, dtype=torch.float64)


def _figures(encode: Callable[[Tensor], Tensor], image: Tensor) -> Tensor | None:
    height, width = (n // _BLOCK * _BLOCK for n in image.shape[-2:])
    if min(height, width) < _LEAST_SIDE:
        return None
    image = image[..., :height, :width]
    means = functional.avg_pool2d(image, _BLOCK)[0, 0]
    least, most = means.min(), torch.quantile(means.flatten(), _NEARLY)
    tissue = means > least + _TISSUE * (most - least)
    if tissue.float().mean() < _LEAST_TISSUE:
        return None
    latent = encode(image)[0][:, tissue].double().cpu()
    means = latent[0]
    groups = [latent[channels] for channels in _TURNED[1:]]
    sizes = torch.stack([group.square().mean().sqrt() for group in groups]).clamp(min=1e-4)
    sparsity = torch.stack([group.abs().mean() for group in groups]) / sizes
    spread = means.std(correction=0).clamp(min=1e-4)
    return torch.cat([torch.stack([means.mean(), spread.log()]), sizes.log(), sparsity])


def high_frequency_share(image: npt.NDArray[np.float32]) -> float:
    """Share of a slice's spectral power (mean removed) above half of Nyquist, 0 to 1.

    Example:
        >>> checkers = np.indices((32, 32)).sum(axis=0) % 2
        >>> round(high_frequency_share(checkers.astype(np.float32)), 3)
        1.0
    """
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    rows, columns = (np.fft.fftfreq(n)[:, None] for n in image.shape)
    high = np.hypot(rows, columns.T) > 0.25
    return float(power[high].sum() / max(power.sum(), 1e-30))

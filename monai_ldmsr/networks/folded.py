"""Convolutions of upsampled or shuffled images, taken on the coarse grid by folded weights: fewer products.

Results differ by rounding alone. Parameters keep their names, so that weights load as before.
"""

from __future__ import annotations

import torch
from monai.networks.blocks import Upsample
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FoldedUpsample", "fold_upsampling", "shuffled_kernel"]


class FoldedUpsample(nn.Module):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution behind it, as one 2x2 convolution of four phases.

    Of the nine pixels under the kernel some are copies of one, so that their weights can be added before: 16 products
    instead of 36 for each pixel that comes in, and no upsampled image in memory.

    Args:
        convolution: the 3x3 convolution, with padding 1; its parameters are used as they are at each call.

    Example:
        >>> conv = nn.Conv2d(2, 3, 3, padding=1)
        >>> x = torch.rand(1, 2, 5, 4)
        >>> plain = conv(functional.interpolate(x, scale_factor=2))
        >>> bool((FoldedUpsample(nn.Sequential(conv))(x) - plain).abs().max() < 1e-5)
        True
    """

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.postconv = convolution
        self._at = next(name for name, part in convolution.named_modules() if isinstance(part, nn.Conv2d))

    def forward(self, image: Tensor, emb: Tensor | None = None) -> Tensor:
        """Upsample (B, C, H, W) to (B, C', 2 H, 2 W); the embedding of time, which MONAI's U-Net gives, is not used."""
        convolution = self.postconv.get_submodule(self._at)
        weight, bias = convolution.get_parameter("weight"), convolution.get_parameter("bias")
        channels, (height, width) = len(weight), image.shape[-2:]
        phases = functional.conv2d(image, _phases(weight), bias.repeat(4), padding=1)
        # (B, H + 1, W + 1, row phase, column phase, C'): of odd phases the first place lies one further.
        laid = phases.permute(0, 2, 3, 1).reshape(-1, height + 1, width + 1, 2, 2, channels)
        rows = [torch.stack([laid[:, a : a + height, b : b + width, a, b] for b in range(2)], dim=3) for a in range(2)]
        return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _phases(weight: Tensor) -> Tensor:
    """(O, I, 3, 3) to (4 O, I, 2, 2): row phase before column phase before output channels."""
    for axis in (-2, -1):
        first, middle, last = weight.unbind(axis)
        even, odd = torch.stack([first, middle + last], axis), torch.stack([first + middle, last], axis)
        weight = torch.stack([even, odd])  # columns' phases come before rows'
    return weight.transpose(0, 1).flatten(0, 2)


def fold_upsampling(network: nn.Module) -> None:
    """Replace each of MONAI's nearest-neighbour upsamplings by 2 with a 3x3 convolution behind it, in place."""
    for part in list(network.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Upsample) and _is_foldable(child):
                setattr(part, name, FoldedUpsample(child.get_submodule("postconv")))


def _is_foldable(block: Upsample) -> bool:
    parts = dict(block.named_children())
    nearest, convolution = parts.get("upsample_non_trainable"), parts.get("postconv")
    if set(parts) != {"upsample_non_trainable", "postconv"} or not isinstance(nearest, nn.Upsample):
        return False
    found = [part for part in convolution.modules() if not list(part.children())] if convolution else []
    return (
        nearest.mode == "nearest"
        and tuple(nearest.scale_factor) == (2.0, 2.0)  # type: ignore[arg-type]
        and len(found) == 1
        and isinstance(found[0], nn.Conv2d)
        and (found[0].kernel_size, found[0].padding, found[0].stride) == ((3, 3), (1, 1), (1, 1))
        and found[0].bias is not None
    )


def shuffled_kernel(weight: Tensor, fold: int) -> Tensor:
    """Kernel that does to pixel-unshuffled images what ``weight`` does to whole ones, with as much zero padding.

    Args:
        weight: (O, I, k, k), k odd.
        fold: factor of ``pixel_unshuffle`` in front of it, and of ``pixel_shuffle`` behind it.

    Returns:
        (O fold^2, I fold^2, m, m) with m odd.

    Example:
        >>> x, weight = torch.rand(1, 1, 8, 6), torch.rand(1, 1, 5, 5)
        >>> kernel = shuffled_kernel(weight, 2)
        >>> coarse = functional.conv2d(functional.pixel_unshuffle(x, 2), kernel, padding=kernel.shape[-1] // 2)
        >>> fine = functional.conv2d(x, weight, padding=2)
        >>> bool((functional.pixel_shuffle(coarse, 2) - fine).abs().max() < 1e-5)
        True
    """
    reach = weight.shape[-1] // 2
    coarse = -(-reach // fold)
    # Offset of the fine kernel, by phase behind (a), phase before (p) and coarse offset (m).
    phase, offset = torch.arange(fold, device=weight.device), torch.arange(-coarse, coarse + 1, device=weight.device)
    place = fold * offset + phase[None, :, None] - phase[:, None, None] + reach  # (a, p, m)
    more = fold * coarse + fold - 1 - reach
    padded = functional.pad(weight, (more,) * 4)
    # (O, I, a, p, m, b, q, n) to (O, a, b, I, p, q, m, n)
    kernel = padded[:, :, place + more][..., place + more].permute(0, 2, 5, 1, 3, 6, 4, 7)
    return kernel.flatten(3, 5).flatten(0, 2)

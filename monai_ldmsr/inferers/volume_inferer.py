"""Slice-wise super-resolution of a volume whose memory is the result's and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.number_settings import whole_number

__all__ = ["VolumeInferer"]


class VolumeInferer(Inferer):  # type: ignore[misc]  # MONAI carries no types
    """Run a network on all slices of a volume in batches.

    Differs from MONAI's ``SliceInferer``, with which it agrees in values, in two points: there is no second volume for
    counting overlaps, and the affine of the result is that of the finer grid (MONAI's keeps the source's).

    Args:
        batch_size: slices in a batch at most.
        max_batch_pixels: smaller batches for larger results: output pixels of a batch at most (one slice at least).
        device: where the network runs; the volume stays where it is.

    Example:
        >>> double = torch.nn.Upsample(scale_factor=2)
        >>> VolumeInferer()(torch.zeros(1, 1, 5, 4, 3), double).shape
        torch.Size([1, 1, 10, 8, 3])
    """

    def __init__(self, batch_size: int = 4, max_batch_pixels: int = 2**21, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.max_batch_pixels = whole_number("max_batch_pixels", max_batch_pixels, 1)
        self.device = torch.device(device)

    def describe(self) -> dict[str, int]:
        """What of it may change a result, if only by rounding, for the report."""
        return {"batch_size": self.batch_size}

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve.

        Args:
            inputs: (1, 1, I, J, K) volume; slices lie across the last axis.
            network: (B, 1, I, J) to (B, 1, fI, fJ).
            args: passed to the network, such as a ``SliceNetwork``'s modality and noise.
            kwargs: passed to the network.

        Returns:
            (1, 1, fI, fJ, K) on the inputs' device, each slice contiguous in memory.
        """
        # (K, 1, I, J) view: a batch of slices is then a plain range.
        slices = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs)[0].movedim(-1, 0)
        with torch.no_grad():
            first = network(slices[:1].to(self.device), *args, **kwargs).to(slices.device)
            result = torch.empty((len(slices), *first.shape[1:]), dtype=first.dtype, device=slices.device)
            result[0] = first[0]
            batch = max(1, min(self.batch_size, self.max_batch_pixels // first[0].numel()))
            for start in range(1, len(slices), batch):
                stop = min(start + batch, len(slices))
                result[start:stop] = network(slices[start:stop].to(self.device), *args, **kwargs)
        return _with_geometry(result.movedim(0, -1)[None], inputs)


def _with_geometry(volume: Tensor, inputs: Tensor) -> Tensor:
    if not isinstance(inputs, MetaTensor):
        return volume
    source_shape, shape = inputs.shape[2:], volume.shape[2:]
    source = VolumeGeometry((source_shape[0], source_shape[1], source_shape[2]), inputs.affine.numpy())
    factors = (shape[0] // source_shape[0], shape[1] // source_shape[1], 1)
    result: Tensor = MetaTensor(volume, affine=torch.from_numpy(source.upsampled(factors).affine.copy()))
    return result

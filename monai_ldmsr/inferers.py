"""Slice-wise super-resolution of a volume whose memory is the result's and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import EstimatingNetwork, PlaneNetwork
from monai_ldmsr.number_settings import whole_number
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.through_plane import PlaneBatches, refine_slices

__all__ = ["VolumeInferer"]


class VolumeInferer(Inferer):  # type: ignore[misc]  # MONAI carries no types
    """Run a network on all slices of a volume in batches.

    Where the volume's metadata have a ``slice_plan``, as ``PlanSlicesd`` makes it, the result is super-resolved along
    the stack as well, see :func:`~monai_ldmsr.through_plane.refine_slices`.

    Differs from MONAI's ``SliceInferer``, with which it agrees in values, in two points: there is no second volume for
    counting overlaps, and the affine of the result is that of the finer grid (MONAI's keeps the source's).

    Args:
        batch_size: slices in a batch at most.
        max_batch_pixels: smaller batches for larger results: output pixels of a batch at most (one slice at least).
        device: where the network runs; the volume stays where it is.

    Example:
        >>> from monai_ldmsr.geometry import Factors
        >>> class Twice(torch.nn.Upsample):
        ...     factors = Factors(2, 2)
        >>> VolumeInferer()(torch.zeros(1, 1, 5, 4, 3), Twice(scale_factor=2)).shape
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

    def with_at_most(self, n_slices: int) -> VolumeInferer:
        """The same with no more slices in a batch than that."""
        return VolumeInferer(min(self.batch_size, n_slices), self.max_batch_pixels, self.device)

    def __call__(self, inputs: Tensor, network: SliceNetwork, *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve.

        Args:
            inputs: (1, 1, I, J, K) volume; slices lie across the last axis.
            network: (B, 1, I, J) to (B, 1, fI, fJ), which has ``factors``; where it has ``takes_places``, it gets
                ``places_mm``, how far each slice is from the first.
            args: passed to the network: modality and noise.
            kwargs: passed to the network.

        Returns:
            (1, 1, fI, fJ, K) on the inputs' device, or with as many slices as planned; each contiguous in memory.

        Raises:
            SettingsError: a slice that the network made is not of the size that its factors say; or new slices are
                wanted of a network that makes none.
        """
        found = self._fill(inputs, network, lambda slices, places: (network(slices, *args, **{**kwargs, **places}),))
        return self._refined(inputs, found, network, *args, **kwargs)[0]

    def estimate(self, inputs: Tensor, network: EstimatingNetwork, *args: Any) -> tuple[Tensor, Tensor]:
        """Super-resolve as a call does, and expect the error of each voxel, in one pass.

        Returns:
            The result, and its expected absolute error in model range; both as a call returns it.

        Raises:
            SettingsError: see a call.
        """
        found = self._fill(inputs, network, lambda slices, places: network.estimates(slices, *args, **places)[0])
        result, error = self._refined(inputs, found, network, *args)
        return result, error

    def _refined(
        self,
        inputs: Tensor,
        found: tuple[Tensor, ...],
        network: SliceNetwork,
        modality: str | None = None,
        noise: float | None = None,
    ) -> tuple[Tensor, ...]:
        """The same with new slices, where there is a plan of such: the result, and its error if there is one."""
        plan: SlicePlan | None = inputs.meta.get("slice_plan") if isinstance(inputs, MetaTensor) else None
        if plan is None:
            return found
        if not isinstance(network, PlaneNetwork):
            raise SettingsError("This bundle's network makes no new slices; choose another bundle, such as ldm_sr.")
        grid, in_plane = _grid(inputs), network.factors.in_plane
        spacing = (grid.spacing_mm[0] / in_plane[0], grid.spacing_mm[1] / in_plane[1])
        batches = PlaneBatches(self.batch_size, self.max_batch_pixels, self.device)
        result, *errors = (_plain(one)[0, 0] for one in found)
        fine, error = refine_slices(result, network, plan, spacing, modality, noise, batches, bool(errors))
        affine = torch.from_numpy(grid.upsampled(plan.grid(in_plane)).affine.copy())
        if error is not None and max(in_plane) > 1:
            weights = torch.from_numpy(plan.interpolation).to(error)
            for image, within in zip(error.unbind(0), errors[0].unbind(0), strict=True):
                # Of both steps, which err for reasons of their own: their squares add up.
                image.copy_(torch.hypot(image, (within @ weights.T).clamp(min=0.0)))
        return tuple(MetaTensor(one[None, None], affine=affine) for one in (fine, error) if one is not None)

    def _fill(
        self, inputs: Tensor, network: SliceNetwork, call: Callable[[Tensor, Any], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """Volumes of what ``call`` makes of batches of slices, and of where they lie if the network takes that."""
        # (K, 1, I, J) view: a batch of slices is then a plain range.
        slices = _plain(inputs)[0].movedim(-1, 0)
        grid = _grid(inputs)
        fine, gap_mm = grid.upsampled(network.factors), grid.spacing_mm[2]

        def made_of(start: int, stop: int) -> tuple[Tensor, ...]:
            places_mm = [k * gap_mm for k in range(start, stop)]
            places = {"places_mm": places_mm} if getattr(network, "takes_places", False) else {}
            return call(slices[start:stop].to(self.device), places)

        with torch.no_grad():
            made = [one.to(slices.device) for one in made_of(0, 1)]
            first = made[0]
            if (*first.shape[2:], len(slices)) != fine.shape:
                raise SettingsError(
                    f"The network made a slice of {tuple(first.shape[2:])} of one of {tuple(slices.shape[2:])}, but "
                    f"says that its factor is {network.factors}."
                )
            results = [torch.empty((len(slices), *one.shape[1:]), dtype=one.dtype, device=one.device) for one in made]
            for result, one in zip(results, made, strict=True):
                result[0] = one[0]
            batch = max(1, min(self.batch_size, self.max_batch_pixels // first[0].numel()))
            for start in range(1, len(slices), batch):
                stop = min(start + batch, len(slices))
                for result, one in zip(results, made_of(start, stop), strict=True):
                    result[start:stop] = one
        volumes = tuple(result.movedim(0, -1)[None] for result in results)
        if not isinstance(inputs, MetaTensor):
            return volumes
        return tuple(MetaTensor(one, affine=torch.from_numpy(fine.affine.copy())) for one in volumes)


def _plain(volume: Tensor) -> Tensor:
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume


def _grid(volume: Tensor) -> VolumeGeometry:
    """Of (1, 1, I, J, K); voxels of 1 mm where it has no place."""
    i, j, k = volume.shape[2:]
    return VolumeGeometry((i, j, k), volume.affine.numpy() if isinstance(volume, MetaTensor) else np.eye(4))

"""Slice-wise super-resolution of a volume whose memory is the result's and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from monai_ldmsr.choices import BATCH_PIXELS, BATCH_SIZE, PRECISIONS
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import EstimatingNetwork, PlaneNetwork
from monai_ldmsr.number_settings import whole_number
from monai_ldmsr.settings import one_of
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.through_plane import PlaneBatches, refine_slices
from monai_ldmsr.working_volumes import empty_volume, plain

__all__ = ["VolumeInferer"]

#: Share of a GPU's free memory that batches take: what libraries take for themselves differs from batch to batch.
_SHARE_OF_FREE = 0.7


class VolumeInferer(Inferer):  # type: ignore[misc]  # MONAI carries no types
    """Run a network on all slices of a volume in batches.

    Where the volume's metadata have a ``slice_plan``, as ``PlanSlicesd`` makes it, the result is super-resolved along
    the stack as well, see :func:`~monai_ldmsr.through_plane.refine_slices`.

    Differs from MONAI's ``SliceInferer``, with which it agrees in values, in two points: there is no second volume for
    counting overlaps, and the affine of the result is that of the finer grid (MONAI's keeps the source's).

    Args:
        batch_size: slices in a batch at most; None takes 4, and on a GPU as many as its free memory holds. Where its
            memory is not enough, a batch is halved.
        max_batch_pixels: smaller batches for larger results: output pixels of a batch at most (one slice at least);
            not on a GPU whose memory decides.
        device: where the network runs; the volume stays on the CPU.
        precision: ``float32``, or ``bfloat16`` for convolutions and products (autocast).

    Example:
        >>> from monai_ldmsr.geometry import Factors
        >>> class Twice(torch.nn.Upsample):
        ...     factors = Factors(2, 2)
        >>> VolumeInferer()(torch.zeros(1, 1, 5, 4, 3), Twice(scale_factor=2)).shape
        torch.Size([1, 1, 10, 8, 3])
    """

    def __init__(
        self,
        batch_size: int | None = None,
        max_batch_pixels: int = BATCH_PIXELS,
        device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        self.precision = one_of(PRECISIONS)("precision", precision)
        self.max_batch_pixels = whole_number("max_batch_pixels", max_batch_pixels, 1)
        self.device = torch.device(device)

    def describe(self) -> dict[str, int | str]:
        """What of it may change a result, if only by rounding, for the report."""
        by_memory = self.batch_size is None and self.device.type == "cuda"
        batch = "by memory" if by_memory else self.batch_size or BATCH_SIZE
        return {"batch_size": batch, **({} if self.precision == PRECISIONS[0] else {"precision": self.precision})}

    def with_at_most(self, n_slices: int) -> VolumeInferer:
        """The same with no more slices in a batch than that."""
        most = min(self.batch_size or BATCH_SIZE, n_slices)
        return VolumeInferer(most, self.max_batch_pixels, self.device, self.precision)

    def __call__(self, inputs: Tensor, network: SliceNetwork, *args: Any, **kwargs: Any) -> Tensor:
        """Super-resolve.

        Args:
            inputs: (1, 1, I, J, K) volume; slices lie across the last axis.
            network: (B, 1, I, J) to (B, 1, fI, fJ), which has ``factors``; where it has ``takes_places``, it gets
                ``places_mm``, how far each slice is from the first.
            args: passed to the network: modality and noise.
            kwargs: passed to the network.

        Returns:
            (1, 1, fI, fJ, K) on the CPU, or with as many slices as planned; each contiguous in memory.

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
        batches = PlaneBatches(self.batch_size or BATCH_SIZE, self.max_batch_pixels, self.device)
        result, *errors = (plain(one)[0, 0] for one in found)
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
        slices = plain(inputs)[0].movedim(-1, 0)
        grid = _grid(inputs)
        fine, gap_mm = grid.upsampled(network.factors), grid.spacing_mm[2]

        def made_of(start: int, stop: int) -> tuple[Tensor, ...]:
            places_mm = [k * gap_mm for k in range(start, stop)]
            places = {"places_mm": places_mm} if getattr(network, "takes_places", False) else {}
            return self._called(call, slices[start:stop], places)

        results: tuple[Tensor, ...] = ()
        outlet = _Outlet()
        # The first alone: it shows how large results are, and on a GPU, how much memory a slice takes.
        start, batch, memory = 0, 1, _DeviceMemory(self.device)
        with torch.no_grad():
            while start < len(slices):
                stop = min(start + batch, len(slices))
                try:
                    made = made_of(start, stop)
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if stop - start == 1:
                        raise torch.OutOfMemoryError("not even one slice can be computed") from error
                    batch = memory.smaller(stop - start)
                    continue
                if not start:
                    self._check_size(made[0], slices, fine, network)
                    results = tuple(empty_volume((len(slices), *one.shape[1:])).to(one.dtype) for one in made)
                    batch = memory.batch(self.batch_size, self.max_batch_pixels, made[0].numel())
                outlet.put([result[start:stop] for result in results], made)
                start = stop
            outlet.flush()
        volumes = tuple(result.movedim(0, -1)[None] for result in results)
        if not isinstance(inputs, MetaTensor):
            return volumes
        return tuple(MetaTensor(one, affine=torch.from_numpy(fine.affine.copy())) for one in volumes)

    def _called(
        self, call: Callable[[Tensor, Any], tuple[Tensor, ...]], slices: Tensor, places: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """What ``call`` makes of slices on the device, in the precision that is wanted, as float32."""
        if self.device.type == "cuda":
            slices = slices.contiguous().pin_memory()
        given = slices.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return tuple(one.to(slices.dtype) for one in call(given, places))

    @staticmethod
    def _check_size(made: Tensor, slices: Tensor, fine: VolumeGeometry, network: SliceNetwork) -> None:
        if (*made.shape[2:], len(slices)) != fine.shape:
            raise SettingsError(
                f"The network made a slice of {tuple(made.shape[2:])} of one of {tuple(slices.shape[2:])}, but says "
                f"that its factor is {network.factors}."
            )


def _is_out_of_memory(error: Exception) -> bool:
    # Of a CPU's memory torch says so in words alone.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class _DeviceMemory:
    """How many slices a device has memory for at once."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._held = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)

    def batch(self, most: int | None, most_pixels: int, pixels: int) -> int:
        """Slices in a batch, now that one of so many pixels has been computed alone."""
        if self._device.type != "cuda" or most is not None:
            return max(1, min(most or BATCH_SIZE, most_pixels // pixels))
        taken = torch.cuda.max_memory_allocated(self._device) - self._held
        free = torch.cuda.mem_get_info(self._device)[0] + torch.cuda.memory_reserved(self._device)
        return max(1, int(_SHARE_OF_FREE * (free - self._held) / max(1, taken)))

    def smaller(self, batch: int) -> int:
        """Half of a batch that the memory was not enough for."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return max(1, batch // 2)


class _Outlet:
    """Brings batches from a device into volumes, while the device works on the next one."""

    def __init__(self) -> None:
        self._waiting: tuple[list[Tensor], list[Tensor], Any] | None = None

    def put(self, targets: list[Tensor], made: tuple[Tensor, ...]) -> None:
        """Bring what was made into its targets, now or later."""
        if made[0].device.type != "cuda":
            for target, one in zip(targets, made, strict=True):
                target.copy_(one)
            return
        staged = [torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in made]
        for stage, one in zip(staged, made, strict=True):
            stage.copy_(one, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch carries none for it
        copied.record(torch.cuda.current_stream(made[0].device))
        self.flush()
        self._waiting = targets, staged, copied

    def flush(self) -> None:
        """Bring what waits."""
        if self._waiting is None:
            return
        targets, staged, copied = self._waiting
        copied.synchronize()
        for target, stage in zip(targets, staged, strict=True):
            target.copy_(stage)
        self._waiting = None


def _grid(volume: Tensor) -> VolumeGeometry:
    """Of (1, 1, I, J, K); voxels of 1 mm where it has no place."""
    i, j, k = volume.shape[2:]
    return VolumeGeometry((i, j, k), volume.affine.numpy() if isinstance(volume, MetaTensor) else np.eye(4))

"""What a network must have to super-resolve volumes slice by slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors

__all__ = [
    "EstimatingNetwork",
    "PlaneNetwork",
    "SliceModule",
    "SliceNetwork",
    "count_parameters",
    "on_device",
]


class SliceNetwork(Protocol):
    """A pure call from low-resolution slices to super-resolved ones: nothing is kept from one call to the next.

    What is known of the volume that the slices belong to comes with each call, so that several threads may use one
    network, each for a volume of its own. A bundle's ``network_def`` is such a network.

    Example:
        >>> class Nearest(nn.Module):
        ...     factors = Factors(2, 2, 1)
        ...     def forward(self, slices, modality=None, noise=None):
        ...         return nn.functional.interpolate(slices, scale_factor=2)
        ...     def describe(self, modality=None, noise=None):
        ...         return {}
        >>> network: SliceNetwork = Nearest()
        >>> network(torch.zeros(1, 1, 5, 4), "MR", noise=2.0).shape
        torch.Size([1, 1, 10, 8])
    """

    @property
    def factors(self) -> Factors:
        """How many times finer the result's grid is."""

    def __call__(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        """Super-resolve.

        Args:
            slices: (B, 1, h, w) in model range (about -1 to 1).
            modality: what the volume shows, in DICOM's term; None where that is not known.
            noise: standard deviation of the noise that was measured in the volume, in grey levels of 255 (the model
                range); None where it was not measured.

        Returns:
            (B, 1, f h, f w) in model range, between the same outer faces.
        """

    def describe(self, modality: str | None = None, noise: float | None = None) -> Mapping[str, Any]:
        """What a report and a DICOM header say of a call with these arguments.

        Returns:
            Every number that changes the result, by name. ``seed`` (where noise is drawn) and
            ``evaluations_per_slice`` (1 where it is missing) have places of their own; the others are settings.
        """


@runtime_checkable
class EstimatingNetwork(SliceNetwork, Protocol):
    """A slice network that also knows how far each pixel may be wrong, without running again."""

    def estimates(
        self,
        slices: Tensor,
        modality: str | None = None,
        noise: float | None = None,
        dials: Sequence[float] | None = None,
        places_mm: Sequence[float] | None = None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Super-resolve, and expect the error.

        Args:
            slices: as for a call of the network.
            modality: likewise.
            noise: likewise.
            dials: details (0 to 1) that slices are wanted at; None takes that of a call alone.
            places_mm: how far each slice is from the first one of its volume; only where the network has a true
                ``takes_places``.

        Returns:
            For each dial the slices, equal to a call's in every bit, and their expected absolute errors in model range,
            both (B, 1, f h, f w).
        """


@runtime_checkable
class PlaneNetwork(SliceNetwork, Protocol):
    """A slice network that also super-resolves planes across slices, which lie at places of their own."""

    def describe_planes(self) -> Mapping[str, Any]:
        """What a report and a DICOM header say of such planes beside :meth:`describe`: what changes them, by name."""

    def refine(
        self,
        interpolated: Tensor,
        factors: tuple[float, float],
        modality: str | None = None,
        noise: float | None = None,
        places_mm: Sequence[float] | None = None,
        operator: str = "area",
        strength: float = 1.0,
        width: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Super-resolve what was interpolated to the grid of the result already.

        Args:
            interpolated: (B, 1, H, W) in model range, bicubic.
            factors: how many times finer H and W are than what was measured; whole or not, one may be 1.
            modality: as for a call of the network.
            noise: likewise.
            places_mm: how far each plane is from the first one of its volume.
            operator: how the planes are assumed to have been degraded, one of ``operators.OPERATORS``.
            strength: the dial from mean to sample is multiplied by it.
            width: full width of the slice profile (at half height of a Gaussian) in distances of slices.

        Returns:
            The planes, and their expected absolute errors in model range, both (B, 1, H, W).
        """


class SliceModule(nn.Module):
    """A torch module as ``SliceNetwork``: what is not as one takes it is refused, before torch meets it."""

    def check(self, slices: Tensor, noise: float | None = None, draws: bool = False) -> None:
        """To be called first by ``forward``.

        Args:
            slices: what it was given.
            noise: likewise.
            draws: whether random numbers will be drawn.

        Raises:
            SettingsError: they are no slices (B, 1, h, w) of the weights' type, or the noise is no number from 0; or
                the call is being recorded for another engine, which would not do the same at another size or again.
        """
        if not isinstance(slices, Tensor):
            raise SettingsError(f"Slices are of type {type(slices).__name__}; give a torch tensor (B, 1, h, w).")
        if noise is not None and not (isinstance(noise, float | int) and 0 <= noise < math.inf):
            raise SettingsError(f"noise is {noise!r}; give a number from 0, in grey levels of 255, or None.")
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            raise SettingsError(_NOT_RECORDED.format("torch.jit.trace"))
        if slices.ndim != 4 or slices.shape[1] != 1 or 0 in slices.shape:
            raise SettingsError(
                f"Slices have shape {tuple(slices.shape)}, but (B, 1, h, w) is needed: slices with one channel of grey "
                "values. VolumeInferer takes volumes (1, 1, I, J, K)."
            )
        own = next(self.parameters(), slices).dtype
        if slices.dtype != own and not torch.is_autocast_enabled(slices.device.type):
            raise SettingsError(f"Slices are {slices.dtype}, but the network's weights are {own}. Convert the slices.")
        if draws and torch.compiler.is_exporting():
            raise SettingsError(
                "torch.export would draw other noise at each call. Export the mean (detail=0), write the network with "
                "ldmsr export, or call it."
            )

    def __prepare_scriptable__(self) -> NoReturn:
        """See :meth:`check`."""
        raise SettingsError(_NOT_RECORDED.format("torch.jit.script"))


_NOT_RECORDED = (
    "{} cannot record this network: sizes and noise of the example would stay in it. Call the network itself, or write "
    "it with ldmsr export; torch.compile and, for the mean (detail=0), torch.export give the same values."
)

AnyNetwork = TypeVar("AnyNetwork", bound=SliceNetwork)


def on_device(network: AnyNetwork, device: str | torch.device) -> AnyNetwork:
    """The network ready for inference; one that is no torch module, such as another engine's, is left as it is."""
    module: object = network
    if isinstance(module, nn.Module):
        module.to(device).eval()
    return network


def count_parameters(network: object) -> int:
    """Number of weights of a torch module; 0 for others."""
    return sum(p.numel() for p in network.parameters()) if isinstance(network, nn.Module) else 0

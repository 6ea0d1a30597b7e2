"""How far a run is, counted by what the network has done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import EstimatingNetwork, PlaneNetwork

__all__ = ["CountedNetwork", "Progress", "RunProgress", "RunShare"]


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Args:
        case: name of the case that is worked on.
        number: its number, from 1.
        n_cases: number of cases.
        done: number of its slices that are computed.
        n_slices: number of its slices.
        share: share of the whole run that is computed, by pixels of results.
    """

    case: str
    number: int
    n_cases: int
    done: int
    n_slices: int
    share: float


#: Called after each batch of slices.
Progress = Callable[[RunProgress], None]


class RunShare:
    """How much of a run is computed; what fails is taken out of it."""

    def __init__(self, voxels: list[int]) -> None:
        self._left, self._done = voxels, 0.0

    def count(self, progress: Progress, case: str, number: int, done: int, n_slices: int) -> None:
        """Say how far the run is, of the case that is worked on."""
        here = self._left[number - 1] * done / n_slices
        share = (self._done + here) / max(1, self._done + sum(self._left))
        progress(RunProgress(case, number, len(self._left), done, n_slices, share))

    def end(self, number: int, is_done: bool) -> None:
        """End a case."""
        self._done += self._left[number - 1] if is_done else 0
        self._left[number - 1] = 0


class CountedNetwork:
    """A slice network that reports how many slices it has done."""

    def __init__(self, network: SliceNetwork, n_slices: int, progress: Callable[[int, int], None]) -> None:
        self.network, self.n_slices, self.progress = network, n_slices, progress
        self.factors, self.describe = network.factors, network.describe
        self.done = 0

    @property
    def takes_places(self) -> bool:
        """As the network does."""
        return getattr(self.network, "takes_places", False)

    def __call__(
        self, slices: Tensor, modality: str | None = None, noise: float | None = None, **places: Any
    ) -> Tensor:
        """See ``SliceNetwork``."""
        result = self.network(slices, modality, noise, **places)
        self._count(len(slices))
        return result

    def estimates(self, slices: Tensor, *known: Any, **places: Any) -> list[tuple[Tensor, Tensor]]:
        """See ``EstimatingNetwork``; only asked where the network is one."""
        assert isinstance(self.network, EstimatingNetwork)
        result = self.network.estimates(slices, *known, **places)
        self._count(len(slices))
        return result

    def describe_planes(self) -> Mapping[str, Any]:
        """See ``PlaneNetwork``; only asked where the network is one."""
        assert isinstance(self.network, PlaneNetwork)
        return self.network.describe_planes()

    def refine(self, interpolated: Tensor, *known: Any, **places: Any) -> tuple[Tensor, Tensor]:
        """See ``PlaneNetwork``; only asked where the network is one."""
        assert isinstance(self.network, PlaneNetwork)
        result = self.network.refine(interpolated, *known, **places)
        self._count(len(interpolated))
        return result

    def _count(self, n_slices: int) -> None:
        self.done += n_slices
        self.progress(self.done, self.n_slices)

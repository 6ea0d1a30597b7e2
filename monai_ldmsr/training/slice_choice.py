"""Which slices of each volume travel when not all of them fit: many volumes, few slices of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["SizedVolume", "fitting_counts", "level_shares", "spread_evenly"]


@dataclass(frozen=True)
class SizedVolume:
    """How large a volume's slices are.

    Args:
        group: split and modality; of a split, large modalities give way to small ones.
        n_slices: number of slices that may be kept.
        slice_bytes: compressed size of one of them.
    """

    group: tuple[str, str]
    n_slices: int
    slice_bytes: float

    @property
    def total_bytes(self) -> float:
        """Size of all its slices."""
        return self.n_slices * self.slice_bytes


def spread_evenly(n_slices: int, asked: int) -> list[int]:
    """Indices of exactly ``asked`` slices, or of all if there are fewer, each in the middle of its share.

    Example:
        >>> spread_evenly(9, 3), spread_evenly(3, 2), spread_evenly(2, 5)
        ([1, 4, 7], [0, 2], [0, 1])
    """
    count = min(n_slices, asked)
    return [(2 * n + 1) * n_slices // (2 * count) for n in range(count)]


def level_shares(asked: Sequence[float], available: float) -> list[float]:
    """Give each what it wants up to one common level, so that only the largest give way.

    Example:
        >>> level_shares([10, 40, 50], 70)
        [10, 30.0, 30.0]
    """
    left, shares = available, list(asked)
    order = sorted(range(len(asked)), key=lambda n: asked[n])
    for place, n in enumerate(order):
        shares[n] = min(asked[n], left / (len(order) - place))
        left -= shares[n]
    return shares


def fitting_counts(volumes: Sequence[SizedVolume], available: float) -> list[int]:
    """How many slices of each volume fit in so many bytes, one at least.

    Each split keeps the same share of its bytes; in a split the largest modality gives way first, in a modality the
    largest volumes.

    Args:
        volumes: volumes of all splits and modalities.
        available: bytes.
    """
    total = sum(volume.total_bytes for volume in volumes)
    if total <= available:
        return [volume.n_slices for volume in volumes]
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for n, volume in enumerate(volumes):
        split, modality = volume.group
        groups[split][modality].append(n)
    counts = [1] * len(volumes)
    for modalities in groups.values():
        _level_split(volumes, modalities, available / total, counts)
    return counts


def _level_split(
    volumes: Sequence[SizedVolume], modalities: Mapping[str, Sequence[int]], share: float, counts: list[int]
) -> None:
    asked = [sum(volumes[n].total_bytes for n in members) for members in modalities.values()]
    for members, given in zip(modalities.values(), level_shares(asked, share * sum(asked)), strict=True):
        parts = level_shares([volumes[n].total_bytes for n in members], given)
        for n, part in zip(members, parts, strict=True):
            # A hair more, so that a volume that fits whole does not lose a slice to rounding.
            counts[n] = max(1, min(volumes[n].n_slices, int(part / volumes[n].slice_bytes + 1e-6)))

"""A dataset folder that is searched and read once, however many stages work on it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.training.volumes import MANIFEST

if TYPE_CHECKING:
    from typing_extensions import Self

    from monai_ldmsr.training.discovery import DatasetEntry
    from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["TrainingData", "spoken_counts"]


class TrainingData(os.PathLike[str]):
    """What configs and functions take instead of a dataset folder.

    Args:
        folder: see ``load_training_volumes``.
        limits: the largest volume that is read; None takes the usual ones.
        split_file: see :mod:`monai_ldmsr.training.split_file`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], limits: ReadLimits | None = None, split_file: Path | None = None
    ) -> None:
        self.folder = Path(folder)
        self.limits = limits or DEFAULT_LIMITS
        self.split_file = split_file
        #: Volumes that were read, by split, whether halved, and modality.
        self.kept: dict[tuple[str, bool, str | None], list[TrainingVolume]] = {}
        self._assigned: list[DatasetEntry] = []

    def __fspath__(self) -> str:
        """Return the folder's path."""
        return str(self.folder)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: configs are copied, volumes are not."""
        return self

    def entries(self, split: str) -> list[DatasetEntry]:
        """Volumes of a split, or of all; see ``find_entries``."""
        from monai_ldmsr.training import discovery

        if split == "all" and not self._assigned:
            return discovery.find_entries(self.folder, split, self.limits, self.split_file)
        self._assigned = self._assigned or discovery.assigned_entries(self.folder, self.limits, self.split_file)
        return discovery.of_split(self._assigned, split, self.split_file)

    def rules(self) -> str:
        """By which rules volumes have their patients, and how many each."""
        counts = Counter(entry.rule for entry in self.entries("all"))
        return ", ".join(f"{rule} ({count} volumes)" for rule, count in counts.most_common())

    @property
    def is_listed(self) -> bool:
        """Whether its splits are the user's own."""
        return self.split_file is not None or (self.folder / MANIFEST).is_file()


def spoken_counts(counts: Mapping[str, tuple[int, int]]) -> str:
    """Volumes and patients of each split.

    Example:
        >>> spoken_counts({"train": (5, 3), "test": (1, 1)})
        'train 5 volumes of 3 patients, test 1 volume of 1 patient'
    """
    return ", ".join(
        f"{split} {n} volume{'s' * (n != 1)} of {patients} patient{'s' * (patients != 1)}"
        for split, (n, patients) in counts.items()
    )

"""A dataset folder that is searched and read once, however many stages work on it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.training.packed import is_packed
from monai_ldmsr.training.split_file import write_split
from monai_ldmsr.training.volumes import MANIFEST

if TYPE_CHECKING:
    from typing_extensions import Self

    from monai_ldmsr.training.discovery import DatasetEntry
    from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["TrainingData", "open_dataset", "spoken_counts", "spoken_splits"]


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

        discovery.check_split_name(split)
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


def spoken_counts(volumes: Mapping[str, Sequence[TrainingVolume]]) -> str:
    """Modalities, volumes and patients of each split: ``MR; train 5 volumes of 3 patients, test ...``."""
    modalities = sorted({volume.modality for found in volumes.values() for volume in found})
    said = []
    for split, found in volumes.items():
        patients = len({volume.subject for volume in found})
        said.append(
            f"{split} {len(found)} volume{'s' * (len(found) != 1)} of {patients} patient{'s' * (patients != 1)}"
        )
    return f"{', '.join(modalities)}; {', '.join(said)}"


def open_dataset(folder: Path, own: Path, split: Path | None, limits: ReadLimits | None) -> TrainingData:
    """A dataset in its splits; a training goes on with those that it began with.

    Args:
        folder: the dataset folder.
        own: where a training writes its list of splits, or has written it.
        split: list of splits that was given.
        limits: the largest volume that is read.

    Raises:
        SettingsError: a list was given for a packed dataset.
    """
    if is_packed(folder):
        if split is not None:
            raise SettingsError("The packed dataset has its splits already. Give the list where it is packed from.")
        return TrainingData(folder, limits)
    return TrainingData(folder, limits, own if split is None and own.is_file() else split)


def spoken_splits(data: TrainingData, own: Path) -> Iterator[str]:
    """By which rules there are patients and splits; writes the list of splits where it follows from a rule.

    Args:
        data: a dataset that was read.
        own: where the list is written.

    Raises:
        OutputError: it cannot be written.
    """
    if is_packed(data):
        return
    yield f"a patient is known by: {data.rules()}; names that may be one patient's are taken as one"
    place = f"{own.parent.name}/{own.name}"
    if not data.is_listed:
        write_split(own, data.entries("all"))
        yield f"splits: written to {place}, which names your files and is for you alone; edit it and give it as --split"
    elif data.split_file is not None:
        yield f"splits: as {place if data.split_file == own else data.split_file.name} says"

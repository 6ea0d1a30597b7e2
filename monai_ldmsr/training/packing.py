"""Pack a dataset, or as much of it as may travel; see :mod:`monai_ldmsr.training.packed` for the format."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.storage import file_sha256, partial_folder
from monai_ldmsr.training.packed import INDEX, check_packed, index_text, is_packed
from monai_ldmsr.training.slice_choice import SizedVolume, fitting_counts, spread_evenly
from monai_ldmsr.training.slice_codec import encode_slices, quantisation_step, quantise
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.volumes import MANIFEST, SPLITS, FloatImage, TrainingVolume

__all__ = ["PackedSize", "pack_dataset", "write_packed"]

#: Pixels that are coded together at most.
_BLOCK_PIXELS = 2**22

#: Slices of a volume that are compressed to know how large its others will be.
_SAMPLES = 3

#: Times that a goal is tried, with fewer slices each time.
_TRIES = 5

#: A goal is aimed at a little lower, since sizes are estimated from samples.
_AIM = 0.98


@dataclass(frozen=True)
class PackedSize:
    """What was packed.

    Args:
        n_bytes: size of all files.
        n_parts: number of ``part-*.bin`` files.
        n_volumes: number of volumes.
        n_slices: number of slices of all volumes together.
        of_slices: how many there were to choose from.
    """

    n_bytes: int
    n_parts: int
    n_volumes: int
    n_slices: int
    of_slices: int


def pack_dataset(
    dataset_dir: str | Path,
    packed: str | Path,
    *,
    splits: Sequence[str] = SPLITS,
    megabytes: float | None = None,
    slices: int | None = None,
    part_megabytes: float = 30.0,
    modality: str | None = None,
    limits: ReadLimits | None = None,
) -> PackedSize:
    """Pack what ``ldmsr train`` would take of a dataset: train halved where it was interpolated, other splits as is.

    Args:
        dataset_dir: folder with or without ``manifest.csv``; see :mod:`monai_ldmsr.training.discovery`. Without one,
            volumes are named by a hash, since file names may name patients.
        packed: new or empty folder.
        splits: those of ``SPLITS`` to pack.
        megabytes: see :func:`write_packed`.
        slices: see :func:`write_packed`.
        part_megabytes: see :func:`write_packed`.
        modality: modality of volume files that do not say it.
        limits: the largest volume that is read.

    Raises:
        SettingsError: an argument or the manifest will not do.
        SourceError: a volume cannot be read, or nothing usable is left.
        OutputError: it cannot be written.
    """
    data = Path(dataset_dir)
    unknown = [split for split in splits if split not in SPLITS]
    if unknown or not splits:
        raise SettingsError(f"splits are {list(splits)}; choose from {', '.join(SPLITS)}.")
    if is_packed(data):
        raise SettingsError("The dataset folder is packed already. Pack the folder that it was made from.")
    _check_target(Path(packed))
    volumes = {
        split: load_training_volumes(data, split, split == "train", modality, limits) for split in dict.fromkeys(splits)
    }
    if not (data / MANIFEST).is_file():
        volumes = {split: [_unnamed(volume) for volume in found] for split, found in volumes.items()}
    return write_packed(volumes, packed, megabytes=megabytes, slices=slices, part_megabytes=part_megabytes)


def write_packed(
    volumes: Mapping[str, Sequence[TrainingVolume]],
    packed: str | Path,
    *,
    megabytes: float | None = None,
    slices: int | None = None,
    part_megabytes: float = 30.0,
) -> PackedSize:
    """Write volumes as a packed folder, whole or not at all.

    Args:
        volumes: volumes, by split.
        packed: new or empty folder.
        megabytes: all files together are no larger; evenly spread slices are left out until they fit, of the largest
            modality and of the largest volumes first, and never all of a volume. None keeps all.
        slices: greatest number of slices of each volume, evenly spread.
        part_megabytes: no file is larger.

    Raises:
        SettingsError: an argument will not do, or the goal cannot be met.
        OutputError: it cannot be written.
    """
    for name, number in (("megabytes", megabytes), ("slices", slices), ("part_megabytes", part_megabytes)):
        if number is not None and not number > 0:
            raise SettingsError(f"{name} is {number:g}; give a number above zero.")
    target = Path(packed)
    _check_target(target)
    prepared = [_Prepared.of(volume, split, slices) for split, found in volumes.items() for volume in found]
    goal = float("inf") if megabytes is None else megabytes * 1e6
    sized = [volume.sized() for volume in prepared] if megabytes is not None else []
    aim = goal * _AIM
    for _ in range(_TRIES):
        counts = fitting_counts(sized, aim) if sized else [len(volume.chosen) for volume in prepared]
        try:
            return _write_fitting(prepared, counts, target, int(part_megabytes * 1e6), goal)
        except _TooLargeError as error:
            if max(counts) == 1:
                break
            logging.getLogger(__name__).info("%.1f MB are too much; with fewer slices again", error.n_bytes / 1e6)
            aim *= _AIM * goal / error.n_bytes
    raise SettingsError(
        f"The volumes do not fit in {megabytes:g} MB even with few slices of each. Give more, or fewer splits."
    )


@dataclass(frozen=True)
class _Prepared:
    """A volume with the slices that may be packed."""

    volume: TrainingVolume
    split: str
    step: float
    chosen: Sequence[int]

    @classmethod
    def of(cls, volume: TrainingVolume, split: str, most: int | None) -> _Prepared:
        n_slices = len(volume.slices)
        chosen = spread_evenly(n_slices, n_slices if most is None else most)
        step = quantisation_step([volume.slices[n] for n in chosen], volume.modality, volume.intensity)
        return cls(volume, split, step, chosen)

    def sized(self) -> SizedVolume:
        samples = spread_evenly(len(self.chosen), _SAMPLES)
        blocks = [self.encoded([self.volume.slices[self.chosen[n]]]) for n in samples]
        mean = sum(len(plane) for planes in blocks for plane in planes) / len(blocks)
        return SizedVolume((self.split, self.volume.modality), len(self.chosen), max(mean, 1.0))

    def blocks(self, count: int) -> list[list[FloatImage]]:
        """``count`` evenly spread slices; those of one block have one shape."""
        by_shape: dict[tuple[int, ...], list[FloatImage]] = {}
        for n in spread_evenly(len(self.chosen), count):
            image = self.volume.slices[self.chosen[n]]
            by_shape.setdefault(image.shape, []).append(image)
        found = []
        for images in by_shape.values():
            size = max(1, _BLOCK_PIXELS // images[0].size)
            found += [images[n : n + size] for n in range(0, len(images), size)]
        return found

    def encoded(self, images: Sequence[FloatImage]) -> list[bytes]:
        return encode_slices(np.stack([quantise(image, self.volume.modality, self.step) for image in images]))

    def entry(self, blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        volume = self.volume
        return {
            "name": volume.name,
            "modality": volume.modality,
            "subject": volume.subject,
            "split": self.split,
            "halved": volume.halved,
            "intensity": asdict(volume.intensity),
            "step": self.step,
            "blocks": list(blocks),
        }


@dataclass
class _Parts:
    """Appends blocks to parts of limited size."""

    folder: Path
    limit: int
    sizes: list[int] = field(default_factory=list)

    def add(self, volume: _Prepared, images: Sequence[FloatImage]) -> list[dict[str, Any]]:
        """Write slices of one shape, in several blocks if one is too large for a part."""
        planes = volume.encoded(images)
        size = sum(map(len, planes))
        if size > self.limit and len(images) > 1:
            half = len(images) // 2
            return self.add(volume, images[:half]) + self.add(volume, images[half:])
        if size > self.limit:
            raise SettingsError(
                f"A slice takes {size / 1e6:.2f} MB, but a part may have {self.limit / 1e6:.2f}. Allow larger parts."
            )
        if not self.sizes or self.sizes[-1] + size > self.limit:
            self.sizes.append(0)
        with self.path(len(self.sizes) - 1).open("ab") as stream:
            stream.write(b"".join(planes))
        block = {
            "shape": [len(images), *images[0].shape],
            "part": len(self.sizes) - 1,
            "offset": self.sizes[-1],
            "planes": [len(plane) for plane in planes],
        }
        self.sizes[-1] += size
        return [block]

    def path(self, n: int) -> Path:
        return self.folder / f"part-{n:03d}.bin"

    def entries(self) -> list[dict[str, Any]]:
        paths = [self.path(n) for n in range(len(self.sizes))]
        return [
            {"file": path.name, "bytes": size, "sha256": file_sha256(path)}
            for path, size in zip(paths, self.sizes, strict=True)
        ]


class _TooLargeError(Exception):
    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes


def _write_fitting(
    volumes: Sequence[_Prepared], counts: Sequence[int], target: Path, part_bytes: int, goal: float
) -> PackedSize:
    """Write the folder, or leave nothing and raise ``_TooLargeError`` where its size is above the goal."""
    with partial_folder(target, lambda folder: check_packed(folder, "all")) as folder:
        parts = _Parts(folder, part_bytes)
        entries = [
            volume.entry([block for images in volume.blocks(count) for block in parts.add(volume, images)])
            for volume, count in zip(volumes, counts, strict=True)
        ]
        text = index_text(parts.entries(), entries)
        n_bytes = sum(parts.sizes) + len(text.encode())
        if n_bytes > goal:
            raise _TooLargeError(n_bytes)
        (folder / INDEX).write_text(text, encoding="utf-8")
    kept = sum(block["shape"][0] for entry in entries for block in entry["blocks"])
    of_slices = sum(len(volume.volume.slices) for volume in volumes)
    return PackedSize(n_bytes, len(parts.sizes), len(entries), kept, of_slices)


def _check_target(packed: Path) -> None:
    if packed.exists() and not (packed.is_dir() and not any(packed.iterdir())):
        raise OutputError(f"'{packed.name}' exists already. Choose a new folder, or an empty one.")


def _unnamed(volume: TrainingVolume) -> TrainingVolume:
    digest = hashlib.sha256(f"{volume.subject}/{volume.name}".encode()).hexdigest()[:12]
    return replace(volume, name=digest)

"""What a series will need of memory and disk, by its size; and how a limit of memory is kept to."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_ldmsr.choices import BATCH_PIXELS, BATCH_SIZE, MAX_SLICE_FACTOR
from monai_ldmsr.errors import OutputError, ReasonCode, SourceError
from monai_ldmsr.io.source_size import SourceSize
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.slice_plan import SliceTarget

__all__ = [
    "MemoryBudget",
    "available_bytes",
    "check_disk",
    "check_disk_for",
    "disk_bytes",
    "free_bytes",
    "linear_growth",
    "map_bytes",
    "memory_bytes",
    "scratch_bytes",
    "spoken_bytes",
    "taken_bytes",
    "usual_batch",
]

#: Bytes of a process that has loaded everything and holds no volume (measured: 660 to 750 MB), of a network's work on
#: a pixel of its result (330 for mean and sample, 230 for the mean alone), and of each voxel of source and result (5.5
#: and 7.0), on a CPU.
_LOADED, _PER_BATCH_PIXEL, _PER_SOURCE_VOXEL, _PER_RESULT_VOXEL = 750 * 2**20, 400, 8, 8

#: Of a voxel of source and result where these lie in files, and of an image's headers in source and result (measured).
_PER_VOXEL_IN_FILES, _PER_IMAGE = 0.02, 250_000

#: Bytes on disk of a voxel where these volumes lie in files: of the source as read, as the networks see it and as it is
#: compared, and of the result (measured: 12.5 and 4; with its error 8); what maps hold comes to it.
_SOURCE_IN_FILES, _RESULT_IN_FILES = 13, 4

#: Share of the memory there is that a series may need; if it needs more, its volumes lie in files.
_SHARE = 0.7

#: How many times what a series needs there must be, for memory that is freed to be kept (which takes twice as much).
_PLENTY = 3

#: The same of what maps hold beside: an error and whether it is trusted for each voxel of the result, and what was
#: contradicted for each of the source.
_MAPS = {"none": (0, 0), "error": (0, 5), "all": (4, 5)}

#: Bytes on disk of a voxel of each map (measured on CT, MR and PET: up to 1.5, 0.02 and 2).
_PER_ERROR, _PER_MASK, _PER_CONTRADICTION = 1.5, 0.05, 2.0

#: Pixels of pictures in a report, as so many slices of the result, of about a byte each; and its text.
_PANELS, _REPORT_BYTES = 12, 2**17


def linear_growth(factor: float, slices: SliceTarget) -> float:
    """Square root of how many voxels become of one, at most: what the functions below take as the factor.

    How far apart a source's slices lie is not known before it is read, so that of a wanted distance the finest is
    taken.

    Args:
        factor: factor within slices.
        slices: how fine slices are wanted along the stack.

    Example:
        >>> linear_growth(2, SliceTarget()), linear_growth(1, SliceTarget(factor_slices=4))
        (2.0, 2.0)
    """
    along = (slices.factor_slices or MAX_SLICE_FACTOR) if slices.is_wanted else 1.0
    return float(factor * math.sqrt(along))


def memory_bytes(size: SourceSize, factor: float, n_slices: int = 1, maps: str = "error") -> int:
    """Main memory that a process needs for one series of which ``n_slices`` are computed at once on a CPU."""
    return _LOADED + _held(size, factor, maps) + n_slices * _slice_pixels(size, factor) * _PER_BATCH_PIXEL


def usual_batch(size: SourceSize, factor: float) -> int:
    """How many slices of a series are computed at once where nothing limits it."""
    return max(1, min(BATCH_SIZE, BATCH_PIXELS // max(1, _slice_pixels(size, factor)), size.shape[2]))


def _held(size: SourceSize, factor: float, maps: str) -> int:
    of_source, of_result = _MAPS[maps]
    return math.ceil(size.voxels * (_PER_SOURCE_VOXEL + of_source + factor**2 * (_PER_RESULT_VOXEL + of_result)))


def _held_with_files(size: SourceSize, factor: float) -> int:
    """The same, where volumes lie in files."""
    voxels = size.voxels * (1 + factor**2)
    return math.ceil(voxels * _PER_VOXEL_IN_FILES + size.shape[2] * _PER_IMAGE)


def scratch_bytes(size: SourceSize, factor: float, maps: str = "error", new_slices: bool = False) -> int:
    """Disk space of these files while a series is worked on.

    Args:
        size: size of the source.
        factor: see :func:`linear_growth`.
        maps: which maps are made.
        new_slices: whether there are new slices, before which acquired ones were made finer.
    """
    of_source, of_result = _MAPS[maps]
    steps, written = 2 if new_slices else 1, size.item_bytes if size.is_one_file else 0
    a_voxel = _SOURCE_IN_FILES + of_source + factor**2 * (steps * (_RESULT_IN_FILES + of_result) + written)
    return math.ceil(size.voxels * a_voxel)


def _slice_pixels(size: SourceSize, factor: float) -> int:
    return math.ceil(size.shape[0] * size.shape[1] * factor**2)


def available_bytes(system: Path = Path("/proc/meminfo"), container: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory that the system or the container can still give to this process; None where neither says it.

    Args:
        system: file where Linux says how much memory there is.
        container: folder where it says how much of it a container (cgroup v2) has.
    """
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = system.read_text(encoding="ascii").splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with suppress(OSError, ValueError):  # "max" where nothing limits it
        limit, used = (int((container / name).read_text()) for name in ("memory.max", "memory.current"))
        cache = dict(line.split() for line in (container / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(cache.get("file", 0)))
    return min(found, default=None)


def map_bytes(maps: str, tolerance: float | None, factor: float) -> float:
    """Disk space of maps for each voxel of the result."""
    error = 0.0 if maps == "none" else _PER_ERROR + (0.0 if tolerance is None else _PER_MASK)
    return error + (_PER_CONTRADICTION / factor**2 if maps == "all" else 0.0)


def disk_bytes(size: SourceSize, factor: float, per_voxel: float = 0.0) -> int:
    """Disk space of a result with its report; compressed files are taken to shrink as their sources do.

    Args:
        size: size of the source.
        factor: factor of super-resolution.
        per_voxel: what :func:`map_bytes` gives of the maps that are asked for.
    """
    voxels = size.voxels * factor**2 * (size.item_bytes * size.share + per_voxel)
    return math.ceil(voxels) + size.header_bytes + _REPORT_BYTES + _PANELS * _slice_pixels(size, factor)


def taken_bytes(folder: Path) -> int:
    """Disk space of an earlier result, which its successor frees; nothing where there is none."""
    return sum(Path(at, name).lstat().st_size for at, _, names in os.walk(folder) for name in names)


def free_bytes(folder: Path) -> int:
    """Disk space that is free where a folder lies, or will."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def check_disk(
    sizes: Mapping[str, SourceSize | None],
    folder: Path,
    factor: float,
    per_voxel: float = 0.0,
    memory: MemoryBudget | None = None,
    new_slices: bool = False,
) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        sizes: sizes of the sources, where they are known, by the names of their results.
        folder: parent of the result folders.
        factor: factor of super-resolution.
        per_voxel: see :func:`disk_bytes`.
        memory: memory of the process, by which some series have their volumes in files meanwhile; None: none has.
        new_slices: see :func:`scratch_bytes`.

    Raises:
        OutputError: it is too full.
    """
    known = {name: size for name, size in sizes.items() if size is not None}
    taken = {name: taken_bytes(folder / name) for name in known}
    # An earlier result is freed once its successor stands beside it.
    grown = sum(max(0, disk_bytes(size, factor, per_voxel) - taken[name]) for name, size in known.items())
    in_files = () if memory is None else (size for size in known.values() if memory.needs_files(size, factor))
    scratch = max((scratch_bytes(size, factor, memory.maps, new_slices) for size in in_files if memory), default=0)
    total = grown + max(taken.values(), default=0) + scratch
    free = free_bytes(folder)
    if total > free:
        raise OutputError(
            f"The results need about {spoken_bytes(total)} of disk space, and {spoken_bytes(free)} are free. Nothing "
            "was begun. Free space, choose another output folder, or fewer series by --series, --include and --exclude."
        )


def check_disk_for(sizes: Mapping[str, SourceSize | None], folder: Path, settings: WorkSettings) -> None:
    """The same for what settings ask for.

    Args:
        sizes: see :func:`check_disk`.
        folder: likewise.
        settings: settings of the work.

    Raises:
        OutputError: the disk is too full.
    """
    growth = linear_growth(settings.factor, settings.slices)
    per_voxel = map_bytes(settings.maps, settings.tolerance, growth)
    check_disk(
        sizes, folder, growth, per_voxel, MemoryBudget(settings.memory, settings.maps), settings.slices.is_wanted
    )


def spoken_bytes(n_bytes: float) -> str:
    """A number of bytes as a person says it.

    Example:
        >>> spoken_bytes(3 * 2**30), spoken_bytes(2**20), spoken_bytes(10)
        ('3.0 GB', '1.0 MB', '10 bytes')
    """
    if n_bytes < 2**16:
        return f"{n_bytes:.0f} bytes"
    return f"{n_bytes / 2**30:.1f} GB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MB"


class MemoryBudget:
    """Memory of a process, of which each series takes its part while it is worked on.

    A series whose volumes do not fit has them in files, see :func:`~monai_ldmsr.storage.scratch_files`.

    Args:
        n_bytes: how much there is; None for what the system can give.
        maps: which maps each series has, one of ``choices.MAPS``.
        available: what says how much the system can give.
    """

    def __init__(
        self, n_bytes: int | None = None, maps: str = "error", available: Callable[[], int | None] = available_bytes
    ) -> None:
        self.n_bytes, self.maps, self._available = n_bytes, maps, available
        self._held = 0
        self._changed = threading.Condition()

    def needs_files(self, size: SourceSize, factor: float) -> bool:
        """Whether the volumes of a series must lie in files."""
        available = self._available() if self.n_bytes is None else None
        limit = self.n_bytes if available is None else _SHARE * available
        return limit is not None and memory_bytes(size, factor, maps=self.maps) > limit

    def has_plenty(self, size: SourceSize, factor: float) -> bool:
        """Whether nothing limits the memory of a series, and there is several times as much as it needs."""
        available = self._available() if self.n_bytes is None else None
        return available is not None and _PLENTY * memory_bytes(size, factor, maps=self.maps) < available

    def slices_at_once(self, size: SourceSize, factor: float) -> int | None:
        """How many slices of a series may be computed at once; None for any number.

        Raises:
            SourceError: ``MEMORY_LIMIT`` when not even one may.
        """
        if self.n_bytes is None:
            return None
        needed = self.needed(size, factor)
        if needed > self.n_bytes:
            raise SourceError(
                f"The series needs about {spoken_bytes(needed)} of memory for up to {factor**2:.3g} times its pixels, "
                f"even with its volumes in files, and --memory allows {spoken_bytes(self.n_bytes)}. Give it "
                f"{math.ceil(needed / 2**20)}M or more (memory=... in Python), or use a smaller factor or a larger "
                "slice spacing.",
                ReasonCode.MEMORY_LIMIT,
            )
        left = self.n_bytes - _LOADED - self._of(size, factor)
        return max(1, left // (_slice_pixels(size, factor) * _PER_BATCH_PIXEL or 1))

    def needed(self, size: SourceSize, factor: float, n_slices: int = 1) -> int:
        """Main memory for one series of which so many slices are computed at once, see :func:`memory_bytes`."""
        return _LOADED + self._of(size, factor) + n_slices * _slice_pixels(size, factor) * _PER_BATCH_PIXEL

    def _of(self, size: SourceSize, factor: float) -> int:
        """What a series holds: all of it, or what is left where its volumes lie in files."""
        return _held_with_files(size, factor) if self.needs_files(size, factor) else _held(size, factor, self.maps)

    @contextmanager
    def taken(self, size: SourceSize, factor: float) -> Iterator[None]:
        """Wait until the series fits beside those that are being worked on; the first one always does."""
        if self.n_bytes is None:
            yield
            return
        held, needed = self._of(size, factor), self.needed(size, factor)
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + needed <= self.n_bytes)  # type: ignore[operator]
            self._held += held
        try:
            yield
        finally:
            with self._changed:
                self._held -= held
                self._changed.notify_all()

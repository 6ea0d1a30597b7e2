"""What typical studies and a department need, computed from what was measured.

Seconds of a study are those of the network for each megapixel of the result and those of all other phases (a line over
the size of the result, through the runs of `pipeline.json` with the nearest factor). The network's come from the whole
runs with the nearest factor; `networks.json`, where slices are computed one at a time, says how other sizes and a
sample compare with these. What a process pays once, imports, weights and what first batches take beyond others, is not
in them. Memory and disk are what the package itself reckons with (`monai_ldmsr.needs`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.pipeline import network_time
from monai_ldmsr.io.source_size import SourceSize
from monai_ldmsr.needs import MemoryBudget, disk_bytes, map_bytes, memory_bytes, scratch_bytes, usual_batch

__all__ = ["NIGHT_S", "SERIES", "STUDIES", "Need", "Rates", "Study", "Totals", "totals"]

#: Series of a night in a large department, and how long that is.
SERIES, NIGHT_S = 2000, 12 * 3600.0

#: Once a process: imports, network and weights; and what is counted for each megapixel by itself.
ONCE = ("imports", "network and weights")
_NOT_OTHER = (*ONCE, "network")


@dataclass(frozen=True)
class Study:
    """A series as departments have them.

    Args:
        name: name for people.
        modality: DICOM's term.
        shape: (I, J, K) of the source.
        factor: factor of super-resolution.
        share: share of a department's series.
    """

    name: str
    modality: str
    shape: tuple[int, int, int]
    factor: int
    share: float = 0.0

    @property
    def size(self) -> SourceSize:
        """Size of the source as DICOM, 16 bits a voxel."""
        return SourceSize(self.shape, 2, header_bytes=8192 * self.shape[2])

    @property
    def slice_megapixels(self) -> float:
        """Of a slice of the result."""
        return self.shape[0] * self.shape[1] * self.factor**2 / 1e6


#: Shares are an assumption; the page says so.
STUDIES = (
    Study("brain MR", "MR", (256, 256, 160), 2, 0.25),
    Study("knee MR", "MR", (384, 384, 40), 2, 0.2),
    Study("prostate MR", "MR", (320, 320, 30), 2, 0.15),
    Study("head CT", "CT", (512, 512, 60), 2, 0.15),
    Study("chest CT", "CT", (512, 512, 300), 2, 0.15),
    Study("chest CT", "CT", (512, 512, 300), 4),
    Study("whole-body PET", "PT", (128, 128, 200), 2, 0.1),
)


@dataclass(frozen=True)
class Need:
    """What a study needs.

    Args:
        network_s: seconds of the network.
        other_s: seconds of all other phases.
        memory: bytes of a process that works on it alone, with its volumes in memory.
        disk: bytes of its result.
        source: bytes of its source.
        memory_with_files: bytes of such a process whose volumes lie in files, a slice at a time.
        scratch: bytes of these files.
    """

    network_s: float
    other_s: float
    memory: int
    disk: int
    source: int
    memory_with_files: int
    scratch: int


class Rates:
    """Seconds by size, out of what was measured.

    Args:
        networks: content of a `networks.json`.
        pipeline: content of a `pipeline.json`.

    Attributes:
        whole: by factor, how many times as long a slice takes in whole runs as in the table of networks.
    """

    def __init__(self, networks: Mapping[str, Any], pipeline: Mapping[str, Any]) -> None:
        self._network = {
            (row["key"], one["size"]): row["seconds"]["median"] / (one["size"] ** 2 / 1e6)
            for one in networks["sizes"]
            for row in one["rows"]
            if "seconds" in row
        }
        runs = {factor: [run for run in pipeline["runs"] if run["factor"] == factor] for factor in _factors(pipeline)}
        self._lines = {factor: _line(of, pipeline["size"]) for factor, of in runs.items()}
        # Whole runs and the networks on another device have nothing in common.
        here = networks["machine"]["device"] == pipeline["machine"]["device"]
        self.whole = {factor: self._beside_table(of, pipeline["size"]) if here else 1.0 for factor, of in runs.items()}

    def _beside_table(self, runs: Sequence[Mapping[str, Any]], side: int) -> float:
        """How many times as long the network takes in whole runs as in the table of networks, at the nearest size."""
        timed = [run for run in runs if run["network"] == "real"]
        if not timed:
            return 1.0
        most = max(timed, key=lambda run: run["slices"])
        megapixels = (side * most["factor"]) ** 2 / 1e6
        return network_time(most)[1] / megapixels / self._a_megapixel("mean", megapixels)

    def _a_megapixel(self, key: str, megapixels: float) -> float:
        """Seconds of a row for each megapixel, from the size nearest to that of a slice."""
        sizes = [size for name, size in self._network if name == key]
        return self._network[key, min(sizes, key=lambda size: abs(math.log(size**2 / 1e6 / megapixels)))]

    def is_known(self, study: Study) -> bool:
        """Whether the network was measured as the study's modality has it."""
        return {_row_of(study), "mean"} <= {key for key, _ in self._network}

    def network_s(self, study: Study) -> float:
        """Seconds of the network, from whole runs with the nearest factor and the nearest size of the table."""
        whole = self.whole[min(self.whole, key=lambda factor: abs(factor - study.factor))]
        size = study.slice_megapixels
        return whole * self._a_megapixel(_row_of(study), size) * size * study.shape[2]

    def other_s(self, study: Study) -> float:
        """Seconds of all other phases, from runs with the nearest factor."""
        nearest = min(self._lines, key=lambda factor: abs(factor - study.factor))
        constant, slope = self._lines[nearest]
        return constant + slope * study.slice_megapixels * study.shape[2]

    def need(self, study: Study) -> Need:
        """All that a study needs."""
        size, factor = study.size, study.factor
        return Need(
            self.network_s(study),
            self.other_s(study),
            memory_bytes(size, factor, usual_batch(size, factor)),
            disk_bytes(size, factor, map_bytes("error", None, factor)),
            size.voxels * size.item_bytes + size.header_bytes,
            MemoryBudget(1).needed(size, factor),
            scratch_bytes(size, factor),
        )


def _factors(pipeline: Mapping[str, Any]) -> list[int]:
    return sorted({run["factor"] for run in pipeline["runs"]})


def _row_of(study: Study) -> str:
    return "dial" if study.modality == "MR" else "mean"


def _line(runs: Sequence[Mapping[str, Any]], side: int) -> tuple[float, float]:
    """Seconds without any pixel, and for each megapixel of the result; neither below zero."""
    pixels = np.array([run["slices"] * (side * run["factor"]) ** 2 / 1e6 for run in runs])
    seconds = np.array([sum(s for name, s in run["seconds"].items() if name not in _NOT_OTHER) for run in runs])
    if len(set(pixels.tolist())) > 1:
        slope, constant = np.polyfit(pixels, seconds, 1)
        if slope > 0 and constant > 0:
            return float(constant), float(slope)
    return 0.0, float(seconds.sum() / pixels.sum())


@dataclass(frozen=True)
class Totals:
    """What all series of a night need together, by the shares of the studies.

    Args:
        network_s: seconds of networks on the machine that was measured.
        other_s: likewise of all other phases.
        memory: bytes of the process that needs most.
        disk: bytes of all results.
        source: bytes of all sources.
    """

    network_s: float
    other_s: float
    memory: int
    disk: float
    source: float


def totals(needs: Mapping[Study, Need], n_series: int = SERIES) -> Totals:
    """What ``n_series`` need together.

    Raises:
        ValueError: the shares are not all of it.
    """
    if abs(sum(study.share for study in needs) - 1) > 1e-9:
        raise ValueError(f"The shares of the studies add up to {sum(study.share for study in needs):g}; make them 1.")
    parts = [(n_series * study.share, need) for study, need in needs.items()]
    return Totals(
        sum(n * need.network_s for n, need in parts),
        sum(n * need.other_s for n, need in parts),
        max(need.memory for n, need in parts if n),
        sum(n * need.disk for n, need in parts),
        sum(n * need.source for n, need in parts),
    )

"""One source and what was computed of it, and the outputs that are made of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from monai.data import MetaTensor

from monai_ldmsr.geometry import Factors, ResultGrid, VolumeGeometry
from monai_ldmsr.io import DicomSeries, VolumeFile
from monai_ldmsr.io.written_files import FileCheck
from monai_ldmsr.report import TrustSummary
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.transforms import IntensityMap
from monai_ldmsr.transforms.source import SourceProjection
from monai_ldmsr.uncertainty import ResultMap

__all__ = ["CaseOutput", "ComputedCase", "ResultMap", "WrittenOutput"]


@dataclass(frozen=True, eq=False)
class ComputedCase:
    """One source and what was computed of it.

    Args:
        name: name of the result folder.
        source: what was read.
        result: (1, fI, fJ, fK) in the source's unit.
        intensity: the volume's map to model range.
        projection: how the result was made to agree with the source.
        factors: how many times finer the result's grid is.
        described: what network and inferer say of the call that made the result.
        settings: everything that changes the result, by name.
        times: clock (``time.perf_counter``) at the start, after reading, after super-resolution.
        file_name: name of the volume file that is made of it; empty for what follows from case and source.
        maps: what is known of each voxel beside its value.
        outside: in what the source is unlike what the model was trained for, in words.
        trust: how far the result is to be trusted; None where that is not known.
        changed: settings that differ from the bundle's own: of each, what is ``used`` and what is the ``bundle``'s.
        plan: its new slices; None where its slices are those of the source.
    """

    name: str
    source: DicomSeries | VolumeFile
    result: MetaTensor
    intensity: IntensityMap
    projection: SourceProjection
    factors: Factors
    described: Mapping[str, Any]
    settings: Mapping[str, Any]
    times: tuple[float, float, float]
    file_name: str = ""
    maps: tuple[ResultMap, ...] = ()
    outside: tuple[str, ...] = ()
    trust: TrustSummary | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)
    plan: SlicePlan | None = None

    @property
    def grid(self) -> ResultGrid:
        """How the result's grid lies on the source's."""
        return ResultGrid.of(self.factors) if self.plan is None else self.plan.grid(self.factors.in_plane)

    @cached_property
    def geometry(self) -> VolumeGeometry:
        """Grid of the result."""
        return self.source.geometry.upsampled(self.grid)


@dataclass(frozen=True)
class WrittenOutput:
    """One output of a case, as it was written.

    Args:
        kind: what it is in a few words, such as ``"image series"``.
        files: its files by their names relative to the case's folder, with ``/``: how each is read back from disk.
        n_clipped: voxels that lay outside what the stored type holds.
        series_uid: Series Instance UID, where it is a DICOM series.
    """

    kind: str
    files: Mapping[str, FileCheck]
    n_clipped: int = 0
    series_uid: str = ""


class CaseOutput(Protocol):
    """Makes one thing of each case: an image series, a parametric map, a structured report, a sidecar file.

    What it writes is read back before the folder gets its name, each file by a check of its kind (``io.written_files``
    has some), and stands in the report.
    """

    def write(self, case: ComputedCase, folder: Path) -> WrittenOutput:
        """Write it into the case's folder, which is not in its place yet.

        Raises:
            OutputError: it cannot be written.
        """

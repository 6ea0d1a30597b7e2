"""Run the pipeline over all sources that were found: one result folder, or one reason, for each."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import Inferer
from torch import Tensor

from monai_ldmsr.allocator import reused_memory
from monai_ldmsr.case import CaseOutput
from monai_ldmsr.choices import FORCED
from monai_ldmsr.image_output import BundleModel, HeaderTexts, moment
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.io import AnySource, DicomSeries, ReadLimits, SkippedItem, VolumeFile
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.discovery import list_files, search
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.packed_source import WORK_DIR, PackedSource, remove_unpacked
from monai_ldmsr.io.source_choice import SourceChoice
from monai_ldmsr.io.source_size import SourceSize, known_size, source_size
from monai_ldmsr.needs import MemoryBudget, linear_growth
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import EstimatingNetwork, PlaneNetwork, on_device
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.range_check import RangeCheck, forced_warning
from monai_ldmsr.result_writer import ResultWriter, WrittenCase
from monai_ldmsr.run_progress import CountedNetwork, Progress, RunProgress, RunShare
from monai_ldmsr.run_summary import CaseResult, RunSummary
from monai_ldmsr.slice_plan import SliceTarget
from monai_ldmsr.source_table import SourceTable, source_rows
from monai_ldmsr.storage import scratch_files
from monai_ldmsr.uncertainty import Calibration

__all__ = ["Progress", "RunProgress", "SeriesEvaluator", "SourceDataset"]


#: Side in voxels of the block that the speed of new slices is measured on.
_BLOCK = 64


class SourceDataset(Dataset):  # type: ignore[misc]  # MONAI carries no types
    """The sources below a path as MONAI data set: item ``n`` is read when asked for; a 4D NIfTI file is several.

    Args:
        source: see :func:`~monai_ldmsr.io.find_sources`; None when sources are given one by one to :meth:`read`.
        transform: maps ``{"image": source}``, beginning with ``ReadSourced``, to what the evaluator needs.
        limits: the largest source that is read.
        names: how results are named, see :data:`~monai_ldmsr.io.case_names.NAMINGS`.
        output_dir: folder of results; archives are unpacked in its folder ``.work``, a source at a time. None: among
            the system's temporary files.

    Attributes:
        root: folder that places of sources are relative to.
        found: the sources with the names of their results.
        skipped: what is left out.
        n_not_chosen: how many of both :meth:`choose` took away.
    """

    def __init__(
        self,
        source: str | Path | None,
        transform: Callable[..., Any] | None = None,
        limits: ReadLimits = DEFAULT_LIMITS,
        names: str | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        self.root, self.limits = Path(), limits
        self.work_dir = None if output_dir is None else Path(output_dir) / WORK_DIR
        self.found: list[NamedSource[AnySource]] = []
        self.skipped: list[SkippedItem] = []
        self.n_not_chosen = 0
        self._sizes: dict[str, SourceSize | None] = {}
        if source is not None:
            listing = list_files(Path(source), limits)
            self.root = listing.root
            self.found, self.skipped = search(listing, limits, names=names, work_dir=self.work_dir)
        super().__init__(data=[{"image": one.source} for one in self.found], transform=transform)

    def choose(self, choice: SourceChoice) -> None:
        """Leave out what is not chosen.

        Raises:
            SourceError: ``NOTHING_CHOSEN``.
        """
        self.found, self.skipped, self.n_not_chosen = choice.of(self.found, self.skipped, self.limits)
        self.data = [{"image": one.source} for one in self.found]

    def take(self, other: SourceDataset) -> None:
        """Have what another one found and chose."""
        self.root, self.found, self.skipped = other.root, other.found, other.skipped
        self.n_not_chosen, self.data, self._sizes = other.n_not_chosen, other.data, other._sizes

    def sizes(self) -> dict[str, SourceSize | None]:
        """Sizes of what was found, where headers say them, by the names of their results; looked for once."""
        for one in self.found:
            if one.name not in self._sizes:  # of a volume in an archive it takes unpacking
                self._sizes[one.name] = known_size(one.source, self.limits)
        return {one.name: self._sizes[one.name] for one in self.found}

    def left_out(self) -> RunSummary:
        """What became of what is left out."""
        cases = (CaseResult.of(item.outcome, case=item.case) for item in self.skipped)
        return RunSummary(tuple(cases), self.n_not_chosen)

    def read(self, source: AnySource | DicomSeries | VolumeFile) -> dict[str, Any]:
        """Read one source, as if it were an item; it may be read already."""
        data: dict[str, Any] = {"image": source}
        return data if self.transform is None else self.transform(data)


class SeriesEvaluator:
    """Super-resolve each source of a data set, and write result and report.

    One source that cannot be read, or one that fails, never stops the others.

    Args:
        dataset: a :class:`SourceDataset`.
        network: super-resolves slices.
        inferer: applies the network to a volume (1, 1, I, J, K).
        postprocessing: maps the data with the result under ``pred`` to the source's unit.
        output_dir: gets one folder a case, and ``summary.json``.
        model: identity of the weights.
        settings: what changes the result beside what network, inferer and projection say of themselves.
        device: where the network runs.
        created: time at which the result says that it was made; now when None. See :func:`~monai_ldmsr.super_resolve`.
        series_number: Series Number of DICOM results, see :class:`~monai_ldmsr.io.Derivation`.
        series_description: likewise.
        transfer_syntax: likewise.
        dicom_form: likewise.
        structured_report: whether figures are written as a Structured Report beside each DICOM result.
        outputs: what is made of each case beside images and report.
        maps: whether errors are expected, too: any of ``choices.MAPS`` but ``none``.
        range_check: refuses what the model was not trained for; None refuses nothing.
        calibration: calibration of the weights, for the transforms that make maps; None where there is none.
        changed: see :func:`~monai_ldmsr.bundle_config.changed_settings`; report and headers say so.
        slices: how fine slices are wanted along the stack, as ``PlanSlicesd`` has it; for estimates of memory.

    Attributes:
        memory: how much memory there is for the series that are worked on at once.
    """

    def __init__(
        self,
        dataset: SourceDataset,
        network: SliceNetwork,
        inferer: Inferer,
        postprocessing: Callable[..., Any],
        output_dir: str | Path,
        model: BundleModel,
        settings: Mapping[str, Any],
        device: str | torch.device = "cpu",
        created: datetime | str | None = None,
        series_number: int | None = None,
        series_description: str | None = None,
        transfer_syntax: str = "explicit",
        dicom_form: str = "classic",
        structured_report: bool = False,
        outputs: Sequence[CaseOutput] = (),
        maps: str = "none",
        range_check: RangeCheck | None = None,
        calibration: Calibration | None = None,
        changed: Mapping[str, Any] = MappingProxyType({}),
        slices: SliceTarget = SliceTarget(),  # noqa: B008  # frozen
    ) -> None:
        self.dataset = dataset
        self.network = on_device(network, device)
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.output_dir = Path(output_dir)
        header = HeaderTexts(
            moment(created), series_number, series_description, transfer_syntax, dicom_form, structured_report
        )
        self.writer = ResultWriter(model, self.network, settings, str(device), header, outputs, changed)
        self.range_check, self.calibration, self.slices = range_check, calibration, slices
        self._expects_errors = maps != "none" and isinstance(self.network, EstimatingNetwork)
        self.summary = RunSummary(())
        self.memory = MemoryBudget()
        self._device_is_free = threading.Lock()

    def run(self, progress: Progress | None = None, table: SourceTable | None = None) -> RunSummary:
        """Work on all sources.

        Args:
            progress: called after each batch of slices.
            table: written at the start and at the end: who is who.

        Raises:
            OutputError: when not even the summary can be written.
        """
        log = logging.getLogger(__name__)
        found = self.dataset.found
        self.summary = self.dataset.left_out()
        cases = [*self.summary.cases]
        if self.dataset.work_dir is not None:
            remove_unpacked(self.dataset.work_dir)
        # Written before the first slice is computed: an output folder that cannot be used is found at once.
        self.summary.write_json(self.output_dir / "summary.json")
        rows = [] if table is None else source_rows(found, self.dataset.skipped, self.dataset.root, self.dataset.limits)
        if table is not None:
            table.write(rows, self.summary)
        share = RunShare([0 if size is None else size.voxels for size in self.dataset.sizes().values()])
        for n, one in enumerate(found, start=1):
            log.info("%d of %d: %s", n, len(found), one.name)
            count = None if progress is None else partial(share.count, progress, one.name, n)
            cases.append(self.attempt(one.source, one.name, self.output_dir, count))
            share.end(n, cases[-1].status == "done")
            log.info("%s: %s %s", one.name, cases[-1].status, cases[-1].message)
            self.summary = RunSummary(tuple(cases), self.dataset.n_not_chosen)
            self.summary.write_json(self.output_dir / "summary.json")
        if table is not None:
            table.write(rows, self.summary)
        if self.dataset.work_dir is not None:
            remove_unpacked(self.dataset.work_dir)
        return self.summary

    def leave(self) -> None:
        """End the process with the summary's exit code unless all went well (for ``monai.bundle run``)."""
        if self.summary.exit_code:
            raise SystemExit(self.summary.exit_code)

    def attempt(
        self,
        source: AnySource,
        case: str,
        output_dir: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> CaseResult:
        """Work on one source as :meth:`process` does; whatever keeps it from a result becomes the reason."""
        start = time.perf_counter()
        try:
            written = self.process(source, case, output_dir, progress)
        except Exception as error:
            return CaseResult.of_error(error, case=case, duration_s=time.perf_counter() - start)
        return CaseResult(
            "done",
            message=forced_warning(written.report.settings.get(FORCED, "")),
            case=case,
            warnings=written.report.warnings,
            series_uid=written.series_uid,
            n_slices=written.report.result.shape[2],
            duration_s=written.report.duration_s.total or 0.0,
            files=written.files,
        )

    def process(
        self,
        source: AnySource,
        case: str,
        output_dir: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> WrittenCase:
        """Work on one source.

        Several threads may call this: the device takes one volume at a time, while others are read and written.

        Args:
            source: series, volume file or volume of a 4D file.
            case: name of the result folder.
            output_dir: parent of the result folder.
            progress: called after each batch of slices: how many are done, and how many there are.

        Raises:
            Exception: whatever keeps it from a result, wrapped by MONAI's transforms perhaps; see :meth:`attempt`.
        """
        with ExitStack() as stack:
            size = self._size(source) if self.memory.n_bytes else self._size_if_known(source)
            if size is not None:
                stack.enter_context(self.memory.taken(size, self._factor))
                in_files = self.memory.needs_files(size, self._factor)
                stack.enter_context(scratch_files(output_dir / WORK_DIR if in_files else None))
                stack.enter_context(reused_memory(self.memory.has_plenty(size, self._factor)))
            data, times, described = self.compute(source, progress)
            return self.writer.write(data, case, output_dir, times, described)

    def compute(
        self, source: AnySource | DicomSeries | VolumeFile, progress: Callable[[int, int], None] | None = None
    ) -> tuple[dict[str, Any], tuple[float, float, float], dict[str, Any]]:
        """Super-resolve one source, which may be read already, and write nothing.

        Returns:
            What :meth:`~monai_ldmsr.result_writer.ResultWriter.write` takes: the data with ``source`` and the result
            under ``pred`` (1, fI, fJ, K) in the source's unit, times, and what network and inferer say of the call.
        """
        start = time.perf_counter()
        inferer = self._bounded(source)
        data = self.dataset.read(source)
        read = time.perf_counter()
        volume = data["image"][None]
        known = (data["source"].modality, volume_noise(volume))
        network = self.network if progress is None else CountedNetwork(self.network, self._calls(data), progress)
        ready = time.perf_counter()
        with self._device_is_free:
            waited = time.perf_counter() - ready
            forced = self._checked(data)
            data |= self._inferred(inferer, volume, network, known)
        described = {**forced, **self.network.describe(*known), **getattr(inferer, "describe", dict)()}
        if "pred_plan" in data and isinstance(self.network, PlaneNetwork):
            described |= self.network.describe_planes()
        data |= {"image_noise": known[1], "pred_described": described, "calibration": self.calibration}
        data = self.postprocessing(data)
        return data, (start + waited, read + waited, time.perf_counter()), described

    def speed(self, source: AnySource) -> tuple[float, float]:
        """Seconds for reading a voxel of a source, and for computing one of its result, by its middle slice.

        Raises:
            Exception: see :meth:`process`.
        """
        start = time.perf_counter()
        inferer, data = self._bounded(source), self.dataset.read(source)
        read_s = time.perf_counter() - start
        volume = data["image"][None]
        known = (data["source"].modality, volume_noise(volume))
        part = _middle(volume, data.get("pred_plan") is not None)
        # What is only done once, such as a GPU's start or the choice of kernels for this size, is not measured.
        self._inferred(inferer, part, self.network, known)
        start = time.perf_counter()
        result = self._inferred(inferer, part, self.network, known)["pred"]
        return read_s / volume.numel(), (time.perf_counter() - start) / result.numel()

    def _calls(self, data: Mapping[str, Any]) -> int:
        """Slices, and planes across them, that the network is called with."""
        i, j, k = data["source"].geometry.shape
        across = i * self.network.factors.i + j * self.network.factors.j if "pred_plan" in data else 0
        return int(k + across)

    def _checked(self, data: dict[str, Any]) -> dict[str, str]:
        """Refuse what lies outside; add what the report says of it; and what was overridden, for the headers, too."""
        data["outside"] = ()
        if self.range_check is None:
            return {}
        data["outside"], overridden = self.range_check(data["source"], data["image"], data["image_intensity"])
        return {FORCED: overridden} if overridden else {}

    def _inferred(
        self, inferer: Inferer, volume: Tensor, network: SliceNetwork, known: tuple[str, float]
    ) -> dict[str, Tensor]:
        """The result, and where they are wanted and known the errors that are expected, in model range."""
        if self._expects_errors and isinstance(inferer, VolumeInferer) and isinstance(network, EstimatingNetwork):
            result, error = inferer.estimate(volume, network, *known)
            return {"pred": result[0], "pred_error": error[0]}
        return {"pred": inferer(volume, network, *known)[0]}

    def _bounded(self, source: AnySource | DicomSeries | VolumeFile) -> Inferer:
        """The inferer, with as many slices at once as the memory allows."""
        n_slices = self.memory.slices_at_once(self._size(source), self._factor) if self.memory.n_bytes else None
        if n_slices is None or not isinstance(self.inferer, VolumeInferer):
            return self.inferer
        return self.inferer.with_at_most(n_slices)

    @property
    def _factor(self) -> float:
        return linear_growth(math.ceil(math.sqrt(self.network.factors.i * self.network.factors.j)), self.slices)

    def _size(self, source: AnySource | DicomSeries | VolumeFile) -> SourceSize:
        if isinstance(source, DicomSeries | VolumeFile):
            return SourceSize(source.geometry.shape, source.voxels.itemsize)
        return source_size(source, self.dataset.limits)

    def _size_if_known(self, source: AnySource | DicomSeries | VolumeFile) -> SourceSize | None:
        """The same; None for what lies in an archive, which would be unpacked for it, and what cannot be read."""
        if isinstance(source, DicomSeries | VolumeFile):
            return self._size(source)
        return None if isinstance(source, PackedSource) else known_size(source, self.dataset.limits)


def _middle(volume: Tensor, across: bool) -> Tensor:
    """What a volume's speed is measured on: its middle slice, or where new slices are made, a block about its stack."""
    if not across:
        return volume[..., volume.shape[-1] // 2, None]
    i, j = ((n - min(n, _BLOCK)) // 2 for n in volume.shape[2:4])
    return volume[..., i : i + _BLOCK, j : j + _BLOCK, :]

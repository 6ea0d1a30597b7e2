"""Run the pipeline over all sources that were found: one result folder, or one reason, for each."""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import Inferer
from torch import Tensor

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import CorruptSourceError, LdmsrError, OutputError, ReasonCode, SkippedSourceError
from monai_ldmsr.io import NiftiVolume, ReadLimits, SeriesFiles, SkippedItem, find_sources, split_volumes, volume_case
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.networks.super_resolver import SuperResolver
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.result_writer import BundleModel, ResultWriter, moment

__all__ = ["CaseResult", "Progress", "RunSummary", "SeriesEvaluator", "SourceDataset"]

#: Called with the case, its number from 1, the number of cases, and the done and total slices.
Progress = Callable[[str, int, int, int, int], None]


@dataclass(frozen=True)
class CaseResult:
    """What became of one series or file.

    Args:
        case: name of the result's folder; no patient data.
        status: ``done``, ``skipped`` (nothing for this software) or ``failed`` (refused, damaged, or an error).
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode`, empty when done.
        message: one sentence for a person.
        corrupt: whether the source's bytes are damaged.
    """

    case: str
    status: str
    reason: str = ""
    message: str = ""
    corrupt: bool = False


@dataclass(frozen=True)
class RunSummary:
    """All cases of a run, and the exit code that follows from them."""

    cases: tuple[CaseResult, ...]

    @property
    def exit_code(self) -> int:
        """0 all done, 2 nothing usable found, 4 input corrupt, 7 cannot write, 8 some series failed."""
        failed = [case for case in self.cases if case.status == "failed"]
        if any(case.reason == ReasonCode.CANNOT_WRITE for case in failed):
            return 7
        if any(case.status == "done" for case in self.cases):
            return 8 if failed else 0
        if any(case.reason == ReasonCode.INTERNAL_ERROR for case in failed):
            return 8
        return 4 if any(case.corrupt for case in failed) else 2

    def write_json(self, path: Path) -> None:
        """Write ``summary.json``, replaced as a whole.

        Raises:
            OutputError: when it cannot be written.
        """
        cases = [{key: value for key, value in asdict(case).items() if key != "corrupt"} for case in self.cases]
        text = json.dumps({"version": __version__, "notice": RESEARCH_NOTICE, "series": cases}, indent=2)
        partial = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(
                f"summary.json cannot be written: {error.strerror}. Choose another output folder."
            ) from None


class SourceDataset(Dataset):  # type: ignore[misc]  # MONAI carries no types
    """The sources below a path as MONAI data set: item ``n`` is read when asked for; a 4D NIfTI file is several.

    Args:
        source: folder or file.
        transform: maps ``{"image": SeriesFiles, Path or NiftiVolume}`` to what the evaluator needs.
        limits: the largest source that is read.
    """

    def __init__(
        self, source: str | Path, transform: Callable[..., Any] | None = None, limits: ReadLimits = DEFAULT_LIMITS
    ) -> None:
        found, self.skipped = find_sources(source, limits)
        items = [{"image": item} for item in split_volumes(found, limits)]
        super().__init__(data=items, transform=transform)


class SeriesEvaluator:
    """Super-resolve each source of a data set, and write result and report.

    One source that cannot be read, or one that fails, never stops the others.

    Args:
        dataset: a :class:`SourceDataset`.
        network: LR slices (B, 1, h, w) to SR slices (B, 1, fh, fw).
        inferer: applies the network to a volume (1, 1, I, J, K).
        postprocessing: maps the data with the result under ``pred`` to the source's unit.
        output_dir: gets one folder a case, and ``summary.json``.
        model: identity of the weights.
        settings: every number that changes the result, for report and derivation.
        device: where the network runs.
        created: when the result says that it was made; now when None. See :func:`~monai_ldmsr.super_resolve`.
    """

    def __init__(
        self,
        dataset: SourceDataset,
        network: SuperResolver,
        inferer: Inferer,
        postprocessing: Callable[..., Any],
        output_dir: str | Path,
        model: BundleModel,
        settings: Mapping[str, Any],
        device: str | torch.device = "cpu",
        created: datetime | str | None = None,
    ) -> None:
        self.dataset = dataset
        self.network = network.to(device).eval()
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.output_dir = Path(output_dir)
        self.writer = ResultWriter(model, network, settings, str(device), moment(created))
        self.summary = RunSummary(())

    def run(self, progress: Progress | None = None) -> RunSummary:
        """Work on all sources.

        Args:
            progress: told after each batch of slices.

        Raises:
            OutputError: when not even the summary can be written.
        """
        log = logging.getLogger(__name__)
        cases = [_skipped(item) for item in self.dataset.skipped]
        # Written before the first slice is computed: an output folder that is no good is found out at once.
        self.summary = RunSummary(tuple(cases))
        self.summary.write_json(self.output_dir / "summary.json")
        names = list(_unique_cases(self.dataset.data))
        for n, case in enumerate(names):
            log.info("%d of %d: %s", n + 1, len(names), case)
            cases.append(self._attempt(n, case, _slice_counter(progress, case, n + 1, len(names))))
            log.info("%s: %s %s", case, cases[-1].status, cases[-1].message)
            self.summary = RunSummary(tuple(cases))
            self.summary.write_json(self.output_dir / "summary.json")
        return self.summary

    def leave(self) -> None:
        """End the process with the summary's exit code unless all went well (for ``monai.bundle run``)."""
        if self.summary.exit_code:
            raise SystemExit(self.summary.exit_code)

    def _attempt(self, n: int, case: str, progress: Callable[[int, int], None]) -> CaseResult:
        try:
            self._process(n, case, progress)
        except Exception as error:
            return _failed(case, error)
        return CaseResult(case, "done")

    def _process(self, n: int, case: str, progress: Callable[[int, int], None]) -> None:
        start = time.perf_counter()
        data = self.dataset[n]
        read = time.perf_counter()
        volume: Tensor = data["image"]
        if isinstance(self.network, SuperResolver):
            self.network.use_modality(data["source"].modality)
        done = 0

        def network(slices: Tensor) -> Tensor:
            nonlocal done
            result: Tensor = self.network(slices)
            done += len(slices)
            progress(done, volume.shape[-1])
            return result

        data["pred"] = self.inferer(volume[None], network)[0]
        data = self.postprocessing(data)
        self.writer.write(data, case, self.output_dir, (start, read, time.perf_counter()))


def _slice_counter(progress: Progress | None, case: str, number: int, total: int) -> Callable[[int, int], None]:
    def count(done: int, slices: int) -> None:
        if progress is not None:
            progress(case, number, total, done, slices)

    return count


def _skipped(item: SkippedItem) -> CaseResult:
    message = f"{item.message} ({item.n_files} {'file' if item.n_files == 1 else 'files'})"
    return CaseResult(item.case, "failed" if item.failed else "skipped", item.reason.value, message, item.corrupt)


def _failed(case: str, error: BaseException) -> CaseResult:
    """Tell a refusal from damage and from our own mistakes; MONAI's transforms wrap what they meet."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LdmsrError):
        cause = cause.__cause__
    if isinstance(cause, LdmsrError):
        status = "skipped" if isinstance(cause, SkippedSourceError) else "failed"
        return CaseResult(case, status, cause.reason.value, str(cause), isinstance(cause, CorruptSourceError))
    logging.getLogger(__name__).debug("unexpected error: %s", _places(error))
    message = f"Unexpected {type(error).__name__}. Run again with logging level DEBUG and report it."
    return CaseResult(case, "failed", ReasonCode.INTERNAL_ERROR.value, message)


def _places(error: BaseException | None) -> str:
    """Types and code lines of an error and its causes: their texts may hold a path or a patient's attribute."""
    said = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        said.append(f"{type(error).__name__} at {lines}")
        error = error.__cause__ or error.__context__
    return "; because of ".join(said)


def _unique_cases(items: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Folder names: the series' hash, or the file's stem, numbered when two are the same; a file's volumes alike."""
    # Some file systems do not tell upper from lower case.
    taken = {"summary.json"}
    sources = [item["image"] for item in items]
    for _, group in itertools.groupby(sources, lambda item: item.file if isinstance(item, NiftiVolume) else item):
        names = [_name_and_suffix(source) for source in group]
        for n in itertools.count(1):
            unique = [f"{name}{suffix}" if n == 1 else f"{name}-{n}{suffix}" for name, suffix in names]
            if taken.isdisjoint(candidate.lower() for candidate in unique):
                break
        taken.update(candidate.lower() for candidate in unique)
        yield from unique


def _name_and_suffix(source: SeriesFiles | NiftiVolume | Path) -> tuple[str, str]:
    if isinstance(source, NiftiVolume):
        return volume_case(source.file.path), source.suffix
    return source.case if isinstance(source, SeriesFiles) else volume_case(source), ""

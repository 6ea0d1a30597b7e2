"""Studies out of a PACS into a folder, series by series: each whole or not at all, and never twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ldmsr.errors import PeerError, ReasonCode, SettingsError
from monai_ldmsr.io.dicom_header import CLASSIC
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.outcome import Outcome, exit_code
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.dimse import IMAGE_CLASSES
from monai_ldmsr.pacs.finding import FoundSeries, SeriesQuery, find_by_dicom, find_by_dicomweb
from monai_ldmsr.pacs.instances import instance_name, series_digest
from monai_ldmsr.pacs.peers import DEFAULT_CALLER, Caller, DicomPeer, DicomwebPeer
from monai_ldmsr.pacs.retrieval import (
    DEFAULT_MOVE_TARGET,
    GetRetrieval,
    MoveRetrieval,
    MoveTarget,
    Retrieval,
    WadoRetrieval,
)
from monai_ldmsr.pacs.store_server import DEFAULT_RECEIVER_LIMITS, ReceiverLimits
from monai_ldmsr.storage import output_errors, partial_folder

__all__ = ["METHODS", "FetchSummary", "FetchedSeries", "MoveTarget", "SeriesQuery", "fetch"]

METHODS = ("get", "move", "wado")


@dataclass(frozen=True, kw_only=True)
class FetchedSeries(Outcome):
    """What became of one series: ``found`` in a dry run.

    Args:
        series: folder below the destination; no patient data.
        modality: Modality, as the PACS lists it.
        n_images: number of images that the PACS lists.
        n_fetched: images that were fetched now; 0 where all were here.
    """

    series: str
    modality: str
    n_images: int
    n_fetched: int = 0


@dataclass(frozen=True)
class FetchSummary:
    """All series that were found, and the exit code that follows from them."""

    series: tuple[FetchedSeries, ...]

    @property
    def exit_code(self) -> int:
        """See :func:`~monai_ldmsr.outcome.exit_code`."""
        return exit_code(self.series)


def fetch(
    peer: DicomPeer | DicomwebPeer,
    destination: Path,
    query: SeriesQuery,
    *,
    caller: Caller = DEFAULT_CALLER,
    method: str | None = None,
    move: MoveTarget = DEFAULT_MOVE_TARGET,
    limits: ReceiverLimits = DEFAULT_RECEIVER_LIMITS,
    dry_run: bool = False,
    progress: Callable[[FetchedSeries], None] | None = None,
) -> FetchSummary:
    """Fetch the series that match into ``destination/<study>/<series>/``, whose names are digests.

    A series that is there already is compared image by image with what the PACS lists: only what is missing is fetched,
    and what the PACS no longer lists is left out. One series that fails never stops the others.

    Args:
        peer: the PACS to fetch from.
        destination: made when missing.
        query: which series to fetch.
        caller: how we present ourselves.
        method: ``get`` or ``move`` for DICOM, ``wado`` for DICOMweb; None takes ``get`` or ``wado``.
        move: see :class:`MoveTarget`.
        limits: what one image may have.
        dry_run: find and count series, and fetch nothing.
        progress: called after each series.

    Raises:
        SettingsError: the method does not go with the peer, or an argument is impossible.
        PeerError: the PACS cannot be asked.
    """
    fitting = ("wado",) if isinstance(peer, DicomwebPeer) else ("get", "move")
    if method is not None and method not in fitting:
        raise SettingsError("The method is get or move for AET@HOST:PORT, and wado for http(s)://HOST/PATH.")
    summary = []
    with ExitStack() as opened:
        if isinstance(peer, DicomwebPeer):
            client = opened.enter_context(DicomwebClient(peer, caller))
            found = find_by_dicomweb(client, query)
            retrieval: Retrieval = WadoRetrieval(client, limits)
        else:
            found = find_by_dicom(peer, caller, query)
            retrieval = GetRetrieval(peer, caller, limits)
        if found and not dry_run:
            with output_errors("The folder to fetch into"):
                destination.mkdir(parents=True, exist_ok=True)
            if method == "move" and isinstance(peer, DicomPeer):
                retrieval = opened.enter_context(MoveRetrieval(peer, caller, destination, move, limits))
        for series in found:
            summary.append(_fetched(series, None if dry_run else retrieval, destination, limits.min_free_bytes))
            if progress is not None:
                progress(summary[-1])
    return FetchSummary(tuple(summary))


def _fetched(found: FoundSeries, retrieval: Retrieval | None, destination: Path, min_free_bytes: int) -> FetchedSeries:
    """Fetch a series; without a retrieval only say that it was found."""
    study, series = case_digest(found.study), series_digest(found.study, found.series)
    about: dict[str, Any] = {"series": f"{study}/{series}", "modality": found.modality, "n_images": len(found.uids)}
    skipped = _skip_reason(found)
    if skipped is not None:
        return FetchedSeries("skipped", skipped[0].value, skipped[1], **about)
    if retrieval is None:
        return FetchedSeries("found", **about)
    try:
        with output_errors("The series"):
            n_fetched = _fetch_series(found, retrieval, destination / study / series, min_free_bytes)
    except Exception as error:
        return FetchedSeries.of_error(error, **about)
    return FetchedSeries("done", **about, n_fetched=n_fetched)


def _skip_reason(found: FoundSeries) -> tuple[ReasonCode, str] | None:
    if found.modality not in CLASSIC.values():
        return ReasonCode.UNSUPPORTED_MODALITY, "Only series of the modalities CT, MR and PT are fetched."
    if found.classes and not found.classes <= set(IMAGE_CLASSES):
        return ReasonCode.UNSUPPORTED_SOP_CLASS, "The series holds other objects than CT, MR and PET images."
    if not found.uids:
        return ReasonCode.PACS_INCOMPLETE, "The PACS lists the series, but no image of it."
    return None


def _fetch_series(found: FoundSeries, retrieval: Retrieval, folder: Path, min_free_bytes: int) -> int:
    """Make ``folder`` hold the images that the PACS lists, and return how many were fetched."""
    wanted = {instance_name(uid): uid for uid in found.uids}
    here = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if here == set(wanted):
        return 0
    missing = [uid for name, uid in wanted.items() if name not in here]
    free = shutil.disk_usage(folder.parents[1]).free
    if free < min_free_bytes:
        raise PeerError(f"{free} bytes of disk are free; the limit is {min_free_bytes}.", ReasonCode.PACS_DISK_FULL)
    with partial_folder(folder) as partial:
        for name in here & set(wanted):
            os.link(folder / name, partial / name)
        if missing:
            retrieval.retrieve(found, missing, partial)
        n_here = sum(1 for _ in partial.iterdir())
        if n_here != len(wanted):
            raise PeerError(
                f"The PACS lists {len(wanted)} images, and {n_here} came: nothing of the series is kept.",
                ReasonCode.PACS_INCOMPLETE,
            )
    return len(missing)

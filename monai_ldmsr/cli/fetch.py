"""``ldmsr fetch``: studies out of a PACS into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, limits_of
from monai_ldmsr.cli.pacs_arguments import add_caller_options, add_listening_options, caller_of

if TYPE_CHECKING:
    from monai_ldmsr.pacs.fetching import FetchedSeries, FetchSummary

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``fetch`` to the command's parser."""
    fetch = add_command(
        commands,
        "fetch",
        "fetch studies from a PACS into a folder",
        "Find CT, MR and PET series on a PACS and fetch those that match into DEST/<study>/<series>/, whose names are "
        "digests. Each series comes whole or not at all; run again, only what is missing is fetched.",
    )
    fetch.add_argument("peer", metavar="PEER", help="AET@HOST:PORT (DICOM) or http(s)://HOST/PATH (DICOMweb)")
    fetch.add_argument("destination", metavar="DEST", type=Path, help="folder to fetch into; made when missing")
    fetch.add_argument("--study", default="", metavar="UID", help="Study Instance UID")
    fetch.add_argument("--series", default="", metavar="UID", help="Series Instance UID: only this one of the studies")
    fetch.add_argument("--date", default="", help="date of the study: 20260131, or a range 20260101-20260131")
    fetch.add_argument("--modality", default="", help="modality of the series: CT, MR or PT")
    fetch.add_argument("--accession", default="", metavar="NUMBER", help="accession number")
    fetch.add_argument(
        "--method",
        choices=["get", "move", "wado"],
        help="C-GET, C-MOVE (the PACS must know our AE title, address and --port) or WADO (default: get, or wado)",
    )
    fetch.add_argument("--dry-run", action="store_true", help="find and count series, and fetch nothing")
    add_listening_options(fetch, "TCP port that C-MOVE sends to")
    add_caller_options(fetch)
    add_limit_option(fetch)
    fetch.set_defaults(command=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.pacs.peers import parse_peer

    peer = parse_peer(arguments.peer)  # before packages that may be missing are asked for
    from monai_ldmsr.pacs.fetching import MoveTarget, SeriesQuery, fetch
    from monai_ldmsr.pacs.store_server import ReceiverLimits

    query = SeriesQuery(
        arguments.study, arguments.series, arguments.date, arguments.modality.upper(), arguments.accession
    )
    summary = fetch(
        peer,
        arguments.destination,
        query,
        caller=caller_of(arguments),
        method=arguments.method,
        move=MoveTarget(arguments.port, arguments.address, tuple(arguments.allow)),
        limits=ReceiverLimits(read=limits_of(arguments)),
        dry_run=arguments.dry_run,
        progress=_print_series,
    )
    _print_summary(summary)
    return summary.exit_code


def _print_series(series: FetchedSeries) -> None:
    said = f"{series.status:8} {series.series} {series.modality:3} {series.n_images:5} images"
    if series.reason:
        said += f": {series.reason}: {series.message}"
    elif series.status == "done":
        said += f", {series.n_fetched} fetched" if series.n_fetched else ", all here"
    print(said, flush=True)


def _print_summary(summary: FetchSummary) -> None:
    if not summary.series:
        print("The PACS has no series that matches.")
    kinds = ("done", "found", "skipped", "failed")
    counts = {status: sum(series.status == status for series in summary.series) for status in kinds}
    n_images = sum(series.n_images for series in summary.series if series.status in ("done", "found"))
    print(", ".join(f"{n} {status}" for status, n in counts.items() if n or status == "done") + f"; {n_images} images")

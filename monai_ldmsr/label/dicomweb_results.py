"""Results as derived DICOM series beside their sources, at the DICOMweb service that MONAI Label works on."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.convert import dicom_to_nifti
from monailabel.datastore.utils.dicom import dicom_web_download_series
from requests.adapters import HTTPAdapter

from monai_ldmsr.errors import LdmsrError, PeerError, ReasonCode, SourceError
from monai_ldmsr.io.discovery import find_dicom_series
from monai_ldmsr.io.formats import CLIENT_EXTENSIONS
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.label.inference import InferenceTurn, Inferred, infer
from monai_ldmsr.label.options import settings_digest
from monai_ldmsr.label.results import LabelResult, record_of
from monai_ldmsr.pacs.dicomweb import DicomwebClient, value_of
from monai_ldmsr.pacs.dimse import failure_of
from monai_ldmsr.pacs.fetching import fetch
from monai_ldmsr.pacs.finding import FoundSeries, SeriesQuery, find_by_dicomweb
from monai_ldmsr.pacs.instances import is_uid
from monai_ldmsr.pacs.peers import Caller, DicomwebPeer
from monai_ldmsr.pacs.sending import images_below, instance_uid
from monai_ldmsr.pacs.store_server import ReceiverLimits
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import partial_folder

__all__ = ["DicomwebResults"]

#: Some services list an image a moment after they have stored it.
_LISTED_WITHIN_S = 3.0

_STUDY, _SERIES = "0020000D", "0020000E"


class DicomwebResults:
    """See :class:`~monai_ldmsr.label.results.ResultStore`.

    An image is a series, named by its Series Instance UID. What was stored is recorded in a folder, under a digest of
    the source's images, the settings and the weights; a record counts only while the service still lists what it names.
    The derived UIDs follow from the same, so that even without a record a series is never stored a second time.

    Args:
        datastore: the app's datastore, from which clients get volume files.
        peer: the service.
        caller: credentials, certificates and time limit.
        records: folder for records and report pages; made when missing.
        turn: taken for each use of the network.
    """

    def __init__(
        self, datastore: DICOMWebDatastore, peer: DicomwebPeer, caller: Caller, records: Path, turn: InferenceTurn
    ) -> None:
        self._datastore = datastore
        self._peer, self._caller = peer, caller
        self._records = records
        self._turn = turn
        self._converting = threading.Lock()
        _make_impatient(datastore, caller.timeout_s)

    def super_resolved(self, image: str, settings: WorkSettings) -> LabelResult:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        with DicomwebClient(self._peer, self._caller) as client:
            source = _found_series(client, image)
            name = settings_digest(settings, self._peer.url, source.study, image, *source.uids)
            with self._turn.taken():
                record = self._recorded(name)
                if record is not None and _is_there(client, source.study, record["series"]):
                    return LabelResult(record["image"], record, is_new=False)
                with TemporaryDirectory(prefix="ldmsr-") as folder:
                    inferred = self._inferred(source, Path(folder), settings)
                    record = _record_of(source, inferred)
                    with self._recording(name, record, inferred):
                        _store(client, [result.folder for result in inferred])
                        _check_stored(client, source.study, record["series"])
        self._datastore.list_images.cache.clear()  # MONAI Label lists the service's series only every two hours
        return LabelResult(record["image"], record, is_new=True)

    def sources_among(self, images: Iterable[str]) -> list[str]:
        """See :class:`~monai_ldmsr.label.results.ResultStore`; known of what this server stored."""
        stored = {series["series"] for record in self._all_records() for series in record["series"]}
        return [image for image in images if image not in stored]

    def newest_result(self) -> str | None:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        newest = max(self._all_records(), key=lambda record: str(record["report"]["created"]), default=None)
        return None if newest is None else str(newest["image"])

    def image_file(self, image: str) -> Path:
        """See :class:`~monai_ldmsr.label.results.ResultStore`; MONAI Label's own conversion to NIfTI."""
        if not is_uid(image):
            raise _no_such_series()
        # One at a time: MONAI Label takes a folder that another request is filling for a whole series.
        with self._converting:
            return self._converted(image)

    def _converted(self, image: str) -> Path:
        folder = Path(self._datastore._datastore.image_path()) / image
        volume = folder.with_name(f"{image}{CLIENT_EXTENSIONS[0]}")
        try:
            if not volume.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what was fetched before did perhaps not come to its end
                self._convert(image, folder)
            return volume
        except LdmsrError:
            raise
        except IndexError:  # what MONAI Label makes of a search without a match
            raise _no_such_series() from None
        except Exception as error:
            raise PeerError(
                f"MONAI Label cannot fetch or convert the series ({type(error).__name__}).",
                ReasonCode.PACS_UNREACHABLE,
            ) from error

    def _convert(self, image: str, folder: Path) -> None:
        """As ``DICOMWebDatastore.get_image_uri``, which leaves a copy of the volume among the temporary files."""
        dicom_web_download_series(None, image, str(folder), self._datastore._client)
        volume = dicom_to_nifti(str(folder))
        try:
            LocalDatastore.add_image(self._datastore, image, volume, self._datastore._dicom_info(image))
        finally:
            Path(volume).unlink(missing_ok=True)

    def _inferred(self, source: FoundSeries, folder: Path, settings: WorkSettings) -> list[Inferred]:
        """A result for each volume of the series."""
        query = SeriesQuery(study=source.study, series=source.series)
        limits = ReceiverLimits(read=settings.limits or DEFAULT_LIMITS)
        fetched = fetch(self._peer, folder / "source", query, caller=self._caller, limits=limits).series
        for series in fetched:
            if series.status != "done":
                raise SourceError(series.message, ReasonCode[series.reason])
        if not fetched:
            raise _no_such_series()
        found, skipped = find_dicom_series(folder / "source", limits.read)
        if skipped and (not found or any(item.failed for item in skipped)):
            raise SourceError(skipped[0].message, skipped[0].reason)
        return [infer(series, series.case, folder / "results", settings) for series in found]

    @contextmanager
    def _recording(self, name: str, record: Mapping[str, Any], inferred: Sequence[Inferred]) -> Iterator[None]:
        """Write a record that counts when the block has stored what it names; where none can be, nothing is stored."""
        with partial_folder(self._records / name) as folder:
            (folder / "told.json").write_text(json.dumps(record), encoding="utf-8")
            for n, result in enumerate(inferred, 1):
                (folder / f"report{n}.html").write_bytes((result.folder / "report.html").read_bytes())
            yield

    def _recorded(self, name: str) -> dict[str, Any] | None:
        """What was recorded; None where nothing was, or it is damaged."""
        try:
            record: dict[str, Any] = json.loads((self._records / name / "told.json").read_text(encoding="utf-8"))
            is_whole = bool(
                record["image"] and record["report"]["created"] and [one["series"] for one in record["series"]]
            )
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return record if is_whole else None

    def _all_records(self) -> list[dict[str, Any]]:
        names = [path.parent.name for path in self._records.glob("[!.]*/told.json")]
        return [record for record in map(self._recorded, names) if record is not None]


class _TimedAdapter(HTTPAdapter):  # type: ignore[misc]  # requests carries no types
    """Asks once, and waits no longer than ``timeout_s`` for an answer."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        """See ``HTTPAdapter``."""
        return super().send(*arguments, **{**named, "timeout": named.get("timeout") or self._timeout_s})


def _make_impatient(datastore: DICOMWebDatastore, timeout_s: float) -> None:
    """MONAI Label's client would ask a service that is gone for a minute, and one that hangs for ever."""
    datastore._client.set_http_retry_params(retry=False)
    for scheme in ("http://", "https://"):
        datastore._client._session.mount(scheme, _TimedAdapter(timeout_s))


def _record_of(source: FoundSeries, inferred: Sequence[Inferred]) -> dict[str, Any]:
    series = [{"series": result.series_uid, "n_images": result.report["result"]["shape"][2]} for result in inferred]
    first = inferred[0]
    return record_of(first.series_uid, source.series, first.report, study=source.study, series=series)


def _found_series(client: DicomwebClient, series: str) -> FoundSeries:
    """The series and its images, as the service lists them.

    Raises:
        SourceError: ``NO_SUCH_SOURCE``.
        PeerError: no answer, or a refusal.
    """
    if is_uid(series):
        matches = client.search("/series", {_SERIES: series}, _SERIES)
        studies = [value_of(match, _STUDY) for match in matches if value_of(match, _SERIES) == series]
        for study in filter(is_uid, studies):
            for found in find_by_dicomweb(client, SeriesQuery(study=study, series=series)):
                return found
    raise _no_such_series()


def _no_such_series() -> SourceError:
    return SourceError(
        "The DICOMweb service has no series of this UID. GET /datastore/?output=all lists them.",
        ReasonCode.NO_SUCH_SOURCE,
    )


def _is_there(client: DicomwebClient, study: str, series: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the service lists all images of all these series."""
    found = [find_by_dicomweb(client, SeriesQuery(study=study, series=str(one["series"]))) for one in series]
    counts = [sum(len(match.uids) for match in matches) for matches in found]
    return counts == [one.get("n_images") for one in series]


def _store(client: DicomwebClient, folders: Sequence[Path]) -> None:
    """Store all images by one request.

    Raises:
        PeerError: it was refused, as a whole or for an image.
    """
    paths = [path for folder in folders for path in sorted(images_below(folder))]
    statuses = client.store({instance_uid(path): path for path in paths})
    for status in statuses.values():
        if status:
            raise failure_of(status, "an image")


def _check_stored(client: DicomwebClient, study: str, series: Sequence[Mapping[str, Any]]) -> None:
    """A service may drop an image by a rule of its own, and say that all went well.

    Raises:
        PeerError: it does not list all images.
    """
    deadline = time.monotonic() + _LISTED_WITHIN_S
    while not _is_there(client, study, series):
        if time.monotonic() > deadline:
            raise PeerError(
                "The DICOMweb service says that it stored the result, but does not list all of its images. Look for a "
                "rule there by which it drops some, and ask again.",
                ReasonCode.PACS_INCOMPLETE,
            )
        time.sleep(0.2)

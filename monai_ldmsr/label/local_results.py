"""Results as images beside their sources, in MONAI Label's local folder of volume files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.config import settings as label_settings

from monai_ldmsr.errors import LdmsrError, OutputError, ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.io.formats import volume_extension
from monai_ldmsr.label.inference import InferenceTurn, Inferred, infer
from monai_ldmsr.label.local_datastore import GuardedDatastore
from monai_ldmsr.label.options import settings_digest
from monai_ldmsr.label.results import LabelResult, record_of
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import clear_working_folders, file_sha256, move, working_folder

__all__ = ["LocalResults"]

#: Entry of a result's information: what it was made from, and how.
_RECORD = "super_resolution"
#: Entry of a source's information: its results.
_RESULTS = "super_resolved_as"


class LocalResults:
    """See :class:`~monai_ldmsr.label.results.ResultStore`.

    A result is the image ``<image>_x<factor>_<digest>``: the digest is of the source's content, the settings and the
    weights, so the same request finds it again. It links to its source in its image information, and the source to it.
    The report's page lies in ``reports`` below the studies.
    """

    def __init__(self, datastore: GuardedDatastore, studies: Path, turn: InferenceTurn) -> None:
        self._datastore = datastore
        self._studies = studies
        self._turn = turn
        clear_working_folders(studies)

    def super_resolved(self, image: str, settings: WorkSettings) -> LabelResult:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        path = self.image_file(image)
        if self._is_result(image):
            raise SkippedSourceError(
                "The image is a result of this software already. Ask for the image that it was made from.",
                ReasonCode.OWN_RESULT,
            )
        extension = volume_extension(path)
        if extension is None:
            raise SkippedSourceError("The image is not a NIfTI or NRRD file.", ReasonCode.NOT_AN_IMAGE)
        # Messages name the case, so it is without the image's name, which may be a patient's.
        case = f"x{settings.factor}_{settings_digest(settings, _content(path))}"
        name = f"{image}_{case}"
        with self._turn.taken():
            self._datastore.read_again()
            record = self._record(name)
            if record is not None and (self._studies / f"{name}{extension}").is_file():
                return LabelResult(name, record, is_new=False)
            if label_settings.MONAI_LABEL_DATASTORE_READ_ONLY:
                raise OutputError("The datastore is read-only (MONAI_LABEL_DATASTORE_READ_ONLY), so nothing is stored.")
            # Hidden and on the same disk, so that results appear whole; made before anything is computed.
            with working_folder(self._studies) as folder:
                inferred = infer(path, case, folder, settings)
                record = record_of(name, image, inferred.report, report_page=_page(name))
                self._store(inferred, name, extension, record)
        return LabelResult(name, record, is_new=True)

    def sources_among(self, images: Iterable[str]) -> list[str]:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        return [image for image in images if not self._is_result(image)]

    def newest_result(self) -> str | None:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        made = {image: self._datastore.get_image_info(image) for image in self._datastore.list_images()}
        results = {image: info for image, info in made.items() if _RECORD in info}
        return max(results, key=lambda image: (results[image][_RECORD]["report"]["created"], image), default=None)

    def image_file(self, image: str) -> Path:
        """See :class:`~monai_ldmsr.label.results.ResultStore`."""
        uri = self._datastore.get_image_uri(image)
        if not uri or not os.path.isfile(uri):
            raise SourceError(
                "The datastore has no image of this identifier. GET /datastore/?output=all lists them.",
                ReasonCode.NO_SUCH_SOURCE,
            )
        return Path(uri)

    def _is_result(self, image: str) -> bool:
        # Where the list of images was lost, there is still the page.
        return self._record(image) is not None or (self._studies / _page(image)).is_file()

    def _record(self, image: str) -> dict[str, Any] | None:
        record: dict[str, Any] | None = self._datastore.get_image_info(image).get(_RECORD)
        return record

    def _store(self, inferred: Inferred, name: str, extension: str, record: dict[str, Any]) -> None:
        page = self._studies / record["report_page"]
        (written,) = inferred.folder.glob(f"*_sr{extension}")
        others = [
            other for other in self._datastore.get_image_info(record["source"]).get(_RESULTS, []) if other != name
        ]
        links: dict[str, dict[str, Any]] = {name: {_RECORD: record}, record["source"]: {_RESULTS: [*others, name]}}
        try:
            page.parent.mkdir(exist_ok=True)
            move((inferred.folder / "report.html", page))
            self._datastore.add_linked(written, name, extension, links)
        except Exception as error:
            with suppress(OSError):
                page.unlink()
            if isinstance(error, LdmsrError):
                raise
            what = error.strerror if isinstance(error, OSError) else type(error).__name__
            raise OutputError(f"The result cannot be stored in the datastore: {what}.") from error


def _page(image: str) -> str:
    """Where the report of a result lies, below the studies."""
    return f"reports/{image}.html"


def _content(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise SourceError(f"The image cannot be read: {error.strerror}.", ReasonCode.NO_SUCH_SOURCE) from None

"""The record of a result that a client gets, and which file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Protocol

import numpy as np

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.formats import CLIENT_EXTENSIONS, volume_extension
from monai_ldmsr.io.volume_file import copy_volume_file, write_empty_labels
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.settings import WorkSettings

__all__ = ["ClientFile", "LabelResult", "ResultStore", "record_of"]


@dataclass(frozen=True)
class LabelResult:
    """A result that is stored.

    Args:
        image: identifier of the image in the datastore; for a DICOM series its Series Instance UID.
        record: what clients get of it, as JSON; see :func:`record_of`.
        is_new: whether it was computed for this request.
    """

    image: str
    record: Mapping[str, Any]
    is_new: bool


class ResultStore(Protocol):
    """Where sources are taken from and results are put."""

    def super_resolved(self, image: str, settings: WorkSettings) -> LabelResult:
        """The stored result of an image; computed and stored where there is none yet.

        Raises:
            LdmsrError: with the reason; nothing new is stored then.
        """

    def sources_among(self, images: Iterable[str]) -> list[str]:
        """Those images that were not made by this software."""

    def newest_result(self) -> str | None:
        """The result that was stored last; None when there is none."""

    def image_file(self, image: str) -> Path:
        """A volume file of a stored image.

        Raises:
            LdmsrError: there is no such image, or it cannot be fetched.
        """


def record_of(image: str, source: str, report: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What clients get of a result, and what is kept of it.

    Args:
        image: identifier of the result.
        source: identifier of what it was made from.
        report: content of ``report.json``: grids, settings, metrics, warnings, versions.
        more: further entries.
    """
    return {"image": image, "source": source, "notice": RESEARCH_NOTICE, **more, "report": dict(report)}


@dataclass(frozen=True)
class ClientFile:
    """What a client asks for as a file.

    Slicer's and OHIF's clients ask for a label map of 8 bits, which no image would survive: they get an empty one, on
    the source's grid, and find the image by its name.

    Args:
        extension: see ``CLIENT_EXTENSIONS``; None leaves an image's as it is.
        is_labels: whether the client takes label maps only.
        is_wanted: whether it takes a file at all.
    """

    extension: str | None
    is_labels: bool
    is_wanted: bool

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> ClientFile:
        """Read ``result_extension``, ``result_dtype`` and ``result_write_to_file``, as MONAI Label's writer does.

        Raises:
            SettingsError: another extension.
        """
        extension = request.get("result_extension") or None
        if extension is not None and extension not in CLIENT_EXTENSIONS:
            raise SettingsError(f"result_extension must be one of {', '.join(CLIENT_EXTENSIONS)}.")
        is_labels = request.get("result_dtype") in ("uint8", "int8")
        return cls(extension, is_labels, bool(request.get("result_write_to_file", True)))

    def written(self, image: Callable[[], Path], source_grid: Mapping[str, Any]) -> str | None:
        """Write it into a temporary file, which the caller removes; None where none is asked for.

        Args:
            image: gives the result's volume file; called only where it is needed.
            source_grid: ``shape`` (I, J, K) and RAS ``affine`` in mm, as in a report.

        Raises:
            LdmsrError: the image cannot be fetched, or the file not be written.
        """
        if not self.is_wanted:
            return None
        stored = None if self.is_labels else image()
        own = volume_extension(stored) if stored else None
        descriptor, name = mkstemp(prefix="ldmsr-", suffix=self.extension or own or CLIENT_EXTENSIONS[0])
        os.close(descriptor)
        try:
            if stored is None:
                shape, affine = source_grid["shape"], np.asarray(source_grid["affine"], dtype=float)
                write_empty_labels(VolumeGeometry((shape[0], shape[1], shape[2]), affine), Path(name))
            else:
                copy_volume_file(stored, Path(name))
        except BaseException:
            os.unlink(name)
            raise
        return name

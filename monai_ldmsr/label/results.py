"""What a client is told of a result, and which file it gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Protocol

import numpy as np

from monai_ldmsr.batch.unit import WorkSettings
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.client_volume import copy_volume_file, write_empty_labels
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["EXTENSIONS", "LabelResult", "ResultStore", "client_file", "told_of"]

#: Of volume files that clients ask for and datastores hold.
EXTENSIONS = (".nii.gz", ".nii", ".nrrd")


@dataclass(frozen=True)
class LabelResult:
    """A result that is stored.

    Args:
        image: its identifier in the datastore; for a DICOM series its Series Instance UID.
        told: what clients are told, as JSON; see :func:`told_of`.
        is_new: it was computed for this request.
    """

    image: str
    told: Mapping[str, Any]
    is_new: bool


class ResultStore(Protocol):
    """Where sources are taken from and results are put."""

    def super_resolved(self, image: str, settings: WorkSettings) -> LabelResult:
        """The stored result of an image; computed and stored where there is none yet.

        Raises:
            LdmsrError: with the reason; nothing new is stored then.
        """

    def is_result(self, image: str) -> bool:
        """Whether an image was made by this software."""

    def newest_result(self) -> str | None:
        """The result that was stored last; None when there is none."""

    def image_file(self, image: str) -> Path:
        """A volume file of a stored image.

        Raises:
            LdmsrError: there is no such image, or it cannot be fetched.
        """


def told_of(image: str, source: str, report: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What clients are told of a result, and what is kept of it.

    Args:
        image: identifier of the result.
        source: identifier of what it was made from.
        report: content of ``report.json``: grids, settings, metrics, warnings, versions.
        more: further entries.
    """
    return {"image": image, "source": source, "notice": RESEARCH_NOTICE, **more, "report": dict(report)}


def client_file(stored: Path | None, source_grid: Mapping[str, Any], extension: str | None) -> Path:
    """A temporary file for the client; who gets it removes it.

    Args:
        stored: the image. None writes an empty label map on the source's grid: Slicer's and OHIF's clients ask for
            labels of 8 bits, which no image would survive.
        source_grid: ``shape`` (I, J, K) and RAS ``affine`` in mm, as in a report.
        extension: see :data:`EXTENSIONS`; None leaves an image's as it is.

    Raises:
        SettingsError: another extension.
        OutputError: the file cannot be written.
    """
    if extension is not None and extension not in EXTENSIONS:
        raise SettingsError(f"result_extension must be one of {', '.join(EXTENSIONS)}.")
    own = next((known for known in EXTENSIONS if stored and stored.name.endswith(known)), EXTENSIONS[0])
    descriptor, name = mkstemp(prefix="ldmsr-", suffix=extension or own)
    os.close(descriptor)
    target = Path(name)
    try:
        if stored is None:
            shape = source_grid["shape"]
            affine = np.asarray(source_grid["affine"], dtype=float)
            write_empty_labels(VolumeGeometry((shape[0], shape[1], shape[2]), affine), target)
        else:
            copy_volume_file(stored, target)
    except Exception:
        target.unlink(missing_ok=True)
        raise
    return target

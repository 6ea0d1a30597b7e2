"""Write where a result is to be trusted, as a binary Segmentation beside the derived series."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io.derived_header import RESEARCH_MARK
from monai_ldmsr.io.derived_objects import (
    DerivedImages,
    ObjectKind,
    algorithm,
    identity,
    places,
    quietly_made,
    write_deflated,
)
from monai_ldmsr.io.dicom_series import DicomSeries

__all__ = ["write_trust_mask"]

#: Green, as CIELab in DICOM's whole numbers, by which viewers paint the segment.
_COLOUR = (43803, 20565, 42420)


def write_trust_mask(
    series: DicomSeries,
    images: DerivedImages,
    trusted: npt.NDArray[np.bool_],
    grid: ResultGrid,
    kind: ObjectKind,
    concept: CodedConcept,
    label: str,
    path: Path,
) -> None:
    """Write ``trusted`` as one segment.

    Args:
        series: the source.
        images: the derived images, to which the object refers.
        trusted: (I, J, K) on ``grid``.
        grid: how it lies on that of the source.
        kind: what it is.
        concept: the same, coded.
        label: the segment's label, of at most 64 characters.
        path: file to write.

    Raises:
        OutputError: the object cannot be made or written.
    """
    frames = np.ascontiguousarray(trusted.transpose(2, 1, 0))
    with quietly_made(kind.words.lower()):
        segment = SegmentDescription(1, label, codes.SCT.Tissue, concept, "AUTOMATIC", algorithm(images))
        segment.RecommendedDisplayCIELabValue = list(_COLOUR)
        made = Segmentation(
            list(images.headers),
            frames,
            "BINARY",
            [segment],
            **identity(images, kind, hashlib.sha256(np.packbits(frames).data).hexdigest()),
            content_description=f"{kind.words}. {RESEARCH_MARK}"[:64],
            content_label=kind.name.upper()[:16],
            omit_empty_frames=False,
            **places(series, grid),
        )
        made.ContentQualification = "RESEARCH"
        write_deflated(made, images, path)

"""What modality a volume file has: by its header, by the JSON file that dcm2niix writes beside it, or not known."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.sr.codedict import codes

from monai_ldmsr.io.dicom_header import PET_UNITS
from monai_ldmsr.io.formats import stem
from monai_ldmsr.io.image_kind import named_components
from monai_ldmsr.io.plausible_values import PADDING_HU
from monai_ldmsr.io.refusals import label_map, phase_image

__all__ = ["Sidecar", "modality_term", "read_sidecar", "unknown_modality"]

#: dcm2niix writes some kilobytes; converters of whole headers some hundred.
_MAX_BYTES = 2**20

_OTHER_WORDS = {"MRI": "MR", "PET": "PT", "UNKNOWN": "", "OTHER": "", "NONE": ""}

#: Of DICOM, with those that are newer than pydicom's table. Messages repeat no other word: it may be anything.
_TERMS = {"", "ANN", "RTINTENT", "RTRAD", "RTSEGANN", *(getattr(codes.cid33, name).value for name in codes.cid33.dir())}
_NO_TERM = "no defined term"

#: BIDS writes units as people do.
_BIDS_UNITS = {"Bq/mL": "BQML", "Bq/ml": "BQML", "g/mL": "GML", "g/ml": "GML"}


@dataclass(frozen=True)
class Sidecar:
    """What is taken from the JSON file: no attribute of a patient.

    Args:
        modality: a DICOM term such as ``"CT"``, or ``"no defined term"``; empty when it is not said.
        unit: unit of PET; empty when it is not said.
        warnings: what was wrong with the file.
        slice_thickness_mm: Slice Thickness; None when it is not said.
    """

    modality: str = ""
    unit: str = ""
    warnings: tuple[str, ...] = ()
    slice_thickness_mm: float | None = None


def read_sidecar(path: Path) -> Sidecar:
    """Read the JSON file beside a volume file, where there is one.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` or ``PHASE_IMAGE`` when it says that the volume is such.
    """
    sidecar = path.with_name(f"{stem(path)}.json")
    if not os.path.isfile(sidecar) or sidecar.is_symlink():  # its name may be too long for Path.is_file
        return Sidecar()
    try:
        with sidecar.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            return _ignored(f"has more than {_MAX_BYTES} bytes")
        said = json.loads(content.decode("utf-8-sig"))
    except OSError:
        return _ignored("cannot be read")
    except (ValueError, RecursionError):
        return _ignored("is not a JSON file")
    if not isinstance(said, dict):
        return _ignored("holds no names with values")
    return _sidecar(said)


def _ignored(why: str) -> Sidecar:
    return Sidecar(warnings=(f"The .json file beside the volume file {why}, so nothing of it was used.",))


def _sidecar(said: Mapping[str, Any]) -> Sidecar:
    unfit = []
    modality, image_type = said.get("Modality", ""), said.get("ImageType", [])
    if not isinstance(modality, str):
        unfit.append("Modality")
    modality = modality_term(modality) if isinstance(modality, str) else ""
    words = _words(image_type)
    if words is None:
        unfit.append("ImageType")
    _refuse(modality, words or [])
    unit = said.get("Units", "") if modality == "PT" else ""
    unit = _BIDS_UNITS.get(unit.strip(), unit.strip()) if isinstance(unit, str) else None
    if unit not in ("", *PET_UNITS):
        unfit.append("Units")
        unit = ""
    thickness = _thickness(said.get("SliceThickness"))
    if thickness is None and said.get("SliceThickness") not in (None, 0):
        unfit.append("SliceThickness")
    warnings = [
        f"'{name}' in the .json file beside the volume file is nothing that DICOM knows, so it was not used."
        for name in unfit
    ]
    return Sidecar(modality, unit or "", tuple(warnings), thickness)


def _thickness(said: object) -> float | None:
    """A length in mm above 0, or nothing."""
    if not isinstance(said, int | float) or isinstance(said, bool):
        return None
    return float(said) if 0 < said < math.inf else None


def _words(image_type: object) -> list[str] | None:
    """Values of Image Type, in capitals, from a list or one text of any form; ``None`` where it is neither."""
    texts = [image_type] if isinstance(image_type, str) else image_type
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return None
    words = [word.strip().upper() for text in texts for word in re.split(r"[\\\[\](){}'\",;|/]", text) if word.strip()]
    return re.split(r"[\s_]+", words[0]) if isinstance(image_type, str) and len(words) == 1 else words


def _refuse(modality: str, image_type: list[str]) -> None:
    if modality in ("SEG", "RTSTRUCT"):
        raise label_map(f"the .json file beside it gives modality {modality}")
    components = named_components(image_type)
    if modality in ("", _NO_TERM, "MR") and "PHASE" in components and "MAGNITUDE" not in components:
        raise phase_image("ImageType in the .json file beside it says so")


def modality_term(word: str) -> str:
    """DICOM's term for a modality that a header names; see :class:`Sidecar`."""
    word = word.strip().strip('"').upper().removeprefix("MET_MOD_")
    word = _OTHER_WORDS.get(word, word)
    return word if word in _TERMS else _NO_TERM


def _may_be_hounsfield(voxels: npt.NDArray[np.float32]) -> bool:
    """Whether there is much air of whole numbers, and nothing lower but padding."""
    low = voxels[voxels <= -900]
    is_air, is_below = low >= -1100, (low < -1100) & (low > PADDING_HU)
    whole = bool((low == np.rint(low)).all())
    return whole and int(is_air.sum()) > 0.01 * voxels.size and int(is_below.sum()) < 0.001 * voxels.size


def unknown_modality(said: str, voxels: npt.NDArray[np.float32]) -> str:
    """Warning that no modality is known that the model was made for, and how to state it.

    Args:
        said: modality that the file or its JSON file names, if any.
        voxels: (I, J, K), which may look like Hounsfield units; they are never taken for such by themselves.
    """
    which = "" if said == _NO_TERM else ", which no model was made for"
    found = f"The modality of the volume file is given as {said}{which}" if said else "The modality is not known"
    warning = f"{found}: the values were worked on as of an unknown one. State it: --modality CT, MR or PT."
    least = float(voxels.min())
    if not said and _may_be_hounsfield(voxels):
        return (
            f"{warning} The values look like Hounsfield units (the least is {least:g}): if it is a CT, this result is "
            "not what a CT gets; run again with --modality CT."
        )
    return warning

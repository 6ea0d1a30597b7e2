"""What modality a volume file has: by its header, by the JSON file that dcm2niix writes beside it, or not known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.io.dicom_header import PET_UNITS
from monai_ldmsr.io.padding import PADDING_HU
from monai_ldmsr.io.value_kind import label_map, phase_image
from monai_ldmsr.io.volume_format import sidecar_name

__all__ = ["MODALITIES", "Sidecar", "header_modality", "read_sidecar", "unknown_modality"]

#: What DICOM series have that are read.
MODALITIES = ("CT", "MR", "PT")

#: dcm2niix writes some kilobytes; converters of whole headers some hundred.
_MAX_BYTES = 2**20

_OTHER_WORDS = {"MRI": "MR", "PET": "PT"}

#: BIDS writes units as people do.
_BIDS_UNITS = {"Bq/mL": "BQML", "Bq/ml": "BQML", "g/mL": "GML", "g/ml": "GML"}


@dataclass(frozen=True)
class Sidecar:
    """What is taken from the JSON file: no attribute of a patient.

    Args:
        modality: a DICOM term such as ``"CT"``; empty when it is not said.
        unit: of PET; empty when it is not said.
        warnings: what was wrong with the file.
    """

    modality: str = ""
    unit: str = ""
    warnings: tuple[str, ...] = ()


def read_sidecar(path: Path) -> Sidecar:
    """Read the JSON file beside a volume file, where there is one.

    Args:
        path: of the volume file.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` or ``PHASE_IMAGE`` when it says that the volume is such.
    """
    sidecar = path.with_name(sidecar_name(path.name))
    if sidecar.is_symlink() or not sidecar.is_file():
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
        return _ignored("is no JSON file")
    if not isinstance(said, dict):
        return _ignored("holds no names with values")
    modality = said.get("Modality", "")
    if not (isinstance(modality, str) and re.fullmatch(r"[A-Za-z]{0,16}", modality.strip())):
        return _ignored("has a Modality that is no term of DICOM")
    modality = _term(modality)
    _refuse(modality, said)
    unit = said.get("Units") if modality == "PT" else None
    unit = _BIDS_UNITS.get(unit, unit) if isinstance(unit, str) else ""
    return Sidecar(modality, unit if unit in PET_UNITS else "")


def _ignored(why: str) -> Sidecar:
    return Sidecar(warnings=(f"The .json file beside the volume file {why}, so nothing of it was used.",))


def _refuse(modality: str, said: Mapping[str, Any]) -> None:
    types = said.get("ImageType")
    words = {word.upper() for word in types if isinstance(word, str)} if isinstance(types, list) else set()
    if modality in ("SEG", "RTSTRUCT"):
        raise label_map(f"the .json file beside it gives modality {modality}")
    if modality in ("", "MR") and words & {"P", "PHASE", "PHASE MAP"}:
        raise phase_image("ImageType in the .json file beside it says so")


def header_modality(fields: Mapping[str, str]) -> str:
    """DICOM's term for the modality that a text header names, empty when it names none."""
    return _term(next((fields[name] for name in ("modality", "0008|0060") if name in fields), ""))


def _term(word: str) -> str:
    word = word.strip().strip('"').upper().removeprefix("MET_MOD_")
    word = _OTHER_WORDS.get(word, word)
    return word if re.fullmatch(r"[A-Z]{2,16}", word) and word not in ("UNKNOWN", "OTHER", "NONE") else ""


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
    found = (
        f"The modality of the volume file is given as {said}, which is none" if said else "The modality is not known"
    )
    warning = f"{found}: the values were worked on as of an unknown one. State it: --modality CT, MR or PT."
    least = float(voxels.min())
    if not said and _may_be_hounsfield(voxels):
        return (
            f"{warning} The values look like Hounsfield units (the least is {least:g}): if it is a CT, this result is "
            "not what a CT gets; run again with --modality CT."
        )
    return warning

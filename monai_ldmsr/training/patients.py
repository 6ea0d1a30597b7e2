"""Whose a volume is, by its path alone.

One patient in two splits is the fault to be avoided, so names that may be one patient's are taken as one.

The first of these that a path gives, read from its first folder to the file name:

1. ``sub-LABEL``, as in BIDS;
2. a word for a patient and a number: ``patient01``, ``subject_7``, ``case-12``, ``pt3``;
3. the first folder that distinguishes: words for sessions, sequences, splits and formats (``ses-1``, ``T1``, ``train``,
   ``images``), dates, and what all paths share say nothing of a patient;
4. the file name, likewise, up to its first number of three digits or more, else up to its first number, else its first
   word.

Of nnU-Net's ``imagesTr`` and ``imagesTs`` only what lies below counts, without the channel ``_0000`` in the end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from monai_ldmsr.io.volume_file import volume_case

__all__ = ["Patient", "is_label", "patients_by_path"]

#: The rules, as they are printed.
BIDS, WORD, FOLDER, NAME = "sub-LABEL (BIDS)", "patient word and number", "folder", "file name"

_PATIENT = re.compile(r"(?<![a-z0-9])(patient|subject|subj|sub|case|pt|pid)[-_ ]?(\d+)", re.I)
_BIDS = re.compile(r"(?:^|/)sub-([a-z0-9]+)", re.I)
_NNUNET = re.compile(r"images(tr|ts)", re.I)
_DATE = re.compile(r"(?<![0-9a-z])(19|20)\d\d[-_.]?(0\d|1[0-2])[-_.]?([0-2]\d|3[01])(?![0-9a-z])", re.I)

#: Visits and their like, with the number that belongs to them.
_VISIT = re.compile(
    r"(?<![a-z0-9])(ses|session|study|scan|visit|series|run|acq|echo|time|timepoint|tp|day|week|month|year|fu|followup|"
    r"baseline|pre|post|before|after|left|right)([-_ ]?\d+|[-_ ][a-z](?![a-z0-9]))?(?![a-z0-9])",
    re.I,
)
_PLAIN = frozenset(
    [
        "mr",
        "mri",
        "ct",
        "pet",
        "pt",
        "t1",
        "t1w",
        "t1c",
        "t1ce",
        "t1gd",
        "t2",
        "t2w",
        "t2star",
        "flair",
        "pd",
        "pdw",
        "dwi",
        "dti",
        "adc",
        "swi",
        "bold",
        "stir",
        "mprage",
        "memprage",
        "dce",
        "gre",
        "fse",
        "tse",
        "haste",
        "asl",
        "ax",
        "axial",
        "sag",
        "sagittal",
        "cor",
        "coronal",
        "3d",
        "2d",
        "sr",
        "hr",
        "lr",
        "anat",
        "func",
        "dwi",
        "fmap",
        "raw",
        "data",
        "dataset",
        "derivatives",
        "image",
        "images",
        "imgs",
        "img",
        "im",
        "nii",
        "nifti",
        "dicom",
        "dcm",
        "volume",
        "volumes",
        "vol",
        "brain",
    ]
)
_SPLITS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing", "calibration", "holdout"])

_LABEL_FOLDERS = frozenset(
    ["labels", "labelstr", "labelsts", "label", "masks", "mask", "segmentations", "segmentation", "seg"]
)
_LABEL = re.compile(r"(?:^|[_.-])(seg|dseg|mask|labels?|segmentation)$", re.I)


@dataclass(frozen=True)
class Patient:
    """One volume's patient.

    Args:
        key: the same for all volumes of a patient; of words of their paths.
        rule: how it was found.
    """

    key: str
    rule: str


@dataclass(frozen=True)
class _Path:
    """Words of each folder and of the file name (none of a folder of DICOM files), lower case."""

    text: str
    folders: tuple[tuple[str, ...], ...]
    name: tuple[str, ...]

    @classmethod
    def of(cls, path: PurePath, is_file: bool) -> _Path:
        folders = list(path.parts[:-1] if is_file else path.parts)
        name = volume_case(path) if is_file else ""
        below = [n for n, part in enumerate(folders, start=1) if _NNUNET.fullmatch(part)]
        if below:
            folders, name = folders[below[-1] :], re.sub(r"_\d{4}$", "", name)
        return cls("/".join([*folders, name]), tuple(_words(part, _SPLITS) for part in folders), _words(name))

    @property
    def words(self) -> set[str]:
        return {word for part in (*self.folders, self.name) for word in part}


def is_label(path: PurePath) -> bool:
    """Whether a file below a dataset folder is a label and no image: by nnU-Net's folders, or its name's end."""
    folders = {part.lower() for part in path.parts[:-1]}
    return bool(folders & _LABEL_FOLDERS or _LABEL.search(volume_case(path)))


def patients_by_path(paths: Sequence[tuple[PurePath, bool]]) -> list[Patient]:
    """The patient of each volume.

    Args:
        paths: path relative to the dataset folder, and whether it is a volume file (else a folder of DICOM files).

    Example:
        >>> names = ["patient01_study1.nii.gz", "patient01_study2.nii.gz", "patient02_study1.nii.gz"]
        >>> [found.key for found in patients_by_path([(PurePath(name), True) for name in names])]
        ['patient1', 'patient1', 'patient2']
    """
    read = [_Path.of(path, is_file) for path, is_file in paths]
    shared = set.intersection(*(one.words for one in read)) if read else set()
    by_number = len({name for one in read if (name := _before_number(one.name, shared))}) < 3
    found = [_patient(one, shared, by_number) for one in read]
    return _merged(found, read, shared)


def _patient(path: _Path, shared: set[str], by_number: bool) -> Patient:
    if bids := _BIDS.search(path.text):
        return Patient(f"sub-{bids[1].lower()}", BIDS)
    if worded := _PATIENT.search(path.text):
        return Patient(f"{worded[1].lower()}{int(worded[2])}", WORD)
    for part in path.folders:
        if set(part) - shared:
            return Patient("_".join(_to_number(part, shared)), FOLDER)
    before = "" if by_number else _before_number(path.name, shared)
    return Patient(before or "_".join(_named(path.name, shared)) or "unnamed", NAME)


def _merged(found: list[Patient], read: Sequence[_Path], shared: set[str]) -> list[Patient]:
    """One patient where the same name with a long number lies in several folders that are taken as patients."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for patient, path in zip(found, read, strict=True):
        words = _to_number(path.name, shared)
        if patient.rule == FOLDER and words and re.search(r"[a-z]", "".join(words)) and _long_number(words[-1]):
            by_name["_".join(words)].add(patient.key)
    same: dict[str, str] = {}

    def first(key: str) -> str:
        return key if same.get(key, key) == key else first(same[key])

    for keys in by_name.values():
        least = min(map(first, keys))
        same.update({first(key): least for key in keys})
    return [Patient(first(one.key), one.rule) for one in found]


def _words(part: str, more: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Words of a folder's or file's name that may say whose it is."""
    left = _VISIT.sub(" ", _DATE.sub(" ", part))
    return tuple(word for word in re.split(r"[^a-z0-9]+", left.lower()) if word and word not in _PLAIN | more)


def _to_number(words: Sequence[str], shared: set[str]) -> list[str]:
    """Words up to the first long number that not all paths share; all of them where there is none."""
    ends = [n for n, word in enumerate(words, start=1) if word not in shared and _long_number(word)]
    return list(words[: ends[0]] if ends else words)


def _named(words: Sequence[str], shared: set[str]) -> list[str]:
    """What of a file name says whose it is."""
    own = [n for n, word in enumerate(words, start=1) if word not in shared and re.search(r"\d", word)]
    ends = [n for n in own if _long_number(words[n - 1])]
    # Beside a number that all share, a short one counts that patient's volumes: P123_1, P123_2.
    if not ends and not any(re.search(r"\d", word) for word in shared):
        ends = own
    return list(words[: ends[0] if ends else 1])


def _before_number(words: Sequence[str], shared: set[str]) -> str:
    """``smith`` of ``smith_1``, where a bare number of one or two digits may count that patient's volumes."""
    named = _named(words, shared)
    before = [word for word in named[:-1] if word not in shared]
    return "_".join(before) if before and re.fullmatch(r"\d\d?", named[-1]) else ""


def _long_number(word: str) -> bool:
    return bool(re.search(r"\d{3}", word))

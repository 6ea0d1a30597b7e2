"""Which volumes a dataset folder holds, whose they are, and which split they belong to.

With ``manifest.csv`` in the folder: one row a volume, columns ``file`` (a volume file, or a folder with one DICOM
series, relative to the dataset folder) and ``split`` (``train``, ``calibration``, ``test``); and where known
``modality`` (``CT`` in HU, ``MR``, ``PT``; DICOM says its own) and ``subject``. Other columns are not read.

Without: everything that is found below the folder, DICOM series and volume files mixed, but no labels. A patient is the
DICOM Patient ID, else follows from the path, see :mod:`monai_ldmsr.training.patients`; of the ID only a hash is kept.
Patients are split by a hash, about 70 % train, 15 % calibration and 15 % test, the same way each time; or as a split
file says, see :mod:`monai_ldmsr.training.split_file`.
"""

from __future__ import annotations

import csv
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.io import AnySource, PackedSource, SeriesFiles, find_sources
from monai_ldmsr.io.dicom_header import read_header, text
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.packed_source import first_file, listed
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.settings import checked
from monai_ldmsr.training.patients import Patient, is_label, patients_by_path
from monai_ldmsr.training.split_file import as_the_file_says, check_one_split_each
from monai_ldmsr.training.volumes import MANIFEST, SPLITS

__all__ = [
    "DatasetEntry",
    "assigned_entries",
    "check_split_name",
    "find_entries",
    "of_split",
    "read_manifest",
    "split_subjects",
]

#: Hash values, as a share of all, below which a patient goes to test, and then to calibration.
_TEST_BELOW, _CALIBRATION_BELOW = 0.15, 0.30


@dataclass(frozen=True)
class DatasetEntry:
    """One volume of a dataset.

    Args:
        source: what the reader takes.
        name: file name, or the hash that stands for a DICOM series.
        modality: ``CT``, ``MR``, ``PT``, or None when not known yet.
        subject: patient, as in the manifest or hashed.
        split: one of :data:`SPLITS`.
        listed: whether a manifest names it; a volume that is only found may be left out.
        place: path relative to the dataset folder: of a series its folder, or its first file beside another series.
        patient: subject as a person knows it, where it follows from the path.
        rule: how the patient was found.
    """

    source: AnySource = field(repr=False)
    name: str
    modality: str | None
    subject: str
    split: str
    listed: bool
    place: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    rule: str = MANIFEST


def find_entries(
    dataset_dir: str | Path, split: str, limits: ReadLimits = DEFAULT_LIMITS, split_file: Path | None = None
) -> list[DatasetEntry]:
    """Volumes of one split.

    Args:
        dataset_dir: see the module's text.
        split: one of :data:`SPLITS`, or ``all``.
        limits: the largest volume that is taken.
        split_file: which volume is in which split; None goes by the manifest, or by the patients' hashes.

    Raises:
        SettingsError: no such split, a manifest or split file that lacks something, a patient in two splits, or too few
            patients.
        SourceError: the folder does not exist, or holds nothing that can be trained on.
    """
    folder = Path(dataset_dir)
    check_split_name(split)
    if split == "all" and split_file is None and not (folder / MANIFEST).is_file():
        return [replace(entry, split=split) for entry in _found(folder, limits)]
    return of_split(assigned_entries(folder, limits, split_file), split, split_file)


def check_split_name(split: str) -> None:
    """Refuse what is no split.

    Raises:
        SettingsError: it is neither one of :data:`SPLITS` nor ``all``.
    """
    if split not in (*SPLITS, "all"):
        raise SettingsError(f"split is '{split}'; choose one of {', '.join(SPLITS)}, all.")


def assigned_entries(folder: Path, limits: ReadLimits, split_file: Path | None = None) -> list[DatasetEntry]:
    """Volumes of all splits; see :func:`find_entries`."""
    if split_file is not None:
        return as_the_file_says(split_file, _found(folder, limits))
    if (folder / MANIFEST).is_file():
        return read_manifest(folder)
    entries = _found(folder, limits)
    splits = split_subjects([entry.subject for entry in entries])
    return [replace(entry, split=splits[entry.subject]) for entry in entries]


def of_split(entries: Sequence[DatasetEntry], split: str, split_file: Path | None = None) -> list[DatasetEntry]:
    """Those of one split, of :func:`assigned_entries`.

    Raises:
        SettingsError: there are none.
    """
    chosen = [entry for entry in entries if split in (entry.split, "all")]
    if not chosen:
        name, there = MANIFEST if split_file is None else split_file.name, sorted({entry.split for entry in entries})
        raise SettingsError(f"{name} has no entry in split '{split}' (it has {there}). Add one.")
    return chosen


def read_manifest(folder: Path) -> list[DatasetEntry]:
    """Read ``manifest.csv`` of a dataset folder.

    Raises:
        SettingsError: a column or value is missing or unknown, a file is listed twice, or a patient is in two splits.
    """
    with (folder / MANIFEST).open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = {"file", "split"} - set(reader.fieldnames or ())
        if missing:
            raise SettingsError(f"{MANIFEST} has no column {' and no column '.join(sorted(missing))}. Add it.")
        entries = _with_subjects([_listed(folder, row, line) for line, row in enumerate(reader, start=2)])
    check_one_split_each(entries, MANIFEST)
    return entries


def split_subjects(subjects: Sequence[str]) -> dict[str, str]:
    """Split of each patient, from the patient's hash alone wherever no split would be empty.

    Raises:
        SettingsError: there are fewer than three patients.

    Example:
        >>> sorted(split_subjects(["a", "b", "c"]).values())
        ['calibration', 'test', 'train']
    """
    order = sorted(set(subjects), key=_share)
    if len(order) < len(SPLITS):
        raise SettingsError(
            f"The dataset folder holds {len(order)} patients, but 3 are needed: one each to train, to calibrate and to "
            f"test. Add patients. Names that may be one patient's are taken as one: if they are not, list file, "
            f"subject and split of each volume in {MANIFEST}."
        )
    splits = {
        subject: "test" if _share(subject) < _TEST_BELOW else "calibration"
        if _share(subject) < _CALIBRATION_BELOW else "train"
        for subject in order
    }  # fmt: skip
    for empty in [split for split in SPLITS if split not in splits.values()]:
        counts = {split: sum(found == split for found in splits.values()) for split in SPLITS}
        fullest = max(SPLITS, key=lambda split: counts[split])
        splits[next(subject for subject in order if splits[subject] == fullest)] = empty
    return splits


def _found(folder: Path, limits: ReadLimits) -> list[DatasetEntry]:
    """Every volume and its patient, in no split yet."""
    found, skipped = find_sources(folder, limits)
    # A 4D file is given as a whole, which its reader refuses: its volumes are too much alike.
    sources = list({one.paths: _whole(one.source) for one in found}.values())
    log = logging.getLogger(__name__)
    for item in skipped:
        log.warning("%d files (%s) are left out: %s", item.n_files, item.case, item.message)
    images = [one for one in sources if not (isinstance(listed(one), Path) and is_label(_path(one, folder)))]
    if len(images) < len(sources):
        log.warning("%d files are left out: folder or name says labels, not images", len(sources) - len(images))
    sources = images
    if not sources:
        raise SourceError(
            "The dataset folder holds no DICOM series and no volume file. Check the path.", ReasonCode.EMPTY_SOURCE
        )
    is_series = [isinstance(listed(source), SeriesFiles) for source in sources]
    places = _places([_path(source, folder) for source in sources], is_series)
    patients = _patients(sources, folder, limits)
    return [
        DatasetEntry(source, *_name_and_modality(source), subject, "", False, str(place), key, rule)
        for source, place, (subject, key, rule) in zip(sources, places, patients, strict=True)
    ]


def _whole(source: AnySource) -> AnySource:
    return replace(source, volume=0) if isinstance(source, PackedSource) else listed(source)


def _name_and_modality(source: AnySource) -> tuple[str, str | None]:
    item = listed(source)
    return (item.case, item.modality) if isinstance(item, SeriesFiles) else (item.name, None)


def _path(source: AnySource, folder: Path) -> PurePath:
    """Path of a volume file, or of the first file of a series, relative to the dataset folder."""
    item = listed(source)
    path = min(item.paths) if isinstance(item, SeriesFiles) else item
    return PurePath(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _patients(sources: Sequence[AnySource], folder: Path, limits: ReadLimits) -> list[tuple[str, str, str]]:
    """Hash, name and rule of each source's patient.

    A volume file, or a series without Patient ID, is that patient's whose series alone lie beside or below it, or whose
    paths have the same name.
    """
    paths = [_path(source, folder) for source in sources]
    is_series = [isinstance(listed(source), SeriesFiles) for source in sources]
    ids = [_patient_id(one, limits) if series else "" for one, series in zip(sources, is_series, strict=True)]
    by_path = patients_by_path(
        [(path.parent if one else path, not one) for path, one in zip(paths, is_series, strict=True)]
    )
    beside: dict[object, set[str]] = defaultdict(set)
    for path, patient, patient_id in zip(paths, by_path, ids, strict=True):
        for place in (patient.key, *path.parents[:-1]):
            beside[place] |= {patient_id} - {""}
    return [
        _patient(one, own, [beside[one.key], *(beside[place] for place in path.parents[:-1])])
        for path, one, own in zip(paths, by_path, ids, strict=True)
    ]


def _patient(by_path: Patient, own: str, beside: Sequence[set[str]]) -> tuple[str, str, str]:
    """A hash stands for a Patient ID, which is an attribute of the patient."""
    nearest = {own} if own else next((ids for ids in beside if ids), set())
    subject = case_digest(*nearest) if len(nearest) == 1 else case_digest(by_path.key)
    return (subject, subject, "DICOM Patient ID") if len(nearest) == 1 else (subject, by_path.key, by_path.rule)


def _patient_id(source: AnySource, limits: ReadLimits) -> str:
    with first_file(source) as path:
        header = read_header(path, limits)
    return "" if header is None else text(header, "PatientID")


def _places(paths: Sequence[PurePath], is_series: Sequence[bool]) -> list[PurePath]:
    """How a list names each source: a series by its folder, unless another series lies there too."""
    folders = Counter(path.parent for path, series in zip(paths, is_series, strict=True) if series)
    pairs = zip(paths, is_series, strict=True)
    return [path.parent if series and folders[path.parent] == 1 else path for path, series in pairs]


def _listed(folder: Path, row: Mapping[str, str | None], line: int) -> DatasetEntry:
    file, split, modality, subject = ((row.get(key) or "").strip() for key in ("file", "split", "modality", "subject"))
    if not file or split not in SPLITS:
        raise SettingsError(
            f"Line {line} of {MANIFEST} has file '{Path(file).name}' and split '{split}'; give a file and one of "
            f"{', '.join(SPLITS)}."
        )
    checked({"modality": modality or None})
    path = folder / file
    return DatasetEntry(path, path.name, modality or None, subject, split, True, file)


def _with_subjects(entries: list[DatasetEntry]) -> list[DatasetEntry]:
    """Those of which the manifest does not say whose they are get the patient that follows from the path."""
    is_file = [not (isinstance(entry.source, Path) and entry.source.is_dir()) for entry in entries]
    found = patients_by_path([(PurePath(entry.place), file) for entry, file in zip(entries, is_file, strict=True)])
    return [
        entry if entry.subject else replace(entry, subject=case_digest(one.key), patient=one.key, rule=one.rule)
        for entry, one in zip(entries, found, strict=True)
    ]


def _share(subject: str) -> float:
    return int(case_digest(subject), 16) / 16**12

"""Which volumes a dataset folder holds, whose they are, and which split they belong to.

With ``manifest.csv`` in the folder: one row a volume, columns ``file`` (a volume file, or a folder with one DICOM
series, relative to the dataset folder) and ``split`` (``train``, ``calibration``, ``test``); and where known
``modality`` (``CT`` in HU, ``MR``, ``PT``; DICOM says its own) and ``subject``. Other columns are not read.

Without: everything that is found below the folder, DICOM series and volume files mixed. A patient is the DICOM Patient
ID, else the first folder below the dataset folder, else the file's stem; of these only a hash is kept. Patients are
split by that hash, about 70 % train, 15 % calibration and 15 % test, the same way each time.
"""

from __future__ import annotations

import csv
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.io import AnySource, PackedSource, SeriesFiles, find_sources, volume_case
from monai_ldmsr.io.dicom_header import read_header, text
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.packed_source import first_file, listed
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.settings import checked
from monai_ldmsr.training.volumes import MANIFEST, SPLITS

__all__ = ["DatasetEntry", "find_entries", "read_manifest", "split_subjects"]

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
    """

    source: AnySource = field(repr=False)
    name: str
    modality: str | None
    subject: str
    split: str
    listed: bool


def find_entries(dataset_dir: str | Path, split: str, limits: ReadLimits = DEFAULT_LIMITS) -> list[DatasetEntry]:
    """Volumes of one split.

    Args:
        dataset_dir: see the module's text.
        split: one of :data:`SPLITS`, or ``all``.
        limits: the largest volume that is taken.

    Raises:
        SettingsError: no such split, a manifest that lacks something, a patient in two splits, or too few patients.
        SourceError: the folder does not exist, or holds nothing that can be trained on.
    """
    folder = Path(dataset_dir)
    if split not in (*SPLITS, "all"):
        raise SettingsError(f"split is '{split}'; choose one of {', '.join(SPLITS)}, all.")
    entries = read_manifest(folder) if (folder / MANIFEST).is_file() else _found(folder, split, limits)
    chosen = [entry for entry in entries if split in (entry.split, "all")]
    if not chosen:
        there = sorted({entry.split for entry in entries})
        raise SettingsError(f"The manifest has no entry in split '{split}' (it has {there}). Add one.")
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
        entries = [_listed(folder, row, line) for line, row in enumerate(reader, start=2)]
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        splits[entry.subject].add(entry.split)
    shared = sum(len(found) > 1 for found in splits.values())
    if shared:
        raise SettingsError(
            f"{shared} of {len(splits)} subjects of {MANIFEST} are in more than one split. Keep each in one."
        )
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
            f"test. Add patients, or list files and splits in {MANIFEST}."
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


def _found(folder: Path, split: str, limits: ReadLimits) -> list[DatasetEntry]:
    found, skipped = find_sources(folder, limits)
    # A 4D file is given as a whole, which its reader refuses: its volumes are too much alike.
    sources = list({one.paths: _whole(one.source) for one in found}.values())
    log = logging.getLogger(__name__)
    for item in skipped:
        log.warning("%d files (%s) are left out: %s", item.n_files, item.case, item.message)
    if not sources:
        raise SourceError(
            "The dataset folder holds no DICOM series and no volume file. Check the path.", ReasonCode.EMPTY_SOURCE
        )
    subjects = _subjects(sources, folder, limits)
    splits = split_subjects(subjects) if split != "all" else dict.fromkeys(subjects, "all")
    log.info("%d volumes of %d patients found", len(sources), len(splits))
    return [
        DatasetEntry(source, *_name_and_modality(source), subject, splits[subject], listed=False)
        for source, subject in zip(sources, subjects, strict=True)
    ]


def _whole(source: AnySource) -> AnySource:
    return replace(source, volume=0) if isinstance(source, PackedSource) else listed(source)


def _name_and_modality(source: AnySource) -> tuple[str, str | None]:
    item = listed(source)
    return (item.case, item.modality) if isinstance(item, SeriesFiles) else (item.name, None)


def _subjects(sources: Sequence[AnySource], folder: Path, limits: ReadLimits) -> list[str]:
    """A patient's hash for each source; a volume file beside DICOM series of one patient is that patient's."""
    by_folder: dict[str, set[str]] = defaultdict(set)
    subjects: list[str] = []
    for source in sources:
        item = listed(source)
        if isinstance(item, SeriesFiles):
            subjects.append(_dicom_subject(source, item, folder, limits))
            by_folder[_top(item.paths[0], folder)].add(subjects[-1])
        else:
            subjects.append("")
    for n, item in enumerate(map(listed, sources)):
        if isinstance(item, Path):
            top = _top(item, folder)
            beside = by_folder.get(top, set()) if top else set()
            subjects[n] = next(iter(beside)) if len(beside) == 1 else case_digest(top or volume_case(item))
    return subjects


def _dicom_subject(source: AnySource, series: SeriesFiles, folder: Path, limits: ReadLimits) -> str:
    with first_file(source) as path:
        header = read_header(path, limits)
    patient = "" if header is None else text(header, "PatientID")
    return case_digest(patient or _top(series.paths[0], folder) or series.case)


def _listed(folder: Path, row: Mapping[str, str | None], line: int) -> DatasetEntry:
    file, split, modality, subject = ((row.get(key) or "").strip() for key in ("file", "split", "modality", "subject"))
    if not file or split not in SPLITS:
        raise SettingsError(
            f"Line {line} of {MANIFEST} has file '{Path(file).name}' and split '{split}'; give a file and one of "
            f"{', '.join(SPLITS)}."
        )
    checked({"modality": modality or None})
    path = folder / file
    subject = subject or case_digest(_top(path, folder) or volume_case(path))
    return DatasetEntry(path, path.name, modality or None, subject, split, listed=True)


def _top(path: Path, folder: Path) -> str:
    """First folder below the dataset folder; nothing for a file that lies in the dataset folder itself."""
    parts = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts
    return parts[0] if len(parts) > 1 else ""


def _share(subject: str) -> float:
    return int(case_digest(subject), 16) / 16**12

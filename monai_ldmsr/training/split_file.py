"""The list of which volume is in which split: written at a training's start, to be edited, and given again.

Columns ``file`` (relative to the dataset folder), ``subject``, ``split``, and ``rule``, how the subject was found. As
``manifest.csv`` in the dataset folder it says the same.
"""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.storage import output_errors, replaced_files
from monai_ldmsr.training.volumes import SPLITS

if TYPE_CHECKING:
    from monai_ldmsr.training.discovery import DatasetEntry

__all__ = ["SPLIT_FILE", "as_the_file_says", "check_one_split_each", "write_split"]

#: Name under which a training writes it.
SPLIT_FILE = "split.csv"

_COLUMNS = ("file", "subject", "split", "rule")


def write_split(path: Path, entries: Sequence[DatasetEntry]) -> None:
    """Write the list; only its owner may read it, since names of files may be patients' names.

    Raises:
        OutputError: it cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in sorted(entries, key=lambda entry: (SPLITS.index(entry.split), entry.patient, entry.place)):
        writer.writerow((entry.place, entry.patient, entry.split, entry.rule))
    with output_errors("The list of splits", "Choose another output folder."):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced_files(path) as (partial,):
            partial.touch(mode=0o600)
            partial.write_text(stream.getvalue(), encoding="utf-8", errors="surrogateescape")


def as_the_file_says(path: Path, found: Sequence[DatasetEntry]) -> list[DatasetEntry]:
    """What was found, in the splits of a list; what is not in it is logged and left out.

    Args:
        path: the list; ``subject`` may be missing, and is then what was found.
        found: all volumes of the dataset folder.

    Raises:
        SettingsError: the list cannot be read, lacks a column, names what was not found, or a patient is in two.
    """
    by_place = {entry.place: entry for entry in found}
    subjects = {entry.patient: entry.subject for entry in found}
    lines = enumerate(_rows(path), start=2)
    entries = [_placed(row, f"Line {line} of {path.name}", by_place, subjects) for line, row in lines]
    names = [entry.place for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"{path.name} names {len(twice)} files twice, the first is '{Path(twice[0]).name}'.")
    check_one_split_each(entries, path.name)
    for place in sorted(by_place.keys() - set(names)):
        logging.getLogger(__name__).warning(
            "'%s' is not in %s and is left out. Add it to the list.", Path(place).name, path.name
        )
    order = {place: n for n, place in enumerate(by_place)}
    return sorted(entries, key=lambda entry: order[entry.place])


def check_one_split_each(entries: Sequence[DatasetEntry], name: str) -> None:
    """See that no patient is in two splits, neither by what the list says nor by what was found.

    Raises:
        SettingsError: one is.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        splits[entry.subject].add(entry.split)
    shared = sum(len(names) > 1 for names in splits.values())
    if shared:
        raise SettingsError(
            f"{shared} of {len(splits)} subjects of {name} are in more than one split. Keep each in one."
        )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError:
        raise SettingsError(f"The list of splits '{path.name}' does not exist. Check the path.") from None
    except (OSError, csv.Error) as error:
        raise SettingsError(f"The list of splits '{path.name}' cannot be read ({type(error).__name__}).") from error
    missing = [column for column in ("file", "split") if not rows or column not in rows[0]]
    if missing:
        raise SettingsError(f"{path.name} has no column {' and no column '.join(missing)}, or no line. Add it.")
    return rows


def _placed(
    row: dict[str, str], where: str, by_place: dict[str, DatasetEntry], subjects: dict[str, str]
) -> DatasetEntry:
    file, split, subject = ((row.get(key) or "").strip() for key in ("file", "split", "subject"))
    place = Path(file).as_posix()
    if split not in SPLITS:
        raise SettingsError(f"{where} has split '{split}'; give one of {', '.join(SPLITS)}.")
    if place not in by_place:
        raise SettingsError(
            f"{where} names '{Path(file).name}', which is no volume of the dataset folder. Put it back, or remove "
            "the line."
        )
    entry = replace(by_place[place], split=split)
    if not subject or subject == entry.patient:
        return entry
    # A word of the list's own is kept apart from subjects that were found.
    known = subjects.get(subject, f"listed {subject}")
    return replace(entry, subject=known, patient=subject, rule="list of splits")

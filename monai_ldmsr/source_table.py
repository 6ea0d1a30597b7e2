"""Who is who: the sources of a run with their paths, for the user who ran it alone.

It is the one file that names sources, written only where it was asked for. Nothing here logs, and nothing of it reaches
a report or a summary.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io import AnySource, ReadLimits, SeriesFiles, SkippedItem
from monai_ldmsr.io.case_names import NamedSource, series_folder
from monai_ldmsr.io.formats import volume_extension
from monai_ldmsr.io.packed_source import listed
from monai_ldmsr.io.source_choice import file_words, source_words
from monai_ldmsr.run_summary import RunSummary
from monai_ldmsr.storage import output_errors, replace_text, replaced_files

__all__ = ["PRIVATE_FOLDER", "SourceRow", "SourceTable", "source_rows"]

#: Folder in the output folder where the table is written unless another place is named.
PRIVATE_FOLDER = "private"

_NAME, _NOTE_NAME = "sources.csv", "README.txt"

_COLUMNS = ("case", "status", "reason", "source", "series_number", "series_description", "n_files")

_NOTE = """\
sources.csv in this folder says which source each result, skip and failure came from, by path, series number and series
description. These may identify patients. Do not pass this folder on: not with results, not with reports, not with a
question. Nothing reads it; it can be removed at any time.
"""


@dataclass(frozen=True)
class SourceRow:
    """One source: of a result the whole series or file, of what was left out one file.

    Args:
        case: name of the result, or what stands for it in the summary.
        source: path relative to the source of the run.
        number: Series Number.
        description: Series Description.
        n_files: how many files.
    """

    case: str
    source: str
    number: str = ""
    description: str = ""
    n_files: int = 1


class SourceTable:
    """The file of the table.

    Args:
        file: CSV file to write; None for ``private/sources.csv`` in the output folder, beside a note.
        output_dir: output folder of the run.

    Raises:
        SettingsError: it is no ``.csv``, or another file of that name is there.
    """

    def __init__(self, file: Path | None, output_dir: Path) -> None:
        self._is_private = file is None
        self._file = output_dir / PRIVATE_FOLDER / _NAME if file is None else file
        if self._file.suffix.lower() != ".csv":
            raise SettingsError(f"The table of sources is '{file}'; give a file that ends in .csv.")
        if os.path.lexists(self._file) and not self._is_ours():
            raise SettingsError(f"'{self._file}' is there and is not a table of sources, so it is not replaced.")

    def write(self, rows: Sequence[SourceRow], summary: RunSummary) -> None:
        """Write the file, replaced as a whole; only its owner may read it.

        Args:
            rows: one row of each source.
            summary: what became of them; what is not in it is still waiting.

        Raises:
            OutputError: it cannot be written.
        """
        known = {case.case: (case.status, case.reason) for case in summary.cases}
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in rows:
            outcome = known.get(row.case, ("queued", ""))
            cells = (row.case, *outcome, row.source, row.number, row.description, str(row.n_files))
            writer.writerow([safe_cell(cell) for cell in cells])
        with output_errors("The table of sources", "Choose another file."):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if self._is_private else 0o777)
            if self._is_private:
                replace_text(self._file.with_name(_NOTE_NAME), _NOTE)
            with replaced_files(self._file) as (partial,):
                partial.touch(mode=0o600)
                partial.write_text(stream.getvalue(), encoding="utf-8")

    def _is_ours(self) -> bool:
        try:
            with self._file.open(encoding="utf-8") as file:
                return file.readline().strip() in ("", ",".join(_COLUMNS))
        except (OSError, ValueError):
            return False


def source_rows(
    found: Iterable[NamedSource[AnySource]], skipped: Iterable[SkippedItem], root: Path, limits: ReadLimits
) -> list[SourceRow]:
    """Rows of a run's sources, with what their headers say.

    Args:
        found: what is worked on.
        skipped: what is left out; a row for each file.
        root: folder that paths are relative to.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
    """
    rows = [_found_row(one, root, limits) for one in found]
    for item in skipped:
        for path in item.paths:
            rows.append(SourceRow(item.case, os.path.relpath(path, root), *_series_words(path, limits)))
        if not item.paths:
            rows.append(SourceRow(item.case, "", n_files=item.n_files))
    return rows


def _found_row(one: NamedSource[AnySource], root: Path, limits: ReadLimits) -> SourceRow:
    """Of a series the folder (or archive) is named, and not its one file."""
    files = list(dict.fromkeys(one.paths))
    if not isinstance(listed(one.source), SeriesFiles):
        return SourceRow(one.name, os.path.relpath(files[0], root), n_files=len(files))
    words = source_words(one, limits)
    place = os.path.relpath(series_folder(files), root)
    return SourceRow(one.name, place, words.number, words.description, len(files))


def _series_words(path: Path, limits: ReadLimits) -> tuple[str, str]:
    """Series Number and Series Description of a DICOM file."""
    words = None if volume_extension(path) else file_words(path, limits)
    return (words.number, words.description) if words else ("", "")


def safe_cell(value: str) -> str:
    """Text that no spreadsheet takes for a formula, on one line, in UTF-8.

    Example:
        >>> safe_cell("=1+1"), safe_cell("-3"), safe_cell("t2")
        ("'=1+1", '-3', 't2')
    """
    value = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", value)
    value = value.encode("utf-8", "backslashreplace").decode()
    is_formula = unicodedata.normalize("NFKC", value).strip()[:1] in tuple("=+-@|")
    return f"'{value}" if is_formula and not re.fullmatch(r"-?[0-9]{1,12}", value) else value

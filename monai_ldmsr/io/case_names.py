"""Names of results: each follows from its source alone, so that it never comes to belong to another source.

A name ends in 12 hexadecimal digits: of a series those of its identifiers, of a volume file those of its name and
content and of the files that belong to it. What stands before them is for people; which other sources there are, and
in what order they are found, has no part in it.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Generic, TypeVar

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.formats import stem, volume_extension
from monai_ldmsr.io.readable_names import readable
from monai_ldmsr.io.series_grouping import SkippedItem, case_digest
from monai_ldmsr.io.value_kind import lies_among_labels
from monai_ldmsr.io.volume_file import volume_case

__all__ = [
    "NAMINGS",
    "NamedSource",
    "case_name",
    "distinct",
    "series_folder",
    "series_place",
    "volume_digest",
]

#: Ways to name results; None is ``hash`` for series and ``stem`` for volume files.
NAMINGS = ("hash", "stem", "path")

_T = TypeVar("_T")

_SAME = "The same series or file stands in another place too, with the same content. It is worked on once."
_CONFLICT = (
    "Two folders hold images with the same SOP Instance UIDs and different content, so one of them is wrong. "
    "Remove the wrong one."
)


@dataclass(frozen=True)
class NamedSource(Generic[_T]):
    """A source and the name of its result.

    Args:
        name: see :func:`case_name`.
        content: digest of its files' contents, wherever they lie; they are read when it is asked for.
        paths: the files of the unit; kept out of ``repr``: names may be patients' names.
        source: what is named.
    """

    name: str
    content: Callable[[], str] = field(repr=False)
    paths: tuple[Path, ...] = field(repr=False)
    source: _T = field(repr=False)


def case_name(naming: str | None, digest: str, place: PurePath, is_series: bool) -> str:
    """Name of a result's folder.

    Args:
        naming: ``hash``, ``stem``, ``path`` or None, see :data:`NAMINGS`.
        digest: what the name ends in.
        place: path of the volume file, or of the folder with the series' files, relative to the source.
        is_series: whether it is a DICOM series.
    """
    if naming == "hash" or (naming is None and is_series):
        return digest
    if naming == "path" and len(place.parts) > 1:
        place = PurePath("_".join(part for part in place.parts if part not in ("..", place.anchor)))
    spelled = (readable(place.name) or "volume") if is_series else volume_case(place)
    return f"{spelled}-{digest}"


def series_folder(paths: Iterable[Path]) -> str:
    """Innermost folder that holds all files of a series, as an absolute path."""
    return os.path.commonpath([os.path.abspath(path.parent) for path in paths])


def series_place(paths: Iterable[Path], root: Path) -> PurePath:
    """Innermost folder of a series' files, relative to ``root``; the name of ``root`` where it is that itself."""
    folder = series_folder(paths)
    relative = os.path.relpath(folder, root)
    return PurePath(os.path.basename(folder) if relative == "." else relative)


def volume_digest(path: PurePath, contents: Sequence[str]) -> str:
    """Digits that stand for a volume file: for its name, whose stem in readable form may be that of another, and more.

    Args:
        path: path of the file; of its folder only this counts: a copy among label maps is no copy of an image.
        contents: SHA-256 of the file, and of the files that belong to it; nothing of what is not there.
    """
    name = unicodedata.normalize("NFC", stem(path))
    of_name = case_digest(name, volume_extension(path) or "", "labels" if lies_among_labels(path) else "")
    return case_digest("volume", of_name, *contents)


def distinct(found: Iterable[NamedSource[_T]]) -> tuple[list[NamedSource[_T]], list[SkippedItem]]:
    """One source of each name, and what is left out: copies, and files that contradict each other."""
    by_name: dict[str, list[NamedSource[_T]]] = defaultdict(list)
    for one in found:
        by_name[one.name.casefold()].append(one)  # to some file systems upper and lower case are one
    kept, left_out = [], []
    for same in by_name.values():
        first = same[0]
        if len(same) > 1 and len({one.content() for one in same}) > 1:
            paths = tuple(path for one in same for path in one.paths)
            n_files = len({path for one in same[1:] for path in one.paths})
            left_out.append(SkippedItem(first.name, ReasonCode.DUPLICATE_UID_CONFLICT, _CONFLICT, n_files, paths))
            continue
        kept.append(first)
        if len(same) > 1:
            paths = tuple(dict.fromkeys(path for one in same[1:] for path in one.paths))
            case = case_digest(first.name)
            left_out.append(SkippedItem(case, ReasonCode.DUPLICATE_SERIES, _SAME, len(paths), paths))
    return kept, left_out

"""Names for everything that one run works on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path, PurePath

from monai_ldmsr.io.case_names import (
    NamedSource,
    case_name,
    distinct,
    series_content,
    series_place,
    stem_digest,
    volume_contents,
    volume_digest,
)
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.nifti_file import NiftiVolume
from monai_ldmsr.io.packed_source import AnySource
from monai_ldmsr.io.series_grouping import SeriesFiles, SkippedItem

__all__ = ["named_sources"]

#: A series, a volume file, or the volumes of a 4D file.
_Item = SeriesFiles | Path | list[NiftiVolume]


def named_sources(
    sources: Iterable[SeriesFiles | Path | NiftiVolume],
    root: Path,
    naming: str | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
) -> tuple[list[NamedSource[AnySource]], list[SkippedItem]]:
    """Name sources; of files with one stem and one content, one is worked on.

    Args:
        sources: volumes of one 4D file follow each other.
        root: folder that places are relative to.
        naming: one of :data:`~monai_ldmsr.io.case_names.NAMINGS`.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Returns:
        Sources with their names, in the given order; and copies, which are left out.
    """
    kept, copies = distinct(_named(item, root, naming, limits) for item in _items(sources))
    return [one for item in kept for one in _volumes(item)], copies


def _items(sources: Iterable[SeriesFiles | Path | NiftiVolume]) -> Iterator[_Item]:
    for _, group in groupby(sources, lambda item: item.file if isinstance(item, NiftiVolume) else item):
        volumes = list(group)
        yield [one for one in volumes if isinstance(one, NiftiVolume)] or volumes[0]  # type: ignore[misc]


def _named(item: _Item, root: Path, naming: str | None, limits: ReadLimits) -> NamedSource[_Item]:
    if isinstance(item, SeriesFiles):
        name = case_name(naming, item.case, series_place(item.paths, root), is_series=True)
        return NamedSource(name, partial(series_content, item), item.paths, item)
    path = item[0].file.path if isinstance(item, list) else item
    digest = volume_digest(stem_digest(path), volume_contents(path, limits))
    name = case_name(naming, digest, PurePath(os.path.relpath(path, root)), is_series=False)
    return NamedSource(name, lambda: digest, (path,), item)


def _volumes(item: NamedSource[_Item]) -> Iterator[NamedSource[AnySource]]:
    sources = item.source if isinstance(item.source, list) else [item.source]
    for source in sources:
        suffix = source.suffix if isinstance(source, NiftiVolume) else ""
        yield NamedSource(f"{item.name}{suffix}", item.content, item.paths, source)

"""The files that belong to a volume file: its voxels, where they are in another one, and what dcm2niix says of it."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.text_header import is_plain, text_header
from monai_ldmsr.io.volume_format import NIBABEL, sidecar_name, volume_extension, voxels_beside

__all__ = ["part_names", "parts_beside"]


def part_names(path: Path, limits: ReadLimits, name: str = "") -> tuple[str, str]:
    """Names of the file with the voxels (empty: they are in the file itself) and of the JSON file, if they exist.

    Args:
        path: of a volume file.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        name: of the volume file in its own place, when ``path`` is a copy of it.
    """
    name = name or path.name
    if volume_extension(PurePath(name)) in NIBABEL:
        return voxels_beside(name) or "", sidecar_name(name)
    try:
        data = text_header(path, limits).data_name or ""
    except Exception:  # as the reader meets it again, and says what it is
        data = ""
    return data if is_plain(data) else "", sidecar_name(name)


def parts_beside(path: Path, limits: ReadLimits) -> list[Path]:
    """Files beside a volume file that belong to it."""
    beside = (path.with_name(name) for name in part_names(path, limits) if name)
    return [part for part in beside if os.path.isfile(part)]  # a name may be too long for Path.is_file

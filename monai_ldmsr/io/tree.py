"""Walk a folder that may hold anything: links, pipes, what may not be opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError

__all__ = ["check_apart", "files_below"]

_LINK = (ReasonCode.NOT_AN_IMAGE, "A link that leads out of the source folder, or to a folder, is not followed.")
_NO_FILE = (ReasonCode.NOT_AN_IMAGE, "A pipe, socket or device is no file and is not opened.")
_CLOSED_FOLDER = (ReasonCode.UNREADABLE_FILE, "A folder may not be opened, so what it holds is unknown.")
_CLOSED_FILE = (ReasonCode.UNREADABLE_FILE, "A file may not be opened. Check its permissions.")


def check_apart(source: Path, output_dir: Path) -> None:
    """Refuse a source that does not exist, and an output folder within it.

    Raises:
        SourceError: ``NO_SUCH_SOURCE``.
        SettingsError: results would become sources.
    """
    if not source.exists():
        raise SourceError("The source does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    if source.is_dir() and output_dir.resolve().is_relative_to(source.resolve()):
        raise SettingsError("The output folder lies inside the source. Choose one outside, so that results stay apart.")


def files_below(root: Path) -> tuple[list[Path], Counter[tuple[ReasonCode, str]]]:
    """Find regular files that can be opened; nothing is opened that could wait or lead elsewhere.

    Args:
        root: a folder, or a link to one. Hidden files and folders in it are passed over.

    Returns:
        The files in a fixed order; and how many other entries there are, by reason and message.
    """
    inside = os.path.realpath(root)
    files: list[Path] = []
    others: Counter[tuple[ReasonCode, str]] = Counter()

    def closed(_: OSError) -> None:
        others[_CLOSED_FOLDER] += 1

    for folder, folders, names in os.walk(root, followlinks=False, onerror=closed):
        shown = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in shown if os.path.islink(os.path.join(folder, name))]
        others[_LINK] += len(links)
        folders[:] = [name for name in shown if name not in links]
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(folder, name)
            reason = _passed_over(path, inside)
            if reason is None:
                files.append(path)
            else:
                others[reason] += 1
    return files, +others


def _passed_over(path: Path, inside: str) -> tuple[ReasonCode, str] | None:
    try:
        if path.is_symlink():
            # A loop of links resolves to one of them, which then is no regular file.
            target = os.path.realpath(path)
            if os.path.commonpath((inside, target)) != inside or not os.path.isfile(target):
                return _LINK
        if not stat.S_ISREG(path.stat().st_mode):
            return _NO_FILE
    except OSError:
        return _CLOSED_FILE
    return None if os.access(path, os.R_OK) else _CLOSED_FILE

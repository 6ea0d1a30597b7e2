"""Hidden folders on the datastore's disk, in which results grow before they are moved into place."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_ldmsr.io.partial_folder import locked_folder

if sys.platform != "win32":  # where they are not locked, and so not cleared
    import fcntl

__all__ = ["clear_working_folders", "working_folder"]

_PREFIX = ".ldmsr-"


@contextmanager
def working_folder(studies: Path) -> Iterator[Path]:
    """A folder that ends with the block; one of a process that was killed is known by being nobody's.

    Raises:
        OSError: it cannot be made.
    """
    with (
        TemporaryDirectory(prefix=_PREFIX, dir=studies, ignore_cleanup_errors=True) as name,
        locked_folder(Path(name)),
    ):
        yield Path(name)


def clear_working_folders(studies: Path) -> None:
    """Remove what processes that were killed left; what cannot be removed stays."""
    for folder in studies.glob(f"{_PREFIX}*"):
        descriptor = _locked(folder) if folder.is_dir() and not folder.is_symlink() else None
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Open it for this process alone; None where another has it, or where folders are not locked."""
    if sys.platform == "win32":
        return None
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    if descriptor is not None:
        os.close(descriptor)
    return None

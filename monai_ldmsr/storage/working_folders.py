"""Hidden folders on the disk of what is stored, in which it grows before it is moved into place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_ldmsr.storage.locks import Lock
from monai_ldmsr.storage.whole import output_errors

__all__ = ["clear_working_folders", "working_folder"]

_PREFIX = ".ldmsr-"


@contextmanager
def working_folder(place: Path) -> Iterator[Path]:
    """A folder in ``place`` that ends with the block; one that nobody has locked was left by a process that was killed.

    Args:
        place: made when missing.

    Raises:
        OutputError: it cannot be made.
    """
    with ExitStack() as stack:
        with output_errors("The folder to work in"):
            place.mkdir(parents=True, exist_ok=True)
            made = TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        with suppress(OSError):  # some file systems lock no folders; there, none is cleared
            stack.enter_context(Lock(folder))
        yield folder


def clear_working_folders(place: Path) -> None:
    """Remove what processes that were killed left; what cannot be locked or removed stays."""
    for folder in place.glob(f"{_PREFIX}*"):
        if folder.is_dir() and not folder.is_symlink():
            with suppress(OSError), Lock(folder):
                shutil.rmtree(folder, ignore_errors=True)

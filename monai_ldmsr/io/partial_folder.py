"""A result folder, or a file of text, appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_ldmsr.errors import OutputError

if sys.platform != "win32":  # where partial folders are not locked
    import fcntl

__all__ = ["clear_left_over", "locked_folder", "partial_folder", "replace_text", "synced_directory"]

#: A process that was killed lets go of its folders at once; one that only loses its parent needs a moment.
_WAIT_S = 10.0


@contextmanager
def partial_folder(final: Path, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Yield a hidden folder beside ``final`` that takes its place when the block ends without an error.

    An earlier ``final`` stays until the new one is whole on disk; after an error it is untouched and the
    partial folder is gone. What an interrupted run left over is cleared away first.

    Args:
        final: the folder to make or replace.
        check: called with the partial folder once it is on disk; what it raises keeps the folder from its place.

    Raises:
        OutputError: a folder cannot be made, written to disk or moved, or another process is writing it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with partial_folder(Path(place) / "result") as folder:
        ...         _ = (folder / "a.txt").write_text("whole")
        ...     sorted(path.name for path in Path(place).iterdir())
        ['result']
    """
    final = Path(os.path.abspath(final))
    partial, aside = _beside(final)
    clear_left_over(final)
    with _as_output_error(final):
        partial.mkdir(parents=True)
    with locked_folder(partial):
        try:
            with _as_output_error(final, partial):
                yield partial
            with _as_output_error(final):
                _synced(partial)
            if check is not None:
                check(partial)
            with _as_output_error(final):
                _moved_into_place(partial, final, aside)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def clear_left_over(final: Path) -> None:
    """Remove what a process that was killed left beside ``final``, and bring an earlier result back to its place.

    Raises:
        OutputError: it cannot be removed, or another process is still writing it.
    """
    final = Path(os.path.abspath(final))
    partial, aside = _beside(final)
    with _as_output_error(final):
        _wait_for_writer(partial)
        if os.path.lexists(aside) and not os.path.lexists(final):  # it died between the two moves
            os.replace(aside, final)
            synced_directory(final.parent)
        _removed(aside)
        _removed(partial)


def replace_text(path: Path, text: str) -> None:
    """Write a file that takes the place of an earlier one when it is whole.

    Raises:
        OSError: it cannot be written; the earlier one is untouched.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def synced_directory(folder: Path) -> None:
    """Have the names in a folder on disk."""
    if os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Let other processes see that this one is writing there; the system ends it with the process.

    Raises:
        OSError: the folder cannot be opened.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _beside(final: Path) -> tuple[Path, Path]:
    """Where the new folder grows, and where the earlier one waits while they are swapped."""
    return final.with_name(f".{final.name}.part"), final.with_name(f".{final.name}.old")


def _wait_for_writer(partial: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while sys.platform != "win32" and partial.is_dir():
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # moved into place meanwhile
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BlockingIOError(None, "another process is writing it") from None
            time.sleep(0.05)
        except OSError:  # some network file systems lock no folders
            return
        finally:
            os.close(descriptor)


def _moved_into_place(partial: Path, final: Path, aside: Path) -> None:
    """Swap ``final`` for ``partial``; if the second move fails, the earlier result moves back."""
    has_earlier = os.path.lexists(final)
    if has_earlier:
        _removed(aside)
        os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        if has_earlier:
            os.replace(aside, final)
        raise
    synced_directory(final.parent)
    with suppress(OSError):  # the new result is whole; the next run clears what stays
        _removed(aside)


def _removed(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _synced(folder: Path) -> None:
    """Have everything under ``folder`` on disk, files before the folders that name them."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _synced_file(Path(parent, name))
        synced_directory(Path(parent))


def _synced_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            # Whoever checks the file next shall read the disk, and not what the system kept in memory.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def _as_output_error(final: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn an OSError into an OutputError; with ``partial``, only one about a file in it or about no file."""
    try:
        yield
    except OSError as error:
        is_elsewhere = partial is not None and error.filename and partial not in Path(error.filename).parents
        if isinstance(error, OutputError) or is_elsewhere:
            raise
        raise OutputError(
            f"Result folder '{final.name}' cannot be written: {error.strerror or type(error).__name__}. "
            "Check free space and permissions of the folder that holds it."
        ) from None

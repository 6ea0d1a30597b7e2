"""A folder or a file appears whole or not at all, and what cannot be written is reported alike."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from monai_ldmsr.errors import OutputError
from monai_ldmsr.storage import locks

__all__ = [
    "clear_left_over",
    "clear_passing_files",
    "clear_working_folders",
    "left_over",
    "make_writable",
    "move",
    "output_errors",
    "partial_folder",
    "passing_name",
    "replace_text",
    "replaced_files",
    "synced_file",
    "working_folder",
    "write_synced",
]

_CHECK = "Check free space and permissions of the folder that holds it."

#: Endings of the names under which something grows, and under which an earlier folder waits while the two are swapped.
_GROWING, _EARLIER = ".part", ".old"

#: What the names of hidden folders begin with in which files grow before they are moved into place.
_WORKING = ".ldmsr-"


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
    partial, what = passing_name(final), f"Result folder '{final.name}'"
    clear_left_over(final)
    with output_errors(what):
        partial.mkdir(parents=True)
    with ExitStack() as stack:
        with suppress(OSError):  # some file systems lock no folders
            stack.enter_context(locks.Lock(partial))
        try:
            with output_errors(what, only=[partial]):
                yield partial
            with output_errors(what):
                _sync_tree(partial)
            if check is not None:
                check(partial)
            with output_errors(what):
                _swap(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def clear_left_over(final: Path) -> None:
    """Remove what a process that was killed left beside ``final``, and bring an earlier result back to its place.

    Raises:
        OutputError: it cannot be removed, or another process is still writing it.
    """
    final = Path(os.path.abspath(final))
    aside = final.with_name(f".{final.name}{_EARLIER}")
    with output_errors(f"Result folder '{final.name}'"):
        _wait_for_writer(passing_name(final))
        if os.path.lexists(aside) and not os.path.lexists(final):  # it died between the two moves
            move((aside, final))
        _remove(aside)
        _remove(passing_name(final))


def left_over(folder: Path) -> set[str]:
    """Names of folders beside whose place in ``folder`` something lies that a killed process may have left.

    Raises:
        OSError: ``folder`` cannot be read.
    """
    hidden = (name for name in os.listdir(folder) if name.startswith(".") and name.endswith((_GROWING, _EARLIER)))
    return {name[1:].rpartition(".")[0] for name in hidden}


@contextmanager
def replaced_files(*finals: Path) -> Iterator[tuple[Path, ...]]:
    """Yield temporary names for files, which take their places when the block ends without an error.

    They are on disk before they do. After an error the earlier ones are untouched, and nothing else is left.

    Args:
        finals: the files to make or replace; their folders are made when missing.

    Raises:
        OutputError: one cannot be written.
    """
    partials = tuple(map(passing_name, finals))
    try:
        with output_errors(finals[0].name):
            for final in finals:
                final.parent.mkdir(parents=True, exist_ok=True)
        with output_errors(finals[0].name, only=partials):
            yield partials
        with output_errors(finals[0].name):
            for partial in partials:
                _sync(partial)
            move(*zip(partials, finals, strict=True))
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a file that takes the place of an earlier one when it is whole; see :func:`replaced_files`.

    Raises:
        OutputError: it cannot be written; the earlier one is untouched.
    """
    with replaced_files(path) as (partial,):
        partial.write_text(text, encoding="utf-8")


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that is on disk when the block ends; nothing is left of it after an error.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_synced(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file; see :func:`synced_file`.

    Raises:
        OSError: it cannot be written.
    """
    with synced_file(path) as file:
        file.writelines(chunks)


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
            made = TemporaryDirectory(prefix=_WORKING, dir=place, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        with suppress(OSError):  # some file systems lock no folders; there, none is cleared
            stack.enter_context(locks.Lock(folder))
        yield folder


def clear_working_folders(place: Path) -> None:
    """Remove what processes that were killed left; what cannot be locked or removed stays."""
    for folder in place.glob(f"{_WORKING}*"):
        if folder.is_dir() and not folder.is_symlink():
            with suppress(OSError), locks.Lock(folder):
                shutil.rmtree(folder, ignore_errors=True)


def passing_name(final: Path) -> Path:
    """Where a file or folder grows before it takes its place."""
    return final.with_name(f".{final.name}{_GROWING}")


def clear_passing_files(folder: Path) -> None:
    """Remove files under a :func:`passing_name` in a folder that no other process works in.

    Raises:
        OSError: one cannot be removed.
    """
    for path in folder.glob(f"*{_GROWING}"):
        path.unlink()


def move(*moves: tuple[Path, Path]) -> None:
    """Move files or folders on one disk, each from the first path to the second; what is there is replaced.

    Raises:
        OSError: one cannot be moved; those before it are.
    """
    for source, target in moves:
        os.replace(source, target)
    for folder in {target.parent for _, target in moves}:
        _sync_names(folder)


def make_writable(folder: Path, what: str = "The output folder") -> None:
    """Make a folder, and see that files can be made in it.

    Args:
        folder: made when missing.
        what: words for it in the message.

    Raises:
        OutputError: it cannot be made, or holds no new file.
    """
    with output_errors(what, "Choose another."):
        folder.mkdir(parents=True, exist_ok=True)
        probe = passing_name(folder / f"{os.getpid()}")
        probe.touch()
        probe.unlink()


@contextmanager
def output_errors(what: str, remedy: str = _CHECK, only: Sequence[Path] = ()) -> Iterator[None]:
    """Turn an OSError into an OutputError that says what cannot be written, why, and what to do.

    Args:
        what: begins the message; no path.
        remedy: ends it.
        only: files and folders; an error about a file elsewhere stays as it is.
    """
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if only and isinstance(error.filename, str | bytes) else None
        is_elsewhere = named is not None and not {named, *named.parents} & set(only)
        if isinstance(error, OutputError) or is_elsewhere:
            raise
        # Some libraries raise another error, of which the system's is the cause.
        causes = (error, error.__cause__, error.__context__)
        said = next((cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
        raise OutputError(f"{what} cannot be written: {said or type(error).__name__}. {remedy}") from None


def _wait_for_writer(partial: Path) -> None:
    if not partial.is_dir():
        return
    try:
        locks.Lock(partial, locks.WAIT_S).close()
    except BlockingIOError:
        raise BlockingIOError(None, "another process is writing it") from None
    except OSError:  # moved into place meanwhile; or a file system that locks no folders
        pass


def _swap(partial: Path, final: Path) -> None:
    """Swap ``final`` for ``partial``; if the second move fails, the earlier result moves back."""
    aside = final.with_name(f".{final.name}{_EARLIER}")
    has_earlier = os.path.lexists(final)
    if has_earlier:
        _remove(aside)
        os.replace(final, aside)
    try:
        os.replace(partial, final)
    except OSError:
        if has_earlier:
            os.replace(aside, final)
        raise
    _sync_names(final.parent)
    with suppress(OSError):  # the new result is whole; the next run clears what stays
        _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_tree(folder: Path) -> None:
    """Have everything under ``folder`` on disk, files before the folders that name them."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(parent, name))
        _sync_names(Path(parent))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            # Whoever checks the file next shall read the disk, and not what the system kept in memory.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_names(folder: Path) -> None:
    """Have the names in a folder on disk."""
    if os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A result folder appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from monai_ldmsr.errors import OutputError

__all__ = ["partial_folder"]


@contextmanager
def partial_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``final`` that takes its place when the block ends without an error.

    An earlier ``final`` stays until the new one is whole on disk; after an error it is untouched and the
    partial folder is gone. What an interrupted run left over is cleared away first.

    Args:
        final: the folder to make or replace.

    Raises:
        OutputError: a folder cannot be made, written to disk or moved.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with partial_folder(Path(place) / "result") as folder:
        ...         _ = (folder / "a.txt").write_text("whole")
        ...     sorted(path.name for path in Path(place).iterdir())
        ['result']
    """
    final = Path(os.path.abspath(final))
    partial = final.with_name(f".{final.name}.part")
    aside = final.with_name(f".{final.name}.old")
    with _as_output_error(final):
        if os.path.lexists(aside) and not os.path.lexists(final):  # a run died between the two moves
            os.replace(aside, final)
        _removed(partial)
        partial.mkdir(parents=True)
    try:
        with _as_output_error(final, partial):
            yield partial
        with _as_output_error(final):
            _synced(partial)
            _moved_into_place(partial, final, aside)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
    _synced_directory(final.parent)
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
        _synced_directory(Path(parent))


def _synced_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _synced_directory(path: Path) -> None:
    if os.name == "nt":  # Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

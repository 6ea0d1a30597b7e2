"""Walk a folder that may hold anything: links, pipes, what may not be opened. Or the sources that a text file lists.

A list has one path a line, relative to the file or absolute; ``#`` begins a comment.
"""

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError

__all__ = ["Others", "check_apart", "empty_source", "files_below", "files_of", "given_sources", "no_such_source"]

#: What is left out, by reason and message.
Others = dict[tuple[ReasonCode, str], list[Path]]

_LINK = (ReasonCode.NOT_AN_IMAGE, "A link that leads out of the source folder, or to a folder, is not followed.")
_NO_FILE = (ReasonCode.NOT_AN_IMAGE, "A pipe, socket or device is not a file and is not opened.")
_CLOSED_FOLDER = (
    ReasonCode.UNREADABLE_FILE,
    "A folder cannot be opened, so what it holds is unknown. Check its permissions.",
)
_CLOSED_FILE = (ReasonCode.UNREADABLE_FILE, "A file cannot be opened. Check its permissions.")

#: A list is text, and no longer than this.
_MOST_BYTES = 2**24


def check_apart(source: Path, output_dir: Path) -> None:
    """Refuse a source that does not exist, and an output folder within it.

    Raises:
        SourceError: ``NO_SUCH_SOURCE``.
        SettingsError: results would become sources.
    """
    if not os.path.exists(source):
        raise no_such_source(source)
    for folder in [path for _, path in _listed_sources(source)] if _is_source_list(source) else [source]:
        if os.path.isdir(folder) and output_dir.resolve().is_relative_to(folder.resolve()):
            said = "The output folder{} lies inside the source{}. Choose one outside, so that results stay apart."
            raise SettingsError(said.format("", "")).on_console(said.format(f" '{output_dir}'", f" '{source}'"))


def no_such_source(source: Path) -> SourceError:
    """The error for a path that leads nowhere."""
    said = "The source{} does not exist. Check the path."
    return SourceError(said.format(""), ReasonCode.NO_SUCH_SOURCE).on_console(said.format(f" '{source}'"))


def empty_source(source: Path) -> SourceError:
    """The error for a folder that holds no file."""
    said = "The source folder{} holds no file."
    return SourceError(said.format(""), ReasonCode.EMPTY_SOURCE).on_console(said.format(f" '{source}'"))


def given_sources(source: Path) -> tuple[list[Path], Others]:
    """The source, or those that it lists and that are there; and the lines that name nothing.

    Raises:
        SourceError: ``NO_SUCH_SOURCE`` when it does not exist, ``EMPTY_SOURCE`` for a list without entries.
    """
    if not os.path.exists(source):
        raise no_such_source(source)
    if not _is_source_list(source):
        return [source], {}
    entries = _listed_sources(source)
    missing: Others = {}
    for line, path in entries:
        if not os.path.exists(path):
            message = f"Line {line} of the list names nothing that is there. Correct or remove it."
            missing[ReasonCode.NO_SUCH_SOURCE, message] = [path]
    if 2 * len(missing) > len(entries):  # prose may name a file or two
        message = (
            f"{len(missing)} of {len(entries)} lines of the text file name no file or folder that is there, so it is "
            "no list of sources. Write one path a line, relative to the list or absolute."
        )
        return [], {(ReasonCode.NOT_AN_IMAGE, message): [source]}
    return [path for _, path in entries if os.path.exists(path)], missing


def files_of(sources: Iterable[Path]) -> tuple[list[Path], Others]:
    """Files of several sources, each once; see :func:`files_below`."""
    # Its libraries are not where packed volumes are trained on, which this module's other functions serve too.
    from monai_ldmsr.io.formats import header_beside

    found: dict[str, Path] = {}
    others: Others = {}
    for source in sources:
        files, left_out = ([header_beside(source) or source], {}) if source.is_file() else files_below(source)
        for path in files:
            found.setdefault(os.path.abspath(path), path)
        for key, paths in left_out.items():
            others.setdefault(key, []).extend(paths)
    return list(found.values()), others


def files_below(root: Path) -> tuple[list[Path], Others]:
    """Find regular files that can be opened; nothing is opened that could wait or lead elsewhere.

    Args:
        root: a folder, or a link to one. Hidden files and folders in it are passed over.

    Returns:
        The files in a fixed order; and other entries by reason and message.
    """
    inside = os.path.realpath(root)
    files: list[Path] = []
    others: Others = defaultdict(list)

    def closed(error: OSError) -> None:
        others[_CLOSED_FOLDER].append(Path(error.filename))

    for folder, folders, names in os.walk(root, followlinks=False, onerror=closed):
        shown = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in shown if os.path.islink(os.path.join(folder, name))]
        if links:
            others[_LINK] += [Path(folder, name) for name in links]
        folders[:] = [name for name in shown if name not in links]
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(folder, name)
            reason = _passed_over(path, inside)
            if reason is None:
                files.append(path)
            else:
                others[reason].append(path)
    return files, dict(others)


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


def _is_source_list(source: Path) -> bool:
    """Whether a source is a list of sources: only what the user names is, by the extension ``.txt`` and being text."""
    if source.suffix.lower() != ".txt" or not source.is_file():
        return False
    content = _content(source)
    return len(content) <= _MOST_BYTES and "\0" not in _decoded(content[:4096])


def _listed_sources(source: Path) -> list[tuple[int, Path]]:
    """Number of the line and path of each entry, whether anything is there or not.

    Raises:
        SourceError: ``EMPTY_SOURCE`` when there is none.
    """
    folder = source.parent
    entries = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", _decoded(_content(source))), start=1):
        text = line.strip()
        # A name may hold a "#" of its own.
        if not os.path.lexists(folder / text):
            text = re.split(r"(?:^|\s)#", text)[0].strip()
        if text:
            entries.append((number, folder / text))
    if not entries:
        raise SourceError(
            "The list of sources is empty. Write one path a line, relative to the list or absolute.",
            ReasonCode.EMPTY_SOURCE,
        )
    return entries


def _content(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(
            f"The list of sources cannot be read: {error.strerror}. Check its permissions.", ReasonCode.UNREADABLE_FILE
        ) from None


def _decoded(content: bytes) -> str:
    """Text of UTF-8, or UTF-16 with its mark; what is neither stays as file names of other encodings do."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "surrogateescape")

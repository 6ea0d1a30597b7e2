"""Training volumes in a folder of a few compressed files, read with torch and numpy alone.

``index.json`` names the format's version, each part with its size and SHA-256, and each volume with its map to model
range and its blocks: slices of one shape, compressed by :mod:`monai_ldmsr.training.slice_codec`, and where they lie in
which part. The index ends in its own SHA-256. Names and subjects are those of :class:`TrainingVolume`; nothing else is
recorded of a patient.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ldmsr.errors import CorruptSourceError, LdmsrError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.training.slice_codec import MAX_STEPS, decode_slices
from monai_ldmsr.training.volumes import SPLITS, FloatImage, TrainingVolume
from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = ["FORMAT", "INDEX", "VERSION", "check_packed", "index_text", "is_packed", "lacks_split", "load_packed"]

#: Name of the list of what a packed folder holds.
INDEX = "index.json"

#: What the index says that it is, and in which version.
FORMAT, VERSION = "monai_ldmsr packed slices", 1

#: More pixels than this are in no block that was written here.
_MAX_BLOCK_PIXELS = 2**27

_MAX_INDEX_BYTES = 2**26


@dataclass(frozen=True)
class _Index:
    parts: Sequence[Mapping[str, Any]]
    volumes: Sequence[Mapping[str, Any]]

    @property
    def splits(self) -> list[str]:
        found = {volume["split"] for volume in self.volumes}
        return [split for split in SPLITS if split in found]


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a dataset folder was written by ``ldmsr pack``, in whatever version."""
    index = Path(folder) / INDEX
    if not index.is_file() or index.stat().st_size > _MAX_INDEX_BYTES:
        return False
    # Also a damaged index is recognised by its beginning, so that the damage is reported.
    with index.open("rb") as stream:
        return FORMAT.encode() in stream.read(200)


def lacks_split(folder: str | os.PathLike[str], split: str) -> bool:
    """Whether a dataset folder is a packed one without this split.

    Raises:
        SourceError: see :func:`check_packed`.
    """
    return is_packed(folder) and split not in _read_index(Path(folder)).splits


def check_packed(folder: str | Path, split: str) -> None:
    """Find out whether a split can be read whole: all its parts are there, with the right content.

    Args:
        folder: a packed dataset, for which :func:`is_packed` holds.
        split: one of ``SPLITS``, or ``all``.

    Raises:
        SettingsError: the folder does not hold the split.
        SourceError: it was written in another version of the format.
        CorruptSourceError: the index or a part is missing, cut short or altered.
    """
    index = _read_index(Path(folder))
    with _as_damage():
        _checked_parts(Path(folder), index, _chosen(index, split))


def load_packed(folder: str | os.PathLike[str], split: str) -> list[TrainingVolume]:
    """Read the volumes of a split, slices float32 in the source's unit.

    Args:
        folder: a packed dataset, for which :func:`is_packed` holds.
        split: one of ``SPLITS``, or ``all``.

    Raises:
        SourceError: see :func:`check_packed`.
    """
    index = _read_index(Path(folder))
    with _as_damage():
        chosen = _chosen(index, split)
        parts = _checked_parts(Path(folder), index, chosen)
        return [_read_volume(volume, parts) for volume in chosen]


def index_text(parts: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]]) -> str:
    """Content of ``index.json``."""
    content = {"format": FORMAT, "version": VERSION, "parts": list(parts), "volumes": list(volumes)}
    return json.dumps({**content, "sha256": _digest(content)}, indent=1, allow_nan=False) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_index(folder: Path) -> _Index:
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        version = content["version"]
        if version == VERSION and content.pop("sha256") == _digest(content):
            return _Index(content["parts"], content["volumes"])
    except FileNotFoundError:
        raise SourceError(f"The folder holds no {INDEX}. Check the path.", ReasonCode.NO_SUCH_SOURCE) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(f"has an {INDEX} that cannot be read") from error
    if version != VERSION:
        raise SourceError(
            f"The packed dataset has version {str(version)[:20]} of its format, but this software reads version "
            f"{VERSION}. Pack it again with this version.",
            ReasonCode.UNREADABLE_FILE,
        )
    raise _damaged(f"has an {INDEX} that was altered")


@contextmanager
def _as_damage() -> Iterator[None]:
    try:
        yield
    except LdmsrError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise _damaged("cannot be read as its index says") from error


def _damaged(what: str) -> CorruptSourceError:
    return CorruptSourceError(f"The packed dataset {what}. Copy or pack it again.", ReasonCode.UNREADABLE_FILE)


def _chosen(index: _Index, split: str) -> list[Mapping[str, Any]]:
    if split not in (*SPLITS, "all"):
        raise SettingsError(f"split is '{split}'; choose one of {', '.join(SPLITS)}, all.")
    chosen = [volume for volume in index.volumes if split in (volume["split"], "all")]
    if not chosen:
        raise SettingsError(
            f"The packed dataset has no split '{split}' (it has {', '.join(index.splits)}). Pack it with --splits."
        )
    return chosen


def _checked_parts(folder: Path, index: _Index, volumes: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Paths of all parts; those that hold the volumes are as they were written."""
    needed = {block["part"] for volume in volumes for block in volume["blocks"]}
    paths = []
    for n, part in enumerate(index.parts):
        path = folder / Path(part["file"]).name
        paths.append(path)
        if n not in needed:
            continue
        if not path.is_file():
            raise _damaged(f"lacks '{path.name}'")
        if (size := path.stat().st_size) != part["bytes"]:
            raise _damaged(f"has {size} bytes in '{path.name}', but {part['bytes']} were written")
        if file_sha256(path) != part["sha256"]:
            raise _damaged(f"has other bytes in '{path.name}' than were written (SHA-256)")
    return paths


def _read_volume(volume: Mapping[str, Any], parts: Sequence[Path]) -> TrainingVolume:
    intensity = volume["intensity"]
    return TrainingVolume(
        name=str(volume["name"]),
        modality=str(volume["modality"]),
        subject=str(volume["subject"]),
        slices=tuple(image for block in volume["blocks"] for image in _read_block(block, volume["step"], parts)),
        intensity=IntensityMap(tuple(intensity["values"]), tuple(intensity["levels"]), intensity["tail"]),
        halved=bool(volume["halved"]),
    )


def _read_block(block: Mapping[str, Any], step: float, parts: Sequence[Path]) -> Iterator[FloatImage]:
    count, height, width = (int(n) for n in block["shape"])
    if min(count, height, width) < 1 or math.prod((count, height, width)) > _MAX_BLOCK_PIXELS:
        raise _damaged("has a block of impossible shape")
    with parts[block["part"]].open("rb") as stream:
        stream.seek(block["offset"])
        planes = [stream.read(size) for size in block["planes"]]
    for image in decode_slices(planes, (count, height, width)).clip(-MAX_STEPS, MAX_STEPS):
        # Through float64, so that whole numbers stay whole.
        yield np.asarray(image * float(step), dtype=np.float32)

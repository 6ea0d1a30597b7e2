"""Whether a volume file's values are grey values: what its header, its name and its values say of labels and else.

Certain signs refuse the file. Uncertain ones are warned of: a name may mislead, and so may few grey levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.io.formats import stem
from monai_ldmsr.io.refusals import label_map

__all__ = [
    "label_warnings",
    "lies_among_labels",
]

_WORDS = r"d?seg|segs|segmentations?|segmented|labels?|labelmaps?|parc|parcellations?|masks?|aseg|wmparc|annot"
#: Of a name or of free text; arterial spin labelling makes images.
_SAYS_LABELS = re.compile(rf"(^|[^a-z])({_WORDS})\d*([^a-z]|$)|(?<!spin)(?<!spin[ _-])label|aparc", re.IGNORECASE)
_FOLDER_OF_LABELS = re.compile(r"labels?(tr|ts|va)?|masks?(tr|ts)?|segmentations?|segs?", re.IGNORECASE)
_NAMED_PHASE = re.compile(r"_ph(_|$)|part-phase|phase(\d|diff)?(_|$)", re.IGNORECASE)

#: An image whose name says labels has more grey levels than these.
_FEW = 32

#: In a slice of an image of many grey levels, less than this part of them fills regions; it need not be read on.
_FILLS_NOTHING = 0.25


def lies_among_labels(path: PurePath) -> bool:
    """Whether the folder of a file is named as those of label maps are."""
    return bool(_FOLDER_OF_LABELS.fullmatch(path.parent.name))


def label_warnings(path: Path, raw: npt.NDArray[Any], texts: Iterable[str]) -> list[str]:
    """Warnings of uncertain signs of a label map or a phase image.

    Args:
        path: path of the file.
        raw: (I, J, K) as stored.
        texts: free text of the header.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` when name or text and values agree.
    """
    is_named = bool(_SAYS_LABELS.search(path.name)) or lies_among_labels(path)
    is_said = any(_SAYS_LABELS.search(text) for text in texts)
    n_values, fills = _whole_numbers(raw)
    what = f"{n_values} whole number{'s' * (n_values > 1)} {'that fill regions' if fills and n_values > 1 else 'alone'}"
    if (is_named or is_said) and (0 < n_values <= _FEW or fills):
        raise label_map(f"{'its name' if is_named else 'a text in its header'} says so, and it holds {what}")
    warnings = []
    if is_named or is_said:
        where = "The file's name" if is_named else "A text in the file's header"
        warnings.append(f"{where} is one of label maps, but its values are not: it was taken for an image.")
    elif n_values > 1 and fills:
        warnings.append(
            f"The file holds {what}, as label maps do. If it is one, this result is wrong: resample it with nearest "
            "neighbour instead."
        )
    if _NAMED_PHASE.search(stem(path)):
        warnings.append(
            "The file's name is one of phase images, whose angles wrap around. If it is one, this result is wrong "
            "where they do: give the magnitude image."
        )
    return warnings


def _whole_numbers(raw: npt.NDArray[Any]) -> tuple[int, bool]:
    """How many different values there are, 0 where not all are whole; and whether most of them fill regions.

    A value fills regions where most of its voxels have an equal neighbour along two axes, or lie alone in the
    background: noise and any shading keep those of an image apart. The background is one value of many, however large.
    """
    middle = raw.shape[2] // 2
    found = []
    for k in (middle, *range(middle), *range(middle + 1, raw.shape[2])):
        values, places, counts = np.unique(raw[:, :, k], return_inverse=True, return_counts=True)
        if raw.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
            return 0, False
        filled = np.bincount(
            places.ravel(), _in_regions(raw, k, values[counts.argmax()]).ravel(), minlength=values.size
        )
        if values.size > _FEW and np.mean(2 * filled > counts) < _FILLS_NOTHING:
            return values.size, False
        found.append((values, counts, filled))
    of_slices, counts, filled = (np.concatenate(parts) for parts in zip(*found, strict=True))
    values, places = np.unique(of_slices, return_inverse=True)
    fills = 2 * np.bincount(places, filled) > np.bincount(places, counts)
    return values.size, bool(2 * np.count_nonzero(fills) > values.size)


def _in_regions(raw: npt.NDArray[Any], k: int, background: Any) -> npt.NDArray[np.bool_]:
    """(I, J) of slice ``k``: whether voxels have likes along two axes, or none but likes and background around them."""
    slab = np.pad(raw[:, :, max(0, k - 1) : k + 2], 1, constant_values=background)
    slab = slab[:, :, min(k, 1) : min(k, 1) + 3]
    image = slab[1:-1, 1:-1, 1]
    axes = (
        (slab[:-2, 1:-1, 1], slab[2:, 1:-1, 1]),
        (slab[1:-1, :-2, 1], slab[1:-1, 2:, 1]),
        (slab[1:-1, 1:-1, 0], slab[1:-1, 1:-1, 2]),
    )
    n_axes, is_apart = np.zeros(image.shape, np.uint8), np.ones(image.shape, np.bool_)
    for neighbours in axes:
        likes = [neighbour == image for neighbour in neighbours]
        n_axes += likes[0] | likes[1]
        for neighbour, like in zip(neighbours, likes, strict=True):
            is_apart &= like | (neighbour == background)
    in_regions: npt.NDArray[np.bool_] = (n_axes >= 2) | is_apart
    return in_regions

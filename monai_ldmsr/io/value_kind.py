"""Whether a volume file's values are grey values: what its header, its name and its values say of labels and else.

Certain signs refuse the file. Uncertain ones are warned of: a name may mislead, and so may few grey levels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import ReasonCode, SkippedSourceError

__all__ = [
    "has_colour_table",
    "label_map",
    "label_warnings",
    "lies_among_labels",
    "no_grey_values",
    "phase_image",
    "refuse_intent",
    "refuse_mgh_intent",
    "refuse_segments",
]

#: NIfTI's NIFTI_INTENT_LABEL and NIFTI_INTENT_NEURONAME: numbers that stand for names.
_LABEL_INTENTS = (1002, 1003)

#: Intents of grey values: none, an estimated parameter (a map of T1 or ADC is an image), dimensionless, a time series.
_GREY_INTENTS = (0, 1001, 1011, 2001)

#: Others of the standard (statistics; matrices, vectors, points, quaternions; nodes, colours, shapes), of FSL
#: (displacement fields and their coefficients) and of CIFTI. What lies beyond is some program's own, and says nothing.
_OTHER_INTENTS = (range(2, 25), range(1004, 1011), range(2002, 2020), range(3000, 3100))

#: FreeSurfer's kinds of volume: its second, after images.
_MGH_LABELS = 1

_SEGMENT_KEY = re.compile(r"segment(\d+_|ation_)", re.IGNORECASE)

_WORDS = r"d?seg|segs|segmentations?|segmented|labels?|labelmaps?|parc|parcellations?|masks?|aseg|wmparc|annot"
#: Of a name or of free text; arterial spin labelling makes images.
_SAYS_LABELS = re.compile(rf"(^|[^a-z])({_WORDS})\d*([^a-z]|$)|(?<!spin)(?<!spin[ _-])label|aparc", re.IGNORECASE)
_FOLDER_OF_LABELS = re.compile(r"labels?(tr|ts|va)?|masks?(tr|ts)?|segmentations?|segs?", re.IGNORECASE)
_NAMED_PHASE = re.compile(r"_ph(_|$)|part-phase|phase(\d|diff)?(_|$)", re.IGNORECASE)

#: An image whose name says labels has more grey levels than these.
_FEW = 32

#: In a slice of an image of many grey levels, less than this part of them fills regions; it need not be read on.
_FILLS_NOTHING = 0.25


def label_map(sign: str) -> SkippedSourceError:
    """Error for a label map that ``sign`` gives away, such as ``"its NIfTI intent code is 1002"``."""
    return SkippedSourceError(
        f"The file is a label map or segmentation: {sign}. New values between labels would be labels that nobody drew. "
        "Resample it with nearest neighbour instead, for instance to the grid of its image's result.",
        ReasonCode.LABEL_MAP,
    )


def phase_image(sign: str) -> SkippedSourceError:
    """Error for a phase image that ``sign`` gives away."""
    return SkippedSourceError(
        f"The file is a phase image: {sign}. Its angles wrap around, and no value between two sides of a wrap is "
        "right. Give the magnitude image.",
        ReasonCode.PHASE_IMAGE,
    )


def no_grey_values(sign: str) -> SkippedSourceError:
    """Error for values that are none of an image, as ``sign`` says."""
    return SkippedSourceError(
        f"The file's values are no grey values of an image: {sign}. Give the image that they were made from.",
        ReasonCode.NO_GREY_VALUES,
    )


def refuse_intent(code: int) -> None:
    """Refuse a NIfTI file by its intent code.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` or ``NO_GREY_VALUES``.
    """
    if code in _LABEL_INTENTS:
        raise label_map(f"its NIfTI intent code is {code}")
    if code not in _GREY_INTENTS and any(code in codes for codes in _OTHER_INTENTS):
        raise no_grey_values(f"its NIfTI intent code is {code}")


def refuse_mgh_intent(intent: int) -> None:
    """Refuse an MGH file by the kind of volume that newer FreeSurfer writes into its header.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` or ``NO_GREY_VALUES``.
    """
    if intent == _MGH_LABELS:
        raise label_map("its header says so")
    if intent:
        raise no_grey_values(f"the kind of its volume is {intent}")


def has_colour_table(footer: IO[bytes]) -> bool:
    """Whether the tags behind an MGH file's voxels hold a table of colours and names, as FreeSurfer gives to labels.

    Args:
        footer: a stream at the first tag.
    """
    for _ in range(1000):
        (tag,) = struct.unpack(">i", footer.read(4).ljust(4, b"\0"))
        if tag in (1, 5):  # the older form of the table, and the newer one
            return True
        if tag <= 0 or tag > 1000:
            return False
        if tag in (2, 20):  # these have no length
            continue
        size = 4 if tag == 30 else 8
        n_bytes = int.from_bytes(footer.read(size), "big", signed=True)
        if not 0 <= n_bytes < 2**24 or len(footer.read(n_bytes)) < n_bytes:
            return False
    return False


def refuse_segments(name: str, keys: Iterable[str]) -> None:
    """Refuse what 3D Slicer writes of a segmentation.

    Args:
        name: of the file.
        keys: of the header.

    Raises:
        SkippedSourceError: ``LABEL_MAP``.
    """
    if re.search(r"\.seg\.(nrrd|nhdr)$", name, re.IGNORECASE):
        raise label_map("it is named .seg.nrrd")
    if any(_SEGMENT_KEY.match(key) for key in keys):
        raise label_map("its header lists segments")


def lies_among_labels(path: PurePath) -> bool:
    """Whether the folder of a file is named as those of label maps are."""
    return bool(_FOLDER_OF_LABELS.fullmatch(path.parent.name))


def label_warnings(path: Path, raw: npt.NDArray[Any], texts: Iterable[str]) -> list[str]:
    """Warnings of uncertain signs of a label map or a phase image.

    Args:
        path: of the file.
        raw: (I, J, K) as stored.
        texts: free text of the header.

    Raises:
        SkippedSourceError: ``LABEL_MAP`` when name or text and values agree.
    """
    stem = path.name.split(".nii")[0]
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
    if _NAMED_PHASE.search(stem):
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

"""What one may choose among and how far; free of torch, so that a command's help can say it at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = [
    "BATCH_PIXELS",
    "BATCH_SIZE",
    "FACTORS",
    "FORCED",
    "MAPS",
    "MAX_NOISE",
    "MAX_SLICE_FACTOR",
    "MIN_SLICE_FACTOR",
    "MODALITIES",
    "NETWORK_PARTS",
    "PRECISIONS",
    "PROFILES",
    "of_modality",
]

#: Slices that are computed at once where nothing else says how many, and pixels of their results at most.
BATCH_SIZE: Final = 4
BATCH_PIXELS: Final = 2**21

#: The factors that volumes are super-resolved by, rows and columns alike.
FACTORS: Final = (2, 3, 4)

#: DICOM's terms for the modalities that the models were trained on.
MODALITIES: Final = ("CT", "MR", "PT")

#: Shapes of the profile that an acquired slice averages by: as wide everywhere, or falling off as a Gaussian.
PROFILES: Final = ("box", "gaussian")

#: Networks that are exported, by the names of their files.
NETWORK_PARTS: Final = ("network", "encoder", "decoder", "denoiser", "mean_decoder", "sample_decoder")

#: Number formats of convolutions; the first is usual.
PRECISIONS: Final = ("float32", "bfloat16")

#: The least and the most slices that one acquired slice becomes.
MIN_SLICE_FACTOR: Final = 1.1
MAX_SLICE_FACTOR: Final = 8.0

#: Which maps a result has beside its image: the expected error, and what the network contradicted.
MAPS: Final = ("none", "error", "all")

#: Setting of a result that says in what its source lies outside of the training, where that was overridden.
FORCED: Final = "outside_of_training"

#: Standard deviation, in grey levels of 255, beyond which noise counts as this much.
MAX_NOISE: Final = 40.0


def of_modality(dials: Mapping[str, float], modality: str | None) -> float:
    """Detail of a modality; of one that is not among them, or not known, the least; 1 where there are none.

    Example:
        >>> of_modality({"CT": 0.0, "MR": 0.5}, "MR"), of_modality({"CT": 0.0, "MR": 0.5}, None)
        (0.5, 0.0)
    """
    return dials.get(modality or "", min(dials.values(), default=1.0))

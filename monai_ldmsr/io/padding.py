"""Where a CT volume holds no measurement although its header does not say so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["PADDING_HU", "mark_impossible"]

#: No tissue, nor air, measures such values (HU) or lower ones: scanners write them outside the field of view.
PADDING_HU = -2000.0

_UNDECLARED = "(0028,0120) 'Pixel Padding Value' does not name them"


def mark_impossible(
    voxels: npt.NDArray[np.float32], padding: npt.NDArray[np.bool_], undeclared: str = _UNDECLARED
) -> list[str]:
    """Add to ``padding``, in place, the voxels of at most ``PADDING_HU``: de-identification loses the tag.

    Args:
        voxels: (I, J, K) in HU.
        padding: (I, J, K), true where the header declares padding.
        undeclared: why the header does not declare these, for the warning.

    Returns:
        One warning where there were any, for the report.
    """
    count = 0
    for k in range(voxels.shape[2]):
        impossible = (voxels[:, :, k] <= PADDING_HU) & ~padding[:, :, k]
        padding[:, :, k] |= impossible
        count += int(impossible.sum())
    if not count:
        return []
    return [
        f"{count} voxels are {PADDING_HU:.0f} HU or less, which nothing measures, and {undeclared}: they "
        "are taken for padding and kept as they are."
    ]

"""Errors for what is intact but holds no grey values of an image; a ``sign`` says by what it is known."""

from __future__ import annotations

from monai_ldmsr.errors import ReasonCode, SkippedSourceError

__all__ = ["label_map", "no_grey_values", "own_map", "phase_image"]


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
        f"A phase image of MR: {sign}. Its angles or velocities wrap around, and no value between the two sides of a "
        "wrap is right. Give the magnitude image.",
        ReasonCode.PHASE_IMAGE,
    )


def no_grey_values(sign: str) -> SkippedSourceError:
    """Error for values that are none of an image, as ``sign`` says."""
    return SkippedSourceError(
        f"The file's values are no grey values of an image: {sign}. Give the image that they were made from.",
        ReasonCode.NO_GREY_VALUES,
    )


def own_map() -> SkippedSourceError:
    """Error for a map that this software wrote beside a result."""
    return SkippedSourceError(
        "A map that monai_ldmsr wrote beside a result is no image, and is not super-resolved.", ReasonCode.OWN_RESULT
    )

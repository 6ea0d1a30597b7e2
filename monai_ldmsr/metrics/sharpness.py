"""How sharp an image is, without a reference: Laplacian variance, and what a Fourier high-pass leaves.

Both work on grey levels 0..255 (`to_grey8`), and both grow with detail and with noise alike, so neither says
whether detail is true. Compare values only between images on the same grid, of the same grey range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  # the name that torch's own documentation uses
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction, convert_to_tensor
from torch import Tensor

from monai_ldmsr.errors import SettingsError

__all__ = [
    "FOREGROUND_GREY",
    "FOREGROUND_WINDOW",
    "METRICS",
    "FFTSharpnessMetric",
    "LaplacianVarianceMetric",
    "SliceMetric",
    "fft_sharpness",
    "foreground",
    "laplacian_variance",
    "slice_figures",
    "to_grey8",
]

#: Grey levels; keeps ln r finite where nothing is left (constant image, square as large as the image). It
#: lies above float64 round-off of an 8-bit slice (about 1e-13), far below what blurred ones leave (0.04).
_FFT_FLOOR_GREY = 1e-6

#: The half-width of the zeroed square, and the image size at which it is meant.
_FFT_HALF_WIDTH, _FFT_IMAGE_SIZE = 60, 256


#: Grey level above which a smoothed slice counts as foreground, and the side of the smoothing window.
FOREGROUND_GREY, FOREGROUND_WINDOW = 20.0, 9


def foreground(grey: Tensor) -> Tensor:
    """Where there is a body: (B, 1, H, W) bool from grey levels; exact where they are whole numbers."""
    side = FOREGROUND_WINDOW
    padded = F.pad(grey, (side // 2,) * 4)
    sums = _window_sums(_window_sums(padded, side, -2), side, -1)
    # Windows are smaller at the border.
    rows, columns = (_window_sums(F.pad(grey.new_ones(n), (side // 2,) * 2), side, 0) for n in grey.shape[-2:])
    return sums > FOREGROUND_GREY * torch.outer(rows, columns)


def _window_sums(image: Tensor, side: int, axis: int) -> Tensor:
    """Sums of so many neighbours along an axis, which becomes shorter by ``side - 1``; exact for whole numbers.

    By doubling: each sum of 2, 4, 8 ... neighbours is that of two halves.
    """
    count = image.shape[axis] - side + 1
    halves, length, start = image, 1, 0
    sums: Tensor | None = None
    while side:
        if side % 2:
            part = halves.narrow(axis, start, count)
            sums, start = part if sums is None else sums + part, start + length
        side //= 2
        if side:
            n = halves.shape[axis] - length
            halves, length = halves.narrow(axis, 0, n) + halves.narrow(axis, length, n), 2 * length
    if sums is None:
        raise ValueError("A window has one neighbour at least.")
    return sums


def to_grey8(image: Tensor, low: float, high: float) -> Tensor:
    """Map ``[low, high]`` linearly to whole grey levels 0..255, clipped.

    Args:
        image: any shape, in the unit of ``low`` and ``high``.
        low: value that becomes 0.
        high: value that becomes 255.

    Returns:
        float32 of the same shape, holding whole numbers (halves round to even).

    Raises:
        SettingsError: unless ``low < high``.

    Example:
        >>> to_grey8(torch.tensor([-2000.0, -1000.0, 0.0, 1000.0]), low=-1000, high=1000)
        tensor([  0.,   0., 128., 255.])
    """
    if not low < high:
        raise SettingsError(f"The grey range is {low:g} to {high:g}, but its low end must lie below its high end.")
    grey = (_plain_double(image) - low) * (255.0 / (high - low))
    return grey.clamp(0.0, 255.0).round().float()


def laplacian_variance(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance of the Laplacian: the same number as ``cv2.Laplacian(image, cv2.CV_64F).var()``.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR.

    Args:
        image: ``(B, 1, H, W)``, grey levels 0..255, H and W at least 2.
        mask: ``(B, 1, H, W)``, nonzero where to measure; the Laplacian itself still sees the whole image.

    Returns:
        ``(B,)`` float64, grey levels squared; NaN for an image whose mask is empty.

    Raises:
        SettingsError: when a shape is not as above.

    Example:
        >>> checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 1.0
        >>> laplacian_variance(checkerboard[None, None])
        tensor([16.], dtype=torch.float64)
    """
    _check_shapes(image, mask)
    padded = F.pad(_plain_double(image), (1, 1, 1, 1), mode="reflect")
    neighbours = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    laplacian = neighbours - 4.0 * padded[..., 1:-1, 1:-1]
    mean = _mean_within(laplacian, mask).view(-1, 1, 1, 1)
    return _mean_within((laplacian - mean) ** 2, mask)


def fft_sharpness(image: Tensor, size: int | Literal["auto"] = "auto", mask: Tensor | None = None) -> Tensor:
    """Mean of ``20 ln|r|``, where ``r`` is the image without its low frequencies.

    The widespread NumPy recipe of blur detection: natural logarithm, and a half-open square of zeros (from
    ``centre - size`` up to, not including, ``centre + size``).

    Args:
        image: ``(B, 1, H, W)``, grey levels 0..255.
        size: half-width of the square of zeros, in frequency bins; ``"auto"`` is 60 at 256 pixels and in
            proportion to ``min(H, W)`` otherwise, so that the same fraction of the spectrum is left.
        mask: ``(B, 1, H, W)``, nonzero where to average; the Fourier transform still sees the whole image.

    Returns:
        ``(B,)`` float64; finite even where no frequency is left; NaN for an image whose mask is empty.

    Raises:
        SettingsError: when a shape is not as above, or ``size`` is below 1.

    Example:
        >>> blank = torch.zeros(1, 1, 64, 64)
        >>> noise = 255 * torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> bool(fft_sharpness(noise) > fft_sharpness(blank))
        True
    """
    _check_shapes(image, mask)
    height, width = image.shape[-2:]
    half = _half_width(size, min(height, width))
    spectrum = torch.fft.fftshift(torch.fft.fft2(_plain_double(image)), dim=(-2, -1))
    row, column = height // 2, width // 2
    # max(0, ...) because a negative start would count from the far end and zero the wrong part.
    spectrum[..., max(0, row - half) : row + half, max(0, column - half) : column + half] = 0
    remainder = torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).abs()
    return _mean_within(20.0 * remainder.clamp_min(_FFT_FLOOR_GREY).log(), mask)


def _half_width(size: int | Literal["auto"], shorter_side: int) -> int:
    if size == "auto":
        return round(_FFT_HALF_WIDTH / _FFT_IMAGE_SIZE * shorter_side)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingsError(f'The half-width is {size!r}, but it must be "auto" or a whole number of at least 1.')
    return size


def _plain_double(image: Tensor) -> Tensor:
    """Return the image as float64 without meta data; integer images overflow and halves round otherwise."""
    plain: Tensor = convert_to_tensor(image, dtype=torch.float64, track_meta=False)
    return plain


def _check_shapes(image: Tensor, mask: Tensor | None) -> None:
    if image.ndim != 4 or image.shape[1] != 1 or min(image.shape[-2:]) < 2:
        raise SettingsError(
            f"The image has shape {tuple(image.shape)}, but sharpness is measured on (B, 1, H, W) "
            "with H and W of at least 2. Pass a volume's slices as a batch."
        )
    if mask is not None and mask.shape != image.shape:
        raise SettingsError(f"The mask has shape {tuple(mask.shape)}, but the image {tuple(image.shape)}.")


def _mean_within(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over each image of ``(B, 1, H, W)``, or over its mask: ``(B,)``, NaN where the mask is empty."""
    if mask is None:
        return values.flatten(1).mean(dim=1)
    inside: Tensor = convert_to_tensor(mask, track_meta=False, device=values.device) != 0
    total: Tensor = torch.where(inside, values, 0.0).flatten(1).sum(dim=1)
    return total / inside.flatten(1).sum(dim=1)


class _SharpnessMetric(CumulativeIterationMetric):  # type: ignore[misc]  # MONAI carries no types
    """A sharpness in the manner of `monai.metrics.PSNRMetric`, but without a reference: ``y`` is ignored."""

    def __init__(
        self,
        grey_range: tuple[float, float] = (0.0, 255.0),
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__()
        self.grey_range = grey_range
        self.reduction = reduction
        self.get_not_nans = get_not_nans

    def _measure(self, grey: Tensor, mask: Tensor | None) -> Tensor:
        """Turn grey levels ``(B, 1, H, W)`` into ``(B,)``."""
        raise NotImplementedError

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Turn images ``(B, C, H, W)`` into ``(B, C)``, channel by channel; ``mask`` has the same shape."""
        batch, channels = y_pred.shape[:2]
        grey = to_grey8(y_pred, *self.grey_range).flatten(0, 1).unsqueeze(1)
        values = self._measure(grey, None if mask is None else mask.flatten(0, 1).unsqueeze(1))
        return values.view(batch, channels)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Reduce what was collected since the last ``reset()``, leaving NaN out.

        Args:
            reduction: how values are averaged ("mean", "mean_batch", "none", ... of MONAI); None for the constructor's.

        Returns:
            the reduced value, together with the count of values that were no NaN if ``get_not_nans``.

        Raises:
            SettingsError: when nothing was collected.
        """
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise SettingsError(f"{type(self).__name__} has collected no image; call it before aggregate().")
        reduced, not_nans = do_metric_reduction(values, reduction or self.reduction)
        return (reduced, not_nans) if self.get_not_nans else reduced


class LaplacianVarianceMetric(_SharpnessMetric):
    """`laplacian_variance` as a MONAI metric; call it with ``y_pred`` of ``(B, C, H, W)``, ``y`` is ignored.

    Args:
        grey_range: ``(low, high)`` of the images, mapped to grey levels 0 and 255.
        reduction: how values are averaged, as for MONAI's metrics.
        get_not_nans: whether ``aggregate()`` returns the count of values, too.

    Example:
        >>> metric = LaplacianVarianceMetric(grey_range=(0.0, 1.0))
        >>> checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2 / 255
        >>> _ = metric(y_pred=checkerboard[None, None])
        >>> metric.aggregate()
        tensor([16.])
    """

    def _measure(self, grey: Tensor, mask: Tensor | None) -> Tensor:
        return laplacian_variance(grey, mask)


class FFTSharpnessMetric(_SharpnessMetric):
    """`fft_sharpness` as a MONAI metric; call it with ``y_pred`` of ``(B, C, H, W)``, ``y`` is ignored.

    Args:
        grey_range: ``(low, high)`` of the images, mapped to grey levels 0 and 255.
        reduction: how values are averaged, as for MONAI's metrics.
        get_not_nans: whether ``aggregate()`` returns the count of values, too.

    Example:
        >>> metric = FFTSharpnessMetric(grey_range=(-1.0, 1.0))
        >>> _ = metric(y_pred=torch.zeros(2, 1, 64, 64))
        >>> round(metric.aggregate().item())  # nothing left of a constant image: the floor
        -276
    """

    def _measure(self, grey: Tensor, mask: Tensor | None) -> Tensor:
        return fft_sharpness(grey, mask=mask)


@dataclass(frozen=True)
class SliceMetric:
    """A figure of slices without a reference, which reports and evaluations show.

    Args:
        name: column of tables and key of reports.
        definition: what is measured, in one sentence.
        function: (B, 1, H, W) in model range to (B, 1).
        goal: what a result should have, in a few words.
    """

    name: str
    definition: str
    function: Callable[[Tensor], Tensor]
    goal: str = "the original's"


_MODEL_RANGE = (-1.0, 1.0)

#: All of them, in the order of columns. Adding one here adds it to every report and evaluation.
METRICS: list[SliceMetric] = [
    SliceMetric(
        "laplacian_variance",
        "Population variance of the 4-neighbour Laplacian (reflected border) of the slice in grey levels 0 to 255; "
        "higher means more edges, or more noise.",
        lambda image: LaplacianVarianceMetric(_MODEL_RANGE)(image),
    ),
    SliceMetric(
        "fft",
        "Mean of 20 ln|r|, where r is the slice in grey levels 0 to 255 after its low frequencies (a square of "
        "half-width 60 at 256 pixels, in proportion otherwise) are set to zero; higher means more fine detail, or more "
        "noise.",
        lambda image: FFTSharpnessMetric(_MODEL_RANGE)(image),
    ),
]


def slice_figures(image: Tensor) -> dict[str, float]:
    """All :data:`METRICS` of one slice (1, 1, H, W) in model range, by name."""
    return {metric.name: float(metric.function(image)) for metric in METRICS}

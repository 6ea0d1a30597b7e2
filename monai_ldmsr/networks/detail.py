"""How much of a sample's detail goes into the result, frequency by frequency and place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from monai.networks.layers.convutils import gaussian_1d
from monai.networks.layers.simplelayers import separable_filtering
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks.conditional_unet import FACTORS

__all__ = ["KNOTS", "MAX_DETAIL", "DetailGains", "place_detail", "weigh_detail"]

#: Spatial frequencies in cycles a pixel of the result between which gains are interpolated; Nyquist is 0.5.
KNOTS = (0.125, 0.25, 0.375, 0.5)

#: Beyond this a result is noise more than detail.
MAX_DETAIL = 1.5

#: Greatest gain of a table.
_MAX_GAIN = 4.0

#: Activity (see :func:`place_detail`) at which the gains are meant, in grey levels squared; about the median of tissue.
#: Twenty times more or less is as far as the weight follows it.
_TISSUE_ACTIVITY, _ACTIVITY_SPAN = 60.0, 20.0

#: Standard deviation in pixels of the neighbourhood in which activity is measured.
_NEIGHBOURHOOD_PX = 4.0

#: Grey levels of 0..255 in a unit of the model range -1..1.
_GREY = 127.5


class DetailGains:
    """Gains of each modality and factor at :data:`KNOTS`, as calibrated, times one dial.

    Args:
        detail: the dial: 0 is the posterior mean (truest, smoothest), 1 as calibrated, up to :data:`MAX_DETAIL`.
        table: for DICOM's ``CT``, ``MR``, ``PT`` four gains for each of ``FACTORS``; None leaves the sample as it is.
            A modality that is not in it takes the least of all.

    Raises:
        SettingsError: a number is outside its range, or one is missing.

    Example:
        >>> gains = DetailGains(0.5, {"MR": [[1.0, 1.0, 2.0, 2.0]] * 3, "CT": [[0.8] * 4] * 3})
        >>> gains.of("MR", factor=4), gains.of(None, factor=4)
        ((0.5, 0.5, 1.0, 1.0), (0.4, 0.4, 0.4, 0.4))
    """

    def __init__(self, detail: float = 1.0, table: Mapping[str, Sequence[Sequence[float]]] | None = None) -> None:
        if not 0.0 <= detail <= MAX_DETAIL:
            raise SettingsError(f"detail is {detail}; choose 0 (truest, smoothest) to {MAX_DETAIL:g} (sharpest).")
        self.detail = float(detail)
        self._table = {key: [tuple(map(float, row)) for row in rows] for key, rows in (table or {}).items()}
        for modality, rows in self._table.items():
            fits = len(rows) == len(FACTORS) and all(len(row) == len(KNOTS) for row in rows)
            if not fits or not all(0.0 <= gain <= _MAX_GAIN for row in rows for gain in row):
                raise SettingsError(
                    f"detail_gains of {modality} must be {len(KNOTS)} numbers from 0 to {_MAX_GAIN:g} for each of the "
                    f"{len(FACTORS)} factors."
                )

    def of(self, modality: str | None, factor: int) -> tuple[float, ...]:
        """Gains at :data:`KNOTS`."""
        rows = [rows[FACTORS.index(factor)] for key, rows in self._table.items() if key == modality]
        rows = rows or [rows[FACTORS.index(factor)] for rows in self._table.values()] or [(1.0,) * len(KNOTS)]
        return tuple(self.detail * min(column) for column in zip(*rows, strict=True))


def weigh_detail(difference: Tensor, gains: Sequence[float]) -> Tensor:
    """Weigh each spatial frequency; one gain for all directions, so that nothing moves.

    Args:
        difference: (B, C, H, W): sample minus posterior mean.
        gains: at :data:`KNOTS`, linear between them, constant outside.

    Example:
        >>> checkers = 1.0 - 2.0 * (torch.arange(8)[:, None] + torch.arange(8)).remainder(2)
        >>> weigh_detail(checkers[None, None], (1.0, 1.0, 1.0, 0.5))[0, 0, 0, :2]
        tensor([ 0.5000, -0.5000])
    """
    if min(gains) == max(gains):
        return gains[0] * difference
    height, width = difference.shape[-2:]
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = torch.hypot(rows[:, None], columns[None, :]).to(difference.device)
    gain = torch.full_like(frequency, float(gains[0]))
    for n, (low, high) in enumerate(pairwise(KNOTS)):
        gain += (gains[n + 1] - gains[n]) * ((frequency - low) / (high - low)).clamp(0.0, 1.0)
    weighed: Tensor = torch.fft.irfft2(torch.fft.rfft2(difference) * gain, s=(height, width))
    return weighed


def place_detail(difference: Tensor, mean: Tensor, activity_floor: float, activity_exponent: float) -> Tensor:
    """Weigh each place by what happens around it in the posterior mean; no detail where nothing does, as in air.

    Activity is the mean square of the mean's Laplacian around a pixel, in grey levels of 0 to 255. The weight is half
    at the floor, falls with the square of the activity below it, and grows with its power above. The neighbourhood, and
    the activity at which the weight is 1, belong to the method and change with the version alone.

    Args:
        difference: (B, C, H, W): sample minus posterior mean.
        mean: (B, C, H, W), in model range (-1 to 1).
        activity_floor: grey levels squared; 0 for none.
        activity_exponent: 0 leaves all places above the floor alike.
    """
    if activity_floor == 0.0 and activity_exponent == 0.0:
        return difference
    activity = _activity(mean)
    relative = (activity / _TISSUE_ACTIVITY).clamp(1.0 / _ACTIVITY_SPAN, _ACTIVITY_SPAN)
    weight = relative**activity_exponent
    if activity_floor > 0.0:
        weight = weight * activity.square() / (activity.square() + activity_floor**2)
    return difference * weight


def _activity(image: Tensor) -> Tensor:
    channels = image.shape[1]
    kernel = image.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).expand(channels, 1, 3, 3)
    padded = functional.pad(image * _GREY, (1, 1, 1, 1), mode="reflect")
    laplacian = functional.conv2d(padded, kernel, groups=channels)
    around = gaussian_1d(torch.tensor(_NEIGHBOURHOOD_PX), truncated=3.0).to(image)
    smooth: Tensor = separable_filtering(laplacian.square(), [around, around], mode="replicate")
    return smooth

"""All figures of one stack beside its original, in grey levels 0 to 255 of the model range."""

from __future__ import annotations

import math

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor

from monai_ldmsr.evaluation.stacks import SharpStack
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics.frc import CITED_THRESHOLD, frc_settings, scanned_crossings
from monai_ldmsr.metrics.sharpness import FOREGROUND_GREY, FOREGROUND_WINDOW, foreground, to_grey8

__all__ = ["STACK_FIGURES", "STACK_GOALS", "StackMeasure"]

#: Planes across the slices, of each of both directions, on which SSIM and sFRC are taken.
_PLANES = 48

#: Window of SSIM, and what of a side it leaves out.
_WINDOW, _SIGMA = 11, 1.5

_FOREGROUND = (
    f"where the original, averaged over {FOREGROUND_WINDOW}x{FOREGROUND_WINDOW} pixels within each of its slices, lies "
    f"above grey level {FOREGROUND_GREY:g}"
)
_REFORMATS = (
    f"at most {_PLANES} planes across the slices of each of both directions (sagittal and coronal ones of an axial "
    "stack), evenly spread"
)

#: Definition of each column.
STACK_FIGURES: dict[str, str] = {
    "psnr": "Peak signal-to-noise ratio in dB, peak 255, over all voxels.",
    "psnr_foreground": f"The same over the foreground: {_FOREGROUND}.",
    "ssim": f"Structural similarity (MONAI), Gaussian window {_WINDOW}x{_WINDOW}, sigma {_SIGMA:g}, data range 255, on "
    f"{_REFORMATS}; mean over pixels.",
    "ssim_foreground": "The same over pixels of the foreground.",
    "stack_gradient": "Mean absolute difference of neighbours along the stack in the foreground, over the original's.",
    "flagged": "Share of patches (64x64 pixels in CT, 48x48 else) of the same planes whose Fourier ring correlation "
    f"with the original first falls below 0.5 (CT) or 0.75 (else) at or under {CITED_THRESHOLD} cycles a pixel, in the "
    "source's unit (sFRC, arXiv 2603.04673).",
    "source_missing": "Result averaged to thick slices minus those given: root mean square, over the standard "
    "deviation of those given.",
    "duration_s": "Seconds a new slice on this machine, projection included.",
}

#: What each column should be.
STACK_GOALS: dict[str, str] = {
    "psnr": "high",
    "psnr_foreground": "high",
    "ssim": "1",
    "ssim_foreground": "1",
    "stack_gradient": "1",
    "flagged": "low",
    "source_missing": "0",
    "duration_s": "low",
}


class StackMeasure:
    """Measures rows of one stack: what belongs to the original is computed once.

    Args:
        stack: the original, and the thick slices made of it.
    """

    def __init__(self, stack: SharpStack) -> None:
        self._stack = stack
        self._truth = self._grey(stack.high)
        slices = foreground(self._truth.permute(2, 0, 1)[:, None])
        self._body = slices[:, 0].permute(1, 2, 0)

    def of(self, image: Tensor) -> dict[str, float]:
        """Figures of one row.

        Args:
            image: (I, J, n) in the source's unit.

        Returns:
            One number for each column but ``duration_s``; NaN where it is not defined (PSNR of the original itself, an
            empty foreground, planes that are too small).
        """
        grey = self._grey(image)
        squared = (grey - self._truth).double().square()
        ssim, ssim_body = self._ssim(grey)
        return {
            "psnr": _psnr(squared),
            "psnr_foreground": _psnr(squared[self._body]),
            "ssim": ssim,
            "ssim_foreground": ssim_body,
            "stack_gradient": _ratio(self._gradient(grey), self._gradient(self._truth)),
            "flagged": self._flagged(image),
            "source_missing": self._missing(image),
        }

    def _grey(self, image: Tensor) -> Tensor:
        return to_grey8(self._stack.volume.intensity.forward(image), -1.0, 1.0)

    def _gradient(self, grey: Tensor) -> float:
        both = self._body[..., 1:] & self._body[..., :-1]
        return float(grey.diff(dim=-1).abs()[both].mean())

    def _ssim(self, grey: Tensor) -> tuple[float, float]:
        """Mean over all pixels of planes, and over those of the foreground."""
        reach, maps, bodies = _WINDOW // 2, [], []
        for axis in (0, 1):
            if min(_plane(grey, axis, 0).shape) < _WINDOW:
                continue
            for n in spread_slices(grey.shape[axis], _PLANES):
                image, truth, body = (_plane(one, axis, n) for one in (grey, self._truth, self._body))
                pair = (image[None, None], truth[None, None])
                found, _ = compute_ssim_and_cs(*pair, 2, (_WINDOW,) * 2, (_SIGMA,) * 2, 255.0)
                maps.append(found.flatten())
                bodies.append(body[reach:-reach, reach:-reach].flatten())
        if not maps:
            return math.nan, math.nan
        values, inside = torch.cat(maps).double(), torch.cat(bodies)
        return float(values.mean()), float(values[inside].mean())

    def _flagged(self, image: Tensor) -> float:
        settings, crossings = frc_settings(self._stack.volume.modality), []
        for axis in (0, 1):
            for n in spread_slices(image.shape[axis], _PLANES):
                made, truth = (_plane(one, axis, n)[None, None] for one in (image, self._stack.high))
                crossings += scanned_crossings(made, truth, settings)[1]
        return sum(one <= CITED_THRESHOLD for one in crossings) / len(crossings) if crossings else math.nan

    def _missing(self, image: Tensor) -> float:
        low = self._stack.low
        again = image @ torch.from_numpy(self._stack.plan.averaging).to(image).T
        return _ratio(float((again - low).double().square().mean()) ** 0.5, float(low.double().std()))


def _plane(volume: Tensor, axis: int, number: int) -> Tensor:
    """The plane across the slices, (other axis, n)."""
    return volume.select(axis, number)


def _psnr(squared: Tensor) -> float:
    mean = float(squared.mean()) if squared.numel() else 0.0
    return 10 * math.log10(255.0**2 / mean) if mean else math.nan


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan

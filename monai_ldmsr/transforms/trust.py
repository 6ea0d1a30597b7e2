"""From an expected error in model range to maps in the source's unit, and to what a report says of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_ldmsr.choices import FORCED
from monai_ldmsr.degradation import Factor, repeat_blocks
from monai_ldmsr.geometry import Factors
from monai_ldmsr.metrics.sharpness import foreground, to_grey8
from monai_ldmsr.noise_level import GREY_LEVELS
from monai_ldmsr.report import Contradiction, ExpectedError, TrustSummary
from monai_ldmsr.settings import check_maps
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.transforms.intensity import IntensityMap
from monai_ldmsr.transforms.source import SourceProjection, sources_of_slices
from monai_ldmsr.uncertainty import COVERAGE, NOMINAL, Calibration, ResultMap
from monai_ldmsr.working_volumes import empty_volume, plain

__all__ = ["AddResultMapsd", "error_in_unit", "noise_in_unit"]

#: Percentiles are taken over at most about this many voxels of the foreground, evenly spread.
_MAX_SAMPLES = 1_000_000

#: A source with less noise than this many grey levels of 255 is compared as if it had as much: no number is that exact.
_LEAST_NOISE = 0.5


def error_in_unit(result: Tensor, error: Tensor, intensity: IntensityMap) -> Tensor:
    """An expected error in model range, in the source's unit: half the distance of where it leads up and down.

    Args:
        result: in the source's unit, any shape.
        error: likewise, in model range.
        intensity: the volume's map.

    Example:
        >>> ct = IntensityMap((-1024.0, -200.0, 300.0), (-1.0, -0.5, 0.5))
        >>> error_in_unit(torch.tensor([-900.0, 50.0]), torch.tensor([0.01, 0.01]), ct).round(decimals=1)
        tensor([16.5000,  5.0000])
    """
    return _error_at(intensity.forward(result), error, intensity)


def _error_at(level: Tensor, error: Tensor, intensity: IntensityMap) -> Tensor:
    return (intensity.inverse(level + error) - intensity.inverse(level - error)) / 2


def noise_in_unit(noise: float, intensity: IntensityMap) -> float:
    """Noise in grey levels of 255 as a standard deviation in the source's unit, in the middle of the model range."""
    level = torch.tensor([1.0, -1.0], dtype=torch.float64) * max(noise, _LEAST_NOISE) / GREY_LEVELS
    high, low = intensity.inverse(level).tolist()
    return float(high - low) / 2


class AddResultMapsd(MapTransform):  # type: ignore[misc]  # MONAI carries no types
    """Make maps of the expected error ``{key}_error``, which is in model range, and of what was contradicted.

    Behind ``ProjectOntoSourced`` and ``RestorePaddingd``, with results in the source's unit. The maps are kept as
    ``maps`` (a list of ``ResultMap``), and what a report says of them as ``{key}_trust``.

    Args:
        keys: results (1, fI, fJ, K) in the source's unit.
        factor: super-resolution factor.
        maps: which maps, one of ``choices.MAPS``.
        tolerance: error that is tolerated, in the source's unit; None makes no mask of trusted voxels.
        calibration: calibration of the weights; None takes ``calibration`` of the data, where there is one.
        orig_key: whose map of intensities is taken.

    Raises:
        SettingsError: a tolerance is given, and no maps are made.
    """

    def __init__(
        self,
        keys: KeysCollection,
        factor: Factor,
        maps: str = "error",
        tolerance: float | None = None,
        calibration: Calibration | None = None,
        orig_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_maps(maps, tolerance)
        self.factors = Factors.of(factor)
        self.maps, self.tolerance, self.calibration, self.orig_key = maps, tolerance, calibration, orig_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Make the maps of each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            described = result.get(f"{key}_described", {})
            projection: SourceProjection = result[f"{key}_projection"]
            given = self.calibration or result.get("calibration")
            plan: SlicePlan | None = result.get("pred_plan")
            whose = result["source"].modality
            found = _CaseCalibration(self, given, whose, described, projection.settings, plan is not None)
            intensity: IntensityMap = result[f"{self.orig_key}_intensity"]
            maps: list[ResultMap] = []
            expected = None
            if f"{key}_error" in result:
                expected = self._expected(result, str(key), found, intensity, maps)
            if projection.residual is not None:
                maps.append(ResultMap("contradiction", projection.residual, Factors.of(1)))
            noise = noise_in_unit(result.get(f"{self.orig_key}_noise", 0.0), intensity)
            trust = TrustSummary(expected, _contradiction(projection, noise, found.alarm), found.dial, found.said)
            result["maps"], result[f"{key}_trust"] = maps, trust
        return result

    def _expected(
        self,
        data: dict[Hashable, Any],
        key: str,
        found: _CaseCalibration,
        intensity: IntensityMap,
        maps: list[ResultMap],
    ) -> ExpectedError:
        """Bring the error to half widths, in place, and make the mask of it."""
        volume, errors, source = plain(data[key]), data.pop(f"{key}_error"), data["source"]
        masked = self.tolerance is not None
        mask = empty_volume(tuple(volume.shape) if masked else (0,), volume, np.uint8)
        limit = found.trusted_error(self.tolerance or 0.0, intensity)
        samples: list[Tensor] = []
        n_body = n_trusted = 0
        step = max(1, volume.numel() // _MAX_SAMPLES)
        slices = zip(sources_of_slices(data), volume.unbind(-1), plain(errors).unbind(-1), strict=True)
        for number, (k, image, error) in enumerate(slices):
            level = intensity.forward(image)
            expected = _error_at(level, error, intensity)
            body = foreground(to_grey8(level[None], -1.0, 1.0))[0]
            if source.padding is not None:
                padded = torch.from_numpy(source.padding[..., k].astype(np.float32))[None, None]
                inside = repeat_blocks(padded, self.factors.in_plane)[0] == 0
                expected, body = expected * inside, body & inside
            if masked:
                trusted = (expected <= limit) & (expected > 0) & body
                mask[..., number] = trusted
                n_trusted += int(trusted.sum())
            n_body += int(body.sum())
            samples.append(expected[body][number % step :: step])
            error.copy_(expected * found.multiplier)
        values = torch.cat(samples).numpy()
        median, p95 = (float(one) for one in np.quantile(values, (0.5, 0.95))) if values.size else (0.0, 0.0)
        plan: SlicePlan | None = data.get("pred_plan")
        grid = self.factors if plan is None else plan.grid(self.factors)
        maps.append(ResultMap("expected_error", errors, grid, found.is_calibrated))
        if masked:
            maps.append(ResultMap("trusted", mask, grid, found.is_calibrated))
        return ExpectedError(
            median,
            p95,
            median * found.multiplier,
            p95 * found.multiplier,
            COVERAGE,
            found.is_calibrated,
            found.statement,
            self.tolerance,
            n_trusted / max(1, n_body) if masked else None,
        )


def _contradiction(projection: SourceProjection, noise: float, times: float | None) -> Contradiction:
    level = None if times is None else times * noise
    alarms = () if level is None else tuple(k for k, rms in enumerate(projection.rms) if rms > level)
    return Contradiction(projection.rms, noise, level, alarms)


class _CaseCalibration:
    """What a calibration says of one case."""

    def __init__(
        self,
        of: AddResultMapsd,
        calibration: Calibration | None,
        modality: str,
        described: Mapping[str, Any],
        projected: Mapping[str, Any],
        has_new_slices: bool = False,
    ) -> None:
        self.dial = described.get("detail")
        self._factor = max(of.factors.in_plane)
        self.alarm: float | None = None
        self.multiplier, self.is_calibrated, self._group = NOMINAL, False, None
        if calibration is None:
            self.said = "none: this bundle has no calibration"
            self.statement = f"Not calibrated, since {self.said[6:]}. {_NOT_CLAIMED}"
            return
        self._group = calibration.group(modality)
        is_forced = FORCED in described
        others = calibration.other_settings({**described, **projected})
        multiplier = self._group.multiplier(self._factor, self.dial or 0.0)
        self.multiplier = NOMINAL if multiplier is None else multiplier
        self.is_calibrated = not (multiplier is None or others or is_forced or has_new_slices)
        whose = " and ".join(self._group.modalities)
        self.said = f"{calibration.digest}: {self._group.n_patients} patients of {whose}"
        if not self.is_calibrated:
            if has_new_slices:
                why = "holds within slices alone, and new ones were made"
            elif is_forced:
                why = "holds for volumes like those of the training alone"
            else:
                why = f"was made with another {' and '.join(others)}" if others else f"has no factor {self._factor:g}"
            self.statement = f"Not calibrated: the bundle's calibration {why}. {_NOT_CLAIMED}"
            return
        self.alarm = self._group.alarm(self._factor, self.dial or 0.0)
        bound, n = calibration.about["bound"], self._group.n_patients
        self.statement = (
            f"Calibrated on {n} patients of {whose}, none of whom was trained on. Of the body's voxels of a patient "
            f"like these, {COVERAGE:.0%} are expected to lie within the interval, as a mean over patients, where one "
            f"with more than {bound:.0%} outside counts as {bound:.0%}. It does not hold for each patient, region or "
            "edge, and the source's own noise, which is kept, counts as true."
        )

    def trusted_error(self, tolerance: float, intensity: IntensityMap) -> float:
        """Greatest expected error of a trusted voxel, in the source's unit."""
        span = intensity.values[-1] - intensity.values[0]
        group = self._group if self.is_calibrated else None
        known = None if group is None else group.trusted_error(self._factor, tolerance / span)
        return tolerance / self.multiplier if known is None else known * span


_NOT_CLAIMED = "The interval is that of the distribution which the network was trained for; no coverage is claimed."

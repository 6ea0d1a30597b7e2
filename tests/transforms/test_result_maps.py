"""Maps beside a result: what they hold, and that the image does not change by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_fixtures import CT, MR, make_resolver
from test_transforms import padded_series
from torch import Tensor

from monai_ldmsr.geometry import Factors
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.metrics.sharpness import foreground, to_grey8
from monai_ldmsr.networks import SRResNetGenerator
from monai_ldmsr.networks.interface import EstimatingNetwork
from monai_ldmsr.transforms import (
    AddResultMapsd,
    IntensityMap,
    ProjectOntoSourced,
    ReadSourced,
    RestorePaddingd,
    ScaleToModelRanged,
    source_of,
)
from monai_ldmsr.transforms.trust import error_in_unit
from monai_ldmsr.uncertainty import NOMINAL, CalibratedGroup, Calibration

GROUP = CalibratedGroup(
    ["MR", "PT"], 9, {"2": {"0": 4.0}}, {"2": 0.9}, {"2": [(0.01, 0.004), (1.0, 0.4)]}, {"2": {"0": 0.01}}
)
CALIBRATION = Calibration("", {"operator": "area", "consistency": 1.0}, {"pooled": GROUP}, {"bound": 0.25})


@pytest.mark.parametrize("detail", [0.0, 0.4, 1.0])
@torch.no_grad()
def test_expecting_errors_does_not_change_the_image_by_one_bit(detail: float) -> None:
    resolver, volume = make_resolver(detail=detail), torch.rand(1, 1, 9, 12, 5) * 2 - 1
    inferer = VolumeInferer(batch_size=2)
    plain = inferer(volume, resolver, "MR", 2.0)
    result, error = inferer.estimate(volume, resolver, "MR", 2.0)
    assert torch.equal(result, plain)
    assert error.shape == result.shape
    assert bool((error > 0).all())
    # The dial adds what is known to lie between mean and sample.
    (mean, scale), (_, at_dial) = resolver.estimates(volume[..., 0], "MR", 2.0, dials=(0.0, detail))
    distance = resolver.estimates(volume[..., 0], "MR", 2.0, dials=(1.0,))[0][0] - mean
    torch.testing.assert_close(at_dial.square(), scale.square() + (detail * distance).square())


def test_networks_without_errors_have_none() -> None:
    assert isinstance(make_resolver(), EstimatingNetwork)
    assert not isinstance(SRResNetGenerator(2, 8, 1), EstimatingNetwork)


@pytest.mark.parametrize("intensity", [CT, MR])
def test_an_error_in_model_range_has_the_width_that_it_has_in_the_unit(intensity: IntensityMap) -> None:
    level = torch.linspace(-1.3, 1.3, 200)
    error = torch.full_like(level, 0.03)
    found = error_in_unit(intensity.inverse(level), error, intensity)
    high, low = intensity.inverse(level + 0.03), intensity.inverse(level - 0.03)
    torch.testing.assert_close(found, (high - low) / 2, rtol=1e-3, atol=1e-3)


def with_maps(data: dict[str, Any], **settings: Any) -> dict[str, Any]:
    data = ProjectOntoSourced("pred", 2, maps=settings.get("maps", "error"))(data)
    return AddResultMapsd("pred", 2, **settings)(RestorePaddingd("pred", 2)(data))


def case(error: Tensor, pred: Tensor | None = None) -> dict[str, Any]:
    volume = torch.rand(1, 12, 10, 3) * 700 + 50
    data = ScaleToModelRanged("image")({"image": volume, "source": source_of(volume, "MR")})
    fine = volume.repeat_interleave(2, 1).repeat_interleave(2, 2) if pred is None else pred
    return {**data, "pred": fine, "pred_error": error, "pred_described": {"detail": 0.0}, "image_noise": 2.0}


def test_half_widths_masks_and_what_is_said_of_them() -> None:
    torch.manual_seed(0)
    error = torch.rand(1, 24, 20, 3) * 0.2
    data = with_maps(case(error.clone()), tolerance=20.0, calibration=CALIBRATION)
    width, mask = data["maps"]
    slope = (data["image_intensity"].values[1] - data["image_intensity"].values[0]) / 2
    inside = (data["pred"] > 200) & (data["pred"] < 600)
    torch.testing.assert_close(width.values[inside], 4 * slope * error[inside], rtol=1e-3, atol=1e-2)
    limit = 0.4 * 20.0
    assert torch.equal(mask.values == 1, (width.values / 4 <= limit) & (width.values > 0))
    trust = data["pred_trust"]
    assert width.is_calibrated
    assert trust.expected_error.is_calibrated
    assert "9 patients of MR and PT" in trust.expected_error.statement
    assert 0 < trust.expected_error.share_trusted < 1
    assert trust.expected_error.half_width_median == pytest.approx(4 * trust.expected_error.median)
    assert trust.contradiction.alarms == ()  # repeated pixels agree with the source
    assert (width.factors, mask.factors) == (Factors(2, 2), Factors(2, 2))


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (None, "has no calibration"),
        (replace(CALIBRATION, settings={"operator": "kspace"}), "another operator"),
        (replace(CALIBRATION, groups={"pooled": replace(GROUP, multipliers={})}), "no factor 2"),
    ],
)
def test_without_a_fitting_calibration_nothing_is_claimed(calibration: Calibration | None, said: str) -> None:
    trust = with_maps(case(torch.full((1, 24, 20, 3), 0.1)), calibration=calibration)["pred_trust"]
    assert said in trust.expected_error.statement
    assert "no coverage is claimed" in trust.expected_error.statement
    assert not trust.expected_error.is_calibrated
    assert trust.expected_error.half_width_median == pytest.approx(
        trust.expected_error.median * (4.0 if calibration and calibration.groups["pooled"].multipliers else NOMINAL)
    )
    assert trust.contradiction.alarm_level is None


def test_the_residual_is_what_was_made_less_what_was_measured_and_alarms() -> None:
    data = case(torch.full((1, 24, 20, 3), 0.1))
    data["pred"][..., 1] += 25.0
    data = with_maps(data, maps="all", calibration=CALIBRATION)
    (residual,) = (one for one in data["maps"] if one.kind == "contradiction")
    assert residual.factors == Factors(1, 1)
    assert residual.values.shape == (1, 12, 10, 3)
    torch.testing.assert_close(residual.values[..., 1], torch.full((1, 12, 10), 25.0), rtol=1e-3, atol=1e-3)
    assert float(residual.values[..., ::2].abs().max()) < 1e-3
    trust = data["pred_trust"]
    assert trust.contradiction.rms == pytest.approx((0.0, 25.0, 0.0), abs=1e-3)
    assert trust.contradiction.alarms == (1,)
    assert "1 of 3 slices (counted from 1: 2)" in trust.alarm


def test_padding_has_no_error_and_is_not_trusted(tmp_path: Path) -> None:
    data = ScaleToModelRanged("image")(ReadSourced("image")({"image": padded_series(tmp_path)}))
    source = data["source"]
    data["pred"] = (
        torch.from_numpy(source.voxels.astype(np.float32))[None].repeat_interleave(2, 1).repeat_interleave(2, 2)
    )
    data["pred_error"] = torch.full(data["pred"].shape, 0.01)
    width, mask = with_maps(data, tolerance=1e6)["maps"]
    assert not bool(width.values[0, :, :4].any())
    assert not bool(mask.values[0, :, :4].any())
    assert bool((width.values[0, :, 4:] > 0).all())
    grey = to_grey8(data["image_intensity"].forward(data["pred"][..., 0][None]), -1.0, 1.0)
    assert torch.equal(mask.values[0, :, 4:, 0] > 0, foreground(grey)[0, 0, :, 4:]), "air is not"

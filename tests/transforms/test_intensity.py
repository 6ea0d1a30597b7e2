"""The intensity map: monotone, exact on the way back, contrast where the tissue is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ldmsr.errors import SourceError
from monai_ldmsr.transforms.intensity import CT_KNOTS_HU, IntensityMap, fit_intensity_map

CT = IntensityMap(*zip(*CT_KNOTS_HU, strict=True))


@pytest.mark.parametrize(
    ("intensity", "low", "high"),
    [
        (CT, -32768, 32767),
        (IntensityMap((0.0, 200.0), (-1.0, 1.0)), 0, 65535),
        (IntensityMap((-5.0, 1.0), (-1.0, 1.0)), -400, 400),
    ],
)
def test_every_stored_value_comes_back(intensity: IntensityMap, low: int, high: int) -> None:
    values = torch.arange(low, high + 1, dtype=torch.float32)
    model = intensity.forward(values)
    assert bool((model.diff() > 0).all()), "not strictly monotone"
    assert torch.equal(intensity.inverse(model).round(), values)


def test_ct_by_hand() -> None:
    model = CT.forward(torch.tensor([-1024.0, -200.0, 50.0, 300.0, 1500.0])).tolist()
    assert model == pytest.approx([-1.0, -0.5, 0.0, 0.5, 1.0], abs=1e-6)
    beyond = float(CT.forward(torch.tensor(3000.0)))
    assert beyond == pytest.approx(1 + 0.25 * np.log1p(1500 * (0.5 / 1200) / 0.25), abs=1e-5)


def test_slope_is_continuous_at_the_ends() -> None:
    for at in (-1024.0, 1500.0):
        before, here, after = CT.forward(torch.tensor([at - 1, at, at + 1], dtype=torch.float64)).tolist()
        assert here - before == pytest.approx(after - here, rel=0.01)


def test_soft_tissue_has_more_contrast_than_bone() -> None:
    model = CT.forward(torch.tensor([40.0, 60.0, 900.0, 920.0]))
    assert float(model[1] - model[0]) > 4 * float(model[3] - model[2])


def test_one_map_a_volume_from_percentiles() -> None:
    volume = torch.from_numpy(np.random.default_rng(0).gamma(2.0, 100.0, (40, 50, 30)).astype(np.float32))
    intensity = fit_intensity_map(volume, "MR")
    assert intensity.values == pytest.approx(tuple(np.percentile(volume.numpy(), [0.5, 99.5])), rel=1e-2)
    hot = volume.clone()
    hot[0, 0, 0] = 1e6
    assert float(intensity.inverse(intensity.forward(hot))[0, 0, 0]) == pytest.approx(1e6, rel=1e-3)


def test_constant_and_not_finite() -> None:
    constant = torch.full((4, 4, 2), 3.0)
    intensity = fit_intensity_map(constant, "MR")
    assert torch.equal(intensity.inverse(intensity.forward(constant)), constant)
    constant[0, 0, 0] = float("nan")
    with pytest.raises(SourceError, match="not finite"):
        fit_intensity_map(constant, "MR")

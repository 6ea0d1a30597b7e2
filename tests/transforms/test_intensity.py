"""The intensity map: monotone, exact on the way back, contrast where the tissue is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

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


@pytest.mark.parametrize("layout", ["rows", "columns", "slices", "with metadata"])
def test_large_images_are_mapped_as_small_ones_are_and_keep_their_layout(layout: str) -> None:
    image = torch.linspace(-3000.0, 9000.0, 900 * 700 * 2).reshape(1, 900, 700, 2)
    if layout == "columns":
        image = image.transpose(1, 2)
    elif layout == "slices":
        image = image.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    elif layout == "with metadata":
        image = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    level = CT.forward(image)
    assert level.stride() == image.stride()
    assert type(level) is type(image)
    small = torch.stack([torch.stack([CT.forward(row) for row in one]) for one in image.unbind(-1)], dim=-1)
    assert torch.equal(torch.as_tensor(level), torch.as_tensor(small))
    assert torch.allclose(torch.as_tensor(CT.inverse(level)), torch.as_tensor(image), atol=0.1)


def test_gradients_go_through_large_images_too() -> None:
    image = torch.full((1000, 700), 40.0, requires_grad=True)
    CT.forward(image).sum().backward()
    assert image.grad is not None
    assert torch.allclose(image.grad, torch.full_like(image, 1.0 / 500))

"""New slices: planned from a source, and made to agree with it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.memory_images import array_volume
from monai_ldmsr.io.slice_stack import StackFault
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget
from monai_ldmsr.transforms import PlanSlicesd, ProjectOntoSourced, RestorePaddingd, project_between

I, J, K = 8, 6, 7  # noqa: E741


def plan(thickness: float | None = None, **target: float | str) -> SlicePlan:
    geometry = VolumeGeometry((I, J, K), np.diag([1.0, 1.0, 5.0, 1.0]))
    return SliceTarget(**target).plan(geometry, thickness_mm=thickness)  # type: ignore[arg-type]


def random(*shape: int, seed: int = 0) -> Tensor:
    return 100 + 20 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PLANS = [
    plan(factor_slices=4.0),
    plan(slice_spacing=0.9),
    plan(slice_spacing=1.0, thickness=3.5),
    plan(factor_slices=2.5, profile="gaussian"),
]


def averaged(image: Tensor, one: SlicePlan, factor: int = 1) -> Tensor:
    """Of (f I, f J, n): (I, J, K), by NumPy alone."""
    blocks = image.double().numpy().reshape(I, factor, J, factor, -1).mean((1, 3))
    return torch.from_numpy(np.einsum("ijn,kn->ijk", blocks, one.averaging))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("one", PLANS)
def test_acquired_slices_are_given_back(one: SlicePlan, factor: int) -> None:
    source, result = random(I, J, K), random(factor * I, factor * J, one.places.number, seed=1)
    before = (averaged(result, one, factor) - source).square().mean().sqrt()
    by_slice: list[float] = []
    residual = torch.empty(I, J, K)
    rms, _ = project_between(result, source, one, factor, by_slice=by_slice, residual=residual)
    assert float((averaged(result, one, factor) - source).abs().max()) < 1e-3
    assert rms == pytest.approx(float(before), rel=1e-5)
    assert math.sqrt(np.mean(np.square(by_slice))) == pytest.approx(rms, rel=1e-5)
    assert float(residual.square().mean().sqrt()) == pytest.approx(rms, rel=1e-5)


def test_what_agrees_already_stays() -> None:
    one = PLANS[2]
    fine = random(I, J, one.places.number)
    source, result = averaged(fine, one).float(), fine.clone()
    rms, n_outside = project_between(result, source, one)
    assert torch.allclose(result, fine, atol=1e-3)
    assert rms < 1e-3
    assert n_outside == 0


def test_result_stays_near_the_source_around_it() -> None:
    one = PLANS[0]
    source = torch.zeros(I, J, K)
    source[:, :, 4:] = 100.0
    result = torch.zeros(I, J, one.places.number)
    result[:, :, 8:] = 500.0
    _, n_outside = project_between(result, source, one, overshoot=0.1, value_range=(0.0, math.inf))
    assert n_outside == I * J * (one.places.number - 8)
    assert float(result.max()) < 130
    assert float(result.min()) >= 0.0


def test_slabs_change_nothing() -> None:
    one, source = PLANS[1], random(I, J, K)
    whole, parts = (random(I, J, one.places.number, seed=1) for _ in range(2))
    project_between(whole, source, one, overshoot=0.1)
    project_between(parts, source, one, overshoot=0.1, slab_voxels=J * one.places.number * 3)
    assert torch.allclose(whole, parts, atol=1e-4)


def test_half_weight_goes_half_the_way() -> None:
    one, source = PLANS[0], random(I, J, K)
    result = random(I, J, one.places.number, seed=1)
    before = averaged(result, one) - source
    project_between(result, source, one, weight=0.5)
    assert torch.allclose(averaged(result, one) - source, before / 2, atol=1e-3)


def test_plan_is_made_of_the_source_and_kept_for_what_follows() -> None:
    voxels = random(I, J, K).numpy()
    source = replace(array_volume(voxels, np.diag([1.0, 1.0, 5.0, 1.0])), slice_thickness_mm=4.0)
    data = {"source": source, "image": MetaTensor(torch.from_numpy(voxels)[None])}
    done = PlanSlicesd("image", factor=1, slices=SliceTarget(slice_spacing=1.0))(data)
    assert done["pred_plan"].thickness_mm == 4.0
    assert not done["pred_plan"].is_assumed
    assert done["image"].meta["slice_plan"] is done["pred_plan"]
    assert "pred_plan" not in PlanSlicesd("image", 2, SliceTarget())(data)


def test_faulty_stack_is_refused_with_its_reason() -> None:
    source = array_volume(random(I, J, K).numpy(), np.eye(4))
    source = replace(source, stack_fault=StackFault(ReasonCode.GANTRY_TILT, "Slices are tilted by 9.0 degrees."))
    with pytest.raises(SourceError, match=r"tilted by 9\.0") as refused:
        PlanSlicesd("image", 1, SliceTarget(factor_slices=2))({"source": source, "image": torch.zeros(1, I, J, K)})
    assert refused.value.reason == ReasonCode.GANTRY_TILT


def test_transforms_use_the_plan_and_put_padding_back_into_the_nearest_new_slices() -> None:
    voxels = random(I, J, K).numpy()
    padding = np.zeros((I, J, K), np.bool_)
    padding[2, 3, 4] = True
    voxels[padding] = -2000.0
    source = array_volume(voxels, np.diag([1.0, 1.0, 5.0, 1.0]))
    source = replace(source, padding=padding, value_range=(-3000.0, 3000.0))
    one = plan(factor_slices=4.0)
    data = {"source": source, "pred": random(1, I, J, one.places.number, seed=1), "pred_plan": one}
    done = ProjectOntoSourced("pred", factor=1)(data)
    assert {"slice_profile": "box", "slice_thickness_mm": 5.0}.items() <= done["pred_projection"].settings.items()
    measured = averaged(done["pred"][0], one).numpy()
    assert np.abs(measured - voxels)[~padding].max() < 0.01
    done = RestorePaddingd("pred", factor=1)(done)
    is_padded = done["pred"][0].numpy() == -2000.0
    assert np.argwhere(is_padded).tolist() == [[2, 3, k] for k in range(16, 20)]


def test_factor_2_degrades_within_slices_too() -> None:
    one = PLANS[3]
    source, result = random(I, J, K), random(2 * I, 2 * J, one.places.number, seed=2)
    project_between(result, source, one, 2)
    coarse = torch.stack([AreaOperator(2)(k[None, None])[0, 0] for k in result.unbind(-1)], dim=-1)
    assert torch.allclose((coarse.double() @ torch.from_numpy(one.averaging).T).float(), source, atol=1e-3)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("one", PLANS[:3])
@pytest.mark.parametrize("greatest", [150.0, math.inf])
def test_values_that_cannot_be_are_brought_back_without_shifting_means(
    one: SlicePlan, factor: int, greatest: float
) -> None:
    source = random(I, J, K).clamp(min=0.0, max=140.0)
    source[:, :3] = 0.0
    source[:, 3] = 3.0
    result = random(factor * I, factor * J, one.places.number, seed=1)
    project_between(result, source, one, factor, value_range=(0.0, greatest))
    assert float(result.min()) >= 0.0
    assert float(result.max()) <= greatest
    assert float((averaged(result, one, factor) - source).abs().max()) < 0.5


@pytest.mark.parametrize("operator", ["area", "gaussian"])
def test_factor_1_leaves_slices_alone_however_it_is_given(operator: str) -> None:
    """No operator acts within slices that stay as fine as they are."""
    one, source = PLANS[1], random(I, J, K)
    number, pair = (random(I, J, one.places.number, seed=1) for _ in range(2))
    project_between(number, source, one, 1)
    project_between(pair, source, one, (1, 1), operator=operator)
    assert torch.equal(number, pair)

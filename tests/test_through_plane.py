"""New slices by planes across the stack: which planes, fused how, in what memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from generator_fixtures import make_resolver
from monai.data import MetaTensor
from torch import Tensor, nn

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors, VolumeGeometry
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks.interface import PlaneNetwork
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget
from monai_ldmsr.through_plane import PlaneBatches, refine_slices

I, J, K = 6, 5, 7  # noqa: E741


class Recorded(nn.Module):
    """Leaves planes as interpolated, plus ``added`` by axis; records what it was asked."""

    def __init__(self, added: tuple[float, float] = (0.0, 0.0), factors: Factors | None = None) -> None:
        super().__init__()
        self.added, self.asked = added, list[dict[str, Any]]()
        self.factors = factors or Factors(1, 1)

    def forward(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        return nn.functional.interpolate(slices, scale_factor=self.factors.in_plane, mode="nearest")

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        return {}

    def describe_planes(self) -> dict[str, Any]:
        return {}

    def refine(
        self,
        interpolated: Tensor,
        factors: tuple[float, float],
        modality: str | None = None,
        noise: float | None = None,
        places_mm: Sequence[float] | None = None,
        operator: str = "area",
        strength: float = 1.0,
        width: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        places = list(places_mm or ())
        self.asked.append(
            {
                "shape": tuple(interpolated.shape),
                "factors": factors,
                "places": places,
                "operator": operator,
                "width": width,
            }
        )
        made = interpolated + self.added[0 if places[0] < 1e4 else 1]
        return made, torch.full_like(interpolated, 0.5)


def planned(**target: Any) -> SlicePlan:
    geometry = VolumeGeometry((I, J, K), np.diag([1.0, 2.0, 4.0, 1.0]))
    thickness = target.pop("thickness", None)
    return SliceTarget(**target).plan(geometry, thickness_mm=thickness)


def volume() -> Tensor:
    return torch.randn(I, J, K, generator=torch.Generator().manual_seed(1))


def test_two_sets_of_planes_are_averaged() -> None:
    plan, given = planned(slice_spacing=1.1), volume()
    network = Recorded(added=(0.2, 0.6))
    result, error = refine_slices(given, network, plan, (1.0, 2.0), "MR", 3.0, with_error=True)
    expected = given @ torch.from_numpy(plan.interpolation).float().T + 0.4
    assert result.shape == (I, J, plan.places.number)
    assert torch.allclose(result, expected, atol=1e-5)
    assert error is not None
    assert torch.allclose(error, torch.full_like(expected, 0.5))
    assert result[..., 3].is_contiguous()


def test_network_is_told_the_factor_along_the_stack_the_places_and_the_profile() -> None:
    network = Recorded()
    plan = planned(factor_slices=2.5, profile="gaussian")
    refine_slices(volume(), network, plan, (1.0, 2.0), batches=PlaneBatches(planes=4))
    assert {one["factors"] for one in network.asked} == {(1.0, plan.factor)}
    assert {one["operator"] for one in network.asked} == {"gaussian"}
    assert [one["shape"] for one in network.asked] == [
        (4, 1, J, plan.places.number), (2, 1, J, plan.places.number),
        (4, 1, I, plan.places.number), (1, 1, I, plan.places.number),
    ]  # fmt: skip
    first, second = ([place for one in network.asked[n : n + 2] for place in one["places"]] for n in (0, 2))
    assert first == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert np.diff(second).tolist() == [2.0] * (J - 1)
    assert second[0] > 1e4


def test_one_plane_at_least_and_no_more_pixels_than_allowed() -> None:
    assert [(b.start, b.stop) for b in PlaneBatches(planes=8, pixels=25).of(5, 10)] == [(0, 2), (2, 4), (4, 5)]
    assert [(b.start, b.stop) for b in PlaneBatches(planes=8, pixels=5).of(2, 10)] == [(0, 1), (1, 2)]


@pytest.mark.parametrize("factors", [Factors(1, 1), Factors(2, 2)])
def test_inferer_makes_new_slices_where_the_volume_has_a_plan(factors: Factors) -> None:
    affine = torch.diag(torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64))
    given = MetaTensor(volume()[None, None], affine=affine)
    plan = planned(slice_spacing=0.9, thickness=3.0)
    given.meta["slice_plan"] = plan
    network = Recorded(factors=factors)
    result = VolumeInferer()(given, network, "MR", 2.0)
    finer = VolumeGeometry((I, J, K), affine.numpy()).upsampled(plan.grid(factors.in_plane))
    assert result.shape == (1, 1, *finer.shape)
    assert isinstance(result, MetaTensor)
    assert np.allclose(result.affine.numpy(), finer.affine)
    coarse = network(given.as_tensor()[0].movedim(-1, 0))[:, 0].movedim(0, -1)
    expected = coarse @ torch.from_numpy(plan.interpolation).float().T
    assert torch.allclose(result.as_tensor()[0, 0], expected, atol=1e-5)
    assert network.asked[0]["places"][1] == pytest.approx(1.0 / factors.i)


def test_network_without_planes_is_refused() -> None:
    class Plain(nn.Module):
        factors = Factors(1, 1)

        def forward(self, slices: Tensor, *_: Any) -> Tensor:
            return slices

    given = MetaTensor(volume()[None, None])
    given.meta["slice_plan"] = planned(factor_slices=2)
    with pytest.raises(SettingsError, match="makes no new slices"):
        VolumeInferer()(given, Plain())  # type: ignore[arg-type]


def test_shipped_network_refines_planes_and_leaves_slices_at_factor_1() -> None:
    tiny_resolver = make_resolver(factor=1)
    assert isinstance(tiny_resolver, PlaneNetwork)
    slices = torch.randn(2, 1, 9, 7)
    assert torch.equal(tiny_resolver.eval()(slices), slices)
    planes = torch.randn(3, 1, 10, 21)
    image, error = tiny_resolver.refine(planes, (1.0, 8.0), "CT", 2.0, [0.0, 1.0, 2.0], "gaussian", 1.5)
    assert image.shape == error.shape == planes.shape
    assert bool((error > 0).all())
    alone, _ = tiny_resolver.refine(planes[1:2], (1.0, 8.0), "CT", 2.0, [1.0], "gaussian", 1.5)
    assert torch.allclose(alone, image[1:2], atol=1e-5)


def test_strength_multiplies_the_distance_from_the_mean() -> None:
    tiny_resolver = make_resolver(factor=1, detail=1.0)
    planes = torch.randn(1, 1, 12, 16)
    mean, half, full = (
        tiny_resolver.refine(planes, (1.0, 3.0), noise=2.0, places_mm=[0.0], strength=strength)[0]
        for strength in (0.0, 0.5, 1.0)
    )
    assert not torch.allclose(mean, full)
    assert torch.allclose(half, (mean + full) / 2, atol=1e-5)

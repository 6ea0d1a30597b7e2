"""Where a slice shows structure, and what of the dial goes there."""

from __future__ import annotations

import math

import pytest
import torch
from generator_fixtures import make_resolver
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks.local_structure import structure_share
from monai_ldmsr.networks.super_resolver import dial_by_place
from monai_ldmsr.noise_level import GREY_LEVELS, estimate_noise

GREY = torch.tensor([3.0])


def noise(*shape: int, grey: float = 3.0) -> Tensor:
    return grey / GREY_LEVELS * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def edge(contrast_grey: float, side: int = 24) -> Tensor:
    """A step between columns side / 2 - 1 and side / 2."""
    image = torch.zeros(1, 1, side, side)
    image[..., side // 2 :] = contrast_grey / GREY_LEVELS
    return image


def test_noise_is_no_structure() -> None:
    share = structure_share(noise(1, 1, 128, 128), GREY)
    assert share.mean() < 0.002
    assert share.max() < 0.3


@pytest.mark.parametrize(("side", "most"), [(2, 0.04), (3, 0.06)])
def test_noise_that_a_kernel_has_correlated_is_little(side: int, most: float) -> None:
    """Its local variance is greater than that of white noise of the strength that is estimated."""
    image = functional.avg_pool2d(noise(1, 1, 128, 128, grey=8.0), side, 1)
    assert structure_share(image, estimate_noise(image)).mean() < most


def test_an_edge_is_structure_the_more_the_clearer_it_is() -> None:
    found = [structure_share(edge(grey) + noise(1, 1, 24, 24), GREY)[..., 11:13].mean() for grey in (3, 30, 60, 120)]
    assert found == sorted(found)
    assert found[0] < 0.05
    assert found[-1] > 0.9
    far = structure_share(edge(120) + noise(1, 1, 24, 24), GREY)
    assert max(far[..., :7].max(), far[..., 17:].max()) < 0.2


def test_an_edge_that_is_blurred_already_is_less() -> None:
    """Its variance is as great, but there is nothing in it that could be sharper."""
    side = 48
    sharp = edge(120, side)
    blurred = functional.avg_pool2d(functional.pad(sharp, (5, 5, 5, 5), mode="replicate"), 11, 1)
    shares = [structure_share(image + noise(1, 1, side, side), GREY).max() for image in (sharp, blurred)]
    assert shares[0] > 0.9
    assert shares[1] < 0.4


def test_a_constant_slice_has_none_and_without_noise_all_variance_is_structure() -> None:
    assert structure_share(torch.full((2, 1, 9, 9), 0.7), torch.tensor([0.0, 2.0])).max() == 0.0
    share = structure_share(edge(1.0), torch.zeros(1))
    assert share[..., 11:13].min() == 1.0


def test_it_follows_the_slice_and_each_for_itself() -> None:
    """Turned slices have turned shares, brighter ones the same; the strength of slice and noise together is nothing."""
    image = edge(40) + edge(30).transpose(2, 3) + noise(1, 1, 24, 24)
    share = structure_share(image, GREY)
    for turned in (lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)):
        torch.testing.assert_close(structure_share(turned(image), GREY), turned(share), atol=1e-4, rtol=0)
    torch.testing.assert_close(structure_share(image + 0.5, GREY), share, atol=1e-3, rtol=0)
    torch.testing.assert_close(structure_share(2 * image, 2 * GREY), share, atol=1e-4, rtol=0)
    both = structure_share(torch.cat([image, noise(1, 1, 24, 24)]), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(both[:1], share, atol=1e-5, rtol=0)
    assert share.min() >= 0.0
    assert share.max() <= 1.0


def test_reduced_precision_of_convolutions_changes_nothing() -> None:
    image = edge(40) + noise(1, 1, 24, 24) + 0.8
    with torch.autocast("cpu", torch.bfloat16):
        reduced = structure_share(image, GREY)
    assert torch.equal(reduced, structure_share(image, GREY))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_dial_lies_on_the_result_as_the_edge_does(factor: int) -> None:
    """Half a voxel more to one side would not be the same when seen in a mirror."""
    image, size = edge(60), [24 * factor, 24 * factor]
    found = dial_by_place(image, GREY, 0.25, size)
    torch.testing.assert_close(found, found.flip(3), atol=1e-5, rtol=0)
    assert abs(found[0, 0, 0].argmax() + 0.5 - 12 * factor) < factor
    assert (found.min(), found.max() > 0.8) == (0.25, True)
    assert torch.equal(dial_by_place(image, GREY, 1.0, size), torch.ones(1, 1, *size))


def test_flat_places_get_their_share_of_the_dial_and_edges_all() -> None:
    slices = edge(90) + noise(1, 1, 24, 24)
    with torch.no_grad():
        made = {flat: make_resolver(flat_detail=flat)(slices, "CT", 3.0) for flat in (0.0, 0.5, 1.0)}
        mean = make_resolver(detail=0.0)(slices, "CT", 3.0)
        whole = made[1.0] - mean
        place = dial_by_place(slices, GREY, 0.0, mean.shape[-2:])
        assert torch.equal(made[0.0][..., :12], mean[..., :12])
        torch.testing.assert_close(made[0.5][..., :12] - mean[..., :12], 0.5 * whole[..., :12], atol=1e-6, rtol=0)
        torch.testing.assert_close(made[0.0] - mean, place * whole, atol=1e-6, rtol=0)
        half = make_resolver(detail=0.5, flat_detail=0.0)(slices, "CT", 3.0)
        torch.testing.assert_close(half - mean, 0.5 * place * whole, atol=1e-6, rtol=0)


def test_expected_errors_follow_the_dial_by_place() -> None:
    slices, resolver = edge(90) + noise(1, 1, 24, 24), make_resolver(flat_detail=0.0)
    with torch.no_grad():
        (mean, of_mean), (result, error) = resolver.estimates(slices, "CT", 3.0, [0.0, 1.0])
        torch.testing.assert_close(error, torch.hypot(of_mean, result - mean))
        torch.testing.assert_close(result, resolver(slices, "CT", 3.0))
    assert torch.equal(error[..., :12], of_mean[..., :12])
    assert (error > of_mean).any()


def test_noise_that_nobody_measured_is_estimated_slice_by_slice() -> None:
    slices = torch.cat([edge(90) + noise(1, 1, 24, 24), edge(90) + noise(1, 1, 24, 24, grey=12.0)])
    resolver = make_resolver(flat_detail=0.0)
    with torch.no_grad():
        both = resolver(slices)
        for n in range(2):
            torch.testing.assert_close(both[n : n + 1], resolver(slices[n : n + 1]), atol=1e-5, rtol=0)
        given = make_resolver(flat_detail=0.0, noise=3.0)
        torch.testing.assert_close(given(slices[:1], "CT", 12.0), resolver(slices[:1], "CT", 3.0), atol=1e-6, rtol=0)


def test_the_share_is_said_and_checked() -> None:
    assert make_resolver(flat_detail=0.3).describe("MR")["flat_detail"] == 0.3
    assert make_resolver().describe()["flat_detail"] == 1.0
    assert make_resolver(flat_detail=0.3, factor=1).describe("CT")["flat_detail"] == 1.0, "no slice is sharpened"
    for wrong in (-0.1, 1.1, math.nan, "a"):
        with pytest.raises(SettingsError, match="flat_detail"):
            make_resolver(flat_detail=wrong)

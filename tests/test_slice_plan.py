"""Where new slices lie, by what profile acquired ones average, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ldmsr.errors import SettingsError, SourceError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget


def stack(n: int = 9, spacing: float = 5.0, pixel: float = 1.0) -> VolumeGeometry:
    return VolumeGeometry((10, 12, n), np.diag([pixel, pixel, spacing, 1.0]))


def plan(thickness: float | None = None, n: int = 9, spacing: float = 5.0, **target: object) -> SlicePlan:
    return SliceTarget(**target).plan(stack(n, spacing), thickness_mm=thickness)  # type: ignore[arg-type]


PLANS = [
    plan(factor_slices=4),
    plan(slice_spacing=0.9),
    plan(slice_spacing=0.9, thickness=4.0),
    plan(slice_spacing=1.1, thickness=3.3),
    plan(factor_slices=2.5, profile="gaussian"),
    plan(factor_slices=8, thickness=4.5, profile="gaussian"),
]


@pytest.mark.parametrize("one", PLANS)
def test_smooth_inverse_averages_to_what_it_was_given(one: SlicePlan) -> None:
    found = one.averaging @ one.inverse
    assert np.abs(found - np.eye(one.n_source)).max() < 1e-9


@pytest.mark.parametrize("one", PLANS)
def test_constant_stays_and_a_ramp_is_averaged_at_the_centres(one: SlicePlan) -> None:
    assert np.allclose(one.averaging.sum(axis=1), 1.0)
    assert np.allclose(one.interpolation.sum(axis=1), 1.0)
    places = np.array([one.places.of(k) for k in range(one.places.number)])
    inner = slice(1, -1)  # at the ends a Gaussian is cut
    assert np.allclose((one.averaging @ places)[inner], np.arange(one.n_source)[inner], atol=0.01)
    within = (places >= 1) & (places <= one.n_source - 2)
    # The kernel of a = -0.75 is a little steeper than a straight line between centres.
    assert np.abs((one.interpolation @ np.arange(one.n_source) - places)[within]).max() < 0.06


def test_interpolation_is_that_of_torch_where_slices_touch() -> None:
    import torch

    one = plan(factor_slices=4)
    stack_ = torch.randn(1, 1, 1, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(stack_, size=(1, 36), mode="bicubic", align_corners=False)
    assert np.allclose(one.interpolation @ stack_[0, 0, 0].numpy(), expected[0, 0, 0].numpy())


@pytest.mark.parametrize(
    ("thickness", "first_face", "last_face"), [(None, -2.5, 42.5), (4.0, -2.0, 42.0), (7.0, -2.5, 42.5)]
)
def test_new_slices_fill_the_stack_from_outer_face_to_outer_face(
    thickness: float | None, first_face: float, last_face: float
) -> None:
    one = plan(slice_spacing=0.97, thickness=thickness)
    step = one.new_spacing_mm
    assert one.places.of(0) * 5.0 - step / 2 == pytest.approx(first_face, abs=1e-9)
    assert one.places.of(one.places.number - 1) * 5.0 + step / 2 == pytest.approx(last_face, abs=1e-9)
    corners = stack().upsampled(one.grid(1)).corners_mm()
    assert corners[0][2] == pytest.approx(first_face)
    assert corners[-1][2] == pytest.approx(last_face)
    assert abs(step / 0.97 - 1) < 0.5 / one.places.number + 1e-9


def test_spacing_that_divides_the_stack_is_taken_as_it_is() -> None:
    assert plan(slice_spacing=1.0).new_spacing_mm == pytest.approx(1.0)
    assert plan(slice_spacing=1.0, thickness=4.0).new_spacing_mm == pytest.approx(1.0)
    assert plan(factor_slices=3).places.number == 27


def test_isotropic_is_as_far_apart_as_pixels_of_the_result() -> None:
    target = SliceTarget(isotropic=True)
    assert target.plan(stack(pixel=1.0)).new_spacing_mm == pytest.approx(1.0)
    assert target.plan(stack(pixel=2.0), in_plane=2).new_spacing_mm == pytest.approx(1.0)


def test_box_counts_what_lies_within_the_slice_alone() -> None:
    one = plan(slice_spacing=1.0, thickness=3.0)
    weights = one.averaging[4]
    places = (np.array([one.places.of(k) for k in range(one.places.number)]) - 4) * 5.0
    inside = np.abs(places) < 1.5
    assert weights[~inside].max() < 0.2
    assert weights[inside].min() > 0.2
    assert weights[np.abs(places) > 2.1].max() == 0.0


def test_gaussian_is_half_as_high_at_half_its_width() -> None:
    one = plan(factor_slices=8, n=21, profile="gaussian")
    weights = one.averaging[10]
    places = (np.array([one.places.of(k) for k in range(one.places.number)]) - 10) * 5.0
    height = np.interp(2.5, places, weights) / np.interp(0.0, places, weights)
    assert height == pytest.approx(0.5, abs=0.01)


def test_new_slices_name_the_acquired_ones_that_they_come_from() -> None:
    touching = plan(factor_slices=2.5)
    for number in range(touching.places.number):
        place = touching.places.of(number)
        expected = {k for k in range(9) if abs(place - k) < 0.5 + touching.places.step / 2 - 1e-6}
        assert set(touching.sources(number)) == expected
    gap = plan(slice_spacing=1.0, thickness=3.0)
    between = min(range(gap.places.number), key=lambda k: abs(gap.places.of(k) - 3.5))
    assert gap.averaging[:, between].max() < 1e-12
    assert gap.sources(between) == [3, 4]
    overlapping = plan(slice_spacing=1.0, thickness=10.0)
    middle = min(range(overlapping.places.number), key=lambda k: abs(overlapping.places.of(k) - 4))
    assert overlapping.sources(middle) == [3, 4, 5]


def test_overlapping_slices_do_not_blow_up_what_they_averaged_away() -> None:
    one = plan(factor_slices=4, thickness=10.0)
    assert np.abs(one.inverse).sum(axis=1).max() < 8
    slow = np.cos(np.arange(one.n_source) * 2 * np.pi / one.n_source)
    assert np.abs(one.averaging @ (one.inverse @ slow) - slow).max() < 0.05


def test_words_say_what_was_assumed() -> None:
    assert "no one thickness is known" in plan(factor_slices=4).words()
    assert "with gaps of 1 mm" in plan(factor_slices=4, thickness=4.0).words()
    assert "overlapping by 2 mm" in plan(factor_slices=4, thickness=7.0).words()
    assert "Gaussian 5 mm wide" in plan(factor_slices=4, thickness=5.0, profile="gaussian").words()


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_slices_are_refused(n: int) -> None:
    with pytest.raises(SourceError, match="at least 3") as refused:
        plan(factor_slices=2, n=n)
    assert refused.value.reason == "TOO_FEW_SLICES"


@pytest.mark.parametrize("target", [{"slice_spacing": 5.0}, {"slice_spacing": 6.0}])
def test_target_no_finer_than_the_source_is_refused(target: dict[str, float]) -> None:
    with pytest.raises(SourceError, match="no finer") as refused:
        plan(**target)  # type: ignore[arg-type]
    assert refused.value.reason == "TARGET_SPACING"


def test_more_than_eight_times_is_refused_with_the_finest_that_is_possible() -> None:
    with pytest.raises(SourceError, match=r"8 times is the most.*0\.625 mm"):
        plan(slice_spacing=0.5)
    assert plan(slice_spacing=0.625).factor == pytest.approx(8)
    with pytest.raises(SourceError, match="8 times is the most"):
        SliceTarget(isotropic=True).plan(stack(pixel=1.0), in_plane=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"slice_spacing": 1.0, "isotropic": True}, "slice_spacing and isotropic"),
        ({"factor_slices": 9}, "factor_slices is 9; give a number from 1.1 to 8"),
        ({"slice_spacing": 0}, "slice_spacing is 0"),
        ({"slice_thickness": -1}, "slice_thickness"),
        ({"profile": "triangle"}, "choose one of box, gaussian"),
        ({"slice_spacing": "thin"}, "slice_spacing"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SliceTarget(**given)  # type: ignore[arg-type]


def test_slices_far_thicker_than_their_distance_are_refused() -> None:
    with pytest.raises(SourceError, match="100 mm thick and lie 5 mm apart") as refused:
        plan(factor_slices=2, thickness=100.0)
    assert refused.value.reason == "SLICE_THICKNESS"
    assert plan(factor_slices=2, thickness=15.0).thickness_mm == 15.0

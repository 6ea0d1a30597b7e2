"""Networks as functions of tensors give what the super-resolver gives, with the noise that it would draw."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from generator_fixtures import make_resolver

from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks import PureResolver, SliceNoise
from monai_ldmsr.networks.pure_networks import whole_side

PLACES = [0.0, 1.2, 7.0]


@pytest.mark.parametrize("factor", [2, 3, 2.5, (1.0, 1.75)])
@pytest.mark.parametrize(("detail", "flat"), [(0.0, 1.0), (0.5, 0.3), (1.0, 0.0), (1.0, 1.0)])
def test_it_gives_what_the_super_resolver_gives(factor: Factor, detail: float, flat: float) -> None:
    resolver = make_resolver(factor=factor, seed=3, flat_detail=flat)
    slices = 0.3 * torch.randn(3, 1, 13, 30, generator=torch.Generator().manual_seed(0))
    fields = resolver.fields_of_noise().draw((13, 30), PLACES)
    with torch.no_grad():
        ((result, error),) = resolver.estimates(slices, "MR", 2.5, [detail], PLACES)
        known = slices, torch.full((3,), 2.5)
        free, fixed = PureResolver(resolver), PureResolver(resolver, detail=detail)
        assert (free.takes_detail, fixed.takes_detail, fixed.with_sample) == (True, False, detail > 0)
        for found in (free(*known, *fields, torch.tensor(detail)), fixed(*known, *(fields if detail else ()))):
            torch.testing.assert_close(found[0], result, atol=1e-6, rtol=0)
            torch.testing.assert_close(found[1], error, atol=1e-6, rtol=1e-6)
        other = PureResolver(make_resolver(seed=3), factor, flat_detail=flat)
        torch.testing.assert_close(other(*known, *fields, torch.tensor(detail))[0], result, atol=1e-6, rtol=0)


def test_noise_is_drawn_by_what_a_file_says_of_it() -> None:
    resolver = make_resolver(factor=(2, 1.5), seed=7, correlation_mm=float("inf"))
    own = resolver.fields_of_noise()
    said = {"factors": [2, 1.5], "block": 4, "unit": own.unit, "margin": 16, "seed": 7, "correlation_mm": "inf"}
    for one, other in zip(own.draw((9, 21), PLACES), SliceNoise(**said).draw((9, 21), PLACES), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("factor", [Fraction(5, 2), Fraction(4, 3), Fraction(1), Fraction(7, 4), Fraction(6)])
def test_sides_are_rounded_as_python_does(factor: Fraction) -> None:
    assert all(whole_side(n, factor) == round(n * float(factor)) for n in range(1, 3000))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"factor": 2.3}, "would round a side of"),
        ({"factor": 7}, "factor is 7"),
        ({"factor": 1}, "more than 1"),
        ({"factor": (2, 2, 2)}, "factor is 2x2x2"),
        ({"detail": 1.5}, "detail is"),
        ({"flat_detail": -0.1}, "flat_detail is"),
    ],
)
def test_what_it_cannot_do_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        PureResolver(make_resolver(), **given)  # type: ignore[arg-type]


def test_a_missing_dial_is_named() -> None:
    resolver = make_resolver()
    fields = resolver.fields_of_noise().draw((9, 9), [0.0])
    given = torch.zeros(1, 1, 9, 9), torch.zeros(1), *fields
    with torch.no_grad(), pytest.raises(SettingsError, match=r"^detail is missing"):
        PureResolver(resolver)(*given)

"""What a generator is held to: each term is nothing at the target, and sees what it is there for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.losses import GeneratorLoss, PartialPrediction
from monai_ldmsr.networks import Prediction


def grain(count: int = 2, size: int = 96, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn((count, 1, size, size), generator=torch.Generator().manual_seed(seed))


def loss(seed: int = 0, **settings: float) -> GeneratorLoss:
    torch.manual_seed(seed)
    return GeneratorLoss(**settings)  # type: ignore[arg-type]


def test_every_term_but_the_likelihood_is_nothing_at_the_target() -> None:
    target = grain()
    terms = loss()(Prediction(target.clone(), torch.full_like(target, -9.0), target.clone()), target, (4.0, 3.0))
    assert set(terms) == {
        "mean_loss", "scale_loss", "pixel_loss", "texture_loss", "artifact_loss", "lattice_loss",
    }  # fmt: skip
    assert all(float(value) == 0 for name, value in terms.items() if name != "scale_loss")


def test_every_term_is_there_elsewhere_and_can_be_followed() -> None:
    target, image = grain(), grain(seed=1).requires_grad_()
    mean, scale = grain(seed=2).requires_grad_(), torch.full_like(target, -2.0).requires_grad_()
    terms = loss()(Prediction(mean, scale, image), target, (2.0, 2.0))
    assert all(float(value.detach()) > 0 for name, value in terms.items() if name != "scale_loss")
    of = {}
    for name, value in terms.items():
        grads = torch.autograd.grad(value, (mean, scale, image), retain_graph=True, allow_unused=True)
        of[name] = [grad is not None and bool(grad.any()) for grad in grads]
    only_mean, only_scale, only_sample = [True, False, False], [False, True, False], [False, False, True]
    assert of == {
        "mean_loss": only_mean,
        "scale_loss": only_scale,
        "pixel_loss": only_sample,
        "texture_loss": only_sample,
        "artifact_loss": only_sample,
        "lattice_loss": [True, False, True],
    }


def test_what_is_left_out_has_no_term() -> None:
    target, image = grain(), grain(seed=1)
    for prediction, names in (
        (PartialPrediction(mean=image), {"mean_loss", "lattice_loss"}),
        (PartialPrediction(mean=image, log_scale=image), {"mean_loss", "scale_loss", "lattice_loss"}),
        (PartialPrediction(sample=image), {"pixel_loss", "texture_loss", "lattice_loss"}),
        (PartialPrediction(unprojected=image), {"offset_loss"}),
    ):
        assert set(loss()(prediction, target, (2.0, 2.0))) == names
        assert set(loss()(prediction, target, (2.0, 2.5))) == names - {"lattice_loss"}
        assert set(loss(lattice_weight=0.0)(prediction, target, (2.0, 2.0))) == names - {"lattice_loss"}


@pytest.mark.parametrize("factors", [(2.0, 2.0), (4.0, 1.0), (48 / 19, 2.0)])
def test_offset_is_what_blocks_are_off_and_not_what_is_within_them(factors: tuple[float, float]) -> None:
    """Of both images: each counts, by the mean distance of its blocks."""
    target = grain()
    image = torch.cat([target + 0.03, target - 0.01], dim=1).requires_grad_()
    term = loss()(PartialPrediction(unprojected=image), target, factors)["offset_loss"]
    assert float(term.detach()) == pytest.approx(0.04, rel=1e-3)
    (slope,) = torch.autograd.grad(term, image)
    assert bool((slope[:, 0] > 0).all())
    assert bool((slope[:, 1] < 0).all())
    within = AreaOperator(factors).smooth_inverse(AreaOperator(factors)(grain(seed=1))) - grain(seed=1)
    moved = PartialPrediction(unprojected=target + within)
    assert float(loss()(moved, target, factors)["offset_loss"]) < 1e-5


def test_weights_weigh() -> None:
    target, image = grain(), grain(seed=1)
    prediction = PartialPrediction(image, torch.full_like(image, -2.0), image, image)
    weights = dict.fromkeys(("mean", "scale", "pixel", "texture", "artifact", "lattice", "offset"), 1.0)
    for name in weights:
        torch.manual_seed(0)
        plain = loss(**{f"{key}_weight": value for key, value in weights.items()})(prediction, target, (2.0, 2.0))
        doubled = loss(**{f"{key}_weight": 1.0 + (key == name) for key in weights})(prediction, target, (2.0, 2.0))
        for term, value in plain.items():
            torch.testing.assert_close(doubled[term], value * (2 if term == f"{name}_loss" else 1))
    assert float(plain["mean_loss"]) == pytest.approx(float((image - target).square().mean()))
    assert float(plain["pixel_loss"]) == pytest.approx(float((image - target).abs().mean()))


def test_the_expected_error_is_the_mean_of_the_absolute_error() -> None:
    """Least at s = E|e|, whether that is large or small."""
    target = torch.zeros(1, 1, 64, 64)
    for size in (0.003, 0.2):
        mean = size * torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
        best = float(mean.abs().mean().log())
        found = {}
        for d in (-0.5, -0.1, 0.0, 0.1, 0.5):
            prediction = PartialPrediction(mean, torch.full_like(mean, best + d))
            found[d] = float(loss(scale_weight=1.0)(prediction, target, (1.5, 2.0))["scale_loss"])
        assert min(found, key=lambda d: found[d]) == 0.0
        assert found[0.0] == pytest.approx(1 + best, abs=1e-4)


@pytest.mark.parametrize("factors", [(2, 2), (4, 2), (3, 4), (1, 6)])
def test_a_lattice_is_seen_with_its_own_block(factors: tuple[int, int]) -> None:
    rows, columns = factors
    target = grain(1)
    pattern = torch.zeros(rows, columns)
    pattern[0, 0] = 0.02
    pattern = (pattern - pattern.mean()).repeat(96 // rows, 96 // columns)
    terms = {
        block: float(loss()(PartialPrediction(mean=target + pattern), target, block)["lattice_loss"])
        for block in (tuple(map(float, factors)), (columns + 3.0, rows + 3.0), (1.0, 1.0))
        if all(96 % n == 0 for n in block)
    }
    right = terms[(float(rows), float(columns))]
    assert right == pytest.approx(15.0 * float(pattern.abs().mean()), rel=1e-4)
    assert terms[(1.0, 1.0)] == pytest.approx(0.0, abs=1e-6)
    # Another course of detail of the same energy is no lattice.
    other = target + pattern.abs().mean() * torch.randn(target.shape, generator=torch.Generator().manual_seed(3))
    assert (
        float(loss()(PartialPrediction(mean=other), target, (float(rows), float(columns)))["lattice_loss"])
        < 0.5 * right
    )


def test_rows_of_a_block_are_not_taken_for_its_columns() -> None:
    target = torch.zeros(1, 1, 96, 96)
    lines = target.clone()
    lines[..., ::4, :] = 0.1
    by_rows, by_columns = (
        float(loss()(PartialPrediction(mean=lines), target, f)["lattice_loss"]) for f in ((4.0, 1.0), (1.0, 4.0))
    )
    assert by_rows == pytest.approx(15.0 * 0.1 * 0.375, rel=1e-4)
    assert by_columns == pytest.approx(0.0, abs=1e-6)


def test_blocks_hold_each_place_apart() -> None:
    image = torch.arange(6.0).reshape(2, 3).repeat(24, 16)[None, None]
    found = loss().by_place(image, (2, 3))
    torch.testing.assert_close(found, (torch.arange(6.0) - 2.5).view(1, 6, 1, 1).expand_as(found))


def test_texture_is_a_distribution_and_not_an_energy_alone() -> None:
    """Sparse dashes of the energy of Gaussian grain are farther from it than other grain is."""
    random = torch.Generator().manual_seed(5)
    target, other = grain(2, 192), grain(2, 192, seed=1)
    dashes = torch.zeros_like(target)
    marked = torch.rand((2, 1, 192, 64), generator=random) < 0.03
    dashes[...] = (marked * torch.randn(marked.shape, generator=random)).repeat_interleave(3, dim=-1)
    dashes = dashes * (target.std() / dashes.std())
    weak, blurred = 0.5 * other, torch.nn.functional.avg_pool2d(other, 3, 1, 1)

    def distance(image: Tensor) -> float:
        torch.manual_seed(0)
        return float(loss().texture_distance(image, target))

    same = distance(other)
    assert distance(dashes) > 1.6 * same
    assert distance(weak) > 2 * same
    assert distance(blurred) > 2 * same
    assert distance(other.mT) < 1.2 * same
    assert distance(target) == 0


def test_texture_is_compared_by_place() -> None:
    """Grain on the left alone is not made good by grain on the right."""
    target, moved = grain(), grain()
    target[..., 48:] = 0
    moved[..., :48] = 0
    torch.manual_seed(0)
    apart = float(loss().texture_distance(moved, target))
    other = grain(seed=1)
    other[..., 48:] = 0
    assert apart > 2 * float(loss().texture_distance(other, target))


def test_artifacts_are_where_the_sample_errs_more_than_the_mean() -> None:
    target = grain()
    sample = target.clone()
    sample[..., 40:50, 40:50] += 0.3 * torch.randn(10, 10, generator=torch.Generator().manual_seed(1))
    even = target + (sample - target).abs().mean()
    artifacts = loss().artifacts
    uneven, plain = (float(artifacts(image, target, target)) for image in (sample, even))
    assert uneven > 3 * plain, "an uneven error counts more than an even one of the same size"
    assert float(artifacts(sample, sample, target)) == pytest.approx(float(artifacts(sample, target, target)))
    worse = target + 2 * (sample - target)
    assert float(artifacts(sample, worse, target)) == 0.0, "the mean errs more"


def test_nothing_is_undefined_at_odd_values() -> None:
    flat = torch.zeros(1, 1, 48, 48)
    for image in (flat, flat + 5, 100 * grain(1, 48)):
        sample, mean, scale = (image.clone().requires_grad_() for _ in range(3))
        terms = loss()(Prediction(mean, scale.clamp(-9, 0.7), sample), flat, (2.0, 2.0))
        torch.stack(list(terms.values())).sum().backward()
        assert all(bool(x.grad.isfinite().all()) for x in (sample, mean, scale) if x.grad is not None)
        assert all(bool(value.isfinite()) for value in terms.values())

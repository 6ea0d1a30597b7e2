"""Operators against independent computations: faces, mean, adjoint, pseudo-inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ldmsr.consistency import clip_keeping_means, project_onto_source
from monai_ldmsr.degradation import (
    OPERATORS,
    AreaOperator,
    GaussianOperator,
    KSpaceCropOperator,
    adjoint,
    named_operator,
    pseudo_inverse,
)
from monai_ldmsr.errors import SettingsError

FACTORS = (2, 3, 4)


def operators(factor: int) -> list:
    return [AreaOperator(factor), GaussianOperator(factor, 0.4 * factor), KSpaceCropOperator(factor)]


def image(factor: int, size: tuple[int, int] = (12, 20)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(factor)
    return torch.randn((2, 1, size[0] * factor, size[1] * factor), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("factor", FACTORS)
def test_area_is_the_block_mean(factor: int) -> None:
    x = image(factor)
    blocks = x.numpy().reshape(2, 1, 12, factor, 20, factor)
    np.testing.assert_allclose(AreaOperator(factor)(x).numpy(), blocks.mean(axis=(3, 5)), atol=1e-12)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("which", range(3))
def test_shape_and_constant(factor: int, which: int) -> None:
    result = operators(factor)[which](torch.full((1, 1, 12 * factor, 20 * factor), 7.0))
    assert result.shape == (1, 1, 12, 20)
    np.testing.assert_allclose(result.numpy(), 7.0, rtol=1e-5)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("which", range(3))
def test_faces_stay(factor: int, which: int) -> None:
    """A slow wave keeps its phase: half a fine pixel off would be seen."""
    n, periods = 24 * factor, 2
    fine = (np.arange(n) + 0.5) / n
    coarse = (np.arange(24) + 0.5) / 24
    wave = torch.from_numpy(np.cos(2 * np.pi * periods * fine + 0.7))[None, None, :, None].expand(1, 1, n, n)
    result = operators(factor)[which](wave)[0, 0, 2:-2, 12].numpy()
    basis = np.stack([np.cos(2 * np.pi * periods * coarse), np.sin(2 * np.pi * periods * coarse)], axis=1)[2:-2]
    (c, s), *_ = np.linalg.lstsq(basis, result, rcond=None)
    phase = np.arctan2(-s, c)
    half_fine_pixel = 2 * np.pi * periods * 0.5 / n
    assert abs(phase - 0.7) < 0.02 * half_fine_pixel


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("which", range(3))
def test_adjoint(factor: int, which: int) -> None:
    operator = operators(factor)[which]
    x, y = image(factor), torch.randn(2, 1, 12, 20, dtype=torch.float64)
    assert float((operator(x) * y).sum()) == pytest.approx(float((x * adjoint(operator, y)).sum()), rel=1e-9)


@pytest.mark.parametrize("factor", FACTORS)
def test_kspace_crop_keeps_low_frequencies(factor: int) -> None:
    x = image(factor, (16, 16))
    spectrum = np.fft.fft2(x.numpy())
    low = np.fft.fft2(KSpaceCropOperator(factor)(x).numpy())
    for row, column in ((0, 0), (1, 3), (-5, 2), (7, -7)):
        assert abs(low[0, 0, row, column]) == pytest.approx(abs(spectrum[0, 0, row, column]) / factor**2, rel=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", OPERATORS)
def test_pseudo_inverse_is_the_smallest_image_that_agrees(factor: int, name: str) -> None:
    """Against numpy's pseudo-inverse of the operator written out as a matrix."""
    operator, (height, width) = named_operator(name, factor), (5, 6)
    points = torch.eye(height * width * factor**2, dtype=torch.float64)
    matrix = operator(points.reshape(-1, 1, height * factor, width * factor)).flatten(1).T.numpy()
    y = torch.randn(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.pinv(matrix) @ y.flatten().numpy()
    found = pseudo_inverse(operator, y, iterations=60)
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-4)
    with torch.inference_mode():
        np.testing.assert_array_equal(pseudo_inverse(operator, y, iterations=60).numpy(), found.numpy())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", OPERATORS)
def test_projection_brings_every_operator_closer(factor: int, name: str) -> None:
    operator, truth = named_operator(name, factor), image(factor)
    guess = truth + 0.5 * torch.randn_like(truth)
    low = operator(truth)
    result = project_onto_source(guess.clone(), low, operator)
    assert float((operator(result) - low).abs().max()) < 0.02 * float((operator(guess) - low).abs().max())
    assert float((result - truth).square().mean()) < float((guess - truth).square().mean())


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'blur'.*area, gaussian, kspace"):
        named_operator("blur", 2)


@pytest.mark.parametrize("factor", FACTORS)
def test_projection_agrees_and_never_adds_error(factor: int) -> None:
    operator, truth = AreaOperator(factor), image(factor)
    guess = truth + 0.5 * torch.randn_like(truth)
    before = float((guess - truth).square().mean())
    result = project_onto_source(guess.clone(), operator(truth), operator)
    np.testing.assert_allclose(operator(result).numpy(), operator(truth).numpy(), atol=1e-12)
    assert float((result - truth).square().mean()) < before
    assert torch.equal(project_onto_source(guess.clone(), operator(truth), operator, weight=0.0), guess)


@pytest.mark.parametrize("factor", FACTORS)
def test_clipping_keeps_block_means(factor: int) -> None:
    operator, x = AreaOperator(factor), image(factor)
    means, outside = operator(x), int((x.abs() > 0.8).sum())
    assert clip_keeping_means(x, (-0.8, 0.8), operator) == outside
    assert float(x.abs().max()) <= 0.8
    np.testing.assert_allclose(operator(x).numpy(), means.clamp(-0.8, 0.8).numpy(), atol=1e-12)
    untouched = x.clone()
    assert clip_keeping_means(x, (-0.8, 0.8), operator) == 0
    assert torch.equal(x, untouched)

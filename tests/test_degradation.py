"""Operators against independent computations: faces, mean, and the smooth way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import (
    AreaOperator,
    DegradationOperator,
    Factor,
    factor_pair,
    matrix_on,
    repeat_blocks,
    smooth_inverse_matrix,
)
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.operators import OPERATORS, operator_matrix

#: Whole, fractional, and of rows and columns each; low-resolution slices have 12 x 20 pixels.
ALL_FACTORS: tuple[Factor, ...] = (2, 3, 4, 1.5, 2.75, (1, 4), (3, 1.25), (5.75, 2.0))

LOW = (12, 20)


def image(factor: Factor, size: tuple[int, int] = LOW) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(10 * factor_pair(factor)[0]))
    sides = [round(n * f) for n, f in zip(size, factor_pair(factor), strict=True)]
    return torch.randn((2, 1, *sides), generator=generator, dtype=torch.float64)


def mean_between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of a step function along the last axis between edges in pixels, by its antiderivative."""
    whole = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(axis=-1)], axis=-1)
    places = np.arange(values.shape[-1] + 1)
    at_edges = np.apply_along_axis(lambda row: np.interp(edges, places, row), -1, whole)
    return np.diff(at_edges, axis=-1) / np.diff(edges)


@pytest.mark.parametrize("factor", ALL_FACTORS)
def test_area_is_the_integral_between_faces(factor: Factor) -> None:
    """Pixels that a face cuts count in part, none is lost, and rows are not taken for columns."""
    x = image(factor)
    rows, columns = (np.linspace(0, n, low + 1) for n, low in zip(x.shape[-2:], LOW, strict=True))
    expected = mean_between(mean_between(x.numpy(), columns).swapaxes(-1, -2), rows).swapaxes(-1, -2)
    found = AreaOperator(factor)(x)
    assert found.shape == (2, 1, *LOW)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(DegradationOperator("area", factor)(x).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(found.mean().numpy(), x.mean().numpy(), atol=1e-12)


def test_factors_are_of_rows_then_columns() -> None:
    x = torch.arange(8.0).expand(1, 1, 4, 8).contiguous()
    assert AreaOperator((1, 4))(x).tolist() == [[[[1.5, 5.5]] * 4]]
    assert AreaOperator((4, 1))(x).tolist() == [[[list(range(8))]]]
    y = torch.randn(1, 1, 2, 3)
    for name in OPERATORS:
        operator = DegradationOperator(name, (2.5, 4))
        assert operator.smooth_inverse(y).shape == (1, 1, 5, 12)


@pytest.mark.parametrize("factor", ALL_FACTORS)
@pytest.mark.parametrize("name", OPERATORS)
def test_shape_and_constant(factor: Factor, name: str) -> None:
    operator = DegradationOperator(name, factor)
    result = operator(torch.full_like(image(factor), 7.0, dtype=torch.float32))
    assert result.shape == (2, 1, *LOW)
    np.testing.assert_allclose(result.numpy(), 7.0, rtol=1e-5)
    # The damping of what is all but wiped out costs thousandths of everything.
    np.testing.assert_allclose(operator.smooth_inverse(result).numpy(), 7.0, rtol=1e-5 if name == "area" else 5e-3)


@pytest.mark.parametrize("factor", [2, 3, 4, 1.5, 2.75, 5.75])
@pytest.mark.parametrize("name", OPERATORS)
def test_faces_stay(factor: float, name: str) -> None:
    """A slow wave keeps its phase there and back: half a fine pixel off would be seen."""
    n, periods = round(24 * factor), 2
    fine, coarse = ((np.arange(size) + 0.5) / size for size in (n, 24))
    wave = torch.from_numpy(np.cos(2 * np.pi * periods * fine + 0.7))[None, None, :, None].expand(1, 1, n, n)
    low = DegradationOperator(name, factor)(wave)
    assert abs(phase(low[0, 0, :, 12].numpy(), coarse, periods) - 0.7) < 0.02 * np.pi * periods / n
    back = DegradationOperator(name, factor).smooth_inverse(low)
    assert abs(phase(back[0, 0, :, n // 2].numpy(), fine, periods) - 0.7) < 0.1 * np.pi * periods / n


def phase(values: np.ndarray, places: np.ndarray, periods: int) -> float:
    """Phase of a wave between 0 and 1, not at the very faces, where a wave that is cut off has no neighbour."""
    inner = (places > 1 / 12) & (places < 11 / 12)
    basis = np.stack([np.cos(2 * np.pi * periods * places), np.sin(2 * np.pi * periods * places)], axis=1)
    (c, s), *_ = np.linalg.lstsq(basis[inner], values[inner], rcond=None)
    return float(np.arctan2(-s, c))


@pytest.mark.parametrize("factor", ALL_FACTORS)
def test_kspace_crop_keeps_low_frequencies(factor: Factor) -> None:
    """Of the slice with its mirror image, whose spectrum is the cosine transform of the slice."""
    x = image(factor)
    spectrum = dctn(x.numpy(), axes=(-2, -1), norm="ortho")[..., : LOW[0], : LOW[1]]
    scale = np.sqrt(LOW[0] * LOW[1] / (x.shape[-2] * x.shape[-1]))
    expected = idctn(spectrum, axes=(-2, -1), norm="ortho") * scale
    np.testing.assert_allclose(DegradationOperator("kspace", factor)(x).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("factor", ALL_FACTORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_comes_back_is_degraded_to_the_source(factor: Factor, dtype: torch.dtype) -> None:
    y = torch.randn(2, 1, *LOW, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    back = AreaOperator(factor).smooth_inverse(y)
    assert back.dtype == dtype
    again = AreaOperator(factor)(back)
    np.testing.assert_allclose(again.numpy(), y.numpy(), atol=1e-10 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("fine", range(32, 193, 7))
def test_what_comes_back_is_exact_for_every_pair_of_sizes(fine: int) -> None:
    for coarse in (fine, fine - 1, fine * 7 // 8, fine // 2 + 1, fine // 3, fine // 6, 1):
        both = operator_matrix("area", fine, coarse) @ smooth_inverse_matrix("area", fine, coarse)
        np.testing.assert_allclose(both.numpy(), np.eye(coarse), atol=1e-9)
        # Nothing is blown up either: white noise becomes at most so much stronger (where factors are close to 1).
        assert float(smooth_inverse_matrix("area", fine, coarse).norm()) < 1.85 * fine**0.5


@pytest.mark.parametrize("factor", [2, 3, 4, 2.75])
@pytest.mark.parametrize("name", OPERATORS)
def test_what_comes_back_has_no_blocks(factor: float, name: str) -> None:
    """A ramp and a slow wave come back as such; repeated pixels would jump from block to block."""
    n = round(20 * factor)
    for course in (np.arange(20.0), 10 * np.cos(2 * np.pi * np.arange(20) / 10)):
        y = torch.from_numpy(course).expand(1, 1, 12, 20).contiguous()
        inner = slice(round(4 * factor), n - round(4 * factor))
        back = DegradationOperator(name, factor).smooth_inverse(y)[0, 0, 10, inner].numpy()
        blocks = y[0, 0, 5, (torch.arange(n) / factor).long()][inner].numpy()
        bend, jump = (np.abs(np.diff(values, 2)).max() for values in (back, blocks))
        assert bend < 0.25 * jump
        wanted = np.interp((np.arange(n)[inner] + 0.5) / factor - 0.5, np.arange(20), course)
        assert np.abs(back - wanted).max() < (0.08 if course[0] == 0 else 1.0)


@pytest.mark.parametrize("name", OPERATORS)
def test_matrices_serve_inference_and_then_training(name: str) -> None:
    matrix_on.cache_clear()
    operator = DegradationOperator(name, 2.5)
    with torch.inference_mode():
        for dtype in (torch.float32, torch.float64):
            y = torch.randn(1, 1, 8, 6, dtype=dtype)
            expected = operator(operator.smooth_inverse(y))
            operator_matrix(name, 18, 8), smooth_inverse_matrix(name, 18, 8)
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(1, 1, 8, 6, dtype=dtype, requires_grad=True)
        found = operator(operator.smooth_inverse(x))
        found.square().sum().backward()
        assert x.grad is not None
        assert float(x.grad.abs().sum()) > 0
        DegradationOperator(name, (18 / 8, 1))(
            torch.randn(1, 1, 18, 6, dtype=dtype, requires_grad=True)
        ).sum().backward()
    np.testing.assert_array_equal(operator(operator.smooth_inverse(y.clone())).numpy(), expected.numpy())


@pytest.mark.parametrize("factor", ALL_FACTORS)
@pytest.mark.parametrize("name", OPERATORS)
def test_projection_brings_every_operator_closer(factor: Factor, name: str) -> None:
    operator, truth = DegradationOperator(name, factor), image(factor)
    guess = truth + 0.5 * torch.randn_like(truth)
    low = operator(truth)
    result = project_onto_source(guess.clone(), low, operator)
    assert float((operator(result) - low).abs().max()) < 0.02 * float((operator(guess) - low).abs().max())


@pytest.mark.parametrize("factor", ALL_FACTORS)
def test_projection_agrees_and_half_of_it_goes_half_way(factor: Factor) -> None:
    operator, truth = AreaOperator(factor), image(factor)
    guess = truth + 0.5 * torch.randn_like(truth)
    low = operator(truth)
    whole, half = (project_onto_source(guess.clone(), low, operator, weight) for weight in (1.0, 0.5))
    np.testing.assert_allclose(operator(whole).numpy(), low.numpy(), atol=1e-10)
    np.testing.assert_allclose(half.numpy(), (0.5 * (guess + whole)).numpy(), atol=1e-12)
    assert torch.equal(project_onto_source(guess.clone(), low, operator, weight=0.0), guess)
    np.testing.assert_allclose(project_onto_source(truth.clone(), low, operator).numpy(), truth.numpy(), atol=1e-12)


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'blur'.*area, gaussian, kspace"):
        DegradationOperator("blur", 2)


@pytest.mark.parametrize("factor", [2.5, (2, 1.5)])
def test_blocks_need_a_whole_factor(factor: Factor) -> None:
    with pytest.raises(SettingsError, match="whole"):
        repeat_blocks(torch.zeros(1, 1, 2, 2), factor)
    assert repeat_blocks(torch.zeros(1, 1, 2, 2), (3.0, 2)).shape == (1, 1, 6, 4)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_repeated_blocks_are_each_pixel_over_its_block(factor: int) -> None:
    y = torch.randn(2, 1, 3, 4)
    expected = y.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    assert torch.equal(repeat_blocks(y, factor), expected)

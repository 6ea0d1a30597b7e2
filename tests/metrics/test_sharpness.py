"""Sharpness against independent NumPy and SciPy computations, and what must hold whatever the image."""

import math

import monai.metrics
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

import monai_ldmsr.metrics as metrics
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.metrics import (
    FFTSharpnessMetric,
    LaplacianVarianceMetric,
    fft_sharpness,
    laplacian_variance,
    to_grey8,
)
from monai_ldmsr.metrics.sharpness import foreground


def phantom(height=96, width=80, seed=0):
    """Smooth ellipse with texture and noise, grey levels 0..255, as (1, 1, H, W)."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = rows**2 + (columns / 0.8) ** 2 < 0.8
    texture = 30 * np.sin(25 * rows) * np.cos(31 * columns)
    noise = np.random.default_rng(seed).normal(0, 4, inside.shape)
    grey = np.clip(np.where(inside, 120 + texture, 10) + noise, 0, 255).round()
    return torch.from_numpy(grey)[None, None].float()


def fft_by_numpy(image, size):
    """Blur detection recipe, line by line in NumPy."""
    height, width = image.shape
    shifted = np.fft.fftshift(np.fft.fft2(image))
    shifted[height // 2 - size : height // 2 + size, width // 2 - size : width // 2 + size] = 0
    return (20 * np.log(np.abs(np.fft.ifft2(np.fft.ifftshift(shifted))))).mean()


def test_laplacian_variance_equals_scipy():
    image = phantom()
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    # SciPy's "mirror" is OpenCV's BORDER_REFLECT_101: d c b | a b c d | c b a.
    expected = ndimage.convolve(image[0, 0].double().numpy(), kernel, mode="mirror")
    assert laplacian_variance(image).item() == pytest.approx(expected.var(), rel=1e-9)
    mask = image > 60
    inside = expected[mask[0, 0].numpy()]
    assert laplacian_variance(image, mask).item() == pytest.approx(inside.var(), rel=1e-9)


@pytest.mark.parametrize(("height", "width", "size"), [(96, 80, 20), (95, 81, 20), (256, 256, 60)])
def test_fft_sharpness_equals_numpy(height, width, size):
    image = phantom(height, width)
    assert fft_sharpness(image, size).item() == pytest.approx(
        fft_by_numpy(image[0, 0].double().numpy(), size), rel=1e-9
    )


def test_auto_is_sixty_at_256_and_in_proportion():
    assert fft_sharpness(phantom(256, 300), "auto") == fft_sharpness(phantom(256, 300), 60)
    assert fft_sharpness(phantom(128, 200), "auto") == fft_sharpness(phantom(128, 200), 30)


def test_fft_keeps_waves_outside_the_square_and_removes_those_within():
    phase = 2 * math.pi * torch.arange(64) / 64
    outside = (10 * torch.cos(20 * phase + 0.1)).double().expand(64, 64)[None, None]
    within = (10 * torch.cos(5 * phase)).double().expand(64, 64)[None, None]
    assert fft_sharpness(outside + within, 8).item() == pytest.approx(
        (20 * outside.abs().log()).mean().item(), abs=1e-3
    )


@pytest.mark.parametrize("measure", [laplacian_variance, fft_sharpness])
def test_noise_raises_and_blur_lowers(measure):
    image = phantom()
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    noisy = (image + 10 * noise).clamp(0, 255)
    blurred = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5)))
    assert measure(blurred) < measure(image) < measure(noisy)


@pytest.mark.parametrize("measure", [laplacian_variance, fft_sharpness])
def test_symmetries(measure):
    image = phantom()
    turned = measure(image.flip(-1, -2))
    assert torch.allclose(turned, measure(image), rtol=1e-9)
    # The recipe's square of zeros is half open, so one flip alone moves the FFT measure a little.
    assert torch.allclose(measure(image.flip(-1)), measure(image), rtol=2e-2)
    assert torch.allclose(measure(image + 20), measure(image), rtol=1e-6)


def test_fft_does_not_see_a_circular_shift():
    image = phantom()
    assert torch.allclose(fft_sharpness(image.roll((7, -11), (-2, -1))), fft_sharpness(image), rtol=1e-6)


def test_contrast_scales_as_it_must():
    image = phantom()
    assert torch.allclose(laplacian_variance(image * 2), 4 * laplacian_variance(image))
    assert torch.allclose(fft_sharpness(image * 2), fft_sharpness(image) + 20 * math.log(2))


@pytest.mark.parametrize("size", ["auto", 40, 1000])
def test_constant_image_and_full_square_stay_finite(size):
    assert torch.isfinite(fft_sharpness(torch.full((1, 1, 64, 80), 77.0), size)).all()
    assert torch.isfinite(fft_sharpness(phantom(64, 80), size)).all()
    assert laplacian_variance(torch.full((1, 1, 64, 80), 77.0)).item() == 0


@pytest.mark.parametrize("measure", [laplacian_variance, fft_sharpness])
def test_mask_and_batch(measure):
    image = torch.cat([phantom(seed=0), phantom(seed=1)])
    full = torch.ones_like(image)
    assert torch.allclose(measure(image, mask=full), measure(image))
    assert torch.allclose(measure(image)[1:], measure(image[1:]))
    full[1] = 0
    assert torch.isnan(measure(image, mask=full)).tolist() == [False, True]


def test_integer_images_do_not_overflow():
    image = phantom()
    assert torch.equal(laplacian_variance(image.byte()), laplacian_variance(image))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: to_grey8(torch.zeros(2), 1, 1), "1 to 1"),
        (lambda: to_grey8(torch.zeros(2), math.nan, 1), "low end"),
        (lambda: laplacian_variance(torch.zeros(8, 8)), r"\(8, 8\)"),
        (lambda: laplacian_variance(torch.zeros(1, 3, 8, 8)), "B, 1, H, W"),
        (lambda: fft_sharpness(torch.zeros(1, 1, 1, 8)), "at least 2"),
        (lambda: fft_sharpness(torch.zeros(1, 1, 8, 8), mask=torch.ones(8, 8)), "mask"),
        (lambda: fft_sharpness(torch.zeros(1, 1, 8, 8), size=0), "at least 1"),
        (lambda: LaplacianVarianceMetric().aggregate(), "collected no image"),
    ],
)
def test_errors_tell_the_value(call, word):
    with pytest.raises(SettingsError, match=word):
        call()


@pytest.mark.parametrize("kind", [LaplacianVarianceMetric, FFTSharpnessMetric])
def test_metric_has_monai_s_interface(kind):
    measure = laplacian_variance if kind is LaplacianVarianceMetric else fft_sharpness
    first, second = phantom(seed=0), phantom(seed=1)
    metric = kind(grey_range=(-1.0, 1.0))
    scaled = [MetaTensor(image / 127.5 - 1) for image in (first, second)]
    metric(y_pred=scaled[0], y=torch.zeros(1))
    metric(y_pred=[scaled[1][0]])  # as decollated batches arrive
    expected = torch.cat([measure(first), measure(second)])
    assert torch.allclose(metric.get_buffer(), expected[:, None])
    assert torch.allclose(metric.aggregate().double(), expected.mean(), rtol=1e-5)
    assert metric.aggregate("none").shape == (2, 1)
    metric.reset()
    assert metric.get_buffer() is None


def test_metric_takes_channels_and_a_mask():
    image = torch.cat([phantom(seed=0), phantom(seed=1)], dim=1)
    metric = LaplacianVarianceMetric(reduction="none")
    mask = torch.ones_like(image)
    mask[:, 1] = 0
    values = metric(y_pred=image, mask=mask)
    assert values.shape == (1, 2)
    assert torch.isnan(values[0, 1])
    assert torch.allclose(values[:, 0], laplacian_variance(image[:, :1]))


def test_names_are_ours_alone_and_every_measure_is_defined():
    assert not set(metrics.__all__) & set(vars(monai.metrics))
    assert [metric.name for metric in metrics.METRICS] == ["laplacian_variance", "fft"]


@pytest.mark.parametrize("shape", [(2, 1, 60, 77), (1, 1, 9, 5), (1, 1, 1, 1), (1, 1, 300, 4)])
def test_the_foreground_is_where_the_mean_of_nine_by_nine_is_above_twenty(shape):
    grey = torch.randint(0, 41, shape, generator=torch.Generator().manual_seed(3)).float()
    for one, found in zip(grey[:, 0], foreground(grey)[:, 0], strict=True):
        image = one.numpy().astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, 4, constant_values=np.nan), (9, 9))
        assert np.array_equal(found.numpy(), np.nanmean(windows, axis=(2, 3)) > 20)

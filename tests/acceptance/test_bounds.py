"""No voxel far from what was measured around it, and the means of blocks as they were: by independent computations."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_fixtures import make_series
from places import SAMPLES
from scipy import ndimage

from monai_ldmsr import fit_intensity_map, load_super_resolver, project_volume, super_resolve, volume_noise
from monai_ldmsr.consistency import clip_keeping_means, neighbourhood_range, overshoot_share
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io import DicomSeries, read_dicom_series
from monai_ldmsr.networks import SuperResolver
from monai_ldmsr.transforms import ProjectOntoSourced, possible_range

FACTORS = (2, 3, 4)
SAMPLE = SAMPLES / "dicom" / "ct_abdomen"


def blocks(result: np.ndarray, factor: int) -> np.ndarray:
    """(fI, fJ) to (I, f, J, f)."""
    return result.reshape(result.shape[0] // factor, factor, result.shape[1] // factor, factor)


def check(
    result: np.ndarray, source: np.ndarray, factor: int, share: float, least: float = -np.inf, slack: float = 0.0
) -> None:
    """Range of the 3 x 3 source pixels and a share of its contrast; means of blocks."""
    high, low = (f(source, size=3, mode="nearest") for f in (ndimage.maximum_filter, ndimage.minimum_filter))
    slack = slack or 1e-5 * np.abs(source).max()
    allowed, found = share * (high - low) + slack, blocks(result, factor)
    assert (found.max(axis=(1, 3)) <= high + allowed).all()
    assert (found.min(axis=(1, 3)) >= np.maximum(low - allowed, least)).all()
    np.testing.assert_allclose(found.mean(axis=(1, 3)), source, atol=slack)


@pytest.mark.parametrize("factor", FACTORS)
def test_clipping_keeps_block_means(factor: int) -> None:
    generator = torch.Generator().manual_seed(factor)
    x = torch.randn((2, 1, 12 * factor, 20 * factor), generator=generator, dtype=torch.float64)
    operator = AreaOperator(factor)
    low = -0.9 + 0.1 * torch.rand((2, 1, 12, 20), generator=generator, dtype=torch.float64)
    high, means = low + 1.6, operator(x)
    clip_keeping_means(x, low, high, operator)
    for image, least, most in zip(x[:, 0].numpy(), low[:, 0].numpy(), high[:, 0].numpy(), strict=True):
        assert (blocks(image, factor) >= least[:, None, :, None]).all()
        assert (blocks(image, factor) <= most[:, None, :, None]).all()
    wanted = torch.minimum(torch.maximum(means, low), high)
    np.testing.assert_allclose(operator(x).numpy(), wanted.numpy(), atol=1e-12)
    untouched = x.clone()
    clip_keeping_means(x, low, high, operator)
    np.testing.assert_allclose(x.numpy(), untouched.numpy(), atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_neighbourhoods_are_three_by_three_and_end_at_the_edge(share: float) -> None:
    image = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    low, high = (end[0, 0].numpy() for end in neighbourhood_range(torch.from_numpy(image)[None, None], share))
    for i, j in np.ndindex(image.shape):
        around = image[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2]
        allowed = share * np.ptp(around)
        assert low[i, j] == pytest.approx(around.min() - allowed, abs=1e-6)
        assert high[i, j] == pytest.approx(around.max() + allowed, abs=1e-6)


@pytest.mark.parametrize("operator", ["area", "gaussian", "kspace"])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("factor", FACTORS)
def test_no_network_leads_out_of_the_bounds(factor: int, weight: float, operator: str) -> None:
    """Whatever a network gives: noise, and single values beyond all measure."""
    random = np.random.default_rng(factor)
    source = torch.from_numpy(random.gamma(2.0, 300.0, (1, 15, 11, 2)).astype(np.float32))
    result = source.repeat_interleave(factor, 1).repeat_interleave(factor, 2).contiguous()
    result += 900 * torch.from_numpy(random.normal(size=result.shape).astype(np.float32))
    result[0, 5, 6, 0], result[0, 8, 9, 1] = 1e7, -1e9
    rms, n_bounded = project_volume(result, source, factor, weight, operator, value_range=(0.0, 4095.0))
    assert rms > 1e5
    assert 0 < n_bounded <= result.numel()
    assert float(result.min()) >= 0.0
    assert float(result.max()) <= 4095.0
    for found, measured in zip(result[0].numpy().T, source[0].numpy().T, strict=True):
        high, low = (f(measured, size=3, mode="nearest") for f in (ndimage.maximum_filter, ndimage.minimum_filter))
        slack = overshoot_share(factor) * (high - low) + 0.01
        assert (blocks(found, factor).max(axis=(1, 3)) <= high + slack).all()
        assert (blocks(found, factor).min(axis=(1, 3)) >= low - slack).all()
        if operator == "area" and weight == 1.0:
            np.testing.assert_allclose(blocks(found, factor).mean(axis=(1, 3)), measured, atol=0.01)


@lru_cache
def shipped(factor: int, detail: float) -> SuperResolver:
    return load_super_resolver(factor=factor, detail=detail)[0]


def square(value: float, ground: float) -> np.ndarray:
    image = np.full((48, 40), ground, np.float32)
    image[20:23, 17:20] = value
    return image


def rod(value: float, ground: float) -> np.ndarray:
    """Two pixels wide, aslant."""
    i, j = np.indices((48, 40))
    return np.where(np.abs(0.8 * i - 0.6 * j - 8) < 1, value, ground).astype(np.float32)


def disc(value: float, ground: float, radius: float = 9.0) -> np.ndarray:
    """Its edge covers pixels in part."""
    i, j = np.indices((48 * 8, 40 * 8)) / 8
    inside = (np.hypot(i - 24, j - 19.5) < radius).reshape(48, 8, 40, 8).mean(axis=(1, 3))
    return (ground + (value - ground) * inside).astype(np.float32)


def metal(value: float, ground: float) -> np.ndarray:
    """A screw with streaks of black and white."""
    i, j = np.indices((48, 40))
    return disc(value, ground, 4.0) + (800 * np.sin(7 * np.arctan2(i - 24, j - 19.5))).astype(np.float32)


OBJECTS = {
    "CT square": ("CT", square(3000, 0)),
    "CT rod": ("CT", rod(2500, 40)),
    "CT disc": ("CT", disc(3071, 40)),
    "CT metal": ("CT", metal(12000, 40)),
    "CT air in water": ("CT", disc(-1000, 0, 3.0)),
    "MR square": ("MR", square(1200, 300)),
    "MR disc": ("MR", disc(1200, 300)),
    "PT hot lesion": ("PT", square(10512, 500)),
    "PT bladder": ("PT", disc(60000, 800, 5.0)),
}


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("name", OBJECTS)
def test_dense_and_hot_objects_do_not_overshoot(name: str, factor: int) -> None:
    """By the shipped networks, at the mean and at a sample."""
    modality, image = OBJECTS[name]
    image = image + np.random.default_rng(1).normal(0, 0.004 * np.ptp(image), image.shape).astype(np.float32)
    least = 0.0 if modality != "CT" else -np.inf
    image = image.clip(min=least)
    volume = torch.from_numpy(image)[None, ..., None]
    intensity = fit_intensity_map(volume, modality)
    for detail in (0.0, 1.0):
        network = shipped(factor, detail)
        noise = volume_noise(intensity.forward(volume)[None])
        with torch.no_grad():
            found = network(intensity.forward(volume)[..., 0][None], modality, noise)
            result = intensity.inverse(found)[0][..., None].contiguous()
        before = result[0, ..., 0].numpy().copy()
        project_volume(result, volume, factor, value_range=(least, np.inf))
        check(result[0, ..., 0].numpy(), image, factor, overshoot_share(factor), least)
        assert np.abs(result[0, ..., 0].numpy() - before).mean() < 0.1 * np.ptp(image)


@pytest.mark.slow
def test_real_bone_stays_near_a_cubic_spline(tmp_path: Path) -> None:
    """The slice of the sample in which a spline overshoots most, by a whole run, as written."""

    def spline(path: Path) -> float:
        image = pydicom.dcmread(path)
        values = image.pixel_array * image.RescaleSlope + image.RescaleIntercept
        return float(ndimage.zoom(values, 2, order=3, grid_mode=True, mode="nearest").max())

    path = max(SAMPLE.iterdir(), key=spline)
    summary = super_resolve(path, tmp_path, factor=2, device="cpu")
    (folder,) = (tmp_path / case.case for case in summary.cases)
    images = [pydicom.dcmread(image) for image in (path, *(folder / "dicom").iterdir())]
    source, result = (image.pixel_array * image.RescaleSlope + image.RescaleIntercept for image in images)
    assert source.max() == 3071
    assert result.max() < 1.1 * spline(path)
    check(result, source, 2, overshoot_share(2), slack=0.51)
    report = json.loads((folder / "report.json").read_text())["result"]
    assert report["overshoot"] == overshoot_share(2)
    # Most of them are air without any contrast, which the network sets some HU too low.
    assert 0 < report["n_bounded"] < 0.1 * result.size


def odd_pred(series: DicomSeries) -> torch.Tensor:
    pred = torch.from_numpy(series.voxels)[None].repeat_interleave(2, 1).repeat_interleave(2, 2).contiguous()
    pred[0, 0, 0, 0] -= 90_000
    pred[0, 5, 5, 1] += 90_000
    return pred


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_what_is_bounded_is_counted(tmp_path: Path, modality: str) -> None:
    make_series(tmp_path, modality, (16, 20, 3))
    series = read_dicom_series(tmp_path)
    data = ProjectOntoSourced(keys="pred", factor=2, weight=0)({"pred": odd_pred(series), "source": series})
    assert data["pred_projection"].n_bounded == 2
    assert data["pred_projection"].overshoot == overshoot_share(2)
    data = ProjectOntoSourced(keys="pred", factor=2, overshoot=0)({"pred": odd_pred(series), "source": series})
    for k in range(3):
        check(data["pred"][0, ..., k].numpy(), series.voxels[..., k], 2, 0.0, series.value_range[0])
    with pytest.raises(SettingsError, match="overshoot is -1"):
        ProjectOntoSourced(keys="pred", factor=2, overshoot=-1)


def test_a_magnitude_image_gets_no_negative_values(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", (16, 20, 3), PixelRepresentation=1)
    series = read_dicom_series(tmp_path)
    assert series.value_range[0] < 0 <= series.voxels.min()
    assert possible_range(series) == (0.0, series.value_range[1])
    series.voxels[:] = 10.0
    series.voxels[2, 2] = 0.0
    pred = torch.full((1, 40, 32, 3), 10.0)
    pred[0, 4, 4, 1] = -20.0
    result = ProjectOntoSourced(keys="pred", factor=2)({"pred": pred, "source": series})["pred"]
    assert float(result.min()) == 0.0
    assert float(result[0, 4:6, 4:6, 1].mean()) == pytest.approx(0.0, abs=1e-5)

"""What the model was trained for: figures, statistics of latents, what is refused, and the file beside the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.bundle_folder import RANGE_FILE
from monai_ldmsr.errors import WeightsError
from monai_ldmsr.metrics.latent import N_LATENT_FIGURES, high_frequency_share, latent_figures
from monai_ldmsr.networks.latent_codec import block_dct_basis
from monai_ldmsr.training.range_fitting import fit_latents, fit_training_range
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.training_range import (
    LatentRange,
    ModalityRange,
    TrainingRange,
    VolumeFigures,
    load_training_range,
    volume_figures,
)
from monai_ldmsr.transforms.intensity import IntensityMap

MR = IntensityMap((0.0, 1000.0), (-1.0, 1.0))


def encode(image: Tensor) -> Tensor:
    """A cosine transform of 4 x 4 blocks, as the codec's shortcut."""
    return functional.conv2d(image, block_dct_basis(4), stride=4)


def tissue(seed: int, smooth: float = 0.0, size: int = 128) -> npt.NDArray[np.float32]:
    """Blobs in a dark field, with grain; ``smooth`` between pixels."""
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(seed)
    blobs = gaussian_filter(random.normal(size=(size, size)), 5) * 1500 + 500
    grain = random.normal(0, 40, (size, size))
    image = np.clip(blobs + grain, 0, None)
    image[:16] = image[-16:] = 0
    return np.asarray(gaussian_filter(image, smooth) if smooth else image, dtype=np.float32)


def volume(seed: int, subject: str = "", smooth: float = 0.0) -> TrainingVolume:
    slices = tuple(tissue(10 * seed + n, smooth) for n in range(3))
    return TrainingVolume(f"v{seed}", "MR", subject or f"s{seed}", slices, MR, False, (0.5 + 0.1 * seed, 1.0, 3.0))


FITTED = fit_training_range([volume(n) for n in range(8)], encode, "a" * 64)


def figures(seed: int = 50, smooth: float = 0.0) -> VolumeFigures:
    slices = [torch.from_numpy(tissue(seed + n, smooth))[None, None] for n in range(3)]
    return volume_figures(slices, MR, "MR", (0.7, 0.7), encode)


def test_figures_do_not_depend_on_a_quarter_turn_or_on_empty_slices() -> None:
    image = MR.forward(torch.from_numpy(tissue(1))[None, None])
    found = latent_figures(encode, [image, image.transpose(-1, -2), torch.full_like(image, -1.0), image[..., :12, :12]])
    assert found.shape == (2, N_LATENT_FIGURES)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=0)
    assert latent_figures(encode, []).shape == (0, N_LATENT_FIGURES)


def test_figures_see_what_is_smooth() -> None:
    sharp, smooth = figures(), figures(smooth=1.5)
    finest = slice(4, N_LATENT_FIGURES // 2 + 1)
    assert bool((smooth.latents[:, finest].mean(axis=0) < sharp.latents[:, finest].mean(axis=0) - 0.5).all())
    assert smooth.fine_share < 0.1 * sharp.fine_share
    assert sharp.fine_share == pytest.approx(
        np.median([high_frequency_share(MR.forward(torch.from_numpy(tissue(50 + n))).numpy()) for n in range(3)])
    )


def test_distances_are_mahalanobis_with_each_patient_counted_alike() -> None:
    """Of many slices that are normally distributed the mean square is one figure each; a shift counts by its spread."""
    random = np.random.default_rng(0)
    spread = np.array([1.0, 5.0, 0.2])
    patients = {f"p{n}": [random.normal(size=(200 if n else 4000, 3)) * spread] for n in range(30)}
    found = fit_latents(patients)
    assert found is not None
    near, far = (np.full((1, 3), shift) * spread for shift in (1.0, 4.0))
    assert found.distance(near) == pytest.approx(1.0, rel=0.1)
    assert found.distance(far) == pytest.approx(4.0, rel=0.1)
    assert 0.8 < found.left_out < 1.2
    moved = {**patients, "p0": [patients["p0"][0] + 100 * spread]}
    other = fit_latents(moved)
    assert other is not None
    assert np.abs(np.asarray(other.mean) / spread).max() < 100 / 30 * 1.2, "4000 slices of one of 30 patients"
    assert fit_latents(dict(list(patients.items())[:3])) is None


def test_a_patient_left_out_is_farther_away_than_one_that_was_learnt() -> None:
    by_patient = {f"p{n}": [figures(100 * n).latents] for n in range(6)}
    found = fit_latents(by_patient)
    assert found is not None
    assert found.left_out > max(found.distance(volumes[0]) for volumes in by_patient.values())


def test_an_ordinary_volume_is_within() -> None:
    assert FITTED.modalities["MR"].n_patients == 8
    assert FITTED.modalities["MR"].spacing_mm == (0.5, 1.2)
    assert [one.text for one in FITTED.findings("MR", figures()) if one.refuses] == []


@pytest.mark.parametrize(
    ("change", "word", "refuses"),
    [
        ({"spacing_mm": (0.02, 0.02)}, "pixels have 0.02 mm", True),
        ({"spacing_mm": (0.7, 1.6)}, "pixels have 1.6 mm", False),
        ({"spacing_mm": (0.7, 4.0)}, "pixels have 4 mm", True),
        ({"noise_grey": 15.0}, "noise is 15", False),
        ({"noise_grey": 25.0}, "noise is 25", True),
        ({"saturated_share": 0.002}, "cut to a window", False),
        ({"saturated_share": 0.02}, "cut to a window", True),
        ({"is_8_bit": True}, "8-bit", False),
        ({"given_back_db": 7.0}, "", False),
        ({"given_back_db": 20.0}, "super-resolved by this model before", True),
    ],
)
def test_what_is_outside_is_said_with_value_and_range(change: dict[str, object], word: str, refuses: bool) -> None:
    found = FITTED.findings("MR", replace(figures(), **change))  # type: ignore[arg-type]
    known = [one.text for one in FITTED.findings("MR", figures())]
    new = [one for one in found if one.text not in known]
    assert [(word in one.text, one.refuses) for one in new] == ([(True, refuses)] if word else [])


def test_structure_that_is_foreign_is_refused_and_interpolation_is_said() -> None:
    found = FITTED.findings("MR", figures(smooth=2.0))
    assert any("unlike" in one.text and one.refuses for one in found)
    assert any("interpolated" in one.text for one in found)


def test_small_cut_outs_refuse_nothing_by_their_structure() -> None:
    cut = [replace(one, slices=tuple(s[:48, :48] for s in one.slices)) for one in (volume(n) for n in range(5))]
    latents = fit_training_range(cut, encode, "").modalities["MR"].latents
    assert latents is not None
    assert not latents.refuses


def test_modalities() -> None:
    assert [one.refuses for one in FITTED.findings("CT", figures())] == [True]
    assert "CT" in FITTED.findings("CT", figures())[0].text
    assert FITTED.findings("unknown", figures()) == FITTED.findings("MR", figures())


def test_eight_bit_and_saturation_are_found_in_voxels() -> None:
    image = tissue(3)
    baked = np.clip(image / 600 * 255, 0, 255).round().astype(np.float32)
    found = volume_figures([torch.from_numpy(baked)[None, None]], IntensityMap((0, 255), (-1, 1)), "MR", (1, 1), encode)
    assert found.is_8_bit
    assert found.saturated_share == pytest.approx(float((baked == 255).mean()), abs=1e-4)
    assert not figures().is_8_bit
    assert figures().saturated_share == 0.0
    metal = np.where(image > 700, 3071.0, image - 1000).astype(np.float32)
    in_ct = volume_figures([torch.from_numpy(metal)[None, None]], MR, "CT", (1, 1), encode)
    assert in_ct.saturated_share == 0.0, "a scanner cuts metal there"


def test_the_file_is_read_back_and_belongs_to_its_weights(tmp_path: Path) -> None:
    path = tmp_path / RANGE_FILE
    assert load_training_range(path, "a" * 64) is None
    FITTED.write(path)
    first = path.read_bytes()
    FITTED.write(path)
    assert path.read_bytes() == first
    found = load_training_range(path, "a" * 64)
    assert found is not None
    assert found.findings("MR", figures(smooth=2.0)) == FITTED.findings("MR", figures(smooth=2.0))
    with pytest.raises(WeightsError, match="was made for weights aaaaaaaaaaaa, but the bundle has bbbb"):
        load_training_range(path, "b" * 64)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"weights_sha256": "a"}', '{"weights_sha256": "a", "modalities": {"MR": {}}}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / RANGE_FILE
    path.write_text(damage)
    with pytest.raises(WeightsError, match="damaged"):
        load_training_range(path, "a")


def test_unknown_fields_are_damage(tmp_path: Path) -> None:
    path = tmp_path / RANGE_FILE
    FITTED.write(path)
    given = json.loads(path.read_text())
    given["modalities"]["MR"]["more"] = 1
    path.write_text(json.dumps(given))
    with pytest.raises(WeightsError, match="damaged"):
        load_training_range(path, "a" * 64)


def test_nothing_known_finds_nothing() -> None:
    one = ModalityRange(1, 1, None, (0.0, 10.0), 0.0, 0.0, None)
    assert TrainingRange("", {"MR": one}).findings("MR", replace(figures(), spacing_mm=(0.01, 99.0))) == []
    assert LatentRange([0.0], [[1.0]], 1.0, True).distance(np.empty((0, 1))) == 0.0

"""Patches for training: places, pairs, noise and intensities against what they are made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from generator_fixtures import CT, MR
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.choices import FACTORS
from monai_ldmsr.degradation import AreaOperator, DegradationOperator
from monai_ldmsr.geometry import SlicePlaces
from monai_ldmsr.networks import upsample_bicubic
from monai_ldmsr.noise_level import estimate_noise
from monai_ldmsr.operators import operator_place
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.training import PatchRecipe, RandomPatches
from monai_ldmsr.training.degrading import PatchDegradation, draw_noise, vary_sharpness
from monai_ldmsr.training.intensities import PatchIntensities, knots_of
from monai_ldmsr.training.slice_store import DrawnPatches, SliceStore
from monai_ldmsr.training.volumes import TrainingVolume

SIZES = ((96, 8),)

#: No noise, no other sharpness, block means alone.
PLAIN = {"clean_batches": 1.0, "coarse_batches": 0.0, "area": 1.0, "sharpness": 0.0}


def made(modality: str, side: int = 260, seed: int = 0, noise_grey: float = 0.0, wave: float = 0.4) -> TrainingVolume:
    """Smooth structure everywhere, so that no patch is air."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(side), np.arange(side + 20), indexing="ij")
    level = wave * np.sin(x / 7 + seed) * np.cos(y / 9) + noise_grey / 127.5 * random.normal(size=x.shape)
    intensity = CT if modality == "CT" else MR
    image = intensity.inverse(torch.from_numpy(level.astype(np.float32))[None, None])[0, 0].numpy()
    return TrainingVolume(f"{modality}{seed}", modality, f"{seed}", (image, image[:, ::-1].copy()), intensity, False)


@pytest.fixture(scope="module")
def volumes() -> list[TrainingVolume]:
    return [made("CT"), made("MR", seed=1), made("PT", seed=2)]


def patches(volumes: list[TrainingVolume], recipe: dict[str, object], seed: int = 0) -> RandomPatches:
    return RandomPatches(volumes, SIZES, {**PLAIN, **recipe}, seed)


def means(batch: dict[str, Tensor], key: str) -> Tensor:
    """Block means of a target, in the source's unit, of the size of ``low``."""
    factors = [n / m for n, m in zip(batch[key].shape[-2:], batch["low"].shape[-2:], strict=True)]
    return AreaOperator((factors[0], factors[1]))(PatchIntensities(batch["knots"]).inverse(batch[key]))


def test_the_same_seed_draws_the_same(volumes: list[TrainingVolume]) -> None:
    first, again, other = (RandomPatches(volumes, SIZES, seed=seed) for seed in (3, 3, 4))
    for _ in range(4):
        one, two, three = first.draw(), again.draw(), other.draw()
        assert set(one) == {"image", "low", "label", "factor", "operator", "noise", "width", "knots"}
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not torch.equal(one["label"], three["label"])


def test_shapes_and_what_a_batch_says_of_itself(volumes: list[TrainingVolume]) -> None:
    drawn, whole = RandomPatches(volumes, [(96, 4), (192, 2)]), 0
    for _ in range(40):
        batch = drawn.draw()
        size = batch["label"].shape[-1]
        count = {96: 4, 192: 2}[size]
        assert batch["image"].shape == batch["label"].shape == (count, 1, size, size)
        assert batch["knots"].shape == (count, 2, 4)
        assert batch["noise"].shape == batch["operator"].shape == (count,)
        rows, columns = batch["low"].shape[-2:]
        torch.testing.assert_close(batch["factor"], torch.tensor([[size / rows, size / columns]]).expand(count, 2))
        assert float(batch["factor"].min()) >= 1
        assert float(batch["factor"].max()) <= 6.5
        torch.testing.assert_close(batch["image"], upsample_bicubic(batch["low"], (size / rows, size / columns)))
        assert all(bool(value.isfinite().all()) for value in batch.values())
        whole += rows == columns and size % rows == 0 and size // rows in FACTORS
    assert 20 <= whole < 40


def test_factors_follow_the_recipe(volumes: list[TrainingVolume]) -> None:
    drawn = patches(volumes, {"whole_batches": 1.0, "factors": (3, 4), "factor_weights": (1, 9)})
    found = [float(drawn.draw()["factor"][0, 0]) for _ in range(40)]
    assert set(found) == {3.0, 4.0}
    assert found.count(4.0) > 25
    free = patches(volumes, {"whole_batches": 0.0})
    pairs = [tuple(free.draw()["factor"][0].tolist()) for _ in range(40)]
    assert len(set(pairs)) > 30
    assert 3 <= sum(rows == 1 for rows, _ in pairs) <= 20
    assert 3 <= sum(columns == 1 for _, columns in pairs) <= 20
    few = patches(volumes, {"whole_batches": 0.0, "other_factors": 3})
    assert len({tuple(few.draw()["low"].shape) for _ in range(30)}) <= 3


@pytest.mark.parametrize("whole", [1.0, 0.0])
@pytest.mark.parametrize("coarse", [0.0, 1.0])
def test_the_original_carries_what_was_measured(volumes: list[TrainingVolume], whole: float, coarse: float) -> None:
    """Block means of the original are the source, with noise and without, whatever its sharpness."""
    for clean in {1.0 - coarse, 0.0}:
        recipe = {"clean_batches": clean, "coarse_batches": coarse, "sharpness": 0.5, "whole_batches": whole}
        drawn = patches(volumes, recipe)
        for _ in range(3):
            batch = drawn.draw()
            assert set(batch["operator"].tolist()) == {operator_place("area")}
            wanted = PatchIntensities(batch["knots"]).inverse(batch["low"])
            unit = 1 / PatchIntensities(batch["knots"]).slope
            assert float(((means(batch, "label") - wanted) / unit).abs().max()) < 1e-3


def test_other_operators_are_named_and_used(volumes: list[TrainingVolume]) -> None:
    drawn = patches(volumes, {"area": 0.0, "whole_batches": 1.0})
    batch = drawn.draw()
    kspace = batch["operator"] == operator_place("kspace")
    assert 0 < int(kspace.sum()) < 8
    assert not bool((batch["operator"] == operator_place("area")).any())
    intensities = PatchIntensities(batch["knots"])
    high, low = intensities.inverse(batch["label"]), intensities.inverse(batch["low"])
    again = DegradationOperator("kspace", float(batch["factor"][0, 0]))(high)
    error = ((again - low) * intensities.slope).abs().amax(dim=(1, 2, 3))
    assert float(error[kspace].max()) < 1e-3
    assert float(error[~kspace].min()) > 1e-3


@pytest.mark.parametrize("grey", [2.0, 6.0])
def test_noise_is_as_strong_as_is_said(volumes: list[TrainingVolume], grey: float) -> None:
    """White or correlated, what networks are told is what the estimator finds in the source."""
    recipe = {"clean_batches": 0.0, "noise_grey": (grey, grey), "noise_over_original": (0.0, 0.0)}
    drawn = patches(volumes, {**recipe, "whole_batches": 1.0, "factors": (2,), "factor_weights": (1,)})
    clean = patches(volumes, {"whole_batches": 1.0, "factors": (2,), "factor_weights": (1,)})
    told, found = [], []
    for _ in range(8):
        batch = drawn.draw()
        told.append(batch["noise"])
        found.append(estimate_noise(batch["low"]))
        assert float(clean.draw()["noise"].max()) < 0.3
    ratio = torch.cat(told) / torch.cat(found)
    assert float(ratio.median()) == pytest.approx(1, abs=0.2)
    assert float(torch.cat(told).max()) < 1.6 * grey
    assert float(torch.cat(told).max()) > 0.8 * grey, "white noise is told as it is"


def test_noise_is_more_than_the_originals_own() -> None:
    noisy = [made("CT", noise_grey=5.0), made("MR", seed=1, noise_grey=5.0)]
    recipe = {"clean_batches": 0.0, "coarse_batches": 1.0, "noise_grey": (0.01, 0.02), "whole_batches": 1.0}
    drawn = patches(noisy, {**recipe, "factors": (2,), "factor_weights": (1,), "noise_over_original": (3.0, 3.0)})
    batch = drawn.draw()
    own = SliceStore(noisy).draw(96, 8, torch.Generator().manual_seed(0)).noise_at(2)
    assert float(own.mean()) == pytest.approx(2.5, rel=0.2), "averaged 2x2"
    assert float(batch["noise"].max()) == pytest.approx(3 * 2.5, rel=0.35)


def test_coarse_batches_have_originals_of_half_the_resolution() -> None:
    """White noise of the slices themselves is halved by the average over 2x2."""
    noisy = [made("CT", noise_grey=8.0)]
    fine, coarse = (
        patches(noisy, {"clean_batches": 1.0 - share, "coarse_batches": share, "noise_grey": (1e-4, 1e-4),
                        "noise_over_original": (0.0, 0.0)}).draw()["label"]
        for share in (0.0, 1.0)
    )  # fmt: skip
    assert float(estimate_noise(fine).median()) == pytest.approx(8.0, rel=0.2)
    assert float(estimate_noise(coarse).median()) == pytest.approx(4.0, rel=0.25)


def test_a_recipe_can_be_a_mapping_and_wrong_names_are_told(volumes: list[TrainingVolume]) -> None:
    assert RandomPatches(volumes, SIZES, {"area": 0.3}).recipe == PatchRecipe(area=0.3)
    with pytest.raises(TypeError, match="areas"):
        RandomPatches(volumes, SIZES, {"areas": 0.3})


def drawn_patches(values: Tensor, zero: float) -> DrawnPatches:
    count = len(values)
    zeros = torch.full((count, 1, 1, 1), zero)
    return DrawnPatches(values, PatchIntensities(knots_of([MR] * count)), zeros, torch.zeros(count, 4))


def test_magnitudes_get_rician_noise_that_brightens_the_dark() -> None:
    """Of pure noise the mean is sigma sqrt(pi / 2) (Rayleigh); where the signal is strong the noise is Gaussian."""
    generator, count, grey = torch.Generator().manual_seed(0), 64, torch.full((64,), 5.0)
    sigma = 5.0 / 127.5 * 400.0
    for value, mean in ((0.0, sigma * math.sqrt(math.pi / 2)), (400.0, sigma**2 / 800.0)):
        low = torch.full((count, 1, 48, 48), value)
        for zero in (0.0, math.nan):
            noise = draw_noise(low, grey, drawn_patches(low, zero), generator)
            found = noise.flatten(1).mean(dim=1)
            rician = found > 0.5 * mean if value == 0 else torch.ones(count, dtype=torch.bool)
            if value == 0:
                assert float(rician.float().mean()) == pytest.approx(0.6 if zero == 0 else 0.0, abs=0.2)
            if zero == 0 and value == 0:
                assert float(found[rician].mean()) == pytest.approx(mean, rel=0.1)
                assert float((low + noise)[rician].min()) >= 0
            if value == 400:
                assert float(noise.std()) == pytest.approx(sigma, rel=0.05)


def test_degradation_of_a_batch_is_one_operator_a_patch() -> None:
    generator = torch.Generator().manual_seed(0)
    degrade = PatchDegradation.draw(16, 96, (32, 41), 0.5, generator)
    image = torch.randn((16, 1, 96, 96), generator=generator)
    low = degrade(image)
    assert low.shape == (16, 1, 32, 41)
    for n, place in enumerate(degrade.operator.tolist()):
        name = ("area", "gaussian", "kspace")[place]
        if name != "gaussian":  # whose width is drawn
            expected = DegradationOperator(name, (3.0, 96 / 41))(image[n : n + 1])
            torch.testing.assert_close(low[n : n + 1], expected, atol=1e-5, rtol=0)
    assert len(set(degrade.operator.tolist())) == 3
    back = degrade.interpolate(low)
    torch.testing.assert_close(AreaOperator((3.0, 96 / 41))(back), low, atol=2e-5, rtol=0)
    torch.testing.assert_close(degrade(torch.full_like(image, 3.0)), torch.full_like(low, 3.0), atol=1e-5, rtol=0)


def test_sharpness_changes_detail_and_not_the_level() -> None:
    image = torch.randn(32, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    found = vary_sharpness(image + 10, torch.Generator().manual_seed(1)) - 10
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)), atol=0.02, rtol=0)
    ratio = found.flatten(1).std(dim=1) / image.flatten(1).std(dim=1)
    assert 0.6 < float(ratio.min()) < 0.85
    assert 1.2 < float(ratio.max()) < 1.6
    flat = torch.full((2, 1, 9, 9), 4.0)
    torch.testing.assert_close(vary_sharpness(flat, torch.Generator()), flat)


def test_each_patch_has_the_map_of_its_own_volume() -> None:
    maps = [CT, MR, MR, CT]
    both = PatchIntensities(knots_of(maps))
    values = torch.linspace(-3000.0, 9000.0, 4 * 500).reshape(500, 4).T.reshape(4, 1, 20, 25)
    scaled = both.forward(values)
    for n, intensity in enumerate(maps):
        expected = intensity.forward(values[n])
        torch.testing.assert_close(scaled[n], expected, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(both.inverse(scaled)[n], intensity.inverse(expected), atol=0.05, rtol=1e-4)
    steepest = [max(np.diff(i.levels) / np.diff(i.values)) for i in maps]
    torch.testing.assert_close(both.slope.flatten(), torch.tensor(steepest, dtype=torch.float32))


def test_patches_are_cut_where_slices_are_turned_and_mirrored() -> None:
    """Every patch is a piece of a slice in one of eight directions, and all eight occur."""
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    volume = TrainingVolume("v", "CT", "s", (image,), CT, False)
    store, found = SliceStore([volume]), set()
    drawn = store.draw(8, 64, torch.Generator().manual_seed(0))
    pieces = {image[r : r + 8, c : c + 8].tobytes(): (r, c) for r in range(33) for c in range(43)}
    places = set()
    for patch in drawn.values[:, 0].numpy():
        turned = {
            (flips, swap): np.ascontiguousarray(view.T if swap else view).tobytes()
            for flips, view in enumerate((patch, patch[::-1], patch[:, ::-1], patch[::-1, ::-1]))
            for swap in (False, True)
        }
        (way,) = [way for way, piece in turned.items() if piece in pieces]
        found.add(way)
        places.add(pieces[turned[way]])
    assert len(found) == 8
    assert len(places) > 50


def test_smaller_slices_lie_in_the_middle_and_go_on_with_their_edges() -> None:
    image = 1000 * np.random.default_rng(0).random((20, 16)).astype(np.float32)
    store = SliceStore([TrainingVolume("v", "CT", "s", (image,), CT, False)])
    patch = store.draw(32, 1, torch.Generator().manual_seed(0)).values[0, 0].numpy()
    padded = np.pad(image, ((6, 6), (8, 8)), mode="edge")
    ways = [p for q in (padded, padded[::-1], padded[:, ::-1], padded[::-1, ::-1]) for p in (q, q.T)]
    assert any(np.array_equal(patch, way) for way in ways)


def test_air_is_rarely_drawn() -> None:
    image = np.full((200, 200), -1000.0, np.float32)
    image[:, 100:] = np.random.default_rng(0).normal(50, 200, (200, 100))
    store = SliceStore([TrainingVolume("v", "CT", "s", (image,), CT, False)])
    drawn = store.draw(24, 200, torch.Generator().manual_seed(0))
    is_air = CT.forward(drawn.values).flatten(1).std(dim=1) < 0.1
    assert float(is_air.float().mean()) < 0.1


def test_only_magnitudes_and_pet_vary_in_gain(volumes: list[TrainingVolume]) -> None:
    drawn = SliceStore(volumes).draw(48, 60, torch.Generator().manual_seed(0))
    knots = drawn.intensities.knots
    is_ct = knots[:, 0, 0] == -1024
    assert 10 < int(is_ct.sum()) < 50
    torch.testing.assert_close(knots[is_ct, 0], torch.tensor(CT.values).expand(int(is_ct.sum()), 4))
    upper = knots[~is_ct, 0, -1] / 800
    assert 0.84 < float(upper.min()) < 0.9
    assert 1.1 < float(upper.max()) < 1.16
    assert set(drawn.zero[is_ct].isnan().flatten().tolist()) == {True}


def test_noise_of_a_slice_is_known_at_every_reduction() -> None:
    noisy = SliceStore([made("CT", noise_grey=8.0, wave=0.0)]).draw(96, 4, torch.Generator().manual_seed(0))
    for reduction, expected in ((0.5, 8.0), (1, 8.0), (2, 4.0), (4, 2.0), (8, 1.0), (20, 1.0)):
        assert float(noisy.noise_at(reduction).mean()) == pytest.approx(expected, rel=0.25)
    between = noisy.noise_at(math.sqrt(2))
    torch.testing.assert_close(between, (noisy.noise_at(1) + noisy.noise_at(2)) / 2)
    small = TrainingVolume("v", "CT", "s", (functional.pad(torch.randn(20, 20), (2, 2)).numpy(),), CT, False)
    assert bool(SliceStore([small]).draw(16, 4, torch.Generator()).noise.isfinite().all())


def test_patches_of_planes_across_slices(volumes: list[TrainingVolume]) -> None:
    """Rows stay as they are; columns are averaged by a profile whose width is told."""
    source = patches(volumes, {"slice_batches": 1.0}, seed=5)
    factors, widths = set(), []
    for _ in range(30):
        batch = source.draw()
        rows, columns = batch["low"].shape[-2:]
        assert rows == 96
        factors.add(96 / columns)
        widths.extend(batch["width"].tolist())
        assert torch.equal(batch["factor"], torch.tensor([[1.0, min(96 / columns, 6.0)]]).expand(8, 2))
        low, high = (PatchIntensities(batch["knots"]).inverse(batch[key]) for key in ("low", "label"))
        for n, (name, width) in enumerate(zip(batch["operator"], batch["width"], strict=True)):
            profile = "box" if name == operator_place("area") else "gaussian"
            places = SlicePlaces.between_faces(columns, 96 / columns)
            averaging = SlicePlan(columns, places, 1.0, float(width), profile).averaging
            expected = high[n, 0] @ torch.from_numpy(averaging).float().T
            assert torch.allclose(low[n, 0], expected, atol=2e-3 * float(high.abs().max()))
        assert batch["image"].shape == batch["label"].shape
    assert min(factors) < 2
    assert max(factors) > 6
    assert any(factor == int(factor) for factor in factors)
    assert any(factor != int(factor) for factor in factors)
    assert 0.5 <= min(widths) < 0.6
    assert 1.2 < max(widths) <= 1.3
    assert {operator_place("area"), operator_place("gaussian")} >= set(batch["operator"].tolist())

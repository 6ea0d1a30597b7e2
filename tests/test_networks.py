"""Codec, sampler and super-resolver, with small random networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import Tensor

from monai_ldmsr.errors import SettingsError, WeightsError
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks import CLASSES, ConditionalUNet, LatentCodec, SuperResolver, load_weights, save_weights
from monai_ldmsr.networks.detail import place_detail, weigh_detail
from monai_ldmsr.networks.latent_codec import block_dct_basis
from monai_ldmsr.samplers import sample_anchored_flow


def make_codec() -> LatentCodec:
    autoencoder = AutoencoderKL(
        2, 4, 4, num_res_blocks=1, channels=(8, 8), attention_levels=(False, False), latent_channels=16,
        norm_num_groups=4, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, include_fc=False,
    )  # fmt: skip
    return LatentCodec(autoencoder)


def make_resolver(**settings: object) -> SuperResolver:
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        2, 32, 16, num_res_blocks=1, channels=(8, 8, 8, 8), attention_levels=(False,) * 4, norm_num_groups=4,
        num_head_channels=4, num_class_embeds=CLASSES, include_fc=False,
    )  # fmt: skip
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    codec = make_codec()
    codec.set_statistics(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16), torch.full((16,), 0.3))
    return SuperResolver(codec, ConditionalUNet(unet), **settings).eval()


def test_basis_is_orthonormal_and_starts_with_the_mean() -> None:
    basis = block_dct_basis(4).flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16), atol=1e-6, rtol=0)
    torch.testing.assert_close(basis[0], torch.full((16,), 0.25))


def test_codec_starts_lossless_with_unit_latents() -> None:
    codec, image = make_codec(), torch.randn(3, 1, 32, 48)
    raw = codec.posterior(image)[0]
    codec.set_statistics(raw.mean((0, 2, 3)), raw.std((0, 2, 3)), torch.ones(16))
    latent = codec.encode(image)
    assert latent.shape == (3, 16, 8, 12)
    torch.testing.assert_close(latent.mean((0, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3)), torch.ones(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec(image), image, atol=1e-4, rtol=0)


def test_statistics_travel_in_the_weights(tmp_path: Path) -> None:
    """A forgotten latent statistic shifts the image; it must come back with the weights, at full precision."""
    resolver = make_resolver()
    sha256 = save_weights(resolver, tmp_path / "model.pt", half=True)
    other = SuperResolver(make_codec(), make_resolver().denoiser)
    assert load_weights(other, tmp_path / "model.pt", sha256) == sha256
    assert torch.equal(other.codec.latent_mean, torch.linspace(-1, 1, 16))
    assert torch.equal(other.codec.residual_std, torch.full((16,), 0.3))
    image = torch.rand(1, 1, 16, 16)
    correct = other(image)
    other.codec.set_statistics(torch.zeros(16), torch.ones(16), torch.ones(16))
    assert float((other(image) - correct).detach().abs().max()) > 0.05


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (7, 31), (33, 50), (1, 1)])
def test_any_slice_size(factor: int, size: tuple[int, int]) -> None:
    with torch.no_grad():
        result = make_resolver(factor=factor, num_inference_steps=1)(torch.rand(1, 1, *size))
    assert result.shape == (1, 1, factor * size[0], factor * size[1])


def test_padding_does_not_shift_the_image() -> None:
    """With a silent denoiser and no noise the result is the bicubic image, at its place, for every size."""
    resolver = make_resolver(factor=2, num_inference_steps=1, start_noise=0.0)
    for parameter in resolver.denoiser.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.rand(1, 1, 19, 26)
    expected = torch.nn.functional.interpolate(image, scale_factor=2, mode="bicubic")
    with torch.no_grad():
        torch.testing.assert_close(resolver(image), expected, atol=1e-4, rtol=0)


def test_batch_equals_one_by_one_and_seed_decides() -> None:
    resolver, images = make_resolver(num_inference_steps=2), torch.rand(3, 1, 12, 20)
    with torch.no_grad():
        batch = resolver(images)
        single = torch.cat([resolver(image[None]) for image in images])
        again = resolver(images)
        other = make_resolver(num_inference_steps=2, seed=1)(images)
    torch.testing.assert_close(batch, single, atol=1e-5, rtol=0)
    assert torch.equal(batch, again)
    assert float((other - batch).abs().mean()) > 1e-3


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"factor": 5}, "factor"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"start_noise": -1.0}, "start_noise"),
        ({"detail": 1.6}, "detail"),
        ({"detail_gains": {"CT": [[0.5] * 4, [0.5, -0.1, 0.5, 0.5], [0.5] * 4]}, "factor": 3}, "detail_gains"),
        ({"detail_gains": {"CT": [[0.5] * 3] * 3}}, "detail_gains"),
        ({"operator": "median"}, "operator"),
        ({"activity_floor": -0.1}, "activity_floor"),
        ({"activity_exponent": 1.1}, "activity_exponent"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        make_resolver(**settings)


@pytest.mark.parametrize("steps", [1, 2, 4, 20])
def test_sampler_reaches_a_narrow_posterior(steps: int) -> None:
    """Exact velocity of the flow from s noise to N(mu, 0.05^2): the sample must have that mean and spread."""
    mu, spread, start = 0.8, 0.05, 0.7

    def velocity(state: Tensor, timesteps: Tensor) -> Tensor:
        # x_t = (1 - t) s e + t x_1: E[x_1 - s e | x_t] for two independent Gaussians.
        t = 1 - timesteps.double().view(-1, 1, 1, 1) / 1000
        variance = ((1 - t) * start) ** 2 + (t * spread) ** 2
        covariance = t * spread**2 - (1 - t) * start**2
        return mu + covariance / variance * (state - t * mu)

    noise = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = sample_anchored_flow(velocity, noise, steps, start)
    assert float(sample.mean()) == pytest.approx(mu, abs=0.01)
    assert float(sample.std()) < 0.06
    assert steps < 20 or float(sample.std()) == pytest.approx(spread, rel=0.3)


def test_a_sample_has_the_spread_of_the_truth() -> None:
    """Truth N(0.8, 0.5^2), exact velocity; one evaluation is the posterior mean alone."""
    mu, spread, start, calls = 0.8, 0.5, 0.7, []

    def velocity(state: Tensor, timesteps: Tensor) -> Tensor:
        t = 1 - timesteps.double().view(-1, 1, 1, 1) / 1000
        variance = ((1 - t) * start) ** 2 + (t * spread) ** 2
        calls.append(float(timesteps[0]))
        return mu + (t * spread**2 - (1 - t) * start**2) / variance * (state - t * mu)

    noise = torch.randn(16, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for steps, expected in ((1, 0.0), (50, spread)):
        calls.clear()
        sample = sample_anchored_flow(velocity, noise, steps, start)
        assert float(sample.mean()) == pytest.approx(mu, abs=0.01)
        assert float(sample.std()) == pytest.approx(expected, abs=0.02)
        assert len(calls) == steps


def test_the_network_is_told_factor_and_operator() -> None:
    seen: list[Tensor] = []
    image = torch.rand(2, 1, 24, 24)
    for factor, operator in ((2, "area"), (4, "area"), (4, "kspace")):
        resolver = make_resolver(factor=factor, operator=operator, num_inference_steps=1)
        resolver.denoiser.unet.class_embedding.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        resolver(image)
    assert [label.tolist() for label in seen] == [[0, 0], [2, 2], [8, 8]]


def test_detail_weighs_what_the_sample_adds() -> None:
    """0 is the mean, 1 without a table the sample; gains act on their own frequencies, and nothing moves."""
    image, results = torch.rand(2, 1, 24, 28), {}
    tables = {"plain": None, "fine": {"MR": [[0.0, 0.0, 1.0, 1.0]] * 3}, "coarse": {"MR": [[1.0, 1.0, 0.0, 0.0]] * 3}}
    for name, table in tables.items():
        results[name] = make_resolver(detail_gains=table, modality="MR", num_inference_steps=2)(image)
    mean = make_resolver(detail=0.0, num_inference_steps=2)(image)
    one = make_resolver(num_inference_steps=1)(image)
    assert torch.equal(mean, one)
    half = make_resolver(detail=0.5, num_inference_steps=2)(image)
    torch.testing.assert_close(half, 0.5 * (mean + results["plain"]), atol=1e-5, rtol=0)
    # Linear between the knots at 1/4 and 3/8 cycles a pixel, the two tables add up to one everywhere.
    torch.testing.assert_close(results["fine"] + results["coarse"], mean + results["plain"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [-1, -2])
def test_gains_are_those_of_their_frequency(axis: int) -> None:
    gains = (0.5, 1.0, 2.0, 0.25)
    places = torch.arange(64).view(-1, 1) if axis == -2 else torch.arange(64)
    for cycles, gain in ((4, 0.5), (8, 0.5), (12, 0.75), (16, 1.0), (24, 2.0), (28, 1.125), (32, 0.25)):
        wave = torch.cos(2 * math.pi * cycles * places / 64 + (0.0 if cycles == 32 else 0.4)).expand(1, 1, 64, 64)
        torch.testing.assert_close(weigh_detail(wave, gains), gain * wave, atol=1e-4, rtol=0)


def test_detail_stays_out_of_where_nothing_happens() -> None:
    """A wave of amplitude a and period 4 along one axis has the Laplacian -2 a cos, so the activity 2 a^2."""
    wave = (
        torch.cos(2 * math.pi * torch.arange(64) / 4).expand(64, 64)[None, None] / 127.5
    )  # Laplacian of the same size 2
    ones = torch.ones(1, 1, 64, 64)
    for amplitude in (0.5, 2.0, 8.0):
        activity = 2.0 * amplitude**2
        inside = place_detail(ones, amplitude * wave, 0.8, 0.0)[..., 16:48, 16:48]
        torch.testing.assert_close(
            inside, torch.full_like(inside, activity**2 / (activity**2 + 0.64)), atol=4e-3, rtol=0
        )
        grown = place_detail(ones, amplitude * wave, 0.0, 0.5)[..., 16:48, 16:48]
        torch.testing.assert_close(
            grown, torch.full_like(grown, max(activity / 60.0, 0.05) ** 0.5), atol=1e-3, rtol=4e-3
        )
    assert torch.equal(place_detail(ones, wave, 0.0, 0.0), ones)


def test_detail_is_placed_where_the_activity_is() -> None:
    image = torch.zeros(1, 1, 41, 57)
    image[..., 10, 30] = 0.2
    weight = place_detail(torch.ones_like(image), image, 0.8, 0.1)
    assert weight.argmax() == 10 * 57 + 30
    assert float(weight[..., 30:, :].max()) < 1e-3
    for dims in ((-1,), (-2,), (-1, -2)):
        turned = place_detail(torch.ones_like(image), image.flip(dims), 0.8, 0.1)
        torch.testing.assert_close(turned.flip(dims), weight, atol=1e-5, rtol=0)


def test_volume_inferer_agrees_with_slices_and_monai() -> None:
    from monai.data import MetaTensor
    from monai.inferers import SliceInferer

    resolver = make_resolver(num_inference_steps=1)
    volume = torch.rand(1, 1, 12, 20, 5)
    with torch.no_grad():
        result = VolumeInferer(batch_size=2)(volume, resolver)
        theirs = SliceInferer(spatial_dim=2, roi_size=(12, 20), sw_batch_size=5)(volume, resolver)
        one = resolver(volume[..., 3])
    torch.testing.assert_close(result, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(result[..., 3], one, atol=1e-5, rtol=0)
    affine = torch.tensor([[0.0, -0.5, 0, 10], [0.9, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]], dtype=torch.float64)
    moved = VolumeInferer()(MetaTensor(volume, affine=affine), resolver).affine
    for corner in ([-0.5, -0.5, 0.0], [11.5, 19.5, 4.0]):
        fine = [2 * (corner[0] + 0.5) - 0.5, 2 * (corner[1] + 0.5) - 0.5, corner[2]]
        torch.testing.assert_close(
            moved @ torch.tensor([*fine, 1.0], dtype=torch.float64),
            affine @ torch.tensor([*corner, 1.0], dtype=torch.float64),
        )


def test_weights_are_checked(tmp_path: Path) -> None:
    resolver = make_resolver()
    path = tmp_path / "model.pt"
    with pytest.raises(WeightsError, match="does not exist"):
        load_weights(resolver, path)
    save_weights(resolver, path)
    with pytest.raises(WeightsError, match="altered"):
        load_weights(resolver, path, "0" * 64)
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(torch.nn.Linear(2, 2), path)
    torch.save(math.sqrt, path)
    with pytest.raises(WeightsError, match="plain state dictionary"):
        load_weights(resolver, path)

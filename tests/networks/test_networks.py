"""Codec, sampler, generator and super-resolver, with small random networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from generator_fixtures import described, make_codec, make_generator, make_resolver
from torch import Tensor, nn

from monai_ldmsr.degradation import Factor, factor_pair
from monai_ldmsr.errors import SettingsError, WeightsError
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks import (
    CONDITIONS,
    PixelDecoder,
    SRResNetGenerator,
    SuperResolver,
    describe_degradation,
    load_weights,
    save_weights,
    upsample_bicubic,
)
from monai_ldmsr.networks.latent_codec import block_dct_basis
from monai_ldmsr.noise_level import estimate_noise, volume_noise
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.samplers import AnchoredFlow
from monai_ldmsr.training import resume_training


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
    generator, other = make_generator(), make_generator()
    sha256 = save_weights(generator, tmp_path / "model.pt", half=True)
    other.codec.set_statistics(torch.zeros(16), torch.ones(16), torch.ones(16))
    assert load_weights(other, tmp_path / "model.pt", sha256) == sha256
    assert torch.equal(other.codec.latent_mean, torch.linspace(-1, 1, 16))
    assert torch.equal(other.codec.residual_std, torch.full((16,), 0.3))
    image, resolver = torch.rand(1, 1, 16, 16), SuperResolver(other).eval()
    with torch.no_grad():
        correct = resolver(image)
        other.codec.set_statistics(torch.zeros(16), torch.ones(16), torch.ones(16))
        assert float((resolver(image) - correct).abs().max()) > 0.05


def test_describe_degradation() -> None:
    found = describe_degradation(
        torch.tensor([[1.0, 2.0], [6.0, 4.0], [2.5, 1.0]]), torch.tensor([0, 1, 2]), torch.tensor([0.0, 3.0, 40.0])
    )
    expected = [
        [0.0, 0.5, 1.0, 0.0, 0.0, 0.0],
        [math.log2(6) / 2, 1.0, 0.0, 1.0, 0.0, 1.0],
        [math.log2(2.5) / 2, 0.0, 0.0, 0.0, 1.0, math.log2(41) / 2],
    ]
    assert found.shape == (3, CONDITIONS)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_denoiser_hears_each_number_of_the_degradation() -> None:
    """Also a little more of one, and which of two factors is the rows'."""
    denoiser = make_generator().denoiser.eval()
    state, condition, time = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8), torch.tensor([1000.0])
    plain = denoiser(state, condition, time, described(factor=(2.0, 4.0)))
    assert torch.equal(plain, denoiser(state, condition, time, described(factor=(2.0, 4.0))))
    for other in (
        described(factor=(4.0, 2.0)),
        described(factor=(2.3, 4.0)),
        described(factor=(2.0, 4.3)),
        described(factor=(2.0, 4.0), noise=1.0),
        *(described(factor=(2.0, 4.0), operator=name) for name in OPERATORS if name != "area"),
    ):
        assert float((denoiser(state, condition, time, other) - plain).detach().abs().max()) > 1e-5
    mixed = torch.cat([described(factor=(2.0, 4.0)), described(factor=(5.0, 1.0), noise=9.0)])
    both = denoiser(state.expand(2, -1, -1, -1), condition.expand(2, -1, -1, -1), time.expand(2), mixed)
    torch.testing.assert_close(both[:1], plain, atol=1e-5, rtol=1e-5)


def test_a_decoder_starts_close_to_what_was_decoded() -> None:
    torch.manual_seed(0)
    decoded, image = torch.rand(2, 1, 18, 22), torch.rand(2, 1, 18, 22)
    found = PixelDecoder(8, 2, out_channels=2)(decoded, image, described(2))
    assert found.shape == (2, 2, 18, 22)
    assert 0 < float((found[:, :1] - decoded).detach().abs().max()) < 0.02
    assert float(found[:, 1:].detach().abs().max()) < 0.02


def test_a_decoder_makes_texture_of_the_noise_it_is_given() -> None:
    decoder = make_generator().sample_decoder
    decoded, image, noise = torch.rand(2, 1, 24, 24), torch.rand(2, 1, 24, 24), torch.randn(2, 1, 24, 24)
    first, again = (decoder(decoded, image, described(2), noise) for _ in range(2))
    assert torch.equal(first, again)
    assert float((decoder(decoded, image, described(2), -noise) - first).detach().abs().mean()) > 1e-3
    silent, still = (decoder(decoded, image, described(2)) for _ in range(2))
    assert torch.equal(silent, still)
    torch.testing.assert_close(silent, decoder(decoded, image, described(2), 0 * noise))
    for given in ((decoded + 0.1, image, described(2)), (decoded, image + 0.1, described(2))):
        assert float((decoder(*given) - silent).detach().abs().max()) > 1e-3
    assert float((decoder(decoded, image, described(2, noise=5.0)) - silent).detach().abs().max()) > 1e-3
    # A change at one place stays near it: no pooling over the slice.
    touched = decoded.clone()
    touched[..., 0, 0] += 1
    assert torch.equal(decoder(touched, image, described(2))[..., 16:, 16:], silent[..., 16:, 16:])


def test_decoders_without_noise_have_no_weights_for_it() -> None:
    assert not [name for name, _ in PixelDecoder(8, 1).named_parameters() if "noise" in name]
    with pytest.raises(AttributeError):
        PixelDecoder(8, 1)(*[torch.zeros(1, 1, 8, 8)] * 2, described(), torch.zeros(1, 1, 8, 8))


def test_the_samples_loss_does_not_reach_the_mean() -> None:
    """The second evaluation starts at the mean, but its loss teaches through itself alone; the codec learns nothing."""
    generator, seen = make_generator(), []
    generator.denoiser.register_forward_hook(lambda module, given, result: seen.append((given, result)))
    image = torch.rand(2, 1, 32, 32)
    noise = torch.randn(2, 16, 8, 8), torch.randn(2, 1, 32, 32)
    mean, log_scale, sample = generator(image, described(2), AnchoredFlow(), *noise)
    assert [float(given[2][0]) for given, _ in seen] == [1000.0, 500.0]
    assert not bool(seen[0][0][0].any()), "the first evaluation starts at the low-resolution image"
    outputs = [out for _, out in seen]
    of_sample = torch.autograd.grad(sample.square().sum(), outputs, retain_graph=True, allow_unused=True)
    of_mean = torch.autograd.grad(mean.square().sum(), outputs, retain_graph=True, allow_unused=True)
    assert of_sample[0] is None
    assert of_mean[1] is None
    assert bool(of_sample[1].any())
    assert bool(of_mean[0].any())
    (sample.sum() + mean.sum() + log_scale.sum()).backward()
    assert all(p.grad is None and not p.requires_grad for p in generator.codec.parameters())
    for part in (generator.denoiser, generator.mean_decoder, generator.sample_decoder):
        assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in part.parameters())


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 0.7), (-100.0, -9.0)])
def test_the_expected_error_stays_within_reason(bias: float, expected: float) -> None:
    generator = make_generator()
    nn.init.constant_(generator.mean_decoder.last.bias, bias)
    found = generator(torch.rand(1, 1, 32, 32), described())
    assert found.sample is None
    torch.testing.assert_close(found.log_scale, torch.full_like(found.log_scale, expected))


@pytest.mark.parametrize(
    ("settings", "word"), [({"num_inference_steps": 0}, "num_inf"), ({"start_noise": -0.1}, "start")]
)
def test_numbers_of_the_sampler_out_of_range(settings: dict[str, float], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        AnchoredFlow(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 1.3, 2.75, 6.0, (1, 3), (3.5, 1.0)])
@pytest.mark.parametrize("size", [(16, 16), (7, 31), (1, 1)])
def test_any_slice_size_and_factor(factor: Factor, size: tuple[int, int]) -> None:
    with torch.no_grad():
        result = make_resolver(factor=factor, num_inference_steps=1, margin=4)(torch.rand(1, 1, *size))
    expected = tuple(round(n * f) for n, f in zip(size, factor_pair(factor), strict=True))
    assert result.shape == (1, 1, *expected)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("factor", [2, 2.75, (1, 4), (3, 1.5)])
def test_padding_does_not_shift_the_image(factor: Factor) -> None:
    """With silent networks the result is the bicubic image, between the same faces, for every size."""
    resolver = make_resolver(factor=factor, start_noise=0.0)
    for part in (resolver.generator.denoiser, resolver.generator.mean_decoder, resolver.generator.sample_decoder):
        for parameter in part.parameters():
            nn.init.zeros_(parameter)
    image = torch.rand(1, 1, 19, 26)
    rows, columns = factor_pair(factor)
    expected = nn.functional.interpolate(image, size=(round(19 * rows), round(26 * columns)), mode="bicubic")
    assert torch.equal(upsample_bicubic(image, factor), expected)
    with torch.no_grad():
        torch.testing.assert_close(resolver(image), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(resolver.predict(image).mean, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("factor", [1.5, 2, 3.3, (1, 4)])
def test_interpolation_keeps_the_outer_faces(factor: Factor) -> None:
    """The middle of a ramp lies in the middle, and turning the image turns the result."""
    ramp = torch.arange(21.0).expand(1, 1, 21, 21).contiguous()
    found = upsample_bicubic(ramp, factor)
    torch.testing.assert_close(found + found.flip(-1), torch.full_like(found, 20.0), atol=1e-4, rtol=0)
    places = (torch.arange(found.shape[-1]) + 0.5) * 21 / found.shape[-1] - 0.5
    inner = (places > 2) & (places < 18)
    torch.testing.assert_close(found[0, 0, 5, inner], places[inner], atol=0.1, rtol=0)


def test_batch_equals_one_by_one_and_seed_decides() -> None:
    resolver, images = make_resolver(), torch.rand(3, 1, 12, 20)
    images[1] += 0.5 * torch.randn(12, 20)  # noise is estimated of each slice for itself
    with torch.no_grad():
        batch = resolver(images)
        single = torch.cat([resolver(image[None]) for image in images])
        again = resolver(images)
        other = make_resolver(seed=1)(images)
        mean, other_mean = (r.predict(images, with_sample=False).mean for r in (resolver, make_resolver(seed=1)))
    torch.testing.assert_close(batch, single, atol=1e-5, rtol=0)
    assert torch.equal(batch, again)
    assert float((other - batch).abs().mean()) > 1e-3
    assert torch.equal(mean, other_mean), "nothing is drawn for the mean"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"factor": 0.5}, "factor"),
        ({"factor": 7}, "factor"),
        ({"factor": (2, 6.5)}, "factor"),
        ({"factor": (0.9, 2)}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"detail": 1.6}, "detail"),
        ({"detail": -0.1}, "detail"),
        ({"noise": -1.0}, "noise"),
        ({"noise": 40.5}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"operator": "median"}, "operator"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        make_resolver(**settings)  # type: ignore[arg-type]


def test_the_networks_are_told_factors_operator_and_noise() -> None:
    seen: list[Tensor] = []
    for factor, operator in ((2, "area"), ((1.5, 4), "gaussian"), (4, "kspace")):
        resolver = make_resolver(factor=factor, operator=operator, noise=3.0, detail=0.5)
        seen.clear()
        embedding, decoders = resolver.generator.denoiser.unet.class_embedding, ("mean_decoder", "sample_decoder")
        for layer in (embedding, *(getattr(resolver.generator, name).degradation for name in decoders)):
            layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        resolver(torch.rand(2, 1, 24, 24))
        assert len(seen) == 4, "two evaluations, two decoders"
        for given in seen:
            torch.testing.assert_close(given, described(2, factor, operator, 3.0))


def test_detail_leads_from_the_mean_to_the_sample() -> None:
    image, calls = torch.rand(2, 1, 24, 28), []
    with torch.no_grad():
        mean, log_scale, sample = make_resolver().predict(image)
        for detail in (0.0, 0.25, 0.5, 1.0):
            resolver = make_resolver(detail=detail)
            resolver.generator.denoiser.register_forward_hook(lambda *given: calls.append(1))
            calls.clear()
            torch.testing.assert_close(resolver(image), mean + detail * (sample - mean), atol=1e-5, rtol=0)
            assert len(calls) == resolver.describe()["evaluations_per_slice"] == (2 if detail else 1)
        one = make_resolver(num_inference_steps=1)
        assert torch.equal(one(image), make_resolver(detail=0.0)(image))
        assert one.describe()["evaluations_per_slice"] == 1
    assert log_scale.shape == mean.shape == sample.shape
    assert float((sample - mean).abs().mean()) > 1e-3


def test_noise_is_estimated_once_a_volume_or_given() -> None:
    """A volume of slices of different noise: each is super-resolved as the median says."""
    torch.manual_seed(0)
    sigmas = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]) / 127.5
    volume = torch.randn(1, 1, 48, 48, 5) * sigmas
    image, resolver = volume[..., 0], make_resolver()
    assert resolver.describe()["noise"] is None
    alone, noise = resolver(image), volume_noise(volume)
    assert noise == pytest.approx(float(estimate_noise(volume[..., 2])))
    assert noise == pytest.approx(4.0, rel=0.2)
    of_volume = resolver(image, "MR", noise)
    assert resolver.describe("MR", noise)["noise"] == round(noise, 3)
    assert torch.equal(of_volume, make_resolver(noise=noise)(image))
    assert torch.equal(resolver(image), alone), "a call leaves nothing behind"
    assert float((of_volume - alone).detach().abs().max()) > 1e-5
    torch.testing.assert_close(alone, make_resolver(noise=float(estimate_noise(image)))(image), atol=1e-6, rtol=0)
    given = make_resolver(noise=0.0)
    assert given.describe("MR", noise)["noise"] == 0.0
    assert torch.equal(given(image, "MR", noise), given(image))
    assert volume_noise(volume[..., 4:]) == pytest.approx(16.0, rel=0.2)


def test_noise_of_slices_is_correlated_by_their_distance() -> None:
    """Standard normal at each place; beyond twice the distance nothing is left in common; the same for each batch."""
    resolver, image = make_resolver(correlation_mm=2.0), torch.zeros(1, 1, 96, 96)
    places = [0.0, 0.5, 1.0, 2.0, 3.0, 4.5]
    latent, pixels = resolver.fields_of_noise().draw_padded(image.shape[-2:], places)
    assert latent.shape == (6, 16, 24, 24)
    assert pixels.shape == (6, 1, 96, 96)
    for fields in (latent, pixels):
        flat = fields.flatten(1)
        assert flat.std(dim=1).tolist() == pytest.approx([1.0] * 6, abs=0.05)
        common = torch.corrcoef(flat)[0]
        angles = [min(place / 2, 2.0) * math.pi / 2 for place in places]
        expected = [math.cos(angle) if angle < math.pi / 2 else 0.0 for angle in angles]
        assert common.tolist() == pytest.approx(expected, abs=0.06)
    for n, place in enumerate(places):
        alone = resolver.fields_of_noise().draw_padded(image.shape[-2:], [place])
        assert torch.equal(alone[0][0], latent[n])
        assert torch.equal(alone[1][0], pixels[n])
    frozen, _ = make_resolver(correlation_mm=math.inf).fields_of_noise().draw_padded(image.shape[-2:], places)
    assert torch.equal(frozen, frozen[:1].expand_as(frozen))
    with pytest.raises(SettingsError, match="correlation_mm"):
        make_resolver(correlation_mm=0.0)


def test_a_volume_tells_its_slices_where_they_lie() -> None:
    """Whatever the batch; by the distance of slices of the affine; and networks that do not care are not told."""
    from monai.data import MetaTensor

    resolver = make_resolver()
    volume = torch.rand(1, 1, 12, 20, 1).expand(1, 1, 12, 20, 5).contiguous()
    affine = torch.diag(torch.tensor([0.5, 0.5, 3.0, 1.0], dtype=torch.float64))
    placed = MetaTensor(volume, affine=affine)
    results = [VolumeInferer(batch_size=n)(placed, resolver) for n in (1, 2, 5)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=0)
    with torch.no_grad():
        third = resolver(volume[..., 2], places_mm=[6.0])
        estimated, _ = VolumeInferer().estimate(placed, resolver)
    torch.testing.assert_close(results[0].as_tensor()[..., 2], third, atol=1e-5, rtol=0)
    torch.testing.assert_close(estimated.as_tensor(), results[0].as_tensor(), atol=1e-5, rtol=0)
    assert float((results[0][..., 4] - results[0][..., 0]).abs().mean()) > 1e-3, "the same noise stands still"
    same = VolumeInferer()(placed, make_resolver(correlation_mm=math.inf))
    torch.testing.assert_close(same[..., 4], same[..., 0], atol=1e-5, rtol=0)


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
        load_weights(nn.Linear(2, 2), path)
    torch.save(math.sqrt, path)
    with pytest.raises(WeightsError, match="plain state dictionary"):
        load_weights(resolver, path)


def test_weights_of_an_earlier_architecture_are_refused_with_a_remedy(tmp_path: Path) -> None:
    """Version 0.6.0 had codec and denoiser alone, with a table of classes, directly in the super-resolver."""
    generator = make_generator()
    state = {key: value for key, value in generator.state_dict().items() if key.startswith(("codec.", "denoiser."))}
    state = {key: value for key, value in state.items() if "class_embedding" not in key}
    state["denoiser.unet.class_embedding.weight"] = torch.zeros(9, 32)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"does not fit this network.*Use the weights of the same bundle version"):
        load_weights(generator, tmp_path / "model.pt")
    for checkpoint in ({"network": state, "budget": {"used_s": 1.0}}, {"generator": state, "budget": {"used_s": 1.0}}):
        torch.save(checkpoint, tmp_path / "adversarial_checkpoint_iteration=9.pt")
        with pytest.raises(WeightsError, match=r"does not fit this stage's networks.*or start without one"):
            resume_training(tmp_path / "adversarial_checkpoint_iteration=9.pt", {"generator": generator})


def test_the_dials_default_goes_by_modality() -> None:
    table = {"CT": 0.5, "MR": 1.0, "PT": 0.0}
    resolver = make_resolver(default_detail=table)
    found = {}
    for modality in ("CT", "MR", "PT", "US", None):
        described = resolver.describe(modality)
        found[modality] = (described["detail"], described["evaluations_per_slice"])
    assert found == {"CT": (0.5, 2), "MR": (1.0, 2), "PT": (0.0, 1), "US": (0.0, 1), None: (0.0, 1)}
    assert make_resolver(default_detail=table, modality="MR").describe()["detail"] == 1.0
    assert make_resolver(default_detail=table, detail=0.25, modality="MR").describe("CT")["detail"] == 0.25, (
        "what is given counts"
    )
    assert make_resolver().describe()["detail"] == 1.0
    with pytest.raises(SettingsError, match="detail"):
        make_resolver(default_detail={"CT": 1.5})


def slice_networks() -> list[nn.Module]:
    return [make_resolver(), SRResNetGenerator(factor=2, features=8, num_blocks=1)]


@pytest.mark.parametrize("network", slice_networks())
@pytest.mark.parametrize("shape", [(1, 3, 16, 20), (16, 20), (1, 16, 20), (1, 1, 9, 9, 3), (0, 1, 9, 9), (1, 1, 9, 0)])
def test_what_is_no_slice_is_refused(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=r"\(B, 1, h, w\) is needed"):
        network(torch.zeros(shape))


@pytest.mark.parametrize("network", slice_networks())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16])
def test_slices_of_another_type_are_refused(network: nn.Module, dtype: torch.dtype) -> None:
    with pytest.raises(SettingsError, match=f"{dtype}, but the network's weights are torch.float32"):
        network(torch.zeros(1, 1, 16, 20, dtype=dtype))


@pytest.mark.parametrize("network", slice_networks())
def test_noise_that_is_none_and_arrays_are_refused(network: nn.Module) -> None:
    for noise in (-1.0, math.nan, math.inf, "a", torch.zeros(2)):
        with pytest.raises(SettingsError, match="noise is"):
            network(torch.zeros(1, 1, 16, 20), "MR", noise)
    with pytest.raises(SettingsError, match="type ndarray"):
        network(torch.zeros(1, 1, 16, 20).numpy())


@pytest.mark.parametrize("network", slice_networks())
def test_recording_by_torchscript_is_refused(network: nn.Module) -> None:
    """It would keep the example's size, and lose or keep its noise."""
    for record in (lambda: torch.jit.trace(network, torch.zeros(1, 1, 16, 20)), lambda: torch.jit.script(network)):
        with pytest.raises(SettingsError, match="cannot record this network"):
            record()


@pytest.mark.slow
@pytest.mark.parametrize("network", [make_resolver(detail=0.0), slice_networks()[1]])
def test_an_exported_network_is_exact_or_refuses(network: nn.Module) -> None:
    network.eval()
    example, other = torch.randn(2, 1, 2, 1, 20, 24)[:, 0]
    with torch.no_grad():
        exported = torch.export.export(network, (example, "MR", 3.0), strict=False).module()
        torch.testing.assert_close(exported(other, "MR", 3.0), network(other, "MR", 3.0), rtol=0, atol=0)
        for wrong in ((other[..., 1:], "MR", 3.0), (other, "MR", 9.0)):
            with pytest.raises(AssertionError, match="Guard failed"):
                exported(*wrong)


def test_an_exported_sample_is_refused() -> None:
    """Its noise would be another one at each call."""
    with torch.no_grad(), pytest.raises(SettingsError, match="detail=0"):
        torch.export.export(make_resolver(detail=1.0).eval(), (torch.zeros(1, 1, 20, 24),), strict=False)

"""Baselines, critic and the losses that ask for sharpness."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.networks.nets import PatchDiscriminator
from test_networks import make_resolver
from torch import nn

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.losses import AdversarialLoss, SharpFidelityLoss
from monai_ldmsr.networks import (
    ConditionalCritic,
    SRResNetGenerator,
    load_weights,
    save_weights,
    upsample_bicubic,
)
from monai_ldmsr.training import GeneratorObjective, StudentObjective, TimeBudget, prepare_adversarial_batch

BUNDLES = Path(__file__).parents[1] / "bundles"


def critic() -> ConditionalCritic:
    return ConditionalCritic(PatchDiscriminator(2, 8, 2, num_layers_d=2, norm=None))


def lively_generator(factor: int = 4) -> SRResNetGenerator:
    torch.manual_seed(0)
    generator = SRResNetGenerator(factor, features=8, num_blocks=1)
    nn.init.normal_(generator.tail[-1].weight, std=0.1)
    return generator.eval()


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (7, 31), (1, 1)])
def test_an_untrained_generator_is_bicubic(factor: int, size: tuple[int, int]) -> None:
    """Its last layer starts silent: what is left must lie at its place, for every size and factor."""
    image = torch.rand(2, 1, *size)
    result = SRResNetGenerator(factor, features=8, num_blocks=2)(image)
    padded = torch.nn.functional.pad(image, (8,) * 4, mode="replicate")
    expected = upsample_bicubic(padded, factor)[..., 8 * factor : -8 * factor, 8 * factor : -8 * factor]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def test_the_generator_knows_the_factor_and_refuses_others() -> None:
    generator = SRResNetGenerator(features=8, num_blocks=1)
    for parameter in generator.parameters():
        nn.init.normal_(parameter, std=0.1)
    upsampled = torch.rand(1, 1, 24, 24)
    two, four = (generator.refine(upsampled, torch.tensor([n])) for n in (2, 4))
    assert float((two - four).detach().abs().max()) > 1e-4
    with pytest.raises(SettingsError, match="factor is 5"):
        SRResNetGenerator(5)


@pytest.mark.parametrize("half", [False, True])
def test_the_generator_travels_in_its_weights(half: bool, tmp_path: Path) -> None:
    generator, other, image = lively_generator(), SRResNetGenerator(features=8, num_blocks=1), torch.rand(1, 1, 9, 14)
    assert load_weights(other, tmp_path / "g.pt", save_weights(generator, tmp_path / "g.pt", half=half))
    assert all(p.dtype == torch.float32 for p in other.parameters())
    with torch.no_grad():
        bicubic, original = (network(image) for network in (SRResNetGenerator(features=8, num_blocks=1), generator))
        result = other(image)
    assert float((original - bicubic).abs().max()) > 0.02, "it must do something to be told from an untrained one"
    assert torch.equal(result, original) or half
    torch.testing.assert_close(result, original, atol=2e-3, rtol=0)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_generator_sees_the_same_inside_a_crop(factor: int) -> None:
    """Far from the edges the result must not depend on the slice's size (offsets that keep the 4x4 folding)."""
    generator, image = lively_generator(factor), torch.rand(1, 1, 56, 60)
    with torch.no_grad():
        whole, part = generator(image), generator(image[..., 8:56, 4:52])
    inside, offset = slice(18 * factor, -18 * factor), whole[..., 8 * factor :, 4 * factor : 52 * factor]
    torch.testing.assert_close(offset[..., inside, inside], part[..., inside, inside], atol=1e-4, rtol=0)
    assert float((part - upsample_bicubic(image[..., 8:56, 4:52], factor)).abs().max()) > 0.02


def test_the_critic_judges_the_first_channel_beside_the_condition() -> None:
    network, image, condition = critic(), torch.rand(1, 2, 32, 32), torch.rand(1, 1, 32, 32)
    verdict = network(image, condition)
    assert torch.equal(network.eval()(image[:, :1], condition), network(image, condition))
    assert not torch.equal(network(image.flip(-1), condition), network(image, condition))
    assert not torch.equal(network(image, condition.flip(-1)), network(image, condition))
    assert verdict.shape[:2] == (1, 1)
    normalized = [m for m in network.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")]
    assert len(normalized) == len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) - 2


@pytest.mark.parametrize("stage", ["ldm_sr/configs/train_adversarial.yaml", "srgan_sr/configs/train.yaml"])
def test_the_critics_in_use_do_not_normalize_texture_away(stage: str) -> None:
    """Without norm layers a slice's verdict depends neither on its batch nor on a scale that was divided out."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / stage))
    network = parser.get_parsed_content("critic")
    assert not [m for m in network.modules() if "Norm2d" in type(m).__name__]
    image, condition = torch.rand(3, 1, 48, 48), torch.rand(3, 1, 48, 48)
    with torch.no_grad():
        for _ in range(30):  # the power iteration settles
            network(image, condition)
        inner = [m for m in network.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")]
        assert all(float(torch.linalg.svdvals(m.weight.flatten(1))[0]) == pytest.approx(1, abs=0.03) for m in inner)
        network.eval()
        torch.testing.assert_close(network(image, condition)[1:2], network(image[1:2], condition[1:2]))


def test_the_critic_sees_how_strong_texture_is() -> None:
    network, condition = critic().eval(), torch.zeros(1, 1, 32, 32)
    texture = 0.1 * torch.randn(1, 1, 32, 32)
    weak, strong = (network(gain * texture, condition) for gain in (1.0, 3.0))
    silent = network(0 * texture, condition)
    assert float((strong - silent).detach().abs().mean()) > 1.5 * float((weak - silent).detach().abs().mean())


@pytest.mark.parametrize("criterion", ["least_squares", "hinge", "bce"])
def test_adversarial_loss_falls_as_the_critic_separates(criterion: str) -> None:
    loss, middle = AdversarialLoss(criterion=criterion), torch.full((2, 1, 3, 3), 0.5)
    apart = [float(loss(middle + d, middle - d)) for d in (-0.2, 0.0, 0.2, 0.4)]
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 0.9 * apart[0]
    fooled = [float(loss(middle + d)) for d in (-0.4, 0.0, 0.4)]
    assert fooled == sorted(fooled, reverse=True)


def test_a_critic_learns_to_tell_blur() -> None:
    torch.manual_seed(0)
    network, loss = critic(), AdversarialLoss()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        condition = torch.zeros(8, 1, 32, 32)
        real = 0.2 * torch.randn(8, 1, 32, 32)
        fake = nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
        value = loss(network(real, condition), network(fake, condition))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_adversarial_loss_pulls_both_ways() -> None:
    loss, sure = AdversarialLoss(weight=0.5), torch.ones(2, 1, 3, 3)
    assert float(loss(sure, 0 * sure)) == pytest.approx(0)
    assert float(loss(0 * sure, sure)) == pytest.approx(1)
    assert float(loss(sure)) == pytest.approx(0)
    assert float(loss(0 * sure)) == pytest.approx(0.5)


def test_fidelity_loss_tells_blur_and_noise_from_the_original() -> None:
    random = torch.Generator().manual_seed(0)
    image = 0.3 * torch.randn(4, 1, 64, 64, generator=random)
    loss = SharpFidelityLoss(pixel_weight=0.0, texture_weight=1.0)
    assert float(loss(image, image)) == 0
    blurred = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    assert float(loss(blurred, image)) > 1
    assert float(loss(image + 0.3 * torch.randn(image.shape, generator=random), image)) > 0.3
    other = 0.3 * torch.randn(image.shape, generator=random)
    assert float(loss(other, image)) < 0.4, "the course of detail is not the texture's business"


def test_fidelity_loss_changes_nothing_and_can_be_followed() -> None:
    loss, target = SharpFidelityLoss(), torch.rand(2, 1, 32, 40)
    images = torch.rand(2, 2, 32, 40, requires_grad=True)
    before = images.detach().clone(), target.clone()
    loss(images, target).backward()
    assert torch.equal(images, before[0])
    assert torch.equal(target, before[1])
    assert images.grad is not None
    assert all(float(images.grad[:, n].abs().sum()) > 0 for n in (0, 1))
    flat = torch.zeros(1, 1, 32, 32, requires_grad=True)
    SharpFidelityLoss(pixel_weight=0.0)(flat, torch.rand(1, 1, 32, 32)).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all()), "an empty patch has no power to take the logarithm of"


def test_texture_is_energy_by_place_scale_and_direction() -> None:
    loss, noise = SharpFidelityLoss(), 5 * torch.randn(1, 1, 96, 96)
    level = loss.texture(noise)
    assert level.shape[:2] == (1, 15)
    assert float(level.mean()) == pytest.approx(math.log(25), abs=0.15), "the bands are orthonormal"
    torch.testing.assert_close(loss.texture(2 * noise) - level, torch.full_like(level, math.log(4)), atol=1e-2, rtol=0)
    torch.testing.assert_close(loss.texture(noise + 100), level, atol=1e-2, rtol=0)
    # Energy on the left half alone is not made good by energy on the right.
    left, right = noise.clone(), noise.clone()
    left[..., 48:], right[..., :48] = 0, 0
    assert float((loss.texture(left) - loss.texture(right)).abs().mean()) > 5
    assert float(loss.texture(torch.zeros(1, 1, 16, 16)).exp().max()) == pytest.approx((2 / 255) ** 2, rel=1e-3)
    # Of a wave of period 8 / n pixels, band n of its own axis has the most; of its transpose, that of the other.
    places = torch.arange(96).float()
    for n in (1, 2, 3):
        wave = torch.cos(2 * torch.pi * n * places / 8 + 0.3).expand(1, 1, 96, 96)
        for image, band in ((wave, n), (wave.mT, 4 * n)):
            assert int(loss.texture(image).mean(dim=(0, 2, 3)).argmax()) == band - 1


def test_fidelity_loss_weighs_the_mean_apart() -> None:
    target = torch.zeros(1, 1, 8, 8)
    both = torch.cat([target + 0.5, target + 0.2], dim=1)
    loss = SharpFidelityLoss(pixel_weight=1.0, texture_weight=0.0, mean_weight=10.0)
    assert float(loss(both, target)) == pytest.approx(0.5 + 10 * 0.04)
    assert float(loss(both[:, :1], target)) == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_student_agrees_with_its_source_and_leaves_the_codec(factor: int) -> None:
    resolver = make_resolver()
    objective = StudentObjective(resolver.codec, resolver.denoiser)
    low = torch.rand(2, 1, 96 // factor, 96 // factor)
    image = upsample_bicubic(low, factor)
    result = objective(image, image, low, torch.full((2,), factor), torch.zeros(2))
    assert result.shape == (2, 2, 96, 96)
    torch.testing.assert_close(AreaOperator(factor)(result[:, :1]), low, atol=1e-5, rtol=0)
    result.square().mean().backward()
    assert all(p.grad is None for p in resolver.codec.parameters())
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in resolver.denoiser.parameters())


def test_a_silent_student_gives_the_image_it_got() -> None:
    """No velocity: the mean is the low-resolution image, and the sample is that with half of the start's noise."""
    resolver = make_resolver()
    for parameter in resolver.denoiser.parameters():
        nn.init.zeros_(parameter)
    low = torch.rand(2, 1, 32, 32)
    image, factor, area = upsample_bicubic(low, 2), torch.full((2,), 2), torch.zeros(2)
    without, first, second = (
        StudentObjective(resolver.codec, resolver.denoiser, noise)(image, image, low, factor, area).detach()
        for noise in (0.0, 0.7, 0.7)
    )
    for result in (without, first, second):
        torch.testing.assert_close(result[:, 1:], image, atol=1e-4, rtol=0)
    expected = project_onto_source(image.clone(), low, AreaOperator(2))
    torch.testing.assert_close(without[:, :1], expected, atol=1e-4, rtol=0)
    assert not torch.equal(first[:, :1], second[:, :1]), "each call draws its own noise"
    # residual_std 0.3, latent_std 0.5 to 2, and an orthonormal decoder; the projection takes 1 of 4 degrees away.
    power = (0.5 * 0.7 * 0.3 * torch.linspace(0.5, 2, 16)).square().mean()
    found = (first[:, :1] - expected).square().mean()
    assert 0.4 * float(power) < float(found) < float(power)


def test_the_students_sample_does_not_move_the_mean() -> None:
    """The second evaluation starts at the mean, but its loss teaches through itself alone."""
    resolver = make_resolver()
    codec, seen = resolver.codec, []
    handle = resolver.denoiser.register_forward_hook(lambda module, given, result: seen.append((given, result)))
    low = torch.rand(1, 1, 32, 32)
    image = upsample_bicubic(low, 2)
    result = StudentObjective(codec, resolver.denoiser)(image, image, low, torch.tensor([2]), torch.tensor([0]))
    handle.remove()
    assert [float(given[2][0]) for given, _ in seen] == [1000.0, 500.0]
    assert not bool(seen[0][0][0].any()), "the first evaluation starts at the low-resolution image"
    grads = torch.autograd.grad(result[:, :1].square().sum(), [out for _, out in seen], allow_unused=True)
    assert not bool(grads[0].any())
    assert bool(grads[1].any())


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_generators_objective_is_bicubic_held_to_its_source(factor: int) -> None:
    generator = SRResNetGenerator(features=8, num_blocks=1)
    low, label = torch.rand(2, 1, 48 // factor, 48 // factor), torch.rand(2, 1, 48, 48)
    image = upsample_bicubic(low, factor)
    kept = image.clone()
    result = GeneratorObjective(generator)(label, image, low, torch.full((2,), factor), torch.zeros(2))
    torch.testing.assert_close(result, project_onto_source(image.clone(), low, AreaOperator(factor)))
    torch.testing.assert_close(AreaOperator(factor)(result), low, atol=1e-6, rtol=0)
    assert torch.equal(image, kept)
    (result - label).square().mean().backward()
    assert float(generator.tail[-1].weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("operator", [1, 2])
def test_only_noise_free_batches_are_held_to_their_source(operator: int) -> None:
    """A blurred or cropped low-resolution patch carries noise; its block means are not those of the original."""
    generator, resolver = SRResNetGenerator(features=8, num_blocks=1), make_resolver()
    low, image = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 64, 64)
    given = image, low, torch.tensor([2]), torch.tensor([operator])
    result = GeneratorObjective(generator)(image, *given)
    torch.testing.assert_close(result, generator.refine(image, torch.tensor([2])))
    sample = StudentObjective(resolver.codec, resolver.denoiser)(image, *given)[:, :1]
    assert float((AreaOperator(2)(sample) - low).detach().abs().max()) > 0.05


def test_a_batch_goes_to_generator_and_critic() -> None:
    batch = {
        "label": torch.rand(2, 1, 48, 48),
        "image": torch.rand(2, 1, 48, 48),
        "low": torch.rand(2, 1, 24, 24),
        "factor": torch.tensor([2, 2]),
        "operator": torch.tensor([0, 0]),
    }
    inputs, targets, arguments, named = prepare_adversarial_batch(batch, torch.device("cpu"), False)
    assert torch.equal(inputs, batch["label"])
    assert torch.equal(targets, batch["label"])
    keys = ("image", "low", "factor", "operator")
    assert all(torch.equal(a, batch[key]) for a, key in zip(arguments, keys, strict=True))
    assert named == {}
    network = critic().eval()
    fake = GeneratorObjective(SRResNetGenerator(features=8, num_blocks=1))(inputs, *arguments)
    assert fake.shape == inputs.shape
    assert torch.equal(network(inputs, *arguments), network(batch["label"], batch["image"]))


def test_the_log_names_every_loss_and_goes_on_from_the_used_time(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    output = {"generator_loss": torch.tensor(2.0), "discriminator_loss": torch.tensor(3.0), "reals": torch.zeros(3)}
    path, state = tmp_path / "new" / "log.csv", {"used_s": 0.0}
    for used in (10.0, 30.0):
        budget = TimeBudget(optimizer, 60, 0.5, log_every=2, log_file=path)
        budget.load_state_dict({"used_s": state["used_s"] + used})
        engine = Engine(lambda engine, batch: output)
        budget.attach(engine)
        engine.run([1, 2, 3], max_epochs=1)
        state = budget.state_dict()
    with path.open() as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["step", "used_s", "learning_rate", "generator_loss", "discriminator_loss"]
    assert [line["step"] for line in lines] == ["2", "2"]
    assert [float(line["used_s"]) for line in lines] == pytest.approx([10, 40], abs=1)
    rates = [float(line["learning_rate"]) for line in lines]
    assert 0.5 > rates[0] > rates[1] > 0
    assert [float(line["discriminator_loss"]) for line in lines] == [3, 3]


def test_the_log_goes_on_after_a_kill(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for _ in range(2):
        budget = TimeBudget(optimizer, 60, 0.5, log_every=2, log_file=tmp_path / "log.csv")
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(float(batch)), "pred": torch.zeros(3)})
        budget.attach(engine)
        engine.run([1, 3, 5, 7], max_epochs=1)
    with (tmp_path / "log.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["loss"]) for line in lines] == [2, 6, 2, 6]
    assert list(lines[0]) == ["step", "used_s", "learning_rate", "loss"]


def test_detail_follows_the_modality_and_the_factor() -> None:
    rows = {"CT": [[0.1] * 4, [0.2] * 4, [0.3, 0.3, 0.9, 0.3]], "MR": [[0.9] * 4, [1.0] * 4, [1.1, 0.2, 0.4, 1.1]]}
    resolver = make_resolver(factor=4, detail_gains=rows, num_inference_steps=2)
    assert resolver.detail_gains == (0.3, 0.2, 0.4, 0.3), "a modality that is not known takes the least"
    resolver.use_modality("MR")
    assert resolver.detail_gains == (1.1, 0.2, 0.4, 1.1)
    assert make_resolver(factor=3, detail_gains=rows).detail_gains == (0.2,) * 4
    given = make_resolver(factor=4, detail=0.5, detail_gains=rows, num_inference_steps=2)
    given.use_modality("CT")
    assert given.detail_gains == (0.15, 0.15, 0.45, 0.15)
    assert given.evaluations_per_slice == 2
    assert make_resolver(factor=4, detail=0.0, detail_gains=rows, num_inference_steps=2).evaluations_per_slice == 1

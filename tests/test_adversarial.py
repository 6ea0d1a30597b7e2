"""Baselines, critic and the losses that ask for sharpness."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.networks.nets import PatchDiscriminator
from test_networks import make_resolver
from torch import nn

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.losses import AdversarialLoss, SharpFidelityLoss
from monai_ldmsr.networks import ConditionalCritic, SRResNetGenerator, upsample_bicubic
from monai_ldmsr.training import StudentObjective, TimeBudget


def critic() -> ConditionalCritic:
    return ConditionalCritic(PatchDiscriminator(2, 8, 2, num_layers_d=2, norm=None))


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
    assert float((two - four).abs().max()) > 1e-4
    with pytest.raises(SettingsError, match="factor is 5"):
        SRResNetGenerator(5)


def test_the_critic_judges_the_first_channel_beside_the_condition() -> None:
    network, image, condition = critic(), torch.rand(1, 2, 32, 32), torch.rand(1, 1, 32, 32)
    verdict = network(image, condition)
    assert torch.equal(network.eval()(image[:, :1], condition), network(image, condition))
    assert not torch.equal(network(image.flip(-1), condition), network(image, condition))
    assert not torch.equal(network(image, condition.flip(-1)), network(image, condition))
    assert verdict.shape[:2] == (1, 1)
    normalized = [m for m in network.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")]
    assert len(normalized) == len([m for m in network.modules() if isinstance(m, nn.Conv2d)]) - 2


def test_adversarial_loss_pulls_both_ways() -> None:
    loss, sure = AdversarialLoss(weight=0.5), torch.ones(2, 1, 3, 3)
    assert float(loss(sure, 0 * sure)) == pytest.approx(0)
    assert float(loss(0 * sure, sure)) == pytest.approx(1)
    assert float(loss(sure)) == pytest.approx(0)
    assert float(loss(0 * sure)) == pytest.approx(0.5)


def test_fidelity_loss_tells_blur_and_noise_from_the_original() -> None:
    random = torch.Generator().manual_seed(0)
    image = 0.3 * torch.randn(4, 1, 64, 64, generator=random)
    loss = SharpFidelityLoss(pixel_weight=0.0, spectrum_weight=1.0)
    assert float(loss(image, image)) == 0
    blurred = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    assert float(loss(blurred, image)) > 1
    assert float(loss(image + 0.3 * torch.randn(image.shape, generator=random), image)) > 0.3
    assert float(loss(image.roll(5, -1), image)) < 0.3, "where detail lies is not the spectrum's business"
    level = loss.radial_log_power(image)
    assert float(level.std(dim=1).max()) < 0.5, "white noise is as strong in each ring"


def test_fidelity_loss_weighs_the_mean_apart() -> None:
    target = torch.zeros(1, 1, 8, 8)
    both = torch.cat([target + 0.5, target + 0.2], dim=1)
    loss = SharpFidelityLoss(pixel_weight=1.0, spectrum_weight=0.0, mean_weight=10.0)
    assert float(loss(both, target)) == pytest.approx(0.5 + 10 * 0.04)
    assert float(loss(both[:, :1], target)) == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_student_agrees_with_its_source_and_leaves_the_codec(factor: int) -> None:
    resolver = make_resolver()
    objective = StudentObjective(resolver.codec, resolver.denoiser)
    low = torch.rand(2, 1, 96 // factor, 96 // factor)
    image = upsample_bicubic(low, factor)
    result = objective(image, image, low, torch.full((2,), factor))
    assert result.shape == (2, 2, 96, 96)
    torch.testing.assert_close(AreaOperator(factor)(result[:, :1]), low, atol=1e-5, rtol=0)
    result.square().mean().backward()
    assert all(p.grad is None for p in resolver.codec.parameters())
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in resolver.denoiser.parameters())


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
    table = {"CT": [0.1, 0.2, 0.3], "MR": [0.9, 1.0, 1.1]}
    resolver = make_resolver(factor=4, detail=None, detail_by_modality=table)
    assert resolver.detail == 0.3, "a modality that is not known takes the least"
    resolver.use_modality("MR")
    assert resolver.detail == 1.1
    assert make_resolver(factor=3, detail=None, detail_by_modality=table).detail == 0.2
    given = make_resolver(factor=4, detail=0.7, detail_by_modality=table)
    given.use_modality("MR")
    assert given.detail == 0.7

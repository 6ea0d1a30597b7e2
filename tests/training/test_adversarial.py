"""One iteration of training against a critic: objectives, projection, and who learns from what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from generator_fixtures import make_batch, make_critic, make_generator
from ignite.engine import Engine
from torch import Tensor, nn

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator, Factor, factor_pair
from monai_ldmsr.losses import GeneratorLoss, PartialPrediction
from monai_ldmsr.networks import SRResNetGenerator, describe_degradation
from monai_ldmsr.samplers import AnchoredFlow
from monai_ldmsr.training import AdversarialStep, BaselineObjective, StudentObjective, TimeBudget
from monai_ldmsr.training.adversarial import projected
from monai_ldmsr.training.intensities import PatchIntensities
from monai_ldmsr.training.recording import make_recordable

Batch = dict[str, Tensor]


def at(iteration: int) -> Engine:
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration))  # type: ignore[return-value]


def lively_baseline() -> SRResNetGenerator:
    torch.manual_seed(0)
    generator = SRResNetGenerator(features=8, num_blocks=1)
    nn.init.normal_(generator.tail[-1].weight, std=0.1)
    return generator


def source_means(image: Tensor, batch: Batch, factor: Factor) -> Tensor:
    return AreaOperator(factor)(PatchIntensities(batch["knots"]).inverse(image))


@pytest.mark.parametrize("factor", [2, 3, 4, 96 / 37, (1, 4), (96 / 61, 2.0)])
def test_projected_is_the_projection_of_a_run(factor: Factor) -> None:
    """Through each patch's own map of intensities, as after the network in use."""
    batch = make_batch(4, factor=factor_pair(factor))
    image = batch["label"] + 0.2 * torch.randn(batch["label"].shape, generator=torch.Generator().manual_seed(1))
    kept = image.clone()
    intensities = PatchIntensities(batch["knots"])
    low = intensities.inverse(batch["low"])
    expected = project_onto_source(intensities.inverse(image), low, AreaOperator(factor_pair(factor)))
    found = projected(image, batch)
    torch.testing.assert_close(found, intensities.forward(expected), atol=1e-4, rtol=0)
    assert torch.equal(image, kept)
    error = (source_means(found, batch, factor_pair(factor)) - low) * intensities.slope
    assert float(error.abs().max()) < 1e-3
    assert float((found - image).abs().max()) > 0.05


def test_patches_of_other_operators_are_not_projected() -> None:
    """Their point spread function is not known; in a batch each patch is as its own operator says."""
    batch = make_batch(3)
    batch["operator"] = torch.tensor([1, 0, 2])
    image = torch.zeros_like(batch["label"]).requires_grad_()
    found = projected(image, batch)
    assert torch.equal(found[::2], image[::2])
    assert float((found[1] - image[1]).detach().abs().max()) > 0.01
    found.sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


@pytest.mark.parametrize("factor", [2, 3, 4, (1, 4), 96 / 37])
def test_the_student_agrees_with_its_source_and_leaves_the_codec(factor: Factor) -> None:
    objective, batch = StudentObjective(make_generator()), make_batch(2, factor=factor_pair(factor))
    mean, log_scale, sample, _ = objective(batch)
    assert mean.shape == log_scale.shape == sample.shape == (2, 1, 96, 96)
    slope = PatchIntensities(batch["knots"]).slope
    low = PatchIntensities(batch["knots"]).inverse(batch["low"])
    for image in (mean, sample):
        error = (source_means(image, batch, factor_pair(factor)) - low) * slope
        assert float(error.detach().abs().max()) < 1e-3
    (mean.square().mean() + log_scale.mean() + sample.square().mean()).backward()
    generator = objective.generator
    assert all(p.grad is None for p in generator.codec.parameters())
    for part in (generator.denoiser, generator.mean_decoder, generator.sample_decoder):
        assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in part.parameters())


def test_the_student_tells_what_the_projection_took_away() -> None:
    """Images before it: what is left of an offset after it must not be all that training sees."""
    objective, batch = StudentObjective(make_generator()), make_batch(2)
    found = objective(batch)
    assert found.unprojected is not None
    assert found.unprojected.shape == (2, 2, 96, 96)
    for n, image in enumerate((found.mean, found.sample)):
        torch.testing.assert_close(projected(found.unprojected[:, n : n + 1], batch), image)
    terms = GeneratorLoss()(found, batch["label"], (2.0, 2.0))
    (gradient,) = torch.autograd.grad(terms["offset_loss"], objective.generator.mean_decoder.last.bias)
    assert bool(gradient[0] != 0)


def test_the_student_draws_its_noise_each_time_and_the_mean_has_none() -> None:
    objective, batch = StudentObjective(make_generator()), make_batch()
    with torch.no_grad():
        first, second = objective(batch), objective(batch)
        torch.manual_seed(5)
        one = objective(batch)
        torch.manual_seed(5)
        again = objective(batch)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.log_scale, second.log_scale)
    assert not torch.equal(first.sample, second.sample)
    assert torch.equal(one.sample, again.sample)


def test_a_silent_student_gives_the_image_it_got() -> None:
    """No velocity, silent decoders: the mean is the interpolated image held to its source."""
    generator, batch = make_generator(), make_batch(factor=2)
    for part in (generator.denoiser, generator.mean_decoder, generator.sample_decoder):
        for parameter in part.parameters():
            nn.init.zeros_(parameter)
    with torch.no_grad():
        mean, log_scale, sample, _ = StudentObjective(generator, AnchoredFlow(start_noise=0.0))(batch)
        expected = projected(batch["image"], batch)
    torch.testing.assert_close(mean, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(sample, expected, atol=1e-4, rtol=0)
    assert not bool(log_scale.any())


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("as_sample", [False, True])
def test_the_baselines_objective_is_bicubic_held_to_its_source(factor: int, as_sample: bool) -> None:
    generator = SRResNetGenerator(features=8, num_blocks=1)
    batch = make_batch(2, 48, factor)
    found = BaselineObjective(generator, as_sample)(batch)
    assert isinstance(found, PartialPrediction)
    image = found.sample if as_sample else found.mean
    assert [x is None for x in found] == [as_sample, True, not as_sample, True]
    assert image is not None
    torch.testing.assert_close(image, projected(batch["image"], batch))
    (image - batch["label"]).square().mean().backward()
    assert float(generator.tail[-1].weight.grad.abs().sum()) > 0


def step_of(kind: str, critic: bool, **settings: Any) -> AdversarialStep:
    """A step of each stage on small networks."""
    if kind == "student":
        network: nn.Module = StudentObjective(make_generator())
    else:
        network = BaselineObjective(lively_baseline(), as_sample=kind == "srgan")
    torch.manual_seed(0)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    judge = make_critic() if critic else None
    judging = None if judge is None else torch.optim.AdamW(judge.parameters(), lr=2e-3)
    return AdversarialStep(network, GeneratorLoss(), optimizer, judge, judging, bfloat16=False, **settings)


TERMS = {
    "student": {f"{name}_loss" for name in ("mean", "scale", "pixel", "texture", "artifact", "lattice", "offset")},
    "srresnet": {"mean_loss", "lattice_loss"},
    "srgan": {"pixel_loss", "texture_loss", "lattice_loss"},
}


@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize("kind", TERMS)
def test_a_few_iterations_lower_the_losses(kind: str, critic: bool) -> None:
    step, batch = step_of(kind, critic), make_batch(2, 96, 2)
    found = []
    for iteration in range(1, 13):
        torch.manual_seed(7)
        found.append(step(at(iteration), batch))
    judged = critic and kind != "srresnet"
    assert set(found[0]) == TERMS[kind] | ({"adversarial_loss", "critic_loss"} if judged else set())
    assert all(value.ndim == 0 and bool(value.isfinite()) and not value.requires_grad for value in found[0].values())
    name = "texture_loss" if kind == "srgan" else "mean_loss"
    assert float(found[-1][name]) < 0.9 * float(found[0][name])
    if judged:
        assert float(found[-1]["critic_loss"]) < float(found[0]["critic_loss"])


def test_a_srresnet_leaves_a_critic_alone() -> None:
    step = step_of("srresnet", True)
    assert step.critic is not None
    before = {key: value.clone() for key, value in step.critic.state_dict().items()}
    step(at(1), make_batch(2, 96, 2))
    assert all(torch.equal(value, before[key]) for key, value in step.critic.state_dict().items())


def test_neither_learns_from_the_others_loss() -> None:
    """The critic's gradients are those of its own loss; the generator's those of its terms, clipped."""
    step, batch = step_of("srgan", True, adversarial_weight=0.5, critic_warmup=1), make_batch(2, 96, 2)
    critic, generator = step.critic, step.network
    assert critic is not None
    seen: list[bool] = []
    optimize = step.optimizer.step

    def check(*args: Any, **kwargs: Any) -> Any:
        seen.append(all(p.grad is None for p in critic.parameters()))
        assert not any(p.requires_grad for p in critic.parameters())
        return optimize(*args, **kwargs)

    step.optimizer.step = check  # type: ignore[method-assign]
    of_generator = []
    judge = step.critic_optimizer
    assert judge is not None
    rate = judge.step

    def remember(*args: Any, **kwargs: Any) -> Any:
        of_generator.append([None if p.grad is None else p.grad.clone() for p in generator.parameters()])
        return rate(*args, **kwargs)

    judge.step = remember  # type: ignore[method-assign]
    step(at(1), batch)
    assert seen == [True]
    now = [None if p.grad is None else p.grad for p in generator.parameters()]
    assert all((a is None) == (b is None) for a, b in zip(of_generator[0], now, strict=True))
    norm = torch.stack([g.norm() for g in now if g is not None]).norm()
    assert float(norm) <= 1.0 + 1e-4
    assert all(p.grad is not None for p in critic.parameters())


def test_the_critic_weighs_more_while_it_learns_to_judge() -> None:
    """Its weight rises over the warm-up and then stays."""
    batch, found = make_batch(2, 96, 2), {}
    for iteration in (1, 50, 100, 1000):
        torch.manual_seed(0)
        step = step_of("srgan", True, adversarial_weight=0.4, critic_warmup=100)
        torch.manual_seed(0)
        found[iteration] = float(step(at(iteration), batch)["adversarial_loss"])
    assert found[50] == pytest.approx(50 * found[1], rel=1e-4)
    assert found[100] == pytest.approx(100 * found[1], rel=1e-4)
    assert found[1000] == pytest.approx(found[100], rel=1e-6)


def test_the_losses_of_both_are_those_of_least_squares() -> None:
    step, batch = step_of("srgan", True, adversarial_weight=0.3, critic_warmup=1), make_batch(2, 96, 2)
    critic = step.critic
    assert critic is not None
    critic.eval()  # no power iteration in between
    told = describe_degradation(batch["factor"], batch["operator"], batch["noise"])
    with torch.no_grad():
        sample = step.network(batch).sample
        real, fake = (critic(image, batch["image"], told) for image in (batch["label"], sample))
    found = step(at(1), batch)
    assert float(found["adversarial_loss"]) == pytest.approx(0.3 * float((fake - 1).square().mean()), rel=1e-4)
    expected = 0.5 * float((real - 1).square().mean() + fake.square().mean())
    assert float(found["critic_loss"]) == pytest.approx(expected, rel=1e-4)


def test_learning_rates_follow_the_clock_in_every_group() -> None:
    """Scaled group by group; also where they are tensors on the device, which recordings read."""
    for recordable in (False, True):
        parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
        groups = [{"params": [parameters[0]], "lr_scale": 4.0}, {"params": [parameters[1]]}]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        if recordable:
            make_recordable(optimizer, torch.device("cpu"))
        rates = [group["lr"] for group in optimizer.param_groups]
        assert all(isinstance(rate, Tensor) == recordable for rate in rates)
        budget = TimeBudget(optimizer, 100.0, 0.5, warmup=0.1)
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(1.0)})
        budget.attach(engine)
        for used, expected in ((5.0, 0.25), (50.0, 0.25), (75.0, 0.5 * 0.1464466), (99.99, 0.005)):
            budget.load_state_dict({"used_s": used})
            engine.run([1], max_epochs=1)
            found = [float(group["lr"]) for group in optimizer.param_groups]
            assert found == pytest.approx([4 * expected, expected], rel=0.02)
        if recordable:  # the very tensors that a recording has seen
            assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))


def test_a_training_begun_on_a_gpu_goes_on_without_one() -> None:
    """Its checkpoint holds learning rates as tensors and says that they can be recorded, which no CPU can."""
    state = {}
    step, batch = step_of("srgan", True), make_batch(2, 96, 2)
    step(at(1), batch)
    for name, optimizer in (("generator", step.optimizer), ("critic", step.critic_optimizer)):
        assert optimizer is not None
        state[name] = optimizer.state_dict()
        for group in state[name]["param_groups"]:
            group.update(lr=torch.tensor(2e-3), capturable=True)
    other = step_of("srgan", True)
    assert other.critic_optimizer is not None
    other.optimizer.load_state_dict(state["generator"])
    other.critic_optimizer.load_state_dict(state["critic"])
    again = AdversarialStep(
        other.network, other.loss, other.optimizer, other.critic, other.critic_optimizer, bfloat16=False
    )
    assert float(again(at(2), batch)["critic_loss"]) > 0

"""The poster's own method: MONAI's inferer and schedulers on the codec and denoiser of the bundles."""

from __future__ import annotations

import pytest
import torch
from generator_fixtures import make_generator
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler
from torch import Tensor

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks import PlainDiffusion, PlainGenerator, describe_degradation
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.training import NoiseObjective

PREDICTIONS = ("epsilon", "sample", "v_prediction")


def make_scheduler(kind: type[Scheduler] = DDIMScheduler, steps: int = 1000, predicts: str = "epsilon") -> Scheduler:
    betas = {"beta_start": 0.0015, "beta_end": 0.0195}
    return kind(steps, "scaled_linear_beta", prediction_type=predicts, clip_sample=False, **betas)


def make_plain(scheduler: Scheduler | None = None, steps: int = 3, **settings: object) -> PlainDiffusion:
    whole = make_generator()
    generator = PlainGenerator(whole.codec, whole.denoiser)
    return PlainDiffusion(generator, scheduler or make_scheduler(), steps, **settings).eval()  # type: ignore[arg-type]


class KnowsTheOriginal(torch.nn.Module):
    """In place of the U-Net: the velocity of the flow from noise to one latent, which it knows."""

    def __init__(self, goal: Tensor, lacking: Tensor, scheduler: Scheduler, start_noise: float = 0.2) -> None:
        super().__init__()
        self.goal, self.lacking, self.start_noise = goal, lacking[:, None, None], start_noise
        kept = scheduler.alphas_cumprod.view(-1, 1, 1, 1)
        self.times = (1 - kept).sqrt() / (kept.sqrt() * self.lacking * start_noise + (1 - kept).sqrt())
        self.seen: list[int] = []
        self.block_out_channels = (8, 8, 8, 8)

    def forward(self, x: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
        assert class_labels.shape[0] == 1
        state, condition = x.chunk(2, dim=1)
        step = int((1000 * self.times.mean(dim=(1, 2, 3)) - timesteps).abs().argmin())
        self.seen.append(step)
        residual, time = (self.goal - condition) / self.lacking, self.times[step]
        return residual - (state - (1 - time) * residual) / time


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize(
    ("kind", "steps", "last"),
    [(DDIMScheduler, 1000, 0), (DDIMScheduler, 50, 19), (DDIMScheduler, 10, 99), (DDIMScheduler, 4, 249),
     (DDIMScheduler, 3, 333), (DDIMScheduler, 1, 999), (DDPMScheduler, 1000, 0)],
)  # fmt: skip
def test_who_knows_the_noise_arrives_at_the_original(
    kind: type[Scheduler], steps: int, last: int, predicts: str
) -> None:
    scheduler = make_scheduler(kind, predicts=predicts)
    network = make_plain(scheduler, steps, factor=2, margin=0)
    original = torch.rand(1, 1, 64, 64) - 0.5
    codec = network.generator.codec
    codec.residual_std.uniform_(0.1, 2.0)
    unet = KnowsTheOriginal(codec.encode(original), codec.residual_std, scheduler)
    network.generator.denoiser.unet = unet
    found = network(torch.zeros(1, 1, 32, 32), noise=0.0)
    # A step that is no whole part of the schedule ends at its first level of noise, which is not quite none.
    torch.testing.assert_close(found, codec(original), atol=0.3 if steps == 3 else 2e-3, rtol=0)
    assert (len(unet.seen), unet.seen[0], unet.seen[-1]) == (steps, 999, last)


def test_the_network_sees_the_low_resolution_latent_and_how_it_was_degraded() -> None:
    network, seen = make_plain(factor=(2, 3), operator="gaussian", margin=0), []
    network.generator.denoiser.unet.register_forward_pre_hook(
        lambda _, args, named: seen.append((args[0], named["class_labels"])), with_kwargs=True
    )
    low = torch.rand(1, 1, 32, 32)
    assert network(low, noise=2.5).shape == (1, 1, 64, 96)
    state, degradation = seen[0]
    expected = network.generator.codec.encode(upsample_bicubic(low, (2, 3)))
    torch.testing.assert_close(state[:, 16:], expected)
    wanted = describe_degradation(torch.tensor([[2.0, 3.0]]), torch.tensor([1]), torch.tensor([2.5]))
    torch.testing.assert_close(degradation, wanted)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_a_slice_is_the_same_whatever_lies_beside_it(kind: type[Scheduler]) -> None:
    slices, places = torch.rand(3, 1, 20, 27), [0.0, 1.0, 7.0]
    network = make_plain(make_scheduler(kind, 5), 5, seed=3)
    before = torch.random.get_rng_state()
    whole = network(slices, noise=1.0, places_mm=places)
    assert torch.equal(torch.random.get_rng_state(), before)
    alone = network(slices[1:2], noise=1.0, places_mm=places[1:2])
    torch.testing.assert_close(whole[1:2], alone, atol=1e-6, rtol=0)
    other = make_plain(make_scheduler(kind, 5), 5, seed=4)(slices[1:2], noise=1.0, places_mm=places[1:2])
    assert float((other - alone).abs().mean()) > 1e-3


def test_describe_says_what_ran() -> None:
    said = make_plain(make_scheduler(DDPMScheduler, 7), 7, seed=2).describe(noise=1.25)
    assert said["sampler"] == "DDPMScheduler"
    assert (said["num_inference_steps"], said["evaluations_per_slice"], said["seed"]) == (7, 7, 2)
    assert said["noise"] == 1.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1001}, "made for 1000"),
        ({"steps": 0}, "num_inference_steps"),
        ({"factor": 7}, "1 to 6"),
        ({"operator": "sinc"}, "operator"),
        ({"noise": -1.0}, "noise"),
        ({"correlation_mm": 0}, "correlation_mm"),
        ({"scheduler": make_scheduler(DDPMScheduler), "steps": 50}, "DDPM takes all steps"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_plain(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_objective_is_the_noise_of_the_step(predicts: str) -> None:
    """A network that knows the original is right whatever the step and the form in which noise is predicted."""
    scheduler = make_scheduler(predicts=predicts)
    whole = make_generator()
    generator = PlainGenerator(whole.codec, whole.denoiser)
    label = torch.rand(1, 1, 32, 32) - 0.5
    objective = NoiseObjective(generator, scheduler)
    degradation = describe_degradation(torch.full((1, 2), 2.0), torch.zeros(1), torch.zeros(1))
    codec = generator.codec
    codec.residual_std.uniform_(0.1, 2.0)
    generator.denoiser.unet = KnowsTheOriginal(codec.encode(label), codec.residual_std, scheduler)
    for _ in range(5):
        found = objective(0.5 * label, label, degradation)
        torch.testing.assert_close(found["predicted"], found["goal"], atol=2e-3, rtol=0)
    assert len(set(generator.denoiser.unet.seen)) > 1


def test_goals_are_what_monai_says() -> None:
    """The generator's and the schedulers' forms of one state, which is latent and noise in MONAI's own mixture."""
    torch.manual_seed(0)
    whole, label = make_generator(), torch.rand(2, 1, 32, 32)
    generator, steps = PlainGenerator(whole.codec, whole.denoiser), torch.tensor([7, 600])
    degradation = describe_degradation(torch.full((2, 2), 2.0), torch.zeros(2), torch.zeros(2))
    for predicts in PREDICTIONS:
        scheduler = make_scheduler(predicts=predicts)
        torch.manual_seed(1)
        _, goal = generator.predict(scheduler, label, label, degradation, steps)
        torch.manual_seed(1)
        latent = generator.codec.encode(label)
        noise = torch.randn_like(latent)
        velocity = scheduler.get_velocity(latent, noise, steps)
        expected = {"epsilon": noise, "sample": latent, "v_prediction": velocity}[predicts]
        torch.testing.assert_close(goal, expected, atol=1e-4, rtol=0)


def test_a_state_without_noise_is_the_latent_whatever_the_network_says() -> None:
    scheduler, whole = make_scheduler(predicts="sample"), make_generator()
    scheduler.alphas_cumprod = torch.ones(1000)
    generator = PlainGenerator(whole.codec, whole.denoiser)
    label = torch.rand(1, 1, 32, 32)
    degradation = describe_degradation(torch.full((1, 2), 2.0), torch.zeros(1), torch.zeros(1))
    predicted, goal = generator.predict(scheduler, label, 0.3 * label, degradation, torch.tensor([5]))
    torch.testing.assert_close(predicted, goal, atol=1e-5, rtol=1e-5)

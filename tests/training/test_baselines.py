"""SRResNet's and SRGAN's generator, the critic, and the log of a training."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from generator_fixtures import described, make_critic
from ignite.engine import Engine
from monai.bundle import ConfigParser
from places import BUNDLES
from torch import nn

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.networks import SRResNetGenerator, load_weights, save_weights, upsample_bicubic
from monai_ldmsr.training import TimeBudget


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


def test_the_critic_judges_an_image_beside_what_it_was_made_of() -> None:
    network, image, condition = make_critic(), torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    verdict = network.eval()(image, condition, described())
    assert torch.equal(network(image, condition, described()), verdict)
    assert not torch.equal(network(image.flip(-1), condition, described()), verdict)
    assert not torch.equal(network(image, condition.flip(-1), described()), verdict)
    for other in (described(noise=3.0), described(factor=(2, 4)), described(operator="kspace")):
        assert not torch.equal(network(image, condition, other), verdict)
    assert not torch.equal(
        network(image, condition, described(factor=(2, 4))), network(image, condition, described(factor=(4, 2)))
    )
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
            network(image, condition, described(3))
        inner = [m for m in network.modules() if isinstance(m, nn.Conv2d) and hasattr(m, "parametrizations")]
        assert all(float(torch.linalg.svdvals(m.weight.flatten(1))[0]) == pytest.approx(1, abs=0.03) for m in inner)
        network.eval()
        told = torch.cat([described(noise=noise) for noise in (0.0, 5.0, 9.0)])
        alone = network(image[1:2], condition[1:2], told[1:2])
        torch.testing.assert_close(network(image, condition, told)[1:2], alone)


def test_the_critic_sees_how_strong_texture_is() -> None:
    network, condition = make_critic().eval(), torch.zeros(1, 1, 32, 32)
    texture = 0.1 * torch.randn(1, 1, 32, 32)
    weak, strong = (network(gain * texture, condition, described()) for gain in (1.0, 3.0))
    silent = network(0 * texture, condition, described())
    assert float((strong - silent).detach().abs().mean()) > 1.5 * float((weak - silent).detach().abs().mean())


def test_a_critic_learns_to_tell_blur() -> None:
    torch.manual_seed(0)
    network, told = make_critic(), described(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        condition = torch.zeros(8, 1, 32, 32)
        real = 0.2 * torch.randn(8, 1, 32, 32)
        fake = nn.functional.avg_pool2d(real, 3, stride=1, padding=1)
        verdicts = [network(image, condition, told) for image in (real, fake)]
        value = (verdicts[0] - 1).square().mean() + verdicts[1].square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_the_log_names_every_loss_and_goes_on_from_the_used_time(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    output = {"mean_loss": torch.tensor(2.0), "critic_loss": torch.tensor(3.0), "reals": torch.zeros(3)}
    path, state = tmp_path / "new" / "log.csv", {"used_s": 0.0}
    for used in (10.0, 30.0):
        budget = TimeBudget(optimizer, 60, 0.5, log_s=0, log_file=path)
        budget.load_state_dict({"used_s": state["used_s"] + used})
        engine = Engine(lambda engine, batch: output)
        budget.attach(engine)
        engine.run([1, 2, 3], max_epochs=1)
        state = budget.state_dict()
    with path.open() as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["step", "used_s", "learning_rate", "mean_loss", "critic_loss"]
    assert [line["step"] for line in lines] == ["1", "2", "3"] * 2, "from the first iteration on"
    assert [float(line["used_s"]) for line in lines] == pytest.approx([10] * 3 + [40] * 3, abs=1)
    rates = [float(line["learning_rate"]) for line in lines]
    assert 0.5 > rates[0] > rates[-1] > 0
    assert [float(line["critic_loss"]) for line in lines] == [3] * 6


def test_the_log_goes_on_after_a_kill(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    for _ in range(2):
        budget = TimeBudget(optimizer, 60, 0.5, log_s=0, log_file=tmp_path / "log.csv")
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(float(batch)), "pred": torch.zeros(3)})
        budget.attach(engine)
        engine.run([1, 3, 5, 7], max_epochs=1)
    with (tmp_path / "log.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["loss"]) for line in lines] == [1, 3, 5, 7] * 2
    assert list(lines[0]) == ["step", "used_s", "learning_rate", "loss"]

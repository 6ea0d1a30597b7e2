"""A larger denoiser goes on where a smaller one stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks import CLASSES, FACTORS, ConditionalUNet, grow_denoiser, load_grown_weights, save_weights


def make(blocks: tuple[int, ...] = (1, 1, 1), classes: int = CLASSES, channels: tuple[int, ...] = (8, 12, 16)):
    return ConditionalUNet(
        DiffusionModelUNet(
            2, 8, 4, num_res_blocks=blocks, channels=channels, attention_levels=(False,) * len(blocks),
            norm_num_groups=4, num_head_channels=4, num_class_embeds=classes, include_fc=False,
        )
    ).eval()  # fmt: skip


def shaken(network: ConditionalUNet) -> ConditionalUNet:
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def given() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(2)
    return torch.randn(3, 4, 16, 8), torch.randn(3, 4, 16, 8), torch.tensor([1000.0, 500.0, 10.0])


@pytest.mark.parametrize("blocks", [(1, 1, 1), (3, 1, 1), (4, 2, 1), (2, 2, 3)])
def test_a_grown_network_computes_the_same_and_can_learn(blocks: tuple[int, ...]) -> None:
    small, large = shaken(make()), make(blocks)
    grow_denoiser(large, small.state_dict())
    factor, operator = torch.tensor([2, 3, 4]), torch.tensor([0, 1, 2])
    result = large(*given(), factor, operator)
    torch.testing.assert_close(result, small(*given(), factor, operator), atol=1e-4, rtol=1e-4)
    result.square().sum().backward()
    added = {
        name: parameter.grad
        for name, parameter in large.named_parameters()
        if name not in small.state_dict() and ".conv2." in name
    }
    assert all(float(grad.abs().sum()) > 0 for grad in added.values())


def test_growing_from_two_blocks_a_level_keeps_their_order() -> None:
    small, large = shaken(make((2, 2, 1))), make((4, 3, 2))
    grow_denoiser(large, small.state_dict())
    classes = torch.tensor([2, 3, 4]), torch.tensor([0, 0, 0])
    torch.testing.assert_close(large(*given(), *classes), small(*given(), *classes), atol=1e-3, rtol=1e-3)


def test_every_operator_starts_as_the_only_one_there_was() -> None:
    small, large = shaken(make(classes=len(FACTORS))), make((2, 1, 1))
    grow_denoiser(large, small.state_dict())
    factor, first = torch.tensor([2, 3, 4]), torch.zeros(3)
    expected = small(*given(), factor, first)
    for operator in range(CLASSES // len(FACTORS)):
        result = large(*given(), factor, first + operator)
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(large(*given(), factor.flip(0), first), expected, atol=1e-3), "factors are told apart"


def test_another_network_is_refused(tmp_path: Path) -> None:
    small = make((2, 1, 1))
    for other in (make(), make((2, 1, 1), channels=(8, 12, 20)), make((2, 1), channels=(8, 12))):
        with pytest.raises(WeightsError, match="fewer residual blocks"):
            grow_denoiser(other, small.state_dict())
    save_weights(small, tmp_path / "small.pt")
    large = make((3, 1, 1))
    before = {name: value.clone() for name, value in large.state_dict().items()}
    load_grown_weights(large, None)
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())
    load_grown_weights(large, tmp_path / "small.pt")
    assert torch.equal(large.state_dict()["unet.conv_in.conv.weight"], small.state_dict()["unet.conv_in.conv.weight"])
    with pytest.raises(WeightsError, match="does not exist"):
        load_grown_weights(large, tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="no plain state dictionary"):
        load_grown_weights(large, tmp_path / "junk.pt")

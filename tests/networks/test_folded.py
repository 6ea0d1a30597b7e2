"""Folded convolutions give what they stand for."""

from __future__ import annotations

import pytest
import torch
from generator_fixtures import make_generator
from monai.networks.blocks import Upsample
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch import nn
from torch.nn import functional

from monai_ldmsr.networks import PixelDecoder
from monai_ldmsr.networks.folded import FoldedUpsample, fold_upsampling, shuffled_kernel


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 5, 8)])
def test_upsampling_and_convolution_are_one(shape: tuple[int, ...]) -> None:
    """At the borders, too, and for each of the four phases."""
    layer, image = nn.Conv2d(3, 4, 3, padding=1).double(), torch.rand(shape, dtype=torch.float64)
    plain = layer(functional.interpolate(image, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(FoldedUpsample(nn.Sequential(layer))(image), plain, atol=1e-12, rtol=0)
    turned = FoldedUpsample(nn.Sequential(layer))(image.transpose(-1, -2)).transpose(-1, -2)
    assert not torch.allclose(turned, plain), "rows are taken for columns"


def test_gradients_of_the_folded_layer_are_those_of_the_plain_one() -> None:
    layer, image = nn.Conv2d(2, 2, 3, padding=1).double(), torch.rand(1, 2, 4, 6, dtype=torch.float64)
    (layer(functional.interpolate(image, scale_factor=2)) ** 2).sum().backward()
    plain = layer.weight.grad.clone()
    layer.zero_grad()
    (FoldedUpsample(nn.Sequential(layer))(image) ** 2).sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain)


@pytest.mark.parametrize(("size", "fold"), [(3, 2), (5, 2), (5, 3), (7, 4), (1, 2)])
def test_a_kernel_on_shuffled_pixels_does_what_it_does_on_whole_ones(size: int, fold: int) -> None:
    weight = torch.rand(2, 3, size, size, dtype=torch.float64)
    image = torch.rand(1, 3, 4 * fold, 5 * fold, dtype=torch.float64)
    kernel = shuffled_kernel(weight, fold)
    coarse = functional.conv2d(functional.pixel_unshuffle(image, fold), kernel, padding=kernel.shape[-1] // 2)
    plain = functional.conv2d(image, weight, padding=size // 2)
    torch.testing.assert_close(functional.pixel_shuffle(coarse, fold), plain, atol=1e-12, rtol=0)


def test_monai_networks_keep_their_parameters_and_what_they_do() -> None:
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        2, 4, 4, num_res_blocks=1, channels=(8, 8), attention_levels=(False,) * 2, norm_num_groups=4,
        num_head_channels=4, include_fc=False,
    ).eval()  # fmt: skip
    codec = AutoencoderKL(
        2, 1, 1, num_res_blocks=1, channels=(8, 8), attention_levels=(False,) * 2, latent_channels=2,
        norm_num_groups=4, include_fc=False,
    ).eval()  # fmt: skip
    for parameter in (*unet.parameters(), *codec.parameters()):
        nn.init.normal_(parameter, std=0.2)
    state, image = torch.rand(1, 4, 8, 12), torch.rand(1, 1, 16, 24)
    calls = (lambda: unet(state, torch.tensor([500.0])), lambda: codec.decode(codec.encode(image)[0]))
    with torch.no_grad():
        for network, call in zip((unet, codec), calls, strict=True):
            before, names = call(), list(network.state_dict())
            fold_upsampling(network)
            assert not [part for part in network.modules() if isinstance(part, Upsample)]
            assert list(network.state_dict()) == names
            torch.testing.assert_close(call(), before, atol=1e-4, rtol=1e-4)


def test_other_upsamplings_stay() -> None:
    for block in (
        Upsample(2, 3, 3, mode="deconv"),
        Upsample(2, 3, 3, mode="nontrainable", interp_mode="linear", post_conv=nn.Conv2d(3, 3, 3, padding=1)),
        Upsample(2, 3, 3, scale_factor=3, mode="nontrainable", interp_mode="nearest", align_corners=None, pre_conv=None,
                 post_conv=nn.Conv2d(3, 3, 3, padding=1)),
        Upsample(2, 3, 3, mode="nontrainable", interp_mode="nearest", align_corners=None, pre_conv=None),
    ):  # fmt: skip
        network = nn.Sequential(block)
        fold_upsampling(network)
        assert network[0] is block


def test_last_layers_of_the_decoder_are_those_of_whole_pixels() -> None:
    torch.manual_seed(0)
    decoder = PixelDecoder(8, 1, out_channels=2, noise=True).double()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    seen: dict[str, torch.Tensor] = {}
    decoder.up.register_forward_hook(lambda *given: seen.update(up=given[2]))
    decoded, image, noise = torch.rand(3, 2, 1, 12, 16, dtype=torch.float64)
    result = decoder(decoded, image, torch.zeros(2, decoder.degradation.in_features, dtype=torch.float64), noise)
    pixels = functional.pixel_shuffle(seen["up"], 2) + decoder.noise_last(noise)
    added = decoder.last(functional.silu(pixels))
    torch.testing.assert_close(result, torch.cat([decoded + added[:, :1], added[:, 1:]], dim=1), atol=1e-12, rtol=0)


def test_a_generator_has_none_left() -> None:
    generator = make_generator()
    assert not [part for part in generator.modules() if isinstance(part, Upsample)]

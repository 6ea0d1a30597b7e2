"""The ways to a super-resolved slice whose speed is compared, each as one call.

MONAI's tutorial networks are those of "2d_stable_diffusion_v2_super_resolution" (Project-MONAI/GenerativeModels,
tutorials/generative/2d_super_resolution/2d_stable_diffusion_v2_super_resolution.py, commit 574444d0): an
``AutoencoderKL`` of channels (256, 512, 512), 3 latent channels, 2 residual blocks, attention at the last level, and a
``DiffusionModelUNet`` of channels (256, 256, 512, 1024), 2 residual blocks, attention at the last two levels with 64
channels a head, 4 channels in (latent and low-resolution image) and 3 out; it is sampled by DDPM in 1000 steps and then
decoded. The same arguments are given to MONAI's own classes, where ``num_channels`` is called ``channels``. Its latent
has a quarter of the result's sides, so that the factor is 4. Weights are random: they change no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler
from torch import Tensor, nn

from benchmarks.machine import ROOT
from monai_ldmsr.bundle_config import open_workflow
from monai_ldmsr.networks import PlainDiffusion, PlainGenerator, SuperResolver, upsample_bicubic

__all__ = ["DDPM_STEPS", "FACTOR", "PUBLISHED_STEPS", "Row", "made_slice", "rows"]

FACTOR = 4

#: Steps that are measured of the plain diffusion, and those that DDPM was published with.
DDPM_STEPS, PUBLISHED_STEPS = 50, 1000

#: Noise of the made slice in grey levels of 255; a run measures it once a volume.
_NOISE = 2.0

Call = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Row:
    """One way.

    Args:
        key: name in the JSON file.
        name: name for people.
        call: makes of a device the call on (1, 1, h, w), and how many weights it has.
        note: what a reader must know of it.
        is_whole: whether the call makes a result of a slice, and not a part of one.
    """

    key: str
    name: str
    call: Callable[[str], tuple[Call, int]]
    note: str = ""
    is_whole: bool = True


def made_slice(size: int) -> Tensor:
    """A slice (1, 1, size, size) in model range: a body, fine structure and noise."""
    at = torch.linspace(-1, 1, size)
    radius = torch.hypot(at[:, None], 1.2 * at[None])
    body = torch.sigmoid(20 * (0.8 - radius)) * (1.2 + 0.3 * torch.sin(40 * at[:, None]) * torch.cos(25 * at[None]))
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    return (body - 1 + 2 * _NOISE / 255 * noise)[None, None]


def rows() -> Iterator[Row]:
    """All rows, the two that others are compared with first."""
    yield Row("bicubic", "bicubic interpolation", lambda _: (lambda image: upsample_bicubic(image, FACTOR), 0))
    yield Row("srgan", "SRGAN (`srgan_sr`)", _srgan)
    yield Row("mean", "ours, the mean with its error (dial 0, the default of CT and PET)", _ours("CT"))
    yield Row("dial", "ours, mean and sample (dial 0.5, the default of MR)", _ours("MR"))
    yield Row("codec", "plain DDPM: encode and decode alone", _codec, is_whole=False)
    yield Row(
        "ddpm50",
        f"plain DDPM from pure noise, {DDPM_STEPS} steps",
        _ddpm,
        "same codec and denoiser as ours, the decoders of mean and sample left out",
    )
    yield Row("monai_encode", "MONAI tutorial: encode", _tutorial_encode, "not needed for a result", is_whole=False)
    yield Row("monai_step", "MONAI tutorial: one step of the U-Net", _tutorial_step, is_whole=False)
    yield Row("monai_decode", "MONAI tutorial: decode", _tutorial_decode, is_whole=False)


def _bundle(name: str, device: str) -> nn.Module:
    workflow = open_workflow(
        ROOT / "bundles" / name,
        workflow_type="infer",
        factor=FACTOR,
        device=device,
        # Neither is used; they must be there.
        output_dir=Path("output"),
        dataset_dir=None,
    )
    workflow.parser.get_parsed_content("loaded_sha256")
    network: nn.Module = workflow.network_def
    return network.to(device).eval()


def _ours(modality: str) -> Callable[[str], tuple[Call, int]]:
    def made(device: str) -> tuple[Call, int]:
        network = _ours_on(device)
        return lambda image: network.estimates(image, modality, _NOISE, places_mm=[0.0]), _weights(network.generator)

    return made


def _ours_on(device: str) -> SuperResolver:
    network = _bundle("ldm_sr", device)
    assert isinstance(network, SuperResolver)
    return network


def _srgan(device: str) -> tuple[Call, int]:
    network = _bundle("srgan_sr", device)
    return network, _weights(network)


def _codec(device: str) -> tuple[Call, int]:
    codec = _ours_on(device).generator.codec
    return lambda image: codec(upsample_bicubic(image, FACTOR)), _weights(codec)


def _ddpm(device: str) -> tuple[Call, int]:
    ours = _ours_on(device).generator
    scheduler = DDIMScheduler(PUBLISHED_STEPS, clip_sample=False)
    network = PlainDiffusion(PlainGenerator(ours.codec, ours.denoiser), scheduler, DDPM_STEPS, factor=FACTOR).eval()
    return lambda image: network(image, noise=_NOISE), _weights(network)


def _tutorial_autoencoder(device: str) -> AutoencoderKL:
    network = AutoencoderKL(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(256, 512, 512),
        latent_channels=3,
        num_res_blocks=2,
        norm_num_groups=32,
        attention_levels=(False, False, True),
    )
    return network.to(device).eval()


def _tutorial_unet(device: str) -> DiffusionModelUNet:
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=4,
        out_channels=3,
        num_res_blocks=2,
        channels=(256, 256, 512, 1024),
        attention_levels=(False, False, True, True),
        num_head_channels=(0, 0, 64, 64),
    )
    return network.to(device).eval()


def _tutorial_encode(device: str) -> tuple[Call, int]:
    network = _tutorial_autoencoder(device)
    return lambda image: network.encode_stage_2_inputs(upsample_bicubic(image, FACTOR)), _weights(network)


def _tutorial_step(device: str) -> tuple[Call, int]:
    network = _tutorial_unet(device)

    def step(image: Tensor) -> Tensor:
        latent = torch.zeros(1, 3, *image.shape[-2:], device=device)
        time = torch.full((1,), 500.0, device=device)
        return network(x=torch.cat([latent, image], dim=1), timesteps=time)

    return step, _weights(network)


def _tutorial_decode(device: str) -> tuple[Call, int]:
    network = _tutorial_autoencoder(device)
    return lambda image: network.decode_stage_2_outputs(image.repeat(1, 3, 1, 1)), _weights(network)


def _weights(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())

"""Small random networks, and batches as training draws them."""

from __future__ import annotations

import torch
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, PatchDiscriminator
from torch import Tensor, nn

from monai_ldmsr.degradation import DegradationOperator, Factor, factor_pair, repeat_blocks
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks import (
    CONDITIONS,
    ConditionalCritic,
    ConditionalUNet,
    LatentCodec,
    LatentGenerator,
    PixelDecoder,
    SuperResolver,
    describe_degradation,
    upsample_bicubic,
)
from monai_ldmsr.operators import operator_place
from monai_ldmsr.samplers import AnchoredFlow
from monai_ldmsr.training.intensities import knots_of
from monai_ldmsr.transforms.intensity import CT_KNOTS_HU, IntensityMap

CT = IntensityMap(*zip(*CT_KNOTS_HU, strict=True))
MR = IntensityMap((0.0, 800.0), (-1.0, 1.0))


def make_codec() -> LatentCodec:
    autoencoder = AutoencoderKL(
        2, 4, 4, num_res_blocks=1, channels=(8, 8), attention_levels=(False, False), latent_channels=16,
        norm_num_groups=4, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False, include_fc=False,
    )  # fmt: skip
    return LatentCodec(autoencoder)


def make_generator(lively: bool = True) -> LatentGenerator:
    """Networks whose parts all do something, or (not ``lively``) as they are before training."""
    torch.manual_seed(0)
    unet = DiffusionModelUNet(
        2, 32, 16, num_res_blocks=1, channels=(8, 8, 8, 8), attention_levels=(False,) * 4, norm_num_groups=4,
        num_head_channels=4, num_class_embeds=1, include_fc=False,
    )  # fmt: skip
    denoiser = ConditionalUNet(unet)
    codec = make_codec()
    codec.set_statistics(torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16), torch.full((16,), 0.3))
    decoders = PixelDecoder(8, 1, out_channels=2), PixelDecoder(8, 1, noise=True)
    if lively:
        for parameter in denoiser.parameters():
            nn.init.normal_(parameter, std=0.05)
        for parameter in unet.class_embedding.parameters():
            nn.init.normal_(parameter, std=0.5)
        for decoder in decoders:
            for parameter in decoder.parameters():
                nn.init.normal_(parameter, std=0.1)
    return LatentGenerator(codec, denoiser, *decoders)


def make_resolver(start_noise: float = 0.2, num_inference_steps: int = 2, **settings: object) -> SuperResolver:
    sampler = AnchoredFlow(num_inference_steps, start_noise)
    return SuperResolver(make_generator(), sampler, **settings).eval()  # type: ignore[arg-type]


def make_critic() -> ConditionalCritic:
    return ConditionalCritic(PatchDiscriminator(2, 8, 2 + CONDITIONS, num_layers_d=2, norm=None))


def described(count: int = 1, factor: Factor = 2, operator: str = "area", noise: float = 0.0) -> Tensor:
    factors = torch.tensor([factor_pair(factor)], dtype=torch.float32).expand(count, 2)
    return describe_degradation(factors, torch.full((count,), operator_place(operator)), torch.full((count,), noise))


def make_batch(
    count: int = 2, size: int = 96, factor: Factor = 4, operator: str = "area", noise: float = 0.0, seed: int = 0
) -> dict[str, Tensor]:
    """A batch as ``RandomPatches`` draws it: smooth structure and grain, CT and MR in turns."""
    random = torch.Generator().manual_seed(seed)
    maps = [(CT, MR)[n % 2] for n in range(count)]
    coarse = torch.randn((count, 1, size // 8, size // 8), generator=random)
    level = 0.3 * nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    level = level + 0.05 * torch.randn(level.shape, generator=random)
    high = torch.stack([intensity.inverse(x) for intensity, x in zip(maps, level, strict=True)])
    factors = factor_pair(factor)
    degrade = DegradationOperator(operator, factors)
    low = torch.stack([intensity.forward(x) for intensity, x in zip(maps, degrade(high), strict=True)])
    return {
        "image": upsample_bicubic(low, factors),
        "low": low,
        "label": level,
        "factor": torch.tensor([factors], dtype=torch.float32).expand(count, 2),
        "operator": torch.full((count,), operator_place(operator)),
        "noise": torch.full((count,), noise),
        "knots": knots_of(maps),
    }


class Nearest(nn.Module):
    """Blocks, with something added in model range."""

    def __init__(self, factor: int, added: float = 0.0) -> None:
        super().__init__()
        self.factors = Factors.of(factor)
        self.added = added

    def forward(self, slices: Tensor, modality: str | None = None, noise: float | None = None) -> Tensor:
        return repeat_blocks(slices, self.factors.in_plane) + self.added

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, object]:
        return {"added": self.added}

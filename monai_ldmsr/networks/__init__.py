"""The networks: a latent codec, a conditional denoiser, and both together as a super-resolver."""

from __future__ import annotations

from monai_ldmsr.networks.conditional_unet import CONDITIONS, ConditionalUNet, describe_degradation
from monai_ldmsr.networks.critic import ConditionalCritic
from monai_ldmsr.networks.generative_weights import ImportedNetwork, import_generative, load_into_generative
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.networks.interface import SliceNetwork
from monai_ldmsr.networks.latent_codec import LatentCodec
from monai_ldmsr.networks.latent_generator import LatentGenerator, Prediction
from monai_ldmsr.networks.pixel_decoder import PixelDecoder
from monai_ldmsr.networks.plain_diffusion import PlainDiffusion, PlainGenerator
from monai_ldmsr.networks.plane_mean import PlaneMean, load_plane_mean
from monai_ldmsr.networks.pure_networks import CodecDecoder, CodecEncoder, PureResolver
from monai_ldmsr.networks.slice_noise import SliceNoise
from monai_ldmsr.networks.sr_resnet import SRResNetGenerator
from monai_ldmsr.networks.super_resolver import SuperResolver
from monai_ldmsr.networks.weights import load_initial_weights, load_weights, save_weights

__all__ = [
    "CONDITIONS",
    "CodecDecoder",
    "CodecEncoder",
    "ConditionalCritic",
    "ConditionalUNet",
    "ImportedNetwork",
    "LatentCodec",
    "LatentGenerator",
    "PixelDecoder",
    "PlainDiffusion",
    "PlainGenerator",
    "PlaneMean",
    "Prediction",
    "PureResolver",
    "SRResNetGenerator",
    "SliceNetwork",
    "SliceNoise",
    "SuperResolver",
    "describe_degradation",
    "import_generative",
    "load_initial_weights",
    "load_into_generative",
    "load_plane_mean",
    "load_weights",
    "save_weights",
    "upsample_bicubic",
]

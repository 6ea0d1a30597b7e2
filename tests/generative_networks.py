"""Small networks of the package ``generative``, as someone may have trained them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

needs_generative = pytest.mark.skipif(
    find_spec("generative") is None, reason="needs the extra: pip install monai_ldmsr[generative]"
)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more, and wait for them where others work too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


_CODEC = {
    "_target_": "generative.networks.nets.AutoencoderKL",
    "spatial_dims": 2,
    "in_channels": 2,
    "num_channels": [8, 16],
    "num_res_blocks": 1,
    "attention_levels": [False, True],
    "norm_num_groups": 4,
}
_LEVELS_ALONE = dict.fromkeys(("with_encoder_nonlocal_attn", "with_decoder_nonlocal_attn"), False)
_PLAIN_CODEC = {
    **_CODEC,
    "num_res_blocks": [2, 1],
    "attention_levels": [False, False],
    **_LEVELS_ALONE,
}
_UNET = {
    "_target_": "generative.networks.nets.DiffusionModelUNet",
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 3,
    "num_channels": [8, 16],
    "num_res_blocks": 1,
    "attention_levels": [False, True],
    "num_head_channels": 4,
    "norm_num_groups": 4,
}
_CONDITIONED = {**_UNET, "with_conditioning": True, "cross_attention_dim": 5}
_VQVAE = {
    "_target_": "generative.networks.nets.VQVAE",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "num_channels": [8, 12],
    "num_res_channels": [6, 8],
    "num_res_layers": 1,
    "downsample_parameters": [[2, 4, 1, 1], [2, 4, 1, 1]],
    "upsample_parameters": [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]],
    "num_embeddings": 16,
    "embedding_dim": 4,
}
_CRITIC = {
    "_target_": "generative.networks.nets.PatchDiscriminator",
    "spatial_dims": 2,
    "num_channels": 6,
    "in_channels": 1,
    "num_layers_d": 2,
}

#: Networks of ``generative`` by what is special about them.
CASES: dict[str, dict[str, Any]] = {
    "codec": _CODEC,
    "codec 3D": {**_CODEC, "spatial_dims": 3, "use_checkpointing": True, "norm_eps": 1e-5},
    "codec without attention": _PLAIN_CODEC,
    "codec without attention 3D": {**_PLAIN_CODEC, "spatial_dims": 3},
    "codec with attention in its levels alone": {**_CODEC, **_LEVELS_ALONE},
    "unet": _UNET,
    "unet 3D": {**_UNET, "spatial_dims": 3, "num_head_channels": [0, 8]},
    "unet resampling by residual blocks": {**_UNET, "resblock_updown": True, "num_res_blocks": [1, 2]},
    "unet of classes": {**_UNET, "num_class_embeds": 7, "attention_levels": [False, False]},
    "unet with flash attention": {**_UNET, "use_flash_attention": True},
    "unet with context": {**_CONDITIONED, "transformer_num_layers": 2, "dropout_cattn": 0.2},
    "unet with context and classes 3D": {**_CONDITIONED, "spatial_dims": 3, "num_class_embeds": 2},
    "unet with context in single precision": {**_CONDITIONED, "upcast_attention": True},
    "unet with context and odd heads": {**_CONDITIONED, "num_head_channels": 3},
    "vqvae": _VQVAE,
    "vqvae 3D": {
        **_VQVAE,
        "spatial_dims": 3,
        "downsample_parameters": [2, 4, 1, 1],
        "upsample_parameters": [2, 4, 1, 1, 0],
        "act": ["LEAKYRELU", {"negative_slope": 0.3}],
        "dropout": 0.1,
        "output_act": "tanh",
    },
    "critic": _CRITIC,
    "critic 3D": {**_CRITIC, "spatial_dims": 3, "num_layers_d": 1, "norm": "INSTANCE", "bias": True},
    "critic with another kernel": {**_CRITIC, "kernel_size": 3, "last_conv_kernel_size": 1, "out_channels": 2},
}


def trained(network: dict[str, Any], seed: int = 0) -> nn.Module:
    """The network with weights that are neither zero nor one nor alike, as after training."""
    arguments = {key: value for key, value in network.items() if key not in ("_target_", "use_flash_attention")}
    module, _, name = network["_target_"].rpartition(".")
    torch.manual_seed(seed)
    built = getattr(import_module(module), name)(**arguments)
    for key, value in built.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.ndim > 1:
            value.normal_(std=1 / math.sqrt(value[0].numel()))
        elif value.is_floating_point():
            value.normal_(1.0 if key.endswith("weight") else 0.0, 0.3)
    return built.eval()


def save_checkpoint(network: dict[str, Any], path: Path, content: Callable[[dict[str, Tensor]], object] = dict) -> Path:
    """Write the network's tensors as a training may have left them: bare, or as ``content`` arranges them."""
    torch.save(content(trained(network).state_dict()), path)
    return path

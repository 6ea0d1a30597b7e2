"""Whether two networks compute the same: both on random input, all outputs compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_ldmsr.errors import WeightsError

__all__ = ["TOLERANCES", "draw_weights", "output_differences", "precision_of"]

#: Largest difference of an output relative to its largest value, by precision; rounding gave 5e-15 and 8e-7.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}

_SEED = 0

#: Sides of the random input in units of what the network reduces an axis to: unlike each other, so that axes count.
_SIDES = {"PatchDiscriminator": (4, 5, 6)}
_USUAL_SIDES = (2, 3, 1)

#: An unusual stride or kernel may need more than that.
_GROWTH = (1, 2, 4)


def output_differences(
    original: nn.Module, converted: nn.Module, name: str, arguments: Mapping[str, Any]
) -> dict[str, float]:
    """Run both networks on the same random input in evaluation mode, and compare every output.

    Args:
        original: of ``generative``.
        converted: of MONAI.
        name: of both classes.
        arguments: of MONAI's class.

    Returns:
        For each output the largest difference, relative to the output's largest value; NaN where one is not finite.

    Raises:
        WeightsError: a network does not run.
    """
    precision = precision_of(name, arguments)
    original.to(precision).eval()
    converted.to(precision).eval()
    run = _RUNS[name]
    with torch.no_grad():
        inputs, expected = _run_on_random_input(original, run, name, arguments)
        try:
            found = run(converted, inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise WeightsError(f"MONAI's {name} does not run on what generative's does ({error}).") from error
    return {output: _difference(expected[output], found.get(output)) for output in expected}


def precision_of(name: str, arguments: Mapping[str, Any]) -> torch.dtype:
    """Double precision, but for what computes in single precision whatever it is given."""
    is_single = name == "VQVAE" or bool(arguments.get("upcast_attention"))
    return torch.float32 if is_single else torch.float64


def draw_weights(network: nn.Module) -> None:
    """Give every parameter and buffer a random value, so that no layer is silent, as zero convolutions are at first."""
    generator = torch.Generator().manual_seed(_SEED)
    for value in network.state_dict().values():
        if value.is_floating_point():
            fan_in = value.numel() // max(len(value), 1) if value.ndim > 1 else 0
            # Biases, scales and variances positive; kernels such that signals keep their size.
            drawn = torch.randn(value.shape, generator=generator) / math.sqrt(max(fan_in, 1))
            value.copy_(drawn if fan_in else torch.rand(value.shape, generator=generator) + 0.5)


def _run_on_random_input(
    network: nn.Module,
    run: Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]],
    name: str,
    arguments: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for growth in _GROWTH:
        inputs = _random_input(name, arguments, growth)
        try:
            return inputs, run(network, inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            failure = error
    shape = tuple(inputs["image"].shape)
    raise WeightsError(
        f"generative's {name} does not run on an input of shape {shape} ({failure}), so nothing can be compared. "
        "Check the arguments."
    ) from failure


def _random_input(name: str, arguments: Mapping[str, Any], growth: int) -> dict[str, Tensor]:
    """Batch of two: ``image`` (2, C, ...), and what a U-Net takes beside it."""
    generator = torch.Generator().manual_seed(_SEED)
    precision = precision_of(name, arguments)
    unit = _reduction(name, arguments) * growth
    sides = [unit * side for side in _SIDES.get(name, _USUAL_SIDES)[: arguments["spatial_dims"]]]
    inputs = {"image": torch.randn((2, arguments["in_channels"], *sides), generator=generator, dtype=precision)}
    if name == "DiffusionModelUNet":
        inputs["timesteps"] = torch.tensor([17, 903])
        if arguments["with_conditioning"]:
            shape = (2, 3, arguments["cross_attention_dim"])
            inputs["context"] = torch.randn(shape, generator=generator, dtype=precision)
        if arguments["num_class_embeds"] is not None:
            inputs["class_labels"] = torch.tensor([0, arguments["num_class_embeds"] - 1])
    return inputs


def _reduction(name: str, arguments: Mapping[str, Any]) -> int:
    if name == "PatchDiscriminator":
        return int(2 ** arguments["num_layers_d"])
    if name == "VQVAE":
        strides = [p if isinstance(p, int) else p[0] for p in arguments["downsample_parameters"]]
        is_shared = isinstance(arguments["downsample_parameters"][0], int)
        return int(strides[0] ** len(arguments["channels"]) if is_shared else math.prod(strides))
    return int(2 ** (len(arguments["channels"]) - 1))


def _run_codec(network: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mean, sigma = network.encode(inputs["image"])
    return {"mean": mean, "sigma": sigma, "decoded": network.decode(mean)}


def _run_unet(network: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    others = {key: value for key, value in inputs.items() if key != "image"}
    return {"output": network(inputs["image"], **others)}


def _run_vqvae(network: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    codes = network.index_quantize(inputs["image"])
    reconstruction, loss = network(inputs["image"])
    return {
        "encoded": network.encode(inputs["image"]),
        "codes": codes,
        "decoded": network.decode_samples(codes),
        "reconstruction": reconstruction,
        "loss": loss,
    }


def _run_discriminator(network: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    *features, logits = network(inputs["image"])
    return {**{f"feature {n}": feature for n, feature in enumerate(features, 1)}, "logits": logits}


_RUNS: dict[str, Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "AutoencoderKL": _run_codec,
    "DiffusionModelUNet": _run_unet,
    "VQVAE": _run_vqvae,
    "PatchDiscriminator": _run_discriminator,
}


def _difference(expected: Tensor, found: Tensor | None) -> float:
    if found is None or found.shape != expected.shape:
        return math.inf
    size = float(expected.double().abs().max())
    return float((expected.double() - found.double()).abs().max()) / (size or 1.0)

"""What of a bundle is exported: modules, what goes in and comes out of each, and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ldmsr.choices import MAX_NOISE, NETWORK_PARTS
from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.networks import (
    CONDITIONS,
    CodecDecoder,
    CodecEncoder,
    PureResolver,
    SliceNetwork,
    SliceNoise,
    SRResNetGenerator,
    SuperResolver,
)

__all__ = ["PARTS", "NetworkPart", "TensorSpec", "network_parts"]

#: Names of the parts, which are those of their files.
PARTS = NETWORK_PARTS

_SLICES = ("batch", 1, "height", "width")
_RESULT = ("batch", 1, "result_height", "result_width")
_LATENT = ("latent_height", "latent_width")
_NUMBERS = f"numbers that describe the degradation, {CONDITIONS} of monai_ldmsr.networks.describe_degradation"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that goes in or comes out; all are float32.

    Args:
        shape: sides by axis; a text names one that any call may choose, or that follows from such, as ``meaning`` says.
        meaning: what it holds.
        multiple: these sides must be multiples of it.
        span: least and greatest value, where those are not about -1 and 1.
    """

    shape: tuple[int | str, ...]
    meaning: str
    multiple: int = 1
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class NetworkPart:
    """A network that is written as a file.

    Args:
        module: function of tensors, in the order of ``inputs``.
        meaning: what it does.
        inputs: tensors by name.
        outputs: likewise.
        example: random inputs for so many slices, rows and columns.
    """

    module: nn.Module
    meaning: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    example: Callable[[int, int, int], tuple[Tensor, ...]]


def network_parts(
    network: SliceNetwork,
    factor: Factor | None = None,
    detail: float | None = None,
    flat_detail: float | None = None,
) -> dict[str, NetworkPart]:
    """All parts that a network has.

    Args:
        network: a bundle's.
        factor: factor of the whole network, see ``PureResolver``; None takes that of the network.
        detail: dial of the whole network, see there.
        flat_detail: share of it in flat places, likewise.

    Raises:
        SettingsError: the network is of another kind, or factor or a dial are outside of what it does.
    """
    if isinstance(network, SRResNetGenerator):
        dials = (detail, flat_detail)
        if dials != (None, None) or Factors.of(network.factors if factor is None else factor) != network.factors:
            raise SettingsError(
                "This network has no dial and no other factors than 2, 3 and 4. Leave --detail and --flat-detail out."
            )
        return {"network": _baseline(network)}
    if not isinstance(network, SuperResolver):
        raise SettingsError(
            f"The bundle's network is {type(network).__name__}. Only SuperResolver and SRResNetGenerator are exported."
        )
    return {"network": _whole(network, PureResolver(network, factor, detail, flat_detail)), **_single_parts(network)}


def _single_parts(network: SuperResolver) -> dict[str, NetworkPart]:
    generator = network.generator
    block, reduction = generator.codec.block, generator.denoiser.reduction
    image = TensorSpec(_SLICES, "slices on the target grid, in model range", block)
    latent = TensorSpec(
        ("batch", block**2, *_LATENT), f"standardized latent; its sides are those of the image divided by {block}"
    )
    # Where the coarsest level is one pixel, its side of 1 is another graph to torch.export.
    state = TensorSpec(latent.shape, f"state of the flow, a residual; sides from {2 * reduction}", reduction)
    condition = TensorSpec(latent.shape, "latent of the slices on the target grid", reduction)
    numbers = TensorSpec(("batch", CONDITIONS), _NUMBERS, span=(0.0, 2.0))
    decoded = TensorSpec(_SLICES, "what the codec decodes, in model range", 2)
    low = TensorSpec(_SLICES, "slices on the target grid, in model range", 2)
    of_mean = TensorSpec(("batch", 2, "height", "width"), "mean, and logarithm of its expected absolute error")
    noise = TensorSpec(_SLICES, "standard normal noise")
    times = TensorSpec(("batch",), "time of the flow, from 1000 (start) to 0 (data)", span=(0.0, 1000.0))
    made = {
        "encoder": (CodecEncoder(generator.codec), "the codec's encoder", {"image": image}, {"latent": latent}),
        "decoder": (CodecDecoder(generator.codec), "the codec's decoder", {"latent": latent}, {"image": image}),
        "denoiser": (
            generator.denoiser,
            "velocity of the latent flow",
            {"state": state, "condition": condition, "timesteps": times, "degradation": numbers},
            {"velocity": state},
        ),
        "mean_decoder": (
            generator.mean_decoder,
            "decoder of the mean",
            {"decoded": decoded, "image": low, "degradation": numbers},
            {"both": of_mean},
        ),
        "sample_decoder": (
            generator.sample_decoder,
            "decoder of a sample",
            {"decoded": decoded, "image": low, "degradation": numbers, "noise": noise},
            {"result": TensorSpec(_SLICES, "sample in model range")},
        ),
    }
    return {name: NetworkPart(*one, _drawn(one[2])) for name, one in made.items()}


def _whole(network: SuperResolver, module: PureResolver) -> NetworkPart:
    block = network.generator.codec.block
    fields = whole_noise(network, module.factors)
    of_noise = "noise of monai_ldmsr.networks.SliceNoise, padded"
    inputs = {
        "slices": TensorSpec(_SLICES, "slices in model range"),
        "noise": TensorSpec(
            ("batch",), "standard deviation of the noise in the slices, in grey levels of 255", span=(0.0, MAX_NOISE)
        ),
    }
    if module.with_sample:
        of_latent = f"{of_noise}; its sides are the padded ones divided by {block}"
        inputs["latent_noise"] = TensorSpec(("batch", block**2, *_LATENT), of_latent)
        inputs["pixel_noise"] = TensorSpec(("batch", 1, "padded_height", "padded_width"), of_noise)
    if module.takes_detail:
        inputs["detail"] = TensorSpec((), "dial from the mean (0: truest) to a sample (1: sharpest)", span=(0.0, 1.0))
    outputs = {
        "result": TensorSpec(_RESULT, "super-resolved slices in model range"),
        "error": TensorSpec(_RESULT, "expected absolute error in model range, before any calibration"),
    }

    def example(count: int, height: int, width: int) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(height)
        given = [0.3 * torch.randn((count, 1, height, width), generator=random), torch.linspace(0, 5, count)]
        if module.with_sample:
            given += fields.draw((height, width), [1.5 * n for n in range(count)])
        return (*given, torch.tensor(0.5)) if module.takes_detail else tuple(given)

    return NetworkPart(module, "the whole network, from slices to finer ones", inputs, outputs, example)


def whole_noise(network: SuperResolver, factors: Factors) -> SliceNoise:
    """What draws the noise that the whole network takes."""
    own = network.fields_of_noise()
    return SliceNoise(factors.in_plane, own.block, own.unit, own.margin, own.seed, own.correlation_mm)


def _baseline(network: SRResNetGenerator) -> NetworkPart:
    slices = {"slices": TensorSpec(_SLICES, "slices in model range")}
    result = {"result": TensorSpec(_RESULT, "super-resolved slices in model range")}
    return NetworkPart(network, "the whole network, from slices to finer ones", slices, result, _drawn(slices))


def _drawn(inputs: Mapping[str, TensorSpec]) -> Callable[[int, int, int], tuple[Tensor, ...]]:
    """Random inputs of a part whose sides are ``multiple`` times what is asked for."""

    def example(count: int, height: int, width: int) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(height)

        def one(spec: TensorSpec) -> Tensor:
            multiple = spec.multiple if spec.multiple > 1 else max(other.multiple for other in inputs.values())
            sides = {"batch": count, "height": multiple * height, "width": multiple * width}
            sides |= {"latent_height": sides["height"], "latent_width": sides["width"]}  # in its own pixels
            shape = [side if isinstance(side, int) else sides[side] for side in spec.shape]
            if spec.span is not None:
                return spec.span[0] + (spec.span[1] - spec.span[0]) * torch.rand(shape, generator=random)
            return 0.3 * torch.randn(shape, generator=random)

        return tuple(one(spec) for spec in inputs.values())

    return example

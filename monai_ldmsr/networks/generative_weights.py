"""Weights between the networks of ``generative`` (MONAI GenerativeModels 0.2.3) and MONAI's, with a proof."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from inspect import signature
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
import yaml
from monai.networks import nets
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from monai_ldmsr.errors import LdmsrError, OutputError, ReasonCode, SettingsError, WeightsError
from monai_ldmsr.networks.weights import MISFITS, load_weights, read_state, write_state
from monai_ldmsr.storage import file_sha256, replaced_files

__all__ = ["ImportedNetwork", "import_generative", "load_into_generative", "monai_arguments", "monai_keys"]

#: Networks of ``generative.networks.nets`` that MONAI has under the same name.
_NETWORKS = ("AutoencoderKL", "DiffusionModelUNet", "PatchDiscriminator", "VQVAE")

#: ``generative``'s attention has this layer, but its forward pass leaves it out; so it has no place in MONAI's.
_UNUSED = ".proj_attn."

#: Patterns of ``generative``'s keys and what MONAI writes; the first that is found counts. MONAI's own
#: ``load_old_state_dict`` knows one direction only, and leaves tensors that it does not find as they were drawn.
_RENAMED = (
    (re.compile(r"(\.transformer_blocks\.\d+\.attn\d)\.to_out\.0\."), r"\1.out_proj."),
    (re.compile(r"^((?!.*\.transformer_blocks\.).+)\.(to_[qkv]\.)"), r"\1.attn.\2"),
    (re.compile(r"(\.upsampler)\.conv\."), r"\1.postconv."),
    (re.compile(r"((?:^|\.)decoder\.blocks\.\d+)\.conv\.conv\."), r"\1.postconv.conv."),
)

_RENAMED_ARGUMENTS = {"num_channels": "channels", "use_checkpointing": "use_checkpoint"}

#: Largest difference of an output relative to its largest value, by precision; rounding gave 5e-15 and 8e-7.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}

_SEED = 0

_TRAINED_WITH = "Give the arguments that the network was trained with."


@dataclass(frozen=True)
class ImportedNetwork:
    """What an import wrote, and what was found equal.

    Args:
        target: MONAI's class, as ``_target_`` of a config.
        arguments: all arguments of that class.
        n_tensors: tensors written.
        n_unused: tensors left out, which ``generative``'s network has but does not use.
        differences: by output, the largest relative difference, with random weights and with these.
        tolerance: what they were held to.
        sha256: digest of the weights file.
    """

    target: str
    arguments: Mapping[str, Any]
    n_tensors: int
    n_unused: int
    differences: Mapping[str, float]
    tolerance: float
    sha256: str


def import_generative(
    source: str | Path,
    destination: str | Path,
    network: Mapping[str, Any],
    *,
    key: str | None = None,
    overwrite: bool = False,
) -> ImportedNetwork:
    """Turn weights of a network of ``generative`` into weights of MONAI's, and prove that both compute the same.

    Writes the weights, and beside them a config of MONAI's network with all its arguments (``.yaml``). The proof is of
    these files as they were written: MONAI's network is built from the config, loads the weights, and runs beside
    ``generative``'s on random input. It does so twice, with random weights first, in which no layer is silent. Only
    when no output differs do the files get their names.

    Args:
        source: file of ``torch.save``: a state dictionary, or with ``key`` a dictionary that holds one. Nothing in it
            is executed.
        destination: weights file to write, as ``.pt``.
        network: ``_target_``, as ``generative.networks.nets.AutoencoderKL``, and the arguments of that class that the
            network was trained with. Also ``DiffusionModelUNet``, ``VQVAE`` and ``PatchDiscriminator``.
        key: where in the checkpoint the state dictionary stands, as ``state_dict`` or ``nets/codec``.
        overwrite: replace files that are there.

    Raises:
        SettingsError: ``generative`` is not installed, or the arguments fit no network of MONAI.
        WeightsError: the checkpoint is not of this network, or outputs differ.
        OutputError: a file is there, or cannot be written.
        LdmsrError: ``OUT_OF_MEMORY``.

    Example:
        >>> codec = {"_target_": "generative.networks.nets.AutoencoderKL", "spatial_dims": 3, "latent_channels": 8}
        >>> import_generative("old.pt", "new.pt", codec).arguments["include_fc"]  # doctest: +SKIP
        False
    """
    weights = Path(destination)
    config = weights.with_suffix(".yaml")
    _check_free(Path(source), weights, config, overwrite)
    original, given = _class_and_arguments(network)
    arguments = monai_arguments(original, given)
    # Flash attention of generative needs a GPU; it has the same weights.
    given.pop("use_flash_attention", None)
    with torch.device("meta"):
        # Shapes alone, so that arguments which do not fit the checkpoint cost no memory.
        shapes = _built(original, given)
    state = _read_network_state(Path(source), shapes, key)
    target = f"monai.networks.nets.{original.__name__}"
    with replaced_files(weights, config) as (new_weights, new_config):
        converted = monai_keys(state)
        write_state(converted, new_weights)
        sha256 = file_sha256(new_weights)
        new_config.write_text(_config_text(weights.name, sha256, target, arguments), encoding="utf-8")
        differences, tolerance = _proven(_built(original, given), state, new_weights, new_config)
    logging.getLogger(__name__).info("saved %s, sha256 %s", weights.name, sha256)
    return ImportedNetwork(
        target, arguments, len(converted), len(state) - len(converted), differences, tolerance, sha256
    )


def load_into_generative(network: nn.Module, path: str | Path, sha256: str | None = None) -> str:
    """:func:`~monai_ldmsr.networks.load_weights` for a network that is built on ``generative``'s classes.

    Args:
        network: holds ``generative``'s networks where the weights were saved with MONAI's.
        path: file of ``save_weights``.
        sha256: the expected hash; not checked when None.

    Returns:
        The file's sha256.

    Raises:
        WeightsError: as there.
    """
    own = network.state_dict()
    theirs = {_monai_key(key): key for key in own if _UNUSED not in key}
    unused = {key: torch.zeros_like(value) for key, value in own.items() if _UNUSED in key}
    return load_weights(network, path, sha256, lambda state: {theirs[key]: state[key] for key in state} | unused)


def monai_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under MONAI's names, without those that ``generative`` has but never uses."""
    return {_monai_key(key): value for key, value in state.items() if _UNUSED not in key}


def _monai_key(key: str) -> str:
    for pattern, written in _RENAMED:
        renamed, found = pattern.subn(written, key)
        if found:
            return renamed
    return key


def monai_arguments(original: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of MONAI's network that computes what ``generative``'s does, all of them, as plain values.

    Args:
        original: the class of ``generative``; its defaults are filled in, so that MONAI's cannot differ.
        arguments: arguments of that class.

    Raises:
        SettingsError: an argument is missing or unknown, or would be executed or looked up by MONAI's config parser.
    """
    try:
        filled = signature(original).bind(**arguments)
    except TypeError as error:
        raise SettingsError(
            f"These are not the arguments of generative's {original.__name__}: {error}. Give those that it was "
            "trained with, under generative's names, such as num_channels."
        ) from error
    filled.apply_defaults()
    known = set(signature(getattr(nets, original.__name__)).parameters)
    names = {key: key if key in known else _RENAMED_ARGUMENTS.get(key, key) for key in filled.arguments}
    renamed = {names[key]: value for key, value in filled.arguments.items()}
    if "include_fc" in known:
        # The output layer of attention: used by generative's transformer blocks, left out by its attention blocks.
        renamed["include_fc"] = bool(filled.arguments.get("with_conditioning", False))
        renamed["use_combined_linear"] = False
    return {key: _plain(value) for key, value in renamed.items()}


def _plain(value: Any) -> Any:
    """Tuples as lists and MONAI's enumerations as text, as YAML knows them, and nothing that MONAI would execute."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    value = value.value if isinstance(value, Enum) else value
    if type(value) not in (bool, int, float, str, type(None)) or str(value).startswith(("$", "@", "%", "_")):
        raise SettingsError(
            f"An argument holds '{value}', which is not a plain value, or one that MONAI would execute or look up when "
            "it reads the config that is written. Write the value itself."
        )
    return value


def _check_free(source: Path, weights: Path, config: Path, overwrite: bool) -> None:
    if weights.suffix in ("", ".yaml"):
        raise SettingsError(f"The weights file to write is '{weights.name}'; give it the extension .pt.")
    if weights.exists() and source.exists() and weights.samefile(source):
        raise SettingsError("The weights file to write is the checkpoint itself. Choose another name.")
    for path in (weights, config):
        if path.exists() and not overwrite:
            raise OutputError(f"'{path.name}' is there already. Choose another name, or overwrite it (--overwrite).")


def _class_and_arguments(network: Mapping[str, Any]) -> tuple[type[nn.Module], dict[str, Any]]:
    target = str(network.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if name not in _NETWORKS or module.partition(".")[0] not in ("", "generative"):
        raise SettingsError(
            f"_target_ is '{target}', which is none of generative.networks.nets: {', '.join(_NETWORKS)}."
        )
    try:
        with warnings.catch_warnings():
            # It was written for an older torch, and nobody here can change it.
            warnings.simplefilter("ignore", FutureWarning)
            original = getattr(import_module("generative.networks.nets"), name)
    except ImportError as error:
        raise SettingsError(
            f"The package generative is needed to compare with, and cannot be imported ({type(error).__name__}). "
            "Install it with: pip install monai_ldmsr[generative]"
        ) from error
    return original, {key: value for key, value in network.items() if not key.startswith("_")}


def _read_network_state(path: Path, shapes: nn.Module, key: str | None) -> dict[str, Tensor]:
    """The tensors of a network by its own names; ``shapes`` is that network without values."""
    name = f"The checkpoint '{path.name}'"
    found = read_state(path, "checkpoint")
    for part in key.split("/") if key else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    state = dict(found) if isinstance(found, Mapping) else {}
    if not any(isinstance(value, Tensor) for value in state.values()):
        keys = f" Its keys there: {', '.join(map(str, state))}." if state else ""
        raise WeightsError(f"{name} has no named tensors at {key or 'its top'}.{keys} Say by --key where they stand.")
    try:
        consume_prefix_in_state_dict_if_present(state, "module.")
        shapes.load_state_dict(state, assign=True)
        # Clones, since views would be saved with all that they are views of.
        return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    except MISFITS as error:
        raise WeightsError(f"{name} is not of this network. {_TRAINED_WITH} {shorten(str(error), 500)}") from error


def _built(network: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return network(**arguments)
    except Exception as error:  # whatever arithmetic with a wrong argument raises
        owner = network.__module__.partition(".")[0]
        raise SettingsError(
            f"{network.__name__} of {owner} cannot be built from these arguments ({error}). {_TRAINED_WITH}"
        ) from error


def _config_text(weights: str, sha256: str, target: str, arguments: Mapping[str, Any]) -> str:
    head = f"# MONAI's network for the weights in {weights}, imported from generative.\n# sha256 {sha256}\n"
    network = {"network_def": {"_target_": target, **arguments}}
    return head + str(yaml.safe_dump(network, sort_keys=False, default_flow_style=None, width=120))


def _proven(
    original: nn.Module, state: Mapping[str, Tensor], weights: Path, config: Path
) -> tuple[dict[str, float], float]:
    """Largest difference of each output, and the tolerance; ``weights`` and ``config`` are read back."""
    name = type(original).__name__
    arguments = yaml.safe_load(config.read_text(encoding="utf-8"))["network_def"]
    del arguments["_target_"]
    converted = _built(getattr(nets, name), arguments)
    # Double precision, but for what computes in single precision whatever it is given.
    is_single = name == "VQVAE" or bool(arguments.get("upcast_attention"))
    precision = torch.float32 if is_single else torch.float64
    differences: dict[str, float] = {}
    for kind in ("random weights", "these weights"):
        try:
            if kind == "random weights":
                _draw_weights(original)
                converted.load_state_dict(monai_keys(original.state_dict()))
            else:
                original.load_state_dict(state)
                load_weights(converted, weights)
        except RuntimeError as error:
            raise WeightsError(
                f"The tensors of generative's {name} are not those of MONAI's. {_TRAINED_WITH}"
            ) from error
        found = _output_differences(original.to(precision).eval(), converted.to(precision).eval(), arguments)
        for output, difference in found.items():
            # Written so that NaN is refused too.
            if not difference <= _TOLERANCES[precision]:
                raise WeightsError(
                    f"With {kind}, '{output}' of MONAI's {name} differs from generative's by {difference:.2g} of its "
                    f"largest value (tolerance {_TOLERANCES[precision]:.0e}), so nothing is written. Check the "
                    "arguments, and the checkpoint for values that are not finite."
                )
            differences[output] = max(difference, differences.get(output, 0.0))
    return differences, _TOLERANCES[precision]


def _draw_weights(network: nn.Module) -> None:
    """Give every parameter and buffer a random value, so that no layer is silent, as zero convolutions are at first."""
    generator = torch.Generator().manual_seed(_SEED)
    for value in network.state_dict().values():
        if value.is_floating_point():
            fan_in = value.numel() // max(len(value), 1) if value.ndim > 1 else 0
            # Biases, scales and variances positive; kernels such that signals keep their size.
            drawn = torch.randn(value.shape, generator=generator) / math.sqrt(max(fan_in, 1))
            value.copy_(drawn if fan_in else torch.rand(value.shape, generator=generator) + 0.5)


def _output_differences(original: nn.Module, converted: nn.Module, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Run both on the same random input: for each output the largest difference, relative to its largest value."""
    name = type(original).__name__
    inputs = _random_input(original, arguments)
    try:
        with torch.no_grad():
            expected, found = (_outputs(network, **inputs) for network in (original, converted))
    except (MemoryError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):  # torch's allocators raise a RuntimeError
            raise LdmsrError(
                "Out of memory: running the two networks takes about 27 bytes for each weight. Use a larger computer.",
                ReasonCode.OUT_OF_MEMORY,
            ) from error
        raise WeightsError(
            f"generative's {name} or MONAI's does not run on {tuple(inputs['image'].shape)} ({error}). {_TRAINED_WITH}"
        ) from error
    return {output: _difference(expected[output], found[output]) for output in expected}


def _difference(expected: Tensor, found: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    size = float(expected.double().abs().max())
    return float((expected.double() - found.double()).abs().max()) / (size or 1.0)


def _random_input(network: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Batch of two: ``image`` (2, C, ...), and what a U-Net takes beside it."""
    name, generator = type(network).__name__, torch.Generator().manual_seed(_SEED)
    precision = next(network.parameters()).dtype
    # In units of what the network reduces an axis to: unlike each other, so that axes count.
    units = (4, 5, 6) if name == "PatchDiscriminator" else (2, 3, 1)
    sides = [_reduction(name, arguments) * side for side in units[: arguments["spatial_dims"]]]
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


def _outputs(network: Any, image: Tensor, **others: Tensor) -> dict[str, Tensor]:
    """All that a network gives, by name."""
    match type(network).__name__:
        case "AutoencoderKL":
            mean, sigma = network.encode(image)
            return {"mean": mean, "sigma": sigma, "decoded": network.decode(mean)}
        case "VQVAE":
            codes, (reconstruction, loss) = network.index_quantize(image), network(image)
            of_codes = {"codes": codes, "decoded": network.decode_samples(codes)}
            return {"encoded": network.encode(image), **of_codes, "reconstruction": reconstruction, "loss": loss}
        case "PatchDiscriminator":
            *features, logits = network(image)
            return {**{f"feature {n}": feature for n, feature in enumerate(features, 1)}, "logits": logits}
        case _:
            return {"output": network(image, **others)}

"""What the networks of ``generative`` (MONAI GenerativeModels 0.2.3) and MONAI's call their tensors and arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from inspect import signature
from typing import Any

from monai.networks import nets
from torch import Tensor, nn

from monai_ldmsr.errors import SettingsError

__all__ = ["GENERATIVE_NETWORKS", "monai_arguments", "monai_key", "monai_keys"]

#: Networks of ``generative.networks.nets`` that MONAI has under the same name.
GENERATIVE_NETWORKS = ("AutoencoderKL", "DiffusionModelUNet", "PatchDiscriminator", "VQVAE")

#: ``generative``'s attention has this layer, but its forward pass leaves it out; so it has no place in MONAI's.
_UNUSED = ".proj_attn."

#: Patterns of ``generative``'s keys and what MONAI writes; the first that is found counts.
_RENAMED = (
    (re.compile(r"(\.transformer_blocks\.\d+\.attn\d)\.to_out\.0\."), r"\1.out_proj."),
    (re.compile(r"^((?!.*\.transformer_blocks\.).+)\.(to_[qkv]\.)"), r"\1.attn.\2"),
    (re.compile(r"(\.upsampler)\.conv\."), r"\1.postconv."),
    (re.compile(r"((?:^|\.)decoder\.blocks\.\d+)\.conv\.conv\."), r"\1.postconv.conv."),
)

_RENAMED_ARGUMENTS = {"num_channels": "channels", "use_checkpointing": "use_checkpoint"}


def monai_key(key: str) -> str | None:
    """MONAI's name of a tensor of ``generative``; None for one that ``generative`` has but never uses.

    MONAI's own ``load_old_state_dict`` knows one direction only, and leaves tensors that it does not find as they were
    drawn. With these names both directions are strict.

    Example:
        >>> monai_key("middle_block.attention.to_q.weight")
        'middle_block.attention.attn.to_q.weight'
        >>> monai_key("encoder.blocks.0.conv.weight")
        'encoder.blocks.0.conv.weight'
    """
    if _UNUSED in key:
        return None
    for pattern, written in _RENAMED:
        renamed, found = pattern.subn(written, key)
        if found:
            return renamed
    return key


def monai_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under MONAI's names, without those that ``generative`` never uses."""
    return {new: value for key, value in state.items() if (new := monai_key(key)) is not None}


def monai_arguments(name: str, original: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of MONAI's network that computes what ``generative``'s does, all of them, as plain values.

    Args:
        name: one of :data:`GENERATIVE_NETWORKS`.
        original: the class of ``generative``; its defaults are filled in, so that MONAI's cannot differ.
        arguments: of that class.

    Raises:
        SettingsError: an argument is missing or unknown, asks for what MONAI's network does not have, or would be
            executed or looked up by MONAI's config parser.
    """
    parameters = signature(original).parameters
    required = {key for key, item in parameters.items() if item.default is item.empty}
    _check_names(name, parameters, required, arguments)
    filled = {key: arguments.get(key, item.default) for key, item in parameters.items()}
    _check_features(name, filled)
    known = set(signature(getattr(nets, name)).parameters)
    renamed = {key if key in known else _RENAMED_ARGUMENTS.get(key, key): value for key, value in filled.items()}
    if unknown := sorted(renamed.keys() - known):
        raise SettingsError(f"MONAI's {name} has no {', '.join(unknown)}, so these weights have no place there.")
    if "include_fc" in known:
        # The output layer of attention: used by generative's transformer blocks, left out by its attention blocks.
        renamed["include_fc"] = bool(filled.get("with_conditioning", False))
        renamed["use_combined_linear"] = False
    return {key: _plain(value) for key, value in renamed.items()}


def _check_names(name: str, known: Iterable[str], required: set[str], arguments: Mapping[str, Any]) -> None:
    unknown, missing = sorted(set(arguments) - set(known)), sorted(required - set(arguments))
    if unknown or missing:
        found = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise SettingsError(
            f"These are no arguments of generative's {name} ({'; '.join(found)}). Give those that it was trained with, "
            "under generative's names, such as num_channels."
        )


def _check_features(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what MONAI's networks do not have, or do otherwise."""
    if arguments.get("use_convtranspose"):
        raise SettingsError(
            f"use_convtranspose is true: the transposed convolutions of generative's {name} have kernels of 3 pixels, "
            "MONAI's of 2. MONAI has no network for these weights."
        )
    if arguments.get("use_flash_attention") and arguments.get("dropout_cattn"):
        raise SettingsError(
            f"use_flash_attention is true and dropout_cattn is {arguments['dropout_cattn']}: MONAI's flash attention "
            "drops out in evaluation too. Set use_flash_attention to false; the weights are the same."
        )


def _plain(value: Any) -> Any:
    """Tuples as lists and MONAI's enumerations as text, as YAML knows them, and nothing that MONAI would execute."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(_inert(key, "_")): _plain(item) for key, item in value.items()}
    return _inert(value, "$", "@", "%")


def _inert(value: Any, *signs: str) -> Any:
    if isinstance(value, str) and value.startswith(signs):
        raise SettingsError(
            f"An argument holds '{value}', which MONAI would execute or look up when it reads the config that is "
            "written. Write the value itself."
        )
    return value

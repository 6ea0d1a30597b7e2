"""Go on with a smaller network's weights in a larger one that, at first, computes the same."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks.conditional_unet import ConditionalUNet
from monai_ldmsr.networks.weights import read_state

__all__ = ["grow_denoiser", "load_grown_weights"]

_BLOCK = re.compile(r"unet\.(?P<side>down|up)_blocks\.(?P<level>\d+)\.resnets\.(?P<number>\d+)\.(?P<rest>.+)")

_CLASSES = "unet.class_embedding.weight"


def grow_denoiser(denoiser: ConditionalUNet, smaller: Mapping[str, Tensor]) -> None:
    """Take over the weights of a denoiser with fewer residual blocks a level, or fewer classes of degradation.

    Each added block starts as the identity (Chen et al. 2016, Net2Net, arXiv 1511.05641, section 2.3: deeper), so the
    larger network's output is that of the smaller one. Classes are repeated: first all factors of the first operator,
    then all of the next.

    Args:
        denoiser: the larger network, freshly made; changed in place. No level may have attention.
        smaller: ``state_dict`` of the smaller one.

    Raises:
        WeightsError: the networks differ in more than that.
    """
    larger = denoiser.state_dict()
    try:
        grown = {key: _value(key, value, smaller, larger) for key, value in larger.items()}
        unused = set(smaller) - {_source(key, smaller, larger) for key in larger}
        if unused:
            raise KeyError(f"{len(unused)} tensors have no place")
        denoiser.load_state_dict(grown)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(
            "The weights are not those of a network with the same channels and fewer residual blocks or classes "
            f"({type(error).__name__}). Use the weights that this network was grown from, or start without any."
        ) from error


def load_grown_weights(denoiser: ConditionalUNet, path: str | Path | None) -> None:
    """Read a weights file, safely, and :func:`grow_denoiser` with it.

    Args:
        denoiser: changed in place.
        path: of ``save_weights``, of a denoiser of the same size or a smaller one; None leaves the network as it is.

    Raises:
        WeightsError: the file is missing, no plain state dictionary, or does not fit.
    """
    if path is None:
        return
    grow_denoiser(denoiser, read_state(path))
    logging.getLogger(__name__).info("Training starts from '%s'.", Path(path).name)


def _value(key: str, own: Tensor, smaller: Mapping[str, Tensor], larger: Mapping[str, Tensor]) -> Tensor:
    source = _source(key, smaller, larger)
    if source is not None:
        value = smaller[source].to(own)
        return value.repeat(len(own) // len(value), 1) if key == _CLASSES else value
    if ".skip_connection." in key:
        # An added block on the way up sees the state and what the way down left: pass on the state alone.
        weight = torch.zeros_like(own)
        if weight.ndim > 1:
            channels = torch.arange(len(weight))
            weight[channels, channels] = 1.0
        return weight
    return torch.zeros_like(own) if ".conv2." in key else own


def _source(key: str, smaller: Mapping[str, Tensor], larger: Mapping[str, Tensor]) -> str | None:
    """Name of the tensor that goes to ``key``; None in an added block."""
    found = _BLOCK.fullmatch(key)
    if found is None:
        return key
    side, level, number = found["side"], found["level"], int(found["number"])
    added = _blocks(larger, side, level) - _blocks(smaller, side, level)
    if side == "down":
        # Added at the end: what they leave for the way up is what the last old block left.
        source = number if number < _blocks(smaller, side, level) else None
    else:
        # Added after the first, which alone takes the state of the level below.
        source = 0 if number == 0 else None if number <= added else number - added
    return None if source is None else f"unet.{side}_blocks.{level}.resnets.{source}.{found['rest']}"


def _blocks(state: Mapping[str, Tensor], side: str, level: str) -> int:
    matches = (_BLOCK.fullmatch(key) for key in state)
    return len({m["number"] for m in matches if m is not None and (m["side"], m["level"]) == (side, level)})

"""A network's tensors in a checkpoint: bare, beside other objects, or under the prefix of a wrapper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.networks.weights import read_state

__all__ = ["read_network_state"]

_DEPTH = 3


def read_network_state(
    path: str | Path, shapes: Mapping[str, torch.Size], key: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of one network out of a checkpoint; nothing in the file is executed.

    Args:
        path: file of ``torch.save``: a state dictionary, or a dictionary that holds some, as ``model`` or
            ``state_dict``. A prefix such as ``module.`` may stand before all names.
        shapes: name and shape of every tensor of the network.
        key: which of several, as the message of the refusal names them.

    Returns:
        The tensors by the network's names, and where they stood: keys, and the prefix, with ``/``.

    Raises:
        WeightsError: the file is missing, damaged or no plain dictionary; no part of it has exactly the network's
            names, or several have; a tensor has another shape.
    """
    name = Path(path).name
    content = _read(path)
    parts = {place: part for place, state in _states(content) for place, part in _matches(state, place, shapes)}
    if key is not None:
        parts = {place: part for place, part in parts.items() if place == key or place.startswith(f"{key}/")}
    if len(parts) > 1:
        raise WeightsError(
            f"The checkpoint '{name}' holds tensors of this network {len(parts)} times: {', '.join(sorted(parts))}. "
            "Say by --key which to take."
        )
    if not parts:
        raise WeightsError(_why_none(name, content, shapes, key))
    ((place, part),) = parts.items()
    if wrong := sorted(key for key, value in part.items() if value.shape != shapes[key] or value.is_meta):
        raise WeightsError(
            f"{len(wrong)} tensors of the checkpoint '{name}' have another shape than the arguments say, or no values, "
            f"such as {wrong[0]}: {tuple(part[wrong[0]].shape)} and not {tuple(shapes[wrong[0]])}. Give the arguments "
            "that the network was trained with."
        )
    try:
        # Clones, since views would be saved with all that they are views of.
        return {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in part.items()}, place
    except RuntimeError as error:
        raise WeightsError(
            f"The checkpoint '{name}' has sparse tensors. Save plain ones where the network was trained."
        ) from error


def _read(path: str | Path) -> Any:
    try:
        return read_state(path, "checkpoint")
    except WeightsError as error:
        if not Path(path).is_file():
            raise
        raise WeightsError(
            f"{error} If it holds a whole network or other objects, save the network's state_dict() alone where it was "
            "trained; objects are not loaded, since they could execute anything."
        ) from error


def _states(content: Any, place: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Every dictionary of tensors, with the keys that lead to it."""
    if not isinstance(content, Mapping) or not depth:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _states(value, f"{place}/{key}" if place else str(key), depth - 1)


def _matches(
    state: Mapping[str, Tensor], place: str, shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The parts of a dictionary that have, after a prefix, the network's names and no others."""
    for prefix in _prefixes(state, shapes):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if part.keys() == shapes.keys():
            yield "/".join(filter(None, (place, prefix))) or "its tensors", part


def _prefixes(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> set[str]:
    first = next(iter(shapes))
    prefixes = {key.removesuffix(first) for key in state if key.endswith(first)}
    return {prefix for prefix in prefixes if not prefix or prefix.endswith(".")}


def _why_none(name: str, content: Any, shapes: Mapping[str, torch.Size], key: str | None) -> str:
    """What of the network the likeliest dictionary lacks, and what it has beside."""
    if key is not None:
        return (
            f"The checkpoint '{name}' has no tensors of exactly this network at '{key}'. Leave --key out to see what "
            "it has."
        )
    candidates = [
        {own.removeprefix(prefix) for own in state if own.startswith(prefix)}
        for _, state in _states(content)
        for prefix in _prefixes(state, shapes) or {""}
    ]
    if not candidates:
        return f"The checkpoint '{name}' holds no named tensors. Give a file of torch.save(network.state_dict(), ...)."
    names = max(candidates, key=lambda candidate: len(candidate & shapes.keys()))
    missing, left = sorted(shapes.keys() - names), sorted(names - shapes.keys())
    parts = [
        f"{len(some)} are {word}, such as {some[0]}"
        for word, some in (("missing", missing), ("left over", left))
        if some
    ]
    return (
        f"The tensors of the checkpoint '{name}' are not those of generative's network with these arguments: "
        f"{'; '.join(parts)}. Give the arguments that the network was trained with."
    )

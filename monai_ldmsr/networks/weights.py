"""Weights files: plain state dictionaries, loaded without executing anything, identified by their sha256."""

from __future__ import annotations

import errno
import logging
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_ldmsr.errors import WeightsError
from monai_ldmsr.storage import file_sha256, replaced_files

__all__ = [
    "MISFITS",
    "load_initial_weights",
    "load_weights",
    "read_state",
    "save_weights",
    "write_state",
]

#: What torch, pickle and networks raise for a file that is damaged or was made for others.
MISFITS = (
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
    struct.error,
)


def save_weights(network: nn.Module, path: str | Path, half: bool = False) -> str:
    """Write a network's state and return the file's sha256.

    Args:
        network: the network whose parameters and persistent buffers are stored.
        path: replaced only when the new file is whole.
        half: store floating-point parameters as float16; buffers (statistics) stay float32.

    Raises:
        OutputError: it cannot be written.
    """
    buffers = {name for name, _ in network.named_buffers()}
    state = {
        name: value.detach().cpu().contiguous().to(torch.float16 if half and name not in buffers else value.dtype)
        for name, value in network.state_dict().items()
    }
    with replaced_files(Path(path)) as (partial,):
        write_state(state, partial)
    sha256 = file_sha256(path)
    logging.getLogger(__name__).info("saved %s, sha256 %s", Path(path).name, sha256)
    return sha256


def write_state(state: Any, path: Path) -> None:
    """Write what ``torch.load`` reads without executing anything.

    Args:
        state: tensors, numbers, texts, and lists and dictionaries of them.
        path: file to write, under its temporary name; see :func:`~monai_ldmsr.storage.replaced_files`.

    Raises:
        OSError: it cannot be written, which makes an ``OutputError`` there.
    """
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's word for a disk that is full
        raise OSError(errno.EIO, "not all of it could be written") from error


def load_initial_weights(network: nn.Module, path: str | Path | None) -> None:
    """:func:`load_weights` of what a training starts from; None leaves the network as it is.

    Raises:
        WeightsError: as there.
    """
    if path is not None:
        load_weights(network, path)


def read_state(path: str | Path, kind: str = "weights file", map_location: str | torch.device = "cpu") -> Any:
    """Read a state dictionary; nothing in the file is executed.

    Args:
        path: file of :func:`save_weights`, or a checkpoint.
        kind: word for the file in messages.
        map_location: device of the tensors.

    Raises:
        WeightsError: the file is missing, or no plain state dictionary.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise WeightsError(f"The {kind} '{name}' does not exist. Check the name, restore it, or train a model.")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except MISFITS as error:
        raise WeightsError(
            f"The {kind} '{name}' is damaged, or no plain state dictionary ({type(error).__name__}). Restore it, or "
            "save the network's state_dict() alone; objects are not loaded, since they could execute anything."
        ) from error


def load_weights(
    network: nn.Module,
    path: str | Path,
    sha256: str | None = None,
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> str:
    """Load a state dictionary into a network, strictly and safely.

    Args:
        network: takes the values in its own precision.
        path: file of :func:`save_weights`.
        sha256: the expected hash; not checked when None.
        renamed: gives the state that is read the names of the network's, where those differ.

    Returns:
        The file's sha256.

    Raises:
        WeightsError: the file is missing, has another hash, is no plain state dictionary, or does not fit the network.
    """
    found = file_sha256(path) if Path(path).is_file() else ""
    if found and sha256 is not None and found != sha256:
        raise WeightsError(
            f"The weights file '{Path(path).name}' has sha256 {found[:12]}..., but the metadata says {sha256[:12]}.... "
            "It was altered or is incomplete; restore it."
        )
    state = read_state(path)
    try:
        network.load_state_dict(renamed(state) if renamed else state)
    except MISFITS as error:
        raise WeightsError(
            f"The weights file '{Path(path).name}' does not fit this network ({type(error).__name__}). Use the weights "
            "of the same bundle version."
        ) from error
    return found

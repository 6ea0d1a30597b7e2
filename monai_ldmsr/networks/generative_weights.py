"""Weights between the networks of ``generative`` (MONAI GenerativeModels 0.2.3) and MONAI's, with a proof."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.networks import nets
from torch import Tensor, nn

from monai_ldmsr.errors import LdmsrError, OutputError, ReasonCode, SettingsError, WeightsError
from monai_ldmsr.networks.generative_checkpoint import read_network_state
from monai_ldmsr.networks.generative_names import GENERATIVE_NETWORKS, monai_arguments, monai_key, monai_keys
from monai_ldmsr.networks.generative_proof import TOLERANCES, draw_weights, output_differences, precision_of
from monai_ldmsr.networks.weights import MISFITS, load_weights, read_verified, write_state
from monai_ldmsr.storage import file_sha256, replaced_files

__all__ = ["ImportedNetwork", "import_generative", "load_into_generative"]


@dataclass(frozen=True)
class ImportedNetwork:
    """What an import wrote, and what was found equal.

    Args:
        target: MONAI's class, as ``_target_`` of a config.
        arguments: of that class, all of them.
        place: where in the checkpoint the tensors stood.
        n_tensors: tensors written.
        n_unused: tensors left out, which ``generative``'s network has but does not use.
        differences: for each output the largest relative difference, with random weights and with these.
        tolerance: what they were held to.
        sha256: of the weights file.
    """

    target: str
    arguments: Mapping[str, Any]
    place: str
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
        source: checkpoint; see :func:`~monai_ldmsr.networks.generative_checkpoint.read_network_state`.
        destination: weights file to write, as ``.pt``.
        network: ``_target_``, as ``generative.networks.nets.AutoencoderKL``, and the arguments of that class that the
            network was trained with. Also ``DiffusionModelUNet``, ``VQVAE`` and ``PatchDiscriminator``.
        key: which tensors to take, where the checkpoint has several that fit.
        overwrite: replace files that are there.

    Raises:
        SettingsError: ``generative`` is not installed, or the arguments fit no network of MONAI.
        WeightsError: the checkpoint is not of this network, or outputs differ.
        OutputError: a file is there, or cannot be written.
        LdmsrError: ``OUT_OF_MEMORY``.

    Example:
        >>> import_generative(
        ...     "old.pt",
        ...     "new.pt",
        ...     {"_target_": "generative.networks.nets.AutoencoderKL", "spatial_dims": 3, "num_channels": [32, 64, 64],
        ...      "attention_levels": [False, False, False], "num_res_blocks": 1, "latent_channels": 8},
        ... ).arguments["include_fc"]  # doctest: +SKIP
        False
    """
    weights = Path(destination)
    config = weights.with_suffix(".yaml")
    _check_free(Path(source), weights, config, overwrite)
    name, given = _name_and_arguments(network)
    original = getattr(_generative(), name)
    arguments = monai_arguments(name, original, given)
    # Flash attention of generative needs a GPU; it has the same weights.
    given.pop("use_flash_attention", None)
    with torch.device("meta"):
        # Shapes alone, so that arguments which do not fit the checkpoint cost no memory.
        shapes = {key: value.shape for key, value in _built(original, "generative", given).state_dict().items()}
    state, place = read_network_state(source, shapes, key)
    target = f"monai.networks.nets.{name}"
    with replaced_files(weights, config) as (new_weights, new_config):
        converted = monai_keys(state)
        write_state(converted, new_weights)
        sha256 = file_sha256(new_weights)
        new_config.write_text(_config_text(weights.name, sha256, target, arguments), encoding="utf-8")
        differences, tolerance = _proven(_built(original, "generative", given), state, name, new_weights, new_config)
    logging.getLogger(__name__).info("saved %s, sha256 %s", weights.name, sha256)
    return ImportedNetwork(
        target, arguments, place, len(converted), len(state) - len(converted), differences, tolerance, sha256
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
    state, found = read_verified(path, sha256)
    own = network.state_dict()
    sources = {key: monai_key(key) for key in own}
    try:
        if unused := state.keys() - set(sources.values()):
            raise KeyError(*unused)
        network.load_state_dict(
            {key: torch.zeros_like(own[key]) if new is None else state[new] for key, new in sources.items()}
        )
    except MISFITS as error:
        raise WeightsError(
            f"The weights file '{Path(path).name}' does not fit this network of generative ({type(error).__name__}). "
            "Use the weights of the same bundle version."
        ) from error
    return found


def _generative() -> Any:
    try:
        with warnings.catch_warnings():
            # It was written for an older torch, and nobody here can change it.
            warnings.simplefilter("ignore", FutureWarning)
            return import_module("generative.networks.nets")
    except ImportError as error:
        raise SettingsError(
            f"The package generative is needed to compare with, and cannot be imported ({type(error).__name__}). "
            "Install it with: pip install monai_ldmsr[generative]"
        ) from error


def _name_and_arguments(network: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    target = str(network.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if name not in GENERATIVE_NETWORKS or module.partition(".")[0] not in ("", "generative"):
        raise SettingsError(
            f"_target_ is '{target}', which is none of generative.networks.nets: {', '.join(GENERATIVE_NETWORKS)}."
        )
    return name, {key: value for key, value in network.items() if not key.startswith("_")}


def _built(network: type[nn.Module], owner: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return network(**arguments)
    except Exception as error:
        # Whatever arithmetic with a wrong argument raises.
        raise SettingsError(
            f"{owner}'s {network.__name__} cannot be built from these arguments ({error}). Give those that it was "
            "trained with."
        ) from error


def _proven(
    original: nn.Module, state: Mapping[str, Tensor], name: str, weights: Path, config: Path
) -> tuple[dict[str, float], float]:
    """Largest difference of each output, and the tolerance; ``weights`` and ``config`` are read back."""
    arguments = yaml.safe_load(config.read_text(encoding="utf-8"))["network_def"]
    del arguments["_target_"]
    converted = _built(getattr(nets, name), "MONAI", arguments)
    precision = precision_of(name, arguments)
    draw_weights(original)
    try:
        converted.load_state_dict(monai_keys(original.state_dict()))
        with _enough_memory():
            with_any = output_differences(original, converted, name, arguments)
        original.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(
            f"The tensors of generative's {name} are not those of MONAI's. Check the arguments."
        ) from error
    load_weights(converted, weights)
    with _enough_memory():
        with_these = output_differences(original, converted, name, arguments)
    tolerance = TOLERANCES[precision]
    for kind, differences in (("random weights", with_any), ("these weights", with_these)):
        for output, difference in differences.items():
            # Written so that NaN is refused too.
            if not difference <= tolerance:
                raise WeightsError(
                    f"With {kind}, '{output}' of MONAI's {name} differs from generative's by {difference:.2g} of its "
                    f"largest value (tolerance {tolerance:.0e}), so nothing is written. Check the arguments, and the "
                    "checkpoint for values that are not finite."
                )
    return {output: max(with_any[output], with_these[output]) for output in with_these}, tolerance


def _config_text(weights: str, sha256: str, target: str, arguments: Mapping[str, Any]) -> str:
    head = f"# MONAI's network for the weights in {weights}, imported from generative.\n# sha256 {sha256}\n"
    network = {"network_def": {"_target_": target, **arguments}}
    try:
        body: str = yaml.safe_dump(network, sort_keys=False, default_flow_style=None, width=120)
    except yaml.YAMLError as error:
        raise SettingsError("An argument is no plain value. Give numbers, texts, and lists of them.") from error
    return head + body


def _check_free(source: Path, weights: Path, config: Path, overwrite: bool) -> None:
    if weights.suffix in ("", ".yaml"):
        raise SettingsError(f"The weights file to write is '{weights.name}'; give it the extension .pt.")
    if weights.exists() and source.exists() and weights.samefile(source):
        raise SettingsError("The weights file to write is the checkpoint itself. Choose another name.")
    for path in (weights, config):
        if path.exists() and not overwrite:
            raise OutputError(f"'{path.name}' is there already. Choose another name, or overwrite it (--overwrite).")


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's allocators raise a RuntimeError.
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        raise LdmsrError(
            "The memory does not suffice to run the two networks; it takes about 27 bytes for each weight. Use a "
            "larger computer.",
            ReasonCode.OUT_OF_MEMORY,
        ) from error

"""``ldmsr import-generative``: weights of MONAI GenerativeModels for MONAI's networks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ldmsr.cli.arguments import Commands, add_command
from monai_ldmsr.errors import SettingsError

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``import-generative`` to the command's parser."""
    importing = add_command(
        commands,
        "import-generative",
        "turn weights of the package generative into MONAI's",
        "Turn weights of AutoencoderKL, DiffusionModelUNet, VQVAE or PatchDiscriminator of MONAI GenerativeModels\n"
        "(the package generative) into weights of MONAI's networks. Writes DST and, beside it, a config of MONAI's\n"
        "network with all its arguments (.yaml), when both networks gave the same output on random input; else\n"
        "nothing. Needs: pip install monai_ldmsr[generative]. See docs/generative.md.",
    )
    importing.add_argument("source", metavar="SRC", type=Path, help="checkpoint of torch.save; no code in it is run")
    importing.add_argument("destination", metavar="DST", type=Path, help="weights file to write, such as codec.pt")
    importing.add_argument(
        "--network",
        metavar="CONFIG",
        type=Path,
        required=True,
        help="YAML or JSON file with _target_ and arguments of generative's network, as plain values",
    )
    importing.add_argument(
        "--key", help="where in SRC the tensors stand, such as model or nets/unet (default: its top)"
    )
    importing.add_argument("--overwrite", action="store_true", help="replace DST and its config")
    importing.set_defaults(command=_import_generative, interrupted="nothing was written.")


def _import_generative(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.networks import import_generative

    if arguments.destination.with_suffix(".yaml").resolve() == arguments.network.resolve():
        raise SettingsError(
            "The config of MONAI's network would take the place of CONFIG. Choose another name for DST."
        )
    network = _read_config(arguments.network)
    imported = import_generative(
        arguments.source, arguments.destination, network, key=arguments.key, overwrite=arguments.overwrite
    )
    print(f"{network['_target_']} is now {imported.target}")
    print(f"  {imported.n_tensors} tensors; {imported.n_unused} that generative never uses were left out")
    for output, difference in imported.differences.items():
        print(f"  {output} differs by {difference:.1e} of its largest value at most")
    print(f"  (tolerance {imported.tolerance:.0e}, on random input, with random weights and with these)")
    print(f"weights: {arguments.destination}, sha256 {imported.sha256}")
    print(f"config:  {arguments.destination.with_suffix('.yaml')}")
    return 0


def _read_config(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        # By way of JSON, which has neither circles nor dates.
        config = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(
            f"The config '{path.name}' cannot be read as YAML or JSON ({type(error).__name__}). Check its name and "
            "content."
        ) from error
    if not isinstance(config, Mapping):
        raise SettingsError(f"The config '{path.name}' has no _target_ and arguments. See docs/generative.md.")
    return config

"""``ldmsr pack``: a dataset as a few files, for a machine that has little more than torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``pack`` to the command's parser."""
    pack = add_command(
        commands,
        "pack",
        "pack training volumes into a few compressed files",
        "Write the slices of the volumes below DATA, with splits and maps to model range, as PACKED/index.json and "
        "PACKED/part-000.bin, part-001.bin, ...: a dataset that travels. ldmsr train PACKED OUT needs no reader of "
        "images. Values are rounded to 1 HU in CT, and to ten bits of the model range or finer "
        "else. DATA is as for ldmsr train.",
    )
    pack.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    pack.add_argument("packed", metavar="PACKED", type=Path, help="new or empty folder")
    pack.add_argument("--megabytes", type=float, help="size of all files; fewer slices of large volumes are taken")
    pack.add_argument("--slices", type=int, help="greatest number of slices of a volume, evenly spread (default: all)")
    pack.add_argument(
        "--splits",
        nargs="+",
        default=["train", "calibration", "test"],
        choices=["train", "calibration", "test"],
        help="which splits to pack (default: all three)",
    )
    pack.add_argument("--part-megabytes", type=float, default=30.0, help="greatest size of a file in MB (default: 30)")
    add_setting_options(pack, "modality")
    add_limit_option(pack)
    pack.set_defaults(command=_pack, interrupted="nothing was written.")


def _pack(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.training.packing import pack_dataset

    size = pack_dataset(
        arguments.source,
        arguments.packed,
        splits=arguments.splits,
        megabytes=arguments.megabytes,
        slices=arguments.slices,
        part_megabytes=arguments.part_megabytes,
        modality=arguments.modality,
        limits=limits_of(arguments),
    )
    print(
        f"{size.n_slices} of {size.of_slices} slices of {size.n_volumes} volumes: {size.n_bytes / 1e6:.1f} MB "
        f"in {size.n_parts} parts"
    )
    return 0

"""``ldmsr export``: a bundle's networks as ONNX and torch.export files."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_ldmsr.choices import NETWORK_PARTS
from monai_ldmsr.cli.arguments import Commands, add_command, add_setting_options
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``export`` to the command's parser."""
    export = add_command(
        commands,
        "export",
        "write a bundle's networks for other engines (ONNX, torch.export)",
        "Write the networks of a bundle, with their verified weights, into a new folder: as ONNX and as torch.export\n"
        "files, each for any number of slices of any size, and export.json, which says what goes in and comes out.\n"
        "Each file is read back and compared with the network first. ONNX needs: pip install 'monai_ldmsr[onnx]'.\n"
        "See docs/export.md.",
    )
    export.add_argument("output", metavar="OUT", type=Path, help="new folder for the files")
    export.add_argument(
        "--factor",
        default="2",
        metavar="F",
        help="how many times finer the whole network makes slices, such as 2, 2.5, or 4,2 for rows and columns "
        "(default: 2)",
    )
    export.add_argument(
        "--parts",
        nargs="+",
        default=[],
        choices=NETWORK_PARTS,
        metavar="PART",
        help=f"networks to write, out of {', '.join(NETWORK_PARTS)} (default: all that the bundle has)",
    )
    export.add_argument(
        "--format", choices=["onnx", "torch", "all"], default="all", help="format of the files (default: all)"
    )
    export.add_argument(
        "--detail",
        type=float,
        metavar="D",
        help="dial of the whole network: 0 for the mean alone, which takes no noise fields, to 1 for a sample "
        "(default: an input of the network)",
    )
    export.add_argument(
        "--flat-detail",
        type=float,
        metavar="D",
        help="share of the dial, 0 to 1, where slices show nothing but noise (default: the bundle's)",
    )
    add_setting_options(export, "operator", "bundle")
    export.add_argument("--overwrite", action="store_true", help="replace OUT where an earlier export wrote it")
    export.set_defaults(command=_export, interrupted="nothing was written.")


def _export(arguments: argparse.Namespace) -> int:
    factors = Factors.of(arguments.factor.split(",") if "," in arguments.factor else arguments.factor)
    if factors.k != 1:
        raise SettingsError(f"factor is {factors}; give one number, or two with a comma: those of rows and columns.")
    from monai_ldmsr.cli.views import ShareView
    from monai_ldmsr.export import DESCRIPTION_FILE, FORMATS, export_networks

    with ShareView() as view:
        view.update("loading the bundle", 0.0)
        done = export_networks(
            arguments.output,
            bundle=arguments.bundle,
            factor=factors.in_plane,
            operator=arguments.operator,
            detail=arguments.detail,
            flat_detail=arguments.flat_detail,
            parts=arguments.parts,
            formats=FORMATS if arguments.format == "all" else (arguments.format,),
            overwrite=arguments.overwrite,
            progress=view.update,
        )
    for name, n_bytes in done.files.items():
        print(f"{name:22}{n_bytes / 1e6:7.1f} MB, differs from torch by {done.differences[name]:.1e} at most")
    print(f"{DESCRIPTION_FILE} says what goes in and comes out; see docs/export.md")
    print(RESEARCH_NOTICE)
    return 0

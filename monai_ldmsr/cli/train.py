"""``ldmsr train``: from a folder of volumes to weights and table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``train`` to the command's parser."""
    train = add_command(
        commands,
        "train",
        "train all networks on your own volumes",
        "Train the codec, the denoiser (twice) and the baselines on the volumes below DATA within a time "
        "budget, pack them as bundles OUT/ldm_sr and OUT/srgan_sr, and evaluate on the test split. DATA holds DICOM "
        "series and volume files of at least three patients, split by patient; or a manifest.csv with columns file, "
        "split (train, calibration, test) and where known modality (CT, MR, PT) and subject. Who is a patient is "
        "printed; docs/training.md says by which rules. The same command goes on where it was interrupted.",
    )
    train.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    train.add_argument("output", metavar="OUT", type=Path, help="folder outside DATA; made when missing")
    train.add_argument("--budget", default="2h", help="time of all stages: 90s, 30m, 2h (default: 2h)")
    train.add_argument(
        "--split",
        type=Path,
        metavar="FILE.csv",
        help="list of which volume is in which split, columns file (relative to DATA), split, and where known subject; "
        "such as OUT/private/split.csv, which a training writes and which you may edit (default: that, where it is; "
        "else DATA/manifest.csv; else by patient)",
    )
    train.add_argument("--size", default="small", choices=["small", "large"], help="small: CPU (default); large: GPU")
    add_setting_options(train, "modality", "seed", "device", "bundle")
    train.add_argument(
        "--stages",
        type=lambda names: tuple(names.split(",")),
        default=(),
        help="names of the stages to be run, with commas; the message at a wrong one lists them (default: all)",
    )
    train.add_argument("--start", type=Path, help="weights of a whole model (a bundle's model.pt) to go on from")
    add_limit_option(train)
    train.set_defaults(command=_train)


def _train(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.workflow import train

    if arguments.log_level == "warning":
        # Losses and the time left of each stage are what one waits for.
        logging.getLogger("monai_ldmsr.training").setLevel(logging.INFO)
    folder = train(
        arguments.source,
        arguments.output,
        budget=arguments.budget,
        device=arguments.device,
        seed=arguments.seed,
        modality=arguments.modality,
        size=arguments.size,
        bundle=arguments.bundle,
        split=arguments.split,
        stages=arguments.stages,
        start=arguments.start,
        limits=limits_of(arguments),
        message=lambda line: print(line, flush=True),
    )
    is_bundle = (folder / "configs").is_dir()
    print(f"done; use it with: ldmsr run SRC OUT --bundle {folder}" if is_bundle else f"done; weights: {folder}")
    print(RESEARCH_NOTICE)
    return 0

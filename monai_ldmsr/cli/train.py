"""``ldmsr train``: from a folder of volumes to weights and table."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]

#: Arguments that are given on as they are.
_GIVEN = ("budget", "device", "seed", "modality", "size", "bundle", "stages", "start", "split", "name")


def add(commands: Commands) -> None:
    """Add ``train`` to the command's parser."""
    train = add_command(
        commands,
        "train",
        "train all networks on your own volumes",
        "Train the codec, the denoiser (twice) and the baselines on the volumes below DATA within a time budget, pack "
        "them as bundles OUT/NAME and OUT/NAME_srgan, and evaluate on the test split. DATA holds DICOM series and "
        "volume files of at least three patients, split by patient; or a manifest.csv with columns file, split "
        "(train, calibration, test) and where known modality (CT, MR, PT) and subject. Who is a patient is printed; "
        "docs/training.md says by which rules. OUT/training/training.html shows how it goes. The same command goes on "
        "where it was interrupted: SIGTERM (exit code 143) and Ctrl-C (130) write a checkpoint; else about a minute is "
        "lost.",
    )
    train.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    train.add_argument("output", metavar="OUT", type=Path, help="folder outside DATA; made when missing")
    train.add_argument("--budget", default="2h", help="time of all of it: 90s, 30m, 2h (default: 2h)")
    train.add_argument("--name", default="ldm_sr_custom", help="name of the trained bundle (default: %(default)s)")
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
    from monai_ldmsr.cli.training_view import TrainingView
    from monai_ldmsr.training.stopping import TrainingStoppedError, ended_by_signals
    from monai_ldmsr.workflow import train

    with TrainingView() as view:
        if arguments.log_level in (None, "warning") and not view.is_bar:
            # Losses and the time left of each stage are what one waits for.
            logging.getLogger("monai_ldmsr.training").setLevel(logging.INFO)
        try:
            with ended_by_signals():
                folder = train(
                    arguments.source,
                    arguments.output,
                    **{name: getattr(arguments, name) for name in _GIVEN},
                    limits=limits_of(arguments),
                    message=view.say,
                    progress=view.update,
                )
        except TrainingStoppedError as stopped:
            print(f"ldmsr: stopped by {stopped}; the same command goes on from the last checkpoint.", file=sys.stderr)
            return 128 + stopped.number
    is_bundle = (folder / "configs").is_dir()
    print(f"done; use it with: ldmsr run SRC OUT --bundle {folder}" if is_bundle else f"done; weights: {folder}")
    print(RESEARCH_NOTICE)
    return 0

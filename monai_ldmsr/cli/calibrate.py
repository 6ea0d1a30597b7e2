"""``ldmsr calibrate``: make the expected errors of a bundle hold over patients, and test that they do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]

#: Figures that are printed, and their headings.
_COLUMNS = {
    "patients": "patients",
    "multiplier": "width/error",
    "foreground": "foreground",
    "edges": "edges",
    "all": "all",
    "least": "worst",
    "spearman": "Spearman",
}


def add(commands: Commands) -> None:
    """Add ``calibrate`` to the command's parser."""
    calibrate = add_command(
        commands,
        "calibrate",
        "calibrate the expected errors of a bundle on patients",
        "Degrade slices of the calibration split of DATA by 2, 3 and 4, with noise and without, super-resolve them, "
        "and choose how wide intervals must be to hold 90 % of the voxels of new patients, which expected errors may "
        "be trusted at a tolerance, and which contradiction of the source is an alarm. Writes models/calibration.json "
        "into the bundle, for its weights alone, and models/training_range.json, what the training split is like: "
        "volumes unlike that are refused. With --test nothing is written: it measures what the calibration "
        "promised, on the patients of the test split. Both print the share of voxels within the interval, as means "
        "over patients.",
    )
    calibrate.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    calibrate.add_argument("--test", action="store_true", help="measure on the test split, and write nothing")
    calibrate.add_argument(
        "--split",
        type=Path,
        metavar="FILE.csv",
        help="list of which volume is in which split, as for ldmsr train (default: DATA/manifest.csv; else by patient)",
    )
    calibrate.add_argument(
        "--slices", type=int, default=2, help="number of slices of each patient that are measured (default: 2)"
    )
    add_setting_options(calibrate, "modality", "device", "bundle")
    add_limit_option(calibrate)
    calibrate.set_defaults(command=_calibrate, interrupted="nothing was written.")


def _calibrate(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.calibration import calibrate, measure_coverage
    from monai_ldmsr.cli.views import ShareView

    with ShareView() as view:
        view.update("reading the volumes", 0.0)
        given = {
            "bundle": arguments.bundle,
            "split_file": arguments.split,
            "slices_per_patient": arguments.slices,
            "modality": arguments.modality,
            "device": arguments.device,
            "limits": limits_of(arguments),
            "progress": view.update,
        }
        if arguments.test:
            table, said = measure_coverage(arguments.source, **given), "the calibration was made on others"
        else:
            calibration, table = calibrate(arguments.source, **given)
            said = f"calibration {calibration.digest} of weights {calibration.weights_sha256[:12]} is in the bundle"
    _print(table)
    print(f"{said}; shares are means over patients, edges are the steepest tenth of the foreground")
    print(RESEARCH_NOTICE)
    return 0


def _print(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    print(f"{'':18}" + "".join(f"{name:>13}" for name in _COLUMNS.values()))
    for modality, rows in table.items():
        for condition, figures in rows.items():
            cells = (f"{figures[name]:>13.{0 if name == 'patients' else 3}f}" for name in _COLUMNS)
            print(f"{f'{modality} {condition}':18}" + "".join(cells))

"""``ldmsr evaluate``: the table of all methods."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]

#: Columns of the first table that are printed, and names that fit a column.
_QUALITY = ("laplacian_variance", "fft", "psnr", "ssim", "ms_ssim", "nrmse")
_SHORT = {
    "laplacian_variance": "lap. var.",
    "edge_width": "edges",
    "lattice_ratio": "lat. ratio",
    "flat_noise": "flat noise",
    "patch_distance_fine": "fine",
    "patch_distance_middle": "middle",
    "patch_distance_coarse": "coarse",
    "ring_correlation": "rings",
    "region_error": "regions, %",
    "contrast_kept": "contrast",
    "size_kept": "size",
    "detectability": "AUC",
    "uptake_peak": "peak",
    "uptake_max": "max",
    "uptake_kept": "kept",
    "psnr_foreground": "psnr, body",
    "ssim_foreground": "ssim, body",
    "stack_gradient": "gradient",
    "source_missing": "missing",
    "duration_s": "s a slice",
}

#: Options that say how slices are degraded, and their defaults.
_WITHIN_SLICES = {"factor": 4, "operator": "area", "noise": 0.0, "slices": 4, "native-slices": 1}


def add(commands: Commands) -> None:
    """Add ``evaluate`` to the command's parser."""
    evaluate = add_command(
        commands,
        "evaluate",
        "measure all methods on the sharp volumes below DATA",
        "Degrade the volumes below DATA, super-resolve them by interpolation, SRResNet, SRGAN and the "
        "latent diffusion model, and compare with the original; and super-resolve slices as scanned, and measure what "
        "that adds to flat tissue; and how far results can be trusted: invented structure, lesions lost, flicker. "
        "Writes OUT/table.html, table.json, table.csv, trust.json, per_slice.csv, native_per_slice.csv, examples.png, "
        "failures.png, native.png, sfrc.png, lesions.png and spectrum.png. With --through-plane, near-isotropic "
        "volumes are averaged along the stack to thick slices instead, and brought back: writes "
        "OUT/through_plane.html, through_plane.json, through_plane.csv, per_stack.csv and a picture of each thickness "
        "and gap.",
    )
    evaluate.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    evaluate.add_argument("output", metavar="OUT", type=Path, help="folder for the table; made when missing")
    add_setting_options(evaluate, "factor", "operator", "modality", factor=4, operator="area")
    evaluate.add_argument("--split", help="train, calibration, test, all (default: test; all without a manifest)")
    evaluate.add_argument(
        "--noise", type=float, default=0.0, help="noise added to the degraded slices, in grey levels of 255"
    )
    evaluate.add_argument(
        "--slices", type=int, default=4, help="number of slices of each volume that are measured (default: 4)"
    )
    evaluate.add_argument(
        "--native-slices",
        type=int,
        default=1,
        help="number of slices of each volume that are super-resolved as scanned, which takes longest "
        "(default: 1; 0: none)",
    )
    evaluate.add_argument(
        "--no-trust",
        dest="trust",
        action="store_false",
        help="leave out the figures of trust (lesions put in, invented structure, flicker), which take half the time",
    )
    evaluate.add_argument(
        "--through-plane",
        action="store_true",
        help="measure new slices along the stack, on near-isotropic volumes that are averaged to slices of 2, 3, 4 and "
        "5 mm, with and without gaps; takes --split, --modality, --axes, --device, --bundle and no setting of slices",
    )
    evaluate.add_argument(
        "--axes",
        default="k",
        help="with --through-plane, axes along which slices are averaged: k, the last one, or ijk, each of them "
        "(default: k)",
    )
    add_limit_option(evaluate)
    add_setting_options(evaluate, "device", "bundle")
    evaluate.set_defaults(command=_evaluate, interrupted="nothing was written.")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.through_plane:
        return _evaluate_through_plane(arguments)
    if arguments.axes != "k":
        raise SettingsError("--axes says along which axes --through-plane averages; give both, or neither.")
    from monai_ldmsr.cli.views import ShareView
    from monai_ldmsr.workflow import evaluate

    with ShareView() as view:
        view.update("reading the volumes", 0.0)
        table = evaluate(
            arguments.source,
            arguments.output,
            factor=arguments.factor,
            split=arguments.split,
            operator=arguments.operator,
            noise_grey=arguments.noise,
            modality=arguments.modality,
            slices_per_volume=arguments.slices,
            native_slices_per_volume=arguments.native_slices,
            trust=arguments.trust,
            device=arguments.device,
            bundle=arguments.bundle,
            limits=limits_of(arguments),
            progress=view.update,
        )
    found = table.as_dict()
    _print_rows("degraded", found["rows"], _QUALITY)
    _print_rows("structure", found["structure"]["rows"])
    _print_rows("as scanned", found["native"]["rows"])
    for part in table.trust_dict().get("parts", {}).values():
        if part["title"] != "Slices as scanned":
            _print_rows("trust", part["rows"])
    print(f"table: {arguments.output / 'table.html'}")
    print(RESEARCH_NOTICE)
    return 0


def _evaluate_through_plane(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.cli.views import ShareView
    from monai_ldmsr.through_plane_quality import evaluate_through_plane

    for option, usual in _WITHIN_SLICES.items():
        if getattr(arguments, option.replace("-", "_")) != usual:
            raise SettingsError(f"--{option} is one of slices, and --through-plane takes none. Leave one of them out.")
    if not arguments.trust:
        raise SettingsError("--through-plane measures no trust, so that --no-trust leaves nothing out. Leave it out.")
    with ShareView() as view:
        view.update("reading the volumes", 0.0)
        table = evaluate_through_plane(
            arguments.source,
            arguments.output,
            split=arguments.split,
            axes=arguments.axes,
            modality=arguments.modality,
            device=arguments.device,
            bundle=arguments.bundle,
            limits=limits_of(arguments),
            progress=view.update,
        )
    for case, found in table.as_dict()["cases"].items():
        _print_rows(case, found["rows"])
    for name, why in table.left_out.items():
        print(f"{name} was left out: {why}")
    print(f"table: {arguments.output / 'through_plane.html'}")
    print(RESEARCH_NOTICE)
    return 0


def _print_rows(title: str, rows: Mapping[str, Any], columns: Sequence[str] = ()) -> None:
    """Means of a table, and nothing for an empty one; all columns unless some are named."""
    if not rows:
        return
    from monai_ldmsr.evaluation.labels import label

    columns = columns or list(next(iter(rows.values())))
    width = max(len(name) for name in (title, *map(label, rows))) + 2
    print(f"{title:{width}}" + "".join(f"{_SHORT.get(column, column):>12}" for column in columns))
    for row, cells in rows.items():
        means = [cells[column]["mean"] for column in columns]
        print(
            f"{label(row):{width}}" + "".join(f"{'-' if mean is None else format(mean, '.3f'):>12}" for mean in means)
        )
    print()

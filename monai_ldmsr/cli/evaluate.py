"""``ldmsr evaluate``: the table of all methods."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_ldmsr.cli.arguments import MODALITIES, Commands, add_bundle_options, add_command
from monai_ldmsr.report import RESEARCH_NOTICE

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``evaluate`` to the command's parser."""
    evaluate = add_command(
        commands,
        "evaluate",
        "measure all methods on the sharp volumes below DATA",
        "Degrade the volumes below DATA, super-resolve them by interpolation, SRResNet, SRGAN and the "
        "latent diffusion model, and compare with the original. Writes OUT/table.html, table.json, table.csv, "
        "per_slice.csv, examples.png and spectrum.png.",
    )
    evaluate.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    evaluate.add_argument("output", metavar="OUT", type=Path, help="folder for the table; made when missing")
    evaluate.add_argument("--factor", type=int, default=4, help="2, 3 or 4 (default: 4)")
    evaluate.add_argument("--split", help="train, calibration, test, all (default: test; all without a manifest)")
    evaluate.add_argument("--operator", default="area", choices=["area", "gaussian", "kspace"])
    evaluate.add_argument(
        "--noise", type=float, default=0.0, help="added to the degraded slices, in grey levels of 255"
    )
    evaluate.add_argument("--modality", choices=MODALITIES, help="of volume files without a manifest")
    evaluate.add_argument("--slices", type=int, default=4, help="slices a volume (default: 4)")
    add_bundle_options(evaluate)
    evaluate.set_defaults(command=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.workflow import evaluate

    table = evaluate(
        arguments.source,
        arguments.output,
        factor=arguments.factor,
        split=arguments.split,
        operator=arguments.operator,
        noise_grey=arguments.noise,
        modality=arguments.modality,
        slices_per_volume=arguments.slices,
        device=arguments.device,
        bundle=arguments.bundle,
    )
    columns = ("laplacian_variance", "fft", "psnr", "ssim", "ms_ssim", "nrmse")
    print(f"{'row':10}" + "".join(f"{column:>20}" for column in columns))
    for row, cells in table.as_dict()["rows"].items():
        means = [cells[column]["mean"] for column in columns]
        print(f"{row:10}" + "".join(f"{'-' if mean is None else format(mean, '.3f'):>20}" for mean in means))
    print(f"table: {arguments.output / 'table.html'}")
    print(RESEARCH_NOTICE)
    return 0

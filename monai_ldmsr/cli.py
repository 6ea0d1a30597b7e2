"""The command ``ldmsr``: arguments in, exit code and messages out."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import LdmsrError, OutputError, ReasonCode, SettingsError, TrainingError
from monai_ldmsr.report import RESEARCH_NOTICE

if TYPE_CHECKING:
    from monai_ldmsr.evaluator import RunSummary

__all__ = ["main"]

_DESCRIPTION = """\
Super-resolve clinical volumes (DICOM series, NIfTI, NRRD, MetaImage) slice by slice with a conditional
latent diffusion model, and write derived DICOM series (or the same file format) together with a report.

  ldmsr run sample_data/dicom/mr_t1_sagittal out --factor 2
  ldmsr evaluate DATA out --factor 4
  ldmsr train DATA out --budget 2h
  ldmsr info
"""

_EPILOG = f"""\
exit codes: 0 all done; 1 wrong usage or settings; 2 nothing usable found; 4 input corrupt;
            7 cannot write; 8 some series failed, or a training stage did

{RESEARCH_NOTICE}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``ldmsr --help``)."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=arguments.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        return int(arguments.command(arguments))
    except LdmsrError as error:
        print(f"ldmsr: {error} [{error.reason.value}]", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        print("ldmsr: interrupted; finished results are complete, the unfinished one was removed.", file=sys.stderr)
        return 130


def _exit_code(error: LdmsrError) -> int:
    if isinstance(error, OutputError):
        return 7
    if isinstance(error, TrainingError):
        return 8
    if isinstance(error, SettingsError) or error.reason is ReasonCode.BAD_WEIGHTS:
        return 1
    return 2


class _Parser(argparse.ArgumentParser):
    """Wrong usage ends with 1: argparse's own 2 means here that nothing usable was found."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ldmsr",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ldmsr {__version__}")
    parser.add_argument("--log-level", default="warning", choices=["debug", "info", "warning", "error"])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_evaluate(commands)
    _add_train(commands)
    info = commands.add_parser("info", help="print versions, device, bundles and weights")
    info.set_defaults(command=_info)
    return parser


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    run = commands.add_parser(
        "run",
        help="super-resolve everything below SRC",
        description="Super-resolve every series and volume file below SRC. Writes OUT/<case>/ with the result, "
        "report.html and report.json, and OUT/summary.json.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("source", metavar="SRC", type=Path, help="folder, DICOM file, .nii, .nii.gz, .nrrd, .mha or .mhd")
    run.add_argument("output", metavar="OUT", type=Path, help="folder for results; made when missing")
    run.add_argument("--factor", type=int, default=2, help="2, 3 or 4 times finer in-plane (default: 2)")
    run.add_argument("--steps", type=int, help="network evaluations a slice (default: the bundle's)")
    run.add_argument("--detail", type=float, help="0 truest and smoothest, up to 1.5 (default: the bundle's)")
    run.add_argument(
        "--consistency", type=float, help="0 to 1: how strictly the result must agree with SRC when degraded"
    )
    run.add_argument(
        "--operator", choices=["area", "gaussian", "kspace"], help="how SRC is assumed to be blurred (default: area)"
    )
    run.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    run.add_argument("--modality", choices=["CT", "MR", "PT"], help="of volume files (CT in HU); DICOM tells its own")
    run.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA when there is one)")
    run.add_argument("--bundle", default="ldm_sr", help="bundle name or folder (default: ldm_sr)")
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Imported late: `ldmsr --help` need not wait for torch.
    from monai_ldmsr.workflow import super_resolve

    console = Console(stderr=True)
    with _ProgressView(console) as view:
        summary = super_resolve(
            arguments.source,
            arguments.output,
            factor=arguments.factor,
            num_inference_steps=arguments.steps,
            detail=arguments.detail,
            consistency=arguments.consistency,
            operator=arguments.operator,
            seed=arguments.seed,
            modality=arguments.modality,
            device=arguments.device,
            bundle=arguments.bundle,
            progress=view.update,
        )
    _print_summary(summary, arguments.output)
    return summary.exit_code


def _add_evaluate(commands: argparse._SubParsersAction[_Parser]) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure all methods on the sharp volumes below DATA",
        description="Degrade the volumes below DATA, super-resolve them by interpolation, SRResNet, SRGAN and the "
        "latent diffusion model, and compare with the original. Writes OUT/table.html, table.json, table.csv, "
        "per_slice.csv, examples.png and spectrum.png.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    evaluate.add_argument("output", metavar="OUT", type=Path, help="folder for the table; made when missing")
    evaluate.add_argument("--factor", type=int, default=4, help="2, 3 or 4 (default: 4)")
    evaluate.add_argument("--split", help="train, calibration, test, all (default: test; all without a manifest)")
    evaluate.add_argument("--operator", default="area", choices=["area", "gaussian", "kspace"])
    evaluate.add_argument(
        "--noise", type=float, default=0.0, help="added to the degraded slices, in grey levels of 255"
    )
    evaluate.add_argument("--modality", choices=["CT", "MR", "PT"], help="of volume files without a manifest")
    evaluate.add_argument("--slices", type=int, default=4, help="slices a volume (default: 4)")
    evaluate.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA when there is one)")
    evaluate.add_argument("--bundle", default="ldm_sr", help="bundle name or folder (default: ldm_sr)")
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


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    train = commands.add_parser(
        "train",
        help="train all networks on your own volumes",
        description="Train the codec, the denoiser (twice) and the baselines on the volumes below DATA within a time "
        "budget, pack them as bundles OUT/ldm_sr and OUT/srgan_sr, and evaluate on the test split. DATA holds DICOM "
        "series and volume files of at least three patients, split by patient; or a manifest.csv with columns file, "
        "split (train, calibration, test) and where known modality (CT, MR, PT) and subject. The same command goes on "
        "where it was interrupted.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument("source", metavar="DATA", type=Path, help="folder of volumes, with manifest.csv or without")
    train.add_argument("output", metavar="OUT", type=Path, help="folder outside DATA; made when missing")
    train.add_argument("--budget", default="2h", help="time of all stages: 90s, 30m, 2h (default: 2h)")
    train.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA when there is one)")
    train.add_argument("--size", default="small", choices=["small", "large"], help="small: CPU (default); large: GPU")
    train.add_argument("--modality", choices=["CT", "MR", "PT"], help="of volume files without a manifest")
    train.add_argument("--seed", type=int, default=0, help="seed of all stages (default: 0)")
    train.add_argument("--bundle", default="ldm_sr", help="bundle whose training configs are run (default: ldm_sr)")
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
        message=lambda line: print(line, flush=True),
    )
    print(f"done; use it with: ldmsr run SRC OUT --bundle {folder}")
    print(RESEARCH_NOTICE)
    return 0


def _print_summary(summary: RunSummary, output: Path) -> None:
    for case in summary.cases:
        if case.status == "done":
            dicom = output / case.case / "dicom"
            print(f"done     {case.case}: {dicom if dicom.is_dir() else output / case.case}")
            print(f"         report: {output / case.case / 'report.html'}")
        else:
            print(f"{case.status:8} {case.case}: {case.reason}: {case.message}")
    counts = {status: sum(case.status == status for case in summary.cases) for status in ("done", "skipped", "failed")}
    print(", ".join(f"{number} {status}" for status, number in counts.items()))
    print(RESEARCH_NOTICE)


class _ProgressView:
    """A bar on a terminal; plain lines, one a tenth of a case, in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("slices"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, object] = {}
        self._tenth = -1

    def __enter__(self) -> _ProgressView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, case: str, number: int, cases: int, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` slices of a case are computed."""
        label = f"{number}/{cases} {case}"
        if self._console.is_terminal:
            if case not in self._tasks:
                self._tasks[case] = self._bar.add_task(label, total=total)
            self._bar.update(self._tasks[case], completed=done)  # type: ignore[arg-type]
            return
        tenth = 10 * done // total
        if done == total or tenth != self._tenth:
            self._tenth = tenth if done < total else -1
            print(f"{label}: {done} of {total} slices", file=sys.stderr, flush=True)


def _info(arguments: argparse.Namespace) -> int:
    import torch

    from monai_ldmsr.networks import file_sha256
    from monai_ldmsr.workflow import available_bundles

    del arguments
    print(f"monai_ldmsr {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    names = ("torch", "monai", "pydicom", "highdicom", "nibabel", "SimpleITK", "numpy")
    print(", ".join(f"{name} {version(name)}" for name in names))
    devices = [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    print(f"devices: {', '.join(['cpu', *devices])} ({torch.get_num_threads()} CPU threads)")
    for info in available_bundles():
        weights = info.folder / "models" / "model.pt"
        state = "missing" if not weights.is_file() else "altered"
        if weights.is_file() and file_sha256(weights) == info.weights_sha256:
            state = f"{weights.stat().st_size / 1e6:.1f} MB, verified"
        print(f"bundle {info.name} {info.version}: weights {info.weights_sha256[:12]} ({state})")
        print(f"  {info.description}")
    print(RESEARCH_NOTICE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

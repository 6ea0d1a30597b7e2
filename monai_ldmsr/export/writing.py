"""Write a bundle's networks, read them back, and describe them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monai_ldmsr._version import __version__
from monai_ldmsr.bundle_folder import DEFAULT_BUNDLE
from monai_ldmsr.choices import FACTORS, MODALITIES
from monai_ldmsr.degradation import Factor
from monai_ldmsr.errors import OutputError, SettingsError, WeightsError
from monai_ldmsr.export.formats import EXTENSIONS, OPSET, check_installed, exported, reader, write
from monai_ldmsr.export.parts import PARTS, NetworkPart, TensorSpec, network_parts, whole_noise
from monai_ldmsr.geometry import Factors
from monai_ldmsr.image_output import BundleModel
from monai_ldmsr.networks import PureResolver, SliceNetwork, SuperResolver
from monai_ldmsr.networks.interface import on_device
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.storage import file_sha256, partial_folder
from monai_ldmsr.workflow import load_super_resolver

__all__ = ["DESCRIPTION_FILE", "FORMATS", "ExportSummary", "export_networks", "write_networks"]

#: Formats of files.
FORMATS = tuple(EXTENSIONS)

#: Name of what describes the files.
DESCRIPTION_FILE = "export.json"

#: Greatest difference of an output from torch's, in model range, or in its largest value where that is over 1; rounding
#: gives some 1e-6.
_TOLERANCE = 1e-4

#: Batches, rows and columns at which files are compared: others than the example's.
_COMPARED = ((1, 13, 30), (3, 37, 5))

_INTENSITY = (
    "Slices are in model range, about -1 to 1, as monai_ldmsr.fit_intensity_map makes it of a volume's values (HU, "
    "counts, Bq/ml); its inverse leads back. The projection onto the source is not part of the network."
)


@dataclass(frozen=True)
class ExportSummary:
    """What was written.

    Args:
        folder: where it lies.
        files: names of the files of networks, and their sizes in bytes.
        differences: greatest difference of each file's outputs from torch's, by name of the file.
    """

    folder: Path
    files: Mapping[str, int]
    differences: Mapping[str, float]


def export_networks(
    output_dir: str | Path,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    factor: Factor = 2,
    operator: str | None = None,
    detail: float | None = None,
    flat_detail: float | None = None,
    parts: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> ExportSummary:
    """Write a bundle's networks, with their verified weights, for ONNX Runtime and for torch without this package.

    Each file takes any number of slices of any size. It is read back and compared with the network before it gets its
    name; see ``docs/export.md`` for what goes in and comes out.

    Args:
        output_dir: new folder; beside the networks it gets ``export.json``, which describes them.
        bundle: name of a bundle that comes with the package, or a bundle's folder.
        factor: how many times finer the whole network makes slices, whole or not, a pair where rows and columns differ.
        operator: how the slices are assumed to have been degraded; None takes the bundle's.
        detail: dial of the whole network, from 0 (the mean alone, which takes no noise fields) to 1; None makes it an
            input.
        flat_detail: share of the dial where slices show nothing but noise, 0 to 1; None takes the bundle's.
        parts: names out of ``PARTS``; empty for all that the bundle has.
        formats: ``onnx``, ``torch``, or both.
        overwrite: replace a folder that an earlier export wrote.
        progress: called as work on each file begins: what is done, and the share that is done, 0 to 1.

    Raises:
        SettingsError: an argument is outside what is possible, or packages for ONNX are missing.
        WeightsError: the weights are missing or altered, or a file does not give what the network does.
        OutputError: the folder is there, or cannot be written.
    """
    _check(Path(output_dir), parts, formats, overwrite)
    factors = Factors.of(factor)
    is_plain = factors in [Factors(one, one) for one in FACTORS]
    network, model = load_super_resolver(bundle, factor=int(factors.i) if is_plain else None, operator=operator)
    return write_networks(
        network,
        model,
        output_dir,
        factor=factors.in_plane,
        detail=detail,
        flat_detail=flat_detail,
        parts=parts,
        formats=formats,
        overwrite=overwrite,
        progress=progress,
    )


def write_networks(
    network: SliceNetwork,
    model: BundleModel,
    output_dir: str | Path,
    *,
    factor: Factor | None = None,
    detail: float | None = None,
    flat_detail: float | None = None,
    parts: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> ExportSummary:
    """:func:`export_networks` of a network that is there already.

    Args:
        network: ``SuperResolver`` or ``SRResNetGenerator``; it is put on the CPU, in evaluation mode.
        model: whose weights it has.
        output_dir: see there.
        factor: likewise; None takes that of the network.
        detail: likewise.
        flat_detail: likewise.
        parts: likewise.
        formats: likewise.
        overwrite: likewise.
        progress: likewise.

    Raises:
        LdmsrError: as there.
    """
    folder = Path(output_dir)
    _check(folder, parts, formats, overwrite)
    have = network_parts(on_device(network, "cpu"), factor, detail, flat_detail)
    missing = [name for name in parts if name not in have]
    if missing:
        raise SettingsError(f"The bundle has no part {missing[0]}; its parts are {', '.join(have)}.")
    chosen = {name: part for name, part in have.items() if not parts or name in parts}
    about = {
        "notice": RESEARCH_NOTICE,
        "bundle": f"{model.name} {model.version}",
        "weights_sha256": model.weights_sha256,
    }
    described: dict[str, Any] = {}
    with partial_folder(folder) as place:
        for n, (name, part) in enumerate(chosen.items()):
            say = _steps(progress, name, n / len(chosen))
            described[name] = _described(part, _write_part(name, part, place, formats, about, say))
        text = json.dumps(
            {**_about_all(network, model, have["network"]), "parts": described}, indent=2, allow_nan=False
        )
        (place / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")
    files = {one["file"]: one for part in described.values() for one in part["files"].values()}
    sizes = {name: (folder / name).stat().st_size for name in files}
    return ExportSummary(folder, sizes, {name: one["largest_difference"] for name, one in files.items()})


def _steps(progress: Callable[[str, float], None] | None, name: str, share: float) -> Callable[[str], None]:
    return lambda what: progress(f"{name}: {what}", share) if progress else None


def _check(folder: Path, parts: Sequence[str], formats: Sequence[str], overwrite: bool) -> None:
    for given, known, what in ((parts, PARTS, "part"), (formats, FORMATS, "format")):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise SettingsError(f"There is no {what} '{unknown[0]}'; choose among {', '.join(known)}.")
    if not formats:
        raise SettingsError(f"No format was given; choose among {', '.join(FORMATS)}.")
    if "onnx" in formats:
        check_installed()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / DESCRIPTION_FILE).is_file():
            raise OutputError(f"'{folder.name}' is there and was not written by an export. Choose another folder.")
        if not overwrite:
            raise OutputError(f"'{folder.name}' holds an export. Choose another folder, or overwrite it (--overwrite).")


def _write_part(
    name: str,
    part: NetworkPart,
    place: Path,
    formats: Sequence[str],
    about: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    say("following it")
    program = exported(part)
    files = {}
    for kind in dict.fromkeys(formats):
        path = place / f"{name}{EXTENSIONS[kind]}"
        say(f"writing {path.name}")
        write(kind, program, part, path, about)
        difference = _difference(kind, path, part)
        if not difference <= _TOLERANCE:
            raise WeightsError(
                f"{path.name} differs from the network by {difference:.2g} (tolerance {_TOLERANCE:.0e}), so nothing is "
                "written. Check the weights for values that are not finite, and the versions of torch and onnxruntime."
            )
        files[kind] = {"file": path.name, "sha256": file_sha256(path), "largest_difference": difference}
        files[kind] |= {"opset": OPSET} if kind == "onnx" else {}
    return files


def _difference(kind: str, path: Path, part: NetworkPart) -> float:
    """Largest difference of the file's outputs from those of the module; infinite where shapes do not fit."""
    run, largest = reader(kind, path), 0.0
    for size in _COMPARED:
        inputs = part.example(*size)
        with torch.no_grad():
            expected = part.module(*inputs)
        expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        for one, other in zip(expected, run(*inputs), strict=True):
            fits = one.shape == other.shape
            found = float((one - other).abs().max() / one.abs().max().clamp(min=1.0)) if fits else math.inf
            largest = found if found > largest or math.isnan(found) else largest
    return largest


def _described(part: NetworkPart, files: Mapping[str, Any]) -> dict[str, Any]:
    def tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        return {name: {"dtype": "float32", **asdict(spec)} for name, spec in specs.items()}

    return {
        "meaning": part.meaning,
        "inputs": tensors(part.inputs),
        "outputs": tensors(part.outputs),
        "files": dict(files),
    }


def _about_all(network: SliceNetwork, model: BundleModel, whole: NetworkPart) -> dict[str, Any]:
    found = {
        "notice": RESEARCH_NOTICE,
        "bundle": model.name,
        "bundle_version": model.version,
        "weights_sha256": model.weights_sha256,
        "monai_ldmsr": __version__,
        "torch": torch.__version__,
        "intensity": _INTENSITY,
        "tolerance": _TOLERANCE,
        "factors": list(network.factors.in_plane),
    }
    if isinstance(network, SuperResolver) and isinstance(whole.module, PureResolver):
        found |= {
            "factors": list(whole.module.factors.in_plane),
            "operator": network.operator,
            "evaluations_per_slice": network.sampler.evaluations if whole.module.with_sample else 1,
            "detail_by_modality": {name: network.describe(name)["detail"] for name in MODALITIES},
            "detail": whole.module.detail,
            "flat_detail": whole.module.flat_detail,
        }
        if whole.module.with_sample:
            fields = asdict(whole_noise(network, whole.module.factors))
            # JSON has no infinity; SliceNoise reads the word.
            found["noise_fields"] = {key: "inf" if value == math.inf else value for key, value in fields.items()}
    return found

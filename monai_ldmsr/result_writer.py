"""Write one case: the series or volume file, and the report beside it, in a folder that appears when whole."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.assessment import assess, slice_panels
from monai_ldmsr.case import CaseOutput, ComputedCase, WrittenOutput
from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.geometry import Factors, VolumeGeometry
from monai_ldmsr.io import (
    Derivation,
    DicomSeries,
    VolumeFile,
    write_derived_series,
    write_volume_file,
)
from monai_ldmsr.io.earlier_result import is_of_another_source
from monai_ldmsr.io.value_meaning import lost_meaning
from monai_ldmsr.io.written_files import FileMark, verified_files
from monai_ldmsr.metrics.sharpness import METRICS
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import count_parameters
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.report import (
    RESEARCH_NOTICE,
    DegradationSummary,
    ModelSummary,
    OutputSummary,
    PhaseDurations,
    ResultSummary,
    SourceSummary,
    SRReport,
    render_html,
)
from monai_ldmsr.settings import checked
from monai_ldmsr.storage import partial_folder
from monai_ldmsr.transforms import volume_of

__all__ = [
    "METHOD",
    "BundleModel",
    "HeaderTexts",
    "ImageOutput",
    "ResultWriter",
    "WrittenCase",
    "derivation_of",
    "moment",
    "source_date",
]

#: How the result was made, in words for the DICOM header and the report.
METHOD = "Conditional latent diffusion super-resolution of each slice"

_GREY = "Sharpness is taken on 0 to 255 grey levels of the model's intensity range, slice by slice."

#: The count of bounded voxels is always in the report; above this share of all voxels it is a warning too.
_MANY_BOUNDED = 0.05

_PACKAGES = ("monai", "torch", "pydicom", "highdicom", "nibabel", "SimpleITK", "numpy")


@dataclass(frozen=True)
class BundleModel:
    """Identity of a bundle's weights.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        weights_sha256: hash of the weights' file that was loaded.
        method: how a result was made, for DICOM headers.
    """

    name: str
    version: str
    weights_sha256: str
    method: str = METHOD


@dataclass(frozen=True)
class WrittenCase:
    """A result in its place.

    Args:
        report: the report as it was written.
        files: files of the result folder, as read back from disk.
        series_uid: Series Instance UID of a derived DICOM series; empty for a volume file.
    """

    report: SRReport
    files: Mapping[str, FileMark]
    series_uid: str = ""


def moment(created: datetime | str | None) -> datetime | None:
    """Time with its zone from ISO 8601 text; without one it is in UTC.

    Raises:
        SettingsError: the text is no such time.

    Example:
        >>> moment("2026-01-31T12:00:00").isoformat()
        '2026-01-31T12:00:00+00:00'
    """
    try:
        time_ = datetime.fromisoformat(created) if isinstance(created, str) else created
    except ValueError:
        raise SettingsError(
            f"created is {created!r}, which is no time in ISO 8601, such as 2026-01-31T12:00:00+00:00."
        ) from None
    return time_ if time_ is None or time_.tzinfo is not None else time_.replace(tzinfo=timezone.utc)


def source_date() -> datetime | None:
    """Time of https://reproducible-builds.org/specs/source-date-epoch, None where it is not set.

    Raises:
        SettingsError: it is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        return datetime.fromtimestamp(int(text), timezone.utc) if text else None
    except (ValueError, OverflowError, OSError):
        raise SettingsError(
            f"SOURCE_DATE_EPOCH is {text!r}, which is no number of seconds since 1970. Set it right or not at all."
        ) from None


@dataclass(frozen=True)
class HeaderTexts:
    """What a user sets in the headers of DICOM results; None takes what is usual.

    Args:
        created: time at which the result says that it was made, with its time zone; reports say so, too.
        series_number: see :class:`~monai_ldmsr.io.Derivation`.
        series_description: likewise.

    Raises:
        SettingsError: number or description cannot be written.
    """

    created: datetime | None = None
    series_number: int | None = None
    series_description: str | None = None

    def __post_init__(self) -> None:
        checked({"series_number": self.series_number, "series_description": self.series_description})


def derivation_of(
    model: BundleModel,
    network: SliceNetwork,
    settings: Mapping[str, Any] | None = None,
    texts: HeaderTexts = HeaderTexts(),
) -> Derivation:
    """What a DICOM header must say about a result of this network and these settings."""
    return _derivation(model, network.factors, network.describe().get("seed"), settings or {}, texts)


def _derivation(
    model: BundleModel, factors: Factors, seed: int | None, settings: Mapping[str, Any], texts: HeaderTexts
) -> Derivation:
    return Derivation(
        factor=factors,
        method=model.method,
        software_version=__version__,
        weights_sha256=model.weights_sha256,
        seed=seed,
        settings={key: value for key, value in settings.items() if isinstance(value, str | int | float)},
        made_at=texts.created,
        series_number=texts.series_number,
        series_description=texts.series_description,
    )


class ImageOutput:
    """The result's voxels in the form of the source: a derived DICOM series, or a volume file.

    Args:
        model: identity of the weights.
        device: where the network runs.
        texts: what the user sets in headers.
    """

    def __init__(self, model: BundleModel, device: str, texts: HeaderTexts) -> None:
        self.model = model
        self.device = device
        self.texts = texts

    def write(self, case: ComputedCase, folder: Path) -> WrittenOutput:
        """Write ``dicom/*.dcm`` or ``<case>_sr.<extension>``."""
        source, voxels = case.source, case.result.as_tensor()[0].cpu().numpy()
        if isinstance(source, VolumeFile):
            path = folder / f"{case.name}_sr{source.extension}"
            return WrittenOutput("volume file", 1, write_volume_file(source, voxels, path, RESEARCH_NOTICE))
        # Devices round differently, so each has UIDs of its own.
        settings = {**case.settings, "device": self.device.split(":")[0]}
        derivation = _derivation(self.model, case.factors, case.described.get("seed"), settings, self.texts)
        written = write_derived_series(source, voxels, folder / "dicom", derivation)
        return WrittenOutput("image series", len(written.paths), written.n_clipped, written.series_instance_uid)


class ResultWriter:
    """Write results of one network.

    Args:
        model: identity of the weights.
        network: what super-resolved; gives factors and number of weights.
        settings: what changes the result beside what network, inferer and projection say of themselves.
        device: where the network runs.
        texts: what the user sets in headers.
        outputs: what is made of each case beside the images and the report.
    """

    def __init__(
        self,
        model: BundleModel,
        network: SliceNetwork,
        settings: Mapping[str, Any],
        device: str,
        texts: HeaderTexts = HeaderTexts(),
        outputs: Sequence[CaseOutput] = (),
    ) -> None:
        self.model = model
        self.network = network
        self._settings = dict(settings)
        self.device = device
        self.texts = texts
        self.outputs: list[CaseOutput] = [ImageOutput(model, device, texts), *outputs]

    def write(
        self,
        data: Mapping[str, Any],
        name: str,
        output_dir: Path,
        times: tuple[float, float, float],
        described: Mapping[str, Any],
    ) -> WrittenCase:
        """Write ``output_dir/name`` with all outputs, ``report.json`` and ``report.html``.

        Args:
            data: ``source``, ``pred`` (1, fI, fJ, K) in the source's unit, ``image_intensity`` and ``pred_projection``.
            name: name of the folder.
            output_dir: parent of the case's folder.
            times: clock (``time.perf_counter``) at the start, after reading, after super-resolution.
            described: what network and inferer say of the call that made the result.

        Raises:
            OutputError: when the folder cannot be written, or does not read back as written; nothing is left of it
                then.
        """
        _refuse_outside(output_dir, name)
        _refuse_foreign(output_dir / name, data["source"])
        case = ComputedCase.of(data, name, self.network.factors, described, self._settings)
        files: dict[str, FileMark] = {}
        with partial_folder(output_dir / name, lambda written: files.update(verified_files(written))) as folder:
            outputs = [output.write(case, folder) for output in self.outputs]
            report = self._report(case, outputs, times)
            source = volume_of(case.source, hide_padding=False)
            panels = slice_panels(source, case.result, case.factors, case.intensity, case.source.modality)
            report.write_json(folder / "report.json")
            (folder / "report.html").write_text(render_html(report, panels), encoding="utf-8")
        return WrittenCase(report, files, outputs[0].series_uid)

    def _report(
        self, case: ComputedCase, outputs: Sequence[WrittenOutput], times: tuple[float, float, float]
    ) -> SRReport:
        source, projection = case.source, case.projection
        operator = projection.settings["operator"]
        metrics = assess(
            volume_of(source, hide_padding=False),
            case.result,
            case.factors,
            case.intensity,
            source.unit,
            projection.disagreement,
            operator,
        )
        settings = {
            **case.settings,
            "intensity_values": case.intensity.values,
            "intensity_levels": case.intensity.levels,
        }
        definitions = {**{metric.name: metric.definition for metric in METRICS}, "grey_levels": _GREY}
        report = SRReport(
            case=case.name, status="done", modality=source.modality, unit=source.unit,
            source=SourceSummary(**_grid(source, source.geometry)),
            result=ResultSummary(**_grid(source, case.geometry), n_clipped=outputs[0].n_clipped,
                                 n_bounded=projection.n_bounded, n_voxels=case.result.numel(),
                                 overshoot=projection.overshoot),
            factor=case.factors.whole[0], factors=case.factors, settings=settings, seed=case.described.get("seed"),
            model=self._model_summary(case.described), versions=_versions(), device=self.device,
            degradation=DegradationSummary(operator, OPERATORS[operator].definition), metrics=metrics,
            definitions=definitions, duration_s=_durations(times, source.geometry.shape[2]),
            warnings=_warnings(case), outputs=tuple(OutputSummary(one.kind, one.n_files) for one in outputs),
        )  # fmt: skip
        created = self.texts.created
        return report if created is None else replace(report, created=created.isoformat(timespec="seconds"))

    def _model_summary(self, described: Mapping[str, Any]) -> ModelSummary:
        return ModelSummary(
            self.model.name,
            self.model.version,
            self.model.weights_sha256,
            count_parameters(self.network),
            described.get("evaluations_per_slice", 1),
        )


def _grid(source: DicomSeries | VolumeFile, geometry: VolumeGeometry) -> dict[str, Any]:
    form = (source.extension.lstrip("."), 1) if isinstance(source, VolumeFile) else ("DICOM", len(source.headers))
    return {
        "shape": geometry.shape,
        "spacing_mm": geometry.spacing_mm,
        "affine": geometry.affine.tolist(),
        "format": form[0],
        "n_images": form[1],
    }


def _warnings(case: ComputedCase) -> tuple[str, ...]:
    source, n_bounded, n_voxels = case.source, case.projection.n_bounded, case.result.numel()
    found = [*source.warnings]
    if isinstance(source, DicomSeries):
        found += lost_meaning(source.headers, source.modality)
    if n_bounded > _MANY_BOUNDED * n_voxels:
        found.append(
            f"The network set {100 * n_bounded / n_voxels:.2g} % of voxels to values that the source around them rules "
            "out. They were brought back; the mean of each block of pixels was kept."
        )
    return tuple(found)


def _refuse_outside(output_dir: Path, case: str) -> None:
    """Names are made of safe letters before they come here; a folder elsewhere must not depend on that alone."""
    if case in ("", ".", "..") or (output_dir / case).parent != output_dir or "\0" in case:
        raise OutputError("The name of a case leads out of the output folder, so nothing is written there.")


def _refuse_foreign(folder: Path, source: DicomSeries | VolumeFile) -> None:
    """An earlier result of the same source may be replaced; anything else of that name is somebody's data."""
    if folder.is_symlink() or (folder.exists() and not (folder / "report.json").is_file()):
        raise OutputError(
            f"'{folder.name}' in the output folder exists and is no earlier result, so it is not replaced. "
            "Choose another output folder."
        )
    if is_of_another_source(folder, source):
        raise OutputError(
            f"'{folder.name}' in the output folder is the result of another source, so it is not replaced. Choose "
            "another output folder, or remove that result."
        )


def _durations(times: tuple[float, float, float], n_slices: int) -> PhaseDurations:
    start, read, computed = times
    now = time.perf_counter()
    return PhaseDurations(
        read=read - start,
        super_resolve=computed - read,
        write=now - computed,
        total=now - start,
        per_slice=(computed - read) / n_slices,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "monai_ldmsr": __version__}
    return {**found, **{name: version(name) for name in _PACKAGES}}

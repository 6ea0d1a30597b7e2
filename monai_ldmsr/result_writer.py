"""Write one case: the series or volume file, and the report beside it, in a folder that appears when whole."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from monai_ldmsr._version import __version__
from monai_ldmsr.assessment import assess, slice_panels
from monai_ldmsr.errors import OutputError, SettingsError
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
from monai_ldmsr.metrics.sharpness import DEFINITIONS
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import count_parameters
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.report import (
    RESEARCH_NOTICE,
    DegradationSummary,
    ModelSummary,
    PhaseDurations,
    ResultSummary,
    SourceSummary,
    SRReport,
    render_html,
)
from monai_ldmsr.settings import checked
from monai_ldmsr.storage import partial_folder
from monai_ldmsr.transforms import volume_of
from monai_ldmsr.transforms.source import SourceProjection

__all__ = [
    "METHOD",
    "BundleModel",
    "HeaderTexts",
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

#: What a network says of itself that has a place of its own in the report.
_NO_SETTINGS = ("seed", "evaluations_per_slice")

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
        report: as it was written.
        files: of the result folder, as read back from disk.
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
        created: when the result says that it was made, with its time zone; reports say so, too.
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
    plain = {key: value for key, value in (settings or {}).items() if isinstance(value, str | int | float)}
    return Derivation(
        factor=network.factors.whole[0],
        method=model.method,
        software_version=__version__,
        weights_sha256=model.weights_sha256,
        seed=network.describe().get("seed"),
        settings=plain,
        made_at=texts.created,
        series_number=texts.series_number,
        series_description=texts.series_description,
    )


class ResultWriter:
    """Write results of one network.

    Args:
        model: identity of the weights.
        network: what super-resolved; gives factors and number of weights.
        settings: what changes the result beside what network, inferer and projection say of themselves.
        device: where the network runs.
        texts: what the user sets in headers.
    """

    def __init__(
        self,
        model: BundleModel,
        network: SliceNetwork,
        settings: Mapping[str, Any],
        device: str,
        texts: HeaderTexts = HeaderTexts(),
    ) -> None:
        self.model = model
        self.network = network
        self._settings = dict(settings)
        self.device = device
        self.texts = texts

    def write(
        self,
        data: Mapping[str, Any],
        case: str,
        output_dir: Path,
        times: tuple[float, float, float],
        described: Mapping[str, Any],
    ) -> WrittenCase:
        """Write ``output_dir/case`` with the result, ``report.json`` and ``report.html``.

        Args:
            data: ``source``, ``pred`` (1, fI, fJ, K) in the source's unit, ``image_intensity`` and ``pred_projection``.
            case: name of the folder.
            output_dir: parent of the case's folder.
            times: clock (``time.perf_counter``) at the start, after reading, after super-resolution.
            described: what network and inferer say of the call that made the result.

        Raises:
            OutputError: when the folder cannot be written, or does not read back as written; nothing is left of it
                then.
        """
        _refuse_outside(output_dir, case)
        _refuse_foreign(output_dir / case, data["source"])
        files: dict[str, FileMark] = {}
        with partial_folder(output_dir / case, lambda written: files.update(verified_files(written))) as folder:
            clipped, series_uid = self._write_voxels(data, case, folder, described)
            report = self._report(data, case, clipped, times, described)
            source = volume_of(data["source"], hide_padding=False)
            modality = data["source"].modality
            panels = slice_panels(source, data["pred"], report.factor, data["image_intensity"], modality)
            report.write_json(folder / "report.json")
            (folder / "report.html").write_text(render_html(report, panels), encoding="utf-8")
        return WrittenCase(report, files, series_uid)

    def _write_voxels(
        self, data: Mapping[str, Any], case: str, folder: Path, described: Mapping[str, Any]
    ) -> tuple[int, str]:
        """Write the result's voxels; how many were clipped on the way to the stored type, and the new series' UID."""
        source: DicomSeries | VolumeFile = data["source"]
        voxels = data["pred"].as_tensor()[0].cpu().numpy()
        if isinstance(source, VolumeFile):
            clipped = write_volume_file(source, voxels, folder / f"{case}_sr{source.extension}", RESEARCH_NOTICE)
            return clipped, ""
        # Devices round differently, so each has UIDs of its own.
        settings = {**self._all_settings(data, described), "device": self.device.split(":")[0]}
        derivation = derivation_of(self.model, self.network, settings, self.texts)
        written = write_derived_series(source, voxels, folder / "dicom", derivation)
        return written.n_clipped, written.series_instance_uid

    def _report(
        self,
        data: Mapping[str, Any],
        case: str,
        n_clipped: int,
        times: tuple[float, float, float],
        described: Mapping[str, Any],
    ) -> SRReport:
        source: DicomSeries | VolumeFile = data["source"]
        pred: MetaTensor = data["pred"]
        factor = self.network.factors.whole[0]
        result = source.geometry.upsampled(self.network.factors.whole)
        kind = "DICOM" if isinstance(source, DicomSeries) else source.extension.lstrip(".")
        n_images = len(source.headers) if isinstance(source, DicomSeries) else 1
        source_grid, result_grid = (
            {
                "shape": g.shape,
                "spacing_mm": g.spacing_mm,
                "affine": g.affine.tolist(),
                "format": kind,
                "n_images": n_images,
            }
            for g in (source.geometry, result)
        )
        warnings = [*source.warnings]
        if isinstance(source, DicomSeries):
            warnings += lost_meaning(source.headers, source.modality)
        projection: SourceProjection = data["pred_projection"]
        n_bounded = projection.n_bounded
        if n_bounded > _MANY_BOUNDED * pred.numel():
            warnings.append(
                f"The network set {100 * n_bounded / pred.numel():.2g} % of voxels to values that the source around "
                "them rules out. They were brought back; the mean of each block of pixels was kept."
            )
        operator = projection.settings["operator"]
        metrics = assess(
            volume_of(source, hide_padding=False),
            pred,
            factor,
            data["image_intensity"],
            source.unit,
            projection.disagreement,
            operator,
        )
        settings = {
            **self._all_settings(data, described),
            "intensity_values": data["image_intensity"].values,
            "intensity_levels": data["image_intensity"].levels,
        }
        report = SRReport(
            case=case, status="done", modality=source.modality, unit=source.unit,
            source=SourceSummary(**source_grid),
            result=ResultSummary(**result_grid, n_clipped=n_clipped, n_bounded=n_bounded, n_voxels=pred.numel(),
                                 overshoot=projection.overshoot),
            factor=factor, settings=settings, seed=described.get("seed"),
            model=self._model_summary(described), versions=_versions(), device=self.device,
            degradation=DegradationSummary(operator, OPERATORS[operator].definition), metrics=metrics,
            definitions={**DEFINITIONS, "grey_levels": _GREY}, duration_s=_durations(times, source.geometry.shape[2]),
            warnings=tuple(warnings),
        )  # fmt: skip
        created = self.texts.created
        return report if created is None else replace(report, created=created.isoformat(timespec="seconds"))

    def _all_settings(self, data: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
        of_call = {key: value for key, value in described.items() if key not in _NO_SETTINGS}
        return {**self._settings, **of_call, **data["pred_projection"].settings}

    def _model_summary(self, described: Mapping[str, Any]) -> ModelSummary:
        return ModelSummary(
            self.model.name,
            self.model.version,
            self.model.weights_sha256,
            count_parameters(self.network),
            described.get("evaluations_per_slice", 1),
        )


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

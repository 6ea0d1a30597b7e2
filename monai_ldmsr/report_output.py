"""The output that says what was made of a case and how well: ``report.json`` and ``report.html``."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from monai_ldmsr._version import __version__
from monai_ldmsr.assessment import assess, slice_panels
from monai_ldmsr.case import ComputedCase, WrittenOutput
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.image_output import BundleModel
from monai_ldmsr.io import DicomSeries, VolumeFile
from monai_ldmsr.io.derived_objects import DerivedImages
from monai_ldmsr.io.image_kind import MAPS_FOLDER
from monai_ldmsr.io.measurement_report import Figure, write_measurements
from monai_ldmsr.io.value_meaning import lost_meaning
from monai_ldmsr.io.written_files import FileCheck, check_document, check_json, check_text
from monai_ldmsr.metrics.native import FLAT_DEFINITIONS
from monai_ldmsr.metrics.sharpness import METRICS
from monai_ldmsr.metrics.stack import STACK_DEFINITIONS
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import count_parameters
from monai_ldmsr.operators import OPERATORS
from monai_ldmsr.reformats import StackPlanes, reformat_panels
from monai_ldmsr.report import (
    DegradationSummary,
    MetricSummary,
    ModelSummary,
    OutputSummary,
    PhaseDurations,
    ResultSummary,
    SlicePanel,
    SliceSummary,
    SourceSummary,
    SRReport,
    render_html,
)
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.stack_assessment import assess_stack
from monai_ldmsr.transforms import volume_of

__all__ = ["ReportOutput", "WrittenReport"]

_GREY_OF_PLANES = (
    "Sharpness is taken on 0 to 255 grey levels of the model's intensity range, on planes that hold the axis of the "
    "stack, plane by plane."
)
_GREY = "Sharpness is taken on 0 to 255 grey levels of the model's intensity range, slice by slice."

#: The count of bounded voxels is always in the report; above this share of all voxels it is a warning too.
_MANY_BOUNDED = 0.05

#: Kinds of maps that pictures show.
_DRAWN = ("expected_error", "trusted")

_PACKAGES = ("monai", "torch", "pydicom", "highdicom", "nibabel", "SimpleITK", "numpy")


@dataclass(frozen=True)
class WrittenReport(WrittenOutput):
    """The report's files, and what they say."""

    report: SRReport = field(kw_only=True)


class ReportOutput:
    """The report, as data and as a page.

    Args:
        model: identity of the weights.
        network: what super-resolved; gives the number of weights.
        device: where the network runs.
        created: time at which it says that it was made, with its time zone; now when None.
        is_structured: whether a DICOM result gets its figures as a Structured Report, too.
    """

    def __init__(
        self,
        model: BundleModel,
        network: SliceNetwork,
        device: str,
        created: datetime | None = None,
        is_structured: bool = False,
    ) -> None:
        self.model = model
        self.network = network
        self.device = device
        self.created = created
        self.is_structured = is_structured

    def write(self, case: ComputedCase, folder: Path, before: Sequence[WrittenOutput] = ()) -> WrittenReport:
        """Write ``report.json`` and ``report.html``, and before them ``maps/measurements.dcm`` where it is asked for.

        Args:
            case: what was computed.
            folder: folder of the case, which is not in its place yet.
            before: the case's other outputs, which the report lists; the images first.

        Raises:
            OutputError: it cannot be written.
        """
        source = volume_of(case.source, hide_padding=False)
        report = self._report(case, source, before)
        panels = _panels(case, source)
        files: dict[str, FileCheck] = {"report.json": check_json, "report.html": check_text}
        if self.is_structured and isinstance(case.source, DicomSeries) and not case.file_name:
            path = folder / MAPS_FOLDER / "measurements.dcm"
            write_measurements(DerivedImages.below(folder / "dicom"), figures_of(report), path)
            report = replace(report, outputs=(*report.outputs, OutputSummary("structured report", 1)))
            files[path.relative_to(folder).as_posix()] = check_document
        report.write_json(folder / "report.json")
        (folder / "report.html").write_text(render_html(report, panels), encoding="utf-8")
        return WrittenReport("report", files, report=report)

    def _report(self, case: ComputedCase, volume: MetaTensor, before: Sequence[WrittenOutput]) -> SRReport:
        source, projection = case.source, case.projection
        operator = projection.settings["operator"]
        metrics = _metrics(case, volume)
        settings = {
            **case.settings,
            "intensity_values": case.intensity.values,
            "intensity_levels": case.intensity.levels,
        }
        definitions = {**{metric.name: metric.definition for metric in METRICS}, "grey_levels": _GREY}
        plan = _plan_of(case)
        if plan is None:
            definitions |= FLAT_DEFINITIONS
        else:
            definitions |= {"grey_levels": _GREY_OF_PLANES, **STACK_DEFINITIONS}
        report = SRReport(
            case=case.name, status="done", modality=source.modality, unit=source.unit,
            source=SourceSummary(**_grid(source, source.geometry)),
            result=ResultSummary(**_grid(source, case.geometry), n_clipped=next((one.n_clipped for one in before), 0),
                                 n_bounded=projection.n_bounded, n_voxels=case.result.numel(),
                                 overshoot=projection.overshoot),
            factor=int(case.grid.factors.i), factors=case.grid.factors, settings=settings,
            seed=case.described.get("seed"),
            model=ModelSummary(self.model.name, self.model.version, self.model.weights_sha256,
                               count_parameters(self.network), case.described.get("evaluations_per_slice", 1)),
            versions=_versions(), device=self.device,
            degradation=DegradationSummary(operator, OPERATORS[operator].definition), metrics=metrics,
            definitions=definitions, duration_s=_durations(case.times, source.geometry.shape[2]), changed=case.changed,
            trust=case.trust, slices=None if plan is None else SliceSummary.of(plan),
            warnings=_warnings(case, metrics), outputs=tuple(OutputSummary(one.kind, len(one.files)) for one in before),
        )  # fmt: skip
        return report if self.created is None else replace(report, created=self.created.isoformat(timespec="seconds"))


def figures_of(report: SRReport) -> list[Figure]:
    """Those of a report that its Structured Report has; none that was not measured."""
    unit, metrics, trust = report.unit, report.metrics, report.trust
    error = trust.expected_error if trust else None
    flat = metrics.flat_tissue
    found: list[tuple[str, str, float | None, str]] = [
        ("LAPLACE_BICUBIC", "Laplacian variance of bicubic interpolation", metrics.bicubic.laplacian_variance, ""),
        ("LAPLACE_RESULT", "Laplacian variance of the result", metrics.result.laplacian_variance, ""),
        ("DISAGREEMENT", "Mean absolute difference from the source", metrics.agreement.mean_abs, unit),
        ("NOISE_SOURCE", "Noise in flat tissue of the source", flat.noise_source if flat else None, unit),
        ("NOISE_RESULT", "Noise in flat tissue of the result", flat.noise_result if flat else None, unit),
    ]
    if error is not None:
        share = None if error.share_trusted is None else 100 * error.share_trusted
        known = "calibrated" if error.is_calibrated else "not calibrated"
        found += [
            ("EXPECTED_ERROR", f"Median half width of the interval ({known})", error.half_width_median, unit),
            ("EXPECTED_ERR_P95", f"95th percentile of the half width ({known})", error.half_width_p95, unit),
            ("SHARE_TRUSTED", "Share of voxels that are trusted at the tolerance", share, "%"),
            ("TOLERANCE", "Error that is tolerated", error.tolerance, unit),
        ]
    if trust is not None:
        found += [
            (
                "CONTRADICTION",
                "Greatest contradiction of a slice, RMS",
                max(trust.contradiction.rms, default=None),
                unit,
            ),
            ("SLICES_ALARMED", "Slices contradicted above the alarm level", float(len(trust.contradiction.alarms)), ""),
        ]
    return [Figure(*one[:2], one[2], one[3]) for one in found if one[2] is not None]


def _plan_of(case: ComputedCase) -> SlicePlan | None:
    """Where the case's new slices lie; None where its slices are those of the source."""
    if case.plan is not None or not case.grid.has_own_slices:
        return case.plan
    geometry = case.source.geometry
    n_source, spacing = geometry.shape[2], geometry.spacing_mm[2]
    return SlicePlan(n_source, case.grid.places(n_source), spacing, spacing, is_assumed=True)


def _planes(case: ComputedCase, volume: MetaTensor, plan: SlicePlan) -> StackPlanes:
    return StackPlanes(volume, case.result, plan, case.grid.factors, case.intensity, case.source.modality)


def _metrics(case: ComputedCase, volume: MetaTensor) -> MetricSummary:
    plan, unit, projection = _plan_of(case), case.source.unit, case.projection
    found = projection.disagreement, projection.settings["operator"]
    if plan is None:
        return assess(volume, case.result, case.grid.factors, case.intensity, unit, *found)
    return assess_stack(_planes(case, volume, plan), unit, *found)


def _panels(case: ComputedCase, volume: MetaTensor) -> list[SlicePanel]:
    plan = _plan_of(case)
    maps = {one.kind: one.values for one in case.maps if one.kind in _DRAWN and one.values.shape == case.result.shape}
    if plan is None:
        return slice_panels(volume, case.result, case.grid.factors, case.intensity, case.source.modality, maps)
    return reformat_panels(_planes(case, volume, plan), case.geometry.affine, maps)


def _grid(source: DicomSeries | VolumeFile, geometry: VolumeGeometry) -> dict[str, Any]:
    form = (source.extension.lstrip("."), 1) if isinstance(source, VolumeFile) else ("DICOM", len(source.headers))
    return {
        "shape": geometry.shape,
        "spacing_mm": geometry.spacing_mm,
        "affine": geometry.affine.tolist(),
        "format": form[0],
        "n_images": form[1],
    }


#: Disagreement with the source, in part of its range, from which a result with new slices is warned of.
_POOR_AGREEMENT = 0.01


def _warnings(case: ComputedCase, metrics: MetricSummary) -> tuple[str, ...]:
    source, n_bounded, n_voxels = case.source, case.projection.n_bounded, case.result.numel()
    found = [*case.outside, *(metrics.flat_tissue.warnings if metrics.flat_tissue else ()), *source.warnings]
    if isinstance(source, DicomSeries):
        found += lost_meaning(source.headers, source.modality)
    if case.trust is not None:
        found += [one for one in (*case.trust.warnings, case.trust.alarm) if one]
    if case.plan is not None and (metrics.agreement.nrmse or 0.0) > _POOR_AGREEMENT:
        found.append(
            f"Averaged over the assumed slice profile, the result differs from the acquired slices by "
            f"{100 * (metrics.agreement.nrmse or 0.0):.2g} % (NRMSE). Check the slice thickness and profile that were "
            "assumed; slices that overlap cannot be given back in full."
        )
    kept = "block of pixels" if case.plan is None else "acquired slice's profile"
    if n_bounded > _MANY_BOUNDED * n_voxels:
        found.append(
            f"The network set {100 * n_bounded / n_voxels:.3g} % of voxels to values that the source around them rules "
            f"out. They were brought back; the mean of each {kept} was kept."
        )
    return tuple(found)


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

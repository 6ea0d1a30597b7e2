"""What was done to one case and how well: all that a reader needs to judge or repeat it, as plain data.

No field may hold a patient's attribute; ``case`` is the name that the user gave, never one from the header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import numpy as np

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.report.trust import TrustSummary
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.storage import replace_text

__all__ = [
    "RESEARCH_NOTICE",
    "Agreement",
    "DegradationSummary",
    "FlatTissue",
    "MetricSummary",
    "ModelSummary",
    "OutputSummary",
    "PhaseDurations",
    "ResultSummary",
    "SRReport",
    "Sharpness",
    "SliceSummary",
    "SourceSummary",
]

#: Every report carries this text; no setting removes it.
RESEARCH_NOTICE: Final = "This result was made by an algorithm. For research only, not for diagnosis."

#: Grows when a field changes its name or meaning, so that readers of old reports notice.
SCHEMA_VERSION: Final = 1

#: Noise of the result over the source's, and pattern over the source's noise, above which a report warns. On one slice
#: of each of 21 volumes (16 CT, 5 MR) of a calibration split, factor 2: noise at most 1.07 times the source's at the
#: usual detail, 1.20 at detail 1 and 1.21 by SRGAN, but 1.40 and more with white noise as strong as the source's;
#: pattern at most 0.06 by any network, but 0.18 and more with a checkerboard or mesh a quarter as strong as the noise.
NOISIER, PATTERN = 1.25, 0.12


@dataclass(frozen=True)
class SourceSummary:
    """Grid and form of a volume.

    Args:
        shape: voxels ``(I, J, K)``; slices lie along K.
        spacing_mm: distance between voxel centres along I, J, K.
        affine: (4, 4), voxel index to RAS millimetres.
        format: format as a reader would say it, for example ``"DICOM"`` or ``"NIfTI"``.
        n_images: number of DICOM images or of files.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: Sequence[Sequence[float]]
    format: str
    n_images: int


@dataclass(frozen=True)
class ResultSummary(SourceSummary):
    """Grid and form of the result.

    Args:
        n_clipped: voxels that lay outside what the stored type holds, and were set to its limit.
        n_bounded: voxels that the network set outside what the source around them allows; they were brought back.
        overshoot: share of the contrast of 3 x 3 source pixels by which a voxel may leave their range.
        n_voxels: number of all voxels.
    """

    n_clipped: int
    n_bounded: int
    overshoot: float
    n_voxels: int


@dataclass(frozen=True)
class SliceSummary:
    """Where new slices lie along the stack of the source, and what its slices are assumed to have averaged.

    Args:
        places: ``number`` of new slices, place of the ``first`` and ``step``, in slices of the source (0 is the centre
            of its first one).
        spacing_mm: distance between new slices, which is their thickness, too.
        source_spacing_mm: distance between acquired slices.
        profile: ``"box"`` or ``"gaussian"``.
        thickness_mm: width of that profile, at half height where it is Gaussian.
        is_thickness_assumed: whether no header says it.
        text: all of that in words.
    """

    places: Mapping[str, float]
    spacing_mm: float
    source_spacing_mm: float
    profile: str
    thickness_mm: float
    is_thickness_assumed: bool
    text: str

    @classmethod
    def of(cls, plan: SlicePlan) -> SliceSummary:
        """That of a plan."""
        return cls(
            plan.places._asdict(), plan.new_spacing_mm, plan.spacing_mm, plan.profile, plan.thickness_mm,
            plan.is_assumed, plan.words(),
        )  # fmt: skip


@dataclass(frozen=True)
class ModelSummary:
    """The network that made the result.

    Args:
        name: name of the bundle.
        version: version of the bundle.
        weights_sha256: hash of the weights' file.
        n_parameters: number of weights.
        evaluations_per_slice: how often the denoising network ran for each slice.
    """

    name: str
    version: str
    weights_sha256: str
    n_parameters: int
    evaluations_per_slice: int


@dataclass(frozen=True)
class DegradationSummary:
    """How a fine slice is assumed to have become the source's slice: name and definition in one sentence."""

    name: str
    definition: str


@dataclass(frozen=True)
class OutputSummary:
    """One thing that was made of the case: what it is, in a few words, and how many files."""

    kind: str
    n_files: int


@dataclass(frozen=True)
class Sharpness:
    """Figures without a reference, mean over the slices measured; None where one could not be measured.

    Args:
        laplacian_variance: see the report's definitions.
        fft: likewise.
        n_slices: number of slices that were measured.
        others: further metrics by name.
    """

    laplacian_variance: float | None
    fft: float | None
    n_slices: int
    others: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(cls, figures: Mapping[str, float | None], n_slices: int) -> Sharpness:
        """From figures by the names of metrics."""
        others = dict(figures)
        return cls(others.pop("laplacian_variance"), others.pop("fft"), n_slices, others)


@dataclass(frozen=True)
class Agreement:
    """The result, degraded again as assumed, against the source.

    Args:
        psnr_db: peak signal-to-noise ratio; None when the two are equal (it is infinite then).
        nrmse: root mean square error over the source's range, as a fraction.
        mean_abs: mean absolute difference in ``unit``.
        max_abs: largest absolute difference in ``unit``.
        mean_difference_percent: change of the mean intensity, in percent of the source's.
        unit: unit of intensities, for example ``"HU"``.
        rms_before_projection: root mean square difference in ``unit`` before the result was made to agree with the
            source: how far the network alone strayed. None when there was no such step.
    """

    psnr_db: float | None
    nrmse: float | None
    mean_abs: float | None
    max_abs: float | None
    mean_difference_percent: float | None
    unit: str
    rms_before_projection: float | None = None


@dataclass(frozen=True)
class FlatTissue:
    """Noise in flat tissue before and after, and patterns that are not anatomy.

    Args:
        noise_source: standard deviation in the source, in the source's unit.
        noise_bicubic: likewise, of bicubic interpolation.
        noise_result: likewise, of the result.
        comb: a pattern locked to the source's pixels, over the source's noise.
        mesh: regular waves, over the source's noise; None on planes along a stack, where it is not measured.
        n_tiles: places that were measured.
    """

    noise_source: float
    noise_bicubic: float
    noise_result: float
    comb: float
    mesh: float | None
    n_tiles: int

    @property
    def noise_ratio(self) -> float:
        """How many times as noisy as the source the result is."""
        return self.noise_result / self.noise_source

    @property
    def pattern(self) -> float:
        """The stronger one of the patterns that were measured."""
        return self.comb if self.mesh is None else max(self.comb, self.mesh)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong there, in whole sentences."""
        found = []
        if self.noise_ratio > NOISIER:
            found.append(
                f"In flat tissue the result is {self.noise_ratio:.2f} times as noisy as the source: what looks like "
                "fine detail may be noise. A lower detail makes it smoother."
            )
        if self.pattern > PATTERN:
            found.append(
                f"In flat tissue the result holds a regular pattern (a grid or mesh), {self.pattern:.2f} times as "
                "strong as the source's noise. It is not anatomy: look at the flat details, and do not use the result."
            )
        return tuple(found)


@dataclass(frozen=True)
class MetricSummary:
    """Figures of the source (bilinear, on the result's grid), of bicubic interpolation, and of the result.

    With new slices all of them are of planes that hold the axis of the stack, and the source is brought to them by
    linear interpolation. ``flat_tissue`` is None where there is none, or where it has no noise. ``z_gradient`` is by
    how much the result changes from slice to slice, over the same of bicubic interpolation; None without new slices.
    """

    source: Sharpness
    bicubic: Sharpness
    result: Sharpness
    agreement: Agreement
    flat_tissue: FlatTissue | None = None
    z_gradient: float | None = None


@dataclass(frozen=True)
class PhaseDurations:
    """Wall time of each phase in seconds, and of super-resolution a slice; None where not measured."""

    read: float | None
    super_resolve: float | None
    write: float | None
    total: float | None
    per_slice: float | None


def _now_utc() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class SRReport:
    """What was done to one case, and how well.

    Args:
        case: the user's name of the case.
        status: how the run ended, in one word for machines, for example ``"ok"``.
        modality: DICOM's word, for example ``"MR"``.
        unit: unit of intensities, for example ``"HU"``; empty when arbitrary.
        source: grid and form of the input.
        result: grid and form of the output.
        factor: how many times finer each slice was made, along rows and columns alike.
        settings: every number that changes the result, by name.
        seed: seed of the random numbers; None when none were drawn.
        model: the network that made the result.
        degradation: how the source is assumed to have come from a finer image.
        versions: versions of Python and of the packages used, by name.
        device: where the network ran, for example ``"cpu"``.
        metrics: sharpness and agreement.
        definitions: one sentence on each metric, by its field's name.
        duration_s: wall time.
        factors: the same along i, j and k (DICOM columns, rows, slices).
        slices: where new slices lie; None where slices are those of the source.
        outputs: what was made of the case, beside the report.
        changed: settings that differ from the bundle's own: of each, what is ``used`` and what is the ``bundle``'s.
        trust: expected errors, and what the network contradicted; None where nothing is known.
        warnings: what the reader must know before trusting the result, in whole sentences.
        created: ISO 8601 in UTC; now by default.
        research_notice: always `RESEARCH_NOTICE`.
        schema_version: version of this layout.

    Raises:
        SettingsError: when ``factor`` is below 1, or the research notice is not the fixed one.
    """

    case: str
    status: str
    modality: str
    unit: str
    source: SourceSummary
    result: ResultSummary
    factor: int
    settings: Mapping[str, Any]
    seed: int | None
    model: ModelSummary
    degradation: DegradationSummary
    versions: Mapping[str, str]
    device: str
    metrics: MetricSummary
    definitions: Mapping[str, str]
    duration_s: PhaseDurations
    changed: Mapping[str, Any] = field(default_factory=dict)
    trust: TrustSummary | None = None
    warnings: tuple[str, ...] = ()
    factors: tuple[float, ...] = ()
    slices: SliceSummary | None = None
    outputs: tuple[OutputSummary, ...] = ()
    created: str = field(default_factory=_now_utc)
    research_notice: str = RESEARCH_NOTICE
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise SettingsError(f"The factor is {self.factor}, but it must be at least 1.")
        if self.research_notice != RESEARCH_NOTICE:
            raise SettingsError(f'The research notice must read "{RESEARCH_NOTICE}".')

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's own types; numbers that are not finite become None.

        Raises:
            SettingsError: when a value of ``settings`` is of a type that JSON does not know.
        """
        plain: dict[str, Any] = _to_json(asdict(self))
        return plain

    def write_json(self, path: str | Path) -> None:
        """Write it as UTF-8 JSON without NaN.

        Raises:
            OutputError: when the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_text(Path(path), text)


def _to_json(value: Any) -> Any:
    """Turn a value into JSON's own types, recursively; NaN and infinity become None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise SettingsError(
        f"The report holds a {type(value).__name__}, which JSON does not know. Give numbers, texts, lists or dicts."
    )

"""The output that each case has: the result's voxels as a DICOM series or volume file, and what its headers say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.case import ComputedCase, WrittenOutput
from monai_ldmsr.choices import FORCED
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io import Derivation, VolumeFile, write_derived_series, write_volume_file
from monai_ldmsr.io.other_format import in_format_of
from monai_ldmsr.io.written_files import check_pixels, check_volume
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.settings import checked
from monai_ldmsr.slice_plan import SlicePlan

__all__ = [
    "METHOD",
    "BundleModel",
    "HeaderTexts",
    "ImageOutput",
    "derivation_of",
    "moment",
    "notice_of",
    "source_date",
]

#: How the result was made, in words for the DICOM header and the report.
METHOD = "Conditional latent diffusion super-resolution of each slice"


#: Of volume files whose source was super-resolved with ``force``; headers hold 79 characters.
_FORCED_NOTICE = "FORCED outside of its training. By an algorithm; research, not for diagnosis."


@dataclass(frozen=True)
class BundleModel:
    """Identity of a bundle's weights.

    Args:
        name: the bundle's name.
        version: the bundle's version.
        weights_sha256: hash of the weights' file that was loaded.
        method: how a result was made, for DICOM headers.
        planes_sha256: hash of the weights of planes across slices; empty where there are none.
    """

    name: str
    version: str
    weights_sha256: str
    method: str = METHOD
    planes_sha256: str = ""


@dataclass(frozen=True)
class HeaderTexts:
    """What a user sets in DICOM results beside their voxels; None takes what is usual.

    Args:
        created: time at which the result says that it was made, with its time zone; reports say so, too.
        series_number: see :class:`~monai_ldmsr.io.Derivation`.
        series_description: likewise.
        transfer_syntax: likewise.
        dicom_form: likewise.
        structured_report: whether figures are written as a Structured Report, too.

    Raises:
        SettingsError: one of them cannot be written.
    """

    created: datetime | None = None
    series_number: int | None = None
    series_description: str | None = None
    transfer_syntax: str = "explicit"
    dicom_form: str = "classic"
    structured_report: bool = False

    def __post_init__(self) -> None:
        checked(vars(self))


def notice_of(settings: Mapping[str, Any]) -> str:
    """What headers of volumes say of a result of these settings, in at most 79 characters."""
    return _FORCED_NOTICE if FORCED in settings else RESEARCH_NOTICE


def derivation_of(model: BundleModel, network: SliceNetwork, settings: Mapping[str, Any] | None = None) -> Derivation:
    """What a DICOM header must say about a result of this network and these settings."""
    grid = ResultGrid.of(network.factors)
    return _derivation(model, grid, None, network.describe().get("seed"), settings or {}, HeaderTexts(), ())


def _derivation(
    model: BundleModel,
    grid: ResultGrid,
    plan: SlicePlan | None,
    seed: int | None,
    settings: Mapping[str, Any],
    texts: HeaderTexts,
    changed: Iterable[str],
) -> Derivation:
    return Derivation(
        factor=grid,
        method=_method(model.method, grid, plan),
        software_version=__version__,
        weights_sha256=model.weights_sha256,
        seed=seed,
        settings={key: value for key, value in settings.items() if isinstance(value, str | int | float)},
        made_at=texts.created,
        series_number=texts.series_number,
        series_description=texts.series_description,
        transfer_syntax=texts.transfer_syntax,
        dicom_form=texts.dicom_form,
        changed=tuple(sorted(changed)),
        plan=plan,
    )


def _method(words: str, grid: ResultGrid, plan: SlicePlan | None) -> str:
    if plan is None:
        return words
    across = "planes across the slices"
    return words.replace("each slice", across if max(grid.factors.in_plane) == 1 else f"each slice, and of {across}")


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
        """Write ``dicom/*.dcm`` or ``<case>_sr.<extension>``, or the volume file of the case's ``file_name``."""
        source, voxels = case.source, case.result.as_tensor()[0].cpu().numpy()
        if case.file_name:
            source = in_format_of(PurePath(case.file_name), source)
        if isinstance(source, VolumeFile):
            path = folder / (case.file_name or f"{case.name}_sr{source.extension}")
            n_clipped = write_volume_file(source, voxels, case.grid, path, notice_of(case.settings))
            return WrittenOutput("volume file", {path.name: check_volume}, n_clipped)
        # Devices round differently, so each has UIDs of its own.
        settings = {**case.settings, "device": self.device.split(":")[0]}
        seed = case.described.get("seed")
        derivation = _derivation(self.model, case.grid, case.plan, seed, settings, self.texts, case.changed)
        written = write_derived_series(source, voxels, folder / "dicom", derivation)
        files = {path.relative_to(folder).as_posix(): check_pixels for path in written.paths}
        return WrittenOutput("image series", files, written.n_clipped, written.series_instance_uid)


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

"""Write all outputs of a case into a folder that appears when they are whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai_ldmsr.case import CaseOutput, ComputedCase
from monai_ldmsr.choices import of_modality
from monai_ldmsr.errors import OutputError
from monai_ldmsr.image_output import BundleModel, HeaderTexts, ImageOutput
from monai_ldmsr.io import DicomSeries, VolumeFile
from monai_ldmsr.io.derived_series import is_of_another_source
from monai_ldmsr.io.written_files import FileCheck, FileMark, verified_files
from monai_ldmsr.map_output import map_outputs
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.report import SRReport
from monai_ldmsr.report_output import ReportOutput
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.storage import partial_folder
from monai_ldmsr.transforms.source import SourceProjection

__all__ = ["BundleModel", "ResultWriter", "WrittenCase"]

#: What a network says of a call that has a place of its own in the report.
_NO_SETTINGS = ("seed", "evaluations_per_slice")


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


class ResultWriter:
    """Write results of one network.

    Args:
        model: identity of the weights.
        network: what super-resolved; gives factors and number of weights.
        settings: what changes the result beside what network, inferer and projection say of themselves.
        device: where the network runs.
        texts: what the user sets in headers.
        outputs: what is made of each case beside the images and the report.
        changed: settings that differ from the bundle's own: of each, what is ``used`` and what is the ``bundle``'s.

    Attributes:
        file_name: name of the volume file that is made of a case; empty for what follows from case and source.
    """

    file_name = ""

    def __init__(
        self,
        model: BundleModel,
        network: SliceNetwork,
        settings: Mapping[str, Any],
        device: str,
        texts: HeaderTexts,
        outputs: Sequence[CaseOutput] = (),
        changed: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.network = network
        self._settings, self._changed = dict(settings), dict(changed)
        self.outputs: list[CaseOutput] = [ImageOutput(model, device, texts), *map_outputs(), *outputs]
        self.report = ReportOutput(model, network, device, texts.created, texts.structured_report)

    def write(
        self,
        data: Mapping[str, Any],
        name: str,
        output_dir: Path,
        times: tuple[float, float, float],
        described: Mapping[str, Any],
    ) -> WrittenCase:
        """Write ``output_dir/name`` with all outputs, the report last.

        Args:
            data: what MONAI's dictionary transforms leave: ``source``, ``pred`` (1, I', J', K') in the source's unit,
                ``image_intensity`` and ``pred_projection``; where there are some, ``maps`` and ``pred_trust``; and
                with new slices ``pred_plan``, the ``SlicePlan`` by which they were made.
            name: name of the folder.
            output_dir: parent of the case's folder.
            times: see :class:`~monai_ldmsr.case.ComputedCase`.
            described: what network and inferer say of the call that made the result.

        Raises:
            OutputError: when the folder cannot be written, or does not read back as written; nothing is left of it
                then.
        """
        _refuse_outside(output_dir, name)
        _refuse_foreign(output_dir / name, data["source"])
        projection: SourceProjection = data["pred_projection"]
        plan: SlicePlan | None = data.get("pred_plan")
        planned = {} if plan is None else plan.described()
        of_call = {key: value for key, value in described.items() if key not in _NO_SETTINGS}
        case = ComputedCase(
            name,
            data["source"],
            data["pred"],
            data["image_intensity"],
            projection,
            self.network.factors,
            described,
            settings={**self._settings, **of_call, **projection.settings, **planned},
            times=times,
            file_name=self.file_name,
            maps=tuple(data.get("maps", ())),
            outside=tuple(data.get("outside", ())),
            trust=data.get("pred_trust"),
            changed=_changed_for(data["source"].modality, self._changed),
            plan=plan,
        )
        checks: dict[str, FileCheck] = {}
        files: dict[str, FileMark] = {}
        with partial_folder(output_dir / name, lambda folder: files.update(verified_files(folder, checks))) as folder:
            outputs = [one for output in self.outputs if (one := output.write(case, folder)).files]
            reported = self.report.write(case, folder, outputs)
            for one in (*outputs, reported):
                checks.update(one.files)
        return WrittenCase(reported.report, files, outputs[0].series_uid)


def _changed_for(modality: str, changed: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What differs for a modality, where values are given by modality."""
    own = {
        name: {key: of_modality(value, modality) if isinstance(value, Mapping) else value for key, value in one.items()}
        for name, one in changed.items()
    }
    return {name: one for name, one in own.items() if one["used"] != one["bundle"]}


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
    # A volume file that has changed has another name, by its content.
    if isinstance(source, DicomSeries) and is_of_another_source(folder, source):
        raise OutputError(
            f"'{folder.name}' in the output folder is the result of another source, so it is not replaced. Choose "
            "another output folder, or remove that result."
        )

"""One result as one file with a name of the user's, and its report beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.evaluator import SourceDataset
from monai_ldmsr.io import AnySource
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.formats import is_voxels_alone, stem, volume_extension, voxels_beside
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.map_files import map_file_name
from monai_ldmsr.io.source_choice import SourceChoice
from monai_ldmsr.io.tree import check_apart
from monai_ldmsr.map_output import MAP_FILES
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.run_summary import CaseResult, RunSummary
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import move, output_errors, working_folder

__all__ = ["ResultFile", "searched"]

_REPORT = "report.json"


class ResultFile:
    """A file that gets the one result of a source; beside ``b.nii`` come ``b_report.html`` and ``b_report.json``.

    Args:
        path: the file; its extension says its format.
        overwrite: replace whatever is there.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path, self.overwrite = path, overwrite

    def only(self, source: Path, found: list[NamedSource[AnySource]]) -> NamedSource[AnySource]:
        """The one source that was found, whose result may be written.

        Args:
            source: where it was found.
            found: what was found.

        Raises:
            SourceError: ``UNSUPPORTED_DIMENSIONS`` when there are several.
            SettingsError: the result would take the place of the source.
            OutputError: something else has its place.
        """
        if len(found) > 1:
            raise SourceError(
                f"The source holds {len(found)} series and volumes, of which one file cannot hold the results. Give a "
                "folder as OUT, or choose one by --series, --include or --exclude.",
                ReasonCode.UNSUPPORTED_DIMENSIONS,
            )
        (one,) = found
        parts = [self.path, self.path.with_name(voxels_beside(self.path.name) or self.path.name)]
        if any(path.exists() and other.samefile(path) for path in parts for other in (source, *one.paths)):
            raise SettingsError("OUT is the source itself, which is not replaced. Give another name.")
        self._check_free([*parts, *(self._place(name) for name in ("report.html", _REPORT))], one.name)
        return one

    def write(self, case: str, work: Callable[[Path], RunSummary]) -> RunSummary:
        """Have the result made in a hidden folder beside its place, and move it there when it is whole.

        Args:
            case: name of the case.
            work: makes the results in the folder that it is given.

        Returns:
            What ``work`` gave, with the files by their new names.

        Raises:
            OutputError: the result cannot be written, or something else has got its place meanwhile.
        """
        with working_folder(self.path.parent) as folder:
            summary = work(folder)
            places = {path: self._place(path.name) for path in (folder / case).glob("*")}
            self._check_free(places.values(), case)
            earlier = self._earlier_maps(case)
            with output_errors(f"The result '{self.path.name}'"):
                # The file itself last: where it is, all of it is.
                move(*sorted(places.items(), key=lambda pair: pair[1].name == self.path.name))
                for path in earlier - set(places.values()):
                    path.unlink(missing_ok=True)
        return replace(summary, cases=tuple(map(self._renamed, summary.cases)))

    def _place(self, name: str) -> Path:
        """Where a file of the case's folder comes to lie."""
        own = stem(self.path)
        return self.path.with_name(name if stem(Path(name)) == own or name.startswith(f"{own}.") else f"{own}_{name}")

    def _renamed(self, case: CaseResult) -> CaseResult:
        return replace(case, files={self._place(name).name: mark for name, mark in case.files.items()})

    def _check_free(self, places: Iterable[Path], case: str) -> None:
        taken = sorted({path.name for path in places if path.is_symlink() or path.exists()})
        # A report without its file is that of a file of another format.
        is_earlier = self.path.name in taken and self._is_earlier_result(case)
        if taken and not self.overwrite and not is_earlier:
            raise OutputError(
                f"{', '.join(map(repr, taken))} would be replaced and no report beside says that this is an earlier "
                "result of the same source. Give another name, or --overwrite (overwrite=True)."
            )

    def _is_earlier_result(self, case: str) -> bool:
        return self._earlier_outputs(case) is not None

    def _earlier_outputs(self, case: str) -> set[str] | None:
        """What an earlier result of the same source had beside its report; None where there is none."""
        try:
            said = json.loads(self._place(_REPORT).read_text(encoding="utf-8"))
            is_earlier = said["case"] == case and said["research_notice"] == RESEARCH_NOTICE
            return {str(one["kind"]) for one in said["outputs"]} if is_earlier else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _earlier_maps(self, case: str) -> set[Path]:
        """Files of the maps of an earlier result, which do not belong to the next one."""
        kinds = (self._earlier_outputs(case) or set()) & MAP_FILES.keys()
        return {self._place(map_file_name(MAP_FILES[kind], self.path)) for kind in kinds}


def searched(
    source: Path,
    target: Path,
    settings: WorkSettings,
    names: str | None,
    choice: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    overwrite: bool,
    is_for_writing: bool = True,
) -> tuple[SourceDataset, ResultFile | None]:
    """What is to be worked on, and the file that ``target`` is, unless it is a folder.

    Args:
        source: where to search.
        target: folder, or name of a volume file.
        settings: settings of the work.
        names: how results are named.
        choice: ``series``, ``include`` and ``exclude`` of :class:`~monai_ldmsr.io.source_choice.SourceChoice`.
        overwrite: see :class:`ResultFile`.
        is_for_writing: False where the output folder must stay as it is.

    Raises:
        LdmsrError: nothing can be found or chosen, or the output lies inside the source.
    """
    if (is_voxels_alone(target.name) or target.suffix.lower() == ".dcm") and not target.is_dir():
        raise SettingsError(
            f"OUT ends in {target.suffix}. Name the .hdr file of a pair, a file of another format such as .nii.gz, or "
            "a folder: DICOM results are one file an image."
        )
    file = ResultFile(target, overwrite) if volume_extension(target) and not target.is_dir() else None
    check_apart(source, target.parent if file else target)
    limits = settings.limits or DEFAULT_LIMITS
    output_dir = target if is_for_writing and file is None else None
    sources = SourceDataset(source, limits=limits, names=names, output_dir=output_dir)
    sources.choose(SourceChoice(*choice, settings.modality))
    return sources, file

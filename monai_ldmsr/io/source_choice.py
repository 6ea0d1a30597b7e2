"""Which of the sources that were found are worked on, by what their headers say and a user asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from monai_ldmsr.errors import OutputError, ReasonCode, SourceError
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.dicom_header import modality_of, read_header, text
from monai_ldmsr.io.formats import stem, volume_extension
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.packed_source import AnySource, PackedSource, first_file, listed
from monai_ldmsr.io.series_grouping import SeriesFiles, SkippedItem
from monai_ldmsr.io.sidecar import read_sidecar

__all__ = ["ALL", "SourceChoice", "SourceWords", "file_words", "source_words"]


@dataclass(frozen=True)
class SourceWords:
    """What a source calls itself; only for whoever runs this, in no message and no summary.

    Args:
        modality: DICOM's term; empty where a volume file has no .json file beside it that says it.
        series_uid: Series Instance UID.
        number: Series Number.
        description: Series Description; of a volume file its name without extension.
    """

    modality: str = ""
    series_uid: str = field(default="", repr=False)
    number: str = field(default="", repr=False)
    description: str = field(default="", repr=False)


@dataclass(frozen=True)
class SourceChoice:
    """What is to be worked on; empty for all that is found.

    Args:
        series: Series Instance UIDs, Series Numbers, or names of cases.
        include: modalities, and patterns (``*``, ``?``, ``[...]``; upper and lower case are one) of Series Descriptions
            or of volume files' names without extension; one of them must match.
        exclude: likewise; none of them may match.
        modality: modality of volume files that do not say it.
    """

    series: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    modality: str | None = None

    def of(
        self,
        found: Sequence[NamedSource[AnySource]],
        skipped: Sequence[SkippedItem],
        limits: ReadLimits = DEFAULT_LIMITS,
    ) -> tuple[list[NamedSource[AnySource]], list[SkippedItem], int]:
        """Choose among what was found and what was left out.

        Of what was left out, that stays of which no file says what it is: it may belong to what was chosen.

        Returns:
            What was chosen of both, and how many of both were not.

        Raises:
            SourceError: ``NOTHING_CHOSEN`` when sources were found, and none of them is chosen, or none is what a value
                of ``series`` names.
        """
        if not (self.series or self.include or self.exclude):
            return list(found), list(skipped), 0
        words = {one.name: source_words(one, limits) for one in found}
        named = {name for case, said in words.items() for name in (case, said.series_uid, said.number)}
        unknown = set(self.series) - named
        chosen = [one for one in found if self._takes(one.name, words[one.name])]
        if found and (unknown or not chosen):
            said = f"{len(unknown)} of {len(set(self.series))} values of --series name none" if unknown else "None"
            by = "" if unknown else " is chosen by --series, --include and --exclude"
            raise SourceError(
                f"{said} of the {len(found)} series and volumes that were found{by}. --dry-run without these options "
                "lists what there is.",
                ReasonCode.NOTHING_CHOSEN,
            )
        kept = [item for item in skipped if self._concerns(item, limits)]
        return chosen, kept, len(found) - len(chosen) + len(skipped) - len(kept)

    def _takes(self, case: str, words: SourceWords) -> bool:
        if self.series and not {case, words.series_uid, words.number} & set(self.series) - {""}:
            return False
        fits = not self.include or self._matches(self.include, words)
        return fits and not self._matches(self.exclude, words)

    def _matches(self, patterns: Iterable[str], words: SourceWords) -> bool:
        modality = (words.modality or self.modality or "").casefold()
        description = words.description.casefold()
        asked = [pattern.strip().casefold() for pattern in patterns]
        return any(one == modality or fnmatchcase(description, one) for one in asked)

    def _concerns(self, item: SkippedItem, limits: ReadLimits) -> bool:
        said = [words for path in item.paths if (words := file_words(path, limits)) is not None]
        return not said or any(self._takes(item.case, words) for words in said)


#: Takes all that is found.
ALL = SourceChoice()


def source_words(one: NamedSource[AnySource], limits: ReadLimits = DEFAULT_LIMITS) -> SourceWords:
    """What a source calls itself, by its first file; nothing of what cannot be read."""
    item = listed(one.source)
    with suppress(SourceError, OutputError, OSError):
        if isinstance(item, SeriesFiles):
            with first_file(one.source) as path:
                return file_words(path, limits) or SourceWords(item.modality)
        if isinstance(one.source, PackedSource):  # which is called by its number in the archive, too
            return SourceWords(description=stem(item).partition("-")[2])
        return file_words(item, limits) or SourceWords()
    return SourceWords()


def file_words(path: Path, limits: ReadLimits) -> SourceWords | None:
    """What a file calls itself; None of what is neither a DICOM file nor a volume file, and of what cannot be read."""
    with suppress(Exception):  # as its reader meets it again, and says what it is
        if path.is_symlink():  # it may lead out of the source
            return None
        if volume_extension(path) is not None:
            modality = ""
            with suppress(SourceError):
                modality = read_sidecar(path).modality
            return SourceWords(modality, description=stem(path))
        header = read_header(path, limits)
        if header is not None:
            names = ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription")
            return SourceWords(modality_of(header) or text(header, "Modality"), *(text(header, name) for name in names))
    return None

"""Which series a PACS has: one question, asked by C-FIND or QIDO, and answers that are checked against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.uid import UID

from monai_ldmsr.errors import PeerError, ReasonCode, SettingsError
from monai_ldmsr.io.dicom_header import quiet_pydicom, text
from monai_ldmsr.pacs.dicomweb import DicomwebClient, value_of
from monai_ldmsr.pacs.dimse import association, build_context, connection_lost, failure_of, status_of
from monai_ldmsr.pacs.instances import is_uid
from monai_ldmsr.pacs.peers import Caller, DicomPeer

__all__ = ["FoundSeries", "SeriesQuery", "find_by_dicom", "find_by_dicomweb"]

STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")

#: Statuses of C-FIND that come with a match.
_PENDING = (0xFF00, 0xFF01)

#: Keyword and tag of what is asked for and looked at.
_TAGS = {
    "StudyInstanceUID": "0020000D",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "SOPClassUID": "00080016",
    "StudyDate": "00080020",
    "AccessionNumber": "00080050",
    "Modality": "00080060",
}

#: Keyword to value, as one match says it; what it does not say is empty.
_Match = Mapping[str, str]

#: Asks at a level for the values of keywords; empty values ask for all.
_Ask = Callable[[str, Mapping[str, str]], Sequence[_Match]]


@dataclass(frozen=True)
class SeriesQuery:
    """What to fetch; all that is given must hold. Kept out of ``repr``, for it may identify a patient.

    Args:
        study, series: UIDs.
        date: Study Date, ``YYYYMMDD`` or a range ``YYYYMMDD-YYYYMMDD``, either end of which may be left out.
        modality: Modality of the series.
        accession: Accession Number.

    Raises:
        SettingsError: nothing narrows the search down, or a value is of another form.
    """

    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    date: str = field(default="", repr=False)
    modality: str = ""
    accession: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not (self.study or self.date or self.accession):
            raise SettingsError("Say which study, date or accession number; everything is not searched through.")
        if any(uid and not is_uid(uid) for uid in (self.study, self.series)):
            raise SettingsError("A study or series is asked for by its whole UID: digits and dots, at most 64.")
        if self.date and not re.fullmatch(r"\d{8}(-(\d{8})?)?|-\d{8}", self.date):
            raise SettingsError("A date is written 20260131, or as a range 20260101-20260131.")
        if not re.fullmatch(r"[A-Z]{0,16}", self.modality):
            raise SettingsError("A modality is written as in DICOM: CT, MR, PT.")
        if re.search(r"[\\*?]", self.accession) or len(self.accession) > 16 or not self.accession.isprintable():
            raise SettingsError("An accession number has at most 16 characters, and no \\, * or ?.")


@dataclass(frozen=True)
class FoundSeries:
    """A series as the PACS lists it; UIDs are kept out of ``repr``.

    Args:
        study, series: UIDs.
        modality: Modality, as listed.
        uids: SOP Instance UIDs of its images, sorted.
        classes: SOP Class UIDs, where the PACS says them.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    modality: str
    uids: tuple[str, ...] = field(repr=False)
    classes: frozenset[str] = frozenset()


def find_by_dicom(peer: DicomPeer, caller: Caller, query: SeriesQuery) -> list[FoundSeries]:
    """Ask by C-FIND, from studies down to images.

    Raises:
        PeerError: no answer, or a refusal.
    """
    with association(caller, peer, [build_context(STUDY_ROOT_FIND)]) as established:

        def ask(level: str, keys: Mapping[str, str]) -> list[_Match]:
            identifier = Dataset()
            identifier.QueryRetrieveLevel = level
            for keyword, value in keys.items():
                setattr(identifier, keyword, value)
            found: list[_Match] = []
            with quiet_pydicom():
                for status, match in established.send_c_find(identifier, STUDY_ROOT_FIND):
                    if status_of(status) is None:
                        raise connection_lost()
                    if status.Status in _PENDING and match is not None:
                        found.append({keyword: text(match, keyword) for keyword in _TAGS})
                    elif status.Status != 0x0000:
                        raise failure_of(status.Status, "a search")
            return found

        return list(_found(ask, query))


def find_by_dicomweb(client: DicomwebClient, query: SeriesQuery) -> list[FoundSeries]:
    """Ask by QIDO, from studies down to images.

    Raises:
        PeerError: no answer, or a refusal.
    """

    def ask(level: str, keys: Mapping[str, str]) -> list[_Match]:
        path, own = "/studies", dict(keys)
        if level != "STUDY":
            path += f"/{own.pop('StudyInstanceUID')}/series"
        if level == "IMAGE":
            path += f"/{own.pop('SeriesInstanceUID')}/instances"
        key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        matches = client.search(path, {_TAGS[name]: value for name, value in own.items() if value}, _TAGS[key])
        return [{keyword: value_of(match, tag) for keyword, tag in _TAGS.items()} for match in matches]

    return list(_found(ask, query))


def _found(ask: _Ask, query: SeriesQuery) -> Iterator[FoundSeries]:
    """Series by series, in a fixed order."""
    of_study = {"StudyInstanceUID": query.study, "StudyDate": query.date, "AccessionNumber": query.accession}
    studies = {match["StudyInstanceUID"] for match in ask("STUDY", of_study) if _agrees(match, of_study)}
    for study in sorted(filter(is_uid, studies)):
        asked = {"StudyInstanceUID": study, "SeriesInstanceUID": query.series, "Modality": query.modality}
        matches = [match for match in ask("SERIES", asked) if _agrees(match, asked)]
        modalities = {match["SeriesInstanceUID"]: match["Modality"] for match in matches}
        for series in sorted(filter(is_uid, modalities)):
            within = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
            images = ask("IMAGE", {**within, "SOPInstanceUID": "", "SOPClassUID": ""})
            images = [image for image in images if _agrees(image, within)]
            uids = {image["SOPInstanceUID"] for image in images}
            if not all(map(is_uid, uids)):
                raise PeerError("The PACS lists an image without a UID.", ReasonCode.PACS_REFUSED)
            classes = frozenset(image["SOPClassUID"] for image in images) - {""}
            yield FoundSeries(study, series, modalities[series], tuple(sorted(uids)), classes)


def _agrees(match: _Match, asked: Mapping[str, str]) -> bool:
    """Whether a match is one: some services leave out a key that they do not know, and answer with everything."""
    for keyword, value in asked.items():
        found = match[keyword]
        if not value or not found:
            continue
        if keyword == "StudyDate":
            first, _, last = value.partition("-") if "-" in value else (value, "", value)
            if not (first or "0") <= found.replace(".", "") <= (last or "9"):
                return False
        elif found != value:
            return False
    return True

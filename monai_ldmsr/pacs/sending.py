"""Results to a PACS, by C-STORE or STOW: each image counts as sent only when the PACS says so for it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pydicom
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_ldmsr.batch import Delivery, DeliveryOutcome
from monai_ldmsr.errors import LdmsrError, OutputError, PeerError, ReasonCode
from monai_ldmsr.io.dicom_header import quiet_pydicom, read_header, sop_class, sop_instance
from monai_ldmsr.io.image_kind import MAPS_FOLDER
from monai_ldmsr.io.transfer_syntaxes import TRANSFER_SYNTAXES
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.dimse import Association, association, build_context, connection_lost, failure_of, status_of
from monai_ldmsr.pacs.peers import DEFAULT_CALLER, Caller, DicomPeer, DicomwebPeer, parse_peer

__all__ = ["StoreDelivery", "StowDelivery", "images_below", "instance_uid", "parse_destination"]

_log = logging.getLogger(__name__)

_SUCCESS = 0x0000

#: Statuses of an image that was stored; all but success are warnings.
_STORED = frozenset((_SUCCESS, 0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)))

#: Between these, a change of the value representation's form loses nothing.
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

#: What results may be written in; a PACS that takes them not compressed gets them as they were before.
_LOSSLESS = (*TRANSFER_SYNTAXES.values(), DeflatedExplicitVRLittleEndian)

#: What another attempt may cure; every other reason is the same next time.
_PASSING = (ReasonCode.PACS_UNREACHABLE, ReasonCode.PACS_OUT_OF_RESOURCES, ReasonCode.PACS_REJECTED)


def parse_destination(text: str, caller: Caller = DEFAULT_CALLER, with_maps: bool = False) -> Delivery:
    """Where results go.

    Args:
        text: ``AET@HOST:PORT`` (C-STORE) or ``http(s)://HOST/PATH`` (STOW).
        caller: how we present ourselves.
        with_maps: send a result's maps, mask and measurements too.

    Raises:
        SettingsError: the text is neither, or certificates cannot be used.
    """
    peer = parse_peer(text)
    if isinstance(peer, DicomPeer):
        return StoreDelivery(peer, caller, with_maps)
    return StowDelivery(peer, caller, with_maps)


class _PacsDelivery(ABC):
    """What both ways share: counts, and turns whatever goes wrong into an outcome."""

    def __init__(self, peer: DicomPeer | DicomwebPeer, caller: Caller, with_maps: bool) -> None:
        self.name = str(peer)
        self._caller = caller
        self._with_maps = with_maps

    @abstractmethod
    def _statuses(self, paths: Sequence[Path]) -> Generator[int, None, None]:
        """Send image by image, and yield the status of each."""

    def deliver(self, folder: Path) -> DeliveryOutcome:
        """Send the images below ``folder``; see :class:`~monai_ldmsr.batch.Delivery`."""
        paths: list[Path] = []
        found: list[int] = []
        try:
            paths = sorted(images_below(folder, self._with_maps))
            if not paths:
                raise PeerError("The result holds no DICOM image to send.", ReasonCode.NOT_AN_IMAGE)
            with closing(self._statuses(paths)) as statuses:
                for status in statuses:
                    if status not in _STORED:
                        raise failure_of(status, "an image")
                    found.append(status)
            _refuse_warnings(found)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, LdmsrError):
                error = OutputError(f"A result cannot be read to send it: {error.strerror}.")
            n_sent = found.count(_SUCCESS)
            outcome = DeliveryOutcome.of_error(error, n_sent=n_sent, n_instances=len(paths))
            _log.warning("Sent %d of %d images: %s [%s]", n_sent, len(paths), outcome.message, outcome.reason)
            return replace(outcome, permanent=outcome.reason not in _PASSING)
        return DeliveryOutcome("done", n_sent=len(paths), n_instances=len(paths))


class StoreDelivery(_PacsDelivery):
    """Sends by C-STORE; ``caller`` and ``with_maps`` as in :func:`parse_destination`."""

    def __init__(self, peer: DicomPeer, caller: Caller, with_maps: bool = False) -> None:
        super().__init__(peer, caller, with_maps)
        self._peer = peer
        if caller.dicom_tls:
            caller.tls.client_context()  # certificates that cannot be used are reported at once

    def _statuses(self, paths: Sequence[Path]) -> Generator[int, None, None]:
        found = {(sop_class(header), header.file_meta.TransferSyntaxUID) for header in map(_header, paths)}
        proposed = {(uid, syntax) for uid, own in found for syntax in _forms(own)}
        contexts = [build_context(uid, syntax) for uid, syntax in sorted(proposed)]
        with association(self._caller, self._peer, contexts) as established:
            for path in paths:
                yield self._store(established, path)

    def _store(self, established: Association, path: Path) -> int:
        """Status of one image."""
        with quiet_pydicom():
            image = pydicom.dcmread(path)
            accepted = [
                context.transfer_syntax[0]
                for context in established.accepted_contexts
                if context.abstract_syntax == image.SOPClassUID
            ]
            own = image.file_meta.TransferSyntaxUID
            if not any(syntax in accepted for syntax in _forms(own)):
                raise PeerError(
                    f"The PACS takes {UID(image.SOPClassUID).name} not in {own.name}, and in no other form without "
                    "loss.",
                    ReasonCode.PACS_NOT_NEGOTIATED,
                )
            if own.is_compressed and own not in accepted:
                image.decompress(generate_instance_uid=False)
            elif own.is_deflated and own not in accepted:
                image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            try:
                status = status_of(established.send_c_store(image))
            except RuntimeError:  # the association ended since the last image
                status = None
        if status is None:
            raise connection_lost()
        return status


class StowDelivery(_PacsDelivery):
    """Sends by STOW-RS; ``caller`` and ``with_maps`` as in :func:`parse_destination`."""

    def __init__(self, peer: DicomwebPeer, caller: Caller, with_maps: bool = False) -> None:
        super().__init__(peer, caller, with_maps)
        self._peer = peer
        DicomwebClient(peer, caller)  # certificates that cannot be used are reported at once

    def _statuses(self, paths: Sequence[Path]) -> Generator[int, None, None]:
        with DicomwebClient(self._peer, self._caller) as client:
            for path in paths:
                uid = instance_uid(path)
                yield client.store({uid: path})[uid]


def _forms(own: UID) -> tuple[UID, ...]:
    """Transfer syntaxes in which an image in ``own`` can be sent without loss."""
    return _PLAIN if own in _PLAIN else (own, *_PLAIN) if own in _LOSSLESS else (own,)


def _refuse_warnings(statuses: Sequence[int]) -> None:
    warnings = [status for status in statuses if status != _SUCCESS]
    if warnings:
        codes = ", ".join(f"0x{status:04X}" for status in sorted(set(warnings)))
        raise PeerError(
            f"The PACS stored {len(warnings)} of {len(statuses)} images with a warning (status {codes}): it changed or "
            "left out attributes.",
            ReasonCode.PACS_WARNING,
        )


def images_below(folder: Path, with_maps: bool = False) -> Iterator[Path]:
    """The DICOM files of a result folder; those of its maps, mask and measurements only where they are asked for."""
    for path in folder.rglob("*.dcm"):
        is_map = path.parent == folder / MAPS_FOLDER
        if path.is_file() and not path.name.startswith(".") and (with_maps or not is_map):
            yield path


def instance_uid(path: Path) -> str:
    """SOP Instance UID of a file of a result.

    Raises:
        PeerError: it is no DICOM file.
    """
    return sop_instance(_header(path))


def _header(path: Path) -> pydicom.Dataset:
    header = read_header(path)
    if header is None:
        raise PeerError("A file of the result is not a DICOM file, so it is not sent.", ReasonCode.NOT_AN_IMAGE)
    return header

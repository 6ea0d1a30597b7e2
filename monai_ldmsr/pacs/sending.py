"""Results to a PACS, by C-STORE or STOW: each image counts as sent only when the PACS says so for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_ldmsr.batch.delivery import Delivery, DeliveryOutcome
from monai_ldmsr.errors import LdmsrError, OutputError, PeerError, ReasonCode
from monai_ldmsr.io.dicom_header import quiet_pydicom, read_header, sop_class, sop_instance
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.dimse import (
    Association,
    association,
    build_context,
    connection_lost,
    failure_of,
    status_of,
)
from monai_ldmsr.pacs.peers import DEFAULT_CALLER, Caller, DicomPeer, DicomwebPeer, parse_peer

__all__ = ["StoreDelivery", "StowDelivery", "images_below", "instance_uid", "parse_destination"]

_log = logging.getLogger(__name__)

#: Between these, a change of the value representation's form loses nothing.
_PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

#: What another attempt may cure; every other reason is the same next time.
_PASSING = (ReasonCode.PACS_UNREACHABLE, ReasonCode.PACS_OUT_OF_RESOURCES, ReasonCode.PACS_REJECTED)


def parse_destination(text: str, caller: Caller = DEFAULT_CALLER) -> Delivery:
    """Where results go.

    Args:
        text: ``AET@HOST:PORT`` (C-STORE) or ``http(s)://HOST/PATH`` (STOW).
        caller: how we present ourselves.

    Raises:
        SettingsError: the text is neither, or certificates cannot be used.
    """
    peer = parse_peer(text)
    return StoreDelivery(peer, caller) if isinstance(peer, DicomPeer) else StowDelivery(peer, caller)


class StoreDelivery:
    """Sends by C-STORE.

    Args:
        peer: the PACS to send to.
        caller: how we present ourselves.
    """

    def __init__(self, peer: DicomPeer, caller: Caller = DEFAULT_CALLER) -> None:
        self.name = str(peer)
        self._peer, self._caller = peer, caller
        if caller.dicom_tls:
            caller.tls.client_context()  # certificates that cannot be used are reported at once

    def deliver(self, folder: Path) -> DeliveryOutcome:
        """Send the images below ``folder``; see :class:`~monai_ldmsr.batch.delivery.Delivery`."""
        return _Attempt(folder).run(self._send)

    def _send(self, attempt: _Attempt) -> None:
        found = {_class_and_syntax(path) for path in attempt.paths}
        proposed = {(uid, syntax) for uid, own in found for syntax in (_PLAIN if own in _PLAIN else (own,))}
        contexts = [build_context(uid, syntax) for uid, syntax in sorted(proposed)]
        with association(self._caller, self._peer, contexts) as established:
            for path in attempt.paths:
                attempt.note(self._store(established, path))

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
            if own not in accepted and not (own in _PLAIN and any(syntax in _PLAIN for syntax in accepted)):
                raise PeerError(
                    f"The PACS takes {UID(image.SOPClassUID).name} not in {own.name}, and nothing else would be "
                    "without loss.",
                    ReasonCode.PACS_NOT_NEGOTIATED,
                )
            try:
                status = status_of(established.send_c_store(image))
            except RuntimeError:  # the association ended since the last image
                status = None
        if status is None:
            raise connection_lost()
        return status


class StowDelivery:
    """Sends by STOW-RS.

    Args:
        peer: the PACS to send to.
        caller: how we present ourselves.
    """

    def __init__(self, peer: DicomwebPeer, caller: Caller = DEFAULT_CALLER) -> None:
        self.name = str(peer)
        self._peer, self._caller = peer, caller
        DicomwebClient(peer, caller)  # certificates that cannot be used are reported at once

    def deliver(self, folder: Path) -> DeliveryOutcome:
        """Send the images below ``folder``; see :class:`~monai_ldmsr.batch.delivery.Delivery`."""
        return _Attempt(folder).run(self._send)

    def _send(self, attempt: _Attempt) -> None:
        with DicomwebClient(self._peer, self._caller) as client:
            for path in attempt.paths:
                attempt.note(client.store(path, instance_uid(path)))


class _Attempt:
    """One attempt to send a result: counts, and turns whatever goes wrong into an outcome."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.paths: Sequence[Path] = ()
        self._n_sent = 0
        self._warnings: set[int] = set()

    def run(self, send: Callable[[_Attempt], None]) -> DeliveryOutcome:
        """Find the images, and send them."""
        try:
            self.paths = sorted(images_below(self._folder))
            if not self.paths:
                raise PeerError("The result holds no DICOM image to send.", ReasonCode.NOT_AN_IMAGE)
            send(self)
            self._refuse_warnings()
        except OSError as error:
            if isinstance(error, LdmsrError):
                return self._failed(error)
            return self._failed(OutputError(f"A result cannot be read to send it: {error.strerror}."))
        except Exception as error:
            return self._failed(error)
        return DeliveryOutcome("done", n_sent=self._n_sent, n_instances=len(self.paths))

    def note(self, status: int) -> None:
        """Count the status of one image; a failure ends the attempt."""
        if status == 0x0000:
            self._n_sent += 1
        elif 0xB000 <= status <= 0xBFFF or status in (0x0001, 0x0107, 0x0116):
            self._warnings.add(status)
        else:
            raise failure_of(status, "an image")

    def _refuse_warnings(self) -> None:
        if self._warnings:
            codes = ", ".join(f"0x{status:04X}" for status in sorted(self._warnings))
            raise PeerError(
                f"The PACS stored {len(self.paths) - self._n_sent} of {len(self.paths)} images with a warning "
                f"(status {codes}): it changed or left out attributes.",
                ReasonCode.PACS_WARNING,
            )

    def _failed(self, error: Exception) -> DeliveryOutcome:
        outcome = DeliveryOutcome.of_error(error, n_sent=self._n_sent, n_instances=len(self.paths))
        n_sent, n_all = self._n_sent, len(self.paths)
        _log.warning("Sent %d of %d images: %s [%s]", n_sent, n_all, outcome.message, outcome.reason)
        return replace(outcome, permanent=outcome.reason not in _PASSING)


def images_below(folder: Path) -> Iterator[Path]:
    """The DICOM files of a result folder."""
    return (path for path in folder.rglob("*.dcm") if path.is_file() and not path.name.startswith("."))


def instance_uid(path: Path) -> str:
    """SOP Instance UID of a file of a result.

    Raises:
        PeerError: it is no DICOM file.
    """
    return sop_instance(_header(path))


def _class_and_syntax(path: Path) -> tuple[str, UID]:
    header = _header(path)
    return sop_class(header), header.file_meta.TransferSyntaxUID


def _header(path: Path) -> pydicom.Dataset:
    header = read_header(path)
    if header is None:
        raise PeerError("A file of the result is not a DICOM file, so it is not sent.", ReasonCode.NOT_AN_IMAGE)
    return header

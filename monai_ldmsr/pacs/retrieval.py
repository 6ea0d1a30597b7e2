"""The images of one series out of a PACS into a folder: by C-GET, C-MOVE or WADO."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydicom import Dataset
from pydicom.uid import UID

from monai_ldmsr.errors import OutputError, PeerError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.dimse import (
    IMAGE_CLASSES,
    TRANSFER_SYNTAXES,
    association,
    build_context,
    build_role,
    connection_lost,
    evt,
    failure_of,
    status_of,
)
from monai_ldmsr.pacs.finding import FoundSeries
from monai_ldmsr.pacs.instances import instance_name, read_instance
from monai_ldmsr.pacs.peers import Caller, DicomPeer
from monai_ldmsr.pacs.store_server import (
    NOT_MATCHING,
    NOT_UNDERSTOOD,
    OUT_OF_RESOURCES,
    Endpoint,
    IncomingImage,
    ReceiverLimits,
    Refusal,
    SizeLimit,
    StoreServer,
    answer,
)
from monai_ldmsr.storage import write_synced

__all__ = ["DEFAULT_MOVE_TARGET", "GetRetrieval", "MoveRetrieval", "MoveTarget", "Retrieval", "WadoRetrieval"]

STUDY_ROOT_GET, STUDY_ROOT_MOVE = UID("1.2.840.10008.5.1.4.1.2.2.3"), UID("1.2.840.10008.5.1.4.1.2.2.2")

#: Statuses of C-GET and C-MOVE while sub-operations go on, and at the end where some of them failed.
_PENDING, _SOME_FAILED = 0xFF00, 0xB000


@dataclass(frozen=True)
class MoveTarget:
    """Where C-MOVE has images sent to: our own SCP, whose AE title is the caller's.

    Args:
        port: TCP port that the PACS knows.
        address: address of the network interface; all interfaces when empty.
        allowed: AE titles that may send; the PACS's own when empty.
        late_s: some PACS answer before the last images have come; this long without one is the end.
    """

    port: int = 11112
    address: str = ""
    allowed: tuple[str, ...] = ()
    late_s: float = 5.0


#: What is used where nothing else is said.
DEFAULT_MOVE_TARGET = MoveTarget()


class Retrieval(Protocol):
    """A way to get images."""

    def retrieve(self, found: FoundSeries, uids: Sequence[str], folder: Path) -> None:
        """Write ``uids`` of a series into ``folder``, as :func:`instance_name` names them.

        What comes that was not asked for is not kept. Some may be missing afterwards: the caller counts.

        Raises:
            PeerError: no answer, or a refusal.
            SourceError: an image is damaged or too large.
            OSError: a file cannot be written.
        """


@dataclass(frozen=True)
class WadoRetrieval:
    """Gets image by image by WADO-RS."""

    client: DicomwebClient
    limits: ReceiverLimits

    def retrieve(self, found: FoundSeries, uids: Sequence[str], folder: Path) -> None:
        """See :class:`Retrieval`."""
        for uid in uids:
            content = self.client.retrieve(found.study, found.series, uid, self.limits.max_object_bytes)
            path = folder / instance_name(uid)
            write_synced(path, [content])
            if not _is_of(path, found, uid, self.limits):
                path.unlink()
                raise PeerError("The PACS answered with another image than was asked for.", ReasonCode.PACS_REFUSED)


@dataclass(frozen=True)
class GetRetrieval:
    """Gets a series by C-GET: the images come by the association that asks."""

    peer: DicomPeer
    caller: Caller
    limits: ReceiverLimits

    def retrieve(self, found: FoundSeries, uids: Sequence[str], folder: Path) -> None:
        """See :class:`Retrieval`."""
        inbox = _Inbox(found, uids, folder, self.limits)
        size_limit = SizeLimit(self.limits.max_object_bytes)

        def on_store(event: evt.Event) -> int | Dataset:
            if size_limit.exceeded_by(event.assoc):
                message = f"An image has more than {self.limits.max_object_bytes} bytes, the limit."
                return answer(inbox.note(Refusal(OUT_OF_RESOURCES, ReasonCode.TOO_LARGE, message)))
            return answer(inbox.take(IncomingImage(event, 0)))

        classes = sorted(found.classes or IMAGE_CLASSES)
        # A peer accepts one syntax a context, and would convert to it.
        images = [build_context(uid, syntax) for uid in classes for syntax in TRANSFER_SYNTAXES]
        contexts = [build_context(STUDY_ROOT_GET), *images]
        handlers = [(evt.EVT_C_STORE, on_store), (evt.EVT_PDU_RECV, size_limit.on_pdu)]
        roles = [build_role(uid, scp_role=True) for uid in classes]
        with association(self.caller, self.peer, contexts, roles=roles, handlers=handlers) as established:
            with quiet_pydicom():
                answers = established.send_c_get(_identifier(found, uids), STUDY_ROOT_GET)
                statuses = [status_of(status) for status, _ in answers]
            inbox.check(statuses)


class MoveRetrieval:
    """Has a series sent by C-MOVE to an SCP of our own; a context manager that listens.

    Args:
        peer: the PACS to ask; it must know our AE title, address and port.
        caller: how we present ourselves, and the destination of the images.
        folder: on the disk that the images go to.
        target: where C-MOVE sends to, and we listen.
        limits: see :class:`~monai_ldmsr.pacs.store_server.ReceiverLimits`.

    Raises:
        SettingsError: an argument is impossible, or the port cannot be opened.
    """

    def __init__(
        self, peer: DicomPeer, caller: Caller, folder: Path, target: MoveTarget, limits: ReceiverLimits
    ) -> None:
        self._peer, self._caller, self._limits, self._late_s = peer, caller, limits, target.late_s
        self._inbox: _Inbox | None = None
        allowed, tls = target.allowed or (peer.ae_title,), caller.tls if caller.dicom_tls else None
        endpoint = Endpoint(caller.ae_title, target.port, allowed, target.address, tls)
        self._server = StoreServer(self, folder, endpoint, limits)

    def __enter__(self) -> MoveRetrieval:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace_s=0)

    def retrieve(self, found: FoundSeries, uids: Sequence[str], folder: Path) -> None:
        """See :class:`Retrieval`."""
        inbox = self._inbox = _Inbox(found, uids, folder, self._limits)
        try:
            with association(self._caller, self._peer, [build_context(STUDY_ROOT_MOVE)]) as established:
                with quiet_pydicom():
                    asked = _identifier(found, uids), self._caller.ae_title, STUDY_ROOT_MOVE
                    statuses = [status_of(status) for status, _ in established.send_c_move(*asked)]
                if statuses and statuses[-1] == 0x0000:
                    inbox.wait_for_late(self._late_s)
                inbox.check(statuses)
        finally:
            self._inbox = None

    def store(self, image: IncomingImage) -> Refusal | None:
        """Keep an image that is asked for."""
        inbox = self._inbox
        if inbox is None:
            return Refusal(NOT_MATCHING, ReasonCode.PACS_REFUSED, "No image is asked for.")
        return inbox.take(image)

    def refused(self, image: IncomingImage, refusal: Refusal) -> None:
        """Take note of what the limits refused; the inbox knows its own refusals, and which of them matter."""
        if self._inbox is not None and refusal.reason is not ReasonCode.PACS_REFUSED:
            self._inbox.note(refusal)

    def released(self, association: int) -> None:
        """Nothing: the answer to C-MOVE says when it ends."""


class _Inbox:
    """What comes of one series."""

    def __init__(self, found: FoundSeries, uids: Sequence[str], folder: Path, limits: ReceiverLimits) -> None:
        self._found, self._folder, self._limits = found, folder, limits
        self._missing = set(uids)
        self._refusal: Refusal | None = None
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def take(self, image: IncomingImage) -> Refusal | None:
        """Write an image that is still missing; others are not kept."""
        with self._lock:
            self._last = time.monotonic()
            if image.uid not in self._missing:
                return Refusal(NOT_MATCHING, ReasonCode.PACS_REFUSED, "The image was not asked for, or came already.")
            path = self._folder / instance_name(image.uid)
            try:
                image.write(path)
                is_right = _is_of(path, self._found, image.uid, self._limits)
            except OSError as error:
                message = f"An image cannot be written: {error.strerror}."
                return self.note(Refusal(OUT_OF_RESOURCES, ReasonCode.CANNOT_WRITE, message))
            except SourceError as error:
                path.unlink(missing_ok=True)
                return self.note(Refusal(NOT_UNDERSTOOD, error.reason, str(error)))
            if not is_right:
                path.unlink()
                message = "The PACS sent another image than was asked for."
                return self.note(Refusal(NOT_MATCHING, ReasonCode.PACS_REFUSED, message))
            self._missing.discard(image.uid)
            return None

    def note(self, refusal: Refusal) -> Refusal:
        """Remember the first reason why the series will not be whole."""
        self._refusal = self._refusal or refusal
        return refusal

    def wait_for_late(self, late_s: float) -> None:
        """Wait for images that come after the answer, until none has come for ``late_s``."""
        while self._missing and self._refusal is None and time.monotonic() - self._last < late_s:
            time.sleep(0.02)

    def check(self, statuses: Sequence[int | None]) -> None:
        """Raise what kept images from coming; ones that the PACS simply left out are the caller's to count."""
        if self._refusal is not None:
            if self._refusal.reason is ReasonCode.CANNOT_WRITE:
                raise OutputError(self._refusal.message)
            raise PeerError(self._refusal.message, self._refusal.reason)
        if not self._missing:
            return
        if not statuses or statuses[-1] is None or statuses[-1] == _PENDING:
            raise connection_lost()
        if statuses[-1] not in (0x0000, _SOME_FAILED):
            raise failure_of(statuses[-1], "to send a series")


def _identifier(found: FoundSeries, uids: Sequence[str]) -> Dataset:
    """Ask for the whole series, or for the images that are wanted."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES" if set(uids) == set(found.uids) else "IMAGE"
    identifier.StudyInstanceUID, identifier.SeriesInstanceUID = found.study, found.series
    if identifier.QueryRetrieveLevel == "IMAGE":
        identifier.SOPInstanceUID = list(uids)
    return identifier


def _is_of(path: Path, found: FoundSeries, uid: str, limits: ReceiverLimits) -> bool:
    header = read_instance(path, limits.read)
    return (header.study, header.series, header.uid) == (found.study, found.series, uid)

"""A C-STORE SCP: who may call, how much they may send, and each image as it comes. What becomes of it others decide."""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pydicom import Dataset

from monai_ldmsr.errors import ReasonCode, SettingsError
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.pacs.dimse import (
    IMAGE_CLASSES,
    PROMPT,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    application_entity,
    build_context,
    encode_file_meta,
    evt,
    hang_up,
    on_established,
    on_hang_up,
)
from monai_ldmsr.pacs.peers import check_ae_title
from monai_ldmsr.pacs.tls import TlsSettings
from monai_ldmsr.storage import write_synced

__all__ = [
    "DEFAULT_RECEIVER_LIMITS",
    "Endpoint",
    "IncomingImage",
    "ReceiverLimits",
    "Refusal",
    "SizeLimit",
    "Storage",
    "StoreServer",
    "answer",
]

_log = logging.getLogger(__name__)

#: The command of a message has some hundred bytes; one that never ends must not fill the memory.
_MAX_COMMAND_BYTES = 2**16

#: A caller must ask for an association within this time.
_REQUEST_WITHIN_S = 10.0

#: Bits of a fragment's first byte (PS3.8 E.2).
_IS_COMMAND, _IS_LAST = 1, 2

#: Why we reject (PS3.8 table 9-21), by source and number.
_REJECTED = {
    (1, 3): "its AE title is not one of --allow",
    (1, 7): "it called {}, which is not our AE title",
    (3, 2): "there are as many associations as --max-associations allows",
}

OUT_OF_RESOURCES, NOT_UNDERSTOOD, NOT_MATCHING = 0xA700, 0xC000, 0xA900


@dataclass(frozen=True)
class ReceiverLimits:
    """What callers may use of this machine.

    Args:
        max_associations: greatest number of associations at once; more are rejected.
        max_object_bytes: greatest size of one image; it is held in memory while it comes, so this bounds memory.
        min_free_bytes: disk space that is left free.
        read: limits of an image's header.
    """

    max_associations: int = 10
    max_object_bytes: int = 2**29
    min_free_bytes: int = 2**30
    read: ReadLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if min(self.max_associations, self.max_object_bytes) < 1 or self.min_free_bytes < 0:
            raise SettingsError("The limits of the receiver are whole numbers from 1 (free disk space: from 0).")


#: What is used where nothing else is said.
DEFAULT_RECEIVER_LIMITS = ReceiverLimits()


@dataclass(frozen=True)
class Endpoint:
    """Where and for whom an SCP of ours listens.

    Args:
        ae_title: what callers must call us.
        port: TCP port; 0 takes a free one.
        allowed: AE titles that may call; at least one.
        address: address of the network interface; all interfaces when empty.
        tls: certificates; None listens without TLS.
        timeout_s: silence after which an association is aborted.

    Raises:
        SettingsError: there is no such port, or nobody may call.
    """

    ae_title: str
    port: int
    allowed: Sequence[str]
    address: str = ""
    tls: TlsSettings | None = None
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise SettingsError(f"port is {self.port}; give a whole number from 1 to 65535 (0 takes a free one).")
        if not self.allowed:
            # pynetdicom takes an empty list for "anybody".
            raise SettingsError("Name the AE titles that may send; without any, none may.")


@dataclass(frozen=True)
class Refusal:
    """Why an image was not taken: the status that its sender gets, and the reason."""

    status: int
    reason: ReasonCode
    message: str


@dataclass(frozen=True)
class IncomingImage:
    """An image that a peer sends to be stored.

    Args:
        event: pynetdicom's ``EVT_C_STORE``.
        association: number of the association that it came by.
    """

    event: Any
    association: int

    @property
    def uid(self) -> str:
        """SOP Instance UID as the message says; the data set may say another."""
        return str(self.event.request.AffectedSOPInstanceUID)

    @property
    def sop_class(self) -> str:
        """SOP Class UID as the message says."""
        return str(self.event.request.AffectedSOPClassUID)

    @property
    def n_bytes(self) -> int:
        """Size of the encoded data set."""
        return int(self.event.request.DataSet.getbuffer().nbytes)

    def write(self, path: Path) -> None:
        """Write it as a DICOM file, the data set as received, and wait until it is on disk.

        Raises:
            OSError: it cannot be written; nothing is left of it then.
        """
        meta: bytes = encode_file_meta(self.event.file_meta)
        write_synced(path, (bytes(128), b"DICM", meta, self.event.request.DataSet.getbuffer()))


class Storage(Protocol):
    """What decides over images; called from the threads of associations, several at once."""

    def store(self, image: IncomingImage) -> Refusal | None:
        """Keep the image safely on disk, or say why not."""

    def refused(self, image: IncomingImage, refusal: Refusal) -> None:
        """Record that an image was refused, by whichever side."""

    def released(self, association: int) -> None:
        """Take note that an association ended well."""


class SizeLimit:
    """Drops the data of a message beyond a limit as it comes in, so that it can be answered and memory is bounded."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._counts: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()

    def on_pdu(self, event: evt.Event) -> None:
        """Count (binds to ``EVT_PDU_RECV``)."""
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            fragment = item.presentation_data_value
            if not fragment:
                continue
            count = self._counts.setdefault(event.assoc, [0, 0])
            if fragment[0] & _IS_COMMAND:
                count[0] += len(fragment)
                if count[0] > _MAX_COMMAND_BYTES:
                    event.assoc.abort()
                elif fragment[0] & _IS_LAST:
                    count[:] = [0, 0]
                continue
            count[1] += len(fragment) - 1
            if count[1] > self.max_bytes:
                item.presentation_data_value = fragment[:1]

    def exceeded_by(self, association: Any) -> bool:
        """Whether the message that just came was cut."""
        return self._counts.get(association, (0, 0))[1] > self.max_bytes


def _on_rejected(event: evt.Event) -> None:
    """Say who was refused, and why (binds to ``EVT_REJECTED``)."""
    association = event.assoc
    answer = association.acceptor.primitive
    why = _REJECTED.get((answer.result_source, answer.diagnostic), "it asked for what is not supported")
    called = ascii(association.requestor.primitive.called_ae_title.strip())
    _log.warning("Refused an association of %s: %s", caller_of(association), why.format(called))


def _on_no_request(event: evt.Event) -> None:
    """Say whose connection ended without a request that can be understood (binds to ``EVT_CONN_CLOSE``)."""
    if event.assoc.requestor.primitive is None:
        _log.info("A connection from %s ended without asking for an association", event.assoc.requestor.address)


def caller_of(association: Any) -> str:
    """AE title and address of who asked for an association; what a stranger calls himself is escaped."""
    requestor = association.requestor
    return f"AE title {requestor.ae_title.strip()!a} at {requestor.address}"


def answer(refusal: Refusal | None) -> int | Dataset:
    """What pynetdicom sends back: success, or the status with the reason's code as Error Comment."""
    if refusal is None:
        return 0x0000
    status = Dataset()
    status.Status = refusal.status
    status.ErrorComment = refusal.reason.value
    return status


@dataclass
class _Call:
    """An association: its number, and how many images it has brought."""

    number: int
    n_taken: int = 0
    n_refused: int = 0


class StoreServer:
    """Listens for associations and hands each image to a :class:`Storage`.

    Args:
        storage: what decides over images.
        folder: on the disk whose free space counts.
        endpoint: see :class:`Endpoint`.
        limits: see :class:`ReceiverLimits`.

    Raises:
        SettingsError: an argument is impossible.
    """

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        endpoint: Endpoint,
        limits: ReceiverLimits = DEFAULT_RECEIVER_LIMITS,
    ) -> None:
        self._storage, self._folder, self.limits = storage, folder, limits
        self._endpoint = endpoint
        self._ssl = None if endpoint.tls is None else endpoint.tls.server_context()
        self._size_limit = SizeLimit(limits.max_object_bytes)
        self._calls: WeakKeyDictionary[Any, _Call] = WeakKeyDictionary()
        self._next_number = itertools.count(1)
        self._server: Any = None
        self._ae = application_entity(check_ae_title(endpoint.ae_title), endpoint.timeout_s)
        self._ae.acse_timeout = min(endpoint.timeout_s, _REQUEST_WITHIN_S)
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = [check_ae_title(title) for title in endpoint.allowed]
        self._ae.maximum_associations = limits.max_associations
        contexts = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in IMAGE_CLASSES]
        self._ae.supported_contexts = [build_context(VERIFICATION), *contexts]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.socket.getsockname()[1])

    def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the port cannot be opened.
        """
        handlers = [
            *PROMPT,
            (evt.EVT_ESTABLISHED, on_established),
            (evt.EVT_ESTABLISHED, self._on_begun),
            (evt.EVT_CONN_CLOSE, on_hang_up),
            (evt.EVT_CONN_CLOSE, _on_no_request),
            (evt.EVT_PDU_RECV, self._size_limit.on_pdu),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_REJECTED, _on_rejected),
        ]
        try:
            self._server = self._ae.start_server(
                (self._endpoint.address, self._endpoint.port), block=False, ssl_context=self._ssl, evt_handlers=handlers
            )
        except OSError as error:
            raise SettingsError(
                f"Port {self._endpoint.port} of {self._endpoint.address or 'all addresses'} cannot be listened on: "
                f"{error.strerror}. Choose another port or address."
            ) from None

    def stop(self, grace_s: float = 10.0) -> None:
        """Take no new associations, let those that are open end within ``grace_s``, then abort them."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server = None
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(a.is_established for a in self._ae.active_associations):
            time.sleep(0.02)
        for association in self._ae.active_associations:
            hang_up(association)
            association.join(timeout=5)

    def open_associations(self) -> set[int]:
        """Numbers of associations whose threads live; no handler of any other will be called again."""
        known = [self._calls.get(association) for association in self._ae.active_associations]
        return {call.number for call in known if call is not None}

    def _call(self, association: Any) -> _Call:
        if association not in self._calls:
            self._calls[association] = _Call(next(self._next_number))
        return self._calls[association]

    def _on_begun(self, event: evt.Event) -> None:
        _log.info("Association %d begun by %s", self._call(event.assoc).number, caller_of(event.assoc))

    def _on_released(self, event: evt.Event) -> None:
        call = self._call(event.assoc)
        self._storage.released(call.number)
        _log.info("Association %d ended: %d images taken, %d refused", call.number, call.n_taken, call.n_refused)

    def _on_aborted(self, event: evt.Event) -> None:
        call = self._call(event.assoc)
        said = "Association %d was aborted or lost: %d images taken, %d refused"
        if not event.assoc.accepted_contexts:
            said += "; none of the SOP classes and transfer syntaxes that it proposed is taken"
        _log.warning(said, call.number, call.n_taken, call.n_refused)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        call = self._call(event.assoc)
        image = IncomingImage(event, call.number)
        try:
            refusal = self._beyond_limits(image) or self._storage.store(image)
        except OSError as error:
            refusal = Refusal(
                OUT_OF_RESOURCES, ReasonCode.CANNOT_WRITE, f"An image cannot be written: {error.strerror}."
            )
        except Exception as error:
            # Its text may quote the data set.
            refusal = Refusal(NOT_UNDERSTOOD, ReasonCode.INTERNAL_ERROR, f"Unexpected {type(error).__name__}.")
        if refusal is not None:
            said = "Association %d: refused an image: %s [%s]"
            _log.warning(said, call.number, refusal.message, refusal.reason.value)
            self._storage.refused(image, refusal)
        call.n_taken += refusal is None
        call.n_refused += refusal is not None
        return answer(refusal)

    def _beyond_limits(self, image: IncomingImage) -> Refusal | None:
        if self._size_limit.exceeded_by(image.event.assoc):
            return Refusal(
                OUT_OF_RESOURCES,
                ReasonCode.TOO_LARGE,
                f"It has more than {self.limits.max_object_bytes} bytes, the limit.",
            )
        free = shutil.disk_usage(self._folder).free
        if free - image.n_bytes < self.limits.min_free_bytes:
            return Refusal(
                OUT_OF_RESOURCES,
                ReasonCode.PACS_DISK_FULL,
                f"{free} bytes of disk are free; the limit is {self.limits.min_free_bytes}.",
            )
        return None

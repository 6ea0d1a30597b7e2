"""DICOM associations: what is proposed, how they begin and end, and what an answer means.

pynetdicom's own log lines quote identifiers, UIDs and pieces of data sets, so its loggers are silent in this process;
what is worth knowing is said by this package's loggers, in words of our own.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from monai_ldmsr.errors import PeerError, ReasonCode, SettingsError
from monai_ldmsr.io.dicom_header import CLASSIC
from monai_ldmsr.io.enhanced_multiframe import CLASSIC_FORM
from monai_ldmsr.pacs.peers import Caller, DicomPeer

try:
    from pynetdicom import AE, _config, build_context, build_role, evt
    from pynetdicom.association import Association
    from pynetdicom.dsutils import encode_file_meta
    from pynetdicom.presentation import PresentationContext
except ImportError:
    raise SettingsError("A PACS needs more packages. Install them with: pip install monai_ldmsr[pacs]") from None

__all__ = [
    "IMAGE_CLASSES",
    "PROMPT",
    "TRANSFER_SYNTAXES",
    "VERIFICATION",
    "Association",
    "application_entity",
    "association",
    "build_context",
    "build_role",
    "connection_lost",
    "encode_file_meta",
    "evt",
    "failure_of",
    "hang_up",
    "on_established",
    "on_hang_up",
    "status_of",
]

_config.LOG_HANDLER_LEVEL = "none"
_config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)

#: What is received and fetched: the images that are super-resolved.
IMAGE_CLASSES: tuple[UID, ...] = (*CLASSIC, *CLASSIC_FORM)

#: SOP class of C-ECHO.
VERIFICATION = UID("1.2.840.10008.1.1")

#: What images may be encoded in; they are kept as they come.
TRANSFER_SYNTAXES: tuple[UID, ...] = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

#: pynetdicom's 16 kB would cost a call for each; a slice of 512 x 512 goes in four.
_PDU_BYTES = 2**17

_CONNECT_WITHIN_S = 10.0

#: Diagnostic of a rejection (PS3.8 table 9-21) by source and number.
_REJECTIONS = {
    (1, 2): "application context not supported",
    (1, 3): "it does not know our AE title",
    (1, 7): "it does not go by the AE title that was called",
    (2, 2): "protocol version not supported",
    (3, 1): "it is congested",
    (3, 2): "it has no more connections",
}

#: Result 2 is a transient rejection: it may be lifted by itself.
_TRANSIENT = 2


def application_entity(ae_title: str, timeout_s: float) -> AE:
    """Our side of associations, with every wait limited."""
    ae = AE(ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    ae.connection_timeout = min(timeout_s, _CONNECT_WITHIN_S)
    ae.maximum_pdu_size = _PDU_BYTES
    return ae


def on_connection(event: evt.Event) -> None:
    """Have small messages sent at once, and no silent peer keep a thread (binds to ``EVT_CONN_OPEN``)."""
    with suppress(OSError, AttributeError):  # closed again already: the association finds out
        transport = event.assoc.dul.socket.socket
        # Nagle's algorithm holds back what ends a message until the peer acknowledges, 40 ms for each.
        transport.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.settimeout(event.assoc.acse_timeout)


def on_established(event: evt.Event) -> None:
    """Let a peer that is let in take its time (binds to ``EVT_ESTABLISHED``)."""
    with suppress(OSError, AttributeError):
        event.assoc.dul.socket.socket.settimeout(event.assoc.network_timeout)


def on_hang_up(event: evt.Event) -> None:
    """End an association whose caller left before asking for one (binds to ``EVT_CONN_CLOSE``).

    pynetdicom would wait on for the request, and count the association among those that are open: a few port scans,
    health checks or failed TLS handshakes would keep everybody out.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def hang_up(association: Association) -> None:
    """End an association at once, in whatever state it is."""
    if association.is_established:
        association.abort()
        return
    with suppress(OSError, AttributeError):
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


def acknowledge_at_once(event: evt.Event) -> None:
    """Do not let the peer wait for our acknowledgement (binds to ``EVT_PDU_RECV`` and ``EVT_DATA_SENT``).

    A sender with Nagle's algorithm, as most have, holds back the end of each message until then: 40 ms for each image.
    """
    if hasattr(socket, "TCP_QUICKACK"):  # Linux; the kernel forgets it after a while, so it is said each time
        with suppress(OSError, AttributeError):  # closed again already
            event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


#: Handlers of every association, by which no message waits for an acknowledgement.
PROMPT = (
    (evt.EVT_CONN_OPEN, on_connection),
    (evt.EVT_PDU_RECV, acknowledge_at_once),
    (evt.EVT_DATA_SENT, acknowledge_at_once),
)


@contextmanager
def association(
    caller: Caller,
    peer: DicomPeer,
    contexts: Sequence[PresentationContext],
    *,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, ...]] = (),
) -> Iterator[Association]:
    """An established association; released at the end, aborted when the block raises.

    Raises:
        PeerError: ``PACS_UNREACHABLE``, ``PACS_REJECTED`` or ``PACS_NOT_NEGOTIATED``.
    """
    ae = application_entity(caller.ae_title, caller.timeout_s)
    tls = (caller.tls.client_context(), peer.host) if caller.dicom_tls else None
    try:
        found = ae.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            ext_neg=list(roles),
            tls_args=tls,
            evt_handlers=[*PROMPT, *handlers],
        )
    except OSError as error:  # no such host
        raise PeerError(
            f"The PACS cannot be reached: {error.strerror}. Check its address.", ReasonCode.PACS_UNREACHABLE
        ) from None
    if not found.is_established:
        raise _not_established(found, caller)
    _keep_answers(found)
    try:
        yield found
    except BaseException:
        if found.is_established:
            found.abort()
        raise
    if found.is_established:
        found.release()


def _keep_answers(found: Association) -> None:
    """Leave every answer to who asked.

    pynetdicom 3.0.4's own thread looks for requests of the peer. It is stopped while one asks, but not always in time:
    of quick requests in a row, one in 400 lost an answer to it, so that a search found nothing and said success. On an
    association that we ask for, a peer makes no requests beyond those that ``send_c_get`` waits for itself.
    """
    take = found.dimse.get_msg

    def waiting_only(block: bool = False) -> Any:
        return take(block=True) if block else (None, None)

    found.dimse.get_msg = waiting_only


def _not_established(found: Association, caller: Caller) -> PeerError:
    if found.is_rejected:
        answer = found.acceptor.primitive
        why = _REJECTIONS.get((answer.result_source, answer.diagnostic), "no reason given")
        transient = ", for now" if answer.result == _TRANSIENT else ""
        return PeerError(f"The PACS rejected the association{transient}: {why}.", ReasonCode.PACS_REJECTED)
    if found.rejected_contexts and not found.accepted_contexts:
        return PeerError(
            "The PACS accepted none of the SOP classes and transfer syntaxes that were proposed.",
            ReasonCode.PACS_NOT_NEGOTIATED,
        )
    secure = " Both sides must use TLS and trust each other's certificate." if caller.dicom_tls else ""
    return PeerError(
        f"The PACS does not answer as a DICOM application. Check address and port.{secure}",
        ReasonCode.PACS_UNREACHABLE,
    )


def connection_lost() -> PeerError:
    """What to say when an association ends before the work does."""
    return PeerError(
        "The PACS ended the association, or did not answer in time, before all was done.", ReasonCode.PACS_UNREACHABLE
    )


def status_of(answer: Dataset) -> int | None:
    """Status of a DIMSE response; None when there was none, since the association ended."""
    return int(answer.Status) if "Status" in answer else None


def failure_of(status: int, what: str) -> PeerError:
    """Error for a status that is no success; the peer's own words are not repeated, for they may quote data."""
    if 0xA700 <= status <= 0xA7FF:
        return PeerError(
            f"The PACS is out of resources for {what} (status 0x{status:04X}).", ReasonCode.PACS_OUT_OF_RESOURCES
        )
    if status == 0x0122:
        return PeerError(
            f"The PACS does not support the SOP class for {what} (status 0x0122).", ReasonCode.PACS_NOT_NEGOTIATED
        )
    meaning = {
        0x0117: "invalid SOP instance",
        0x0124: "not authorised",
        0xA801: "it does not know our AE title as a destination",
        0xFE00: "cancelled",
    }.get(status, "")
    if 0xA900 <= status <= 0xA9FF:
        meaning = "data set does not match SOP class"
    elif 0xC000 <= status <= 0xCFFF:
        meaning = "cannot understand"
    said = f", {meaning}" if meaning else ""
    return PeerError(f"The PACS refused {what} (status 0x{status:04X}{said}).", ReasonCode.PACS_REFUSED)

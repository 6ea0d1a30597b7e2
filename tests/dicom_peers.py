"""Peers on loopback by pynetdicom: that send, take, find and give images."""

from __future__ import annotations

import socketserver
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pydicom
from pacs_fixtures import wait_until
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from monai_ldmsr.pacs.dimse import PROMPT, TRANSFER_SYNTAXES
from monai_ldmsr.pacs.peers import DicomPeer

# A server looks twice a second whether it shall stop; tests stop one each.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)

KEY_OF_LEVEL = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


@contextmanager
def scp(
    handlers: Sequence[tuple[Any, ...]],
    *,
    aet: str = "PACS",
    port: int = 0,
    syntaxes: Sequence[str] = TRANSFER_SYNTAXES,
    allowed: Sequence[str] = (),
    tls: ssl.SSLContext | None = None,
    contexts: Sequence[Any] | None = None,
) -> Iterator[DicomPeer]:
    """A peer that answers as ``handlers`` say."""
    ae = AE(aet)
    ae.require_called_aet = True
    ae.require_calling_aet = list(allowed)
    for context in AllStoragePresentationContexts if contexts is None else contexts:
        ae.add_supported_context(context.abstract_syntax, list(syntaxes), scu_role=True, scp_role=True)
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    ):
        ae.add_supported_context(model)
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[*PROMPT, *handlers], ssl_context=tls)
    try:
        yield DicomPeer(aet, "127.0.0.1", server.socket.getsockname()[1])
    finally:
        ae.shutdown()


class ResultArchive:
    """Keeps what was sent to it in the order of arrival, doubles included."""

    aet = "ARCHIVE"

    def __init__(self) -> None:
        self.images: list[Dataset] = []
        self.port = 0

    @property
    def peer(self) -> str:
        """As the commands take it."""
        return f"{self.aet}@127.0.0.1:{self.port}"

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[ResultArchive]:
        """Take images for a while."""
        with scp([(evt.EVT_C_STORE, self._on_store)], aet=self.aet, port=port) as peer:
            self.port = peer.port
            yield self

    def _on_store(self, event: evt.Event) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        self.images.append(image)
        return 0x0000


@contextmanager
def archive(
    images: Sequence[Dataset],
    move_to: dict[str, tuple[str, int]] | None = None,
    alter: Callable[[Dataset], Dataset] = lambda image: image,
    **named: Any,
) -> Iterator[DicomPeer]:
    """A peer that has images, and answers C-FIND, C-GET and C-MOVE; what it sends goes through ``alter``."""

    def find(event: evt.Event) -> Iterator[Any]:
        asked = event.identifier
        key = KEY_OF_LEVEL[asked.QueryRetrieveLevel]
        for uid in sorted({image[key].value for image in matching(images, asked)}):
            answer = Dataset()
            image = next(image for image in images if image[key].value == uid)
            for element in asked:
                if element.keyword in image:
                    answer[element.tag] = image[element.tag]
            answer.QueryRetrieveLevel = asked.QueryRetrieveLevel
            yield 0xFF00, answer

    def get(event: evt.Event) -> Iterator[Any]:
        found = matching(images, event.identifier)
        yield len(found)
        for image in found:
            yield 0xFF00, alter(image)

    def move(event: evt.Event) -> Iterator[Any]:
        contexts = [build_context(*pair) for pair in {(i.SOPClassUID, i.file_meta.TransferSyntaxUID) for i in images}]
        address = (move_to or {}).get(event.move_destination, (None, None))
        yield (*address, {"contexts": contexts}) if address[0] else address
        yield from get(event)

    with scp([(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get), (evt.EVT_C_MOVE, move)], **named) as peer:
        yield peer


def matching(images: Sequence[Dataset], asked: Dataset) -> list[Dataset]:
    """Images that agree with the values that are asked for."""

    def agrees(image: Dataset) -> bool:
        for element in asked:
            wanted = element.value
            if element.keyword == "QueryRetrieveLevel" or not wanted:
                continue
            has = str(image.get(element.keyword, ""))
            if isinstance(wanted, (list, pydicom.multival.MultiValue)):
                if has not in wanted:
                    return False
            elif element.keyword == "StudyDate" and "-" in wanted:
                first, last = wanted.split("-")
                if not first <= has <= last:
                    return False
            elif has != wanted:
                return False
        return True

    return [image for image in images if agrees(image)]


def send(
    peer: DicomPeer,
    images: Sequence[Dataset],
    *,
    aet: str = "MODALITY",
    end: str = "release",
    tls: tuple[ssl.SSLContext, str] | None = None,
) -> list[Dataset] | None:
    """Send as a modality does; statuses, or None when the association was not accepted."""
    ae = AE(aet)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for uid, syntax in sorted({(image.SOPClassUID, image.file_meta.TransferSyntaxUID) for image in images}):
        ae.add_requested_context(uid, syntax)
    association = ae.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls, evt_handlers=list(PROMPT))
    if not association.is_established:
        return None
    statuses = [association.send_c_store(image) for image in images]
    if end == "release":
        association.release()
    elif end == "abort":
        association.abort()
    else:  # as when a cable is pulled
        association.dul.socket.socket.shutdown(2)
        wait_until(lambda: not association.is_alive())
    return statuses

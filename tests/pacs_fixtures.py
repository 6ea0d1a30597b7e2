"""Peers for the tests of the room ``pacs``: DICOM by pynetdicom, DICOMweb by the standard library, both on loopback."""

from __future__ import annotations

import json
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from pydicom import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from monai_ldmsr.pacs.dimse import PROMPT, TRANSFER_SYNTAXES
from monai_ldmsr.pacs.peers import DicomPeer
from monai_ldmsr.pacs.tls import TlsSettings

# A server looks twice a second whether it shall stop; tests stop one each.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)

KEY_OF_LEVEL = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


def wait_until(is_so: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def compressed(paths: Sequence[Path], syntax: str) -> list[Path]:
    """Compress files where they are."""
    for path in paths:
        image = pydicom.dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path, overwrite=True)
    return list(paths)


def images_in(*folders: Path) -> dict[str, pydicom.Dataset]:
    """All images below folders by SOP Instance UID."""
    images = [pydicom.dcmread(path) for folder in folders for path in folder.rglob("*.dcm")]
    found = {image.SOPInstanceUID: image for image in images}
    assert len(found) == len(images), "an image lies there twice"
    return found


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


class DicomwebServer(ThreadingHTTPServer):
    """QIDO, WADO and STOW over a dictionary of DICOM files by SOP Instance UID.

    ``requests`` holds method, path and headers of what came; ``fail`` may answer in its place.
    """

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _DicomwebHandler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, Message]] = []
        self.fail: Callable[[str, str], tuple[int, str, bytes] | None] = lambda method, path: None
        self.pages_of = 1000
        self.points_to = ""
        self.knows_offset = self.knows_keys = True
        self.scheme = "http"
        if tls is not None:
            self.scheme, self.socket = "https", tls.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/dicom-web"

    def add(self, *paths: Path) -> None:
        for path in paths:
            self.files[pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID] = path.read_bytes()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""

    def __exit__(self, *arguments: Any) -> None:
        self.shutdown()
        super().__exit__(*arguments)


class _DicomwebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: DicomwebServer

    def log_message(self, *_: object) -> None:
        """Keep the console clean."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        parts = address.path.split("/")[2:]  # without dicom-web
        if not self._failed():
            if len(parts) == 6:
                boundary = b"a-boundary"
                body = b"--%s\r\nContent-Type: application/dicom\r\n\r\n%s\r\n--%s--\r\n"
                content = self.server.files[parts[5]]
                kind = 'multipart/related; type="application/dicom"; boundary=a-boundary'
                self._answer(200, kind, body % (boundary, content, boundary))
            else:
                self._search(parts, parse_qs(address.query))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._failed():
            return
        boundary = str(self.headers.get_param("boundary")).encode()
        before, *parts, after = body.split(b"--" + boundary)
        assert (before, after) == (b"", b"--\r\n")
        contents = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts]
        files = {str(pydicom.dcmread(BytesIO(content)).SOPInstanceUID): content for content in contents}
        self.server.files.update(files)
        self._answer(200, "application/dicom+json", stow_answer(stored=list(files)))

    def _search(self, parts: list[str], query: dict[str, list[str]]) -> None:
        asked = Dataset()
        for keyword, part in zip(("StudyInstanceUID", "SeriesInstanceUID"), parts[1::2], strict=False):
            setattr(asked, keyword, part)
        offset = int(query.pop("offset", ["0"])[0]) * self.server.knows_offset
        query = query if self.server.knows_keys else {}
        for tag, [value] in query.items():
            setattr(asked, pydicom.datadict.keyword_for_tag(tag), value)
        key = KEY_OF_LEVEL[("STUDY", "SERIES", "IMAGE")[len(parts) // 2]]
        images = [pydicom.dcmread(BytesIO(file), stop_before_pixels=True) for file in self.server.files.values()]
        found = {image[key].value: image for image in matching(images, asked)}
        page = [found[uid].to_json_dict() for uid in sorted(found)][offset : offset + self.server.pages_of]
        self._answer(200, "application/dicom+json", json.dumps(page).encode())

    def _failed(self) -> bool:
        self.server.requests.append((self.command, self.path, self.headers))
        failure = self.server.fail(self.command, self.path)
        if failure is not None:
            self._answer(*failure)
        return failure is not None

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 302:
            self.send_header("Location", self.server.points_to)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def stow_answer(stored: Sequence[str] = (), failed: dict[str, int] | None = None, warned: int | None = None) -> bytes:
    """Body of a STOW response (PS3.18 I.2)."""
    answer: dict[str, Any] = {"00081198": {"vr": "SQ"}}  # some list no failure so
    warning = {} if warned is None else {"00081196": {"vr": "US", "Value": [warned]}}
    if stored:
        answer["00081199"] = {
            "vr": "SQ",
            "Value": [{"00081155": {"vr": "UI", "Value": [uid]}, **warning} for uid in stored],
        }
    if failed:
        answer["00081198"]["Value"] = [
            {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
            for uid, reason in failed.items()
        ]
    return json.dumps(answer).encode()


def make_certificates(folder: Path) -> dict[str, TlsSettings]:
    """An authority, and certificates of it; ``stranger`` has made its own, ``elsewhere`` is of another host."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    other_name = ("-addext", "subjectAltName=DNS:elsewhere.example")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority")
    openssl(*new, "-keyout", "stranger.key", "-out", "stranger.pem", "-subj", "/CN=stranger", *name)
    for who in ("server", "client", "elsewhere"):
        issued = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
        names = other_name if who == "elsewhere" else name
        openssl(*new, "-keyout", f"{who}.key", "-out", f"{who}.pem", "-subj", f"/CN={who}", *issued, *names)
    return {
        who: TlsSettings(folder / "ca.pem", folder / f"{who}.pem", folder / f"{who}.key")
        for who in ("server", "client", "stranger", "elsewhere")
    }


__all__ = [
    "DicomwebServer",
    "ResultArchive",
    "archive",
    "compressed",
    "images_in",
    "make_certificates",
    "matching",
    "scp",
    "send",
    "stow_answer",
    "wait_until",
]

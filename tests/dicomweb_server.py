"""A DICOMweb service on loopback by the standard library."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
from dicom_peers import KEY_OF_LEVEL, matching
from pydicom import Dataset


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

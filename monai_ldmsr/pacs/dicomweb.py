"""A client of DICOMweb (PS3.18): QIDO finds, WADO gets, STOW stores. Images pass byte for byte."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any
from uuid import uuid4

from monai_ldmsr.errors import CorruptSourceError, PeerError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.pacs.peers import DEFAULT_CALLER, Caller, DicomwebPeer

try:
    import requests
except ImportError:
    raise SettingsError("A PACS needs more packages. Install them with: pip install monai_ldmsr[pacs]") from None

__all__ = ["DicomwebClient", "value_of"]

# It logs addresses with the identifiers that are asked for.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

_DICOM_JSON = "application/dicom+json"

_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'

_CHUNK_BYTES = 2**20

#: Of an answer in words.
_MAX_JSON_BYTES = 2**28

#: Attributes of a STOW response (PS3.18 I.2).
_FAILED_SOPS, _REFERENCED_SOPS = "00081198", "00081199"
_REFERENCED_UID, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"

#: A failure that gives no status of its own (PS3.18 I.2.2: processing failure).
_PROCESSING_FAILURE = 0x0110

#: HTTP statuses that say that it may go better later.
_NO_ROOM, _NOT_NOW = (429, 503, 507), (408, 500, 502, 504)


class DicomwebClient:
    """One DICOMweb service; a context manager that keeps the connection.

    Args:
        peer: the PACS to ask.
        caller: credentials, certificates and time limit.

    Raises:
        SettingsError: certificates cannot be used.
    """

    def __init__(self, peer: DicomwebPeer, caller: Caller = DEFAULT_CALLER) -> None:
        self._url, self._timeout_s = peer.url, caller.timeout_s
        if caller.tls.ca_file or caller.tls.certificate:
            caller.tls.client_context()  # requests would report them only when it connects, with the file's path
        self._session = _session(caller)

    def __enter__(self) -> DicomwebClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._session.close()

    def search(self, path: str, query: Mapping[str, str], key: str) -> list[dict[str, Any]]:
        """All matches of a search, page by page.

        Args:
            path: such as ``/studies``.
            query: tags or keywords of attributes, and values.
            key: tag of the UID by which matches differ.

        Raises:
            PeerError: no answer, or a refusal.
        """
        found: dict[str, dict[str, Any]] = {}
        while True:
            page = self._page(path, {**query, "offset": str(len(found))})
            fresh = {value_of(match, key): match for match in page if value_of(match, key)}
            if not fresh.keys() - found.keys():  # the end, also where a service knows no offset
                return list(found.values())
            found.update(fresh)

    def retrieve(self, study: str, series: str, uid: str, max_bytes: int) -> bytes:
        """One image as the service keeps it, as a DICOM file.

        Raises:
            PeerError: no answer, a refusal, or an answer that is no image.
            SourceError: ``TOO_LARGE``.
        """
        path = f"/studies/{study}/series/{series}/instances/{uid}"
        with self._request("GET", path, headers={"Accept": _ANY_SYNTAX}) as response:
            _check(response, "an image")
            return _single_part(_limited(response, max_bytes), response.headers.get("Content-Type", ""))

    def store(self, paths: Mapping[str, Path]) -> dict[str, int]:
        """Store files by one request: the service sees all of them or, where the connection breaks, none.

        Args:
            paths: files by SOP Instance UID.

        Returns:
            The status that the service gives for each image: 0 when it lists it as stored without a warning.

        Raises:
            OSError: a file cannot be read.
            PeerError: no answer, a refusal of the whole, or an image that the answer does not list.
        """
        boundary = uuid4().hex
        content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        headers = {"Content-Type": content_type, "Accept": _DICOM_JSON}
        # A series may be larger than memory.
        with BytesIO() if len(paths) == 1 else TemporaryFile() as body:
            for path in paths.values():
                body.write(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
                body.write(path.read_bytes() + b"\r\n")
            body.write(f"--{boundary}--\r\n".encode())
            body.seek(0)
            with self._request("POST", "/studies", headers=headers, data=body) as response:
                # 409 says that some or all failed, and lists them.
                if response.status_code != 409:
                    _check(response, "an image")
                answer = _parsed(response)
        return {uid: _status_in(answer, uid) for uid in paths}

    def _page(self, path: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        with self._request("GET", path, headers={"Accept": _DICOM_JSON}, params=query) as response:
            _check(response, "a search")
            found = [] if response.status_code == 204 else _parsed(response)
        return [match for match in (found if isinstance(found, list) else [found]) if isinstance(match, dict)]

    @contextmanager
    def _request(self, method: str, path: str, **named: Any) -> Iterator[requests.Response]:
        """An answer whose content is not read yet; credentials are never taken elsewhere by a redirection."""
        try:
            with self._session.request(
                method, self._url + path, stream=True, timeout=self._timeout_s, allow_redirects=False, **named
            ) as response:
                yield response
        except requests.exceptions.SSLError:
            raise PeerError(
                "The PACS's certificate is not trusted or not for this host, or it does not trust ours. Give the "
                "certificates of its authority, or our own.",
                ReasonCode.PACS_REJECTED,
            ) from None
        except requests.RequestException as error:
            # Its text holds the address that was asked for, with identifiers in it.
            raise PeerError(
                f"The connection to the PACS was refused, timed out or was lost ({type(error).__name__}). Check "
                "address and port.",
                ReasonCode.PACS_UNREACHABLE,
            ) from None


def value_of(match: Mapping[str, Any], tag: str) -> str:
    """First value of an attribute of a search result as text; empty when there is none."""
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]).strip() if isinstance(values, list) and values and values[0] is not None else ""


def _session(caller: Caller) -> requests.Session:
    session = requests.Session()
    # Neither .netrc nor proxies nor certificates of the environment: what is used is what was said.
    session.trust_env = False
    tls, credentials = caller.tls, caller.credentials
    session.verify = True if tls.ca_file is None else str(tls.ca_file)
    if tls.certificate is not None:
        session.cert = str(tls.certificate) if tls.key is None else (str(tls.certificate), str(tls.key))
    if credentials is None:
        return session
    if credentials.user is None:
        session.headers["Authorization"] = f"Bearer {credentials.secret}"
    else:
        session.auth = (credentials.user.encode(), credentials.secret.encode())
    return session


def _check(response: requests.Response, what: str) -> None:
    """Refuse every answer that is no success; its own words are not repeated, for they may quote data."""
    status = response.status_code
    if 200 <= status < 300:
        return
    reason, hint = ReasonCode.PACS_REFUSED, ""
    if status in (401, 403):
        reason, hint = ReasonCode.PACS_REJECTED, " Check the credentials."
    elif status in _NO_ROOM:
        reason = ReasonCode.PACS_OUT_OF_RESOURCES
    elif status in _NOT_NOW:
        reason = ReasonCode.PACS_UNREACHABLE
    elif 300 <= status < 400:
        hint = " It points elsewhere: give the final address."
    raise PeerError(f"The PACS refused {what} (HTTP status {status}).{hint}", reason)


def _limited(response: requests.Response, max_bytes: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        content += chunk
        if len(content) > max_bytes:
            raise SourceError(
                f"An answer of the PACS has more than {max_bytes} bytes, the limit.", ReasonCode.TOO_LARGE
            )
    return bytes(content)


def _parsed(response: requests.Response) -> Any:
    content = _limited(response, _MAX_JSON_BYTES)
    try:
        return json.loads(content) if content else {}
    except ValueError:
        raise PeerError(
            "The PACS did not answer in JSON, so what it did is not known. Is the address that of DICOMweb?",
            ReasonCode.PACS_REFUSED,
        ) from None


def _status_in(answer: Any, uid: str) -> int:
    """What a STOW response says of one image; only what it lists counts."""
    answer = answer[0] if isinstance(answer, list) and answer else answer
    for sequence, code in ((_FAILED_SOPS, _FAILURE_REASON), (_REFERENCED_SOPS, _WARNING_REASON)):
        items = (answer.get(sequence) or {}).get("Value") or [] if isinstance(answer, dict) else []
        for item in items:
            if value_of(item, _REFERENCED_UID) == uid:
                status = value_of(item, code)
                missing = _PROCESSING_FAILURE if sequence == _FAILED_SOPS else 0
                return int(status) if status.isdigit() else missing
    raise PeerError(
        "The PACS answered, but does not list the image among those that it stored, so it does not count as sent.",
        ReasonCode.PACS_REFUSED,
    )


def _single_part(content: bytes, content_type: str) -> bytes:
    """The one part of a multipart answer; some services send it bare."""
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_type() == "application/dicom":
        return content
    boundary = header.get_param("boundary")
    if header.get_content_maintype() == "multipart" and isinstance(boundary, str):
        mark = b"--" + boundary.encode()
        begin = content.find(b"\r\n\r\n", max(content.find(mark), 0)) + 4
        end = content.rfind(b"\r\n" + mark + b"--")
        # A second part before the end would be another image.
        if 4 <= begin <= end and content.find(b"\r\n" + mark, begin) == end:
            return content[begin:end]
    raise CorruptSourceError("The PACS did not answer with one whole image.", ReasonCode.UNREADABLE_FILE)

"""Who is at the other end, and how this end presents itself: addresses, AE titles, credentials."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.pacs.tls import TlsSettings

__all__ = [
    "DEFAULT_CALLER",
    "Caller",
    "Credentials",
    "DicomPeer",
    "DicomwebPeer",
    "check_ae_title",
    "is_dicomweb",
    "parse_peer",
]

_DICOM_PEER = re.compile(r"(?P<aet>[^@]+)@(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@:/\s]+):(?P<port>[0-9]{1,5})")

_FORMS = "AET@HOST:PORT (DICOM) or http(s)://HOST/PATH (DICOMweb)"


@dataclass(frozen=True)
class DicomPeer:
    """A DICOM application entity at a TCP port."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        """Text that :func:`parse_peer` reads."""
        return f"{self.ae_title}@{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True)
class DicomwebPeer:
    """A DICOMweb service.

    Args:
        url: root of the service, where ``/studies`` begins; no user name in it.
    """

    url: str

    def __str__(self) -> str:
        """Text that :func:`parse_peer` reads."""
        return self.url


@dataclass(frozen=True)
class Credentials:
    """What a DICOMweb service asks for access; in no ``repr``, log or message.

    Args:
        user: name for basic authentication; None for a token.
        secret: password, or bearer token.
    """

    user: str | None = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def from_text(cls, text: str) -> Credentials:
        """Read ``user:password`` or ``Bearer TOKEN``.

        Raises:
            SettingsError: it is neither.
        """
        text = text.strip()
        kind, _, token = text.partition(" ")
        user, colon, password = text.partition(":")
        if not text.isprintable() or not (colon or (kind.lower() == "bearer" and token)):
            raise SettingsError("The credentials are neither 'user:password' nor 'Bearer TOKEN' on one line.")
        return cls(None, token.strip()) if kind.lower() == "bearer" else cls(user, password)

    @classmethod
    def from_file(cls, path: Path) -> Credentials:
        """Read them from a file of one line.

        Raises:
            SettingsError: it cannot be read, or holds something else.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"The credentials' file '{path.name}' cannot be read.") from None
        return cls.from_text(text)

    @classmethod
    def from_environment(cls, variable: str) -> Credentials:
        """Read them from an environment variable.

        Raises:
            SettingsError: it is not set, or holds something else.
        """
        if variable not in os.environ:
            raise SettingsError("The environment variable that should hold the credentials is not set.")
        return cls.from_text(os.environ[variable])


@dataclass(frozen=True)
class Caller:
    """How this end presents itself to a peer.

    Args:
        ae_title: what we call ourselves.
        dicom_tls: DICOM associations are encrypted.
        tls: certificates, for DICOM and HTTPS.
        credentials: user and password, or token, for DICOMweb.
        timeout_s: how long an answer may take.
    """

    ae_title: str = "LDMSR"
    dicom_tls: bool = False
    tls: TlsSettings = field(default_factory=TlsSettings)
    credentials: Credentials | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        check_ae_title(self.ae_title)
        if not self.timeout_s > 0:
            raise SettingsError(f"The time limit is {self.timeout_s:g} s; give more than 0.")


def check_ae_title(ae_title: str) -> str:
    """Return an AE title that PS3.5 allows.

    Raises:
        SettingsError: it is empty, longer than 16 characters, or has characters beyond ASCII, or a backslash.
    """
    if not 0 < len(ae_title.strip()) <= 16 or not ae_title.isascii() or not ae_title.isprintable() or "\\" in ae_title:
        raise SettingsError(f"The AE title {ae_title!a} has not 1 to 16 ASCII characters, or a backslash among them.")
    return ae_title.strip()


def is_dicomweb(text: str) -> bool:
    """Whether a text is the address of a DICOMweb service, sound or not, and neither a DICOM peer nor a folder."""
    return text.startswith(("http://", "https://"))


def parse_peer(text: str) -> DicomPeer | DicomwebPeer:
    """Read an address.

    Args:
        text: ``AET@HOST:PORT`` or ``http(s)://HOST/PATH``.

    Raises:
        SettingsError: it is neither, or holds a user name or password.

    Example:
        >>> parse_peer("ORTHANC@localhost:4242")
        DicomPeer(ae_title='ORTHANC', host='localhost', port=4242)
        >>> parse_peer("https://pacs.example/dicom-web/").url
        'https://pacs.example/dicom-web'
    """
    if "://" in text:
        return _dicomweb_peer(text)
    match = _DICOM_PEER.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 2**16 or not _is_host(match["host"]):
        # The text is not repeated: somebody may have written a password into it.
        raise SettingsError(f"The address of a PACS is written {_FORMS}.")
    return DicomPeer(check_ae_title(match["aet"]), match["host"].strip("[]"), int(match["port"]))


def _is_host(text: str) -> bool:
    """Whether a text may be the name or the address of a machine."""
    if ":" in text or "[" in text:
        with suppress(ValueError):
            return bool(ip_address(text.strip("[]")))
        return False
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def _dicomweb_peer(text: str) -> DicomwebPeer:
    try:
        parts = urlsplit(text)
        is_sound = parts.scheme in ("http", "https") and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        is_sound = False
    if is_sound and "@" in parts.netloc:
        raise SettingsError("An address must hold no user name or password: give a file or an environment variable.")
    if not is_sound or parts.query or parts.fragment:
        raise SettingsError(f"The address of a PACS is written {_FORMS}.")
    return DicomwebPeer(text.rstrip("/"))


#: What is used where nothing else is said.
DEFAULT_CALLER = Caller()

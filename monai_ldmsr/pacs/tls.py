"""TLS for DICOM associations and HTTPS: whose certificates are trusted, and which is our own."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from monai_ldmsr.errors import SettingsError

__all__ = ["TlsSettings"]


@dataclass(frozen=True)
class TlsSettings:
    """Files in PEM format.

    Args:
        ca_file: certificates of the authorities that a peer's certificate must come from; None takes the system's.
        certificate: our own, with its chain; a server needs one, a client where the peer asks for it.
        key: private key of the certificate, not encrypted; None when it stands in the certificate's file.
    """

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise SettingsError("A TLS key was given without its certificate.")

    def client_context(self) -> ssl.SSLContext:
        """For calling a peer: its certificate and host name are verified.

        Raises:
            SettingsError: a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._load(context)
        if self.ca_file is None:
            context.load_default_certs()
        return context

    def server_context(self) -> ssl.SSLContext:
        """For being called: with ``ca_file``, a caller must show a certificate of one of these authorities.

        Raises:
            SettingsError: there is no certificate, or a file cannot be used.
        """
        if self.certificate is None:
            raise SettingsError("To be called by TLS, a certificate and its key are needed.")
        context = _ServerContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.ca_file is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.ca_file is not None:
                context.load_verify_locations(self.ca_file)
        except OSError as error:
            _unusable("The file of trusted certificates", error)
        try:
            if self.certificate is not None:
                # Without a function for the password, OpenSSL would ask on the terminal and wait.
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except OSError as error:
            _unusable("The TLS certificate or its key", error)


class _ServerContext(ssl.SSLContext):
    """Shakes hands in the thread of the association: one silent caller must not keep the others waiting."""

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*arguments, **{**named, "do_handshake_on_connect": False})


def _no_password() -> str:
    raise SettingsError("The TLS key is encrypted. Give a key without a password, readable by this user alone.")


def _unusable(what: str, error: OSError) -> NoReturn:
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "it holds nothing in PEM format"
    else:
        reason = error.strerror or type(error).__name__
    raise SettingsError(f"{what} cannot be used: {reason}.") from None

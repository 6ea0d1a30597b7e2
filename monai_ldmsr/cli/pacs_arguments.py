"""What the commands that speak with a PACS share: who we are, certificates, credentials, where results go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import Parser

if TYPE_CHECKING:
    from monai_ldmsr.batch import Delivery
    from monai_ldmsr.pacs.peers import Caller

__all__ = ["add_caller_options", "add_listening_options", "add_send_option", "caller_of", "deliveries_of"]


def add_caller_options(parser: Parser) -> None:
    """How we present ourselves to a PACS."""
    group = parser.add_argument_group("PACS")
    group.add_argument("--ae-title", default="LDMSR", help="our AE title (default: LDMSR)")
    group.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for an answer (default: 60)"
    )
    group.add_argument("--dicom-tls", action="store_true", help="use TLS for DICOM associations")
    group.add_argument(
        "--ca-file", type=Path, metavar="PEM", help="certificates of the authorities to trust (default: the system's)"
    )
    group.add_argument("--certificate", type=Path, metavar="PEM", help="our certificate, for DICOM and HTTPS")
    group.add_argument(
        "--key", type=Path, metavar="PEM", help="private key of the certificate, where it is a separate file"
    )
    secret = group.add_mutually_exclusive_group()
    secret.add_argument(
        "--credentials", type=Path, metavar="FILE", help="file with user:password or 'Bearer TOKEN', for DICOMweb"
    )
    secret.add_argument("--credentials-env", metavar="NAME", help="environment variable that holds the credentials")


def add_send_option(parser: Parser) -> None:
    """Where results go."""
    parser.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="PEER",
        help="send each result to AET@HOST:PORT (C-STORE) or http(s)://HOST/PATH (STOW); may be given several times",
    )
    parser.add_argument(
        "--send-maps",
        action="store_true",
        help="send each result's maps, trust mask and measurements too, not its images alone",
    )


def add_listening_options(parser: Parser, port_help: str) -> None:
    """Where we listen for images, and who may send them."""
    parser.add_argument("--port", type=int, default=11112, help=f"{port_help} (default: 11112)")
    parser.add_argument("--address", default="", help="address of the network interface to listen on (default: all)")
    parser.add_argument(
        "--allow",
        action="extend",
        type=_ae_titles,
        default=[],
        metavar="AET",
        help="AE title that may send, or several with commas between them; may be given several times",
    )


def _ae_titles(text: str) -> list[str]:
    return [title for title in map(str.strip, text.split(",")) if title]


def caller_of(arguments: argparse.Namespace) -> Caller:
    """How the arguments say that we present ourselves.

    Raises:
        SettingsError: one of them is impossible.
    """
    from monai_ldmsr.pacs.peers import Caller, Credentials
    from monai_ldmsr.pacs.tls import TlsSettings

    credentials = None
    if arguments.credentials is not None:
        credentials = Credentials.from_file(arguments.credentials)
    elif arguments.credentials_env is not None:
        credentials = Credentials.from_environment(arguments.credentials_env)
    return Caller(
        ae_title=arguments.ae_title,
        dicom_tls=arguments.dicom_tls,
        tls=TlsSettings(arguments.ca_file, arguments.certificate, arguments.key),
        credentials=credentials,
        timeout_s=arguments.timeout,
    )


def deliveries_of(arguments: argparse.Namespace) -> list[Delivery]:
    """Where the arguments say that results go; empty when nowhere.

    Raises:
        SettingsError: a destination is no address, certificates cannot be used, or packages are missing.
    """
    if not arguments.send:
        return []
    from monai_ldmsr.pacs.peers import parse_peer

    for text in arguments.send:
        parse_peer(text)  # before packages that may be missing are asked for
    from monai_ldmsr.pacs.sending import parse_destination

    caller = caller_of(arguments)
    return [parse_destination(text, caller, arguments.send_maps) for text in dict.fromkeys(arguments.send)]

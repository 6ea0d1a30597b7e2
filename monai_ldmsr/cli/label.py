"""``ldmsr label``: a MONAI Label server whose results are images."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from pathlib import Path

from monai_ldmsr.cli.arguments import Commands, add_command, add_limit_option, add_setting_options, limits_of
from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.storage import output_errors

__all__ = ["add"]

_INSTALL = "MONAI Label needs an environment of its own: make label, then .venv-label/bin/ldmsr label --studies DIR"


def add(commands: Commands) -> None:
    """Add ``label`` to the command's parser."""
    label = add_command(
        commands,
        "label",
        "serve super-resolution to 3D Slicer, OHIF and other clients of MONAI Label",
        "Start MONAI Label on a folder of volume files, or on the series of a DICOMweb service. Results are stored "
        "beside their sources, as images of the folder or as derived series of the service. The password of a service "
        "is taken from MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD.",
    )
    label.add_argument("--studies", required=True, metavar="DIR", help="folder of volume files, or http(s)://HOST/PATH")
    label.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    label.add_argument("--port", type=int, default=8000, help="TCP port to listen on (default: 8000)")
    add_setting_options(label, "bundle")
    label.add_argument(
        "--ca-file",
        type=Path,
        metavar="PEM",
        help="certificates of the authorities that sign the service's certificate",
    )
    label.add_argument(
        "--app-dir", type=Path, metavar="DIR", help="folder for logs and records (default: in the cache)"
    )
    add_limit_option(label)
    label.set_defaults(command=_label)


def _label(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.bundle_folder import find_bundle
    from monai_ldmsr.pacs.peers import is_dicomweb

    bundle = find_bundle(arguments.bundle)
    limits_of(arguments)  # wrong ones are refused now, and not at the first request
    is_service = is_dicomweb(arguments.studies)
    if is_service:
        _check_service(arguments.studies, arguments.ca_file)
    else:
        _check_folder(Path(arguments.studies))
    _check_address(arguments.host, arguments.port)
    app_dir = _app_folder(arguments.app_dir)
    given = ["--conf", "bundle", str(bundle.resolve())]
    if arguments.limit:
        given += ["--conf", "limits", " ".join(arguments.limit)]
    if arguments.ca_file is not None:
        given += ["--conf", "ca_file", str(arguments.ca_file.resolve())]
        os.environ["REQUESTS_CA_BUNDLE"] = str(arguments.ca_file.resolve())
    # All modalities; MONAI Label would list CT alone.
    os.environ.setdefault("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", "{}")
    main = _monai_label()
    if not is_service:
        from monai_ldmsr.label.local_datastore import check_image_list

        check_image_list(Path(arguments.studies))
    sys.argv = [
        *("monailabel", "start_server", "--app", str(app_dir), "--studies", arguments.studies),
        *("--host", arguments.host, "--port", str(arguments.port)),
        # At INFO MONAI Label writes each request into its log, with paths and identifiers.
        *("--verbose", "WARNING", "--log_level", "warning", "--uvicorn_app", "monai_ldmsr.label.server:app"),
        *given,
    ]
    print(f"listening on http://{arguments.host}:{arguments.port}", file=sys.stderr, flush=True)
    main().run()
    return 0


def _monai_label() -> type:
    from monai_ldmsr.label import stand_ins

    stand_ins.install()
    try:
        from monailabel.main import Main
    except ImportError:
        raise SettingsError(_INSTALL) from None
    found: type = Main
    return found


def _check_folder(studies: Path) -> None:
    if not studies.is_dir():
        raise SettingsError("--studies is no folder. Give one of volume files, or the address of a DICOMweb service.")
    if not os.access(studies, os.W_OK):
        raise OutputError("The folder of --studies cannot be written, and results are stored there.")


def _check_service(address: str, ca_file: Path | None) -> None:
    from monai_ldmsr.pacs.peers import parse_peer
    from monai_ldmsr.pacs.tls import TlsSettings

    parse_peer(address)
    if ca_file is not None:
        TlsSettings(ca_file).client_context()


def _check_address(host: str, port: int) -> None:
    """Refuse an address where the server cannot listen; its own error is a traceback, after all else has started."""
    if not 0 < port < 2**16:
        raise SettingsError("--port must be 1 to 65535.")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise SettingsError(f"The server cannot listen on port {port} of --host: {error.strerror or error}.") from None


def _app_folder(folder: Path | None) -> Path:
    """A folder with ``main.py``, where MONAI Label writes its logs."""
    from monai_ldmsr import label

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = folder or cache / "monai_ldmsr" / "label"
    with output_errors("The folder for logs and records"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(label.__file__).parent / "app_folder" / "main.py", folder / "main.py")
    return folder.resolve()

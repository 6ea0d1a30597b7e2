"""A real PACS for tests: Orthanc with its DICOMweb plugin, on free ports, with a storage folder of its own.

Installed by ``apt-get install -y --no-install-recommends orthanc orthanc-dicomweb dcmtk``; tests that ask for the
fixture ``orthanc`` skip without it. Orthanc cannot be told an address to listen on, so it answers loopback only:
HTTP from elsewhere is refused, and DICOM is taken from registered AE titles at 127.0.0.1 alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SERVER = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
READY_WITHIN_S = 30.0

HOW_TO_RUN = (
    "Orthanc is not installed: apt-get install -y --no-install-recommends orthanc orthanc-dicomweb dcmtk, then "
    "python -m pytest -m orthanc"
)

#: AE titles of dcmtk's programs and of this package, which Orthanc answers when they call.
CALLING = ("LDMSR", "STORESCU", "FINDSCU", "MOVESCU", "GETSCU")


def has_orthanc() -> bool:
    """Tell whether server, plugin and dcmtk's programs are here."""
    return os.access(SERVER, os.X_OK) and PLUGIN.is_file() and bool(shutil.which("storescu"))


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OrthancServer:
    """One Orthanc; what it stores outlives :meth:`kill` and is there again after :meth:`start`.

    Args:
        folder: storage and configuration; made when missing.
        options: of Orthanc's configuration, added to those that the tests need.
    """

    aet = "ORTHANC"

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.dicom_port, self.http_port = free_port(), free_port()
        self._options = options
        self._known = {name: (name, "127.0.0.1", 104) for name in CALLING}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and not killed since."""
        return self._process is not None

    @property
    def url(self) -> str:
        """Root of the REST interface."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """Root of DICOMweb."""
        return f"{self.url}/dicom-web"

    @property
    def peer(self) -> str:
        """AE title and address, as the commands take it."""
        return f"{self.aet}@127.0.0.1:{self.dicom_port}"

    def start(self) -> None:
        """Start it and wait until it answers by HTTP and takes DICOM connections."""
        assert self._process is None, "Orthanc runs already"
        config = self._write_config()
        command = ["setpriv", "--pdeathsig", "KILL"]
        if os.geteuid() == 0:
            command += ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            for path in (self.folder, *self.folder.rglob("*")):
                shutil.chown(path, "nobody", "nogroup")
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, SERVER, str(config)],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},  # or each C-STORE waits for an acknowledgement
                cwd=self.folder,
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError((self.folder / "orthanc.log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once, as a power cut would; nothing happens when it does not run."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            process.wait(timeout=10)

    def restart(self, **options: Any) -> None:
        """Start it anew with these options instead of those it was made with."""
        self.kill()
        self._options = options
        self.start()

    def register(self, aet: str, port: int, host: str = "127.0.0.1") -> None:
        """Make ``aet`` known: it may call, and C-MOVE to it goes to this address."""
        self._known[aet] = (aet, host, port)
        if self._process is not None:
            self.request(f"/modalities/{aet}", "PUT", {"AET": aet, "Host": host, "Port": port})

    def clear(self) -> None:
        """Delete all that is stored."""
        for patient in self.request("/patients"):
            self.request(f"/patients/{patient}", "DELETE")

    def request(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Answer of the REST interface, parsed when it is JSON."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content or b"null") if "json" in answer.headers.get("Content-Type", "") else content

    def upload(self, *files: Path) -> None:
        """Store files by HTTP."""
        for path in files:
            self.request("/instances", "POST", path.read_bytes())

    def instance_uids(self, series_uid: str | None = None) -> list[str]:
        """SOP Instance UIDs that it holds, each as often as it does, sorted."""
        query = {} if series_uid is None else {"SeriesInstanceUID": series_uid}
        found = self.request("/tools/find", "POST", {"Level": "Instance", "Query": query, "Expand": True})
        return sorted(item["MainDicomTags"]["SOPInstanceUID"] for item in found)

    def _write_config(self) -> Path:
        options = {
            "Name": "Test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomPort": self.dicom_port,
            "DicomAet": self.aet,
            "DicomCheckCalledAet": True,
            "DicomCheckModalityHost": True,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomModalities": self._known,
            "DicomModalitiesInDatabase": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **self._options,
        }
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        config = self.folder / "orthanc.json"
        config.write_text(json.dumps(options, indent=2))
        return config

    def _answers(self) -> bool:
        try:
            self.request("/system")
            with socket.create_connection(("127.0.0.1", self.dicom_port), timeout=1):
                return True
        except (OSError, urllib.error.URLError):
            return False


@pytest.fixture(scope="module")
def orthanc() -> Iterator[OrthancServer]:
    """A running Orthanc, empty at the start of the module; it answers ``CALLING`` and whom one registers."""
    if not has_orthanc():
        pytest.skip(HOW_TO_RUN)
    # pytest's own folders are closed to the user that Orthanc runs as.
    with tempfile.TemporaryDirectory(prefix="orthanc-", ignore_cleanup_errors=True) as folder:
        server = OrthancServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()

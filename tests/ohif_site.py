"""The web viewer's server: nginx as in ``deploy/ohif``, on loopback."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from orthanc_server import OrthancServer, free_port
from places import ROOT

SHIPPED = ROOT / "deploy" / "ohif"
HOW_TO_RUN = "the web viewer is not installed: make viewer test-viewer"
_NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


def has_ohif() -> bool:
    """Tell whether nginx, the browser with its driver, and the viewer are here."""
    return all(Path(path).is_file() for path in (_NGINX, CHROMIUM, DRIVER)) and _dist() is not None


def _dist() -> Path | None:
    return next((page.parent for page in sorted(ROOT.glob(".viewer/ohif-*/dist/index.html"))), None)


class OhifSite:
    """nginx with the shipped configuration, but for ports and places.

    Args:
        folder: of its files; closed with the context.
        orthanc: whose DICOMweb is passed on.
    """

    def __init__(self, folder: Path, orthanc: OrthancServer) -> None:
        self._folder, self._orthanc = folder, orthanc
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the viewer is."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> OhifSite:
        command = ["setpriv", "--pdeathsig", "KILL", _NGINX, "-e", "stderr", "-c", str(self._write_config())]
        self._process = subprocess.Popen([*command, "-p", str(self._folder)])
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def _write_config(self) -> Path:
        server = (SHIPPED / "nginx.conf").read_text()
        for shipped, ours in (
            ("127.0.0.1:3000", f"127.0.0.1:{self._port}"),
            ("http://127.0.0.1:8042", self._orthanc.url),
            ("/srv/ohif/dist", str(_dist())),
            ("/srv/ohif/app-config.js", str(SHIPPED / "app-config.js")),
        ):
            assert shipped in server
            server = server.replace(shipped, ours)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "\n".join(f"    {kind}_temp_path {self._folder / kind};" for kind in kinds)
        config = self._folder / "nginx.conf"
        config.write_text(
            "daemon off;\nmaster_process off;\n"
            f"pid {self._folder}/pid;\nerror_log stderr warn;\nevents {{}}\n"
            f"http {{\n    include /etc/nginx/mime.types;\n    access_log off;\n{places}\n{server}}}\n"
        )
        return config

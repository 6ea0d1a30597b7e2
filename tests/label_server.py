"""A real MONAI Label server for tests, on loopback, asked by the client that 3D Slicer's module brings.

It runs in an environment of its own, which ``make label`` makes; tests that ask for the fixture ``label_server`` skip
without it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from orthanc_server import free_port
from places import BUNDLES, ROOT

ENVIRONMENT = ROOT / ".venv-label"
READY_WITHIN_S = 120.0
HOW_TO_RUN = "MONAI Label is not installed: make servers label test-label"


def has_label() -> bool:
    """Tell whether the environment was made."""
    return (ENVIRONMENT / ".label").is_file()


def slicer_client_module() -> ModuleType:
    """The client of Slicer's module, as MONAI Label's package ships it; it needs nothing of Slicer."""
    path = ENVIRONMENT / "monailabel/plugins/slicer/MONAILabel/MONAILabelLib/client.py"
    spec = importlib.util.spec_from_file_location("slicer_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class LabelServer:
    """One server.

    Args:
        folder: for its logs, its home and what clients get; made when missing.
        studies: folder or address.
        command: what to start, before ``--studies``; None starts ``ldmsr label``.
        environment: more environment variables.
    """

    def __init__(
        self, folder: Path, studies: str | Path, command: Sequence[str] | None = None, **environment: str
    ) -> None:
        self.folder, self.studies, self.port = folder, studies, free_port()
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        bundle = ["--bundle", str(unrestricted_bundle(folder))]
        self._command = command or ["ldmsr", "label", "--app-dir", str(folder / "app"), *bundle]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self.client = slicer_client_module().MONAILabelClient(self.url, str(folder / "client"))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that it wrote: to the terminal and into its log."""
        files = [self.folder / "terminal.log", *self.folder.rglob("app.log")]
        return "\n".join(path.read_text(errors="replace") for path in files if path.is_file())

    def start(self) -> LabelServer:
        """Start it and wait until it answers."""
        binaries = ENVIRONMENT / "bin"
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.temporary),
            "XDG_CACHE_HOME": str(self.folder / "home" / "cache"),
            **self._environment,
        }
        command = [*self._command, "--studies", str(self.studies), "--host", "127.0.0.1", "--port", str(self.port)]
        program = shutil.which(command[0], path=str(binaries)) or command[0]
        with (self.folder / "terminal.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *command[1:]],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
            )
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(self.log[-3000:])
            time.sleep(0.2)
        return self

    def _is_up(self) -> bool:
        try:
            return requests.get(f"{self.url}/openapi.json", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    def answers(self) -> bool:
        """Whether it answers a harmless question."""
        try:
            return requests.get(f"{self.url}/info/", timeout=60).status_code == 200
        except requests.ConnectionError:
            return False

    def stop(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait(timeout=20)

    def infer(self, image: str, params: dict[str, Any] | None = None, output: str = "json") -> requests.Response:
        """Answer to a bare request."""
        return requests.post(
            f"{self.url}/infer/ldm_sr",
            params={"image": image, "output": output},
            data={"params": json.dumps(params or {})},
            timeout=300,
        )

    def refusal(self, response: requests.Response) -> tuple[int, str]:
        """Status and reason code of an answer that must be a refusal with a sentence for a person."""
        reason = response.headers["X-Ldmsr-Reason"]
        detail = response.json()["detail"]
        assert detail.endswith(f"[{reason}]")
        assert len(detail.split()) > 4
        assert "Traceback" not in response.text
        assert str(self.studies) not in detail
        return response.status_code, reason


def unrestricted_bundle(place: Path) -> Path:
    """The shipped bundle beside a folder, without what refuses images that are made for tests."""
    folder = place.parent / f"{place.name} bundle" / "ldm_sr"
    if not folder.exists():
        shutil.copytree(BUNDLES / "ldm_sr" / "configs", folder / "configs")
        (folder / "models").mkdir()
        for name in ("model.pt", "calibration.json"):
            (folder / "models" / name).symlink_to(BUNDLES / "ldm_sr" / "models" / name)
    return folder


def super_resolved_here(source: Path, output: Path, **settings: Any) -> Path:
    """Result folder of the same image by this environment's own command."""
    from monai_ldmsr import super_resolve

    summary = super_resolve(source, output, device="cpu", bundle=unrestricted_bundle(output), **settings)
    assert summary.exit_code == 0
    return output / summary.cases[0].case


@pytest.fixture(scope="module")
def label_environment() -> None:
    """Skip where MONAI Label is not installed."""
    if not has_label():
        pytest.skip(HOW_TO_RUN)


@pytest.fixture
def label_server(label_environment: None, tmp_path: Path) -> Iterator[Any]:
    """A function that starts a server on studies; all of them end with the test."""
    servers: list[LabelServer] = []

    def start(studies: str | Path, command: Sequence[str] | None = None, **environment: str) -> LabelServer:
        servers.append(LabelServer(tmp_path / f"server{len(servers)}", studies, command, **environment))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()

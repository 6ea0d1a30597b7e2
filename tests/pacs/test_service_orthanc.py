"""``ldmsr serve`` as it is shipped, between a real Orthanc, configured as in ``deploy/``, and dcmtk's storescu."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from dicom_fixtures import make_series
from orthanc_server import HOW_TO_RUN, OrthancServer, free_port, has_orthanc
from pacs_fixtures import wait_until
from places import ROOT

WITHIN_S = 120.0

pytestmark = pytest.mark.orthanc


@pytest.fixture(scope="module")
def pacs() -> Iterator[OrthancServer]:
    """Orthanc as in the compose file, but for ports, places, and who may ask by HTTP."""
    if not has_orthanc():
        pytest.skip(HOW_TO_RUN)
    shipped = json.loads((ROOT / "deploy" / "orthanc.json").read_text())
    own = {"HttpPort", "DicomPort", "StorageDirectory", "IndexDirectory", "Plugins", "DicomModalities", "DicomAet"}
    own |= {"RemoteAccessAllowed", "AuthenticationEnabled", "RegisteredUsers"}
    with tempfile.TemporaryDirectory(prefix="orthanc-", ignore_cleanup_errors=True) as folder:
        server = OrthancServer(Path(folder), **{key: value for key, value in shipped.items() if key not in own})
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def serving(folder: Path, port: int, pacs: OrthancServer) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "monai_ldmsr", "--log-level", "info", "serve", str(folder / "out")]
    command += ["--port", str(port), "--address", "127.0.0.1", "--allow", pacs.aet, "--allow", "STORESCU"]
    command += ["--send", pacs.peer, "--stable-age", "0.5", "--steps", "1", "--device", "cpu", "--force"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("a") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        try:
            wait_until(lambda: "Listening" in (folder / "log").read_text(), WITHIN_S)
            yield process
        finally:
            process.kill()


def forward(pacs: OrthancServer, series_uid: str) -> None:
    """Let Orthanc send a series to the service, as a person does by its REST interface."""
    (found,) = pacs.request("/tools/find", "POST", {"Level": "Series", "Query": {"SeriesInstanceUID": series_uid}})
    pacs.request("/modalities/LDMSR/store", "POST", found.encode())


def series_of(pacs: OrthancServer, study_uid: str) -> list[str]:
    """What QIDO finds under a study."""
    found = pacs.request(f"/dicom-web/studies/{study_uid}/series")
    found = json.loads(found) if isinstance(found, bytes) else found
    return [item["0020000E"]["Value"][0] for item in found]


def test_a_study_comes_back_with_a_new_series(pacs: OrthancServer, tmp_path: Path) -> None:
    port = free_port()
    pacs.register("LDMSR", port)
    one = make_series(tmp_path / "one", "MR", (24, 28, 3))
    two = make_series(tmp_path / "two", "CT", (24, 28, 3))
    heads = [pydicom.dcmread(made.paths[0]) for made in (one, two)]
    pacs.upload(*one.paths)
    with serving(tmp_path, port, pacs) as process:
        forward(pacs, heads[0].SeriesInstanceUID)
        storescu = ["storescu", "-aet", "STORESCU", "-aec", "LDMSR", "127.0.0.1", str(port)]
        subprocess.run([*storescu, *map(str, two.paths)], check=True)
        wait_until(lambda: len(pacs.instance_uids()) == 9, WITHIN_S)
        spool = tmp_path / "out" / "spool"
        wait_until(lambda: not list((spool / "ready").iterdir()), WITHIN_S)
        # A whole study forwarded again, own result and all: nothing new comes of it.
        (new,) = set(series_of(pacs, heads[0].StudyInstanceUID)) - {heads[0].SeriesInstanceUID}
        for uid in (new, heads[0].SeriesInstanceUID):
            forward(pacs, uid)
        wait_until(lambda: "came again" in (tmp_path / "log").read_text(), WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert len(pacs.instance_uids()) == 9
    (other,) = series_of(pacs, heads[1].StudyInstanceUID)  # its source went past Orthanc
    assert other != heads[1].SeriesInstanceUID
    for series in (new, other):
        assert_holds_what_was_written(pacs, tmp_path / "out", series)
    told = (tmp_path / "log").read_text()
    assert not re.search(r"MARKER|Traceback|\.dcm|" + re.escape(str(tmp_path)), told), told


def assert_holds_what_was_written(pacs: OrthancServer, output: Path, series_uid: str) -> None:
    """Every image of a result is in the PACS, with the pixels of the result folder."""
    written = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, output.glob("*/dicom/*.dcm"))}
    written = {uid: image for uid, image in written.items() if image.SeriesInstanceUID == series_uid}
    assert pacs.instance_uids(series_uid) == sorted(written)
    assert len(written) == 3
    for uid, image in written.items():
        (found,) = pacs.request("/tools/find", "POST", {"Level": "Instance", "Query": {"SOPInstanceUID": uid}})
        stored = output.parent / "stored.dcm"
        stored.write_bytes(pacs.request(f"/instances/{found}/file"))
        assert pydicom.dcmread(stored).PixelData == image.PixelData


def test_the_pacs_is_killed_and_the_service_stopped_in_the_middle(pacs: OrthancServer, tmp_path: Path) -> None:
    port = free_port()
    pacs.register("LDMSR", port)
    made = make_series(tmp_path / "in", "CT", (24, 28, 3))
    head = pydicom.dcmread(made.paths[0])
    pacs.upload(*made.paths)
    with serving(tmp_path, port, pacs) as process:
        forward(pacs, head.SeriesInstanceUID)
        pacs.kill()
        wait_until(lambda: "PACS_UNREACHABLE" in (tmp_path / "log").read_text(), WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    pacs.start()
    with serving(tmp_path, port, pacs):
        wait_until(lambda: len(series_of(pacs, head.StudyInstanceUID)) == 2, WITHIN_S)
        wait_until(lambda: not list((tmp_path / "out" / "spool" / "ready").iterdir()), WITHIN_S)
    (new,) = set(series_of(pacs, head.StudyInstanceUID)) - {head.SeriesInstanceUID}
    assert_holds_what_was_written(pacs, tmp_path / "out", new)
    assert (tmp_path / "log").read_text().count(": done, 3 slices") == 1

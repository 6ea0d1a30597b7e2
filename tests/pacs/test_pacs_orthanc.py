"""Against a real PACS: fetch, super-resolve, send back, find again; killed in the middle; dcmtk as the modality."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_fixtures import make_series
from dicomweb_client.api import DICOMwebClient
from orthanc_server import OrthancServer, free_port
from pacs_fixtures import compressed, images_in, wait_until
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from monai_ldmsr import super_resolve
from monai_ldmsr.cli import main
from monai_ldmsr.pacs import retrieval
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.fetching import MoveTarget, SeriesQuery, fetch
from monai_ldmsr.pacs.peers import Caller, parse_peer
from monai_ldmsr.pacs.receiver import SeriesReceiver
from monai_ldmsr.pacs.sending import StoreDelivery, parse_destination
from monai_ldmsr.pacs.spool import SpoolTimes
from monai_ldmsr.pacs.store_server import Endpoint, ReceiverLimits

pytestmark = pytest.mark.orthanc

SHAPE = (16, 18, 4)
NO_LIMIT = ReceiverLimits(min_free_bytes=0)


@pytest.fixture
def server(orthanc: OrthancServer) -> OrthancServer:
    """The module's Orthanc, running and empty."""
    if not orthanc.is_running:
        orthanc.start()
    orthanc.clear()
    return orthanc


def peer_of(server: OrthancServer, method: str) -> str:
    return server.dicomweb if method in ("wado", "stow") else server.peer


def fetch_by(server: OrthancServer, method: str, folder: Path, study: str):
    port = free_port()
    if method == "move":
        server.register("LDMSR", port)
    peer, target = parse_peer(peer_of(server, method)), MoveTarget(port, "127.0.0.1")
    return fetch(peer, folder, SeriesQuery(study=study), method=method, move=target, limits=NO_LIMIT)


@pytest.mark.parametrize(("way_in", "way_out"), [("get", "store"), ("move", "store"), ("wado", "stow")])
def test_round_trip(server: OrthancServer, tmp_path: Path, bundle: Path, way_in: str, way_out: str) -> None:
    made = make_series(tmp_path / "source", "CT", SHAPE)
    source = pydicom.dcmread(made.paths[0])
    server.upload(*made.paths)

    assert fetch_by(server, way_in, tmp_path / "in", source.StudyInstanceUID).exit_code == 0
    fetched = images_in(tmp_path / "in")
    assert len(fetched) == SHAPE[2]
    for path in made.paths:
        original = pydicom.dcmread(path)
        assert fetched[original.SOPInstanceUID] == original

    assert super_resolve(tmp_path / "in", tmp_path / "out", bundle=bundle, device="cpu").exit_code == 0
    [result] = (path.parent for path in (tmp_path / "out").glob("*/dicom"))
    delivery = parse_destination(peer_of(server, way_out))
    for _ in range(2):  # sending again changes nothing
        outcome = delivery.deliver(result)
        assert outcome.complete, outcome
        assert outcome.n_sent == SHAPE[2]

    client = DICOMwebClient(server.dicomweb)
    found = client.search_for_series(source.StudyInstanceUID)
    uids = {match["0020000E"]["Value"][0] for match in found}
    assert len(found) == 2
    [new] = uids - {source.SeriesInstanceUID}
    sent = images_in(result)
    back = client.retrieve_series(source.StudyInstanceUID, new)
    assert {image.SOPInstanceUID for image in back} == set(sent)
    assert len(back) == len(sent)
    for image in back:
        np.testing.assert_array_equal(image.pixel_array, sent[image.SOPInstanceUID].pixel_array)
        assert image.pixel_array.shape == (2 * SHAPE[0], 2 * SHAPE[1])
        assert image.PatientID == source.PatientID

    # What was sent back is found by the next fetch, and only that is fetched.
    again = fetch_by(server, way_in, tmp_path / "in", source.StudyInstanceUID)
    assert sorted(series.n_fetched for series in again.series) == [0, SHAPE[2]]


@pytest.mark.parametrize("method", ["get", "move", "wado"])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda uid: uid.name[:12])
def test_compressed_images_pass_unchanged(server: OrthancServer, tmp_path: Path, method: str, syntax: str) -> None:
    paths = compressed(make_series(tmp_path / "source", "MR", (64, 72, 2)).paths, syntax)
    server.upload(*paths)
    study = pydicom.dcmread(paths[0]).StudyInstanceUID
    summary = fetch_by(server, method, tmp_path / "in", study)
    assert summary.exit_code == 0, summary
    fetched = images_in(tmp_path / "in")
    for path in paths:
        original = pydicom.dcmread(path)
        image = fetched[original.SOPInstanceUID]
        assert image.file_meta.TransferSyntaxUID == syntax
        assert image.PixelData == original.PixelData


def killing_at(server: OrthancServer, function: Callable, n: int) -> Callable:
    """Wrap a function so that its n-th call first kills the server."""
    calls = []

    def wrapped(*arguments, **named):
        calls.append(None)
        if len(calls) == n:
            server.kill()
        return function(*arguments, **named)

    return wrapped


@pytest.mark.parametrize("way_out", ["store", "stow"])
def test_killed_while_sending(
    server: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way_out: str
) -> None:
    paths = make_series(tmp_path / "result" / "dicom", "MR", (16, 18, 30)).paths
    expected = sorted(pydicom.dcmread(path).SOPInstanceUID for path in paths)
    delivery = parse_destination(peer_of(server, way_out), Caller(timeout_s=10))
    target, name = (StoreDelivery, "_store") if way_out == "store" else (DicomwebClient, "store")
    with monkeypatch.context() as patch:
        patch.setattr(target, name, killing_at(server, getattr(target, name), 12))
        outcome = delivery.deliver(tmp_path / "result")
    assert (outcome.n_sent, outcome.n_instances, outcome.reason) == (11, 30, "PACS_UNREACHABLE")
    assert not outcome.permanent
    assert delivery.deliver(tmp_path / "result").reason == "PACS_UNREACHABLE"
    server.start()
    assert len(server.instance_uids()) == 11
    assert delivery.deliver(tmp_path / "result").complete
    assert server.instance_uids() == expected


@pytest.mark.parametrize("method", ["get", "move", "wado"])
def test_killed_while_fetching(
    server: OrthancServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    paths = make_series(tmp_path / "source", "MR", (16, 18, 30)).paths
    server.upload(*paths)
    study = pydicom.dcmread(paths[0]).StudyInstanceUID
    with monkeypatch.context() as patch:
        target = retrieval if method == "wado" else retrieval.IncomingImage
        name = "write_synced" if method == "wado" else "write"
        patch.setattr(target, name, killing_at(server, getattr(target, name), 12))
        summary = fetch_by(server, method, tmp_path / "in", study)
    [series] = summary.series
    assert (series.status, series.reason, summary.exit_code) == ("failed", "PACS_UNREACHABLE", 8)
    assert not [path for path in tmp_path.glob("in/**/*") if path.is_file()]
    assert not list(tmp_path.glob("in/*/.*"))
    server.start()
    summary = fetch_by(server, method, tmp_path / "in", study)
    assert summary.exit_code == 0
    assert sorted(images_in(tmp_path / "in")) == sorted(pydicom.dcmread(path).SOPInstanceUID for path in paths)


def test_the_command(server: OrthancServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for modality, date in (("MR", "20260110"), ("CT", "20260210")):
        made = make_series(tmp_path / modality, modality, (16, 18, 3), StudyDate=date, AccessionNumber=f"ACC{modality}")
        server.upload(*made.paths)
    report = make_series(tmp_path / "US", "MR", (16, 18, 1), Modality="US", StudyDate="20260110")
    server.upload(*report.paths)
    for peer in (server.peer, server.dicomweb):
        assert main(["fetch", peer, str(tmp_path / "in"), "--date", "20260101-20260131", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "1 found, 1 skipped; 3 images" in said
        assert "UNSUPPORTED_MODALITY" in said
        assert not (tmp_path / "in").exists()
        assert main(["fetch", peer, str(tmp_path / "none"), "--accession", "NONE"]) == 2
        assert main(["fetch", peer, str(tmp_path / "none"), "--accession", "ACCCT", "--modality", "MR"]) == 2
        capsys.readouterr()
        folder = str(tmp_path / peer[:4])
        assert main(["fetch", peer, folder, "--accession", "ACCCT"]) == 0
        assert "1 done; 3 images" in capsys.readouterr().out
        assert main(["fetch", peer, folder, "--accession", "ACCCT"]) == 0
        assert "all here" in capsys.readouterr().out
    server.kill()
    for peer in (server.peer, server.dicomweb):
        assert main(["fetch", peer, str(tmp_path / "none"), "--accession", "ACCCT"]) == 8
        assert "PACS_UNREACHABLE" in capsys.readouterr().err


def storescu(port: int, *paths: Path, aet: str = "STORESCU", called: str = "LDMSR") -> int:
    command = ["storescu", "-aet", aet, "-aec", called, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode


def receiver_for(folder: Path, handed_on: list[Path], sender: str) -> SeriesReceiver:
    endpoint = Endpoint("LDMSR", 0, [sender], "127.0.0.1")
    return SeriesReceiver(folder, handed_on.append, endpoint, limits=NO_LIMIT, times=SpoolTimes(quiet_s=0.5))


def test_three_hundred_slices_by_storescu(tmp_path: Path) -> None:
    if shutil.which("storescu") is None:
        pytest.skip("dcmtk is not installed: apt-get install -y dcmtk")
    paths = make_series(tmp_path / "source", "CT", (32, 36, 300), baggage=False).paths
    handed_on: list[Path] = []
    busy = threading.Event()

    def work() -> None:  # what a network does
        matrix = torch.ones(256, 256)
        while not busy.is_set():
            matrix @ matrix

    receiver = receiver_for(tmp_path / "spool", handed_on, "STORESCU")
    worker = threading.Thread(target=work)
    worker.start()
    with receiver:
        start = time.monotonic()
        assert storescu(receiver.port, *paths) == 0
        print(f"{300 / (time.monotonic() - start):.0f} images/s")
        assert storescu(receiver.port, paths[0], aet="STRANGER") != 0
        assert storescu(receiver.port, paths[0], called="SOMEBODY") != 0
        wait_until(lambda: handed_on)
    busy.set()
    worker.join()
    [folder] = handed_on
    received = images_in(folder)
    assert len(received) == 300
    for path in paths:
        original = pydicom.dcmread(path)
        assert received[original.SOPInstanceUID] == original


def test_orthanc_sends_to_the_receiver(server: OrthancServer, tmp_path: Path) -> None:
    paths = make_series(tmp_path / "source", "MR", (16, 18, 10)).paths
    server.upload(*paths)
    handed_on: list[Path] = []
    with receiver_for(tmp_path / "spool", handed_on, "ORTHANC") as receiver:
        server.register("LDMSR", receiver.port)
        [series] = server.request("/series")
        server.request("/modalities/LDMSR/echo", "POST", {})
        server.request("/modalities/LDMSR/store", "POST", series.encode())
        wait_until(lambda: handed_on)
        server.request("/modalities/LDMSR/store", "POST", series.encode())
        wait_until(lambda: not receiver.spool.n_receiving)
    assert len(images_in(handed_on[0])) == 10
    assert len(handed_on) == 1

"""Results to a PACS: an image counts as sent only when the PACS says so, and every failure is an outcome."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_series
from dicom_peers import scp
from dicomweb_server import DicomwebServer, stow_answer
from orthanc_server import free_port
from pacs_fixtures import compressed, images_in
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from pynetdicom import build_context, evt

from monai_ldmsr.batch import DeliveryOutcome
from monai_ldmsr.errors import PeerError, ReasonCode
from monai_ldmsr.pacs.dicomweb import DicomwebClient
from monai_ldmsr.pacs.dimse import association
from monai_ldmsr.pacs.peers import Caller, DicomPeer, DicomwebPeer
from monai_ldmsr.pacs.sending import StoreDelivery, StowDelivery, parse_destination

N = 5
CALLER = Caller(timeout_s=3)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result folder as the writer leaves it, as far as a delivery looks."""
    make_series(tmp_path / "result" / "dicom", "MR", (16, 18, N), baggage=False)
    (tmp_path / "result" / "report.json").write_text("{}")
    (tmp_path / "result" / "report.html").write_text("<p>")
    return tmp_path / "result"


class Recorder:
    """An ``EVT_C_STORE`` handler that keeps images, and gives the n-th another status."""

    def __init__(self, statuses: dict[int, int] | None = None) -> None:
        self.images: list[Dataset] = []
        self.statuses = statuses or {}

    def __call__(self, event: evt.Event) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        status = self.statuses.get(len(self.images), 0x0000)
        self.images.append(image)
        return status


def store_to(peer: DicomPeer, result: Path, caller: Caller = CALLER) -> DeliveryOutcome:
    return StoreDelivery(peer, caller).deliver(result)


def stow_to(url: str, result: Path, caller: Caller = CALLER) -> DeliveryOutcome:
    return StowDelivery(DicomwebPeer(url), caller).deliver(result)


def assert_none_sent(outcome: DeliveryOutcome, reason: str, permanent: bool) -> None:
    assert (outcome.n_sent, outcome.reason, outcome.permanent) == (0, reason, permanent)


@contextmanager
def recording(statuses: dict[int, int] | None = None, **named: object) -> Iterator[tuple[DicomPeer, Recorder]]:
    recorder = Recorder(statuses)
    with scp([(evt.EVT_C_STORE, recorder)], **named) as peer:
        yield peer, recorder


def test_all_images_are_sent_as_they_are_and_again_to_no_harm(result: Path) -> None:
    sent = images_in(result)
    with recording() as (peer, recorder):
        delivery = StoreDelivery(peer, CALLER)
        for _ in range(2):
            outcome = delivery.deliver(result)
            assert (outcome.n_sent, outcome.n_instances, outcome.reason) == (N, N, "")
            assert outcome.complete
    assert delivery.name == str(peer)
    assert len(recorder.images) == 2 * N
    for image in recorder.images:
        assert image == sent[image.SOPInstanceUID]
        assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@pytest.mark.parametrize(
    ("status", "n_sent", "reason", "permanent"),
    [
        (0xA700, 2, "PACS_OUT_OF_RESOURCES", False),
        (0xA702, 2, "PACS_OUT_OF_RESOURCES", False),
        (0xA900, 2, "PACS_REFUSED", True),
        (0xC000, 2, "PACS_REFUSED", True),
        (0x0122, 2, "PACS_NOT_NEGOTIATED", True),
        (0x0124, 2, "PACS_REFUSED", True),
        (0xB000, N - 1, "PACS_WARNING", True),
        (0xB006, N - 1, "PACS_WARNING", True),
        (0xB007, N - 1, "PACS_WARNING", True),
    ],
    ids=lambda value: hex(value) if isinstance(value, int) and value > N else "",
)
def test_only_status_0000_counts(result: Path, status: int, n_sent: int, reason: str, permanent: bool) -> None:
    with recording({2: status}) as (peer, _):
        outcome = store_to(peer, result)
    assert (outcome.n_sent, outcome.reason, outcome.permanent) == (n_sent, reason, permanent)
    assert not outcome.complete
    assert f"0x{status:04X}" in outcome.message


def test_a_rejected_association(result: Path) -> None:
    with recording(allowed=["SOMEBODY"]) as (peer, recorder):
        outcome = store_to(peer, result)
        assert (outcome.n_sent, outcome.n_instances, outcome.reason) == (0, N, "PACS_REJECTED")
        assert "our AE title" in outcome.message
        assert not outcome.permanent, "somebody may register us"
        other = DicomPeer("OTHER", peer.host, peer.port)
        assert "that was called" in store_to(other, result, Caller("SOMEBODY", timeout_s=3)).message
        assert store_to(peer, result, Caller("SOMEBODY", timeout_s=3)).complete
    assert len(recorder.images) == N


def test_nobody_there(result: Path) -> None:
    for peer in (DicomPeer("PACS", "127.0.0.1", free_port()), DicomPeer("PACS", "no-such-host.invalid", 104)):
        assert_none_sent(store_to(peer, result), "PACS_UNREACHABLE", False)
    assert_none_sent(stow_to(f"http://127.0.0.1:{free_port()}/x", result), "PACS_UNREACHABLE", False)


def test_somebody_who_says_nothing(result: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start, port = time.monotonic(), silent.getsockname()[1]
        stored = store_to(DicomPeer("PACS", "127.0.0.1", port), result, Caller(timeout_s=0.5))
        sent = stow_to(f"http://127.0.0.1:{port}/x", result, Caller(timeout_s=0.3))
    assert_none_sent(stored, "PACS_UNREACHABLE", False)
    assert_none_sent(sent, "PACS_UNREACHABLE", False)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "trouble",
    [
        lambda event: event.assoc.abort(),
        lambda event: event.assoc.dul.socket.socket.shutdown(2),
        lambda event: time.sleep(1.5),
    ],
    ids=["abort", "cut", "stall"],
)
def test_an_association_that_ends_in_the_middle(result: Path, trouble: Callable[[evt.Event], None]) -> None:
    taken = []

    def store(event: evt.Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        if len(taken) == 3:
            trouble(event)
        return 0x0000

    with scp([(evt.EVT_C_STORE, store)]) as peer:
        outcome = store_to(peer, result, Caller(timeout_s=0.7))
        assert (outcome.n_sent, outcome.n_instances, outcome.reason) == (2, N, "PACS_UNREACHABLE")
        assert not outcome.permanent
        assert store_to(peer, result).complete


def test_explicit_becomes_implicit_without_loss(result: Path) -> None:
    sent = images_in(result)
    with recording(syntaxes=[ImplicitVRLittleEndian]) as (peer, recorder):
        assert store_to(peer, result).complete
    for image in recorder.images:
        assert image.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        original = sent[image.SOPInstanceUID]
        np.testing.assert_array_equal(image.pixel_array, original.pixel_array)
        assert {e.tag: e.value for e in image if e.VR != "SQ"} == {e.tag: e.value for e in original if e.VR != "SQ"}


@pytest.mark.parametrize("syntaxes", [[RLELossless], [JPEGLSLossless]])
def test_nothing_is_sent_where_it_would_have_to_be_compressed(result: Path, syntaxes: list[str]) -> None:
    with recording(syntaxes=syntaxes) as (peer, recorder):
        assert_none_sent(store_to(peer, result), "PACS_NOT_NEGOTIATED", True)
    assert not recorder.images


def test_a_compressed_result_passes_or_fails_clearly(result: Path) -> None:
    compressed([*result.rglob("*.dcm")], RLELossless)
    sent = images_in(result)
    with recording() as (peer, recorder):
        assert store_to(peer, result).complete
    assert {image.SOPInstanceUID: image.PixelData for image in recorder.images} == {
        uid: image.PixelData for uid, image in sent.items()
    }
    with recording(syntaxes=[ExplicitVRLittleEndian]) as (peer, recorder):
        assert store_to(peer, result).complete
    for image in recorder.images:
        assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        np.testing.assert_array_equal(image.pixel_array, sent[image.SOPInstanceUID].pixel_array)
    assert len(recorder.images) == len(sent)
    with recording(syntaxes=[JPEGLSLossless]) as (peer, recorder):
        assert_none_sent(store_to(peer, result), "PACS_NOT_NEGOTIATED", True)
    assert not recorder.images


def test_a_class_that_the_peer_does_not_take(result: Path) -> None:
    [first, *_] = result.rglob("*.dcm")
    image = pydicom.dcmread(first)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    image.save_as(first, overwrite=True)
    only_mr = [build_context("1.2.840.10008.5.1.4.1.1.4")]
    with recording(contexts=only_mr) as (peer, _):
        outcome = store_to(peer, result)
    assert (outcome.reason, outcome.permanent) == ("PACS_NOT_NEGOTIATED", True)
    assert outcome.n_sent < N


@pytest.mark.parametrize("destination", ["PACS@127.0.0.1:1", "http://127.0.0.1:1/dicom-web"])
def test_what_holds_nothing_to_send_is_an_outcome_too(tmp_path: Path, destination: str) -> None:
    delivery = parse_destination(destination, CALLER)
    for folder in (tmp_path, tmp_path / "missing"):
        outcome = delivery.deliver(folder)
        assert (outcome.n_instances, outcome.complete, outcome.reason) == (0, False, "NOT_AN_IMAGE")
    (tmp_path / "damaged.dcm").write_bytes(b"nothing")
    outcome = delivery.deliver(tmp_path)
    assert (outcome.n_sent, outcome.n_instances) == (0, 1)
    assert outcome.reason in ("NOT_AN_IMAGE", "UNREADABLE_FILE")
    assert outcome.permanent


def test_an_unforeseen_error_is_an_outcome(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("MARKER")

    monkeypatch.setattr("monai_ldmsr.pacs.sending.association", fail)
    monkeypatch.setattr("monai_ldmsr.pacs.dicomweb.DicomwebClient.store", fail)
    for destination in ("PACS@127.0.0.1:1", "http://127.0.0.1:1/dicom-web"):
        outcome = parse_destination(destination, CALLER).deliver(result)
        assert (outcome.reason, outcome.n_instances) == ("INTERNAL_ERROR", N)
        assert "ZeroDivisionError" in outcome.message
        assert "MARKER" not in outcome.message


def test_stow_sends_the_very_bytes(result: Path) -> None:
    with DicomwebServer() as server:
        delivery = StowDelivery(DicomwebPeer(server.url), CALLER)
        for _ in range(2):
            outcome = delivery.deliver(result)
            assert outcome.complete, outcome
            assert outcome.n_sent == N
        assert {path.read_bytes() for path in result.rglob("*.dcm")} == set(server.files.values())
        assert len(server.files) == N


def test_stow_of_a_series_by_one_request(result: Path) -> None:
    files = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in result.rglob("*.dcm")}
    refused, *taken = files
    with DicomwebServer() as server, DicomwebClient(DicomwebPeer(server.url), CALLER) as client:
        assert client.store(files) == dict.fromkeys(files, 0)
        assert len(server.requests) == 1
        assert server.files == {uid: path.read_bytes() for uid, path in files.items()}
        server.fail = lambda *_: answer(409, stow_answer(stored=taken, failed={refused: 0xA700}))
        assert client.store(files) == {refused: 0xA700, **dict.fromkeys(taken, 0)}
        for failure, reason in (
            (answer(200, stow_answer(stored=taken)), ReasonCode.PACS_REFUSED),
            (answer(503), ReasonCode.PACS_OUT_OF_RESOURCES),
        ):
            server.fail = lambda *_, failure=failure: failure
            with pytest.raises(PeerError) as caught:
                client.store(files)
            assert caught.value.reason is reason


def answer(status: int, body: bytes = b"", kind: str = "application/dicom+json") -> tuple[int, str, bytes]:
    return status, kind, body


@pytest.mark.parametrize(
    ("failure", "n_sent", "reason", "permanent"),
    [
        (lambda uid: answer(409, stow_answer(failed={uid: 0xA700})), 2, "PACS_OUT_OF_RESOURCES", False),
        (lambda uid: answer(202, stow_answer(failed={uid: 0x0110})), 2, "PACS_REFUSED", True),
        (lambda uid: answer(202, stow_answer(failed={uid: 0xA900})), 2, "PACS_REFUSED", True),
        (lambda uid: answer(200, stow_answer(failed={uid: 0x0122})), 2, "PACS_NOT_NEGOTIATED", True),
        (lambda uid: answer(202, stow_answer(stored=[uid], warned=0xB000)), N - 1, "PACS_WARNING", True),
        (lambda _: answer(200, stow_answer(stored=["1.2.3"])), 2, "PACS_REFUSED", True),
        (lambda _: answer(200), 2, "PACS_REFUSED", True),
        (lambda _: answer(200, b"<html>", "text/html"), 2, "PACS_REFUSED", True),
        (lambda _: answer(409, b""), 2, "PACS_REFUSED", True),
        (lambda _: answer(401, b"MARKER"), 2, "PACS_REJECTED", False),
        (lambda _: answer(403), 2, "PACS_REJECTED", False),
        (lambda _: answer(404), 2, "PACS_REFUSED", True),
        (lambda _: answer(413), 2, "PACS_REFUSED", True),
        (lambda _: answer(503), 2, "PACS_OUT_OF_RESOURCES", False),
        (lambda _: answer(507), 2, "PACS_OUT_OF_RESOURCES", False),
        (lambda _: answer(500), 2, "PACS_UNREACHABLE", False),
        (lambda _: answer(302), 2, "PACS_REFUSED", True),
    ],
)
def test_stow_counts_only_what_is_listed_as_stored(
    result: Path, failure: Callable, n_sent: int, reason: str, permanent: bool
) -> None:
    order = [pydicom.dcmread(path).SOPInstanceUID for path in sorted(result.rglob("*.dcm"))]
    with DicomwebServer() as server:
        server.fail = lambda *_: failure(order[2]) if len(server.requests) == 3 else None
        outcome = stow_to(server.url, result)
        assert (outcome.n_sent, outcome.n_instances, outcome.reason) == (n_sent, N, reason)
        assert (outcome.complete, outcome.permanent) == (False, permanent)
        assert "MARKER" not in outcome.message
        assert stow_to(server.url, result).complete


def test_no_answer_goes_to_another_thread(result: Path) -> None:
    contexts = [build_context(pydicom.dcmread(next(result.rglob("*.dcm"))).SOPClassUID)]
    with recording() as (peer, _), association(Caller(), peer, contexts) as established:
        answer = (1, object())
        established.dimse.msg_queue.put(answer)
        assert established.dimse.get_msg() == (None, None), "pynetdicom's own thread took it"
        assert established.dimse.get_msg(block=True) == answer

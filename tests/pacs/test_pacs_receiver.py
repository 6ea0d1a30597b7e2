"""Series that others send: who may, what is taken, and when a series is whole and handed on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pydicom
import pytest
from dicom_fixtures import make_series
from dicom_peers import send
from pacs_fixtures import compressed, images_in, wait_until
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, Association
from series_by_hand import derive

from monai_ldmsr.errors import ReasonCode, SettingsError
from monai_ldmsr.pacs import store_server
from monai_ldmsr.pacs.peers import DicomPeer
from monai_ldmsr.pacs.receiver import SeriesReceiver
from monai_ldmsr.pacs.spool import SpoolTimes
from monai_ldmsr.pacs.store_server import Endpoint, ReceiverLimits, StoreServer

LIMITS = ReceiverLimits(min_free_bytes=0)
TIMES = SpoolTimes(quiet_s=0.15, open_quiet_s=0.15)
PATIENT = SpoolTimes(quiet_s=0.15, open_quiet_s=60)


class Received:
    """A running receiver and what it handed on."""

    def __init__(self, folder: Path, **named: object) -> None:
        self.handed_on: list[Path] = []
        options = {"limits": LIMITS, "times": PATIENT, **named}
        endpoint = Endpoint("LDMSR", 0, ["MODALITY"], "127.0.0.1")
        self.receiver = SeriesReceiver(folder, self.handed_on.append, endpoint, **options)

    @property
    def peer(self) -> DicomPeer:
        return DicomPeer("LDMSR", "127.0.0.1", self.receiver.port)

    def settle(self) -> None:
        """Wait until all that may be handed on is."""
        wait_until(lambda: not self.receiver.spool.n_receiving)

    def take(self, images: Sequence[Dataset]) -> None:
        """Let images come, all of them accepted, and settle."""
        assert codes(send(self.peer, images)) == [0] * len(images)
        self.settle()

    def stays(self) -> None:
        """Check that what has come is not handed on, long after it would be."""
        before = len(self.handed_on)
        time.sleep(0.4)
        assert len(self.handed_on) == before
        assert self.receiver.spool.n_receiving == 1


def associated(peer: DicomPeer, *contexts: tuple[str, str | None]) -> Association:
    """An association that stays open, with presentation contexts of (SOP class, transfer syntax)."""
    ae = AE("MODALITY")
    for uid, syntax in contexts:
        ae.add_requested_context(uid, syntax)
    return ae.associate(peer.host, peer.port, ae_title=peer.ae_title)


def context(image: Dataset) -> tuple[str, str]:
    return image.SOPClassUID, image.file_meta.TransferSyntaxUID


@contextmanager
def receiving(folder: Path, **named: object) -> Iterator[Received]:
    received = Received(folder / "spool", **named)
    received.receiver.start()
    try:
        yield received
    finally:
        received.receiver.stop(grace_s=0.5)


def a_series(folder: Path, n: int = 5, modality: str = "MR", **named: object) -> list[Dataset]:
    make_series(folder, modality, (16, 18, n), baggage=False, **named)
    return list(images_in(folder).values())


def codes(statuses: Sequence[Dataset]) -> list[int]:
    return [status.Status for status in statuses]


def comment(status: Dataset) -> str:
    return str(status.get("ErrorComment", ""))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "handed_on"]


def test_a_series_is_handed_on_whole_and_once(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source")
    with receiving(tmp_path) as received:
        received.take(images)
        [folder] = received.handed_on
        assert folder.parent == tmp_path / "spool" / "ready"
        found = images_in(folder)
        assert all(found[image.SOPInstanceUID] == image for image in images)
        received.take(images[::-1])  # identical images are taken
        received.receiver.remove(folder)
        received.take(images)  # also when the first are gone
        assert received.handed_on == [folder]
        assert not files_in(tmp_path / "spool")


def test_it_is_known_again_after_a_restart(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source")
    with receiving(tmp_path) as received:
        received.take(images)
    with receiving(tmp_path) as again:
        wait_until(lambda: again.handed_on)
        assert again.handed_on == received.handed_on, "what is ready and not removed is handed on at the start"
        again.take(images)
        assert len(again.handed_on) == 1
    shutil.rmtree(tmp_path / "spool" / "handed_on")
    with receiving(tmp_path) as again:
        again.receiver.remove(received.handed_on[0])
        again.take(images)
        assert again.handed_on.count(received.handed_on[0]) == 1, "made again from what lay in ready/"


def test_it_is_forgotten_after_a_time(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 2)

    def is_known_after(days: int) -> bool:
        os.utime(record, (time.time() - 86400 * days,) * 2)
        received.take(a_series(tmp_path / f"other{days}", 1))
        return record.exists()

    with receiving(tmp_path) as received:
        received.take(images)
        [record] = (tmp_path / "spool" / "handed_on").iterdir()
        assert is_known_after(days=89)
        assert not is_known_after(days=91)
        received.receiver.remove(received.handed_on[0])
        received.take(images)
        assert len(received.handed_on) == 4, "it came as if for the first time"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_images_are_kept_as_they_are_encoded(tmp_path: Path, syntax: str) -> None:
    paths = make_series(tmp_path / "source", "CT", (64, 72, 2)).paths
    if syntax == ImplicitVRLittleEndian:
        for path in paths:
            image = pydicom.dcmread(path)
            image.file_meta.TransferSyntaxUID = syntax
            pydicom.dcmwrite(path, image, implicit_vr=True, little_endian=True)
    else:
        compressed(paths, syntax)
    images = images_in(tmp_path / "source")
    with receiving(tmp_path) as received:
        received.take(list(images.values()))
        for uid, image in images_in(received.handed_on[0]).items():
            assert image.file_meta.TransferSyntaxUID == syntax
            assert image.PixelData == images[uid].PixelData
            assert image == images[uid]


def test_two_series_of_one_association_are_two(tmp_path: Path) -> None:
    images = a_series(tmp_path / "1", 3) + a_series(tmp_path / "2", 4, "CT")
    with receiving(tmp_path) as received:
        received.take(images[::2] + images[1::2])
        assert sorted(len(images_in(folder)) for folder in received.handed_on) == [3, 4]


def test_a_series_over_two_associations_is_one(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 6)
    with receiving(tmp_path, times=SpoolTimes(quiet_s=0.8)) as received:
        send(received.peer, images[:2])
        send(received.peer, images[2:])
        received.settle()
        [folder] = received.handed_on
        assert len(images_in(folder)) == 6


@pytest.mark.parametrize("end", ["abort", "cut"])
def test_an_aborted_series_is_handed_on_only_when_it_comes_again_whole(tmp_path: Path, end: str) -> None:
    images = a_series(tmp_path / "source", 6)
    with receiving(tmp_path) as received:
        assert codes(send(received.peer, images[:4], end=end)) == [0] * 4
        received.stays()
        send(received.peer, images[4:])  # the rest alone is not the whole
        received.stays()
        send(received.peer, images[:3], end=end)
        received.stays()
        received.take(images)
        [folder] = received.handed_on
        assert len(images_in(folder)) == 6


def test_what_was_aborted_stays_so_over_a_restart(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 4)
    with receiving(tmp_path) as received:
        send(received.peer, images[:2], end="abort")
    with receiving(tmp_path) as received:
        received.stays()
        received.take(images)
        assert len(images_in(received.handed_on[0])) == 4


def test_what_ended_well_before_a_restart_is_handed_on_after_it(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 4)
    with receiving(tmp_path, times=SpoolTimes(quiet_s=60)) as received:
        send(received.peer, images)
    assert not received.handed_on
    with receiving(tmp_path) as received:
        received.settle()
        assert len(images_in(received.handed_on[0])) == 4


def test_an_open_association_is_waited_for_and_then_not(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 4)
    for times, is_handed_on in ((PATIENT, False), (TIMES, True)):
        folder = tmp_path / str(is_handed_on)
        with receiving(folder, times=times) as received:
            association = associated(received.peer, context(images[0]))
            for image in images:
                association.send_c_store(image)
            if is_handed_on:
                received.settle()
                assert len(images_in(received.handed_on[0])) == 4
            else:
                received.stays()
            association.release()
            received.settle()
            assert len(received.handed_on) == 1


def test_stopping_lets_an_open_association_end(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 4)
    received = Received(tmp_path / "spool")
    received.receiver.start()
    association = associated(received.peer, context(images[0]))
    association.send_c_store(images[0])
    received.receiver.stop(grace_s=0.2)
    wait_until(lambda: not association.is_established)
    with receiving(tmp_path) as received:
        received.stays()  # cut off by us is cut off


def test_late_images_make_the_series_whole_again(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 6)
    with receiving(tmp_path) as received:
        received.take(images[:4])
        received.take(images[4:])
        assert [len(images_in(folder)) for folder in received.handed_on] == [4, 6]
        assert received.handed_on[0].exists(), "somebody may be reading it"
    with receiving(tmp_path / "gone") as received:
        received.take(images[:4])
        received.receiver.remove(received.handed_on[0])
        send(received.peer, images[4:])
        received.stays()  # two images of a series of six would look whole
        received.take(images)
        assert len(images_in(received.handed_on[-1])) == 6


def altered(image: Dataset) -> Dataset:
    other = pydicom.dcmread(image.filename)
    other.PixelData = bytes(len(other.PixelData))
    return other


def test_other_content_under_a_known_uid_is_refused(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 3)
    with receiving(tmp_path) as received:
        received.take(images)
        [folder] = received.handed_on
        for is_gone in (False, True):
            if is_gone:
                received.receiver.remove(folder)
            statuses = send(received.peer, [images[0], altered(images[1])])
            assert codes(statuses) == [0, 0xC000]
            assert comment(statuses[1]) == "DUPLICATE_UID_CONFLICT"
            if not is_gone:
                assert images_in(folder)[images[1].SOPInstanceUID] == images[1]
        assert len(received.handed_on) == 1


def test_a_series_that_contradicts_itself_is_not_handed_on(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 3)
    with receiving(tmp_path) as received:
        assert codes(send(received.peer, [*images, altered(images[1])])) == [0, 0, 0, 0xC000]
        received.stays()
        received.take(images)
        assert images_in(received.handed_on[0])[images[1].SOPInstanceUID] == images[1]


@pytest.mark.parametrize(("aet", "called"), [("STRANGER", "LDMSR"), ("MODALITY", "SOMEBODY"), ("STRANGER", "SOMEBODY")])
def test_strangers_are_rejected(tmp_path: Path, aet: str, called: str) -> None:
    images = a_series(tmp_path / "source", 1)
    with receiving(tmp_path) as received:
        peer = DicomPeer(called, "127.0.0.1", received.peer.port)
        assert send(peer, images, aet=aet) is None
        assert not received.receiver.spool.n_receiving
        assert not files_in(tmp_path / "spool")


def test_somebody_must_be_allowed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="AE titles"):
        SeriesReceiver(tmp_path, print, Endpoint("LDMSR", 0, []))


def test_a_port_in_use(tmp_path: Path) -> None:
    with receiving(tmp_path) as received:
        other = SeriesReceiver(tmp_path / "o", print, Endpoint("LDMSR", received.peer.port, ["A"], "127.0.0.1"))
        with pytest.raises(SettingsError, match="in use"):
            other.start()
        other.stop()


def test_more_associations_than_the_limit_are_rejected(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 2)
    limits = ReceiverLimits(max_associations=1, min_free_bytes=0)
    with receiving(tmp_path, limits=limits) as received:
        first = associated(received.peer, context(images[0]))
        assert first.is_established
        assert send(received.peer, images) is None
        first.release()
        wait_until(lambda: send(received.peer, images))


def refused_with(statuses: list[Dataset], reason: ReasonCode) -> list[int]:
    refused = [n for n, status in enumerate(statuses) if status.Status]
    assert all(statuses[n].Status == 0xA700 and comment(statuses[n]) == reason for n in refused)
    return refused


def test_an_object_over_the_limit_is_refused_and_the_association_goes_on(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 4)
    make_series(tmp_path / "large", "MR", (600, 700, 1), baggage=False)
    [large] = images_in(tmp_path / "large").values()
    large.SeriesInstanceUID, large.StudyInstanceUID = images[0].SeriesInstanceUID, images[0].StudyInstanceUID
    limits = ReceiverLimits(max_object_bytes=100_000, min_free_bytes=0)
    with receiving(tmp_path, limits=limits) as received:
        statuses = send(received.peer, [*images[:2], large, *images[2:]])
        assert codes(statuses) == [0, 0, 0xA700, 0, 0]
        assert refused_with(statuses, ReasonCode.TOO_LARGE) == [2]
        received.stays()  # the sender knows one more image of it
        assert len(files_in(tmp_path / "spool")) == 4


def test_data_beyond_the_limit_is_not_held_in_memory(tmp_path: Path) -> None:
    make_series(tmp_path / "large", "MR", (600, 700, 1), baggage=False)
    storage = Mock()
    limits = ReceiverLimits(max_object_bytes=100_000, min_free_bytes=0)
    server = StoreServer(storage, tmp_path, Endpoint("LDMSR", 0, ["MODALITY"], "127.0.0.1"), limits)
    server.start()
    try:
        send(DicomPeer("LDMSR", "127.0.0.1", server.port), list(images_in(tmp_path / "large").values()))
    finally:
        server.stop()
    storage.store.assert_not_called()
    [(image, refusal)] = [call.args for call in storage.refused.call_args_list]
    assert refusal.reason is ReasonCode.TOO_LARGE
    assert image.n_bytes <= 100_000


@pytest.mark.parametrize("is_known", [True, False])
def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool) -> None:
    images = a_series(tmp_path / "source", 4)
    usage = shutil.disk_usage(tmp_path)
    free = [usage.free]
    monkeypatch.setattr(store_server.shutil, "disk_usage", lambda _: usage._replace(free=free[0]))
    limits = ReceiverLimits(min_free_bytes=usage.free if is_known else 0)

    def writes_to_a_full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device", "/MARKER")

    with receiving(tmp_path, limits=limits) as received:
        with monkeypatch.context() as patch:
            free[0] = usage.free if is_known else usage.free * 2
            if not is_known:
                patch.setattr(store_server, "write_synced", writes_to_a_full_disk)
            statuses = send(received.peer, images)
        reason = ReasonCode.PACS_DISK_FULL if is_known else ReasonCode.CANNOT_WRITE
        assert refused_with(statuses, reason) == [0, 1, 2, 3]
        assert not files_in(tmp_path / "spool")
        free[0] = usage.free * 2
        received.take(images)
        assert len(images_in(received.handed_on[0])) == 4


def test_one_refused_image_keeps_the_series_until_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = a_series(tmp_path / "source", 4)
    usage = shutil.disk_usage(tmp_path)
    calls: list[None] = []

    def full_at_the_third(_: object) -> object:
        calls.append(None)
        return usage._replace(free=0 if len(calls) == 3 else usage.free)

    monkeypatch.setattr(store_server.shutil, "disk_usage", full_at_the_third)
    with receiving(tmp_path) as received:
        assert codes(send(received.peer, images)) == [0, 0, 0xA700, 0]
        received.stays()
        received.take([images[2]])
        assert len(images_in(received.handed_on[0])) == 4


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 3)
    images[1].SOPInstanceUID = ""
    cut = images[2]
    cut.SeriesInstanceUID = "no uid"
    with receiving(tmp_path) as received:
        assert codes(send(received.peer, images[:1])) == [0]
        statuses = send(received.peer, [cut])
        assert codes(statuses) == [0xC000]
        assert comment(statuses[0]) == "UNREADABLE_FILE"
        capture = pydicom.dcmread(images[0].filename)
        capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        assert send(received.peer, [capture]) is None, "no context for it is accepted"


@pytest.mark.parametrize("keyword", ["MediaStorageSOPInstanceUID", "MediaStorageSOPClassUID"])
def test_message_and_data_set_must_name_the_same_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str
) -> None:
    [image] = a_series(tmp_path / "source", 1)
    setattr(image.file_meta, keyword, CTImageStorage)
    pydicom.dcmwrite(tmp_path / "lie.dcm", image)
    # pynetdicom then takes the message's UIDs from the file meta information, and the data set as it is.
    monkeypatch.setattr("pynetdicom._config.STORE_SEND_CHUNKED_DATASET", True)
    with receiving(tmp_path) as received:
        association = associated(received.peer, context(image), (CTImageStorage, context(image)[1]))
        assert association.send_c_store(tmp_path / "lie.dcm").Status == 0xA900
        association.release()
        assert not files_in(tmp_path / "spool")


def test_own_results_are_taken_and_not_worked_on(tmp_path: Path) -> None:
    results = derive(tmp_path / "derived", "CT")
    with receiving(tmp_path) as received:
        assert codes(send(received.peer, results)) == [0] * len(results)
        time.sleep(0.5)
        assert not received.handed_on
        assert not received.receiver.spool.n_receiving
        assert not files_in(tmp_path / "spool")


def test_a_series_that_nobody_sends_again_is_removed(tmp_path: Path) -> None:
    images = a_series(tmp_path / "source", 2)
    with receiving(tmp_path, times=SpoolTimes(quiet_s=0.15, incomplete_s=0.6)) as received:
        send(received.peer, images, end="abort")
        assert received.receiver.spool.n_receiving
        received.settle()
        assert not received.handed_on
        assert not files_in(tmp_path / "spool")


def test_whoever_works_on_series_may_fail(tmp_path: Path) -> None:
    calls = []

    def fail(path: Path) -> None:
        calls.append(path)
        raise ValueError("MARKER")

    receiver = SeriesReceiver(
        tmp_path / "spool", fail, Endpoint("LDMSR", 0, ["MODALITY"], "127.0.0.1"), limits=LIMITS, times=PATIENT
    )
    with receiver:
        peer = DicomPeer("LDMSR", "127.0.0.1", receiver.port)
        for n in range(2):
            send(peer, a_series(tmp_path / str(n), 2))
            wait_until(lambda n=n: len(calls) == n + 1)
    assert len(set(calls)) == 2, "the second is handed on though the first failed"


def test_images_are_on_disk_before_success_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    with receiving(tmp_path, times=SpoolTimes(quiet_s=60)) as received:
        monkeypatch.setattr(os, "fsync", note)
        send(received.peer, a_series(tmp_path / "source", 1), end="abort")
        [path] = files_in(tmp_path / "spool")
        assert [name for name in synced if name.endswith(".part")]
        assert str(path.parent) in synced


def test_echo(tmp_path: Path) -> None:
    with receiving(tmp_path) as received:
        association = associated(received.peer, ("1.2.840.10008.1.1", None))
        assert association.send_c_echo().Status == 0
        association.release()


@pytest.mark.parametrize("place", ["settled", "ready", "handed_on"])
def test_a_disk_that_fails_later_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    replace, failures = os.replace, []

    def fail(source: Path, target: Path) -> None:
        if Path(target).parent.name == place and not failures:
            failures.append(target)
            raise OSError(28, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    images = a_series(tmp_path / "source", 3)
    with receiving(tmp_path) as received:
        send(received.peer, images)
        if place == "settled":  # the association's end could not be noted: as if it had broken off
            received.stays()
            send(received.peer, images)
        received.settle()
        assert failures
        assert len(images_in(received.handed_on[0])) == 3
    with receiving(tmp_path) as received:
        received.take(images)
        assert len(received.handed_on) == 1, "handed on at the start, and not once more"


def test_a_command_that_never_ends_is_cut_off() -> None:
    aborted: list[bool] = []

    class Association:
        def abort(self) -> None:
            aborted.append(True)

    association = Association()
    limit = store_server.SizeLimit(1000)
    fragment = SimpleNamespace(presentation_data_value=bytes([1]) + bytes(30_000))
    event = SimpleNamespace(assoc=association, pdu=SimpleNamespace(presentation_data_value_items=[fragment]))
    for n in range(3):
        assert bool(aborted) == (n == 3)
        limit.on_pdu(event)
    assert aborted

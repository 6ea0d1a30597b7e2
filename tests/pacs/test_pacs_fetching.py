"""Studies out of a PACS on loopback: what is asked for, what is kept, and that nothing is kept in part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from dicom_fixtures import make_series
from dicom_peers import archive, scp
from dicomweb_server import DicomwebServer
from orthanc_server import free_port
from pacs_fixtures import images_in
from pydicom import Dataset
from pydicom.uid import generate_uid
from pynetdicom import evt

from monai_ldmsr.cli import main
from monai_ldmsr.errors import PeerError, SettingsError
from monai_ldmsr.io import find_sources
from monai_ldmsr.pacs import finding
from monai_ldmsr.pacs.fetching import FetchSummary, MoveTarget, SeriesQuery, fetch
from monai_ldmsr.pacs.peers import Caller, DicomwebPeer
from monai_ldmsr.pacs.retrieval import GetRetrieval
from monai_ldmsr.pacs.store_server import ReceiverLimits

METHODS = ["get", "move", "wado"]
NO_LIMIT = ReceiverLimits(min_free_bytes=0)
STUDY = generate_uid()


MR_ALONE = SeriesQuery(study=STUDY, modality="MR")
RELATED = 'multipart/related; type="application/dicom"; boundary=b'
PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n"


class Source:
    """A PACS that has what lies in a folder; ``images`` may be changed."""

    def __init__(self, method: str, peer: Any, images: list[Dataset], port: int, web: DicomwebServer | None) -> None:
        self.method, self.peer, self.images, self.web = method, peer, images, web
        self._target = MoveTarget(port, "127.0.0.1", late_s=0.3)

    def fetch(self, destination: Path, **named: Any) -> FetchSummary:
        query = named.pop("query", SeriesQuery(study=STUDY))
        options = {"caller": Caller(timeout_s=5), "limits": NO_LIMIT, "move": self._target, **named}
        return fetch(self.peer, destination, query, method=self.method, **options)

    def remove(self, uid: str) -> None:
        self.images[:] = [image for image in self.images if image.SOPInstanceUID != uid]
        if self.web is not None:
            del self.web.files[uid]


@contextmanager
def source_of(method: str, folder: Path, alter: Callable[[Dataset], Dataset] = lambda image: image) -> Iterator[Source]:
    images, port = list(images_in(folder).values()), free_port()
    if method == "wado":
        with DicomwebServer() as web:
            web.add(*folder.rglob("*.dcm"))
            yield Source(method, DicomwebPeer(web.url), images, port, web)
        return
    with archive(images, {"LDMSR": ("127.0.0.1", port)}, alter) as peer:
        yield Source(method, peer, images, port, None)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series of one study, and one of another."""
    make_series(tmp_path / "pacs" / "mr", "MR", (16, 18, 6), uids={"study": STUDY}, baggage=False)
    make_series(tmp_path / "pacs" / "ct", "CT", (16, 18, 4), uids={"study": STUDY}, baggage=False)
    other = {"StudyDate": "20250101", "AccessionNumber": "B"}
    make_series(tmp_path / "pacs" / "other", "MR", (16, 18, 2), baggage=False, **other)
    return tmp_path / "pacs"


@pytest.mark.parametrize("method", METHODS)
def test_a_study_comes_whole_and_only_once(study: Path, tmp_path: Path, method: str) -> None:
    with source_of(method, study) as source:
        summary = source.fetch(tmp_path / "in")
        assert summary.exit_code == 0
        assert sorted((s.status, s.modality, s.n_images, s.n_fetched) for s in summary.series) == [
            ("done", "CT", 4, 4),
            ("done", "MR", 6, 6),
        ]
        found, expected = images_in(tmp_path / "in"), images_in(study / "mr", study / "ct")
        assert found == expected
        for series in summary.series:
            folder = tmp_path / "in" / series.series
            assert {image.Modality for image in images_in(folder).values()} == {series.modality}
        assert len(find_sources(tmp_path / "in")[0]) == 2, "a run finds two series there"
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*.dcm")}
        again = source.fetch(tmp_path / "in")
        assert [series.n_fetched for series in again.series] == [0, 0]
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "in").rglob("*.dcm")} == before


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_missing_is_fetched(study: Path, tmp_path: Path, method: str) -> None:
    late = sorted(images_in(study / "mr"))[:2]
    with source_of(method, study) as source:
        held_back = [image for image in source.images if image.SOPInstanceUID in late]
        for uid in late:
            source.remove(uid)
        assert [s.n_fetched for s in source.fetch(tmp_path / "in", query=MR_ALONE).series] == [4]
        source.images += held_back
        if source.web is not None:
            source.web.add(*(Path(image.filename) for image in held_back))
        assert [s.n_fetched for s in source.fetch(tmp_path / "in", query=MR_ALONE).series] == [2]
        assert images_in(tmp_path / "in") == images_in(study / "mr")
        source.remove(late[0])
        assert source.fetch(tmp_path / "in", query=MR_ALONE).exit_code == 0
        assert late[0] not in images_in(tmp_path / "in"), "the PACS has taken it back"
    assert not list((tmp_path / "in").rglob(".*"))


@pytest.mark.parametrize("method", METHODS)
def test_a_series_that_does_not_come_whole_is_not_kept(
    study: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [gone, *_] = sorted(images_in(study / "mr"))
    with source_of(method, study) as source:
        if source.web is not None:
            source.web.fail = lambda _, path: (404, "text/plain", b"") if gone in path else None
        else:
            monkeypatch.setattr("monai_ldmsr.pacs.fetching.find_by_dicom", found_before(list(source.images)))
            source.remove(gone)
        summary = source.fetch(tmp_path / "in")
    assert summary.exit_code == 8
    failed = [series for series in summary.series if series.status == "failed"]
    assert [(s.modality, s.n_images) for s in failed] == [("MR", 6)]
    assert failed[0].reason == ("PACS_REFUSED" if method == "wado" else "PACS_INCOMPLETE")
    assert images_in(tmp_path / "in") == images_in(study / "ct")
    assert not [path for path in (tmp_path / "in").rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("method", ["get", "move"])
def test_what_was_not_listed_is_not_kept(
    study: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [late, *_] = sorted(images_in(study / "mr"))
    with source_of(method, study) as source:
        listed = [image for image in source.images if image.SOPInstanceUID != late]
        monkeypatch.setattr("monai_ldmsr.pacs.fetching.find_by_dicom", found_before(listed))
        summary = source.fetch(tmp_path / "in", query=MR_ALONE)
    assert [(series.status, series.n_images) for series in summary.series] == [("done", 5)]
    assert set(images_in(tmp_path / "in")) == set(images_in(study / "mr")) - {late}


def found_before(images: list[Dataset]) -> Callable[..., list[finding.FoundSeries]]:
    """A search that lists all of ``images``, whatever the peer still has."""

    def find(*arguments: Any) -> list[finding.FoundSeries]:
        found = finding.find_by_dicom(*arguments)
        uids = {s.series: tuple(i.SOPInstanceUID for i in images if i.SeriesInstanceUID == s.series) for s in found}
        return [replace(series, uids=uids[series.series]) for series in found]

    return find


@pytest.mark.parametrize("method", ["get", "wado"])
def test_what_is_asked_for(study: Path, tmp_path: Path, method: str) -> None:
    mr = next(iter(images_in(study / "mr").values()))
    queries = [
        ([4, 6], SeriesQuery(study=STUDY)),
        ([6], SeriesQuery(study=STUDY, series=mr.SeriesInstanceUID)),
        ([4], SeriesQuery(study=STUDY, modality="CT")),
        ([2], SeriesQuery(accession="B")),
        ([2], SeriesQuery(date="20241231-20250630")),
        ([], SeriesQuery(accession="C")),
    ]
    with source_of(method, study) as source:
        for counts, query in queries:
            summary = source.fetch(tmp_path / "in", query=query, dry_run=True)
            assert sorted(series.n_images for series in summary.series) == counts
            assert all(series.status == "found" for series in summary.series)
            assert summary.exit_code == (0 if counts else 2)
    assert not (tmp_path / "in").exists()


def test_a_peer_that_answers_with_everything_is_not_believed(study: Path, tmp_path: Path) -> None:
    with DicomwebServer() as web:
        web.add(*study.rglob("*.dcm"))
        web.knows_keys = False
        for query, counts in (
            (SeriesQuery(accession="B"), [2]),
            (SeriesQuery(date="20250101"), [2]),
            (MR_ALONE, [6]),
        ):
            summary = fetch(DicomwebPeer(web.url), tmp_path, query, dry_run=True)
            assert [series.n_images for series in summary.series] == counts


@pytest.mark.parametrize(("pages_of", "knows_offset"), [(1, True), (4, True), (1000, False)])
def test_searches_come_page_by_page(study: Path, tmp_path: Path, pages_of: int, knows_offset: bool) -> None:
    with DicomwebServer() as web:
        web.add(*study.rglob("*.dcm"))
        web.pages_of, web.knows_offset = pages_of, knows_offset
        summary = fetch(DicomwebPeer(web.url), tmp_path, SeriesQuery(study=STUDY), dry_run=True)
    assert sorted(series.n_images for series in summary.series) == [4, 6]


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({}, "everything"),
        ({"modality": "MR", "series": "1.2"}, "everything"),
        ({"study": "1.2.*"}, "whole UID"),
        ({"study": "1.2\\1.3"}, "whole UID"),
        ({"study": "../x"}, "whole UID"),
        ({"date": "2026-01-31"}, "20260101-20260131"),
        ({"date": "-"}, "20260101-20260131"),
        ({"date": "2026010120260131"}, "20260101-20260131"),
        ({"accession": "*"}, "accession"),
        ({"accession": "A\\B"}, "accession"),
        ({"study": "1.2", "modality": "M*"}, "modality"),
    ],
)
def test_questions_that_are_not_asked(query: dict[str, str], word: str) -> None:
    with pytest.raises(SettingsError, match=word) as caught:
        SeriesQuery(**query)
    assert not [value for value in query.values() if value in str(caught.value) and len(value) > 3]


@pytest.mark.parametrize(("method", "peer"), [("wado", "A@h:1"), ("get", "http://h/x"), ("move", "http://h/x")])
def test_a_method_that_does_not_go_with_the_peer(tmp_path: Path, method: str, peer: str) -> None:
    assert main(["fetch", peer, str(tmp_path), "--study", "1.2.3", "--method", method]) == 1


def test_series_that_are_nothing_for_this_software(tmp_path: Path) -> None:
    make_series(tmp_path / "pacs" / "us", "MR", (16, 18, 1), uids={"study": STUDY}, Modality="US")
    capture = "1.2.840.10008.5.1.4.1.1.7"
    make_series(tmp_path / "pacs" / "sc", "MR", (16, 18, 1), uids={"study": STUDY}, SOPClassUID=capture)
    with source_of("get", tmp_path / "pacs") as source:
        summary = source.fetch(tmp_path / "in")
    assert {series.reason for series in summary.series} == {"UNSUPPORTED_MODALITY", "UNSUPPORTED_SOP_CLASS"}
    assert {series.status for series in summary.series} == {"skipped"}
    assert summary.exit_code == 2


@pytest.mark.parametrize("method", METHODS)
def test_another_image_than_was_asked_for_is_not_kept(study: Path, tmp_path: Path, method: str) -> None:
    wrong = sorted(images_in(study / "mr"))[2]

    def alter(image: Dataset) -> Dataset:
        other = pydicom.dcmread(image.filename)
        if image.SOPInstanceUID == wrong:
            other.StudyInstanceUID = "1.2.3.4"
        return other

    with source_of(method, study, alter) as source:
        if source.web is not None:
            content = next((study / "ct").glob("*.dcm")).read_bytes()
            body = PART + content + b"\r\n--b--\r\n"
            source.web.fail = lambda _, path: (200, RELATED, body) if wrong in path else None
        summary = source.fetch(tmp_path / "in", query=MR_ALONE)
    assert [series.reason for series in summary.series] == ["PACS_REFUSED"]
    assert not images_in(tmp_path / "in")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>"),
        ("application/dicom", b"nothing"),
        (RELATED, b"--b\r\n\r\n" + b"x" * 500),  # no end
        (RELATED, b"--b\r\n\r\nA\r\n--b\r\n\r\nB\r\n--b--"),
        ("multipart/related", b"--b\r\n\r\nA\r\n--b--"),
    ],
)
def test_answers_that_are_no_image(study: Path, tmp_path: Path, kind: str, body: bytes) -> None:
    with source_of("wado", study) as source:
        assert source.web is not None
        source.web.fail = lambda _, path: (200, kind, body) if path.count("/") > 6 else None
        summary = source.fetch(tmp_path / "in", query=MR_ALONE)
    assert [series.reason for series in summary.series] == ["UNREADABLE_FILE"]
    assert summary.exit_code == 4
    assert not images_in(tmp_path / "in")


def test_two_images_in_one_answer_are_not_taken_for_one(study: Path, tmp_path: Path) -> None:
    with source_of("wado", study) as source:
        assert source.web is not None

        def twice(_: str, path: str) -> tuple[int, str, bytes] | None:
            part = PART + source.web.files.get(path.split("/")[-1], b"")
            return (200, RELATED, part + b"\r\n" + part + b"\r\n--b--") if path.count("/") > 6 else None

        source.web.fail = twice
        summary = source.fetch(tmp_path / "in", query=MR_ALONE)
    assert [series.reason for series in summary.series] == ["UNREADABLE_FILE"]


@pytest.mark.parametrize("method", METHODS)
def test_limits_hold_for_fetching_too(study: Path, tmp_path: Path, method: str) -> None:
    with source_of(method, study) as source:
        small = ReceiverLimits(max_object_bytes=500, min_free_bytes=0)
        summary = source.fetch(tmp_path / "in", limits=small)
        assert {series.reason for series in summary.series} == {"TOO_LARGE"}
        summary = source.fetch(tmp_path / "in", limits=ReceiverLimits(min_free_bytes=2**60))
        assert {series.reason for series in summary.series} == {"PACS_DISK_FULL"}
        assert summary.exit_code == 7
    assert not images_in(tmp_path / "in")


@pytest.mark.parametrize("method", METHODS)
def test_a_disk_that_is_full(study: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "/MARKER")

    monkeypatch.setattr("monai_ldmsr.pacs.retrieval.write_synced", fail)
    monkeypatch.setattr("monai_ldmsr.pacs.store_server.write_synced", fail)
    with source_of(method, study) as source:
        summary = source.fetch(tmp_path / "in")
    assert {series.reason for series in summary.series} == {"CANNOT_WRITE"}
    assert all("MARKER" not in series.message for series in summary.series)
    assert summary.exit_code == 7
    assert not images_in(tmp_path / "in")


def test_a_destination_that_cannot_be_made(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with archive(list(images_in(study).values())) as peer:
        assert main(["fetch", str(peer), str(tmp_path / "file" / "in"), "--study", STUDY]) == 7


def test_a_move_destination_that_the_peer_does_not_know(study: Path, tmp_path: Path) -> None:
    with archive(list(images_in(study).values())) as peer:
        target = MoveTarget(free_port(), "127.0.0.1")
        summary = fetch(peer, tmp_path / "in", SeriesQuery(study=STUDY), method="move", move=target, limits=NO_LIMIT)
    assert {series.reason for series in summary.series} == {"PACS_REFUSED"}
    assert all("0xA801" in series.message for series in summary.series)


@pytest.mark.parametrize("status", [0xA700, 0xC000, 0x0122])
def test_a_search_that_is_refused(tmp_path: Path, status: int) -> None:
    def find(_: evt.Event) -> Iterator[Any]:
        yield status, None

    with scp([(evt.EVT_C_FIND, find)]) as peer, pytest.raises(PeerError, match=f"0x{status:04X}"):
        fetch(peer, tmp_path, SeriesQuery(study=STUDY))


def test_a_search_that_is_cut_off(tmp_path: Path) -> None:
    def find(event: evt.Event) -> Iterator[Any]:
        event.assoc.abort()
        yield 0xFF00, Dataset()

    with scp([(evt.EVT_C_FIND, find)]) as peer, pytest.raises(PeerError) as caught:
        fetch(peer, tmp_path, SeriesQuery(study=STUDY), caller=Caller(timeout_s=3))
    assert caught.value.reason == "PACS_UNREACHABLE"


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503, 302])
def test_a_search_that_is_refused_by_http(tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with DicomwebServer() as web:
        web.fail = lambda *_: (status, "text/plain", b"MARKER")
        assert main(["fetch", web.url, str(tmp_path), "--study", STUDY]) == 8
    said = capsys.readouterr().err
    assert str(status) in said
    assert "PACS_" in said
    assert "MARKER" not in said
    assert STUDY not in said


def test_one_series_that_fails_does_not_stop_the_others(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = GetRetrieval.retrieve

    def fails_for_ct(self: GetRetrieval, found: Any, *arguments: Any) -> None:
        if found.modality == "CT":
            raise ZeroDivisionError("MARKER")
        get(self, found, *arguments)

    monkeypatch.setattr(GetRetrieval, "retrieve", fails_for_ct)
    with source_of("get", study) as source:
        summary = source.fetch(tmp_path / "in")
    assert {(s.modality, s.status, s.reason) for s in summary.series} == {
        ("MR", "done", ""),
        ("CT", "failed", "INTERNAL_ERROR"),
    }
    assert summary.exit_code == 8
    assert images_in(tmp_path / "in") == images_in(study / "mr")

"""Who is at the other end, who may know what: TLS, credentials, and nothing identifying in any log."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pydicom
import pytest
from dicom_fixtures import make_series
from dicom_peers import archive, scp, send
from dicomweb_server import DicomwebServer
from pacs_fixtures import images_in, make_certificates, wait_until
from pydicom.uid import generate_uid
from pynetdicom import evt

from monai_ldmsr.cli import main
from monai_ldmsr.errors import PeerError, SettingsError
from monai_ldmsr.pacs.fetching import SeriesQuery, fetch
from monai_ldmsr.pacs.peers import Caller, Credentials, DicomPeer, DicomwebPeer, parse_peer
from monai_ldmsr.pacs.receiver import SeriesReceiver
from monai_ldmsr.pacs.sending import parse_destination
from monai_ldmsr.pacs.spool import SpoolTimes
from monai_ldmsr.pacs.store_server import Endpoint, ReceiverLimits
from monai_ldmsr.pacs.tls import TlsSettings

STUDY = "1.2.826.0.1.47114711.1"
SECRETS = ("MARKER", "4711", "s3cr3t", base64.b64encode(b"user:s3cr3t").decode())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TlsSettings]:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def marked_series(folder: Path, n: int = 2, **named: Any) -> list[pydicom.Dataset]:
    """Names, identifiers and UIDs that all hold a marker."""
    uids = {"study": STUDY, "series": "1.2.826.0.1.47114711.2", "frame": generate_uid()}
    marks = dict.fromkeys(("AccessionNumber", "InstitutionName", "SeriesDescription"), "MARKER")
    numbers = {"SOPInstanceUID": lambda k: f"1.2.826.0.1.47114711.3.{k}"}
    make_series(folder, "MR", (16, 18, n), uids=uids, **{**marks, **numbers, **named})
    return list(images_in(folder).values())


def receiver_for(folder: Path, handed_on: list[Path], tls: TlsSettings | None = None, **named: Any) -> SeriesReceiver:
    options = {"limits": ReceiverLimits(min_free_bytes=0), "times": SpoolTimes(quiet_s=0.2), **named}
    return SeriesReceiver(folder, handed_on.append, Endpoint("LDMSR", 0, ["MODALITY"], "127.0.0.1", tls), **options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PACS@host:104", DicomPeer("PACS", "host", 104)),
        ("MY PACS@10.0.0.1:11112", DicomPeer("MY PACS", "10.0.0.1", 11112)),
        ("PACS@[::1]:104", DicomPeer("PACS", "::1", 104)),
        ("A:B@host:104", DicomPeer("A:B", "host", 104)),
        ("http://pacs:8042/dicom-web", DicomwebPeer("http://pacs:8042/dicom-web")),
        ("https://pacs/", DicomwebPeer("https://pacs")),
    ],
)
def test_addresses(text: str, expected: DicomPeer | DicomwebPeer) -> None:
    assert parse_peer(text) == expected
    assert parse_peer(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "host", "PACS@host", "host:104", "PACS@host:0", "PACS@host:70000", "@host:104", "A@b@host:1"),
        *("SEVENTEEN-LETTERS@host:104", "PÄCS@host:104", "A\\B@host:104", "ftp://host", "http://", "PACS@:104"),
        "http://host:x",
        *("http://user:s3cr3t@host/x", "http://s3cr3t@host", "http://host/x?token=s3cr3t", "http://host/#s3cr3t"),
        "user:s3cr3t@host",
    ],
)
def test_what_is_no_address_is_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_destination(text)
    assert secrets_in(str(caught.value)) == []


def test_credentials_are_read_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "basic").write_text("user:s3cr3t:with colons\n")
    assert Credentials.from_file(tmp_path / "basic") == Credentials("user", "s3cr3t:with colons")
    monkeypatch.setenv("PACS_TOKEN", "Bearer s3cr3t")
    assert Credentials.from_environment("PACS_TOKEN") == Credentials(None, "s3cr3t")
    assert secrets_in(repr(Caller(credentials=Credentials("user", "s3cr3t")))) == []
    for text in ("s3cr3t", "", "user:s3cr3t\nuser:other"):
        with pytest.raises(SettingsError) as caught:
            Credentials.from_text(text)
        assert secrets_in(str(caught.value)) == []
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00s3cr3t")
    for bad in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        with pytest.raises(SettingsError, match="cannot be read") as caught:
            Credentials.from_file(bad)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(SettingsError, match="not set"):
        Credentials.from_environment("NO_SUCH_VARIABLE")


@pytest.mark.parametrize("text", ["user:s3cr3t", "Bearer s3cr3t"])
def test_credentials_reach_the_service_and_nothing_else(
    tmp_path: Path, text: str, heard: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    marked_series(tmp_path / "pacs")
    (tmp_path / "credentials").write_text(text)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    expected = f"Basic {SECRETS[-1]}" if ":" in text else text
    with DicomwebServer() as web:
        web.add(*(tmp_path / "pacs").glob("*.dcm"))
        arguments = ["--log-level", "debug", "fetch", web.url, str(tmp_path / "in"), "--study", STUDY]
        arguments += ["--credentials", str(tmp_path / "credentials")]
        assert main(arguments) == 0
        assert {headers["Authorization"] for _, _, headers in web.requests} == {expected}
        with DicomwebServer() as thief:
            web.points_to = thief.url
            for failure in ((401, "text/plain", b""), (302, "text/plain", b"")):
                web.fail = lambda *_, failure=failure: failure
                assert main(arguments) == 8
            assert not thief.requests, "nobody is led elsewhere"
        web.fail = lambda *_: None
        web.requests.clear()
        assert main([*arguments[:-2], "--timeout", "5"]) == 0
        assert {headers["Authorization"] for _, _, headers in web.requests} == {None}, "nor what .netrc says"
    assert main(arguments) == 8
    assert secrets_in(heard()) == []


def test_nothing_identifying_is_logged(
    tmp_path: Path, heard: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = marked_series(tmp_path / "pacs")
    marked_series(tmp_path / "bad", SeriesInstanceUID="MARKER 4711", PixelData=b"MARKER4711")
    debug = ["--log-level", "debug"]
    with archive(images) as peer, DicomwebServer() as web:
        web.add(*(tmp_path / "pacs").glob("*.dcm"))
        for address in (str(peer), web.url):
            for n, extra in enumerate((["--accession", "MARKER"], ["--study", STUDY, "--dry-run"])):
                assert main([*debug, "fetch", address, str(tmp_path / f"in{n}"), *extra]) == 0
        # what goes wrong is told without what it was about
        for status in (0xC000, 0xB000):
            store = [(evt.EVT_C_STORE, lambda _, status=status: status)]
            with scp(store) as refusing:
                assert parse_destination(str(refusing)).deliver(tmp_path / "pacs").reason
        web.fail = lambda *_: (500, "text/plain", b"MARKER")
        assert main([*debug, "fetch", web.url, str(tmp_path / "in3"), "--accession", "MARKER"]) == 8
        assert parse_destination(web.url).deliver(tmp_path / "pacs").reason
        assert parse_destination(web.url).deliver(tmp_path / "bad").reason
        assert parse_destination(str(peer)).deliver(tmp_path / "bad").reason
    handed_on: list[Path] = []
    with receiver_for(tmp_path / "spool", handed_on) as receiver:
        peer = DicomPeer("LDMSR", "127.0.0.1", receiver.port)
        send(peer, images[:1], end="abort")
        send(peer, images)
        wait_until(lambda: handed_on)
        send(peer, list(images_in(tmp_path / "bad").values())[:1])
        other = pydicom.dcmread(images[0].filename)
        other.PixelData = bytes(len(other.PixelData))
        send(peer, [other])
        send(peer, images, aet="STRANGER")  # AE titles are no patient's, and an administrator needs them
        send(DicomPeer("SOMEBODY", "127.0.0.1", receiver.port), images)
        monkeypatch.setattr(SeriesReceiver, "store", Mock(side_effect=ValueError("MARKER")))
        send(peer, images)
    said = heard()
    assert "DUPLICATE_UID_CONFLICT" in said
    assert "PACS_INCOMPLETE" in said
    assert "INTERNAL_ERROR" in said
    assert "'STRANGER' at 127.0.0.1" in said
    assert "it called 'SOMEBODY'" in said
    ours = [line for line in said.splitlines() if "Invalid value for VR UI" not in line]  # of the test's writer
    assert secrets_in("\n".join(ours)) == []
    assert "pynetdicom" not in said
    assert "urllib3" not in said
    names = "\n".join(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert secrets_in(names) == []


def test_errors_tell_nothing_by_their_causes(tmp_path: Path) -> None:
    with DicomwebServer() as web:
        url = web.url
    for peer in (DicomwebPeer(url), DicomPeer("PACS", "127.0.0.1", 9), DicomPeer("PACS", "no.such.host.invalid", 9)):
        query = SeriesQuery(study=STUDY, accession="MARKER")
        with pytest.raises(PeerError) as caught:
            fetch(peer, tmp_path, query, caller=Caller(credentials=Credentials("user", "s3cr3t"), timeout_s=2))
        assert secrets_in("".join(traceback.format_exception_only(caught.value))) == []
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_dicom_by_tls_both_ways(tmp_path: Path, certificates: dict[str, TlsSettings]) -> None:
    images = marked_series(tmp_path / "result")
    handed_on: list[Path] = []
    with receiver_for(tmp_path / "spool", handed_on, certificates["server"]) as receiver:
        peer = DicomPeer("LDMSR", "127.0.0.1", receiver.port)

        def deliver(**named: Any) -> Any:
            return parse_destination(str(peer), Caller("MODALITY", timeout_s=3, **named)).deliver(tmp_path / "result")

        outcome = deliver()
        assert (outcome.n_sent, outcome.reason) == (0, "PACS_UNREACHABLE"), "a plain peer is refused"
        stranger, client = certificates["stranger"], certificates["client"]
        outcome = deliver(dicom_tls=True, tls=stranger)
        assert outcome.n_sent == 0, "a certificate that the authority did not sign"
        assert deliver(dicom_tls=True, tls=TlsSettings(client.ca_file)).n_sent == 0, "no certificate at all"
        untrusting = TlsSettings(stranger.certificate, client.certificate, client.key)
        outcome = deliver(dicom_tls=True, tls=untrusting)
        assert (outcome.n_sent, outcome.permanent) == (0, False), "we do not trust the server"
        assert "TLS" in outcome.message
        silent = socket.create_connection(("127.0.0.1", receiver.port))
        start = time.monotonic()
        assert deliver(dicom_tls=True, tls=client).complete
        assert time.monotonic() - start < 3, "a silent caller keeps nobody waiting"
        silent.close()
        wait_until(lambda: handed_on)
    assert images_in(handed_on[0]) == {image.SOPInstanceUID: image for image in images}


def test_callers_who_leave_at_once_keep_nobody_out(tmp_path: Path) -> None:
    images = marked_series(tmp_path / "source")
    limits = ReceiverLimits(max_associations=2, min_free_bytes=0)
    with receiver_for(tmp_path / "spool", [], limits=limits) as receiver:
        for _ in range(4):
            socket.create_connection(("127.0.0.1", receiver.port)).close()
        peer = DicomPeer("LDMSR", "127.0.0.1", receiver.port)
        deadline = time.monotonic() + 3
        while (statuses := send(peer, images)) is None:
            assert time.monotonic() < deadline
    assert [status.Status for status in statuses] == [0] * len(images)


def test_fetch_by_tls(tmp_path: Path, certificates: dict[str, TlsSettings]) -> None:
    images = marked_series(tmp_path / "pacs")
    client = certificates["client"]
    options = ["--ca-file", str(client.ca_file), "--certificate", str(client.certificate), "--key", str(client.key)]
    with archive(images, tls=certificates["server"].server_context()) as peer:
        arguments = ["fetch", str(peer), str(tmp_path / "in"), "--study", STUDY, "--timeout", "3"]
        assert main([*arguments, *options]) == 8
        assert main([*arguments, *options, "--dicom-tls"]) == 0
    assert len(images_in(tmp_path / "in")) == 2


def test_https_is_verified(
    tmp_path: Path, certificates: dict[str, TlsSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    marked_series(tmp_path / "pacs")
    client, stranger = certificates["client"], certificates["stranger"]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(client.ca_file))
    with DicomwebServer(_shaking_hands_at_once(certificates["server"])) as web:
        web.add(*(tmp_path / "pacs").glob("*.dcm"))

        def fetch_with(tls: TlsSettings) -> int:
            return fetch(
                DicomwebPeer(web.url), tmp_path / "in", SeriesQuery(study=STUDY), caller=Caller(tls=tls, timeout_s=3),
                limits=ReceiverLimits(min_free_bytes=0),
            ).exit_code  # fmt: skip

        for tls in (TlsSettings(), TlsSettings(stranger.certificate), TlsSettings(client.ca_file), stranger):
            with pytest.raises(PeerError) as caught:
                fetch_with(tls)
            assert caught.value.reason in ("PACS_REJECTED", "PACS_UNREACHABLE")
        assert fetch_with(client) == 0
        untrusting = TlsSettings(stranger.certificate, client.certificate, client.key)
        outcome = parse_destination(web.url, Caller(tls=untrusting)).deliver(tmp_path / "pacs")
        assert (outcome.n_sent, outcome.reason) == (0, "PACS_REJECTED")
        assert parse_destination(web.url, Caller(tls=client)).deliver(tmp_path / "pacs").complete


def test_a_certificate_of_another_host_is_not_trusted(tmp_path: Path, certificates: dict[str, TlsSettings]) -> None:
    images = marked_series(tmp_path / "pacs")
    caller = Caller(tls=certificates["client"], dicom_tls=True, timeout_s=3)
    with (
        DicomwebServer(_shaking_hands_at_once(certificates["elsewhere"])) as web,
        archive(images, tls=certificates["elsewhere"].server_context()) as peer,
    ):
        for address, reason in ((web.url, "PACS_REJECTED"), (str(peer), "PACS_UNREACHABLE")):
            outcome = parse_destination(address, caller).deliver(tmp_path / "pacs")
            assert (outcome.n_sent, outcome.reason) == (0, reason)


def _shaking_hands_at_once(settings: TlsSettings) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert settings.ca_file is not None
    assert settings.certificate is not None
    context.load_cert_chain(settings.certificate, settings.key)
    context.load_verify_locations(settings.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_certificates_that_cannot_be_used_are_told_at_once(
    tmp_path: Path, certificates: dict[str, TlsSettings]
) -> None:
    good, other = certificates["client"], certificates["server"]
    (tmp_path / "text.pem").write_text("MARKER")
    key = tmp_path / "encrypted.key"
    encrypt = ["openssl", "ec", "-aes256", "-passout", "pass:s3cr3t", "-in", str(good.key), "-out", str(key)]
    subprocess.run(encrypt, check=True, capture_output=True)
    bad = {
        "trusted": TlsSettings(tmp_path / "missing.pem"),
        "trusted ": TlsSettings(tmp_path / "text.pem"),
        "certificate": TlsSettings(good.ca_file, tmp_path / "text.pem", good.key),
        "key": TlsSettings(good.ca_file, good.certificate, other.key),
        "encrypted": TlsSettings(good.ca_file, good.certificate, key),
    }
    for word, tls in bad.items():
        for make in (
            lambda tls=tls: parse_destination("https://host/x", Caller(tls=tls)),
            lambda tls=tls: parse_destination("A@host:1", Caller(tls=tls, dicom_tls=True)),
        ):
            with pytest.raises(SettingsError, match=word.strip()) as caught:
                make()
            assert str(tmp_path) not in str(caught.value)
            assert secrets_in(str(caught.value)) == []
    with pytest.raises(SettingsError, match="without its certificate"):
        TlsSettings(key=good.key)
    with pytest.raises(SettingsError, match="needed"):
        TlsSettings(good.ca_file).server_context()

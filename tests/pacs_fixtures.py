"""What tests with peers need, whatever the peer: waiting, images of folders, certificates."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pydicom

from monai_ldmsr.pacs.tls import TlsSettings


def wait_until(is_so: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def compressed(paths: Sequence[Path], syntax: str) -> list[Path]:
    """Compress files where they are."""
    for path in paths:
        image = pydicom.dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path, overwrite=True)
    return list(paths)


def images_in(*folders: Path) -> dict[str, pydicom.Dataset]:
    """All images below folders by SOP Instance UID."""
    images = [pydicom.dcmread(path) for folder in folders for path in folder.rglob("*.dcm")]
    found = {image.SOPInstanceUID: image for image in images}
    assert len(found) == len(images), "an image lies there twice"
    return found


def make_certificates(folder: Path) -> dict[str, TlsSettings]:
    """An authority, and certificates of it; ``stranger`` has made its own, ``elsewhere`` is of another host."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    name = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    other_name = ("-addext", "subjectAltName=DNS:elsewhere.example")
    signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # which OpenSSL asks for from Python 3.13 on
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority", *signs)
    openssl(*new, "-keyout", "stranger.key", "-out", "stranger.pem", "-subj", "/CN=stranger", *name)
    for who in ("server", "client", "elsewhere"):
        issued = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
        names = other_name if who == "elsewhere" else name
        openssl(*new, "-keyout", f"{who}.key", "-out", f"{who}.pem", "-subj", f"/CN={who}", *issued, *names)
    return {
        who: TlsSettings(folder / "ca.pem", folder / f"{who}.pem", folder / f"{who}.key")
        for who in ("server", "client", "stranger", "elsewhere")
    }

"""A real MONAI Label server on a real Orthanc: results are derived series beside their sources."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import rmtree

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from dicom_fixtures import make_series
from label_server import LabelServer, super_resolved_here
from orthanc_server import OrthancServer
from pacs_fixtures import wait_until

pytestmark = [pytest.mark.label, pytest.mark.orthanc]

SHAPE = (20, 24, 3)
PATIENT = ("Quixote^Alonso", "LM-1605", "A17051616")


@pytest.fixture(scope="module")
def server(
    label_environment: None, orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelServer]:
    """One server on the module's Orthanc."""
    server = LabelServer(tmp_path_factory.mktemp("label"), orthanc.dicomweb)
    yield server.start()
    server.stop()


@pytest.fixture
def source(orthanc: OrthancServer, tmp_path: Path) -> tuple[str, Path]:
    """UID and folder of the only series there."""
    if not orthanc.is_running:
        orthanc.start()
    orthanc.clear()
    made = make_series(tmp_path / "source", "MR", SHAPE)
    orthanc.upload(*made.paths)
    return str(pydicom.dcmread(made.paths[0]).SeriesInstanceUID), tmp_path / "source"


def images_of(orthanc: OrthancServer, series: str, folder: Path) -> list[pydicom.Dataset]:
    """Images of a series as Orthanc holds them, by Instance Number."""
    found = orthanc.request(
        "/tools/find", "POST", {"Level": "Instance", "Query": {"SeriesInstanceUID": series}, "Expand": False}
    )
    images = []
    for identifier in found:
        path = folder / f"{identifier}.dcm"
        path.write_bytes(orthanc.request(f"/instances/{identifier}/file"))
        images.append(pydicom.dcmread(path))
    return sorted(images, key=lambda image: int(image.InstanceNumber))


def test_the_derived_series_lies_beside_its_source(
    server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path], tmp_path: Path
) -> None:
    uid, folder = source
    record = server.infer(uid, {"factor": 2, "seed": 4}).json()
    assert record["is_new"]
    assert record["source"] == uid
    assert record["image"] == record["series"][0]["series"]
    found = images_of(orthanc, record["image"], tmp_path)
    assert len(found) == SHAPE[2] == record["series"][0]["n_images"]

    case = super_resolved_here(folder, tmp_path / "out", factor=2, seed=4)
    expected = sorted(
        (pydicom.dcmread(path) for path in case.glob("dicom/*.dcm")), key=lambda one: int(one.InstanceNumber)
    )
    for stored, wanted in zip(found, expected, strict=True):
        assert stored.SOPInstanceUID == wanted.SOPInstanceUID
        assert stored.StudyInstanceUID == record["study"]
        assert stored.ImagePositionPatient == wanted.ImagePositionPatient
        assert stored.PixelSpacing == wanted.PixelSpacing
        assert stored.ImageType[0] == "DERIVED"
        assert np.abs(stored.pixel_array.astype(int) - wanted.pixel_array).max() <= 1
    # The series is listed, and MONAI Label's clients get it as a volume of the same values.
    assert server.client.info()["datastore"]["total"] == 2
    file, _ = server.client.infer("ldm_sr", uid, {"factor": 2, "seed": 4})
    volume = nibabel.load(file)
    assert volume.shape == (found[0].Columns, found[0].Rows, SHAPE[2])
    assert volume.shape[:2] != volume.shape[1::-1]
    slopes = [float(image.get("RescaleSlope", 1)) for image in found]
    values = np.sort([image.pixel_array.sum() * slope for image, slope in zip(found, slopes, strict=True)])
    np.testing.assert_allclose(np.sort(volume.get_fdata().sum((0, 1))), values, rtol=1e-3)


def test_asking_twice_makes_one_also_after_a_restart(
    server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]
) -> None:
    uid, _ = source
    first = server.infer(uid).json()
    held = orthanc.instance_uids()
    assert not server.infer(uid).json()["is_new"]
    server.stop()
    server.start()
    again = server.infer(uid).json()
    assert not again["is_new"]
    assert again["image"] == first["image"]
    # Without its records it computes again, and what it stores is the same.
    for note in (server.folder / "app" / "super_resolved").rglob("told.json"):
        note.unlink()
    again = server.infer(uid).json()
    assert again["is_new"]
    assert again["image"] == first["image"]
    assert orthanc.instance_uids() == held
    # What the service has lost meanwhile is made again.
    (lost,) = orthanc.request(
        "/tools/find", "POST", {"Level": "Series", "Query": {"SeriesInstanceUID": first["image"]}}
    )
    orthanc.request(f"/series/{lost}", "DELETE")
    assert server.infer(uid).json()["is_new"]
    assert orthanc.instance_uids() == held


def test_refusals(server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]) -> None:
    uid, _ = source
    held = orthanc.instance_uids()
    found = [server.refusal(server.infer(image)) for image in ("1.2.3.4", "no UID", "../" + uid)]
    assert found == [(404, "NO_SUCH_SOURCE")] * 3
    assert server.refusal(server.infer(uid, {"factor": 9})) == (400, "BAD_SETTINGS")
    assert orthanc.instance_uids() == held
    made = server.infer(uid).json()["image"]
    assert server.refusal(server.infer(made)) == (422, "OWN_RESULT")
    put = requests.put(f"{server.url}/datastore/image?image=../x", files={"file": ("x.nii.gz", b"x")}, timeout=60)
    assert server.refusal(put) == (400, "BAD_SETTINGS")
    assert uid not in server.log
    assert made not in server.log
    assert orthanc.dicomweb not in server.log


def test_the_same_at_once_is_one_whole_volume(
    server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]
) -> None:
    uid, _ = source
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(server.infer, uid, {"seed": 11}, "image") for _ in range(4)]
    contents = {answer.result().content for answer in sent}
    assert len(contents) == 1
    (volume,) = contents
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(volume)).shape[2] == SHAPE[2]
    assert len(orthanc.instance_uids()) == 2 * SHAPE[2]
    deadline = time.monotonic() + 30
    while list(server.temporary.glob("*.nii.gz")):  # removed a moment after it was sent
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_notes_that_are_damaged_or_cannot_be_written(
    server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]
) -> None:
    uid, _ = source
    server.infer(uid)
    held, notes = orthanc.instance_uids(), server.folder / "app" / "super_resolved"
    for damaged in ("[]", "{}", '{"image": 3'):
        for note in notes.rglob("told.json"):
            note.write_text(damaged)
        assert server.client.next_sample("newest_result", {}) == {}
        assert server.infer(uid).json()["is_new"]
    assert orthanc.instance_uids() == held
    rmtree(notes)
    notes.write_text("in the way")
    assert server.refusal(server.infer(uid, {"seed": 12})) == (507, "CANNOT_WRITE")
    assert orthanc.instance_uids() == held
    notes.unlink()


def test_a_service_that_drops_an_image_and_says_nothing(
    server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]
) -> None:
    uid, _ = source
    rule = orthanc.folder / "rule.lua"
    rule.write_text("function ReceivedInstanceFilter(tags) return tags['InstanceNumber'] ~= '2' end")
    orthanc.restart(LuaScripts=[str(rule)])
    assert server.refusal(server.infer(uid)) == (502, "PACS_INCOMPLETE")
    orthanc.restart()
    record = server.infer(uid).json()
    assert record["is_new"]
    assert len(orthanc.instance_uids(record["image"])) == SHAPE[2]


def test_a_service_that_is_gone(server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]) -> None:
    uid, _ = source
    server.infer(uid, {"factor": 3})  # what MONAI Label kept of the list is forgotten then
    held = orthanc.instance_uids()
    orthanc.kill()
    assert server.refusal(server.infer(uid)) == (502, "PACS_UNREACHABLE")
    assert server.refusal(requests.get(f"{server.url}/info/", timeout=60)) == (502, "PACS_UNREACHABLE")
    orthanc.start()
    # Gone between fetching and storing: while the network computes.
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(server.infer(uid, {"factor": 4, "seed": 1})))
    waiting.start()
    wait_for_a_fetch(server)
    orthanc.kill()
    waiting.join()
    assert server.refusal(answers[0]) == (502, "PACS_UNREACHABLE")
    orthanc.start()
    assert orthanc.instance_uids() == held
    record = server.infer(uid, {"factor": 4, "seed": 1}).json()
    assert record["is_new"]
    assert len(orthanc.instance_uids(record["image"])) == SHAPE[2]


def wait_for_a_fetch(server: LabelServer) -> None:
    """Until the source lies whole in the server's temporary folder, before its result can be stored."""
    wait_until(lambda: len(list(server.temporary.glob("ldmsr-*/source/*/[!.]*/*"))) >= SHAPE[2], 60)


def test_notes_hold_no_patient(server: LabelServer, orthanc: OrthancServer, source: tuple[str, Path]) -> None:
    uid, folder = source
    orthanc.clear()
    for path in sorted(folder.glob("*")):
        header = pydicom.dcmread(path)
        header.PatientName, header.PatientID, header.AccessionNumber = PATIENT
        header.save_as(path)
        orthanc.upload(path)
    assert server.infer(uid).json()["is_new"]
    notes = [path.read_text() for path in (server.folder / "app" / "super_resolved").rglob("*") if path.is_file()]
    assert notes
    assert all(value not in text for value in PATIENT for text in [*notes, server.log])
    assert json.loads(next(note for note in notes if note.startswith("{")))["notice"]

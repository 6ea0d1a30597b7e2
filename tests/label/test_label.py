"""A real MONAI Label server on a folder of volume files, asked as 3D Slicer's client asks."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree
from typing import Any

import nibabel
import numpy as np
import pacs_fixtures
import pytest
import requests
import SimpleITK
from label_server import ENVIRONMENT, ROOT, LabelServer, super_resolved_here
from scipy.spatial.transform import Rotation
from small_disk import small_disk

from monai_ldmsr.bundle_folder import bundle_info

pytestmark = pytest.mark.label

wait_until = partial(pacs_fixtures.wait_until, within_s=90)

BRAIN = ROOT / "sample_data" / "nifti" / "mr_brain_t2_1mm_cc0.nii.gz"
#: Oblique, with unequal spacing: a swapped axis or a wrong sign cannot pass.
AFFINE = np.eye(4)
AFFINE[:3, :3] = Rotation.from_euler("xyz", [8, -13, 21], degrees=True).as_matrix() @ np.diag([-0.9, 1.1, 2.5])
AFFINE[:3, 3] = [-20.0, 15.0, 7.0]


def small_brain(path: Path, dtype: Any = np.int16, shift: int = 0, shape: tuple[int, int, int] = (24, 32, 2)) -> Path:
    """A piece of the sample, of any size and type."""
    whole = np.asanyarray(nibabel.load(BRAIN).dataobj)
    piece = whole[30 + shift : 30 + shift + shape[0], 40 : 40 + shape[1], 6 : 6 + shape[2]]
    image = nibabel.Nifti1Image(piece.astype(dtype), AFFINE)
    image.set_data_dtype(dtype)
    if path.name.endswith(".nrrd"):
        as_nifti = path.with_name("as.nii")
        nibabel.save(image, as_nifti)
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(as_nifti)), str(path))
        as_nifti.unlink()
    else:
        nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def studies(label_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the module's server works on."""
    folder = tmp_path_factory.mktemp("studies")
    small_brain(folder / "short.nii.gz")
    small_brain(folder / "float.nii.gz", np.float32, 1)
    small_brain(folder / "nearly raw.nrrd", np.int16, 2)
    for n in range(4):
        small_brain(folder / f"more{n}.nii.gz", shift=3 + n)
    whole = np.asanyarray(nibabel.load(BRAIN).dataobj)[:20, :20, :4].astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(np.stack([whole, whole], -1), AFFINE), folder / "four.nii.gz")
    nibabel.save(nibabel.Nifti1Image(whole[..., None, None].repeat(3, -1), AFFINE), folder / "vector.nii.gz")
    colour = SimpleITK.Image([8, 8, 2], SimpleITK.sitkVectorUInt8, 3)
    SimpleITK.WriteImage(colour, str(folder / "colour.nrrd"))
    (folder / "cut.nii.gz").write_bytes((folder / "short.nii.gz").read_bytes()[:2000])
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    """One server for most tests."""
    server = LabelServer(tmp_path_factory.mktemp("label"), studies)
    yield server.start()
    server.stop()


def content(folder: Path) -> dict[str, int]:
    """Files that a request could leave, and their sizes."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "datastore_v2.json")
    }


def stored(server: LabelServer) -> dict[str, Any]:
    """Images of the datastore and what is known of them."""
    return {name: entry["image"]["info"] for name, entry in server.client.datastore()["objects"].items()}


@pytest.mark.parametrize(("image", "name"), [("short", "short.nii.gz"), ("float", "float.nii.gz")])
@pytest.mark.parametrize("factor", [2, 3])
def test_a_result_is_an_image_of_the_datastore(
    server: LabelServer, studies: Path, tmp_path: Path, image: str, name: str, factor: int
) -> None:
    file, record = server.client.infer("ldm_sr", image, {"factor": factor, "seed": 3})

    # Against this environment's own result; float may differ in the last places, for numpy is another.
    case = super_resolved_here(studies / name, tmp_path / "out", factor=factor, seed=3)
    expected = nibabel.load(case / f"{case.name}_sr.nii.gz")
    for path in (studies / f"{record['image']}.nii.gz", Path(file)):
        found = nibabel.load(path)
        assert found.shape == (24 * factor, 32 * factor, 2)
        assert found.get_data_dtype() == expected.get_data_dtype() != np.uint8
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
        values, wanted = found.get_fdata(), expected.get_fdata()
        assert (np.abs(values - wanted).max() <= 1 and np.mean(values != np.round(values)) == 0) or image == "float"
        np.testing.assert_allclose(values, wanted, atol=1 if image == "short" else 1e-2 * np.ptp(wanted))
    # And against the source itself: outer edges stay where they were, blocks keep their means.
    half = (1 / factor - 1) / 2
    np.testing.assert_allclose(found.affine[:3, 3], (AFFINE @ [half, half, 0, 1])[:3], atol=1e-4)
    source = nibabel.load(studies / name).get_fdata()
    means = values.reshape(24, factor, 32, factor, 2).mean((1, 3))
    np.testing.assert_allclose(means, source, atol=1.0)

    known = stored(server)
    assert record["image"] in known[image]["super_resolved_as"]
    link = known[record["image"]]["super_resolution"]
    assert link["source"] == image
    assert "not for diagnosis" in link["notice"]
    assert link["report"]["factor"] == factor
    assert link["report"]["seed"] == 3
    assert (studies / record["report_page"]).read_text().startswith("<!DOCTYPE html>")


def test_nrrd_stays_nrrd_and_goes_out_as_asked(server: LabelServer, studies: Path) -> None:
    file, record = server.client.infer("ldm_sr", "nearly raw", {"result_extension": ".nii.gz"})
    kept = SimpleITK.ReadImage(str(studies / f"{record['image']}.nrrd"))
    sent = SimpleITK.ReadImage(file)
    assert file.endswith(".nii.gz")
    assert sent.GetPixelID() == kept.GetPixelID() == SimpleITK.sitkInt16
    assert (SimpleITK.GetArrayViewFromImage(sent) == SimpleITK.GetArrayViewFromImage(kept)).all()
    np.testing.assert_allclose(sent.GetOrigin(), kept.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(sent.GetDirection(), kept.GetDirection(), atol=1e-5)


def test_asking_twice_makes_one(server: LabelServer, studies: Path) -> None:
    first = server.infer("more0").json()
    before = content(studies)
    again = server.infer("more0").json()
    assert first["is_new"]
    assert not again["is_new"]
    assert first["image"] == again["image"]
    assert content(studies) == before
    other = server.infer("more0", {"seed": 1}).json()
    assert other["is_new"]
    assert other["image"] != first["image"]
    assert stored(server)["more0"]["super_resolved_as"] == [first["image"], other["image"]]


def test_a_changed_source_is_another_image(server: LabelServer, studies: Path) -> None:
    first = server.infer("more1").json()
    small_brain(studies / "more1.nii.gz", shift=9)
    again = server.infer("more1").json()
    assert again["is_new"]
    assert again["image"] != first["image"]


def test_a_viewer_that_takes_labels_gets_none_and_finds_the_image(server: LabelServer, studies: Path) -> None:
    # What Slicer's module sends, with the options as it takes them from what the server offers.
    offered = server.client.info()["models"]["ldm_sr"]
    assert offered["type"] == "segmentation"  # others have no button there
    options = {key: value[0] if isinstance(value, list) else value for key, value in offered["config"].items()}
    file, record = server.client.infer(
        "ldm_sr", "more2", {**options, "result_extension": ".nrrd", "result_dtype": "uint8"}
    )
    labels, source = SimpleITK.ReadImage(file), SimpleITK.ReadImage(str(studies / "more2.nii.gz"))
    assert labels.GetPixelID() == SimpleITK.sitkUInt8
    assert not SimpleITK.GetArrayViewFromImage(labels).any()
    assert labels.GetSize() == source.GetSize()
    assert record["label_names"] == {}
    np.testing.assert_allclose(labels.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(labels.GetSpacing(), source.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(labels.GetDirection(), source.GetDirection(), atol=1e-5)
    assert server.client.next_sample("newest_result", {})["id"] == record["image"]
    assert requests.get(f"{server.url}/datastore/image", {"image": record["image"]}, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("image", "params", "status", "reason"),
    [
        ("no such image", {}, 404, "NO_SUCH_SOURCE"),
        ("/etc/hostname", {}, 404, "NO_SUCH_SOURCE"),
        ("../short", {}, 404, "NO_SUCH_SOURCE"),
        ("four", {}, 422, "UNSUPPORTED_DIMENSIONS"),
        ("vector", {}, 422, "UNSUPPORTED_DIMENSIONS"),
        ("colour", {}, 422, "UNSUPPORTED_PIXELS"),
        ("cut", {}, 422, "UNREADABLE_FILE"),
        ("picture", {}, 422, "NOT_AN_IMAGE"),
        ("more3", {"factor": 5}, 400, "BAD_SETTINGS"),
        ("more3", {"factor": "2.5"}, 400, "BAD_SETTINGS"),
        ("more3", {"factor": True}, 400, "BAD_SETTINGS"),
        ("more3", {"factor": {"$import": "os"}}, 400, "BAD_SETTINGS"),
        ("more3", {"seed": 1e30}, 400, "BAD_SETTINGS"),
        ("more3", {"seed": -1}, 400, "BAD_SETTINGS"),
        ("more3", {"steps": "many"}, 400, "BAD_SETTINGS"),
        ("more3", {"detail": 9}, 400, "BAD_SETTINGS"),
        ("more3", {"operator": "$__import__('os')"}, 400, "BAD_SETTINGS"),
        ("more3", {"operator": "median"}, 400, "BAD_SETTINGS"),
        ("more3", {"modality": "US"}, 400, "BAD_SETTINGS"),
        ("more3", {"device": "abacus"}, 400, "BAD_SETTINGS"),
        ("more3", {"device": 3}, 400, "BAD_SETTINGS"),
        ("more3", {"result_extension": ".exe"}, 400, "BAD_SETTINGS"),
        ("more3", {"seed": 10**400}, 400, "BAD_SETTINGS"),
        ("more3", {"model": {}}, 400, "BAD_SETTINGS"),
        ("more3", {"model": ["unet"]}, 404, "NO_SUCH_SOURCE"),
        ("more3", {"image": {"id": "short"}}, 400, "BAD_SETTINGS"),
        ("more3", {"image": "/etc/hostname"}, 404, "NO_SUCH_SOURCE"),
    ],
)
def test_refusals_name_the_reason_and_store_nothing(
    server: LabelServer, studies: Path, image: str, params: dict[str, Any], status: int, reason: str
) -> None:
    before, known = content(studies), stored(server)
    assert server.refusal(server.infer(image, params)) == (status, reason)
    assert content(studies) == before
    assert stored(server) == known
    assert server.answers()


def test_other_broken_requests(server: LabelServer) -> None:
    url = f"{server.url}/infer/"
    bad_json = requests.post(f"{url}ldm_sr", params={"image": "short"}, data={"params": "[1"}, timeout=60)
    no_object = requests.post(f"{url}ldm_sr", params={"image": "short"}, data={"params": "3"}, timeout=60)
    deep = {"params": "[" * 100_000}
    too_deep = requests.post(f"{url}ldm_sr", params={"image": "short"}, data=deep, timeout=60)
    no_labels = server.infer("short", output="dicom_seg")
    nothing = requests.post(f"{url}ldm_sr", timeout=60)
    no_model = requests.post(f"{url}unet", params={"image": "short"}, timeout=60)
    found = [server.refusal(answer) for answer in (bad_json, no_object, too_deep, no_labels, nothing, no_model)]
    assert found == [(400, "BAD_SETTINGS")] * 5 + [(404, "NO_SUCH_SOURCE")]
    # What else fails in MONAI Label is reported too, and no log gets it.
    assert server.refusal(requests.get(f"{server.url}/datastore/dataset", timeout=60)) == (500, "INTERNAL_ERROR")
    assert "Traceback" not in server.log


def test_an_image_is_sent_though_the_client_forbids_it(server: LabelServer) -> None:
    answer = server.infer("short", {"result_write_to_file": False}, output="image")
    assert answer.status_code == 200
    assert answer.content[:2] == b"\x1f\x8b"


def test_refused_uploads_leave_nothing(server: LabelServer, tmp_path: Path) -> None:
    content = small_brain(tmp_path / "own.nii.gz").read_bytes()
    for name, sent, params, expected in (
        ("x.nii.gz", b"no image", {}, (422, "UNREADABLE_FILE")),
        ("x.nii.gz", content, {"factor": 9}, (400, "BAD_SETTINGS")),
        ("x." + "a" * 300, content, {}, (422, "NOT_AN_IMAGE")),
        ("x.nii\0", content, {}, (422, "NOT_AN_IMAGE")),
        ("x.dcm", content, {}, (422, "NOT_AN_IMAGE")),
    ):
        files, data = {"file": (name, sent)}, {"params": json.dumps(params)}
        answer = requests.post(f"{server.url}/infer/ldm_sr", files=files, data=data, timeout=60)
        assert server.refusal(answer) == expected
    odd = {"file": ("../../x.nii.gz", content)}
    assert requests.post(f"{server.url}/infer/ldm_sr", files=odd, timeout=60).status_code == 200
    # What was sent is removed a moment after it was.
    wait_until(lambda: not [*server.temporary.glob("ldmsr-*"), *server.temporary.glob("tmp*.[nu]*")])


@pytest.mark.parametrize("image", ["../outside", "a/b", ".hidden", "a\0b"])
def test_no_image_is_put_elsewhere(server: LabelServer, studies: Path, image: str) -> None:
    before = sorted(studies.parent.rglob("*"))
    files = {"file": ("x.nii.gz", b"content")}
    answer = requests.put(f"{server.url}/datastore/image", params={"image": image}, files=files, timeout=60)
    assert server.refusal(answer) == (400, "BAD_SETTINGS")
    assert sorted(studies.parent.rglob("*")) == before


def test_results_are_no_sources(server: LabelServer) -> None:
    made = server.infer("short").json()["image"]
    assert server.refusal(server.infer(made)) == (422, "OWN_RESULT")


def test_an_uploaded_file_comes_back_and_is_not_stored(server: LabelServer, studies: Path, tmp_path: Path) -> None:
    path, before = small_brain(tmp_path / "own.nii.gz", shift=12), content(studies)
    file, record = server.client.infer("ldm_sr", "", {}, file=str(path))
    assert nibabel.load(file).shape == (48, 64, 2)
    assert record["image"] == ""
    session = server.client.create_session(str(path))["session_id"]
    file, record = server.client.infer("ldm_sr", "", {"factor": 3}, session_id=session)
    assert nibabel.load(file).shape == (72, 96, 2)
    assert content(studies) == before


def test_two_at_once_and_others_meanwhile(label_server: Any, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    for n in range(2):
        small_brain(studies / f"image{n}.nii.gz", shift=n, shape=(48, 48, 8))
    server = label_server(studies)
    with ThreadPoolExecutor() as pool:
        same = [pool.submit(server.infer, "image0") for _ in range(2)]
        other = pool.submit(server.infer, "image1")
        answers_before_the_end = 0
        while not all(request.done() for request in [*same, other]):
            answers_before_the_end += server.answers()
            time.sleep(0.1)
    record = [request.result().json() for request in same]
    assert record[0]["image"] == record[1]["image"]
    assert sorted(one["is_new"] for one in record) == [False, True]
    assert other.result().json()["is_new"]
    assert answers_before_the_end > 0
    assert len([name for name in content(studies) if name.startswith("image")]) == 4

    impatient = label_server(studies, MONAI_LABEL_INFER_TIMEOUT="0")
    with ThreadPoolExecutor() as pool:
        requests_ = [pool.submit(impatient.infer, "image0", {"seed": seed}) for seed in (5, 6)]
    ended = [request.result() for request in requests_]
    assert sorted(answer.status_code for answer in ended) == [200, 503]
    (refused,) = [answer for answer in ended if answer.status_code == 503]
    assert impatient.refusal(refused) == (503, "SERVER_BUSY")
    assert int(refused.headers["Retry-After"]) > 0


def test_a_datastore_that_takes_nothing(label_server: Any, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    small_brain(studies / "image.nii.gz")
    (studies / "reports").write_text("in the way")
    server = label_server(studies)
    before = content(studies)
    assert server.refusal(server.infer("image")) == (507, "CANNOT_WRITE")
    assert content(studies) == before
    assert list(stored(server)) == ["image"]
    (studies / "reports").unlink()
    assert server.infer("image").json()["is_new"]
    server.stop()

    before = content(studies)
    read_only = label_server(studies, MONAI_LABEL_DATASTORE_READ_ONLY="true")
    assert read_only.refusal(read_only.infer("image", {"seed": 1})) == (507, "CANNOT_WRITE")
    assert content(studies) == before


@pytest.fixture
def on_a_small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "studies", 400 * 2**10) as studies:
        yield studies


def test_a_disk_that_is_full_read_only_or_left_in_the_middle(label_server: Any, on_a_small_disk: Path) -> None:
    studies = on_a_small_disk
    small_brain(studies / "image.nii.gz")
    server = label_server(studies)
    made = server.infer("image").json()["image"]
    filler = studies / "filler"
    filler.write_bytes(b"x" * (free_bytes(studies) - 12_000))
    before, known = content(studies), stored(server)
    assert server.refusal(server.infer("image", {"seed": 1})) == (507, "CANNOT_WRITE")
    answer = requests.put(
        f"{server.url}/datastore/image",
        params={"image": "sent"},
        files={"file": ("x.nii.gz", b"x" * 90_000)},
        timeout=60,
    )
    assert server.refusal(answer) == (507, "CANNOT_WRITE")
    assert content(studies) == before
    assert stored(server) == known
    assert json.loads((studies / "datastore_v2.json").read_text())["objects"].keys() == known.keys()
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(studies)], check=True)
    assert server.refusal(server.infer("image", {"seed": 1})) == (507, "CANNOT_WRITE")
    assert not server.infer("image").json()["is_new"]
    subprocess.run(["mount", "-o", "remount,rw", str(studies)], check=True)

    # The file watcher has survived that; a result whose list was lost is a result still.
    (studies / "datastore_v2.json").write_text("{\"a patient's name")
    small_brain(studies / "later.nii.gz", shift=3)
    wait_until(lambda: "later" in stored(server))
    (studies / "datastore_v2.json").unlink()
    killed_in_the_middle(server, studies)
    server.start()
    assert not list(studies.glob(".ldmsr-*"))
    assert set(stored(server)) == {"image", "later", made}
    assert server.refusal(server.infer(made)) == (422, "OWN_RESULT")
    assert server.infer("image").json()["image"] == made
    assert stored(server)["image"]["super_resolved_as"] == [made]

    server.stop()
    (studies / "datastore_v2.json").write_text("{\"a patient's name")
    with pytest.raises(RuntimeError, match=r"datastore_v2.json.*is damaged.*BAD_SETTINGS"):
        server.start()
    assert "Traceback" not in server.log
    assert "a patient's name" not in server.log


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_bsize


def killed_in_the_middle(server: LabelServer, studies: Path) -> None:
    """Ask for a result, and end the server while it works on it."""
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(server.infer, "image", {"seed": 2, "steps": 1000})
        wait_until(lambda: bool(list(studies.glob(".ldmsr-*"))))
        server.kill()
        assert isinstance(asked.exception(), requests.ConnectionError)
    assert list(studies.glob(".ldmsr-*"))


def test_a_source_that_is_removed_meanwhile(server: LabelServer, studies: Path) -> None:
    path = small_brain(studies / "brief.nii.gz", shape=(64, 64, 12))
    wait_until(lambda: "brief" in stored(server))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(server.infer, "brief")
        wait_until(lambda: bool(list(studies.glob(".ldmsr-*"))))
        path.unlink()
        assert server.refusal(asked.result()) == (404, "NO_SUCH_SOURCE")
    assert not [name for name in content(studies) if "brief" in name]


def test_a_batch_takes_sources_only_and_goes_on_after_a_refusal(label_server: Any, tmp_path: Path) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    for n in range(2):
        small_brain(studies / f"image{n}.nii.gz", shift=n)
    (studies / "broken.nii.gz").write_bytes(b"no image")
    server = label_server(studies)
    server.infer("image0")
    for _ in range(2):
        url = f"{server.url}/batch/infer/ldm_sr"
        record = requests.post(url, params={"run_sync": "true"}, json={"device": "cpu"}, timeout=300).json()
        assert sorted(record) == ["broken", "image0", "image1"]
        assert "UNREADABLE_FILE" in record["broken"]["params"]["error"]
        assert record["image1"]["params"]["image"].startswith("image1_x2_")
    assert len([name for name in content(studies) if name.endswith(".nii.gz")]) == 5
    # In the background it is another process that stores, at the same time as this one.
    requests.post(f"{server.url}/batch/infer/ldm_sr", json={"device": "cpu", "seed": 5}, timeout=60)
    own = [server.infer(f"image{n % 2}", {"seed": 5 + n // 2}).json()["image"] for n in range(6)]
    wait_until(lambda: requests.get(f"{server.url}/batch/infer", timeout=60).json()["status"] == "DONE")
    wait_until(lambda: {f"image{n}" for n in range(2)} | set(own) <= set(stored(server)))
    known = stored(server)
    assert {name for n in range(2) for name in known[f"image{n}"]["super_resolved_as"]} >= set(own)
    assert all("super_resolution" in known[name] for name in own)
    assert not server.infer("image1", {"seed": 5}).json()["is_new"]


def test_no_log_names_an_image(server: LabelServer, studies: Path) -> None:
    server.infer("more3", {"factor": 4})
    server.infer("a patient's name")
    assert "listening" in server.log
    for word in ("more3", "a patient's name", str(studies)):
        assert word not in server.log


def test_the_stock_bundle_app_returns_the_finer_grid(label_server: Any, tmp_path: Path) -> None:
    studies, app = tmp_path / "studies", tmp_path / "app"
    studies.mkdir()
    source = small_brain(studies / "image.nii.gz")
    copytree(ENVIRONMENT / "monailabel" / "sample-apps" / "monaibundle", app)
    copytree(ROOT / "bundles" / "ldm_sr", app / "model" / "ldm_sr")
    options = {"models": "ldm_sr", "zoo_source": "ngc", "sam2": "false", "skip_trainers": "true"}
    command = ["monailabel", "start_server", "--app", str(app)]
    server = label_server(
        studies, [*command, *(word for key, value in options.items() for word in ("--conf", key, value))]
    )
    file, _ = server.client.infer("ldm_sr", "image", {})
    found = SimpleITK.ReadImage(file)
    (path,) = super_resolved_here(source, tmp_path / "out").glob("*_sr.nii.gz")
    expected = SimpleITK.ReadImage(str(path))
    assert found.GetSize() == expected.GetSize() == (48, 64, 2)
    assert found.GetPixelID() == SimpleITK.sitkFloat32
    for get in (SimpleITK.Image.GetOrigin, SimpleITK.Image.GetSpacing, SimpleITK.Image.GetDirection):
        np.testing.assert_allclose(get(found), get(expected), atol=1e-4)
    difference = np.abs(SimpleITK.GetArrayFromImage(found) - SimpleITK.GetArrayFromImage(expected).astype(np.float32))
    # The file's integers are rounded, this is not; and torch may be another version, which moves some voxels.
    assert np.quantile(difference, 0.99) < 0.6
    assert difference.max() < 2
    assert server.client.info()["models"]["ldm_sr"]["version"] == bundle_info().version


def test_monai_labels_own_command_starts_the_app_too(label_server: Any, tmp_path: Path) -> None:
    studies, app = tmp_path / "studies", tmp_path / "app"
    studies.mkdir()
    small_brain(studies / "image.nii.gz")
    copytree(ROOT / "monai_ldmsr" / "label" / "app_folder", app)
    server = label_server(studies, ["monailabel", "start_server", "--app", str(app)])
    assert server.infer("image").json()["image"].startswith("image_x2_")
    assert server.refusal(server.infer("image", {"factor": 7})) == (400, "BAD_SETTINGS")


@pytest.mark.parametrize(("status", "reason"), [(401, "PACS_REJECTED"), (503, "PACS_REFUSED")])
def test_a_service_that_refuses_everything(label_server: Any, status: int, reason: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        server = label_server(f"http://127.0.0.1:{service.server_port}/dicom-web")
        assert server.refusal(requests.get(f"{server.url}/info/", timeout=60)) == (502, reason)
        assert server.refusal(server.infer("1.2.3")) == (502, reason)
        service.shutdown()

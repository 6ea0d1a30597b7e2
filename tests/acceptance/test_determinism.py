"""The same source, settings, seed and device give the same bytes, and UIDs that follow from them alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from dicom_fixtures import make_series
from series_by_hand import DERIVATION

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.image_output import moment
from monai_ldmsr.io import read_dicom_series, write_derived_series

NOON = "2026-01-31T12:00:00+00:00"
SETTINGS: dict[str, Any] = {"device": "cpu", "num_inference_steps": 2, "seed": 3, "created": NOON, "force": True}

#: The only attributes that the clock may change.
TIMES = {
    *("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    for modality in ("CT", "MR", "PT"):
        make_series(folder / modality, modality, (10, 12, 2))
    voxels = (np.arange(10 * 12 * 2) * 7 % 90).reshape(10, 12, 2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 3.0, 1])), folder / "n.nii.gz")
    for name in ("a.nrrd", "m.mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels.T.copy()), str(folder / name))
    return folder


@pytest.fixture(scope="module")
def first(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(source, tmp_path_factory.mktemp("first"))


def run(source: Path, output: Path, **changed: Any) -> Path:
    assert super_resolve(source, output, **{**SETTINGS, **changed}).exit_code == 0
    return output


def results(output: Path) -> dict[str, bytes]:
    """Bytes of every DICOM and volume file by its place."""
    reports = ("report.json", "report.html", "summary.json")
    paths = [path for path in output.rglob("*") if path.is_file() and path.name not in reports]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def images(output: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(output.glob("*/dicom/*.dcm"))]


def uids(output: Path) -> set[str]:
    return {uid for image in images(output) for uid in (image.SOPInstanceUID, image.SeriesInstanceUID)}


def test_names_places_and_order_of_files_and_earlier_work_do_not_matter(
    source: Path, first: Path, tmp_path: Path
) -> None:
    shuffled = tmp_path / "elsewhere" / "x"
    shuffled.mkdir(parents=True)
    for n, path in enumerate(sorted(source.rglob("*.dcm"), reverse=True)):
        shutil.copy(path, shuffled / f"{n * 7 % 10}-{n}")
    for path in source.glob("*.*"):
        shutil.copy(path, shuffled)
    torch.manual_seed(99)
    torch.rand(7)
    assert len(results(first)) == 15, "six images, three volumes, and a map of each of six cases"
    assert results(run(tmp_path / "elsewhere", tmp_path / "out")) == results(first)


@pytest.mark.slow
def test_the_clock_changes_nothing_but_the_times(
    source: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    now = run(source, tmp_path / "now", created=None)
    differing = set()
    for mine, other in zip(images(now), images(first), strict=True):
        assert mine.PixelData == other.PixelData
        assert [element.tag for element in mine] == [element.tag for element in other]
        differing |= {element.keyword for element in mine if element != other[element.tag]}
    assert differing == TIMES
    volumes = {name: data for name, data in results(first).items() if not name.endswith(".dcm")}
    assert volumes == {name: data for name, data in results(now).items() if not name.endswith(".dcm")}
    assert {image.InstanceCreationDate for image in images(first)} == {"20260131"}
    assert {image.ContentTime for image in images(first)} == {"120000.000000"}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1769860800")
    assert results(run(source, tmp_path / "epoch", created=None)) == results(first)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(SettingsError, match="SOURCE_DATE_EPOCH"):
        run(source, tmp_path / "bad", created=None)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 4}, {"factor": 3}, {"num_inference_steps": 1}, {"detail": 0.25}, {"operator": "kspace"}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_setting_gives_other_uids_and_pixels(
    source: Path, first: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    other = run(source / "MR", tmp_path, **changed)
    assert not uids(other) & uids(first)
    assert not {image.PixelData for image in images(other)} & {image.PixelData for image in images(first)}


def test_another_pixel_gives_other_uids(source: Path, first: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "MR", tmp_path / "in")
    path = sorted((tmp_path / "in").iterdir())[0]
    image = pydicom.dcmread(path)
    pixels = image.pixel_array.copy()
    pixels[4, 5] += 1
    image.PixelData = pixels.tobytes()
    image.save_as(path, overwrite=True)
    other = run(tmp_path / "in", tmp_path / "out")
    assert len(images(other)) == 2
    assert not uids(other) & uids(first)


def test_other_weights_give_other_uids(source: Path, first: Path, tmp_path: Path) -> None:
    """One number of the model changed in its last digit, as another training would."""
    from monai_ldmsr.bundle_folder import find_bundle
    from monai_ldmsr.storage import file_sha256

    bundle = tmp_path / "ldm_sr"
    shutil.copytree(find_bundle("ldm_sr"), bundle)
    weights = bundle / "models" / "model.pt"
    before = file_sha256(weights)
    state = torch.load(weights, weights_only=True)
    name = next(key for key, value in state.items() if value.is_floating_point() and value.ndim == 4)
    state[name][0, 0, 0, 0] *= 1.01
    torch.save(state, weights)
    for name in ("calibration.json", "training_range.json", "planes.pt"):  # of other weights
        (bundle / "models" / name).unlink()
    metadata = bundle / "configs" / "metadata.json"
    metadata.write_text(metadata.read_text().replace(before, file_sha256(weights)))
    other = run(source / "MR", tmp_path / "out", bundle=bundle)
    assert len(images(other)) == 2
    assert not uids(other) & uids(first)


def test_a_device_has_uids_of_its_own(source: Path, first: Path, tmp_path: Path) -> None:
    """CUDA rounds differently; that its name reaches the UIDs can be seen without one."""
    [image, *_] = images(first)
    assert "device=cpu" in image.DerivationDescription
    series, uids_found = read_dicom_series(source / "MR"), set()
    for device in ("cpu", "cuda"):
        derivation = replace(DERIVATION, settings={"device": device})
        voxels = series.voxels.repeat(2, 0).repeat(2, 1)
        uids_found.add(write_derived_series(series, voxels, tmp_path / device, derivation).series_instance_uid)
    assert len(uids_found) == 2


def test_times_without_a_zone_are_in_utc() -> None:
    assert moment("2026-01-31T12:00:00") == moment(NOON)
    assert moment(None) is None
    with pytest.raises(SettingsError, match="ISO 8601"):
        moment("$exit()")

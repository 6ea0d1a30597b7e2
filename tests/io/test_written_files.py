"""What is read back from disk before a result takes its place."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series
from pydicom.encaps import encapsulate, generate_frames

from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.transfer_syntaxes import compress
from monai_ldmsr.io.written_files import (
    FileCheck,
    FileMark,
    check_json,
    check_pixels,
    check_volume,
    intact_files,
)
from monai_ldmsr.io.written_files import verified_files as verified_with
from monai_ldmsr.storage import partial_folder


def make_result(folder: Path, kind: str) -> Path:
    """A result of that kind; returns the file that holds its voxels."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text("{}")
    if kind == "dicom":
        return make_series(folder / "dicom", "CT", (5, 7, 2)).paths[0]
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = folder / f"v_sr.{kind}"
    if kind.startswith("nii"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path))
    return path


def verified_files(folder: Path) -> dict[str, FileMark]:
    """Verify a result of :func:`make_result`, each file by what was made."""

    def check(name: str) -> FileCheck:
        return check_json if name == "report.json" else check_pixels if name.startswith("dicom") else check_volume

    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")]
    return verified_with(folder, {name: check(name) for name in names})


@pytest.mark.parametrize("kind", ["dicom", "nii", "nii.gz", "nrrd", "mha"])
def test_whole_files_get_marks(tmp_path: Path, kind: str) -> None:
    path = make_result(tmp_path / "r", kind)
    marks = verified_files(tmp_path / "r")
    assert len(marks) == (3 if kind == "dicom" else 2)
    mark = marks[path.relative_to(tmp_path / "r").as_posix()]
    assert mark.size == path.stat().st_size
    assert mark.mtime_ns == path.stat().st_mtime_ns
    assert mark.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert intact_files(tmp_path / "r", marks) == marks


@pytest.mark.parametrize("kind", ["dicom", "nii", "nii.gz", "nrrd", "mha"])
def test_a_cut_file_is_no_result(tmp_path: Path, kind: str) -> None:
    path = make_result(tmp_path / "r", kind)
    os.truncate(path, path.stat().st_size - 3)
    with pytest.raises(OutputError, match="does not read back") as caught:
        verified_files(tmp_path / "r")
    assert path.relative_to(tmp_path / "r").as_posix() in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("syntax", ["jpeg-ls", "rle"])
def test_a_damaged_compressed_image_is_no_result(tmp_path: Path, syntax: str) -> None:
    path = make_result(tmp_path / "r", "dicom")
    image = pydicom.dcmread(path)
    compress(image, syntax)
    image.save_as(path)
    verified_files(tmp_path / "r")
    (frame,) = generate_frames(image.PixelData, number_of_frames=1)
    image.PixelData = encapsulate([frame[: len(frame) // 2]])
    image.save_as(path)
    with pytest.raises(OutputError, match="does not read back"):
        verified_files(tmp_path / "r")


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a report that is no JSON": ("dicom", lambda path: (path.parents[1] / "report.json").write_text('{"case": ')),
    "an empty image": ("dicom", lambda path: path.write_bytes(b"")),
    "a wrong checksum": ("nii.gz", lambda path: path.write_bytes(_flipped(path.read_bytes()))),
    "a shorter volume": (
        "nii.gz",
        lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-9])),
    ),
}


def _flipped(content: bytes) -> bytes:
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_damages(tmp_path: Path, damage: str) -> None:
    kind, spoil = DAMAGES[damage]
    spoil(make_result(tmp_path / "r", kind))
    with pytest.raises(OutputError, match="does not read back"):
        verified_files(tmp_path / "r")


def test_a_result_that_does_not_verify_does_not_take_its_place(tmp_path: Path) -> None:
    final = tmp_path / "r"
    make_result(final, "dicom")
    with (
        pytest.raises(OutputError, match="does not read back"),
        partial_folder(final, verified_files) as folder,
    ):
        os.truncate(make_result(folder, "dicom"), 400)
    assert len(verified_files(final)) == 3, "the earlier result stays"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_file_that_was_not_written_is_missed(tmp_path: Path) -> None:
    make_result(tmp_path / "r", "nii")
    with pytest.raises(OutputError, match=r"'map\.dcm' of the result does not read back"):
        verified_with(tmp_path / "r", {"map.dcm": check_pixels})


def test_files_are_verified_once_they_are_on_disk_and_before_the_move(tmp_path: Path, disk_events: list[str]) -> None:
    with partial_folder(tmp_path / "r", lambda folder: disk_events.append("check")) as folder:
        (folder / "a.txt").write_text("a")
    assert disk_events == ["sync", "sync", "check", "move", "sync"]

"""Finding and grouping: what becomes a series, what is skipped and why."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_fixtures import MARKER, make_series, save
from odd_dicom import SKIPPED
from pydicom import Dataset
from pydicom.uid import generate_uid

from monai_ldmsr.errors import ReasonCode, SkippedSourceError, SourceError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io.dicom_series import read_dicom_series
from monai_ldmsr.io.discovery import SeriesFiles, find_dicom_series, find_sources
from monai_ldmsr.io.volume_file import read_volume_file, write_volume_file


def write_nrrd(path: Path) -> Path:
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)), str(path))
    return path


def test_two_series_in_one_folder_are_found_as_two(tmp_path: Path) -> None:
    study = {"study": generate_uid(), "frame": generate_uid()}
    first = make_series(tmp_path / "x", "MR", uids=study)
    second = make_series(tmp_path / "y", "MR", shape=(20, 24, 4), uids=study)
    for n, path in enumerate([*first.paths, *second.paths]):
        path.rename(tmp_path / f"{(n * 5) % 9:03d}")
    found, skipped = find_dicom_series(tmp_path)
    assert sorted(len(item.paths) for item in found) == [4, 5]
    assert skipped == []
    assert len({item.case for item in found}) == 2
    assert sorted(read_dicom_series(item).voxels.shape[2] for item in found) == [4, 5]


def test_case_is_the_same_for_other_names_and_places(tmp_path: Path) -> None:
    made = make_series(tmp_path / "a")
    (tmp_path / "b" / "c").mkdir(parents=True)
    for n, path in enumerate(made.paths):
        (tmp_path / "b" / "c" / f"{n}").write_bytes(path.read_bytes())
    [first], _ = find_dicom_series(tmp_path / "a")
    [second], _ = find_dicom_series(tmp_path / "b")
    assert first.case == second.case
    assert len(first.case) == 12
    int(first.case, 16)


def test_attributes_that_vary_do_not_split_where_no_position_repeats(tmp_path: Path) -> None:
    make_series(tmp_path, AcquisitionTime=lambda k: f"10101{k}", AcquisitionNumber=lambda k: k, ImageComments="c")
    found, _ = find_dicom_series(tmp_path)
    assert [len(item.paths) for item in found] == [5]
    assert found[0].warnings == ()


@pytest.mark.parametrize(
    ("positions_mm", "times"),
    [
        ([0.0, 0.0, 2.5, 2.5, 5.0], "12345"),
        ([0.0, 2.5, 5.0, 0.0, 2.5, 7.5], "111222"),
    ],
    ids=["each image its own", "no part complete"],
)
def test_attributes_that_would_cut_slices_apart_do_not_split(
    tmp_path: Path, positions_mm: list[float], times: str
) -> None:
    make_series(
        tmp_path,
        shape=(20, 24, len(positions_mm)),
        positions_mm=positions_mm,
        AcquisitionTime=lambda k: f"10101{times[k]}",
    )
    found, _ = find_dicom_series(tmp_path)
    assert [len(item.paths) for item in found] == [len(positions_mm)]
    with pytest.raises(SourceError, match="position") as caught:
        read_dicom_series(found[0])
    assert caught.value.reason is ReasonCode.DUPLICATE_POSITION


def test_without_series_uid_the_folder_groups(tmp_path: Path) -> None:
    make_series(tmp_path / "a", SeriesInstanceUID="")
    make_series(tmp_path / "b", SeriesInstanceUID=None)
    found, _ = find_dicom_series(tmp_path)
    assert [{path.parent.name for path in item.paths} for item in found] == [{"a"}, {"b"}]
    assert len({item.case for item in found}) == 2


def test_images_emptied_of_all_uids_still_have_their_own_cases(tmp_path: Path) -> None:
    for name in "ab":
        made = make_series(tmp_path / name, SeriesInstanceUID="", FrameOfReferenceUID="")
        for path in made.paths:
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID = dataset.SOPClassUID = ""
            dataset.file_meta.MediaStorageSOPInstanceUID = ""
            dataset.save_as(path, overwrite=True)
    found, _ = find_dicom_series(tmp_path)
    assert [len(item.paths) for item in found] == [5, 5]
    assert len({item.case for item in found}) == 2


@pytest.mark.parametrize("name", SKIPPED)
def test_what_is_skipped_and_why(tmp_path: Path, name: str) -> None:
    overrides, reason, words = SKIPPED[name]
    good = make_series(tmp_path / "good", "MR")
    make_series(tmp_path / MARKER, "CT", shape=(20, 24, 2), **overrides)
    found, skipped = find_dicom_series(tmp_path)
    assert [set(item.paths) for item in found] == [set(good.paths)]
    assert [(item.reason, item.n_files) for item in skipped] == [(ReasonCode(reason), 2)]
    assert re.search(words, skipped[0].message)
    assert "MARKER" not in repr(skipped)
    assert len(skipped[0].case) == 12
    with pytest.raises(SkippedSourceError) as caught:
        read_dicom_series(tmp_path / MARKER)
    assert caught.value.reason is ReasonCode(reason)
    assert "MARKER" not in str(caught.value)


def test_junk_and_dicomdir_are_listed_once(tmp_path: Path) -> None:
    make_series(tmp_path)
    (tmp_path / "notes.txt").write_text(MARKER)
    (tmp_path / "empty").touch()
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.7" + bytes(400))
    (tmp_path / "zeros").write_bytes(b"\x08\x00" * 300)
    index = Dataset()
    index.SOPInstanceUID, index.SOPClassUID = "1.2.3", "1.2.840.10008.1.3.10"
    index.FileSetID = "X"
    save(index, tmp_path / "DICOMDIR")
    found, skipped = find_dicom_series(tmp_path)
    assert len(found) == 1
    assert {(item.reason, item.n_files) for item in skipped} == {
        (ReasonCode.NOT_AN_IMAGE, 4),
        (ReasonCode.BAD_DICOMDIR, 1),
    }


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_after_the_magic_never_crash(tmp_path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).bytes(3000)
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + noise)
    found, skipped = find_dicom_series(tmp_path)
    assert found == []
    assert skipped[0].reason in (ReasonCode.UNREADABLE_FILE, ReasonCode.NOT_AN_IMAGE)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = make_series(tmp_path / "outside")
    inside = make_series(tmp_path / "source" / "real")
    (tmp_path / "source" / "file").symlink_to(outside.paths[0])
    (tmp_path / "source" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "source" / "loop").symlink_to(tmp_path / "source")
    (tmp_path / "source" / "itself").symlink_to(tmp_path / "source" / "itself")
    (tmp_path / "source" / "nowhere").symlink_to(tmp_path / "source" / "gone")
    (tmp_path / "source" / "volume.nii").symlink_to("/etc/passwd")
    found, skipped = find_dicom_series(tmp_path / "source")
    assert [set(item.paths) for item in found] == [set(inside.paths)]
    assert [(item.reason, item.n_files) for item in skipped] == [(ReasonCode.NOT_AN_IMAGE, 6)]
    assert "link" in skipped[0].message
    assert [one.source for one in find_sources(tmp_path / "source")[0]] == found, "a link to a volume file"


def test_hidden_files_are_left_alone_and_pipes_are_listed(tmp_path: Path) -> None:
    made = make_series(tmp_path)
    (tmp_path / "._IM0000.dcm").write_bytes(b"AppleDouble")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        found, skipped = find_sources(tmp_path)
    assert [set(item.paths) for item in found] == [set(made.paths)]
    assert [(item.reason, item.n_files) for item in skipped] == [(ReasonCode.NOT_AN_IMAGE, 3)]
    assert "pipe" in skipped[0].message


def test_what_may_not_be_opened_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_series(tmp_path / "open")
    (tmp_path / "closed").mkdir()
    (tmp_path / "locked.dcm").write_bytes(b"x")
    original_scandir, original_access = os.scandir, os.access

    def scandir(path: str) -> Any:
        if "closed" in os.fspath(path):
            raise PermissionError(13, "Permission denied", MARKER)
        return original_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and original_access(path, mode))
    found, skipped = find_dicom_series(tmp_path)
    assert [set(item.paths) for item in found] == [set(made.paths)]
    assert [(item.reason, item.n_files) for item in skipped] == [(ReasonCode.UNREADABLE_FILE, 1)] * 2
    assert [word in item.message for word, item in zip(("file", "folder"), skipped, strict=True)] == [True, True]


def test_sources_mix_dicom_and_volume_files_in_fixed_order(tmp_path: Path) -> None:
    make_series(tmp_path / "dicom")
    second = write_nrrd(tmp_path / "b.nrrd")
    first = write_nrrd(tmp_path / "a.mha")
    found, skipped = find_sources(tmp_path)
    assert isinstance(found[0].source, SeriesFiles)
    assert [one.source for one in found[1:]] == [first, second]
    assert skipped == []
    assert [one.source for one in find_sources(second)[0]] == [second]
    assert len(find_dicom_series(tmp_path)[0]) == 1


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "NO_SUCH_SOURCE"), ("empty", "EMPTY_SOURCE")])
def test_no_source(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        find_sources(tmp_path / name)
    assert caught.value.reason is ReasonCode(reason)
    assert str(tmp_path) not in str(caught.value)


def test_a_written_volume_is_found_again(tmp_path: Path) -> None:
    volume = read_volume_file(write_nrrd(tmp_path / "a.nrrd"))
    write_volume_file(volume, np.repeat(volume.voxels, 2, 0).repeat(2, 1), Factors(2, 2), tmp_path / "out.nrrd", "")
    assert len(find_sources(tmp_path)[0]) == 2


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "PatientID"])
def test_one_series_uid_of_two_owners_is_two_volumes(tmp_path: Path, keyword: str) -> None:
    make_series(tmp_path, "CT", (8, 9, 6), **{keyword: lambda k: f"1.2.{k % 2}"})
    found, skipped = find_dicom_series(tmp_path)
    assert skipped == []
    assert [len(item.paths) for item in found] == [3, 3]
    assert len({item.case for item in found}) == 2
    assert all("several studies" in item.warnings[0] for item in found)
    for item in found:
        assert len({pydicom.dcmread(path)[keyword].value for path in item.paths}) == 1


def test_series_without_uids_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", (8, 9, 6), SeriesInstanceUID="", SeriesNumber=lambda k: 1 + k % 2)
    found, _ = find_dicom_series(tmp_path)
    assert [len(item.paths) for item in found] == [3, 3]


def test_echoes_at_places_of_their_own_are_volumes_where_each_is_whole(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", (8, 9, 6), EchoTime=lambda k: 10 + 80 * (k % 2))
    found, _ = find_dicom_series(tmp_path)
    assert [len(item.paths) for item in found] == [3, 3]
    assert all("Echo Time" in " ".join(item.warnings) for item in found)


def test_echoes_at_places_of_their_own_are_warned_of(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", (8, 9, 6), EchoTime=lambda k: 10 if k in (0, 1, 4) else 90)
    [found], _ = find_dicom_series(tmp_path)
    assert any("Echo Time (2 values)" in warning for warning in found.warnings)

"""Units below a source: names, fingerprints, and what an unchanged or changed tree costs and gives."""

from __future__ import annotations

import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from batch_searches import SHAPE, Searches, count_calls, prints, write_nifti
from dicom_fixtures import MARKER, MARKER_ID, make_series, make_volumes, new_uids
from pydicom.uid import generate_uid

from monai_ldmsr.batch import search_memory
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io import NiftiVolume, ReadLimits, SeriesFiles, find_dicom_series, read_dicom_series


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two series, one of them in two folders, two volume files of one name, a 4D file, a damaged image and junk."""
    folder = tmp_path / "source"
    make_series(folder / "a", "MR", SHAPE)
    made = make_series(folder / "b", "CT", SHAPE)
    made.paths[0].rename(folder / "moved.dcm")
    write_nifti(folder / "Brain.nii.gz")
    write_nifti(folder / "deep" / "brain.nii.gz")
    write_nifti(folder / "time.nii", n_volumes=2)
    (folder / "b" / "broken.dcm").write_bytes(bytes(128) + b"DICM\x02\x00")
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture
def searches(source: Path, tmp_path: Path) -> Searches:
    return Searches(source, tmp_path / "work")


@pytest.fixture
def n_parsed(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    return count_calls(monkeypatch, pydicom, "dcmread")


def test_what_is_found_has_names_and_prints(searches: Searches, source: Path) -> None:
    units, skipped = searches.find()
    series = {name: unit.source for name, unit in units.items() if isinstance(unit.source, SeriesFiles)}
    assert any("cannot be read" in warning for item in series.values() for warning in item.warnings)
    assert {item.reason for item in skipped} == {ReasonCode.UNREADABLE_FILE, ReasonCode.NOT_AN_IMAGE}
    assert series == {item.case: item for item in find_dicom_series(source)[0]}
    volumes = {name: unit for name, unit in units.items() if name not in series}
    assert len(series) == 2
    assert sorted(name.partition("-")[0] for name in volumes) == ["Brain", "brain", "time", "time"]
    assert sorted(name.partition("-vol")[2] for name in volumes) == ["", "", "0001", "0002"]
    assert {unit.source.number for unit in volumes.values() if isinstance(unit.source, NiftiVolume)} == {1, 2}


def test_a_localizer_within_a_series_is_left_out_and_remembered(tmp_path: Path) -> None:
    source = tmp_path / "source"
    scout = {"shape": (9, 8, 1), "orientation": [1, 0, 0, 0, 0, -1]}
    make_volumes(source, "CT", [{"shape": (8, 9, 5)}, scout])
    searches = Searches(source, tmp_path / "work")
    units, skipped = searches.find()
    assert [item.reason for item in skipped] == [ReasonCode.LOCALIZER]
    again, skipped_again = searches.find()
    assert (again.keys(), skipped_again) == (units.keys(), skipped)
    assert [item.paths for item in skipped_again] == [item.paths for item in skipped]


def test_an_unchanged_tree_is_recognised_without_parsing(searches: Searches, n_parsed: list[None]) -> None:
    first = searches.find()
    assert n_parsed
    n_parsed.clear()
    again = searches.find()
    assert again[0].keys() == first[0].keys()
    assert prints(again[0]) == prints(first[0])
    assert again[1] == first[1]
    for name, unit in first[0].items():
        if not isinstance(unit.source, NiftiVolume):
            assert again[0][name].source == unit.source
    assert n_parsed == []


def test_a_touch_is_no_change(searches: Searches, source: Path, n_parsed: list[None]) -> None:
    first, _ = searches.find()
    n_parsed.clear()
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    again, _ = searches.find()
    assert prints(again) == prints(first)
    assert n_parsed == []
    rows = dict(searches.memory)
    searches.find()
    assert searches.memory == rows, "the new times are remembered"


@pytest.mark.parametrize("change", ["replaced", "same size and time", "added", "removed"])
def test_a_changed_series_has_another_fingerprint_and_the_same_name(
    searches: Searches, source: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = searches.find()
    path = sorted((source / "a").iterdir())[1]
    image = pydicom.dcmread(path)
    if change == "replaced":
        image.PixelData = bytes(len(image.PixelData))
        image.PatientComments = "longer"
        image.save_as(path)
    elif change == "same size and time":
        status = path.stat()
        content = path.read_bytes()
        with path.open("r+b") as file:  # in place: neither inode nor size changes, and the time is set back
            file.write(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "added":
        image.SOPInstanceUID = generate_uid()
        image.ImagePositionPatient = [float(v) + 50 for v in image.ImagePositionPatient]
        image.save_as(path.with_name("new.dcm"))
    else:
        path.unlink()
    n_read = count_calls(monkeypatch, search_memory, "file_sha256")
    again, _ = searches.find()
    n_of_series = len(list((source / "a").iterdir()))
    assert len(n_read) == (0 if change == "removed" else 1), "the content of other files is known"
    (name,) = [
        name for name, unit in first.items() if isinstance(unit.source, SeriesFiles) and path in unit.source.paths
    ]
    assert again.keys() == first.keys()
    assert {n for n in first if first[n].content() != again[n].content()} == {name}
    assert len(again[name].source.paths) == n_of_series
    assert prints(again) == prints(searches.fresh()[0])


def test_a_moved_series_is_the_same(searches: Searches, source: Path) -> None:
    first, _skipped = searches.find()
    (source / "a").rename(source / "z")
    again, _ = searches.find()
    assert prints(again) == prints(first)
    assert [u.source for u in again.values()] != [u.source for u in first.values()]
    for unit in again.values():
        if isinstance(unit.source, SeriesFiles):
            assert all(path.is_file() for path in unit.source.paths)


def test_changes_give_what_a_first_search_gives(searches: Searches, source: Path) -> None:
    """Warnings of damaged neighbours, series cut short, copies: all as if nothing had been remembered."""
    searches.find()
    uids = new_uids()
    steps = [
        lambda: (source / "b" / "broken.dcm").unlink(),
        lambda: shutil.copy(next((source / "a").iterdir()), source / "copy.dcm"),
        lambda: (source / "a" / "broken.dcm").write_bytes(bytes(128) + b"DICM\x02\x00"),
        lambda: (source / "copy.dcm").write_bytes(b""),
        lambda: (source / "moved.dcm").unlink(),
        lambda: make_series(source / "cut", "MR", SHAPE, uids=uids, Rows=None),
        lambda: make_series(source / "whole", "MR", SHAPE, uids=uids),
        lambda: shutil.rmtree(source / "whole"),
        lambda: make_series(source / "n", "MR", SHAPE, SeriesInstanceUID=None),
        lambda: shutil.copytree(source / "n", source / "m"),
    ]
    for step in steps:
        step()
        (units, skipped), (expected, left_out) = searches.find(), searches.fresh()
        assert skipped == left_out
        assert prints(units) == prints(expected)
        assert {n: u.source for n, u in units.items() if isinstance(u.source, SeriesFiles)} == {
            n: u.source for n, u in expected.items() if isinstance(u.source, SeriesFiles)
        }
    assert ReasonCode.DUPLICATE_SERIES in {item.reason for item in skipped}


def test_the_second_file_of_a_volume_counts(tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    (tmp_path / "s").mkdir()
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / "s" / "v.mhd"))
    searches = Searches(tmp_path / "s", tmp_path / "w")
    first, _ = searches.find()
    raw = tmp_path / "s" / "v.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    again, _ = searches.find()
    assert not first.keys() & again.keys(), "another volume has another name"
    raw.rename(raw.with_name("elsewhere.raw"))
    assert not (first.keys() | again.keys()) & searches.find()[0].keys()


def test_other_limits_are_another_search(source: Path, tmp_path: Path) -> None:
    searches = Searches(source, tmp_path / "w")
    units, _ = searches.find()
    found, skipped = searches.find(ReadLimits(header_bytes=64, header_reads=1))
    assert len(found) < len(units)
    assert ReasonCode.TOO_LARGE in {item.reason for item in skipped}


@pytest.mark.parametrize("damage", ["f:", "found", "reason"])
def test_damaged_memory_is_no_memory(searches: Searches, damage: str) -> None:
    first = searches.find()
    if damage == "reason":
        searches.memory["found"] = searches.memory["found"].replace("NOT_AN_IMAGE", "NO_SUCH_CODE")
    else:
        searches.memory = {k: text[:-3] if k.startswith(damage) else text for k, text in searches.memory.items()}
    again = searches.find()
    assert (prints(again[0]), again[1]) == (prints(first[0]), first[1])


def test_headers_are_read_again_when_asked(searches: Searches, n_parsed: list[None]) -> None:
    first = searches.find()
    n_parsed.clear()
    again = searches.find(again=True)
    assert n_parsed
    assert (prints(first[0]), first[1]) == (prints(again[0]), again[1])


def test_memory_and_messages_tell_nobodys_name(tmp_path: Path) -> None:
    folder = tmp_path / MARKER_ID
    make_series(folder / MARKER.replace("^", "_"), "MR", SHAPE, SeriesDescription=MARKER)
    searches = Searches(folder, tmp_path / "w")
    units, skipped = searches.find()
    told = str(searches.memory) + str(skipped) + str(list(units.values()))
    assert "MARKER" not in told
    assert "IM0000" not in told


def test_sources_can_be_sent_to_other_processes(searches: Searches) -> None:
    units, _ = searches.find()
    for unit in units.values():
        sent = pickle.loads(pickle.dumps(unit.source))
        assert len(pickle.dumps(unit.source)) < 20_000
        if isinstance(unit.source, SeriesFiles):
            assert sent == unit.source
            assert read_dicom_series(sent).voxels.shape == (8, 6, 3)


def test_one_file_can_be_the_source(tmp_path: Path) -> None:
    made = make_series(tmp_path / "s", "MR", SHAPE)
    ((_, unit),) = Searches(made.paths[0], tmp_path / "w").find()[0].items()
    assert unit.source.paths == (made.paths[0],)
    ((name, _),) = Searches(write_nifti(tmp_path / "v" / "a b.nii"), tmp_path / "w").find()[0].items()
    assert name.startswith("a_b-")


def test_memory_does_not_grow_with_headers(tmp_path: Path) -> None:
    """What is kept of each file is small, whatever its header holds."""
    make_series(tmp_path / "s", "MR", (4, 4, 40), ImageComments="x" * 10_000)
    searches = Searches(tmp_path / "s", tmp_path / "w")
    n_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    tracemalloc.start()
    searches.find()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 40 < 5_000
    assert not n_open or len(os.listdir("/proc/self/fd")) == n_open

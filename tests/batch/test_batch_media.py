"""Media with a DICOMDIR, and zip archives: what they hold, and what is refused of them."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat
import struct
import warnings
import zipfile
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from batch_searches import SHAPE, Searches, count_calls, prints, write_nifti
from batch_work import opened
from dicom_fixtures import make_series
from pydicom.data import get_testdata_file
from pydicom.fileset import FileSet

from monai_ldmsr import super_resolve
from monai_ldmsr.batch import WorkSettings
from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SkippedSourceError
from monai_ldmsr.io import (
    PackedSource,
    ReadLimits,
    SkippedItem,
    find_dicom_series,
    find_sources,
    on_disk,
    read_dicom_series,
    read_volume_file,
)
from monai_ldmsr.io.dicomdir import read_dicomdir


def make_medium(folder: Path, *series: Path) -> Path:
    """A DICOMDIR with all files of ``series``, as pydicom's FileSet writes it."""
    files = FileSet()
    for path in sorted(path for place in series for path in place.rglob("*.dcm")):
        image = pydicom.dcmread(path)
        image.InstanceNumber = image.get("InstanceNumber", 1)
        files.add(image)
    files.write(folder)
    return folder / "DICOMDIR"


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """A folder with a DICOMDIR of two series."""
    make_series(tmp_path / "made" / "a", "MR", SHAPE)
    make_series(tmp_path / "made" / "b", "CT", SHAPE)
    make_medium(tmp_path / "medium", tmp_path / "made")
    return tmp_path / "medium"


def images_of(folder: Path) -> dict[str, list[Path]]:
    """Files by modality."""
    found: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR"):
        found.setdefault(pydicom.dcmread(path, stop_before_pixels=True).Modality, []).append(path)
    return found


@pytest.mark.parametrize("is_file", [True, False])
def test_a_whole_medium_is_its_series_once(
    medium: Path, tmp_path: Path, is_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = Searches(medium / "DICOMDIR" if is_file else medium, tmp_path / "w")
    units, skipped = searches.find()
    assert sorted(len(unit.source.paths) for unit in units.values()) == [3, 3]
    assert prints(units) == prints(Searches(tmp_path / "made", tmp_path / "w").find()[0])
    assert skipped == []
    n_parsed = count_calls(monkeypatch, pydicom, "dcmread")
    again = searches.find()
    assert {name: unit.source for name, unit in again[0].items()} == {name: unit.source for name, unit in units.items()}
    assert (prints(again[0]), again[1]) == (prints(units), skipped)
    assert len(n_parsed) == is_file, "no header but that of the DICOMDIR, which says what is searched"


def test_only_what_a_dicomdir_lists_is_taken_when_it_is_the_source(medium: Path, tmp_path: Path) -> None:
    make_series(medium / "other", "PT", SHAPE)
    searches = Searches(medium / "DICOMDIR", tmp_path / "w")
    assert len(searches.find()[0]) == 2
    assert len(searches.find()[0]) == 2
    assert len(Searches(medium, tmp_path / "w").find()[0]) == 3


@pytest.mark.parametrize("damage", ["missing", "cut short", "hidden"])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_series_with_a_missing_file_is_refused(medium: Path, tmp_path: Path, damage: str, is_file: bool) -> None:
    searches = Searches(medium / "DICOMDIR" if is_file else medium, tmp_path / "w")
    whole, _ = searches.find()
    path = images_of(medium)["CT"][1]
    (name,) = [name for name, unit in whole.items() if path in unit.source.paths]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "hidden":
        path.rename(path.with_name(f".{path.name}"))
    else:
        path.write_bytes(content[:140])
    for _ in range(2):
        units, skipped = searches.find()
        assert units.keys() == whole.keys() - {name}
        (refused,) = [item for item in skipped if item.reason is ReasonCode.MISSING_FILE]
        assert (refused.case, refused.failed, refused.n_files) == (name, True, 1)
    path.write_bytes(content)
    assert prints(searches.find()[0]) == prints(whole)


def test_a_series_of_which_nothing_is_there_is_listed(medium: Path, tmp_path: Path) -> None:
    for path in images_of(medium)["CT"]:
        path.unlink()
    skipped = refused(medium, tmp_path)
    assert (skipped.reason, skipped.n_files) == (ReasonCode.MISSING_FILE, 3)


def test_media_copied_with_small_letters_are_whole(medium: Path, tmp_path: Path) -> None:
    for path in sorted(medium.rglob("*"), reverse=True):
        path.rename(path.with_name(path.name.lower()))
    units, skipped = Searches(medium, tmp_path / "w").find()
    assert (len(units), skipped) == (2, [])
    assert len(Searches(medium / "dicomdir", tmp_path / "w").find()[0]) == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [["..", "made", "b"], ["", "etc", "passwd"], ["C:", "x"], ["a/../../b"]])
def test_a_record_that_points_outside_is_refused(medium: Path, tmp_path: Path, name: list[str]) -> None:
    path = medium / "DICOMDIR"
    directory = pydicom.dcmread(path)
    (first, *_) = [r for r in directory.DirectoryRecordSequence if r.DirectoryRecordType == "IMAGE"]
    old = first["ReferencedFileID"].value
    length = len("\\".join(old)) + len("\\".join(old)) % 2
    text = "\\".join([*name, "x" * max(0, length - len("\\".join(name)) - 1)])[:length]
    first.ReferencedFileID = text.split("\\")  # of the same length, so that the offsets stay true
    pydicom.dcmwrite(path, directory)
    assert [name for _, name in read_dicomdir(path)].count(None) == 1
    units, skipped = Searches(medium, tmp_path / "w").find()
    assert len(units) == 1
    assert [item.reason for item in skipped] == [ReasonCode.MISSING_FILE]
    assert all(medium in path.parents for unit in units.values() for path in unit.source.paths)


def test_deleted_records_and_other_kinds_do_not_count(medium: Path, tmp_path: Path) -> None:
    for image in images_of(medium)["CT"]:
        image.unlink()
    directory = pydicom.dcmread(medium / "DICOMDIR")
    for record in directory.DirectoryRecordSequence:
        if record.DirectoryRecordType == "SERIES" and record.Modality == "CT":
            record.RecordInUseFlag = 0
    pydicom.dcmwrite(medium / "DICOMDIR", directory)
    assert Searches(medium, tmp_path / "w").find()[1] == []


@pytest.mark.parametrize("damage", ["cut", "noise", "circle", "empty"])
@pytest.mark.parametrize("is_file", [True, False])
def test_a_broken_dicomdir_is_listed_and_the_files_found(
    medium: Path, tmp_path: Path, damage: str, is_file: bool
) -> None:
    path = medium / "DICOMDIR"
    content = path.read_bytes()
    if damage == "circle":
        directory = pydicom.dcmread(path)
        first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
        directory.DirectoryRecordSequence[0].OffsetOfTheNextDirectoryRecord = first
        pydicom.dcmwrite(path, directory)
    else:
        damaged = {"cut": content[: len(content) // 2], "noise": bytes(range(256)) * 9, "empty": b""}
        path.write_bytes(damaged[damage])
    searches = Searches(path if is_file else medium, tmp_path / "w")
    for _ in range(2):
        units, skipped = searches.find()
        assert len(units) == 2
        assert [(item.reason, item.failed, item.n_files) for item in skipped] == [(ReasonCode.BAD_DICOMDIR, True, 1)]


# Zip archives


def write_zip(path: Path, folder: Path, prefix: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, f"{prefix}{file.relative_to(folder).as_posix()}")
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series and two volumes, not in the searched folder."""
    folder = tmp_path / "study"
    make_series(folder / "a", "MR", SHAPE)
    make_series(folder / "b", "CT", SHAPE)
    write_nifti(folder / "v" / "brain.nii.gz")
    write_nifti(folder / "v" / "time.nii.gz", n_volumes=2)
    return folder


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    folder = tmp_path / "searched"
    make_series(folder / "plain", "PT", SHAPE)
    return folder


def refused(searched: Path, place: Path, n_units: int = 1) -> SkippedItem:
    """What a search refuses: one item, while the folder's own series goes on."""
    units, [skipped] = Searches(searched, place / "w").find()
    assert len(units) == n_units
    assert skipped.failed
    return skipped


def test_what_is_packed_reads_as_what_is_not(
    study: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(searched / "deep" / "A study.ZIP", study, "export/")
    searches = Searches(searched, tmp_path / "w")
    units, skipped = searches.find()
    assert skipped == []
    with monkeypatch.context() as patch:
        n_parsed = count_calls(patch, pydicom, "dcmread")
        again, _ = searches.find()
        assert {name: (unit.source, unit.paths) for name, unit in again.items()} == {
            name: (unit.source, unit.paths) for name, unit in units.items()
        }
        assert (prints(again), n_parsed) == (prints(units), [])
    expected = {item.case: item for item in find_dicom_series(study)[0]}
    for name, files in expected.items():
        with on_disk(again[name].source) as source:
            found, truth = read_dicom_series(source), read_dicom_series(files)
            assert all(path.is_file() and tmp_path / "w" in path.parents for path in source.paths)
        np.testing.assert_array_equal(found.voxels, truth.voxels)
        np.testing.assert_array_equal(found.geometry.affine, truth.geometry.affine)
    packed = {name: unit for name, unit in again.items() if isinstance(unit.source, PackedSource)}
    assert len(packed) == len(again) - 1 == 5
    values = []
    for name in sorted(packed.keys() - expected.keys()):
        with on_disk(packed[name].source) as source:
            values.append(read_volume_file(source).voxels[0, 0, 1])
    assert values == [1, 2, 3]
    assert not list((tmp_path / "w").iterdir())


def test_a_detached_volume_is_unpacked_with_its_voxels(tmp_path: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    (tmp_path / "v").mkdir()
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / "v" / "volume.mhd"))
    searches = Searches(write_zip(tmp_path / "s" / "v.zip", tmp_path / "v"), tmp_path / "w")
    ((name, unit),) = searches.find()[0].items()
    assert name.startswith("volume-")
    with on_disk(unit.source) as source:
        assert read_volume_file(source).voxels[3, 2, 1] == 23


def emptied(path: Path) -> None:
    image = pydicom.dcmread(path)
    image.PixelData = bytes(len(image.PixelData))
    image.save_as(path)


def test_one_changed_member_changes_one_unit(study: Path, searched: Path, tmp_path: Path) -> None:
    path = write_zip(searched / "s.zip", study)
    searches = Searches(searched, tmp_path / "w")
    first, _ = searches.find()
    changed = study / "a" / "IM0001.dcm"
    emptied(changed)
    write_zip(path, study)
    again, _ = searches.find()
    assert again.keys() == first.keys()
    (name,) = [name for name in first if first[name].content() != again[name].content()]
    with on_disk(again[name].source) as source:
        assert not read_dicom_series(source).voxels.all(axis=(0, 1)).all()


def test_the_same_study_twice_is_worked_on_once(study: Path, searched: Path, tmp_path: Path) -> None:
    write_zip(searched / "one.zip", study / "a", "x/")
    single, _ = Searches(searched, tmp_path / "w").find()
    write_zip(searched / "two.zip", study / "a")
    searches = Searches(searched, tmp_path / "w")
    for _ in range(2):
        units, _skipped = searches.find()
        assert prints(units) == prints(single)
        (source,) = [unit.source for unit in units.values() if isinstance(unit.source, PackedSource)]
        assert any("3 files are identical copies" in warning for warning in source.source.warnings)
    # One archive goes away: nothing is lost or done anew.
    (searched / "one.zip").unlink()
    assert prints(searches.find()[0]) == prints(single)


def test_a_series_in_two_archives_and_a_folder_is_one(study: Path, searched: Path, tmp_path: Path) -> None:
    whole = prints(Searches(study / "a", tmp_path / "w").find()[0])
    for n, path in enumerate(sorted((study / "a").iterdir())):
        place = tmp_path / f"part{n}"
        place.mkdir()
        path.rename(place / path.name)
        if n < 2:
            write_zip(searched / f"{n}.zip", place)
    shutil.copytree(tmp_path / "part2", searched / "rest")
    units, _ = Searches(searched, tmp_path / "w").find()
    assert whole.items() <= prints(units).items()
    (name,) = whole
    with on_disk(units[name].source) as source:
        assert read_dicom_series(source).voxels.shape[2] == 3


def test_copies_that_differ_are_refused(study: Path, searched: Path, tmp_path: Path) -> None:
    write_zip(searched / "one.zip", study / "a")
    path = study / "a" / "IM0001.dcm"
    image = pydicom.dcmread(path)
    image.file_meta.ImplementationVersionName = "OTHER"  # another PACS wrote the same image
    image.save_as(path)
    write_zip(searched / "two.zip", study / "a")
    assert len(Searches(searched, tmp_path / "w").find()[0]) == 2
    emptied(path)
    write_zip(searched / "two.zip", study / "a")
    assert refused(searched, tmp_path).reason is ReasonCode.DUPLICATE_UID_CONFLICT


def test_a_medium_in_an_archive_tells_of_missing_files(medium: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "s" / "cd.zip", medium, "CD 1/")
    assert len(Searches(path, tmp_path / "w").find()[0]) == 2
    images_of(medium)["CT"][0].unlink()
    write_zip(path, medium, "CD 1/")
    searches = Searches(path, tmp_path / "w")
    for _ in range(2):
        units, skipped = searches.find()
        assert len(units) == 1
        assert [item.reason for item in skipped] == [ReasonCode.MISSING_FILE]


def hostile(path: Path, study: Path, *names: str, mode: int = 0, content: bytes = b"x") -> None:
    """An archive of a good series and members of such ``names`` (in any bytes that Python can write)."""
    write_zip(path, study / "a")
    with zipfile.ZipFile(path, "a") as archive:
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # as it is: ZipInfo(name) would mend it
            info.external_attr = mode << 16
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a name that stands there twice
                archive.writestr(info, content)


@pytest.mark.parametrize(
    ("names", "mode"),
    [
        *(([f"{place}escaped.dcm"], 0) for place in ("../../", "a/../../../", "..\\..\\", "/tmp/", "\\", "C:\\")),
        (["link.dcm"], stat.S_IFLNK | 0o777),
        (["fifo"], stat.S_IFIFO | 0o666),
        (["dev0"], stat.S_IFCHR | 0o666),
        (["twice.dcm", "twice.dcm"], 0),
        (["a/b.dcm", "a\\b.dcm"], 0),
    ],
)
def test_unsafe_archives_are_refused_whole(
    study: Path, searched: Path, tmp_path: Path, names: list[str], mode: int
) -> None:
    hostile(searched / "bad.zip", study, *names, mode=mode, content=b"/etc/passwd")
    before = set(tmp_path.rglob("*"))
    skipped = refused(searched, tmp_path)
    assert skipped.reason is ReasonCode.UNSAFE_ARCHIVE
    assert not any(name in skipped.message for name in names)
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "w"}
    assert not Path("/tmp/escaped.dcm").exists()


def test_encrypted_members_are_refused(study: Path, searched: Path, tmp_path: Path) -> None:
    path = write_zip(searched / "bad.zip", study / "a")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[content.index(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(content)
    assert refused(searched, tmp_path).reason is ReasonCode.ENCRYPTED_ARCHIVE


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (ReadLimits(archive_members=2), "3 members"),
        (ReadLimits(archive_bytes=1000), "unpacks to"),
        (ReadLimits(expansion=1, expansion_from_bytes=1000), "bytes of members"),
    ],
)
def test_bombs_are_refused_before_anything_is_unpacked(
    study: Path, searched: Path, tmp_path: Path, limits: ReadLimits, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(searched / "bomb.zip", study / "a")
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    units, skipped = find_sources(searched, limits, work_dir=tmp_path / "w")
    assert len(units) == 1
    assert [item.reason for item in skipped] == [ReasonCode.TOO_LARGE]
    assert word in skipped[0].message


def test_an_archive_of_zeros_is_refused_by_the_shipped_limits(searched: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(searched / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.dcm", bytes(2**26 + 1))
    assert refused(searched, tmp_path).reason is ReasonCode.TOO_LARGE


def test_a_size_that_lies_is_found_out(study: Path, searched: Path, tmp_path: Path) -> None:
    """A list of contents that says less than there is must not let more through."""
    path = write_zip(searched / "lie.zip", study / "a")
    content = bytearray(path.read_bytes())
    for at in (n for n in range(len(content)) if content[n : n + 4] == b"PK\x01\x02"):
        content[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(content)
    assert refused(searched, tmp_path).reason is ReasonCode.UNREADABLE_FILE


def test_a_long_list_of_contents_is_not_read(study: Path, searched: Path, tmp_path: Path) -> None:
    path = searched / "long.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(20_000):
            archive.writestr(f"{n:040d}", b"")
    _units, skipped = find_sources(searched, ReadLimits(archive_members=100))
    assert [item.reason for item in skipped] == [ReasonCode.TOO_LARGE]
    assert "list of contents" in skipped[0].message


@pytest.mark.parametrize("damage", ["cut", "pixels", "noise", "empty", "method"])
def test_damaged_archives_are_refused_whole(study: Path, searched: Path, tmp_path: Path, damage: str) -> None:
    path = write_zip(searched / "bad.zip", study / "a")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "pixels":
        content[len(content) // 3] ^= 0xFF
    elif damage == "method":
        content[content.index(b"PK\x01\x02") + 10] = 99
    else:
        content = bytearray(bytes(range(256)) * 8 if damage == "noise" else b"")
    path.write_bytes(content)
    searches = Searches(searched, tmp_path / "w")
    for _ in range(2):
        units, skipped = searches.find()
        assert len(units) == 1
        assert [(item.reason, item.failed, item.outcome.corrupt) for item in skipped] == [
            (ReasonCode.UNREADABLE_FILE, True, True)
        ]
        assert f"{len(content)} bytes" in skipped[0].message, "tells which archive it is"


def test_an_archive_in_an_archive_is_listed(study: Path, searched: Path, tmp_path: Path) -> None:
    inner = write_zip(tmp_path / "outer" / "inner.zip", study / "a")
    shutil.copytree(study / "b", inner.parent / "b")
    write_zip(searched / "outer.zip", inner.parent)
    skipped = refused(searched, tmp_path, 2)  # the rest of the outer one is worked on
    assert skipped.reason is ReasonCode.NESTED_ARCHIVE


def test_odd_names_are_only_names(study: Path, searched: Path, tmp_path: Path) -> None:
    names = ["M\u00fcller/\u5c71\u7530.dcm", "a\x01b|c?.dcm", "n" * 300 + ".dcm"]
    with zipfile.ZipFile(searched / "odd.zip", "w") as archive:
        for name, file in zip(names, sorted((study / "a").iterdir()), strict=True):
            archive.write(file, name)
    old = write_zip(searched / "cp437.zip", study / "b")
    old.write_bytes(old.read_bytes().replace(b"IM000", b"\x93\xfa\x96\x7b\xff"))  # some code page, not said which
    units, skipped = Searches(searched, tmp_path / "w").find()
    assert (len(units), skipped) == (3, [])
    for unit in units.values():
        with on_disk(unit.source) as source:
            assert read_dicom_series(source).voxels.shape[2] == 3


def test_names_that_are_not_in_their_code_are_damage(study: Path, searched: Path, tmp_path: Path) -> None:
    path = searched / "odd.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(study / "a" / "IM0000.dcm", "\u5c71\u7530.dcm")
    path.write_bytes(path.read_bytes().replace("\u5c71\u7530".encode(), b"\xff\xfe\x80\x81\xfd\xfc"))
    assert refused(searched, tmp_path).reason is ReasonCode.UNREADABLE_FILE


def test_hidden_members_are_passed_over(study: Path, searched: Path, tmp_path: Path) -> None:
    hostile(searched / "mac.zip", study, "__MACOSX/a/._IM0000.dcm", ".DS_Store", ".hidden/x.dcm")
    units, skipped = Searches(searched, tmp_path / "w").find()
    assert (len(units), skipped) == (2, [])


def no_room_for_members(monkeypatch: pytest.MonkeyPatch, numbers: Container[int]) -> None:
    """Let no room be left on the disk for members of these numbers, in the order of unpacking."""
    unpacked = itertools.count()
    open_file = Path.open

    def full(path: Path, mode: str = "r", *named: object) -> object:
        if mode == "xb" and next(unpacked) in numbers:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_file(path, mode, *named)

    monkeypatch.setattr(Path, "open", full)


def test_a_full_disk_fails_the_archive_and_only_for_now(
    study: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zip(searched / "a.zip", study / "a")
    write_zip(searched / "b.zip", study / "b")
    no_room_for_members(monkeypatch, (1,))
    searches = Searches(searched, tmp_path / "w")
    units, skipped = searches.find()
    assert len(units) == 2
    assert [(item.reason, item.failed) for item in skipped] == [(ReasonCode.CANNOT_WRITE, True)]
    assert "No space left" in skipped[0].message
    units, skipped = searches.find()
    assert (len(units), skipped) == (3, [])


def test_a_worker_that_cannot_unpack_leaves_nothing(
    study: Path, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_zip(searched / "a.zip", study / "a")
    units, _ = Searches(searched, tmp_path / "w").find()
    (source,) = [unit.source for unit in units.values() if isinstance(unit.source, PackedSource)]
    with monkeypatch.context() as patch:
        no_room_for_members(patch, range(100))
        with pytest.raises(OutputError, match="cannot be written: No space left"), on_disk(source):
            pytest.fail("not reached")
    assert not list((tmp_path / "w").iterdir())
    write_zip(path, study / "b")
    with pytest.raises(CorruptSourceError, match="was changed"), on_disk(source):
        pytest.fail("not reached")
    assert not list((tmp_path / "w").iterdir())


def test_a_batch_of_archives_gives_what_a_batch_of_folders_gives(study: Path, tmp_path: Path, bundle: Path) -> None:
    write_zip(tmp_path / "packed" / "s.zip", study)
    settings = WorkSettings(device="cpu", bundle=bundle, created="2026-01-31")
    results = []
    for name in ("study", "packed"):
        output = tmp_path / f"{name} out"
        left_over = output / ".work" / ".ldmsr-dead"
        left_over.mkdir(parents=True)  # of a worker that was killed
        with ThreadPoolExecutor(2) as threads, opened(output, threads, settings) as batch:
            assert not left_over.exists()
            batch.search(tmp_path / name)
            summary = batch.run()
        assert [case.status for case in summary.cases] == ["done"] * 5
        assert not (output / ".work").exists()
        results.append({path.relative_to(output): path.read_bytes() for path in output.rglob("dicom/*.dcm")})
    assert len(results[0]) == 6
    assert results[0] == results[1]


@pytest.mark.parametrize("form", ["archive", "medium"])
def test_a_run_reads_archives_and_media_too(study: Path, tmp_path: Path, bundle: Path, form: str) -> None:
    """Names and images are those of the same files in folders."""
    if form == "archive":
        source = write_zip(tmp_path / "in" / "s.zip", study)
    else:
        shutil.rmtree(study / "v")
        source = make_medium(tmp_path / "in", study)
        make_series(tmp_path / "in" / "not listed", "PT", SHAPE)
    results = []
    for place in (study, source):
        output = tmp_path / f"{place.name} out"
        (output / ".work" / ".ldmsr-dead").mkdir(parents=True)  # of a run that was killed
        summary = super_resolve(place, output, device="cpu", bundle=bundle, created="2026-01-31")
        assert not (output / ".work").exists()
        images = {path.relative_to(output): path for path in output.rglob("*") if path.suffix in (".dcm", ".gz")}
        assert {case.status for case in summary.cases} == {"done"}
        results.append({name: path.read_bytes() for name, path in images.items()})
    assert len(results[0]) == (9 if form == "archive" else 6)
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["DICOMDIR-reordered", "DICOMDIR-implicit", "DICOMDIR-bigEnd"])
def test_offsets_and_not_their_order_join_records(name: str) -> None:
    place = Path(get_testdata_file("DICOMDIR") or "")
    expected = read_dicomdir(place)
    assert (len(expected), len({series for series, _ in expected})) == (28, 10)
    assert set(read_dicomdir(place.with_name(name))) == set(expected)


def test_a_label_map_in_an_archive_is_known_by_its_folder(tmp_path: Path) -> None:
    few = (np.arange(60).reshape(5, 4, 3) > 30).astype(np.uint8)
    (tmp_path / "made" / "labelsTr").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(few, np.eye(4)), tmp_path / "made" / "labelsTr" / "scan.nii.gz")
    write_zip(tmp_path / "s" / "s.zip", tmp_path / "made")
    searches = Searches(tmp_path / "s", tmp_path / "w")
    for _ in range(2):
        [found] = searches.find()[0].values()
        with on_disk(found.source) as path, pytest.raises(SkippedSourceError) as caught:
            read_volume_file(path)
        assert caught.value.reason is ReasonCode.LABEL_MAP

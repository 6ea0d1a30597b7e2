from __future__ import annotations

import mmap
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.storage import (
    OutputLock,
    clear_left_over,
    deflated,
    left_over,
    locks,
    make_writable,
    new_array,
    partial_folder,
    replace_text,
    replaced_files,
    scratch_files,
    write_synced,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def earlier_result(place: Path) -> Path:
    (place / "result").mkdir(parents=True)
    (place / "result" / "old.txt").write_text("old")
    return place / "result"


def test_result_appears_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "result"
    with partial_folder(final) as folder:
        assert folder.parent == final.parent
        assert folder.name == ".result.part"
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text("whole")
        assert not final.exists()
    assert (final / "sub" / "a.txt").read_text() == "whole"
    assert names(final.parent) == ["result"]


def test_earlier_result_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    final = earlier_result(tmp_path)
    with partial_folder(final) as folder:
        (folder / "new.txt").write_text("new")
        assert names(final) == ["old.txt"]
    assert names(final) == ["new.txt"]
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("error", [SettingsError("no"), KeyboardInterrupt(), ValueError("no")])
def test_an_error_leaves_the_earlier_result_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    final = earlier_result(tmp_path)
    with pytest.raises(type(error)), partial_folder(final) as folder:  # noqa: PT012
        (folder / "new.txt").write_text("half")
        raise error
    assert names(tmp_path) == ["result"]
    assert (final / "old.txt").read_text() == "old"


def test_what_an_interrupted_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".result.part").mkdir()
    (tmp_path / ".result.part" / "stale.txt").write_text("stale")
    with partial_folder(tmp_path / "result") as folder:
        assert names(folder) == []
    assert names(tmp_path) == ["result"]


def test_a_run_that_died_between_the_two_moves_lost_nothing(tmp_path: Path) -> None:
    earlier_result(tmp_path).rename(tmp_path / ".result.old")
    with pytest.raises(ValueError, match="stop"), partial_folder(tmp_path / "result"):
        raise ValueError("stop")
    assert names(tmp_path / "result") == ["old.txt"]


def test_a_failed_move_brings_the_earlier_result_back(tmp_path: Path, monkeypatch) -> None:
    final, replace = earlier_result(tmp_path), os.replace

    def fail_for_the_new_one(source, target) -> None:
        if Path(source).name == ".result.part":
            raise OSError(28, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_for_the_new_one)
    with pytest.raises(OutputError, match="No space left"), partial_folder(final):
        pass
    assert names(tmp_path) == ["result"]
    assert names(final) == ["old.txt"]


def test_os_errors_become_output_errors_without_the_full_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputError, match="'result' cannot be written") as caught,
        partial_folder(tmp_path / "file" / "result"),
    ):
        pass
    assert str(tmp_path) not in str(caught.value)
    with (
        pytest.raises(OutputError, match="No such file") as caught,
        partial_folder(tmp_path / "result") as folder,
    ):
        (folder / "missing" / "a.txt").write_text("x")
    assert str(tmp_path) not in str(caught.value)
    assert names(tmp_path) == ["file"]


def test_an_os_error_about_another_file_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), partial_folder(tmp_path / "result"):
        (tmp_path / "source.dcm").read_bytes()
    assert names(tmp_path) == []


def test_everything_is_synced_before_the_move(tmp_path: Path, disk_events: list[str]) -> None:
    with partial_folder(tmp_path / "result") as folder:
        (folder / "a.txt").write_text("a")
        (folder / "b.txt").write_text("b")
    assert disk_events == ["sync", "sync", "sync", "move", "sync"]


def test_left_over_folders_are_cleared_without_a_new_result(tmp_path: Path) -> None:
    for name in (".result.part", ".result.old", "result", ".other.old", ".other.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    clear_left_over(tmp_path / "result")
    assert names(tmp_path) == [".other.old", ".other.part", "result"]
    assert names(tmp_path / "result") == ["result"]
    clear_left_over(tmp_path / "other")
    assert names(tmp_path) == ["other", "result"]
    assert names(tmp_path / "other") == [".other.old"], "the earlier result is back"


def test_a_folder_that_another_process_is_writing_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WAIT_S", 0.1)
    with partial_folder(tmp_path / "result") as folder:
        (folder / "a.txt").write_text("whole")
        # Locks are of open files: this second one is as good as another process.
        with pytest.raises(OutputError, match="another process is writing it"), partial_folder(tmp_path / "result"):
            pytest.fail("two write at once")
        with pytest.raises(OutputError, match="another process is writing it"):
            clear_left_over(tmp_path / "result")
    assert names(tmp_path / "result") == ["a.txt"]
    with partial_folder(tmp_path / "result") as folder:
        (folder / "b.txt").write_text("later")
    assert names(tmp_path / "result") == ["b.txt"]


def test_what_a_killed_process_left_is_found_by_its_names(tmp_path: Path) -> None:
    for name in (".a.part", ".b.old", ".lock", "c.part", ".d"):
        (tmp_path / name).mkdir()
    assert left_over(tmp_path) == {"a", "b"}


def test_a_text_that_cannot_take_its_place_leaves_the_earlier_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    replace_text(path, "first")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "half \ud800")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_files_take_their_places_together_once_they_are_on_disk(tmp_path: Path, disk_events: list[str]) -> None:
    finals = (tmp_path / "new" / "a.pt", tmp_path / "new" / "a.yaml")
    with replaced_files(*finals) as partials:
        for partial in partials:
            partial.write_text("whole")
            assert partial.parent == tmp_path / "new"
        assert not any(final.exists() for final in finals)
    assert names(tmp_path / "new") == ["a.pt", "a.yaml"]
    assert disk_events == ["sync", "sync", "move", "move", "sync"]


@pytest.mark.parametrize(
    "fail",
    [
        lambda path: OSError(28, "No space left on device"),
        lambda path: PermissionError(13, "Permission denied", str(path)),
    ],
    ids=["full disk", "permission"],
)
def test_a_file_that_cannot_be_written_is_an_output_error_and_leaves_nothing(tmp_path: Path, fail) -> None:
    (tmp_path / "a.pt").write_text("earlier")
    with (  # noqa: PT012
        pytest.raises(OutputError, match=r"^a\.pt cannot be written: (No space|Permission)") as caught,
        replaced_files(tmp_path / "a.pt") as (partial,),
    ):
        partial.write_text("half")
        raise fail(partial)
    assert str(tmp_path) not in str(caught.value)
    assert (tmp_path / "a.pt").read_text() == "earlier"
    assert names(tmp_path) == ["a.pt"]


def test_an_error_about_what_a_file_is_made_from_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replaced_files(tmp_path / "a.pt") as (partial,):
        partial.write_bytes((tmp_path / "source").read_bytes())
    assert names(tmp_path) == []


def test_a_synced_file_that_fails_is_removed(tmp_path: Path) -> None:
    def chunks():
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_synced(tmp_path / "a.dcm", chunks())
    write_synced(tmp_path / "b.dcm", [b"wh", b"ole"])
    assert names(tmp_path) == ["b.dcm"]
    assert (tmp_path / "b.dcm").read_bytes() == b"whole"


def test_a_folder_is_made_and_holds_files(tmp_path: Path) -> None:
    make_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"^The output folder cannot be written: "):
        make_writable(tmp_path / "file" / "b")


def test_an_output_folder_has_one_holder(tmp_path: Path) -> None:
    with OutputLock(tmp_path / "out") as lock:
        heir = os.dup(lock.fileno())  # as a worker inherits it
        with pytest.raises(OutputError, match="Another batch or service"):
            OutputLock(tmp_path / "out", wait_s=0.1)
    with pytest.raises(OutputError, match="Another batch or service"):
        OutputLock(tmp_path / "out", wait_s=0)
    os.close(heir)
    OutputLock(tmp_path / "out").close()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with pytest.raises(OutputError, match=r"Operation not supported.*file system with locks"):
        OutputLock(tmp_path / "out")
    with partial_folder(tmp_path / "result") as folder:
        (folder / "a.txt").touch()
    assert names(tmp_path / "result") == ["a.txt"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_files_are_arrays_like_others(tmp_path: Path, order: Any) -> None:
    values = np.random.default_rng(0).normal(size=(70, 60, 80)).astype(np.float32)
    with scratch_files(tmp_path / "work"):
        array = new_array(values.shape, np.float32, order)
        small = new_array((3,), np.uint8)
    assert isinstance(array.base, mmap.mmap)
    assert not isinstance(small.base, mmap.mmap), "a file for three bytes"
    assert array.flags.f_contiguous == (order == "F")
    array[...] = values
    np.testing.assert_array_equal(array, values)
    assert list((tmp_path / "work").iterdir()) == [], "the file has a name"
    assert not isinstance(new_array(values.shape, np.float32).base, mmap.mmap)


def test_arrays_lie_in_files_for_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    found = []
    with scratch_files(tmp_path):
        thread = threading.Thread(target=lambda: found.append(new_array((2**20,), np.float32).base))
        thread.start()
        thread.join()
    assert found == [None]


def test_a_disk_that_cannot_hold_an_array_is_said(tmp_path: Path) -> None:
    message = r"for volumes that memory cannot hold, cannot be written: .*(space|large)"
    with scratch_files(tmp_path), pytest.raises(OutputError, match=message):
        new_array((2**44,), np.float32)
    assert list(tmp_path.iterdir()) == []


def parts_of(content: list[bytes]) -> list[Callable[[], bytes]]:
    return [lambda part=part: part for part in content]  # type: ignore[misc]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_parts_make_one_deflate_stream_with_the_same_bytes_each_time(count: int) -> None:
    content = [np.random.default_rng(n).integers(0, 4, 70_000 + n, np.uint8).tobytes() for n in range(count)]
    stream = b"".join(deflated(parts_of(content), 1))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    assert inflater.decompress(stream) == b"".join(content)
    assert inflater.eof
    assert not inflater.unused_data
    assert len(stream) < len(b"".join(content)) / 2 or not count
    assert b"".join(deflated(parts_of(content), 1)) == stream


def test_what_a_part_raises_comes_out_and_later_parts_are_not_all_begun() -> None:
    begun = []

    def part(number: int) -> bytes:
        begun.append(number)
        if number == 2:
            raise OSError("no such slice")
        return b"slice"

    with pytest.raises(OSError, match="no such slice"):
        list(deflated((lambda n=n: part(n) for n in range(100)), 1))  # type: ignore[misc]
    assert len(begun) < 20

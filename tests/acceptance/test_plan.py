"""What --dry-run says, and what is kept to: disk, memory, threads and time."""

from __future__ import annotations

import json
import os
import re
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 (its customary name)
import torch
from batch_runs import batch, in_this_process, outcomes, resolve
from dicom_fixtures import make_series
from odd_volumes import nifti

from monai_ldmsr import super_resolve
from monai_ldmsr.batch import BatchProgress
from monai_ldmsr.cli import main
from monai_ldmsr.cli.views import BatchView, SliceView
from monai_ldmsr.errors import OutputError, SourceError
from monai_ldmsr.evaluator import RunProgress
from monai_ldmsr.io.source_size import SourceSize, source_size
from monai_ldmsr.needs import MemoryBudget, check_disk, disk_bytes, memory_bytes, scratch_bytes
from monai_ldmsr.number_settings import byte_count
from monai_ldmsr.run_summary import CaseResult
from monai_ldmsr.workflow import plan_work

__all__ = ["in_this_process"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    make_series(folder / "ct", "CT", (40, 48, 3), SeriesDescription="MARKER")
    make_series(folder / "mr", "MR", (20, 24, 4), SeriesNumber=7)
    make_series(folder / "lost", "CT", (8, 9, 3), PixelSpacing=None)
    nifti("scan.nii.gz")(folder)
    (folder / "torn.nii").write_bytes(b"\x5c\1\0\0" + bytes(100))
    return folder


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("command", ["run", "batch"])
def test_a_dry_run_lists_what_is_done_and_writes_nothing(
    source: Path,
    tmp_path: Path,
    bundle: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
    in_this_process: None,
) -> None:
    before = tree(tmp_path)
    assert resolve(source, tmp_path / "out", bundle, "--dry-run", command=command) == 8
    said = capsys.readouterr()
    assert tree(tmp_path) == before
    assert "MARKER" not in said.out + said.err
    assert re.search(r"CT +3 +48 x 40 x 3 +96 x 80 x 3 +to do +\d+ s +\d.* [GM]B", said.out)
    assert re.search(r"MR +7 +24 x 20 x 4 +48 x 40 x 4 +to do", said.out)
    assert re.search(r"failed +\w+: NO_GEOMETRY: ", said.out)
    assert re.search(r"failed +torn-\w+: UNREADABLE_FILE: ", said.out)
    assert "3 to do, 0 done already, 0 skipped, 2 failed" in said.out
    # The same cases, with the same ends.
    assert resolve(source, tmp_path / "out", bundle, command=command) == 8
    named = {line.split()[0].strip(":") for line in said.out.splitlines() if " to do " in line}
    assert named == {case for case, (status, _) in outcomes(tmp_path / "out").items() if status == "done"}


def test_a_dry_run_of_a_batch_knows_what_is_done(
    source: Path, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str], in_this_process: None
) -> None:
    assert batch(source, tmp_path / "out", bundle, "--include", "MR") == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in tree(tmp_path)}
    assert batch(source, tmp_path / "out", bundle, "--include", "MR", "--include", "scan", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "1 to do, 1 done already, 0 skipped, 0 failed, 3 not chosen" in said
    after = {path: path.stat().st_mtime_ns for path in tree(tmp_path) if path.is_file()}
    assert after == {path: time for path, time in before.items() if path in after}
    assert batch(source, tmp_path / "out", bundle, "--include", "MR", "--factor", "3", "--dry-run") == 0
    assert "1 to do, 0 done already" in capsys.readouterr().out


@pytest.mark.parametrize("make", ["dicom", "v.nii", "v.nii.gz", "v.nrrd", "v.mgz"])
def test_estimated_disk_space_is_near_what_is_taken(tmp_path: Path, bundle: Path, make: str) -> None:
    if make == "dicom":
        make_series(tmp_path / "in", "CT", (160, 200, 6))
    else:
        (tmp_path / "in").mkdir()
        image = nibabel.Nifti1Image(
            np.random.default_rng(0).integers(0, 900, (200, 160, 6)).astype(np.int16), np.eye(4)
        )
        path = tmp_path / "in" / make
        if make == "v.nrrd":
            sitk.WriteImage(sitk.GetImageFromArray(np.asarray(image.dataobj)), str(path))
        else:
            nibabel.save(image if make != "v.mgz" else nibabel.MGHImage(np.asarray(image.dataobj), np.eye(4)), path)
    given = {"bundle": bundle, "device": "cpu", "modality": "CT", "maps": "none"}  # of which this network has none
    (case,) = plan_work(tmp_path / "in", tmp_path / "out", **given).cases
    summary = super_resolve(tmp_path / "in", tmp_path / "out", **given)
    taken = sum(mark.size for mark in summary.cases[0].files.values())
    assert 0.5 * taken < case.disk_bytes < 4 * taken
    assert case.size is not None
    report = json.loads((tmp_path / "out" / summary.cases[0].case / "report.json").read_text())
    assert list(case.size.shape) == report["source"]["shape"]


def test_sizes_are_known_by_headers_alone(tmp_path: Path) -> None:
    path = nibabel_file(tmp_path / "a.nii", (5, 6, 7))
    assert source_size(path) == SourceSize((5, 6, 7), 2, is_one_file=True)
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    assert source_size(path).shape == (5, 6, 7)


def nibabel_file(path: Path, shape: tuple[int, ...]) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    return path


def test_what_needs_more_memory_is_refused_and_less_is_computed_at_once(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = SourceSize((200, 160, 6), 2), SourceSize((2000, 1600, 6), 2)
    limit = memory_bytes(small, 2, n_slices=2)
    assert MemoryBudget(limit).slices_at_once(small, 2) == 2
    assert MemoryBudget(None).slices_at_once(large, 2) is None
    make_series(tmp_path / "in" / "a", "CT", (160, 200, 6))
    make_series(tmp_path / "in" / "b", "MR", (8, 9, 3))
    assert resolve(tmp_path / "in", tmp_path / "out", bundle, "--memory", limit) == 0
    batches = [json.loads(path.read_text())["settings"]["batch_size"] for path in tmp_path.glob("out/*/report.json")]
    assert sorted(batches) == [2, 4]
    tight = MemoryBudget(limit // 2).needed(small, 2) - 1
    for more in ("--dry-run", "--names=hash"):
        assert resolve(tmp_path / "in", tmp_path / "out2", bundle, "--memory", tight, more) == 8
        assert "MEMORY_LIMIT: The series needs about" in capsys.readouterr().out
    assert sorted(outcomes(tmp_path / "out2").values()) == [("done", ""), ("failed", "MEMORY_LIMIT")]
    least = re.search(r"Give it (\w+) or more", refused_by(tight, small))
    assert least is not None
    MemoryBudget(byte_count("memory", least[1])).slices_at_once(small, 2)
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "o"), "--memory", "8X"]) == 1
    assert "memory is '8X'" in capsys.readouterr().err


def bytes_in_files() -> int:
    """Of volumes that lie in working files now."""
    areas = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if "/.work/" in line
    ]
    return sum(int(end, 16) - int(begin, 16) for begin, end in areas)


def refused_by(limit: int, size: SourceSize) -> str:
    with pytest.raises(SourceError) as refused:
        MemoryBudget(limit).slices_at_once(size, 2)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["dicom", "nii.gz"])
def test_volumes_that_memory_cannot_hold_lie_in_files_and_come_out_the_same(
    tmp_path: Path, bundle: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SourceSize((160, 200, 12), 2, is_one_file=kind != "dicom")
    if kind == "dicom":
        make_series(tmp_path / "in" / "a", "CT", (160, 200, 12), seed=3)
    else:
        voxels = np.random.default_rng(0).integers(-1000, 1000, (160, 200, 12), np.int16)
        (tmp_path / "in").mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1, 1, 3, 1])), tmp_path / "in" / "a.nii.gz")
    enough = memory_bytes(size, 2, maps="none")
    short = enough - 1
    assert MemoryBudget(short, "none").needs_files(size, 2)
    assert not MemoryBudget(enough, "none").needs_files(size, 2)
    made: list[int] = []
    held: list[int] = []
    reserve = os.posix_fallocate

    def seen(file: int, start: int, n_bytes: int) -> None:
        made.append(n_bytes)
        held.append(n_bytes + bytes_in_files())
        reserve(file, start, n_bytes)

    monkeypatch.setattr(os, "posix_fallocate", seen)
    more = ("--modality", "CT", "--maps", "none")
    assert resolve(tmp_path / "in", tmp_path / "memory", bundle, "--memory", enough, *more) == 0
    assert not made
    assert resolve(tmp_path / "in", tmp_path / "files", bundle, "--memory", short, *more) == 0
    assert 4 * 4 * size.voxels in made, "the result was in memory"
    assert scratch_bytes(size, 2, "none") / 2 < max(held) < scratch_bytes(size, 2, "none")
    results = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.suffix in (".dcm", ".gz")}
        for name in ("memory", "files")
    ]
    assert len(results[0]) == (12 if kind == "dicom" else 1)
    if kind == "dicom":
        pixels = [[pydicom.dcmread(BytesIO(one)).PixelData for _, one in sorted(found.items())] for found in results]
        assert pixels[0] == pixels[1]
    else:
        assert results[0] == results[1]
    assert not [path for path in (tmp_path / "files" / ".work").rglob("*") if path.is_file()]


def test_series_that_are_worked_on_at_once_share_the_memory() -> None:
    size = SourceSize((200, 160, 6), 2)
    budget, seen = MemoryBudget(memory_bytes(size, 2)), []
    from concurrent.futures import ThreadPoolExecutor

    def work(n: int) -> None:
        with budget.taken(size, 2):
            seen.append(("in", n))
            seen.append(("out", n))

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(9)))
    assert [word for word, _ in seen] == ["in", "out"] * 9


def test_threads_are_those_asked_for(tmp_path: Path, bundle: Path) -> None:
    before = torch.get_num_threads()
    try:
        make_series(tmp_path / "in", "CT", (8, 9, 3))
        assert resolve(tmp_path / "in", tmp_path / "out", bundle, "--threads", before + 1) == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    for wrong in ("0", "99999"):
        assert main(["run", str(tmp_path / "in"), str(tmp_path / "o"), "--threads", wrong]) == 1


def test_progress_counts_pixels_of_all_cases(source: Path, tmp_path: Path, bundle: Path) -> None:
    told: list[RunProgress] = []
    super_resolve(source, tmp_path / "out", bundle=bundle, device="cpu", progress=told.append)
    shares = [one.share for one in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    sizes = {one.case: one.share for one in told if one.done == one.n_slices}
    assert len(sizes) == 3
    n_scan = nibabel.load(source / "scan.nii.gz").dataobj[...].size
    first = min(sizes.values())
    assert first == pytest.approx(5760 / (5760 + 24 * 20 * 4 + n_scan), abs=0.03)


def test_the_time_left_is_said_for_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with SliceView() as slices:
        for n in range(1, 5):
            now[0] += 60
            slices.update(RunProgress("a", 1, 2, n, 4, n / 10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/2 a: 1 of 4 slices"
    assert lines[-1] == "1/2 a: 4 of 4 slices; about 6 min left in all"
    with BatchView() as view:
        view.update(BatchProgress(3, 0, 0.0))
        for n in (1, 2):
            now[0] += 60
            view.update(BatchProgress(3, n, n / 8, CaseResult("done", case=f"c{n}", n_slices=3)))
    assert capsys.readouterr().err.splitlines()[-1].endswith("; 60 an hour, about 6 min left in all")


def test_an_earlier_result_counts_until_its_successor_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both lie on the disk for a while."""
    size = SourceSize((100, 100, 10), 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_bytes(bytes(500_000))
    grown = disk_bytes(size, 2) - 500_000
    assert grown > 0
    for free, fits in ((grown + 500_000, True), (grown + 499_999, False)):
        monkeypatch.setattr("monai_ldmsr.needs.free_bytes", lambda _, free=free: free)
        with nullcontext() if fits else pytest.raises(OutputError, match="Nothing was begun"):
            check_disk({"a": size}, tmp_path, 2)

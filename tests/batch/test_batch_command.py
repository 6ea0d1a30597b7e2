"""``ldmsr batch`` on real series: the same results as ``ldmsr run``, and what goes wrong stays with its series."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from batch_runs import batch, in_this_process, outcomes, resolve
from batch_work import Inbox
from dicom_fixtures import make_series
from marked_patients import add_bad_sources, all_texts, marked_series, secrets_in
from small_disk import small_disk

from monai_ldmsr import noise_level
from monai_ldmsr.batch import processing
from monai_ldmsr.cli import main
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.io import derived_series
from monai_ldmsr.result_writer import ResultWriter
from monai_ldmsr.transforms import ReadSourced

__all__ = ["in_this_process"]

pytestmark = pytest.mark.usefixtures("in_this_process")


def case_of(output: Path, modality: str) -> str:
    (found,) = [name for name, report in reports_in(output).items() if report["modality"] == modality]
    return found


def reports_in(output: Path) -> dict[str, dict[str, Any]]:
    """Reports by the name of the result folder."""
    return {path.parent.name: json.loads(path.read_text()) for path in output.glob("*/report.json")}


def test_a_batch_makes_the_same_results_as_a_run(tmp_path: Path, bundle: Path) -> None:
    for modality in ("CT", "MR", "PT"):
        make_series(tmp_path / "in" / modality, modality, (16, 18, 3))
    assert resolve(tmp_path / "in", tmp_path / "run", bundle) == 0
    assert batch(tmp_path / "in", tmp_path / "batch", bundle) == 0
    images = sorted(path.relative_to(tmp_path / "run") for path in tmp_path.glob("run/*/dicom/*.dcm"))
    assert len(images) == 9
    assert images == sorted(path.relative_to(tmp_path / "batch") for path in tmp_path.glob("batch/*/dicom/*.dcm"))
    for image in images:
        assert (tmp_path / "run" / image).read_bytes() == (tmp_path / "batch" / image).read_bytes()
    reports, others = reports_in(tmp_path / "run"), reports_in(tmp_path / "batch")
    for name, report in reports.items():
        assert report.pop("duration_s").keys() == others[name].pop("duration_s").keys()
    assert reports == others


def test_reports_tell_the_noise_of_their_own_volume_though_the_network_is_at_the_next(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is estimated for each volume, and a result is written while the network computes another."""
    for rows, modality in enumerate(("CT", "MR", "PT"), start=16):
        make_series(tmp_path / "in" / modality, modality, (rows, 18, 2))
    monkeypatch.setattr(noise_level, "estimate_noise", lambda image: torch.full((len(image),), image.shape[-1] / 8))
    write, order = ResultWriter.write, threading.Barrier(3, timeout=20)

    def write_when_all_are_computed(self: ResultWriter, *args: Any) -> Any:
        order.wait()
        return write(self, *args)

    monkeypatch.setattr(ResultWriter, "write", write_when_all_are_computed)
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    found = {report["modality"]: report["settings"]["noise"] for report in reports_in(tmp_path / "out").values()}
    assert found == {"CT": 2.0, "MR": 2.125, "PT": 2.25}
    assert batch(tmp_path / "in", tmp_path / "given", bundle, "--noise", "3.5") == 0
    assert {report["settings"]["noise"] for report in reports_in(tmp_path / "given").values()} == {3.5}


def test_reading_the_next_and_writing_the_last_overlap_with_the_network(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        make_series(tmp_path / "in" / f"{n}", "CT", (16, 18, 2))
    periods: dict[str, list[tuple[float, float]]] = {"read": [], "compute": [], "write": []}

    def recorded(kind: str, owner: type, name: str, pause_s: float) -> None:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.monotonic()
            time.sleep(pause_s)
            value = original(*args, **kwargs)
            periods[kind].append((begin, time.monotonic()))
            return value

        monkeypatch.setattr(owner, name, timed)

    recorded("read", ReadSourced, "__call__", 0.1)
    recorded("compute", VolumeInferer, "__call__", 0.4)
    recorded("write", ResultWriter, "write", 0.1)
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0

    def overlaps(one: tuple[float, float], others: list[tuple[float, float]]) -> bool:
        return any(one[0] < end and begin < one[1] for begin, end in others)

    computed = sorted(periods["compute"])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(computed)), "one volume at a time"
    later = sorted(periods["read"])[3:]
    assert [overlaps(read, computed) for read in later] == [True] * 3, "the first three are at once"
    assert [overlaps(written, computed) for written in sorted(periods["write"])[:-1]] == [True] * 5


def test_a_resumed_batch_reads_no_source_and_no_network(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "in" / "a", "CT", (16, 18, 2))
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    before = outcomes(tmp_path / "out")
    with monkeypatch.context() as patch:
        for name in ("monai_ldmsr.io.dicom_header.read_dicom_file", "monai_ldmsr.workflow.open_evaluator"):
            patch.setattr(name, lambda *_, **__: pytest.fail("touched"))
        assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    assert outcomes(tmp_path / "out") == before
    assert sorted(status for status, _ in before.values()) == ["done", "skipped"]
    out = capsys.readouterr().out
    assert out.count("1 done, 1 skipped, 0 failed") == 2
    make_series(tmp_path / "in" / "b", "MR", (16, 18, 2))
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    assert "1/2" not in capsys.readouterr().err, "the first is counted as done"


def test_progress_and_status(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_series(tmp_path / "in" / name, "CT", (16, 18, 2))
    make_series(tmp_path / "in" / "c", "CT", (16, 18, 2), RescaleSlope="0")
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 8
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["1/3", "2/3", "3/3"]
    assert re.search(r"[0-9a-f]{12}: done, 2 slices in \d+\.\d s; \d+ an hour, about \d+ s left in all", captured.err)
    assert "failed, BAD_RESCALE" in captured.err
    assert "2 done, 0 skipped, 1 failed" in captured.out
    assert main(["batch", str(tmp_path / "out"), "--status"]) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["unit", "state", "reason", "attempts", "slices", "seconds", "delivery"]
    assert re.search(r"^[0-9a-f]{12} +failed +BAD_RESCALE +1", table, re.MULTILINE)
    assert table.splitlines()[-1] == "0 queued, 0 running, 2 done, 0 skipped, 1 failed"
    assert "\x1b[" not in captured.err + table


def test_exit_codes(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, junk, broken, good = (tmp_path / name for name in ("empty", "junk", "broken", "good"))
    empty.mkdir()
    junk.mkdir()
    (junk / "a.txt").write_text("text")
    cut = make_series(broken / "cut", "CT", (16, 18, 2)).paths[0]
    cut.write_bytes(cut.read_bytes()[:-100])
    make_series(good / "whole", "CT", (16, 18, 2))
    assert batch(tmp_path / "absent", tmp_path / "o1", bundle) == 2
    assert batch(empty, tmp_path / "o2", bundle) == 2
    assert batch(junk, tmp_path / "o3", bundle) == 2
    assert batch(broken, tmp_path / "o4", bundle) == 4
    assert batch(good, junk / "a.txt" / "o5", bundle) == 7
    assert batch(good, good / "o6", bundle) == 1
    assert batch(good, tmp_path / "o7", bundle, "--factor", "5") == 1
    assert "factor is '5'" in capsys.readouterr().err
    assert batch(good, tmp_path / "o7", tmp_path / "no bundle") == 1
    assert main(["batch", str(good)]) == 1
    assert main(["batch", str(good), "--status"]) == 2
    assert "no ledger" in capsys.readouterr().err
    assert batch(good, tmp_path / "o7", bundle) == 0


def test_a_source_that_vanishes_before_it_is_read_fails_alone(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doomed = make_series(tmp_path / "in" / "CT", "CT", (16, 18, 2))
    make_series(tmp_path / "in" / "MR", "MR", (16, 18, 2))
    original = processing.process_unit

    def vanish(task: Any) -> Any:
        for path in doomed.paths:
            path.unlink(missing_ok=True)
        return original(task)

    monkeypatch.setattr("monai_ldmsr.batch.work_queue.process_unit", vanish)
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 8
    done = case_of(tmp_path / "out", "MR")
    found = outcomes(tmp_path / "out")
    assert found.pop(done) == ("done", "")
    ((status, reason),) = found.values()
    assert status == "failed"
    assert reason in ("NO_SUCH_SOURCE", "UNREADABLE_FILE")


def test_a_disk_that_is_full_for_one_series(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "in" / "CT", "CT", (16, 18, 2))
    make_series(tmp_path / "in" / "MR", "MR", (16, 18, 2))
    write = derived_series.dcmwrite

    def full_for_mr(file: Any, image: Any, **options: Any) -> None:
        if image.Modality == "MR":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, image, **options)

    with monkeypatch.context() as patch:
        patch.setattr(derived_series, "dcmwrite", full_for_mr)
        assert batch(tmp_path / "in", tmp_path / "out", bundle) == 7
    assert "No space left" in capsys.readouterr().out
    assert sorted(outcomes(tmp_path / "out").values()) == [("done", ""), ("failed", "CANNOT_WRITE")]
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 7
    assert batch(tmp_path / "in", tmp_path / "out", bundle, "--retry") == 0


def test_a_disk_that_is_really_full(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three results the large one does not fit; ledger and overview still do."""
    for n, side in enumerate((16, 500, 18)):
        make_series(tmp_path / "in" / f"{n}", "CT", (side, side, 3))
    with small_disk(tmp_path / "disk", 2**20):
        for command in ("run", "batch"):
            assert resolve(tmp_path / "in", tmp_path / "disk" / command, bundle, command=command) == 7
            assert "The results need about" in capsys.readouterr().err
            assert not list((tmp_path / "disk" / command).glob("*/report.json"))
        # It fills after the batch has begun.
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))
        assert batch(tmp_path / "in", tmp_path / "disk" / "out", bundle) == 7
        assert "No space left" in capsys.readouterr().out
        found = outcomes(tmp_path / "disk" / "out")
        assert sorted(found.values()) == [("done", ""), ("done", ""), ("failed", "CANNOT_WRITE")]
        assert {path.name for path in (tmp_path / "disk" / "out").glob(".*")} <= {".lock", ".work"}
        assert not list((tmp_path / "disk" / "out").glob(".*.part"))


def test_volumes_of_a_4d_file_are_units_of_their_own(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "in").mkdir()
    voxels = np.random.default_rng(0).integers(0, 900, (8, 9, 3, 4), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "in" / "v.nii.gz")
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    results = sorted(tmp_path.glob("out/*/*_sr.nii.gz"))
    assert [re.search(r"-vol(\d+)_sr", path.name)[1] for path in results] == ["0001", "0002", "0003", "0004"]
    for n, path in enumerate(results):
        expected = voxels[..., n].repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), expected)


def test_results_are_sent_and_what_is_not_taken_is_told(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(tmp_path / "in" / "CT", "CT", (16, 18, 2))
    nibabel.save(nibabel.Nifti1Image(np.arange(256, dtype=np.int16).reshape(8, 8, 4), np.eye(4)), tmp_path / "in/v.nii")
    inbox = Inbox()
    monkeypatch.setattr("monai_ldmsr.cli.batch.deliveries_of", lambda _: [inbox])
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    assert inbox.got == [case_of(tmp_path / "out", "CT")], "there is nothing to send of a volume file"
    assert main(["batch", str(tmp_path / "out"), "--status"]) == 0
    assert "sent pacs" in capsys.readouterr().out


def test_nothing_tells_who_the_patients_are(
    tmp_path: Path, heard: Callable[[], str], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, output = tmp_path / "in" / "MARKER folder", tmp_path / "out"
    for modality in ("CT", "MR", "PT"):
        for n, path in enumerate(marked_series(source / "MARKER" / modality, modality)):
            path.rename(path.with_name(f"MARKER^NAME {n}.dcm"))
    add_bad_sources(source)
    output.mkdir()
    contents = []
    inbox = Inbox()
    inbox.before = lambda: contents.extend(path.read_bytes() for path in output.glob("ledger.sqlite*"))
    monkeypatch.setattr("monai_ldmsr.cli.batch.deliveries_of", lambda _: [inbox])
    command = ["--log-level", "debug", "batch", str(source), str(output), "--device", "cpu", "--bundle", str(bundle)]
    for more in ([], ["--retry", "--verify"]):
        main([*command, *more])
    assert main(["batch", str(output), "--status"]) == 0
    said = heard().replace(str(output), "")
    assert sum(status == "done" for status, _ in outcomes(output).values()) == 3
    assert "TRUNCATED_PIXELS" in said
    assert secrets_in(said) == []
    assert not re.search("^pydicom", said, re.MULTILINE), "its messages quote what it reads"
    contents += [path.read_bytes() for path in output.glob("ledger.sqlite*")]
    assert len(contents) >= 7, "the write-ahead log was looked at too"
    assert [secrets_in(content.decode("latin-1")) for content in contents] == [[]] * len(contents)
    assert secrets_in(all_texts(output)) == []
    texts = [path.read_text() for path in output.iterdir() if path.is_file() and path.suffix in (".csv", ".html")]
    assert secrets_in("".join(texts)) == []


def test_an_interrupt_leaves_whole_results_only(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", "c", "d"):
        make_series(tmp_path / "in" / name, "CT", (16, 18, 2))
    n = 0

    def interrupt(self: object, progress: Any) -> None:
        nonlocal n
        n += progress.result is not None
        if n == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("monai_ldmsr.cli.views.BatchView.update", interrupt)
        assert batch(tmp_path / "in", tmp_path / "out", bundle) == 130
    assert "interrupted" in capsys.readouterr().err
    assert batch(tmp_path / "in", tmp_path / "out", bundle) == 0
    assert [status for status, _ in outcomes(tmp_path / "out").values()] == ["done"] * 4
    assert os.listdir(tmp_path / "out" / ".work") == [] if (tmp_path / "out" / ".work").exists() else True

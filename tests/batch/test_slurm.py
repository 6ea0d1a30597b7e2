"""A batch by jobs of a real Slurm on loopback."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from dicom_fixtures import make_series
from pacs_fixtures import wait_until
from slurm_cluster import SlurmServer

from monai_ldmsr.batch import Batch, WorkSettings
from monai_ldmsr.batch.cluster import SlurmOptions, open_slurm
from monai_ldmsr.errors import SettingsError

pytestmark = pytest.mark.slurm

WITHIN_S = 120.0
OPTIONS = SlurmOptions.parse("jobs=1,cpus=2,memory=3GB,time=00:10:00,interface=lo")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs inherit the environment, and must find this module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def note_and_wait(folder: Path) -> int:
    (folder / f"begun-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    return int(os.environ["SLURM_JOB_ID"])


def test_a_batch_by_jobs(slurm: SlurmServer, tmp_path: Path) -> None:
    for name in ("one", "two", "cut"):
        made = make_series(tmp_path / "in" / name, "MR", (16, 18, 2))
    made.paths[0].write_bytes(made.paths[0].read_bytes()[:-100])
    output = tmp_path / "out"
    workers = open_slurm(OPTIONS, output)
    try:
        settings = WorkSettings(num_inference_steps=1, device="cpu", force=True)
        batch = Batch(output, settings, workers.executor, workers.capacity)
        batch.search(tmp_path / "in")
        summary = batch.run()
        batch.close()
        told = slurm.ask("squeue", "--noheader", "--format=%j %T %C")
    finally:
        workers.close()
    assert told.split() == ["ldmsr", "RUNNING", "2"]
    assert sorted((case.status, case.reason) for case in summary.cases) == [
        ("done", ""),
        ("done", ""),
        ("failed", "TRUNCATED_PIXELS"),
    ]
    for case in summary.cases:
        expected = 2 if case.status == "done" else 0
        assert len(list((output / case.case / "dicom").glob("*.dcm"))) == expected
    wait_until(lambda: not slurm.ask("squeue", "--noheader"), WITHIN_S)  # no job is left behind
    assert {path.suffix for path in (output / ".slurm").iterdir()} == {".err", ".out"}, "certificates are left"


def test_work_of_a_job_that_ends_is_done_by_the_next(slurm: SlurmServer, tmp_path: Path) -> None:
    workers = open_slurm(OPTIONS, tmp_path)
    try:
        future = workers.executor.submit(note_and_wait, tmp_path)
        wait_until(lambda: list(tmp_path.glob("begun-*")), WITHIN_S)
        job = slurm.ask("squeue", "--noheader", "--format=%A").strip()
        slurm.ask("scancel", "--signal=KILL", job)
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2, WITHIN_S)
        (tmp_path / "go").touch()
        assert future.result(WITHIN_S) != int(job)
    finally:
        workers.close()


def test_slurm_refuses_what_is_impossible(slurm: SlurmServer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"Slurm takes no such jobs.*partition"):
        open_slurm(SlurmOptions.parse("partition=nothing,interface=lo"), tmp_path)

"""Units on a real dask cluster of processes on loopback, whose workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path

import dask
import pacs_fixtures
import pytest
from batch_work import cheap_unit, found, opened
from dicom_fixtures import make_series
from distributed import LocalCluster
from orthanc_server import free_port

from monai_ldmsr.batch import UnitTask, Workers, WorkSettings, process_unit, work_queue
from monai_ldmsr.batch import cluster as cluster_module
from monai_ldmsr.batch.cluster import SlurmOptions, open_dask, open_slurm
from monai_ldmsr.errors import ClusterError, SettingsError, WorkerDiedError
from monai_ldmsr.io import find_dicom_series
from monai_ldmsr.run_summary import CaseResult

WAIT_S = 60

wait_until = partial(pacs_fixtures.wait_until, within_s=WAIT_S)


def local_cluster(folder: Path, **settings: object) -> LocalCluster:
    """Workers as processes that only this machine reaches."""
    return LocalCluster(
        processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", local_directory=str(folder), **settings
    )


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with local_cluster(tmp_path_factory.mktemp("dask"), n_workers=2, threads_per_worker=3) as running:
        yield running


@pytest.fixture
def workers(dask_cluster: LocalCluster, tmp_path: Path) -> Iterator[Workers]:
    """Two workers, which no test kills."""
    opened = open_dask(address_of(dask_cluster), tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def mortals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Two workers for a test that kills them."""
    folder = tmp_path_factory.mktemp("dask")
    with local_cluster(folder, n_workers=2, threads_per_worker=3) as running:
        opened = open_dask(address_of(running), folder)
        yield opened
        opened.close()


def address_of(running: LocalCluster) -> str:
    return str(running.scheduler_address).replace("tcp://", "dask://")


def note(folder: Path, name: str) -> int:
    """Leave a file that says which process began this call."""
    (folder / f"{name}-{os.getpid()}").touch()
    return os.getpid()


def slow(folder: Path, name: str) -> int:
    """End when the test says so."""
    process = note(folder, name)
    while not (folder / "go").exists():
        time.sleep(0.02)
    return process


def kill_its_worker(folder: Path) -> None:
    note(folder, "bad")
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(folder: Path, pattern: str, number: int = 1) -> list[str]:
    wait_until(lambda: len(list(folder.glob(pattern))) >= number)
    return sorted(path.name for path in folder.glob(pattern))


def test_every_thread_of_every_worker_works(workers: Workers, tmp_path: Path) -> None:
    assert workers.capacity >= 6
    futures = [workers.executor.submit(slow, tmp_path, f"unit{n}") for n in range(6)]
    begun = wait_for(tmp_path, "unit*-*", 6)
    # Six calls run at the same time, on two processes, neither of which is this one.
    processes = {int(name.split("-")[1]) for name in begun}
    assert len(processes) == 2
    assert os.getpid() not in processes
    (tmp_path / "go").touch()
    assert {future.result(WAIT_S) for future in futures} == processes


@pytest.mark.slow
def test_work_of_a_killed_worker_is_done_elsewhere(mortals: Workers, tmp_path: Path) -> None:
    future = mortals.executor.submit(slow, tmp_path, "unit")
    (first,) = wait_for(tmp_path, "unit-*")
    killed = int(first.split("-")[1])
    os.kill(killed, signal.SIGKILL)
    wait_for(tmp_path, "unit-*", 2)
    (tmp_path / "go").touch()
    assert future.result(WAIT_S) != killed


@pytest.mark.slow
def test_a_call_that_kills_its_workers_fails_once_and_the_others_are_done(mortals: Workers, tmp_path: Path) -> None:
    bad = mortals.executor.submit(kill_its_worker, tmp_path)
    with pytest.raises(WorkerDiedError):
        bad.result(WAIT_S)
    assert len(wait_for(tmp_path, "bad-*")) == 4  # dask's three retries
    assert mortals.executor.submit(note, tmp_path, "good").result(WAIT_S) > 0


def test_the_same_call_runs_again(workers: Workers, tmp_path: Path) -> None:
    for _ in range(2):
        assert workers.executor.submit(note, tmp_path, "again").result(WAIT_S) > 0
        (left,) = tmp_path.glob("again-*")
        left.unlink()  # with a result shared by equal calls, nothing would be here the second time


def test_what_waits_can_be_taken_back(workers: Workers, dask_cluster: LocalCluster, tmp_path: Path) -> None:
    running = [workers.executor.submit(slow, tmp_path, f"unit{n}") for n in range(6)]
    wait_for(tmp_path, "unit*-*", 6)
    waiting = workers.executor.submit(note, tmp_path, "waiting")
    wait_until(lambda: any(str(key).startswith("note-") for key in list(dask_cluster.scheduler.tasks)))
    assert waiting.cancel()
    with pytest.raises(CancelledError):
        waiting.result(WAIT_S)
    wait_until(lambda: not any(str(key).startswith("note-") for key in list(dask_cluster.scheduler.tasks)))
    time.sleep(0.2)  # the worker hears of it a moment after the scheduler
    (tmp_path / "go").touch()
    assert all(future.result(WAIT_S) for future in running)
    assert not list(tmp_path.glob("waiting-*"))


@pytest.mark.slow
def test_a_lost_scheduler_is_told_apart_from_a_bad_unit(tmp_path: Path) -> None:
    """The commands of docs/deployment.md, and the scheduler killed in the middle."""
    port = free_port()
    commands = (
        ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        ["worker", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--nworkers", "1", "--nthreads", "3", "--no-dashboard"],
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], env=environment, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            opened = opened_when_ready(f"dask://127.0.0.1:{port}", tmp_path)
            future = opened.executor.submit(slow, tmp_path, "unit")
            wait_for(tmp_path, "unit-*")
            started[0].kill()
            with pytest.raises(ClusterError, match="same command again"):
                future.result(WAIT_S)
            with pytest.raises(ClusterError):
                opened.executor.submit(note, tmp_path, "late")
            opened.close()
    finally:
        (tmp_path / "go").touch()
        for process in started:
            process.kill()
            process.wait()


def opened_when_ready(address: str, output: Path) -> Workers:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return open_dask(address, output)
        except SettingsError:  # the scheduler, or its worker, is not up yet
            assert time.monotonic() < end
            time.sleep(0.2)


# Units of work


def die_once_before_the_result_is_in_place(task: UnitTask) -> CaseResult:
    """Work on a unit; the first to do so is killed with a whole result in its partial folder."""
    from monai_ldmsr.storage import whole

    once = task.output_dir / "once"
    if not once.exists():
        once.touch()
        whole._swap = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return process_unit(task)


def slowly(task: UnitTask) -> CaseResult:
    """A nanny gives its worker up for good when it dies while it starts."""
    time.sleep(0.5)
    return cheap_unit(task)


def tasks_of(source: Path, output: Path) -> list[UnitTask]:
    settings = WorkSettings(num_inference_steps=1, device="cpu", force=True)
    series, _ = find_dicom_series(source)
    return [UnitTask(item.case, item, output, settings) for item in series]


@pytest.mark.slow
def test_units_are_done_though_a_worker_dies_in_the_middle(mortals: Workers, tmp_path: Path) -> None:
    for name in ("one", "two", "cut"):
        made = make_series(tmp_path / "in" / name, "MR", (16, 18, 2))
    made.paths[0].write_bytes(made.paths[0].read_bytes()[:-100])
    output = tmp_path / "out"
    output.mkdir()
    tasks = tasks_of(tmp_path / "in", output)
    futures = [mortals.executor.submit(die_once_before_the_result_is_in_place, task) for task in tasks]
    results = [future.result(WAIT_S) for future in futures]
    assert sorted(result.status for result in results) == ["done", "done", "failed"]
    (bad,) = [result for result in results if result.status == "failed"]
    assert (bad.reason, bad.corrupt) == ("TRUNCATED_PIXELS", True)
    (output / "once").unlink()
    assert {path.name for path in output.iterdir()} == {r.case for r in results if r.status == "done"}
    for result in results:
        marks = {name: mark.size for name, mark in result.files.items()}
        folder = output / result.case
        found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*.*")}
        assert marks == found
        assert len(list(folder.glob("dicom/*.dcm"))) == (0 if result is bad else 2)


@pytest.mark.slow
def test_a_batch_goes_on_though_a_unit_kills_its_workers(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):  # of a scheduler that is started now
        mortals: Workers = request.getfixturevalue("mortals")
    monkeypatch.setattr(work_queue, "process_unit", slowly)
    orders = {"good": "fine", "bad": "die", "refused": "refuse", "unlucky": "once", "last": "fine"}
    with opened(tmp_path / "out", mortals.executor) as batch:
        batch.enqueue(found(tmp_path / "in", orders))
        summary = batch.run()
        attempts = {row.unit: row.attempts for row in batch.ledger.units()}
    ends = {case.case: (case.status, case.reason) for case in summary.cases}
    done = dict.fromkeys(("good", "unlucky", "last"), ("done", ""))
    assert ends == {**done, "bad": ("failed", "WORKER_DIED"), "refused": ("failed", "NO_GEOMETRY")}
    # With whatever ran beside it, then alone; what is refused is not tried again.
    assert attempts["bad"] == 2
    assert attempts["refused"] == 1
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(done)


# What is refused before any work


def test_workers_must_see_the_output_and_have_the_same_version(
    dask_cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = address_of(dask_cluster)
    with monkeypatch.context() as context:
        context.setattr(cluster_module, "__version__", "9.9")
        with pytest.raises(SettingsError, match="Install the same everywhere"):
            open_dask(address, tmp_path)
    with monkeypatch.context() as context:  # what a machine without the shared folder would say
        context.setattr(Path, "touch", lambda self: None)
        with pytest.raises(SettingsError, match="2 of 2 workers do not see the output folder"):
            open_dask(address, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_scheduler_without_workers_is_refused(tmp_path: Path) -> None:
    started = local_cluster(tmp_path / "dask", n_workers=0)
    with started as empty, pytest.raises(SettingsError, match="has no worker"):
        open_dask(address_of(empty), tmp_path)


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:9"):
        open_dask("dask://127.0.0.1:9", tmp_path, answer_within_s=0.5)
    for wrong in ("127.0.0.1:8786", "http://host:80", "dask://host", "dask://a b:1"):
        with pytest.raises(SettingsError, match="dask://HOST:PORT"):
            open_dask(wrong, tmp_path)


@pytest.mark.parametrize(
    ("package", "opened"),
    [
        ("distributed", lambda folder: open_dask("dask://127.0.0.1:9", folder)),
        ("dask_jobqueue", lambda folder: open_slurm(SlurmOptions(), folder)),
    ],
)
def test_the_extra_is_named_when_it_is_missing(
    package: str, opened: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=rf"{package}.*pip install monai_ldmsr\[cluster\]"):
        opened(tmp_path)  # type: ignore[operator]


def test_slurm_options() -> None:
    found = SlurmOptions.parse("jobs=4,partition=gpu,gres=gpu:1,memory=16GB,time=02:00:00,cpus=8")
    assert found == SlurmOptions(4, 8, "16GB", "gpu:1", "gpu", None, "02:00:00")
    assert SlurmOptions.parse("") == SlurmOptions()
    for wrong in ("jobs=0", "jobs=x", "jobs=1,jobs=2", "queue=gpu", "memory=8 GB", "partition=a\n#SBATCH", "account="):
        with pytest.raises(SettingsError):
            SlurmOptions.parse(wrong)


def test_slurm_without_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="sbatch was not found"):
        open_slurm(SlurmOptions(), tmp_path)
    assert not list(tmp_path.iterdir())

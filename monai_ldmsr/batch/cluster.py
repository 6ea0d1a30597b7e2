"""Workers on other machines: a dask scheduler that runs already, or jobs of Slurm. Needs the extra ``cluster``.

Sources and output folder must have the same path on every machine. Each worker is one process that holds one network,
with threads to read the next unit and write the last while the network works on another.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from monai_ldmsr._version import __version__
from monai_ldmsr.batch.local_worker import N_THREADS, Workers
from monai_ldmsr.errors import ClusterError, SettingsError, WorkerDiedError
from monai_ldmsr.storage import output_errors

__all__ = ["SlurmOptions", "open_dask", "open_slurm"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Units in flight for each thread: what waits at the scheduler also feeds workers that come later.
_UNITS_PER_THREAD = 4

#: A scheduler must answer within this time.
_ANSWER_S = 15.0

_CERTIFICATES = ("key.pem", "certificate.pem")

#: A job that ended, by its time limit or a node's failure, is submitted again after this time.
_RENEW_AFTER = "10s"


@dataclass(frozen=True)
class SlurmOptions:
    """Jobs to ask Slurm for; each is one worker.

    Args:
        jobs: how many.
        cpus: CPU cores of a job, all of which the network uses where there is no GPU.
        memory: memory of a job, such as ``8GB``.
        gres: such as ``gpu:1``: one GPU a job.
        partition: where jobs run; None takes Slurm's default.
        account: who is charged.
        time: limit of a job, such as ``08:00:00``; its units go on in the job that follows.
        interface: network interface on which workers reach this machine, such as ``ib0``.
    """

    jobs: int = 1
    cpus: int = 4
    memory: str = "8GB"
    gres: str | None = None
    partition: str | None = None
    account: str | None = None
    time: str = "08:00:00"
    interface: str | None = None

    @classmethod
    def parse(cls, text: str) -> SlurmOptions:
        """Read ``jobs=4,partition=gpu,gres=gpu:1``.

        Raises:
            SettingsError: a name is unknown, given twice, or its value no such thing.

        Example:
            >>> SlurmOptions.parse("jobs=2,gres=gpu:1").gres
            'gpu:1'
        """
        names = {field.name: field.type for field in fields(cls)}
        chosen: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in names or name in chosen:
                raise SettingsError(f"'{name}' is no option of --slurm, or stands twice; they are {', '.join(names)}.")
            # They become lines of a job script, where a space or line break would begin something else.
            if not re.fullmatch(r"[\w.:@/+-]+", value):
                raise SettingsError(f"The Slurm option {name} is {value!r}; give letters, digits and .:@/+- only.")
            if names[name] == "int" and not re.fullmatch(r"[1-9]\d{0,3}", value):
                raise SettingsError(f"The Slurm option {name} is {value!r}; give a whole number, 1 or more.")
            chosen[name] = int(value) if names[name] == "int" else value
        return cls(**chosen)


def open_dask(address: str, output_dir: Path, answer_within_s: float = _ANSWER_S) -> Workers:
    """Use the workers of a dask scheduler that runs already.

    Args:
        address: ``dask://HOST:PORT``, or ``dask+tls://HOST:PORT`` with the certificates of dask's own configuration.
        output_dir: where results go; every worker must see it under this path.
        answer_within_s: how long the scheduler may take to answer.

    Returns:
        Its futures raise ``WorkerDiedError`` when the workers that tried a unit died, and ``ClusterError`` when the
        scheduler is lost.

    Raises:
        SettingsError: the extra is missing, no scheduler answers, or its workers will not do.
        OutputError: the output folder cannot be written.
    """
    url = _scheduler_url(address)
    distributed = _imported("distributed")
    with _settings_error(f"No dask scheduler answers at {url}. Start it, or check address and certificates"):
        client = distributed.Client(url, timeout=answer_within_s, set_as_default=False, name="ldmsr")
    try:
        n_threads = _checked_workers(client, output_dir)
    except BaseException:
        client.close()
        raise
    return Workers(_ClusterExecutor(client), _UNITS_PER_THREAD * n_threads, client.close)


def open_slurm(options: SlurmOptions, output_dir: Path) -> Workers:
    """Start a dask scheduler here and workers as jobs of Slurm; workers prove who they are by certificates.

    Args:
        options: what to ask for.
        output_dir: where results go; gets a folder ``.slurm`` with the jobs' logs, and certificates while they run.

    Raises:
        SettingsError: the extra is missing, or Slurm takes no such jobs.
        OutputError: the output folder cannot be written.
    """
    jobqueue, distributed = (_imported(name) for name in ("dask_jobqueue", "distributed"))
    folder = Path(os.path.abspath(output_dir)) / ".slurm"
    if shutil.which("sbatch") is None:
        raise SettingsError("The command sbatch was not found. Run this on a machine that submits jobs to Slurm.")
    with output_errors("Folder '.slurm'"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _settings_error("The scheduler for Slurm's workers cannot be started"):
        cluster = jobqueue.SLURMCluster(
            n_workers=0,
            security=_security(distributed, folder),
            # A unit that kills its worker is tried once more elsewhere, and no longer takes others with it.
            scheduler_options={"allowed_failures": 1, "dashboard": False, "dashboard_address": "127.0.0.1:0"},
            name="ldmsr",
            **_job_settings(options, folder),
        )
    try:
        client = distributed.Client(cluster, timeout=_ANSWER_S, set_as_default=False)
        _refuse_impossible(cluster.job_script())
        cluster.scale(jobs=options.jobs)
        # Dask forgets a job that ended; where the number must stay the same, it submits another in its place.
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs, interval=_RENEW_AFTER)
    except BaseException:
        cluster.close()
        raise

    def close() -> None:
        if cluster.status.name == "closed":
            return
        client.close()
        cluster.close()
        _remove_certificates(folder)

    return Workers(_ClusterExecutor(client), _UNITS_PER_THREAD * N_THREADS * options.jobs, close)


class _ClusterExecutor(Executor):
    """Dask's executor, with its errors in our words."""

    def __init__(self, client: Any) -> None:
        # Pure calls of equal arguments would share one result, so that a unit could not be done a second time.
        self._inner: Executor = client.get_executor(pure=False, retries=0)
        self._lost: BaseException | None = None

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Run ``fn`` on a worker."""
        if self._lost is not None:  # a client that is about to close takes calls that it never makes
            raise self._lost
        try:
            inner = self._inner.submit(fn, *args, **kwargs)
        except Exception as error:
            raise _in_our_words(error) from None
        outer: Future[_T] = Future()

        def pass_on(done: Future[_T]) -> None:
            if not outer.set_running_or_notify_cancel():
                return
            try:
                outer.set_result(done.result())
            except BaseException as error:
                known = _in_our_words(error)
                self._lost = known if isinstance(known, ClusterError) else None
                outer.set_exception(known)

        outer.add_done_callback(lambda ended: inner.cancel() if ended.cancelled() else None)
        inner.add_done_callback(pass_on)
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls."""
        del wait, cancel_futures  # dask cancels what has not ended
        self._inner.shutdown(wait=False)


def _in_our_words(error: BaseException) -> BaseException:
    name = type(error).__name__
    if name == "KilledWorker":
        return WorkerDiedError()
    if name == "ClosedClientError" or isinstance(error, CancelledError):
        return ClusterError(
            "The dask scheduler is lost. Results that are done stay done: run the same command again to go on."
        )
    return error


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SettingsError(
            f"Work on a cluster needs the package {name}, which is not installed: pip install monai_ldmsr[cluster]"
        ) from None


def _scheduler_url(address: str) -> str:
    found = re.fullmatch(r"dask(\+tls)?://(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})", address)
    if found is None:
        raise SettingsError(f"The scheduler is {address!r}; give dask://HOST:PORT or dask+tls://HOST:PORT.")
    return f"{'tls' if found[1] else 'tcp'}://{found[2]}:{found[3]}"


def _checked_workers(client: Any, output_dir: Path) -> int:
    """Number of the workers' threads, when all of them can do the work."""
    token = Path(os.path.abspath(output_dir)) / f".seen-{os.urandom(8).hex()}"
    with output_errors("The output folder"):
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
    try:
        answers = client.run(_probe, str(token), on_error="return")
    finally:
        token.unlink(missing_ok=True)
    if not answers:
        raise SettingsError(
            "The dask scheduler has no worker. Start one a GPU, with three threads: "
            "dask worker HOST:PORT --nworkers 1 --nthreads 3"
        )
    without = sum(isinstance(answer, BaseException) for answer in answers.values())
    versions = {answer[0] for answer in answers.values() if not isinstance(answer, BaseException)}
    if without or versions != {__version__}:
        others = ", ".join(sorted(versions - {__version__})) or "none"
        raise SettingsError(
            f"{without} of {len(answers)} workers lack monai_ldmsr, and others have version {others}; here it is "
            f"{__version__}. Install the same everywhere."
        )
    blind = sum(not sees for _, sees in answers.values())
    if blind:
        raise SettingsError(
            f"{blind} of {len(answers)} workers do not see the output folder. Sources and output must lie on a file "
            "system that every machine has under the same path."
        )
    return sum(client.nthreads().values())


def _probe(token: str) -> tuple[str, bool]:
    """What a worker has: its version, and whether it sees a file of ours."""
    return __version__, Path(token).is_file()


def _job_settings(options: SlurmOptions, folder: Path) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), options.cpus)
    return {
        "queue": options.partition,
        "account": options.account,
        "walltime": options.time,
        "job_cpu": options.cpus,
        "memory": options.memory,
        "interface": options.interface,
        "job_extra_directives": [f"--gres={options.gres}"] if options.gres else [],
        "cores": N_THREADS,
        "processes": 1,
        "job_name": "ldmsr",
        "log_directory": str(folder),
        # Dask would hold each worker to one processor.
        "job_script_prologue": [
            f"export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__{name}={n}" for name, n in threads.items()
        ],
    }


def _security(distributed: Any, folder: Path) -> Any:
    """One key and certificate for scheduler and workers, which nobody else can read."""
    made = distributed.Security.temporary()
    _remove_certificates(folder)  # of a batch that was killed
    for name, text in zip(_CERTIFICATES, (made.tls_worker_key, made.tls_ca_file), strict=True):
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    key, certificate = (str(folder / name) for name in _CERTIFICATES)
    roles = ("client", "scheduler", "worker")
    own = {f"tls_{role}_{kind}": path for role in roles for kind, path in (("key", key), ("cert", certificate))}
    return distributed.Security(require_encryption=True, tls_ca_file=certificate, **own)


def _remove_certificates(folder: Path) -> None:
    for name in _CERTIFICATES:
        (folder / name).unlink(missing_ok=True)


def _refuse_impossible(script: str) -> None:
    """Ask Slurm before the first job, since dask would only log that it refuses."""
    asked = subprocess.run(["sbatch", "--test-only"], input=script, text=True, capture_output=True, check=False)
    if asked.returncode:
        raise SettingsError(f"Slurm takes no such jobs: {asked.stderr.strip()}")


@contextmanager
def _settings_error(message: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        logging.getLogger(__name__).debug("%s: %s", message, error)
        raise SettingsError(f"{message} ({type(error).__name__}).") from error

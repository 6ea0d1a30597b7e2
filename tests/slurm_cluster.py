"""A real Slurm of one node for tests: munge, slurmctld and slurmd with all their files in one folder.

Installed by ``apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge``. The daemons listen on
all addresses, so they are started only where there is no other network than loopback (``.ci/run`` makes such a place);
tests that ask for the fixture ``slurm`` skip elsewhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

READY_WITHIN_S = 30.0

HOW_TO_RUN = (
    "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2, then as root: unshare -n "
    "sh -c 'ip link set lo up; ip addr add 127.0.0.2/8 dev lo; python -m pytest -m slurm'"
)

DAEMONS = ("munged", "slurmctld", "slurmd")

# With 127.0.0.1 alone, glibc takes the machine for one without IPv4 and resolves no address; hence 127.0.0.2 above.
_CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=100000
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def reason_to_skip() -> str | None:
    """Why Slurm cannot be started here."""
    missing = [name for name in DAEMONS if _program(name) is None]
    if missing or shutil.which("sbatch") is None:
        return f"Slurm is not installed: {HOW_TO_RUN}"
    if os.geteuid() or [name for _, name in socket.if_nameindex()] != ["lo"]:
        return f"Slurm would listen on a network: {HOW_TO_RUN}"
    return None


class SlurmServer:
    """The daemons of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start them and wait until the node takes jobs."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self._write_config()
        self._start_munge()
        self._start("slurmctld", "-D", "-f", str(self.config))
        self._start("slurmd", "-D", "-f", str(self.config))
        deadline = time.monotonic() + READY_WITHIN_S
        while "idle" not in self.ask("sinfo", "--noheader", "--format=%t"):
            if time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log")))
            time.sleep(0.2)

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout

    def stop(self) -> None:
        """End the jobs, then the daemons."""
        self.ask("scancel", "--me")
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start_munge(self) -> None:
        self.folder.chmod(0o700)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={self.folder}/munge.{name}" for option, name in places.items()]
        self._start("munged", "--foreground", "--force", *options)

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out.log").open("wb") as log:
            command = ["setpriv", "--pdeathsig", "TERM", str(_program(name)), *arguments]
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder))

    def _write_config(self) -> None:
        ports = [socket.socket() for _ in range(2)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        numbers = [port.getsockname()[1] for port in ports]
        for port in ports:
            port.close()
        self.config.write_text(
            _CONFIG.format(
                host=socket.gethostname().split(".")[0],
                folder=self.folder,
                user="root",
                controller_port=numbers[0],
                node_port=numbers[1],
            )
        )


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmServer]:
    """A running Slurm, which the commands find by ``SLURM_CONF``."""
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        server = SlurmServer(Path(folder))
        server.start()
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setenv("SLURM_CONF", str(server.config))
            try:
                yield server
            finally:
                server.stop()

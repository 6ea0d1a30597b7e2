"""Images that come in while the network works: are all of them taken, and how much slower is it?

python benchmarks/store_while_working.py [--slices 300] [--repeats 3]

Starts ``ldmsr serve`` on loopback and sends a series of 512 x 512 images by dcmtk's storescu, once to a service that
does nothing else, and once while it super-resolves another series. Prints images a second of both and their ratio.

Recorded on two cores: 300 images, all with status 0; 150 images/s idle, 80 while the network works (ratio 0.53).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from dicom_fixtures import make_series  # noqa: E402

START_WITHIN_S = 120.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300, help="images that are sent (default: 300)")
    parser.add_argument("--work-slices", type=int, default=200, help="of the series that is worked on (default: 200)")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default: 3)")
    arguments = parser.parse_args()
    if shutil.which("storescu") is None:
        sys.exit("storescu is missing: apt-get install dcmtk")
    rates: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_series(folder / "sent", "CT", (512, 512, arguments.slices), baggage=False)
        make_series(folder / "work", "MR", (256, 256, arguments.work_slices), baggage=False)
        for _ in range(arguments.repeats):
            for is_working in rates:
                rates[is_working].append(measured(folder, arguments.slices, is_working))
    idle, working = (statistics.median(rates[kind]) for kind in (False, True))
    print(f"{os.cpu_count()} CPUs; median of {arguments.repeats}; {arguments.slices} images, 512 x 512, all status 0")
    print(f"idle {idle:.1f} images/s, while the network works {working:.1f} images/s, ratio {working / idle:.2f}")


def measured(folder: Path, n_images: int, is_working: bool) -> float:
    """Images a second that a new service takes."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    with serving(output) as port:
        if is_working:
            store(folder / "work", port)
            wait_for(lambda: "running" in states(output))
            time.sleep(15)  # the network is built and computes
        n_stored, seconds = store(folder / "sent", port)
        if n_stored != n_images:
            sys.exit(f"only {n_stored} of {n_images} images were stored with status 0")
        # By name: a series that is just found whole moves meanwhile.
        n_kept = len({path.name for path in (output / "spool").rglob("*.dcm")})
        n_kept -= len(list((folder / "work").iterdir())) if is_working else 0
        if n_kept != n_images:
            sys.exit(f"only {n_kept} of {n_images} images are on disk")
        if is_working and states(output) != ["running"]:
            sys.exit("the other series was done too early: take more --work-slices")
    rate = n_images / seconds
    print(f"{'working' if is_working else 'idle':8} {seconds:6.2f} s {rate:6.1f} images/s", flush=True)
    return rate


@contextlib.contextmanager
def serving(output: Path) -> Iterator[int]:
    """A service on a free port of loopback; it is killed in the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "monai_ldmsr", "serve", str(output), "--port", str(port)]
    command += ["--address", "127.0.0.1", "--allow", "STORESCU", "--device", "cpu", "--quiet", "3"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_open(port))
            yield port
        finally:
            process.kill()


def store(folder: Path, port: int) -> tuple[int, float]:
    """Number of images that got status 0, and the seconds that it took."""
    command = ["storescu", "-v", "-aet", "STORESCU", "-aec", "LDMSR", "127.0.0.1", str(port), "+sd", str(folder)]
    # Without it each image waits for the other side's delayed acknowledgement.
    environment = {**os.environ, "TCP_NODELAY": "1"}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    return (done.stdout + done.stderr).count("Received Store Response (Success)"), seconds


def states(output: Path) -> list[str]:
    """States of all units."""
    with contextlib.closing(sqlite3.connect(output / "ledger.sqlite")) as database:
        return [state for (state,) in database.execute("SELECT state FROM units")]


def is_open(port: int) -> bool:
    """Whether something listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + START_WITHIN_S
    while not happened():
        if time.monotonic() > end:
            sys.exit("the service did not do in time what was expected")
        time.sleep(0.1)


if __name__ == "__main__":
    main()

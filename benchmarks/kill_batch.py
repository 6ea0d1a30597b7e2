"""Kill a batch at random moments, go on with it, and compare: `python benchmarks/kill_batch.py --kills 20`.

Each trial starts a batch of small series, kills it by SIGKILL at a random moment (in turn the whole process group, the
parent alone, the worker alone), checks that whatever stands in a result's place is whole, and runs the command again.
Every other trial begins with results of another seed, which are then replaced. In the end all files must be those of a
run that nobody has disturbed, but for the time that their making took.

Recorded on two cores, 12 series: 20 kills, 0 lost, 0 doubled, 0 partial.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from batch_kills import ENVIRONMENT, check_finished, check_whole, command, make_sources, snapshot, weighted_bundle

from monai_ldmsr.batch import Ledger
from monai_ldmsr.errors import OutputError

KINDS = ("process group", "parent alone", "worker alone")


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "monai_ldmsr", *arguments],
        env=ENVIRONMENT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def worker_of(parent: int) -> int | None:
    """Process of the worker, once it has been started."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def kill(process: subprocess.Popen[bytes], kind: str) -> int | None:
    """Kill, and return the exit code of a batch that goes on; None when it is dead."""
    worker = worker_of(process.pid)
    if kind == "process group":
        os.killpg(process.pid, signal.SIGKILL)
    elif kind == "parent alone":
        process.kill()
    elif worker is not None:
        os.kill(worker, signal.SIGKILL)
    code = process.wait()
    return None if code < 0 else code


def wait_for_work(process: subprocess.Popen[bytes], output: Path) -> float:
    """Seconds until the first result is being written: until torch is loaded there is little to disturb."""
    begin = time.monotonic()
    while process.poll() is None and not list(output.glob(".*.part/*")):
        time.sleep(0.002)
    return time.monotonic() - begin


def trial(place: Path, kind: str, has_earlier: bool, delay_s: float, references: list[dict[str, Any]]) -> str:
    """One kill; says what was found of it, or nothing when the batch was over before."""
    output = place / "out"
    shutil.rmtree(output, ignore_errors=True)
    if has_earlier:
        shutil.copytree(place / "seed0", output)
    arguments = command(place / "source", output, place / "ldm_sr", "--seed", 1)
    process = start(arguments)
    if delay_s > 0:
        wait_for_work(process, output)
    time.sleep(abs(delay_s))
    if process.poll() is not None:
        return ""
    code = kill(process, kind)
    assert code in (None, 0), f"a batch whose worker was killed ended with {code}"
    left = [path.name for path in output.glob(".*") if path.name.endswith((".part", ".old"))]
    n_states = len(left), n_done(output) if output.is_dir() else 0
    if code is None and output.is_dir():
        check_whole(output, *references)
    begin = time.monotonic()
    assert start(arguments).wait() == 0
    check_finished(output, references[1], 3)
    found = f"{n_states[1]} done, {n_states[0]} half-made folders" if code is None else "went on by itself"
    what = f"{kind}, {'over earlier results, ' if has_earlier else ''}{abs(delay_s):.2f} s"
    return f"{what} {'after the first write' if delay_s > 0 else 'after the start'}: {found}; gone on in " + (
        f"{time.monotonic() - begin:.1f} s"
    )


def n_done(output: Path) -> int:
    """Units that the ledger calls done with the new seed."""
    try:
        ledger = Ledger(output, for_reading=True)
    except OutputError:
        return 0
    rows = [row for row in ledger.units() if row.status == "done"]
    ledger.close()
    return sum(json.loads((output / row.unit / "report.json").read_text())["seed"] == 1 for row in rows)


def main() -> None:
    """Run all trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        weighted_bundle(place)
        make_sources(place / "source", options.series, options.slices)
        references, working_s = [], 0.0
        for seed in (0, 1):
            process = start(command(place / "source", place / f"seed{seed}", place / "ldm_sr", "--seed", seed))
            loading_s, begin = wait_for_work(process, place / f"seed{seed}"), time.monotonic()
            assert process.wait() == 0
            working_s = time.monotonic() - begin
            print(f"undisturbed: {loading_s:.1f} s until the first write, then {working_s:.1f} s", flush=True)
            references.append(snapshot(place / f"seed{seed}"))
        n = 0
        while n < options.kills:
            # One in five at any moment before there is work, the others while it is done.
            delay_s = -draw.uniform(0, loading_s) if n % 5 == 4 else draw.uniform(0, working_s)
            said = trial(place, KINDS[n % 3], n % 2 == 1, delay_s, references)
            n += bool(said)
            print(f"{n}: {said}" if said else "over before", flush=True)
    print(f"{options.kills} kills: 0 lost, 0 doubled, 0 partial")


if __name__ == "__main__":
    main()

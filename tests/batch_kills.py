"""A batch of small series that is killed on purpose, and what must be true of its output afterwards.

As a program, this is a process that has loaded torch once and runs the command in a copy of itself for each line that
it reads, so that many runs that end by a kill cost little.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dicom_fixtures import make_series
from monai.bundle import ConfigParser

from monai_ldmsr.batch import Ledger, Workers
from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.cli import main
from monai_ldmsr.io.written_files import verified_files
from monai_ldmsr.networks import save_weights

#: All results say that they were made at one time.
ENVIRONMENT = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "OMP_NUM_THREADS": "1"}

#: What the overview says of a unit, whenever and however often it was done.
TIMELESS = ("case", "status", "reason", "message", "series_uid", "n_slices", "report", "dicom")

#: Where a run is killed: what is called, which of its calls count, and whether it is done first.
MOMENTS: dict[str, tuple[str, Callable[..., bool], bool]] = {
    "while units are queued": ("batch.ledger.Ledger.queue", lambda *_: True, True),
    "while images are written": ("io.derived_series.dcmwrite", lambda *_, **__: True, True),
    "before the result is verified": ("result_writer.verified_files", lambda *_: True, False),
    "when the earlier result is aside": ("storage.whole.os.replace", lambda _, to: str(to).endswith(".old"), True),
    "when the result is in place": ("storage.whole.os.replace", lambda a, _: str(a).endswith(".part"), True),
    "between the move and the mark": ("batch.ledger.Ledger.finish", lambda *_: True, False),
    "within the mark": ("batch.ledger.Ledger.mark_outputs", lambda *_: True, False),
    "when the mark is made": ("batch.ledger.Ledger.finish", lambda *_: True, True),
}


def weighted_bundle(parent: Path) -> Path:
    """The shipped configs with networks of the least width, and weights that no training has touched."""
    folder = parent / "ldm_sr"
    shutil.copytree(find_bundle("ldm_sr") / "configs", folder / "configs")
    config, metadata = (folder / "configs" / name for name in ("inference.yaml", "metadata.json"))
    narrow = {"denoiser_channels": [32, 32, 32, 32], "denoiser_blocks": [1, 1, 1, 1]}
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | narrow, sort_keys=False))
    parser = ConfigParser(ConfigParser.load_config_file(config))
    torch.manual_seed(0)
    said = json.loads(metadata.read_text())
    said["weights_sha256"] = save_weights(parser.get_parsed_content("generator"), folder / "models" / "model.pt")
    metadata.write_text(json.dumps(said))
    return folder


def make_sources(folder: Path, n_series: int, n_slices: int = 3) -> None:
    """Series of three modalities in folders of their own."""
    for n in range(n_series):
        make_series(folder / f"series{n:02}", ("CT", "MR", "PT")[n % 3], (16, 18, n_slices), seed=n)


def command(source: Path, output: Path, bundle: Path, *more: object) -> list[str]:
    """Arguments of the cheapest batch."""
    return [str(part) for part in ("batch", source, output, "--device", "cpu", "--steps", 1, "--bundle", bundle, *more)]


def snapshot(output: Path) -> dict[str, Any]:
    """All files of the results as they are, but for the time that their making took; and what lies beside them."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if not path.is_file() or name.startswith(("ledger.sqlite", ".lock")):
            continue
        content: Any = path.read_bytes()
        if path.name == "report.json":
            content = {key: value for key, value in json.loads(content).items() if key != "duration_s"}
        elif path.name == "report.html":
            content = re.sub(rb"\d+(\.\d+)? ?m?s\b|\d+\.\d+", b"", content)
        elif path.name == "summary.json":
            content = [[row[key] for key in TIMELESS] for row in json.loads(content)["series"]]
        elif path.name == "summary.csv":
            content = [[row[key] for key in TIMELESS] for row in csv.DictReader(content.decode().splitlines())]
        elif path.name == "index.html":
            content = sorted(re.findall(rb'href="[^"#]*"', content))
        found[name] = content
    return found


def check_whole(output: Path, *references: dict[str, Any]) -> None:
    """Whatever stands in a result's place is whole, and is one of the results that there are."""
    for folder in (path for path in output.iterdir() if path.is_dir() and not path.name.startswith(".")):
        verified_files(folder)
        images = {f"{folder.name}/dicom/{path.name}": path.read_bytes() for path in (folder / "dicom").iterdir()}
        of_it = [
            {name: content for name, content in reference.items() if name.startswith(f"{folder.name}/dicom/")}
            for reference in references
        ]
        assert images in of_it


def check_finished(output: Path, reference: dict[str, Any], n_redone: int) -> None:
    """The output is that of a run that nobody has disturbed, and the ledger says so."""
    assert snapshot(output) == reference
    assert {path.name for path in output.glob(".*")} <= {".lock", ".work"}
    ledger = Ledger(output, for_reading=True)
    rows = ledger.units()
    assert [row.unit for row in rows] == sorted({name.split("/")[0] for name in reference if "/" in name})
    assert {row.status for row in rows} == {"done"}
    for row in rows:
        assert ledger.outputs(row.unit) == verified_files(output / row.unit)
    assert sum(row.attempts for row in rows) <= len(rows) + n_redone
    ledger.close()


def kill_at(patch: pytest.MonkeyPatch, moment: str, count: int) -> None:
    """End this process, as the system does it, at that moment of the unit of that number."""
    place, counts, is_done_first = MOMENTS[moment]
    target, name = f"monai_ldmsr.{place}".rsplit(".", 1)
    owner: Any = Ledger if target.endswith(".Ledger") else os if target.endswith(".os") else import_module(target)
    original = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += counts(*args, **kwargs)
        is_time = counts(*args, **kwargs) and calls == count
        if is_time and not is_done_first:
            os.kill(os.getpid(), signal.SIGKILL)
        value = original(*args, **kwargs)
        if is_time:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    patch.setattr(owner, name, deadly)


class Mortal:
    """A process from which copies are made that run the command and may be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )

    def run(self, arguments: list[str], moment: str = "", count: int = 1) -> int:
        """Exit code of the command, or -9."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([arguments, moment, count]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


def _serve() -> None:
    import monai_ldmsr.batch.processing
    import monai_ldmsr.workflow  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run_and_end(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_and_end(arguments: list[str], moment: str, count: int) -> None:
    os.dup2(2, 1)
    patch = pytest.MonkeyPatch()
    # Parent and worker in one, so that a kill takes both at the same moment.
    threads = ThreadPoolExecutor(3)
    patch.setattr("monai_ldmsr.batch.open_local", lambda lock: Workers(threads, 3, lambda: None))
    if moment:
        kill_at(patch, moment, count)
    code = 99
    try:
        code = main(arguments)
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()

"""Every file that pydicom tests itself with, through ``ldmsr run``: none stops a run or is taken for what it is not."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pydicom
import pytest
from odd_run import check_output, check_result, run
from places import TESTS

TABLE = TESTS / "foreign_files.csv"


def folder_of(package: str, *below: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent.joinpath(*below)


FOLDERS = {"pydicom": folder_of("pydicom", "data", "test_files"), "pydicom-data": folder_of("data_store", "data")}

with TABLE.open(encoding="utf-8", newline="") as _stream:
    ROWS = [tuple(row) for row in csv.reader(_stream)][1:]


def found(package: str) -> Path:
    folder = FOLDERS[package]
    if folder is None or not folder.is_dir():
        pytest.skip(f"{package} is not installed")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_of_everything(package: str, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = found(package)
    _, cases = run(source, tmp_path / "out", bundle, time_limit_s=60)
    check_output(tmp_path / "out", cases)
    assert "Traceback" not in "".join(capfd.readouterr())
    for case in cases:
        if case["status"] == "done":
            check_result(tmp_path / "out" / case["case"], source)


@pytest.mark.slow
@pytest.mark.parametrize(("package", "name", "status", "reason"), ROWS)
def test_each_file_alone(
    package: str, name: str, status: str, reason: str, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = found(package) / name
    if not source.is_file():
        pytest.skip("not in this version")
    # Where the first file is one of four million voxels, what Python loads comes on top of these.
    code, cases = run(source, tmp_path / "out", bundle, memory_limit_mb=800)
    check_output(tmp_path / "out", cases)
    assert "Traceback" not in "".join(capfd.readouterr())
    if status == "medium":  # a DICOMDIR stands for the images that it lists
        assert len(cases) > 1
        return
    [case] = cases
    assert (case["status"], case["reason"]) == (status, reason)
    assert code == (0 if status == "done" else 4 if case["reason"] in CORRUPT else 2)
    if status == "done":
        check_result(tmp_path / "out" / case["case"], source)


CORRUPT = {"UNREADABLE_FILE", "TRUNCATED_PIXELS", "UNDECODABLE_PIXELS", "NOT_FINITE"}


def test_no_new_file_lacks_a_row() -> None:
    """Pydicom 3.0 and pydicom-data 1.0; a later one may bring more."""
    if not pydicom.__version__.startswith("3.0."):
        pytest.skip("the table is of pydicom 3.0")
    for package, folder in FOLDERS.items():
        if folder is not None and folder.is_dir():
            names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_data(path)}
            assert names == {name for of, name, *_ in ROWS if of == package}


def is_data(path: Path) -> bool:
    return path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith(".")

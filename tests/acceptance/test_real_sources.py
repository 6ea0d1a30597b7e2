"""Every real series through ``ldmsr run``: its place, values and conformance, by validators and three readers."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_conformance import check_by_readers, check_conformance
from odd_run import check_output, check_result, run
from places import SAMPLES, SHARED_DATA

#: Further series that are too large to ship, beside the repository; enhanced multi-frame has tests of its own.
FURTHER = [path for path in sorted(SHARED_DATA.glob("dicom/*")) if "multiframe" not in path.name]


def check(source: Path, output: Path, bundle: Path) -> None:
    code, cases = run(source, output, bundle, time_limit_s=200)
    assert (code, {case["status"] for case in cases}) == (0, {"done"})
    check_output(output, cases)
    n_slices = 0
    for folder in (output / case["case"] for case in cases):
        n_slices += check_result(folder, source)
        check_conformance(folder, source)
        check_by_readers(folder, source)
    assert n_slices == len([path for path in source.iterdir() if not path.name.startswith(".")])


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted((SAMPLES / "dicom").iterdir()), ids=lambda path: path.name)
def test_sample(source: Path, tmp_path: Path, bundle: Path) -> None:
    check(source, tmp_path / "out", bundle)


@pytest.mark.slow
@pytest.mark.skipif(not FURTHER, reason="no further series beside the repository")
@pytest.mark.parametrize("source", FURTHER, ids=lambda path: path.name)
def test_further_series(source: Path, tmp_path: Path, bundle: Path) -> None:
    check(source, tmp_path / "out", bundle)

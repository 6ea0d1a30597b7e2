"""Every row of the table of odd input through ``ldmsr run``: the status, the reason, and nothing wrong in silence.

See :mod:`odd_run` for how a run is made cheap, and its result checked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from odd_conformance import check_by_readers, check_conformance
from odd_dicom import CHARACTER_SETS, DICOM_ROWS
from odd_inputs import OddInput
from odd_names import NAME_ROWS
from odd_run import check_output, check_result, run
from odd_series import SERIES_ROWS
from odd_volume_headers import VOLUME_HEADER_ROWS
from odd_volume_kinds import VOLUME_KIND_ROWS
from odd_volumes import VOLUME_ROWS, four_volumes, nifti, values

ROWS = (*DICOM_ROWS, *SERIES_ROWS, *VOLUME_ROWS, *VOLUME_KIND_ROWS, *VOLUME_HEADER_ROWS, *NAME_ROWS)

#: Rows that all three independent readers read rightly.
REGULAR = {f"{m} {what}" for m in ("CT", "MR", "PT") for what in ("clean", "big endian", *CHARACTER_SETS)}


def parameters() -> Iterator[Any]:
    """The rows as parameters. There are hundreds: the third and later ones that end alike are slow, and so is what is
    asked of CT too.
    """
    names, ends = {row.name for row in ROWS}, Counter[tuple[object, ...]]()
    for row in ROWS:
        kind, _, what = row.name.partition(" ")
        is_again = kind in ("MR", "PT") and f"CT {what}" in names
        end = (kind, row.exit_code, row.reasons, row.done, row.warning)
        ends[end] += not is_again
        marks = [pytest.mark.slow] if is_again or ends[end] > 2 else []
        yield pytest.param(row, id=row.name.replace(" ", "_"), marks=marks)


@pytest.mark.parametrize("row", list(parameters()))
def test_odd_input(row: OddInput, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    row.make(source)
    code, cases = run(source, output, bundle)
    done = [output / case["case"] for case in cases if case["status"] == "done"]
    reasons = sorted(case["reason"] for case in cases if case["status"] != "done")
    assert (code, tuple(reasons)) == (row.exit_code, row.reasons), cases
    assert tuple(sorted(check_result(folder, source) for folder in done)) == row.done
    check_output(output, cases)
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    for reason in row.reasons:
        assert reason in said
    for folder in done:
        if (folder / "dicom").is_dir():
            check_conformance(folder, source)
            if row.name in REGULAR:
                check_by_readers(folder, source)
        report = json.loads((folder / "report.json").read_text())
        # Repeated pixels, which the bundle's network makes, are a regular pattern.
        warnings = [warning for warning in report["warnings"] if not warning.startswith("In flat tissue the result")]
        if report["modality"] == "unknown":
            warnings = without_modality(warnings)
        assert any(row.warning in warning for warning in warnings) if row.warning else warnings == []


def without_modality(warnings: list[str]) -> list[str]:
    """The warnings but the one that each volume of no known modality has."""
    (unknown,) = [warning for warning in warnings if "--modality" in warning]
    return [warning for warning in warnings if warning != unknown or "given as" in warning]


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_volumes_of_equally_named_files_keep_names_of_their_own(tmp_path: Path, bundle: Path) -> None:
    """A file that is named as another one's volume, and two 4D files of one name in capitals and small letters."""
    folder, volumes, output = tmp_path / "in", four_volumes(), tmp_path / "out"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    nifti("Bold.nii.gz", volumes[..., :2])(folder / "a")
    nifti("bold-vol0002.nii", values() * 5)(folder / "a")
    nifti("BOLD.nii", volumes[..., 3:0:-1])(folder / "b")
    code, cases = run(folder, output, bundle)
    without_digits = {case["case"]: re.sub(r"-[0-9a-f]{12}", "", case["case"]) for case in cases}
    made = {without_digits[case["case"]]: volume_in(output / case["case"]) for case in cases}
    expected = {f"Bold-vol000{n + 1}": volumes[..., n] for n in range(2)}
    expected |= {"bold-vol0002": values() * 5} | {f"BOLD-vol000{n + 1}": volumes[..., 3 - n] for n in range(3)}
    assert len({name.lower() for name in without_digits}) == len(cases)
    assert (code, sorted(made)) == (0, sorted(expected))
    for name, source in expected.items():
        np.testing.assert_array_equal(made[name], source.repeat(2, axis=0).repeat(2, axis=1), name)
    check_output(output, cases)


def volume_in(folder: Path) -> np.ndarray:
    (path,) = folder.glob("*_sr.nii*")
    assert path.name.startswith(f"{folder.name}_sr.")
    return np.asarray(nibabel.load(path).dataobj)


def test_a_result_is_not_super_resolved_again(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "in").mkdir()
    next(row for row in ROWS if row.name == "PT clean").make(tmp_path / "in")
    _, [case] = run(tmp_path / "in", tmp_path / "once", bundle)
    code, cases = run(tmp_path / "once" / case["case"] / "dicom", tmp_path / "twice", bundle)
    assert (code, [case["reason"] for case in cases]) == (2, ["OWN_RESULT"])

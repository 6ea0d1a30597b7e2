"""The notebook of the documentation: stripped as it lies, and run from beginning to end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from places import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
#: A line of the cell that reads the series.
READ = 'series = read_dicom_series(SAMPLES / "dicom" / "mr_t1_sagittal")'
REPORT = ROOT / "docs" / "notebooks" / "from_dicom_to_report.ipynb"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_holds_no_output(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells] == [str(n) for n in range(len(notebook.cells))], (
        "as nbstripout has them"
    )
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_has_no_absolute_path_and_says_what_it_is_for(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells)
    assert not re.search(r"[\"'(]/(home|root|work|tmp|Users|data)\b", text)
    assert "for research only, not for diagnosis" in text


def cell_with(notebook: Any, text: str) -> Any:
    """The one cell of code that has such a line."""
    (found,) = [cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source]
    return found


def printed(notebook: Any, text: str) -> str:
    """What such a cell printed."""
    return "".join(output.text for output in cell_with(notebook, text).outputs if output.get("name") == "stdout")


@pytest.mark.slow
@pytest.mark.parametrize("where", [".", "docs/notebooks"])
def test_it_runs_and_leaves_nothing(where: str, tmp_path: Path) -> None:
    """From the root of the repository in full; where the site runs it, the cells up to the source."""
    from nbclient import NotebookClient

    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    folder = tmp_path / where
    folder.mkdir(parents=True, exist_ok=True)
    notebook = read(REPORT)
    if where != ".":
        notebook.cells = notebook.cells[: notebook.cells.index(cell_with(notebook, READ)) + 1]
    before = sorted(tmp_path.rglob("*"))
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    assert sorted(tmp_path.rglob("*")) == before
    assert "MR with voxels (I, J, K) (274, 384, 16)" in printed(notebook, READ)
    if where != ".":
        return
    assert "maps/error.dcm" in printed(notebook, "super_resolve(source")
    table = printed(notebook, "report.json")
    assert all(re.search(rf"^{row} +\d+\.\d +-?\d+\.\d$", table, re.M) for row in ("source", "bicubic", "result"))
    assert "For research only, not for diagnosis." in table
    assert printed(notebook, "error.dcm").startswith("Half width of the interval")
    shares = [int(share) for share in re.findall(r"(\d+)% of the voxels", printed(notebook, "for tolerance in"))]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1]
    found = re.findall(r"^(\w+) +(\d+\.\d\d) ", printed(notebook, "PSNRMetric(max_val"), re.M)
    psnr = {row: float(value) for row, value in found}
    assert psnr["mean"] > max(psnr["sample"], psnr["bicubic"])
    pictures = [
        cell for cell in notebook.cells if any("image/png" in one.get("data", {}) for one in cell.get("outputs", []))
    ]
    assert len(pictures) == 4

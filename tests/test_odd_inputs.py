"""Every row of the table of odd input through ``ldmsr run``: the status, the reason, and nothing wrong in silence.

A nearest neighbour stands in for the network, so each result must hold its source's values block by block; the
results are read by SimpleITK and nibabel, the sources by pydicom and nibabel.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from odd_inputs import DICOM_ROWS, OddInput
from odd_volumes import VOLUME_ROWS
from torch import Tensor

from monai_ldmsr.cli import main
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.networks.super_resolver import SuperResolver

#: A run takes a fraction of these; the limits catch a reader that believes a hostile header.
TIME_LIMIT_S, MEMORY_LIMIT_MB = 20, 400

ROWS = (*DICOM_ROWS, *VOLUME_ROWS)


@pytest.fixture(autouse=True)
def _nearest_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeat(self: SuperResolver, image: Tensor) -> Tensor:
        return image.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    monkeypatch.setattr(SuperResolver, "forward", repeat)
    monkeypatch.setattr("monai_ldmsr.networks.load_weights", lambda network, path, sha256: sha256)


def run(source: Path, output: Path) -> tuple[int, list[dict[str, str]]]:
    """Exit code and entries of the summary, within the limits of time and memory."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = main(["run", str(source), str(output), "--device", "cpu"])
    assert time.monotonic() - start < TIME_LIMIT_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_LIMIT_MB * 1024
    return code, json.loads((output / "summary.json").read_text())["series"]


def check_output(output: Path, cases: list[dict[str, str]]) -> None:
    """The output holds the whole results and nothing else."""
    done = {case["case"] for case in cases if case["status"] == "done"}
    assert {path.name for path in output.iterdir()} == {"summary.json", *done}
    assert not list(output.rglob(".*")), "something half-written is left"
    for name in done:
        assert {"report.json", "report.html"} < {path.name for path in (output / name).iterdir()}
    for case in cases:
        assert case["reason"] in ({""} if case["status"] == "done" else {code.value for code in ReasonCode})
        assert case["reason"] != "INTERNAL_ERROR", case["message"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_odd_input(row: OddInput, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    row.make(source)
    code, cases = run(source, output)
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
        warnings = json.loads((folder / "report.json").read_text())["warnings"]
        assert any(row.warning in warning for warning in warnings) if row.warning else warnings == []


def check_result(folder: Path, source: Path) -> int:
    """Compare each slice of a result with its source; returns the number of slices."""
    images = sorted(folder.glob("dicom/*.dcm"))
    if not images:
        (result,) = folder.glob("*_sr.*")
        return check_volume(result, next(path for path in source.iterdir() if path.suffix != ".raw"))
    sources = {}
    for path in source.rglob("*.dcm"):
        if path.stat().st_size:
            image = pydicom.dcmread(path, force=True)
            sources[image.get("SOPInstanceUID")] = image
    for path in images:
        (reference,) = pydicom.dcmread(path).SourceImageSequence
        check_image(path, sources[reference.ReferencedSOPInstanceUID])
    return len(images)


def check_image(path: Path, source: pydicom.Dataset) -> None:
    """Outer corner, spacing, direction and values of one image, as SimpleITK sees it."""
    found = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(found)[0].astype(float)
    step = float(source.get("RescaleSlope", 1)), float(source.get("RescaleIntercept", 0))
    if source.PhotometricInterpretation == "MONOCHROME1":  # ITK inverts it
        values = pydicom.dcmread(path).pixel_array.astype(float)
    expected = source.pixel_array.astype(float) * step[0] + step[1]
    expected = expected.repeat(2, axis=0).repeat(2, axis=1)
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= 0.51 * abs(step[0]) + 1e-6 * np.abs(expected).max()
    row_mm, column_mm = (float(value) for value in source.PixelSpacing)
    cosines = np.array(source.ImageOrientationPatient, float)
    corner = np.array(source.ImagePositionPatient, float) - (cosines[:3] * column_mm + cosines[3:] * row_mm) / 2
    assert found.GetSpacing()[:2] == pytest.approx((column_mm / 2, row_mm / 2), rel=1e-6)
    assert found.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)) == pytest.approx(tuple(corner), abs=1e-3)
    direction = np.array(found.GetDirection()).reshape(3, 3)[:, :2].T.ravel()
    assert direction == pytest.approx(cosines, abs=2e-3)


def check_volume(result: Path, source: Path) -> int:
    """Outer corners and values of a volume file, by another reader than the one that wrote it where there is one."""
    if result.name.endswith((".nii", ".nii.gz")):
        original = nibabel.load(source)
        affine, voxels = original.affine, np.asarray(original.dataobj, float).reshape(original.shape[:3])
        image = nibabel.load(result)
        got_affine, got = image.affine, np.asarray(image.dataobj, float)
        itk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(result))) if is_orthogonal(affine) else got.T
        np.testing.assert_allclose(itk.T, got, rtol=1e-6)
    else:
        (affine, voxels), (got_affine, got) = (read_itk(path) for path in (source, result))
    np.testing.assert_allclose(got, voxels.repeat(2, axis=0).repeat(2, axis=1), atol=0.51, rtol=1e-6)
    np.testing.assert_allclose(got_affine[:3, :3], affine[:3, :3] @ np.diag([0.5, 0.5, 1]), atol=1e-5)
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose(got_affine @ corner, affine @ corner, atol=1e-3)
    return int(got.shape[2])


def is_orthogonal(affine: np.ndarray) -> bool:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(directions.T @ directions, np.eye(3), atol=1e-3))


def read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine, SimpleITK.GetArrayFromImage(image).T.astype(float)


def test_names_of_rows_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_result_is_not_super_resolved_again(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    next(row for row in ROWS if row.name == "PT clean").make(tmp_path / "in")
    _, [case] = run(tmp_path / "in", tmp_path / "once")
    code, cases = run(tmp_path / "once" / case["case"] / "dicom", tmp_path / "twice")
    assert (code, [case["reason"] for case in cases]) == (2, ["OWN_RESULT"])

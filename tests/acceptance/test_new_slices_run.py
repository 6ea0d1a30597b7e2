"""New slices along the stack, the whole way with the shipped weights, by every way in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK
from dicom_fixtures import make_series
from places import ROOT

from monai_ldmsr import super_resolve, super_resolve_image
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.run_summary import RunSummary
from monai_ldmsr.settings import WorkSettings

FAST: dict[str, Any] = {"device": "cpu", "force": True}  # made images are none that it was trained on
SPACING_MM = (0.9, 0.8, 4.0)
SHAPE = (20, 16, 6)


def made_volume() -> npt.NDArray[np.int16]:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    inside = ((x - 10) / 8) ** 2 + ((y - 8) / 6) ** 2 + ((z - 2.5) / 3.2) ** 2 < 1
    return (40 + 600 * inside + 30 * np.sin(x) * inside).astype(np.int16)


def saved(path: Path, thickness_mm: float | None = None, affine: npt.NDArray[Any] | None = None) -> Path:
    place = np.diag([*SPACING_MM, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(made_volume(), place), path)
    said = {"Modality": "MR"} | ({} if thickness_mm is None else {"SliceThickness": thickness_mm})
    path.with_name("volume.json").write_text(json.dumps(said))
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunSummary]:
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("output")
    saved(source / "volume.nii.gz", thickness_mm=3.0)
    make_series(source / "ct", "CT", (16, 20, 5), spacing_mm=(0.8, 0.9, 5.0), SliceThickness=5.0)
    options = {"maps": "all", "tolerance": 50.0, "structured_report": True}
    return source, output, super_resolve(source, output, slice_spacing=1.0, names="hash", **options, **FAST)


def case_of(output: Path, ending: str) -> Path:
    return next(path.parent for path in output.rglob(ending))


def test_volume_file_has_new_slices_between_its_outer_faces(done: tuple[Path, Path, RunSummary]) -> None:
    _, output, summary = done
    assert [case.status for case in summary.cases] == ["done", "done"]
    folder = case_of(output, "*_sr.nii.gz")
    image = nibabel.load(next(folder.glob("*_sr.nii.gz")))
    assert image.shape == (20, 16, 23)  # 5 distances of 4 mm, and a thickness of 3
    assert image.header.get_zooms() == pytest.approx((0.9, 0.8, 1.0))
    lowest = nibabel.affines.apply_affine(image.affine, [-0.5, -0.5, -0.5])
    assert lowest == pytest.approx([-0.45, -0.4, -1.5])
    for kind in ("error", "trusted"):
        assert nibabel.load(next(folder.glob(f"*_{kind}.nii.gz"))).shape == image.shape
    assert nibabel.load(next(folder.glob("*_contradiction.nii.gz"))).shape == SHAPE


def test_acquired_slices_are_given_back_within_rounding(done: tuple[Path, Path, RunSummary]) -> None:
    _, output, _ = done
    image = nibabel.load(next(output.rglob("*_sr.nii.gz"))).get_fdata()
    edges = -1.5 + np.arange(24)
    found = np.zeros(SHAPE)
    for k in range(SHAPE[2]):
        low, high = 4.0 * k - 1.5, 4.0 * k + 1.5
        weight = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        found[..., k] = image @ (weight / weight.sum())
    assert np.abs(found - made_volume()).max() <= 0.5 + 1e-6


def test_series_is_written_and_read_by_others(done: tuple[Path, Path, RunSummary]) -> None:
    _, output, _ = done
    folder = case_of(output, "dicom/*.dcm").parent
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    image = reader.Execute()
    assert image.GetSize() == (20, 16, 25)
    assert image.GetSpacing()[2] == pytest.approx(1.0, abs=1e-6)
    headers = [pydicom.dcmread(path) for path in sorted((folder / "dicom").glob("*.dcm"))]
    assert {len(one.SourceImageSequence) for one in headers} == {1}  # 1 mm slices within 5 mm ones
    assert "slices 5 -> 1 mm" in headers[0].DerivationDescription
    assert "planes across the slices" in headers[0].DerivationDescription
    assert (folder / "maps" / "measurements.dcm").is_file()
    assert pydicom.dcmread(folder / "maps" / "error.dcm").NumberOfFrames == 25


def test_report_says_what_was_assumed_and_claims_no_coverage(done: tuple[Path, Path, RunSummary]) -> None:
    _, output, _ = done
    report = json.loads((case_of(output, "*_sr.nii.gz") / "report.json").read_text())
    assert report["slices"]["thickness_mm"] == 3.0
    assert "with gaps of 1 mm. Assumed slice profile: box 3 mm wide." in report["slices"]["text"]
    assert report["settings"]["slice_spacing_mm"] == pytest.approx(1.0)
    assert report["settings"]["detail"] == 0.0
    assert report["metrics"]["agreement"]["max_abs"] <= 0.5 + 1e-3
    assert report["trust"]["expected_error"]["is_calibrated"] is False
    assert "new ones were made" in report["trust"]["expected_error"]["statement"]


def test_both_factors_at_once(tmp_path: Path) -> None:
    source = saved(tmp_path / "volume.nii.gz")
    summary = super_resolve(source, tmp_path / "both.nii.gz", factor=2, slice_spacing=0.9, detail=0.0, **FAST)
    assert summary.exit_code == 0
    image = nibabel.load(tmp_path / "both.nii.gz")
    assert image.shape == (40, 32, 27)  # 24 mm in 27 slices
    coarse = image.get_fdata().reshape(20, 2, 16, 2, 27).mean((1, 3))
    edges = np.linspace(0, 6, 28)
    for k in range(SHAPE[2]):
        weight = np.clip(np.minimum(edges[1:], k + 1) - np.maximum(edges[:-1], k), 0, None)
        assert np.abs(coarse @ (weight / weight.sum()) - made_volume()[..., k]).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"isotropic": True, "factor": 2}, "TARGET_SPACING"),
        ({"slice_spacing": 4.0}, "TARGET_SPACING"),
        ({"slice_spacing": 0.4}, "TARGET_SPACING"),
    ],
)
def test_targets_that_cannot_be_are_listed_with_their_reason(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    summary = super_resolve(saved(tmp_path / "volume.nii.gz"), tmp_path / "out", **options, **FAST)
    assert [case.reason for case in summary.cases] == [reason]
    assert summary.exit_code != 0
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_tilted_volume_file_is_refused(tmp_path: Path) -> None:
    affine = np.diag([*SPACING_MM, 1.0])
    affine[1, 2] = 0.8
    summary = super_resolve(saved(tmp_path / "volume.nii.gz", affine=affine), tmp_path / "out", factor_slices=2, **FAST)
    assert [case.reason for case in summary.cases] == ["GANTRY_TILT"]


def test_image_in_memory_equals_the_file(done: tuple[Path, Path, RunSummary], tmp_path: Path) -> None:
    _, output, _ = done
    image = nibabel.Nifti1Image(made_volume(), np.diag([*SPACING_MM, 1.0]))
    found = super_resolve_image(image, modality="MR", slice_spacing=1.0, slice_thickness=3.0, **FAST)
    written = nibabel.load(next(output.rglob("*_sr.nii.gz")))
    assert np.array_equal(np.asarray(found.dataobj), np.asarray(written.dataobj))
    assert np.allclose(found.affine, written.affine)


def test_bundle_makes_the_same(done: tuple[Path, Path, RunSummary], tmp_path: Path) -> None:
    source, output, _ = done
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "--config_file", "bundles/ldm_sr/configs/inference.yaml"),
        *("--dataset_dir", str(source / "volume.nii.gz"), "--output_dir", str(tmp_path), "--factor", "1"),
        *("--slice_spacing", "1.0", "--force", "True", "--device", "cpu"),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    made, written = (next(folder.rglob("*_sr.nii.gz")) for folder in (tmp_path, output))
    assert np.array_equal(*(np.asarray(nibabel.load(path).dataobj) for path in (made, written)))


def test_command_says_what_does_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(saved(tmp_path / "volume.nii.gz"))
    assert main(["run", source, str(tmp_path / "out"), "--slice-spacing", "1", "--isotropic"]) == 1
    assert "only one of them" in capsys.readouterr().err
    assert main(["run", source, str(tmp_path / "out"), "--factor", "1"]) == 1
    assert "no new slices are made" in capsys.readouterr().err


def test_factor_is_1_with_new_slices_and_2_without() -> None:
    assert WorkSettings().factor == 2
    assert WorkSettings(slice_spacing=1.0).factor == 1
    assert WorkSettings(factor_slices=2.5, factor=3).factor == 3
    with pytest.raises(SettingsError, match="profile is of use"):
        WorkSettings(profile="gaussian")


def test_dry_run_counts_the_new_slices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(saved(tmp_path / "volume.nii.gz"))
    assert main(["run", source, str(tmp_path / "out"), "--factor-slices", "2", "--dry-run", "--force"]) == 0
    assert "20 x 16 x 12" in capsys.readouterr().out

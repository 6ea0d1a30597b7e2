"""The whole way, with the shipped weights: sources in, results and reports out, by every way in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from dicom_fixtures import MARKER, make_series, oblique_orientation
from places import ROOT
from series_by_hand import along_normal, read_images, rescaled

from monai_ldmsr import report_output, super_resolve
from monai_ldmsr.bundle_folder import available_bundles, bundle_info
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SettingsError, SourceError
from monai_ldmsr.io import find_sources
from monai_ldmsr.report import RESEARCH_NOTICE, SRReport
from monai_ldmsr.run_summary import RunSummary
from monai_ldmsr.workflow import load_super_resolver

BUNDLE = ROOT / "bundles" / "ldm_sr"
SHAPE = (40, 48, 3)
FAST = {"num_inference_steps": 1, "device": "cpu", "force": True}  # made images are none that it was trained on

#: The three spacings differ, the axes are oblique, and j runs backwards.
_COSINES = np.array(oblique_orientation())
AFFINE = np.eye(4)
AFFINE[:3, :3] = np.stack([0.9 * _COSINES[:3], -0.7 * _COSINES[3:], 3.0 * np.cross(_COSINES[:3], _COSINES[3:])], axis=1)
AFFINE[:3, 3] = (12, -30, 7)


def make_nifti(path: Path) -> np.ndarray:
    x, y, z = np.meshgrid(np.linspace(0, 6, 36), np.linspace(0, 4, 28), np.arange(3), indexing="ij")
    voxels = (800 + 300 * np.sin(x + 0.2 * z) * np.cos(y) + 200 * (x > 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), path)
    return voxels


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, RunSummary]:
    """A folder with three series, a NIfTI and junk, super-resolved once."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("output")
    for modality in ("CT", "MR", "PT"):
        make_series(source / "images" / modality, modality, SHAPE)
    for name in ("CT", "MR"):
        for path in (source / "images" / name).iterdir():
            shutil.move(path, source / f"{name}_{path.name}")  # two series and junk side by side
    (source / "notes.txt").write_text("nothing to see")
    make_nifti(source / "volume.nii.gz")
    return source, output, super_resolve(source, output, factor=2, **FAST)


def folder_of(output: Path, modality: str) -> Path:
    (found,) = [p.parent for p in output.glob("*/report.json") if json.loads(p.read_text())["modality"] == modality]
    return found


def test_every_source_is_accounted_for(mixed: tuple[Path, Path, RunSummary]) -> None:
    _, output, summary = mixed
    assert summary.exit_code == 0
    listed = json.loads((output / "summary.json").read_text())["series"]
    assert sorted(entry["status"] for entry in listed) == ["done"] * 4 + ["skipped"]
    assert [entry["reason"] for entry in listed if entry["status"] == "skipped"] == ["NOT_AN_IMAGE"]
    assert {p.name for p in output.iterdir() if p.is_dir()} == {e["case"] for e in listed if e["status"] == "done"}
    assert not list(output.rglob(".*")), "a partial folder is left"


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_series_lies_where_its_source_lies_and_means_the_same(
    mixed: tuple[Path, Path, RunSummary], modality: str
) -> None:
    source, output, _ = mixed
    images = read_images(folder_of(output, modality) / "dicom")
    pattern = "images/PT/*.dcm" if modality == "PT" else f"{modality}_*.dcm"
    originals = sorted((pydicom.dcmread(p) for p in source.glob(pattern)), key=along_normal)
    assert len(images) == len(originals) == SHAPE[2]
    fine, coarse = rescaled(images).astype(float), rescaled(originals).astype(float)
    assert fine.shape == (2 * SHAPE[1], 2 * SHAPE[0], SHAPE[2])
    blocks = fine.reshape(SHAPE[1], 2, SHAPE[0], 2, SHAPE[2]).mean(axis=(1, 3))
    # A dropped or swapped slice, a transposed or shifted one would break this block mean.
    step = max(float(d.get("RescaleSlope", 1)) for d in images)
    np.testing.assert_allclose(blocks, coarse, atol=0.5 * step + 1e-3 * np.ptp(coarse))
    assert abs(fine.mean() - coarse.mean()) < 0.005 * np.abs(coarse).mean()
    np.testing.assert_allclose(_corner(images[0]), _corner(originals[0]), atol=1e-3)
    assert [d.InstanceNumber for d in images] == [1, 2, 3]


def _corner(image: pydicom.Dataset) -> np.ndarray:
    """Outer corner of the image next to its first pixel, LPS."""
    cosines, (rows, columns) = np.array(image.ImageOrientationPatient, float), map(float, image.PixelSpacing)
    return np.array(image.ImagePositionPatient, float) - (cosines[:3] * columns + cosines[3:] * rows) / 2


def test_nifti_by_two_readers(mixed: tuple[Path, Path, RunSummary]) -> None:
    _, output, _ = mixed
    (path,) = output.glob("volume-*/volume-*_sr.nii.gz")
    image = nibabel.load(path)
    assert image.shape == (72, 56, 3)
    assert image.get_data_dtype() == np.int16
    corner = np.array([-0.5, -0.5, 0, 1])
    np.testing.assert_allclose((image.affine @ corner)[:3], (AFFINE @ corner)[:3], atol=1e-3)
    np.testing.assert_allclose(image.affine[:3, :3], AFFINE[:3, :3] @ np.diag([0.5, 0.5, 1]), atol=1e-5)
    original = make_nifti(output.parent / "again.nii.gz").astype(float)
    blocks = np.asarray(image.dataobj, float).reshape(36, 2, 28, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(blocks, original, atol=1.0)
    itk = SimpleITK.ReadImage(str(path))
    assert itk.GetSpacing() == pytest.approx(np.linalg.norm(image.affine[:3, :3], axis=0), abs=1e-5)
    assert itk.GetOrigin() == pytest.approx(image.affine[:3, 3] * [-1, -1, 1], abs=1e-4)


def test_report_says_what_was_done(mixed: tuple[Path, Path, RunSummary]) -> None:
    _, output, _ = mixed
    folder = folder_of(output, "MR")
    report = json.loads((folder / "report.json").read_text())
    assert (report["factor"], report["seed"], report["status"]) == (2, 0, "done")
    assert report["model"]["weights_sha256"] == bundle_info().weights_sha256
    assert report["settings"]["num_inference_steps"] == report["model"]["evaluations_per_slice"] == 1
    assert report["source"]["shape"] == [SHAPE[1], SHAPE[0], SHAPE[2]]
    spacing_mm = report["source"]["spacing_mm"]
    assert report["result"]["spacing_mm"][:2] == pytest.approx([s / 2 for s in spacing_mm[:2]])
    agreement = report["metrics"]["agreement"]
    assert agreement["nrmse"] is not None
    assert agreement["nrmse"] < 1e-3
    assert agreement["rms_before_projection"] is not None
    assert agreement["rms_before_projection"] > 0
    page = (folder / "report.html").read_text()
    assert RESEARCH_NOTICE in page
    assert page.count("data:image/png") >= 3


@pytest.mark.parametrize("factor", [3, 4])
def test_other_factors(tmp_path: Path, factor: int) -> None:
    voxels = make_nifti(tmp_path / "volume.nii").astype(float)
    super_resolve(tmp_path / "volume.nii", tmp_path / "out", factor=factor, **FAST)
    result = np.asarray(nibabel.load(next(tmp_path.glob("out/volume-*/*_sr.nii"))).dataobj, float)
    blocks = result.reshape(36, factor, 28, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(blocks, voxels, atol=1.0)


@pytest.mark.parametrize("operator", ["area", "gaussian", "kspace"])
def test_the_result_agrees_with_its_source_under_the_assumed_operator(tmp_path: Path, operator: str) -> None:
    from monai_ldmsr.degradation import DegradationOperator

    voxels = make_nifti(tmp_path / "v.nii").astype(np.float32)
    command = ["run", str(tmp_path / "v.nii"), str(tmp_path / "out"), "--operator", operator, "--steps", "1", "--force"]
    assert main([*command, "--device", "cpu"]) == 0
    result = np.asarray(nibabel.load(next(tmp_path.glob("out/v-*/*_sr.nii"))).dataobj, np.float32)
    degraded = DegradationOperator(operator, 2)(torch.from_numpy(result.transpose(2, 0, 1)[:, None].copy()))
    error = degraded[:, 0].numpy().transpose(1, 2, 0) - voxels
    # Rounding to int16 alone leaves up to 0.5; conjugate gradients stop short of the rest by design.
    assert float(np.sqrt((error**2).mean())) < 1.0
    report = json.loads(next(tmp_path.glob("out/v-*/report.json")).read_text())
    assert report["degradation"]["name"] == report["settings"]["operator"] == operator
    assert report["metrics"]["agreement"]["mean_abs"] == pytest.approx(np.abs(error).mean(), abs=0.5)


def test_result_is_finer_than_bicubic(tmp_path: Path) -> None:
    """A sharp edge, averaged 4x4, comes back steeper than bicubic interpolation makes it, projected as in use."""
    from monai_ldmsr.consistency import project_onto_source
    from monai_ldmsr.degradation import AreaOperator
    from monai_ldmsr.networks import upsample_bicubic

    network, _ = load_super_resolver("ldm_sr", factor=4)
    fine = torch.full((1, 1, 128, 128), -0.8)
    fine[..., 38:90, 42:81] = 0.3
    coarse = torch.nn.functional.avg_pool2d(fine, 4)
    with torch.no_grad():
        result = network(coarse)
    bicubic = upsample_bicubic(coarse, 4)
    for image in (result, bicubic):
        project_onto_source(image, coarse, AreaOperator(4))
    assert float((result - fine).abs().mean()) < float((bicubic - fine).abs().mean())


# Ways in


def test_ten_lines_of_python_equal_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    code = re.search(r"## Step by step\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    make_series(tmp_path / "sample_data" / "dicom" / "mr_t1_sagittal", "MR", SHAPE)
    monkeypatch.chdir(tmp_path)
    exec(code.group(1), {})
    summary = super_resolve(tmp_path / "sample_data", tmp_path / "by_bundle", factor=2, device="cpu", force=True)
    theirs = read_images(tmp_path / "by_bundle" / summary.cases[0].case / "dicom")
    ours = read_images(tmp_path / "output" / "by_hand")
    assert len(ours) == SHAPE[2]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.PixelData == other.PixelData
        assert mine.ImagePositionPatient == other.ImagePositionPatient


def run_bundle(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_bundle_run_equals_the_function(mixed: tuple[Path, Path, RunSummary], tmp_path: Path) -> None:
    source, output, _ = mixed
    arguments = ["--dataset_dir", str(source / "volume.nii.gz"), "--output_dir", str(tmp_path / "out")]
    done = run_bundle(
        "run", "--config_file", "bundles/ldm_sr/configs/inference.yaml", *arguments,
        "--factor", "2", "--num_inference_steps", "1", "--seed", "0", "--device", "cpu", "--force", "true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    here, there = (
        np.asarray(nibabel.load(next(folder.glob("volume-*/*_sr.nii.gz"))).dataobj).astype(int)
        for folder in (tmp_path / "out", output)
    )
    # Another process may sum in another order: what lies half way between two stored values falls to either.
    assert np.abs(here - there).max() <= 1
    assert (here != there).mean() < 0.001


def test_cli_speaks_plain_lines_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_nifti(tmp_path / "volume.nii")
    assert main(["run", str(tmp_path / "volume.nii"), str(tmp_path / "out"), "--steps", "1", "--force"]) == 0
    out, err = capsys.readouterr()
    assert "done     volume" in out
    assert "report.html" in out
    assert re.search(r"1/1 volume-[0-9a-f]{12}: 3 of 3 slices", err)
    assert "\x1b[" not in out + err


def test_cli_help_and_info(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "exit codes" in capsys.readouterr().out
    assert main(["info"]) == 0
    info = capsys.readouterr().out
    assert "bundle ldm_sr" in info
    assert "verified" in info
    assert all(str(one.folder) in info for one in available_bundles())


# What goes wrong


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def run(*arguments: object) -> int:
        return main(["run", *map(str, arguments), "--steps", "1", "--force"])

    empty, junk, broken, both = (tmp_path / name for name in ("empty", "junk", "broken", "both"))
    for folder in (empty, junk):
        folder.mkdir()
    (junk / "a.txt").write_text("text")
    for folder in (broken, both):
        cut = make_series(folder / "cut", "CT", (16, 18, 2)).paths[0]
        cut.write_bytes(cut.read_bytes()[:-100])
    make_series(both / "whole", "CT", (16, 18, 2))
    assert run(tmp_path / "absent", tmp_path / "o1") == 2
    assert run(empty, tmp_path / "o2") == 2
    assert run(junk, tmp_path / "o3") == 2
    assert run(broken, tmp_path / "o4") == 4
    assert "TRUNCATED_PIXELS" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "o4").iterdir()] == ["summary.json"]
    assert run(both, tmp_path / "o5") == 8
    assert run(both, junk / "a.txt" / "o6") == 7
    assert run(both, tmp_path / "o7", "--factor", 5) == 1
    assert "Traceback" not in "".join(capsys.readouterr())
    assert run(both, tmp_path / "o8", "--factor", "two") == 1


def test_an_error_of_ours_stops_one_case_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        make_nifti(tmp_path / "in" / f"{name}.nii")
    original = report_output.render_html

    def fail_on_a(report: SRReport, panels: list) -> str:
        if report.case.startswith("a-"):
            raise RuntimeError(MARKER)
        return original(report, panels)

    monkeypatch.setattr(report_output, "render_html", fail_on_a)
    summary = super_resolve(tmp_path / "in", tmp_path / "out", **FAST)
    assert {c.case[0]: (c.status, c.reason) for c in summary.cases} == {
        "a": ("failed", "INTERNAL_ERROR"),
        "b": ("done", ""),
    }
    assert summary.exit_code == 8
    assert sorted(p.name.partition("-")[0] for p in (tmp_path / "out").iterdir()) == ["b", "summary.json"]
    assert MARKER not in (tmp_path / "out" / "summary.json").read_text()


def test_only_an_earlier_result_is_replaced(tmp_path: Path) -> None:
    make_nifti(tmp_path / "v.nii")
    [named], _ = find_sources(tmp_path / "v.nii")
    mine = tmp_path / "out" / named.name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    summary = super_resolve(tmp_path / "v.nii", tmp_path / "out", **FAST)
    assert (summary.cases[0].reason, summary.exit_code) == ("CANNOT_WRITE", 7)
    assert mine.read_text() == "precious"
    mine.unlink()
    mine.parent.rmdir()
    for _ in range(2):
        assert super_resolve(tmp_path / "v.nii", tmp_path / "out", **FAST).exit_code == 0


def test_arguments_are_checked_before_work(tmp_path: Path) -> None:
    make_nifti(tmp_path / "v.nii")
    for wrong in (
        {"factor": 5},
        {"seed": "$exit()"},
        {"detail": -1.0},
        {"consistency": 2.0},
        {"device": "warp"},
        {"modality": "US"},
        {"operator": "$exit()"},
    ):
        with pytest.raises(SettingsError):
            super_resolve(tmp_path / "v.nii", tmp_path / "out", **wrong)
    with pytest.raises(SettingsError, match="inside the source"):
        super_resolve(tmp_path, tmp_path / "out", **FAST)
    with pytest.raises(SourceError, match="does not exist"):
        super_resolve(tmp_path / "$(touch x)", tmp_path / "out", **FAST)
    assert not (tmp_path / "out").exists()

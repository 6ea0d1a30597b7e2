"""A result as one file with a name of the user's, read by SimpleITK."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its customary name)
from batch_runs import resolve
from dicom_fixtures import make_series
from odd_volumes import nifti

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import OutputError, SettingsError

SHAPE = (20, 24, 5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    make_series(tmp_path / "in", "CT", SHAPE)
    return tmp_path / "in"


def as_itk(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values of a series by half pixels, and the outer corner of its first one."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(source)))
    image = reader.Execute()
    values = sitk.GetArrayFromImage(image).repeat(2, axis=1).repeat(2, axis=2)
    return values, np.array(image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)))


@pytest.mark.parametrize("name", ["b.nii.gz", "b.nii", "b.hdr", "b.nrrd", "b.nhdr", "b.mha", "b.mhd"])
def test_a_series_becomes_one_file_of_any_format(source: Path, tmp_path: Path, bundle: Path, name: str) -> None:
    place = tmp_path / "made" / "here"
    assert resolve(source, place / name, bundle) == 0
    beside = {path.name for path in place.iterdir()} - {name, "b.img", "b.raw.gz", "b.zraw"}
    assert beside == {"b_report.html", "b_report.json"}
    values, corner = as_itk(source)
    image = sitk.ReadImage(str(place / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), values)
    assert image.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, 0)) == pytest.approx(tuple(corner), abs=1e-3)
    assert image.GetPixelID() == sitk.sitkInt16
    report = json.loads((place / "b_report.json").read_text())
    assert (report["source"]["format"], report["outputs"][0]["kind"]) == ("DICOM", "volume file")
    again = tmp_path / "again" / "c.mha"
    assert resolve(place / name, again, bundle, "--modality", "CT") == 0
    doubled = values.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(again))), doubled)


def test_only_earlier_results_of_the_same_source_are_replaced(
    source: Path, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.nii.gz"
    out.write_text("somebody's")
    assert resolve(source, out, bundle) == 7
    assert "'out.nii.gz' would be replaced" in capsys.readouterr().err
    assert out.read_text() == "somebody's"
    assert resolve(source, out, bundle, "--overwrite") == 0
    first = out.read_bytes()
    assert resolve(source, out, bundle, "--factor", "3") == 0
    assert out.read_bytes() != first
    nifti("other.nii")(tmp_path)
    assert resolve(tmp_path / "other.nii", out, bundle) == 7
    assert resolve(tmp_path / "other.nii", tmp_path / "other.nii", bundle, "--overwrite") == 1
    (tmp_path / "p_report.html").write_text("somebody's")
    assert resolve(source, tmp_path / "p.nii", bundle) == 7
    assert not (tmp_path / "p.nii").exists()
    assert {path.name for path in tmp_path.glob(".*")} == set()


def test_one_file_takes_one_source(
    source: Path, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_series(source / "more", "MR", SHAPE, SeriesNumber=8)
    out = tmp_path / "new" / "b.nii"
    assert resolve(source, out, bundle) == 2
    assert "holds 2 series and volumes" in capsys.readouterr().err
    assert not out.parent.exists()
    assert resolve(source, out, bundle, "--series", 8) == 0
    assert resolve(source, source / "b.nii", bundle, "--series", 8) == 1
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.pdf").write_text("x")
    assert resolve(tmp_path / "notes", tmp_path / "none.nii", bundle) == 2
    assert not list(tmp_path.glob("none*"))
    folder = tmp_path / "folder.nii"
    folder.mkdir()
    assert resolve(source, folder, bundle, "--series", 8) == 0
    assert (folder / "summary.json").is_file()


def test_a_failure_leaves_nothing(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"\x5c\1\0\0" + bytes(400))
    assert resolve(tmp_path / "a.nii", tmp_path / "b.nii", bundle) != 0
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii"}


def test_python_writes_one_file_too(source: Path, tmp_path: Path, bundle: Path) -> None:
    summary = super_resolve(source, tmp_path / "b.nii.gz", bundle=bundle, device="cpu")
    assert set(summary.cases[0].files) == {"b.nii.gz", "b_report.html", "b_report.json"}
    (tmp_path / "b_report.json").unlink()
    with pytest.raises(OutputError, match="would be replaced"):
        super_resolve(source, tmp_path / "b.nii.gz", bundle=bundle, device="cpu")
    with pytest.raises(SettingsError, match="source itself"):
        super_resolve(tmp_path / "b.nii.gz", tmp_path / "b.nii.gz", bundle=bundle, device="cpu", overwrite=True)


def test_values_between_integers_are_kept(tmp_path: Path, bundle: Path) -> None:
    make_series(tmp_path / "in", "PT", SHAPE, RescaleSlope=0.37)
    assert resolve(tmp_path / "in", tmp_path / "b.nii", bundle) == 0
    image = sitk.ReadImage(str(tmp_path / "b.nii"))
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), as_itk(tmp_path / "in")[0], atol=1e-3)


def test_a_compressed_file_of_voxels_may_be_larger_than_its_header(tmp_path: Path, bundle: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (3, 200, 200)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.mhd"), useCompression=True)
    assert (tmp_path / "a.zraw").stat().st_size > 2**16
    assert resolve(tmp_path / "a.mhd", tmp_path / "b.mha", bundle, "--modality", "MR") == 0


def test_a_report_of_another_file_is_not_replaced(
    source: Path, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two formats of one stem would have one report."""
    assert resolve(source, tmp_path / "b.nii.gz", bundle, "--factor", "3") == 0
    said = (tmp_path / "b_report.json").read_text()
    assert resolve(source, tmp_path / "b.nrrd", bundle) == 7
    assert "b_report.json" in capsys.readouterr().err
    assert (tmp_path / "b_report.json").read_text() == said
    assert not (tmp_path / "b.nrrd").exists()
    for name in ("b.img", "b.dcm"):
        assert resolve(source, tmp_path / name, bundle) == 1
        assert "Name the .hdr file" in capsys.readouterr().err
        assert not (tmp_path / name).exists()

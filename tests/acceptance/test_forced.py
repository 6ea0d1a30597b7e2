"""What the model was not trained for: refused by command and Python, or forced and marked."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_fixtures import make_series

from monai_ldmsr import super_resolve, super_resolve_image
from monai_ldmsr.cli import main
from monai_ldmsr.errors import SourceError


def micrograph(folder: Path) -> Path:
    """A DICOM series whose pixels have 0.02 mm."""
    make_series(folder, "MR", shape=(40, 48, 2), PixelSpacing=[0.02, 0.02])
    return folder


def test_a_volume_outside_is_a_listed_failure_with_value_and_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["run", str(micrograph(tmp_path / "in")), str(tmp_path / "out"), "--device", "cpu"])
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    (case,) = summary["series"]
    assert code == 2
    assert case["reason"] == "OUT_OF_RANGE"
    assert "its pixels have 0.02 mm (0.43 to 1.6)" in case["message"]
    assert "--force" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.json"]


def test_force_marks_report_and_series(tmp_path: Path) -> None:
    super_resolve(micrograph(tmp_path / "in"), tmp_path / "out", device="cpu", force=True, tolerance=20)
    (case,) = json.loads((tmp_path / "out" / "summary.json").read_text())["series"]
    assert (case["status"], case["reason"]) == ("done", "")
    assert case["message"].startswith("FORCED: the volume lies outside")
    (report,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/report.json"))
    assert report["warnings"][0].startswith("FORCED: the volume lies outside of what the model was trained for")
    assert "0.02 mm" in report["settings"]["outside_of_training"]
    images = [pydicom.dcmread(path) for path in sorted((tmp_path / "out").glob("*/dicom/*.dcm"))]
    assert len(images) == 2
    for name, promise in (("error", "holds the true value"), ("trusted", "At most one in ten")):
        (path,) = (tmp_path / "out").glob(f"*/maps/{name}.dcm")
        told = str(pydicom.dcmread(path))
        assert "not calibrated" in told
        assert promise not in told
    for image in images:
        assert "outside_of_training=its pixels have 0.02 mm" in image.DerivationDescription
        assert "forced" in image.SeriesDescription


def test_settings_other_than_the_bundles_stand_in_report_page_and_headers(tmp_path: Path) -> None:
    source = micrograph(tmp_path / "in")
    uids = set()
    for name, more in (
        ("usual", {}),
        ("other", {"noise": 3, "consistency": 0.5}),
        ("same", {"consistency": 1.0, "detail": 0.5}),
    ):
        super_resolve(source, tmp_path / name, device="cpu", force=True, **more)
        (folder,) = (path.parent for path in (tmp_path / name).glob("*/report.json"))
        report, page = json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()
        header = pydicom.dcmread(next((folder / "dicom").iterdir()))
        uids.add(header.SeriesInstanceUID)
        if name == "other":
            assert report["changed"] == {
                "noise": {"used": 3.0, "bundle": None},
                "consistency": {"used": 0.5, "bundle": 1.0},
            }
            assert "own: noise 3 (the bundle: automatic); consistency 0.5 (the bundle: 1).<" in page
            assert "not the bundle's own: consistency, noise. Research only" in header.DerivationDescription
        else:
            assert report["changed"] == {}
            assert "not the bundle's own" not in header.DerivationDescription
            assert "Settings that differ" not in page
    assert len(uids) == 2


def test_an_image_in_memory_is_refused_and_forced_alike(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(  # type: ignore[attr-defined, no-untyped-call]
        np.random.default_rng(0).integers(0, 900, (40, 40, 2)).astype(np.int16), np.diag([0.02, 0.02, 3.0, 1.0])
    )
    with pytest.raises(SourceError, match=r"0\.02 mm"):
        super_resolve_image(image, modality="MR", device="cpu")
    forced = super_resolve_image(image, modality="MR", device="cpu", force=True)
    assert forced.shape == (80, 80, 2)
    assert b"FORCED" in bytes(forced.header["descrip"])

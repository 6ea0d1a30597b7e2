"""What a case with new slices is written as: images and maps of one grid, from data that were made by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from dicom_validators import has_validators, run_dciodvfy
from generator_fixtures import Nearest
from monai.data import MetaTensor
from new_slices import along_mm, plan_of, ramp, thick_series
from pydicom.uid import ExplicitVRLittleEndian

from monai_ldmsr.case import ComputedCase, ResultMap, WrittenOutput
from monai_ldmsr.errors import OutputError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.image_output import BundleModel, HeaderTexts
from monai_ldmsr.io import DicomSeries, VolumeFile, read_volume_file
from monai_ldmsr.result_writer import ResultWriter
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget
from monai_ldmsr.transforms import ProjectOntoSourced, ScaleFromModelRanged, ScaleToModelRanged, volume_of


class Kept:
    """An output that keeps the case and a copy of its folder; and ends the writing, before any report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: ComputedCase | None = None

    def write(self, case: ComputedCase, folder: Path) -> WrittenOutput:
        self.case = case
        shutil.copytree(folder, self.folder)
        raise OutputError("kept")


def written(
    source: DicomSeries | VolumeFile, plan: SlicePlan, values: np.ndarray, folder: Path, form: str = "classic"
) -> ComputedCase:
    """Write images and maps of a result with ``values``, of factor 2 within slices; the folder is left."""
    data = ScaleToModelRanged("image")({"image": volume_of(source), "source": source})
    data["pred"] = data["image"].repeat_interleave(2, 1).repeat_interleave(2, 2)
    data = ProjectOntoSourced("pred", 2)(ScaleFromModelRanged("pred", "image")(data))
    made = torch.from_numpy(values.copy())[None]
    grid = plan.grid(2)
    waves = 10 * torch.sin(torch.arange(source.voxels.size)).reshape(source.geometry.shape)
    data |= {
        "pred": MetaTensor(made),
        "pred_plan": plan,
        "maps": (
            ResultMap("expected_error", made.clone(), grid),
            ResultMap("trusted", (made > 500).float(), grid),
            ResultMap("contradiction", waves[None], Factors.of(1)),
        ),
    }
    kept, network = Kept(folder), Nearest(2)
    model, texts = BundleModel("b", "1", "0" * 64), HeaderTexts(dicom_form=form)
    writer = ResultWriter(model, network, {}, "cpu", texts, [kept])
    with pytest.raises(OutputError, match="kept"):
        writer.write(data, "case", folder.parent / "out", (0.0, 0.0, 0.0), network.describe())
    assert kept.case is not None
    return kept.case


@pytest.mark.parametrize("form", ["classic", "enhanced"])
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_maps_lie_on_the_images_slices_or_on_the_sources(
    tmp_path: Path, heard: Callable[[], str], modality: str, form: str
) -> None:
    series = thick_series(tmp_path / "in", modality)
    plan = plan_of(series, 2)
    values = ramp(series, 2, 1.0, -2.0, 19)
    case = written(series, plan, values, tmp_path / "case", form)
    assert "MARKER" not in heard()
    assert case.grid == plan.grid(2)
    assert case.geometry.shape == values.shape
    assert case.settings["slice_spacing_mm"] == 1
    derived = [pydicom.dcmread(path) for path in sorted((tmp_path / "case" / "dicom").glob("*.dcm"))]
    assert len(derived) == (19 if form == "classic" else 1)
    assert "slices 5 -> 1 mm" in str(derived[0])
    sources = {header.SOPInstanceUID for header in series.headers}
    start, normal = series.geometry.origin_lps_mm, series.geometry.direction_lps[:, 2]
    for name, number, apart, thick in (("error", 19, 1, 1), ("trusted", 19, 1, 1), ("contradiction", 4, 5, 4)):
        image = pydicom.dcmread(tmp_path / "case" / "maps" / f"{name}.dcm")
        (shared,), frames = image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence
        places = np.array([frame.PlanePositionSequence[0].ImagePositionPatient for frame in frames], float)
        along = (places - start) @ normal
        assert len(frames) == number
        np.testing.assert_allclose(np.diff(np.sort(along)), apart, atol=1e-6)
        assert np.sort(along)[0] == pytest.approx(-1.5 if number == 19 else 0, abs=1e-6)
        measures = shared.PixelMeasuresSequence[0]
        assert float(measures.SliceThickness) == pytest.approx(thick)
        assert float(measures.SpacingBetweenSlices) == pytest.approx(apart)
        if name == "error":
            found = np.frombuffer(image.FloatPixelData, "<f4").reshape(number, -1)
            # Errors are rounded to a 64th.
            np.testing.assert_allclose(along_mm(found.mean(axis=1)), along, atol=1100 / 64 / 50)
            position = np.array(frames[0].PlanePositionSequence[0].ImagePositionPatient, float) - start
            cosines = series.geometry.direction_lps
            assert [position @ cosines[:, 0], position @ cosines[:, 1]] == pytest.approx([-0.225, -0.175])
        elif name == "trusted":
            found = image.pixel_array.reshape(number, -1)
            np.testing.assert_array_equal(found.min(axis=1) > 0, along_mm(500.0) < along)
        referred = {
            item.ReferencedSOPInstanceUID
            for one in image.ReferencedSeriesSequence
            for item in one.ReferencedInstanceSequence
        }
        assert referred >= {one.SOPInstanceUID for one in derived}
        assert (referred >= sources) == (name == "contradiction" and form == "classic")


def test_a_map_of_the_source_is_as_thick_as_its_slices_lie_apart_where_nothing_says_it(tmp_path: Path) -> None:
    series = thick_series(tmp_path / "in", SliceThickness=None)
    plan = plan_of(series, 2)
    assert plan.is_assumed
    written(series, plan, ramp(series, 2, 1.0, -2.5, 20), tmp_path / "case")
    image = pydicom.dcmread(tmp_path / "case" / "maps" / "contradiction.dcm")
    assert float(image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == pytest.approx(5)
    assert "box profile 5 mm (no header says it)" in str(pydicom.dcmread(tmp_path / "case" / "dicom" / "IM0001.dcm"))


@pytest.mark.skipif(not has_validators(), reason="dicom3tools is missing")
@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_maps_are_valid(tmp_path: Path, modality: str) -> None:
    """By dciodvfy, which does not inflate."""
    series = thick_series(tmp_path / "in", modality)
    written(series, plan_of(series, 2), ramp(series, 2, 1.0, -2.0, 19), tmp_path / "case")
    for path in (tmp_path / "case" / "maps").glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.save_as(tmp_path / path.name)
        assert run_dciodvfy(tmp_path / path.name) == set()


def test_a_volume_file_and_its_maps_lie_on_one_grid(tmp_path: Path) -> None:
    affine = np.array([[0.0, -1.2, 0.0, 5], [0.9, 0.0, 0.0, -7], [0.0, 0.0, 5.0, 9], [0, 0, 0, 1]])
    values = np.random.default_rng(1).normal(100, 30, (8, 6, 4)).astype(np.float32)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "in" / "a.nii.gz")
    source = read_volume_file(tmp_path / "in" / "a.nii.gz")
    plan = SliceTarget(slice_spacing=1.0).plan(source.geometry, 2, source.slice_thickness_mm)
    shown: Any = np.broadcast_to(np.arange(20.0), (16, 12, 20)).astype(np.float32)
    written(source, plan, shown, tmp_path / "case")
    for name, step, first in (("sr", 1, -2), ("error", 1, -2), ("trusted", 1, -2), ("contradiction", 5, 0)):
        (path,) = (tmp_path / "case").glob(f"*_{name}.nii.gz")
        found = nibabel.load(path)
        np.testing.assert_allclose(found.affine[:3, 2], [0, 0, step], atol=1e-5)
        assert found.affine[2, 3] == pytest.approx(9 + first)
        assert found.shape == ((8, 6, 4) if name == "contradiction" else (16, 12, 20))
    np.testing.assert_array_equal(nibabel.load(tmp_path / "case" / "case_sr.nii.gz").get_fdata(), shown)

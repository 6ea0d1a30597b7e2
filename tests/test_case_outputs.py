"""What is made of a case beside its images: objects of each kind, written, verified and reported alike."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import torch
from dicom_fixtures import make_series
from generator_fixtures import Nearest
from monai.data import MetaTensor
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from monai_ldmsr.case import ComputedCase, WrittenOutput
from monai_ldmsr.errors import OutputError
from monai_ldmsr.image_output import BundleModel, HeaderTexts
from monai_ldmsr.io import read_dicom_series
from monai_ldmsr.io.written_files import FileCheck, check_document, check_json, check_pixels, check_text
from monai_ldmsr.report_output import ReportOutput, figures_of
from monai_ldmsr.result_writer import ResultWriter
from monai_ldmsr.slice_plan import SliceTarget
from monai_ldmsr.transforms import ProjectOntoSourced, ScaleFromModelRanged, ScaleToModelRanged, volume_of
from monai_ldmsr.transforms.source import SourceProjection

MAKER: dict[str, Any] = {
    **{"manufacturer": "monai_ldmsr", "manufacturer_model_name": "test"},
    **{"software_versions": "1", "device_serial_number": "1"},
}


def parametric_map(images: list[Dataset]) -> Dataset:
    """The images' pixels as floats, a frame each."""
    values = np.stack([image.pixel_array for image in images]).astype(np.float32)
    window = highdicom.VOILUTTransformation(window_center=0.0, window_width=1.0)
    mapping = highdicom.pm.RealWorldValueMapping(
        "sd", "spread", codes.UCUM.NoUnits, (-1e6, 1e6), slope=1.0, intercept=0.0
    )
    return highdicom.pm.ParametricMap(
        images, values, generate_uid(), 7, generate_uid(), 1, **MAKER, contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping], voi_lut_transformations=[window],
    )  # fmt: skip


def measurements(images: list[Dataset]) -> Dataset:
    """A TID 1500 report of one figure."""
    device = highdicom.sr.ObserverContext(
        codes.DCM.Device, highdicom.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid())
    )
    figure = highdicom.sr.Measurement(name=codes.SCT.StandardDeviation, value=0.5, unit=codes.UCUM.NoUnits)
    group = highdicom.sr.MeasurementsAndQualitativeEvaluations(
        highdicom.sr.TrackingIdentifier(generate_uid(), "result"), measurements=[figure]
    )
    content = highdicom.sr.MeasurementReport(
        highdicom.sr.ObservationContext(observer_device_context=device),
        codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    return highdicom.sr.Comprehensive3DSR(
        images, content[0], generate_uid(), 8, generate_uid(), 1, manufacturer="monai_ldmsr", is_complete=True
    )


class OutputOf:
    """Writes one file of a kind, made of the images that lie in the case's folder."""

    def __init__(self, kind: str, name: str, check: FileCheck, cut: int = 0) -> None:
        self.kind, self.name, self.check, self.cut = kind, name, check, cut

    def write(self, case: ComputedCase, folder: Path) -> WrittenOutput:
        path = folder / self.name
        path.parent.mkdir(exist_ok=True)
        images = [dcmread(image) for image in sorted((folder / "dicom").glob("*.dcm"))]
        MAKERS[self.kind](path, images)
        os.truncate(path, path.stat().st_size - self.cut)
        return WrittenOutput(self.kind, {self.name: self.check})


MAKERS: dict[str, Callable[[Path, list[Dataset]], object]] = {
    "image series": lambda path, images: images[0].save_as(path),
    "parametric map": lambda path, images: parametric_map(images).save_as(path),
    "structured report": lambda path, images: measurements(images).save_as(path),
    "sidecar": lambda path, images: path.write_text(json.dumps({"n_images": len(images)})),
    "text": lambda path, images: path.write_text(f"{len(images)} images"),
}
KINDS: dict[str, tuple[str, FileCheck]] = {
    "image series": ("masks/IM0001.dcm", check_pixels),
    "parametric map": ("maps/spread.dcm", check_pixels),
    "structured report": ("measurements.dcm", check_document),
    "sidecar": ("figures.json", check_json),
    "text": ("notes.txt", check_text),
}


def write_case(folder: Path, *outputs: OutputOf) -> Any:
    """A small CT, super-resolved by repetition, with these outputs."""
    make_series(folder / "source", "CT", (6, 5, 2))
    source = read_dicom_series(folder / "source")
    data = ScaleToModelRanged("image")({"image": volume_of(source), "source": source})
    network = Nearest(2)
    data["pred"] = data["image"].repeat_interleave(2, 1).repeat_interleave(2, 2)
    data = ProjectOntoSourced("pred", 2)(ScaleFromModelRanged("pred", "image")(data))
    writer = ResultWriter(BundleModel("b", "1", "0" * 64), network, {}, "cpu", HeaderTexts(), outputs)
    return writer.write(data, "case", folder / "out", (0.0, 0.0, 0.0), network.describe())


def test_outputs_of_each_kind_are_written_verified_and_reported(tmp_path: Path) -> None:
    written = write_case(tmp_path, *(OutputOf(kind, *of) for kind, of in KINDS.items()))
    images = ["dicom/IM0001.dcm", "dicom/IM0002.dcm"]
    assert sorted(written.files) == sorted(
        [*images, *(name for name, _ in KINDS.values()), "report.html", "report.json"]
    )
    report = json.loads((tmp_path / "out/case/report.json").read_text())
    expected = [("image series", 2), *((kind, 1) for kind in KINDS)]
    assert [(one["kind"], one["n_files"]) for one in report["outputs"]] == expected
    floats = dcmread(tmp_path / "out/case/maps/spread.dcm")
    assert floats.NumberOfFrames == 2
    assert "FloatPixelData" in floats


@pytest.mark.parametrize("kind", KINDS)
def test_no_result_with_an_output_that_is_not_whole(tmp_path: Path, kind: str) -> None:
    name, check = KINDS[kind]
    size = {"structured report": 900, "text": 8}.get(kind, 9)
    with pytest.raises(OutputError, match=f"'{name}' of the result does not read back"):
        write_case(tmp_path, OutputOf(kind, name, check, cut=size))
    assert not (tmp_path / "out/case").exists()


def test_the_report_of_new_slices_is_of_planes_along_the_stack(tmp_path: Path) -> None:
    make_series(tmp_path / "source", "MR", (40, 36, 6))
    source = read_dicom_series(tmp_path / "source")
    data = ScaleToModelRanged("image")({"image": volume_of(source), "source": source})
    plan = SliceTarget(factor_slices=2.5).plan(source.geometry)
    result = torch.einsum("cijk,nk->cijn", data["image"].as_tensor().double(), torch.from_numpy(plan.inverse)).float()
    result = data["image_intensity"].inverse(result)
    affine = torch.from_numpy(source.geometry.upsampled(plan.grid(1)).affine.copy())
    network = Nearest(1)
    case = ComputedCase(
        name="case", source=source, result=MetaTensor(result, affine=affine), intensity=data["image_intensity"],
        projection=SourceProjection({"operator": "area"}, 0.0, 1.0, 0), factors=network.factors, described={},
        settings=plan.described(), times=(0.0, 0.0, 0.0), plan=plan,
    )  # fmt: skip
    report = ReportOutput(BundleModel("b", "1", "0" * 64), network, "cpu").write(case, tmp_path).report
    written = json.loads((tmp_path / "report.json").read_text())
    assert (written["factor"], written["slices"]["places"]["number"]) == (1, plan.places.number)
    assert written["result"]["shape"] == [36, 40, plan.places.number]
    assert written["result"]["spacing_mm"][2] == pytest.approx(plan.new_spacing_mm)
    assert "z_gradient" in written["definitions"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("through the middle of the body</h3>") == 2
    assert html.escape(plan.words()) in page
    assert "covers the same place" in page
    figures = {one.code: one.value for one in figures_of(report)}
    assert figures["DISAGREEMENT"] == report.metrics.agreement.mean_abs
    assert not [code for code in figures if "GRADIENT" in code]

"""Source to tensor and back: padding, clipping, and the pictures of the report, at their right places."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from dicom_fixtures import make_series
from monai.data import MetaTensor

from monai_ldmsr.assessment import assess, detail_window, display_window, patient_of, slice_panels
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io import read_dicom_series, write_volume_file
from monai_ldmsr.report.figures import find_edges
from monai_ldmsr.transforms import (
    IntensityMap,
    ProjectOntoSourced,
    ReadSourced,
    RestorePaddingd,
    ScaleFromModelRanged,
    ScaleToModelRanged,
    volume_of,
)
from monai_ldmsr.transforms.intensity import CT_KNOTS_HU


def padded_series(folder: Path) -> Path:
    """A CT whose first two rows are padding, as scanners write it outside the field of view."""
    for path in make_series(folder, "CT", (16, 20, 3), PixelPaddingValue=0).paths:
        image = pydicom.dcmread(path)
        pixels = np.maximum(image.pixel_array, 20)
        pixels[:2] = 0
        image.PixelData = pixels.tobytes()
        image.save_as(path)
    return folder


def test_padding_is_hidden_from_the_network_and_put_back(tmp_path: Path) -> None:
    folder = padded_series(tmp_path)
    data = ReadSourced(keys="image")({"image": folder})
    source = data["source"]
    assert source.padding is not None
    padding_hu = float(source.voxels[0, 0, 0])
    assert source.padding[:, :2].all()
    assert not source.padding[:, 2:].any()
    inside = source.voxels[~source.padding].min()
    assert float(data["image"][0, :, :2].max()) == float(inside) > padding_hu
    data["pred"] = torch.full((1, 40, 32, 3), 50.0)
    result = RestorePaddingd(keys="pred", factor=2)(data)["pred"][0].numpy()
    assert (result[:, :4] == padding_hu).all()
    assert (result[:, 4:] == 50.0).all()


def test_scaling_comes_back_and_projection_uses_the_source(tmp_path: Path) -> None:
    make_series(tmp_path, "MR", (16, 20, 3))
    data = ScaleToModelRanged(keys="image")(ReadSourced(keys="image")({"image": tmp_path}))
    assert float(data["image"].min()) >= -1.5
    data["pred"] = data["image"].as_tensor().repeat_interleave(2, 1).repeat_interleave(2, 2).contiguous() + 0.1
    data = ScaleFromModelRanged(keys="pred")(data)
    data = ProjectOntoSourced(keys="pred", factor=2)(data)
    assert data["pred_projection"].disagreement > 0
    means = data["pred"][0].numpy().reshape(20, 2, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(means, data["source"].voxels, rtol=1e-4, atol=1e-3)
    # A shift of everything is taken back everywhere, where the map of intensities is straight.
    middle = np.quantile(data["source"].voxels, [0.02, 0.8])
    straight = ((data["source"].voxels > middle[0]) & (data["source"].voxels < middle[1])).repeat(2, 0).repeat(2, 1)
    expected = data["source"].voxels.repeat(2, axis=0).repeat(2, axis=1)
    near = np.abs(data["pred"][0].numpy() - expected) < 0.02 * np.ptp(expected)
    assert near[straight].mean() > 0.95


def test_a_volume_file_may_be_said_to_be_ct(tmp_path: Path) -> None:
    values = np.linspace(-1000, 2000, 8 * 9 * 2).reshape(8, 9, 2).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii")
    for modality, knots in ((None, 2), ("CT", len(CT_KNOTS_HU))):
        data = ReadSourced(keys="image", modality=modality)({"image": tmp_path / "v.nii"})
        assert len(ScaleToModelRanged(keys="image")(data)["image_intensity"].values) == knots
    with pytest.raises(SettingsError, match="modality"):
        ReadSourced(keys="image", modality="US")


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_impossible_values_of_a_ct_volume_file_are_padding(tmp_path: Path, dtype: type) -> None:
    """They are hidden from the network, and come back as they were, in the file too."""
    stored = np.linspace(1100, 2000, 8 * 9 * 2).reshape(8, 9, 2)
    stored[:2], stored[5, 4, 1] = 76, 1101  # -3024 HU, and -1999 HU, which is none
    image = nibabel.Nifti1Image(stored.astype(dtype), np.eye(4))
    image.header.set_slope_inter(1, -3100)
    nibabel.save(image, tmp_path / "v.nii.gz")
    data = ReadSourced(keys="image", modality="CT")({"image": tmp_path / "v.nii.gz"})
    source = data["source"]
    assert (source.modality, source.padding.sum()) == ("CT", 2 * 9 * 2)
    assert source.padding[:2].all()
    assert source.warnings[-1].startswith("36 voxels are -2000 HU or less")
    assert "0028" not in source.warnings[-1]
    assert float(data["image"].min()) == -1999
    data["pred"] = torch.full((1, 24, 27, 2), -1500.0)
    data = RestorePaddingd(keys="pred", factor=3)(data)
    write_volume_file(source, data["pred"][0].numpy(), Factors(3, 3), tmp_path / "out.nii.gz", "")
    result = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    assert (result[:6] == -3024).all()
    assert (result[6:] == -1500).all()
    for modality in (None, "MR", "PT"):
        other = ReadSourced(keys="image", modality=modality)({"image": tmp_path / "v.nii.gz"})
        assert other["source"].padding is None
        assert float(other["image"].min()) == -3024
        assert ["--modality" in warning for warning in other["source"].warnings] == [True] * (modality is None)


def volumes(factor: int = 2) -> tuple[MetaTensor, MetaTensor]:
    """A source with one bright voxel at i = 3, j = 7 of slice 1, and its nearest-neighbour result; unequal spacing."""
    source = torch.zeros(1, 12, 20, 3)
    source[0, 3, 7, 1] = 100.0
    result = source.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    affine = torch.diag(torch.tensor([0.8, 0.5, 3.0, 1.0], dtype=torch.float64))
    fine = affine @ torch.diag(torch.tensor([1 / factor, 1 / factor, 1.0, 1.0], dtype=torch.float64))
    return MetaTensor(source, affine=affine), MetaTensor(result, affine=fine)


def test_panels_show_rows_and_columns() -> None:
    source, result = volumes()
    panels = slice_panels(source, result, Factors(2, 2), IntensityMap((0.0, 100.0), (-1.0, 1.0)), "MR")
    assert [panel.k for panel in panels] == [0, 1, 2]
    panel = panels[1]
    assert panel.result.shape == (40, 24), "rows run along j, columns along i"
    assert panel.spacing_mm == pytest.approx((0.25, 0.4))
    for image in (panel.source, panel.result):
        assert {tuple(p) for p in np.argwhere(image == 100)} == {(14, 6), (14, 7), (15, 6), (15, 7)}
    row, column = np.unravel_index(panel.bicubic.argmax(), panel.bicubic.shape)
    assert row in (14, 15)
    assert column in (6, 7)


def test_assessment_of_a_perfect_and_a_wrong_result() -> None:
    source, result = volumes()
    intensity = IntensityMap((0.0, 100.0), (-1.0, 1.0))
    perfect = assess(source, result, Factors(2, 2), intensity, "HU", 1.5).agreement
    assert (perfect.psnr_db, perfect.max_abs, perfect.rms_before_projection) == (None, 0.0, 1.5)
    wrong = assess(source, MetaTensor(result + 2.0, affine=result.affine), Factors(2, 2), intensity, "HU").agreement
    assert wrong.mean_abs == pytest.approx(2.0)
    assert wrong.nrmse == pytest.approx(0.02)
    assert wrong.psnr_db == pytest.approx(20 * np.log10(100 / 2))
    assert wrong.mean_difference_percent == pytest.approx(100 * 2.0 * source.numel() / 100.0)


def test_details_show_edges_and_flat_tissue_where_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    source = 50 + torch.randn(1, 240, 288, 1, generator=generator)
    source[0, :100] *= 0.1  # darker half
    source[0, 130:150, 200:220] += 20.0 * (torch.arange(20) // 3 % 2)[:, None]  # edges
    source[0, 168:192, 96:120] = 50 + 0.3 * (source[0, 168:192, 96:120] - 50)  # the flattest tile of the grid
    result = source.repeat_interleave(3, 1).repeat_interleave(3, 2)
    volumes = [MetaTensor(image, affine=torch.eye(4)) for image in (source, result)]
    (panel,) = slice_panels(*volumes, Factors(3, 3), IntensityMap((0.0, 100.0), (-1.0, 1.0)), "MR")
    edges, flat = panel.details
    assert (edges.title, flat.title) == ("Most edges", "Flat tissue")
    assert edges.box.row <= 610  # rows run along j; its last stripes count little
    assert edges.box.row + edges.box.rows >= 650
    assert edges.box.column <= 400
    assert edges.box.column + edges.box.columns >= 440
    assert (flat.box.row, flat.box.column, flat.box.rows, flat.box.columns) == (3 * 96, 3 * 168, 72, 72)
    assert 48 < flat.window[0] < 49.5
    assert 50.5 < flat.window[1] < 52


@pytest.mark.parametrize(
    ("low", "high", "window"), [(-100, 200, (-160, 240)), (-300, 1300, (-600, 1400)), (-1100, 100, (-1350, 150))]
)
def test_ct_details_are_not_saturated(low: float, high: float, window: tuple[float, float]) -> None:
    values = np.linspace(low, high, 900).reshape(30, 30)
    assert detail_window(values, "CT", is_flat=False) == window
    metal = detail_window(np.linspace(-1000, 3000, 900), "CT", is_flat=False)
    assert metal[0] < -1000
    assert metal[1] > 3000
    flat = detail_window(values, "CT", is_flat=True)
    assert flat[0] < low
    assert flat[1] > high


def test_ct_window_follows_the_content() -> None:
    ct = IntensityMap(*zip(*CT_KNOTS_HU, strict=True))
    abdomen, chest = torch.full((1, 8, 8, 2), 40.0), torch.full((1, 8, 8, 2), -800.0)
    assert display_window(abdomen, ct, "CT") == (-160.0, 240.0)
    assert display_window(chest, ct, "CT")[0] < -1000
    assert display_window(abdomen, IntensityMap((3.0, 7.0), (-1.0, 1.0)), "MR") == (3.0, 7.0)


def test_volume_of_has_the_ras_affine(tmp_path: Path) -> None:
    made = make_series(tmp_path, "MR", (16, 20, 3))
    volume = volume_of(read_dicom_series(tmp_path))
    assert volume.shape == (1, 20, 16, 3)
    np.testing.assert_allclose(volume.affine.numpy()[:3, 3], made.origin_lps_mm * [-1, -1, 1], atol=1e-3)


def test_the_couch_of_ct_is_not_taken_for_anatomy() -> None:
    """Its top has the strongest edges of the slice; lung has tissue all around and counts."""
    rows, columns = np.mgrid[:200, :240]
    inside = ((rows - 80) / 60) ** 2 + ((columns - 120) / 90) ** 2 < 1
    image = np.where(inside, 40.0, -1000.0).astype(np.float32)
    lung = ((rows - 80) / 25) ** 2 + ((columns - 120) / 25) ** 2 < 1
    image[lung] = -850
    image[150:153, 20:220:2] = 1200  # a pattern in a thin couch top
    image[60:64, 180:184] = 300
    body = patient_of(image)
    assert body[lung].all()
    assert not body[150:].any()
    assert (body == inside)[:145].mean() > 0.98
    assert find_edges(image, 20).row > 130
    found = find_edges(image, 20, body)
    assert found.row + 20 < 145
    assert patient_of(np.full((30, 40), -1000.0)).all(), "everywhere where there is nobody"

"""Stacks: thick slices lie where they say, rows come back on the original's grid, and figures see half a slice."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from generator_fixtures import Nearest
from PIL import Image
from scipy import ndimage

from monai_ldmsr.cli import main
from monai_ldmsr.errors import SettingsError, SourceError
from monai_ldmsr.evaluation.labels import goal_phrase, label
from monai_ldmsr.evaluation.stack_evaluation import StackEvaluation
from monai_ldmsr.evaluation.stack_figures import STACK_FIGURES, STACK_GOALS, StackMeasure
from monai_ldmsr.evaluation.stack_rows import STACK_ROWS, StackRows, refine_by_slices, spline_matrix
from monai_ldmsr.evaluation.stacks import (
    CASES,
    SharpStack,
    StackVolume,
    ThickSlices,
    axes_of,
    load_stack_volumes,
    stacks_of,
)
from monai_ldmsr.geometry import SlicePlaces, VolumeGeometry
from monai_ldmsr.through_plane_quality import evaluate_through_plane
from monai_ldmsr.transforms.intensity import fit_intensity_map


class Unchanged(torch.nn.Module):
    """Planes as they were interpolated."""

    factors = Nearest(2).factors

    def forward(self, slices: torch.Tensor, modality: str | None = None, noise: float | None = None) -> torch.Tensor:
        return torch.nn.functional.interpolate(slices, scale_factor=2)

    def describe(self, modality: str | None = None, noise: float | None = None) -> dict[str, Any]:
        return {"detail": 0.25}

    def describe_planes(self) -> dict[str, Any]:
        return {"slice_detail": 0.25}

    def refine(self, interpolated: torch.Tensor, *about: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return interpolated, torch.zeros_like(interpolated)


def volume(voxels: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1), modality: str = "MR") -> StackVolume:
    tensor = torch.from_numpy(voxels.astype(np.float32))
    geometry = VolumeGeometry(tensor.shape, np.diag([*spacing, 1.0]))
    return StackVolume("v", modality, "p", tensor, geometry, fit_intensity_map(tensor, modality))


def texture(*shape: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    return 1000 + 900 * ndimage.gaussian_filter(noise, 1.2)


def ramp(*shape: int) -> np.ndarray:
    return np.broadcast_to(100.0 + 7.0 * np.arange(shape[-1]), shape).copy()


@pytest.mark.parametrize("thick", CASES, ids=str)
@pytest.mark.parametrize("spacing", [1.0, 0.9, 1.3])
def test_thick_slices_lie_where_thickness_and_gap_say(thick: ThickSlices, spacing: float) -> None:
    """A ramp of millimetres has, in each thick slice, the millimetre of its centre; thickness + gap apart."""
    whole = np.broadcast_to(np.arange(61) * spacing, (4, 4, 61))
    stack = SharpStack.of(volume(whole, (1, 1, spacing)), 2, thick)
    assert stack is not None
    centres = stack.low[0, 0].double().numpy()
    apart = thick.thickness_mm + thick.gap_mm
    places = apart * (np.arange(len(centres)) - (len(centres) - 1) / 2)
    # A part of a voxel counts as that much of the whole one, so that centres jitter where the factor is not whole.
    assert np.abs(centres - centres.mean() - places).max() < (1e-4 if spacing == 1 and thick.gap_mm != 1.5 else 0.15)
    # The middle of all thick slices is that of the slices they are made of, and their faces lie within those.
    assert centres.mean() == pytest.approx(float(stack.high[0, 0].double().mean()), abs=1e-4)
    outer = (centres[0] - thick.thickness_mm / 2, centres[-1] + thick.thickness_mm / 2)
    ends = (float(stack.high[0, 0, 0]) - spacing / 2, float(stack.high[0, 0, -1]) + spacing / 2)
    for face, end in zip(outer, ends, strict=True):
        assert abs(face - end) < spacing / 2 + 1e-3
    assert ends[0] <= outer[0] + 1e-3
    assert ends[1] >= outer[1] - 1e-3
    assert stack.plan.factor == pytest.approx(apart / spacing)
    # Another thick slice would not fit.
    assert outer[1] - outer[0] + apart > 61 * spacing - 1e-3


def test_a_whole_thick_slice_is_the_mean_of_its_voxels() -> None:
    stack = SharpStack.of(volume(texture(5, 6, 50)), 2, ThickSlices(4, 1))
    assert stack is not None
    assert stack.low.shape == (5, 6, 10)
    assert stack.high.shape == (5, 6, 49)
    assert torch.allclose(stack.low[..., 3], stack.high[..., 15:19].mean(dim=-1))


def test_cases_that_voxels_do_not_allow_are_left_out() -> None:
    assert ThickSlices(2).plan(60, 1.5) is None  # hardly thicker than a voxel
    assert ThickSlices(5, 1.5).plan(60, 0.8) is None  # more than 8 voxels apart
    assert ThickSlices(5, 1.5).plan(16, 1.0) is None  # two slices
    found = [str(stack.thick) for stack in stacks_of(volume(texture(8, 8, 50), (1.8, 1.8, 1.8)), (2,), CASES)]
    assert found == ["3|0 mm", "4|0 mm", "4|1 mm", "5|1.5 mm"]


@pytest.mark.parametrize("thick", CASES, ids=str)
def test_interpolations_bring_a_ramp_back_in_place(thick: ThickSlices) -> None:
    """Also with gaps, where the grids' outer faces are not the same; half a slice would be 3.5."""
    stack = SharpStack.of(volume(ramp(4, 4, 90)), 2, thick)
    assert stack is not None
    acquired = SlicePlaces.between_faces(stack.plan.n_source)
    for matrix in (stack.plan.linear, spline_matrix(stack.plan.places, acquired)):
        assert np.allclose(matrix.sum(axis=1), 1.0, atol=1e-5)
        found = stack.low.double() @ torch.from_numpy(matrix).T
        # The spline turns round at both ends of the stack, and forgets that within some slices.
        inner = slice(4 * round(stack.plan.factor), -4 * round(stack.plan.factor))
        jitter = 7 * 0.15 if thick.gap_mm == 1.5 else 0.08  # see above; of both thick slices around
        assert float((found - stack.high)[..., inner].abs().max()) < jitter
        assert abs(float((found - stack.high)[..., inner].mean())) < 0.05


def test_the_spline_passes_through_the_thick_slices() -> None:
    places = SlicePlaces(5, 0.0, 2.0)
    matrix = spline_matrix(places, SlicePlaces(9, 0.0, 1.0))
    assert np.allclose(matrix, np.eye(9)[::2], atol=1e-5)


@pytest.mark.parametrize(("factor", "gap"), [(2, 0.0), (3, 0.0), (4, 0.0), (3, 0.5)])
def test_networks_of_slices_keep_the_place_across_slices(factor: int, gap: float) -> None:
    """Whole factors without gap need no resampling; 3 mm and a gap of 0.5 mm take factor 4 and the spline."""
    whole = np.add.outer(3.0 * np.arange(26), 2.0 * np.arange(26))[..., None] + 7.0 * np.arange(80)
    stack = SharpStack.of(volume(whole), 2, ThickSlices(factor, gap))
    assert stack is not None
    networks = {f: Bilinear(f) for f in (2, 3, 4)}
    made = refine_by_slices(stack.low, networks, stack.plan)
    assert made is not None
    assert made.shape == stack.high.shape
    error = (made - stack.high)[6:-6, 6:-6, 12:-12]
    assert float(error.abs().max()) < 0.3
    assert refine_by_slices(stack.low, {2: networks[2]}, replace(stack.plan, places=SlicePlaces(60, -0.4, 0.2))) is None


class Bilinear(Nearest):
    """Which is exact for ramps away from the border."""

    def forward(self, slices: torch.Tensor, modality: str | None = None, noise: float | None = None) -> torch.Tensor:
        factor = self.factors.whole[0]
        return torch.nn.functional.interpolate(slices, scale_factor=factor, mode="bilinear", align_corners=False)


def test_rows_lie_on_the_originals_grid_and_give_thick_slices_back() -> None:
    stack = SharpStack.of(volume(texture(20, 24, 60)), 2, ThickSlices(3))
    assert stack is not None
    rows = StackRows({"ldm": Unchanged()}, {"srresnet": {3: Bilinear(3)}})
    found = {name: image for name, image, _ in rows.of(stack)}
    assert list(found) == ["linear", "bspline", "bspline_projected", "srresnet", "ldm", "hr"]
    measure = StackMeasure(stack)
    figures = {name: measure.of(image) for name, image in found.items()}
    for name, image in found.items():
        assert image.shape == stack.high.shape
        assert figures[name]["psnr"] > 20 or name == "hr"
    for name in ("bspline_projected", "srresnet", "ldm"):
        assert figures[name]["source_missing"] < 0.02 < figures["linear"]["source_missing"]
    assert figures["bspline_projected"]["psnr"] > figures["bspline"]["psnr"] > figures["linear"]["psnr"]
    assert figures["linear"]["stack_gradient"] < figures["bspline_projected"]["stack_gradient"] < 1


def test_a_row_without_a_network_of_its_factor_is_left_out() -> None:
    stack = SharpStack.of(volume(texture(12, 12, 60)), 2, ThickSlices(4, 1))
    assert stack is not None
    found = [name for name, _, _ in StackRows({}, {"srresnet": {3: Bilinear(3)}}).of(stack)]
    assert found == ["linear", "bspline", "bspline_projected", "hr"]


def test_figures_are_their_definitions_and_the_original_is_perfect() -> None:
    stack = SharpStack.of(volume(texture(60, 64, 60)), 2, ThickSlices(4))
    assert stack is not None
    measure = StackMeasure(stack)
    same = measure.of(stack.high)
    assert math.isnan(same["psnr"])
    assert same["ssim"] == pytest.approx(1)
    assert (same["stack_gradient"], same["flagged"]) == (1, 0)
    assert same["source_missing"] < 1e-5
    shifted = measure.of(stack.high.roll(1, dims=-1))
    half = measure.of((stack.high + stack.high.roll(1, dims=-1)) / 2)
    assert half["psnr"] < 35
    assert shifted["psnr"] < half["psnr"]
    assert half["source_missing"] > 0.05
    moved = stack.high + 20 * torch.from_numpy(np.random.default_rng(1).normal(size=stack.high.shape)).float()
    intensity = stack.volume.intensity
    grey, truth = (((intensity.forward(x).double() + 1) * 127.5).clamp(0, 255).round() for x in (moved, stack.high))
    error = float((grey - truth).square().mean()) ** 0.5
    found = measure.of(moved)
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / error), abs=0.01)
    ratio = float(grey.diff(dim=-1).abs().mean() / truth.diff(dim=-1).abs().mean())
    assert found["stack_gradient"] == pytest.approx(ratio, rel=0.02)
    assert found["ssim"] < 1


def test_foreground_figures_leave_out_the_air() -> None:
    voxels = np.zeros((40, 40, 48))
    voxels[8:32, 8:32] = texture(24, 24, 48)
    stack = SharpStack.of(volume(voxels), 2, ThickSlices(3))
    assert stack is not None
    found = StackMeasure(stack).of(stack.high * 0.97)
    assert found["psnr_foreground"] < found["psnr"] - 1.5
    assert found["ssim_foreground"] < found["ssim"]


def test_each_row_figure_and_goal_has_words() -> None:
    for name in (*STACK_ROWS, *STACK_FIGURES):
        assert label(name)[0].isupper()
    assert set(STACK_FIGURES) == set(STACK_GOALS)
    assert all(goal_phrase(goal) for goal in STACK_GOALS.values())


@pytest.mark.parametrize("axes", ["", "z", "kk", "K"])
def test_an_unknown_axis_is_refused(axes: str) -> None:
    with pytest.raises(SettingsError, match="each once"):
        axes_of(axes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    shapes = {"cube": (56, 52, 60), "short": (60, 60, 20), "thick": (60, 60, 60)}
    for n, (name, shape) in enumerate(shapes.items()):
        affine = np.diag([1.0, 1.0, 3.0 if name == "thick" else 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(texture(*shape, seed=n).astype(np.int16), affine), data / f"{name}.nii.gz")
    return data


def test_only_near_isotropic_volumes_are_taken_and_others_are_named(folder: Path) -> None:
    volumes, left_out = load_stack_volumes(folder, modality="MR")
    assert [one.name for one in volumes] == ["cube.nii.gz"]
    assert "near-isotropic" in left_out["thick.nii.gz"]
    assert "fewer than 48" in left_out["short.nii.gz"]
    assert [one.name for one in load_stack_volumes(folder, modality="MR", axes="ik")[0]] == [
        "cube.nii.gz",
        "short.nii.gz",
    ]
    (folder / "cube.nii.gz").unlink()
    with pytest.raises(SourceError, match="None of 2 volumes"):
        load_stack_volumes(folder, modality="MR")


def test_all_axes_give_a_table_a_page_and_pictures(folder: Path, tmp_path: Path) -> None:
    volumes = load_stack_volumes(folder, modality="MR", axes="ijk")
    said: list[float] = []
    networks = {"srresnet": {2: Bilinear(2), 3: Bilinear(3)}}
    cases = (ThickSlices(2), ThickSlices(4, 1))
    evaluation = StackEvaluation(volumes, {"ldm": Unchanged()}, networks, "ijk", cases)
    out = tmp_path / "out"
    evaluation.run(out, lambda _, share: said.append(share))
    assert said[0] == 0
    assert said[-1] == 1
    assert said == sorted(said)
    found = json.loads((out / "through_plane.json").read_text())
    # All three axes of the cube; of the short one, the two that are long enough.
    assert [one["n_stacks"] for one in found["cases"].values()] == [5, 5]
    assert list(found["cases"]["2|0 mm"]["rows"]) == [*list(STACK_ROWS)[:4], "ldm", "hr"]
    assert "srresnet" not in found["cases"]["4|1 mm"]["rows"]
    assert set(found["left_out"]) == {"thick.nii.gz"}
    assert found["settings"]["ldm_detail"] == 0.25
    per_volume = found["volumes"]["cube.nii.gz"]["bspline"]["psnr"]
    assert per_volume["n"] == 6
    lines = list(csv.DictReader((out / "per_stack.csv").open()))
    of_cube = [float(x["psnr"]) for x in lines if (x["volume"], x["row"]) == ("cube.nii.gz", "bspline")]
    assert per_volume["mean"] == pytest.approx(np.mean(of_cube))
    assert "subject" not in lines[0]
    page = (out / "through_plane.html").read_text()
    assert "Slices of 4|1 mm" in page
    assert "thick.nii.gz" in page
    assert "B-spline, projected" in page
    assert 'title="better than B-spline"' in page
    assert "{{" not in page
    assert Image.open(out / "slices_2_0_mm.png").width > 4 * 96


def test_pictures_show_the_thick_slices_with_the_upper_end_on_top(tmp_path: Path) -> None:
    voxels = np.full((60, 60, 60), 100.0)
    voxels[..., 40:] = 900.0
    for number, sign in enumerate((1.0, -1.0)):
        one = replace(
            volume(voxels + texture(60, 60, 60) / 100),
            geometry=VolumeGeometry((60, 60, 60), np.diag([1.0, 1.0, sign, 1.0])),
        )
        StackEvaluation(([one], {}), {}, cases=(ThickSlices(4),)).run(tmp_path / str(number))
        sheet = np.asarray(Image.open(tmp_path / str(number) / "slices_4_0_mm.png"), float)
        source = sheet[48 : 48 + 180, :180]
        upper, lower = source[:30].mean(), source[-30:].mean()
        assert (upper - lower) * sign > 100
        # A band is 4 voxels of 3 pixels.
        assert np.ptp(source[60:72, :3].mean(axis=1)) < 3 or np.ptp(source[54:66, :3].mean(axis=1)) < 3


def test_no_volume_that_any_case_fits_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="1\\.5 voxels"):
        StackEvaluation(([volume(texture(50, 50, 50), (4, 4, 4))], {}), {}).run(tmp_path)


def test_the_command_refuses_what_it_would_not_use(folder: Path, tmp_path: Path, capsys: Any) -> None:
    for options, said in (
        (["--through-plane", "--operator", "kspace"], "--operator"),
        (["--through-plane", "--no-trust"], "--no-trust"),
        (["--axes", "ijk"], "--through-plane"),
        (["--through-plane", "--axes", "z"], "axes is 'z'"),
        (["--through-plane", "--bundle", "srgan_sr"], "makes no new slices"),
    ):
        assert main(["evaluate", str(folder), str(tmp_path / "out"), "--modality", "MR", *options]) != 0
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundle_is_measured_by_the_command(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["evaluate", str(folder), str(out), "--modality", "MR", "--through-plane"]) == 0
    printed = capsys.readouterr().out
    assert "thick.nii.gz was left out" in printed
    found = json.loads((out / "through_plane.json").read_text())
    assert list(found["cases"]) == [str(case) for case in CASES]
    rows = found["cases"]["4|0 mm"]["rows"]
    assert list(rows) == ["linear", "bspline", "bspline_projected", "srresnet", "ldm_mean", "ldm_sample", "ldm", "hr"]
    mean, sample, shipped = (rows[name] for name in ("ldm_mean", "ldm_sample", "ldm"))
    assert shipped["psnr"]["mean"] == pytest.approx(mean["psnr"]["mean"], abs=1e-4), "new slices are means"
    assert sample["stack_gradient"]["mean"] > mean["stack_gradient"]["mean"]


def test_the_function_takes_the_bundles_config(folder: Path, tmp_path: Path) -> None:
    (folder / "cube.nii.gz").unlink()
    with pytest.raises(SourceError, match="near-isotropic"):
        evaluate_through_plane(folder, tmp_path / "out", modality="MR")

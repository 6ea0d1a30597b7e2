"""Planes along a stack: where they lie, which way up they are drawn, and what is measured on them."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.geometry import Factors, SlicePlaces, VolumeGeometry
from monai_ldmsr.reformats import StackPlanes, reformat_panels
from monai_ldmsr.report import SlicePanel
from monai_ldmsr.report.figures import draw_panel
from monai_ldmsr.slice_plan import SlicePlan, SliceTarget
from monai_ldmsr.stack_assessment import assess_stack
from monai_ldmsr.transforms import IntensityMap

FloatArray = npt.NDArray[np.float64]

MR = IntensityMap((0.0, 1000.0), (-1.0, 1.0))

#: Stacks by the patient's axis (R, A, S) and sign of each voxel axis, and the planes that hold their axis.
STACKS = {
    "axial": (((0, -1), (1, -1), (2, 1)), ("Coronal", "Sagittal")),
    "axial from the feet's side, mirrored": (((0, 1), (1, 1), (2, -1)), ("Coronal", "Sagittal")),
    "sagittal": (((1, -1), (2, -1), (0, 1)), ("Axial", "Coronal")),
    "coronal": (((0, -1), (2, -1), (1, -1)), ("Axial", "Sagittal")),
}

SPACING_MM = (0.8, 1.1, 5.0)


def affine_of(axes: tuple[tuple[int, int], ...], tilt_degrees: float = 0.0) -> FloatArray:
    """Voxel to RAS; tilted about the patient's axis from right to left."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel, (patient, sign) in enumerate(axes):
        affine[patient, voxel] = sign * SPACING_MM[voxel]
    angle = np.deg2rad(tilt_degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = (3.0, -7.0, 11.0)
    return affine


def field(geometry: VolumeGeometry, patient_axis: int) -> Tensor:
    """(1, I, J, K) 500 plus millimetres along an axis of the patient."""
    index = np.indices(geometry.shape).reshape(3, -1)
    mm = (geometry.affine[:3, :3] @ index + geometry.affine[:3, 3:])[patient_axis]
    return torch.from_numpy(500 + mm.reshape(geometry.shape)).float()[None]


def ramp_planes(
    axes: tuple[tuple[int, int], ...], patient_axis: int, tilt: float = 0.0
) -> tuple[StackPlanes, FloatArray]:
    """Planes of a stack with gaps, twice as fine within slices, whose values are millimetres; the result's affine."""
    source = VolumeGeometry((12, 10, 8), affine_of(axes, tilt))
    plan = SliceTarget(slice_spacing=1.3).plan(source, 2, thickness_mm=4.0)
    fine = source.upsampled(plan.grid(2))
    volumes = field(source, patient_axis), field(fine, patient_axis)
    return StackPlanes(*volumes, plan, Factors(2, 2), MR, "MR"), fine.affine


def panels_of(axes: tuple[tuple[int, int], ...], patient_axis: int, tilt: float = 0.0) -> list[SlicePanel]:
    """Both planes of such a stack."""
    return reformat_panels(*ramp_planes(axes, patient_axis, tilt))


@pytest.mark.parametrize("stack", STACKS)
def test_planes_are_named_and_drawn_upright_with_true_millimetres(stack: str) -> None:
    axes, names = STACKS[stack]
    across = {"Sagittal": (1, 2), "Coronal": (0, 2), "Axial": (0, 1)}
    for n, name in enumerate(names):
        horizontal, vertical = across[name]
        left_to_right, top_to_bottom = (panels_of(axes, axis)[n] for axis in (horizontal, vertical))
        assert left_to_right.title == f"{name} plane, through the middle of the body"
        rows_mm, columns_mm = left_to_right.spacing_mm
        # RAS falls from the patient's right (left in the picture) or anterior, and from the head or anterior (top).
        assert np.diff(left_to_right.result, axis=1) == pytest.approx(-columns_mm, abs=1e-3)
        assert np.diff(left_to_right.result, axis=0) == pytest.approx(0, abs=1e-3)
        assert np.diff(top_to_bottom.result, axis=0) == pytest.approx(-rows_mm, abs=1e-3)
        assert np.diff(top_to_bottom.result, axis=1) == pytest.approx(0, abs=1e-3)
        width, height = draw_panel(left_to_right).size_px
        rows, columns = left_to_right.result.shape
        assert width / height == pytest.approx(columns * columns_mm / (rows * rows_mm), rel=0.01)


@pytest.mark.parametrize("stack", STACKS)
def test_interpolation_and_bands_lie_where_the_result_does(stack: str) -> None:
    """Linear interpolation of a ramp is the ramp, but near the borders; bicubic nearly so; bands go up and down."""
    axes, _ = STACKS[stack]
    for patient_axis in range(3):
        planes, affine = ramp_planes(axes, patient_axis)
        for axis, index in ((0, 7), (0, 14), (1, 9), (1, 12)):
            exact = planes.result_plane(axis, index).numpy()
            inner = tuple(slice(round(n * 0.2), round(n * 0.8)) for n in exact.shape)
            linear, bicubic = (
                MR.inverse(image).numpy()[inner] for image in (planes.linear(axis, index), planes.bicubic(axis, index))
            )
            step_mm = SPACING_MM[next(voxel for voxel, (patient, _) in enumerate(axes) if patient == patient_axis)]
            assert linear == pytest.approx(exact[inner], abs=2e-3)
            assert bicubic == pytest.approx(exact[inner], abs=0.06 * step_mm)  # half a new voxel is 0.13 and more
        for panel in reformat_panels(planes, affine):
            assert np.abs(panel.source - panel.result).max() <= 2.5 + 0.8 / 2 + 1e-3
            assert np.mean(panel.source - panel.result) == pytest.approx(0, abs=0.3)


def test_a_tilted_plane_is_called_so() -> None:
    titles = [panel.title for panel in panels_of(STACKS["axial"][0], 2, tilt=20.0)]
    assert titles[0].startswith("Coronal plane (tilted by 20°)")
    assert titles[1].startswith("Sagittal plane, ")


def test_bands_with_gaps_lie_at_their_millimetres() -> None:
    geometry = VolumeGeometry((8, 6, 5), np.diag([1.0, 1.0, 5.0, 1.0]))
    plan = SliceTarget(slice_spacing=0.7).plan(geometry, 1, thickness_mm=3.0)
    source = torch.arange(1.0, 6.0).expand(1, 8, 6, 5) * 100
    result = torch.full((1, 8, 6, plan.places.number), 300.0)
    planes = StackPlanes(source, result, plan, Factors(1, 1), MR, "MR")
    share = planes.coverage
    assert share.sum(axis=0) * plan.new_spacing_mm == pytest.approx(3.0), "each band is as thick as its slice"
    places = plan.places.first + plan.places.step * np.arange(plan.places.number)
    assert (share * places[:, None]).sum(axis=0) / share.sum(axis=0) == pytest.approx(np.arange(5), abs=0.02)
    panel = reformat_panels(planes, geometry.upsampled(plan.grid(1)).affine)[0]
    whole = share.sum(axis=1) > 0.999
    upright = panel.source[::-1]
    assert set(upright[whole][:, 0]) == {100.0, 200.0, 300.0, 400.0, 500.0}
    assert (np.diff(upright[whole][:, 0]) >= 0).all(), "the last slice is that at the head"
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(draw_panel(panel).slices["source"].split(",")[1]))))
    assert (drawn[::-1][share.sum(axis=1) == 0] == 0).all()
    assert drawn[::-1][whole][0, 0] == round(100 * 0.255)
    assert (share.sum(axis=1) == 0).any()


def test_slices_without_gap_are_bands_without_black() -> None:
    geometry = VolumeGeometry((8, 6, 5), np.diag([1.0, 1.0, 5.0, 1.0]))
    plan = SliceTarget(factor_slices=4).plan(geometry)
    source = torch.rand(1, 8, 6, 5) * 900
    planes = StackPlanes(source, torch.zeros(1, 8, 6, 20), plan, Factors(1, 1), MR, "MR")
    panel = reformat_panels(planes, geometry.upsampled(plan.grid(1)).affine)[0]
    assert panel.acquired is None
    expected = source[0, :, panel.k].T.repeat_interleave(4, 0).numpy()[::-1, ::-1]
    assert panel.source == pytest.approx(expected)


def head(shape: tuple[int, int, int]) -> Tensor:
    """A ball of noise in tissue in near darkness, off the middle of its volume."""
    generator = torch.Generator().manual_seed(1)
    grids = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum((grid - centre) ** 2 for grid, centre in zip(grids, (0.2, -0.1, 0.0), strict=True)) < 0.5
    return torch.where(inside, 400 + 20 * torch.randn(shape, generator=generator), 50.0)[None]


def planes_of(result: Tensor | None = None, n: int = 30, ripple: float = 0.0, gain: float = 1.0) -> StackPlanes:
    """A ball, and what cubic interpolation makes of it, with stripes and steeper by a gain where asked for."""
    source = head((60, 50, n))
    plan = SlicePlan(n, SlicePlaces.between_faces(n, 4), 4.0, 4.0)
    made = torch.einsum("cijk,nk->cijn", source.double(), torch.from_numpy(plan.interpolation))
    places = plan.places.first + plan.places.step * torch.arange(plan.places.number)
    made = 400 + gain * (made - 400) + ripple * torch.cos(2 * torch.pi * places)
    return StackPlanes(source, made.float() if result is None else result, plan, Factors(1, 1), MR, "MR")


def test_the_middle_is_that_of_the_body() -> None:
    planes = planes_of()
    assert planes.places(0, 1)[0] == pytest.approx(0.6 * 60 - 0.5, abs=1.5)
    assert planes.places(1, 1)[0] == pytest.approx(0.45 * 50 - 0.5, abs=1.5)
    many = planes.places(0, 6)
    assert len(many) == 6
    assert min(many) > 0.2 * 60


def test_a_result_that_averages_to_the_source_agrees_and_one_that_is_shifted_does_not() -> None:
    source = head((24, 20, 9))
    geometry = VolumeGeometry((24, 20, 9), np.diag([1.0, 1.0, 5.0, 1.0]))
    plan = SliceTarget(slice_spacing=1.2).plan(geometry, 2, thickness_mm=4.0)
    within = torch.stack([AreaOperator(2).smooth_inverse(one[None])[0] for one in source.double().unbind(-1)], -1)
    fine = torch.einsum("cijk,nk->cijn", within, torch.from_numpy(plan.inverse)).float()
    figures = [
        assess_stack(StackPlanes(source, made, plan, Factors(2, 2), MR, "MR"), "stored", 3.0).agreement
        for made in (fine, fine.roll(1, -1), fine.roll(1, 1), fine + 2)
    ]
    assert figures[0].nrmse is not None
    assert figures[0].nrmse < 1e-6
    assert figures[0].rms_before_projection == 3.0
    assert all(one.nrmse is not None and one.nrmse > 0.01 for one in figures[1:3])
    assert figures[3].mean_abs == pytest.approx(2.0, rel=1e-3)


def test_interpolation_has_the_figures_of_interpolation() -> None:
    found = assess_stack(planes_of(), "stored")
    assert found.z_gradient == pytest.approx(1.0, abs=1e-3)
    assert found.result.laplacian_variance == pytest.approx(found.bicubic.laplacian_variance, rel=1e-2)
    assert found.source.laplacian_variance != found.bicubic.laplacian_variance
    assert found.result.n_slices == 12
    flat = found.flat_tissue
    assert flat is not None
    assert flat.noise_source == pytest.approx(20.0, rel=0.2)
    assert flat.noise_result == pytest.approx(flat.noise_bicubic, rel=1e-3)
    assert (flat.pattern, flat.mesh) == (pytest.approx(0.0, abs=1e-3), None)
    assert not [text for text in flat.warnings if "pattern" in text]


def test_steeper_slices_and_stripes_are_found() -> None:
    steeper = assess_stack(planes_of(gain=2.0), "stored")
    assert steeper.z_gradient == pytest.approx(2.0, rel=1e-3)
    flat = assess_stack(planes_of(ripple=8.0), "stored").flat_tissue
    assert flat is not None
    assert flat.comb == pytest.approx(8.0 / 2**0.5 / flat.noise_source, rel=0.15)
    assert [text for text in flat.warnings if "regular pattern" in text]

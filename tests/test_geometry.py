"""VolumeGeometry: half voxels, faces, LPS and RAS."""

from __future__ import annotations

import numpy as np
import pytest

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.geometry import VolumeGeometry, lps_to_ras, spread_slices

ANGLE = np.deg2rad(20)
DIRECTION = np.array([[np.cos(ANGLE), 0, np.sin(ANGLE)], [0, 1, 0], [-np.sin(ANGLE), 0, np.cos(ANGLE)]])


def oblique(shape: tuple[int, int, int] = (4, 6, 3)) -> VolumeGeometry:
    return VolumeGeometry.from_lps(shape, [10.0, -20.0, 30.0], DIRECTION, [0.9, 0.7, 2.5])


def test_lps_terms_come_back() -> None:
    geometry = oblique()
    np.testing.assert_allclose(geometry.origin_lps_mm, [10, -20, 30])
    np.testing.assert_allclose(geometry.direction_lps, DIRECTION, atol=1e-12)
    assert geometry.spacing_mm == pytest.approx((0.9, 0.7, 2.5))


def test_ras_is_lps_with_the_first_two_axes_flipped() -> None:
    geometry = oblique()
    lps = np.array([10.0, -20.0, 30.0]) + DIRECTION @ (np.array([0.9, 0.7, 2.5]) * [1, 2, 1])
    np.testing.assert_allclose((geometry.affine @ [1, 2, 1, 1])[:3], [-lps[0], -lps[1], lps[2]])
    np.testing.assert_allclose(lps_to_ras(lps_to_ras(geometry.affine)), geometry.affine)
    assert not np.allclose(lps_to_ras(geometry.affine), geometry.affine)


@pytest.mark.parametrize("factors", [(2, 2, 1), (4, 4, 1), (3, 2, 1), (1, 1, 2), (1, 1, 1)])
def test_faces_stay_when_voxels_are_divided(factors: tuple[int, int, int]) -> None:
    source = oblique()
    result = source.upsampled(factors)
    assert result.shape == tuple(np.array(source.shape) * factors)
    np.testing.assert_allclose(result.corners_mm(), source.corners_mm(), atol=1e-12)
    np.testing.assert_allclose(np.array(result.spacing_mm) * factors, source.spacing_mm)


def test_first_centre_moves_a_quarter_of_a_source_voxel_at_factor_two() -> None:
    source = VolumeGeometry((4, 4, 1), np.diag([2.0, 4.0, 5.0, 1.0]))
    result = source.upsampled((2, 2, 1))
    # Outer face at -1 mm and -2 mm; half a result voxel (0.5 mm, 1 mm) inside it.
    np.testing.assert_allclose(result.affine[:3, 3], [-0.5, -1.0, 0.0])


def test_corners_are_half_a_voxel_outside_the_centres() -> None:
    corners = VolumeGeometry((2, 3, 4), np.eye(4)).corners_mm()
    assert corners.shape == (8, 3)
    np.testing.assert_allclose(corners[0], [-0.5, -0.5, -0.5])
    np.testing.assert_allclose(corners[-1], [1.5, 2.5, 3.5])


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.diag([1.0, 0.0, 1.0, 1.0]),
        np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.eye(3),
    ],
    ids=["zeros", "flat", "parallel", "nan", "3x3"],
)
def test_singular_or_broken_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(SourceError, match="affine") as caught:
        VolumeGeometry((2, 2, 2), affine)
    assert caught.value.reason is ReasonCode.SINGULAR_GEOMETRY


def test_sheared_but_sound_affine_is_kept() -> None:
    affine = np.array([[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 2.5, 0], [0, 0, 0, 1]])
    assert VolumeGeometry((2, 2, 2), affine).spacing_mm[2] == pytest.approx(np.hypot(1, 2.5))


def test_affine_cannot_be_changed_from_outside() -> None:
    affine = np.eye(4)
    geometry = VolumeGeometry((2, 2, 2), affine)
    affine[0, 0] = 9
    assert geometry.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 9


@pytest.mark.parametrize(("n_slices", "wanted"), [(1, 1), (1, 4), (3, 3), (4, 3), (5, 3), (29, 1), (29, 4), (29, 12)])
def test_slices_are_spread_once_each_and_evenly(n_slices: int, wanted: int) -> None:
    picked = spread_slices(n_slices, wanted)
    assert picked == sorted(set(picked))
    assert set(picked) <= set(range(n_slices))
    assert 1 <= len(picked) <= wanted
    assert n_slices > wanted or len(picked) == n_slices
    assert abs(np.mean(picked) - (n_slices - 1) / 2) <= 0.5

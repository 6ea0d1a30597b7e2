"""Where voxels are in the patient: the only place where LPS becomes RAS.

Frame: all millimetres in this package are RAS (NIfTI, MONAI), except at the borders named ``lps`` (DICOM, ITK).
Axes: voxel indices are ``(i, j, k)``; ``i`` is the DICOM column index, ``j`` the row index, ``k`` the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.number_settings import real_number

__all__ = ["Factors", "ResultGrid", "SlicePlaces", "VolumeGeometry", "lps_to_ras", "spread_slices"]

FloatArray = npt.NDArray[np.float64]

#: Flips the first two patient axes: RAS = LPS_TO_RAS @ LPS, and back again.
LPS_TO_RAS: FloatArray = np.diag([-1.0, -1.0, 1.0, 1.0])

#: A unit volume under this (of columns scaled to length 1) counts as a singular affine.
_SINGULAR_TOLERANCE = 1e-3


def lps_to_ras(affine: npt.ArrayLike) -> FloatArray:
    """Turn a 4x4 index-to-LPS affine into index-to-RAS, or the other way round (it is its own inverse)."""
    return LPS_TO_RAS @ np.asarray(affine, dtype=np.float64)


def spread_slices(n_slices: int, wanted: int) -> list[int]:
    """Indices of at most ``wanted`` slices, evenly over a volume, each once, none at the very ends of a larger one.

    Example:
        >>> spread_slices(16, 3), spread_slices(4, 3), spread_slices(2, 3)
        ([4, 8, 11], [1, 2], [0, 1])
    """
    if n_slices <= wanted:
        return list(range(n_slices))
    return sorted({round(float(k)) for k in np.linspace(0, n_slices - 1, wanted + 2)[1:-1]})


class Factors(NamedTuple):
    """How many times finer a result's grid is than its source's.

    Args:
        i: along the first axis of volumes (DICOM columns), which is that of a slice's rows as networks see it.
        j: along the second axis.
        k: across slices.

    Example:
        >>> Factors.of("2.0"), Factors.of([2, 1.5]), str(Factors.of(4)), str(Factors.of((2, 2, 3)))
        (Factors(i=2, j=2, k=1), Factors(i=2, j=1.5, k=1), '4', '2x2x3')
    """

    i: float
    j: float
    k: float = 1

    @classmethod
    def of(cls, given: Any) -> Factors:
        """Factors as a config or user gave them: one within slices, a pair of them, or all three.

        Raises:
            SettingsError: one is no number from 1.
        """
        if not isinstance(given, tuple | list):
            given = (given, given)
        if len(given) not in (2, 3):
            raise SettingsError(f"factor has {len(given)} numbers; give one, or two or three of them.")
        return cls(*(_plain_factor(value) for value in given))

    @property
    def in_plane(self) -> tuple[float, float]:
        """Those of a slice's rows and columns, as networks and degradations see it."""
        return self.i, self.j

    @property
    def whole(self) -> tuple[int, int, int]:
        """The same as whole numbers, for what needs blocks of voxels.

        Raises:
            SettingsError: one is not whole.
        """
        if any(value != int(value) for value in self):
            raise SettingsError(f"factor is {self}, but this needs whole ones.")
        return int(self.i), int(self.j), int(self.k)

    def __str__(self) -> str:
        """One number where slices are made finer alike in both directions, and stay as many."""
        is_plain = self.i == self.j and self.k == 1
        return f"{self.i:g}" if is_plain else "x".join(f"{value:g}" for value in self)


class SlicePlaces(NamedTuple):
    """Where the slices of a result lie along the stack of its source.

    Args:
        number: number of slices of the result.
        first: place of the centre of its first slice, in slices of the source: 0 is the centre of the source's first
            slice, 1 that of its second.
        step: distance between two of them, in slices of the source.

    Example:
        >>> SlicePlaces.between_faces(3, 2)
        SlicePlaces(number=6, first=-0.25, step=0.5)
    """

    number: int
    first: float
    step: float

    @classmethod
    def between_faces(cls, n_source: int, factor: int = 1) -> SlicePlaces:
        """``factor`` slices for each of the source, between the same outer faces."""
        return cls(n_source * factor, (1 / factor - 1) / 2, 1 / factor)

    def of(self, k: int) -> float:
        """Place of slice ``k`` of the result, in slices of the source."""
        return self.first + k * self.step

    @property
    def centres(self) -> FloatArray:
        """(number,) places of all of them."""
        return np.asarray(self.first + self.step * np.arange(self.number))


@dataclass(frozen=True)
class ResultGrid:
    """How the grid of a result lies on that of its source.

    Args:
        factors: how many times finer it is along i, j, k; whole along i and j.
        slices: where its slices lie; None for ``factors.k`` of them, which is whole then, for each of the source.

    Example:
        >>> ResultGrid.of(2).shape_of((4, 6, 3)), ResultGrid.of((1, 1, 4)).shape_of((4, 6, 3))
        ((8, 12, 3), (4, 6, 12))
        >>> finer = ResultGrid.with_slices(1, SlicePlaces(9, -0.4, 0.35))
        >>> finer.shape_of((4, 6, 3)), str(finer)
        ((4, 6, 9), '1x1x2.85714')
    """

    factors: Factors
    slices: SlicePlaces | None = None

    @classmethod
    def of(cls, given: Any) -> ResultGrid:
        """A grid as it is, or that of factors as ``Factors.of`` takes them."""
        return given if isinstance(given, ResultGrid) else cls(Factors.of(given))

    @classmethod
    def with_slices(cls, in_plane: Any, slices: SlicePlaces) -> ResultGrid:
        """The grid of factors within slices, and of slices at other places."""
        i, j, _ = Factors.of(in_plane)
        return cls(Factors(i, j, 1 / slices.step), slices)

    @property
    def has_own_slices(self) -> bool:
        """Whether its slices are others than those of the source."""
        return self.slices is not None or self.factors.k != 1

    def places(self, n_source: int) -> SlicePlaces:
        """Where its slices lie, on a source of so many.

        Raises:
            SettingsError: a factor is not whole where it must be.
        """
        return self.slices or SlicePlaces.between_faces(n_source, self.factors.whole[2])

    def shape_of(self, source: tuple[int, int, int]) -> tuple[int, int, int]:
        """Voxels of the result along I, J, K.

        Raises:
            SettingsError: a factor is not whole where it must be.
        """
        i, j, _ = Factors(self.factors.i, self.factors.j).whole
        return source[0] * i, source[1] * j, self.places(source[2]).number

    def __str__(self) -> str:
        """As those of the factors."""
        return str(self.factors)


def _plain_factor(given: Any) -> float:
    number = real_number("factor", given, 1.0)
    return int(number) if number == int(number) else number


@dataclass(frozen=True, eq=False)
class VolumeGeometry:
    """Grid of a volume in the patient.

    Args:
        shape: number of voxels ``(I, J, K)``.
        affine: (4, 4) from voxel index (centre of voxel) to RAS millimetres.

    Raises:
        SourceError: ``SINGULAR_GEOMETRY`` when the affine is not finite or its axes do not span space.

    Example:
        >>> import numpy as np
        >>> source = VolumeGeometry((4, 6, 2), np.diag([2.0, 1.0, 5.0, 1.0]))
        >>> result = source.upsampled((2, 2, 1))
        >>> result.shape, result.spacing_mm
        ((8, 12, 2), (1.0, 0.5, 5.0))
        >>> bool(np.allclose(source.corners_mm(), result.corners_mm()))
        True
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise SourceError(
                "The affine is not a finite 4x4 matrix, so voxels have no place in the patient.",
                ReasonCode.SINGULAR_GEOMETRY,
            )
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if (lengths == 0).any() or abs(np.linalg.det(affine[:3, :3] / lengths)) < _SINGULAR_TOLERANCE:
            raise SourceError(
                "The affine is singular: its axes do not span the three directions of space. "
                "Repair the header before super-resolution.",
                ReasonCode.SINGULAR_GEOMETRY,
            )

    @classmethod
    def from_lps(
        cls,
        shape: tuple[int, int, int],
        origin_mm: npt.ArrayLike,
        direction: npt.ArrayLike,
        spacing_mm: npt.ArrayLike,
    ) -> VolumeGeometry:
        """Build from DICOM or ITK terms, in LPS.

        Args:
            shape: ``(I, J, K)``.
            origin_mm: (3,) centre of voxel (0, 0, 0).
            direction: (3, 3) whose columns are the unit directions of growing i, j, k.
            spacing_mm: (3,) distance between voxel centres along i, j, k.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(direction, np.float64) * np.asarray(spacing_mm, np.float64)
        affine[:3, 3] = np.asarray(origin_mm, np.float64)
        return cls(shape, lps_to_ras(affine))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def affine_lps(self) -> FloatArray:
        """(4, 4) from voxel index to LPS millimetres."""
        return lps_to_ras(self.affine)

    @property
    def direction_lps(self) -> FloatArray:
        """(3, 3) unit directions of growing i, j, k in LPS, as columns."""
        return np.asarray(self.affine_lps[:3, :3] / np.asarray(self.spacing_mm))

    @property
    def origin_lps_mm(self) -> FloatArray:
        """(3,) centre of voxel (0, 0, 0) in LPS."""
        return self.affine_lps[:3, 3]

    def upsampled(self, grid: ResultGrid | Factors | tuple[int, int, int]) -> VolumeGeometry:
        """Finer grid: of whole factors, between the same outer faces; of slices at places of their own, there.

        Within slices the origin moves by ``A ((1/f - 1)/2)``: voxel centres shift by half a voxel, faces stay.

        Raises:
            SettingsError: a factor is not whole where it must be.
        """
        finer = ResultGrid.of(grid)
        slices = finer.places(self.shape[2])
        steps = np.array([1.0 / finer.factors.i, 1.0 / finer.factors.j, slices.step])
        first = np.array([*(steps[:2] - 1.0) / 2.0, slices.first])
        affine = self.affine @ np.diag([*steps, 1.0])
        affine[:3, 3] = self.affine[:3, 3] + self.affine[:3, :3] @ first
        return VolumeGeometry(finer.shape_of(self.shape), affine)

    def corners_mm(self) -> FloatArray:
        """(8, 3) corners of the volume's outer faces in RAS, in index order."""
        index = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in self.shape], indexing="ij")).reshape(3, -1)
        return np.asarray((self.affine[:3, :3] @ index + self.affine[:3, 3:]).T)

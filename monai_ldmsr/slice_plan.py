"""Where new slices of a stack lie, and by what profile the acquired ones were averaged along it. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.choices import MAX_SLICE_FACTOR, MIN_SLICE_FACTOR, PROFILES
from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.geometry import Factors, ResultGrid, SlicePlaces, VolumeGeometry
from monai_ldmsr.number_settings import real_number, yes_or_no

__all__ = ["FWHM", "SlicePlan", "SliceTarget"]

FloatArray = npt.NDArray[np.float64]

#: Fewest slices of which others are made between them.
_FEWEST_SLICES = 3

#: A target that is finer than the source by less than this part of it is the source's own spacing.
_SAME = 0.01

_FACTORS = ("factor_slices", MIN_SLICE_FACTOR, MAX_SLICE_FACTOR)

#: What rounding of headers' numbers may make of a factor.
_ROUNDING = 1e-3

#: Width at half height of a Gaussian of standard deviation 1.
FWHM = 2 * math.sqrt(2 * math.log(2))

#: Of bicubic interpolation, as everywhere in this package.
_CUBIC_A = -0.75

#: Where slices overlap they have all but averaged some patterns away. Where the weakest is below the first number, none
#: below the second is brought back: noise would be, too.
_WEAKEST, _KEPT = 0.15, 0.25

#: How many times as thick as they lie apart slices may be: what thicker ones averaged lies too deep within each other.
_MOST_OVERLAP = 3.0


@dataclass(frozen=True)
class SlicePlan:
    """New slices of one stack, and the profile that its acquired slices are assumed to have.

    Places are in acquired slices: 0 is the centre of the first, 1 that of the second.

    Args:
        n_source: number of acquired slices.
        places: where the new ones lie.
        spacing_mm: distance between the centres of two acquired slices.
        thickness_mm: full width of the profile (box), or its width at half height (gaussian).
        profile: one of ``choices.PROFILES``.
        is_assumed: whether no header says the thickness.
    """

    n_source: int
    places: SlicePlaces
    spacing_mm: float
    thickness_mm: float
    profile: str = "box"
    is_assumed: bool = False

    @property
    def factor(self) -> float:
        """How many times finer the slices lie than the acquired ones."""
        return 1.0 / self.places.step

    @property
    def new_spacing_mm(self) -> float:
        """Distance between two new slices, which is their thickness, too."""
        return self.spacing_mm * self.places.step

    def grid(self, in_plane: Any) -> ResultGrid:
        """Grid of a result of these factors within slices."""
        return ResultGrid.with_slices(in_plane, self.places)

    @cached_property
    def averaging(self) -> FloatArray:
        """(K, n) what each acquired slice averages of the new ones; rows have the sum 1."""
        distance = self.places.centres[None, :] - np.arange(self.n_source)[:, None]
        half = self.thickness_mm / self.spacing_mm / 2
        ends = (distance - self.places.step / 2, distance + self.places.step / 2)
        if self.profile == "box":
            weight = np.clip(np.minimum(ends[1], half) - np.maximum(ends[0], -half), 0, None)
        else:
            scale = 2 * half / FWHM * math.sqrt(2)
            erf = np.vectorize(math.erf, otypes=[np.float64])
            weight = erf(ends[1] / scale) - erf(ends[0] / scale)
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))

    @cached_property
    def interpolation(self) -> FloatArray:
        """(n, K) bicubic interpolation (a = -0.75); beyond the outermost centres, their slices go on."""
        new = self.places.centres
        before = np.floor(new).astype(int)
        matrix = np.zeros((self.places.number, self.n_source))
        for offset in range(-1, 3):
            at = before + offset
            np.add.at(matrix, (np.arange(len(new)), np.clip(at, 0, self.n_source - 1)), _cubic(np.abs(new - at)))
        return matrix

    @cached_property
    def linear(self) -> FloatArray:
        """(n, K) linear interpolation; beyond the outermost centres, their slices go on.

        Example:
            >>> SlicePlan(3, SlicePlaces(2, 0.25, 1.0), 4.0, 4.0).linear.tolist()
            [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25]]
        """
        acquired = np.arange(self.n_source)
        return np.stack([np.interp(self.places.centres, acquired, one) for one in np.eye(self.n_source)], axis=1)

    @cached_property
    def inverse(self) -> FloatArray:
        """(n, K) smooth slices ``U y`` that average to given ones, ``A U = 1``, as ``smooth_inverse`` within slices.

        ``U = B (A B)^-1`` of averaging A and interpolation B. Where slices overlap, what averaging has all but
        removed is not brought back in full.
        """
        both = self.averaging @ self.interpolation
        weakest = float(np.linalg.svd(both, compute_uv=False).min())
        return np.asarray(self.interpolation @ np.linalg.pinv(both, rcond=_KEPT if weakest < _WEAKEST else 1e-9))

    def nearest(self) -> npt.NDArray[np.int64]:
        """(n,) for each new slice the acquired one whose centre is nearest."""
        # Rounded first, so that rounding noise does not decide for one of two that are equally near.
        return np.asarray(np.clip(np.rint(np.round(self.places.centres, 6)), 0, self.n_source - 1), np.int64)

    def sources(self, number: int) -> list[int]:
        """The acquired slices that new slice ``number`` comes from: those that averaged it; in a gap, both beside."""
        found = np.flatnonzero(self.averaging[:, number] > _ROUNDING)
        if len(found):
            return [int(k) for k in found]
        place = self.places.of(number)
        ends = (math.floor(place), math.ceil(place))
        return sorted({min(max(k, 0), self.n_source - 1) for k in ends})

    def described(self) -> dict[str, Any]:
        """What changes the result, by name, for report and header."""
        return {
            "slice_spacing_mm": round(self.new_spacing_mm, 6),
            "slice_profile": self.profile,
            "slice_thickness_mm": round(self.thickness_mm, 6),
        }

    def words(self) -> str:
        """One line for the report: what was made of what, and the profile that was assumed."""
        gap = self.spacing_mm - self.thickness_mm
        if abs(gap) <= _SAME * self.spacing_mm:
            stack = "without gap"
        else:
            stack = f"with gaps of {gap:.4g} mm" if gap > 0 else f"overlapping by {-gap:.4g} mm"
        shape = (
            f"box {self.thickness_mm:.4g} mm wide"
            if self.profile == "box"
            else f"Gaussian {self.thickness_mm:.4g} mm wide at half height"
        )
        assumed = "; no one thickness is known, so it was taken to be the distance" if self.is_assumed else ""
        return (
            f"{self.places.number} slices {self.new_spacing_mm:.4g} mm apart from {self.n_source} slices "
            f"{self.spacing_mm:.4g} mm apart, {stack}. Assumed slice profile: {shape}{assumed}."
        )


@dataclass(frozen=True)
class SliceTarget:
    """How fine slices are wanted: at most one of spacing, isotropic and factor.

    Args:
        slice_spacing: distance between new slices in mm; the nearest one is taken that fills the stack.
        isotropic: as far apart as the result's pixels.
        factor_slices: how many times finer than the source's, whole or not.
        profile: shape of the profile of acquired slices, one of ``choices.PROFILES``.
        slice_thickness: its width in mm, whatever headers say; None takes what they say, else the slices' distance.

    Raises:
        SettingsError: one is outside what is possible, or several are given.
    """

    slice_spacing: float | None = None
    isotropic: bool = False
    factor_slices: float | None = None
    profile: str = "box"
    slice_thickness: float | None = None

    def __post_init__(self) -> None:
        read: dict[str, Any] = {"isotropic": yes_or_no("isotropic", self.isotropic or False)}
        for name, low, high in (("slice_spacing", 0, math.inf), ("slice_thickness", 0, math.inf), _FACTORS):
            value = getattr(self, name)
            read[name] = None if value is None else real_number(name, value, low, high)
            if read[name] == 0:
                raise SettingsError(f"{name} is 0; give a number of mm above 0.")
        for name, number in read.items():
            object.__setattr__(self, name, number)
        given = [name for name in ("slice_spacing", "isotropic", "factor_slices") if read[name]]
        if len(given) > 1:
            raise SettingsError(f"{' and '.join(given)} are given; only one of them can say how far apart slices lie.")
        if self.profile not in PROFILES:
            raise SettingsError(f"profile is {self.profile!r}; choose one of {', '.join(PROFILES)}.")

    @property
    def is_wanted(self) -> bool:
        """Whether slices are made finer at all."""
        return bool(self.slice_spacing or self.isotropic or self.factor_slices)

    def plan(self, geometry: VolumeGeometry, in_plane: Any = 1, thickness_mm: float | None = None) -> SlicePlan:
        """The new slices of a stack whose slices lie evenly and straight.

        The stack is filled from face to face: from the outer face of the first acquired slice to that of the last, or
        where slices overlap, to half a distance beyond their centres. So the new distance is as near to that which is
        wanted as a whole number of slices allows.

        Args:
            geometry: grid of the source.
            in_plane: factors within slices, as ``Factors.of`` takes them.
            thickness_mm: what the source's header says; None where it says nothing.

        Raises:
            SourceError: ``TOO_FEW_SLICES``; ``TARGET_SPACING`` where the target is no finer than the source, or finer
                than 1/8 of it; ``SLICE_THICKNESS`` where slices are more than three times as thick as they lie apart.
        """
        n_source, spacing = geometry.shape[2], geometry.spacing_mm[2]
        if n_source < _FEWEST_SLICES:
            raise SourceError(
                f"The volume has {n_source} {'slice' if n_source == 1 else 'slices'}, but new slices are made between "
                f"at least {_FEWEST_SLICES}. Super-resolve it within slices alone.",
                ReasonCode.TOO_FEW_SLICES,
            )
        known = self.slice_thickness or thickness_mm
        thickness = float(known or spacing)
        if thickness > _MOST_OVERLAP * spacing:
            raise SourceError(
                f"Slices are {thickness:.4g} mm thick and lie {spacing:.4g} mm apart, more than {_MOST_OVERLAP:.0f} "
                "times as close, and new ones between them would be guesses. Repair Slice "
                "Thickness, give the slice thickness if it is another, or super-resolve within slices alone.",
                ReasonCode.SLICE_THICKNESS,
            )
        wanted = self._wanted_mm(geometry, Factors.of(in_plane))
        self._check(spacing, wanted)
        extent = (n_source - 1) * spacing + min(thickness, spacing)
        count = max(n_source + 1, round(extent / wanted))
        new = extent / count
        first = -min(thickness, spacing) / spacing / 2 + new / spacing / 2
        places = SlicePlaces(count, first, new / spacing)
        return SlicePlan(n_source, places, spacing, thickness, self.profile, not known)

    def _wanted_mm(self, geometry: VolumeGeometry, factors: Factors) -> float:
        i, j, k = geometry.spacing_mm
        if self.factor_slices:
            return k / float(self.factor_slices)
        return float(self.slice_spacing) if self.slice_spacing else math.sqrt(i / factors.i * j / factors.j)

    def _check(self, spacing: float, wanted: float) -> None:
        found = f"Slices (along the third axis) lie {spacing:.4g} mm apart"
        asked = f"as far apart as pixels, {wanted:.4g} mm," if self.isotropic else f"{wanted:.4g} mm apart"
        if wanted > spacing * (1 - _SAME):
            raise SourceError(
                f"{found}, so that new ones {asked} would be no finer. Give a slice spacing below {spacing:.4g} mm, "
                "or super-resolve within slices alone.",
                ReasonCode.TARGET_SPACING,
            )
        if spacing / wanted > MAX_SLICE_FACTOR * (1 + _ROUNDING):
            raise SourceError(
                f"{found}, so that new ones {asked} would be {spacing / wanted:.3g} times finer, but "
                f"{MAX_SLICE_FACTOR:g} times is the most. Give a slice spacing of "
                f"{spacing / MAX_SLICE_FACTOR:.4g} mm or more.",
                ReasonCode.TARGET_SPACING,
            )


def _cubic(x: FloatArray) -> FloatArray:
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
    far = ((_CUBIC_A * x - 5 * _CUBIC_A) * x + 8 * _CUBIC_A) * x - 4 * _CUBIC_A
    return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0.0)))

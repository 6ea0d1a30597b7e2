"""Which acquired slices each image of a derived series comes from, where it lies, and what it may say of them.

Where a result has slices of its own, each takes its header from the acquired slice that is nearest, and lies on the
straight line through the first one along the normal. What a header says of one slice's moment is kept where all that
the new slice comes from say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.valuerep import DSfloat

from monai_ldmsr.geometry import Factors, ResultGrid, VolumeGeometry
from monai_ldmsr.io.copied_attributes import copied
from monai_ldmsr.io.derived_attributes import of_one_slice
from monai_ldmsr.io.dicom_header import number_list, text
from monai_ldmsr.slice_plan import SlicePlan

__all__ = ["DerivedSlices", "decimal", "set_place"]

#: Slice Locations further than this part of one step from an even row are no places along the stack.
_LOCATION_TOLERANCE = 0.05

#: When the acquisition that an image results from started (PS3.3 C.7.10.1): together, date before time.
_STARTS = (("AcquisitionDate", "AcquisitionTime"), ("AcquisitionDateTime",))


def decimal(value: float) -> DSfloat:
    """A number in the 16 characters of a decimal string."""
    return DSfloat(value, auto_format=True)


@dataclass(frozen=True, eq=False)
class DerivedSlices:
    """The slices of a derived series, or of an object beside it, on those of its source.

    Args:
        headers: headers of the source, ascending along the normal.
        geometry: grid of the source.
        grid: how the result's grid lies on it.
        plan: the profile by which new slices were made; None where there are none, or where
            nobody asks for their sources.
    """

    headers: Sequence[Dataset] = field(repr=False)
    geometry: VolumeGeometry
    grid: ResultGrid
    plan: SlicePlan | None = None

    def __len__(self) -> int:
        return self.grid.places(len(self.headers)).number

    @property
    def spacing_mm(self) -> float:
        """Distance between two of them."""
        return self.geometry.spacing_mm[2] * self.grid.places(len(self.headers)).step

    def place(self, k: int) -> float:
        """Where slice ``k`` lies, in slices of the source."""
        return self.grid.places(len(self.headers)).of(k)

    def nearest(self, k: int) -> Dataset:
        """Header of the acquired slice nearest to slice ``k``."""
        place = round(self.place(k)) if self.plan is None else int(self.plan.nearest()[k])
        return self.headers[min(max(place, 0), len(self.headers) - 1)]

    def sources(self, k: int) -> list[Dataset]:
        """Headers of the acquired slices that slice ``k`` comes from, ascending along the normal."""
        if self.plan is None:
            return [self.nearest(k)]
        return [self.headers[one] for one in self.plan.sources(k)]

    def position_mm(self, k: int) -> list[float]:
        """Place of the first pixel of slice ``k`` (LPS): on the source's own, or where it has none, along the stack."""
        if not self.grid.has_own_slices:
            return _fine_position(self.headers[k], self.grid.factors)
        place = self._affine @ (0, 0, k, 1)
        return [float(value) for value in place[:3]]

    @cached_property
    def _affine(self) -> npt.NDArray[np.float64]:
        return self.geometry.upsampled(self.grid).affine_lps

    @cached_property
    def locations(self) -> tuple[float, float] | None:
        """Slice Location of the first acquired slice, and the step to the next; None where they make no even row."""
        said = [number_list(header, "SliceLocation", 1) for header in self.headers]
        found = [numbers[0] for numbers in said if numbers]
        if len(found) < max(2, len(self.headers)):
            return None
        step = (found[-1] - found[0]) / (len(found) - 1)
        off = np.abs(np.array(found) - found[0] - step * np.arange(len(found))).max()
        return (found[0], step) if step and off <= _LOCATION_TOLERANCE * abs(step) else None


def _fine_position(source: Dataset, factors: Factors) -> list[float]:
    """Place of the first pixel (LPS, mm) where the pixels of a source image are so many times finer."""
    between_rows, between_columns = (float(value) for value in source.PixelSpacing)
    cosines = [float(value) for value in source.ImageOrientationPatient]
    moved_columns = (1.0 / factors.i - 1.0) / 2.0 * between_columns
    moved_rows = (1.0 / factors.j - 1.0) / 2.0 * between_rows
    return [
        float(position) + moved_columns * along_row + moved_rows * along_column
        for position, along_row, along_column in zip(source.ImagePositionPatient, cosines[:3], cosines[3:], strict=True)
    ]


def set_place(header: Dataset, k: int, slices: DerivedSlices, modality: str) -> None:
    """Make pixels smaller between the same outer edges (PS3.3 C.7.6.2.1.1), and place slice ``k`` of a result.

    Pixel Spacing is (between rows, between columns); Image Orientation is the direction of the growing
    column index, then of the growing row index. The first centre moves by (1/factor - 1)/2 source pixels along each.

    Args:
        header: has what the nearest acquired slice says.
        k: number of the slice, from 0.
        slices: all of them.
        modality: ``CT``, ``MR`` or ``PT``.
    """
    # Acquired planes may differ by digits, but those of new slices are parallel.
    plane = slices.headers[0] if slices.grid.has_own_slices else slices.headers[k]
    between_rows, between_columns = (float(value) for value in plane.PixelSpacing)
    factors = slices.grid.factors
    header.PixelSpacing = [decimal(between_rows / factors.j), decimal(between_columns / factors.i)]
    header.ImagePositionPatient = [decimal(value) for value in slices.position_mm(k)]
    if not slices.grid.has_own_slices:
        return
    _take_over(header, plane, ("ImageOrientationPatient",))
    header.SliceThickness = decimal(slices.spacing_mm)
    if modality == "MR" or "SpacingBetweenSlices" in header:
        header.SpacingBetweenSlices = decimal(slices.spacing_mm)
    if "SliceLocation" in header and slices.locations is None:
        del header.SliceLocation
    elif "SliceLocation" in header and slices.locations is not None:
        first, step = slices.locations
        header.SliceLocation = decimal(first + slices.place(k) * step)
    _set_moment(header, slices.sources(k), modality)


def _set_moment(header: Dataset, sources: Sequence[Dataset], modality: str) -> None:
    """Say of the acquisition what holds for all slices that one comes from: when it started, and what they share."""
    for keywords in _STARTS:
        known = [source for source in sources if text(source, keywords[-1])]
        if keywords[-1] in header and known:
            earliest = min(known, key=lambda source: [text(source, keyword) for keyword in keywords])
            _take_over(header, earliest, keywords)
    for keyword, is_emptied in of_one_slice(modality):
        if keyword in header and any(source.get(keyword) != sources[0].get(keyword) for source in sources[1:]):
            if is_emptied:
                setattr(header, keyword, None)
            else:
                delattr(header, keyword)


def _take_over(header: Dataset, source: Dataset, keywords: Sequence[str]) -> None:
    """Give a header attributes of another image of its series, as the bytes that were read."""
    taken = copied(source, frozenset(keywords))
    for tag in list(taken.keys()):
        header[tag] = taken.get_item(tag)

"""Grids in words: what became of the voxels and of their place in the patient."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from monai_ldmsr.geometry import ResultGrid, SlicePlaces, VolumeGeometry
from monai_ldmsr.report.numbers import NBSP, count, fixed, number, product
from monai_ldmsr.report.sr_report import ResultSummary, SliceSummary, SourceSummary, SRReport

__all__ = ["agreement_note", "geometry_rows", "grid_finding", "headline", "picture_words"]

#: Corners of source and result closer than this, and than this part of a voxel, count as the same: below what any page
#: or viewer shows.
_SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_TOLERANCE = 0.01, 0.05


def headline(report: SRReport) -> str:
    """Say what was done, in one sentence with the spacings that changed."""
    before, after = (_in_plane(grid) for grid in (report.source, report.result))
    # The hyphen is one at which no line breaks.
    within = f"ach slice was made {report.factor} times finer in\u2011plane, from {before} to {after}."
    if report.slices is None:
        return f"E{within}"
    along = f"from {_apart(report.source)} to {_apart(report.result)} apart"
    times = number(report.slices.source_spacing_mm / report.slices.spacing_mm)
    made = f"The stack was made {times} times finer along its axis, {along}"
    return f"{made}." if report.factor == 1 else f"{made}, and e{within}"


def _apart(grid: SourceSummary) -> str:
    return fixed(grid.spacing_mm[2], _digits(grid, 2), "mm")


def _in_plane(grid: SourceSummary) -> str:
    first, second = (f"{mm:.{_digits(grid, 2)}f}" for mm in grid.spacing_mm[:2])
    return product([first] if first == second else [first, second], "mm")


def _digits(grid: SourceSummary, usual: int) -> int:
    """Digits behind the point of a length in mm: more where voxels are smaller than 0.1 mm."""
    return usual + max(0, -1 - math.floor(math.log10(min(grid.spacing_mm))))


def grid_finding(report: SRReport) -> str:
    """Say what became of the voxels, and whether the result lies where the source does."""
    source, result = report.source, report.result
    before, after = (product(grid.shape[:2]) for grid in (source, result))
    there = VolumeGeometry(result.shape, np.array(result.affine)).corners_mm()
    tolerance_mm = min(_SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_TOLERANCE * min(result.spacing_mm))
    same = np.abs(_corners_mm(source, report.slices) - there).max() < tolerance_mm
    place = "covers the same place" if same else "does NOT cover the same place"
    pixels = f"{before} to {after} pixels (columns by rows)"
    apart = f"{_apart(result)} apart"
    became = (
        f"{count(result.shape[2], 'slice')} went from {pixels}, {apart}. "
        if report.slices is None
        else f"{count(source.shape[2], 'slice')} became {number(result.shape[2])}, {apart}"
        + (". " if before == after else f", and went from {pixels}. ")
    )
    return f"{became}The result {place} in the patient as the source."


def _corners_mm(source: SourceSummary, slices: SliceSummary | None) -> npt.NDArray[np.float64]:
    """Corners (8, 3) in RAS that a result must have: of new slices, the outer faces of the acquired ones."""
    geometry = VolumeGeometry(source.shape, np.array(source.affine))
    if slices is None:
        return geometry.corners_mm()
    steps = source.shape[2] - 1
    length = steps + min(slices.thickness_mm, slices.source_spacing_mm) / slices.source_spacing_mm
    return geometry.upsampled(ResultGrid.with_slices(1, SlicePlaces(1, steps / 2, length))).corners_mm()


def agreement_note(report: SRReport) -> str:
    """Say how the result was made coarse again, and what a small difference means."""
    how = f"made coarse again ({report.degradation.name})"
    if report.slices is not None:
        within = f", and {how}" if report.factor > 1 else ""
        how = f"averaged along the stack by the assumed slice profile{within}"
    return (
        f"The result, {how}, against the source. A small difference means that what was measured is kept. It cannot "
        "show that new detail is true."
    )


def picture_words(report: SRReport) -> dict[str, str]:
    """What stands below the pictures of source, bicubic and result, and above them all."""
    if report.slices is None:
        return {
            "source": ", each pixel drawn as a block",
            "bicubic": " interpolation of the source",
            "result": f", {report.factor} times finer",
            "all": "Whole slices",
        }
    gaps = "; gaps are black" if report.slices.thickness_mm < report.slices.source_spacing_mm else ""
    within = " and within slices" if report.factor > 1 else ""
    return {
        "source": f", each slice drawn as a band as thick as it is taken to be, on the result's rows{gaps}",
        "bicubic": f" interpolation of the source along the stack{within}",
        "result": f", slices {_apart(report.result)} apart",
        "all": "These planes hold the axis of the stack, and show millimetres alike in both directions. Whole planes",
    }


def geometry_rows(report: SRReport) -> list[tuple[str, str, str]]:
    """Word the grids of source and result side by side: name, source, result."""
    grids = (report.source, report.result)
    rows = {
        "Form": [f"{grid.format}, {count(grid.n_images, 'image')}" for grid in grids],
        "Voxels, I by J by K": [product(grid.shape) for grid in grids],
        "Spacing": [product((f"{mm:.{_digits(grid, 4)}f}" for mm in grid.spacing_mm), "mm") for grid in grids],
        "Extent": [_extent(grid) for grid in grids],
        "Centre of the first voxel (RAS)": [_origin(grid) for grid in grids],
        f"Voxels bounded by the source around them (its range and {100 * report.result.overshoot:.0f}{NBSP}% of its "
        "contrast)": ["", _share(report.result.n_bounded, report.result)],
        "Voxels clipped to the stored range": ["", _share(report.result.n_clipped, report.result)],
    }
    if report.slices is not None:
        thickness = report.slices.thickness_mm, report.slices.spacing_mm
        rows["Thickness of slices"] = [
            fixed(mm, _digits(grid, 2), "mm") for mm, grid in zip(thickness, grids, strict=True)
        ]
    return [(name, source, result) for name, (source, result) in rows.items()]


def _extent(grid: SourceSummary) -> str:
    return product((f"{n * mm:.{_digits(grid, 1)}f}" for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)), "mm")


def _origin(grid: SourceSummary) -> str:
    return ", ".join(fixed(row[3], _digits(grid, 2)) for row in grid.affine[:3]) + NBSP + "mm"


def _share(n_voxels: int, result: ResultSummary) -> str:
    share = fixed(100 * n_voxels / max(1, result.n_voxels), 4, "%")
    return f"{number(n_voxels)} of {number(result.n_voxels)} ({share})"

"""The report as one page of HTML that needs no other file, no network and no script.

Python words and rounds what the page says; ``templates/report.html`` places it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.report.figures import DIFFERENCE_COLOURS, ERROR_COLOURS, SlicePanel, draw_panel
from monai_ldmsr.report.sr_report import (
    NOISIER,
    PATTERN,
    Agreement,
    FlatTissue,
    MetricSummary,
    ResultSummary,
    Sharpness,
    SourceSummary,
    SRReport,
)

__all__ = ["page_environment", "render_html"]

#: Between a number and its unit, so that a line never breaks there.
_NBSP = "\u00a0"
_NOT_MEASURED = "not measured"

#: A share of the range below which a difference is float32 rounding.
_ROUNDING = 1e-6

#: Corners of source and result closer than this, and than this part of a voxel, count as the same: below what any page
#: or viewer shows.
_SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_TOLERANCE = 0.01, 0.05


def render_html(report: SRReport, panels: Sequence[SlicePanel]) -> str:
    """Render the report as a self-contained page.

    Args:
        report: what was done and how well.
        panels: the slices to show, in the order to show them; may be empty.

    Returns:
        HTML 5 in which all images are data URIs and every text of the report is escaped.
    """
    environment = page_environment("monai_ldmsr.report")
    environment.filters.update(number=number, duration=duration, plain=plain)
    return environment.get_template("report.html").render(
        report=report,
        headline=headline(report),
        findings=findings(report),
        sharpness_rows=sharpness_rows(report.metrics),
        sharpness_note=sharpness_note(report),
        agreement_rows=agreement_rows(report),
        flat_rows=flat_rows(report),
        unit=_unit(report.metrics.agreement),
        geometry_rows=geometry_rows(report),
        figures=[draw_panel(panel) for panel in panels],
        difference_colours=DIFFERENCE_COLOURS,
        error_colours=ERROR_COLOURS,
        trust_rows=trust_rows(report),
        bars=contradiction_bars(report),
    )


@cache  # it keeps templates that it has compiled
def page_environment(package: str, undefined: type[Undefined] = StrictUndefined) -> Environment:
    """What renders the templates of a package: every text is escaped.

    Args:
        package: a package with a folder ``templates``.
        undefined: what becomes of a name that a template uses and that was not given; an error unless said otherwise.
    """
    return Environment(
        loader=PackageLoader(package), autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )


def number(value: float | None, unit: str = "", digits: int = 3) -> str:
    r"""Round to significant digits, never into an exponent; whole numbers stay whole.

    Example:
        >>> number(0.012345), number(1234567), number(31.04159, "dB"), number(None)
        ('0.0123', '1\u202f234\u202f567', '31.0\xa0dB', 'not measured')
    """
    if value is None or not math.isfinite(value):
        return _NOT_MEASURED
    decimals = 0
    if value and not isinstance(value, int):
        exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
        decimals = max(0, digits - 1 - exponent)
    return _typeset(f"{value:,.{decimals}f}", unit)


def fixed(value: float | None, decimals: int, unit: str = "", sign: str = "-") -> str:
    r"""Round to a fixed number of decimals, so that figures of a column or around 0 compare at a glance.

    Example:
        >>> fixed(39.386, 1, sign="+"), fixed(-0.00001, 2, "%")
        ('+39.4', '0.00\xa0%')
    """
    if value is None or not math.isfinite(value):
        return _NOT_MEASURED
    rounded = round(value, decimals)
    if rounded == 0:
        return _typeset(f"{0:.{decimals}f}", unit)  # never "+0.00" or "-0.00"
    return _typeset(f"{rounded:{sign},.{decimals}f}", unit)


def duration(seconds: float | None) -> str:
    r"""Word a duration as one reads it.

    Example:
        >>> duration(0.1234), duration(119.7), duration(None)
        ('0.12\xa0s', '2\xa0min 0\xa0s', 'not measured')
    """
    if seconds is None:
        return _NOT_MEASURED
    if seconds < 60:
        return number(seconds, "s", digits=2 if seconds < 10 else 3)
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}{_NBSP}min {rest}{_NBSP}s"


def _part(share: float) -> str:
    """Word a share in percent; all is said only of all."""
    percent = 100 * share
    return f"above {fixed(99.9, 1, '%')}" if 99.95 <= percent < 100 else fixed(percent, 1, "%")


def _typeset(digits: str, unit: str = "") -> str:
    """Set the true minus, thin spaces between groups of digits, and the unit where no line can break."""
    return digits.replace(",", "\u202f").replace("-", "\u2212") + (_NBSP + unit if unit else "")


def plain(value: Any) -> str:
    """Word a setting's value: yes and no, "automatic" for None, numbers of 6 digits at most, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "automatic"
    if isinstance(value, float):
        return _typeset(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def headline(report: SRReport) -> str:
    """Say what was done, in one sentence with the two in-plane spacings."""
    before, after = (_in_plane(grid) for grid in (report.source, report.result))
    # The hyphen is one at which no line breaks.
    return f"Each slice was made {report.factor} times finer in\u2011plane, from {before} to {after}."


def _in_plane(grid: SourceSummary) -> str:
    first, second = (f"{mm:.{_digits(grid, 2)}f}" for mm in grid.spacing_mm[:2])
    return _product([first] if first == second else [first, second], "mm")


def _digits(grid: SourceSummary, usual: int) -> int:
    """Digits behind the point of a length in mm: more where voxels are smaller than 0.1 mm."""
    return usual + max(0, -1 - math.floor(math.log10(min(grid.spacing_mm))))


def _product(sizes: Iterable[object], unit: str = "") -> str:
    """Word sizes along axes, with multiplication signs."""
    return _typeset(f"{_NBSP}\u00d7{_NBSP}".join(str(size) for size in sizes), unit)


def findings(report: SRReport) -> list[str]:
    """Say in plain sentences what became of the grid, the sharpness and the agreement with the source."""
    agreement = report.metrics.agreement
    sentences = [_grid_finding(report.source, report.result), _sharpness_finding(report.metrics)]
    if report.metrics.flat_tissue is not None:
        sentences.append(_noise_finding(report.metrics.flat_tissue, _unit(agreement)))
    if agreement.mean_abs is not None:
        sentences.append(_agreement_finding(agreement, agreement.mean_abs))
    if report.changed:
        named = (
            f"{name.replace('_', ' ')} {plain(one['used'])} (the bundle: {plain(one['bundle'])})"
            for name, one in report.changed.items()
        )
        sentences.append(f"Settings that differ from the bundle's own: {'; '.join(named)}.")
    return sentences


def _noise_finding(flat: FlatTissue, unit: str) -> str:
    before, after = number(flat.noise_source), number(flat.noise_result, unit)
    pattern = "a regular pattern stands out" if flat.pattern > PATTERN else "no regular pattern stands out"
    return f"In flat tissue the noise was {before} and is {after}; {pattern}."


def _agreement_finding(agreement: Agreement, mean_abs: float) -> str:
    if agreement.nrmse is not None and agreement.nrmse < _ROUNDING:
        return "Made coarse again, the result is the source: what was measured is kept."
    share = "" if agreement.nrmse is None else f" (NRMSE {fixed(100 * agreement.nrmse, 2, '%')})"
    difference = number(mean_abs, _unit(agreement))
    return f"Made coarse again, the result differs from the source by {difference} on average{share}."


def _unit(agreement: Agreement) -> str:
    """Word the unit; values as stored have none of their own."""
    return "stored units" if agreement.unit == "stored" else agreement.unit


def _difference(value: float | None, agreement: Agreement) -> str:
    """Word a difference; digits below rounding would only look like knowledge."""
    if value is not None and agreement.nrmse is not None and agreement.nrmse < _ROUNDING:
        return "0, to rounding"
    return number(value, _unit(agreement))


def _grid_finding(source: SourceSummary, result: ResultSummary) -> str:
    before, after = (_product(grid.shape[:2]) for grid in (source, result))
    here, there = (VolumeGeometry(g.shape, np.array(g.affine)).corners_mm() for g in (source, result))
    tolerance_mm = min(_SAME_PLACE_TOLERANCE_MM, _SAME_PLACE_TOLERANCE * min(result.spacing_mm))
    same = np.abs(here - there).max() < tolerance_mm
    place = "covers the same place" if same else "does NOT cover the same place"
    return (
        f"{_count(result.shape[2], 'slice')} went from {before} to {after} pixels (columns by rows), "
        f"{fixed(result.spacing_mm[2], _digits(result, 2), 'mm')} apart. "
        f"The result {place} in the patient as the source."
    )


def _count(n: int, noun: str) -> str:
    return f"{number(n)}{_NBSP}{noun}" + ("" if n == 1 else "s")


def _sharpness_finding(metrics: MetricSummary) -> str:
    pairs = (
        (metrics.result.laplacian_variance, metrics.bicubic.laplacian_variance),
        (metrics.result.fft, metrics.bicubic.fft),
    )
    known = [(result, bicubic) for result, bicubic in pairs if result is not None and bicubic is not None]
    if len(known) < len(pairs):
        return "Sharpness could not be measured in full."
    sharper = sum(result > bicubic for result, bicubic in known)
    if sharper == len(pairs):
        return "By both sharpness measures the result is sharper than bicubic interpolation."
    if sharper == 0:
        return "By neither sharpness measure is the result sharper than bicubic interpolation."
    return "The two sharpness measures disagree on whether the result is sharper than bicubic interpolation."


def sharpness_rows(metrics: MetricSummary) -> list[dict[str, Any]]:
    """Word the rows of the sharpness table, each set against bicubic interpolation."""
    base = metrics.bicubic
    named = {"Source": metrics.source, "Bicubic": base, "Result": metrics.result}
    return [_sharpness_row(name, row, base) for name, row in named.items()]


def _sharpness_row(name: str, row: Sharpness, base: Sharpness) -> dict[str, Any]:
    ratio = change = ""
    if row is not base and row.laplacian_variance is not None and base.laplacian_variance:
        ratio = fixed(row.laplacian_variance / base.laplacian_variance, 2)
    if row is not base and row.fft is not None and base.fft is not None:
        change = fixed(row.fft - base.fft, 1, sign="+")
    laplacian = fixed(row.laplacian_variance, 1)
    figures = {"laplacian": laplacian, "ratio": ratio, "fft": fixed(row.fft, 1), "change": change}
    return {"name": name, **figures, "others": list(row.others.values())}


def sharpness_note(report: SRReport) -> str:
    """Say how many slices the sharpness figures are means of, and how the source came to their grid."""
    measured = f"Mean over {report.metrics.result.n_slices} of {_count(report.result.shape[2], 'slice')}"
    return f"{measured} on the result's grid; the source is brought there by bilinear interpolation."


def agreement_rows(report: SRReport) -> list[tuple[str, str, str]]:
    """Word the agreement with the source: name, value, and what it means."""
    figures = report.metrics.agreement
    exact = figures.psnr_db is None and figures.max_abs == 0
    psnr = "exact" if exact else number(figures.psnr_db, "dB")
    nrmse = None if figures.nrmse is None else 100 * figures.nrmse
    drift = fixed(figures.mean_difference_percent, 2, "%", sign="+")
    rows = [
        ("PSNR", psnr, "Higher is closer; 40 dB is an error of 1 % of the range."),
        ("NRMSE", fixed(nrmse, 2, "%"), "Lower is closer. Typical error as a share of the source's range."),
        ("Mean absolute difference", _difference(figures.mean_abs, figures), "Lower is closer."),
        ("Largest difference", _difference(figures.max_abs, figures), "The worst single voxel."),
        ("Change of the mean", drift, "Near 0 is right: brightness must not drift."),
    ]
    if figures.rms_before_projection is not None:
        before = number(figures.rms_before_projection, _unit(figures))
        meaning = "How far the network alone strayed, before the result was made to agree with the source."
        rows.append(("Network alone", before, meaning))
    return rows


def flat_rows(report: SRReport) -> list[tuple[str, str, str]]:
    """Word noise and patterns in flat tissue: name, value, and what it means; none where they were not measured."""
    flat = report.metrics.flat_tissue
    if flat is None:
        return []
    unit = _unit(report.metrics.agreement)
    plain_noise = number(flat.noise_bicubic, unit)
    ratio = f"{fixed(flat.noise_ratio, 2)} times the source's"
    return [
        (
            "Noise of the source",
            number(flat.noise_source, unit),
            "Standard deviation in its flattest tissue; anatomy that lies there counts, too.",
        ),
        (
            "Noise of the result",
            number(flat.noise_result, unit),
            f"At the same places: {ratio}; bicubic interpolation has {plain_noise}. Above {NOISIER} times there is a "
            "warning.",
        ),
        (
            "Regular pattern",
            fixed(flat.pattern, 2),
            "Strength of a grid or mesh that is not anatomy, over the source's noise. Near 0 is right; above "
            f"{PATTERN} there is a warning.",
        ),
    ]


def trust_rows(report: SRReport) -> list[tuple[str, str, str]]:
    """Word how far the result is to be trusted: name, value, and what it means; none where nothing is known."""
    if report.trust is None:
        return []
    unit, error, found = _unit(report.metrics.agreement), report.trust.expected_error, report.trust.contradiction
    rows = []
    if error is not None:
        half = number(error.half_width_median, f"{unit}, 95th percentile {number(error.half_width_p95, unit)}")
        rows.append(("Expected error", f"\u00b1 {half}", "Median half width of the interval, within the body."))
    if error is not None and error.share_trusted is not None:
        share = _part(error.share_trusted)
        tolerated = number(error.tolerance, unit)
        meaning = (
            f"Share of the body's voxels that are chosen so that at most one in ten of them errs by more than "
            f"{tolerated}, as a mean over patients. Its threshold is not that of the interval."
            if error.is_calibrated
            else f"Share of the body's voxels whose interval reaches no further than {tolerated}. It is not "
            "calibrated: how many of them err by more is not known."
        )
        rows.append(("Trusted", share, meaning))
    if found.rms:
        level = found.alarm_level
        alarm = "There is no alarm level without a calibration for these settings." if level is None else (
            f"Alarm above {number(level, unit)}: {_count(len(found.alarms), 'slice')} of {len(found.rms)}."
        )  # fmt: skip
        meaning = f"How far the network alone strayed from what was measured, before that was corrected. {alarm}"
        rows.append(("Contradicted, worst slice", number(max(found.rms), unit), meaning))
    if report.trust.dial is not None:
        rows.append(("Dial (detail)", plain(report.trust.dial), "0: the mean, truest; 1: a sample, least certain."))
    return rows


def contradiction_bars(report: SRReport) -> dict[str, Any] | None:
    """A bar for each slice, in percent of the chart's height, and where the alarm level lies; None without slices."""
    found = report.trust.contradiction if report.trust else None
    if found is None or len(found.rms) < 2:
        return None
    level = found.alarm_level or 0.0
    greatest = max(*found.rms, level) or 1.0
    bars = [(round(100 * rms / greatest, 2), k in found.alarms) for k, rms in enumerate(found.rms)]
    return {"bars": bars, "level": round(100 * level / greatest, 2), "greatest": greatest}


def geometry_rows(report: SRReport) -> list[tuple[str, str, str]]:
    """Word the grids of source and result side by side: name, source, result."""
    grids = (report.source, report.result)
    rows = {
        "Form": [f"{grid.format}, {_count(grid.n_images, 'image')}" for grid in grids],
        "Voxels, I by J by K": [_product(grid.shape) for grid in grids],
        "Spacing": [_product((f"{mm:.{_digits(grid, 4)}f}" for mm in grid.spacing_mm), "mm") for grid in grids],
        "Extent": [_extent(grid) for grid in grids],
        "Centre of the first voxel (RAS)": [_origin(grid) for grid in grids],
        f"Voxels bounded by the source around them (its range and {100 * report.result.overshoot:.0f}{_NBSP}% of its "
        "contrast)": ["", _share(report.result.n_bounded, report.result)],
        "Voxels clipped to the stored range": ["", _share(report.result.n_clipped, report.result)],
    }
    return [(name, source, result) for name, (source, result) in rows.items()]


def _extent(grid: SourceSummary) -> str:
    return _product((f"{n * mm:.{_digits(grid, 1)}f}" for n, mm in zip(grid.shape, grid.spacing_mm, strict=True)), "mm")


def _origin(grid: SourceSummary) -> str:
    return ", ".join(fixed(row[3], _digits(grid, 2)) for row in grid.affine[:3]) + _NBSP + "mm"


def _share(n_voxels: int, result: ResultSummary) -> str:
    share = fixed(100 * n_voxels / max(1, result.n_voxels), 4, "%")
    return f"{number(n_voxels)} of {number(result.n_voxels)} ({share})"

"""The report as one page of HTML that needs no other file, no network and no script.

Python words and rounds what the page says; ``templates/report.html`` places it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

from monai_ldmsr.report.figures import DIFFERENCE_COLOURS, ERROR_COLOURS, SlicePanel, draw_panel
from monai_ldmsr.report.grid_words import agreement_note, geometry_rows, grid_finding, headline, picture_words
from monai_ldmsr.report.numbers import count, duration, fixed, number, percent_part, plain
from monai_ldmsr.report.sr_report import (
    NOISIER,
    PATTERN,
    Agreement,
    FlatTissue,
    MetricSummary,
    Sharpness,
    SRReport,
)

__all__ = ["page_environment", "render_html"]

#: A share of the range below which a difference is float32 rounding.
_ROUNDING = 1e-6


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
        agreement_note=agreement_note(report),
        picture_words=picture_words(report),
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


def findings(report: SRReport) -> list[str]:
    """Say in plain sentences what became of the grid, the sharpness and the agreement with the source."""
    agreement = report.metrics.agreement
    sentences = [grid_finding(report), _sharpness_finding(report.metrics)]
    if report.slices is not None:
        sentences.insert(1, report.slices.text)
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
    """Say what the sharpness figures are means of, and how the source came to their grid."""
    n, change = report.metrics.result.n_slices, report.metrics.z_gradient
    if report.slices is None:
        measured = f"Mean over {n} of {count(report.result.shape[2], 'slice')}"
        return f"{measured} on the result's grid; the source is brought there by bilinear interpolation."
    measured = (
        f"Mean over {count(n, 'plane')} that hold the axis of the stack, on the result's grid; the source is brought "
        "there by linear interpolation."
    )
    if change is None:
        return measured
    return f"{measured} From slice to slice the result changes {fixed(change, 2)} times as much as bicubic."


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
        share = percent_part(error.share_trusted)
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
            f"Alarm above {number(level, unit)}: {count(len(found.alarms), 'slice')} of {len(found.rms)}."
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

"""What was done and how well: one data class, rendered to JSON and to a page that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr.lazy_names import lazy_names
from monai_ldmsr.report.sr_report import (
    RESEARCH_NOTICE,
    Agreement,
    DegradationSummary,
    FlatTissue,
    MetricSummary,
    ModelSummary,
    OutputSummary,
    PhaseDurations,
    ResultSummary,
    Sharpness,
    SliceSummary,
    SourceSummary,
    SRReport,
)
from monai_ldmsr.report.trust import Contradiction, ExpectedError, TrustSummary

if TYPE_CHECKING:
    from monai_ldmsr.report.figures import SlicePanel
    from monai_ldmsr.report.html import render_html

__all__ = [
    "RESEARCH_NOTICE",
    "Agreement",
    "Contradiction",
    "DegradationSummary",
    "ExpectedError",
    "FlatTissue",
    "MetricSummary",
    "ModelSummary",
    "OutputSummary",
    "PhaseDurations",
    "ResultSummary",
    "SRReport",
    "Sharpness",
    "SlicePanel",
    "SliceSummary",
    "SourceSummary",
    "TrustSummary",
    "render_html",
]

__getattr__ = lazy_names(__name__, __file__)

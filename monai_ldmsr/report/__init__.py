"""What was done and how well: one data class, rendered to JSON and to a page that needs nothing else."""

from monai_ldmsr.report.figures import SlicePanel
from monai_ldmsr.report.html import render_html
from monai_ldmsr.report.sr_report import (
    RESEARCH_NOTICE,
    Agreement,
    DegradationSummary,
    MetricSummary,
    ModelSummary,
    PhaseDurations,
    ResultSummary,
    Sharpness,
    SourceSummary,
    SRReport,
)

__all__ = [
    "RESEARCH_NOTICE",
    "Agreement",
    "DegradationSummary",
    "MetricSummary",
    "ModelSummary",
    "PhaseDurations",
    "ResultSummary",
    "SRReport",
    "Sharpness",
    "SlicePanel",
    "SourceSummary",
    "render_html",
]

"""How far results can be trusted: the parts that measure it, and what ``trust.json`` holds.

==================  ====================================================================================================
key                 what it holds
==================  ====================================================================================================
``parts``           by name (``sfrc``, ``intervals``, ``regions``, ``lesions``, ``coherence``, ``uptake``, and
                    ``native``: slices as scanned): ``title``, ``explanation``, ``columns``; ``rows`` (all patients) and
                    ``by_modality``, each of rows, of columns, of ``mean``, ``sd``, ``n`` and ``ci95``; ``sfrc`` also a
                    ``curve`` (share flagged by threshold, by modality and row), ``lesions`` also ``by_diameter`` and
                    ``by_contrast``
``definitions``     of each column, and of ``rows``
``goals``           what each column should be
``settings``        every number that changes the result
``notice``          that it is research
==================  ====================================================================================================

A part that found nothing to measure (no PET, no flat tissue) has no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.coherence import SliceCoherence
from monai_ldmsr.evaluation.intervals import IntervalCoverage
from monai_ldmsr.evaluation.lesions import LesionTest
from monai_ldmsr.evaluation.rows import ROW_DEFINITIONS
from monai_ldmsr.evaluation.slice_trust import RegionMeans, ScannedCorrelation
from monai_ldmsr.evaluation.summaries import CI_DEFINITION
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.evaluation.uptake import HotSpotUptake
from monai_ldmsr.metrics.native import NATIVE_DEFINITIONS, NATIVE_GOALS
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.uncertainty import Calibration

__all__ = ["PARTS", "trust_figures", "trust_parts"]

#: All parts, in the order of the page.
PARTS: tuple[type[TrustPart], ...] = (
    ScannedCorrelation,
    IntervalCoverage,
    RegionMeans,
    LesionTest,
    SliceCoherence,
    HotSpotUptake,
)


def trust_parts(
    volumes: Sequence[TrainingVolume],
    networks: Mapping[str, SliceNetwork],
    operator: DegradationOperator,
    slices_per_volume: int = 4,
    consistency: float = 1.0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    calibration: Calibration | None = None,
) -> list[TrustPart]:
    """All parts, of which nothing is measured yet; arguments as those of :class:`TrustPart`."""
    given = (volumes, networks, operator, slices_per_volume, consistency, device, seed, calibration)
    return [part(*given) for part in PARTS]


def trust_figures(parts: Sequence[TrustPart], table: Mapping[str, Any]) -> dict[str, Any]:
    """What ``trust.json`` holds.

    Args:
        parts: measured.
        table: what ``table.json`` holds.
    """
    found: dict[str, Any] = {
        part.name: {
            "title": part.title,
            "explanation": part.explanation,
            "columns": list(part.definitions),
            **part.as_dict(),
        }
        for part in parts
    }
    found["native"] = {
        "title": "Slices as scanned",
        "explanation": "What is added where there is no original: the same figures as in the table of slices as "
        "scanned.",
        "columns": list(NATIVE_DEFINITIONS),
        **table["native"],
    }
    return {
        "parts": found,
        "definitions": {
            **{name: text for part in parts for name, text in part.definitions.items()},
            **NATIVE_DEFINITIONS,
            "mean": "Mean over what was measured: patches, slices, lesions, hot spots; sd is their population standard "
            "deviation, n their number.",
            "ci95": CI_DEFINITION,
            "rows": ROW_DEFINITIONS,
        },
        "goals": {**{name: goal for part in parts for name, goal in part.goals.items()}, **NATIVE_GOALS},
        "settings": table["settings"],
        "notice": table["notice"],
    }

"""How good super-resolution is on volumes that are sharp already: rows, figures, table and pictures."""

from __future__ import annotations

from monai_ldmsr.evaluation.figures import FIGURE_DEFINITIONS, measure
from monai_ldmsr.evaluation.native_evaluation import NativeEvaluation
from monai_ldmsr.evaluation.rows import interpolate_bilinear, interpolate_bspline
from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes

__all__ = [
    "FIGURE_DEFINITIONS",
    "EvaluationTable",
    "NativeEvaluation",
    "SplitEvaluation",
    "interpolate_bilinear",
    "interpolate_bspline",
    "load_evaluation_volumes",
    "measure",
]

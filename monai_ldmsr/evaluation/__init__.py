"""How good super-resolution is on volumes that are sharp already: rows, figures, table and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr.evaluation.figures import FIGURE_DEFINITIONS, measure
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.lazy_names import lazy_names

if TYPE_CHECKING:
    from monai_ldmsr.evaluation.native_evaluation import NativeEvaluation
    from monai_ldmsr.evaluation.rows import interpolate_bilinear, interpolate_bspline
    from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
    from monai_ldmsr.evaluation.table import EvaluationTable

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

__getattr__ = lazy_names(
    __name__,
    {
        "native_evaluation": ["NativeEvaluation"],
        "rows": ["interpolate_bilinear", "interpolate_bspline"],
        "split_evaluation": ["SplitEvaluation"],
        "table": ["EvaluationTable"],
    },
)

"""Training of the networks, composed by the bundles' training configs."""

from __future__ import annotations

from monai_ldmsr.training.budget import TimeBudget
from monai_ldmsr.training.evaluation import SplitEvaluation
from monai_ldmsr.training.objectives import (
    CodecObjective,
    FlowObjective,
    fit_latent_statistics,
    prepare_codec_batch,
    prepare_flow_batch,
)
from monai_ldmsr.training.patches import RandomPatches
from monai_ldmsr.training.slices import load_training_volumes

__all__ = [
    "CodecObjective",
    "FlowObjective",
    "RandomPatches",
    "SplitEvaluation",
    "TimeBudget",
    "fit_latent_statistics",
    "load_training_volumes",
    "prepare_codec_batch",
    "prepare_flow_batch",
]

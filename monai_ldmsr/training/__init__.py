"""Training of the networks, composed by the bundles' training configs."""

from __future__ import annotations

from monai_ldmsr.training.adversarial import AdversarialStep, BaselineObjective, PlaneObjective, StudentObjective
from monai_ldmsr.training.budget import TimeBudget
from monai_ldmsr.training.checkpoints import SafeCheckpoints, check_disk_space, load_start, resume_training
from monai_ldmsr.training.gate import check_codec
from monai_ldmsr.training.objectives import (
    CodecObjective,
    FlowObjective,
    NoiseObjective,
    fit_latent_statistics,
    prepare_codec_batch,
    prepare_flow_batch,
)
from monai_ldmsr.training.patches import PatchRecipe, RandomPatches
from monai_ldmsr.training.pictures import ValidationPictures
from monai_ldmsr.training.slices import load_training_volumes

__all__ = [
    "AdversarialStep",
    "BaselineObjective",
    "CodecObjective",
    "FlowObjective",
    "NoiseObjective",
    "PatchRecipe",
    "PlaneObjective",
    "RandomPatches",
    "SafeCheckpoints",
    "StudentObjective",
    "TimeBudget",
    "ValidationPictures",
    "check_codec",
    "check_disk_space",
    "fit_latent_statistics",
    "load_start",
    "load_training_volumes",
    "prepare_codec_batch",
    "prepare_flow_batch",
    "resume_training",
]

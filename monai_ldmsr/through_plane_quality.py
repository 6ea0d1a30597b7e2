"""How good new slices along the stack are: ``evaluate_through_plane`` runs a bundle's config for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.bundle_config import open_workflow, unwrapped
from monai_ldmsr.bundle_folder import DEFAULT_BUNDLE, find_bundle
from monai_ldmsr.errors import SettingsError

if TYPE_CHECKING:
    from monai_ldmsr.evaluation.progress import EvaluationProgress
    from monai_ldmsr.evaluation.stack_evaluation import StackEvaluation
    from monai_ldmsr.evaluation.stack_table import StackTable
    from monai_ldmsr.io import ReadLimits
    from monai_ldmsr.training.training_data import TrainingData

__all__ = ["evaluate_through_plane"]

#: The config of a bundle that is run.
_CONFIG = "evaluate_through_plane"


def evaluate_through_plane(
    dataset_dir: str | Path | TrainingData,
    output_dir: str | Path,
    *,
    split: str | None = None,
    axes: str = "k",
    modality: str | None = None,
    device: str | None = None,
    bundle: str | Path = DEFAULT_BUNDLE,
    baselines: str | Path | None = None,
    limits: ReadLimits | None = None,
    progress: EvaluationProgress | None = None,
) -> StackTable:
    """Average near-isotropic volumes to thick slices, bring them back in every way of the table, and compare.

    Writes ``through_plane.html``, JSON, CSV and pictures; see ``StackEvaluation``.

    Args:
        dataset_dir: see ``load_stack_volumes``.
        output_dir: made when missing.
        split: see ``load_evaluation_volumes``.
        axes: along which axes slices are averaged: ``k``, the last one, or any of i, j and k.
        modality: modality of volume files without a manifest.
        device: torch device; None takes CUDA when there is one.
        bundle: whose ``evaluate_through_plane.yaml`` is run.
        baselines: name or folder of the bundle of SRResNet; None takes the config's.
        limits: the largest volume that is read.
        progress: called as each network begins with a stack: what is worked on, and the share that is done, 0 to 1.

    Raises:
        SettingsError: an argument is outside what is possible, or the bundle makes no new slices.
        SourceError: nothing can be read, or no volume is near-isotropic.
        OutputError: the output folder cannot be written.
    """
    folder = find_bundle(bundle)
    if not (folder / "configs" / f"{_CONFIG}.yaml").is_file():
        raise SettingsError(f"The bundle '{folder.name}' makes no new slices along the stack; choose ldm_sr.")
    data = Path(dataset_dir) if isinstance(dataset_dir, str) else dataset_dir
    chosen: dict[str, Any] = {"split": split, "modality": modality, "device": device, "baselines": baselines}
    chosen |= {"axes": axes, "limits": limits, "dataset_dir": data, "output_dir": Path(output_dir)}
    with unwrapped():
        workflow = open_workflow(folder, _CONFIG, **{key: value for key, value in chosen.items() if value is not None})
        evaluation: StackEvaluation = workflow.evaluator
    return evaluation.run(output_dir, progress)

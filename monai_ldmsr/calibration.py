"""Calibrate a bundle's expected errors on patients, and measure on others what that promised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from monai_ldmsr.bundle_folder import CALIBRATION_FILE, DEFAULT_BUNDLE, RANGE_FILE, find_bundle
from monai_ldmsr.choices import FACTORS
from monai_ldmsr.errors import SettingsError, WeightsError
from monai_ldmsr.evaluation.calibrating import FactorCounts, calibration_of, check_patients, coverage_figures
from monai_ldmsr.evaluation.coverage import NOISE_GREY, CoverageMeasurement
from monai_ldmsr.evaluation.progress import EvaluationProgress, EvaluationSteps
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.networks import LatentGenerator, SliceNetwork, SuperResolver
from monai_ldmsr.networks.interface import EstimatingNetwork, on_device
from monai_ldmsr.training.packed import is_packed, lacks_split
from monai_ldmsr.training.range_fitting import fit_training_range
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.training_data import TrainingData, open_dataset
from monai_ldmsr.training_range import TrainingRange
from monai_ldmsr.uncertainty import Calibration, load_calibration
from monai_ldmsr.workflow import load_super_resolver

__all__ = ["calibrate", "measure_coverage"]

#: Settings of a call that a calibration holds for, whatever their value; its dial is measured, its noise too.
_OPEN = ("detail", "noise", "seed", "evaluations_per_slice")

Table = Mapping[str, Mapping[str, Mapping[str, float]]]


def calibrate(
    dataset_dir: str | Path,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    split_file: str | Path | None = None,
    slices_per_patient: int = 2,
    modality: str | None = None,
    device: str | None = None,
    limits: ReadLimits | None = None,
    progress: EvaluationProgress | None = None,
) -> tuple[Calibration, Table]:
    """Choose intervals, masks and alarms on the calibration split, and write them beside the bundle's weights.

    What the weights were trained for, which other volumes are refused by, is taken from the training split and written
    beside them, too.

    Args:
        dataset_dir: see :func:`~monai_ldmsr.workflow.train`.
        bundle: name or folder of the bundle; a run with its weights uses the calibration from then on.
        split_file: list of splits, as :func:`~monai_ldmsr.workflow.train` takes it.
        slices_per_patient: slices of each patient that are measured.
        modality: modality of volume files that do not say it.
        device: torch device; None takes the CPU.
        limits: the largest volume that is read.
        progress: called as each slice begins.

    Returns:
        The calibration, and how often the intervals held on the patients that it was made on.

    Raises:
        SettingsError: the network expects no errors, or there are too few patients.
        SourceError: nothing can be read or measured.
        OutputError: the bundle's folder cannot be written.
    """
    data = _opened(dataset_dir, split_file, limits)
    found, network, sha256 = _measured(data, "calibration", bundle, slices_per_patient, modality, device, progress)
    settings = {name: value for name, value in network.describe().items() if name not in _OPEN}
    settings |= {"consistency": 1.0, "overshoot": None}
    about = {"slices_per_patient": slices_per_patient, "noise_grey": list(NOISE_GREY)}
    calibration = calibration_of(found, sha256, settings, about)
    calibration.write(_place(bundle))
    training_range = _training_range(data, network, sha256, modality, device or "cpu")
    if training_range is not None:
        training_range.write(_place(bundle).with_name(RANGE_FILE))
    return calibration, coverage_figures(found, calibration)


def measure_coverage(
    dataset_dir: str | Path,
    *,
    bundle: str | Path = DEFAULT_BUNDLE,
    split: str = "test",
    split_file: str | Path | None = None,
    slices_per_patient: int = 2,
    modality: str | None = None,
    device: str | None = None,
    limits: ReadLimits | None = None,
    progress: EvaluationProgress | None = None,
) -> Table:
    """How often the intervals of a calibrated bundle hold on patients of another split, by modality, factor and dial.

    Args:
        dataset_dir: see :func:`calibrate`, as the other arguments.
        bundle: likewise; it must have a calibration.
        split: the split.
        split_file: list of splits.
        slices_per_patient: slices of each patient that are measured.
        modality: modality of volume files that do not say it.
        device: torch device; None takes the CPU.
        limits: the largest volume that is read.
        progress: called as each slice begins.

    Raises:
        WeightsError: the bundle has no calibration, or one of other weights.
        SettingsError: see :func:`calibrate`.
        SourceError: likewise.
    """
    _, model = load_super_resolver(bundle)
    calibration = load_calibration(_place(bundle), model.weights_sha256)
    if calibration is None:
        raise WeightsError("The bundle has no calibration, so nothing was promised. Run ldmsr calibrate DATA first.")
    data = _opened(dataset_dir, split_file, limits)
    found, _, _ = _measured(data, split, bundle, slices_per_patient, modality, device, progress)
    return coverage_figures(found, calibration)


@torch.inference_mode()
def _training_range(
    data: TrainingData, network: SliceNetwork, sha256: str, modality: str | None, device: str
) -> TrainingRange | None:
    """What the network, on its device, was trained for; None where that cannot be seen."""
    try:
        has_split = not lacks_split(data, "train") and (is_packed(data) or bool(data.entries("train")))
    except SettingsError:
        has_split = False
    if not (has_split and isinstance(network, SuperResolver) and isinstance(network.generator, LatentGenerator)):
        return None
    encode = network.generator.codec.encode
    volumes = load_training_volumes(data, "train", halve_interpolated=False, modality=modality)
    return fit_training_range(volumes, lambda image: encode(image.to(device)), sha256)


def _opened(dataset_dir: str | Path, split_file: str | Path | None, limits: ReadLimits | None) -> TrainingData:
    return open_dataset(Path(dataset_dir), Path(), None if split_file is None else Path(split_file), limits)


def _place(bundle: str | Path) -> Path:
    return find_bundle(bundle) / "models" / CALIBRATION_FILE


def _measured(
    data: TrainingData,
    split: str,
    bundle: str | Path,
    slices_per_patient: int,
    modality: str | None,
    device: str | None,
    progress: EvaluationProgress | None,
) -> tuple[dict[int, FactorCounts], SliceNetwork, str]:
    """Counts by factor, the network of the least on its device, and the hash of its weights."""
    if slices_per_patient < 1:
        raise SettingsError(f"slices_per_patient is {slices_per_patient}; give 1 or more.")
    measurements: list[CoverageMeasurement] = []
    networks = {factor: load_super_resolver(bundle, factor=factor) for factor in FACTORS}
    for factor, (network, _) in networks.items():
        if not isinstance(network, EstimatingNetwork):
            raise SettingsError("The network of this bundle expects no errors, so there is nothing to calibrate.")
        volumes = load_evaluation_volumes(data, split, modality)
        if split == "calibration":
            check_patients(len({volume.subject for volume in volumes}))
        network = on_device(network, device or "cpu")
        measurements.append(CoverageMeasurement(volumes, network, factor, slices_per_patient, device=device or "cpu"))
    steps = EvaluationSteps(volumes, sum(one.n_pixels() for one in measurements), progress)
    found: dict[int, FactorCounts] = {one.factor: one.run(steps) for one in measurements}
    steps.end()
    network, model = networks[FACTORS[0]]
    return found, network, model.weights_sha256

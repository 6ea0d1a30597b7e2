"""What is done with bundles: super-resolve, evaluate, train."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.bundle_config import (
    check_config,
    checked_for_config,
    open_workflow,
    unwrapped,
)
from monai_ldmsr.bundle_folder import BASELINES, DEFAULT_BUNDLE, bundle_info, find_bundle, weights_sha256
from monai_ldmsr.evaluation.volumes import why_not_measured
from monai_ldmsr.io.tree import check_apart
from monai_ldmsr.settings import WorkSettings, takes_settings
from monai_ldmsr.training.budget import StageProgress
from monai_ldmsr.training.clock import TrainingClock
from monai_ldmsr.training.own_bundle import OWN_BUNDLE
from monai_ldmsr.training.plan import TrainingMessage, TrainingPlan, parse_budget, spoken_seconds
from monai_ldmsr.training.split_file import SPLIT_FILE
from monai_ldmsr.training.training_data import TrainingData, open_dataset, spoken_counts, spoken_splits

if TYPE_CHECKING:
    from monai_ldmsr.evaluation.progress import EvaluationProgress
    from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
    from monai_ldmsr.evaluation.table import EvaluationTable
    from monai_ldmsr.evaluator import Progress, SeriesEvaluator
    from monai_ldmsr.image_output import BundleModel
    from monai_ldmsr.io import ReadLimits
    from monai_ldmsr.networks import SliceNetwork
    from monai_ldmsr.run_summary import RunSummary
    from monai_ldmsr.training.volumes import TrainingVolume
    from monai_ldmsr.work_plan import WorkPlan

__all__ = [
    "check_config",
    "evaluate",
    "load_network",
    "load_super_resolver",
    "open_evaluator",
    "plan_work",
    "super_resolve",
    "train",
]

_log = logging.getLogger(__name__)

#: Seconds that packing takes after a training.
_PACKING_S = 5.0


@takes_settings
def super_resolve(
    source: str | Path,
    output_dir: str | Path,
    *,
    names: str | None = None,
    sources_csv: str | Path | bool = False,
    series: Sequence[str | int] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> RunSummary:
    """Super-resolve every clinical volume below a path, and write results and reports.

    Writes ``output_dir/<case>/`` with ``dicom/*.dcm`` or ``<case>_sr.<extension>``, ``report.json`` and ``report.html``
    for each case, and ``output_dir/summary.json``. Sources that cannot be read are listed there with a reason. Where
    ``output_dir`` is named as volume files are (``b.nii.gz``), it is one: of the one series or volume of the source, in
    the format of its name, with ``b_report.html`` and ``b_report.json`` beside it.

    Args:
        source: folder or file; DICOM, NIfTI, NRRD or MetaImage, a DICOMDIR or a zip archive; or a ``.txt`` file that
            lists their paths, one a line.
        output_dir: folder, made when missing, that must not lie inside the source; or name of a volume file.
        names: names of results: ``hash``, ``stem`` (of file or folder) or ``path`` (relative to ``source``), with a
            digest; None takes ``hash`` for DICOM and ``stem`` for volume files.
        sources_csv: write who is who into this file; True for ``output_dir/private/sources.csv``. It may name patients.
        series: Series Instance UIDs, Series Numbers or names of cases of what is worked on; empty for all.
        include: modalities, or patterns (``*t1*``) of Series Descriptions or names of volume files, of which one must
            fit; empty for all.
        exclude: likewise, of which none may fit.
        overwrite: replace a file of the name ``output_dir`` that is no earlier result of the same source.
        progress: called after each batch of slices.
        settings: all of ``WorkSettings``.

    Returns:
        One entry for each source that was found; its ``exit_code`` says whether all went well.

    Raises:
        SettingsError: an argument is outside what is possible.
        SourceError: the source does not exist or holds no file.
        WeightsError: the weights are missing or altered.
        OutputError: the output folder cannot be written.

    Example:
        >>> summary = super_resolve("sample_data/dicom/mr_t1_sagittal", "output", factor=2)  # doctest: +SKIP
        >>> summary.exit_code  # doctest: +SKIP
        0
    """
    from monai_ldmsr.needs import check_disk_for  # where a training has no readers of images
    from monai_ldmsr.result_file import searched
    from monai_ldmsr.source_table import SourceTable

    chosen, target = WorkSettings(**settings), Path(output_dir)
    choice = (tuple(map(str, series)), tuple(include), tuple(exclude))
    sources, file = searched(Path(source), target, chosen, names, choice, overwrite)
    folder = target.parent if file else target
    table = SourceTable(None if sources_csv is True else Path(sources_csv), folder) if sources_csv else None

    check_disk_for(sources.sizes(), folder, chosen)

    def work(place: Path) -> RunSummary:
        evaluator = open_evaluator(None, place, chosen)
        evaluator.dataset.take(sources)
        evaluator.writer.file_name = target.name if file else ""
        return evaluator.run(progress, table)

    if file is None:
        return work(folder)
    return file.write(file.only(Path(source), sources.found).name, work) if sources.found else sources.left_out()


def plan_work(
    source: str | Path,
    output_dir: str | Path,
    *,
    names: str | None = None,
    series: Sequence[str | int] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overwrite: bool = False,
    **settings: Any,
) -> WorkPlan:
    """What :func:`super_resolve` would do with these arguments, and what that would take; nothing is written.

    Raises:
        LdmsrError: see :func:`super_resolve`.
    """
    from monai_ldmsr.result_file import searched  # where a training has no readers of images
    from monai_ldmsr.work_plan import planned_work

    chosen, target = WorkSettings(**settings), Path(output_dir)
    choice = (tuple(map(str, series)), tuple(include), tuple(exclude))
    sources, file = searched(Path(source), target, chosen, names, choice, overwrite, is_for_writing=False)
    if file is not None and sources.found:
        file.only(Path(source), sources.found)
    plan = planned_work(sources.found, sources.skipped, sources.n_not_chosen, target, chosen)
    return plan.timed(lambda: open_evaluator(None, target, chosen))


def open_evaluator(
    source: str | Path | None, output_dir: str | Path, settings: WorkSettings, names: str | None = None
) -> SeriesEvaluator:
    """Build what super-resolves, with its verified weights.

    Args:
        source: folder or file; None to give sources one by one to ``process``.
        output_dir: parent of the result folders.
        settings: settings of the work; where one is None, the bundle's is taken. ``threads`` holds for the process.
        names: see :func:`super_resolve`.

    Raises:
        LdmsrError: see :func:`super_resolve`.
    """
    import torch

    from monai_ldmsr.image_output import moment, source_date
    from monai_ldmsr.needs import MemoryBudget

    use = settings.changing("use")
    given = {key: value for key, value in vars(settings).items() if key not in use}
    given |= {"names": names, "created": moment(settings.created) or source_date()}
    if use["threads"] is not None:
        torch.set_num_threads(use["threads"])
    workflow = open_workflow(
        find_bundle(given.pop("bundle")),
        # Path objects, not text: MONAI would execute a text that begins with "$".
        dataset_dir=None if source is None else Path(source),
        output_dir=Path(output_dir),
        **{key: value for key, value in given.items() if value is not None},
    )
    with unwrapped():
        evaluator: SeriesEvaluator = workflow.evaluator
    evaluator.memory = MemoryBudget(use["memory"], settings.maps)
    return evaluator


def load_super_resolver(
    bundle: str | Path = DEFAULT_BUNDLE, weights: str = "model", **settings: Any
) -> tuple[SliceNetwork, BundleModel]:
    """Build a bundle's network with its verified weights.

    Args:
        bundle: name of a bundle that comes with the package, or a bundle's folder.
        weights: name of one of the bundle's weights files, without extension.
        settings: ``factor``, ``num_inference_steps``, ``detail``, ``flat_detail``, ``operator``, ``seed``; None takes
            the bundle's.

    Raises:
        SettingsError: an argument is outside what is possible.
        WeightsError: the weights are missing or altered.
    """
    from monai_ldmsr.image_output import BundleModel
    from monai_ldmsr.networks.interface import on_device

    folder = find_bundle(bundle)
    chosen = {key: value for key, value in settings.items() if value is not None}
    if weights != "model":
        chosen["weights"] = folder / "models" / f"{weights}.pt"
        chosen["weights_sha256"] = weights_sha256(folder, weights)
    workflow = open_workflow(folder, **chosen)
    with unwrapped():
        sha256 = workflow.parser.get_parsed_content("loaded_sha256")
        planes = workflow.parser.get_parsed_content("planes_sha256", default="")
        network: SliceNetwork = workflow.network_def
    info = bundle_info(folder)
    return on_device(network, "cpu"), BundleModel(info.name, info.version, sha256, planes_sha256=planes)


def load_network(bundle: str | Path = DEFAULT_BUNDLE, weights: str = "model", **settings: Any) -> SliceNetwork:
    """The network alone, for configs."""
    return load_super_resolver(bundle, weights, **settings)[0]


def evaluate(
    dataset_dir: str | Path | TrainingData,
    output_dir: str | Path,
    *,
    factor: int = 4,
    split: str | None = None,
    operator: str = "area",
    noise_grey: float = 0.0,
    modality: str | None = None,
    slices_per_volume: int = 4,
    native_slices_per_volume: int = 1,
    trust: bool = True,
    device: str | None = None,
    bundle: str | Path = DEFAULT_BUNDLE,
    baselines: str | Path | None = None,
    limits: ReadLimits | None = None,
    progress: EvaluationProgress | None = None,
) -> EvaluationTable:
    """Degrade high-resolution volumes, super-resolve them in every way of the table, and compare with the original.

    Slices as scanned are measured, too. Writes ``table.html``, JSON, CSV and pictures; see ``SplitEvaluation``.

    Args:
        dataset_dir: see ``load_evaluation_volumes``.
        output_dir: made when missing.
        factor: see :func:`super_resolve`.
        split: see ``load_evaluation_volumes``.
        operator: degradation, one of ``operators.OPERATORS``.
        noise_grey: standard deviation of white noise in the degraded slices, in grey levels of 255.
        modality: modality of volume files without a manifest.
        slices_per_volume: evenly spread slices of each volume.
        native_slices_per_volume: likewise, as scanned.
        trust: measure how far results can be trusted, too.
        device: torch device; None takes CUDA when there is one.
        bundle: whose ``evaluate.yaml`` is run.
        baselines: name or folder of the bundle of SRResNet and SRGAN; None takes the config's.
        limits: the largest volume that is read.
        progress: called as each row of each slice begins: what is worked on, and the share that is done, 0 to 1.

    Raises:
        SettingsError: an argument is outside what is possible.
        SourceError: nothing can be read or measured.
        OutputError: the output folder cannot be written.
    """
    chosen: dict[str, Any] = {"split": split, "modality": modality, "device": device, "factor": factor}
    chosen |= {"baselines": baselines, "limits": limits, "operator": operator, "noise_grey": noise_grey}
    chosen |= {"slices_per_volume": slices_per_volume, "native_slices_per_volume": native_slices_per_volume}
    chosen["trust"] = trust
    data = dataset_dir if isinstance(dataset_dir, TrainingData) else Path(dataset_dir)
    chosen |= {"dataset_dir": data, "output_dir": Path(output_dir)}
    given = {key: value for key, value in chosen.items() if value is not None}
    with unwrapped():
        workflow = open_workflow(find_bundle(bundle), "evaluate", **given)
        evaluation: SplitEvaluation = workflow.evaluator
    return evaluation.run(output_dir, progress)


def train(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    budget: str | float = "2h",
    device: str | None = None,
    seed: int = 0,
    modality: str | None = None,
    size: str = "small",
    bundle: str | Path = DEFAULT_BUNDLE,
    stages: Sequence[str] = (),
    start: str | Path | None = None,
    split: str | Path | None = None,
    name: str = OWN_BUNDLE,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    limits: ReadLimits | None = None,
    message: TrainingMessage | None = None,
    progress: Callable[[StageProgress], None] | None = None,
) -> Path:
    """Train codec, denoiser and baselines on one's own volumes, pack them as bundles, and evaluate on the test split.

    Stages that have left their weights in ``output_dir/training`` are not run again, and one that was cut off goes on
    from its last checkpoint; so the same call resumes a training.

    Args:
        dataset_dir: folder with ``manifest.csv``, or any folder of volumes of at least three patients, see
            :mod:`monai_ldmsr.training.discovery`; or one that ``ldmsr pack`` wrote, for which torch, MONAI, Ignite,
            NumPy, PyYAML and einops are enough. A message says what these cannot draw or evaluate.
        output_dir: gets ``training``, the bundles, ``evaluation`` and ``private``; must not lie inside the data.
        budget: time of all of it, evaluation and earlier starts included, as ``90s``, ``30m``, ``2h`` or in seconds.
        device: torch device; None takes CUDA when there is one.
        seed: seed of all stages.
        modality: modality of volume files that do not say it.
        size: size of networks and batches: ``small`` (CPU) or ``large`` (GPU); the overlay of that name.
        bundle: bundle whose training configs are run; the baselines' lies beside it.
        stages: names of the stages to be run, of ``training.plan.STAGES``; empty for all.
        start: weights of a whole model to go on from, a bundle's ``model.pt``.
        split: list of which volume is in which split, as an earlier training wrote it to ``private/split.csv``; None
            takes that of ``output_dir``, else the manifest, else the patients' hashes.
        name: name of the trained model's bundle; the baselines' has ``_srgan`` behind it.
        overrides: config values by stage name (and ``pack``).
        limits: the largest volume that is read.
        message: called with one line at each step.
        progress: called every two seconds with how far a stage is.

    Returns:
        Folder of the trained bundle; of the stages' results where no model was trained.

    Raises:
        SettingsError: an argument, the manifest or the number of patients will not do.
        SourceError: a volume cannot be read, or nothing usable is left.
        TrainingError: the codec is not good enough to train a denoiser on it.
        OutputError: the output folder cannot be written or is too full.
    """
    output, folder, say = Path(output_dir), find_bundle(bundle), message or _log.info
    clock = TrainingClock(output / "training" / "clock.json", parse_budget(budget))
    check_apart(Path(dataset_dir), output)
    splits = output / "private" / SPLIT_FILE
    data = open_dataset(Path(dataset_dir), splits, None if split is None else Path(split), limits)
    common: dict[str, Any] = {} if device is None else {"device": device}
    seed = checked_for_config({**common, "seed": seed, "modality": modality})["seed"]
    settings = {"": common, **(overrides or {})}
    begin = Path(start) if start else None
    plan = TrainingPlan(folder, data, output, seed, modality, size, settings, tuple(stages), begin, limits, name)
    plan.check()
    say(f"reading the dataset; {spoken_seconds(clock.left_s)} of {spoken_seconds(clock.budget_s)} are left")
    volumes = plan.read_data()
    said = (f"data: {spoken_counts(volumes)}", *spoken_splits(data, splits))
    for line in said:
        say(line)
    counts, kept_s = _time_for_evaluation(plan, volumes.pop("test", []), clock.budget_s, device, say)
    try:
        plan.run(_run_training, say, clock, kept_s, progress)
        made = plan.pack(_run_training, plan.about(said[0]))
        if counts is not None:
            _evaluate_trained()(evaluate, plan, made, counts, clock, device, say)
    finally:
        plan.end(clock)
    return made[0].target if made else plan.work


def _time_for_evaluation(
    plan: TrainingPlan, test: Sequence[TrainingVolume], budget_s: float, device: str | None, say: TrainingMessage
) -> tuple[tuple[int, int, bool] | None, float]:
    """What is measured, see ``time_for_evaluation``, None for no evaluation; and seconds kept."""
    reason = why_not_measured(plan.data.folder)
    if reason or {stage.name for stage in plan.stages} < {"adversarial", "srresnet", "srgan"}:
        say(f"evaluation: none; {reason or 'that takes the weights of all stages'}")
        return None, _PACKING_S
    from monai_ldmsr.evaluation.duration import time_for_evaluation  # where SimpleITK is

    sample = {"detail": 1.0, "flat_detail": 1.0}
    names: dict[str, dict[str, Any]] = {"srresnet": {"bundle": BASELINES, "weights": "srresnet"}}
    names |= {"srgan": {"bundle": BASELINES}, "ldm_mean": {"detail": 0.0}, "ldm_sample": sample, "ldm": {}}
    networks = {name: load_network(**{"factor": 4, **given}) for name, given in names.items()}
    counts, seconds = time_for_evaluation(test, networks, budget_s, device, say)
    return counts, seconds + _PACKING_S


def _evaluate_trained() -> Any:
    from monai_ldmsr.evaluation.duration import evaluate_trained  # where SimpleITK is

    return evaluate_trained


def _run_training(folder: Path, overlays: Sequence[str], settings: Mapping[str, Any]) -> None:
    with unwrapped():
        workflow = open_workflow(folder, *overlays, workflow_type="train", **settings)
        workflow.run()
        workflow.finalize()

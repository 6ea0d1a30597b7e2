"""What a whole training consists of: stages in order, their shares of the time, and the bundles that come of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ldmsr.bundle_folder import BASELINES, DEFAULT_BUNDLE
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.storage import file_sha256, output_errors, replace_text, replaced_files
from monai_ldmsr.training.checkpoints import check_disk_space, newest_checkpoint
from monai_ldmsr.training.packed import lacks_split
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.training.volumes import SPLITS

__all__ = ["SIZES", "STAGES", "Stage", "TrainingMessage", "TrainingPlan", "pack_bundle", "parse_budget"]

#: Called with one line for a person at each step.
TrainingMessage = Callable[[str], None]

#: Runs a training: folder of a bundle, names of the configs that are laid over its ``inference.yaml``, and values over
#: these.
RunTraining = Callable[[Path, Sequence[str], Mapping[str, Any]], None]

#: Of networks: as the configs say, for a CPU; or with the overlay ``large.yaml``, for a GPU.
SIZES = ("small", "large")

_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Stage:
    """One training config.

    Args:
        name: also the beginning of its checkpoints' names.
        bundle: name of the bundle whose config it is.
        config: name of the config without extension.
        result: weights file that it leaves; a stage whose result is there is not run again.
        share: share of the whole time.
    """

    name: str
    bundle: str
    config: str
    result: str
    share: float


STAGES = (
    Stage("autoencoder", DEFAULT_BUNDLE, "train_autoencoder", "codec.pt", 0.08),
    Stage("diffusion", DEFAULT_BUNDLE, "train_diffusion", "denoiser.pt", 0.22),
    Stage("adversarial", DEFAULT_BUNDLE, "train_adversarial", "generator.pt", 0.48),
    Stage("srresnet", BASELINES, "train_srresnet", "srresnet.pt", 0.11),
    Stage("srgan", BASELINES, "train", "srgan.pt", 0.11),
)


#: Stages whose weights are in those of a whole generator.
_BEFORE_START = ("autoencoder", "diffusion")


@dataclass(frozen=True)
class TrainingPlan:
    """All stages on one dataset.

    Args:
        bundle: folder of the bundle whose training configs are run; the baselines' lies beside it, or is missing.
        data: the dataset; its folder may be a packed one.
        output: gets ``training``, and one folder for each bundle.
        budget_s: seconds of all stages together.
        seed: seed of all stages.
        modality: modality of volume files that do not say it.
        size: one of :data:`SIZES`.
        settings: config values by stage name; those of ``""`` for all stages.
        chosen: names of the stages to be run, of :data:`STAGES`; empty for all.
        start: weights of a whole generator (a bundle's ``model.pt``) that the adversarial stage goes on from; the
            stages before it are then left out.
        limits: the largest volume that is read.
    """

    bundle: Path
    data: TrainingData
    output: Path
    budget_s: float
    seed: int
    modality: str | None
    size: str
    settings: Mapping[str, Mapping[str, Any]]
    chosen: Sequence[str] = ()
    start: Path | None = None
    limits: ReadLimits | None = None

    @property
    def work(self) -> Path:
        """Folder of weights, checkpoints, logs and pictures."""
        return self.output / "training"

    @property
    def stages(self) -> list[Stage]:
        """Stages that are to be run and whose config is there."""
        chosen = [stage for stage in STAGES if not self.chosen or stage.name in self.chosen]
        if self.start is not None:
            chosen = [stage for stage in chosen if stage.name not in _BEFORE_START]
        return [stage for stage in chosen if self._has(stage.bundle, stage.config)]

    @property
    def overlays(self) -> list[str]:
        """Configs of the model's bundle that make the networks of this size."""
        return [] if self.size == SIZES[0] else [self.size]

    def _folder(self, bundle: str) -> Path:
        return self.bundle if bundle == DEFAULT_BUNDLE else self.bundle.parent / bundle

    def _has(self, bundle: str, config: str) -> bool:
        return (self._folder(bundle) / "configs" / f"{config}.yaml").is_file()

    def check(self) -> None:
        """Find out before any time is spent what would end the training late.

        Raises:
            SettingsError: the bundle has no training configs, or there is no such size or stage.
            OutputError: there is not enough disk space.
        """
        if not all(self._has(stage.bundle, stage.config) for stage in STAGES if stage.bundle == DEFAULT_BUNDLE):
            raise SettingsError(
                f"The bundle '{self.bundle.name}' has no training configs. Choose {DEFAULT_BUNDLE}, or a copy."
            )
        unknown = set(self.chosen) - {stage.name for stage in STAGES}
        if unknown:
            names = ", ".join(stage.name for stage in STAGES)
            raise SettingsError(f"There is no stage '{sorted(unknown)[0]}'; choose from {names}.")
        if self.start is not None and not self.start.is_file():
            raise SettingsError(f"The weights '{self.start.name}' to start from do not exist. Check the path.")
        if self.size not in SIZES or not all(self._has(DEFAULT_BUNDLE, name) for name in self.overlays):
            raise SettingsError(
                f"size is {self.size!r}; choose one of {', '.join(SIZES)} that the bundle has as a config."
            )
        check_disk_space(self.work)

    def read_data(self) -> dict[str, tuple[int, int]]:
        """Read what the stages need before any time is spent; volumes and patients of each split.

        Raises:
            SettingsError: the manifest, the list of splits or the number of patients will not do.
            SourceError: a volume cannot be read, or nothing usable is left.
        """
        # A codec is judged by calibration, and pictures show it; a packed folder may lack it, or test.
        needed = self.start is None and any(stage.bundle == DEFAULT_BUNDLE for stage in self.stages)
        splits = [
            split for split in SPLITS
            if not lacks_split(self.data, split) or split == "train" or (split == "calibration" and needed)
        ]  # fmt: skip
        counts = {}
        for split in splits:
            volumes = load_training_volumes(self.data, split, split == "train", self.modality, self.limits)
            counts[split] = len(volumes), len({volume.subject for volume in volumes})
        self.data.kept.pop(("test", False, self.modality), None)  # until it is measured
        return counts

    def run(self, run_training: RunTraining, say: TrainingMessage) -> None:
        """Run the stages that have left no result yet, each from its last checkpoint where there is one."""
        stages, left_s = self.stages, self.budget_s
        for n, stage in enumerate(stages, start=1):
            budget_s = self.budget_s * stage.share / sum(other.share for other in stages)
            say(f"stage {n} of {len(stages)}: {stage.name}, {_time(budget_s)} of the {_time(left_s)} left")
            left_s -= budget_s
            if (self.work / stage.result).is_file():
                say(f"  {stage.result} is there already")
                continue
            checkpoint = newest_checkpoint(self.work, stage.name)
            if checkpoint is not None:
                say(f"  goes on from {checkpoint.name}")
            # Path objects, not text: MONAI would execute a text that begins with "$".
            places: dict[str, Any] = {"dataset_dir": self.data, "output_dir": self.work, "checkpoint": checkpoint}
            numbers = {"budget_s": budget_s, "seed": self.seed + n, "modality": self.modality, "limits": self.limits}
            if stage.name not in _BEFORE_START and lacks_split(self.data, "calibration"):  # of pictures
                places = {**places, "picture_split": ""}
            if stage.name == "adversarial" and self.start is not None:
                # The weights' own codec was good enough when it was trained.
                places = {**places, "initial_weights": self.start, "gate_split": ""}
            overlays = [name for name in (*self.overlays, stage.config) if self._has(stage.bundle, name)]
            run_training(self._folder(stage.bundle), overlays, {**places, **numbers, **self._changed(stage.name)})

    def pack(self, run_training: RunTraining) -> tuple[Path | None, Path | None]:
        """Make the bundles of what was trained: the latent diffusion model's and the baselines'; None where none is."""
        if not (self.work / "generator.pt").is_file():
            return None, None
        run_training(self.bundle, [*self.overlays, "pack"], {"output_dir": self.work, **self._changed("pack")})
        packed, baselines = self.output / DEFAULT_BUNDLE, self.output / BASELINES
        pack_bundle(self.bundle, packed, {"model": self.work / "model.pt"})
        weights = {"model": self.work / "srgan.pt", "srresnet": self.work / "srresnet.pt"}
        if not self._has(BASELINES, "inference") or not all(path.is_file() for path in weights.values()):
            return packed, None
        pack_bundle(self._folder(BASELINES), baselines, weights)
        return packed, baselines

    def _changed(self, stage: str) -> Mapping[str, Any]:
        return {**self.settings.get("", {}), **self.settings.get(stage, {})}


def parse_budget(budget: str | float) -> float:
    """Seconds of ``90s``, ``30m``, ``2h`` or a number of seconds.

    Raises:
        SettingsError: it is none of these, or not above zero.

    Example:
        >>> parse_budget("1.5h")
        5400.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(budget).strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else budget
    if isinstance(seconds, str) or not seconds > 0:
        raise SettingsError(f"The budget is '{budget}'; give a time above zero such as 90s, 30m or 2h.")
    return float(seconds)


def pack_bundle(source: Path, target: Path, weights: Mapping[str, Path]) -> None:
    """Make a complete bundle: the source's configs and licence, these weights, and metadata that name their hashes.

    What the source's metadata say about its own weights (figures, data) is not taken over.

    Args:
        source: bundle folder with ``configs``.
        target: made or replaced file by file.
        weights: name without extension (``model`` first) to file.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(f"The bundle '{target.name}'", "Free disk space, or choose another folder."):
        shutil.copytree(source / "configs", target / "configs", dirs_exist_ok=True)
        if (source / "LICENSE").is_file():
            shutil.copy2(source / "LICENSE", target / "LICENSE")
        (target / "models").mkdir(exist_ok=True)
        for name, path in weights.items():
            with replaced_files(target / "models" / f"{name}.pt") as (partial,):
                shutil.copyfile(path, partial)
        _write_metadata(target, list(weights))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _write_metadata(target: Path, names: Sequence[str]) -> None:
    path = target / "configs" / "metadata.json"
    if not path.is_file():
        return
    meta = json.loads(path.read_text(encoding="utf-8"))
    for name in names:
        key = "weights_sha256" if name == "model" else f"{name}_sha256"
        meta[key] = file_sha256(target / "models" / f"{name}.pt")
    meta["eval_metrics"] = {}
    meta["data_source"] = "The user's own volumes (ldmsr train)"
    replace_text(path, json.dumps(meta, indent=4) + "\n")

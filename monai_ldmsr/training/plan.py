"""What a whole training consists of: stages in order, their shares of the time, and the bundles that come of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ldmsr.bundle_config import merge_configs
from monai_ldmsr.bundle_folder import BASELINES, DEFAULT_BUNDLE
from monai_ldmsr.errors import SettingsError, TrainingError
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.storage import file_sha256
from monai_ldmsr.training.budget import StageProgress
from monai_ldmsr.training.checkpoints import check_disk_space, newest_checkpoint
from monai_ldmsr.training.clock import TrainingClock
from monai_ldmsr.training.loss_log import read_losses
from monai_ldmsr.training.own_bundle import OWN_BUNDLE, OwnBundle, check_name
from monai_ldmsr.training.packed import lacks_split
from monai_ldmsr.training.page import write_page
from monai_ldmsr.training.slices import load_training_volumes
from monai_ldmsr.training.training_data import TrainingData
from monai_ldmsr.training.volumes import SPLITS, TrainingVolume

__all__ = ["SIZES", "STAGES", "Stage", "TrainingMessage", "TrainingPlan", "parse_budget", "spoken_seconds"]

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
        least_s: seconds that it needs even of a short budget, of which it gets a quarter at most.
    """

    name: str
    bundle: str
    config: str
    result: str
    share: float
    least_s: float = 0.0


STAGES = (
    Stage("autoencoder", DEFAULT_BUNDLE, "train_autoencoder", "codec.pt", 0.08, 90.0),
    Stage("diffusion", DEFAULT_BUNDLE, "train_diffusion", "denoiser.pt", 0.22),
    Stage("adversarial", DEFAULT_BUNDLE, "train_adversarial", "generator.pt", 0.48),
    Stage("srresnet", BASELINES, "train_srresnet", "srresnet.pt", 0.11),
    Stage("srgan", BASELINES, "train", "srgan.pt", 0.11),
)


#: Times that the codec is tried, each time for longer.
_CODEC_TRIES = 3

#: End of the name of the baselines' bundle, beside the model's.
_BASELINES_END = "_srgan"

#: Stages whose weights are in those of a whole generator.
_BEFORE_START = ("autoencoder", "diffusion")


@dataclass(frozen=True)
class TrainingPlan:
    """All stages on one dataset.

    Args:
        bundle: folder of the bundle whose training configs are run; the baselines' lies beside it, or is missing.
        data: the dataset; its folder may be a packed one.
        output: gets ``training``, and one folder for each bundle.
        seed: seed of all stages.
        modality: modality of volume files that do not say it.
        size: one of :data:`SIZES`.
        settings: config values by stage name; those of ``""`` for all stages.
        chosen: names of the stages to be run, of :data:`STAGES`; empty for all.
        start: weights of a whole generator (a bundle's ``model.pt``) that the adversarial stage goes on from; the
            stages before it are then left out.
        limits: the largest volume that is read.
        name: name of the model's bundle; the baselines' has ``_srgan`` behind it.
    """

    bundle: Path
    data: TrainingData
    output: Path
    seed: int
    modality: str | None
    size: str
    settings: Mapping[str, Mapping[str, Any]]
    chosen: Sequence[str] = ()
    start: Path | None = None
    limits: ReadLimits | None = None
    name: str = OWN_BUNDLE

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
        if bundle == DEFAULT_BUNDLE:
            return self.bundle
        beside = self.bundle.with_name(f"{self.bundle.name}{_BASELINES_END}")
        return beside if beside.is_dir() else self.bundle.parent / bundle

    def _has(self, bundle: str, config: str) -> bool:
        return (self._folder(bundle) / "configs" / f"{config}.yaml").is_file()

    def check(self) -> None:
        """Find out before any time is spent what would end the training late.

        Raises:
            SettingsError: the bundle has no training configs, or there is no such size, stage or name.
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
        check_name(self.name)
        check_disk_space(self.work)

    def read_data(self) -> dict[str, list[TrainingVolume]]:
        """Read what the stages need before any time is spent: volumes of each split.

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
        read = {
            split: load_training_volumes(self.data, split, split == "train", self.modality, self.limits)
            for split in splits
        }
        self.data.kept.pop(("test", False, self.modality), None)  # until it is measured
        return read

    def run(
        self,
        run_training: RunTraining,
        say: TrainingMessage,
        clock: TrainingClock,
        kept_s: float = 0.0,
        progress: Callable[[StageProgress], None] | None = None,
    ) -> None:
        """Run the stages that have left no result yet, each from its last checkpoint where there is one.

        Args:
            run_training: what runs a config.
            say: called with a line for a person at each step.
            clock: the time of the whole training.
            kept_s: seconds that are kept for what comes after the stages.
            progress: called with the progress of each stage.
        """
        stages = self.stages
        for n, stage in enumerate(stages, start=1):
            if (self.work / stage.result).is_file():
                say(f"stage {n} of {len(stages)}: {stage.name}: {stage.result} is there already")
                continue
            for tries_left in reversed(range(_CODEC_TRIES)):
                say(f"stage {n} of {len(stages)}: {stage.name}, {spoken_seconds(clock.left_s)} left")
                try:
                    self._run_stage(n, run_training, say, clock, kept_s, progress)
                    break
                except TrainingError as error:
                    # The codec is not good enough: what made it goes on, where it was made here.
                    if not tries_left or stages[0].name != STAGES[0].name or not self._checkpoint(stages[0]):
                        raise
                    say(f"  {error}")
                    (self.work / stages[0].result).unlink()
                    say(f"stage 1 of {len(stages)} again: {stages[0].name}, {spoken_seconds(clock.left_s)} left")
                    self._run_stage(1, run_training, say, clock, kept_s, progress)

    def end(self, clock: TrainingClock) -> None:
        """Record the used time, and write the page as it stays."""
        clock.record(at_once=True)
        write_page(self.work, [stage.name for stage in STAGES])

    def _checkpoint(self, stage: Stage) -> Path | None:
        return newest_checkpoint(self.work, stage.name)

    def _run_stage(
        self,
        n: int,
        run_training: RunTraining,
        say: TrainingMessage,
        clock: TrainingClock,
        kept_s: float,
        progress: Callable[[StageProgress], None] | None,
    ) -> None:
        """Run the stage of this number, from 1, in its share of what is left."""

        def tick(found: StageProgress) -> None:
            clock.record()
            if progress is not None:
                progress(found)

        stage = self.stages[n - 1]
        shares = [one.share for one in self.stages[n - 1 :] if not (self.work / one.result).is_file()]
        left_s = max(4.0, clock.left_s - kept_s)
        budget_s = max(left_s * stage.share / sum(shares), min(left_s / 4, stage.least_s))
        checkpoint = self._checkpoint(stage)
        went_on = "" if checkpoint is None else f", goes on from {checkpoint.name}"
        say(f"  has {spoken_seconds(budget_s)}{went_on}")
        # Path objects, not text: MONAI would execute a text that begins with "$".
        places: dict[str, Any] = {"dataset_dir": self.data, "output_dir": self.work, "checkpoint": checkpoint}
        numbers: dict[str, Any] = {"seed": self.seed + n, "modality": self.modality, "limits": self.limits}
        numbers |= {"budget_s": budget_s, "budget::ends_at": time.monotonic() + budget_s, "budget::progress": tick}
        if stage.name not in _BEFORE_START and lacks_split(self.data, "calibration"):  # of pictures
            places = {**places, "picture_split": ""}
        if stage.name == "adversarial" and self.start is not None:
            # The weights' own codec was good enough when it was trained.
            places = {**places, "initial_weights": self.start, "gate_split": ""}
        overlays = [name for name in (*self.overlays, stage.config) if self._has(stage.bundle, name)]
        run_training(self._folder(stage.bundle), overlays, {**places, **numbers, **self._changed(stage.name)})
        clock.record(at_once=True)

    def pack(self, run_training: RunTraining, about: Sequence[str]) -> list[OwnBundle]:
        """Make the bundles of what was trained: the latent diffusion model's, then the baselines'; none where none is.

        Args:
            run_training: what runs a config.
            about: what the cards say of the training.
        """
        if not (self.work / "generator.pt").is_file():
            return []
        run_training(self.bundle, [*self.overlays, "pack"], {"output_dir": self.work, **self._changed("pack")})
        made = [OwnBundle(self.bundle, self.output / self.name, about)]
        made[0].write({"model": self.work / "model.pt"})
        if self.overlays:
            merge_configs(made[0].target / "configs", "inference", *self.overlays)
        weights = {"model": self.work / "srgan.pt", "srresnet": self.work / "srresnet.pt"}
        if self._has(BASELINES, "inference") and all(path.is_file() for path in weights.values()):
            made.append(OwnBundle(self._folder(BASELINES), self.output / f"{self.name}{_BASELINES_END}", about))
            made[1].write(weights)
        return made

    def about(self, data: str) -> list[str]:
        """What the card of a trained bundle says of its training; no name of a file or patient.

        Args:
            data: what the data is.
        """
        lines = [data]
        used = []
        for stage in self.stages:
            rows = read_losses(self.work / f"{stage.name}.csv")
            if rows:
                used.append(f"{stage.name} {spoken_seconds(float(rows[-1]['used_s']))}")
        lines.append(f"stages: {', '.join(used)}; size {self.size}, seed {self.seed}")
        if self.start is not None:
            lines.append(f"went on from weights with SHA-256 {file_sha256(self.start)}; their data belongs to theirs")
        return lines

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


def spoken_seconds(seconds: float) -> str:
    """Seconds, or minutes where there are more than two."""
    seconds = max(0.0, seconds)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"

"""What a whole training consists of: stages in order, their shares of the time, and the bundles that come of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.networks.weights import file_sha256
from monai_ldmsr.training.checkpoints import check_disk_space, newest_checkpoint
from monai_ldmsr.training.discovery import find_entries
from monai_ldmsr.training.slices import load_training_volumes

__all__ = ["STAGES", "Stage", "TrainingMessage", "TrainingPlan", "pack_bundle", "parse_budget"]

#: Told one line for a person at each step.
TrainingMessage = Callable[[str], None]

_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Stage:
    """One training config.

    Args:
        name: also the beginning of its checkpoints' names.
        bundle: whose config it is.
        config: name of the config file without extension.
        result: weights file that it leaves; a stage whose result is there is not run again.
        share: of the whole time.
    """

    name: str
    bundle: str
    config: str
    result: str
    share: float


STAGES = (
    Stage("autoencoder", "ldm_sr", "train_autoencoder", "codec.pt", 0.08),
    Stage("diffusion", "ldm_sr", "train_diffusion", "denoiser.pt", 0.40),
    Stage("adversarial", "ldm_sr", "train_adversarial", "denoiser_sharp.pt", 0.30),
    Stage("srresnet", "srgan_sr", "train_srresnet", "srresnet.pt", 0.11),
    Stage("srgan", "srgan_sr", "train", "srgan.pt", 0.11),
)


@dataclass(frozen=True)
class TrainingPlan:
    """All stages on one dataset.

    Args:
        bundle: folder of the bundle whose training configs are run; the baselines' lies beside it, or is missing.
        data: dataset folder.
        output: gets ``training``, and one folder for each bundle.
        budget_s: seconds of all stages together.
        seed: of all stages.
        settings: config values by stage name; those of ``""`` for all stages.
    """

    bundle: Path
    data: Path
    output: Path
    budget_s: float
    seed: int
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def work(self) -> Path:
        """Folder of weights, checkpoints, logs and pictures."""
        return self.output / "training"

    @property
    def stages(self) -> list[tuple[Stage, Path]]:
        """Stages whose config is there, with it."""
        folders = {"ldm_sr": self.bundle, "srgan_sr": self.bundle.parent / "srgan_sr"}
        found = [(stage, folders[stage.bundle] / "configs" / f"{stage.config}.yaml") for stage in STAGES]
        return [(stage, config) for stage, config in found if config.is_file()]

    def check(self) -> None:
        """Find out before any time is spent what would end the training late.

        Raises:
            SettingsError: the bundle has no training configs, or see ``find_entries``.
            SourceError: a volume cannot be read.
            OutputError: there is no room.
        """
        if not {stage.name for stage, _ in self.stages} >= {stage.name for stage in STAGES if stage.bundle == "ldm_sr"}:
            raise SettingsError(f"The bundle '{self.bundle.name}' has no training configs. Choose ldm_sr, or a copy.")
        check_disk_space(self.work)
        find_entries(self.data, "train")
        for split in ("calibration", "test"):
            load_training_volumes(self.data, split, halve_interpolated=False)

    def run(self, run_config: Callable[[Path, Mapping[str, Any]], None], say: TrainingMessage) -> None:
        """Run the stages that have left no result yet, each from its last checkpoint where there is one."""
        stages, left_s = self.stages, self.budget_s
        for n, (stage, config) in enumerate(stages, start=1):
            budget_s = self.budget_s * stage.share / sum(other.share for other, _ in stages)
            say(f"stage {n} of {len(stages)}: {stage.name}, {_time(budget_s)} of the {_time(left_s)} left")
            left_s -= budget_s
            if (self.work / stage.result).is_file():
                say(f"  {stage.result} is there already")
                continue
            checkpoint = newest_checkpoint(self.work, stage.name)
            if checkpoint is not None:
                say(f"  goes on from {checkpoint.name}")
            # Path objects, not text: MONAI would execute a text that begins with "$".
            places = {"dataset_dir": self.data, "output_dir": self.work, "checkpoint": checkpoint}
            numbers = {"budget_s": budget_s, "seed": self.seed + n}
            run_config(config, {**places, **numbers, **self._changed(""), **self._changed(stage.name)})

    def pack(self, run_config: Callable[[Path, Mapping[str, Any]], None]) -> tuple[Path, Path | None]:
        """Make the bundles of what was trained: the latent diffusion model's, and the baselines' where there is one."""
        run_config(self.bundle / "configs" / "pack.yaml", {"output_dir": self.work, **self._changed("pack")})
        packed, baselines = self.output / "ldm_sr", self.output / "srgan_sr"
        pack_bundle(self.bundle, packed, {"model": self.work / "model.pt"})
        source = self.bundle.parent / "srgan_sr"
        if not (source / "configs" / "inference.yaml").is_file():
            return packed, None
        pack_bundle(source, baselines, {"model": self.work / "srgan.pt", "srresnet": self.work / "srresnet.pt"})
        return packed, baselines

    def _changed(self, stage: str) -> Mapping[str, Any]:
        return self.settings.get(stage, {})


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


def pack_bundle(source: Path, target: Path, weights: dict[str, Path]) -> None:
    """Make a complete bundle: the source's configs and licence, these weights, and metadata that name their hashes.

    What the source's metadata say about its own weights (figures, data) is not taken over.

    Args:
        source: bundle folder with ``configs``.
        target: made or replaced file by file.
        weights: name without extension (``model`` first) to file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        shutil.copytree(source / "configs", target / "configs", dirs_exist_ok=True)
        if (source / "LICENSE").is_file():
            shutil.copy2(source / "LICENSE", target / "LICENSE")
        (target / "models").mkdir(exist_ok=True)
        for name, path in weights.items():
            partial = target / "models" / f".{name}.part"
            shutil.copyfile(path, partial)
            os.replace(partial, target / "models" / f"{name}.pt")
        _write_metadata(target, list(weights))
    except OSError as error:
        raise OutputError(
            f"The bundle '{target.name}' cannot be written: {error.strerror}. Make room, or choose another folder."
        ) from error


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
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(meta, indent=4) + "\n", encoding="utf-8")
    os.replace(partial, path)

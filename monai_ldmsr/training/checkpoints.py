"""Go on where a training stopped, and find out in time that there is no disk space to save one.

MONAI's ``CheckpointSaver`` writes straight to the final name, so a killed training or a full disk would leave none that
is whole. Ignite's ``Checkpoint`` would do with an atomic saver and two files kept, but removes only files of its own
process: each training that goes on would leave two more. Hence the class below.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from torch import nn

from monai_ldmsr.errors import OutputError, WeightsError
from monai_ldmsr.networks.latent_generator import LatentGenerator
from monai_ldmsr.networks.plain_diffusion import PlainGenerator
from monai_ldmsr.networks.weights import MISFITS, load_initial_weights, load_weights, read_state, write_state
from monai_ldmsr.storage import make_writable, replaced_files
from monai_ldmsr.training.distributed import is_first_process
from monai_ldmsr.training.stopping import TrainingStoppedError, check_stop, set_training

__all__ = ["SafeCheckpoints", "check_disk_space", "load_start", "newest_checkpoint", "resume_training"]


class SafeCheckpoints:
    """Ignite handler: write ``<stage>_checkpoint_iteration=<n>.pt`` as a temporary file, rename it, remove older ones.

    Only the first process writes; where a signal ends a training, it writes one more.

    Args:
        folder: made when missing.
        training_state: objects with ``state_dict``, by name.
        stage: name of the training stage.
        interval_s: seconds between two checkpoints.
    """

    def __init__(
        self, folder: str | Path, training_state: Mapping[str, Any], stage: str, interval_s: float = 60.0
    ) -> None:
        self.folder = Path(folder)
        self.training_state = dict(training_state)
        self.stage = stage
        self.interval_s = interval_s
        self._last = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if is_first_process():
            engine.add_event_handler(Events.STARTED, lambda: set_training(True))
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_in_time)
            engine.add_event_handler(Events.COMPLETED, self.save)
            engine.add_event_handler(Events.COMPLETED, lambda: set_training(False))

    def _save_in_time(self, engine: Engine) -> None:
        if (number := check_stop()) is not None:
            self.save(engine)
            raise TrainingStoppedError(number)
        if time.monotonic() - self._last >= self.interval_s:
            self.save(engine)
            self._last = time.monotonic()

    def save(self, engine: Engine) -> None:
        """Write one checkpoint.

        Raises:
            OutputError: it cannot be written; the last one stays.
        """
        target = self.folder / f"{self.stage}_checkpoint_iteration={engine.state.iteration}.pt"
        try:
            with replaced_files(target) as (partial,):
                states = {name: _plain(item).state_dict() for name, item in self.training_state.items()}
                write_state(states, partial)
            for path in self.folder.glob(f"{self.stage}_checkpoint_iteration=*.pt"):
                if path != target:
                    path.unlink()
        except OSError as error:
            raise OutputError(
                f"The checkpoint '{target.name}' cannot be written; the last one is whole. Free disk space and "
                "go on from it."
            ) from error


def _plain(item: Any) -> Any:
    return item.module if isinstance(item, nn.parallel.DistributedDataParallel) else item


def check_disk_space(folder: str | Path, needed_bytes: int = 500_000_000) -> None:
    """Make a folder, and see that it can be written and has space.

    Args:
        folder: made when missing.
        needed_bytes: space for two checkpoints (the last one and the next), weights, pictures and logs.

    Raises:
        OutputError: it cannot be written, or has less space.
    """
    make_writable(Path(folder), "The training folder")
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise OutputError(
            f"The disk of the output folder has {free / 1e6:.0f} MB left, but training needs {needed_bytes / 1e6:.0f} "
            "MB for checkpoints. Free disk space, or choose another output folder."
        )


def newest_checkpoint(folder: str | Path, stage: str) -> Path | None:
    """The checkpoint of a stage that was written last; a resumed training counts its iterations from 0 again."""
    found = Path(folder).glob(f"{stage}_checkpoint_iteration=*.pt")
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def resume_training(
    path: str | Path | None, training_state: Mapping[str, Any], map_location: str | torch.device = "cpu"
) -> None:
    """Load a checkpoint into networks, optimizers and the time budget; nothing in the file is executed.

    Args:
        path: checkpoint of the same stage; None starts without one.
        training_state: what the stage's checkpoints hold, by name.
        map_location: the training's device.

    Raises:
        WeightsError: it does not exist, is damaged, or belongs to another stage or network.
    """
    if path is None:
        return
    name = Path(path).name
    state = read_state(path, "checkpoint", map_location)
    try:
        Checkpoint.load_objects(to_load=dict(training_state), checkpoint=state)
    except MISFITS as error:
        raise WeightsError(
            f"The checkpoint '{name}' does not fit this stage's networks ({type(error).__name__}). "
            "Use a checkpoint of the same stage and network, or start without one."
        ) from error
    logging.getLogger(__name__).info("Training goes on from '%s'.", name)


def load_start(
    generator: LatentGenerator | PlainGenerator,
    whole: str | Path | None,
    codec: str | Path | None,
    denoiser: str | Path | None,
) -> None:
    """Load what the generator starts from.

    Args:
        generator: changed in place.
        whole: weights of a whole generator, to go on from; the others are then not read. Decoders that the generator
            does not have are left out.
        codec: weights of the codec's stage.
        denoiser: weights of the denoiser's stage.

    Raises:
        WeightsError: a file is missing, damaged, or does not fit.
    """
    if whole is not None:
        without = [f"{name}." for name in ("mean_decoder", "sample_decoder") if not hasattr(generator, name)]
        load_weights(
            generator,
            whole,
            renamed=lambda state: {key: x for key, x in state.items() if not key.startswith(tuple(without))},
        )
        return
    for part, path in ((generator.codec, codec), (generator.denoiser, denoiser)):
        load_initial_weights(part, path)

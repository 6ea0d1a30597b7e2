"""A look at what a network has learned so far, without stopping its training."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics.sharpness import to_grey8
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.training.distributed import is_first_process
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["ValidationPictures"]

_FACTOR, _ZOOM, _GAP = 4, 2, 2

#: Greatest number of patches, of different volumes, and their side in pixels.
_PATCHES, _SIDE = 4, 96


class ValidationPictures:
    """Ignite handler: now and then draw some patches as bicubic | network | original, one line each.

    A picture that cannot be written is logged and does not end the training; only the first process draws, and none
    without Pillow.

    Args:
        network: (B, 1, h, w) in model range to (B, 1, 4h, 4w); best the moving average of what is trained.
        volumes: volumes of the calibration split; none draws nothing.
        folder: gets ``<name>_<iteration>.png``.
        name: name of the stage.
        interval_s: seconds between two pictures; there is one of the last iteration, too.
    """

    def __init__(
        self,
        network: nn.Module,
        volumes: Sequence[TrainingVolume],
        folder: str | Path,
        name: str,
        interval_s: float = 120.0,
    ) -> None:
        self.network = network
        self.folder = Path(folder)
        self.name = name
        self.interval_s = interval_s
        self._last = time.monotonic()
        self.patches = [_middle(volumes[n]) for n in spread_slices(len(volumes), _PATCHES)]

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.patches and is_first_process() and _can_draw():
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw_in_time)
            engine.add_event_handler(Events.COMPLETED, self.draw)

    def _draw_in_time(self, engine: Engine) -> None:
        if time.monotonic() - self._last >= self.interval_s:
            self.draw(engine)
            self._last = time.monotonic()

    @torch.no_grad()
    def draw(self, engine: Engine) -> None:
        """Write one picture."""
        from PIL import Image

        device = next(self.network.parameters()).device
        training = self.network.training
        self.network.eval()
        lines = [self._line(patch.to(device)) for patch in self.patches]
        self.network.train(training)
        width = max(line.shape[1] for line in lines)
        sheet = np.concatenate([np.pad(line, ((0, _GAP), (0, width - line.shape[1]))) for line in lines])
        picture = Image.fromarray(sheet).resize((sheet.shape[1] * _ZOOM, sheet.shape[0] * _ZOOM), 0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            picture.save(self.folder / f"{self.name}_{engine.state.iteration:07d}.png")
        except OSError as error:
            logging.getLogger(__name__).warning("A validation picture cannot be written: %s.", error.strerror)

    def _line(self, high: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        low = AreaOperator(_FACTOR)(high)
        images = (upsample_bicubic(low, _FACTOR), self.network(low), high)
        # First axis is the column index i: transposed, patients lie as radiologists see them.
        grey = [to_grey8(image[0, 0].T, -1.0, 1.0).cpu().numpy().astype(np.uint8) for image in images]
        return np.concatenate([np.pad(g, ((0, 0), (0, _GAP))) for g in grey], axis=1)


def _can_draw() -> bool:
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        logging.getLogger(__name__).warning("No validation pictures are drawn: Pillow is not installed.")
        return False
    return True


def _middle(volume: TrainingVolume) -> Tensor:
    """(1, 1, h, w) patch in model range from the middle of the middle slice."""
    image = volume.slices[len(volume.slices) // 2]
    sizes = [min(_SIDE, n) // _FACTOR * _FACTOR for n in image.shape]
    top, left = ((n - size) // 2 for n, size in zip(image.shape, sizes, strict=True))
    patch = np.ascontiguousarray(image[top : top + sizes[0], left : left + sizes[1]])
    return volume.intensity.forward(torch.from_numpy(patch))[None, None]

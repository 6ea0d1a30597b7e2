"""Training for a given time: learning rate, end and log follow the clock, not a guessed number of steps."""

from __future__ import annotations

import csv
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer

from monai_ldmsr.training.distributed import agreed_seconds, is_first_process

__all__ = ["TimeBudget"]


@dataclass(eq=False, repr=False)
class TimeBudget:
    """Ignite handler: warm up, lower the learning rate along a cosine, and stop when the time is used up.

    The used time is state (``state_dict``), so a resumed training goes on where it stopped.

    Args:
        optimizer: optimizer whose learning rate is set before each iteration; times ``lr_scale`` in groups of
            parameters that have one.
        budget_s: seconds of training.
        learning_rate: highest learning rate.
        warmup: share of the budget for the linear rise.
        log_every: iterations between two lines of the log.
        log_file: CSV file that gets each line's numbers too; a resumed training adds to it.
    """

    optimizer: Optimizer
    budget_s: float
    learning_rate: float
    warmup: float = 0.02
    log_every: int = 100
    log_file: str | Path | None = None

    def __post_init__(self) -> None:
        self.used_s = 0.0
        self._last = time.monotonic()
        self._losses: list[dict[str, Tensor]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set_learning_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)

    def state_dict(self) -> dict[str, float]:
        """Used seconds."""
        return {"used_s": self.used_s}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from the used seconds of a checkpoint."""
        self.used_s = float(state["used_s"])

    def _start(self, engine: Engine) -> None:
        self._last = time.monotonic()

    def _set_learning_rate(self, engine: Engine) -> None:
        rate = self._rate()
        for group in self.optimizer.param_groups:
            scaled = rate * group.get("lr_scale", 1.0)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(scaled)
            else:
                group["lr"] = scaled

    def _rate(self) -> float:
        share = min(1.0, self.used_s / self.budget_s)
        rise = min(1.0, share / self.warmup) if self.used_s < self.budget_s * self.warmup else 1.0
        return self.learning_rate * max(0.01, rise * 0.5 * (1 + math.cos(math.pi * share)))

    def _count(self, engine: Engine) -> None:
        now = time.monotonic()
        self.used_s = agreed_seconds(self.used_s + now - self._last)
        self._last = now
        self._losses.append(_losses(engine.state.output))
        if engine.state.iteration % self.log_every == 0:
            if is_first_process():
                self._log(engine.state.iteration)
            self._losses.clear()
        if self.used_s >= self.budget_s:
            engine.terminate()

    def _log(self, iteration: int) -> None:
        # Read here and not after each iteration, for which a GPU would have to be waited for. Not each batch has each.
        names = dict.fromkeys(key for losses in self._losses for key in losses)
        found = {key: [losses[key] for losses in self._losses if key in losses] for key in names}
        means = {key: float(torch.stack(values).mean()) for key, values in found.items()}
        left = max(0.0, self.budget_s - self.used_s) / 60
        text = ", ".join(f"{key} {value:.5f}" for key, value in means.items())
        logging.getLogger(__name__).info("step %d: %s, %.0f minutes left", iteration, text, left)
        if self.log_file is not None:
            row = {"step": iteration, "used_s": round(self.used_s, 1), "learning_rate": self._rate(), **means}
            path = Path(self.log_file)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            with path.open("a", newline="") as stream:
                writer = csv.DictWriter(stream, fieldnames=list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)


def _losses(output: Any) -> dict[str, Tensor]:
    """Every scalar loss of an iteration's output, under the name that MONAI's engines give it."""
    first = output[0] if isinstance(output, list) else output
    return {str(key): value.detach() for key, value in first.items() if "loss" in key}

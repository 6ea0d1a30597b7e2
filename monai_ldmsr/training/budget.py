"""Training for a given time: learning rate, end and log follow the clock, not a guessed number of steps."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from ignite.engine import Engine, Events
from torch.optim import Optimizer

__all__ = ["TimeBudget"]


class TimeBudget:
    """Ignite handler: warm up, lower the learning rate along a cosine, and stop when the time is used up.

    The used time is state (``state_dict``), so a resumed training goes on where it stopped.

    Args:
        optimizer: its learning rate is set before each iteration.
        budget_s: seconds of training.
        learning_rate: highest learning rate.
        warmup: share of the budget for the linear rise.
        log_every: iterations between two lines of the log.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        budget_s: float,
        learning_rate: float,
        warmup: float = 0.02,
        log_every: int = 100,
    ) -> None:
        self.optimizer = optimizer
        self.budget_s = budget_s
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.log_every = log_every
        self.used_s = 0.0
        self._last = time.monotonic()
        self._losses: list[float] = []

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
        share = min(1.0, self.used_s / self.budget_s)
        rise = min(1.0, share / self.warmup) if self.used_s < self.budget_s * self.warmup else 1.0
        rate = self.learning_rate * max(0.01, rise * 0.5 * (1 + math.cos(math.pi * share)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _count(self, engine: Engine) -> None:
        now = time.monotonic()
        self.used_s += now - self._last
        self._last = now
        self._losses.append(_loss(engine.state.output))
        if engine.state.iteration % self.log_every == 0:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            left = max(0.0, self.budget_s - self.used_s) / 60
            logging.getLogger(__name__).info(
                "step %d: loss %.5f, %.0f minutes left", engine.state.iteration, mean, left
            )
        if self.used_s >= self.budget_s:
            engine.terminate()


def _loss(output: Any) -> float:
    first = output[0] if isinstance(output, list) else output
    return float(first["loss"].detach())

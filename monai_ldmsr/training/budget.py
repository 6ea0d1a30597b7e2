"""Training for a given time: learning rate, end and log follow the clock, not a guessed number of steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.optim import Optimizer

from monai_ldmsr.training.distributed import agreed_seconds, is_first_process
from monai_ldmsr.training.loss_log import LossLog
from monai_ldmsr.training.page import write_page

__all__ = ["StageProgress", "TimeBudget"]

#: Seconds between two lines for a person, and between two states of the page.
_LINE_S, _PAGE_S = 20.0, 15.0


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is.

    Args:
        stage: name of the stage.
        iteration: number of the iteration since this start.
        losses: means since the last progress.
        rate: iterations a second since the last progress.
        used_s: seconds used of the stage.
        left_s: seconds left of it.
    """

    stage: str
    iteration: int
    losses: Mapping[str, float]
    rate: float
    used_s: float
    left_s: float

    def __str__(self) -> str:
        losses = ", ".join(f"{key.removesuffix('_loss')} {value:.4f}" for key, value in self.losses.items())
        left = f"{self.left_s:.0f} s" if self.left_s < 120 else f"{self.left_s / 60:.0f} min"
        return f"{self.stage}, step {self.iteration}: {losses}; {self.rate:.2f} steps a second, {left} left"


@dataclass(eq=False, repr=False)
class TimeBudget:
    """Ignite handler: warm up, lower the learning rate along a cosine, and stop when the time is used up.

    The used time is state (``state_dict``), so a resumed training goes on where it stopped.

    Args:
        optimizer: optimizer whose learning rate is set before each iteration; times ``lr_scale`` in groups of
            parameters that have one.
        budget_s: seconds of training, in which a resumed one has used some already.
        learning_rate: highest learning rate.
        warmup: share of the budget for the linear rise.
        log_s: seconds between two lines of the log; the first one is that of the first iteration.
        log_file: CSV file of the log, beside which the page of the training is written; a resumed training adds to it.
        ends_at: when training ends, of ``time.monotonic``; the budget is then what is left, and what was used before.
        progress: called with each line.
    """

    optimizer: Optimizer
    budget_s: float
    learning_rate: float
    warmup: float = 0.02
    log_s: float = 2.0
    log_file: str | Path | None = None
    ends_at: float | None = None
    progress: Callable[[StageProgress], None] | None = None

    def __post_init__(self) -> None:
        self.used_s = 0.0
        self._last = time.monotonic()
        self._logged = self._last
        self._line_due = self._page_due = 0.0
        self._log = None if self.log_file is None else LossLog(self.log_file)
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
        self._last = self._logged = time.monotonic()
        if self.ends_at is not None:
            self.budget_s = self.used_s + max(1.0, self.ends_at - self._last)

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
        is_last = self.used_s >= self.budget_s
        if engine.state.iteration == 1 or is_last or now - self._logged >= self.log_s:
            if is_first_process():
                self._report(engine.state.iteration, now, is_last)
            self._logged = now
            self._losses.clear()
        if is_last:
            engine.terminate()

    def _report(self, iteration: int, now: float, is_last: bool) -> None:
        # Read here and not after each iteration, for which a GPU would have to be waited for. Not each batch has each.
        names = dict.fromkeys(key for losses in self._losses for key in losses)
        found = {key: [losses[key] for losses in self._losses if key in losses] for key in names}
        means = {key: float(torch.stack(values).mean()) for key, values in found.items()}
        stage = "training" if self.log_file is None else Path(self.log_file).stem
        rate = len(self._losses) / max(now - self._logged, 1e-6)
        progress = StageProgress(stage, iteration, means, rate, self.used_s, max(0.0, self.budget_s - self.used_s))
        if self._log is not None:
            self._log.add({"step": iteration, "used_s": round(self.used_s, 1), "learning_rate": self._rate(), **means})
        if self._log is not None and (is_last or now >= self._page_due):
            self._page_due = now + _PAGE_S
            # A whole training goes on after its stage, and says itself when it ends.
            write_page(self._log.file.parent, running=not is_last or self.ends_at is not None)
        if is_last or now >= self._line_due:
            self._line_due = now + _LINE_S
            logging.getLogger(__name__).info("%s", progress)
        if self.progress is not None:
            self.progress(progress)


def _losses(output: Any) -> dict[str, Tensor]:
    """Every scalar loss of an iteration's output, under the name that MONAI's engines give it."""
    first = output[0] if isinstance(output, list) else output
    return {str(key): value.detach() for key, value in first.items() if "loss" in key}

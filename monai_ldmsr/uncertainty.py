"""How far each voxel of a result may be wrong: intervals and masks that hold over patients, and their calibration.

A network expects an error of each voxel; half the width of its interval is a multiple of that. The multiple is chosen
by conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814) over patients, not over voxels, since voxels of
one patient err together. The mask of trusted voxels follows in the same way (after arXiv 2502.09664).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from monai_ldmsr.bundle_folder import read_beside_weights
from monai_ldmsr.geometry import Factors, ResultGrid
from monai_ldmsr.storage import replace_text

__all__ = [
    "COVERAGE",
    "NOMINAL",
    "POOLED",
    "CalibratedGroup",
    "Calibration",
    "ResultMap",
    "controlled",
    "load_calibration",
]

#: Share of voxels that the interval is meant to hold.
COVERAGE = 0.9

#: What settings are where nothing is said of them, as by calibrations from before there were any.
_UNSAID: Mapping[str, Any] = {"sampler": None, "flat_detail": 1.0}

#: Half the width over the expected absolute error where nothing was calibrated: that of a Laplace distribution, which
#: the network was trained for.
NOMINAL = -math.log(1 - COVERAGE)

#: Name of the group of modalities that have too few patients for a group each.
POOLED = "pooled"


@dataclass(frozen=True, eq=False)
class ResultMap:
    """A number for each voxel of the result, or of the source, that is no image of the patient.

    Args:
        kind: ``expected_error``, half the width of the interval that holds the truth, 0 where there is padding;
            ``trusted``, 1 where the body may be trusted to a tolerance, else 0; or ``contradiction``, what the
            network made, degraded again, less what was measured, before the projection.
        values: (1, I, J, K) in the source's unit, or 0 and 1.
        factors: how many times finer its grid is than the source's, or where it has new slices, that grid.
        is_calibrated: whether the share of voxels that intervals hold was calibrated on patients, for such weights and
            settings.
    """

    kind: str
    values: Tensor
    factors: Factors | ResultGrid
    is_calibrated: bool = False

    @property
    def grid(self) -> ResultGrid:
        """How its grid lies on the source's."""
        return ResultGrid.of(self.factors)


def controlled(losses: npt.ArrayLike, alpha: float, bound: float = 1.0) -> int | None:
    """The first of some choices, in order of falling risk, whose risk over new patients is controlled.

    ``(sum of losses + bound) / (n + 1) <= alpha`` there and at all later choices. Of a patient drawn as the n were, the
    expected loss is ``alpha`` at most where no loss is above ``bound``; losses above it count as ``bound``, so that a
    smaller one bounds the expectation of the truncated loss.

    Args:
        losses: (patients, choices) from 0 to 1.
        alpha: risk that is allowed.
        bound: greatest loss that counts.

    Returns:
        Its place; None where no choice will do.

    Example:
        >>> controlled([[0.9, 0.2, 0.0]] * 9, 0.2), controlled([[0.9, 0.2, 0.0]] * 3, 0.2)
        (2, None)
    """
    found = np.minimum(np.asarray(losses, np.float64), bound)
    # What a choice promises, none that is meant to be safer may break.
    worst = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
    good = (worst.sum(axis=0) + bound) / (len(found) + 1) <= alpha + 1e-12
    return int(np.argmax(good)) if good.any() else None


@dataclass(frozen=True)
class CalibratedGroup:
    """What was chosen on some patients: of one modality, or of several.

    Args:
        modalities: what they show.
        n_patients: how many.
        multipliers: by factor and dial, half the width of the interval over the expected error.
        coverage: by factor, share of the foreground's voxels of these patients that intervals held, mean over them.
        trust: by factor, pairs (tolerance, greatest expected error of a trusted voxel), ascending, both over the span
            of the volume's intensities.
        alarms: by factor and dial, contradiction of a slice over the source's noise above which it is an alarm.
    """

    modalities: Sequence[str]
    n_patients: int
    multipliers: Mapping[str, Mapping[str, float]]
    coverage: Mapping[str, float]
    trust: Mapping[str, Sequence[tuple[float, float]]]
    alarms: Mapping[str, Mapping[str, float]]

    def multiplier(self, factor: float, dial: float) -> float | None:
        """Half the width over the expected error, between dials by a line; None where the factor was not calibrated."""
        return _at_dial(self.multipliers.get(f"{factor:g}"), dial)

    def alarm(self, factor: float, dial: float) -> float | None:
        """Contradiction over the source's noise above which a slice is an alarm; likewise."""
        return _at_dial(self.alarms.get(f"{factor:g}"), dial)

    def trusted_error(self, factor: float, tolerance: float) -> float | None:
        """Greatest expected error of a trusted voxel, over the span of intensities as the tolerance is.

        Between two tolerances it is the smaller share of the tolerance; below the smallest nothing is trusted; above
        the greatest it does not grow.
        """
        known = self.trust.get(f"{factor:g}")
        if known is None:
            return None
        place = bisect.bisect_right([at for at, _ in known], tolerance)
        if place == 0:
            return 0.0
        near = known[place - 1 : place + 1]
        return min(error / at for at, error in near) * min(tolerance, known[-1][0])


def _at_dial(known: Mapping[str, float] | None, dial: float) -> float | None:
    if known is None:
        return None
    dials, values = zip(*sorted((float(at), value) for at, value in known.items()), strict=True)
    return float(np.interp(dial, dials, values))


@dataclass(frozen=True)
class Calibration:
    """Intervals, masks and alarms of one model's weights.

    Args:
        weights_sha256: hash of the weights.
        settings: settings of calls that it holds for.
        groups: by modality, and pooled for those that have too few patients.
        about: how it was made.
    """

    weights_sha256: str
    settings: Mapping[str, Any]
    groups: Mapping[str, CalibratedGroup]
    about: Mapping[str, Any]

    def group(self, modality: str) -> CalibratedGroup:
        """The group that a modality belongs to."""
        return self.groups[modality if modality in self.groups else POOLED]

    def other_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Names of settings that are not those it was made with: another value, none, or another sampler."""
        own = {**_UNSAID, **self.settings}
        if settings.get("detail") == 0.0:
            own.pop("flat_detail")  # a share of nothing
        return [name for name, value in own.items() if settings.get(name, _UNSAID.get(name)) != value]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that follow from its content."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    def write(self, path: Path) -> None:
        """Write it as JSON, the same for the same content.

        Raises:
            OutputError: it cannot be written.
        """
        replace_text(path, self._text())

    def _text(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def load_calibration(path: str | Path, weights_sha256: str) -> Calibration | None:
    """Read a bundle's calibration; None where it has none.

    Args:
        path: the file.
        weights_sha256: hash of the weights that it must belong to; empty where none were loaded, which have none.

    Raises:
        WeightsError: it is damaged, or was made for other weights.
    """
    return read_beside_weights(path, weights_sha256, _read, "no coverage is claimed")


def _read(given: dict[str, Any]) -> Calibration:
    groups = {name: CalibratedGroup(**group) for name, group in given.pop("groups").items()}
    found = Calibration(**given, groups=groups)
    found.group(POOLED)
    return found

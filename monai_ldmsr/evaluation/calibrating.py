"""What counts of patients allow to promise, and what became of such promises on others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.evaluation.coverage import DIALS, MULTIPLIERS, REGIONS, THRESHOLDS, TOLERANCES, CoverageCounts
from monai_ldmsr.uncertainty import COVERAGE, POOLED, CalibratedGroup, Calibration, controlled

__all__ = ["FactorCounts", "calibration_of", "check_patients", "coverage_figures"]

#: Counts by modality, patient and dial.
FactorCounts = Mapping[tuple[str, str, float], CoverageCounts]

#: Share of voxels that may lie outside of intervals, and that count at most for a patient: with 1 as the bound, so few
#: patients would allow half that share only, and intervals would be far too wide for all others.
_ALPHA, _BOUND = 1 - COVERAGE, 0.25

#: Share of trusted voxels that may err by more than the tolerance; here a patient counts in full.
_WRONG = 0.1

#: With fewer patients nothing can be promised at that share, however small their losses.
_LEAST_PATIENTS = 9


def check_patients(n_patients: int) -> None:
    """Whether so many patients are enough.

    Raises:
        SettingsError: they are too few.
    """
    if n_patients < _LEAST_PATIENTS:
        raise SettingsError(
            f"Patients of the calibration split that can be measured: {n_patients}. To promise {COVERAGE:.0%}, "
            f"{_LEAST_PATIENTS} at least are needed. Give more volumes, or a list of splits (--split) that has more "
            "patients in it; without a calibration, no coverage is claimed."
        )


def calibration_of(
    found: Mapping[int, FactorCounts], weights_sha256: str, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> Calibration:
    """Choose intervals, masks and alarms.

    Args:
        found: counts by factor.
        weights_sha256: hash of the weights.
        settings: settings of calls that were measured.
        about: how it was measured.

    Raises:
        SettingsError: there are too few patients.
    """
    patients = {modality: set(_patients(found.values(), modality)) for modality in _modalities(found.values())}
    counts = {modality: len(names) for modality, names in sorted(patients.items())}
    n_all = sum(counts.values())
    check_patients(n_all)
    groups = {name: _group(found, [name]) for name, n in counts.items() if n >= _LEAST_PATIENTS}
    few = [name for name in counts if name not in groups]
    # With too few of them together, all are pooled.
    groups[POOLED] = _group(found, few if sum(counts[name] for name in few) >= _LEAST_PATIENTS else list(counts))
    said = {
        "alpha": round(_ALPHA, 6),
        "bound": _BOUND,
        "share_wrong": _WRONG,
        "patients": counts,
        "truth": "the original, and where noise was added to the degraded slice, that noise smoothly interpolated",
        "voxels": "foreground: where the original, smoothed, is brighter than air",
        "alarm": "the greatest of all slices and patients: a new patient exceeds it with a chance of 1 / (n + 1)",
        **about,
    }
    return Calibration(weights_sha256, settings, groups, said)


def coverage_figures(
    found: Mapping[int, FactorCounts], calibration: Calibration
) -> dict[str, dict[str, dict[str, float]]]:
    """What a calibration promised, and what became of it: figures by modality (and ``all``), and factor and dial.

    Figures are means over patients: ``foreground``, ``edges`` and ``all`` are shares of voxels within the interval,
    ``least`` is that of the foreground of the worst patient, ``spearman`` the correlation of error and expected error.
    """
    table: dict[str, dict[str, dict[str, float]]] = {}
    modalities = _modalities(found.values())
    for name, members in [*((one, [one]) for one in modalities), ("all", modalities)]:
        table[name] = {}
        for factor, counts in found.items():
            for dial in DIALS:
                patients = [
                    _patient_figures(one, multiplier)
                    for (m, _, d), one in counts.items()
                    if m in members and d == dial
                    if (multiplier := calibration.group(m).multiplier(factor, dial)) is not None
                ]
                if patients:
                    means = {key: float(np.nanmean([one[key] for one in patients])) for key in patients[0]}
                    least = min(one["foreground"] for one in patients)
                    table[name][f"x{factor} dial {dial:g}"] = {"patients": len(patients), **means, "least": least}
    return table


def _patient_figures(counts: CoverageCounts, multiplier: float) -> dict[str, float]:
    place = int(np.searchsorted(MULTIPLIERS, multiplier * (1 - 1e-9)))
    inside = {name: 1 - float(counts.outside(name)[place]) for name in REGIONS}
    rank = float(np.mean(counts.ranks)) if counts.ranks else math.nan
    return {**inside, "multiplier": multiplier, "spearman": rank}


def _modalities(found: Iterable[FactorCounts]) -> list[str]:
    return sorted({modality for counts in found for modality, _, _ in counts})


def _patients(found: Iterable[FactorCounts], modality: str) -> list[str]:
    return sorted({patient for counts in found for m, patient, _ in counts if m == modality})


def _group(found: Mapping[int, FactorCounts], modalities: Sequence[str]) -> CalibratedGroup:
    """What patients of some modalities allow."""
    multipliers: dict[str, dict[str, float]] = {}
    coverage: dict[str, float] = {}
    trust: dict[str, list[tuple[float, float]]] = {}
    alarms: dict[str, dict[str, float]] = {}
    n_patients = 0
    for factor, counts in found.items():
        by_patient: dict[tuple[str, str], dict[float, CoverageCounts]] = defaultdict(dict)
        for (m, patient, dial), one in counts.items():
            if m in modalities:
                by_patient[m, patient][dial] = one
        patients = list(by_patient.values())
        n_patients = max(n_patients, len(patients))
        chosen = {dial: _interval([one[dial] for one in patients]) for dial in DIALS}
        if any(found is None for found in chosen.values()):
            continue
        name = f"{factor:g}"
        multipliers[name] = {f"{dial:g}": _rounded(MULTIPLIERS[at]) for dial, at in chosen.items() if at is not None}
        shares = [1 - one[dial].outside("foreground")[at] for one in patients for dial, at in chosen.items()]
        coverage[name] = _rounded(float(np.mean(shares)))
        trust[name] = [(tolerance, _rounded(_trusted(patients, n))) for n, tolerance in enumerate(TOLERANCES)]
        alarms[name] = {f"{dial:g}": _rounded(max(max(one[dial].contradictions) for one in patients)) for dial in DIALS}
    return CalibratedGroup(modalities, n_patients, multipliers, coverage, trust, alarms)


def _interval(patients: Sequence[CoverageCounts]) -> int | None:
    """Place in ``MULTIPLIERS`` of the least one that is wide enough."""
    return controlled([one.outside("foreground") for one in patients], _ALPHA, _BOUND)


def _trusted(patients: Sequence[Mapping[float, CoverageCounts]], tolerance: int) -> float:
    """Greatest expected error of trusted voxels at a tolerance (its place), over the span; 0 trusts nothing."""
    losses = [np.mean([one.share_wrong(tolerance) for one in patient.values()], axis=0) for patient in patients]
    place = controlled(np.asarray(losses)[:, ::-1], _WRONG)  # the smaller the threshold, the safer
    return 0.0 if place is None else float(THRESHOLDS[len(THRESHOLDS) - 1 - place] * TOLERANCES[tolerance])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")

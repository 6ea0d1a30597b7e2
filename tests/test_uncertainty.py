"""Risk control over patients, and the calibration of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_ldmsr.bundle_folder import find_bundle
from monai_ldmsr.errors import ReasonCode, WeightsError
from monai_ldmsr.training.own_bundle import OwnBundle
from monai_ldmsr.uncertainty import CalibratedGroup, Calibration, controlled, load_calibration

GRID = np.geomspace(0.1, 40, 400)


def survival(scale: np.ndarray) -> np.ndarray:
    """Share of voxels outside of intervals of growing width, of patients whose errors are of these scales."""
    return np.exp(-GRID / scale[:, None])


@pytest.mark.parametrize("n", [12, 20, 60])
def test_new_patients_have_the_risk_that_was_allowed(n: int) -> None:
    """In expectation over calibrations and new patients, for the full loss and for a truncated one."""
    random = np.random.default_rng(0)
    for bound in (1.0, 0.25):
        found = []
        for _ in range(400):
            losses = survival(np.exp(random.normal(0, 0.4, n + 1)))
            place = controlled(losses[:-1], 0.1, bound)
            assert place is not None
            found.append(min(losses[-1, place], bound))
        assert np.mean(found) <= 0.1 + 2 * np.std(found) / 20
        assert bound == 1.0 or np.mean(found) > 0.07  # it is not far too wide either


def test_a_patient_more_a_smaller_risk_or_bound_do_what_they_should() -> None:
    losses = survival(np.exp(np.random.default_rng(1).normal(0, 0.4, 20)))
    places = [controlled(losses, alpha) for alpha in (0.06, 0.1, 0.2, 0.4)]
    assert places == sorted(places, reverse=True, key=lambda place: place or 0)
    assert len(set(places)) == 4
    easy, hard = survival(np.array([1e-3])), survival(np.array([100.0]))
    with_easy, with_hard = (controlled(np.concatenate([losses, one]), 0.1) for one in (easy, hard))
    here = controlled(losses, 0.1)
    assert here is not None
    assert with_easy is not None
    assert with_easy <= here
    assert with_hard is None or with_hard > here
    truncated = controlled(losses, 0.1, 0.25)
    assert truncated is not None
    assert truncated < here


def test_too_few_patients_promise_nothing() -> None:
    perfect = np.zeros((4, 10))
    assert controlled(perfect, 0.1) is None
    assert controlled(perfect, 0.2) == 0
    assert controlled(np.zeros((9, 10)), 0.1) == 0


def test_a_choice_promises_what_safer_ones_keep() -> None:
    """Risk that rises again behind a choice, as that of trusted voxels may, is not passed over."""
    assert controlled([[0.0, 0.5, 0.0]] * 20, 0.1) == 2


GROUP = CalibratedGroup(
    ["CT"],
    20,
    {"2": {"0": 2.0, "0.5": 3.0, "1": 5.0}},
    {"2": 0.91},
    {"2": [(0.01, 0.004), (0.02, 0.01)]},
    {"2": {"0": 3.0}},
)
CALIBRATION = Calibration("ab" * 32, {"operator": "area"}, {"pooled": GROUP}, {"bound": 0.25})


def test_between_dials_and_tolerances() -> None:
    assert GROUP.multiplier(2, 0.0) == 2.0
    assert GROUP.multiplier(2, 0.75) == 4.0
    assert GROUP.multiplier(3, 0.0) is None
    assert GROUP.trusted_error(2, 0.005) == 0.0
    assert GROUP.trusted_error(2, 0.01) == pytest.approx(0.004)
    assert GROUP.trusted_error(2, 0.015) == pytest.approx(0.4 * 0.015)
    assert GROUP.trusted_error(2, 0.02) == GROUP.trusted_error(2, 5.0) == pytest.approx(0.01)


def test_a_calibration_comes_back_and_belongs_to_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert load_calibration(path, "ab" * 32) is None
    CALIBRATION.write(path)
    first = path.read_bytes()
    found = load_calibration(path, "ab" * 32)
    assert found is not None
    assert found.digest == CALIBRATION.digest
    assert found.group("CT") is found.groups["pooled"]
    assert found.groups["pooled"].trusted_error(2, 0.015) == pytest.approx(0.4 * 0.015)
    assert found.other_settings({"operator": "area", "detail": 0.5}) == []
    assert found.other_settings({"operator": "kspace"}) == found.other_settings({}) == ["operator"]
    assert found.other_settings({"operator": "area", "sampler": "HeunFlow"}) == ["sampler"]
    # From before there was one: the same dial everywhere. Without a dial it makes no difference.
    assert found.other_settings({"operator": "area", "detail": 0.5, "flat_detail": 0.0}) == ["flat_detail"]
    assert found.other_settings({"operator": "area", "detail": 0.0, "flat_detail": 0.0}) == []
    at_edges = replace(found, settings={"operator": "area", "flat_detail": 0.0})
    assert at_edges.other_settings({"operator": "area", "detail": 1.0, "flat_detail": 0.0}) == []
    for said in ({"flat_detail": 0.3}, {}):
        assert at_edges.other_settings({"operator": "area", "detail": 1.0, **said}) == ["flat_detail"]
    found.write(path)
    assert path.read_bytes() == first
    with pytest.raises(WeightsError, match="made for weights abab") as caught:
        load_calibration(path, "cd" * 32)
    assert caught.value.reason is ReasonCode.BAD_WEIGHTS


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"groups": {}}', "\xff", "null"])
def test_a_damaged_calibration_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match="damaged"):
        load_calibration(path, "ab" * 32)
    path.write_text(json.dumps({"weights_sha256": "", "settings": {}, "about": {}, "groups": {"CT": {}}}))
    with pytest.raises(WeightsError, match="damaged"):
        load_calibration(path, "ab" * 32)


def test_other_weights_leave_no_calibration_behind(tmp_path: Path) -> None:
    own = OwnBundle(find_bundle("ldm_sr"), tmp_path / "mine", ["made of zeros"])
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"first")
    own.write({"model": weights})
    path = tmp_path / "mine" / "models" / "calibration.json"
    assert not path.exists()  # that of the bundle whose configs it has is of other weights
    CALIBRATION.write(path)
    own.write({"model": weights})
    assert path.exists()
    weights.write_bytes(b"second")
    own.write({"model": weights})
    assert not path.exists()

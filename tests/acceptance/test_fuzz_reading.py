"""No damage to a source ends in a traceback, a hang or an error of our own; see benchmarks/fuzz_reading.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from half_run import run_half
from hypothesis import HealthCheck, given, seed, settings
from mutated_sources import mutated
from sound_sources import Files, seeds

from monai_ldmsr.errors import ReasonCode


@pytest.mark.parametrize("name", sorted(seeds()))
def test_undamaged_sources_pass(name: str, tmp_path: Path) -> None:
    assert run_half(seeds()[name], tmp_path) == [("done", "")]


@pytest.mark.slow
@seed(0)
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_damage_is_named(source: tuple[str, Files]) -> None:
    with tempfile.TemporaryDirectory() as place:
        outcomes = run_half(source[1], Path(place))
    assert outcomes
    for status, reason in outcomes:
        assert (status == "done") == (reason == "")
        assert reason not in (ReasonCode.INTERNAL_ERROR, ReasonCode.CANNOT_WRITE)

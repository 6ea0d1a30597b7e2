"""Runs and batches by the command line, and a nearest neighbour for the network of a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from monai_ldmsr.batch import Workers, processing
from monai_ldmsr.cli import main


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in threads of the test, whose network is a nearest neighbour."""
    executor = ThreadPoolExecutor(3)
    monkeypatch.setattr("monai_ldmsr.batch.open_local", lambda lock: Workers(executor, 3, lambda: None))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    processing._evaluators.clear()
    yield
    executor.shutdown()
    processing._evaluators.clear()


def resolve(source: Path, output: Path, bundle: Path, *more: object, command: str = "run") -> int:
    return main([str(part) for part in (command, source, output, "--device", "cpu", "--bundle", bundle, *more)])


batch = partial(resolve, command="batch")


def outcomes(output: Path) -> dict[str, tuple[str, str]]:
    """Status and reason of each series, by the name of the result folder."""
    series = json.loads((output / "summary.json").read_text())["series"]
    return {entry["case"]: (entry["status"], entry["reason"]) for entry in series}

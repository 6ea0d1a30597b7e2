"""Fixtures of several test modules; each asks for them by name."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from label_server import label_environment, label_server
from odd_run import nearest_bundle
from ohif_viewer import ohif
from orthanc_server import orthanc
from slurm_cluster import slurm

__all__ = ["label_environment", "label_server", "ohif", "orthanc", "slurm"]

#: What a marker's tests need, and how it is installed and they are run.
ON_REQUEST = {
    "slow": "time: make test-all",
    "label": "MONAI Label and real servers: make servers label test-label",
    "orthanc": "real servers: make servers test-servers",
    "slurm": "real servers: make servers test-servers",
    "viewer": "a web viewer: make viewer test-viewer",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long or needs a real server or viewer, unless ``-m`` asks for it."""
    if config.option.markexpr:
        return
    for name, needs in ON_REQUEST.items():
        skip = pytest.mark.skip(reason=f"needs {needs}, or pytest -m {name}")
        for item in items:
            if name in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that costs nothing to build or run."""
    return nearest_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def threads() -> Iterator[Executor]:
    """Where units of work run: three at a time, in this process."""
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def heard(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Everything said since: on both streams, also by C++, in logs of every level, and as warnings."""
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")

        def say() -> str:
            logs = "\n".join(f"{r.name} {r.getMessage()} {r.exc_info} {r.exc_text}" for r in caplog.records)
            return "\n".join([*capfd.readouterr(), logs, *(str(w.message) for w in caught)])

        yield say


@pytest.fixture
def disk_events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by ``sync`` and ``move`` as files are synced and get their names."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("move"), replace(a, b)))
    return events

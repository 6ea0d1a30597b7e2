"""Fixtures of several test modules; each asks for them by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_run import narrow_bundle, use_nearest_neighbour
from ohif_viewer import ohif
from orthanc_server import orthanc
from slurm_cluster import slurm

__all__ = ["ohif", "orthanc", "slurm"]

#: What a marker's tests need, and how it is installed and they are run.
ON_REQUEST = {
    "orthanc": "real servers: make servers test-servers",
    "slurm": "real servers: make servers test-servers",
    "viewer": "a web viewer: make viewer test-viewer",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a real server or viewer, unless it was asked for by ``-m``."""
    if config.option.markexpr:
        return
    for name, needs in ON_REQUEST.items():
        skip = pytest.mark.skip(reason=f"needs {needs}, or pytest -m {name}")
        for item in items:
            if name in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that costs nothing to build."""
    return narrow_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def nearest_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearest neighbour in the network's place."""
    use_nearest_neighbour(monkeypatch)

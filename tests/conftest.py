"""Fixtures of several test modules; each asks for them by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_run import narrow_bundle, use_nearest_neighbour
from orthanc_server import orthanc

__all__ = ["orthanc"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle that costs nothing to build."""
    return narrow_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def nearest_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearest neighbour in the network's place."""
    use_nearest_neighbour(monkeypatch)

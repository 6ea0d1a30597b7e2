"""A batch that is killed at any moment loses nothing, doubles nothing and leaves nothing half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_kills import MOMENTS, Mortal, check_finished, check_whole, command, make_sources, snapshot, weighted_bundle

N_SERIES, IN_FLIGHT = 5, 3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    process = Mortal()
    yield process
    process.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, mortal: Mortal) -> tuple[Path, Path, dict[int, dict[str, Any]]]:
    """Sources, bundle, and outputs of two undisturbed runs with different seeds."""
    folder = tmp_path_factory.mktemp("kill")
    bundle = weighted_bundle(folder)
    make_sources(folder / "source", N_SERIES)
    for seed in (0, 1):
        assert mortal.run(command(folder / "source", folder / f"seed{seed}", bundle, "--seed", seed)) == 0
    return folder, bundle, {seed: snapshot(folder / f"seed{seed}") for seed in (0, 1)}


def test_undisturbed_runs_are_what_the_kills_are_measured_by(
    place: tuple[Path, Path, dict[int, dict[str, Any]]],
) -> None:
    folder, _, references = place
    for seed, reference in references.items():
        check_finished(folder / f"seed{seed}", reference, 0)
        assert sum("/dicom/" in name for name in reference) == 3 * N_SERIES
    images = [{name: one for name, one in reference.items() if "/dicom/" in name} for reference in references.values()]
    assert images[0].keys() == images[1].keys()
    assert all(images[0][name] != images[1][name] for name in images[0])


@pytest.mark.parametrize(
    ("has_earlier", "moments"),
    [(True, list(MOMENTS)), (False, ["while images are written", "between the move and the mark"])],
)
def test_killed_and_gone_on_with(
    tmp_path: Path,
    place: tuple[Path, Path, dict[int, dict[str, Any]]],
    mortal: Mortal,
    has_earlier: bool,
    moments: list[str],
) -> None:
    folder, bundle, references = place
    output = tmp_path / "out"
    if has_earlier:  # which is moved aside
        shutil.copytree(folder / "seed0", output)
    arguments = command(folder / "source", output, bundle, "--seed", 1)
    for moment in moments:
        assert mortal.run(arguments, moment) == -9, moment
        check_whole(output, *references.values())
    assert mortal.run(arguments) == 0
    check_finished(output, references[1], IN_FLIGHT * len(moments))
    assert mortal.run(arguments) == 0
    check_finished(output, references[1], IN_FLIGHT * len(moments))

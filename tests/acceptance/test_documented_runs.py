"""Commands of the documentation, run as they stand, in a folder that has what they name, but small.

A training has its budget cut to seconds; what writes into a bundle, or is MONAI's command, runs in a copy of the
repository, in a process of its own.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_runs import in_this_process
from documented import Command, all_commands
from documented_elsewhere import plain, whereabouts
from documented_sources import VOLUME_SUFFIXES, Place, small_data, small_samples
from generative_networks import needs_generative
from places import BUNDLES, ROOT

from monai_ldmsr import workflow
from monai_ldmsr.cli import command_parser, main

__all__ = ["in_this_process"]

pytestmark = pytest.mark.slow

#: Commands that write into a bundle.
OF_BUNDLES = ("calibrate",)

#: Few small patches and a picture early; what a codec is worth after seconds depends on the machine.
STAGES = ("autoencoder", "diffusion", "adversarial", "srresnet", "srgan")
FAST: dict[str, dict[str, Any]] = {stage: {"sizes": [[96, 1]], "checkpoints::interval_s": 0} for stage in STAGES}
BUDGET_S = "6s"

#: Runs commands one after the other, each in its folder, and prints their exit codes.
DRIVER = """
import json, os, sys
import fire, monai.bundle
from monai_ldmsr.cli import main

codes = []
for folder, program, arguments in json.load(sys.stdin):
    os.chdir(folder)
    try:
        code = main(arguments) if program == "ldmsr" else fire.Fire({"run": monai.bundle.run}, command=arguments) or 0
    except SystemExit as ended:
        code = ended.code or 0
    codes.append(code if isinstance(code, int) else 0)
print()
print(json.dumps(codes))
"""


def to_be_run() -> list[Command]:
    """Each command once, where it stands first."""
    found = {}
    for command in all_commands():
        if command.program in ("ldmsr", "python -m monai.bundle") and whereabouts(command) is None:
            is_of_bundle = command.page.startswith("bundles/")
            found.setdefault((plain(command), command.page if is_of_bundle else ""), command)
    return list(found.values())


TO_BE_RUN = to_be_run()
HERE = [one for one in TO_BE_RUN if one.program == "ldmsr" and one.arguments[0] not in OF_BUNDLES]
APART = [one for one in TO_BE_RUN if one not in HERE]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sample data and a data set."""
    folder = tmp_path_factory.mktemp("small")
    return small_samples(folder / "sample_data"), small_data(folder / "data")


@pytest.fixture
def place(small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The folder in which a command is typed."""
    made = Place(tmp_path / "place", *small)
    monkeypatch.chdir(made.folder)
    level = logging.getLogger("monai_ldmsr").level
    yield made
    logging.getLogger("monai_ldmsr").setLevel(level)


@pytest.mark.parametrize("command", HERE, ids=[f"{one.place} {one.text}" for one in HERE])
def test_it_does_what_the_page_says(
    command: Command,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    in_this_process: None,
) -> None:
    verb, *_ = command.arguments
    if verb == "import-generative" and needs_generative.args[0]:
        pytest.skip(needs_generative.kwargs["reason"])
    given = command_parser().parse_args(list(command.arguments))
    if getattr(given, "device", None) == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    place.prepare(given, command)
    if verb == "train":
        monkeypatch.setattr(workflow, "train", functools.partial(shortened, workflow.train))
    if getattr(given, "status", False):
        place.source(Path("SRC"))
        assert main(["batch", "SRC", str(given.output or given.source)]) == 0
    assert main(list(command.arguments)) == 0, f"{command.place}: {command.text}\n{capfd.readouterr().err[-2000:]}"
    check(given, verb, command, capfd.readouterr().out)


def shortened(train: Any, *given: Any, budget: str, **more: Any) -> Any:
    """``train`` with seconds for its budget."""
    return train(*given, budget=BUDGET_S, overrides=FAST, **more)


def check(given: Any, verb: str, command: Command, said: str) -> None:
    """What the command promises is there."""
    if verb in ("info", "completion"):
        assert {"info": "bundle ldm_sr", "completion": "ldmsr"}[verb] in said
    elif getattr(given, "dry_run", False):
        assert not given.output.exists()
    elif verb == "run" and given.output.name.endswith(VOLUME_SUFFIXES):
        assert given.output.is_file()
    elif getattr(given, "status", False):
        assert "done" in said
    elif verb in ("run", "batch"):
        check_results(given.output)
        assert verb == "run" or (given.output / "index.html").is_file()
    elif verb == "train":
        assert (given.output / given.name / "models" / "model.pt").is_file()
    else:
        place = getattr(given, "output", None) or getattr(given, "packed", None) or given.destination
        through = getattr(given, "through_plane", False)
        files = {
            "evaluate": "through_plane.html" if through else "table.html",
            "pack": "index.json",
            "export": "export.json",
        }
        assert (place / files[verb] if verb in files else place).is_file(), command.place


def check_results(output: Path) -> None:
    """Everything was done, with a report."""
    entries = json.loads((output / "summary.json").read_text())["series"]
    assert entries
    assert {entry["status"] for entry in entries} == {"done"}, entries
    for entry in entries:
        assert (output / entry["case"] / "report.html").is_file()


def test_what_needs_a_bundle_of_its_own_does_what_the_page_says(small: tuple[Path, Path], tmp_path: Path) -> None:
    """In a copy of package and bundles, so that nothing is written into the repository's."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "monai_ldmsr", tree / "monai_ldmsr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(BUNDLES, tree / "bundles")
    jobs, outputs = [], []
    for n, command in enumerate(APART):
        is_generative = "networks_generative" in command.text
        if is_generative and needs_generative.args[0]:
            continue
        place = Place(tmp_path / f"place{n}", *small, tree=tree)
        folder = place.folder / command.folder
        if command.program == "ldmsr":
            place.prepare(command_parser().parse_args(list(command.arguments)), command)
        else:
            if command.page.startswith("bundles/"):
                folder = place.folder / command.page.partition("/docs/")[0]
            options = dict(zip(command.arguments[1::2], command.arguments[2::2], strict=True))
            place.source(folder / options.get("--dataset_dir", "sample_data"))
            outputs.append(folder / options.get("--output_dir", "output"))
        jobs.append((str(folder), command.program, list(command.arguments)))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=tree, input=json.dumps(jobs), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    codes = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr[-3000:]
    assert codes == [0] * len(jobs), done.stderr[-3000:]
    for output in outputs:
        check_results(output)
    before = (BUNDLES / "ldm_sr" / "models" / "calibration.json").read_bytes()
    assert (tree / "bundles" / "ldm_sr" / "models" / "calibration.json").read_bytes() != before

"""Blocks of Python, YAML and JSON of the documentation: each is run or parsed, and none is forgotten."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documented import Block, all_blocks
from documented_sources import Place, small_data, small_samples
from places import ROOT, SAMPLES

PYTHON = all_blocks("python")

GUIDE, FORMATS = "tests/acceptance/test_guide.py", "tests/io/test_formats.py"

#: Pages of which a test of its own runs the blocks of each section, and asks what they give: title, and that test.
SECTIONS = {
    "docs/python.md": {
        **dict.fromkeys(
            (
                "Folders and files",
                "An image in memory",
                "In a chain of MONAI's transforms",
                "The network in an inferer of one's own",
                "The sharpness metrics in an evaluator of one's own",
            ),
            f"{GUIDE}::test_the_page_of_python_runs",
        ),
        "Step by step": "tests/acceptance/test_workflow.py::test_ten_lines_of_python_equal_the_bundle",
    },
    "docs/export.md": {"Run it in ONNX Runtime": f"{GUIDE}::test_the_example_of_the_page_of_export_runs"},
    "docs/extending.md": {
        "A sampler": f"{GUIDE}::test_a_sampler",
        "A network": f"{GUIDE}::test_it_reaches_the_report",
        "A degradation": f"{GUIDE}::test_a_degradation",
        "A metric": f"{GUIDE}::test_it_reaches_the_report",
        "A format": f"{FORMATS}::test_the_format_of_the_guide_is_all_that_it_takes",
        "A setting": f"{GUIDE}::test_a_setting",
    },
}

#: Pages whose blocks name pixels of the whole sample data.
OF_WHOLE_SAMPLES = ("docs/gallery.md",)

HERE = [block for block in PYTHON if block.page not in SECTIONS]


@pytest.mark.parametrize("block", PYTHON, ids=[block.place for block in PYTHON])
def test_python_is_python(block: Block) -> None:
    compile(block.content, block.place, "exec")


@pytest.mark.parametrize("page", SECTIONS)
def test_sections_that_are_run_elsewhere_have_their_test(page: str) -> None:
    """A section that is new here, or has another block, is in no test yet."""
    parts = re.split(r"^## (.*)\n", (ROOT / page).read_text(), flags=re.MULTILINE)
    found = {title: body.count("```python\n") for title, body in zip(parts[1::2], parts[2::2], strict=True)}
    assert {title for title, count in found.items() if count} == set(SECTIONS[page])
    assert "```python" not in parts[0]
    for title, by in SECTIONS[page].items():
        assert found[title] == 1 or title == "An image in memory", f"{page}: {by} runs one block of '{title}'"
        path, _, name = by.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), by


@pytest.mark.slow
@pytest.mark.parametrize("block", HERE, ids=[block.place for block in HERE])
def test_it_runs(block: Block, small: tuple[Path, Path], tmp_path: Path) -> None:
    """In a process of its own, where the sample data are, but small, and ``SRC`` and ``DATA``."""
    samples = SAMPLES if block.page in OF_WHOLE_SAMPLES else small[0]
    place = Place(tmp_path / "place", samples, small[1])
    for name in re.findall(r"[\"'](SRC|ARCHIVE|in)[\"']", block.content):
        place.source(Path(name))
    if re.search(r"[\"']DATA[\"']", block.content):
        (place.folder / "DATA").symlink_to(small[1])
    # As a program of its own: what it starts in further processes imports it.
    program = place.folder / "example.py"
    program.write_text(block.content)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, program], cwd=place.folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{block.place}: {done.stderr[-3000:]}"
    assert "failed" not in done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("small")
    return small_samples(folder / "sample_data"), small_data(folder / "data")


@pytest.mark.parametrize("block", [pytest.param(one, id=one.place) for one in all_blocks("yaml", "json")])
def test_settings_are_sound(block: Block) -> None:
    read = json.loads if block.language == "json" else yaml.safe_load
    try:
        found = read(re.sub(r"^\s*\.\.\.$", "", block.content, flags=re.MULTILINE))
    except ValueError as error:
        pytest.fail(f"{block.place}: {error}")
    assert isinstance(found, dict | list), block.place

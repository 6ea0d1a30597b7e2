"""Changelog, citation, versions of Python, workflow, hooks and pins agree with each other and with the package."""

from __future__ import annotations

import re
from datetime import date
from itertools import pairwise
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from places import ROOT

from monai_ldmsr import __version__

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
GROUPS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def pythons_of_the_classifiers() -> list[str]:
    """Versions that the classifiers name; the standard library reads TOML from Python 3.11 on only."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)


def test_the_changelog_is_in_order() -> None:
    first, *released = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert first == "[Unreleased]"
    headings = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", text) for text in released]
    assert all(headings), released
    found = [(Version(match[1]), date.fromisoformat(match[2])) for match in headings if match]
    assert all(a[0] > b[0] and a[1] >= b[1] for a, b in pairwise(found))
    assert found[0][0] == Version(__version__)


def test_the_changelog_has_known_groups_once_each_and_none_empty() -> None:
    for part in CHANGELOG.split("\n## ")[1:]:
        groups = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert set(groups) <= set(GROUPS), part[:20]
        assert len(groups) == len(set(groups)), part[:20]
        for text in part.split("\n### ")[1:]:
            assert re.match(r"\w+\n\n- ", text), (part[:20], text[:40])


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## [{__version__}] - {citation['date-released']}" in CHANGELOG
    assert f'license = "{citation["license"]}"' in PYPROJECT
    assert f"Version {__version__}, {citation['date-released'][:4]}." in (ROOT / "docs" / "cite.md").read_text()


def test_the_workflow_runs_all_and_each_tested_python() -> None:
    jobs: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs["all"][0].endswith(".ci/run")
    assert runs["tests"] == ["make test"]
    assert runs["links"] == ["make linkcheck"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == pythons_of_the_classifiers()
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key "on" as true
    assert {"push", "pull_request", "schedule"} <= set(triggers)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_pythons_of_the_classifiers_are_those_that_are_required() -> None:
    (required,) = re.findall(r'^requires-python = "(.*)"$', PYPROJECT, re.MULTILINE)
    first, *more = pythons_of_the_classifiers()
    assert required == f">={first}"
    assert [f"3.{int(first[2:]) + 1 + n}" for n in range(len(more))] == more
    assert f"Python {first} or newer" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("python", pythons_of_the_classifiers())
def test_pins_lie_in_the_ranges_of_the_package(python: str) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    pinned = {
        re.sub(r"[-_.]+", "-", pin.name).lower(): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(environment)
    }
    for text in re.findall(r'"([A-Za-z][\w.-]*(?:>=|==)[\w.,<>=]+)"', PYPROJECT):
        wanted = Requirement(text)
        pin = pinned.get(re.sub(r"[-_.]+", "-", wanted.name).lower())
        assert pin is None or Version(pin) in SpecifierSet(str(wanted.specifier)), text
    assert "/" not in "".join(lines).replace("within pyproject.toml", "")
    assert [line for line in lines if line.startswith("#")] == lines[:1]
    assert lines[1:] == sorted(lines[1:], key=str.lower)


def test_hooks_need_nothing_from_elsewhere() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_issue_forms_ask_for_no_patient_data() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yaml"):
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form), path.name
        asked = [box for part in form["body"] for box in part["attributes"].get("options", []) if isinstance(box, dict)]
        assert path.stem == "feature" or any("identifies a patient" in box["label"] for box in asked), path.name

"""What is public stays, or is deprecated first: names in Python, options, exit codes, reason codes, keys of files."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import typing
import warnings
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from places import BUNDLES, ROOT, TESTS

import monai_ldmsr
from monai_ldmsr import __version__, super_resolve
from monai_ldmsr.cli import command_parser
from monai_ldmsr.cli.arguments import EPILOG
from monai_ldmsr.deprecation import DEPRECATED, Deprecation, warn_of_deprecation
from monai_ldmsr.lazy_names import lazy_names
from monai_ldmsr.reason_codes import ReasonCode
from monai_ldmsr.report import SRReport
from monai_ldmsr.run_summary import CaseResult, RunSummary

SNAPSHOT = TESTS / "public_names.txt"
OLD = Deprecation("0.15.0", "0.17.0", "monai_ldmsr.LdmsrError")


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield inner.prog
                yield from options(inner)
        else:
            yield from (f"{parser.prog} {name}" for name in action.option_strings or [action.dest.upper()])


def imported_by_pages() -> Iterator[str]:
    """Names that the examples of the pages on Python import."""
    for page in ("python.md", "extending.md"):
        text = (ROOT / "docs" / page).read_text()
        for module, names in re.findall(r"^from (monai_ldmsr[\w.]*) import (.+)$", text, re.MULTILINE):
            yield from (f"{module}.{name.strip()}" for name in names.split(",") if name != "*")


def config_keys() -> Iterator[str]:
    for bundle in sorted(BUNDLES.iterdir()):
        config = yaml.safe_load((bundle / "configs" / "inference.yaml").read_text())
        yield from (f"{bundle.name} inference.yaml {key}" for key in config)
        metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
        yield from (f"{bundle.name} metadata.json {key}" for key in metadata)


def report_keys(kind: object = SRReport, above: str = "report.json ") -> Iterator[str]:
    """Keys of the report, and of what lies in it."""
    for part in typing.get_args(kind) or (kind,):
        if not is_dataclass(part):
            continue
        for name, inner in typing.get_type_hints(part).items():
            yield f"{above}{name}"
            yield from report_keys(inner, f"{above}{name}.")


def summary_keys(folder: Path) -> Iterator[str]:
    case = CaseResult(case="a", status="done")
    RunSummary((case,)).write_json(folder / "summary.json")
    summary = json.loads((folder / "summary.json").read_text())
    yield from (f"summary.json {key}" for key in summary)
    yield from (f"summary.json series.{key}" for key in summary["series"][0])


def public_names(folder: Path) -> set[str]:
    """All that ``docs/stability.md`` calls public and that has a name."""
    found = {f"monai_ldmsr.{name}" for name in monai_ldmsr.__all__}
    found |= set(imported_by_pages()) | set(options(command_parser())) | set(config_keys())
    found |= set(report_keys()) | set(summary_keys(folder))
    found |= {f"super_resolve {name}" for name in inspect.signature(super_resolve).parameters}
    found |= {f"exit code {number}" for number in re.findall(r"(\d) [a-z]", EPILOG.partition("\n\n")[0])}
    return found | {f"reason code {code.value}" for code in ReasonCode}


def test_no_public_name_vanishes_unannounced(tmp_path: Path) -> None:
    """A line leaves the list when its deprecation has run out, and a new name enters it with the code."""
    kept, found = set(SNAPSHOT.read_text().splitlines()), public_names(tmp_path)
    assert kept - found <= set(DEPRECATED), "gone without an entry in monai_ldmsr.deprecation.DEPRECATED"
    assert sorted(found - kept) == [], f"new: add these lines to {SNAPSHOT.name}"
    assert SNAPSHOT.read_text().splitlines() == sorted(kept)


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_what_is_deprecated_stays_for_a_minor_version_and_no_longer_than_said() -> None:
    for name, entry in DEPRECATED.items():
        assert parts(entry.since)[:2] < parts(entry.removed_in)[:2], name
        assert parts(entry.removed_in) > parts(__version__), f"{name} is due: remove it, its entry and its line"
        assert name in SNAPSHOT.read_text().splitlines(), name


def test_a_renamed_name_is_found_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEPRECATED, "monai_ldmsr.OldError", OLD)
    find = lazy_names("monai_ldmsr", monai_ldmsr.__file__)
    with pytest.warns(DeprecationWarning, match=r"OldError is deprecated since version 0\.15\.0.* 0\.17\.0") as caught:
        assert find("OldError") is monai_ldmsr.LdmsrError
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"Use monai_ldmsr\.LdmsrError instead") as caught:
        from monai_ldmsr import OldError  # type: ignore[attr-defined]
    assert OldError is monai_ldmsr.LdmsrError
    assert caught[0].filename == __file__


def test_a_deprecated_option_works_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Deprecation("0.15.0", "0.17.0", "--maps none")
    monkeypatch.setitem(DEPRECATED, "ldmsr run --maps", entry)
    assert command_parser().parse_args(["run", "a", "b", "--maps=error"]).maps == "error"
    assert capsys.readouterr().err == (
        "ldmsr: ldmsr run --maps is deprecated since version 0.15.0 and will be removed in 0.17.0. "
        "Use --maps none instead.\n"
    )
    command_parser().parse_args(["run", "a", "b", "--factor", "2"])
    assert capsys.readouterr().err == ""


def test_an_argument_that_goes_warns_its_caller() -> None:
    def scale(factor: int = 2, zoom: int | None = None) -> int:
        if zoom is not None:
            warn_of_deprecation("scale(zoom)", Deprecation("0.15.0", "0.17.0", "factor"))
        return factor if zoom is None else zoom

    with pytest.warns(DeprecationWarning, match=r"scale\(zoom\) is deprecated") as caught:
        assert scale(zoom=3) == 3
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scale(3) == 3
    with pytest.raises(KeyError):
        warn_of_deprecation("nothing")

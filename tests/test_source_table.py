"""The table of sources: who is who, for whoever asked for it and nobody else; and lists of sources."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from batch_runs import resolve
from batch_searches import Searches
from dicom_fixtures import make_series
from odd_volumes import nifti

from monai_ldmsr import super_resolve
from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.io import find_sources
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.tree import check_apart
from monai_ldmsr.run_summary import RunSummary
from monai_ldmsr.source_table import SourceRow, SourceTable, safe_cell, source_rows

SHAPE = (8, 9, 3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Results, a failure and skips of every kind, with names that stand for patients'."""
    folder = tmp_path / "source"
    make_series(folder / "MARKER^ANNA" / "t1", "MR", SHAPE, SeriesDescription="=HYPERLINK(1)", SeriesNumber=7)
    make_series(folder / "MARKER^BERTA", "CT", SHAPE, PixelSpacing=None, SeriesDescription="lost", SeriesNumber=8)
    make_series(folder / "scout", "CT", (8, 9, 1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    nifti("MARKER.nii")(folder)
    shutil.copytree(folder, folder / "copy", ignore=lambda _, names: [n for n in names if n != "MARKER.nii"])
    (folder / "-notes\n.txt").write_text("nothing")
    (folder / "outside").symlink_to(tmp_path)
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def expected(source: Path) -> set[tuple[str, str, str, str, str]]:
    """Status, reason, path, number and description of every source."""
    return {
        ("done", "", "MARKER^ANNA/t1", "7", "'=HYPERLINK(1)"),
        ("failed", "NO_GEOMETRY", "MARKER^BERTA", "8", "lost"),
        ("skipped", "LOCALIZER", "scout/IM0000.dcm", "3", "Phantom CT"),
        ("done", "", "MARKER.nii", "", ""),
        ("skipped", "DUPLICATE_SERIES", "copy/MARKER.nii", "", ""),
        ("skipped", "NOT_AN_IMAGE", "'-notes .txt", "", ""),
        ("skipped", "NOT_AN_IMAGE", "outside", "", ""),
    }


def told(found: list[dict[str, str]]) -> set[tuple[str, ...]]:
    names = ("status", "reason", "source", "series_number", "series_description")
    return {tuple(row[name] for name in names) for row in found}


def test_a_run_tells_who_is_who(source: Path, tmp_path: Path, bundle: Path) -> None:
    assert resolve(source, tmp_path / "out", bundle, "--sources-csv") == 8
    file = tmp_path / "out" / "private" / "sources.csv"
    found = rows(file)
    assert told(found) == expected(source)
    assert {row["case"] for row in found} == {
        entry["case"] for entry in json.loads((tmp_path / "out" / "summary.json").read_text())["series"]
    }
    assert [row["n_files"] for row in found if row["series_number"] in ("7", "8")] == ["3", "3"]
    for row in found:
        assert row["status"] != "done" or (tmp_path / "out" / row["case"] / "report.json").is_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "not pass this folder on" in (file.parent / "README.txt").read_text().replace("\n", " ")


def test_nothing_else_tells_who_is_who(source: Path, tmp_path: Path, bundle: Path, heard: Any) -> None:
    (source / "MARKER.nii").rename(source / "plain.nii")
    (source / "copy" / "MARKER.nii").unlink()
    resolve(source, tmp_path / "out", bundle, "--sources-csv", tmp_path / "who.csv")
    resolve(source, tmp_path / "without", bundle)
    for path in [*(tmp_path / "out").rglob("*"), *(tmp_path / "without").rglob("*")]:
        assert "MARKER" not in path.name
        assert path.suffix not in (".json", ".html", ".csv") or "MARKER" not in path.read_text()
    assert "MARKER" not in heard().replace(str(tmp_path), "")
    assert "MARKER" in (tmp_path / "who.csv").read_text()
    assert not (tmp_path / "without" / "private").exists()


def test_a_batch_tells_the_same(source: Path, tmp_path: Path) -> None:
    (source / "outside").unlink()
    searches = Searches(source, tmp_path / "w")
    units, skipped = searches.find()
    table = source_rows(units.values(), skipped, source, DEFAULT_LIMITS)
    assert {(row.source, row.number) for row in table} == {
        (place.replace("'-notes .txt", "-notes\n.txt"), number)
        for _, _, place, number, _ in expected(source)
        if place != "outside"
    }
    again, skipped = searches.find()
    assert source_rows(again.values(), skipped, source, DEFAULT_LIMITS) == table, "also of what is done already"


def test_archives_are_named(tmp_path: Path) -> None:
    make_series(tmp_path / "in" / "deep", "MR", SHAPE, SeriesNumber=7)
    (tmp_path / "s").mkdir()
    shutil.make_archive(str(tmp_path / "s" / "study"), "zip", tmp_path / "in")
    searches = Searches(tmp_path / "s", tmp_path / "w")
    for _ in range(2):
        [unit], skipped = searches.find()[0].values(), []
        rows = source_rows([unit], skipped, tmp_path / "s", DEFAULT_LIMITS)
        assert rows == [SourceRow(unit.name, "study.zip", "7", "Phantom MR", 3)]
    assert not list((tmp_path / "w").iterdir())


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1+2", "@x", "\t=1", " =1", "\uff1d1", "\r=1", "|x"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert safe_cell(text).startswith("'")
    assert "\n" not in safe_cell(f"{text}\n")


def test_names_of_any_bytes_can_be_written(tmp_path: Path) -> None:
    table = SourceTable(tmp_path / "t.csv", tmp_path)
    table.write([SourceRow("c", 'a\udcffb/ü,"脳"')], RunSummary(()))
    assert rows(tmp_path / "t.csv")[0]["source"] == 'a\\udcffb/ü,"脳"'


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("precious\n")
    with pytest.raises(SettingsError, match="not replaced"):
        SourceTable(tmp_path / "mine.csv", tmp_path)
    with pytest.raises(SettingsError, match=r"\.csv"):
        SourceTable(tmp_path, tmp_path)
    with pytest.raises(SettingsError, match=r"\.csv"):
        super_resolve(tmp_path, tmp_path.parent / "out", sources_csv=tmp_path / "SRC")
    (tmp_path / "closed").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        SourceTable(tmp_path / "closed" / "t.csv", tmp_path).write([], RunSummary(()))
    table = SourceTable(tmp_path / "t.csv", tmp_path)
    table.write([], RunSummary(()))
    SourceTable(tmp_path / "t.csv", tmp_path)


# Lists of sources


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """A list with everything that a list may hold."""
    make_series(tmp_path / "a b" / "t1", "MR", SHAPE)
    make_series(tmp_path / "elsewhere" / "ct", "CT", SHAPE)
    nifti("#1.nii")(tmp_path)
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "Sources.TXT"
    lines = [
        *("# what to do", "", "../a b", f"  {tmp_path / 'elsewhere'}  # absolute", "../#1.nii", "../MARKER missing"),
        *("../a b/t1/IM0000.dcm", f"{tmp_path}/gone #too"),
    ]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    return path


def test_a_list_names_sources(listed: Path, tmp_path: Path) -> None:
    found, skipped = find_sources(listed)
    assert len(found) == 3
    assert [len(one.paths) for one in found[:2]] == [3, 3], "what is named twice is read once"
    assert {(item.reason, item.failed) for item in skipped} == {(ReasonCode.NO_SUCH_SOURCE, True)}
    assert sorted(item.message.split(" of ")[0] for item in skipped) == ["Line 6", "Line 8"]
    assert not any("MARKER" in item.message for item in skipped)
    assert {row.source for row in source_rows(found, skipped, listed.parent, DEFAULT_LIMITS)} >= {
        *("../a b/t1", "../elsewhere/ct", "../#1.nii", "../MARKER missing"),
    }
    searches = Searches(listed, tmp_path / "w")
    for _ in range(2):
        assert searches.find()[0].keys() == {one.name for one in found}


def test_a_list_can_be_run(listed: Path, tmp_path: Path, bundle: Path) -> None:
    assert resolve(listed, tmp_path / "out", bundle, "--names", "path") == 8
    names = sorted(path.name.rpartition("-")[0] for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert names == ["1", "a_b_t1", "elsewhere_ct"]
    assert "MARKER" not in (tmp_path / "out" / "summary.json").read_text()


def test_results_never_lie_in_a_listed_folder(listed: Path, tmp_path: Path) -> None:
    check_apart(listed, tmp_path / "lists" / "out")
    with pytest.raises(SettingsError, match="inside the source"):
        check_apart(listed, tmp_path / "a b" / "out")


@pytest.mark.parametrize("content", [b"just words\nand more", b"\0\1\2", b"x" * 10_000, b"\xff\xfe\xff"])
def test_a_text_that_names_nothing_is_no_list(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    found, [skipped] = find_sources(tmp_path / "notes.txt")
    assert (found, skipped.reason) == ([], ReasonCode.NOT_AN_IMAGE)


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# nothing yet\n")
    with pytest.raises(SourceError, match="empty") as caught:
        find_sources(tmp_path / "list.txt", DEFAULT_LIMITS)
    assert caught.value.reason is ReasonCode.EMPTY_SOURCE


def test_a_list_of_utf16_is_read(tmp_path: Path) -> None:
    make_series(tmp_path / "größe", "MR", SHAPE)
    (tmp_path / "list.txt").write_bytes("größe\r\n".encode("utf-16"))
    assert len(find_sources(tmp_path / "list.txt")[0]) == 1


def test_a_list_in_a_folder_is_junk(listed: Path) -> None:
    found, [skipped] = find_sources(listed.parent)
    assert (found, skipped.reason) == ([], ReasonCode.NOT_AN_IMAGE)

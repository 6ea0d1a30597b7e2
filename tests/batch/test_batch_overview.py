"""The overview of a batch: what the page, the table and the JSON say, and that they are replaced whole."""

from __future__ import annotations

import csv
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from html_page import Page

from monai_ldmsr import __version__
from monai_ldmsr.batch.overview import OverviewRow, write_overview
from monai_ldmsr.errors import OutputError, ReasonCode
from monai_ldmsr.report import RESEARCH_NOTICE

HOSTILE = "<script>alert('x')</script> & \"quoted\""
ROWS = [
    OverviewRow("done", unit="cccccccccccc", attempts=1, series_uid="2.25.1", n_slices=3, duration_s=4.25),
    OverviewRow("done", unit="brain-0123456789ab", attempts=2, n_slices=5, duration_s=1.5, delivery={"PACS": "failed"}),
    OverviewRow("queued", unit="aaaaaaaaaaaa"),
    OverviewRow("failed", "WORKER_DIED", "It ended.", unit="ffffffffffff", attempts=3),
    OverviewRow("failed", "MISSING_FILE", HOSTILE, unit="eeeeeeeeeeee", attempts=1),
    OverviewRow("skipped", "LOCALIZER", "A scout. (2 files)", unit="dddddddddddd"),
]


def write(folder: Path, rows: list[OverviewRow] = ROWS) -> Page:
    write_overview(folder, rows, written=datetime(2026, 1, 31, 12, tzinfo=timezone.utc))
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_page_shows_failures_first_and_links_each_result(tmp_path: Path) -> None:
    page = write(tmp_path / "out")
    order = [n for n, row in enumerate(page.rows) for unit in [u.unit for u in ROWS] if unit in row]
    assert order == sorted(order)
    units = [unit for row in page.rows for unit in [u.unit for u in ROWS] if unit in row]
    assert units == [
        *("eeeeeeeeeeee", "ffffffffffff", "aaaaaaaaaaaa", "brain-0123456789ab", "cccccccccccc", "dddddddddddd"),
    ]
    links = page.values("href", "src", "action")
    anchors = [link[1:] for link in links if link.startswith("#")]
    assert set(anchors) <= set(page.values("id"))
    assert set(anchors) == {"failed", "queued", "done", "skipped"}
    assert [link for link in links if not link.startswith("#")] == [
        "brain-0123456789ab/report.html",
        "cccccccccccc/report.html",
        "cccccccccccc/dicom/",
    ]


def test_the_page_is_alone_and_escapes(tmp_path: Path) -> None:
    page = write(tmp_path)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.rows)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert text.count(RESEARCH_NOTICE) == 2
    assert "prefers-color-scheme: dark" in text
    assert "2026-01-31 12:00:00 UTC" in text
    assert "2 of 5 series and volumes are done" in text
    for reason in ("WORKER_DIED", "MISSING_FILE", "LOCALIZER"):
        assert ReasonCode[reason].remedy.split(";")[0].replace("'", "&#39;") in text


def test_json_has_the_fields_of_a_run_and_more(tmp_path: Path) -> None:
    write(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert {key: summary[key] for key in ("version", "notice")} == {"version": __version__, "notice": RESEARCH_NOTICE}
    assert summary["states"] == {"failed": 2, "running": 0, "queued": 1, "done": 2, "skipped": 1}
    assert summary["reasons"] == {"LOCALIZER": 1, "MISSING_FILE": 1, "WORKER_DIED": 1}
    assert summary["series"][4] == {
        **{"case": "cccccccccccc", "status": "done", "reason": "", "message": "", "attempts": 1},
        **{"series_uid": "2.25.1", "n_slices": 3, "duration_s": 4.25, "delivery": {}},
        **{"report": "cccccccccccc/report.html", "dicom": "cccccccccccc/dicom/"},
    }
    assert {entry["case"]: entry["message"] for entry in summary["series"]}["eeeeeeeeeeee"] == HOSTILE


def test_csv_holds_every_row(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {row.unit for row in ROWS}
    assert rows["brain-0123456789ab"]["delivery"] == "PACS: failed"
    assert rows["brain-0123456789ab"]["duration_s"] == "1.500"
    assert rows["aaaaaaaaaaaa"]["duration_s"] == ""
    assert rows["eeeeeeeeeeee"]["message"] == HOSTILE


def test_an_empty_batch_has_a_page(tmp_path: Path) -> None:
    assert write(tmp_path, []).values("href", "src", "action") == []


def test_files_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"index.html", "summary.csv", "summary.json"}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match=r"summary.json cannot be written: No space"):
            write_overview(tmp_path, [])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_five_thousand_rows_cost_little(tmp_path: Path) -> None:
    rows = [OverviewRow("done", unit=f"{n:012x}", series_uid="2.25.1", n_slices=9, duration_s=1.0) for n in range(5000)]
    start = time.process_time()
    write_overview(tmp_path, rows)
    assert time.process_time() - start < 5
    assert (tmp_path / "index.html").stat().st_size < 5e6

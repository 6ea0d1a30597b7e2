"""The log of losses, the page of a training, its clock, and how long its evaluation takes."""

from __future__ import annotations

import base64
import csv
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from monai_ldmsr.errors import SettingsError
from monai_ldmsr.training.clock import TrainingClock
from monai_ldmsr.training.loss_log import LossLog, read_losses
from monai_ldmsr.training.own_bundle import check_name
from monai_ldmsr.training.page import PAGE, write_page


def test_a_loss_that_appears_later_gets_a_column(tmp_path: Path) -> None:
    file = tmp_path / "new" / "stage.csv"
    log = LossLog(file)
    log.add({"step": 1, "used_s": 0.1, "a_loss": 1.0})
    log.add({"step": 2, "used_s": 0.2, "a_loss": 2.0, "b_loss": 3.0})
    LossLog(file).add({"step": 1, "used_s": 0.3, "b_loss": 4.0})
    with file.open() as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["step", "used_s", "a_loss", "b_loss"],
        ["1", "0.1", "1.0", ""],
        ["2", "0.2", "2.0", "3.0"],
        ["1", "0.3", "", "4.0"],
    ]
    assert [row["b_loss"] for row in read_losses(file)] == ["", "3.0", "4.0"]


def test_the_page_holds_curves_and_pictures_and_needs_no_other_file(tmp_path: Path) -> None:
    log = LossLog(tmp_path / "srgan.csv")
    for n in range(500):
        log.add({"step": n + 1, "used_s": 2.0 * n, "learning_rate": 0.001, "mean_loss": 1 / (n + 1)})
    (tmp_path / "pictures").mkdir()
    for n in (1, 7, 9):
        Image.new("L", (4, 4), n).save(tmp_path / "pictures" / f"srgan_{n:07d}.png")
    write_page(tmp_path, running=True)
    page = (tmp_path / PAGE).read_text()
    assert 'http-equiv="refresh"' in page
    assert "not for diagnosis" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "a file beside it"
    curves = [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page)]
    assert [curve.get("aria-label") for curve in curves] == ["learning_rate", "mean_loss"]
    (line,) = [element for element in curves[1] if element.tag == "polyline"]
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) <= 180
    assert points == sorted(points), "a falling loss falls, on a page whose y grows downwards"
    shown = [base64.b64decode(found) for found in re.findall(r"base64,([^\"]+)", page)]
    assert shown == [(tmp_path / "pictures" / f"srgan_{n:07d}.png").read_bytes() for n in (1, 9)]
    write_page(tmp_path)
    assert "refresh" not in (tmp_path / PAGE).read_text()


def test_the_clock_goes_on_over_starts(tmp_path: Path) -> None:
    file = tmp_path / "clock.json"
    first = TrainingClock(file, 100.0)
    time.sleep(0.2)
    first.record(at_once=True)
    second = TrainingClock(file, 100.0)
    assert 99.0 < second.left_s <= 99.8
    assert TrainingClock(file, 300.0).left_s > 299.0, "a longer budget"
    file.write_text("half")
    assert TrainingClock(file, 100.0).left_s == pytest.approx(100, abs=0.5)


def test_names_of_bundles() -> None:
    assert check_name("ldm_sr-2.custom") == "ldm_sr-2.custom"
    for wrong in ("", "a/b", "../x", ".hidden", "name with blanks", "x" * 65):
        with pytest.raises(SettingsError, match="name of the bundle is"):
            check_name(wrong)

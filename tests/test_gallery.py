"""The gallery: details lie where its rules say, and the page has its pictures, figures and commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from benchmarks.gallery import PICTURES, figures_table, make
from benchmarks.gallery_places import (
    SIDE,
    bright_edges,
    flat_place,
    outside,
    places_of,
    spot_box,
    window_of,
    worst_box,
)
from benchmarks.gallery_results import FACTOR, NATIVE, Results
from benchmarks.gallery_sheets import Row, Tile, colours, draw_sheet, enlarged, greys, overview
from monai_ldmsr.report.figures import DetailBox

PAGE, FOLDER = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
MR, CT, PET = NATIVE

#: Bytes of a picture, of all of them, and columns of a picture at most.
MOST_BYTES, ALL_BYTES, MOST_COLUMNS = 250_000, 1_200_000, 1600


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_page_has_each_picture_once_and_no_other() -> None:
    named = re.findall(r"!\[[^\]]+\]\(gallery/(\w+)\.png\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(PICTURES)
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(["figures.json", *(f"{n}.png" for n in PICTURES)])


def test_pictures_are_small_and_have_no_dates() -> None:
    paths = [FOLDER / f"{name}.png" for name in PICTURES]
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.info) == ("PNG", "P", {}), path
            assert image.width <= MOST_COLUMNS
        assert path.stat().st_size <= MOST_BYTES, path
    assert sum(path.stat().st_size for path in paths) <= ALL_BYTES


def test_page_has_the_figures_that_were_measured() -> None:
    found = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    assert figures_table(found) in PAGE.read_text(encoding="utf-8")


def test_page_has_the_commands_that_made_the_pictures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for one in NATIVE:
        assert (ROOT / "sample_data" / one.file).is_file()
        for dial in one.dials:
            assert f"{one.command(dial)}\n" in page
    assert f"{MR.command('shipped', 2)}\n" in page
    for licence in ("CC BY 4.0", "CC BY 3.0"):
        assert licence in page
    assert page.count("For research only, not for diagnosis") == 1


def test_worst_box_has_the_greatest_mean_and_what_was_shown_is_left_out() -> None:
    score = np.zeros((40, 50))
    score[20:26, 30:36] = 5
    score[4:10, 6:12] = 3
    first = worst_box(score, 6)
    assert first == DetailBox(20, 30, 6, 6)
    assert worst_box(outside(score, [first]), 6) == DetailBox(4, 6, 6, 6)
    assert score[22, 32] == 5


def test_lost_spot_is_the_one_that_the_result_lacks() -> None:
    original = np.zeros((60, 60))
    original[15, 20] = original[40, 45] = 10
    result = original.copy()
    result[40, 45] = 0
    box = spot_box(original, result, 12)
    assert box == DetailBox(34, 39, 12, 12)
    where = np.zeros((60, 60), bool)
    where[:30] = True
    result[15, 20] = 5
    assert spot_box(original, result, 12, where) == DetailBox(9, 14, 12, 12)


def test_places_lie_on_whole_pixels_of_the_source() -> None:
    source = 500 + noise(96, 96)
    source[60:90, 10:40] += 300 * (np.indices((30, 30)).sum(axis=0) % 2)
    edges, flat = places_of(MR, source)
    assert (edges.letter, flat.letter) == ("A", "B")
    for place in (edges, flat):
        assert place.box.rows == place.box.columns == SIDE
        assert place.box.row % FACTOR == place.box.column % FACTOR == 0
    assert abs(edges.box.row // FACTOR - 60) <= 2
    assert abs(edges.box.column // FACTOR - 10) <= 2
    assert "most edges" in edges.heading


def test_greatest_value_of_pet_is_in_the_middle_of_its_detail() -> None:
    source = np.abs(noise(64, 64))
    source[30, 40] = 99
    hottest = places_of(PET, source)[1]
    assert hottest.window == (0.0, 99.0)
    assert hottest.box == DetailBox((30 - 8) * 4, (40 - 8) * 4, 64, 64)


def test_flat_tissue_has_a_window_of_its_own() -> None:
    source = 40 * noise(96, 96)
    source[32:64, 64:96] = 100 + noise(32, 32)
    flat = flat_place(CT, source, 12)
    assert flat.box == DetailBox((48 - 6) * 4, (80 - 6) * 4, 48, 48)
    assert flat.window == pytest.approx((97, 103), abs=0.5)


def test_banner_holds_hardly_anything_dark() -> None:
    source = np.full((80, 80), 100.0)
    source[:40] = np.where(noise(40, 80) > 0, 100, 0)  # most edges, half dark
    source[44:64, 44:64] = np.where(noise(20, 20) > 0, 100, 60)
    box = bright_edges(source, (0.0, 100.0), 20)
    assert box == DetailBox(44, 44, 20, 20)


def test_windows_are_those_of_the_modality() -> None:
    image = np.linspace(0, 1000, 1001).reshape(7, 143)
    assert window_of(image, "CT") == (-160.0, 240.0)
    assert window_of(image, "PT")[0] == 0
    assert window_of(image, "MR") == pytest.approx((3, 997))


def test_sheet_shows_each_pixel_and_is_the_same_each_time(tmp_path: Path) -> None:
    pixels = greys(np.array([[0.0, 10.0], [10.0, 0.0]]), (0.0, 10.0))
    row = Row("a heading that is wider than all of its tiles", [Tile("left", enlarged(pixels, 20))])
    again = Row("", [Tile("a label wider than its tile", enlarged(colours(np.eye(2), 1.0), 20))] * 2)
    head = overview(np.eye(60), (0.0, 1.0), [("A", DetailBox(10, 20, 20, 20))], ["title", "text"], "7 HU", height=180)
    for name in ("first", "second"):
        draw_sheet([row, again], tmp_path / f"{name}.png", head)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    with Image.open(tmp_path / "first.png") as image:
        assert image.size == (180 + 560, 180 + 8 + 46 + 44 + 23 + 44)
        shown = np.asarray(image)
    tile = shown[188 + 46 : 188 + 86, 4:44]
    assert (tile == pixels.repeat(20, axis=0).repeat(20, axis=1)).all()
    framed = np.argwhere(shown[:180] == shown.max())
    assert tuple(framed.min(axis=0)) <= (4 + 30, 4 + 60)


def test_inverted_greys_are_those_of_the_reverse() -> None:
    image = np.linspace(0, 1, 12).reshape(3, 4)
    assert (greys(image, (0, 1), is_inverted=True) == greys(image, (0, 1)).max() - greys(image, (0, 1))).all()


@pytest.mark.slow
def test_a_picture_is_made_of_a_crop(tmp_path: Path) -> None:
    results = Results(tmp_path / "work", crop=(64, 64))
    make(tmp_path / "gallery", results, ["pet"])
    assert (tmp_path / "work" / "pet_sample_error.nii.gz").is_file()
    with Image.open(tmp_path / "gallery" / "pet.png") as image:
        assert image.size == (5 * 260 + 4, 850)
    first = (tmp_path / "gallery" / "pet.png").read_bytes()
    make(tmp_path / "gallery", Results(tmp_path / "work", crop=(64, 64)), ["pet"])  # of what was kept
    assert (tmp_path / "gallery" / "pet.png").read_bytes() == first

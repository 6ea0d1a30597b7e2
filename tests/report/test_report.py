"""The report: complete as data, honest as a page, and free of torch, the network and other files."""

import base64
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from monai_ldmsr.errors import OutputError, SettingsError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.report import (
    RESEARCH_NOTICE,
    Agreement,
    Contradiction,
    DegradationSummary,
    ExpectedError,
    FlatTissue,
    MetricSummary,
    ModelSummary,
    PhaseDurations,
    ResultSummary,
    Sharpness,
    SlicePanel,
    SliceSummary,
    SourceSummary,
    SRReport,
    TrustSummary,
    render_html,
)
from monai_ldmsr.report.figures import Detail, DetailBox, draw_panel, find_edges
from monai_ldmsr.slice_plan import SliceTarget

AGREEMENT = Agreement(41.25, 0.0087, 0.42, 12.5, -0.03, "HU")


def report(**changes):
    source = VolumeGeometry((64, 48, 5), np.diag([0.8, 1.0, 3.0, 1.0]))
    result = source.upsampled((2, 2, 1))
    values = {
        "case": "case_01",
        "status": "ok",
        "modality": "CT",
        "unit": "HU",
        "source": SourceSummary(source.shape, source.spacing_mm, source.affine, "DICOM", 5),
        "result": ResultSummary(result.shape, result.spacing_mm, result.affine, "DICOM", 5, 17, 23, 0.14, 61440),
        "factor": 2,
        "settings": {"steps": 4, "start_noise": 0.3, "normalization_low": np.float32(-1000.0)},
        "seed": 7,
        "model": ModelSummary("ldm_sr", "0.1.0", "ab" * 32, 6_123_456, 4),
        "degradation": DegradationSummary("area", "Mean of each 2 by 2 block of pixels."),
        "versions": {"python": "3.11", "monai_ldmsr": "0.1.0"},
        "device": "cpu",
        "metrics": MetricSummary(
            Sharpness(51.25, -58.08, 5), Sharpness(87.0, -39.39, 5), Sharpness(240.5, 4.45, 5), AGREEMENT
        ),
        "definitions": {"fft": "Mean of 20 ln|r|."},
        "duration_s": PhaseDurations(0.5, 75.2, 1.5, 77.2, 15.04),
        "warnings": ("Slices are 5 times as thick as wide.",),
    }
    return SRReport(**{**values, **changes})


def panel(rows=96, columns=128, spacing_mm=(1.0, 1.0), **changes):
    rng = np.random.default_rng(0)
    bicubic = rng.normal(0, 20, (rows, columns))
    images = {"source": bicubic + 1, "bicubic": bicubic, "result": bicubic + rng.normal(0, 5, bicubic.shape)}
    details = (
        Detail("Most edges", DetailBox(0, 0, 84, 84), (-60.0, 60.0)),
        Detail("Flat tissue", DetailBox(12, 34, 48, 48), (-30.0, 30.0)),
    )
    always = {"window": (-60.0, 60.0), "spacing_mm": spacing_mm, "details": details}
    return SlicePanel(**{"k": 2, **images, **always, **changes})


def pixels(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(";base64,")[2])))


def test_json_round_trip(tmp_path):
    original = report(settings={"steps": 4, "clip": [0.1, 0.9], "note": "µ"})
    original.write_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read == original.to_dict()
    assert read["research_notice"] == RESEARCH_NOTICE
    assert read["result"]["spacing_mm"] == [0.4, 0.5, 3.0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", read["created"])


def test_json_holds_no_nan_and_no_numpy(tmp_path):
    metrics = dataclasses.replace(
        report().metrics,
        result=Sharpness(math.nan, -math.inf, 0),
        agreement=dataclasses.replace(AGREEMENT, psnr_db=math.inf),
    )
    settings = {"low": np.float64("nan"), "crop": np.arange(3), "flag": np.bool_(True), "deep": {"x": [math.inf]}}
    report(metrics=metrics, settings=settings).write_json(tmp_path / "report.json")

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert read["metrics"]["result"] == {"laplacian_variance": None, "fft": None, "n_slices": 0, "others": {}}
    assert read["metrics"]["agreement"]["psnr_db"] is None
    assert read["settings"] == {"low": None, "crop": [0, 1, 2], "flag": True, "deep": {"x": [None]}}


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda: report(factor=0), SettingsError, "factor is 0"),
        (lambda: report(research_notice="Fit for all use."), SettingsError, "research notice"),
        (lambda: report(settings={"hook": print}).to_dict(), SettingsError, "builtin_function"),
        (lambda: report().write_json("/dev/null/report.json"), OutputError, r"report\.json"),
        (lambda: panel(window=(5.0, 5.0)), SettingsError, "slice 2 has window"),
        (lambda: panel(spacing_mm=(0.0, 1.0)), SettingsError, "spacing"),
        (lambda: panel(source=np.zeros((3, 3))), SettingsError, "one 2D shape"),
        (lambda: panel(result=np.full((96, 128), np.nan)), SettingsError, "not finite"),
    ],
)
def test_errors_tell_the_value(call, error, word):
    with pytest.raises(error, match=word):
        call()


def test_page_needs_nothing_else():
    html = render_html(report(), [panel()])
    page = Page(html)
    assert not re.search(r"https?://|@import|@font-face|url\(", html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    assert all(value.startswith("data:") for value in page.values("src", "href", "srcset", "action"))
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


def test_page_escapes_every_text():
    hostile = "<script>alert('x')</script><img src=https://x.test/a.png>\"&"
    changes = {
        "case": hostile,
        "warnings": (hostile,),
        "settings": {hostile: hostile},
        "versions": {hostile: hostile},
        "definitions": {hostile: hostile},
        "degradation": DegradationSummary(hostile, hostile),
        "model": ModelSummary(hostile, hostile, hostile, 1, 1),
        "metrics": dataclasses.replace(report().metrics, agreement=dataclasses.replace(AGREEMENT, unit=hostile)),
        **dict.fromkeys(("status", "modality", "unit", "device", "created"), hostile),
    }
    page = Page(render_html(report(**changes), [panel()]))
    assert "script" not in {tag for tag, _ in page.tags}
    assert len(page.images()) == len(Page(render_html(report(), [panel()])).images())
    assert hostile in page.text


def test_page_says_what_matters_first():
    page = Page(render_html(report(), []))
    text = re.sub(r"\s+", " ", page.text).replace("\u2011", "-").replace("\u00d7", "x")
    order = [
        "case_01",
        RESEARCH_NOTICE,
        "1 warning to read before use",
        "Slices are 5 times as thick as wide.",
        "Each slice was made 2 times finer in-plane, from 0.80 x 1.00 mm to 0.40 x 0.50 mm.",
        "5 slices went from 64 x 48 to 128 x 96 pixels (columns by rows), 3.00 mm apart. "
        "The result covers the same place in the patient as the source.",
        "By both sharpness measures the result is sharper",
        "differs from the source by 0.420 HU on average (NRMSE 0.87 %)",
    ]
    places = [text.index(sentence) for sentence in order]
    assert places == sorted(places)
    for figure in ("240.5", "2.76", "\u221239.4", "+43.8", "41.2 dB", "12.5 HU", "\u22120.03 %", "1 min 15 s"):
        assert figure in text
    assert "17 of 61 440 (0.0277 %)" in text
    assert "ab" * 32 in text


def test_page_tells_when_the_result_lies_elsewhere():
    right = report().result
    # The classical mistake: the source's origin kept, so that all lies half a source voxel aside.
    moved = np.diag([0.4, 0.5, 3.0, 1.0])
    page = Page(render_html(report(result=dataclasses.replace(right, affine=moved)), []))
    assert "does NOT cover the same place" in page.text


def test_page_without_warnings_has_no_warning_box():
    assert "to read before use" not in render_html(report(warnings=()), [])


def test_page_words_what_is_missing_or_worse():
    none = Sharpness(None, None, 0)
    empty = MetricSummary(none, none, none, Agreement(None, None, None, None, None, ""))
    text = Page(render_html(report(metrics=empty, seed=None), [])).text
    assert "Sharpness could not be measured" in text
    assert "not measured" in text
    assert "nan" not in text.lower()

    low, high = Sharpness(1.0, -9.0, 5), Sharpness(2.0, -5.0, 5)
    equal = Agreement(None, 0.0, 0.0, 0.0, 0.0, "HU")
    text = Page(render_html(report(metrics=MetricSummary(low, high, low, equal)), [])).text
    assert "By neither sharpness measure" in text
    assert "exact" in text
    mixed = MetricSummary(low, high, Sharpness(3.0, -9.0, 5), equal)
    assert "measures disagree" in render_html(report(metrics=mixed), [])


def test_page_shows_every_panel_with_alternative_texts():
    page = Page(render_html(report(), [panel(k=0), panel(k=4)]))
    assert "Slice 1 of 5" in page.text
    assert "Slice 5 of 5" in page.text
    assert len(page.images()) == 2 * 10  # three slices, a difference, two details of each
    assert all(len(image["alt"]) > 10 for image in page.images())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {attrs["for"] for tag, attrs in page.tags if tag == "label"} <= set(ids)


def test_before_and_after_share_one_fixed_window():
    same = np.tile(np.linspace(-100, 100, 128), (96, 1))
    figures = draw_panel(panel(source=same, bicubic=same, result=same + 30))
    assert figures.slices["source"] == figures.slices["bicubic"]
    before, after = (np.asarray(pixels(figures.slices[name])).astype(int) for name in ("source", "result"))
    unclipped = (before > 0) & (after < 255)
    assert set((after - before)[unclipped]) <= {63, 64}  # 30 of 120 HU is a quarter of 255
    assert before[0, 0] == 0
    assert before[0, -1] == 255


def test_slices_keep_true_pixels_and_the_same_bytes():
    drawn = panel()
    figures, again = draw_panel(drawn), draw_panel(drawn)
    assert figures == again
    expected = np.clip(np.rint((drawn.result + 60) * 255 / 120), 0, 255)
    assert np.array_equal(np.asarray(pixels(figures.slices["result"])), expected)


@pytest.mark.parametrize(("spacing_mm", "ratio"), [((1.0, 1.0), 1), ((2.0, 1.0), 0.5), ((0.5, 0.7), 1.4)])
def test_aspect_ratio_follows_the_spacing(spacing_mm, ratio):
    drawn = panel(spacing_mm=spacing_mm)
    figures = draw_panel(drawn)
    width, height = figures.size_px
    assert width / height == pytest.approx(128 / 96 * ratio, rel=0.01)
    assert width >= 128  # stretched, never shrunk
    assert height >= 96
    for detail in figures.details:
        wide, high = detail.size_px
        assert wide / high == pytest.approx(ratio, rel=0.02)
        assert min(wide, high) >= 3 * 84
    shown = Page(render_html(report(), [drawn])).images()[0]
    assert (int(shown["width"]), int(shown["height"])) == (width, height)


def test_edges_are_found_where_they_are():
    image = np.zeros((300, 200))
    image[180:240, 90:150] = np.indices((60, 60)).sum(axis=0) // 3 % 2 * 100.0
    box = find_edges(image, 84)
    assert box.row <= 180
    assert box.row + box.rows >= 240
    assert box.column <= 90
    assert box.column + box.columns >= 150


def test_details_have_true_pixels_in_a_window_of_their_own():
    drawn = panel()
    figures = draw_panel(drawn)
    for detail, found in zip(drawn.details, figures.details, strict=True):
        box, (low, high) = detail.box, detail.window
        cut = drawn.result[box.row : box.row + box.rows, box.column : box.column + box.columns]
        expected = np.clip(np.rint((cut - low) * 255 / (high - low)), 0, 255)
        assert np.array_equal(np.asarray(pixels(found.images["result"])), expected)
    html = render_html(report(), [drawn])
    assert "Flat tissue" in html
    assert "window \u221230.0 to 30.0\u00a0HU" in html


@pytest.mark.parametrize("shape", [(1024, 1024), (2048, 700)])
def test_a_large_slice_is_reduced_and_hides_no_difference(shape):
    rows, columns = shape
    checked = np.indices(shape).sum(axis=0) % 2 * 60.0
    shown = panel(rows, columns, source=checked, bicubic=checked, result=checked.copy())
    shown.result[700, 400] += 50.0
    shown.result[200, 100] -= 50.0
    figures = draw_panel(shown)
    overview = pixels(figures.slices["source"])
    assert max(overview.size) == 540
    assert overview.size[0] / overview.size[1] == pytest.approx(columns / rows, rel=0.01)
    assert np.abs(np.asarray(overview).astype(int) - 191).mean() < 4  # the mean of 0 and 60 of -60 to 60
    place = [round(n * s / t) for n, s, t in zip((700, 400), overview.size[::-1], shape, strict=True)]
    colours = np.asarray(pixels(figures.difference).convert("RGB")).astype(int)
    up = colours[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2]
    assert (up == [0xFF, 0xC4, 0x8A]).all(axis=-1).any()
    assert (colours == [0x8F, 0xD0, 0xFF]).all(axis=-1).sum() == 1
    assert "Reduced to fit the page" in render_html(report(), [shown])


def test_a_page_of_large_noisy_slices_is_small():
    assert len(render_html(report(), [panel(2048, 2048, k=k) for k in range(3)])) < 3_000_000


FLAT = FlatTissue(12.0, 11.5, 12.6, 0.02, 0.01, 48)


@pytest.mark.parametrize(
    ("flat", "said"),
    [
        (FLAT, ()),
        (dataclasses.replace(FLAT, noise_result=24.0), ("2.00 times as noisy",)),
        (dataclasses.replace(FLAT, comb=0.3), ("regular pattern",)),
        (dataclasses.replace(FLAT, mesh=0.3, noise_result=24.0), ("2.00 times as noisy", "regular pattern")),
    ],
)
def test_noise_and_patterns_are_stated_and_warned_of(flat, said):
    assert len(flat.warnings) == len(said)
    assert all(word in warning for word, warning in zip(said, flat.warnings, strict=True))
    text = Page(render_html(report(metrics=dataclasses.replace(report().metrics, flat_tissue=flat)), [])).text
    assert f"noise was 12.0 and is {flat.noise_result:.1f}\u00a0HU" in text
    assert ("a regular pattern stands out" in text) == (flat.pattern > 0.12)


def test_difference_is_signed_and_zero_is_dark():
    bicubic = np.zeros((40, 40))
    result = bicubic.copy()
    result[:, :10], result[:, 30:] = -8.0, 8.0
    figures = draw_panel(panel(source=bicubic, bicubic=bicubic, result=result))
    assert figures.difference_limit == 8.0
    colours = np.asarray(pixels(figures.difference).convert("RGB"))
    assert colours[0, 0].tolist() == [0x8F, 0xD0, 0xFF]  # lower: blue
    assert colours[0, 20].tolist() == [0x0D, 0x0F, 0x12]
    assert colours[0, -1].tolist() == [0xFF, 0xC4, 0x8A]  # higher: orange


def test_equal_images_give_a_dark_difference():
    flat = np.full((40, 40), 5.0)
    figures = draw_panel(panel(source=flat, bicubic=flat, result=flat))
    assert figures.difference_limit > 0
    assert len(np.unique(np.asarray(pixels(figures.difference)))) == 1


def trust(**changes):
    error = ExpectedError(3.0, 9.0, 6.5, 21.0, 0.9, True, "Calibrated on 20 patients of <all> modalities.", 20.0, 0.875)
    strayed = Contradiction((2.0, 8.0, 4.0), 2.0, 6.0, (1,))
    return TrustSummary(**{"expected_error": error, "contradiction": strayed, "dial": 0.5, **changes})


def test_the_page_says_and_shows_where_it_guessed():
    error = np.linspace(0, 30, 96 * 128).reshape(96, 128)
    trusted = np.zeros((96, 128))
    trusted[:40, :50] = 1
    drawn = draw_panel(panel(expected_error=error, trusted=trusted))
    image = np.asarray(pixels(drawn.error))
    assert image.shape == (96, 128, 3)
    assert 29 < drawn.error_limit <= 30
    outline = (image == (110, 231, 160)).all(axis=2)
    expected = np.zeros_like(outline)
    expected[39, :50] = expected[:40, 49] = True
    assert (outline == expected).all()
    brightness = image.astype(float).sum(axis=2)[60:, 0]
    assert (np.diff(brightness) >= -1).all(), "the larger the error, the brighter"
    page = render_html(report(trust=trust()), [panel(expected_error=error, trusted=trusted)])
    for words in ("Where it guessed", "&lt;all&gt;", "87.5", "8.00", "of 3.", "by more than 20.0"):
        assert words in page
    assert page.count('<i style="height:') == 3
    assert page.count('class="alarm"') == 1
    assert re.search(r"<b style=.bottom:75(\.0)?%", page), "the alarm level is three quarters of the greatest"


def test_a_mask_promises_nothing_without_calibration():
    """And all of the body is said to be trusted only where it is."""
    known = trust().expected_error
    for changes, words, missing in (
        ({"is_calibrated": False}, "how many of them err by more is not known", "at most one in ten"),
        ({"share_trusted": 0.9996}, "above 99.9", "100.0\u00a0%"),
        ({"share_trusted": 1.0}, "100.0\u00a0%", "above 99.9"),
    ):
        page = render_html(report(trust=trust(expected_error=dataclasses.replace(known, **changes))), [panel()])
        where = page[page.index("Where it guessed") :]
        assert words in where
        assert missing not in where


def test_a_page_without_maps_shows_none():
    page = render_html(report(), [panel()])
    assert "Where it guessed" not in page
    alone = render_html(report(trust=trust(expected_error=None)), [panel()])
    assert "No expected error of each voxel was asked for" in alone
    assert "v-error" not in alone.partition("<body>")[2]


def report_of_new_slices(factor=1, thickness_mm=2.4, shift_mm=0.0, **changes):
    """Slices 3 mm apart, 2.4 mm thick, made 0.8 mm apart."""
    source = VolumeGeometry((64, 48, 5), np.diag([0.8, 1.0, 3.0, 1.0]))
    plan = SliceTarget(slice_spacing=0.8).plan(source, factor, thickness_mm)
    grid = plan.grid(factor)
    result = source.upsampled(grid)
    affine = result.affine.copy()
    affine[2, 3] += shift_mm
    return report(
        factor=factor,
        factors=grid.factors,
        slices=SliceSummary.of(plan),
        result=ResultSummary(result.shape, result.spacing_mm, affine, "DICOM", 18, 17, 23, 0.14, 61440),
        **changes,
    )


def test_page_says_where_new_slices_lie_and_what_was_assumed():
    metrics = dataclasses.replace(report().metrics, z_gradient=1.32)
    drawn = panel(title="Coronal plane, through the middle of the body")
    page = Page(render_html(report_of_new_slices(metrics=metrics), [drawn]))
    assert "The stack was made 3.75 times finer along its axis, from 3.00\u00a0mm to 0.80\u00a0mm apart." in page.text
    assert "18 slices 0.8 mm apart from 5 slices 3 mm apart, with gaps of 0.6 mm" in page.text
    assert "Assumed slice profile: box 2.4 mm wide" in page.text
    assert "5\u00a0slices became 18, 0.80\u00a0mm apart" in page.text
    assert "covers the same place" in page.text
    assert "Coronal plane, through the middle of the body" in page.text
    assert "gaps are black" in page.text
    assert "averaged along the stack by the assumed slice profile, against the source" in page.text
    assert "changes 1.32 times as much as bicubic" in page.text
    assert any("Thickness of slices" in row and "2.40" in row and "0.80" in row for row in page.rows)
    assert not re.search(r"Slice \d+ of|each pixel drawn as a block|in\u2011plane", page.text)
    assert all("Coronal plane" in image["alt"] for image in page.images())
    both = Page(render_html(report_of_new_slices(2), [])).text
    assert "and each slice was made 2 times finer in\u2011plane, from" in both
    assert "and made coarse again (area), against" in both


@pytest.mark.parametrize("thickness_mm", [2.4, 3.0, 4.0])
def test_new_slices_cover_the_place_from_the_outer_face_of_acquired_ones(thickness_mm):
    right = report_of_new_slices(thickness_mm=thickness_mm)
    assert "result covers the same place" in Page(render_html(right, [])).text
    moved = report_of_new_slices(thickness_mm=thickness_mm, shift_mm=0.3)
    assert "does NOT cover the same place" in Page(render_html(moved, [])).text


def test_json_has_places_profile_and_thickness_of_new_slices():
    found = report_of_new_slices().to_dict()
    assert found["factor"] == 1
    assert found["factors"] == [1, 1, pytest.approx(3.75)]
    slices = found["slices"]
    assert slices["places"] == {"number": 18, "first": pytest.approx(-0.8 / 3), "step": pytest.approx(0.8 / 3)}
    assert (slices["profile"], slices["thickness_mm"], slices["is_thickness_assumed"]) == ("box", 2.4, False)
    assert (slices["source_spacing_mm"], slices["spacing_mm"]) == (3.0, pytest.approx(0.8))
    assert report().to_dict()["slices"] is None


def test_what_was_not_acquired_is_black_in_the_source_alone():
    acquired = np.ones((96, 128))
    acquired[10:20], acquired[30:40] = 0.0, 0.5
    plain = draw_panel(panel())
    gaps = draw_panel(panel(acquired=acquired))
    before, after = (np.asarray(pixels(one.slices["source"])).astype(int) for one in (plain, gaps))
    assert (after[10:20] == 0).all()
    assert np.abs(after[30:40] - before[30:40] / 2).max() <= 0.5
    assert (after[50:] == before[50:]).all()
    assert gaps.slices["result"] == plain.slices["result"]
    detail = np.asarray(pixels(gaps.details[0].images["source"]))
    assert (detail[10:20] == 0).all()
    assert detail[50:].any()
    reduced = draw_panel(panel(2048, 1024, acquired=np.zeros((2048, 1024))))
    assert not np.asarray(pixels(reduced.slices["source"])).any()


def test_edges_are_found_in_a_rectangle():
    image = np.zeros((60, 80))
    image[40:50, 10:30:2] = 1.0
    box = find_edges(image, (12, 30))
    assert (box.rows, box.columns) == (12, 30)
    assert box.row <= 40
    assert box.row + 12 >= 50
    assert box.column <= 10
    assert box.column + 30 >= 30

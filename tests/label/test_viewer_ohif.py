"""Results beside their sources in OHIF: listed, linked, and drawn with the values of the files."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from odd_run import nearest_bundle
from ohif_site import has_ohif
from ohif_viewer import SIZE, OhifViewer, Viewport
from orthanc_server import OrthancServer
from PIL import Image
from places import SAMPLES
from pydicom import Dataset
from pydicom.uid import generate_uid
from scipy.ndimage import map_coordinates
from series_by_hand import read_images

from monai_ldmsr import super_resolve
from monai_ldmsr.pacs.sending import parse_destination

pytestmark = pytest.mark.viewer

DICOM_SAMPLES = SAMPLES / "dicom"
FOLDERS = {"MR": "mr_t1_sagittal", "CT": "ct_abdomen", "PT": "pet_fdg"}
N_SLICES = 3

#: cornerstone holds positions as 32-bit floats.
TOLERANCE_MM = 1e-4

#: Screenshots go here too, when it is set: ``LDMSR_SCREENSHOTS=docs make test-viewer``.
SCREENSHOTS = os.environ.get("LDMSR_SCREENSHOTS")

LEFT, MIDDLE, RIGHT = 0, 1, 2


@dataclass(frozen=True)
class Study:
    """Source and result as they were sent, by SOP Instance UID, ascending along the normal."""

    uid: str
    source: dict[str, Dataset]
    derived: dict[str, Dataset]

    def made_from(self, sop_uid: str) -> str:
        """Source image of a derived one."""
        return str(self.derived[sop_uid].SourceImageSequence[0].ReferencedSOPInstanceUID)


def make_study(modality: str, folder: Path, orthanc: OrthancServer) -> Study:
    """Super-resolve a few slices, MR by the shipped network and the others by a nearest neighbour; store both."""
    images = read_images(DICOM_SAMPLES / FOLDERS[modality])
    (folder / "in").mkdir(parents=True)
    first = (len(images) - N_SLICES) // 2
    chosen = [Path(shutil.copy(image.filename, folder / "in")) for image in images[first : first + N_SLICES]]
    bundle = "ldm_sr" if modality == "MR" else nearest_bundle(folder)
    assert super_resolve(folder / "in", folder / "out", bundle=bundle, device="cpu").exit_code == 0
    [result] = (path.parent for path in (folder / "out").glob("*/dicom"))
    orthanc.upload(*chosen)
    assert parse_destination(orthanc.dicomweb).deliver(result).complete
    by_uid = [{x.SOPInstanceUID: x for x in read_images(place)} for place in (folder / "in", result / "dicom")]
    return Study(images[0].StudyInstanceUID, *by_uid)


@pytest.fixture(scope="module")
def studies(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """A study of each modality, in Orthanc."""
    if not has_ohif():
        pytest.skip("no viewer, so no study is made for it")
    return {modality: make_study(modality, tmp_path_factory.mktemp(modality), orthanc) for modality in FOLDERS}


@pytest.fixture(params=FOLDERS)
def study(request: pytest.FixtureRequest, studies: dict[str, Study]) -> Study:
    return studies[request.param]


def pixel_centres_mm(image: Dataset, columns: npt.ArrayLike, rows: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N, 3), LPS, of pixels counted from 0, by PS3.3 C.7.6.2.1.1."""
    cosines = np.array(image.ImageOrientationPatient, float)
    row_mm, column_mm = (float(value) for value in image.PixelSpacing)
    along = np.multiply.outer(np.asarray(columns, float), cosines[:3] * column_mm)
    down = np.multiply.outer(np.asarray(rows, float), cosines[3:] * row_mm)
    return np.array(image.ImagePositionPatient, float) + along + down


def in_unit(image: Dataset) -> npt.NDArray[np.float64]:
    """Pixels (rows, columns) in the unit of the modality."""
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    return np.asarray(image.pixel_array * slope + intercept, float)


def shown_in_unit(viewer: OhifViewer, view: Viewport, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What the viewer holds at points, in the unit of the modality: of PET it makes SUV when it can."""
    values = viewer.values(view.name, points_mm)
    return values / (view.scaling or {}).get("suvbw", 1)


def test_the_derived_series_opens_beside_its_source(ohif: OhifViewer, study: Study) -> None:
    views = ohif.open(study.uid, 2)
    source, derived = views["source"], views["derived"]
    a_source, a_derived = study.source[source.sop_uid], study.derived[derived.sop_uid]
    assert ohif.listed_series() == [a_source.get("SeriesDescription", ""), a_derived.SeriesDescription]
    assert a_derived.SeriesDescription.startswith("SR x2 (research)")
    assert a_derived.SeriesDescription in ohif.written_in("derived")
    assert set(source.sop_uids) == set(study.source)
    assert [study.made_from(uid) for uid in derived.sop_uids] == source.sop_uids
    assert study.made_from(derived.sop_uid) == source.sop_uid

    assert source.frame_of_reference == derived.frame_of_reference == a_source.FrameOfReferenceUID
    assert source.shape == [a_source.Columns, a_source.Rows]
    assert derived.shape == [2 * a_source.Columns, 2 * a_source.Rows]
    row_mm, column_mm = (float(value) for value in a_source.PixelSpacing)
    assert source.spacing_mm == pytest.approx([column_mm, row_mm])
    assert derived.spacing_mm == pytest.approx([column_mm / 2, row_mm / 2])
    assert derived.direction == pytest.approx(source.direction, abs=1e-6)
    assert derived.origin_mm == pytest.approx(pixel_centres_mm(a_source, -0.25, -0.25), abs=TOLERANCE_MM)
    assert derived.centre_mm == pytest.approx(source.centre_mm, abs=0.6 * max(derived.spacing_mm))

    assert derived.window == source.window
    if "WindowWidth" in a_source:
        assert np.ptp(derived.window) == pytest.approx(float(a_source.WindowWidth), abs=1)
        assert np.mean(derived.window) == pytest.approx(float(a_source.WindowCenter), abs=1)
    assert ohif.errors() == []


def test_values_in_the_viewer_are_those_of_the_files(ohif: OhifViewer, study: Study) -> None:
    views = ohif.open(study.uid, 2)
    rng = np.random.default_rng(0)
    for view, images in ((views["source"], study.source), (views["derived"], study.derived)):
        image = images[view.sop_uid]
        columns, rows = rng.integers(0, image.Columns, 500), rng.integers(0, image.Rows, 500)
        found = shown_in_unit(ohif, view, pixel_centres_mm(image, columns, rows))
        np.testing.assert_allclose(found, in_unit(image)[rows, columns], rtol=1e-5, atol=1e-3)
        assert np.unique(found).size > 50


def test_four_derived_pixels_at_the_place_of_a_source_pixel_average_to_it(ohif: OhifViewer, study: Study) -> None:
    views = ohif.open(study.uid, 2)
    image, result = study.source[views["source"].sop_uid], study.derived[views["derived"].sop_uid]
    rng = np.random.default_rng(1)
    columns, rows = rng.integers(0, image.Columns, 300), rng.integers(0, image.Rows, 300)
    expected = shown_in_unit(ohif, views["source"], pixel_centres_mm(image, columns, rows))
    quarters = [
        shown_in_unit(ohif, views["derived"], pixel_centres_mm(image, columns + i, rows + j))
        for i in (-0.25, 0.25)
        for j in (-0.25, 0.25)
    ]
    # Values of the result are rounded to what the file can hold.
    step = float(result.get("RescaleSlope", 1))
    np.testing.assert_allclose(np.mean(quarters, axis=0), expected, atol=0.76 * step)


def test_the_picture_shows_the_file_where_the_viewer_says(ohif: OhifViewer, studies: dict[str, Study]) -> None:
    study = studies["MR"]
    views = ohif.open(study.uid, 2)
    pictures = {}
    for view, images in ((views["source"], study.source), (views["derived"], study.derived)):
        picture = ohif.canvas(view.name)
        expected = expected_picture(images[view.sop_uid], view, picture.shape)
        inside = expected > 0
        assert inside.mean() > 0.3
        assert np.abs(picture - expected)[inside].mean() < 2.5
        pictures[view.name] = picture
    # Both viewports are equally large but for a pixel, so the same place of the patient is at the same place.
    rows, columns = np.minimum(*(picture.shape for picture in pictures.values()))
    source, derived = (picture[:rows, :columns].ravel() for picture in pictures.values())
    assert np.corrcoef(source, derived)[0, 1] > 0.97


def expected_picture(image: Dataset, view: Viewport, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Grey values of a canvas (rows, columns), by linear interpolation and a linear window."""
    start, right, bottom = np.array(view.corners_mm)
    down, along = (np.arange(n) + 0.5 for n in shape)
    points = (
        start
        + np.multiply.outer(down / shape[0], bottom - start)[:, None]
        + np.multiply.outer(along / shape[1], right - start)[None]
    )
    origin, over, under = pixel_centres_mm(image, [0, 1, 0], [0, 0, 1])
    axes = np.stack([under - origin, over - origin])
    rows, columns = np.moveaxis((points - origin) @ axes.T / np.square(axes).sum(axis=1), -1, 0)
    values = map_coordinates(in_unit(image), [rows, columns], order=1, mode="constant", cval=0)
    lower, upper = view.window
    return np.clip((values - lower) / (upper - lower), 0, 1) * 255


def test_scrolling_zoom_position_and_window_are_linked(ohif: OhifViewer, studies: dict[str, Study]) -> None:
    study = studies["MR"]
    before = ohif.open(study.uid, 2)
    start = before["source"].index
    for name, notches in (("source", 1), ("derived", -2)):
        ohif.wheel(name, notches)
        start += notches
        views = ohif.wait_for(lambda found, to=start: {view.index for view in found.values()} == {to})
        assert study.made_from(views["derived"].sop_uid) == views["source"].sop_uid

    ohif.drag("source", LEFT, (60, 30))
    ohif.wait_for(lambda found: found["source"].window != before["source"].window)
    ohif.wait_for(lambda found: found["derived"].window == found["source"].window)

    ohif.drag("derived", RIGHT, (0, 60))
    ohif.wait_for(lambda found: found["derived"].zoom != before["derived"].zoom)
    ohif.wait_for(lambda found: found["source"].zoom == pytest.approx(found["derived"].zoom))

    ohif.drag("source", MIDDLE, (50, -40))
    moved_mm = np.linalg.norm(before["source"].centre_mm - ohif.wait_for(bool)["source"].centre_mm)
    assert moved_mm > 5
    ohif.wait_for(lambda found: distance_mm(found) < 0.6 * max(found["derived"].spacing_mm))


def distance_mm(views: dict[str, Viewport]) -> float:
    """Between the middles of the two viewports, in the patient."""
    return float(np.linalg.norm(views["source"].centre_mm - views["derived"].centre_mm))


def test_the_viewer_as_it_comes_can_link_the_two_by_hand(ohif: OhifViewer, studies: dict[str, Study]) -> None:
    study = studies["MR"]
    ohif.open(study.uid, 1, hangingProtocolId="default")
    ohif.press("Layout", "Layout-1-0")
    ohif.wait_for(lambda found: len(found) == 2)
    ohif.press("MoreTools-split-button-secondary", "ImageSliceSync")
    ohif.wheel("default", 2)
    views = ohif.wait_for(lambda found: {view.index for view in found.values()} == {2})
    source, derived = sorted(views.values(), key=lambda view: view.shape)
    assert study.made_from(derived.sop_uid) == source.sop_uid
    assert derived.window[1] > source.window[1], "each viewport takes its own"


def test_the_viewer_as_it_comes_shows_all_series_in_a_grid(ohif: OhifViewer, studies: dict[str, Study]) -> None:
    views = ohif.open(studies["MR"].uid, 2, hangingProtocolId="@ohif/mnGrid")
    shown = {frozenset(view.sop_uids) for view in views.values()}
    assert shown == {frozenset(studies["MR"].source), frozenset(studies["MR"].derived)}


def new_study(folder: Path) -> tuple[str, list[Path]]:
    """Write a few slices of the PET under new UIDs."""
    folder.mkdir()
    uid, series_uid = generate_uid(), generate_uid()
    images = read_images(DICOM_SAMPLES / FOLDERS["PT"])[:N_SLICES]
    for number, image in enumerate(images):
        image.StudyInstanceUID, image.SeriesInstanceUID = uid, series_uid
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.save_as(folder / f"{number}.dcm")
    return uid, sorted(folder.glob("*.dcm"))


def test_a_study_without_a_result_opens_as_ever(ohif: OhifViewer, orthanc: OrthancServer, tmp_path: Path) -> None:
    uid, paths = new_study(tmp_path / "in")
    orthanc.upload(*paths)
    (view,) = ohif.open(uid, 1).values()
    assert len(view.sop_uids) == N_SLICES
    assert ohif.errors() == []


def test_of_two_results_the_one_asked_for_is_shown(
    ohif: OhifViewer, orthanc: OrthancServer, tmp_path: Path, bundle: Path
) -> None:
    uid, paths = new_study(tmp_path / "in")
    columns = read_images(tmp_path / "in")[0].Columns
    orthanc.upload(*paths)
    for factor in (2, 3):
        out = tmp_path / str(factor)
        assert super_resolve(tmp_path / "in", out, factor=factor, bundle=bundle, device="cpu").exit_code == 0
        orthanc.upload(*out.glob("*/dicom/*.dcm"))
    series_uid = read_images(next((tmp_path / "3").glob("*/dicom")))[0].SeriesInstanceUID
    for query, factor in (({}, 2), ({"initialSeriesInstanceUID": series_uid}, 3)):
        views = ohif.open(uid, 2, **query)
        assert views["derived"].shape[0] == factor * columns
        assert views["source"].shape[0] == columns
    assert len(ohif.listed_series()) == 3


def test_a_study_is_opened_from_the_list(ohif: OhifViewer, studies: dict[str, Study]) -> None:
    views = ohif.open_from_list("SAMPLE, MR", 2)
    assert set(views["source"].sop_uids) == set(studies["MR"].source)
    assert set(views["derived"].sop_uids) == set(studies["MR"].derived)


def test_screenshots(ohif: OhifViewer, studies: dict[str, Study], tmp_path: Path) -> None:
    before = ohif.open(studies["MR"].uid, 2)
    ohif.drag("source", LEFT, (-240, -120))
    ohif.wait_for(lambda found: before["source"].window != found["source"].window == found["derived"].window)
    ohif.save_screenshot(tmp_path / "viewer_ohif.png")
    ohif.drag("source", RIGHT, (0, 110))
    ohif.wait_for(lambda found: 2 < found["source"].zoom == pytest.approx(found["derived"].zoom))
    ohif.save_screenshot(tmp_path / "viewer_ohif_zoomed.png")
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.size == SIZE
            assert len(picture.getcolors(SIZE[0] * SIZE[1]) or []) > 100
        assert path.stat().st_size < 300_000
        if SCREENSHOTS:
            shutil.copy(path, SCREENSHOTS)

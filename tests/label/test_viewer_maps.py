"""Maps, mask and measurements beside their series in OHIF: listed, and laid over what they belong to."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from ohif_site import has_ohif
from ohif_viewer import OhifViewer
from orthanc_server import OrthancServer
from PIL import Image
from places import SAMPLES
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from series_by_hand import read_images

from monai_ldmsr import super_resolve
from monai_ldmsr.pacs.sending import parse_destination

pytestmark = pytest.mark.viewer

SCREENSHOTS = os.environ.get("LDMSR_SCREENSHOTS")

#: How many segmentations the viewer has loaded, and how many things are drawn in its viewports.
_SEGMENTATIONS = "return cornerstoneTools.segmentation.state.getSegmentations().length"
_ACTORS = """
const viewports = cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports());
return Math.max(...viewports.map(viewport => viewport.getActors().length));
"""


@pytest.fixture(scope="module")
def result(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a result of three slices of MR by the shipped network; all of it is in Orthanc, with its source."""
    if not has_ohif():
        pytest.skip("no viewer, so no study is made for it")
    folder = tmp_path_factory.mktemp("maps")
    (folder / "in").mkdir()
    images = read_images(SAMPLES / "dicom" / "mr_t1_sagittal")[6:9]
    chosen = [Path(shutil.copy(image.filename, folder / "in")) for image in images]
    given = {"maps": "all", "tolerance": 8, "structured_report": True}
    assert super_resolve(folder / "in", folder / "out", device="cpu", **given).exit_code == 0
    (made,) = (path.parent for path in (folder / "out").glob("*/dicom"))
    orthanc.upload(*chosen)
    assert parse_destination(orthanc.dicomweb, with_maps=True).deliver(made).complete
    return made


def show(viewer: OhifViewer, words: str) -> None:
    """Lay an object over its series by a double click in the list."""
    found = f"//*[starts-with(@data-cy, 'study-browser-thumbnail')][contains(., '{words}')]"
    (item,) = viewer.driver.find_elements(By.XPATH, found)
    ActionChains(viewer.driver).double_click(item).perform()


def until(viewer: OhifViewer, script: str, least: int) -> None:
    deadline = time.monotonic() + 60
    while viewer.driver.execute_script(script) < least:
        assert time.monotonic() < deadline, viewer.errors()
        viewer.dismiss_messages()
        time.sleep(0.2)


def test_maps_mask_and_measurements_open_beside_the_series(ohif: OhifViewer, result: Path, tmp_path: Path) -> None:
    objects = {path.stem: pydicom.dcmread(path, stop_before_pixels=True) for path in (result / "maps").glob("*.dcm")}
    assert set(objects) == {"error", "trusted", "contradiction", "measurements"}
    ohif.open(objects["error"].StudyInstanceUID, 2)
    assert {one.SeriesDescription for one in objects.values()} <= set(ohif.listed_series())
    show(ohif, "Trusted")
    until(ohif, _SEGMENTATIONS, 1)
    time.sleep(2)  # it is drawn a moment later
    shot = (Path(SCREENSHOTS) if SCREENSHOTS else tmp_path) / "viewer_ohif_maps.png"
    ohif.save_screenshot(shot)
    with Image.open(shot) as picture:
        drawn = picture.convert("RGB")
        drawn.quantize(64).save(shot, optimize=True)  # small enough for a page
    red, green, blue = np.moveaxis(np.asarray(drawn, float), 2, 0)
    assert np.mean(green > 1.3 * np.maximum(np.maximum(red, blue), 40)) > 0.1, "the mask has its recommended colour"
    show(ohif, "Expected error")
    until(ohif, _ACTORS, 2)
    assert not [one for one in ohif.errors() if "arametric" in one]

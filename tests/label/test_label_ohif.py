"""OHIF as MONAI Label serves it, with its panel: super-resolution by a click in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from dicom_fixtures import make_series
from label_server import LabelServer
from ohif_site import HOW_TO_RUN, has_ohif
from ohif_viewer import WITHIN_S, OhifViewer
from orthanc_server import OrthancServer
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import element_to_be_clickable as clickable
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = [pytest.mark.label, pytest.mark.viewer]

SHAPE = (24, 20, 3)


@pytest.fixture
def panel(label_environment: None, orthanc: OrthancServer, tmp_path: Path) -> Iterator[tuple[LabelServer, OhifViewer]]:
    """A server on the module's Orthanc, and a browser."""
    if not has_ohif():
        pytest.skip(HOW_TO_RUN)
    server = LabelServer(tmp_path / "label", orthanc.dicomweb).start()
    viewer = OhifViewer(server.url)
    yield server, viewer
    viewer.close()
    server.stop()


def test_a_click_makes_a_series_beside_its_source(
    panel: tuple[LabelServer, OhifViewer], orthanc: OrthancServer, tmp_path: Path
) -> None:
    server, viewer = panel
    driver, wait = viewer.driver, WebDriverWait(viewer.driver, WITHIN_S)
    made = make_series(tmp_path / "source", "MR", SHAPE)
    orthanc.upload(*made.paths)
    source = pydicom.dcmread(made.paths[0])

    page = f"{server.url}/ohif/monai-label?StudyInstanceUIDs={source.StudyInstanceUID}"
    driver.get(page)
    address = wait.until(clickable((By.XPATH, "//input[contains(@value, '127.0.0.1')]")))
    for button in driver.find_elements(By.XPATH, "//button[contains(., 'Confirm and Hide')]"):
        button.click()
    address.send_keys(Keys.CONTROL, "a")
    address.send_keys(f"{server.url}/")
    address.find_element(By.XPATH, "./following::button[1]").click()  # connect
    wait.until(clickable((By.XPATH, "//label[contains(., 'Auto-Segmentation')]"))).click()
    wait.until(clickable((By.XPATH, "//button[normalize-space()='Run']"))).click()

    wait.until(lambda _: len(orthanc.request("/series")) == 2)
    found = [orthanc.request(f"/series/{one}")["MainDicomTags"] for one in orthanc.request("/series")]
    (result,) = {one["SeriesInstanceUID"] for one in found} - {source.SeriesInstanceUID}
    assert len(orthanc.instance_uids(result)) == SHAPE[2]

    driver.get(page)
    wait.until(clickable((By.XPATH, "//*[contains(text(), 'SR x2 (research)')]")))
    assert driver.find_elements(By.XPATH, f"//*[contains(text(), '{source.SeriesDescription}')]")

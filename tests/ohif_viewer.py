"""A real viewer for tests: OHIF as npm has it, behind nginx as in ``deploy/ohif``, in headless Chromium.

``make viewer`` installs all three; tests that ask for the fixture ``ohif`` skip without them. Both servers and the
browser's driver listen on loopback only, and the browser is told that no other host exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ohif_site import CHROMIUM, DRIVER, HOW_TO_RUN, OhifSite, has_ohif
from orthanc_server import OrthancServer
from PIL import Image, ImageOps
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By

WITHIN_S = 60.0
SIZE = (1400, 800)

#: No host but loopback, no sandbox (which root cannot have), and WebGL by the processor.
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)

#: A press sooner after a click is part of a double click.
_DOUBLE_CLICK_S = 0.5

#: What cornerstone, OHIF's library, knows of each viewport once its image is drawn.
_VIEWPORTS = """
const plain = values => Array.from(values);
return cornerstone.getRenderingEngines().flatMap(engine => engine.getViewports()).map(viewport => {
  const image = viewport.getCornerstoneImage();
  if (!image || viewport.viewportStatus !== 'rendered') return null;
  const { dimensions, spacing, origin, direction } = viewport.getImageData();
  const uid = imageId => cornerstone.metaData.get('sopCommonModule', imageId).sopInstanceUID;
  const { width, height } = viewport.getCanvas();
  return {
    name: viewport.id,
    sop_uid: uid(viewport.getCurrentImageId()),
    sop_uids: viewport.getImageIds().map(uid),
    frame_of_reference: viewport.getFrameOfReferenceUID(),
    shape: plain(dimensions).slice(0, 2),
    spacing_mm: plain(spacing).slice(0, 2),
    origin_mm: plain(origin),
    direction: plain(direction),
    window: [viewport.getProperties().voiRange.lower, viewport.getProperties().voiRange.upper],
    zoom: viewport.getZoom(),
    scaling: image.preScale?.scaled ? image.preScale.scalingParameters : null,
    corners_mm: [[0, 0], [width, 0], [0, height]].map(point => plain(viewport.canvasToWorld(point))),
  };
});
"""

#: Values that the viewer holds at points in mm (LPS), those of the pixel that each lies in.
_VALUES = """
const viewport = cornerstone.getRenderingEngines()[0].getViewport(arguments[0]);
const { imageData } = viewport.getImageData();
const pixels = viewport.getCornerstoneImage().getPixelData();
const [columns] = imageData.getDimensions();
return arguments[1].map(point => {
  const [i, j] = imageData.worldToIndex(point).map(Math.round);
  return pixels[j * columns + i];
});
"""

_CANVAS = """
const canvas = cornerstone.getRenderingEngines()[0].getViewport(arguments[0]).getCanvas();
const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
const grey = Array.from({ length: canvas.width * canvas.height }, (_, n) => data[4 * n]);
return [canvas.width, canvas.height, grey];
"""


@dataclass(frozen=True)
class Viewport:
    """What one viewport shows, as the viewer itself has it; lengths in mm, LPS; pixels as (column, row)."""

    name: str
    sop_uid: str
    sop_uids: list[str]
    frame_of_reference: str
    shape: list[int]
    spacing_mm: list[float]
    origin_mm: list[float]
    direction: list[float]
    window: list[float]
    zoom: float
    scaling: dict[str, Any] | None
    corners_mm: list[list[float]]

    @property
    def centre_mm(self) -> npt.NDArray[np.float64]:
        """Point of the patient in the middle of the viewport."""
        _, right, bottom = np.array(self.corners_mm)
        return np.asarray((right + bottom) / 2)

    @property
    def index(self) -> int:
        """Place of the image in the viewer's order, from 0."""
        return self.sop_uids.index(self.sop_uid)


class OhifViewer:
    """The viewer in a browser, moved by mouse as a person does, and asked for what it holds."""

    def __init__(self, url: str) -> None:
        self._url = url
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for option in _OPTIONS:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        screen = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    def open(self, study_uid: str, n_viewports: int, **query: str) -> dict[str, Viewport]:
        """Open a study, wait until ``n_viewports`` have drawn an image, and click the first-time messages away."""
        self.errors()
        words = "".join(f"&{key}={value}" for key, value in query.items())
        self.driver.get(f"{self._url}/viewer?StudyInstanceUIDs={study_uid}{words}")
        viewports = self.wait_for(lambda found: len(found) == n_viewports)
        self.dismiss_messages()
        return viewports

    def open_from_list(self, patient: str, n_viewports: int) -> dict[str, Viewport]:
        """Open a study by a double click into the list of studies."""
        self.driver.get(self._url)
        row = self._until(lambda: self.driver.find_elements(By.XPATH, f"//tbody/tr[contains(., '{patient}')]/td"))[0]
        self.dismiss_messages()
        ActionChains(self.driver).double_click(row).perform()
        return self.wait_for(lambda found: len(found) == n_viewports)

    def dismiss_messages(self) -> None:
        """Click away what the viewer says at its first start."""
        for text in ("Skip all", "Confirm and hide"):
            for button in self.driver.find_elements(By.XPATH, f"//button[normalize-space()='{text}']"):
                button.click()
                time.sleep(0.3)

    def listed_series(self) -> list[str]:
        """Descriptions of the series beside the viewports, top to bottom."""
        labels = self.driver.find_elements(By.CSS_SELECTOR, "[data-cy=series-description-label]")
        return [label.get_attribute("textContent") or "" for label in labels]

    def written_in(self, name: str) -> str:
        """Words drawn over the image of a viewport."""
        pane = self._element(name).find_element(By.XPATH, "./ancestor::*[@data-cy='viewport-pane']")
        return str(pane.text)

    def viewports(self) -> dict[str, Viewport] | None:
        """What each viewport shows; None while one of them has drawn nothing."""
        try:
            found = self.driver.execute_script(_VIEWPORTS)
        except WebDriverException:  # the page has only begun to load
            return None
        return {item["name"]: Viewport(**item) for item in found} if found and None not in found else None

    def wait_for(self, is_so: Callable[[dict[str, Viewport]], bool]) -> dict[str, Viewport]:
        """Wait for a state of the viewports, and return it."""
        return self._until(lambda: found if (found := self.viewports()) and is_so(found) else None)

    def values(self, name: str, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Values that a viewport holds at ``points_mm`` (N, 3), LPS."""
        return np.array(self.driver.execute_script(_VALUES, name, np.asarray(points_mm).tolist()), float)

    def canvas(self, name: str) -> npt.NDArray[np.float64]:
        """Grey values (rows, columns) that a viewport has drawn, 0 to 255."""
        width, height, grey = self.driver.execute_script(_CANVAS, name)
        return np.array(grey, float).reshape(height, width)

    def wheel(self, name: str, notches: int) -> None:
        """Turn the mouse wheel over a viewport; downwards is positive."""
        origin = ScrollOrigin.from_element(self._element(name))
        for _ in range(abs(notches)):
            ActionChains(self.driver).scroll_from_origin(origin, 0, 100 if notches > 0 else -100).perform()

    def drag(self, name: str, button: int, by: Sequence[int]) -> None:
        """Move the mouse over a viewport with a button held (0 left, 1 middle, 2 right) ``by`` (right, down) pixels."""
        self._activate(name)
        box = self._element(name).rect
        x, y = int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)
        actions = ActionBuilder(self.driver, duration=50)
        mouse = actions.pointer_action
        mouse.move_to_location(x, y)
        mouse.pointer_down(button)
        for step in range(1, 6):
            mouse.move_to_location(x + by[0] * step // 5, y + by[1] * step // 5)
        mouse.pointer_up(button)
        actions.perform()

    def press(self, *controls: str) -> None:
        """Click buttons one after the other, each as soon as it is there."""
        for control in controls:
            find = By.CSS_SELECTOR, f"[data-cy='{control}']"
            self._until(lambda find=find: self.driver.find_elements(*find))[0].click()

    def errors(self) -> list[str]:
        """Errors that the browser logged since last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def save_screenshot(self, path: Path) -> None:
        """Save what is seen, each colour in 64 steps, which a page of documentation does not show."""
        self.driver.save_screenshot(str(path))
        with Image.open(path) as picture:
            ImageOps.posterize(picture.convert("RGB"), 6).save(path, optimize=True)

    def _activate(self, name: str) -> None:
        """Click into a viewport that is not the active one: the first press does no more than that."""
        if self.driver.execute_script("return services.viewportGridService.getActiveViewportId()") != name:
            self._element(name).click()
            time.sleep(_DOUBLE_CLICK_S)

    def _element(self, name: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, f"[data-viewport-uid='{name}']")

    def _until(self, ask: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WITHIN_S
        while not (answer := ask()):
            if time.monotonic() > deadline:
                raise AssertionError(f"Not so within {WITHIN_S:.0f} s; the browser says {self.errors()}")
            time.sleep(0.1)
        return answer


@pytest.fixture(scope="module")
def ohif(orthanc: OrthancServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OhifViewer]:
    """The viewer on the module's Orthanc."""
    if not has_ohif():
        pytest.skip(HOW_TO_RUN)
    with OhifSite(tmp_path_factory.mktemp("nginx"), orthanc) as site:
        viewer = OhifViewer(site.url)
        try:
            yield viewer
        finally:
            viewer.close()

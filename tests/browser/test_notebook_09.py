"""Notebook 09 in JupyterLab in a browser: choosing, painting, saving. Opt-in: make browser-test.

It needs playwright and Chromium: that of the system, the one that the environment variable CHROMIUM
names, or playwright's own. Screenshots go to results/browser-test.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paperlib import paths
from paperlib.beyond import pretrained

if not os.environ.get("PAPERLIB_BROWSER_TEST"):
    pytest.skip("opt-in: make browser-test", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

SCREENSHOTS = paths.ROOT / "results" / "browser-test"
IDLE = "text=Python 3 (ipykernel) | Idle"
CANVAS = "canvas.paperlib-pixels"


def wait_until(condition, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def lab(results, tmp_path_factory):
    """The address of a JupyterLab that serves a copy of notebook 09."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(paths.NOTEBOOKS / "09_explore.ipynb", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={address[10:]}",
               "--IdentityProvider.token=test", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    environment = {"PAPERLIB_RESULTS": str(results), "PYTHONPATH": str(paths.ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", *options],
        env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://{address}/api?token=test"))
        except OSError:
            return False

    try:
        wait_until(answers, "JupyterLab did not start")
        yield f"http://{address}/lab/tree/09_explore.ipynb?token=test&reset"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def page(lab):
    """The notebook, all cells run."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        page = browser.new_page(viewport={"width": 1300, "height": 1100})
        page.goto(lab)
        page.wait_for_selector(IDLE, timeout=60_000)
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells")
        page.wait_for_selector(CANVAS, timeout=60_000)
        page.locator(CANVAS).scroll_into_view_if_needed()
        page.wait_for_selector(IDLE, timeout=60_000)
        yield page
        browser.close()


def choose(page, label: str, value: str) -> None:
    """Choose it from the list with this label, and wait for the answer."""
    before = picture(page)
    page.locator(".widget-dropdown", has_text=label).locator("select").select_option(value)
    wait_until(lambda: picture(page) != before, "no answer", 10)


def drag(page, start, end) -> None:
    """Press at a place, move, let go, and wait for the answer."""
    before = picture(page)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=10)
    page.mouse.up()
    wait_until(lambda: picture(page) != before, "no answer", 10)


def picture(page) -> str:
    """The source of the one image of the explorer: the answers."""
    return page.locator(".jp-OutputArea img.widget-image").get_attribute("src")


def test_it_opens_without_an_error_and_another_image_is_answered_and_saved(page, results):
    assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*='error']").count() == 0
    other = list(pretrained.images())[1]
    choose(page, "image", other)
    page.click("button:has-text('save picture')")
    wait_until(lambda: [*(results / "explorer").glob(f"{other}-*.png")], "nothing was saved", 10)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "open.png")


def test_a_stroke_hides_what_it_covers(page):
    choose(page, "corruption", "nothing missing")
    canvas = page.locator(CANVAS)
    box = canvas.bounding_box()
    pixel = box["width"] / 32
    row = box["y"] + 20.5 * pixel
    drag(page, (box["x"] + 5.5 * pixel, row), (box["x"] + 25.5 * pixel, row))
    shown = Image.open(io.BytesIO(canvas.screenshot())).convert("RGB").resize((32, 32), 0)
    grey = (abs(np.asarray(shown).astype(int) - 128) <= 1).all(axis=2)  # missing
    assert grey[18:23, 5:26].all() and not grey[:17].all(axis=1).any()

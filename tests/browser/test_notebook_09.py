"""Notebook 09 in JupyterLab in a browser: clicks, sliders, painting. Opt-in: make browser-test.

It needs playwright and Chromium: that of the system, the one that the environment variable CHROMIUM
names, or playwright's own. Screenshots go to results/browser-test.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from paperlib import paths
from paperlib.exploration import saved_choices

if not os.environ.get("PAPERLIB_BROWSER_TEST"):
    pytest.skip("opt-in: make browser-test", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

SCREENSHOTS = paths.ROOT / "results" / "browser-test"
NO_SUCH_SERVER = 60  # seconds until we give up


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def lab(results, tmp_path_factory):
    """The address of a JupyterLab that serves a copy of notebook 09."""
    folder, token = tmp_path_factory.mktemp("notebooks"), secrets.token_hex(8)
    shutil.copy(paths.NOTEBOOKS / "09_explore.ipynb", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}"),
            f"--ServerApp.root_dir={folder}",
        ],
        env=os.environ | {"PAPERLIB_RESULTS": str(results), "PYTHONPATH": str(paths.ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + NO_SUCH_SERVER
        while not _answers(f"http://127.0.0.1:{port}/api?token={token}"):
            assert server.poll() is None and time.monotonic() < deadline, "JupyterLab did not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/09_explore.ipynb?token={token}&reset"
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address)
    except OSError:
        return False
    return True


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
        page.wait_for_selector(".jp-Notebook", timeout=60_000)
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=60_000)
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells")
        page.wait_for_selector("canvas.paperlib-pixels", timeout=60_000)
        canvas(page).scroll_into_view_if_needed()
        page.wait_for_selector("text=Python 3 (ipykernel) | Idle", timeout=60_000)
        yield page
        browser.close()


def canvas(page):
    return page.locator("canvas.paperlib-pixels")


def dropdown(page, label: str):
    return page.locator(".widget-dropdown", has_text=label).locator("select")


def pictures(page) -> list[str]:
    """The sources of the images of the explorer: the complete one, then both answers."""
    return page.eval_on_selector_all(
        ".jp-OutputArea img.widget-image", "all => all.map(i => i.src)"
    )


def wait_for_other_pictures(page, before: list[str], places=(1, 2)) -> None:
    page.wait_for_function(
        """([before, places]) => {
            const now = [...document.querySelectorAll('.jp-OutputArea img.widget-image')];
            return places.every(k => now[k].src != before[k]);
        }""",
        arg=[before, list(places)],
        timeout=10_000,
    )


def saved(page, results: Path) -> dict:
    """Press the button; what was chosen, from the file that it wrote."""
    before = set((results / "explorer").glob("*.png"))
    page.click("button:has-text('save picture')")
    page.wait_for_selector("text=saved /", timeout=10_000)
    deadline = time.monotonic() + 10
    while not (new := set((results / "explorer").glob("*.png")) - before):
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.1)
    return saved_choices(new.pop())


def screenshot(page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_it_opens_without_an_error(page):
    screenshot(page, "1-open")
    assert len(pictures(page)) == 3
    assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
    assert page.locator(".jp-RenderedText[data-mime-type*='error']").count() == 0


def test_another_image_is_answered(page, results):
    before = pictures(page)
    dropdown(page, "image").select_option("Cornwall")
    wait_for_other_pictures(page, before, (0, 1, 2))
    assert saved(page, results)["image"] == "Cornwall"


def test_a_stroke_hides_what_it_covers(page, results):
    before = pictures(page)
    dropdown(page, "corruption").select_option("nothing missing")
    wait_for_other_pictures(page, before)
    assert sum(map(sum, saved(page, results)["mask"])) == 32 * 32
    before, box = pictures(page), canvas(page).bounding_box()
    pixel = box["width"] / 32
    page.mouse.move(box["x"] + 5.5 * pixel, box["y"] + 20.5 * pixel)
    page.mouse.down()
    page.mouse.move(box["x"] + 25.5 * pixel, box["y"] + 20.5 * pixel, steps=10)
    page.mouse.up()
    wait_for_other_pictures(page, before)
    screenshot(page, "2-painted")
    chosen = saved(page, results)
    rows = [row.count(0) for row in chosen["mask"]]
    assert [k for k, hidden in enumerate(rows) if hidden] == [19, 20, 21, 22]  # the brush has 4
    assert all(value == 0 for value in chosen["mask"][20][5:26])
    assert "painted" in chosen["corruption"]


def test_the_sliders_move_z(page, results):
    before = pictures(page)
    slider = page.locator(".widget-slider", has_text="z, direction 1").locator(".noUi-handle")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + box["height"] / 2, steps=10)
    page.mouse.up()
    wait_for_other_pictures(page, before)
    screenshot(page, "3-moved")
    first, second = saved(page, results)["z"]
    assert first > 0.5 and second == 0


def test_only_the_side_of_the_other_run_changes(page, results):
    before = pictures(page)
    runs = page.locator(".jp-OutputArea .widget-dropdown select")
    runs.nth(2).select_option("drop_pixel-both-seed0")
    wait_for_other_pictures(page, before, (1,))
    assert saved(page, results)["runs"] == ["drop_pixel-both-seed0"] * 2
    screenshot(page, "4-same-run-twice")


def test_new_samples(page):
    dropdown(page, "corruption").select_option("one_patch")
    time.sleep(1)
    before = pictures(page)
    page.click("button:has-text('new samples')")
    wait_for_other_pictures(page, before)
    screenshot(page, "5-one-patch")

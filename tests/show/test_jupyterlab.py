"""The query browser in JupyterLab, which Chromium opens and changes."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect, sync_playwright

import dagf
from dagf.console import HEADLESS
from dagf.files import write_json
from dagf.study.study import Study
from tests.fixtures import wait_for
from tests.reports.notebooks import KERNEL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = [pytest.mark.study, pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")]
WAIT = 240_000  # ms: a busy machine takes a minute to start a kernel
CELL = """from dagf.show import query_browser
from dagf.study.study import open_study

query_browser.start(open_study("toy.yaml"))"""


@pytest.fixture(scope="module")
def lab(toy: Study, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab with a notebook that starts the query browser."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(toy_root / "toy.yaml", folder)
    cells = [nbformat.v4.new_code_cell(CELL)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=KERNEL)
    nbformat.write(notebook, folder / "browser.ipynb")
    settings = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    write_json(folder / "settings" / settings, {"fetchNews": "false"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{kind}_DIR": kind for kind in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "IPYTHONDIR": "ipython"}
    own = {name: str(folder / place) for name, place in places.items()}
    own |= {"DAGF_ROOT": str(toy_root), "JUPYTER_TOKEN": "token"}
    own |= {"PYTHONPATH": str(Path(dagf.__file__).parents[1])}
    environment = {name: value for name, value in os.environ.items() if name != HEADLESS} | own
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() or "is running at" in (folder / "lab.log").read_text())
        yield f"http://127.0.0.1:{port}/lab/workspaces/own/tree/browser.ipynb?token=token"
    finally:
        server.terminate()  # it stops its kernels, too
        server.wait(60)


@pytest.fixture
def tab() -> Iterator[Page]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # for root
        page = opened.new_page(viewport={"width": 1500, "height": 1200})
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        yield page
        opened.close()


def test_controls_of_the_query_browser_change_what_is_shown(tab: Page, lab: str) -> None:
    tab.goto(lab)
    # Until then a menu closes again, and a kernel is asked for.
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    left, right = (tab.locator(".rankings figure").nth(side) for side in (0, 1))
    expect(left).to_contain_text("DAGF, trained")
    expect(right).to_contain_text("GeM, trained")
    expect(left.locator("img")).to_have_count(1 + 7)
    before, beside = (side.locator("img").first.get_attribute("src") for side in (left, right))

    tab.get_by_label("arm", exact=True).first.select_option("MAC, untrained")
    tab.get_by_label("windows", exact=True).first.select_option("max 3")
    tab.get_by_label("reranking", exact=True).first.select_option("AQE")
    expect(left).to_contain_text("MAC, untrained")
    expect(left).to_contain_text("windows: max 3; AQE by 10 neighbours")
    expect(left).to_contain_text(re.compile(r"AP \d+\.\d %"))
    expect(right.locator("img").first).to_have_attribute("src", beside)

    tab.get_by_label("query", exact=True).select_option(index=2)
    expect(right.locator("img").first).not_to_have_attribute("src", beside)
    expect(left.locator("img").first).not_to_have_attribute("src", before)
    tab.get_by_label("where it looks").check()
    expect(right.locator("img").first).to_have_attribute("alt", re.compile("under a heat map"))
    expect(tab.locator(".jp-OutputArea-output[data-mime-type*=error]")).to_have_count(0)

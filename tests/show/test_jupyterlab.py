"""The query browser in JupyterLab, which Chromium opens and changes."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill.parameterize
import pytest
from papermill.iorw import load_notebook_node
from playwright.sync_api import Locator, Page, expect, sync_playwright

import dagf
from dagf.console import HEADLESS
from dagf.files import write_json
from dagf.study.study import Study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = [pytest.mark.study, pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")]
WAIT = 240_000  # ms: a busy machine takes a minute to start a kernel
ROOT = Path(__file__).parents[2]
NAME = "03_attention_maps"


@pytest.fixture(scope="module")
def lab(toy: Study, toy_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab with the query browser of the notebook 03."""
    folder = tmp_path_factory.mktemp("lab")
    (work := folder / "work").mkdir()
    notebook = load_notebook_node(str(ROOT / "notebooks" / f"{NAME}.ipynb"))
    browser = ("study = open_study(", "query_browser.start(study")  # the rest takes minutes
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "parameters" in cell.metadata.tags or any(part in cell.source for part in browser)
    ]
    given = {"profile": str(toy_root / "toy.yaml")}
    notebook = papermill.parameterize.parameterize_notebook(notebook, given)
    nbformat.write(notebook, work / f"{NAME}.ipynb")
    settings = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    write_json(folder / "settings" / settings, {"fetchNews": "false"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"JUPYTERLAB_SETTINGS_DIR": "settings", "IPYTHONDIR": "ipython"}
    places |= {f"JUPYTER_{kind}_DIR": kind for kind in ("CONFIG", "DATA", "RUNTIME")}
    own = {name: str(folder / place) for name, place in places.items()}
    own |= {"DAGF_ROOT": str(toy_root), "JUPYTER_TOKEN": "token"}
    own |= {"PYTHONPATH": str(Path(dagf.__file__).parents[1])}
    environment = {name: value for name, value in os.environ.items() if name != HEADLESS} | own
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(WAIT // 1000):
                assert server.poll() is None, (folder / "lab.log").read_text()
                try:
                    urllib.request.urlopen(
                        f"http://127.0.0.1:{port}/api/status?token=token"
                    ).close()
                    break
                except OSError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/lab"
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
        expect(page.locator(".jp-OutputArea-output[data-mime-type*=error]")).to_have_count(0)
        opened.close()


def test_controls_of_the_query_browser_change_what_is_shown(tab: Page, lab: str) -> None:
    tab.goto(f"{lab}/workspaces/{NAME}/tree/{NAME}.ipynb?token=token")
    # Until then a menu closes again, and a kernel is asked for.
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    left, right = (tab.locator(".rankings figure").nth(side) for side in (0, 1))
    expect(left).to_contain_text("DAGF, trained")
    expect(right).to_contain_text("GeM, trained")
    expect(left.locator("img")).to_have_count(1 + 7)
    before, beside = pictures(left), pictures(right)

    tab.get_by_label("arm", exact=True).first.select_option("MAC, untrained")
    expect(left).to_contain_text("MAC, untrained")
    tab.get_by_label("windows", exact=True).first.select_option("max 3")
    tab.get_by_label("reranking", exact=True).first.select_option("AQE")
    expect(left).to_contain_text("windows: max 3; AQE by 10 neighbours")
    expect(left).to_contain_text(re.compile(r"AP \d+\.\d %"))
    assert pictures(right) == beside

    tab.get_by_label("query", exact=True).select_option(index=2)
    expect(right.locator("img").first).not_to_have_attribute("src", beside[0])
    expect(left.locator("img").first).not_to_have_attribute("src", before[0])
    tab.get_by_label("where it looks").check()
    expect(right.locator("img").first).to_have_attribute("alt", re.compile("under a heat map"))


def pictures(side: Locator) -> list[str]:
    """The addresses of the pictures that are shown: their content."""
    found: list[str] = side.locator("img").evaluate_all("all => all.map(one => one.src)")
    return found

"""The query browser where it is used: JupyterLab in Chromium, a notebook run by its menu, a control changed."""

import json
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
import pytest
from playwright.sync_api import Page, expect, sync_playwright

import dagf
from dagf.common import HEADLESS, write_json
from dagf.study.experiment import Study

pytestmark = pytest.mark.study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 240_000  # ms: a busy machine takes a minute to start a kernel
CELLS = (
    "from dagf.study import browser\nfrom dagf.study.opening import open_study",
    'study = open_study("{profile}")\nbrowser.browse(study, top=5)',
)


@pytest.fixture
def chromium() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    return found or pytest.skip(f"no Chromium here: none of {', '.join(BROWSERS)} is a command")


@pytest.fixture
def lab(toy: Study, toy_root: Path, tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of its own, with one notebook; the address of that notebook."""
    cells = [nbformat.v4.new_code_cell(cell.format(profile=toy_root / "toy.yaml")) for cell in CELLS]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    (tmp_path / "work").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "work" / "explore.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = tmp_path / "settings"
    write_json(settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings", {"fetchNews": "false"})
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(tmp_path / "ipython"), "DAGF_ROOT": str(toy_root), "JUPYTER_TOKEN": "token"}
    own |= {"PYTHONPATH": str(Path(dagf.__file__).parents[1]), "JUPYTERLAB_SETTINGS_DIR": str(settings)}
    environment = {name: value for name, value in os.environ.items() if name != HEADLESS} | own
    options = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (tmp_path / "lab.log").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, cwd=tmp_path / "work", env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token=token", server, tmp_path / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=token"
        finally:
            server.terminate()  # it stops its kernels, too
            server.wait(60)


def wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(WAIT // 1000):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                json.load(answer)
                return
        except OSError:
            time.sleep(1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture
def tab(chromium: str, lab: str) -> Iterator[Page]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # there is none for root
        page = opened.new_page(viewport={"width": 1500, "height": 1200})
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.goto(lab)
        yield page
        opened.close()


def test_controls_change_what_is_shown(tab: Page, tmp_path: Path) -> None:
    tab.get_by_text(
        "Python 3 (ipykernel) | Idle"
    ).wait_for()  # until then a menu closes again, and a kernel is asked for
    tab.get_by_role("menuitem", name="Run", exact=True).click()
    tab.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    left, right = (tab.locator(".answers figure").nth(side) for side in (0, 1))
    expect(left).to_contain_text("DAGF, trained")
    expect(right).to_contain_text("GeM, trained")
    expect(left.locator("img")).to_have_count(1 + 5)
    before, beside = pictures(left), pictures(right)
    tab.screenshot(path=tmp_path / "opened.png")

    tab.get_by_label("arm", exact=True).first.select_option("MAC, untrained")
    expect(left).to_contain_text("MAC, untrained")
    tab.get_by_label("windows", exact=True).first.select_option("max 3")
    tab.get_by_label("re-ranking", exact=True).first.select_option("AQE")
    expect(left).to_contain_text("windows: max 3; AQE by 10 neighbours")
    expect(left).to_contain_text(re.compile(r"AP \d+\.\d %"))
    assert pictures(right) == beside

    tab.get_by_label("query", exact=True).select_option(index=2)
    expect(right.locator("img").first).not_to_have_attribute("src", beside[0])
    expect(left.locator("img").first).not_to_have_attribute("src", before[0])
    tab.get_by_label("where it looks").check()
    expect(right.locator("img").first).to_have_attribute("alt", re.compile("under a heat map"))
    expect(tab.locator(".jp-OutputArea-output[data-mime-type*=error]")).to_have_count(0)
    tab.screenshot(path=tmp_path / "changed.png")


def pictures(side: object) -> list[str]:
    """The addresses of the pictures that are shown: their content."""
    return side.locator("img").evaluate_all("all => all.map(one => one.src)")  # type: ignore[attr-defined]

"""A real browser and a real JupyterLab for tests: Debian's chromium under Python Playwright.

Playwright's own browsers are never downloaded. Tests skip where there is no chromium or no
Playwright; JupyterLab runs with folders of its own and sees nothing of the user's settings.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
START_S = 60
RUN_S = 180
STOP_S = 10


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless browser; skips the test, with the reason, where there is none."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install playwright"
    )
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serve_lab(root: Path, private: Path) -> Iterator[str]:
    """JupyterLab on the notebooks in `root`, its own files in `private`; yields its address."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is missing: pip install jupyterlab")
    port = _free_port()
    log = private / "lab.log"
    private.mkdir(parents=True, exist_ok=True)
    _silence_news(private)
    with log.open("wb") as output:
        process = subprocess.Popen(
            _lab_command(root, private, port),
            env=_environment(private),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=root,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:  # it waits for a kernel that is still starting
                process.kill()
                process.wait()


def run_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook in JupyterLab, run every cell, and wait until all have run without error."""
    open_notebook(page, address, name)
    page.wait_for_function(f"({_KERNEL})() === 'idle'", timeout=START_S * 1000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"({_KERNEL})() === 'idle' && ({_CELLS})().every((cell) => cell.execution_count)",
        timeout=RUN_S * 1000,
    )
    cells = page.evaluate(f"({_CELLS})()")
    outputs = [output for cell in cells for output in cell["outputs"]]
    errors = [output for output in outputs if output["output_type"] == "error"]
    assert not errors, errors


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook in JupyterLab and wait until its cells are there.

    In a workspace of its own: another would bring back the notebook that a test before had open.
    """
    page.goto(f"{address}/lab/workspaces/{name.partition('.')[0]}/tree/{name}")
    page.wait_for_function(f"({_CELLS})()?.length > 0", timeout=START_S * 1000)


def watch_requests(page: Any) -> list[str]:
    """A list that fills with the addresses that the page asks for, web sockets among them."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    return asked


def off_machine(addresses: Iterable[str]) -> list[str]:
    """Those of the addresses that leave this machine."""
    return [url for url in addresses if urlsplit(url).hostname not in (None, "127.0.0.1")]


def wait_for_kernel(page: Any) -> None:
    """Wait until the open notebook's kernel is ready for a cell."""
    page.wait_for_function(f"({_KERNEL})() === 'idle'", timeout=START_S * 1000)


def run_cell(page: Any, number: int) -> dict[str, Any]:
    """Run the code cell of this number (from 0) of the open notebook; returns it with outputs.

    Raises AssertionError if the cell raises.
    """
    before = page.evaluate(f"({_CELLS})()[{number}].execution_count")
    page.evaluate(_SELECT, number)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    count = f"({_CELLS})()[{number}].execution_count"
    page.wait_for_function(
        f"{count} && {count} !== {before or 0} && ({_KERNEL})() === 'idle'", timeout=RUN_S * 1000
    )
    cell = page.evaluate(f"({_CELLS})()[{number}]")
    errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
    assert not errors, errors
    return cell


def type_cell(page: Any, number: int, source: str) -> None:
    """Replace what stands in a code cell, through its editor, as by pasting."""
    page.evaluate(_SELECT, number)
    editor = page.locator(".jp-Notebook .jp-Cell.jp-mod-active .cm-content")
    editor.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    page.wait_for_function(f"(source) => ({_CELLS})()[{number}].source === source", arg=source)


_PANEL = "window.jupyterapp?.shell.currentWidget"
_KERNEL = f"() => {_PANEL}?.sessionContext?.session?.kernel?.status"
_CELLS = (
    f"() => {_PANEL}?.content?.model?.sharedModel?.toJSON()"
    ".cells.filter((cell) => cell.cell_type === 'code')"
)
# JupyterLab draws only the cells in view: bring the one that is meant there.
_SELECT = f"""async (number) => {{
  const notebook = {_PANEL}.content;
  const codes = notebook.widgets.filter((cell) => cell.model.type === 'code');
  const index = notebook.widgets.indexOf(codes[number]);
  await notebook.scrollToItem(index, 'center');
  notebook.activeCellIndex = index;
}}"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _silence_news(private: Path) -> None:
    """JupyterLab asks on its first start whether it may fetch news, in front of the notebook."""
    folder = private / "settings/@jupyterlab/apputils-extension"
    folder.mkdir(parents=True, exist_ok=True)
    answer = {"fetchNews": "false", "checkForUpdates": False}
    (folder / "notification.jupyterlab-settings").write_text(json.dumps(answer))


def _lab_command(root: Path, private: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"),
        *("--IdentityProvider.token=", "--expose-app-in-browser"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        f"--LabApp.user_settings_dir={private / 'settings'}",
        f"--LabApp.workspaces_dir={private / 'workspaces'}",
    ]


def _environment(private: Path) -> dict[str, str]:
    """Our own folders; for kernels, which start in the notebook's folder, our packages.

    One thread: on a busy machine two that contend take longer than one.
    """
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(private / name.lower()) for name in folders}
    ours = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, **ours}


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{address}/api/status", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start in {START_S} s:\n{log.read_text()[-2000:]}")

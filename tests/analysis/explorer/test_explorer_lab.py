"""The explorer live in JupyterLab: keys reach it, Python reads it, its notebook shows a PNG."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import nbformat

from tests.browser import open_notebook, run_notebook, serve_lab

SETUP = """
import json
from pathlib import Path
from analysis import BiasExplorer
from posmlp import create_model

explorer = BiasExplorer(create_model("toy", layout="S+ST"))

def record(change):
    Path("selection.json").write_text(json.dumps(explorer.selection))

def answer(change):
    explorer.stage = 2

explorer.observe(answer, "group")
explorer.observe(record)
explorer
"""
WAIT_S = 30


def selection_where(path: Path, **expected: Any) -> dict[str, Any]:
    """What Python last wrote, as soon as it is as expected."""
    deadline = time.monotonic() + WAIT_S
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            found = json.loads(text)
            if expected.items() <= found.items():
                return found
        time.sleep(0.1)
    raise AssertionError(f"Python saw {found}, not {expected}")


def test_explorer_lives_in_jupyterlab_and_leaves_a_picture(browser: Any, tmp_path: Path) -> None:
    root = tmp_path / "notebooks"
    root.mkdir()
    cells = [nbformat.v4.new_code_cell(SETUP), nbformat.v4.new_code_cell("print('after')")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=kernel)
    nbformat.write(notebook, root / "explorer.ipynb")
    with serve_lab(root, tmp_path / "private") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        run_notebook(page, address, "explorer.ipynb")
        canvas = page.locator(".bias-explorer canvas.map")
        readout = page.locator(".bias-explorer output")
        canvas.focus()
        active = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
        before = page.evaluate(active)
        picture = canvas.evaluate("(canvas) => canvas.toDataURL()")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
        assert readout.inner_text().startswith("query y 1, x 1;")
        assert canvas.evaluate("(canvas) => canvas.toDataURL()") != picture
        assert page.evaluate(active) == before  # JupyterLab did not take the arrows
        selection_where(root / "selection.json", query=[0, 1, 1], group=0, branch="S")

        page.get_by_label("group", exact=True).select_option("1")
        selection_where(root / "selection.json", stage=2, group=1)  # `answer` moved it
        page.wait_for_function(
            "() => document.querySelector('.bias-explorer select').value === '2'",
            timeout=WAIT_S * 1000,
        )
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.close()
        # Another reader's JupyterLab does not trust the notebook, hence shows no stored widget.
        with serve_lab(root, tmp_path / "reader") as elsewhere:
            page = browser.new_page()
            open_notebook(page, elsewhere, "explorer.ipynb")
            image = page.locator(".jp-OutputArea img[src^='data:image/png']")
            image.wait_for(timeout=WAIT_S * 1000)
            assert page.locator(".bias-explorer").count() == 0

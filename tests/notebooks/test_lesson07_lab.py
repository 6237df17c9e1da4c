"""Lesson 07 in JupyterLab: a choice in the explorer changes its picture, and Python reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser import (
    off_machine,
    open_notebook,
    run_cell,
    serve_lab,
    type_cell,
    wait_for_kernel,
    watch_requests,
)
from tests.notebooks.lab import code_cells, number_of, pictures, printed, unrun_copy, verdict

STEM = "07_reading_biases"
WRONG = """
def odd_part(table):
    return (table + table[::-1]) / 2


nb07.odd_part(odd_part)
"""
RIGHT = WRONG.replace("+", "-")


def test_lesson_07_explorer_changes_and_is_read(browser: Any, tmp_path: Path) -> None:
    root = unrun_copy(tmp_path, STEM)
    code = code_cells(root, STEM)
    reading, exercise = number_of(code, "explorer.rows()"), number_of(code, "def odd_part")
    with serve_lab(root, tmp_path / "private") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        asked = watch_requests(page)
        open_notebook(page, address, f"{STEM}.ipynb")
        wait_for_kernel(page)
        cells = [run_cell(page, i) for i in range(reading + 1)]
        assert pictures(cells[number_of(code, "draw_temporal_bias(maps.query")])
        assert "'group': 0" in printed(cells[reading])

        run_cell(page, reading - 1)  # brings the explorer into view
        canvas = page.locator(".bias-explorer canvas")
        canvas.wait_for()
        before = canvas.evaluate("(canvas) => canvas.toDataURL()")
        page.get_by_label("stage", exact=True).select_option("4")
        page.get_by_label("group", exact=True).select_option("3")
        changed = "(before) => document.querySelector('.bias-explorer canvas')"
        page.wait_for_function(f"{changed}.toDataURL() !== before", arg=before)
        again = printed(run_cell(page, reading))
        assert "'stage': 4" in again
        assert "'group': 3" in again
        assert again != printed(cells[reading])

        type_cell(page, exercise, WRONG.strip())
        assert "it gives -0.5, expected 0.5" in verdict(run_cell(page, exercise))
        type_cell(page, exercise, RIGHT.strip())
        assert verdict(run_cell(page, exercise)) == "ok"
    assert asked
    assert off_machine(asked) == []

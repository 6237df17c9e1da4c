"""Lesson 10 in JupyterLab: a grid is trained, its table fills, its row stands among stored ones."""

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

STEM = "10_your_own_ablation"
WRONG = """
def conclusion(low, high, margin):
    return "better" if low + high > 0 else "worse"


nb10.conclusion(conclusion)
"""
RIGHT = """
def conclusion(low, high, margin):
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    return "equal" if max(-low, high) < margin else "cannot tell"


nb10.conclusion(conclusion)
"""


def test_lesson_10_trains_a_grid_with_a_live_table(browser: Any, tmp_path: Path) -> None:
    root = unrun_copy(tmp_path, STEM)
    code = code_cells(root, STEM)
    training, figure = (
        number_of(code, "ablations.run(grid, folder)"),
        number_of(code, "Your row (last)"),
    )
    exercise = number_of(code, "def conclusion")
    with serve_lab(root, tmp_path / "private") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        asked = watch_requests(page)
        open_notebook(page, address, f"{STEM}.ipynb")
        wait_for_kernel(page)
        for i in range(training):
            run_cell(page, i)
        cell = run_cell(page, training)
        assert printed(cell).startswith("4 trainings, 0 finished before")
        tables = [o for o in cell["outputs"] if "text/html" in o.get("data", {})]
        assert len(tables) == 1  # one table that was replaced, not one for each result
        rows = page.locator(".jp-OutputArea table tbody tr", has_text="gate_form=")
        rows.first.wait_for()
        assert rows.count() == 4
        assert all("done, test_top1" in text for text in rows.all_inner_texts())

        cells = [run_cell(page, i) for i in range(training + 1, figure + 1)]
        assert "trained anew: 0" in printed(cells[0])
        assert pictures(cells[-1])

        type_cell(page, exercise, WRONG.strip())
        assert "wide, around zero it gives 'better'" in verdict(run_cell(page, exercise))
        type_cell(page, exercise, RIGHT.strip())
        assert verdict(run_cell(page, exercise)) == "ok"
    assert asked
    assert off_machine(asked) == []

"""Lesson 01 as a student has it: in JupyterLab, cell by cell, answers typed into the page."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from lessons.solutions import nb01
from tests.browser import (
    off_machine,
    open_notebook,
    run_cell,
    serve_lab,
    type_cell,
    wait_for_kernel,
    watch_requests,
)
from tests.notebooks.lab import code_cells, number_of, pictures, unrun_copy, verdict

STEM = "01_video_model"
CHECK = "\n\n\nnb01.play_backwards(play_backwards)"
WRONG = "def play_backwards(clips):\n    return clips.flip(3)" + CHECK
RIGHT = inspect.getsource(nb01.play_backwards).strip().replace("Tensor", "torch.Tensor") + CHECK


def test_lesson_01_runs_in_jupyterlab_and_checks_answers(browser: Any, tmp_path: Path) -> None:
    root = unrun_copy(tmp_path, STEM)
    code = code_cells(root, STEM)
    exercise = number_of(code, "def play_backwards")
    with serve_lab(root, tmp_path / "private") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        asked = watch_requests(page)
        open_notebook(page, address, f"{STEM}.ipynb")
        wait_for_kernel(page)
        for i in range(exercise + 1):
            cell = run_cell(page, i)
        assert verdict(cell).startswith("not answered yet")
        strip = page.locator(".jp-OutputArea img[src^='data:image/jpeg']").first
        strip.wait_for()
        assert strip.bounding_box()["width"] > 300

        type_cell(page, exercise, WRONG)
        cell = run_cell(page, exercise)
        assert "at [0, 0, 0, 0, 0] it gives 30, expected 4" in verdict(cell)
        page.locator(".jp-OutputArea", has_text="it gives 30, expected 4").first.wait_for()
        assert pictures(cell)

        type_cell(page, exercise, RIGHT)
        assert verdict(run_cell(page, exercise)) == "ok"

        for i in range(exercise + 1, len(code)):
            run_cell(page, i)
    assert asked
    assert off_machine(asked) == []

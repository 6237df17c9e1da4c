"""Lessons as a student has them: in JupyterLab, cell by cell, answers typed into the page."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

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
from tests.notebooks.lab import (
    FEW_CLIPS,
    code_cells,
    number_of,
    pictures,
    printed,
    unrun_copy,
    verdict,
)

STEMS = ("01_video_model", "07_reading_biases", "10_your_own_ablation")
HIDDEN = """(number) => window.jupyterapp.shell.currentWidget.content.widgets
    .filter((cell) => cell.model.type === 'code')[number].outputHidden"""


@pytest.fixture(scope="module")
def lab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A function that opens a lesson as no one has run it; its page asks nothing off the machine.

    Lesson 10's trainings see few clips.
    """
    folder = tmp_path_factory.mktemp("lab")
    root = unrun_copy(folder, STEMS, lambda text: text.replace('"num_clips": 700', FEW_CLIPS))

    @contextmanager
    def opened(stem: str) -> Iterator[Any]:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        asked = watch_requests(page)
        open_notebook(page, address, f"{stem}.ipynb")
        wait_for_kernel(page)
        yield page
        page.close()
        assert asked
        assert off_machine(asked) == []

    with serve_lab(root, folder / "private") as address:
        yield opened


def test_lesson_01_unfolds_what_it_gives_and_checks_answers(lab: Any) -> None:
    code = code_cells(STEMS[0])
    exercise, clip = number_of(code, "def play_backwards"), number_of(code, "moving(")
    check = "\n\n\nnb01.play_backwards(play_backwards)"
    wrong = "def play_backwards(clips):\n    return clips.flip(3)" + check
    right = inspect.getsource(nb01.play_backwards).strip().replace("Tensor", "torch.Tensor") + check
    with lab(STEMS[0]) as page:
        cells = [run_cell(page, i) for i in range(clip)]
        assert page.evaluate(HIDDEN, clip)  # it follows a guess
        cells += [run_cell(page, i) for i in range(clip, exercise + 1)]
        assert not page.evaluate(HIDDEN, clip)
        assert pictures(cells[clip])
        assert verdict(cells[exercise]).startswith("not answered yet")
        strip = page.locator(".jp-OutputArea img[src^='data:image/jpeg']").first
        strip.wait_for()
        assert strip.bounding_box()["width"] > 300

        type_cell(page, exercise, wrong)
        cell = run_cell(page, exercise)
        assert "at [0, 0, 0, 0, 0] it gives 30, expected 4" in verdict(cell)
        page.locator(".jp-OutputArea", has_text="it gives 30, expected 4").first.wait_for()
        assert pictures(cell)
        type_cell(page, exercise, right)
        assert verdict(run_cell(page, exercise)) == "ok"


def test_lesson_07_explorer_changes_and_is_read(lab: Any) -> None:
    code = code_cells(STEMS[1])
    reading, exercise = number_of(code, "explorer.rows()"), number_of(code, "def odd_part")
    wrong = "def odd_part(b):\n    return (b + b[::-1]) / 2\n\n\nnb07.odd_part(odd_part)"
    with lab(STEMS[1]) as page:
        cells = [run_cell(page, i) for i in range(reading + 1)]
        assert pictures(cells[number_of(code, "draw_temporal_bias(maps.query")])
        assert "'group': 0" in printed(cells[reading])

        run_cell(page, reading - 1)  # brings the explorer into view
        canvas = page.locator(".bias-explorer canvas.map")
        canvas.wait_for()
        before = canvas.evaluate("(canvas) => canvas.toDataURL()")
        page.get_by_label("stage", exact=True).select_option("4")
        page.get_by_label("group", exact=True).select_option("3")
        changed = "(before) => document.querySelector('.bias-explorer canvas.map')"
        page.wait_for_function(f"{changed}.toDataURL() !== before", arg=before)
        for _ in range(10):  # a second choice leaves the page once the kernel has taken the first
            again = printed(run_cell(page, reading))
            if "'group': 3" in again:
                break
        assert "'stage': 4" in again
        assert "'group': 3" in again
        assert again != printed(cells[reading])

        type_cell(page, exercise, wrong)
        assert "it gives -0.5, expected 0.5" in verdict(run_cell(page, exercise))
        type_cell(page, exercise, wrong.replace("+", "-"))
        assert verdict(run_cell(page, exercise)) == "ok"


def test_lesson_10_trains_a_grid_with_a_live_table(lab: Any) -> None:
    code = code_cells(STEMS[2])
    training = number_of(code, "ablations.run(grid, folder)")
    figure = number_of(code, "Your row (last)")
    with lab(STEMS[2]) as page:
        for i in range(training):
            run_cell(page, i)
        cell = run_cell(page, training)
        assert printed(cell).startswith("4 trainings, 0 finished before")
        tables = [o for o in cell["outputs"] if "text/html" in o.get("data", {})]
        assert len(tables) == 1  # one table that was replaced, not one for each result
        rows = page.locator(".jp-OutputArea table tbody tr", has_text="gate=")
        rows.first.wait_for()
        assert rows.count() == 4
        assert all("done, " in text for text in rows.all_inner_texts())

        cells = [run_cell(page, i) for i in range(training + 1, figure + 1)]
        assert "trained anew: 0" in printed(cells[0])
        assert pictures(cells[-1])

"""The lessons keep the rhythm that a reader relies on, and their checks say what they see."""

from __future__ import annotations

import ast
import base64
import importlib
import itertools
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from lessons import make_notebooks
from lessons.checks.verdict import Case, first_difference, judge
from tests.notebooks.lab import pictures, stub
from tests.notebooks.test_answers import WRONG

SOURCES = make_notebooks.sources()
SQUARES = [Case(f"x = {x}", (x,), x * x) for x in (2, 3)]
lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


read = cache(make_notebooks.read)


def cells(source: Path, kind: str) -> list[Any]:
    return [cell for cell in read(source).cells if cell.cell_type == kind]


@cache
def stored_cells(source: Path) -> list[Any]:
    return nbformat.read(make_notebooks.target_of(source), as_version=4).cells


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def test_a_student_meets_the_lessons_and_nothing_else():
    """What stands behind them is one folder; no folder of it is too large to look through."""
    behind = make_notebooks.FOLDER
    met = {path.name for path in behind.parent.iterdir()} - {"__pycache__", ".ipynb_checkpoints"}
    lessons = {make_notebooks.target_of(path).name for path in SOURCES}
    assert met == lessons | {"README.md", behind.name}
    for folder in (behind, *(path for path in behind.iterdir() if path.is_dir())):
        assert len([*folder.glob("[!_]*.py")]) <= 14, folder


def test_lessons_are_numbered_without_gap():
    assert [path.name[:2] for path in SOURCES] == [f"{i:02d}" for i in range(1, len(SOURCES) + 1)]


@lesson
def test_lesson_has_short_cells_and_as_much_prose(source):
    code, prose = cells(source, "code"), cells(source, "markdown")
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    assert 20 <= len(code) + len(prose) <= 45
    assert len(prose) / (len(code) + len(prose)) > 0.4
    assert statistics.median(lines) <= 8
    assert max(lines[2:]) <= 13  # after the preflight and the imports


@lesson
def test_lesson_asks_before_it_shows_and_reads_after(source):
    prose = "\n".join(cell.source for cell in cells(source, "markdown"))
    assert prose.count("**Your guess") >= 4
    assert prose.count("**Reading.**") >= 4
    assert "**Question.**" in prose
    assert "## What to remember" in prose


@lesson
def test_lesson_ends_with_the_figure_to_remember(source):
    """Its section comes last, and no other figure stands between it and what to remember."""
    stored = stored_cells(source)
    heads = [
        (i, line)
        for i, cell in enumerate(stored)
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    (start, figure), (end, last) = heads[-2:]
    assert (figure, last) == ("## The figure to remember", "## What to remember")
    shown = [i for i, cell in enumerate(stored) if cell.cell_type == "code" and pictures(cell)]
    assert start < max(shown) < end
    assert "**Your guess:**" in stored[start].source.partition(figure)[2]


@lesson
def test_each_figure_stands_between_a_guess_and_its_reading(source):
    """Whatever is drawn (but for exercises) is read in the next words; a guess went before."""
    stored = stored_cells(source)
    for i, cell in enumerate(stored):
        if cell.cell_type == "code" and pictures(cell) and "exercise" not in tags(cell):
            after = next(c.source for c in stored[i:] if c.cell_type == "markdown")
            before = [c.source for c in stored[:i] if c.cell_type == "markdown"][-2:]
            assert "**Reading.**" in after, cell.source
            assert "guess" in "".join(before), cell.source


@lesson
def test_each_live_widget_has_a_static_twin_just_above(source):
    stored = stored_cells(source)
    code = [cell for cell in stored if cell.cell_type == "code"]
    for twin, cell in itertools.pairwise(code):
        if any(
            o.get("data", {}).get("text/plain") == make_notebooks.INTERACTIVE for o in cell.outputs
        ):
            assert pictures(twin), cell.source
            assert make_notebooks.WIDGET not in str(cell.outputs)


def test_lessons_hold_an_explorer_a_layout_builder_and_a_frame_scrubber():
    live = {
        path.name[:2]
        for path in SOURCES
        if make_notebooks.INTERACTIVE in make_notebooks.target_of(path).read_text()
    }
    assert live == {"03", "06", "07", "08"}


@lesson
def test_lesson_imports_in_one_cell_and_defines_only_in_exercises(source):
    preflight, imports, *others = cells(source, "code")
    assert preflight.source.startswith("from lessons import preflight\n\npreflight.check(")
    assert "import matplotlib.pyplot as plt" in imports.source
    for cell in others:
        found = [type(node) for node in ast.walk(ast.parse(cell.source))]
        assert not {ast.Import, ast.ImportFrom, ast.ClassDef} & set(found), cell.source
        assert "exercise" in tags(cell) or ast.FunctionDef not in found, cell.source


@lesson
def test_each_exercise_has_a_stub_a_hint_a_check_and_a_solution(source):
    exercises = [cell for cell in cells(source, "code") if "exercise" in tags(cell)]
    prose = "\n".join(cell.source for cell in cells(source, "markdown"))
    number = f"nb{source.name[:2]}"
    checks, solutions = (
        importlib.import_module(f"lessons.{x}.{number}") for x in ("checks", "solutions")
    )
    assert 2 <= len(exercises) <= 4
    assert prose.count("### Exercise") == prose.count("<details>") == len(exercises)
    for cell in exercises:
        name = next(n.name for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef))
        assert "raise NotImplementedError" in cell.source
        assert cell.source.rstrip().splitlines()[-1].startswith(f"{number}.{name}(")
        assert callable(getattr(checks, name))
        assert callable(getattr(solutions, name))


@lesson
def test_each_exercise_is_tested_on_two_wrong_answers(source):
    for cell in cells(source, "code"):
        if "exercise" in tags(cell):
            exercise = f"nb{source.name[:2]}.{ast.parse(cell.source).body[0].name}"
            assert len(WRONG[exercise]) >= 2


@lesson
def test_each_check_knows_the_stub_from_the_solution_and_draws_a_target(source):
    number = f"nb{source.name[:2]}"
    checks, solutions = (
        importlib.import_module(f"lessons.{x}.{number}") for x in ("checks", "solutions")
    )
    for cell in cells(source, "code"):
        if "exercise" in tags(cell):
            name = ast.parse(cell.source).body[0].name
            for answer, state in ((stub, "not answered yet"), (getattr(solutions, name), "ok")):
                assert getattr(checks, name)(answer).state == state, name
                drawn = plt.get_fignums() or "my_grid" in cell.source  # any good grid will do
                assert drawn, name
                plt.close("all")


@lesson
def test_what_answers_a_guess_and_the_imports_are_folded(source):
    """So that a guess can be made, in JupyterLab and in a page made of the notebook."""
    stored = stored_cells(source)
    folds = [cell.metadata.get("jupyter", {}) for cell in stored]
    guessed, answers = False, 0
    for cell, fold in zip(stored, folds, strict=True):
        if cell.cell_type == "markdown":
            guessed = "**Your guess" in cell.source.rpartition("**Reading.**")[2]
        else:
            assert bool(fold.get("outputs_hidden")) == bool(guessed and cell.outputs), cell.source
            answers += guessed and bool(cell.outputs)
    assert answers >= 4
    (imports,) = (i for i, fold in enumerate(folds) if fold.get("source_hidden"))
    lines = [line for line in stored[imports].source.splitlines() if line]
    assert "import matplotlib.pyplot as plt" in lines
    assert len([line for line in lines if line.startswith(("import ", "from "))]) <= 8
    assert len(lines) <= 9  # a lesson may set one name of its own


def test_a_page_of_a_lesson_folds_what_the_notebook_folds(tmp_path):
    target = make_notebooks.write_html(SOURCES[1], tmp_path)
    page = target.read_text()
    stored = stored_cells(SOURCES[1])
    hidden = [cell.metadata.get("jupyter", {}).get("outputs_hidden") for cell in stored]
    assert page.count("<details><summary>what it gives</summary>") == sum(map(bool, hidden))
    assert page.count("<details><summary>imports</summary>") == 1


def test_clips_move_in_four_lessons():
    """An animated PNG says how many pictures it holds."""
    moving = {
        path.name[:2]
        for path in SOURCES
        for cell in stored_cells(path)
        for output in cell.get("outputs", [])
        if b"acTL" in base64.b64decode(output.get("data", {}).get("image/png", ""))[:2000]
    }
    assert moving == {"01", "08", "11", "12"}


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (3, 3, ""),
        (torch.tensor(3.0, requires_grad=True), 3, ""),
        ([[1, 2], [3, 4]], torch.tensor([[1, 2], [3, 4]]), ""),
        (np.float32(0.1), 0.1, ""),
        ([[1, 2], [3, 5]], [[1, 2], [3, 4]], "at [1, 1] it gives 5, expected 4"),
        ([1, 2, 3], [1, 2], "the shape is (3,), it must be (2,)"),
        ("two", 2, "it returned 'two', which is not a number"),
        ([[1], [2, 3]], [[1], [2]], "it returned [[1], [2, 3]], which is not 2-dim"),
        ((("T",), ("S",)), (("T",), ("S",)), ""),
        ((("T", "S"),), (("T",), ("S",)), "it has 1 parts, expected 2"),
        ((("T",), ("ST",)), (("T",), ("S",)), "at [1][0] it gives 'ST', expected 'S'"),
        ("T", (("T",),), "it gives 'T', expected (('T',),)"),
    ],
)
def test_first_difference_names_the_place(answer, expected, words):
    found = first_difference(answer, expected)
    assert found.startswith(words) if words else found == ""


def test_answer_cannot_change_what_it_is_judged_by():
    def careless(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)

    x = torch.ones(3)
    case = Case("ones", (x,), torch.full((3,), 2.0))
    assert judge(careless, [case, case]).ok
    assert x.eq(1).all()


def test_picture_shows_one_worked_case_then_all_with_yours_under_them():
    def unanswered(x: int) -> int:
        raise NotImplementedError

    judge(unanswered, SQUARES)
    (target,) = plt.gcf().axes
    assert target.get_title(loc="left") == "target"
    assert [text.get_text() for text in target.texts] == ["4"]
    judge(lambda x: 4, SQUARES)
    above, below = plt.gcf().axes
    assert [text.get_text() for text in above.texts] == ["4", "9"]
    assert [text.get_text() for text in below.texts] == ["4", "4"]
    (frame,) = (patch for patch in below.patches if isinstance(patch, Rectangle))
    assert frame.get_xy() == (0.5, -0.5)  # around the second case


def test_case_after_a_wrong_one_is_drawn_as_unknown():
    judge(lambda x: 0, SQUARES)
    assert [text.get_text() for text in plt.gcf().axes[1].texts] == ["0", "?"]

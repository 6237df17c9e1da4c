"""The lessons' sources keep the rhythm that a reader relies on."""

from __future__ import annotations

import ast
import importlib
import statistics
from pathlib import Path
from typing import Any

import pytest

import make_notebooks

SOURCES = make_notebooks.sources()
lesson = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def cells(source: Path, kind: str) -> list[Any]:
    return [cell for cell in make_notebooks.read(source).cells if cell.cell_type == kind]


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def test_lessons_are_numbered_without_gap():
    assert [path.name[:2] for path in SOURCES] == [f"{i:02d}" for i in range(1, len(SOURCES) + 1)]


@lesson
def test_lesson_has_short_cells_and_as_much_prose(source):
    code, prose = cells(source, "code"), cells(source, "markdown")
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code]
    assert 20 <= len(code) + len(prose) <= 45
    assert len(prose) / (len(code) + len(prose)) > 0.4
    assert statistics.median(lines) <= 8
    assert max(lines) <= 24


@lesson
def test_lesson_asks_before_it_shows_and_reads_after(source):
    prose = "\n".join(cell.source for cell in cells(source, "markdown"))
    assert prose.count("**Your guess") >= 4
    assert prose.count("**Reading.**") >= 4
    assert "**Question.**" in prose
    assert "## What to remember" in prose


@lesson
def test_lesson_imports_in_one_cell_and_defines_only_in_exercises(source):
    preflight, imports, *others = cells(source, "code")
    assert preflight.source.startswith("import preflight\n\npreflight.check(")
    assert "from analysis.style import STYLE" in imports.source
    for cell in others:
        found = [type(node) for node in ast.walk(ast.parse(cell.source))]
        assert not {ast.Import, ast.ImportFrom, ast.ClassDef} & set(found), cell.source
        assert "exercise" in tags(cell) or ast.FunctionDef not in found, cell.source


@lesson
def test_each_exercise_has_a_stub_a_hint_a_check_and_a_solution(source):
    exercises = [cell for cell in cells(source, "code") if "exercise" in tags(cell)]
    prose = "\n".join(cell.source for cell in cells(source, "markdown"))
    number = f"nb{source.name[:2]}"
    checks, solutions = (importlib.import_module(f"{x}.{number}") for x in ("checks", "solutions"))
    assert 2 <= len(exercises) <= 4
    assert prose.count("### Exercise") == prose.count("<details>") == len(exercises)
    for cell in exercises:
        name = next(n.name for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef))
        assert "raise NotImplementedError" in cell.source
        assert cell.source.rstrip().splitlines()[-1].startswith(f"{number}.{name}(")
        assert callable(getattr(checks, name))
        assert callable(getattr(solutions, name))

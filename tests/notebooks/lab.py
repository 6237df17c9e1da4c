"""What the tests of lessons share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lessons import make_notebooks

FEW_CLIPS = '"num_clips": 64, "num_val_clips": 28, "num_test_clips": 56'


def unrun_copy(folder: Path, stems: Iterable[str], changed: Callable[[str], str] = str) -> Path:
    """The notebooks' folder with some lessons as they are before anyone has run them.

    `changed`: of each cell's source.
    """
    root = folder / "notebooks"
    shutil.copytree(make_notebooks.FOLDER.parent, root)
    for stem in stems:
        lesson = make_notebooks.read(root / "lessons/src" / f"{stem}.py")
        for cell in lesson.cells:
            cell.source = changed(cell.source)
        nbformat.write(lesson, root / f"{stem}.ipynb")
    return root


def code_cells(stem: str) -> list[NotebookNode]:
    """The lesson's code cells in order."""
    lesson = make_notebooks.read(make_notebooks.FOLDER / "src" / f"{stem}.py")
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def number_of(code: list[NotebookNode], text: str) -> int:
    """The number (from 0) of the first code cell that holds `text`."""
    return next(i for i, cell in enumerate(code) if text in cell.source)


def pictures(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a cell that are pictures."""
    return [o for o in cell["outputs"] if {"image/png", "image/jpeg"} & set(o.get("data", {}))]


def printed(cell: dict[str, Any]) -> str:
    """What a cell has printed."""
    return "".join(o["text"] for o in cell["outputs"] if o["output_type"] == "stream")


def verdict(cell: dict[str, Any]) -> str:
    """What an exercise's check says."""
    results = [o for o in cell["outputs"] if o["output_type"] == "execute_result"]
    return results[0]["data"]["text/plain"]


def stub(*arguments: Any) -> Any:
    """An exercise as it stands in the lesson, not answered."""
    raise NotImplementedError

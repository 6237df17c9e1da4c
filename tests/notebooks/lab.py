"""What the tests of lessons share."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lessons import make_notebooks


def unrun_copy(folder: Path, stem: str) -> Path:
    """The notebooks' folder with one lesson as it is before anyone has run it."""
    root = folder / "notebooks"
    shutil.copytree(make_notebooks.FOLDER.parent, root)
    nbformat.write(make_notebooks.read(source_of(root, stem)), root / f"{stem}.ipynb")
    return root


def source_of(root: Path, stem: str) -> Path:
    """The lesson's percent source."""
    return root / "lessons/src" / f"{stem}.py"


def code_cells(root: Path, stem: str) -> list[NotebookNode]:
    """The lesson's code cells in order."""
    lesson = make_notebooks.read(source_of(root, stem))
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
